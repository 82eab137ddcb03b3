"""Finished numbers of the compared models -> figures."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradcam_gan.models.options import MODELS
from gradcam_gan.studies.diffusion_gans.rules import EQUAL
from gradcam_gan.studies.diffusion_gans.tables import METRICS, THRESHOLDS, collapses, paired
from gradcam_gan.studies.style import PAGE, STYLE, intervals, legend_above, network_ticks, seed_lines

CONTRAST_LABELS = {
    "loss_contrast": "SupCon, real",
    "loss_classes": "cross-entropy, real",
    "generator_contrast": "SupCon, generated",
}


def score_chart(networks: pd.DataFrame) -> Figure:
    """The scores of each model (``network_scores``): a tick a network, a mark the mean; collapses are counted."""
    models = list(dict.fromkeys(networks["model"]))
    names = [f"{model}\n{collapses(networks, model)} collapsed" for model in models]
    with plt.rc_context(STYLE):
        figure, panels = _metric_panels(names, 0.3 * len(models) + 0.7)
        for axes, metric in zip(panels, METRICS, strict=True):
            for place, model in enumerate(models):
                values = networks.loc[networks["model"] == model, metric].dropna()
                if len(values):
                    network_ticks(axes, values, place)
                    axes.plot(values.mean(), place, "o", color=_colour(model), ms=4)
                elif metric == "class_accuracy":
                    cell = ("axes fraction", "data")
                    axes.annotate("unconditional", (0.02, place), xycoords=cell, size=6, va="center")
            if metric != "log_fid":
                axes.set_xlim(left=0)
    return figure


def difference_chart(
    compared: pd.DataFrame, networks: pd.DataFrame, metrics: Mapping[str, str] = METRICS
) -> Figure:
    """Models minus the one they are compared with: a tick a network, a mark the mean, its interval, the spread.

    Grey is where log FID counts as equal.

    Args:
        compared: rows of ``compare_models``.
        networks: rows of ``network_scores``.
        metrics: the panels' labels, by column.
    """
    pairs = list(dict.fromkeys(zip(compared["model"], compared["to"], strict=True)))
    with plt.rc_context(STYLE):
        names = [f"{model}\n− {to}" for model, to in pairs]
        figure, panels = _metric_panels(names, 0.34 * len(pairs) + 0.7, metrics)
        panels[0].axvspan(-EQUAL, EQUAL, color="0.9", lw=0)
        for axes, metric in zip(panels, metrics, strict=True):
            axes.axvline(0, color="0.4", lw=0.8)
            axes.set_xlabel(f"Δ {metrics[metric]}")
            for place, (model, to) in enumerate(pairs):
                rows = compared[compared["metric"] == metric]
                row = rows[(rows["model"] == model) & (rows["to"] == to)]
                if len(row):
                    network_ticks(axes, pd.Series(paired(networks, model, to, metric)), place)
                    intervals(axes, row, [place], fmt="o", color=_colour(model))
                    spread, cell = row["sd"].iloc[0], ("axes fraction", "data")
                    if not math.isnan(spread):
                        text = f"sd {spread:.2g}"
                        axes.annotate(
                            text, (0.99, place - 0.3), xycoords=cell, size=5, ha="right", va="center"
                        )
    return figure


def _metric_panels(
    names: Sequence[str], height: float, metrics: Mapping[str, str] = METRICS
) -> tuple[Figure, Sequence[Axes]]:
    """Empty axes, one a metric, that share rows of these names, the first at the top."""
    figure, panels = plt.subplots(1, len(metrics), figsize=(PAGE, height), sharey=True)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    for axes, label in zip(panels, metrics.values(), strict=True):
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlabel(label)
    return figure, panels


def _colour(model: str) -> str:
    """The same in every chart; a guided model has that of the model."""
    return f"C{list(MODELS).index(model.split()[0])}"


def progress_chart(scores: pd.DataFrame) -> Figure:
    """Log FID, recall and class accuracy by the images seen; thin lines single networks, dotted the FIDs to reach."""
    trained = scores[scores["epoch"] > 0]
    trained = trained.assign(thousands=trained["images"] / 1000, log_fid=np.log(trained["fid"]))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(PAGE, 2.4))
        for axes, metric in zip(panels, ("log_fid", "recall", "class_accuracy"), strict=True):
            for model, rows in _by_model(trained).items():
                _seed_curve(axes, rows, metric, _colour(model), model, "thousands")
            axes.set(xlabel="images seen (thousands)", ylabel=METRICS[metric])
        for threshold in THRESHOLDS:
            panels[0].axhline(math.log(threshold), color="0.5", lw=0.6, ls=":")
        legend_above(figure, panels[0], 3)
    return figure


def model_curves(histories: pd.DataFrame) -> Figure:
    """Losses of D and G, D's outputs, its overconfidence, the horizons and the classifier's losses.

    Args:
        histories: from ``train_dcgan.histories``, with columns ``model`` and ``seed``.
    """
    histories = histories.assign(gap=histories["d_real"] - histories["d_fake"])
    panels = {
        "loss_discriminator": "D's loss (nats)",
        "loss_generator": "G's loss (nats)",
        "gap": "D(x) − D(G(z))",
        "overconfidence": "$r_d$, mean sign of D's\nlogit on real images",
        "discriminator_horizon": "horizon T of D (C grey)",
    }
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, 3, figsize=(PAGE, 3.7), sharex=True)
        *by_model, contrast = grid.flat
        for model, rows in _by_model(histories).items():
            for axes, (column, label) in zip(by_model, panels.items(), strict=True):
                _seed_curve(axes, rows, column, _colour(model), model)
                axes.set_ylabel(label)
            _seed_curve(by_model[-1], rows, "classifier_horizon", "0.4", f"C, {model}")
            for j, (column, label) in enumerate(CONTRAST_LABELS.items()):
                _seed_curve(contrast, rows, column, f"C{j}", label)
        contrast.set_ylabel("C's loss terms (nats)")
        if contrast.lines:
            contrast.legend(frameon=False, fontsize=5)
        for axes in grid[1]:
            axes.set_xlabel("epoch")
        legend_above(figure, by_model[0], 3)
    return figure


def _by_model(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each model in the order of the table, without the variants."""
    groups = table.groupby("model", sort=False)
    return {str(model): rows for model, rows in groups if not MODELS[str(model)].variant}


def _seed_curve(
    axes: Axes, rows: pd.DataFrame, column: str, colour: str, label: str, x: str = "epoch"
) -> None:
    """Lines over the epochs, if these rows have such numbers."""
    if column in rows and rows[column].notna().any():
        seed_lines(axes, rows.pivot_table(column, x, "seed"), colour, label)

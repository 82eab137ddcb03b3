"""Drawing only, as in ``plots``: the compared models, and what the class does to DuDGAN's maps."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from torch import Tensor

from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.studies.model_comparison import METRICS, THRESHOLDS, is_ablation
from gradcam_gan.studies.style import METRIC_NAMES, PAGE, STYLE, as_rgb, picture_grid, seed_lines

NAMES = {**METRIC_NAMES, "class_accuracy": "class accuracy"}
MEASURE_NAMES = {
    "focus_lift": "focus lift",
    "coverage": "coverage (τ 0.5)",
    "border_lift": "border lift",
}
# beyond these a scale turns logarithmic, so that a network that fails does not hide the others
UNBOUNDED = {"fid": 10.0, "kid": 1.0}
CONTRAST_NAMES = {
    "loss_contrast": "SupCon, real",
    "loss_classes": "cross-entropy, real",
    "generator_contrast": "SupCon, generated",
}


def model_curves(histories: pd.DataFrame, target: float | None) -> Figure:
    """Each model's losses, then D's outputs, overconfidence, horizons and the classifier's losses.

    Args:
        histories: rows of ``Run.history`` of all models and seeds, with columns ``model`` and ``seed``.
        target: of the overconfidence, above which a horizon grows; None leaves it out.
    """
    models = [model for model in dict.fromkeys(histories["model"]) if not is_ablation(model)]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, 4, figsize=(PAGE, 3.5), sharex=True)
        for axes, model in zip(grid[0], models, strict=False):
            for i, (column, name) in enumerate({"loss_discriminator": "D", "loss_generator": "G"}.items()):
                _curve(axes, histories[histories["model"] == model], column, f"C{i}", name)
            axes.set_title(model)
        grid[0, 0].set_ylabel("loss (nats)")
        highest = max(axes.get_ylim()[1] for axes in grid[0][: len(models)])
        for axes in grid[0][: len(models)]:
            axes.set_ylim(0, highest)
        grid[0, 0].legend(frameon=False)
        for axes in grid[0][len(models) :]:
            axes.set_axis_off()
        probability, overconfidence, horizon, contrast = grid[1]
        for i, model in enumerate(models):
            rows = histories[histories["model"] == model]
            _curve(probability, rows.assign(gap=rows["d_real"] - rows["d_fake"]), "gap", f"C{i}", model)
            _curve(overconfidence, rows, "overconfidence", f"C{i}", model)
            _curve(horizon, rows, "discriminator_horizon", f"C{i}", f"D, {model}")
            _curve(horizon, rows, "classifier_horizon", "0.4", f"C, {model}")
            for j, (column, name) in enumerate(CONTRAST_NAMES.items()):
                _curve(contrast, rows, column, f"C{j + 4}", name)
        probability.set_ylabel("D(x) − D(G(z))")
        overconfidence.set_ylabel("$r_d$, mean sign of D's\nlogit on real images")
        if target is not None:
            overconfidence.axhline(target, color="0.4", lw=0.8, ls=":")
        horizon.set_ylabel("horizon T")
        contrast.set_ylabel("C's loss terms (nats)")
        for axes in grid[1]:
            axes.set_xlabel("epoch")
            if axes.lines:
                low, high = axes.get_ylim()
                axes.set_ylim(low, high + 0.4 * (high - low))  # room for the legend
                axes.legend(frameon=False, fontsize=5, loc="upper right")
    return figure


def _curve(axes: Axes, rows: pd.DataFrame, column: str, colour: str, name: str) -> None:
    """A line over the epochs, if these rows have such numbers."""
    if column in rows and rows[column].notna().any():
        seed_lines(axes, rows.pivot_table(column, "epoch", "seed"), colour, name)


def picture_rows(pictures: Sequence[Tensor], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Images (K, C, H, W), uint8 or in [-1, 1], a row each.

    Args:
        pictures: R of them.
        rows: R labels.
        columns: K labels, or an empty string each.
    """
    with plt.rc_context(STYLE):
        return picture_grid(torch.stack([as_rgb(images) for images in pictures]), rows, columns, "", PAGE)[0]


def score_chart(final: pd.DataFrame) -> Figure:
    """The scores of each model: a tick a network, a mark the mean over them.

    Args:
        final: rows of ``model_comparison.final_scores``.
    """
    models = list(dict.fromkeys(final["model"]))
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(
            1, len(METRICS), figsize=(PAGE, 0.24 * len(models) + 0.7), sharey=True
        )
        for axes, metric in zip(all_axes, METRICS, strict=True):
            for place, model in enumerate(models):
                values = final.loc[final["model"] == model, metric].dropna()
                if len(values):
                    axes.plot(values, np.full(len(values), place), "|", color="0.3", ms=7, mew=0.8)
                    axes.plot(values.mean(), place, "o", color=f"C{place}", ms=4)
                elif metric == "class_accuracy":
                    axes.annotate(
                        "unconditional",
                        (0.02, place),
                        xycoords=("axes fraction", "data"),
                        size=6,
                        va="center",
                    )
            axes.set_xlabel(NAMES.get(metric, metric))
            axes.grid(axis="x", alpha=0.3)
            if metric in UNBOUNDED:
                _stretch(axes, UNBOUNDED[metric])
            else:
                axes.set_xlim(left=0)
        all_axes[0].set_yticks(range(len(models)), models)
        all_axes[0].set_ylim(len(models) - 0.5, -0.5)
    return figure


def progress_chart(scores: pd.DataFrame) -> Figure:
    """FID, recall and class accuracy by the images seen; thin lines single networks, dotted the FIDs to reach.

    Args:
        scores: rows of ``model_comparison.score_models``.
    """
    models = [model for model in dict.fromkeys(scores["model"]) if not is_ablation(model)]
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(1, 3, figsize=(PAGE, 2.4))
        for axes, metric in zip(all_axes, ("fid", "recall", "class_accuracy"), strict=True):
            for i, model in enumerate(models):
                rows = scores[(scores["model"] == model) & (scores["epoch"] > 0)]
                if rows[metric].notna().any():
                    curve = rows.assign(thousands=rows["images"] / 1000)
                    seed_lines(axes, curve.pivot_table(metric, "thousands", "seed"), f"C{i}", model)
            axes.set(xlabel="images seen (thousands)", ylabel=NAMES.get(metric, metric))
        all_axes[0].set_yscale("log")
        for threshold in THRESHOLDS:
            all_axes[0].axhline(threshold, color="0.5", lw=0.6, ls=":")
        handles, texts = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, frameon=False, ncols=4, loc="outside upper center")
    return figure


def difference_chart(compared: pd.DataFrame, final: pd.DataFrame) -> Figure:
    """Models minus the one they are compared with, paired by seed: a tick a network, a mark the mean, its interval.

    Args:
        compared: rows of ``model_comparison.compare_models``.
        final: rows of ``model_comparison.final_scores``.
    """
    pairs = list(dict.fromkeys(zip(compared["model"], compared["to"], strict=True)))
    by_seed = final.set_index(["model", "seed"])
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(1, len(METRICS), figsize=(PAGE, 0.3 * len(pairs) + 0.7), sharey=True)
        for axes, metric in zip(all_axes, METRICS, strict=True):
            axes.axvline(0, color="0.4", lw=0.8)
            rows = compared[compared["metric"] == metric].set_index(["model", "to"])
            for place, (model, to) in enumerate(pairs):
                if (model, to) not in rows.index:
                    continue
                found = rows.loc[(model, to)]
                singles = (by_seed.loc[model, metric] - by_seed.loc[to, metric]).dropna()
                error = np.nan_to_num(
                    np.abs([[found["low"] - found["estimate"]], [found["high"] - found["estimate"]]])
                )
                axes.plot(singles, np.full(len(singles), place), "|", color="0.3", ms=6, mew=0.8)
                axes.errorbar(
                    found["estimate"], place, xerr=error, fmt="o", color=f"C{place}", ms=4, capsize=2
                )
            axes.set_xlabel(f"Δ {NAMES.get(metric, metric)}")
            axes.grid(axis="x", alpha=0.3)
            if metric in UNBOUNDED:
                _stretch(axes, UNBOUNDED[metric])
        all_axes[0].set_yticks(range(len(pairs)), [f"{model}\n− {to}" for model, to in pairs])
        all_axes[0].set_ylim(len(pairs) - 0.5, -0.5)
    return figure


def _stretch(axes: Axes, unit: float) -> None:
    """A scale that is linear up to one unit and logarithmic beyond, with ticks that do not collide."""
    low, high = axes.dataLim.intervalx
    low = 0 if low >= 0 else -0.15 * unit if low > -0.1 * unit else min(1.2 * low, -unit)
    high = 1.2 * max(high, unit)
    axes.set_xscale("symlog", linthresh=unit)
    axes.set_xlim(low, high)
    ticks = [-100 * unit, -10 * unit, -unit, 0, unit, 10 * unit, 100 * unit]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter("{x:g}")
    between = [times * unit for times in (*range(2, 10), *range(20, 100, 10))]
    axes.xaxis.set_minor_locator(FixedLocator([-tick for tick in between] + between))


def agreement_chart(table: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Correlation of D's map with C's by class, and by chance, on real and on generated images.

    Args:
        table: rows of ``model_maps.agreement`` with a column ``source``.
        class_names: by label.
    """
    sources, methods = dict.fromkeys(table["source"]), dict.fromkeys(table["method"])
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(sources),
            len(methods),
            figsize=(PAGE, 1.5 * len(sources) + 0.3),
            sharex=True,
            sharey=True,
            squeeze=False,
        )
        for row, source in zip(grid, sources, strict=True):
            for axes, method in zip(row, methods, strict=True):
                rows = table[(table["source"] == source) & (table["method"] == method)]
                axes.axhline(0, color="0.4", lw=0.8)
                for i, (value, name) in enumerate(
                    {"correlation": "same image", "chance": "another image of the class"}.items()
                ):
                    spread = rows.groupby("label")[value].quantile([0.25, 0.5, 0.75]).unstack()  # noqa: PD010
                    error = np.abs(spread[[0.25, 0.75]].to_numpy().T - spread[0.5].to_numpy())
                    axes.errorbar(
                        spread.index.to_numpy() + 0.24 * (i - 0.5), spread[0.5], yerr=error, fmt="os"[i], ms=3,
                        color=f"C{i}", mfc=f"C{i}" if i == 0 else "white", capsize=2, label=name,
                    )  # fmt: skip
                axes.set_title(f"{source} images, {METHODS[method].label}")
                axes.set_xticks(range(len(class_names)), class_names)
        for axes in grid[:, 0]:
            axes.set_ylabel("correlation, D with C")
        for axes in grid[-1]:
            axes.set_xlabel("class")
        grid[0, 0].set_ylim(-1.05, 1.05)
        handles, texts = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, texts, frameon=False, ncols=2, loc="outside upper center")
    return figure


def told_chart(
    change: Mapping[str, pd.DataFrame], correlation: Mapping[str, pd.DataFrame], class_names: Sequence[str]
) -> Figure:
    """What D makes of images of a class (rows) when it is told another (columns): its logit, and its map.

    Args:
        change: of the logit against the right class, by source: a row per class, a column per class told.
        correlation: of the map with that of the right class, likewise.
        class_names: by label.
    """
    largest = max(float(np.nanmax(np.abs(table.to_numpy()))) for table in change.values())
    lowest = min(float(np.nanmin(table.to_numpy())) for table in correlation.values())
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(len(change), 2, figsize=(PAGE, 2.3 * len(change)), squeeze=False)
        for row, source in zip(grid, change, strict=True):
            panels = (
                (
                    change[source],
                    {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest},
                    "change of the logit",
                ),
                (
                    correlation[source],
                    {"cmap": "cividis", "vmin": lowest, "vmax": 1},
                    "correlation of the map",
                ),
            )
            for axes, (table, colours, label) in zip(row, panels, strict=True):
                sns.heatmap(
                    table.to_numpy(), ax=axes, **colours, annot=True, fmt=".1f", annot_kws={"size": 5},
                    cbar_kws={"label": label}, xticklabels=class_names, yticklabels=class_names,
                )  # fmt: skip
                axes.set(xlabel="class told", ylabel="class of the image", title=f"{source} images")
                axes.tick_params(length=0, rotation=0)
    return figure


def model_focus(summary: pd.DataFrame, measures: Sequence[str]) -> Figure:
    """Measures of each model's maps over the epochs: a row an evidence, a column a measure.

    Args:
        summary: columns ``model``, ``seed``, ``evidence``, ``epoch`` and the measures (NaN: mostly no maps).
        measures: names of columns.
    """
    models, evidences = dict.fromkeys(summary["model"]), dict.fromkeys(summary["evidence"])
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(evidences), len(measures), figsize=(PAGE, 1.7 * len(evidences) + 0.3), sharex=True, sharey="col",
            squeeze=False,
        )  # fmt: skip
        for row, evidence in zip(grid, evidences, strict=True):
            for axes, measure in zip(row, measures, strict=True):
                shown = summary[summary["evidence"] == evidence]
                for i, model in enumerate(models):
                    curve = shown[shown["model"] == model].pivot_table(measure, "epoch", "seed")
                    if len(curve):
                        seed_lines(axes, curve, f"C{i}", model)
                if measure.endswith("lift"):
                    axes.axhline(1, color="0.4", lw=0.8, ls=":")
                axes.set_title(f"{MEASURE_NAMES.get(measure, measure)}, “{evidence}”")
        for axes in grid[-1]:
            axes.set_xlabel("epoch (0: untrained)")
        handles = [plt.Line2D([], [], color=f"C{i}") for i in range(len(models))]
        figure.legend(handles, list(models), frameon=False, ncols=4, loc="outside upper center")
    return figure

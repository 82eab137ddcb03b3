"""Finished tables of the follow-up's models -> figures."""

from collections.abc import Mapping, Sequence
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.studies.style import PAGE, SIGNED, STYLE, legend_above, seed_lines

MEASURE_LABELS = {
    "focus": "K, focus above chance",
    "around": "share looked around",
    "covered": "share of the map above 0",
}


def agreement_chart(table: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Correlation of D's map with C's by class, and by chance: medians and quartiles over images.

    Args:
        table: rows of ``agreement`` with a column ``source``.
        class_names: by label.
    """
    sources, methods = list(dict.fromkeys(table["source"])), list(dict.fromkeys(table["method"]))
    series = {
        "correlation": ("same image", "o", "C0"),
        "chance": ("another image of the class", "s", "white"),
    }
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(sources), len(methods), figsize=(PAGE, 1.5 * len(sources) + 0.3), sharex=True, sharey=True,
            squeeze=False,
        )  # fmt: skip
        for axes, (source, method) in zip(grid.flat, product(sources, methods), strict=True):
            rows = table[(table["source"] == source) & (table["method"] == method)]
            axes.axhline(0, color="0.4", lw=0.8)
            for i, (value, (label, marker, filling)) in enumerate(series.items()):
                low, middle, high = (
                    rows.groupby("label")[value].quantile(share) for share in (0.25, 0.5, 0.75)
                )
                axes.errorbar(
                    middle.index + 0.24 * (i - 0.5), middle, yerr=(middle - low, high - middle), fmt=marker, ms=3,
                    color=f"C{i}", mfc=filling, capsize=2, label=label,
                )  # fmt: skip
            axes.set_title(f"{source} images, {METHODS[method].label}")
            axes.set_xticks(range(len(class_names)), class_names)
        for axes in grid[:, 0]:
            axes.set_ylabel("correlation, D with C")
        for axes in grid[-1]:
            axes.set_xlabel("class")
        grid[0, 0].set_ylim(-1.05, 1.05)
        legend_above(figure, grid[0, 0], 2)
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
    largest = max(float(np.nanmax(np.abs(table))) for table in change.values())
    lowest = min(float(np.nanmin(table)) for table in correlation.values())
    halves = (
        (change, "change of the logit", {"cmap": SIGNED, "vmin": -largest, "vmax": largest}),
        (correlation, "correlation of the map", {"cmap": "cividis", "vmin": lowest, "vmax": 1}),
    )
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(len(change), 2, figsize=(PAGE, 2.3 * len(change)), squeeze=False)
        for axes, (source, (tables, label, colours)) in zip(grid.flat, product(change, halves), strict=True):
            sns.heatmap(
                tables[source].to_numpy(), ax=axes, **colours, annot=True, fmt=".1f", annot_kws={"size": 5},
                cbar_kws={"label": label}, xticklabels=class_names, yticklabels=class_names,
            )  # fmt: skip
            axes.set(xlabel="class told", ylabel="class of the image", title=f"{source} images")
            axes.tick_params(length=0, rotation=0)
    return figure


def model_focus(measured: pd.DataFrame) -> Figure:
    """Each model's maps over the epochs: a row an evidence, a column a measure.

    Args:
        measured: ``measure_models``, the rows of one method.
    """
    models, evidences = list(dict.fromkeys(measured["model"])), list(dict.fromkeys(measured["evidence"]))
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(evidences), len(MEASURE_LABELS), figsize=(PAGE, 1.7 * len(evidences) + 0.3), sharex=True, sharey="col",
            squeeze=False,
        )  # fmt: skip
        for axes, (evidence, measure) in zip(grid.flat, product(evidences, MEASURE_LABELS), strict=True):
            shown = measured[measured["evidence"] == evidence]
            for i, model in enumerate(models):
                curve = shown[shown["model"] == model].pivot_table(measure, "epoch", "seed")
                seed_lines(axes, curve, f"C{i}", model)
            if measure == "focus":
                axes.axhline(0, color="0.4", lw=0.8, ls=":")
            axes.set_title(f"{MEASURE_LABELS[measure]}, “{evidence}”")
        for axes in grid[-1]:
            axes.set_xlabel("epoch (0: untrained)")
        handles = [plt.Line2D([], [], color=f"C{i}") for i in range(len(models))]
        figure.legend(handles, models, frameon=False, ncols=3, loc="outside upper center")
    return figure

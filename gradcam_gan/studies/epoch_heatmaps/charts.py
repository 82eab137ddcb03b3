"""Drawing only: every function takes finished numbers and returns a matplotlib figure."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.run_explainer import STATISTICS, Reading
from gradcam_gan.studies.readings import COMPARED_LAYERS, COMPARED_METHODS, EVIDENCES
from gradcam_gan.studies.style import COLUMN, PAGE, STYLE, intervals, legend_above, network_ticks, seed_lines

FOCUS = "K, mean focus above chance"
# from blue to red through grey: told apart by the colour-blind, and in print
VERDICTS = {
    "reproduced": "#0173b2",
    "partly": "#56b4e9",
    "inconclusive": "#e3e3e3",
    "not reproduced": "#d55e00",
}


def focus_curves(epochs: pd.DataFrame, marks: Mapping[str, int]) -> Figure:
    """K by epoch at each layer (running statistics), evidence for "real" and for "fake".

    Args:
        epochs: ``Tables.epochs``, Grad-CAM's rows.
        marks: epochs to mark, by name.
    """
    shown = epochs[(epochs["method"] == "gradcam") & (epochs["statistics"] == "running")]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(COMPARED_LAYERS), figsize=(PAGE, 2.3), sharey=True)
        for axes, layer in zip(panels, COMPARED_LAYERS, strict=True):
            own = shown[shown["layer"] == layer]
            for i, evidence in enumerate(EVIDENCES):
                curve = own[own["evidence"] == evidence].pivot_table("focus", "epoch", "seed")
                seed_lines(axes, curve, f"C{i}", f"for “{evidence}”")
            _frame(axes, marks, own["epoch"].max(), layer)
        panels[0].set_ylabel(FOCUS)
        legend_above(figure, panels[0], 2)
    return figure


def statistics_chart(epochs: pd.DataFrame, marks: Mapping[str, int]) -> Figure:
    """K by epoch of one layer and evidence under each kind of BatchNorm statistics; the same weights in every panel.

    Args:
        epochs: ``Tables.epochs``, Grad-CAM's rows of one layer and evidence.
        marks: epochs to mark, by name.
    """
    with plt.rc_context(STYLE):
        present = [statistics for statistics in STATISTICS if (epochs["statistics"] == statistics).any()]
        figure, (panels,) = plt.subplots(1, len(present), figsize=(PAGE, 2.1), sharey=True, squeeze=False)
        for i, (axes, statistics) in enumerate(zip(panels, present, strict=True)):
            curve = epochs[epochs["statistics"] == statistics].pivot_table("focus", "epoch", "seed")
            seed_lines(axes, curve, f"C{i}", "mean over networks")
            _frame(axes, marks, curve.index.max(), f"{statistics} statistics")
        panels[0].set_ylabel(FOCUS)
    return figure


def knowledge_chart(epochs: pd.DataFrame) -> Figure:
    """AUC of real against generated images by epoch: of a map's sum, of the logit, of what Grad-CAM leaves out of it.

    Args:
        epochs: ``Tables.epochs``.
    """
    shown = epochs[epochs["evidence"] == "real"]  # the sum is taken before the sign is
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(COMPARED_LAYERS), len(STATISTICS), figsize=(PAGE, 4.4), sharex=True, sharey=True
        )
        for row, layer in zip(grid, COMPARED_LAYERS, strict=True):
            for axes, statistics in zip(row, STATISTICS, strict=True):
                own = shown[(shown["layer"] == layer) & (shown["statistics"] == statistics)]
                first = own[own["method"] == "gradcam"]
                seed_lines(axes, first.pivot_table("auc_logit", "epoch", "seed"), "0.2", "D's logit")
                for i, method in enumerate(COMPARED_METHODS):
                    curve = own[own["method"] == method].pivot_table("auc_map", "epoch", "seed")
                    seed_lines(axes, curve, f"C{i}", f"sum of the {METHODS[method].label} map")
                if first["auc_left_out"].notna().any():
                    left_out = first.pivot_table("auc_left_out", "epoch", "seed")
                    seed_lines(axes, left_out, "C2", "logit minus Grad-CAM's sum")
                axes.axhline(0.5, color="0.5", lw=0.8, ls=":")
                axes.set_ylim(0, 1)
            row[0].set_ylabel(layer)
        for axes, statistics in zip(grid[0], STATISTICS, strict=True):
            axes.set_title(f"{statistics} statistics")
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        figure.supylabel("AUC, real against generated (0.5: tells nothing apart)", size=8)
        legend_above(figure, grid[-1, 0], 4)
    return figure


def change_chart(probes: pd.DataFrame, similar: tuple[float, ...]) -> Figure:
    """How much each image's map changes over the rows of Figure 1, a line a network.

    Args:
        probes: ``Tables.probes`` under one reading.
        similar: correlations at which maps count as the same.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 2.2))
        for _, rows in probes.groupby("seed"):
            sns.ecdfplot(rows, x="change", ax=axes, color="C0", lw=0.8)
        for r in similar:
            axes.axvline(1 - r, color="0.5", lw=0.8, ls=":")
            axes.text(
                1 - r, 1, f"{r:g}", transform=axes.get_xaxis_transform(), ha="center", va="bottom", size=6
            )
        axes.set(xlim=(0, 2), xlabel="largest change of an image's map (1 − r)", ylabel="share of images")
    return figure


def quality_chart(joined: pd.DataFrame, picked: Mapping[Any, int], marks: Mapping[str, int]) -> Figure:
    """K and G's FID by epoch, a colour a network; a ring where K is largest: the epoch that the heatmaps pick (C4).

    Args:
        joined: a row per ``seed`` and ``epoch``: ``focus`` (K) and ``fid``.
        picked: by seed the epoch.
        marks: epochs to mark, by name.
    """
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 2.5))
        palette = sns.color_palette("viridis", joined["seed"].nunique())
        for axes, column in zip(panels, ("focus", "fid"), strict=True):
            curves = joined.pivot_table(column, "epoch", "seed")
            for colour, seed in zip(palette, curves, strict=True):
                axes.plot(curves.index, curves[seed], "-", color=colour, lw=1, label=f"seed {seed}")
                if seed in picked:
                    axes.plot(picked[seed], curves[seed][picked[seed]], "o", mfc="none", color=colour, ms=6)
            _frame(axes, marks, curves.index.max())
        panels[0].set_ylabel(FOCUS)
        panels[1].set(yscale="log", ylabel="FID of G (lower is better)")
        legend_above(figure, panels[0], 6)
    return figure


def around_chart(epochs: pd.DataFrame, marks: Mapping[str, int]) -> Figure:
    """Share of images that D looks around (a lift below 0.5) by epoch, under running and settled statistics.

    Args:
        epochs: ``Tables.epochs``, Grad-CAM's rows of one layer and evidence.
        marks: epochs to mark, by name.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 2.2))
        for i, statistics in enumerate(("running", "settled")):
            curve = epochs[epochs["statistics"] == statistics].pivot_table("around", "epoch", "seed")
            seed_lines(axes, curve, f"C{i}", statistics)
        _frame(axes, marks, epochs["epoch"].max())
        axes.set(ylabel="share of images looked around", ylim=(-0.02, 1.02))
        axes.legend(frameon=False)
    return figure


def padding_chart(shares: pd.DataFrame, difference: pd.DataFrame) -> Figure:
    """Share of images looked around by padding, a tick a network, and the paired difference.

    Args:
        shares: a row a seed, a column a padding.
        difference: one row, ``estimate``, ``low``, ``high``.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 1.5))
        for place, padding in enumerate(shares):
            network_ticks(axes, shares[padding], place)
            axes.plot(shares[padding].mean(), place, "o", color=f"C{place}", ms=4)
        intervals(axes, difference, [shares.shape[1]], fmt="D", color="0.2")
        axes.axvline(0, color="0.5", lw=0.8)
        axes.set_yticks(range(shares.shape[1] + 1), [*(f"{name} padding" for name in shares), "difference"])
        axes.invert_yaxis()
        axes.set_xlabel("share of images looked around")
    return figure


def verdict_grid(sensitivity: pd.DataFrame, primary: Reading) -> Figure:
    """What every claim's rule would say under every reading (``rules.sensitivity``); the primary reading is framed."""
    order = ["layer", "statistics", "method", "evidence"]
    table = sensitivity.pivot_table("verdict", order, "claim", aggfunc="first", sort=False)
    codes = table.map(list(VERDICTS).index).to_numpy()
    names = [
        str(Reading(method, statistics, evidence, layer))
        for layer, statistics, method, evidence in table.index
    ]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(0.72 * PAGE, 0.135 * len(table) + 0.7))
        axes.pcolormesh(
            codes, cmap=ListedColormap(list(VERDICTS.values())), vmin=0, vmax=3, edgecolor="w", lw=0.5
        )
        axes.set_xticks(np.arange(table.shape[1]) + 0.5, table.columns)
        axes.set_yticks(np.arange(len(names)) + 0.5, names, size=6)
        if str(primary) in names:
            frame = plt.Rectangle(
                (0, names.index(str(primary))), table.shape[1], 1, fill=False, ec="black", lw=1.2
            )
            axes.add_patch(frame).set_clip_on(False)
        axes.invert_yaxis()
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        handles = [Patch(color=colour, label=verdict) for verdict, colour in VERDICTS.items()]
        title = f"n={sensitivity['n'].max()} networks"
        figure.legend(handles=handles, title=title, frameon=False, ncols=1, loc="outside right upper")
    return figure


def _frame(axes: Axes, marks: Mapping[str, int], last: int, title: str = "") -> None:
    """Epochs as the x-axis, dotted lines at the named ones up to the last, and a title above their names."""
    axes.set_xlabel("epoch (0: untrained)")
    axes.set_title(title, pad=12 if title else None)
    for name, epoch in marks.items():
        if epoch <= last:
            axes.axvline(epoch, color="0.6", lw=0.7, ls=":", zorder=0)
            above = axes.get_xaxis_transform()
            axes.text(epoch, 1.01, name, transform=above, ha="center", va="bottom", size=6, color="0.4")

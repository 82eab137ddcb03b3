"""Drawing only: every function takes finished numbers and returns a matplotlib figure."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.run_explainer import STATISTICS, Reading
from gradcam_gan.studies.epoch_heatmaps.tables import MOSTLY_ZERO, BestEpoch
from gradcam_gan.studies.readings import COMPARED_METHODS
from gradcam_gan.studies.style import COLUMN, PAGE, STYLE, intervals, seed_lines


def focus_curves(summary: pd.DataFrame, image_as_map: float, marks: Mapping[str, int]) -> Figure:
    """Focus lift over the epochs, one panel for each evidence.

    Args:
        summary: from ``focus_summary``.
        image_as_map: focus lift of the image itself taken as its heatmap.
        marks: epochs to mark, by name.
    """
    colours = {"gradcam": "C0", "hirescam": "C1"}
    lines = {"reference": "-", "running": "--"}
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True)
        for axes, evidence in zip(all_axes, ("real", "fake"), strict=True):
            shown = summary[summary["evidence"] == evidence]
            for method, statistics in product(COMPARED_METHODS, STATISTICS):
                curve = shown[(shown["method"] == method) & (shown["statistics"] == statistics)]
                colour, label = colours[method], f"{METHODS[method].label}, {statistics}"
                style = {"color": colour, "label": label, "marker": ".", "ms": 3}
                axes.plot(curve["epoch"], curve["estimate"], lines[statistics], **style)
                axes.fill_between("epoch", "low", "high", data=curve, color=colour, alpha=0.15, lw=0)
            for height, line, said in ((1, "-", "chance"), (image_as_map, ":", "the image itself")):
                axes.axhline(height, color="0.4", linewidth=0.8, linestyle=line)
                place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
                axes.annotate(said, (0.99, height), size=6, **place)
            _mark(axes, marks, shown["epoch"].max())
            axes.set(xlabel="epoch (0: untrained)", title=f"evidence for “{evidence}”")
        all_axes[0].set_ylabel("focus lift")
        all_axes[0].set_ylim(0, None)
        all_axes[1].legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0.9))
    return figure


def best_epoch_chart(best: Mapping[Reading, BestEpoch], marks: Mapping[str, int]) -> Figure:
    """The criterion of C2 by epoch and seed, and below it where the bootstrap puts the best epoch.

    Args:
        best: from ``best_epochs``.
        marks: epochs to mark, by name.
    """
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            2, len(best), figsize=(PAGE, 3.2), sharex="col", sharey="row", height_ratios=(2, 1), squeeze=False
        )
        for i, (reading, found) in enumerate(best.items()):
            upper, lower = grid[:, i]
            seed_lines(upper, found.curve, f"C{i}", "mean over seeds")
            upper.axvspan(found.low - 0.4, found.high + 0.4, color=f"C{i}", alpha=0.15, lw=0)
            upper.set_title(f"{reading}\nbest epoch {found.epoch} [{found.low}, {found.high}]")
            lower.bar(found.drawn.index, found.drawn, color=f"C{i}", width=0.8)
            lower.set(xlabel="epoch", ylim=(0, 1))
            for axes in (upper, lower):
                _mark(axes, marks, found.curve.index.max())
        grid[0, 0].set_ylabel("mean focus lift")
        grid[0, 0].legend(frameon=False, loc="best")
        grid[1, 0].set_ylabel("share of\nresamples")
    return figure


def change_histogram(changes: pd.DataFrame, same: float) -> Figure:
    """How much each image's map changes between neighbouring rows of Figure 1, by reading (``changes_of_rows``).

    Below ``same`` a map counts as unchanged.
    """
    reading = changes["statistics"] + ", “" + changes["evidence"] + "”"
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 2.4))
        sns.ecdfplot(changes.assign(reading=reading), x="largest_change", hue="reading", ax=axes)
        axes.axvline(same, color="0.3", linewidth=0.8, linestyle=":")
        axes.text(same, 1, "same map", transform=axes.get_xaxis_transform(), va="bottom", size=6)
        axes.set(xlim=(0, 2), xlabel="largest change of the map (1 - correlation)")
        axes.set_ylabel("share of images and seeds")
        sns.move_legend(axes, "lower right", title="Grad-CAM", frameon=False)
    return figure


def share_chart(shares: pd.DataFrame) -> Figure:
    """Share of images that D looks around rather than at, with intervals, by reading and padding.

    Args:
        shares: columns ``reading``, ``padding``, ``estimate``, ``low``, ``high``, ``all_zero``. Where more than
            half of the maps are zero everywhere, that is said in place of a share of the rest.
    """
    readings = list(dict.fromkeys(shares["reading"]))
    paddings = list(dict.fromkeys(shares["padding"]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(PAGE * 0.75, 0.28 * len(readings) + 0.8))
        for i, padding in enumerate(paddings):
            rows = shares[shares["padding"] == padding].set_index("reading").reindex(readings)
            empty = rows["all_zero"] > MOSTLY_ZERO
            rows.loc[empty, ["estimate", "low", "high"]] = np.nan
            place = np.arange(len(readings)) + 0.22 * (i - (len(paddings) - 1) / 2)
            intervals(axes, rows, place, fmt="os"[i], label=f"{padding} padding")
            for line in np.flatnonzero(empty):
                note = f"{padding}: most maps are zero"
                axes.text(0.01, place[line], note, va="center", size=6, color=f"C{i}")
        axes.set_yticks(range(len(readings)), readings)
        axes.invert_yaxis()
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("share of images with a focus lift below 1 (less on the digit than chance)")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def focus_quality_chart(joined: pd.DataFrame, correlations: pd.DataFrame, marks: Mapping[str, int]) -> Figure:
    """G's FID by epoch, and against D's focus under each reading: does a clearer D go with a better G?

    Args:
        joined: from ``focus_beside_scores``.
        correlations: from ``rank_correlations``.
        marks: epochs to mark, by name.
    """
    seeds = list(dict.fromkeys(joined["seed"]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplot_mosaic("ABC;ADE", figsize=(PAGE, 3.4), width_ratios=(1.2, 1, 1))
        curve = joined.drop_duplicates(["seed", "epoch"]).pivot_table("fid", "epoch", "seed")
        for i, seed in enumerate(seeds):
            style: Any = {"color": f"C{i}", "marker": ".", "ms": 3, "lw": 1, "label": f"seed {seed}"}
            axes["A"].plot(curve.index, curve[seed], **style)
        axes["A"].set(yscale="log", xlabel="epoch", ylabel="FID of G (lower is better)")
        axes["A"].legend(frameon=False)
        _mark(axes["A"], marks, curve.index.max())
        for letter, (reading, rows) in zip("BCDE", joined.groupby("reading", sort=False), strict=True):
            for i, seed in enumerate(seeds):
                points = rows[rows["seed"] == seed]
                axes[letter].plot(points["focus_lift"], points["fid"], ".", color=f"C{i}", ms=3)
                picked = points.loc[points["focus_lift"].idxmax()]
                axes[letter].plot(picked["focus_lift"], picked["fid"], "o", mfc="none", color=f"C{i}", ms=6)
            found = correlations[correlations["reading"] == reading]
            said = ", ".join(f"{rho:.2f}" for rho in found["rho"])
            title = str(reading).removeprefix("Grad-CAM, ").replace(", ", " statistics, “") + "”"
            axes[letter].set_title(f"{title}\nρ {said}", size=7)
            axes[letter].set(yscale="log")
            zero = rows["all_zero"].mean()
            if zero > MOSTLY_ZERO:
                note = f"{100 * zero:.0f} % of maps are zero"
                axes[letter].annotate(
                    note, (0.97, 0.55), xycoords="axes fraction", ha="right", va="center", size=6,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8},
                )  # fmt: skip
        for letter in "DE":
            axes[letter].set_xlabel("mean focus lift of D")
        for letter in "BD":
            axes[letter].set_ylabel("FID of G")
    return figure


def _mark(axes: Axes, marks: Mapping[str, int], last: int) -> None:
    """Dotted lines at the named epochs, up to the last one."""
    for name, epoch in marks.items():
        if epoch <= last:
            axes.axvline(epoch, color="0.6", linewidth=0.7, linestyle=":", zorder=0)
            above = axes.get_xaxis_transform()
            axes.text(epoch, 1, name, transform=above, ha="center", va="top", size=6, color="0.4")

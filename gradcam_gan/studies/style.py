"""Drawing only: every function takes finished numbers and returns a matplotlib figure.

Colours are seaborn's colour-blind palette; heatmaps are inferno, dark to bright, always with a colour bar that
says what was divided by what.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from gradcam_gan.explaining.measures import digit_mask, normalise
from gradcam_gan.run_explainer import METHOD_NAMES, METHODS, STATISTICS
from gradcam_gan.studies.claims import BEST_EPOCH, CLEAREST_EPOCH
from gradcam_gan.studies.epochs import MOSTLY_ZERO, BestEpoch
from gradcam_gan.studies.panels import Panel

COLUMN, PAGE = 3.4, 7.0  # widths in inches of one and of two columns of a paper
HEAT = "inferno"
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=sns.color_palette("colorblind")),
    "figure.dpi": 76,  # on screen and in the committed notebooks; files have their own
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
}

METRIC_NAMES = {"fid": "FID", "kid": "KID"}
GAP = 2  # white pixels between the pictures of a grid


def heatmap_grid(panel: Panel, *, title: str = "", width: float = PAGE) -> Figure:
    """A row of original images, then the heatmaps below each, such as the paper's Figure 1.

    Each map is divided by its own maximum, as pytorch-grad-cam shows it, so brightness compares places within a
    map and not one map with another. The digit's outline is drawn over it; a map that is zero everywhere
    is marked "zero". Where the panel has what the network saw, that shines through, half and half.

    Args:
        panel: what to draw.
        title: over the grid.
        width: of the figure in inches.
    """
    heat = torch.stack([normalise(maps, "max") for maps in panel.maps])
    coloured = torch.from_numpy(plt.get_cmap(HEAT)(heat.cpu().numpy())[..., :3]).float()
    if panel.seen is not None:
        coloured = (coloured + torch.stack([as_rgb(images) for images in panel.seen])) / 2
    with plt.rc_context(STYLE):
        figure, axes, centres = picture_grid(
            torch.cat([as_rgb(panel.images)[None], coloured]),
            ["original", *panel.rows],
            panel.columns,
            title,
            width,
            0.75,
        )
        outline = digit_mask(panel.images).float().expand(len(panel.rows), -1, -1, -1)
        mosaic = _mosaic(torch.cat([torch.zeros_like(outline[:1]), outline])[..., None], 0.0)[..., 0]
        axes.contour(mosaic, levels=[0.5], colors="white", linewidths=0.5)
        for row, column in (~heat.any(3).any(2)).nonzero().tolist():
            cell = (centres[1][column], centres[0][row + 1])
            axes.annotate("zero", cell, color="white", ha="center", va="center", size=6)
        place = axes.get_position()
        bar_axes = figure.add_axes((place.x1 + 0.08 / width, place.y0, 0.12 / width, place.height))
        figure.colorbar(plt.cm.ScalarMappable(cmap=HEAT), cax=bar_axes, label="evidence / map's maximum")
    return figure


def image_row(images: Tensor, labels: Sequence[str], *, width: float = PAGE) -> Figure:
    """A row of images (K, C, H, W), uint8 or in [-1, 1], with their labels."""
    with plt.rc_context(STYLE):
        return picture_grid(as_rgb(images)[None], [""], labels, "", width)[0]


def sample_grid(samples: Tensor, *, rows: Sequence[str], width: float = PAGE) -> Figure:
    """Generated images: a row an epoch, a column a latent vector.

    Args:
        samples: (R, K, C, H, W) in [-1, 1].
        rows: R labels.
        width: of the figure in inches.
    """
    pictures = torch.stack([as_rgb(images) for images in samples])
    with plt.rc_context(STYLE):
        return picture_grid(pictures, rows, [""] * samples.shape[1], "", width)[0]


def training_curves(history: pd.DataFrame) -> Figure:
    """Losses, D's outputs, and D's accuracy under the three BatchNorm modes; a thin line a seed, a thick mean.

    Args:
        history: rows of ``Run.history`` of all seeds, with a column ``seed``.
    """
    panels: list[tuple[str, dict[str, str]]] = [
        ("loss (nats)", {"loss_discriminator": "discriminator", "loss_generator": "generator"}),
        ("mean probability of “real”", {"d_real": "D(x), real", "d_fake": "D(G(z)), generated"}),
        (
            "D's balanced accuracy",
            {f"accuracy_{mode}": f"{mode} statistics" for mode in ("running", "batch", "reference")},
        ),
    ]
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(1, 3, figsize=(PAGE, 2.3))
        for axes, (label, series) in zip(all_axes, panels, strict=True):
            for i, (column, name) in enumerate(series.items()):
                seed_lines(axes, history.pivot_table(column, "epoch", "seed"), f"C{i}", name)
            axes.set(xlabel="epoch", ylabel=label)
            axes.legend(frameon=False, loc="best")
        all_axes[1].set_ylim(0, 1)
        all_axes[2].set_ylim(0, 1.03)
        all_axes[2].axhline(0.5, color="0.5", linewidth=0.8, linestyle=":")
    return figure


def focus_curves(summary: pd.DataFrame, image_as_map: float) -> Figure:
    """Focus lift over the epochs, one panel for each evidence.

    Args:
        summary: columns ``method``, ``statistics``, ``evidence``, ``epoch``, ``estimate``, ``low``, ``high``.
        image_as_map: focus lift of the image itself taken as its heatmap.
    """
    colours = {"gradcam": "C0", "hirescam": "C1"}
    lines = {"reference": "-", "running": "--", "batch": ":"}
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True)
        for axes, evidence in zip(all_axes, ("real", "fake"), strict=True):
            shown = summary[summary["evidence"] == evidence]
            for method, statistics in product(METHODS, STATISTICS):
                curve = shown[(shown["method"] == method) & (shown["statistics"] == statistics)]
                label = f"{METHOD_NAMES[method]}, {statistics}"
                axes.plot(
                    "epoch",
                    "estimate",
                    ls=lines[statistics],
                    data=curve,
                    color=colours[method],
                    label=label,
                    marker=".",
                    ms=3,
                )
                axes.fill_between("epoch", "low", "high", data=curve, color=colours[method], alpha=0.15, lw=0)
            axes.axhline(1, color="0.4", linewidth=0.8)
            axes.annotate(
                "chance", (0.99, 1), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=6
            )
            axes.axhline(image_as_map, color="0.4", linewidth=0.8, linestyle=":")
            axes.annotate(
                "the image itself", (0.99, image_as_map), xycoords=("axes fraction", "data"), ha="right",
                va="bottom", size=6,
            )  # fmt: skip
            _mark_paper_epochs(axes, shown["epoch"].max())
            axes.set(xlabel="epoch (0: untrained)", title=f"evidence for “{evidence}”")
        all_axes[0].set_ylabel("focus lift")
        all_axes[0].set_ylim(0, None)
        all_axes[1].legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0.9))
    return figure


def best_epoch_chart(curves: Mapping[str, pd.DataFrame], best: Mapping[str, BestEpoch]) -> Figure:
    """The criterion of C2 by epoch and seed, and below it where the bootstrap puts the best epoch.

    Args:
        curves: by reading: focus lift, a row an epoch, a column a seed.
        best: by reading: the best epoch with its interval.
    """
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            2,
            len(curves),
            figsize=(PAGE, 3.2),
            sharex="col",
            sharey="row",
            height_ratios=(2, 1),
            squeeze=False,
        )
        for i, (reading, curve) in enumerate(curves.items()):
            upper, lower = grid[:, i]
            seed_lines(upper, curve, f"C{i}", "mean over seeds")
            found = best[reading]
            upper.axvspan(found.low - 0.4, found.high + 0.4, color=f"C{i}", alpha=0.15, lw=0)
            upper.set_title(f"{reading}\nbest epoch {found.epoch} [{found.low}, {found.high}]")
            lower.bar(found.drawn.index, found.drawn, color=f"C{i}", width=0.8)
            lower.set(xlabel="epoch", ylim=(0, 1))
            for axes in (upper, lower):
                _mark_paper_epochs(axes, curve.index.max())
        grid[0, 0].set_ylabel("mean focus lift")
        grid[0, 0].legend(frameon=False, loc="best")
        grid[1, 0].set_ylabel("share of\nresamples")
    return figure


def change_histogram(changes: pd.DataFrame, same: float) -> Figure:
    """How much each image's map changes between neighbouring rows of Figure 1, by reading.

    Args:
        changes: rows of ``changes_of_rows``.
        same: below this a map counts as unchanged.
    """
    reading = changes["statistics"] + ", “" + changes["evidence"] + "”"
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 2.4))
        sns.ecdfplot(changes.assign(reading=reading), x="largest_change", hue="reading", ax=axes)
        axes.axvline(same, color="0.3", linewidth=0.8, linestyle=":")
        axes.annotate(
            "same map", (same, 1), xycoords=("data", "axes fraction"), ha="left", va="bottom", size=6
        )
        axes.set(
            xlim=(0, 2),
            xlabel="largest change of the map (1 - correlation)",
            ylabel="share of images and seeds",
        )
        sns.move_legend(axes, "lower right", title="Grad-CAM", frameon=False)
    return figure


def share_chart(shares: pd.DataFrame) -> Figure:
    """Share of images that D looks around rather than at, with intervals, by variant and padding.

    Args:
        shares: columns ``variant``, ``padding``, ``estimate``, ``low``, ``high``, ``all_zero``. Where more than
            half of the maps are zero everywhere, that is said in place of a share of the rest.
    """
    variants = list(dict.fromkeys(shares["variant"]))
    paddings = list(dict.fromkeys(shares["padding"]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(PAGE * 0.75, 0.28 * len(variants) + 0.8))
        for i, padding in enumerate(paddings):
            rows = shares[shares["padding"] == padding].set_index("variant").reindex(variants)
            empty = rows["all_zero"] > MOSTLY_ZERO
            rows.loc[empty, ["estimate", "low", "high"]] = np.nan
            place = np.arange(len(variants)) + 0.22 * (i - (len(paddings) - 1) / 2)
            error = np.abs(rows[["low", "high"]].to_numpy().T - rows["estimate"].to_numpy())
            axes.errorbar(
                rows["estimate"], place, xerr=error, fmt="os"[i], capsize=2, ms=4, label=f"{padding} padding"
            )
            for line in np.flatnonzero(empty):
                axes.annotate(
                    f"{padding}: most maps are zero", (0.01, place[line]), va="center", size=6, color=f"C{i}"
                )
        axes.set_yticks(range(len(variants)), variants)
        axes.invert_yaxis()
        axes.set(
            xlim=(-0.02, 1.02),
            xlabel="share of images with a focus lift below 1 (less on the digit than chance)",
        )
        axes.grid(axis="x", alpha=0.3)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def focus_quality_chart(joined: pd.DataFrame, correlations: pd.DataFrame) -> Figure:
    """G's FID by epoch, and against D's focus under each reading: does a clearer D go with a better G?

    Args:
        joined: from ``focus_and_quality.focus_beside_scores``.
        correlations: from ``focus_and_quality.rank_correlations``.
    """
    seeds = list(dict.fromkeys(joined["seed"]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplot_mosaic("ABC;ADE", figsize=(PAGE, 3.4), width_ratios=(1.2, 1, 1))
        curve = joined.drop_duplicates(["seed", "epoch"]).pivot_table("fid", "epoch", "seed")
        for i, seed in enumerate(seeds):
            axes["A"].plot(
                curve.index, curve[seed], color=f"C{i}", marker=".", ms=3, lw=1, label=f"seed {seed}"
            )
        axes["A"].set(yscale="log", xlabel="epoch", ylabel="FID of G (lower is better)")
        axes["A"].legend(frameon=False)
        _mark_paper_epochs(axes["A"], curve.index.max())
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


def as_rgb(images: Tensor) -> Tensor:
    """Images (K, C, H, W), uint8 or in [-1, 1] -> (K, H, W, 3) in 0..1."""
    scaled = images.cpu() / 255 if images.dtype == torch.uint8 else (images.cpu() + 1) / 2
    return scaled.clamp(0, 1).expand(-1, 3, -1, -1).movedim(1, -1)


def _mosaic(pictures: Tensor, gap: float) -> Tensor:
    """Pictures (R, K, H, W, 3) -> one (R (H + GAP), K (W + GAP), 3) with gaps of one grey level."""
    padded = F.pad(pictures, (0, 0, 0, GAP, 0, GAP), value=gap)
    rows, columns, height, width, channels = padded.shape
    return padded.permute(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def picture_grid(
    pictures: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    width: float,
    right: float = 0.05,
) -> tuple[Figure, Axes, tuple[np.ndarray, np.ndarray]]:
    """One axes that shows pictures (R, K, H, W, 3) as a grid: the figure, the axes, and the cells' centres (y, x).

    A single image instead of a subplot a picture: twenty times faster to lay out and save. ``right`` is the
    margin in inches for a colour bar.
    """
    down, across = (size + GAP for size in pictures.shape[2:4])
    centres = (np.arange(len(rows)) + 0.5) * down - GAP, (np.arange(len(columns)) + 0.5) * across - GAP
    left = 0.1 + 0.065 * max(map(len, rows))
    lines = max(label.count("\n") + 1 for label in columns) if "".join(columns) else 0
    head = 0.05 + 0.12 * lines + 0.2 * bool(title)
    drawn_width = width - left - right
    drawn_height = drawn_width * (down * len(rows)) / (across * len(columns))
    height = drawn_height + head + 0.05
    figure = plt.figure(figsize=(width, height), layout="none")
    axes = figure.add_axes((left / width, 0.05 / height, drawn_width / width, drawn_height / height))
    axes.imshow(_mosaic(pictures, 1.0).numpy(), interpolation="nearest", aspect="auto")
    axes.set_yticks(centres[0], rows)
    axes.set_xticks(centres[1], columns)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        figure.text((left + drawn_width / 2) / width, 1 - 0.04 / height, title, ha="center", va="top")
    return figure, axes, centres


def intervals(axes: Axes, rows: pd.DataFrame, place: np.ndarray | Sequence[float], **style: Any) -> None:  # noqa: ANN401
    """Estimates with their intervals, a line each from left to right.

    Args:
        axes: to draw on.
        rows: columns ``estimate``, ``low``, ``high``; NaN bounds draw no bar, a NaN estimate nothing.
        place: heights, one a row.
        style: of matplotlib's ``errorbar``, such as ``color`` and ``fmt``.
    """
    error = np.nan_to_num(np.abs(rows[["low", "high"]].to_numpy().T - rows["estimate"].to_numpy()))
    axes.errorbar(rows["estimate"], place, xerr=error, **{"ms": 4, "capsize": 2} | style)


def seed_lines(axes: Axes, curve: pd.DataFrame, colour: str, name: str) -> None:
    """One thin line a column (seed) and their mean."""
    if curve.shape[1] > 1:
        axes.plot(curve.index, curve, color=colour, linewidth=0.5, alpha=0.6)
    axes.plot(curve.index, curve.mean(axis=1), color=colour, linewidth=1.5, label=name)


def _mark_paper_epochs(axes: Axes, last: int) -> None:
    """Dotted lines at the epochs that the paper names."""
    for epoch, claim in ((CLEAREST_EPOCH, "C1"), (BEST_EPOCH, "C2")):
        if epoch <= last:
            axes.axvline(epoch, color="0.6", linewidth=0.7, linestyle=":", zorder=0)
            axes.annotate(
                claim,
                (epoch, 1),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="top",
                size=6,
                color="0.4",
            )

"""Drawing only: every function takes finished numbers and returns a matplotlib figure.

Colours are seaborn's colour-blind palette; heatmaps are inferno, dark to bright, always with a colour bar that
says what was divided by what.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gradcam_gan.claims import BEST_EPOCH, CLEAREST_EPOCH
from gradcam_gan.epochs import BestEpoch
from gradcam_gan.measures import MASK_THRESHOLD, normalise

COLUMN, PAGE = 3.4, 7.0  # widths in inches of one and of two columns of a paper
HEAT = "inferno"
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=sns.color_palette("colorblind")),
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
}


def heatmap_grid(
    images: Tensor,
    maps: Tensor,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    originals: bool = True,
    title: str = "",
    width: float = PAGE,
) -> Figure:
    """Figure 1: a row of original images, then one row of heatmaps per epoch (or other condition).

    Each map is divided by its own maximum, as pytorch-grad-cam shows it, so brightness compares places within a
    map and not one map with another. The digit's outline is drawn over it; a map that is zero everywhere
    is marked "zero".

    Args:
        images: uint8 (K, C, H, W), one a column.
        maps: float (R, K, H, W), unnormalised.
        rows: R labels.
        columns: K labels.
        originals: draw the originals as the first row.
        title: over the grid.
        width: of the figure in inches.
    """
    count, first = len(columns), int(originals)
    lines = len(rows) + first
    cell = (width - 0.9) / count
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            lines, count, figsize=(width, cell * lines + 0.35 + 0.2 * bool(title)), squeeze=False,
            gridspec_kw={"wspace": 0.03, "hspace": 0.03},
        )  # fmt: skip
        if originals:
            for axes, image in zip(grid[0], images, strict=True):
                _show_image(axes, image)
        heat = None
        for line, row_maps in zip(grid[first:], maps, strict=True):
            for axes, image, heatmap in zip(line, images, normalise(row_maps, "max"), strict=True):
                heat = _show_heat(axes, image, heatmap)
        for axes, label in zip(grid[0], columns, strict=True):
            axes.set_title(label, pad=2)
        for axes, label in zip(grid[:, 0], [*["original"] * first, *rows], strict=True):
            axes.set_ylabel(label)
        assert heat is not None
        bar = figure.colorbar(heat, ax=grid, fraction=0.02, pad=0.01, aspect=40)
        bar.set_label("evidence / the map's own maximum")
        if title:
            figure.suptitle(title, fontsize=8)
    return figure


def sample_grid(samples: Tensor, *, rows: Sequence[str], width: float = PAGE) -> Figure:
    """Generated images: a row an epoch, a column a latent vector.

    Args:
        samples: (R, K, C, H, W) in [-1, 1].
        rows: R labels.
        width: of the figure in inches.
    """
    cell = (width - 0.6) / samples.shape[1]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(samples), samples.shape[1], figsize=(width, cell * len(samples) + 0.1), squeeze=False,
            gridspec_kw={"wspace": 0.03, "hspace": 0.03},
        )  # fmt: skip
        for line, images, label in zip(grid, samples, rows, strict=True):
            line[0].set_ylabel(label)
            for axes, image in zip(line, images, strict=True):
                _show_image(axes, image)
    return figure


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
                _seed_lines(axes, history.pivot(index="epoch", columns="seed", values=column), f"C{i}", name)
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
    names = {"gradcam": "Grad-CAM", "hirescam": "HiResCAM"}
    lines = {"reference": "-", "running": "--", "batch": ":"}
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True)
        for axes, evidence in zip(all_axes, ("real", "fake"), strict=True):
            shown = summary[summary["evidence"] == evidence]
            for (method, statistics), curve in shown.groupby(["method", "statistics"]):
                label = f"{names[method]}, {statistics}"
                axes.plot("epoch", "estimate", lines[statistics], data=curve, color=colours[method], label=label)
                axes.fill_between("epoch", "low", "high", data=curve, color=colours[method], alpha=0.15, lw=0)
            axes.axhline(1, color="0.4", linewidth=0.8)
            axes.annotate("chance", (0.99, 1), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=6)
            axes.axhline(image_as_map, color="0.4", linewidth=0.8, linestyle=":")
            axes.annotate(
                "the image itself", (0.99, image_as_map), xycoords=("axes fraction", "data"), ha="right",
                va="bottom", size=6,
            )  # fmt: skip
            _mark_paper_epochs(axes, shown["epoch"].max())
            axes.set(xlabel="epoch (0: untrained)", title=f"evidence for “{evidence}”")
        all_axes[0].set_ylabel("focus lift")
        all_axes[0].set_ylim(0, None)
        all_axes[0].legend(frameon=False, ncols=2, loc="lower right")
    return figure


def best_epoch_chart(curves: Mapping[str, pd.DataFrame], best: Mapping[str, BestEpoch]) -> Figure:
    """The criterion of C2 by epoch and seed, and below it where the bootstrap puts the best epoch.

    Args:
        curves: by reading: focus lift, a row an epoch, a column a seed.
        best: by reading: the best epoch with its interval.
    """
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            2, len(curves), figsize=(PAGE, 3.2), sharex="col", sharey="row", height_ratios=(2, 1), squeeze=False
        )
        for i, (reading, curve) in enumerate(curves.items()):
            upper, lower = grid[:, i]
            _seed_lines(upper, curve, f"C{i}", "mean over seeds")
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
        changes: columns ``reading``, ``largest_change``, a row per image and seed.
        same: below this a map counts as unchanged.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 2.2))
        sns.histplot(
            changes, x="largest_change", hue="reading", bins=np.linspace(0, 2, 41), element="step", stat="probability",
            common_norm=False, ax=axes,
        )  # fmt: skip
        axes.axvline(same, color="0.3", linewidth=0.8, linestyle=":")
        axes.set(xlabel="largest change of the map (1 - correlation)", ylabel="share of images and seeds")
        legend = axes.get_legend()
        if legend:
            legend.set_title("")
            legend.set_frame_on(False)
    return figure


def share_chart(shares: pd.DataFrame) -> Figure:
    """Share of images that D looks around rather than at, with intervals, by variant and padding.

    Args:
        shares: columns ``variant``, ``padding``, ``estimate``, ``low``, ``high``.
    """
    variants = list(dict.fromkeys(shares["variant"]))
    paddings = list(dict.fromkeys(shares["padding"]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(PAGE * 0.75, 0.28 * len(variants) + 0.8))
        for i, padding in enumerate(paddings):
            rows = shares[shares["padding"] == padding].set_index("variant").reindex(variants)
            place = np.arange(len(variants)) + 0.22 * (i - (len(paddings) - 1) / 2)
            error = np.abs(rows[["low", "high"]].to_numpy().T - rows["estimate"].to_numpy())
            axes.errorbar(rows["estimate"], place, xerr=error, fmt="os"[i], capsize=2, ms=4, label=f"{padding} padding")
        axes.set_yticks(range(len(variants)), variants)
        axes.invert_yaxis()
        axes.set(xlim=(-0.02, 1.02), xlabel="share of images with a focus lift below 1 (less on the digit than chance)")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _show_image(axes: Axes, image: Tensor) -> None:
    picture = image.movedim(0, -1).float().cpu()
    low, high = (0, 255) if image.dtype == torch.uint8 else (-1, 1)
    axes.imshow(((picture - low) / (high - low)).clamp(0, 1).expand(-1, -1, 3))
    _bare(axes)


def _show_heat(axes: Axes, image: Tensor, heatmap: Tensor):  # noqa: ANN202 - matplotlib's AxesImage
    shown = axes.imshow(heatmap.cpu(), cmap=HEAT, vmin=0, vmax=1)
    brightness = image.float().amax(0).cpu() / 127.5 - 1 if image.dtype == torch.uint8 else image.amax(0).cpu()
    axes.contour(brightness, levels=[MASK_THRESHOLD], colors="white", linewidths=0.5)
    if not heatmap.any():
        axes.text(0.5, 0.5, "zero", transform=axes.transAxes, color="white", ha="center", va="center", size=6)
    _bare(axes)
    return shown


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _seed_lines(axes: Axes, curve: pd.DataFrame, colour: str, name: str) -> None:
    """One thin line a column (seed) and their mean."""
    if curve.shape[1] > 1:
        axes.plot(curve.index, curve, color=colour, linewidth=0.5, alpha=0.6)
    axes.plot(curve.index, curve.mean(axis=1), color=colour, linewidth=1.5, label=name)


def _mark_paper_epochs(axes: Axes, last: int) -> None:
    """Dotted lines at the epochs that the paper names."""
    for epoch, claim in ((CLEAREST_EPOCH, "C1"), (BEST_EPOCH, "C2")):
        if epoch <= last:
            axes.axvline(epoch, color="0.6", linewidth=0.7, linestyle=":", zorder=0)
            axes.annotate(claim, (epoch, 1), xycoords=("data", "axes fraction"), ha="center", va="top", size=6, color="0.4")

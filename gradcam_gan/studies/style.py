"""What the figures of several notebooks share: their style, grids of pictures and heatmaps, intervals, curves.

Colours are seaborn's colour-blind palette; heatmaps are inferno, dark to bright, always with a colour bar that
says what was divided by what.
"""

from collections.abc import Sequence
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

from gradcam_gan.explaining.measures import normalise, object_masks
from gradcam_gan.studies.panels import Panel

COLUMN, PAGE = 3.4, 7.0  # widths in inches of one and of two columns of a paper
HEAT = "inferno"
SIGNED = "RdBu_r"  # red for "real", blue for "fake", white for neither
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
    "figure.dpi": 110,  # on screen; files have their own
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
}

GAP = 2  # white pixels between the pictures of a grid


def heatmap_grid(panel: Panel, *, title: str = "", unit: str = "evidence") -> Figure:
    """A row of original images, then the heatmaps below each, such as the paper's Figure 1.

    Each map is divided by its own maximum, as pytorch-grad-cam shows it, so brightness compares places within a
    map and not one map with another. The digit's outline is drawn over it; a map that is zero everywhere
    is marked "zero". Where the panel has what the network saw, that shines through, half and half. ``unit`` is what the
    maps are of, for the colour bar.
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
            right=0.75,
        )
        outline = object_masks(panel.images, panel.masks).float().expand(len(panel.rows), -1, -1, -1)
        mosaic = _mosaic(torch.cat([torch.zeros_like(outline[:1]), outline])[..., None], 0.0)[..., 0]
        axes.contour(mosaic, levels=[0.5], colors="white", linewidths=0.5)
        for row, column in (~heat.any(3).any(2)).nonzero().tolist():
            cell = (centres[1][column], centres[0][row + 1])
            axes.annotate("zero", cell, color="white", ha="center", va="center", size=6)
        place = axes.get_position()
        bar_axes = figure.add_axes((place.x1 + 0.08 / PAGE, place.y0, 0.12 / PAGE, place.height))
        figure.colorbar(plt.cm.ScalarMappable(cmap=HEAT), cax=bar_axes, label=f"{unit} / maximum")
    return figure


def picture_rows(
    pictures: Tensor | Sequence[Tensor], rows: Sequence[str], columns: Sequence[str] | None = None
) -> Figure:
    """Rows of images, uint8 or in [-1, 1].

    Args:
        pictures: (R, K, C, H, W), or R rows (K, C, H, W).
        rows: R labels.
        columns: K labels; None: none.
    """
    shown = torch.stack([as_rgb(images) for images in pictures])
    with plt.rc_context(STYLE):
        return picture_grid(shown, rows, columns or [""] * shown.shape[1])[0]


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
    pictures: Tensor, rows: Sequence[str], columns: Sequence[str], title: str = "", *, right: float = 0.05
) -> tuple[Figure, Axes, tuple[np.ndarray, np.ndarray]]:
    """One axes that shows pictures (R, K, H, W, 3) as a grid: the figure, the axes, and the cells' centres (y, x).

    A single image instead of a subplot a picture: twenty times faster to lay out and save. ``right`` is the
    margin in inches for a colour bar.
    """
    down, across = (size + GAP for size in pictures.shape[2:4])
    centres = (np.arange(len(rows)) + 0.5) * down - GAP, (np.arange(len(columns)) + 0.5) * across - GAP
    left = 0.1 + 0.065 * max(len(line) for label in rows for line in label.split("\n"))
    lines = max(label.count("\n") + 1 for label in columns) if "".join(columns) else 0
    head = 0.05 + 0.12 * lines + 0.2 * bool(title)
    drawn_width = PAGE - left - right
    drawn_height = drawn_width * (down * len(rows)) / (across * len(columns))
    height = drawn_height + head + 0.05
    figure = plt.figure(figsize=(PAGE, height), layout="none")
    axes = figure.add_axes((left / PAGE, 0.05 / height, drawn_width / PAGE, drawn_height / height))
    axes.imshow(_mosaic(pictures, 1.0).numpy(), interpolation="nearest", aspect="auto")
    axes.set_yticks(centres[0], rows)
    axes.set_xticks(centres[1], columns)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        figure.text((left + drawn_width / 2) / PAGE, 1 - 0.04 / height, title, ha="center", va="top")
    return figure, axes, centres


def intervals(
    axes: Axes,
    rows: pd.DataFrame,
    place: np.ndarray | pd.Series | Sequence[float],
    *,
    upright: bool = False,
    **style: Any,  # noqa: ANN401
) -> None:
    """Estimates with their intervals, a line each from left to right, or upright from low to high.

    Args:
        axes: to draw on.
        rows: columns ``estimate``, ``low``, ``high``; NaN bounds draw no bar, a NaN estimate nothing.
        place: where, one a row: heights, or x-values of upright ones.
        upright: whether the estimates are heights.
        style: of matplotlib's ``errorbar``, such as ``color`` and ``fmt``.
    """
    error = np.nan_to_num(np.abs(rows[["low", "high"]].to_numpy().T - rows["estimate"].to_numpy()))
    style = {"ms": 4, "capsize": 2} | style
    if upright:
        axes.errorbar(place, rows["estimate"], yerr=error, **style)
    else:
        axes.errorbar(rows["estimate"], place, xerr=error, **style)


def network_ticks(axes: Axes, values: pd.Series, height: float) -> None:
    """A small tick for the value of each network, all at one height."""
    axes.plot(values, np.full(len(values), height), "|", color="0.3", ms=6, mew=0.8)


def legend_above(figure: Figure, axes: Axes, columns: int) -> None:
    """One legend over all panels, of what one of them shows."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, ncols=columns, loc="outside upper center")


def seed_lines(axes: Axes, curve: pd.DataFrame, colour: str, name: str) -> None:
    """One thin line a column (seed) and their mean."""
    if curve.shape[1] > 1:
        axes.plot(curve.index, curve, color=colour, linewidth=0.5, alpha=0.6)
    axes.plot(curve.index, curve.mean(axis=1), color=colour, linewidth=1.5, label=name)

"""What goes into a grid of heatmaps: images, maps, labels, and the numbers behind them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.data import to_model_range
from gradcam_gan.run_explainer import ExplainedRun, Reading


@dataclass(frozen=True)
class Panel:
    """One grid: ``style.heatmap_grid`` draws it.

    Attributes:
        images: uint8 (K, C, H, W), one a column.
        maps: (R, K, H, W), unnormalised.
        rows: R labels.
        columns: K labels.
        table: the numbers behind it (``ExplainedRun.table``).
        seen: (R, K, C, H, W) in [-1, 1], what the network saw in each cell, to be shown through the map; None: the map
            alone.
    """

    images: Tensor
    maps: Tensor
    rows: list[str]
    columns: list[str]
    table: pd.DataFrame
    seen: Tensor | None = None


def panel(explained: ExplainedRun, readings: Sequence[Reading], captions: Sequence[str]) -> Panel:
    """A row an epoch; columns: every image under the first reading, then under the next; the image shines through.

    Args:
        explained: R epochs, N images.
        readings: r of them.
        captions: r * N, one a column.
    """
    images = explained.images.repeat(len(readings), 1, 1, 1)
    return Panel(
        images,
        torch.cat([explained.maps(reading) for reading in readings], 1),
        [f"epoch {epoch}" for epoch in explained.epochs],
        list(captions),
        explained.table(readings),
        to_model_range(images).expand(len(explained.epochs), *images.shape),
    )


def strip(explained: ExplainedRun, readings: Sequence[Reading], names: Sequence[str]) -> Panel:
    """One image: a row a reading, a column an epoch.

    Args:
        explained: of the image alone, uint8 (1, C, H, W).
        readings: R of them.
        names: R, of the rows.
    """
    count = len(explained.epochs)
    images = explained.images.expand(count, -1, -1, -1)
    return Panel(
        images,
        torch.stack([explained.maps(reading)[:, 0] for reading in readings]),
        list(names),
        [str(epoch) for epoch in explained.epochs],
        explained.table(readings),
        to_model_range(images).expand(len(readings), *images.shape),
    )


def beside(*panels: Panel) -> Panel:
    """Panels of the same rows as one, their columns and tables in order."""
    return Panel(
        torch.cat([one.images for one in panels]),
        torch.cat([one.maps for one in panels], 1),
        panels[0].rows,
        [caption for one in panels for caption in one.columns],
        pd.concat([one.table for one in panels], ignore_index=True),
    )

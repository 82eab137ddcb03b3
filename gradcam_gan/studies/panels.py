"""What goes into a grid of heatmaps: images, maps, labels, and the numbers behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.run_explainer import STATISTICS, ExplainedRun, Reading
from gradcam_gan.studies.readings import ALL_READINGS, COMPARED_METHODS, EVIDENCES


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
    """A row an epoch; columns: every image under the first reading, then under the next.

    Args:
        explained: R epochs, N images.
        readings: r of them.
        captions: r * N, one a column.
    """
    return Panel(
        explained.images.repeat(len(readings), 1, 1, 1),
        torch.cat([explained.maps(reading) for reading in readings], 1),
        [f"epoch {epoch}" for epoch in explained.epochs],
        list(captions),
        explained.table(readings),
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


def every_reading(*explained: ExplainedRun) -> Panel:
    """One image: a column per run, method and statistics; a row per evidence and epoch.

    Args:
        explained: the image alone, uint8 (1, C, H, W), at the same epochs of runs that differ in their padding.
    """
    columns = list(product(explained, COMPARED_METHODS, STATISTICS))
    maps = [
        torch.cat([one.maps(Reading(method, statistics, evidence)) for evidence in EVIDENCES])
        for one, method, statistics in columns
    ]
    return Panel(
        explained[0].images.repeat(len(columns), 1, 1, 1),
        torch.cat(maps, 1),
        [f"{evidence}, {epoch}" for evidence in EVIDENCES for epoch in explained[0].epochs],
        [f"{one.run.config.padding}\n{METHODS[method].label}\n{kind}" for one, method, kind in columns],
        pd.concat([one.table(ALL_READINGS) for one in explained], ignore_index=True),
    )

"""What goes into a grid of heatmaps: images, maps, labels, and the numbers behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.run_explainer import (
    STATISTICS,
    ExplainedRun,
    Reading,
    RunExplainer,
    Statistics,
)
from gradcam_gan.studies.epochs import heatmap_table
from gradcam_gan.studies.readings import ALL_READINGS, COMPARED_METHODS, EVIDENCES


@dataclass(frozen=True)
class Panel:
    """One grid: ``plots.heatmap_grid`` draws it.

    Attributes:
        images: uint8 (K, C, H, W), one a column.
        maps: (R, K, H, W), unnormalised.
        rows: R labels.
        columns: K labels.
        table: the numbers behind it (``heatmap_table``).
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


def evidence_panel(
    explainer: RunExplainer,
    images: Tensor,
    names: Sequence[str],
    epochs: Sequence[int],
    statistics: Statistics,
) -> Panel:
    """Figure 1: Grad-CAM of the same images for "real" (left half) and for "fake" (right half), a row an epoch.

    Args:
        explainer: of a run.
        images: uint8 (K, C, H, W).
        names: K of them.
        epochs: R epochs.
        statistics: of BatchNorm, as in ``Reading``.
    """
    variants = [Reading("gradcam", statistics, evidence) for evidence in EVIDENCES]
    return Panel(
        images.repeat(len(variants), 1, 1, 1),
        torch.cat([explainer.maps(images, epochs, variant) for variant in variants], 1),
        [f"epoch {epoch}" for epoch in epochs],
        [f"{name}, {variant.evidence}" for variant in variants for name in names],
        heatmap_table(explainer, images, epochs, variants),
    )


def probe_panel(
    explainer: RunExplainer, images: Tensor, labels: Sequence[str], epochs: Sequence[int], variant: Reading
) -> Panel:
    """Some images under one variant, a row an epoch. Arguments as for ``evidence_panel``."""
    return Panel(
        images,
        explainer.maps(images, epochs, variant),
        [f"epoch {epoch}" for epoch in epochs],
        list(labels),
        heatmap_table(explainer, images, epochs, [variant]),
    )


def variant_panel(explainers: Sequence[RunExplainer], image: Tensor, epochs: Sequence[int]) -> Panel:
    """One image: a column per run, method and statistics; a row per evidence and epoch.

    Args:
        explainers: such as of one run per padding.
        image: uint8 (1, C, H, W).
        epochs: R / 2 epochs.
    """
    styles = list(product(explainers, COMPARED_METHODS, STATISTICS))

    def column(explainer: RunExplainer, method: str, statistics: Statistics) -> Tensor:
        both = [Reading(method, statistics, evidence) for evidence in EVIDENCES]
        return torch.cat([explainer.maps(image, epochs, variant) for variant in both])

    return Panel(
        image.repeat(len(styles), 1, 1, 1),
        torch.cat([column(*style) for style in styles], 1),
        [f"{evidence}, {epoch}" for evidence in EVIDENCES for epoch in epochs],
        [
            f"{explainer.run.config.padding}\n{METHODS[method].label}\n{statistics}"
            for explainer, method, statistics in styles
        ],
        pd.concat([heatmap_table(one, image, epochs, ALL_READINGS) for one in explainers], ignore_index=True),
    )


def describe_evidence(panel: Panel) -> str:
    """What a panel shows before one looks at any pattern: empty maps, and whether D is right.

    Args:
        panel: of real images, from ``evidence_panel``.
    """
    by_evidence = panel.table.groupby("evidence")["all_zero"]
    empty = "; ".join(f"for “{evidence}” {rows.sum()} of {len(rows)}" for evidence, rows in by_evidence)
    logits = panel.table.drop_duplicates(["epoch", "image"])["logit"]
    return (
        f"Maps that are zero everywhere: {empty}. "
        f"All these images are real, and D calls {(logits > 0).sum()} of {len(logits)} (image, epoch) pairs real."
    )

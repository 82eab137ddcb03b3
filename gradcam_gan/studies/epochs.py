"""Until their callers take a run explained: measures and numbers of a grid straight from an explainer."""

from collections.abc import Iterable, Sequence

import pandas as pd
from torch import Tensor

from gradcam_gan.run_explainer import Reading, RunExplainer
from gradcam_gan.studies.epoch_heatmaps.tables import MOSTLY_ZERO as MOSTLY_ZERO
from gradcam_gan.studies.epoch_heatmaps.tables import clearness as clearness
from gradcam_gan.studies.readings import ALL_READINGS


def measure_epochs(
    explainer: RunExplainer,
    images: Tensor,
    *,
    epochs: Iterable[int] | None = None,
    variants: Sequence[Reading] = ALL_READINGS,
    labels: Tensor | None = None,
    time: int = 0,
) -> pd.DataFrame:
    """``ExplainedRun.measures``."""
    statistics = list(dict.fromkeys(reading.statistics for reading in variants))
    shown = None if epochs is None else list(epochs)
    return explainer.explain(images, shown, statistics=statistics, labels=labels, time=time).measures(
        variants
    )


def heatmap_table(
    explainer: RunExplainer,
    images: Tensor,
    epochs: Sequence[int],
    variants: Sequence[Reading],
    labels: Tensor | None = None,
    time: int = 0,
) -> pd.DataFrame:
    """``ExplainedRun.table``."""
    statistics = list(dict.fromkeys(reading.statistics for reading in variants))
    return explainer.explain(images, epochs, statistics=statistics, labels=labels, time=time).table(variants)

"""A run's discriminators compared over the epochs: their maps, the measures of these, and what changes.

An explanation depends on choices that the paper leaves open, and each may decide a claim: the method, the
statistics that BatchNorm uses, and whether evidence for "real" or for "fake" is shown. A ``Variant`` names one
combination; every table here has them as columns.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from gradcam_gan.batchnorm import batch_statistics, calibrate
from gradcam_gan.explain import Evidence, Method, evidence_maps, explain, logits
from gradcam_gan.measures import map_change, measures
from gradcam_gan.networks import to_model_range
from gradcam_gan.runs import Run

Statistics = Literal["reference", "running", "batch"]


@dataclass(frozen=True)
class Variant:
    """One way to explain a discriminator: the paper's unstated choices, stated.

    Attributes:
        method: ``gradcam`` or ``hirescam``.
        statistics: of BatchNorm: ``reference`` (recomputed on real images), ``running`` (as trained; what
            pytorch-grad-cam uses) or ``batch`` (of the batch explained).
        evidence: ``real`` or ``fake``.
    """

    method: Method = "gradcam"
    statistics: Statistics = "reference"
    evidence: Evidence = "real"

    def __str__(self) -> str:
        """Such as ``Grad-CAM, reference, real``."""
        name = {"gradcam": "Grad-CAM", "hirescam": "HiResCAM"}[self.method]
        return f"{name}, {self.statistics}, {self.evidence}"


# what pytorch-grad-cam shows when it is given a DCGAN discriminator: the paper's most likely reading
AS_PUBLISHED = Variant("gradcam", "running", "real")
# the same method on a discriminator that tells real from fake (see ``calibrate``)
CALIBRATED = Variant("gradcam", "reference", "real")
VARIANTS = tuple(
    Variant(method, statistics, evidence)
    for method, statistics, evidence in product(
        get_args(Method), ("reference", "running"), ("real", "fake")
    )
)


def with_statistics(discriminator: nn.Module, statistics: Statistics, reference: Tensor) -> nn.Module:
    """The discriminator in eval mode under one kind of BatchNorm statistics; the one given is not changed."""
    if statistics == "reference":
        return calibrate(discriminator, reference)
    return batch_statistics(discriminator) if statistics == "batch" else discriminator


def measure_epochs(
    run: Run,
    images: Tensor,
    reference: Tensor,
    *,
    epochs: Iterable[int] | None = None,
    variants: Sequence[Variant] = VARIANTS,
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """Measure the maps of the same images at every epoch of a run.

    Args:
        run: a training run.
        images: uint8 (N, C, H, W), the images to explain.
        reference: uint8 (M, C, H, W), real images for the ``reference`` statistics.
        epochs: which, by default all that are saved, the untrained epoch 0 among them.
        variants: ways to explain.
        device: where to compute.

    Returns:
        A row per epoch, variant and image: ``padding``, ``seed``, ``epoch``, ``method``, ``statistics``,
        ``evidence``, ``image`` (index), ``logit`` and the columns of ``measures``.
    """
    images, reference = images.to(device), reference.to(device)
    tables = []
    for epoch in run.epochs if epochs is None else epochs:
        trained = run.discriminator(epoch, device)
        for statistics in dict.fromkeys(variant.statistics for variant in variants):
            discriminator = with_statistics(trained, statistics, reference)
            with torch.no_grad():
                score = logits(discriminator, to_model_range(images)).cpu().numpy()
            for method in dict.fromkeys(v.method for v in variants if v.statistics == statistics):
                signed = explain(discriminator, images, method=method, evidence="signed", upsample=False)
                for evidence in (v.evidence for v in variants if (v.method, v.statistics) == (method, statistics)):
                    table = measures(evidence_maps(signed, evidence, images.shape[2:]), images)
                    keys = {"padding": run.config.padding, "seed": run.config.seed, "epoch": epoch}
                    keys |= {"method": method, "statistics": statistics, "evidence": evidence}
                    tables.append(
                        table.assign(**keys, image=np.arange(len(images)), logit=score)
                    )
    table = pd.concat(tables, ignore_index=True)
    first = ["padding", "seed", "epoch", "method", "statistics", "evidence", "image", "logit"]
    return table[[*first, *(column for column in table if column not in first)]]


def epoch_maps(
    run: Run,
    images: Tensor,
    reference: Tensor,
    epochs: Sequence[int],
    variant: Variant = CALIBRATED,
    *,
    upsample: bool = True,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Unnormalised maps (E, N, H, W) of the same images at several epochs, on the CPU.

    Args: as for ``measure_epochs``; with ``upsample=False`` the maps keep the layer's resolution.
    """
    images, reference = images.to(device), reference.to(device)
    return torch.stack(
        [
            explain(
                with_statistics(run.discriminator(epoch, device), variant.statistics, reference),
                images,
                method=variant.method,
                evidence=variant.evidence,
                upsample=upsample,
            ).cpu()
            for epoch in epochs
        ]
    )


def change_between(maps: Tensor) -> Tensor:
    """Change of each image's map from one epoch to the next: (E, N, H, W) -> (E - 1, N).

    1 - Pearson's correlation: 0 the same pattern, 1 unrelated, 2 reversed. Where a map is constant (all zero)
    there is no correlation: two constant maps are the same picture (0), one of them is another picture (1).
    """
    changes = torch.stack([map_change(before, after) for before, after in zip(maps, maps[1:], strict=False)])
    constant = maps.flatten(2).std(2) == 0
    both = (constant[:-1] & constant[1:]).to(changes)
    return torch.where(changes.isnan(), 1 - both, changes)


def clearness(table: pd.DataFrame, by: Sequence[str]) -> pd.Series:
    """Mean focus lift by the given columns; an all-zero map shows nothing and counts as chance (1)."""
    lift = table["focus_lift"].where(~table["all_zero"], 1.0)
    return lift.groupby([table[column] for column in by]).mean()


def best_epochs(
    table: pd.DataFrame, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> "BestEpoch":
    """The epoch with the clearest maps (claim C2), with a bootstrap interval over seeds and images.

    The criterion: the largest mean focus lift over images and seeds, epoch 0 (untrained) left out. Resampled:
    the seeds, and within them the images, each with replacement.

    Args:
        table: rows of ``measure_epochs`` of one padding and one variant.
        resamples: number of bootstrap resamples.
        confidence: of the interval.
        seed: of the resampling.
    """
    table = table[table["epoch"] > 0]
    lift = table["focus_lift"].where(~table["all_zero"], 1.0)
    cube = table.assign(lift=lift).pivot_table("lift", ["seed", "image"], "epoch")
    epochs = cube.columns.to_numpy()
    by_seed = np.stack([rows.to_numpy() for _, rows in cube.groupby(level="seed")])  # (S, N, E)
    random = np.random.default_rng(seed)
    seeds, images, _ = by_seed.shape
    drawn = np.empty(resamples, dtype=int)
    for resample in range(resamples):
        curve = np.zeros(len(epochs))
        for chosen in random.integers(seeds, size=seeds):
            # multinomial counts are a resample of the images, without copying them
            counts = random.multinomial(images, np.full(images, 1 / images))
            curve += counts @ by_seed[chosen]
        drawn[resample] = epochs[curve.argmax()]
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], method="inverted_cdf")
    means = by_seed.mean(1)
    return BestEpoch(
        epoch=int(epochs[means.mean(0).argmax()]),
        low=int(low),
        high=int(high),
        by_seed={int(name): int(epochs[curve.argmax()]) for name, curve in zip(cube.index.unique("seed"), means)},
        drawn=pd.Series(drawn).value_counts(normalize=True).reindex(epochs, fill_value=0.0),
    )


@dataclass(frozen=True)
class BestEpoch:
    """The epoch whose maps are clearest.

    Attributes:
        epoch: of the mean over seeds.
        low: lower bound of the interval.
        high: upper bound.
        by_seed: the clearest epoch of each seed alone.
        drawn: share of bootstrap resamples in which each epoch was the clearest.
    """

    epoch: int
    low: int
    high: int
    by_seed: dict[int, int]
    drawn: pd.Series

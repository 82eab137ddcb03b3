"""A run's discriminators compared over the epochs: the measures of their maps, and what changes.

Every table here has the choices of ``Reading`` as columns: ``method``, ``statistics``, ``evidence``.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.explaining.cam import evidence_maps
from gradcam_gan.explaining.measures import digit_mask, map_change, measure
from gradcam_gan.intervals import Interval, interval_over_seeds
from gradcam_gan.run_explainer import Reading, RunExplainer
from gradcam_gan.studies.readings import ALL_READINGS

MOSTLY_ZERO = 0.5  # where a larger share of the maps is zero everywhere, the others say nothing of the whole


def measure_epochs(
    explainer: RunExplainer,
    images: Tensor,
    *,
    epochs: Iterable[int] | None = None,
    variants: Sequence[Reading] = ALL_READINGS,
    labels: Tensor | None = None,
    time: int = 0,
) -> pd.DataFrame:
    """Measure the maps of the same images at every epoch of a run.

    Args:
        explainer: of the run.
        images: uint8 (N, C, H, W), the images to explain.
        epochs: which, by default all that are saved, the untrained epoch 0 among them.
        variants: ways to explain.
        labels: classes (N,) that a conditional network is told.
        time: to which the images are diffused first; the measures look for the digit where it is undiffused.

    Returns:
        A row per epoch, variant and image: ``padding``, ``seed``, ``epoch``, ``method``, ``statistics``,
        ``evidence``, ``image`` (index), ``logit`` and the columns of ``measure``.
    """
    config = explainer.run.config
    images = images.to(explainer.device)
    tables = []
    for epoch in explainer.run.epochs if epochs is None else epochs:
        for statistics in dict.fromkeys(variant.statistics for variant in variants):
            shown = [variant for variant in variants if variant.statistics == statistics]
            signed, score = explainer.signed(images, epoch, statistics, labels=labels, time=time)
            for variant in shown:
                maps = evidence_maps(signed[variant.method], variant.evidence, images.shape[2:])
                keys = {"padding": config.padding, "seed": config.seed, "epoch": epoch, **asdict(variant)}
                indexed = {"image": np.arange(len(images)), "logit": score.cpu().numpy()}
                tables.append(measure(maps, digit_mask(images)).assign(**keys, **indexed))
    table = pd.concat(tables, ignore_index=True)
    first = ["padding", "seed", "epoch", "method", "statistics", "evidence", "image", "logit"]
    return table[[*first, *(column for column in table if column not in first)]]


def heatmap_table(
    explainer: RunExplainer,
    images: Tensor,
    epochs: Sequence[int],
    variants: Sequence[Reading],
    labels: Tensor | None = None,
    time: int = 0,
) -> pd.DataFrame:
    """The numbers behind a grid of heatmaps: measures, and every map at the layer's own resolution.

    Args: as for ``measure_epochs``.

    Returns:
        Its rows, and the map's values in columns ``map_<row>_<column>``, in units of the logit.
    """
    table = measure_epochs(explainer, images, epochs=epochs, variants=variants, labels=labels, time=time)
    maps = torch.stack(
        [
            explainer.maps(images, epochs, variant, upsample=False, labels=labels, time=time)
            for variant in variants
        ]
    )
    height, width = maps.shape[-2:]
    keys = pd.MultiIndex.from_product(
        [[str(variant) for variant in variants], list(epochs), range(len(images))],
        names=["variant", "epoch", "image"],
    )
    names = [f"map_{row}_{column}" for row in range(height) for column in range(width)]
    values = pd.DataFrame(maps.reshape(-1, height * width).numpy(), keys, names)
    variant = [str(Reading(*row)) for row in table[["method", "statistics", "evidence"]].to_numpy()]
    return table.assign(variant=variant).merge(values.reset_index(), on=["variant", "epoch", "image"])


def change_between(maps: Tensor) -> Tensor:
    """Change of each image's map from one epoch to the next: (E, N, H, W) -> (E - 1, N).

    1 - Pearson's correlation: 0 the same pattern, 1 unrelated, 2 reversed. Where a map is constant (all zero)
    there is no correlation: two constant maps are the same picture (0), one of them is another picture (1).
    """
    changes = torch.stack([map_change(before, after) for before, after in pairwise(maps)])
    constant = maps.amax((2, 3)) == maps.amin((2, 3))  # a rounded standard deviation may not be 0
    both = (constant[:-1] & constant[1:]).to(changes)
    return torch.where(changes.isnan(), 1 - both, changes)


def changes_of_rows(
    explainer: RunExplainer, images: Tensor, epochs: Sequence[int], variants: Sequence[Reading]
) -> pd.DataFrame:
    """How much each image's map changes between neighbouring rows of Figure 1 (claim C3).

    Args: as for ``measure_epochs``, and ``epochs``: Figure 1's rows.

    Returns:
        A row per variant and image: ``padding``, ``seed``, ``method``, ``statistics``, ``evidence``, ``image``,
        ``mean_change`` and ``largest_change`` (``change_between``, 0 to 2) at the layer's resolution; NaN for an
        image whose map is zero in every row: it shows no feature that could stay.
    """
    config = explainer.run.config
    tables = []
    for variant in variants:
        maps = explainer.maps(images, epochs, variant, upsample=False)
        changes = change_between(maps)
        changes[:, ~maps.flatten(2).any(2).any(0)] = torch.nan
        keys = {"padding": config.padding, "seed": config.seed, **asdict(variant)}
        columns = {"mean_change": changes.mean(0), "largest_change": changes.amax(0)}
        tables.append(pd.DataFrame({**keys, "image": range(len(images)), **columns}))
    return pd.concat(tables, ignore_index=True)


def extreme_probes(
    changes: pd.DataFrame, variant: Reading, seed: int, count: int
) -> tuple[list[int], list[int]]:
    """The images whose map changes most over the epochs, and those whose map changes least (claim C3).

    Args:
        changes: rows of ``changes_of_rows``.
        variant: of which maps.
        seed: of which network.
        count: how many of each.

    Returns:
        Image indices, each list from the most extreme on. Images come in the first list by ``mean_change``,
        in the second by ``largest_change``: to stay, a map must stay in every row.
    """
    rows = select(changes[changes["seed"] == seed], variant).set_index("image")
    most = rows["mean_change"].sort_values(ascending=False, kind="stable")
    least = rows["largest_change"].sort_values(kind="stable")
    return most.index[:count].tolist(), least.index[:count].tolist()


def select(table: pd.DataFrame, variant: Reading) -> pd.DataFrame:
    """The rows of one variant, of a table that has its choices as columns."""
    return table[
        (table["method"] == variant.method)
        & (table["statistics"] == variant.statistics)
        & (table["evidence"] == variant.evidence)
    ]


def image_as_map(images: Tensor) -> float:
    """Mean focus lift of the images themselves, each taken as its own heatmap.

    Args:
        images: uint8 (N, C, H, W).
    """
    return float(measure(images.float().amax(1), digit_mask(images))["focus_lift"].mean())


def focus_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Focus lift by variant and epoch, over seeds.

    Args:
        table: rows of ``measure_epochs`` of one padding.

    Returns:
        Columns ``method``, ``statistics``, ``evidence``, ``epoch``, ``estimate``, ``low``, ``high`` (Student's
        95 % interval over seeds; over images where there are fewer than three seeds), ``n``, ``unit`` and
        ``all_zero``, the share of maps that are zero everywhere: those have no focus and are left out, and where
        they are more than half, so is the estimate.
    """
    rows = []
    for variant in ALL_READINGS:
        for epoch, group in select(table, variant).groupby("epoch"):
            zero = group["all_zero"].mean()
            found = interval_over_seeds(group, "focus_lift", method="student")
            if zero > MOSTLY_ZERO:
                found = replace(found, estimate=math.nan, low=math.nan, high=math.nan)
            rows.append({**asdict(variant), "epoch": epoch, **_bounds(found), "all_zero": zero})
    return pd.DataFrame(rows)


def _bounds(found: Interval) -> dict[str, object]:
    return {key: getattr(found, key) for key in ("estimate", "low", "high", "n", "unit")}


def off_digit_shares(table: pd.DataFrame, epoch: int) -> pd.DataFrame:
    """Share of images whose map puts less than chance on the digit (focus lift below 1), claim C5.

    Args:
        table: rows of ``measure_epochs``.
        epoch: at which.

    Returns:
        A row per variant and padding: ``variant``, ``padding``, ``estimate``, ``low``, ``high`` (as in
        ``focus_summary``), ``n``, ``unit``, ``all_zero`` (share of maps without any evidence; left out, as
        are images without a digit), and ``border_lift``, the mean over the other maps.
    """
    rows = []
    shown = table[table["epoch"] == epoch]
    for variant in ALL_READINGS:
        for padding, group in select(shown, variant).groupby("padding", sort=False):
            maps = group[~group["all_zero"]]
            told_apart = maps.dropna(subset="focus_lift")
            off = told_apart.assign(off=(told_apart["focus_lift"] < 1).astype(float))
            found = interval_over_seeds(off, "off", method="student")
            found = replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))
            extra = {"all_zero": group["all_zero"].mean(), "border_lift": maps["border_lift"].mean()}
            rows.append({"variant": str(variant), "padding": padding, **_bounds(found), **extra})
    return pd.DataFrame(rows)


def clearness(table: pd.DataFrame, *rows: str) -> pd.DataFrame:
    """Mean focus lift: a row per value of the given columns, a column per epoch.

    An all-zero map shows nothing, so it counts as chance (1). Images without a digit (an empty mask, or a full
    one) are left out.
    """
    has_digit = table["mask_area"].between(0, 1, inclusive="neither")
    lift = table["focus_lift"].where(~table["all_zero"], 1.0).where(has_digit)
    return table.assign(lift=lift).pivot_table("lift", list(rows), "epoch")


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
    cube = clearness(table[table["epoch"] > 0], "seed", "image")
    epochs = cube.columns.to_numpy()
    by_seed = np.stack([rows.to_numpy() for _, rows in cube.groupby(level="seed")])  # (S, N, E)
    random = np.random.default_rng(seed)
    seeds, images, _ = by_seed.shape
    drawn = np.empty(resamples, dtype=int)
    for resample in range(resamples):
        curve = np.zeros(len(epochs))
        for chosen in random.integers(seeds, size=(seeds,)).tolist():
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
        by_seed={
            int(name): int(epochs[curve.argmax()])
            for name, curve in zip(cube.index.unique("seed"), means, strict=True)
        },
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

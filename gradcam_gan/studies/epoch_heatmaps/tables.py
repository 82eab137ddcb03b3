"""The discriminators of a study compared over the epochs: what their maps look at, and what of it changes.

Every table here has the choices of ``Reading`` as columns ``method``, ``statistics``, ``evidence``, or a reading's
name as column ``reading``.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from gradcam_gan.explaining.measures import digit_mask, map_change, measure
from gradcam_gan.intervals import interval_over_seeds
from gradcam_gan.run_explainer import ExplainedRun, Reading
from gradcam_gan.studies.claims import columns_of, within
from gradcam_gan.studies.readings import ALL_READINGS, READINGS

MOSTLY_ZERO = 0.5  # where a larger share of the maps is zero everywhere, the others say nothing of the whole
ROUNDING = 1e-12  # what is left of 0 where one follows the epoch exactly


def select(table: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """The rows of one reading, of a table that has its choices as columns."""
    return table[
        (table["method"] == reading.method)
        & (table["statistics"] == reading.statistics)
        & (table["evidence"] == reading.evidence)
    ]


def change_between(maps: Tensor) -> Tensor:
    """Change of each image's map from one epoch to the next: (E, N, H, W) -> (E - 1, N).

    1 - Pearson's correlation: 0 the same pattern, 1 unrelated, 2 reversed. Where a map is constant (all zero)
    there is no correlation: two constant maps are the same picture (0), one of them is another picture (1).
    """
    changes = torch.stack([map_change(before, after) for before, after in pairwise(maps)])
    constant = maps.amax((2, 3)) == maps.amin((2, 3))  # a rounded standard deviation may not be 0
    both = (constant[:-1] & constant[1:]).to(changes)
    return torch.where(changes.isnan(), 1 - both, changes)


def changes_of_rows(explained: ExplainedRun, readings: Sequence[Reading]) -> pd.DataFrame:
    """How much each image's map changes between neighbouring rows of Figure 1, its epochs (claim C3).

    Returns:
        A row per reading and image: ``padding``, ``seed``, ``method``, ``statistics``, ``evidence``, ``image``,
        ``mean_change`` and ``largest_change`` (``change_between``, 0 to 2) at the layer's resolution; NaN for an
        image whose map is zero in every row: it shows no feature that could stay.
    """
    config, tables = explained.run.config, []
    for reading in readings:
        maps = explained.maps(reading, upsample=False)
        changes = change_between(maps)
        changes[:, ~maps.flatten(2).any(2).any(0)] = torch.nan
        keys = {"padding": config.padding, "seed": config.seed, **asdict(reading)}
        columns = {"mean_change": changes.mean(0), "largest_change": changes.amax(0)}
        tables.append(pd.DataFrame({**keys, "image": range(maps.shape[1]), **columns}))
    return pd.concat(tables, ignore_index=True)


def extreme_probes(
    changes: pd.DataFrame, reading: Reading, seed: int, count: int
) -> tuple[list[int], list[int]]:
    """The images whose map changes most over the epochs, and those whose map changes least (claim C3).

    Of ``changes_of_rows``, under one reading of the network of one seed, ``count`` of each kind.

    Returns:
        Image indices, each list from the most extreme on. Images come in the first list by ``mean_change``,
        in the second by ``largest_change``: to stay, a map must stay in every row.
    """
    rows = select(changes[changes["seed"] == seed], reading).set_index("image")
    most = rows["mean_change"].sort_values(ascending=False, kind="stable")
    least = rows["largest_change"].sort_values(kind="stable")
    return most.index[:count].tolist(), least.index[:count].tolist()


def image_as_map(images: Tensor) -> float:
    """Mean focus lift of uint8 images (N, C, H, W) themselves, each taken as its own heatmap."""
    return float(measure(images.float().amax(1), digit_mask(images))["focus_lift"].mean())


def focus_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Focus lift by reading and epoch, over seeds.

    Args:
        table: rows of ``ExplainedRun.measures`` of one padding.

    Returns:
        Columns ``method``, ``statistics``, ``evidence``, ``epoch``, ``estimate``, ``low``, ``high`` (Student's
        95 % interval over seeds; over images where there are fewer than three seeds), ``n``, ``unit`` and
        ``all_zero``, the share of maps that are zero everywhere: those have no focus and are left out, and where
        they are more than half, so is the estimate.
    """
    rows = []
    for reading in ALL_READINGS:
        for epoch, group in select(table, reading).groupby("epoch"):
            zero = group["all_zero"].mean()
            found = interval_over_seeds(group, "focus_lift", method="student")
            if zero > MOSTLY_ZERO:
                found = replace(found, estimate=math.nan, low=math.nan, high=math.nan)
            rows.append({**asdict(reading), "epoch": epoch, **columns_of(found), "all_zero": zero})
    return pd.DataFrame(rows)


def off_digit_shares(table: pd.DataFrame, epoch: int) -> pd.DataFrame:
    """Share of images whose map puts less than chance on the digit (focus lift below 1), claim C5.

    Args:
        table: rows of ``ExplainedRun.measures``.
        epoch: at which.

    Returns:
        A row per reading and padding: ``reading``, ``padding``, ``estimate``, ``low``, ``high`` (as in
        ``focus_summary``), ``n``, ``unit``, ``all_zero`` (share of maps without any evidence; left out, as
        are images without a digit), and ``border_lift``, the mean over the other maps.
    """
    rows = []
    shown = table[table["epoch"] == epoch]
    for reading in ALL_READINGS:
        for padding, group in select(shown, reading).groupby("padding", sort=False):
            maps = group[~group["all_zero"]]
            told_apart = maps.dropna(subset="focus_lift")
            off = told_apart.assign(off=(told_apart["focus_lift"] < 1).astype(float))
            found = within(0, interval_over_seeds(off, "off", method="student"))
            extra = {"all_zero": group["all_zero"].mean(), "border_lift": maps["border_lift"].mean()}
            rows.append({"reading": str(reading), "padding": padding, **columns_of(found), **extra})
    return pd.DataFrame(rows)


def clearness(table: pd.DataFrame, *rows: str) -> pd.DataFrame:
    """Mean focus lift: a row per value of the given columns, a column per epoch.

    An all-zero map shows nothing, so it counts as chance (1). Images without a digit (an empty mask, or a full
    one) are left out.
    """
    has_digit = table["mask_area"].between(0, 1, inclusive="neither")
    lift = table["focus_lift"].where(~table["all_zero"], 1.0).where(has_digit)
    return table.assign(lift=lift).pivot_table("lift", list(rows), "epoch")


@dataclass(frozen=True)
class BestEpoch:
    """The epoch whose maps are clearest: the largest mean focus lift over images and seeds (claim C2).

    Attributes:
        epoch: of the mean over seeds.
        low: lower bound of the interval.
        high: upper bound.
        by_seed: the clearest epoch of each seed alone.
        drawn: share of bootstrap resamples in which each epoch was the clearest.
        curve: the criterion, mean focus lift: a row an epoch from 1 on, a column a seed.
    """

    epoch: int
    low: int
    high: int
    by_seed: dict[int, int]
    drawn: pd.Series
    curve: pd.DataFrame


def best_epochs(table: pd.DataFrame) -> dict[Reading, BestEpoch]:
    """The epoch with the clearest maps under each of the claims' readings, from one padding's measures."""
    return {reading: best_epoch(select(table, reading)) for reading in READINGS}


def best_epoch(table: pd.DataFrame, resamples: int = 2000) -> BestEpoch:
    """The epoch with the clearest maps, with a bootstrap interval over seeds and images.

    Epoch 0 (untrained) is left out. Resampled: the seeds, and within them the images, each with replacement.

    Args:
        table: rows of ``ExplainedRun.measures`` of one padding and one reading.
        resamples: number of bootstrap resamples.
    """
    trained = table[table["epoch"] > 0]
    cube = clearness(trained, "seed", "image")
    epochs = cube.columns.to_numpy()
    by_seed = np.stack([rows.to_numpy() for _, rows in cube.groupby(level="seed")])  # (S, N, E)
    random = np.random.default_rng(0)
    seeds, images, _ = by_seed.shape
    drawn = np.empty(resamples, dtype=int)
    for resample in range(resamples):
        curve = np.zeros(len(epochs))
        for chosen in random.integers(seeds, size=(seeds,)).tolist():
            # multinomial counts are a resample of the images, without copying them
            counts = random.multinomial(images, np.full(images, 1 / images))
            curve += counts @ by_seed[chosen]
        drawn[resample] = epochs[curve.argmax()]
    tail = (1 - 0.95) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], method="inverted_cdf")
    means = by_seed.mean(1)
    names = cube.index.unique("seed")
    return BestEpoch(
        epoch=int(epochs[means.mean(0).argmax()]),
        low=int(low),
        high=int(high),
        by_seed={int(name): int(epochs[curve.argmax()]) for name, curve in zip(names, means, strict=True)},
        drawn=pd.Series(drawn).value_counts(normalize=True).reindex(epochs, fill_value=0.0),
        curve=clearness(trained, "seed").T,
    )


def focus_beside_scores(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """D's mean focus lift and G's scores, for every trained epoch (claim C4).

    Args:
        table: rows of ``ExplainedRun.measures`` of one padding.
        scores: rows of ``evaluate_run`` with a column ``seed``.

    Returns:
        A row per reading, seed and epoch from 1 on: ``reading``, ``seed``, ``epoch``, ``focus_lift`` (all-zero maps
        count as chance, 1), ``all_zero`` (share of such maps) and the scores.
    """
    parts = []
    for reading in READINGS:
        rows = select(table, reading)
        lift = clearness(rows, "seed").reset_index().melt("seed", value_name="focus_lift")
        zero = rows.groupby(["seed", "epoch"], as_index=False)["all_zero"].mean()
        parts.append(lift.merge(zero, on=["seed", "epoch"]).assign(reading=str(reading)))
    focus = pd.concat(parts, ignore_index=True)
    joined = focus[focus["epoch"] > 0].merge(scores, on=["seed", "epoch"])
    return joined.set_index(["reading", "seed", "epoch"]).reset_index()


def rank_correlations(joined: pd.DataFrame) -> pd.DataFrame:
    """By reading and network: does more focus go with a better generator?

    Both change as training goes on, so they correlate whether or not one tells of the other. The correlation given
    the epoch takes that out: does the heatmap say more than the epoch's number does?

    Args:
        joined: from ``focus_beside_scores``.

    Returns:
        A row per reading and seed: ``rho``, Spearman's correlation over the epochs between focus lift and -FID;
        ``rho_given_epoch``, the same with the epoch's rank taken out of both; ``picked``, the epoch with the
        largest focus lift; ``beaten``, the share of the other epochs whose generator is worse than that one's (0.5 is
        chance).
    """
    rows = []
    for (reading, seed), group in joined.groupby(["reading", "seed"], sort=False):
        focus, fid, epoch = (group[name].to_numpy() for name in ("focus_lift", "fid", "epoch"))
        rho, rho_given_epoch = _correlations(focus, -fid, epoch)
        picked = int(focus.argmax())
        beaten = (np.delete(fid, picked) > fid[picked]).mean()
        found = {"rho": rho, "rho_given_epoch": rho_given_epoch, "picked": epoch[picked], "beaten": beaten}
        rows.append({"reading": reading, "seed": seed, **found})
    return pd.DataFrame(rows)


def _correlations(a: np.ndarray, b: np.ndarray, given: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation of a and b, and the partial one given a third; NaN where one of them is constant."""
    if min(map(np.ptp, (a, b, given))) == 0:
        return math.nan, math.nan
    ab, a_given, b_given = (stats.spearmanr(*pair).statistic for pair in ((a, b), (a, given), (b, given)))
    left = (1 - a_given**2) * (1 - b_given**2)
    return float(ab), float((ab - a_given * b_given) / math.sqrt(left)) if left > ROUNDING else math.nan

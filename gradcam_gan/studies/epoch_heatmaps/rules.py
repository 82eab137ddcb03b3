"""The paper's claims C1 to C5 as rules: what each says, when it holds, and what the tables' numbers come to.

Every ``table`` has rows of ``ExplainedRun.measures`` with the paper's padding. What was known when a rule was written
is said in ``claims``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from gradcam_gan.intervals import Interval
from gradcam_gan.run_explainer import Reading
from gradcam_gan.studies.claims import (
    ENOUGH_SEEDS,
    NOTHING,
    Claim,
    Finding,
    Outcome,
    outcome_of,
    over_seeds,
    within,
)
from gradcam_gan.studies.epoch_heatmaps.tables import MOSTLY_ZERO, BestEpoch, clearness, select
from gradcam_gan.studies.readings import READINGS

CLEAREST_EPOCH = 15  # C1: of the epochs 5, 10, 15, 20, 25
BEST_EPOCH = 18  # C2
BEST_EPOCH_PRECISION = 4  # C2: an interval wider than this many epochs singles out no epoch
SAME_MAP = 0.1  # C3: a change (1 - correlation) below this is "the same feature"
SOME = 0.01  # C3, C5: "some images" are more than this share of them
PAPER_EPOCHS = {"C1": CLEAREST_EPOCH, "C2": BEST_EPOCH}  # marks on the charts


def judge_clearest_epoch(table: pd.DataFrame, epochs: Sequence[int]) -> Claim:
    """C1: are the maps clearest at about epoch 15 of Figure 1's rows?"""

    def find(rows: pd.DataFrame, reading: Reading) -> Finding:
        if CLEAREST_EPOCH not in epochs:
            return Finding(reading, "unclear", NOTHING, f"epoch {CLEAREST_EPOCH} is not among the rows")
        lift = clearness(rows, "seed")[list(epochs)]
        mean = dict(zip(epochs, lift.mean(), strict=True))
        other = max((epoch for epoch in epochs if epoch != CLEAREST_EPOCH), key=lambda epoch: mean[epoch])
        effect = over_seeds(lift[CLEAREST_EPOCH] - lift[other])
        sentence = (
            f"focus lift at epoch {CLEAREST_EPOCH} is {mean[CLEAREST_EPOCH]:.2f}, at the best other row "
            f"(epoch {other}) {mean[other]:.2f}, difference {effect}"
        )
        return Finding(reading, outcome_of(effect), effect, sentence)

    return Claim(
        "C1",
        f"features are recognised most clearly at about epoch {CLEAREST_EPOCH}",
        f"over seeds, the focus lift at epoch {CLEAREST_EPOCH} exceeds that of the best other row of Figure 1",
        [_if_maps(table, reading, find) for reading in READINGS],
    )


def judge_best_epoch(table: pd.DataFrame, best: Mapping[Reading, BestEpoch]) -> Claim:
    """C2: is epoch 18 the best of all (``best_epochs``)?"""
    last, seeds = table["epoch"].max(), table["seed"].nunique()

    def find(_rows: pd.DataFrame, reading: Reading) -> Finding:
        found = best[reading]
        effect = Interval(found.epoch, found.low, found.high, seeds, unit="seeds")
        each = ", ".join(f"{epoch} (seed {seed})" for seed, epoch in found.by_seed.items())
        sentence = (
            f"the clearest epoch is {found.epoch} [{found.low}, {found.high}]; one seed at a time: {each}"
        )
        if last < BEST_EPOCH:
            return Finding(reading, "unclear", effect, f"only {last} epochs were trained; {sentence}")
        if seeds < ENOUGH_SEEDS:
            sentence += f"; {ENOUGH_SEEDS} seeds are needed for a verdict"
            return Finding(reading, "unclear", effect, sentence)
        if not found.low <= BEST_EPOCH <= found.high:
            return Finding(reading, "fails", effect, sentence)
        precise = found.high - found.low <= BEST_EPOCH_PRECISION
        return Finding(reading, "holds" if precise else "unclear", effect, sentence)

    return Claim(
        "C2",
        f"comparing the models of similar epochs finds the best one: epoch {BEST_EPOCH}",
        f"the bootstrap interval of the epoch with the largest focus lift contains {BEST_EPOCH} "
        f"and spans at most {BEST_EPOCH_PRECISION} epochs, over at least {ENOUGH_SEEDS} seeds",
        [_if_maps(table, reading, find) for reading in READINGS],
    )


def judge_probes(table: pd.DataFrame, changes: pd.DataFrame) -> Claim:
    """C3: do some images show the same map at every epoch (``changes_of_rows``, with the paper's padding)?"""

    def find(_rows: pd.DataFrame, reading: Reading) -> Finding:
        rows = select(changes, reading)
        same = (rows["largest_change"] < SAME_MAP).groupby(rows["seed"]).mean()
        effect = within(0, over_seeds(same))
        typical = over_seeds(rows["mean_change"].groupby(rows["seed"]).mean())
        sentence = (
            f"{100 * effect.estimate:.1f} % of the images keep their map (by seed: "
            f"{', '.join(f'{100 * share:.1f} %' for share in same)}); "
            f"from one row to the next a map changes by {typical} on average"
        )
        holds = same > SOME
        outcome: Outcome = "holds" if holds.all() else "unclear" if holds.any() else "fails"
        return Finding(reading, outcome, effect, sentence)

    return Claim(
        "C3",
        "some sample images show the same feature at every epoch, so suitable samples must be chosen",
        f"in every seed more than {100 * SOME:.0f} % of the images keep a map whose change (1 - correlation) between "
        f"neighbouring rows of Figure 1 stays below {SAME_MAP}",
        [_if_maps(table, reading, find) for reading in READINGS],
    )


def judge_generator(table: pd.DataFrame, correlations: pd.DataFrame) -> Claim:
    """C4: does a clearer D go with a better G (``rank_correlations``)?"""

    def find(_rows: pd.DataFrame, reading: Reading) -> Finding:
        rows = correlations[correlations["reading"] == str(reading)].set_index("seed")
        effect, given_epoch = (within(-1, over_seeds(rows[name])) for name in ("rho", "rho_given_epoch"))
        beaten = within(0, over_seeds(rows["beaten"]))
        sentence = (
            f"rank correlation over epochs of focus lift with -FID {effect}, given the epoch {given_epoch}; "
            f"the generator of the clearest epoch is better than a share {beaten} of the others (chance: 0.5)"
        )
        outcomes = {outcome_of(effect), outcome_of(given_epoch)}
        if outcomes == {"holds"}:
            return Finding(reading, "holds", effect, sentence)
        return Finding(reading, "fails" if "fails" in outcomes else "unclear", effect, sentence)

    return Claim(
        "C4",
        "a well trained D, picked by its heatmaps, raises the chance of a well trained G",
        "over seeds, the rank correlation between D's focus lift and G's quality (-FID) over the epochs is above 0, "
        "also given the epoch; fails if either is below 0",
        [_if_maps(table, reading, find) for reading in READINGS],
    )


def judge_off_digit(table: pd.DataFrame, epoch: int) -> Claim:
    """C5: does D look around the digit instead of at it, for some images, at one epoch?"""

    def find(rows: pd.DataFrame, reading: Reading) -> Finding:
        # without a lift: maps that are zero everywhere, and images without a digit
        rows = rows[rows["epoch"] == epoch].dropna(subset="focus_lift")
        effect = within(0, over_seeds((rows["focus_lift"] < 1).groupby(rows["seed"]).mean()))
        sentence = f"at epoch {epoch} the share of images with a focus lift below 1 is {effect}"
        outcome = outcome_of(replace(effect, low=effect.low - SOME, high=effect.high - SOME))
        return Finding(reading, outcome, effect, sentence)

    return Claim(
        "C5",
        "for some images D looks around the digit instead of at it",
        f"over seeds, more than {100 * SOME:.0f} % of the images have a focus lift below 1",
        [_if_maps(table, reading, find, epoch) for reading in READINGS],
    )


def _if_maps(
    table: pd.DataFrame,
    reading: Reading,
    find: Callable[[pd.DataFrame, Reading], Finding],
    epoch: int | None = None,
) -> Finding:
    """The finding under one reading, unless its maps (of one epoch, or of all trained ones) are mostly zero."""
    rows = select(table, reading)
    shown = rows[rows["epoch"] == epoch] if epoch is not None else rows[rows["epoch"] > 0]
    zero = shown["all_zero"].mean()
    if zero > MOSTLY_ZERO:
        return Finding(reading, "no maps", NOTHING, f"{100 * zero:.0f} % of the maps are zero everywhere")
    return find(rows, reading)

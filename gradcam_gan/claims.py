"""The paper's claims as rules, written down before the results are known, and the verdicts that follow.

Each claim is judged under two readings of the paper: as published (pytorch-grad-cam's default, BatchNorm with
running statistics) and calibrated (the same discriminator with statistics that let it tell real from fake).
It is ``reproduced`` if it holds under both, ``partly`` if under one, ``not reproduced`` if it fails under both,
``inconclusive`` otherwise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
from torch import Tensor

from gradcam_gan.epochs import BestEpoch, Variant, clearness
from gradcam_gan.intervals import Interval, interval_over_seeds

Outcome = Literal["holds", "fails", "unclear"]

CLEAREST_EPOCH = 15  # C1: of the epochs 5, 10, 15, 20, 25
BEST_EPOCH = 18  # C2
BEST_EPOCH_PRECISION = 4  # C2: an interval wider than this many epochs singles out no epoch
SAME_MAP = 0.1  # C3: a change (1 - correlation) below this is "the same feature"
SOME = 0.01  # C3, C5: "some images" are more than this share of them
NOTHING = Interval(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Finding:
    """What one claim comes to under one reading.

    Attributes:
        variant: the reading.
        outcome: of the claim's rule.
        effect: the quantity that the rule looks at, with its interval.
        sentence: the numbers in words.
    """

    variant: Variant
    outcome: Outcome
    effect: Interval
    sentence: str


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with its findings.

    Attributes:
        name: such as ``C1``.
        text: what the paper says.
        rule: when it counts as holding.
        findings: one a reading.
    """

    name: str
    text: str
    rule: str
    findings: Sequence[Finding]

    @property
    def verdict(self) -> str:
        """``reproduced``, ``partly``, ``not reproduced`` or ``inconclusive`` (see the module)."""
        outcomes = [finding.outcome for finding in self.findings]
        if all(outcome == "holds" for outcome in outcomes):
            return "reproduced"
        if "holds" in outcomes:
            return "partly"
        return "not reproduced" if all(outcome == "fails" for outcome in outcomes) else "inconclusive"

    def __str__(self) -> str:
        """The verdict and the numbers, as a paragraph."""
        findings = " ".join(f"{finding.variant}: {finding.sentence}." for finding in self.findings)
        return f"{self.name} {self.verdict}. {findings}"


def ledger(claims: Sequence[Claim]) -> pd.DataFrame:
    """A row per claim and reading: rule, outcome, effect with its interval, and the claim's verdict."""
    return pd.DataFrame(
        {
            "claim": claim.name,
            "text": claim.text,
            "rule": claim.rule,
            "verdict": claim.verdict,
            "reading": str(finding.variant),
            "outcome": finding.outcome,
            "estimate": finding.effect.estimate,
            "low": finding.effect.low,
            "high": finding.effect.high,
            "n": finding.effect.n,
            "unit": finding.effect.unit,
            "sentence": finding.sentence,
        }
        for claim in claims
        for finding in claim.findings
    )


def select(table: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    """The rows of one variant."""
    return table[
        (table["method"] == variant.method)
        & (table["statistics"] == variant.statistics)
        & (table["evidence"] == variant.evidence)
    ]


def clearest_epoch(table: pd.DataFrame, variant: Variant, epochs: Sequence[int]) -> Finding:
    """C1 under one reading: is epoch 15 the clearest of Figure 1's rows?

    The effect is the focus lift at epoch 15 minus that of the best other row, paired by seed.

    Args:
        table: rows of ``measure_epochs`` with the paper's padding.
        variant: the reading.
        epochs: Figure 1's rows.
    """
    if CLEAREST_EPOCH not in epochs:
        rows = ", ".join(map(str, epochs))
        return Finding(variant, "unclear", NOTHING, f"epoch {CLEAREST_EPOCH} is not among the rows {rows}")
    lift = clearness(select(table, variant), ["seed", "epoch"]).unstack("epoch")[list(epochs)]
    mean = lift.mean()
    other = int(mean.drop(CLEAREST_EPOCH).idxmax())
    effect = _over_seeds(lift[CLEAREST_EPOCH] - lift[other])
    sentence = (
        f"focus lift at epoch {CLEAREST_EPOCH} is {mean[CLEAREST_EPOCH]:.2f}, at the best other row "
        f"(epoch {other}) {mean[other]:.2f}, difference {effect}"
    )
    return Finding(variant, _sign(effect), effect, sentence)


def best_epoch(best: BestEpoch, variant: Variant, epochs: int, seeds: int) -> Finding:
    """C2 under one reading: is epoch 18 the one with the clearest maps?

    Args:
        best: the clearest epoch with its interval (``best_epochs``).
        variant: the reading.
        epochs: epochs trained.
        seeds: networks behind ``best``.
    """
    effect = Interval(best.epoch, best.low, best.high, seeds, unit="seeds")
    each = ", ".join(f"{epoch} (seed {seed})" for seed, epoch in best.by_seed.items())
    sentence = f"the clearest epoch is {best.epoch} [{best.low}, {best.high}]; one seed at a time: {each}"
    if epochs < BEST_EPOCH:
        return Finding(variant, "unclear", effect, f"only {epochs} epochs were trained; {sentence}")
    if not best.low <= BEST_EPOCH <= best.high:
        return Finding(variant, "fails", effect, sentence)
    precise = best.high - best.low <= BEST_EPOCH_PRECISION
    return Finding(variant, "holds" if precise else "unclear", effect, sentence)


def unchanging_images(changes: dict[int, Tensor], variant: Variant) -> Finding:
    """C3 under one reading: do some images show the same map at every epoch?

    The effect is the share of images whose map changes by less than ``SAME_MAP`` between any two neighbouring
    rows of Figure 1.

    Args:
        changes: ``change_between`` Figure 1's rows (E - 1, N), by seed.
        variant: the reading.
    """
    same = pd.Series({seed: (change.amax(0) < SAME_MAP).float().mean().item() for seed, change in changes.items()})
    typical = _over_seeds(pd.Series({seed: change.mean().item() for seed, change in changes.items()}))
    effect = _over_seeds(same)
    sentence = (
        f"{100 * effect.estimate:.1f} % of the images keep their map (seeds: "
        f"{', '.join(f'{100 * share:.1f} %' for share in same)}); "
        f"between neighbouring rows a map changes by {typical} on average"
    )
    if (same > SOME).all():
        return Finding(variant, "holds", effect, sentence)
    return Finding(variant, "fails" if (same <= SOME).all() else "unclear", effect, sentence)


def around_the_digit(table: pd.DataFrame, variant: Variant, epoch: int) -> Finding:
    """C5 under one reading: does D look around the digit instead of at it, for some images?

    The effect is the share of images whose map puts less than chance on the digit (focus lift below 1).

    Args:
        table: rows of ``measure_epochs`` with the paper's padding.
        variant: the reading.
        epoch: at which.
    """
    rows = select(table, variant)
    rows = rows[(rows["epoch"] == epoch) & ~rows["all_zero"]]
    if rows.empty:
        return Finding(variant, "unclear", NOTHING, f"every map of epoch {epoch} is zero")
    effect = _over_seeds((rows["focus_lift"] < 1).groupby(rows["seed"]).mean())
    sentence = f"at epoch {epoch} {100 * effect.estimate:.0f} % of the images have a focus lift below 1, {effect}"
    outcome = _sign(replace(effect, low=effect.low - SOME, high=effect.high - SOME))
    return Finding(variant, outcome, effect, sentence)


def _over_seeds(by_seed: pd.Series) -> Interval:
    """Student's interval of a mean over seeds; the bootstrap's is too narrow over so few."""
    return interval_over_seeds(by_seed.rename("value").reset_index(), "value", "seed", method="student")


def _sign(effect: Interval) -> Outcome:
    """Above zero, below zero, or neither: NaN bounds (one seed) are neither."""
    if effect.unit != "seeds":
        return "unclear"
    return "holds" if effect.low > 0 else "fails" if effect.high < 0 else "unclear"

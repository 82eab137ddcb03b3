"""What a claim comes to: findings by rule, the verdict that follows, and the ledger of all.

The rules (``judge_*``) name no result, but they were not all written blind: after a first quick run the four readings
replaced two, readings without maps stopped counting, C2 asks for five seeds, and maps that are zero throughout no
longer count as "the same feature" in C3. The rules of C4 and C6 are older than their first numbers; the setting that
C6 tests was chosen by how many images it deletes, before any network was trained without them. Those of P2 and P3,
from the poster, were written after single trainings had shown that the models train, before any was compared over
seeds.

The paper shows Grad-CAM but says neither whether it explains "real" or "fake" nor which statistics BatchNorm used.
So each claim is judged under four readings (``READINGS``). Readings whose maps are mostly zero show nothing and do
not count. Of the others: ``reproduced`` if the claim holds under all, ``partly`` if under some, ``not reproduced``
if it fails under all, ``inconclusive`` otherwise. Intervals are 95 % each, not corrected for four looks. P2 and P3 are
judged by several measurements in the place of readings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from gradcam_gan.intervals import Interval, interval_over_seeds
from gradcam_gan.run_explainer import Reading

Outcome = Literal["holds", "fails", "unclear", "no maps"]

ENOUGH_SEEDS = 5  # a bootstrap over fewer is much too narrow (see ``bootstrap_interval``)
NOTHING = Interval(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Finding:
    """What one claim comes to under one reading.

    Attributes:
        reading: how it was explained, or what was measured.
        outcome: of the claim's rule.
        effect: the quantity that the rule looks at, with its interval.
        sentence: the numbers in words.
    """

    reading: Reading | str
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
        outcomes = {finding.outcome for finding in self.findings} - {"no maps"}
        if outcomes == {"holds"}:
            return "reproduced"
        if "holds" in outcomes:
            return "partly"
        return "not reproduced" if outcomes == {"fails"} else "inconclusive"

    def __str__(self) -> str:
        """The verdict and the numbers, as a paragraph."""
        findings = "\n".join(f"- {finding.reading}: {finding.sentence}." for finding in self.findings)
        return f"**{self.name}: {self.verdict}** (“{self.text}”; holds if {self.rule}).\n\n{findings}"


def ledger(claims: Sequence[Claim]) -> pd.DataFrame:
    """A row per claim and reading: rule, outcome, effect with its interval, and the claim's verdict."""
    return pd.DataFrame(
        {
            "claim": claim.name,
            "text": claim.text,
            "rule": claim.rule,
            "verdict": claim.verdict,
            "reading": str(finding.reading),
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


def judge_pruning(
    compared: pd.DataFrame, controlled: pd.DataFrame, results: pd.DataFrame, variant: Reading
) -> Claim:
    """C6: does the network learn better without the images that the 70 % rule deletes?

    Args:
        compared: rows of ``arms.differences`` to the baseline.
        controlled: rows of ``arms.differences`` to the arm ``random``.
        results: rows of ``arms.evaluate_arm``.
        variant: how the rule explained.
    """
    rule = results[(results["arm"] == "rule70") & (results["matching"] == "iterations")]
    counts = rule.loc[rule["idle"] != "", "idle"].value_counts(sort=False)

    def effect_on_fid(table: pd.DataFrame) -> Interval:
        rows = table[
            (table["arm"] == "rule70") & (table["matching"] == "iterations") & (table["metric"] == "fid")
        ]
        if rows.empty:
            return NOTHING
        row = rows.iloc[0]
        return Interval(row["estimate"], row["low"], row["high"], int(row["n"]), unit="pairs")

    effect, to_random = effect_on_fid(compared), effect_on_fid(controlled)
    shares = f"the rule deletes {_percentages(rule['deleted'])} of the images"
    reasons = ", ".join(f"in {count} of {len(rule)} networks it {reason}" for reason, count in counts.items())
    sentence = (
        f"{shares}{f' ({reasons})' if reasons else ''}; FID changes by {effect} against the baseline and by "
        f"{to_random} against deleting as many at random (matched iterations; below 0 is better)"
    )
    if effect.n == 0:
        sentence = f"{shares}: {reasons or 'nothing was trained'}, so there is no network to compare"
        finding = Finding(variant, "unclear", NOTHING, sentence)
    elif min(effect.n, to_random.n) < ENOUGH_SEEDS:
        sentence += f"; inconclusive by design, {ENOUGH_SEEDS} pairs are needed for a verdict"
        finding = Finding(variant, "unclear", effect, sentence)
    else:
        better = effect.high < 0 and to_random.high < 0
        worse = effect.low > 0 or to_random.low > 0
        finding = Finding(variant, "holds" if better else "fails" if worse else "unclear", effect, sentence)
    return Claim(
        "C6",
        "where 70 % or more of an image's activation map is important, delete the image to learn better",
        f"over at least {ENOUGH_SEEDS} pairs, the rule lowers FID against the baseline and against deleting as many "
        "images at random, at matched iterations; fails if it raises either",
        [finding],
    )


def if_enough(outcome: Outcome, count: int) -> Outcome:
    """The outcome, unless too few networks speak."""
    return outcome if count >= ENOUGH_SEEDS else "unclear"


def _percentages(shares: pd.Series) -> str:
    """Such as ``2 % to 28 %``."""
    low, high = (f"{100 * share:.3g} %" for share in (shares.min(), shares.max()))
    return low if low == high else f"{low} to {high}"


def over_seeds(by_seed: pd.Series) -> Interval:
    """Student's interval of a mean over seeds; the bootstrap's is too narrow over so few.

    Below three seeds it has no bounds.
    """
    found = interval_over_seeds(by_seed.rename("value").reset_index(), "value", "seed", method="student")
    return replace(found, unit="seeds")  # one value a seed, however few


def within(lowest: float, found: Interval) -> Interval:
    """Student's interval of a share (from 0) or a correlation (from -1), cut to what it can be: at most 1."""
    return replace(found, low=max(found.low, lowest), high=min(found.high, 1.0))


def outcome_of(effect: Interval) -> Outcome:
    """Above zero, below zero, or neither: NaN bounds (fewer than three seeds) are neither."""
    return "holds" if effect.low > 0 else "fails" if effect.high < 0 else "unclear"

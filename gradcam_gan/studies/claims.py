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
            **columns_of(finding.effect),
            "sentence": finding.sentence,
        }
        for claim in claims
        for finding in claim.findings
    )


def columns_of(found: Interval) -> dict[str, float | str]:
    """An interval as columns of a table: ``estimate``, ``low``, ``high``, ``n`` and ``unit``."""
    return {key: getattr(found, key) for key in ("estimate", "low", "high", "n", "unit")}


def pairs_of(row: pd.Series) -> Interval:
    """The interval of a row of ``paired_differences``."""
    return Interval(row["estimate"], row["low"], row["high"], int(row["n"]), unit="pairs")


def over_seeds(by_seed: pd.Series) -> Interval:
    """Student's interval of a mean over seeds; the bootstrap's is too narrow over so few.

    Below three seeds it has no bounds.
    """
    found = interval_over_seeds(by_seed.rename("value").reset_index(), "value", "seed", method="student")
    return replace(found, unit="seeds")  # one value a seed, however few


def within(lowest: float, found: Interval) -> Interval:
    """Student's interval of a share (from 0) or a correlation (from -1), cut to what it can be: at most 1."""
    return replace(found, low=max(found.low, lowest), high=min(found.high, 1.0))


def outcome_of(effect: Interval, enough: int = 0) -> Outcome:
    """Above zero, below zero, or neither: NaN bounds (fewer than three seeds) and too few networks are neither."""
    if effect.n < enough:
        return "unclear"
    return "holds" if effect.low > 0 else "fails" if effect.high < 0 else "unclear"

"""How a claim is decided: rules over networks, the verdict that follows, and the ledger of all.

The unit is the network: a rule's quantity is one number a network (or a pair of them), and its bounds are held against
Student's 95 % interval over networks. Which quantity and which bounds a claim has was written before the numbers of the
``study`` profile were computed; they stand in ``epoch_heatmaps/rules.py`` (C1 to C5), ``prune_70/rules.py`` (C6),
``diffusion_gans/rules.py`` (P2, P3) and ``earlier_experiments/rules.py`` (P5, P6). What those numbers were compared
with before, and what a first, smaller study said, is in the README.

A claim is judged under one primary reading (``readings.PRIMARY``). Other readings are sensitivity checks, shown beside
it: they change no verdict.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from gradcam_gan.intervals import Interval, equivalent, student_interval

Outcome = Literal["holds", "fails", "unclear"]
Verdict = Literal["reproduced", "partly", "not reproduced", "inconclusive"]

PLANNED_NETWORKS = 12
ONE_SIDED = 0.025  # the level of the lower bound of a two-sided 95 % interval
LAST_CHECKPOINTS = 3  # whose mean is a network's score in the paired comparisons
SIMULATIONS = 4000
MOST_NETWORKS = 10_000  # an effect that so many would not decide is none


@dataclass(frozen=True)
class Rule:
    """What a claim's quantity must be for the claim to hold, and for it to fail.

    Holds where the whole 95 % interval lies above ``holds_above``; else fails where all of it lies below
    ``fails_below``, or where two one-sided tests find it equivalent to 0 (the 90 % interval lies within
    ± ``equivalence``).

    Attributes:
        quantity: in words, with its unit.
        holds_above: see above.
        fails_below: see above.
        if_true: a value that the claim being true would give, for the simulated power.
        if_false: one that chance alone would give.
        lower_is_better: the bounds are of minus the quantity, such as a change of log FID.
        equivalence: see above; None: not asked.
    """

    quantity: str
    holds_above: float
    fails_below: float
    if_true: float
    if_false: float
    lower_is_better: bool = False
    equivalence: float | None = None

    def outcome(self, values: Sequence[float] | np.ndarray | pd.Series) -> Outcome:
        """Of one number a network; fewer than two decide nothing."""
        gains = self._gains(values)
        found = student_interval(gains)
        if found.low > self.holds_above:
            return "holds"
        same = self.equivalence is not None and equivalent(gains, self.equivalence)
        return "fails" if found.high < self.fails_below or same else "unclear"

    def p_value(self, values: Sequence[float] | np.ndarray | pd.Series) -> float:
        """One-sided, of Student's t test against ``holds_above``: below 0.025 where the rule holds."""
        gains = self._gains(values)
        if len(gains) < 2 or np.ptp(gains) == 0:
            return math.nan
        return float(stats.ttest_1samp(gains, self.holds_above, alternative="greater").pvalue)

    def power(self, values: Sequence[float] | np.ndarray | pd.Series, networks: int) -> dict[str, float]:
        """How often so many networks would decide, simulated with the spread of these.

        Returns:
            ``holds_if_true``, ``holds_if_false`` (wrongly) and ``fails_if_false``, 0..1: of normal values with the
            standard deviation of these values around ``if_true`` or ``if_false``; NaN below two values.
        """
        names = ("holds_if_true", "holds_if_false", "fails_if_false")
        if len(values) < 2:
            return dict.fromkeys(names, math.nan)
        spread, random = float(np.std(values, ddof=1)), np.random.default_rng(0)
        drawn = random.normal(0, spread, (SIMULATIONS, networks))
        true, false = (
            [self.outcome(row) for row in drawn + centre] for centre in (self.if_true, self.if_false)
        )
        counts = (true.count("holds"), false.count("holds"), false.count("fails"))
        return {name: count / SIMULATIONS for name, count in zip(names, counts, strict=True)}

    def power_in_words(self, values: Sequence[float] | np.ndarray | pd.Series, networks: int) -> str:
        """``power`` as what stands beside a verdict."""
        found = self.power(values, networks)
        return (
            f"holds in {found['holds_if_true']:.0%} if the truth is {self.if_true:g}; if it is {self.if_false:g}, "
            f"fails in {found['fails_if_false']:.0%} and holds in {found['holds_if_false']:.0%}"
        )

    def networks_needed(self, values: Sequence[float] | np.ndarray | pd.Series) -> int | None:
        """The fewest networks of this mean and spread that would decide; None: unknown, or too many to train."""
        gains = self._gains(values)
        if len(gains) < 2:
            return None
        mean, spread = gains.mean(), gains.std(ddof=1)
        counts = np.arange(2, MOST_NETWORKS)
        error = spread / np.sqrt(counts)
        half = stats.t.ppf(0.975, counts - 1) * error
        decided = (mean - half > self.holds_above) | (mean + half < self.fails_below)
        if self.equivalence is not None:
            decided |= abs(mean) + stats.t.ppf(0.95, counts - 1) * error < self.equivalence
        return int(counts[decided.argmax()]) if decided.any() else None

    def _gains(self, values: Sequence[float] | np.ndarray | pd.Series) -> np.ndarray:
        numbers = np.asarray(values, dtype=float)
        return -numbers if self.lower_is_better else numbers


@dataclass(frozen=True)
class Claim:
    """A claim of the paper or the poster with what it comes to.

    Attributes:
        name: such as ``C1``.
        text: what the paper says.
        rule: when it holds and when it fails, in words.
        verdict: what follows.
        quantity: what the primary number is.
        effect: that number over networks.
        sentence: the numbers in words.
        p: one-sided, that the claim holds (``Rule.p_value``); the largest of a rule's parts.
        beside: what stands beside the verdict and does not change it, by name.
    """

    name: str
    text: str
    rule: str
    verdict: Verdict
    quantity: str
    effect: Interval
    sentence: str
    p: float = math.nan
    beside: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        """The verdict and the numbers, as a paragraph of Markdown."""
        beside = "".join(f"\n- {name}: {value}" for name, value in self.beside.items())
        return f"**{self.name}: {self.verdict}** (“{self.text}”).\n\nRule: {self.rule}.\n\n{self.sentence}.\n{beside}"


def verdict_of(outcomes: Sequence[Outcome]) -> Verdict:
    """What the outcomes of a rule's parts come to, the part that the claim is about first.

    All hold: reproduced. The first fails: not reproduced. The first holds alone: partly. Else inconclusive.
    """
    if set(outcomes) == {"holds"}:
        return "reproduced"
    if outcomes[0] == "fails":
        return "not reproduced"
    return "partly" if outcomes[0] == "holds" else "inconclusive"


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values (Holm 1979) by name; NaN stays NaN, and counts as a test all the same."""
    found, running = dict.fromkeys(p_values, math.nan), 0.0
    told = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    for rank, (p, name) in enumerate(told):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        found[name] = running
    return found


def decision(verdict: Verdict, rule: Rule, values: Sequence[float] | np.ndarray | pd.Series) -> str:
    """What an inconclusive verdict would take, in words; nothing beside any other."""
    if verdict != "inconclusive":
        return ""
    if len(values) < 2:
        return "; one network decides nothing" if len(values) else "; no network was measured"
    needed = rule.networks_needed(values)
    many = f"about {needed:,}" if needed else f"more than {MOST_NETWORKS:,}"
    return f"; with this mean and spread it would take {many} networks to decide"


def how_many(planned: int, networks: int, profile: str) -> str:
    """What the number of networks means for the verdicts, as a paragraph of Markdown; empty where all are there."""
    if networks < 2 and planned < 2:
        return (
            "**One network decides nothing:** below is what it shows, and every claim is inconclusive by design. The "
            "verdicts are those of the `study` profile, in the README."
        )
    if networks < planned:
        return (
            f"**Interim: {networks} of {planned} networks.** Verdicts are final at {planned}; the rest is trained by "
            f"`make figures PROFILE={profile}`."
        )
    return ""


def paired(differences: pd.Series) -> Interval:
    """Student's interval of paired differences."""
    return replace(student_interval(differences), unit="pairs")


def ledger(claims: Sequence[Claim]) -> pd.DataFrame:
    """A row a claim: rule, verdict, the primary number with its interval, p-value, and what stands beside."""
    return pd.DataFrame(
        {
            "claim": claim.name,
            "text": claim.text,
            "rule": claim.rule,
            "verdict": claim.verdict,
            "quantity": claim.quantity,
            **columns_of(claim.effect),
            "p": claim.p,
            "sentence": claim.sentence,
            "beside": "; ".join(f"{name}: {value}" for name, value in claim.beside.items()),
        }
        for claim in claims
    )


def columns_of(found: Interval) -> dict[str, float | str]:
    """An interval as columns of a table: ``estimate``, ``low``, ``high``, ``n`` and ``unit``."""
    return {key: getattr(found, key) for key in ("estimate", "low", "high", "n", "unit")}

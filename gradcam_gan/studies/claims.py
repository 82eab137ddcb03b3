"""The paper's claims as rules, and the verdicts that follow.

The rules name no result, but they were not all written blind: after a first quick run the four readings replaced two,
readings without maps stopped counting, C2 asks for five seeds, and maps that are zero throughout no longer count as
"the same feature" in C3. The rules of C4 and C6 are older than their first numbers; the setting that C6 tests was
chosen by how many images it deletes, before any network was trained without them. Those of P2 and P3, from
the poster, were written after single trainings had shown that the models train, before any was compared over seeds.

The paper shows Grad-CAM but says neither whether it explains "real" or "fake" nor which statistics BatchNorm used.
So each claim is judged under four readings (``READINGS``). Readings whose maps are mostly zero show nothing and do
not count. Of the others: ``reproduced`` if the claim holds under all, ``partly`` if under some, ``not reproduced``
if it fails under all, ``inconclusive`` otherwise. Intervals are 95 % each, not corrected for four looks. P2 and P3 are
judged by several measurements in the place of readings.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import pandas as pd

from gradcam_gan.intervals import Interval, interval_over_seeds
from gradcam_gan.run_explainer import EVIDENCES, STATISTICS, Reading
from gradcam_gan.studies.epochs import MOSTLY_ZERO, BestEpoch, clearness, select

Outcome = Literal["holds", "fails", "unclear", "no maps"]

CLEAREST_EPOCH = 15  # C1: of the epochs 5, 10, 15, 20, 25
BEST_EPOCH = 18  # C2
ENOUGH_SEEDS = 5  # C2: a bootstrap over fewer seeds is much too narrow (see ``bootstrap_interval``)
BEST_EPOCH_PRECISION = 4  # C2: an interval wider than this many epochs singles out no epoch
SAME_MAP = 0.1  # C3: a change (1 - correlation) below this is "the same feature"
SOME = 0.01  # C3, C5: "some images" are more than this share of them
READINGS = tuple(Reading("gradcam", *choice) for choice in product(STATISTICS, EVIDENCES))
NOTHING = Interval(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Finding:
    """What one claim comes to under one reading.

    Attributes:
        variant: the reading: how it was explained, or what was measured.
        outcome: of the claim's rule.
        effect: the quantity that the rule looks at, with its interval.
        sentence: the numbers in words.
    """

    variant: Reading | str
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
        findings = "\n".join(f"- {finding.variant}: {finding.sentence}." for finding in self.findings)
        return f"**{self.name}: {self.verdict}** (“{self.text}”; holds if {self.rule}).\n\n{findings}"


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


def judge_clearest_epoch(table: pd.DataFrame, epochs: Sequence[int]) -> Claim:
    """C1: are the maps clearest at about epoch 15 of Figure 1's rows?

    Args:
        table: rows of ``measure_epochs`` with the paper's padding.
        epochs: Figure 1's rows.
    """

    def find(rows: pd.DataFrame, variant: Reading) -> Finding:
        if CLEAREST_EPOCH not in epochs:
            return Finding(variant, "unclear", NOTHING, f"epoch {CLEAREST_EPOCH} is not among the rows")
        lift = clearness(rows, "seed")[list(epochs)]
        mean = dict(zip(epochs, lift.mean(), strict=True))
        other = max((epoch for epoch in epochs if epoch != CLEAREST_EPOCH), key=lambda epoch: mean[epoch])
        effect = over_seeds(lift[CLEAREST_EPOCH] - lift[other])
        sentence = (
            f"focus lift at epoch {CLEAREST_EPOCH} is {mean[CLEAREST_EPOCH]:.2f}, at the best other row "
            f"(epoch {other}) {mean[other]:.2f}, difference {effect}"
        )
        return Finding(variant, outcome_of(effect), effect, sentence)

    return Claim(
        "C1",
        f"features are recognised most clearly at about epoch {CLEAREST_EPOCH}",
        f"over seeds, the focus lift at epoch {CLEAREST_EPOCH} exceeds that of the best other row of Figure 1",
        [_if_maps(table, variant, find) for variant in READINGS],
    )


def judge_best_epoch(table: pd.DataFrame, best: Mapping[Reading, BestEpoch]) -> Claim:
    """C2: is epoch 18 the best of all?

    Args:
        table: rows of ``measure_epochs`` with the paper's padding.
        best: by reading, the clearest epoch with its interval (``best_epochs``).
    """
    last, seeds = table["epoch"].max(), table["seed"].nunique()

    def find(_rows: pd.DataFrame, variant: Reading) -> Finding:
        found = best[variant]
        effect = Interval(found.epoch, found.low, found.high, seeds, unit="seeds")
        each = ", ".join(f"{epoch} (seed {seed})" for seed, epoch in found.by_seed.items())
        sentence = (
            f"the clearest epoch is {found.epoch} [{found.low}, {found.high}]; one seed at a time: {each}"
        )
        if last < BEST_EPOCH:
            return Finding(variant, "unclear", effect, f"only {last} epochs were trained; {sentence}")
        if seeds < ENOUGH_SEEDS:
            return Finding(
                variant, "unclear", effect, f"{sentence}; {ENOUGH_SEEDS} seeds are needed for a verdict"
            )
        if not found.low <= BEST_EPOCH <= found.high:
            return Finding(variant, "fails", effect, sentence)
        precise = found.high - found.low <= BEST_EPOCH_PRECISION
        return Finding(variant, "holds" if precise else "unclear", effect, sentence)

    return Claim(
        "C2",
        f"comparing the models of similar epochs finds the best one: epoch {BEST_EPOCH}",
        f"the bootstrap interval of the epoch with the largest focus lift contains {BEST_EPOCH} "
        f"and spans at most {BEST_EPOCH_PRECISION} epochs, over at least {ENOUGH_SEEDS} seeds",
        [_if_maps(table, variant, find) for variant in READINGS],
    )


def judge_probes(table: pd.DataFrame, changes: pd.DataFrame) -> Claim:
    """C3: do some images show the same map at every epoch?

    Args:
        table: rows of ``measure_epochs`` with the paper's padding.
        changes: rows of ``changes_of_rows`` with the paper's padding.
    """

    def find(_rows: pd.DataFrame, variant: Reading) -> Finding:
        rows = select(changes, variant)
        same = (rows["largest_change"] < SAME_MAP).groupby(rows["seed"]).mean()
        effect = within(0, over_seeds(same))
        typical = over_seeds(rows["mean_change"].groupby(rows["seed"]).mean())
        sentence = (
            f"{100 * effect.estimate:.1f} % of the images keep their map (by seed: "
            f"{', '.join(f'{100 * share:.1f} %' for share in same)}); "
            f"from one row to the next a map changes by {typical} on average"
        )
        holds = same > SOME
        return Finding(
            variant, "holds" if holds.all() else "unclear" if holds.any() else "fails", effect, sentence
        )

    return Claim(
        "C3",
        "some sample images show the same feature at every epoch, so suitable samples must be chosen",
        f"in every seed more than {100 * SOME:.0f} % of the images keep a map whose change (1 - correlation) between "
        f"neighbouring rows of Figure 1 stays below {SAME_MAP}",
        [_if_maps(table, variant, find) for variant in READINGS],
    )


def judge_generator(table: pd.DataFrame, correlations: pd.DataFrame) -> Claim:
    """C4: does a clearer D go with a better G?

    Args:
        table: rows of ``measure_epochs`` with the paper's padding.
        correlations: rows of ``focus_and_quality.rank_correlations``.
    """

    def find(_rows: pd.DataFrame, variant: Reading) -> Finding:
        rows = correlations[correlations["reading"] == str(variant)].set_index("seed")
        effect, given_epoch = (within(-1, over_seeds(rows[name])) for name in ("rho", "rho_given_epoch"))
        beaten = within(0, over_seeds(rows["beaten"]))
        sentence = (
            f"rank correlation over epochs of focus lift with -FID {effect}, given the epoch {given_epoch}; "
            f"the generator of the clearest epoch is better than a share {beaten} of the others (chance: 0.5)"
        )
        outcomes = {outcome_of(effect), outcome_of(given_epoch)}
        if outcomes == {"holds"}:
            return Finding(variant, "holds", effect, sentence)
        return Finding(variant, "fails" if "fails" in outcomes else "unclear", effect, sentence)

    return Claim(
        "C4",
        "a well trained D, picked by its heatmaps, raises the chance of a well trained G",
        "over seeds, the rank correlation between D's focus lift and G's quality (-FID) over the epochs is above 0, "
        "also given the epoch; fails if either is below 0",
        [_if_maps(table, variant, find) for variant in READINGS],
    )


def judge_diffusion(inputs: pd.DataFrame, compared: pd.DataFrame) -> Claim:
    """P2: does the forward diffusion diversify what D sees, and what G makes?

    Args:
        inputs: rows of ``model_comparison.input_diversity``.
        compared: rows of ``model_comparison.compare_models``.
    """
    rows = inputs[inputs["model"] == "diffusion-gan"]
    quantities = {"variance": "variance", "dimensions": "effective number of dimensions"}
    findings = [_change_of_input(rows, name, what) for name, what in quantities.items()]
    findings += [_gain(compared, "diffusion-gan", metric) for metric in ("fid", "recall")]
    return Claim(
        "P2",
        "the forward diffusion of Diffusion-GAN diversifies D's input",
        f"over at least {ENOUGH_SEEDS} networks, D's input has more variance over more dimensions than the images "
        "themselves, and G has a lower FID and a higher recall than the conditional DCGAN's",
        findings,
    )


def _change_of_input(rows: pd.DataFrame, name: str, what: str) -> Finding:
    """Whether a quantity of D's inputs is larger than that of the images themselves."""
    reading = f"D's input, {name}"
    if rows.empty:
        return Finding(reading, "unclear", NOTHING, "no diffusion-gan was compared")
    by_seed = rows.groupby("seed")[name].mean()
    effect = over_seeds(by_seed - 1)
    sentence = (
        f"the {what} of what D sees, over that of the images themselves, is {by_seed.mean():.2f} (mean over epochs, at "
        f"a mean horizon T of {rows['horizon'].mean():.0f}), a change of {effect}"
    )
    return Finding(reading, if_enough(outcome_of(effect), effect.n), effect, sentence)


def judge_dudgan(compared: pd.DataFrame) -> Claim:
    """P3: does DuDGAN's diffusion and classifier make a better conditional generator?

    Args:
        compared: rows of ``model_comparison.compare_models``.
    """
    return Claim(
        "P3",
        "DuDGAN puts diffusion into a class-conditional GAN and adds a classifier",
        f"over at least {ENOUGH_SEEDS} pairs, its G has a lower FID and a higher class accuracy than the conditional "
        "DCGAN's after as many images",
        [_gain(compared, "dudgan", metric) for metric in ("fid", "class_accuracy")],
    )


def _gain(compared: pd.DataFrame, model: str, metric: str) -> Finding:
    """Whether a model is better than the one it adds to, by one score: FID by being lower, the others higher."""
    name = {"fid": "FID", "class_accuracy": "class accuracy"}.get(metric, metric)
    rows = compared[(compared["model"] == model) & (compared["metric"] == metric)]
    if rows.empty:
        return Finding(name, "unclear", NOTHING, f"no {model} was compared")
    row = rows.iloc[0]
    effect = Interval(row["estimate"], row["low"], row["high"], int(row["n"]), unit="pairs")
    better = -1 if metric == "fid" else 1
    bounds = sorted((better * effect.low, better * effect.high))
    outcome = outcome_of(replace(effect, low=bounds[0], high=bounds[1]))
    sentence = f"{name} changes by {effect} against {row['to']}"
    return Finding(name, if_enough(outcome, effect.n), effect, sentence)


def if_enough(outcome: Outcome, count: int) -> Outcome:
    """The outcome, unless too few networks speak."""
    return outcome if count >= ENOUGH_SEEDS else "unclear"


def judge_off_digit(table: pd.DataFrame, epoch: int) -> Claim:
    """C5: does D look around the digit instead of at it, for some images?

    Args:
        table: rows of ``measure_epochs`` with the paper's padding.
        epoch: at which.
    """

    def find(rows: pd.DataFrame, variant: Reading) -> Finding:
        # without a lift: maps that are zero everywhere, and images without a digit
        rows = rows[rows["epoch"] == epoch].dropna(subset="focus_lift")
        effect = within(0, over_seeds((rows["focus_lift"] < 1).groupby(rows["seed"]).mean()))
        sentence = f"at epoch {epoch} the share of images with a focus lift below 1 is {effect}"
        outcome = outcome_of(replace(effect, low=effect.low - SOME, high=effect.high - SOME))
        return Finding(variant, outcome, effect, sentence)

    return Claim(
        "C5",
        "for some images D looks around the digit instead of at it",
        f"over seeds, more than {100 * SOME:.0f} % of the images have a focus lift below 1",
        [_if_maps(table, variant, find, epoch) for variant in READINGS],
    )


def _if_maps(
    table: pd.DataFrame,
    variant: Reading,
    find: Callable[[pd.DataFrame, Reading], Finding],
    epoch: int | None = None,
) -> Finding:
    """The finding under one reading, unless its maps (of one epoch, or of all trained ones) are mostly zero."""
    rows = select(table, variant)
    shown = rows[rows["epoch"] == epoch] if epoch is not None else rows[rows["epoch"] > 0]
    zero = shown["all_zero"].mean()
    if zero > MOSTLY_ZERO:
        return Finding(variant, "no maps", NOTHING, f"{100 * zero:.0f} % of the maps are zero everywhere")
    return find(rows, variant)


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

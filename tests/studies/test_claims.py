import math
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gradcam_gan.intervals import Interval
from gradcam_gan.studies.claims import (
    NOTHING,
    READINGS,
    Claim,
    Finding,
    judge_diffusion,
    judge_dudgan,
    ledger,
    outcome_of,
    over_seeds,
    within,
)
from gradcam_gan.studies.model_comparison import ADDS_TO, compare_models


def outcomes(claim):
    return [finding.outcome for finding in claim.findings]


def findings_of(*outcomes):
    return [Finding(READINGS[i % 4], outcome, NOTHING, "words") for i, outcome in enumerate(outcomes)]


def test_there_are_four_readings_of_gradcam():
    assert {reading.method for reading in READINGS} == {"gradcam"}
    assert [(reading.statistics, reading.evidence) for reading in READINGS] == [
        ("running", "real"), ("running", "fake"), ("reference", "real"), ("reference", "fake")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "found", list(combinations_with_replacement(["holds", "fails", "unclear", "no maps"], 4)), ids="-".join
)
def test_the_verdict_follows_from_the_readings_that_show_maps(found):
    counted = [outcome for outcome in found if outcome != "no maps"]
    if counted and all(outcome == "holds" for outcome in counted):
        expected = "reproduced"
    elif any(outcome == "holds" for outcome in counted):
        expected = "partly"
    elif counted and all(outcome == "fails" for outcome in counted):
        expected = "not reproduced"
    else:
        expected = "inconclusive"
    assert Claim("C0", "", "", findings_of(*found)).verdict == expected
    assert Claim("C0", "", "", findings_of(*reversed(found))).verdict == expected


def test_a_claim_reads_as_verdict_text_rule_and_a_line_per_reading():
    text = str(Claim("C0", "it shines", "it does", findings_of("holds", "fails", "unclear", "no maps")))
    head, *lines = text.split("\n")
    assert head == "**C0: partly** (“it shines”; holds if it does)."
    assert lines == ["", *(f"- {reading}: words." for reading in READINGS)]


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.1, 2, "holds"),
        (-2, -0.1, "fails"),
        (0, 2, "unclear"),
        (-2, 0, "unclear"),
        (math.nan, math.nan, "unclear"),
    ],
)
def test_an_outcome_needs_an_interval_beyond_0(low, high, outcome):
    assert outcome_of(Interval(0.0, low, high, 3)) == outcome


def test_over_seeds_is_students_interval():
    values = [0.2, 0.5, 0.9]
    found = over_seeds(pd.Series(values, pd.Index([4, 5, 6], name="seed")))
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.estimate, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert (found.n, found.unit) == (3, "seeds")
    assert within(0, found).low == 0 < found.estimate < within(0, found).high == 1


def test_the_ledger_has_a_row_per_claim_and_reading_and_survives_a_csv_file(tmp_path):
    finding = Finding(READINGS[1], "holds", Interval(0.5, 0.25, 0.75, 5, unit="seeds"), "words, “more”")
    claims = [Claim("C0", "text", "rule", [Finding(READINGS[0], "no maps", NOTHING, "none"), finding])]
    table = ledger([*claims, Claim("P0", "text", "rule", [Finding("FID", "fails", NOTHING, "words")])])
    assert table["claim"].tolist() == ["C0", "C0", "P0"]
    assert table.iloc[1].to_dict() == {
        "claim": "C0", "text": "text", "rule": "rule", "verdict": "reproduced", "reading": str(READINGS[1]),
        "outcome": "holds", "estimate": 0.5, "low": 0.25, "high": 0.75, "n": 5, "unit": "seeds",
        "sentence": "words, “more”",
    }  # fmt: skip
    table.to_csv(tmp_path / "ledger.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "ledger.csv"), table, check_dtype=False, rtol=1e-12)


def make_compared(changes, *, n=5, to="conditional-dcgan"):
    """``changes[model, metric]`` is (estimate, low, high)."""
    rows = [
        {"model": model, "to": to, "metric": metric, "estimate": estimate, "low": low, "high": high, "n": n}
        for (model, metric), (estimate, low, high) in changes.items()
    ]
    return pd.DataFrame(rows, columns=["model", "to", "metric", "estimate", "low", "high", "n"])


ABOVE, BELOW, ABOUT_0, NO_BOUNDS = (2, 1, 3), (-2, -3, -1), (0.5, -1, 2), (2, math.nan, math.nan)
# the outcome where a lower value is better, and where a higher one is
LOWER_IS_BETTER = [(BELOW, "holds"), (ABOVE, "fails"), (ABOUT_0, "unclear"), (NO_BOUNDS, "unclear")]
HIGHER_IS_BETTER = [(ABOVE, "holds"), (BELOW, "fails"), (ABOUT_0, "unclear"), (NO_BOUNDS, "unclear")]
MORE, LESS, MIXED = [1.5, 1.4, 1.6, 1.5, 1.45], [0.5, 0.4, 0.6, 0.5, 0.45], [1.5, 0.6, 0.9, 1.3, 0.8]


class TestDiffusion:
    """P2."""

    GAINS = {("diffusion-gan", "fid"): BELOW, ("diffusion-gan", "recall"): ABOVE}  # noqa: RUF012

    def inputs(self, variance=MORE, dimensions=MORE, model="diffusion-gan", horizon=100):
        """Ratios by seed, over two epochs that lie 0.2 about them and at 50 below and above the horizon."""
        return pd.DataFrame(
            {
                "model": model, "seed": seed, "epoch": epoch, "horizon": horizon + sign * 50,
                "variance": one + 0.2 * sign, "dimensions": other - 0.2 * sign,
            }
            for seed, (one, other) in enumerate(zip(variance, dimensions, strict=True))
            for epoch, sign in ((1, -1), (2, 1))
        )  # fmt: skip

    def judge(self, gains=None, n=5, **inputs):
        return judge_diffusion(self.inputs(**inputs), make_compared(self.GAINS | (gains or {}), n=n))

    def test_holds_where_inputs_and_images_are_more_diverse_and_the_fid_lower(self):
        claim = self.judge()
        assert outcomes(claim) == ["holds"] * 4
        assert (claim.name, claim.verdict) == ("P2", "reproduced")
        assert [finding.reading for finding in claim.findings] == [
            "D's input, variance", "D's input, dimensions", "FID", "recall"
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("values", "outcome"), [(MORE, "holds"), (LESS, "fails"), (MIXED, "unclear"), ([1.0] * 5, "unclear")]
    )
    @pytest.mark.parametrize(("place", "name"), [(0, "variance"), (1, "dimensions")])
    def test_inputs_are_judged_by_whether_their_ratio_exceeds_1(self, place, name, values, outcome):
        found = outcomes(self.judge(**{name: values}))
        assert found.pop(place) == outcome
        assert found == ["holds"] * 3

    @pytest.mark.parametrize(("change", "outcome"), LOWER_IS_BETTER)
    def test_a_lower_fid_is_better(self, change, outcome):
        assert outcomes(self.judge({("diffusion-gan", "fid"): change})) == [
            "holds",
            "holds",
            outcome,
            "holds",
        ]

    @pytest.mark.parametrize(("change", "outcome"), HIGHER_IS_BETTER)
    def test_a_higher_recall_is_better(self, change, outcome):
        assert outcomes(self.judge({("diffusion-gan", "recall"): change})) == ["holds"] * 3 + [outcome]

    def test_the_verdict_is_over_all_four(self):
        assert self.judge({("diffusion-gan", "fid"): ABOVE}).verdict == "partly"
        assert self.judge({("diffusion-gan", "fid"): ABOUT_0}).verdict == "partly"
        worse = {("diffusion-gan", "fid"): ABOVE, ("diffusion-gan", "recall"): BELOW}
        assert self.judge(worse, variance=LESS, dimensions=LESS).verdict == "not reproduced"
        assert self.judge(worse, variance=LESS, dimensions=MIXED).verdict == "inconclusive"

    def test_a_seeds_ratio_is_its_mean_over_epochs_and_the_effect_what_exceeds_1(self):
        finding = self.judge(variance=MIXED).findings[0]
        low, high = stats.t.interval(0.95, 4, np.mean(MIXED) - 1, stats.sem(MIXED))
        effect = finding.effect
        assert (effect.estimate, effect.low, effect.high) == pytest.approx((np.mean(MIXED) - 1, low, high))
        assert (effect.n, effect.unit) == (5, "seeds")
        assert finding.sentence == (
            "the variance of what D sees, over that of the images themselves, is 1.02 (mean over epochs, at a mean "
            f"horizon T of 100), a change of {effect}"
        )
        assert "the effective number of dimensions of what D sees" in self.judge().findings[1].sentence

    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_fewer_than_five_networks_decide_nothing(self, count):
        for values in (MORE, LESS):
            claim = self.judge(n=count, variance=values[:count], dimensions=values[:count])
            assert outcomes(claim) == ["unclear"] * 4
            assert claim.verdict == "inconclusive"
            assert f"n={count} seeds" in claim.findings[0].sentence
            assert f"n={count} pairs" in claim.findings[2].sentence

    def test_five_networks_whose_scores_lack_a_pair_decide_the_inputs_alone(self):
        assert outcomes(self.judge(n=4)) == ["holds", "holds", "unclear", "unclear"]

    def test_other_models_do_not_count(self):
        inputs = pd.concat([self.inputs(), self.inputs(LESS, LESS, model="dudgan", horizon=900)])
        gains = make_compared({("dudgan", "fid"): ABOVE, ("dudgan", "recall"): BELOW} | self.GAINS)
        claim = judge_diffusion(inputs, gains)
        assert outcomes(claim) == ["holds"] * 4
        assert "horizon T of 100" in claim.findings[0].sentence

    def test_is_inconclusive_where_no_diffusion_gan_was_trained(self):
        gains = make_compared({("dudgan", "fid"): BELOW, ("dudgan", "recall"): ABOVE})
        claim = judge_diffusion(self.inputs(model="dudgan"), gains)
        assert outcomes(claim) == ["unclear"] * 4
        assert claim.verdict == "inconclusive"
        assert claim.findings[2].sentence == "no diffusion-gan was compared"
        assert "nan" not in str(claim)

    def test_is_inconclusive_without_any_model(self):
        """As the tables are where DCGAN alone was trained."""
        empty = pd.DataFrame(columns=["model", "seed", "epoch", "horizon", "variance", "dimensions"])
        assert judge_diffusion(empty, make_compared({})).verdict == "inconclusive"

    def test_the_rule_says_what_decides(self):
        rule = self.judge().rule
        for part in ("at least 5 networks", "more variance", "more dimensions", "lower FID", "higher recall"):
            assert part in rule


class TestDudgan:
    """P3."""

    def judge(self, fid=BELOW, accuracy=ABOVE, **options):
        found = {("dudgan", "fid"): fid, ("dudgan", "class_accuracy"): accuracy}
        return judge_dudgan(make_compared(found, **options))

    def test_holds_where_the_fid_is_lower_and_the_class_accuracy_higher(self):
        claim = self.judge()
        assert outcomes(claim) == ["holds", "holds"]
        assert (claim.name, claim.verdict) == ("P3", "reproduced")
        assert [finding.reading for finding in claim.findings] == ["FID", "class accuracy"]
        assert "at least 5 pairs" in claim.rule

    @pytest.mark.parametrize(("change", "outcome"), LOWER_IS_BETTER)
    def test_a_lower_fid_is_better(self, change, outcome):
        assert outcomes(self.judge(fid=change)) == [outcome, "holds"]

    @pytest.mark.parametrize(("change", "outcome"), HIGHER_IS_BETTER)
    def test_a_higher_class_accuracy_is_better(self, change, outcome):
        assert outcomes(self.judge(accuracy=change)) == ["holds", outcome]

    @pytest.mark.parametrize(
        ("fid", "accuracy", "verdict"),
        [
            (BELOW, BELOW, "partly"),
            (BELOW, NO_BOUNDS, "partly"),
            (ABOVE, BELOW, "not reproduced"),
            (ABOVE, ABOUT_0, "inconclusive"),
            (NO_BOUNDS, NO_BOUNDS, "inconclusive"),
        ],
    )
    def test_the_verdict_is_over_both(self, fid, accuracy, verdict):
        assert self.judge(fid, accuracy).verdict == verdict

    @pytest.mark.parametrize("bounds", [(-1, 0), (0, 1)])
    def test_a_bound_at_0_is_unclear(self, bounds):
        change = (sum(bounds) / 2, *bounds)
        assert outcomes(self.judge(change, change)) == ["unclear", "unclear"]

    @pytest.mark.parametrize(("n", "outcome"), [(1, "unclear"), (4, "unclear"), (5, "holds"), (9, "holds")])
    def test_fewer_than_five_pairs_decide_nothing(self, n, outcome):
        claim = self.judge(n=n)
        assert outcomes(claim) == [outcome] * 2
        assert outcomes(self.judge(ABOVE, BELOW, n=n)) == ["unclear" if n < 5 else "fails"] * 2
        assert f"n={n} pairs" in claim.findings[0].sentence

    def test_the_effect_is_the_tables_and_keeps_its_sign(self):
        """FID falls by 2, though for the rule the lower value is the better one."""
        finding = self.judge().findings[0]
        effect = finding.effect
        assert (effect.estimate, effect.low, effect.high, effect.n, effect.unit) == (-2, -3, -1, 5, "pairs")
        assert finding.sentence == f"FID changes by {effect} against conditional-dcgan"
        assert self.judge(to="dcgan").findings[1].sentence.endswith("against dcgan")

    def test_a_model_or_a_score_that_is_missing_is_unclear(self):
        others = make_compared({("diffusion-gan", "fid"): BELOW, ("dudgan-no-contrast", "fid"): BELOW})
        for compared in (others, make_compared({})):
            claim = judge_dudgan(compared)
            assert outcomes(claim) == ["unclear", "unclear"]
            assert claim.findings[0].sentence == "no dudgan was compared"
            assert claim.verdict == "inconclusive"
        partly = judge_dudgan(make_compared({("dudgan", "fid"): BELOW}))
        assert outcomes(partly) == ["holds", "unclear"]

    @pytest.mark.parametrize(
        ("sign", "verdict"), [(1, "reproduced"), (-1, "not reproduced"), (0, "inconclusive")]
    )
    def test_works_with_what_compare_models_gives(self, sign, verdict):
        """Five seeds that DuDGAN improves, spoils or scatters."""
        noise = np.array([0.5, -0.4, 0.1, -0.3, 0.2])
        base = {"kid": 0.1, "precision": 0.5, "recall": 0.5}
        plain = {"fid": 20.0, "class_accuracy": 0.5}
        better = {"fid": 20 - 5 * sign + noise, "class_accuracy": 0.5 + 0.2 * sign + noise / 20}
        tables = [
            pd.DataFrame({"model": model, "seed": range(5), **base, **scores})
            for model, scores in (("conditional-dcgan", plain), ("dudgan", better))
        ]
        assert judge_dudgan(compare_models(pd.concat(tables), ADDS_TO)).verdict == verdict


def test_the_posters_claims_have_their_rows_in_the_ledger(tmp_path):
    p2 = TestDiffusion().judge()
    p3 = TestDudgan().judge(accuracy=NO_BOUNDS)
    table = ledger([p2, p3])
    assert table["claim"].tolist() == ["P2"] * 4 + ["P3"] * 2
    assert table["reading"].tolist() == [
        "D's input, variance", "D's input, dimensions", "FID", "recall", "FID", "class accuracy"
    ]  # fmt: skip
    assert table["unit"].tolist() == ["seeds", "seeds", "pairs", "pairs", "pairs", "pairs"]
    table.to_csv(tmp_path / "ledger.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "ledger.csv"), table, check_dtype=False, rtol=1e-12)

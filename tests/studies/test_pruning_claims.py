"""Claim C6."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gradcam_gan.run_explainer import Reading
from gradcam_gan.studies.arms import MATCHINGS, differences
from gradcam_gan.studies.claims import judge_pruning, ledger
from gradcam_gan.studies.epoch_heatmaps.rules import judge_generator
from gradcam_gan.studies.readings import READINGS

RULE = Reading("gradcam", "running", "fake")
COLUMNS = [
    "claim", "text", "rule", "verdict", "reading", "outcome", "estimate", "low", "high", "n", "unit", "sentence",
]  # fmt: skip
UP, DOWN, BOTH = [0.5, 0.6, 0.4, 0.55, 0.45], [-0.5, -0.6, -0.4, -0.55, -0.45], [0.6, -0.5, 0.1, 0.4, -0.3]


def outcomes(claim):
    return [finding.outcome for finding in claim.findings]


def student(values):
    """Mean and Student's 95 % bounds, cut to what a correlation can be."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return np.mean(values), max(low, -1), min(high, 1)


NOISE = [0.3, -0.2, 0.1, 0.0, -0.1]


def made_up(rule, random, *, seeds=5, deleted=0.2, idle=(), reason="deletes nothing"):
    """Rows as of ``run_experiment``: FID is 20 in the baseline, and so much more where the rule or chance deletes.

    Args:
        rule: difference at matched iterations; at matched epochs it is the opposite.
        random: the same of the control.
        seeds: how many.
        deleted: share, or a share a seed.
        idle: seeds whose arms were not trained, for ``reason``.
    """
    rows = []
    for seed in range(seeds):
        share = deleted if isinstance(deleted, float) else deleted[seed]
        for arm, more in (("baseline", 0.0), ("rule70", rule), ("random", random), ("dose 20 %", -5.0)):
            for matching in MATCHINGS:
                row = {"arm": arm, "kind": arm.split()[0], "seed": seed, "matching": matching, "idle": ""}
                row["deleted"] = share if arm in ("rule70", "random") else 0.0
                if seed in idle and arm in ("rule70", "random"):
                    row["idle"] = reason
                else:
                    noise = 0 if arm == "baseline" else NOISE[seed % 5] * (1 if arm == "rule70" else -1)
                    row["fid"] = 20.0 + seed + noise + (more if matching == "iterations" else -more)
                    row["recall"] = 0.5 - 0.1 * more
                rows.append(row)
    return pd.DataFrame(rows)


def judged(results, metrics=("recall", "fid")):
    compared, controlled = (differences(results, metrics, to) for to in ("baseline", "random"))
    return judge_pruning(compared, controlled, results, RULE)


class TestPruning:
    """C6."""

    @pytest.mark.parametrize(
        ("rule", "random", "outcome"),
        [
            (-5.0, 0.0, "holds"),  # better than both
            (-5.0, 5.0, "holds"),
            (-5.0, -2.0, "holds"),
            (5.0, 0.0, "fails"),  # worse than both
            (5.0, 5.0, "fails"),  # worse than the baseline, no worse than chance
            (5.0, 9.0, "fails"),
            (-5.0, -9.0, "fails"),  # better than the baseline, but worse than chance
            (-5.0, -5.0, "unclear"),  # better than the baseline, no better than chance
            (0.0, 5.0, "unclear"),  # better than chance alone
            (-0.1, 5.0, "unclear"),  # a little better than the baseline, within the noise
            (0.05, 5.0, "unclear"),
            (-5.0, -4.9, "unclear"),  # a little better than chance
            (-5.0, -5.1, "unclear"),
            (0.0, 0.0, "unclear"),
        ],
    )
    def test_holds_where_the_rule_is_better_than_the_baseline_and_than_chance(self, rule, random, outcome):
        claim = judged(made_up(rule, random))
        assert outcomes(claim) == [outcome]
        verdicts = {"holds": "reproduced", "fails": "not reproduced", "unclear": "inconclusive"}
        assert (claim.name, claim.verdict) == ("C6", verdicts[outcome])

    def test_the_effect_is_the_difference_to_the_baseline_at_matched_iterations(self):
        """By hand: -5 and the noise, whose mean is 0.02; random is 3 more, with the noise turned."""
        finding = judged(made_up(-5.0, -2.0)).findings[0]
        assert finding.effect.estimate == pytest.approx(-4.98)
        assert finding.effect.low < -4.98 < finding.effect.high < -4.5
        assert (finding.effect.n, finding.effect.unit) == (5, "pairs")
        assert finding.reading == RULE

    def test_the_sentence_has_the_shares_and_both_differences(self):
        results = made_up(-5.0, -2.0)
        claim = judged(results)
        to_random = differences(results, ["fid"], "random").query("arm == 'rule70'").iloc[0]
        assert to_random["estimate"] == pytest.approx(-2.96)
        sentence = claim.findings[0].sentence
        assert sentence.startswith("the rule deletes 20 % of the images; FID changes by -4.98 [")
        assert f"by {claim.findings[0].effect} against the baseline" in sentence
        assert "and by -2.96 [" in sentence
        assert (
            f"[{to_random['low']:.2f}, {to_random['high']:.2f}], n=5 pairs against deleting as many"
            in sentence
        )
        assert "inconclusive by design" not in sentence
        assert sentence in str(claim)

    def test_the_sentence_has_the_range_of_the_shares(self):
        claim = judged(made_up(-5.0, 0.0, deleted=[0.1, 0.02, 0.28, 0.125, 0.2]))
        assert claim.findings[0].sentence.startswith("the rule deletes 2 % to 28 % of the images; ")

    @pytest.mark.parametrize("seeds", [1, 2, 3, 4])
    @pytest.mark.parametrize("rule", [-9.0, 9.0])
    def test_fewer_than_five_pairs_are_inconclusive_by_design(self, seeds, rule):
        claim = judged(made_up(rule, 0.0, seeds=seeds))
        assert outcomes(claim) == ["unclear"]
        assert claim.verdict == "inconclusive"
        finding = claim.findings[0]
        assert finding.sentence.endswith("; inconclusive by design, 5 pairs are needed for a verdict")
        assert f"n={seeds} pairs" in finding.sentence
        assert finding.effect.n == seeds
        assert finding.effect.estimate == pytest.approx(rule, abs=0.5)
        assert "nan" not in str(claim)

    def test_networks_without_deleted_images_make_no_pairs(self):
        """Two of six; the other four are too few."""
        results = made_up(-5.0, 0.0, seeds=6, idle=[1, 4], deleted=[0.2, 0.0, 0.3, 0.1, 0.0, 0.2])
        claim = judged(results)
        assert claim.findings[0].effect.n == 4
        assert "inconclusive by design" in claim.findings[0].sentence
        assert claim.findings[0].sentence.startswith(
            "the rule deletes 0 % to 30 % of the images (in 2 of 6 networks it deletes nothing); "
        )
        assert judged(made_up(-5.0, 0.0, seeds=7, idle=[1, 4])).verdict == "reproduced"

    @pytest.mark.parametrize(
        ("reason", "deleted", "share"),
        [("deletes nothing", 0.0, "0 %"), ("leaves less than a batch", 0.995, "99.5 %")],
    )
    @pytest.mark.parametrize("seeds", [1, 5])
    def test_is_inconclusive_where_the_rule_can_be_trained_in_no_network(self, seeds, reason, deleted, share):
        claim = judged(made_up(0.0, 0.0, seeds=seeds, deleted=deleted, idle=range(seeds), reason=reason))
        assert claim.verdict == "inconclusive"
        finding = claim.findings[0]
        assert finding.sentence == (
            f"the rule deletes {share} of the images: in {seeds} of {seeds} networks it {reason}, "
            "so there is no network to compare"
        )
        assert finding.effect.n == 0
        assert math.isnan(finding.effect.estimate)

    def test_names_every_reason(self):
        results = made_up(0.0, 0.0, seeds=2, deleted=[0.0, 1.0], idle=[0, 1])
        results.loc[results["idle"].ne("") & results["seed"].eq(1), "idle"] = "leaves less than a batch"
        assert judged(results).findings[0].sentence == (
            "the rule deletes 0 % to 100 % of the images: in 1 of 2 networks it deletes nothing, "
            "in 1 of 2 networks it leaves less than a batch, so there is no network to compare"
        )

    def test_is_inconclusive_without_the_control(self):
        """Better than the baseline, and nothing to say what deleting as many at random would have done."""
        results = made_up(-5.0, 0.0)
        assert judged(results[results["arm"] != "random"]).verdict == "inconclusive"

    def test_other_metrics_arms_and_matchings_do_not_decide(self):
        """The dose is better in every seed, and so is the rule at matched epochs; recall rises where FID falls."""
        assert judged(made_up(5.0, 0.0)).verdict == "not reproduced"
        assert judged(made_up(-5.0, 0.0), ("fid", "recall")).verdict == "reproduced"


class TestLedger:
    @pytest.fixture
    def claims(self, make_table):
        correlations = pd.DataFrame(
            {
                "reading": str(variant),
                "seed": seed,
                "rho": rho,
                "rho_given_epoch": rho,
                "beaten": 0.5 + rho / 2,
            }
            for variant in READINGS
            for seed, rho in enumerate(UP)
        )
        table = make_table(
            lambda _s, _e, _i, variant: None if variant == READINGS[0] else 2.0,
            seeds=range(5),
            epochs=[0, 1],
            readings=READINGS,
        )
        return [
            judge_generator(table, correlations),
            judged(made_up(-5.0, 0.0)),
            judged(made_up(1.0, 0.0, seeds=1)),
        ]

    def test_has_the_columns_and_rows_of_the_other_claims(self, claims):
        table = ledger(claims)
        assert list(table) == COLUMNS
        assert table["claim"].tolist() == ["C4"] * 4 + ["C6"] * 2
        assert table["reading"].tolist() == [*(str(variant) for variant in READINGS), str(RULE), str(RULE)]
        assert table["outcome"].tolist() == ["no maps", "holds", "holds", "holds", "holds", "unclear"]
        assert table["verdict"].tolist() == ["reproduced"] * 5 + ["inconclusive"]
        assert table["unit"].tolist() == ["values", "seeds", "seeds", "seeds", "pairs", "pairs"]
        assert table["n"].tolist() == [0, 5, 5, 5, 5, 1]

    def test_survives_a_csv_file(self, claims, tmp_path):
        table = ledger(claims)
        table.to_csv(tmp_path / "ledger.csv", index=False)
        pd.testing.assert_frame_equal(
            pd.read_csv(tmp_path / "ledger.csv"), table, check_dtype=False, rtol=1e-12
        )

    def test_the_rules_say_what_decides(self, claims):
        generator, pruning, _ = claims
        assert "above 0, also given the epoch; fails if either is below 0" in generator.rule
        assert "at least 5 pairs" in pruning.rule
        assert "at random" in pruning.rule
        assert "70 %" in pruning.text

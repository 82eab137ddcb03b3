import math
from itertools import combinations_with_replacement

import pandas as pd
import pytest

from gradcam_gan.run_explainer import Reading
from gradcam_gan.studies.claims import (
    NOTHING,
    READINGS,
    SAME_MAP,
    Claim,
    Finding,
    judge_best_epoch,
    judge_clearest_epoch,
    judge_off_digit,
    judge_probes,
    ledger,
)
from gradcam_gan.studies.epochs import BestEpoch, best_epochs, select

ROWS = [5, 10, 15, 20, 25]
SMOKE_ROWS = [1, 2, 3]
ONE, *_, LAST = READINGS


def outcomes(claim):
    return [finding.outcome for finding in claim.findings]


def findings_of(*outcomes):
    return [Finding(READINGS[i % 4], outcome, NOTHING, "words") for i, outcome in enumerate(outcomes)]


def test_there_are_four_readings_of_gradcam():
    assert len(set(READINGS)) == 4
    assert {reading.method for reading in READINGS} == {"gradcam"}
    assert {(reading.statistics, reading.evidence) for reading in READINGS} == {
        ("running", "real"), ("running", "fake"), ("reference", "real"), ("reference", "fake")
    }  # fmt: skip


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


class TestClearestEpoch:
    """C1."""

    def judge(self, make_table, at_15, elsewhere=2.0, **options):
        def lift(seed, epoch, _image, _variant):
            return (at_15 if epoch == 15 else elsewhere + (0.25 if epoch == 20 else 0)) + 0.01 * seed * epoch

        return judge_clearest_epoch(make_table(lift, variants=READINGS, **options), ROWS)

    def test_holds_where_epoch_15_is_clearest_in_every_seed(self, make_table):
        claim = self.judge(make_table, 3.0)
        assert outcomes(claim) == ["holds"] * 4
        assert claim.verdict == "reproduced"

    def test_fails_where_another_row_is_clearer_in_every_seed(self, make_table):
        assert outcomes(self.judge(make_table, 1.0)) == ["fails"] * 4

    def test_is_unclear_where_seeds_disagree(self, make_table):
        table = make_table(
            lambda seed, epoch, *_: 2 + ([1, -0.5, 0.1][seed] if epoch == 15 else 0), variants=READINGS
        )
        assert outcomes(judge_clearest_epoch(table, ROWS)) == ["unclear"] * 4

    def test_the_effect_is_the_difference_to_the_best_other_row(self, make_table):
        """At epoch 20, by construction: 3 - 2.25 less 0.05 for each next seed."""
        finding = self.judge(make_table, 3.0).findings[0]
        assert finding.effect.estimate == pytest.approx(0.75 - 0.05)
        assert finding.effect.low < 0.70 < finding.effect.high
        assert (finding.effect.n, finding.effect.unit) == (3, "seeds")
        assert "at epoch 15 is 3.15" in finding.sentence
        assert "(epoch 20) 2.45" in finding.sentence
        assert str(finding.effect) in finding.sentence

    def test_epochs_that_are_no_rows_of_figure_1_do_not_count(self, make_table):
        table = make_table(
            lambda seed, epoch, *_: {15: 3.0, 16: 9.0, 0: 9.0}.get(epoch, 2.0) + 0.01 * seed,
            variants=READINGS,
        )
        assert outcomes(judge_clearest_epoch(table, ROWS)) == ["holds"] * 4

    def test_all_zero_maps_count_as_chance(self, make_table):
        """Where maps are zero for half of the images, a lift of 3 counts as 2."""
        table = make_table(
            lambda _s, epoch, image, _v: (None if image < 2 else 3.0) if epoch == 15 else 2.5,
            variants=READINGS,
        )
        claim = judge_clearest_epoch(table, ROWS)
        assert outcomes(claim) == ["fails"] * 4
        assert claim.findings[0].effect.estimate == pytest.approx(-0.5)

    @pytest.mark.parametrize("seeds", [[0], [0, 1]])
    @pytest.mark.parametrize("at_15", [9.0, 0.1])
    def test_fewer_than_three_seeds_decide_nothing(self, make_table, seeds, at_15):
        claim = self.judge(make_table, at_15, seeds=seeds)
        assert outcomes(claim) == ["unclear"] * 4
        assert claim.verdict == "inconclusive"
        assert claim.findings[0].effect.unit == "seeds"
        assert f"n={len(seeds)} seeds" in claim.findings[0].sentence

    def test_is_unclear_where_epoch_15_is_no_row(self, make_table):
        table = make_table(lambda *_: 2.0, epochs=range(4), variants=READINGS)
        claim = judge_clearest_epoch(table, SMOKE_ROWS)
        assert outcomes(claim) == ["unclear"] * 4
        assert claim.findings[0].sentence == "epoch 15 is not among the rows"
        assert math.isnan(claim.findings[0].effect.estimate)


def best(epoch, low, high):
    return BestEpoch(epoch, low, high, {0: epoch, 1: low, 2: high}, pd.Series(dtype=float))


class TestBestEpoch:
    """C2."""

    @pytest.mark.parametrize(
        ("found", "outcome"),
        [
            (best(18, 18, 18), "holds"),
            (best(16, 14, 18), "holds"),  # four epochs wide, the widest that singles one out
            (best(20, 18, 22), "holds"),
            (best(18, 15, 20), "unclear"),
            (best(18, 1, 25), "unclear"),
            (best(17, 17, 17), "fails"),
            (best(20, 19, 25), "fails"),
            (best(10, 1, 17), "fails"),
        ],
        ids=lambda value: value if isinstance(value, str) else f"{value.low}-{value.high}",
    )
    def test_holds_where_a_narrow_interval_contains_18(self, make_table, found, outcome):
        table = make_table(lambda *_: 2.0, seeds=range(5), variants=READINGS)
        claim = judge_best_epoch(table, dict.fromkeys(READINGS, found))
        assert outcomes(claim) == [outcome] * 4
        effect = claim.findings[0].effect
        assert (effect.estimate, effect.low, effect.high) == (found.epoch, found.low, found.high)
        assert (effect.n, effect.unit) == (5, "seeds")
        sentence = claim.findings[0].sentence
        assert f"{found.epoch} [{found.low}, {found.high}]" in sentence
        assert f"{found.epoch} (seed 0), {found.low} (seed 1), {found.high} (seed 2)" in sentence

    def test_each_reading_is_judged_by_its_own_interval(self, make_table):
        table = make_table(lambda *_: 2.0, seeds=range(5), variants=READINGS)
        intervals = [best(18, 18, 18), best(3, 3, 3), best(18, 5, 20), best(18, 17, 19)]
        claim = judge_best_epoch(table, dict(zip(READINGS, intervals, strict=True)))
        assert outcomes(claim) == ["holds", "fails", "unclear", "holds"]
        assert claim.verdict == "partly"

    def test_works_with_what_best_epochs_gives(self, make_table):
        table = make_table(
            lambda _s, epoch, *_: 3.0 if epoch == 18 else 2.0, seeds=range(5), variants=READINGS
        )
        found = {variant: best_epochs(select(table, variant), resamples=50) for variant in READINGS}
        assert judge_best_epoch(table, found).verdict == "reproduced"

    def test_is_unclear_where_fewer_epochs_were_trained(self, make_table):
        table = make_table(lambda *_: 2.0, epochs=range(18), variants=READINGS)
        claim = judge_best_epoch(table, dict.fromkeys(READINGS, best(3, 3, 3)))
        assert outcomes(claim) == ["unclear"] * 4
        assert claim.findings[0].sentence.startswith("only 17 epochs were trained; the clearest epoch is 3")

    def test_is_unclear_over_fewer_than_five_seeds(self, make_table):
        for found in (best(18, 18, 18), best(3, 3, 3)):
            table = make_table(lambda *_: 2.0, seeds=range(4), variants=READINGS)
            claim = judge_best_epoch(table, dict.fromkeys(READINGS, found))
            assert outcomes(claim) == ["unclear"] * 4
            assert "5 seeds are needed" in claim.findings[0].sentence


class TestProbes:
    """C3."""

    def judge(self, make_table, kept, *, images=100, mean=0.5):
        """``kept`` images of each seed stay just below the limit, the others reach it."""
        changes = pd.concat(
            pd.DataFrame(
                {
                    "seed": seed,
                    "method": variant.method,
                    "statistics": variant.statistics,
                    "evidence": variant.evidence,
                    "image": range(images),
                    "mean_change": mean,
                    "largest_change": [
                        SAME_MAP - 1e-6 if image < count else SAME_MAP for image in range(images)
                    ],
                }
            )
            for seed, count in enumerate(kept)
            for variant in READINGS
        )
        table = make_table(lambda *_: 2.0, epochs=[0, 5], seeds=range(len(kept)), variants=READINGS)
        return judge_probes(table, changes)

    @pytest.mark.parametrize(
        ("kept", "outcome"),
        [
            ([2, 5, 9], "holds"),
            ([1, 5, 9], "unclear"),  # 1 of 100 is not more than 1 %
            ([0, 0, 2], "unclear"),
            ([0, 0, 0], "fails"),
            ([1, 1, 1], "fails"),
        ],
    )
    def test_holds_where_every_seed_keeps_some_maps(self, make_table, kept, outcome):
        claim = self.judge(make_table, kept)
        assert outcomes(claim) == [outcome] * 4

    def test_the_sentence_has_the_shares_and_the_typical_change(self, make_table):
        finding = self.judge(make_table, [2, 5, 11], mean=0.37).findings[0]
        assert finding.effect.estimate == pytest.approx(0.06)
        assert finding.sentence.startswith(
            "6.0 % of the images keep their map (by seed: 2.0 %, 5.0 %, 11.0 %)"
        )
        assert "changes by 0.37" in finding.sentence

    def test_the_interval_of_a_share_stays_within_0_and_1(self, make_table):
        low, high = (self.judge(make_table, kept).findings[0].effect for kept in ([0, 0, 9], [100, 100, 91]))
        assert low.low == 0 < low.high
        assert high.low < high.high == 1


class TestOffDigit:
    """C5."""

    def judge(self, make_table, off, *, images=50, **options):
        """``off`` images of each seed have a focus lift below 1, the others exactly 1."""
        table = make_table(
            lambda seed, epoch, image, _: (
                0.2 if epoch == 25 and image < off[seed] else 1.0 if epoch == 25 else 0.2
            ),
            epochs=[0, 20, 25],
            images=range(images),
            seeds=range(len(off)),
            variants=READINGS,
            **options,
        )
        return judge_off_digit(table, 25)

    @pytest.mark.parametrize(
        ("off", "outcome"),
        [
            ([20, 21, 22], "holds"),
            ([50, 50, 50], "holds"),
            ([0, 0, 0], "fails"),
            ([0, 0, 1], "unclear"),
            ([0, 10, 40], "unclear"),
        ],
    )
    def test_holds_where_more_than_a_hundredth_of_the_images_are_off(self, make_table, off, outcome):
        assert outcomes(self.judge(make_table, off)) == [outcome] * 4

    def test_one_in_a_hundred_is_not_more_than_that(self, make_table):
        assert outcomes(self.judge(make_table, [1, 1, 1], images=100)) == ["unclear"] * 4

    def test_the_sentence_has_the_share_and_its_interval(self, make_table):
        finding = self.judge(make_table, [20, 25, 30]).findings[0]
        assert finding.effect.estimate == pytest.approx(0.5)
        assert (finding.effect.n, finding.effect.unit) == (3, "seeds")
        assert (
            finding.sentence
            == f"at epoch 25 the share of images with a focus lift below 1 is {finding.effect}"
        )

    def test_the_interval_stays_within_0_and_1(self, make_table):
        low, high = (self.judge(make_table, off).findings[0].effect for off in ([0, 0, 9], [50, 50, 41]))
        assert low.low == 0 < low.high
        assert high.low < high.high == 1

    @pytest.mark.parametrize("off", [[50], [0], [50, 50], [0, 0]])
    def test_fewer_than_three_seeds_decide_nothing(self, make_table, off):
        claim = self.judge(make_table, off)
        assert outcomes(claim) == ["unclear"] * 4
        assert f"n={len(off)} seeds" in claim.findings[0].sentence

    def test_leaves_out_zero_maps_and_images_without_a_digit(self, make_table):
        table = make_table(
            lambda _s, _e, image, _v: [None, math.nan, 0.5, 2.0][image], epochs=[25], variants=READINGS
        )
        assert judge_off_digit(table, 25).findings[0].effect.estimate == 0.5


def judge_all(table, rows):
    """Every claim, from one table."""
    changes = pd.concat(
        select(table[table["epoch"] == rows[-1]], variant).assign(mean_change=0.5, largest_change=0.5)
        for variant in READINGS
    )
    found = {variant: best_epochs(select(table, variant), resamples=20) for variant in READINGS}
    return [
        judge_clearest_epoch(table, rows),
        judge_best_epoch(table, found),
        judge_probes(table, changes),
        judge_off_digit(table, rows[-1]),
    ]


class TestMapsThatAreMostlyZero:
    def test_do_not_count(self, make_table):
        """One reading shows nothing in 3 of 4 maps."""
        table = make_table(
            lambda _s, epoch, image, variant: (
                None if variant == LAST and image else 3.0 + 0.1 * (epoch in (15, 18))
            ),
            variants=READINGS,
        )
        for claim in judge_all(table, ROWS):
            assert claim.findings[-1].outcome == "no maps"
            assert claim.findings[-1].sentence == "75 % of the maps are zero everywhere"
            assert math.isnan(claim.findings[-1].effect.estimate)
            assert "no maps" not in outcomes(claim)[:-1]

    def test_half_of_them_is_not_most(self, make_table):
        """Nor do maps before training count, all zero here."""
        table = make_table(
            lambda _s, epoch, image, _v: None if image < 2 or epoch == 0 else 3.0,
            epochs=[0, *ROWS],
            variants=READINGS,
        )
        assert all("no maps" not in outcomes(claim) for claim in judge_all(table, ROWS))

    def test_decide_nothing_where_every_reading_has_them(self, make_table):
        for claim in judge_all(make_table(lambda *_: None, variants=READINGS), ROWS):
            assert outcomes(claim) == ["no maps"] * 4
            assert claim.verdict == "inconclusive"

    def test_c5_looks_at_its_epoch_and_the_others_at_all_trained_ones(self, make_table):
        """Zero at the last epoch alone: C5 has no maps; zero before training: nobody minds."""
        table = make_table(
            lambda _s, epoch, *_: None if epoch in (0, 25) else 3.0, epochs=[0, *ROWS], variants=READINGS
        )
        *others, off_digit = judge_all(table, ROWS)
        assert outcomes(off_digit) == ["no maps"] * 4
        assert all("no maps" not in outcomes(claim) for claim in others)


class TestSmoke:
    @pytest.mark.parametrize("seeds", [[0], [0, 1], [0, 1, 2]])
    def test_three_epochs_decide_neither_c1_nor_c2(self, make_table, seeds):
        table = make_table(
            lambda seed, epoch, *_: 2.0 + epoch + 0.1 * seed, epochs=range(4), seeds=seeds, variants=READINGS
        )
        clearest, best_epoch, *_ = claims = judge_all(table, SMOKE_ROWS)
        for claim in (clearest, best_epoch):
            assert outcomes(claim) == ["unclear"] * 4
            assert claim.verdict == "inconclusive"
        assert len(ledger(claims)) == 16
        assert all("nan" not in str(claim) for claim in claims)


class TestLedger:
    @pytest.fixture
    def claims(self, make_table):
        table = make_table(
            lambda seed, epoch, image, variant: (
                None if variant == ONE else 2 + epoch / 10 + seed / 7 + image / 11
            ),
            variants=READINGS,
        )
        return judge_all(table, ROWS)

    def test_has_one_row_per_claim_and_reading(self, claims):
        table = ledger(claims)
        assert table["claim"].tolist() == [name for name in ("C1", "C2", "C3", "C5") for _ in READINGS]
        assert table["reading"].tolist() == [str(reading) for reading in READINGS] * 4

    def test_has_these_columns(self, claims):
        assert list(ledger(claims)) == [
            "claim", "text", "rule", "verdict", "reading", "outcome", "estimate", "low", "high", "n", "unit",
            "sentence",
        ]  # fmt: skip

    def test_holds_what_the_claims_say(self, claims):
        for i, row in ledger(claims).iterrows():
            claim = claims[i // 4]
            finding = claim.findings[i % 4]
            expected = [claim.name, claim.text, claim.rule, claim.verdict, str(finding.variant)]
            assert row.iloc[:5].tolist() == expected
            assert row["outcome"] == finding.outcome
            assert row["sentence"] == finding.sentence
            assert row["n"] == finding.effect.n
            if not math.isnan(finding.effect.estimate):
                effect = finding.effect
                assert row[["estimate", "low", "high"]].tolist() == [effect.estimate, effect.low, effect.high]

    def test_survives_a_csv_file(self, claims, tmp_path):
        table = ledger(claims)
        table.to_csv(tmp_path / "ledger.csv", index=False)
        pd.testing.assert_frame_equal(
            pd.read_csv(tmp_path / "ledger.csv"), table, check_dtype=False, rtol=1e-12
        )


def test_an_unknown_reading_is_never_made_up(make_table):
    """Tables with other variants too: only the readings are judged."""
    table = make_table(lambda *_: 3.0, epochs=[0, *ROWS], variants=[*READINGS, Reading("hirescam")])
    claim = judge_clearest_epoch(table, ROWS)
    assert [finding.variant for finding in claim.findings] == list(READINGS)

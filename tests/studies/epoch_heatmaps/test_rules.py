import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from gradcam_gan.studies.epoch_heatmaps.rules import (
    SAME_MAP,
    judge_best_epoch,
    judge_clearest_epoch,
    judge_generator,
    judge_off_digit,
    judge_probes,
)
from gradcam_gan.studies.epoch_heatmaps.tables import (
    BestEpoch,
    best_epoch,
    focus_beside_scores,
    rank_correlations,
    select,
)
from gradcam_gan.studies.readings import READINGS

ROWS = [5, 10, 15, 20, 25]
UP, DOWN, BOTH = [0.5, 0.6, 0.4, 0.55, 0.45], [-0.5, -0.6, -0.4, -0.55, -0.45], [0.6, -0.5, 0.1, 0.4, -0.3]


def outcomes(claim):
    return [finding.outcome for finding in claim.findings]


class TestClearestEpoch:
    """C1."""

    def judge(self, make_table, at_15, elsewhere=2.0, **options):
        def lift(seed, epoch, _image, _reading):
            return (at_15 if epoch == 15 else elsewhere + (0.25 if epoch == 20 else 0)) + 0.01 * seed * epoch

        return judge_clearest_epoch(make_table(lift, readings=READINGS, **options), ROWS)

    def test_holds_where_epoch_15_is_clearest_in_every_seed(self, make_table):
        claim = self.judge(make_table, 3.0)
        assert outcomes(claim) == ["holds"] * 4
        assert claim.verdict == "reproduced"

    def test_fails_where_another_row_is_clearer_in_every_seed_and_is_unclear_where_seeds_disagree(
        self, make_table
    ):
        assert outcomes(self.judge(make_table, 1.0)) == ["fails"] * 4
        table = make_table(
            lambda seed, epoch, *_: 2 + ([1, -0.5, 0.1][seed] if epoch == 15 else 0), readings=READINGS
        )
        assert outcomes(judge_clearest_epoch(table, ROWS)) == ["unclear"] * 4

    def test_the_effect_is_the_difference_to_the_best_other_row(self, make_table):
        """At epoch 20, by construction: 3 - 2.25 less 0.05 for each next seed."""
        finding = self.judge(make_table, 3.0).findings[0]
        assert finding.effect.estimate == pytest.approx(0.75 - 0.05)
        assert finding.effect.low < 0.70 < finding.effect.high
        assert (finding.effect.n, finding.effect.unit) == (3, "seeds")
        assert all(part in finding.sentence for part in ("3.15", "(epoch 20) 2.45", str(finding.effect)))

    def test_epochs_that_are_no_rows_of_figure_1_do_not_count(self, make_table):
        table = make_table(
            lambda seed, epoch, *_: {15: 3.0, 16: 9.0, 0: 9.0}.get(epoch, 2.0) + 0.01 * seed,
            readings=READINGS,
        )
        assert outcomes(judge_clearest_epoch(table, ROWS)) == ["holds"] * 4

    def test_all_zero_maps_count_as_chance(self, make_table):
        """Where maps are zero for half of the images, a lift of 3 counts as 2."""
        table = make_table(
            lambda _s, epoch, image, _v: (None if image < 2 else 3.0) if epoch == 15 else 2.5,
            readings=READINGS,
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

    def test_is_unclear_where_epoch_15_is_no_row(self, make_table):
        table = make_table(lambda *_: 2.0, epochs=range(4), readings=READINGS)
        claim = judge_clearest_epoch(table, [1, 2, 3])
        assert outcomes(claim) == ["unclear"] * 4
        assert math.isnan(claim.findings[0].effect.estimate)


def best(epoch, low, high):
    return BestEpoch(epoch, low, high, {0: epoch, 1: low, 2: high}, pd.Series(dtype=float), pd.DataFrame())


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
        table = make_table(lambda *_: 2.0, seeds=range(5), readings=READINGS)
        claim = judge_best_epoch(table, dict.fromkeys(READINGS, found))
        assert outcomes(claim) == [outcome] * 4
        effect = claim.findings[0].effect
        assert (effect.estimate, effect.low, effect.high) == (found.epoch, found.low, found.high)
        assert (effect.n, effect.unit) == (5, "seeds")
        each = f"{found.epoch} (seed 0), {found.low} (seed 1), {found.high} (seed 2)"
        assert each in claim.findings[0].sentence

    def test_each_reading_is_judged_by_its_own_interval(self, make_table):
        table = make_table(lambda *_: 2.0, seeds=range(5), readings=READINGS)
        intervals = [best(18, 18, 18), best(3, 3, 3), best(18, 5, 20), best(18, 17, 19)]
        claim = judge_best_epoch(table, dict(zip(READINGS, intervals, strict=True)))
        assert outcomes(claim) == ["holds", "fails", "unclear", "holds"]
        assert claim.verdict == "partly"

    def test_is_unclear_where_fewer_epochs_were_trained(self, make_table):
        table = make_table(lambda *_: 2.0, epochs=range(18), readings=READINGS)
        claim = judge_best_epoch(table, dict.fromkeys(READINGS, best(3, 3, 3)))
        assert outcomes(claim) == ["unclear"] * 4

    def test_is_unclear_over_fewer_than_five_seeds(self, make_table):
        for found in (best(18, 18, 18), best(3, 3, 3)):
            table = make_table(lambda *_: 2.0, seeds=range(4), readings=READINGS)
            claim = judge_best_epoch(table, dict.fromkeys(READINGS, found))
            assert outcomes(claim) == ["unclear"] * 4


class TestProbes:
    """C3."""

    def judge(self, make_table, kept, *, images=100, mean=0.5):
        """``kept`` images of each seed stay just below the limit, the others reach it."""
        changes = pd.concat(
            pd.DataFrame(
                {"seed": seed, **asdict(reading), "image": range(images), "mean_change": mean}
            ).assign(
                largest_change=lambda rows, count=count: np.where(
                    rows["image"] < count, SAME_MAP - 1e-6, SAME_MAP
                )
            )
            for seed, count in enumerate(kept)
            for reading in READINGS
        )
        table = make_table(lambda *_: 2.0, epochs=[0, 5], seeds=range(len(kept)), readings=READINGS)
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
        assert outcomes(self.judge(make_table, kept)) == [outcome] * 4

    def test_the_sentence_has_the_shares_and_the_typical_change(self, make_table):
        finding = self.judge(make_table, [2, 5, 11], mean=0.37).findings[0]
        assert finding.effect.estimate == pytest.approx(0.06)
        parts = ("6.0 % of the images", "by seed: 2.0 %, 5.0 %, 11.0 %", "changes by 0.37")
        assert all(part in finding.sentence for part in parts)


class TestGenerator:
    """C4."""

    def judge(self, make_table, rho, given, *, beaten=0.7):
        """``rho`` and ``given`` have a value a seed, the same under every reading."""
        seeds = range(len(rho))
        one = pd.DataFrame({"seed": seeds, "rho": rho, "rho_given_epoch": given, "beaten": beaten})
        table = make_table(lambda *_: 2.0, seeds=seeds, epochs=[0, 1, 2], readings=READINGS)
        return judge_generator(table, pd.concat(one.assign(reading=str(reading)) for reading in READINGS))

    @pytest.mark.parametrize(
        ("rho", "given", "outcome"),
        [
            (UP, UP, "holds"),
            (UP, BOTH, "unclear"),
            (BOTH, UP, "unclear"),
            (DOWN, DOWN, "fails"),
            (DOWN, BOTH, "fails"),
            (UP, DOWN, "fails"),
            (DOWN, UP, "fails"),
            (UP, [math.nan] * 5, "unclear"),
            (DOWN, [math.nan] * 5, "fails"),
            ([math.nan] * 5, [math.nan] * 5, "unclear"),
        ],
    )
    def test_holds_where_both_correlations_are_above_0_and_fails_where_either_is_below(
        self, make_table, rho, given, outcome
    ):
        claim = self.judge(make_table, rho, given)
        assert outcomes(claim) == [outcome] * 4
        verdicts = {"holds": "reproduced", "fails": "not reproduced", "unclear": "inconclusive"}
        assert (claim.name, claim.verdict) == ("C4", verdicts[outcome])

    def test_the_sentence_has_the_numbers(self, make_table):
        """The quantile of two degrees of freedom is 4.303; half-widths are it times 0.25, 0.1, 0.125 over sqrt(3)."""
        rho, given, beaten = [0.25, 0.5, 0.75], [0.1, 0.2, 0.3], [0.5, 0.625, 0.75]
        claim = self.judge(make_table, rho, given, beaten=beaten)
        numbers = ("0.5 [-0.1, 1.0]", "0.20 [-0.05, 0.45]", "0.62 [0.31, 0.94]")
        assert all(f"{one}, n=3 seeds" in claim.findings[0].sentence for one in numbers)

    def test_a_seed_without_a_correlation_is_left_out_and_counted(self, make_table):
        finding = self.judge(make_table, [math.nan, *UP], [*UP, math.nan]).findings[0]
        assert finding.outcome == "holds"
        assert (finding.effect.n, finding.effect.missing) == (5, 1)

    def test_each_reading_is_judged_by_its_own_correlations(self, make_table):
        one = pd.DataFrame({"seed": range(5), "beaten": 0.5})
        found = zip(reversed(READINGS), [UP, BOTH, DOWN, UP], strict=True)
        correlations = pd.concat(
            one.assign(reading=str(reading), rho=rho, rho_given_epoch=rho) for reading, rho in found
        )
        table = make_table(lambda *_: 2.0, seeds=range(5), epochs=[0, 1], readings=READINGS)
        claim = judge_generator(table, correlations)
        assert outcomes(claim) == ["holds", "fails", "unclear", "holds"]
        assert [finding.reading for finding in claim.findings] == list(READINGS)
        assert claim.verdict == "partly"

    @pytest.mark.parametrize(
        ("sign", "verdict"), [(1, "reproduced"), (-1, "not reproduced"), (0, "inconclusive")]
    )
    def test_works_with_what_rank_correlations_gives(self, make_table, sign, verdict):
        """A wave in the focus lift that FID follows, opposes or ignores."""

        def wave(seed, epoch):
            return math.sin(epoch + seed)

        def noise(seed, epoch):
            return np.random.default_rng([seed, epoch]).normal(0, 0.3 if sign else 3)

        table = make_table(lambda seed, epoch, *_: 2 + wave(seed, epoch), readings=READINGS)
        scores = pd.DataFrame(
            {"seed": seed, "epoch": epoch, "fid": 50 - sign * wave(seed, epoch) + noise(seed, epoch)}
            for seed in range(3)
            for epoch in range(26)
        )
        claim = judge_generator(table, rank_correlations(focus_beside_scores(table, scores)))
        assert claim.verdict == verdict


class TestOffDigit:
    """C5."""

    def judge(self, make_table, off):
        """``off`` of a hundred images of each seed have a focus lift below 1 at epoch 25, the others exactly 1."""
        table = make_table(
            lambda seed, epoch, image, _: 0.2 if epoch < 25 or image < off[seed] else 1.0,
            epochs=[0, 20, 25],
            images=range(100),
            seeds=range(len(off)),
            readings=READINGS,
        )
        return judge_off_digit(table, 25)

    @pytest.mark.parametrize(
        ("off", "outcome"),
        [
            ([40, 42, 44], "holds"),
            ([100, 100, 100], "holds"),
            ([0, 0, 0], "fails"),
            ([0, 0, 2], "unclear"),
            ([0, 20, 80], "unclear"),
            ([1, 1, 1], "unclear"),  # one in a hundred is not more than that
        ],
    )
    def test_holds_where_more_than_a_hundredth_of_the_images_are_off(self, make_table, off, outcome):
        assert outcomes(self.judge(make_table, off)) == [outcome] * 4

    def test_leaves_out_zero_maps_and_images_without_a_digit(self, make_table):
        table = make_table(
            lambda _s, _e, image, _v: [None, math.nan, 0.5, 2.0][image], epochs=[25], readings=READINGS
        )
        assert judge_off_digit(table, 25).findings[0].effect.estimate == 0.5


def judge_all(table, rows):
    """Every claim, from one table."""
    changes = pd.concat(
        select(table[table["epoch"] == rows[-1]], reading).assign(mean_change=0.5, largest_change=0.5)
        for reading in READINGS
    )
    found = {reading: best_epoch(select(table, reading), resamples=20) for reading in READINGS}
    correlations = pd.DataFrame(
        {"reading": str(reading), "seed": range(3), "rho": 0.5, "rho_given_epoch": 0.5, "beaten": 0.5}
        for reading in READINGS
    ).explode("seed")
    return [
        judge_clearest_epoch(table, rows),
        judge_best_epoch(table, found),
        judge_probes(table, changes),
        judge_generator(table, correlations),
        judge_off_digit(table, rows[-1]),
    ]


class TestMapsThatAreMostlyZero:
    def test_do_not_count(self, make_table):
        """One reading shows nothing in 3 of 4 maps."""
        table = make_table(
            lambda _s, epoch, image, reading: (
                None if reading == READINGS[-1] and image else 3.0 + 0.1 * (epoch in (15, 18))
            ),
            readings=READINGS,
        )
        for claim in judge_all(table, ROWS):
            assert claim.findings[-1].outcome == "no maps"
            assert math.isnan(claim.findings[-1].effect.estimate)
            assert "no maps" not in outcomes(claim)[:-1]

    def test_half_of_them_is_not_most(self, make_table):
        """Nor do maps before training count, all zero here."""
        table = make_table(
            lambda _s, epoch, image, _v: None if image < 2 or epoch == 0 else 3.0,
            epochs=[0, *ROWS],
            readings=READINGS,
        )
        assert all("no maps" not in outcomes(claim) for claim in judge_all(table, ROWS))

    def test_c5_looks_at_its_epoch_and_the_others_at_all_trained_ones(self, make_table):
        """Zero at the last epoch alone: C5 has no maps; zero before training: nobody minds."""
        table = make_table(
            lambda _s, epoch, *_: None if epoch in (0, 25) else 3.0, epochs=[0, *ROWS], readings=READINGS
        )
        *others, off_digit = judge_all(table, ROWS)
        assert outcomes(off_digit) == ["no maps"] * 4
        assert all("no maps" not in outcomes(claim) for claim in others)


@pytest.mark.parametrize("seeds", [[0], [0, 1], [0, 1, 2]])
def test_three_epochs_decide_neither_c1_nor_c2(make_table, seeds):
    table = make_table(
        lambda seed, epoch, *_: 2.0 + epoch + 0.1 * seed, epochs=range(4), seeds=seeds, readings=READINGS
    )
    clearest, best, *_ = claims = judge_all(table, [1, 2, 3])
    assert outcomes(clearest) == outcomes(best) == ["unclear"] * 4
    assert all("nan" not in str(claim) for claim in claims)


def test_intervals_stay_within_what_a_share_or_a_correlation_can_be(make_table):
    lowest = {
        0: [TestProbes().judge(make_table, [0, 0, 9]), TestOffDigit().judge(make_table, [0, 0, 18])],
        -1: [TestGenerator().judge(make_table, [-1, -1, -0.5], UP[:3])],
    }
    for bound, claims in lowest.items():
        assert all(claim.findings[0].effect.low == bound for claim in claims)
    highest = [
        TestProbes().judge(make_table, [100, 100, 91]),
        TestOffDigit().judge(make_table, [100, 100, 82]),
        TestGenerator().judge(make_table, [1, 1, 0.5], UP[:3]),
    ]
    assert all(claim.findings[0].effect.high == 1 for claim in highest)

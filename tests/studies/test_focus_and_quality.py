import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gradcam_gan.studies.claims import READINGS
from gradcam_gan.studies.epochs import clearness, select
from gradcam_gan.studies.focus_and_quality import focus_beside_scores, rank_correlations

ONE, OTHER, *_ = READINGS


def scores_of(fid, *, seeds, epochs):
    """Rows of ``evaluate_run`` with a seed, the last ones first; ``fid(seed, epoch)``."""
    rows = [
        {"seed": seed, "epoch": epoch, "fid": fid(seed, epoch), "n": 100}
        for seed in seeds
        for epoch in epochs
    ]
    return pd.DataFrame(rows[::-1])


class TestFocusBesideScores:
    def test_joins_each_networks_focus_and_scores_epoch_by_epoch(self, make_table):
        """The rows of either table are in an order of their own."""
        table = make_table(
            lambda seed, epoch, image, variant: (
                100 * seed + 10 * epoch + image + 0.25 * READINGS.index(variant)
            ),
            seeds=[7, 2],
            epochs=range(4),
            variants=READINGS,
        )
        scores = scores_of(lambda seed, epoch: 1000 * seed + epoch, seeds=[2, 7], epochs=range(4))
        joined = focus_beside_scores(table, scores)
        assert len(joined) == len(READINGS) * 2 * 3
        assert list(joined)[:3] == ["reading", "seed", "epoch"]
        assert set(joined) == {"reading", "seed", "epoch", "focus_lift", "all_zero", "fid", "n"}
        for i, variant in enumerate(READINGS):
            rows = joined[joined["reading"] == str(variant)].set_index(["seed", "epoch"]).sort_index()
            assert rows.index.tolist() == [(seed, epoch) for seed in (2, 7) for epoch in (1, 2, 3)]
            for (seed, epoch), row in rows.iterrows():
                assert row["focus_lift"] == pytest.approx(100 * seed + 10 * epoch + 1.5 + 0.25 * i)
                assert row["fid"] == 1000 * seed + epoch

    def test_leaves_out_the_untrained_epoch(self, make_table):
        table = make_table(lambda *_: 2.0, epochs=[0, 1, 5], variants=READINGS)
        joined = focus_beside_scores(table, scores_of(lambda *_: 3.0, seeds=range(3), epochs=[0, 1, 5]))
        assert set(joined["epoch"]) == {1, 5}

    def test_leaves_out_what_one_of_the_tables_lacks(self, make_table):
        table = make_table(lambda *_: 2.0, seeds=[0, 1], epochs=[1, 2], variants=READINGS)
        joined = focus_beside_scores(table, scores_of(lambda *_: 3.0, seeds=[1, 2], epochs=[2, 3]))
        assert joined[["seed", "epoch"]].to_numpy().tolist() == [[1, 2]] * len(READINGS)

    def test_a_map_that_is_zero_everywhere_counts_as_chance(self, make_table):
        """One of four at epoch 1, all four at epoch 2."""
        table = make_table(
            lambda _s, epoch, image, _v: None if image < (1 if epoch == 1 else 4) else 3.0,
            epochs=[1, 2],
            variants=READINGS,
        )
        joined = focus_beside_scores(table, scores_of(lambda *_: 3.0, seeds=range(3), epochs=[1, 2]))
        first, second = (joined[joined["epoch"] == epoch] for epoch in (1, 2))
        assert set(first["focus_lift"]) == {(1 + 3 * 3.0) / 4}
        assert set(first["all_zero"]) == {0.25}
        assert set(second["focus_lift"]) == {1.0}
        assert set(second["all_zero"]) == {1.0}

    def test_the_share_of_zero_maps_is_the_readings_own(self, make_table):
        table = make_table(
            lambda seed, _e, image, variant: None if variant == ONE and image < seed else 2.0,
            epochs=[1],
            variants=READINGS,
        )
        joined = focus_beside_scores(table, scores_of(lambda *_: 3.0, seeds=range(3), epochs=[1]))
        share = joined.pivot_table("all_zero", "seed", "reading")
        assert share[str(ONE)].tolist() == [0.0, 0.25, 0.5]
        assert share[str(OTHER)].tolist() == [0.0, 0.0, 0.0]

    def test_focus_is_the_clearness_of_the_other_claims(self, make_table):
        random = np.random.default_rng(0)
        table = make_table(lambda *_: random.uniform(0, 3), epochs=range(3), variants=READINGS)
        joined = focus_beside_scores(table, scores_of(lambda *_: 3.0, seeds=range(3), epochs=range(3)))
        for variant in READINGS:
            found = joined[joined["reading"] == str(variant)].pivot_table("focus_lift", "seed", "epoch")
            expected = clearness(select(table, variant), "seed")[[1, 2]]
            np.testing.assert_allclose(found, expected)

    def test_what_it_gives_can_be_correlated(self, make_table):
        """More focus with every epoch of seed 0 and less of seed 1; FID falls in both, in steps of their own."""
        table = make_table(
            lambda seed, epoch, *_: 2.0 + (1 - 2 * seed) * [0, 1, 4, 2, 3][epoch],
            seeds=[0, 1],
            epochs=range(5),
            variants=READINGS,
        )
        scores = scores_of(lambda _, epoch: 10.0 - [0, 1, 4, 2, 3][epoch], seeds=[0, 1], epochs=range(1, 5))
        found = rank_correlations(focus_beside_scores(table, scores))
        assert found["reading"].tolist() == [str(variant) for variant in READINGS for _ in range(2)]
        assert found["seed"].tolist() == [0, 1] * len(READINGS)
        assert found["rho"].tolist() == pytest.approx([1, -1] * len(READINGS))
        assert found["rho_given_epoch"].tolist() == pytest.approx([1, -1] * len(READINGS))
        assert found["picked"].tolist() == [2, 1] * len(READINGS)
        assert found["beaten"].tolist() == [1.0, 0.0] * len(READINGS)


def network(focus, fid, *, epoch=None, seed=0, reading=str(ONE), score="fid"):
    return pd.DataFrame(
        {
            "reading": reading,
            "seed": seed,
            "epoch": np.arange(1, len(focus) + 1) if epoch is None else epoch,
            "focus_lift": np.asarray(focus, dtype=float),
            score: np.asarray(fid, dtype=float),
        }
    )


def correlation(focus, fid, **options):
    (row,) = rank_correlations(network(focus, fid, **options)).to_dict("records")
    return row


def partial_by_residuals(a, b, given):
    """Pearson's correlation of what straight lines through the third's ranks leave of the ranks."""
    ranks, of_a, of_b = (stats.rankdata(values) for values in (given, a, b))
    design = np.column_stack([np.ones(len(ranks)), ranks])
    left = [values - design @ np.linalg.lstsq(design, values, rcond=None)[0] for values in (of_a, of_b)]
    return np.corrcoef(*left)[0, 1]


class TestRankCorrelations:
    def test_more_focus_with_a_lower_fid_is_positive(self):
        focus = [1.0, 3.0, 2.0, 5.0, 4.0]
        together = correlation(focus, [90.0, 20.0, 50.0, 1.0, 3.0])
        assert (together["rho"], together["rho_given_epoch"]) == pytest.approx((1, 1))
        opposed = correlation(focus, [1.0, 20.0, 3.0, 90.0, 50.0])
        assert (opposed["rho"], opposed["rho_given_epoch"]) == pytest.approx((-1, -1))

    def test_is_spearmans_by_hand(self):
        """Ranks 1 2 3 4 and, of -FID, 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6."""
        assert correlation([1, 10, 11, 500], [7, 70, 5, 6])["rho"] == pytest.approx(0.6)

    @pytest.mark.parametrize("seed", range(4))
    def test_is_the_correlation_of_the_residuals_given_the_epoch(self, seed):
        random = np.random.default_rng(seed)
        epoch = np.arange(1, 21)
        focus = 0.1 * epoch + random.normal(size=20)
        fid = 30 - 0.2 * epoch - 0.5 * focus + random.normal(size=20)
        row = correlation(focus, fid)
        assert row["rho"] == pytest.approx(stats.spearmanr(focus, -fid).statistic)
        assert row["rho_given_epoch"] == pytest.approx(partial_by_residuals(focus, -fid, epoch))
        assert abs(row["rho"] - row["rho_given_epoch"]) > 0.02

    def test_ties_share_their_rank(self):
        focus, fid = [1, 1, 2, 2, 3, 1], [9, 8, 8, 3, 3, 5]
        row = correlation(focus, fid)
        assert row["rho_given_epoch"] == pytest.approx(
            partial_by_residuals(focus, -np.array(fid), np.arange(6))
        )

    def test_the_rows_may_come_in_any_order(self):
        random = np.random.default_rng(5)
        table = network(random.normal(size=15), random.normal(size=15))
        shuffled = table.sample(frac=1, random_state=1)
        pd.testing.assert_frame_equal(rank_correlations(table), rank_correlations(shuffled))

    def test_what_goes_through_the_epoch_alone_is_gone_given_the_epoch(self):
        """Both get better as training goes on, each with a noise of its own."""
        random = np.random.default_rng(0)
        epoch = np.arange(1, 201)
        row = correlation(epoch + random.normal(0, 20, 200), 500 - epoch + random.normal(0, 20, 200))
        assert row["rho"] > 0.7
        assert abs(row["rho_given_epoch"]) < 0.15  # two standard errors at 200 epochs

    def test_what_is_more_than_the_epoch_stays(self):
        """The same noise in both."""
        random = np.random.default_rng(0)
        epoch, shared = np.arange(1, 201), random.normal(0, 20, 200)
        row = correlation(epoch + shared, 500 - epoch - shared + random.normal(0, 2, 200))
        assert row["rho"] > 0.7
        assert row["rho_given_epoch"] > 0.9

    @pytest.mark.parametrize(
        ("focus", "fid"), [([1, 1, 1, 1], [4, 3, 1, 2]), ([4, 3, 1, 2], [5, 5, 5, 5])], ids=["focus", "fid"]
    )
    def test_there_is_none_where_one_is_constant(self, focus, fid):
        """Such as all maps zero at every epoch."""
        row = correlation(focus, fid)
        assert math.isnan(row["rho"])
        assert math.isnan(row["rho_given_epoch"])

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the mean of no other epochs
    def test_there_is_none_of_one_epoch(self):
        row = correlation([2.0], [5.0])
        assert math.isnan(row["rho"])
        assert math.isnan(row["beaten"])
        assert row["picked"] == 1

    @pytest.mark.parametrize("turned", [False, True], ids=["rising", "falling"])
    @pytest.mark.parametrize("what", ["focus", "fid"])
    @pytest.mark.parametrize("epochs", [3, 4, 16, 25])
    def test_there_is_none_given_the_epoch_where_one_follows_it_exactly(self, epochs, what, turned):
        steps = np.arange(epochs)[:: -1 if turned else 1]
        noise = np.random.default_rng(1).permutation(epochs)
        focus, fid = (steps, noise) if what == "focus" else (noise, steps)
        row = correlation(focus, fid)
        assert row["rho"] == pytest.approx(stats.spearmanr(focus, -fid).statistic)
        assert math.isnan(row["rho_given_epoch"])

    @pytest.mark.parametrize("epochs", [2, 5, 10, 24])
    def test_there_is_none_either_where_rounding_hides_it(self, epochs):
        noise = np.random.default_rng(1).permutation(epochs)
        assert math.isnan(correlation(np.arange(epochs), noise)["rho_given_epoch"])

    def test_picked_is_the_epoch_of_the_clearest_maps_and_beaten_whom_its_generator_beats(self):
        """Epoch 6 is clearest; of the other four generators 2 and 8 are worse, 4 is better, 10 as good."""
        row = correlation([1, 2, 9, 3, 4], [50, 10, 20, 30, 20], epoch=[2, 4, 6, 8, 10])
        assert row["picked"] == 6
        assert row["beaten"] == 2 / 4

    @pytest.mark.parametrize(("fid", "beaten"), [([1, 2, 3], 1.0), ([3, 2, 1], 0.0), ([2, 3, 1], 0.5)])
    def test_beaten_is_a_share_of_the_others(self, fid, beaten):
        assert correlation([9, 1, 2], fid)["beaten"] == beaten

    def test_the_first_of_equally_clear_epochs_is_picked(self):
        assert correlation([1, 5, 5], [3, 2, 1])["picked"] == 2

    def test_networks_and_readings_are_apart(self):
        tables = [
            network([1, 2, 4, 3], [4, 3, 1, 2], seed=1),
            network([1, 2, 4, 3], [1, 2, 4, 3], seed=0),
            network([1, 2, 4, 3], [1, 1, 1, 1], seed=0, reading=str(OTHER)),
        ]
        found = rank_correlations(pd.concat(tables, ignore_index=True))
        assert list(found) == ["reading", "seed", "rho", "rho_given_epoch", "picked", "beaten"]
        assert found[["reading", "seed"]].to_numpy().tolist() == [
            [str(ONE), 1],
            [str(ONE), 0],
            [str(OTHER), 0],
        ]
        assert found["rho"].tolist() == pytest.approx([1, -1, math.nan], nan_ok=True)
        assert found["beaten"].tolist() == [1.0, 0.0, 0.0]

    def test_takes_another_score(self):
        table = network([1, 2, 4, 3], [4, 3, 1, 2], score="kid").assign(fid=[1.0, 2.0, 4.0, 3.0])
        by_kid, by_fid = (rank_correlations(table, score).iloc[0] for score in ("kid", "fid"))
        assert (by_kid["rho"], by_kid["beaten"]) == pytest.approx((1, 1))
        assert (by_fid["rho"], by_fid["beaten"]) == pytest.approx((-1, 0))
        pd.testing.assert_frame_equal(rank_correlations(table), rank_correlations(table, "fid"))

import itertools
import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from gradcam_gan.explaining.measures import digit_mask
from gradcam_gan.run_explainer import ExplainedRun, Reading
from gradcam_gan.studies.epoch_heatmaps.tables import (
    best_epoch,
    best_epochs,
    change_between,
    changes_of_rows,
    clearness,
    extreme_probes,
    focus_beside_scores,
    focus_summary,
    image_as_map,
    off_digit_shares,
    rank_correlations,
    select,
)
from gradcam_gan.studies.readings import ALL_READINGS, READINGS

ONE = Reading("gradcam", "reference", "real")
OTHER = Reading("hirescam", "running", "fake")


class TestChangeBetween:
    pattern = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(4, 4)

    @pytest.mark.parametrize(
        ("one", "other", "change"),
        [
            (pattern, pattern, 0.0),
            (pattern, 3 * pattern + 1, 0.0),  # whatever the scale
            (pattern, 1 - pattern, 2.0),
            (zero, zero, 0.0),
            (zero, pattern, 1.0),
            (pattern, zero, 1.0),
        ],
        ids=["same", "scaled", "inverted", "both zero", "first zero", "last zero"],
    )
    def test_is_one_less_the_correlation_and_two_zero_maps_are_the_same(self, one, other, change):
        found = change_between(torch.stack([one, other])[:, None])
        torch.testing.assert_close(found, torch.tensor([[change]]), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("size", [3, 8, 64])
    def test_constant_maps_are_the_same_picture_at_any_level(self, size):
        levels = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))
        flat = levels[:, :, None, None].expand(-1, -1, size, size)
        assert change_between(flat).tolist() == [[0.0] * 50]

    def test_each_image_is_compared_with_itself_in_the_next_epoch(self):
        epochs = [(self.pattern, self.zero), (self.pattern, self.zero), (1 - self.pattern, self.pattern)]
        maps = torch.stack([torch.stack(images) for images in epochs])
        torch.testing.assert_close(change_between(maps), torch.tensor([[0.0, 0.0], [2.0, 1.0]]))


class TestChangesOfRows:
    def test_gives_mean_and_largest_over_neighbouring_rows(self, explainer, digits):
        explained = explainer.explain(digits[:4], [0, 1, 3])
        table = changes_of_rows(explained, [ONE, OTHER])
        assert list(table) == [
            "padding", "seed", "method", "statistics", "evidence", "image", "mean_change", "largest_change"
        ]  # fmt: skip
        assert len(table) == 8
        for reading in (ONE, OTHER):
            maps = explained.maps(reading, upsample=False).flatten(2).numpy()
            found = select(table, reading).set_index("image")
            for image in range(4):
                changes = [1 - np.corrcoef(maps[i, image], maps[i + 1, image])[0, 1] for i in (0, 1)]
                assert found["mean_change"][image] == pytest.approx(np.mean(changes), abs=1e-5)
                assert found["largest_change"][image] == pytest.approx(max(changes), abs=1e-5)

    def test_an_image_without_any_map_has_no_change(self, tiny_run, digits):
        pattern, zero = TestChangeBetween.pattern, TestChangeBetween.zero
        maps = {0: torch.stack([zero, zero]), 1: torch.stack([zero, pattern])}
        signed = {(epoch, ONE.statistics, ONE.method): map for epoch, map in maps.items()}
        table = changes_of_rows(ExplainedRun(tiny_run, digits[:2], [0, 1], signed, {}), [ONE])
        np.testing.assert_array_equal(table["largest_change"], [np.nan, 1.0])


def changes_table(mean, largest, reading=ONE, seed=0):
    keys = {"padding": "zeros", "seed": seed, **asdict(reading)}
    return pd.DataFrame({**keys, "image": range(len(mean)), "mean_change": mean, "largest_change": largest})


class TestExtremeProbes:
    def test_most_by_mean_change_and_least_by_largest_change(self):
        table = changes_table([0.2, 0.9, 0.1, 0.5], [1.9, 1.0, 0.8, 0.6])
        assert extreme_probes(table, ONE, 0, 2) == ([1, 3], [3, 2])
        ties = changes_table([0.5] * 4, [0.5] * 4)
        assert extreme_probes(ties, ONE, 0, 2) == ([0, 1], [0, 1])  # in order

    def test_looks_at_one_seed_and_one_reading(self):
        table = pd.concat(
            [
                changes_table([0.0, 0.0, 0.7], [0.9, 0.9, 0.8]),
                changes_table([2.0, 0.0, 0.0], [2.0, 0.0, 2.0], seed=1),
                changes_table([0.0, 2.0, 0.0], [0.0, 2.0, 2.0], reading=OTHER),
            ]
        )
        assert extreme_probes(table, ONE, 0, 1) == ([2], [2])
        assert extreme_probes(table, ONE, 1, 1) == ([0], [1])
        assert extreme_probes(table, OTHER, 0, 1) == ([1], [0])


def test_select_takes_the_rows_of_one_reading(make_table):
    table = make_table(lambda *_: 1.0, seeds=[0, 1], epochs=[1, 2])
    for reading in ALL_READINGS:
        rows = select(table, reading)
        assert len(rows) == 2 * 2 * 4
        assert {Reading(*row) for row in rows[["method", "statistics", "evidence"]].to_numpy()} == {reading}


def test_the_image_itself_lies_wholly_on_grey_and_bright_strokes(digits):
    """Its focus lift is its share of brightness in the mask, over the mask's share of the image."""
    images = digits[:6].double() / 255
    mask = digit_mask(digits[:6])[:, None]
    inside = (images * mask).sum((1, 2, 3)) / images.sum((1, 2, 3))
    expected = (inside / mask.double().mean((1, 2, 3))).mean()
    assert image_as_map(digits[:6]) == pytest.approx(float(expected), rel=1e-5)


class TestFocusSummary:
    def test_gives_students_interval_over_seeds(self, make_table):
        lifts = {0: 1.0, 1: 2.0, 2: 4.5}
        table = make_table(lambda seed, epoch, image, _: lifts[seed] + epoch + image, epochs=[0, 5])
        summary = focus_summary(table)
        assert len(summary) == len(ALL_READINGS) * 2
        row = select(summary[summary["epoch"] == 5], ONE).iloc[0]
        means = np.array([1.0, 2.0, 4.5]) + 5 + 1.5
        low, high = stats.t.interval(0.95, 2, means.mean(), stats.sem(means))
        assert row[["estimate", "low", "high"]].tolist() == pytest.approx([means.mean(), low, high])
        assert (row["n"], row["unit"], row["all_zero"]) == (3, "seeds", 0)

    def test_two_seeds_give_an_interval_over_images(self, make_table):
        table = make_table(lambda seed, epoch, image, _: 1.0 + image, seeds=[0, 1], epochs=[5])
        row = focus_summary(table).iloc[0]
        assert (row["n"], row["unit"]) == (8, "images")
        assert row["low"] < row["estimate"] == 2.5 < row["high"]

    def test_says_nothing_of_maps_that_are_mostly_zero(self, make_table):
        """Three of four are; two of four are not "mostly"."""
        table = make_table(lambda _s, epoch, image, _v: None if image < epoch else 3.0, epochs=[2, 3])
        half, most = (focus_summary(table[table["epoch"] == epoch]) for epoch in (2, 3))
        assert half["estimate"].tolist() == [3.0] * len(ALL_READINGS)
        assert most[["estimate", "low", "high"]].isna().all(axis=None)
        assert half["all_zero"].unique().tolist() == [0.5]
        assert most["all_zero"].unique().tolist() == [0.75]


class TestOffDigitShares:
    def test_counts_maps_below_chance(self, make_table):
        """1 of 4 images in two seeds, 3 of 4 in the third; exactly 1 is chance and not below."""
        below = {0: 1, 1: 1, 2: 3}
        table = make_table(lambda seed, epoch, image, _: 0.5 if image < below[seed] else 1.0, epochs=[5, 10])
        row = off_digit_shares(table, 10).iloc[0]
        assert row["estimate"] == pytest.approx((0.25 + 0.25 + 0.75) / 3)
        assert (row["low"], row["n"], row["unit"]) == (0.0, 3, "seeds")  # Student's goes below 0
        assert row["estimate"] < row["high"] <= 1

    def test_has_a_row_per_reading_and_padding_of_that_epoch_alone(self, make_table):
        zeros = make_table(lambda _s, epoch, *_: 0.5 if epoch == 10 else 2.0, epochs=[5, 10])
        other = make_table(lambda *_: 2.0, epochs=[5, 10], seeds=[0], padding="background")
        shares = off_digit_shares(pd.concat([zeros, other], ignore_index=True), 10)
        assert shares["reading"].tolist() == [str(reading) for reading in ALL_READINGS for _ in range(2)]
        assert shares["padding"].tolist() == ["zeros", "background"] * len(ALL_READINGS)
        assert shares["estimate"].tolist() == [1.0, 0.0] * len(ALL_READINGS)
        assert shares["border_lift"].tolist() == [1.0, 4.0] * len(ALL_READINGS)

    def test_leaves_all_zero_maps_out_and_counts_them(self, make_table):
        table = make_table(lambda _s, _e, image, _v: [None, 0.5, 2.0, 2.0][image], epochs=[5])
        row = off_digit_shares(table, 5).iloc[0]
        assert row["estimate"] == pytest.approx(1 / 3)
        assert row["all_zero"] == 0.25
        assert row["border_lift"] == pytest.approx((1.0 + 4.0 + 4.0) / 3)
        nothing = off_digit_shares(make_table(lambda *_: None, epochs=[5]), 5)
        assert nothing[["estimate", "low", "high", "border_lift"]].isna().all(axis=None)
        assert (nothing["all_zero"] == 1).all()

    def test_leaves_out_images_without_a_digit(self, make_table):
        """Where no pixel is bright, "on the digit" means nothing: neither on it nor off it."""
        table = make_table(lambda _s, _e, image, _v: [0.5, 2.0, 2.0, np.nan][image], epochs=[5])
        assert off_digit_shares(table, 5)["estimate"].tolist() == pytest.approx([1 / 3] * len(ALL_READINGS))


class TestClearness:
    def test_an_all_zero_map_counts_as_chance(self, make_table):
        table = make_table(lambda _s, _e, image, _v: None if image < 2 else 3.0, epochs=[1], readings=[ONE])
        assert clearness(table, "seed").to_numpy().tolist() == [[2.0]] * 3
        assert clearness(table, "seed", "image").loc[0][1].tolist() == [1.0, 1.0, 3.0, 3.0]

    def test_has_a_row_per_key_and_a_column_per_epoch(self, make_table):
        table = make_table(lambda seed, epoch, *_: 10.0 * seed + epoch, epochs=[0, 5, 10], readings=[ONE])
        found = clearness(table, "seed")
        assert found.columns.tolist() == [0, 5, 10]
        assert found.loc[2].tolist() == [20.0, 25.0, 30.0]

    def test_leaves_out_images_without_a_digit_even_where_their_map_is_zero(self, make_table):
        """Else such an image would count at some epochs and be missing at others."""
        table = make_table(
            lambda _s, epoch, image, _v: 2.0 if image else None if epoch == 1 else np.nan,
            epochs=[1, 2],
            readings=[ONE],
        )
        table.loc[table["image"] == 0, "mask_area"] = 0.0
        assert clearness(table, "seed").to_numpy().tolist() == [[2.0, 2.0]] * 3
        assert clearness(table, "seed", "image").notna().all(axis=None)


def noise(seed, epoch, image):
    return np.random.default_rng([seed, epoch, image]).normal(0, 0.05)


class TestBestEpochs:
    def planted(self, make_table, best, **options):
        """Focus lift 3 at one epoch of each seed, 2 elsewhere, with noise; 9 before training."""
        return make_table(
            lambda seed, epoch, image, _: (
                (9 if epoch == 0 else 3 if epoch == best[seed] else 2) + noise(seed, epoch, image)
            ),
            seeds=best,
            images=range(20),
            readings=[ONE],
            **options,
        )

    def test_finds_a_planted_epoch_with_a_tight_interval(self, make_table):
        found = best_epoch(self.planted(make_table, {0: 18, 1: 18, 2: 18}))
        assert (found.epoch, found.low, found.high) == (18, 18, 18)
        assert found.by_seed == {0: 18, 1: 18, 2: 18}
        assert found.drawn[18] == 1.0

    def test_seeds_that_disagree_give_an_interval_that_spans_both(self, make_table):
        found = best_epoch(self.planted(make_table, {0: 5, 3: 20}))
        assert (found.low, found.high) == (5, 20)
        assert found.by_seed == {0: 5, 3: 20} == found.curve.idxmax().to_dict()
        assert (found.curve.index.tolist(), found.curve.columns.tolist()) == ([*range(1, 26)], [0, 3])
        # with two seeds a resample holds the same one twice in a quarter of cases each
        assert 0.25 <= found.drawn[5] <= 0.75
        assert found.drawn[5] + found.drawn[20] == pytest.approx(1)

    def test_each_resample_draws_seeds_and_within_them_images(self, make_table):
        """The same resamples, the plain way: images are picked by number and their lifts averaged."""
        table = make_table(
            lambda seed, epoch, image, _: 10 * noise(seed, epoch, image), epochs=range(6), readings=[ONE]
        )
        lifts = table[table["epoch"] > 0].pivot_table("focus_lift", ["seed", "image"], "epoch")
        random, winners = np.random.default_rng(0), []
        for _ in range(300):
            drawn = []
            for seed in random.integers(3, size=(3,)):
                counts = random.multinomial(4, np.full(4, 1 / 4))
                drawn += [lifts.loc[seed, image] for image in range(4) for _ in range(counts[image])]
            winners.append(pd.concat(drawn, axis=1).mean(axis=1).idxmax())
        found = best_epoch(table, resamples=300)
        expected = pd.Series(winners).value_counts(normalize=True).reindex(range(1, 6), fill_value=0.0)
        pd.testing.assert_series_equal(found.drawn, expected, check_names=False, check_index_type=False)
        assert (found.low, found.high) == (sorted(winners)[7], sorted(winners)[292])  # 2.5 and 97.5 %

    def test_every_reading_has_its_own(self, make_table):
        table = make_table(
            lambda _s, epoch, _i, reading: 3.0 if epoch == 2 + READINGS.index(reading) else 2.0,
            epochs=range(7),
            readings=READINGS,
        )
        assert {reading: found.epoch for reading, found in best_epochs(table).items()} == {
            reading: 2 + i for i, reading in enumerate(READINGS)
        }

    def test_an_image_without_a_digit_does_not_decide(self, make_table):
        """Its focus lift is undefined except where its map is zero."""
        table = self.planted(make_table, {0: 18, 1: 18, 2: 18})
        dark = table["image"] == 3
        table.loc[dark, ["focus_lift", "mask_area"]] = [np.nan, 0.0]
        table.loc[dark & (table["epoch"] == 4), "all_zero"] = True
        found = best_epoch(table)
        assert (found.epoch, found.low, found.high) == (18, 18, 18)


def scores_of(fid, *, seeds, epochs):
    """Rows of ``evaluate_run`` with a seed, the last ones first; ``fid(seed, epoch)``."""
    keys = [*itertools.product(seeds, epochs)][::-1]
    return pd.DataFrame(
        {"seed": seed, "epoch": epoch, "fid": fid(seed, epoch), "n": 100} for seed, epoch in keys
    )


class TestFocusBesideScores:
    def test_joins_each_networks_focus_and_scores_epoch_by_epoch(self, make_table):
        """The rows of either table are in an order of their own; the untrained epoch is left out."""
        table = make_table(
            lambda seed, epoch, image, reading: (
                100 * seed + 10 * epoch + image + 0.25 * READINGS.index(reading)
            ),
            seeds=[7, 2],
            epochs=range(4),
            readings=READINGS,
        )
        scores = scores_of(lambda seed, epoch: 1000 * seed + epoch, seeds=[2, 7], epochs=range(4))
        joined = focus_beside_scores(table, scores)
        assert len(joined) == len(READINGS) * 2 * 3
        assert list(joined)[:3] == ["reading", "seed", "epoch"]
        assert set(joined) == {"reading", "seed", "epoch", "focus_lift", "all_zero", "fid", "n"}
        for i, reading in enumerate(READINGS):
            rows = joined[joined["reading"] == str(reading)].set_index(["seed", "epoch"]).sort_index()
            assert rows.index.tolist() == [(seed, epoch) for seed in (2, 7) for epoch in (1, 2, 3)]
            for (seed, epoch), row in rows.iterrows():
                assert row["focus_lift"] == pytest.approx(100 * seed + 10 * epoch + 1.5 + 0.25 * i)
                assert row["fid"] == 1000 * seed + epoch

    def test_leaves_out_what_one_of_the_tables_lacks(self, make_table):
        table = make_table(lambda *_: 2.0, seeds=[0, 1], epochs=[1, 2], readings=READINGS)
        joined = focus_beside_scores(table, scores_of(lambda *_: 3.0, seeds=[1, 2], epochs=[2, 3]))
        assert joined[["seed", "epoch"]].to_numpy().tolist() == [[1, 2]] * len(READINGS)

    def test_zero_maps_count_as_chance_and_their_share_is_the_readings_own(self, make_table):
        table = make_table(
            lambda seed, _e, image, reading: None if reading == READINGS[0] and image < seed else 3.0,
            epochs=[1],
            readings=READINGS,
        )
        joined = focus_beside_scores(table, scores_of(lambda *_: 3.0, seeds=range(3), epochs=[1]))
        first, *others = (rows for _, rows in joined.groupby("reading", sort=False))
        assert first["all_zero"].tolist() == [0.0, 0.25, 0.5]
        assert first["focus_lift"].tolist() == [3.0, 2.5, 2.0]
        assert all((rows["all_zero"] == 0).all() for rows in others)


def network(focus, fid, *, epoch=None, seed=0, reading="one"):
    epoch = range(1, len(focus) + 1) if epoch is None else epoch
    table = pd.DataFrame({"reading": reading, "seed": seed, "epoch": epoch, "focus_lift": focus, "fid": fid})
    return table.astype({"focus_lift": float, "fid": float})


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
        shuffled = rank_correlations(network(focus, fid).sample(frac=1, random_state=1))
        pd.testing.assert_frame_equal(shuffled, pd.DataFrame([row]))

    def test_ties_share_their_rank(self):
        focus, fid = [1, 1, 2, 2, 3, 1], [9, 8, 8, 3, 3, 5]
        expected = partial_by_residuals(focus, -np.array(fid), np.arange(6))
        assert correlation(focus, fid)["rho_given_epoch"] == pytest.approx(expected)

    def test_given_the_epoch_only_what_is_more_than_it_stays(self):
        """Both get better as training goes on, each with a noise of its own; then with the same noise."""
        random = np.random.default_rng(0)
        epoch, shared = np.arange(1, 201), random.normal(0, 20, 200)
        own = correlation(epoch + random.normal(0, 20, 200), 500 - epoch + random.normal(0, 20, 200))
        same = correlation(epoch + shared, 500 - epoch - shared + random.normal(0, 2, 200))
        assert min(own["rho"], same["rho"]) > 0.7
        assert abs(own["rho_given_epoch"]) < 0.15  # two standard errors at 200 epochs
        assert same["rho_given_epoch"] > 0.9

    @pytest.mark.parametrize(
        ("focus", "fid"), [([1, 1, 1, 1], [4, 3, 1, 2]), ([4, 3, 1, 2], [5, 5, 5, 5])], ids=["focus", "fid"]
    )
    def test_there_is_none_where_one_is_constant(self, focus, fid):
        """Such as all maps zero at every epoch."""
        row = correlation(focus, fid)
        assert np.isnan([row["rho"], row["rho_given_epoch"]]).all()

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the mean of no other epochs
    def test_there_is_none_of_one_epoch(self):
        row = correlation([2.0], [5.0])
        assert np.isnan([row["rho"], row["beaten"]]).all()
        assert row["picked"] == 1

    @pytest.mark.parametrize("epochs", [3, 5, 10, 16, 24, 25])
    def test_there_is_none_given_the_epoch_where_one_follows_it_exactly(self, epochs):
        """Rounding leaves a little above 0 at some lengths."""
        steps, scattered = np.arange(epochs), np.random.default_rng(1).permutation(epochs)
        for focus, fid in ((steps, scattered), (steps[::-1], scattered), (scattered, steps)):
            row = correlation(focus, fid)
            assert row["rho"] == pytest.approx(stats.spearmanr(focus, -fid).statistic)
            assert math.isnan(row["rho_given_epoch"])

    def test_picked_is_the_epoch_of_the_clearest_maps_and_beaten_whom_its_generator_beats(self):
        """Epoch 6 is clearest; of the other four generators 2 and 8 are worse, 4 is better, 10 as good."""
        row = correlation([1, 2, 9, 3, 4], [50, 10, 20, 30, 20], epoch=[2, 4, 6, 8, 10])
        assert (row["picked"], row["beaten"]) == (6, 2 / 4)
        assert correlation([1, 5, 5], [3, 2, 1])["picked"] == 2  # the first of equally clear ones

    def test_networks_and_readings_are_apart(self):
        tables = [
            network([1, 2, 4, 3], [4, 3, 1, 2], seed=1),
            network([1, 2, 4, 3], [1, 2, 4, 3], seed=0),
            network([1, 2, 4, 3], [1, 1, 1, 1], seed=0, reading="other"),
        ]
        found = rank_correlations(pd.concat(tables, ignore_index=True))
        assert list(found) == ["reading", "seed", "rho", "rho_given_epoch", "picked", "beaten"]
        assert found[["reading", "seed"]].to_numpy().tolist() == [["one", 1], ["one", 0], ["other", 0]]
        assert found["rho"].tolist() == pytest.approx([1, -1, math.nan], nan_ok=True)
        assert found["beaten"].tolist() == [1.0, 0.0, 0.0]

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from gradcam_gan.explaining.cam import explain
from gradcam_gan.explaining.measures import COLUMNS, digit_mask, measure
from gradcam_gan.run_explainer import Reading
from gradcam_gan.studies.epochs import (
    best_epochs,
    change_between,
    changes_of_rows,
    clearness,
    extreme_probes,
    focus_summary,
    heatmap_table,
    image_as_map,
    measure_epochs,
    off_digit_shares,
    select,
)
from gradcam_gan.studies.readings import ALL_READINGS

ONE = Reading("gradcam", "reference", "real")
OTHER = Reading("hirescam", "running", "fake")
KEYS = ["padding", "seed", "epoch", "method", "statistics", "evidence", "image"]


@pytest.fixture(scope="module")
def table(explainer, digits):
    return measure_epochs(explainer, digits[:5])


class TestMeasureEpochs:
    def test_has_one_row_per_epoch_variant_and_image(self, table):
        assert len(table) == 4 * len(ALL_READINGS) * 5
        assert not table.duplicated(KEYS).any()
        assert table["epoch"].unique().tolist() == [0, 1, 2, 3]
        assert set(table["padding"]) == {"zeros"}
        assert set(table["seed"]) == {0}

    def test_has_the_keys_first_and_then_the_measures(self, table):
        assert list(table) == [*KEYS, "logit", *COLUMNS]
        assert table["all_zero"].dtype == bool

    @pytest.mark.parametrize("variant", ALL_READINGS, ids=str)
    def test_values_are_the_measures_of_explain(self, table, explainer, digits, variant):
        discriminator = explainer.explained(2, variant.statistics)
        maps = explain(discriminator, digits[:5], method=variant.method, evidence=variant.evidence)
        found = select(table[table["epoch"] == 2], variant)
        assert found["image"].tolist() == [0, 1, 2, 3, 4]
        pd.testing.assert_frame_equal(
            found[list(COLUMNS)].reset_index(drop=True), measure(maps, digit_mask(digits[:5])), rtol=1e-6
        )
        logits = discriminator(digits[:5] / 127.5 - 1).detach().numpy()
        np.testing.assert_allclose(found["logit"], logits, rtol=1e-4, atol=1e-5)

    def test_takes_the_epochs_and_variants_asked_for(self, explainer, digits):
        table = measure_epochs(explainer, digits[:2], epochs=[3, 1], variants=[OTHER, ONE])
        assert table["epoch"].unique().tolist() == [3, 1]
        assert len(select(table, ONE)) == len(select(table, OTHER)) == 4
        assert len(table) == 8


class TestHeatmapTable:
    def test_maps_equal_explain_at_the_layers_resolution(self, explainer, digits):
        table = heatmap_table(explainer, digits[:3], [1, 3], [ONE, OTHER])
        names = [f"map_{row}_{column}" for row in range(8) for column in range(8)]
        assert [name for name in table if name.startswith("map_")] == names
        assert len(table) == 2 * 2 * 3
        assert not table.duplicated(["variant", "epoch", "image"]).any()
        for variant in (ONE, OTHER):
            for epoch in (1, 3):
                maps = explain(
                    explainer.explained(epoch, variant.statistics),
                    digits[:3],
                    method=variant.method,
                    evidence=variant.evidence,
                    upsample=False,
                )
                found = table[(table["variant"] == str(variant)) & (table["epoch"] == epoch)]
                assert found["image"].tolist() == [0, 1, 2]
                assert np.array_equal(found[names].to_numpy(), maps.flatten(1).numpy())

    def test_keeps_the_measures(self, explainer, digits):
        table = heatmap_table(explainer, digits[:3], [1, 3], [ONE, OTHER])
        measured = measure_epochs(explainer, digits[:3], epochs=[1, 3], variants=[ONE, OTHER])
        pd.testing.assert_frame_equal(table[list(measured)], measured)


def pictures(*values):
    """Maps (E, 1, 4, 4) of one image, from numbers: a constant, or a seed of a random pattern."""
    return torch.stack([value if isinstance(value, torch.Tensor) else torch.zeros(4, 4) for value in values])[
        :, None
    ]


class TestChangeBetween:
    pattern = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))

    def test_identical_maps_do_not_change_whatever_their_scale(self):
        found = change_between(pictures(self.pattern, self.pattern, 3 * self.pattern + 1))
        torch.testing.assert_close(found, torch.zeros(2, 1), atol=1e-6, rtol=0)

    def test_an_inverted_map_changes_by_2(self):
        torch.testing.assert_close(
            change_between(pictures(self.pattern, 1 - self.pattern)), torch.tensor([[2.0]])
        )

    def test_two_zero_maps_are_the_same_picture(self):
        assert change_between(pictures(None, None)).tolist() == [[0.0]]

    @pytest.mark.parametrize("order", [1, -1])
    def test_one_zero_map_is_another_picture(self, order):
        assert change_between(pictures(*[None, self.pattern][::order])).tolist() == [[1.0]]

    @pytest.mark.parametrize("size", [3, 8, 64])
    def test_constant_maps_are_the_same_picture_at_any_level(self, size):
        levels = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))
        flat = levels[:, :, None, None].expand(-1, -1, size, size)
        assert change_between(flat).tolist() == [[0.0] * 50]

    def test_each_image_is_compared_with_itself_in_the_next_epoch(self):
        zero = torch.zeros(4, 4)
        maps = torch.stack(
            [
                torch.stack([self.pattern, zero]),
                torch.stack([self.pattern, zero]),
                torch.stack([1 - self.pattern, self.pattern]),
            ]
        )
        torch.testing.assert_close(change_between(maps), torch.tensor([[0.0, 0.0], [2.0, 1.0]]))

    def test_changes_of_rows_gives_mean_and_largest_over_neighbouring_rows(self, explainer, digits):
        table = changes_of_rows(explainer, digits[:4], [0, 1, 3], [ONE, OTHER])
        assert list(table) == [
            "padding", "seed", "method", "statistics", "evidence", "image", "mean_change", "largest_change"
        ]  # fmt: skip
        assert len(table) == 8
        for variant in (ONE, OTHER):
            maps = explainer.maps(digits[:4], [0, 1, 3], variant, upsample=False).flatten(2).numpy()
            found = select(table, variant).set_index("image")
            for image in range(4):
                changes = [1 - np.corrcoef(maps[i, image], maps[i + 1, image])[0, 1] for i in (0, 1)]
                assert found["mean_change"][image] == pytest.approx(np.mean(changes), abs=1e-5)
                assert found["largest_change"][image] == pytest.approx(max(changes), abs=1e-5)

    def test_an_image_without_any_map_has_no_change(self, explainer, digits, monkeypatch):
        zero = torch.zeros_like(self.pattern)
        maps = torch.stack([torch.stack([zero, zero]), torch.stack([zero, self.pattern])])
        monkeypatch.setattr(explainer, "maps", lambda *_, **__: maps)
        table = changes_of_rows(explainer, digits[:2], [0, 1], [ONE])
        np.testing.assert_array_equal(table["largest_change"], [np.nan, 1.0])


def changes_table(mean, largest, variant=ONE, seed=0):
    return pd.DataFrame(
        {
            "padding": "zeros",
            "seed": seed,
            "method": variant.method,
            "statistics": variant.statistics,
            "evidence": variant.evidence,
            "image": range(len(mean)),
            "mean_change": mean,
            "largest_change": largest,
        }
    )


class TestExtremeProbes:
    def test_most_by_mean_change_and_least_by_largest_change(self):
        table = changes_table([0.2, 0.9, 0.1, 0.5], [1.9, 1.0, 0.8, 0.6])
        assert extreme_probes(table, ONE, 0, 2) == ([1, 3], [3, 2])

    def test_looks_at_one_seed_and_one_variant(self):
        table = pd.concat(
            [
                changes_table([0.0, 0.0, 0.7], [0.9, 0.9, 0.8]),
                changes_table([2.0, 0.0, 0.0], [2.0, 0.0, 2.0], seed=1),
                changes_table([0.0, 2.0, 0.0], [0.0, 2.0, 2.0], variant=OTHER),
            ]
        )
        assert extreme_probes(table, ONE, 0, 1) == ([2], [2])
        assert extreme_probes(table, ONE, 1, 1) == ([0], [1])
        assert extreme_probes(table, OTHER, 0, 1) == ([1], [0])

    def test_images_that_tie_come_in_order(self):
        assert extreme_probes(changes_table([0.5] * 4, [0.5] * 4), ONE, 0, 2) == ([0, 1], [0, 1])


def test_select_takes_the_rows_of_one_variant(make_table):
    table = make_table(lambda *_: 1.0, seeds=[0, 1], epochs=[1, 2])
    for variant in ALL_READINGS:
        rows = select(table, variant)
        assert len(rows) == 2 * 2 * 4
        assert {Reading(*row) for row in rows[["method", "statistics", "evidence"]].to_numpy()} == {variant}


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

    def test_has_a_row_per_variant_and_padding_of_that_epoch_alone(self, make_table):
        zeros = make_table(lambda _s, epoch, *_: 0.5 if epoch == 10 else 2.0, epochs=[5, 10])
        other = make_table(lambda *_: 2.0, epochs=[5, 10], seeds=[0], padding="background")
        shares = off_digit_shares(pd.concat([zeros, other], ignore_index=True), 10)
        assert shares["variant"].tolist() == [str(variant) for variant in ALL_READINGS for _ in range(2)]
        assert shares["padding"].tolist() == ["zeros", "background"] * len(ALL_READINGS)
        assert shares["estimate"].tolist() == [1.0, 0.0] * len(ALL_READINGS)
        assert shares["border_lift"].tolist() == [1.0, 4.0] * len(ALL_READINGS)

    def test_leaves_all_zero_maps_out_and_counts_them(self, make_table):
        table = make_table(
            lambda _s, _e, image, _v: None if image == 0 else 0.5 if image == 1 else 2.0, epochs=[5]
        )
        row = off_digit_shares(table, 5).iloc[0]
        assert row["estimate"] == pytest.approx(1 / 3)
        assert row["all_zero"] == 0.25
        assert row["border_lift"] == pytest.approx((1.0 + 4.0 + 4.0) / 3)

    def test_leaves_out_images_without_a_digit(self, make_table):
        """Where no pixel is bright, "on the digit" means nothing: neither on it nor off it."""
        table = make_table(lambda _s, _e, image, _v: [0.5, 2.0, 2.0, np.nan][image], epochs=[5])
        assert off_digit_shares(table, 5)["estimate"].tolist() == pytest.approx([1 / 3] * len(ALL_READINGS))

    def test_has_no_number_where_no_map_is_left(self, make_table):
        shares = off_digit_shares(make_table(lambda *_: None, epochs=[5]), 5)
        assert shares[["estimate", "low", "high", "border_lift"]].isna().all(axis=None)
        assert (shares["all_zero"] == 1).all()


class TestClearness:
    def test_an_all_zero_map_counts_as_chance(self, make_table):
        table = make_table(lambda _s, _e, image, _v: None if image < 2 else 3.0, epochs=[1], variants=[ONE])
        assert clearness(table, "seed").to_numpy().tolist() == [[2.0]] * 3
        assert clearness(table, "seed", "image").loc[0][1].tolist() == [1.0, 1.0, 3.0, 3.0]

    def test_has_a_row_per_key_and_a_column_per_epoch(self, make_table):
        table = make_table(lambda seed, epoch, *_: 10.0 * seed + epoch, epochs=[0, 5, 10], variants=[ONE])
        found = clearness(table, "seed")
        assert found.columns.tolist() == [0, 5, 10]
        assert found.loc[2].tolist() == [20.0, 25.0, 30.0]

    def test_leaves_out_images_without_a_digit_even_where_their_map_is_zero(self, make_table):
        """Else such an image would count at some epochs and be missing at others."""
        table = make_table(
            lambda _s, epoch, image, _v: 2.0 if image else None if epoch == 1 else np.nan,
            epochs=[1, 2],
            variants=[ONE],
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
            variants=[ONE],
            **options,
        )

    def test_finds_a_planted_epoch_with_a_tight_interval(self, make_table):
        found = best_epochs(self.planted(make_table, {0: 18, 1: 18, 2: 18}))
        assert (found.epoch, found.low, found.high) == (18, 18, 18)
        assert found.by_seed == {0: 18, 1: 18, 2: 18}
        assert found.drawn[18] == 1.0

    def test_seeds_that_disagree_give_an_interval_that_spans_both(self, make_table):
        found = best_epochs(self.planted(make_table, {0: 5, 3: 20}))
        assert (found.low, found.high) == (5, 20)
        assert found.by_seed == {0: 5, 3: 20}
        # with two seeds a resample holds the same one twice in a quarter of cases each
        assert 0.25 <= found.drawn[5] <= 0.75
        assert found.drawn[5] + found.drawn[20] == pytest.approx(1)

    def test_the_images_are_resampled_too(self, make_table):
        """One seed: half of the images are clearest at one epoch, half at another."""
        table = make_table(
            lambda _s, epoch, image, _v: 3.0 if epoch == [4, 9][image % 2] else 1.0,
            seeds=[0],
            images=range(20),
            variants=[ONE],
        )
        found = best_epochs(table)
        assert (found.low, found.high) == (4, 9)

    def test_leaves_out_the_untrained_epoch(self, make_table):
        found = best_epochs(self.planted(make_table, {0: 7}))
        assert found.epoch == 7
        assert 0 not in found.drawn.index

    def test_is_deterministic_and_the_seed_matters(self, make_table):
        table = make_table(
            lambda seed, epoch, image, _: 10 * noise(seed, epoch, image), epochs=range(6), variants=[ONE]
        )
        first, again, other = best_epochs(table), best_epochs(table), best_epochs(table, seed=1)
        pd.testing.assert_series_equal(first.drawn, again.drawn)
        assert (first.low, first.high) == (again.low, again.high)
        assert not first.drawn.equals(other.drawn)

    def test_shares_are_of_all_resamples_and_the_interval_holds_the_confidence(self, make_table):
        table = make_table(
            lambda seed, epoch, image, _: 10 * noise(seed, epoch, image), epochs=range(6), variants=[ONE]
        )
        wide, narrow = (best_epochs(table, resamples=500, confidence=c) for c in (0.95, 0.5))
        assert wide.drawn.index.tolist() == [1, 2, 3, 4, 5]
        assert wide.drawn.sum() == pytest.approx(1)
        assert wide.drawn.loc[wide.low : wide.high].sum() >= 0.95
        assert narrow.drawn.loc[narrow.low : narrow.high].sum() >= 0.5
        assert narrow.high - narrow.low < wide.high - wide.low

    def test_an_image_without_a_digit_does_not_decide(self, make_table):
        """Its focus lift is undefined except where its map is zero."""
        table = self.planted(make_table, {0: 18, 1: 18, 2: 18})
        dark = table["image"] == 3
        table.loc[dark, ["focus_lift", "mask_area"]] = [np.nan, 0.0]
        table.loc[dark & (table["epoch"] == 4), "all_zero"] = True
        found = best_epochs(table)
        assert (found.epoch, found.low, found.high) == (18, 18, 18)

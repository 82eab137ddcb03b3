"""Intervals: what they must be on data whose answer is known, and how often they hold the truth."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from helpers import refused
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradcam_gan.intervals import (
    Interval,
    bootstrap_interval,
    equivalent,
    interval_over_networks,
    paired_differences,
    sign_flip,
    student_interval,
)

NORMAL = np.random.default_rng(0).normal(5, 2, 1000)


def seed_table(means, images=50, spread=1.0):
    """A row per image: a seed's images scatter around that seed's own mean."""
    random = np.random.default_rng(1)
    parts = [
        pd.DataFrame({"seed": seed, "focus": random.normal(mean, spread, images)})
        for seed, mean in enumerate(means)
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("n", [30, 1000])
def test_close_to_the_normal_interval(n):
    values = NORMAL[:n]
    interval = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(n)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.25 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.25 * half)
    assert (interval.n, interval.missing, interval.confidence) == (n, 0, 0.95)


@pytest.mark.parametrize("n", [40, 300])  # BCa below 200 values, percentile above
def test_holds_the_truth_about_19_times_in_20(n):
    random = np.random.default_rng(7)
    intervals = (bootstrap_interval(random.normal(0, 1, n), resamples=400) for _ in range(300))
    share = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.91 <= share <= 0.98


def test_median():
    values = np.random.default_rng(2).exponential(1, 101)
    interval = bootstrap_interval(values, statistic="median")
    assert interval.estimate == np.median(values)
    assert interval.low < interval.estimate < interval.high


def test_options_reach_the_interval():
    assert (
        bootstrap_interval(NORMAL)
        == bootstrap_interval(list(NORMAL))
        == bootstrap_interval(pd.Series(NORMAL))
    )
    assert bootstrap_interval(NORMAL) != bootstrap_interval(NORMAL, seed=1)
    narrow, wide = (bootstrap_interval(NORMAL, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("values", "estimate", "n", "missing"), [([3.0], 3, 1, 0), ([math.nan] * 2, math.nan, 0, 2)]
)
def test_too_few_values_have_no_bounds(values, estimate, n, missing):
    found = bootstrap_interval(values)
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (estimate, math.nan, math.nan), nan_ok=True
    )
    assert (found.n, found.missing) == (n, missing)


def test_constant_values_have_no_width():
    assert bootstrap_interval([2.5] * 10) == Interval(2.5, 2.5, 2.5, 10)
    for n in (3, 777, 1000):  # the mean of three 0.1 is not 0.1 in floating point
        tenth = bootstrap_interval([0.1] * n)
        assert tenth.low == tenth.estimate == tenth.high


def test_missing_values_are_dropped_and_counted():
    holes = np.insert(NORMAL, [0, 500, 1000], np.nan)
    with_holes, without = bootstrap_interval(holes), bootstrap_interval(NORMAL)
    assert (with_holes.low, with_holes.high) == (without.low, without.high)
    assert (with_holes.n, with_holes.missing) == (1000, 3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=30), st.sampled_from(["mean", "median"]))
@example([0.0] + [1.0] * 9, "median")  # BCa is undefined: the median is 1 whichever value is left out
def test_yes_and_no_have_finite_bounds(values, statistic):
    interval = bootstrap_interval(values, statistic=statistic, resamples=200)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1


def test_text():
    assert str(Interval(1.2345, 1.101, 1.349, 1000)) == "1.23 [1.10, 1.35], n=1000"
    assert str(Interval(0.5, 0.5, 0.5, 10)) == "0.5 [0.5, 0.5], n=10"
    assert str(Interval(3, math.nan, math.nan, 1)) == "3 [no interval], n=1"
    assert (
        str(Interval(12.3, 4.5, 23.4, 5, missing=2, unit="networks"))
        == "12 [4, 23], n=5 networks (2 values missing)"
    )


def test_students_interval_by_hand():
    """1, 2, 3, 6: mean 3, standard deviation 2.1602, t(3) 3.1824 for 95 % and 2.3534 for 90 %."""
    found = student_interval([1, 2, math.nan, 3, 6])
    error = math.sqrt(14 / 3 / 4)
    assert (found.estimate, found.n, found.missing, found.unit) == (3, 4, 1, "networks")
    assert (found.low, found.high) == pytest.approx((3 - 3.1824 * error, 3 + 3.1824 * error), abs=1e-4)
    narrow = student_interval([1, 2, 3, 6], 0.9, "pairs")
    assert narrow.high == pytest.approx(3 + 2.3534 * error, abs=1e-4)
    assert (narrow.confidence, narrow.unit) == (0.9, "pairs")
    assert student_interval([2, 2]) == Interval(2, 2, 2, 2, unit="networks")
    for few, estimate in (([4.0], 4.0), ([], math.nan)):
        found = student_interval(few)
        assert (found.estimate, found.low, found.high) == pytest.approx(
            (estimate, math.nan, math.nan), nan_ok=True
        )


def test_students_interval_of_few_networks_holds_the_truth_where_the_bootstrap_does_not():
    random = np.random.default_rng(7)
    draws = [random.normal(0, 1, 5) for _ in range(300)]
    student, bootstrap = (
        np.mean([found.low <= 0 <= found.high for found in intervals])
        for intervals in (map(student_interval, draws), (bootstrap_interval(d, resamples=400) for d in draws))
    )
    assert 0.92 <= student <= 0.98
    assert bootstrap < 0.9


def test_equivalence_is_the_90_percent_interval_within_the_bound():
    found = student_interval([-1, 0, 1, 2], 0.9)
    bound = max(-found.low, found.high)
    assert not equivalent([-1, 0, 1, 2], bound * 0.999)
    assert equivalent([-1, 0, 1, 2], bound * 1.001)
    assert equivalent([1, 0, -1, -2], bound * 1.001)
    assert not equivalent([0.0], 100)  # one network shows nothing


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3], 2 / 8),  # of eight signs, all and none reach |mean| 2
        ([1, 2, -3], 1),
        ([3, 1, math.nan, -1], 6 / 8),  # all but 3 - 1 - 1 and its opposite
        ([1.0], math.nan),
    ],
)
def test_sign_flips_by_hand(differences, p):
    assert sign_flip(differences) == pytest.approx(p, nan_ok=True)


def test_networks_are_the_unit():
    table = seed_table([1, 2, 3, 4, 5], spread=0.1)
    interval = interval_over_networks(table, "focus")
    means = [rows.to_numpy().mean() for _, rows in table.groupby("seed")["focus"]]
    assert interval == student_interval(means)
    # far wider than 250 images taken as independent would make it
    pooled = bootstrap_interval(table["focus"])
    assert interval.high - interval.low > 4 * (pooled.high - pooled.low)


def test_one_network_falls_back_to_its_images_and_says_so():
    table = seed_table([1.0], images=100)
    assert interval_over_networks(table, "focus") == bootstrap_interval(table["focus"], unit="images")


def test_networks_weigh_alike_whatever_their_number_of_images():
    few = seed_table([0, 4], images=20, spread=0.1).iloc[20:]
    table = pd.concat([seed_table([0], images=300, spread=0.1), few])
    assert interval_over_networks(table, "focus").estimate == pytest.approx(2, abs=0.1)


def test_networks_with_missing_images():
    table = seed_table([1, 2, 3, 4])
    table.loc[table["seed"] == 3, "focus"] = np.nan
    table.loc[0, "focus"] = np.nan
    interval = interval_over_networks(table, "focus")
    assert (interval.unit, interval.n, interval.missing) == ("networks", 3, 51)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(np.zeros((2, 2))), r"values .*\(2, 2\)"),
        (lambda: bootstrap_interval(["a", "b"]), "values .*numbers"),
        (lambda: bootstrap_interval([1.0, math.inf]), "values .*infinite"),
        (lambda: bootstrap_interval(NORMAL, statistic="meen"), "did you mean 'mean'"),
        (lambda: bootstrap_interval(NORMAL, confidence=95), "confidence=95"),
        (lambda: bootstrap_interval(NORMAL, resamples=0), "resamples=0"),
        (lambda: bootstrap_interval(NORMAL, seed=-1), "seed=-1"),
        (lambda: interval_over_networks(seed_table([1]), "focsu"), "did you mean 'focus'"),
        (lambda: interval_over_networks(seed_table([1]), "focus", seed="sed"), "did you mean 'seed'"),
        (lambda: interval_over_networks(seed_table([1]).assign(seed=[None] * 50), "focus"), "seed.*50 rows"),
        (lambda: interval_over_networks(seed_table([1]).assign(focus="a"), "focus"), "'focus'.*numbers"),
        (lambda: student_interval([math.inf, 1]), "values hold infinite"),
        (lambda: sign_flip(["a", "b"]), "differences must be numbers"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    assert re.search(message, refused(call))


class TestPairedDifferences:
    def table(self):
        """FID by group and seed; "late" was trained for two seeds of four, "new" has no recall."""
        fid = {
            "old": [10.0, 12.0, 11.0, 15.0],
            "new": [9.0, 10.0, 12.0, 11.0],
            "late": [None, 8.0, None, 12.0],
        }
        rows = [
            {"group": group, "seed": seed, "fid": value, "recall": None if group == "new" else value / 100}
            for group, values in fid.items()
            for seed, value in enumerate(values)
            if value is not None
        ]
        return pd.DataFrame(rows).astype({"fid": float, "recall": float})

    def test_by_hand(self):
        """-1, -2, 1, -4 over all seeds; -4, -3 over seeds 1 and 3."""
        pairs = {"new": "old", "late": "old", "old": "absent", "absent": "old"}
        found = paired_differences(self.table(), "group", pairs.items(), ["fid", "recall"])
        assert list(found) == ["group", "to", "metric", "estimate", "low", "high", "n"]
        expected = student_interval([-1, -2, 1, -4])
        assert found.loc[0].tolist() == ["new", "old", "fid", -1.5, expected.low, expected.high, 4]
        assert found.loc[1].drop(["low", "high"]).tolist() == ["late", "old", "fid", -3.5, 2]
        assert found.loc[2].drop(["low", "high"]).tolist() == [
            "late",
            "old",
            "recall",
            pytest.approx(-0.035),
            2,
        ]
        assert len(found) == 3  # no recall of new

    @pytest.mark.parametrize("shuffle", range(3))
    def test_every_seed_meets_itself_whatever_the_order_of_the_rows(self, shuffle):
        """Only then has a constant difference no width."""
        old = self.table().query("group == 'old'")
        table = pd.concat([old, old.assign(group="more", fid=old["fid"] + 2)]).sample(
            frac=1, random_state=shuffle
        )
        (row,) = paired_differences(table, "group", [("more", "old")], ["fid"]).to_dict("records")
        assert (row["estimate"], row["low"], row["high"]) == (2, 2, 2)

    def test_one_pair_has_no_bounds_and_none_no_row(self):
        table = self.table().query("group != 'late' or seed == 1")
        (row,) = paired_differences(table, "group", [("late", "old")], ["fid"]).to_dict("records")
        assert (row["estimate"], row["n"]) == (-4, 1)
        assert math.isnan(row["low"])
        apart = table.query("group == 'late' or seed != 1")
        assert paired_differences(apart, "group", [("late", "old")], ["fid"]).empty

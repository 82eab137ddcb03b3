"""The recommendation, from tables in which the answer is known."""

import math

import pandas as pd
import pytest

from gradcam_gan.studies.which_explanation.rule import EQUALLY_CHEAP, INDEPENDENT, MARGIN, recommendation

HALF = 0.02  # of every interval


def table(**changes):
    """Four explanations that qualify and are equally good, and two controls; the changes by method: column -> value."""
    rows = {
        "gradcam": {"layer": "conv3", "energy": 0.3, "randomised": 0.1, "gap": 1.0, "milliseconds": 2.0},
        "hirescam": {"layer": "conv3", "energy": 0.35, "randomised": 0.1, "gap": 1.0, "milliseconds": 2.1},
        "lime": {"layer": "image", "energy": 0.4, "randomised": 0.1, "gap": 1.0, "milliseconds": 90.0},
        "edges": {"layer": "image", "energy": 0.1, "control": True},
        "random": {"layer": "image", "energy": 0.01, "control": True},
    }
    for method, values in changes.items():
        rows[method] |= values
    found = pd.DataFrame([{"method": method, "control": False, **row} for method, row in rows.items()])
    for measure in ("energy", "randomised", "gap"):
        for bound, sign in (("low", -1), ("high", 1)):
            given = found.get(f"{measure}_{bound}", pd.Series(math.nan, found.index))
            found[f"{measure}_{bound}"] = given.fillna(found[measure] + sign * HALF)
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "hirescam"),  # as cheap as Grad-CAM, and more in the marker
        ({"lime": {"gap": 1.019}}, "hirescam"),  # the others lie within its interval
        ({"lime": {"gap": 1.021}}, "lime"),
        ({"hirescam": {"milliseconds": 2.0 * EQUALLY_CHEAP + 0.1}}, "gradcam"),
        ({"hirescam": {"randomised": INDEPENDENT - HALF}}, "gradcam"),  # its upper bound is at the limit
        ({"hirescam": {"randomised": math.nan}}, "gradcam"),
        ({"hirescam": {"gap": math.nan}}, "gradcam"),
        (
            {"edges": {"energy": 0.35 - MARGIN - 2 * HALF - 0.001}},
            "hirescam",
        ),  # lower bound against upper bound
        ({"edges": {"energy": 0.35 - MARGIN - 2 * HALF + 0.001}}, "lime"),
        ({"edges": {"energy": 0.4}}, None),
        ({method: {"randomised": 0.9} for method in ("gradcam", "hirescam", "lime")}, None),
    ],
)
def test_the_rule_chooses(changes, expected):
    found = recommendation(table(**changes))
    assert found.method == expected
    assert found.layer == {None: None, "lime": "image"}.get(expected, "conv3")
    assert ("None is recommended" in found.sentence) == (expected is None)


def test_the_order_of_the_rows_and_the_size_of_the_control_s_other_measures_change_nothing():
    first = table()
    first.loc[first["control"], ["gap", "gap_low", "gap_high", "randomised"]] = 9.0
    assert recommendation(first) == recommendation(first.iloc[::-1].reset_index(drop=True))


def test_the_sentence_says_which_test_nothing_passes():
    blind = recommendation(table(edges={"energy": 0.9})).sentence
    assert "none of 3 explanations puts 0.05 more than the best control (edges: 0.9 [0.88, 0.92])" in blind
    same = recommendation(
        table(**{name: {"randomised": 0.9} for name in ("gradcam", "hirescam", "lime")})
    ).sentence
    assert "of 3 explanations 3 put" in same
    assert "none of these is another map" in same


def test_the_sentence_says_that_the_logit_does_not_follow_what_it_recommends():
    said = [
        recommendation(table(**{name: {"gap": gap} for name in ("gradcam", "hirescam", "lime")})).sentence
        for gap in (HALF / 2, 2 * HALF)
    ]
    doubt = "Use HiResCAM at conv3, though the logit does not follow it (gap 0.01 [-0.01, 0.03], 0 by chance): it puts"
    assert said[0].startswith(doubt)
    assert said[1].startswith("Use HiResCAM at conv3: it puts")


def test_without_intervals_the_estimates_decide():
    one = table()
    one.loc[:, one.columns.str.contains("_low|_high")] = math.nan
    found = recommendation(one)
    assert (found.method, found.layer) == ("hirescam", "conv3")
    assert "0.35 of its evidence" in found.sentence

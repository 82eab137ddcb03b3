"""Rules over networks, the verdicts that follow, and Holm's correction."""

import math

import numpy as np
import pytest
from scipy import stats

from gradcam_gan.intervals import student_interval
from gradcam_gan.studies.claims import Claim, Rule, decision, holm, ledger, verdict_of

SHARE = Rule("share", holds_above=0.5, fails_below=0.75, if_true=0.85, if_false=0.5)
CHANGE = Rule("change of log FID", 0.0, 0.0, 0.3, 0.0, lower_is_better=True, equivalence=0.15)


def around(mean, spread=0.02, networks=12):
    """So many values of this mean and about this spread."""
    return mean + spread * np.linspace(-1, 1, networks)


@pytest.mark.parametrize(
    ("rule", "values", "outcome"),
    [
        (SHARE, around(0.9), "holds"),
        (SHARE, around(0.6), "holds"),  # above 0.5 and below 0.75: holding goes first
        (SHARE, around(0.4), "fails"),
        (SHARE, around(0.5, 0.1), "fails"),
        (SHARE, around(0.6, 0.9, 4), "unclear"),
        (SHARE, [0.9], "unclear"),
        (SHARE, [], "unclear"),
        (CHANGE, around(-0.3), "holds"),
        (CHANGE, around(0.3), "fails"),
        (CHANGE, around(0.0, 0.1), "fails"),  # equivalent
        (CHANGE, around(0.0, 0.6), "unclear"),
        (CHANGE, around(-0.05), "holds"),  # small, and sure to be below 0
    ],
)
def test_outcomes(rule, values, outcome):
    assert rule.outcome(values) == outcome


def test_p_value_is_below_its_level_where_the_rule_holds():
    assert SHARE.p_value(around(0.9)) < 0.025 < SHARE.p_value(around(0.45))
    assert CHANGE.p_value(around(-0.3)) < 0.025 < CHANGE.p_value(around(0.3))
    assert math.isnan(SHARE.p_value([0.9]))


def test_power_grows_with_the_networks_and_errs_as_often_as_the_level():
    values = around(0.6, 0.3)
    few, many = SHARE.power(values, 4), SHARE.power(values, 40)
    assert many["holds_if_true"] > few["holds_if_true"]
    assert many["holds_if_false"] == pytest.approx(0.025, abs=0.01)
    assert many["fails_if_false"] > 0.95


def test_networks_needed_decide_and_one_fewer_does_not():
    values = around(0.72, 0.4, 6)
    needed = SHARE.networks_needed(values)
    mean, spread = np.mean(values), np.std(values, ddof=1)
    low = [mean - stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n) for n in (needed, needed - 1)]
    assert low[0] > 0.5 >= low[1]
    assert "would take about" in decision("inconclusive", SHARE, values)
    assert decision("reproduced", SHARE, values) == ""


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        (["holds"], "reproduced"),
        (["holds", "holds"], "reproduced"),
        (["holds", "fails"], "partly"),
        (["holds", "unclear"], "partly"),
        (["fails", "holds"], "not reproduced"),
        (["fails"], "not reproduced"),
        (["unclear", "holds"], "inconclusive"),
    ],
)
def test_verdicts(outcomes, verdict):
    assert verdict_of(outcomes) == verdict


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    with_unknown = holm({"a": 0.01, "b": math.nan})
    assert with_unknown["a"] == 0.02
    assert math.isnan(with_unknown["b"])


def test_the_ledger_has_a_row_a_claim():
    claim = Claim(
        "C1", "text", "rule", "partly", "share", student_interval([0.4, 0.6]), "words", 0.2, {"n": 3}
    )
    (row,) = ledger([claim]).to_dict("records")
    assert (row["verdict"], row["estimate"], row["n"], row["beside"]) == ("partly", 0.5, 2, "n: 3")
    assert "**C1: partly**" in str(claim)

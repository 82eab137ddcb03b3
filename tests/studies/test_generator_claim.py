"""Claim C4: does a clearer D go with a better G?"""

import math
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gradcam_gan.studies.claims import READINGS, judge_generator
from gradcam_gan.studies.focus_and_quality import focus_beside_scores, rank_correlations
from gradcam_gan.studies.style import focus_quality_chart

UP, DOWN, BOTH = [0.5, 0.6, 0.4, 0.55, 0.45], [-0.5, -0.6, -0.4, -0.55, -0.45], [0.6, -0.5, 0.1, 0.4, -0.3]
UNKNOWN = [math.nan] * 5


def outcomes(claim):
    return [finding.outcome for finding in claim.findings]


def correlations(rho, given, beaten=0.7):
    """``rho``, ``given`` and perhaps ``beaten`` have a value a seed, the same under every reading."""
    seeds = {"seed": range(len(rho)), "rho": rho, "rho_given_epoch": given, "beaten": beaten}
    return pd.concat(pd.DataFrame({"reading": str(reading), **seeds}) for reading in READINGS)


@pytest.fixture
def judge(make_table):
    def judged(rho, given, *, beaten=0.7, lift=lambda *_: 2.0):
        table = make_table(lift, seeds=range(len(rho)), epochs=[0, 1, 2], variants=READINGS)
        return judge_generator(table, correlations(rho, given, beaten))

    return judged


@pytest.mark.parametrize(
    ("rho", "given", "outcome"),
    [
        (UP, UP, "holds"),
        (UP, BOTH, "unclear"),
        (BOTH, UP, "unclear"),
        (DOWN, BOTH, "fails"),
        (UP, DOWN, "fails"),
        (DOWN, UP, "fails"),
        (UP, UNKNOWN, "unclear"),
        (DOWN, UNKNOWN, "fails"),
        (UP[:2], UP[:2], "unclear"),  # too few seeds
        (DOWN[:1], DOWN[:1], "unclear"),
    ],
)
def test_holds_where_both_correlations_are_above_0_and_fails_where_either_is_below(
    judge, rho, given, outcome
):
    claim = judge(rho, given)
    assert outcomes(claim) == [outcome] * 4
    verdicts = {"holds": "reproduced", "fails": "not reproduced", "unclear": "inconclusive"}
    assert (claim.name, claim.verdict) == ("C4", verdicts[outcome])


def test_the_effect_is_the_correlation_over_seeds_cut_to_what_it_can_be(judge):
    effect = judge([math.nan, *UP], [*UP, math.nan]).findings[0].effect
    expected = stats.t.interval(0.95, 4, np.mean(UP), stats.sem(UP))
    assert (effect.estimate, effect.low, effect.high) == pytest.approx((np.mean(UP), *expected))
    assert (effect.n, effect.missing, effect.unit) == (5, 1, "seeds")
    high, low = (judge([sign, sign, 0.5 * sign], UP[:3]).findings[0].effect for sign in (1, -1))
    assert high.low < high.high == 1
    assert -1 == low.low < low.high


def test_the_sentence_has_the_numbers(judge):
    """The quantile of two degrees of freedom is 4.303; half-widths are it times 0.25, 0.1, 0.125 over sqrt(3)."""
    claim = judge([0.25, 0.5, 0.75], [0.1, 0.2, 0.3], beaten=[0.5, 0.625, 0.75])
    assert claim.findings[0].sentence == (
        "rank correlation over epochs of focus lift with -FID 0.5 [-0.1, 1.0], n=3 seeds, "
        "given the epoch 0.20 [-0.05, 0.45], n=3 seeds; "
        "the generator of the clearest epoch is better than a share 0.62 [0.31, 0.94], n=3 seeds of the others "
        "(chance: 0.5)"
    )


def test_each_reading_is_judged_by_its_own_correlations(make_table):
    found = pd.concat(
        correlations(rho, rho).query("reading == @reading")
        for rho, reading in zip([UP, DOWN, BOTH, UP], map(str, READINGS), strict=True)
    )
    table = make_table(lambda *_: 2.0, seeds=range(5), epochs=[0, 1], variants=READINGS)
    claim = judge_generator(table, found)
    assert outcomes(claim) == ["holds", "fails", "unclear", "holds"]
    assert [finding.variant for finding in claim.findings] == list(READINGS)
    assert claim.verdict == "partly"


def test_readings_whose_maps_are_mostly_zero_after_training_do_not_count(judge):
    """Three of four maps; what their correlations are is of no account."""

    def lift(_seed, epoch, image, reading):
        return None if epoch == 0 or (reading == READINGS[1] and image < 3) else 2.0

    claim = judge(UP, UP, lift=lift)
    assert outcomes(claim) == ["holds", "no maps", "holds", "holds"]
    assert claim.findings[1].sentence == "75 % of the maps are zero everywhere"
    assert claim.verdict == "reproduced"
    assert judge(UP, UP, lift=lambda *_: None).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("sign", "verdict"), [(1, "reproduced"), (-1, "not reproduced"), (0, "inconclusive")]
)
def test_works_with_what_rank_correlations_gives(make_table, sign, verdict):
    """A wave in the focus lift that FID follows, opposes or ignores."""

    def wave(seed, epoch):
        return math.sin(epoch + seed)

    def noise(seed, epoch):
        return np.random.default_rng([seed, epoch]).normal(0, 0.3 if sign else 3)

    table = make_table(lambda seed, epoch, *_: 2 + wave(seed, epoch), variants=READINGS)
    scores = pd.DataFrame(
        {"seed": seed, "epoch": epoch, "fid": 50 - sign * wave(seed, epoch) + noise(seed, epoch)}
        for seed, epoch in product(range(3), range(26))
    )
    claim = judge_generator(table, rank_correlations(focus_beside_scores(table, scores)))
    assert claim.verdict == verdict


def test_the_chart_marks_the_clearest_epoch_and_readings_without_maps():
    joined = pd.DataFrame(
        {
            "reading": str(reading),
            "seed": seed,
            "epoch": epoch,
            "focus_lift": epoch + seed,
            "fid": 100 / epoch,
            "all_zero": 0.9 if reading.evidence == "real" else 0.0,
        }
        for reading, seed, epoch in product(READINGS, (0, 1), (1, 2, 3))
    )
    figure = focus_quality_chart(joined, rank_correlations(joined))
    figure.canvas.draw()
    first, *others = figure.axes
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["seed 0", "seed 1"]
    assert [axes.get_title() for axes in others] == [
        f"{reading.statistics} statistics, “{reading.evidence}”\nρ 1.00, 1.00" for reading in READINGS
    ]
    for axes, reading in zip(others, READINGS, strict=True):
        said = [text.get_text() for text in axes.texts]
        assert ("90 % of maps are zero" in said) == (reading.evidence == "real")
        picked = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"]
        assert picked == [[3], [4]]
    plt.close(figure)

"""The verdicts, from tables in which the answer is known."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from gradcam_gan.studies.earlier_experiments import rules

SPREAD = np.linspace(-1, 1, 8)  # of eight seeds
TARGETS = ("thickness", "slant")


def errors(ratio, seeds=8):
    """A network's error over the linear baseline's, with a little spread; the targets' differ either way."""
    rows = []
    for i, (j, target) in product(range(seeds), enumerate(TARGETS)):
        skew = (0.9, 1 / 0.9)[j]
        of = {rules.NETWORK: ratio * skew * math.exp(0.01 * SPREAD[i]), rules.LINEAR: 1.0, rules.MEAN: 3.0}
        rows += [{"seed": i, "target": target, "model": model, "rmse": rmse} for model, rmse in of.items()]
    return pd.DataFrame(rows)


def agreement(gain, seeds=8):
    """Correlations of two images; the best control is another one for each target."""
    rows = []
    for i, target, image in product(range(seeds), TARGETS, range(2)):
        blind = {"thickness": (0.5, 0.6, 0.1), "slant": (0.3, 0.2, 0.1)}[target]
        best = max(blind) + gain + 0.01 * SPREAD[i] + (0.1, -0.1)[image]
        maps = {
            **dict(zip(rules.BLIND, blind, strict=True)),
            rules.GRADCAM: best,
            rules.RECTIFIED: 0.4,
            rules.OCCLUSION: 0.5,
        }
        rows += [
            {"seed": i, "image": image, "target": target, "map": name, "own": own, "other": 0.1}
            for name, own in maps.items()
        ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("ratio", "gain", "verdict"),
    [
        (0.5, 0.2, "reproduced"),
        (0.5, 0.0, "partly"),
        (0.5, -0.2, "partly"),
        (1.5, 0.2, "not reproduced"),
        (1.0, 0.2, "not reproduced"),  # as good as the linear baseline
    ],
)
def test_p5(ratio, gain, verdict):
    claim = rules.judge_regression(errors(ratio), agreement(gain))
    assert claim.verdict == verdict
    assert claim.effect.estimate == pytest.approx(gain)
    assert (claim.effect.n, claim.effect.unit) == (8, "networks")
    assert (claim.p < 0.025) == (verdict == "reproduced")


def test_p5_takes_the_mean_of_the_targets_each_against_its_own_best_control():
    assert rules.log_errors(errors(0.5)).mean() == pytest.approx(math.log(0.5))
    assert rules.log_errors(errors(0.5), "slant").mean() == pytest.approx(math.log(0.5 / 0.9))
    maps = agreement(0.2)
    for target in (None, *TARGETS):
        assert rules.beyond_controls(maps, target=target).mean() == pytest.approx(0.2)
    assert rules.own_target(maps).mean() == pytest.approx((0.6 + 0.3) / 2 + 0.2 - 0.1)
    constant = maps["image"] == 0  # no rank correlation of that image
    maps.loc[constant & (maps["map"] == rules.GRADCAM), "own"] = math.nan
    assert rules.beyond_controls(maps).mean() == pytest.approx(0.1)


def accuracies(gain, beyond, many=0.0, seeds=8):
    """Percentage points that the heatmap gains, and those that it is ahead of each control, with few images."""
    rows = []
    for i, setting in product(range(seeds), (rules.FEW, rules.MANY)):
        own = gain if setting == rules.FEW else many
        ahead = {rules.PLAIN: own, **dict.fromkeys(rules.CONTROLS, beyond), "noise": beyond + 1}
        rows.append({"seed": i, "setting": setting, "variant": rules.HEATMAP, "accuracy": 0.9})
        rows += [
            {
                "seed": i,
                "setting": setting,
                "variant": name,
                "accuracy": 0.9 - (points + 0.1 * SPREAD[i]) / 100,
            }
            for name, points in ahead.items()
        ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("gain", "beyond", "verdict"),
    [
        (2, 1, "reproduced"),
        (2, 0, "partly"),
        (2, -1, "partly"),
        (0.2, 1, "not reproduced"),  # a gain, but too small a one would hold: see below
        (-2, 1, "not reproduced"),
    ],
)
def test_p6(gain, beyond, verdict):
    table = accuracies(gain, beyond)
    if gain == 0.2:  # spread enough that the interval holds 0, and lies within half a point
        plain = (table["variant"] == rules.PLAIN) & (table["setting"] == rules.FEW)
        table.loc[plain, "accuracy"] -= 0.004 * SPREAD
    claim = rules.judge_added(table)
    assert claim.verdict == verdict
    assert claim.effect.estimate == pytest.approx(gain)
    assert (claim.p < 0.025) == (verdict == "reproduced")


def test_p6_is_judged_on_few_images_and_shows_many_beside():
    claim = rules.judge_added(accuracies(2, 1, many=-3))
    assert claim.verdict == "reproduced"
    assert claim.beside["minus plain, many training images"].estimate == pytest.approx(-3)
    assert claim.beside["minus noise"].estimate == pytest.approx(2)


def test_one_network_decides_nothing():
    for claim in (
        rules.judge_regression(errors(0.5, 1), agreement(0.2, 1)),
        rules.judge_added(accuracies(2, 1, seeds=1)),
    ):
        assert claim.verdict == "inconclusive"
        assert "one network decides nothing" in claim.sentence
        assert math.isnan(claim.p)

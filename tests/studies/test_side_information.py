import math

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_nothing_is_cut_off, draw, tiny

from gradcam_gan.models.options import Guidance, Model
from gradcam_gan.studies import side_information as side
from gradcam_gan.studies.style import PAGE
from gradcam_gan.training.loop import train

ZIGZAG = np.array([1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1])  # of mean 0
CONTROLS = ("shuffled", "scalar")


def judged(plain, shuffled, scalar):
    """P4 of twelve guided networks whose log FIDs differ so from the three others'."""
    seeds = np.arange(12)
    base = 2 + 0.05 * seeds
    differences = {"dcgan": plain, "dcgan shuffled": shuffled, "dcgan scalar": scalar}
    log_fid = {"dcgan guided": base} | {arm: base - values for arm, values in differences.items()}
    tables = [
        pd.DataFrame({"model": arm, "seed": seeds, "log_fid": values, "recall": 0.5, "collapsed": False})
        for arm, values in log_fid.items()
    ]
    return side.judge_guidance(pd.concat(tables), "dcgan", CONTROLS)


BETTER, EQUAL, WORSE, UNCLEAR = -0.4 + 0.1 * ZIGZAG, 0.1 * ZIGZAG, 0.4 + 0.1 * ZIGZAG, -0.2 + 0.6 * ZIGZAG


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((BETTER, BETTER, BETTER), "reproduced"),
        ((BETTER, BETTER, EQUAL), "partly"),
        ((BETTER, UNCLEAR, BETTER), "partly"),
        ((EQUAL, BETTER, BETTER), "not reproduced"),
        ((WORSE, BETTER, BETTER), "not reproduced"),
        ((UNCLEAR, BETTER, BETTER), "inconclusive"),
    ],
)
def test_p4_needs_a_gain_over_plain_training_and_over_every_control(differences, verdict):
    claim = judged(*differences)
    assert claim.verdict == verdict
    assert (claim.name, claim.effect.n, claim.effect.unit) == ("P4", 12, "pairs")
    assert claim.effect.estimate == pytest.approx(differences[0].mean())
    beside = claim.beside["log FID minus dcgan scalar's"]
    assert beside.estimate == pytest.approx(differences[2].mean())


def test_one_network_decides_nothing():
    table = pd.DataFrame(
        {
            "model": ["dcgan", "dcgan guided"],
            "seed": 0,
            "log_fid": [2.0, 1.0],
            "recall": 0.5,
            "collapsed": False,
        }
    )
    claim = side.judge_guidance(table, "dcgan", ())
    assert claim.verdict == "inconclusive"
    assert claim.sentence.endswith("one network decides nothing")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Plain, guided with no strength, which is plain, and in the place of a third arm a network of another seed."""
    folder = tmp_path_factory.mktemp("runs")
    plain = tiny(preset="paper64", width=4, learning_rate=2e-2)
    configs = {
        "dcgan": plain,
        "dcgan alpha 0": plain.changed(model=Model(conditional=False, guidance=Guidance(alpha=0))),
        "dcgan other": plain.changed(seed=5),
    }
    return {arm: [train(config, folder)] for arm, config in configs.items()}


def test_an_image_is_looked_at_differently_only_where_the_training_was(runs, digits):
    table = side.looks(runs, digits[:64], 20, torch.device("cpu")).set_index("model")
    assert math.isnan(table.loc["dcgan", "different"])
    assert table.loc["dcgan alpha 0", "different"] == 0
    assert table.loc["dcgan other", "different"] > 0.5
    assert table.loc["dcgan", "focus"] == table.loc["dcgan alpha 0", "focus"]


def test_the_charts_fit_their_page(runs):
    rows = [
        {"model": arm, "seed": seed, "epoch": epoch, "fid": 5.0 + epoch, "recall": 0.1 * epoch}
        for arm in runs for seed in (1, 2) for epoch in range(5)
    ]  # fmt: skip
    figure = draw(side.progress_chart, pd.DataFrame(rows), list(runs), 2.0)
    assert_nothing_is_cut_off(figure, PAGE)

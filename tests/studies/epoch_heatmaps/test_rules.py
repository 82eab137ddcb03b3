"""C1 to C5 on constructed tables: every outcome of every rule."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from gradcam_gan.studies.epoch_heatmaps import rules
from gradcam_gan.studies.epoch_heatmaps.tables import Tables
from gradcam_gan.studies.readings import PRIMARY

EPOCHS = np.arange(26)
ROWS = (5, 10, 15, 20, 25)
SETTLED = replace(PRIMARY, statistics="settled")
random = np.random.default_rng(0)


def study(curve, *, fid=None, probes=None, networks=12, noise=0.01, settled=None):
    """Tables of networks whose K follows a curve, with FIDs and a probe table; under two kinds of statistics."""
    epochs, scores = [], []
    for seed in range(networks):
        for reading, own in ((PRIMARY, curve), (SETTLED, curve if settled is None else settled)):
            noisy = own(EPOCHS) + noise * random.normal(size=26)
            epochs.append(pd.DataFrame({"seed": seed, "epoch": EPOCHS, **asdict(reading), "focus": noisy}))
        quality = (100 - EPOCHS if fid is None else fid) * np.exp(0.01 * random.normal(size=26))
        row = np.isin(EPOCHS, ROWS)
        scores.append(
            pd.DataFrame({"seed": seed, "epoch": EPOCHS, "fid": quality, "recall": 0.5, "row": row})
        )
    if probes is None:
        probes = probe_table(networks)
    return Tables(pd.concat(epochs), probes, pd.concat(scores))


def probe_table(networks, *, own=0.0, shared=1.0, around=0.0, images=60):
    """Probes whose change and f come from the image (shared) and from the network (own)."""
    tables = []
    area, of_image = random.uniform(0.1, 0.2, images), random.normal(size=images)
    for seed in range(networks):
        value = shared * of_image + own * random.normal(size=images)
        f = np.where(np.arange(images) < around * images, -0.5 * area / (1 - area) * 1.5, 0.3 + 0.05 * value)
        columns = {f"focus_{row}": f for row in ROWS} | {"change": 0.5 + 0.1 * value}
        keys = {"seed": seed, "image": np.arange(images), "area": area}
        tables += [pd.DataFrame({**keys, **asdict(reading), **columns}) for reading in (PRIMARY, SETTLED)]
    return pd.concat(tables, ignore_index=True)


def peak(epoch):
    return lambda epochs: np.exp(-0.5 * ((epochs - epoch) / 4) ** 2)


def test_shares_by_hand():
    tables = study(lambda epochs: epochs / 25, noise=0, networks=2)
    # rising: 5 to 12 lie below the mean of 13 to 17, 18 to 25 above; below 18 lie 5 to 17
    assert rules.share_below_near(tables, PRIMARY).tolist() == [0.5, 0.5]
    assert rules.percentile_of_best(tables, PRIMARY).tolist() == [13 / 20] * 2
    flat = study(lambda epochs: 0 * epochs, noise=0, networks=2)
    assert rules.share_below_near(flat, PRIMARY).tolist() == [0.5, 0.5]  # ties count half


@pytest.mark.parametrize(
    ("name", "curve", "verdict"),
    [
        ("C1", peak(15), "reproduced"),
        ("C1", peak(5), "not reproduced"),
        ("C2", peak(18), "reproduced"),
        ("C2", peak(5), "not reproduced"),
    ],
)
def test_clearest_and_best_epoch(name, curve, verdict):
    claim = rules.judge(name, study(curve))
    assert claim.verdict == verdict
    assert claim.effect.n == 12


@pytest.mark.parametrize("name", ["C1", "C2", "C4"])
def test_networks_that_disagree_decide_nothing(name):
    one, other = study(peak(15 if name == "C1" else 18), networks=2), study(peak(5), networks=2)
    shifted = Tables(
        *(table.assign(seed=table["seed"] + 2) for table in (other.epochs, other.probes, other.scores))
    )
    if name == "C4":  # the first pick the best G, the others the worst
        one.scores["fid"] = np.abs(one.scores["epoch"] - 18) + 1
        shifted.scores["fid"] = 100 - np.abs(shifted.scores["epoch"] - 5)
    claim = rules.judge(name, Tables.together([one, shifted]))
    assert claim.verdict == "inconclusive"
    assert "networks to decide" in claim.sentence


@pytest.mark.parametrize(
    ("probes", "verdict"),
    [
        ({"own": 0.3}, "reproduced"),  # the image's own
        ({"own": 1.0, "shared": 0.0}, "not reproduced"),  # each network's own
    ],
)
def test_probes(probes, verdict):
    claim = rules.judge("C3", study(peak(15), probes=probe_table(12, **probes)))
    assert claim.verdict == verdict
    assert claim.beside["jackknife"].n == 12


def test_area_is_taken_out():
    """Where all agreement comes from the digit's area, there is none."""
    probes = probe_table(12, own=0.3, shared=0.0, images=300)
    probes["change"] += 20 * probes["area"]
    assert rules.judge("C3", study(peak(15), probes=probes)).verdict == "not reproduced"


@pytest.mark.parametrize(
    ("fid", "verdict"),
    [
        (np.abs(EPOCHS - 15) + 1.0, "reproduced"),  # the clearest epoch has the best G
        (100.0 - np.abs(EPOCHS - 15), "not reproduced"),  # ... the worst
    ],
)
def test_generator(fid, verdict):
    claim = rules.judge("C4", study(peak(15), fid=fid))
    assert claim.verdict == verdict
    assert "15 (seed 0)" in claim.beside["epochs picked"]


def test_scores_without_a_veil_stand_beside_the_generator_and_do_not_decide():
    tables = study(peak(15), fid=100.0 - np.abs(EPOCHS - 15))
    unveiled = {"fid": 1 / tables.scores["fid"], "recall": tables.scores["recall"]}
    for name, values in unveiled.items():
        tables.scores[f"{name}_without_veil"] = values
    claim = rules.judge("C4", tables)
    assert claim.verdict == "not reproduced"
    beside = {name: found for name, found in claim.beside.items() if "without the veil" in name}
    share, gain = beside.values()
    assert share.estimate == pytest.approx(1 - claim.effect.estimate)
    assert gain.estimate == pytest.approx(
        -claim.beside["log FID at the epoch picked, minus that at 25"].estimate
    )


@pytest.mark.parametrize(
    ("probes", "verdict"),
    [
        ({"around": 0.3, "own": 0.3}, "reproduced"),
        ({"around": 0.0, "own": 0.3}, "not reproduced"),
        ({"around": 0.05, "own": 0.3}, "inconclusive"),
    ],
)
def test_around(probes, verdict):
    assert rules.judge("C5", study(peak(15), probes=probe_table(12, **probes))).verdict == verdict


def test_around_in_other_images_of_every_network_is_partly():
    probes = probe_table(12, own=1.0, shared=0.0)
    for _, rows in probes.groupby("seed"):
        chosen = rows.sample(frac=0.3, random_state=int(rows["seed"].iloc[0]) + 1).index
        probes.loc[chosen, [f"focus_{row}" for row in ROWS]] = -0.1
    assert rules.judge("C5", study(peak(15), probes=probes)).verdict == "partly"


def test_epochs_that_end_in_noise_are_left_out_beside():
    fid = np.where(EPOCHS > 20, 100, 10 - EPOCHS / 3)
    tables = study(lambda epochs: epochs / 25, fid=fid, noise=0)
    beside = {name: rules.judge(name, tables).beside for name in rules.COMPARING_EPOCHS}
    # of 5 to 20: 5 to 12 lie below 13 to 17, and 5 to 17 below 18; the last one is clearest, and has the best G
    shares = {name: found["epochs with a well trained G alone"].estimate for name, found in beside.items()}
    assert shares == pytest.approx({"C1": 8 / 11, "C2": 13 / 15, "C4": 1})
    assert rules.judge("C4", tables).effect.estimate == pytest.approx(0, abs=0.3)
    late = tables.scores["epoch"].isin([18])  # one network without a good G at the paper's best epoch
    tables.scores.loc[late & (tables.scores["seed"] == 0), "recall"] = 0.0
    assert rules.judge("C2", tables).beside["epochs with a well trained G alone"].n == 11
    tables.scores["recall"] = 0.0
    assert rules.judge("C1", tables).beside["epochs with a well trained G alone"].n == 0


def test_what_stands_beside_a_verdict():
    tables = study(peak(15), settled=peak(5), fid=np.full(26, 10.0))
    tables.scores.loc[tables.scores["seed"] < 3, "fid"] = 200.0  # three did not train
    claim = rules.judge("C1", tables)
    assert "stale BatchNorm" in claim.beside["under settled statistics"]
    assert claim.beside["healthy networks alone"] == "reproduced, n=9"
    assert claim.beside["same under"] == "1 of 2 readings"
    assert "holds in 100%" in claim.beside["power with 12 networks"]


def test_sensitivity_has_every_reading():
    found = rules.sensitivity(study(peak(15), settled=peak(5)), ["C1"])
    assert dict(zip(found["statistics"], found["verdict"], strict=True)) == {
        "running": "reproduced",
        "settled": "not reproduced",
    }


def test_fewer_epochs_decide_nothing():
    tables = study(peak(15))
    short = Tables(tables.epochs.query("epoch < 20"), tables.probes, tables.scores)
    for name in ("C1", "C2", "C4"):
        assert rules.judge(name, short).verdict == "inconclusive"

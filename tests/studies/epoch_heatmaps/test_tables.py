"""Compact tables: what they hold against maps whose answer is known, and against measuring reading by reading."""

import math
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import refused
from torch import nn
from torch.nn import functional as F

from gradcam_gan.explaining.measures import digit_mask, measure
from gradcam_gan.run_explainer import STATISTICS, Reading, RunExplainer
from gradcam_gan.studies import paths
from gradcam_gan.studies.epoch_heatmaps import tables
from gradcam_gan.studies.epoch_heatmaps.tables import (
    DigitFocus,
    Tables,
    health,
    largest_change,
    measure_epoch,
    measure_network,
    select,
    separation,
)
from gradcam_gan.studies.readings import ALL_READINGS, COMPARED_LAYERS, PRIMARY
from gradcam_gan.studies.study import Study
from gradcam_gan.training.loop import training_images
from gradcam_gan.training.runs import load_run

ROWS = (1, 3)
SCORES = pd.DataFrame({"epoch": [1, 2, 3], "fid": [30.0, 20.0, 10.0], "recall": [0.1, 0.3, 0.5]})


def random_maps(count, size=8, seed=0):
    """Maps (N, h, w) >= 0, the last all zero."""
    maps = torch.randn(count, size, size, generator=torch.Generator().manual_seed(seed)).relu()
    maps[-1] = 0
    return maps


@pytest.mark.parametrize("size", [4, 8, 31])
def test_focus_is_that_of_the_enlarged_maps(digits, size):
    maps, images = random_maps(20, size), digits[:20]
    enlarged = F.interpolate(maps[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0]
    expected, focus = measure(enlarged, digit_mask(images)), DigitFocus(images, (size, size))
    np.testing.assert_allclose(focus.area, expected["mask_area"], atol=1e-6)
    np.testing.assert_allclose(focus.share(maps), expected["focus"], atol=1e-6)
    chance = (expected["focus"] - expected["mask_area"]) / (1 - expected["mask_area"])
    np.testing.assert_allclose(focus.above_chance(maps), chance.fillna(0), atol=1e-6)
    means = measure_epoch(maps, focus)
    assert means["all_zero"] == expected["all_zero"].mean() == 1 / 20
    assert means["lift"] == pytest.approx(expected["focus_lift"].mean(), rel=1e-5)
    assert means["around"] == (expected["focus_lift"] < 0.5).mean()


def test_shares_of_an_epoch_by_hand(digits):
    maps = torch.zeros(4, 2, 2)
    maps[1:3, 0] = 1  # half of it above 0
    maps[3].view(-1)[:3] = 1  # three quarters
    found = measure_epoch(maps, DigitFocus(digits[:4], (2, 2)))
    assert (found["covered"], found["deleted"], found["all_zero"]) == (7 / 16, 1 / 4, 1 / 4)


def test_masks_replace_the_digit(digits):
    """Of dark objects, say; and the same masks are the same measure."""
    images, maps = digits[:6], random_maps(6)
    dark, bright = DigitFocus(images, (8, 8), ~digit_mask(images)), DigitFocus(images, (8, 8))
    torch.testing.assert_close(dark.area, 1 - bright.area)
    torch.testing.assert_close(dark.share(maps), 1 - bright.share(maps), equal_nan=True)
    wrong = (digit_mask(images)[:5], digit_mask(images).float())
    for masks in wrong:
        assert "give bool (6, 64, 64), one an image" in refused(DigitFocus, images, (8, 8), masks)


def test_the_largest_change_is_one_minus_the_smallest_correlation():
    maps = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    flat = maps.flatten(2).transpose(0, 1).numpy()
    expected = [1 - np.corrcoef(one).min() for one in flat]
    np.testing.assert_allclose(largest_change(maps), expected, atol=1e-5)


def test_changes_of_maps_that_are_zero():
    one, other = torch.eye(3), torch.eye(3).flip(0)
    zero = torch.zeros(3, 3)
    by_image = [(one, 2 * one), (one, -one), (one, zero), (zero, zero), (zero, zero)]
    third = [one, other, one, one, zero]  # ... of the fourth image two maps are zero, of the last all
    maps = torch.stack([torch.stack([*pair, last]) for pair, last in zip(by_image, third, strict=True)], 1)
    assert largest_change(maps).tolist() == pytest.approx([0, 2, 1, 1, math.nan], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
def test_separation_is_the_share_of_pairs_with_ties_half(seed):
    random = np.random.default_rng(seed)
    real, generated = (torch.tensor(random.integers(0, 5, count) / 2) for count in (13, 8))
    pairs = [(r > g) + 0.5 * (r == g) for r in real.tolist() for g in generated.tolist()]
    assert separation(real, generated) == pytest.approx(np.mean(pairs))
    assert separation(real, generated) == pytest.approx(1 - separation(generated, real))
    assert math.isnan(separation(real, generated[:0]))


@pytest.fixture(scope="module")
def measured(explainer, digits):
    return measure_network(explainer, digits[:8], ROWS, SCORES)


@pytest.mark.parametrize("reading", [ALL_READINGS[i] for i in (0, 7, 14, 21, 28, 35)], ids=str)
def test_a_network_is_measured_as_reading_by_reading(measured, explainer, digits, reading):
    explained = explainer.explain(digits[:8], layers=[reading.layer])
    expected = explained.measures([reading])
    chance = (expected["focus"] - expected["mask_area"]) / (1 - expected["mask_area"])
    by_epoch = expected.assign(f=chance.fillna(0)).groupby("epoch")
    found = select(measured.epochs, reading).set_index("epoch")
    assert found.index.tolist() == explainer.run.epochs
    np.testing.assert_allclose(found["focus"], by_epoch["f"].mean(), atol=1e-5)
    np.testing.assert_allclose(found["lift"], by_epoch["focus_lift"].mean(), rtol=1e-4)
    np.testing.assert_allclose(found["all_zero"], by_epoch["all_zero"].mean())
    probes = select(measured.probes, reading)
    assert probes["image"].tolist() == list(range(8))
    for epoch in ROWS:
        f = by_epoch.get_group(epoch)["f"]
        np.testing.assert_allclose(probes[f"focus_{epoch}"], f, atol=1e-5)
    maps = explained.at(ROWS).maps(reading, upsample=False)
    np.testing.assert_allclose(probes["change"], largest_change(maps), atol=1e-5)


def test_what_a_map_knows_is_taken_of_its_signed_sum(measured, explainer, digits):
    made, _ = explainer.generated(2, 8)
    for statistics in STATISTICS:
        both = torch.cat([digits[:8] / 127.5 - 1, made])
        maps, scores = explainer.signed(both, 2, statistics, layers=COMPARED_LAYERS)
        for layer in COMPARED_LAYERS:
            rows = select(measured.epochs, Reading("gradcam", statistics, "fake", layer)).set_index("epoch")
            total = maps[layer, "gradcam"].double().sum((1, 2))
            assert rows.loc[2, "auc_map"] == separation(total[:8], total[8:])
            assert rows.loc[2, "auc_logit"] == separation(scores[:8], scores[8:])
            left = scores.double() - total
            expected = separation(left[:8], left[8:]) if layer == "block3" else math.nan
            assert rows.loc[2, "auc_left_out"] == pytest.approx(expected, nan_ok=True)


def test_scores_stand_beside_training_and_the_rows_of_figure_1(measured, tiny_run):
    assert measured.scores["fid"].tolist() == [30, 20, 10]
    assert measured.scores["row"].tolist() == [True, False, True]
    assert measured.scores["accuracy_running"].tolist() == tiny_run.history["accuracy_running"].tolist()
    assert measured.seeds == [tiny_run.config.seed]


def test_no_more_maps_are_held_than_the_rows_need(explainer, digits, monkeypatch):
    held, peak, original = weakref.WeakSet(), [0], tables.evidence_maps

    def counted(*arguments):
        maps = original(*arguments)
        held.add(maps)
        peak[0] = max(peak[0], len(held))
        return maps

    monkeypatch.setattr(tables, "evidence_maps", counted)
    measure_network(explainer, digits[:4], ROWS, SCORES)
    assert len(explainer.run.epochs) == 4
    assert 2 * len(ALL_READINGS) <= peak[0] <= 2 * len(ALL_READINGS) + 2  # and the one at hand


def test_some_readings_alone(measured, explainer, digits):
    some = [PRIMARY, Reading("hirescam", "reference", "fake", "block2")]  # of another size
    found = measure_network(explainer, digits[:8], ROWS, epochs=[1, 3], readings=some)
    assert len(found.epochs) == 4
    assert len(found.probes) == 16
    assert found.scores["fid"].isna().all()
    expected = select(measured.epochs, PRIMARY).query("epoch in @ROWS").reset_index(drop=True)
    pd.testing.assert_frame_equal(select(found.epochs, PRIMARY).reset_index(drop=True), expected)


def test_tables_are_read_back_to_four_digits(measured, tmp_path):
    measured.save(tmp_path, "net", {"run": "net"})
    back = Tables.load(tmp_path, "net")
    for part in ("epochs", "probes", "scores"):
        pd.testing.assert_frame_equal(
            getattr(back, part), getattr(measured, part), rtol=1e-3, check_dtype=False
        )
    first = (tmp_path / "net.probes.csv.gz").read_bytes()
    measured.save(tmp_path, "net", {"run": "net"})
    assert (tmp_path / "net.probes.csv.gz").read_bytes() == first  # no date in it
    assert "no tables" in refused(Tables.published, tmp_path)


def test_a_study_knows_its_own_tables_and_no_others(measured, tmp_path):
    study = Study.load("smoke")
    assert not study.has_tables(0, tmp_path)
    (tmp_path / "networks").mkdir()
    measured.save(tmp_path / "networks", study.config(0).name, study.origin_of_tables(0))
    assert study.has_tables(0, tmp_path)
    assert len(Tables.published(tmp_path).epochs) == len(measured.epochs)
    for changes in ({"probe_images": 31}, {"figure_epochs": [1, 3]}, {"width": 8}, {"generated_images": 65}):
        assert not Study.load("smoke", **changes).has_tables(0, tmp_path)
    assert Study.load("smoke", **{"pruning.tau": 0.5}).has_tables(0, tmp_path)
    assert not study.has_tables(1, tmp_path)


@pytest.mark.parametrize(("well", "healthy"), [(5, True), (4, True), (3, False)])
@pytest.mark.parametrize("bad", [{"fid": 16.0}, {"recall": 0.2}])
def test_a_network_is_healthy_with_four_of_five_rows(well, healthy, bad):
    scores = pd.DataFrame({"seed": 3, "fid": 15.9, "recall": 0.21, "row": [True] * 5 + [False]})
    for name, value in bad.items():
        scores.loc[well:, name] = value  # the last is no row of Figure 1
    (found,) = health(scores).to_dict("records")
    assert found == {"seed": 3, "healthy_rows": well / 5, "healthy": healthy}


def test_networks_together_and_the_healthy_of_them(measured):
    other = Tables(*(part.assign(seed=7) for part in (measured.epochs, measured.probes, measured.scores)))
    other.scores["recall"] = 0.5
    other.scores["fid"] = 1.0
    both = Tables.together([measured, other])
    assert both.seeds == [0, 7]
    assert both.healthy().seeds == [7]
    assert len(both.healthy().probes) == len(measured.probes)


def test_bad_input_is_one_line(measured, explainer, digits):
    def measuring(layer, **options):
        readings = [Reading(layer=layer)]
        return refused(measure_network, explainer, digits[:4], ROWS, readings=readings, **options)

    assert "layer='conv9' is unknown in this Discriminator" in measuring("conv9")
    assert "layer='layers.8' gives a 1x1 map" in measuring("layers.8")
    for rows in ([1, 5], [3]):
        message = refused(measure_network, explainer, digits[:4], rows)
        assert message == f"rows={rows} must be two or more of the epochs that are measured: [0, 1, 2, 3]"
    message = refused(select, measured.epochs, replace(PRIMARY, layer="conv9"))
    assert message == (
        "nothing was measured under Grad-CAM at conv9, running, real; the tables have method gradcam, hirescam; "
        "statistics running, settled, reference; evidence real, fake; layer conv3, norm3, block3"
    )
    assert select(measured.epochs.iloc[:0], PRIMARY).empty  # of no network there is none to miss


def test_a_layer_without_places_is_one_line(digits):
    network = nn.Sequential(nn.Conv2d(1, 2, 4, 4), nn.Flatten(), nn.Linear(512, 1))
    run = type("Any", (), {"discriminator": lambda self, epoch, device: network})()
    message = refused(RunExplainer(run, digits[:4]).signed, digits[:4], 1, "running", layers=["1"])
    assert "layer='1' gives shape (4, 512), which has no spatial extent" in message


def test_the_last_epochs_of_the_paddings_are_kept_with_their_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    study = Study.load("smoke", **{"pairs.seeds": [0, 1], "probe_images": 32})
    found = tables.padding_shares(study)
    assert list(found) == list(tables.PADDINGS)
    run = load_run(study.runs_dir / study.pair_config(1, "background").name)
    probes = training_images(run.config, "test").images[:32]
    explained = RunExplainer(run, probes).explain(probes, run.epochs[-3:], statistics=["running"])
    lift = explained.measures([PRIMARY])["focus_lift"]
    assert found["background"][1] == pytest.approx((lift < tables.AROUND).mean())
    monkeypatch.delattr(RunExplainer, "signed")
    pd.testing.assert_frame_equal(tables.padding_shares(study), found)

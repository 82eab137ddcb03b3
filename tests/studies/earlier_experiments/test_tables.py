"""Both experiments at the smoke profile: kept, put together, and drawn."""

import pytest
import torch
from helpers import assert_nothing_is_cut_off, draw, refused, texts

from gradcam_gan.studies import paths, style
from gradcam_gan.studies.earlier_experiments import charts, regression, rules, tables
from gradcam_gan.studies.earlier_experiments.added_heatmaps import VARIANTS
from gradcam_gan.studies.earlier_experiments.targets import TARGETS
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.style import PAGE


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield


@pytest.fixture(scope="module")
def study():
    return Study.load("smoke")


@pytest.fixture(scope="module")
def found(runs, study):
    return tables.Measured.together([tables.measured(study, seed) for seed in study.earlier.seeds])


def test_every_seed_has_every_row(found, study):
    seeds = len(study.earlier.seeds)
    assert len(found.errors) == seeds * len(TARGETS) * 3
    maps = (rules.GRADCAM, rules.RECTIFIED, rules.OCCLUSION, *rules.BLIND)
    counts = found.agreement.groupby(["seed", "target", "map"]).size()
    assert len(counts) == seeds * len(TARGETS) * len(maps)
    assert (counts == study.earlier.explained_images).all()
    assert found.agreement[["own", "other"]].abs().max().max() <= 1
    assert len(found.accuracies) == seeds * 2 * len(VARIANTS)
    for claim in (rules.judge_regression(found.errors, found.agreement), rules.judge_added(found.accuracies)):
        assert claim.effect.n == seeds


def test_maps_of_the_image_alone_know_no_target(found):
    """What a control gains with one target it loses with the other."""
    for name in ("image", "edges"):
        rows = found.agreement[found.agreement["map"] == name].pivot(
            index=["seed", "image"], columns="target", values=["own", "other"]
        )
        assert (rows["own", "slant"] == rows["other", "thickness"]).all()
    assert rules.own_target(found.agreement, "image").abs().max() < 1e-9


def test_what_was_found_is_kept_by_what_decides_it(found, study, monkeypatch):
    monkeypatch.setattr(tables, "measure", None)  # whatever comes now must have been kept
    again = tables.measured(study, study.earlier.seeds[0])
    assert len(again.errors) == len(TARGETS) * 3
    with pytest.raises(TypeError):
        tables.measured(Study.load("smoke", **{"earlier.weight": 0.25}), study.earlier.seeds[0])
    tables.measured(Study.load("smoke", width=8, seeds=[3], **{"pairs.seeds": [3]}), study.earlier.seeds[0])


def test_each_seed_learns_from_images_of_its_own(study):
    training, held_out = tables.digits(study)
    some, others = (tables.drawn(training, 64, seed).images for seed in (0, 1))
    assert torch.equal(some, tables.drawn(training, 128, 0).images[:64])
    assert not torch.equal(some, others)
    for name, count in ((rules.FEW, study.earlier.few_images), (rules.MANY, study.earlier.many_images)):
        assert len(tables.added_setting(study, training, held_out, name, 0).training.images) == count


def test_more_images_than_there_are_is_one_line_before_any_training(study):
    greedy = Study.load("smoke", **{"earlier.many_images": 5000})
    assert "earlier.many_images=5000, but mnist-5k has 4000" in refused(tables.digits, greedy)


def test_its_figures_are_whole(found, study):
    figure = draw(charts.agreement_chart, found.agreement)
    assert_nothing_is_cut_off(figure, PAGE)
    assert [axes.get_title() for axes in figure.axes] == [f"maps of {target}" for target in TARGETS]
    assert texts(figure.axes[0].get_yticklabels())[-1] == "Grad-CAM, other weights"
    assert_nothing_is_cut_off(draw(charts.accuracy_chart, found.accuracies), PAGE)
    training, held_out = tables.digits(study)
    truth = regression.true_values(held_out.images[:50])
    assert_nothing_is_cut_off(draw(charts.prediction_chart, truth, truth + 1, found.errors), PAGE)
    strip = dict.fromkeys(VARIANTS, held_out.images[:3])
    assert_nothing_is_cut_off(draw(charts.variant_strip, strip), PAGE)
    network, _, _ = tables.regression_network(study, training, study.earlier.seeds[0])
    panel = regression.panel_of_maps(network, held_out.images[:3])
    truths = panel.table[panel.table["map"] == "true gradient"]
    assert truths["own"].to_numpy() == pytest.approx(1)
    assert panel.maps.shape == (6, 3, 28, 28)
    assert_nothing_is_cut_off(draw(style.heatmap_grid, panel, unit="magnitude"), PAGE)

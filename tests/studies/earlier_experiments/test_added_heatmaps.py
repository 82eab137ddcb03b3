"""What is added to an image, and that no label decides it."""

import pytest
import torch

from gradcam_gan.data import ImageSet
from gradcam_gan.explaining.cam import explain
from gradcam_gan.explaining.targets import class_logit
from gradcam_gan.studies.earlier_experiments import added_heatmaps
from gradcam_gan.studies.earlier_experiments.added_heatmaps import (
    VARIANTS,
    Setting,
    accuracy_table,
    added,
    as_strong,
    heatmaps,
    variants,
)
from gradcam_gan.studies.earlier_experiments.digit_networks import CONVOLUTION, DigitTraining, outputs_of
from gradcam_gan.studies.earlier_experiments.rules import CONTROLS, HEATMAP, PLAIN


@pytest.fixture(scope="module")
def setting(digits):
    images = digits[:160]
    labels = (images.float().mean((1, 2, 3)) > images.float().mean()).long()
    how = DigitTraining(seed=0, epochs=2, precision="float32", device="cpu", threads=1)
    part = [ImageSet(images[own], labels[own], ["thin", "thick"]) for own in (slice(96), slice(96, 160))]
    return Setting(part[0], part[1], how, weight=0.5)


@pytest.fixture(scope="module")
def networks(setting, tmp_path_factory):
    return setting.networks(tmp_path_factory.mktemp("runs"))


def test_heatmaps_are_grad_cam_for_the_predicted_class(setting, networks):
    images = setting.held_out.images
    found = heatmaps(networks[0], images)
    assert found.shape == (64, 64, 64)
    assert float(found.min()) == 0
    peaks = found.amax((1, 2))
    assert torch.all((peaks == 0) | torch.isclose(peaks, torch.ones(64)))
    predicted = outputs_of(networks[0], images).argmax(1)
    for i in range(3):
        own = explain(
            networks[0], images[i : i + 1], target=class_logit(int(predicted[i])), layer=CONVOLUTION
        )
        assert torch.allclose(found[i] * own.max(), own[0], atol=1e-4)


def test_the_sum_is_clipped_and_rounded():
    images = torch.tensor([0, 100, 250], dtype=torch.uint8).view(1, 1, 1, 3)
    what = torch.tensor([-0.1, 0.1, 0.1]).view(1, 1, 1, 3)
    assert added(images, what).flatten().tolist() == [0, 126, 255]  # 100 + 25.5, to the even


def test_controls_have_the_energy_of_the_images_heatmap(setting, networks, monkeypatch):
    given = {}
    monkeypatch.setattr(added_heatmaps, "added", lambda images, what: what.expand_as(images))
    images, weight = setting.training.images, setting.weight
    given = variants(*networks, images, weight, seed=0)
    assert list(given) == list(VARIANTS)
    assert given[PLAIN] is images
    heat = given[HEATMAP].flatten(1)
    assert torch.allclose(heat.view(-1, 64, 64), weight * heatmaps(networks[0], images))
    for name in CONTROLS:
        own = given[name].flatten(1).norm(dim=1)
        assert torch.allclose(own[own > 0], heat.norm(dim=1)[own > 0], rtol=1e-4), name
        assert not torch.allclose(given[name].flatten(1), heat)
    brighter = torch.corrcoef(torch.stack([given["blurred copy"][0].flatten(), images[0].flatten() / 255]))
    assert brighter[0, 1] > 0.5
    other = variants(*networks, images, weight, seed=1)
    assert [name for name in VARIANTS if not torch.equal(given[name], other[name])] == ["noise"]


def test_nothing_is_scaled_to_nothing_and_stays_nothing():
    what, like = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    what[0], like[1] = 0, 0
    found = as_strong(what, like)
    assert found.isfinite().all()
    assert found.flatten(1).any(1).tolist() == [False, False, True]


def test_no_label_of_a_held_out_image_changes_what_is_tested(setting, tmp_path):
    right = accuracy_table(setting, tmp_path).set_index("variant")
    assert list(right.index) == list(VARIANTS)
    turned = setting.held_out._replace(labels=1 - setting.held_out.labels)
    wrong = accuracy_table(Setting(setting.training, turned, setting.how, setting.weight), tmp_path)
    assert torch.allclose(
        torch.tensor(right["accuracy"].to_numpy()), 1 - torch.tensor(wrong["accuracy"].to_numpy())
    )
    assert right["added"][PLAIN] == 0
    assert right["untouched"][PLAIN] == 1
    assert right["added"].drop(PLAIN).between(0.01, 0.5).all()

"""Which images the 70 % rule and its controls delete, against a plain reading of what each arm says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import refused, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcam_gan.data import ImageSet, load_images, to_model_range
from gradcam_gan.errors import RunError
from gradcam_gan.explaining.batchnorm import calibrate
from gradcam_gan.explaining.cam import explain
from gradcam_gan.explaining.measures import digit_mask, measure
from gradcam_gan.run_explainer import RunExplainer
from gradcam_gan.scoring.evaluator import load_evaluator
from gradcam_gan.studies.prune_70 import selection as module
from gradcam_gan.studies.prune_70.arms import Arm, Pruning
from gradcam_gan.studies.prune_70.selection import coverage, diagnosis, kept, look, rarity, select, selection
from gradcam_gan.training.loop import training_images
from gradcam_gan.training.objective import Objective
from gradcam_gan.training.runs import load_run

CONTROLS = ["random", "inverse", "instance-selection", "self-diagnosing"]
# maps that cover anything from almost nothing to almost everything, so that every cut divides the images
RULE = {
    "arm": "rule70", "epoch": 1, "method": "gradcam", "layer": "conv3", "statistics": "running", "evidence": "real",
    "tau": 0, "cut": 0.4, "calibration_images": 32,
}  # fmt: skip


def rule(**changes):
    return Pruning(**RULE | changes)


def largest(scores, count):
    """Indices of the largest, of equal ones the first."""
    return set(sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count])


def deleted_by(keep):
    return {index for index, stays in enumerate(keep) if not stays}


@pytest.fixture(scope="module")
def images(tiny_run):
    """The 128 images that the tiny run was trained on."""
    return training_images(tiny_run.config)


@pytest.fixture(scope="module")
def classifier():
    return load_evaluator()


@pytest.fixture(scope="module")
def three_digits():
    """60 each of 0, 1 and 2 in mixed order, 28x28: fewer than features."""
    found = load_images("mnist-5k", 28, "train")
    members = torch.cat([(found.labels == label).nonzero()[:60, 0] for label in range(3)])
    members = members[torch.randperm(len(members), generator=torch.Generator().manual_seed(0))]
    return ImageSet(found.images[members], found.labels[members], found.class_names)


# --- the scores


def test_coverage_by_hand():
    maps = torch.tensor([[[0, 1], [2, 4.0]], [[0, 0], [0, 0.0]], [[3, 3], [3, 3.0]]])
    assert coverage(maps, 0).tolist() == [0.75, 0, 1]
    assert coverage(maps, 0.25).tolist() == [0.5, 0, 1]  # above, not at
    assert coverage(maps, 0.5).tolist() == [0.25, 0, 1]


@pytest.mark.parametrize(
    ("statistics", "evidence", "layer", "method", "tau"),
    [
        ("running", "real", "conv3", "gradcam", 0),
        ("running", "fake", "norm3", "hirescam", 0.25),
        ("reference", "real", "block3", "hirescam", 0),
    ],
)
def test_a_look_equals_counts_on_the_maps_of_explain(
    explainer, images, digits, monkeypatch, statistics, evidence, layer, method, tau
):
    network = explainer.run.discriminator(2)
    if statistics == "reference":
        network = calibrate(network, digits[500:532])
    how = {"method": method, "layer": layer, "evidence": evidence}
    small = explain(network, images.images, upsample=False, **how).numpy()
    pruning = rule(epoch=2, statistics=statistics, tau=tau, **how)
    covered, lift = look(pruning, explainer, images.images)
    assert covered.tolist() == [np.count_nonzero(one > tau * one.max()) / one.size for one in small]
    large = explain(network, images.images, **how)
    expected = measure(large, digit_mask(images.images))["focus_lift"]
    np.testing.assert_allclose(lift, expected, rtol=1e-4)
    monkeypatch.setattr(module, "CHUNK", 64)
    np.testing.assert_array_equal(look(pruning, explainer, images.images)[0], covered)


class TestRarity:
    def test_ranks_the_density_of_the_class_s_gaussian_from_one_nth_to_one(
        self, three_digits, classifier, monkeypatch
    ):
        scores = rarity(three_digits, classifier)
        with torch.no_grad():
            features = classifier.features(three_digits.images).double().numpy()
        for label in range(3):
            members = (three_digits.labels == label).numpy()
            away = features[members] - features[members].mean(0)
            covariance = away.T @ away / (len(away) - 1)
            mixed = 0.99 * covariance + 0.01 * np.trace(covariance) / 64 * np.eye(64)
            distance = [one @ np.linalg.solve(mixed, one) for one in away]
            assert np.argsort(scores[members]).tolist() == np.argsort(distance).tolist()
            np.testing.assert_allclose(np.sort(scores[members]), np.arange(1, 61) / 60)
        monkeypatch.setattr(module, "CHUNK", 11)
        np.testing.assert_allclose(rarity(three_digits, classifier), scores)

    def test_classes_of_one_image_of_two_and_of_copies_have_scores(self, three_digits, classifier):
        first, others, copied = (
            (three_digits.labels == label).nonzero()[:, 0].tolist() for label in range(3)
        )
        few = [first[0], *others[:2], *copied[:1] * 4]
        scores = rarity(
            ImageSet(three_digits.images[few], three_digits.labels[few], three_digits.class_names), classifier
        )
        assert scores[0] == 1
        assert ((scores > 0) & (scores <= 1)).all()
        assert len(set(scores[3:])) == 1  # equal images, equal ranks


def test_diagnosis_is_the_mean_and_deviation_of_the_reference_logits_over_the_later_half(
    explainer, images, digits, monkeypatch
):
    networks = [calibrate(explainer.run.discriminator(epoch), digits[500:532]) for epoch in (2, 3)]
    with torch.no_grad():
        logits = torch.stack([network(to_model_range(images.images)) for network in networks])
    by_epoch = logits.double().numpy()
    got = diagnosis(explainer, images.images)
    np.testing.assert_allclose(got, by_epoch.mean(0) + by_epoch.std(0), rtol=1e-3, atol=1e-5)
    assert not np.allclose(got, by_epoch.mean(0), rtol=1e-2)  # the deviation has a say
    monkeypatch.setattr(module, "CHUNK", 50)
    np.testing.assert_allclose(diagnosis(explainer, images.images), got, rtol=1e-3, atol=1e-5)


# --- which images stay


def test_the_rule_deletes_from_the_cut_on():
    covered = np.array([0.7, np.nextafter(0.7, 0), np.nextafter(0.7, 1), 0.0, 1.0])
    assert kept(rule(cut=0.7), covered, covered).tolist() == [False, True, False, True, False]
    assert kept(rule(cut=1), covered, covered).tolist() == [True, True, True, True, False]


sixteenths = st.integers(0, 16).map(lambda number: number / 16)  # many ties


@settings(max_examples=60, deadline=None)
@given(
    covered=st.lists(sixteenths, min_size=1, max_size=40).map(np.array),
    cut=sixteenths.filter(bool), share=st.floats(0.001, 0.999), data=st.data(),
)  # fmt: skip
def test_the_others_delete_as_many_as_the_rule_or_their_share_of_the_largest(covered, cut, share, data):
    scores = np.array(data.draw(st.lists(sixteenths, min_size=len(covered), max_size=len(covered))))
    count = sum(value >= cut for value in covered)
    for arm in CONTROLS:
        assert deleted_by(kept(rule(arm=arm, cut=cut), covered, scores)) == largest(scores.tolist(), count)
    for arm in ["dose", *CONTROLS]:
        keep = kept(rule(arm=arm, share=share, cut=cut), covered, scores)
        assert abs((~keep).sum() - share * len(scores)) <= 0.5
        assert deleted_by(keep) == largest(scores.tolist(), (~keep).sum())


@pytest.mark.parametrize("arm", ["rule70", "dose", *CONTROLS])
def test_every_arm_deletes_by_its_own_score(explainer, images, classifier, arm):
    pruning = rule(arm=arm, share=0.3 if arm == "dose" else None)
    covered, lift = look(pruning, explainer, images.images)
    scores = {
        "rule70": lambda: covered,
        "dose": lambda: covered,
        "inverse": lambda: -covered,
        "random": lambda: np.random.default_rng(0).random(128),
        "instance-selection": lambda: rarity(images, classifier),
        "self-diagnosing": lambda: -diagnosis(explainer, images.images),
    }[arm]()
    count = 38 if arm == "dose" else sum(covered >= pruning.cut)
    assert 0 < count < 128
    found = select(pruning, explainer, images, classifier)
    assert deleted_by(found.keep) == largest(scores.tolist(), count)
    np.testing.assert_array_equal(found.coverage, covered)  # every arm says what the rule saw
    np.testing.assert_array_equal(found.lift, lift)


def test_the_random_arm_follows_the_runs_seed(explainer, images, digits, classifier):
    other_seed = replace(explainer.run, config=explainer.run.config.changed(seed=5))
    found = select(rule(arm="random", share=0.5), RunExplainer(other_seed, digits[:2]), images, classifier)
    assert deleted_by(found.keep) == largest(np.random.default_rng(5).random(128).tolist(), 64)


# --- on disk


def forbidden(*_arguments, **_named):
    raise AssertionError("it is done again")


def an_arm(**changes):
    """Trained on 96 images; scored by another network, trained on 128."""
    pruning = rule(
        arm="dose", share=0.3, epoch=2, **{"statistics": "reference", "calibration_images": 20} | changes
    )
    return Arm(pruning, tiny(train_images=96, epochs=1), tiny(train_images=128))


def test_the_scorer_is_trained_and_looks_at_the_arms_images_once(tmp_path, classifier, monkeypatch):
    arm = an_arm()
    first = selection(arm, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [arm.scorer.name]
    calibration, images = training_images(arm.scorer).images[:20], training_images(arm.training)
    explainer = RunExplainer(load_run(tmp_path / arm.scorer.name), calibration)
    expected = select(arm.pruning, explainer, images, classifier)
    assert (len(first.keep), (~first.keep).sum(), first.keep.dtype) == (96, 29, bool)
    monkeypatch.setattr(module, "select", forbidden)
    monkeypatch.setattr(Objective, "step", forbidden)
    for found in (first, selection(arm, tmp_path)):
        for name in ("keep", "coverage", "lift"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_damaged_file_is_named(tmp_path):
    arm = an_arm()
    selection(arm, tmp_path)
    (path,) = tmp_path.glob(f"{arm.scorer.name}/selection-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert f"{path} cannot be read" in refused(selection, arm, tmp_path, error=RunError)


def test_data_that_are_not_there_are_refused_before_anything_is_made(tmp_path):
    arm = replace(an_arm(), training=tiny(train_images=4001))
    message = refused(selection, arm, tmp_path)
    assert "train_images=4001, but mnist-5k has 4000 training images" in message
    assert not list(tmp_path.iterdir())

"""Which images the 70 % rule and its controls delete, against a plain reading of what each arm says."""

import importlib
import itertools
import math
import statistics
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcam_gan.data import ImageSet, load_images, to_model_range
from gradcam_gan.errors import RunError
from gradcam_gan.explaining.batchnorm import batch_statistics, calibrate
from gradcam_gan.explaining.cam import explain, logits
from gradcam_gan.explaining.measures import coverage
from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.run_explainer import STATISTICS, RunExplainer
from gradcam_gan.scoring.evaluator import load_evaluator
from gradcam_gan.studies import pruning as pruning_module
from gradcam_gan.studies.arms import Pruning
from gradcam_gan.studies.pruning import (
    SELECTION,
    Selection,
    coverage_scores,
    describe_rule,
    diagnosis,
    kept,
    prune,
    rarity,
    rule_grid,
    scoring_epoch,
    select,
)
from gradcam_gan.studies.readings import EVIDENCES
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import training_images

light = settings(max_examples=60, deadline=None)
ARMS = ["rule70", "dose", "random", "inverse", "instance-selection", "self-diagnosing"]
CONTROLS = ["random", "inverse", "instance-selection", "self-diagnosing"]
# maps that cover anything from almost nothing to almost everything, so that every cut divides the images
VARIED = {"baseline_epochs": 3, "epoch": 1, "evidence": "real", "tau": 0.5, "cut": 0.4}


def rule(**changes):
    return Pruning(**{"arm": "rule70", **VARIED, **changes})


def important_share(heatmap, normalisation, tau):
    """Of one map (H, W) as a numpy array: positive part, normalised, counted."""
    v = np.maximum(heatmap, 0)
    if normalisation == "max":
        v = v / v.max() if v.max() > 0 else v
    elif normalisation == "min-max":
        v = (v - v.min()) / (v.max() - v.min()) if v.max() > v.min() else np.zeros_like(v)
    else:
        v = v / normalisation
    return np.count_nonzero(v >= tau) / v.size


def with_statistics(run, epoch, kind, reference):
    trained = run.discriminator(epoch)
    return {
        "running": lambda: trained,
        "reference": lambda: calibrate(trained, reference),
        "batch": lambda: batch_statistics(trained),
    }[kind]()


def plain_maps(explainer, images, reference, epoch, method, kind, evidence, layer="block3"):
    """Maps at image size, straight from ``explain``."""
    network = with_statistics(explainer.run, epoch, kind, reference)
    maps = explain(network, images, method=method, layer=layer, evidence=evidence, batch_size=64)
    return maps.numpy()


def scale_of(normalisation, maps):
    """``fixed`` stands for a number that divides these maps' pixels into many and few."""
    return float(np.median(maps.max((1, 2)))) if normalisation == "fixed" else normalisation


def plain_coverage(pruning, explainer, images, reference, epoch):
    maps = plain_maps(
        explainer,
        images,
        reference,
        epoch,
        pruning.method,
        pruning.statistics,
        pruning.evidence,
        pruning.layer,
    )
    return np.array([important_share(heatmap, pruning.normalisation, pruning.tau) for heatmap in maps])


def largest(scores, count):
    """Indices of the largest scores, of equal ones the first in order."""
    return set(sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count])


def deleted_by(keep):
    assert keep.dtype == bool
    return set(np.flatnonzero(~keep).tolist())


@pytest.fixture(scope="module")
def reference(digits):
    """What the ``explainer`` of conftest calibrates on."""
    return digits[500:532]


@pytest.fixture(scope="module")
def images(tiny_run):
    """The 128 images that the tiny run was trained on."""
    return training_images(tiny_run.config)


@pytest.fixture(scope="module")
def classifier():
    return load_evaluator()


@pytest.fixture(scope="module")
def three_digits():
    """60 each of 0, 1 and 2 in mixed order, 28x28."""
    found = load_images("mnist-5k", 28, "train")
    chosen = torch.cat([(found.labels == label).nonzero()[:60, 0] for label in range(3)])
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
    return ImageSet(found.images[chosen], found.labels[chosen], found.class_names)


# --- coverage


class TestCoverage:
    @light
    @given(
        seed=st.integers(0, 2**32 - 1),
        normalisation=st.sampled_from(["max", "min-max", 0.5, 1.5, 3]),
        tau=st.sampled_from([1e-6, 0.25, 0.3, 0.5, 0.99, 1]),
    )
    def test_equals_the_column_of_measures_and_a_plain_count(self, seed, normalisation, tau):
        random = torch.Generator().manual_seed(seed)
        maps = torch.randn(7, 6, 9, generator=random)
        maps[::2] = (maps[::2] * 2).round() / 2  # many ties, values exactly at tau
        maps[1], maps[3], maps[5] = 0, 2.0, -1.0  # nothing to normalise
        blank = torch.zeros(7, 1, 6, 9, dtype=torch.uint8)
        got = coverage(maps, tau=tau, normalisation=normalisation)
        assert got.dtype == torch.float64
        column = measures(maps, blank, tau=tau, normalisation=normalisation)["coverage"]
        assert got.tolist() == column.tolist()
        assert got.tolist() == [important_share(one.numpy(), normalisation, tau) for one in maps]

    def test_a_value_of_exactly_tau_is_important(self):
        maps = torch.tensor([[[4.0, 1.0], [2.0, 0.0]]])
        assert coverage(maps, tau=0.5).tolist() == [0.5]
        assert coverage(maps, tau=0.500001).tolist() == [0.25]
        assert coverage(maps, tau=1).tolist() == [0.25]
        assert coverage(maps, tau=1, normalisation=2).tolist() == [0.5]  # a fixed scale may exceed 1

    def test_does_not_depend_on_the_chunks(self, monkeypatch):
        maps = torch.randn(7, 5, 4, generator=torch.Generator().manual_seed(0))
        whole = coverage(maps, tau=0.3)
        module = importlib.import_module("gradcam_gan.explaining.measures")
        monkeypatch.setattr(module, "CHUNK_PIXELS", {"cpu": 2 * maps[0].numel()})
        assert torch.equal(coverage(maps, tau=0.3), whole)

    def test_of_no_maps_there_is_none(self):
        assert coverage(torch.zeros(0, 5, 4)).shape == (0,)

    def test_leaves_its_input_alone(self):
        maps = torch.randn(3, 5, 4)
        before = maps.clone()
        coverage(maps, normalisation="min-max")
        assert torch.equal(maps, before)

    @pytest.mark.parametrize("tau", [0, -0.5, 1.5, 70, math.nan, math.inf])
    def test_refuses_a_tau_that_is_no_share(self, tau):
        assert f"tau={tau} must be above 0 and at most 1" in refused(coverage, torch.rand(2, 4, 4), tau=tau)

    @pytest.mark.parametrize("normalisation", ["minmax", "mean", 0, -1.0, math.inf, math.nan, True])
    def test_refuses_a_normalisation_that_is_none(self, normalisation):
        message = refused(coverage, torch.rand(2, 4, 4), normalisation=normalisation)
        assert f"normalisation={normalisation!r} must be 'max', 'min-max' or a positive number" in message

    @pytest.mark.parametrize(
        "maps",
        [torch.rand(2, 1, 4, 4), torch.ones(2, 4, 4, dtype=torch.int), np.ones((2, 4, 4))],
        ids=["four axes", "integers", "numpy"],
    )
    def test_refuses_what_is_no_map(self, maps):
        assert "maps must" in refused(coverage, maps)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_refuses_values_that_are_not_finite(self, value):
        maps = torch.rand(2, 4, 4)
        maps[1, 2, 3] = value
        assert "maps hold NaN or infinite values" in refused(coverage, maps)


class TestCoverageScores:
    @pytest.mark.parametrize("normalisation", ["max", "min-max", "fixed"])
    @pytest.mark.parametrize(
        ("method", "kind", "evidence", "epoch"),
        [
            ("gradcam", "running", "real", 1),
            ("hirescam", "reference", "fake", 2),
            ("gradcam", "batch", "fake", 3),
        ],
    )
    def test_equals_a_count_on_the_maps_of_explain(
        self, explainer, images, reference, method, kind, evidence, epoch, normalisation
    ):
        maps = plain_maps(explainer, images.images, reference, epoch, method, kind, evidence)
        scale = scale_of(normalisation, maps)
        pruning = rule(method=method, statistics=kind, evidence=evidence, normalisation=scale, tau=0.3)
        got = coverage_scores(pruning, explainer, images.images, epoch)
        expected = [important_share(heatmap, scale, 0.3) for heatmap in maps]
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, expected)
        assert len(np.unique(got)) > 5  # images do differ

    def test_looks_at_the_layer_asked_for(self, explainer, images, reference):
        pruning = rule(layer="block2")
        got = coverage_scores(pruning, explainer, images.images, 1)
        np.testing.assert_array_equal(got, plain_coverage(pruning, explainer, images.images, reference, 1))
        assert not np.array_equal(got, coverage_scores(rule(), explainer, images.images, 1))

    def test_takes_the_epoch_it_is_given_not_the_one_configured(self, explainer, images):
        at_one, at_two = (coverage_scores(rule(), explainer, images.images, epoch) for epoch in (1, 2))
        assert not np.array_equal(at_one, at_two)
        np.testing.assert_array_equal(coverage_scores(rule(epoch=2), explainer, images.images, 1), at_one)

    @pytest.mark.parametrize("chunk", [1, 5, 128])
    def test_does_not_depend_on_the_chunks(self, explainer, images, monkeypatch, chunk):
        whole = coverage_scores(rule(), explainer, images.images, 1)
        monkeypatch.setattr(pruning_module, "CHUNK", chunk)
        np.testing.assert_array_equal(coverage_scores(rule(), explainer, images.images, 1), whole)


# --- the epoch whose discriminator scores


def plain_lifts(explainer, images, reference, epoch, method, kind, evidence):
    """Focus lift of every image at one epoch; a map without any evidence is at chance."""
    maps = plain_maps(explainer, images, reference, epoch, method, kind, evidence)
    table = measures(torch.from_numpy(maps), images)
    return table["focus_lift"].where(~table["all_zero"], 1.0).to_numpy()


class TestScoringEpoch:
    def test_is_the_one_configured(self, explainer, digits):
        for epoch in (0, 1, 3):
            assert scoring_epoch(rule(epoch=epoch), explainer, digits) == epoch

    def test_the_clearest_has_the_largest_mean_focus_lift(self, explainer, reference, digits):
        found = {}
        for choice in itertools.product(METHODS, STATISTICS, EVIDENCES):
            lifts = [
                plain_lifts(explainer, digits[:20], reference, epoch, *choice).mean() for epoch in (1, 2, 3)
            ]
            method, kind, evidence = choice
            pruning = rule(
                epoch="clearest", probe_images=20, method=method, statistics=kind, evidence=evidence
            )
            found[choice] = scoring_epoch(pruning, explainer, digits)
            assert found[choice] == 1 + int(np.argmax(lifts))
        assert len(set(found.values())) > 1  # it does depend on the choice of maps

    def test_the_untrained_network_is_never_the_clearest(self, explainer, reference, digits):
        choice = ("hirescam", "running", "fake")
        mean = [plain_lifts(explainer, digits[:20], reference, epoch, *choice).mean() for epoch in range(4)]
        assert np.argmax(mean) == 0
        pruning = rule(
            epoch="clearest", probe_images=20, method="hirescam", statistics="running", evidence="fake"
        )
        assert scoring_epoch(pruning, explainer, digits) == 1 + int(np.argmax(mean[1:])) > 0

    def test_only_the_probe_images_are_asked(self, explainer, reference, digits):
        lifts = np.stack(
            [
                plain_lifts(explainer, digits[:60], reference, epoch, "hirescam", "running", "real")
                for epoch in (1, 2, 3)
            ]
        )
        of_all = int(lifts.mean(1).argmax())
        order = np.argsort(lifts[of_all] - np.delete(lifts, of_all, 0).max(0))  # first those against it
        of_ten = int(lifts[:, order[:10]].mean(1).argmax())
        assert of_ten != of_all
        options = {"epoch": "clearest", "method": "hirescam", "statistics": "running", "evidence": "real"}
        probes = digits[:60][torch.from_numpy(order)]
        assert scoring_epoch(rule(probe_images=60, **options), explainer, probes) == 1 + of_all
        assert scoring_epoch(rule(probe_images=10, **options), explainer, probes) == 1 + of_ten


# --- the other scores


class TestRarity:
    def test_ranks_from_one_nth_to_one_within_each_class(self, images, classifier):
        scores = rarity(images, classifier)
        for label in images.labels.unique():
            of_class = scores[(images.labels == label).numpy()]
            count = len(of_class)
            assert count < 64  # fewer images than features
            np.testing.assert_allclose(np.sort(of_class), np.arange(1, count + 1) / count)

    def test_follows_the_density_of_the_class_s_gaussian(self, three_digits, classifier):
        scores = rarity(three_digits, classifier)
        with torch.no_grad():
            features = classifier.features(three_digits.images).double().numpy()
        for label in range(3):
            chosen = (three_digits.labels == label).numpy()
            away = features[chosen] - features[chosen].mean(0)
            covariance = away.T @ away / (len(away) - 1)
            mixed = 0.99 * covariance + 0.01 * np.trace(covariance) / 64 * np.eye(64)
            distance = [one @ np.linalg.solve(mixed, one) for one in away]
            assert np.argsort(scores[chosen]).tolist() == np.argsort(distance).tolist()

    @pytest.mark.parametrize("per_class", [13, 60])
    def test_an_outlier_in_each_class_is_its_rarest(self, three_digits, classifier, per_class):
        chosen = [(three_digits.labels == label).nonzero()[:per_class, 0] for label in range(3)]
        pictures, labels = three_digits.images.clone(), three_digits.labels
        noise = torch.Generator().manual_seed(0)
        planted = [int(members[5]) for members in chosen]
        for index in planted:
            pictures[index] = torch.randint(0, 256, (1, 28, 28), generator=noise, dtype=torch.uint8)
        everyone = torch.cat(chosen).sort()[0]
        scores = rarity(ImageSet(pictures[everyone], labels[everyone], three_digits.class_names), classifier)
        assert scores[np.isin(everyone, planted)].tolist() == [1, 1, 1]

    def test_an_image_under_a_wrong_label_is_rare(self, three_digits, classifier):
        labels = three_digits.labels.clone()
        wrong = int((labels == 1).nonzero()[7])
        labels[wrong] = 0
        before = rarity(three_digits, classifier)[wrong]
        assert rarity(three_digits._replace(labels=labels), classifier)[wrong] == 1 > before

    def test_one_class_does_not_matter_to_another(self, three_digits, classifier):
        zeros = (three_digits.labels == 0).numpy()
        alone = ImageSet(three_digits.images[zeros], three_digits.labels[zeros], three_digits.class_names)
        np.testing.assert_allclose(rarity(alone, classifier), rarity(three_digits, classifier)[zeros])

    def test_classes_of_one_image_of_two_and_of_copies_have_scores(self, three_digits, classifier):
        first = [int((three_digits.labels == label).nonzero()[0]) for label in range(3)]
        second = int((three_digits.labels == 1).nonzero()[1])
        chosen = [first[0], first[1], second, *[first[2]] * 4]
        few = ImageSet(three_digits.images[chosen], three_digits.labels[chosen], three_digits.class_names)
        scores = rarity(few, classifier)
        assert scores[0] == 1
        assert ((scores > 0) & (scores <= 1)).all()
        assert len(set(scores[3:])) == 1  # equal images, equal ranks

    def test_does_not_depend_on_the_chunks(self, images, classifier, monkeypatch):
        whole = rarity(images, classifier)
        monkeypatch.setattr(pruning_module, "CHUNK", 11)
        np.testing.assert_allclose(rarity(images, classifier), whole)


@pytest.mark.parametrize("kind", ["running", "reference"])
def test_diagnosis_is_the_mean_and_deviation_of_the_logits_over_the_trained_epochs(
    explainer, images, reference, kind
):
    by_epoch = []
    for epoch in (1, 2, 3):
        with torch.no_grad():
            network = with_statistics(explainer.run, epoch, kind, reference)
            by_epoch.append(logits(network, to_model_range(images.images)).double().numpy())
    by_epoch = np.array(by_epoch)
    expected = [np.mean(one) + np.sqrt(np.mean((one - np.mean(one)) ** 2)) for one in by_epoch.T]
    got = diagnosis(explainer, images.images, rule(statistics=kind))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    for others in (by_epoch.mean(0), by_epoch.mean(0) + by_epoch.std(0, ddof=1)):
        assert not np.allclose(got, others, rtol=1e-2)  # the deviation has a say


# --- which images stay


@pytest.mark.parametrize("normalisation", ["max", "min-max", "fixed"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_the_rule_deletes_what_a_loop_over_the_images_deletes(
    explainer, images, reference, digits, classifier, normalisation, epoch
):
    maps = plain_maps(explainer, images.images, reference, epoch, "gradcam", "running", "real")
    scale = scale_of(normalisation, maps)
    shares = [important_share(heatmap, scale, 0.5) for heatmap in maps]
    cut = sorted(shares)[90]  # exactly what at least one image has
    deleted = {index for index, share in enumerate(shares) if share >= cut}
    selection = select(rule(normalisation=scale, epoch=epoch, cut=cut), explainer, images, digits, classifier)
    assert deleted_by(selection.keep) == deleted
    assert 0 < selection.deleted == len(deleted) < 128
    assert selection.epoch == epoch
    np.testing.assert_array_equal(selection.coverage, shares)


def test_the_rule_deletes_from_the_cut_on():
    covered = np.array([0.7, np.nextafter(0.7, 0), np.nextafter(0.7, 1), 0.0, 1.0])
    assert kept(rule(cut=0.7), covered, covered).tolist() == [False, True, False, True, False]
    assert kept(rule(cut=1), covered, covered).tolist() == [True, True, True, True, False]


sixteenths = st.integers(0, 16).map(lambda number: number / 16)
several = st.lists(sixteenths, min_size=1, max_size=40).map(np.array)


@light
@given(covered=several, cut=st.integers(1, 16).map(lambda number: number / 16), data=st.data())
def test_the_rule_ignores_scores_and_the_others_delete_as_many_of_the_largest(covered, cut, data):
    scores = np.array(data.draw(st.lists(sixteenths, min_size=len(covered), max_size=len(covered))))
    by_rule = {index for index, value in enumerate(covered) if value >= cut}
    assert deleted_by(kept(rule(cut=cut), covered, scores)) == by_rule
    for arm in CONTROLS:
        keep = kept(rule(arm=arm, cut=cut), covered, scores)
        assert deleted_by(keep) == largest(scores.tolist(), len(by_rule))


@light
@given(scores=several, share=st.floats(0.001, 0.999), cut=sixteenths.filter(bool))
def test_a_share_deletes_that_share_of_the_largest_whatever_the_rule(scores, share, cut):
    for arm in ARMS[1:]:
        keep = kept(rule(arm=arm, share=share, cut=cut), np.roll(scores, 1), scores)
        count = round(share * len(scores))
        assert abs(count - share * len(scores)) <= 0.5
        assert deleted_by(keep) == largest(scores.tolist(), count)


@light
@given(scores=several, shares=st.lists(st.floats(0.001, 0.999), min_size=2, max_size=2).map(sorted))
def test_a_higher_dose_deletes_what_a_lower_one_does_and_more(scores, shares):
    low, high = (deleted_by(kept(rule(arm="dose", share=share), scores, scores)) for share in shares)
    assert low <= high


@light
@given(covered=several, share=st.floats(0.001, 0.999))
def test_the_inverse_deletes_the_lowest_and_the_dose_the_highest(covered, share):
    inverse = kept(rule(arm="inverse", share=share), covered, -covered)
    dose = kept(rule(arm="dose", share=share), covered, covered)
    assert inverse.sum() == dose.sum()
    if 0 < inverse.sum() < len(covered):
        assert covered[~inverse].max() <= covered[inverse].min()
        assert covered[~dose].min() >= covered[dose].max()


def test_of_equal_scores_the_first_in_order_go():
    scores = np.array([1.0, 2.0, 1.0, 2.0, 2.0, 1.0])
    for share, deleted in ((0.34, {1, 3}), (0.5, {1, 3, 4}), (0.67, {0, 1, 3, 4})):
        assert deleted_by(kept(rule(arm="dose", share=share), scores, scores)) == deleted


@pytest.mark.parametrize(("share", "count"), [(0.2, 2), (0.24, 2), (0.26, 3), (0.04, 0), (0.96, 10)])
def test_a_share_is_rounded_to_the_nearest_number_of_images(share, count):
    scores = np.arange(10.0)
    assert (~kept(rule(arm="dose", share=share), scores, scores)).sum() == count


class TestSelect:
    def of(self, explainer, images, digits, classifier, **changes):
        return select(rule(**changes), explainer, images, digits, classifier)

    @pytest.mark.parametrize("share", [None, 0.3])
    @pytest.mark.parametrize("arm", ARMS)
    def test_every_arm_deletes_by_its_own_score(
        self, explainer, images, reference, digits, classifier, arm, share
    ):
        share = None if arm == "rule70" else 0.3 if arm == "dose" else share
        pruning = rule(arm=arm, share=share)
        covered = plain_coverage(pruning, explainer, images.images, reference, 1)
        scores = {
            "rule70": lambda: covered,
            "dose": lambda: covered,
            "inverse": lambda: -covered,
            "random": lambda: np.random.default_rng(0).random(128),
            "instance-selection": lambda: rarity(images, classifier),
            "self-diagnosing": lambda: -diagnosis(explainer, images.images, pruning),
        }[arm]()
        count = 38 if share else sum(covered >= pruning.cut)
        assert 0 < count < 128
        selection = select(pruning, explainer, images, digits, classifier)
        assert deleted_by(selection.keep) == largest(scores.tolist(), count)
        assert (selection.deleted, selection.epoch) == (count, 1)
        np.testing.assert_array_equal(selection.coverage, covered)  # every arm says what the rule saw

    def test_the_arms_delete_different_images(self, explainer, images, digits, classifier):
        arguments = explainer, images, digits, classifier
        sets = [frozenset(deleted_by(self.of(*arguments, arm=arm, share=0.3).keep)) for arm in ARMS[1:]]
        assert len(set(sets)) == len(sets)
        dose, inverse = sets[0], sets[2]
        assert not dose & inverse

    def test_the_random_arm_follows_the_run_s_seed_and_nothing_else(
        self, explainer, images, digits, classifier
    ):
        other_seed = replace(explainer.run, config=explainer.run.config.changed(seed=5))
        keeps = []
        for run in (explainer.run, other_seed, explainer.run):
            np.random.seed(len(keeps))  # noqa: NPY002 - the global random state has no part in it
            torch.manual_seed(len(keeps))
            of_run = RunExplainer(run, digits[500:532])
            keeps.append(self.of(of_run, images, digits, classifier, arm="random", share=0.5).keep)
        assert keeps[0].tolist() == keeps[2].tolist() != keeps[1].tolist()
        drawn = np.random.default_rng(5).random(128)
        assert deleted_by(keeps[1]) == largest(drawn.tolist(), 64)

    def test_instance_selection_deletes_the_same_share_of_every_class(
        self, explainer, images, digits, classifier
    ):
        keep = self.of(explainer, images, digits, classifier, arm="instance-selection", share=0.3).keep
        for label in images.labels.unique():
            members = (images.labels == label).numpy()
            assert abs((~keep[members]).sum() - 0.3 * members.sum()) <= 1.5

    def test_the_clearest_epoch_scores_where_it_is_asked_for(
        self, explainer, images, reference, digits, classifier
    ):
        options = {"statistics": "running", "evidence": "real", "probe_images": 20}
        expected = scoring_epoch(rule(epoch="clearest", **options), explainer, digits)
        assert expected > 1  # not the one that VARIED names
        selection = self.of(explainer, images, digits, classifier, epoch="clearest", cut=0.1, **options)
        assert selection.epoch == expected
        covered = plain_coverage(rule(**options), explainer, images.images, reference, expected)
        assert deleted_by(selection.keep) == {index for index in range(128) if covered[index] >= 0.1}


class TestSelectionOnDisk:
    selection = Selection(np.array([True, False, True, False]), np.array([0.1, 1 / 3, 0.0, 1.0]), 18)

    def test_comes_back_as_it_was(self, tmp_path):
        self.selection.save(tmp_path)
        again = Selection.load(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == [SELECTION]
        assert (again.keep.dtype, again.keep.tolist()) == (bool, self.selection.keep.tolist())
        assert again.coverage.tobytes() == self.selection.coverage.tobytes()
        assert (again.epoch, type(again.epoch), again.deleted) == (18, int, 2)

    @pytest.mark.parametrize("harm", ["cut", "empty", "text", "absent"])
    def test_a_damaged_file_is_named(self, tmp_path, harm):
        self.selection.save(tmp_path)
        path = tmp_path / SELECTION
        content = {"cut": path.read_bytes()[:-1], "empty": b"", "text": b"keep everything", "absent": None}[
            harm
        ]
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RunError) as caught:
            Selection.load(tmp_path)
        assert f"{path} cannot be read" in str(caught.value)
        assert "\n" not in str(caught.value)


# --- pruning a set of images


class TestPrune:
    images = ImageSet(
        torch.arange(6 * 4, dtype=torch.uint8).view(6, 1, 2, 2),
        torch.tensor([3, 1, 4, 1, 5, 9]),
        list("abcdefghij"),
    )

    @pytest.mark.parametrize("as_kept", [np.array, torch.tensor, list], ids=["numpy", "torch", "list"])
    def test_leaves_images_and_labels_that_are_kept_in_order(self, as_kept):
        left = prune(self.images, as_kept([True, False, False, True, True, False]))
        assert torch.equal(left.images, self.images.images[[0, 3, 4]])
        assert left.labels.tolist() == [3, 1, 5]
        assert left.class_names == self.images.class_names

    def test_leaves_all_or_none(self):
        assert torch.equal(prune(self.images, np.ones(6, dtype=bool)).images, self.images.images)
        assert prune(self.images, np.zeros(6, dtype=bool)).images.shape == (0, 1, 2, 2)

    @pytest.mark.parametrize("length", [0, 1, 5, 7])
    def test_refuses_a_list_of_another_length_with_both_numbers(self, length):
        message = refused(prune, self.images, np.ones(length, dtype=bool))
        assert f"({length},)" in message
        assert "each of the 6 training images" in message

    @pytest.mark.parametrize(
        ("keep", "kind"),
        [
            (np.array([1, 0, 0, 1, 1, 0]), "int64"),  # as indices these would be images 0 and 1
            (np.array([1, 0, 0, 1, 1, 0], dtype=np.uint8), "uint8"),
            (torch.tensor([0.0, 1, 0, 1, 0, 1]), "float32"),
            (np.ones((6, 1), dtype=bool), "(6, 1)"),
            (np.array(True), "()"),
        ],
        ids=["indices", "bytes", "floats", "a column", "one value"],
    )
    def test_refuses_what_is_no_keep_list(self, keep, kind):
        message = refused(prune, self.images, keep)
        assert kind in message
        assert "must be bool, one value for each of the 6" in message


# --- every reading of the rule


TAUS, CUTS = [0.1, 0.25, 0.5, 1.0], [0.05, 0.4, 0.7, 1.0]
CHOICES = ["method", "statistics", "evidence", "normalisation", "tau", "cut"]


@pytest.fixture(scope="module")
def grid(explainer, images):
    return rule_grid(explainer, images.images, 1, TAUS, CUTS)


class TestRuleGrid:
    def test_has_every_combination_once_with_seed_and_epoch(self, grid):
        expected = set(
            itertools.product(METHODS, STATISTICS, EVIDENCES, ["max", "min-max", "fixed"], TAUS, CUTS)
        )
        assert len(grid) == len(expected) == 384
        assert set(grid[CHOICES].itertuples(index=False, name=None)) == expected
        assert set(grid.columns) == {*CHOICES, "seed", "epoch", "deleted"}
        assert (grid["seed"] == 0).all()
        assert (grid["epoch"] == 1).all()

    def test_equals_a_loop_over_the_images(self, grid, explainer, images, reference):
        cells = grid.set_index(CHOICES)["deleted"]
        seen = set()
        for method, kind, evidence in itertools.product(METHODS, STATISTICS, EVIDENCES):
            network = with_statistics(explainer.run, 1, kind, reference)
            options = {"method": method, "evidence": evidence, "batch_size": 64}
            maps = explain(network, images.images, **options).numpy()
            small = explain(network, images.images, upsample=False, **options).numpy()
            typical = statistics.median_low(one.max() for one in small if one.max() > 0)
            for name, scale in (("max", "max"), ("min-max", "min-max"), ("fixed", np.float32(typical))):
                for tau in TAUS:
                    shares = [important_share(one, scale, tau) for one in maps]
                    for cut in CUTS:
                        expected = sum(share >= cut for share in shares) / 128
                        assert cells[method, kind, evidence, name, tau, cut] == expected
                        seen.add(expected)
        assert len(seen) > 30  # not all 0 or 1

    def test_agrees_with_the_selection(self, grid, explainer, images, digits, classifier):
        pruning = rule(statistics="running", normalisation="min-max", tau=0.5, cut=0.4)
        deleted = select(pruning, explainer, images, digits, classifier).deleted
        cell = grid.set_index(CHOICES).loc[("gradcam", "running", "real", "min-max", 0.5, 0.4), "deleted"]
        assert cell * 128 == deleted > 0

    @pytest.mark.parametrize("choice", ["tau", "cut"])
    def test_a_higher_tau_or_cut_never_deletes_more(self, grid, choice):
        others = [name for name in CHOICES if name != choice]
        wide = grid.pivot_table("deleted", others, choice)
        assert (wide.diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)
        assert (wide.iloc[:, 0] > wide.iloc[:, -1]).any()
        assert grid["deleted"].between(0, 1).all()

    def test_does_not_depend_on_the_chunks(self, grid, explainer, images, monkeypatch):
        monkeypatch.setattr(pruning_module, "CHUNK", 9)
        pd.testing.assert_frame_equal(rule_grid(explainer, images.images, 1, TAUS, CUTS), grid)

    def test_looks_at_the_epoch_asked_for(self, grid, explainer, images):
        other = rule_grid(explainer, images.images, 3, TAUS, CUTS)
        assert (other["epoch"] == 3).all()
        assert (other["deleted"] != grid["deleted"]).any()

    def test_maps_that_are_zero_everywhere_delete_nothing(self, explainer, images, monkeypatch):
        def nothing(*arguments):
            return dict.fromkeys(METHODS, torch.zeros(128, 8, 8)), torch.zeros(128)

        monkeypatch.setattr(explainer, "signed", nothing)
        grid = rule_grid(explainer, images.images, 1, [0.01], [0.01])
        assert len(grid) == 24
        assert (grid["deleted"] == 0).all()


class TestDescribeRule:
    def grid(self, deleted, seeds=(0,)):
        """A reading each, the same one for all seeds."""
        rows = [
            {"method": "gradcam", "tau": tau, "cut": 0.7, "seed": seed, "epoch": 18 + seed, "deleted": share}
            for tau, shares in enumerate(deleted)
            for seed, share in zip(seeds, np.broadcast_to(shares, len(seeds)), strict=True)
        ]
        return pd.DataFrame(rows)

    def test_counts_the_readings_that_delete_next_to_nothing_and_next_to_all(self):
        text = describe_rule(self.grid([0, 0.005, 0.009, 0.01, 0.3, 0.5, 0.99, 0.995, 1, 0.2]))
        assert text.startswith("Of 10 readings of the rule, 30 % delete less than 1 % of the images")
        assert " and 20 % delete more than 99 %" in text
        assert "\n" not in text

    def test_seeds_are_averaged_before_readings_are_counted(self):
        text = describe_rule(self.grid([(0, 1), (0, 0.01), (1, 1), (0.5, 0.5)], seeds=(0, 1)))
        assert text.startswith("Of 4 readings of the rule, 25 % delete less")
        assert " and 25 % delete more" in text

    def test_reads_a_real_grid(self, explainer, images):
        grid = rule_grid(explainer, images.images, 1, TAUS, CUTS)
        low, high = (grid["deleted"] < 0.01).mean(), (grid["deleted"] > 0.99).mean()
        text = describe_rule(grid)
        assert text.startswith(f"Of 384 readings of the rule, {100 * low:.0f} % ")
        assert f" and {100 * high:.0f} % " in text


# --- the configuration of an arm


BAD = [
    ({"cut": 0}, "cut=0: input should be greater than 0"),
    ({"cut": 1.5}, "cut=1.5: input should be less than or equal to 1"),
    ({"cut": -1}, "cut=-1: input should be greater than 0"),
    ({"cut": math.nan}, "cut=nan: input should be a finite number"),
    ({"tau": 0}, "tau=0: input should be greater than 0"),
    ({"tau": 1.01}, "tau=1.01: input should be less than or equal to 1"),
    ({"tau": "high"}, "tau='high': input should be a valid number"),
    ({"arm": "dose", "share": 0}, "share=0: input should be greater than 0"),
    ({"arm": "dose", "share": 1}, "share=1: input should be less than 1"),
    ({"arm": "dose", "share": 20}, "share=20: input should be less than 1"),
    ({"arm": "dose"}, "arm='dose' needs the share to delete, such as share=0.2"),
    ({"share": 0.2}, "share=0.2 with arm='rule70', which deletes what the rule says; use arm='dose'"),
    ({"arm": "rule07"}, "arm='rule07': input should be 'rule70', 'dose', 'random', 'inverse'"),
    ({"arm": None}, "arm=None: input should be 'rule70'"),
    ({"shares": 0.2}, "'shares' is not a field; did you mean 'share'?"),
    ({"normalization": "max"}, "'normalization' is not a field; did you mean 'normalisation'?"),
    ({"qqqq": 1}, "'qqqq' is not a field; fields: arm, share, baseline_epochs"),
    ({"epoch": 26}, "epoch=26 must lie in 0..baseline_epochs=25"),
    ({"epoch": 3, "baseline_epochs": 2}, "epoch=3 must lie in 0..baseline_epochs=2"),
    ({"baseline_epochs": 10}, "epoch=18 must lie in 0..baseline_epochs=10"),  # the default epoch
    ({"epoch": -1}, "epoch=-1 must lie in 0..baseline_epochs=25"),
    ({"epoch": "clearst"}, "input should be 'clearest'"),
    ({"epoch": 1.5}, "input should be a valid integer"),
    ({"baseline_epochs": 0}, "baseline_epochs=0: input should be greater than or equal to 1"),
    ({"normalisation": -0.1}, "normalisation=-0.1 must be 'max', 'min-max' or a positive number"),
    ({"normalisation": 0}, "normalisation=0.0 must be 'max', 'min-max' or a positive number"),
    ({"normalisation": "minmax"}, "input should be 'max' or 'min-max'"),
    ({"normalisation": math.inf}, "input should be a finite number"),
    ({"method": "grad-cam"}, "method='grad-cam': input should be 'gradcam' or 'hirescam'"),
    ({"statistics": "train"}, "statistics='train': input should be 'reference', 'running' or 'batch'"),
    ({"evidence": "signed"}, "evidence='signed': input should be 'real' or 'fake'"),
    ({"probe_images": 9}, "probe_images=9: input should be greater than or equal to 10"),
    ({"reference_images": 1}, "reference_images=1: input should be greater than or equal to 2"),
]


class TestPruningConfig:
    @pytest.mark.parametrize(("fields", "said"), BAD, ids=[str(fields) for fields, _ in BAD])
    def test_bad_input_is_one_clear_line_here_and_within_a_training(self, fields, said):
        fields = {"arm": "rule70", **fields}
        message = refused(Pruning, **fields)
        assert message.startswith("Pruning: ")
        assert said in message
        nested = refused(TrainingConfig, pruning=fields)
        assert nested.startswith("TrainingConfig: pruning=")
        assert said in nested
        assert "pruning: " not in nested.lower()  # no class names within the sentence

    def test_an_arm_must_be_named(self):
        assert "arm=" in refused(Pruning)
        assert "field required" in refused(Pruning, cut=0.5)

    @pytest.mark.parametrize("pruning", ["rule70", 5, ["rule70"], True])
    def test_a_training_takes_no_arm_that_is_not_a_pruning(self, pruning):
        assert f"pruning={pruning!r}" in refused(TrainingConfig, pruning=pruning)

    def test_all_problems_are_reported_at_once(self):
        message = refused(Pruning, arm="rule70", cut=0, tau=2, shar=0.1)
        assert all(part in message for part in ("cut=0", "tau=2", "did you mean 'share'?"))

    @pytest.mark.parametrize(
        "fields", [{"cut": 1}, {"tau": 1}, {"epoch": 0}, {"epoch": 25}, {"normalisation": 1e-9}], ids=str
    )
    def test_the_ends_of_what_is_allowed_are_allowed(self, fields):
        ((name, value),) = fields.items()
        assert getattr(Pruning(arm="rule70", **fields), name) == value

    def test_cannot_be_changed_behind_the_name(self):
        pruning = Pruning(arm="rule70")
        with pytest.raises(ValueError, match="frozen"):
            pruning.cut = 0.5
        assert pruning.cut == 0.7

    @pytest.mark.parametrize(
        "fields",
        [
            {"arm": "rule70"},
            {"arm": "dose", "share": 1 / 3},
            {"arm": "random", "share": 0.2, "epoch": "clearest"},
            {"arm": "inverse", "normalisation": 0.1, "tau": 1},
            {"arm": "self-diagnosing", "normalisation": "max", "method": "hirescam", "statistics": "batch"},
            {"arm": "instance-selection", "baseline_epochs": 3, "epoch": 2, "layer": "block2"},
        ],
        ids=lambda fields: fields["arm"],
    )
    def test_json_gives_the_same_config_back(self, fields):
        config = TrainingConfig(pruning=fields, seed=3)
        assert config == TrainingConfig(pruning=Pruning(**fields), seed=3)
        for values in (config.model_dump(mode="json"), config.model_dump()):
            again = TrainingConfig(**values)
            assert again == config
            assert again.pruning == config.pruning == Pruning(**fields)
            assert again.name == config.name

    @pytest.mark.parametrize(
        ("fields", "label"),
        [
            ({"arm": "rule70"}, "rule70"),
            ({"arm": "dose", "share": 0.2}, "dose 20 %"),
            ({"arm": "dose", "share": 0.07}, "dose 7 %"),
            ({"arm": "random"}, "random"),
            ({"arm": "instance-selection", "share": 0.125}, "instance-selection 12.5 %"),
        ],
    )
    def test_the_label_is_the_arm_and_its_share(self, fields, label):
        assert Pruning(**fields).label == label


class TestNamesAndBaseline:
    def test_the_name_without_pruning_does_not_know_of_pruning(self):
        plain = TrainingConfig(seed=4)
        assert "pruning" not in plain.identity
        assert plain.changed(pruning=None).name == plain.name
        assert plain.changed(pruning={"arm": "rule70"}).changed(pruning=None).name == plain.name

    def test_whatever_changes_the_selection_changes_the_name(self):
        every = [
            {},
            *({"arm": arm} for arm in CONTROLS),
            *({"arm": "dose", "share": share} for share in (0.025, 0.2, 0.2000001, 0.25)),
            {"arm": "random", "share": 0.2},
            {"baseline_epochs": 24},
            {"epoch": 17},
            {"epoch": "clearest"},
            {"method": "hirescam"},
            {"layer": "block2"},
            {"statistics": "reference"},
            {"evidence": "real"},
            {"normalisation": "max"},
            {"normalisation": 1.0},
            {"tau": 0.5},
            {"cut": 0.5},
            {"probe_images": 255},
            {"reference_images": 255},
        ]
        tried = {name for fields in every for name in fields}
        assert tried == set(Pruning.model_fields)  # a new field belongs into this test
        configs = [TrainingConfig(pruning={"arm": "rule70", **fields}) for fields in every]
        configs.append(TrainingConfig())
        assert len({config.name for config in configs}) == len(configs)
        assert len({config.name[-8:] for config in configs}) == len(
            configs
        )  # the hash alone tells them apart

    def test_the_name_shows_the_arm(self):
        config = TrainingConfig(pruning={"arm": "dose", "share": 0.2})
        assert config.name.startswith("mnist-5k-paper64-width64-zeros-seed0-dose20-")
        assert set(config.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")

    @pytest.mark.parametrize("arm", ARMS)
    def test_the_baseline_is_the_same_training_on_all_images(self, arm):
        fields = {"width": 8, "epochs": 30, "seed": 7, "device": "cpu", "threads": 1, "data": "fashion-mnist"}
        share = 0.2 if arm == "dose" else None
        pruning = {"arm": arm, "share": share, "baseline_epochs": 9, "epoch": 9}
        baseline = TrainingConfig(**fields, pruning=pruning).baseline
        assert baseline.pruning is None
        assert (baseline.epochs, baseline.seed) == (9, 7)
        assert baseline == TrainingConfig(**fields | {"epochs": 9})

    def test_without_pruning_a_training_is_its_own_baseline(self):
        config = TrainingConfig(epochs=3, seed=7)
        assert config.baseline == config

    def test_changed_validates(self):
        config = TrainingConfig(pruning={"arm": "rule70"})
        assert config.changed(seed=3).pruning == config.pruning
        assert "tau=0" in refused(config.changed, pruning={"arm": "rule70", "tau": 0})
        assert "did you mean 'pruning'?" in refused(config.changed, prunning=None)

"""Which images the 70 % rule and its controls delete, against a plain reading of what each arm says; what follows."""

import itertools
import math
import statistics
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import RULE, assert_nothing_is_cut_off, draw, refused, texts, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcam_gan.data import ImageSet, load_images, to_model_range
from gradcam_gan.errors import RunError
from gradcam_gan.explaining.batchnorm import batch_statistics, calibrate
from gradcam_gan.explaining.cam import explain
from gradcam_gan.explaining.measures import digit_mask, measure
from gradcam_gan.intervals import paired_difference_interval
from gradcam_gan.run_explainer import STATISTICS, Reading, RunExplainer
from gradcam_gan.scoring.evaluator import load_evaluator
from gradcam_gan.scoring.scores import evaluate, reference_for
from gradcam_gan.studies import paths, prune_70
from gradcam_gan.studies.arms import Arm, Pruning
from gradcam_gan.studies.prune_70 import (
    BASELINE,
    MATCHINGS,
    METRICS,
    Selection,
    arm_chart,
    class_balance,
    contact_sheet,
    coverage_scores,
    deleted_by_class,
    diagnosis,
    differences,
    dose_chart,
    evaluate_arm,
    idle_reason,
    judge_pruning,
    kept,
    matched_epoch,
    rarity,
    rule_grid,
    rule_heatmap,
    run_experiment,
    scoring_epoch,
    select,
    selection,
)
from gradcam_gan.studies.readings import ALL_READINGS, COMPARED_METHODS, EVIDENCES
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.style import PAGE
from gradcam_gan.training.loop import run_name, training_images
from gradcam_gan.training.objective import Objective
from gradcam_gan.training.runs import load_run

light = settings(max_examples=60, deadline=None)
CONTROLS = ["random", "inverse", "instance-selection", "self-diagnosing"]
ARMS = ["rule70", "dose", *CONTROLS]
# maps that cover anything from almost nothing to almost everything, so that every cut divides the images
VARIED = {"arm": "rule70", "epoch": 1, "evidence": "real", "tau": 0.5, "cut": 0.4}


def rule(**changes):
    return Pruning(**RULE | VARIED | changes)


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
    if kind == "reference":
        return calibrate(trained, reference)
    return batch_statistics(trained) if kind == "batch" else trained


def plain_maps(explainer, images, reference, epoch, method, kind, evidence, **options):
    """Maps at image size, straight from ``explain``."""
    network = with_statistics(explainer.run, epoch, kind, reference)
    return explain(network, images, method=method, evidence=evidence, batch_size=64, **options).numpy()


def plain_coverage(pruning, explainer, images, reference, epoch):
    how = (pruning.method, pruning.statistics, pruning.evidence)
    maps = plain_maps(explainer, images, reference, epoch, *how)
    return np.array([important_share(heatmap, pruning.normalisation, pruning.tau) for heatmap in maps])


def largest(scores, count):
    """Indices of the largest scores, of equal ones the first in order."""
    return set(sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count])


def deleted_by(keep):
    assert keep.dtype == bool
    return set(np.flatnonzero(~keep).tolist())


def chosen(keep, epoch=1):
    """A selection that keeps what one says."""
    keep = np.asarray(keep, dtype=bool)
    return Selection(keep, np.zeros(len(keep)), epoch)


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
    members = torch.cat([(found.labels == label).nonzero()[:60, 0] for label in range(3)])
    members = members[torch.randperm(len(members), generator=torch.Generator().manual_seed(0))]
    return ImageSet(found.images[members], found.labels[members], found.class_names)


# --- the scores


class TestCoverageScores:
    @pytest.mark.parametrize(
        ("method", "kind", "evidence", "epoch", "normalisation"),
        [
            ("gradcam", "running", "real", 1, "min-max"),
            ("hirescam", "reference", "fake", 2, "max"),
            ("gradcam", "batch", "fake", 3, "fixed"),
        ],
    )
    def test_equals_a_count_on_the_maps_of_explain(
        self, explainer, images, reference, monkeypatch, method, kind, evidence, epoch, normalisation
    ):
        maps = plain_maps(explainer, images.images, reference, epoch, method, kind, evidence)
        if normalisation == "fixed":
            normalisation = float(np.median(maps.max((1, 2))))
        # the epoch is the one it is given, not the one configured
        pruning = rule(
            method=method, statistics=kind, evidence=evidence, normalisation=normalisation, tau=0.3
        )
        got = coverage_scores(pruning, explainer, images.images, epoch)
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, [important_share(one, normalisation, 0.3) for one in maps])
        assert len(np.unique(got)) > 5  # images do differ
        monkeypatch.setattr(prune_70, "CHUNK", 5)
        np.testing.assert_array_equal(coverage_scores(pruning, explainer, images.images, epoch), got)


def plain_lifts(explainer, images, reference, epoch, method, kind, evidence):
    """Focus lift of every image at one epoch; a map without any evidence is at chance."""
    maps = plain_maps(explainer, images, reference, epoch, method, kind, evidence)
    table = measure(torch.from_numpy(maps), digit_mask(images))
    return table["focus_lift"].where(~table["all_zero"], 1.0).to_numpy()


class TestScoringEpoch:
    def test_is_the_one_configured(self, explainer, digits):
        assert [scoring_epoch(rule(epoch=epoch), explainer, digits) for epoch in (0, 1, 3)] == [0, 1, 3]

    def test_the_clearest_of_the_trained_has_the_largest_mean_focus_lift(self, explainer, reference, digits):
        found, untrained_is_clearest = [], []
        for method, kind, evidence in itertools.product(COMPARED_METHODS, STATISTICS, EVIDENCES):
            lifts = [
                plain_lifts(explainer, digits[:20], reference, epoch, method, kind, evidence).mean()
                for epoch in range(4)
            ]
            how = rule(epoch="clearest", probe_images=20, method=method, statistics=kind, evidence=evidence)
            found.append(scoring_epoch(how, explainer, digits))
            assert found[-1] == 1 + int(np.argmax(lifts[1:]))
            untrained_is_clearest.append(np.argmax(lifts) == 0)
        assert len(set(found)) > 1  # it does depend on the choice of maps
        assert any(untrained_is_clearest)

    def test_only_the_probe_images_are_asked(self, explainer, reference, digits):
        how = ("hirescam", "running", "real")
        lifts = np.stack([plain_lifts(explainer, digits[:60], reference, epoch, *how) for epoch in (1, 2, 3)])
        of_all = int(lifts.mean(1).argmax())
        order = np.argsort(lifts[of_all] - np.delete(lifts, of_all, 0).max(0))  # first those against it
        of_ten = int(lifts[:, order[:10]].mean(1).argmax())
        assert of_ten != of_all
        for count, epoch in ((60, 1 + of_all), (10, 1 + of_ten)):
            pruning = rule(epoch="clearest", method="hirescam", probe_images=count)
            assert scoring_epoch(pruning, explainer, digits[order]) == epoch


class TestRarity:
    def test_ranks_the_density_of_the_class_s_gaussian_from_one_nth_to_one(
        self, three_digits, classifier, monkeypatch
    ):
        """60 images a class: fewer than features."""
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
        monkeypatch.setattr(prune_70, "CHUNK", 11)
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


@pytest.mark.parametrize("kind", ["running", "reference"])
def test_diagnosis_is_the_mean_and_deviation_of_the_logits_over_the_trained_epochs(
    explainer, images, reference, kind
):
    networks = [with_statistics(explainer.run, epoch, kind, reference) for epoch in (1, 2, 3)]
    with torch.no_grad():
        logits = torch.stack([network(to_model_range(images.images)) for network in networks])
    by_epoch = logits.double().numpy()
    expected = [np.mean(one) + np.sqrt(np.mean((one - np.mean(one)) ** 2)) for one in by_epoch.T]
    got = diagnosis(rule(statistics=kind), explainer, images.images)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    for others in (by_epoch.mean(0), by_epoch.mean(0) + by_epoch.std(0, ddof=1)):
        assert not np.allclose(got, others, rtol=1e-2)  # the deviation has a say


# --- which images stay


def test_the_rule_deletes_from_the_cut_on():
    covered = np.array([0.7, np.nextafter(0.7, 0), np.nextafter(0.7, 1), 0.0, 1.0])
    assert kept(rule(cut=0.7), covered, covered).tolist() == [False, True, False, True, False]
    assert kept(rule(cut=1), covered, covered).tolist() == [True, True, True, True, False]


sixteenths = st.integers(0, 16).map(lambda number: number / 16)  # many ties
several = st.lists(sixteenths, min_size=1, max_size=40).map(np.array)


@light
@given(covered=several, cut=sixteenths.filter(bool), share=st.floats(0.001, 0.999), data=st.data())
def test_the_rule_ignores_scores_and_the_others_delete_as_many_or_their_share_of_the_largest(
    covered, cut, share, data
):
    scores = np.array(data.draw(st.lists(sixteenths, min_size=len(covered), max_size=len(covered))))
    by_rule = {index for index, value in enumerate(covered) if value >= cut}
    assert deleted_by(kept(rule(cut=cut), covered, scores)) == by_rule
    for arm in CONTROLS:
        keep = kept(rule(arm=arm, cut=cut), covered, scores)
        assert deleted_by(keep) == largest(scores.tolist(), len(by_rule))
    for arm in ARMS[1:]:
        keep = kept(rule(arm=arm, share=share, cut=cut), covered, scores)
        count = (~keep).sum()
        assert abs(count - share * len(scores)) <= 0.5
        assert deleted_by(keep) == largest(scores.tolist(), count)


@pytest.mark.parametrize(
    ("share", "deleted"), [(0.04, set()), (0.34, {1, 3}), (0.5, {1, 3, 4}), (0.67, {0, 1, 3, 4})]
)
def test_a_share_is_rounded_and_of_equal_scores_the_first_in_order_go(share, deleted):
    scores = np.array([1.0, 2.0, 1.0, 2.0, 2.0, 1.0])
    assert deleted_by(kept(rule(arm="dose", share=share), scores, scores)) == deleted


class TestSelect:
    @pytest.mark.parametrize("arm", ARMS)
    def test_every_arm_deletes_by_its_own_score(self, explainer, images, reference, digits, classifier, arm):
        pruning = rule(arm=arm, share=0.3 if arm == "dose" else None)
        covered = plain_coverage(pruning, explainer, images.images, reference, 1)
        scores = {
            "rule70": lambda: covered,
            "dose": lambda: covered,
            "inverse": lambda: -covered,
            "random": lambda: np.random.default_rng(0).random(128),
            "instance-selection": lambda: rarity(images, classifier),
            "self-diagnosing": lambda: -diagnosis(pruning, explainer, images.images),
        }[arm]()
        count = 38 if arm == "dose" else sum(covered >= pruning.cut)
        assert 0 < count < 128
        found = select(pruning, explainer, images, digits, classifier)
        assert deleted_by(found.keep) == largest(scores.tolist(), count)
        assert found.epoch == 1
        np.testing.assert_array_equal(found.coverage, covered)  # every arm says what the rule saw

    def test_the_random_arm_follows_the_runs_seed(self, explainer, images, digits, classifier):
        other_seed = replace(explainer.run, config=explainer.run.config.changed(seed=5))
        found = select(
            rule(arm="random", share=0.5), RunExplainer(other_seed, digits[:2]), images, digits, classifier
        )
        assert deleted_by(found.keep) == largest(np.random.default_rng(5).random(128).tolist(), 64)

    def test_the_clearest_epoch_scores_where_it_is_asked_for(
        self, explainer, images, reference, digits, classifier
    ):
        expected = scoring_epoch(rule(epoch="clearest", probe_images=20), explainer, digits)
        assert expected > 1  # not the one that VARIED names
        pruning = rule(epoch="clearest", cut=0.1, probe_images=20)
        found = select(pruning, explainer, images, digits, classifier)
        assert found.epoch == expected
        covered = plain_coverage(pruning, explainer, images.images, reference, expected)
        assert deleted_by(found.keep) == {index for index in range(128) if covered[index] >= 0.1}


class TestSelectionOnDisk:
    saved = Selection(np.array([True, False, True, False]), np.array([0.1, 1 / 3, 0.0, 1.0]), 18)

    def test_comes_back_as_it_was(self, tmp_path):
        self.saved.save(tmp_path / "one.safetensors")
        again = Selection.load(tmp_path / "one.safetensors")
        assert (again.keep.dtype, again.keep.tolist()) == (bool, self.saved.keep.tolist())
        assert again.coverage.tobytes() == self.saved.coverage.tobytes()
        assert (again.epoch, type(again.epoch)) == (18, int)

    def test_a_damaged_file_or_another_one_is_named(self, tmp_path, tiny_run):
        path = tmp_path / "one.safetensors"
        self.saved.save(path)
        path.write_bytes(path.read_bytes()[:-1])
        assert f"{path} cannot be read" in refused(Selection.load, path, error=RunError)
        weights = next(tiny_run.path.glob("checkpoints/*/generator.safetensors"))
        assert f"{weights} holds no selection" in refused(Selection.load, weights, error=RunError)


def forbidden(*_arguments, **_named):
    raise AssertionError("it is done again")


class TestSelection:
    def arm(self, **changes):
        options = {"arm": "rule70", "epoch": 2, "tau": 0.5, "cut": 0.5, "calibration_images": 20}
        trainings = tiny(train_images=128, epochs=1), tiny(train_images=128)
        return Arm(Pruning(**RULE | options | changes), *trainings)

    def test_trains_the_baseline_is_made_once_and_then_read(self, tmp_path, monkeypatch):
        arm = self.arm(arm="dose", share=0.3)
        first = selection(arm, tmp_path)
        assert load_run(tmp_path / arm.baseline.name).epochs == [0, 1, 2]
        assert {entry.name for entry in tmp_path.iterdir()} == {arm.baseline.name, "selections"}
        assert ((~first.keep).sum(), first.epoch) == (38, 2)
        monkeypatch.setattr(prune_70, "select", forbidden)
        monkeypatch.setattr(prune_70, "train", forbidden)
        again = selection(arm, tmp_path)
        assert again.keep.tolist() == first.keep.tolist()
        assert again.coverage.tolist() == first.coverage.tolist()

    @pytest.mark.parametrize(
        "changes", [{"statistics": "reference", "evidence": "real"}, {"epoch": "clearest"}]
    )
    def test_is_that_of_the_baselines_networks_on_all_images(self, tmp_path, classifier, changes):
        arm = self.arm(**changes)
        found = selection(arm, tmp_path)
        images, held_out = training_images(arm.baseline), training_images(arm.baseline, "test").images
        explainer = RunExplainer(load_run(tmp_path / arm.baseline.name), images.images[:20])
        expected = select(arm.pruning, explainer, images, held_out, classifier)
        assert found.keep.tolist() == expected.keep.tolist()
        assert found.coverage.tolist() == expected.coverage.tolist()
        assert found.epoch == expected.epoch

    def test_an_interrupted_one_leaves_nothing_behind(self, tmp_path, monkeypatch):
        monkeypatch.setattr(prune_70, "coverage_scores", forbidden)
        with pytest.raises(AssertionError):
            selection(self.arm(), tmp_path)
        assert list((tmp_path / "selections").iterdir()) == []

    def test_data_that_are_not_there_are_refused_before_anything_is_made(self, tmp_path):
        training = tiny(train_images=4001)
        message = refused(selection, Arm(Pruning(**RULE, arm="rule70"), training, training), tmp_path)
        assert "train_images=4001, but mnist-5k has 4000 training images" in message
        assert not list(tmp_path.iterdir())


# --- every reading of the rule


TAUS, CUTS = [0.1, 0.25, 0.5, 1.0], [0.05, 0.4, 0.7, 1.0]
CHOICES = ["method", "statistics", "evidence", "normalisation", "tau", "cut"]


class TestRuleGrid:
    def test_equals_a_loop_over_every_combination_and_image(self, explainer, images, reference, monkeypatch):
        grid = rule_grid(explainer, images.images, 2, TAUS, CUTS)
        assert list(grid) == [*CHOICES[:3], "seed", "epoch", *CHOICES[3:], "deleted"]
        assert grid[["seed", "epoch"]].drop_duplicates().to_numpy().tolist() == [[0, 2]]
        cells, expected = grid.set_index(CHOICES)["deleted"].to_dict(), {}
        for choice in itertools.product(COMPARED_METHODS, STATISTICS, EVIDENCES):
            maps = plain_maps(explainer, images.images, reference, 2, *choice)
            small = plain_maps(explainer, images.images, reference, 2, *choice, upsample=False)
            typical = statistics.median_low(one.max() for one in small if one.max() > 0)
            for name, scale in (("max", "max"), ("min-max", "min-max"), ("fixed", np.float32(typical))):
                for tau in TAUS:
                    shares = [important_share(one, scale, tau) for one in maps]
                    for cut in CUTS:
                        expected[*choice, name, tau, cut] = sum(share >= cut for share in shares) / 128
        assert cells == expected
        assert len(cells) == len(grid) == 384
        assert len(set(expected.values())) > 30  # not all 0 or 1
        monkeypatch.setattr(prune_70, "CHUNK", 9)
        pd.testing.assert_frame_equal(rule_grid(explainer, images.images, 2, TAUS, CUTS), grid)

    def test_maps_that_are_zero_everywhere_delete_nothing(self, explainer, images, monkeypatch):
        nothing = dict.fromkeys(COMPARED_METHODS, torch.zeros(128, 8, 8)), torch.zeros(128)
        monkeypatch.setattr(explainer, "signed", lambda *_, **__: nothing)
        grid = rule_grid(explainer, images.images, 1, [0.01], [0.01])
        assert len(grid) == 24
        assert (grid["deleted"] == 0).all()


# --- what goes, and what stays


class TestContactSheet:
    def shown(self, count, **deleted):
        """By arm, the indices that it deletes of ten images, each of which is its index."""
        selections = {(arm, 3): chosen(~np.isin(np.arange(10), list(gone))) for arm, gone in deleted.items()}
        (arm, seed), sheet = contact_sheet(selections, torch.arange(10).reshape(10, 1, 1, 1), count)
        assert seed == 3
        return arm, sheet[:, :, 0, 0, 0].tolist()

    def test_gives_two_rows_of_the_first_images_in_order_that_go_and_that_stay(self):
        expected = "rule70", [[1, 3], [4, 6], [0, 2], [5, 7]]
        assert self.shown(4, rule70=[1, 3, 4, 6, 9], dose=[0]) == expected

    @pytest.mark.parametrize(
        ("deleted", "count", "columns"),
        [([1, 2, 3], 8, 1), ([2, 3, 4, 5, 6, 7, 8], 8, 1), (range(5), 3, 1)],
    )
    def test_has_as_few_as_go_or_stay_or_are_asked_for(self, deleted, count, columns):
        assert [len(row) for row in self.shown(count, rule70=deleted)[1]] == [columns] * 4

    def test_goes_on_to_an_arm_that_has_both_and_refuses_where_none_has(self):
        for unusable in ([], range(10)):
            assert self.shown(6, rule70=unusable, dose=[7, 8]) == ("dose", [[7], [8], [0], [1]])
        message = refused(self.shown, 4, rule70=[], dose=range(10))
        assert "no arm deletes some images and keeps some; set pruning.doses" in message


def test_the_share_of_each_class_that_goes():
    """Against brute force; no image is of class b."""
    random = np.random.default_rng(0)
    labels = random.choice([0, 2, 3], 60)
    stays = {("rule70", 0): 0.9, ("rule70", 1): 0.6, ("dose 20 %", 0): 0.5, ("dose 20 %", 1): 0.2}
    selections = {network: chosen(random.random(60) < share) for network, share in stays.items()}
    images = ImageSet(torch.zeros(60, 1, 2, 2), torch.from_numpy(labels), ("a", "b", "c", "d"))
    table = deleted_by_class(selections, images)
    assert table.index.tolist() == ["a", "c", "d"]
    assert list(table) == ["rule70", "dose 20 %"]
    for (label, name), arm in itertools.product(((0, "a"), (2, "c"), (3, "d")), table):
        members = [i for i in range(60) if labels[i] == label]
        shares = [sum(not selections[arm, seed].keep[i] for i in members) / len(members) for seed in (0, 1)]
        assert table.loc[name, arm] == pytest.approx(sum(shares) / 2)


# --- trained and scored


def test_an_arm_is_idle_that_cannot_or_need_not_be_trained():
    """Exactly a batch, here of 32, can be trained."""
    reasons = {stays: idle_reason(chosen(np.arange(100) < stays), 32) for stays in (100, 99, 32, 31, 0)}
    few = "leaves less than a batch"
    assert reasons == {100: "deletes nothing", 99: "", 32: "", 31: few, 0: few}


@pytest.mark.parametrize(
    ("epochs", "stays", "of", "expected"),
    [(25, 80, 100, 20), (25, 99, 100, 25), (25, 97, 100, 24), (3, 1, 2, 2), (2, 77, 128, 1), (25, 1, 100, 1)],
)
def test_the_matched_epoch_is_the_kept_share_of_the_epochs_and_never_the_untrained(
    epochs, stays, of, expected
):
    """After E epochs of the baseline's length, an arm with a share s has passed E / s times over its images."""
    assert matched_epoch(epochs, chosen(np.arange(of) < stays)) == expected


COUNT = 32  # generated images


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Networks of a second each; no map comes near the normalisation, so the rule deletes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield Study.load(
            "smoke",
            width=2, train_images=128, batch_size=32, precision="float32", device="cpu",
            probe_images=10, calibration_images=32, generated_images=COUNT,
            pruning={
                "seeds": [1], "epochs": 2, "epoch": 2, "arms": ["rule70", "random"],
                "dose_arms": ["dose", "random"], "doses": [0.4], "normalisation": 1e6,
            },
        )  # fmt: skip


@pytest.fixture(scope="module")
def scored_against(study):
    return reference_for(study.config(1), study.runs_dir)


@pytest.fixture(scope="module")
def results(study, scored_against):
    return run_experiment(study, scored_against)


class TestRunExperiment:
    def test_has_the_baseline_and_every_arm_at_both_matchings(self, results):
        arms = ["baseline", "rule70", "random", "dose 40 %", "random 40 %"]
        assert results["arm"].tolist() == [arm for arm in arms for _ in MATCHINGS]
        assert results["kind"].tolist() == [arm.split()[0] for arm in arms for _ in MATCHINGS]
        assert results["matching"].tolist() == list(MATCHINGS) * 5 == ["iterations", "epochs"] * 5
        assert list(results)[:7] == ["arm", "kind", "seed", "deleted", "idle", "matching", "epoch"]
        assert set(results["seed"]) == {1}

    def test_arms_are_scored_beside_the_baseline_of_as_many_epochs(self, results, study, scored_against):
        """The baseline is trained for three epochs, the arms for two; 77 of 128 images are kept."""
        by_arm = results.groupby("arm")["epoch"].agg(list)
        assert load_run(study.runs_dir / study.config(1).name).epochs == [0, 1, 2, 3]
        assert by_arm["baseline"] == [2, 2]
        assert by_arm["dose 40 %"] == by_arm["random 40 %"] == [2, 1]
        first, second = results[results["arm"] == BASELINE].drop(columns="matching").to_dict("records")
        assert first == second
        deleted = results.groupby("arm")["deleted"].first()
        assert (deleted["baseline"], deleted["rule70"], deleted["dose 40 %"]) == (0, 0, 51 / 128)

    def test_scores_are_those_of_the_arms_generators(self, results, study, scored_against):
        arm = study.arms()[2]
        run = load_run(study.runs_dir / run_name(arm.training, selection(arm, study.runs_dir).keep))
        assert run.manifest["train_images"] == 77
        rows = results[results["arm"] == "dose 40 %"]
        for row in rows.to_dict("records"):
            expected = evaluate(run.generator(int(row["epoch"])), scored_against, count=COUNT)
            assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)
        assert rows["fid"].nunique() == 2

    def test_idle_arms_have_no_scores_and_are_not_trained(self, results, study, scored_against):
        idle = results["arm"].isin(["rule70", "random"])
        assert results["idle"].tolist() == ["deletes nothing" if one else "" for one in idle]
        assert results.loc[idle, ["epoch", *METRICS]].isna().all(axis=None)
        assert results.loc[~idle, ["epoch", *METRICS]].notna().all(axis=None)
        arm = study.arms()[2]
        pruning = Pruning(**arm.pruning.model_dump() | {"share": 97 / 128})
        table = evaluate_arm(replace(arm, pruning=pruning), study.runs_dir, scored_against, COUNT)
        assert table["idle"].tolist() == ["leaves less than a batch"] * 2
        assert table["deleted"].tolist() == [97 / 128] * 2
        assert not set(table) & {*METRICS, "epoch"}
        assert sum("-keep" in path.name for path in study.runs_dir.iterdir()) == 2

    def test_a_second_call_neither_trains_nor_selects_nor_scores(
        self, results, study, scored_against, monkeypatch
    ):
        monkeypatch.setattr(Objective, "step", forbidden)
        monkeypatch.setattr(prune_70, "select", forbidden)
        monkeypatch.setattr("gradcam_gan.scoring.scores.evaluate", forbidden)
        pd.testing.assert_frame_equal(run_experiment(study, scored_against), results, rtol=1e-12)


# --- compared


# Made-up results: FID by arm and seed. "seldom" was trained for one seed of the five.
FID = {
    "baseline": [10.0, 12.0, 11.0, 15.0, 12.0],
    "rule70": [9.0, 10.0, 12.0, 11.0, 12.0],
    "random": [11.0, 12.0, 13.0, 14.0, 11.0],
    "dose 20 %": [math.nan, 8.0, math.nan, 12.0, 9.0],
    "dose 40 %": [14.0, 15.0, 14.0, 19.0, 16.0],
    "seldom": [math.nan, math.nan, math.nan, 14.0, math.nan],
}


def made_up(fid=FID, *, idle=()):
    """Rows as of ``run_experiment``: recall is a hundredth of FID, at matched epochs FID is 1 more in the arms."""
    rows = []
    for (arm, values), matching in itertools.product(fid.items(), MATCHINGS):
        for seed, value in enumerate(values):
            row = {"arm": arm, "kind": arm.split()[0], "seed": seed, "matching": matching, "idle": ""}
            row["deleted"] = 0.0 if arm == BASELINE else 0.1 * (seed + 1)
            scores = {"fid": value + (matching == "epochs" and arm != BASELINE), "recall": value / 100}
            if (arm, seed) in idle:
                row["idle"], scores = "deletes nothing", {}
            if not math.isnan(value):
                rows.append({**row, **scores})
    return pd.DataFrame(rows)


def row_of(table, arm, matching="iterations", metric="fid"):
    found = table[(table["arm"] == arm) & (table["matching"] == matching) & (table["metric"] == metric)]
    (row,) = found.to_dict("records")
    return row


COLUMNS = ["arm", "kind", "matching", "metric", "deleted", "estimate", "low", "high", "n", "effect"]


class TestDifferences:
    def test_has_a_row_per_matching_arm_and_metric(self):
        table = differences(made_up(), ["fid", "recall"])
        assert list(table) == COLUMNS
        keys = table[["matching", "arm", "metric"]].to_numpy().tolist()
        arms = [arm for arm in FID if arm != BASELINE]
        assert keys == [list(key) for key in itertools.product(MATCHINGS, arms, ["fid", "recall"])]
        assert row_of(table, "dose 20 %")["kind"] == "dose"

    def test_is_the_mean_of_the_paired_differences_in_baseline_deviations_too(self):
        """By hand: -1, -2, 1, -4, 0 for the rule and 1, 0, 2, -1, -1 at random; their difference -2, -2, -1, -3, 1.

        The baseline's are 10, 12, 11, 15, 12: squares about 12 sum to 14, over n - 1 = 4.
        """
        table, deviation = differences(made_up(), ["fid", "recall"]), math.sqrt(14 / 4)
        rule, random = row_of(table, "rule70"), row_of(table, "random")
        assert (rule["estimate"], random["estimate"]) == pytest.approx((-6 / 5, 1 / 5))
        assert (rule["effect"], random["effect"]) == pytest.approx((-6 / 5 / deviation, 1 / 5 / deviation))
        recall = row_of(table, "rule70", metric="recall")
        assert (recall["estimate"], recall["effect"]) == pytest.approx((-6 / 500, -6 / 5 / deviation))
        to_random = row_of(differences(made_up(), ["fid"], to="random"), "rule70")
        assert (to_random["estimate"], to_random["effect"]) == pytest.approx((-7 / 5, -7 / 5 / deviation))
        for row, to in ((rule, "baseline"), (to_random, "random")):
            expected = paired_difference_interval(FID["rule70"], FID[to])
            assert (row["low"], row["high"], row["n"]) == (expected.low, expected.high, 5)

    def test_each_matching_is_compared_with_its_own_rows_of_the_other_arm(self):
        """Arms are 1 worse at matched epochs; the baseline's matchings coincide."""
        for to, arm, extra in ((BASELINE, "rule70", 1), ("random", "rule70", 0), ("random", BASELINE, -1)):
            table = differences(made_up(), ["fid"], to=to)
            at_iterations, at_epochs = (row_of(table, arm, matching)["estimate"] for matching in MATCHINGS)
            assert at_epochs == pytest.approx(at_iterations + extra)

    def test_leaves_out_seeds_that_the_arm_lacks_or_did_not_train(self):
        """Seeds 1, 3 and 4: -4, -3, -3, of shares 20, 40 and 50 %; the rule's 1, 2 and 4: -2, 1, 0."""
        idle = [("rule70", 0), ("rule70", 3), *(("random", seed) for seed in range(5))]
        table = differences(made_up(idle=idle), ["fid"])
        assert "random" not in set(table["arm"])
        for arm, estimate, deleted in (("dose 20 %", -10 / 3, 1.1 / 3), ("rule70", -1 / 3, 1 / 3)):
            row = row_of(table, arm)
            assert (row["n"], row["estimate"], row["deleted"]) == pytest.approx((3, estimate, deleted))
        idle = [(arm, seed) for arm in FID if arm != BASELINE for seed in range(5)]
        table = differences(made_up(idle=idle), ["fid"])
        assert table.empty
        assert list(table) == COLUMNS

    @pytest.mark.parametrize("fid", [[10.0], [10.0, 10.0, 10.0]])
    def test_there_is_no_effect_size_without_a_deviation(self, fid):
        table = differences(made_up({"baseline": fid, "rule70": [value + 1 for value in fid]}), ["fid"])
        assert table["estimate"].tolist() == [1.0, 2.0]
        assert table["effect"].isna().all()


# --- drawn


def grid_of(deleted):
    """``deleted(reading, tau, seed)`` gives the share that the rule deletes."""
    choices = itertools.product(
        ALL_READINGS, ("max", "min-max", "fixed"), (0.1, 0.25), (0.5, 0.7, 0.9), (0, 1)
    )
    return pd.DataFrame(
        {
            "method": one.method, "statistics": one.statistics, "evidence": one.evidence, "seed": seed,
            "normalisation": normalisation, "tau": tau, "cut": cut, "deleted": deleted(one, tau, seed),
        }
        for one, normalisation, tau, cut, seed in choices
    )  # fmt: skip


def drawn(function, *arguments, tick_sizes=(7.0,)):
    figure = draw(function, *arguments)
    assert_nothing_is_cut_off(figure, PAGE, tick_sizes)
    return figure


class TestCharts:
    def test_the_rule_has_a_cell_for_every_reading_in_percent_over_networks(self):
        grid = grid_of(
            lambda reading, tau, seed: ALL_READINGS.index(reading) / 10 + tau / 25 + seed / 50 - 0.01
        )
        axes, _ = drawn(rule_heatmap, grid, tick_sizes=(5.0, 7.0)).axes
        values = np.asarray(axes.collections[0].get_array()).reshape(len(ALL_READINGS), -1)
        assert values[:, 0] == pytest.approx([10 * row + 0.4 for row in range(8)])
        assert values[0] == pytest.approx([0.4, 0.4, 0.4, 1, 1, 1] * 3)
        assert texts(axes.get_yticklabels()) == [str(reading) for reading in ALL_READINGS]
        assert texts(axes.get_xticklabels()) == ["50", "70", "90"] * 6
        assert "<1" in texts(axes.texts)  # a few images are not none

    def test_class_balance_is_in_percent_with_an_arm_a_row(self):
        shares = pd.DataFrame({"rule70": [0.1, 0.2], "random": [0.15, 0.15]}, index=["0", "1"])
        axes = drawn(class_balance, shares).axes[0]
        assert np.asarray(axes.collections[0].get_array()).ravel() == pytest.approx([10, 20, 15, 15])
        assert texts(axes.get_yticklabels()) == ["rule70", "random"]

    @pytest.mark.parametrize("seeds", [1, 5])
    def test_arms_have_a_line_with_a_tick_for_every_network_and_the_mean(self, seeds):
        fid = {arm: FID[arm][:seeds] for arm in ("baseline", "rule70", "dose 40 %")}
        fid["random"] = fid["rule70"]
        results = made_up(fid, idle=[("random", seed) for seed in range(seeds)])
        compared = differences(results, ["fid", "recall"])
        left, right = drawn(arm_chart, compared, results, ["fid", "recall"]).axes
        share = 10 * (seeds + 1) // 2
        assert texts(left.get_yticklabels()) == [f"rule70 ({share} %)", "dose 40 %", f"random ({share} %)"]
        assert (left.get_xlabel(), right.get_xlabel()) == ("Δ FID", "Δ recall")
        ticks = [line for line in left.lines if line.get_marker() == "|" and line.get_color() == "0.3"]
        assert len(ticks) == 2 * 2  # none for the idle arm
        assert list(ticks[0].get_xdata()) == [-1, -2, 1, -4, 0][:seeds]
        means = [row_of(compared, arm)["estimate"] for arm in ("rule70", "dose 40 %")]
        found = left.containers[0].lines[0].get_xdata()
        np.testing.assert_allclose(found.astype(float), [*means, np.nan])

    @pytest.mark.parametrize("seeds", [1, 5])
    def test_doses_are_joined_and_the_other_arms_stand_beside_them(self, seeds):
        fid = {arm: FID[arm][:seeds] for arm in ("baseline", "rule70", "dose 40 %")}
        fid["dose 20 %"] = [value + 1 for value in fid["baseline"]]
        results = made_up(fid)
        results.loc[results["arm"] == "dose 20 %", "deleted"] = 0.05
        compared = differences(results, ["fid", "recall"]).query("matching == 'iterations'")
        figure = drawn(dose_chart, compared, ["fid", "recall"])
        lines = {container.get_label(): container.lines[0] for container in figure.axes[0].containers}
        assert list(lines) == ["rule70", "dose"] == texts(figure.legends[0].get_texts())
        assert list(lines["dose"].get_xdata()) == pytest.approx([5, 5 * (seeds + 1)])
        expected = [1, row_of(compared, "dose 40 %")["estimate"]]
        assert list(lines["dose"].get_ydata()) == pytest.approx(expected)


# --- judged


NOISE = [0.3, -0.2, 0.1, 0.0, -0.1]


def judged(rule, random, *, seeds=5, deleted=0.2, idle=(), arms=None):
    """C6 and its finding, where the rule and chance change the baseline's FID by so much, with some noise.

    What should not matter: at matched epochs the changes are the opposite; the dose is better in every seed.

    Args:
        rule: change of FID at matched iterations.
        random: the same of the control.
        seeds: how many.
        deleted: share, or a share a seed.
        idle: seeds whose arms were not trained.
        arms: which are there (default: all).
    """
    rows = []
    changes = {"baseline": 0.0, "rule70": rule, "random": random, "dose 20 %": -5.0}
    for seed, (arm, more), matching in itertools.product(range(seeds), changes.items(), MATCHINGS):
        pruned = arm in ("rule70", "random")
        noise = NOISE[seed % 5] * {"baseline": 0, "rule70": 1}.get(arm, -1)
        fid, reason = 20.0 + seed + noise + (more if matching == "iterations" else -more), ""
        if pruned and seed in idle:
            fid, reason = math.nan, "deletes nothing"
        share = np.broadcast_to(deleted, seeds)[seed] if pruned else 0.0
        rows.append((arm, arm.split()[0], seed, matching, share, reason, fid))
    results = pd.DataFrame(rows, columns=["arm", "kind", "seed", "matching", "deleted", "idle", "fid"])
    claim = judge_pruning(
        results[results["arm"].isin(arms or changes)], Reading("gradcam", "running", "fake")
    )
    (finding,) = claim.findings
    return claim, finding


class TestClaim:
    """C6."""

    @pytest.mark.parametrize(
        ("rule", "random", "outcome"),
        [
            (-5.0, 0.0, "holds"),  # better than both
            (-5.0, -2.0, "holds"),
            (5.0, 0.0, "fails"),  # worse than both
            (5.0, 9.0, "fails"),  # worse than the baseline, better than chance
            (-5.0, -9.0, "fails"),  # better than the baseline, but worse than chance
            (-5.0, -5.0, "unclear"),  # better than the baseline, no better than chance
            (0.0, 5.0, "unclear"),  # better than chance alone
            (-0.1, 5.0, "unclear"),  # a little better than the baseline, within the noise
            (0.0, 0.0, "unclear"),
        ],
    )
    def test_holds_where_the_rule_is_better_than_the_baseline_and_than_chance(self, rule, random, outcome):
        claim, finding = judged(rule, random)
        verdicts = {"holds": "reproduced", "fails": "not reproduced", "unclear": "inconclusive"}
        assert (claim.name, claim.verdict, finding.outcome) == ("C6", verdicts[outcome], outcome)

    def test_the_effect_and_the_sentence_have_both_differences_and_the_shares(self):
        """By hand: -5 and the noise, whose mean is 0.02; random is 3 more, with the noise turned."""
        _, finding = judged(-5.0, -2.0, deleted=[0.1, 0.02, 0.28, 0.125, 0.2])
        baseline, noise = 20.0 + np.arange(5), np.array(NOISE)
        rule, random = baseline + noise - 5.0, baseline - noise - 2.0
        effect, to_random = (paired_difference_interval(rule, to) for to in (baseline, random))
        assert (effect.estimate, to_random.estimate) == pytest.approx((-4.98, -2.96))
        found = finding.effect
        assert (found.estimate, found.low, found.high) == (effect.estimate, effect.low, effect.high)
        assert found.n == 5
        sentence = finding.sentence
        assert all(part in sentence for part in ("2 % to 28 %", f"{found} against the", str(to_random)))

    @pytest.mark.parametrize(("seeds", "rule"), [(1, -9.0), (4, -9.0), (4, 9.0)])
    def test_fewer_than_five_pairs_are_inconclusive_by_design(self, seeds, rule):
        claim, finding = judged(rule, 0.0, seeds=seeds)
        assert claim.verdict == "inconclusive"
        assert "inconclusive by design" in finding.sentence
        assert finding.effect.n == seeds
        assert finding.effect.estimate == pytest.approx(rule, abs=0.5)
        assert "nan" not in str(claim)

    def test_networks_without_deleted_images_make_no_pairs(self):
        """Two of six; the other four are too few, five of seven are not. Without any there is nothing to say."""
        _, finding = judged(-5.0, 0.0, seeds=6, idle=[1, 4])
        assert (finding.effect.n, finding.outcome) == (4, "unclear")
        assert "in 2 of 6 networks it deletes nothing" in finding.sentence
        assert judged(-5.0, 0.0, seeds=7, idle=[1, 4])[0].verdict == "reproduced"
        claim, finding = judged(0.0, 0.0, seeds=2, idle=[0, 1])
        assert (claim.verdict, finding.effect.n) == ("inconclusive", 0)
        assert "there is no network to compare" in finding.sentence

    def test_is_inconclusive_without_the_control(self):
        """Better than the baseline, and nothing to say what deleting as many at random would have done."""
        assert judged(-5.0, 0.0, arms=["baseline", "rule70"])[0].verdict == "inconclusive"

"""Training on what an arm of the pruning experiment keeps: paired with its baseline, and as safe as any run."""

import json
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import refused

from gradcam_gan.data import data_hash, to_model_range
from gradcam_gan.errors import RunError
from gradcam_gan.run_explainer import RunExplainer
from gradcam_gan.scoring.evaluator import load_evaluator
from gradcam_gan.studies.pruning import SELECTION, Selection, coverage_scores, prune, select
from gradcam_gan.training import loop
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import selection, train, training_images
from gradcam_gan.training.objective import Objective
from gradcam_gan.training.runs import load_run

TIMES = ["seconds", "images_per_second"]
IMAGES, BATCH, EPOCHS = 128, 32, 2
ITERATIONS = IMAGES // BATCH
# every arm, and doses that leave more, exactly and fewer than half of the images; some order of passes for each
ARMS = {
    "rule70": {"arm": "rule70", "tau": 0.5, "cut": 0.5},
    "dose 30 %": {"arm": "dose", "share": 0.3},
    "dose 75 %": {"arm": "dose", "share": 0.75},
    "inverse 50 %": {"arm": "inverse", "share": 0.5},
    "inverse 60 %": {"arm": "inverse", "share": 0.6},
    "random": {"arm": "random", "tau": 0.5, "cut": 0.5},
    "instance-selection 10 %": {"arm": "instance-selection", "share": 0.1},
    "self-diagnosing 40 %": {"arm": "self-diagnosing", "share": 0.4},
}
NOTHING = {"tau": 1.0, "cut": 1.0}  # of a map that is not constant, no more than a part is its maximum


def tiny(pruning=None, **changes):
    fields = {
        "preset": "paper28",
        "width": 2,
        "epochs": EPOCHS,
        "train_images": IMAGES,
        "batch_size": BATCH,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
    }
    if pruning is not None:
        pruning = {"baseline_epochs": EPOCHS, "epoch": EPOCHS, **pruning}
    return TrainingConfig(**fields | {"pruning": pruning} | changes)


class Recorded:
    """A training, and what its steps were given: real images and latents of every iteration."""

    def __init__(self, config, runs_dir):
        self.real, self.latents = [], []
        original = Objective.step

        def step(objective, real, latents, *labels):
            self.real.append(real.clone())
            self.latents.append(latents.clone())
            return original(objective, real, latents, *labels)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Objective, "step", step)
            self.run = train(config, runs_dir)

    def epochs(self):
        """The images of each epoch, as bytes."""
        shown = [image.numpy().tobytes() for image in torch.cat(self.real)]
        size = ITERATIONS * BATCH
        return [shown[start : start + size] for start in range(0, len(shown), size)]


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def baseline(runs_dir):
    return Recorded(tiny(), runs_dir)


@pytest.fixture(scope="module")
def trained(runs_dir, baseline):
    """A function that trains an arm beside the baseline, once."""
    known = {}

    def by_name(name):
        if name not in known:
            known[name] = Recorded(tiny(ARMS[name]), runs_dir)
        return known[name]

    return by_name


@pytest.fixture(scope="module")
def images():
    return training_images(tiny())


def as_bytes(images):
    return [image.numpy().tobytes() for image in to_model_range(images)]


def keep_of(config, runs_dir):
    """What an arm keeps, read from its folder."""
    return Selection.load(runs_dir / config.name).keep


def tensor_files(run):
    """Bytes of every file of weights and of training state, by name."""
    files = run.path.glob("checkpoints/*/*.safetensors")
    return {str(file.relative_to(run.path)): file.read_bytes() for file in files}


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


def without_times(history):
    return history.drop(columns=TIMES)


# --- paired with the baseline


@pytest.mark.parametrize("arm", ["rule70", "random"])
def test_an_arm_that_deletes_nothing_ends_with_the_baselines_bits(runs_dir, baseline, arm):
    config = tiny({"arm": arm, **NOTHING})
    assert selection(config, runs_dir).deleted == 0
    run = train(config, runs_dir)
    assert run.epochs == baseline.run.epochs == [0, 1, 2]
    assert tensor_files(run) == tensor_files(baseline.run)
    assert len(tensor_files(run)) == 2 * 3 + 2  # both networks at every epoch, and two training states
    pd.testing.assert_frame_equal(without_times(run.history), without_times(baseline.run.history))
    assert run.path != baseline.run.path


def test_on_all_images_an_epoch_is_one_permutation_of_the_seeds_stream(baseline, images):
    """As before there was pruning: else runs trained then would no longer be what the same name stands for."""
    stream, known = torch.Generator().manual_seed(0), as_bytes(images.images)
    for shown in baseline.epochs():
        assert shown == [known[index] for index in torch.randperm(IMAGES, generator=stream).tolist()]


@pytest.mark.parametrize("name", ARMS)
class TestArm:
    def test_starts_from_the_baselines_weights_and_ends_elsewhere(self, trained, baseline, name):
        run = trained(name).run
        for network in ("discriminator", "generator"):
            first, last = (
                [
                    (one.path / f"checkpoints/epoch-{epoch:04d}/{network}.safetensors").read_bytes()
                    for one in (run, baseline.run)
                ]
                for epoch in (0, EPOCHS)
            )
            assert first[0] == first[1]
            assert last[0] != last[1]

    def test_is_given_the_baselines_noise_in_every_iteration(self, trained, baseline, name):
        latents = trained(name).latents
        assert len(latents) == len(baseline.latents) == EPOCHS * ITERATIONS
        for own, paired in zip(latents, baseline.latents, strict=True):
            assert torch.equal(own, paired)
        assert not torch.equal(latents[0], latents[ITERATIONS])  # fresh noise in every epoch

    def test_has_the_baselines_iterations_in_every_epoch(self, trained, baseline, name):
        arm = trained(name)
        assert len(arm.real) == len(baseline.real) == EPOCHS * ITERATIONS
        assert {len(batch) for batch in arm.real} == {BATCH}
        columns = ["epoch", "iterations", "images"]
        pd.testing.assert_frame_equal(arm.run.history[columns], baseline.run.history[columns])
        assert arm.run.history["iterations"].tolist() == [4, 8]
        assert arm.run.history["images"].tolist() == [128, 256]

    def test_sees_every_image_that_is_kept_in_turn_and_no_other(self, trained, runs_dir, images, name):
        epochs, keep = trained(name).epochs(), keep_of(tiny(ARMS[name]), runs_dir)
        known = as_bytes(images.images)
        assert len(set(known)) == IMAGES  # all unique, so that a deleted one would be noticed
        left = {image for image, stays in zip(known, keep, strict=True) if stays}
        assert BATCH <= len(left) < IMAGES
        assert len(epochs) == EPOCHS
        for shown in epochs:
            assert set(shown) == left
            often = Counter(shown).values()
            assert max(often) - min(often) <= 1  # in passes: none again before all have had their turn
            one_pass = shown[: len(left)]
            assert len(set(one_pass)) == len(left)
        assert epochs[0] != epochs[1]  # in another order

    def test_goes_over_the_images_in_another_order_in_every_pass(self, trained, runs_dir, name):
        shown = trained(name).epochs()[0]
        count = int(keep_of(tiny(ARMS[name]), runs_dir).sum())
        again = min(count, len(shown) - count)
        assert shown[count : count + again] != shown[:again]

    def test_its_manifest_tells_the_images_it_was_trained_on(self, trained, runs_dir, images, name):
        run, keep = trained(name).run, keep_of(tiny(ARMS[name]), runs_dir)
        manifest = json.loads((run.path / "manifest.json").read_text())
        assert manifest["status"] == "complete"
        assert manifest["train_images"] == keep.sum() < IMAGES
        assert manifest["data_sha256"] == data_hash(prune(images, keep)) != data_hash(images)
        assert run.config == tiny(ARMS[name])


def test_arms_of_one_seed_differ_in_their_images_alone(trained):
    finals = {
        (trained(name).run.path / "checkpoints/epoch-0002/generator.safetensors").read_bytes()
        for name in ARMS
    }
    assert len(finals) == len(ARMS)


def test_with_more_images_than_an_epoch_shows_none_is_shown_twice_in_it(tmp_path, images):
    config = tiny({"arm": "dose", "share": 0.1}, batch_size=50)  # 115 images are kept, an epoch shows 100
    arm = Recorded(config, tmp_path)
    left = {
        image
        for image, stays in zip(as_bytes(images.images), keep_of(config, tmp_path), strict=True)
        if stays
    }
    assert len(left) == 115
    batches = arm.real[-4:]  # those before are the baseline's
    for first, second in (batches[:2], batches[2:]):
        shown = [image.numpy().tobytes() for image in torch.cat([first, second])]
        assert len(set(shown)) == len(shown) == 100
        assert set(shown) <= left


def test_an_arm_may_be_trained_for_longer_than_its_baseline(runs_dir, trained):
    trained("dose 30 %")
    config = tiny(ARMS["dose 30 %"], epochs=3)
    run = train(config, runs_dir)
    assert run.epochs == [0, 1, 2, 3]
    assert load_run(runs_dir / config.baseline.name).epochs == [0, 1, 2]
    np.testing.assert_array_equal(keep_of(config, runs_dir), keep_of(tiny(ARMS["dose 30 %"]), runs_dir))


def test_a_complete_arm_is_loaded_without_its_baseline_or_selection(tmp_path, monkeypatch):
    config = tiny(ARMS["dose 30 %"])
    first = train(config, tmp_path)
    shutil.rmtree(tmp_path / config.baseline.name)
    (first.path / SELECTION).unlink()
    before = contents(tmp_path)
    monkeypatch.setattr(Objective, "step", forbidden)
    assert train(config, tmp_path).manifest == first.manifest
    assert contents(tmp_path) == before


# --- too few images


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"arm": "dose", "share": 0.9}, "dose 90 % leaves 13 of 128 training images"),
        ({"arm": "self-diagnosing", "share": 0.76}, "self-diagnosing 76 % leaves 31 of 128 training images"),
        ({"arm": "random", "tau": 1e-6, "cut": 1e-6}, "random leaves "),
    ],
    ids=["dose", "one too few", "the rule itself"],
)
def test_an_arm_that_leaves_less_than_a_batch_is_refused_before_it_is_begun(tmp_path, fields, said):
    config = tiny(fields)
    for _ in range(2):  # the second time from the stored selection
        message = refused(train, config, tmp_path)
        assert said in message
        assert (
            "of 128 training images, fewer than batch_size=32; choose a higher tau or cut, or a smaller share"
            in message
        )
        path = tmp_path / config.name
        assert {file.name for file in path.iterdir()} <= {SELECTION, ".lock"}
        assert "holds no training run" in refused(load_run, path, error=RunError)
    assert load_run(tmp_path / config.baseline.name).manifest["status"] == "complete"


def test_an_arm_that_leaves_a_batch_is_trained(trained, runs_dir):
    run = trained("dose 75 %").run
    assert keep_of(run.config, runs_dir).sum() == BATCH
    assert run.manifest["status"] == "complete"


# --- interrupted


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    "at_step", [6, 9, 14], ids=["in the baseline", "in the first epoch", "in the second epoch"]
)
def test_an_interrupted_arm_goes_on_to_the_bits_of_the_uninterrupted_one(
    tmp_path, trained, runs_dir, monkeypatch, at_step
):
    config, whole, done = tiny(ARMS["dose 30 %"]), trained("dose 30 %").run, []
    original = Objective.step

    def step(objective, real, latents, *labels):
        done.append(None)
        if len(done) == at_step:  # of 8 for the baseline and 8 for the arm
            raise Interrupted
        return original(objective, real, latents, *labels)

    monkeypatch.setattr(Objective, "step", step)
    with pytest.raises(Interrupted):
        train(config, tmp_path)
    path = tmp_path / config.name
    if at_step > 8:
        stopped = load_run(path)
        assert stopped.manifest["status"] == "partial"
        assert stopped.epochs == ([0] if at_step == 9 else [0, 1])
    else:
        assert not path.exists()
    run = train(config, tmp_path)
    assert len(done) == {6: 6 - 1 + 1 + 4 + 8, 9: 9 + 8, 14: 14 + 4}[at_step]  # no epoch is done again
    assert tensor_files(run) == tensor_files(whole)
    pd.testing.assert_frame_equal(without_times(run.history), without_times(whole.history))
    assert run.manifest["status"] == "complete"
    assert run.manifest["data_sha256"] == whole.manifest["data_sha256"]
    np.testing.assert_array_equal(keep_of(config, tmp_path), keep_of(config, runs_dir))


def test_an_interrupted_selection_is_made_anew(tmp_path, runs_dir, trained, monkeypatch):
    config = tiny(ARMS["dose 30 %"])
    trained("dose 30 %")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "select", interrupted)
        with pytest.raises(Interrupted):
            train(config, tmp_path)
    assert not (tmp_path / config.name / SELECTION).exists()
    again = selection(config, tmp_path)
    np.testing.assert_array_equal(again.keep, keep_of(config, runs_dir))


# --- the selection


def forbidden(*arguments):
    raise AssertionError("it is done again")


def interrupted(*arguments):
    raise Interrupted


class TestSelection:
    def test_trains_the_baseline_if_it_is_absent(self, tmp_path, baseline):
        config = tiny(ARMS["dose 30 %"])
        found = selection(config, tmp_path)
        run = load_run(tmp_path / tiny().name)
        assert run.manifest["status"] == "complete"
        assert tensor_files(run) == tensor_files(baseline.run)
        assert {entry.name for entry in tmp_path.iterdir()} == {tiny().name, config.name}
        assert found.deleted == 38
        assert not (tmp_path / config.name / "manifest.json").exists()  # the arm itself is not begun

    def test_is_made_once_and_then_read(self, tmp_path, monkeypatch):
        config = tiny(ARMS["dose 30 %"])
        first = selection(config, tmp_path)
        before = contents(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "select", forbidden)
            patch.setattr(Objective, "step", forbidden)
            again = selection(config, tmp_path)
        assert contents(tmp_path) == before
        assert again.epoch == first.epoch == EPOCHS
        assert again.keep.tolist() == first.keep.tolist()
        assert again.coverage.tolist() == first.coverage.tolist()
        monkeypatch.setattr(loop, "select", forbidden)
        assert train(config, tmp_path).manifest["train_images"] == first.keep.sum()

    def test_what_is_stored_is_what_is_trained_on(self, runs_dir, baseline, tmp_path, images):
        config = tiny(ARMS["random"])
        (tmp_path / config.name).mkdir()
        keep = np.arange(IMAGES) % 3 > 0
        Selection(keep, np.zeros(IMAGES), EPOCHS).save(tmp_path / config.name)
        arm = Recorded(config, tmp_path)
        assert {image for epoch in arm.epochs() for image in epoch} == set(as_bytes(images.images[keep]))
        assert not (tmp_path / config.baseline.name).exists()

    @pytest.mark.parametrize("call", [selection, train])
    def test_a_damaged_one_is_named(self, tmp_path, call):
        config = tiny(ARMS["dose 30 %"])
        (tmp_path / config.name).mkdir()
        path = tmp_path / config.name / SELECTION
        Selection(np.ones(IMAGES, dtype=bool), np.zeros(IMAGES), EPOCHS).save(path.parent)
        path.write_bytes(path.read_bytes()[:-1])
        assert f"{path} cannot be read" in refused(call, config, tmp_path, error=RunError)

    def test_of_another_number_of_images_is_refused_with_both_numbers(self, tmp_path):
        config = tiny(ARMS["dose 30 %"])
        (tmp_path / config.name).mkdir()
        Selection(np.ones(100, dtype=bool), np.zeros(100), EPOCHS).save(tmp_path / config.name)
        message = refused(train, config, tmp_path)
        assert "(100,)" in message
        assert "128 training images" in message

    @pytest.mark.parametrize("arm", ["rule70", "self-diagnosing 40 %"])
    def test_is_that_of_the_baselines_networks_on_all_images(self, runs_dir, baseline, images, arm):
        config = tiny(ARMS[arm] | {"statistics": "reference", "reference_images": 20, "evidence": "real"})
        found = selection(config, runs_dir)
        held_out = training_images(tiny(), "test").images
        explainer = RunExplainer(baseline.run, images.images[:20])
        expected = select(config.pruning, explainer, images, held_out, load_evaluator())
        assert found.keep.tolist() == expected.keep.tolist()
        assert found.coverage.tolist() == expected.coverage.tolist()
        assert len(found.keep) == IMAGES
        other = RunExplainer(baseline.run, images.images[:40])  # the number of reference images matters
        assert not np.array_equal(
            found.coverage, coverage_scores(config.pruning, other, images.images, EPOCHS)
        )

    def test_the_clearest_epoch_is_found_on_held_out_images(self, runs_dir, baseline, images, monkeypatch):
        config = tiny(ARMS["rule70"] | {"epoch": "clearest", "probe_images": 20})
        held_out, given = training_images(tiny(), "test").images, []

        def recording(*arguments):
            given.append(arguments)
            return select(*arguments)

        monkeypatch.setattr(loop, "select", recording)
        found = selection(config, runs_dir)
        ((_, _, scored, probes, _),) = given
        assert torch.equal(scored.images, images.images)
        assert torch.equal(probes, held_out)
        explainer = RunExplainer(baseline.run, images.images[:256])
        expected = select(config.pruning, explainer, images, held_out, load_evaluator())
        assert found.epoch == expected.epoch in (1, 2)
        assert found.keep.tolist() == expected.keep.tolist()

    def test_without_pruning_there_is_none(self, tmp_path):
        message = refused(selection, tiny(), tmp_path)
        assert "no pruning" in message
        assert "pruning={'arm': 'rule70'}" in message
        assert not list(tmp_path.iterdir())

    def test_leaves_torchs_settings(self, tmp_path):
        torch.set_num_threads(2)
        selection(tiny(ARMS["instance-selection 10 %"]), tmp_path)
        assert torch.get_num_threads() == 2
        assert torch.is_grad_enabled()


def test_an_arm_with_more_images_asked_for_than_there_are_is_refused_before_anything_is_made(tmp_path):
    message = refused(train, tiny(ARMS["rule70"], train_images=4001), tmp_path)
    assert "train_images=4001, but mnist-5k has 4000 training images" in message
    assert not list(tmp_path.iterdir())

"""Training on a part of the images: paired with the training on all of them, and as safe as any run."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import refused, tiny

from gradcam_gan.data import ImageSet, data_hash, to_model_range
from gradcam_gan.training.loop import prune, run_name, train, training_images
from gradcam_gan.training.objective import DCGANObjective
from gradcam_gan.training.runs import load_run

IMAGES, BATCH, EPOCHS = 128, 32, 2
ITERATIONS = IMAGES // BATCH
CONFIG = tiny(train_images=IMAGES, batch_size=BATCH, epochs=EPOCHS)


def keeping(count):
    """So many of the images, some order of passes for each."""
    return np.random.default_rng(0).permutation(IMAGES) < count


class Recorded:
    """A training, and what its steps were given: real images and latents of every iteration."""

    def __init__(self, config, runs_dir, keep=None):
        self.real, self.latents = [], []
        original = DCGANObjective.step

        def step(objective, real, latents):
            self.real.append(real.clone())
            self.latents.append(latents.clone())
            return original(objective, real, latents)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DCGANObjective, "step", step)
            self.run = train(config, runs_dir, keep)

    def epochs(self):
        """The images of each epoch, as bytes."""
        shown = as_bytes(torch.cat(self.real))
        return [shown[: len(shown) // 2], shown[len(shown) // 2 :]]


def as_bytes(images):
    return [image.numpy().tobytes() for image in images]


def tensor_files(run):
    """Bytes of every file of weights and of training state, by name."""
    paths = run.path.glob("checkpoints/*/*.safetensors")
    return {str(path.relative_to(run.path)): path.read_bytes() for path in paths}


def without_times(history):
    return history.drop(columns=["seconds", "images_per_second"])


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def baseline(runs_dir):
    return Recorded(CONFIG, runs_dir)


@pytest.fixture(scope="module")
def images():
    return training_images(CONFIG)


@pytest.mark.parametrize("keep", [np.ones(IMAGES, dtype=bool), torch.ones(IMAGES, dtype=torch.bool)])
def test_a_run_that_keeps_all_images_has_the_bits_of_one_without_a_list(tmp_path, baseline, keep):
    run = train(CONFIG, tmp_path, keep)
    assert tensor_files(run) == tensor_files(baseline.run)
    assert len(tensor_files(run)) == 2 * 3 + 2  # both networks at every epoch, and two training states
    pd.testing.assert_frame_equal(without_times(run.history), without_times(baseline.run.history))
    assert run.path.name != baseline.run.path.name


@pytest.mark.parametrize("count", [115, 90, 64, 51, 32])  # more, exactly and fewer than half; a single batch
def test_a_pruned_run_differs_from_its_baseline_in_its_images_alone(tmp_path, baseline, images, count):
    keep = keeping(count)
    pruned = Recorded(CONFIG, tmp_path, keep)
    first, last = (
        [tensor_files(one)[f"checkpoints/epoch-{epoch:04d}/generator.safetensors"] for epoch in (0, EPOCHS)]
        for one in (pruned.run, baseline.run)
    )
    assert first[0] == last[0]  # the same weights at the start
    assert first[1] != last[1]
    assert torch.equal(torch.stack(pruned.latents), torch.stack(baseline.latents))
    assert [len(batch) for batch in pruned.real] == [BATCH] * EPOCHS * ITERATIONS
    columns = ["epoch", "iterations", "images"]
    pd.testing.assert_frame_equal(pruned.run.history[columns], baseline.run.history[columns])
    assert pruned.run.manifest["train_images"] == count
    assert pruned.run.manifest["data_sha256"] == data_hash(prune(images, keep)) != data_hash(images)
    assert load_run(tmp_path / run_name(CONFIG, keep)).config == CONFIG


@pytest.mark.parametrize("count", [115, 90, 64, 51, 32])
def test_the_images_that_are_kept_are_shown_in_turn_and_no_other(tmp_path, images, count):
    keep = keeping(count)
    left = set(as_bytes(to_model_range(images.images[keep])))
    assert len(left) == count  # all unique, so that a deleted one would be noticed
    epochs = Recorded(CONFIG, tmp_path, keep).epochs()
    for shown in epochs:
        assert set(shown) == left
        often = Counter(shown).values()
        assert max(often) - min(often) <= 1  # in passes: none again before all have had their turn
        assert len(set(shown[:count])) == count
    again = min(count, IMAGES - count)
    assert epochs[0] != epochs[1]
    assert epochs[0][count : count + again] != epochs[0][:again]  # another order in every pass


def test_with_more_images_than_an_epoch_shows_none_is_shown_twice_in_it(tmp_path):
    for shown in Recorded(CONFIG.changed(batch_size=50), tmp_path, keeping(115)).epochs():
        assert len(set(shown)) == len(shown) == 100


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("at_step", "saved"), [(2, [0]), (6, [0, 1])])
def test_an_interrupted_pruned_run_goes_on_to_the_bits_of_the_uninterrupted_one(
    tmp_path, monkeypatch, at_step, saved
):
    keep, done = keeping(90), []
    whole = train(CONFIG, tmp_path / "whole", keep)
    original = DCGANObjective.step

    def step(objective, real, latents):
        done.append(None)
        if len(done) == at_step:
            raise Interrupted
        return original(objective, real, latents)

    monkeypatch.setattr(DCGANObjective, "step", step)
    with pytest.raises(Interrupted):
        train(CONFIG, tmp_path, keep)
    stopped = load_run(tmp_path / run_name(CONFIG, keep))
    assert (stopped.manifest["status"], stopped.epochs) == ("partial", saved)
    run = train(CONFIG, tmp_path, keep)
    assert tensor_files(run) == tensor_files(whole)
    pd.testing.assert_frame_equal(without_times(run.history), without_times(whole.history))
    assert run.manifest["data_sha256"] == whole.manifest["data_sha256"]


def test_another_list_is_another_run_in_whatever_form_it_comes():
    keep = keeping(90)
    names = {run_name(CONFIG, form) for form in (keep, torch.from_numpy(keep))}
    names |= {run_name(CONFIG), run_name(CONFIG, ~keep)}
    assert len(names) == 3


class TestRefused:
    images = ImageSet(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.arange(6), list("abcdef"))

    @pytest.mark.parametrize(
        ("keep", "kind"),
        [
            (np.ones(5, dtype=bool), "(5,)"),
            (np.ones((6, 1), dtype=bool), "(6, 1)"),
            (np.array([1, 0, 0, 1, 1, 0]), "int64"),  # as indices these would be images 0 and 1
            (torch.ones(6), "float32"),
        ],
        ids=["too short", "a column", "indices", "floats"],
    )
    def test_what_is_no_keep_list(self, keep, kind):
        message = refused(prune, self.images, keep)
        assert kind in message
        assert "must be bool, one value for each of the 6 training images" in message

    def test_less_than_a_batch_before_anything_is_made(self, tmp_path):
        message = refused(train, CONFIG, tmp_path, keeping(31))
        assert message == "the keep list leaves 31 of 128 training images, fewer than batch_size=32"
        assert not list(tmp_path.iterdir())

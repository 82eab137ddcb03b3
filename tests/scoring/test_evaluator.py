import copy
import hashlib
import os
import threading
import time

import pytest
import torch
from helpers import refused
from safetensors.torch import save
from torch import nn

from gradcam_gan.data import ImageSet, load_images, to_model_range
from gradcam_gan.scoring import evaluator as module
from gradcam_gan.scoring.evaluator import (
    DIGIT_EVALUATOR,
    DIGIT_EVALUATOR_SHA256,
    Evaluator,
    accuracy,
    evaluator_for,
    load_evaluator,
    resized,
    save_evaluator,
    train_evaluator,
)


@pytest.fixture(scope="module")
def packaged():
    return load_evaluator()


@pytest.fixture(scope="module")
def held_out():
    return load_images("mnist-5k", 64, "test")


def halves(count, *, channels=1, seed=0):
    """Two classes: noise with a bright left half, and with a bright right half."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 100, (count, channels, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 2
    images[labels == 0, :, :, :8] += 120
    images[labels == 1, :, :, 8:] += 120
    return ImageSet(images, labels, ["left", "right"])


def called(function, *arguments):
    with torch.inference_mode():
        return function(*arguments)


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def no_training(*arguments, **options):
    raise AssertionError("trained")


class TestPackaged:
    def test_the_file_is_small_and_the_one_that_the_code_names(self):
        content = DIGIT_EVALUATOR.read_bytes()
        assert len(content) <= 600_000
        assert hashlib.sha256(content).hexdigest() == DIGIT_EVALUATOR_SHA256

    @pytest.mark.parametrize("size", [64, 28])
    def test_it_reads_held_out_digits(self, packaged, size):
        assert accuracy(packaged, load_images("mnist-5k", size, "test")) >= 0.99

    @pytest.mark.skipif("GRADCAM_GAN_MNIST" not in os.environ, reason="GRADCAM_GAN_MNIST names no data")
    def test_it_reads_the_test_split_of_full_mnist(self, packaged):
        digits = load_images("mnist", 64, "test", os.environ["GRADCAM_GAN_MNIST"])
        assert len(digits.images) == 10_000
        assert accuracy(packaged, digits) >= 0.99

    def test_features_are_standardised_on_digits(self, packaged):
        features = called(packaged.features, load_images("mnist-5k", 64).images[::4])
        assert features.shape == (1000, 64)
        assert features.isfinite().all()
        torch.testing.assert_close(features.mean(0), torch.zeros(64), atol=0.15, rtol=0)
        torch.testing.assert_close(features.std(0), torch.ones(64), atol=0.1, rtol=0)
        assert packaged.deviation.min() != packaged.deviation.max()  # it is the buffers that do this


class TestInputs:
    def test_integers_and_the_models_range_agree(self, packaged, held_out):
        images = held_out.images[:10]
        expected = called(packaged.features, images)
        torch.testing.assert_close(called(packaged.features, to_model_range(images)), expected)
        torch.testing.assert_close(called(packaged.features, to_model_range(images).double()), expected)

    def test_images_come_at_32_pixels_with_their_values(self):
        images = torch.rand(3, 2, 32, 32) * 2 - 1
        assert torch.equal(resized(images), images)
        for size in (8, 28, 64, 100):
            flat = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, size, size)
            expected = torch.tensor([-1, -0.6, 1]).view(3, 1, 1, 1).expand(3, 1, 32, 32)
            torch.testing.assert_close(resized(flat), expected)

    def test_a_reduced_image_keeps_no_pattern_finer_than_its_pixels(self):
        lines = (torch.arange(96) % 2 * 255).to(torch.uint8).expand(1, 1, 96, 96)
        assert resized(lines).abs().max() < 0.2

    def test_standardisation_changes_features_and_not_logits(self, packaged, held_out):
        images, other = held_out.images[:10], copy.deepcopy(packaged)
        other.mean += 2
        other.deviation *= torch.linspace(1, 3, 64)
        features = called(packaged.features, images)
        expected = (features * packaged.deviation + packaged.mean - other.mean) / other.deviation
        torch.testing.assert_close(called(other.features, images), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(called(other, images), called(packaged, images), atol=1e-3, rtol=1e-3)


def test_accuracy_is_the_share_of_all_images():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    model[1].weight.data = torch.tensor([[-1.0], [1.0]])
    labels = torch.arange(2500) % 2
    images = (2.0 * labels - 1).view(-1, 1, 1, 1)
    images[2100:] *= -1  # the wrong ones all in the last, short batch
    assert accuracy(model, ImageSet(images, labels, ["dark", "bright"])) == pytest.approx(0.84)


class TestFiles:
    @pytest.mark.parametrize("shape", [(10, 1), (3, 3)])
    def test_what_was_saved_is_loaded(self, tmp_path, shape):
        model = Evaluator(*shape).eval()
        model.mean.fill_(0.5)
        model.deviation.uniform_(1, 2)
        save_evaluator(model, tmp_path / "c.safetensors")
        loaded = load_evaluator(tmp_path / "c.safetensors", None)
        assert same_weights(loaded, model)
        assert not any(part.training for part in loaded.modules())
        images = torch.rand(4, shape[1], 20, 20) * 2 - 1
        assert called(loaded, images).shape == (4, shape[0])
        torch.testing.assert_close(called(loaded.features, images), called(model.features, images))
        torch.testing.assert_close(called(loaded, images), called(model, images))

    def test_another_file_than_expected_is_refused(self, tmp_path, packaged):
        path, other = tmp_path / "digits.safetensors", copy.deepcopy(packaged)
        other.mean += 1
        save_evaluator(other, path)
        message = refused(load_evaluator, path)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        for part in (str(path), found, DIGIT_EVALUATOR_SHA256):
            assert part in message
        assert same_weights(load_evaluator(path, found), other)
        assert found in refused(load_evaluator, path, "0" * 64)

    @pytest.mark.parametrize(
        "content",
        [b"", DIGIT_EVALUATOR.read_bytes()[:-1], save({"weights": torch.zeros(3)}),
         save({**Evaluator(2).state_dict(), "head.weight": torch.zeros(2, 5)})],
        ids=["empty", "a byte short", "other tensors", "another shape"],
    )  # fmt: skip
    def test_what_holds_no_evaluator_is_refused(self, tmp_path, content):
        path = tmp_path / "e.safetensors"
        assert f"{path} cannot be read: No such file" in refused(load_evaluator, path)
        path.write_bytes(content)
        message = refused(load_evaluator, path, None)
        assert str(path) in message
        assert "delete it to train it again" in message


class TestTraining:
    def test_it_learns_an_easy_problem(self):
        training = halves(256)
        model = train_evaluator(training, epochs=3)
        assert accuracy(model, halves(100, seed=1)) >= 0.95
        assert not any(part.training for part in model.modules())
        # standardised over the images as they are
        features = called(model.features, training.images)
        torch.testing.assert_close(features.mean(0), torch.zeros(64), atol=1e-3, rtol=0)
        torch.testing.assert_close(features.std(0), torch.ones(64), atol=1e-3, rtol=0)

    def test_the_seed_alone_decides_the_weights(self):
        training = halves(48, channels=3)
        before, images = torch.random.get_rng_state(), training.images.clone()
        first, other = (train_evaluator(training, epochs=1, seed=seed) for seed in (3, 4))
        assert not same_weights(first, other)
        load_evaluator()
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.equal(training.images, images)
        torch.rand(3)  # nor does the state matter
        assert same_weights(train_evaluator(training, epochs=1, seed=3), first)

    def test_images_of_one_class_are_told_apart_by_their_turns(self):
        bright = torch.zeros(64, 1, 32, 32, dtype=torch.uint8)
        bright[..., :16] = 200  # the left half
        one = ImageSet(bright, torch.zeros(64, dtype=torch.int64), ["cats"])
        model = train_evaluator(one, epochs=4)
        seen = [int(model(bright[:1].rot90(quarters, (2, 3))).argmax()) for quarters in range(4)]
        assert seen == [0, 1, 2, 3]


class TestEvaluatorFor:
    @pytest.mark.parametrize("data", ["mnist-5k", "mnist"])
    def test_digits_have_the_packaged_one(self, tmp_path, monkeypatch, packaged, data):
        monkeypatch.setattr(module, "train_evaluator", no_training)
        assert same_weights(evaluator_for(data, halves(48), tmp_path / "evaluators"), packaged)
        assert list(tmp_path.iterdir()) == []

    def test_other_data_are_learned_once(self, tmp_path, monkeypatch):
        folder = tmp_path / "runs" / "evaluators"
        first = evaluator_for("folder:halves", halves(24), folder)
        (path,) = folder.glob("*.safetensors")
        assert same_weights(load_evaluator(path, None), first)
        assert same_weights(first, train_evaluator(halves(24)))

        monkeypatch.setattr(module, "train_evaluator", no_training)
        assert same_weights(evaluator_for("folder:elsewhere", halves(24), folder), first)
        relabelled = halves(24)._replace(labels=halves(24).labels.flip(0))
        for others in (halves(24, seed=1), relabelled):
            with pytest.raises(AssertionError, match="trained"):
                evaluator_for("folder:halves", others, folder)
        path.write_bytes(path.read_bytes()[:2000])
        assert str(path) in refused(evaluator_for, "folder:halves", halves(24), folder)

    def test_two_at_once_learn_once(self, tmp_path, monkeypatch):
        trained, found = [], []

        def slow(training, *, device):
            trained.append(device)
            time.sleep(0.3)
            return Evaluator(2)

        monkeypatch.setattr(module, "train_evaluator", slow)
        threads = [
            threading.Thread(target=lambda: found.append(evaluator_for("folder:x", halves(24), tmp_path)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert trained == ["cpu"]
        assert same_weights(*found)

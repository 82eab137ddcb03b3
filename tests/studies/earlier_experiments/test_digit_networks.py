"""Small networks of digits: they learn, and the same one is trained once."""

from dataclasses import replace

import pytest
import torch

from gradcam_gan.explaining.cam import explain
from gradcam_gan.explaining.targets import class_logit
from gradcam_gan.studies.earlier_experiments import digit_networks
from gradcam_gan.studies.earlier_experiments.digit_networks import (
    CONVOLUTION,
    RECTIFIED,
    DigitTraining,
    digit_network,
    outputs_of,
    train_digit_network,
)

HOW = DigitTraining(seed=0, epochs=1, precision="float32", device="cpu", threads=1)


@pytest.fixture(scope="module")
def images():
    """Noise of two brightnesses, learned in a moment, and which it is."""
    noise = torch.randint(0, 128, (256, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    bright = torch.arange(256) % 2
    return (noise + 127 * bright[:, None, None, None]).to(torch.uint8), bright


def same(first, second):
    weights = [network.state_dict() for network in (first, second)]
    return all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_learns_classes_and_numbers(images):
    shown, bright = images
    classifier = train_digit_network(replace(HOW, epochs=4), shown, bright)
    assert not classifier.training
    assert (outputs_of(classifier, shown).argmax(1) == bright).all()
    numbers = torch.stack([bright, 1 - 2 * bright], 1).float()
    predicted = outputs_of(train_digit_network(replace(HOW, epochs=12), shown, numbers), shown)
    assert (predicted - numbers).square().mean() < 0.1 * numbers.var()


def test_the_same_training_is_kept_and_any_other_is_another(images, tmp_path, monkeypatch):
    shown, bright = images
    trained = digit_network(HOW, shown, bright, tmp_path)
    torch.manual_seed(1)  # the caller's random state decides nothing
    assert same(trained, train_digit_network(HOW, shown, bright))
    monkeypatch.setattr(digit_networks, "train_digit_network", None)  # whatever comes now must have been kept
    assert same(trained, digit_network(HOW, shown, bright, tmp_path))
    assert same(trained, digit_network(replace(HOW, threads=2), shown, bright, tmp_path))
    monkeypatch.undo()
    changed, other = shown.clone(), bright.clone()
    changed[0, 0, 0, 0] ^= 1
    other[0] ^= 1
    for arguments in (
        (replace(HOW, seed=1), shown, bright),
        (replace(HOW, epochs=2), shown, bright),
        (HOW, changed, bright),
        (HOW, shown, other),
    ):
        assert not same(trained, digit_network(*arguments, tmp_path))
    assert len([path for path in (tmp_path / "digit_networks").iterdir() if path.is_dir()]) == 5


def test_its_layers_are_the_last_convolution_and_what_its_relu_gives(images):
    shown, bright = images
    network = train_digit_network(HOW, shown, bright)
    layers = dict(network.named_modules())
    assert isinstance(layers[CONVOLUTION], torch.nn.Conv2d)
    assert [name for name, part in layers.items() if isinstance(part, torch.nn.Conv2d)][-1] == CONVOLUTION
    assert isinstance(layers[RECTIFIED], torch.nn.ReLU)
    for layer in (CONVOLUTION, RECTIFIED):
        assert explain(network, shown[:2], target=class_logit(1), layer=layer, upsample=False).shape == (
            2,
            8,
            8,
        )

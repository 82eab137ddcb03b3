"""What several test files share."""

import warnings

import matplotlib as mpl
import pytest
import torch
from torch import nn

from gradcam_gan.errors import InputError
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig


def refused(call, *arguments, error=InputError, **named):
    """The message of the error that this call causes; it must be one line without a cause above it."""
    with pytest.raises(error) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__cause__ is None
    return message


def randomised(network, seed=0):
    """Random weights of trained size and random BatchNorm statistics, so that no layer is near trivial."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        scale = 1.0 if parameter.ndim == 1 or "_embedding" in name else parameter[0].numel() ** -0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.2)
    return network.eval()


def tiny(**changes):
    """A training of a second or less, with some fields changed."""
    fields = {
        "preset": "paper28",
        "width": 2,
        "epochs": 2,
        "train_images": 64,
        "batch_size": 32,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
    }
    return TrainingConfig(**fields | changes)


def replace_weights(run, epoch, name, tensors):
    """Put other tensors into a checkpoint, as if the training had saved them: with their checksum."""
    folder = run.path / f"checkpoints/epoch-{epoch:04d}"
    record = files.read_json(folder / "epoch.json")
    record["sha256"][f"{name}.safetensors"] = files.write_tensors(folder / f"{name}.safetensors", tensors)
    files.write_json(folder / "epoch.json", files.sealed(record))


def draw(function, *arguments, **options):
    """The figure, drawn, with warnings as errors and rcParams checked before and after."""
    before = mpl.rcParams.copy()
    with warnings.catch_warnings(action="error"):
        figure = function(*arguments, **options)
        figure.canvas.draw()
    assert mpl.rcParams == before
    return figure


def assert_nothing_is_cut_off(figure, widest, tick_sizes=(7.0,)):
    """All of a drawn figure lies on its page, and tick labels have the style's size or those given."""
    drawn, page = figure.get_tightbbox(), figure.get_size_inches()
    slack = 0.02  # inches
    assert min(drawn.x0, drawn.y0) >= -slack
    assert drawn.x1 <= page[0] + slack
    assert drawn.y1 <= page[1] + slack
    assert page[0] <= widest
    for axes in figure.axes:
        sizes = {label.get_fontsize() for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]}
        assert sizes <= set(tick_sizes)


def texts(labels):
    """Of matplotlib's labels, those that are not empty."""
    return [label.get_text() for label in labels if label.get_text()]


def legend_of(axes):
    return texts(axes.get_legend().get_texts())

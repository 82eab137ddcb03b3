"""What several test files share."""

import pytest
import torch
from torch import nn

from gradcam_gan.errors import InputError
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

"""The networks that a configuration names."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from gradcam_gan.models.contrastive import ContrastiveClassifier
from gradcam_gan.models.dcgan import Discriminator, Generator
from gradcam_gan.training.config import TrainingConfig


def network_builders(
    config: TrainingConfig, channels: int, classes: int
) -> dict[str, Callable[[], nn.Module]]:
    """What builds each network that learns, freshly initialised from torch's global random state, in their order.

    Args:
        config: the run.
        channels: of the images.
        classes: how many; not used by an unconditional model.
    """
    parts = config.parts
    told = classes if parts.conditional else 0
    size: dict[str, Any] = {"preset": config.preset, "width": config.width, "channels": channels}
    judge = {**size, "padding": config.padding, "normalisation": parts.normalisation}
    timed = parts.diffusion is not None
    builders: dict[str, Callable[[], nn.Module]] = {
        "discriminator": partial(Discriminator, **judge, classes=told, timed=timed),
        "generator": partial(Generator, **size, classes=told),
    }
    if parts.classifier is not None:
        builders["classifier"] = partial(ContrastiveClassifier, **judge, classes=classes)
    return builders

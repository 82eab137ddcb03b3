"""The layers of a network that a map can be made at."""

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from gradcam_gan.data import check_images
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.batches import batches, evaluating


def spatial_layers(network: nn.Module, images: Tensor) -> list[str]:
    """The layers that a map can be made at, in the order in which they run.

    Args:
        network: where it has names of its own (``named_layers``), those are meant, else dotted module names.
        images: one or more, (N, C, H, W), uint8 or in [-1, 1].

    Returns:
        Names for ``layer`` of modules that run once and give (N, C, h, w) of more than one place.

    Raises:
        InputError: images that the network does not take, or it has no such layer.
    """
    if isinstance(named := getattr(network, "named_layers", None), Mapping):
        return list(named)
    check_images(images)
    found: list[str] = []

    def keep(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            found.append(name)

    with torch.no_grad(), evaluating(network), ExitStack() as hooks:
        (batch,) = batches(network, images, len(images))
        for name, module in network.named_modules():
            if name:
                hook = module.register_forward_hook(lambda _m, _i, output, name=name: keep(name, output))
                hooks.enter_context(hook)
        batch.output(network)
    layers = [name for name in found if found.count(name) == 1]
    if not layers:
        raise InputError(
            f"{type(network).__name__} has no layer that runs once and gives (N, C, h, w): no map can be made of it"
        )
    return layers

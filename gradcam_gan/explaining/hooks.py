"""A layer of a network, found by name, and a hold on what it gives during a forward pass."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gradcam_gan.errors import InputError
from gradcam_gan.validation import did_you_mean

NAMES_SHOWN = 12  # in an error message

Layer = str | nn.Module


def find_layer(network: nn.Module, layer: Layer) -> tuple[str, nn.Module]:
    """Name and module of a layer.

    Args:
        network: may have names of its own, ``named_layers`` (name -> module), which go before dotted ones.
        layer: such a name, a dotted module name, or a module of the network.

    Raises:
        InputError: the network has no such layer.
    """
    named = getattr(network, "named_layers", None)
    modules = dict(named) if isinstance(named, Mapping) else {}
    for name, module in network.named_modules(remove_duplicate=False):
        modules.setdefault(name, module)
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer:
                return name, module
        raise InputError(
            f"layer={type(layer).__name__}(...) is no module of this {type(network).__name__}; "
            f"give one of its own (not a copy's) or a name: {_some(modules)}"
        )
    if not isinstance(layer, str) or layer not in modules:
        raise InputError(
            f"layer={layer!r} is unknown in this {type(network).__name__}; "
            f"{did_you_mean(layer, modules)}one of {_some(modules)}"
        )
    return layer, modules[layer]


class Recording:
    """The activations of one layer in a forward pass, in the graph of all that comes after.

    Gradients are on from the layer to the end of the caller's ``torch.no_grad()``: nothing before it needs a graph. The
    first of several recorded layers gives the graph its leaves, a later one is a part of it.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self._activations: Tensor | None = None

    def keep(self, _module: nn.Module, _inputs: object, output: object) -> Tensor:
        """The layer's forward hook: record an output, and pass it on.

        Raises:
            InputError: no map can be made of it, or the layer has run before in this pass.
        """
        if not isinstance(output, Tensor) or output.ndim != 4:
            kind = f"a {type(output).__name__}"
            if isinstance(output, Tensor):
                kind = f"shape {tuple(output.shape)}"
            raise InputError(
                f"layer={self.layer!r} gives {kind}, which has no spatial extent; "
                "choose a layer that gives (N, C, h, w)"
            )
        if output.shape[2] * output.shape[3] == 1:
            raise InputError(
                f"layer={self.layer!r} gives a 1x1 map: one number an image, which any normalisation turns into zeros "
                "(pytorch-grad-cam issue 444); choose an earlier layer, such as the activation before the head"
            )
        if self._activations is not None:
            raise InputError(
                f"layer={self.layer!r} runs more than once in a forward pass, so its activations are ambiguous; "
                "choose a layer that runs once"
            )
        torch.set_grad_enabled(True)
        self._activations = output if output.requires_grad else output.detach().requires_grad_()
        # a copy goes on, for 1 % of a pass: an in-place activation would overwrite what is recorded
        return self._activations.clone()

    def take(self) -> Tensor:
        """What this pass has recorded; the next may begin.

        Raises:
            InputError: the layer has not run.
        """
        activations, self._activations = self._activations, None
        if activations is None:
            raise InputError(
                f"layer={self.layer!r} is never called in the forward pass; choose a layer that runs "
                "(of a compiled model give the original)"
            )
        return activations


def _some(names: Iterable[str]) -> str:
    """The first few names for an error message, and how many more there are."""
    named = [name for name in names if name]
    rest = len(named) - NAMES_SHOWN
    return ", ".join(named[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

"""Images as a network takes them: in batches, in the memory layout that suits it, each with what it is told."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradcam_gan.data import to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.targets import PerImage, Target, real

Conditions = Mapping[str, Tensor]  # what a network takes beside images, by the name of its argument


class Batch(NamedTuple):
    """Some of the images, and what goes with them.

    Attributes:
        images: (n, C, H, W) in [-1, 1], of the network's dtype and on its device.
        conditions: likewise, (n, ...) each.
        target: of these images.
    """

    images: Tensor
    conditions: Conditions
    target: Target

    def output(self, network: nn.Module) -> Any:  # noqa: ANN401 - whatever the network returns
        """The network's output: the one place where it is called."""
        return network(self.images, **self.conditions)

    def scores(self, network: nn.Module) -> Tensor:
        """The target's number for each image, float32 (n,).

        Raises:
            InputError: the target gives something else, or refuses the output.
        """
        scores = self.target(self.output(network))
        count = len(self.images)
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        if not isinstance(scores, Tensor) or shape != (count,):
            raise InputError(
                f"the target makes {shape} of the output of {type(network).__name__} for {count} images; "
                "it must give one number each, (N,)"
            )
        return scores.float()

    def versions(self, images: Tensor, indices: Tensor) -> "Batch":
        """Altered copies of some of the images, each told what the image it is made of is told.

        Args:
            images: (m, C, H, W).
            indices: which of the batch's images each is made of, (m,).
        """
        return Batch(images, *told(self.conditions, self.target, indices))


def told(
    conditions: Conditions, target: Target, chosen: slice | Tensor, device: torch.device | None = None
) -> tuple[Conditions, Target]:
    """The conditions and the target of some images: a slice of all, or indices (m,); on a device, or where they are."""
    if isinstance(target, PerImage):
        target = PerImage(target.function, target.values[chosen].to(device=device))
    return {name: values[chosen].to(device=device) for name, values in conditions.items()}, target


def batches(
    network: nn.Module,
    images: Tensor,
    batch_size: int,
    conditions: Conditions | None = None,
    target: Target = real,
    *,
    noised: bool = False,
) -> Iterator[Batch]:
    """The images in batches whose sizes differ by at most one, each made when it is asked for.

    The network is run on two images at once, to find its layout: call this where it may be run (``evaluating``).

    Args:
        network: whose first floating-point parameter gives device and dtype.
        images: (N, C, H, W), checked (``check_images``).
        batch_size: the most images in a batch.
        conditions: as for ``explain``.
        target: as for ``explain``.
        noised: the images were diffused. Those of one channel then stay in the default layout: convolutions round
            differently in either, and published maps of diffused images were made in that one.

    Raises:
        InputError: a batch size below 1, a condition or a target that has not one value an image, or a network that
            cannot be run on these images.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1")
    conditions = conditions or {}
    for name, values in conditions.items():
        check_count(f"conditions[{name!r}]", values, images)
    if isinstance(target, PerImage):
        check_count("target", target.values, images)
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    device = images.device if parameter is None else parameter.device
    dtype = torch.float32 if parameter is None else parameter.dtype

    def make(own: slice, layout: torch.memory_format) -> Batch:
        batch = images.detach()[own].to(device)
        batch = to_model_range(batch).to(dtype)
        if noised:
            batch = batch.contiguous(memory_format=layout)
        else:  # filled, not converted: that takes one channel to be in either layout, convolutions do not
            batch = torch.empty_like(batch, memory_format=layout).copy_(batch)
        return Batch(batch, *told(conditions, target, own, device))

    layout = _layout(network, partial(make, slice(2)))
    # indices of the parts, so that all that goes with an image is split alike
    parts = torch.arange(len(images)).tensor_split(-(-len(images) // batch_size))
    return (make(slice(int(part[0]), int(part[-1]) + 1), layout) for part in parts)


def score_images(
    network: nn.Module,
    images: Tensor,
    batch_size: int,
    conditions: Conditions | None = None,
    target: Target = real,
) -> Tensor:
    """The target's number for each image in eval mode, float32 (n,), without a graph: arguments as for ``batches``."""
    with torch.no_grad(), evaluating(network):
        parts = batches(network, images, batch_size, conditions, target)
        return torch.cat([batch.scores(network) for batch in parts])


def _layout(network: nn.Module, few: Callable[[torch.memory_format], Batch]) -> torch.memory_format:
    """channels_last, 1.1 to 1.4 times the rate of the default layout on a CPU, if the network can be run in it.

    One that calls ``.view`` on its features cannot. Two images are tried: statistics of a batch may need two.

    Raises:
        InputError: the network cannot be run in either layout.
    """
    for layout in (torch.channels_last, torch.contiguous_format):
        batch = few(layout)
        try:
            with torch.no_grad():
                batch.output(network)
        except torch.OutOfMemoryError:
            raise
        except InputError:  # the run itself says what is wrong, of all images
            return layout
        except RuntimeError as error:
            problem = error
        else:
            return layout
    raise InputError(
        f"{type(network).__name__} cannot be run on these images ({str(problem).splitlines()[0]}); "
        "give images of the size and channels it was built for"
    ) from problem


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the ``with`` block; then each submodule's own training flag again."""
    flags = {part: part.training for part in module.modules()}
    try:
        for part in flags:
            part.training = False  # not eval(): a module may do more in an eval() or train() of its own
        yield
    finally:
        for part, flag in flags.items():
            part.training = flag


def eval_copy(network: nn.Module) -> nn.Module:
    """A deep copy in eval mode."""
    # Old-style spectral and weight norm keep a computed weight, which deepcopy refuses as part of a graph.
    computed = {
        id(value): value.detach().clone()
        for module in network.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(network, computed).eval()


def check_count(name: str, values: Tensor, images: Tensor) -> None:
    """Refuse values that are not one an image."""
    if len(values) != len(images):
        raise InputError(f"{name} has {len(values)} values for {len(images)} images; give one for each")

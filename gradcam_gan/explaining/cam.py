"""Grad-CAM and HiResCAM for a discriminator: where in the image is the evidence for its logit?

Both need the activations A of one layer and the gradient of the logit with respect to them. Only the part of
the network after that layer needs a graph: everything before it runs as a plain forward pass, and no gradient
of a parameter is ever computed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Literal, TypeVar, get_args, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.data import check_images, to_model_range
from gradcam_gan.errors import InputError

Method = Literal["gradcam", "hirescam"]
Evidence = Literal["real", "fake", "signed"]
Precision = Literal["float32", "bfloat16"]
Layer = str | nn.Module
Conditions = Mapping[str, Tensor]  # what a discriminator takes beside images, by the name of its argument
Result = TypeVar("Result")

NAMES_SHOWN = 12  # in an error message


@overload
def explain(
    discriminator: nn.Module,
    images: Tensor,
    *,
    method: Method = ...,
    layer: Layer = ...,
    evidence: Evidence = ...,
    batch_size: int = ...,
    upsample: bool = ...,
    precision: Precision = ...,
    conditions: Conditions | None = ...,
) -> Tensor: ...


@overload
def explain(
    discriminator: nn.Module,
    images: Tensor,
    *,
    method: Method = ...,
    layer: list[str] | list[nn.Module] | list[Layer] | tuple[Layer, ...],
    evidence: Evidence = ...,
    batch_size: int = ...,
    upsample: bool = ...,
    precision: Precision = ...,
    conditions: Conditions | None = ...,
) -> dict[str, Tensor]: ...


def explain(
    discriminator: nn.Module,
    images: Tensor,
    *,
    method: Method = "gradcam",
    layer: Layer | list[str] | list[nn.Module] | list[Layer] | tuple[Layer, ...] = "block3",
    evidence: Evidence = "real",
    batch_size: int = 256,
    upsample: bool = True,
    precision: Precision = "float32",
    conditions: Conditions | None = None,
) -> Tensor | dict[str, Tensor]:
    """Unnormalised maps of the evidence that a discriminator's logit rests on, one an image.

    With A the activations (C, h, w) of the layer and G the gradient of the logit with respect to them:

    - ``gradcam``: sum_k mean_ij(G_k) A_k (Selvaraju et al. 2017, equations 1 and 2 before the ReLU);
    - ``hirescam``: sum_k G_k A_k (Draelos & Carin 2020): no averaging of the gradient. Where only a
      linear head follows the layer, the map (``evidence="signed", upsample=False``) sums to the logit minus
      the head's bias.

    At the last block of this package's discriminators the head is linear, so the gradient, and with it every
    Grad-CAM channel weight, is the same for all images.

    The logit is explained, never its sigmoid, whose gradient vanishes where D is sure: give a network that
    ends in a sigmoid without it. The discriminator is evaluated in eval mode and is left as it was: flags,
    gradients, hooks, parameters and buffers. Where its BatchNorm layers use the statistics of the batch
    (``batch_statistics``), maps depend on ``batch_size`` and on the neighbours in the batch.

    Args:
        discriminator: any module that maps images to logits of shape (N,), (N, 1), or a patch map
            (N, 1, h, w), whose average is then explained.
        images: (N, C, H, W), uint8 in 0..255 or floating point in [-1, 1], on any device.
        method: ``gradcam`` or ``hirescam``.
        layer: whose activations to use: a block name (``block1``, ...), a dotted module name, or a module of
            the discriminator. A list of them is explained in one pass.
        evidence: ``real``: ReLU of the weighted sum; ``fake``: ReLU of minus the sum; ``signed``: the sum.
            The ReLU is taken at the layer's resolution, before resizing, as in pytorch-grad-cam.
        batch_size: the most images in a forward pass.
        upsample: resize to (H, W) (bilinear, align_corners=False); otherwise keep the layer's (h, w).
        precision: ``bfloat16`` runs the network under autocast; maps are float32 all the same.
        conditions: what else the discriminator takes, by name, a value an image: ``{"labels": (N,), "times": (N,)}``.

    Returns:
        float32 maps (N, H, W) or (N, h, w), in units of the logit, on the discriminator's device; for a list
        of layers a dict of them, under each name as given (a module's dotted name).

    Raises:
        InputError: images, an option or a layer that cannot be used, or a network whose output is no logit.
    """
    _check_choice("evidence", evidence, get_args(Evidence))
    layers = list(layer) if isinstance(layer, list | tuple) else [layer]
    signed, _ = _weighted_sums(discriminator, images, layers, [method], batch_size, precision, conditions)
    size = images.shape[-2:] if upsample else None
    maps = {name: evidence_maps(sums[:, 0], evidence, size) for name, sums in signed.items()}
    return maps if isinstance(layer, list | tuple) else maps[next(iter(maps))]


def signed_maps(
    discriminator: nn.Module,
    images: Tensor,
    methods: Sequence[Method] = get_args(Method),
    *,
    layer: Layer = "block3",
    batch_size: int = 256,
    precision: Precision = "float32",
    conditions: Conditions | None = None,
) -> tuple[dict[Method, Tensor], Tensor]:
    """Several methods and the logits in one pass: what ``explain`` would give with ``evidence="signed"``.

    Args:
        discriminator: as for ``explain``.
        images: as for ``explain``.
        methods: names of methods, by default all.
        layer: one layer, as for ``explain``.
        batch_size: as for ``explain``.
        precision: as for ``explain``.
        conditions: as for ``explain``.

    Returns:
        Signed maps (N, h, w) at the layer's resolution by method (``evidence_maps`` makes either evidence of
        them), and logits (N,); float32.

    Raises:
        InputError: as ``explain``.
    """
    signed, scores = _weighted_sums(
        discriminator, images, [layer], methods, batch_size, precision, conditions
    )
    return dict(zip(methods, next(iter(signed.values())).unbind(1), strict=True)), scores


def _weighted_sums(
    discriminator: nn.Module,
    images: Tensor,
    layers: Sequence[Layer],
    methods: Sequence[Method],
    batch_size: int,
    precision: Precision,
    conditions: Conditions | None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Signed maps (N, methods, h, w) by layer name, and logits (N,): one pass for everything."""
    for method in methods:
        _check_choice("method", method, get_args(Method))
    _check_choice("precision", precision, get_args(Precision))
    check_images(images)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1")
    if not layers:
        raise InputError("layer=[] names no layer to explain; give at least one, such as 'block3'")
    targets = dict(_resolve(discriminator, layer) for layer in layers)

    # Inference mode would forbid the gradient.
    with torch.inference_mode(False), evaluating(discriminator), _recording(targets) as activations:
        sums, scores = with_fast_layout(
            lambda layout: _explain_batches(
                discriminator,
                model_batches(discriminator, images, batch_size, layout, conditions),
                activations,
                methods,
                precision,
            )
        )
    if not scores.isfinite().all():
        raise InputError(
            f"{type(discriminator).__name__} gives logits that are not finite for these images; "
            "its weights may have diverged: explain an earlier checkpoint"
        )
    return sums, scores


def _explain_batches(
    discriminator: nn.Module,
    batches: Iterator[tuple[Tensor, dict[str, Tensor]]],
    activations: dict[str, Tensor | None],
    methods: Sequence[Method],
    precision: Precision,
) -> tuple[dict[str, Tensor], Tensor]:
    """Name of each recorded layer -> its signed maps of all batches; and the logits."""
    sums: dict[str, list[Tensor]] = {name: [] for name in activations}
    scores = []
    for batch, told in batches:
        activations.update(dict.fromkeys(activations))
        # autocast either way: a caller's own must not change the precision asked for
        autocast = torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bfloat16")
        with torch.no_grad(), autocast:  # the first layer reached turns gradients on for the rest
            score = logits(discriminator, batch, told)
        scores.append(score.detach())
        for name, activation, gradient in _gradients(score, activations):
            both = activation.detach().float(), gradient.float()
            sums[name].append(torch.stack([_weighted_sum(method, *both) for method in methods], 1))
    return {name: torch.cat(parts) for name, parts in sums.items()}, torch.cat(scores)


def _weighted_sum(method: Method, activation: Tensor, gradient: Tensor) -> Tensor:
    """Activations and gradients (N, C, h, w) -> the signed map (N, h, w) of one method."""
    weights = gradient.mean((2, 3), keepdim=True) if method == "gradcam" else gradient
    return (weights * activation).sum(1)  # no matrix product: a caller's autocast would take it


def logits(discriminator: nn.Module, images: Tensor, conditions: Conditions | None = None) -> Tensor:
    """One float32 logit an image: the one place where a discriminator is called.

    Args:
        discriminator: as for ``explain``.
        images: (N, C, H, W) in [-1, 1], on the discriminator's device.
        conditions: as for ``explain``, on that device.

    Returns:
        Logits (N,); of a patch map its average.

    Raises:
        InputError: the output is not of shape (N,), (N, 1) or (N, 1, h, w).
    """
    output = discriminator(images, **(conditions or {}))
    count = len(images)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    # A network that ends in squeeze() gives a shape of () for a single image.
    fits = shape in ((count,), (count, 1)) or (shape == () and count == 1)
    if not fits and not (isinstance(shape, tuple) and len(shape) == 4 and shape[:2] == (count, 1)):
        raise InputError(
            f"{type(discriminator).__name__} returned {shape} for {count} images; it must return one logit "
            "each, as (N,), (N, 1) or a patch map (N, 1, h, w): wrap it in a module that does"
        )
    return output.float().reshape(count, -1).mean(1)


def _gradients(
    scores: Tensor, activations: Mapping[str, Tensor | None]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, activations and gradient of each layer, one backward pass for all.

    The gradient of the sum holds every image's own gradient: in eval mode no image affects another's score.
    """
    reached = {name: activation for name, activation in activations.items() if activation is not None}
    for name in activations:
        if name not in reached:
            raise InputError(
                f"layer={name!r} is never called in the forward pass; choose a layer that runs "
                "(of a compiled model give the original)"
            )
    found: tuple[Tensor | None, ...] = (None,) * len(reached)
    if scores.requires_grad:
        found = torch.autograd.grad(scores.sum(), list(reached.values()), allow_unused=True)
    for (name, activation), gradient in zip(reached.items(), found, strict=True):
        if gradient is None:
            raise InputError(
                f"layer={name!r} gives an output that the score does not depend on; "
                "choose a layer on the way to the logit"
            )
        yield name, activation, gradient


def evidence_maps(signed: Tensor, evidence: Evidence, size: Sequence[int] | None = None) -> Tensor:
    """Signed maps at the layer's resolution -> the evidence to show, at image size.

    One signed map holds both evidences: ``explain`` it once, then take either from it.

    Args:
        signed: (N, h, w), from ``explain(..., evidence="signed", upsample=False)``.
        evidence: ``real``: ReLU; ``fake``: ReLU of minus the map; ``signed``: as it is. Before resizing.
        size: (H, W) to resize to (bilinear, align_corners=False); None keeps (h, w).

    Returns:
        (N, H, W) or (N, h, w).
    """
    maps = signed if evidence == "signed" else F.relu(signed if evidence == "real" else -signed)
    if size is None:
        return maps
    return F.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


@contextmanager
def _recording(targets: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor | None]]:
    """Record the outputs of modules, by name, during the forward passes inside the ``with`` block.

    The first module reached starts the graph: its output is cut from what came before, and gradients are on
    from there to the end of the caller's ``torch.no_grad()``. The caller sets all to None before each pass.
    """
    activations: dict[str, Tensor | None] = dict.fromkeys(targets)

    def record(name: str, _module: nn.Module, _inputs: object, output: object) -> Tensor:
        activation = _check_activation(name, output)
        if activations[name] is not None:
            raise InputError(
                f"layer={name!r} runs more than once in a forward pass, so its activations are ambiguous; "
                "choose a layer that runs once"
            )
        torch.set_grad_enabled(True)
        if not activation.requires_grad:
            activation = activation.detach().requires_grad_()
        activations[name] = activation
        # A copy goes on, for 1 % of a pass: an in-place activation would overwrite what is recorded.
        return activation.clone()

    handles = [module.register_forward_hook(partial(record, name)) for name, module in targets.items()]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()


def _check_activation(name: str, output: object) -> Tensor:
    """The output of a layer, if a map can be made of it."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        kind = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InputError(
            f"layer={name!r} gives {kind}, which has no spatial extent; "
            "choose a layer that gives (N, C, h, w)"
        )
    if output.shape[2] * output.shape[3] == 1:
        raise InputError(
            f"layer={name!r} gives a 1x1 map: one number an image, which any normalisation turns into zeros "
            "(pytorch-grad-cam issue 444); choose an earlier layer, such as the activation before the head"
        )
    return output


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


def with_fast_layout(run: Callable[[torch.memory_format], Result]) -> Result:
    """``run`` with channels_last images: 1.1 to 1.4 times the rate of the default layout on a CPU.

    A network that calls ``.view`` on its features cannot take them and is run again in the default layout.

    Raises:
        InputError: the network cannot be run in either layout.
    """
    try:
        return run(torch.channels_last)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        pass
    try:
        return run(torch.contiguous_format)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise InputError(
            f"the discriminator cannot be run on these images ({str(error).splitlines()[0]}); "
            "give images of the size and channels it was built for"
        ) from error


def model_batches(
    discriminator: nn.Module,
    images: Tensor,
    batch_size: int,
    layout: torch.memory_format,
    conditions: Conditions | None = None,
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Batches of images as the discriminator takes them: in [-1, 1], of its dtype, on its device.

    With each batch come its conditions.

    Args:
        discriminator: whose first floating-point parameter gives device and dtype.
        images: (N, C, H, W), checked (``check_images``).
        batch_size: the most images in a batch; sizes differ by at most one.
        layout: memory format.
        conditions: as for ``explain``.

    Raises:
        InputError: a condition that has not one value an image.
    """
    conditions = conditions or {}
    for name, values in conditions.items():
        if len(values) != len(images):
            raise InputError(
                f"conditions[{name!r}] has {len(values)} values for {len(images)} images; give one for each"
            )
    parameter = next((p for p in discriminator.parameters() if p.is_floating_point()), None)
    device = images.device if parameter is None else parameter.device
    dtype = torch.float32 if parameter is None else parameter.dtype
    parts = -(-len(images) // batch_size)
    told = [
        {name: values.tensor_split(parts)[i].to(device) for name, values in conditions.items()}
        for i in range(parts)
    ]
    for batch, own in zip(images.detach().tensor_split(parts), told, strict=True):
        batch = batch.to(device)
        if batch.dtype == torch.uint8:
            batch = to_model_range(batch)
        # Filled, not converted: .to() takes one channel to be in either layout, convolutions do not.
        filled = torch.empty(batch.shape, dtype=dtype, device=device, memory_format=layout).copy_(batch)
        yield filled, own


def _resolve(discriminator: nn.Module, layer: Layer) -> tuple[str, nn.Module]:
    """Name and module of a layer given as a block name, a dotted name or a module."""
    modules = dict(discriminator.named_modules(remove_duplicate=False))
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer:
                return name, module
        raise InputError(
            f"layer={type(layer).__name__}(...) is no module of this {type(discriminator).__name__}; "
            f"give one of its own (not a copy's) or a name: {_some(modules)}"
        )
    named = getattr(discriminator, "named_layers", None)
    named = named if isinstance(named, Mapping) else {}
    if layer in named:
        return layer, named[layer]
    if layer in modules:
        return layer, modules[layer]
    known = [*named, *modules]
    close = get_close_matches(str(layer), known, n=1)
    raise InputError(
        f"layer={layer!r} is unknown in this {type(discriminator).__name__}; "
        f"{f'did you mean {close[0]!r}? It' if close else 'it'} has {_some(known)}"
    )


def _some(names: Iterable[str]) -> str:
    """The first few names for an error message, and how many more there are."""
    named = [name for name in names if name]
    rest = len(named) - NAMES_SHOWN
    return ", ".join(named[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value in allowed:
        return
    close = get_close_matches(str(value), allowed, n=1)
    hint = f"did you mean {close[0]!r}? Choose" if close else "choose"
    raise InputError(f"{option}={value!r} is unknown; {hint} one of {', '.join(allowed)}")

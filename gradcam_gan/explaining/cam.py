"""Where in the image is the evidence for what a network says of it?

Class activation maps need the activations A of one layer and, most of them, the gradient of a score with respect to
them. Only the part of the network after that layer needs a graph: everything before it runs as a plain forward pass,
and no gradient of a parameter is ever computed. Methods that run the network themselves, or on altered images, get a
copy of it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.data import check_images
from gradcam_gan.errors import InputError, one_line
from gradcam_gan.explaining.batches import Batch, Conditions, batches, eval_copy, evaluating, told
from gradcam_gan.explaining.hooks import Layer, Recording, find_layer
from gradcam_gan.explaining.methods import (
    IMAGE,
    METHODS,
    OWN_METHODS,
    ImageAttribution,
    LayerProbe,
    Weighting,
)
from gradcam_gan.explaining.scorer import Precision, Scorer, autocast
from gradcam_gan.explaining.targets import Target, minus, real
from gradcam_gan.validation import choose

Evidence = Literal["real", "fake", "signed"]
TRIED_IMAGES = 2  # by ``runnable``: statistics of a batch need two


class Explained(NamedTuple):
    """What was found for some images, float32 and on the network's device.

    Attributes:
        signed: signed maps (N, h, w) at a layer's resolution by (layer, method), and (N, H, W) by ("image", method) of
            methods that take no layer; in the method's unit, for most that of the score.
        scores: what was explained, the target's number for each image (N,).
    """

    signed: dict[tuple[str, str], Tensor]
    scores: Tensor


def explain(
    network: nn.Module,
    images: Tensor,
    *,
    target: Target = real,
    method: str = "gradcam",
    layer: Layer = "conv3",
    evidence: Evidence = "real",
    conditions: Conditions | None = None,
    batch_size: int = 256,
    upsample: bool = True,
    precision: Precision = "float32",
) -> Tensor:
    """Unnormalised maps of the evidence that a network's score rests on, one an image.

    With A the activations (C, h, w) of the layer and G the gradient of the score with respect to them:

    - ``gradcam``: sum_k mean_ij(G_k) A_k (Selvaraju et al. 2017, equations 1 and 2 before the ReLU);
    - ``hirescam``: sum_k G_k A_k (Draelos & Carin 2020): no averaging of the gradient. Where only a
      linear head follows the layer, the map (``evidence="signed", upsample=False``) sums to the score minus
      the head's bias.

    The whole family, with units and signs, stands in ``explaining.methods``; ``runnable`` says which of them can run
    on a network.

    The default layer is the last convolution's own output (of this package's discriminators): the paper (section 2)
    takes maps of "the output of the model's convolution layer". At the last block, ``block3``, only the linear head
    follows, so the gradient, and with it every Grad-CAM channel weight, is the same for all images.

    A discriminator's logit is explained, never its sigmoid, whose gradient vanishes where D is sure: give a network
    that ends in a sigmoid without it. The network is evaluated in eval mode and is left as it was: flags,
    gradients, hooks, parameters and buffers. Where its BatchNorm layers use the statistics of the batch
    (``batch_statistics``), maps depend on ``batch_size`` and on the neighbours in the batch.

    Args:
        network: any module that takes images.
        images: (N, C, H, W), uint8 in 0..255 or floating point in [-1, 1], on any device.
        target: what to explain, from the network's output to the score of each image (N,): by default a
            discriminator's logit for "real"; ``class_logit(3)``; or any callable.
        method: a name in ``METHODS``.
        layer: whose activations to use, if the method takes a layer: a name that the network itself gives its layers
            (``conv3``), a dotted module name, or a module of the network.
        evidence: for the score (``real``: ReLU of the weighted sum), against it (``fake``: ReLU of minus the sum), or
            both (``signed``: the sum). The ReLU is taken at the layer's resolution, before resizing, as in
            pytorch-grad-cam. For evidence against, a ``one_sided`` method explains minus the score.
        conditions: what else the network takes, by name, a value an image: ``{"labels": (N,), "times": (N,)}``.
        batch_size: the most images in a forward pass.
        upsample: resize a layer's map to (H, W) (bilinear, align_corners=False); otherwise keep its (h, w).
        precision: ``bfloat16`` runs the network under autocast; maps are float32 all the same.

    Returns:
        float32 maps (N, H, W) or (N, h, w), in the method's unit, on the network's device.

    Raises:
        InputError: images, an option or a layer that cannot be used, a network whose output the target refuses, or on
            which the method cannot run.
    """
    choose("evidence", evidence, get_args(Evidence))
    choose("method", method, METHODS)
    if evidence == "fake" and METHODS[method].one_sided:
        target, evidence = minus(target), "real"
    signed, _ = signed_maps(
        network,
        images,
        [method],
        [layer],
        target=target,
        conditions=conditions,
        batch_size=batch_size,
        precision=precision,
    )
    (maps,) = signed.values()
    return evidence_maps(maps, evidence, images.shape[-2:] if upsample else None)


def signed_maps(
    network: nn.Module,
    images: Tensor,
    methods: Sequence[str] = OWN_METHODS,
    layers: Sequence[Layer] = ("conv3",),
    *,
    target: Target = real,
    conditions: Conditions | None = None,
    batch_size: int = 256,
    precision: Precision = "float32",
    noise: float = 0.0,
) -> Explained:
    """Several methods at several layers, and the scores, in one pass: ``explain`` with ``evidence="signed"``.

    ``evidence_maps`` makes either evidence of the maps; evidence against by a one-sided method needs ``minus(target)``.
    Arguments as for ``explain``, and ``methods``, names of methods, by default this package's own two; ``layers``;
    ``noise``, the standard deviation of what was added to diffused images, which may then step over [-1, 1] by ten of
    it (``check_images``).

    Raises:
        InputError: as ``explain``.
    """
    for method in methods:
        choose("method", method, METHODS)
    choose("precision", precision, get_args(Precision))
    check_images(images, noise=noise)
    takes_layer = any(METHODS[method].at_layer for method in methods)
    modules = [find_layer(network, layer) for layer in layers] if takes_layer else []

    # Inference mode would forbid the gradient.
    with torch.inference_mode(False), evaluating(network):
        duplicate = _for_libraries(network, methods)  # before the hooks below
        parts = batches(network, images, batch_size, conditions, target, noised=noise > 0)
        recorded = [Recording(name) for name, _ in modules]
        with ExitStack() as hooks:
            for (_, module), recording in zip(modules, recorded, strict=True):
                hooks.enter_context(module.register_forward_hook(recording.keep))
            found = []
            for batch in parts:
                part, activations = _weigh_batch(network, batch, recorded, methods, precision)
                scorer = Scorer(duplicate, batch, precision)
                part.signed.update(_run_batch(scorer, activations, methods, batch_size))
                found.append(part)
    scores = torch.cat([part.scores for part in found])
    return Explained(
        {key: torch.cat([part.signed[key] for part in found]) for key in found[0].signed}, scores
    )


def runnable(
    network: nn.Module,
    images: Tensor,
    methods: Sequence[str] = tuple(METHODS),
    *,
    layer: Layer = "conv3",
    target: Target = real,
    conditions: Conditions | None = None,
) -> dict[str, str]:
    """Which methods can run on a network: each is tried on the first two images.

    Arguments as for ``explain``.

    Returns:
        By method, "" if it runs, else the reason why not, one line.

    Raises:
        InputError: an unknown method or layer, or images that the network cannot be run on.
    """
    for method in methods:
        choose("method", method, METHODS)
    find_layer(network, layer)
    few = slice(TRIED_IMAGES)
    own, target = told(conditions or {}, target, few)
    attempt = partial(signed_maps, network, images[few], layers=[layer], target=target, conditions=own)
    attempt([])  # what is wrong whatever the method is no method's reason
    reasons = {}
    for method in methods:
        try:
            attempt([method])
        except InputError as error:
            reasons[method] = str(error)
        else:
            reasons[method] = ""
    return reasons


def _for_libraries(network: nn.Module, methods: Sequence[str]) -> nn.Module:
    """A copy that may be hooked, changed and differentiated; the network itself if no method runs it."""
    running = [method for method in methods if not isinstance(METHODS[method], Weighting)]
    if not running:
        return network
    try:
        return eval_copy(network).requires_grad_(False)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"method={running[0]!r} needs a copy of the network, and this {type(network).__name__} cannot be copied: "
            f"{one_line(error)}"
        ) from None


def _weigh_batch(
    network: nn.Module,
    batch: Batch,
    recorded: Sequence[Recording],
    methods: Sequence[str],
    precision: Precision,
) -> tuple[Explained, dict[str, Tensor]]:
    """The maps that a single pass gives, and the activations of each layer in it, float32."""
    # autocast either way: a caller's own must not change the precision asked for
    with torch.no_grad(), autocast(batch.images.device, precision):
        scores = batch.scores(network)  # the first recorded layer turns gradients on for what comes after it
    if not scores.isfinite().all():
        raise InputError(
            f"{type(network).__name__} gives scores that are not finite for these images; "
            "its weights may have diverged: explain an earlier checkpoint"
        )
    activations = [recording.take() for recording in recorded]
    gradients: Sequence[Tensor | None] = [None] * len(activations)
    if scores.requires_grad:
        # the sum's gradient holds every image's own: in eval mode no image affects another's score
        gradients = torch.autograd.grad(scores.sum(), activations, allow_unused=True)
    signed, actives = {}, {}
    for recording, active, gradient in zip(recorded, activations, gradients, strict=True):
        if gradient is None:
            raise InputError(
                f"layer={recording.layer!r} gives an output that the score does not depend on; "
                "choose a layer on the way to it"
            )
        actives[recording.layer] = active.detach().float()
        for name in methods:
            method = METHODS[name]
            if isinstance(method, Weighting):
                weigh = partial(method.weigh, actives[recording.layer], gradient.float())
                signed[recording.layer, name] = _checked(name, network, weigh)
    return Explained(signed, scores.detach()), actives


def _run_batch(
    scorer: Scorer, activations: Mapping[str, Tensor], methods: Sequence[str], batch_size: int
) -> dict[tuple[str, str], Tensor]:
    """The maps of the methods that run the network themselves."""
    maps, network = {}, scorer.network
    for name in methods:
        method = METHODS[name]
        if isinstance(method, LayerProbe):
            for layer, active in activations.items():
                _, module = find_layer(network, layer)
                probe = partial(method.probe, scorer, module, active, batch_size)
                maps[layer, name] = _checked(name, network, probe)
        elif isinstance(method, ImageAttribution):
            attribute = partial(method.attribute, scorer, batch_size)
            maps[IMAGE, name] = _checked(name, network, attribute)
    return maps


def _checked(method: str, network: nn.Module, make: Callable[[], Tensor]) -> Tensor:
    """What a method makes, float32.

    Raises:
        InputError: it cannot run on this network, or what it makes is not finite.
    """
    cannot = f"method={method!r} cannot run on this {type(network).__name__}"
    try:
        # what a division by zero makes is refused below
        with torch.enable_grad(), np.errstate(divide="ignore", invalid="ignore"):
            maps = make().detach().float()
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # libraries raise of all kinds
        raise InputError(f"{cannot}: {one_line(error)}") from None
    if not maps.isfinite().all():
        raise InputError(f"{cannot}: it gives values that are not finite")
    return maps


def evidence_maps(signed: Tensor, evidence: Evidence, size: Sequence[int] | None = None) -> Tensor:
    """Signed maps at the layer's resolution -> the evidence to show, at image size.

    Args:
        signed: (N, h, w), of ``signed_maps``; maps of the image have its size already.
        evidence: ``real``: ReLU; ``fake``: ReLU of minus the map; ``signed``: as it is. Before resizing.
        size: (H, W) to resize to (bilinear, align_corners=False); None keeps (h, w).

    Returns:
        (N, H, W) or (N, h, w).
    """
    maps = signed if evidence == "signed" else F.relu(signed if evidence == "real" else -signed)
    if size is None:
        return maps
    return F.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]

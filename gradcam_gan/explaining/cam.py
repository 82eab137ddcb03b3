"""Class activation maps: where in the image is the evidence for what a network says of it?

All methods need the activations A of one layer and the gradient of a score with respect to them. Only the part of
the network after that layer needs a graph: everything before it runs as a plain forward pass, and no gradient
of a parameter is ever computed.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.data import check_images
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.batches import Batch, Conditions, batches, evaluating
from gradcam_gan.explaining.hooks import Layer, Recording, find_layer
from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.explaining.targets import Target, real
from gradcam_gan.validation import choose

Evidence = Literal["real", "fake", "signed"]
Precision = Literal["float32", "bfloat16"]


class Explained(NamedTuple):
    """What was found for some images, float32 and on the network's device.

    Attributes:
        signed: signed maps (N, h, w) at a layer's resolution, in units of the score, by (layer, method).
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
        layer: whose activations to use: a name that the network itself gives its layers (``conv3``), a dotted module
            name, or a module of the network.
        evidence: for the score (``real``: ReLU of the weighted sum), against it (``fake``: ReLU of minus the sum), or
            both (``signed``: the sum). The ReLU is taken at the layer's resolution, before resizing, as in
            pytorch-grad-cam.
        conditions: what else the network takes, by name, a value an image: ``{"labels": (N,), "times": (N,)}``.
        batch_size: the most images in a forward pass.
        upsample: resize to (H, W) (bilinear, align_corners=False); otherwise keep the layer's (h, w).
        precision: ``bfloat16`` runs the network under autocast; maps are float32 all the same.

    Returns:
        float32 maps (N, H, W) or (N, h, w), in units of the score, on the network's device.

    Raises:
        InputError: images, an option or a layer that cannot be used, or a network whose output the target refuses.
    """
    choose("evidence", evidence, get_args(Evidence))
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
    methods: Sequence[str] = tuple(METHODS),
    layers: Sequence[Layer] = ("conv3",),
    *,
    target: Target = real,
    conditions: Conditions | None = None,
    batch_size: int = 256,
    precision: Precision = "float32",
    noise: float = 0.0,
) -> Explained:
    """Several methods at several layers, and the scores, in one pass: ``explain`` with ``evidence="signed"``.

    ``evidence_maps`` makes either evidence of the maps. Arguments as for ``explain``, and ``methods``, names of
    methods, by default all; ``layers``; ``noise``, the standard deviation of what was added to diffused images, which
    may then step over [-1, 1] by ten of it (``check_images``).

    Raises:
        InputError: as ``explain``.
    """
    for method in methods:
        choose("method", method, METHODS)
    choose("precision", precision, get_args(Precision))
    check_images(images, noise=noise)
    modules = [find_layer(network, layer) for layer in layers]

    # Inference mode would forbid the gradient.
    with torch.inference_mode(False), evaluating(network):
        parts = batches(network, images, batch_size, conditions, target, noised=noise > 0)
        recorded = [Recording(name) for name, _ in modules]
        with ExitStack() as hooks:
            for (_, module), recording in zip(modules, recorded, strict=True):
                hooks.enter_context(module.register_forward_hook(recording.keep))
            found = [_explain_batch(network, batch, recorded, methods, precision) for batch in parts]
    scores = torch.cat([part.scores for part in found])
    if not scores.isfinite().all():
        raise InputError(
            f"{type(network).__name__} gives scores that are not finite for these images; "
            "its weights may have diverged: explain an earlier checkpoint"
        )
    return Explained(
        {key: torch.cat([part.signed[key] for part in found]) for key in found[0].signed}, scores
    )


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


def _explain_batch(
    network: nn.Module,
    batch: Batch,
    recorded: Sequence[Recording],
    methods: Sequence[str],
    precision: Precision,
) -> Explained:
    # autocast either way: a caller's own must not change the precision asked for
    autocast = torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with torch.no_grad(), autocast:  # the first recorded layer turns gradients on for what comes after it
        scores = batch.scores(network)
    activations = [recording.take() for recording in recorded]
    gradients: Sequence[Tensor | None] = [None] * len(activations)
    if scores.requires_grad:
        # the sum's gradient holds every image's own: in eval mode no image affects another's score
        gradients = torch.autograd.grad(scores.sum(), activations, allow_unused=True)
    signed = {}
    for recording, active, gradient in zip(recorded, activations, gradients, strict=True):
        if gradient is None:
            raise InputError(
                f"layer={recording.layer!r} gives an output that the score does not depend on; "
                "choose a layer on the way to it"
            )
        both = active.detach().float(), gradient.float()
        signed.update({(recording.layer, method): METHODS[method].weigh(*both) for method in methods})
    return Explained(signed, scores.detach())


def evidence_maps(signed: Tensor, evidence: Evidence, size: Sequence[int] | None = None) -> Tensor:
    """Signed maps at the layer's resolution -> the evidence to show, at image size.

    Args:
        signed: (N, h, w), of ``signed_maps``.
        evidence: ``real``: ReLU; ``fake``: ReLU of minus the map; ``signed``: as it is. Before resizing.
        size: (H, W) to resize to (bilinear, align_corners=False); None keeps (h, w).

    Returns:
        (N, H, W) or (N, h, w).
    """
    maps = signed if evidence == "signed" else F.relu(signed if evidence == "real" else -signed)
    if size is None:
        return maps
    return F.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]

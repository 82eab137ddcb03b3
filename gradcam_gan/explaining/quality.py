"""Is an explanation any good? Measures that ask the network itself, and maps that know nothing of it.

- occlusion (``occlude``, ``flipping_curves``, ``occlusion_gap``): pixels are taken away in the order of a map; if the
  map is right, the score goes with the first of them.
- randomisation (``randomise``, ``rank_correlation``): a map that stays the same while the network's weights are drawn
  anew explains something else (Adebayo et al. 2018).
- ``noise_sensitivity``: how much of a map changes with noise that nobody sees.
- ``completeness_error``: whether a map sums to what it promises to.
- ``controls``: what each of these is read beside. A method that does no better has explained nothing.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal, get_args

import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.data import check_images, to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.batches import Conditions, batches, check_count, eval_copy, score_images
from gradcam_gan.explaining.batchnorm import calibrate
from gradcam_gan.explaining.hooks import Layer, find_layer
from gradcam_gan.explaining.measures import check_maps, chunks, map_change
from gradcam_gan.explaining.targets import Target, real
from gradcam_gan.models.dcgan import BACKGROUND, PaperNetwork, initialise
from gradcam_gan.validation import choose

Occluder = Literal["background", "blur"]
Order = Literal["most", "least"]
BLUR = 1 / 8  # standard deviation, of the shorter side: at half of it a digit can still be read
CENTRE = 1 / 4  # standard deviation of the centred control, of either side
CONTROL_PLACES = 8  # of the random control, a side: as the last features of a 64x64 network have
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


# --- controls


def controls(images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Maps that know nothing of any network, to read every measure beside.

    - ``random``: uniform numbers at 8x8, resized as a class activation map is. Such a map takes away patches, noise of
      single pixels takes away grains; a network minds the two differently, and only the first compares with a method
      that has 8x8 numbers to place.
    - ``image``: the brightness itself, the mean over channels on a scale of 0..1.
    - ``edges``: the magnitude of its gradient, by Sobel's filter; a border continues the image.
    - ``centre``: a Gaussian in the middle, of a quarter of either side, the same for all images.

    Args:
        images: (N, C, H, W), uint8 or floating point in [-1, 1].
        seed: of ``random``.

    Returns:
        Maps (N, H, W) by name, float32, none negative, on the device of ``images``.

    Raises:
        InputError: images that cannot be used.
    """
    check_images(images)
    height, width = images.shape[2:]
    brightness = ((to_model_range(images.detach()).float().mean(1) + 1) / 2).clamp(
        0, 1
    )  # rounding may step over
    places = (len(images), 1, CONTROL_PLACES, CONTROL_PLACES)
    random = torch.rand(places, generator=torch.Generator().manual_seed(seed)).to(images.device)
    sobel = torch.tensor(SOBEL, device=images.device)
    padded = F.pad(brightness[:, None], (1, 1, 1, 1), mode="replicate")
    edges = F.conv2d(padded, torch.stack([sobel, sobel.T])[:, None])  # (N, 2, H, W)
    down, across = (_bell(torch.arange(side) - (side - 1) / 2, side * CENTRE) for side in (height, width))
    return {
        "random": F.interpolate(random, size=(height, width), mode="bilinear", align_corners=False)[:, 0],
        "image": brightness,
        "edges": edges.norm(dim=1),
        "centre": torch.outer(down, across).to(images.device).repeat(len(images), 1, 1),
    }


# --- occlusion


def occlude(images: Tensor, maps: Tensor, share: float, *, occluder: Occluder, seed: int = 0) -> Tensor:
    """The images without the pixels that a map calls most relevant.

    Exactly round(share H W) pixels of each image are replaced, all channels of a pixel at once. Equal values go in
    random order: a map after a ReLU may be 0 in most of its pixels, and a threshold on values, as in the ROAD of
    pytorch-grad-cam, takes all of those or none.

    Args:
        images: (N, C, H, W), uint8 or floating point in [-1, 1].
        maps: float (N, H, W), finite, of any scale; negative values count as less relevant than 0. Negated maps take
            the least relevant pixels away.
        share: of the pixels, 0..1.
        occluder: what stands in their place: ``background``, -1, or ``blur``, the same place of the image after a
            Gaussian blur of an eighth of the shorter side, in which no digit can be read.
        seed: of the order of equal values; an image's own does not depend on how many come after it.

    Returns:
        (N, C, H, W) in [-1, 1], on the device of ``images``.

    Raises:
        InputError: images or maps that cannot be used, or an option that is unknown or out of range.
    """
    _check_occlusion(images, maps, occluder)
    if not 0 <= share <= 1:
        raise InputError(f"share={share} must lie in 0..1: it is a share of each image's pixels")
    shown = to_model_range(images.detach())
    places = _places(maps.to(images.device), seed)
    return _replaced(shown, _hidden(shown, occluder), places, round(share * maps[0].numel()))


def flipping_curves(
    network: nn.Module,
    images: Tensor,
    maps: Tensor,
    *,
    occluder: Occluder,
    order: Order,
    steps: int = 16,
    seed: int = 0,
    target: Target = real,
    conditions: Conditions | None = None,
    batch_size: int = 256,
) -> Tensor:
    """The score while an image's pixels are replaced one after another, in the order of a map.

    With ``most`` relevant first (MoRF: pixel flipping, Samek et al. 2017; deletion, Petsiuk et al. 2018) the curve of a
    good map falls early; with ``least`` relevant first (LeRF) it falls late. Insertion is not a third: the curve of
    ``least`` read from its end starts from the occluded image and puts the most relevant pixels in first.

    What is measured is the score as it is, a discriminator's logit for "real", whatever its sign: also of a generated
    image, whose logit is below 0, the pixels of a map of evidence "real" should lower it further. For maps of evidence
    "fake" give ``target=lambda logits: -real(logits)``. A map after a ReLU is ranked by chance where it is 0, a
    signed one is not: compare like with like. Runs under the caller's autocast, if any.

    Args:
        network: evaluated in eval mode, and left as it was.
        images: as for ``occlude``.
        maps: likewise.
        occluder: likewise.
        order: which pixels go first.
        steps: after step k of them exactly round(k H W / steps) pixels are replaced; at least 1.
        seed: as for ``occlude``.
        target: as for ``explain``.
        conditions: likewise.
        batch_size: likewise.

    Returns:
        Scores (N, steps + 1), float32, on the network's device: the first of the image, the last of the occluder alone.

    Raises:
        InputError: as ``occlude`` and ``explain``.
    """
    _check_occlusion(images, maps, occluder)
    choose("order", order, get_args(Order))
    if steps < 1:
        raise InputError(f"steps={steps} must be at least 1")
    shown = to_model_range(images.detach())
    hidden = _hidden(shown, occluder)
    # equal values go in the same order either way: a constant map has no gap at all
    places = _places((maps if order == "most" else -maps).to(images.device), seed)
    scores = []
    for k in range(steps + 1):
        occluded = _replaced(shown, hidden, places, round(k * maps[0].numel() / steps))
        scores.append(score_images(network, occluded, batch_size, conditions, target))
    return torch.stack(scores, 1)


def occlusion_gap(least: Tensor, most: Tensor) -> Tensor:
    """How much of the score a map's order keeps, and its reverse loses: the area between two curves.

    LeRF - MoRF (Schulz et al. 2020, there after normalising each curve), by the trapezoidal rule over the share of
    replaced pixels. Both curves begin and end at the same scores, so nothing but the order makes a gap. Neither curve
    alone says so much: to a discriminator an empty image may look more real than a digit, and any order raises it.

    Args:
        least: (N, steps + 1), of ``flipping_curves`` with the least relevant pixels first.
        most: likewise, with the most relevant first.

    Returns:
        (N,) in units of the score: above 0 the map ranks pixels better than chance; 0 is expected of a random order.

    Raises:
        InputError: curves of other shapes.
    """
    if least.shape != most.shape or least.ndim != 2 or least.shape[1] < 2:
        raise InputError(
            f"least {tuple(least.shape)} and most {tuple(most.shape)} must be curves of one shape, (N, steps + 1), "
            "as flipping_curves makes them"
        )
    return torch.trapezoid(least - most, dim=1) / (least.shape[1] - 1)


# --- randomisation


def randomise(
    network: nn.Module,
    *,
    from_layer: Layer,
    seed: int,
    reference_images: Tensor,
    conditions: Conditions | None = None,
) -> nn.Module:
    """A copy whose weights are drawn anew, from the head down to one layer (Adebayo et al. 2018).

    Cascading, as in that paper: with one seed a deeper layer draws more, and the same of what is above it. Weights come
    from each layer's own ``reset_parameters``; in this package's networks those of convolutions and BatchNorm from
    DCGAN's initialisation. What BatchNorm then sees is new to it, so all its statistics are recomputed (``calibrate``):
    compare with the maps of ``calibrate(network, reference_images)``, whose statistics have changed alike.

    Args:
        network: left as it is.
        from_layer: the deepest to be drawn, as for ``explain``: with it all that is still running once it has begun.
        seed: of the weights; the same on any device.
        reference_images: (M, C, H, W) with M > 1, as for ``calibrate``.
        conditions: of the reference images, as for ``explain``.

    Returns:
        The copy, in eval mode.

    Raises:
        InputError: a layer that is unknown or never runs, weights that no ``reset_parameters`` draws, or reference
            images that cannot be used.
    """
    check_images(reference_images, "reference_images")
    copied = eval_copy(network)
    layer, _ = find_layer(network, from_layer)
    few = {name: values[:2] for name, values in (conditions or {}).items()}
    later = _running_from(copied, layer, reference_images[:2], few)
    device = next((parameter.device for parameter in copied.parameters()), torch.device("cpu"))
    copied.cpu()  # where a seed gives the same weights whatever the device
    with torch.random.fork_rng(devices=()):
        # torch.manual_seed would seed the other devices too, for good
        torch.default_generator.manual_seed(seed)
        for module in reversed(later):  # the head first
            _redraw(module, dcgan=isinstance(network, PaperNetwork))
    return calibrate(copied.to(device), reference_images, conditions=conditions)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps over the pixels, equal values with the mean of their ranks.

    Args:
        a: float (N, H, W), finite; signed or not, as both are to be compared.
        b: of the same images, likewise.

    Returns:
        (N,) float32 in -1..1, on the device of ``a``: 1 the same order; NaN where either map is constant.

    Raises:
        InputError: shapes that differ, or maps that are not finite floats (N, H, W).
    """
    for maps, name in ((a, "a"), (b, "b")):
        check_maps(maps, name)
    # map_change is 1 less Pearson's
    return (1 - map_change(_mean_ranks(a), _mean_ranks(b))).float().to(a.device)


# --- noise and sums


def noise_sensitivity(
    explainer: Callable[[Tensor], Tensor], images: Tensor, *, sigma: float, draws: int, seed: int
) -> Tensor:
    """How much a map changes with a little noise in the image: the mean over draws of |M(x + n) - M(x)| / |M(x)|.

    The average sensitivity of Bhatt et al. (2020), relative to the map, with the Euclidean norm; not the maximum (Yeh
    et al. 2019), which grows with the number of draws.

    Args:
        explainer: from images (N, C, H, W) in [-1, 1] to maps (N, h, w).
        images: (N, C, H, W), uint8 or floating point in [-1, 1].
        sigma: standard deviation of the Gaussian noise, on the scale of [-1, 1], to which noisy images are clipped;
            above 0.
        draws: how many, at least 1.
        seed: of the noise.

    Returns:
        (N,) float32, on the maps' device: 0 for a map that stays; NaN where the map without noise is zero everywhere.

    Raises:
        InputError: images that cannot be used, an option out of range, or maps that are not finite or not one an image.
    """
    check_images(images)
    if not 0 < sigma < math.inf or draws < 1:
        raise InputError(f"sigma={sigma} must be above 0 and draws={draws} at least 1")
    clean = to_model_range(images.detach())
    generator = torch.Generator().manual_seed(seed)

    def flat_maps(shown: Tensor) -> Tensor:
        maps = explainer(shown)
        check_maps(maps, "the explainer's maps")
        check_count("the explainer's maps", maps, images)
        return maps.detach().float().flatten(1)

    maps = flat_maps(clean)
    changes = []
    for _ in range(draws):
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        changes.append((flat_maps((clean + sigma * noise).clamp(-1, 1)) - maps).norm(dim=1))
    size = maps.norm(dim=1)
    return torch.stack(changes).mean(0) / torch.where(size > 0, size, math.nan)


def completeness_error(signed: Tensor, scores: Tensor, baseline: Tensor | float) -> Tensor:
    """How far a map's sum is from what a method promises: |sum of the map - (score - baseline)|.

    Integrated gradients promise it with the score of their baseline image (Sundararajan et al. 2017, proposition 1);
    HiResCAM, where only a linear head follows the layer, with the head's bias (Draelos & Carin 2020).

    Args:
        signed: signed maps (N, h, w) at the method's own resolution: resizing changes the sum.
        scores: what was explained (N,).
        baseline: the score that the sum leaves out, one or (N,).

    Returns:
        (N,) in units of the score.

    Raises:
        InputError: maps that are not finite floats (N, h, w), or scores that are not one an image.
    """
    check_maps(signed, "signed")
    check_count("scores", scores, signed)
    return (signed.flatten(1).sum(1) - (scores - baseline)).abs()


# --- what they share


def _check_occlusion(images: Tensor, maps: Tensor, occluder: str) -> None:
    """Refuse images, maps and an occluder that cannot be used together."""
    check_images(images)
    check_maps(maps, "maps")
    wanted = (len(images), *images.shape[2:])
    if tuple(maps.shape) != wanted:
        raise InputError(
            f"maps has shape {tuple(maps.shape)}; give {wanted}, as the images: explain makes such maps"
        )
    choose("occluder", occluder, get_args(Occluder))


def _bell(distance: Tensor, sigma: float) -> Tensor:
    return torch.exp(-((distance / sigma) ** 2) / 2)


def _hidden(shown: Tensor, occluder: str) -> Tensor:
    """What an occluder puts in the place of every pixel: (N, C, H, W) -> the same shape."""
    if occluder == "background":
        return torch.full_like(shown, BACKGROUND)
    # Two small matrices: an image's end takes the mean of what there is, and a wide kernel costs no more than a narrow
    down, across = (
        _bell(place[:, None] - place, BLUR * min(shown.shape[2:]))
        for place in (torch.arange(side).to(shown) for side in shown.shape[2:])
    )
    return (down / down.sum(1, keepdim=True)) @ shown @ (across / across.sum(1, keepdim=True)).T


def _places(maps: Tensor, seed: int) -> Tensor:
    """The place of each pixel in its image when values fall, 0 the highest: int32 (N, H, W); equal ones at random."""
    generator = torch.Generator().manual_seed(seed)  # which draws the same whatever the chunks
    parts = []
    for values in chunks(maps.detach().flatten(1)):
        shuffled = torch.rand(values.shape, generator=generator).argsort(1).to(values.device)
        falling = values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
        order = shuffled.gather(1, falling)
        places = torch.arange(order.shape[1], dtype=torch.int32, device=order.device).expand_as(order)
        parts.append(torch.empty_like(places).scatter_(1, order, places))
    return torch.cat(parts).view(maps.shape)


def _replaced(shown: Tensor, hidden: Tensor, places: Tensor, count: int) -> Tensor:
    """The images, with the first so many pixels of each hidden."""
    return torch.where((places < count)[:, None], hidden, shown)


def _running_from(network: nn.Module, layer: str, images: Tensor, conditions: Conditions) -> list[nn.Module]:
    """The modules that end after a layer begins, in that order: it, its parts, what comes later, what holds it."""
    ended: dict[nn.Module, None] = {}
    begun = False

    def begin(*_: object) -> None:
        nonlocal begun
        begun = True

    def end(module: nn.Module, *_: object) -> None:
        if begun:
            ended[module] = None

    with ExitStack() as hooks, torch.no_grad():
        (batch,) = batches(network, images, len(images), conditions)
        hooks.enter_context(find_layer(network, layer)[1].register_forward_pre_hook(begin))
        for module in network.modules():
            hooks.enter_context(module.register_forward_hook(end))
        batch.output(network)
    if not begun:
        raise InputError(
            f"from_layer={layer!r} is never called in the forward pass; choose a layer that runs"
        )
    return list(ended)


def _redraw(module: nn.Module, *, dcgan: bool) -> None:
    """Draw a module's own parameters anew, not those of the modules within it.

    Raises:
        InputError: it has some that it cannot draw.
    """
    own = {name: value.detach().clone() for name, value in module.named_parameters(recurse=False)}
    reset = getattr(module, "reset_parameters", None)
    if own and reset is not None:
        reset()
    if dcgan:
        initialise(module)
    # spectral and weight norm keep their weight where reset_parameters does not reach; vectors may well start alike
    kept = [
        name for name, value in module.named_parameters(recurse=False) if value.ndim > 1 and value.equal(own[name])
    ]  # fmt: skip
    if own and (reset is None or kept):
        raise InputError(
            f"{type(module).__name__} has {', '.join(kept or own)}, which no reset_parameters draws anew; "
            "give it one, or remove the spectral or weight norm first"
        )


def _mean_ranks(maps: Tensor) -> Tensor:
    """Float64 (N, H, W) on the CPU: ranks over the pixels, equal values with the mean of theirs."""
    ranks = stats.rankdata(maps.detach().double().cpu().flatten(1).numpy(), axis=1)
    return torch.from_numpy(ranks).view(maps.shape)

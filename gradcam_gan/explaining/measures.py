"""What a heatmap points at, in numbers: one row of measures per image.

Every measure reads the positive part of a map, max(map, 0): negative values are evidence for the other answer
and are measured by passing the negated map. All but a fixed-scale coverage are free of the map's scale.

A mask says where the truth is looked for. Strokes (``digit_mask``) are no ground truth, since background may be real
evidence: read a measure beside the same one for an untrained discriminator and for the raw image used as its own
heatmap. A mask of what was planted in the images is one.
"""

import math
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.data import check_images, to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.validation import choose

Normalisation = Literal["max", "min-max"] | float
COLUMNS = (
    "coverage",
    "focus",
    "focus_lift",
    "rank_accuracy",
    "border_lift",
    "entropy",
    "all_zero",
    "mask_area",
)
MASK_THRESHOLD = 0.0  # mid-grey, 127.5 of 255; Otsu's method gives 113 on the packaged MNIST digits
# Pixels worked on at once: on a CPU the temporaries stay in its cache, a GPU wants few large launches
CHUNK_PIXELS = {"cpu": 2**18}
CHUNK_PIXELS_ELSEWHERE = 2**24


def measure(
    maps: Tensor,
    mask: Tensor,
    *,
    tau: float = 0.5,
    normalisation: Normalisation = "max",
    border: int | None = None,
) -> pd.DataFrame:
    """Measure where each heatmap puts its weight, one row per image.

    With v = max(map, 0) and E the sum of v over the image:

    - ``coverage``: share of pixels with normalised v >= tau, 0..1; 0 for an all-zero map. The paper's
      "70 % or more of the map" (section 3) reads ``coverage >= 0.7``, and means nothing until ``tau`` and
      ``normalisation`` are fixed.
    - ``focus``: sum of v inside the mask / E, 0..1.
    - ``focus_lift``: focus / mask_area; 1 is chance, 1 / mask_area is perfect.
    - ``rank_accuracy``: share of the K highest pixels that lie in the mask, K being the mask's size, 0..1.
      Ties count with their expected value under random tie breaking, so a constant map scores mask_area.
    - ``border_lift``: share of E in the outer ring / the ring's share of the area; 1 is chance.
    - ``entropy``: Shannon entropy of v / E over log(H W); 0 is a single pixel, 1 a uniform map.
    - ``all_zero``: True where v is zero everywhere.
    - ``mask_area``: the mask's share of the image, 0..1.

    NaN stands for "undefined": focus, focus_lift, border_lift and entropy of an all-zero map; focus,
    focus_lift and rank_accuracy where the mask is empty or the whole image.

    Args:
        maps: raw heatmaps, float (N, H, W), any scale, may be signed; H and W at least 3.
        mask: bool (N, H, W), the pixels that a map should point at, such as ``digit_mask(images)``; on any device.
        tau: threshold on the normalised map, above 0 and up to 1.
        normalisation: as in ``normalise``; decides ``coverage`` alone.
        border: width of the outer ring in pixels; by default 1/16 of the shorter side, at least 1.

    Returns:
        A row per image in the order given, columns as in ``COLUMNS``; float64, ``all_zero`` bool.

    Raises:
        InputError: shapes that do not match, maps that are not finite floats, or an option out of range.
    """
    check_maps(maps, "maps")
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != maps.shape:
        given = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(
            f"mask is {given}; give bool {tuple(maps.shape)}, as the maps: digit_mask(images) makes one of the images"
        )
    _check_options(normalisation, tau)
    ring = _ring(maps.shape[1], maps.shape[2], border).to(maps.device)
    parts = [
        _tallies(some_maps, some_mask.to(maps.device), ring, tau, normalisation)
        for some_maps, some_mask in zip(chunks(maps), chunks(mask, like=maps), strict=True)
    ]
    tallies = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _ratios(tallies, pixels=ring.numel(), ring_pixels=int(ring.sum()))


def digit_mask(images: Tensor, threshold: float = MASK_THRESHOLD) -> Tensor:
    """The pixels that belong to the digit: brighter than ``threshold`` in at least one channel.

    Args:
        images: (N, C, H, W), uint8 in 0..255 or float in [-1, 1].
        threshold: on the scale of [-1, 1] for either kind of image, from -1 (anything but black) to below 1.

    Returns:
        Bool (N, H, W) on the device of ``images``.

    Raises:
        InputError: another shape, type or range of images, or a threshold out of range.
    """
    check_images(images)
    if not -1 <= threshold < 1:
        raise InputError(
            f"mask threshold={threshold} must lie in [-1, 1), the scale of the model's images (0 is mid-grey)"
        )
    brightest = images.amax(1)
    return to_model_range(brightest) > threshold


def object_masks(images: Tensor, masks: Tensor | None = None) -> Tensor:
    """The pixels that an image's maps should point at: the masks given, or those of ``digit_mask``.

    Args:
        images: (N, C, H, W).
        masks: bool (N, H, W), where the object is not the bright part of its image.

    Raises:
        InputError: masks of another kind.
    """
    if masks is None:
        return digit_mask(images)
    wanted = (len(images), *images.shape[2:])
    if masks.dtype != torch.bool or tuple(masks.shape) != wanted:
        raise InputError(f"masks is {masks.dtype} {tuple(masks.shape)}; give bool {wanted}, one an image")
    return masks


def normalise(maps: Tensor, normalisation: Normalisation) -> Tensor:
    """The positive part v of each map, scaled for display or for a threshold.

    Args:
        maps: float (N, H, W), may be signed.
        normalisation: ``max``: v / max(v) per image. ``min-max``: (v - min(v)) / (max(v) - min(v)) per image.
            A positive number: v / that number, the same for all images, so that magnitudes stay comparable.

    Returns:
        (N, H, W), float32 (float64 if ``maps`` is), in 0..1 (a fixed scale may exceed 1). An all-zero map,
        and for ``min-max`` any constant map, gives zeros.

    Raises:
        InputError: maps that are not finite floats (N, H, W), or an unknown normalisation.
    """
    check_maps(maps, "maps")
    _check_options(normalisation)
    return _normalised(_at_least_float32(maps).clamp(min=0), normalisation)


def coverage(maps: Tensor, *, tau: float = 0.5, normalisation: Normalisation = "max") -> Tensor:
    """Share of each image's pixels whose normalised map is at least ``tau``: that one measure alone.

    Args:
        maps: float (N, H, W), may be signed.
        tau: above 0 and up to 1.
        normalisation: as in ``normalise``.

    Returns:
        (N,) float64 in 0..1, on the CPU; 0 for an all-zero map.

    Raises:
        InputError: as ``measure``.
    """
    check_maps(maps, "maps")
    _check_options(normalisation, tau)
    parts = [_covered(_at_least_float32(some).clamp(min=0), tau, normalisation) for some in chunks(maps)]
    return torch.cat(parts).cpu().double() / math.prod(maps.shape[1:])


def _covered(heat: Tensor, tau: float, normalisation: Normalisation) -> Tensor:
    """Non-negative maps (n, ...) -> how many pixels of each count as important (n,)."""
    return (_normalised(heat, normalisation) >= tau).flatten(1).sum(1)


def map_change(maps_a: Tensor, maps_b: Tensor) -> Tensor:
    """How far the pattern of each map has changed: 1 - Pearson's correlation over the pixels, per image.

    The maps are compared as given, sign included; clamp them first to compare positive parts.

    Args:
        maps_a: float (N, H, W), for instance of one epoch.
        maps_b: float (N, H, W), of the same images at another epoch, on the same device.

    Returns:
        (N,) in 0..2 on that device: 0 the same pattern, 1 unrelated, 2 inverted; NaN if either is constant.

    Raises:
        InputError: shapes that differ, or maps that are not finite floats (N, H, W).
    """
    check_maps(maps_a, "maps_a")
    check_maps(maps_b, "maps_b")
    if maps_a.shape != maps_b.shape:
        raise InputError(
            f"maps_a {tuple(maps_a.shape)} and maps_b {tuple(maps_b.shape)} must have one shape: "
            "the same images in the same order"
        )
    pairs = zip(chunks(maps_a), chunks(maps_b), strict=True)
    return torch.cat([1 - (_standardised(a) * _standardised(b)).sum(1).clamp(-1, 1) for a, b in pairs])


def _standardised(maps: Tensor) -> Tensor:
    """(n, H, W) -> (n, H W) with mean 0 and length 1, NaN where constant."""
    flat = _at_least_float32(maps).flatten(1)
    # dividing by the largest magnitude first: squares of raw maps may overflow or vanish
    flat = flat / flat.abs().amax(1, keepdim=True)
    # asked of the values, since the rounded mean of a constant may leave a remainder to correlate
    constant = flat.amax(1, keepdim=True) == flat.amin(1, keepdim=True)
    centred = flat - flat.mean(1, keepdim=True)
    return (centred / centred.norm(dim=1, keepdim=True)).masked_fill(constant, math.nan)


def _tallies(
    maps: Tensor, mask: Tensor, ring: Tensor, tau: float, normalisation: Normalisation
) -> dict[str, np.ndarray]:
    """Sums over the pixels of each image, (n,) float64, from which ``_ratios`` makes the measures."""
    heat = _at_least_float32(maps).clamp(min=0).flatten(1)  # (n, H W)
    inside = mask.flatten(1)
    # sums run over v / max(v): no scale of the maps can overflow or vanish, and v log v stays accurate
    share_of_peak = _normalised(heat, "max")
    mask_pixels = inside.sum(1)
    threshold = _kth_largest(heat, mask_pixels)
    above, tied = heat > threshold, heat == threshold
    tallies = {
        "covered": _covered(heat, tau, normalisation),
        "energy": share_of_peak.sum(1),
        "energy_inside": (share_of_peak * inside).sum(1),
        "energy_ring": (share_of_peak * ring.flatten()).sum(1),
        "plogp": torch.special.entr(share_of_peak).sum(1),
        "masked": mask_pixels,
        "above": above.sum(1),
        "tied": tied.sum(1),
        "above_inside": (above & inside).sum(1),
        "tied_inside": (tied & inside).sum(1),
    }
    # one transfer for all; float32 holds any pixel count up to 2**24 exactly
    columns = torch.stack([tally.to(heat.dtype) for tally in tallies.values()]).cpu().double().numpy()
    return dict(zip(tallies, columns, strict=True))


def _ratios(tallies: dict[str, np.ndarray], pixels: int, ring_pixels: int) -> pd.DataFrame:
    """The measures from the sums: formulas as in ``measure``."""
    energy, masked = tallies["energy"], tallies["masked"]
    # NaN as divisor marks what is undefined and spreads to all that rests on it
    energy = np.where(energy > 0, energy, math.nan)
    told_apart = np.where((masked > 0) & (masked < pixels), masked, math.nan)
    focus = tallies["energy_inside"] / energy * told_apart / told_apart
    # of the tied pixels, as many as still fit in the top K are drawn at random
    drawn = (masked - tallies["above"]) / tallies["tied"]
    hits = tallies["above_inside"] + tallies["tied_inside"] * drawn
    # with p = u / E: -sum(p log p) = log E - sum(u log u) / E
    entropy = np.log(energy) + tallies["plogp"] / energy
    columns = {
        "coverage": tallies["covered"] / pixels,
        "focus": focus,
        "focus_lift": focus * pixels / told_apart,
        "rank_accuracy": hits / told_apart,
        "border_lift": tallies["energy_ring"] / energy * pixels / ring_pixels,
        "entropy": np.clip(entropy / math.log(pixels), 0, 1),  # rounding may step over
        "all_zero": np.isnan(energy),
        "mask_area": masked / pixels,
    }
    return pd.DataFrame(columns, columns=list(COLUMNS))


def _kth_largest(values: Tensor, k: Tensor) -> Tensor:
    """The k-th largest of each row: (n, P), (n,) -> (n, 1); for k = 0 the largest."""
    if values.device.type == "cpu":
        # NumPy sorts floats with SIMD: five times torch.sort's rate, which also carries indices along
        ordered = torch.from_numpy(np.sort(values.numpy(), axis=1))
    else:
        ordered = torch.sort(values, dim=1)[0]
    return ordered.gather(1, (values.shape[1] - k.clamp(min=1))[:, None])


def _normalised(heat: Tensor, normalisation: Normalisation) -> Tensor:
    """``normalise`` for non-negative maps (n, ...) that are already checked."""
    if not isinstance(normalisation, str):
        return heat / normalisation
    axes = tuple(range(1, heat.ndim))
    if normalisation == "min-max":
        heat = heat - heat.amin(axes, keepdim=True)
    peak = heat.amax(axes, keepdim=True)
    return heat / torch.where(peak > 0, peak, 1)


def _ring(height: int, width: int, border: int | None) -> Tensor:
    """Bool (H, W): the outer ring, ``border`` pixels wide."""
    widest = (min(height, width) - 1) // 2
    if widest < 1:
        raise InputError(f"maps of {height}x{width} are too small to measure; they must be at least 3x3")
    if border is None:
        border = max(1, round(min(height, width) / 16))
    if not 1 <= border <= widest:
        raise InputError(f"border={border} must be 1 to {widest} pixels in a {height}x{width} map")
    ring = torch.ones(height, width, dtype=torch.bool)
    ring[border:-border, border:-border] = False
    return ring


def _at_least_float32(maps: Tensor) -> Tensor:
    return maps.detach().to(torch.promote_types(maps.dtype, torch.float32))


def chunks(tensor: Tensor, like: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split along the first axis so that a chunk of ``like`` (else of the tensor itself) fits the memory."""
    maps = tensor if like is None else like
    limit = CHUNK_PIXELS.get(maps.device.type, CHUNK_PIXELS_ELSEWHERE)
    return tensor.split(max(1, limit // max(1, maps[:1].numel())))


def check_maps(maps: Tensor, name: str) -> None:
    """Refuse what is no batch of maps: finite, floating point, (N, H, W)."""
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        kind = maps.dtype if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(
            f"{name} must be a float tensor, got {kind}; convert with torch.as_tensor(...).float()"
        )
    if maps.ndim != 3:
        raise InputError(
            f"{name} must have shape (N, H, W), got {tuple(maps.shape)}; drop a channel axis with squeeze(1)"
        )
    # the extremes carry NaN and infinity along, and cost no temporary of the maps' size
    if maps.numel() and not all(extreme.isfinite() for extreme in maps.detach().aminmax()):
        raise InputError(
            f"{name} hold NaN or infinite values; they must be finite: look for a diverged network"
        )


def _check_options(normalisation: Normalisation, tau: float = 1.0) -> None:
    if isinstance(normalisation, str):
        choose("normalisation", normalisation, ("max", "min-max"))
    elif isinstance(normalisation, bool) or not 0 < normalisation < math.inf:
        raise InputError(f"normalisation={normalisation!r} must be 'max', 'min-max' or a positive number")
    if not 0 < tau <= 1:
        raise InputError(f"tau={tau} must be above 0 and at most 1: it is a share of the normalised map")

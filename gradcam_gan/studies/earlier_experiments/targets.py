"""What the regression predicts of a digit: stroke thickness and slant, exact functions of its pixels.

Both are of the digit's ink, its brightness through a smooth step, so that an empty pixel is empty and a full one full:
a little more grey there changes nothing, and the gradients lie where the outline is. No one labels anything, and where
in the image each target lies is known: its gradient by pixel.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gradcam_gan.data import check_images, to_model_range
from gradcam_gan.errors import InputError

KINK = (
    1e-2  # of grey a pixel: below it the variation counts as its square, so that it has a gradient everywhere
)


def thickness(images: Tensor) -> Tensor:
    """Mean width of the strokes in pixels: twice the area over the length of the outline.

    A stroke of width w and length L has the area wL and the outline 2(w + L): 2wL / (2w + 2L) is nearly w where L is
    long, and w for a closed ring. The outline's length is the total variation of the ink (coarea formula, Federer
    1959), from differences over 2x2 pixels, which measure upright and diagonal edges alike.

    Args:
        images: (N, C, H, W), uint8 or floating point in [-1, 1].

    Returns:
        (N,), above 0; float32, or the dtype of ``images`` if that is floating point. Differentiable.

    Raises:
        InputError: images that cannot be used, or one without ink.
    """
    found = _ink(images)
    padded = F.pad(found, (1, 1, 1, 1))
    across, down = padded.diff(dim=2), padded.diff(dim=1)
    # at the corners of the pixels
    across, down = (across[:, 1:] + across[:, :-1]) / 2, (down[:, :, 1:] + down[:, :, :-1]) / 2
    variation = (across.square() + down.square() + KINK**2).sqrt() - KINK
    return 2 * found.sum((1, 2)) / variation.sum((1, 2))


def slant(images: Tensor) -> Tensor:
    """By how many degrees the digit leans to the right: the shear that would make its main axis upright.

    atan(-m_xy / m_yy) of the ink's central second moments, y downwards: what deskewing takes out of handwriting (LeCun
    et al. 1998, section III).

    Args:
        images: (N, C, H, W), uint8 or floating point in [-1, 1].

    Returns:
        (N,), from -90 to 90; float32, or the dtype of ``images`` if that is floating point. Differentiable.

    Raises:
        InputError: images that cannot be used, or one without ink in two rows.
    """
    found = _ink(images)
    mass = found.sum((1, 2))
    y, x = (torch.arange(side).to(found) for side in found.shape[1:])
    by_row, by_column = found.sum(2), found.sum(1)
    y = y - ((by_row @ y) / mass)[:, None]  # (N, H)
    x = x - ((by_column @ x) / mass)[:, None]  # (N, W)
    m_xy = (found * y[:, :, None] * x[:, None, :]).sum((1, 2))
    m_yy = (by_row * y.square()).sum(1)
    if not (m_yy > 0).all():
        raise InputError("an image has ink in one row alone, which has no slant; give images of digits")
    return torch.rad2deg(torch.atan(-m_xy / m_yy))


TARGETS: dict[str, Callable[[Tensor], Tensor]] = {"thickness": thickness, "slant": slant}
UNITS = {"thickness": "pixels", "slant": "degrees"}


def gradients(images: Tensor, target: str) -> Tensor:
    """How much a target changes with each pixel: its exact gradient by the image's brightness, 0..1.

    Args:
        images: (N, C, H, W), uint8 or floating point in [-1, 1].
        target: a name in ``TARGETS``.

    Returns:
        float32 (N, H, W), signed, summed over channels, in the target's unit for a full change of the pixel.

    Raises:
        InputError: as the target.
    """
    shown = to_model_range(images.detach()).double().requires_grad_()
    (found,) = torch.autograd.grad(TARGETS[target](shown).sum(), shown)
    return 2 * found.sum(1).float()  # the range of [-1, 1] is twice as wide


def _ink(images: Tensor) -> Tensor:
    """Images -> (N, H, W) in 0..1: 3 x^2 - 2 x^3 of the mean brightness x over channels."""
    check_images(images)
    brightness = ((to_model_range(images).mean(1) + 1) / 2).clamp(0, 1)  # rounding may step over
    found = brightness.square() * (3 - 2 * brightness)
    if not (found.sum((1, 2)) > 0).all():
        raise InputError(
            "an image is empty: without ink there is no thickness and no slant; give images of digits"
        )
    return found

"""An image of the reader's own, as the network takes it: a drawing made to look like MNIST, or an uploaded file."""

import io

import torch
from torch import Tensor
from torch.nn import functional as F

from gradcam_gan.data import read_image, resize
from gradcam_gan.errors import InputError, one_line

MNIST_SIZE, MNIST_BOX = 28, 20  # pixels a side of a digit's image, and of the box that the digit fits in


def as_mnist(strokes: Tensor) -> Tensor:
    """A drawing prepared as LeCun et al. prepared MNIST.

    The digit is scaled, its proportions kept, so that it fits a 20x20 box, and placed in 28x28 pixels with its centre
    of mass at pixel 14, counted from 0, both ways: there it lies, give or take half a pixel, in all of MNIST.

    Args:
        strokes: uint8 (H, W), white (255) on black (0).

    Returns:
        uint8 (28, 28).

    Raises:
        InputError: nothing is drawn.
    """
    inked = strokes.nonzero()
    if len(inked) == 0:
        raise InputError("nothing is drawn yet")
    (top, left), (bottom, right) = inked.amin(0).tolist(), inked.amax(0).tolist()
    digit = strokes[top : bottom + 1, left : right + 1].float()[None, None]
    scale = MNIST_BOX / max(digit.shape[2:])
    size = [max(1, round(side * scale)) for side in digit.shape[2:]]
    digit = F.interpolate(digit, size=size, mode="bilinear", align_corners=False, antialias=True)[0, 0]
    height, width = size
    rows, columns = torch.arange(height), torch.arange(width)
    mass = digit.sum()
    middle = float((digit.sum(1) * rows).sum() / mass), float((digit.sum(0) * columns).sum() / mass)
    # a lopsided digit may not be centred without leaving the image: then as far as it goes
    y, x = (
        min(max(round(MNIST_SIZE // 2 - centre), 0), MNIST_SIZE - side)
        for centre, side in zip(middle, size, strict=True)
    )
    placed = F.pad(digit, (x, MNIST_SIZE - x - width, y, MNIST_SIZE - y - height))
    return placed.round().clamp(0, 255).to(torch.uint8)


def fitted(image: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """A grey image uint8 (h, w) -> uint8 (C, H, W): enlarged bilinearly as MNIST is, the same in every channel."""
    channels, height, width = shape
    return resize(image[None, None], height, width)[0].expand(channels, -1, -1).clone()


def read_upload(content: bytes, shape: tuple[int, int, int]) -> Tensor:
    """An image file's bytes -> uint8 (C, H, W), as ``read_image``.

    Raises:
        InputError: it is no image.
    """
    try:
        return read_image(io.BytesIO(content), shape)
    except Exception as error:  # of many kinds
        raise InputError(f"the uploaded file is no image that can be read: {one_line(error)}") from None

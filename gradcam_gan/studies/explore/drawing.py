"""An image of the reader's own, as the network takes it: a drawing made to look like MNIST, or an uploaded file."""

import io

import numpy as np
import PIL.Image
import torch
from PIL import ImageOps
from torch import Tensor
from torch.nn import functional as F

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
    enlarged = F.interpolate(
        image.float()[None, None], size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return enlarged[0].round().clamp(0, 255).to(torch.uint8).expand(channels, -1, -1).clone()


def read_upload(content: bytes, shape: tuple[int, int, int]) -> Tensor:
    """An image file's bytes -> uint8 (C, H, W): upright, shorter side fitted, middle part kept.

    Raises:
        InputError: it is no image.
    """
    channels, height, width = shape
    try:
        with PIL.Image.open(io.BytesIO(content)) as opened:
            image = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
            image = ImageOps.fit(image, (width, height), method=PIL.Image.Resampling.BILINEAR)
    # damaged files make Pillow raise OSError, SyntaxError, ValueError, and its own bare Exceptions
    except Exception as error:
        raise InputError(f"the uploaded file is no image that can be read: {one_line(error)}") from None
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()

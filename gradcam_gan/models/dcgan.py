"""The paper's discriminator and generator, and the standard DCGAN discriminator beside them.

The paper (section 3) lists layers, not shapes. At a true 64x64 four convolutions give one score only when the
last is an 8x8 convolution without padding, so that is the default reading here. The preset ``paper28`` is the
28x28 network whose published MNIST code the paper's layer lists match, kernel sizes included.

All discriminators return the logit, shape (N,): the sigmoid that the paper lists last is applied by the loss
and by whoever needs D(x). Activations are never in place, so that hooks see what a layer really produced.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.errors import InputError
from gradcam_gan.models.options import PRESET_SIZE, Padding, Preset

BACKGROUND = -1.0  # black, in images scaled to [-1, 1]
LATENT_SIZE = 100


class BackgroundPaddedConv2d(nn.Conv2d):
    """A convolution that pads with the image background (-1) instead of zero, which is mid-grey here.

    Padding an image with zeros draws a bright frame around it that the discriminator can see.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, K, H', W')."""
        padding = self.padding
        assert not isinstance(padding, str)  # torch also knows "same" and "valid", never used here
        vertical, horizontal = padding
        padded = F.pad(input, (horizontal, horizontal, vertical, vertical), value=BACKGROUND)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _convolution(channels_in: int, channels_out: int, padding: Padding, first: bool) -> nn.Conv2d:
    """A 4x4, stride 2 convolution; ``background`` applies to the image only, features keep zeros."""
    if padding == "background" and first:
        return BackgroundPaddedConv2d(channels_in, channels_out, 4, 2, 1, bias=False)
    mode: Literal["replicate", "zeros"] = "replicate" if padding == "replicate" else "zeros"
    return nn.Conv2d(channels_in, channels_out, 4, 2, 1, bias=False, padding_mode=mode)


def _initialise(module: nn.Module) -> None:
    """DCGAN's initialisation (Radford et al. 2016): Conv N(0, 0.02), BatchNorm N(1, 0.02)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


def _check_options(preset: str, width: int, channels: int, padding: str) -> None:
    if preset not in PRESET_SIZE:
        raise InputError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESET_SIZE)}")
    if width < 1 or channels < 1:
        raise InputError(f"width={width} and channels={channels} must both be at least 1")
    if padding not in ("zeros", "background", "replicate"):
        raise InputError(f"padding={padding!r} is unknown; choose zeros, background or replicate")


class _ConvolutionalDiscriminator(nn.Module):
    """What every discriminator here shares: a Sequential, named blocks, a size check, one logit an image."""

    layers: nn.Sequential
    blocks: dict[str, int]

    def __init__(self, image_size: int, channels: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.channels = channels

    def block(self, name: str) -> nn.Module:
        """The module that ends the block of that name (its activation)."""
        return self.layers[self.blocks[name]]

    @property
    def named_layers(self) -> dict[str, nn.Module]:
        """Names that ``explain`` knows: ``conv1``, ``block1``, ``conv2``, ``norm2``, ``block2``, ...; not the head."""
        number, named = 0, {}
        for layer in list(self.layers)[: max(self.blocks.values()) + 1]:
            number += isinstance(layer, nn.Conv2d)
            kind = {nn.LeakyReLU: "block", nn.BatchNorm2d: "norm", nn.GroupNorm: "norm"}.get(
                type(layer), "conv"
            )
            named[f"{kind}{number}"] = layer
        return named

    def check_size(self, images: Tensor) -> None:
        """Refuse images that it was not built for.

        Raises:
            InputError: another shape.
        """
        expected = (self.channels, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise InputError(
                f"{type(self).__name__} takes images of shape (N, {', '.join(map(str, expected))}), "
                f"got {tuple(images.shape)}"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] -> logits (N,); above 0 means "real"."""
        self.check_size(images)
        return self.layers(images).flatten()


class Discriminator(_ConvolutionalDiscriminator):
    """The paper's discriminator: Conv, LReLU, Conv, BN, LReLU, Conv, BN, LReLU, Conv (section 3).

    Without arguments: 64x64 grey images, 64-128-256 channels, feature maps 32-16-8, an 8x8 head.
    Blocks that ``explain`` knows by name: ``block1``, ``block2``, ``block3``, each ended by its LeakyReLU.

    Args:
        preset: ``paper64`` (a true 64x64) or ``paper28`` (the 28x28 ancestor: feature maps 14-7-3).
        width: channels of the first block; the next two have twice and four times as many.
        channels: image channels, 1 for grey, 3 for RGB.
        padding: ``zeros`` as in public DCGAN code; ``background`` pads the image with -1;
            ``replicate`` repeats the edge in every padded convolution.

    Raises:
        InputError: an unknown preset or padding, or a width or channel count below 1.
    """

    def __init__(
        self, preset: Preset = "paper64", *, width: int = 64, channels: int = 1, padding: Padding = "zeros"
    ) -> None:
        _check_options(preset, width, channels, padding)
        super().__init__(PRESET_SIZE[preset], channels)
        # paper28 ends on 3x3 features: a 4x4 stride-2 head with padding 1 makes one score of them
        head = {"paper64": (8, 1, 0), "paper28": (4, 2, 1)}[preset]
        self.layers = nn.Sequential(
            _convolution(channels, width, padding, first=True),
            nn.LeakyReLU(0.2),
            _convolution(width, 2 * width, padding, first=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            _convolution(2 * width, 4 * width, padding, first=False),
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, *head, bias=False),
        )
        self.blocks = {"block1": 1, "block2": 4, "block3": 7}
        _initialise(self)


class StandardDiscriminator(_ConvolutionalDiscriminator):
    """The five-convolution discriminator of the DCGAN literature (Radford et al. 2016; PyTorch's example).

    64x64 images, feature maps 32-16-8-4, then a 4x4 head: one halving more than the paper's network, so its
    last block is 4x4 (``block4``).

    Args:
        width: channels of the first block; each next block has twice as many.
        channels: image channels.
        padding: as for ``Discriminator``.

    Raises:
        InputError: an unknown padding, or a width or channel count below 1.
    """

    def __init__(self, *, width: int = 64, channels: int = 1, padding: Padding = "zeros") -> None:
        _check_options("paper64", width, channels, padding)
        super().__init__(64, channels)
        layers: list[nn.Module] = [_convolution(channels, width, padding, first=True), nn.LeakyReLU(0.2)]
        for i in range(3):
            wide = width * 2 ** (i + 1)
            layers += [
                _convolution(wide // 2, wide, padding, first=False),
                nn.BatchNorm2d(wide),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False))
        self.blocks = {"block1": 1, "block2": 4, "block3": 7, "block4": 10}
        _initialise(self)


class Generator(nn.Module):
    """The paper's generator: (ConvTranspose, BatchNorm, ReLU) x 4, ConvTranspose, Tanh (section 3).

    Args:
        preset: ``paper64`` (feature maps 4-8-16-32-64) or ``paper28`` (4-8-16-32, then, as in the 28x28
            ancestor code, a 1x1 transposed convolution whose padding of 2 crops 32 to 28).
        width: channels of the last hidden block; the first has eight times as many.
        channels: image channels.
        classes: how many it is told of, as a one-hot vector beside the latents; 0: an unconditional generator.

    Raises:
        InputError: an unknown preset, or a width or channel count below 1.
    """

    def __init__(
        self, preset: Preset = "paper64", *, width: int = 64, channels: int = 1, classes: int = 0
    ) -> None:
        super().__init__()
        _check_options(preset, width, channels, "zeros")
        self.classes = classes
        # (channels out in units of width, kernel, stride, padding) of the hidden blocks
        hidden = [(8, 4, 1, 0), (4, 4, 2, 1), (2, 4, 2, 1), (1, 4, 2, 1)]
        output = {"paper64": (4, 2, 1), "paper28": (1, 1, 2)}[preset]
        layers: list[nn.Module] = []
        channels_in = LATENT_SIZE + classes
        for factor, kernel, stride, padding in hidden:
            layers += [
                nn.ConvTranspose2d(channels_in, factor * width, kernel, stride, padding, bias=False),
                nn.BatchNorm2d(factor * width),
                nn.ReLU(),
            ]
            channels_in = factor * width
        layers += [nn.ConvTranspose2d(channels_in, channels, *output, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        _initialise(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (N, 100), standard normal, and classes (N,) -> images (N, C, H, W) in [-1, 1].

        Raises:
            InputError: classes missing, out of range, or given to an unconditional generator.
        """
        check_labels(labels, self.classes, type(self).__name__)
        if labels is not None:
            one_hot = F.one_hot(labels, self.classes).to(latents.dtype)
            latents = torch.cat([latents, one_hot], 1)
        return self.layers(latents[:, :, None, None])


def check_labels(labels: Tensor | None, classes: int, network: str) -> None:
    """Refuse classes (N,) that a network of so many classes cannot take.

    Raises:
        InputError: they are missing, out of range, or the network takes none.
    """
    if classes and labels is None:
        raise InputError(
            f"{network} is conditional and needs the class of each image: labels of 0..{classes - 1}"
        )
    if labels is not None and not classes:
        raise InputError(f"{network} is unconditional and takes no labels")
    if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(
            f"labels go from {int(labels.min())} to {int(labels.max())}; they must lie in 0..{classes - 1}"
        )

"""The paper's discriminator and generator, and what the follow-up's models tell them: classes, and a diffusion's time.

The paper (section 3) lists layers, not shapes. At a true 64x64 four convolutions give one score only when the
last is an 8x8 convolution without padding, so that is the default reading here. The preset ``paper28`` is the
28x28 network whose published MNIST code the paper's layer lists match, kernel sizes included.

The discriminator returns the logit, shape (N,): the sigmoid that the paper lists last is applied by the loss
and by whoever needs D(x). Activations are never in place, so that hooks see what a layer really produced.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.errors import InputError
from gradcam_gan.models.options import PRESET_SIZE, NetworkOptions, Normalisation, Padding, Preset

BACKGROUND = -1.0  # black, in images scaled to [-1, 1]
LATENT_SIZE = 100
GROUPS = 8  # of GroupNorm, at most
FREQUENCIES = 16
LONGEST_PERIOD = 10_000.0
TIME_NORM = 0.5  # of the time's embedding to the class's: the class must not drown
PLACES = {"paper64": 64, "paper28": 9}  # of the last block's features: 8x8 or 3x3
# the trunk's layers; a block is known by the LeakyReLU that ends it
LAYER_NAMES = ("conv1", "block1", "conv2", "norm2", "block2", "conv3", "norm3", "block3")


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


def initialise(layer: nn.Module) -> None:
    """DCGAN's initialisation (Radford et al. 2016): Conv N(0, 0.02), BatchNorm N(1, 0.02); others as they are."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


def _use_group_normalisation(layers: nn.Sequential) -> None:
    """Put a GroupNorm in the place of every BatchNorm."""
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            channels = layer.num_features
            groups = max(groups for groups in range(1, GROUPS + 1) if channels % groups == 0)
            layers[i] = nn.GroupNorm(groups, channels)


class PaperNetwork(nn.Module):
    """The paper's Conv, LReLU, Conv, BN, LReLU, Conv, BN, LReLU, Conv (section 3): what D and DuDGAN's C share.

    Args:
        preset: ``paper64`` (a true 64x64) or ``paper28`` (the 28x28 ancestor: feature maps 14-7-3).
        width: channels of the first block; the next two have twice and four times as many.
        channels: image channels, 1 for grey, 3 for RGB.
        padding: ``zeros`` as in public DCGAN code; ``background`` pads the image with -1;
            ``replicate`` repeats the edge in every padded convolution.
        normalisation: ``batch`` or ``group``; BatchNorm mixes the noise levels of a diffusion within a batch.

    Raises:
        InputError: an unknown preset, padding or normalisation, or a width or channel count below 1.
    """

    def __init__(
        self, preset: Preset, width: int, channels: int, padding: Padding, normalisation: Normalisation
    ) -> None:
        NetworkOptions(
            preset=preset, width=width, channels=channels, padding=padding, normalisation=normalisation
        )
        super().__init__()
        self.image_size, self.channels = PRESET_SIZE[preset], channels
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
        self.apply(initialise)
        if normalisation == "group":
            _use_group_normalisation(self.layers)

    @property
    def named_layers(self) -> dict[str, nn.Module]:
        """The layers that ``explain`` knows by name: ``conv1``, ``block1`` and so on to ``block3``."""
        return dict(zip(LAYER_NAMES, self.layers, strict=False))  # the head has no name

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


class Discriminator(PaperNetwork):
    """The paper's discriminator, and the follow-up's, which is told a class, a time, or both.

    Without arguments: 64x64 grey images, 64-128-256 channels, feature maps 32-16-8, an 8x8 head.

    Told something, logit = psi(h) + <sum of h, e_class + e_t> (Miyato & Koyama 2018), h being the last block's
    features; it is linear in them either way, so at ``block3`` HiResCAM sums exactly to the logit. e_t is a learned
    map of sinusoids of t and is 0 at t = 0. Classes and times are embedded apart: the code that came with DuDGAN joins
    the raw integer t to the one-hot class, in which the class drowns. Embeddings are drawn from a generator of their
    own, so the trunk starts as an unconditional discriminator of that seed does.

    Args:
        preset, width, channels, padding, normalisation: as for ``PaperNetwork``.
        classes: how many; 0: it is told none.
        timed: whether it is told the time of a diffusion.

    Raises:
        InputError: as ``PaperNetwork``.
    """

    def __init__(
        self,
        preset: Preset = "paper64",
        *,
        width: int = 64,
        channels: int = 1,
        padding: Padding = "zeros",
        classes: int = 0,
        timed: bool = False,
        normalisation: Normalisation = "batch",
    ) -> None:
        super().__init__(preset, width, channels, padding, normalisation)
        self.classes, self.timed, self.features = classes, timed, 4 * width
        # the sum has as many terms as places: with unit features it starts within the logit's own scale
        self.embedding_scale = 1 / math.sqrt(self.features) / PLACES[preset]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the embeddings anew; its layers draw their own."""
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        if self.classes:
            weights = torch.randn(self.classes, self.features, generator=generator)
            self.class_embedding = nn.Parameter(weights * self.embedding_scale)
        if self.timed:
            weights = torch.randn(2 * FREQUENCIES, self.features, generator=generator)
            self.time_embedding = nn.Parameter(weights * self.embedding_scale * TIME_NORM)

    def conditions(self, labels: Tensor, times: Tensor | None = None) -> dict[str, Tensor]:
        """What it takes of classes (N,) and times (N,; by default 0), by the names of ``forward``'s arguments."""
        told = {"labels": labels} if self.classes else {}
        if self.timed:
            told["times"] = torch.zeros_like(labels) if times is None else times
        return told

    def embed(self, labels: Tensor | None, times: Tensor | None) -> Tensor | None:
        """e_class + e_t, (N, features); None where it is told neither.

        Raises:
            InputError: classes or times that are missing, out of range, or that it does not take.
        """
        check_labels(labels, self.classes, type(self).__name__)
        if self.timed and times is None:
            raise InputError(f"{type(self).__name__} needs the time t of each image: times, 0 for clean ones")
        if times is not None and not self.timed:
            raise InputError(f"{type(self).__name__} has no diffusion and takes no times")
        parts = []
        if labels is not None:
            parts.append(self.class_embedding[labels])
        if times is not None:
            parts.append(sinusoids(times) @ self.time_embedding)
        return sum(parts[1:], parts[0]) if parts else None

    def forward(self, images: Tensor, labels: Tensor | None = None, times: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1], classes (N,) and times (N,) -> logits (N,); above 0 means "real"."""
        self.check_size(images)
        embedding = self.embed(labels, times)
        if embedding is None:
            return self.layers(images).flatten()
        features = self.layers[:-1](images)
        return self.layers[-1](features).flatten() + (features.sum((2, 3)) * embedding).sum(1)


def sinusoids(times: Tensor) -> Tensor:
    """Times (N,) -> (N, 32): sines and cosines (less 1) of sixteen frequencies, of mean square up to 1; 0 at t = 0."""
    frequencies = LONGEST_PERIOD ** (-torch.arange(FREQUENCIES, device=times.device) / FREQUENCIES)
    angles = times[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos() - 1], 1) / math.sqrt(FREQUENCIES)


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
        NetworkOptions(preset=preset, width=width, channels=channels)
        super().__init__()
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
        self.apply(initialise)

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

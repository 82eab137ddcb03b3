"""The discriminator and the classifier of the follow-up's models: the paper's D, told a class and a time.

Both keep the paper's trunk, so ``explain`` knows their blocks by the same names, and their outputs are linear in
the last block: at ``block3`` HiResCAM sums exactly to the logit.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.errors import InputError
from gradcam_gan.models.dcgan import Discriminator, check_labels
from gradcam_gan.models.options import Model, Padding, Preset

GROUPS = 8  # of GroupNorm, at most
FREQUENCIES = 16
LONGEST_PERIOD = 10_000.0
TIME_NORM = 0.5  # of the time's embedding to the class's: the class must not drown
EMBEDDING = 128  # of the classifier
PLACES = {"paper64": 64, "paper28": 9}  # of the last block's features: 8x8 or 3x3


class ProjectionDiscriminator(Discriminator):
    """logit = psi(h) + <sum of h, e_class + e_t> (Miyato & Koyama 2018), h being the last block's features.

    e_t is a learned map of sinusoids of t and is 0 at t = 0. Classes and times are embedded apart: the code that
    came with DuDGAN joins the raw integer t to the one-hot class, in which the class drowns. Embeddings are drawn
    from a generator of their own, so the trunk starts as an unconditional ``Discriminator`` of that seed does.

    Args:
        preset, width, channels, padding: as for ``Discriminator``.
        classes: how many; 0: it is told none.
        timed: whether it is told the time of a diffusion.
        normalisation: ``batch`` or ``group``; BatchNorm mixes the noise levels within a batch.
    """

    def __init__(
        self,
        preset: Preset = "paper64",
        *,
        width: int = 64,
        channels: int = 1,
        padding: Padding = "zeros",
        classes: int = 10,
        timed: bool = False,
        normalisation: str = "batch",
    ) -> None:
        super().__init__(preset, width=width, channels=channels, padding=padding)
        if normalisation == "group":
            _use_group_normalisation(self.layers)
        self.classes, self.timed = classes, timed
        features = 4 * width
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        # the sum has as many terms as places: with unit features it starts within the logit's own scale
        scale = 1 / math.sqrt(features) / PLACES[preset]
        if classes:
            self.class_embedding = nn.Parameter(torch.randn(classes, features, generator=generator) * scale)
        if timed:
            weights = torch.randn(2 * FREQUENCIES, features, generator=generator)
            self.time_embedding = nn.Parameter(weights * scale * TIME_NORM)

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
        features = self.layers[:-1](images)
        logits = self.layers[-1](features).flatten()
        if embedding is None:
            return logits
        return logits + (features.sum((2, 3)) * embedding).sum(1)


class ContrastiveClassifier(Discriminator):
    """DuDGAN's classifier: the paper's trunk, then an embedding of length 1 and the logits of the classes.

    Args:
        preset, width, channels, padding: as for ``Discriminator``.
        classes: how many.
        normalisation: ``batch`` or ``group``.
    """

    def __init__(
        self,
        preset: Preset = "paper64",
        *,
        width: int = 64,
        channels: int = 1,
        padding: Padding = "zeros",
        classes: int = 10,
        normalisation: str = "batch",
    ) -> None:
        super().__init__(preset, width=width, channels=channels, padding=padding)
        if normalisation == "group":
            _use_group_normalisation(self.layers)
        self.layers = nn.Sequential(*list(self.layers)[:-1])  # the trunk: no logit for "real"
        self.embedding = nn.Linear(4 * width, EMBEDDING)
        self.head = nn.Linear(4 * width, classes)
        with torch.no_grad():  # they take a sum over places, which varies as much more as there are of them
            for weight in (self.embedding.weight, self.head.weight):
                weight.div_(math.sqrt(PLACES[preset]))

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [-1, 1] -> embeddings (N, 128) of length 1, and logits (N, classes)."""
        self.check_size(images)
        features = self.layers(images).sum((2, 3))
        return F.normalize(self.embedding(features).float(), dim=1), self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] -> logits (N, classes)."""
        return self.both(images)[1]


def conditions(model: Model | None, labels: Tensor, time: int = 0) -> dict[str, Tensor]:
    """What a model's discriminator takes beside images, for ``explain``.

    Args:
        model: of the training.
        labels: classes (N,); not used by an unconditional model.
        time: the same for all; not used without a diffusion.
    """
    told = {}
    if model is not None and model.conditional:
        told["labels"] = labels
    if model is not None and model.diffusion is not None:
        told["times"] = torch.full_like(labels, time)
    return told


def sinusoids(times: Tensor) -> Tensor:
    """Times (N,) -> (N, 32): sines and cosines (less 1) of sixteen frequencies, of mean square up to 1; 0 at t = 0."""
    frequencies = LONGEST_PERIOD ** (-torch.arange(FREQUENCIES, device=times.device) / FREQUENCIES)
    angles = times[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos() - 1], 1) / math.sqrt(FREQUENCIES)


def supervised_contrast(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """SupCon (Khosla et al. 2020, equation 2): every other image of the same class is a positive.

    Args:
        embeddings: (N, D), of length 1; several views of an image are several rows.
        labels: (N,).
        temperature: of the similarities.

    Returns:
        The mean over rows that have a positive; 0 if none has.
    """
    # a temperature of 0.07 magnifies rounding: no bfloat16 here, whatever the caller's autocast
    with torch.autocast(embeddings.device.type, enabled=False):
        similarity = embeddings.float() @ embeddings.float().T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    log_share = similarity - similarity.masked_fill(itself, -math.inf).logsumexp(1, keepdim=True)
    positive = (labels[:, None] == labels[None]) & ~itself
    count = positive.sum(1)
    loss = -(log_share * positive).sum(1) / count.clamp(min=1)
    return loss.sum() / (count > 0).sum().clamp(min=1)


def _use_group_normalisation(layers: nn.Sequential) -> None:
    """Put a GroupNorm in the place of every BatchNorm."""
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            channels = layer.num_features
            groups = max(groups for groups in range(1, GROUPS + 1) if channels % groups == 0)
            layers[i] = nn.GroupNorm(groups, channels)

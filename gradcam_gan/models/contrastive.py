"""DuDGAN's classifier and the contrastive loss that it learns by, and G through it (Yeom & Lee 2023)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.models.dcgan import PLACES, PaperNetwork
from gradcam_gan.models.options import Normalisation, Padding, Preset

EMBEDDING = 128


class ContrastiveClassifier(PaperNetwork):
    """DuDGAN's classifier: the paper's trunk, then an embedding of length 1 and the logits of the classes.

    Args:
        preset, width, channels, padding, normalisation: as for ``PaperNetwork``.
        classes: how many.
    """

    def __init__(
        self,
        preset: Preset = "paper64",
        *,
        width: int = 64,
        channels: int = 1,
        padding: Padding = "zeros",
        classes: int = 10,
        normalisation: Normalisation = "batch",
    ) -> None:
        super().__init__(preset, width, channels, padding, normalisation)
        del self.layers[-1]  # the trunk alone: no logit for "real"
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

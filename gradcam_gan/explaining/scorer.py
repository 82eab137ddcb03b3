"""A network as the libraries of explanations want it: images in, one number each out."""

from typing import Literal

import torch
from torch import Tensor, nn

from gradcam_gan.explaining.batches import Batch
from gradcam_gan.explaining.batchnorm import BatchNorm

Precision = Literal["float32", "bfloat16"]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The precision asked for, whatever a caller's own autocast says."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


class Scorer(nn.Module):
    """The scores of a batch's images, and of altered copies of them, as a function of the images alone.

    Args:
        network: a copy of the network explained, which a library may hook and change.
        batch: what is explained; altered copies are told what their image is told.
        precision: of the network.
    """

    def __init__(self, network: nn.Module, batch: Batch, precision: Precision) -> None:
        super().__init__()
        self.network, self.batch, self.precision = network, batch, precision

    def forward(self, images: Tensor, indices: Tensor | None = None) -> Tensor:
        """Scores of images, in units of the score.

        Args:
            images: (m, C, H, W).
            indices: which of the batch's images each is made of, (m,); by default in turn.

        Returns:
            float32 (m,).
        """
        if indices is None:
            indices = torch.arange(len(images), device=images.device) % len(self.batch.images)
        with autocast(images.device, self.precision):
            return self.batch.versions(images, indices).scores(self.network)

    def of(self, index: int) -> "Scorer":
        """Of one of the images alone."""
        one = torch.tensor([index], device=self.batch.images.device)
        batch = self.batch.versions(self.batch.images[index : index + 1], one)
        return Scorer(self.network, batch, self.precision)

    def check_independent(self) -> None:
        """Refuse a network that normalises with the statistics of a batch: altered copies would be its batch.

        Raises:
            ValueError: it does.
        """
        if any(isinstance(part, BatchNorm) and part.running_mean is None for part in self.network.modules()):
            raise ValueError(
                "its BatchNorm layers use the statistics of the batch, and the method scores altered copies, which "
                "would change them; give it running or reference statistics"
            )

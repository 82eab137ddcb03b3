"""Networks as ``explain`` takes them: the logit of one class, clean images in front of a diffusion."""

import torch
from torch import Tensor, nn

from gradcam_gan.models.contrastive import ContrastiveClassifier
from gradcam_gan.models.dcgan import Discriminator, check_labels
from gradcam_gan.models.diffusion import diffuse
from gradcam_gan.models.options import Model


class ClassLogit(nn.Module):
    """A classifier as ``explain`` takes it: the logit of one class for each image.

    Args:
        classifier: maps images to logits (N, classes).
    """

    def __init__(self, classifier: ContrastiveClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    @property
    def named_layers(self) -> dict[str, nn.Module]:
        """Those of the network within."""
        return self.classifier.named_layers

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] and classes (N,) -> logits (N,)."""
        scores = self.classifier(images)
        check_labels(labels, scores.shape[1], "the classifier")
        return scores.gather(1, labels[:, None])[:, 0]


class Diffused(nn.Module):
    """A network behind its forward diffusion, as ``explain`` takes it: clean images in, the logit of noised ones out.

    Args:
        network: a discriminator, or a ``ClassLogit``; told the time if it is ``timed``.
        horizon: T, that the schedule of the noise is spread over.
        sigma: of the noise, in units of the pixels.
    """

    def __init__(self, network: Discriminator | ClassLogit, horizon: int, sigma: float) -> None:
        super().__init__()
        self.network, self.horizon, self.sigma = network, horizon, sigma

    @property
    def named_layers(self) -> dict[str, nn.Module]:
        """Those of the network within."""
        return self.network.named_layers

    def forward(self, images: Tensor, times: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1], times (N,), noise of the images' shape, classes (N,) -> logits (N,).

        Raises:
            InputError: times beyond the horizon, and what the network refuses.
        """
        told = {} if labels is None else {"labels": labels}
        if isinstance(self.network, Discriminator) and self.network.timed:
            told["times"] = times
        return self.network(diffuse(images, times, self.horizon, self.sigma, noise), **told)


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

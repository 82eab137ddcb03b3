"""P6: a classifier of digits with their heatmap added, against anything else of the same energy.

A first network learns from the images as they are. Its Grad-CAM for the class that it predicts is added to each image,
training and held-out alike, so that no label is used, and a second network learns from these. Of training images the
maps come from a network that has learned them, of held-out ones they do not: the method's own weakness, which the
controls do not share.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from gradcam_gan.data import ImageSet
from gradcam_gan.explaining.cam import explain
from gradcam_gan.explaining.measures import normalise
from gradcam_gan.explaining.quality import occlude, randomise
from gradcam_gan.explaining.targets import class_logit
from gradcam_gan.studies.earlier_experiments.digit_networks import (
    CONVOLUTION,
    DigitTraining,
    digit_network,
    outputs_of,
)
from gradcam_gan.studies.earlier_experiments.rules import CONTROLS, HEATMAP, PLAIN

VARIANTS = (PLAIN, HEATMAP, *CONTROLS)
CALIBRATION_IMAGES = 1024
HELD_OUT_SEED = 2**20  # of the noise added to held-out images: no training's
EXPLAINED_AT_ONCE = 500


def heatmaps(network: nn.Module, images: Tensor) -> Tensor:
    """Grad-CAM at the last convolution for the class that a network predicts, each divided by its maximum.

    Args:
        network: a classifier.
        images: uint8 (N, C, H, W).

    Returns:
        float32 (N, H, W) in 0..1, on the CPU; a map without evidence is zero.
    """
    predicted = outputs_of(network, images).argmax(1)
    maps = explain(
        network,
        images,
        target=class_logit(predicted),
        layer=CONVOLUTION,
        batch_size=EXPLAINED_AT_ONCE,
    )
    return normalise(maps.cpu(), "max")


def added(images: Tensor, what: Tensor) -> Tensor:
    """Images uint8 (N, C, H, W) plus (N, 1 or C, H, W) on the scale of 0..1, clipped and rounded: uint8."""
    return (images / 255 + what).clamp(0, 1).mul(255).round().to(torch.uint8)


def variants(
    first: nn.Module, redrawn: nn.Module, images: Tensor, weight: float, seed: int
) -> dict[str, Tensor]:
    """The images as every second network sees them.

    What a control adds has, before clipping, the Euclidean norm of the weighted heatmap of that image.

    Args:
        first: the classifier whose heatmaps are added.
        redrawn: the same with other weights.
        images: uint8 (N, C, H, W).
        weight: of the heatmap, on the scale of 0..1.
        seed: of the noise.

    Returns:
        uint8 (N, C, H, W), by the names of ``VARIANTS``.
    """
    heat = weight * heatmaps(first, images)[:, None]
    shape = (len(images), *images.shape[2:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))[:, None]
    blurred = (occlude(images, torch.zeros(shape), 1.0, occluder="blur") + 1) / 2
    controls = dict(zip(CONTROLS, (noise, blurred, heatmaps(redrawn, images)[:, None]), strict=True))
    scaled = {name: as_strong(what, heat.expand_as(what)) for name, what in controls.items()}
    return {PLAIN: images, HEATMAP: added(images, heat)} | {
        name: added(images, what) for name, what in scaled.items()
    }


def as_strong(what: Tensor, like: Tensor) -> Tensor:
    """Each image's share (N, C, H, W) scaled to the Euclidean norm of another's; one that is zero stays zero."""
    own, wanted = (values.flatten(1).norm(dim=1) for values in (what, like))
    factor = wanted / own.clamp(min=torch.finfo(own.dtype).tiny)
    return what * factor[:, None, None, None]


@dataclass(frozen=True)
class Setting:
    """Whom a classifier of P6 learns from.

    Attributes:
        training: its images and labels.
        held_out: those that it is tested on.
        how: it is trained, and so is each second network: same seed, same order.
        weight: of the heatmap, on the scale of 0..1.
    """

    training: ImageSet
    held_out: ImageSet
    how: DigitTraining
    weight: float

    def networks(self, runs_dir: Path) -> tuple[nn.Module, nn.Module]:
        """The network whose heatmaps are added, and the same with other weights."""
        images = self.training.images
        trained = digit_network(self.how, images, self.training.labels, runs_dir)
        some = images[:CALIBRATION_IMAGES]
        redrawn = randomise(trained, from_layer="convolutions.0", seed=self.how.seed, reference_images=some)
        return trained, redrawn


def accuracy_table(setting: Setting, runs_dir: Path) -> pd.DataFrame:
    """Get or train a classifier on each variant of the images, and test it on the same variant of held-out ones.

    Returns:
        A row per ``variant``: ``accuracy`` on held-out images and ``training_accuracy``, 0..1; ``added``, the root mean
        square of what is different from the image on the scale of 0..1, and ``untouched``, the share of training images
        that nothing was added to.
    """
    training, held_out, seed = setting.training, setting.held_out, setting.how.seed
    both = setting.networks(runs_dir)
    shown = variants(*both, training.images, setting.weight, seed)
    tested = variants(*both, held_out.images, setting.weight, HELD_OUT_SEED)
    rows = []
    for name in VARIANTS:
        network = digit_network(setting.how, shown[name], training.labels, runs_dir)
        changed = ((shown[name].float() - training.images) / 255).flatten(1)
        accuracy, training_accuracy = (
            share_right(network, images, labels)
            for images, labels in ((tested[name], held_out.labels), (shown[name], training.labels))
        )
        rows.append(
            {
                "variant": name,
                "accuracy": accuracy,
                "training_accuracy": training_accuracy,
                "added": float(changed.square().mean().sqrt()),
                "untouched": float((changed == 0).all(1).float().mean()),
            }
        )
    return pd.DataFrame(rows)


def share_right(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that a classifier gets right, 0..1."""
    return float((outputs_of(network, images).argmax(1) == labels).float().mean())

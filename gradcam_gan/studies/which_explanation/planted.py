"""A discriminator whose evidence is known: a marker is planted in every real training image.

The marker is a small checkerboard that no digit has, at a place drawn uniformly over the image: no map wins by a habit
of looking at the middle or at the border. A generator that learns would paint the marker too, so the images that D is
trained against are fixed. Two things keep a D from needing the marker, and both are shown beside it (``TRAININGS``):

- generated images have faults of their own, and D can tell them without it. So half of the images called "not real" are
  real ones without the marker;
- batches of one kind each, as in a GAN's training, tell D their kind by their BatchNorm statistics. So a batch here
  holds both kinds.

What D uses is not taken for granted: its logit must fall when the marker is taken out of an image (``falls``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.explaining.batches import score_images
from gradcam_gan.explaining.batchnorm import calibrate
from gradcam_gan.explaining.cam import evidence_maps
from gradcam_gan.explaining.measures import measure
from gradcam_gan.studies.which_explanation.two_sets import as_shown, discriminator_of
from gradcam_gan.training.config import TrainingConfig

SIDE, SQUARE = 8, 2  # pixels of the marker, and of its squares
HELD_OUT_SEED = 2**20  # of the places in held-out images: no training's


@dataclass(frozen=True)
class PlantedTraining:
    """How a D with a planted marker is trained: which images it is told are not real, and in what batches.

    Attributes:
        unmarked: whether half of them are real ones without the marker; else all are generated.
        together: whether a batch holds both kinds.
    """

    unmarked: bool
    together: bool


PLANTED = "marker alone decides"
TRAININGS = {
    PLANTED: PlantedTraining(unmarked=True, together=True),
    "against generated images alone": PlantedTraining(unmarked=False, together=True),
    "in separate batches": PlantedTraining(unmarked=True, together=False),
}


def marker(side: int = SIDE) -> Tensor:
    """The checkerboard, uint8 (side, side), 0 and 255."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((row // SQUARE + column // SQUARE) % 2 * 255).to(torch.uint8)


def plant(images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Images with the marker, each at a place of its own.

    Args:
        images: uint8 (N, C, H, W).
        seed: of the places, uniform over all where the marker fits.

    Returns:
        uint8 (N, C, H, W), and where the marker is, bool (N, H, W).
    """
    count, _, height, width = images.shape
    generator = torch.Generator().manual_seed(seed)
    top = torch.randint(height - SIDE + 1, (count, 1), generator=generator)
    left = torch.randint(width - SIDE + 1, (count, 1), generator=generator)
    row, column = torch.arange(height), torch.arange(width)
    rows, columns = (row >= top) & (row < top + SIDE), (column >= left) & (column < left + SIDE)
    mask = rows[:, :, None] & columns[:, None, :]
    painted = torch.zeros(mask.shape, dtype=torch.uint8)
    painted[mask] = marker().flatten().repeat(count)
    return torch.where(mask[:, None], painted[:, None], images), mask


def train_planted(
    config: TrainingConfig, images: Tensor, generated: Tensor, runs_dir: Path, training: PlantedTraining
) -> tuple[nn.Module, Tensor]:
    """Get or train one D.

    Args:
        config: as for ``discriminator_of``; its seed decides the places too.
        images: uint8 (N, C, H, W), real ones.
        generated: uint8 (N, C, H, W), of a generator that does not learn.
        runs_dir: of the profile.
        training: how.

    Returns:
        D, its BatchNorm statistics recomputed on images as it was shown them (``as_shown``); and these.
    """
    marked, _ = plant(images, config.seed)
    others, half = generated, len(images) // 2
    if training.unmarked:
        others = torch.cat([generated[:half], images[half:]])
    trained = discriminator_of(config, marked, others, runs_dir, together=training.together)
    shown = as_shown(marked, others)
    return calibrate(trained, shown), shown


def falls(network: nn.Module, images: Tensor) -> pd.DataFrame:
    """By how much the logit falls when the marker is taken out.

    Args:
        network: a D.
        images: uint8 (N, C, H, W), held out.

    Returns:
        A row an image: ``image`` (index), ``marked`` and ``unmarked`` (logits), and ``fall``, the difference.
    """
    marked, _ = plant(images, HELD_OUT_SEED)
    with_it, without = (score_images(network, some, 256).cpu() for some in (marked, images))
    return pd.DataFrame(
        {
            "image": range(len(images)),
            "marked": with_it.numpy(),
            "unmarked": without.numpy(),
            "fall": (with_it - without).numpy(),
        }
    )


def in_marker(maps: Mapping[tuple[str, str], Tensor], mask: Tensor) -> pd.DataFrame:
    """Where maps of evidence for "real" put their weight.

    Args:
        maps: signed (N, h, w), by layer and method.
        mask: bool (N, H, W), the marker.

    Returns:
        Rows ``method``, ``layer``, ``image``, ``measure`` (``energy``: the share of the map's weight in the marker;
        ``rank_accuracy``: see ``measure``; 0..1), ``value``. A map that is zero everywhere has found nothing: 0.
    """
    tables = []
    for (layer, method), signed in maps.items():
        found = measure(evidence_maps(signed.cpu(), "real", mask.shape[1:]), mask)
        wide = found[["focus", "rank_accuracy"]].rename(columns={"focus": "energy"}).fillna(0.0)
        long = wide.reset_index(names="image").melt("image", var_name="measure")
        tables.append(long.assign(method=method, layer=layer))
    return pd.concat(tables, ignore_index=True)


def ceiling(mask: Tensor, height: int, width: int) -> Tensor:
    """The best that a map of a layer's resolution can say of the marker: its share of every cell, (N, h, w)."""
    return F.adaptive_avg_pool2d(mask[:, None].float(), (height, width))[:, 0]

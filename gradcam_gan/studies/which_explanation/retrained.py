"""Can a network still learn without what a map calls important?

Remove and retrain (ROAR, Hooker et al. 2019): the pixels that a map ranks highest are replaced in every image, in
training and held-out ones alike, and D is trained anew. If the map had found what tells the sets apart, D can no longer
tell them; what is left after as many pixels at random says how much of that is due to the holes.

It is done on the sets of the planted marker (``planted``), where that is known. Real and generated images differ in so
many places that a D without a planted marker tells them apart by what is left.

The holes themselves may tell the sets apart (Rong et al. 2022): a map may place them differently in either. A control
that comes near a method is a warning of that.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from gradcam_gan.data import to_bytes
from gradcam_gan.explaining.batches import score_images
from gradcam_gan.explaining.batchnorm import calibrate
from gradcam_gan.explaining.cam import evidence_maps
from gradcam_gan.explaining.methods import IMAGE
from gradcam_gan.explaining.quality import occlude
from gradcam_gan.studies.which_explanation.measured import BATCH, Explanation
from gradcam_gan.studies.which_explanation.two_sets import as_shown, train_on_sets
from gradcam_gan.training.config import TrainingConfig

NOTHING = (IMAGE, "nothing")  # the explanation of a D whose images are whole


class Sets(NamedTuple):
    """Images of two kinds, uint8 (N, C, H, W), or their maps (N, h, w)."""

    real: Tensor
    others: Tensor
    held_out_real: Tensor
    held_out_others: Tensor


def retrained_table(
    config: TrainingConfig,
    images: Sets,
    maps: Mapping[Explanation, Sets],
    shares: Sequence[float],
    seeds: Sequence[int],
) -> pd.DataFrame:
    """Accuracy of Ds trained without what each map calls important.

    Evidence for either answer is important: pixels are ranked by the magnitude of a signed map.

    Args:
        config: of the trainings.
        images: of which D learns, and on which it is tested.
        maps: of all of them, by layer and method.
        shares: of the pixels that are replaced by the background.
        seeds: of the trainings.

    Returns:
        A row a training: ``method``, ``layer``, ``share``, ``seed``, ``accuracy`` (balanced, 0..1; 0.5 is chance). The
        method ``nothing`` has whole images.
    """
    rows = []
    for share, explanation in [(0.0, NOTHING), *product(shares, maps)]:
        shown = images if share == 0 else _without(images, maps[explanation], share)
        for seed in seeds:
            accuracy = _accuracy(config.changed(seed=seed), shown)
            layer, method = explanation
            rows.append(
                {"method": method, "layer": layer, "share": share, "seed": seed, "accuracy": accuracy}
            )
    return pd.DataFrame(rows)


def _without(images: Sets, maps: Sets, share: float) -> Sets:
    occluded = []
    for some, signed in zip(images, maps, strict=True):
        enlarged = evidence_maps(signed, "signed", some.shape[2:]).abs()
        occluded.append(to_bytes(occlude(some, enlarged, share, occluder="background")))
    return Sets(*occluded)


def _accuracy(config: TrainingConfig, images: Sets) -> float:
    """Balanced accuracy on the held-out images, with BatchNorm statistics of the training images."""
    trained = train_on_sets(config, images.real, images.others)
    network = calibrate(trained, as_shown(images.real, images.others))
    as_real = score_images(network, images.held_out_real, BATCH) > 0
    as_others = score_images(network, images.held_out_others, BATCH) <= 0
    return float((as_real.float().mean() + as_others.float().mean()) / 2)

"""P5: Grad-CAM of a network with a regression output layer, on targets whose place in the image is known.

One network predicts thickness and slant (``targets``), standardised. A map of it is right where it ranks the places of
its layer as the target's own gradient does. Only places with ink are ranked: elsewhere the gradient is zero, and the
image itself says where that is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.explaining.cam import evidence_maps, signed_maps
from gradcam_gan.explaining.measures import digit_mask
from gradcam_gan.explaining.methods import IMAGE
from gradcam_gan.explaining.quality import controls, randomise
from gradcam_gan.explaining.targets import Target
from gradcam_gan.studies.earlier_experiments import rules
from gradcam_gan.studies.earlier_experiments.digit_networks import CONVOLUTION, RECTIFIED, outputs_of
from gradcam_gan.studies.earlier_experiments.targets import TARGETS, gradients
from gradcam_gan.studies.panels import Panel

RIDGE = tuple(np.logspace(-1, 3, 9))  # penalties of the linear baseline, of which the best is taken
PLACES = 8  # a side, of the layer
CALIBRATION_IMAGES = 1024
# maps of the network, by their name: layer and method
MAPS = {
    rules.GRADCAM: (CONVOLUTION, "gradcam"),
    rules.RECTIFIED: (RECTIFIED, "gradcam"),
    rules.OCCLUSION: (IMAGE, "occlusion"),
}
SHORT = (" px", "°")  # units of the targets, in the figure
SHOWN = (rules.GRADCAM, rules.OCCLUSION)  # in the figure


@dataclass(frozen=True)
class Standard:
    """Targets and their standardised values, of which a network learns.

    Attributes:
        mean: (K,), of the training images, in the targets' units.
        deviation: (K,), likewise.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, values: Tensor) -> "Standard":
        """Of the training images' targets (N, K)."""
        return cls(values.mean(0), values.std(0))

    def standardised(self, values: Tensor) -> Tensor:
        """(N, K), in units of the deviation."""
        return (values - self.mean) / self.deviation

    def restored(self, values: Tensor) -> Tensor:
        """(N, K), in the targets' own units."""
        return values * self.deviation + self.mean


def true_values(images: Tensor) -> Tensor:
    """The targets of images (N, C, H, W): float32 (N, K), in the order of ``TARGETS``."""
    return torch.stack([target(images) for target in TARGETS.values()], 1)


def output(index: int) -> Target:
    """One output of a regression, of a network that returns (N, K)."""
    return lambda outputs: outputs[:, index]


def error_table(network: nn.Module, standard: Standard, training: Tensor, held_out: Tensor) -> pd.DataFrame:
    """Held-out errors of the network, of a ridge regression on the pixels, and of the mean.

    Args:
        network: of standardised targets.
        standard: of the training images.
        training: uint8 (N, C, H, W).
        held_out: uint8 (M, C, H, W).

    Returns:
        A row per ``target`` and ``model``: ``rmse`` in the target's unit, and ``r2``, the share of the held-out
        variance that is explained.
    """
    truth, wanted = true_values(held_out), standard.standardised(true_values(training))
    pixels, unseen = (images.flatten(1).numpy() / 255 for images in (training, held_out))
    linear = RidgeCV(RIDGE, alpha_per_target=True).fit(pixels, wanted.numpy())
    predictions = {
        rules.NETWORK: standard.restored(outputs_of(network, held_out)),
        rules.LINEAR: standard.restored(torch.from_numpy(linear.predict(unseen)).float()),
        rules.MEAN: standard.mean.expand_as(truth),
    }
    rows = []
    for model, predicted in predictions.items():
        squared = (predicted - truth).square().mean(0)
        explained = 1 - squared / truth.var(0, correction=0)
        for i, target in enumerate(TARGETS):
            errors = {"rmse": math.sqrt(float(squared[i])), "r2": float(explained[i])}
            rows.append({"target": target, "model": model, **errors})
    return pd.DataFrame(rows)


def regression_maps(
    network: nn.Module, images: Tensor, index: int, names: Sequence[str] = tuple(MAPS)
) -> dict[str, Tensor]:
    """Maps of one output, by their names in ``MAPS``: signed (N, h, w), each at its own resolution, on the CPU."""
    found = {}
    for name in names:
        layer, method = MAPS[name]
        layers = [] if layer == IMAGE else [layer]
        (maps,) = signed_maps(network, images, [method], layers, target=output(index)).signed.values()
        found[name] = maps.cpu()
    return found


def other_weights(network: nn.Module, training: Tensor, seed: int) -> nn.Module:
    """The network with all weights drawn again, its BatchNorm statistics recomputed on training images."""
    return randomise(
        network, from_layer="convolutions.0", seed=seed, reference_images=training[:CALIBRATION_IMAGES]
    )


def agreement_table(network: nn.Module, redrawn: nn.Module, images: Tensor) -> pd.DataFrame:
    """Do maps of the network lie where its targets do? Beside them, maps that know nothing of it.

    A regression has no class to speak for: what raises its output counts as what lowers it, so maps and gradients are
    taken by their magnitude, as means over each place of the layer.

    Args:
        network: of targets in the order of ``TARGETS``.
        redrawn: of ``other_weights``.
        images: uint8 (N, C, H, W), held out.

    Returns:
        A row per ``target``, ``map`` and ``image``: ``own``, the rank correlation over places with ink with that
        target's gradient, and ``other``, the mean of that with the other targets'; -1..1, NaN of a constant map.
    """
    places = by_place(digit_mask(images).float()) > 0
    truths = {target: by_place(gradients(images, target).abs()) for target in TARGETS}
    blind = {name: maps.cpu() for name, maps in controls(images).items()}
    tables = []
    for index, target in enumerate(TARGETS):
        shown = regression_maps(network, images, index)
        redrawn_maps = regression_maps(redrawn, images, index, [rules.GRADCAM]).values()
        known_to_none = (blind["image"], blind["edges"], *redrawn_maps)
        shown |= dict(zip(rules.BLIND, known_to_none, strict=True))
        for name, maps in shown.items():
            ranked = by_place(maps.abs())
            found = {other: within(ranked, truth, places) for other, truth in truths.items()}
            own = found.pop(target)
            rows = {"image": range(len(images)), "own": own, "other": np.mean(list(found.values()), axis=0)}
            tables.append(pd.DataFrame({"target": target, "map": name, **rows}))
    return pd.concat(tables, ignore_index=True)


def by_place(maps: Tensor) -> Tensor:
    """Maps (N, H, W) -> their means over each place of the layer, (N, 8, 8), also where H is no multiple of 8."""
    # every pixel as 8x8 equal parts, so that each place has a whole number of them
    parts = F.interpolate(maps[:, None], scale_factor=PLACES, mode="nearest")
    return F.adaptive_avg_pool2d(parts, PLACES)[:, 0]


def within(a: Tensor, b: Tensor, places: Tensor) -> np.ndarray:
    """Spearman's rank correlation of two maps (N, h, w) over some places of each image, bool (N, h, w).

    Returns:
        (N,) in -1..1; NaN where either map is constant.
    """
    return np.array([_spearman(one[own], other[own]) for one, other, own in zip(a, b, places, strict=True)])


def _spearman(a: Tensor, b: Tensor) -> float:
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return math.nan
    return float(stats.spearmanr(a.numpy(), b.numpy()).statistic)


def panel_of_maps(network: nn.Module, images: Tensor) -> Panel:
    """For each target its gradient by place of the layer, Grad-CAM and occlusion, by magnitude: a column an image.

    Args:
        network: of targets in the order of ``TARGETS``.
        images: uint8 (K, C, H, W).

    Returns:
        With ``table``, a row per image, target and map: the target's true ``value``, and ``own`` as of
        ``agreement_table``.
    """
    values, places = true_values(images), by_place(digit_mask(images).float()) > 0
    maps, rows, tables = [], [], []
    for index, target in enumerate(TARGETS):
        truth = by_place(gradients(images, target).abs())
        shown = {"true gradient": truth, **regression_maps(network, images, index, SHOWN)}
        for name, one in shown.items():
            rows.append(f"{target}\n{name}")
            maps.append(evidence_maps(one.abs(), "signed", images.shape[2:]))
            own = within(by_place(one.abs()), truth, places)
            keys = {"image": range(len(images)), "target": target, "value": values[:, index], "map": name}
            tables.append(pd.DataFrame({**keys, "own": own}))
    captions = [
        "\n".join(f"{value:.2g}{unit}" for value, unit in zip(own, SHORT, strict=True)) for own in values
    ]
    return Panel(images, torch.stack(maps), rows, captions, pd.concat(tables, ignore_index=True))

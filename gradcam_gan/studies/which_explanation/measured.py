"""Explanations of one discriminator, made once each, and what every measure says of them.

All numbers stand in one long table: a row per explanation, image and measure (``KEYS`` and ``value``).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from gradcam_gan.explaining.batches import score_images
from gradcam_gan.explaining.cam import evidence_maps, signed_maps
from gradcam_gan.explaining.methods import IMAGE, METHODS
from gradcam_gan.explaining.quality import (
    Occluder,
    Order,
    completeness_error,
    controls,
    flipping_curves,
    noise_sensitivity,
    occlusion_gap,
    randomise,
    rank_correlation,
)
from gradcam_gan.models.dcgan import BACKGROUND

KEYS = ("network", "epoch", "source", "image", "method", "layer", "measure")
OCCLUDERS: tuple[Occluder, ...] = ("background", "blur")
ORDERS: tuple[Order, ...] = ("most", "least")
# from the head down: what is drawn again, and the deepest layer of it
CASCADE = {"head": "layers.8", "+ conv3": "conv3", "+ conv2": "conv2", "all": "conv1"}
CONTROLS = ("random", "image", "edges", "centre")
LINEAR_AFTER = "block3"  # only a linear head without a bias follows
BATCH = 256

Explanation = tuple[str, str]  # layer and method, as signed_maps names them
Maps = dict[Explanation, Tensor]


def explanations(methods: Sequence[str], layers: Sequence[str]) -> list[Explanation]:
    """Every method at every layer, and once where it takes no layer."""
    return [
        (layer, method) for method in methods for layer in (layers if METHODS[method].at_layer else (IMAGE,))
    ]


@dataclass(frozen=True)
class Explained:
    """All explanations of some images, and the controls.

    Attributes:
        maps: signed (N, h, w), each at its own resolution, on the CPU, by layer and method; controls have the layer
            ``image``.
        costs: a row an explanation: ``method``, ``layer``, ``milliseconds`` an image.
    """

    maps: Maps
    costs: pd.DataFrame


def explain_all(network: nn.Module, images: Tensor, wanted: Sequence[Explanation]) -> Explained:
    """Explain images (N, C, H, W), uint8 or in [-1, 1], in every way, one after another and timed."""
    maps, costs = Maps(), []
    for explanation in wanted:
        start = time.perf_counter()
        maps[explanation] = explain_one(network, images, explanation).cpu()
        milliseconds = 1000 * (time.perf_counter() - start) / len(images)
        costs.append({"method": explanation[1], "layer": explanation[0], "milliseconds": milliseconds})
    blind = {(IMAGE, name): one.cpu() for name, one in controls(images).items()}
    return Explained(maps | blind, pd.DataFrame(costs))


def explain_one(network: nn.Module, images: Tensor, explanation: Explanation) -> Tensor:
    """Signed maps of one explanation, which may be a control: (N, h, w)."""
    layer, method = explanation
    if method in CONTROLS:
        return controls(images)[method]
    layers = [] if layer == IMAGE else [layer]
    (maps,) = signed_maps(network, images, [method], layers, batch_size=BATCH).signed.values()
    return maps


def occlusion_tables(
    network: nn.Module, images: Tensor, maps: Maps, steps: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Does the score follow what a map calls important?

    In units of the standard deviation of the network's scores over these images, so that networks and epochs count
    alike.

    Returns:
        Gaps: rows ``method``, ``layer``, ``image``, ``measure``, ``value``; the measures are ``gap_<occluder>``
        (``occlusion_gap``) and ``gap``, the mean over occluders. Curves: rows ``method``, ``layer``, ``occluder``,
        ``order``, ``replaced`` (share of the pixels), ``score`` (mean over images).
    """
    spread = float(score_images(network, images, BATCH).std())
    gaps, curves = [], []
    for (layer, method), signed in maps.items():
        enlarged, keys = evidence_maps(signed, "signed", images.shape[2:]), {"method": method, "layer": layer}
        found = {}
        for occluder in OCCLUDERS:
            by_order = {
                order: flipping_curves(
                    network, images, enlarged, occluder=occluder, order=order, steps=steps, batch_size=BATCH
                ).cpu()
                / spread
                for order in ORDERS
            }
            found[f"gap_{occluder}"] = occlusion_gap(by_order["least"], by_order["most"])
            for order, curve in by_order.items():
                replaced = [step / steps for step in range(steps + 1)]
                said = {**keys, "occluder": occluder, "order": order, "replaced": replaced}
                curves.append(pd.DataFrame({**said, "score": curve.mean(0).numpy()}))
        found["gap"] = torch.stack(list(found.values())).mean(0)
        gaps += [_rows(keys, measure, values) for measure, values in found.items()]
    return pd.concat(gaps, ignore_index=True), pd.concat(curves, ignore_index=True)


def sanity_table(
    network: nn.Module, images: Tensor, maps: Maps, reference: Tensor, seed: int
) -> pd.DataFrame:
    """Is the map another one when the network's weights are drawn again (Adebayo et al. 2018)?

    Returns:
        Rows ``method``, ``layer``, ``image``, ``measure``, ``value``: the magnitude of the rank correlation of the
        signed maps before and after, 0..1 (a map whose sign turns is the same map), as ``randomised_<what>`` for each
        step of the ``CASCADE``; with all weights drawn again it is called ``randomised``. NaN for a constant map.
    """
    tables = []
    for name, layer in CASCADE.items():
        redrawn = randomise(network, from_layer=layer, seed=seed, reference_images=reference)
        measure = "randomised" if name == "all" else f"randomised_{name}"
        for explanation, before in maps.items():
            after = explain_one(redrawn, images, explanation).cpu()
            keys = {"method": explanation[1], "layer": explanation[0]}
            tables.append(_rows(keys, measure, rank_correlation(before, after).abs()))
    return pd.concat(tables, ignore_index=True)


def noise_table(
    network: nn.Module, images: Tensor, wanted: Sequence[Explanation], sigma: float
) -> pd.DataFrame:
    """How much of a map changes with noise that nobody sees (``noise_sensitivity``), as measure ``noise``."""
    tables = []
    for explanation in wanted:
        explainer = partial(explain_one, network, explanation=explanation)
        changed = noise_sensitivity(explainer, images, sigma=sigma, draws=1, seed=0)
        keys = {"method": explanation[1], "layer": explanation[0]}
        tables.append(_rows(keys, "noise", changed.cpu()))
    return pd.concat(tables, ignore_index=True)


def completeness_table(network: nn.Module, images: Tensor, maps: Maps) -> pd.DataFrame:
    """How far the sums of maps are from what two methods promise, in standard deviations of the score.

    Integrated gradients promise the score less that of the black image; HiResCAM, where only the linear head follows,
    the score itself. Nobody else promises anything, and has no row.
    """
    scores = score_images(network, images, BATCH).cpu()
    black = score_images(network, torch.full((1, *images.shape[1:]), BACKGROUND), BATCH).cpu()
    promised = {(IMAGE, "integrated-gradients"): black, (LINEAR_AFTER, "hirescam"): torch.zeros(1)}
    tables = [
        _rows(
            {"method": method, "layer": layer},
            "completeness",
            completeness_error(maps[layer, method], scores, baseline) / scores.std(),
        )
        for (layer, method), baseline in promised.items()
        if (layer, method) in maps
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _rows(keys: dict[str, str], measure: str, values: Tensor) -> pd.DataFrame:
    """A row an image."""
    return pd.DataFrame(
        {**keys, "image": range(len(values)), "measure": measure, "value": values.double().numpy()}
    )

"""Which training images an arm of the pruning experiment keeps: scored by a discriminator, or as a control.

The map's share that is important (``coverage``) is counted at the layer's own resolution.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from gradcam_gan.data import ImageSet, to_model_range
from gradcam_gan.explaining.cam import evidence_maps
from gradcam_gan.run_explainer import VERSION, RunExplainer
from gradcam_gan.scoring.evaluator import Evaluator, evaluator_for
from gradcam_gan.studies.epoch_heatmaps.tables import DigitFocus
from gradcam_gan.studies.prune_70.arms import Arm, Pruning
from gradcam_gan.training.devices import cpu_threads, reproducible_kernels, resolve_device
from gradcam_gan.training.loop import is_complete, train, training_images

CHUNK = 256  # images looked at together
SHRINKAGE = 0.01  # of a class's covariance towards the identity: few images span too few directions


@dataclass(frozen=True)
class Selection:
    """What an arm keeps, and what the scoring network's maps of all training images look like.

    Attributes:
        keep: bool (N,), True for the training images that stay.
        coverage: (N,) in 0..1, the share of each image's map that is important.
        lift: (N,), the share of a map's weight on the digit over the digit's area; NaN for an all-zero map.
    """

    keep: np.ndarray
    coverage: np.ndarray
    lift: np.ndarray


def selection(arm: Arm, runs_dir: Path | str) -> Selection:
    """Which training images an arm keeps: chosen once, and kept with the run of the network that scores them.

    Trains that network if it is not there.

    Raises:
        InputError: as ``train``.
        RunError: as ``train``; a stored selection is damaged, or a new one cannot be written.
    """
    if not is_complete(Path(runs_dir) / arm.scorer.name):
        training_images(arm.training)  # refused before the scorer is trained
    run, device = train(arm.scorer, runs_dir), resolve_device(arm.scorer.device)

    def choose() -> dict[str, Tensor]:
        images, calibration = training_images(arm.training), training_images(arm.scorer).images
        with cpu_threads(arm.scorer.threads), reproducible_kernels():
            evaluator = evaluator_for(arm.training.data, images, Path(runs_dir) / "evaluators", device)
            explainer = RunExplainer(run, calibration[: arm.pruning.calibration_images], device)
            chosen = select(arm.pruning, explainer, images, evaluator)
        return {name: torch.from_numpy(values) for name, values in vars(chosen).items()}

    stored = run.kept_tensors("selection", f"{VERSION} {arm.name}", choose)
    return Selection(**{name: values.numpy() for name, values in stored.items()})


def select(pruning: Pruning, explainer: RunExplainer, images: ImageSet, evaluator: Evaluator) -> Selection:
    """Score all training images and choose which stay.

    The explainer's run is of the ``random`` arm's seed too; the evaluator is for ``instance-selection``.
    """
    covered, lift = look(pruning, explainer, images.images)
    match pruning.arm:
        case "rule70" | "dose":
            scores = covered
        case "inverse":
            scores = -covered
        case "random":
            scores = np.random.default_rng(explainer.run.config.seed).random(len(covered))
        case "instance-selection":
            scores = rarity(images, evaluator)
        case "self-diagnosing":
            scores = -diagnosis(explainer, images.images)
    return Selection(kept(pruning, covered, scores), covered, lift)


def kept(pruning: Pruning, covered: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which images stay, bool (N,).

    The rule deletes every image whose coverage is at least the cut. Every other arm deletes as many, or its share:
    those with the largest scores (N,) of its own.
    """
    by_rule = covered >= pruning.cut
    if pruning.arm == "rule70":
        return ~by_rule
    return ~largest(
        scores, int(by_rule.sum()) if pruning.share is None else round(pruning.share * len(covered))
    )


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """The so many largest of scores (N,), as bool (N,); of equal ones the first in order."""
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argsort(-scores, kind="stable")[:count]] = True
    return chosen


def look(pruning: Pruning, explainer: RunExplainer, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and lift of the maps of all images, uint8 (N, C, H, W), as in ``Selection``."""
    parts = []
    for some in images.split(CHUNK):
        signed, _ = explainer.signed(
            some, pruning.epoch, pruning.statistics, [pruning.method], [pruning.layer]
        )
        maps = evidence_maps(signed[pruning.layer, pruning.method].cpu(), pruning.evidence)
        focus = DigitFocus(some, maps.shape[1:])
        parts.append(torch.stack([coverage(maps, pruning.tau), focus.share(maps) / focus.area]))
    covered, lift = torch.cat(parts, dim=1).numpy()
    return covered, lift


def coverage(maps: Tensor, tau: float) -> Tensor:
    """Share of each map (N, h, w) >= 0 that lies above a share tau of its own maximum: (N,), 0 where all is zero."""
    return (maps > tau * maps.amax((1, 2), keepdim=True)).double().mean((1, 2))


def rarity(images: ImageSet, evaluator: Evaluator) -> np.ndarray:
    """How untypical each image is of its class, (N,) above 0 and up to 1: its rank within the class.

    Instance selection (DeVries et al. 2020) fits one Gaussian to the evaluator's features of each class and keeps the
    images of highest density, as many of every class.
    """
    with torch.inference_mode():
        device = next(evaluator.parameters()).device
        parts = [evaluator.features(some.to(device)).cpu() for some in images.images.split(CHUNK)]
    features, labels = torch.cat(parts).double().numpy(), images.labels.numpy()
    scores = np.empty(len(labels))
    for label in np.unique(labels):
        members = features[labels == label]
        spread = np.cov(members, rowvar=False) if len(members) > 1 else np.zeros((features.shape[1],) * 2)
        scale = np.trace(spread) / len(spread) or 1.0
        spread = (1 - SHRINKAGE) * spread + SHRINKAGE * scale * np.eye(len(spread))
        density = stats.multivariate_normal(members.mean(0), spread).logpdf(members)
        scores[labels == label] = stats.rankdata(-density) / len(members)
    return scores


def diagnosis(explainer: RunExplainer, images: Tensor) -> np.ndarray:
    """Mean plus standard deviation of D's logit over the later half of the epochs, (N,): high where underrepresented.

    Self-diagnosing GAN (Lee et al. 2021) shows images with high values more often; here those with low ones go. Under
    reference statistics: a logit of D under running statistics is no log density ratio. Images uint8 (N, C, H, W).
    """
    by_epoch = []
    for epoch in explainer.run.epochs:
        if epoch > explainer.run.config.epochs / 2:
            network = explainer.explained(epoch, "reference")
            with torch.inference_mode():
                parts = [
                    network(to_model_range(some.to(explainer.device))).cpu() for some in images.split(CHUNK)
                ]
            by_epoch.append(torch.cat(parts).double())
    logits = torch.stack(by_epoch)
    return (logits.mean(0) + logits.std(0, correction=0)).numpy()

"""The 70 % rule (claim C6) and its controls: which training images to delete, by which score.

The paper (section 5): where 70 % or more of an image's activation map counts as important, delete the image and train
again. It does not say from what value on a map is important, nor on which scale: so how many images go is
measured over a grid of the answers (``rule_grid``), before anything is trained.

Each arm deletes the images with the largest of its own scores: ``covered`` for the rule and the dose, ``-covered`` for
the inverse, ``rarity`` for instance selection, ``-diagnosis`` for self-diagnosing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from gradcam_gan.data import ImageSet
from gradcam_gan.errors import InputError, RunError
from gradcam_gan.explaining.cam import Evidence, evidence_maps
from gradcam_gan.explaining.measures import Normalisation, coverage
from gradcam_gan.run_explainer import STATISTICS, Reading, RunExplainer
from gradcam_gan.scoring.evaluator import Evaluator, evaluator_for
from gradcam_gan.studies.arms import Arm, Pruning
from gradcam_gan.studies.epochs import clearness, measure_epochs
from gradcam_gan.studies.readings import COMPARED_METHODS, EVIDENCES
from gradcam_gan.training import files
from gradcam_gan.training.devices import cpu_threads, reproducible_kernels, resolve_device
from gradcam_gan.training.loop import train, training_images
from gradcam_gan.training.runs import Run

CHUNK = 2048  # images whose maps are enlarged at a time
DIAGNOSIS_SPREAD = 1.0  # k in mean + k * standard deviation
SHRINKAGE = 0.01  # of a class's covariance towards the identity: few images span too few directions


def selection(arm: Arm, runs_dir: Path | str) -> "Selection":
    """Which training images an arm keeps: read, or chosen now and kept under ``runs_dir/selections``.

    Trains the baseline if it is not there.

    Raises:
        InputError, RunError: as ``train``.
    """
    path = Path(runs_dir) / "selections" / f"{arm.name}.safetensors"
    if not path.is_file():
        images, held_out = training_images(arm.baseline), training_images(arm.baseline, "test").images
        run = train(arm.baseline, runs_dir)
        device = resolve_device(arm.training.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        with cpu_threads(arm.training.threads), reproducible_kernels():
            explainer = RunExplainer(run, images.images[: arm.pruning.reference_images], device)
            classifier = evaluator_for(arm.baseline.data, images, Path(runs_dir) / "evaluators", device)
            select(arm.pruning, explainer, images, held_out, classifier).save(path)
    return Selection.load(path)


def train_arm(arm: Arm, runs_dir: Path | str) -> Run:
    """Get or train an arm on what it keeps.

    Raises:
        InputError: it keeps less than a batch.
    """
    keep = selection(arm, runs_dir).keep
    if keep.sum() < arm.training.batch_size:
        raise InputError(
            f"{arm.label} leaves {keep.sum()} of {len(keep)} training images, fewer than "
            f"batch_size={arm.training.batch_size}; choose a higher tau or cut, or a smaller share"
        )
    return train(arm.training, runs_dir, keep)


def scoring_epoch(pruning: Pruning, explainer: RunExplainer, held_out: Tensor) -> int:
    """The epoch whose discriminator scores the images.

    Args:
        pruning: names it, or asks for the clearest: the largest mean focus lift of this one network (claim C2).
        explainer: of the baseline.
        held_out: uint8 (N, C, H, W), of which the first ``probe_images`` are looked at.
    """
    if pruning.epoch != "clearest":
        return pruning.epoch
    variant = Reading(pruning.method, pruning.statistics, pruning.evidence)
    table = measure_epochs(explainer, held_out[: pruning.probe_images], variants=[variant])
    lift = clearness(table[table["epoch"] > 0], "seed").iloc[0]
    return int(lift.index[int(lift.argmax())])


def coverage_scores(pruning: Pruning, explainer: RunExplainer, images: Tensor, epoch: int) -> np.ndarray:
    """Share of each image's map that is important, (N,) in 0..1.

    Args:
        pruning: how to explain, and what counts as important.
        explainer: of the baseline.
        images: uint8 (N, C, H, W), the training images.
        epoch: whose discriminator.
    """
    signed, _ = explainer.signed(images, epoch, pruning.statistics, [pruning.method], pruning.layer)
    return np.concatenate(
        [
            coverage(
                evidence_maps(some, pruning.evidence, images.shape[2:]),
                tau=pruning.tau,
                normalisation=pruning.normalisation,
            )
            for some in signed[pruning.method].split(CHUNK)
        ]
    )


def rarity(images: ImageSet, classifier: Evaluator) -> np.ndarray:
    """How untypical each image is of its class, (N,) above 0 and up to 1: its rank within the class.

    Instance selection (DeVries et al. 2020) fits one Gaussian to the classifier's features of each class and keeps the
    images of highest density, as many of every class.
    """
    with torch.inference_mode():
        device = next(classifier.parameters()).device
        parts = [classifier.features(some.to(device)).cpu() for some in images.images.split(CHUNK)]
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


def diagnosis(explainer: RunExplainer, images: Tensor, pruning: Pruning) -> np.ndarray:
    """Mean plus standard deviation of D's logit over the trained epochs, (N,): high for underrepresented images.

    Self-diagnosing GAN (Lee et al. 2021) shows images with high values more often; here those with low ones go.
    """
    epochs = [epoch for epoch in explainer.run.epochs if epoch > 0]
    logits = torch.stack(
        [explainer.signed(images, epoch, pruning.statistics)[1] for epoch in epochs]
    ).double()
    return (logits.mean(0) + DIAGNOSIS_SPREAD * logits.std(0, correction=0)).cpu().numpy()


@dataclass(frozen=True)
class Selection:
    """What an arm keeps, and what the rule saw.

    Attributes:
        keep: bool (N,), True for the training images that stay.
        coverage: (N,) in 0..1, the share of each image's map that is important.
        epoch: whose discriminator scored them.
    """

    keep: np.ndarray
    coverage: np.ndarray
    epoch: int

    @property
    def deleted(self) -> int:
        """How many images go."""
        return int((~self.keep).sum())

    def save(self, path: Path) -> None:
        """Write it as safetensors, whole or not at all."""
        tensors = {
            "keep": torch.from_numpy(self.keep),
            "coverage": torch.from_numpy(self.coverage),
            "epoch": torch.tensor(self.epoch),
        }
        files.write_bytes(path, files.tensor_bytes(tensors))

    @classmethod
    def load(cls, path: Path) -> "Selection":
        """Read it back.

        Raises:
            RunError: the file is damaged.
        """
        tensors = files.read_tensors(path)
        if not tensors.keys() >= {"keep", "coverage", "epoch"}:
            raise RunError(f"{path} holds no selection; delete it to make it again")
        return cls(tensors["keep"].numpy(), tensors["coverage"].numpy(), int(tensors["epoch"]))


def select(
    pruning: Pruning, explainer: RunExplainer, images: ImageSet, held_out: Tensor, classifier: Evaluator
) -> Selection:
    """Score the training images and choose which stay.

    Args:
        pruning: the arm.
        explainer: of the baseline, whose seed is also that of the ``random`` arm.
        images: all training images.
        held_out: uint8 (M, C, H, W), for ``scoring_epoch``.
        classifier: for ``instance-selection``.
    """
    epoch = scoring_epoch(pruning, explainer, held_out)
    covered = coverage_scores(pruning, explainer, images.images, epoch)
    match pruning.arm:
        case "rule70" | "dose":
            scores = covered
        case "inverse":
            scores = -covered
        case "random":
            scores = np.random.default_rng(explainer.run.config.seed).random(len(covered))
        case "instance-selection":
            scores = rarity(images, classifier)
        case "self-diagnosing":
            scores = -diagnosis(explainer, images.images, pruning)
    return Selection(kept(pruning, covered, scores), covered, epoch)


def kept(pruning: Pruning, covered: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which images stay, bool (N,).

    The rule deletes every image whose coverage is at least the cut. Every other arm deletes as many, or its share:
    those with the largest scores, of equal ones the first in order.

    Args:
        pruning: the arm.
        covered: from ``coverage_scores``.
        scores: the arm's own, (N,).
    """
    by_rule = covered >= pruning.cut
    if pruning.arm == "rule70":
        return ~by_rule
    count = int(by_rule.sum()) if pruning.share is None else round(pruning.share * len(covered))
    keep = np.ones(len(covered), dtype=bool)
    keep[np.argsort(-scores, kind="stable")[:count]] = False
    return keep


def rule_grid(
    explainer: RunExplainer, images: Tensor, epoch: int, taus: Sequence[float], cuts: Sequence[float]
) -> pd.DataFrame:
    """How many images the rule deletes under every answer to what the paper leaves open.

    Args:
        explainer: of a baseline.
        images: uint8 (N, C, H, W), the training images.
        epoch: whose discriminator.
        taus: from what value on a map is important.
        cuts: from what coverage on an image is deleted.

    Returns:
        A row per method, statistics, evidence, normalisation, tau and cut: ``deleted``, the share of images, 0..1; with
        ``seed`` and ``epoch``. Normalisation ``fixed`` divides every map by one number, the median of the maps' maxima.
    """
    rows = []
    for statistics in STATISTICS:
        signed, _ = explainer.signed(images, epoch, statistics)
        for method, evidence in product(COMPARED_METHODS, EVIDENCES):
            keys = {
                **asdict(Reading(method, statistics, evidence)),
                "seed": explainer.run.config.seed,
                "epoch": epoch,
            }
            for (normalisation, tau), covered in _coverages(
                signed[method], evidence, images.shape[2:], taus
            ).items():
                rows += [
                    {
                        **keys,
                        "normalisation": normalisation,
                        "tau": tau,
                        "cut": cut,
                        "deleted": (covered >= cut).mean(),
                    }
                    for cut in cuts
                ]
    return pd.DataFrame(rows)


def _coverages(
    signed: Tensor, evidence: Evidence, size: Sequence[int], taus: Sequence[float]
) -> dict[tuple[str, float], np.ndarray]:
    """Coverage (N,) of every image by normalisation and tau."""
    found: dict[tuple[str, float], list[np.ndarray]] = {}
    maxima = evidence_maps(signed, evidence).amax((1, 2))
    # all maps may be zero: then any number will do
    typical = float(maxima[maxima > 0].median()) if (maxima > 0).any() else 1.0
    scales: dict[str, Normalisation] = {"max": "max", "min-max": "min-max", "fixed": typical}
    for some in signed.split(CHUNK):
        maps = evidence_maps(some, evidence, size)
        for (name, normalisation), tau in product(scales.items(), taus):
            covered = coverage(maps, tau=tau, normalisation=normalisation).numpy()
            found.setdefault((name, tau), []).append(covered)
    return {key: np.concatenate(parts) for key, parts in found.items()}


def describe_rule(grid: pd.DataFrame) -> str:
    """How many images the rule deletes over the whole grid, in words.

    Args:
        grid: rows of ``rule_grid``.
    """
    choices = [name for name in grid.columns if name not in ("seed", "epoch", "deleted")]
    shares = grid.groupby(choices)["deleted"].mean()
    none, nearly_all = (shares < 0.01).mean(), (shares > 0.99).mean()
    return (
        f"Of {len(shares)} readings of the rule, {100 * none:.0f} % delete less than 1 % of the images and "
        f"{100 * nearly_all:.0f} % delete more than 99 %; the paper's words allow any of them."
    )

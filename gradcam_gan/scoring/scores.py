"""How good is a generator? Its images against real ones, in the features of a fixed evaluator.

Every score depends on the number of images: FID falls as it grows. So both numbers are part of the result, and only
scores with the same numbers, the same reference and the same evaluator can be compared.
"""

import contextlib
import hashlib
import io
import logging
import math
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn

from gradcam_gan import torchvision_compat  # noqa: F401 - before torchmetrics, which imports torchvision
from gradcam_gan.data import ImageSet, check_images, data_hash, to_bytes, to_model_range
from gradcam_gan.errors import InputError, RunError
from gradcam_gan.explaining.batches import evaluating
from gradcam_gan.scoring.evaluator import Evaluator, evaluator_for, resized
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import fixed_latents, training_images
from gradcam_gan.training.runs import Run

logger = logging.getLogger(__name__)

NEIGHBOURS = 5  # of precision, recall, density and coverage, as in Naeem et al. 2020
KID_SUBSETS = 50
BATCH = 100  # the fastest on a CPU
FEWEST = 20  # images on either side: fewer have no covariance worth the name
LATENT_SEED = 1  # not those that the training's own measures use
VEIL = 64  # grey levels, of 255: what is darker counts as black where no veil is to count
WITHOUT_VEIL = "_without_veil"  # in tables, after the name of a score where that is so


class Score(NamedTuple):
    """What a table or a chart must know of a score.

    Attributes:
        label: on charts and in sentences.
        better: which direction; None where a middle value is the good one.
    """

    label: str
    better: Literal["lower", "higher"] | None


# by column of ``evaluate``
SCORES = {
    "fid": Score("FID", "lower"),
    "kid": Score("KID", "lower"),
    "precision": Score("precision", "higher"),
    "recall": Score("recall", "higher"),
    "density": Score("density", "higher"),
    "prdc_coverage": Score("PRDC coverage", "higher"),  # not that of a map
    "class_entropy": Score("class entropy", "higher"),
    "class_accuracy": Score("class accuracy", "higher"),
    "nearest_training_ratio": Score("nearest-training ratio", None),
}


class Reference:
    """Real images that generators are compared with, and what every comparison needs of them.

    Args:
        images: held-out real images and their classes: the whole set, also where a generator learned from a part.
        evaluator: whose features count; on the device where to compute.
        training: images (M, C, H, W) that the generators learn from, for ``nearest_training``; None leaves it out.
        cache: folder for the features, by hash of the images and of the evaluator; None keeps none.
        black_below: grey level, 0 to 255: darker pixels count as black, in real and generated images alike.

    Raises:
        InputError: fewer than 20 images, or images that cannot be used.
    """

    def __init__(
        self,
        images: ImageSet,
        evaluator: Evaluator,
        *,
        training: Tensor | None = None,
        cache: Path | None = None,
        black_below: int = 0,
    ) -> None:
        _check_samples(images.images, "reference")
        self.evaluator = evaluator
        self.class_names = images.class_names
        self.digest = _digest(images, training, evaluator, black_below)
        self._images, self._cache, self._black_below = images, cache, black_below
        self.features = self._features(images.images, cache)  # (N, 64), on the CPU
        self._training = None if training is None else self._pixels(training)
        self.typical_distance = self.distance_to_training(images.images)

    @cached_property
    def without_veil(self) -> "Reference":
        """The same images, by which a veil over a black ground does not count: what is darker than ``VEIL`` is black.

        An evaluator that has seen digits on black alone takes a ground of a few grey levels, which no eye sees, for a
        very different image.
        """
        return self.with_black_below(VEIL)

    def with_black_below(self, level: int) -> "Reference":
        """The same images, by which pixels below a grey level count as black; without ``nearest_training``."""
        return Reference(self._images, self.evaluator, cache=self._cache, black_below=level)

    def embed(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 or in [-1, 1] -> features (N, 64), on the CPU."""
        if self._black_below:
            images = to_bytes(to_model_range(images))  # of either kind
            images = images.masked_fill(images < self._black_below, 0)
        with torch.inference_mode():
            parts = [self.evaluator.features(some.to(self.device)).cpu() for some in images.split(BATCH)]
        return torch.cat(parts)

    def classes(self, features: Tensor) -> Tensor:
        """Features (N, 64) -> the class that the evaluator sees in each, (N,); 0 where there is only one."""
        if len(self.class_names) == 1:  # its evaluator tells turns apart
            return torch.zeros(len(features), dtype=torch.int64)
        with torch.inference_mode():
            return self.evaluator.classify(features.to(self.device)).argmax(1).cpu()

    def distance_to_training(self, images: Tensor) -> float:
        """Mean distance of images (N, C, H, W) to the nearest training image.

        Returns:
            Root mean square over 32x32 pixels, 0 to 1 (black against white); NaN without training images.
        """
        if self._training is None:
            return math.nan
        nearest = [torch.cdist(self._pixels(some), self._training).amin(1) for some in images.split(BATCH)]
        return float(torch.cat(nearest).mean()) / math.sqrt(self._training.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the evaluator computes."""
        return self.evaluator.head.weight.device

    def _pixels(self, images: Tensor) -> Tensor:
        """Images -> (N, C * 32 * 32) in 0..1."""
        return torch.cat([(resized(some.to(self.device)).flatten(1) + 1) / 2 for some in images.split(BATCH)])

    def _features(self, images: Tensor, cache: Path | None) -> Tensor:
        if cache is None:
            return self.embed(images)
        path = cache / f"features-{self.digest}.safetensors"
        if not path.is_file():
            with files.reporting(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_bytes(path, files.tensor_bytes({"features": self.embed(images)}))
        stored = files.read_tensors(path)
        if "features" not in stored:
            raise RunError(f"{path} holds no features; delete it to make it again")
        return stored["features"]


def evaluate(
    samples: nn.Module | Tensor, reference: Reference, *, count: int = 1000, latent_seed: int = LATENT_SEED
) -> dict[str, float]:
    """Score generated images against real ones.

    - ``fid``: Fréchet distance of two Gaussians in feature space (Heusel et al. 2017); 0 is best.
    - ``kid``, ``kid_std``: kernel distance, mean and standard deviation over 50 random halves (Binkowski et al.
      2018); 0 is best, and chance can take it below.
    - ``precision``, ``recall`` (Kynkaanniemi et al. 2019), ``density``, ``prdc_coverage`` (Naeem et al. 2020), with
      five neighbours: 0 to 1, density may exceed 1.
    - ``class_entropy``: of the classes that the evaluator sees, over its largest value: 1 is all classes alike, NaN
      where there is one class. ``class_<name>``: the share of each.
    - ``class_accuracy``, of a conditional generator alone: the share of images whose class the evaluator sees.
    - ``nearest_training``: distance to the nearest training image (``Reference.distance_to_training``), and
      ``nearest_training_ratio``, the same over that of the reference: well below 1, the generator has memorised,
      or makes only classes whose images are much alike.
    - ``n``, ``n_reference``: numbers of images.

    Args:
        samples: a generator that maps latents (N, 100) to images, or images (N, C, H, W), uint8 or in [-1, 1].
        reference: what to compare with.
        count: images to draw from a generator.
        latent_seed: of their latents: the same for every generator.

    Raises:
        InputError: fewer than 20 images, images that cannot be used, or a generator whose output is not finite.
    """
    images = samples if isinstance(samples, Tensor) else draw(samples, count, latent_seed)
    _check_samples(images, "samples")
    features = reference.embed(images)
    classes = reference.classes(features)
    asked = classes_to_draw(samples, count) if isinstance(samples, nn.Module) else None
    shares = torch.bincount(classes, minlength=len(reference.class_names)).double() / len(images)
    distance = reference.distance_to_training(images)
    return {
        **feature_distances(features, reference.features),
        "class_entropy": float(torch.special.entr(shares).sum()) / (math.log(len(shares)) or math.nan),
        **({} if asked is None else {"class_accuracy": float((classes == asked).float().mean())}),
        "nearest_training": distance,
        "nearest_training_ratio": distance / (reference.typical_distance or math.nan),
        "n": len(images),
        "n_reference": len(reference.features),
        **{f"class_{name}": float(share) for name, share in zip(reference.class_names, shares, strict=True)},
    }


def classes_to_draw(generator: nn.Module, count: int) -> Tensor | None:
    """The classes (count,) that a conditional generator is asked for, all alike; None for an unconditional one."""
    classes = getattr(generator, "classes", 0)
    return torch.arange(count) % classes if classes else None


def draw(generator: nn.Module, count: int, latent_seed: int = LATENT_SEED) -> Tensor:
    """Images (count, C, H, W) of a generator in eval mode: uint8, as real images are, on the CPU.

    A conditional generator is asked for ``classes_to_draw``.

    Raises:
        InputError: what it gives is not finite, or not in [-1, 1].
    """
    device = next(generator.parameters()).device
    latents, labels = fixed_latents(count, latent_seed), classes_to_draw(generator, count)
    parts = []
    with torch.inference_mode(), evaluating(generator):
        for chosen in torch.arange(count).split(BATCH):
            told = () if labels is None else (labels[chosen].to(device),)
            images = generator(latents[chosen].to(device), *told).float()
            check_images(images, "the generator's output")
            parts.append(to_bytes(images).cpu())
    return torch.cat(parts)


def evaluate_run(
    run: Run, reference: Reference, *, epochs: Sequence[int] | None = None, count: int = 1000
) -> pd.DataFrame:
    """Score a run's generators: read from its folder where that was done before, else computed and kept there.

    Args:
        run: a training run.
        reference: what to compare with.
        epochs: which, by default all that are saved, the untrained epoch 0 among them.
        count: images of each generator.

    Returns:
        A row an epoch: ``epoch`` and the scores of ``evaluate``.

    Raises:
        InputError: as ``evaluate``.
        RunError: a network's file is damaged, or the scores cannot be written.
    """
    wanted = run.epochs if epochs is None else sorted(epochs)
    path = run.path / f"scores-{reference.digest}-{count}.csv"
    rows = _stored_scores(path)
    if not rows.keys() >= set(wanted):
        with files.reporting(run.path), FileLock(run.path / ".scores.lock"):
            rows = _stored_scores(path)  # another process may have scored some meanwhile
            for epoch in sorted(set(wanted) - rows.keys()):
                generator = run.generator(epoch, reference.device)
                generator = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                rows[epoch] = {"epoch": epoch, **evaluate(generator, reference, count=count)}
                files.write_table(path, pd.DataFrame([rows[done] for done in sorted(rows)]))
    return pd.DataFrame([rows[epoch] for epoch in wanted])


def evaluate_with_and_without_veil(
    run: Run, reference: Reference, *, epochs: Sequence[int] | None = None, count: int = 1000
) -> pd.DataFrame:
    """``evaluate_run``, and FID and recall once more where no veil counts (``Reference.without_veil``), so named."""
    scores, unveiled = (
        evaluate_run(run, one, epochs=epochs, count=count) for one in (reference, reference.without_veil)
    )
    return scores.join(unveiled[["fid", "recall"]].add_suffix(WITHOUT_VEIL))


def _stored_scores(path: Path) -> dict[int, dict[Any, Any]]:
    """The rows of a scores file by epoch; none without a file, or of a damaged one."""
    if not path.is_file():
        return {}
    try:
        # in older files the column had no name of its own
        table = files.read_table(path).rename(columns={"coverage": "prdc_coverage"})
    except RunError as error:
        logger.warning("%s; scoring again", error)
        return {}
    if table.get("epoch", pd.Series([None])).dtype.kind != "i":
        logger.warning("%s is no table of scores; scoring again", path)
        return {}
    return {row["epoch"]: row for row in table.to_dict("records")}


def reference_for(
    config: TrainingConfig,
    runs_dir: Path,
    device: torch.device | str = "cpu",
    held_out: tuple[int, int] | None = None,
) -> Reference:
    """What to compare a training's generators with: held-out images, and all its training images.

    Args:
        config: a training; pruned or not makes no difference.
        runs_dir: where evaluators and features are kept.
        device: where to compute.
        held_out: which of the held-out images, from one and before another; None: all.

    Raises:
        InputError: as ``load_images`` and ``evaluator_for``.
    """
    training = training_images(config)
    evaluator = evaluator_for(config.data, training, runs_dir / "evaluators", device)
    images = training_images(config, "test")
    if held_out is not None:
        part = slice(*held_out)
        images = images._replace(images=images.images[part], labels=images.labels[part])
    return Reference(images, evaluator, training=training.images, cache=runs_dir / "evaluators")


def feature_distances(features: Tensor, reference: Tensor) -> dict[str, float]:
    """FID, KID, precision, recall, density and coverage of features (N, D) against those of real images (M, D)."""
    from prdc import compute_prdc
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    identity = _Identity(features.shape[1])
    size = min(len(features), len(reference)) // 2
    fid = FrechetInceptionDistance(identity).set_dtype(torch.float64)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of the features that it keeps
        kid = KernelInceptionDistance(identity, subsets=KID_SUBSETS, subset_size=size)
    for metric, dtype in ((fid, torch.float64), (kid, torch.float32)):
        metric.update(reference.to(dtype), real=True)
        metric.update(features.to(dtype), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the random halves
        kid_mean, kid_std = kid.compute()
    with contextlib.redirect_stdout(io.StringIO()):  # prdc prints the numbers of images
        manifold = compute_prdc(reference.numpy(), features.numpy(), NEIGHBOURS)
    distances = {"fid": fid.compute(), "kid": kid_mean, "kid_std": kid_std, **manifold}
    distances["prdc_coverage"] = distances.pop("coverage")
    return {name: float(value) for name, value in distances.items()}


class _Identity(nn.Module):
    """Stands where torchmetrics wants a network: the features are there already."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _check_samples(images: Tensor, name: str) -> None:
    check_images(images, name)
    if len(images) < FEWEST:
        raise InputError(f"{name} has {len(images)} images; scores need {FEWEST} or more")


def _digest(images: ImageSet, training: Tensor | None, evaluator: Evaluator, black_below: int) -> str:
    """16 hex digits that stand for the images and the evaluator together."""
    digest = hashlib.sha256(data_hash(images).encode())
    if training is not None:
        digest.update(data_hash(images._replace(images=training)).encode())
    digest.update(files.tensor_bytes(evaluator.state_dict()))
    if black_below:
        digest.update(bytes([black_below]))
    return digest.hexdigest()[:16]

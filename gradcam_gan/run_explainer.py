"""One trained run, or your own checkpoints, ready to explain: every epoch, every kind of BatchNorm statistics.

An explanation depends on choices that the paper leaves open, and each may decide a claim: the method, the layer, the
statistics that BatchNorm uses, and whether evidence for "real" or for "fake" is shown. A ``Reading`` names one
combination.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from gradcam_gan.data import to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.batches import Conditions
from gradcam_gan.explaining.batchnorm import batch_statistics, calibrate, settle
from gradcam_gan.explaining.cam import Evidence, Explained, evidence_maps, signed_maps
from gradcam_gan.explaining.measures import measure, object_masks
from gradcam_gan.explaining.methods import IMAGE, METHODS, OWN_METHODS
from gradcam_gan.explaining.targets import class_logit, minus, real
from gradcam_gan.models.dcgan import Discriminator, Generator
from gradcam_gan.models.diffusion import DiffusionState, diffuse, times_and_noise
from gradcam_gan.training.checkpoints import Checkpoints, SingleNetwork
from gradcam_gan.training.loop import fixed_latents
from gradcam_gan.training.runs import Run
from gradcam_gan.validation import choose

Statistics = Literal["running", "settled", "reference", "batch"]
Network = Literal["discriminator", "classifier"]
Trained = TypeVar("Trained", Run, Checkpoints, SingleNetwork)
STATISTICS: tuple[Statistics, ...] = ("running", "settled", "reference")
BATCH = 64  # the fastest on a CPU at these sizes
NOISE_SEED = 0
VERSION = 1  # raised when the code would explain differently: what runs keep is then found anew
SETTLING_IMAGES = 1024  # of either kind that settled statistics are drawn from


@dataclass(frozen=True)
class Reading:
    """One way to explain a discriminator: the paper's unstated choices, stated.

    Attributes:
        method: a name in ``METHODS``.
        statistics: of BatchNorm: ``running`` (as trained; what pytorch-grad-cam shows), ``settled`` (running ones that
            have caught up with the weights, see ``settle``), ``reference`` (recomputed on real images, see
            ``calibrate``) or ``batch`` (of the batch explained).
        evidence: ``real`` or ``fake``.
        layer: whose activations; not used by a method that takes none.
    """

    method: str = "gradcam"
    statistics: Statistics = "running"
    evidence: Evidence = "real"
    layer: str = "conv3"

    def __str__(self) -> str:
        """Such as ``Grad-CAM at conv3, running, real``, or ``LIME, running, real``."""
        return f"{METHODS[self.method].at(self.layer)}, {self.statistics}, {self.evidence}"

    @property
    def key(self) -> tuple[str, str]:
        """Layer and method, as in ``Explained.signed``; "image" stands for the layer where there is none."""
        return (self.layer if METHODS[self.method].at_layer else IMAGE), self.method


@dataclass(frozen=True)
class ExplainedRun:
    """What one run's network makes of the same images at several epochs, computed once for every reading.

    Panels, tables and measures are taken from it; nothing is explained twice.

    Attributes:
        run: the training run, or your own checkpoints.
        images: uint8 (N, C, H, W), undiffused.
        masks: bool (N, H, W), the pixels that a map should point at.
        epochs: E of the run's epochs.
        signed: signed maps (N, h, w) in the method's unit, on the CPU, by (epoch, statistics, layer, method); those of
            methods that take no layer (N, H, W), under the layer "image".
        against: those of one-sided methods for minus the logit, likewise.
        logits: (N,), on the CPU, by (epoch, statistics).
    """

    run: Run | Checkpoints | SingleNetwork
    images: Tensor
    masks: Tensor
    epochs: Sequence[int]
    signed: Mapping[tuple[int, Statistics, str, str], Tensor]
    against: Mapping[tuple[int, Statistics, str, str], Tensor]
    logits: Mapping[tuple[int, Statistics], Tensor]

    def at(self, epochs: Sequence[int]) -> "ExplainedRun":
        """The same at some of its epochs."""
        return replace(self, epochs=epochs)

    def of(self, images: Sequence[int]) -> "ExplainedRun":
        """The same of some of its images, by index."""
        chosen = list(images)
        return replace(
            self,
            images=self.images[chosen],
            masks=self.masks[chosen],
            signed={key: maps[chosen] for key, maps in self.signed.items()},
            against={key: maps[chosen] for key, maps in self.against.items()},
            logits={key: logits[chosen] for key, logits in self.logits.items()},
        )

    def maps(self, reading: Reading, *, upsample: bool = True) -> Tensor:
        """Unnormalised maps of one reading: (E, N, H, W), or the layer's own (E, N, h, w) without upsampling."""
        size = self.images.shape[2:] if upsample else None
        return torch.stack([self._evidence(epoch, reading, size) for epoch in self.epochs])

    def signed_at(self, epoch: int, reading: Reading) -> Tensor:
        """Signed maps (N, h, w) of one epoch under one reading, whose evidence makes no difference."""
        return self.signed[epoch, reading.statistics, *reading.key]

    def _evidence(self, epoch: int, reading: Reading, size: Sequence[int] | None) -> Tensor:
        """Maps (N, H, W) of the reading's evidence, as ``explain`` gives them."""
        if reading.evidence == "fake" and METHODS[reading.method].one_sided:
            return evidence_maps(self.against[epoch, reading.statistics, *reading.key], "real", size)
        return evidence_maps(self.signed_at(epoch, reading), reading.evidence, size)

    def measures(self, readings: Sequence[Reading]) -> pd.DataFrame:
        """Where each map puts its weight: a row per epoch, reading and image.

        Columns: what names the network (``padding``, ``seed``), ``epoch``, those of ``Reading``, ``image`` (index),
        ``logit`` and those of ``measure``.
        """
        tables = []
        order = list(dict.fromkeys(reading.statistics for reading in readings))
        for epoch in self.epochs:
            for reading in sorted(readings, key=lambda reading: order.index(reading.statistics)):
                maps = self._evidence(epoch, reading, self.images.shape[2:])
                keys = {**self.run.keys, "epoch": epoch, **asdict(reading)}
                logits = self.logits[epoch, reading.statistics].numpy()
                first = pd.DataFrame({**keys, "image": np.arange(len(maps)), "logit": logits})
                tables.append(first.join(measure(maps, self.masks)))
        return pd.concat(tables, ignore_index=True)

    def table(self, readings: Sequence[Reading]) -> pd.DataFrame:
        """The numbers behind a grid of heatmaps: ``measures``, and every map at the layer's own resolution.

        The map's values stand in columns ``map_<row>_<column>``, in units of the logit.
        """
        maps = torch.stack([self.maps(reading, upsample=False) for reading in readings])
        height, width = maps.shape[-2:]
        keys = pd.MultiIndex.from_product(
            [map(str, readings), self.epochs, range(len(self.images))], names=["reading", "epoch", "image"]
        )
        names = [f"map_{row}_{column}" for row in range(height) for column in range(width)]
        values = pd.DataFrame(maps.reshape(-1, height * width).numpy(), keys, names)
        table = self.measures(readings)
        said = [str(Reading(*row)) for row in table[["method", "statistics", "evidence", "layer"]].to_numpy()]
        return table.assign(reading=said).merge(values.reset_index(), on=["reading", "epoch", "image"])


class RunExplainer(Generic[Trained]):
    """Explains the discriminators of one run, its classifiers, or your own; each is loaded, and calibrated, once.

    A network that was trained on diffused images has its ``reference`` statistics from calibration images, diffused as
    in training at that epoch, half of them not at all: it is one network, whatever time is then explained.

    Args:
        run: a training run, or your own checkpoints.
        calibration: uint8 (M, C, H, W), real images for the ``reference`` and the ``settled`` statistics.
        device: where to compute.
        calibration_labels: their classes (M,), for a network that is told them.
        network: ``discriminator``, or ``classifier`` to explain the logit of the class that each image comes with:
            evidence "real" is then evidence for that class.
    """

    def __init__(
        self,
        run: Trained,
        calibration: Tensor,
        device: torch.device | str = "cpu",
        *,
        calibration_labels: Tensor | None = None,
        network: Network = "discriminator",
    ) -> None:
        choose("network", network, get_args(Network))
        if network == "classifier" and not isinstance(run, Run):
            raise InputError(
                f"{run.path} is known to hold discriminators alone; network='classifier' needs a Run"
            )
        self.run: Trained = run
        self.device = torch.device(device)
        self.network: Network = network
        self._calibration = calibration.to(self.device)
        self._calibration_labels = calibration_labels
        self._networks: dict[tuple[int, Statistics], nn.Module] = {}

    @property
    def epochs(self) -> list[int]:
        """Those that the network is there of, ascending."""
        return self.run.epochs_of(self.network) if isinstance(self.run, Run) else self.run.epochs

    def explained(self, epoch: int, statistics: Statistics) -> nn.Module:
        """The network after that many epochs under one kind of BatchNorm statistics, in eval mode."""
        key = (epoch, statistics)
        if key not in self._networks:
            trained = self._load(epoch)
            if statistics == "reference":
                trained = self._calibrated(trained, epoch)
            elif statistics == "settled":
                trained = self._settled(trained, epoch)
            elif statistics == "batch":
                trained = batch_statistics(trained)
            self._networks[key] = trained
        return self._networks[key]

    def _load(self, epoch: int) -> nn.Module:
        if self.network == "classifier" and isinstance(self.run, Run):
            return self.run.classifier(epoch, self.device)
        return self.run.discriminator(epoch, self.device)

    def diffused(self, images: Tensor, epoch: int, time: int) -> Tensor:
        """What the network sees of images at one time: y_t, always with the same noise.

        Args:
            images: (N, C, H, W), uint8 or in [-1, 1].
            epoch: whose horizon the schedule is spread over.
            time: t, 0 to that horizon.

        Returns:
            (N, C, H, W) about [-1, 1] (noise may step over), on the CPU.

        Raises:
            InputError: a time that the network did not see.
        """
        clean = to_model_range(images.cpu())
        state = self._state(epoch, time)
        if state is None or time == 0:
            return clean
        times = torch.full((len(images),), time)
        # the same on every call, so that times and epochs differ by nothing else
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(NOISE_SEED))
        return diffuse(clean, times, state.horizon, state.sigma, noise)

    def signed(
        self,
        images: Tensor,
        epoch: int,
        statistics: Statistics,
        methods: Sequence[str] = OWN_METHODS,
        layers: Sequence[str] = ("conv3",),
        *,
        labels: Tensor | None = None,
        time: int = 0,
        against: bool = False,
    ) -> Explained:
        """Signed maps and scores in one pass (see ``signed_maps``), of one epoch; else as ``explain``.

        ``against``: of minus the logit, which is what one-sided methods need to show evidence against it.
        """
        state = self._state(epoch, time) if time else None
        network = self.explained(epoch, statistics)
        target = class_logit(self._classes(labels, len(images))) if self.network == "classifier" else real
        return signed_maps(
            network,
            (images if state is None else self.diffused(images, epoch, time)).to(self.device),
            methods,
            layers,
            target=minus(target) if against else target,
            conditions=self._told(network, labels, torch.full((len(images),), time)),
            batch_size=BATCH,
            noise=0.0 if state is None else state.sigma,
        )

    def explain(
        self,
        images: Tensor,
        epochs: Sequence[int] | None = None,
        *,
        statistics: Sequence[Statistics] = STATISTICS,
        methods: Sequence[str] = OWN_METHODS,
        layers: Sequence[str] = ("conv3",),
        labels: Tensor | None = None,
        time: int = 0,
        masks: Tensor | None = None,
        keep: bool = False,
    ) -> ExplainedRun:
        """Explain the same images at several epochs, every reading in one pass an epoch and kind of statistics.

        Args:
            images: uint8 (N, C, H, W), undiffused.
            epochs: which, by default all that are saved, the untrained epoch 0 among them.
            statistics: of BatchNorm.
            methods: names in ``METHODS``; one-sided ones are run twice, for and against.
            layers: which, by name.
            labels: the class (N,) that the network is told of each image, or whose logit is explained; not used by a
                discriminator that is told none.
            time: t; the images are diffused to it first (``diffused``).
            masks: bool (N, H, W), the pixels that a map should point at; by default those of the digit
                (``digit_mask``).
            keep: what is found with the run, and read it from there the next time; your own checkpoints keep nothing.

        Raises:
            InputError: classes that are missing or out of range, a time that the network did not see, masks of
                another shape.
        """
        masks = object_masks(images, masks).cpu()
        epochs = self.run.epochs if epochs is None else list(epochs)
        find = partial(self._every, images, epochs, statistics, methods, layers, labels, time)
        if keep and isinstance(self.run, Run):
            how = self.how(images, labels, epochs, statistics, methods, layers, time)
            found = self.run.kept_tensors("explained", how, find)
        else:
            found = find()
        parts: dict[str, dict[Any, Tensor]] = {"signed": {}, "against": {}, "logits": {}}
        for name, tensor in found.items():
            part, epoch, *rest = name.split("/")
            parts[part][int(epoch), *rest] = tensor
        return ExplainedRun(self.run, images.cpu(), masks, epochs, **parts)

    def how(self, images: Tensor, labels: Tensor | None, *choices: object) -> str:
        """All that decides what is found of images, in a text: with whose classes, calibration and choices."""
        tensors = (images, labels, self._calibration, self._calibration_labels)
        digests = [
            None if one is None else hashlib.sha256(one.cpu().numpy().tobytes()).hexdigest()
            for one in tensors
        ]
        return f"{VERSION} {self.network} {digests} {choices}"

    def _every(
        self,
        images: Tensor,
        epochs: Sequence[int],
        statistics: Sequence[Statistics],
        methods: Sequence[str],
        layers: Sequence[str],
        labels: Tensor | None,
        time: int,
    ) -> dict[str, Tensor]:
        """The parts of ``ExplainedRun``, on the CPU, under names such as ``signed/5/running/conv3/gradcam``."""
        one_sided = [method for method in methods if method in METHODS and METHODS[method].one_sided]
        found: dict[str, Tensor] = {}
        for epoch, kind in product(epochs, statistics):
            explain = partial(self.signed, images, epoch, kind, layers=layers, labels=labels, time=time)
            maps, scores = explain(methods)
            found |= {
                f"signed/{epoch}/{kind}/{layer}/{method}": one.cpu() for (layer, method), one in maps.items()
            }
            found[f"logits/{epoch}/{kind}"] = scores.cpu()
            if one_sided:
                maps, _ = explain(one_sided, against=True)
                found |= {
                    f"against/{epoch}/{kind}/{layer}/{method}": one.cpu()
                    for (layer, method), one in maps.items()
                }
        return found

    def generated(self, epoch: int, count: int) -> tuple[Tensor, Tensor]:
        """Images (count, C, H, W) in [-1, 1] of the run's generator, and the classes (count,) it was asked for.

        Always of the same latents; an unconditional generator was asked for no class, and has zeros here.

        Raises:
            InputError: your own checkpoints came without a generator, or with fewer latents.
        """
        generator = self.run.generator(epoch, self.device)
        classes = generator.classes if isinstance(generator, Generator) else 0
        latents = fixed_latents(count) if isinstance(self.run, Run) else self.run.latents(count)
        labels = torch.arange(count) % max(classes, 1)
        parts = []
        with torch.inference_mode():
            for some, own in zip(latents.split(BATCH), labels.split(BATCH), strict=True):
                told = (own.to(self.device),) if classes else ()
                parts.append(generator(some.to(self.device), *told))
        return torch.cat(parts), labels

    def _calibrated(self, trained: nn.Module, epoch: int) -> nn.Module:
        """Reference statistics, of real images as the network saw them."""
        labels = self._calibration_labels
        images, told, sigma = self._as_trained(trained, self._calibration, labels, epoch)
        return calibrate(trained, images, conditions=told, noise=sigma)

    def _settled(self, trained: nn.Module, epoch: int) -> nn.Module:
        """Settled statistics, of real and generated images as the network saw them; a classifier saw no generated."""
        real, own, sigma = self._as_trained(trained, self._calibration, self._calibration_labels, epoch)
        if self.network == "classifier":
            return settle(trained, real, real, conditions={"real": own, "generated": own}, noise=sigma)
        made, told, _ = self._as_trained(trained, *self.generated(epoch, SETTLING_IMAGES), epoch)
        return settle(trained, real, made, conditions={"real": own, "generated": told}, noise=sigma)

    def _as_trained(
        self, trained: nn.Module, images: Tensor, labels: Tensor | None, epoch: int
    ) -> tuple[Tensor, Conditions, float]:
        """Images diffused as in training where the network saw such, what it is told, and the noise's sigma."""
        state = self.run.diffusion(epoch, self.network)
        times, sigma = torch.zeros(len(images), dtype=torch.int64), 0.0
        if state is not None:
            generator = torch.Generator().manual_seed(NOISE_SEED)
            times, noise = times_and_noise(state.times, images.shape, generator)
            clean = to_model_range(images.cpu())
            images, sigma = diffuse(clean, times, state.horizon, state.sigma, noise), state.sigma
        return images, self._told(trained, labels, times, "calibration_labels"), sigma

    def _told(
        self, network: nn.Module, labels: Tensor | None, times: Tensor, name: str = "labels"
    ) -> Conditions:
        """What the network takes beside images: classes, and the times (N,) of a diffusion."""
        if not isinstance(network, Discriminator):
            return {}
        told = self._classes(labels, len(times), name) if network.classes else torch.zeros_like(times)
        return network.conditions(told, times)

    def _classes(self, labels: Tensor | None, count: int, name: str = "labels") -> Tensor:
        """Labels (N,) as given, if they can be the classes of so many images."""
        if labels is None or labels.shape != (count,) or labels.is_floating_point():
            given = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise InputError(
                f"the {self.network} of {self.run.path} is told the class of each image: {name} must be {count} whole "
                f"numbers, got {given}"
            )
        return labels.long()

    def _state(self, epoch: int, time: int) -> DiffusionState | None:
        """The network's diffusion, if it saw that time."""
        state = self.run.diffusion(epoch, self.network)
        horizon = 0 if state is None else state.horizon
        if time not in range(horizon + 1):
            seen = (
                f"whole numbers in 0..T={horizon} after epoch {epoch}" if horizon else "no diffusion: only 0"
            )
            raise InputError(
                f"time={time} was never seen by the {self.network} of {self.run.path}, which knows {seen}"
            )
        return state

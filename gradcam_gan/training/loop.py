"""Get or train: one call that loads a complete run, resumes a partial one, or trains an absent one."""

import dataclasses
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from gradcam_gan.data import ImageSet, data_hash, load_images, to_model_range
from gradcam_gan.errors import InputError, RunError
from gradcam_gan.explaining.batchnorm import real_fake_accuracy
from gradcam_gan.models.dcgan import LATENT_SIZE
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.cuda_graph import capture_step
from gradcam_gan.training.devices import (
    cpu_threads,
    keep_freed_memory,
    reproducible_kernels,
    resolve_device,
    resolve_precision,
)
from gradcam_gan.training.objective import Objective
from gradcam_gan.training.provenance import provenance
from gradcam_gan.training.runs import (
    Checkpoint,
    CheckpointFolder,
    Run,
    curable,
    fits,
    load_run,
    read_manifest,
)

logger = logging.getLogger(__name__)

# real, generated and reference images each, for D's accuracy after every epoch: a standard error below 0.03
ACCURACY_IMAGES = 256


def train(
    config: TrainingConfig, runs_dir: Path | str = "runs", keep: np.ndarray | Tensor | None = None
) -> Run:
    """The run of this configuration: loaded if complete, resumed if partial, trained if absent.

    A run killed at any moment and started again ends with the weights of the uninterrupted run, bit for bit, on
    the same machine with the same number of threads. A second process that asks for the same run waits.

    Args:
        config: what to train.
        runs_dir: the run's folder is ``runs_dir / config.name``, and with a keep list the name has its hash too.
        keep: bool (N,), the training images to use; None: all. An epoch stays as many iterations as on all.

    Raises:
        InputError: the device or the data are not to be had, the folder cannot be written, or the keep list leaves less
            than a batch.
        RunError: the run stopped (a full disk, losses that are not finite); it says what is safe.
    """
    path = Path(runs_dir) / run_name(config, keep)
    device = resolve_device(config.device)
    if not is_complete(path):
        images = training_images(config), training_images(config, "test")  # refused before a folder is made
        if keep is not None and (left := len(prune(images[0], keep).images)) < config.batch_size:
            raise InputError(
                f"the keep list leaves {left} of {len(keep)} training images, fewer than batch_size={config.batch_size}"
            )
        with _exclusive(path):
            if not is_complete(path):  # the process that held the lock may have finished it
                keep_freed_memory()
                with cpu_threads(config.threads) as threads, reproducible_kernels():
                    _Session(config, path, device, threads, *images, keep).train()
    return load_run(path)


def run_name(config: TrainingConfig, keep: np.ndarray | Tensor | None = None) -> str:
    """The run directory's name: the configuration's, and with a keep list 8 hex digits of its SHA-256."""
    if keep is None:
        return config.name
    kept = np.packbits(torch.as_tensor(keep).numpy()).tobytes()
    return f"{config.name}-keep{hashlib.sha256(kept).hexdigest()[:8]}"


def prune(images: ImageSet, keep: np.ndarray | Tensor) -> ImageSet:
    """The images that a keep list leaves.

    Args:
        images: the training images.
        keep: bool (N,), one value an image.

    Raises:
        InputError: a keep list that is not boolean, or of another length.
    """
    mask = torch.as_tensor(keep)
    if mask.dtype != torch.bool or mask.shape != (len(images.images),):
        raise InputError(
            f"the keep list is {mask.dtype} of shape {tuple(mask.shape)}; it must be bool, one value for each of the "
            f"{len(images.images)} training images"
        )
    return images._replace(images=images.images[mask], labels=images.labels[mask])


def training_images(config: TrainingConfig, split: str = "train") -> ImageSet:
    """The images that this configuration trains on (or, with ``split="test"``, its held-out images).

    Raises:
        InputError: the data are not to be had, or they are fewer than one batch.
    """
    found = load_images(config.data, config.size, split, config.data_dir)
    if split == "test":
        return found
    if config.train_images is not None:
        if config.train_images > len(found.images):
            raise InputError(
                f"train_images={config.train_images}, but {config.data} has {len(found.images)} training images"
            )
        order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
        chosen = order[: config.train_images]
        found = found._replace(images=found.images[chosen], labels=found.labels[chosen])
    if len(found.images) < config.batch_size:
        raise InputError(
            f"{config.data} has {len(found.images)} training images, fewer than batch_size={config.batch_size}"
        )
    if config.parts.conditional and len(found.class_names) < 2:
        raise InputError(
            f"{config.data} has one class, {found.class_names[0]!r}, and a conditional model needs two or more: put "
            "the images into one subfolder a class, or set conditional=false"
        )
    return found


def fixed_latents(count: int, seed: int = 0) -> Tensor:
    """Latents (count, 100), standard normal, the same on every call: to see one z change over the epochs."""
    return torch.randn(count, LATENT_SIZE, generator=torch.Generator().manual_seed(seed))


def is_complete(path: Path) -> bool:
    """Whether a folder holds a run that was trained to its end.

    Raises:
        RunError: its manifest is damaged.
    """
    manifest = path / "manifest.json"
    with curable(path):
        return manifest.is_file() and files.read_json(manifest).get("status") == "complete"


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the run's lock; wait, and say so, while another process trains it.

    The kernel holds the lock, so it goes with its process however that ends.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("another process is training %s; waiting for it to finish", path)
            lock.acquire()
    except OSError as error:
        raise InputError(f"cannot write to {path}: {files.reason(error)}; choose another runs_dir") from None
    try:
        yield
    finally:
        lock.release()


class _Session:
    """One process's turn at one run: everything between taking the lock and the complete manifest."""

    def __init__(
        self,
        config: TrainingConfig,
        path: Path,
        device: torch.device,
        threads: int,
        train_set: ImageSet,
        test_set: ImageSet,
        keep: np.ndarray | Tensor | None,
    ) -> None:
        self.config, self.path, self.device = config, path, device
        self.checkpoints = CheckpointFolder(path / "checkpoints", middle=config.epochs // 2)
        self.plain = path.parent / run_name(config.unguided, keep)
        # of all images, pruned or not: with fewer images an epoch is no shorter, and noise stays paired
        self.iterations = len(train_set.images) // config.batch_size
        if keep is not None:
            train_set = prune(train_set, keep)
        self.images = train_set.images.to(device)
        self.held_out = test_set.images[:ACCURACY_IMAGES].to(device)
        self.held_out_labels = test_set.labels[:ACCURACY_IMAGES]
        held_out = test_set._replace(images=self.held_out, labels=self.held_out_labels)
        self.manifest = self._manifest(train_set, held_out, threads)
        self.labels = train_set.labels.to(device)
        self.classes = len(train_set.class_names)
        total = config.epochs * self.iterations * config.batch_size
        channels, precision = self.images.shape[1], self.manifest["precision"]
        self.objective = Objective(config, channels, self.classes, total, device, precision)
        # drawn on the CPU, so that every device sees the same streams; latents apart from the order, so that
        # runs on different images share them
        self.random = {
            "order": torch.Generator().manual_seed(config.seed),
            "latents": torch.Generator().manual_seed(config.seed + 2**31),
            **self.objective.random(),
        }

    def _manifest(self, train_set: ImageSet, held_out: ImageSet, threads: int) -> dict[str, Any]:
        """The manifest of a new run, or the stored one after checking that it can be continued here."""
        here: dict[str, Any] = {
            "status": "partial",
            "channels": train_set.images.shape[1],
            "train_images": len(train_set.images),
            "classes": len(train_set.class_names),
            "data_sha256": data_hash(train_set),
            "held_out_sha256": data_hash(held_out),
            "device": str(self.device),
            "precision": resolve_precision(self.config.precision, self.device),
            "threads": threads,
            **provenance(),
        }
        if not (self.path / "manifest.json").is_file():
            return here
        stored = read_manifest(self.path)
        # older ones do not have that of the held-out images
        if any(stored.get(key, here[key]) != here[key] for key in ("data_sha256", "held_out_sha256")):
            raise RunError(
                f"{self.path} was begun on other images than {self.config.data!r} now holds; "
                "restore the data or delete that folder"
            )
        for key in ("device", "threads"):
            if stored[key] != here[key]:
                logger.warning(
                    "%s was begun with %s=%s and goes on with %s; its last bits may differ",
                    self.path, key, stored[key], here[key],
                )  # fmt: skip
        return stored

    def train(self) -> None:
        """Bring the run from its newest good checkpoint to its last epoch."""
        try:
            files.remove_leftovers(self.path)
            files.write_json(self.path / "config.json", files.sealed(self.config.model_dump(mode="json")))
            files.write_json(self.path / "manifest.json", files.sealed(self.manifest))
            if not self.checkpoints.epochs():
                self._share_beginning()
            done = self._restore()
            self.checkpoints.check_space(self.config.epochs - done)
            step = self._step()
            per_epoch = self.iterations * self.config.batch_size
            with tqdm(
                total=self.config.epochs * per_epoch,
                initial=done * per_epoch,
                desc=self.config.name,
                unit="image",
                unit_scale=True,
                disable=None,  # quiet where nobody watches: in logs
            ) as progress:
                for epoch in range(done + 1, self.config.epochs + 1):
                    self._train_epoch(epoch, step, progress)
            seconds = sum(row["seconds"] for row in self.checkpoints.rows())
            complete = {**self.manifest, "status": "complete", "seconds": seconds}
            files.write_json(self.path / "manifest.json", files.sealed(complete))
        except OSError as error:
            good = self.checkpoints.epochs()
            raise RunError(
                f"could not write to {self.path}: {files.reason(error)}; "
                f"{f'epoch {good[-1]} is safe' if good else 'nothing was saved'}, "
                "and train() goes on from there once there is room"
            ) from None

    def _restore(self) -> int:
        """Load the newest checkpoint that can be read; the epochs it has completed."""
        for epoch in reversed(self.checkpoints.epochs()):
            try:
                checkpoint = self.checkpoints.load(epoch, list(self.objective.networks))
                self._check(checkpoint)
            except RunError as error:
                logger.warning("%s; going back one epoch", error)
                self.checkpoints.delete(epoch)
                continue
            self._load(checkpoint)
            self._write_history()  # a kill may have come between the checkpoint and the table
            return epoch
        self._save(0, {})
        return 0

    def _share_beginning(self) -> None:
        """Take the epochs before guidance starts from the plain training of the same seed, where it holds them.

        They are the same, bit for bit. A plain DCGAN does not save what its steps do not need, counters and random
        streams: those are brought to where this training would have them.
        """
        guidance = self.config.parts.guidance
        shared = int(guidance.start * self.config.epochs) if guidance else 0
        plain = CheckpointFolder(self.plain / "checkpoints")
        if not shared or shared not in plain.epochs():
            return
        try:
            checkpoint = plain.load(shared, list(self.objective.networks))
        except RunError:
            return  # without the training state of that epoch, or damaged
        self.objective.iteration.fill_(shared * self.iterations)
        for _ in range(shared):
            self.objective.draw_labels(self.iterations * self.config.batch_size)
        state = {**self._training_state(), **checkpoint.training_state}
        checkpoint = dataclasses.replace(checkpoint, training_state=state)
        self._check(checkpoint)
        self.manifest["beginning"] = {"run": self.plain.name, "epochs": shared}
        files.write_json(self.path / "manifest.json", files.sealed(self.manifest))
        self._load(checkpoint)
        for epoch in range(shared):
            self.checkpoints.copy(plain, epoch)
        self._save(shared, checkpoint.row)

    def _load(self, checkpoint: Checkpoint) -> None:
        for name, network in self.objective.networks.items():
            network.load_state_dict(checkpoint.networks[name])
        for name, tensor in self.objective.state().items():
            tensor.copy_(checkpoint.training_state[name])
        for name, generator in self.random.items():
            generator.set_state(checkpoint.training_state[f"random.{name}"])

    def _check(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint of other tensors before any of it is copied: one of before there were checksums.

        Raises:
            RunError: it does not fit.
        """
        wanted = {name: network.state_dict() for name, network in self.objective.networks.items()}
        parts = [(checkpoint.networks[name], wanted[name]) for name in wanted]
        if not all(fits(*part) for part in [*parts, (checkpoint.training_state, self._training_state())]):
            raise RunError(f"{self.checkpoints.epoch_path(checkpoint.epoch)} is another training's")

    def _training_state(self) -> dict[str, Tensor]:
        random = {f"random.{name}": generator.get_state() for name, generator in self.random.items()}
        return {**self.objective.state(), **random}

    def _save(self, epoch: int, row: dict[str, float]) -> None:
        networks = {name: network.state_dict() for name, network in self.objective.networks.items()}
        self.checkpoints.save(Checkpoint(epoch, row, networks, self._training_state()))
        self._write_history()

    def _write_history(self) -> None:
        history = pd.DataFrame(self.checkpoints.rows())
        files.write_bytes(self.path / "history.csv", history.to_csv(index=False).encode())

    def _step(self) -> Callable[..., Tensor]:
        if self.device.type != "cuda" or not self.objective.recordable:
            return self.objective.step
        batch = self.config.batch_size
        latents = torch.zeros(batch, LATENT_SIZE, device=self.device)
        real, labels = to_model_range(self.images[:batch]), self.labels[:batch]
        return capture_step(self.objective, real, latents, labels, labels)

    def _train_epoch(self, epoch: int, step: Callable[..., Tensor], progress: "tqdm[NoReturn]") -> None:
        """One pass over the images in random order (over fewer, several), then the checkpoint.

        Raises:
            RunError: a loss or a weight is not finite; nothing of this epoch is saved.
        """
        batch, names = self.config.batch_size, self.objective.statistics
        passes = math.ceil(self.iterations * batch / len(self.images))
        orders = [torch.randperm(len(self.images), generator=self.random["order"]) for _ in range(passes)]
        order = torch.cat(orders)[: self.iterations * batch]
        drawn = torch.randn(self.iterations * batch, LATENT_SIZE, generator=self.random["latents"])
        drawn_labels = self.objective.draw_labels(self.iterations * batch)
        indices, latents, fake_labels = (
            values.to(self.device).split(batch) for values in (order, drawn, drawn_labels)
        )
        statistics = torch.empty(self.iterations, len(names), device=self.device)
        start = time.perf_counter()
        for iteration in range(self.iterations):
            chosen = indices[iteration]
            real, labels = to_model_range(self.images[chosen]), self.labels[chosen]
            statistics[iteration] = step(real, latents[iteration], labels, fake_labels[iteration])
            progress.update(batch)
        statistics = statistics.cpu()  # the epoch's only wait for the device
        seconds = time.perf_counter() - start

        broken = (~statistics.isfinite()).any(1).nonzero()
        if len(broken) or not self._weights_are_finite():
            what, iteration = ("losses", int(broken[0]) + 1) if len(broken) else ("weights", self.iterations)
            raise RunError(
                f"{self.path}: {what} are not finite in epoch {epoch}, iteration {iteration}; "
                f"epoch {epoch - 1} is the last good checkpoint. Try a lower learning_rate or another seed"
            )
        means = dict(zip(names, statistics.mean(0).tolist(), strict=True))
        row: dict[str, float] = {
            "epoch": epoch,
            "iterations": epoch * self.iterations,
            "images": epoch * self.iterations * batch,
            **means,
            **self._accuracy(),
            "seconds": seconds,
            "images_per_second": self.iterations * batch / seconds,
        }
        self._save(epoch, row)
        progress.set_postfix({"epoch": epoch, **{name: f"{value:.2f}" for name, value in means.items()}})

    def _weights_are_finite(self) -> bool:
        """The last step's losses were computed before its update, which may have broken the weights."""
        tensors = [t for network in self.objective.networks.values() for t in network.state_dict().values()]
        return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())

    def _accuracy(self) -> dict[str, float]:
        """D's balanced accuracy on held-out and generated images under each BatchNorm mode."""
        discriminator, generator = self.objective.discriminator, self.objective.generator.eval()
        fake_labels = torch.arange(len(self.held_out), device=self.device) % self.classes
        told = fake_labels if self.config.parts.conditional else None
        with torch.no_grad():
            fake = generator(fixed_latents(len(self.held_out)).to(self.device), told)
        generator.train()
        reference = self.labels[:ACCURACY_IMAGES]
        labels = {"real": self.held_out_labels, "fake": fake_labels, "reference": reference}
        by_mode = real_fake_accuracy(
            discriminator,
            self.held_out,
            fake,
            reference=self.images[:ACCURACY_IMAGES],
            conditions={name: discriminator.conditions(values) for name, values in labels.items()},
        )
        return {f"accuracy_{mode}": accuracy for mode, accuracy in by_mode.items()}

"""A training run on disk: its folder, its checkpoints, and how to read them back.

    runs_dir/<config.name>/
        config.json               the configuration
        manifest.json             status, versions, device, precision, threads, data hash, wall time
        history.csv               one row an epoch
        checkpoints/epoch-0007/   discriminator.safetensors, generator.safetensors, epoch.json
                                  and, in the newest two and the middle one, training_state.safetensors
        scores-*.csv, ...         what was found of it since: ``Run.kept``, ``Run.kept_tensors``

Epoch 0 is the untrained state. Nothing here unpickles: tensors are safetensors, the rest is JSON and CSV. Damage is
noticed: an ``epoch.json`` has the SHA-256 of the tensor files beside it, every JSON file one of its own values. Runs
of before there were checksums are read without.
"""

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from gradcam_gan.errors import InputError, RunError
from gradcam_gan.models.dcgan import LATENT_SIZE
from gradcam_gan.models.diffusion import DiffusionState, horizon
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.networks import network_builders
from gradcam_gan.validation import ValidatedModel

TRAINING_STATE = "training_state.safetensors"
# of the BatchNorm statistics of an averaged G; its latents are none of those that it is scored on
AVERAGE_BATCHES, AVERAGE_BATCH, AVERAGE_SEED = 16, 64, 2


class Manifest(ValidatedModel, extra="allow", strict=True):
    """What the package reads of a ``manifest.json``; it holds more, for people."""

    status: Literal["partial", "complete"]
    channels: Literal[1, 3]
    classes: int = Field(ge=1, le=100_000)
    data_sha256: str
    device: str
    precision: Literal["float32", "bfloat16"]
    threads: int = Field(ge=1)


class EpochRecord(ValidatedModel, strict=True):
    """An ``epoch.json``: the epoch's row of the history, and the checksums of the tensor files beside it."""

    epoch: int
    row: dict[str, int | float]
    sha256: dict[str, str] = Field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """All that is saved after one epoch.

    Attributes:
        epoch: epochs completed; 0 is the untrained state.
        row: that epoch's row of the history.
        networks: state dict by network name.
        training_state: optimiser tensors and random states by name.
    """

    epoch: int
    row: dict[str, float]
    networks: Mapping[str, Mapping[str, Tensor]]
    training_state: Mapping[str, Tensor]


class CheckpointFolder:
    """The ``checkpoints`` folder of a run. Each checkpoint is there as a whole or not at all.

    Args:
        path: of the folder.
        middle: the epoch whose training state is kept, beside the newest two's: another training can go on from there.
    """

    def __init__(self, path: Path, middle: int | None = None) -> None:
        self.path, self._middle = path, middle

    def epoch_path(self, epoch: int) -> Path:
        """The folder of that epoch."""
        return self.path / f"epoch-{epoch:04d}"

    def epochs(self) -> list[int]:
        """The saved epochs, ascending."""
        names = (entry.name for entry in self.path.glob("epoch-*"))
        return sorted(int(found[1]) for name in names if (found := re.fullmatch(r"epoch-(\d+)", name)))

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one checkpoint; afterwards only the newest two and the middle one keep their training state."""
        content = {f"{name}.safetensors": tensors for name, tensors in checkpoint.networks.items()}
        content[TRAINING_STATE] = checkpoint.training_state
        with files.atomic_directory(self.epoch_path(checkpoint.epoch)) as folder:
            sha256 = {name: files.write_tensors(folder / name, content[name]) for name in content}
            record = {"epoch": checkpoint.epoch, "row": checkpoint.row, "sha256": sha256}
            files.write_json(folder / "epoch.json", files.sealed(record))
        for epoch in self.epochs():
            if epoch < checkpoint.epoch - 1 and epoch != self._middle:
                (self.epoch_path(epoch) / TRAINING_STATE).unlink(missing_ok=True)

    def copy(self, other: "CheckpointFolder", epoch: int) -> None:
        """Take over another folder's checkpoint without its training state."""
        with files.atomic_directory(self.epoch_path(epoch)) as folder:
            ignored = shutil.ignore_patterns(TRAINING_STATE)
            shutil.copytree(other.epoch_path(epoch), folder, ignore=ignored, dirs_exist_ok=True)

    def load(self, epoch: int, networks: list[str]) -> Checkpoint:
        """Read one checkpoint to the CPU.

        Raises:
            RunError: a file of it is missing or damaged.
        """
        return Checkpoint(
            epoch,
            self._record(epoch).row,
            {name: self.tensors(epoch, f"{name}.safetensors") for name in networks},
            self.tensors(epoch, TRAINING_STATE),
        )

    def tensors(self, epoch: int, name: str) -> dict[str, Tensor]:
        """Read one tensor file of a checkpoint to the CPU, after its checksum.

        Raises:
            RunError: it, or the epoch's record, is missing or damaged.
        """
        return files.read_tensors(self.epoch_path(epoch) / name, sha256=self._record(epoch).sha256.get(name))

    def rows(self) -> list[dict[str, float]]:
        """The history's rows of all saved epochs, ascending, without epoch 0.

        Raises:
            RunError: the record of an epoch is missing or damaged.
        """
        return [self._record(epoch).row for epoch in self.epochs() if epoch]

    def _record(self, epoch: int) -> EpochRecord:
        path = self.epoch_path(epoch) / "epoch.json"
        with _named(path):
            return EpochRecord(**files.read_json(path))

    def check_space(self, epochs: int) -> None:
        """Say before the work, not after it, that so many more checkpoints will not fit.

        Raises:
            RunError: there is too little room.
        """
        networks = (
            f for f in self.epoch_path(self.epochs()[-1]).glob("*.safetensors") if f.name != TRAINING_STATE
        )
        needed = epochs * sum(file.stat().st_size for file in networks)
        free = shutil.disk_usage(self.path).free
        if epochs and needed > free:
            raise RunError(
                f"{epochs} epochs need about {needed / 1e6:.0f} MB in {self.path.parent}, "
                f"{free / 1e6:.0f} MB are free; make room or choose another runs_dir"
            )

    def delete(self, epoch: int) -> None:
        """Remove one checkpoint."""
        shutil.rmtree(self.epoch_path(epoch))


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run on disk.

    Attributes:
        path: its folder.
        config: what was trained.
        history: one row an epoch. ``epoch``, ``iterations`` and ``images`` (seen so far); the epoch's mean
            ``loss_discriminator``, ``loss_generator``, ``d_real`` = D(x) and ``d_fake`` = D(G(z)) (0..1);
            D's balanced ``accuracy_*`` on held-out real and generated images with ``running``, ``batch`` and
            ``reference`` BatchNorm statistics (0..1); ``seconds`` and ``images_per_second``.
        manifest: versions, device, precision, threads, data hash, wall time.
    """

    path: Path
    config: TrainingConfig
    history: pd.DataFrame
    manifest: dict[str, Any]

    @property
    def keys(self) -> dict[str, object]:
        """What names the network in a table, by column."""
        return {"padding": self.config.padding, "seed": self.config.seed}

    @property
    def epochs(self) -> list[int]:
        """The epochs that can be loaded, ascending; 0 is the untrained state."""
        return CheckpointFolder(self.path / "checkpoints").epochs()

    def epochs_of(self, network: str) -> list[int]:
        """Those of them that one network, by its file's name, is there of: a run from an archive has few."""
        folder = CheckpointFolder(self.path / "checkpoints")
        return [
            epoch for epoch in self.epochs if (folder.epoch_path(epoch) / f"{network}.safetensors").is_file()
        ]

    @property
    def generates(self) -> bool:
        """Whether a G is there wherever a D is."""
        name = "generator_average" if self.config.parts.averaging else "generator"
        return set(self.epochs_of("discriminator")) <= set(self.epochs_of(name))

    def kept(self, name: str, how: str, find: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """What is found of the run, kept in its folder: found once, and there without the networks.

        Args:
            name: of the file, with a digest of ``how``.
            how: all that decides what is found.
            find: finds it.

        Raises:
            RunError: the file is damaged, or cannot be written.
        """
        path = self._kept_at(name, how, "csv")
        if not path.is_file():
            found = find()
            doubles = dict.fromkeys(found.select_dtypes("float32"), "float64")  # all digits, in text too
            with files.reporting(self.path):
                files.write_table(path, found.astype(doubles))
        return files.read_table(path)

    def kept_tensors(
        self, name: str, how: str, find: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The same of named tensors."""
        path = self._kept_at(name, how, "safetensors")
        checksum = path.with_suffix(".json")  # written last: the tensors are whole
        if not checksum.is_file():
            content = files.tensor_bytes(find())
            sha256 = hashlib.sha256(content).hexdigest()
            with files.reporting(self.path):
                files.write_bytes(path, content)
                files.write_json(checksum, files.sealed({"sha256": sha256}))
        return files.read_tensors(path, sha256=files.read_json(checksum)["sha256"])

    def _kept_at(self, name: str, how: str, suffix: str) -> Path:
        return self.path / f"{name}-{hashlib.sha256(how.encode()).hexdigest()[:8]}.{suffix}"

    def discriminator(self, epoch: int, device: torch.device | str = "cpu") -> nn.Module:
        """D after that many epochs, in eval mode.

        Raises:
            InputError: that epoch is not saved.
            RunError: its file is damaged.
        """
        return self._network("discriminator", epoch, device)

    def classifier(self, epoch: int, device: torch.device | str = "cpu") -> nn.Module:
        """DuDGAN's classifier after that many epochs, in eval mode. Errors as for ``discriminator``."""
        return self._network("classifier", epoch, device)

    def diffusion(self, epoch: int, network: str = "discriminator") -> DiffusionState | None:
        """The diffusion in front of D (or of the ``classifier``) after that many epochs; None without one.

        Errors as for ``discriminator``.
        """
        self._check_epoch(epoch)
        parts = self.config.parts
        options = parts.diffusion
        if network == "classifier":
            options = parts.classifier.diffusion if parts.classifier else None
        if options is None:
            return None
        state = self._tensors(f"{network}_diffusion", epoch)
        with curable(self.path):
            if not state.keys() >= {"progress", "times"}:
                raise RunError(f"{network}_diffusion of epoch {epoch} is another network's")
        return DiffusionState(horizon(options, float(state["progress"])), state["times"], options.sigma)

    def generator(self, epoch: int, device: torch.device | str = "cpu") -> nn.Module:
        """G after that many epochs, in eval mode: its moving average where the model keeps one.

        The average has BatchNorm statistics of its own, taken here: those saved with it are of the G that learned.
        Errors as for ``discriminator``.
        """
        if not self.config.parts.averaging:
            return self._network("generator", epoch, device)
        average = self._network("generator_average", epoch, device)
        _recompute_statistics(average, self.manifest["classes"] if self.config.parts.conditional else 0)
        return average

    def _check_epoch(self, epoch: int) -> None:
        if epoch not in self.epochs:
            found = f"{self.epochs[0]} to {self.epochs[-1]}" if self.epochs else "none yet"
            raise InputError(f"{self.path} has no epoch {epoch}; it has {found}")

    def _network(self, name: str, epoch: int, device: torch.device | str) -> nn.Module:
        self._check_epoch(epoch)
        builders = network_builders(self.config, self.manifest["channels"], self.manifest["classes"])
        kind = name.removesuffix("_average")
        if kind not in builders:
            raise InputError(f"{self.path} has no {name}: its model has {', '.join(builders)}")
        with torch.random.fork_rng(devices=[]):  # building draws initial weights that are replaced at once
            network = builders[kind]()
        tensors = self._tensors(name, epoch)
        with curable(self.path):
            if not fits(tensors, network.state_dict()):
                raise RunError(f"{name} of epoch {epoch} is another network's")
        network.load_state_dict(tensors)
        return network.to(device).eval()

    def _tensors(self, name: str, epoch: int) -> dict[str, Tensor]:
        with curable(self.path):
            return CheckpointFolder(self.path / "checkpoints").tensors(epoch, f"{name}.safetensors")


def fits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names, shapes and types of those that they are to be copied into."""
    layouts = [{name: (one.shape, one.dtype) for name, one in some.items()} for some in (found, wanted)]
    return layouts[0] == layouts[1]


def _recompute_statistics(generator: nn.Module, classes: int) -> None:
    """Set a G's BatchNorm statistics to the mean of those of sixteen batches of 64 fixed latents.

    Args:
        generator: in eval mode.
        classes: that it is told, all alike; 0: an unconditional one.
    """
    device = next(generator.parameters()).device
    count, random = AVERAGE_BATCHES * AVERAGE_BATCH, torch.Generator().manual_seed(AVERAGE_SEED)
    latents = torch.randn(count, LATENT_SIZE, generator=random).to(device).split(AVERAGE_BATCH)
    labels = iter((torch.arange(count, device=device) % max(classes, 1)).split(AVERAGE_BATCH))

    def told(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor, ...]:
        return (*inputs, next(labels)) if classes else inputs

    with generator.register_forward_pre_hook(told):
        update_bn(latents, generator)


def load_run(path: Path | str) -> Run:
    """Read a run, complete or not.

    Raises:
        RunError: the folder holds no run, or one of its files is damaged.
    """
    path = Path(path)
    if not (path / "manifest.json").is_file():
        raise RunError(f"{path} holds no training run (no manifest.json); train(config, runs_dir) makes one")
    with curable(path):
        values, rows = files.read_json(path / "config.json"), CheckpointFolder(path / "checkpoints").rows()
    with _named(path / "config.json"):
        config = TrainingConfig.stored(values)
    return Run(path, config, pd.DataFrame(rows), read_manifest(path))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the run in a folder.

    Raises:
        RunError: it is missing, damaged, or lacks what the package reads of it.
    """
    with curable(path), _named(path / "manifest.json"):
        content = files.read_json(path / "manifest.json")
        Manifest(**content)
    return content


@contextmanager
def curable(run: Path) -> Iterator[None]:
    """Say of a damaged file of a run what can be done."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{error}; delete {run} and train again for the same weights") from None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with its values, which no user has typed."""
    try:
        yield
    except InputError as error:
        raise RunError(f"{path}: {error}") from None

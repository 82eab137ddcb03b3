"""A training run on disk: its folder, its checkpoints, and how to read them back.

    runs_dir/<config.name>/
        config.json               the configuration
        manifest.json             status, versions, device, precision, threads, data hash, wall time
        history.csv               one row an epoch
        checkpoints/epoch-0007/   discriminator.safetensors, generator.safetensors, epoch.json
                                  and, in the newest two and the middle one, training_state.safetensors

Epoch 0 is the untrained state. Nothing here unpickles: tensors are safetensors, the rest is JSON and CSV.
"""

import dataclasses
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from gradcam_gan.errors import InputError, RunError
from gradcam_gan.models.dcgan import LATENT_SIZE
from gradcam_gan.models.diffusion import DiffusionState, horizon
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.networks import network_builders

TRAINING_STATE = "training_state.safetensors"
# of the BatchNorm statistics of an averaged G; its latents are none of those that it is scored on
AVERAGE_BATCHES, AVERAGE_BATCH, AVERAGE_SEED = 16, 64, 2


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
        with files.atomic_directory(self.epoch_path(checkpoint.epoch)) as folder:
            for name, tensors in checkpoint.networks.items():
                files.write_tensors(folder / f"{name}.safetensors", tensors)
            files.write_tensors(folder / TRAINING_STATE, checkpoint.training_state)
            files.write_json(folder / "epoch.json", {"epoch": checkpoint.epoch, "row": checkpoint.row})
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
        folder = self.epoch_path(epoch)
        return Checkpoint(
            epoch,
            files.read_json(folder / "epoch.json")["row"],
            {name: files.read_tensors(folder / f"{name}.safetensors") for name in networks},
            files.read_tensors(folder / TRAINING_STATE),
        )

    def rows(self) -> list[dict[str, float]]:
        """The history's rows of all saved epochs, ascending, without epoch 0."""
        return [
            files.read_json(self.epoch_path(epoch) / "epoch.json")["row"] for epoch in self.epochs() if epoch
        ]

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
        network.load_state_dict(self._tensors(name, epoch))
        return network.to(device).eval()

    def _tensors(self, name: str, epoch: int) -> dict[str, Tensor]:
        folder = CheckpointFolder(self.path / "checkpoints").epoch_path(epoch)
        try:
            return files.read_tensors(folder / f"{name}.safetensors")
        except RunError as error:
            raise RunError(f"{error}; delete {self.path} and train again for the same weights") from None


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
    try:
        config = TrainingConfig.stored(files.read_json(path / "config.json"))
    except InputError as error:
        raise RunError(f"{path / 'config.json'}: {error}") from None
    rows = CheckpointFolder(path / "checkpoints").rows()
    return Run(path, config, pd.DataFrame(rows), files.read_json(path / "manifest.json"))

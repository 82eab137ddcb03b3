"""A GAN that was trained elsewhere: its saved weights, one file an epoch, ready to explain as a ``Run`` is."""

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten

import pandas as pd
import torch
from torch import Tensor, nn

from gradcam_gan.errors import InputError, RunError, one_line
from gradcam_gan.models.diffusion import DiffusionState
from gradcam_gan.training import files

LONGEST_PROBLEM = 300  # characters: PyTorch names every parameter that does not fit


class Checkpoints:
    """A folder with the weights of your own discriminator, and of its generator, after each epoch.

    A file holds one network's state dict, as ``torch.save(network.state_dict(), path)`` or safetensors write it.
    Nothing in it is ever run.

    Args:
        folder: where the files are.
        discriminator: builds the network, such as its class; it takes images in [-1, 1] alone and returns logits.
        discriminator_files: their names, ``*`` standing for the epoch's number, such as ``netD_epoch_*.pth``.
        generator: builds the network, which takes latents and returns images in [-1, 1]; None: nothing that needs
            generated images can be asked for, such as settled statistics.
        generator_files: likewise, of the same numbers.
        latents: (M, ...), what the generator is given, always the first as many as are asked for; settled statistics
            ask for 1,024.
        seed: names the network in tables, where there are several.

    Raises:
        InputError: the folder has no such file, or a generator without file names and latents.
    """

    def __init__(
        self,
        folder: Path | str,
        discriminator: Callable[[], nn.Module],
        discriminator_files: str,
        *,
        generator: Callable[[], nn.Module] | None = None,
        generator_files: str | None = None,
        latents: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        self.path, self.seed = Path(folder), seed
        self._discriminator, self._generator, self._latents = discriminator, generator, latents
        self._discriminators = _numbered(self.path, discriminator_files)
        self._generators: dict[int, Path] = {}
        if generator is not None:
            if generator_files is None or latents is None:
                raise InputError(
                    "a generator needs generator_files, such as 'netG_epoch_*.pth', and latents (M, ...)"
                )
            self._generators = _numbered(self.path, generator_files)

    @property
    def epochs(self) -> list[int]:
        """The numbers in the names of the discriminator's files, ascending."""
        return sorted(self._discriminators)

    @property
    def keys(self) -> dict[str, object]:
        """What names the network in a table, by column."""
        return {"seed": self.seed}

    @property
    def history(self) -> pd.DataFrame:
        """Of its training nothing is known but the epochs."""
        return pd.DataFrame({"epoch": self.epochs})

    @property
    def generates(self) -> bool:
        """Whether there is a generator."""
        return self._generator is not None

    def discriminator(self, epoch: int, device: torch.device | str = "cpu") -> nn.Module:
        """D after that many epochs, in eval mode.

        Raises:
            InputError: that epoch is not saved, or the file is of another network.
            RunError: the file cannot be read, or holds more than tensors.
        """
        return self._load(self._discriminator, self._discriminators, epoch, "discriminator").to(device)

    def generator(self, epoch: int, device: torch.device | str = "cpu") -> nn.Module:
        """G after that many epochs, in eval mode. Errors as for ``discriminator``, and: no generator was given."""
        if self._generator is None:
            raise InputError(
                f"{self.path} was given without a generator, but settled statistics and scores of generated images "
                "need one: give generator, generator_files and latents, or leave them out"
            )
        return self._load(self._generator, self._generators, epoch, "generator").to(device)

    def latents(self, count: int) -> Tensor:
        """The first ``count`` latents.

        Raises:
            InputError: there are fewer.
        """
        given = 0 if self._latents is None else len(self._latents)
        if self._latents is None or given < count:
            raise InputError(f"latents has {given} rows; {count} are needed")
        return self._latents[:count]

    def diffusion(self, epoch: int, network: str = "discriminator") -> DiffusionState | None:
        """None, of any epoch and network: images are explained as they are."""
        return None

    def _load(
        self, build: Callable[[], nn.Module], paths: dict[int, Path], epoch: int, name: str
    ) -> nn.Module:
        if epoch not in paths:
            found = ", ".join(map(str, sorted(paths)))
            raise InputError(f"{self.path} has no {name} of epoch {epoch}; it has those of {found}")
        with torch.random.fork_rng(devices=[]):  # building draws initial weights that are replaced at once
            network = build()
        weights = _weights(paths[epoch])
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            problem = shorten(one_line(error), LONGEST_PROBLEM)
            raise InputError(f"{paths[epoch]} is of another network: {problem}") from None
        return network.eval()


class SingleNetwork:
    """A discriminator as it stands in memory, which has no history: one epoch, 0, and no generator.

    Args:
        network: takes images alone and returns logits; never changed.
    """

    def __init__(self, network: nn.Module) -> None:
        self.path = Path(type(network).__name__)  # where messages say that something is missing
        self.epochs, self.keys, self.generates = [0], {"seed": 0}, False
        self.history = pd.DataFrame({"epoch": [0]})
        self._network = network

    def discriminator(self, _epoch: int, _device: torch.device | str = "cpu") -> nn.Module:
        """The network, where it is."""
        return self._network

    def generator(self, _epoch: int, _device: torch.device | str = "cpu") -> nn.Module:
        """There is none.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.path} came without a generator; settled statistics and its images need one")

    def latents(self, _count: int) -> Tensor:
        """There are none. Raises as ``generator``."""
        raise InputError(f"{self.path} came without a generator, so there are no latents")

    def diffusion(self, _epoch: int, _network: str = "discriminator") -> DiffusionState | None:
        """None: images are explained as they are."""
        return None


def _numbered(folder: Path, names: str) -> dict[int, Path]:
    """The files by the number that ``*`` stands for."""
    before, star, after = names.partition("*")
    pattern = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    found = {
        int(match[1]): path
        for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if (match := pattern.fullmatch(path.name))
    }
    if not star or not found:
        raise InputError(
            f"{folder} has no file {names!r}, where * is the epoch's number, such as 'netD_epoch_*.pth'"
        )
    return found


def _weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a file of either kind.

    Raises:
        RunError: it is damaged, or holds anything but named tensors.
    """
    if path.suffix == ".safetensors":
        return files.read_tensors(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of a damaged file whatever its parts raise: KeyError, UnicodeDecodeError ...
        weights = None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise RunError(
            f"{path} is damaged or holds more than one network's named tensors, and is not run: "
            "save network.state_dict() alone"
        )
    return weights

"""What is changed, and how it is read: a folder of files of each kind, and the result that is expected of it."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gradcam_gan.data import data_hash, load_images
from gradcam_gan.models.dcgan import Discriminator
from gradcam_gan.scoring.scores import evaluate_run
from gradcam_gan.studies import paths
from gradcam_gan.studies.study import Study
from gradcam_gan.training import files
from gradcam_gan.training.checkpoints import Checkpoints
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import load_run
from torture.processes import result
from torture.small import CLOCK, DUDGAN, as_read, small, small_reference

PICTURES, DIGITS = 50, 100  # images of a folder, and of an MNIST
SCORED = 20  # images of a generator


@dataclass
class Target:
    """Files of one kind.

    Attributes:
        name: of the kind.
        folder: what is put back after each change.
        files: those that are changed.
        read: as a user would; what it returns is compared.
        free: whether another value may come of a change that nothing can notice.
        share: how often it is chosen, by those that are quickly read.
        expected: what is read of the files as they are.
    """

    name: str
    folder: Path
    files: list[Path]
    read: Callable[[], Any]
    free: bool = False
    share: int = 8
    expected: Any = None

    def keep(self) -> None:
        """Keep the files as they are, and what is read of them."""
        shutil.copytree(self.folder, self._kept, dirs_exist_ok=True)  # two kinds may share it
        self.expected = result(self.read)
        self.restore()

    def restore(self) -> None:
        """Put all files back."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept, self.folder)

    @property
    def _kept(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.kept")


def make(folder: Path) -> list[Target]:
    """Train what is needed in a folder, and read it once."""
    torch.set_num_threads(1)
    found = [
        *_complete(folder / "complete", small(epochs=1), "a run"),
        *_complete(folder / "dudgan", small(epochs=1, model=DUDGAN), "a DuDGAN run"),
        *_without_checksums(folder / "old"),
        _begun(folder / "begun"),
        _scores(folder / "scored"),
        _pictures(folder / "pictures"),
        _digits(folder / "digits"),
        _packaged(folder / "packaged"),
        _parameters(folder / "parameters"),
        _own_weights(folder / "own"),
    ]
    for target in found:
        target.keep()
    return found


def _trained(config: TrainingConfig, runs_dir: Path) -> Path:
    return result(lambda: train(config, runs_dir).path)


def _complete(runs_dir: Path, config: TrainingConfig, name: str) -> list[Target]:
    path = _trained(config, runs_dir)
    manifest = files.read_json(path / "manifest.json")

    def read() -> dict[str, str]:
        loaded = load_run(path)
        return {"loaded": loaded.config.model_dump_json(), **as_read(train(config, runs_dir), manifest)}

    tensors, others = sorted(path.rglob("*.safetensors")), sorted(path.rglob("*.json"))
    return [
        Target(f"{name}: tensor files", runs_dir, tensors, read),
        Target(f"{name}: JSON files, history", runs_dir, [*others, path / "history.csv"], read),
    ]


def _without_checksums(runs_dir: Path) -> list[Target]:
    targets = _complete(runs_dir, small(epochs=1), "a run without checksums")
    for path in runs_dir.rglob("*.json"):
        content = files.read_json(path)
        content.pop("sha256", None)
        files.write_json(path, content)
    for target in targets:
        target.free = True
    return targets


def _begin(config: TrainingConfig, runs_dir: Path) -> Path:
    """A training of which the last epoch is still to come."""
    path = _trained(config, runs_dir)
    shutil.rmtree(path / f"checkpoints/epoch-{config.epochs:04d}")
    manifest = {**files.read_json(path / "manifest.json"), "status": "partial"}
    files.write_json(path / "manifest.json", files.sealed(manifest))
    return path


def _begun(runs_dir: Path) -> Target:
    path = _begin(small(), runs_dir)
    found = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock"]
    return Target("a begun run", runs_dir, found, lambda: _ended(small(), runs_dir), share=1)


def _ended(config: TrainingConfig, runs_dir: Path) -> dict[str, str]:
    """A run that was gone on with to its end, but for the clock of the epochs that were trained now."""
    run = train(config, runs_dir)
    return as_read(replace(run, history=run.history.drop(columns=CLOCK)), ["status", "data_sha256"])


def _scores(runs_dir: Path) -> Target:
    path = _trained(small(epochs=1), runs_dir)
    reference = result(lambda: small_reference(runs_dir.with_name("features")))

    def read() -> str:
        return evaluate_run(load_run(path), reference, count=SCORED).to_csv()

    result(read)
    return Target("scores", runs_dir, list(path.glob("scores-*.csv")), read)


def _pictures(folder: Path) -> Target:
    images = folder / "images"
    images.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(PICTURES):
        pixels = random.integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{i:02d}.{('png', 'jpg', 'bmp', 'tif')[i % 4]}")
    config = small(data=f"folder:{images}", train_images=None, batch_size=16)
    return _begun_on(folder, config, sorted(images.iterdir()), "images of a folder")


def _digits(folder: Path) -> Target:
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split in ("train", "t10k"):
        pixels = random.integers(0, 256, (DIGITS, 28, 28), dtype=np.uint8)
        for name, array in (
            ("images-idx3", pixels),
            ("labels-idx1", (np.arange(DIGITS) % 10).astype(np.uint8)),
        ):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
            (raw / f"{split}-{name}-ubyte").write_bytes(head + array.tobytes())
    config = small(data="mnist", data_dir=folder)
    return _begun_on(folder, config, sorted(raw.iterdir()), "IDX files")


def _begun_on(folder: Path, config: TrainingConfig, images: list[Path], name: str) -> Target:
    """Images that a training was begun on, which is then gone on with."""
    _begin(config, folder / "runs")
    return Target(name, folder, images, lambda: _ended(config, folder / "runs"), share=1)


def _packaged(folder: Path) -> Target:
    folder.mkdir()
    path = Path(shutil.copy(paths.DATA / "mnist-5k.npz", folder))
    return Target("packaged digits", folder, [path], lambda: data_hash(load_images(data_dir=folder, size=28)))


def _parameters(folder: Path) -> Target:
    folder.mkdir()
    names = ["base.yaml", "smoke.yaml", "study.yaml"]
    made = [Path(shutil.copy(paths.PARAMS / name, folder)) for name in names]

    def read() -> list[str]:
        paths.PARAMS = folder
        return [Study.load(profile).model_dump_json() for profile in ("smoke", "study")]

    return Target("parameters", folder, made, read, free=True)


def _own_weights(folder: Path) -> Target:
    """Of a network that was trained elsewhere, as PyTorch and as safetensors."""
    folder.mkdir()

    def save() -> None:
        torch.manual_seed(0)
        weights = Discriminator(preset="paper28", width=2).state_dict()
        torch.save(weights, folder / "d-1.pth")
        torch.save(weights, folder / "d-2.pth", _use_new_zipfile_serialization=False)
        files.write_tensors(folder / "s-1.safetensors", weights)

    def read() -> list[str]:
        found = []
        for names in ("d-*.pth", "s-*.safetensors"):
            networks = Checkpoints(folder, lambda: Discriminator(preset="paper28", width=2), names)
            weights = [networks.discriminator(epoch).state_dict() for epoch in networks.epochs]
            found += [hashlib.sha256(files.tensor_bytes(one)).hexdigest() for one in weights]
        return found

    result(save)
    return Target("weights of one's own", folder, sorted(folder.iterdir()), read, free=True)

"""Trainings that are small enough to be tortured, and what is compared of them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from gradcam_gan.data import load_images
from gradcam_gan.models.options import ClassifierOptions, Diffusion, Model
from gradcam_gan.scoring.evaluator import load_evaluator
from gradcam_gan.scoring.scores import Reference
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.runs import Run, load_run

CLOCK = ["seconds", "images_per_second"]
DUDGAN = Model(
    diffusion=Diffusion(longest=1000), classifier=ClassifierOptions(), gradient_penalty=2.0, averaging=0.9
)


def small(**changes: object) -> TrainingConfig:
    """Three epochs of two iterations, a fifth of a second, with some fields changed."""
    fields: dict[str, object] = {"preset": "paper28", "width": 2, "epochs": 3, "train_images": 64}
    fields |= {"batch_size": 32, "precision": "float32", "device": "cpu", "threads": 1}
    return TrainingConfig(**fields | changes)


def small_reference(runs_dir: Path) -> Reference:
    """Forty held-out digits, and their features kept in a folder: quicker than all of them."""
    some = load_images("mnist-5k", 28, "test")
    some = some._replace(images=some.images[:40], labels=some.labels[:40])
    return Reference(some, load_evaluator(), cache=runs_dir / "evaluators")


def on_disk(path: Path) -> dict[str, str]:
    """A run to its last bit, but for the clock: digests of its tensor files, its history, its configuration."""
    run = load_run(path)
    found = {str(file.relative_to(path)): _digest(file.read_bytes()) for file in path.rglob("*.safetensors")}
    found["history"] = run.history.drop(columns=CLOCK).to_csv()
    written = run.history.to_csv(index=False).encode()
    found["history.csv is its history"] = str(written == (path / "history.csv").read_bytes())
    found["config"] = run.config.model_dump_json()
    found["status"] = run.manifest["status"]
    found["litter"] = ", ".join(str(file.relative_to(path)) for file in path.rglob("*.tmp"))
    return found


def as_read(run: Run, values: Iterable[str]) -> dict[str, str]:
    """A run as its reader sees it: networks of all epochs, history, configuration, those values of its manifest."""
    networks = ["discriminator", "generator"] + ["classifier"] * (run.config.parts.classifier is not None)
    found = {
        f"{name} {epoch}": _digest(files.tensor_bytes(getattr(run, name)(epoch).state_dict()))
        for name in networks
        for epoch in run.epochs
    }
    found |= {f"diffusion {epoch}": repr(run.diffusion(epoch)) for epoch in run.epochs}
    found["history"] = run.history.to_csv()
    found["config"] = run.config.model_dump_json()
    found["manifest"] = repr({name: run.manifest.get(name) for name in values})
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

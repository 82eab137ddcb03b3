"""What can be explored: the complete runs on disk, your own checkpoints, or one network of your own."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradcam_gan.data import ImageSet, check_images, load_images
from gradcam_gan.errors import GradcamGanError
from gradcam_gan.explaining.layers import spatial_layers
from gradcam_gan.run_explainer import RunExplainer
from gradcam_gan.studies.explore.state import SHOWN, Explorer
from gradcam_gan.training.checkpoints import Checkpoints, SingleNetwork
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.devices import resolve_device
from gradcam_gan.training.files import read_json
from gradcam_gan.training.loop import is_complete, training_images
from gradcam_gan.training.runs import Run
from gradcam_gan.validation import choose


def complete_runs(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The complete runs of every profile, but those that came from an archive without any D.

    Args:
        folder: that holds a folder a profile, such as ``runs/``.

    Returns:
        Folders of runs by what a reader calls them, and one line for each that is too old to be read.
    """
    found, refused = {}, []
    for path in sorted(manifest.parent for manifest in folder.glob("*/*/manifest.json")):
        try:
            if is_complete(path) and any(path.glob("checkpoints/*/discriminator.safetensors")):
                config = TrainingConfig.stored(read_json(path / "config.json"))
                found[_label(path, config)] = path
        except GradcamGanError as error:
            refused.append(f"{path.name} is left out: {error}")
    return found, refused


def _label(path: Path, config: TrainingConfig) -> str:
    """Such as ``quick: dcgan, mnist-5k, width 16, 25 epochs, seed 0 (c6fef89d)``; the end is the folder's."""
    model = config.model_name if config.model else "dcgan"
    parts = [f"{path.parent.name}: {model}", config.data, f"width {config.width}", f"{config.epochs} epochs"]
    if config.preset == "paper28":
        parts.append("28x28")
    if config.padding != "zeros":
        parts.append(f"{config.padding} padding")
    digest, _, keep = path.name.rpartition("-keep") if "-keep" in path.name else (path.name, "", "")
    if keep:
        parts.append("fewer images")
    return f"{', '.join(parts)}, seed {config.seed} ({digest[-8:]}{keep and '-' + keep})"


def run_explorer(run: Run, name: str, calibration_images: int) -> Explorer:
    """The networks of a run, and the first held-out images of each class.

    Args:
        run: complete.
        name: as views call it.
        calibration_images: training images that reference and settled statistics come from.

    Raises:
        InputError: the run's images are not to be had.
    """
    held_out, calibration = training_images(run.config, "test"), training_images(run.config)
    chosen = first_of_each_class(held_out)
    labels = held_out.labels[chosen]
    explainer = RunExplainer(
        run,
        calibration.images[:calibration_images],
        resolve_device("auto"),
        calibration_labels=calibration.labels[:calibration_images],
    )
    captions = [f"held-out {held_out.class_names[label]}" for label in labels.tolist()]
    return _explorer(explainer, held_out.images[chosen], captions, labels, name=name)


def own_explorer(
    network: nn.Module | Checkpoints, images: Tensor | str, *, size: int = 64, layers: Sequence[str] = ()
) -> Explorer:
    """Your own discriminator, or its checkpoints, and your own images.

    Args:
        network: takes images in [-1, 1] alone and returns one logit an image; never changed.
        images: (N, C, H, W), uint8 or in [-1, 1], or a name that ``load_images`` takes, such as ``folder:my-images``.
            The first 20 are shown; all of them set the reference statistics.
        size: pixels a side that named images are loaded at.
        layers: to choose from; by default all that a map can be made at.

    Raises:
        InputError: images that are missing or that the network does not take, or no layer with a map.
    """
    captions = None
    if isinstance(images, str):
        images, labels, names = load_images(images, size)
        captions = [f"image {i + 1}, {names[label]}" for i, label in enumerate(labels[:SHOWN].tolist())]
    check_images(images)
    shown = images[:SHOWN]
    captions = captions or [f"image {i + 1}" for i in range(len(shown))]
    if isinstance(network, Checkpoints):
        return _explorer(
            RunExplainer(network, images, resolve_device("auto")), shown, captions, layers=layers
        )
    parameter = next(network.parameters(), torch.empty(0))
    explainer = RunExplainer(SingleNetwork(network), images, parameter.device)
    return _explorer(explainer, shown, captions, layers=layers)


def _explorer(
    explainer: RunExplainer[Any],
    images: Tensor,
    captions: Sequence[str],
    labels: Tensor | None = None,
    *,
    name: str | None = None,
    layers: Sequence[str] = (),
) -> Explorer:
    network = explainer.explained(explainer.epochs[-1], "running")
    known = spatial_layers(network, images[:2])
    for layer in layers:
        choose("layer", layer, known)
    return Explorer(explainer, name or explainer.run.path.name, images, captions, layers or known, labels)


def first_of_each_class(held_out: ImageSet) -> list[int]:
    """Indices of the first images of each class, as many of each, in all as many as are shown (or there are)."""
    classes = held_out.labels.unique().tolist()
    each = max(1, SHOWN // len(classes))
    of_class = [(held_out.labels == label).nonzero()[:each, 0].tolist() for label in classes]
    return [index for rank in zip_longest(*of_class) for index in rank if index is not None][:SHOWN]

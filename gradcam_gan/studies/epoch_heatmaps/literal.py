"""What the paper's authors would likely have seen, taken literally: pytorch-grad-cam as it is, on a D with a sigmoid.

The layer list of the paper (section 3) ends in a sigmoid. Explaining its output p instead of the logit scales every
gradient, and so the whole map, by dp/dlogit = p (1 - p). A map's own min-max normalisation takes such a factor out
again, as long as there is something left to divide: in float32 p is exactly 1 from a logit of about 17 on, the factor
is 0, and the map is blank, however clear the evidence.
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import pandas as pd
import torch
from torch import Tensor, nn

from gradcam_gan import torchvision_compat  # noqa: F401 - before pytorch-grad-cam, which imports torchvision
from gradcam_gan.data import to_model_range
from gradcam_gan.models.dcgan import PaperNetwork
from gradcam_gan.studies.panels import Panel
from gradcam_gan.training.runs import Run

LAYER = "conv3"


def library_maps(discriminator: PaperNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """Grad-CAM of the sigmoid at ``conv3`` with every default of pytorch-grad-cam: eval mode, ReLU, its own min-max.

    Args:
        discriminator: gives logits (N,); left as it is.
        images: uint8 (N, C, H, W).

    Returns:
        Maps (N, H, W) in 0..1, and D(x) (N,), the probability of "real".
    """
    from pytorch_grad_cam import GradCAM

    # the library switches to eval mode, fills .grad and hooks the layer
    network = copy.deepcopy(discriminator)
    cam = GradCAM(nn.Sequential(network, nn.Sigmoid()), [network.named_layers[LAYER]])
    # a target an image: a single one would explain the first image only
    maps = cam(to_model_range(images), [nn.Identity()] * len(images))
    return torch.from_numpy(maps), cam.outputs.detach()


def literal_panel(run: Run, images: Tensor, epochs: Sequence[int], captions: Sequence[str]) -> Panel:
    """A row an epoch, a column an image, which shines through its map as in the library's ``show_cam_on_image``.

    Kept with the run.

    Args:
        run: of either preset.
        images: uint8 (K, C, H, W), of the preset's size.
        epochs: which.
        captions: K.

    Returns:
        A panel whose table has a row per epoch and image: ``preset``, ``seed``, ``epoch``, ``image`` (index),
        ``logit``, ``blank`` (all values of the map are equal) and ``rounded`` (D(x) is 1.0 in float32).
    """
    found = run.kept_tensors("literal", _how(images, epochs), partial(_explained, run, images, epochs))
    maps, table = found.pop("maps"), _table(run, epochs, found)
    seen = to_model_range(images).expand(len(epochs), *images.shape)
    return Panel(images, maps, [f"epoch {epoch}" for epoch in epochs], list(captions), table, seen)


def saturation(run: Run, images: Tensor, epochs: Sequence[int]) -> pd.DataFrame:
    """A row an epoch: the mean ``logit``, and the shares (0..1) of ``blank`` maps and of D(x) ``rounded`` to 1.0.

    A blank map whose D(x) is not rounded has no evidence for "real", or a D(x) so near 0 that the library's 1e-7 in its
    divisor swamps the map. Arguments as for ``literal_panel``; what is kept with the run is without the maps.
    """

    def find() -> dict[str, Tensor]:
        found = _explained(run, images, epochs)
        return {name: values for name, values in found.items() if name != "maps"}

    table = _table(run, epochs, run.kept_tensors("saturation", _how(images, epochs), find))
    return table.groupby(["preset", "seed", "epoch"])[["logit", "blank", "rounded"]].mean().reset_index()


def _how(images: Tensor, epochs: Sequence[int]) -> str:
    """All that decides what is found of a run."""
    return f"{hashlib.sha256(images.numpy().tobytes()).hexdigest()} {[*epochs]}"


def _explained(run: Run, images: Tensor, epochs: Sequence[int]) -> dict[str, Tensor]:
    """``maps`` (E, N, H, W); ``logit``, ``blank`` and ``rounded`` (E, N) of ``literal_panel``'s table."""
    rows = []
    for epoch in epochs:
        discriminator = run.discriminator(epoch)
        with torch.no_grad():
            logits = discriminator(to_model_range(images))
        maps, probabilities = library_maps(cast(PaperNetwork, discriminator), images)
        blank = maps.amax((1, 2)) == maps.amin((1, 2))
        rows.append({"maps": maps, "logit": logits, "blank": blank, "rounded": probabilities == 1})
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _table(run: Run, epochs: Sequence[int], found: Mapping[str, Tensor]) -> pd.DataFrame:
    """The table of ``literal_panel``."""
    keys = {"preset": run.config.preset, "seed": run.config.seed}
    tables = [
        pd.DataFrame({name: values[row].numpy() for name, values in found.items()}).assign(epoch=epoch)
        for row, epoch in enumerate(epochs)
    ]
    table = pd.concat([one.rename_axis("image").reset_index() for one in tables], ignore_index=True)
    return table.assign(**keys)[[*keys, "epoch", "image", "logit", "blank", "rounded"]]

"""What the paper's authors would likely have seen, taken literally: pytorch-grad-cam as it is, on a D with a sigmoid.

The layer list of the paper (section 3) ends in a sigmoid. Explaining its output p instead of the logit scales every
gradient, and so the whole map, by dp/dlogit = p (1 - p). A map's own min-max normalisation takes such a factor out
again, as long as there is something left to divide: in float32 p is exactly 1 from a logit of about 17 on, the factor
is 0, and the map is blank, however clear the evidence.
"""

import copy
from collections.abc import Sequence
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

    Args:
        run: of either preset.
        images: uint8 (K, C, H, W), of the preset's size.
        epochs: which.
        captions: K.

    Returns:
        A panel whose table has a row per epoch and image: ``preset``, ``seed``, ``epoch``, ``image`` (index),
        ``logit``, ``blank`` (all values of the map are equal) and ``rounded`` (D(x) is 1.0 in float32).
    """
    maps, table = _explained(run, images, epochs)
    seen = to_model_range(images).expand(len(epochs), *images.shape)
    return Panel(images, maps, [f"epoch {epoch}" for epoch in epochs], list(captions), table, seen)


def saturation(run: Run, images: Tensor, epochs: Sequence[int]) -> pd.DataFrame:
    """A row an epoch: the mean ``logit``, and the shares (0..1) of ``blank`` maps and of D(x) ``rounded`` to 1.0.

    A blank map whose D(x) is not rounded has no evidence for "real", or a D(x) so near 0 that the library's 1e-7 in its
    divisor swamps the map. Arguments as for ``literal_panel``.
    """
    _, table = _explained(run, images, epochs)
    return table.groupby(["preset", "seed", "epoch"])[["logit", "blank", "rounded"]].mean().reset_index()


def _explained(run: Run, images: Tensor, epochs: Sequence[int]) -> tuple[Tensor, pd.DataFrame]:
    """Maps (E, N, H, W), and the table of ``literal_panel``."""
    maps, tables = [], []
    for epoch in epochs:
        discriminator = run.discriminator(epoch)
        with torch.no_grad():
            logits = discriminator(to_model_range(images))
        own, probabilities = library_maps(cast(PaperNetwork, discriminator), images)
        numbers = {
            "logit": logits,
            "blank": own.amax((1, 2)) == own.amin((1, 2)),
            "rounded": probabilities == 1,
        }
        table = pd.DataFrame({name: values.numpy() for name, values in numbers.items()}).rename_axis("image")
        tables.append(table.reset_index().assign(epoch=epoch))
        maps.append(own)
    keys = {"preset": run.config.preset, "seed": run.config.seed}
    table = pd.concat(tables, ignore_index=True).assign(**keys)
    return torch.stack(maps), table[[*keys, "epoch", "image", *numbers]]

"""Four ways to look into a discriminator side by side: what a layer computes, Grad-CAM, occlusion and LIME."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn import functional as F

from gradcam_gan.data import to_model_range
from gradcam_gan.explaining.hooks import find_layer
from gradcam_gan.explaining.measures import digit_mask
from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.run_explainer import Reading, RunExplainer
from gradcam_gan.studies.style import PAGE, SIGNED, STYLE, as_rgb

SHOWN_METHODS = ("gradcam", "occlusion", "lime")
SIDE = 4  # of the square of channels that is shown


@dataclass(frozen=True)
class Overview:
    """What the four ways show of the same images.

    Attributes:
        images: uint8 (K, C, H, W).
        captions: K, of the rows.
        logits: (K,).
        layer: whose activations, and Grad-CAM's.
        activations: (K, 16, h, w), of the channels that are most active on these images.
        maps: signed maps (K, H, W) in units of the logit, by method.
    """

    images: Tensor
    captions: Sequence[str]
    logits: Tensor
    layer: str
    activations: Tensor
    maps: dict[str, Tensor]

    @property
    def table(self) -> pd.DataFrame:
        """The numbers behind the figure, a row a value.

        Columns: ``image``, ``shown`` (``activations`` or a method), ``channel`` (of activations; else -1), ``row``,
        ``column``, ``value``.
        """
        parts = []
        shown = {"activations": self.activations, **{name: one[:, None] for name, one in self.maps.items()}}
        for name, values in shown.items():
            axes = [range(size) for size in values.shape]
            index = pd.MultiIndex.from_product(axes, names=["image", "channel", "row", "column"])
            part = pd.DataFrame({"value": values.flatten().numpy()}, index).reset_index()
            parts.append(part.assign(shown=name, channel=part["channel"] if name == "activations" else -1))
        table = pd.concat(parts, ignore_index=True)
        return table[["image", "shown", "channel", "row", "column", "value"]]


def overview(
    explainer: RunExplainer, images: Tensor, captions: Sequence[str], epoch: int, reading: Reading
) -> Overview:
    """Compute what ``overview_figure`` draws.

    Args:
        explainer: of a run whose discriminator is told neither class nor time.
        images: uint8 (K, C, H, W), one a row.
        captions: K.
        epoch: of the run.
        reading: whose layer and statistics are used.
    """
    maps, logits = explainer.signed(images, epoch, reading.statistics, SHOWN_METHODS, [reading.layer])
    network, found = explainer.explained(epoch, reading.statistics), []
    _, module = find_layer(network, reading.layer)
    with module.register_forward_hook(lambda *call: found.append(call[2])), torch.no_grad():
        network(to_model_range(images.to(explainer.device)))
    activations = found[0].cpu()
    most = activations.abs().mean((0, 2, 3)).argsort(descending=True)[: SIDE**2]
    sized = {
        method: F.interpolate(one.cpu()[:, None], images.shape[2:], mode="bilinear")[:, 0]
        for (_, method), one in maps.items()
    }
    return Overview(images.cpu(), captions, logits.cpu(), reading.layer, activations[:, most], sized)


def overview_figure(shown: Overview) -> Figure:
    """A row an image; columns: the image, a layer's most active channels, then a signed map of each method.

    A column has one scale, which is symmetric about 0. The digit's outline is drawn over the maps.
    """
    columns = {f"activations of {shown.layer}": (_squares(shown.activations), "activation")}
    for name, maps in shown.maps.items():
        columns[METHODS[name].at(shown.layer)] = maps, "logit"
    count, outlines = len(shown.images), digit_mask(shown.images).float()
    with plt.rc_context(STYLE):
        size = PAGE, 0.7 + count * PAGE / (1 + len(columns))
        figure, axes = plt.subplots(count, 1 + len(columns), figsize=size, squeeze=False)
        for one, picture, caption, logit in zip(
            axes[:, 0], as_rgb(shown.images), shown.captions, shown.logits, strict=True
        ):
            one.imshow(picture.numpy(), interpolation="nearest")
            one.set_ylabel(f"{caption}\nlogit {logit:+.1f}".replace("-", "−"))
        _bar(figure, ScalarMappable(Normalize(0, 255), "gray"), list(axes[:, 0]), "pixel value")
        for i, (pictures, unit) in enumerate(columns.values(), 1):
            largest = float(pictures.nan_to_num().abs().max())
            scale = ScalarMappable(Normalize(-largest, largest), SIGNED)
            for one, picture, outline in zip(axes[:, i], pictures, outlines, strict=True):
                one.imshow(picture.numpy(), cmap=scale.cmap, norm=scale.norm, interpolation="nearest")
                if unit == "logit":
                    one.contour(outline.numpy(), levels=[0.5], colors="0.2", linewidths=0.5)
            _bar(figure, scale, list(axes[:, i]), unit)
        for one, title in zip(axes[0], ["image", *columns], strict=True):
            one.set_title(title)
        for one in axes.flat:
            one.set(xticks=[], yticks=[])
            one.spines[:].set(visible=True, linewidth=0.5)
    return figure


def _bar(figure: Figure, scale: ScalarMappable, axes: list[Axes], unit: str) -> None:
    """A column's colour bar, below it."""
    ticks = MaxNLocator(3)
    figure.colorbar(scale, ax=axes, location="bottom", label=unit, aspect=12, shrink=0.9, ticks=ticks)


def _squares(activations: Tensor) -> Tensor:
    """Channels (K, 16, h, w) -> squares (K, 4 h + 3, 4 w + 3) of them, NaN between."""
    count, channels, height, width = activations.shape
    side = int(np.ceil(channels**0.5))
    padded = F.pad(activations, (0, 1, 0, 1, 0, side * side - channels), value=np.nan)
    grid = padded.reshape(count, side, side, height + 1, width + 1).permute(0, 1, 3, 2, 4)
    return grid.reshape(count, side * (height + 1), side * (width + 1))[:, :-1, :-1]

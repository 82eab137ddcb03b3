"""What the Explorer shows, without a widget: from a setting to a view, nothing computed twice."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from gradcam_gan.data import check_images, to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.batchnorm import BatchNorm
from gradcam_gan.explaining.cam import evidence_maps
from gradcam_gan.explaining.hooks import find_layer
from gradcam_gan.explaining.measures import digit_mask, measure
from gradcam_gan.explaining.methods import METHODS, Weighting
from gradcam_gan.models.dcgan import Discriminator
from gradcam_gan.run_explainer import Reading, RunExplainer, Statistics

Source = Literal["real", "generated", "yours"]
SHOWN = 20  # images of a kind in the grid
CACHED = 512  # maps of a grid under one setting; at a layer they are a few kilobytes


@dataclass(frozen=True)
class Setting:
    """All that can be picked.

    Attributes:
        source: which images.
        image: index among them.
        epoch: of the network.
        reading: method, layer, statistics and evidence.
        overlay: strength of the heatmap over the image, 0..1.
    """

    source: Source
    image: int
    epoch: int
    reading: Reading
    overlay: float = 0.5


@dataclass(frozen=True)
class View:
    """What one setting shows.

    Attributes:
        setting: which.
        network: its name.
        caption: what the image is.
        image: (C, H, W) in [-1, 1].
        signed: (h, w), the raw map at its own resolution, in the method's unit; above 0: for "real".
        heat: (H, W), the evidence that the reading asks for, unnormalised.
        logit: above 0 D says "real".
        measures: one row of ``measure``, of ``heat`` and the bright part of the image.
    """

    setting: Setting
    network: str
    caption: str
    image: Tensor
    signed: Tensor
    heat: Tensor
    logit: float
    measures: pd.Series

    @property
    def table(self) -> pd.DataFrame:
        """One row: settings, logit, measures, and the raw map in columns ``map_<row>_<column>``."""
        picked: dict[str, Any] = asdict(self.setting)
        row = {"network": self.network, **picked.pop("reading"), **picked, "caption": self.caption}
        height, width = self.signed.shape
        names = [f"map_{y}_{x}" for y in range(height) for x in range(width)]
        values = dict(zip(names, self.signed.flatten().tolist(), strict=True))
        return pd.DataFrame([{**row, "logit": self.logit, **self.measures, **values}])


class Explorer:
    """One network, or one of each epoch, and images to look at.

    Args:
        explainer: of a run, your own checkpoints or one network.
        name: as views call it.
        images: real ones, (N, C, H, W), uint8 or in [-1, 1].
        captions: N, such as "digit 3".
        layers: that maps can be made at (``spatial_layers``).
        labels: the images' classes (N,), for a network that is told them.

    Raises:
        InputError: images that cannot be used, or a caption or label missing.
    """

    def __init__(
        self,
        explainer: RunExplainer[Any],
        name: str,
        images: Tensor,
        captions: Sequence[str],
        layers: Sequence[str],
        labels: Tensor | None = None,
    ) -> None:
        check_images(images)
        if len(captions) != len(images):
            raise InputError(f"{len(captions)} captions for {len(images)} images; give one for each")
        self.name, self.layers, self.epochs = name, list(layers), explainer.epochs
        self._explainer, self._real, self._labels = explainer, _as_floats(images), labels
        self._captions = list(captions)
        self._own: tuple[Tensor, Tensor] | None = None
        self._drawings = 0
        # of this object alone, so that they go with it
        self._explained = lru_cache(CACHED)(self._explain)
        self._generated = lru_cache(CACHED)(self._generate)

    @property
    def default(self) -> Reading:
        """The paper's reading where the network has its layer, else at its last convolution."""
        convolutions = [
            name for name in self.layers if isinstance(find_layer(self._network, name)[1], nn.Conv2d)
        ]
        paper = Reading()
        return (
            paper if paper.layer in self.layers else replace(paper, layer=(convolutions or self.layers)[-1])
        )

    @property
    def first(self) -> Setting:
        """The first real image at the last epoch, by the default reading."""
        return Setting("real", 0, self.epochs[-1], self.default)

    @property
    def _network(self) -> nn.Module:
        return self._explainer.explained(self.epochs[-1], "running")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        channels, height, width = self._real.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """How many the network is told of; 0: none."""
        return self._network.classes if isinstance(self._network, Discriminator) else 0

    @property
    def sources(self) -> list[Source]:
        """The kinds of images that there are."""
        return ["real", "generated", "yours"] if self._explainer.run.generates else ["real", "yours"]

    @property
    def statistics(self) -> dict[Statistics, str]:
        """Every kind of BatchNorm statistics, and why it cannot be had; empty where it can."""
        if not any(isinstance(module, BatchNorm) for module in self._network.modules()):
            same = "the network has no BatchNorm"
            return {"running": "", "settled": same, "reference": same, "batch": same}
        settled = "" if "generated" in self.sources else "it needs the generator"
        return {"running": "", "settled": settled, "reference": "", "batch": ""}

    @property
    def own_image(self) -> Tensor:
        """The reader's own image, (C, H, W) in [-1, 1].

        Raises:
            InputError: there is none yet.
        """
        if self._own is None:
            raise InputError("there is no image of your own yet: draw a digit or upload an image")
        return self._own[0][0]

    def draw(self, image: Tensor, label: int = 0) -> None:
        """Take an image of the reader's own, (C, H, W), and the class that the network is told of it."""
        self._own, self._drawings = (_as_floats(image[None]), torch.tensor([label])), self._drawings + 1

    def images(self, source: Source, epoch: int) -> tuple[Tensor, list[str]]:
        """Images (N, C, H, W) in [-1, 1] of one kind, and what each is; generated ones are of that epoch's G.

        Raises:
            InputError: nothing was drawn yet, or there is no generator.
        """
        if source == "real":
            return self._real, self._captions
        if source == "generated":
            images, classes = self._generated(epoch)
            asked = [f", asked for a {label}" for label in classes.tolist()] if self.classes else SHOWN * [""]
            return images, [f"generated image {i + 1}{what}" for i, what in enumerate(asked)]
        return self.own_image[None], ["your image"]

    def view(self, setting: Setting) -> View:
        """What a setting shows.

        Raises:
            InputError: the method, layer or statistics cannot be had of this network, or there is no such image.
        """
        images, captions = self.images(setting.source, setting.epoch)
        if not 0 <= setting.image < len(images):
            raise InputError(f"image={setting.image} must be one of 0..{len(images) - 1}")
        one, reading = slice(setting.image, setting.image + 1), setting.reading
        signed, logit = self._signed(setting)
        heat = evidence_maps(signed[None], reading.evidence, images.shape[2:])
        measures = measure(heat, digit_mask(images[one])).iloc[0]
        image, caption = images[setting.image], captions[setting.image]
        return View(setting, self.name, caption, image, signed, heat[0], logit, measures)

    def _signed(self, setting: Setting) -> tuple[Tensor, float]:
        """The signed map (h, w) and the logit of the image that is picked."""
        source, reading = setting.source, setting.reading
        method = METHODS[reading.method]
        # in a batch no image stands alone; methods that take one pass explain the whole grid in that of one image
        together = isinstance(method, Weighting) or reading.statistics == "batch"
        maps, logits = self._explained(
            source,
            self._drawings if source == "yours" else None,
            None if together else setting.image,
            setting.epoch,
            reading.statistics,
            reading.key,
            method.one_sided and reading.evidence == "fake",
        )
        index = setting.image if together else 0
        return maps[index], float(logits[index])

    def _explain(
        self,
        source: Source,
        _drawing: int | None,
        image: int | None,
        epoch: int,
        statistics: Statistics,
        key: tuple[str, str],
        against: bool,
    ) -> tuple[Tensor, Tensor]:
        """Signed maps (n, h, w) and logits (n,) of one image or all of a kind, on the CPU; below 0: against "real"."""
        chosen = slice(None) if image is None else slice(image, image + 1)
        images, labels = self.images(source, epoch)[0][chosen], self._told(source, epoch)
        labels = None if labels is None else labels[chosen]
        if source == "yours" and statistics == "batch":  # its neighbours are the real ones: it has no batch
            images = torch.cat([images, self._real])
            if labels is not None and self._labels is not None:
                labels = torch.cat([labels, self._labels])
        layer, method = key
        found = self._explainer.signed(
            images, epoch, statistics, [method], [layer], labels=labels, against=against
        )
        (maps,) = found.signed.values()
        sign = -1 if against else 1
        return sign * maps.cpu(), sign * found.scores.cpu()

    def _told(self, source: Source, epoch: int) -> Tensor | None:
        if not self.classes:
            return None
        if source == "generated":
            return self._generated(epoch)[1]
        return self._own[1] if source == "yours" and self._own is not None else self._labels

    def _generate(self, epoch: int) -> tuple[Tensor, Tensor]:
        images, labels = self._explainer.generated(epoch, SHOWN)
        return images.cpu(), labels


def _as_floats(images: Tensor) -> Tensor:
    return to_model_range(images).float().cpu()

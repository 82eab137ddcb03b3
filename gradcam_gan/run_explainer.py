"""One trained run, ready to explain: its discriminators at every epoch, under every kind of BatchNorm statistics.

An explanation depends on choices that the paper leaves open, and each may decide a claim: the method, the
statistics that BatchNorm uses, and whether evidence for "real" or for "fake" is shown. A ``Variant`` names one
combination.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from gradcam_gan.batchnorm import batch_statistics, calibrate
from gradcam_gan.explain import Evidence, Method, evidence_maps, signed_maps
from gradcam_gan.runs import Run

Statistics = Literal["reference", "running", "batch"]
METHOD_NAMES: dict[Method, str] = {"gradcam": "Grad-CAM", "hirescam": "HiResCAM"}
BATCH = 64  # the fastest on a CPU at these sizes


@dataclass(frozen=True)
class Variant:
    """One way to explain a discriminator: the paper's unstated choices, stated.

    Attributes:
        method: ``gradcam`` or ``hirescam``.
        statistics: of BatchNorm: ``running`` (as trained; what pytorch-grad-cam shows), ``reference``
            (recomputed on real images, see ``calibrate``) or ``batch`` (of the batch explained).
        evidence: ``real`` or ``fake``.
    """

    method: Method = "gradcam"
    statistics: Statistics = "reference"
    evidence: Evidence = "real"

    def __str__(self) -> str:
        """Such as ``Grad-CAM, reference, real``."""
        return f"{METHOD_NAMES[self.method]}, {self.statistics}, {self.evidence}"


METHODS: tuple[Method, ...] = ("gradcam", "hirescam")
STATISTICS: tuple[Statistics, ...] = ("running", "reference")
EVIDENCES: tuple[Evidence, ...] = ("real", "fake")
VARIANTS = tuple(Variant(*choice) for choice in product(METHODS, STATISTICS, EVIDENCES))


class RunExplainer:
    """Explains the discriminators of one run; each is loaded, and calibrated, once.

    Args:
        run: a training run.
        reference: uint8 (M, C, H, W), real images for the ``reference`` statistics.
        device: where to compute.
    """

    def __init__(self, run: Run, reference: Tensor, device: torch.device | str = "cpu") -> None:
        self.run = run
        self.device = torch.device(device)
        self._reference = reference.to(self.device)
        self._discriminators: dict[tuple[int, Statistics], nn.Module] = {}

    def discriminator(self, epoch: int, statistics: Statistics) -> nn.Module:
        """D after that many epochs under one kind of BatchNorm statistics, in eval mode."""
        key = (epoch, statistics)
        if key not in self._discriminators:
            trained = self.run.discriminator(epoch, self.device)
            if statistics == "reference":
                trained = calibrate(trained, self._reference)
            elif statistics == "batch":
                trained = batch_statistics(trained)
            self._discriminators[key] = trained
        return self._discriminators[key]

    def signed(
        self,
        images: Tensor,
        epoch: int,
        statistics: Statistics,
        methods: Sequence[Method] = METHODS,
        layer: str = "block3",
    ) -> tuple[dict[Method, Tensor], Tensor]:
        """Signed maps (N, h, w) by method, and logits (N,), in one pass (see ``explain.signed_maps``)."""
        discriminator = self.discriminator(epoch, statistics)
        return signed_maps(discriminator, images.to(self.device), methods, layer=layer, batch_size=BATCH)

    def maps(
        self, images: Tensor, epochs: Sequence[int], variant: Variant, *, upsample: bool = True
    ) -> Tensor:
        """Unnormalised maps of the same images at several epochs.

        Args:
            images: uint8 (N, C, H, W).
            epochs: E epochs.
            variant: how to explain.
            upsample: give maps of the images' size; otherwise the layer's own.

        Returns:
            (E, N, H, W), or (E, N, h, w) without upsampling, on the CPU, in units of the logit.
        """
        size = images.shape[2:] if upsample else None
        signed = [self.signed(images, epoch, variant.statistics, [variant.method])[0] for epoch in epochs]
        return torch.stack(
            [evidence_maps(maps[variant.method], variant.evidence, size).cpu() for maps in signed]
        )

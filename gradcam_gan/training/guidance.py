"""Explanation-guided training: G learns more from the pixels that D's decision rests on.

The gradient g that D sends back to a generated image becomes g (1 + alpha M), pixel by pixel, with M in 0..1 D's own
map of that image: the idea of xAI-GAN (Nagisetty et al. 2020, section 3), whose maps were other methods'.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradcam_gan.explaining.cam import evidence_maps
from gradcam_gan.explaining.methods import gradcam, hirescam
from gradcam_gan.models.dcgan import PaperNetwork
from gradcam_gan.models.options import Guidance

LAYER = "conv3"


class Guide:
    """Weights the gradient that reaches generated images from D.

    - ``gradcam``, ``hirescam``: the map at ``conv3``, enlarged;
    - ``gradient``: |d logit / d image|, which has no evidence of its own: ``evidence`` makes no difference;
    - ``gradient-x-input``: its product with the image.

    What is explained is the logit of the D that is being trained, with the batch's own statistics (``explain`` of
    ``batch_statistics``). Each map is divided by its maximum; one without any evidence stays zero. In the place of M
    the controls put: ``shuffled``, the same values at other places of the map's own resolution; ``another-image``, the
    map of the image before it in the batch; ``constant``, 1; ``scalar``, the mean of M over the batch, in which no
    place and no image differs from another, as where a loss is multiplied by a detached map and summed.

    Args:
        options: of the guidance.
        discriminator: that judges.
        random: draws the places of ``shuffled``.
    """

    def __init__(self, options: Guidance, discriminator: PaperNetwork, random: torch.Generator) -> None:
        self.options, self._random = options, random
        self._layer = discriminator.named_layers[LAYER]
        self._activations = torch.empty(0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """D must judge the generated images within this ``with`` block: its activations are kept for the map."""
        handle = self._layer.register_forward_hook(self._record)
        try:
            yield
        finally:
            handle.remove()

    def _record(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._activations = output

    def weigh(self, images: Tensor, logits: Tensor) -> None:
        """Weight every gradient that reaches images (N, C, H, W) from now on by 1 + alpha M.

        Args:
            images: that D has just judged, part of the graph.
            logits: of D, (N,).
        """
        source = images if self.options.source.startswith("gradient") else self._activations
        (gradient,) = torch.autograd.grad(logits.sum(), source, retain_graph=True)
        signed = self._signed(source.detach().float(), gradient.float())
        self._activations = torch.empty(0)
        weights = 1 + self.options.alpha * self._controlled(signed, images)[:, None]
        if self.options.preserve_mean:
            weights = weights / weights.mean((1, 2, 3), keepdim=True)
        weights = weights.to(images.dtype)
        images.register_hook(lambda gradient: gradient * weights)

    def _signed(self, values: Tensor, gradient: Tensor) -> Tensor:
        """Maps (N, h, w) for "real" of images or activations, and the gradient of the logits there."""
        match self.options.source:
            case "gradient":  # positive where its evidence is asked for
                size = gradient.abs().sum(1)
                return size if self.options.evidence == "real" else -size
            case "gradient-x-input":
                return (gradient * values).sum(1)
            case "hirescam":
                return hirescam(values, gradient)
            case "gradcam":
                return gradcam(values, gradient)

    def _controlled(self, signed: Tensor, images: Tensor) -> Tensor:
        """M or what stands in its place, (N, H, W)."""
        control = self.options.control
        if control == "shuffled":
            places = torch.rand(signed.shape, generator=self._random).flatten(1).argsort(1)
            signed = signed.flatten(1).gather(1, places.to(signed.device)).view_as(signed)
        maps = evidence_maps(signed, self.options.evidence, images.shape[2:])
        maps = maps / maps.amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        if control == "another-image":
            return maps.roll(1, 0)
        if control == "scalar":
            return maps.mean().expand_as(maps)
        return torch.ones_like(maps) if control == "constant" else maps

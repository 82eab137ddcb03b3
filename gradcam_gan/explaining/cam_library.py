"""Class activation maps of pytorch-grad-cam, before its ReLU, its min-max and its resizing.

Where the library's formula needs no more than activations and gradients, only the formula is its own: the network is
run, batched and told its conditions as for this package's methods.
"""

from contextlib import redirect_stderr
from io import StringIO

import numpy as np
import torch
from torch import Tensor, nn

from gradcam_gan import torchvision_compat  # noqa: F401 - before pytorch-grad-cam, which imports torchvision
from gradcam_gan.explaining.scorer import Scorer
from gradcam_gan.models.dcgan import BACKGROUND


def formula(name: str, activations: Tensor, gradients: Tensor) -> Tensor:
    """One of the library's classes on activations and gradients (N, C, h, w), float32 -> signed maps (N, h, w)."""
    import pytorch_grad_cam

    # a method of this class wants a network to hook, and gets a stand-in that is never run
    library = getattr(pytorch_grad_cam, name)(nn.PReLU(), [])
    maps = library.get_cam_image(None, None, None, _array(activations), _array(gradients), False)
    return torch.from_numpy(maps).to(activations.device)


def eigen_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """The first principal component of the activations (N, C, h, w) -> (N, h, w).

    Its sign is arbitrary; here the largest magnitude is positive (as in Chung et al. 2025, equation 13).
    """
    maps = formula("EigenCAM", activations, gradients)
    negative = -maps.amin((1, 2)) > maps.amax((1, 2))
    return torch.where(negative[:, None, None], -maps, maps)


def score_cam(scorer: Scorer, layer: nn.Module, activations: Tensor, batch_size: int) -> Tensor:
    """sum_k softmax_k(score of the image masked with A_k) A_k: Wang et al. 2020.

    Args:
        scorer: of the images.
        layer: not needed: the activations are those of the score's own pass.
        activations: of the layer, (N, C, h, w).
        batch_size: the most masked images scored at once.

    Returns:
        (N, h, w), in units of the activation.
    """
    from pytorch_grad_cam import ScoreCAM

    scorer.check_independent()
    maps = []
    for i, active in enumerate(_array(activations)):
        one = scorer.of(i)
        library = ScoreCAM(_FromBackground(one), [])
        library.batch_size = batch_size
        with redirect_stderr(StringIO()):  # a progress bar for every image
            above = one.batch.images - BACKGROUND
            maps.append(library.get_cam_image(above, None, [nn.Identity()], active[None], None))
    return torch.from_numpy(np.concatenate(maps)).to(activations.device)


def ablation_cam(scorer: Scorer, layer: nn.Module, activations: Tensor, batch_size: int) -> Tensor:
    """sum_k (s - s_k) A_k, s_k being the score with channel k of the layer set to 0: Ramaswamy & Desai 2020.

    The paper divides by s, which is a positive class's. A logit below 0 would turn evidence for into evidence against,
    one near 0 would drown all else: here the drop of the score stands as it is.

    Args:
        scorer: of the images; its network's layer is exchanged for the library's, and back.
        layer: of the scorer's network.
        activations: of the layer, (N, C, h, w).
        batch_size: the most ablated channels scored at once.

    Returns:
        (N, h, w), in units of the score times the activation.
    """
    from pytorch_grad_cam import AblationCAM
    from pytorch_grad_cam.ablation_layer import AblationLayer

    class Zeroed(AblationLayer):
        """Sets a channel to 0, as in the paper; the library's own sets it to -1e7 where activations may be negative."""

        def __call__(self, x: Tensor) -> Tensor:
            ablated = self.activations
            channels = torch.as_tensor(self.indices[: len(ablated)]).long()
            ablated[torch.arange(len(ablated)), channels] = 0
            return ablated

    scorer.check_independent()
    maps = []
    for i, active in enumerate(_array(activations)):
        one = scorer.of(i)
        library = AblationCAM(one, [], ablation_layer=Zeroed(), batch_size=min(batch_size, len(active)))
        with redirect_stderr(StringIO()):  # as above
            divided = library.get_cam_image(one.batch.images, layer, [nn.Identity()], active[None], None)
        with torch.no_grad():
            maps.append(divided * float(one(one.batch.images)))
    return torch.from_numpy(np.concatenate(maps)).to(activations.device)


def full_grad(scorer: Scorer, batch_size: int) -> Tensor:
    """|x dx| and |b db| of all biases b, each scaled to 0..1 and added up: Srinivas & Fleuret 2019.

    The library counts biases of ``nn.Conv2d`` and ``nn.BatchNorm2d``; those of a linear layer have no place.

    Args:
        scorer: of the images.
        batch_size: not needed.

    Returns:
        (N, H, W), not negative, without a unit: every part is scaled by its own range.

    Raises:
        ValueError: the network has other biases.
    """
    from pytorch_grad_cam import FullGrad

    scorer.check_independent()
    for name, part in scorer.network.named_modules():
        known = type(part) in (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
        if getattr(part, "bias", None) is not None and not known:
            raise ValueError(
                f"the library counts biases of nn.Conv2d and nn.BatchNorm2d alone, and {name} ({type(part).__name__}) "
                "has one"
            )
    library = FullGrad(scorer, [])
    images = scorer.batch.images.detach().requires_grad_()
    library.activations_and_grads(images).sum().backward()
    if len(library.activations_and_grads.gradients) != len(library.bias_data):
        raise ValueError("the library needs every layer with a bias to run once on the way to the score")
    maps = library.compute_cam_per_layer(images, None, False)[:, 0]
    library.activations_and_grads.release()
    return torch.from_numpy(np.float32(maps)).to(images.device)


class _FromBackground(nn.Module):
    """Takes images whose background is 0: the library multiplies by masks, and 0 would be mid-grey to the network."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, images: Tensor) -> Tensor:
        return self.scorer(images + BACKGROUND)


def _array(values: Tensor) -> np.ndarray:
    """Contiguous: the library calls ``view``."""
    return np.ascontiguousarray(values.detach().float().cpu().numpy())

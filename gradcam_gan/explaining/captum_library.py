"""Attributions of captum to the pixels of the image: occlusion, LIME, integrated gradients, gradient x input.

What is taken out of an image is replaced by the background (-1). All values are in units of the score.
"""

import math

import torch
from torch import Tensor

from gradcam_gan.explaining.scorer import Scorer
from gradcam_gan.models.dcgan import BACKGROUND

PATCHES = 8  # a side, of LIME; occlusion's window has a patch's size
LIME_SAMPLES = 512  # eight times as many as there are patches
LIME_SEED = 0
STEPS = 128  # of integrated gradients: at the kinks of LeakyReLU the rule converges slowly


def occlusion(scorer: Scorer, batch_size: int) -> Tensor:
    """How far the score falls when a window over the pixel is blanked, on average: Zeiler & Fergus 2014.

    Windows have an eighth of the image's side, and move by half of that, both rounded up.

    Args:
        scorer: of the images.
        batch_size: the most images scored at once.

    Returns:
        (N, H, W).
    """
    from captum.attr import Occlusion

    scorer.check_independent()
    images = scorer.batch.images
    window = [math.ceil(side / PATCHES) for side in images.shape[2:]]
    found = Occlusion(scorer).attribute(
        images,
        sliding_window_shapes=(images.shape[1], *window),
        strides=(1, *(math.ceil(side / 2) for side in window)),
        baselines=BACKGROUND,
        additional_forward_args=_indices(images),
        perturbations_per_eval=max(1, batch_size // len(images)),
    )
    return found[:, 0]  # a window takes all channels


def lime(scorer: Scorer, batch_size: int) -> Tensor:
    """The coefficient of the pixel's patch in a linear model of the score: Ribeiro et al. 2016.

    On an 8x8 grid of patches, each kept or blanked at random, always in the same ways. The linear model is a ridge
    regression, as in the authors' code for images, so that coefficients go with the score's scale; captum's kernel.

    Args:
        scorer: of the images.
        batch_size: the most images scored at once.

    Returns:
        (N, H, W), how far the patch raises the score.
    """
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    scorer.check_independent()
    images = scorer.batch.images
    rows, columns = (torch.arange(side) * PATCHES // side for side in images.shape[2:])
    patches = (rows[:, None] * PATCHES + columns).expand(1, *images.shape[1:]).to(images.device)
    maps = []
    for i in range(len(images)):
        one = scorer.of(i)
        with torch.random.fork_rng(devices=[]):  # captum draws on the CPU
            torch.manual_seed(LIME_SEED)
            found = Lime(one, interpretable_model=SkLearnRidge(alpha=1.0)).attribute(
                one.batch.images,
                baselines=BACKGROUND,
                feature_mask=patches,
                n_samples=LIME_SAMPLES,
                perturbations_per_eval=batch_size,
            )
        maps.append(found[:, 0])  # a patch takes all channels
    return torch.cat(maps)


def integrated_gradients(scorer: Scorer, batch_size: int) -> Tensor:
    """(x + 1) times the gradient averaged along the way from the background to the image x: Sundararajan et al. 2017.

    Complete: the map sums to the score's difference between the image and the background.

    Args:
        scorer: of the images.
        batch_size: the most images scored at once.

    Returns:
        (N, H, W), summed over channels.
    """
    from captum.attr import IntegratedGradients

    scorer.check_independent()
    images = scorer.batch.images.detach().requires_grad_()
    found = IntegratedGradients(scorer).attribute(
        images,
        baselines=BACKGROUND,
        additional_forward_args=_indices(images),
        n_steps=STEPS,
        internal_batch_size=max(batch_size, len(images)),
    )
    return found.sum(1)


def gradient_x_input(scorer: Scorer, batch_size: int) -> Tensor:
    """Gradient times x (Shrikumar et al. 2016): a pixel of mid-grey, x = 0, gets nothing.

    Args:
        scorer: of the images.
        batch_size: not needed.

    Returns:
        (N, H, W), summed over channels.
    """
    from captum.attr import InputXGradient

    images = scorer.batch.images.detach().requires_grad_()
    return InputXGradient(scorer).attribute(images, additional_forward_args=_indices(images)).sum(1)


def _indices(images: Tensor) -> Tensor:
    """Which image each is; captum repeats them as it repeats the images."""
    return torch.arange(len(images), device=images.device)

"""The forward diffusion that Diffusion-GAN and DuDGAN put in front of a discriminator or a classifier.

An image x in [-1, 1] becomes y = sqrt(abar_t) x + sqrt(1 - abar_t) sigma eps; t = 0 leaves it as it is. The linear
schedule of noise is spread anew over the current horizon T whenever T changes, so a larger T allows more corruption
(Wang et al. 2023, "Diffusion-GAN"). With sigma = 0.05 most of it is a loss of contrast.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradcam_gan.errors import InputError
from gradcam_gan.models.options import Diffusion

FIRST_BETA, LAST_BETA = 1e-4, 2e-2
TIMES = 64  # entries of the list that t is drawn from; half of them are 0


@lru_cache(maxsize=4096)
def signal_shares(horizon: int) -> Tensor:
    """abar_t for t = 0..T, float64 (T + 1,): the share of the image's variance that is left; abar_0 = 1.

    Args:
        horizon: T; the betas go from 1e-4 to 0.02 in T even steps.
    """
    betas = torch.linspace(FIRST_BETA, LAST_BETA, horizon, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])


def diffuse(images: Tensor, times: Tensor, horizon: int, sigma: float, noise: Tensor) -> Tensor:
    """sqrt(abar_t) x + sqrt(1 - abar_t) sigma eps; t = 0 gives exactly x, and gradients are scaled by sqrt(abar_t).

    Args:
        images: x, (N, C, H, W) in [-1, 1].
        times: t, int64 (N,), 0 to the horizon.
        horizon: T, that the schedule is spread over.
        sigma: of the noise, in units of the pixels.
        noise: eps, of the images' shape, standard normal.

    Raises:
        InputError: a time that is negative or beyond the horizon.
    """
    if len(times) and not 0 <= int(times.min()) <= int(times.max()) <= horizon:
        raise InputError(
            f"times go from {int(times.min())} to {int(times.max())}; they must lie in 0..T={horizon}"
        )
    share = signal_shares(horizon).to(images.device)[times][:, None, None, None]
    return share.sqrt().to(images.dtype) * images + ((1 - share).sqrt() * sigma).to(images.dtype) * noise


class DiffusionState(NamedTuple):
    """A network's diffusion at one moment of its training.

    Attributes:
        horizon: T.
        times: the list that times are drawn from, int64 (64,).
        sigma: of the noise, in units of the pixels.
    """

    horizon: int
    times: Tensor
    sigma: float


def times_and_noise(listed: Tensor, shape: torch.Size, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Times (N,) from a list (64,), on its device, and noise (N, C, H, W) on the CPU, as in training."""
    chosen = torch.randint(TIMES, shape[:1], generator=generator)
    return listed[chosen.to(listed.device)], torch.randn(shape, generator=generator)


def horizon(options: Diffusion, progress: float) -> int:
    """T = T_min + round(p (T_max - T_min)), p being the progress, 0..1."""
    return options.shortest + round(progress * (options.longest - options.shortest))


class ForwardDiffusion(nn.Module):
    """One network's own diffusion: the horizon T, the list that times are drawn from, and how T moves.

    All of its state but the random generator's lives in buffers, so that a checkpoint holds it.

    Args:
        options: horizons, noise, prior, pace and target.
        total_images: that the whole training shows.
        generator: CPU generator of times, noise and list.

    Attributes:
        progress: p, float64 in 0..1.
        times: the list, int64 (64,): 32 zeros and 32 draws.
    """

    progress: Tensor
    times: Tensor

    def __init__(self, options: Diffusion, total_images: int, generator: torch.Generator) -> None:
        super().__init__()
        self.options, self.total_images, self.generator = options, total_images, generator
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.register_buffer("times", torch.zeros(TIMES, dtype=torch.int64))
        self._draw_times()

    @property
    def horizon(self) -> int:
        """T."""
        return horizon(self.options, float(self.progress))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) -> diffused ones and their times (N,), drawn from the list."""
        times, noise = times_and_noise(self.times, images.shape, self.generator)
        return diffuse(images, times, self.horizon, self.options.sigma, noise.to(images.device)), times

    def update(self, images: int, overconfidence: float) -> None:
        """Move T, and draw a new list.

        Args:
            images: shown since the last update.
            overconfidence: r_d, the mean sign of D's logits on real images, -1 to 1. With a target T grows while D is
                above it and shrinks below; without one (an open-loop ramp) T grows steadily.
        """
        options = self.options
        pace = images / (options.rise * self.total_images)
        if options.target is not None:
            difference = overconfidence - options.target
            pace *= (difference > 0) - (difference < 0)
        self.progress.fill_(min(1.0, max(0.0, float(self.progress) + pace)))
        self._draw_times()

    def _draw_times(self) -> None:
        horizon = self.horizon
        self.times.zero_()
        if horizon:
            steps = torch.arange(1, horizon + 1, dtype=torch.float64)
            weights = steps if self.options.prior == "priority" else torch.ones_like(steps)
            drawn = torch.multinomial(weights, TIMES // 2, replacement=True, generator=self.generator) + 1
            self.times[TIMES // 2 :] = drawn.to(self.times.device)

"""What a run's generator makes of the same latents at several epochs."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.training.runs import Run


def generate(run: Run, epochs: Sequence[int], latents: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Images of the same latents at several epochs.

    Args:
        run: a training run.
        epochs: E of its epochs.
        latents: (K, 100).
        device: where to compute.

    Returns:
        (E, K, C, H, W) in [-1, 1], on the CPU.
    """
    with torch.no_grad():
        return torch.stack([run.generator(epoch, device)(latents.to(device)).cpu() for epoch in epochs])


def sample_table(samples: Tensor, epochs: Sequence[int]) -> pd.DataFrame:
    """A row per epoch and latent: mean brightness, contrast (standard deviation), and ink.

    Args:
        samples: (E, K, C, H, W) in [-1, 1], from ``generate``.
        epochs: E epochs.

    Returns:
        Columns ``epoch``, ``latent`` (index), ``mean`` (-1 to 1), ``contrast`` and ``ink``, the share of pixels
        brighter than mid-grey (0 to 1).
    """
    pixels = samples.flatten(2)
    count = samples.shape[1]
    return pd.DataFrame(
        {
            "epoch": [epoch for epoch in epochs for _ in range(count)],
            "latent": list(range(count)) * len(epochs),
            "mean": pixels.mean(2).flatten(),
            "contrast": pixels.std(2).flatten(),
            "ink": (pixels > 0).float().mean(2).flatten(),
        }
    )


def describe_samples(table: pd.DataFrame, real: Tensor) -> str:
    """How the samples' ink and contrast come to those of real images, in words.

    Args:
        table: from ``sample_table``.
        real: uint8 (N, C, H, W).
    """
    goal = sample_table(real[None].float() / 127.5 - 1, [0]).mean()
    by_epoch = table.groupby("epoch")[["ink", "contrast"]].mean()
    first, last = by_epoch.index[[0, -1]]
    ink, contrast = 100 * by_epoch["ink"], by_epoch["contrast"]
    return (
        f"Samples have {ink[first]:.0f} % ink and a contrast of {contrast[first]:.2f} after epoch {first}, "
        f"{ink[last]:.0f} % and {contrast[last]:.2f} after epoch {last}; "
        f"real images have {100 * goal['ink']:.0f} % and {goal['contrast']:.2f}."
    )

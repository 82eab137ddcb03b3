"""Notebook 1: does the DCGAN train, is it worth explaining, and what does its generator make?

A D that won outright explains noise; one at chance explains nothing.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gradcam_gan.studies.style import PAGE, STYLE, seed_lines
from gradcam_gan.training.runs import Run

WON = 0.02  # D(G(z)) below this: D rejects whatever G makes, and G learns nothing from it
CHANCE = 0.6  # a balanced accuracy below this is close to guessing (0.5)
CURVES = {
    "loss (nats)": {"loss_discriminator": "discriminator", "loss_generator": "generator"},
    "mean probability of “real”": {"d_real": "D(x), real", "d_fake": "D(G(z)), generated"},
    "D's balanced accuracy": {
        f"accuracy_{mode}": f"{mode} statistics" for mode in ("running", "batch", "reference")
    },
}


def histories(runs: Sequence[Run], **keys: str) -> pd.DataFrame:
    """``Run.history`` of several runs in one table.

    Args:
        runs: trainings.
        keys: further columns, each with the field of a run's configuration that fills it: ``model="model_name"``.
    """
    tables = [
        run.history.assign(**{column: getattr(run.config, field) for column, field in keys.items()})
        for run in runs
    ]
    return pd.concat(tables, ignore_index=True)


def training_health(history: pd.DataFrame) -> pd.DataFrame:
    """One row per training: the means over its last five epochs, and whether D has won outright.

    Args:
        history: from ``histories``, with columns ``padding`` and ``seed``.

    Returns:
        Columns ``padding``, ``seed``, ``loss_discriminator``, ``loss_generator``, ``d_real``, ``d_fake``,
        ``accuracy_*`` and ``won`` (bool).
    """
    last = history[history["epoch"] > history["epoch"].max() - 5]
    means = last.groupby(["padding", "seed"])[[name for series in CURVES.values() for name in series]].mean()
    return means.assign(won=means["d_fake"] < WON).reset_index()


def training_curves(history: pd.DataFrame) -> Figure:
    """Losses, D's outputs, and D's accuracy under the three BatchNorm modes; a thin line a seed, a thick mean.

    Args:
        history: from ``histories``, with a column ``seed``.
    """
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(1, 3, figsize=(PAGE, 2.3))
        for axes, (label, series) in zip(all_axes, CURVES.items(), strict=True):
            for i, (column, name) in enumerate(series.items()):
                seed_lines(axes, history.pivot_table(column, "epoch", "seed"), f"C{i}", name)
            axes.set(xlabel="epoch", ylabel=label)
            axes.legend(frameon=False, loc="best")
        all_axes[1].set_ylim(0, 1)
        all_axes[2].set_ylim(0, 1.03)
        all_axes[2].axhline(0.5, color="0.5", linewidth=0.8, linestyle=":")
    return figure


def generate(run: Run, epochs: Sequence[int], latents: Tensor) -> Tensor:
    """Images (E, K, C, H, W) in [-1, 1] of the same latents (K, 100) at several epochs."""
    with torch.no_grad():
        return torch.stack([run.generator(epoch)(latents) for epoch in epochs])


def sample_table(samples: Tensor, epochs: Sequence[int]) -> pd.DataFrame:
    """A row per epoch and latent of ``generate``: mean brightness, contrast (standard deviation), and ink.

    Returns:
        Columns ``epoch``, ``latent`` (index), ``mean`` (-1 to 1), ``contrast`` and ``ink``, the share of pixels
        brighter than mid-grey (0 to 1).
    """
    pixels = samples.flatten(2)
    keys = pd.MultiIndex.from_product([epochs, range(samples.shape[1])], names=["epoch", "latent"])
    table = pd.DataFrame(
        {
            "mean": pixels.mean(2).flatten(),
            "contrast": pixels.std(2).flatten(),
            "ink": (pixels > 0).float().mean(2).flatten(),
        },
        keys,
    )
    return table.reset_index()

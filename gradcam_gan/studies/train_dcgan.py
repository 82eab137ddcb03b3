"""Notebook 1: did the networks train well, is D worth explaining, and what does G make?

A D beside a G of noise, or of one image over and over, explains nothing about digits; neither does one at chance.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gradcam_gan.studies.epoch_heatmaps.tables import HEALTHY_FID, HEALTHY_RECALL, health
from gradcam_gan.studies.style import PAGE, STYLE, seed_lines
from gradcam_gan.training.runs import Run

CURVES = {
    "loss (nats)": {"loss_discriminator": "discriminator", "loss_generator": "generator"},
    "mean probability of “real”": {"d_real": "D(x), real", "d_fake": "D(G(z)), generated"},
}
ACCURACIES = {f"accuracy_{mode}": f"{mode} statistics" for mode in ("running", "batch", "reference")}


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


def health_table(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a network: ``health``, then ``fid`` and ``recall`` of its last epoch, and their best over the epochs.

    Args:
        scores: ``Tables.scores``.
    """
    trained = scores[scores["epoch"] > 0].sort_values(["seed", "epoch"])
    by_seed = trained.groupby("seed")
    last = by_seed[["fid", "recall"]].last().add_prefix("last_")
    best = by_seed.agg(best_fid=("fid", "min"), best_recall=("recall", "max"))
    return health(scores).set_index("seed").join([last, best]).reset_index()


def health_chart(scores: pd.DataFrame) -> Figure:
    """G's FID and recall, and D's balanced accuracy, by epoch: a thin line a network, thick their mean.

    Above: the rows of Figure 1, and what counts as healthy there.

    Args:
        scores: ``Tables.scores``.
    """
    trained = scores[scores["epoch"] > 0]
    with plt.rc_context(STYLE):
        figure, (fid, recall, accuracy) = plt.subplots(1, 3, figsize=(PAGE, 2.3))
        seed_lines(fid, trained.pivot_table("fid", "epoch", "seed"), "C0", "mean over networks")
        seed_lines(recall, trained.pivot_table("recall", "epoch", "seed"), "C0", "mean over networks")
        for i, (column, name) in enumerate(ACCURACIES.items()):
            seed_lines(accuracy, trained.pivot_table(column, "epoch", "seed"), f"C{i}", name)
        for axes, limit in ((fid, HEALTHY_FID), (recall, HEALTHY_RECALL), (accuracy, 0.5)):
            axes.axhline(limit, color="0.4", lw=0.8, ls="--")
            for row in trained.loc[trained["row"], "epoch"].unique():
                axes.axvline(row, color="0.8", lw=0.7, ls=":", zorder=0)
            axes.set_xlabel("epoch")
        fid.set(yscale="log", ylabel="FID of G (healthy: below)")
        recall.set(ylim=(0, 1), ylabel="recall of G (healthy: above)")
        accuracy.set(ylim=(0, 1.03), ylabel="D's balanced accuracy")
        accuracy.legend(frameon=False, loc="lower right")
    return figure


def name_networks(table: pd.DataFrame) -> str:
    """How many networks trained well, and which did not, as Markdown (``health_table``)."""
    unwell = ", ".join(f"seed {seed}" for seed in table.loc[~table["healthy"], "seed"])
    well = f"{table['healthy'].sum()} of {len(table)} networks trained well"
    limits = f"G's FID is below {HEALTHY_FID:g} and its recall above {HEALTHY_RECALL:g}"
    return f"**{well}**: at four of five rows of Figure 1 or more, {limits}. Those that did not: {unwell or 'none'}."


def training_curves(history: pd.DataFrame) -> Figure:
    """Losses and D's outputs; a thin line a seed, a thick mean.

    Args:
        history: from ``histories``, with a column ``seed``.
    """
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(1, len(CURVES), figsize=(0.7 * PAGE, 2.1))
        for axes, (label, series) in zip(all_axes, CURVES.items(), strict=True):
            for i, (column, name) in enumerate(series.items()):
                seed_lines(axes, history.pivot_table(column, "epoch", "seed"), f"C{i}", name)
            axes.set(xlabel="epoch", ylabel=label)
            axes.legend(frameon=False, loc="best")
        all_axes[1].set_ylim(0, 1)
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

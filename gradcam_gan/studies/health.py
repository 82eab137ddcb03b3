"""Is a training worth explaining? A D that won outright explains noise; one at chance explains nothing."""

from collections.abc import Sequence

import pandas as pd

from gradcam_gan.training.runs import Run

WON = 0.02  # D(G(z)) below this: D rejects whatever G makes, and G learns nothing from it
CHANCE = 0.6  # a balanced accuracy below this is close to guessing (0.5)
MODES = ("running", "batch", "reference")


def histories(runs: Sequence[Run]) -> pd.DataFrame:
    """``Run.history`` of several runs in one table, with columns ``padding`` and ``seed`` in front.

    Times are left out: they differ from one computation to the next, the rest does not.
    """
    tables = [
        run.history.drop(columns=["seconds", "images_per_second"]).assign(
            padding=run.config.padding, seed=run.config.seed
        )
        for run in runs
    ]
    table = pd.concat(tables, ignore_index=True)
    return table[["padding", "seed", *(name for name in table if name not in ("padding", "seed"))]]


def training_health(history: pd.DataFrame) -> pd.DataFrame:
    """One row per training: the means over its last five epochs, and whether D has won outright.

    Args:
        history: from ``histories``.

    Returns:
        Columns ``padding``, ``seed``, ``loss_discriminator``, ``loss_generator``, ``d_real``, ``d_fake``,
        ``accuracy_*`` and ``won`` (bool).
    """
    last = history[history["epoch"] > history["epoch"].max() - 5]
    means = last.drop(columns=["epoch", "iterations", "images"]).groupby(["padding", "seed"]).mean()
    return means.assign(won=means["d_fake"] < WON).reset_index()


def describe_training(health: pd.DataFrame) -> str:
    """How the trainings went, in words, from ``training_health``'s numbers."""
    won = health[health["won"]]
    which = (
        f" (seeds {', '.join(map(str, won['seed']))}): their maps explain digits against noise"
        if len(won)
        else ""
    )
    return (
        f"Over the last epochs D gives real images a probability of {health['d_real'].mean():.2f} of being real and "
        f"generated ones {health['d_fake'].mean():.2f}. "
        f"Of {len(health)} trainings D has won outright in {len(won)}{which}."
    )


def describe_accuracy(health: pd.DataFrame) -> str:
    """How well D does its own job under each kind of statistics, in words, from ``training_health``'s numbers."""
    sentences = []
    for mode in MODES:
        accuracy = health[f"accuracy_{mode}"]
        sentences.append(
            f"With {mode} statistics D's balanced accuracy is {accuracy.mean():.2f} on average over trainings and the "
            f"last epochs; in {(accuracy < CHANCE).sum()} of {len(health)} trainings it is close to guessing "
            f"(below {CHANCE})."
        )
    return " ".join(sentences)

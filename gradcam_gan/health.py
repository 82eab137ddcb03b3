"""Is a training worth explaining? A D that won outright explains noise; one at chance explains nothing."""

from collections.abc import Sequence

import pandas as pd

from gradcam_gan.runs import Run

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


def describe_health(health: pd.DataFrame) -> str:
    """The answer of notebook 01 in words, from ``training_health``'s numbers."""
    won = health[health["won"]]
    sentences = [
        f"Of {len(health)} trainings D won outright in {len(won)}"
        + (
            f" (seeds {', '.join(map(str, won['seed']))}): their maps explain digits against noise."
            if len(won)
            else "."
        )
    ]
    for mode in MODES:
        accuracy = health[f"accuracy_{mode}"]
        guessing = int((accuracy < CHANCE).sum())
        sentences.append(
            f"With {mode} statistics D's balanced accuracy is {accuracy.mean():.2f} on average over trainings "
            f"and the last epochs; in {guessing} of {len(health)} trainings it is close to guessing (below {CHANCE})."
        )
    return " ".join(sentences)

"""What the compared models' Ds saw of images through their diffusions, how diverse that is, and what their Gs make."""

from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.data import to_model_range
from gradcam_gan.models.diffusion import DiffusionState, diffuse, times_and_noise
from gradcam_gan.run_explainer import NOISE_SEED
from gradcam_gan.scoring.scores import Reference, classes_to_draw, draw
from gradcam_gan.training.runs import Run

SAMPLES_LOOKED_AT = 500


def as_seen(images: Tensor, state: DiffusionState | None) -> Tensor:
    """What a network saw of images: diffused to times drawn as in training, by fixed draws.

    Args:
        images: uint8 (N, C, H, W).
        state: of ``Run.diffusion``; None leaves the images as they are.

    Returns:
        (N, C, H, W), about [-1, 1].
    """
    clean = to_model_range(images)
    if state is None:
        return clean
    times, noise = times_and_noise(state.times, clean.shape, torch.Generator().manual_seed(NOISE_SEED))
    return diffuse(clean, times, state.horizon, state.sigma, noise)


def diffused_rows(
    runs: Sequence[Run], images: Tensor, epochs: Sequence[int]
) -> tuple[list[Tensor], list[str]]:
    """The images, and what each run's D saw of them when some epochs ended; captions name model, epoch and T."""
    rows, captions = [as_seen(images, None)], ["the images"]
    for run in runs:
        for epoch in epochs:
            state = run.diffusion(epoch)
            rows.append(as_seen(images, state))
            captions.append(f"{run.config.model_name}, epoch {epoch}, T {state.horizon if state else 0}")
    return rows, captions


def diversity(images: Tensor) -> dict[str, float]:
    """How diverse images are, in pixels.

    - ``variance``: mean over pixels of the variance over images.
    - ``dimensions``: the participation ratio (sum of the covariance's eigenvalues)^2 / (sum of their squares): over
      how many directions the variance is spread.

    Args:
        images: float (N, C, H, W), N > 1.
    """
    flat = images.flatten(1).double()
    centred = flat - flat.mean(0)
    eigenvalues = torch.linalg.svdvals(centred).square() / (len(flat) - 1)
    total = eigenvalues.sum()
    return {
        "variance": float(total) / flat.shape[1],
        "dimensions": float(total.square() / eigenvalues.square().sum()),
    }


def input_diversity(runs: Sequence[Run], images: Tensor) -> pd.DataFrame:
    """Does the diffusion diversify what D sees (P2)? Real images as D saw them, beside the images themselves.

    Images are uint8 (N, C, H, W); runs of models without a diffusion are left out.

    Returns:
        A row per run and epoch from 1 on: ``model``, ``seed``, ``epoch``, ``horizon``, ``variance`` and
        ``dimensions`` (``diversity``), each over that of the images themselves.
    """
    rows, unseen = [], diversity(as_seen(images, None))
    for run in runs:
        for epoch in run.epochs:
            state = run.diffusion(epoch)
            if epoch and state is not None:
                keys = {"model": run.config.model_name, "seed": run.config.seed, "epoch": epoch}
                seen = diversity(as_seen(images, state))
                ratios = {name: value / unseen[name] for name, value in seen.items()}
                rows.append({**keys, "horizon": state.horizon, **ratios})
    return pd.DataFrame(rows, columns=["model", "seed", "epoch", "horizon", "variance", "dimensions"])


def horizons(inputs: pd.DataFrame) -> pd.DataFrame:
    """Did T rise? A row a network of ``input_diversity``: ``model``, ``seed`` and the T that it reached.

    ``half``: after half of the training (the first epoch that ends no earlier); ``largest``; ``last``.
    """
    half = inputs[inputs["epoch"] >= inputs["epoch"].max() / 2]
    keys = ["model", "seed"]
    found = inputs.groupby(keys, sort=False)["horizon"].agg(largest="max", last="last")
    return found.assign(half=half.groupby(keys)["horizon"].first()).reset_index()


def samples_by_class(run: Run, epoch: int, reference: Reference, per_class: int) -> Tensor:
    """Generated images of every class: those asked for; of an unconditional model the first that the evaluator sees.

    Kept with the run.

    Returns:
        uint8 (classes, per_class, C, H, W); grey where it makes too few images of a class.
    """
    how = f"{epoch} {per_class} {reference.digest}"
    find = partial(_samples_by_class, run, epoch, reference, per_class)
    return run.kept_tensors("samples-by-class", how, find)["images"]


def _samples_by_class(run: Run, epoch: int, reference: Reference, per_class: int) -> dict[str, Tensor]:
    generator = run.generator(epoch)
    classes = len(reference.class_names)
    images = draw(generator, SAMPLES_LOOKED_AT)
    labels = classes_to_draw(generator, SAMPLES_LOOKED_AT)
    if labels is None:
        labels = reference.classes(reference.embed(images))
    found = torch.full((classes, per_class, *images.shape[1:]), 128, dtype=torch.uint8)
    for label in range(classes):
        chosen = images[labels == label][:per_class]
        found[label, : len(chosen)] = chosen
    return {"images": found}

"""DCGAN beside the models of the poster's follow-up (P2, P3): the same images, as many of them, the same scores."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.data import to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.intervals import paired_difference_interval
from gradcam_gan.models.diffusion import DiffusionState, diffuse, times_and_noise
from gradcam_gan.models.options import MODELS
from gradcam_gan.run_explainer import NOISE_SEED
from gradcam_gan.scoring.scores import Reference, classes_to_draw, draw, evaluate_run
from gradcam_gan.studies.study import Study
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import Run

METRICS = ("fid", "kid", "precision", "recall", "class_accuracy")
_PAIRS = [(name, known.compared_with, known.ablation) for name, known in MODELS.items()]
ADDS_TO = {name: other for name, other, ablation in _PAIRS if other and not ablation}
_TAKEN_FROM = {name: other for name, other, ablation in _PAIRS if other and ablation}
THRESHOLDS = (50.0, 20.0, 10.0)  # of FID
SAMPLES_LOOKED_AT = 500


def compared_runs(study: Study) -> list[Run]:
    """Get or train every model of a study, DCGAN first."""
    return [train(config, study.runs_dir) for config in study.compared_configs()]


def require_model(study: Study, model: str) -> None:
    """Say before any work that a study compares no such model.

    Raises:
        InputError: it does not.
    """
    if model not in study.comparison_models:
        raise InputError(f"comparison_models={study.comparison_models} has no {model!r}; add it")


def histories(runs: Sequence[Run], epochs: int) -> pd.DataFrame:
    """``Run.history`` of several runs up to an epoch, with columns ``model`` and ``seed``."""
    tables = [
        run.history[run.history["epoch"] <= epochs].assign(model=run.config.model_name, seed=run.config.seed)
        for run in runs
    ]
    return pd.concat(tables, ignore_index=True)


def is_ablation(model: str) -> bool:
    """Whether it is DuDGAN without one of its parts."""
    return model in _TAKEN_FROM


def score_models(runs: Sequence[Run], reference: Reference, epochs: int, count: int) -> pd.DataFrame:
    """Score the generators of every epoch.

    Args:
        runs: of ``compared_runs``.
        reference: from ``reference_for``.
        epochs: the last to score: all models have seen as many images there.
        count: images of each generator.

    Returns:
        A row per run and epoch from 0 on: ``model``, ``seed``, ``epoch``, ``images`` (seen in training) and the
        scores of ``evaluate``; ``class_accuracy`` is NaN for an unconditional model.
    """
    tables = []
    for run in runs:
        shown = [epoch for epoch in run.epochs if epoch <= epochs]
        scores = evaluate_run(run, reference, epochs=shown, count=count)
        seen = scores["epoch"] * run.history["images"].iloc[0]
        keys = {"model": run.config.model_name, "seed": run.config.seed}
        first = pd.DataFrame({**keys, "epoch": scores["epoch"], "images": seen})
        tables.append(first.join(scores.drop(columns="epoch")))
    scores = pd.concat(tables, ignore_index=True)
    return scores if "class_accuracy" in scores else scores.assign(class_accuracy=math.nan)


def final_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last epoch."""
    return scores[scores["epoch"] == scores["epoch"].max()].reset_index(drop=True)


def images_needed(scores: pd.DataFrame, thresholds: Sequence[float] = THRESHOLDS) -> pd.DataFrame:
    """How many images a model must see until a generator of it reaches an FID for the first time.

    Args:
        scores: of ``score_models``.
        thresholds: of FID.

    Returns:
        A row per model, seed and threshold: ``model``, ``seed``, ``fid``, ``images``; NaN where it is never reached.
    """
    rows = []
    for (model, seed), group in scores.groupby(["model", "seed"], sort=False):
        for threshold in thresholds:
            reached = group.loc[group["fid"] <= threshold, "images"]
            images = float(reached.min()) if len(reached) else math.nan
            rows.append({"model": model, "seed": seed, "fid": threshold, "images": images})
    return pd.DataFrame(rows)


def describe_images_needed(needed: pd.DataFrame) -> pd.DataFrame:
    """``images_needed`` over seeds: a row per model, a column per FID.

    A cell is such as ``48,000 (4 of 5)``: the median image count of the networks that reach it, and how many do.
    """
    cells: dict[str, dict[str, str]] = {}
    for (model, threshold), group in needed.groupby(["model", "fid"], sort=False):
        reached = group["images"].dropna()
        median = f"{reached.median():,.0f} " if len(reached) else ""
        cells.setdefault(str(model), {})[f"FID {threshold:g}"] = f"{median}({len(reached)} of {len(group)})"
    return pd.DataFrame.from_dict(cells, orient="index").rename_axis("model")


def compare_models(final: pd.DataFrame, pairs: Mapping[str, str]) -> pd.DataFrame:
    """Each model minus another, paired by seed.

    Args:
        final: of ``final_scores``.
        pairs: the other by model; models that were not trained are left out.

    Returns:
        A row per model and metric: ``model``, ``to``, ``metric``, ``estimate``, ``low``, ``high`` (bootstrap over
        seeds, 95 %; NaN for one seed), ``n`` (pairs). A metric that one of the two does not have is left out.
    """
    rows = []
    by_model = {model: group.set_index("seed") for model, group in final.groupby("model", sort=False)}
    for model, to in pairs.items():
        if model not in by_model or to not in by_model:
            continue
        both = by_model[model].join(by_model[to].add_suffix("_to"), how="inner")
        for metric in METRICS:
            if both[[metric, f"{metric}_to"]].isna().all().any():
                continue
            found = paired_difference_interval(both[metric], both[f"{metric}_to"])
            bounds = {"estimate": found.estimate, "low": found.low, "high": found.high, "n": found.n}
            rows.append({"model": model, "to": to, "metric": metric, **bounds})
    return pd.DataFrame(rows, columns=["model", "to", "metric", "estimate", "low", "high", "n"])


def ablation_pairs(final: pd.DataFrame) -> dict[str, str]:
    """DuDGAN without one of its parts, against DuDGAN."""
    return {model: _TAKEN_FROM[model] for model in dict.fromkeys(final["model"]) if is_ablation(model)}


def diffused_batch(run: Run, images: Tensor, epoch: int, network: str = "discriminator") -> Tensor:
    """What a network saw of images when the epoch ended: diffused to times drawn as in training, by fixed draws.

    Args:
        run: of any model; without a diffusion the images are as they were.
        images: uint8 (N, C, H, W).
        epoch: of the run.
        network: ``discriminator`` or ``classifier``.

    Returns:
        (N, C, H, W), about [-1, 1].
    """
    return _as_seen(run.diffusion(epoch, network), to_model_range(images))


def _as_seen(state: DiffusionState | None, clean: Tensor) -> Tensor:
    if state is None:
        return clean
    times, noise = times_and_noise(state.times, clean.shape, torch.Generator().manual_seed(NOISE_SEED))
    return diffuse(clean, times, state.horizon, state.sigma, noise)


def diffused_rows(
    runs: Sequence[Run], images: Tensor, epochs: Sequence[int]
) -> tuple[list[Tensor], list[str]]:
    """The images, and what each run's D saw of them when some epochs ended; with labels that name epoch and T."""
    clean = to_model_range(images)
    rows, labels = [clean], ["the images"]
    for run in runs:
        for epoch in epochs:
            state = run.diffusion(epoch)
            rows.append(_as_seen(state, clean))
            labels.append(f"{run.config.model_name}, epoch {epoch}, T {state.horizon if state else 0}")
    return rows, labels


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


def input_diversity(runs: Sequence[Run], images: Tensor, epochs: int) -> pd.DataFrame:
    """Does the diffusion diversify what D sees (P2)? Real images as D saw them, beside the images themselves.

    Args:
        runs: of models; those without a diffusion are left out.
        images: uint8 (N, C, H, W).
        epochs: the last to look at.

    Returns:
        A row per run and epoch from 1 on: ``model``, ``seed``, ``epoch``, ``horizon``, ``variance`` and ``dimensions``
        (``diversity``), each over that of the images themselves.
    """
    clean, rows = to_model_range(images), []
    unseen = diversity(clean)
    for run in runs:
        for epoch in range(1, epochs + 1):
            state = run.diffusion(epoch)
            if state is not None:
                seen = diversity(_as_seen(state, clean))
                keys = {"model": run.config.model_name, "seed": run.config.seed, "epoch": epoch}
                ratios = {name: value / unseen[name] for name, value in seen.items()}
                rows.append({**keys, "horizon": state.horizon, **ratios})
    return pd.DataFrame(rows, columns=["model", "seed", "epoch", "horizon", "variance", "dimensions"])


def describe_inputs(inputs: pd.DataFrame) -> str:
    """What the diffusion does to D's inputs, in words.

    Args:
        inputs: of ``input_diversity``.
    """
    sentences = []
    for model, rows in inputs.groupby("model", sort=False):
        by_seed = rows.groupby("seed")
        last = ", ".join(f"{value:.0f}" for value in by_seed["horizon"].last())
        highest = ", ".join(f"{value:.0f}" for value in by_seed["horizon"].max())
        variance, dimensions = (f"{rows[name].mean():.2f}" for name in ("variance", "dimensions"))
        sentences.append(
            f"{model}: T is at most {highest} and ends at {last}; D's inputs have {variance} times the images' "
            f"variance, over {dimensions} times as many effective dimensions (mean over epochs)"
        )
    return "; ".join(sentences) + "."


def samples_by_class(run: Run, epoch: int, reference: Reference, per_class: int) -> Tensor:
    """Generated images of every class: those asked for; of an unconditional model the first that a classifier sees.

    Args:
        run: of any model.
        epoch: whose generator.
        reference: whose classifier sorts an unconditional model's images.
        per_class: how many.

    Returns:
        uint8 (classes, per_class, C, H, W); grey where it makes too few images of a class.
    """
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
    return found

"""The compared models: their trainings, the scores of their generators, and one minus the other, paired by seed."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from gradcam_gan.errors import InputError
from gradcam_gan.intervals import paired_differences, paired_values, sign_flip
from gradcam_gan.models.options import MODELS
from gradcam_gan.scoring.scores import SCORES, WITHOUT_VEIL, Reference, evaluate_run
from gradcam_gan.studies.claims import LAST_CHECKPOINTS
from gradcam_gan.studies.study import Study
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import Run

METRICS = {
    "log_fid": "log FID",
    **{name: SCORES[name].label for name in ("precision", "recall", "class_accuracy")},
}
COLLAPSED_RECALL, COLLAPSED_FID = 0.1, 20.0  # below the one or above the other, a network has collapsed
THRESHOLDS = (50.0, 20.0, 10.0)  # of FID


def compared_runs(study: Study, *, variants: bool = True) -> list[Run]:
    """Get or train every model of a study, DCGAN first; variants of Diffusion-GAN and DuDGAN unless left out."""
    configs = [one for one in study.compared_configs() if variants or not MODELS[one.model_name].variant]
    return [train(config, study.runs_dir) for config in configs]


def require_model(study: Study, model: str) -> None:
    """Say before any work that a study compares no such model.

    Raises:
        InputError: it does not.
    """
    if model not in study.comparison.models:
        raise InputError(f"comparison.models={study.comparison.models} has no {model!r}; add it")


def score_models(runs: Sequence[Run], reference: Reference, count: int) -> pd.DataFrame:
    """Score the generators of every epoch, ``count`` images of each.

    Returns:
        A row per run and epoch from 0 on: ``model``, ``seed``, ``epoch``, ``images`` (seen in training) and the
        scores of ``evaluate``; ``class_accuracy`` is NaN for an unconditional model. ``fid_without_veil``
        (``Reference.without_veil``) is that of the last three checkpoints, NaN before.
    """
    tables = []
    for run in runs:
        scores = evaluate_run(run, reference, count=count)
        last = [epoch for epoch in run.epochs if epoch > 0][-LAST_CHECKPOINTS:]
        without_veil = evaluate_run(run, reference.without_veil, epochs=last, count=count).set_index("epoch")
        scores[f"fid{WITHOUT_VEIL}"] = scores["epoch"].map(without_veil["fid"])
        seen = scores["epoch"] * run.history["images"].iloc[0]
        tables.append(scores.assign(model=run.config.model_name, seed=run.config.seed, images=seen))
    first = ["model", "seed", "epoch", "images"]
    scores = pd.concat(tables, ignore_index=True).set_index(first).reset_index()
    return scores if "class_accuracy" in scores else scores.assign(class_accuracy=math.nan)


def network_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a network of ``score_models``: means over its last three checkpoints, which jump less than one.

    Returns:
        ``model``, ``seed``, the means of ``log_fid`` (natural; once more ``_without_veil``), ``kid``, ``precision``,
        ``recall`` and ``class_accuracy``, and ``collapsed``: whether the last checkpoint has a recall below 0.1 or an
        FID above 20.
    """
    keys = ["model", "seed"]
    trained = scores[scores["epoch"] > 0].sort_values("epoch", kind="stable")
    last = trained.groupby(keys).tail(LAST_CHECKPOINTS)
    logs = {f"log_{fid}": np.log(last[fid]) for fid in ("fid", f"fid{WITHOUT_VEIL}")}
    means = last.assign(**logs).groupby(keys, sort=False)[[*METRICS, "kid", f"log_fid{WITHOUT_VEIL}"]].mean()
    final = trained.groupby(keys).tail(1).set_index(keys)
    collapsed = (final["recall"] < COLLAPSED_RECALL) | (final["fid"] > COLLAPSED_FID)
    return means.assign(collapsed=collapsed).reset_index()


def collapses(networks: pd.DataFrame, model: str) -> str:
    """How many networks of a model collapsed (``network_scores``), such as ``1 of 12``."""
    collapsed = networks.loc[networks["model"] == model, "collapsed"]
    return f"{collapsed.sum()} of {len(collapsed)}"


def images_needed(scores: pd.DataFrame, thresholds: Sequence[float] = THRESHOLDS) -> pd.DataFrame:
    """How many images a model must see until a generator of it reaches an FID for the first time (``score_models``).

    Returns:
        A row per model, seed and threshold: ``model``, ``seed``, ``fid``, ``images``; NaN where it is never reached.
    """
    rows = []
    for (model, seed), group in scores.groupby(["model", "seed"], sort=False):
        for threshold in thresholds:
            images = group.loc[group["fid"] <= threshold, "images"].min()
            rows.append({"model": model, "seed": seed, "fid": threshold, "images": images})
    return pd.DataFrame(rows).astype({"images": float})


def images_needed_table(needed: pd.DataFrame) -> pd.DataFrame:
    """``images_needed`` over seeds: a row per model, a column per FID.

    A cell is such as ``48,000 (4 of 5)``: the median image count of the networks that reach it, and how many do.
    """
    cells: dict[str, dict[str, str]] = {}
    for (model, threshold), group in needed.groupby(["model", "fid"], sort=False):
        reached = group["images"].dropna()
        median = f"{reached.median():,.0f} " if len(reached) else ""
        cells.setdefault(str(model), {})[f"FID {threshold:g}"] = f"{median}({len(reached)} of {len(group)})"
    return pd.DataFrame.from_dict(cells, orient="index").rename_axis("model")


def compared_with(models: Iterable[str]) -> dict[str, str]:
    """What each model is compared with (``NamedModel``); those without that partner among them are left out."""
    trained = list(dict.fromkeys(models))
    pairs = {model: MODELS[model].compared_with for model in sorted(trained, key=list(MODELS).index)}
    return {model: to for model, to in pairs.items() if to in trained}


def paired(networks: pd.DataFrame, model: str, to: str, metric: str = "log_fid") -> list[float]:
    """A model's score minus another's (``network_scores``), by seed; seeds that one of them lacks are left out."""
    return paired_values(networks, "model", model, to, metric).tolist()


def compare_models(
    networks: pd.DataFrame, pairs: Sequence[tuple[str, str]] | None = None, metrics: Iterable[str] = METRICS
) -> pd.DataFrame:
    """Each model of ``network_scores`` minus the one that it is compared with, paired by seed.

    Args:
        networks: a row per model and seed.
        pairs: models, each with the one to subtract; None: ``compared_with``.
        metrics: columns of ``networks``.

    Returns:
        A row per pair and metric: ``model``, ``to``, ``metric``, ``estimate``, ``low``, ``high`` (Student's t over
        networks, 95 %; NaN below two), ``sd`` of the differences, ``p`` (exact sign flip) and ``n`` (pairs). A metric
        that one of the two does not have is left out.
    """
    if pairs is None:
        pairs = list(compared_with(networks["model"]).items())
    found = paired_differences(networks, "model", pairs, list(metrics))
    keys = found[["model", "to", "metric"]].itertuples(index=False, name=None)
    singles = [pd.Series(paired(networks, *key), dtype=float) for key in keys]
    spread, p = [one.std() for one in singles], [sign_flip(one) for one in singles]
    return found.assign(sd=spread, p=p)[["model", "to", "metric", "estimate", "low", "high", "sd", "p", "n"]]

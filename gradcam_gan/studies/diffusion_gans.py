"""Notebook 4: DCGAN beside the models of the poster's follow-up (P2, P3): scores, inputs, samples, charts, rules.

All models are trained on the same images, as many of them, and get the same scores.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from torch import Tensor

from gradcam_gan.data import to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.intervals import paired_differences
from gradcam_gan.models.diffusion import DiffusionState, diffuse, times_and_noise
from gradcam_gan.models.options import MODELS
from gradcam_gan.run_explainer import NOISE_SEED
from gradcam_gan.scoring.scores import SCORES, Reference, classes_to_draw, draw, evaluate_run
from gradcam_gan.studies.claims import (
    ENOUGH_SEEDS,
    NOTHING,
    Claim,
    Finding,
    outcome_of,
    over_seeds,
    pairs_of,
)
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.style import PAGE, STYLE, intervals, legend_above, network_ticks, seed_lines
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import Run

METRICS = ("fid", "kid", "precision", "recall", "class_accuracy")
THRESHOLDS = (50.0, 20.0, 10.0)  # of FID
SAMPLES_LOOKED_AT = 500
CONTRAST_LABELS = {
    "loss_contrast": "SupCon, real",
    "loss_classes": "cross-entropy, real",
    "generator_contrast": "SupCon, generated",
}


# --- which networks


def compared_runs(study: Study, *, ablations: bool = True) -> list[Run]:
    """Get or train every model of a study, DCGAN first; DuDGAN without one of its parts unless left out."""
    configs = [one for one in study.compared_configs() if ablations or not MODELS[one.model_name].variant]
    return [train(config, study.runs_dir) for config in configs]


def require_model(study: Study, model: str) -> None:
    """Say before any work that a study compares no such model.

    Raises:
        InputError: it does not.
    """
    if model not in study.comparison.models:
        raise InputError(f"comparison.models={study.comparison.models} has no {model!r}; add it")


# --- scores


def score_models(runs: Sequence[Run], reference: Reference, epochs: int, count: int) -> pd.DataFrame:
    """Score the generators of every epoch up to one, ``count`` images of each: all models have seen as many there.

    Returns:
        A row per run and epoch from 0 on: ``model``, ``seed``, ``epoch``, ``images`` (seen in training) and the
        scores of ``evaluate``; ``class_accuracy`` is NaN for an unconditional model.
    """
    tables = []
    for run in runs:
        shown = [epoch for epoch in run.epochs if epoch <= epochs]
        scores = evaluate_run(run, reference, epochs=shown, count=count)
        seen = scores["epoch"] * run.history["images"].iloc[0]
        tables.append(scores.assign(model=run.config.model_name, seed=run.config.seed, images=seen))
    first = ["model", "seed", "epoch", "images"]
    scores = pd.concat(tables, ignore_index=True).set_index(first).reset_index()
    return scores if "class_accuracy" in scores else scores.assign(class_accuracy=math.nan)


def final_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last epoch."""
    return scores[scores["epoch"] == scores["epoch"].max()].reset_index(drop=True)


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
    """What each model is compared with: the one that it adds to; an ablation with DuDGAN.

    Models without a partner among them are left out.
    """
    trained = list(dict.fromkeys(models))
    pairs = {model: MODELS[model].compared_with for model in sorted(trained, key=list(MODELS).index)}
    return {model: to for model, to in pairs.items() if to in trained}


def compare_models(final: pd.DataFrame) -> pd.DataFrame:
    """Each model of ``final_scores`` minus the one that it is compared with, paired by seed.

    Returns:
        A row per model and metric: ``model``, ``to``, ``metric``, ``estimate``, ``low``, ``high`` (bootstrap over
        seeds, 95 %; NaN for one seed), ``n`` (pairs). A metric that one of the two does not have is left out.
    """
    return paired_differences(final, "model", compared_with(final["model"]), METRICS)


# --- what D saw, and what G makes


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


def input_diversity(runs: Sequence[Run], images: Tensor, epochs: int) -> pd.DataFrame:
    """Does the diffusion diversify what D sees (P2)? Real images as D saw them, beside the images themselves.

    Images are uint8 (N, C, H, W); runs of models without a diffusion are left out.

    Returns:
        A row per run and epoch from 1 to the last: ``model``, ``seed``, ``epoch``, ``horizon``, ``variance`` and
        ``dimensions`` (``diversity``), each over that of the images themselves.
    """
    rows, unseen = [], diversity(as_seen(images, None))
    for run in runs:
        for epoch in range(1, epochs + 1):
            state = run.diffusion(epoch)
            if state is not None:
                keys = {"model": run.config.model_name, "seed": run.config.seed, "epoch": epoch}
                seen = diversity(as_seen(images, state))
                ratios = {name: value / unseen[name] for name, value in seen.items()}
                rows.append({**keys, "horizon": state.horizon, **ratios})
    return pd.DataFrame(rows, columns=["model", "seed", "epoch", "horizon", "variance", "dimensions"])


def samples_by_class(run: Run, epoch: int, reference: Reference, per_class: int) -> Tensor:
    """Generated images of every class: those asked for; of an unconditional model the first that the evaluator sees.

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


# --- charts: finished numbers -> a figure


def score_chart(final: pd.DataFrame) -> Figure:
    """The scores of each model (``final_scores``): a tick a network, a mark the mean over them."""
    models = list(dict.fromkeys(final["model"]))
    with plt.rc_context(STYLE):
        figure, panels = _metric_panels(models, 0.24 * len(models) + 0.7)
        for axes, metric in zip(panels, METRICS, strict=True):
            for place, model in enumerate(models):
                values = final.loc[final["model"] == model, metric].dropna()
                if len(values):
                    network_ticks(axes, values, place)
                    axes.plot(values.mean(), place, "o", color=f"C{place}", ms=4)
                elif metric == "class_accuracy":
                    cell = ("axes fraction", "data")
                    axes.annotate("unconditional", (0.02, place), xycoords=cell, size=6, va="center")
            axes.set_xlabel(SCORES[metric].label)
            if unit := SCORES[metric].log_from:
                _stretch(axes, unit)
            else:
                axes.set_xlim(left=0)
    return figure


def difference_chart(compared: pd.DataFrame, final: pd.DataFrame) -> Figure:
    """Models minus the one they are compared with, paired by seed: a tick a network, a mark the mean, its interval.

    Args:
        compared: rows of ``compare_models``.
        final: rows of ``final_scores``.
    """
    pairs = list(dict.fromkeys(zip(compared["model"], compared["to"], strict=True)))
    by_seed = final.set_index(["model", "seed"])
    with plt.rc_context(STYLE):
        names = [f"{model}\n− {to}" for model, to in pairs]
        figure, panels = _metric_panels(names, 0.3 * len(pairs) + 0.7)
        for axes, metric in zip(panels, METRICS, strict=True):
            axes.axvline(0, color="0.4", lw=0.8)
            for place, (model, to) in enumerate(pairs):
                row = compared[(compared["model"] == model) & (compared["metric"] == metric)]
                if len(row):
                    differences = by_seed.loc[model, metric] - by_seed.loc[to, metric]
                    network_ticks(axes, differences.dropna(), place)
                    intervals(axes, row, [place], fmt="o", color=f"C{place}")
            axes.set_xlabel(f"Δ {SCORES[metric].label}")
            if unit := SCORES[metric].log_from:
                _stretch(axes, unit)
    return figure


def _metric_panels(names: Sequence[str], height: float) -> tuple[Figure, Sequence[Axes]]:
    """Empty axes, one a metric, that share rows of these names, the first at the top."""
    figure, panels = plt.subplots(1, len(METRICS), figsize=(PAGE, height), sharey=True)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    for axes in panels:
        axes.grid(axis="x", alpha=0.3)
    return figure, panels


def _stretch(axes: Axes, unit: float) -> None:
    """A scale that is linear up to one unit and logarithmic beyond, with ticks that do not collide."""
    low, high = axes.dataLim.intervalx
    low = 0 if low >= 0 else -0.15 * unit if low > -0.1 * unit else min(1.2 * low, -unit)
    high = 1.2 * max(high, unit)
    axes.set_xscale("symlog", linthresh=unit)
    axes.set_xlim(low, high)
    ticks = [-100 * unit, -10 * unit, -unit, 0, unit, 10 * unit, 100 * unit]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter("{x:g}")
    between = [times * unit for times in (*range(2, 10), *range(20, 100, 10))]
    axes.xaxis.set_minor_locator(FixedLocator([-tick for tick in between] + between))


def progress_chart(scores: pd.DataFrame) -> Figure:
    """FID, recall and class accuracy by the images seen; thin lines single networks, dotted the FIDs to reach."""
    trained = scores[scores["epoch"] > 0].assign(thousands=scores["images"] / 1000)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(PAGE, 2.4))
        for axes, metric in zip(panels, ("fid", "recall", "class_accuracy"), strict=True):
            for i, (model, rows) in enumerate(_by_model(trained).items()):
                _seed_curve(axes, rows, metric, f"C{i}", model, "thousands")
            axes.set(xlabel="images seen (thousands)", ylabel=SCORES[metric].label)
        panels[0].set_yscale("log")
        for threshold in THRESHOLDS:
            panels[0].axhline(threshold, color="0.5", lw=0.6, ls=":")
        legend_above(figure, panels[0], 4)
    return figure


def model_curves(histories: pd.DataFrame, target: float | None) -> Figure:
    """Each model's losses, then D's outputs, overconfidence, horizons and the classifier's losses.

    Args:
        histories: from ``train_dcgan.histories``, with columns ``model`` and ``seed``.
        target: of the overconfidence, above which a horizon grows; None leaves it out.
    """
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, 4, figsize=(PAGE, 3.5), sharex=True)
        _loss_panels(grid[0], _by_model(histories))
        probability, overconfidence, horizon, contrast = grid[1]
        for i, (model, rows) in enumerate(_by_model(histories).items()):
            _seed_curve(probability, rows.assign(gap=rows["d_real"] - rows["d_fake"]), "gap", f"C{i}", model)
            _seed_curve(overconfidence, rows, "overconfidence", f"C{i}", model)
            _seed_curve(horizon, rows, "discriminator_horizon", f"C{i}", f"D, {model}")
            _seed_curve(horizon, rows, "classifier_horizon", "0.4", f"C, {model}")
            for j, (column, label) in enumerate(CONTRAST_LABELS.items()):
                _seed_curve(contrast, rows, column, f"C{j + 4}", label)
        probability.set_ylabel("D(x) − D(G(z))")
        overconfidence.set_ylabel("$r_d$, mean sign of D's\nlogit on real images")
        if target is not None:
            overconfidence.axhline(target, color="0.4", lw=0.8, ls=":")
        horizon.set_ylabel("horizon T")
        contrast.set_ylabel("C's loss terms (nats)")
        for axes in grid[1]:
            axes.set_xlabel("epoch")
            if axes.lines:
                low, high = axes.get_ylim()
                axes.set_ylim(low, high + 0.4 * (high - low))  # room for the legend
                axes.legend(frameon=False, fontsize=5, loc="upper right")
    return figure


def _loss_panels(row: Sequence[Axes], by_model: dict[str, pd.DataFrame]) -> None:
    """D's and G's losses, a panel a model, on one scale from 0; panels left over are hidden."""
    used = row[: len(by_model)]
    for axes, (model, rows) in zip(row, by_model.items(), strict=False):
        _seed_curve(axes, rows, "loss_discriminator", "C0", "D")
        _seed_curve(axes, rows, "loss_generator", "C1", "G")
        axes.set_title(model)
    highest = max(axes.get_ylim()[1] for axes in used)
    for axes in used:
        axes.set_ylim(0, highest)
    row[0].set_ylabel("loss (nats)")
    row[0].legend(frameon=False)
    for axes in row[len(used) :]:
        axes.set_axis_off()


def _by_model(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each model in the order of the table, without the ablations."""
    groups = table.groupby("model", sort=False)
    return {str(model): rows for model, rows in groups if not MODELS[str(model)].variant}


def _seed_curve(
    axes: Axes, rows: pd.DataFrame, column: str, colour: str, label: str, x: str = "epoch"
) -> None:
    """Lines over the epochs, if these rows have such numbers."""
    if column in rows and rows[column].notna().any():
        seed_lines(axes, rows.pivot_table(column, x, "seed"), colour, label)


# --- rules


def judge_diffusion(inputs: pd.DataFrame, compared: pd.DataFrame) -> Claim:
    """P2: does the forward diffusion diversify what D sees (``input_diversity``), and what G makes?"""
    rows = inputs[inputs["model"] == "diffusion-gan"]
    quantities = {"variance": "variance", "dimensions": "effective number of dimensions"}
    findings = [_change_of_input(rows, name, what) for name, what in quantities.items()]
    findings += [_gain(compared, "diffusion-gan", metric) for metric in ("fid", "recall")]
    return Claim(
        "P2",
        "the forward diffusion of Diffusion-GAN diversifies D's input",
        f"over at least {ENOUGH_SEEDS} networks, D's input has more variance over more dimensions than the images "
        "themselves, and G has a lower FID and a higher recall than the conditional DCGAN's",
        findings,
    )


def judge_dudgan(compared: pd.DataFrame) -> Claim:
    """P3: does DuDGAN's diffusion and classifier make a better conditional generator (``compare_models``)?"""
    return Claim(
        "P3",
        "DuDGAN puts diffusion into a class-conditional GAN and adds a classifier",
        f"over at least {ENOUGH_SEEDS} pairs, its G has a lower FID and a higher class accuracy than the conditional "
        "DCGAN's after as many images",
        [_gain(compared, "dudgan", metric) for metric in ("fid", "class_accuracy")],
    )


def _change_of_input(rows: pd.DataFrame, name: str, what: str) -> Finding:
    """Whether a quantity of D's inputs is larger than that of the images themselves."""
    reading = f"D's input, {name}"
    if rows.empty:
        return Finding(reading, "unclear", NOTHING, "no diffusion-gan was compared")
    by_seed = rows.groupby("seed")[name].mean()
    effect = over_seeds(by_seed - 1)
    sentence = (
        f"the {what} of what D sees, over that of the images themselves, is {by_seed.mean():.2f} (mean over epochs, at "
        f"a mean horizon T of {rows['horizon'].mean():.0f}), a change of {effect}"
    )
    return Finding(reading, outcome_of(effect, ENOUGH_SEEDS), effect, sentence)


def _gain(compared: pd.DataFrame, model: str, metric: str) -> Finding:
    """Whether a model is better than the one it adds to, by one score."""
    label = SCORES[metric].label
    rows = compared[(compared["model"] == model) & (compared["metric"] == metric)]
    if rows.empty:
        return Finding(label, "unclear", NOTHING, f"no {model} was compared")
    effect = pairs_of(rows.iloc[0])
    lower = SCORES[metric].better == "lower"
    gain = replace(effect, low=-effect.high, high=-effect.low) if lower else effect
    sentence = f"{label} changes by {effect} against {rows['to'].iloc[0]}"
    return Finding(label, outcome_of(gain, ENOUGH_SEEDS), effect, sentence)

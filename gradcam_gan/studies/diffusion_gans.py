"""Notebook 4: DCGAN beside the models of the poster's follow-up (P2, P3): scores, inputs, samples, charts, rules.

All models are trained on the same images, as many of them, and get the same scores.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gradcam_gan.data import to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.intervals import equivalent, paired_differences, paired_values, sign_flip, student_interval
from gradcam_gan.models.diffusion import DiffusionState, diffuse, times_and_noise
from gradcam_gan.models.options import MODELS, Diffusion
from gradcam_gan.run_explainer import NOISE_SEED
from gradcam_gan.scoring.scores import SCORES, WITHOUT_VEIL, Reference, classes_to_draw, draw, evaluate_run
from gradcam_gan.studies.claims import LAST_CHECKPOINTS, PLANNED_NETWORKS, Claim, Rule, decision, verdict_of
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.style import PAGE, STYLE, intervals, legend_above, network_ticks, seed_lines
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import Run

METRICS = {
    "log_fid": "log FID",
    **{name: SCORES[name].label for name in ("precision", "recall", "class_accuracy")},
}
COLLAPSED_RECALL, COLLAPSED_FID = 0.1, 20.0  # below the one or above the other, a network has collapsed
EQUAL = 0.2  # log FID: a difference within it either way is none
LOWEST_ACCURACY = 0.85  # of a conditional DCGAN's classes: below, nothing that builds on it is judged
SIGNIFICANT = 0.05  # p of the sign-flip test
THRESHOLDS = (50.0, 20.0, 10.0)  # of FID
SAMPLES_LOOKED_AT = 500
CONTRAST_LABELS = {
    "loss_contrast": "SupCon, real",
    "loss_classes": "cross-entropy, real",
    "generator_contrast": "SupCon, generated",
}


# --- which networks


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


# --- scores


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


# --- charts: finished numbers -> a figure


def score_chart(networks: pd.DataFrame) -> Figure:
    """The scores of each model (``network_scores``): a tick a network, a mark the mean; collapses are counted."""
    models = list(dict.fromkeys(networks["model"]))
    names = [f"{model}\n{collapses(networks, model)} collapsed" for model in models]
    with plt.rc_context(STYLE):
        figure, panels = _metric_panels(names, 0.3 * len(models) + 0.7)
        for axes, metric in zip(panels, METRICS, strict=True):
            for place, model in enumerate(models):
                values = networks.loc[networks["model"] == model, metric].dropna()
                if len(values):
                    network_ticks(axes, values, place)
                    axes.plot(values.mean(), place, "o", color=_colour(model), ms=4)
                elif metric == "class_accuracy":
                    cell = ("axes fraction", "data")
                    axes.annotate("unconditional", (0.02, place), xycoords=cell, size=6, va="center")
            if metric != "log_fid":
                axes.set_xlim(left=0)
    return figure


def difference_chart(
    compared: pd.DataFrame, networks: pd.DataFrame, metrics: Mapping[str, str] = METRICS
) -> Figure:
    """Models minus the one they are compared with: a tick a network, a mark the mean, its interval, the spread.

    Grey is where log FID counts as equal.

    Args:
        compared: rows of ``compare_models``.
        networks: rows of ``network_scores``.
        metrics: the panels' labels, by column.
    """
    pairs = list(dict.fromkeys(zip(compared["model"], compared["to"], strict=True)))
    with plt.rc_context(STYLE):
        names = [f"{model}\n− {to}" for model, to in pairs]
        figure, panels = _metric_panels(names, 0.34 * len(pairs) + 0.7, metrics)
        panels[0].axvspan(-EQUAL, EQUAL, color="0.9", lw=0)
        for axes, metric in zip(panels, metrics, strict=True):
            axes.axvline(0, color="0.4", lw=0.8)
            axes.set_xlabel(f"Δ {metrics[metric]}")
            for place, (model, to) in enumerate(pairs):
                rows = compared[compared["metric"] == metric]
                row = rows[(rows["model"] == model) & (rows["to"] == to)]
                if len(row):
                    network_ticks(axes, pd.Series(paired(networks, model, to, metric)), place)
                    intervals(axes, row, [place], fmt="o", color=_colour(model))
                    spread, cell = row["sd"].iloc[0], ("axes fraction", "data")
                    if not math.isnan(spread):
                        text = f"sd {spread:.2g}"
                        axes.annotate(
                            text, (0.99, place - 0.3), xycoords=cell, size=5, ha="right", va="center"
                        )
    return figure


def _metric_panels(
    names: Sequence[str], height: float, metrics: Mapping[str, str] = METRICS
) -> tuple[Figure, Sequence[Axes]]:
    """Empty axes, one a metric, that share rows of these names, the first at the top."""
    figure, panels = plt.subplots(1, len(metrics), figsize=(PAGE, height), sharey=True)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    for axes, label in zip(panels, metrics.values(), strict=True):
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlabel(label)
    return figure, panels


def _colour(model: str) -> str:
    """The same in every chart; a guided model has that of the model."""
    return f"C{list(MODELS).index(model.split()[0])}"


def progress_chart(scores: pd.DataFrame) -> Figure:
    """Log FID, recall and class accuracy by the images seen; thin lines single networks, dotted the FIDs to reach."""
    trained = scores[scores["epoch"] > 0]
    trained = trained.assign(thousands=trained["images"] / 1000, log_fid=np.log(trained["fid"]))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(PAGE, 2.4))
        for axes, metric in zip(panels, ("log_fid", "recall", "class_accuracy"), strict=True):
            for model, rows in _by_model(trained).items():
                _seed_curve(axes, rows, metric, _colour(model), model, "thousands")
            axes.set(xlabel="images seen (thousands)", ylabel=METRICS[metric])
        for threshold in THRESHOLDS:
            panels[0].axhline(math.log(threshold), color="0.5", lw=0.6, ls=":")
        legend_above(figure, panels[0], 3)
    return figure


def model_curves(histories: pd.DataFrame) -> Figure:
    """Losses of D and G, D's outputs, its overconfidence, the horizons and the classifier's losses.

    Args:
        histories: from ``train_dcgan.histories``, with columns ``model`` and ``seed``.
    """
    histories = histories.assign(gap=histories["d_real"] - histories["d_fake"])
    panels = {
        "loss_discriminator": "D's loss (nats)",
        "loss_generator": "G's loss (nats)",
        "gap": "D(x) − D(G(z))",
        "overconfidence": "$r_d$, mean sign of D's\nlogit on real images",
        "discriminator_horizon": "horizon T of D (C grey)",
    }
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, 3, figsize=(PAGE, 3.7), sharex=True)
        *by_model, contrast = grid.flat
        for model, rows in _by_model(histories).items():
            for axes, (column, label) in zip(by_model, panels.items(), strict=True):
                _seed_curve(axes, rows, column, _colour(model), model)
                axes.set_ylabel(label)
            _seed_curve(by_model[-1], rows, "classifier_horizon", "0.4", f"C, {model}")
            for j, (column, label) in enumerate(CONTRAST_LABELS.items()):
                _seed_curve(contrast, rows, column, f"C{j}", label)
        contrast.set_ylabel("C's loss terms (nats)")
        if contrast.lines:
            contrast.legend(frameon=False, fontsize=5)
        for axes in grid[1]:
            axes.set_xlabel("epoch")
        legend_above(figure, by_model[0], 3)
    return figure


def _by_model(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each model in the order of the table, without the variants."""
    groups = table.groupby("model", sort=False)
    return {str(model): rows for model, rows in groups if not MODELS[str(model)].variant}


def _seed_curve(
    axes: Axes, rows: pd.DataFrame, column: str, colour: str, label: str, x: str = "epoch"
) -> None:
    """Lines over the epochs, if these rows have such numbers."""
    if column in rows and rows[column].notna().any():
        seed_lines(axes, rows.pivot_table(column, x, "seed"), colour, label)


# --- rules


def judge_diffusion(networks: pd.DataFrame, inputs: pd.DataFrame) -> Claim:
    """P2: does a diffusion of D's input make a better G (``network_scores``, ``input_diversity``)?

    Not judged unless T reached half of its largest value by half of the training, in every network.
    """
    model, to = "diffusion-gan", "conditional-dcgan"
    rows = inputs[inputs["model"] == model]
    reached, wanted = float(horizons(rows)["half"].min()), Diffusion().longest / 2
    rose = reached >= wanted  # not where it is NaN, without a network
    by_seed = rows.groupby("seed")[["variance", "dimensions"]].mean()
    return _judge(
        "P2",
        "the forward diffusion of Diffusion-GAN diversifies D's input",
        networks,
        model,
        to,
        needed=" and T half of its largest by half of the training",
        obstacle="" if rose else f"T was {reached:.0f} by half of the training, not {wanted:.0f}",
        beside={
            "recall": student_interval(paired(networks, model, to, "recall"), unit="pairs"),
            "variance of D's input over the images' own": student_interval(by_seed["variance"]),
            "dimensions of D's input over the images' own": student_interval(by_seed["dimensions"]),
            "T by half of the training": f"{reached:.0f}",
        },
    )


def judge_dudgan(networks: pd.DataFrame) -> Claim:
    """P3: do DuDGAN's diffusions and classifier make a better conditional G (``network_scores``)?

    The control has DuDGAN's averaging and R1; the sign flip must agree that G is better.
    """
    model, to, plain = "dudgan", "conditional-dcgan-averaged", "conditional-dcgan"
    p = sign_flip(paired(networks, model, to))
    return _judge(
        "P3",
        "DuDGAN puts diffusion into a class-conditional GAN and adds a classifier",
        networks,
        model,
        to,
        flips=True,
        beside={
            "p of the sign flip": f"{p:.2g}",
            f"log FID minus {plain}'s": student_interval(paired(networks, model, plain), unit="pairs"),
        },
    )


def _judge(
    name: str,
    text: str,
    networks: pd.DataFrame,
    model: str,
    to: str,
    *,
    needed: str = "",
    obstacle: str = "",
    flips: bool = False,
    beside: dict[str, object],
) -> Claim:
    """A claim by a model's log FID minus another's; with an obstacle it is not judged, and the effect has no number."""
    rule = Rule(
        quantity=f"log FID of {model} minus that of {to}",
        holds_above=0,
        fails_below=0,
        if_true=-2 * EQUAL,
        if_false=0,
        lower_is_better=True,
        equivalence=EQUAL,
    )
    obstacle = obstacle or _wrong_classes(networks, to)
    differences = [] if obstacle else paired(networks, model, to)
    outcome = rule.outcome(differences)
    if flips and outcome == "holds" and not sign_flip(differences) < SIGNIFICANT:
        outcome = "fails" if equivalent(differences, EQUAL) else "unclear"
    verdict, effect = verdict_of([outcome]), student_interval(differences, unit="pairs")
    flipped = f" with p < {SIGNIFICANT} of the sign flip" if flips else ""
    beside |= without_veil(networks, model, to)
    factor = f"{rule.quantity}: {effect}; FID times {math.exp(effect.estimate):.2f}"
    beside |= {f"networks of {one} that collapsed": collapses(networks, one) for one in (model, to)}
    if len(differences) > 1:
        power = rule.power_in_words(differences, PLANNED_NETWORKS)
        beside[f"power with {PLANNED_NETWORKS} networks"] = power
    return Claim(
        name,
        text,
        f"{rule.quantity}: holds if its interval lies below 0{flipped}, else fails if it lies above 0 or its 90 % "
        f"interval within ±{EQUAL}; judged only with a class accuracy of {LOWEST_ACCURACY} of the conditional "
        f"DCGANs{needed}",
        verdict,
        rule.quantity,
        effect,
        f"not judged: {obstacle}" if obstacle else factor + decision(verdict, rule, differences),
        p=rule.p_value(differences),
        beside=beside,
    )


def without_veil(networks: pd.DataFrame, model: str, to: str) -> dict[str, object]:
    """Beside a claim: the same where no veil counts; nothing of networks that were not scored so."""
    name = f"log_fid{WITHOUT_VEIL}"
    if name not in networks:
        return {}
    differences = paired(networks, model, to, name)
    return {f"log FID without the veil, minus {to}'s": student_interval(differences, unit="pairs")}


def _wrong_classes(networks: pd.DataFrame, model: str | None) -> str:
    """Whether this conditional DCGAN, or one that it builds on, errs in the class asked for; empty if none does."""
    while model and MODELS[model].model is not None:
        accuracy = networks.loc[networks["model"] == model, "class_accuracy"].mean()
        if accuracy < LOWEST_ACCURACY:
            return f"{model} has a mean class accuracy of {accuracy:.3f}, below {LOWEST_ACCURACY}"
        model = MODELS[model].compared_with
    return ""

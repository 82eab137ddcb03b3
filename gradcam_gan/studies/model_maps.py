"""Explanations of the follow-up's models (P3): D of what it saw at several times, D beside C, D told each class."""

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.errors import InputError
from gradcam_gan.explaining.measures import COLUMNS, map_change
from gradcam_gan.intervals import Interval, interval_over_seeds
from gradcam_gan.run_explainer import Reading, RunExplainer, Statistics
from gradcam_gan.scoring.scores import classes_to_draw, draw
from gradcam_gan.studies.epochs import MOSTLY_ZERO, heatmap_table, measure_epochs
from gradcam_gan.studies.panels import Panel
from gradcam_gan.studies.readings import EVIDENCES
from gradcam_gan.training.runs import Run


def draw_with_classes(run: Run, epoch: int, count: int) -> tuple[Tensor, Tensor]:
    """Images (count, C, H, W), uint8, of a conditional run's generator, and the classes (count,) it was asked for.

    Raises:
        InputError: the generator is unconditional.
    """
    generator = run.generator(epoch)
    labels = classes_to_draw(generator, count)
    if labels is None:
        raise InputError(f"the generator of {run.path} is unconditional: it cannot be asked for a class")
    return draw(generator, count), labels


def times_panel(
    explainer: RunExplainer,
    images: Tensor,
    labels: Tensor,
    names: Sequence[str],
    epochs: Sequence[int],
    shares: Sequence[float],
    variant: Reading,
) -> Panel:
    """D's maps of its own diffused input: a row an epoch, a column an image and time, what D saw shining through.

    Args:
        explainer: of a run with a diffusion.
        images: uint8 (K, C, H, W).
        labels: their classes (K,).
        names: K of them.
        epochs: R epochs.
        shares: t/T, ascending; T is that of each epoch, and t is rounded.
        variant: how to explain.
    """
    rows, maps, seen, tables = [], [], [], []
    for epoch in epochs:
        state = explainer.run.diffusion(epoch)
        horizon = 0 if state is None else state.horizon
        times = [round(share * horizon) for share in shares]
        by_time = [explainer.maps(images, [epoch], variant, labels=labels, time=time)[0] for time in times]
        maps.append(torch.stack(by_time, 1).flatten(0, 1))  # image by image, time after time
        inputs = [explainer.diffused(images, epoch, time) for time in times]
        seen.append(torch.stack(inputs, 1).flatten(0, 1))
        rows.append(f"epoch {epoch}, T {horizon}")
        tables += [
            heatmap_table(explainer, images, [epoch], [variant], labels, time).assign(
                time=time, horizon=horizon
            )
            for time in times
        ]
    return Panel(
        images.repeat_interleave(len(shares), 0),
        torch.stack(maps),
        rows,
        [f"{name}\n{_time_name(share)}" for name in names for share in shares],
        pd.concat(tables, ignore_index=True),
        torch.stack(seen),
    )


def _time_name(share: float) -> str:
    return "t = 0" if share == 0 else "t = T" if share == 1 else f"{share:g} T"


def networks_panel(
    discriminator: RunExplainer,
    classifier: RunExplainer,
    images: Tensor,
    labels: Tensor,
    names: Sequence[str],
    epoch: int,
    statistics: Statistics,
    method: str,
) -> Panel:
    """D beside C on the same images, undiffused: D for “real” and “fake”, told the right and the next class; C.

    Args:
        discriminator: of a DuDGAN.
        classifier: of the same run.
        images: uint8 (K, C, H, W).
        labels: their classes (K,).
        names: K of them.
        epoch: of the run.
        statistics: of BatchNorm.
        method: of the maps.
    """
    classes = discriminator.run.manifest["classes"]
    real, fake = (Reading(method, statistics, evidence) for evidence in ("real", "fake"))
    wrong = (labels + 1) % classes
    rows = {
        "D, “real”": (discriminator, real, labels),
        "D, “fake”": (discriminator, fake, labels),
        "D, “real”, wrong class": (discriminator, real, wrong),
        "D, “fake”, wrong class": (discriminator, fake, wrong),
        "C, for the class": (classifier, real, labels),
        "C, against it": (classifier, fake, labels),
    }
    maps = [explainer.maps(images, [epoch], how, labels=told)[0] for explainer, how, told in rows.values()]
    tables = [
        heatmap_table(explainer, images, [epoch], [how], told).assign(row=name)
        for name, (explainer, how, told) in rows.items()
    ]
    return Panel(images, torch.stack(maps), list(rows), list(names), pd.concat(tables, ignore_index=True))


def models_panel(
    explainers: Sequence[RunExplainer],
    images: Tensor,
    labels: Tensor,
    names: Sequence[str],
    epochs: Sequence[int],
    variant: Reading,
) -> Panel:
    """The discriminators of several models beside each other: a column a model and image, a row an epoch; t = 0.

    Args:
        explainers: one a model.
        images: uint8 (K, C, H, W).
        labels: their classes (K,).
        names: K of them.
        epochs: R epochs.
        variant: how to explain.
    """
    models = [explainer.run.config.model_name for explainer in explainers]
    return Panel(
        images.repeat(len(explainers), 1, 1, 1),
        torch.cat([one.maps(images, epochs, variant, labels=labels) for one in explainers], 1),
        [f"epoch {epoch}" for epoch in epochs],
        # the model's name once, over the middle of its columns
        [
            f"{model if i == len(names) // 2 else ''}\n{name}"
            for model in models
            for i, name in enumerate(names)
        ],
        pd.concat(
            [
                heatmap_table(one, images, epochs, [variant], labels).assign(model=model)
                for one, model in zip(explainers, models, strict=True)
            ],
            ignore_index=True,
        ),
    )


def agreement(
    discriminator: RunExplainer,
    classifier: RunExplainer,
    images: Tensor,
    labels: Tensor,
    epoch: int,
    statistics: Statistics,
    methods: Sequence[str],
) -> pd.DataFrame:
    """Do D and C look alike at the same image? Correlation of their signed maps at the layer's resolution.

    D's map is positive where there is evidence for "real", C's where there is evidence for the class.

    Args:
        discriminator: of a DuDGAN.
        classifier: of the same run.
        images: uint8 (N, C, H, W).
        labels: their classes (N,).
        epoch: of the run.
        statistics: of BatchNorm.
        methods: of the maps.

    Returns:
        A row per method and image: ``method``, ``image``, ``label``, ``correlation`` (-1 to 1; NaN where a map is
        constant) and ``chance``, the same with C's map of another image of that class; NaN where there is no other.
    """
    tables = []
    for_real, _ = discriminator.signed(images, epoch, statistics, methods, labels=labels)
    for_class, _ = classifier.signed(images, epoch, statistics, methods, labels=labels)
    other = next_of_class(labels)
    for method in methods:
        d, c = for_real[method].cpu(), for_class[method].cpu()
        columns = {
            "image": range(len(images)),
            "label": labels,
            "correlation": 1 - map_change(d, c),
            "chance": (1 - map_change(d, c[other])).masked_fill(
                other == torch.arange(len(labels)), torch.nan
            ),
        }
        tables.append(pd.DataFrame({"method": method, **columns}))
    return pd.concat(tables, ignore_index=True)


def next_of_class(labels: Tensor) -> Tensor:
    """For each of the classes (N,) the index of the next image of that class, around the end; its own if alone."""
    following = torch.empty_like(labels)
    for label in labels.unique():
        places = (labels == label).nonzero()[:, 0]
        following[places] = places.roll(-1)
    return following


def told_each_class(
    explainer: RunExplainer,
    images: Tensor,
    labels: Tensor,
    epoch: int,
    statistics: Statistics,
    method: str,
) -> pd.DataFrame:
    """What changes when D is told another class of the same image?

    Args:
        explainer: of a conditional run.
        images: uint8 (N, C, H, W).
        labels: their classes (N,).
        epoch: of the run.
        statistics: of BatchNorm.
        method: of the maps.

    Returns:
        A row per image and class told: ``image``, ``label``, ``told``, ``logit``, ``change`` (of the logit, against
        being told the right class) and ``correlation`` of the signed map with that of the right class.
    """
    maps, logits = [], []
    for told in range(explainer.run.manifest["classes"]):
        signed, scores = explainer.signed(
            images, epoch, statistics, [method], labels=torch.full_like(labels, told)
        )
        maps.append(signed[method].cpu())
        logits.append(scores.cpu())
    right = torch.arange(len(labels))
    right_map, right_logit = torch.stack(maps)[labels, right], torch.stack(logits)[labels, right]
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "image": right,
                    "label": labels,
                    "told": told,
                    "logit": logits[told],
                    "change": logits[told] - right_logit,
                    "correlation": 1 - map_change(maps[told], right_map),
                }
            )
            for told in range(len(maps))
        ],
        ignore_index=True,
    )


def describe_agreement(table: pd.DataFrame) -> str:
    """Do D and C look alike? In words, by source and method.

    Args:
        table: rows of ``agreement`` with columns ``seed`` and ``source``.
    """
    sentences = []
    for (source, method), rows in table.groupby(["source", "method"], sort=False):
        found, chance = (_over_seeds(rows, name) for name in ("correlation", "chance"))
        sentences.append(
            f"{source} images, {method}: {found}; with C's map of another image of the class {chance}"
        )
    return "Correlation of D's map with C's. " + ". ".join(sentences) + "."


def describe_told(table: pd.DataFrame) -> str:
    """What being told the wrong class changes, in words, by source.

    Args:
        table: rows of ``told_each_class`` with columns ``seed`` and ``source``.
    """
    sentences = []
    for source, rows in table.reset_index(drop=True).groupby("source", sort=False):
        wrong = rows[rows["told"] != rows["label"]]
        best = rows.loc[rows.groupby(["seed", "image"])["logit"].idxmax()]
        right = _over_seeds(best.assign(right=(best["told"] == best["label"]).astype(float)), "right")
        sentences.append(
            f"{source} images: told a wrong class, D's logit changes by {_over_seeds(wrong, 'change')}, and its map "
            f"correlates {_over_seeds(wrong, 'correlation')} with that of the right class; the right class is the one "
            f"that D finds most real in a share {right} (chance {1 / rows['told'].nunique():.2g})"
        )
    return ". ".join(sentences) + "."


def _over_seeds(table: pd.DataFrame, value: str) -> Interval:
    """Mean over seeds with Student's interval; images without a value are left out."""
    return interval_over_seeds(table.dropna(subset=value), value, method="student")


def confusion(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean of one column of ``told_each_class``: a row per class of the image, a column per class told; NaN without."""
    means = table.pivot_table(value, "label", "told", dropna=False)
    classes = sorted(table["told"].unique())
    return means.reindex(index=classes, columns=classes)


def measure_models(
    explainers: Sequence[RunExplainer], images: Tensor, labels: Tensor, epochs: Iterable[int]
) -> pd.DataFrame:
    """``measure_epochs`` of several models' D at t = 0, each told the right class, with a column ``model``.

    Args:
        explainers: one a run.
        images: uint8 (N, C, H, W).
        labels: their classes (N,).
        epochs: which.
    """
    shown = list(epochs)
    return pd.concat(
        [
            measure_epochs(one, images, epochs=shown, labels=labels).assign(model=one.run.config.model_name)
            for one in explainers
        ],
        ignore_index=True,
    )


def summarise_maps(measured: pd.DataFrame) -> pd.DataFrame:
    """Mean measures over images: a row per model, seed, reading and epoch.

    Where more than half of the maps are zero everywhere, the others say nothing of the whole: NaN.

    Args:
        measured: of ``measure_models``.
    """
    keys = ["model", "seed", "method", "statistics", "evidence", "epoch"]
    means = measured.groupby(keys, sort=False)[list(COLUMNS)].mean().reset_index()
    said = [column for column in COLUMNS if column not in ("all_zero", "mask_area")]
    means[said] = means[said].where(means["all_zero"] <= MOSTLY_ZERO)
    return means


def describe_maps(summary: pd.DataFrame, epoch: int) -> str:
    """Where the models' discriminators look at one epoch, in words.

    Args:
        summary: rows of ``summarise_maps`` of one method and one kind of statistics.
        epoch: which.
    """
    sentences = []
    for model, rows in summary[summary["epoch"] == epoch].groupby("model", sort=False):
        lifts = []
        for evidence in EVIDENCES:
            lift = rows.loc[rows["evidence"] == evidence, "focus_lift"].dropna()
            lifts.append(f"“{evidence}” {lift.mean():.2f}" if len(lift) else f"“{evidence}” mostly no maps")
        sentences.append(f"{model} {', '.join(lifts)}")
    return f"Focus lift after epoch {epoch} by evidence (1 is chance; mean over networks): {'; '.join(sentences)}."

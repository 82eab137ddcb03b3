"""Notebook 5: explanations of the follow-up's models (P3): panels, tables and charts.

D of what it saw at several times, D beside C, D told each class, and the models' D by the measures of notebook 2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gradcam_gan.errors import InputError
from gradcam_gan.explaining.measures import map_change
from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.intervals import interval_over_networks
from gradcam_gan.run_explainer import ExplainedRun, Reading, RunExplainer
from gradcam_gan.scoring.scores import classes_to_draw, draw
from gradcam_gan.studies.epoch_heatmaps.tables import DigitFocus, measure_epoch
from gradcam_gan.studies.panels import Panel, beside, panel
from gradcam_gan.studies.readings import COMPARED_METHODS, EVIDENCES, PRIMARY
from gradcam_gan.studies.style import PAGE, SIGNED, STYLE, legend_above, seed_lines
from gradcam_gan.training.runs import Run

MEASURE_LABELS = {
    "focus": "K, focus above chance",
    "around": "share looked around",
    "covered": "share of the map above 0",
}
KEPT_IMAGES = 10  # what is shown is kept with the run, map by map; what is measured of more, as a table
SOURCES = ("real", "generated")
# the models' discriminators are compared under the claims' reading, with either method and evidence
COMPARED = tuple(
    replace(PRIMARY, method=method, evidence=evidence)
    for method, evidence in product(COMPARED_METHODS, EVIDENCES)
)


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


def drawn_of_each_class(run: Run, epoch: int, count: int) -> Tensor:
    """The first of each class of so many images of a conditional run's generator, uint8 (classes, C, H, W).

    Kept with the run.
    """

    def find() -> dict[str, Tensor]:
        images, labels = draw_with_classes(run, epoch, count)
        firsts = [int((labels == label).nonzero()[0]) for label in range(run.manifest["classes"])]
        return {"images": images[firsts]}

    return run.kept_tensors("drawn-of-each-class", f"{epoch} {count}", find)["images"]


# --- panels of heatmaps


def times_panels(
    explainer: RunExplainer,
    images: Tensor,
    labels: Tensor,
    captions: Sequence[str],
    epochs: Sequence[int],
    shares: Sequence[float],
    readings: Sequence[Reading],
) -> list[Panel]:
    """D's maps of its own diffused input: a row an epoch, a column an image and time, what D saw shining through.

    Images are uint8 (K, C, H, W), with their classes (K,) and K captions. Times are given as shares t/T, ascending; T
    is that of each epoch, and t is rounded.

    Returns:
        A panel a reading.
    """
    states = [explainer.run.diffusion(epoch) for epoch in epochs]
    horizons = [0 if state is None else state.horizon for state in states]
    cells = [
        (epoch, horizon, time, _explain(explainer, images, [epoch], readings, labels, time))
        for epoch, horizon in zip(epochs, horizons, strict=True)
        for time in (round(share * horizon) for share in shares)
    ]
    seen = torch.stack([explainer.diffused(images, epoch, time) for epoch, _, time, _ in cells])
    return [
        Panel(
            images.repeat_interleave(len(shares), 0),
            _image_by_image(torch.stack([one.maps(reading)[0] for *_, one in cells]), len(epochs)),
            [f"epoch {epoch}, T {horizon}" for epoch, horizon in zip(epochs, horizons, strict=True)],
            [f"{caption}\n{_time_caption(share)}" for caption in captions for share in shares],
            pd.concat(
                [one.table([reading]).assign(time=time, horizon=horizon) for _, horizon, time, one in cells],
                ignore_index=True,
            ),
            _image_by_image(seen, len(epochs)),
        )
        for reading in readings
    ]


def _image_by_image(cells: Tensor, rows: int) -> Tensor:
    """(R * S, K, ...), time after time within a row -> (R, K * S, ...), image by image."""
    return cells.unflatten(0, (rows, -1)).transpose(1, 2).flatten(1, 2)


def _time_caption(share: float) -> str:
    return "t = 0" if share == 0 else "t = T" if share == 1 else f"{share:g} T"


def _explain(
    explainer: RunExplainer,
    images: Tensor,
    epochs: Sequence[int],
    readings: Sequence[Reading],
    labels: Tensor,
    time: int = 0,
) -> ExplainedRun:
    """The images under these readings alone."""
    statistics = list(dict.fromkeys(reading.statistics for reading in readings))
    methods = list(dict.fromkeys(reading.method for reading in readings))
    layers = list(dict.fromkeys(reading.layer for reading in readings))
    return explainer.explain(
        images,
        epochs,
        statistics=statistics,
        methods=methods,
        layers=layers,
        labels=labels,
        time=time,
        keep=len(images) <= KEPT_IMAGES,
    )


def networks_panel(
    discriminator: RunExplainer,
    classifier: RunExplainer,
    images: Tensor,
    labels: Tensor,
    captions: Sequence[str],
    epoch: int,
    reading: Reading,
) -> Panel:
    """D beside C of one DuDGAN, undiffused: D for “real” and “fake”, told the right and the next class; C.

    Images are uint8 (K, C, H, W), with their classes (K,) and K captions. The reading's evidence makes no difference.
    """
    real, fake = (replace(reading, evidence=evidence) for evidence in EVIDENCES)
    wrong = (labels + 1) % discriminator.run.manifest["classes"]
    d, d_misled, c = (
        _explain(explainer, images, [epoch], [real], told)
        for explainer, told in ((discriminator, labels), (discriminator, wrong), (classifier, labels))
    )
    rows = {
        "D, “real”": (d, real),
        "D, “fake”": (d, fake),
        "D, “real”, wrong class": (d_misled, real),
        "D, “fake”, wrong class": (d_misled, fake),
        "C, for the class": (c, real),
        "C, against it": (c, fake),
    }
    tables = [explained.table([reading]).assign(row=row) for row, (explained, reading) in rows.items()]
    return Panel(
        images,
        torch.cat([explained.maps(reading) for explained, reading in rows.values()]),
        list(rows),
        list(captions),
        pd.concat(tables, ignore_index=True),
    )


def models_panel(
    explainers: Sequence[RunExplainer],
    images: Tensor,
    labels: Tensor,
    captions: Sequence[str],
    epochs: Sequence[int],
    reading: Reading,
) -> Panel:
    """The discriminators of several models beside each other: a column a model and image, a row an epoch; t = 0.

    Images are uint8 (K, C, H, W), with their classes (K,) and K captions; the explainers are one a model.
    """
    panels = []
    for explainer in explainers:
        model = explainer.run.config.model_name
        # the model's name once, over the middle of its columns; a long one in two lines
        above = ["\n".join(wrap(model, 18)) if i == len(captions) // 2 else "" for i in range(len(captions))]
        columns = [f"{name}\n{caption}" for name, caption in zip(above, captions, strict=True)]
        one = panel(_explain(explainer, images, epochs, [reading], labels), [reading], columns)
        panels.append(replace(one, table=one.table.assign(model=model)))
    return beside(*panels)


# --- what D and C have in common, and what the class changes


def by_source(
    explainers: Sequence[RunExplainer[Run]],
    images: Tensor,
    labels: Tensor,
    epoch: int,
    name: str,
    measure: Callable[[RunExplainer[Run], Tensor, Tensor], pd.DataFrame],
) -> pd.DataFrame:
    """What is measured of networks on held-out images, and on as many of their own G's; kept with the runs.

    Args:
        explainers: of conditional models.
        images: held-out ones, uint8 (N, C, H, W).
        labels: their classes (N,).
        epoch: of D and G.
        name: of what is measured, and all that it depends on.
        measure: of one network, images and their classes: a table.

    Returns:
        The tables with columns ``source``, of ``SOURCES``, and ``seed``.
    """

    def find(one: RunExplainer[Run], source: str) -> pd.DataFrame:
        own = source == "generated"
        return measure(one, *(draw_with_classes(one.run, epoch, len(images)) if own else (images, labels)))

    tables = []
    for one, source in product(explainers, SOURCES):
        how = one.how(images, labels, epoch, name)
        table = one.run.kept(f"{name.split()[0]}-{source}", how, partial(find, one, source))
        tables.append(table.assign(source=source, seed=one.run.config.seed))
    return pd.concat(tables, ignore_index=True)


def agreement(
    discriminator: RunExplainer,
    classifier: RunExplainer,
    images: Tensor,
    labels: Tensor,
    epoch: int,
    readings: Sequence[Reading],
) -> pd.DataFrame:
    """Do D and C look alike at the same image? Correlation of their signed maps at the layer's resolution.

    D's map is positive where there is evidence for "real", C's where there is evidence for the class. Both are of one
    DuDGAN; images are uint8 (N, C, H, W), with their classes (N,). The readings differ in their method.

    Returns:
        A row per method and image: ``method``, ``image``, ``label``, ``correlation`` (-1 to 1; NaN where a map is
        constant) and ``chance``, the same with C's map of another image of that class; NaN where there is no other.
    """
    tables = []
    explained = [_explain(one, images, [epoch], readings, labels) for one in (discriminator, classifier)]
    other = next_of_class(labels)
    alone = other == torch.arange(len(labels))
    for reading in readings:
        d, c = (one.signed_at(epoch, reading) for one in explained)
        columns = {
            "method": reading.method,
            "image": range(len(images)),
            "label": labels,
            "correlation": 1 - map_change(d, c),
            "chance": (1 - map_change(d, c[other])).masked_fill(alone, torch.nan),
        }
        tables.append(pd.DataFrame(columns))
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
    reading: Reading,
) -> pd.DataFrame:
    """What changes when a conditional D is told another class of the same image?

    Images are uint8 (N, C, H, W), with their classes (N,).

    Returns:
        A row per image and class told: ``image``, ``label``, ``told``, ``logit``, ``change`` (of the logit, against
        being told the right class) and ``correlation`` of the signed map with that of the right class.
    """
    maps, logits = [], []
    for told in range(explainer.run.manifest["classes"]):
        explained = _explain(explainer, images, [epoch], [reading], torch.full_like(labels, told))
        maps.append(explained.signed_at(epoch, reading))
        logits.append(explained.logits[epoch, reading.statistics])
    image = torch.arange(len(labels))
    right_map, right_logit = torch.stack(maps)[labels, image], torch.stack(logits)[labels, image]
    tables = [
        pd.DataFrame(
            {
                "image": image,
                "label": labels,
                "told": told,
                "logit": logits[told],
                "change": logits[told] - right_logit,
                "correlation": 1 - map_change(maps[told], right_map),
            }
        )
        for told in range(len(maps))
    ]
    return pd.concat(tables, ignore_index=True)


def confusion(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean of one column of ``told_each_class``: a row per class of the image, a column per class told; NaN without."""
    classes = sorted(table["told"].unique())
    return table.pivot_table(value, "label", "told").reindex(index=classes, columns=classes)


def most_real(table: pd.DataFrame) -> pd.DataFrame:
    """Is the right class the one that D finds most real, of all that it is told?

    Args:
        table: rows of ``told_each_class`` with columns ``source`` and ``seed``.

    Returns:
        A row per source, seed and image: these, and ``right`` (1 or 0).
    """
    keys = ["source", "seed", "image"]
    numbered = table.reset_index(drop=True)
    best = numbered.loc[numbered.groupby(keys, sort=False)["logit"].idxmax()]
    return best[keys].assign(right=(best["told"] == best["label"]).astype(float))


def over_networks(table: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Means with Student's intervals over networks, in words: a row a group, a column a value.

    Args:
        table: columns ``seed`` and ``image``; rows of one image are averaged first, those without a value left out.
        by: columns that make the groups.
        values: columns to average.
    """
    groups = table.groupby(list(by), sort=False)
    return pd.DataFrame({value: groups[["seed", "image", value]].apply(_interval, value) for value in values})


def _interval(rows: pd.DataFrame, value: str) -> str:
    by_image = rows.dropna().groupby(["seed", "image"], as_index=False).mean()
    return str(interval_over_networks(by_image, value))


# --- the models' discriminators by the measures of notebook 2


def measure_models(
    explainers: Sequence[RunExplainer[Run]], images: Tensor, labels: Tensor, epochs: Sequence[int]
) -> pd.DataFrame:
    """Several models' D at t = 0, each told the right class, by the measures of notebook 2; kept with the runs.

    Returns:
        A row per model, seed, epoch and reading of ``COMPARED``: these, and those of ``measure_epoch``.
    """
    focus = dict[torch.Size, DigitFocus]()

    def find(one: RunExplainer[Run]) -> pd.DataFrame:
        rows = []
        for epoch in epochs:
            explained = _explain(one, images, [epoch], COMPARED, labels)
            for reading in COMPARED:
                (maps,) = explained.maps(reading, upsample=False)
                size = maps.shape[1:]
                if size not in focus:
                    focus[size] = DigitFocus(images, size)
                rows.append({"epoch": epoch, **asdict(reading), **measure_epoch(maps, focus[size])})
        return pd.DataFrame(rows)

    tables = []
    for one in explainers:
        how = one.how(images, labels, [*epochs], COMPARED)
        table, config = one.run.kept("map-measures", how, partial(find, one)), one.run.config
        tables.append(table.assign(model=config.model_name, seed=config.seed))
    columns = ["model", "seed", *tables[0].columns.drop(["model", "seed"])]
    return pd.concat(tables, ignore_index=True)[columns]


# --- charts: finished numbers -> a figure


def agreement_chart(table: pd.DataFrame, class_names: Sequence[str]) -> Figure:
    """Correlation of D's map with C's by class, and by chance: medians and quartiles over images.

    Args:
        table: rows of ``agreement`` with a column ``source``.
        class_names: by label.
    """
    sources, methods = list(dict.fromkeys(table["source"])), list(dict.fromkeys(table["method"]))
    series = {
        "correlation": ("same image", "o", "C0"),
        "chance": ("another image of the class", "s", "white"),
    }
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(sources), len(methods), figsize=(PAGE, 1.5 * len(sources) + 0.3), sharex=True, sharey=True,
            squeeze=False,
        )  # fmt: skip
        for axes, (source, method) in zip(grid.flat, product(sources, methods), strict=True):
            rows = table[(table["source"] == source) & (table["method"] == method)]
            axes.axhline(0, color="0.4", lw=0.8)
            for i, (value, (label, marker, filling)) in enumerate(series.items()):
                low, middle, high = (
                    rows.groupby("label")[value].quantile(share) for share in (0.25, 0.5, 0.75)
                )
                axes.errorbar(
                    middle.index + 0.24 * (i - 0.5), middle, yerr=(middle - low, high - middle), fmt=marker, ms=3,
                    color=f"C{i}", mfc=filling, capsize=2, label=label,
                )  # fmt: skip
            axes.set_title(f"{source} images, {METHODS[method].label}")
            axes.set_xticks(range(len(class_names)), class_names)
        for axes in grid[:, 0]:
            axes.set_ylabel("correlation, D with C")
        for axes in grid[-1]:
            axes.set_xlabel("class")
        grid[0, 0].set_ylim(-1.05, 1.05)
        legend_above(figure, grid[0, 0], 2)
    return figure


def told_chart(
    change: Mapping[str, pd.DataFrame], correlation: Mapping[str, pd.DataFrame], class_names: Sequence[str]
) -> Figure:
    """What D makes of images of a class (rows) when it is told another (columns): its logit, and its map.

    Args:
        change: of the logit against the right class, by source: a row per class, a column per class told.
        correlation: of the map with that of the right class, likewise.
        class_names: by label.
    """
    largest = max(float(np.nanmax(np.abs(table))) for table in change.values())
    lowest = min(float(np.nanmin(table)) for table in correlation.values())
    halves = (
        (change, "change of the logit", {"cmap": SIGNED, "vmin": -largest, "vmax": largest}),
        (correlation, "correlation of the map", {"cmap": "cividis", "vmin": lowest, "vmax": 1}),
    )
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(len(change), 2, figsize=(PAGE, 2.3 * len(change)), squeeze=False)
        for axes, (source, (tables, label, colours)) in zip(grid.flat, product(change, halves), strict=True):
            sns.heatmap(
                tables[source].to_numpy(), ax=axes, **colours, annot=True, fmt=".1f", annot_kws={"size": 5},
                cbar_kws={"label": label}, xticklabels=class_names, yticklabels=class_names,
            )  # fmt: skip
            axes.set(xlabel="class told", ylabel="class of the image", title=f"{source} images")
            axes.tick_params(length=0, rotation=0)
    return figure


def model_focus(measured: pd.DataFrame) -> Figure:
    """Each model's maps over the epochs: a row an evidence, a column a measure.

    Args:
        measured: ``measure_models``, the rows of one method.
    """
    models, evidences = list(dict.fromkeys(measured["model"])), list(dict.fromkeys(measured["evidence"]))
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(evidences), len(MEASURE_LABELS), figsize=(PAGE, 1.7 * len(evidences) + 0.3), sharex=True, sharey="col",
            squeeze=False,
        )  # fmt: skip
        for axes, (evidence, measure) in zip(grid.flat, product(evidences, MEASURE_LABELS), strict=True):
            shown = measured[measured["evidence"] == evidence]
            for i, model in enumerate(models):
                curve = shown[shown["model"] == model].pivot_table(measure, "epoch", "seed")
                seed_lines(axes, curve, f"C{i}", model)
            if measure == "focus":
                axes.axhline(0, color="0.4", lw=0.8, ls=":")
            axes.set_title(f"{MEASURE_LABELS[measure]}, “{evidence}”")
        for axes in grid[-1]:
            axes.set_xlabel("epoch (0: untrained)")
        handles = [plt.Line2D([], [], color=f"C{i}") for i in range(len(models))]
        figure.legend(handles, models, frameon=False, ncols=3, loc="outside upper center")
    return figure

"""What D and C have in common, what the class changes, and the models' Ds by the measures of notebook 2."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.errors import InputError
from gradcam_gan.explaining.measures import map_change
from gradcam_gan.intervals import interval_over_networks
from gradcam_gan.run_explainer import ExplainedRun, Reading, RunExplainer
from gradcam_gan.scoring.scores import classes_to_draw, draw
from gradcam_gan.studies.epoch_heatmaps.tables import DigitFocus, measure_epoch
from gradcam_gan.studies.readings import COMPARED_METHODS, EVIDENCES, PRIMARY
from gradcam_gan.training.runs import Run

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


def explain_told(
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


def by_source(
    explainers: Sequence[RunExplainer[Run]],
    images: Tensor,
    labels: Tensor,
    epoch: int,
    name: str,
    choices: object,
    measure: Callable[[RunExplainer[Run], Tensor, Tensor], pd.DataFrame],
) -> pd.DataFrame:
    """What is measured of networks on held-out images, and on as many of their own G's; kept with the runs.

    Args:
        explainers: of conditional models.
        images: held-out ones, uint8 (N, C, H, W).
        labels: their classes (N,).
        epoch: of D and G.
        name: of what is measured.
        choices: all else that it depends on, as a text says it.
        measure: of one network, images and their classes: a table.

    Returns:
        The tables with columns ``source``, of ``SOURCES``, and ``seed``.
    """

    def find(one: RunExplainer[Run], source: str) -> pd.DataFrame:
        own = source == "generated"
        return measure(one, *(draw_with_classes(one.run, epoch, len(images)) if own else (images, labels)))

    tables = []
    for one, source in product(explainers, SOURCES):
        how = one.how(images, labels, epoch, f"{name} {choices}")
        table = one.run.kept(f"{name}-{source}", how, partial(find, one, source))
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
    explained = [explain_told(one, images, [epoch], readings, labels) for one in (discriminator, classifier)]
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
        explained = explain_told(explainer, images, [epoch], [reading], torch.full_like(labels, told))
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
            explained = explain_told(one, images, [epoch], COMPARED, labels)
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

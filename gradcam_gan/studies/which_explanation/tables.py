"""All measures of all explanations: made for one of a study's networks at a time, kept, and put together."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from gradcam_gan.data import to_bytes, to_model_range
from gradcam_gan.explaining.methods import IMAGE
from gradcam_gan.intervals import bootstrap_interval, interval_over_networks, student_interval
from gradcam_gan.run_explainer import RunExplainer, Statistics
from gradcam_gan.studies.kept_tables import KeptTables
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.which_explanation.measured import (
    CONTROLS,
    KEYS,
    completeness_table,
    explain_all,
    explain_one,
    explanations,
    noise_table,
    occlusion_tables,
    sanity_table,
)
from gradcam_gan.studies.which_explanation.planted import (
    HELD_OUT_SEED,
    PLANTED,
    TRAININGS,
    ceiling,
    falls,
    in_marker,
    plant,
    train_planted,
)
from gradcam_gan.studies.which_explanation.retrained import Sets, retrained_table
from gradcam_gan.studies.which_explanation.rule import bounds, explanation_name
from gradcam_gan.studies.which_explanation.two_sets import untrained
from gradcam_gan.training import files
from gradcam_gan.training.devices import cpu_threads, reproducible_kernels, resolve_device
from gradcam_gan.training.loop import train, training_images
from gradcam_gan.training.runs import Run

VERSION = 1  # raised whenever the same study would give other tables
# of BatchNorm: one deterministic network, to which each image is its own
STATISTICS: Statistics = "reference"
TESTED = 256  # held-out images that say whether D uses the marker, and of either kind that retrained Ds are tested on
CEILING = "ceiling"  # the row of the best map of a layer's resolution
NOT_PLANTED = "no marker in training"
# of the table of all explanations, in its order
MEASURES = {
    "energy": "energy in the marker",
    "rank_accuracy": "rank accuracy in the marker",
    "gap": "occlusion gap",
    "gap_background": "occlusion gap, background",
    "gap_blur": "occlusion gap, blur",
    "randomised": "rank correlation with other weights",
    "noise": "change with noise",
    "completeness": "completeness error",
}


@dataclass(frozen=True)
class Assessment(KeptTables):
    """What was found for one of a study's networks, or for several.

    Attributes:
        measures: a row per explanation, image and measure: ``KEYS`` and ``value``. ``network`` is the seed of the
            discriminator, ``source`` of the images ``marked``, ``real`` or ``generated``.
        curves: of ``occlusion_tables``, with ``network`` and ``epoch``.
        costs: of ``explain_all``, a row a call, with ``network``.
        falls: of ``falls``, with ``training`` (a name of ``TRAININGS``, or ``NOT_PLANTED``) and ``network``.
        retrained: of ``retrained_table``, with ``network``, whose maps it is about.
    """

    measures: pd.DataFrame
    curves: pd.DataFrame
    costs: pd.DataFrame
    falls: pd.DataFrame
    retrained: pd.DataFrame


def assessment(study: Study, seed: int) -> Assessment:
    """What is found for one of a study's networks: read where the same was found before, else found now and kept.

    Trains the network, and the discriminators with a planted marker, if that has not been done.
    """
    path = study.runs_dir / identity(study, seed)
    return Assessment.once(path, _origin(study, seed), lambda: assess(study, seed))


def assess(study: Study, seed: int) -> Assessment:
    """The same, always found anew."""
    run = train(study.config(seed), study.runs_dir)
    calibration = training_images(run.config).images[: study.calibration_images]
    explainer = RunExplainer(run, calibration, resolve_device(study.device))
    with cpu_threads(study.threads), reproducible_kernels():
        return Assessment.together([_assess_planted(study, explainer), _assess_own(study, explainer)])


# --- the planted marker


@dataclass(frozen=True)
class Setting:
    """What discriminators with a planted marker are trained and tested on.

    Attributes:
        images: real training images, uint8 (N, C, H, W).
        generated: of the generator that does not learn, uint8 (N, C, H, W).
        held_out: real images, uint8 (M, C, H, W).
        held_out_generated: uint8 (M, C, H, W).
    """

    images: Tensor
    generated: Tensor
    held_out: Tensor
    held_out_generated: Tensor


def planted_setting(study: Study, explainer: RunExplainer[Run]) -> Setting:
    """Real images of one of the study's networks, and those of its last generator."""
    images, held_out = (training_images(explainer.run.config, split).images for split in ("train", "test"))
    images, held_out = images[: study.quality.planted_train_images], held_out[:TESTED]
    made, _ = explainer.generated(study.epochs, len(images) + len(held_out))
    # as bytes, like the real ones: rounding must not tell which is which
    generated = to_bytes(made.cpu())
    return Setting(images, generated[: len(images)], held_out, generated[len(images) :])


def planted_network(
    study: Study, setting: Setting, seed: int, index: int = 0, training: str = PLANTED
) -> tuple[nn.Module, Tensor]:
    """Get or train one of them (``train_planted``), by its number and the name of its training."""
    config = study.planted_configs(seed)[index]
    return train_planted(config, setting.images, setting.generated, study.runs_dir, TRAININGS[training])


def planted_example(study: Study, explainer: RunExplainer[Run]) -> tuple[nn.Module, Tensor]:
    """What the notebook shows of them, kept with their GAN's run: there without its generator, and without a training.

    Returns:
        The first one, on the explainer's device; and a held-out image of the generator, uint8 (1, C, H, W).
    """
    seed = explainer.run.config.seed
    config, image = study.planted_configs(seed)[0], "held_out_generated"

    def find() -> dict[str, Tensor]:
        setting = planted_setting(study, explainer)
        network, _ = planted_network(study, setting, seed)
        return {**network.state_dict(), image: setting.held_out_generated[:1]}

    how = f"{VERSION} {config.name} {study.quality.planted_train_images}"
    found = explainer.run.kept_tensors("planted", how, find)
    generated = found.pop(image)
    network = untrained(config, generated.shape[1])
    network.load_state_dict(found)
    return network.to(explainer.device).eval(), generated


def _assess_planted(study: Study, explainer: RunExplainer[Run]) -> Assessment:
    seed, quality = explainer.run.config.seed, study.quality
    setting = planted_setting(study, explainer)
    marked, mask = plant(setting.held_out[: quality.planted_images], HELD_OUT_SEED)
    wanted = explanations(quality.methods, quality.layers)
    values, costs, fallen = [], [], []
    for index, config in enumerate(study.planted_configs(seed)):
        network, _ = planted_network(study, setting, seed, index)
        explained = explain_all(network, marked, wanted)
        best = {
            (layer, CEILING): ceiling(mask, *explained.maps[layer, method].shape[1:])
            for layer, method in wanted
        }
        found = in_marker(explained.maps | best, mask)
        values.append(found.assign(network=config.seed, epoch=config.epochs, source="marked"))
        costs.append(explained.costs.assign(network=config.seed))
        fallen.append(falls(network, setting.held_out).assign(training=PLANTED, network=config.seed))
    for training in (name for name in TRAININGS if name != PLANTED):
        network, _ = planted_network(study, setting, seed, training=training)
        fallen.append(falls(network, setting.held_out).assign(training=training, network=seed))
    own = explainer.explained(study.epochs, STATISTICS)
    fallen.append(falls(own, setting.held_out).assign(training=NOT_PLANTED, network=seed))
    return Assessment(
        pd.concat(values),
        pd.DataFrame(),
        pd.concat(costs),
        pd.concat(fallen),
        _retrained(study, setting, seed),
    )


def _retrained(study: Study, setting: Setting, seed: int) -> pd.DataFrame:
    """Discriminators trained without what maps of the first planted network call important."""
    quality = study.quality
    network, _ = planted_network(study, setting, seed)
    count, tested = quality.retrained_images, len(setting.held_out)
    half = count // 2
    sets = Sets(
        plant(setting.images[:count], seed)[0],
        torch.cat([setting.generated[:half], setting.images[-(count - half) :]]),
        plant(setting.held_out, HELD_OUT_SEED)[0],
        torch.cat([setting.held_out_generated[: tested // 2], setting.held_out[tested // 2 :]]),
    )
    wanted = explanations(quality.retrained_methods, [quality.retrained_layer])
    wanted += [(IMAGE, name) for name in CONTROLS]
    maps = {
        explanation: Sets(*(explain_one(network, images, explanation).cpu() for images in sets))
        for explanation in wanted
    }
    config = study.retrained_config(seed)
    return retrained_table(config, sets, maps, quality.retrained_shares, quality.retrained_seeds).assign(
        network=seed
    )


# --- the study's own discriminators


def _assess_own(study: Study, explainer: RunExplainer[Run]) -> Assessment:
    quality, config = study.quality, explainer.run.config
    held_out = training_images(config, "test").images
    reference = training_images(config).images[: study.calibration_images]
    wanted = explanations(quality.methods, quality.layers)
    values, curves, costs = [], [], []
    for epoch in quality.epochs:
        network = explainer.explained(epoch, STATISTICS)
        images = probes(explainer, held_out, epoch, quality.images)
        explained = explain_all(network, images, wanted)
        gaps, curve = occlusion_tables(network, images, explained.maps, quality.steps)
        found = [gaps, completeness_table(network, images, explained.maps)]
        values.append(_with_sources(pd.concat(found), len(images)).assign(epoch=epoch))
        curves.append(curve.assign(epoch=epoch))
        costs.append(explained.costs)
    # weights drawn again, and noise: of the last epoch, on fewer images
    some = probes(explainer, held_out, epoch, quality.repeated_images)
    maps = explain_all(network, some, wanted).maps
    found = [
        sanity_table(network, some, maps, reference, config.seed),
        noise_table(network, some, list(maps), quality.noise),
    ]
    values.append(_with_sources(pd.concat(found), len(some)).assign(epoch=epoch))
    first, second, third = (pd.concat(parts).assign(network=config.seed) for parts in (values, curves, costs))
    return Assessment(first, second, third, pd.DataFrame(), pd.DataFrame())


def probes(explainer: RunExplainer[Run], held_out: Tensor, epoch: int, count: int) -> Tensor:
    """Real images, and then as many that the generator makes after that epoch: (2 count, C, H, W) in [-1, 1]."""
    made, _ = explainer.generated(epoch, count)
    return torch.cat([to_model_range(held_out[:count]), made.cpu()])


def _with_sources(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """The images of ``probes`` by their kind."""
    return table.assign(source=np.where(table["image"] < count // 2, "real", "generated"))


# --- put together


def summary(measures: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """The table of all explanations, which ``recommendation`` reads.

    An image's values are averaged over epochs first. Intervals are over networks; of one network, over its images.

    Returns:
        A row per method and layer: ``method``, ``layer``, ``control``, each of ``MEASURES`` with its ``_low`` and
        ``_high``, and ``milliseconds`` an image, the median over calls.
    """
    rows = []
    milliseconds = costs.groupby(["method", "layer"])["milliseconds"].median()
    measures = measures[measures["method"] != CEILING]
    by_image = (
        measures.groupby([key for key in KEYS if key != "epoch"], sort=False)["value"].mean().reset_index()
    )
    for (method, layer), own in by_image.groupby(["method", "layer"], sort=False):
        row = {"method": method, "layer": layer, "control": method in CONTROLS}
        for measure in MEASURES:
            found = interval_over_networks(own[own["measure"] == measure], "value", "network")
            row |= {measure: found.estimate, f"{measure}_low": found.low, f"{measure}_high": found.high}
        row["milliseconds"] = milliseconds.get((method, layer), math.nan)
        rows.append(row)
    return pd.DataFrame(rows)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A ``summary`` to be read: a row an explanation by its name, each measure with its interval."""
    rows = [row for _, row in table.iterrows()]
    shown = {"": [explanation_name(row["method"], row["layer"]) for row in rows]}
    for measure, name in MEASURES.items():
        shown[name] = [bounds(row, measure) for row in rows]
    return pd.DataFrame(shown).set_index("")


def interval_table(measures: pd.DataFrame) -> pd.DataFrame:
    """Every measure of every explanation over images, epochs and networks.

    Returns:
        A row per ``method``, ``layer``, ``measure`` and ``unit``: ``estimate``, ``low``, ``high``, ``n``. Over
        ``images`` (bootstrap, of means over the rest), over ``epochs`` and ``networks`` (Student's, of means; NaN
        bounds of one alone). Epochs of one network are no independent draws: theirs says how steady a measure is.
    """
    rows = []
    for (method, layer, measure), own in measures.groupby(["method", "layer", "measure"], sort=False):
        units = {"images": ["source", "image"], "epochs": ["epoch"], "networks": ["network"]}
        for unit, columns in units.items():
            means = own.groupby(columns)["value"].mean().dropna()
            interval = bootstrap_interval(means) if unit == "images" else student_interval(means)
            bounds = {name: getattr(interval, name) for name in ("estimate", "low", "high", "n")}
            names = {"method": method, "layer": layer, "measure": measure, "unit": unit}
            rows.append({**names, **bounds})
    return pd.DataFrame(rows)


def ceilings(measures: pd.DataFrame) -> pd.Series:
    """Mean energy in the marker of the best map that a layer's resolution allows, by layer."""
    best = measures[(measures["method"] == CEILING) & (measures["measure"] == "energy")]
    return best.groupby("layer", sort=False)["value"].mean()


def use_of_marker(falls: pd.DataFrame) -> pd.DataFrame:
    """The proof that a discriminator uses the marker, by training.

    Returns:
        A row a ``training``: mean logits ``marked`` and ``unmarked``; ``fall`` with ``low`` and ``high`` (of
        ``interval_over_networks``), ``networks``; and ``turned``, the share of the images that are called real with
        the marker and not without.
    """
    rows = []
    for training, own in falls.groupby("training", sort=False):
        fall = interval_over_networks(own, "fall", "network")
        turned = ((own["marked"] > 0) & (own["unmarked"] <= 0)).mean()
        means = {name: own[name].mean() for name in ("marked", "unmarked")}
        bounds = {"fall": fall.estimate, "low": fall.low, "high": fall.high}
        rows.append(
            {"training": training, **means, **bounds, "turned": turned, "networks": own["network"].nunique()}
        )
    return pd.DataFrame(rows)


def _origin(study: Study, seed: int) -> dict[str, object]:
    """What decides an assessment, as JSON values."""
    return {
        "version": VERSION,
        "run": study.config(seed).name,
        "planted": [config.name for config in study.planted_configs(seed)],
        "retrained": study.retrained_config(seed).name,
        "calibration_images": study.calibration_images,
        "quality": study.quality.model_dump(mode="json"),
    }


def identity(study: Study, seed: int) -> str:
    """The name of what is found for one network, below the study's runs: readable first, then of what decides it."""
    return f"explanations/seed{seed}-{files.digest(_origin(study, seed))[:8]}"

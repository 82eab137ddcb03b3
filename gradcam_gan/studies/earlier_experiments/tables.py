"""What both experiments find for one seed: made once, kept, and put together."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.data import ImageSet, load_images
from gradcam_gan.errors import InputError
from gradcam_gan.scoring.evaluator import Evaluator
from gradcam_gan.studies.earlier_experiments import rules
from gradcam_gan.studies.earlier_experiments.added_heatmaps import VARIANTS, Setting, accuracy_table
from gradcam_gan.studies.earlier_experiments.digit_networks import DigitTraining, digit_network
from gradcam_gan.studies.earlier_experiments.regression import (
    Standard,
    agreement_table,
    error_table,
    other_weights,
    true_values,
)
from gradcam_gan.studies.kept_tables import KeptTables
from gradcam_gan.studies.study import Study
from gradcam_gan.training import files
from gradcam_gan.training.devices import cpu_threads, reproducible_kernels

SIZE = 28  # pixels a side: the digits' own
IMAGES_PER_SECOND = 2800  # that one of the networks learns from on one core with bfloat16
VERSION = 1  # raised whenever the same study would give other tables


@dataclass(frozen=True)
class Measured(KeptTables):
    """What was found for one seed, or for several; each with ``seed``.

    Attributes:
        errors: of ``error_table``.
        agreement: of ``agreement_table``.
        accuracies: of ``accuracy_table``, with ``setting`` (``few`` or ``many``) and ``training_images``.
    """

    errors: pd.DataFrame
    agreement: pd.DataFrame
    accuracies: pd.DataFrame


def measured(study: Study, seed: int) -> Measured:
    """What is found for one seed: read where it was found before, else found now, with its trainings, and kept."""
    path = study.runs_dir / identity(study, seed)
    return Measured.once(path, _origin(study, seed), lambda: measure(study, seed))


def measure(study: Study, seed: int) -> Measured:
    """The same, always found anew; its trainings are kept."""
    training, held_out = digits(study)
    with cpu_threads(study.threads), reproducible_kernels():
        network, standard, seen = regression_network(study, training, seed)
        explained = held_out.images[: study.earlier.explained_images]
        errors = error_table(network, standard, seen, held_out.images)
        agreement = agreement_table(network, other_weights(network, seen, seed), explained)
        parts = []
        for name in (rules.FEW, rules.MANY):
            setting = added_setting(study, training, held_out, name, seed)
            found = accuracy_table(setting, study.runs_dir)
            parts.append(found.assign(setting=name, training_images=len(setting.training.images)))
    accuracies = pd.concat(parts, ignore_index=True)
    return Measured(*(table.assign(seed=seed) for table in (errors, agreement, accuracies)))


def digits(study: Study) -> tuple[ImageSet, ImageSet]:
    """All training images of a study's data, and the held-out ones, in the digits' own size.

    Raises:
        InputError: the data are not to be had, have one class, or are fewer than the study asks for.
    """
    training, held_out = (load_images(study.data, SIZE, split, study.data_dir) for split in ("train", "test"))
    for name in ("regression_images", "few_images", "many_images"):
        if (asked := getattr(study.earlier, name)) > len(training.images):
            raise InputError(
                f"earlier.{name}={asked}, but {study.data} has {len(training.images)} training images"
            )
    if len(training.class_names) < 2:
        raise InputError(
            f"{study.data} has one class, {training.class_names[0]!r}: there is nothing to classify"
        )
    return training, held_out


def regression_network(study: Study, training: ImageSet, seed: int) -> tuple[Evaluator, Standard, Tensor]:
    """Get or train one regression network: it, the scale of its targets, and the images that it learned from."""
    images = drawn(training, study.earlier.regression_images, seed).images
    values = true_values(images)
    standard = Standard.of(values)
    how = _how(study, seed, study.earlier.regression_epochs)
    return digit_network(how, images, standard.standardised(values), study.runs_dir), standard, images


def added_setting(study: Study, training: ImageSet, held_out: ImageSet, name: str, seed: int) -> Setting:
    """Whom the classifiers of one seed learn from, with ``few`` or ``many`` training images."""
    few, earlier = name == rules.FEW, study.earlier
    count, epochs = (
        (earlier.few_images, earlier.few_epochs) if few else (earlier.many_images, earlier.many_epochs)
    )
    return Setting(drawn(training, count, seed), held_out, _how(study, seed, epochs), earlier.weight)


def drawn(images: ImageSet, count: int, seed: int) -> ImageSet:
    """So many of the images, a random subset of each seed's own."""
    chosen = torch.randperm(len(images.images), generator=torch.Generator().manual_seed(seed))[:count]
    return images._replace(images=images.images[chosen], labels=images.labels[chosen])


def _how(study: Study, seed: int, epochs: int) -> DigitTraining:
    return DigitTraining(seed, epochs, study.precision, study.device, study.threads)


def _origin(study: Study, seed: int) -> dict[str, object]:
    """What decides the tables of a seed, as JSON values."""
    return {
        "version": VERSION,
        "seed": seed,
        "data": study.data,
        "precision": study.precision,
        "earlier": study.earlier.model_dump(mode="json", exclude={"seeds"}),
    }


def identity(study: Study, seed: int) -> str:
    """The name of what is found for one seed, below the study's runs: readable first, then of what decides it."""
    return f"earlier_experiments/seed{seed}-{files.digest(_origin(study, seed))[:8]}"


def seconds_of_seed(study: Study) -> float:
    """What is found for one seed takes so long on one core, to a factor of about two."""
    earlier = study.earlier
    classified = earlier.few_images * earlier.few_epochs + earlier.many_images * earlier.many_epochs
    regressed = earlier.regression_images * earlier.regression_epochs
    return (regressed + len(VARIANTS) * classified) / IMAGES_PER_SECOND

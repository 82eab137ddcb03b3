"""The pruning experiment (claim C6): every arm trained anew on what it keeps, and compared with its baseline.

Compared in two ways. At matched iterations an arm has made as many steps as its baseline, so it has seen its fewer
images more often. At matched epochs it has passed over its images as often, with fewer steps.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from torch import Tensor

from gradcam_gan.data import ImageSet
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.measures import digit_mask
from gradcam_gan.intervals import paired_difference_interval
from gradcam_gan.scoring.scores import Reference, evaluate_run
from gradcam_gan.studies.arms import Arm
from gradcam_gan.studies.pruning import Selection, selection
from gradcam_gan.studies.study import Study
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import Run

METRICS = (
    "fid",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "class_entropy",
    "nearest_training_ratio",
)
MATCHINGS = ("iterations", "epochs")
BASELINE = "baseline"


def idle_reason(chosen: Selection, batch_size: int) -> str:
    """Why an arm is not trained; empty where it is.

    One that deletes nothing would train to its baseline, bit for bit; one that leaves less than a batch cannot be
    trained.
    """
    if not chosen.deleted:
        return "deletes nothing"
    return "leaves less than a batch" if chosen.keep.sum() < batch_size else ""


def matched_epoch(epochs: int, chosen: Selection) -> int:
    """The checkpoint at which an arm has passed over its images ``epochs`` times.

    A checkpoint comes after as many iterations as an epoch of the baseline has.
    """
    return max(1, round(epochs * chosen.keep.mean()))


def evaluate_arm(arm: Arm, runs_dir: Path, reference: Reference, count: int) -> pd.DataFrame:
    """Get or train one arm, and score its generator at both matchings.

    Args:
        arm: which.
        runs_dir: of the arm and its baseline.
        reference: from ``reference_for``.
        count: images of each generator.

    Returns:
        Two rows, ``matching`` being ``iterations`` and ``epochs``: ``arm`` (with its share), ``kind`` (without),
        ``seed``, ``deleted`` (share of the training images), ``idle`` (why it was not trained, or empty), ``epoch``
        (whose generator) and the scores of ``evaluate``.

    Raises:
        InputError, RunError: as ``train`` and ``evaluate``.
    """
    chosen, config = selection(arm, runs_dir), arm.training
    idle = idle_reason(chosen, config.batch_size)
    keys = {"seed": arm.seed, "deleted": 1 - chosen.keep.mean(), "idle": idle}
    if idle:
        table = pd.DataFrame([{**keys, "matching": matching} for matching in MATCHINGS])
    else:
        epochs = dict(zip(MATCHINGS, (config.epochs, matched_epoch(config.epochs, chosen)), strict=True))
        run = train(config, runs_dir, chosen.keep)
        table = _scored(run, epochs, reference, count).assign(**keys)
    return table.assign(arm=arm.label, kind=arm.pruning.arm)


def evaluate_baseline(run: Run, epoch: int, reference: Reference, count: int) -> pd.DataFrame:
    """The same rows for a baseline, whose matchings coincide: its generator after ``epoch`` epochs."""
    table = _scored(run, dict.fromkeys(MATCHINGS, epoch), reference, count)
    return table.assign(arm=BASELINE, kind=BASELINE, seed=run.config.seed, deleted=0.0, idle="")


def _scored(run: Run, epochs: Mapping[str, int], reference: Reference, count: int) -> pd.DataFrame:
    """A row per matching: its epoch, and the scores of the generator there."""
    scores = evaluate_run(run, reference, epochs=sorted(set(epochs.values())), count=count)
    return pd.DataFrame({"matching": epochs.keys(), "epoch": epochs.values()}).merge(scores, on="epoch")


def differences(results: pd.DataFrame, metrics: Iterable[str] = METRICS, to: str = BASELINE) -> pd.DataFrame:
    """Each arm minus another, paired by seed.

    Args:
        results: rows of ``evaluate_arm``, of all arms and seeds, the baseline's among them.
        metrics: which scores.
        to: the arm to subtract.

    Returns:
        A row per arm, matching and metric: ``kind``, ``deleted`` (mean share), ``estimate``, ``low``, ``high``
        (bootstrap over seeds, 95 %; NaN for one seed), ``n`` (pairs), ``effect`` (the estimate over the baseline's
        standard deviation from seed to seed; NaN where that is undefined).
    """
    rows = []
    scored = results[results["idle"] == ""]
    for matching, group in scored.groupby("matching", sort=False):
        others = group[group["arm"] == to].set_index("seed")
        spread = group[group["arm"] == BASELINE]
        for arm, rows_of_arm in group[group["arm"] != to].groupby("arm", sort=False):
            both = rows_of_arm.set_index("seed").join(others.add_suffix("_to"), how="inner")
            for metric in metrics if len(both) else ():
                found = paired_difference_interval(both[metric], both[f"{metric}_to"])
                deviation = spread[metric].std()
                rows.append(
                    {
                        "arm": arm,
                        "kind": both["kind"].iloc[0],
                        "matching": matching,
                        "metric": metric,
                        "deleted": both["deleted"].mean(),
                        "estimate": found.estimate,
                        "low": found.low,
                        "high": found.high,
                        "n": found.n,
                        "effect": found.estimate / deviation if deviation > 0 else math.nan,
                    }
                )
    columns = ["arm", "kind", "matching", "metric", "deleted", "estimate", "low", "high", "n", "effect"]
    return pd.DataFrame(rows, columns=columns)


def run_experiment(study: Study, reference: Reference) -> pd.DataFrame:
    """Get or train every arm of a study, and score it and its baselines.

    Args:
        study: a profile.
        reference: from ``reference_for``.

    Returns:
        Rows of ``evaluate_baseline`` and ``evaluate_arm``.
    """
    count, runs_dir = study.generated_images, study.runs_dir
    baselines = [train(study.config(seed), runs_dir) for seed in study.pruning_seeds]
    rows = [evaluate_baseline(run, study.pruning_epochs, reference, count) for run in baselines]
    rows += [evaluate_arm(arm, runs_dir, reference, count) for arm in study.arms()]
    first = ["arm", "kind", "seed", "deleted", "idle", "matching", "epoch"]
    table = pd.concat(rows, ignore_index=True)
    return table[[*first, *(name for name in table if name not in first)]]


def shown_arm(study: Study, images: Tensor, count: int) -> tuple[Arm, tuple[Tensor, Tensor]]:
    """An arm for a contact sheet, and the first images in order that it deletes and keeps.

    Args:
        study: a profile.
        images: its training images (N, C, H, W).
        count: the most of each.

    Returns:
        The first arm that deletes some images and keeps some, and two tensors of equal length, an even number.

    Raises:
        InputError: there is no such arm.
    """
    for arm in study.arms():
        keep = selection(arm, study.runs_dir).keep
        fewer = min(count, keep.sum(), (~keep).sum()) // 2 * 2
        if fewer:
            return arm, (images[~keep][:fewer], images[keep][:fewer])
    raise InputError("no arm deletes some images and keeps some; set pruning_doses, such as [0.2]")


def deleted_by_class(study: Study, images: ImageSet) -> pd.DataFrame:
    """Which classes go: a row per class, a column per arm, the share of its images that are deleted (mean over seeds).

    Args:
        study: a profile.
        images: its training images.
    """
    shares: dict[str, list[pd.Series]] = {}
    for arm in study.arms():
        deleted = pd.Series(~selection(arm, study.runs_dir).keep)
        shares.setdefault(arm.label, []).append(deleted.groupby(images.labels.numpy()).mean())
    table = pd.DataFrame({label: pd.concat(parts, axis=1).mean(axis=1) for label, parts in shares.items()})
    return table.set_axis([images.class_names[label] for label in table.index])


def describe_ink(study: Study, images: Tensor) -> str:
    """Do thin digits go, or thick ones? In words, by network.

    Args:
        study: a profile.
        images: its training images (N, C, H, W).
    """
    ink = digit_mask(images).float().mean((1, 2)).cpu().numpy()
    arms = {arm.seed: arm for arm in study.arms()}  # the arms of a seed share their coverage
    found = []
    for seed, arm in arms.items():
        covered = selection(arm, study.runs_dir).coverage
        constant = np.ptp(covered) == 0 or np.ptp(ink) == 0
        rho = math.nan if constant else stats.spearmanr(covered, ink).statistic
        found.append(f"{rho:.2f} (seed {seed})")
    return (
        "Rank correlation of an image's coverage with its ink, the digit's share of the image: "
        f"{', '.join(found)}. Below 0 the thin digits go first, above 0 the thick ones."
    )


def describe_idle(results: pd.DataFrame) -> str:
    """Which arms were not trained and why, in words."""
    idle = results[(results["idle"] != "") & (results["matching"] == MATCHINGS[0])]
    if idle.empty:
        return "Every arm deletes some images and keeps enough to train on."
    sentences = []
    for (arm, reason), rows in idle.groupby(["arm", "idle"], sort=False):
        seeds = ", ".join(map(str, rows["seed"]))
        sentences.append(f"{arm} {reason} (seed{'s' if len(rows) > 1 else ''} {seeds})")
    return "Not trained: " + "; ".join(sentences) + "."

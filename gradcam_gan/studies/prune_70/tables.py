"""Which images would go, every arm trained anew on what it keeps, and one arm minus another, paired by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.explaining.cam import evidence_maps
from gradcam_gan.intervals import paired_values
from gradcam_gan.run_explainer import STATISTICS, Reading, RunExplainer
from gradcam_gan.scoring.scores import WITHOUT_VEIL, Reference, evaluate_with_and_without_veil
from gradcam_gan.studies.claims import LAST_CHECKPOINTS, columns_of, paired
from gradcam_gan.studies.epoch_heatmaps.tables import AROUND
from gradcam_gan.studies.prune_70.arms import Arm
from gradcam_gan.studies.prune_70.selection import Selection, coverage, largest, selection
from gradcam_gan.studies.readings import COMPARED_LAYERS, COMPARED_METHODS, EVIDENCES
from gradcam_gan.studies.study import Study
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import Run, load_run

BASELINE = "baseline"
METRICS = (
    "log_fid", "kid", "precision", "recall", "density", "prdc_coverage", "class_entropy", "nearest_training_ratio",
    f"log_fid{WITHOUT_VEIL}",
)  # fmt: skip
TOP = 0.2  # share of the images that claim C6 is judged on, whatever the rule deletes
WORTHWHILE = (0.01, 0.5)  # share of the images: less changes nothing, more leaves too few


def rule_grid(
    explainer: RunExplainer[Run], images: Tensor, epoch: int, taus: Sequence[float], cuts: Sequence[float]
) -> pd.DataFrame:
    """How many images the rule deletes under every answer to what the paper leaves open; kept with the run.

    Images are training images, uint8 (N, C, H, W), explained at one epoch of one network.

    Returns:
        A row per reading (the columns of ``Reading``), ``tau`` and ``cut``: ``deleted``, the share of images, 0..1;
        with ``seed`` and ``epoch``.
    """
    how = explainer.how(images, None, epoch, *taus, *cuts, COMPARED_METHODS, COMPARED_LAYERS)
    grid = explainer.run.kept("rule-grid", how, partial(_rule_grid, explainer, images, epoch, taus, cuts))
    return grid.assign(seed=explainer.run.config.seed, epoch=epoch)


def _rule_grid(
    explainer: RunExplainer[Run], images: Tensor, epoch: int, taus: Sequence[float], cuts: Sequence[float]
) -> pd.DataFrame:
    rows = []
    for statistics in STATISTICS:
        signed, _ = explainer.signed(images, epoch, statistics, COMPARED_METHODS, COMPARED_LAYERS)
        for layer, method, evidence in product(COMPARED_LAYERS, COMPARED_METHODS, EVIDENCES):
            maps = evidence_maps(signed[layer, method].cpu(), evidence)
            keys = asdict(Reading(method, statistics, evidence, layer))
            for tau, cut in product(taus, cuts):
                deleted = float((coverage(maps, tau) >= cut).double().mean())
                rows.append({**keys, "tau": tau, "cut": cut, "deleted": deleted})
    return pd.DataFrame(rows)


def shown_deletion(covered: np.ndarray, cut: float) -> tuple[np.ndarray, str]:
    """What a contact sheet shows as deleted, bool (N,), and in words: by the rule, if 1 % or more go and stay."""
    by_rule, top = covered >= cut, f"the {TOP:.0%} of highest coverage"
    if WORTHWHILE[0] <= by_rule.mean() <= 1 - WORTHWHILE[0]:
        return by_rule, f"the rule deletes {by_rule.mean():.1%} of the images"
    count = "all" if by_rule.all() else f"{by_rule.sum()} of {len(by_rule)}"
    shown = largest(covered, round(TOP * len(covered)))
    return shown, f"the rule deletes {count} images, so {top} are shown as deleted"


def contact_sheet(gone: np.ndarray, images: Tensor, count: int) -> Tensor:
    """What goes and what stays: the first images in order, two rows of either kind.

    Args:
        gone: bool (N,), which are deleted.
        images: uint8 (N, C, H, W).
        count: the most images of either kind, an even number; fewer leave white places.

    Returns:
        Four rows (4, count / 2, C, H, W).
    """
    first = [images[torch.from_numpy(chosen)][:count] for chosen in (gone, ~gone)]
    padded = [torch.cat([some, some.new_full((count - len(some), *some.shape[1:]), 255)]) for some in first]
    return torch.cat(padded).unflatten(0, (4, -1))


def looks_around(selections: Mapping[int, Selection], cut: float) -> pd.DataFrame:
    """Does D look around the digits that go (claim C5's measure, a lift below 0.5) more often than around the others?

    Args:
        selections: one a network, by seed.
        cut: of the rule.

    Returns:
        A row per network and ``way`` of deleting (the rule, or the top 20 % by coverage): ``seed``, ``deleted`` (share
        of the images), ``around_deleted``, ``around_kept`` (share of those; NaN where there are none), ``difference``.
    """
    rows = []
    for seed, chosen in selections.items():
        ways = {
            "rule": chosen.coverage >= cut,
            "top 20 %": largest(chosen.coverage, round(TOP * len(chosen.coverage))),
        }
        around = chosen.lift < AROUND
        for way, gone in ways.items():
            of_gone, of_kept = (around[part].mean() if part.any() else math.nan for part in (gone, ~gone))
            shares = {"around_deleted": of_gone, "around_kept": of_kept, "difference": of_gone - of_kept}
            rows.append({"seed": seed, "way": way, "deleted": gone.mean(), **shares})
    return pd.DataFrame(rows)


def evaluate_arm(arm: Arm, runs_dir: Path, reference: Reference, count: int) -> pd.DataFrame:
    """Get or train one arm, and score ``count`` images of each of its last generators.

    Kept with the run of the network that scores the images. An arm that deletes nothing is its baseline, bit for bit.
    One that leaves less than a batch cannot be trained.

    Returns:
        One row: ``arm``, ``seed``, ``deleted`` and ``by_rule`` (shares of the training images that the arm and the rule
        delete), its ``run`` by name, and means over the last three checkpoints: ``METRICS``; neither where it cannot be
        trained.

    Raises:
        InputError, RunError: as ``train`` and ``evaluate_run``.
    """
    chosen, scorer = selection(arm, runs_dir), load_run(runs_dir / arm.scorer.name)

    def score() -> pd.DataFrame:
        by_rule = float((chosen.coverage >= arm.pruning.cut).mean())
        row = {"arm": arm.label, "seed": arm.seed, "deleted": 1 - chosen.keep.mean(), "by_rule": by_rule}
        if chosen.keep.sum() < arm.training.batch_size:
            return pd.DataFrame([row])
        run = train(arm.training, runs_dir, None if chosen.keep.all() else chosen.keep)
        return pd.DataFrame([{**row, "run": run.path.name} | last_scores(run, reference, count)])

    return scorer.kept(arm.name, f"{reference.digest} {count}", score)


def last_scores(run: Run, reference: Reference, count: int) -> dict[str, float]:
    """``METRICS`` of a run's generators, each the mean over its last three checkpoints."""
    trained = [epoch for epoch in run.epochs if epoch > 0]
    scores = evaluate_with_and_without_veil(run, reference, epochs=trained[-LAST_CHECKPOINTS:], count=count)
    for suffix in ("", WITHOUT_VEIL):
        scores[f"log_fid{suffix}"] = np.log(scores[f"fid{suffix}"])
    return {metric: float(scores[metric].mean()) for metric in METRICS}


def run_experiment(study: Study, reference: Reference) -> pd.DataFrame:
    """Get or train every arm of a study, and score it and its baselines.

    Returns:
        Rows as of ``evaluate_arm``, first the ``baseline`` of each seed, which has no ``by_rule``.
    """
    count, rows = study.generated_images, []
    for seed in study.pairs.seeds:
        run = train(study.pair_config(seed), study.runs_dir)
        scores = last_scores(run, reference, count)
        own = {"arm": BASELINE, "seed": seed, "deleted": 0.0, "run": run.path.name}
        rows.append(pd.DataFrame([own | scores]))
    rows += [evaluate_arm(arm, study.runs_dir, reference, count) for arm in study.arms()]
    return pd.concat(rows, ignore_index=True)


def compared_arms(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """Each arm of ``run_experiment`` with its baseline, and with deleting as many at random."""
    names = [arm for arm in dict.fromkeys(scores["arm"]) if arm != BASELINE]
    at_random = {
        arm: "random" + arm.removeprefix(arm.split()[0]) for arm in names if not arm.startswith("random")
    }
    return [
        *dict.fromkeys(names, BASELINE).items(),
        *((arm, to) for arm, to in at_random.items() if to in names),
    ]


def minus(scores: pd.DataFrame, arm: str, to: str, metric: str) -> pd.Series:
    """One arm minus another in one metric, by the seeds that have both."""
    return paired_values(scores, "arm", arm, to, metric)


def differences(scores: pd.DataFrame) -> pd.DataFrame:
    """The ``compared_arms``, one minus the other, paired by seed.

    Returns:
        A row per pair and metric: ``arm``, ``to``, ``metric``, Student's interval (``columns_of``), and ``effect``, the
        estimate over the baseline's standard deviation from seed to seed.
    """
    deviations = scores[scores["arm"] == BASELINE][list(METRICS)].std()
    deviations = deviations.where(deviations > 0)
    rows = []
    for (arm, to), metric in product(compared_arms(scores), METRICS):
        found = paired(minus(scores, arm, to, metric))
        effect = found.estimate / deviations[metric]
        rows.append({"arm": arm, "to": to, "metric": metric, **columns_of(found), "effect": effect})
    return pd.DataFrame(rows)

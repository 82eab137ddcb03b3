"""Notebook 3: does it help to delete the images that the heatmap covers (claim C6)?

The paper (section 3): where 70 % or more of an image's activation map counts as important, delete the image and train
again. From which value on a map is important it does not say. Here any value above 0 is, at the layer's own resolution,
which leaves no number free; how many images would go under other answers is measured beside it (``rule_grid``).

Which images go is said by the study's own network of a seed; an arm is a short training of that seed without them
(``Study.pairs``). It makes as many iterations as its baseline, so it sees its fewer images more often.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gradcam_gan.explaining.cam import evidence_maps
from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.intervals import paired_values, sign_flip
from gradcam_gan.run_explainer import STATISTICS, Reading, RunExplainer
from gradcam_gan.scoring.scores import WITHOUT_VEIL, Reference, evaluate_with_and_without_veil
from gradcam_gan.studies import claims
from gradcam_gan.studies.arms import Arm
from gradcam_gan.studies.claims import LAST_CHECKPOINTS, PLANNED_NETWORKS, Claim, Outcome, Rule, paired
from gradcam_gan.studies.epoch_heatmaps.tables import AROUND
from gradcam_gan.studies.epoch_heatmaps.tables import select as select_rows
from gradcam_gan.studies.readings import COMPARED_LAYERS, COMPARED_METHODS, EVIDENCES
from gradcam_gan.studies.selection import Selection, coverage, largest, selection
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.style import PAGE, STYLE, intervals, legend_above, network_ticks, seed_lines
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import Run, load_run

BASELINE = "baseline"
METRICS = (
    "log_fid", "kid", "precision", "recall", "density", "prdc_coverage", "class_entropy", "nearest_training_ratio",
    f"log_fid{WITHOUT_VEIL}",
)  # fmt: skip
TOP = 0.2  # share of the images that claim C6 is judged on, whatever the rule deletes
WORTHWHILE = (0.01, 0.5)  # share of the images: less changes nothing, more leaves too few
HOLDS_FROM, FAILS_TO = 10, 2  # networks of the planned ones in which it does
TOP_20, RANDOM_20 = "dose 20 %", "random 20 %"
NO_EFFECT = 0.15  # of log FID
RULE = Rule(
    "change of log FID: without the 20 % of highest coverage, minus without 20 % at random",
    holds_above=0,
    fails_below=0,
    if_true=-0.3,  # twice what would count as no effect
    if_false=0,
    lower_is_better=True,
    equivalence=NO_EFFECT,
)


# --- which images would go


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


def grid_outcomes(grid: pd.DataFrame) -> pd.DataFrame:
    """Part (a) of C6 under every answer: a row each, with the mean share ``deleted`` over networks and ``outcome``."""
    keys = ["layer", "statistics", "method", "evidence", "tau", "cut"]
    shares = grid.groupby(keys, sort=False)["deleted"]
    return pd.DataFrame({"deleted": shares.mean(), "outcome": shares.agg(count_outcome)}).reset_index()


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


# --- every arm trained anew on what it keeps


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
        rows.append({"arm": arm, "to": to, "metric": metric, **claims.columns_of(found), "effect": effect})
    return pd.DataFrame(rows)


# --- charts


def answer_chart(scores: pd.DataFrame) -> Figure:
    """C6 in one picture: how many images the rule deletes in each network; then the arms' scores against one another.

    Ticks are single networks, bars 95 % intervals over them. Grey is what the claim asks for on the left, and what
    counts as no effect in the middle.
    """
    by_rule = scores.groupby("seed")["by_rule"].first()
    pairs = compared_arms(scores)
    compared = differences(scores)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(PAGE, 0.7 + 0.22 * max(len(by_rule), 1.5 * len(pairs))))
        panels[0].axvspan(*(100 * share for share in WORTHWHILE), color="0.9", lw=0)
        panels[0].plot(100 * by_rule, range(len(by_rule)), "o", ms=4)
        panels[0].set_yticks(range(len(by_rule)), by_rule.index)
        panels[0].set(xlim=(-4, 104), xlabel="deleted by the rule (%)", ylabel="network (seed)")
        panels[1].axvspan(-NO_EFFECT, NO_EFFECT, color="0.9", lw=0)
        for axes, metric, name in zip(panels[1:], ("log_fid", "recall"), ("log FID", "recall"), strict=True):
            axes.axvline(0, color="0.4", lw=0.8)
            rows = compared[compared["metric"] == metric]  # in the order of the pairs
            intervals(axes, rows, range(len(pairs)), fmt="o", color="C1")
            for height, pair in enumerate(pairs):
                network_ticks(axes, minus(scores, *pair, metric), height)
            axes.set_yticks(range(len(pairs)), [f"{arm}\n− {to}" for arm, to in pairs])
            axes.tick_params(labelleft=axes is panels[1])
            axes.set(xlabel=f"change of {name}", ylim=(-0.6, len(pairs) - 0.4))
        for axes in panels:
            axes.invert_yaxis()
    return figure


def deletion_by_epoch(epochs: pd.DataFrame, marked: int) -> Figure:
    """Share of probe images that the rule deletes after every epoch: a line a network, a panel a reading.

    Args:
        epochs: of ``Tables``.
        marked: the epoch at which the rule is applied.
    """
    lines = list(product(EVIDENCES, COMPARED_LAYERS))
    size = (PAGE, 0.95 * len(lines) + 0.8)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(len(lines), len(STATISTICS), figsize=size, sharex=True, sharey=True)
        for row, (evidence, layer) in zip(panels, lines, strict=True):
            row[0].set_ylabel(f"{layer}\nfor “{evidence}”")
            for axes, statistics in zip(row, STATISTICS, strict=True):
                axes.axhspan(*(100 * share for share in WORTHWHILE), color="0.92", lw=0)
                axes.axvline(marked, color="0.4", lw=0.8, ls=":")
                for i, method in enumerate(COMPARED_METHODS):
                    own = select_rows(epochs, Reading(method, statistics, evidence, layer))
                    curves = 100 * own.pivot_table("deleted", "epoch", "seed")
                    seed_lines(axes, curves, f"C{i}", f"{METHODS[method].label}, thick: mean over networks")
        for axes, statistics in zip(panels[0], STATISTICS, strict=True):
            axes.set_title(f"{statistics} statistics")
        panels[0, 0].set(ylim=(-4, 104), yticks=(0, 50, 100))
        figure.supylabel("probe images that the rule deletes (%)", size=8)
        figure.supxlabel("epoch", size=8)
        legend_above(figure, panels[0, 0], 2)
    return figure


def rule_heatmap(grid: pd.DataFrame) -> Figure:
    """Share of training images that the rule deletes, mean over networks, over all it leaves open (``rule_grid``)."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(EVIDENCES), figsize=(PAGE, 4.2), sharey=True)
        for axes, evidence in zip(panels, EVIDENCES, strict=True):
            own = grid[grid["evidence"] == evidence]
            keys = ["layer", "statistics", "method"]
            table = 100 * own.pivot_table("deleted", keys, ["tau", "cut"], sort=False)
            names = table.index.to_frame().to_numpy().tolist()
            sns.heatmap(
                table, ax=axes, cmap="cividis", vmin=0, vmax=100, annot=True, fmt=".0f", annot_kws={"size": 6},
                cbar=axes is panels[-1], cbar_kws={"label": "images deleted (%)"},
                xticklabels=[f"{tau:g}\n{100 * cut:g}" for tau, cut in table.columns.to_frame().to_numpy()],
                yticklabels=[f"{METHODS[method].at(layer)}, {kind}" for layer, kind, method in names],
            )  # fmt: skip
            axes.set(title=f"evidence for “{evidence}”", xlabel="above: τ; below: cut (%)", ylabel="")
            axes.tick_params(length=0, rotation=0)
    return figure


# --- the claim


def judge_pruning(scores: pd.DataFrame, healthy: Sequence[int]) -> Claim:
    """C6: does the rule choose images, and is the network better without those that the map covers most?

    With fewer networks than planned, part (a) of the rule is decided only where the others cannot change it, and part
    (b) is not.

    Args:
        scores: as of ``run_experiment``.
        healthy: seeds whose scoring network trained well; what they alone say stands beside.
    """
    by_rule = scores.groupby("seed")["by_rule"].first().dropna()
    changes = minus(scores, TOP_20, RANDOM_20, "log_fid")
    enough, effect = len(changes) >= PLANNED_NETWORKS, paired(changes)
    outcomes = [count_outcome(by_rule), RULE.outcome(changes) if enough else "unclear"]
    # sorted: fails, holds, unclear; either part may fail the claim, or hold alone
    verdict = claims.verdict_of(sorted(outcomes))
    interim = f"; interim: {len(changes)} of {PLANNED_NETWORKS} pairs decide nothing"
    return Claim(
        "C6",
        "where 70 % or more of an image's activation map is important, delete the image to learn better",
        f"(a) the rule deletes 1 to 50 % of the images in {HOLDS_FROM} of {PLANNED_NETWORKS} networks or more; "
        f"fails with {FAILS_TO} or fewer; (b) {RULE.quantity}, paired by seed: holds if its 95 % interval lies "
        f"below 0, fails if it lies above, or the 90 % interval within ± {NO_EFFECT:g}; both hold: reproduced, either "
        "fails: not reproduced, one of them alone holds: partly",
        verdict,
        RULE.quantity,
        effect,
        f"the rule deletes 1 to 50 % in {_worthwhile(by_rule)} of {len(by_rule)} networks{_range_of(by_rule)}; "
        f"{RULE.quantity}: {effect}{claims.decision(verdict, RULE, changes) if enough else interim}",
        p=RULE.p_value(changes),
        beside=_beside(scores, changes, healthy),
    )


def count_outcome(by_rule: pd.Series) -> Outcome:
    """Part (a): of the shares that the rule deletes, one a network; those not measured yet may come out either way."""
    count, missing = _worthwhile(by_rule), max(0, PLANNED_NETWORKS - len(by_rule))
    if count >= HOLDS_FROM:
        return "holds"
    return "fails" if count + missing <= FAILS_TO else "unclear"


def minus(scores: pd.DataFrame, arm: str, to: str, metric: str) -> pd.Series:
    """One arm minus another in one metric, by the seeds that have both."""
    return paired_values(scores, "arm", arm, to, metric)


def _worthwhile(by_rule: pd.Series) -> int:
    return int(by_rule.between(*WORTHWHILE).sum())


def _range_of(shares: pd.Series) -> str:
    """Such as ``: 2 % to 28 %``; nothing of none."""
    return "" if shares.empty else f": {100 * shares.min():.3g} % to {100 * shares.max():.3g} %"


def _beside(scores: pd.DataFrame, changes: pd.Series, healthy: Sequence[int]) -> dict[str, object]:
    """What stands beside C6 and does not change it."""
    others = {
        "healthy scoring networks alone": changes[changes.index.isin(healthy)],
        "change of recall": minus(scores, TOP_20, RANDOM_20, "recall"),
        "change of log FID without the veil": minus(scores, TOP_20, RANDOM_20, f"log_fid{WITHOUT_VEIL}"),
    }
    for arm, to in ((TOP_20, BASELINE), ("rule70", BASELINE), ("rule70", "random")):
        others[f"change of log FID, {arm} minus {to}"] = minus(scores, arm, to, "log_fid")
    beside: dict[str, object] = {name: paired(values) for name, values in others.items() if len(values)}
    if len(changes) < 2:
        return beside
    deviation = scores.loc[scores["arm"] == BASELINE, "log_fid"].std()
    return beside | {
        "sign-flip p": f"{sign_flip(changes):.3g}",
        "in units of the baseline's deviation from seed to seed": f"{changes.mean() / deviation:.2g}",
        f"power of (b) with {PLANNED_NETWORKS} networks": RULE.power_in_words(changes, PLANNED_NETWORKS),
    }

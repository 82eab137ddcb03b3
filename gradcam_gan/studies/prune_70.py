"""Notebook 3: does it help to delete the images that the heatmap covers (claim C6)?

The paper (section 3): where 70 % or more of an image's activation map counts as important, delete the image and train
again. It does not say from what value on a map is important, nor on which scale: so how many images go is
measured over a grid of the answers (``rule_grid``), before anything is trained.

Each arm deletes the training images with the largest of its own scores (``select``), is trained anew on the others,
and compared with its baseline in two ways. At matched iterations it has made as many steps, so it has seen its
fewer images more often. At matched epochs it has passed over its images as often, with fewer steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from gradcam_gan.data import ImageSet
from gradcam_gan.errors import InputError, RunError
from gradcam_gan.explaining.cam import Evidence, evidence_maps
from gradcam_gan.explaining.measures import Normalisation, coverage
from gradcam_gan.intervals import paired_differences, sign_flip, student_interval
from gradcam_gan.run_explainer import STATISTICS, Reading, RunExplainer
from gradcam_gan.scoring.evaluator import Evaluator, evaluator_for
from gradcam_gan.scoring.scores import SCORES, Reference, evaluate_run
from gradcam_gan.studies.arms import Arm, Pruning
from gradcam_gan.studies.claims import PLANNED_NETWORKS, Claim, Outcome, Rule, decision, verdict_of
from gradcam_gan.studies.epoch_heatmaps.rules import clearness
from gradcam_gan.studies.readings import COMPARED_METHODS, EVIDENCES
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.style import PAGE, STYLE, intervals, legend_above, network_ticks
from gradcam_gan.training import files
from gradcam_gan.training.devices import cpu_threads, reproducible_kernels, resolve_device
from gradcam_gan.training.loop import train, training_images
from gradcam_gan.training.runs import Run

METRICS = (
    "fid",
    "kid",
    "precision",
    "recall",
    "density",
    "prdc_coverage",
    "class_entropy",
    "nearest_training_ratio",
)
MATCHINGS = ("iterations", "epochs")
BASELINE = "baseline"
CHUNK = 2048  # images whose maps are enlarged at a time
SHRINKAGE = 0.01  # of a class's covariance towards the identity: few images span too few directions


# --- which images go


@dataclass(frozen=True)
class Selection:
    """What an arm keeps, and what the rule saw.

    Attributes:
        keep: bool (N,), True for the training images that stay.
        coverage: (N,) in 0..1, the share of each image's map that is important.
        epoch: whose discriminator scored them.
    """

    keep: np.ndarray
    coverage: np.ndarray
    epoch: int

    def save(self, path: Path) -> None:
        """Write it as safetensors, whole or not at all."""
        tensors = {
            "keep": torch.from_numpy(self.keep),
            "coverage": torch.from_numpy(self.coverage),
            "epoch": torch.tensor(self.epoch),
        }
        files.write_bytes(path, files.tensor_bytes(tensors))

    @classmethod
    def load(cls, path: Path) -> "Selection":
        """Read it back.

        Raises:
            RunError: the file is damaged.
        """
        tensors = files.read_tensors(path)
        if not tensors.keys() >= {"keep", "coverage", "epoch"}:
            raise RunError(f"{path} holds no selection; delete it to make it again")
        return cls(tensors["keep"].numpy(), tensors["coverage"].numpy(), int(tensors["epoch"]))


Selections = Mapping[tuple[str, int], Selection]  # by an arm's label and its seed


def selection(arm: Arm, runs_dir: Path | str) -> Selection:
    """Which training images an arm keeps: read, or chosen now and kept under ``runs_dir/selections``.

    Trains the baseline if it is not there.

    Raises:
        InputError: as ``train``.
        RunError: as ``train``; a stored selection is damaged.
    """
    path = Path(runs_dir) / "selections" / f"{arm.name}.safetensors"
    if not path.is_file():
        images, held_out = training_images(arm.baseline), training_images(arm.baseline, "test").images
        run = train(arm.baseline, runs_dir)
        device = resolve_device(arm.training.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        with cpu_threads(arm.training.threads), reproducible_kernels():
            explainer = RunExplainer(run, images.images[: arm.pruning.calibration_images], device)
            evaluator = evaluator_for(arm.baseline.data, images, Path(runs_dir) / "evaluators", device)
            select(arm.pruning, explainer, images, held_out, evaluator).save(path)
    return Selection.load(path)


def select(
    pruning: Pruning, explainer: RunExplainer, images: ImageSet, held_out: Tensor, evaluator: Evaluator
) -> Selection:
    """Score all training images and choose which stay.

    The explainer is of the baseline, whose seed is also that of the ``random`` arm; ``held_out`` images, uint8
    (M, C, H, W), are for ``scoring_epoch``, the evaluator for ``instance-selection``.
    """
    epoch = scoring_epoch(pruning, explainer, held_out)
    covered = coverage_scores(pruning, explainer, images.images, epoch)
    match pruning.arm:
        case "rule70" | "dose":
            scores = covered
        case "inverse":
            scores = -covered
        case "random":
            scores = np.random.default_rng(explainer.run.config.seed).random(len(covered))
        case "instance-selection":
            scores = rarity(images, evaluator)
        case "self-diagnosing":
            scores = -diagnosis(pruning, explainer, images.images)
    return Selection(kept(pruning, covered, scores), covered, epoch)


def kept(pruning: Pruning, covered: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which images stay, bool (N,).

    The rule deletes every image whose coverage (``coverage_scores``) is at least the cut. Every other arm deletes as
    many, or its share: those with the largest scores (N,) of its own, of equal ones the first in order.
    """
    by_rule = covered >= pruning.cut
    if pruning.arm == "rule70":
        return ~by_rule
    count = int(by_rule.sum()) if pruning.share is None else round(pruning.share * len(covered))
    keep = np.ones(len(covered), dtype=bool)
    keep[np.argsort(-scores, kind="stable")[:count]] = False
    return keep


def scoring_epoch(pruning: Pruning, explainer: RunExplainer, held_out: Tensor) -> int:
    """The epoch whose discriminator scores the images: the one named, or the clearest of the baseline's.

    That has the largest mean focus lift of this one network (claim C2), over the first ``probe_images`` of
    ``held_out``, uint8 (M, C, H, W).
    """
    if pruning.epoch != "clearest":
        return pruning.epoch
    explained = explainer.explain(
        held_out[: pruning.probe_images],
        [epoch for epoch in explainer.run.epochs if epoch > 0],
        statistics=[pruning.statistics],
        methods=[pruning.method],
    )
    reading = Reading(pruning.method, pruning.statistics, pruning.evidence)
    lift = clearness(explained.measures([reading]), "seed").iloc[0]
    return int(lift.index[int(lift.argmax())])


def coverage_scores(pruning: Pruning, explainer: RunExplainer, images: Tensor, epoch: int) -> np.ndarray:
    """Share of each image's map that is important, (N,) in 0..1, at one epoch of the baseline.

    Images are the training images, uint8 (N, C, H, W).
    """
    explained = explainer.explain(images, [epoch], statistics=[pruning.statistics], methods=[pruning.method])
    signed = explained.signed[epoch, pruning.statistics, pruning.method]
    return _coverages(signed, pruning.evidence, images.shape[2:], [(pruning.normalisation, pruning.tau)])[0]


def _coverages(
    signed: Tensor, evidence: Evidence, size: Sequence[int], choices: Sequence[tuple[Normalisation, float]]
) -> np.ndarray:
    """Coverage (K, N) of N maps at the images' size, under K choices of a normalisation and tau."""
    parts = []
    for some in signed.split(CHUNK):
        maps = evidence_maps(some, evidence, size)
        parts.append([coverage(maps, tau=tau, normalisation=scale).numpy() for scale, tau in choices])
    return np.concatenate(parts, axis=1)


def rarity(images: ImageSet, evaluator: Evaluator) -> np.ndarray:
    """How untypical each image is of its class, (N,) above 0 and up to 1: its rank within the class.

    Instance selection (DeVries et al. 2020) fits one Gaussian to the evaluator's features of each class and keeps the
    images of highest density, as many of every class.
    """
    with torch.inference_mode():
        device = next(evaluator.parameters()).device
        parts = [evaluator.features(some.to(device)).cpu() for some in images.images.split(CHUNK)]
    features, labels = torch.cat(parts).double().numpy(), images.labels.numpy()
    scores = np.empty(len(labels))
    for label in np.unique(labels):
        members = features[labels == label]
        spread = np.cov(members, rowvar=False) if len(members) > 1 else np.zeros((features.shape[1],) * 2)
        scale = np.trace(spread) / len(spread) or 1.0
        spread = (1 - SHRINKAGE) * spread + SHRINKAGE * scale * np.eye(len(spread))
        density = stats.multivariate_normal(members.mean(0), spread).logpdf(members)
        scores[labels == label] = stats.rankdata(-density) / len(members)
    return scores


def diagnosis(pruning: Pruning, explainer: RunExplainer, images: Tensor) -> np.ndarray:
    """Mean plus standard deviation of D's logit over the trained epochs, (N,): high for underrepresented images.

    Self-diagnosing GAN (Lee et al. 2021) shows images with high values more often; here those with low ones go.
    Arguments as for ``coverage_scores``.
    """
    how: Any = {"statistics": [pruning.statistics], "methods": [pruning.method]}
    by_epoch = [
        explainer.explain(images, [epoch], **how).logits[epoch, pruning.statistics]
        for epoch in explainer.run.epochs
        if epoch > 0
    ]
    logits = torch.stack(by_epoch).double()
    return (logits.mean(0) + logits.std(0, correction=0)).numpy()


def rule_grid(
    explainer: RunExplainer, images: Tensor, epoch: int, taus: Sequence[float], cuts: Sequence[float]
) -> pd.DataFrame:
    """How many images the rule deletes under every answer to what the paper leaves open.

    Images are the training images, uint8 (N, C, H, W), explained at one epoch of a baseline.

    Returns:
        A row per method, statistics, evidence, normalisation, tau and cut: ``deleted``, the share of images, 0..1; with
        ``seed`` and ``epoch``. Normalisation ``fixed`` divides every map by one number, the median of the maps' maxima.
    """
    explained, rows = explainer.explain(images, [epoch]), []
    for statistics, method, evidence in product(STATISTICS, COMPARED_METHODS, EVIDENCES):
        reading, signed = Reading(method, statistics, evidence), explained.signed[epoch, statistics, method]
        maxima = evidence_maps(signed, evidence).amax((1, 2))
        # all maps may be zero: then any number will do
        typical = float(maxima[maxima > 0].median()) if (maxima > 0).any() else 1.0
        scales: dict[str, Normalisation] = {"max": "max", "min-max": "min-max", "fixed": typical}
        shares = _coverages(signed, evidence, images.shape[2:], list(product(scales.values(), taus)))
        keys = {**asdict(reading), "seed": explainer.run.config.seed, "epoch": epoch}
        rows += [
            {**keys, "normalisation": name, "tau": tau, "cut": cut, "deleted": (covered >= cut).mean()}
            for (name, tau), covered in zip(product(scales, taus), shares, strict=True)
            for cut in cuts
        ]
    return pd.DataFrame(rows)


def contact_sheet(selections: Selections, images: Tensor, count: int) -> tuple[tuple[str, int], Tensor]:
    """What goes and what stays: the first images, in order, of the first arm that deletes some and keeps some.

    Returns:
        The arm's label and seed, and four rows (4, K, C, H, W), at most ``count`` images of either kind: two rows of
        deleted ones, two of kept.

    Raises:
        InputError: there is no such arm.
    """
    for key, chosen in selections.items():
        keep = torch.from_numpy(chosen.keep)
        fewer = min(count, int(keep.sum()), int((~keep).sum())) // 2 * 2
        if fewer:
            return key, torch.cat([images[~keep][:fewer], images[keep][:fewer]]).unflatten(0, (4, -1))
    raise InputError("no arm deletes some images and keeps some; set pruning.doses, such as [0.2]")


def deleted_by_class(selections: Selections, images: ImageSet) -> pd.DataFrame:
    """Which classes go: a row a class, a column an arm, the share of its images that are deleted (mean over seeds)."""
    deleted = pd.DataFrame({key: ~chosen.keep for key, chosen in selections.items()})
    shares = deleted.groupby(images.labels.numpy()).mean()  # columns: an arm's label, a seed
    table = pd.DataFrame({label: shares.loc[:, [label]].mean(axis=1) for label in shares.columns.unique(0)})
    return table.set_axis([images.class_names[label] for label in table.index])


# --- every arm trained anew on what it keeps


def idle_reason(chosen: Selection, batch_size: int) -> str:
    """Why an arm is not trained; empty where it is.

    One that deletes nothing would train to its baseline, bit for bit; one that leaves less than a batch cannot be
    trained.
    """
    if chosen.keep.all():
        return "deletes nothing"
    return "leaves less than a batch" if chosen.keep.sum() < batch_size else ""


def matched_epoch(epochs: int, chosen: Selection) -> int:
    """The checkpoint at which an arm has passed over its images ``epochs`` times.

    A checkpoint comes after as many iterations as an epoch of the baseline has.
    """
    return max(1, round(epochs * chosen.keep.mean()))


def evaluate_arm(arm: Arm, runs_dir: Path, reference: Reference, count: int) -> pd.DataFrame:
    """Get or train one arm, and score ``count`` images of its generator at both matchings.

    Returns:
        Two rows, ``matching`` being ``iterations`` and ``epochs``: ``arm`` (with its share), ``kind`` (without),
        ``seed``, ``deleted`` (share of the training images), ``idle`` (why it was not trained, or empty), ``epoch``
        (whose generator) and the scores of ``evaluate``.

    Raises:
        InputError, RunError: as ``train`` and ``evaluate``.
    """
    chosen, config = selection(arm, runs_dir), arm.training
    idle = idle_reason(chosen, config.batch_size)
    if idle:
        table = pd.DataFrame({"matching": MATCHINGS})
    else:
        epochs = dict(zip(MATCHINGS, (config.epochs, matched_epoch(config.epochs, chosen)), strict=True))
        table = _scored(train(config, runs_dir, chosen.keep), epochs, reference, count)
    deleted = 1 - chosen.keep.mean()
    return table.assign(arm=arm.label, kind=arm.pruning.arm, seed=arm.seed, deleted=deleted, idle=idle)


def evaluate_baseline(run: Run, epoch: int, reference: Reference, count: int) -> pd.DataFrame:
    """The same rows for a baseline, whose matchings coincide: its generator after ``epoch`` epochs."""
    table = _scored(run, dict.fromkeys(MATCHINGS, epoch), reference, count)
    return table.assign(arm=BASELINE, kind=BASELINE, seed=run.config.seed, deleted=0.0, idle="")


def _scored(run: Run, epochs: Mapping[str, int], reference: Reference, count: int) -> pd.DataFrame:
    """A row per matching: its epoch, and the scores of the generator there."""
    scores = evaluate_run(run, reference, epochs=sorted(set(epochs.values())), count=count)
    return pd.DataFrame({"matching": epochs.keys(), "epoch": epochs.values()}).merge(scores, on="epoch")


def run_experiment(study: Study, reference: Reference) -> pd.DataFrame:
    """Get or train every arm of a study, and score it and its baselines.

    Returns:
        Rows of ``evaluate_baseline`` and ``evaluate_arm``.
    """
    count, runs_dir = study.generated_images, study.runs_dir
    baselines = [train(study.config(seed), runs_dir) for seed in study.pruning.seeds]
    rows = [evaluate_baseline(run, study.pruning.epochs, reference, count) for run in baselines]
    rows += [evaluate_arm(arm, runs_dir, reference, count) for arm in study.arms()]
    first = ["arm", "kind", "seed", "deleted", "idle", "matching", "epoch"]
    return pd.concat(rows, ignore_index=True).set_index(first).reset_index()


def differences(results: pd.DataFrame, metrics: Sequence[str] = METRICS, to: str = BASELINE) -> pd.DataFrame:
    """Each arm of ``run_experiment`` minus another, paired by seed; arms that were not trained are left out.

    Returns:
        A row per matching, arm and metric: ``arm``, ``kind``, ``matching``, ``metric``, ``deleted`` (mean share),
        ``estimate``, ``low``, ``high`` and ``n`` (of ``paired_differences``), ``effect`` (the estimate over the
        baseline's standard deviation from seed to seed; NaN where that is undefined).
    """
    tables = []
    for matching, rows in results[results["idle"] == ""].groupby("matching", sort=False):
        arms = {str(arm): group for arm, group in rows.groupby("arm", sort=False) if arm != to}
        found = paired_differences(rows, "arm", dict.fromkeys(arms, to), metrics)
        baseline = rows[rows["arm"] == BASELINE]
        deviation = pd.Series({metric: baseline[metric].std() for metric in metrics})
        tables.append(
            found.assign(
                matching=matching,
                kind=found["arm"].map({arm: group["kind"].iloc[0] for arm, group in arms.items()}),
                deleted=found["arm"].map({arm: group["deleted"].mean() for arm, group in arms.items()}),
                effect=found["estimate"] / found["metric"].map(deviation.where(deviation > 0)),
            )
        )
    columns = ["arm", "kind", "matching", "metric", "deleted", "estimate", "low", "high", "n", "effect"]
    return pd.concat(tables, ignore_index=True)[columns]


# --- charts


def rule_heatmap(grid: pd.DataFrame) -> Figure:
    """Share of training images that the 70 % rule deletes, over everything that it leaves open (``rule_grid``).

    Several networks are averaged.
    """
    order = ["method", "statistics", "evidence"]
    table = grid.pivot_table("deleted", order, ["normalisation", "tau", "cut"], sort=False)
    cells = 100 * table.to_numpy()
    cuts, taus = grid["cut"].nunique(), grid["tau"].nunique()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(PAGE, 0.2 * len(table) + 1.15))
        sns.heatmap(
            cells,
            ax=axes,
            cmap="cividis",
            vmin=0,
            vmax=100,
            annot=np.where((cells > 0) & (cells < 0.5), "<1", np.char.mod("%.0f", cells)),
            fmt="",
            annot_kws={"size": 5},
            cbar_kws={"label": "images deleted (%)", "pad": 0.01},
        )
        names = [str(Reading(*choice)) for choice in table.index.to_frame().to_numpy()]
        columns = table.columns.to_frame(index=False)
        percents = [f"{100 * cut:g}" for cut in columns["cut"]]
        axes.set_yticks(np.arange(len(names)) + 0.5, names, rotation=0)
        axes.set_xticks(np.arange(cells.shape[1]) + 0.5, percents, size=5, rotation=0)
        axes.set_xlabel("cut: delete from this share of the map on (%)")
        centred: Any = {"ha": "center", "va": "bottom"}
        for start in range(0, cells.shape[1], cuts):
            normalisation, tau = columns["normalisation"].iloc[start], columns["tau"].iloc[start]
            axes.text(start + cuts / 2, -0.15, f"τ {tau:g}", size=6, **centred)
            first = start % (cuts * taus) == 0  # of a normalisation
            axes.axvline(start, color="white", lw=3 if first and start else 1)
            if first:
                middle = start + cuts * taus / 2
                axes.text(middle, -0.8, f"normalisation: {normalisation}", size=7, **centred)
        axes.tick_params(length=0)
    return figure


def class_balance(shares: pd.DataFrame) -> Figure:
    """Share of each class that an arm deletes (``deleted_by_class``)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(PAGE, 1.9))
        sns.heatmap(
            100 * shares.T, ax=axes, cmap="cividis", vmin=0, annot=True, fmt=".0f", annot_kws={"size": 6},
            cbar_kws={"label": "deleted (%)", "pad": 0.01},
        )  # fmt: skip
        axes.set(xlabel="class", ylabel="")
        axes.tick_params(length=0, rotation=0)
    return figure


def arm_chart(compared: pd.DataFrame, results: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """Each arm minus its baseline, paired by seed: a tick a network, the mean with its interval; a panel a metric.

    Args:
        compared: rows of ``differences``.
        results: rows of ``run_experiment``.
        metrics: which scores.
    """
    arms = [arm for arm in dict.fromkeys(results["arm"]) if arm != BASELINE]
    deleted = results.groupby("arm")["deleted"].mean()
    names = [arm if "%" in arm else f"{arm} ({100 * deleted[arm]:.0f} %)" for arm in arms]
    scored = results[results["idle"] == ""].set_index(["matching", "arm", "seed"])
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(
            1, len(metrics), figsize=(PAGE, 0.26 * len(arms) + 0.9), sharey=True, squeeze=False
        )
        for axes, metric in zip(all_axes[0], metrics, strict=True):
            axes.axvline(0, color="0.4", lw=0.8)
            for i, matching in enumerate(dict.fromkeys(compared["matching"])):
                place = np.arange(len(arms)) + 0.26 * (i - 0.5)
                rows = compared[(compared["metric"] == metric) & (compared["matching"] == matching)]
                style: Any = {"fmt": "os"[i], "color": f"C{i}", "mfc": "white" if i else "C0"}
                rows = rows.set_index("arm").reindex(arms)
                intervals(axes, rows, place, label=f"matched {matching}", **style)
                single = scored.loc[matching][metric]
                for arm, height in zip(arms, place, strict=True):
                    if arm in single.index:
                        network_ticks(axes, (single[arm] - single[BASELINE]).dropna(), height)
            axes.set_xlabel(f"Δ {SCORES[metric].label}")
            axes.grid(axis="x", alpha=0.3)
        all_axes[0, 0].set_yticks(range(len(arms)), names)
        all_axes[0, 0].invert_yaxis()
        legend_above(figure, all_axes[0, 0], 2)
    return figure


def dose_chart(compared: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """The scores' change against the baseline by the share of images deleted: a line or a point for each kind of arm.

    Args:
        compared: rows of ``differences`` of one matching.
        metrics: which scores, a panel each.
    """
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(1, len(metrics), figsize=(PAGE, 2.2), squeeze=False)
        for axes, metric in zip(all_axes[0], metrics, strict=True):
            axes.axhline(0, color="0.4", lw=0.8)
            by_kind = compared[compared["metric"] == metric].groupby("kind", sort=False)
            for i, (kind, group) in enumerate(by_kind):
                rows = group.sort_values("deleted")
                style: Any = {"marker": "os^DvP"[i], "lw": 1, "color": f"C{i}", "label": kind}
                intervals(axes, rows, 100 * rows["deleted"], upright=True, **style)
            axes.set(xlabel="images deleted (%)", ylabel=f"Δ {SCORES[metric].label}")
        legend_above(figure, all_axes[0, 0], 6)
    return figure


# --- the claim

WORTHWHILE = (
    0.01,
    0.5,
)  # share of the images: a rule that deletes less or more than this gives no better set
HOLDS_FROM, FAILS_TO = 10, 2  # networks of the planned ones in which it does
TOP_20, RANDOM_20 = "dose 20 %", "random 20 %"
RULE = Rule(
    "change of log FID: without the 20 % of highest coverage, minus without 20 % at random",
    holds_above=0,
    fails_below=0,
    if_true=-0.3,  # twice what would count as no effect
    if_false=0,
    lower_is_better=True,
    equivalence=0.15,
)


def judge_pruning(scores: pd.DataFrame) -> Claim:
    """C6: does the rule choose images, and is the network better without those that the map covers most?

    Part (a) counts networks in which the rule deletes 1 to 50 % of the images; with fewer measured than planned it is
    decided only where the others cannot change it. Part (b) compares two arms in log FID, paired by seed (``RULE``);
    fewer pairs than planned decide nothing. Both hold: reproduced. Either fails: not reproduced. One alone: partly.

    Args:
        scores: a row per arm and seed: ``arm``, ``seed``, ``by_rule`` (share of the images that the rule deletes), and
            means over the last three checkpoints: ``log_fid`` and ``recall``. Other arms are not asked.
    """
    by_rule = scores.groupby("seed")["by_rule"].first().dropna()
    differences = paired(scores, TOP_20, RANDOM_20, "log_fid")
    enough = len(differences) >= PLANNED_NETWORKS
    outcomes = [count_outcome(by_rule), RULE.outcome(differences) if enough else "unclear"]
    verdict = verdict_of(
        sorted(outcomes)
    )  # fails, holds, unclear: either part may fail the claim, or hold alone
    effect = student_interval(differences)
    interim = f"; interim: {len(differences)} of {PLANNED_NETWORKS} pairs decide nothing"
    return Claim(
        "C6",
        "where 70 % or more of an image's activation map is important, delete the image to learn better",
        f"(a) the rule deletes 1 to 50 % of the images in {HOLDS_FROM} of {PLANNED_NETWORKS} networks or more; "
        f"fails with {FAILS_TO} or fewer; (b) {RULE.quantity}, paired by seed: holds if its 95 % interval lies "
        f"below 0, fails if it lies above, or the 90 % interval within ± {RULE.equivalence:g}; both hold: "
        "reproduced, either fails: not reproduced, one of them alone holds: partly",
        verdict,
        RULE.quantity,
        effect,
        f"the rule deletes 1 to 50 % in {_worthwhile(by_rule)} of {len(by_rule)} networks{_range_of(by_rule)}; "
        f"{RULE.quantity}: {effect}{decision(verdict, RULE, differences) if enough else interim}",
        p=RULE.p_value(differences),
        beside=_beside(scores, differences),
    )


def count_outcome(by_rule: pd.Series) -> Outcome:
    """Part (a): of the shares that the rule deletes, one a network; those not measured yet may come out either way."""
    count, missing = _worthwhile(by_rule), max(0, PLANNED_NETWORKS - len(by_rule))
    if count >= HOLDS_FROM:
        return "holds"
    return "fails" if count + missing <= FAILS_TO else "unclear"


def paired(scores: pd.DataFrame, arm: str, to: str, metric: str) -> pd.Series:
    """One arm minus another in one metric, by the seeds that have both."""
    of = {name: scores[scores["arm"] == name].set_index("seed")[metric] for name in (arm, to)}
    return (of[arm] - of[to]).dropna()


def _worthwhile(by_rule: pd.Series) -> int:
    return int(by_rule.between(*WORTHWHILE).sum())


def _range_of(shares: pd.Series) -> str:
    """Such as ``: 2 % to 28 %``; nothing of none."""
    low, high = (f"{100 * share:.3g} %" for share in (shares.min(), shares.max()))
    return "" if shares.empty else f": {low}" if low == high else f": {low} to {high}"


def _beside(scores: pd.DataFrame, differences: pd.Series) -> dict[str, object]:
    """What stands beside C6 and does not change it."""
    beside: dict[str, object] = {
        "change of recall": student_interval(paired(scores, TOP_20, RANDOM_20, "recall"))
    }
    for arm, to in ((TOP_20, BASELINE), ("rule70", BASELINE), ("rule70", "random")):
        if len(changed := paired(scores, arm, to, "log_fid")):
            beside[f"change of log FID, {arm} minus {to}"] = student_interval(changed)
    deviation = scores.loc[scores["arm"] == BASELINE, "log_fid"].std()
    if len(differences) > 1:
        power = RULE.power(differences, PLANNED_NETWORKS)
        beside |= {
            "sign-flip p": f"{sign_flip(differences):.3g}",
            "in units of the baseline's deviation from seed to seed": f"{differences.mean() / deviation:.2g}",
            f"power of (b) with {PLANNED_NETWORKS} networks": (
                f"holds in {power['holds_if_true']:.0%} if the truth is {RULE.if_true:g}; if it is {RULE.if_false:g}, "
                f"fails in {power['fails_if_false']:.0%} and holds in {power['holds_if_false']:.0%}"
            ),
        }
    return beside

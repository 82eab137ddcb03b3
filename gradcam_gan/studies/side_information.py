"""Notebook 7: does D's explanation, fed back as side information, make a better G (P4)?

G learns more from the pixels that D's map of its image marks (``training/guidance.py``). An arm is a training of a seed
that is guided, or that has a control in the map's place; what comes before guidance starts is the same in all of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gradcam_gan.data import to_bytes, to_model_range
from gradcam_gan.explaining.cam import evidence_maps
from gradcam_gan.explaining.measures import map_change
from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.intervals import student_interval
from gradcam_gan.run_explainer import Reading, RunExplainer
from gradcam_gan.scoring.scores import SCORES, Reference
from gradcam_gan.studies.claims import Claim, Outcome, decision, verdict_of
from gradcam_gan.studies.diffusion_gans.rules import EQUAL, beside_every, log_fid_rule
from gradcam_gan.studies.diffusion_gans.tables import paired, score_models
from gradcam_gan.studies.epoch_heatmaps.tables import DigitFocus, measure_epoch
from gradcam_gan.studies.panels import Panel, beside, panel
from gradcam_gan.studies.readings import PRIMARY
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.style import PAGE, STYLE, legend_above, seed_lines
from gradcam_gan.training.guidance import LAYER
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import Run

GUIDED = "guided"
METRICS = {"log_fid": "log FID", **{name: SCORES[name].label for name in ("kid", "precision", "recall")}}
SAME_PLACE = 0.5  # correlation of two maps of an image; below it, it is looked at differently
BATCH = 64  # of generated images whose map is shown: M has the batch's own statistics


# --- the trainings and their scores


def guided_runs(study: Study) -> dict[str, list[Run]]:
    """Get or train every arm of a study, the plain ones first: what they share is trained once."""
    return {
        arm: [train(config, study.runs_dir) for config in configs]
        for arm, configs in study.guided_configs().items()
    }


def score_arms(runs: Mapping[str, Sequence[Run]], reference: Reference, count: int) -> pd.DataFrame:
    """``score_models`` with the arms' names as ``model``."""
    tables = [score_models(own, reference, count).assign(model=arm) for arm, own in runs.items()]
    return pd.concat(tables, ignore_index=True)


def against_controls(study: Study) -> list[tuple[str, str]]:
    """The guided arm of the first model with what P4 compares it to: the plain model, then every control."""
    model = study.guidance.models[0]
    controls = [f"{model} {control}" for control in study.guidance.controls]
    return [(f"{model} {GUIDED}", to) for to in (model, *controls)]


def against_plain(study: Study) -> list[tuple[str, str]]:
    """Every guided or controlled arm with its plain model."""
    return [(arm, arm.split()[0]) for arm in study.guided_configs() if " " in arm]


# --- what D looks at


def looks(
    runs: Mapping[str, Sequence[Run]], calibration: Tensor, count: int, device: torch.device
) -> pd.DataFrame:
    """Is a guided G's work looked at differently? D's maps of what each G makes at last, under the claims' reading.

    What is found of a run is kept in its folder.

    Args:
        runs: by arm (``guided_runs``).
        calibration: the first of their training images, uint8 (N, C, H, W).
        count: of generated images.
        device: where to explain.

    Returns:
        A row per arm and seed: ``model``, ``seed``; K, lift and shares of the maps of its own generated images
        (``measure_epoch``); ``different``, the share of these whose map correlates less than 0.5 with the plain D's map
        of the same image (NaN of the plain ones).
    """
    how = f"{PRIMARY} {SAME_PLACE} {len(calibration)} {count}"
    tables = []
    for arm, own in runs.items():
        for run, plain in zip(own, runs[arm.split()[0]], strict=True):
            find = partial(_looks, run, plain, calibration, count, device)
            tables.append(run.kept("looks", how, find).assign(model=arm, seed=run.config.seed))
    return pd.concat(tables, ignore_index=True).set_index(["model", "seed"]).reset_index()


def _looks(run: Run, plain: Run, calibration: Tensor, count: int, device: torch.device) -> pd.DataFrame:
    """What ``looks`` says of one run."""
    explainer = RunExplainer(run, calibration, device)
    made, labels = explainer.generated(run.config.epochs, count)
    maps = _signed(explainer, made, labels)
    focus = DigitFocus(to_bytes(made).cpu(), maps.shape[1:])
    different = math.nan
    if run is not plain:
        theirs = _signed(RunExplainer(plain, calibration, device), made, labels)
        different = float((map_change(maps, theirs) > 1 - SAME_PLACE).double().mean())
    measured = measure_epoch(evidence_maps(maps, PRIMARY.evidence), focus)
    return pd.DataFrame([{**measured, "different": different}])


def _signed(explainer: RunExplainer, images: Tensor, labels: Tensor) -> Tensor:
    """Signed maps (N, h, w) under the claims' reading, after the last epoch."""
    epoch = explainer.run.epochs[-1]
    maps, _ = explainer.signed(
        images, epoch, PRIMARY.statistics, [PRIMARY.method], [PRIMARY.layer], labels=labels
    )
    return maps[PRIMARY.layer, PRIMARY.method].cpu()


def guiding_maps(
    explainer: RunExplainer, methods: Sequence[str], evidence: str, epoch: int, columns: int
) -> Panel:
    """What G is told: M of images that it made, with the batch's statistics as in training; a row a method.

    Args:
        explainer: of a guided run.
        methods: those of ``METHODS`` that can be a source.
        evidence: of M.
        epoch: whose networks.
        columns: images shown, of a batch of 64.
    """
    made, labels = explainer.generated(epoch, BATCH)
    images = to_bytes(made).cpu()
    explained = explainer.explain(
        images, [epoch], statistics=["batch"], methods=methods, layers=[LAYER], labels=labels
    )
    readings = [Reading(method, "batch", evidence, LAYER) for method in methods]  # type: ignore[arg-type]
    maps = torch.stack([explained.maps(reading)[0] for reading in readings])[:, :columns]
    seen = to_model_range(images[:columns]).expand(len(methods), -1, -1, -1, -1)
    rows = [METHODS[reading.method].at(LAYER) for reading in readings]
    table = explained.measures(readings)
    table = table[table["image"] < columns]
    return Panel(images[:columns], maps, rows, [""] * columns, table, seen, explained.masks[:columns])


def figure_1_beside(
    runs: Sequence[Run], names: Sequence[str], calibration: Tensor, images: Tensor, captions: Sequence[str],
    epochs: Sequence[int], device: torch.device,
) -> Panel:  # fmt: skip
    """Figure 1 of several trainings of one seed, side by side.

    Args:
        runs: of unconditional models.
        names: of the trainings, for the columns.
        calibration: training images, uint8 (N, C, H, W).
        images: uint8 (K, C, H, W), the columns of each.
        captions: K.
        epochs: the rows.
        device: where to explain.
    """
    panels = []
    for run, name in zip(runs, names, strict=True):
        explained = RunExplainer(run, calibration, device).explain(
            images, epochs, statistics=[PRIMARY.statistics], methods=[PRIMARY.method], layers=[PRIMARY.layer]
        )
        one = panel(explained, [PRIMARY], [f"{caption}\n{name}" for caption in captions])
        panels.append(replace(one, table=one.table.assign(model=name)))
    return beside(*panels)


# --- charts


def progress_chart(scores: pd.DataFrame, arms: Sequence[str], start: float) -> Figure:
    """Log FID over the epochs of some arms; a thin line a network, the dotted line where guidance starts.

    Args:
        scores: of ``score_arms``.
        arms: whose, in order.
        start: an epoch.
    """
    trained = scores[scores["epoch"] > 0].assign(log_fid=lambda rows: np.log(rows["fid"]))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 2.5))
        for axes, metric in zip(panels, ("log_fid", "recall"), strict=True):
            for i, arm in enumerate(arms):
                curve = trained[trained["model"] == arm].pivot_table(metric, "epoch", "seed")
                seed_lines(axes, curve, f"C{i}", arm)
            axes.axvline(start, color="0.4", lw=0.8, ls=":")
            axes.set(xlabel="epoch", ylabel=METRICS[metric])
        legend_above(figure, panels[0], 3)
    return figure


# --- the claim


def judge_guidance(networks: pd.DataFrame, model: str, controls: Sequence[str]) -> Claim:
    """P4: is G better for being guided by D's explanation?

    Only with every control beaten can a gain be laid to what the explanation says; they change as much of the gradient.

    Args:
        networks: a row per arm and seed (``network_scores``).
        model: that is guided.
        controls: the arms that have something else in the map's place.
    """
    rule = log_fid_rule(f"guided {model}", model)
    guided = f"{model} {GUIDED}"
    differences = {
        to: paired(networks, guided, to) for to in (model, *(f"{model} {one}" for one in controls))
    }
    plain, *others = (rule.outcome(values) for values in differences.values())
    against_all: Outcome = (
        "holds" if set(others) == {"holds"} else "fails" if "fails" in others else "unclear"
    )
    verdict, effect = verdict_of([plain, against_all]), student_interval(differences[model], unit="pairs")
    beside: dict[str, object] = {
        f"log FID minus {to}'s": student_interval(values, unit="pairs")
        for to, values in differences.items()
        if to != model
    }
    beside["recall minus the plain one's"] = student_interval(
        paired(networks, guided, model, "recall"), unit="pairs"
    )
    return Claim(
        "P4",
        "D's explanation as side information improves the generator",
        f"{rule.quantity}: holds if its interval lies below 0, else fails if it lies above 0 or its 90 % interval "
        f"within ±{EQUAL}; reproduced only if the same holds against every control ({', '.join(controls)}), partly if "
        "it does not",
        verdict,
        rule.quantity,
        effect,
        f"{rule.quantity}: {effect}; FID times {math.exp(effect.estimate):.2f}"
        + decision(verdict, rule, differences[model]),
        p=max(rule.p_value(values) for values in differences.values()),
        beside=beside | beside_every(rule, networks, guided, model, differences[model]),
    )

"""What the discriminators of a study look at, as one compact table a network: all verdicts come from these alone.

Explaining a network streams: its maps of one epoch at a time, under every reading, are measured at the layer's own
resolution and dropped.
"""

import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Self, cast

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.data import to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.cam import evidence_maps
from gradcam_gan.explaining.measures import map_change, object_masks
from gradcam_gan.models.dcgan import Discriminator
from gradcam_gan.models.options import Padding
from gradcam_gan.run_explainer import Reading, RunExplainer, Statistics
from gradcam_gan.scoring.scores import evaluate_with_and_without_veil, reference_for
from gradcam_gan.studies.kept_tables import KeptTables
from gradcam_gan.studies.readings import ALL_READINGS, PRIMARY
from gradcam_gan.studies.study import Study
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.devices import cpu_threads, reproducible_kernels, resolve_device
from gradcam_gan.training.loop import train, training_images
from gradcam_gan.training.provenance import provenance
from gradcam_gan.training.runs import Run

LINEAR_AFTER = "block3"  # only a linear head follows: the map's sum is a part of the logit
AROUND = 0.5  # a lift below this is a look around the digit (C5)
IMPORTANT_SHARE = 0.7  # the paper's 70 % rule (C6)
HEALTHY_FID, HEALTHY_RECALL, HEALTHY_ROWS = 16.0, 0.2, 0.8
PADDINGS: tuple[Padding, ...] = ("zeros", "background")  # as in the paper's code, and without a frame
PARTS = {
    "epochs": "csv",
    "probes": "csv.gz",
    "scores": "csv",
}  # the tables of a network, and how they are kept


@dataclass(frozen=True)
class Tables(KeptTables):
    """What was measured of one network or of several.

    Attributes:
        epochs: a row per network, epoch and reading, with ``seed``, ``epoch``, those of ``Reading``, ``measure_epoch``.
        probes: a row per network, reading and probe image: ``area`` of the digit (0..1), f at each row of Figure 1
            (``focus_5`` and so on), and ``change`` over the rows (``largest_change``).
        scores: a row per network and epoch: G's scores (``evaluate``), ``fid`` and ``recall`` once more as
            ``*_without_veil`` (``Reference.without_veil``), D's ``accuracy_*``, and ``row``, whether the epoch is a row
            of Figure 1.
    """

    epochs: pd.DataFrame
    probes: pd.DataFrame
    scores: pd.DataFrame

    @classmethod
    def published(cls, folder: Path) -> Self:
        """Of all networks that a profile's folder of figures has."""
        names = sorted(path.stem for path in (folder / "networks").glob("*.json"))
        if not names:
            raise InputError(f"{folder / 'networks'} has no tables; make figures makes them")
        return cls.together([cls.load(folder / "networks", name) for name in names])

    @property
    def seeds(self) -> list[int]:
        """Of the networks."""
        return sorted(self.epochs["seed"].unique().tolist())

    def healthy(self) -> Self:
        """Those networks that trained well (``health``)."""
        well = health(self.scores).query("healthy")["seed"]
        return type(self)(
            *(table[table["seed"].isin(well)] for table in (self.epochs, self.probes, self.scores))
        )

    def save(self, folder: Path, name: str, origin: Mapping[str, object]) -> None:
        """Write one network's tables and where they come from, the latter last: it says that they are whole."""
        for part, suffix in PARTS.items():
            content = getattr(self, part).to_csv(index=False, float_format="%.4g").encode()
            packed = gzip.compress(content, mtime=0) if suffix.endswith("gz") else content
            files.write_bytes(folder / f"{name}.{part}.{suffix}", packed)
        files.write_json(folder / f"{name}.json", {**origin, **provenance()})

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """Read them back: as exact as they are kept, to four digits."""
        return cls(*(pd.read_csv(folder / f"{name}.{part}.{suffix}") for part, suffix in PARTS.items()))


def network_tables(study: Study, seed: int, folder: Path) -> Tables:
    """The tables of one of a study's networks: read where they were made from the same, else made now and kept.

    Trains the network, and scores its generators, if that has not been done.

    Args:
        study: which says what is measured.
        seed: whose network.
        folder: of figures; the tables are kept in ``networks`` within it.
    """
    config, kept = study.config(seed), folder / "networks"
    kept.mkdir(parents=True, exist_ok=True)
    with FileLock(kept / f".{config.name}.lock"):
        if not study.has_tables(seed, folder):
            _measured(study, config).save(kept, config.name, study.origin_of_tables(seed))
    return Tables.load(kept, config.name)


def _measured(study: Study, config: TrainingConfig) -> Tables:
    run, device = train(config, study.runs_dir), resolve_device(study.device)
    images, held_out = training_images(config).images, training_images(config, "test").images
    reference = reference_for(config, study.runs_dir, device, study.reference_images)
    scores = evaluate_with_and_without_veil(run, reference, count=study.generated_images)
    explainer = RunExplainer(run, images[: study.calibration_images], device)
    with cpu_threads(study.threads), reproducible_kernels():
        return measure_network(explainer, held_out[: study.probe_images], study.figure_epochs, scores)


def matching(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    """The rows that have these values, by column."""
    return table[np.logical_and.reduce([table[key] == value for key, value in values.items()])]


def mean_focus(probes: pd.DataFrame) -> pd.Series:
    """The mean f over the rows of Figure 1, of each row of ``Tables.probes``."""
    return probes.filter(regex=r"^focus_\d+$").mean(axis=1)


def select(table: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """The rows of one reading, of a table that has its choices as columns.

    Raises:
        InputError: the table has rows, but none of that reading.
    """
    found = matching(table, **asdict(reading))
    if found.empty and len(table):
        known = "; ".join(f"{key} {', '.join(table[key].unique())}" for key in asdict(reading))
        raise InputError(f"nothing was measured under {reading}; the tables have {known}")
    return found


def trained_well(rows: pd.DataFrame, suffix: str = "") -> pd.Series:
    """Whether G's FID is below 16 and its recall above 0.2, by row; of the scores with that suffix."""
    return (rows[f"fid{suffix}"] < HEALTHY_FID) & (rows[f"recall{suffix}"] > HEALTHY_RECALL)


def health(scores: pd.DataFrame, suffix: str = "") -> pd.DataFrame:
    """A row a network: ``seed``, ``healthy_rows`` (share of Figure 1's rows) and ``healthy``: at least 4 of 5 are.

    A row is healthy where G's FID is below 16 and its recall above 0.2: those with the suffix.
    """
    rows = scores[scores["row"]]
    shares = trained_well(rows, suffix).groupby(rows["seed"]).mean().rename("healthy_rows").reset_index()
    return shares.assign(healthy=shares["healthy_rows"] >= HEALTHY_ROWS)


class DigitFocus:
    """Where maps put their weight, read off at a layer's own resolution: what measuring the enlarged maps would give.

    Enlarging is linear, so the weight that an enlarged map puts on a digit is a weighted sum of the map itself, whose
    weights are the digit's mask taken back through the enlargement.

    Args:
        images: uint8 (N, C, H, W).
        size: of the maps, (h, w).
        masks: bool (N, H, W), where the object is not the bright part of its image.
    """

    def __init__(self, images: Tensor, size: Sequence[int], masks: Tensor | None = None) -> None:
        mask = object_masks(images, masks).float()
        self.area = mask.mean((1, 2)).double()
        self._digit, self._all = (_taken_back(one, size) for one in (mask, torch.ones_like(mask)))

    def share(self, maps: Tensor) -> Tensor:
        """Share of each map's weight on the digit, (N,) in 0..1, of maps (N, h, w) >= 0; NaN where all zero."""
        weight = (maps.double() * self._all).sum((1, 2))
        return (maps.double() * self._digit).sum((1, 2)) / torch.where(weight > 0, weight, math.nan)

    def above_chance(self, maps: Tensor) -> Tensor:
        """F = (focus - area) / (1 - area), (N,): 1 all on the digit, 0 chance, also for an all-zero map."""
        return ((self.share(maps) - self.area) / (1 - self.area)).nan_to_num(0.0)


def _taken_back(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (N, H, W) -> weights (N, h, w): <enlarged map, mask> = <map, weights> for every map of that size."""
    maps = torch.zeros(len(masks), 1, *size, requires_grad=True)
    enlarged = F.interpolate(maps, masks.shape[1:], mode="bilinear", align_corners=False)
    (weights,) = torch.autograd.grad(enlarged, maps, masks[:, None])
    return weights[:, 0].double()


def largest_change(maps: Tensor) -> Tensor:
    """How far an image's maps ever differ: 1 - the smallest correlation of any two of them, (E, N, h, w) -> (N,).

    0 the same pattern throughout, 1 unrelated, 2 reversed. Where a map is constant (all zero) there is no correlation:
    two constant maps are the same picture (0), one of them is another picture (1); NaN where all are zero, which shows
    no feature that could stay.
    """
    constant = maps.amax((2, 3)) == maps.amin((2, 3))
    pairs = []
    for one, other in combinations(range(len(maps)), 2):
        change = map_change(maps[one], maps[other])
        pairs.append(torch.where(change.isnan(), 1 - (constant[one] & constant[other]).to(change), change))
    changes = torch.stack(pairs).amax(0)
    changes[~maps.flatten(2).any(2).any(0)] = math.nan
    return changes


def separation(real: Tensor, generated: Tensor) -> float:
    """AUC: the chance that a real image's number exceeds a generated one's, ties half; 0.5 tells nothing apart.

    NaN without images of either kind.
    """
    count = len(real) * len(generated)
    if not count:
        return math.nan
    return float(stats.mannwhitneyu(real.numpy(), generated.numpy()).statistic) / count


def measure_network(
    explainer: RunExplainer,
    probes: Tensor,
    rows: Sequence[int],
    scores: pd.DataFrame | None = None,
    epochs: Sequence[int] | None = None,
    *,
    readings: Sequence[Reading] = ALL_READINGS,
    masks: Tensor | None = None,
) -> Tables:
    """One network under several readings and after every epoch, streamed.

    Args:
        explainer: of its run, or of your own checkpoints.
        probes: uint8 (N, C, H, W), held-out images.
        rows: the epochs of Figure 1, two or more of those measured.
        scores: of its generators (``evaluate_run``): columns ``epoch``, ``fid`` and any more; None: not known.
        epochs: which; None: all that are saved.
        readings: which.
        masks: bool (N, H, W), the pixels that a map should point at; None: those of the digit (``digit_mask``).

    Raises:
        InputError: fewer than two rows, one that is not measured, or what ``RunExplainer`` refuses.
    """
    run, kept = explainer.run, dict[tuple[int, Reading], Tensor]()
    epochs = run.epochs if epochs is None else epochs
    if len(rows) < 2 or not set(rows) <= set(epochs):
        raise InputError(f"rows={[*rows]} must be two or more of the epochs that are measured: {[*epochs]}")
    measured, focus = [], dict[str, DigitFocus]()
    for epoch in epochs:
        signed, numbers, logits = _explain(explainer, probes, epoch, readings)
        for reading in readings:
            key = (reading.statistics, reading.layer, reading.method)
            maps = evidence_maps(signed[key], reading.evidence)
            if reading.layer not in focus:
                focus[reading.layer] = DigitFocus(probes, maps.shape[1:], masks)
            measured.append(
                {"epoch": epoch, **asdict(reading), **measure_epoch(maps, focus[reading.layer])}
                | numbers[key]
                | logits[reading.statistics]
            )
            if epoch in rows:
                kept[epoch, reading] = maps
    seed = run.keys["seed"]
    history = run.history.filter(regex="^(epoch|accuracy_.*|d_.*)$")
    if scores is None:
        scores = pd.DataFrame({"epoch": epochs, "fid": math.nan})
    beside = scores.merge(history, on="epoch", how="left").assign(seed=seed, row=scores["epoch"].isin(rows))
    probe_table = _probe_table(kept, focus, rows, readings).assign(seed=seed)
    return Tables(pd.DataFrame(measured).assign(seed=seed), probe_table, beside)


def measure_epoch(maps: Tensor, focus: DigitFocus) -> dict[str, float]:
    """Means over images of maps (N, h, w) >= 0 of one epoch and reading.

    ``focus``: K, the mean f. ``lift``: the share of a map's weight on the digit over the digit's area, mean over maps
    that are not zero. ``around``: share of images whose lift is below 0.5. ``all_zero``: share of maps that are zero
    everywhere. ``covered``: mean share of a map above 0. ``deleted``: share of images with 70 % or more of it above 0.
    """
    share = focus.share(maps)
    lift, covered = share / focus.area, (maps > 0).double().mean((1, 2))
    return {
        "focus": float(focus.above_chance(maps).mean()),
        "lift": float(lift.nanmean()),
        "around": float((lift < AROUND).double().mean()),
        "all_zero": float(share.isnan().double().mean()),
        "covered": float(covered.mean()),
        "deleted": float((covered >= IMPORTANT_SHARE).double().mean()),
    }


Key = tuple[Statistics, str, str]  # layer, method


def _explain(
    explainer: RunExplainer, probes: Tensor, epoch: int, readings: Sequence[Reading]
) -> tuple[dict[Key, Tensor], dict[Key, dict[str, float]], dict[Statistics, dict[str, float]]]:
    """Of one epoch: signed maps of the probes; what their sums know of real and generated; what the logit knows.

    ``auc_map``: of the signed map's sum, before ReLU and resizing. ``auc_left_out``: of the logit minus that sum, where
    only a linear head follows the layer. ``auc_logit``. All NaN without generated images.
    """
    both, count = to_model_range(probes), len(probes)
    if explainer.run.generates:
        both = torch.cat([both, explainer.generated(epoch, count)[0].cpu()])
    signed, numbers, logits = {}, {}, {}
    for statistics in dict.fromkeys(reading.statistics for reading in readings):
        chosen = [reading for reading in readings if reading.statistics == statistics]
        methods = list(dict.fromkeys(reading.method for reading in chosen))
        layers = list(dict.fromkeys(reading.layer for reading in chosen))
        maps, scores = explainer.signed(both, epoch, statistics, methods, layers)
        scores = scores.cpu().double()
        logits[statistics] = {"auc_logit": separation(scores[:count], scores[count:])}
        for (layer, method), own in maps.items():
            total = own.cpu().double().sum((1, 2))
            left_out = math.nan
            # HiResCAM leaves nothing out there
            if isinstance(explainer.run, Run) and layer == LINEAR_AFTER and method == "gradcam":
                left_out = separation((scores - total)[:count], (scores - total)[count:])
            numbers[statistics, layer, method] = {
                "auc_map": separation(total[:count], total[count:]),
                "auc_left_out": left_out,
            }
            signed[statistics, layer, method] = own[:count].cpu()
    return signed, numbers, logits


def _probe_table(
    maps: Mapping[tuple[int, Reading], Tensor],
    focus: Mapping[str, DigitFocus],
    rows: Sequence[int],
    readings: Sequence[Reading],
) -> pd.DataFrame:
    tables = []
    for reading in readings:
        own, digits = [maps[epoch, reading] for epoch in rows], focus[reading.layer]
        columns = {
            f"focus_{epoch}": digits.above_chance(one).numpy() for epoch, one in zip(rows, own, strict=True)
        }
        keys = {"image": np.arange(len(own[0])), **asdict(reading), "area": digits.area.numpy()}
        tables.append(pd.DataFrame({**keys, **columns, "change": largest_change(torch.stack(own)).numpy()}))
    return pd.concat(tables, ignore_index=True)


def block3_arithmetic(explainer: RunExplainer, images: Tensor, epochs: Sequence[int]) -> pd.DataFrame:
    """Why Grad-CAM at ``block3`` may be empty for "real": what its maps are made of, in units of the logit a place.

    With z the output of ``norm3`` and w_k the mean of the head's weights of channel k, the map is sum_k w_k LReLU(z_k),
    and LReLU(z) = 0.6 z + 0.4 |z|. BatchNorm keeps z near 0 on average, |z| is positive everywhere: where most w_k are
    negative, 0.4 sum_k w_k |z_k| lies below 0, and more so than the map varies from place to place.

    Returns:
        A row an epoch: ``negative_channels``, the share of w_k below 0; ``offset``, the mean of 0.4 sum_k w_k |z_k|;
        ``rest``, that of 0.6 sum_k w_k z_k; ``spread``, the standard deviation of a map over its places, mean over
        images; ``all_zero``, the share of maps without evidence for "real".
    """
    rows = []
    for epoch in epochs:
        network = cast(Discriminator, explainer.explained(epoch, "running"))
        with torch.no_grad():
            before = network.layers[:7](to_model_range(images).to(explainer.device))
            weights = cast(nn.Conv2d, network.layers[8]).weight.mean((0, 2, 3))[:, None, None]
        offset, rest = (0.4 * weights * before.abs()).sum(1), (0.6 * weights * before).sum(1)
        maps = offset + rest
        rows.append(
            {
                "epoch": epoch,
                "negative_channels": float((weights < 0).double().mean()),
                "offset": float(offset.mean()),
                "rest": float(rest.mean()),
                "spread": float(maps.std((1, 2)).mean()),
                "all_zero": float((maps.amax((1, 2)) <= 0).double().mean()),
            }
        )
    return pd.DataFrame(rows)


def padding_shares(study: Study) -> pd.DataFrame:
    """The cause of C5: the share of probes that D looks around, by padding, in the regime of the pairs.

    Trains those networks that are not there.

    Returns:
        A row a seed, columns ``zeros`` and ``background``: mean over the last three epochs, under the primary reading.
    """
    found: dict[str, dict[int, float]] = {}
    for seed, padding in product(study.pairs.seeds, PADDINGS):
        run = train(study.pair_config(seed, padding), study.runs_dir)
        find = partial(_last_epochs, study, run)
        measured = run.kept("last-epochs", f"{PRIMARY} {study.probe_images}", find)
        found.setdefault(padding, {})[seed] = float(measured["around"].mean())
    return pd.DataFrame(found).rename_axis("seed")


def _last_epochs(study: Study, run: Run) -> pd.DataFrame:
    """``measure_epoch`` of the probes at the last three epochs, under the primary reading: a row an epoch."""
    probes = training_images(run.config, "test").images[: study.probe_images]
    explainer, rows = RunExplainer(run, probes), []  # running statistics need no calibration
    for epoch in run.epochs[-3:]:
        maps, _ = explainer.signed(probes, epoch, PRIMARY.statistics, [PRIMARY.method], [PRIMARY.layer])
        heat = evidence_maps(maps[PRIMARY.layer, PRIMARY.method], PRIMARY.evidence)
        rows.append({"epoch": epoch, **measure_epoch(heat, DigitFocus(probes, heat.shape[1:]))})
    return pd.DataFrame(rows)


def extreme_probes(probes: pd.DataFrame, count: int) -> dict[str, list[int]]:
    """Images by name of what is special about them, over all networks: ``count`` of each kind.

    Args:
        probes: ``Tables.probes`` under one reading.
        count: of each.
    """
    focus = mean_focus(probes).groupby(probes["image"]).mean()
    change = probes.groupby("image")["change"].mean().dropna()
    chosen = {"changes most": -change, "changes least": change, "looked around": focus}
    return {name: values.sort_values(kind="stable").index[:count].tolist() for name, values in chosen.items()}

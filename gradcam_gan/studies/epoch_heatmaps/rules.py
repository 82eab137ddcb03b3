"""The paper's claims C1 to C5 as rules: one primary number a network, its bounds, and the verdict.

Written before the first table of the ``study`` profile was computed. One earlier network (seed 0, which no verdict
counts) had been looked at when the quantities were chosen.

f is a map's focus above chance (``tables.focus_above_chance``): (focus - area) / (1 - area), 0 for a map that is zero
everywhere; K(e) is its mean over the probe images after epoch e.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pandas as pd

from gradcam_gan.intervals import Interval, student_interval
from gradcam_gan.run_explainer import STATISTICS, Reading
from gradcam_gan.scoring.scores import WITHOUT_VEIL
from gradcam_gan.studies.claims import PLANNED_NETWORKS, Claim, Rule, decision, verdict_of
from gradcam_gan.studies.epoch_heatmaps.tables import (
    AROUND,
    Tables,
    matching,
    mean_focus,
    select,
    trained_well,
)
from gradcam_gan.studies.readings import ALL_READINGS, COMPARED_LAYERS, PRIMARY

FIRST, LAST = 5, 25  # of the epochs that C1, C2 and C4 compare: Figure 1's
CLEAREST_EPOCH = 15  # C1
NEAR = range(13, 18)  # C1: "about epoch 15"
FAR = (*range(5, 13), *range(18, 26))
BEST_EPOCH = 18  # C2
SIMILAR = (0.7, 0.8, 0.9)  # C3: correlations that are reported as "the same feature"
PAPER_EPOCHS = {"C1": CLEAREST_EPOCH, "C2": BEST_EPOCH}  # marks on the charts

Values = Callable[[Tables, Reading], pd.Series]


@dataclass(frozen=True)
class Part:
    """A part of a claim's rule: a quantity by network (a Series by seed), and what it is held to."""

    values: Values
    rule: Rule


def clearness(tables: Tables, reading: Reading) -> pd.DataFrame:
    """K by epoch (rows) and seed (columns)."""
    return select(tables.epochs, reading).pivot_table("focus", "epoch", "seed", dropna=False)


def share_below_near(tables: Tables, reading: Reading) -> pd.Series:
    """C1: share of the epochs 5-12 and 18-25 whose K lies below the mean K of 13-17, ties half."""
    curves = clearness(tables, reading)
    if not {*NEAR, *FAR} <= set(curves.index):
        return pd.Series(dtype=float)
    return _share_below(curves.loc[[*FAR]], curves.loc[[*NEAR]].mean(axis=0))


def percentile_of_best(tables: Tables, reading: Reading) -> pd.Series:
    """C2: share of the other epochs 5-25 whose K lies below K(18), ties half."""
    curves = _compared(clearness(tables, reading))
    if BEST_EPOCH not in curves.index:
        return pd.Series(dtype=float)
    return _share_below(curves.drop(BEST_EPOCH), curves.loc[[BEST_EPOCH]].mean(axis=0))


def change_agreement(tables: Tables, reading: Reading) -> pd.Series:
    """C3: does an image change in one network as it does in the others (``agreement``)?"""
    return agreement(select(tables.probes, reading), "change")


def generator_beats(tables: Tables, reading: Reading, fid: str = "fid") -> pd.Series:
    """C4: share of the other epochs 5-25 with a higher FID (a column of the scores) than that of the largest K."""
    log_fid = _log_fid(tables, fid)
    return pd.Series(
        {
            seed: _share_above(log_fid[seed], epoch)
            for seed, epoch in picked_epochs(tables, reading).items()
            if seed in log_fid
        },
        dtype=float,
    )


def gain_of_picked(tables: Tables, reading: Reading, fid: str = "fid") -> pd.Series:
    """Beside C4: log FID at the epoch with the largest K, minus that at epoch 25."""
    log_fid = _log_fid(tables, fid)
    picked = {seed: epoch for seed, epoch in picked_epochs(tables, reading).items() if seed in log_fid}
    return pd.Series(
        {seed: log_fid[seed][epoch] - log_fid[seed][LAST] for seed, epoch in picked.items()}, dtype=float
    )


def share_around(tables: Tables, reading: Reading) -> pd.Series:
    """C5 (a): share of probes whose map's lift is below 0.5, mean of the five rows."""
    rows = select(tables.probes, reading)
    area = rows["area"]
    # focus = f (1 - area) + area, and lift is that over the area
    lifts = rows.filter(regex=r"^focus_\d+$").mul((1 - area) / area, axis=0) + 1
    return (lifts < AROUND).mean(axis=1).groupby(rows["seed"]).mean()


def focus_agreement(tables: Tables, reading: Reading) -> pd.Series:
    """C5 (b): is it the image, whichever the network (``agreement`` of the mean f over the rows)?"""
    rows = select(tables.probes, reading)
    return agreement(rows.assign(focus=mean_focus(rows)), "focus")


def agreement(rows: pd.DataFrame, column: str) -> pd.Series:
    """Spearman's correlation over images of a network's values with their mean over the *other* networks.

    The digit's area is taken out of both (partial correlation of ranks): thick digits may change less in any network.
    An image without a value is left out.

    Args:
        rows: columns ``seed``, ``image``, ``area`` and the named one.
        column: whose values.

    Returns:
        By seed; empty for fewer than three networks: of two, both have the same value.
    """
    table = rows.pivot_table(column, "image", "seed")
    area = rows.groupby("image")["area"].first().reindex(table.index)
    if table.shape[1] < 3:
        return pd.Series(dtype=float)
    found = {
        seed: partial_spearman(table[seed], table.drop(columns=seed).mean(axis=1), area) for seed in table
    }
    return pd.Series(found, dtype=float).dropna()


def jackknife(rows: pd.DataFrame, column: str) -> Interval:
    """The mean ``agreement`` with an interval by leaving out one network at a time.

    The networks' values are not independent: each is compared with the mean of the others.
    """
    seeds = rows["seed"].unique()
    whole = agreement(rows, column).mean()
    pseudo = [
        len(seeds) * whole - (len(seeds) - 1) * agreement(rows[rows["seed"] != seed], column).mean()
        for seed in seeds
        if len(seeds) > 3
    ]
    return student_interval(pseudo)


def partial_spearman(a: pd.Series, b: pd.Series, given: pd.Series) -> float:
    """Spearman's correlation of a and b, a third taken out; NaN where one of them is constant."""
    together = pd.concat([a, b, given], axis=1).dropna()
    if len(together) < 3 or (np.ptp(together.to_numpy(), axis=0) == 0).any():
        return float("nan")
    ranks = together.rank().to_numpy()
    ab, a_given, b_given = (np.corrcoef(ranks[:, i], ranks[:, j])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2)))
    left = (1 - a_given**2) * (1 - b_given**2)
    return float((ab - a_given * b_given) / np.sqrt(left)) if left > 1e-12 else float("nan")


def _share(quantity: str) -> Rule:
    """Of epochs: 0.5 is chance."""
    return Rule(quantity, holds_above=0.5, fails_below=0.75, if_true=0.85, if_false=0.5)


def _correlation(quantity: str) -> Rule:
    return Rule(quantity, holds_above=0.2, fails_below=0.2, if_true=0.4, if_false=0.0)


RULES: dict[str, tuple[str, str, list[Part]]] = {
    "C1": (
        f"features are recognised most clearly at about epoch {CLEAREST_EPOCH}",
        "over networks, the share of the epochs 5 to 12 and 18 to 25 whose K lies below the mean K of 13 to 17: holds "
        "if its interval lies above 0.5 (chance), else fails if it lies below 0.75",
        [Part(share_below_near, _share("share of epochs less clear than 13 to 17"))],
    ),
    "C2": (
        f"comparing the models of similar epochs finds the best one: epoch {BEST_EPOCH}",
        f"over networks, the share of the other epochs 5 to 25 whose K lies below that of epoch {BEST_EPOCH}: holds if "
        "its interval lies above 0.5 (chance), else fails if it lies below 0.75",
        [Part(percentile_of_best, _share(f"share of epochs less clear than {BEST_EPOCH}"))],
    ),
    "C3": (
        "some sample images show the same feature at every epoch, so suitable samples must be chosen",
        "over networks, the rank correlation over images of how much a map changes over the five rows with its mean "
        "change in the other networks, the digit's area taken out: holds if its interval lies above 0.2 (stability is "
        "the image's own, so choosing samples makes sense), fails if it lies below",
        [
            Part(
                change_agreement,
                _correlation("rank correlation of an image's change with that in other networks"),
            )
        ],
    ),
    "C4": (
        "a well trained D, picked by its heatmaps, raises the chance of a well trained G",
        "over networks, the share of the other epochs 5 to 25 whose G has a higher FID than at the epoch of largest K: "
        "holds if its interval lies above 0.5 (chance), else fails if it lies below 0.75",
        [Part(generator_beats, _share("share of epochs with a worse G than the one picked"))],
    ),
    "C5": (
        "for some images D looks around the digit instead of at it",
        f"over networks, (a) the share of images with a lift below {AROUND:g}, mean of the five rows, holds above 0.05 "
        "and fails below; (b) the rank correlation over images of f with its mean in the other networks, the digit's "
        "area taken out, holds above 0.2; (a) alone: partly",
        [
            Part(
                share_around,
                Rule(f"share of images with a lift below {AROUND:g}", 0.05, 0.05, if_true=0.1, if_false=0.02),
            ),
            Part(
                focus_agreement,
                _correlation("rank correlation of an image's f with that in other networks"),
            ),
        ],
    ),
}

COMPARING_EPOCHS = ("C1", "C2", "C4")


def judge(
    name: str, tables: Tables, planned: int = PLANNED_NETWORKS, verdicts: pd.DataFrame | None = None
) -> Claim:
    """The verdict on one of ``RULES`` under the primary reading, with what stands beside it.

    Beside it: the rule's simulated power at the planned number of networks, under how many readings the rule would
    come out the same, what it says under settled statistics, and without the networks that did not train well; and of
    the claims that compare epochs, the quantity without those whose G was not well trained.

    Args:
        name: of the claim.
        tables: of all networks.
        planned: how many networks the power is for.
        verdicts: ``sensitivity(tables)``, which takes a while, if it is there already.
    """
    if verdicts is None:
        verdicts = sensitivity(tables, [name])
    text, words, parts = RULES[name]
    measured = [part.values(tables, PRIMARY) for part in parts]
    outcomes = [part.rule.outcome(values) for part, values in zip(parts, measured, strict=True)]
    verdict, main = verdict_of(outcomes), parts[0].rule
    effects = [student_interval(values) for values in measured]
    numbers = "; ".join(
        f"{part.rule.quantity}: {effect}" for part, effect in zip(parts, effects, strict=True)
    )
    return Claim(
        name,
        text,
        words,
        verdict,
        main.quantity,
        effects[0],
        numbers + decision(verdict, main, measured[0]),
        p=max(part.rule.p_value(values) for part, values in zip(parts, measured, strict=True)),
        beside=_beside(name, tables, verdict, measured[0], planned, verdicts[verdicts["claim"] == name]),
    )


def sensitivity(tables: Tables, names: Sequence[str] = tuple(RULES)) -> pd.DataFrame:
    """Every claim under every reading of the tables: what its rule would have said.

    Returns:
        A row per claim and reading: ``claim``, ``layer``, ``statistics``, ``method``, ``evidence``, ``verdict``, and
        ``estimate``, ``low``, ``high``, ``n`` of the first part's quantity.
    """
    rows = []
    for name in names:
        for reading in present_readings(tables):
            measured = [(part.rule, part.values(tables, reading)) for part in RULES[name][2]]
            effect = student_interval(measured[0][1])
            rows.append(
                {
                    "claim": name,
                    **asdict(reading),
                    "verdict": verdict_of([rule.outcome(values) for rule, values in measured]),
                    **{key: getattr(effect, key) for key in ("estimate", "low", "high", "n")},
                }
            )
    return pd.DataFrame(rows)


def present_readings(tables: Tables) -> list[Reading]:
    """The readings that the tables have, in the order of ``ALL_READINGS``."""
    names = [field.name for field in fields(Reading)]
    known = tables.probes[names].drop_duplicates().itertuples(index=False, name=None)
    present = {Reading(*choices) for choices in known}
    return [reading for reading in ALL_READINGS if reading in present]


def _beside(
    name: str, tables: Tables, verdict: str, values: pd.Series, planned: int, verdicts: pd.DataFrame
) -> dict[str, object]:
    rule = RULES[name][2][0].rule
    beside: dict[str, object] = {
        "same under": f"{(verdicts['verdict'] == verdict).sum()} of {len(verdicts)} readings",
    }
    settled = select(verdicts, replace(PRIMARY, statistics="settled"))["verdict"].item()
    stale = " (decided by stale BatchNorm statistics)" if settled != verdict else ""
    beside["under settled statistics"] = f"{settled}{stale}"
    healthy = tables.healthy()
    beside["healthy networks alone"] = (
        f"{_verdict(name, healthy, PRIMARY)}, n={healthy.epochs['seed'].nunique()}"
    )
    if name in COMPARING_EPOCHS:
        good = RULES[name][2][0].values(epochs_of_good_generators(tables), PRIMARY).dropna()
        beside["epochs with a well trained G alone"] = student_interval(good)
    if len(values) > 1:
        beside[f"power with {planned} networks"] = rule.power_in_words(values, planned)
    return beside | EXTRA.get(name, lambda _: {})(tables)


def _verdict(name: str, tables: Tables, reading: Reading) -> str:
    return verdict_of([part.rule.outcome(part.values(tables, reading)) for part in RULES[name][2]])


def _extra_of_probes(tables: Tables) -> dict[str, object]:
    rows = select(tables.probes, PRIMARY)
    stable = {r: student_interval((rows["change"] <= 1 - r).groupby(rows["seed"]).mean()) for r in SIMILAR}
    return {
        "jackknife": jackknife(rows, "change"),
        **{f"images whose five maps correlate at {r:g} or more": share for r, share in stable.items()},
    }


def _extra_of_generator(tables: Tables) -> dict[str, object]:
    """With scores that no veil counts in, too, where there are such: added after a look at three networks."""
    gain = f"at the epoch picked, minus that at {LAST}"
    found: dict[str, object] = {f"log FID {gain}": student_interval(gain_of_picked(tables, PRIMARY))}
    if (fid := f"fid{WITHOUT_VEIL}") in tables.scores:
        share, beaten = RULES["C4"][2][0].rule.quantity, generator_beats(tables, PRIMARY, fid)
        found[f"{share} without the veil"] = student_interval(beaten)
        found[f"log FID without the veil {gain}"] = student_interval(gain_of_picked(tables, PRIMARY, fid))
    picked = picked_epochs(tables, PRIMARY).items()
    return found | {"epochs picked": ", ".join(f"{epoch} (seed {seed})" for seed, epoch in picked)}


def _extra_of_around(tables: Tables) -> dict[str, object]:
    rows = select(tables.probes, PRIMARY)
    return {"jackknife of (b)": jackknife(rows.assign(focus=mean_focus(rows)), "focus")}


EXTRA = {"C3": _extra_of_probes, "C4": _extra_of_generator, "C5": _extra_of_around}


def _compared(by_epoch: pd.DataFrame) -> pd.DataFrame:
    """The epochs 5 to 25 of the networks with a value, if all of them are there; else nothing."""
    wanted = range(FIRST, LAST + 1)
    rows = by_epoch.loc[[*wanted]] if set(wanted) <= set(by_epoch.index) else by_epoch.iloc[:0]
    return rows.dropna(axis=1, how="all")


def picked_epochs(tables: Tables, reading: Reading) -> dict[int, int]:
    """By seed the epoch 5-25 of largest K."""
    curves = _compared(clearness(tables, reading))
    return {seed: FIRST + int(np.nanargmax(curves[seed])) for seed in tables.seeds if seed in curves}


def epochs_of_good_generators(tables: Tables) -> Tables:
    """The same, but K and FID are NaN after epochs whose G is not well trained, a veil left out where that is known.

    A training that ends in noise is no longer what the claims speak of. It was looked at when late noise had been seen.
    """
    keys, suffix = ["seed", "epoch"], WITHOUT_VEIL if f"fid{WITHOUT_VEIL}" in tables.scores else ""
    good = tables.scores.loc[trained_well(tables.scores, suffix), keys]

    def alone(table: pd.DataFrame, column: str) -> pd.DataFrame:
        counts = pd.MultiIndex.from_frame(table[keys]).isin(pd.MultiIndex.from_frame(good))
        return table.assign(**{column: table[column].where(counts)})

    return replace(tables, epochs=alone(tables.epochs, "focus"), scores=alone(tables.scores, "fid"))


def knowledge(tables: Tables) -> str:
    """In words: how far from 0.5 the AUCs of real against generated are from epoch 5 on, mean over epochs."""
    shown = tables.epochs[(tables.epochs["epoch"] >= FIRST) & (tables.epochs["evidence"] == PRIMARY.evidence)]
    if shown.empty:
        return f"No network has {FIRST} epochs."

    def distance(column: str, **where: str) -> Interval:
        rows = matching(shown, **where)
        return student_interval((rows[column] - 0.5).abs().groupby(rows["seed"]).mean())

    lines = []
    for statistics in STATISTICS:
        same = {"method": "gradcam", "statistics": statistics}
        sums = ", ".join(f"{layer} {distance('auc_map', layer=layer, **same)}" for layer in COMPARED_LAYERS)
        left_out = distance("auc_left_out", layer="block3", **same)
        logit = distance("auc_logit", layer="block3", **same)
        lines.append(
            f"- {statistics} statistics: D's logit {logit}; sum of Grad-CAM's map at {sums}; left out {left_out}"
        )
    return (
        f"Distance of the AUC from 0.5 (0.5 separates perfectly), mean over epochs from {FIRST} on:\n\n"
        + "\n".join(lines)
    )


def deciding(tables: Tables) -> dict[str, tuple[str, Interval]]:
    """What decides the picture, as numbers over networks: id -> what it is, and its interval.

    Over the epochs 5 to 25, Grad-CAM's evidence for "real", running statistics but where others are named.
    """
    shown = tables.epochs.query("method == 'gradcam' and evidence == 'real' and epoch >= @FIRST")
    shown = shown[shown["statistics"] == "running"]
    shown = shown.assign(map=(shown["auc_map"] - 0.5).abs(), logit=(shown["auc_logit"] - 0.5).abs())

    def mean(column: str, layer: str) -> Interval:
        rows = shown[shown["layer"] == layer]
        return student_interval(rows[column].groupby(rows["seed"]).mean())

    found = {}
    for layer in COMPARED_LAYERS:
        found[f"empty/{layer}"] = (f"share of empty maps at {layer}", mean("all_zero", layer))
        found[f"focus/{layer}"] = (f"K, the focus above chance, at {layer}", mean("focus", layer))
    for statistics in STATISTICS:
        jump = _jump(tables, replace(PRIMARY, statistics=statistics))
        found[f"jump/{statistics}"] = (
            f"change of K from one epoch to the next, {statistics} statistics",
            jump,
        )
    for known in ("map", "logit"):
        name = "the sum of the map" if known == "map" else "D's own logit"
        found[f"auc/{known}"] = (f"distance from 0.5 of the AUC of {name}", mean(known, PRIMARY.layer))
    return found


def turned_claims(tables: Tables) -> list[str]:
    """The claims of this notebook whose verdict is another one under settled statistics."""
    settled = replace(PRIMARY, statistics="settled")
    return [name for name in RULES if _verdict(name, tables, PRIMARY) != _verdict(name, tables, settled)]


def _jump(tables: Tables, reading: Reading) -> Interval:
    """How much K moves from one epoch to the next, mean over the epochs 5 to 25."""
    return student_interval(_compared(clearness(tables, reading)).diff().abs().mean())


def _log_fid(tables: Tables, fid: str) -> pd.DataFrame:
    """By epoch 5-25 (rows) and seed (columns)."""
    return _compared(tables.scores.pivot_table(fid, "epoch", "seed", dropna=False).map(math.log))


def _share_below(others: pd.DataFrame, value: pd.Series) -> pd.Series:
    """Share of the rows that lie below a value of each column, ties half; absent ones count neither way."""
    below = (others < value) + (others == value) / 2
    return below.where(others.notna() & value.notna()).mean().dropna()


def _share_above(by_epoch: pd.Series, epoch: int) -> float:
    """Share of the other epochs above that one's value, ties half; absent ones count neither way."""
    others = by_epoch.drop(epoch).dropna()
    return float(((others > by_epoch[epoch]) + (others == by_epoch[epoch]) / 2).mean())

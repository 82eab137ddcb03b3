"""C6 as a rule: does the 70 % rule choose images, and is the network better without those that the map covers most?"""

from collections.abc import Sequence

import pandas as pd

from gradcam_gan.intervals import sign_flip
from gradcam_gan.scoring.scores import WITHOUT_VEIL
from gradcam_gan.studies.claims import PLANNED_NETWORKS, Claim, Outcome, Rule, decision, paired, verdict_of
from gradcam_gan.studies.prune_70.tables import BASELINE, WORTHWHILE, minus

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
    verdict = verdict_of(sorted(outcomes))
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
        f"{RULE.quantity}: {effect}{decision(verdict, RULE, changes) if enough else interim}",
        p=RULE.p_value(changes),
        beside=_beside(scores, changes, healthy),
    )


def count_outcome(by_rule: pd.Series) -> Outcome:
    """Part (a): of the shares that the rule deletes, one a network; those not measured yet may come out either way."""
    count, missing = _worthwhile(by_rule), max(0, PLANNED_NETWORKS - len(by_rule))
    if count >= HOLDS_FROM:
        return "holds"
    return "fails" if count + missing <= FAILS_TO else "unclear"


def grid_outcomes(grid: pd.DataFrame) -> pd.DataFrame:
    """Part (a) of C6 under every answer: a row each, with the mean share ``deleted`` over networks and ``outcome``."""
    keys = ["layer", "statistics", "method", "evidence", "tau", "cut"]
    shares = grid.groupby(keys, sort=False)["deleted"]
    return pd.DataFrame({"deleted": shares.mean(), "outcome": shares.agg(count_outcome)}).reset_index()


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

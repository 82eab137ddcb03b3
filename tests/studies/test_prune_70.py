"""Which images the 70 % rule and its controls delete, against a plain reading of what each arm says; what follows."""

import numpy as np
import pandas as pd
import pytest

from gradcam_gan.studies.prune_70 import BASELINE, count_outcome, judge_pruning

# --- judged


def made_up(change=0.0, *, noise=0.1, by_rule=0.2, networks=12, baseline=1.0, **others):
    """Scores of the arms of so many networks.

    Args:
        change: of log FID without the top 20 %, against 20 % at random.
        noise: standard deviation of that change, exactly.
        by_rule: share that the rule deletes, or one a network.
        networks: how many.
        baseline: standard deviation of the baseline's log FID over seeds.
        others: changes of other arms against the baseline.
    """
    spread = np.random.default_rng(0).normal(size=networks)
    if networks > 1:
        spread = (spread - spread.mean()) / spread.std(ddof=1)
    level = 2 + baseline * spread[::-1]
    arms = {BASELINE: level, "random 20 %": level + 0.5, "dose 20 %": level + 0.5 + change + noise * spread}
    arms |= {arm: level + more for arm, more in others.items()}
    shares = np.broadcast_to(by_rule, networks)
    return pd.concat(
        [
            pd.DataFrame({"arm": arm, "seed": range(networks), "log_fid": values, "recall": 0.1 * values})
            .assign(by_rule=np.nan if arm == BASELINE else shares)
            for arm, values in arms.items()
        ],
        ignore_index=True,
    )  # fmt: skip


def shares(worthwhile, others, share=0.0):
    """Shares that the rule deletes, in so many networks 20 % and in so many others another share."""
    return pd.Series([0.2] * worthwhile + [share] * others)


@pytest.mark.parametrize(
    ("worthwhile", "others", "outcome"),
    [
        (10, 2, "holds"),
        (9, 3, "unclear"),
        (3, 9, "unclear"),
        (2, 10, "fails"),
        # fewer than 12 measured: whatever the others show
        (10, 0, "holds"),
        (9, 0, "unclear"),
        (0, 10, "fails"),
        (0, 9, "unclear"),
        (1, 10, "fails"),
        (0, 0, "unclear"),
    ],
)
def test_part_a_counts_networks_and_waits_for_those_that_could_change_it(worthwhile, others, outcome):
    for share in (0.0, 0.0099, 0.501, 1.0):
        assert count_outcome(shares(worthwhile, others, share)) == outcome
    for share in (0.01, 0.5):  # both within
        assert count_outcome(shares(0, 12, share)) == "holds"


FEW, SOME = shares(1, 11), shares(5, 7)


@pytest.mark.parametrize(
    ("by_rule", "change", "noise", "verdict"),
    [
        (0.2, -0.3, 0.1, "reproduced"),
        (0.2, -0.3, 1.0, "partly"),  # (a) alone
        (SOME, -0.3, 0.1, "partly"),  # (b) alone
        (SOME, 0.0, 1.0, "inconclusive"),
        (FEW, -0.3, 0.1, "not reproduced"),  # (a) fails, whatever (b) shows
        (0.2, 0.3, 0.1, "not reproduced"),  # worse than at random
        (0.2, 0.0, 0.1, "not reproduced"),  # as at random
        (0.2, -0.12, 0.05, "reproduced"),  # small, but certain: below 0 comes first
        (SOME, 0.0, 0.1, "not reproduced"),
    ],
)
def test_verdicts(by_rule, change, noise, verdict):
    claim = judge_pruning(made_up(change, noise=noise, by_rule=by_rule))
    assert (claim.name, claim.verdict) == ("C6", verdict)
    assert claim.effect.estimate == pytest.approx(change)
    assert claim.effect.n == 12


def test_by_hand():
    """Noise of deviation 0.1: Student's half width at n = 12 is 2.201 x 0.1 / sqrt(12)."""
    claim = judge_pruning(made_up(-0.3, by_rule=np.linspace(0.02, 0.28, 12), baseline=0.5, rule70=-0.2))
    half = 2.201 * 0.1 / np.sqrt(12)
    assert (claim.effect.low, claim.effect.high) == pytest.approx((-0.3 - half, -0.3 + half), abs=1e-4)
    assert "in 12 of 12 networks: 2 % to 28 %" in claim.sentence
    assert claim.p < 1e-5
    assert claim.beside["sign-flip p"] == f"{2 / 2**12:.3g}"  # all differences below 0
    assert claim.beside["in units of the baseline's deviation from seed to seed"] == "-0.6"
    assert claim.beside["change of recall"].estimate == pytest.approx(-0.03)
    assert claim.beside["change of log FID, rule70 minus baseline"].estimate == pytest.approx(-0.2)
    assert claim.beside["change of log FID, dose 20 % minus baseline"].estimate == pytest.approx(0.2)
    assert "change of log FID, rule70 minus random" not in claim.beside  # no such arm
    assert "holds in 100% if the truth is -0.3" in claim.beside["power of (b) with 12 networks"]


@pytest.mark.parametrize("networks", [0, 1, 2, 11])
def test_fewer_pairs_than_planned_are_interim(networks):
    claim = judge_pruning(made_up(-0.9, noise=0.01, networks=networks))
    assert claim.verdict == (
        "partly" if networks == 11 else "inconclusive"
    )  # 11 shares of 20 % settle part (a)
    assert f"interim: {networks} of 12 pairs decide nothing" in claim.sentence
    assert "nan" not in str(claim).replace("[no interval]", "") or networks == 0
    assert judge_pruning(made_up(-0.9, noise=0.01, networks=networks, by_rule=1.0)).verdict == (
        "not reproduced" if networks == 11 else "inconclusive"
    )

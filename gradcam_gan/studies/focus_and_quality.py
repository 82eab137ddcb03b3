"""Do D's heatmaps tell how good G is (claim C4)? Epoch by epoch, focus beside the scores of the generated images.

Both change as training goes on, so they correlate whether or not one tells of the other. The correlation given the
epoch takes that out: does the heatmap say more than the epoch's number does?
"""

import math

import numpy as np
import pandas as pd
from scipy import stats

from gradcam_gan.studies.claims import READINGS
from gradcam_gan.studies.epochs import clearness, select

ROUNDING = 1e-12  # what is left of 0 where one follows the epoch exactly


def focus_beside_scores(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """D's mean focus lift and G's scores, for every trained epoch.

    Args:
        table: rows of ``measure_epochs`` of one padding.
        scores: rows of ``evaluate_run`` with a column ``seed``.

    Returns:
        A row per reading, seed and epoch from 1 on: ``reading``, ``seed``, ``epoch``, ``focus_lift`` (all-zero maps
        count as chance, 1), ``all_zero`` (share of such maps) and the scores.
    """
    parts = []
    for variant in READINGS:
        rows = select(table, variant)
        lift = clearness(rows, "seed").reset_index().melt("seed", value_name="focus_lift")
        zero = rows.groupby(["seed", "epoch"], as_index=False)["all_zero"].mean()
        parts.append(lift.merge(zero, on=["seed", "epoch"]).assign(reading=str(variant)))
    focus = pd.concat(parts, ignore_index=True)
    joined = focus[focus["epoch"] > 0].merge(scores, on=["seed", "epoch"])
    return joined[
        ["reading", "seed", "epoch", *(name for name in joined if name not in ("reading", "seed", "epoch"))]
    ]


def rank_correlations(joined: pd.DataFrame, score: str = "fid") -> pd.DataFrame:
    """By reading and network: does more focus go with a better generator?

    Args:
        joined: from ``focus_beside_scores``.
        score: of which a smaller value is better.

    Returns:
        A row per reading and seed: ``rho``, Spearman's correlation over the epochs between focus lift and minus the
        score; ``rho_given_epoch``, the same with the epoch's rank taken out of both; ``picked``, the epoch with the
        largest focus lift; ``beaten``, the share of the other epochs whose generator is worse than that one's (0.5 is
        chance).
    """
    rows = []
    for (reading, seed), group in joined.groupby(["reading", "seed"], sort=False):
        focus, quality, epoch = (group[name].to_numpy() for name in ("focus_lift", score, "epoch"))
        rho, rho_given_epoch = _correlations(focus, -quality, epoch)
        picked = int(focus.argmax())
        rows.append(
            {
                "reading": reading,
                "seed": seed,
                "rho": rho,
                "rho_given_epoch": rho_given_epoch,
                "picked": epoch[picked],
                "beaten": (np.delete(quality, picked) > quality[picked]).mean(),
            }
        )
    return pd.DataFrame(rows)


def _correlations(a: np.ndarray, b: np.ndarray, given: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation of a and b, and the partial one given a third; NaN where one of them is constant."""
    if min(map(np.ptp, (a, b, given))) == 0:
        return math.nan, math.nan
    ab, a_given, b_given = (stats.spearmanr(*pair).statistic for pair in ((a, b), (a, given), (b, given)))
    left = (1 - a_given**2) * (1 - b_given**2)
    return float(ab), float((ab - a_given * b_given) / math.sqrt(left)) if left > ROUNDING else math.nan

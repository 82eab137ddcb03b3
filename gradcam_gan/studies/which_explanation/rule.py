"""How one explanation is recommended: a rule over the table of all of them, written before its numbers."""

import math
from dataclasses import dataclass

import pandas as pd

from gradcam_gan.explaining.methods import METHODS

MARGIN = 0.05  # of a map's energy, above what any control puts into the marker
INDEPENDENT = 0.5  # rank correlation with the map of a network with other weights; below, the map is another
EQUALLY_CHEAP = 1.5  # times the cost: timings differ by so much from run to run


@dataclass(frozen=True)
class Recommendation:
    """What to use, and why.

    Attributes:
        method: a name in ``METHODS``; None: nothing qualifies.
        layer: whose activations; ``image`` for a method without a layer; None: nothing qualifies.
        sentence: the reason, with its numbers.
    """

    method: str | None
    layer: str | None
    sentence: str


def recommendation(table: pd.DataFrame) -> Recommendation:
    """The explanation to use.

    1. Ground truth: the lower bound of its energy in the planted marker lies at least ``MARGIN`` above the upper bound
       of every control's.
    2. Sanity: the upper bound of its rank correlation with the map of the same network with other weights lies below
       ``INDEPENDENT``.
    3. Faithfulness: of those, the largest gap between removing what it calls least and most important. Those whose
       estimate lies within the interval of the largest are as good. The sentence says so where it is not above 0.
    4. Cost: of those, the cheapest. Those that cost up to ``EQUALLY_CHEAP`` times as much are as cheap; among them the
       one with most energy in the marker.

    Args:
        table: a row per method and layer, controls among them: ``method``, ``layer``, ``control`` (bool), ``energy``,
            ``randomised`` and ``gap``, each with ``_low`` and ``_high`` (NaN: no interval, the estimate alone counts),
            and ``milliseconds`` an image. A NaN estimate does not qualify; controls need energy alone.
    """
    rows = table.copy()
    for measure in ("energy", "randomised", "gap"):
        for bound in ("low", "high"):
            name = f"{measure}_{bound}"
            rows[name] = rows[name].fillna(rows[measure])
    controls, methods = rows[rows["control"]], rows[~rows["control"]]
    best_control = controls.iloc[controls["energy_high"].argmax()]
    threshold = best_control["energy_high"] + MARGIN
    true = methods[methods["energy_low"] >= threshold]
    sane = true[true["randomised_high"] < INDEPENDENT].dropna(subset=["gap", "milliseconds"])
    bar = (
        f"{MARGIN:g} more than the best control ({best_control['method']}: {bounds(best_control, 'energy')})"
    )
    if sane.empty:
        found = f"none of {len(methods)} explanations puts {bar} of its evidence into the planted marker"
        if len(true):
            found = (
                f"of {len(methods)} explanations {len(true)} put {bar} of their evidence into the planted marker, and "
                "none of these is another map when the network's weights are drawn again"
            )
        return Recommendation(None, None, f"None is recommended: {found}.")
    best = sane.iloc[sane["gap"].argmax()]
    tied = sane[sane["gap"] >= best["gap_low"]]
    cheap = tied[tied["milliseconds"] <= EQUALLY_CHEAP * tied["milliseconds"].min()]
    chosen = cheap.iloc[cheap["energy"].argmax()]
    reason = (
        "of these it has the largest gap between removing what it calls least and most important "
        f"({bounds(best, 'gap')})"
    )
    if len(tied) > 1:
        reason = (
            f"of these, {len(tied)} have the largest gap between removing what they call least and most important, "
            f"within its interval ({bounds(best, 'gap')}), and it is the cheapest of them"
        )
    if len(cheap) > 1:
        reason += (
            f", or of the {len(cheap)} that cost about the same the one with most evidence in the marker"
        )
    doubt = f", though the logit does not follow it (gap {bounds(chosen, 'gap')}, 0 by chance)"
    return Recommendation(
        chosen["method"],
        chosen["layer"],
        f"Use {explanation_name(chosen['method'], chosen['layer'])}"
        f"{doubt if chosen['gap_low'] <= 0 else ''}: it puts {bounds(chosen, 'energy')} of its "
        f"evidence into the planted marker, at least {bar}, and its map is another one when the network's weights are "
        f"drawn again (rank correlation {bounds(chosen, 'randomised')}). Of {len(methods)} explanations {len(true)} "
        f"pass the first test and {len(sane)} both; {reason}.",
    )


def explanation_name(method: str, layer: str) -> str:
    """Such as ``Grad-CAM at conv3``; of a method without a layer its name alone."""
    label = METHODS[method].label if method in METHODS else method
    return label if layer == "image" else f"{label} at {layer}"


def bounds(row: pd.Series, measure: str) -> str:
    """A row's measure with its interval, such as ``0.31 [0.28, 0.34]``; an empty text for none."""
    if math.isnan(row[measure]):
        return ""
    low, high = row[f"{measure}_low"], row[f"{measure}_high"]
    if low == high or math.isnan(low):
        return f"{row[measure]:.2g}"
    return f"{row[measure]:.2g} [{low:.2g}, {high:.2g}]"

"""Notebook 7: does D's explanation, fed back as side information, make a better G (P4)?

G learns more from the pixels that D's map of its image marks (``training/guidance.py``). An arm is a training of a seed
that is guided, or that has a control in the map's place; what comes before guidance starts is the same in all of them.
"""

import math
from collections.abc import Sequence

import pandas as pd

from gradcam_gan.intervals import student_interval
from gradcam_gan.studies.claims import PLANNED_NETWORKS, Claim, Rule, decision, verdict_of
from gradcam_gan.studies.diffusion_gans import EQUAL, collapses, paired

GUIDED = "guided"


# --- the claim


def judge_guidance(networks: pd.DataFrame, model: str, controls: Sequence[str]) -> Claim:
    """P4: is G better for being guided by D's explanation?

    Only with every control beaten can a gain be laid to what the explanation says; they change as much of the gradient.

    Args:
        networks: a row per arm and seed (``network_scores``).
        model: that is guided.
        controls: the arms that have something else in the map's place.
    """
    rule = Rule(
        quantity=f"log FID of guided {model} minus that of {model}",
        holds_above=0,
        fails_below=0,
        if_true=-2 * EQUAL,
        if_false=0,
        lower_is_better=True,
        equivalence=EQUAL,
    )
    guided = f"{model} {GUIDED}"
    differences = {
        to: paired(networks, guided, to) for to in (model, *(f"{model} {one}" for one in controls))
    }
    plain, *others = (rule.outcome(values) for values in differences.values())
    against_all = "holds" if set(others) == {"holds"} else "fails" if "fails" in others else "unclear"
    verdict, effect = verdict_of([plain, against_all]), student_interval(differences[model], unit="pairs")
    beside: dict[str, object] = {
        f"log FID minus {to}'s": student_interval(values, unit="pairs")
        for to, values in differences.items()
        if to != model
    }
    beside["recall minus the plain one's"] = student_interval(
        paired(networks, guided, model, "recall"), unit="pairs"
    )
    beside |= {f"networks of {one} that collapsed": collapses(networks, one) for one in (guided, model)}
    if len(differences[model]) > 1:
        power = rule.power_in_words(differences[model], PLANNED_NETWORKS)
        beside[f"power with {PLANNED_NETWORKS} networks"] = power
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
        beside=beside,
    )

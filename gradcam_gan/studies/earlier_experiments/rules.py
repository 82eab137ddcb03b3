"""How P5 and P6 are decided; written before any network of theirs was trained.

The unit is a seed: P5's number is of one regression network, P6's the difference between two classifiers of one seed,
which have the same initial weights and see the same images in the same order.

One thing was looked at before, without a network: how well the image and its edges rank the places of a target's
gradient. With the gradient by plain brightness, or over the whole image, they do so almost perfectly or upside down;
of the ink (``targets``), and among the places that have some, there is something to find.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from gradcam_gan.intervals import paired_values, sign_flip, student_interval
from gradcam_gan.studies.claims import Claim, Rule, decision, paired, verdict_of

PLANNED = 8  # networks of the study

# --- P5

NETWORK, LINEAR, MEAN = "network", "linear", "mean"  # what predicts
GRADCAM, RECTIFIED, OCCLUSION = "Grad-CAM", "Grad-CAM after ReLU", "occlusion"  # maps of the network
BLIND = ("image", "edges", "other weights")  # maps that know nothing of what it has learned
AS_GOOD = 0.1  # of the log of the error
AS_NEAR = 0.05  # of a rank correlation

ERROR = Rule(
    "log of the network's error over the linear baseline's, mean of the targets",
    holds_above=0,
    fails_below=0,
    if_true=float(np.log(0.8)),
    if_false=0,
    lower_is_better=True,
    equivalence=AS_GOOD,
)
PLACE = Rule(
    "rank correlation of Grad-CAM with the target's own gradient, minus that of the best control, mean of the targets",
    holds_above=0,
    fails_below=0,
    if_true=2 * AS_NEAR,
    if_false=0,
    equivalence=AS_NEAR,
)


def log_errors(errors: pd.DataFrame, target: str | None = None) -> pd.Series:
    """Log of the network's error over the linear baseline's, by seed.

    Args:
        errors: a row per ``seed``, ``target`` and ``model`` (of ``NETWORK``, ``LINEAR``, ``MEAN``): ``rmse``.
        target: the one of interest; None: the mean of all.
    """
    rows = errors if target is None else errors[errors["target"] == target]
    means = rows.assign(log=np.log(rows["rmse"])).groupby(["seed", "model"])["log"].mean().reset_index()
    return paired_values(means, "model", NETWORK, LINEAR, "log")


def beyond_controls(agreement: pd.DataFrame, name: str = GRADCAM, target: str | None = None) -> pd.Series:
    """A map's rank correlation with the target's gradient minus that of the best control, by seed.

    The best control is chosen for each network and target, after the mean over images.

    Args:
        agreement: a row per ``seed``, ``image``, ``target`` and ``map``: ``own``, the rank correlation with that
            target's gradient (NaN for a constant map).
        name: of the map.
        target: the one of interest; None: the mean of all.
    """
    rows = agreement if target is None else agreement[agreement["target"] == target]
    means = rows.pivot_table("own", ["seed", "target"], "map")
    return (means[name] - means[list(BLIND)].max(axis=1)).groupby("seed").mean()


def own_target(agreement: pd.DataFrame, name: str = GRADCAM) -> pd.Series:
    """By how much a map agrees better with its own target's gradient than with the others', by seed.

    A map of the image alone is the same for all targets, and gives 0.

    Args:
        agreement: as for ``beyond_controls``, with ``other``, the mean rank correlation with the other targets'.
        name: of the map.
    """
    rows = agreement[agreement["map"] == name].dropna(subset=["own", "other"])
    return (rows["own"] - rows["other"]).groupby([rows["seed"], rows["target"]]).mean().groupby("seed").mean()


def judge_regression(errors: pd.DataFrame, agreement: pd.DataFrame) -> Claim:
    """P5: does the regression work, and does Grad-CAM show where its targets lie? Tables as above."""
    ratios, gains = log_errors(errors), beyond_controls(agreement)
    verdict = verdict_of([ERROR.outcome(ratios), PLACE.outcome(gains)])
    effect = student_interval(gains)
    undecided = ERROR if ERROR.outcome(ratios) == "unclear" else PLACE
    beside: dict[str, object] = {}
    for target in dict.fromkeys(errors["target"]):
        beside[f"log error over the linear baseline's, {target}"] = student_interval(
            log_errors(errors, target)
        )
        beside[f"Grad-CAM minus the best control, {target}"] = student_interval(
            beyond_controls(agreement, target=target)
        )
    for name in (RECTIFIED, OCCLUSION):
        beside[f"{name} minus the best control"] = student_interval(beyond_controls(agreement, name))
    beside["Grad-CAM's agreement with its own target minus the other"] = student_interval(
        own_target(agreement)
    )
    if len(gains) > 1:
        beside["sign-flip p"] = f"(a) {sign_flip(ratios):.2g}, (b) {sign_flip(gains):.2g}"
        beside[f"power of (b) with {PLANNED} networks"] = PLACE.power_in_words(gains, PLANNED)
    return Claim(
        "P5",
        "Grad-CAM for a regression network: a regression output layer, explained",
        f"(a) {ERROR.quantity}: holds if its 95 % interval lies below 0, fails if it lies above 0 or the 90 % interval "
        f"within ±{AS_GOOD:g}; (b) {PLACE.quantity}: holds if its interval lies above 0; both: reproduced, (a) alone: "
        "partly, (a) fails: not reproduced",
        verdict,
        PLACE.quantity,
        effect,
        f"(a) {ERROR.quantity}: {student_interval(ratios)}; (b) {PLACE.quantity}: {effect}"
        f"{decision(verdict, undecided, ratios if undecided is ERROR else gains)}",
        p=float(np.max([ERROR.p_value(ratios), PLACE.p_value(gains)])),
        beside=beside,
    )


# --- P6

PLAIN, HEATMAP = "plain", "heatmap"  # images as they are, and with their heatmap added
CONTROLS = ("noise", "blurred copy", "random network")  # with as much energy added to each image
FEW, MANY = "few", "many"  # training images; few are what the claim is judged on
AS_ACCURATE = 0.5  # percentage points

ACCURACY = Rule(
    "accuracy with the heatmap added minus without, few training images, in percentage points",
    holds_above=0,
    fails_below=0,
    if_true=2 * AS_ACCURATE,
    if_false=0,
    equivalence=AS_ACCURATE,
)
# the same of each control: better alone is asked for
BEYOND: Mapping[str, Rule] = {
    name: Rule(
        f"accuracy with the heatmap added minus with {name}, few training images, in percentage points",
        holds_above=0,
        fails_below=0,
        if_true=2 * AS_ACCURATE,
        if_false=0,
    )
    for name in CONTROLS
}


def gains(accuracies: pd.DataFrame, to: str, setting: str = FEW) -> pd.Series:
    """Accuracy with the heatmap added minus another variant's, percentage points by seed.

    Args:
        accuracies: a row per ``seed``, ``setting`` and ``variant``: ``accuracy`` on held-out images, 0..1.
        to: the other variant.
        setting: ``FEW`` or ``MANY``.
    """
    rows = accuracies[accuracies["setting"] == setting]
    return 100 * paired_values(rows, "variant", HEATMAP, to, "accuracy")


def judge_added(accuracies: pd.DataFrame) -> Claim:
    """P6: is a classifier better on images with their heatmap added, and better than with anything else added?"""
    found = {name: gains(accuracies, name) for name in (PLAIN, *CONTROLS)}
    rules = {PLAIN: ACCURACY, **BEYOND}
    verdict = verdict_of([rules[name].outcome(values) for name, values in found.items()])
    effect = paired(found[PLAIN])
    beside: dict[str, object] = {f"minus {name}": paired(found[name]) for name in CONTROLS}
    for name in (PLAIN, *CONTROLS):
        beside[f"minus {name}, many training images"] = paired(gains(accuracies, name, MANY))
    if len(found[PLAIN]) > 1:
        beside["sign-flip p"] = f"{sign_flip(found[PLAIN]):.2g}"
        beside[f"power with {PLANNED} networks"] = ACCURACY.power_in_words(found[PLAIN], PLANNED)
    return Claim(
        "P6",
        "add the class-activation heatmap to the image as a data transformation, and compare model performance",
        f"{ACCURACY.quantity}: holds if its 95 % interval lies above 0, fails if it lies below 0 or the 90 % interval "
        f"within ±{AS_ACCURATE:g}; and the same minus each control ({', '.join(CONTROLS)}): the interval lies above 0; "
        "all hold: reproduced, better than without alone: partly, the first fails: not reproduced",
        verdict,
        ACCURACY.quantity,
        effect,
        f"{ACCURACY.quantity}: {effect}{decision(verdict, ACCURACY, found[PLAIN])}",
        p=float(np.max([rules[name].p_value(values) for name, values in found.items()])),
        beside=beside,
    )

"""P2 and P3 as rules: a model's log FID minus that of the one it is compared with, paired by seed."""

import math
from collections.abc import Sequence

import pandas as pd

from gradcam_gan.intervals import equivalent, sign_flip, student_interval
from gradcam_gan.models.options import MODELS, Diffusion
from gradcam_gan.scoring.scores import WITHOUT_VEIL
from gradcam_gan.studies.claims import PLANNED_NETWORKS, Claim, Rule, decision, verdict_of
from gradcam_gan.studies.diffusion_gans.pictures import horizons
from gradcam_gan.studies.diffusion_gans.tables import collapses, paired

EQUAL = 0.2  # log FID: a difference within it either way is none
LOWEST_ACCURACY = 0.85  # of a conditional DCGAN's classes: below, nothing that builds on it is judged
SIGNIFICANT = 0.05  # p of the sign-flip test


def judge_diffusion(networks: pd.DataFrame, inputs: pd.DataFrame) -> Claim:
    """P2: does a diffusion of D's input make a better G (``network_scores``, ``input_diversity``)?

    Not judged unless T reached half of its largest value by half of the training, in every network.
    """
    model, to = "diffusion-gan", "conditional-dcgan"
    rows = inputs[inputs["model"] == model]
    reached, wanted = float(horizons(rows)["half"].min()), Diffusion().longest / 2
    rose = reached >= wanted  # not where it is NaN, without a network
    by_seed = rows.groupby("seed")[["variance", "dimensions"]].mean()
    return _judge(
        "P2",
        "the forward diffusion of Diffusion-GAN diversifies D's input",
        networks,
        model,
        to,
        needed=" and T half of its largest by half of the training",
        obstacle="" if rose else f"T was {reached:.0f} by half of the training, not {wanted:.0f}",
        beside={
            "recall": student_interval(paired(networks, model, to, "recall"), unit="pairs"),
            "variance of D's input over the images' own": student_interval(by_seed["variance"]),
            "dimensions of D's input over the images' own": student_interval(by_seed["dimensions"]),
            "T by half of the training": f"{reached:.0f}",
        },
    )


def judge_dudgan(networks: pd.DataFrame) -> Claim:
    """P3: do DuDGAN's diffusions and classifier make a better conditional G (``network_scores``)?

    The control has DuDGAN's averaging and R1; the sign flip must agree that G is better.
    """
    model, to, plain = "dudgan", "conditional-dcgan-averaged", "conditional-dcgan"
    p = sign_flip(paired(networks, model, to))
    return _judge(
        "P3",
        "DuDGAN puts diffusion into a class-conditional GAN and adds a classifier",
        networks,
        model,
        to,
        flips=True,
        beside={
            "p of the sign flip": f"{p:.2g}",
            f"log FID minus {plain}'s": student_interval(paired(networks, model, plain), unit="pairs"),
        },
    )


def _judge(
    name: str,
    text: str,
    networks: pd.DataFrame,
    model: str,
    to: str,
    *,
    needed: str = "",
    obstacle: str = "",
    flips: bool = False,
    beside: dict[str, object],
) -> Claim:
    """A claim by a model's log FID minus another's; with an obstacle it is not judged, and the effect has no number."""
    rule = log_fid_rule(model, to)
    obstacle = obstacle or _wrong_classes(networks, to)
    differences = [] if obstacle else paired(networks, model, to)
    outcome = rule.outcome(differences)
    if flips and outcome == "holds" and not sign_flip(differences) < SIGNIFICANT:
        outcome = "fails" if equivalent(differences, EQUAL) else "unclear"
    verdict, effect = verdict_of([outcome]), student_interval(differences, unit="pairs")
    flipped = f" with p < {SIGNIFICANT} of the sign flip" if flips else ""
    factor = f"{rule.quantity}: {effect}; FID times {math.exp(effect.estimate):.2f}"
    return Claim(
        name,
        text,
        f"{rule.quantity}: holds if its interval lies below 0{flipped}, else fails if it lies above 0 or its 90 % "
        f"interval within ±{EQUAL}; judged only with a class accuracy of {LOWEST_ACCURACY} of the conditional "
        f"DCGANs{needed}",
        verdict,
        rule.quantity,
        effect,
        f"not judged: {obstacle}" if obstacle else factor + decision(verdict, rule, differences),
        p=rule.p_value(differences),
        beside=beside | beside_every(rule, networks, model, to, differences),
    )


def log_fid_rule(model: str, to: str) -> Rule:
    """A model's log FID minus another's: lower is better, and within ``EQUAL`` is none."""
    return Rule(
        quantity=f"log FID of {model} minus that of {to}",
        holds_above=0,
        fails_below=0,
        if_true=-2 * EQUAL,
        if_false=0,
        lower_is_better=True,
        equivalence=EQUAL,
    )


def beside_every(
    rule: Rule, networks: pd.DataFrame, model: str, to: str, differences: Sequence[float]
) -> dict[str, object]:
    """Beside every such claim: the same where no veil counts, if networks were scored so; collapses, wins and power."""
    beside: dict[str, object] = {}
    if (name := f"log_fid{WITHOUT_VEIL}") in networks:
        unveiled = paired(networks, model, to, name)
        beside[f"log FID without the veil, minus {to}'s"] = student_interval(unveiled, unit="pairs")
    beside |= {f"networks of {one} that collapsed": collapses(networks, one) for one in (model, to)}
    if len(differences) > 1:
        # a look at seven pairs: a few collapses widen Student's interval over 0 even where every pair agrees
        better = sum(value < 0 for value in differences)
        beside[f"pairs in which {model} is better"] = f"{better} of {len(differences)}"
        power = rule.power_in_words(differences, PLANNED_NETWORKS)
        beside[f"power with {PLANNED_NETWORKS} networks"] = power
    return beside


def _wrong_classes(networks: pd.DataFrame, model: str | None) -> str:
    """Whether this conditional DCGAN, or one that it builds on, errs in the class asked for; empty if none does."""
    while model and MODELS[model].model is not None:
        accuracy = networks.loc[networks["model"] == model, "class_accuracy"].mean()
        if accuracy < LOWEST_ACCURACY:
            return f"{model} has a mean class accuracy of {accuracy:.3f}, below {LOWEST_ACCURACY}"
        model = MODELS[model].compared_with
    return ""

"""The arms of the pruning experiment as options: what is refused, what names them, and which a study has."""

import math
from itertools import product

import pytest
from helpers import RULE, refused, tiny

from gradcam_gan.studies.arms import Arm, Pruning, Rule
from gradcam_gan.studies.study import PROFILES, Study


def arm(*, training=None, baseline=None, **fields):
    return Arm(
        Pruning(**RULE | {"arm": "rule70", "epoch": 1} | fields), training or tiny(), baseline or tiny()
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cut": 0}, "cut=0: input should be greater than 0"),
        ({"tau": 1.01}, "tau=1.01: input should be less than or equal to 1"),
        ({"arm": "dose"}, "arm='dose' needs the share to delete, such as share=0.2"),
        ({"arm": "dose", "share": 20}, "share=20: input should be less than 1"),
        ({"share": 0.2}, "share=0.2 with arm='rule70', which deletes what the rule says; use arm='dose'"),
        ({"arm": "rule07"}, "arm='rule07': input should be 'rule70', 'dose', 'random', 'inverse'"),
        ({"shares": 0.2}, "'shares' is not a field; did you mean 'share'?"),
        ({"epoch": "clearst"}, "input should be 'clearest'"),
        ({"normalisation": 0}, "normalisation=0.0 must be 'max', 'min-max' or a positive number"),
        ({"normalisation": math.inf}, "input should be a finite number"),
    ],
    ids=str,
)
def test_bad_input_is_one_clear_line(fields, said):
    message = refused(Pruning, **RULE | {"arm": "rule70"} | fields)
    assert message.startswith("Pruning: ")
    assert said in message


@pytest.mark.parametrize("epoch", [3, -1])
def test_the_scoring_epoch_must_be_the_baselines(epoch):
    assert refused(arm, epoch=epoch) == f"pruning.epoch={epoch} must lie in 0..epochs=2 of the baseline"
    assert arm(epoch=0).pruning.epoch == 0
    assert arm(epoch=3, baseline=tiny(epochs=3)).training.epochs == 2


def test_only_a_dcgan_is_pruned():
    assert "the paper's experiment with a DCGAN" in refused(arm, training=tiny(model={"conditional": True}))


@pytest.mark.parametrize(
    ("fields", "label", "start"),
    [
        ({}, "rule70", "rule70-seed4-"),
        ({"arm": "dose", "share": 0.07}, "dose 7 %", "dose7-seed4-"),
        (
            {"arm": "instance-selection", "share": 0.125},
            "instance-selection 12.5 %",
            "instanceselection125-seed4-",
        ),
    ],
)
def test_is_called_by_its_kind_share_and_seed(fields, label, start):
    one = arm(**fields, training=tiny(seed=4))
    assert (one.label, one.seed) == (label, 4)
    assert one.name.startswith(start)


def test_whatever_changes_the_selection_changes_the_name():
    every = [
        {},
        *({"arm": kind} for kind in ("random", "inverse", "instance-selection", "self-diagnosing")),
        *({"arm": "dose", "share": share} for share in (0.2, 0.2000001)),
        {"epoch": 2},
        {"epoch": "clearest"},
        {"method": "hirescam"},
        {"statistics": "reference"},
        {"evidence": "real"},
        {"normalisation": "max"},
        {"normalisation": 1.0},
        {"tau": 0.5},
        {"cut": 0.5},
        {"probe_images": 255},
        {"calibration_images": 255},
    ]
    assert {name for fields in every for name in fields} == set(
        Pruning.model_fields
    )  # a new one belongs here
    arms = [*(arm(**fields) for fields in every), arm(baseline=tiny(width=3))]
    assert len({one.name[-8:] for one in arms}) == len(arms)  # the hash alone tells them apart


@pytest.mark.parametrize("profile", PROFILES)
def test_every_arm_of_a_study_is_paired_over_the_same_seeds_and_has_the_studys_values(profile):
    study = Study.load(profile)
    arms, section = study.arms(), study.pruning
    expected = [(kind, None) for kind in section.arms]
    expected += [(kind, dose) for dose in section.doses for kind in section.dose_arms]
    found = [(one.pruning.arm, one.pruning.share, one.seed) for one in arms]
    assert found == [(*which, seed) for which, seed in product(expected, section.seeds)]
    assert {"rule70", "random"} <= set(section.arms)  # the rule and its control
    for one in arms:
        images = {"probe_images": study.probe_images, "calibration_images": study.calibration_images}
        rule = section.model_dump(include=set(Rule.model_fields))
        assert one.pruning.model_dump(exclude={"arm", "share"}) == rule | images


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pruning.cut": 1.01}, "pruning: cut=1.01: input should be less than or equal to 1"),
        ({"pruning.arms": ["rule7"]}, "pruning: arms.0='rule7': input should be 'rule70', 'dose', "),
        ({"pruning.arms": ["dose"]}, "arm='dose' needs the share to delete"),
        ({"pruning.epoch": 4}, "pruning.epoch=4 must lie in 0..epochs=3"),
    ],
)
def test_a_study_refuses_what_no_arm_can_be(changes, said):
    assert said in refused(Study.load, "smoke", **changes)

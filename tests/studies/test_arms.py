"""The arms of the pruning experiment as options: what is refused, what names them, and which a study has."""

from itertools import product

import pytest
from helpers import refused, tiny

from gradcam_gan.studies.prune_70.arms import Arm, Pruning, Rule
from gradcam_gan.studies.study import PROFILES, Study

RULE = {
    "epoch": 1,
    "method": "gradcam",
    "layer": "conv3",
    "statistics": "running",
    "evidence": "real",
    "tau": 0,
    "cut": 0.7,
    "calibration_images": 32,
    "arm": "rule70",
}


def arm(*, training=None, scorer=None, **fields):
    return Arm(Pruning(**RULE | fields), training or tiny(), scorer or tiny())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cut": 0}, "cut=0: input should be greater than 0"),
        ({"tau": 1}, "tau=1: input should be less than 1"),
        ({"arm": "dose"}, "arm='dose' needs the share to delete, such as share=0.2"),
        ({"arm": "dose", "share": 20}, "share=20: input should be less than 1"),
        ({"share": 0.2}, "share=0.2 with arm='rule70', which deletes what the rule says; use arm='dose'"),
        ({"arm": "rule07"}, "arm='rule07': input should be 'rule70', 'dose', 'random', 'inverse'"),
        ({"layer": "conv9"}, "layer='conv9': input should be 'conv1'"),
        ({"shares": 0.2}, "'shares' is not a field; did you mean 'share'?"),
    ],
    ids=str,
)
def test_bad_input_is_one_clear_line(fields, said):
    message = refused(Pruning, **RULE | fields)
    assert message.startswith("Pruning: ")
    assert said in message


def test_the_scoring_epoch_must_be_the_scorers():
    assert refused(arm, epoch=3).startswith(
        "pruning.epoch=3 must lie in 0..epochs=2 of the network that scores"
    )
    assert arm(epoch=3, scorer=tiny(epochs=3)).training.epochs == 2


@pytest.mark.parametrize(
    ("fields", "label", "start"),
    [
        ({}, "rule70", "rule70-seed4-"),
        ({"arm": "dose", "share": 0.07}, "dose 7 %", "dose7-seed4-"),
        ({"arm": "random", "share": 0.125}, "random 12.5 %", "random125-seed4-"),
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
        {"method": "hirescam"},
        {"layer": "block3"},
        {"statistics": "reference"},
        {"evidence": "fake"},
        {"tau": 0.5},
        {"cut": 0.5},
        {"calibration_images": 255},
    ]
    assert {name for fields in every for name in fields} == set(
        Pruning.model_fields
    )  # a new one belongs here
    arms = [*(arm(**fields) for fields in every), arm(scorer=tiny(width=3)), arm(training=tiny(width=3))]
    assert len({one.name[-8:] for one in arms}) == len(arms)  # the hash alone tells them apart


@pytest.mark.parametrize("profile", PROFILES)
def test_every_arm_of_a_study_is_paired_over_the_same_seeds_and_scored_by_the_studys_own_network(profile):
    study = Study.load(profile)
    arms, section = study.arms(), study.pruning
    expected = [(kind, None) for kind in section.arms]
    expected += [(kind, dose) for dose in section.doses for kind in section.dose_arms]
    assert {("dose", 0.2), ("random", 0.2)} <= set(expected)  # claim C6 is judged on these
    found = [(one.pruning.arm, one.pruning.share, one.seed) for one in arms]
    assert found == [(*which, seed) for which, seed in product(expected, study.pairs.seeds)]
    for one in arms:
        rule = section.model_dump(include=set(Rule.model_fields))
        images = {"calibration_images": study.calibration_images}
        assert one.pruning.model_dump(exclude={"arm", "share"}) == rule | images
        assert (one.training, one.scorer) == (study.pair_config(one.seed), study.config(one.seed))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pruning.cut": 1.01}, "pruning: cut=1.01: input should be less than or equal to 1"),
        ({"pruning.arms": ["dose"]}, "arm='dose' needs the share to delete"),
        ({"pruning.epoch": 4}, "pruning.epoch=4 must lie in 0..epochs=3"),
    ],
)
def test_a_study_refuses_what_no_arm_can_be(changes, said):
    assert said in refused(Study.load, "smoke", **changes)

import pytest
from helpers import tiny

from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.cost import core_seconds

PAPER = TrainingConfig(data="mnist")


def test_an_hour_is_an_hour_and_what_takes_over_four_gets_more():
    assert core_seconds(PAPER) > 4 * 3600  # as the paper trains, on one core
    assert core_seconds(PAPER.changed(width=32)) == pytest.approx(60_000 * 25 / 320, rel=0.05)
    assert core_seconds(PAPER.changed(width=16)) == pytest.approx(60_000 * 25 / 830, rel=0.05)
    assert core_seconds(PAPER.changed(width=16, preset="paper28", size=28)) == pytest.approx(
        60_000 * 25 / 1400, rel=0.05
    )
    assert core_seconds(tiny()) < 1


def test_twice_the_work_takes_twice_as_long():
    one = core_seconds(TrainingConfig(train_images=1000, epochs=3))
    assert core_seconds(TrainingConfig(train_images=2000, epochs=3)) == pytest.approx(2 * one)
    assert core_seconds(TrainingConfig(train_images=1000, epochs=6)) == pytest.approx(2 * one)
    assert core_seconds(TrainingConfig()) == pytest.approx(core_seconds(TrainingConfig(train_images=4000)))

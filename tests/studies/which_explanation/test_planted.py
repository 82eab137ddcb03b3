"""The planted marker: where it is, that a D learns it, and that the rule finds a map that shows it."""

import pandas as pd
import pytest
import torch

from gradcam_gan.data import load_images, to_model_range
from gradcam_gan.studies.which_explanation.measured import (
    explain_all,
    explanations,
    occlusion_tables,
    sanity_table,
)
from gradcam_gan.studies.which_explanation.planted import (
    HELD_OUT_SEED,
    PLANTED,
    SIDE,
    TRAININGS,
    ceiling,
    falls,
    in_marker,
    marker,
    plant,
    train_planted,
)
from gradcam_gan.studies.which_explanation.rule import MARGIN, recommendation
from gradcam_gan.studies.which_explanation.tables import summary
from gradcam_gan.training.config import TrainingConfig


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A D that has learned the marker, in seconds; mirrored digits stand for generated ones."""
    config = TrainingConfig(
        width=8, epochs=4, batch_size=32, learning_rate=2e-3, precision="float32", device="cpu", threads=1
    )
    images = load_images("mnist-5k", 64).images[:1024]
    return train_planted(config, images, images.flip(3), tmp_path_factory.mktemp("runs"), TRAININGS[PLANTED])


def test_the_marker_stands_where_the_mask_says_and_nowhere_else(digits):
    marked, mask = plant(digits, 0)
    assert (mask.sum((1, 2)) == SIDE**2).all()
    assert torch.equal(
        marked[:, 0][mask].view(len(digits), SIDE, SIDE), marker().expand(len(digits), SIDE, SIDE)
    )
    assert torch.equal(marked[:, 0][~mask], digits[:, 0][~mask])
    assert torch.equal(plant(digits, 0)[0], marked)
    assert not torch.equal(plant(digits, 1)[1], mask)


def test_the_marker_s_place_is_uniform_over_the_image(digits):
    """No habit of a map wins: the mean of the place is the centre, and every corner is reached."""
    _, mask = plant(digits, 0)
    places = mask.flatten(1).int().argmax(1)
    for place in (places // 64, places % 64):
        assert place.min() == 0
        assert place.max() == 64 - SIDE
        assert place.double().mean() == pytest.approx((64 - SIDE) / 2, abs=2)  # 3.9 standard errors


def test_a_map_of_the_marker_is_perfect_and_an_empty_one_has_nothing(digits):
    _, mask = plant(digits[:4], 0)
    maps = {("image", "perfect"): mask.float(), ("image", "against"): -mask.float()}
    found = in_marker(maps, mask).pivot_table("value", "method", "measure")
    assert found.loc["perfect"].to_list() == [1, 1]
    assert found.loc["against", "energy"] == 0
    best = in_marker({("conv3", "best"): ceiling(mask, 8, 8)}, mask).pivot_table("value", "method", "measure")
    assert 0.2 < best.loc["best", "energy"] < 1


def test_d_uses_the_marker(planted, digits):
    found = falls(planted[0], digits[:256])
    assert (found["fall"] > 0).mean() > 0.99
    assert ((found["marked"] > 0) & (found["unmarked"] < 0)).mean() > 0.9


def test_what_is_recommended_beats_every_control_by_the_margin_on_other_images(planted, digits):
    network, reference = planted
    wanted = explanations(["gradcam", "hirescam", "gradient-x-input"], ["conv2", "conv3"])
    marked, mask = plant(digits[:32], HELD_OUT_SEED)
    explained = explain_all(network, marked, wanted)
    shown = to_model_range(digits[:8])
    maps = explain_all(network, shown, wanted).maps
    tables = [
        in_marker(explained.maps, mask),
        occlusion_tables(network, shown, maps, steps=4)[0],
        sanity_table(network, shown, maps, reference, seed=0),
    ]
    measures = pd.concat(tables).assign(network=0, epoch=4, source="real")
    advice = recommendation(summary(measures, explained.costs))
    assert advice.method is not None
    others, places = plant(digits[500:564], 7)
    again = in_marker(explain_all(network, others, [(advice.layer, advice.method)]).maps, places)
    energy = again[again["measure"] == "energy"].groupby("method")["value"].mean()
    assert energy[advice.method] > energy.drop(advice.method).max() + MARGIN

"""Removing and training anew: what is removed, and that it matters when it is what tells the sets apart."""

import pytest
import torch
from helpers import tiny

from gradcam_gan.studies.which_explanation.retrained import NOTHING, Sets, retrained_table


@pytest.fixture(scope="module")
def images():
    """Digits' size of black, with a bright square in the one kind alone."""
    blank = torch.zeros(128, 1, 28, 28, dtype=torch.uint8)
    noise = torch.randint(0, 60, blank.shape, generator=torch.Generator().manual_seed(0)).byte()
    real = noise.clone()
    real[:, :, 4:8, 4:8] = 255
    return Sets(real[:96], noise.flip(0)[:96], real[96:], noise[96:])


def test_without_what_tells_them_apart_nothing_is_learned_and_without_the_rest_all_is(images):
    there = torch.zeros(1, 28, 28)
    there[:, 4:8, 4:8] = -1.0  # evidence against counts as much
    elsewhere = there.roll((12, 12), (1, 2))
    maps = {
        ("image", name): Sets(*(one.expand(len(some), -1, -1) for some in images))
        for name, one in (("there", there), ("elsewhere", elsewhere))
    }
    share = 16 / 28**2
    config = tiny(epochs=8, learning_rate=0.01)
    table = retrained_table(config, images, maps, [share], [0, 1]).set_index(["method", "seed"])["accuracy"]
    for seed in (0, 1):
        assert table[NOTHING[1], seed] > 0.95
        assert table["elsewhere", seed] > 0.95
        assert 0.2 < table["there", seed] < 0.8

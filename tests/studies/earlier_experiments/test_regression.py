"""Regression networks whose answer is known, and how maps are compared with a gradient."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from gradcam_gan.explaining.cam import explain
from gradcam_gan.studies.earlier_experiments import rules
from gradcam_gan.studies.earlier_experiments.regression import (
    Standard,
    by_place,
    error_table,
    output,
    true_values,
    within,
)
from gradcam_gan.studies.earlier_experiments.targets import TARGETS


class Known(nn.Module):
    """Says the true values, standardised, and a little more."""

    def __init__(self, standard, errors):
        super().__init__()
        self.standard, self.errors = standard, nn.Parameter(torch.tensor(errors))

    def forward(self, images):
        return self.standard.standardised(true_values(images)) + self.errors / self.standard.deviation


def test_errors_are_in_the_targets_units(digits):
    training, held_out = digits[:200], digits[200:300]
    standard = Standard.of(true_values(training))
    found = error_table(Known(standard, [0.1, -2.0]), standard, training, held_out).set_index(
        ["target", "model"]
    )
    assert found["rmse"]["thickness", rules.NETWORK] == pytest.approx(0.1, rel=1e-3)
    assert found["rmse"]["slant", rules.NETWORK] == pytest.approx(2, rel=1e-3)
    spread = true_values(held_out).std(0, correction=0)
    for i, target in enumerate(TARGETS):
        assert found["r2"][target, rules.NETWORK] == pytest.approx(
            1 - (found["rmse"][target, rules.NETWORK] / float(spread[i])) ** 2, abs=1e-4
        )
        assert found["rmse"][target, rules.LINEAR] < 0.8 * found["rmse"][target, rules.MEAN]
        assert found["r2"][target, rules.MEAN] <= 0


def test_one_output_is_explained_through_the_target():
    """Each output of a linear head sees one half of the channels, and so one half of the image."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network[0].weight.data = torch.tensor([[[[1.0]]], [[[-1.0]]]])
    images = torch.rand(3, 1, 8, 8)
    first, second = (
        explain(network, images, target=output(index), layer="0", evidence="signed") for index in (0, 1)
    )
    assert torch.allclose(first, -second)
    assert torch.allclose(first, images[:, 0] / 64, atol=1e-6)


@pytest.mark.parametrize("side", [28, 32, 10])
def test_a_places_mean_is_that_of_its_part_of_the_image(side):
    maps = torch.rand(2, side, side)
    found = by_place(maps)
    assert found.shape == (2, 8, 8)
    assert torch.allclose(found.mean((1, 2)), maps.mean((1, 2)), atol=1e-6)
    # the first place: whole pixels, and what is left of the next
    share = (side / 8 - torch.arange(side)).clamp(0, 1)
    weights = share[:, None] * share
    assert torch.allclose(found[:, 0, 0], (maps * weights).sum((1, 2)) / weights.sum(), atol=1e-5)


def test_ranks_are_compared_within_the_places_alone():
    a, b = torch.rand(2, 4, 8, 8)
    places = torch.rand(4, 8, 8) > 0.5
    found = within(a, b, places)
    for i in range(4):
        expected = stats.spearmanr(a[i][places[i]], b[i][places[i]]).statistic
        assert found[i] == pytest.approx(expected)
    b[0, ~places[0]] = 100  # elsewhere nothing counts
    a[1][places[1]] = 3.0
    again = within(a, b, places)
    assert again[0] == found[0]
    assert math.isnan(again[1])
    assert np.allclose(within(b, b, places), 1)

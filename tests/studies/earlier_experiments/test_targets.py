"""Shapes of known width and slope, and gradients against finite differences."""

import math

import pytest
import torch
from helpers import refused
from torch.nn import functional as F

from gradcam_gan.data import load_images
from gradcam_gan.studies.earlier_experiments.targets import TARGETS, gradients, slant, thickness

FINE = 8  # points a side in each pixel, of which its grey is the mean


def pixels(inside):
    """A shape given as a function of (x, y) in pixels, drawn at 28x28: (1, 1, 28, 28) in [-1, 1], float64."""
    place = (torch.arange(28 * FINE, dtype=torch.float64) + 0.5) / FINE - 14
    drawn = inside(place[None, :], place[:, None]).double()
    return 2 * F.avg_pool2d(drawn[None, None], FINE) - 1


def bar(width, lean, length=20):
    """An upright bar, sheared so that it leans to the right by so many degrees; y points down."""
    return pixels(
        lambda x, y: ((x + y * math.tan(math.radians(lean))).abs() < width / 2) & (y.abs() < length / 2)
    )


@pytest.mark.parametrize("width", [2, 3, 4, 6])
def test_a_ring_is_as_thick_as_it_was_drawn(width):
    ring = pixels(lambda x, y: ((x**2 + y**2).sqrt() - 8).abs() < width / 2)
    assert float(thickness(ring)) == pytest.approx(width, rel=0.04)


@pytest.mark.parametrize("width", [2, 4, 6])  # whole pixels
def test_a_bars_thickness_is_twice_its_area_over_its_outline(width):
    # an outline between pixels: straight edges count whole, each corner as the diagonal of half a pixel
    outline = 2 * (width - 1 + 20 - 1) + 4 * math.sqrt(0.5)
    assert float(thickness(bar(width, 0))) == pytest.approx(2 * width * 20 / outline, rel=0.02)


@pytest.mark.parametrize("lean", [-40, -15, 0, 10, 30])
def test_a_sheared_bar_has_its_slope(lean):
    assert float(slant(bar(3, lean))) == pytest.approx(lean, abs=0.3)


def test_neither_depends_on_where_the_digit_stands():
    digit = bar(3, 20, 12)
    for target in TARGETS.values():
        assert torch.allclose(target(digit.roll((3, -4), (2, 3))), target(digit))


@pytest.mark.parametrize("target", TARGETS)
def test_gradients_are_those_of_small_steps(target):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 7, 9, generator=generator, dtype=torch.float64) * 1.8 - 0.9
    found = gradients(images, target)
    assert found.shape == (2, 7, 9)
    step = 1e-5
    for row, column in ((0, 0), (3, 4), (6, 8)):
        both = [images.clone() for _ in range(2)]
        for one, sign in zip(both, (1, -1), strict=True):
            one[:, :, row, column] += sign * 2 * step  # a step of the brightness is two of [-1, 1]
        rise, fall = (TARGETS[target](one) for one in both)
        assert torch.allclose(
            found[:, row, column].double(), (rise - fall) / (2 * step), rtol=1e-3, atol=1e-5
        )


def test_they_lie_on_the_outline_thickness_all_along_and_slant_at_the_ends():
    digit = bar(3.5, 0)  # its sides are half grey
    shown = {target: gradients(digit, target)[0].abs() for target in TARGETS}
    grey = (digit[0, 0] > -1) & (digit[0, 0] < 1)
    assert not any(found[~grey].any() for found in shown.values())
    middle, end = slice(12, 16), slice(4, 8)
    assert shown["slant"][end].sum() > 5 * shown["slant"][middle].sum()
    assert shown["thickness"][middle].sum() > 0.5 * shown["thickness"][end].sum() > 0


def test_of_digits_as_bytes_they_are_plausible():
    digits = load_images("mnist-5k", 28, "test").images
    assert 1.5 < float(thickness(digits).mean()) < 4
    assert 0 < float(slant(digits).mean()) < 20  # people lean to the right
    assert torch.allclose(slant(digits.flip(3)), -slant(digits), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: -torch.ones(1, 1, 28, 28), "empty"),
        (lambda: torch.zeros(1, 28, 28), "(N, C, H, W)"),
    ],
)
def test_bad_images_are_refused(make, reason):
    for target in TARGETS.values():
        assert reason in refused(target, make())


def test_one_row_has_no_slant():
    line = -torch.ones(1, 1, 28, 28)
    line[:, :, 14] = 1
    assert "one row" in refused(slant, line)

"""The measures of all explanations of one network, against the library's called one by one."""

import math

import pytest
import torch
from helpers import randomised

from gradcam_gan.data import to_model_range
from gradcam_gan.explaining.cam import explain
from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.explaining.quality import flipping_curves, occlusion_gap
from gradcam_gan.models.dcgan import Discriminator
from gradcam_gan.studies.which_explanation.measured import (
    CASCADE,
    CONTROLS,
    completeness_table,
    explain_all,
    explanations,
    noise_table,
    occlusion_tables,
    sanity_table,
)
from gradcam_gan.studies.which_explanation.rule import INDEPENDENT

WANTED = explanations(
    ["gradcam", "hirescam", "gradient-x-input", "integrated-gradients"], ["conv3", "block3"]
)


@pytest.fixture(scope="module")
def network():
    return randomised(Discriminator(width=2))


@pytest.fixture(scope="module")
def images(digits):
    return to_model_range(digits[:6])


@pytest.fixture(scope="module")
def maps(network, images):
    return explain_all(network, images, WANTED).maps


def test_every_method_at_every_layer_and_once_without_one(maps):
    assert [key for key in maps if key[1] in METHODS] == WANTED
    assert WANTED.count(("image", "gradient-x-input")) == 1
    assert [key for key in maps if key[1] not in METHODS] == [("image", name) for name in CONTROLS]


def test_gaps_and_curves_are_those_of_the_library(network, images, maps):
    gaps, curves = occlusion_tables(network, images, maps, steps=4)
    with torch.no_grad():
        spread = network(images).std()
    enlarged = explain(network, images, method="hirescam", layer="conv3", evidence="signed")
    least, most = (
        flipping_curves(network, images, enlarged, occluder="blur", order=order, steps=4) / spread
        for order in ("least", "most")
    )
    own = gaps[(gaps["method"] == "hirescam") & (gaps["layer"] == "conv3")]
    found = own.pivot_table("value", "image", "measure")
    assert found["gap_blur"].to_numpy() == pytest.approx(occlusion_gap(least, most).numpy(), abs=1e-5)
    assert found["gap"].to_numpy() == pytest.approx(
        found[["gap_background", "gap_blur"]].mean(axis=1).to_numpy()
    )
    chosen = (curves["method"] == "hirescam") & (curves["layer"] == "conv3") & (curves["occluder"] == "blur")
    curve = curves[chosen & (curves["order"] == "most")].sort_values("replaced")
    assert curve["replaced"].to_list() == [0, 0.25, 0.5, 0.75, 1]
    assert curve["score"].to_numpy() == pytest.approx(most.mean(0).numpy(), rel=1e-4)


def test_a_map_that_ignores_the_network_fails_the_sanity_check(network, images, maps, digits):
    """And the reverse: gradients are other ones when the weights are."""
    found = sanity_table(network, images, maps, digits[500:564], seed=0)
    table = found.pivot_table("value", "method", "measure")
    assert set(table.columns) == {"randomised", *(f"randomised_{name}" for name in CASCADE if name != "all")}
    assert (table.loc[list(CONTROLS)] > 0.999).all(axis=None)
    assert table.loc["gradient-x-input", "randomised"] < INDEPENDENT
    assert found["value"].dropna().between(0, 1.001).all()


def test_noise_changes_what_looks_at_the_image_alone(network, images):
    table = noise_table(
        network, images, [("conv3", "gradcam"), ("image", "centre"), ("image", "edges")], 0.05
    )
    noise = table.groupby("method")["value"].mean()
    assert noise["centre"] == 0
    assert noise["gradcam"] > 0
    assert noise["edges"] > 0


def test_only_what_promises_a_sum_has_an_error(network, images, maps):
    table = completeness_table(network, images, maps)
    assert set(zip(table["layer"], table["method"], strict=True)) == {
        ("block3", "hirescam"),
        ("image", "integrated-gradients"),
    }
    errors = table.groupby("method")["value"].max()
    assert errors["hirescam"] < 1e-4
    assert errors["integrated-gradients"] < 0.1
    # without a linear head behind it HiResCAM promises nothing, and does not hold it either
    wrong = {("block3", "hirescam"): maps["conv3", "hirescam"]}
    assert completeness_table(network, images, wrong)["value"].max() > 0.01
    assert completeness_table(network, images, {}).empty
    assert not math.isnan(table["value"].sum())

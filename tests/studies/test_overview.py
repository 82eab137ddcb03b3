import numpy as np
import pytest
import torch
from helpers import assert_nothing_is_cut_off, draw, tiny

from gradcam_gan.explaining.cam import explain
from gradcam_gan.run_explainer import Reading, RunExplainer
from gradcam_gan.studies.overview import SHOWN_METHODS, overview, overview_figure
from gradcam_gan.studies.style import PAGE
from gradcam_gan.training.loop import train

READING = Reading(statistics="reference", layer="block2")


@pytest.fixture(scope="module")
def shown(tmp_path_factory, digits):
    run = train(tiny(preset="paper64", width=8, epochs=1), tmp_path_factory.mktemp("runs"))
    explainer = RunExplainer(run, digits[500:532])
    return overview(explainer, digits[:2], ["a digit", "another"], 1, READING), explainer


def test_maps_are_those_of_explain_and_activations_those_of_the_layer(shown, digits):
    found, explainer = shown
    network = explainer.explained(1, "reference")
    for method in SHOWN_METHODS:
        expected = explain(network, digits[:2], method=method, layer="block2", evidence="signed")
        torch.testing.assert_close(found.maps[method], expected)
    with torch.no_grad():
        whole = network.layers[:5](digits[:2] / 127.5 - 1)
        torch.testing.assert_close(found.logits, network(digits[:2] / 127.5 - 1))
    means = whole.abs().mean((0, 2, 3)).sort(descending=True).values
    torch.testing.assert_close(found.activations.abs().mean((0, 2, 3)), means[:16])


def test_the_table_holds_every_value(shown):
    found, _ = shown
    table = found.table
    assert len(table) == found.activations.numel() + 3 * 2 * 64 * 64
    (row,) = table.query("shown == 'lime' and image == 1 and row == 20 and column == 33")["value"]
    assert row == found.maps["lime"][1, 20, 33]
    (row,) = table.query(
        "shown == 'activations' and image == 1 and channel == 5 and row == 2 and column == 3"
    )["value"]
    assert row == found.activations[1, 5, 2, 3]


def test_every_column_has_one_scale_around_zero(shown):
    found, _ = shown
    figure = draw(overview_figure, found)
    assert_nothing_is_cut_off(figure, PAGE)
    grid = np.array(figure.axes[:10]).reshape(2, 5)
    assert [axes.get_title() for axes in grid[0]] == [
        "image", "activations of block2", "Grad-CAM at block2", "Occlusion", "LIME",
    ]  # fmt: skip
    assert [axes.get_ylabel().split("\n")[0] for axes in grid[:, 0]] == ["a digit", "another"]
    assert [axes.get_xlabel() for axes in figure.axes[10:]] == ["pixel value", "activation", *["logit"] * 3]
    for column, maps in zip(grid.T[2:], found.maps.values(), strict=True):
        for axes, one in zip(column, maps, strict=True):
            (picture,) = axes.images
            np.testing.assert_array_equal(picture.get_array(), one)
            assert picture.get_clim() == (-maps.abs().max(), maps.abs().max())
    squares = grid[1, 1].images[0].get_array()
    np.testing.assert_array_equal(squares[:16, 17:33], found.activations[1, 1])
    np.testing.assert_array_equal(squares[17:33, :16], found.activations[1, 4])

"""The figures of notebook 6: nothing is cut off, and they show what the tables say."""

import pytest
import torch
from helpers import assert_nothing_is_cut_off, draw, texts

from gradcam_gan.studies.style import COLUMN, PAGE
from gradcam_gan.studies.which_explanation import charts
from gradcam_gan.studies.which_explanation.measured import CONTROLS
from gradcam_gan.studies.which_explanation.planted import plant
from gradcam_gan.studies.which_explanation.tables import CEILING, Assessment, ceilings, summary


@pytest.fixture(scope="module")
def together(found):
    return Assessment.together(found[0])


def test_quality_against_cost_has_a_row_a_method_and_the_cheapest_first(together):
    table = summary(together.measures, together.costs)
    figure = draw(charts.quality_against_cost, table, ceilings(together.measures))
    assert_nothing_is_cut_off(figure, PAGE)
    rows = texts(figure.axes[0].get_yticklabels())
    assert rows[3:] == [charts.label_of(name) for name in CONTROLS]
    costs = table.dropna(subset="milliseconds").groupby("method")["milliseconds"].min().sort_values()
    assert rows[:3] == [charts.label_of(name) for name in costs.index]


def test_curves_have_a_panel_a_method(together):
    for occluder in ("background", "blur"):
        figure = draw(charts.flipping_chart, together.curves, occluder)
        assert_nothing_is_cut_off(figure, PAGE)
        titles = [axes.get_title() for axes in figure.axes]
        assert titles == ["Grad-CAM", "HiResCAM", "Gradient × input", "image itself", "edges", "centre"]


def test_the_cascade_has_a_row_an_explanation(together):
    figure = draw(charts.cascade_chart, together.measures)
    assert_nothing_is_cut_off(figure, COLUMN, (6.5, 7.0))
    assert len(texts(figure.axes[0].get_yticklabels())) == 2 * 2 + 1 + len(CONTROLS)


def test_retrained_has_a_panel_a_share(together):
    figure = draw(charts.retrained_chart, together.retrained)
    assert_nothing_is_cut_off(figure, PAGE)
    assert [axes.get_title() for axes in figure.axes] == [
        "10 % of the pixels removed",
        "20 % of the pixels removed",
    ]


def test_every_map_of_the_marked_image_is_shown(digits):
    marked, mask = plant(digits[:1], 0)
    maps = {("conv3", "gradcam"): torch.rand(1, 8, 8), ("conv3", "hirescam"): torch.zeros(1, 8, 8)}
    maps |= {("image", "lime"): torch.rand(1, 64, 64), ("image", "edges"): torch.rand(1, 64, 64)}
    maps["image", CEILING] = torch.rand(1, 8, 8)
    figure = draw(charts.planted_grid, marked, mask, maps)
    assert_nothing_is_cut_off(figure, PAGE)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Grad-CAM", "HiResCAM", "image", "LIME", "edges", "best at 8x8"]

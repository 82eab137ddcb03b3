"""The charts show the numbers that they are given."""

from dataclasses import asdict

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from gradcam_gan.run_explainer import STATISTICS
from gradcam_gan.studies.epoch_heatmaps import charts
from gradcam_gan.studies.readings import ALL_READINGS, COMPARED_LAYERS, PRIMARY

EPOCHS, SEEDS = np.arange(26), (1, 2)
MARKS = {"C1": 15, "C2": 18, "C9": 99}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def epochs():
    """One row per network, epoch and reading, each value telling where it comes from."""
    rows = [
        {"seed": seed, "epoch": epoch, **asdict(reading), "focus": seed + epoch / 100 + i, "around": epoch / 100,
         "auc_map": 0.1 * seed, "auc_logit": 0.5 + 0.1 * seed,
         "auc_left_out": 0.3 if (reading.layer, reading.method) == ("block3", "gradcam") else np.nan}
        for seed in SEEDS for epoch in EPOCHS for i, reading in enumerate(ALL_READINGS)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def lines(axes):
    """The y-values of the thick lines, by label."""
    return {line.get_label(): line.get_ydata() for line in axes.lines if not line.get_label().startswith("_")}


def said(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def test_focus_by_epoch_has_a_panel_a_layer_and_the_marks_within_the_epochs(epochs):
    figure = charts.focus_curves(epochs, MARKS)
    assert [axes.get_title() for axes in figure.axes] == list(COMPARED_LAYERS)
    place = ALL_READINGS.index(PRIMARY)
    np.testing.assert_allclose(lines(figure.axes[0])["for “real”"], 1.5 + EPOCHS / 100 + place)
    assert said(figure) == {"C1", "C2"}


def test_statistics_have_a_panel_each(epochs):
    own = epochs.query("method == 'gradcam' and layer == 'conv3' and evidence == 'real'")
    figure = charts.statistics_chart(own, MARKS)
    assert [axes.get_title() for axes in figure.axes] == [f"{name} statistics" for name in STATISTICS]
    assert len(figure.axes[0].lines) == len(SEEDS) + 1 + 2  # networks, their mean, two marks


def test_what_the_map_leaves_out_is_shown_where_a_linear_head_follows(epochs):
    figure = charts.knowledge_chart(epochs)
    shown = [set(lines(axes)) for axes in figure.axes]
    maps = {"D's logit", "sum of the Grad-CAM map", "sum of the HiResCAM map"}
    assert shown == [maps] * 6 + [maps | {"logit minus Grad-CAM's sum"}] * 3
    np.testing.assert_allclose(lines(figure.axes[0])["D's logit"], 0.65)


def test_changes_are_a_line_a_network_with_the_similar_ones_marked():
    probes = pd.DataFrame({"seed": [1, 1, 2, 2], "change": [0.1, 0.2, 0.3, np.nan]})
    figure = charts.change_chart(probes, (0.7, 0.9))
    assert said(figure) == {"0.7", "0.9"}
    assert len(figure.axes[0].lines) == 4


def test_the_epoch_that_is_picked_is_ringed_in_both_panels():
    curves = {1: EPOCHS + 1.0, 2: 30.0 - EPOCHS}
    tables = [pd.DataFrame({"seed": s, "epoch": EPOCHS, "focus": y, "fid": y}) for s, y in curves.items()]
    figure = charts.quality_chart(pd.concat(tables), {1: 25, 2: 5}, MARKS)
    for axes in figure.axes:
        rings = [
            (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"
        ]
        assert rings == [(25, 26.0), (5, 25.0)]


def test_shares_looked_around(epochs):
    own = epochs.query("method == 'gradcam' and layer == 'conv3' and evidence == 'real'")
    assert set(lines(charts.around_chart(own, {}).axes[0])) == {"running", "settled"}


def test_paddings_have_a_tick_a_network_and_their_difference():
    shares = pd.DataFrame({"zeros": [0.1, 0.3], "background": [0.2, 0.4]}, index=[1, 2])
    figure = charts.padding_chart(shares, pd.DataFrame([{"estimate": 0.1, "low": 0.0, "high": 0.2}]))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["zeros padding", "background padding", "difference"]


def test_every_reading_has_its_verdicts_and_the_primary_one_a_frame():
    rows = [
        {"claim": claim, **asdict(reading), "verdict": "partly" if claim == "C2" else "inconclusive", "n": 7}
        for claim in ("C1", "C2") for reading in ALL_READINGS
    ]  # fmt: skip
    figure = charts.verdict_grid(pd.DataFrame(rows), PRIMARY)
    (axes,) = figure.axes
    colours = axes.collections[0].get_array().reshape(len(ALL_READINGS), 2)
    assert (colours == [list(charts.VERDICTS).index(name) for name in ("inconclusive", "partly")]).all()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[int(axes.patches[-1].get_y())] == str(PRIMARY)
    assert to_hex(axes.patches[-1].get_edgecolor()) == "#000000"
    assert figure.legends[0].get_title().get_text() == "n=7 networks"

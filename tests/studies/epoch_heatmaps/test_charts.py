"""Every chart draws, cuts nothing off, and shows the right numbers."""

import io
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_nothing_is_cut_off, draw, legend_of, texts
from PIL import Image

from gradcam_gan.run_explainer import Reading
from gradcam_gan.studies.epoch_heatmaps import charts
from gradcam_gan.studies.epoch_heatmaps.slider import epoch_slider
from gradcam_gan.studies.epoch_heatmaps.tables import (
    best_epoch,
    focus_summary,
    off_digit_shares,
    rank_correlations,
    select,
)
from gradcam_gan.studies.panels import Panel
from gradcam_gan.studies.readings import ALL_READINGS, EVIDENCES, READINGS
from gradcam_gan.studies.style import PAGE

MARKS = {"C1": 15, "C2": 18}


@pytest.fixture(scope="module")
def table(make_table):
    """Measures under all readings, zeros and background padding; the last reading shows nothing."""

    def lift(seed, epoch, image, reading):
        return None if reading == ALL_READINGS[-1] else 0.5 + 0.1 * seed + 0.05 * epoch + 0.2 * image

    return pd.concat([make_table(lift), make_table(lift, seeds=[0], padding="background")], ignore_index=True)


@pytest.fixture(scope="module")
def zeros(table):
    return table[table["padding"] == "zeros"]


@pytest.fixture(scope="module")
def best(zeros):
    return {reading: best_epoch(select(zeros, reading), resamples=50) for reading in READINGS}


@pytest.fixture(scope="module")
def changes():
    random = np.random.default_rng(0)
    return pd.concat(
        pd.DataFrame(
            {
                "statistics": reading.statistics,
                "evidence": reading.evidence,
                "largest_change": random.uniform(0, 2, 20),
            }
        )
        for reading in READINGS
    )


@pytest.fixture(scope="module")
def joined():
    return pd.DataFrame(
        {
            "reading": str(reading),
            "seed": seed,
            "epoch": epoch,
            "focus_lift": epoch + seed,
            "fid": 100 / epoch,
            "all_zero": 0.9 if reading.evidence == "real" else 0.0,
        }
        for reading, seed, epoch in product(READINGS, (0, 1), (1, 2, 3))
    )


@pytest.fixture
def figure(request, table, zeros, best, changes, joined):
    makers = {
        "focus_curves": lambda: charts.focus_curves(focus_summary(zeros), 3.5, MARKS),
        "best_epoch_chart": lambda: charts.best_epoch_chart(best, MARKS),
        "change_histogram": lambda: charts.change_histogram(changes, 0.1),
        "share_chart": lambda: charts.share_chart(off_digit_shares(table, 25)),
        "focus_quality_chart": lambda: charts.focus_quality_chart(joined, rank_correlations(joined), MARKS),
    }
    return draw(makers[request.param])


def of(name):
    return pytest.mark.parametrize("figure", [name], indirect=True)


CHARTS = ["focus_curves", "best_epoch_chart", "change_histogram", "share_chart", "focus_quality_chart"]


@pytest.mark.parametrize("figure", CHARTS, indirect=True)
def test_nothing_is_cut_off_and_drawing_twice_moves_nothing(figure):
    assert_nothing_is_cut_off(figure, PAGE)
    places = [axes.get_position().bounds for axes in figure.axes]
    figure.canvas.draw()
    np.testing.assert_allclose([axes.get_position().bounds for axes in figure.axes], places, atol=1e-9)


@of("focus_curves")
def test_focus_curves_have_a_line_per_method_and_statistics(figure, zeros):
    expected = {f"{method}, {s}" for method in ("Grad-CAM", "HiResCAM") for s in ("running", "reference")}
    assert set(legend_of(figure.axes[1])) == expected
    for axes, evidence in zip(figure.axes, EVIDENCES, strict=True):
        assert axes.get_title() == f"evidence for “{evidence}”"
        curves = {line.get_label(): line for line in axes.lines if line.get_label() in expected}
        rows = select(focus_summary(zeros), Reading("gradcam", "running", evidence))
        np.testing.assert_allclose(curves["Grad-CAM, running"].get_ydata(), rows["estimate"])
        assert {"chance", "the image itself", "C1", "C2"} <= set(texts(axes.texts))


def test_epochs_that_were_not_trained_are_not_marked(zeros):
    figure = draw(charts.focus_curves, focus_summary(zeros[zeros["epoch"] <= 15]), 3.5, MARKS)
    assert {"C1", "C2"} & set(texts(figure.axes[0].texts)) == {"C1"}


@of("best_epoch_chart")
def test_the_best_epochs_have_their_curves_and_what_was_drawn(figure, best):
    upper, lower = figure.axes[: len(READINGS)], figure.axes[len(READINGS) :]
    for i, (reading, found) in enumerate(best.items()):
        assert upper[i].get_title() == f"{reading}\nbest epoch {found.epoch} [{found.low}, {found.high}]"
        assert [bar.get_height() for bar in lower[i].patches] == pytest.approx(found.drawn.tolist())
        mean = [line.get_ydata() for line in upper[i].lines if line.get_label() == "mean over seeds"]
        assert mean[0] == pytest.approx(found.curve.mean(axis=1).tolist())


def test_one_reading_of_one_seed_can_be_drawn(zeros):
    rows = select(zeros[zeros["seed"] == 0], READINGS[0])
    figure = draw(charts.best_epoch_chart, {READINGS[0]: best_epoch(rows, resamples=5)}, MARKS)
    assert len(figure.axes) == 2


@of("change_histogram")
def test_changes_have_a_curve_per_reading(figure, changes):
    (axes,) = figure.axes
    assert set(legend_of(axes)) == {f"{reading.statistics}, “{reading.evidence}”" for reading in READINGS}
    assert "same map" in texts(axes.texts)
    drawn = {tuple(sorted(line.get_xdata())[1:]) for line in axes.lines if len(line.get_xdata()) > 2}
    expected = {
        tuple(sorted(rows["largest_change"])) for _, rows in changes.groupby(["statistics", "evidence"])
    }
    assert drawn == expected


@of("share_chart")
def test_shares_have_a_row_per_reading_and_a_series_per_padding(figure):
    (axes,) = figure.axes
    assert texts(axes.get_yticklabels()) == [str(reading) for reading in ALL_READINGS]
    assert legend_of(axes) == ["zeros padding", "background padding"]


def test_shares_are_drawn_with_their_bounds_unless_most_maps_are_zero():
    shares = pd.DataFrame({"reading": ["a", "b", "c"], "padding": "zeros", "estimate": [0.4, 0.9, 0.7]})
    shares = shares.assign(low=[0.1, 0.9, 0.5], high=1.0, all_zero=[0.0, 0.5, 0.75])
    (axes,) = draw(charts.share_chart, shares).axes
    (points, _, (bars,)) = axes.containers[0]
    np.testing.assert_array_equal(points.get_xdata().astype(float), [0.4, 0.9, np.nan])
    segments = [segment[:, 0] for segment in bars.get_segments() if segment.ndim == 2]
    np.testing.assert_allclose(segments[:2], [[0.1, 1.0], [0.9, 1.0]])
    assert texts(axes.texts) == ["zeros: most maps are zero"]


@of("focus_quality_chart")
def test_focus_and_quality_mark_the_clearest_epoch_and_readings_without_maps(figure):
    first, *others = figure.axes
    assert first.get_yscale() == "log"
    assert legend_of(first) == ["seed 0", "seed 1"]
    for axes, reading in zip(others, READINGS, strict=True):
        assert axes.get_title() == f"{reading.statistics} statistics, “{reading.evidence}”\nρ 1.00, 1.00"
        assert ("90 % of maps are zero" in texts(axes.texts)) == (reading.evidence == "real")
        picked = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"]
        assert picked == [[3], [4]]


def test_the_slider_shows_the_row_it_stands_at_and_leaves_no_figure_open():
    """An open figure would be shown below the cell."""
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    maps = torch.rand(3, 2, 28, 28, generator=torch.Generator().manual_seed(0))
    rows = ["epoch 0", "epoch 1", "epoch 2"]
    slider, image = epoch_slider(Panel(images, maps, rows, ["a", "b"], pd.DataFrame())).children
    assert [label for label, _ in slider.options] == rows
    assert slider.label == "epoch 2"
    last = image.value
    slider.label = "epoch 1"
    assert image.value != last
    with Image.open(io.BytesIO(image.value)) as picture:
        picture.verify()
    slider.label = "epoch 2"
    assert image.value == last
    assert plt.get_fignums() == []

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_nothing_is_cut_off, draw, texts

from gradcam_gan.studies import style
from gradcam_gan.studies.panels import Panel
from gradcam_gan.studies.readings import EVIDENCES


def make_panel(rows=2, columns=3, channels=1, size=64):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (columns, channels, size, size), generator=random, dtype=torch.uint8)
    return Panel(
        images,
        torch.rand(rows, columns, size, size, generator=random),
        [f"epoch {5 * row}" for row in range(rows)],
        [f"column {column}" for column in range(columns)],
        pd.DataFrame({"value": [1.0]}),
    )


class TestHeatmapGrid:
    def test_labels_every_row_and_column_and_says_what_was_divided_by_what(self):
        figure = draw(style.heatmap_grid, make_panel(), title="a title")
        axes, bar = figure.axes
        assert texts(axes.get_yticklabels()) == ["original", "epoch 0", "epoch 5"]
        assert texts(axes.get_xticklabels()) == ["column 0", "column 1", "column 2"]
        assert "a title" in texts(figure.texts)
        assert bar.get_ylabel() == "evidence / maximum"
        assert bar.get_ylim() == (0, 1)
        assert not texts(axes.texts)  # every map shows something

    def test_shows_the_originals_and_below_them_the_maps_each_over_its_own_maximum(self):
        panel = make_panel()
        panel.maps[1, 2] *= 1000
        shown = draw(style.heatmap_grid, panel).axes[0].images[0].get_array()
        pitch = 64 + style.GAP
        original = shown[:64, pitch : pitch + 64, 0]
        np.testing.assert_allclose(original, panel.images[1, 0].numpy() / 255, atol=0.01)
        heat = panel.maps[1, 2] / panel.maps[1, 2].max()
        cell = shown[2 * pitch : 2 * pitch + 64, 2 * pitch : 2 * pitch + 64]
        np.testing.assert_allclose(cell, plt.get_cmap("inferno")(heat.numpy())[..., :3], atol=0.01)

    def test_marks_maps_that_are_zero_everywhere(self):
        panel = make_panel()
        panel.maps[0, 1] = 0
        panel.maps[1, 2] = -1  # no positive part: nothing to show either
        axes = draw(style.heatmap_grid, panel).axes[0]
        marks = [text for text in axes.texts if text.get_text() == "zero"]
        pitch = 64 + style.GAP
        places = [tuple(int(coordinate // pitch) for coordinate in mark.xy) for mark in marks]
        assert sorted(places) == [(1, 1), (2, 2)]  # (column, row), the originals being row 0

    def test_takes_rgb_images(self):
        panel = make_panel(channels=3)
        shown = draw(style.heatmap_grid, panel).axes[0].images[0].get_array()
        np.testing.assert_allclose(shown[:64, :64], panel.images[0].movedim(0, -1).numpy() / 255, atol=0.01)

    def test_takes_images_without_a_digit(self):
        """Such as a dark coat of Fashion-MNIST: there is no outline to draw."""
        panel = make_panel(size=28)
        draw(style.heatmap_grid, replace(panel, images=torch.zeros_like(panel.images)))

    def test_outlines_the_digit_on_the_maps_but_not_on_the_original(self):
        panel = make_panel(rows=1, columns=1)
        images = torch.zeros_like(panel.images)
        images[:, :, 20:40, 20:40] = 255
        axes = draw(style.heatmap_grid, replace(panel, images=images)).axes[0]
        (outline,) = axes.collections
        points = np.concatenate([path.vertices for path in outline.get_paths()])
        pitch = 64 + style.GAP
        assert points.min(0) == pytest.approx([19.5, pitch + 19.5])
        assert points.max(0) == pytest.approx([39.5, pitch + 39.5])


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_rows_show_bytes_and_model_range_from_black_to_white(channels):
    levels = [torch.full((2, channels, 6, 6), grey, dtype=torch.uint8) for grey in (0, 255)]
    levels.append(torch.zeros(2, channels, 6, 6))  # in [-1, 1]: middle grey
    (axes,) = draw(style.picture_rows, levels, ["black", "white", "grey"], ["a", "b"]).axes
    assert texts(axes.get_yticklabels()) == ["black", "white", "grey"]
    assert texts(axes.get_xticklabels()) == ["a", "b"]
    picture, pitch = axes.images[0].get_array(), 6 + style.GAP
    assert picture.shape == (3 * pitch, 2 * pitch, 3)
    for column in range(2):
        cells = [picture[row * pitch + 3, column * pitch + 3] for row in range(3)]
        np.testing.assert_allclose(cells, np.repeat([[0], [1], [0.5]], 3, axis=1))


def pictures():
    long = [f"{i}, {evidence}" for evidence in EVIDENCES for i in range(5)]
    panel = replace(make_panel(rows=5, columns=10), columns=long)
    named = replace(make_panel(rows=10, columns=8), columns=["background\nGrad-CAM\nreference"] * 8)
    return {
        "heatmaps": lambda: style.heatmap_grid(panel, title="Grad-CAM, running statistics, seed 0"),
        "heatmaps of every reading": lambda: style.heatmap_grid(named, title="one image, every reading"),
        "a row": lambda: style.picture_rows(panel.images[None], [""], list("0123456789")),
        "samples": lambda: style.picture_rows(torch.rand(2, 12, 1, 64, 64), ["epoch 1", "epoch 25"]),
    }


@pytest.mark.parametrize("name", pictures())
def test_nothing_is_cut_off(name):
    assert_nothing_is_cut_off(draw(pictures()[name]), style.PAGE)


def test_intervals_have_bars_where_they_have_bounds():
    _, axes = plt.subplots()
    rows = pd.DataFrame(
        {"estimate": [1.0, 2.0, np.nan], "low": [0.5, np.nan, np.nan], "high": [2.0, np.nan, np.nan]}
    )
    style.intervals(axes, rows, [0, 1, 2], fmt="o")
    (points, _, (bars,)) = axes.containers[0]
    np.testing.assert_array_equal(points.get_xdata().astype(float), [1.0, 2.0, np.nan])
    np.testing.assert_allclose(bars.get_segments()[0][:, 0], [0.5, 2.0])
    np.testing.assert_allclose(bars.get_segments()[1][:, 0], [2.0, 2.0])

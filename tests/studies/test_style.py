import io
import json
import warnings
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gradcam_gan.run_explainer import Reading
from gradcam_gan.studies import paths, style
from gradcam_gan.studies.claims import READINGS
from gradcam_gan.studies.epochs import (
    BestEpoch,
    best_epochs,
    changes_of_rows,
    clearness,
    focus_summary,
    heatmap_table,
    off_digit_shares,
    select,
)
from gradcam_gan.studies.panels import Panel, evidence_panel, probe_panel, variant_panel
from gradcam_gan.studies.profile import Study
from gradcam_gan.studies.readings import ALL_READINGS, EVIDENCES
from gradcam_gan.studies.results import save_figure, save_table
from gradcam_gan.studies.slider import epoch_slider

SUFFIXES = ["png", "pdf", "svg", "csv", "json"]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def draw(function, *arguments, **options):
    """The figure, drawn, with warnings as errors and rcParams checked before and after."""
    before = mpl.rcParams.copy()
    with warnings.catch_warnings(action="error"):
        figure = function(*arguments, **options)
        figure.canvas.draw()
    assert mpl.rcParams == before
    return figure


def texts(labels):
    return [label.get_text() for label in labels if label.get_text()]


def legend_of(axes):
    return texts(axes.get_legend().get_texts())


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


def history(seeds=(0, 1), epochs=4):
    """Rows of Run.history."""
    rows = [
        {
            "seed": seed,
            "epoch": epoch,
            "loss_discriminator": 1.0 + 0.1 * seed,
            "loss_generator": 0.1 * epoch,
            "d_real": 0.7,
            "d_fake": 0.2,
            "accuracy_running": 0.5,
            "accuracy_batch": 0.9,
            "accuracy_reference": 0.8,
        }
        for seed in seeds
        for epoch in range(1, epochs + 1)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table(make_table):
    """Measures of all variants, zeros and background padding; the last variant shows nothing."""

    def lift(seed, epoch, image, variant):
        return None if variant == ALL_READINGS[-1] else 0.5 + 0.1 * seed + 0.05 * epoch + 0.2 * image

    return pd.concat([make_table(lift), make_table(lift, seeds=[0], padding="background")], ignore_index=True)


@pytest.fixture(scope="module")
def criterion(table):
    zeros = table[table["padding"] == "zeros"]
    curves = {str(variant): clearness(select(zeros, variant), "seed").T.loc[1:] for variant in READINGS}
    best = {str(variant): best_epochs(select(zeros, variant), resamples=50) for variant in READINGS}
    return curves, best


def changes(seeds=(0, 1)):
    random = np.random.default_rng(0)
    return pd.concat(
        pd.DataFrame(
            {
                "seed": seed,
                "statistics": variant.statistics,
                "evidence": variant.evidence,
                "largest_change": random.uniform(0, 2, 20),
            }
        )
        for variant in READINGS
        for seed in seeds
    )


class TestHeatmapGrid:
    def test_labels_every_row_and_column(self):
        figure = draw(style.heatmap_grid, make_panel(), title="a title")
        axes = figure.axes[0]
        assert texts(axes.get_yticklabels()) == ["original", "epoch 0", "epoch 5"]
        assert texts(axes.get_xticklabels()) == ["column 0", "column 1", "column 2"]
        assert "a title" in texts(figure.texts)

    def test_has_a_colour_bar_that_says_what_was_divided_by_what(self):
        _, bar = draw(style.heatmap_grid, make_panel()).axes
        assert bar.get_ylabel() == "evidence / map's maximum"
        assert bar.get_ylim() == (0, 1)

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

    def test_marks_nothing_where_every_map_shows_something(self):
        assert not texts(draw(style.heatmap_grid, make_panel()).axes[0].texts)

    def test_takes_rgb_images(self):
        panel = make_panel(channels=3)
        shown = draw(style.heatmap_grid, panel).axes[0].images[0].get_array()
        np.testing.assert_allclose(shown[:64, :64], panel.images[0].movedim(0, -1).numpy() / 255, atol=0.01)

    def test_takes_images_and_maps_of_28_pixels(self):
        assert draw(style.heatmap_grid, make_panel(size=28)).axes[0].images

    def test_takes_images_without_a_digit(self):
        """Such as a dark coat of Fashion-MNIST: there is no outline to draw."""
        panel = make_panel()
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


class TestPictures:
    def test_image_row_labels_every_image(self):
        figure = draw(style.image_row, make_panel(columns=4).images, ["a", "b", "c", "d"])
        assert texts(figure.axes[0].get_xticklabels()) == ["a", "b", "c", "d"]

    @pytest.mark.parametrize("channels", [1, 3])
    def test_image_row_shows_bytes_and_model_range_alike(self, channels):
        images = make_panel(channels=channels).images
        shown = [
            draw(style.image_row, version, ["a", "b", "c"]).axes[0].images[0].get_array()
            for version in (images, images / 127.5 - 1)
        ]
        np.testing.assert_allclose(*shown, atol=0.01)

    def test_sample_grid_labels_every_row(self):
        samples = torch.rand(3, 5, 1, 64, 64) * 2 - 1
        axes = draw(style.sample_grid, samples, rows=["epoch 1", "epoch 2", "epoch 3"]).axes[0]
        assert texts(axes.get_yticklabels()) == ["epoch 1", "epoch 2", "epoch 3"]
        shown = axes.images[0].get_array()
        pitch = 64 + style.GAP
        cell = shown[2 * pitch : 2 * pitch + 64, 4 * pitch : 4 * pitch + 64, 0]
        np.testing.assert_allclose(cell, (samples[2, 4, 0] + 1) / 2, atol=0.01)


class TestCurves:
    @pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
    def test_training_curves_have_a_line_per_seed_and_a_mean(self, seeds):
        figure = draw(style.training_curves, history(seeds))
        assert [legend_of(axes) for axes in figure.axes] == [
            ["discriminator", "generator"],
            ["D(x), real", "D(G(z)), generated"],
            ["running statistics", "batch statistics", "reference statistics"],
        ]
        lines = len(seeds) + 1 if len(seeds) > 1 else 1
        assert len(figure.axes[0].lines) == 2 * lines
        means = [line for line in figure.axes[0].lines if line.get_label() == "discriminator"]
        assert means[0].get_ydata() == pytest.approx([1 + 0.1 * np.mean(seeds)] * 4)

    def test_focus_curves_have_a_line_per_method_and_statistics(self, table):
        summary = focus_summary(table[table["padding"] == "zeros"])
        figure = draw(style.focus_curves, summary, 3.5)
        assert [axes.get_title() for axes in figure.axes] == [
            f"evidence for “{evidence}”" for evidence in EVIDENCES
        ]
        expected = {f"{method}, {s}" for method in ("Grad-CAM", "HiResCAM") for s in ("running", "reference")}
        for axes, evidence in zip(figure.axes, EVIDENCES, strict=True):
            curves = {line.get_label(): line for line in axes.lines if line.get_label() in expected}
            assert curves.keys() == expected
            rows = select(summary, Reading("gradcam", "running", evidence))
            np.testing.assert_allclose(curves["Grad-CAM, running"].get_ydata(), rows["estimate"])
            assert {"chance", "the image itself", "C1", "C2"} <= set(texts(axes.texts))
        assert set(legend_of(figure.axes[1])) == expected

    def test_epochs_that_were_not_trained_are_not_marked(self, table):
        summary = focus_summary(table[(table["padding"] == "zeros") & (table["epoch"] <= 3)])
        figure = draw(style.focus_curves, summary, 3.5)
        assert not {"C1", "C2"} & set(texts(figure.axes[0].texts))

    def test_best_epoch_chart_has_two_panels_per_reading(self, criterion):
        curves, best = criterion
        figure = draw(style.best_epoch_chart, curves, best)
        assert len(figure.axes) == 2 * len(READINGS)
        for axes, reading in zip(figure.axes[: len(READINGS)], READINGS, strict=True):
            found = best[str(reading)]
            title = axes.get_title()
            assert f"best epoch {found.epoch} [{found.low}, {found.high}]" in title
        bars = figure.axes[len(READINGS)].patches
        assert [bar.get_height() for bar in bars] == pytest.approx(best[str(READINGS[0])].drawn.tolist())

    def test_best_epoch_chart_takes_one_reading_and_one_seed(self):
        curve = pd.DataFrame({0: [1.0, 2.0, 1.5]}, index=[1, 2, 3])
        drawn = pd.Series([0.0, 1.0, 0.0], index=[1, 2, 3])
        figure = draw(style.best_epoch_chart, {"a": curve}, {"a": BestEpoch(2, 2, 2, {0: 2}, drawn)})
        assert len(figure.axes) == 2

    def test_change_histogram_has_a_line_per_reading(self):
        axes = draw(style.change_histogram, changes(), 0.1).axes[0]
        assert set(legend_of(axes)) == {f"{v.statistics}, “{v.evidence}”" for v in READINGS}
        assert "same map" in texts(axes.texts)

    def test_share_chart_has_a_row_per_variant_and_a_series_per_padding(self, table):
        shares = off_digit_shares(table, 25)
        figure = draw(style.share_chart, shares)
        axes = figure.axes[0]
        assert texts(axes.get_yticklabels()) == [str(variant) for variant in ALL_READINGS]
        assert legend_of(axes) == ["zeros padding", "background padding"]

    def test_share_chart_draws_estimates_with_their_bounds(self):
        shares = pd.DataFrame({"variant": ["a", "b", "c"], "padding": "zeros", "estimate": [0.4, 0.9, 0.7]})
        shares = shares.assign(low=[0.1, 0.9, 0.5], high=1.0, all_zero=[0.0, 0.5, 0.75])
        axes = draw(style.share_chart, shares).axes[0]
        (points, _, (bars,)) = axes.containers[0]
        np.testing.assert_array_equal(points.get_xdata().astype(float), [0.4, 0.9, np.nan])  # c: mostly zero
        segments = [segment[:, 0] for segment in bars.get_segments() if segment.ndim == 2]
        np.testing.assert_allclose(segments[:2], [[0.1, 1.0], [0.9, 1.0]])
        assert texts(axes.texts) == ["zeros: most maps are zero"]


def every_plot(table, criterion):
    """Name -> a function that draws it."""
    zeros = table[table["padding"] == "zeros"]
    long = [f"{i}, {evidence}" for evidence in EVIDENCES for i in range(5)]
    panel = replace(make_panel(rows=5, columns=10), columns=long)
    named = replace(make_panel(rows=10, columns=8), columns=["background\nGrad-CAM\nreference"] * 8)
    return {
        "heatmap_grid": lambda: style.heatmap_grid(panel, title="Grad-CAM, running statistics, seed 0"),
        "heatmap_grid of variants": lambda: style.heatmap_grid(named, title="one image, every variant"),
        "image_row": lambda: style.image_row(panel.images, list("0123456789")),
        "sample_grid": lambda: style.sample_grid(torch.rand(2, 12, 1, 64, 64), rows=["epoch 1", "epoch 25"]),
        "training_curves": lambda: style.training_curves(history()),
        "focus_curves": lambda: style.focus_curves(focus_summary(zeros), 3.5),
        "best_epoch_chart": lambda: style.best_epoch_chart(*criterion),
        "change_histogram": lambda: style.change_histogram(changes(), 0.1),
        "share_chart": lambda: style.share_chart(off_digit_shares(table, 25)),
    }


NAMES = [
    "heatmap_grid", "heatmap_grid of variants", "image_row", "sample_grid", "training_curves", "focus_curves",
    "best_epoch_chart", "change_histogram", "share_chart",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_off_and_text_has_the_size_of_the_style(name, table, criterion):
    figure = draw(every_plot(table, criterion)[name])
    drawn, page = figure.get_tightbbox(), figure.get_size_inches()
    slack = 0.02  # inches
    assert min(drawn.x0, drawn.y0) >= -slack
    assert drawn.x1 <= page[0] + slack
    assert drawn.y1 <= page[1] + slack
    for axes in figure.axes:
        sizes = {label.get_fontsize() for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]}
        assert sizes <= {7.0}
    assert page[0] <= style.PAGE


class TestPanels:
    def test_evidence_panel_has_real_on_the_left_and_fake_on_the_right(self, explainer, digits):
        panel = evidence_panel(explainer, digits[:2], ["7", "2"], [1, 3], "running")
        assert panel.columns == ["7, real", "2, real", "7, fake", "2, fake"]
        assert panel.rows == ["epoch 1", "epoch 3"]
        assert torch.equal(panel.images, digits[[0, 1, 0, 1]])
        for half, evidence in zip(panel.maps.split(2, 1), EVIDENCES, strict=True):
            expected = explainer.maps(digits[:2], [1, 3], Reading("gradcam", "running", evidence))
            assert torch.equal(half, expected)
        variants = [Reading("gradcam", "running", evidence) for evidence in EVIDENCES]
        pd.testing.assert_frame_equal(panel.table, heatmap_table(explainer, digits[:2], [1, 3], variants))
        draw(style.heatmap_grid, panel)

    def test_probe_panel_has_a_row_per_epoch(self, explainer, digits):
        variant = Reading("gradcam", "reference", "fake")
        panel = probe_panel(explainer, digits[:3], ["a", "b", "c"], [2, 1], variant)
        assert (panel.rows, panel.columns) == (["epoch 2", "epoch 1"], ["a", "b", "c"])
        assert torch.equal(panel.maps, explainer.maps(digits[:3], [2, 1], variant))
        assert panel.table["variant"].unique().tolist() == [str(variant)]

    def test_variant_panel_has_a_column_per_run_method_and_statistics(self, explainer, digits):
        panel = variant_panel([explainer, explainer], digits[4:5], [1, 3])
        assert panel.maps.shape == (4, 8, 64, 64)
        assert panel.rows == ["real, 1", "real, 3", "fake, 1", "fake, 3"]
        assert (
            panel.columns[:4]
            == panel.columns[4:]
            == [
                f"zeros\n{method}\n{statistics}"
                for method in ("Grad-CAM", "HiResCAM")
                for statistics in ("running", "reference")
            ]
        )
        expected = explainer.maps(digits[4:5], [1, 3], Reading("hirescam", "running", "fake"))
        assert torch.equal(panel.maps[2:, 2], expected[:, 0])
        assert torch.equal(panel.maps[2:, 6], expected[:, 0])
        assert len(panel.table) == 2 * 2 * len(ALL_READINGS)
        draw(style.heatmap_grid, panel)

    def test_changes_of_rows_can_be_drawn(self, explainer, digits):
        draw(style.change_histogram, changes_of_rows(explainer, digits[:5], [1, 2, 3], READINGS), 0.1)


class TestSaveFigure:
    @pytest.fixture
    def study(self, tmp_path, monkeypatch):
        monkeypatch.setattr(paths, "FIGURES", tmp_path)
        return Study.load("smoke")

    def save(self, study, run, name="fig_test"):
        table = pd.DataFrame({"epoch": [1, 2], "share": [1 / 3, np.nan], "name": ["a, b", "“c”"]})
        figure = style.heatmap_grid(make_panel(), title="a “title”")
        return table, save_figure(figure, table, name, study, "n.ipynb", [run])

    def test_writes_five_whole_files_and_nothing_else(self, study, tiny_run):
        _, path = self.save(study, tiny_run)
        assert path == study.figures_dir / "fig_test.png"
        names = {file.name for file in study.figures_dir.iterdir()}
        assert names == {f"fig_test.{suffix}" for suffix in SUFFIXES}
        with Image.open(path) as image:
            image.verify()
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        assert "</svg>" in path.with_suffix(".svg").read_text()

    def test_the_same_numbers_give_the_same_bytes(self, study, tiny_run, tmp_path, monkeypatch):
        _, first = self.save(study, tiny_run)
        monkeypatch.setattr(paths, "FIGURES", tmp_path / "again")
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")  # matplotlib's clock: another day
        _, second = self.save(study, tiny_run)
        assert first != second
        for suffix in SUFFIXES:
            files = [path.with_suffix(f".{suffix}").read_bytes() for path in (first, second)]
            assert files[0] == files[1], suffix

    def test_drawing_twice_does_not_move_anything(self, study, tiny_run, table, criterion):
        """Layout is solved at every draw: a figure saved after it was shown is the same."""
        for name in ("training_curves", "best_epoch_chart", "share_chart"):
            figure = every_plot(table, criterion)[name]()
            path = save_figure(figure, table[:1], name, study, "n.ipynb", [tiny_run])
            first = path.with_suffix(".svg").read_bytes()
            figure.canvas.draw()
            save_figure(figure, table[:1], name, study, "n.ipynb", [tiny_run])
            assert path.with_suffix(".svg").read_bytes() == first, name

    def test_the_csv_holds_the_table_to_six_digits(self, study, tiny_run):
        table, path = self.save(study, tiny_run)
        pd.testing.assert_frame_equal(pd.read_csv(path.with_suffix(".csv")), table, rtol=1e-5)

    def test_the_json_says_where_it_comes_from(self, study, tiny_run):
        _, path = self.save(study, tiny_run)
        origin = json.loads(path.with_suffix(".json").read_text())
        assert origin["notebook"] == "n.ipynb"
        assert origin["parameters"] == study.model_dump(mode="json")
        assert list(origin["runs"]) == [tiny_run.path.name]
        run = origin["runs"][tiny_run.path.name]
        assert run["status"] == "complete"
        assert run["data_sha256"] == tiny_run.manifest["data_sha256"]
        assert origin["packages"]["torch"].startswith(torch.__version__.split("+")[0])
        assert {"git_commit", "python"} <= origin.keys()

    def test_save_table_writes_the_numbers_and_their_origin_alone(self, study, tiny_run):
        path = save_table(pd.DataFrame({"a": [0.5]}), "table_test", study, "n.ipynb", [tiny_run])
        assert path.read_text() == "a\n0.5\n"
        assert {file.name for file in path.parent.iterdir()} == {"table_test.csv", "table_test.json"}


class TestEpochSlider:
    def test_has_one_option_per_row_and_starts_at_the_last(self):
        slider, _ = epoch_slider(make_panel(rows=4)).children
        assert [label for label, _ in slider.options] == ["epoch 0", "epoch 5", "epoch 10", "epoch 15"]
        assert slider.label == "epoch 15"

    def test_moving_it_changes_the_picture_and_moving_back_restores_it(self):
        slider, image = epoch_slider(make_panel(rows=3)).children
        last = image.value
        slider.label = "epoch 5"
        middle = image.value
        assert middle != last
        with Image.open(io.BytesIO(middle)) as picture:
            picture.verify()
        slider.label = "epoch 10"
        assert image.value == last

    def test_leaves_no_figure_open(self):
        """Or JupyterLab would show each of them below the cell."""
        slider, _ = epoch_slider(make_panel(rows=3)).children
        slider.label = "epoch 0"
        assert plt.get_fignums() == []

import warnings
from itertools import product

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from gradcam_gan.studies import style
from gradcam_gan.studies.arms import differences
from gradcam_gan.studies.readings import ALL_READINGS


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def draw(function, *arguments):
    """The figure, drawn, with warnings as errors and rcParams checked before and after."""
    before = mpl.rcParams.copy()
    with warnings.catch_warnings(action="error"):
        figure = function(*arguments)
        figure.canvas.draw()
    assert mpl.rcParams == before
    return figure


def texts(labels):
    return [label.get_text() for label in labels if label.get_text()]


def make_grid(deleted):
    """``deleted(variant, normalisation, tau, cut, seed)`` gives the share."""
    choices = product(ALL_READINGS, ("max", "min-max", "fixed"), (0.1, 0.25), (0.5, 0.7, 0.9), (0, 1))
    return pd.DataFrame(
        {
            "method": variant.method,
            "statistics": variant.statistics,
            "evidence": variant.evidence,
            "seed": seed,
            "epoch": 3,
            "normalisation": normalisation,
            "tau": tau,
            "cut": cut,
            "deleted": deleted(variant, normalisation, tau, cut, seed),
        }
        for variant, normalisation, tau, cut, seed in choices
    )


class TestRuleHeatmap:
    def test_every_reading_has_its_cell_in_percent(self):
        grid = make_grid(
            lambda variant, normalisation, tau, cut, seed: ALL_READINGS.index(variant) / 10 + tau / 10
        )
        figure = draw(style.rule_heatmap, grid)
        axes = figure.axes[0]
        values = np.asarray(axes.collections[0].get_array()).reshape(len(ALL_READINGS), -1)
        assert values.shape == (8, 18)
        assert values[:, 0] == pytest.approx([10 * row + 1 for row in range(8)])
        assert values[0] == pytest.approx([1, 1, 1, 2.5, 2.5, 2.5] * 3)
        assert texts(axes.get_yticklabels()) == [str(variant) for variant in ALL_READINGS]
        assert texts(axes.get_xticklabels()) == ["50", "70", "90"] * 6
        assert {"τ 0.1", "τ 0.25", "normalisation: min-max", "normalisation: fixed"} <= set(texts(axes.texts))
        assert figure.axes[1].get_ylabel() == "images deleted (%)"

    def test_networks_are_averaged_and_a_few_images_are_not_none(self):
        figure = draw(style.rule_heatmap, make_grid(lambda *choice: 0.002 * choice[-1]))
        axes = figure.axes[0]
        assert np.asarray(axes.collections[0].get_array()) == pytest.approx(0.1)
        assert texts(axes.texts).count("<1") == 8 * 18


def test_a_contact_sheet_has_two_rows_of_each_kind():
    black, white = (
        torch.zeros(6, 1, 8, 8, dtype=torch.uint8),
        torch.full((6, 1, 8, 8), 255, dtype=torch.uint8),
    )
    axes = draw(style.contact_sheet, black, white, ("deleted", "kept")).axes[0]
    assert texts(axes.get_yticklabels()) == ["deleted", "kept"]
    picture = axes.images[0].get_array()
    down = 8 + style.GAP
    assert picture.shape[:2] == (4 * down, 3 * down)
    assert [float(picture[row * down + 4, 4].mean()) for row in range(4)] == [0, 0, 1, 1]


def test_class_balance_is_in_percent_with_an_arm_a_row():
    shares = pd.DataFrame({"rule70": [0.1, 0.2], "random": [0.15, 0.15]}, index=["0", "1"])
    axes = draw(style.class_balance, shares).axes[0]
    assert np.asarray(axes.collections[0].get_array()).ravel() == pytest.approx([10, 20, 15, 15])
    assert texts(axes.get_yticklabels()) == ["rule70", "random"]
    assert axes.get_xlabel() == "class"


def make_results(seeds=(0, 1, 2)):
    """Arms with a FID above the baseline's by 1 (rule70), 2 (random) and, by dose, 3 and 4; one arm is idle."""
    arms = [("baseline", "baseline", 0.0, 0), ("rule70", "rule70", 0.2, 1), ("random", "random", 0.2, 2)]
    arms += [("dose 5 %", "dose", 0.05, 3), ("dose 40 %", "dose", 0.4, 4), ("inverse", "inverse", 0.0, None)]
    rows = []
    for seed, matching, (arm, kind, deleted, more) in product(seeds, ("iterations", "epochs"), arms):
        fid = np.nan if more is None else 10 + seed + more + 0.1 * seed * more
        rows.append(
            {
                "arm": arm, "kind": kind, "seed": seed, "deleted": deleted, "matching": matching,
                "idle": "deletes nothing" if more is None else "", "epoch": 3, "fid": fid, "recall": fid / 100,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


class TestArmChart:
    @pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2)])
    def test_an_arm_a_line_with_a_tick_for_every_network(self, seeds):
        results = make_results(seeds)
        compared = differences(results, ["fid", "recall"])
        figure = draw(style.arm_chart, compared, results, ["fid", "recall"])
        left, right = figure.axes
        names = ["rule70 (20 %)", "random (20 %)", "dose 5 %", "dose 40 %", "inverse (0 %)"]
        assert texts(left.get_yticklabels()) == names
        assert (left.get_xlabel(), right.get_xlabel()) == ("Δ FID", "Δ recall")
        assert texts(figure.legends[0].get_texts()) == ["matched iterations", "matched epochs"]
        ticks = [line for line in left.lines if line.get_marker() == "|" and line.get_color() == "0.3"]
        assert len(ticks) == 2 * 4  # none for the idle arm
        assert list(ticks[0].get_xdata()) == pytest.approx([1 + 0.1 * seed for seed in seeds])

    def test_the_mean_is_where_the_table_has_it(self):
        results = make_results()
        compared = differences(results, ["fid"])
        axes = draw(style.arm_chart, compared, results, ["fid"]).axes[0]
        means = axes.containers[0].lines[0].get_xdata()
        assert means[:4] == pytest.approx([1.1, 2.2, 3.3, 4.4])
        assert np.isnan(means[4])


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_dose_chart_joins_the_doses_and_shows_the_other_arms_beside_them(seeds):
    compared = differences(make_results(seeds), ["fid", "recall"])
    figure = draw(style.dose_chart, compared[compared["matching"] == "iterations"], ["fid", "recall"])
    lines = {container.get_label(): container.lines[0] for container in figure.axes[0].containers}
    assert list(lines) == ["rule70", "random", "dose"] == texts(figure.legends[0].get_texts())
    assert list(lines["dose"].get_xdata()) == pytest.approx([5, 40])
    assert list(lines["rule70"].get_xdata()) == pytest.approx([20])
    more = 0.1 * np.mean(seeds)
    assert list(lines["dose"].get_ydata()) == pytest.approx([3 * (1 + more), 4 * (1 + more)])
    assert [axes.get_ylabel() for axes in figure.axes] == ["Δ FID", "Δ recall"]

"""The tables of all explanations: what they hold, that they are kept, and how they are put together."""

import math

import numpy as np
import pandas as pd
import pytest

from gradcam_gan.intervals import student_interval
from gradcam_gan.studies import paths
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.which_explanation import tables
from gradcam_gan.studies.which_explanation.measured import CONTROLS, KEYS, explanations
from gradcam_gan.studies.which_explanation.planted import PLANTED, TRAININGS
from gradcam_gan.studies.which_explanation.tables import (
    CEILING,
    MEASURES,
    NOT_PLANTED,
    Assessment,
    assessment,
    ceilings,
    interval_table,
    readable,
    summary,
    use_of_marker,
)


@pytest.fixture(scope="module")
def together(found):
    return Assessment.together(found[0])


def test_every_explanation_has_every_measure_of_every_network_epoch_and_image(small_study, together):
    quality, measures = small_study.quality, together.measures
    assert set(measures.columns) == {*KEYS, "value"}
    wanted = explanations(quality.methods, quality.layers)
    # networks times epochs times images
    expected = {
        "energy": 2 * 3, "gap": 2 * 2 * 8, "gap_blur": 2 * 2 * 8, "randomised": 2 * 4, "randomised_head": 2 * 4,
        "noise": 2 * 4,
    }  # fmt: skip
    counts = measures.groupby(["layer", "method", "measure"]).size()
    for (layer, method), (measure, count) in (
        (one, item) for one in [*wanted, *(("image", name) for name in CONTROLS)] for item in expected.items()
    ):
        assert counts[layer, method, measure] == count
    assert counts["block3", "hirescam", "completeness"] == 2 * 2 * 8
    assert not measures.duplicated(list(KEYS)).any()
    sources = measures[measures["measure"] == "gap"].groupby("source").size()
    assert sources["real"] == sources["generated"]
    assert set(together.falls["training"]) == {*TRAININGS, NOT_PLANTED}
    trained = together.retrained.groupby(["method", "share"]).size()
    assert (trained == 4).all()  # two networks, two seeds
    assert len(trained) == 1 + 2 * (1 + len(CONTROLS))


def test_what_is_kept_is_read_and_another_study_is_found_anew(small_study, found, monkeypatch):
    (first, _), folder = found
    monkeypatch.setattr(paths, "RUNS", folder)

    def never(*_):
        raise AssertionError("found anew")

    monkeypatch.setattr(tables, "assess", never)
    pd.testing.assert_frame_equal(assessment(small_study, 0).measures, first.measures)
    values = small_study.model_dump(exclude={"profile"})
    values["quality"]["steps"] = 3
    with pytest.raises(AssertionError, match="found anew"):
        assessment(Study(profile="smoke", **values), 0)


def numbers(networks=(0, 1), epochs=(1, 2)):
    """Two explanations and a control whose means are known: 10 a network, 1 an epoch, 0.1 an image."""
    rows = [
        {
            "network": network, "epoch": epoch, "source": "real", "image": image, "method": method, "layer": "conv3",
            "measure": "gap", "value": sign * (10 * network + epoch + 0.1 * image),
        }
        for network in networks
        for epoch in epochs
        for image in range(3)
        for method, sign in (("gradcam", 1), ("edges", -1))
    ]  # fmt: skip
    return pd.DataFrame(rows)


COSTS = pd.DataFrame({"method": "gradcam", "layer": "conv3", "milliseconds": [1.0, 9.0, 2.0]})


def test_an_interval_is_over_networks_and_of_one_network_over_its_images():
    table = summary(numbers(), COSTS).set_index("method")
    interval = student_interval([1.6, 11.6])
    expected = [interval.estimate, interval.low, interval.high]
    assert table.loc["gradcam", ["gap", "gap_low", "gap_high"]].to_list() == pytest.approx(expected)
    assert table["control"].to_dict() == {"gradcam": False, "edges": True}
    assert table.loc["gradcam", "milliseconds"] == 2
    assert math.isnan(table.loc["edges", "milliseconds"])
    assert math.isnan(table.loc["gradcam", "energy"])
    one = summary(numbers(networks=[0]), COSTS).set_index("method").loc["gradcam"]
    assert one["gap"] == pytest.approx(1.6)
    assert 1.499 < one["gap_low"] < 1.6 < one["gap_high"] < 1.701  # between the images' means


def test_the_best_possible_map_is_no_explanation():
    row = {"network": 0, "epoch": 4, "source": "marked", "image": 0, "layer": "conv3", "measure": "energy"}
    measures = pd.DataFrame(
        [{**row, "method": CEILING, "value": 0.4}, {**row, "method": "gradcam", "value": 0.3}]
    )
    assert summary(measures, COSTS)["method"].to_list() == ["gradcam"]
    assert ceilings(measures).to_dict() == {"conv3": 0.4}


def test_intervals_over_each_unit():
    table = interval_table(numbers()).set_index(["method", "unit"]).loc["gradcam"]
    assert table["n"].to_dict() == {"images": 3, "epochs": 2, "networks": 2}
    assert table["estimate"].to_list() == pytest.approx([6.6, 6.6, 6.6])
    assert (table["low"] < 6.6).all()
    alone = interval_table(numbers(networks=[0])).set_index(["method", "unit"]).loc["gradcam"]
    assert np.isnan(alone.loc["networks", "low"])


def test_the_table_to_read_names_every_explanation_and_leaves_out_what_is_not_measured():
    table = readable(summary(numbers(), COSTS))
    assert table.index.to_list() == ["Grad-CAM at conv3", "edges at conv3"]
    assert table.columns.to_list() == list(MEASURES.values())
    assert table.loc["Grad-CAM at conv3", "occlusion gap"].startswith("6.6 [")
    assert table.loc["Grad-CAM at conv3", "change with noise"] == ""


def test_use_of_the_marker_counts_images_that_turn():
    falls = pd.DataFrame(
        {"training": PLANTED, "network": [0, 0, 1, 1], "image": [0, 1, 0, 1], "marked": [2.0, 1.0, 3.0, -1.0],
         "unmarked": [-1.0, 0.5, -3.0, -2.0]}
    )  # fmt: skip
    found = use_of_marker(falls.assign(fall=falls["marked"] - falls["unmarked"])).iloc[0]
    assert found["turned"] == 0.5
    assert found["fall"] == pytest.approx(np.mean([(3 + 0.5) / 2, (6 + 1) / 2]))
    assert found["networks"] == 2

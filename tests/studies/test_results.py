import io
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import pytest

from gradcam_gan.studies.results import DPI, Results, read_manifests
from gradcam_gan.studies.study import Study

TABLE = pd.DataFrame({"epoch": [1, 2], "lift": [1 / 3, 2e-7]})


@pytest.fixture
def results(tmp_path):
    return Results(Study.load("smoke", width=5), "02_n", tmp_path / "deep" / "figures")


def draw():
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot([0, 1])
    return figure


def test_a_figure_is_shown_kept_with_its_numbers_and_entered_into_the_manifest(results, tiny_run):
    figure = draw()
    results.show(figure, TABLE, "fig_a", [tiny_run])
    results.keep(TABLE, "table_b", [])
    assert not plt.fignum_exists(figure.number)
    suffixes = [".png", ".pdf", ".svg", ".csv", ".json"]
    names = {f"fig_a{suffix}" for suffix in suffixes} | {"table_b.csv", "table_b.json", "02_n.json"}
    assert {path.name for path in results.folder.iterdir()} == names
    assert (results.folder / "fig_a.csv").read_text() == "epoch,lift\n1,0.333333\n2,2e-07\n"
    manifest = json.loads((results.folder / "02_n.json").read_text())
    assert list(manifest["results"]) == ["fig_a", "table_b"]
    assert manifest["results"]["fig_a"] == {
        "files": ["png", "pdf", "svg", "csv"],
        "runs": [tiny_run.path.name],
    }
    assert manifest["runs"][tiny_run.path.name]["data_sha256"] == tiny_run.manifest["data_sha256"]
    assert manifest["parameters"]["width"] == 5
    assert json.loads((results.folder / "table_b.json").read_text())["notebook"] == "02_n.ipynb"
    assert list(read_manifests(results.folder)) == ["02_n"]


def test_the_picture_keeps_every_colour_of_a_colour_bar_and_its_words(results, tiny_run, monkeypatch):
    shown = []
    monkeypatch.setattr("gradcam_gan.studies.results.display", shown.append)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.5))
    left.imshow(np.random.default_rng(0).random((64, 64)), cmap="inferno")
    # the lower half of the scale is in the colour bar alone
    drawn = right.imshow(np.random.default_rng(1).random((8, 8)), cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(drawn)
    whole = io.BytesIO()
    figure.savefig(whole, format="png", dpi=DPI)
    results.show(figure, TABLE, "fig_a", [tiny_run], alt="a map")
    pictures = [
        np.asarray(PIL.Image.open(source).convert("RGB")).astype(int)
        for source in (whole, results.folder / "fig_a.png")
    ]
    assert np.abs(pictures[0] - pictures[1]).max() < 24
    _data, metadata = shown[0]._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "a map"


def test_the_same_numbers_give_the_same_bytes(results, tiny_run):
    kept = []
    for _ in range(2):
        results.show(draw(), TABLE, "fig_a", [tiny_run])
        kept.append({path.name: path.read_bytes() for path in results.folder.iterdir()})
    assert kept[0] == kept[1]

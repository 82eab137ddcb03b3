import math
from dataclasses import replace
from functools import partial
from itertools import product
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_nothing_is_cut_off, draw, refused
from scipy import stats

from gradcam_gan.data import load_images
from gradcam_gan.explaining.measures import digit_mask
from gradcam_gan.run_explainer import Reading, RunExplainer
from gradcam_gan.scoring.scores import LATENT_SEED
from gradcam_gan.studies.explain_dudgan import charts, panels, tables
from gradcam_gan.studies.panels import Panel
from gradcam_gan.studies.readings import COMPARED_METHODS
from gradcam_gan.studies.style import GAP, PAGE, heatmap_grid
from gradcam_gan.training.loop import fixed_latents
from gradcam_gan.training.runs import Run

LABELS = torch.tensor([3, 0, 9, 3, 7, 9])  # one comes again, and 9 is followed by 0
FAKE = Reading("hirescam", "reference", "fake", "norm3")  # differs from a reading's defaults in everything
BOTH = [replace(FAKE, method=method) for method in COMPARED_METHODS]


@pytest.fixture(scope="module")
def images():
    return load_images("mnist-5k", 28, "test").images[:6]


@pytest.fixture(scope="module")
def explainers(follow_up_runs):
    """Of DuDGAN's D and C, and of DCGAN's D."""
    held_out = load_images("mnist-5k", 28, "test")
    reference, labels = held_out.images[100:140], held_out.labels[100:140]
    return {
        name: RunExplainer(follow_up_runs[run], reference, calibration_labels=labels, network=network)
        for name, run, network in (
            ("d", "dudgan", "discriminator"), ("c", "dudgan", "classifier"), ("dcgan", "dcgan", "discriminator")
        )
    }  # fmt: skip


@pytest.fixture
def passes(monkeypatch):
    """How often anything was explained, if nothing was kept with the runs."""
    monkeypatch.setattr(Run, "kept_tensors", lambda run, name, how, find: find())
    calls, signed = [], RunExplainer.signed
    monkeypatch.setattr(
        RunExplainer, "signed", lambda *given, **named: calls.append(1) or signed(*given, **named)
    )
    return calls


def test_images_are_drawn_with_the_classes_asked_for(follow_up_runs):
    images, labels = tables.draw_with_classes(follow_up_runs["dudgan"], 2, 23)
    assert labels.tolist() == [*range(10), *range(10), 0, 1, 2]
    with torch.no_grad():
        expected = follow_up_runs["dudgan"].generator(2)(fixed_latents(23, LATENT_SEED), labels)
    assert (images / 127.5 - 1 - expected).abs().max() < 1 / 255 + 1e-4
    assert "is unconditional" in refused(tables.draw_with_classes, follow_up_runs["dcgan"], 1, 20)


# --- panels


def assert_table_holds(rows, explained, reading):
    """The rows, one an image, have the maps and logits of what was explained at its one epoch."""
    rows = rows.sort_values("image")
    maps = explained.maps(reading, upsample=False)[0]
    assert rows["image"].tolist() == list(range(len(maps)))
    assert set(rows["reading"]) == {str(reading)}
    values = rows[[name for name in rows if name.startswith("map_")]].to_numpy()
    np.testing.assert_array_equal(values, maps.flatten(1))
    np.testing.assert_array_equal(rows["logit"], explained.logits[explained.epochs[0], reading.statistics])


class TestTimesPanels:
    TIMES = {2: [0, 75, 150, 300], 1: [0, 27, 54, 107]}  # noqa: RUF012  (0.25 of 107 is 26.75)

    def test_a_row_an_epoch_a_column_an_image_and_time_each_explained_once(self, explainers, images, passes):
        d, three, told = explainers["d"], images[:3], LABELS[:3]
        readings = [replace(FAKE, evidence="real"), FAKE]
        made = panels.times_panels(d, three, told, ["a", "b", "c"], [2, 1], (0, 0.25, 0.5, 1.0), readings)
        assert len(passes) == 2 * 4
        for reading, panel in zip(readings, made, strict=True):
            assert panel.rows == ["epoch 2, T 300", "epoch 1, T 107"]
            times = ["t = 0", "0.25 T", "0.5 T", "t = T"]
            assert panel.columns == [f"{name}\n{time}" for name in "abc" for time in times]
            assert torch.equal(panel.images, images[[0] * 4 + [1] * 4 + [2] * 4])
            assert len(panel.table) == 2 * 4 * 3
            for row, epoch in enumerate([2, 1]):
                for column, time in enumerate(self.TIMES[epoch]):
                    explained = d.explain(three, [epoch], layers=["norm3"], labels=told, time=time)
                    torch.testing.assert_close(panel.maps[row, column::4], explained.maps(reading)[0])
                    assert torch.equal(panel.seen[row, column::4], d.diffused(three, epoch, time))
                    cells = panel.table[(panel.table["epoch"] == epoch) & (panel.table["time"] == time)]
                    assert set(cells["horizon"]) == {self.TIMES[epoch][-1]}
                    assert_table_holds(cells, explained, reading)

    def test_without_a_diffusion_there_is_only_time_0(self, explainers, images):
        (panel,) = panels.times_panels(
            explainers["dcgan"], images[:1], LABELS[:1], ["a"], [2], [0.0, 1.0], [FAKE]
        )
        assert panel.rows == ["epoch 2, T 0"]
        assert panel.table["time"].tolist() == panel.table["horizon"].tolist() == [0, 0]
        assert torch.equal(panel.maps[0, 0], panel.maps[0, 1])
        assert torch.equal(panel.seen[0], images[[0, 0]] / 127.5 - 1)


def test_networks_panel_has_d_and_c_told_the_right_and_the_next_class(explainers, images, passes):
    panel = panels.networks_panel(explainers["d"], explainers["c"], images, LABELS, list("abcdef"), 1, FAKE)
    assert len(passes) == 3
    wrong = torch.tensor([4, 1, 0, 4, 8, 0])
    expected = {
        "D, “real”": ("d", "real", LABELS),
        "D, “fake”": ("d", "fake", LABELS),
        "D, “real”, wrong class": ("d", "real", wrong),
        "D, “fake”, wrong class": ("d", "fake", wrong),
        "C, for the class": ("c", "real", LABELS),
        "C, against it": ("c", "fake", LABELS),
    }
    assert panel.rows == list(expected)
    assert panel.columns == list("abcdef")
    for maps, (row, (network, evidence, told)) in zip(panel.maps, expected.items(), strict=True):
        explained = explainers[network].explain(images, [1], layers=["norm3"], labels=told)
        reading = replace(FAKE, evidence=evidence)
        torch.testing.assert_close(maps, explained.maps(reading)[0])
        assert_table_holds(panel.table[panel.table["row"] == row], explained, reading)


def test_models_panel_has_a_column_per_model_and_image(explainers, images, passes):
    shown = [explainers["dcgan"], explainers["d"]]
    panel = panels.models_panel(shown, images[:3], LABELS[:3], ["a", "b", "c"], [2, 0], FAKE)
    assert len(passes) == 2 * 2
    assert panel.rows == ["epoch 2", "epoch 0"]
    assert panel.columns == ["\na", "dcgan\nb", "\nc", "\na", "model\nb", "\nc"]
    assert torch.equal(panel.images, images[[0, 1, 2, 0, 1, 2]])
    for (i, (one, model)), (row, epoch) in product(
        enumerate(zip(shown, ["dcgan", "model"], strict=True)), enumerate([2, 0])
    ):
        explained = one.explain(images[:3], [epoch], layers=["norm3"], labels=LABELS[:3])
        torch.testing.assert_close(panel.maps[row, 3 * i : 3 * i + 3], explained.maps(FAKE)[0])
        rows = panel.table[(panel.table["model"] == model) & (panel.table["epoch"] == epoch)]
        assert_table_holds(rows, explained, FAKE)


def test_what_the_network_saw_shines_through_its_map():
    random = torch.Generator().manual_seed(0)
    panel = Panel(
        torch.randint(0, 256, (3, 1, 28, 28), generator=random, dtype=torch.uint8),
        torch.rand(2, 3, 28, 28, generator=random),
        ["one", "other"],
        ["a", "b", "c"],
        pd.DataFrame(),
        torch.randn(2, 3, 1, 28, 28, generator=random),  # many pixels beyond [-1, 1]
    )
    shown = np.asarray(draw(heatmap_grid, panel).axes[0].images[0].get_array())
    pitch = 28 + GAP
    cells = shown.reshape(3, pitch, 3, pitch, 3).transpose(0, 2, 1, 3, 4)[:, :, :28, :28]
    for row, column in product(range(2), range(3)):
        heat = panel.maps[row, column] / panel.maps[row, column].max()
        grey = ((panel.seen[row, column, 0] + 1) / 2).clamp(0, 1)
        expected = (plt.get_cmap("inferno")(heat.numpy())[..., :3] + grey.numpy()[..., None]) / 2
        np.testing.assert_allclose(cells[row + 1, column], expected, atol=5e-3)
    np.testing.assert_allclose(
        cells[0], panel.images[:, 0, :, :, None].expand(-1, -1, -1, 3) / 255, atol=1e-6
    )


# --- what D and C have in common, and what the class changes


SOME = torch.tensor([3, 3, 5, 3, 5, 7])
NEXT = [1, 3, 4, 0, 2, 5]


def correlations(one, other):
    return [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(one, other, strict=True)]


def test_the_next_of_the_class_goes_around_and_a_lone_one_is_its_own():
    assert tables.next_of_class(SOME).tolist() == NEXT


class TestAgreement:
    def test_it_is_the_correlation_of_the_signed_maps(self, explainers, images):
        d, c = explainers["d"], explainers["c"]
        table = tables.agreement(d, c, images, SOME, 2, BOTH)
        for_real, _ = d.signed(images, 2, "reference", layers=["norm3"], labels=SOME)
        for_class, _ = c.signed(images, 2, "reference", layers=["norm3"], labels=SOME)
        assert list(dict.fromkeys(table["method"])) == list(COMPARED_METHODS)
        for method, rows in table.groupby("method"):
            assert rows["image"].tolist() == list(range(6))
            assert rows["label"].tolist() == SOME.tolist()
            expected = correlations(for_real["norm3", method], for_class["norm3", method])
            np.testing.assert_allclose(rows["correlation"], expected, atol=1e-4)
            chance = np.array(correlations(for_real["norm3", method], for_class["norm3", method][NEXT]))
            chance[5] = np.nan  # the only one of its class
            np.testing.assert_allclose(rows["chance"], chance, atol=1e-4)

    def test_equal_inverted_and_constant_maps(self, images):
        pattern, flat = torch.arange(9.0).reshape(3, 3), torch.full((3, 3), 0.1)
        d, c = (
            SimpleNamespace(
                explain=lambda *_, maps=maps, **__: SimpleNamespace(
                    signed_at=lambda epoch, reading: torch.stack(maps)
                )
            )
            for maps in (
                [pattern, pattern, pattern, flat, pattern, pattern],
                [2 * pattern + 1, -pattern, flat, pattern, pattern.T, pattern],
            )
        )
        table = tables.agreement(d, c, images, SOME, 7, [FAKE])
        across = np.corrcoef(pattern.flatten(), pattern.T.flatten())[0, 1]
        np.testing.assert_allclose(table["correlation"], [1, -1, np.nan, np.nan, across, 1], rtol=1e-5)
        np.testing.assert_allclose(table["chance"], [-1, 1, across, np.nan, np.nan, np.nan], rtol=1e-5)


def test_told_each_class_has_the_logits_and_maps_of_d_told_that_class(explainers, images):
    d = explainers["d"]
    told_norm3 = partial(d.signed, images, 2, "reference", layers=["norm3"])
    table = tables.told_each_class(d, images, LABELS, 2, FAKE)
    right, scores = told_norm3(labels=LABELS)
    for told, rows in table.groupby("told"):
        assert rows["image"].tolist() == list(range(6))
        assert rows["label"].tolist() == LABELS.tolist()
        maps, logits = told_norm3(labels=torch.full((6,), told))
        np.testing.assert_allclose(rows["logit"], logits, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(rows["change"], logits - scores, rtol=1e-2, atol=1e-5)
        expected = correlations(maps["norm3", "hirescam"], right["norm3", "hirescam"])
        np.testing.assert_allclose(rows["correlation"], expected, atol=2e-3)
    assert len(table) == 6 * 10
    assert ((table["change"] == 0) == (table["told"] == table["label"])).all()


def test_confusion_is_the_mean_over_images_of_a_class():
    table = pd.DataFrame({"label": [7, 7, 7, 2, 2, 7], "told": [2, 2, 7, 2, 7, 7]})
    table["change"] = [1.0, 4.0, 0.0, 0.0, -3.0, np.nan]
    found = tables.confusion(table, "change")
    assert found.index.tolist() == found.columns.tolist() == [2, 7]
    assert found.to_numpy().tolist() == [[0.0, -3.0], [2.5, 0.0]]


def test_the_class_that_d_finds_most_real_is_the_right_one_or_not():
    logits = {
        (0, 0): [3, 1],
        (0, 1): [2, -1],
        (1, 0): [-2, -1],
        (1, 1): [0, 5],
    }  # by seed and image; label: image
    table = pd.DataFrame(
        {"source": "real", "seed": seed, "image": image, "label": image, "told": told, "logit": logit}
        for (seed, image), scores in logits.items()
        for told, logit in enumerate(scores)
    )
    found = tables.most_real(pd.concat([table, table.assign(source="generated")]))  # an index that repeats
    assert found["right"].tolist() == [1, 0, 0, 1] * 2
    assert found["source"].tolist() == ["real"] * 4 + ["generated"] * 4


def test_over_networks_has_students_interval_of_their_means():
    means = {"real": [0.3, 0.4, 0.5], "generated": [-0.3, -0.1, 0.4]}
    table = pd.DataFrame(
        {
            "source": source, "seed": seed, "image": more > 0, "value": mean + more,
            "partly": mean if more > 0 else np.nan,
        }
        for source, by_seed in means.items()
        for seed, mean in enumerate(by_seed)
        for more in (-0.05, 0.04, 0.06)  # the last two are of one image
    )  # fmt: skip
    found = tables.over_networks(table, ["source"], ["value", "partly"])
    assert list(found.index) == list(means)
    for source, by_seed in means.items():
        low, high = stats.t.interval(0.95, 2, np.mean(by_seed), stats.sem(by_seed))
        digits = 2 if high - low < 1 else 1
        bounds = f"{np.mean(by_seed):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        assert found.loc[source].tolist() == [f"{bounds}, n=3 networks"] * 2
    alone = tables.over_networks(table, ["source", "seed"], ["value"])
    assert all(cell.endswith("n=2 images") for cell in alone["value"])


# --- the models' measures


def test_several_models_are_measured_at_time_0(explainers, images):
    """K by its formula, on the enlarged maps; epochs and readings of every model."""
    shown = {"dcgan": explainers["dcgan"], "model": explainers["d"]}
    table = tables.measure_models(list(shown.values()), images, LABELS, [2, 1])
    assert len(table) == 2 * 2 * len(tables.COMPARED)
    mask = digit_mask(images)
    area = mask.float().mean((1, 2))
    for model, epoch, reading in product(shown, (2, 1), tables.COMPARED):
        (maps,) = shown[model].explain(images, [epoch], labels=LABELS).maps(reading)
        focus = (maps * mask).sum((1, 2)) / maps.sum((1, 2))
        expected = ((focus - area) / (1 - area)).nan_to_num(0).mean()
        rows = table[(table["model"] == model) & (table["epoch"] == epoch)]
        (row,) = rows[(rows["method"] == reading.method) & (rows["evidence"] == reading.evidence)].to_dict(
            "records"
        )
        assert (row["layer"], row["statistics"]) == ("conv3", "running")
        assert row["focus"] == pytest.approx(float(expected), abs=1e-4)
        assert row["all_zero"] == (maps.amax((1, 2)) == 0).double().mean()


# --- charts


CLASSES = ["zero", "one", "two"]
MODELS = ["dcgan", "dudgan"]


def make_agreement():
    """Five images of class 0 and of class 2, quartiles 0.1 about their middle, less by chance; none of class 1."""
    rows = [
        {
            "source": source, "method": method, "label": label, "chance": 0.05 * (i - 2) - 0.5,
            "correlation": 0.1 * label + 0.1 * (i - 2) + 0.3 * (source == "real"),
        }
        for source, method, label, i in product(("real", "generated"), COMPARED_METHODS, (0, 2), range(5))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def make_told():
    """Changes of the logit, and correlations, by source; no image of class 1, as in a small study."""
    values = pd.DataFrame(np.arange(9.0).reshape(3, 3))
    values.loc[1] = math.nan
    change = {"real": -values, "generated": values / 2}
    return change, {source: 1 - table.abs() / 10 for source, table in change.items()}


def make_measured(seeds):
    rows = [
        {
            "model": model, "seed": seed, "evidence": evidence, "epoch": epoch, "covered": 0.1 * place,
            "focus": place + epoch + 0.1 * seed - (evidence == "fake"), "around": 0.5,
        }
        for place, model in enumerate(MODELS) for seed in seeds for evidence in ("real", "fake") for epoch in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


CHARTS = {
    "agreement": lambda: charts.agreement_chart(make_agreement(), CLASSES),
    "told": lambda: charts.told_chart(*make_told(), CLASSES),
    "focus": lambda: charts.model_focus(make_measured((0, 1))),
    "focus, one network": lambda: charts.model_focus(make_measured((0,))),
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_draws_without_a_warning_and_cuts_nothing_off(name):
    assert_nothing_is_cut_off(draw(CHARTS[name]), PAGE)


class TestCharts:
    """The right data in the right place."""

    def test_agreement_has_medians_and_quartiles_by_class(self):
        figure = CHARTS["agreement"]()
        names = product(("real", "generated"), ("Grad-CAM", "HiResCAM"))
        assert [axes.get_title() for axes in figure.axes] == [f"{one} images, {name}" for one, name in names]
        for axes, base in zip(figure.axes, (0.3, 0.3, 0, 0), strict=True):
            same, chance = axes.containers
            assert list(map(round, same.lines[0].get_xdata())) == [0, 2]  # the place of class 1 is empty
            assert list(same.lines[0].get_ydata()) == pytest.approx([base, base + 0.2])
            ends = [segment[:, 1].tolist() for segment in same.lines[2][0].get_segments()]
            assert ends[0] == pytest.approx([base - 0.1, base + 0.1])
            assert list(chance.lines[0].get_ydata()) == pytest.approx([-0.5, -0.5])

    def test_told_has_the_tables_numbers_on_one_scale(self):
        figure, (change, correlation) = CHARTS["told"](), make_told()
        tables = [change["real"], correlation["real"], change["generated"], correlation["generated"]]
        for axes, table in zip(figure.axes[:4], tables, strict=True):
            drawn = np.ma.filled(np.ma.masked_invalid(axes.collections[0].get_array()), np.nan)
            np.testing.assert_allclose(drawn.reshape(3, 3), table)
        titles = [axes.get_title().split()[0] for axes in figure.axes[:4]]
        assert titles == ["real", "real", "generated", "generated"]
        limits = [axes.collections[0].get_clim() for axes in figure.axes[:4]]
        assert limits == [(-8, 8), pytest.approx((0.2, 1)), (-8, 8), pytest.approx((0.2, 1))]

    def test_focus_has_a_row_an_evidence_a_column_a_measure_a_line_a_model(self):
        figure = CHARTS["focus"]()
        names = product(("real", "fake"), charts.MEASURE_LABELS.values())
        assert [axes.get_title() for axes in figure.axes] == [f"{name}, “{one}”" for one, name in names]
        lines = [
            {line.get_label(): list(line.get_ydata()) for line in axes.lines if line.get_label()[0] != "_"}
            for axes in figure.axes
        ]
        assert lines[0]["dcgan"] == pytest.approx([0.05, 1.05, 2.05])
        assert lines[0]["dudgan"] == pytest.approx([1.05, 2.05, 3.05])
        assert lines[3]["dudgan"] == pytest.approx([0.05, 1.05, 2.05])
        assert lines[2]["dudgan"] == lines[5]["dudgan"] == pytest.approx([0.1] * 3)
        colours = [{line.get_label(): line.get_color() for line in axes.lines} for axes in figure.axes]
        assert colours[0]["dudgan"] == colours[3]["dudgan"] != colours[0]["dcgan"]
        chance = [
            [line.get_ydata()[0] for line in axes.lines if line.get_ls() == ":"] for axes in figure.axes
        ]
        assert chance == [[0], [], [], [0], [], []]

import math
import warnings
from itertools import product

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from gradcam_gan.studies import model_charts, style
from gradcam_gan.studies.model_comparison import ADDS_TO, METRICS, ablation_pairs, compare_models

NAMES = ["dcgan", "conditional-dcgan", "diffusion-gan", "dudgan"]
ABLATION = "dudgan-no-contrast"
METRIC_LABELS = ["FID", "KID", "precision", "recall", "class accuracy"]
every_count = pytest.mark.parametrize("seeds", [(0,), (0, 1, 4)], ids=["one seed", "three seeds"])


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def make(function, *arguments):
    """The figure, with warnings as errors and rcParams checked before and after."""
    before = mpl.rcParams.copy()
    with warnings.catch_warnings(action="error"):
        figure = function(*arguments)
    assert mpl.rcParams == before
    return figure


def draw(function, *arguments):
    """The figure laid out and drawn too, which takes most of the time: once or twice a function."""
    figure = make(function, *arguments)
    with warnings.catch_warnings(action="error"):
        figure.canvas.draw()
    return figure


def texts(labels):
    return [label.get_text() for label in labels if label.get_text()]


def legend_of(axes):
    return texts(axes.get_legend().get_texts())


def named_lines(axes):
    """The lines with a name, such as those of means: name -> (x, y)."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def thin_lines(axes):
    """The y-values of the lines of single networks."""
    return [list(line.get_ydata()) for line in axes.lines if line.get_linewidth() == 0.5]


def colours_of(axes):
    return {
        line.get_label(): mpl.colors.to_hex(line.get_color())
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def dotted(axes):
    return [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"]


def marks(axes, marker, place):
    """The x-values of the marks of one shape in one row."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return [float(x) for line in lines for x, y in zip(*line.get_data(), strict=True) if y == place]


# --- training curves


def value(model, seed, epoch, scale=1.0):
    """A number that tells model, seed and epoch."""
    return scale * ([*NAMES, ABLATION].index(model) + 1 + 0.1 * seed + 0.01 * epoch)


def make_histories(models=NAMES, seeds=(0, 1), epochs=(1, 2, 3)):
    """Rows such as ``histories`` gives: what a model does not have is missing."""
    rows = []
    for model, seed, epoch in product(models, seeds, epochs):
        row = {"model": model, "seed": seed, "epoch": epoch}
        row |= {
            "loss_discriminator": value(model, seed, epoch),
            "loss_generator": value(model, seed, epoch, 2),
        }
        row |= {"d_real": 0.9 - 0.01 * seed, "d_fake": 0.1 * epoch}
        if model not in NAMES[:2]:
            row |= {
                "overconfidence": 0.1 * epoch + 0.02 * seed,
                "discriminator_horizon": 100.0 * epoch + seed,
            }
        if model == "dudgan":
            row |= {"classifier_horizon": 50.0 * epoch, "generator_contrast": 1.5 + seed}
            row |= {"loss_contrast": 3.0 / epoch, "loss_classes": 2.0 / epoch}
        rows.append(row)
    return pd.DataFrame(rows)


class TestModelCurves:
    @pytest.fixture(scope="class")
    @classmethod
    def figure(cls):
        return make(model_charts.model_curves, make_histories(), 0.6)

    @every_count
    def test_every_model_has_its_losses_the_mean_over_seeds(self, seeds):
        figure = draw(model_charts.model_curves, make_histories(seeds=seeds), 0.6)
        panels = figure.axes[:4]
        assert [axes.get_title() for axes in panels] == NAMES
        for axes, model in zip(panels, NAMES, strict=True):
            lines = named_lines(axes)
            assert list(lines) == ["D", "G"]
            for name, scale in (("D", 1), ("G", 2)):
                epochs, losses = lines[name]
                assert epochs == [1, 2, 3]
                expected = [np.mean([value(model, seed, epoch, scale) for seed in seeds]) for epoch in epochs]
                assert losses == pytest.approx(expected)
            assert len(thin_lines(axes)) == (2 * len(seeds) if len(seeds) > 1 else 0)
        first = thin_lines(panels[0])
        if first:
            assert first[2] == pytest.approx([value("dcgan", 4, epoch) for epoch in (1, 2, 3)])
        assert panels[0].get_ylabel() == "loss (nats)"
        assert legend_of(panels[0]) == ["D", "G"]

    def test_losses_have_one_scale_from_0(self, figure):
        limits = {axes.get_ylim() for axes in figure.axes[:4]}
        assert len(limits) == 1
        ((low, high),) = limits
        assert low == 0
        assert high >= value("dudgan", 1, 3, 2)

    def test_below_are_ds_outputs_and_what_only_some_models_have(self, figure):
        gap, overconfidence, horizon, contrast = figure.axes[4:]
        assert list(named_lines(gap)) == NAMES == legend_of(gap)
        assert named_lines(gap)["dudgan"][1] == pytest.approx([0.795, 0.695, 0.595])
        assert list(named_lines(overconfidence)) == ["diffusion-gan", "dudgan"]
        assert named_lines(overconfidence)["diffusion-gan"][1] == pytest.approx([0.11, 0.21, 0.31])
        assert list(named_lines(horizon)) == ["D, diffusion-gan", "D, dudgan", "C, dudgan"]
        assert named_lines(horizon)["D, dudgan"][1] == pytest.approx([100.5, 200.5, 300.5])
        assert named_lines(horizon)["C, dudgan"][1] == pytest.approx([50, 100, 150])
        lines = named_lines(contrast)
        assert {name: line[1] for name, line in lines.items()} == {
            "SupCon, real": pytest.approx([3, 1.5, 1]),
            "cross-entropy, real": pytest.approx([2, 1, 2 / 3]),
            "SupCon, generated": pytest.approx([2, 2, 2]),
        }
        assert [axes.get_xlabel() for axes in figure.axes[4:]] == ["epoch"] * 4
        assert contrast.get_ylim()[1] > 3

    def test_a_model_keeps_its_colour(self, figure):
        gap, overconfidence, horizon, _ = map(colours_of, figure.axes[4:])
        assert len(set(gap.values())) == 4
        for model in ("diffusion-gan", "dudgan"):
            assert gap[model] == overconfidence[model] == horizon[f"D, {model}"]

    def test_the_target_is_dotted_also_at_0(self, figure):
        assert dotted(figure.axes[5]) == [0.6]
        assert dotted(make(model_charts.model_curves, make_histories(seeds=(0,)), 0.0).axes[5]) == [0]

    def test_ablations_are_left_out_and_nothing_changes(self, figure):
        with_it = make(model_charts.model_curves, make_histories([*NAMES, ABLATION]), 0.6)
        for one, other in zip(with_it.axes, figure.axes, strict=True):
            assert named_lines(one) == named_lines(other)

    def test_dcgan_alone_leaves_the_other_panels_empty(self):
        figure = make(model_charts.model_curves, make_histories(NAMES[:1]), None)
        assert [axes.get_title() for axes in figure.axes[:4]] == ["dcgan", "", "", ""]
        assert [axes.axison for axes in figure.axes[:4]] == [True, False, False, False]
        assert list(named_lines(figure.axes[4])) == ["dcgan"]
        assert [len(axes.lines) for axes in figure.axes[5:]] == [0, 0, 0]  # no target either


def test_picture_rows_show_each_row_from_black_to_white():
    levels = [torch.full((2, 1, 6, 6), grey, dtype=torch.uint8) for grey in (0, 255)]
    levels.append(torch.zeros(2, 1, 6, 6))  # in [-1, 1]: middle grey
    figure = draw(model_charts.picture_rows, levels, ["black", "white", "grey"], ["a", "b"])
    (axes,) = figure.axes
    assert texts(axes.get_yticklabels()) == ["black", "white", "grey"]
    assert texts(axes.get_xticklabels()) == ["a", "b"]
    picture, down = axes.images[0].get_array(), 6 + style.GAP
    assert picture.shape == (3 * down, 2 * down, 3)
    for column in range(2):
        across = column * down + 3
        assert [float(picture[row * down + 3, across].mean()) for row in range(3)] == [0, 1, 0.5]


# --- scores


def make_scores(models=NAMES, seeds=(0, 1, 4), epochs=(0, 1, 2)):
    """FID falls with the epochs and the models; DCGAN has no class accuracy."""
    rows = []
    for model, seed, epoch in product(models, seeds, epochs):
        place = [*NAMES, ABLATION].index(model)
        row = {"model": model, "seed": seed, "epoch": epoch, "images": 3000 * epoch}
        row |= {"fid": 60.0 - 10 * place - 5 * epoch + seed, "kid": 1 / (place + 1) + 0.01 * seed}
        row |= {"precision": 0.2 + 0.1 * place, "recall": 0.1 * (place + 1) + 0.02 * epoch + 0.01 * seed}
        row["class_accuracy"] = math.nan if model == "dcgan" else 0.2 * place + 0.01 * seed
        rows.append(row)
    return pd.DataFrame(rows)


def make_final(models=NAMES, seeds=(0, 1, 4)):
    return make_scores(models, seeds, (2,))


def shown_range(axes):
    """All x-values of marks lie within the axes' limits."""
    low, high = axes.get_xlim()
    values = [float(x) for line in axes.lines if line.get_marker() in ("|", "o") for x in line.get_xdata()]
    return values and low <= min(values) <= max(values) <= high


class TestScoreChart:
    @pytest.fixture(scope="class")
    @classmethod
    def figure(cls):
        return make(model_charts.score_chart, make_final())

    @every_count
    def test_a_model_a_row_with_a_tick_a_network_and_a_mark_at_the_mean(self, seeds):
        final = make_final([*NAMES, ABLATION], seeds)
        figure = draw(model_charts.score_chart, final)
        assert [axes.get_xlabel() for axes in figure.axes] == METRIC_LABELS
        assert texts(figure.axes[0].get_yticklabels()) == [*NAMES, ABLATION]
        for axes, metric in zip(figure.axes, METRICS, strict=True):
            for place, model in enumerate([*NAMES, ABLATION]):
                values = final.loc[final["model"] == model, metric].dropna().tolist()
                assert marks(axes, "|", place) == pytest.approx(values)
                assert marks(axes, "o", place) == pytest.approx([np.mean(values)] if values else [])

    def test_the_first_model_is_at_the_top(self, figure):
        assert figure.axes[0].get_ylim() == (3.5, -0.5)

    def test_a_model_without_class_accuracy_is_said_to_be_unconditional(self, figure):
        assert [texts(axes.texts) for axes in figure.axes] == [[]] * 4 + [["unconditional"]]
        assert figure.axes[4].texts[0].xy[1] == 0  # DCGAN's row

    def test_a_score_that_one_network_lacks_leaves_the_others(self):
        final = make_final()
        final.loc[(final["model"] == "dudgan") & (final["seed"] == 1), "recall"] = math.nan
        axes = make(model_charts.score_chart, final).axes[3]
        assert marks(axes, "|", 3) == pytest.approx([0.44, 0.48])
        assert marks(axes, "o", 3) == pytest.approx([0.46])

    def test_a_network_that_fails_does_not_hide_the_others(self):
        """FIDs of 3 and 6 stay apart beside one of 900; bounded scores stay linear."""
        final = make_final(NAMES[:3], seeds=(0,)).assign(fid=[3.0, 6.0, 900.0], kid=[0.3, 0.6, 90.0])
        figure = make(model_charts.score_chart, final)
        for axes, low, high in ((figure.axes[0], 3, 6), (figure.axes[1], 0.3, 0.6)):
            assert axes.get_xscale() != "linear"
            place = axes.transAxes.inverted().transform
            left, right = (place(axes.transData.transform((x, 0)))[0] for x in (low, high))
            assert right - left > 0.05
            assert shown_range(axes)
        assert [axes.get_xscale() for axes in figure.axes[2:]] == ["linear"] * 3
        assert [axes.get_xlim()[0] for axes in figure.axes[2:]] == [0] * 3

    @pytest.mark.parametrize("fid", [0.5, 40.0, 300.0])
    def test_every_mark_is_within_the_axes(self, fid):
        figure = make(model_charts.score_chart, make_final().assign(fid=fid, kid=fid / 50))
        assert all(shown_range(axes) for axes in figure.axes)

    def test_a_kid_that_chance_takes_below_0_is_shown(self):
        figure = make(model_charts.score_chart, make_final(seeds=(0,)).assign(kid=[-0.02, 0.1, 0.2, 0.3]))
        assert shown_range(figure.axes[1])

    def test_without_ablations_there_are_no_rows_for_them(self, figure):
        assert texts(figure.axes[0].get_yticklabels()) == NAMES


class TestProgressChart:
    @pytest.fixture(scope="class")
    @classmethod
    def figure(cls):
        return make(model_charts.progress_chart, make_scores([*NAMES, ABLATION]))

    @every_count
    def test_scores_are_means_over_seeds_by_thousands_of_images(self, seeds):
        scores = make_scores(seeds=seeds)
        figure = draw(model_charts.progress_chart, scores)
        for axes, metric in zip(figure.axes, ("fid", "recall", "class_accuracy"), strict=True):
            lines = named_lines(axes)
            assert list(lines) == NAMES[metric == "class_accuracy" :]
            for model, (images, values) in lines.items():
                assert images == [3, 6]  # the untrained epoch is left out
                rows = scores[(scores["model"] == model) & (scores["epoch"] > 0)]
                assert values == pytest.approx(rows.groupby("epoch")[metric].mean().tolist())
            expected = len(seeds) * len(lines) if len(seeds) > 1 else 0
            assert len(thin_lines(axes)) == expected
        assert [axes.get_ylabel() for axes in figure.axes] == ["FID", "recall", "class accuracy"]
        assert {axes.get_xlabel() for axes in figure.axes} == {"images seen (thousands)"}

    def test_fid_is_logarithmic_with_the_thresholds_dotted(self, figure):
        assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear"]
        assert [dotted(axes) for axes in figure.axes] == [[50, 20, 10], [], []]

    def test_one_legend_names_the_models_once_in_the_same_colours_everywhere(self, figure):
        assert texts(figure.legends[0].get_texts()) == NAMES  # no ablations
        fid, recall, accuracy = map(colours_of, figure.axes)
        assert fid == recall
        assert accuracy == {name: colour for name, colour in fid.items() if name != "dcgan"}
        assert len(set(fid.values())) == 4
        handles = [mpl.colors.to_hex(line.get_color()) for line in figure.legends[0].get_lines()]
        assert handles == list(fid.values())

    def test_an_epoch_that_a_network_lacks_leaves_the_mean_of_the_others(self):
        scores = make_scores(NAMES[:1])
        scores.loc[(scores["seed"] == 4) & (scores["epoch"] == 1), "fid"] = math.nan
        figure = make(model_charts.progress_chart, scores)
        assert named_lines(figure.axes[0])["dcgan"][1] == pytest.approx([55.5, 50 + 5 / 3])
        assert named_lines(figure.axes[2]) == {}


def both_comparisons(final):
    return pd.concat([compare_models(final, ADDS_TO), compare_models(final, ablation_pairs(final))])


class TestDifferenceChart:
    @pytest.fixture(scope="class")
    @classmethod
    def figure(cls):
        return make(model_charts.difference_chart, both_comparisons(make_final()), make_final())

    @every_count
    def test_a_pair_a_row_with_a_tick_a_network_a_mark_and_its_interval(self, seeds):
        final = make_final([*NAMES, ABLATION], seeds)
        final["fid"] += final["seed"] * np.where(final["model"] == "dudgan", 0.5, 0)  # so that it has a width
        compared = both_comparisons(final)
        figure = draw(model_charts.difference_chart, compared, final)
        assert [axes.get_xlabel() for axes in figure.axes] == [f"Δ {label}" for label in METRIC_LABELS]
        pairs = [*ADDS_TO.items(), (ABLATION, "dudgan")]
        assert texts(figure.axes[0].get_yticklabels()) == [f"{model}\n− {to}" for model, to in pairs]
        wide = final.pivot_table("fid", "seed", "model")
        for place, (model, to) in enumerate(pairs):
            singles = (wide[model] - wide[to]).tolist()
            assert marks(figure.axes[0], "|", place)[: len(seeds)] == pytest.approx(singles)
            assert marks(figure.axes[0], "o", place) == pytest.approx([np.mean(singles)])
        for container, row in zip(
            figure.axes[0].containers, compared[compared["metric"] == "fid"].itertuples(), strict=True
        ):
            (segment,) = container.lines[2][0].get_segments()
            bounds = [row.estimate] * 2 if math.isnan(row.low) else [row.low, row.high]
            assert segment[:, 0].tolist() == pytest.approx(bounds)

    def test_class_accuracy_has_no_difference_to_an_unconditional_model(self, figure):
        assert marks(figure.axes[4], "o", 0) == []
        assert marks(figure.axes[4], "o", 1) == pytest.approx([0.2])
        assert marks(figure.axes[0], "o", 0) == pytest.approx([-10])

    def test_zero_is_marked_and_the_first_pair_is_at_the_top(self, figure):
        for axes in figure.axes:
            assert any(list(line.get_xdata()) == [0, 0] for line in axes.lines)
        assert figure.axes[0].get_ylim() == (2.5, -0.5)

    def test_seeds_without_a_partner_have_no_tick(self):
        final = make_final()
        final = final[(final["model"] != "dudgan") | (final["seed"] > 0)]
        figure = make(model_charts.difference_chart, both_comparisons(final), final)
        assert marks(figure.axes[0], "o", 2) == pytest.approx([-20])
        ticks = [line for line in figure.axes[0].lines if line.get_color() == "0.3"]
        assert [len(line.get_xdata()) for line in ticks] == [3, 3, 2]

    @pytest.mark.parametrize("change", [-300.0, -5.0, -0.4, 0.05, 30.0])
    def test_every_mark_is_within_the_axes(self, change):
        """Also a small gain, which lies just below 0."""
        final = make_final(NAMES[:2])
        final["fid"] = np.where(final["model"] == "dcgan", 400.0, 400.0 + change)
        final["kid"] = np.where(final["model"] == "dcgan", 40.0, 40.0 + change / 10)
        figure = make(model_charts.difference_chart, both_comparisons(final), final)
        assert marks(figure.axes[0], "o", 0) == pytest.approx([change])
        for axes in figure.axes[:2]:
            assert shown_range(axes)
            low, high = axes.get_xlim()
            assert low <= 0 <= high


# --- maps


CLASSES = ["zero", "one", "two"]


def make_agreement(labels=(0, 1, 2), sources=("real", "generated"), methods=("gradcam", "hirescam")):
    """Five images of a class; quartiles of -0.1, 0 and 0.1 about a tenth of the label, less by chance."""
    rows = []
    for source, method, label, i in product(sources, methods, labels, range(5)):
        middle = 0.1 * label + (0.3 if source == "real" else 0)
        row = {"source": source, "method": method, "label": label, "image": i}
        rows.append(row | {"correlation": middle + 0.1 * (i - 2), "chance": middle - 0.5 + 0.05 * (i - 2)})
    return pd.DataFrame(rows)


class TestAgreementChart:
    def test_a_panel_a_source_and_method_with_medians_and_quartiles_by_class(self):
        figure = draw(model_charts.agreement_chart, make_agreement(), CLASSES)
        assert [axes.get_title() for axes in figure.axes] == [
            "real images, Grad-CAM", "real images, HiResCAM",
            "generated images, Grad-CAM", "generated images, HiResCAM",
        ]  # fmt: skip
        for axes, base in zip(figure.axes, (0.3, 0.3, 0, 0), strict=True):
            same, chance = axes.containers
            assert list(same.lines[0].get_ydata()) == pytest.approx([base, base + 0.1, base + 0.2])
            assert list(chance.lines[0].get_ydata()) == pytest.approx([base - 0.5, base - 0.4, base - 0.3])
            ends = [segment[:, 1].tolist() for segment in same.lines[2][0].get_segments()]
            assert ends[0] == pytest.approx([base - 0.1, base + 0.1])
            ends = [segment[:, 1].tolist() for segment in chance.lines[2][0].get_segments()]
            assert ends[2] == pytest.approx([base - 0.35, base - 0.25])
        assert texts(figure.axes[2].get_xticklabels()) == CLASSES
        assert texts(figure.legends[0].get_texts()) == ["same image", "another image of the class"]
        assert figure.axes[0].get_ylim() == (-1.05, 1.05)

    def test_one_source_and_one_method_are_one_panel(self):
        table = make_agreement(sources=("real",), methods=("hirescam",))
        figure = make(model_charts.agreement_chart, table, CLASSES)
        assert [axes.get_title() for axes in figure.axes] == ["real images, HiResCAM"]
        assert figure.axes[0].get_ylabel() == "correlation, D with C"

    def test_a_class_without_other_images_has_no_chance(self):
        table = make_agreement()
        table.loc[table["label"] == 1, "chance"] = math.nan
        figure = make(model_charts.agreement_chart, table, CLASSES)
        same, chance = figure.axes[0].containers
        assert np.isnan(chance.lines[0].get_ydata().astype(float)).tolist() == [False, True, False]
        assert not np.isnan(same.lines[0].get_ydata().astype(float)).any()

    def test_a_class_that_no_image_has_leaves_its_place_empty(self):
        """As among the 32 probe images of the smoke profile."""
        figure = make(model_charts.agreement_chart, make_agreement(labels=(0, 2)), CLASSES)
        axes = figure.axes[0]
        same = axes.containers[0].lines[0]
        shown = {round(x): y for x, y in zip(*same.get_data(), strict=True) if not math.isnan(y)}
        assert shown == {0: pytest.approx(0.3), 2: pytest.approx(0.5)}


def make_told():
    """By source: changes of the logit, and correlations, a row a class, a column a class told."""
    index, told = pd.Index(range(3), name="label"), pd.Index(range(3), name="told")
    values = np.arange(9.0).reshape(3, 3)
    change = {
        "real": pd.DataFrame(-values, index, told), "generated": pd.DataFrame(values / 2, index, told)
    }  # fmt: skip
    correlation = {source: 1 - table.abs() / 10 for source, table in change.items()}
    return change, correlation


class TestToldChart:
    def test_the_matrices_have_the_tables_numbers_and_the_classes_names(self):
        change, correlation = make_told()
        figure = draw(model_charts.told_chart, change, correlation, CLASSES)
        panels = figure.axes[:4]
        expected = [change["real"], correlation["real"], change["generated"], correlation["generated"]]
        for axes, table in zip(panels, expected, strict=True):
            values = np.asarray(axes.collections[0].get_array()).reshape(3, 3)
            assert values == pytest.approx(table.to_numpy())
            assert texts(axes.get_xticklabels()) == texts(axes.get_yticklabels()) == CLASSES
            assert (axes.get_xlabel(), axes.get_ylabel()) == ("class told", "class of the image")
        assert [axes.get_title() for axes in panels] == ["real images"] * 2 + ["generated images"] * 2
        assert texts(panels[0].texts) == [f"{value:.1f}" for value in change["real"].to_numpy().ravel()]
        bars = {axes.get_ylabel() for axes in figure.axes[4:]}
        assert bars == {"change of the logit", "correlation of the map"}
        # both sources have one scale, the changes about 0
        limits = [axes.collections[0].get_clim() for axes in figure.axes[:4]]
        assert limits == [(-8, 8), pytest.approx((0.2, 1)), (-8, 8), pytest.approx((0.2, 1))]

    def test_a_correlation_that_is_missing_leaves_its_cell_empty(self):
        change, correlation = make_told()
        correlation["real"].iloc[0, 1] = math.nan
        figure = make(model_charts.told_chart, change, correlation, CLASSES)
        values = figure.axes[1].collections[0].get_array().reshape(3, 3)
        assert np.ma.getmaskarray(values).sum() == 1
        assert np.ma.getmaskarray(values)[0, 1]

    def test_a_class_that_no_image_has_is_an_empty_row_and_leaves_the_scales(self):
        """As ``confusion`` gives it for the probe images of the smoke profile."""
        change, correlation = make_told()
        for table in (*change.values(), *correlation.values()):
            table.loc[1] = math.nan
        figure = make(model_charts.told_chart, change, correlation, CLASSES)
        values = np.ma.masked_invalid(figure.axes[0].collections[0].get_array()).reshape(3, 3)
        assert np.ma.getmaskarray(values).all(1).tolist() == [False, True, False]
        assert values[2].tolist() == pytest.approx([-6, -7, -8])
        limits = [axes.collections[0].get_clim() for axes in figure.axes[:4]]
        assert limits == [(-8, 8), pytest.approx((0.2, 1)), (-8, 8), pytest.approx((0.2, 1))]


class TestModelFocus:
    def table(self, models=NAMES, seeds=(0, 1), evidences=("real", "fake")):
        return pd.DataFrame(
            {
                "model": model, "seed": seed, "evidence": evidence, "epoch": epoch,
                "focus_lift": value(model, seed, epoch) + 10 * (evidence == "fake"),
                "coverage": value(model, seed, epoch, 0.1),
            }
            for evidence, model, seed, epoch in product(evidences, models, seeds, range(3))
        )  # fmt: skip

    @every_count
    def test_a_row_an_evidence_a_column_a_measure_a_line_a_model(self, seeds):
        measures = ("focus_lift", "coverage")
        figure = draw(model_charts.model_focus, self.table(seeds=seeds), measures)
        assert [axes.get_title() for axes in figure.axes] == [
            "focus lift, “real”", "coverage (τ 0.5), “real”", "focus lift, “fake”", "coverage (τ 0.5), “fake”"
        ]  # fmt: skip
        for axes, (evidence, measure) in zip(figure.axes, product((0, 10), (1, 0.1)), strict=True):
            lines = named_lines(axes)
            assert list(lines) == NAMES
            for model, (epochs, values) in lines.items():
                assert epochs == [0, 1, 2]
                expected = [
                    np.mean([value(model, seed, epoch, measure) for seed in seeds]) for epoch in epochs
                ]
                assert values == pytest.approx([one + evidence * (measure == 1) for one in expected])
            assert len(thin_lines(axes)) == (len(seeds) * 4 if len(seeds) > 1 else 0)
        assert [axes.get_xlabel() for axes in figure.axes[2:]] == ["epoch (0: untrained)"] * 2

    def test_chance_is_dotted_for_lifts_alone_and_a_legend_names_every_model(self):
        figure = make(model_charts.model_focus, self.table(), ("focus_lift", "coverage"))
        assert [dotted(axes) for axes in figure.axes] == [[1], [], [1], []]
        assert texts(figure.legends[0].get_texts()) == NAMES
        handles = [mpl.colors.to_hex(line.get_color()) for line in figure.legends[0].get_lines()]
        assert handles == list(colours_of(figure.axes[0]).values())

    def test_epochs_and_models_without_maps_are_left_out(self):
        """One seed of an epoch missing, another epoch altogether, and a model under one evidence."""
        table = self.table()
        plain = (table["model"] == "dcgan") & (table["evidence"] == "real")
        table.loc[plain & (table["epoch"] == 0) & (table["seed"] == 1), "focus_lift"] = math.nan
        table.loc[plain & (table["epoch"] == 1), "focus_lift"] = math.nan
        table.loc[(table["model"] == "dudgan") & (table["evidence"] == "fake"), "focus_lift"] = math.nan
        figure = make(model_charts.model_focus, table, ("focus_lift",))
        real, fake = map(named_lines, figure.axes)
        epochs, values = real["dcgan"]
        shown = {epoch: one for epoch, one in zip(epochs, values, strict=True) if not math.isnan(one)}
        assert shown == {0: pytest.approx(1.0), 2: pytest.approx(1.07)}
        assert list(fake) == NAMES[:3]
        assert list(real) == NAMES
        colours = [colours_of(axes) for axes in figure.axes]
        assert all(colours[0][model] == colours[1][model] for model in NAMES[:3])

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_nothing_is_cut_off, refused, texts, tiny
from helpers import draw as draw_figure
from scipy import stats

from gradcam_gan.data import load_images
from gradcam_gan.models.diffusion import DiffusionState
from gradcam_gan.models.options import MODELS
from gradcam_gan.scoring.evaluator import load_evaluator
from gradcam_gan.scoring.scores import Reference, draw, evaluate
from gradcam_gan.studies.diffusion_gans import charts, pictures, rules, tables
from gradcam_gan.studies.style import PAGE
from gradcam_gan.studies.train_dcgan import histories

COUNT, PER_EPOCH = 40, 128
NAMES = ["dcgan", "conditional-dcgan", "diffusion-gan", "dudgan"]
VARIANT = "dudgan-no-contrast"


# --- which models


def test_every_dudgan_without_a_part_is_dudgan_but_for_the_part_that_it_names():
    dudgan = MODELS["dudgan"].model
    undiffused = MODELS["dudgan-no-classifier-diffusion"].model.classifier.diffusion
    assert undiffused.longest == 0
    classifier = dudgan.classifier.model_copy(update={"diffusion": undiffused})
    for name, change in {
        "contrast": {"classifier": None},  # G hears of C by nothing else
        "classifier-diffusion": {"classifier": classifier},
        "discriminator-diffusion": {"diffusion": None},
    }.items():
        assert MODELS[f"dudgan-no-{name}"].model == dudgan.model_copy(update=change)


def test_a_model_is_compared_with_its_partner_where_that_was_trained():
    assert tables.compared_with(reversed(list(MODELS))).keys() == set(MODELS) - {"dcgan"}
    assert tables.compared_with(["dcgan", "dudgan", VARIANT, "dudgan"]) == {VARIANT: "dudgan"}


# --- tiny trainings of each model


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Stands for a profile; images are more than grey after two epochs."""
    configs = [
        tiny(
            model=MODELS[name].model,
            width=4,
            train_images=PER_EPOCH,
            batch_size=16,
            learning_rate=2e-2,
            seed=1,
        )
        for name in [*NAMES, VARIANT]
    ]
    return SimpleNamespace(
        compared_configs=lambda: configs,
        comparison=SimpleNamespace(models=NAMES[1:]),
        runs_dir=tmp_path_factory.mktemp("runs"),
    )


@pytest.fixture(scope="module")
def runs(study):
    return tables.compared_runs(study, variants=False)


@pytest.fixture(scope="module")
def reference():
    """100 held-out digits, for scores that need not be sharp."""
    held_out = load_images("mnist-5k", 28, "test")
    some = held_out._replace(images=held_out.images[::10], labels=held_out.labels[::10])
    return Reference(some, load_evaluator())


@pytest.fixture(scope="module")
def scores(runs, reference):
    return tables.score_models(runs, reference, COUNT)


class TestRuns:
    def test_are_trained_in_order_and_variants_may_be_left_out(self, study, runs):
        assert [run.config.model_name for run in runs] == NAMES
        assert [run.path for run in tables.compared_runs(study)][:-1] == [run.path for run in runs]

    def test_a_model_that_is_not_compared_is_named_in_one_line(self, study):
        tables.require_model(study, "dudgan")
        assert f"has no '{VARIANT}'; add it" in refused(tables.require_model, study, VARIANT)

    def test_histories_lack_what_a_model_does_not_have(self, runs):
        table = histories(runs, model="model_name", seed="seed")
        assert table[["model", "seed", "epoch"]].to_numpy().tolist() == [
            [name, 1, epoch] for name in NAMES for epoch in (1, 2)
        ]
        assert table.loc[table["model"] != "dudgan", "loss_contrast"].isna().all()


class TestScoreModels:
    def test_has_a_row_per_run_and_epoch(self, scores):
        keys = scores[["model", "seed", "epoch", "images"]].to_numpy().tolist()
        assert keys == [[name, 1, epoch, epoch * PER_EPOCH] for name in NAMES for epoch in (0, 1, 2)]

    def test_the_scores_are_those_of_each_generator(self, scores, runs, reference):
        for run, epoch in [(runs[0], 2), (runs[3], 1)]:
            expected = evaluate(run.generator(epoch), reference, count=COUNT)
            found = scores[(scores["model"] == run.config.model_name) & (scores["epoch"] == epoch)]
            (row,) = found.to_dict("records")
            assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4, nan_ok=True)
            unveiled = evaluate(run.generator(epoch), reference.without_veil, count=COUNT)["fid"]
            assert row["fid_without_veil"] == pytest.approx(unveiled, rel=1e-4)

    def test_an_unconditional_model_has_no_class_accuracy(self, scores):
        plain = scores["model"] == "dcgan"
        assert scores.loc[plain, "class_accuracy"].isna().all()
        assert scores.loc[~plain, "class_accuracy"].between(0, 1).all()


class TestNetworkScores:
    def made_up(self, fids, recalls, model="dudgan"):
        """From epoch 0 on; precision falls with the epochs."""
        return pd.DataFrame(
            {
                "model": model, "seed": 3, "epoch": epoch, "images": 0, "fid": fid, "kid": fid / 10,
                "fid_without_veil": fid / 2 if epoch > len(fids) - 4 else math.nan,
                "precision": 1 - epoch / 10, "recall": recall,
                "class_accuracy": math.nan if model == "dcgan" else epoch / 10,
            }
            for epoch, (fid, recall) in enumerate(zip(fids, recalls, strict=True))
        )  # fmt: skip

    def test_are_means_over_the_last_three_checkpoints_of_fid_on_the_log_scale(self):
        table = self.made_up([500, 90, 2, 4, 8], [0, 0.9, 0.3, 0.4, 0.5]).sample(frac=1, random_state=1)
        (row,) = tables.network_scores(table).to_dict("records")
        assert row == {
            "model": "dudgan", "seed": 3, "log_fid": pytest.approx(math.log(4)), "kid": pytest.approx(14 / 30),
            "log_fid_without_veil": pytest.approx(math.log(2)),
            "precision": pytest.approx(0.7), "recall": pytest.approx(0.4), "class_accuracy": pytest.approx(0.3),
            "collapsed": False,
        }  # fmt: skip

    def test_never_count_the_untrained_epoch(self):
        (row,) = tables.network_scores(self.made_up([500, 3, 27], [0, 0.5, 0.5])).to_dict("records")
        assert row["log_fid"] == pytest.approx(math.log(9))

    @pytest.mark.parametrize(
        ("fid", "recall", "collapsed"), [(20, 0.1, False), (20.1, 0.5, True), (5, 0.09, True)]
    )
    def test_a_collapse_is_seen_at_the_last_checkpoint(self, fid, recall, collapsed):
        table = self.made_up([9, 300, fid], [0.5, 0.0, recall])  # whatever was before
        networks = tables.network_scores(table)
        assert networks["collapsed"].tolist() == [collapsed]
        assert tables.collapses(networks, "dudgan") == f"{int(collapsed)} of 1"

    def test_of_real_runs_have_a_row_a_network_in_their_order(self, scores):
        networks = tables.network_scores(scores)
        assert networks["model"].tolist() == NAMES
        assert networks["class_accuracy"].isna().tolist() == [True, False, False, False]


# --- how many images a model needs


def made_up_scores(fids, per_epoch=100):
    """``fids[model, seed]`` has an FID an epoch, from 0 on."""
    return pd.DataFrame(
        {"model": model, "seed": seed, "epoch": epoch, "images": epoch * per_epoch, "fid": fid}
        for (model, seed), values in fids.items()
        for epoch, fid in enumerate(values)
    )


class TestImagesNeeded:
    FIDS = {  # noqa: RUF012
        ("plain", 0): [90, 50, 30, 40, 19],
        ("plain", 1): [math.nan, 80, 60, 51, 50.5],
        ("other", 0): [90, 10, 60, 5, 70],
        ("other", 1): [90, 60, 45, 30, 20],
    }

    def test_is_the_first_time_at_or_below_the_threshold(self):
        table = made_up_scores(self.FIDS)
        columns = ["model", "seed", "fid", "images"]
        expected = [
            ["plain", 0, 50, 100],  # exactly 50
            ["plain", 0, 20, 400],  # nearly there at 300, and worse again
            ["plain", 1, 50, math.nan],
            ["plain", 1, 20, math.nan],
            ["other", 0, 50, 100],  # whatever it was later
            ["other", 0, 20, 100],
            ["other", 1, 50, 200],
            ["other", 1, 20, 400],
        ]
        expected = pd.DataFrame(expected, columns=columns)
        for turned in (table, table.sort_values("epoch", ascending=False)):
            found = tables.images_needed(turned, [50, 20])
            found, wanted = (one.sort_values(columns[:3], ignore_index=True) for one in (found, expected))
            pd.testing.assert_frame_equal(found, wanted, check_dtype=False)

    def test_the_table_has_the_median_of_those_that_reach_it_and_how_many_do(self):
        fids = self.FIDS | {("other", 2): [90, 90, 90, 90, 49.9]}
        needed = tables.images_needed(made_up_scores(fids, per_epoch=12_345), [50, 20, 2.5])
        assert tables.images_needed_table(needed).to_dict("index") == {
            "plain": {"FID 50": "12,345 (1 of 2)", "FID 20": "49,380 (1 of 2)", "FID 2.5": "(0 of 2)"},
            "other": {"FID 50": "24,690 (3 of 3)", "FID 20": "30,862 (2 of 3)", "FID 2.5": "(0 of 3)"},
        }


# --- each model against another


LOG_FID = {"dcgan": [3.0, 2.0, 1.0], "conditional-dcgan": [2.5, 1.7, 1.2]}


def made_up_networks(log_fid=LOG_FID, seeds=None, accuracy=0.9, collapsed=()):
    """Recall is a tenth of log FID; DCGAN has no class accuracy; ``collapsed`` are models of which seed 0 did."""
    return pd.DataFrame(
        {
            "model": model, "seed": seed, "log_fid": value, "kid": 0.1, "precision": 0.5, "recall": value / 10,
            "class_accuracy": math.nan if model == "dcgan" else accuracy,
            "collapsed": model in collapsed and seed == 0,
        }
        for model, values in log_fid.items()
        for seed, value in zip((seeds or {}).get(model, range(len(values))), values, strict=True)
    )  # fmt: skip


class TestCompareModels:
    def test_has_students_interval_of_the_paired_differences_and_their_spread(self):
        """By hand: -0.5, -0.3 and 0.2."""
        differences = [-0.5, -0.3, 0.2]
        compared = tables.compare_models(made_up_networks().sample(frac=1, random_state=0))
        assert compared["metric"].tolist() == list(tables.METRICS)[:3]  # DCGAN has no class accuracy
        row = compared.iloc[0].to_dict()
        low, high = stats.t.interval(0.95, 2, np.mean(differences), stats.sem(differences))
        assert row == {
            "model": "conditional-dcgan", "to": "dcgan", "metric": "log_fid", "estimate": pytest.approx(-0.2),
            "low": pytest.approx(low), "high": pytest.approx(high), "sd": pytest.approx(np.std(differences, ddof=1)),
            "p": 0.5, "n": 3,
        }  # fmt: skip

    def test_seeds_that_one_of_both_lacks_are_left_out(self):
        networks = made_up_networks(seeds={"dcgan": [0, 1, 2], "conditional-dcgan": [2, 5, 0]})
        assert tables.paired(networks, "conditional-dcgan", "dcgan") == pytest.approx([1.2 - 3, 2.5 - 1])
        networks.loc[networks["seed"] == 2, "log_fid"] = math.nan
        row = tables.compare_models(networks).iloc[0]
        assert (row["n"], row["estimate"]) == (1, pytest.approx(1.2 - 3))
        assert row[["low", "high", "sd"]].isna().all()

    def test_without_a_pair_the_table_is_empty_with_its_columns(self):
        compared = tables.compare_models(made_up_networks({"dcgan": [1.0], "dudgan": [2.0]}))
        assert compared.empty
        assert list(compared) == ["model", "to", "metric", "estimate", "low", "high", "sd", "p", "n"]


# --- what D saw


def run_with(states, name="diffusion-gan", seed=0):
    """Stands for a run whose D's diffusion after each epoch is ``states[epoch]``."""
    config = SimpleNamespace(model_name=name, seed=seed)
    return SimpleNamespace(diffusion=states.get, config=config, epochs=[0, 1, 2])


def state(horizon, *times, sigma=0.0):
    """Half of the list is 0, the rest these times in turn."""
    listed = torch.zeros(64, dtype=torch.int64)
    listed[32:] = torch.tensor([times[i % len(times)] if times else 0 for i in range(32)])
    return DiffusionState(horizon=horizon, sigma=sigma, times=listed)


def share_left(horizon, time):
    """The closed form's product, by hand: betas go evenly from 1e-4 to 0.02."""
    return float(np.prod(1 - np.linspace(1e-4, 0.02, horizon)[:time]))


@pytest.fixture
def digits():
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (2000, 1, 4, 4), generator=generator, dtype=torch.uint8)


class TestAsSeen:
    @pytest.mark.parametrize(("horizon", "times"), [(200, (17, 90)), (40, (40,))])
    def test_without_noise_it_is_a_loss_of_contrast_by_the_closed_form(self, digits, horizon, times):
        """Half of the images keep their contrast, the others have that of one of the times."""
        clean = digits / 127.5 - 1
        found = pictures.as_seen(digits, state(horizon, *times))
        contrast = (found * clean).sum((1, 2, 3)) / clean.square().sum((1, 2, 3))
        torch.testing.assert_close(found, contrast[:, None, None, None] * clean, atol=1e-5, rtol=1e-4)
        expected = torch.tensor([1.0, *(math.sqrt(share_left(horizon, time)) for time in times)])
        nearest = (contrast[:, None] - expected).abs().argmin(1)
        torch.testing.assert_close(contrast, expected[nearest], atol=1e-5, rtol=1e-4)
        portions = nearest.bincount(minlength=len(expected)) / len(digits)
        wanted = torch.tensor([0.5, *[0.5 / len(times)] * len(times)])
        torch.testing.assert_close(portions, wanted, atol=0.04, rtol=0)

    def test_the_noise_is_standard_normal_times_sigma_and_the_same_each_time(self, digits):
        clean, left = digits / 127.5 - 1, share_left(300, 300)
        before = torch.get_rng_state()
        found = pictures.as_seen(digits, state(300, 300, sigma=0.4))
        assert torch.equal(torch.get_rng_state(), before)
        changed = (found != clean).flatten(1).any(1)
        noise = (found - math.sqrt(left) * clean)[changed] / (0.4 * math.sqrt(1 - left))
        assert stats.kstest(noise.flatten()[:5000].numpy(), "norm").pvalue > 0.01
        torch.rand(3)
        assert torch.equal(pictures.as_seen(digits, state(300, 300, sigma=0.4)), found)

    def test_rows_are_the_images_and_what_every_run_saw_of_them(self, digits):
        states = {1: state(10, 10), 2: state(300, 200)}
        runs = [run_with(states), run_with({}, name="dudgan")]
        rows, captions = pictures.diffused_rows(runs, digits[:6], [2, 1])
        assert captions == [
            "the images", "diffusion-gan, epoch 2, T 300", "diffusion-gan, epoch 1, T 10",
            "dudgan, epoch 2, T 0", "dudgan, epoch 1, T 0",
        ]  # fmt: skip
        clean = digits[:6] / 127.5 - 1
        expected = [clean, *(pictures.as_seen(digits[:6], states[epoch]) for epoch in (2, 1)), clean, clean]
        assert all(torch.equal(*pair) for pair in zip(rows, expected, strict=True))


class TestDiversity:
    def test_dimensions_are_the_participation_ratio(self):
        """Variances of 3 and 1: (3 + 1)^2 / (9 + 1) dimensions."""
        images = torch.zeros(4, 1, 2, 2)
        images[0, 0, 0, 0], images[1, 0, 0, 0] = math.sqrt(3), -math.sqrt(3)
        images[2, 0, 1, 1], images[3, 0, 1, 1] = 1, -1
        assert pictures.diversity(images) == pytest.approx({"variance": 8 / 3 / 4, "dimensions": 1.6})

    @pytest.mark.parametrize("size", [3, 8])  # more images than pixels, and fewer
    def test_agrees_with_the_covariance_of_any_images(self, size):
        images = torch.rand(30, 2, size, size, generator=torch.Generator().manual_seed(0))
        eigenvalues = torch.linalg.eigvalsh(torch.cov(images.flatten(1).T.double()))
        expected = float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())
        variance = float(images.flatten(1).double().var(0).mean())
        assert pictures.diversity(images) == pytest.approx({"variance": variance, "dimensions": expected})

    def test_of_inputs_it_is_over_that_of_the_images(self, digits):
        images = digits[:50]
        states = {epoch: state(100 * epoch, 100 * epoch, sigma=0.1) for epoch in range(3)}
        without = run_with({}, name="dudgan-no-discriminator-diffusion")
        table = pictures.input_diversity([without, run_with(states, seed=4)], images)
        assert table.iloc[:, :4].to_numpy().tolist() == [
            ["diffusion-gan", 4, 1, 100], ["diffusion-gan", 4, 2, 200]
        ]  # fmt: skip
        clean = pictures.diversity(images / 127.5 - 1)
        for row in table.to_dict("records"):
            seen = pictures.diversity(pictures.as_seen(images, states[row["epoch"]]))
            assert row["variance"] == pytest.approx(seen["variance"] / clean["variance"])
            assert row["dimensions"] == pytest.approx(seen["dimensions"] / clean["dimensions"])

    def test_without_a_diffusion_the_table_is_empty_with_its_columns(self, digits):
        table = pictures.input_diversity([run_with({})], digits[:5])
        assert table.empty
        assert list(table) == ["model", "seed", "epoch", "horizon", "variance", "dimensions"]


@pytest.mark.parametrize(("epochs", "half"), [(4, 20), (5, 30), (1, 10)])
def test_the_horizon_by_half_of_the_training_is_that_of_the_first_epoch_that_ends_no_earlier(epochs, half):
    rows = [["dudgan", seed, epoch, 10 * epoch + seed] for seed in (0, 1) for epoch in range(1, epochs + 1)]
    table = pictures.horizons(pd.DataFrame(rows, columns=["model", "seed", "epoch", "horizon"]))
    assert table[["seed", "half", "largest", "last"]].to_numpy().tolist() == [
        [seed, half + seed, 10 * epochs + seed, 10 * epochs + seed] for seed in (0, 1)
    ]


# --- images of every class


class Painter(torch.nn.Module):
    """A generator whose every image is one grey: that of the class it is told, or that of the image's place."""

    def __init__(self, classes=0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.classes, self.made = classes, 0

    def forward(self, latents, labels=None):
        places = torch.arange(self.made, self.made + len(latents))
        self.made += len(latents)
        greys = places % 200 if labels is None else 20 * labels
        return (greys / 127.5 - 1)[:, None, None, None].expand(-1, 1, 4, 4).float()


class TestSamplesByClass:
    @pytest.mark.parametrize(
        ("generator", "classes", "sort", "expected"),
        [
            # the evaluator, which would see them all in class 0, is not asked
            (Painter(4), 4, torch.zeros_like, [[0] * 3, [20] * 3, [40] * 3, [60] * 3]),
            (Painter(), 2, lambda greys: greys % 2, [[0, 2, 4], [1, 3, 5]]),
            # of 500 images, whose greys repeat after 200, two are 117; none is of class 1
            (Painter(), 3, lambda greys: 2 * (greys == 117), [[0, 1, 2], [128] * 3, [117, 117, 128]]),
        ],
        ids=["conditional: asked for", "sorted, the first first", "grey where there is none"],
    )
    def test_has_a_row_a_class(self, generator, classes, sort, expected):
        """Where an evaluator sees ``sort(grey)``."""
        reference = SimpleNamespace(
            digest="",
            class_names=range(classes),
            embed=lambda images: images[:, 0, 0, :1],
            classes=lambda features: sort(features[:, 0].long()),
        )
        run = SimpleNamespace(generator=lambda epoch: generator, kept_tensors=lambda name, how, find: find())
        assert pictures.samples_by_class(run, 7, reference, 3)[:, :, 0, 0, 0].tolist() == expected

    def test_a_real_runs_samples_are_of_that_epoch(self, runs, reference):
        """A conditional generator is told 0 to 9, and again."""
        asked = pictures.samples_by_class(runs[3], 2, reference, 2)
        made = draw(runs[3].generator(2), 20)
        assert torch.equal(asked, made.unflatten(0, (2, 10)).transpose(0, 1))


# --- charts


SHOWN = [name for name, known in MODELS.items() if not known.variant]


def make_scores(seeds):
    """Of every model; FID falls with the epochs and the models, and DCGAN has no class accuracy."""
    return pd.DataFrame(
        {
            "model": model, "seed": seed, "epoch": epoch, "images": 3000 * epoch,
            "fid": 60.0 - 4 * place - 5 * epoch + seed, "kid": 1 / (place + 1) + 0.01 * seed,
            "precision": 0.2 + 0.05 * place, "recall": 0.08 * (place + 1) + 0.02 * epoch + 0.01 * seed,
            "class_accuracy": 0.1 * place + 0.01 * seed if place else math.nan, "fid_without_veil": 5.0,
        }
        for place, model in enumerate(MODELS) for seed in seeds for epoch in (0, 1, 2)
    )  # fmt: skip


def make_histories(seeds):
    """What a model does not have is missing."""
    rows = make_scores(seeds).query("epoch > 0")
    parts = {name: known.model for name, known in MODELS.items() if known.model is not None}
    noised = rows["model"].isin(name for name, model in parts.items() if model.diffusion)
    classified = rows["model"].isin(name for name, model in parts.items() if model.classifier)
    return rows[["model", "seed", "epoch"]].assign(
        loss_discriminator=rows["fid"],
        loss_generator=2 * rows["fid"],
        d_real=0.9 - 0.01 * rows["seed"],
        d_fake=0.1 * rows["epoch"],
        overconfidence=rows["recall"].where(noised),
        discriminator_horizon=(100 * rows["epoch"]).where(noised),
        **{name: rows["kid"].where(classified) for name in ("classifier_horizon", *charts.CONTRAST_LABELS)},
    )


def draw_chart(name, seeds):
    scores = make_scores(seeds)
    networks = tables.network_scores(scores)
    return {
        "scores": lambda: charts.score_chart(networks),
        "differences": lambda: charts.difference_chart(tables.compare_models(networks), networks),
        "progress": lambda: charts.progress_chart(scores),
        "curves": lambda: charts.model_curves(make_histories(seeds)),
    }[name]()


def named_lines(axes):
    """The lines with a name, such as those of means: name -> y."""
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    return {line.get_label(): list(line.get_ydata()) for line in lines}


def marks(axes, marker, place):
    """The x-values of the marks of one shape in one row."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return [float(x) for line in lines for x, y in zip(*line.get_data(), strict=True) if y == place]


@pytest.mark.parametrize("name", ["scores", "differences", "progress", "curves"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 4)], ids=["one seed", "three seeds"])
def test_every_chart_draws_without_a_warning_and_cuts_nothing_off(name, seeds):
    assert_nothing_is_cut_off(draw_figure(draw_chart, name, seeds), PAGE)


class TestCharts:
    """The right data in the right place."""

    SEEDS = (0, 1, 4)

    def test_scores_have_a_row_a_model_with_its_collapses_a_tick_a_network_and_a_mark_at_the_mean(self):
        figure = draw_chart("scores", self.SEEDS)
        networks = tables.network_scores(make_scores(self.SEEDS))
        labels = [f"{model}\n{tables.collapses(networks, model)} collapsed" for model in MODELS]
        assert texts(figure.axes[0].get_yticklabels()) == labels
        for axes, metric in zip(figure.axes, tables.METRICS, strict=True):
            for place, model in enumerate(MODELS):
                values = networks.loc[networks["model"] == model, metric].dropna().tolist()
                assert marks(axes, "|", place) == pytest.approx(values)
                assert marks(axes, "o", place) == pytest.approx([np.mean(values)] if values else [])
        assert [texts(axes.texts) for axes in figure.axes] == [[]] * 3 + [["unconditional"]]

    def test_differences_have_a_row_a_pair_with_ticks_a_mark_its_interval_and_spread(self):
        networks = tables.network_scores(make_scores(self.SEEDS))
        networks = networks[
            (networks["model"] != "dudgan") | (networks["seed"] > 0)
        ]  # a seed without a partner
        compared = tables.compare_models(networks)
        axes = charts.difference_chart(compared, networks).axes[0]
        pairs = tables.compared_with(networks["model"])
        assert texts(axes.get_yticklabels()) == [f"{model}\n− {to}" for model, to in pairs.items()]
        rows = list(compared[compared["metric"] == "log_fid"].itertuples())
        assert texts(axes.texts) == [f"sd {row.sd:.2g}" for row in rows]
        for place, ((model, to), row, drawn) in enumerate(
            zip(pairs.items(), rows, axes.containers, strict=True)
        ):
            singles = tables.paired(networks, model, to)
            assert marks(axes, "|", place)[: len(singles)] == pytest.approx(singles)
            assert marks(axes, "o", place) == pytest.approx([np.mean(singles)])
            segments = drawn.lines[2][0].get_segments()
            if row.n > 2:
                assert segments[0][:, 0].tolist() == pytest.approx([row.low, row.high])

    def test_progress_has_means_by_images_without_the_untrained_and_the_variants(self):
        scores = make_scores(self.SEEDS)
        scores["log_fid"] = np.log(scores["fid"])
        figure = draw_chart("progress", self.SEEDS)
        for axes, metric in zip(figure.axes, ("log_fid", "recall", "class_accuracy"), strict=True):
            lines = named_lines(axes)
            assert list(lines) == SHOWN[metric == "class_accuracy" :]
            for model, values in lines.items():
                rows = scores[(scores["model"] == model) & (scores["epoch"] > 0)]
                assert values == pytest.approx(rows.groupby("epoch")[metric].mean().tolist())
            assert {tuple(line.get_xdata()) for line in axes.lines if line.get_ls() == "-"} == {(3.0, 6.0)}

    def test_curves_have_each_model_where_it_has_such_a_number(self):
        table = make_histories(self.SEEDS)
        *by_model, contrast = map(named_lines, draw_chart("curves", self.SEEDS).axes)
        loss_d, loss_g, gap, overconfidence, horizon = by_model
        assert list(loss_d) == list(loss_g) == list(gap) == SHOWN
        for model in SHOWN:
            rows = table[table["model"] == model].groupby("epoch")["loss_discriminator"].mean()
            assert loss_d[model] == pytest.approx(rows.tolist())
            assert loss_g[model] == pytest.approx((2 * rows).tolist())
        assert gap["dudgan"] == pytest.approx([0.9 - 0.05 / 3 - 0.1, 0.9 - 0.05 / 3 - 0.2])
        assert list(overconfidence) == ["diffusion-gan", "dudgan"]
        assert list(horizon) == ["diffusion-gan", "dudgan", "C, dudgan"]
        assert horizon["dudgan"] == [100, 200]
        assert list(contrast) == list(charts.CONTRAST_LABELS.values())

    def test_a_model_has_one_colour_in_all_charts(self):
        by_name = [
            next(line for line in draw_chart(name, (0,)).axes[0].lines if line.get_label() == "dudgan")
            for name in ("progress", "curves")
        ]
        row = list(MODELS).index("dudgan")
        marked = [line for line in draw_chart("scores", (0,)).axes[0].lines if line.get_marker() == "o"]
        assert {line.get_color() for line in by_name} == {marked[row].get_color()}


# --- P2 and P3


ZIGZAG = np.array([1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1])  # of mean 0
# differences of twelve networks, and the verdict on them
DIFFERENCES = {
    "lower": (-0.4 + 0.1 * ZIGZAG, "reproduced"),
    "lower, though by less than counts": (-0.05 + 0.01 * ZIGZAG, "reproduced"),
    "higher": (0.4 + 0.1 * ZIGZAG, "not reproduced"),
    "equal": (0.01 + 0.2 * ZIGZAG, "not reproduced"),
    "neither": (-0.2 + 0.5 * ZIGZAG, "inconclusive"),
    "two networks": ([-0.4, -0.5], "inconclusive"),
    "none": ([], "inconclusive"),
}
each_difference = pytest.mark.parametrize(("differences", "verdict"), DIFFERENCES.values(), ids=DIFFERENCES)


def judged_networks(model, to, differences, **more):
    """Networks of both whose log FIDs differ so, on top of what differs from seed to seed."""
    base = 2 + 0.3 * np.arange(len(differences)) % 0.7
    log_fid = {"dcgan": [2.0], to: base, model: base + np.asarray(differences)}
    return made_up_networks(log_fid, **more)


def made_up_inputs(half=255, model="diffusion-gan"):
    """Twelve networks over ten epochs; T reaches ``half`` with the fifth."""
    return pd.DataFrame(
        {
            "model": model, "seed": seed, "epoch": epoch, "horizon": half * epoch / 5,
            "variance": 0.7 + 0.01 * seed, "dimensions": 1.2 + 0.01 * seed,
        }
        for seed in range(12) for epoch in range(1, 11)
    )  # fmt: skip


class TestDiffusion:
    """P2."""

    def judge(self, differences, inputs=None, **more):
        networks = judged_networks("diffusion-gan", "conditional-dcgan", differences, **more)
        return rules.judge_diffusion(networks, made_up_inputs() if inputs is None else inputs)

    @each_difference
    def test_is_judged_by_the_interval_and_by_equivalence(self, differences, verdict):
        assert self.judge(differences).verdict == verdict

    def test_the_effect_is_students_interval_of_the_paired_differences_and_beside_it_stands_what_explains(
        self,
    ):
        differences, _ = DIFFERENCES["lower"]
        claim = self.judge(differences, collapsed=["conditional-dcgan"])
        low, high = stats.t.interval(0.95, 11, -0.4, stats.sem(differences))
        assert (claim.name, claim.effect.n) == ("P2", 12)
        assert (claim.effect.estimate, claim.effect.low, claim.effect.high) == pytest.approx(
            (-0.4, low, high)
        )
        assert "FID times 0.67" in claim.sentence
        beside = claim.beside
        for name, mean in {
            "recall": -0.04,
            "variance of D's input over the images' own": 0.755,
            "dimensions of D's input over the images' own": 1.255,
        }.items():
            assert (beside[name].estimate, beside[name].n) == (pytest.approx(mean), 12)
        assert beside["T by half of the training"] == "255"
        collapsed = [
            beside[f"networks of {name} that collapsed"] for name in ("diffusion-gan", "conditional-dcgan")
        ]
        assert collapsed == ["0 of 12", "1 of 12"]

    def test_undecided_it_says_how_many_networks_it_would_take(self):
        assert "networks to decide" in self.judge(DIFFERENCES["neither"][0]).sentence

    @pytest.mark.parametrize(
        ("inputs", "reached"),
        [
            (made_up_inputs(half=249), "249"),
            (pd.concat([made_up_inputs(half=400), made_up_inputs(half=24).assign(seed=99)]), "24"),
            (made_up_inputs(model="dudgan"), "nan"),
        ],
        ids=["no T", "one network's T", "no such network"],
    )
    def test_without_a_horizon_that_rose_it_is_not_judged(self, inputs, reached):
        claim = self.judge(DIFFERENCES["lower"][0], inputs)
        assert claim.verdict == "inconclusive"
        assert claim.sentence == f"not judged: T was {reached} by half of the training, not 250"
        assert math.isnan(claim.effect.estimate)

    def test_a_horizon_at_exactly_half_has_risen(self):
        assert self.judge(DIFFERENCES["lower"][0], made_up_inputs(half=250)).verdict == "reproduced"

    @pytest.mark.parametrize(("accuracy", "judged"), [(0.85, True), (0.849, False)])
    def test_nothing_is_compared_with_a_conditional_dcgan_that_errs_in_the_class(self, accuracy, judged):
        claim = self.judge(DIFFERENCES["lower"][0], accuracy=accuracy)
        assert claim.verdict == ("reproduced" if judged else "inconclusive")
        message = "not judged: conditional-dcgan has a mean class accuracy of 0.849, below 0.85"
        assert judged or claim.sentence == message


class TestDudgan:
    """P3."""

    TO = "conditional-dcgan-averaged"

    def judge(self, differences, **more):
        return rules.judge_dudgan(judged_networks("dudgan", self.TO, differences, **more))

    @each_difference
    def test_is_judged_by_the_interval_and_by_equivalence(self, differences, verdict):
        assert self.judge(differences).verdict == verdict

    def test_an_interval_below_0_is_not_enough_without_the_sign_flip(self):
        """Four networks that agree: p is 1 in 8 at best."""
        claim = self.judge([-0.4, -0.5, -0.45, -0.42])
        assert claim.effect.high < 0
        assert (claim.verdict, claim.beside["p of the sign flip"]) == ("inconclusive", "0.12")

    def test_without_the_sign_flip_equivalence_still_fails_it(self):
        claim = self.judge([-0.05, -0.052, -0.051, -0.053])
        assert claim.effect.high < 0
        assert claim.verdict == "not reproduced"

    def test_beside_it_stand_collapses_and_the_plain_conditional_dcgan(self):
        networks = judged_networks("dudgan", self.TO, DIFFERENCES["lower"][0], collapsed=["dudgan"])
        plain = networks[networks["model"] == "dudgan"].assign(model="conditional-dcgan", collapsed=False)
        beside = rules.judge_dudgan(pd.concat([networks, plain.assign(log_fid=plain["log_fid"] + 1)])).beside
        assert beside["p of the sign flip"] == "0.00049"  # 2 of 2^12
        assert beside["log FID minus conditional-dcgan's"].estimate == pytest.approx(-1)
        collapsed = [beside[f"networks of {name} that collapsed"] for name in ("dudgan", self.TO)]
        assert collapsed == ["1 of 12", "0 of 12"]

    def test_a_collapse_hides_from_the_interval_what_every_pair_says(self):
        claim = self.judge([0.3, 0.4, 0.1, 3.0, 0.5, 0.2, 0.3])
        assert claim.effect.low < 0
        assert (claim.verdict, claim.beside["pairs in which dudgan is better"]) == ("inconclusive", "0 of 7")

    def test_errors_in_the_class_of_either_conditional_dcgan_count(self):
        networks = judged_networks("dudgan", self.TO, DIFFERENCES["lower"][0])
        plain = networks[networks["model"] == "dudgan"].assign(model="conditional-dcgan", class_accuracy=0.5)
        claim = rules.judge_dudgan(pd.concat([networks, plain]))
        assert (
            claim.sentence == "not judged: conditional-dcgan has a mean class accuracy of 0.500, below 0.85"
        )
        claim = self.judge(DIFFERENCES["lower"][0], accuracy=0.6)
        assert claim.sentence.startswith(f"not judged: {self.TO} has a mean class accuracy of 0.600")

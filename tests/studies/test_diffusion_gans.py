import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_nothing_is_cut_off, refused, texts
from helpers import draw as draw_figure
from scipy import stats

from gradcam_gan.data import load_images
from gradcam_gan.intervals import paired_difference_interval
from gradcam_gan.models.diffusion import DiffusionState
from gradcam_gan.models.options import MODELS
from gradcam_gan.scoring.evaluator import load_evaluator
from gradcam_gan.scoring.scores import Reference, draw, evaluate
from gradcam_gan.studies import diffusion_gans as gans
from gradcam_gan.studies import paths
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.style import PAGE
from gradcam_gan.studies.train_dcgan import histories

COUNT, PER_EPOCH = 40, 128
NAMES = ["dcgan", "conditional-dcgan", "diffusion-gan", "dudgan"]
ABLATION = "dudgan-no-contrast"


# --- which models


def test_every_ablation_is_dudgan_but_for_the_part_that_it_names():
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


def test_every_model_but_the_baseline_is_compared_with_another():
    pairs = gans.compared_with(reversed(list(MODELS)))
    assert set(pairs) == set(MODELS) - {"dcgan"}
    assert pairs["conditional-dcgan"] == "dcgan"
    assert pairs["diffusion-gan"] == pairs["dudgan"] == "conditional-dcgan"
    assert {pairs[name] for name, known in MODELS.items() if known.variant} == {"dudgan"}
    assert gans.compared_with(["dcgan", "dudgan", ABLATION, "dudgan"]) == {ABLATION: "dudgan"}


# --- tiny trainings of each model, DCGAN an epoch longer than the others


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield Study.load(
            "smoke",
            preset="paper28",
            width=4,
            train_images=PER_EPOCH,
            batch_size=16,
            learning_rate=2e-2,  # so that images are more than grey after two epochs
            precision="float32",
            device="cpu",
            epochs=3,
            seeds=[0, 1],
            background_seeds=[],
            comparison={"seeds": [1], "epochs": 2, "models": NAMES[1:]},
        )


@pytest.fixture(scope="module")
def runs(study):
    return gans.compared_runs(study)


@pytest.fixture(scope="module")
def reference():
    """100 held-out digits, for scores that need not be sharp."""
    held_out = load_images("mnist-5k", 28, "test")
    some = held_out._replace(images=held_out.images[::10], labels=held_out.labels[::10])
    return Reference(some, load_evaluator())


@pytest.fixture(scope="module")
def scores(runs, reference):
    return gans.score_models(runs, reference, 2, COUNT)


class TestRuns:
    def test_dcgan_comes_first_with_the_seeds_that_are_compared_alone(self, study, runs):
        assert [(run.config.model_name, run.config.seed, run.epochs[-1]) for run in runs] == [
            ("dcgan", 1, 3), *((name, 1, 2) for name in NAMES[1:])
        ]  # fmt: skip
        assert runs[0].path == study.runs_dir / study.config(1).name  # the very run of the paper's network

    def test_ablations_may_be_left_out(self, study, runs):
        changed = study.comparison.model_dump() | {"models": [*NAMES[1:], ABLATION]}
        more = Study(**study.model_dump() | {"comparison": changed})
        assert [run.path for run in gans.compared_runs(more, ablations=False)] == [run.path for run in runs]

    def test_a_model_that_is_not_compared_is_named_in_one_line(self, study):
        gans.require_model(study, "dudgan")
        assert f"has no '{ABLATION}'; add it" in refused(gans.require_model, study, ABLATION)

    def test_the_histories_end_with_the_epoch_that_is_compared(self, runs):
        table = histories(runs, model="model_name", seed="seed").query("epoch <= 2")
        assert table[["model", "seed", "epoch"]].to_numpy().tolist() == [
            [name, 1, epoch] for name in NAMES for epoch in (1, 2)
        ]
        for name, run in zip(NAMES, runs, strict=True):
            rows = table[table["model"] == name].reset_index(drop=True)
            expected = run.history.iloc[:2]
            pd.testing.assert_frame_equal(rows[list(expected)], expected, check_dtype=False)
        # a statistic that the model does not have
        assert table.loc[table["model"] != "dudgan", "loss_contrast"].isna().all()


class TestScoreModels:
    def test_has_a_row_per_run_and_epoch_up_to_the_last_that_all_have(self, scores):
        keys = scores[["model", "seed", "epoch", "images"]].to_numpy().tolist()
        assert keys == [[name, 1, epoch, epoch * PER_EPOCH] for name in NAMES for epoch in (0, 1, 2)]

    def test_the_scores_are_those_of_each_generator(self, scores, runs, reference):
        for run, epoch in [(runs[0], 2), (runs[2], 1)]:
            expected = evaluate(run.generator(epoch), reference, count=COUNT)
            found = scores[(scores["model"] == run.config.model_name) & (scores["epoch"] == epoch)]
            (row,) = found.to_dict("records")
            assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4, nan_ok=True)

    def test_an_unconditional_model_has_no_class_accuracy(self, scores):
        plain = scores["model"] == "dcgan"
        assert scores.loc[plain, "class_accuracy"].isna().all()
        assert scores.loc[~plain, "class_accuracy"].between(0, 1).all()

    def test_the_final_scores_are_those_of_the_last_epoch(self, scores):
        expected = scores[scores["epoch"] == 2].reset_index(drop=True)
        pd.testing.assert_frame_equal(gans.final_scores(scores), expected)


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
            found = gans.images_needed(turned, [50, 20])
            found, wanted = (one.sort_values(columns[:3], ignore_index=True) for one in (found, expected))
            pd.testing.assert_frame_equal(found, wanted, check_dtype=False)

    def test_the_table_has_the_median_of_those_that_reach_it_and_how_many_do(self):
        fids = self.FIDS | {("other", 2): [90, 90, 90, 90, 49.9]}
        needed = gans.images_needed(made_up_scores(fids, per_epoch=12_345), [50, 20, 2.5])
        assert gans.images_needed_table(needed).to_dict("index") == {
            "plain": {"FID 50": "12,345 (1 of 2)", "FID 20": "49,380 (1 of 2)", "FID 2.5": "(0 of 2)"},
            "other": {"FID 50": "24,690 (3 of 3)", "FID 20": "30,862 (2 of 3)", "FID 2.5": "(0 of 3)"},
        }


# --- each model against another


FID = {"dcgan": [30, 20, 10], "conditional-dcgan": [25, 17, 12], "dudgan": [20, 15, 13]}


def made_up_final(fid=FID, seeds=None):
    """Recall is a hundredth of FID and class accuracy a tenth of that; DCGAN has none."""
    rows = []
    for model, values in fid.items():
        for seed, value in zip((seeds or {}).get(model, range(len(values))), values, strict=True):
            accuracy = math.nan if model == "dcgan" else value / 1000
            scored = {"fid": value, "kid": value / 10, "precision": 0.5, "recall": value / 100}
            rows.append({"model": model, "seed": seed, **scored, "class_accuracy": accuracy})
    return pd.DataFrame(rows)


def value_of(compared, model, metric="fid"):
    (row,) = compared[(compared["model"] == model) & (compared["metric"] == metric)].to_dict("records")
    return row


class TestCompareModels:
    def test_is_the_mean_of_the_paired_differences_of_every_metric_that_both_have(self):
        """By hand: -5, -3 and 2; -5, -2 and 1."""
        compared = gans.compare_models(made_up_final())
        assert compared[["model", "metric"]].to_numpy().tolist() == [
            *(["conditional-dcgan", metric] for metric in gans.METRICS if metric != "class_accuracy"),
            *(["dudgan", metric] for metric in gans.METRICS),
        ]
        assert value_of(compared, "conditional-dcgan")["estimate"] == pytest.approx(-2)
        row = value_of(compared, "dudgan")
        expected = paired_difference_interval(FID["dudgan"], FID["conditional-dcgan"])
        assert row == {
            "model": "dudgan", "to": "conditional-dcgan", "metric": "fid", "estimate": pytest.approx(-2),
            "low": expected.low, "high": expected.high, "n": 3,
        }  # fmt: skip
        assert value_of(compared, "dudgan", "class_accuracy")["estimate"] == pytest.approx(-0.002)

    def test_pairs_by_seed_whatever_the_order_of_the_rows(self):
        """A constant difference has no width only where every seed meets itself."""
        fid = {"conditional-dcgan": [3.0, 9.0, 4.0, 1.0], "dudgan": [1.0, 7.0, 2.0, -1.0]}
        table = made_up_final(fid).sample(frac=1, random_state=0, ignore_index=True)
        row = value_of(gans.compare_models(table), "dudgan")
        assert (row["estimate"], row["low"], row["high"], row["n"]) == (-2, -2, -2, 4)

    def test_seeds_and_scores_that_one_of_both_lacks_are_left_out(self):
        seeds = {"conditional-dcgan": [0, 1, 2], "dudgan": [2, 5, 0]}  # 20 - 12 and 13 - 25
        final = made_up_final(seeds=seeds)
        row = value_of(gans.compare_models(final), "dudgan")
        assert (row["n"], row["estimate"]) == (2, pytest.approx(-2))
        final.loc[(final["model"] == "dudgan") & (final["seed"] == 2), "fid"] = math.nan
        row = value_of(gans.compare_models(final), "dudgan")
        assert (row["n"], row["estimate"]) == (1, pytest.approx(-12))
        assert math.isnan(row["low"])
        assert math.isnan(row["high"])

    def test_without_a_pair_the_table_is_empty_with_its_columns(self):
        compared = gans.compare_models(made_up_final({name: FID[name] for name in ("dcgan", "dudgan")}))
        assert compared.empty
        assert list(compared) == ["model", "to", "metric", "estimate", "low", "high", "n"]


# --- what D saw


def run_with(states, name="diffusion-gan", seed=0):
    """Stands for a run whose D's diffusion after each epoch is ``states[epoch]``."""
    config = SimpleNamespace(model_name=name, seed=seed)
    return SimpleNamespace(diffusion=states.get, config=config)


def state(horizon, *times, sigma=0.0):
    """Half of the list is 0, the rest these times in turn."""
    listed = torch.zeros(64, dtype=torch.int64)
    listed[32:] = torch.tensor([times[i % len(times)] if times else 0 for i in range(32)])
    return DiffusionState(horizon=horizon, sigma=sigma, times=listed)


def share_left(horizon, time):
    """The closed form's product, by hand: betas go evenly from 1e-4 to 0.02."""
    return float(np.prod(1 - np.linspace(1e-4, 0.02, horizon)[:time]))


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (2000, 1, 4, 4), generator=generator, dtype=torch.uint8)


class TestAsSeen:
    @pytest.mark.parametrize(("horizon", "times"), [(200, (17, 90)), (40, (40,))])
    def test_without_noise_it_is_a_loss_of_contrast_by_the_closed_form(self, pictures, horizon, times):
        """Half of the images keep their contrast, the others have that of one of the times."""
        clean = pictures / 127.5 - 1
        found = gans.as_seen(pictures, state(horizon, *times))
        contrast = (found * clean).sum((1, 2, 3)) / clean.square().sum((1, 2, 3))
        torch.testing.assert_close(found, contrast[:, None, None, None] * clean, atol=1e-5, rtol=1e-4)
        expected = torch.tensor([1.0, *(math.sqrt(share_left(horizon, time)) for time in times)])
        nearest = (contrast[:, None] - expected).abs().argmin(1)
        torch.testing.assert_close(contrast, expected[nearest], atol=1e-5, rtol=1e-4)
        portions = nearest.bincount(minlength=len(expected)) / len(pictures)
        wanted = torch.tensor([0.5, *[0.5 / len(times)] * len(times)])
        torch.testing.assert_close(portions, wanted, atol=0.04, rtol=0)

    def test_the_noise_is_standard_normal_times_sigma_and_the_same_each_time(self, pictures):
        clean, left = pictures / 127.5 - 1, share_left(300, 300)
        before = torch.get_rng_state()
        found = gans.as_seen(pictures, state(300, 300, sigma=0.4))
        assert torch.equal(torch.get_rng_state(), before)
        changed = (found != clean).flatten(1).any(1)
        noise = (found - math.sqrt(left) * clean)[changed] / (0.4 * math.sqrt(1 - left))
        assert stats.kstest(noise.flatten()[:5000].numpy(), "norm").pvalue > 0.01
        torch.rand(3)
        assert torch.equal(gans.as_seen(pictures, state(300, 300, sigma=0.4)), found)

    def test_rows_are_the_images_and_what_every_run_saw_of_them(self, pictures):
        states = {1: state(10, 10), 2: state(300, 200)}
        runs = [run_with(states), run_with({}, name="dudgan")]
        rows, captions = gans.diffused_rows(runs, pictures[:6], [2, 1])
        assert captions == [
            "the images", "diffusion-gan, epoch 2, T 300", "diffusion-gan, epoch 1, T 10",
            "dudgan, epoch 2, T 0", "dudgan, epoch 1, T 0",
        ]  # fmt: skip
        clean = pictures[:6] / 127.5 - 1
        expected = [clean, *(gans.as_seen(pictures[:6], states[epoch]) for epoch in (2, 1)), clean, clean]
        assert all(torch.equal(*pair) for pair in zip(rows, expected, strict=True))


class TestDiversity:
    def test_dimensions_are_the_participation_ratio(self):
        """Variances of 3 and 1: (3 + 1)^2 / (9 + 1) dimensions."""
        images = torch.zeros(4, 1, 2, 2)
        images[0, 0, 0, 0], images[1, 0, 0, 0] = math.sqrt(3), -math.sqrt(3)
        images[2, 0, 1, 1], images[3, 0, 1, 1] = 1, -1
        assert gans.diversity(images) == pytest.approx({"variance": 8 / 3 / 4, "dimensions": 1.6})

    @pytest.mark.parametrize("size", [3, 8])  # more images than pixels, and fewer
    def test_agrees_with_the_covariance_of_any_images(self, size):
        images = torch.rand(30, 2, size, size, generator=torch.Generator().manual_seed(0))
        eigenvalues = torch.linalg.eigvalsh(torch.cov(images.flatten(1).T.double()))
        expected = float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())
        variance = float(images.flatten(1).double().var(0).mean())
        assert gans.diversity(images) == pytest.approx({"variance": variance, "dimensions": expected})

    def test_of_inputs_it_is_over_that_of_the_images(self, pictures):
        images = pictures[:50]
        states = {epoch: state(100 * epoch, 100 * epoch, sigma=0.1) for epoch in range(1, 4)}
        without = run_with({}, name="dudgan-no-discriminator-diffusion")
        table = gans.input_diversity([without, run_with(states, seed=4)], images, 2)
        assert table.iloc[:, :4].to_numpy().tolist() == [
            ["diffusion-gan", 4, 1, 100], ["diffusion-gan", 4, 2, 200]
        ]  # fmt: skip
        clean = gans.diversity(images / 127.5 - 1)
        for row in table.to_dict("records"):
            seen = gans.diversity(gans.as_seen(images, states[row["epoch"]]))
            assert row["variance"] == pytest.approx(seen["variance"] / clean["variance"])
            assert row["dimensions"] == pytest.approx(seen["dimensions"] / clean["dimensions"])

    def test_without_a_diffusion_the_table_is_empty_with_its_columns(self, pictures):
        table = gans.input_diversity([run_with({})], pictures[:5], 2)
        assert table.empty
        assert list(table) == ["model", "seed", "epoch", "horizon", "variance", "dimensions"]


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
            class_names=range(classes),
            embed=lambda images: images[:, 0, 0, :1],
            classes=lambda features: sort(features[:, 0].long()),
        )
        run = SimpleNamespace(generator=lambda epoch: generator)
        assert gans.samples_by_class(run, 7, reference, 3)[:, :, 0, 0, 0].tolist() == expected

    def test_a_real_runs_samples_are_of_that_epoch(self, runs, reference):
        """A conditional generator is told 0 to 9, and again."""
        asked = gans.samples_by_class(runs[2], 2, reference, 2)
        made = draw(runs[2].generator(2), 20)
        assert torch.equal(asked, made.unflatten(0, (2, 10)).transpose(0, 1))


# --- charts


def make_scores(seeds, models=(*NAMES, ABLATION)):
    """FID falls with the epochs and the models; DCGAN has no class accuracy."""
    return pd.DataFrame(
        {
            "model": model, "seed": seed, "epoch": epoch, "images": 3000 * epoch,
            "fid": 60.0 - 10 * place - 5 * epoch + seed, "kid": 1 / (place + 1) + 0.01 * seed,
            "precision": 0.2 + 0.1 * place, "recall": 0.1 * (place + 1) + 0.02 * epoch + 0.01 * seed,
            "class_accuracy": 0.2 * place + 0.01 * seed if place else math.nan,
        }
        for place, model in enumerate(models) for seed in seeds for epoch in (0, 1, 2)
    )  # fmt: skip


def make_histories(seeds):
    """What a model does not have is missing."""
    rows = make_scores(seeds).query("epoch > 0")
    noised, classified = (rows["model"].isin(models) for models in (NAMES[2:], NAMES[3:]))
    return rows[["model", "seed", "epoch"]].assign(
        loss_discriminator=rows["fid"],
        loss_generator=2 * rows["fid"],
        d_real=0.9 - 0.01 * rows["seed"],
        d_fake=0.1 * rows["epoch"],
        overconfidence=rows["recall"].where(noised),
        discriminator_horizon=(100 * rows["epoch"]).where(noised),
        **{name: rows["kid"].where(classified) for name in ("classifier_horizon", *gans.CONTRAST_LABELS)},
    )


def draw_chart(name, seeds):
    scores = make_scores(seeds)
    final = gans.final_scores(scores)
    return {
        "scores": lambda: gans.score_chart(final),
        "differences": lambda: gans.difference_chart(gans.compare_models(final), final),
        "progress": lambda: gans.progress_chart(scores),
        "curves": lambda: gans.model_curves(make_histories(seeds), 0.6),
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

    def test_scores_have_a_row_a_model_with_a_tick_a_network_and_a_mark_at_the_mean(self):
        figure, final = draw_chart("scores", self.SEEDS), gans.final_scores(make_scores(self.SEEDS))
        assert texts(figure.axes[0].get_yticklabels()) == [*NAMES, ABLATION]
        for axes, metric in zip(figure.axes, gans.METRICS, strict=True):
            for place, model in enumerate([*NAMES, ABLATION]):
                values = final.loc[final["model"] == model, metric].dropna().tolist()
                assert marks(axes, "|", place) == pytest.approx(values)
                assert marks(axes, "o", place) == pytest.approx([np.mean(values)] if values else [])
        assert [texts(axes.texts) for axes in figure.axes] == [[]] * 4 + [["unconditional"]]

    def test_differences_have_a_row_a_pair_with_ticks_a_mark_and_its_interval(self):
        final = gans.final_scores(make_scores(self.SEEDS))
        final = final[(final["model"] != "dudgan") | (final["seed"] > 0)]  # a seed without a partner
        final["fid"] += final["seed"] * np.where(final["model"] == "dudgan", 0.5, 0)  # so that it has a width
        compared = gans.compare_models(final)
        axes = gans.difference_chart(compared, final).axes[0]
        pairs = gans.compared_with(final["model"])
        assert texts(axes.get_yticklabels()) == [f"{model}\n− {to}" for model, to in pairs.items()]
        wide = final.pivot_table("fid", "seed", "model")
        rows = compared[compared["metric"] == "fid"].itertuples()
        for place, ((model, to), row, drawn) in enumerate(
            zip(pairs.items(), rows, axes.containers, strict=True)
        ):
            singles = (wide[model] - wide[to]).dropna()
            assert marks(axes, "|", place)[: len(singles)] == pytest.approx(singles.tolist())
            assert marks(axes, "o", place) == pytest.approx([singles.mean()])
            (segment,) = drawn.lines[2][0].get_segments()
            assert segment[:, 0].tolist() == pytest.approx([row.low, row.high])

    @pytest.mark.parametrize("change", [-300.0, -0.4, 0.05])
    def test_every_difference_is_within_the_axes(self, change):
        """Also a small gain, which lies just below 0."""
        final = gans.final_scores(make_scores(self.SEEDS, NAMES[:2]))
        final["fid"] = np.where(final["model"] == "dcgan", 400.0, 400.0 + change)
        axes = gans.difference_chart(gans.compare_models(final), final).axes[0]
        low, high = axes.get_xlim()
        assert marks(axes, "o", 0) == pytest.approx([change])
        assert low <= min(0, change) <= max(0, change) <= high

    def test_progress_has_means_by_images_without_the_untrained_and_the_ablations(self):
        scores = make_scores(self.SEEDS)
        figure = draw_chart("progress", self.SEEDS)
        for axes, metric in zip(figure.axes, ("fid", "recall", "class_accuracy"), strict=True):
            lines = named_lines(axes)
            assert list(lines) == NAMES[metric == "class_accuracy" :]
            for model, values in lines.items():
                rows = scores[(scores["model"] == model) & (scores["epoch"] > 0)]
                assert values == pytest.approx(rows.groupby("epoch")[metric].mean().tolist())
            assert {tuple(line.get_xdata()) for line in axes.lines if line.get_ls() == "-"} == {(3.0, 6.0)}

    def test_curves_have_losses_by_model_and_below_what_only_some_models_have(self):
        figure = draw_chart("curves", self.SEEDS)
        table = make_histories(self.SEEDS)
        for axes, model in zip(figure.axes[:4], NAMES, strict=True):
            assert axes.get_title() == model
            rows = table[table["model"] == model].groupby("epoch")["loss_discriminator"].mean()
            assert named_lines(axes)["D"] == pytest.approx(rows.tolist())
            assert named_lines(axes)["G"] == pytest.approx((2 * rows).tolist())
        gap, overconfidence, horizon, contrast = map(named_lines, figure.axes[4:])
        assert list(gap) == NAMES
        assert gap["dudgan"] == pytest.approx([0.9 - 0.05 / 3 - 0.1, 0.9 - 0.05 / 3 - 0.2])
        assert list(overconfidence) == ["diffusion-gan", "dudgan"]
        assert list(horizon) == ["D, diffusion-gan", "D, dudgan", "C, dudgan"]
        assert horizon["D, dudgan"] == [100, 200]
        assert list(contrast) == list(gans.CONTRAST_LABELS.values())

    def test_dcgan_alone_leaves_the_other_panels_empty(self):
        figure = gans.model_curves(make_histories((0,)).query("model == 'dcgan'"), None)
        assert [axes.axison for axes in figure.axes[:4]] == [True, False, False, False]
        assert [len(axes.lines) for axes in figure.axes[5:]] == [0, 0, 0]  # no target either


# --- P2 and P3


def outcomes(claim):
    return [finding.outcome for finding in claim.findings]


def make_compared(changes, *, n=5):
    """``changes[model, metric]`` is (estimate, low, high)."""
    rows = [[model, "conditional-dcgan", metric, *change, n] for (model, metric), change in changes.items()]
    return pd.DataFrame(rows, columns=["model", "to", "metric", "estimate", "low", "high", "n"])


ABOVE, BELOW, ABOUT_0, NO_BOUNDS = (2, 1, 3), (-2, -3, -1), (0.5, -1, 2), (2, math.nan, math.nan)
UP_TO_0, FROM_0 = (-0.5, -1, 0), (0.5, 0, 1)
# the outcome where a higher value is better, and where a lower one is
CHANGES = [
    (ABOVE, "holds", "fails"), (BELOW, "fails", "holds"), (ABOUT_0, "unclear", "unclear"),
    (NO_BOUNDS, "unclear", "unclear"), (UP_TO_0, "unclear", "unclear"), (FROM_0, "unclear", "unclear"),
]  # fmt: skip
MORE, LESS, MIXED = [1.5, 1.4, 1.6, 1.5, 1.45], [0.5, 0.4, 0.6, 0.5, 0.45], [1.5, 0.6, 0.9, 1.3, 0.8]
each_change = pytest.mark.parametrize(("change", "if_higher", "if_lower"), CHANGES)


class TestDiffusion:
    """P2."""

    GAINS = {("diffusion-gan", "fid"): BELOW, ("diffusion-gan", "recall"): ABOVE}  # noqa: RUF012

    def inputs(self, variance=MORE, dimensions=MORE, model="diffusion-gan"):
        """Ratios by seed, over two epochs that lie 0.2 about them and at 50 below and above a horizon of 100."""
        return pd.DataFrame(
            {
                "model": model, "seed": seed, "epoch": epoch, "horizon": 100 + sign * 50,
                "variance": one + 0.2 * sign, "dimensions": other - 0.2 * sign,
            }
            for seed, (one, other) in enumerate(zip(variance, dimensions, strict=True))
            for epoch, sign in ((1, -1), (2, 1))
        )  # fmt: skip

    def judge(self, gains=None, n=5, **inputs):
        return gans.judge_diffusion(self.inputs(**inputs), make_compared(self.GAINS | (gains or {}), n=n))

    def test_holds_where_inputs_and_images_are_more_diverse_and_the_fid_lower(self):
        claim = self.judge()
        assert outcomes(claim) == ["holds"] * 4
        assert (claim.name, claim.verdict) == ("P2", "reproduced")

    @pytest.mark.parametrize(
        ("values", "outcome"), [(MORE, "holds"), (LESS, "fails"), (MIXED, "unclear"), ([1.0] * 5, "unclear")]
    )
    @pytest.mark.parametrize(("place", "name"), [(0, "variance"), (1, "dimensions")])
    def test_inputs_are_judged_by_whether_their_ratio_exceeds_1(self, place, name, values, outcome):
        found = outcomes(self.judge(**{name: values}))
        assert found.pop(place) == outcome
        assert found == ["holds"] * 3

    @each_change
    def test_a_lower_fid_and_a_higher_recall_are_better(self, change, if_higher, if_lower):
        changes = {("diffusion-gan", "fid"): change, ("diffusion-gan", "recall"): change}
        assert outcomes(self.judge(changes)) == ["holds", "holds", if_lower, if_higher]

    def test_a_seeds_ratio_is_its_mean_over_epochs_and_the_effect_what_exceeds_1(self):
        finding = self.judge(variance=MIXED).findings[0]
        low, high = stats.t.interval(0.95, 4, np.mean(MIXED) - 1, stats.sem(MIXED))
        effect = finding.effect
        assert (effect.estimate, effect.low, effect.high) == pytest.approx((np.mean(MIXED) - 1, low, high))
        assert (effect.n, effect.unit) == (5, "seeds")
        assert "is 1.02 (mean over epochs, at a mean horizon T of 100)" in finding.sentence

    @pytest.mark.parametrize("count", [1, 4])
    def test_fewer_than_five_networks_decide_nothing(self, count):
        for values in (MORE, LESS):
            claim = self.judge(n=count, variance=values[:count], dimensions=values[:count])
            assert outcomes(claim) == ["unclear"] * 4

    def test_other_models_do_not_count_also_alone(self):
        inputs = pd.concat([self.inputs(), self.inputs(LESS, LESS, model="dudgan")])
        gains = make_compared({("dudgan", "fid"): ABOVE, ("dudgan", "recall"): BELOW} | self.GAINS)
        assert outcomes(gans.judge_diffusion(inputs, gains)) == ["holds"] * 4

        gains = make_compared({("dudgan", "fid"): BELOW})
        assert outcomes(gans.judge_diffusion(self.inputs(model="dudgan"), gains)) == ["unclear"] * 4


class TestDudgan:
    """P3."""

    def judge(self, fid=BELOW, accuracy=ABOVE, **options):
        found = {("dudgan", "fid"): fid, ("dudgan", "class_accuracy"): accuracy}
        return gans.judge_dudgan(make_compared(found, **options))

    @each_change
    def test_holds_where_the_fid_is_lower_and_the_class_accuracy_higher(self, change, if_higher, if_lower):
        assert outcomes(self.judge(fid=change)) == [if_lower, "holds"]
        assert outcomes(self.judge(accuracy=change)) == ["holds", if_higher]

    def test_the_verdict_is_over_both(self):
        claim = self.judge()
        assert (claim.name, claim.verdict) == ("P3", "reproduced")
        assert self.judge(BELOW, BELOW).verdict == "partly"
        assert self.judge(ABOVE, BELOW).verdict == "not reproduced"
        assert self.judge(ABOVE, ABOUT_0).verdict == "inconclusive"

    @pytest.mark.parametrize(("n", "outcome"), [(1, "unclear"), (4, "unclear"), (5, "holds")])
    def test_fewer_than_five_pairs_decide_nothing(self, n, outcome):
        assert outcomes(self.judge(n=n)) == [outcome] * 2
        assert outcomes(self.judge(ABOVE, BELOW, n=n)) == ["unclear" if n < 5 else "fails"] * 2

    @pytest.mark.parametrize("metric", ["fid", "class_accuracy"])
    def test_a_score_that_was_not_compared_is_unclear(self, metric):
        claim = gans.judge_dudgan(make_compared({("dudgan", metric): BELOW}))
        assert outcomes(claim)[metric == "fid"] == "unclear"

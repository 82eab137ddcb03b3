import math
from itertools import product
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from gradcam_gan.data import load_images
from gradcam_gan.errors import InputError
from gradcam_gan.intervals import paired_difference_interval
from gradcam_gan.models.diffusion import DiffusionState
from gradcam_gan.models.options import MODELS, Diffusion
from gradcam_gan.scoring.evaluator import load_classifier
from gradcam_gan.scoring.scores import Reference, draw, evaluate
from gradcam_gan.studies import paths
from gradcam_gan.studies.model_comparison import (
    ADDS_TO,
    METRICS,
    SAMPLES_LOOKED_AT,
    ablation_pairs,
    compare_models,
    compared_runs,
    describe_images_needed,
    describe_inputs,
    diffused_batch,
    diffused_rows,
    diversity,
    final_scores,
    histories,
    images_needed,
    input_diversity,
    is_ablation,
    require_model,
    samples_by_class,
    score_models,
)
from gradcam_gan.studies.profile import Study
from gradcam_gan.training.runs import load_run

COUNT, PER_EPOCH = 40, 128
NAMES = ["dcgan", "conditional-dcgan", "diffusion-gan", "dudgan"]
ABLATIONS = [
    "dudgan-no-contrast", "dudgan-no-classifier-diffusion", "dudgan-no-discriminator-diffusion"
]  # fmt: skip


# --- which models


def test_every_model_is_the_baseline_adds_to_another_or_is_an_ablation():
    assert set(MODELS) == {"dcgan", *ADDS_TO} | {name for name in MODELS if is_ablation(name)}
    assert [name for name in MODELS if is_ablation(name)] == ABLATIONS
    assert ADDS_TO == {
        "conditional-dcgan": "dcgan",
        "diffusion-gan": "conditional-dcgan",
        "dudgan": "conditional-dcgan",
    }


def differences_of(one, other, name=""):
    """The fields, down to the innermost, in which two models differ."""
    if not (hasattr(one, "model_dump") and hasattr(other, "model_dump")):
        return {} if one == other else {name: (one, other)}
    found = {}
    for field in type(one).model_fields:
        found |= differences_of(getattr(one, field), getattr(other, field), f"{name}.{field}".strip("."))
    return found


class TestAblations:
    """Each is DuDGAN but for the part that it names."""

    def lost(self, name):
        return differences_of(MODELS["dudgan"].model, MODELS[name].model)

    def test_without_the_contrast_there_is_no_classifier_and_all_else_is_dudgans(self):
        assert self.lost("dudgan-no-contrast") == {"classifier": (MODELS["dudgan"].model.classifier, None)}

    def test_without_its_diffusion_the_classifier_sees_the_images_themselves(self):
        lost = self.lost("dudgan-no-classifier-diffusion")
        assert lost
        assert all(name.startswith("classifier.diffusion.") for name in lost)
        assert MODELS["dudgan-no-classifier-diffusion"].model.classifier.diffusion.longest == 0

    def test_without_its_diffusion_the_discriminator_sees_the_images_themselves(self):
        lost = self.lost("dudgan-no-discriminator-diffusion")
        assert lost == {"diffusion": (Diffusion(longest=1000), None)}

    def test_dudgan_has_all_of_the_parts(self):
        model = MODELS["dudgan"].model
        assert model.conditional
        assert model.classifier.share_in_generator > 0
        assert model.diffusion.longest == 1000
        assert model.classifier.diffusion.longest == 300

    def test_what_they_are_compared_with_is_named_once_in_the_order_of_the_table(self):
        final = pd.DataFrame({"model": [*NAMES, *ABLATIONS[::-1], *ABLATIONS]})
        assert ablation_pairs(final) == dict.fromkeys(ABLATIONS[::-1], "dudgan")
        assert list(ablation_pairs(final)) == ABLATIONS[::-1]
        assert ablation_pairs(pd.DataFrame({"model": NAMES})) == {}


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
            comparison_seeds=[1],
            comparison_epochs=2,
            comparison_models=NAMES[1:],
        )


@pytest.fixture(scope="module")
def runs(study):
    return compared_runs(study)


@pytest.fixture(scope="module")
def reference():
    """100 held-out digits, for scores that need not be sharp."""
    held_out = load_images("mnist-5k", 28, "test")
    some = held_out._replace(images=held_out.images[::10], labels=held_out.labels[::10])
    return Reference(some, load_classifier())


@pytest.fixture(scope="module")
def scores(runs, reference):
    return score_models(runs, reference, 2, COUNT)


class TestRuns:
    def test_dcgan_comes_first_with_the_seeds_that_are_compared_alone(self, study):
        configs = study.compared_configs()
        assert [(config.model_name, config.seed, config.epochs) for config in configs] == [
            ("dcgan", 1, 3), *((name, 1, 2) for name in NAMES[1:])
        ]  # fmt: skip
        assert configs[0] == study.config(1)  # the very run of the paper's network

    def test_every_seed_of_a_model_follows_the_other(self, study):
        again = Study(**study.model_dump() | {"comparison_seeds": [1, 0]})
        found = [(config.model_name, config.seed) for config in again.compared_configs()]
        assert found == list(product(NAMES, [1, 0]))

    def test_all_of_them_are_trained_into_the_studys_folder(self, runs, study):
        assert [run.path for run in runs] == [
            study.runs_dir / config.name for config in study.compared_configs()
        ]
        assert [run.epochs[-1] for run in runs] == [3, 2, 2, 2]
        assert not (study.runs_dir / study.config(0).name).exists()

    def test_a_model_that_is_not_compared_is_named_in_one_line(self, study):
        require_model(study, "dudgan")
        without = Study(**study.model_dump() | {"comparison_models": ["diffusion-gan"]})
        with pytest.raises(InputError) as caught:
            require_model(without, "dudgan")
        assert str(caught.value) == "comparison_models=['diffusion-gan'] has no 'dudgan'; add it"

    def test_the_histories_end_with_the_epoch_that_is_compared(self, runs):
        table = histories(runs, 2)
        assert table[["model", "seed", "epoch"]].to_numpy().tolist() == [
            [name, 1, epoch] for name in NAMES for epoch in (1, 2)
        ]
        assert table["images"].tolist() == [PER_EPOCH, 2 * PER_EPOCH] * 4
        for name, run in zip(NAMES, runs, strict=True):
            rows = table[table["model"] == name].reset_index(drop=True)
            expected = run.history.iloc[:2]
            pd.testing.assert_frame_equal(rows[list(expected)], expected, check_dtype=False)
        absent = table.loc[table["model"] != "dudgan", "loss_contrast"]
        assert absent.isna().all()  # a statistic that the model does not have
        assert list(table.index) == list(range(8))

    def test_the_histories_of_fewer_epochs_are_shorter(self, runs):
        assert histories(runs, 1)["epoch"].tolist() == [1] * 4


class TestScoreModels:
    def test_has_a_row_per_run_and_epoch_up_to_the_last_that_all_have(self, scores):
        keys = scores[["model", "seed", "epoch"]].to_numpy().tolist()
        assert keys == [[name, 1, epoch] for name in NAMES for epoch in (0, 1, 2)]
        assert list(scores)[:4] == ["model", "seed", "epoch", "images"]
        assert list(scores.index) == list(range(12))

    def test_images_are_those_seen_in_training_the_same_for_every_model(self, scores, runs):
        assert scores["images"].tolist() == [0, PER_EPOCH, 2 * PER_EPOCH] * 4
        for name, run in zip(NAMES, runs, strict=True):
            seen = scores.loc[scores["model"] == name, "images"].tolist()[1:]
            assert seen == run.history["images"].tolist()[:2]

    def test_the_scores_are_those_of_each_generator(self, scores, runs, reference):
        for run, epoch in [(runs[0], 2), (runs[2], 1), (runs[2], 2)]:
            expected = evaluate(run.generator(epoch), reference, count=COUNT)
            found = scores[(scores["model"] == run.config.model_name) & (scores["epoch"] == epoch)]
            (row,) = found.to_dict("records")
            found = {name: row[name] for name in expected}
            assert found == pytest.approx(expected, rel=1e-4, nan_ok=True)
        assert scores.loc[scores["model"] == "diffusion-gan", "fid"].nunique() == 3

    def test_an_unconditional_model_has_no_class_accuracy(self, scores):
        plain = scores["model"] == "dcgan"
        assert scores.loc[plain, "class_accuracy"].isna().all()
        assert scores.loc[~plain, "class_accuracy"].between(0, 1).all()
        assert scores[[name for name in METRICS if name != "class_accuracy"]].notna().all(axis=None)

    def test_unconditional_models_alone_have_the_column_too(self, runs, reference):
        alone = score_models(runs[:1], reference, 2, COUNT)
        assert "class_accuracy" in alone
        assert alone["class_accuracy"].isna().all()

    def test_the_final_scores_are_those_of_the_last_epoch(self, scores):
        final = final_scores(scores)
        expected = scores[scores["epoch"] == 2].reset_index(drop=True)
        pd.testing.assert_frame_equal(final, expected)
        assert final["model"].tolist() == NAMES

    def test_can_be_compared_and_described(self, scores):
        compared = compare_models(final_scores(scores), ADDS_TO)
        assert compared["n"].eq(1).all()
        row = compared.set_index(["model", "metric"]).loc[("dudgan", "fid")]
        fid = final_scores(scores).set_index("model")["fid"]
        assert row["estimate"] == pytest.approx(fid["dudgan"] - fid["conditional-dcgan"])
        assert set(images_needed(scores, [1e9])["images"]) == {0}  # reached untrained


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
        ("plain", 1): [90, 80, 60, 51, 50.5],
        ("other", 0): [90, 10, 60, 5, 70],
        ("other", 1): [90, 60, 45, 30, 20],
    }

    def test_is_the_first_time_at_or_below_the_threshold(self):
        found = images_needed(made_up_scores(self.FIDS), [50, 20])
        assert list(found) == ["model", "seed", "fid", "images"]
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
        pd.testing.assert_frame_equal(found, pd.DataFrame(expected, columns=list(found)), check_dtype=False)

    def test_does_not_depend_on_the_order_of_the_epochs(self):
        table = made_up_scores(self.FIDS)
        turned = images_needed(table[::-1], [50, 20]).set_index(["model", "seed", "fid"])["images"]
        expected = images_needed(table, [50, 20]).set_index(["model", "seed", "fid"])["images"]
        pd.testing.assert_series_equal(turned.sort_index(), expected.sort_index())

    def test_an_fid_that_is_missing_is_not_reached(self):
        found = images_needed(made_up_scores({("plain", 0): [math.nan, math.nan, 3]}), [50])
        assert found["images"].tolist() == [200]

    def test_thresholds_are_50_20_and_10_unless_told(self):
        found = images_needed(made_up_scores(self.FIDS))
        assert found["fid"].tolist() == [50, 20, 10] * 4

    def test_the_description_has_the_median_of_those_that_reach_it_and_how_many_do(self):
        fids = self.FIDS | {("other", 2): [90, 90, 90, 90, 49.9]}
        needed = images_needed(made_up_scores(fids, per_epoch=12_345), [50, 20, 2.5])
        described = describe_images_needed(needed)
        assert described.index.name == "model"
        assert described.to_dict("index") == {
            "plain": {"FID 50": "12,345 (1 of 2)", "FID 20": "49,380 (1 of 2)", "FID 2.5": "(0 of 2)"},
            "other": {"FID 50": "24,690 (3 of 3)", "FID 20": "30,862 (2 of 3)", "FID 2.5": "(0 of 3)"},
        }
        assert list(described.index) == ["plain", "other"]
        assert list(described) == ["FID 50", "FID 20", "FID 2.5"]


# --- each model against another


FID = {"dcgan": [30, 20, 10], "conditional-dcgan": [25, 17, 12], "dudgan": [20, 15, 13]}


def made_up_final(fid=FID, seeds=None):
    """Recall is a hundredth of FID and class accuracy a tenth of that; DCGAN has none."""
    rows = []
    for model, values in fid.items():
        chosen = (seeds or {}).get(model, range(len(values)))
        for seed, value in zip(chosen, values, strict=True):
            accuracy = math.nan if model == "dcgan" else value / 1000
            scored = {"fid": value, "kid": value / 10, "precision": 0.5, "recall": value / 100}
            rows.append({"model": model, "seed": seed, **scored, "class_accuracy": accuracy})
    return pd.DataFrame(rows)


def value_of(compared, model, metric="fid"):
    (row,) = compared[(compared["model"] == model) & (compared["metric"] == metric)].to_dict("records")
    return row


class TestCompareModels:
    def test_is_the_mean_of_the_paired_differences(self):
        """By hand: -5, -3 and 2; -5, -2 and 1."""
        compared = compare_models(made_up_final(), ADDS_TO)
        assert list(compared) == ["model", "to", "metric", "estimate", "low", "high", "n"]
        assert value_of(compared, "conditional-dcgan")["estimate"] == pytest.approx(-2)
        row = value_of(compared, "dudgan")
        assert (row["to"], row["n"], row["estimate"]) == ("conditional-dcgan", 3, pytest.approx(-2))
        expected = paired_difference_interval(FID["dudgan"], FID["conditional-dcgan"])
        assert (row["low"], row["high"]) == (expected.low, expected.high)
        assert value_of(compared, "dudgan", "recall")["estimate"] == pytest.approx(-0.02)
        assert value_of(compared, "dudgan", "class_accuracy")["estimate"] == pytest.approx(-0.002)

    def test_has_a_row_per_pair_and_metric_without_those_that_one_does_not_have(self):
        compared = compare_models(made_up_final(), ADDS_TO)
        assert compared[["model", "metric"]].to_numpy().tolist() == [
            *(["conditional-dcgan", metric] for metric in METRICS if metric != "class_accuracy"),
            *(["dudgan", metric] for metric in METRICS),
        ]

    @pytest.mark.parametrize("order", range(3))
    def test_pairs_by_seed_whatever_the_order_of_the_rows(self, order):
        """A constant difference has no width only where every seed meets itself."""
        fid = {"conditional-dcgan": [3.0, 9.0, 4.0, 1.0], "dudgan": [1.0, 7.0, 2.0, -1.0]}
        table = made_up_final(fid).sample(frac=1, random_state=order, ignore_index=True)
        row = value_of(compare_models(table, ADDS_TO), "dudgan")
        assert (row["estimate"], row["low"], row["high"], row["n"]) == (-2, -2, -2, 4)

    def test_seeds_that_one_of_both_lacks_are_left_out(self):
        seeds = {"conditional-dcgan": [0, 1, 2], "dudgan": [2, 5, 0]}  # 20 - 12 and 13 - 25
        row = value_of(compare_models(made_up_final(seeds=seeds), ADDS_TO), "dudgan")
        assert (row["n"], row["estimate"]) == (2, pytest.approx(-2))

    def test_a_score_that_is_missing_for_one_seed_leaves_its_pair_out(self):
        final = made_up_final()
        final.loc[(final["model"] == "dudgan") & (final["seed"] == 2), "fid"] = math.nan
        compared = compare_models(final, ADDS_TO)
        assert value_of(compared, "dudgan")["estimate"] == pytest.approx(-3.5)
        assert value_of(compared, "dudgan")["n"] == 2
        assert value_of(compared, "dudgan", "recall")["n"] == 3

    def test_one_seed_has_no_bounds(self):
        row = value_of(
            compare_models(made_up_final({"conditional-dcgan": [4], "dudgan": [3]}), ADDS_TO), "dudgan"
        )
        assert row["estimate"] == -1
        assert math.isnan(row["low"])
        assert math.isnan(row["high"])

    def test_models_that_were_not_trained_are_left_out(self):
        without = made_up_final({name: FID[name] for name in ("dcgan", "dudgan")})
        compared = compare_models(without, ADDS_TO)
        assert compared.empty
        assert list(compared) == ["model", "to", "metric", "estimate", "low", "high", "n"]

    def test_ablations_are_compared_with_dudgan(self):
        final = made_up_final({"dudgan": [5.0, 6.0], "dudgan-no-contrast": [7.0, 9.0]})
        compared = compare_models(final, ablation_pairs(final))
        assert compared["model"].unique().tolist() == ["dudgan-no-contrast"]
        row = value_of(compared, "dudgan-no-contrast")
        assert (row["to"], row["estimate"]) == ("dudgan", 2.5)


# --- what D saw


def run_with(states, name="diffusion-gan", seed=0):
    """Stands for a run whose diffusion after each epoch is ``states[epoch]``, or ``states[epoch, network]``."""

    def diffusion(epoch, network="discriminator"):
        return states.get((epoch, network), states.get(epoch))

    return SimpleNamespace(diffusion=diffusion, config=SimpleNamespace(model_name=name, seed=seed))


def state(horizon, *times, sigma=0.0):
    """Half of the list is 0, as in training; the rest are these times, in turn."""
    drawn = torch.tensor((times * 32)[:32] if times else [0] * 32)
    return DiffusionState(horizon, torch.cat([torch.zeros(32, dtype=torch.int64), drawn]), sigma)


def share_left(horizon, time):
    """abar_t by a plain loop."""
    left = 1.0
    for i in range(time):
        left *= 1 - (1e-4 + (2e-2 - 1e-4) * i / (horizon - 1))
    return left


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (2000, 1, 4, 4), generator=generator, dtype=torch.uint8)


class TestDiffusedBatch:
    @pytest.mark.parametrize(("horizon", "times"), [(200, (200,)), (200, (17, 90)), (40, (40,))])
    def test_without_noise_it_is_a_loss_of_contrast_by_the_closed_form(self, pictures, horizon, times):
        clean = pictures / 127.5 - 1
        found = diffused_batch(run_with({3: state(horizon, *times)}), pictures, 3)
        contrast = (found * clean).sum((1, 2, 3)) / clean.square().sum((1, 2, 3))
        torch.testing.assert_close(found, contrast[:, None, None, None] * clean, atol=1e-5, rtol=1e-4)
        expected = torch.tensor([1.0, *(math.sqrt(share_left(horizon, time)) for time in times)])
        nearest = (contrast[:, None] - expected).abs().argmin(1)
        torch.testing.assert_close(contrast, expected[nearest], atol=1e-5, rtol=1e-4)
        portions = nearest.bincount(minlength=len(expected)) / len(pictures)
        wanted = torch.tensor([0.5, *[0.5 / len(times)] * len(times)])
        torch.testing.assert_close(portions, wanted, atol=0.04, rtol=0)

    def test_the_noise_is_standard_normal_times_sigma(self, pictures):
        clean, left = pictures / 127.5 - 1, share_left(300, 300)
        found = diffused_batch(run_with({1: state(300, 300, sigma=0.4)}), pictures, 1)
        changed = (found != clean).flatten(1).any(1)
        noise = (found - math.sqrt(left) * clean)[changed] / (0.4 * math.sqrt(1 - left))
        assert float(noise.mean()) == pytest.approx(0, abs=0.03)
        assert float(noise.std()) == pytest.approx(1, abs=0.03)
        assert noise.flatten().unique().numel() > 0.99 * noise.numel()  # another for every pixel

    def test_half_of_the_images_are_unchanged_on_average(self, pictures):
        found = diffused_batch(run_with({1: state(500, 250, sigma=0.05)}), pictures, 1)
        same = (found == pictures / 127.5 - 1).flatten(1).all(1)
        assert float(same.float().mean()) == pytest.approx(0.5, abs=0.04)

    def test_without_a_diffusion_the_images_are_as_they_were(self, pictures):
        for run in (run_with({}), run_with({1: state(0, sigma=0.05)})):
            found = diffused_batch(run, pictures, 1)
            assert found.dtype == torch.float32
            assert torch.equal(found, pictures / 127.5 - 1)

    def test_the_draws_are_fixed_and_leave_the_random_state_alone(self, pictures):
        run = run_with({1: state(100, 5, 50, 99, sigma=0.1)})
        before = torch.get_rng_state()
        first = diffused_batch(run, pictures, 1)
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(3)
        assert torch.equal(diffused_batch(run, pictures, 1), first)

    def test_each_epoch_and_network_has_its_own_diffusion(self, pictures):
        run = run_with({1: state(100, 100), 2: None, (2, "classifier"): state(50, 50)})
        clean = pictures / 127.5 - 1
        assert torch.equal(diffused_batch(run, pictures, 2), clean)
        assert diffused_batch(run, pictures, 1)[clean != 0].abs().max() == 1
        smallest = [
            float((diffused_batch(run, pictures, *where) / clean)[clean != 0].min())
            for where in ((1,), (2, "classifier"))
        ]
        expected = [math.sqrt(share_left(100, 100)), math.sqrt(share_left(50, 50))]
        assert smallest == pytest.approx(expected, rel=1e-4)

    def test_a_real_runs_times_and_horizon_count(self, runs, study):
        """D's list after the last epoch: half of the images pass, the others lose contrast to what T allows."""
        run = runs[2]
        images = load_images("mnist-5k", 28, "test").images[:200]
        clean = images / 127.5 - 1
        found = diffused_batch(run, images, 2)
        horizon = run.diffusion(2).horizon
        assert horizon >= 10
        same = (found == clean).flatten(1).all(1)
        assert float(same.float().mean()) == pytest.approx(0.5, abs=0.15)
        contrast = (found * clean).sum((1, 2, 3)) / clean.square().sum((1, 2, 3))
        assert math.sqrt(share_left(horizon, horizon)) - 0.01 < contrast.min() < 0.999
        assert torch.equal(diffused_batch(runs[0], images, 2), clean)
        assert not torch.equal(diffused_batch(runs[3], images, 2, "classifier"), clean)
        assert torch.equal(diffused_batch(run, images, 2, "classifier"), clean)


def test_the_rows_are_the_images_and_what_every_run_saw_of_them(pictures):
    one, other = run_with({1: state(10, 10), 2: state(300, 200)}), run_with({}, name="dudgan")
    rows, labels = diffused_rows([one, other], pictures[:6], [2, 1])
    assert labels == [
        "the images",
        "diffusion-gan, epoch 2, T 300",
        "diffusion-gan, epoch 1, T 10",
        "dudgan, epoch 2, T 0",
        "dudgan, epoch 1, T 0",
    ]
    clean = pictures[:6] / 127.5 - 1
    assert torch.equal(rows[0], clean)
    assert torch.equal(rows[1], diffused_batch(one, pictures[:6], 2))
    assert torch.equal(rows[2], diffused_batch(one, pictures[:6], 1))
    assert not torch.equal(rows[1], rows[2])
    assert torch.equal(rows[4], clean)
    assert len(rows) == 5


class TestDiversity:
    def test_as_many_dimensions_as_equal_orthogonal_directions(self):
        """Images that go one step up and one down along k pixels, and stay as they are in the others."""
        for k in (1, 2, 5):
            images = torch.full((2 * k, 1, 3, 3), 0.25)
            for direction in range(k):
                images[2 * direction].view(-1)[direction] += 0.5
                images[2 * direction + 1].view(-1)[direction] -= 0.5
            found = diversity(images)
            assert found["dimensions"] == pytest.approx(k)
            assert found["variance"] == pytest.approx(2 * k * 0.25 / (2 * k - 1) / 9)

    def test_unequal_directions_count_by_the_participation_ratio(self):
        """Variances of 3 and 1: (3 + 1)^2 / (9 + 1)."""
        images = torch.zeros(4, 1, 2, 2)
        images[0, 0, 0, 0], images[1, 0, 0, 0] = math.sqrt(3), -math.sqrt(3)
        images[2, 0, 1, 1], images[3, 0, 1, 1] = 1, -1
        assert diversity(images)["dimensions"] == pytest.approx(1.6)

    def test_agrees_with_the_covariance_of_any_images(self):
        images = torch.rand(30, 2, 3, 3, generator=torch.Generator().manual_seed(0))
        covariance = torch.cov(images.flatten(1).T.double())
        eigenvalues = torch.linalg.eigvalsh(covariance)
        found = diversity(images)
        assert found["variance"] == pytest.approx(float(images.flatten(1).var(0).mean()), rel=1e-5)
        expected = float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())
        assert found["dimensions"] == pytest.approx(expected)

    def test_more_pixels_than_images_and_the_other_way_round(self):
        images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        repeated = diversity(images.repeat(50, 1, 1, 1))
        assert repeated["dimensions"] == pytest.approx(diversity(images)["dimensions"])

    def test_contrast_counts_in_the_variance_and_not_in_the_dimensions(self):
        images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(2))
        one, half = diversity(images), diversity(images / 2 + 0.3)
        assert half["variance"] == pytest.approx(one["variance"] / 4, rel=1e-4)
        assert half["dimensions"] == pytest.approx(one["dimensions"], rel=1e-4)


class TestInputDiversity:
    def test_is_a_row_per_run_and_epoch_from_1_on_over_that_of_the_images(self, pictures):
        images = pictures[:50]
        one = run_with({epoch: state(100 * epoch, 100 * epoch) for epoch in range(1, 4)}, seed=4)
        none = run_with({}, name="dudgan-no-discriminator-diffusion")
        table = input_diversity([none, one], images, 2)
        assert list(table) == ["model", "seed", "epoch", "horizon", "variance", "dimensions"]
        assert table.iloc[:, :4].to_numpy().tolist() == [
            ["diffusion-gan", 4, 1, 100], ["diffusion-gan", 4, 2, 200]
        ]  # fmt: skip
        clean = diversity(images / 127.5 - 1)
        for row in table.to_dict("records"):
            seen = diversity(diffused_batch(one, images, row["epoch"]))
            assert row["variance"] == pytest.approx(seen["variance"] / clean["variance"])
            assert row["dimensions"] == pytest.approx(seen["dimensions"] / clean["dimensions"])

    def test_images_that_pass_are_as_diverse_as_themselves(self, pictures):
        table = input_diversity([run_with({1: state(10)})], pictures[:40], 1)
        assert table[["variance", "dimensions"]].to_numpy().tolist() == [[1, 1]]

    def test_less_contrast_is_less_variance(self, pictures):
        (row,) = input_diversity([run_with({1: state(500, 500)})], pictures, 1).to_dict("records")
        assert row["variance"] == pytest.approx((1 + share_left(500, 500)) / 2, abs=0.02)

    def test_models_without_a_diffusion_give_an_empty_table_with_its_columns(self, pictures):
        table = input_diversity([run_with({})], pictures[:5], 2)
        assert table.empty
        assert list(table) == ["model", "seed", "epoch", "horizon", "variance", "dimensions"]

    def test_of_real_runs(self, runs):
        images = load_images("mnist-5k", 28, "test").images[:64]
        table = input_diversity(runs, images, 2)
        assert table[["model", "seed", "epoch"]].to_numpy().tolist() == [
            [name, 1, epoch] for name in ("diffusion-gan", "dudgan") for epoch in (1, 2)
        ]
        horizons = [run.diffusion(epoch).horizon for run in runs[2:] for epoch in (1, 2)]
        assert table["horizon"].tolist() == horizons
        assert table[["variance", "dimensions"]].gt(0).all(axis=None)


def test_inputs_are_described_by_their_horizons_and_means_over_epochs():
    """By seed: T at most 90 and 40, at the end 50 and 40."""
    rows = [
        ("diffusion-gan", 0, 1, 90, 0.5, 1.0), ("diffusion-gan", 0, 2, 50, 0.7, 1.2),
        ("diffusion-gan", 1, 1, 10, 0.9, 1.4), ("diffusion-gan", 1, 2, 40, 0.7, 1.2),
        ("dudgan", 0, 1, 1000, 2.0, 0.25),
    ]  # fmt: skip
    columns = ["model", "seed", "epoch", "horizon", "variance", "dimensions"]
    assert describe_inputs(pd.DataFrame(rows, columns=columns)) == (
        "diffusion-gan: T is at most 90, 40 and ends at 50, 40; D's inputs have 0.70 times the images' variance, "
        "over 1.20 times as many effective dimensions (mean over epochs); "
        "dudgan: T is at most 1000 and ends at 1000; D's inputs have 2.00 times the images' variance, over 0.25 "
        "times as many effective dimensions (mean over epochs)."
    )


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


def sorter(classes, sort):
    """Stands for a reference whose classifier sees ``sort(grey)``."""
    return SimpleNamespace(
        class_names=[str(label) for label in range(classes)],
        embed=lambda images: images[:, 0, 0, :1],
        classes=lambda features: sort(features[:, 0].long()),
    )


def greys_of(found):
    assert found.dtype == torch.uint8
    flat = found.flatten(2)
    assert (flat == flat[..., :1]).all()
    return flat[..., 0].tolist()


class TestSamplesByClass:
    def generate(self, generator, reference, per_class):
        return samples_by_class(SimpleNamespace(generator=lambda epoch: generator), 7, reference, per_class)

    def test_a_conditional_model_is_asked_for_each_class(self):
        """The classifier, which would see them all in class 0, is not asked."""
        found = self.generate(Painter(4), sorter(4, torch.zeros_like), 3)
        assert found.shape == (4, 3, 1, 4, 4)
        assert greys_of(found) == [[0] * 3, [20] * 3, [40] * 3, [60] * 3]

    def test_an_unconditional_models_images_are_sorted_by_the_classifier_the_first_first(self):
        """Odd greys are of class 1; the fourth of a class is left out."""
        found = self.generate(Painter(), sorter(2, lambda greys: greys % 2), 3)
        assert greys_of(found) == [[0, 2, 4], [1, 3, 5]]

    def test_places_without_an_image_are_grey(self):
        """Of 500 images, whose greys repeat after 200, three are 17; none is of class 1."""
        found = self.generate(
            Painter(), sorter(3, lambda greys: torch.where(greys == 17, 2, 0)), SAMPLES_LOOKED_AT // 100
        )
        assert greys_of(found) == [[0, 1, 2, 3, 4], [128] * 5, [17, 17, 17, 128, 128]]

    def test_a_real_runs_samples_are_of_that_epoch(self, runs, reference):
        """A conditional generator is told 0 to 9, and again."""
        run = runs[2]
        asked = samples_by_class(run, 2, reference, 2)
        made = draw(run.generator(2), 20)
        assert torch.equal(asked, made.unflatten(0, (2, 10)).transpose(0, 1))
        assert not torch.equal(asked, samples_by_class(run, 1, reference, 2))

    def test_a_real_classifier_sees_the_class_in_what_it_sorts(self, runs, reference):
        found = samples_by_class(runs[0], 2, reference, 2)
        assert found.shape == (10, 2, 1, 28, 28)
        counts = []
        for label, images in enumerate(found):
            made = images[(images != 128).flatten(1).any(1)]
            counts.append(len(made))
            if counts[-1]:
                assert reference.classes(reference.embed(made)).eq(label).all()
        assert sum(counts) > 1


def test_a_run_read_back_is_as_good(runs, reference, scores):
    """From the scores that its folder keeps."""
    again = score_models([load_run(run.path) for run in runs], reference, 2, COUNT)
    pd.testing.assert_frame_equal(again, scores, rtol=1e-12)

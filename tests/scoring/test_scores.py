import copy
import errno
import functools
import math
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from helpers import refused
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from gradcam_gan.data import ImageSet, load_images, to_model_range
from gradcam_gan.errors import InputError, RunError
from gradcam_gan.models.dcgan import Generator
from gradcam_gan.scoring import evaluator as evaluator_module
from gradcam_gan.scoring import scores
from gradcam_gan.scoring.evaluator import Evaluator, load_evaluator, train_evaluator
from gradcam_gan.scoring.scores import (
    SCORES,
    Reference,
    draw,
    evaluate,
    evaluate_run,
    evaluate_with_and_without_veil,
    feature_distances,
    reference_for,
)
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import fixed_latents, training_images
from gradcam_gan.training.runs import load_run

DISTANCES = ["fid", "kid", "kid_std", "precision", "recall", "density", "prdc_coverage"]
DIGITS = [f"class_{digit}" for digit in range(10)]


@pytest.fixture(scope="module")
def evaluator():
    return load_evaluator()


@pytest.fixture(scope="module")
def held_out():
    return load_images("mnist-5k", 64, "test")


@pytest.fixture(scope="module")
def training():
    return load_images("mnist-5k", 64)


@pytest.fixture(scope="module")
def reference(held_out, training, evaluator):
    """1,000 held-out digits; the first 500 training digits are those that a generator learned from."""
    return Reference(held_out, evaluator, training=training.images[:500])


@pytest.fixture(scope="module")
def real(training, reference):
    """Scores of 500 real digits that neither the reference nor its training images hold."""
    return evaluate(training.images[500:1000], reference)


@pytest.fixture(scope="module")
def few(held_out):
    """40 held-out digits, four of a class or so: for whatever needs no sharp scores."""
    return held_out._replace(images=held_out.images[::25], labels=held_out.labels[::25])


@pytest.fixture(scope="module")
def small(few, training, evaluator):
    return Reference(few, evaluator, training=training.images[:50])


@pytest.fixture
def run(tiny_run, tmp_path):
    """The tiny run in a folder of its own: epochs 0 to 3, no scores yet."""
    return load_run(shutil.copytree(tiny_run.path, tmp_path / tiny_run.path.name))


def flat(*values, size=16, count=20):
    """``count`` images of each grey value."""
    return torch.tensor(values, dtype=torch.uint8).repeat_interleave(count).view(-1, 1, 1, 1).expand(
        -1, 1, size, size
    )  # fmt: skip


def random_generator(preset="paper64"):
    """An untrained generator whose images differ: its BatchNorm knows its features, its last layer is strong."""
    torch.manual_seed(0)
    generator = Generator(preset, width=2)
    for layer in generator.layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    generator.layers[-2].weight.data *= 20
    with torch.no_grad():
        generator(torch.randn(64, 100))
    return generator


class Says(nn.Module):
    """A generator that gives these images, one after the other."""

    def __init__(self, images):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.images = images
        self.given = 0

    def forward(self, latents):
        self.given += len(latents)
        return self.images[self.given - len(latents) : self.given].clone()


def not_again(*arguments, **options):
    raise AssertionError("computed again")


# --- scores of images whose quality is known


class TestKnownQuality:
    def test_real_images_score_well(self, real, training):
        assert 0 < real["fid"] < 1
        assert abs(real["kid"]) < 0.05
        assert 0 < real["kid_std"] < 0.05
        assert real["precision"] > 0.9
        assert real["recall"] > 0.9
        assert 0.9 < real["density"] < 1.2
        assert real["prdc_coverage"] > 0.8
        assert real["class_entropy"] > 0.99
        assert real["nearest_training_ratio"] == pytest.approx(1, abs=0.05)
        assert list(real) == [
            *DISTANCES, "class_entropy", "nearest_training", "nearest_training_ratio", "n", "n_reference", *DIGITS
        ]  # fmt: skip
        assert set(SCORES) - set(real) == {"class_accuracy"}  # of conditional generators alone
        assert (real["n"], real["n_reference"]) == (500, 1000)
        shares = torch.tensor([real[name] for name in DIGITS])
        torch.testing.assert_close(shares, training.labels[500:1000].bincount() / 500, atol=0.01, rtol=0)

    def test_the_reference_itself_scores_best(self, held_out, reference):
        scores = evaluate(held_out.images, reference)
        assert scores["fid"] == pytest.approx(0, abs=1e-4)
        assert abs(scores["kid"]) < 0.03
        assert [scores[name] for name in ("precision", "recall", "prdc_coverage")] == [1, 1, 1]
        assert scores["density"] == pytest.approx(1)
        assert scores["nearest_training"] == reference.typical_distance
        assert scores["nearest_training_ratio"] == 1

    def test_one_good_image_for_all_latents_is_precise_and_nothing_else(self, held_out, reference, real):
        scores = evaluate(held_out.images[:1].expand(200, -1, -1, -1), reference)
        assert scores["fid"] > 100 * real["fid"]
        assert scores["kid"] > 1
        assert scores["precision"] == 1  # it is among the real images
        assert scores["recall"] == scores["class_entropy"] == 0
        assert 0 < scores["prdc_coverage"] < 0.02  # the few real images that have it among their neighbours
        assert sorted(scores[name] for name in DIGITS) == [0] * 9 + [1]

    def test_a_class_that_is_missing_shows(self, training, reference, real):
        others = torch.arange(500, 1100)[training.labels[500:1100] != 7][:500]
        scores = evaluate(training.images[others], reference)
        assert scores["n"] == real["n"]
        assert scores["class_7"] < 0.01 < 0.08 < real["class_7"]
        assert scores["class_entropy"] < real["class_entropy"] - 0.02
        assert scores["class_entropy"] == pytest.approx(math.log(9) / math.log(10), abs=0.01)
        assert scores["fid"] > 2 * real["fid"]
        assert scores["recall"] < real["recall"] - 0.05
        assert scores["prdc_coverage"] < real["prdc_coverage"] - 0.05
        assert scores["precision"] > 0.9

    def test_copies_of_training_images_are_found_out(self, training, reference, real):
        scores = evaluate(training.images[:500], reference)
        assert scores["nearest_training"] == pytest.approx(0, abs=1e-3)
        assert scores["nearest_training_ratio"] < 0.01
        assert scores["fid"] < 2 * real["fid"]  # which no other score sees
        assert scores["precision"] > 0.9


@pytest.fixture(scope="module")
def greys(evaluator):
    """Reference images all 102, training images black and white."""
    images = ImageSet(flat(102), torch.zeros(20, dtype=torch.int64), list("0123456789"))
    return Reference(images, evaluator, training=flat(0, 255, count=3, size=24))


class TestNearestTraining:
    @pytest.mark.parametrize(("grey", "distance"), [(0, 0), (255, 0), (51, 0.2), (153, 0.4)])
    def test_it_is_the_distance_to_the_nearest_from_0_to_1(self, greys, grey, distance):
        scores = evaluate(flat(grey, size=20), greys)
        assert scores["nearest_training"] == pytest.approx(distance, abs=1e-3)
        assert scores["nearest_training_ratio"] == pytest.approx(distance / 0.4, abs=3e-3)

    def test_black_against_white_is_1_and_images_count_alike(self, greys, evaluator):
        assert greys.typical_distance == pytest.approx(0.4, abs=1e-3)
        assert greys.distance_to_training(flat(0, 51, 102)) == pytest.approx(0.2, abs=1e-3)
        images = ImageSet(flat(255), torch.zeros(20, dtype=torch.int64), list("0123456789"))
        black = Reference(images, evaluator, training=flat(0, count=1))
        assert black.typical_distance == pytest.approx(1, abs=1e-3)
        # 130 images: more than one batch
        assert black.distance_to_training(flat(0, 255, count=65)) == pytest.approx(0.5, abs=1e-3)


def test_a_veil_over_the_ground_counts_for_the_scores_but_not_without_it(training, reference, real):
    digits = training.images[500:1000]
    veiled = digits.clamp(min=15)  # 6 % of white
    assert evaluate(veiled, reference)["fid"] > 5 * real["fid"]
    without = reference.without_veil
    assert without.digest != reference.digest
    expected = evaluate(digits, without)
    assert expected["fid"] == pytest.approx(real["fid"], rel=0.5)
    for images in (veiled, to_model_range(veiled)):
        found = evaluate(images, without)
        assert (found["fid"], found["recall"]) == (expected["fid"], expected["recall"])


# --- the same scores from their definitions


def normal(count, width, *, seed, mean=0.0, scale=1.0):
    """Correlated features."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) / math.sqrt(width)
    return torch.from_numpy(mean + scale * rng.normal(size=(count, width)) @ mixing).float()


def frechet(one, other):
    one, other = (part.double().numpy() for part in (one, other))
    covariances = [np.cov(part, rowvar=False) for part in (one, other)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    shift = one.mean(0) - other.mean(0)
    return shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)


def unbiased_mmd(one, other):
    """Squared maximum mean discrepancy with KID's kernel (x.y / d + 1)^3, without the pairs (x, x)."""
    one, other = (part.double().numpy() for part in (one, other))

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        gram = kernel(a, a)
        return (gram.sum() - np.trace(gram)) / (len(a) * (len(a) - 1))

    return within(one) + within(other) - 2 * kernel(one, other).mean()


def manifold_scores(fake, real, neighbours):
    """Precision, recall, density and coverage as Naeem et al. (2020) define them, point by point."""

    def radius(points, i):
        return sorted(math.dist(points[i], p) for j, p in enumerate(points) if j != i)[neighbours - 1]

    fake, real = fake.tolist(), real.tolist()
    around_real = [radius(real, i) for i in range(len(real))]
    around_fake = [radius(fake, i) for i in range(len(fake))]
    inside = [[math.dist(f, r) < reach for r, reach in zip(real, around_real, strict=True)] for f in fake]
    return {
        "precision": sum(any(row) for row in inside) / len(fake),
        "density": sum(map(sum, inside)) / (neighbours * len(fake)),
        "prdc_coverage": sum(any(column) for column in zip(*inside, strict=True)) / len(real),
        "recall": sum(
            any(math.dist(f, r) < reach for f, reach in zip(fake, around_fake, strict=True)) for r in real
        )
        / len(real),
    }


class TestDefinitions:
    def test_fid(self):
        real, fake = normal(200, 16, seed=0), normal(150, 16, seed=1, mean=0.3, scale=1.5)
        assert feature_distances(fake, real)["fid"] == pytest.approx(frechet(fake, real), rel=1e-6)
        assert feature_distances(real, fake)["fid"] == pytest.approx(frechet(fake, real), rel=1e-6)
        shifted = real + torch.arange(16) / 16
        assert feature_distances(shifted, real)["fid"] == pytest.approx(
            float((torch.arange(16) / 16).square().sum()), rel=1e-4
        )

    def test_fid_of_features_far_from_0_keeps_its_digits(self):
        real, fake = (100 + normal(200, 8, seed=seed) for seed in (0, 1))
        assert feature_distances(fake, real)["fid"] == pytest.approx(frechet(fake, real), rel=1e-5)

    @pytest.mark.parametrize(("real_count", "fake_count"), [(120, 120), (60, 200)])
    def test_kid_is_the_mean_over_halves(self, real_count, fake_count):
        real = normal(real_count, 16, seed=0)
        fake = normal(fake_count, 16, seed=1, mean=0.4, scale=1.3)
        scores = feature_distances(fake, real)
        standard_error = scores["kid_std"] / math.sqrt(50)
        assert scores["kid"] == pytest.approx(unbiased_mmd(fake, real), abs=4 * standard_error)
        rng, half = np.random.default_rng(0), min(real_count, fake_count) // 2
        subsets = [
            unbiased_mmd(*(part[rng.permutation(len(part))[:half]] for part in (fake, real)))
            for _ in range(400)
        ]
        assert scores["kid_std"] == pytest.approx(np.std(subsets), rel=0.35)
        assert scores["kid"] == pytest.approx(np.mean(subsets), abs=4.5 * standard_error)

    @pytest.mark.parametrize("mean", [0, 1])
    def test_precision_recall_density_coverage(self, mean):
        real, fake = normal(30, 3, seed=0), normal(26, 3, seed=1, mean=mean, scale=0.7)
        expected = manifold_scores(fake, real, 5)
        scores = feature_distances(fake, real)
        assert {name: scores[name] for name in expected} == pytest.approx(expected)
        # these points tell the readings apart
        assert expected != manifold_scores(fake, real, 4)
        assert expected != manifold_scores(fake, real, 6)
        assert expected != manifold_scores(real, fake, 5)
        assert len(set(expected.values())) == 4

    def test_evaluate_takes_them_from_the_evaluators_features(self, small, training, evaluator):
        images = training.images[60:100]
        with torch.inference_mode():
            features = evaluator.features(images)
        scores = evaluate(images, small)
        expected = feature_distances(features, small.features)
        assert list(expected) == DISTANCES
        assert {name: scores[name] for name in DISTANCES} == pytest.approx(expected, rel=1e-3, abs=1e-4)


# --- what is taken and what is refused


class TestSamples:
    def test_a_generator_scores_as_the_images_that_it_draws(self, small):
        generator = random_generator()
        scores = evaluate(generator, small, count=24)
        assert scores == evaluate(draw(generator, 24), small)
        assert scores["n"] == 24
        other = evaluate(generator, small, count=24, latent_seed=5)
        assert other == evaluate(draw(generator, 24, 5), small)
        assert other != scores

    def test_random_state_and_output_stay_as_they_were(self, few, evaluator, training, capsys):
        generator, before = random_generator(), torch.random.get_rng_state()
        scores = evaluate(generator, Reference(few, evaluator, training=training.images[:30]), count=20)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.rand(3)  # nor does the state matter
        assert scores == evaluate(
            generator, Reference(few, evaluator, training=training.images[:30]), count=20
        )
        assert capsys.readouterr().out == ""

    def test_both_sides_need_20_images(self, few, small, evaluator):
        part = few._replace(images=few.images[:19], labels=few.labels[:19])
        assert "reference has 19 images; scores need 20" in refused(Reference, part, evaluator)
        assert "samples has 19 images; scores need 20" in refused(evaluate, part.images, small)
        assert "samples has 19 images" in refused(evaluate, Generator(width=2), small, count=19)
        assert evaluate(few.images[:20], small)["n"] == 20
        smallest = Reference(few._replace(images=few.images[:20], labels=few.labels[:20]), evaluator)
        assert evaluate(few.images, smallest)["n_reference"] == 20

    def test_what_is_no_batch_of_images_is_refused(self, few, small, evaluator):
        broken = to_model_range(few.images)
        broken[3, 0, 5, 5] = math.nan
        assert "samples has values from nan" in refused(evaluate, broken, small)
        assert "samples has values from 0 to 255" in refused(evaluate, few.images.float(), small)
        assert "samples has shape" in refused(evaluate, few.images[0], small)
        assert "reference has shape" in refused(Reference, few._replace(images=few.images[:, 0]), evaluator)


class TestDraw:
    def test_it_gives_the_generators_images_in_eval_mode(self):
        generator = random_generator("paper28")
        expected = copy.deepcopy(generator).eval()(fixed_latents(130, 1)).detach()  # more than one batch
        images = draw(generator, 130)
        assert (images.dtype, images.shape) == (torch.uint8, (130, 1, 28, 28))
        torch.testing.assert_close(to_model_range(images), expected, atol=1.01 / 255, rtol=0)
        assert images.float().std(0).mean() > 10  # and they differ
        assert torch.equal(images, draw(generator, 130))
        assert not torch.equal(images, draw(generator, 130, latent_seed=2))

    def test_all_256_values_survive(self):
        levels = torch.arange(256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
        assert torch.equal(draw(Says(to_model_range(levels)), 256), levels)
        assert torch.equal(draw(Says(to_model_range(levels).double()), 256), levels)

    def test_values_are_rounded_and_a_hair_outside_is_clipped(self):
        values = torch.tensor([-1.0005, -0.997, -0.995, 0.999, 1.0005]).repeat(4).view(-1, 1, 1, 1)
        assert draw(Says(values), 20).flatten().tolist() == [0, 0, 1, 255, 255] * 4

    @pytest.mark.parametrize("place", [0, 129])
    @pytest.mark.parametrize("value", [math.nan, 1.5])
    def test_values_that_are_no_image_are_refused(self, place, value):
        images = torch.zeros(130, 1, 8, 8)
        images[place, 0, 3, 3] = value
        generator = Says(images).train()
        assert "the generator's output has values from" in refused(draw, generator, 130)
        assert generator.training


# --- features kept


class TestCache:
    def test_features_are_computed_once(self, few, evaluator, tmp_path, monkeypatch):
        folder = tmp_path / "runs" / "evaluators"
        first = Reference(few, evaluator, cache=folder)
        (path,) = folder.iterdir()
        assert torch.equal(load_file(path)["features"], first.features)
        assert torch.equal(first.features, Reference(few, evaluator).features)

        monkeypatch.setattr(Reference, "embed", not_again)
        again = Reference(few, evaluator, cache=folder)
        assert torch.equal(again.features, first.features)
        assert again.digest == first.digest
        with pytest.raises(AssertionError, match="computed again"):
            Reference(few, evaluator)

    def test_each_set_of_images_and_each_evaluator_has_its_own(self, few, evaluator, training, tmp_path):
        other = copy.deepcopy(evaluator)
        other.embedding.bias.data[0] += 0.5
        changed = few.images.clone()
        changed[7, 0, 30, 30] ^= 1
        sets = [
            (few, evaluator, None),
            (few._replace(images=changed), evaluator, None),
            (few, other, None),
            (few, evaluator, training.images[:30]),  # other scores, though the same features
        ]
        made = [Reference(*some, training=known, cache=tmp_path) for *some, known in sets]
        assert len({reference.digest for reference in made}) == len(sets)
        assert len(list(tmp_path.iterdir())) == len(sets)
        for reference, (*some, known) in zip(made, sets, strict=True):
            assert torch.equal(reference.features, Reference(*some, training=known).features)
        assert not torch.allclose(made[2].features, made[0].features)

    def test_a_damaged_file_is_named(self, few, evaluator, tmp_path):
        Reference(few, evaluator, cache=tmp_path)
        (path,) = tmp_path.iterdir()
        path.write_bytes(path.read_bytes()[:-1])
        assert str(path) in refused(Reference, few, evaluator, cache=tmp_path, error=RunError)
        path.unlink()
        Reference(few, evaluator, cache=tmp_path)


# --- runs


def counted(monkeypatch, *, last=None):
    """The numbers of parameters of what is evaluated from now on; after ``last`` calls it fails."""
    calls = []

    def counting(*arguments, **options):
        if len(calls) == last:
            raise InputError("stopped")
        calls.append(arguments[0])
        return evaluate(*arguments, **options)

    monkeypatch.setattr(scores, "evaluate", counting)
    return calls


class TestEvaluateRun:
    def test_a_row_an_epoch_with_the_scores_of_its_generator(self, run, small):
        table = evaluate_run(run, small, count=20)
        assert table["epoch"].tolist() == [0, 1, 2, 3]
        assert (table["n"] == 20).all()
        assert (table["n_reference"] == len(small.features)).all()
        for epoch, row in enumerate(table.to_dict("records")):
            generator = run.generator(epoch).to(memory_format=torch.channels_last)
            assert row == pytest.approx({"epoch": epoch, **evaluate(generator, small, count=20)})
        assert table["fid"].nunique() == 4

    def test_fid_and_recall_stand_beside_those_without_a_veil(self, run, small):
        table = evaluate_with_and_without_veil(run, small, epochs=[1, 3], count=20)
        unveiled = evaluate_run(run, small.without_veil, epochs=[1, 3], count=20)
        for name in ("fid", "recall"):
            assert table[f"{name}_without_veil"].tolist() == unveiled[name].tolist()
        rest = table.drop(columns=["fid_without_veil", "recall_without_veil"])
        pd.testing.assert_frame_equal(rest, evaluate_run(run, small, epochs=[1, 3], count=20))
        assert table["fid"].tolist() != table["fid_without_veil"].tolist()

    def test_what_was_computed_is_read_and_an_interrupted_call_goes_on(self, run, small, monkeypatch):
        counted(monkeypatch, last=2)
        assert refused(evaluate_run, run, small, count=20) == "stopped"
        calls = counted(monkeypatch)
        table = evaluate_run(run, small, count=20)
        assert table["epoch"].tolist() == [0, 1, 2, 3]
        assert len(calls) == 2
        part = evaluate_run(load_run(run.path), small, epochs=[3, 1], count=20)
        pd.testing.assert_frame_equal(part, table.iloc[[1, 3]].reset_index(drop=True))
        assert len(calls) == 2
        (path,) = run.path.glob("scores-*.csv")
        assert path.name == f"scores-{small.digest}-20.csv"

    @pytest.mark.parametrize(
        "harm",
        [
            lambda content: content[: len(content) // 2],
            lambda content: b"",
            lambda content: b"\xff" + content,
            lambda content: content.replace(b"\n1,", b"\n2,"),
            lambda content: b"fid\n0.5\n",
            lambda content: content[content.index(b"\n") + 1 :].replace(b"\n1,", b"\none,"),
        ],
        ids=["cut", "empty", "encoding", "changed", "another table", "words, and no checksum"],
    )
    def test_a_damaged_file_is_said_and_its_scores_computed_again(self, run, small, caplog, harm):
        expected = evaluate_run(run, small, count=22)
        path = run.path / f"scores-{small.digest}-22.csv"
        path.write_bytes(harm(path.read_bytes()))
        pd.testing.assert_frame_equal(evaluate_run(run, small, count=22), expected)
        assert f"{path}" in caplog.text
        assert "scoring again" in caplog.text

    def test_a_file_of_before_there_were_checksums_is_read(self, run, small, monkeypatch):
        expected = evaluate_run(run, small, count=23)
        path = run.path / f"scores-{small.digest}-23.csv"
        expected.to_csv(path, index=False)
        calls = counted(monkeypatch)
        pd.testing.assert_frame_equal(evaluate_run(run, small, count=23), expected, check_exact=True)
        assert calls == []

    def test_what_cannot_be_written_is_one_line(self, run, small, monkeypatch):
        def full(*arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files, "_write_durably", full)
        message = refused(evaluate_run, run, small, count=24, error=RunError)
        assert f"could not write to {run.path}: the disk is full" in message

    def test_other_counts_and_references_are_computed_apart(self, run, small, few, evaluator):
        part = few._replace(images=few.images[:30], labels=few.labels[:30])
        for reference, count in ((small, 20), (small, 24), (Reference(part, evaluator), 20)):
            table = evaluate_run(run, reference, epochs=[1], count=count)
            assert (table["n"].item(), table["n_reference"].item()) == (count, len(reference.features))
        assert len(list(run.path.glob("scores-*.csv"))) == 3


class TestReferenceFor:
    def test_all_held_out_images_against_all_training_images_that_a_run_may_choose_from(
        self, tiny_run, held_out, evaluator, tmp_path, monkeypatch
    ):
        config = tiny_run.config
        reference = reference_for(config, tmp_path)
        expected = Reference(held_out, evaluator, training=training_images(config).images)
        assert reference.digest == expected.digest
        assert torch.equal(reference.features, expected.features)
        assert reference.typical_distance == expected.typical_distance
        assert [path.suffix for path in (tmp_path / "evaluators").iterdir()] == [".safetensors"]

        monkeypatch.setattr(Reference, "embed", not_again)
        assert reference_for(config.changed(seed=5, width=4), tmp_path).digest == reference.digest

    def test_images_of_ones_own_have_an_evaluator_of_their_own(self, tmp_path, monkeypatch):
        quick = functools.partial(train_evaluator, epochs=1)
        monkeypatch.setattr(evaluator_module, "train_evaluator", quick)
        rng = np.random.default_rng(0)
        for place in range(100):
            pixels = rng.integers(0, 100, (28, 28, 3), dtype=np.uint8)
            pixels[..., place % 2] += 120
            folder = tmp_path / "photos" / ("red", "green")[place % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{place}.png")
        config = TrainingConfig(data=f"folder:{tmp_path / 'photos'}", preset="paper28", batch_size=32)
        reference = reference_for(config, tmp_path / "runs")
        assert reference.class_names == ["green", "red"]
        assert reference.features.shape == (20, 64)

        monkeypatch.setattr(evaluator_module, "train_evaluator", not_again)
        again = reference_for(config, tmp_path / "runs")
        assert again.digest == reference.digest
        scores = evaluate(training_images(config).images, again)
        assert scores["class_red"] + scores["class_green"] == pytest.approx(1)
        assert scores["nearest_training"] == pytest.approx(0, abs=1e-3)
        assert scores["nearest_training_ratio"] < 0.01


def test_images_of_one_class_have_scores_without_a_class_balance(held_out):
    one = ImageSet(held_out.images[:40], torch.zeros(40, dtype=torch.int64), ["digits"])
    scores = evaluate(held_out.images[40:80], Reference(one, Evaluator(classes=4).eval()))
    assert scores["class_digits"] == 1
    assert math.isnan(scores["class_entropy"])
    assert scores["fid"] > 0

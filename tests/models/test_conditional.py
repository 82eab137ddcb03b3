import gradcam_gan.torchvision_compat  # noqa: F401  (first: makes torchvision importable beside a CPU torch)

# isort: split
import copy
import math

import numpy as np
import pytest
import torch
from helpers import randomised, refused
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import nn
from torch.nn import functional as F

from gradcam_gan.data import ImageSet, load_images, to_model_range
from gradcam_gan.explaining.batchnorm import calibrate, real_fake_accuracy
from gradcam_gan.explaining.cam import explain, signed_maps
from gradcam_gan.explaining.targets import class_logit
from gradcam_gan.models.conditional import (
    ContrastiveClassifier,
    ProjectionDiscriminator,
    conditions,
    sinusoids,
    supervised_contrast,
)
from gradcam_gan.models.dcgan import Discriminator, Generator
from gradcam_gan.models.options import Diffusion, Model
from gradcam_gan.scoring.evaluator import load_classifier
from gradcam_gan.scoring.scores import Reference, classes_to_draw, draw, evaluate
from gradcam_gan.training.conditional_objective import build_networks
from gradcam_gan.training.config import TrainingConfig

SIZE = {"paper64": 64, "paper28": 28}


def random_images(count, size=28, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, size, size, generator=generator) * 2 - 1


def projection(preset="paper28", *, seed=0, width=2, timed=True, **options):
    return randomised(ProjectionDiscriminator(preset, width=width, timed=timed, **options), seed)


def fresh(seed=0, **options):
    torch.manual_seed(seed)
    return ProjectionDiscriminator(**{"preset": "paper28", "width": 2, "timed": True, **options})


LABELS, TIMES = torch.tensor([3, 0, 9, 3, 7]), torch.tensor([0, 1, 10, 100, 1000])
TOLD = {"labels": LABELS, "times": TIMES}


# --- the discriminator


@pytest.mark.parametrize("preset", SIZE)
def test_the_logit_is_the_trunks_and_a_projection_on_class_and_time(preset):
    discriminator, images = projection(preset), random_images(5, SIZE[preset])
    features = discriminator.layers[:8](images)
    plain = discriminator.layers[8](features).flatten()
    embedding = discriminator.class_embedding[LABELS] + sinusoids(TIMES) @ discriminator.time_embedding
    expected = plain + torch.einsum("nchw,nc->n", features, embedding)
    torch.testing.assert_close(discriminator(images, LABELS, TIMES), expected, rtol=1e-5, atol=1e-5)
    assert (expected - plain).abs().min() > 0.01


def test_told_neither_class_nor_time_it_is_the_papers_discriminator():
    discriminator = projection(classes=0, timed=False)
    plain = Discriminator("paper28", width=2).eval()
    plain.load_state_dict(discriminator.state_dict())
    assert torch.equal(discriminator(random_images(4)), plain(random_images(4)))


@pytest.mark.parametrize("normalisation", ["batch", "group"])
def test_its_trunk_starts_as_the_unconditional_one_of_the_same_seed(normalisation):
    discriminator = fresh(5, normalisation=normalisation)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    plain = Discriminator("paper28", width=2)
    assert torch.equal(torch.get_rng_state(), after)  # whatever is built next starts alike, too
    for layer in (0, 2, 5, 8):
        assert torch.equal(discriminator.layers[layer].weight, plain.layers[layer].weight)


def test_another_seed_is_another_embedding():
    for name in ("class_embedding", "time_embedding"):
        one, again, other = (getattr(fresh(seed), name) for seed in (0, 0, 1))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)


def test_a_time_of_zero_is_no_time_at_all():
    discriminator, images = projection(), random_images(5)
    untimed = projection(timed=False)
    untimed.load_state_dict({k: v for k, v in discriminator.state_dict().items() if k != "time_embedding"})
    clean = discriminator(images, LABELS, torch.zeros_like(TIMES))
    assert torch.equal(clean, untimed(images, LABELS))
    assert not torch.equal(clean[1:], discriminator(images, LABELS, TIMES)[1:])


class TestEmbeddings:
    @pytest.mark.parametrize("time", [0, 100])
    @pytest.mark.parametrize("width", [16, 64])
    def test_a_class_does_not_drown_in_the_time(self, width, time):
        cosines = []
        for seed in range(5):
            embedding = fresh(seed, width=width).embed(torch.arange(10), torch.full((10,), time)).detach()
            between = F.cosine_similarity(embedding[:, None], embedding[None], dim=-1)
            cosines.append(between[~torch.eye(10, dtype=torch.bool)])
        assert torch.stack(cosines).max() < 0.5
        assert torch.stack(cosines).mean() < 0.3

    def test_the_times_embedding_is_the_smaller_one(self):
        discriminator = fresh(width=64)
        times = (sinusoids(torch.arange(1001)) @ discriminator.time_embedding).norm(dim=1)
        classes = discriminator.class_embedding.norm(dim=1)
        assert times.max() < classes.min()
        assert times[100] > 0.3 * classes.mean()  # but it is there
        assert classes.mean().item() == pytest.approx(1 / 9, rel=0.1)  # summed over 3x3 places

    def test_the_time_is_exactly_nothing_at_zero(self):
        assert not sinusoids(torch.zeros(3, dtype=torch.int64)).any()
        embedding = fresh(classes=0).embed(None, torch.tensor([0, 1]))
        assert not embedding[0].any()
        assert embedding[1].any()

    def test_every_time_has_an_embedding_of_its_own(self):
        embedding = fresh(classes=0, width=16).embed(None, torch.arange(1001)).detach()
        distances = torch.cdist(embedding, embedding) + torch.eye(1001) * 10
        assert distances.min() > 1e-3
        directions = F.normalize(embedding[torch.tensor([1, 10, 100, 1000])], dim=1)
        assert (directions @ directions.T).triu(1).max() < 0.9  # not one direction, longer and longer

    def test_sinusoids_are_those_of_sixteen_frequencies(self):
        times = torch.tensor([1, 40])
        for row, time in zip(sinusoids(times), times.tolist(), strict=True):
            angles = [time * 10_000 ** (-k / 16) for k in range(16)]
            expected = [math.sin(a) / 4 for a in angles] + [(math.cos(a) - 1) / 4 for a in angles]
            torch.testing.assert_close(row, torch.tensor(expected), rtol=1e-4, atol=1e-6)


class TestGroupNormalisation:
    @pytest.mark.parametrize("kind", [ProjectionDiscriminator, ContrastiveClassifier])
    @pytest.mark.parametrize("width", [1, 3, 64])
    def test_no_batchnorm_is_left(self, kind, width):
        network = kind("paper28", width=width, normalisation="group")
        assert not [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        found = [m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)]
        assert found == {1: [2, 4], 3: [6, 6], 64: [8, 8]}[width]
        assert len([m for m in kind("paper28", width=width).modules() if isinstance(m, nn.BatchNorm2d)]) == 2

    def test_in_training_a_logit_depends_on_its_own_image_alone(self):
        images = random_images(5)
        for normalisation, alone in [("group", True), ("batch", False)]:
            discriminator = projection(normalisation=normalisation).train()
            together = discriminator(images, LABELS, TIMES)
            first = discriminator(images[:2], LABELS[:2], TIMES[:2])
            assert torch.allclose(together[:2], first, atol=1e-5) == alone


# --- what they refuse


@pytest.mark.parametrize(
    ("options", "labels", "times", "message"),
    [
        (
            {},
            None,
            TIMES,
            "ProjectionDiscriminator is conditional and needs the class of each image: labels of 0..9",
        ),
        ({"classes": 3}, None, TIMES, "labels of 0..2"),
        ({}, LABELS + 1, TIMES, "labels go from 1 to 10; they must lie in 0..9"),
        ({}, LABELS - 1, TIMES, "labels go from -1 to 8; they must lie in 0..9"),
        ({"classes": 0}, LABELS, TIMES, "ProjectionDiscriminator is unconditional and takes no labels"),
        ({}, LABELS, None, "ProjectionDiscriminator needs the time t of each image: times, 0 for clean ones"),
        ({"timed": False}, LABELS, TIMES, "ProjectionDiscriminator has no diffusion and takes no times"),
    ],
)
def test_classes_and_times_that_a_discriminator_cannot_take(options, labels, times, message):
    discriminator, images = projection(**options), random_images(5)
    assert message in refused(discriminator, images, labels, times)
    told = {name: value for name, value in [("labels", labels), ("times", times)] if value is not None}
    assert message in refused(explain, discriminator, images, conditions=told)


@pytest.mark.parametrize("kind", [ProjectionDiscriminator, ContrastiveClassifier])
def test_images_of_another_size_are_refused(kind):
    options = (LABELS,) if kind is ProjectionDiscriminator else ()
    network = kind("paper28", width=2)
    assert "takes images of shape (N, 1, 28, 28)" in refused(network, random_images(5, 64), *options)


# --- the generator


class TestConditionalGenerator:
    latents = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))

    def test_the_class_is_a_one_hot_vector_beside_the_latents(self):
        generator = randomised(Generator("paper28", width=2, classes=10))
        labels = torch.tensor([0, 9, 4, 4])
        expected = generator.layers(torch.cat([self.latents, torch.eye(10)[labels]], 1)[:, :, None, None])
        assert torch.equal(generator(self.latents, labels), expected)
        assert not torch.allclose(generator(self.latents, labels), generator(self.latents, (labels + 1) % 10))

    def test_classes_that_it_cannot_take(self):
        conditional, plain = (Generator("paper28", width=2, classes=classes) for classes in (3, 0))
        labels = torch.tensor([0, 1, 2, 3])
        assert "Generator is conditional and needs the class of each image: labels of 0..2" in refused(
            conditional, self.latents
        )
        assert "labels go from 0 to 3; they must lie in 0..2" in refused(conditional, self.latents, labels)
        assert "Generator is unconditional and takes no labels" in refused(plain, self.latents, labels)

    def test_without_classes_it_is_the_papers(self):
        torch.manual_seed(0)
        plain = Generator("paper28", width=2)
        torch.manual_seed(0)
        unconditional = build_networks(
            TrainingConfig(width=2, preset="paper28"), Model(conditional=False), 1, 10
        )
        torch.manual_seed(0)
        Discriminator("paper28", width=2)
        expected = Generator("paper28", width=2)
        found = unconditional["generator"].state_dict()
        assert found.keys() == plain.state_dict().keys()
        assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())


# --- the classifier


class TestContrastiveClassifier:
    @pytest.mark.parametrize("preset", SIZE)
    def test_it_gives_embeddings_of_length_one_and_logits(self, preset):
        classifier = randomised(ContrastiveClassifier(preset, width=2, classes=7))
        images = random_images(5, SIZE[preset])
        embeddings, logits = classifier.both(images)
        assert embeddings.shape == (5, 128)
        assert logits.shape == (5, 7)
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(5))
        features = classifier.layers(images).sum((2, 3))
        assert torch.equal(classifier(images), logits)
        torch.testing.assert_close(logits, classifier.head(features))
        torch.testing.assert_close(embeddings, F.normalize(classifier.embedding(features), dim=1))


# --- the contrastive loss


def naive_contrast(embeddings, labels, temperature):
    """Khosla et al. 2020, equation 2, written out."""
    rows, labels = embeddings.double(), labels.tolist()
    losses = []
    for i, own in enumerate(rows):
        others = [a for a in range(len(rows)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            total = sum(torch.exp(own @ rows[a] / temperature) for a in others)
            shares = [torch.log(torch.exp(own @ rows[p] / temperature) / total) for p in positives]
            losses.append(-sum(shares) / len(positives))
    return sum(losses) / len(losses) if losses else torch.zeros((), dtype=torch.float64)


class TestSupervisedContrast:
    def test_three_rows_worked_by_hand(self):
        """Two of a class at a right angle, one of another class opposite to the first."""
        embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        labels, temperature = torch.tensor([4, 4, 1]), 0.5
        first = -math.log(math.exp(0) / (math.exp(0) + math.exp(-1 / 0.5)))
        second = -math.log(math.exp(0) / (math.exp(0) + math.exp(0)))
        loss = supervised_contrast(embeddings, labels, temperature)
        assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)  # the third row has no positive

    @pytest.mark.parametrize("temperature", [0.07, 1.0])
    @pytest.mark.parametrize("classes", [1, 2, 10])
    def test_it_is_the_double_sum_and_so_is_its_gradient(self, classes, temperature):
        generator = torch.Generator().manual_seed(classes)
        rows = F.normalize(torch.randn(12, 8, generator=generator), dim=1).requires_grad_()
        labels = torch.randint(classes, (12,), generator=generator)
        loss, expected = (f(rows, labels, temperature) for f in (supervised_contrast, naive_contrast))
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        found, wanted = (torch.autograd.grad(value, rows)[0] for value in (loss, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("temperature", [0.07, 0.001])
    def test_without_any_positive_it_is_zero_and_gradients_are_finite(self, temperature):
        rows = F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=1)
        for labels in ([0, 1, 2, 3], [0, 1, 1, 3]):
            rows = rows.detach().requires_grad_()
            loss = supervised_contrast(rows, torch.tensor(labels), temperature)
            loss.backward()
            assert rows.grad.isfinite().all()
            assert (loss == 0) == (len(set(labels)) == 4)

    def test_equal_rows_leave_gradients_finite(self):
        rows = torch.ones(6, 4).div(2).requires_grad_()
        loss = supervised_contrast(rows, torch.tensor([0, 0, 0, 1, 1, 1]), 0.07)
        loss.backward()
        assert loss.item() == pytest.approx(math.log(5), rel=1e-5)
        assert rows.grad.isfinite().all()


# --- explained


def logits_of(network, images, told):
    """What is explained: D's logit, or the classifier's of each image's class."""
    if isinstance(network, ContrastiveClassifier):
        return network(images)[range(len(images)), told["labels"]]
    return network(images, **told)


def options_of(network, told):
    """The same, as ``explain`` is told."""
    if isinstance(network, ContrastiveClassifier):
        return {"target": class_logit(told["labels"])}
    return {"conditions": told}


class Bound(nn.Module):
    """A network that is told the same class and time whatever the images: what other libraries can call."""

    def __init__(self, discriminator, **told):
        super().__init__()
        self.discriminator, self.told = discriminator, told

    def forward(self, images):
        return logits_of(self.discriminator, images, self.told)


def networks_to_explain():
    classifier = randomised(ContrastiveClassifier("paper28", width=2))
    return {
        "conditional": (projection(timed=False), {"labels": LABELS}),
        "timed": (projection(classes=0), {"times": TIMES}),
        "both": (projection(), TOLD),
        "group": (projection(normalisation="group"), TOLD),
        "classifier": (classifier, {"labels": LABELS}),
    }


NAMES = list(networks_to_explain())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block", ["block1", "block2", "block3"])
def test_agrees_with_pytorch_grad_cam(name, block):
    network, told = networks_to_explain()[name]
    images = random_images(5)
    ours = explain(network, images, layer=block, **options_of(network, told))
    for i, image in enumerate(images):
        bound = Bound(copy.deepcopy(network), **{key: values[i : i + 1] for key, values in told.items()})
        with GradCAM(bound, [bound.discriminator.named_layers[block]]) as cam:
            theirs = cam(image[None], [lambda output: output.sum()])
        normalised = scale_cam_image(scale_cam_image(ours[i : i + 1].numpy()))
        assert np.abs(normalised - theirs).max() < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_hirescam_at_the_last_block_sums_to_the_logit(name):
    network, told = networks_to_explain()[name]
    images = random_images(5)
    options = options_of(network, told)
    maps = explain(network, images, method="hirescam", evidence="signed", upsample=False, **options)
    logits = logits_of(network, images, told).detach()
    bias = network.head.bias.detach()[LABELS] if name == "classifier" else 0
    torch.testing.assert_close(maps.sum((1, 2)), logits - bias, rtol=1e-5, atol=1e-5)
    assert logits.abs().max() > 0.1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_carry_their_own_conditions(name, batch_size):
    network, told = networks_to_explain()[name]
    images = random_images(5)
    (maps, logits), (whole, expected) = (
        signed_maps(network, images, batch_size=size, **options_of(network, told))
        for size in (batch_size, 256)
    )
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, logits_of(network, images, told).detach(), rtol=1e-4, atol=1e-5)
    for method in whole:
        torch.testing.assert_close(maps[method], whole[method], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", ["labels", "times"])
def test_another_class_or_time_gives_another_map(changed):
    discriminator, images = projection(), random_images(5)
    other = {"labels": (LABELS + 1) % 10, "times": TIMES + 50}[changed]
    options = {"evidence": "signed", "upsample": False}
    maps = explain(discriminator, images, conditions=TOLD, **options)
    others = explain(discriminator, images, conditions={**TOLD, changed: other}, **options)
    assert ((maps - others).abs().amax((1, 2)) > 0.01).all()


def test_another_class_gives_another_map_of_the_classifier():
    network, _ = networks_to_explain()["classifier"]
    maps, others = (
        explain(network, random_images(5), target=class_logit(labels), evidence="signed", upsample=False)
        for labels in (LABELS, (LABELS + 1) % 10)
    )
    assert ((maps - others).abs().amax((1, 2)) > 0.01).all()


@pytest.mark.parametrize("name", ["labels", "times"])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_condition_of_another_length_is_refused(name, count):
    told = {**TOLD, name: torch.zeros(count, dtype=torch.int64)}
    message = refused(explain, projection(), random_images(5), conditions=told)
    assert message == f"conditions['{name}'] has {count} values for 5 images; give one for each"


def test_a_network_without_conditions_is_explained_as_before():
    discriminator = randomised(Discriminator("paper28", width=2))
    images = random_images(3)
    assert torch.equal(explain(discriminator, images), explain(discriminator, images, conditions={}))


@pytest.mark.parametrize(
    ("model", "time", "expected"),
    [
        (None, 3, {}),
        (Model(), 3, {"labels": [3, 0, 9, 3, 7]}),
        (Model(diffusion=Diffusion()), 3, {"labels": [3, 0, 9, 3, 7], "times": [3] * 5}),
        (Model(diffusion=Diffusion()), 0, {"labels": [3, 0, 9, 3, 7], "times": [0] * 5}),
        (Model(conditional=False), 3, {}),
        (Model(conditional=False, diffusion=Diffusion()), 3, {"times": [3] * 5}),
    ],
)
def test_conditions_are_what_the_models_discriminator_takes(model, time, expected):
    told = conditions(model, LABELS, time)
    assert {name: values.tolist() for name, values in told.items()} == expected
    if model is not None:
        config = TrainingConfig(width=2, preset="paper28")
        discriminator = build_networks(config, model, 1, 10)["discriminator"]
        assert discriminator(random_images(5), **told).shape == (5,)


# --- BatchNorm statistics


def test_reference_statistics_are_of_images_with_their_conditions():
    class Brightened(nn.Module):
        """Adds the label to the image before BatchNorm, which then sees it."""

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, images, labels):
            return self.norm(images + labels[:, None, None, None]).mean((1, 2, 3))

    images = random_images(6)
    labels = torch.arange(6)
    calibrated = calibrate(Brightened(), images, batch_size=2, conditions={"labels": labels})
    expected = images.mean() + 2.5
    torch.testing.assert_close(calibrated.norm.running_mean, expected[None])


def test_accuracy_tells_real_fake_and_reference_images_their_own_conditions():
    class Told(nn.Module):
        """Its logit is the label, less the mean label of the images that it was calibrated on."""

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, images, labels):
            return self.norm(labels[:, None].float())[:, 0]

    images = random_images(4)
    told = {"real": [6, 6, 6, 4], "fake": [4, 2, 2, 2], "reference": [5, 5, 5, 5]}
    accuracy = real_fake_accuracy(
        Told(),
        images,
        images,
        reference=images,
        conditions={name: {"labels": torch.tensor(labels)} for name, labels in told.items()},
    )
    # running: every label is above 0; reference: above 5 means real; batch: above its own batch's mean
    assert accuracy == {"running": 0.5, "batch": 0.75, "reference": 0.875}


# --- evaluated


class Drawer(nn.Module):
    """A conditional generator that gives, for each class, one known image."""

    def __init__(self, images, shift=0):
        super().__init__()
        self.classes = len(images)
        self.images = nn.Parameter(to_model_range(images), requires_grad=False)
        self.shift, self.asked = shift, []

    def forward(self, latents, labels):
        assert len(latents) == len(labels)
        self.asked.append(labels)
        return self.images[(labels + self.shift) % self.classes] + 1e-4 * latents[:, :1, None, None].clamp(
            0, 1
        )


@pytest.fixture(scope="module")
def reference():
    held_out = load_images("mnist-5k", 64, "test")
    return Reference(
        ImageSet(held_out.images[:60], held_out.labels[:60], held_out.class_names), load_classifier()
    )


@pytest.fixture(scope="module")
def one_of_each(reference):
    """Ten digits, 0 to 9, that the classifier gets right, uint8 (10, 1, 64, 64)."""
    held_out = load_images("mnist-5k", 64, "test")
    seen = reference.classes(reference.embed(held_out.images[:200]))
    right = [(seen == digit) & (held_out.labels[:200] == digit) for digit in range(10)]
    return torch.stack([held_out.images[:200][which][0] for which in right])


class TestEvaluation:
    def test_a_conditional_generator_is_asked_for_all_classes_alike(self, one_of_each):
        generator = Drawer(one_of_each).train()
        images = draw(generator, 230)
        asked = torch.cat(generator.asked)
        assert torch.equal(asked, torch.arange(230) % 10)
        assert torch.equal(asked, classes_to_draw(generator, 230))
        expected = one_of_each[asked].int()
        assert (images.int() - expected).abs().max() <= 1
        assert generator.training

    def test_an_unconditional_generator_is_asked_for_none(self):
        generator = Generator("paper64", width=1)
        assert classes_to_draw(generator, 5) is None
        assert draw(generator, 5).shape == (5, 1, 64, 64)

    @pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (1, 0.0)])
    def test_class_accuracy_is_the_share_of_images_of_the_class_asked_for(
        self, reference, one_of_each, shift, expected
    ):
        scores = evaluate(Drawer(one_of_each, shift), reference, count=40)
        assert scores["class_accuracy"] == expected
        assert scores["class_entropy"] == pytest.approx(1)

    def test_class_accuracy_counts_each_image(self, reference, one_of_each):
        same = one_of_each[[0, 1, 2, 3, 3, 3, 3, 3, 3, 3]]
        assert evaluate(Drawer(same), reference, count=40)["class_accuracy"] == pytest.approx(0.4)

    def test_there_is_no_class_accuracy_where_no_class_was_asked_for(self, reference, one_of_each):
        assert "class_accuracy" not in evaluate(Generator("paper64", width=1), reference, count=20)
        assert "class_accuracy" not in evaluate(one_of_each.repeat(2, 1, 1, 1), reference)

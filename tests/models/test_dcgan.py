import math

import pytest
import torch
from helpers import randomised, refused
from torch import nn
from torch.nn import functional as F

from gradcam_gan.models.contrastive import ContrastiveClassifier
from gradcam_gan.models.dcgan import BackgroundPaddedConv2d, Discriminator, Generator, sinusoids

CONV, UP, NORM = nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d
SIZE = {"paper64": 64, "paper28": 28}
LABELS, TIMES = torch.tensor([3, 0, 9, 3, 7]), torch.tensor([0, 1, 10, 100, 1000])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def layer_types(network):
    return [type(layer) for layer in network.layers]


def feature_sizes(network, value):
    """Height and width after every convolution."""
    sizes = []
    for layer in network.layers:
        value = layer(value)
        if isinstance(layer, CONV | UP):
            assert value.shape[-1] == value.shape[-2]
            sizes.append(value.shape[-1])
    return sizes


def parameter_shapes(network):
    return [tuple(parameter.shape) for parameter in network.parameters()]


@pytest.mark.parametrize("preset", ["paper64", "paper28"])
def test_discriminator_has_the_papers_layers_in_the_papers_order(preset):
    # the list's last entry, the sigmoid, is applied by the loss
    paper = [CONV, nn.LeakyReLU, CONV, NORM, nn.LeakyReLU, CONV, NORM, nn.LeakyReLU, CONV]
    assert layer_types(Discriminator(preset, width=2)) == paper


@pytest.mark.parametrize("preset", ["paper64", "paper28"])
def test_generator_has_the_papers_layers_in_the_papers_order(preset):
    assert layer_types(Generator(preset, width=2)) == [UP, NORM, nn.ReLU] * 4 + [UP, nn.Tanh]


def test_discriminator_without_arguments_is_64_pixels_and_width_64():
    network = Discriminator()
    assert parameter_shapes(network) == [
        (64, 1, 4, 4),
        (128, 64, 4, 4), (128,), (128,),
        (256, 128, 4, 4), (256,), (256,),
        (1, 256, 8, 8),
    ]  # fmt: skip
    assert feature_sizes(network, torch.zeros(1, 1, 64, 64)) == [32, 16, 8, 1]


def test_generator_without_arguments_is_64_pixels_and_width_64():
    network = Generator()
    assert parameter_shapes(network) == [
        (100, 512, 4, 4), (512,), (512,),
        (512, 256, 4, 4), (256,), (256,),
        (256, 128, 4, 4), (128,), (128,),
        (128, 64, 4, 4), (64,), (64,),
        (64, 1, 4, 4),
    ]  # fmt: skip
    assert feature_sizes(network, torch.zeros(2, 100, 1, 1)) == [4, 8, 16, 32, 64]


def test_paper28_is_the_28_pixel_ancestor():
    assert feature_sizes(Discriminator("paper28", width=2), torch.zeros(1, 1, 28, 28)) == [14, 7, 3, 1]
    generator = Generator("paper28", width=2)
    assert feature_sizes(generator, torch.zeros(2, 100, 1, 1)) == [4, 8, 16, 32, 28]
    assert (generator.layers[12].kernel_size, generator.layers[12].padding) == ((1, 1), (2, 2))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preset", ["paper64", "paper28"])
def test_generated_images_fit_the_discriminator_and_give_one_logit_each(preset, channels):
    fake = Generator(preset, width=3, channels=channels)(torch.randn(5, 100))
    assert Discriminator(preset, width=3, channels=channels)(fake).shape == (5,)
    assert fake.abs().max() <= 1


def test_every_layer_but_the_head_has_its_name():
    network = Discriminator(width=2)
    kinds = {name: type(layer) for name, layer in network.named_layers.items()}
    assert kinds == {
        "conv1": CONV, "block1": nn.LeakyReLU,
        "conv2": CONV, "norm2": NORM, "block2": nn.LeakyReLU,
        "conv3": CONV, "norm3": NORM, "block3": nn.LeakyReLU,
    }  # fmt: skip
    assert list(network.named_layers.values()) == list(network.layers[:-1])


def test_activations_are_not_in_place_and_leak_a_fifth():
    for network in (Discriminator(width=2), Generator(width=2)):
        for layer in network.layers:
            assert not getattr(layer, "inplace", False)
            if isinstance(layer, nn.LeakyReLU):
                assert layer.negative_slope == 0.2


def test_discriminator_returns_logits_not_probabilities():
    network = Discriminator(width=2)
    with torch.no_grad():
        network.layers[-1].weight.mul_(1000)
    logits = network(torch.randn(16, 1, 64, 64))
    assert logits.min() < 0
    assert logits.max() > 1


def test_networks_start_from_dcgans_distribution():
    for network in (Discriminator(), Generator()):
        for layer in network.layers:
            if isinstance(layer, CONV | UP):
                assert layer.bias is None
                n = layer.weight.numel()
                assert abs(layer.weight.mean()) < 5 * 0.02 / math.sqrt(n)
                assert abs(layer.weight.std() - 0.02) < 5 * 0.02 / math.sqrt(2 * n)
            elif isinstance(layer, NORM):
                n = layer.weight.numel()
                assert abs(layer.weight.mean() - 1) < 5 * 0.02 / math.sqrt(n)
                assert abs(layer.weight.std() - 0.02) < 5 * 0.02 / math.sqrt(2 * n)
                assert not layer.bias.any()


def first_features(padding, image):
    torch.manual_seed(0)
    return Discriminator(width=8, padding=padding).layers[0](image)


def frame_contrast(features):
    """The largest difference within one channel."""
    return (features.amax((2, 3)) - features.amin((2, 3))).max().item()


def test_zero_padding_draws_a_frame_around_an_empty_image_and_the_others_do_not():
    empty = torch.full((1, 1, 64, 64), -1.0)
    assert frame_contrast(first_features("zeros", empty)) > 0.01
    assert frame_contrast(first_features("background", empty)) < 1e-6
    assert frame_contrast(first_features("replicate", empty)) < 1e-6


def test_background_padding_is_an_image_with_one_more_black_pixel_on_each_side():
    torch.manual_seed(0)
    image = torch.rand(2, 1, 64, 64)
    larger = torch.full((2, 1, 66, 66), -1.0)
    larger[:, :, 1:-1, 1:-1] = image
    layer = Discriminator(width=3, padding="background").layers[0]
    expected = nn.functional.conv2d(larger, layer.weight, stride=2)
    torch.testing.assert_close(layer(image), expected)


def test_background_padding_concerns_the_image_only_and_replicate_every_padded_convolution():
    def modes(padding):
        return [
            "background" if isinstance(layer, BackgroundPaddedConv2d) else layer.padding_mode
            for layer in Discriminator(width=2, padding=padding).layers
            if isinstance(layer, CONV)
        ]

    assert modes("zeros") == ["zeros"] * 4
    assert modes("background") == ["background", "zeros", "zeros", "zeros"]
    assert modes("replicate") == ["replicate"] * 3 + ["zeros"]  # the 8x8 head has no padding


def test_replicate_padding_repeats_the_edge():
    torch.manual_seed(0)
    image = torch.rand(2, 1, 64, 64)
    layer = Discriminator(width=3, padding="replicate").layers[0]
    larger = nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    torch.testing.assert_close(layer(image), nn.functional.conv2d(larger, layer.weight, stride=2))


# --- told a class and a time


def random_images(count, size=28, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, size, size, generator=generator) * 2 - 1


def fresh(seed=0, **options):
    torch.manual_seed(seed)
    return Discriminator(**{"preset": "paper28", "width": 2, "classes": 10, "timed": True, **options})


def projection(preset="paper28", **options):
    return randomised(fresh(preset=preset, **options))


@pytest.mark.parametrize("preset", SIZE)
def test_the_logit_is_the_trunks_and_a_projection_on_class_and_time(preset):
    discriminator, images = projection(preset), random_images(5, SIZE[preset])
    features = discriminator.layers[:8](images)
    plain = discriminator.layers[8](features).flatten()
    embedding = discriminator.class_embedding[LABELS] + sinusoids(TIMES) @ discriminator.time_embedding
    expected = plain + torch.einsum("nchw,nc->n", features, embedding)
    torch.testing.assert_close(discriminator(images, LABELS, TIMES), expected, rtol=1e-5, atol=1e-5)
    assert (expected - plain).abs().min() > 0.01


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
    @pytest.mark.parametrize("kind", [Discriminator, ContrastiveClassifier])
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


@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize("timed", [False, True])
def test_conditions_are_what_the_discriminator_takes(classes, timed):
    discriminator = fresh(classes=classes, timed=timed)
    told = discriminator.conditions(LABELS)
    assert list(told) == ["labels"] * bool(classes) + ["times"] * timed
    assert discriminator(random_images(5), **told).shape == (5,)
    if timed:
        assert not told["times"].any()
        assert discriminator.conditions(LABELS, TIMES)["times"] is TIMES


@pytest.mark.parametrize(
    ("options", "labels", "times", "message"),
    [
        (
            {},
            None,
            TIMES,
            "Discriminator is conditional and needs the class of each image: labels of 0..9",
        ),
        ({"classes": 3}, None, TIMES, "labels of 0..2"),
        ({}, LABELS + 1, TIMES, "labels go from 1 to 10; they must lie in 0..9"),
        ({}, LABELS - 1, TIMES, "labels go from -1 to 8; they must lie in 0..9"),
        ({"classes": 0}, LABELS, TIMES, "Discriminator is unconditional and takes no labels"),
        ({}, LABELS, None, "Discriminator needs the time t of each image: times, 0 for clean ones"),
        ({"timed": False}, LABELS, TIMES, "Discriminator has no diffusion and takes no times"),
    ],
)
def test_classes_and_times_that_a_discriminator_cannot_take(options, labels, times, message):
    discriminator, images = projection(**options), random_images(5)
    assert message in refused(discriminator, images, labels, times)


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


# --- refusals


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Discriminator(width=2), (2, 1, 28, 28)),
        (Discriminator(width=2), (2, 3, 64, 64)),
        (Discriminator(width=2), (1, 64, 64)),
        (Discriminator("paper28", width=2), (2, 1, 64, 64)),
    ],
)
def test_images_of_another_shape_are_refused_with_both_shapes(network, shape):
    message = refused(network, torch.zeros(shape))
    size = network.image_size
    assert f"(N, 1, {size}, {size})" in message
    assert str(shape) in message


@pytest.mark.parametrize("network", [Discriminator, Generator, ContrastiveClassifier])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width=0: input should be greater than or equal to 1"),
        ({"channels": -1}, "channels=-1: input should be greater than or equal to 1"),
        ({"preset": "paper32"}, "preset='paper32': input should be 'paper64' or 'paper28'"),
    ],
)
def test_an_impossible_network_is_refused(network, options, message):
    assert message in refused(network, **options)


def test_an_unknown_padding_or_normalisation_is_refused_with_the_known_ones():
    assert "'zeros', 'background' or 'replicate'" in refused(Discriminator, padding="reflect")
    assert "'batch' or 'group'" in refused(Discriminator, normalisation="layer")

import math

import pytest
import torch
from helpers import refused
from torch import nn

from gradcam_gan.data import to_model_range
from gradcam_gan.models import dcgan
from gradcam_gan.models.dcgan import Discriminator, Generator, StandardDiscriminator

CONV, UP, NORM = nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d


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


# --- the paper's layer lists, section 3


@pytest.mark.parametrize("preset", ["paper64", "paper28"])
def test_discriminator_has_the_papers_layers_in_the_papers_order(preset):
    # the list's last entry, the sigmoid, is applied by the loss
    paper = [CONV, nn.LeakyReLU, CONV, NORM, nn.LeakyReLU, CONV, NORM, nn.LeakyReLU, CONV]
    assert layer_types(Discriminator(preset, width=2)) == paper


@pytest.mark.parametrize("preset", ["paper64", "paper28"])
def test_generator_has_the_papers_layers_in_the_papers_order(preset):
    assert layer_types(Generator(preset, width=2)) == [UP, NORM, nn.ReLU] * 4 + [UP, nn.Tanh]


def test_standard_discriminator_has_five_convolutions():
    expected = [CONV, nn.LeakyReLU] + [CONV, NORM, nn.LeakyReLU] * 3 + [CONV]
    network = StandardDiscriminator(width=2)
    assert layer_types(network) == expected
    assert feature_sizes(network, torch.zeros(1, 1, 64, 64)) == [32, 16, 8, 4, 1]


# --- shapes


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


@pytest.mark.parametrize("network", [Discriminator(width=2), StandardDiscriminator(width=2)])
def test_every_block_name_leads_to_a_leaky_relu_of_the_right_size(network):
    sizes = dict(zip(["block1", "block2", "block3", "block4"], [32, 16, 8, 4], strict=True))
    assert list(network.blocks) == list(sizes)[: len(network.blocks)]
    assert len(network.blocks) == layer_types(network).count(nn.LeakyReLU)
    for name in network.blocks:
        assert isinstance(network.block(name), nn.LeakyReLU)
        seen = []
        with_hook = network.block(name).register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        network(torch.zeros(2, 1, 64, 64))
        with_hook.remove()
        assert seen[0].shape[-1] == sizes[name]


def test_activations_are_not_in_place_and_leak_a_fifth():
    for network in (Discriminator(width=2), StandardDiscriminator(width=2), Generator(width=2)):
        for layer in network.layers:
            assert not getattr(layer, "inplace", False)
            if isinstance(layer, nn.LeakyReLU):
                assert layer.negative_slope == 0.2


# --- what comes out


def test_discriminator_returns_logits_not_probabilities():
    network = Discriminator(width=2)
    with torch.no_grad():
        network.layers[-1].weight.mul_(1000)
    logits = network(torch.randn(16, 1, 64, 64))
    assert logits.min() < 0
    assert logits.max() > 1


def test_gradients_reach_every_parameter_of_both_networks():
    generator, discriminator = Generator(width=2), Discriminator(width=2)
    discriminator(generator(torch.randn(4, 100))).sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


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


def test_uint8_pixels_map_onto_the_range_of_the_generators_output():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    scaled = to_model_range(pixels)
    assert scaled.dtype == torch.float32
    assert scaled.flatten().tolist() == pytest.approx([-1, -0.6, 1], abs=1e-6)
    assert pixels.flatten().tolist() == [0, 51, 255]


# --- padding


def first_features(padding, image, network=Discriminator):
    torch.manual_seed(0)
    return network(width=8, padding=padding).layers[0](image)


def frame_contrast(features):
    """The largest difference within one channel."""
    return (features.amax((2, 3)) - features.amin((2, 3))).max().item()


@pytest.mark.parametrize("network", [Discriminator, StandardDiscriminator])
def test_zero_padding_draws_a_frame_around_an_empty_image_and_the_others_do_not(network):
    empty = torch.full((1, 1, 64, 64), -1.0)
    assert frame_contrast(first_features("zeros", empty, network)) > 0.01
    assert frame_contrast(first_features("background", empty, network)) < 1e-6
    assert frame_contrast(first_features("replicate", empty, network)) < 1e-6


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
            "background" if isinstance(layer, dcgan.BackgroundPaddedConv2d) else layer.padding_mode
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


@pytest.mark.parametrize("padding", ["background", "replicate"])
def test_paddings_differ_in_nothing_but_the_padding(padding):
    torch.manual_seed(0)
    zeros = Discriminator(width=2)
    torch.manual_seed(0)
    other = Discriminator(width=2, padding=padding)
    assert zeros.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(zeros.parameters(), other.parameters(), strict=True))


# --- refusals


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Discriminator(width=2), (2, 1, 28, 28)),
        (Discriminator(width=2), (2, 1, 64, 65)),
        (Discriminator(width=2), (2, 3, 64, 64)),
        (Discriminator(width=2), (1, 64, 64)),
        (Discriminator("paper28", width=2), (2, 1, 64, 64)),
        (StandardDiscriminator(width=2), (2, 1, 32, 32)),
    ],
)
def test_images_of_another_shape_are_refused_with_both_shapes(network, shape):
    message = refused(network, torch.zeros(shape))
    size = network.image_size
    assert f"(N, 1, {size}, {size})" in message
    assert str(shape) in message


@pytest.mark.parametrize("network", [Discriminator, StandardDiscriminator, Generator])
def test_a_width_or_channel_count_below_one_is_refused(network):
    assert "width=0" in refused(network, width=0)
    assert "width=-3" in refused(network, width=-3)
    assert "channels=0" in refused(network, channels=0)


def test_an_unknown_preset_or_padding_is_refused_with_the_known_ones():
    for network in (Discriminator, Generator):
        assert "choose one of paper64, paper28" in refused(network, "paper32")
    for network in (Discriminator, StandardDiscriminator):
        assert "choose zeros, background or replicate" in refused(network, padding="reflect")

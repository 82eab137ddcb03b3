import gradcam_gan.torchvision_compat  # noqa: F401  (first: makes torchvision importable beside a CPU torch)

# isort: split
import copy
import re

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import nn
from torch.nn import functional as F

from gradcam_gan.data import to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.cam import explain
from gradcam_gan.models.dcgan import Discriminator


def randomised(discriminator, seed=0):
    """Random weights of trained size and random BatchNorm statistics, so that no layer is near trivial."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in discriminator.parameters():
        scale = 1.0 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    for module in discriminator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.2)
    return discriminator


def random_images(count, size=64, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator) * 2 - 1


class Mixed(nn.Module):
    """A user's network: RGB, 96x96, not Sequential, in-place activations, spectral norm, .view, (N, 1)."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 6, 4, 2, 1))
        self.second = nn.Conv2d(6, 8, 4, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.activation = nn.LeakyReLU(0.2, inplace=True)
        self.head = nn.Linear(8 * 12 * 12, 1)

    def forward(self, images):
        features = F.leaky_relu_(self.first(images), 0.2)
        features = self.activation(self.norm(self.second(features)))
        return self.head(F.avg_pool2d(features, 2).view(len(images), -1))


def patches(squash=False):
    layers = [
        nn.Conv2d(3, 4, 4, 2, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(4, 6, 4, 2, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(6, 1, 3, 1, 1),
    ]
    return nn.Sequential(*layers, nn.Flatten() if squash else nn.Identity())


# --- agreement with the references -------------------------------------------------------------------------


class Evidence:
    """pytorch-grad-cam's target: one an image, for the logit (real) or minus it (fake)."""

    def __init__(self, evidence):
        self.sign = 1 if evidence == "real" else -1

    def __call__(self, output):
        return self.sign * output.mean()


def reference_map(method, discriminator, layer, images, evidence):
    duplicate = copy.deepcopy(discriminator)
    name = next(n for n, module in discriminator.named_modules() if module is layer)
    with method(duplicate, [duplicate.get_submodule(name)]) as cam:
        return cam(images, [Evidence(evidence)] * len(images))


def as_reference(maps):
    """Normalised as pytorch-grad-cam does with its own: twice, at both resolutions, per image."""
    return scale_cam_image(scale_cam_image(maps.numpy()))


NETWORKS = {
    "paper64": (lambda: Discriminator(width=4), 64),
    "paper28": (lambda: Discriminator("paper28", width=4), 28),
    "background": (lambda: Discriminator(width=4, padding="background"), 64),
}


@pytest.mark.parametrize("evidence", ["real", "fake"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("method", "reference"), [("gradcam", GradCAM), ("hirescam", HiResCAM)])
def test_agrees_with_pytorch_grad_cam(method, reference, network, evidence):
    make, size = NETWORKS[network]
    for seed in range(3):
        discriminator = randomised(make(), seed)
        images = random_images(5, size, seed=seed)
        for block in ("block1", "block2", "block3"):
            ours = explain(discriminator, images, method=method, layer=block, evidence=evidence)
            theirs = reference_map(
                reference, discriminator, discriminator.named_layers[block], images, evidence
            )
            assert np.abs(as_reference(ours) - theirs).max() < 1e-3
            assert ours.shape == (5, size, size)


@pytest.mark.parametrize("network", NETWORKS)
def test_agrees_with_captum(network):
    make, size = NETWORKS[network]
    for seed in range(3):
        discriminator = randomised(make(), seed).eval()
        images = random_images(5, size, seed=seed)
        for block in ("block1", "block2", "block3"):
            captum = LayerGradCam(discriminator, discriminator.named_layers[block])
            theirs = captum.attribute(images).detach()[:, 0]
            signed = explain(discriminator, images, layer=block, evidence="signed", upsample=False)
            torch.testing.assert_close(signed, theirs, rtol=1e-4, atol=1e-5)
            for evidence, sign in [("real", 1), ("fake", -1)]:
                resized = F.interpolate(F.relu(sign * theirs)[:, None], size=(size, size), mode="bilinear")
                ours = explain(discriminator, images, layer=block, evidence=evidence)
                torch.testing.assert_close(ours, resized[:, 0], rtol=1e-4, atol=1e-5)


def test_user_networks_agree_with_pytorch_grad_cam():
    # Neither reference copes with in-place activations: they get the same network without.
    mixed, images = randomised(Mixed()), random_images(3, 96, 3)
    plain = copy.deepcopy(mixed)
    plain.activation.inplace = False
    for layer in ("second", "norm", "activation"):
        theirs = reference_map(GradCAM, plain, plain.get_submodule(layer), images, "real")
        assert np.abs(as_reference(explain(mixed, images, layer=layer)) - theirs).max() < 1e-3


# --- properties --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("preset", ["paper64", "paper28"])
def test_hirescam_at_the_last_block_sums_to_the_logit(preset, bias):
    size = {"paper64": 64, "paper28": 28}[preset]
    discriminator = Discriminator(preset, width=4)
    if bias:
        discriminator.layers[8].bias = nn.Parameter(torch.zeros(1))
    randomised(discriminator).eval()
    images = random_images(6, size)
    maps = explain(discriminator, images, method="hirescam", evidence="signed", upsample=False)
    logits = discriminator(images).detach() - (discriminator.layers[8].bias.detach() if bias else 0)
    torch.testing.assert_close(maps.sum((1, 2)), logits, rtol=0, atol=1e-4)


def test_gradcam_weights_at_the_last_block_are_the_means_of_the_head():
    discriminator = randomised(Discriminator(width=4)).eval()
    images = random_images(4)
    features = discriminator.layers[:8](images).detach()
    expected = torch.einsum("c,nchw->nhw", discriminator.layers[8].weight.detach().mean((0, 2, 3)), features)
    torch.testing.assert_close(explain(discriminator, images, evidence="signed", upsample=False), expected)


@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 7),
    batch_size=st.integers(1, 9),
    method=st.sampled_from(["gradcam", "hirescam"]),
    layer=st.sampled_from(["block1", "block2", "block3"]),
)
@settings(max_examples=25, deadline=None)
def test_signs_batches_and_scaling(seed, count, batch_size, method, layer):
    discriminator = randomised(Discriminator("paper28", width=2), seed)
    images = random_images(count, 28, seed=seed)
    options = {"method": method, "layer": layer, "batch_size": batch_size}

    signed, real, fake = (
        explain(discriminator, images, evidence=evidence, upsample=False, **options)
        for evidence in ("signed", "real", "fake")
    )
    assert torch.equal(real, F.relu(signed))
    assert torch.equal(fake, F.relu(-signed))
    signed, real, fake = (
        explain(discriminator, images, evidence=evidence, **options)
        for evidence in ("signed", "real", "fake")
    )
    tolerance = 1e-5 * signed.abs().max().item()
    torch.testing.assert_close(real - fake, signed, rtol=1e-4, atol=tolerance)
    whole = explain(discriminator, images, evidence="signed", method=method, layer=layer)
    torch.testing.assert_close(signed, whole, rtol=1e-4, atol=tolerance)
    alone = torch.cat([explain(discriminator, image[None], evidence="signed", **options) for image in images])
    torch.testing.assert_close(signed, alone, rtol=1e-4, atol=tolerance)


def test_uint8_equals_float_and_noncontiguous_equals_contiguous():
    discriminator = randomised(Discriminator(width=4))
    images = torch.randint(0, 256, (5, 1, 64, 64), dtype=torch.uint8)
    expected = explain(discriminator, to_model_range(images), batch_size=2)
    assert torch.equal(explain(discriminator, images, batch_size=2), expected)
    strided = images.expand(5, 3, 64, 64).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)[:, :1]
    assert torch.equal(explain(discriminator, strided, batch_size=2), expected)


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_a_list_of_layers_equals_one_by_one(method):
    discriminator = randomised(Discriminator(width=4))
    images = random_images(4)
    layers = ["block3", discriminator.layers[3], "layers.0", "block1", "layers.7", "layers.4"]
    together = explain(discriminator, images, method=method, layer=layers, batch_size=3)
    assert list(together) == ["block3", "layers.3", "layers.0", "block1", "layers.7", "layers.4"]
    for layer, name in zip(layers, together, strict=True):
        alone = explain(discriminator, images, method=method, layer=layer, batch_size=3)
        torch.testing.assert_close(together[name], alone)
    torch.testing.assert_close(together["block3"], together["layers.7"])


def test_a_list_with_a_container_and_parallel_branches():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left = nn.Sequential(nn.Conv2d(1, 3, 3, 2), nn.ReLU(inplace=True))
            self.right = nn.Conv2d(1, 3, 3, 2)

        def forward(self, images):
            return (self.left(images) * self.right(images)).mean((1, 2, 3))

    discriminator, images = randomised(Branches()), random_images(3, 17)
    together = explain(discriminator, images, layer=["left", "left.1", "left.0", "right"])
    for name, maps in together.items():
        torch.testing.assert_close(maps, explain(discriminator, images, layer=name))


# --- users' own discriminators -----------------------------------------------------------------------------


def test_in_place_activations_change_nothing():
    images = random_images(3, 96, 3)
    mixed = randomised(Mixed())
    plain = copy.deepcopy(mixed)
    plain.activation.inplace = False
    layers = ["first", "second", "norm", "activation"]
    expected = explain(plain, images, layer=layers)
    for name, maps in explain(mixed, images, layer=layers).items():
        torch.testing.assert_close(maps, expected[name])
        assert maps.shape == (3, 96, 96)
        assert maps.abs().max() > 0


def test_a_patch_map_is_averaged():
    discriminator, images = randomised(patches()), random_images(3, 32, 3)
    maps = explain(discriminator, images, layer="3", method="hirescam", evidence="signed", upsample=False)
    # the head is linear and shift-invariant: maps of the mean patch sum to it, less the bias
    expected = discriminator(images).detach().mean((1, 2, 3)) - discriminator[4].bias.detach()
    torch.testing.assert_close(maps.sum((1, 2)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 2])
def test_output_shapes_of_one_logit_an_image(width):
    network = randomised(Discriminator("paper28", width=width))
    images = random_images(3, 28)
    expected = explain(network, images, batch_size=2)

    class Reshaped(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.network, self.shape = network, shape

        def forward(self, images):
            logits = self.network(images)
            return logits.squeeze() if self.shape is None else logits.reshape(self.shape)

    for shape in [(-1, 1), (-1, 1, 1, 1), None]:
        assert torch.equal(explain(Reshaped(shape), images, layer="network.layers.7", batch_size=2), expected)


def test_an_old_style_spectral_norm_network():
    discriminator = nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(1, 4, 3)), nn.ReLU(), nn.Conv2d(4, 1, 8))
    images = random_images(2, 10)
    discriminator(images)  # a training step leaves a computed weight with a graph
    assert explain(discriminator, images, layer="1").shape == (2, 10, 10)


def test_float64_and_frozen_networks():
    discriminator = randomised(Discriminator("paper28", width=2))
    images = random_images(3, 28)
    expected = explain(discriminator, images)
    assert torch.equal(explain(copy.deepcopy(discriminator).requires_grad_(False), images), expected)
    double = explain(copy.deepcopy(discriminator).double(), images)
    assert double.dtype == torch.float32
    torch.testing.assert_close(double, expected, rtol=1e-4, atol=1e-5)


# --- precision and surroundings ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_bfloat16_is_close_and_float32_out(method):
    discriminator = randomised(Discriminator(width=8))
    images = random_images(4)
    exact = explain(discriminator, images, method=method, evidence="signed")
    fast = explain(discriminator, images, method=method, evidence="signed", precision="bfloat16")
    assert fast.dtype == torch.float32
    assert (fast - exact).abs().max() < 0.05 * exact.abs().max()
    assert not torch.equal(fast, exact)


def test_works_the_same_in_every_mode_of_the_caller():
    discriminator = randomised(Discriminator("paper28", width=2))
    images = random_images(3, 28)
    expected = explain(discriminator, images)
    assert not expected.requires_grad
    for mode in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with mode:
            grad_mode = torch.is_grad_enabled()
            assert torch.equal(explain(discriminator, images), expected)
            assert torch.is_grad_enabled() == grad_mode
    assert torch.equal(explain(discriminator, images.requires_grad_()), expected)
    assert images.grad is None


# --- the model is left as it was ---------------------------------------------------------------------------


def state_of(model):
    return {
        "flags": [(name, module.training) for name, module in model.named_modules()],
        "tensors": {
            name: (id(t), t._version, t.clone()) for name, t in model.state_dict(keep_vars=True).items()
        },
        "grads": {
            name: None if p.grad is None else (id(p.grad), p.grad.clone())
            for name, p in model.named_parameters()
        },
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "hooks": [(list(m._forward_hooks), list(m._backward_hooks)) for m in model.modules()],
        "formats": [p.stride() for p in model.parameters()],
    }


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key in ("flags", "requires_grad", "hooks", "formats"):
        assert before[key] == after[key]
    for key in ("tensors", "grads"):
        for name, value in before[key].items():
            other = after[key][name]
            if value is None:
                assert other is None
            else:
                assert value[:-1] == other[:-1], name
                assert torch.equal(value[-1], other[-1]), name


def busy_model():
    """Mid-training: mixed flags, gradients present, one frozen parameter, a user's hook."""
    discriminator = randomised(Discriminator("paper28", width=2)).train()
    discriminator(random_images(3, 28)).sum().backward()
    discriminator.layers[3].eval()
    discriminator.layers[0].weight.requires_grad_(False)
    discriminator.layers[5].weight.grad = None
    discriminator.layers[4].register_forward_hook(lambda module, inputs, output: None)
    return discriminator


@pytest.mark.parametrize("options", [{}, {"layer": ["block1", "layers.6"]}, {"precision": "bfloat16"}])
def test_the_model_is_left_as_it_was(options):
    discriminator = busy_model()
    before = state_of(discriminator)
    explain(discriminator, random_images(5, 28), batch_size=2, **options)
    assert_same(before, state_of(discriminator))


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ({"layer": ["block1", "layers.8"]}, random_images(2, 28)),
        ({"layer": "block9"}, random_images(2, 28)),
        ({}, random_images(2, 30)),
        ({}, random_images(2, 28, 3)),
    ],
)
def test_the_model_is_left_as_it_was_after_an_error(options, images):
    discriminator = busy_model()
    before = state_of(discriminator)
    with pytest.raises(InputError):
        explain(discriminator, images, **options)
    assert_same(before, state_of(discriminator))
    assert torch.is_grad_enabled()


def test_the_model_is_left_as_it_was_when_interrupted():
    discriminator = busy_model()

    def interrupt(module, inputs, output):
        raise KeyboardInterrupt

    discriminator.layers[8].register_forward_hook(interrupt)
    before = state_of(discriminator)
    with pytest.raises(KeyboardInterrupt):
        explain(discriminator, random_images(2, 28))
    assert_same(before, state_of(discriminator))


# --- errors ------------------------------------------------------------------------------------------------


def fails(match, discriminator, images, **options):
    with pytest.raises(InputError, match=match) as caught:
        explain(discriminator, images, **options)
    assert "\n" not in str(caught.value)


NAN = torch.full((1, 1, 28, 28), torch.nan)


@pytest.mark.parametrize(
    ("match", "images"),
    [
        ("images is a ndarray; give a tensor", np.zeros((1, 1, 28, 28))),
        (r"images has shape \(0, 1, 28, 28\); give at least one", torch.zeros(0, 1, 28, 28)),
        (r"images has shape \(1, 28, 28\).*images\[None\]", torch.zeros(1, 28, 28)),
        ("images has dtype torch.int64; give uint8", torch.zeros(1, 1, 28, 28, dtype=torch.int64)),
        (
            "values from 0 to 255; floating point must be finite and in",
            torch.linspace(0, 255, 784).view(1, 1, 28, 28),
        ),
        ("values from nan to nan", NAN),
        ("values from -inf to 0", torch.full((1, 1, 28, 28), -torch.inf).index_fill(2, torch.tensor([0]), 0)),
        (r"takes images of shape \(N, 1, 28, 28\)", torch.zeros(1, 1, 29, 28)),
    ],
)
def test_images_that_cannot_be_used(match, images):
    fails(match, Discriminator("paper28", width=2), images)


def test_images_that_a_users_network_cannot_take():
    fails(r"cannot be run on these images \(.*channels", patches(), torch.zeros(2, 1, 32, 32), layer="3")
    fails("cannot be run on these images", Mixed(), torch.zeros(2, 3, 64, 64), layer="second")


@pytest.mark.parametrize(
    ("match", "options"),
    [
        (
            "method='gradcan' is unknown; did you mean 'gradcam'. Choose one of gradcam, hirescam",
            {"method": "gradcan"},
        ),
        ("evidence='both' is unknown; choose one of real, fake, signed", {"evidence": "both"}),
        ("precision='float16' is unknown; did you mean 'bfloat16'", {"precision": "float16"}),
        ("batch_size=0 must be at least 1", {"batch_size": 0}),
        (r"layer=\[\] names no layer", {"layer": []}),
        (
            r"layer='blok3' is unknown in this Discriminator; did you mean 'block3'\? It has conv1, block1, ",
            {"layer": "blok3"},
        ),
        (r"layer=3 is unknown", {"layer": 3}),
        (r"layer=Conv2d\(...\) is no module of this Discriminator", {"layer": nn.Conv2d(1, 1, 1)}),
        (r"layer='layers.8' gives a 1x1 map: one number an image.*issue 444", {"layer": "layers.8"}),
        (r"layer='' gives shape \(1,\), which has no spatial extent", {"layer": ""}),
    ],
)
def test_options_and_layers_that_cannot_be_used(match, options):
    fails(match, Discriminator("paper28", width=2), torch.zeros(1, 1, 28, 28), **options)


class Odd(nn.Module):
    """Modules that are used twice, never, or off the way to the logit."""

    def __init__(self, shape=(-1,)):
        super().__init__()
        self.twice = nn.Conv2d(1, 1, 3, padding=1)
        self.never = nn.Conv2d(1, 1, 3)
        self.beside = nn.Conv2d(1, 2, 3)
        self.pair = nn.LSTM(8, 8)
        self.shape = shape

    def forward(self, images):
        self.beside(images)
        self.pair(images[:, 0])
        features = self.twice(self.twice(images))
        if self.shape == "tuple":
            return features.mean((1, 2, 3)), features
        return features.mean((1, 2, 3)) if self.shape == (-1,) else features.reshape(self.shape)


def test_layers_off_the_way():
    images = torch.zeros(2, 1, 8, 8)
    fails("layer='twice' runs more than once", Odd(), images, layer="twice")
    fails("layer='never' is never called", Odd(), images, layer=["beside", "never"])
    fails("layer='beside' gives an output that the score does not depend on", Odd(), images, layer="beside")
    fails("layer='pair' gives a tuple, which has no spatial extent", Odd(), images, layer="pair")


@pytest.mark.parametrize("shape", [(2, 64), (2, 8, 8), (4, 1, 8, 4), "tuple"])
def test_outputs_that_are_no_logit(shape):
    shown = "tuple" if shape == "tuple" else re.escape(str(shape))
    fails(
        f"Odd returned {shown} for 2 images; it must return",
        Odd(shape),
        torch.zeros(2, 1, 8, 8),
        layer="beside",
    )


def test_diverged_weights():
    discriminator = Discriminator("paper28", width=2)
    discriminator.layers[8].weight.data.fill_(torch.nan)
    fails("logits that are not finite", discriminator, torch.zeros(2, 1, 28, 28))


def test_a_layer_on_the_way_to_nothing_differentiable():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, images):
            return self.conv(images).detach().mean((1, 2, 3))

    fails("score does not depend on", Constant(), torch.zeros(2, 1, 8, 8), layer="conv")

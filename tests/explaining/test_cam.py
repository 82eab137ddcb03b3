import gradcam_gan.torchvision_compat  # noqa: F401  (first: makes torchvision importable beside a CPU torch)

# isort: split
import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from helpers import randomised, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import nn
from torch.nn import functional as F

from gradcam_gan.data import to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.cam import explain, signed_maps
from gradcam_gan.explaining.targets import PerImage, class_logit
from gradcam_gan.models.contrastive import ContrastiveClassifier
from gradcam_gan.models.dcgan import Discriminator


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


def patches(channels=1):
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(4, 6, 4, 2, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(6, channels, 3, 1, 1),
    )


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
    for seed in range(2):
        discriminator = randomised(make(), seed)
        images = random_images(5, size, seed=seed)
        for block, layer in discriminator.named_layers.items():
            ours = explain(discriminator, images, method=method, layer=block, evidence=evidence)
            theirs = reference_map(reference, discriminator, layer, images, evidence)
            assert np.abs(as_reference(ours) - theirs).max() < 1e-3
            assert ours.shape == (5, size, size)


@pytest.mark.parametrize("network", NETWORKS)
def test_agrees_with_captum(network):
    make, size = NETWORKS[network]
    for seed in range(2):
        discriminator = randomised(make(), seed)
        images = random_images(5, size, seed=seed)
        for block, layer in discriminator.named_layers.items():
            theirs = LayerGradCam(discriminator, layer).attribute(images).detach()[:, 0]
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
    options = {"method": "hirescam", "layer": "block3", "evidence": "signed", "upsample": False}
    maps = explain(discriminator, images, **options)
    logits = discriminator(images).detach() - (discriminator.layers[8].bias.detach() if bias else 0)
    torch.testing.assert_close(maps.sum((1, 2)), logits, rtol=0, atol=1e-4)


def test_gradcam_weights_at_the_last_block_are_the_means_of_the_head():
    discriminator = randomised(Discriminator(width=4)).eval()
    images = random_images(4)
    features = discriminator.layers[:8](images).detach()
    expected = torch.einsum("c,nchw->nhw", discriminator.layers[8].weight.detach().mean((0, 2, 3)), features)
    found = explain(discriminator, images, layer="block3", evidence="signed", upsample=False)
    torch.testing.assert_close(found, expected)


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

    def maps(**changes):
        kinds = ("signed", "real", "fake")
        return (explain(discriminator, images, evidence=kind, **options, **changes) for kind in kinds)

    signed, real, fake = maps(upsample=False)
    assert torch.equal(real, F.relu(signed))
    assert torch.equal(fake, F.relu(-signed))
    signed, real, fake = maps()
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


# --- targets and layers ------------------------------------------------------------------------------------


LABELS, TIMES = torch.tensor([3, 0, 9, 3, 7]), torch.tensor([0, 1, 10, 100, 1000])
TOLD = {"labels": LABELS, "times": TIMES}


@pytest.mark.parametrize("layer", ["block1", "norm2", "block3"])
def test_a_class_agrees_with_captum(layer):
    classifier, images = randomised(ContrastiveClassifier("paper28", width=2)), random_images(5, 28)
    captum = LayerGradCam(classifier, classifier.named_layers[layer])
    options = {"layer": layer, "evidence": "signed", "upsample": False}
    for labels in (4, LABELS):
        theirs = captum.attribute(images, target=labels).detach()[:, 0]
        ours = explain(classifier, images, target=class_logit(labels), **options)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    of_one_class = explain(classifier, images, target=class_logit(4), **options)
    assert not torch.allclose(ours, of_one_class, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_target_per_image_goes_with_its_image(batch_size):
    classifier, images = randomised(ContrastiveClassifier("paper28", width=2)), random_images(5, 28)
    angles = PerImage(lambda output, values: (output * values).sum(1), torch.randn(5, 10))
    for target in (class_logit(LABELS), angles):
        whole = signed_maps(classifier, images, target=target)
        split = signed_maps(classifier, images, target=target, batch_size=batch_size)
        torch.testing.assert_close(split.scores, target(classifier(images)).detach())
        torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-5)
        for i in range(5):
            own = PerImage(target.function, target.values[i : i + 1])
            alone = signed_maps(classifier, images[i : i + 1], target=own)
            for key, maps in whole.signed.items():
                torch.testing.assert_close(alone.signed[key][0], maps[i], rtol=1e-4, atol=1e-5)


def test_a_patch_map_is_averaged_as_a_target_or_by_default():
    discriminator, images = randomised(patches()), random_images(3, 32, 3)
    options = {"layer": "3", "method": "hirescam", "evidence": "signed", "upsample": False}
    maps = explain(discriminator, images, **options)
    # the head is linear and shift-invariant: maps of the mean patch sum to it, less the bias
    expected = discriminator(images).detach().mean((1, 2, 3)) - discriminator[4].bias.detach()
    torch.testing.assert_close(maps.sum((1, 2)), expected, rtol=1e-4, atol=1e-5)
    named = explain(discriminator, images, target=lambda output: output.mean((1, 2, 3)), **options)
    torch.testing.assert_close(named, maps)
    two = randomised(patches(channels=2))
    maps = explain(two, images, target=lambda output: output[:, 1].mean((1, 2)), **options)
    expected = two(images).detach()[:, 1].mean((1, 2)) - two[4].bias.detach()[1]
    torch.testing.assert_close(maps.sum((1, 2)), expected, rtol=1e-4, atol=1e-5)


def test_names_of_layers_find_the_module():
    discriminator, images = randomised(Discriminator("paper28", width=2)), random_images(3, 28)
    names = ["conv1", "block1", "conv2", "norm2", "block2", "conv3", "norm3", "block3"]
    assert list(discriminator.named_layers) == names
    for number, name in enumerate(names):
        own = explain(discriminator, images, layer=name, evidence="signed")
        for same in (f"layers.{number}", discriminator.layers[number]):
            assert torch.equal(explain(discriminator, images, layer=same, evidence="signed"), own)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_several_layers_in_one_pass_equal_single_passes_to_the_bit(precision):
    """In the order asked for, the first of the network not first; a block is recorded with its own convolution."""
    network, images = randomised(Discriminator("paper28", width=4)), random_images(5, 28)
    layers, options = ["block3", "conv1", "conv3", "norm3"], {"batch_size": 2, "precision": precision}
    together = signed_maps(network, images, layers=layers, **options)
    assert list(together.signed) == [
        (layer, method) for layer in layers for method in ("gradcam", "hirescam")
    ]
    for layer in layers:
        alone = signed_maps(network, images, layers=[layer], **options)
        assert torch.equal(alone.scores, together.scores)
        assert all(torch.equal(maps, together.signed[key]) for key, maps in alone.signed.items())


# --- networks that are told a class and a time ------------------------------------------------------------


class Bound(nn.Module):
    """A discriminator that is told the same class and time whatever the images: what other libraries can call."""

    def __init__(self, discriminator, **told):
        super().__init__()
        self.discriminator, self.told = discriminator, told

    def forward(self, images):
        return self.discriminator(images, **self.told)


def projection(**options):
    return randomised(Discriminator("paper28", width=2, **{"classes": 10, "timed": True, **options}))


@pytest.fixture(params=["conditional", "timed", "both", "group"])
def told_network(request):
    """A network, and what five images are told to it with."""
    return {
        "conditional": lambda: (projection(timed=False), {"labels": LABELS}),
        "timed": lambda: (projection(classes=0), {"times": TIMES}),
        "both": lambda: (projection(), TOLD),
        "group": lambda: (projection(normalisation="group"), TOLD),
    }[request.param]()


@pytest.mark.parametrize("block", ["block1", "block2", "block3"])
def test_a_told_network_agrees_with_pytorch_grad_cam(told_network, block):
    (network, told), images = told_network, random_images(5, 28)
    ours = explain(network, images, layer=block, conditions=told)
    for i in range(5):
        bound = Bound(copy.deepcopy(network), **{key: values[i : i + 1] for key, values in told.items()})
        layer = bound.discriminator.named_layers[block]
        theirs = reference_map(GradCAM, bound, layer, images[i : i + 1], "real")
        assert np.abs(as_reference(ours[i : i + 1]) - theirs).max() < 1e-3


def test_hirescam_of_a_told_network_sums_to_the_logit(told_network):
    (network, told), images = told_network, random_images(5, 28)
    options = {"method": "hirescam", "layer": "block3", "evidence": "signed", "upsample": False}
    maps = explain(network, images, conditions=told, **options)
    logits = network(images, **told).detach()
    torch.testing.assert_close(maps.sum((1, 2)), logits, rtol=1e-5, atol=1e-5)
    assert logits.abs().max() > 0.1


def test_batches_carry_their_own_conditions(told_network):
    (network, told), images = told_network, random_images(5, 28)
    split, whole = (signed_maps(network, images, batch_size=size, conditions=told) for size in (2, 256))
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(split.scores, network(images, **told).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", ["labels", "times"])
def test_another_class_or_time_gives_another_map(changed):
    discriminator, images = projection(), random_images(5, 28)
    other = {"labels": (LABELS + 1) % 10, "times": TIMES + 50}[changed]
    maps, others = (
        explain(discriminator, images, evidence="signed", upsample=False, conditions=told)
        for told in (TOLD, {**TOLD, changed: other})
    )
    assert ((maps - others).abs().amax((1, 2)) > 0.01).all()


@pytest.mark.parametrize("name", ["labels", "times"])
@pytest.mark.parametrize("count", [1, 6])
def test_a_condition_of_another_length_is_refused(name, count):
    told = {**TOLD, name: torch.zeros(count, dtype=torch.int64)}
    message = refused(explain, projection(), random_images(5, 28), conditions=told)
    assert message == f"conditions['{name}'] has {count} values for 5 images; give one for each"


# --- users' own discriminators -----------------------------------------------------------------------------


def test_in_place_activations_change_nothing():
    mixed, images = randomised(Mixed()), random_images(3, 96, 3)
    plain = copy.deepcopy(mixed)
    plain.activation.inplace = False
    for layer in ("first", "second", "norm", "activation"):
        maps = explain(mixed, images, layer=layer)
        torch.testing.assert_close(maps, explain(plain, images, layer=layer))
        assert maps.shape == (3, 96, 96)
        assert maps.abs().max() > 0


@pytest.mark.parametrize("width", [1, 2])
def test_output_shapes_of_one_logit_an_image(width):
    network = randomised(Discriminator("paper28", width=width))
    images = random_images(3, 28)
    expected = explain(network, images, layer="block3", batch_size=2)

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
    """All of a model that its owner could find changed, to be compared with ==."""
    return (
        [(n, m.training, list(m._forward_hooks), list(m._backward_hooks)) for n, m in model.named_modules()],
        [
            (name, id(tensor), tensor._version, tensor.stride(), tensor.detach().numpy().tobytes())
            for name, tensor in model.state_dict(keep_vars=True).items()
        ],
        [
            (name, p.requires_grad, p.grad is not None and (id(p.grad), p.grad.numpy().tobytes()))
            for name, p in model.named_parameters()
        ],
    )


def busy_model():
    """Mid-training: mixed flags, gradients present, one frozen parameter, a user's hook."""
    discriminator = randomised(Discriminator("paper28", width=2)).train()
    discriminator(random_images(3, 28)).sum().backward()
    discriminator.layers[3].eval()
    discriminator.layers[0].weight.requires_grad_(False)
    discriminator.layers[5].weight.grad = None
    discriminator.layers[4].register_forward_hook(lambda module, inputs, output: None)
    return discriminator


@pytest.mark.parametrize(
    ("options", "images", "error"),
    [
        ({}, random_images(5, 28), None),
        ({"layer": "layers.6"}, random_images(5, 28), None),
        ({"precision": "bfloat16"}, random_images(5, 28), None),
        ({"layer": "layers.8"}, random_images(2, 28), InputError),
        ({"layer": "block9"}, random_images(2, 28), InputError),
        ({}, random_images(2, 30), InputError),
        ({}, random_images(2, 28, 3), InputError),
        ({}, random_images(2, 28), KeyboardInterrupt),
    ],
)
def test_the_model_is_left_as_it_was(options, images, error):
    discriminator = busy_model()

    def interrupt(module, inputs, output):
        raise KeyboardInterrupt

    if error is KeyboardInterrupt:
        discriminator.layers[8].register_forward_hook(interrupt)
    before = state_of(discriminator)
    with pytest.raises(error) if error else nullcontext():
        explain(discriminator, images, batch_size=2, **options)
    assert state_of(discriminator) == before
    assert torch.is_grad_enabled()


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "images"),
    [
        ("images is a ndarray; give a tensor", np.zeros((1, 1, 28, 28))),
        ("images has shape (0, 1, 28, 28); give at least one", torch.zeros(0, 1, 28, 28)),
        ("images need", torch.zeros(1, 28, 28)),
        ("images has dtype torch.int64; give uint8", torch.zeros(1, 1, 28, 28, dtype=torch.int64)),
        ("values from 0 to 2; floating point must be finite and in [-1, 1]", 2 * torch.eye(28)[None, None]),
        ("values from nan to nan", torch.full((1, 1, 28, 28), torch.nan)),
        ("takes images of shape (N, 1, 28, 28)", torch.zeros(1, 1, 29, 28)),
    ],
)
def test_images_that_cannot_be_used(message, images):
    message = message.replace("images need", "a single image needs images[None]")
    assert message in refused(explain, Discriminator("paper28", width=2), images)


def test_noised_images_may_step_over_the_range_by_their_noise():
    discriminator, images = randomised(Discriminator("paper28", width=2)), torch.full((2, 1, 28, 28), 1.2)
    assert signed_maps(discriminator, images, noise=0.05).scores.isfinite().all()
    assert "in [-1.1, 1.1]" in refused(signed_maps, discriminator, images, noise=0.01)
    assert "values from" in refused(signed_maps, discriminator, images / 0, noise=0.05)


def test_images_that_a_users_network_cannot_take():
    for network, images in ((patches(), torch.zeros(2, 1, 32, 32)), (Mixed(), torch.zeros(2, 3, 64, 64))):
        with pytest.raises(
            InputError, match=r"cannot be run on these images \(.+\); give images of"
        ) as caught:
            explain(network, images, layer="first" if isinstance(network, Mixed) else "3")
        assert isinstance(caught.value.__cause__, RuntimeError)  # the network's own


def test_an_error_in_the_network_is_its_own():
    """Nothing is run again in another layout, and nothing is hidden."""

    class Late(nn.Sequential):
        calls = 0

        def forward(self, images):
            Late.calls += 1
            if Late.calls > 2:
                raise RuntimeError("out of luck")
            return super().forward(images)

    network = Late(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 1))
    with pytest.raises(RuntimeError, match="out of luck"):
        explain(network, torch.zeros(4, 1, 8, 8), layer="0", batch_size=2)
    assert Late.calls == 3  # the layout, the first batch, the second


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("method='gradcan' is unknown; did you mean 'gradcam'?", {"method": "gradcan"}),
        ("evidence='both' is unknown; choose one of real, fake, signed", {"evidence": "both"}),
        ("precision='float16' is unknown; did you mean 'bfloat16'", {"precision": "float16"}),
        ("batch_size=0 must be at least 1", {"batch_size": 0}),
        (
            "layer='blok3' is unknown in this Discriminator; did you mean 'block3'? Choose one of conv1, block1, "
            "conv2, norm2, block2, conv3, norm3, block3, layers, layers.0, layers.1, layers.2 and 6 more",
            {"layer": "blok3"},
        ),
        ("layer=3 is unknown", {"layer": 3}),
        ("layer=Conv2d(...) is no module of this Discriminator", {"layer": nn.Conv2d(1, 1, 1)}),
        ("layer='layers.8' gives a 1x1 map: one number an image", {"layer": "layers.8"}),
        ("layer='' gives shape (1,), which has no spatial extent", {"layer": ""}),
        ("target has 3 values for 1 images", {"target": class_logit(torch.arange(3))}),
        ("the network returned (1,); a class's logit needs", {"target": class_logit(3)}),
        ("the target makes () of the output of Discriminator for 1", {"target": torch.mean}),
    ],
)
def test_options_layers_and_targets_that_cannot_be_used(message, options):
    network, images = Discriminator("paper28", width=2), torch.zeros(1, 1, 28, 28)
    assert message in refused(explain, network, images, **options)


def test_classes_that_cannot_be_explained():
    network, images = ContrastiveClassifier("paper28", width=2), torch.zeros(5, 1, 28, 28)
    for labels, told in ((LABELS + 1, "1 to 10"), (-1, "-1 to -1")):
        message = refused(explain, network, images, target=class_logit(labels))
        assert message == f"labels go from {told}; they must lie in 0..9"
    for wrong in (LABELS.float(), LABELS[:, None], 1.0):
        assert "give a whole number" in refused(class_logit, wrong)
    small = explain(network, images, target=class_logit(LABELS.to(torch.uint8)))
    assert torch.equal(small, explain(network, images, target=class_logit(LABELS)))


class Odd(nn.Module):
    """Modules that are used twice, never, or off the way to the logit."""

    def __init__(self, make=lambda features: features.mean((1, 2, 3))):
        super().__init__()
        self.twice = nn.Conv2d(1, 1, 3, padding=1)
        self.never = nn.Conv2d(1, 1, 3)
        self.beside = nn.Conv2d(1, 2, 3)
        self.once = nn.Conv2d(1, 1, 3, padding=1)
        self.pair = nn.LSTM(8, 8)
        self.make = make

    def forward(self, images):
        self.beside(images)
        self.pair(images[:, 0])
        return self.make(self.once(self.twice(self.twice(images))))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", "layer='twice' runs more than once"),
        ("never", "layer='never' is never called"),
        ("beside", "layer='beside' gives an output that the score does not depend on"),
        ("pair", "layer='pair' gives a tuple, which has no spatial extent"),
    ],
)
def test_layers_off_the_way(layer, message):
    assert message in refused(explain, Odd(), torch.zeros(2, 1, 8, 8), layer=layer)
    constant = Odd(lambda features: features.detach().mean((1, 2, 3)))
    assert "does not depend on" in refused(explain, constant, torch.zeros(2, 1, 8, 8), layer="once")


@pytest.mark.parametrize("shape", [(2, 64), (2, 8, 8), (4, 1, 8, 4), "a tuple"])
def test_outputs_that_are_no_logit(shape):
    network = Odd((lambda features: (features, 1)) if shape == "a tuple" else lambda f: f.reshape(shape))
    message = refused(explain, network, torch.zeros(2, 1, 8, 8), layer="once")
    told = (
        "the target makes (4,) of the output of Odd for 2" if shape[0] == 4 else f"network returned {shape}"
    )
    assert told in message


def test_diverged_weights():
    discriminator = Discriminator("paper28", width=2)
    discriminator.layers[8].weight.data.fill_(torch.nan)
    assert "scores that are not finite" in refused(explain, discriminator, torch.zeros(2, 1, 28, 28))

"""Methods of pytorch-grad-cam and captum: against their library called directly, and against formulas by hand."""

import copy
import threading
import warnings

import numpy as np
import pytest
import torch
from helpers import randomised, refused
from torch import nn
from torch.nn import functional as F

import gradcam_gan.torchvision_compat  # noqa: F401  (before pytorch-grad-cam)

# isort: split
import captum.attr
import pytorch_grad_cam
from captum._utils.models.linear_model import SkLearnRidge
from pytorch_grad_cam.utils.image import scale_cam_image

from gradcam_gan.explaining import captum_library
from gradcam_gan.explaining.batchnorm import batch_statistics
from gradcam_gan.explaining.cam import evidence_maps, explain, runnable, signed_maps
from gradcam_gan.explaining.methods import METHODS, OWN_METHODS
from gradcam_gan.explaining.targets import class_logit
from gradcam_gan.models.contrastive import ContrastiveClassifier
from gradcam_gan.models.dcgan import Discriminator

AT_LAYER = [name for name, method in METHODS.items() if method.at_layer]
OF_IMAGE = [name for name in METHODS if name not in AT_LAYER]
LIBRARY = {
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "scorecam": "ScoreCAM",
}
LABELS = torch.tensor([3, 0, 9])
every_method = pytest.mark.parametrize("method", METHODS)


def random_images(count=3, size=28, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator) * 2 - 1


@pytest.fixture(scope="module")
def discriminator():
    return randomised(Discriminator("paper28", width=4))


@pytest.fixture(scope="module")
def images():
    return random_images()


def signed(network, images, method, layer="conv3", **options):
    return explain(network, images, method=method, layer=layer, evidence="signed", upsample=False, **options)


class Small(nn.Module):
    """A user's network: RGB, 32x24, ReLU, a hook's nightmare of in-place activations, ``.view``, (N, 1)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 4, 2, 1)
        self.norm = nn.BatchNorm2d(6)
        self.active = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, 8, 4, 2, 1)
        self.head = nn.Linear(8 * 8 * 6, 1)

    def forward(self, images):
        features = self.active(self.norm(self.first(images)))
        return self.head(F.relu_(self.second(features)).view(len(images), -1))


class Linear(nn.Module):
    """The score is a weighted sum of pixels."""

    def __init__(self, channels=1):
        super().__init__()
        self.weight = nn.Parameter(random_images(1, 16, channels, seed=5))

    def forward(self, images):
        return (images * self.weight).sum((1, 2, 3))


# --- against the libraries ---------------------------------------------------------------------------------


class Shifted(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images - 1)


def distance(ours, theirs):
    """The largest difference in each image, after the library's own normalisation, at both resolutions."""
    scaled = scale_cam_image(scale_cam_image(ours.numpy()))
    return torch.from_numpy(np.abs(scaled - theirs).max((1, 2)))


@pytest.mark.parametrize("evidence", ["real", "fake"])
@pytest.mark.parametrize("method", LIBRARY)
def test_maps_are_pytorch_grad_cams(method, evidence, discriminator, images, capfd):
    sign, shown = 1 if evidence == "real" else -1, 0
    for layer in ("block1", "conv3", "block3"):
        # ScoreCAM multiplies by a mask: here what it masks becomes background, -1, not mid-grey, 0
        network, seen = copy.deepcopy(discriminator), images
        if method == "scorecam":
            network, seen = Shifted(network), images + 1
        place = network.get_submodule("network") if method == "scorecam" else network
        with getattr(pytorch_grad_cam, LIBRARY[method])(network, [place.named_layers[layer]]) as cam:
            theirs = cam(seen, [lambda output: sign * output.sum()] * len(images))
        capfd.readouterr()
        ours = explain(discriminator, images, method=method, layer=layer, evidence=evidence)
        assert capfd.readouterr() == ("", "")
        if method == "eigencam":  # its sign is arbitrary, and another here
            other = evidence_maps(signed(discriminator, images, method, layer), "fake", (28, 28))
            found = torch.stack([distance(ours, theirs), distance(other, theirs)])
            assert (found.amin(0) < 1e-3).all()
        else:
            assert (distance(ours, theirs) < 1e-3).all()
        shown += theirs.any()
    assert shown  # a map is not compared with nothing


def test_ablation_is_pytorch_grad_cams_where_it_ablates_to_zero():
    """It does after a ReLU alone; and its weights, divided by the score, have the score's sign."""
    network, images = randomised(Small()), random_images(6, 32, 3)[..., :24]
    with torch.no_grad():
        network.head.bias -= network(images).mean()
        scores = network(images)[:, 0]
    shown = {"real": False, "fake": False}
    for i, score in enumerate(scores):
        duplicate = copy.deepcopy(network)
        with pytorch_grad_cam.AblationCAM(duplicate, [duplicate.active], batch_size=4) as cam:
            theirs = cam(images[i : i + 1], [lambda output: output.sum()])
        evidence = "real" if score > 0 else "fake"
        ours = explain(network, images[i : i + 1], method="ablationcam", layer="active", evidence=evidence)
        assert distance(ours, theirs) < 1e-3
        shown[evidence] |= theirs.any()
    assert all(shown.values())  # a map is not compared with nothing


def test_full_grad_is_pytorch_grad_cams(images):
    network = randomised(nn.Sequential(*Discriminator("paper28", width=4).layers, nn.Flatten(0)))
    theirs = pytorch_grad_cam.FullGrad(copy.deepcopy(network), [])(images, [nn.Identity()] * len(images))
    ours = signed(network, images, "fullgrad")
    assert (ours >= 0).all()
    np.testing.assert_allclose(scale_cam_image(ours.numpy()), theirs, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_attributions_are_captums(channels):
    network = randomised(Discriminator("paper28", width=4, channels=channels))
    images = random_images(channels=channels)
    seen = images.clone().requires_grad_()
    windows = {"sliding_window_shapes": (channels, 4, 4), "strides": (channels, 2, 2)}
    expected = {
        "occlusion": captum.attr.Occlusion(network).attribute(images, baselines=-1, **windows).mean(1),
        "integrated-gradients": captum.attr.IntegratedGradients(network)
        .attribute(seen, baselines=-1, n_steps=captum_library.STEPS)
        .sum(1),
        "gradient-x-input": captum.attr.InputXGradient(network).attribute(seen).sum(1),
    }
    for method, theirs in expected.items():
        torch.testing.assert_close(signed(network, images, method), theirs.detach(), rtol=1e-3, atol=1e-4)


def test_lime_is_captums(discriminator):
    image = random_images(1)
    sides = torch.arange(28) * 8 // 28
    mask = (8 * sides[:, None] + sides)[None, None]
    torch.manual_seed(captum_library.LIME_SEED)
    theirs = captum.attr.Lime(discriminator, SkLearnRidge(alpha=1.0)).attribute(
        image, baselines=-1, feature_mask=mask, n_samples=captum_library.LIME_SAMPLES
    )
    torch.testing.assert_close(signed(discriminator, image, "lime"), theirs[:, 0], rtol=1e-3, atol=1e-4)


# --- against formulas --------------------------------------------------------------------------------------


def test_score_cam_by_hand(discriminator, images):
    recorded = []
    with discriminator.named_layers["block2"].register_forward_hook(lambda *call: recorded.append(call[2])):
        discriminator(images)
    maps = []
    for image, active in zip(images, recorded[0].detach(), strict=True):
        masks = F.interpolate(active[None], (28, 28), mode="bilinear", align_corners=True)[0]
        low, high = (extreme[:, None, None] for extreme in (masks.amin((1, 2)), masks.amax((1, 2))))
        masked = (image + 1) * (masks - low)[:, None] / (high - low)[:, None] - 1
        weights = torch.softmax(discriminator(masked).detach(), 0)
        maps.append((weights[:, None, None] * active).sum(0))
    found = signed(discriminator, images, "scorecam", "block2")
    torch.testing.assert_close(found, torch.stack(maps), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layer", ["conv2", "block3"])
def test_ablation_cam_by_hand(layer, discriminator, images):
    module, recorded = discriminator.named_layers[layer], []
    with module.register_forward_hook(lambda *call: recorded.append(call[2])), torch.no_grad():
        scores = discriminator(images)
    maps = torch.zeros_like(recorded[0][:, 0])
    for k in range(recorded[0].shape[1]):
        keep = (torch.arange(recorded[0].shape[1]) != k)[:, None, None]
        with module.register_forward_hook(lambda *call, keep=keep: call[2] * keep), torch.no_grad():
            drop = scores - discriminator(images)
        maps += drop[:, None, None] * recorded[0][:, k]
    torch.testing.assert_close(
        signed(discriminator, images, "ablationcam", layer), maps, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_what_a_linear_network_owes_to_each_pixel_is_found(channels):
    network, images = Linear(channels), random_images(2, 16, channels)
    own = ((images + 1) * network.weight.detach()).sum(1)  # against a background of -1
    torch.testing.assert_close(signed(network, images, "integrated-gradients"), own, rtol=1e-4, atol=1e-5)
    patches = F.avg_pool2d(own[:, None], 2).repeat_interleave(2, 2).repeat_interleave(2, 3)[:, 0] * 4
    found = signed(network, images, "lime")
    torch.testing.assert_close(found, patches, rtol=0.05, atol=0.05 * float(patches.abs().max()))
    windows = F.avg_pool2d(own[:, None], 2, 1)[:, 0] * 4  # (N, 15, 15)
    shares = F.conv_transpose2d(torch.ones(1, 1, 15, 15), torch.ones(1, 1, 2, 2))
    mean = F.conv_transpose2d(windows[:, None], torch.ones(1, 1, 2, 2)) / shares
    torch.testing.assert_close(signed(network, images, "occlusion"), mean[:, 0], rtol=1e-4, atol=1e-4)


def test_integrated_gradients_are_complete(discriminator, images):
    with torch.no_grad():
        difference = discriminator(images) - discriminator(torch.full_like(images, -1))
    found = signed(discriminator, images, "integrated-gradients").sum((1, 2))
    assert ((found - difference).abs() < 0.03 * difference.abs().max()).all()


def test_xgradcam_sums_to_what_hirescam_sums_to(discriminator, images):
    """Its axiom of conservation (Fu et al. 2020)."""
    for layer in ("conv2", "block3"):
        sums = [
            signed(discriminator, images, method, layer).sum((1, 2)) for method in ("xgradcam", "hirescam")
        ]
        torch.testing.assert_close(*sums, rtol=1e-3, atol=1e-3)


def test_the_largest_magnitude_of_eigencam_is_positive(discriminator):
    maps = signed(discriminator, random_images(12), "eigencam", "block2")
    assert (maps.amax((1, 2)) >= -maps.amin((1, 2))).all()


# --- evidence ----------------------------------------------------------------------------------------------


@every_method
def test_evidence_against_is_that_for_minus_the_score(method, discriminator, images):
    against = explain(discriminator, images, method=method, evidence="fake")
    of_minus = explain(discriminator, images, method=method, target=lambda output: -output)
    torch.testing.assert_close(against, of_minus, rtol=1e-3, atol=1e-4)
    same = method in ("eigencam", "fullgrad")  # they know no score, or no sign
    assert torch.equal(against, explain(discriminator, images, method=method)) == same


# --- as for Grad-CAM: batches, conditions, targets, dtypes, precision --------------------------------------


def cases():
    discriminator = randomised(Discriminator("paper28", width=2, classes=10, timed=True))
    told = {"labels": LABELS, "times": torch.tensor([0, 40, 7])}
    yield discriminator, random_images(), {"conditions": told}
    yield (
        randomised(ContrastiveClassifier("paper28", width=2)),
        random_images(),
        {"target": class_logit(LABELS)},
    )
    yield randomised(Small()), random_images(3, 32, 3)[..., :24], {"layer": "second"}


@every_method
def test_each_image_is_explained_by_itself_and_the_same_every_time(method, monkeypatch):
    monkeypatch.setattr(captum_library, "LIME_SAMPLES", 80)  # as many would do; they take a while
    for network, images, options in cases():
        whole = explain(network, images, method=method, evidence="signed", **options)
        assert whole.shape == (3, *images.shape[2:])
        assert whole.dtype == torch.float32
        assert not whole.requires_grad
        torch.rand(1)  # what the caller has drawn before makes no difference
        assert torch.equal(whole, explain(network, images, method=method, evidence="signed", **options))
        split = explain(network, images, method=method, evidence="signed", batch_size=2, **options)
        torch.testing.assert_close(split, whole, rtol=1e-3, atol=1e-3)
        for i in range(3):
            own = dict(options)
            if "conditions" in own:
                own["conditions"] = {name: values[i : i + 1] for name, values in own["conditions"].items()}
            if "target" in own:
                own["target"] = class_logit(LABELS[i : i + 1])
            alone = explain(network, images[i : i + 1], method=method, evidence="signed", **own)
            torch.testing.assert_close(alone[0], whole[i], rtol=1e-3, atol=1e-3)


@every_method
def test_a_class_and_a_condition_matter(method):
    for network, images, options in list(cases())[:2]:
        before = explain(network, images, method=method, evidence="signed", **options)
        if "target" in options:
            options = {"target": class_logit((LABELS + 1) % 10)}
        else:
            options = {"conditions": {**options["conditions"], "labels": (LABELS + 1) % 10}}
        after = explain(network, images, method=method, evidence="signed", **options)
        assert torch.equal(before, after) == (method == "eigencam")


@every_method
def test_uint8_double_and_bfloat16(method, discriminator):
    """The library's FullGrad knows no bfloat16, and says so."""
    whole = (random_images(2) * 127.5 + 127.5).to(torch.uint8)
    single = signed(discriminator, whole, method)
    assert torch.equal(single, signed(discriminator, whole / 127.5 - 1, method))
    double = signed(copy.deepcopy(discriminator).double(), whole, method)
    assert double.dtype == torch.float32
    loose = {"rtol": 1e-2, "atol": 1e-2 * float(single.abs().max())}
    torch.testing.assert_close(double, single, **loose)
    if method == "fullgrad":
        assert "BFloat16" in refused(signed, discriminator, whole, method, precision="bfloat16")
        return
    half = signed(discriminator, whole, method, precision="bfloat16")
    assert half.dtype == torch.float32
    assert not torch.equal(half, single)
    if method not in ("gradcam++", "xgradcam"):  # they divide by sums that may be near zero
        both = torch.stack([half.flatten(), single.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.9


def test_several_methods_and_layers_in_one_call(discriminator, images):
    layers = ["conv2", "conv3"]
    together = signed_maps(discriminator, images, tuple(METHODS), layers)
    assert set(together.signed) == {(layer, method) for layer in layers for method in AT_LAYER} | {
        ("image", method) for method in OF_IMAGE
    }
    for (layer, method), maps in together.signed.items():
        place = {} if layer == "image" else {"layer": layer}
        assert torch.equal(maps, signed(discriminator, images, method, **place))
    assert list(signed_maps(discriminator, images).signed) == [("conv3", method) for method in OWN_METHODS]


def test_a_method_of_the_image_takes_no_notice_of_the_layer(discriminator, images):
    for method in OF_IMAGE:
        maps = [signed(discriminator, images, method, layer) for layer in ("conv3", "no such")]
        assert torch.equal(*maps)
        assert maps[0].shape == (3, 28, 28)


# --- nothing is left behind --------------------------------------------------------------------------------


def everything(network):
    """All that a library could change, comparable."""
    modules = dict(network.named_modules())
    return {
        "values": {name: value.tolist() for name, value in network.state_dict().items()},
        "gradients": {name: parameter.grad for name, parameter in network.named_parameters()},
        "wanted": {name: parameter.requires_grad for name, parameter in network.named_parameters()},
        "modules": {name: id(module) for name, module in modules.items()},
        "flags": {name: module.training for name, module in modules.items()},
        "hooks": {name: len(m._forward_hooks) + len(m._backward_hooks) for name, m in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
    }


@every_method
@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_network_images_and_random_numbers_are_left_as_they_were(method, caller, capfd):
    network = randomised(Small()).train()
    network.second.eval()
    images = random_images(2, 32, 3)[..., :24]
    before, pixels, random = everything(network), images.clone(), torch.get_rng_state()
    with warnings.catch_warnings(action="error"), caller():
        maps = explain(network, images, method=method, layer="second")
        assert torch.is_grad_enabled() == (caller is torch.enable_grad)
    assert maps.isfinite().all()
    assert everything(network) == before
    assert torch.equal(images, pixels)
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert capfd.readouterr() == ("", "")


# --- what cannot be run ------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Reads a layer's weight, and has a bias where FullGrad does not look for one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, images):
        features = self.norm(self.first(images))
        return (features * self.first.weight.sum()).mean((1, 2, 3))


def test_what_cannot_run_is_listed_with_the_reason():
    reasons = runnable(Tied(), random_images(2, 16), layer="first")
    assert list(reasons) == list(METHODS)
    refusing = {method: reason for method, reason in reasons.items() if reason}
    assert refusing == {
        "ablationcam": "method='ablationcam' cannot run on this Tied: 'Zeroed' object has no attribute 'weight'",
        "fullgrad": "method='fullgrad' cannot run on this Tied: the library counts biases of nn.Conv2d and "
        "nn.BatchNorm2d alone, and norm (GroupNorm) has one",
    }
    for method, reason in refusing.items():
        assert refused(explain, Tied(), random_images(2, 16), method=method, layer="first") == reason


def test_all_run_on_the_papers_networks_conditions_and_targets_included():
    for network, images, options in cases():
        assert set(runnable(network, images, **options).values()) == {""}


def test_a_network_that_cannot_be_copied():
    network = randomised(Small())
    network.lock = threading.Lock()
    reasons = runnable(network, random_images(2, 32, 3)[..., :24], layer="second")
    refusing = [method for method, reason in reasons.items() if reason]
    assert refusing == ["scorecam", "ablationcam", *OF_IMAGE]
    assert all("this Small cannot be copied: " in reasons[method] for method in refusing)


def test_altered_copies_are_no_batch(discriminator, images):
    reasons = runnable(batch_statistics(discriminator), images)
    refusing = {method for method, reason in reasons.items() if "use the statistics of the batch" in reason}
    assert refusing == {
        "scorecam", "ablationcam", "fullgrad", "occlusion", "lime", "integrated-gradients",
    }  # fmt: skip
    assert {method for method, reason in reasons.items() if reason} == refusing


def test_what_is_wrong_for_every_method_is_an_error(discriminator, images):
    assert "layer='conv9' is unknown" in refused(runnable, discriminator, images, layer="conv9")
    conditional = Discriminator("paper28", width=2, classes=10)
    assert "needs the class of each image" in refused(runnable, conditional, images)
    assert "choose one of gradcam, hirescam, gradcam++" in refused(
        explain, discriminator, images, method="shap"
    )
    assert "choose one of gradcam, hirescam" in refused(runnable, discriminator, images, ["shap"])


@every_method
def test_diverged_weights(method):
    network = Discriminator("paper28", width=2)
    network.layers[8].weight.data.fill_(torch.nan)
    assert "scores that are not finite" in refused(explain, network, random_images(2), method=method)


def test_values_that_are_not_finite_are_no_map():
    """A score of exactly 0, by which the library's AblationCAM divides."""
    network = Discriminator("paper28", width=2)
    network.layers[8].weight.data.zero_()
    with warnings.catch_warnings(action="error"):
        message = refused(explain, network, random_images(2), method="ablationcam")
    assert (
        message
        == "method='ablationcam' cannot run on this Discriminator: it gives values that are not finite"
    )

"""Measures of an explanation against known answers, references, and maps that ignore the network."""

import copy
import math

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from captum.metrics import sensitivity_max
from helpers import randomised, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn

from gradcam_gan.data import to_model_range
from gradcam_gan.explaining import measures
from gradcam_gan.explaining.batchnorm import calibrate
from gradcam_gan.explaining.cam import explain
from gradcam_gan.explaining.quality import (
    completeness_error,
    controls,
    flipping_curves,
    noise_sensitivity,
    occlude,
    occlusion_gap,
    randomise,
    rank_correlation,
)
from gradcam_gan.explaining.targets import class_logit, real
from gradcam_gan.models.contrastive import ContrastiveClassifier
from gradcam_gan.models.dcgan import Discriminator

light = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def random_images(count, size=64, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator) * 2 - 1


def random_maps(count, size, seed=0):
    return torch.randn(count, size, size, generator=torch.Generator().manual_seed(seed))


def linear(weights, bias=0.0):
    """A network whose logit is a weighted sum of the pixels (C, H, W)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(weights.numel(), 1))
    network[1].weight.data = weights.flatten()[None]
    network[1].bias.data = torch.tensor([bias])
    return network


def gap(network, images, maps, **options):
    least, most = (
        flipping_curves(network, images, maps, order=order, **{"occluder": "background", **options})
        for order in ("least", "most")
    )
    return occlusion_gap(least, most)


# --- controls


def test_controls_are_maps_of_the_images_alone():
    images = random_images(3, 20, channels=3)
    found = controls(images)
    assert list(found) == ["random", "image", "edges", "centre"]
    for maps in found.values():
        assert maps.shape == (3, 20, 20)
        assert maps.dtype == torch.float32
        assert maps.min() >= 0
    as_bytes = (images.add(1) * 127.5).round().to(torch.uint8)
    for name, maps in controls(as_bytes).items():
        torch.testing.assert_close(maps, controls(to_model_range(as_bytes))[name])


def test_controls_by_hand():
    images = torch.full((1, 2, 6, 6), -1.0)
    images[:, 0, :, 3:] = 1.0  # half as bright as white, from the fourth column on
    found = controls(images)
    assert found["image"][0].tolist() == [[0, 0, 0, 0.5, 0.5, 0.5]] * 6
    assert (
        found["edges"][0].tolist() == [[0, 0, 2, 2, 0, 0]] * 6
    )  # Sobel: (1 + 2 + 1) / 2, no edge at the border
    torch.testing.assert_close(controls(images.mT)["edges"], found["edges"].mT)
    bell = found["centre"][0]
    assert torch.equal(bell, bell.flip(0))
    assert torch.equal(bell, bell.T)
    assert bell[2, 2] / bell[2, 0] == pytest.approx(math.exp((2.5**2 - 0.5**2) / 2 / 1.5**2))


def test_the_random_control_is_as_coarse_as_a_class_activation_map():
    images = random_images(40)
    random = controls(images)["random"]
    assert (
        random.diff(dim=2).abs().max() <= 1 / 8 + 1e-6
    )  # from one of 8x8 places to the next within 8 pixels
    centres = random[:, 4::8, 4::8]
    assert centres.std() > 0.2
    assert not torch.equal(random[0], random[1])
    assert torch.equal(random[:7], controls(images[:7])["random"])
    assert not torch.equal(random, controls(images, seed=1)["random"])


# --- occlusion


@light
@given(
    seed=seeds,
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    zeros=st.floats(0, 1),
    share=st.floats(0, 1),
)
def test_exactly_the_share_of_the_most_relevant_is_replaced(seed, height, width, zeros, share):
    """Of sparse maps, such as a ReLU leaves, too."""
    random = torch.Generator().manual_seed(seed)
    maps = torch.rand(4, height, width, generator=random)
    maps[torch.rand(maps.shape, generator=random) < zeros] = 0
    images = torch.rand(4, 2, height, width, generator=random)
    found = occlude(images, maps, share, occluder="background", seed=seed)
    gone = (found == -1).all(1)
    assert gone.flatten(1).sum(1).tolist() == [round(share * height * width)] * 4
    assert torch.equal(found, torch.where(gone[:, None], -1.0, images))
    for own, removed in zip(maps, gone, strict=True):
        if 0 < removed.sum() < removed.numel():
            assert own[removed].min() >= own[~removed].max()


def test_equal_values_go_at_random():
    images, maps = torch.ones(500, 1, 4, 4), torch.zeros(500, 4, 4)
    maps[:, 0, 0] = 1  # always gone
    gone = (occlude(images, maps, 0.25, occluder="background", seed=0) == -1)[:, 0].float()
    assert gone[:, 0, 0].all()
    shares = gone.mean(0).flatten()[1:]  # of the other 15 pixels 3 each time
    assert (shares - 3 / 15).abs().max() < 4 * math.sqrt(0.2 * 0.8 / 500)
    again, other = (occlude(images, maps, 0.25, occluder="background", seed=seed) for seed in (0, 1))
    assert torch.equal(again[:, 0] == -1, gone.bool())
    assert not torch.equal(other, again)
    # an image's own pixels do not depend on those after it
    assert torch.equal(occlude(images[:9], maps[:9], 0.25, occluder="background"), again[:9])


def test_chunks_do_not_change_the_order(monkeypatch):
    images, maps = torch.ones(7, 1, 5, 5), torch.zeros(7, 5, 5)
    whole = occlude(images, maps, 0.4, occluder="background")
    monkeypatch.setattr(measures, "CHUNK_PIXELS", {"cpu": 2 * 25})
    assert torch.equal(occlude(images, maps, 0.4, occluder="background"), whole)


def test_the_blur_leaves_no_stroke_and_no_flat_image_changes():
    flat = torch.full((1, 3, 16, 24), 0.3)
    torch.testing.assert_close(occlude(flat, torch.rand(1, 16, 24), 1.0, occluder="blur"), flat)
    stroke = torch.full((1, 1, 64, 64), -1.0)
    stroke[..., 28:36] = 1.0
    blurred = occlude(stroke, torch.rand(1, 64, 64), 1.0, occluder="blur")
    # a bar of 8 pixels under a Gaussian of 8: erf(4 / (8 sqrt 2)) of its height
    assert blurred.max() == pytest.approx(2 * math.erf(0.5 / math.sqrt(2)) - 1, abs=0.01)
    assert blurred.amax((2, 3)) - blurred[0, 0, 0, 32] < 1e-6  # no end of the image is darker


def test_uint8_images_are_occluded_in_the_model_s_range():
    images, maps = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([[[3.0, 2.0], [1.0, 0.0]]])
    assert occlude(images, maps, 0.5, occluder="background")[0, 0].tolist() == [[-1, -1], [1, 1]]


def test_curves_of_a_linear_network_by_hand():
    """Contributions above a black image are 8, 4, 2, 1: the score falls by them in that order, or in the reverse."""
    network = linear(torch.tensor([[[4.0, 2.0], [1.0, 0.5]]]), bias=0.5)
    images, maps = torch.ones(1, 1, 2, 2), torch.tensor([[[9.0, 0.3], [0.2, -7.0]]])
    options = {"occluder": "background", "steps": 4}
    most = flipping_curves(network, images, maps, order="most", **options)
    least = flipping_curves(network, images, maps, order="least", **options)
    assert most.tolist() == [[8, 0, -4, -6, -7]]
    assert least.tolist() == [[8, 7, 5, 1, -7]]
    assert occlusion_gap(least, most).tolist() == [(0 + 7 + 9 + 7 + 0) / 4]
    assert occlusion_gap(most, least).tolist() == [-23 / 4]  # the reversed map


@light
@given(seed=seeds, steps=st.integers(1, 40))
def test_no_order_beats_the_contributions_of_a_linear_network(seed, steps):
    random = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, 5, 5, generator=random)
    images = torch.rand(6, 2, 5, 5, generator=random) * 2 - 1
    best = gap(linear(weights), images, (weights * (images + 1)).sum(1), steps=steps)
    other = gap(linear(weights), images, torch.randn(6, 5, 5, generator=random), steps=steps)
    assert (other <= best + 1e-4).all()
    # on any trapezoid the sum of the k highest contributions less that of the k lowest
    ranked = (weights * (images + 1)).sum(1).flatten(1).sort(descending=True)[0].double()
    replaced = [round(k * 25 / steps) for k in range(steps + 1)]
    areas = torch.stack([ranked[:, :k].sum(1) - ranked[:, 25 - k :].sum(1) for k in replaced], 1)
    torch.testing.assert_close(best.double(), torch.trapezoid(areas, dim=1) / steps, rtol=1e-4, atol=1e-4)


def test_a_random_order_has_no_gap_and_a_constant_map_none_at_all():
    weights = random_maps(1, 8)
    images = torch.ones(400, 1, 8, 8)
    found = gap(linear(weights), images, random_maps(400, 8, seed=1))
    assert found.mean().abs() < 4 * found.std() / math.sqrt(400)
    assert found.std() > 0.1
    assert gap(linear(weights), images, torch.zeros(400, 8, 8)).eq(0).all()


@pytest.mark.parametrize("occluder", ["background", "blur"])
def test_insertion_is_the_curve_of_the_least_relevant_from_its_end(occluder):
    network, images, maps = (
        randomised(Discriminator("paper28", width=4)),
        random_images(3, 28),
        random_maps(3, 28),
    )
    least = flipping_curves(network, images, maps, occluder=occluder, order="least", steps=7)
    empty = occlude(images, maps, 1.0, occluder=occluder)
    for k in range(8):
        inserted = empty.clone().flatten(2)
        for i, own in enumerate(maps.flatten(1)):
            pixels = own.argsort(descending=True)[: 112 * k]
            inserted[i, :, pixels] = images.flatten(2)[i, :, pixels]
        torch.testing.assert_close(network(inserted.view_as(images)), least[:, 7 - k], rtol=1e-4, atol=1e-4)


def test_curves_take_any_target_conditions_and_batches_and_leave_the_network_alone():
    network = randomised(ContrastiveClassifier("paper28", width=4)).train()
    before = copy.deepcopy(network)
    images, maps, labels = random_images(7, 28), random_maps(7, 28), torch.arange(7)
    options = {"occluder": "background", "order": "most", "steps": 3}
    curves = flipping_curves(network, images, maps, target=class_logit(labels), batch_size=3, **options)
    assert network.training
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in network.state_dict().items())
    assert not curves.requires_grad
    network.eval()
    for k in range(4):
        shown = occlude(images, maps, k / 3, occluder="background")
        torch.testing.assert_close(
            network(shown).detach()[labels, labels], curves[:, k], rtol=1e-4, atol=1e-4
        )

    told = randomised(Discriminator("paper28", width=4, classes=10))
    curves = flipping_curves(told, images, maps, conditions={"labels": labels}, batch_size=2, **options)
    torch.testing.assert_close(told(images, labels).detach(), curves[:, 0], rtol=1e-4, atol=1e-4)
    flipped = flipping_curves(
        told, images, maps, conditions={"labels": labels}, target=lambda logits: -real(logits), **options
    )
    torch.testing.assert_close(flipped, -curves, rtol=1e-4, atol=1e-4)


# --- randomisation


def weights_of(network):
    return {name: value for name, value in network.state_dict().items() if name.endswith("weight")}


def changed(network, other):
    return {
        name for name, value in weights_of(network).items() if not torch.equal(value, weights_of(other)[name])
    }


ALL_WEIGHTS = [
    f"layers.{i}.weight" for i in (0, 2, 3, 5, 6, 8)
]  # of the paper's network, from the image to the head


@pytest.mark.parametrize(
    ("from_layer", "drawn"),
    [("block3", 1), ("norm3", 2), ("conv3", 3), ("block1", 5), ("conv1", 6), ("layers", 6)],
)
def test_weights_are_drawn_from_the_head_down_to_a_layer(from_layer, drawn, digits):
    network = randomised(Discriminator(width=4)).train()
    before = copy.deepcopy(network)
    found = randomise(network, from_layer=from_layer, seed=0, reference_images=digits[:64])
    assert changed(network, found) == set(ALL_WEIGHTS[-drawn:])
    assert not found.training
    assert network.training
    assert not changed(network, before)
    # the same of what is above, and the statistics of the digits
    everything = randomise(network, from_layer="conv1", seed=0, reference_images=digits[:64])
    for name in ALL_WEIGHTS[-drawn:]:
        assert torch.equal(weights_of(found)[name], weights_of(everything)[name])
    expected = calibrate(found, digits[:64]).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())


def test_weights_have_the_network_s_own_initialisation(digits):
    network, state = randomised(Discriminator(width=16)), torch.random.get_rng_state()
    found = randomise(network, from_layer="conv1", seed=3, reference_images=digits[:8])
    assert torch.equal(torch.random.get_rng_state(), state)
    for i in (0, 2, 5, 8):
        weight = found.layers[i].weight.detach()
        assert weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert found.layers[3].weight.mean().item() == pytest.approx(1, abs=0.02)
    other = randomise(found, from_layer="block3", seed=4, reference_images=digits[:8])
    assert changed(found, other) == {"layers.8.weight"}


def test_embeddings_are_a_part_of_the_head():
    network = randomised(Discriminator("paper28", width=4, classes=10, timed=True))
    images, labels = random_images(6, 28), torch.arange(6)
    told = network.conditions(labels)
    found = randomise(network, from_layer="block3", seed=5, reference_images=images, conditions=told)
    assert changed(network, found) == {"layers.8.weight"}
    torch.manual_seed(5)
    drawn = Discriminator("paper28", width=4, classes=10, timed=True)
    assert torch.equal(found.class_embedding, drawn.class_embedding)
    assert torch.equal(found.time_embedding, drawn.time_embedding)


def test_other_networks_are_drawn_by_their_layers():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 1))
    found = randomise(network, from_layer=network[1], seed=0, reference_images=random_images(5, 8))
    assert changed(network, found) == {"3.weight"}  # BatchNorm starts at 1 here
    assert found[3].weight.abs().max() <= 1 / 12  # uniform up to 1 / sqrt(144), nn.Linear's own
    assert not torch.equal(network[1].running_mean, found[1].running_mean)


def test_the_check_finds_a_map_that_ignores_the_network(digits):
    images, network = digits[:16], calibrate(randomised(Discriminator(width=8)), digits[64:128])
    fooled = randomise(network, from_layer="conv1", seed=0, reference_images=digits[64:128])

    def edges(_network):
        return controls(images)["edges"]

    def hirescam(network):
        return explain(network, images, method="hirescam", evidence="signed")

    kept = {method: rank_correlation(method(network), method(fooled)) for method in (edges, hirescam)}
    assert kept[edges].tolist() == pytest.approx([1] * 16)
    assert kept[hirescam].abs().mean() < 0.5


def test_rank_correlation_is_scipy_s_with_ties():
    a, b = random_maps(5, 9), random_maps(5, 9, seed=1)
    a, b = (a * 2).round(), a + (b * 2).round()
    expected = [spearmanr(own.flatten(), other.flatten()).statistic for own, other in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlation(a, b), expected, atol=1e-6)
    positive = a - a.amin() + 1
    torch.testing.assert_close(rank_correlation(positive, positive**3), torch.ones(5))  # any rising scale
    torch.testing.assert_close(rank_correlation(a, -a), -torch.ones(5))
    assert rank_correlation(a, torch.zeros_like(a)).isnan().all()


# --- noise and sums


def test_noise_sensitivity_is_captum_s_for_one_draw():
    """Of one draw the mean is the maximum; captum's noise is ours, drawn alike."""
    network, images = randomised(Discriminator("paper28", width=4)), random_images(4, 28) * 0.5

    def explainer(shown):
        return explain(network, shown, method="hirescam", evidence="signed")

    def perturb(shown):
        return shown + 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3))

    def for_captum(shown):  # which it gives as a tuple, of one draw as a tensor, and wants as a tuple
        return (explainer(shown[0] if isinstance(shown, tuple) else shown),)

    expected = sensitivity_max(for_captum, images, perturb_func=perturb, n_perturb_samples=1)
    found = noise_sensitivity(explainer, images, sigma=0.01, draws=1, seed=3)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert found.min() > 0


def test_noise_sensitivity_of_known_maps():
    images = torch.zeros(2, 1, 32, 32)
    images[1] = 1.0

    def brightness(shown):
        return shown[:, 0] + 1

    found = noise_sensitivity(brightness, images, sigma=0.1, draws=8, seed=0)
    assert found[0] == pytest.approx(0.1, rel=0.05)  # of maps of 1
    # half of the noise is clipped away at white, and maps are 2
    assert found[1] == pytest.approx(0.05 * math.sqrt(0.5), rel=0.05)
    assert noise_sensitivity(
        lambda shown: torch.ones(2, 3, 3), images, sigma=0.1, draws=2, seed=0
    ).tolist() == [0, 0]
    assert noise_sensitivity(lambda shown: shown[:, 0], images, sigma=0.1, draws=2, seed=0)[0].isnan()
    # of one pixel the mean over draws is that of |n|; the maximum would be four times as much
    pixel = noise_sensitivity(brightness, images[:1, :, :1, :1], sigma=0.1, draws=2000, seed=0)
    assert pixel.item() == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.06)
    as_bytes = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    again, other = (noise_sensitivity(brightness, as_bytes, sigma=0.1, draws=8, seed=seed) for seed in (0, 1))
    assert again == pytest.approx(0.05 * math.sqrt(0.5), rel=0.05)
    assert again != other


def test_complete_methods_have_no_error_and_grad_cam_has():
    network, images = Discriminator("paper28", width=4), random_images(5, 28)
    network.layers[8].bias = nn.Parameter(torch.zeros(1))
    randomised(network)
    scores = network(images).detach()
    at_the_head = {"layer": "block3", "evidence": "signed", "upsample": False}
    maps = {
        method: explain(network, images, method=method, **at_the_head) for method in ("hirescam", "gradcam")
    }
    bias = network.layers[8].bias.item()
    assert completeness_error(maps["hirescam"], scores, bias).max() < 1e-4
    assert completeness_error(maps["gradcam"], scores, bias).min() > 1e-3
    black = torch.full_like(images, -1)
    steps = IntegratedGradients(network).attribute(images, black, n_steps=400).sum(1)
    error = completeness_error(steps, scores, network(black).detach())
    assert error.max() < 0.02 * (scores - network(black).detach()).abs().mean()
    assert completeness_error(torch.ones(1, 2, 2), torch.tensor([7.0]), 1.0).tolist() == [2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_from_a_gpu():
    network, images, maps = (
        randomised(Discriminator("paper28", width=4)),
        random_images(5, 28),
        random_maps(5, 28),
    )
    on_gpu = copy.deepcopy(network).cuda()
    for name, control in controls(images.cuda()).items():
        torch.testing.assert_close(control.cpu(), controls(images)[name], rtol=1e-3, atol=1e-3)
    for occluder in ("background", "blur"):
        expected = gap(network, images, maps, occluder=occluder)
        for own, ranked in ((images, maps.cuda()), (images.cuda(), maps)):
            found = gap(on_gpu, own, ranked, occluder=occluder)
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-2)
    drawn, expected = (
        randomise(d, from_layer="conv3", seed=0, reference_images=images) for d in (on_gpu, network)
    )
    assert drawn.layers[8].weight.is_cuda
    assert torch.equal(drawn.layers[8].weight.cpu(), expected.layers[8].weight)
    assert rank_correlation(maps.cuda(), maps).is_cuda


# --- bad input


def test_bad_input_is_one_line():
    images, maps = random_images(2, 28), random_maps(2, 28)
    network = Discriminator("paper28", width=2)
    curve = {"occluder": "background", "order": "most"}
    assert "share=1.5" in refused(occlude, images, maps, 1.5, occluder="blur")
    assert "did you mean 'blur'" in refused(occlude, images, maps, 0.5, occluder="blurr")
    assert "give (2, 28, 28)" in refused(occlude, images, maps[:1], 0.5, occluder="blur")
    assert "NaN" in refused(occlude, images, maps / 0 * 0, 0.5, occluder="blur")
    assert "order='first'" in refused(flipping_curves, network, images, maps, **{**curve, "order": "first"})
    assert "steps=0" in refused(flipping_curves, network, images, maps, steps=0, **curve)
    assert "'labels'" in refused(
        flipping_curves, network, images, maps, conditions={"labels": torch.zeros(3)}, **curve
    )
    assert "(2, 5)" in refused(occlusion_gap, torch.zeros(2, 5), torch.zeros(2, 6))
    assert "at least one image" in refused(controls, images[0])
    assert "sigma=0" in refused(
        noise_sensitivity, lambda shown: shown[:, 0], images, sigma=0, draws=1, seed=0
    )
    assert "squeeze(1)" in refused(noise_sensitivity, lambda shown: shown, images, sigma=1, draws=1, seed=0)
    assert "b must have shape" in refused(rank_correlation, maps, maps[0])
    assert "1 values for 2" in refused(completeness_error, maps, torch.zeros(1), 0.0)


def test_networks_that_cannot_be_drawn_are_refused():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, images):
            return images * self.scale

    images = random_images(3, 28)
    network = Discriminator("paper28", width=2)
    assert "did you mean 'conv3'" in refused(
        randomise, network, from_layer="conv4", seed=0, reference_images=images
    )
    assert "2 or more" in refused(randomise, network, from_layer="conv3", seed=0, reference_images=images[:1])
    head = [nn.Flatten(), nn.Linear(784, 1)]
    spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 1, 1))
    old_spectral = nn.utils.spectral_norm(nn.Conv2d(1, 1, 1))
    for first, name in ((Scaled(), "scale"), (spectral, "original"), (old_spectral, "weight_orig")):
        message = refused(
            randomise, nn.Sequential(first, *head), from_layer="0", seed=0, reference_images=images
        )
        assert name in message
    network.unused = nn.Conv2d(1, 1, 1)
    assert "never called" in refused(randomise, network, from_layer="unused", seed=0, reference_images=images)

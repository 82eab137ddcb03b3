import pytest
import torch
from helpers import tiny
from torch.nn import functional as F

from gradcam_gan.errors import InputError
from gradcam_gan.explaining.batchnorm import batch_statistics
from gradcam_gan.explaining.cam import explain
from gradcam_gan.models.options import Guidance, Model
from gradcam_gan.training.guidance import Guide
from gradcam_gan.training.objective import Objective

CPU = torch.device("cpu")
MAPS = ["gradcam", "hirescam", "gradient", "gradient-x-input"]


def objective(guidance=None, *, conditional=False, precision="float32", total_images=64):
    model = Model(conditional=conditional, guidance=guidance)
    config = tiny(model=model, batch_size=8, seed=3, width=4)
    return Objective(config, 1, 10, total_images, CPU, precision)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    real = torch.rand(8, 1, 28, 28, generator=generator) * 2 - 1
    latents = torch.randn(8, 100, generator=generator)
    labels, fake_labels = torch.randint(10, (2, 8), generator=generator)
    return real, latents, labels, fake_labels


def after(guidance, steps, **options):
    """The weights of all networks after some steps."""
    trained = objective(guidance, **options)
    for step in range(steps):
        trained.step(*batch(step))
    return [value for network in trained.networks.values() for value in network.state_dict().values()]


def same(one, other):
    return all(torch.equal(*both) for both in zip(one, other, strict=True))


def backward(options, discriminator, images):
    """The gradients of G's loss that come back to the images, plain and guided."""
    (plain,) = torch.autograd.grad(F.softplus(-discriminator(images)).mean(), images)
    guide = Guide(options, discriminator, torch.Generator().manual_seed(0))
    judged = images.view_as(images)
    with guide.watching():
        logits = discriminator(judged)
    guide.weigh(judged, logits)
    (guided,) = torch.autograd.grad(F.softplus(-logits).mean(), images)
    return plain, guided


def weights(options, discriminator, images):
    """1 + alpha M, where the plain gradient is large enough to divide by."""
    plain, guided = backward(options, discriminator, images)
    return torch.where(plain.abs() > plain.abs().mean(), guided / plain, torch.nan)


@pytest.fixture
def judged():
    """A discriminator in training mode, and generated images that ask for a gradient."""
    trained = objective()
    for step in range(3):
        trained.step(*batch(step))
    fake = trained.generator(batch(9)[1]).detach().requires_grad_()
    return trained.discriminator, fake


@pytest.mark.parametrize("evidence", ["real", "fake"])
@pytest.mark.parametrize("source", MAPS)
def test_the_gradient_is_weighted_by_the_map_that_explain_gives(judged, source, evidence):
    discriminator, images = judged
    plain, guided = backward(Guidance(source=source, evidence=evidence, alpha=2), discriminator, images)
    with_batch = batch_statistics(discriminator)
    if source in ("gradcam", "hirescam"):
        maps = explain(with_batch, images, method=source, evidence=evidence)
    else:
        (gradient,) = torch.autograd.grad(with_batch(images).sum(), images)
        signed = (gradient * images.detach() if source == "gradient-x-input" else gradient.abs())[:, 0]
        maps = F.relu(-signed if (source, evidence) == ("gradient-x-input", "fake") else signed)
    maps = maps / maps.amax((1, 2), keepdim=True)
    torch.testing.assert_close(guided, plain * (1 + 2 * maps[:, None]), rtol=1e-3, atol=1e-6)
    assert not torch.allclose(guided, plain, rtol=0.1)


def test_the_scalar_form_is_parallel_to_the_plain_gradient_and_the_pixel_form_is_not(judged):
    def turned(control):
        plain, guided = backward(Guidance(alpha=5, control=control), *judged)
        return float(F.cosine_similarity(plain.flatten(), guided.flatten(), 0)), guided / plain

    cosine, ratio = turned("scalar")
    assert cosine == pytest.approx(1, abs=1e-6)
    assert ratio.min() > 1
    assert turned(None)[0] < 0.999


def test_the_constant_doubles_every_gradient(judged):
    plain, guided = backward(Guidance(alpha=1, control="constant"), *judged)
    torch.testing.assert_close(guided, 2 * plain)


def test_another_image_lends_its_weights(judged):
    own, lent = (weights(Guidance(control=control), *judged) for control in (None, "another-image"))
    both = own.roll(1, 0), lent
    known = ~torch.stack(both).isnan().any(0)
    torch.testing.assert_close(both[0][known], both[1][known])


def test_shuffling_moves_the_map_and_keeps_its_values(judged):
    guide = Guide(Guidance(control="shuffled"), judged[0], torch.Generator().manual_seed(0))
    signed = -torch.arange(8 * 9.0).view(8, 3, 3)
    images = torch.zeros(8, 1, 3, 3)  # as large as the map
    shuffled = guide._controlled(signed, images)
    assert torch.equal(
        shuffled.flatten(1).sort(1).values, (-signed / -signed.amin((1, 2), keepdim=True)).flatten(1)
    )
    assert not torch.equal(shuffled.flatten(1).sort(1).values, shuffled.flatten(1))


def test_weights_that_preserve_the_mean_have_a_mean_of_one(judged):
    plain, own = (weights(Guidance(alpha=5, preserve_mean=kept), *judged) for kept in (False, True))
    ratio = (own / plain).flatten(1)
    assert (ratio.nan_to_num(-1).amax(1) < 1).all()
    spread = ratio.nan_to_num(-1).amax(1) - ratio.nan_to_num(9).amin(1)
    torch.testing.assert_close(spread, torch.zeros(8), atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("conditional", [False, True])
def test_without_alpha_it_is_plain_training_bit_for_bit(conditional, precision):
    options = {"conditional": conditional, "precision": precision}
    plain = after(None, 4, **options)
    assert same(after(Guidance(alpha=0, start=0), 4, **options), plain)
    assert not same(after(Guidance(alpha=1, start=0), 4, **options), plain)


def test_it_begins_after_its_share_of_the_training():
    late = Guidance(start=0.5)  # of eight iterations
    assert same(after(late, 4), after(None, 4))
    assert not same(after(late, 5), after(None, 5))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"alpha": -1}, "alpha=-1"), ({"source": "lime"}, "source='lime'"), ({"start": 1.5}, "start=1.5")],
)
def test_impossible_guidance_is_one_line(options, said):
    with pytest.raises(InputError, match=said) as caught:
        Guidance(**options)
    assert "\n" not in str(caught.value)

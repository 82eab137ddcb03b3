import gradcam_gan.torchvision_compat  # noqa: F401  (first: makes torchvision importable beside a CPU torch)

# isort: split
import copy

import numpy as np
import pytest
import torch
from helpers import randomised, refused
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import nn

from gradcam_gan.explaining.batchnorm import calibrate, real_fake_accuracy
from gradcam_gan.explaining.cam import explain, signed_maps
from gradcam_gan.models.dcgan import Discriminator

LABELS, TIMES = torch.tensor([3, 0, 9, 3, 7]), torch.tensor([0, 1, 10, 100, 1000])
TOLD = {"labels": LABELS, "times": TIMES}


def random_images(count):
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


def projection(**options):
    return randomised(Discriminator("paper28", width=2, **{"classes": 10, "timed": True, **options}))


class Bound(nn.Module):
    """A discriminator that is told the same class and time whatever the images: what other libraries can call."""

    def __init__(self, discriminator, **told):
        super().__init__()
        self.discriminator, self.told = discriminator, told

    def forward(self, images):
        return self.discriminator(images, **self.told)


def networks_to_explain():
    return {
        "conditional": (projection(timed=False), {"labels": LABELS}),
        "timed": (projection(classes=0), {"times": TIMES}),
        "both": (projection(), TOLD),
        "group": (projection(normalisation="group"), TOLD),
    }


NAMES = list(networks_to_explain())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block", ["block1", "block2", "block3"])
def test_agrees_with_pytorch_grad_cam(name, block):
    network, told = networks_to_explain()[name]
    images = random_images(5)
    ours = explain(network, images, layer=block, conditions=told)
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
    maps = explain(network, images, method="hirescam", evidence="signed", upsample=False, conditions=told)
    logits = network(images, **told).detach()
    torch.testing.assert_close(maps.sum((1, 2)), logits, rtol=1e-5, atol=1e-5)
    assert logits.abs().max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_batches_carry_their_own_conditions(name):
    network, told = networks_to_explain()[name]
    images = random_images(5)
    (maps, logits), (whole, expected) = (
        signed_maps(network, images, batch_size=size, conditions=told) for size in (2, 256)
    )
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, network(images, **told).detach(), rtol=1e-4, atol=1e-5)
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


@pytest.mark.parametrize("name", ["labels", "times"])
@pytest.mark.parametrize("count", [1, 6])
def test_a_condition_of_another_length_is_refused(name, count):
    told = {**TOLD, name: torch.zeros(count, dtype=torch.int64)}
    message = refused(explain, projection(), random_images(5), conditions=told)
    assert message == f"conditions['{name}'] has {count} values for 5 images; give one for each"


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

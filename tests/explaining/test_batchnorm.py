import copy

import pytest
import torch
from helpers import randomised, refused
from torch import nn

from gradcam_gan.data import to_model_range
from gradcam_gan.explaining.batchnorm import batch_statistics, calibrate, real_fake_accuracy, settle
from gradcam_gan.explaining.cam import explain
from gradcam_gan.models.dcgan import Discriminator


def discriminator(seed=0):
    torch.manual_seed(seed)
    return Discriminator("paper28", width=2).train()


def uint8_images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)


def statistics(model):
    return {name: buffer for name, buffer in model.named_buffers() if "running" in name}


def assert_unchanged(model, before):
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert all(p.grad is None for p in model.parameters())


def test_one_batch_gives_the_statistics_of_the_set():
    model, images = discriminator(), uint8_images(12)
    calibrated = calibrate(model, images)
    features = model.layers[:3](to_model_range(images)).detach()
    torch.testing.assert_close(calibrated.layers[3].running_mean, features.mean((0, 2, 3)))
    torch.testing.assert_close(calibrated.layers[3].running_var, features.var((0, 2, 3)))
    # the second layer sees what the first normalised
    features = copy.deepcopy(model).layers[:6](to_model_range(images)).detach()
    torch.testing.assert_close(calibrated.layers[6].running_mean, features.mean((0, 2, 3)))


def test_every_image_weighs_the_same_and_order_does_not_matter():
    model, images = discriminator(), uint8_images(24)
    images[-8:] //= 8  # an odd last third, which a short last batch would overweight
    first = model.layers[:3](to_model_range(images)).detach()
    for batch_size in (8, 11, 12, 23):  # 3x8, 3x8, 2x12, 2x12
        calibrated = calibrate(model, images, batch_size=batch_size)
        torch.testing.assert_close(calibrated.layers[3].running_mean, first.mean((0, 2, 3)))
    forth, back = (
        calibrate(model, part, batch_size=8)
        for part in (images, images.view(3, 8, 1, 28, 28).flip(0).view_as(images))
    )
    for name, value in statistics(forth).items():
        torch.testing.assert_close(value, statistics(back)[name])


def test_calibration_forgets_what_was_there_and_is_deterministic():
    model, images = discriminator(), uint8_images(10)
    spoiled = copy.deepcopy(model)
    for name, buffer in statistics(spoiled).items():
        buffer.fill_(7.0 if "mean" in name else 9.0)
    for layer in (spoiled.layers[3], spoiled.layers[6]):
        layer.num_batches_tracked.fill_(5)
    expected = statistics(calibrate(model, images, batch_size=5))
    for other in (spoiled, model):
        found = statistics(calibrate(other, images, batch_size=5))
        assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_the_copy_is_in_eval_mode_with_its_momentum_and_the_original_untouched():
    model = discriminator()
    model.layers[3].momentum = 0.3
    before = copy.deepcopy(model)
    calibrated = calibrate(model, uint8_images(10), batch_size=4)
    assert not any(module.training for module in calibrated.modules())
    assert (calibrated.layers[3].momentum, calibrated.layers[6].momentum) == (0.3, 0.1)
    assert not torch.equal(calibrated.layers[3].running_var, model.layers[3].running_var)
    assert all(torch.equal(p, q) for p, q in zip(calibrated.parameters(), model.parameters(), strict=True))
    assert_unchanged(model, before)
    explain(calibrated, uint8_images(3))


def test_only_batchnorm_trains_during_calibration():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Dropout(0.5), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(1352, 1)
    )
    images = uint8_images(6)
    expected = model[0](to_model_range(images)).detach().mean((0, 2, 3))
    torch.testing.assert_close(calibrate(model, images)[2].running_mean, expected)


def test_a_layer_without_running_statistics_gets_them():
    model, images = discriminator(), uint8_images(10)
    expected = statistics(calibrate(model, images, batch_size=5))
    found = statistics(calibrate(batch_statistics(model), images, batch_size=5))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_models_without_batchnorm_and_with_old_spectral_norm():
    model = nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(1, 1, 28)), nn.Flatten(0)).train()
    model(torch.zeros(2, 1, 28, 28))  # leaves a computed weight, which deepcopy alone refuses
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = uint8_images(4)
    for copied in (calibrate(model, images), settle(model, images, images), batch_statistics(model)):
        assert copied is not model
        assert all(torch.equal(value, before[name]) for name, value in copied.state_dict().items())
        assert not copied.training
    assert model.training


def test_batch_statistics_are_those_of_the_batch():
    model, images = discriminator(), to_model_range(uint8_images(8))
    before = copy.deepcopy(model)
    by_batch = batch_statistics(model)
    assert_unchanged(model, before)
    assert not by_batch.training
    assert all(
        module.running_mean is None for module in by_batch.modules() if isinstance(module, nn.BatchNorm2d)
    )
    torch.testing.assert_close(by_batch(images), copy.deepcopy(model).train()(images))
    assert not torch.allclose(by_batch(images)[:4], by_batch(images[:4]))


def planted():
    """A D with a brightness logit whose running statistics put every image on the same side of 0."""
    model = nn.Sequential(nn.AvgPool2d(28), nn.BatchNorm2d(1), nn.Flatten(0))
    model[1].running_mean.fill_(-5.0)
    real, fake = torch.full((6, 1, 28, 28), 0.5), torch.full((4, 1, 28, 28), -0.5)
    return model, real, fake


def test_accuracy_in_each_mode():
    model, real, fake = planted()
    before = copy.deepcopy(model)
    # running: all "real"; reference (mean 0): all right; batch: logits exactly 0 = "fake"
    accuracy = real_fake_accuracy(model, real, fake, reference=torch.cat([real[:4], fake]))
    assert accuracy == {"running": 0.5, "batch": 0.5, "reference": 1.0}
    assert list(accuracy) == ["running", "batch", "reference"]
    assert_unchanged(model, before)


def test_a_logit_of_exactly_0_means_fake():
    model = nn.Sequential(nn.AvgPool2d(28), nn.Flatten(0))
    zeros, bright = torch.zeros(3, 1, 28, 28), torch.ones(3, 1, 28, 28)
    assert real_fake_accuracy(model, bright, zeros, reference=bright)["running"] == 1.0
    assert real_fake_accuracy(model, zeros, zeros, reference=bright)["running"] == 0.5
    assert real_fake_accuracy(model, zeros, -bright, reference=bright)["running"] == 0.5


def test_accuracy_equals_its_definition_whatever_the_input_form():
    model, images = discriminator(3), uint8_images(30, seed=3)
    model.layers[0].weight.data *= 50
    real, fake, reference = images[:9], images[9:20] // 2, images[20:]
    expected = {}
    for mode, evaluated in {
        "running": copy.deepcopy(model).eval(),
        "batch": batch_statistics(model),
        "reference": calibrate(model, reference),
    }.items():
        called = [(evaluated(to_model_range(part)) > 0).float().mean() for part in (real, fake)]
        expected[mode] = pytest.approx(float(called[0] + 1 - called[1]) / 2)
    assert real_fake_accuracy(model, real, fake, reference=reference) == expected
    as_float = [to_model_range(part) for part in (real, fake, reference)]
    assert real_fake_accuracy(model, *as_float[:2], reference=as_float[2]) == expected


def settled_by_loop(model, real, generated, told):
    """36 batches of 64, real, generated, generated, of a network of which BatchNorm alone is in training mode."""
    looped, random = copy.deepcopy(model).eval(), torch.Generator().manual_seed(0)
    for module in looped.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    for kind in ("real", "generated", "generated") * 12:
        images = {"real": real, "generated": generated}[kind]
        chosen = torch.randint(len(images), (64,), generator=random)
        with torch.no_grad():
            looped(
                to_model_range(images)[chosen],
                **{name: values[chosen] for name, values in told[kind].items()},
            )
    return looped


@pytest.mark.parametrize("classes", [0, 10])
def test_settled_statistics_are_those_of_a_plain_loop(classes):
    model = randomised(Discriminator("paper28", width=2, classes=classes)).train()
    model.layers[3].momentum, model.layers[6].training = 0.02, False
    before, real, generated = copy.deepcopy(model), uint8_images(9), uint8_images(70, seed=1) // 3
    told = {"real": {}, "generated": {}}
    if classes:
        told = {"real": {"labels": torch.arange(9)}, "generated": {"labels": torch.arange(70) % 10}}
    settled, expected = (
        make(model, real, generated, **given)
        for make, given in ((settle, {"conditions": told}), (settled_by_loop, {"told": told}))
    )
    assert statistics(settled).keys() == statistics(expected).keys() == statistics(model).keys()
    for name, value in statistics(expected).items():
        torch.testing.assert_close(statistics(settled)[name], value)
        assert not torch.equal(value, statistics(model)[name])
    # what the statistics were counts for 0.98^36 at one layer, for 0.9^36 at the other
    assert [settled.layers[number].num_batches_tracked.item() for number in (3, 6)] == [36, 36]
    assert [settled.layers[number].momentum for number in (3, 6)] == [0.02, 0.1]
    assert all(torch.equal(p, q) for p, q in zip(settled.parameters(), model.parameters(), strict=True))
    assert not any(module.training for module in settled.modules())
    assert_unchanged(model, before)
    assert torch.equal(
        settle(model, real, generated, conditions=told).layers[3].running_mean, settled.layers[3].running_mean
    )


def test_statistics_that_fit_stay_and_only_batchnorm_trains_while_they_settle():
    """Dropout in training mode would move the variance; a layer without running statistics has none to settle."""
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1), nn.AvgPool2d(28), nn.Flatten(0))
    grey = torch.full((3, 1, 28, 28), 0.25)
    model[1].running_mean.fill_(0.25)
    model[1].running_var.fill_(0.0)
    settled = settle(model, grey, grey)
    torch.testing.assert_close(settled[1].running_mean, torch.tensor([0.25]))
    torch.testing.assert_close(settled[1].running_var, torch.tensor([0.0]))
    assert settle(batch_statistics(model), grey, grey)[1].running_mean is None


def test_errors_name_the_argument():
    model, images = discriminator(), uint8_images(4)
    message = "reference_images has 1 images and batch_size=256; a variance needs 2"
    assert message in refused(calibrate, model, images[:1])
    assert "batch_size=1; a variance needs 2" in refused(calibrate, model, images, batch_size=1)
    beyond = torch.linspace(0, 255, 1568).view(2, 1, 28, 28)
    assert "reference_images has values from 0 to 255" in refused(calibrate, model, beyond)
    message = "takes images of shape (N, 1, 28, 28)"
    assert message in refused(calibrate, model, torch.zeros(2, 1, 64, 64))
    for name in ("real", "fake", "reference_images"):
        given = {"real": images, "fake": images, "reference": images}
        given[name.removesuffix("_images")] = images[0]
        assert f"{name} has shape" in refused(real_fake_accuracy, model, **given)
    for name in ("real", "generated"):
        given = {"real": images, "generated": images}
        assert f"{name} has shape" in refused(settle, model, **{**given, name: images[0]})
        told = {name: {"labels": torch.zeros(5)}}
        message = refused(settle, model, **given, conditions=told)
        assert message == f"conditions[{name!r}]['labels'] has 5 values for 4 images; give one for each"


def test_reference_statistics_are_of_images_with_their_conditions():
    class Brightened(nn.Module):
        """Adds the label to the image before BatchNorm, which then sees it."""

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, images, labels):
            return self.norm(images + labels[:, None, None, None]).mean((1, 2, 3))

    images = uint8_images(6)
    labels = torch.arange(6)
    calibrated = calibrate(Brightened(), images, batch_size=2, conditions={"labels": labels})
    expected = to_model_range(images).mean() + 2.5
    torch.testing.assert_close(calibrated.norm.running_mean, expected[None])


def test_accuracy_tells_real_fake_and_reference_images_their_own_conditions():
    class Told(nn.Module):
        """Its logit is the label, less the mean label of the images that it was calibrated on."""

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, images, labels):
            return self.norm(labels[:, None].float())[:, 0]

    images = uint8_images(4)
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

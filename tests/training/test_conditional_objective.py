import copy
import json
import random

import helpers
import pandas as pd
import pytest
import torch
from helpers import refused
from PIL import Image
from torch.nn import functional as F

from gradcam_gan.data import load_images
from gradcam_gan.errors import InputError
from gradcam_gan.models.conditional import supervised_contrast
from gradcam_gan.models.diffusion import ForwardDiffusion
from gradcam_gan.models.options import ClassifierOptions, Diffusion, Model
from gradcam_gan.training import files, loop
from gradcam_gan.training.conditional_objective import ConditionalObjective
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import fixed_latents, train, training_images
from gradcam_gan.training.objective import DCGANObjective
from gradcam_gan.training.runs import load_run

CPU = torch.device("cpu")
CLOCK = ["seconds", "images_per_second"]
NONE = Diffusion(shortest=0, longest=0)  # diffuses nothing
OPEN = Diffusion(shortest=10, longest=300, target=None, rise=1.0)
DUDGAN = Model(
    diffusion=Diffusion(shortest=10, longest=1000),
    classifier=ClassifierOptions(),
    gradient_penalty=2.0,
    averaging=0.9,
)
MODELS = {
    "conditional": Model(),
    "diffusion": Model(conditional=False, diffusion=Diffusion()),
    "conditional diffusion": Model(diffusion=Diffusion(), normalisation="group"),
    "dudgan": DUDGAN,
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def tiny(**changes):
    return helpers.tiny(**{"train_images": 128, **changes})


def make(model, *, precision="float32", total_images=1000, **options):
    config = tiny(model=model, **{"batch_size": 8, "seed": 3, **options})
    return ConditionalObjective(config, 1, 10, total_images, CPU, precision)


def batch(seed=0, count=8, classes=3):
    """Real images, latents, their classes and those to generate."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.rand(count, 1, 28, 28, generator=generator) * 2 - 1
    latents = torch.randn(count, 100, generator=generator)
    labels, fake_labels = torch.randint(classes, (2, count), generator=generator)
    return real, latents, labels, fake_labels


def parameters(objective):
    return {
        name: [parameter.detach().clone() for parameter in network.parameters()]
        for name, network in objective.networks.items()
    }


def learned_in(objective, step):
    """The networks whose parameters a step changes, and those that it leaves a gradient at."""
    before = parameters(objective)
    step()
    changed = {
        name
        for name, now in parameters(objective).items()
        if any(not torch.equal(one, other) for one, other in zip(now, before[name], strict=True))
    }
    graded = {
        name
        for name, network in objective.networks.items()
        if any(parameter.grad is not None for parameter in network.parameters())
    }
    return changed, graded


def snapshot(objective):
    """Everything that a step may change, the random state among it."""
    weights = {
        f"{name}.{key}": tensor.clone()
        for name, network in objective.networks.items()
        for key, tensor in network.state_dict().items()
    }
    state = {name: tensor.clone() for name, tensor in objective.state().items()}
    return weights | state | {"random": objective.random.get_state()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


# --- who learns in which step


def generator_step(objective):
    _, latents, _, fake_labels = batch()
    fake = objective.generator(latents, fake_labels if objective.model.conditional else None)
    return lambda: objective._generator_step(fake, fake_labels, {})


@every_model
def test_in_gs_step_g_learns_and_the_others_get_no_gradient(model):
    objective = make(model)
    assert learned_in(objective, generator_step(objective)) == ({"generator"}, {"generator"})
    assert all(parameter.grad.any() for parameter in objective.generator.parameters())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_g_learns_through_d_and_through_c(share):
    objective = make(Model(classifier=ClassifierOptions(share_in_generator=share)))
    passed = {"discriminator": 0, "classifier": 0}
    for name in passed:

        def count(gradient, name=name):
            passed[name] += bool(gradient.any())

        def listen(module, inputs, output, count=count):
            output.register_hook(count)

        objective.networks[name].layers[0].register_forward_hook(listen)
    learned_in(objective, generator_step(objective))
    assert passed == {"discriminator": share == 0, "classifier": share == 1}


def test_in_cs_step_only_c_learns():
    objective = make(DUDGAN)
    real, _, labels, _ = batch()
    found = learned_in(objective, lambda: objective._classifier_step(real, labels, DUDGAN.classifier, {}))
    assert found == ({"classifier"}, {"classifier"})


@every_model
def test_in_ds_step_only_d_learns(model):
    objective = make(model)
    real, _, labels, fake_labels = batch()
    with torch.no_grad():
        fake = torch.rand_like(real)
    found = learned_in(objective, lambda: objective._discriminator_step(real, labels, fake, fake_labels, {}))
    assert found == ({"discriminator"}, {"discriminator"})


@every_model
def test_a_step_teaches_every_network_and_leaves_them_all_able_to_learn(model):
    objective = make(model)
    learning = {"discriminator", "generator"} | ({"classifier"} if model.classifier else set())
    changed, graded = learned_in(objective, lambda: objective.step(*batch()))
    assert changed == learning | ({"generator_average"} if model.averaging else set())
    assert graded == learning
    assert set(objective.optimisers) == learning
    for name in learning:
        assert all(parameter.requires_grad for parameter in objective.networks[name].parameters())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Model(), ["discriminator", "generator"]),
        (Model(diffusion=Diffusion()), ["discriminator", "generator"]),
        (DUDGAN, ["classifier", "generator", "discriminator"]),
    ],
    ids=["conditional", "diffusion", "dudgan"],
)
def test_the_order_of_the_steps_is_the_methods(model, expected):
    objective, order = make(model), []
    update = objective._update

    def record(name, loss):
        order.append(name)
        update(name, loss)

    objective._update = record
    objective.step(*batch())
    assert order == expected


# --- the losses


def contrast(embeddings, labels, temperature):
    """SupCon with plain loops."""
    losses = []
    for i in range(len(labels)):
        similarity = embeddings @ embeddings[i] / temperature
        others = [a for a in range(len(labels)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            total = similarity[others].exp().sum().log()
            losses.append(-(similarity[positives] - total).mean())
    return torch.stack(losses).mean()


def plain_step(networks, model, real, latents, labels, fake_labels):
    """DuDGAN's step without diffusion, as a textbook would have it; statistics and gradients by network."""
    networks, options = copy.deepcopy(networks), model.classifier
    d, g, c = (networks[name] for name in ("discriminator", "generator", "classifier"))
    ones, zeros, clean = torch.ones(len(real)), torch.zeros(len(real)), torch.zeros_like(labels)
    both = torch.cat([labels, labels])

    embeddings, logits = c.both(torch.cat([real, real]))
    loss_contrast, loss_classes = contrast(embeddings, both, 0.07), F.cross_entropy(logits, both)
    (0.95 * loss_contrast + 0.05 * loss_classes).backward()
    gradients = {"classifier": [parameter.grad.clone() for parameter in c.parameters()]}
    torch.optim.AdamW(c.parameters(), 2.5e-4, weight_decay=0.01).step()

    fake = g(latents, fake_labels)
    loss_adversarial = F.binary_cross_entropy_with_logits(d(fake, fake_labels, clean), ones)
    embeddings, _ = c.both(fake)
    generator_contrast = contrast(embeddings, fake_labels, 0.07)
    share = options.share_in_generator
    loss_generator = (1 - share) * loss_adversarial + share * generator_contrast
    gradients["generator"] = torch.autograd.grad(loss_generator, list(g.parameters()), retain_graph=True)

    logits_real, logits_fake = d(real, labels, clean), d(fake.detach(), fake_labels, clean)
    loss_real = F.binary_cross_entropy_with_logits(logits_real, ones)
    loss_fake = F.binary_cross_entropy_with_logits(logits_fake, zeros)
    watched = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(d(watched, labels, clean).sum(), watched, create_graph=True)
    penalty = gradient.pow(2).sum() / len(real)
    loss = loss_real + loss_fake + 16 * model.gradient_penalty / 2 * penalty
    gradients["discriminator"] = torch.autograd.grad(loss, list(d.parameters()))

    statistics = {
        "loss_discriminator": loss_real + loss_fake,
        "loss_generator": loss_generator,
        "d_real": logits_real.sigmoid().mean(),
        "d_fake": logits_fake.sigmoid().mean(),
        "overconfidence": (logits_real > 0).float().mean() - (logits_real < 0).float().mean(),
        "discriminator_horizon": torch.tensor(0.0),
        "loss_contrast": loss_contrast,
        "loss_classes": loss_classes,
        "generator_contrast": generator_contrast,
        "classifier_horizon": torch.tensor(0.0),
    }
    return statistics, gradients


@pytest.mark.parametrize("share", [0.05, 0.6])
@pytest.mark.parametrize("gamma", [0.0, 3.0])
def test_a_step_without_diffusion_is_the_textbook_step(share, gamma):
    options = ClassifierOptions(diffusion=NONE, share_in_generator=share)
    model = Model(diffusion=NONE, classifier=options, gradient_penalty=gamma)
    objective = make(model, width=4)
    statistics, gradients = plain_step(objective.networks, model, *batch())
    found = dict(zip(objective.statistics, objective.step(*batch()), strict=True))
    assert list(found) == list(statistics)
    for name, expected in statistics.items():
        torch.testing.assert_close(found[name], expected.detach(), rtol=1e-4, atol=1e-6, msg=name)
    for name, expected in gradients.items():
        for parameter, gradient in zip(objective.networks[name].parameters(), expected, strict=True):
            scale = gradient.abs().max().item()
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4 * scale + 1e-9)


def test_c_has_adamw_with_its_own_options_and_the_others_the_runs_adam():
    options = ClassifierOptions(learning_rate_ratio=3, weight_decay=0.2)
    objective = make(Model(classifier=options), learning_rate=1e-3, beta1=0.4, beta2=0.9)
    kinds = {name: type(optimiser) for name, optimiser in objective.optimisers.items()}
    adam, adamw = torch.optim.Adam, torch.optim.AdamW
    assert kinds == {"discriminator": adam, "generator": adam, "classifier": adamw}
    (group,) = objective.optimisers["classifier"].param_groups
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(3e-3), 0.2)
    for name in ("discriminator", "generator"):
        (group,) = objective.optimisers[name].param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.4, 0.9), 0)


def test_d_is_told_the_times_of_the_very_images_that_it_sees():
    diffusion = Diffusion(shortest=200, longest=200, sigma=0.0)
    objective, seen = make(Model(diffusion=diffusion)), []
    d = objective.discriminator
    d.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    real, latents, labels, fake_labels = batch()
    objective.step(torch.ones_like(real), latents, labels, fake_labels)
    (diffused, told, times), (_, fake_told, fake_times), (_, last_told, last_times) = seen
    shares = torch.cat([torch.ones(1), (1 - torch.linspace(1e-4, 2e-2, 200)).cumprod(0)])
    expected = shares[times].sqrt()[:, None, None, None].expand_as(diffused)
    torch.testing.assert_close(diffused, expected)
    assert torch.equal(told, labels)
    assert torch.equal(fake_told, fake_labels)
    assert torch.equal(last_told, fake_labels)
    drawn = {tuple(some.tolist()) for some in (times, fake_times, last_times)}
    assert len(drawn) == 3  # real and generated images have times of their own


@pytest.mark.parametrize(("step", "count"), [("classifier", 2), ("generator", 1)])
def test_c_sees_independent_diffusions_two_of_a_real_image_and_one_of_a_generated_one(step, count):
    diffusion = Diffusion(shortest=300, longest=300, sigma=0.0)
    objective = make(Model(classifier=ClassifierOptions(diffusion=diffusion)), batch_size=16)
    classifier, seen = objective.networks["classifier"], []
    both = classifier.both
    classifier.both = lambda images: seen.append(images.detach()) or both(images)
    real, latents, labels, fake_labels = batch(count=16)
    objective.step(real, latents, labels, fake_labels)
    with torch.no_grad():
        images = (
            real if step == "classifier" else make(objective.model).generator.train()(latents, fake_labels)
        )
    assert len(seen) == 2
    views = seen[0 if step == "classifier" else 1]
    assert views.shape == (16 * count, 1, 28, 28)
    images = images.repeat(count, 1, 1, 1)
    contrasts = (views * images).sum((1, 2, 3)) / images.square().sum((1, 2, 3))
    expected = contrasts[:, None, None, None] * images
    torch.testing.assert_close(views, expected, rtol=1e-4, atol=1e-6)
    if count == 2:
        assert not torch.allclose(*contrasts.split(16))
    assert {float(c) for c in contrasts.round(decimals=3)} > {1.0}


def test_d_and_c_have_a_diffusion_each():
    objective = make(DUDGAN, total_images=400)
    one, other = (objective.networks[f"{name}_diffusion"] for name in ("discriminator", "classifier"))
    assert one is not other
    assert not torch.equal(one.times, other.times)
    assert one.options == DUDGAN.diffusion
    assert other.options == DUDGAN.classifier.diffusion
    assert one.total_images == other.total_images == 400
    for i in range(8):
        objective.step(*batch(i))
    assert other.horizon == 10 + round(290 * 8 * 8 / 400)  # an open loop
    assert one.horizon != other.horizon


def test_every_fourth_iteration_moves_the_horizons_by_ds_mean_sign(monkeypatch):
    objective, calls, signs = make(DUDGAN), [], []
    iteration = 0
    monkeypatch.setattr(
        ForwardDiffusion,
        "update",
        lambda self, images, sign: calls.append((iteration, self is objective.networks[D], images, sign)),
    )
    D = "discriminator_diffusion"
    for iteration in range(1, 9):
        statistics = dict(zip(objective.statistics, objective.step(*batch(iteration)).tolist(), strict=True))
        signs.append(statistics["overconfidence"])
    means = [pytest.approx(sum(part) / 4) for part in (signs[:4], signs[4:])]
    assert sum(signs[:4]) != 0  # or a sum that is never emptied would go unseen
    assert calls == [
        (4, True, 32, means[0]),
        (4, False, 32, means[0]),
        (8, True, 32, means[1]),
        (8, False, 32, means[1]),
    ]


class TestGradientPenalty:
    def test_it_is_the_mean_squared_gradient_at_the_undiffused_image(self):
        model = Model(diffusion=Diffusion(shortest=500), normalisation="group", gradient_penalty=1.0)
        objective = make(model)
        real, _, labels, _ = batch()
        squares = []
        for image, label in zip(real, labels, strict=True):
            watched = image[None].clone().requires_grad_()
            objective.discriminator(watched, label[None], torch.zeros(1, dtype=torch.int64)).backward()
            squares.append(watched.grad.square().sum())
        found = objective._squared_gradient(real, labels)
        torch.testing.assert_close(found, torch.stack(squares).mean())
        assert found > 0
        assert not real.requires_grad

    def test_it_has_a_gradient_for_d(self):
        """By finite differences along a random direction of the weights, in double precision."""
        objective = make(Model(normalisation="group", gradient_penalty=1.0))
        real, _, labels, _ = batch()
        real, weights = real.double(), list(objective.discriminator.double().parameters())
        gradients = torch.autograd.grad(
            objective._squared_gradient(real, labels), weights, allow_unused=True, materialize_grads=True
        )
        generator = torch.Generator().manual_seed(0)
        direction = [torch.randn(w.shape, generator=generator).double() * w.detach().std() for w in weights]
        slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))

        def moved(by):
            for weight, d in zip(weights, direction, strict=True):
                weight.data.add_(d, alpha=by)
            value = objective._squared_gradient(real, labels).item()
            for weight, d in zip(weights, direction, strict=True):
                weight.data.sub_(d, alpha=by)
            return value

        step = 1e-7
        assert slope.item() == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=1e-3)
        assert slope != 0

    @pytest.mark.parametrize(("gamma", "expected"), [(1.0, [0, 16, 32]), (0.0, [])])
    def test_it_comes_every_sixteenth_iteration(self, monkeypatch, gamma, expected):
        objective, found = make(Model(gradient_penalty=gamma)), []
        original = objective._squared_gradient

        def record(*arguments):
            found.append(int(objective.iteration))
            return original(*arguments)

        objective._squared_gradient = record
        for i in range(33):
            assert int(objective.iteration) == i
            objective.step(*batch(i))
        assert found == expected


def test_the_moving_average_follows_g():
    objective = make(Model(averaging=0.75))
    average = objective.networks["generator_average"]
    assert_same(average.state_dict(), objective.generator.state_dict())
    for i in range(3):
        before = [parameter.clone() for parameter in average.parameters()]
        objective.step(*batch(i))
        new = list(objective.generator.parameters())
        for mean, old, now in zip(average.parameters(), before, new, strict=True):
            torch.testing.assert_close(mean, 0.75 * old + 0.25 * now)
            assert not mean.requires_grad
        assert_same(dict(average.named_buffers()), dict(objective.generator.named_buffers()))


@every_model
def test_the_same_seed_trains_to_the_same_bits(model):
    results = []
    for disturbance in range(2):
        torch.manual_seed(disturbance)  # the global random state must not matter
        before = torch.get_rng_state()
        objective = make(model)
        statistics = torch.stack([objective.step(*batch(i)) for i in range(5)])
        assert torch.equal(torch.get_rng_state(), before)
        results.append({**snapshot(objective), "statistics": statistics})
    assert_same(*results)
    assert not torch.equal(
        make(model, seed=4).generator.layers[0].weight, make(model).generator.layers[0].weight
    )


@every_model
def test_the_state_is_live_and_all_that_it_takes_to_go_on(model):
    objective = make(model)
    for i in range(3):
        objective.step(*batch(i))
    saved = snapshot(objective)
    assert int(saved["iteration"]) == 3
    if model.diffusion:
        assert saved["sign_sum"] != 0
    restored = make(model, seed=9)
    restored.step(*batch(7))
    for name, network in restored.networks.items():
        network.load_state_dict({key: saved[f"{name}.{key}"] for key in network.state_dict()})
    for name, tensor in restored.state().items():
        tensor.copy_(saved[name])
    restored.random.set_state(saved["random"])
    for i in range(3, 17):
        assert torch.equal(objective.step(*batch(i)), restored.step(*batch(i)))
    assert_same(snapshot(objective), snapshot(restored))


def test_a_bfloat16_step_is_close_and_keeps_its_weights_in_float32():
    model = Model(
        diffusion=NONE, classifier=ClassifierOptions(diffusion=NONE), gradient_penalty=1.0, averaging=0.9
    )
    expected = make(model, width=8).step(*batch())
    objective = make(model, width=8, precision="bfloat16")
    torch.testing.assert_close(objective.step(*batch()), expected, rtol=0.02, atol=0.02)
    dtypes = {tensor.dtype for network in objective.networks.values() for tensor in network.parameters()}
    assert dtypes == {torch.float32}


# --- reductions, through the training loop


def tensors(run, name):
    """A network's tensors after every epoch."""
    return [
        files.read_tensors(run.path / f"checkpoints/epoch-{epoch:04d}/{name}.safetensors")
        for epoch in range(run.config.epochs + 1)
    ]


def assert_equal_where_shared(run, reference):
    """The same history and, in all epochs, bit for bit the same tensors, of those that the reference has."""
    for name in ("discriminator", "generator"):
        for found, expected in zip(tensors(run, name), tensors(reference, name), strict=True):
            assert not [key for key in expected if not torch.equal(found[key], expected[key])]
    shared = [column for column in reference.history if column not in CLOCK]
    pd.testing.assert_frame_equal(run.history[shared], reference.history[shared])


@pytest.mark.parametrize(
    ("diffusion", "preset"),
    [(None, "paper28"), (NONE, "paper28"), (NONE, "paper64")],
    ids=["no diffusion", "horizon 0", "horizon 0, 64"],
)
def test_without_its_parts_it_is_the_dcgan_bit_for_bit(tmp_path, diffusion, preset):
    plain = train(tiny(preset=preset), tmp_path)
    run = train(tiny(preset=preset, model=Model(conditional=False, diffusion=diffusion)), tmp_path)
    assert run.path != plain.path
    assert_equal_where_shared(run, plain)
    assert tensors(run, "generator")[0].keys() == tensors(plain, "generator")[0].keys()


def test_with_a_horizon_of_zero_diffusion_gan_is_the_conditional_dcgan_bit_for_bit(tmp_path):
    conditional = train(tiny(model=Model()), tmp_path)
    run = train(tiny(model=Model(diffusion=NONE)), tmp_path)
    assert "class_embedding" in tensors(conditional, "discriminator")[0]
    assert_equal_where_shared(run, conditional)


def test_with_a_horizon_above_zero_it_is_another_training(tmp_path):
    conditional = train(tiny(model=Model(), epochs=1), tmp_path)
    run = train(tiny(model=Model(diffusion=Diffusion()), epochs=1), tmp_path)
    one, other = tensors(run, "generator"), tensors(conditional, "generator")
    assert_same(one[0], other[0])
    assert not torch.equal(one[1]["layers.0.weight"], other[1]["layers.0.weight"])


# --- the loop


def record_steps(monkeypatch, kind):
    """What ``step`` is given from now on."""
    found, original = [], kind.step

    def step(self, *arguments):
        found.append([argument.clone() for argument in arguments])
        return original(self, *arguments)

    monkeypatch.setattr(kind, "step", step)
    return found


def test_each_image_comes_with_its_own_class_and_order_and_latents_are_the_dcgans(tmp_path, monkeypatch):
    plain = record_steps(monkeypatch, DCGANObjective)
    told = record_steps(monkeypatch, ConditionalObjective)
    train(tiny(), tmp_path)
    train(tiny(model=Model()), tmp_path)
    assert len(plain) == len(told) == 8
    for (real, latents), (same_real, same_latents, _, _) in zip(plain, told, strict=True):
        assert torch.equal(real, same_real)
        assert torch.equal(latents, same_latents)
    known = training_images(tiny())
    images = loop.to_model_range(known.images)
    by_image = {
        image.numpy().tobytes(): int(label) for image, label in zip(images, known.labels, strict=True)
    }
    for real, _, labels, _ in told:
        assert [by_image[image.numpy().tobytes()] for image in real] == labels.tolist()


def test_classes_to_generate_are_drawn_alike_and_anew_by_seed(tmp_path, monkeypatch):
    told = record_steps(monkeypatch, ConditionalObjective)
    drawn = []
    for seed in (0, 1):
        train(tiny(model=Model(), seed=seed, epochs=4), tmp_path)
        drawn.append(torch.cat([fake_labels for *_, fake_labels in told]))
        told.clear()
    assert not torch.equal(*drawn)
    counts = torch.cat(drawn).bincount(minlength=10)
    assert counts.min() > 70  # of 102 expected
    assert counts.max() < 140
    assert not torch.equal(*drawn[0].split(256))  # each epoch draws on


def test_ds_accuracy_is_of_images_with_their_own_classes(tmp_path, monkeypatch):
    found, original = [], loop.real_fake_accuracy

    def record(*arguments, conditions, **named):
        found.append((arguments, named, conditions))
        return original(*arguments, conditions=conditions, **named)

    monkeypatch.setattr(loop, "real_fake_accuracy", record)
    config = tiny(model=Model(diffusion=Diffusion()), epochs=1)
    run = train(config, tmp_path)
    ((_, real, fake), named, told) = found[0]
    held_out, known = load_images("mnist-5k", 28, "test"), training_images(config)
    expected = {
        "real": (real, held_out.images[:256], held_out.labels[:256]),
        "reference": (named["reference"], known.images, known.labels),
    }
    for name, (images, wanted, labels) in expected.items():
        assert torch.equal(images, wanted)
        assert torch.equal(told[name]["labels"], labels)
        assert not told[name]["times"].any()
        assert len(told[name]["times"]) == len(labels)
    labels = told["fake"]["labels"]
    assert (labels.bincount() - 25.6).abs().max() < 1
    with torch.no_grad():
        torch.testing.assert_close(fake, run.generator(1)(fixed_latents(256), labels))


# --- a run of DuDGAN: six iterations an epoch, so that no checkpoint falls on an update of the horizons


def dudgan(**changes):
    return tiny(**{"model": DUDGAN, "epochs": 3, "train_images": 96, "batch_size": 16, **changes})


@pytest.fixture(scope="module")
def dudgan_run(tmp_path_factory):
    return train(dudgan(), tmp_path_factory.mktemp("whole"))


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("killed_at", [7, 11, 18])
def test_a_killed_run_is_resumed_and_ends_bit_identical(tmp_path, dudgan_run, killed_at):
    original, steps = ConditionalObjective.step, []

    def step(self, *arguments):
        steps.append(None)
        if len(steps) == killed_at:
            raise Interrupted
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConditionalObjective, "step", step)
        with pytest.raises(Interrupted):
            train(dudgan(), tmp_path)
    path = tmp_path / dudgan().name
    assert load_run(path).epochs == list(range((killed_at - 1) // 6 + 1))
    run = train(dudgan(), tmp_path)
    found, expected = (
        {str(f.relative_to(p)): f.read_bytes() for f in p.rglob("*.safetensors")}
        for p in (path, dudgan_run.path)
    )
    assert found == expected
    assert len(found) == 4 * 6 + 2  # six networks at four epochs, and two training states
    history = dudgan_run.history.drop(columns=CLOCK)
    pd.testing.assert_frame_equal(run.history.drop(columns=CLOCK), history)


def test_every_network_is_saved_and_every_state_that_the_next_step_needs(dudgan_run):
    saved = {file.stem for file in (dudgan_run.path / "checkpoints/epoch-0001").glob("*.safetensors")}
    diffusions = {"discriminator_diffusion", "classifier_diffusion"}
    assert saved == {"discriminator", "generator", "generator_average", "classifier"} | diffusions
    state = files.read_tensors(dudgan_run.path / "checkpoints/epoch-0003/training_state.safetensors")
    assert int(state["iteration"]) == 18
    assert {"random.objective", "random.labels", "random.order", "random.latents", "sign_sum"} <= state.keys()
    assert any(name.startswith("classifier.") for name in state)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Model(), []),
        (Model(diffusion=Diffusion()), ["overconfidence", "discriminator_horizon"]),
        (
            Model(classifier=ClassifierOptions()),
            ["loss_contrast", "loss_classes", "generator_contrast", "classifier_horizon"],
        ),
    ],
    ids=["conditional", "diffusion", "classifier"],
)
def test_the_history_has_the_statistics_of_the_models_parts(tmp_path, model, expected):
    config = tiny(epochs=1, model=model)
    run = train(config, tmp_path)
    plain = ["loss_discriminator", "loss_generator", "d_real", "d_fake"]
    accuracy = ["accuracy_running", "accuracy_batch", "accuracy_reference"]
    assert list(run.history) == ["epoch", "iterations", "images", *plain, *expected, *accuracy, *CLOCK]
    assert run.history.notna().all(axis=None)


def test_the_history_of_a_dudgan_run(dudgan_run):
    history = dudgan_run.history
    extra = ["overconfidence", "discriminator_horizon", "loss_contrast", "loss_classes", "generator_contrast"]
    assert {*extra, "classifier_horizon"} < set(history)
    assert history.overconfidence.between(-1, 1).all()
    assert history.loss_classes[0] == pytest.approx(2.3, abs=0.4)  # ten classes, none known yet
    assert (history.generator_contrast > 0).all()
    # updates after iterations 4, 8, 12 and 16 of 18, each by 4/18 of 290
    ramp = [10 + round(290 * 4 * k / 18) for k in range(5)]
    means = [
        (4 * ramp[0] + 2 * ramp[1]) / 6,
        (2 * ramp[1] + 4 * ramp[2]) / 6,
        (4 * ramp[3] + 2 * ramp[4]) / 6,
    ]
    assert history.classifier_horizon.tolist() == pytest.approx(means)
    pd.testing.assert_frame_equal(pd.read_csv(dudgan_run.path / "history.csv"), history, check_dtype=False)


def test_a_runs_generator_is_the_moving_average_where_there_is_one(tmp_path, dudgan_run):
    plain = train(tiny(epochs=1, model=Model()), tmp_path)
    for run, epoch, name in [(dudgan_run, 3, "generator_average"), (plain, 1, "generator")]:
        generator = run.generator(epoch)
        assert_same(generator.state_dict(), tensors(run, name)[epoch])
        assert not generator.training
        labels = torch.arange(4)
        assert generator(fixed_latents(4), labels).shape == (4, 1, 28, 28)
    weights = dudgan_run.generator(3).layers[0].weight
    assert not torch.equal(weights, tensors(dudgan_run, "generator")[3]["layers.0.weight"])


def test_a_runs_discriminator_and_classifier_are_those_of_the_epoch(dudgan_run):
    for load, name in [(dudgan_run.discriminator, "discriminator"), (dudgan_run.classifier, "classifier")]:
        for epoch in (0, 2):
            assert_same(load(epoch).state_dict(), tensors(dudgan_run, name)[epoch])
            assert not load(epoch).training
        assert "has no epoch 9; it has 0 to 3" in refused(load, 9)


def test_a_run_without_a_classifier_says_so(tmp_path):
    run = train(tiny(epochs=1, model=Model()), tmp_path)
    assert "has no classifier: its model has discriminator, generator" in refused(run.classifier, 1)


def test_a_runs_horizon_is_that_after_the_epoch(tmp_path, dudgan_run):
    config = dudgan(model=Model(diffusion=OPEN))
    run = train(config, tmp_path)
    assert [run.diffusion(epoch).horizon for epoch in run.epochs] == [
        10 + round(290 * 4 * k / 18) for k in (0, 1, 3, 4)
    ]
    assert train(dudgan(model=Model(), epochs=1), tmp_path).diffusion(1) is None
    progress = [float(state["progress"]) for state in tensors(dudgan_run, "discriminator_diffusion")]
    assert [dudgan_run.diffusion(epoch).horizon for epoch in range(4)] == [
        10 + round(990 * p) for p in progress
    ]


def test_an_open_loop_ends_at_its_longest_and_no_overconfidence_at_its_shortest(tmp_path):
    never = Diffusion(shortest=10, longest=300, target=1.0)
    runs = [train(tiny(model=Model(diffusion=diffusion)), tmp_path) for diffusion in (OPEN, never)]
    assert [run.diffusion(2).horizon for run in runs] == [300, 10]


def test_images_of_one_class_are_refused_before_anything_is_made(tmp_path):
    folder, rng = tmp_path / "images", random.Random(0)
    folder.mkdir()
    for i in range(50):
        Image.frombytes("L", (28, 28), rng.randbytes(28 * 28)).save(folder / f"{i}.png")
    fields = {"data": f"folder:{folder}", "train_images": None, "batch_size": 16, "epochs": 1}
    for model in (Model(), DUDGAN):
        message = refused(train, tiny(model=model, **fields), tmp_path / "runs")
        assert f"folder:{folder} has one class" in message
        assert "one subfolder a class, or set conditional=false" in message
    assert not (tmp_path / "runs").exists()
    unconditional = Model(conditional=False, diffusion=Diffusion())
    assert train(tiny(model=unconditional, **fields), tmp_path / "runs").epochs == [0, 1]


# --- configurations


ALL_READINGS = [
    *MODELS.values(),
    Model(conditional=False),
    Model(normalisation="group"),
    Model(gradient_penalty=1.0),
    Model(averaging=0.5),
    Model(diffusion=OPEN),
    Model(diffusion=Diffusion(target=None)),
    Model(diffusion=Diffusion(target=0.5)),
    Model(diffusion=Diffusion(prior="uniform")),
    Model(diffusion=Diffusion(sigma=0.1)),
    Model(classifier=ClassifierOptions()),
    Model(classifier=ClassifierOptions(temperature=0.1)),
    Model(classifier=ClassifierOptions(diffusion=NONE)),
]


class TestConfiguration:
    def test_without_a_model_the_name_is_what_it_was_before_there_were_any(self):
        assert TrainingConfig().name == "mnist-5k-paper64-width64-zeros-seed0-0809652a"
        other = TrainingConfig(width=2, seed=4, data="mnist", model=None)
        assert other.name == "mnist-paper64-width2-zeros-seed4-c3bb338b"

    def test_every_model_is_another_run(self):
        names = {TrainingConfig(model=model).name for model in [None, *ALL_READINGS]}
        assert len(names) == len(ALL_READINGS) + 1
        spelled_out = Model(conditional=True, diffusion=None, averaging=0)
        assert TrainingConfig(model=spelled_out).name == TrainingConfig(model=Model()).name

    @pytest.mark.parametrize("model", ALL_READINGS, ids=str)
    def test_json_keeps_all_of_it(self, model):
        config = TrainingConfig(model=model)
        again = TrainingConfig(**json.loads(config.model_dump_json()))
        assert again == config
        assert again.name == config.name
        assert config.changed(seed=1).model == model

    def test_a_run_keeps_its_configuration(self, dudgan_run):
        assert load_run(dudgan_run.path).config == dudgan()

    def test_defaults_are_the_papers(self):
        diffusion, options = Diffusion(), ClassifierOptions()
        assert (diffusion.shortest, diffusion.sigma, diffusion.prior, diffusion.target) == (
            10,
            0.05,
            "priority",
            0.6,
        )
        assert (options.diffusion.shortest, options.diffusion.longest) == (10, 300)
        assert (options.diffusion.target, options.diffusion.rise, options.diffusion.sigma) == (None, 1, 0.05)
        assert (options.supervised_contrast, options.share_in_generator, options.temperature) == (
            0.95,
            0.05,
            0.07,
        )
        assert (options.learning_rate_ratio, options.weight_decay) == (1.25, 0.01)

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ({"diffusion": {"shortest": 9, "longest": 1}}, "shortest=9 must not exceed longest=1"),
            ({"diffusion": {"shortest": -1}}, "shortest=-1: input should be greater than or equal to 0"),
            (
                {"diffusion": {"longest": 10_001}},
                "longest=10001: input should be less than or equal to 10000",
            ),
            ({"diffusion": {"sigma": -0.1}}, "sigma=-0.1: input should be greater than or equal to 0"),
            (
                {"diffusion": {"prior": "prioroty"}},
                "prior='prioroty': input should be 'uniform' or 'priority'",
            ),
            ({"diffusion": {"target": 1.5}}, "target=1.5: input should be less than or equal to 1"),
            ({"diffusion": {"rise": 0}}, "rise=0: input should be greater than 0"),
            ({"diffusion": {"sigmo": 1}}, "'sigmo' is not a field; did you mean 'sigma'?"),
            ({"conditional": False, "classifier": {}}, "a classifier needs conditional=true"),
            ({"classifier": {"temperature": 0}}, "temperature=0: input should be greater than 0"),
            ({"classifier": {"share_in_generator": 2}}, "share_in_generator=2: input should be less than"),
            ({"classifier": {"diffusion": {"longest": 5}}}, "shortest=10 must not exceed longest=5"),
            ({"normalisation": "layer"}, "normalisation='layer': input should be 'batch' or 'group'"),
            ({"gradient_penalty": -1}, "gradient_penalty=-1: input should be greater than or equal to 0"),
            ({"averaging": 1}, "averaging=1: input should be less than 1"),
        ],
    )
    def test_bad_options_are_refused_in_one_line(self, model, message):
        for call, given in ((TrainingConfig, {"model": model}), (Model, model)):
            assert message in refused(call, **given)


def test_every_random_stream_is_its_own(tmp_path, monkeypatch):
    found = {}

    def record(self, *rest):
        found.update({name: generator.initial_seed() for name, generator in self.random.items()})
        raise Interrupted

    monkeypatch.setattr(loop._Session, "_train_epoch", record)
    with pytest.raises(Interrupted):
        train(tiny(model=DUDGAN), tmp_path)
    first = {
        name: torch.rand(5, generator=torch.Generator().manual_seed(seed)).tolist()
        for name, seed in found.items()
    }
    assert len({tuple(numbers) for numbers in first.values()}) == 4


def test_the_contrastive_loss_is_computed_in_float32():
    objective = make(Model(classifier=ClassifierOptions(diffusion=NONE)), precision="bfloat16", batch_size=32)
    real, _, labels, _ = batch(count=32)
    classifier, seen = objective.networks["classifier"], []
    both = classifier.both
    classifier.both = lambda images: seen.append(both(images)) or seen[-1]
    with objective._autocast():
        found, _ = objective._contrast(real, labels, objective.model.classifier)
    expected = supervised_contrast(seen[0][0].float(), labels, 0.07)
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-5)


def test_cs_running_statistics_are_of_real_images_alone():
    objective = make(DUDGAN)
    before = {name: buffer.clone() for name, buffer in objective.networks["classifier"].named_buffers()}
    generator_step(objective)()
    assert_same(dict(objective.networks["classifier"].named_buffers()), before)


def test_a_plain_dcgans_run_has_no_classifier(tmp_path):
    run = train(tiny(epochs=1), tmp_path)
    assert "has no classifier" in refused(run.classifier, 1)


def test_the_diffusion_of_an_absent_epoch_is_refused(dudgan_run):
    assert "has no epoch 9; it has 0 to 3" in refused(dudgan_run.diffusion, 9)


def test_the_standard_architecture_is_built_or_refused():
    model = Model(conditional=False)
    try:
        config = TrainingConfig(architecture="standard", width=2, model=model)
    except InputError:
        return
    objective = ConditionalObjective(config, 1, 10, 1000, CPU, "float32")
    assert len(objective.discriminator.blocks) == 4

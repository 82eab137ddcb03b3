import copy

import pytest
import torch
from helpers import tiny
from torch.nn import functional as F

from gradcam_gan.models.contrastive import supervised_contrast
from gradcam_gan.models.diffusion import ForwardDiffusion
from gradcam_gan.models.options import ClassifierOptions, Diffusion, Guidance, Model
from gradcam_gan.training.objective import Objective

CPU = torch.device("cpu")
NONE = Diffusion(shortest=0, longest=0)  # diffuses nothing
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
    "guided dudgan": DUDGAN.model_copy(update={"guidance": Guidance(start=0, control="shuffled")}),
}
every_model = pytest.mark.parametrize("model", [None, *MODELS.values()], ids=["dcgan", *MODELS])


def make(model=None, *, precision="float32", total_images=1000, **options):
    config = tiny(model=model, **{"batch_size": 8, "seed": 3, **options})
    return Objective(config, 1, 10, total_images, CPU, precision)


def batch(seed=0, count=8, classes=3, size=28):
    """Real images, latents, their classes and those to generate."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.rand(count, 1, size, size, generator=generator) * 2 - 1
    latents = torch.randn(count, 100, generator=generator)
    labels, fake_labels = torch.randint(classes, (2, count), generator=generator)
    return real, latents, labels, fake_labels


def parameters(objective):
    return {
        name: [parameter.detach().clone() for parameter in network.parameters()]
        for name, network in objective.networks.items()
    }


@every_model
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_in_place_change_no_bit(model, precision):
    """Not those that guidance reads either; with a gradient penalty they would, and are not."""
    ours, other = make(model, precision=precision), make(model, precision=precision)
    networks = [network for name, network in other.networks.items() if "diffusion" not in name]
    activations = [
        module for network in networks for module in network.modules() if hasattr(module, "inplace")
    ]
    assert {module.inplace for module in activations} == {not ours.parts.gradient_penalty}
    for module in activations:
        module.inplace = False
    for seed in range(2):
        assert torch.equal(ours.step(*batch(seed)), other.step(*batch(seed)))
    for name, mine in parameters(ours).items():
        assert all(map(torch.equal, mine, parameters(other)[name]))


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
    random = {f"random.{name}": stream.get_state() for name, stream in objective.random().items()}
    return weights | state | random


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


# --- the DCGAN's step


def textbook_dcgan_step(networks, real, latents):
    """DCGAN's step as textbooks have it; the statistics, and Adam's first moments by network and parameter."""
    networks = copy.deepcopy(networks)
    discriminator, generator = networks["discriminator"], networks["generator"]
    adam = {name: torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999)) for name, n in networks.items()}
    ones, zeros = torch.ones(len(real)), torch.zeros(len(real))

    adam["discriminator"].zero_grad()
    d_real = torch.sigmoid(discriminator(real))
    loss_real = F.binary_cross_entropy(d_real, ones)
    loss_real.backward()
    fake = generator(latents)
    d_fake = torch.sigmoid(discriminator(fake.detach()))
    loss_fake = F.binary_cross_entropy(d_fake, zeros)
    loss_fake.backward()
    adam["discriminator"].step()

    adam["generator"].zero_grad()
    loss_generator = F.binary_cross_entropy(torch.sigmoid(discriminator(fake)), ones)
    loss_generator.backward()
    adam["generator"].step()

    statistics = torch.stack([loss_real + loss_fake, loss_generator, d_real.mean(), d_fake.mean()]).detach()
    moments = {
        f"{name}.{parameter_name}": adam[name].state[parameter]["exp_avg"]
        for name, network in networks.items()
        for parameter_name, parameter in network.named_parameters()
    }
    return networks, statistics, moments


@pytest.mark.parametrize("preset", ["paper28", "paper64"])
def test_float32_step_of_the_dcgan_is_the_textbook_step(preset):
    objective = make(preset=preset, width=4)
    told = batch(size=objective.discriminator.image_size, count=16)
    expected, statistics, moments = textbook_dcgan_step(objective.networks, *told[:2])

    torch.testing.assert_close(objective.step(*told), statistics, rtol=1e-5, atol=1e-6)
    for name, network in objective.networks.items():
        for key, buffer in network.named_buffers():  # BatchNorm's: real, fake, fake again
            torch.testing.assert_close(buffer, expected[name].get_buffer(key), rtol=0, atol=1e-6)
        for key, weight in network.named_parameters():
            # Adam's first step is the gradient's sign, so rounding decides the few weights without a gradient
            wrong = (weight - expected[name].get_parameter(key)).abs() > 1e-6
            assert wrong.float().mean() < 1e-3, (name, key)
    for name, moment in moments.items():
        torch.testing.assert_close(objective.state()[f"{name}.exp_avg"], moment, rtol=1e-4, atol=1e-7)


def test_bfloat16_step_of_the_dcgan_is_close_to_the_textbook_step():
    objective = make(precision="bfloat16", width=8)
    told = batch(count=16)
    expected, statistics, moments = textbook_dcgan_step(objective.networks, *told[:2])

    torch.testing.assert_close(objective.step(*told), statistics, rtol=0, atol=0.01)
    state = objective.state()
    errors = [((state[f"{name}.exp_avg"] - m).norm() / m.norm()).item() for name, m in moments.items()]
    assert 0.001 < max(errors) < 0.3, errors  # another loss, or a step left out, is beyond 0.5
    for name, network in objective.networks.items():
        for key, buffer in network.named_buffers():
            torch.testing.assert_close(buffer, expected[name].get_buffer(key), rtol=0.01, atol=0.001)


@pytest.mark.parametrize("model", [None, *MODELS.values()], ids=["dcgan", *MODELS])
def test_a_dcgans_step_alone_can_be_recorded_and_asks_for_no_number(model):
    """A read of one value waits for the GPU and cannot be in a CUDA graph."""
    objective, told = make(model), batch()
    assert objective.recordable == (model is None)
    if model is not None:
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        objective.step(*told)

    def inside_the_optimiser(event):  # Adam's own reads; on a GPU its capturable form has none
        return event is not None and (
            event.name.startswith("Optimizer.step") or inside_the_optimiser(event.cpu_parent)
        )

    names = {event.name for event in profile.events() if not inside_the_optimiser(event)}
    assert "aten::convolution_backward" in names
    assert not names & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero"}


def test_a_dcgans_state_is_its_optimisers_alone():
    """As in the checkpoints of before there were other models."""
    objective = make()
    expected = {
        f"{name}.{key}.{quantity}"
        for name, network in objective.networks.items()
        for key, _ in network.named_parameters()
        for quantity in ("step", "exp_avg", "exp_avg_sq")
    }
    assert set(objective.state()) == expected
    assert objective.random() == {}
    conditional = make(Model())
    assert {"iteration", "sign_sum"} < set(conditional.state())
    assert set(conditional.random()) == {"labels", "objective"}


# --- who learns in which step


def steps(objective):
    """Each network's own step, by name."""
    real, latents, labels, fake_labels = batch()
    fake = objective.generator(latents, fake_labels if objective.parts.conditional else None)
    drawn, options = fake.detach(), objective.parts.classifier
    found = {
        "generator": lambda: objective._generator_step(fake, fake_labels, {}),
        "discriminator": lambda: objective._discriminator_step(real, labels, drawn, fake_labels, {}),
    }
    if options is not None:
        found["classifier"] = lambda: objective._classifier_step(real, labels, options, {})
    return found


@every_model
def test_in_its_own_step_a_network_learns_and_the_others_get_no_gradient(model):
    for name in steps(make(model)):
        objective = make(model)
        assert learned_in(objective, steps(objective)[name]) == ({name}, {name})
        if name == "generator":
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
    steps(objective)["generator"]()
    assert passed == {"discriminator": share == 0, "classifier": share == 1}


@every_model
def test_a_step_teaches_every_network_and_leaves_them_all_able_to_learn(model):
    objective = make(model)
    parts = objective.parts
    learning = {"discriminator", "generator"} | ({"classifier"} if parts.classifier else set())
    changed, graded = learned_in(objective, lambda: objective.step(*batch()))
    assert changed == learning | ({"generator_average"} if parts.averaging else set())
    assert graded == learning
    assert set(objective.optimisers) == learning
    for name in learning:
        assert all(parameter.requires_grad for parameter in objective.networks[name].parameters())


@pytest.mark.parametrize(
    ("model", "expected"),
    [(Model(), ["discriminator", "generator"]), (DUDGAN, ["classifier", "generator", "discriminator"])],
    ids=["conditional", "dudgan"],
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


# --- the losses of the other models


def plain_step(networks, model, real, latents, labels, fake_labels):
    """DuDGAN's step without diffusion, as a textbook would have it; statistics and gradients by network."""
    networks, options = copy.deepcopy(networks), model.classifier
    d, g, c = (networks[name] for name in ("discriminator", "generator", "classifier"))
    ones, zeros, clean = torch.ones(len(real)), torch.zeros(len(real)), torch.zeros_like(labels)
    both = torch.cat([labels, labels])

    embeddings, logits = c.both(torch.cat([real, real]))
    loss_contrast = supervised_contrast(embeddings, both, 0.07)  # against plain loops in its own test
    loss_classes = F.cross_entropy(logits, both)
    (0.95 * loss_contrast + 0.05 * loss_classes).backward()
    gradients = {"classifier": [parameter.grad.clone() for parameter in c.parameters()]}
    torch.optim.AdamW(c.parameters(), 2.5e-4, weight_decay=0.01).step()

    fake = g(latents, fake_labels)
    loss_adversarial = F.binary_cross_entropy_with_logits(d(fake, fake_labels, clean), ones)
    embeddings, _ = c.both(fake)
    generator_contrast = supervised_contrast(embeddings, fake_labels, 0.07)
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


@pytest.mark.parametrize(("share", "gamma"), [(0.05, 0.0), (0.6, 3.0)])
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

    def record(module, inputs, told, output):
        seen.append((*inputs, told["labels"], told["times"]))

    d.register_forward_hook(record, with_kwargs=True)
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
            real if step == "classifier" else make(objective.parts).generator.train()(latents, fake_labels)
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
        assert torch.autograd.gradcheck(
            lambda *_: objective._squared_gradient(real, labels), weights, eps=1e-7, fast_mode=True
        )

    @pytest.mark.parametrize(("gamma", "expected"), [(1.0, [0, 16]), (0.0, [])])
    def test_it_comes_every_sixteenth_iteration(self, monkeypatch, gamma, expected):
        objective, found = make(Model(gradient_penalty=gamma)), []
        original = objective._squared_gradient

        def record(*arguments):
            found.append(int(objective.iteration))
            return original(*arguments)

        objective._squared_gradient = record
        for i in range(20):
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@every_model
def test_the_same_seed_trains_to_the_same_bits_whatever_the_global_random_state(model, precision):
    results = []
    for disturbance in range(2):
        torch.manual_seed(disturbance)
        before = torch.get_rng_state()
        objective = make(model, precision=precision)
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
    restored = make(model, seed=9)
    restored.step(*batch(7))
    for name, network in restored.networks.items():
        network.load_state_dict({key: saved[f"{name}.{key}"] for key in network.state_dict()})
    for name, tensor in restored.state().items():
        tensor.copy_(saved[name])
    for name, stream in restored.random().items():
        stream.set_state(saved[f"random.{name}"])
    if not objective.recordable:
        assert torch.equal(restored.draw_labels(9), objective.draw_labels(9))
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


def test_the_contrastive_loss_is_computed_in_float32():
    objective = make(Model(classifier=ClassifierOptions(diffusion=NONE)), precision="bfloat16", batch_size=32)
    real, _, labels, _ = batch(count=32)
    classifier, seen = objective.networks["classifier"], []
    both = classifier.both
    classifier.both = lambda images: seen.append(both(images)) or seen[-1]
    with objective._autocast():
        found, _ = objective._contrast(real, labels, objective.parts.classifier)
    expected = supervised_contrast(seen[0][0].float(), labels, 0.07)
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-5)


def test_cs_running_statistics_are_of_real_images_alone():
    objective = make(DUDGAN)
    before = {name: buffer.clone() for name, buffer in objective.networks["classifier"].named_buffers()}
    steps(objective)["generator"]()
    assert_same(dict(objective.networks["classifier"].named_buffers()), before)


@pytest.mark.parametrize(
    ("asked", "precision", "fast"),
    [("float32", "float32", False), ("auto", "float32", True), ("bfloat16", "bfloat16", True)],
)
def test_who_asks_for_float32_gets_the_reference_layout_and_auto_the_fast_one(asked, precision, fast):
    objective = Objective(tiny(precision=asked), 1, 10, 1000, CPU, precision)
    weight = objective.discriminator.named_layers["conv2"].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is fast

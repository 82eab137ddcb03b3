import copy

import pytest
import torch
from torch.nn import functional as F

from gradcam_gan.training import objective as module
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.objective import DCGANObjective

CPU = torch.device("cpu")
PRECISIONS = ("float32", "bfloat16")


def make(precision="float32", **options):
    options = {"preset": "paper28", "width": 4, "seed": 3, **options}
    return DCGANObjective(TrainingConfig(**options), 1, CPU, precision)


def batch(size=28, count=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    real = torch.rand(count, 1, size, size, generator=generator) * 2 - 1
    return real, torch.randn(count, 100, generator=generator)


def plain_step(networks, real, latents):
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


def snapshot(objective):
    weights = {
        f"{name}.{key}": tensor.clone()
        for name, network in objective.networks.items()
        for key, tensor in network.state_dict().items()
    }
    return weights | {name: tensor.clone() for name, tensor in objective.state().items()}


@pytest.mark.parametrize(
    "options", [{}, {"preset": "paper64"}, {"preset": "paper64", "architecture": "standard"}], ids=str
)
def test_float32_step_is_the_textbook_step(options):
    objective = make(**options)
    real, latents = batch(objective.discriminator.image_size)
    expected, statistics, moments = plain_step(objective.networks, real, latents)

    torch.testing.assert_close(objective.step(real, latents), statistics, rtol=1e-5, atol=1e-6)
    for name, network in objective.networks.items():
        for key, buffer in network.named_buffers():  # BatchNorm's: real, fake, fake again
            torch.testing.assert_close(buffer, expected[name].get_buffer(key), rtol=0, atol=1e-6)
        for key, weight in network.named_parameters():
            # Adam's first step is the gradient's sign, so rounding decides the few weights without a gradient
            wrong = (weight - expected[name].get_parameter(key)).abs() > 1e-6
            assert wrong.float().mean() < 1e-3, (name, key)
    for name, moment in moments.items():
        torch.testing.assert_close(objective.state()[f"{name}.exp_avg"], moment, rtol=1e-4, atol=1e-7)


def test_bfloat16_step_is_close_to_the_textbook_step():
    objective = make("bfloat16", width=8)
    real, latents = batch()
    expected, statistics, moments = plain_step(objective.networks, real, latents)

    torch.testing.assert_close(objective.step(real, latents), statistics, rtol=0, atol=0.01)
    state = objective.state()
    errors = [((state[f"{name}.exp_avg"] - m).norm() / m.norm()).item() for name, m in moments.items()]
    assert 0.001 < max(errors) < 0.3, errors  # another loss, or a step left out, is beyond 0.5
    for name, network in objective.networks.items():
        for key, buffer in network.named_buffers():
            torch.testing.assert_close(buffer, expected[name].get_buffer(key), rtol=0.01, atol=0.001)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_and_optimiser_stay_float32(precision):
    objective = make(precision)
    objective.step(*batch())
    dtypes = {t.dtype for name, t in snapshot(objective).items() if not name.endswith("num_batches_tracked")}
    assert dtypes == {torch.float32}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_same_seed_trains_to_the_same_bits(precision):
    results = []
    for disturbance in range(2):
        torch.manual_seed(disturbance)  # the global random state must not matter
        objective = make(precision)
        statistics = [objective.step(*batch(seed=i)) for i in range(3)]
        results.append({**snapshot(objective), "statistics": torch.stack(statistics)})
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_another_seed_is_another_start_and_leaves_the_global_random_state():
    before = torch.get_rng_state()
    first, second = make(seed=0), make(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first.generator.layers[0].weight, second.generator.layers[0].weight)


def test_generator_step_adds_nothing_to_the_discriminators_gradients():
    objective = make()
    objective.step(*batch())
    for name, parameter in objective.discriminator.named_parameters():
        assert parameter.requires_grad
        first_moment = objective.state()[f"discriminator.{name}.exp_avg"]
        torch.testing.assert_close(parameter.grad * 0.5, first_moment)


def test_state_names_every_optimiser_tensor():
    objective = make()
    expected = {
        f"{name}.{key}.{quantity}"
        for name, network in objective.networks.items()
        for key, _ in network.named_parameters()
        for quantity in ("step", "exp_avg", "exp_avg_sq")
    }
    assert set(objective.state()) == expected
    assert all(not tensor.any() for tensor in objective.state().values())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_state_is_live_to_read_and_to_write(precision):
    objective = make(precision)
    state = objective.state()
    objective.step(*batch(seed=0))
    assert all(tensor is state[name] for name, tensor in objective.state().items())
    assert all(tensor.any() for tensor in state.values())

    saved = snapshot(objective)
    objective.step(*batch(seed=1))
    after = snapshot(objective)

    restored = make(precision, seed=9)
    restored.step(*batch(seed=2))
    for name, network in restored.networks.items():
        prefix = f"{name}."
        network.load_state_dict({key: saved[prefix + key] for key in network.state_dict()})
    for name, tensor in restored.state().items():
        tensor.copy_(saved[name])
    restored.step(*batch(seed=1))
    assert all(torch.equal(tensor, after[name]) for name, tensor in snapshot(restored).items())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_step_never_asks_for_a_number(precision):
    """A read of one value waits for the GPU and cannot be in a CUDA graph."""
    objective = make(precision)
    real, latents = batch()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        objective.step(real, latents)

    def inside_the_optimiser(event):  # Adam's own reads; on a GPU its capturable form has none
        return event is not None and (
            event.name.startswith("Optimizer.step") or inside_the_optimiser(event.cpu_parent)
        )

    names = {event.name for event in profile.events() if not inside_the_optimiser(event)}
    assert "aten::convolution_backward" in names
    assert not names & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero"}


def test_other_c_libraries_are_left_alone(monkeypatch):
    loaded = []
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: loaded.append(name))
    monkeypatch.setattr(module.platform, "libc_ver", lambda: ("", ""))
    make()
    assert loaded == []

"""What one training step optimises: an objective, its networks and their optimisers.

The loop in ``training`` knows nothing of losses: it hands an objective a batch of real images and of latents,
and saves whatever networks and optimiser states the objective has. ``DCGANObjective`` is the paper's; the follow-up's
models are in ``conditional_objective``.
"""

import ctypes
import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.models.dcgan import Discriminator, Generator, StandardDiscriminator
from gradcam_gan.training.config import TrainingConfig


def build_discriminator(config: TrainingConfig, channels: int) -> Discriminator | StandardDiscriminator:
    """The discriminator that the configuration names, freshly initialised from torch's global random state."""
    if config.architecture == "standard":
        return StandardDiscriminator(width=config.width, channels=channels, padding=config.padding)
    return Discriminator(config.preset, width=config.width, channels=channels, padding=config.padding)


def build_generator(config: TrainingConfig, channels: int) -> Generator:
    """The generator that the configuration names, freshly initialised from torch's global random state."""
    return Generator(config.preset, width=config.width, channels=channels)


def adam(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Adam with the configuration's learning rate and betas."""
    betas = (config.beta1, config.beta2)
    return optimiser_with_state(torch.optim.Adam, network, lr=config.learning_rate, betas=betas)


def optimiser_with_state(
    kind: type[torch.optim.Adam] | type[torch.optim.AdamW],
    network: nn.Module,
    **options: Any,  # noqa: ANN401 - the optimiser's own
) -> torch.optim.Optimizer:
    """An Adam whose state is made now, not at the first step: a checkpoint restores into these tensors."""
    device = next(network.parameters()).device
    optimiser = kind(network.parameters(), fused=True, capturable=device.type == "cuda", **options)
    for parameter in network.parameters():
        optimiser.state[parameter] = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimiser


def _keep_freed_memory() -> None:
    """Let this process keep the memory that a step frees, for the next step; results do not change.

    glibc hands large freed blocks back to the kernel, and every step then waits for zeroed pages again: 5 to 10% of
    its time. Now up to 1 GiB stays at the end of the heap; other C libraries are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: the highest that every glibc takes


class Objective:
    """Networks, optimisers and precision: what every objective has.

    Args:
        networks: on the CPU, freshly initialised; ``discriminator`` and ``generator`` among them.
        device: where the networks live.
        precision: ``bfloat16`` (autocast; weights and optimiser stay float32) or ``float32``.
    """

    statistics: tuple[str, ...]

    def __init__(self, networks: dict[str, nn.Module], device: torch.device, precision: str) -> None:
        if device.type == "cpu":
            _keep_freed_memory()
        layout = torch.channels_last if precision == "bfloat16" else torch.contiguous_format
        self.networks = {
            name: network.to(device, memory_format=layout)  # type: ignore[call-overload]
            for name, network in networks.items()
        }
        self.discriminator, self.generator = self.networks["discriminator"], self.networks["generator"]
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self._device_type = device.type
        self._reduced = precision == "bfloat16"

    def _autocast(self) -> torch.autocast:
        # inside a CUDA graph autocast must not cache its copies of the weights
        return torch.autocast(
            self._device_type, torch.bfloat16, self._reduced, cache_enabled=self._device_type == "cpu"
        )

    def _update(self, name: str, loss: Tensor) -> None:
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def state(self) -> dict[str, Tensor]:
        """Optimiser states by network, parameter and quantity; the live tensors, to save or to copy into."""
        return {
            f"{name}.{parameter_name}.{quantity}": tensor
            for name, optimiser in self.optimisers.items()
            for parameter_name, parameter in self.networks[name].named_parameters()
            for quantity, tensor in optimiser.state[parameter].items()
        }


class DCGANObjective(Objective):
    """The non-saturating GAN loss with DCGAN's alternating steps (Goodfellow et al. 2014; Radford et al. 2016).

    L_D = softplus(-D(x)) + softplus(D(G(z))), L_G = softplus(-D(G(z))), D the logit: binary cross-entropy after
    the paper's sigmoid, without its overflow. Real and fake images pass D in separate batches, as in DCGAN.

    Args:
        config: the run.
        channels: image channels.
        device: where the networks live.
        precision: as for ``Objective``.
    """

    statistics = ("loss_discriminator", "loss_generator", "d_real", "d_fake")

    def __init__(self, config: TrainingConfig, channels: int, device: torch.device, precision: str) -> None:
        # made on the CPU from the seed alone, so that every device starts from the same weights
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            discriminator = build_discriminator(config, channels)
            generator = build_generator(config, channels)
        super().__init__({"discriminator": discriminator, "generator": generator}, device, precision)
        self.optimisers = {name: adam(network, config) for name, network in self.networks.items()}

    def step(self, real: Tensor, latents: Tensor) -> Tensor:
        """Update D, then G, once.

        Args:
            real: images (N, C, H, W) float32 in [-1, 1].
            latents: (N, 100), standard normal.

        Returns:
            (4,) float32 on the device, in the order of ``statistics``; the last two are probabilities.
        """
        with self._autocast():
            fake = self.generator(latents)
            logits_real = self.discriminator(real).float()
            logits_fake = self.discriminator(fake.detach()).float()
        loss_discriminator = F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()
        self._update("discriminator", loss_discriminator)

        self.discriminator.requires_grad_(False)  # G's step needs the gradient through D, not D's own
        with self._autocast():
            loss_generator = F.softplus(-self.discriminator(fake).float()).mean()
        self._update("generator", loss_generator)
        self.discriminator.requires_grad_(True)

        d_real, d_fake = torch.sigmoid(logits_real).mean(), torch.sigmoid(logits_fake).mean()
        return torch.stack([loss_discriminator, loss_generator, d_real, d_fake]).detach()

"""The objectives of the follow-up: conditional DCGAN, Diffusion-GAN and DuDGAN, parts that can be left out one by one.

With a class, D and G are conditional (projection D). With a diffusion, D sees noised images and is told how much
(Wang et al. 2023, "Diffusion-GAN"). With a classifier C, which has a diffusion of its own, G is also trained to make
images whose features C groups by class (Yeom & Lee 2023, "DuDGAN"). Without any of them it is DCGAN, bit for bit.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.models.conditional import (
    ContrastiveClassifier,
    ProjectionDiscriminator,
    supervised_contrast,
)
from gradcam_gan.models.dcgan import Generator
from gradcam_gan.models.diffusion import ForwardDiffusion
from gradcam_gan.models.options import ClassifierOptions, Model
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.objective import Objective, adam, optimiser_with_state

UPDATE_INTERVAL = 4  # iterations from one update of a horizon to the next
PENALTY_INTERVAL = (
    16  # iterations from one gradient penalty to the next (Karras et al. 2020: lazy regularisation)
)


def network_builders(
    config: TrainingConfig, model: Model, channels: int, classes: int
) -> dict[str, Callable[[], nn.Module]]:
    """What builds each network of a model that learns, freshly initialised from torch's global random state.

    Args:
        config: width, preset and padding.
        model: its parts.
        channels: of the images.
        classes: how many; not used by an unconditional model.
    """
    told = classes if model.conditional else 0
    size: dict[str, Any] = {"preset": config.preset, "width": config.width, "channels": channels}
    judge = {**size, "padding": config.padding, "normalisation": model.normalisation}
    timed = model.diffusion is not None
    builders: dict[str, Callable[[], nn.Module]] = {
        "discriminator": partial(ProjectionDiscriminator, **judge, classes=told, timed=timed),
        "generator": partial(Generator, **size, classes=told),
    }
    if model.classifier is not None:
        builders["classifier"] = partial(ContrastiveClassifier, **judge, classes=classes)
    return builders


def build_networks(config: TrainingConfig, model: Model, channels: int, classes: int) -> dict[str, nn.Module]:
    """All of them, in order. Arguments as for ``network_builders``."""
    builders = network_builders(config, model, channels, classes)
    return {name: build() for name, build in builders.items()}


def stream_seed(seed: int, name: str) -> int:
    """The seed of one of a training's random streams: 32 bits, for a CPU generator takes no more of them."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4])


@contextmanager
def _untracked(network: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalise by the batch, as in training, and leave the running statistics alone."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


class ConditionalObjective(Objective):
    """The losses of the parts that a model has.

    With D the logit and c the embedding of C, images being diffused before D and before C:

    - L_D = softplus(-D(x)) + softplus(D(G(z))) + R1: gamma / 2 |grad D|^2 on the undiffused real images, every
      16 iterations and then 16 times as strong;
    - L_C = s SupCon(c(x)) + (1 - s) cross-entropy(x), on two diffusions of each real image;
    - L_G = (1 - g) softplus(-D(G(z))) + g SupCon(c(G(z))), one diffusion of each image, with g = 0 without a
      classifier.

    Real and generated images get their times independently, as in the published code; the papers' algorithm shares
    them. Order of the steps: D, G; with a classifier C, G, D, as in DuDGAN. C learns from real images only: in G's step
    it gets no gradient, and its running statistics stay.

    Args:
        config: the run, with ``model``.
        channels: image channels.
        classes: of the images.
        total_images: that the training shows, for the pace of the horizons.
        device: where the networks live.
        precision: as for ``Objective``.

    Attributes:
        random: the CPU generator of all times and noise.
    """

    def __init__(
        self,
        config: TrainingConfig,
        channels: int,
        classes: int,
        total_images: int,
        device: torch.device,
        precision: str,
    ) -> None:
        assert config.model is not None
        self.model, self.batch_size = config.model, config.batch_size
        self.random = torch.Generator().manual_seed(stream_seed(config.seed, "objective"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            networks = build_networks(config, self.model, channels, classes)
        learning = list(networks)
        if self.model.averaging:
            networks["generator_average"] = copy.deepcopy(networks["generator"]).requires_grad_(False)
        if self.model.diffusion is not None:
            networks["discriminator_diffusion"] = ForwardDiffusion(
                self.model.diffusion, total_images, self.random
            )
        if self.model.classifier is not None:
            options = self.model.classifier.diffusion
            networks["classifier_diffusion"] = ForwardDiffusion(options, total_images, self.random)
        super().__init__(networks, device, precision)
        for name in learning:
            self.optimisers[name] = self._optimiser(name, config)
        self.iteration = torch.zeros((), dtype=torch.int64)
        self.sign_sum = torch.zeros((), device=device)
        self.statistics = ("loss_discriminator", "loss_generator", "d_real", "d_fake")
        if self.model.diffusion is not None:
            self.statistics += ("overconfidence", "discriminator_horizon")
        if self.model.classifier is not None:
            self.statistics += ("loss_contrast", "loss_classes", "generator_contrast", "classifier_horizon")

    def _optimiser(self, name: str, config: TrainingConfig) -> torch.optim.Optimizer:
        options = self.model.classifier
        if name != "classifier" or options is None:
            return adam(self.networks[name], config)
        return optimiser_with_state(
            torch.optim.AdamW,
            self.networks[name],
            lr=options.learning_rate_ratio * config.learning_rate,
            weight_decay=options.weight_decay,
        )

    def state(self) -> dict[str, Tensor]:
        """As ``Objective.state``, and the counters."""
        return {**super().state(), "iteration": self.iteration, "sign_sum": self.sign_sum}

    def step(self, real: Tensor, latents: Tensor, labels: Tensor, fake_labels: Tensor) -> Tensor:
        """Update every network once.

        Args:
            real: images (N, C, H, W) float32 in [-1, 1].
            latents: (N, 100), standard normal.
            labels: classes of the real images (N,).
            fake_labels: classes to generate (N,).

        Returns:
            float32 on the device, in the order of ``statistics``.
        """
        found: dict[str, Tensor] = {}
        with self._autocast():
            fake = self.generator(latents, fake_labels if self.model.conditional else None)
        if self.model.classifier is None:
            self._discriminator_step(real, labels, fake.detach(), fake_labels, found)
            self._generator_step(fake, fake_labels, found)
        else:
            self._classifier_step(real, labels, self.model.classifier, found)
            self._generator_step(fake, fake_labels, found)
            self._discriminator_step(real, labels, fake.detach(), fake_labels, found)
        self._average_generator()
        self.iteration += 1
        if self.iteration % UPDATE_INTERVAL == 0:
            self._update_horizons()
        return torch.stack([found[name].float() for name in self.statistics]).detach()

    def _judge(self, images: Tensor, labels: Tensor) -> Tensor:
        """D's logits (N,) of images, diffused where the model does that."""
        told = labels if self.model.conditional else None
        if self.model.diffusion is None:
            return self.discriminator(images, told).float()
        diffused, times = self.networks["discriminator_diffusion"](images)
        return self.discriminator(diffused, told, times).float()

    def _discriminator_step(
        self, real: Tensor, labels: Tensor, fake: Tensor, fake_labels: Tensor, found: dict[str, Tensor]
    ) -> None:
        with self._autocast():
            logits_real, logits_fake = self._judge(real, labels), self._judge(fake, fake_labels)
        loss = F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()
        found["loss_discriminator"] = loss
        if self.model.gradient_penalty and self.iteration % PENALTY_INTERVAL == 0:
            loss = loss + self.model.gradient_penalty / 2 * PENALTY_INTERVAL * self._squared_gradient(
                real, labels
            )
        self._update("discriminator", loss)
        found["d_real"], found["d_fake"] = logits_real.sigmoid().mean(), logits_fake.sigmoid().mean()
        if self.model.diffusion is not None:
            found["overconfidence"] = logits_real.detach().sign().mean()
            self.sign_sum += found["overconfidence"]
            horizon = self.networks["discriminator_diffusion"].horizon
            found["discriminator_horizon"] = logits_real.new_tensor(float(horizon))

    def _squared_gradient(self, real: Tensor, labels: Tensor) -> Tensor:
        """Mean over images of |gradient of D's logit by the undiffused image|^2."""
        real = real.detach().requires_grad_()
        times = None if self.model.diffusion is None else torch.zeros_like(labels)
        logits = self.discriminator(real, labels if self.model.conditional else None, times)
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean()

    def _generator_step(self, fake: Tensor, fake_labels: Tensor, found: dict[str, Tensor]) -> None:
        options = self.model.classifier
        self.discriminator.requires_grad_(False)  # the gradient goes through D and C, not to them
        with self._autocast():
            loss = F.softplus(-self._judge(fake, fake_labels)).mean()
            if options is not None:
                self.networks["classifier"].requires_grad_(False)
                views, _ = self.networks["classifier_diffusion"](fake)
                with _untracked(self.networks["classifier"]):
                    contrast, _ = self._contrast(views, fake_labels, options)
                found["generator_contrast"] = contrast
                share = options.share_in_generator
                loss = (1 - share) * loss + share * contrast
        self._update("generator", loss)
        found["loss_generator"] = loss
        self.discriminator.requires_grad_(True)
        if options is not None:
            self.networks["classifier"].requires_grad_(True)

    def _classifier_step(
        self, real: Tensor, labels: Tensor, options: ClassifierOptions, found: dict[str, Tensor]
    ) -> None:
        diffusion, labels = self.networks["classifier_diffusion"], labels.repeat(2)
        views = torch.cat([diffusion(real)[0], diffusion(real)[0]])
        with self._autocast():
            contrast, logits = self._contrast(views, labels, options)
        classes = F.cross_entropy(logits.float(), labels)
        share = options.supervised_contrast
        self._update("classifier", share * contrast + (1 - share) * classes)
        found["loss_contrast"], found["loss_classes"] = contrast, classes
        found["classifier_horizon"] = contrast.new_tensor(float(diffusion.horizon))

    def _contrast(self, views: Tensor, labels: Tensor, options: ClassifierOptions) -> tuple[Tensor, Tensor]:
        """SupCon of diffused images (M, C, H, W) in C's embedding, and C's logits of them (M, classes)."""
        embeddings, logits = self.networks["classifier"].both(views)
        return supervised_contrast(embeddings.float(), labels, options.temperature), logits

    @torch.no_grad()
    def _average_generator(self) -> None:
        """Exponential moving average of G's weights; BatchNorm's statistics are taken as they are."""
        if not self.model.averaging:
            return
        average = self.networks["generator_average"]
        for mean, new in zip(average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(new, 1 - self.model.averaging)
        for mean, new in zip(average.buffers(), self.generator.buffers(), strict=True):
            mean.copy_(new)

    def _update_horizons(self) -> None:
        overconfidence = float(self.sign_sum) / UPDATE_INTERVAL
        self.sign_sum.zero_()
        for name in ("discriminator_diffusion", "classifier_diffusion"):
            if name in self.networks:
                self.networks[name].update(UPDATE_INTERVAL * self.batch_size, overconfidence)

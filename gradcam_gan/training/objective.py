"""What one training step optimises: the networks of a model, their losses and optimisers.

Without any part it is the DCGAN. With a class, D and G are conditional (projection D). With a diffusion, D sees noised
images and is told how much (Wang et al. 2023, "Diffusion-GAN"). With a classifier C, which has a diffusion of its own,
G is also trained to make images whose features C groups by class (Yeom & Lee 2023, "DuDGAN"). With guidance, D's
explanation of the generated images weights what G learns from them.
"""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.models.contrastive import supervised_contrast
from gradcam_gan.models.dcgan import Discriminator
from gradcam_gan.models.diffusion import ForwardDiffusion
from gradcam_gan.models.options import PLAIN, ClassifierOptions
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.devices import memory_format
from gradcam_gan.training.guidance import Guide
from gradcam_gan.training.networks import network_builders

UPDATE_INTERVAL = 4  # iterations from one update of a horizon to the next
PENALTY_INTERVAL = 16  # from one gradient penalty to the next (Karras et al. 2020: lazy regularisation)


def _stream_seed(seed: int, name: str) -> int:
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


class Objective:
    """The losses and the alternating steps of a model, of the parts that it has.

    With D the logit and c the embedding of C, images being diffused before D and before C:

    - L_D = softplus(-D(x)) + softplus(D(G(z))) + R1: gamma / 2 |grad D|^2 on the undiffused real images, every
      16 iterations and then 16 times as strong;
    - L_C = s SupCon(c(x)) + (1 - s) cross-entropy(x), on two diffusions of each real image;
    - L_G = (1 - g) softplus(-D(G(z))) + g SupCon(c(G(z))), one diffusion of each image, with g = 0 without a
      classifier.

    A DCGAN has the softplus terms alone (Goodfellow et al. 2014): binary cross-entropy after the paper's sigmoid,
    without its overflow. Real and generated images pass D in separate batches, and get their times independently, as in
    the published code; the papers' algorithm shares them. Order of the steps: D, G, as in DCGAN (Radford et al. 2016);
    with a classifier C, G, D, as in DuDGAN. C learns from real images only: in G's step it gets no gradient, and its
    running statistics stay.

    Args:
        config: the run.
        channels: image channels.
        classes: of the images; not used by an unconditional model.
        total_images: that the training shows, for the pace of the horizons.
        device: where the networks live.
        precision: ``bfloat16`` (autocast; weights and optimiser stay float32) or ``float32``.

    Attributes:
        networks: those that learn, the moving average of G, and the diffusions; all are saved.
        optimisers: of those that learn.
        statistics: names of what ``step`` returns.
        recordable: every step is the same kernels, without a draw or a count, so that a CUDA graph can repeat it.
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
        self.parts, self.batch_size, self._classes = config.parts, config.batch_size, classes
        self.recordable = self.parts == PLAIN
        # CPU generators: of the classes to generate, and of all times and noise
        self._labels, self._noise = (
            torch.Generator().manual_seed(_stream_seed(config.seed, name)) for name in ("labels", "objective")
        )
        # made on the CPU from the seed alone, so that every device starts from the same weights
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            networks = {name: build() for name, build in network_builders(config, channels, classes).items()}
        learning = list(networks)
        if self.parts.averaging:
            networks["generator_average"] = copy.deepcopy(networks["generator"]).requires_grad_(False)
        self.statistics: tuple[str, ...] = ("loss_discriminator", "loss_generator", "d_real", "d_fake")
        if (options := self.parts.diffusion) is not None:
            networks["discriminator_diffusion"] = ForwardDiffusion(options, total_images, self._noise)
            self.statistics += ("overconfidence", "discriminator_horizon")
        if self.parts.classifier is not None:
            options = self.parts.classifier.diffusion
            networks["classifier_diffusion"] = ForwardDiffusion(options, total_images, self._noise)
            self.statistics += ("loss_contrast", "loss_classes", "generator_contrast", "classifier_horizon")
        layout = memory_format(config.precision, precision, device)
        self.networks = {
            name: network.to(device, memory_format=layout)  # type: ignore[call-overload]
            for name, network in networks.items()
        }
        if not self.parts.gradient_penalty:  # whose second derivative is another one in the last bit
            self._activate_in_place()
        self.discriminator = cast(Discriminator, self.networks["discriminator"])
        self.generator = self.networks["generator"]
        self.optimisers = {name: self._optimiser(name, config) for name in learning}
        self._guide: Guide | None = None
        self._guided_from = 0.0  # an iteration
        if (guidance := self.parts.guidance) is not None:
            self._guide = Guide(guidance, self.discriminator, self._noise)
            self._guided_from = guidance.start * total_images / config.batch_size
        self.iteration = torch.zeros((), dtype=torch.int64)
        self.sign_sum = torch.zeros((), device=device)
        self._device_type, self._reduced = device.type, precision == "bfloat16"

    def _activate_in_place(self) -> None:
        """Let every (Leaky)ReLU write over its input: the same bits, and less memory to go through.

        For training only: whoever records the input of an activation (norm3) would find its output there.
        """
        for network in self.networks.values():
            for module in network.modules():
                if isinstance(module, nn.ReLU | nn.LeakyReLU):
                    module.inplace = True

    def _optimiser(self, name: str, config: TrainingConfig) -> torch.optim.Optimizer:
        """Adam, or C's AdamW, with its state made now, not at the first step: a checkpoint restores into it."""
        options, network = self.parts.classifier, self.networks[name]
        device = next(network.parameters()).device
        kernels = {"fused": True, "capturable": device.type == "cuda"}
        optimiser: torch.optim.Optimizer
        if name == "classifier" and options is not None:
            rate = options.learning_rate_ratio * config.learning_rate
            optimiser = torch.optim.AdamW(
                network.parameters(), rate, weight_decay=options.weight_decay, **kernels
            )
        else:
            betas = (config.beta1, config.beta2)
            optimiser = torch.optim.Adam(network.parameters(), config.learning_rate, betas, **kernels)
        for parameter in network.parameters():
            optimiser.state[parameter] = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return optimiser

    def state(self) -> dict[str, Tensor]:
        """What the next step needs beside the networks: the live tensors, to save or to copy into.

        Optimiser states by network, parameter and quantity; and the counters, unless the step is recordable.
        """
        optimisers = {
            f"{name}.{parameter_name}.{quantity}": tensor
            for name, optimiser in self.optimisers.items()
            for parameter_name, parameter in self.networks[name].named_parameters()
            for quantity, tensor in optimiser.state[parameter].items()
        }
        counters = {"iteration": self.iteration, "sign_sum": self.sign_sum}
        return optimisers if self.recordable else {**optimisers, **counters}

    def random(self) -> dict[str, torch.Generator]:
        """The random streams that the next step needs: none if it is recordable."""
        return {} if self.recordable else {"labels": self._labels, "objective": self._noise}

    def draw_labels(self, count: int) -> Tensor:
        """The classes (count,) of images to generate, on the CPU."""
        return torch.randint(self._classes, (count,), generator=self._labels)

    def step(self, real: Tensor, latents: Tensor, labels: Tensor, fake_labels: Tensor) -> Tensor:
        """Update every network once.

        Args:
            real: images (N, C, H, W) float32 in [-1, 1].
            latents: (N, 100), standard normal.
            labels: classes of the real images (N,); not used by an unconditional model.
            fake_labels: classes to generate (N,); not used by an unconditional model.

        Returns:
            float32 on the device, in the order of ``statistics``.
        """
        found: dict[str, Tensor] = {}
        with self._autocast():
            fake = self.generator(latents, fake_labels if self.parts.conditional else None)
        if self.parts.classifier is None:
            self._discriminator_step(real, labels, fake.detach(), fake_labels, found)
            self._generator_step(fake, fake_labels, found)
        else:
            self._classifier_step(real, labels, self.parts.classifier, found)
            self._generator_step(fake, fake_labels, found)
            self._discriminator_step(real, labels, fake.detach(), fake_labels, found)
        self._average_generator()
        if not self.recordable:
            self._count()
        return torch.stack([found[name].float() for name in self.statistics]).detach()

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

    def _judge(self, images: Tensor, labels: Tensor) -> Tensor:
        """D's logits (N,) of images, diffused where the model does that."""
        times = None
        if self.parts.diffusion is not None:
            images, times = self.networks["discriminator_diffusion"](images)
        return self.discriminator(images, **self.discriminator.conditions(labels, times)).float()

    def _discriminator_step(
        self, real: Tensor, labels: Tensor, fake: Tensor, fake_labels: Tensor, found: dict[str, Tensor]
    ) -> None:
        with self._autocast():
            logits_real, logits_fake = self._judge(real, labels), self._judge(fake, fake_labels)
        loss = F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()
        found["loss_discriminator"] = loss
        if self.parts.gradient_penalty and self.iteration % PENALTY_INTERVAL == 0:
            weight = self.parts.gradient_penalty / 2 * PENALTY_INTERVAL
            loss = loss + weight * self._squared_gradient(real, labels)
        self._update("discriminator", loss)
        found["d_real"], found["d_fake"] = logits_real.sigmoid().mean(), logits_fake.sigmoid().mean()
        if self.parts.diffusion is not None:
            found["overconfidence"] = logits_real.detach().sign().mean()
            self.sign_sum += found["overconfidence"]
            horizon = self.networks["discriminator_diffusion"].horizon
            found["discriminator_horizon"] = logits_real.new_tensor(float(horizon))

    def _squared_gradient(self, real: Tensor, labels: Tensor) -> Tensor:
        """Mean over images of |gradient of D's logit by the undiffused image|^2."""
        real = real.detach().requires_grad_()
        logits = self.discriminator(real, **self.discriminator.conditions(labels))
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean()

    def _generator_step(self, fake: Tensor, fake_labels: Tensor, found: dict[str, Tensor]) -> None:
        options = self.parts.classifier
        judges = [self.networks[name] for name in ("discriminator", "classifier") if name in self.networks]
        for judge in judges:
            judge.requires_grad_(False)  # the gradient goes through D and C, not to them
        guide = self._guide
        if guide is not None and self.iteration < self._guided_from:
            guide = None
        with self._autocast():
            judged = fake.view_as(fake)  # what else comes back to the images, C's, is not weighted
            with guide.watching() if guide else nullcontext():
                logits = self._judge(judged, fake_labels)
            if guide is not None:
                guide.weigh(judged, logits)
            loss = F.softplus(-logits).mean()
            if options is not None:
                views, _ = self.networks["classifier_diffusion"](fake)
                with _untracked(self.networks["classifier"]):
                    contrast, _ = self._contrast(views, fake_labels, options)
                found["generator_contrast"] = contrast
                share = options.share_in_generator
                loss = (1 - share) * loss + share * contrast
        self._update("generator", loss)
        found["loss_generator"] = loss
        for judge in judges:
            judge.requires_grad_(True)

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
        """Exponential moving average of G's weights.

        BatchNorm's statistics are taken as they are, and recomputed when the average is loaded (``Run.generator``).
        """
        if not self.parts.averaging:
            return
        average = self.networks["generator_average"]
        for mean, new in zip(average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(new, 1 - self.parts.averaging)
        for mean, new in zip(average.buffers(), self.generator.buffers(), strict=True):
            mean.copy_(new)

    def _count(self) -> None:
        """Count the iteration, and move the horizons when it is time."""
        self.iteration += 1
        if self.iteration % UPDATE_INTERVAL:
            return
        overconfidence = float(self.sign_sum) / UPDATE_INTERVAL
        self.sign_sum.zero_()
        for name in ("discriminator_diffusion", "classifier_diffusion"):
            if name in self.networks:
                self.networks[name].update(UPDATE_INTERVAL * self.batch_size, overconfidence)

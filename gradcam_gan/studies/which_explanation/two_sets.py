"""A discriminator trained on two fixed sets of images: what is real, and what is not.

No generator learns, so no one paints what D has found. The two sets are known to the last pixel, which a GAN's are not:
what tells them apart can be planted (``planted``) or taken away (``retrained``).
"""

import hashlib
import time
from pathlib import Path
from typing import cast

import torch
from filelock import FileLock
from torch import Tensor
from torch.nn import functional as F

from gradcam_gan.data import to_model_range
from gradcam_gan.models.dcgan import Discriminator
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.devices import (
    cpu_threads,
    keep_freed_memory,
    memory_format,
    reproducible_kernels,
    resolve_device,
    resolve_precision,
)
from gradcam_gan.training.networks import network_builders
from gradcam_gan.training.provenance import provenance

CALIBRATION_IMAGES = 1024
WEIGHTS = "discriminator.safetensors"
VERSION = 1  # raised whenever the same sets would train to other weights


def discriminator_of(
    config: TrainingConfig, real: Tensor, others: Tensor, runs_dir: Path, *, together: bool = True
) -> Discriminator:
    """The paper's D trained to tell two sets apart: loaded if it was trained on the same before, else trained now.

    It is kept under ``runs_dir/two_sets``, by what decides it: the configuration and every pixel.

    Args:
        config: preset, width, seed, epochs, batch size, Adam, precision and device; its data are not read.
        real: uint8 (N, C, H, W), with N a batch or more.
        others: uint8 (M, C, H, W), likewise.
        runs_dir: of the profile.
        together: whether a batch holds as many of either, under shared BatchNorm statistics; else each kind has its
            batches, as in a GAN's training. Then the statistics alone tell D which kind a batch is.

    Returns:
        In eval mode, on the configuration's device.
    """
    folder = runs_dir / "two_sets"
    path = folder / f"seed{config.seed}-{_digest(config, real, others, together)}"
    folder.mkdir(parents=True, exist_ok=True)
    device = resolve_device(config.device)
    with FileLock(folder / f".{path.name}.lock"):
        if not path.is_dir():
            start = time.perf_counter()
            trained = train_on_sets(config, real, others, together=together)
            with files.atomic_directory(path) as made:
                manifest = {
                    "config": config.model_dump(mode="json"),
                    "real": len(real),
                    "others": len(others),
                    "together": together,
                    "seconds": time.perf_counter() - start,
                    "sha256": files.write_tensors(made / WEIGHTS, trained.state_dict()),
                    **provenance(),
                }
                files.write_json(made / "manifest.json", files.sealed(manifest))
    network = untrained(config, real.shape[1])
    sha256 = files.read_json(path / "manifest.json").get("sha256")  # older ones have none
    network.load_state_dict(files.read_tensors(path / WEIGHTS, sha256=sha256))
    return network.to(device).eval()


def train_on_sets(
    config: TrainingConfig, real: Tensor, others: Tensor, *, together: bool = True
) -> Discriminator:
    """The same, always trained. An epoch ends with the smaller set; a last, smaller batch is left out."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    reduced = precision == "bfloat16"
    network = untrained(config, real.shape[1]).train()
    layout = memory_format(config.precision, precision, device)
    network.to(device, memory_format=layout)  # type: ignore[call-overload]
    adam = torch.optim.Adam(
        network.parameters(), config.learning_rate, (config.beta1, config.beta2), fused=True
    )
    sets, generator = (real.to(device), others.to(device)), torch.Generator().manual_seed(config.seed)
    batch = config.batch_size
    iterations = min(map(len, sets)) // batch
    keep_freed_memory()
    with cpu_threads(config.threads), reproducible_kernels():
        for _ in range(config.epochs):
            orders = [torch.randperm(len(images), generator=generator).to(device) for images in sets]
            for i in range(iterations):
                chosen = [
                    to_model_range(images[order[i * batch : (i + 1) * batch]])
                    for images, order in zip(sets, orders, strict=True)
                ]
                with torch.autocast(device.type, torch.bfloat16, reduced):
                    if together:
                        logits = network(torch.cat(chosen)).float().chunk(2)
                    else:
                        logits = tuple(network(images).float() for images in chosen)
                # binary cross-entropy of the sigmoid, as in training a GAN (Goodfellow et al. 2014)
                loss = F.softplus(-logits[0]).mean() + F.softplus(logits[1]).mean()
                adam.zero_grad(set_to_none=True)
                loss.backward()
                adam.step()
    return network.eval()


def as_shown(real: Tensor, others: Tensor, count: int = CALIBRATION_IMAGES) -> Tensor:
    """As many of both sets, up to ``count``, uint8 (n, C, H, W), mixed: what a D saw that was trained on both together.

    Its BatchNorm statistics can be recomputed on them (``calibrate``).
    """
    generator = torch.Generator().manual_seed(0)
    some = [
        images[torch.randperm(len(images), generator=generator)[: count // 2]] for images in (real, others)
    ]
    both = torch.cat(some)
    return both[torch.randperm(len(both), generator=generator)]


def untrained(config: TrainingConfig, channels: int) -> Discriminator:
    """D, for images of so many channels, with the initial weights of the configuration's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return cast(Discriminator, network_builders(config, channels, classes=0)["discriminator"]())


def _digest(config: TrainingConfig, real: Tensor, others: Tensor, together: bool) -> str:
    """16 hex digits of what decides the weights."""
    digest = hashlib.sha256(f"{VERSION} {sorted(config.identity.items())} {together}".encode())
    for images in (real, others):
        digest.update(f"{tuple(images.shape)}".encode())
        digest.update(images.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]

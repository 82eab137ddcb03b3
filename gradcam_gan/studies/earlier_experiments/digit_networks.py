"""Small supervised networks of digits: the evaluator's layers, trained on images and what is asked of each.

None is augmented: a turn would change the slant that it should predict, and a heatmap goes with its image.
"""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional as F

from gradcam_gan.scoring.evaluator import Evaluator
from gradcam_gan.training import files
from gradcam_gan.training.devices import (
    cpu_threads,
    keep_freed_memory,
    reproducible_kernels,
    resolve_device,
    resolve_precision,
)
from gradcam_gan.training.provenance import provenance

CONVOLUTION, RECTIFIED = (
    "convolutions.8",
    "convolutions.10",
)  # the last one's own output, and behind its ReLU: 8x8
BATCH = 64
LEARNING_RATE = 3e-3  # the highest, of one cycle
SCORED_AT_ONCE = 1000
VERSION = 1  # raised whenever the same images would train to other weights


@dataclass(frozen=True)
class DigitTraining:
    """How a network of digits is trained.

    Attributes:
        seed: of weights and order.
        epochs: passes over the images; a last, smaller batch of each is left out.
        precision: as a study's: auto, bfloat16 or float32.
        device: auto, cpu, cuda or cuda:N.
        threads: of the CPU; None: torch's own number.
    """

    seed: int
    epochs: int
    precision: str
    device: str
    threads: int | None


def digit_network(training: DigitTraining, images: Tensor, wanted: Tensor, runs_dir: Path) -> Evaluator:
    """A network of digits: loaded if the same was trained before, else trained now.

    It is kept under ``runs_dir/digit_networks``, by what decides it: how it is trained, every pixel, and what is asked.

    Args:
        training: how.
        images: uint8 (N, C, H, W), a batch or more.
        wanted: classes, int64 (N,), of cross-entropy; or numbers, float32 (N, K), of the squared error.
        runs_dir: of the profile.

    Returns:
        In eval mode, on the training's device: images -> logits (N, classes), or (N, K).
    """
    folder = runs_dir / "digit_networks"
    path = folder / f"seed{training.seed}-{_digest(training, images, wanted)}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{path.name}.lock"):
        if not path.is_dir():
            start = time.perf_counter()
            trained = train_digit_network(training, images, wanted)
            with files.atomic_directory(path) as made:
                files.write_tensors(made / "network.safetensors", trained.state_dict())
                manifest = {
                    **asdict(training),
                    "images": len(images),
                    "outputs": _outputs(wanted),
                    "seconds": time.perf_counter() - start,
                    **provenance(),
                }
                files.write_json(made / "manifest.json", manifest)
    network = _untrained(training, images, wanted)
    network.load_state_dict(files.read_tensors(path / "network.safetensors"))
    network.to(resolve_device(training.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def train_digit_network(training: DigitTraining, images: Tensor, wanted: Tensor) -> Evaluator:
    """The same, always trained: AdamW, one cycle of the learning rate."""
    device = resolve_device(training.device)
    reduced = resolve_precision(training.precision, device) == "bfloat16"
    network = _untrained(training, images, wanted).train()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # twice the rate on a CPU
    images, wanted, generator = (
        images.to(device),
        wanted.to(device),
        torch.Generator().manual_seed(training.seed),
    )
    iterations = len(images) // BATCH
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=training.epochs * iterations
    )
    loss_of = F.mse_loss if wanted.is_floating_point() else F.cross_entropy
    keep_freed_memory()
    with cpu_threads(training.threads), reproducible_kernels():
        for _ in range(training.epochs):
            order = torch.randperm(len(images), generator=generator)[: iterations * BATCH].to(device)
            for chosen in order.split(BATCH):
                with torch.autocast(device.type, torch.bfloat16, reduced):
                    outputs = network(images[chosen]).float()
                loss = loss_of(outputs, wanted[chosen])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
    return network.eval()


def outputs_of(network: nn.Module, images: Tensor) -> Tensor:
    """What a network says of images (N, C, H, W): float32 (N, outputs), on the CPU."""
    device = next(network.parameters()).device
    with torch.no_grad():  # not inference mode: a target that is made of it takes part in a gradient
        return torch.cat([network(some.to(device)).cpu() for some in images.split(SCORED_AT_ONCE)])


def _outputs(wanted: Tensor) -> int:
    return wanted.shape[1] if wanted.is_floating_point() else int(wanted.max()) + 1


def _untrained(training: DigitTraining, images: Tensor, wanted: Tensor) -> Evaluator:
    """With the initial weights of the training's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        return Evaluator(_outputs(wanted), images.shape[1])


def _digest(training: DigitTraining, images: Tensor, wanted: Tensor) -> str:
    """16 hex digits of what decides the weights."""
    decides = (VERSION, training.seed, training.epochs, training.precision)
    digest = hashlib.sha256(repr(decides).encode())
    for values in (images, wanted):
        digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]

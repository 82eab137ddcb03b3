"""How fast training is, as a ratio measured in one run: against the PyTorch DCGAN example's loop.

Each contender lives in a process of its own, so that neither profits from the other's memory. They take turns,
a few steps each, so that a busy machine slows all of them alike; the ratio is taken within each round and the
median over rounds is shown. On a machine that others use, ``--threads 1 --cpu-time`` is steadier than wall time.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from gradcam_gan.models.dcgan import LATENT_SIZE, Discriminator, Generator
from gradcam_gan.models.options import Model
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.devices import keep_freed_memory, resolve_precision
from gradcam_gan.training.objective import Objective

BATCH = 64
STEPS = {64: 2, 16: 8}  # width -> steps a round
CONTENDERS = ("plain", "float32", "auto")  # the example's loop; ours in each precision
CLASSES = 10

Step = Callable[[Tensor, Tensor], object]
_step: Step  # of the worker process


def plain_step(width: int) -> Step:
    """The loop of pytorch/examples/dcgan on the paper's networks: float32, default layout, Adam not fused."""
    discriminator, generator = Discriminator(width=width), Generator(width=width)
    optimise_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimise_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    loss = F.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(BATCH), torch.zeros(BATCH)

    def step(real: Tensor, latents: Tensor) -> list[float]:
        discriminator.zero_grad()
        logits = discriminator(real)
        loss_real = loss(logits, ones)
        loss_real.backward()
        d_real = logits.sigmoid().mean().item()
        fake = generator(latents)
        logits = discriminator(fake.detach())
        loss_fake = loss(logits, zeros)
        loss_fake.backward()
        d_fake = logits.sigmoid().mean().item()
        optimise_d.step()

        generator.zero_grad()
        loss_generator = loss(discriminator(fake), ones)
        loss_generator.backward()
        optimise_g.step()
        return [(loss_real + loss_fake).item(), loss_generator.item(), d_real, d_fake]

    return step


def own_step(width: int, precision: str, model: Model | None) -> Step:
    """A step of a model, with labels bound."""
    cpu, labels = torch.device("cpu"), torch.arange(BATCH) % CLASSES
    precision = resolve_precision(precision, cpu)
    keep_freed_memory()
    objective = Objective(TrainingConfig(width=width, model=model), 1, CLASSES, 100_000, cpu, precision)
    return lambda real, latents: objective.step(real, latents, labels, labels)


def start(name: str, model: Model | None, width: int, threads: int) -> float:
    """Make the worker's contender and warm it up; MiB that this adds to the peak of the idle process.

    One of ``CONTENDERS`` is the DCGAN; any other name is a model, in precision auto.
    """
    global _step
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    # getrusage's peak is no use: it starts at that of the parent process and includes the imports'
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to what is held now
    before = peak_resident()
    precision = name if name in CONTENDERS else "auto"
    _step = plain_step(width) if name == "plain" else own_step(width, precision, model)
    seconds_per_step(3, cpu_time=False)
    return peak_resident() - before


def seconds_per_step(steps: int, cpu_time: bool) -> float:
    """Mean time of the worker's next steps, all on the same images and latents."""
    real, latents = torch.rand(BATCH, 1, 64, 64) * 2 - 1, torch.randn(BATCH, LATENT_SIZE)
    clock = time.process_time if cpu_time else time.perf_counter
    begin = clock()
    for _ in range(steps):
        _step(real, latents)
    return (clock() - begin) / steps


def peak_resident() -> float:
    """Peak resident memory of this process since it was last reset, MiB (Linux only)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(
    width: int, rounds: int, threads: int, cpu_time: bool, contenders: Mapping[str, Model | None]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Peak memory of each contender, MiB, and its seconds a step, one number a round."""
    workers = {name: ProcessPoolExecutor(1, get_context("spawn")) for name in contenders}
    try:
        peaks = {
            name: worker.submit(start, name, contenders[name], width, threads).result()
            for name, worker in workers.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                seconds[name].append(worker.submit(seconds_per_step, STEPS[width], cpu_time).result())
    finally:
        for worker in workers.values():
            worker.shutdown()
    return peaks, seconds


def parsed(arguments: list[str] | None, description: str | None) -> argparse.Namespace:
    """The options of a benchmark of steps: ``threads``, ``rounds``, ``cpu_time``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds, not wall time")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    options = parsed(arguments, __doc__)

    precision = resolve_precision("auto", torch.device("cpu"))
    print(
        f"train: one DCGAN step on {BATCH} images of 64x64, CPU, {options.threads} threads; plain is the loop"
    )
    print(
        f"of the PyTorch DCGAN example in float32, auto is {precision} here; median of {options.rounds} rounds"
    )
    print("peak memory: what the process adds to Python with torch imported\n")
    header = ("width", "training", f"images/{'CPU s' if options.cpu_time else 's'}", "vs plain", "peak MiB")
    print("  ".join(f"{title:>14}" for title in header))
    for width in STEPS:
        peaks, seconds = measure(
            width, options.rounds, options.threads, options.cpu_time, dict.fromkeys(CONTENDERS)
        )
        for name in CONTENDERS:
            ratio = median(a / b for a, b in zip(seconds["plain"], seconds[name], strict=True))
            rate = BATCH / median(seconds[name])
            cells = (f"{width}", name, f"{rate:.0f}", f"{ratio:.2f} x", f"{peaks[name]:.0f}")
            print("  ".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()

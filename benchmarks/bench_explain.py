"""How fast explaining is, as ratios measured in one run: against the references and the bare forward pass.

Every repeat times all contenders one after the other, so that a busy machine slows all of them alike; the
ratio is taken within each repeat and the median over repeats is shown. Peak memory is that of a fresh process
each, from Linux's /proc.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

import gradcam_gan.torchvision_compat  # noqa: F401  (before pytorch-grad-cam)
from gradcam_gan.explaining.cam import Precision, explain
from gradcam_gan.models.dcgan import Discriminator

WIDTH = 64
BATCHES = (64, 1024)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
CONTENDERS = ("explain", "forward", "pytorch-grad-cam", "captum")


def contender(name: str, batch: int, precision: Precision) -> Callable[[], object]:
    """What is timed: one call for ``batch`` images at the last block.

    The references run as a user runs them, in float32; the bare forward pass in ``precision``, without graph.
    """
    torch.manual_seed(0)
    discriminator = Discriminator(width=WIDTH).eval()
    images = torch.rand(batch, 1, 64, 64) * 2 - 1
    layer = discriminator.named_layers["conv3"]
    if name == "explain":
        return lambda: explain(discriminator, images, precision=precision)
    if name == "forward":

        def forward() -> None:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                discriminator(images)

        return forward
    if name == "pytorch-grad-cam":
        from pytorch_grad_cam import GradCAM

        cam = GradCAM(discriminator, [layer])
        targets = [torch.Tensor.sum] * batch
        return lambda: cam(images, targets)

    from captum.attr import LayerAttribution, LayerGradCam

    captum = LayerGradCam(discriminator, layer)
    return lambda: LayerAttribution.interpolate(
        captum.attribute(images, relu_attributions=True).detach(), (64, 64), "bilinear"
    )


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rates(batch: int, precision: Precision, repeats: int) -> dict[str, list[float]]:
    """Images a second of each contender, one number a repeat, after one call each to warm up."""
    runs = {name: contender(name, batch, precision) for name in CONTENDERS}
    for run in runs.values():
        run()
    measured: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            measured[name].append(batch / seconds(run))
    return measured


def peak_memory(name: str, batch: int, precision: Precision, threads: int) -> float:
    """MiB that one call adds to the peak resident memory of a fresh process."""
    arguments = ["--threads", str(threads), "--memory-of", name, str(batch), precision]
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout)


def added_peak(name: str, batch: int, precision: Precision) -> float:
    """MiB that one call adds to what this process holds; a first call of one image loads what stays."""
    contender(name, 1, precision)()
    run = contender(name, batch, precision)
    # getrusage's peak is no use: it starts at that of the parent process and includes the imports'
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to what is held now
    before = peak_resident()
    run()
    return peak_resident() - before


def peak_resident() -> float:
    """Peak resident memory of this process since it was last reset, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--memory-of", nargs=3, metavar=("NAME", "BATCH", "PRECISION"), help=argparse.SUPPRESS
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        name, batch, precision = options.memory_of
        print(added_peak(name, int(batch), precision))
        return

    print(f"explain: Grad-CAM at the last convolution, 64x64, width {WIDTH}, CPU, {options.threads} threads,")
    print(f"median of {options.repeats} interleaved repeats; references always in float32\n")
    header = ("batch", "precision", "explain/s", *(f"vs {name}" for name in CONTENDERS[1:]))
    print("  ".join(f"{title:>20}" for title in header))
    for batch in BATCHES:
        for precision in PRECISIONS:
            measured = rates(batch, precision, options.repeats)
            ours = measured["explain"]
            ratios = [
                median(a / b for a, b in zip(ours, measured[name], strict=True)) for name in CONTENDERS[1:]
            ]
            cells = [f"{batch}", precision, f"{median(ours):.0f}", *(f"{ratio:.2f} x" for ratio in ratios)]
            print("  ".join(f"{cell:>20}" for cell in cells), flush=True)

    print("\nadded peak memory of one call, MiB\n")
    print("  ".join(f"{title:>20}" for title in ("batch", "precision", *CONTENDERS)))
    for batch in BATCHES:
        for precision in PRECISIONS:
            peaks = [f"{peak_memory(name, batch, precision, options.threads):.0f}" for name in CONTENDERS]
            print("  ".join(f"{cell:>20}" for cell in (f"{batch}", precision, *peaks)), flush=True)


if __name__ == "__main__":
    main()

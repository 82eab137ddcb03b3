"""How long a move of the Explorer's slider takes the kernel: a new view and its page of HTML, in milliseconds.

The first visit of an epoch loads its network and explains the grid; later ones come from the cache.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from statistics import median

import torch

from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.run_explainer import Statistics
from gradcam_gan.studies.explore.pictures import page
from gradcam_gan.studies.explore.state import Explorer, Setting
from gradcam_gan.studies.explore.subjects import run_explorer
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import train

WIDTH, EPOCHS, CALIBRATION_IMAGES = 16, 6, 1024  # the quick profile's network and calibration
KINDS: tuple[Statistics, ...] = ("running", "batch", "reference", "settled")


def milliseconds(explorer: Explorer, setting: Setting) -> float:
    """Of one redraw."""
    start = time.perf_counter()
    page(explorer.view(setting))
    return 1000 * (time.perf_counter() - start)


def moves(explorer: Explorer, setting: Setting) -> tuple[float, float]:
    """Medians over the epochs but the first: of the first visit, and of a later one."""
    settings = [replace(setting, epoch=epoch) for epoch in explorer.epochs]
    first, later = ([milliseconds(explorer, one) for one in settings][1:] for _ in range(2))
    return median(first), median(later)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args(arguments).threads
    torch.set_num_threads(threads)
    print(f"explorer: milliseconds of a slider move at width {WIDTH}, CPU, {threads} threads\n")
    print(f"{'method':>22}  {'statistics':>10}  {'first visit':>11}  {'later':>6}")
    with tempfile.TemporaryDirectory() as folder:
        run = train(TrainingConfig(width=WIDTH, epochs=EPOCHS, train_images=1024), folder)
        explorer = run_explorer(run, "benchmark", CALIBRATION_IMAGES)
        for method in METHODS:
            for kind in KINDS if method == "gradcam" else KINDS[:1]:
                reading = replace(explorer.default, method=method, statistics=kind)
                first, later = moves(explorer, replace(explorer.first, reading=reading))
                print(f"{METHODS[method].label:>22}  {kind:>10}  {first:>11.0f}  {later:>6.0f}", flush=True)


if __name__ == "__main__":
    main()

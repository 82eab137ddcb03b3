"""``python -m benchmarks``: the machine, then every benchmark's tables; under four minutes on two idle cores."""

import argparse
import os
import platform
from pathlib import Path

import torch

from benchmarks import bench_explain, bench_explore, bench_models, bench_training


def processor() -> str:
    """The processor's name, where Linux tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    threads = str(parser.parse_args().threads)

    capability = torch.backends.cpu.get_cpu_capability()
    print(
        f"{processor()} ({capability}), {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}\n"
    )
    bench_training.main(["--threads", threads])
    print()
    bench_models.main(["--threads", threads])
    print()
    bench_explain.main(["--threads", threads])
    print()
    bench_explore.main(["--threads", threads])


if __name__ == "__main__":
    main()

"""Two workflows on one folder at once, and one that was killed: one waits or says so, and the results are the same."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gradcam_gan.studies import paths
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import train
from torture.compare import differences
from torture.processes import result
from torture.small import on_disk, small

LONG = {"epochs": 10}  # so that the second process finds the first at work
CHECKOUT = ("pyproject.toml", "gradcam_gan", "notebooks", "params", "data/mnist-5k.npz", "Snakefile")
NOTEBOOK = "01"  # smoke's two trainings, their tables, and a notebook
HELD = "another workflow is at work in"
DEADLINE = 1800  # seconds


def campaign() -> dict[str, object]:
    """Two ``train``, then two ``figures`` of smoke's notebook 1, then one ``figures`` killed and called again.

    Returns:
        ``pairs`` of workflows, and those killed, together; ``different``: those that ended otherwise, or said nothing
        clear; ``failures`` in words.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        failures = _two_trainings(folder) + _workflows(folder)
    return {"notebook": NOTEBOOK, "cases": 3, "different": len(failures), "failures": failures}


def _two_trainings(folder: Path) -> list[str]:
    config = small(**LONG)
    expected = result(lambda: on_disk(train(config, folder / "whole").path))
    both = [_started(_train_command(config, folder / "both"), paths.REPOSITORY) for _ in range(2)]
    ended = [process.communicate(timeout=DEADLINE) for process in both]
    codes = [process.returncode for process in both]
    if codes != [0, 0]:
        return [f"two trainings: {ended}"]
    found = result(lambda: on_disk(folder / "both" / config.name))
    waited = sum("waiting for it to finish" in errors for _, errors in ended)
    failures = [] if found == expected else ["two trainings: another end"]
    return failures + ([] if waited == 1 else [f"two trainings: {waited} waited"])


def _workflows(folder: Path) -> list[str]:
    """Two at once in one checkout, and one that is killed in another: as one alone in a third."""
    alone, both, killed = (_checkout(folder / name) for name in ("alone", "both", "killed"))
    failures = _call(alone)
    first = _started(_figures_command(), both)
    _wait_for(both / "runs/smoke/logs/snakemake.log", first)
    second = _started(_figures_command(), both)
    _, said = second.communicate(timeout=DEADLINE)
    if second.returncode != 2 or HELD not in said or len(said.strip().splitlines()) != 1:
        failures.append(f"the second of two workflows: status {second.returncode}: {said}")
    first.communicate(timeout=DEADLINE)
    if first.returncode:
        failures.append(f"the first of two workflows: status {first.returncode}")
    process = _started(_figures_command(), killed)
    _wait_for(killed / "runs/smoke/logs/seed1.measured.log", process)
    os.killpg(process.pid, signal.SIGKILL)  # Snakemake and its jobs too
    process.communicate()
    failures += _call(killed)
    for name, checkout in (("two workflows", both), ("a workflow that was killed", killed)):
        differing = differences(alone, checkout)
        failures += [f"{name}: {', '.join(differing)} differ"] if differing else []
    return failures


def _checkout(folder: Path) -> Path:
    """A copy of what the workflow needs, with runs and figures of its own."""
    for name in CHECKOUT:
        source = paths.REPOSITORY / name
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder


def _train_command(config: TrainingConfig, runs_dir: Path) -> list[str]:
    fields = [
        f"{name}={value}" for name, value in config.model_dump(mode="json", exclude_defaults=True).items()
    ]
    return [sys.executable, "-m", "gradcam_gan", "train", *fields, "--runs-dir", str(runs_dir)]


def _figures_command() -> list[str]:
    return [
        sys.executable,
        "-m",
        "gradcam_gan",
        "figures",
        "--profile",
        "smoke",
        "--only",
        NOTEBOOK,
        "--cores",
        "1",
    ]


def _started(command: list[str], folder: Path) -> "subprocess.Popen[str]":
    """A process of a group of its own, with that folder's package."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def _call(folder: Path) -> list[str]:
    process = _started(_figures_command(), folder)
    _, errors = process.communicate(timeout=DEADLINE)
    return [f"{folder.name}: status {process.returncode}: {errors[-500:]}"] if process.returncode else []


def _wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.05)

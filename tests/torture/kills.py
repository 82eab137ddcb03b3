"""Trainings killed at random moments, and gone on with: each must end as the one that was left alone, bit for bit."""

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from tqdm.auto import tqdm

from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import load_run
from torture.processes import Outcome, finished, forked, result, start
from torture.small import DUDGAN, on_disk, small

MOST_KILLS = 4  # of one training, which is gone on with after each
KILLED = Outcome("died", f"status {-signal.SIGKILL}")
RETIMED = 20  # trainings from one that is left alone to the next: on a busy machine they take longer


def campaign(kills: int, seed: int) -> dict[str, object]:
    """Kill the DCGAN and DuDGAN in turn until there are so many kills.

    Returns:
        ``kills``; ``within_a_write``: how many of them left a temporary file behind; ``trainings`` killed;
        ``different``: those that ended otherwise, or could not be read or gone on with; ``failures`` in words.
    """
    rng, done, writes, trainings = random.Random(seed), 0, 0, 0
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder, tqdm(total=kills, desc="kills") as progress:
        whole = [Whole(config, Path(folder) / "whole") for config in (small(), small(model=DUDGAN))]
        while done < kills:
            one, runs_dir = whole[trainings % len(whole)], Path(folder) / "killed"
            if trainings // len(whole) % RETIMED == 0:
                one.train()
            most = min(rng.randint(1, MOST_KILLS), kills - done)
            killed, torn, problem = _torture(one, runs_dir, most, rng)
            if problem:
                failures.append(f"training {trainings}: {problem}")
            done, writes, trainings = done + killed, writes + torn, trainings + 1
            progress.update(killed)
            shutil.rmtree(runs_dir, ignore_errors=True)
    return {
        "kills": done,
        "within_a_write": writes,
        "trainings": trainings,
        "different": len(failures),
        "failures": failures,
    }


class Whole:
    """A training left alone: what is expected of the others, and how long they take."""

    def __init__(self, config: TrainingConfig, runs_dir: Path) -> None:
        self.config, self._runs_dir = config, runs_dir
        self.train()
        self.expected = result(lambda: on_disk(runs_dir / config.name))

    def train(self) -> None:
        """Train it anew, and set ``seconds``."""
        shutil.rmtree(self._runs_dir / self.config.name, ignore_errors=True)
        begin = time.monotonic()
        result(lambda: train(self.config, self._runs_dir).path)
        self.seconds = time.monotonic() - begin


def _torture(whole: Whole, runs_dir: Path, most: int, rng: random.Random) -> tuple[int, int, str]:
    """One training, killed up to ``most`` times: how often it was, how often within a write, and what is wrong."""
    path, killed, torn = runs_dir / whole.config.name, 0, 0
    while killed < most:
        process, reading = start(lambda: _go_on(whole.config, runs_dir))
        time.sleep(rng.uniform(0, whole.seconds))
        os.kill(process, signal.SIGKILL)
        outcome = finished(process, reading)
        if outcome.kind == "returned":  # it was done before the kill came
            break
        if outcome != KILLED:
            return killed, torn, f"{outcome.kind}: {outcome.value}"
        killed += 1
        torn += any(path.rglob(".*.tmp"))
    outcome = forked(lambda: on_disk(_go_on(whole.config, runs_dir)))
    if outcome.kind != "returned":
        return killed, torn, f"{outcome.kind}: {outcome.value}"
    found, expected = outcome.value, whole.expected
    differing = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    return killed, torn, f"differs in {', '.join(differing)}" if differing else ""


def _go_on(config: TrainingConfig, runs_dir: Path) -> Path:
    """Load all that was saved before, and train to the end; the run's folder."""
    path = runs_dir / config.name
    if (path / "manifest.json").is_file():
        run = load_run(path)
        for epoch in run.epochs:
            run.discriminator(epoch)
            run.generator(epoch)
    return train(config, runs_dir).path

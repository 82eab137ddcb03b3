"""Files changed at random, each then read as a user would: the same result, one clear line, or something is wrong.

What has a checksum must be the same or refused. What a user writes (parameters), and what has none (runs of before
there were checksums, another program's weights) may also be another value that is allowed. A training that was begun is
never gone on with on other images. Nothing may raise another error, hang, or run code that stands in a file.
"""

import json
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

from torture import targets
from torture.harm import harmed
from torture.processes import finished, start, tried
from torture.targets import Target

BATCH = 100  # mutations in one process
LONGEST = 10.0  # seconds of computing for one: a busy machine is no hang
WAITED = 60.0  # seconds for one that does not compute
WELL = ("identical", "refused", "another")


class Hung(BaseException):
    """It takes too long; of no kind that anything catches."""


def campaign(mutations: int, seed: int) -> dict[str, object]:
    """Change so many files of every kind; fewer of those that a training reads.

    Returns:
        ``mutations``; how many gave the ``identical`` result, were ``refused`` in one line, or gave ``another`` value
        that is allowed; ``by_kind`` of files the same; ``failures`` in words.
    """
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name, tqdm(total=mutations, desc="mutations") as progress:
        folder = Path(name)
        kinds = targets.make(folder)
        made = [target for target in kinds for _ in range(target.share)]
        counts = {target.name: Counter[str]() for target in kinds}
        number = 0
        while number < mutations:
            log = folder / "log"
            batch = range(number, min(number + BATCH, mutations))
            process, reading = start(lambda batch=batch, log=log: _mutate(made, folder, batch, seed, log))
            outcome = finished(process, reading, len(batch) * WAITED)
            for line in log.read_text().splitlines():
                kind, what, words = json.loads(line)
                counts[made[number % len(made)].name][kind] += 1
                if kind not in WELL:
                    failures.append(f"{number} ({what}): {kind}: {words}")
                number += 1
                progress.update()
            if outcome.kind != "returned":  # the next one ended the process
                failures.append(
                    f"{number} ({made[number % len(made)].name}): {outcome.kind}: {outcome.value}"
                )
                number += 1
            log.unlink()
    totals = sum(counts.values(), Counter[str]())
    return {
        "mutations": mutations,
        **{kind: totals[kind] for kind in WELL},
        "by_kind": {name: {kind: found[kind] for kind in WELL} for name, found in counts.items()},
        "failures": failures,
    }


def _mutate(made: list[Target], folder: Path, numbers: range, seed: int, log: Path) -> None:
    """Change a file for each number, and log what becomes of it."""
    with log.open("w") as lines:
        for number in numbers:
            target = made[number % len(made)]
            found = mutate(target, random.Random(f"{seed} {number}"), folder)
            print(json.dumps(found), file=lines, flush=True)


def mutate(target: Target, rng: random.Random, folder: Path) -> tuple[str, str, str]:
    """Change one file, read it, and put it back.

    Returns:
        What became of it (of ``WELL``, or a failure), what was done, and an error's words.
    """
    path, marker = rng.choice(target.files), folder / "executed"
    way, content = harmed(rng, path, target.files, marker)
    path.write_bytes(content)
    what = f"{target.name}: {path.name}: {way}"
    try:
        with _limited():
            outcome = tried(target.read)
    except Hung:
        return "hung", what, f"for more than {LONGEST:g} s"
    finally:
        target.restore()
    if marker.exists():
        marker.rmdir()
        return "executed", what, ""
    if outcome.kind == "returned":
        if outcome.value == target.expected:
            return "identical", what, ""
        return "another" if target.free else "different", what, ""
    return outcome.kind, what, outcome.value


@contextmanager
def _limited() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hung

    timers = {signal.ITIMER_PROF: LONGEST, signal.ITIMER_REAL: WAITED}
    for bell in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(bell, ring)
    for timer, seconds in timers.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)

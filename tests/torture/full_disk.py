"""The disk full at every write in turn, for once or for good: one clear line each time, and afterwards the same end."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tqdm.auto import tqdm

from gradcam_gan.scoring.scores import evaluate_run
from gradcam_gan.training import files
from gradcam_gan.training.loop import train
from torture.processes import forked, result
from torture.small import on_disk, small, small_reference

CONFIG = small(epochs=2)
SCORED = 20  # images of a generator
SAID = "the disk is full"


class Disk:
    """Counts what needs room on the disk, and refuses it from one call on.

    Args:
        first: the first call, from 0, that is refused; None: none is.
        last: whether that is the only one.
    """

    def __init__(self, first: int | None = None, *, last: bool = False) -> None:
        self.calls, self._first, self._last = 0, first, last

    def refuses(self) -> bool:
        """Whether there is no room for this call."""
        number, self.calls = self.calls, self.calls + 1
        return self._first is not None and (number == self._first if self._last else number >= self._first)


def campaign() -> dict[str, object]:
    """Train a network and score it, and let every write fail in turn.

    Returns:
        ``writes`` that there are; ``refusals``: how often the disk was full, for each once and for good; ``different``:
        those that ended otherwise, or said nothing clear; ``failures`` in words.
    """
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        writes = result(lambda: _on(Disk(), lambda: _work(whole))[0])
        expected = result(lambda: _work(whole))
        cases = [(first, last) for first in range(writes) for last in (True, False)]
        for first, last in tqdm(cases, desc="full disk"):
            runs_dir = Path(name) / f"{first}{'once' if last else 'on'}"
            if problem := _fill(Disk(first, last=last), runs_dir, expected):
                failures.append(f"write {first}, {'once' if last else 'for good'}: {problem}")
    return {"writes": writes, "refusals": len(cases), "different": len(failures), "failures": failures}


def _fill(disk: Disk, runs_dir: Path, expected: dict[str, str]) -> str:
    """Work on that disk, then on one with room; what is wrong, if anything."""
    outcome = forked(lambda: _on(disk, lambda: _work(runs_dir)))
    if outcome.kind != "refused" or SAID not in outcome.value:
        return f"{outcome.kind}: {outcome.value}"
    outcome = forked(lambda: _work(runs_dir))
    if outcome.kind != "returned":
        return f"afterwards {outcome.kind}: {outcome.value}"
    return "" if outcome.value == expected else "another end"


def _work(runs_dir: Path) -> dict[str, str]:
    run = train(CONFIG, runs_dir)
    scores = evaluate_run(run, small_reference(runs_dir), count=SCORED)
    return {**on_disk(run.path), "scores": scores.to_csv()}


def _on(disk: Disk, work: Callable[[], Any]) -> tuple[int, Any]:
    """What this call returns on that disk, and the number of its writes first."""
    with _patched(disk):
        value = work()
    return disk.calls, value


@contextmanager
def _patched(disk: Disk) -> Iterator[None]:
    """Let all that the package needs room for ask that disk: folders, files, their content, their names."""

    def guarded(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if disk.refuses():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments, **named)

        return call

    write, opened = files._write_durably, os.open

    def half(path: Path, content: bytes) -> None:
        if disk.refuses():
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    def creating(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        return (guarded(opened) if flags & os.O_CREAT else opened)(path, flags, *arguments, **named)

    with (
        mock.patch.object(files, "_write_durably", half),
        mock.patch.object(os, "open", creating),
        mock.patch.object(Path, "mkdir", guarded(Path.mkdir)),
        mock.patch.object(Path, "rename", guarded(Path.rename)),
        mock.patch.object(Path, "replace", guarded(Path.replace)),
    ):
        yield

"""Processes that may be killed, may crash and may hang, forked from one that has torch imported already.

It has also what training and scoring import when they first need it, in seconds: dynamo, torchmetrics, prdc. And it
never computes: a fork of a process in which torch has threads of its own would wait for them for ever.
"""

import io
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch

from gradcam_gan.errors import GradcamGanError

# in this order: torchmetrics imports torchvision
for late in (
    "torch._dynamo",
    "gradcam_gan.torchvision_compat",
    "torchmetrics.image.fid",
    "torchmetrics.image.kid",
):
    import_module(late)
import_module("prdc")

LONGEST = 60.0  # seconds, of a call that takes one when nothing is wrong


class Outcome(NamedTuple):
    """How a call in a process of its own ended.

    Attributes:
        kind: ``returned``, ``refused`` (an error of this package, in one line), ``raised`` (any other), ``died`` or
            ``hung``.
        value: what was returned; else words.
    """

    kind: str
    value: Any


def start(work: Callable[[], object]) -> tuple[int, int]:
    """Fork a process that calls this and reports how it ended; its id, and where its report can be read."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:
        os.close(reading)
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        torch.set_num_threads(1)
        with os.fdopen(writing, "wb") as report:
            pickle.dump(tried(work), report)
    finally:
        os._exit(0)  # without what the parent would do at its end


def tried(work: Callable[[], object]) -> Outcome:
    """Call this, and say how it ended."""
    try:
        return Outcome("returned", work())
    except GradcamGanError as error:
        return Outcome("raised" if "\n" in str(error) else "refused", f"{type(error).__name__}: {error}")
    except Exception as error:
        return Outcome("raised", f"{type(error).__name__}: {error}"[:500])


def finished(process: int, reading: int, seconds: float = LONGEST) -> Outcome:
    """Wait for a forked process and take its report; one that does not end is killed."""
    content, end, hung = io.BytesIO(), time.monotonic() + seconds, False
    while True:
        if not select.select([reading], [], [], max(end - time.monotonic(), 0))[0]:
            os.kill(process, signal.SIGKILL)
            hung = True
            break
        some = os.read(reading, 1 << 20)
        if not some:
            break
        content.write(some)
    os.close(reading)
    _, status = os.waitpid(process, 0)
    if hung:
        return Outcome("hung", f"for more than {seconds:g} s")
    try:
        return pickle.loads(content.getvalue())
    except (EOFError, pickle.UnpicklingError):
        return Outcome("died", f"status {os.waitstatus_to_exitcode(status)}")


def forked(work: Callable[[], object], seconds: float = LONGEST) -> Outcome:
    """How this call ends in a process of its own."""
    return finished(*start(work), seconds)


def result(work: Callable[[], object]) -> Any:
    """What this call returns in a process of its own, where it must not fail."""
    outcome = forked(work)
    if outcome.kind != "returned":
        raise RuntimeError(f"{outcome.kind}: {outcome.value}")
    return outcome.value

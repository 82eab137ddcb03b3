"""Files that are either whole or absent: atomic writes, and reads that never run code."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from gradcam_gan.errors import RunError


def _sync_directory(folder: Path) -> None:
    """Make a rename in this folder survive a power cut (POSIX only; other systems do it by themselves)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_durably(temporary, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: the file is missing or is not JSON.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no JSON object")
    return content


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that killed writers left in a folder in which nobody else writes now."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` to fill; it takes that name only when all of it is on disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _sync_directory(temporary)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_directory(path.parent)


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors, of any device and layout, as the content of a safetensors file."""
    on_cpu = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return safetensors_bytes(on_cpu)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, durably; atomic only inside ``atomic_directory``."""
    _write_durably(path, tensor_bytes(tensors))


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read named tensors.

    Raises:
        RunError: the file is missing, truncated or not safetensors.
    """
    try:
        tensors = parse_safetensors(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    return {name: tensor.to(device) for name, tensor in tensors.items()}

"""Files that are either whole or absent: atomic writes, and reads that never run code and notice damage."""

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from gradcam_gan.errors import RunError, one_line

CHECKSUM = "checksum"  # a JSON object's own, in ``sealed``
TABLE_CHECKSUM = b"# sha256 "  # before that of a table
DAMAGED = "damaged: its content is not what its checksum says"


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


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """A JSON object as the content of a file."""
    return (json.dumps(content, indent=2) + "\n").encode()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_bytes(path, json_bytes(content))


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the SHA-256 of its values, by which ``read_json`` notices a changed one."""
    return {**content, CHECKSUM: digest(content)}


def digest(content: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON values, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; if it is ``sealed``, without its checksum.

    Raises:
        RunError: the file is missing, is not JSON, or is not what its checksum says.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no JSON object")
    if CHECKSUM in content and content.pop(CHECKSUM) != digest(content):
        raise RunError(f"{path} is {DAMAGED}")
    return content


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically as CSV below a line ``# sha256 ...``, by which ``read_table`` notices damage."""
    content = table.to_csv(index=False).encode()
    write_bytes(path, TABLE_CHECKSUM + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of ``write_table``, or a CSV file of before there were checksums.

    Raises:
        RunError: the file is missing, is no CSV, or is not what its checksum says.
    """
    try:
        content = path.read_bytes()
        if content.startswith(TABLE_CHECKSUM):
            line, _, content = content.partition(b"\n")
            if line != TABLE_CHECKSUM + hashlib.sha256(content).hexdigest().encode():
                raise RunError(f"{path} is {DAMAGED}")
        return pd.read_csv(io.BytesIO(content))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {one_line(error)}") from None


@contextmanager
def reporting(folder: Path) -> Iterator[None]:
    """Say in one line that what is made inside could not be written to a folder.

    Raises:
        RunError: a full disk, a folder that may not be written to, and what else the system refuses.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"could not write to {folder}: {reason(error)}; the same call goes on from what is there"
        ) from None


def reason(error: OSError) -> str:
    """Why the system refused, in its words, and in plain ones where the disk is full."""
    return "the disk is full" if error.errno == errno.ENOSPC else error.strerror or one_line(error)


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


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write named tensors as safetensors, durably; atomic only inside ``atomic_directory``.

    Returns:
        The file's SHA-256, 64 hexadecimal digits, for ``read_tensors``.
    """
    content = tensor_bytes(tensors)
    _write_durably(path, content)
    return hashlib.sha256(content).hexdigest()


def read_tensors(
    path: Path, device: torch.device | str = "cpu", *, sha256: str | None = None
) -> dict[str, Tensor]:
    """Read named tensors.

    Args:
        path: of a safetensors file.
        device: where the tensors come.
        sha256: the file's checksum, without which a changed bit within a tensor is not noticed; None: it has none.

    Raises:
        RunError: the file is missing, truncated, not safetensors, or not what its checksum says.
    """
    try:
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise RunError(f"{path} cannot be read: it is {DAMAGED}")
        tensors = parse_safetensors(content)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {one_line(error)}") from None
    return {name: tensor.to(device) for name, tensor in tensors.items()}

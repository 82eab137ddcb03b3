"""What a run is computed with: device, precision, threads, kernels and memory."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradcam_gan.errors import InputError
from gradcam_gan.training.config import check_device


def resolve_device(name: str) -> torch.device:
    """``auto`` (the first CUDA GPU, else the CPU), ``cpu``, ``cuda`` or ``cuda:N`` -> a device that exists.

    Raises:
        InputError: the name is unknown or this machine has no such device.
    """
    try:
        check_device(name)
    except ValueError as error:
        raise InputError(f"device={name!r}: {error}") from None
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device={name!r}: this machine shows {torch.cuda.device_count()} CUDA GPUs; use auto or cpu"
        )
    return device


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` -> ``bfloat16`` where the hardware computes in it, else ``float32``; others unchanged.

    A CPU without AVX512-BF16 or AMX can emulate bfloat16, but slower than float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"


def memory_format(asked: str, resolved: str, device: torch.device) -> torch.memory_format:
    """Of the weights that are trained: channels_last where it is faster, on a CPU in float32 too.

    But who asks for float32 gets the reference, to the last bit.

    Args:
        asked: the precision that a configuration names.
        resolved: what that is here (``resolve_precision``).
        device: where to train.
    """
    fast = resolved == "bfloat16" or (asked == "auto" and device.type == "cpu")
    return torch.channels_last if fast else torch.contiguous_format


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[int]:
    """Compute with this many CPU threads inside; None keeps torch's number. Yields the number in force."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def reproducible_kernels() -> Iterator[None]:
    """Deterministic cuDNN kernels without TF32 inside; on the CPU nothing changes."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def keep_freed_memory() -> None:
    """Let this process keep the memory that a step on the CPU frees, for the next step; results do not change.

    glibc hands large freed blocks back to the kernel, and every step then waits for zeroed pages again: 5 to 10% of
    its time. Now up to 1 GiB stays at the end of the heap; other C libraries are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: the highest that every glibc takes

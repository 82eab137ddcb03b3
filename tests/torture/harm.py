"""What can happen to the bytes of a file: by chance, by a careless hand, or by a bad one."""

import csv
import io
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

HUGE = (10**30, -(10**30), 2**63, 1e308, float("nan"), float("inf"), 10**9)
OTHER_KINDS = (None, True, "", "x", -1, 0, 1.5, [], {}, [1, 2], {"a": 1}, "\x00")
DEEP = 50_000  # brackets within brackets

Rng = random.Random
ByteHarm = Callable[[Rng, bytes], bytes]


def harmed(rng: Rng, path: Path, others: list[Path], marker: Path) -> tuple[str, bytes]:
    """A file's content, changed in some way; the name of that way first.

    Args:
        rng: chooses.
        path: of the file; its suffix says what else than bytes can be changed.
        others: files that may stand in its place.
        marker: a folder that code in the file would make.
    """
    content = path.read_bytes()
    ways: dict[str, ByteHarm] = dict(ANY)
    if path.suffix in STRUCTURED:
        # as often as all others together: most other changes leave no valid file behind
        ways |= {f"{name} {i}": way for name, way in STRUCTURED[path.suffix].items() for i in range(5)}
    ways["pickle"] = lambda rng, content: _pickle(rng, marker)
    ways["another file"] = lambda rng, content: rng.choice(others).read_bytes()
    while True:
        name = rng.choice(list(ways))
        if (new := ways[name](rng, content)) != content:
            return name.rstrip(" 0123456789"), new


def _cut(rng: Rng, content: bytes) -> tuple[bytes, bytes, bytes]:
    """Before, within and behind a random part, of at most 200 bytes."""
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.randint(1, 200))
    return content[:start], content[start:end], content[end:]


def _flip(rng: Rng, content: bytes, bits: int = 1) -> bytes:
    changed = bytearray(content)
    for _ in range(bits):
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _swap(rng: Rng, content: bytes) -> bytes:
    changed = bytearray(content)
    i, j = rng.randrange(len(content)), rng.randrange(len(content))
    changed[i], changed[j] = changed[j], changed[i]
    return bytes(changed)


def _delete(rng: Rng, content: bytes) -> bytes:
    before, _, behind = _cut(rng, content)
    return before + behind


def _double(rng: Rng, content: bytes) -> bytes:
    before, part, behind = _cut(rng, content)
    return before + part + part + behind


def _overwrite(rng: Rng, content: bytes) -> bytes:
    before, part, behind = _cut(rng, content)
    return before + rng.choice([bytes(len(part)), rng.randbytes(len(part))]) + behind


def _encoded(rng: Rng, content: bytes) -> bytes:
    text = content.decode("latin1")
    return text.encode(rng.choice(["utf-16", "utf-32", "utf-8-sig", "cp500"]), "replace")


class _Code:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def _pickle(rng: Rng, marker: Path) -> bytes:
    if rng.random() < 0.5:
        return pickle.dumps(_Code(marker), rng.choice([0, 2, 5]))
    file = io.BytesIO()
    torch.save({"w": torch.ones(3), "x": _Code(marker)}, file)
    return file.getvalue()


ANY: dict[str, ByteHarm] = {
    "one bit": _flip,
    "a bit at the end": lambda rng, content: content[:-1] + _flip(rng, content[-1:]),
    "many bits": lambda rng, content: _flip(rng, content, rng.randint(2, 50)),
    "cut": lambda rng, content: content[: rng.randrange(len(content))],
    "more at the end": lambda rng, content: content + rng.randbytes(rng.randint(1, 100)),
    "two bytes swapped": _swap,
    "a part deleted": _delete,
    "a part doubled": _double,
    "a part overwritten": _overwrite,
    "empty": lambda rng, content: b"",
    "zeros": lambda rng, content: bytes(len(content)),
    "another encoding": _encoded,
}


# --- files of which the structure is known


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values within dictionaries and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in [(*path, key), *_places(one, (*path, key))]]


def _changed(rng: Rng, values: Any, new: Callable[[Any], Any] | None) -> Any:
    """One of the values within changed, or, with None, deleted."""
    *path, last = rng.choice(_places(values))
    holder = values
    for key in path:
        holder = holder[key]
    if new is None:
        del holder[last]
    else:
        holder[last] = new(holder[last])
    return values


def _by_value(read: Callable[[bytes], Any], write: Callable[[Any], str]) -> dict[str, ByteHarm]:
    def harm(new: Callable[[Rng, Any], Any] | None) -> ByteHarm:
        def change(rng: Rng, content: bytes) -> bytes:
            bound = None if new is None else (lambda value: new(rng, value))
            return write(_changed(rng, read(content), bound)).encode()

        return change

    return {
        "a key deleted": harm(None),
        "another kind": harm(lambda rng, value: rng.choice(OTHER_KINDS)),
        "huge": harm(lambda rng, value: rng.choice(HUGE)),
        "other text": harm(lambda rng, value: f"{value}{rng.choice('x9 -')}"),
        "nested": harm(lambda rng, value: [value]),
        "too deep": lambda rng, content: b"[" * DEEP + b"]" * DEEP,
        "another key": lambda rng, content: write(
            {**read(content), rng.choice(["x", "", "self"]): 1}
        ).encode(),
    }


def _double_key(rng: Rng, content: bytes) -> bytes:
    """A key of the object given twice, with another value before or after."""
    values = json.loads(content)
    extra = json.dumps({rng.choice(list(values)): rng.choice(OTHER_KINDS)})[1:-1]
    inside = content.decode().strip()[1:-1]
    return f"{{{rng.choice([f'{extra},{inside}', f'{inside},{extra}'])}}}".encode()


def _cell(rng: Rng, content: bytes) -> bytes:
    """Another word in a cell of a table, or a row or column less."""
    rows = [row for row in csv.reader(io.StringIO(content.decode())) if row]
    match rng.randrange(4):
        case 0:
            rows.pop(rng.randrange(len(rows)))
        case 1:
            column = rng.randrange(len(rows[0]))
            rows = [row[:column] + row[column + 1 :] for row in rows]
        case _:
            row = rng.choice(rows)
            row[rng.randrange(len(row))] = rng.choice(["", "x", "1e999", "-1", "1,5", '"'])
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


STRUCTURED: dict[str, dict[str, ByteHarm]] = {
    ".json": {
        **_by_value(json.loads, lambda values: json.dumps(values, indent=2)),
        "a key twice": _double_key,
    },
    ".yaml": _by_value(yaml.safe_load, yaml.safe_dump),
    ".csv": {"a cell": _cell},
}

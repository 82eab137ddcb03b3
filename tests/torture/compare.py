"""``python -m torture.compare ONE OTHER``: whether two checkouts made the same of the smoke profile, but for clocks."""

import sys
from pathlib import Path

import pandas as pd

from torture.small import CLOCK, on_disk

CLOCKED = [*CLOCK, "minutes", "images/s"]  # columns


def differences(one: Path, other: Path) -> list[str]:
    """Names of what differs between the runs, to the last bit, and between the numbers behind the figures."""
    first, second = numbers(one), numbers(other)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def numbers(checkout: Path) -> dict[str, str]:
    """All that the workflow has made in a checkout."""
    found = {}
    for manifest in sorted((checkout / "runs/smoke").glob("*/manifest.json")):
        found |= {f"{manifest.parent.name} {key}": value for key, value in on_disk(manifest.parent).items()}
    for path in sorted((checkout / "figures/smoke").rglob("*.csv*")):
        table = pd.read_csv(path, comment="#")
        found[path.name] = table.drop(columns=[name for name in CLOCKED if name in table]).to_csv()
    return found


if __name__ == "__main__":
    one, other = map(Path, sys.argv[1:])
    differing, count = differences(one, other), len(numbers(one))
    print(*differing, sep="\n", end="\n" if differing else "")
    print(f"{count} things compared, {len(differing)} differ")
    sys.exit(1 if differing or not count else 0)

"""Check a folder of figures: `python tests/check_figures.py figures/smoke --require fig1_epoch_heatmaps`.

Every figure must be a PNG of a sensible size that is not blank, with its PDF, SVG and non-empty CSV beside
it.
"""

import argparse
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from PIL import Image

SUFFIXES = (".png", ".pdf", ".svg", ".csv")
MIN_SIDE_PX = 120  # an inch of the pictures to read
MIN_CONTRAST = 2.0  # standard deviation of the grey values, 0 to 255


def _png(path: Path) -> str | None:
    with Image.open(path) as image:
        image.load()
        if image.format != "PNG":
            return f"is {image.format}, not PNG"
        if min(image.size) < MIN_SIDE_PX:
            return f"is only {image.size[0]} x {image.size[1]} pixels"
        contrast = float(np.asarray(image.convert("L"), dtype=float).std())
    return None if contrast >= MIN_CONTRAST else "is blank"


def _pdf(path: Path) -> str | None:
    data = path.read_bytes()
    return None if data.startswith(b"%PDF-") and b"%%EOF" in data[-64:] else "is not a whole PDF"


def _svg(path: Path) -> str | None:
    root = ElementTree.parse(path).getroot()
    return None if root.tag.endswith("svg") and len(root) else "holds no drawing"


def _csv(path: Path) -> str | None:
    table = pd.read_csv(path)
    return None if table.size else "holds no rows"


_CHECKS = {".png": _png, ".pdf": _pdf, ".svg": _svg, ".csv": _csv}


def problems(folder: Path, required: tuple[str, ...] = ()) -> list[str]:
    """One line for everything that is wrong with the figures in `folder`; empty where all is well."""
    stems = {path.stem for path in folder.glob("fig*") if path.suffix in SUFFIXES[:3]} | set(required)
    if not stems:
        return [f"{folder}: no figures"]
    found = []
    for path in (folder / f"{stem}{suffix}" for stem in sorted(stems) for suffix in SUFFIXES):
        if not path.is_file():
            found.append(f"{path}: missing")
            continue
        try:
            problem = _CHECKS[path.suffix](path)
        except (
            OSError,
            ValueError,
            SyntaxError,
        ) as error:  # what a broken file raises
            problem = f"cannot be read: {error}"
        if problem:
            found.append(f"{path}: {problem}")
    return found


def main() -> None:
    """Print what is wrong and exit with 1, or say that all is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--require", nargs="*", default=[], metavar="NAME", help="figures that must be there")
    args = parser.parse_args()
    found = problems(args.folder, tuple(args.require))
    if found:
        sys.exit("\n".join(found))
    sys.stdout.write(f"{args.folder}: {len(list(args.folder.glob('fig*.png')))} figures are well\n")


if __name__ == "__main__":
    main()

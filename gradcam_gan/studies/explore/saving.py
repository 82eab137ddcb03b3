"""A view kept on disk: a picture and the numbers behind it."""

import io
from contextlib import suppress
from itertools import count
from pathlib import Path

import matplotlib.pyplot as plt

from gradcam_gan.errors import InputError
from gradcam_gan.studies.explore.pictures import view_figure
from gradcam_gan.studies.explore.state import View
from gradcam_gan.training import files

DPI = 200


def save(view: View, folder: Path) -> list[Path]:
    """Write a view under the first number that is free: nothing is overwritten.

    Args:
        view: what to keep.
        folder: is made where it is missing.

    Returns:
        ``view-001.png``, and ``view-001.csv`` with settings, logit, measures and the raw map (``View.table``).

    Raises:
        InputError: the folder cannot be written.
    """
    figure, picture = view_figure(view), io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    plt.close(figure)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stem = _claim(folder)
        files.write_bytes(stem.with_suffix(".png"), picture.getvalue())
        files.write_bytes(stem.with_suffix(".csv"), view.table.to_csv(index=False).encode())
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another folder") from None
    return [stem.with_suffix(suffix) for suffix in (".png", ".csv")]


def _claim(folder: Path) -> Path:
    """The first free name, taken at once: two notebooks may save into one folder."""
    for number in count(1):
        stem = folder / f"view-{number:03}"
        if not stem.with_suffix(".csv").exists():
            with suppress(FileExistsError):
                stem.with_suffix(".png").open("xb").close()
                break
    return stem

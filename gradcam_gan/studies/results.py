"""Results on disk that know where they come from: figures, the tables behind them, and a notebook's manifest."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import PIL.Image
from IPython.display import Image, display
from matplotlib import rc_context
from matplotlib.figure import Figure

from gradcam_gan.studies.study import Study
from gradcam_gan.studies.style import STYLE
from gradcam_gan.training import files
from gradcam_gan.training.provenance import provenance
from gradcam_gan.training.runs import Run

DPI = 120  # of the picture to read, here and in the notebooks
PRINT_DPI = 200  # of the images within PDF and SVG, which are for print
COLOURS = 256  # of that picture: a third of the bytes, and no eye tells
# no dates and no random ids: the same numbers give the same bytes
METADATA: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
KEPT = ("status", "device", "precision", "threads", "data_sha256", "git_commit")  # of a run's manifest


class Results:
    """What one notebook finds, written as it is found.

    ``<folder>/<name>.png``, ``.pdf`` and ``.svg`` are a figure, ``.csv`` the numbers behind it, ``.json`` their origin.
    ``<folder>/<notebook>.json`` is the manifest: what this execution has made so far, and from which runs. The workflow
    tracks it, and the README's table of figures is made from it.

    Args:
        study: the profile, whose parameters are part of the origin.
        notebook: the notebook's file name without suffix.
        folder: where to write; None: the profile's own under ``figures/``.
    """

    def __init__(self, study: Study, notebook: str, folder: Path | str | None = None) -> None:
        self.folder = study.figures_dir if folder is None else Path(folder)
        self._origin = {
            "notebook": f"{notebook}.ipynb",
            "parameters": study.model_dump(mode="json"),
            **provenance(),
        }
        self._manifest = self.folder / f"{notebook}.json"
        self._made: dict[str, dict[str, Any]] = {}
        self._runs: dict[str, dict[str, Any]] = {}

    def show(
        self, figure: Figure, table: pd.DataFrame, name: str, runs: Sequence[Run], *, alt: str | None = None
    ) -> None:
        """Draw a figure, and keep it with the numbers behind it.

        Args:
            figure: what to draw; closed afterwards.
            table: the numbers behind it.
            name: file name without suffix.
            runs: the trainings that the numbers come from.
            alt: the figure in words, for those who cannot see it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # colours such as "C0" are looked up only when a figure is drawn
        with rc_context({"axes.prop_cycle": STYLE["axes.prop_cycle"], "svg.hashsalt": name}):
            picture = _picture(figure)
            files.write_bytes(self.folder / f"{name}.png", picture)
            for suffix, metadata in METADATA.items():
                content = io.BytesIO()
                figure.savefig(content, format=suffix, dpi=PRINT_DPI, metadata=metadata)
                files.write_bytes(self.folder / f"{name}.{suffix}", content.getvalue())
        self._enter(table, name, runs, ["png", *METADATA])
        display(Image(picture, alt=alt))
        plt.close(figure)

    def keep(self, table: pd.DataFrame, name: str, runs: Sequence[Run]) -> None:
        """Keep a table alone. Arguments as for ``show``."""
        self._enter(table, name, runs, [])

    def _enter(self, table: pd.DataFrame, name: str, runs: Sequence[Run], suffixes: list[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = table.to_csv(index=False, float_format="%.6g").encode()
        files.write_bytes(self.folder / f"{name}.csv", content)
        used = {run.path.name: {key: run.manifest[key] for key in KEPT} for run in runs}
        files.write_json(self.folder / f"{name}.json", {**self._origin, "runs": used})
        self._runs |= used
        self._made[name] = {"files": [*suffixes, "csv"], "runs": list(used)}
        files.write_json(self._manifest, {**self._origin, "runs": self._runs, "results": self._made})


def _picture(figure: Figure) -> bytes:
    """A figure as a PNG of few colours."""
    drawn, content = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with PIL.Image.open(drawn) as image:
        # by coverage: a median cut drops colours of few pixels, such as an end of the colour bar
        method, dither = PIL.Image.Quantize.MAXCOVERAGE, PIL.Image.Dither.NONE
        few = image.convert("RGB").quantize(COLOURS, method, dither=dither)
        few.save(content, "PNG", optimize=True, dpi=(DPI, DPI))
    return content.getvalue()


def read_manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifests in a folder of figures, by notebook (file name without suffix), in order."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("[0-9][0-9]_*.json"))}

"""A figure on disk: PNG, PDF, SVG, the numbers behind it as CSV, and a JSON file that says where they come from."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from gradcam_gan.studies.profile import Study
from gradcam_gan.training import files
from gradcam_gan.training.provenance import provenance
from gradcam_gan.training.runs import Run

DPI = 200
# no dates and no random ids: the same numbers give the same bytes
METADATA: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def save_figure(
    figure: Figure, table: pd.DataFrame, name: str, study: Study, notebook: str, runs: Sequence[Run]
) -> Path:
    """Write ``figures/<profile>/<name>.{png,pdf,svg,csv,json}``, each whole or not at all.

    Args:
        figure: what to draw.
        table: the numbers behind it.
        name: file name without suffix.
        study: the profile, whose parameters go into the JSON file.
        notebook: file name of the notebook that made it.
        runs: the trainings that the numbers come from.

    Returns:
        The PNG's path.
    """
    folder = study.figures_dir
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in METADATA.items():
        content = io.BytesIO()
        with rc_context({"svg.hashsalt": name}):
            figure.savefig(content, format=suffix, dpi=DPI, metadata=metadata)
        files.write_bytes(folder / f"{name}.{suffix}", content.getvalue())
    save_table(table, name, study, notebook, runs)
    return folder / f"{name}.png"


def save_table(table: pd.DataFrame, name: str, study: Study, notebook: str, runs: Sequence[Run]) -> Path:
    """Write ``figures/<profile>/<name>.csv`` and, beside it, ``<name>.json`` that says where it comes from.

    Args: as for ``save_figure``.

    Returns:
        The CSV's path.
    """
    folder = study.figures_dir
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g").encode())
    kept = ("status", "device", "precision", "threads", "data_sha256", "git_commit")
    origin = {
        "notebook": notebook,
        "parameters": study.model_dump(mode="json"),
        "runs": {run.path.name: {key: run.manifest[key] for key in kept} for run in runs},
        **provenance(),
    }
    files.write_json(folder / f"{name}.json", origin)
    return folder / f"{name}.csv"

"""Run one notebook headlessly: checked parameters in, an executed copy out, whatever happens.

papermill only warns of a parameter that a notebook does not have; here it is an error, before anything runs.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pandas as pd
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from gradcam_gan.errors import InputError, RunError
from gradcam_gan.studies import paths
from gradcam_gan.studies.profile import PROFILE_VARIABLE, Study

KERNEL = "python3"
OUTPUTS_PROFILE, VERDICTS_PROFILE = "quick", "seeds"
CLAIMS_START, CLAIMS_END = "<!-- claims: start -->", "<!-- claims: end -->"


def notebook_parameters(notebook: Path) -> dict[str, object]:
    """The names in a notebook's ``parameters`` cell with their default values as written.

    Raises:
        InputError: the file is missing or has no such cell.
    """
    if not notebook.is_file():
        raise InputError(f"{notebook} does not exist")
    found = papermill.inspect_notebook(notebook)
    if not found:
        raise InputError(f"{notebook} has no cell tagged 'parameters'")
    return {name: parameter["default"] for name, parameter in found.items()}


def run_notebook(notebook: Path, output: Path, study: Study, changes: Mapping[str, object]) -> None:
    """Execute a notebook with the parameters of a study that its ``parameters`` cell names.

    Args:
        notebook: the source.
        output: where the executed copy goes; kept when the notebook fails.
        study: the profile.
        changes: parameters that the caller changed by name; the notebook must have each.

    Raises:
        InputError: the notebook has no parameter of one of these names.
        RunError: a cell failed, or its process died; names the cell and where the executed copy is.
    """
    known = notebook_parameters(notebook)
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise InputError(f"{notebook.name} has no parameter {name!r}; {hint}")
    values = {**study.model_dump(mode="json"), **changes}
    values = {name: value for name, value in values.items() if name in known}
    output.parent.mkdir(parents=True, exist_ok=True)
    # the study is complete here; the variable would replace it
    os.environ.pop(PROFILE_VARIABLE, None)
    try:
        papermill.execute_notebook(
            notebook,
            output,
            values,
            kernel_name=KERNEL,
            cwd=notebook.parent,
            progress_bar=False,
            log_output=False,
        )
    except PapermillExecutionError as error:
        reason = f"{error.ename}: {str(error.evalue).splitlines()[0] if error.evalue else ''}"
        raise RunError(
            f"{notebook.name} failed in cell {error.cell_index} (In [{error.exec_count}]): {reason}; "
            f"the executed copy is {output}"
        ) from error
    except DeadKernelError as error:
        raise RunError(
            f"{notebook.name}: its Python process died, perhaps for want of memory; the executed copy is {output}"
        ) from error


def store_outputs(executed: Path, notebook: Path) -> None:
    """Put the outputs of an executed copy into the notebook it came from, without papermill's traces.

    Args:
        executed: the copy, from ``run_notebook``.
        notebook: the source; its code must still be what was executed.

    Raises:
        InputError: a cell of the source has changed since.
    """
    source, copy = nbformat.read(notebook, 4), nbformat.read(executed, 4)
    cells = [cell for cell in copy.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.source for cell in cells] != [cell.source for cell in source.cells]:
        raise InputError(f"{executed} was made from another version of {notebook}; run it again")
    count = 0
    for mine, done in zip(source.cells, cells, strict=True):
        if mine.cell_type == "code":
            count += 1
            mine.outputs, mine.execution_count = done.outputs, count
            for output in mine.outputs:
                if "execution_count" in output:
                    output["execution_count"] = count
    source.metadata.pop("widgets", None)
    if "widgets" in copy.metadata:
        source.metadata["widgets"] = copy.metadata["widgets"]
    nbformat.write(source, notebook)


def publish(study: Study) -> None:
    """Keep a profile's results in the repository: quick's outputs in the notebooks, seeds' verdicts in the README.

    Args:
        study: a profile whose notebooks have run (``make figures``).

    Raises:
        InputError: nothing of this profile is published, a notebook has not run, or has changed since.
    """
    if study.profile == OUTPUTS_PROFILE:
        publish_outputs(study)
    elif study.profile == VERDICTS_PROFILE:
        publish_verdicts(study)
    else:
        raise InputError(
            f"nothing of profile={study.profile!r} is published: the notebooks show {OUTPUTS_PROFILE}, "
            f"the README has the verdicts of {VERDICTS_PROFILE}"
        )


def publish_outputs(study: Study) -> None:
    """Put the outputs of a profile into the notebooks (see ``publish``)."""
    for notebook in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        executed = study.runs_dir / "notebooks" / notebook.name
        if not executed.is_file():
            raise InputError(f"{executed} does not exist; make figures PROFILE={study.profile} makes it")
        store_outputs(executed, notebook)


def publish_verdicts(study: Study) -> None:
    """Put the verdicts of a profile into the README (see ``publish``)."""
    tables = [pd.read_csv(path) for path in sorted(study.figures_dir.glob("table_claims*.csv"))]
    if not tables:
        raise InputError(
            f"{study.figures_dir} has no verdicts (table_claims*.csv); make figures PROFILE={study.profile} makes them"
        )
    claims = pd.concat(tables, ignore_index=True)
    text = paths.README.read_text()
    before, rest = text.split(CLAIMS_START)
    after = rest.split(CLAIMS_END)[1]
    paths.README.write_text(f"{before}{CLAIMS_START}\n{claims_markdown(claims)}\n{CLAIMS_END}{after}")


def claims_markdown(claims: pd.DataFrame) -> str:
    """The ledger (``claims.ledger``) as the README's table: a row per claim, its readings in one cell."""
    lines = [
        "| claim | the paper, or the poster (P) | verdict | readings: Grad-CAM, statistics, evidence; or scores |",
        "|---|---|---|---|",
    ]
    for name, rows in claims.groupby("claim"):
        readings = "<br>".join(
            f"{row['reading'].removeprefix('Grad-CAM, ')}: *{row['outcome']}*; {row['sentence']}"
            for row in rows.to_dict("records")
        )
        lines.append(f"| {name} | {rows['text'].iloc[0]} | **{rows['verdict'].iloc[0]}** | {readings} |")
    return "\n".join(lines)

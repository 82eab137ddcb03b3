"""Notebooks run headlessly, all of them through Snakemake, and their results published in the repository."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pandas as pd
import papermill
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from gradcam_gan.errors import InputError, RunError
from gradcam_gan.intervals import Interval
from gradcam_gan.studies import paths
from gradcam_gan.studies.claims import ONE_SIDED, holm
from gradcam_gan.studies.epoch_heatmaps.rules import decides_markdown
from gradcam_gan.studies.epoch_heatmaps.tables import Tables
from gradcam_gan.studies.results import read_manifests
from gradcam_gan.studies.study import PROFILE_VARIABLE, Study
from gradcam_gan.studies.train_dcgan import health_table, name_networks
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import is_complete
from gradcam_gan.validation import choose

KERNEL = "python3"
OUTPUTS_PROFILE, VERDICTS_PROFILE = "quick", "study"
OF_SINGLE_NETWORKS = ("00", "01", "02")  # notebooks that need no pairs
CLAIMS = ("C1", "C2", "C3", "C4", "C5", "C6", "P2", "P3")
POLL_SECONDS = 0.5
LIVE = "live"  # the tag of cells that need a kernel


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


def run_notebook(
    notebook: Path,
    output: Path,
    profile: str,
    changes: Mapping[str, object] | None = None,
    folder: Path | None = None,
) -> None:
    """Execute a notebook under a profile.

    papermill only warns of a parameter that a notebook does not have; here an unknown name is an error, before anything
    runs. What the ``parameters`` cell does not name goes into its ``changes``.

    Args:
        notebook: the source.
        output: where the executed copy goes; kept when the notebook fails.
        profile: one of the profiles.
        changes: parameters of the study by name, as for ``Study.load``.
        folder: where its figures go; None: the profile's own.

    Raises:
        InputError: a parameter that is unknown, or a value that is not allowed.
        RunError: a cell failed, or its process died; names the cell and where the executed copy is.
    """
    known, changes = notebook_parameters(notebook), changes or {}
    Study.load(profile, **changes)
    values: dict[str, object] = {name: value for name, value in changes.items() if name in known}
    values["profile"] = profile
    if rest := {name: value for name, value in changes.items() if name not in known}:
        values["changes"] = rest
    if folder is not None:
        values["folder"] = str(folder.resolve())
    output.parent.mkdir(parents=True, exist_ok=True)
    # the profile is given here; the variable would replace it
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


def make_figures(
    profile: str,
    changes: Mapping[str, object] | None = None,
    *,
    only: str | None = None,
    folder: Path | None = None,
    complete: bool = False,
    cores: int | None = None,
    arguments: Sequence[str] = (),
) -> None:
    """Run the workflow, and say what it does: a line when a figure is there, and how many jobs are done.

    What Snakemake itself says goes to ``runs/<profile>/logs/snakemake.log``.

    Args:
        profile: one of the profiles.
        changes: parameters of the study by name, as for ``Study.load``.
        only: the number or name of one notebook, such as ``02``; None: all.
        folder: where the figures go; None: the profile's own.
        complete: train nothing: only those networks that are there (``complete_seeds``), and notebooks that have some.
        cores: how many to use; None: all.
        arguments: more arguments for Snakemake; with ``--dry-run`` it speaks for itself.

    Raises:
        InputError: there is no such notebook, parameter or value.
        RunError: a job failed; names it, its last words and its log. Or another workflow is at work on this profile.
    """
    study, chosen = Study.load(profile, **(changes or {})), folder or paths.FIGURES / profile
    changes = dict(changes or {})
    if complete:
        changes |= complete_seeds(study, chosen)
        study = Study.load(profile, **changes)
    notebooks = [path.stem for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))]
    if only is not None:
        choose("ONLY", only, [*notebooks, *(name[:2] for name in notebooks)])
        notebooks = [name for name in notebooks if only in (name, name[:2])]
    if complete and not study.pairs.seeds:
        notebooks = [name for name in notebooks if name[:2] in OF_SINGLE_NETWORKS]
    # on the command line Snakemake would take numbers for text
    config = {
        "profile": profile,
        "changes": changes,
        "folder": str(folder.resolve()) if folder else None,
    }
    # no lock of Snakemake's own: that of a workflow that was killed would stay
    command = [sys.executable, "-m", "snakemake", *(f"notebook_{name}" for name in notebooks), "--nolock"]
    command += ["--cores", str(cores or "all"), "--rerun-incomplete", *arguments]
    with _alone(study.runs_dir):
        logs = study.runs_dir / "logs"
        logs.mkdir(exist_ok=True)
        files.write_json(logs / "config.json", config)
        command += ["--configfile", str(logs / "config.json")]
        if {"--dry-run", "--dryrun", "-n"} & set(arguments):
            subprocess.run(command, cwd=paths.REPOSITORY, check=False)
        else:
            _run_snakemake(command, logs / "snakemake.log", chosen)


@contextmanager
def _alone(runs_dir: Path) -> Iterator[None]:
    """Hold a folder of runs: of two workflows in it each would run the other's jobs. The lock goes with its process.

    Raises:
        RunError: another workflow holds it, or it cannot be written to.
    """
    with files.reporting(runs_dir):
        runs_dir.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(runs_dir / ".workflow.lock").acquire(timeout=0)
        except Timeout:
            raise RunError(f"another workflow is at work in {runs_dir}; wait for it, or stop it") from None
    with lock:
        yield


def _run_snakemake(command: list[str], log: Path, folder: Path) -> None:
    """Run Snakemake with its words in a log, and report its progress and new figures in a folder.

    Raises:
        RunError: a job failed; names it, its last words and its log.
    """
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=paths.REPOSITORY, stdout=output, stderr=subprocess.STDOUT)
        try:
            _report(process, log, folder)
        except KeyboardInterrupt:
            process.wait()  # it got the signal too, and ends its jobs
            raise
    if process.returncode:
        raise RunError(f"{_last_words(log)}; Snakemake's own log is {log}")


def complete_seeds(study: Study, folder: Path) -> dict[str, list[int]]:
    """The seeds of a study whose trainings are all there, as changes to its parameters.

    Args:
        study: with the seeds that are planned.
        folder: of its figures, where networks may have their tables.

    Raises:
        InputError: there is none.
    """

    def done(config: TrainingConfig) -> bool:
        return is_complete(study.runs_dir / config.name)

    seeds = [seed for seed in study.seeds if study.has_tables(seed, folder) or done(study.config(seed))]
    if not seeds:
        raise InputError(f"no network of profile {study.profile} is complete; make figures trains them")
    pairs = set(study.pairs.seeds) & set(seeds)
    pairs -= {config.seed for config in study.pair_configs() if not done(config)}
    pairs -= {arm.seed for arm in study.arms() if not (study.runs_dir / f"{arm.name}.scored").is_file()}
    return {"seeds": seeds, "pairs.seeds": sorted(pairs)}


def _report(process: "subprocess.Popen[bytes]", log: Path, folder: Path) -> None:
    """Until the process ends: a line for every new figure with the time so far, and the number of jobs done."""
    start, seen = time.time(), set[tuple[str, float]]()

    def say(text: str, now: float) -> None:
        minutes, seconds = divmod(int(now - start), 60)
        bar.write(f"{minutes:3}:{seconds:02}  {text}", file=sys.stdout)

    with tqdm(desc="jobs", bar_format="{desc} {n_fmt}/{total_fmt} [{elapsed}]", disable=None) as bar:
        while True:
            ended = process.poll() is not None
            made = [(path.stat().st_mtime, path) for path in folder.glob("*.png")]
            for when, path in sorted(one for one in made if one[0] >= start):
                if (path.name, when) not in seen:
                    seen.add((path.name, when))
                    say(os.path.relpath(path), when)
            if steps := re.findall(r"^(\d+) of (\d+) steps", log.read_text(errors="replace"), re.MULTILINE):
                bar.n, bar.total = map(int, steps[-1])
                bar.refresh()
            if ended:
                break
            time.sleep(POLL_SECONDS)
        if not process.returncode:
            say(f"{os.path.relpath(folder)} is up to date", time.time())


def _last_words(log: Path) -> str:
    """Which job failed first, by Snakemake's log, and what it said last."""
    text = log.read_text(errors="replace")
    failed = re.search(r"^Error in rule (\w+):\n((?:    .*\n)+)", text, re.MULTILINE)
    if not failed:
        return " ".join(text.strip().splitlines()[-1:]) or "Snakemake ended without a word"
    own = re.search(r"^    log: (\S+\.log)", failed[2], re.MULTILINE)
    said = (paths.REPOSITORY / own[1]).read_text(errors="replace") if own else ""
    errors = [line for line in said.splitlines() if line.startswith("error: ")] or said.splitlines()
    return f"{failed[1]} failed: {' '.join(errors[-1:]).removeprefix('error: ') or 'it left no log'}"


def store_outputs(executed: Path, notebook: Path) -> None:
    """Put the outputs of an executed copy into the notebook it came from, without papermill's traces.

    A cell tagged ``live`` keeps none: controls that no kernel answers look alive and are dead.

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
            live = LIVE in mine.metadata.get("tags", [])
            mine.outputs, mine.execution_count = [] if live else done.outputs, count
            for output in mine.outputs:
                if "execution_count" in output:
                    output["execution_count"] = count
    source.metadata.pop("widgets", None)
    if "widgets" in copy.metadata and not any(LIVE in cell.metadata.get("tags", []) for cell in source.cells):
        source.metadata["widgets"] = copy.metadata["widgets"]
    nbformat.write(source, notebook)


def publish(study: Study) -> None:
    """Keep a profile's results in the repository: quick's outputs in the notebooks, seeds' verdicts in the README.

    Either brings the README's table of notebooks and figures up to date.

    Args:
        study: a profile whose notebooks have run (``make figures``).

    Raises:
        InputError: nothing of this profile is published, a notebook has not run, or has changed since.
    """
    choose("profile", study.profile, (OUTPUTS_PROFILE, VERDICTS_PROFILE))
    text = paths.README.read_text()
    if study.profile == OUTPUTS_PROFILE:
        for notebook in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
            executed = study.runs_dir / "notebooks" / notebook.name
            if not executed.is_file():
                raise InputError(f"{executed} does not exist; make figures PROFILE={study.profile} makes it")
            store_outputs(executed, notebook)
        text = with_block(text, "figures", figures_markdown(study.figures_dir))
        text = with_block(text, "recommendation", recommendation_markdown(study.figures_dir))
    else:
        text = with_block(text, "claims", claims_markdown(study.figures_dir, study.planned))
        text = with_block(text, "decides", decides_markdown(Tables.published(study.figures_dir)))
    paths.README.write_text(text)


def with_block(text: str, name: str, content: str) -> str:
    """A text with the part between ``<!-- name: start -->`` and ``<!-- name: end -->`` replaced."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, rest = text.split(start)
    return f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"


def recommendation_markdown(folder: Path) -> str:
    """Which explanation to use, of all and among a layer's maps: the first sentence of each (notebook 6), as a list."""
    table = pd.read_csv(folder / "table_recommendation.csv")
    said = [sentence.partition(". Of ")[0].removesuffix(".") for sentence in table["sentence"]]
    return "\n".join(f"- **Of {among}:** {text}." for among, text in zip(table["among"], said, strict=True))


def read_claims(folder: Path) -> pd.DataFrame:
    """The ledger (``claims.ledger``) of all notebooks of a profile, with the ``notebook`` of each claim.

    ``p_holm`` is Holm's correction over the paper's own claims, C1 to C6, as far as they are there.

    Raises:
        InputError: there is none.
    """
    tables = [
        pd.read_csv(folder / f"{name}.csv").assign(notebook=notebook)
        for notebook, manifest in read_manifests(folder).items()
        for name in manifest["results"]
        if name.startswith("table_claims")
    ]
    if not tables:
        raise InputError(f"{folder} has no verdicts (table_claims*.csv); make figures makes them")
    found = pd.concat(tables, ignore_index=True).sort_values("claim", ignore_index=True)
    paper = found[found["claim"].str.startswith("C")].set_index("claim")["p"]
    return found.assign(p_holm=found["claim"].map(holm(dict(zip(paper.index, paper, strict=True)))))


def figures_markdown(folder: Path) -> str:
    """The README's table of notebooks: question and results, from the notebooks' titles and manifests."""
    lines = ["| notebook | question | figures and tables |", "|---|---|---|"]
    for name, manifest in read_manifests(folder).items():
        title = nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", 4).cells[0].source.splitlines()[0]
        question = title.split("·", 1)[1].strip()
        results = ", ".join(f"`{result}`" for result in manifest["results"])
        lines.append(f"| [{name}](notebooks/{name}.ipynb) | {question} | {results} |")
    return "\n".join(lines)


def claims_markdown(folder: Path, planned: int) -> str:
    """A profile's ledger (``read_claims``) as the README's table: a row a claim, with one number; then the networks."""
    claims = read_claims(folder)
    lines = ["| claim | verdict | one number, 95 % interval | notebook |", "|---|---|---|---|"]
    for row in claims.to_dict("records"):
        effect = Interval(row["estimate"], row["low"], row["high"], int(row["n"]), unit=row["unit"])
        interim = "" if row["n"] >= planned else f", interim ({int(row['n'])} of {planned})"
        number = f"{row['quantity']}: {effect}" if row["n"] else f"{row['quantity']}: needs more networks"
        where = f"[{row['notebook'][:2]}](notebooks/{row['notebook']}.ipynb)"
        lines.append(
            f"| {row['claim']}: {row['text']} | **{row['verdict']}**{interim} | {number} | {where} |"
        )
    missing = [name for name in CLAIMS if name not in set(claims["claim"])]
    if missing:
        lines += ["", f"Not measured yet, its trainings are still to come: {', '.join(missing)}."]
    held = [row["claim"] for row in claims.to_dict("records") if row["p_holm"] < ONE_SIDED]
    lines += [
        "",
        f"{name_networks(health_table(Tables.published(folder).scores))} Holm's correction over C1 to C6 leaves "
        f"{', '.join(held) if held else 'none'} at its level.",
    ]
    return "\n".join(lines)


def faults_markdown(path: Path) -> str:
    """What ``make torture`` counted, as the README's sentence.

    Args:
        path: the campaigns' counts (``tests/torture``).
    """
    found = json.loads(path.read_text())
    kills, changed, disk, workflows = (
        found[name] for name in ("kills", "mutations", "full_disk", "two_workflows")
    )
    wrong = len(changed["failures"])
    return (
        f"`make torture` does harm on purpose. {kills['kills']:,} kills of small trainings at random moments, "
        f"{kills['within_a_write']} of them within a write: {kills['different']} ended otherwise than the "
        f"uninterrupted one. {changed['mutations']:,} changed files: {changed['refused']:,} refused in one clear line, "
        f"{changed['identical']:,} read with the same result, {changed['another']:,} with another one that is allowed "
        f"and that nothing can notice (parameters, files without a checksum), {wrong} that crashed, hung, ran code or "
        f"gave a wrong result. The disk full at each of {disk['writes']} writes: {disk['different']} without a clear "
        f"line or with another end. Two workflows on one folder, or one killed, in {workflows['cases']} cases: "
        f"{workflows['different']} with another result."
    )

"""Notebooks run headlessly, all of them through Snakemake, and their results published in the repository."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from gradcam_gan.errors import InputError, RunError
from gradcam_gan.studies import archive, ledger, paths, readme
from gradcam_gan.studies.study import PROFILE_VARIABLE, Study
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.cost import core_seconds
from gradcam_gan.training.loop import is_complete
from gradcam_gan.validation import choose

KERNEL = "python3"
OUTPUTS_PROFILE, VERDICTS_PROFILE = "quick", "study"
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
        complete: train nothing: each notebook of those networks that are there (``complete_seeds``), if any are.
        cores: how many to use; None: all.
        arguments: more arguments for Snakemake; with ``--dry-run`` it speaks for itself.

    Raises:
        InputError: there is no such notebook, parameter or value.
        RunError: a job failed; names it, its last words and its log. Or another workflow is at work on this profile.
    """
    study = Study.load(profile, **(changes or {}))
    notebooks = [path.stem for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))]
    if only is not None:
        choose("ONLY", only, [*notebooks, *(name[:2] for name in notebooks)])
        notebooks = [name for name in notebooks if only in (name, name[:2])]
    with _alone(study.runs_dir):
        archive.prepare(study, notebooks, complete=complete)
    _say_what_is_there(study, notebooks, complete=complete)
    if not complete:
        _run(study, notebooks, {"changes": changes or {}}, folder, cores, arguments)
        return
    there = {
        name: seeds
        for name in notebooks
        if (seeds := complete_seeds(study, folder or study.figures_dir, name))
    }
    if not there:
        raise InputError(
            f"nothing of profile {study.profile} is complete for {', '.join(notebooks)}; make figures trains it"
        )
    for name, seeds in there.items():
        config = {"changes": {**(changes or {}), **seeds}, "complete": True}
        _run(study, [name], config, folder, cores, arguments)


def _say_what_is_there(study: Study, notebooks: Sequence[str], *, complete: bool) -> None:
    """How many trainings come from the archive, and how many are still to be done; nothing without one."""
    if not archive.folder_of(study.figures_dir).is_dir():
        return
    needed = archive.needed(study, notebooks)
    # where nothing is trained, each notebook takes what is enough for it
    there = [one for one in needed if (is_complete(one.run) if complete else one.is_there)]
    archived = sum(archive.is_archived(one.run) for one in there)
    missing = [one.seconds for one in needed if one not in there]
    if any(name.startswith("03") for name in notebooks):
        missing += [
            core_seconds(arm.training)
            for arm in study.arms()
            if not (study.runs_dir / f"{arm.name}.scored").is_file()
        ]
    hours = sum(missing) / 3600
    rest = "not there" if complete else f"to be trained, about {hours:.0f} core-hours"
    said = f"trainings: {archived} from the archive, {len(missing)} {rest}"
    tqdm.write(said, file=sys.stdout)


def _run(
    study: Study,
    notebooks: Sequence[str],
    config: Mapping[str, object],
    folder: Path | None,
    cores: int | None,
    arguments: Sequence[str],
) -> None:
    """Run these notebooks and what they need, with the Snakefile's ``config``. The rest as for ``make_figures``."""
    # on the command line Snakemake would take numbers for text
    config = {**config, "profile": study.profile, "folder": str(folder.resolve()) if folder else None}
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
            _run_snakemake(command, logs / "snakemake.log", folder or study.figures_dir)


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


def complete_seeds(study: Study, folder: Path, notebook: str) -> dict[str, list[int]]:
    """The seeds for which all is there that a notebook needs, as changes to a study's parameters.

    Args:
        study: with the seeds that are planned.
        folder: of its figures, where networks may have their tables.
        notebook: its name.

    Returns:
        ``seeds``, ``pairs.seeds``, both, or ``earlier.seeds``, by what the notebook needs; empty where there are none,
        and of the last notebook, which needs all others.
    """
    number = notebook[:2]

    def done(config: TrainingConfig) -> bool:
        return archive.serves(study.runs_dir / config.name, notebook)

    def marked(name: str) -> bool:
        return (study.runs_dir / name).is_file()

    if number == "99":  # its others would train
        return {}
    if number == "08":
        earlier = [seed for seed in study.earlier.seeds if marked(f"seed{seed}.earlier")]
        return {"earlier.seeds": earlier} if earlier else {}
    if number == "06":
        explained = [
            seed for seed in study.seeds if marked(f"seed{seed}.assessed") and done(study.config(seed))
        ]
        return {"seeds": explained, "pairs.seeds": []} if explained else {}
    networks = [seed for seed in study.seeds if study.has_tables(seed, folder) or done(study.config(seed))]
    paired = set(study.pairs.seeds) - {one.seed for one in study.needed_pairs(notebook) if not done(one)}
    if number in ("04", "05", "07"):
        return {"pairs.seeds": sorted(paired)} if paired else {}
    if number == "03":
        paired -= {arm.seed for arm in study.arms() if not marked(f"{arm.name}.scored")}
    paired &= set(networks)
    if not networks or (number == "03" and not paired):
        return {}
    if number in ("00", "01", "02") and not done(study.config(networks[0])):  # the one that they show
        return {}
    return {"seeds": networks, "pairs.seeds": sorted(paired)}


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
    """Keep a profile's results in the repository: outputs in the notebooks, the study's archive, a ledger.

    A notebook that the study's archive is enough for shows the study's outputs, every other one quick's. Brings up to
    date what the READMEs draw from the ledgers.

    Args:
        study: a profile whose notebooks, or some of them, have run (``make figures``).

    Raises:
        InputError: nothing of this profile is published, no notebook has run, or one has changed since.
    """
    choose("profile", study.profile, (OUTPUTS_PROFILE, VERDICTS_PROFILE))
    executed = sorted((study.runs_dir / "notebooks").glob("*.ipynb"))
    if not executed:
        raise InputError(
            f"no notebook of profile {study.profile} has run; make figures PROFILE={study.profile} runs them"
        )
    if study.profile == VERDICTS_PROFILE:
        archive.pack(study)
    archived = Study.load(VERDICTS_PROFILE)
    for copy in executed:
        owner = VERDICTS_PROFILE if archive.is_enough(archived, copy.stem) else OUTPUTS_PROFILE
        if study.profile == owner:
            store_outputs(copy, paths.NOTEBOOKS / copy.name)
    ledger.write(study.figures_dir, study)
    for language, path in ((readme.ENGLISH, paths.README), (readme.KOREAN, paths.README_KO)):
        path.write_text(readme.update(language, path.read_text()))

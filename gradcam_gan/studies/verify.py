"""Are the published numbers what the code makes? They are made again in a fresh folder, and compared value by value.

``make verify`` does that for quick, from nothing, and for what the study's archive is enough for; and it draws the
verdicts of both anew from their published tables. ``VERIFY=train`` trains the study's networks anew too.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from gradcam_gan.errors import RunError
from gradcam_gan.intervals import Interval
from gradcam_gan.studies import ledger, paths
from gradcam_gan.studies.archive import checksums, folder_of
from gradcam_gan.studies.claims import Claim
from gradcam_gan.studies.diffusion_gans.rules import judge_diffusion, judge_dudgan
from gradcam_gan.studies.earlier_experiments.rules import judge_added, judge_regression
from gradcam_gan.studies.epoch_heatmaps.rules import RULES, judge
from gradcam_gan.studies.epoch_heatmaps.tables import Tables
from gradcam_gan.studies.prune_70.rules import judge_pruning
from gradcam_gan.studies.results import read_manifests
from gradcam_gan.studies.side_information import judge_guidance
from gradcam_gan.studies.study import Study
from gradcam_gan.training.provenance import provenance

NOT_COPIED = (
    "runs",
    "figures",
    ".git",
    ".venv",
    ".snakemake",
    "*_cache",
    "__pycache__",
    ".hypothesis",
    "MNIST",
)
PLATFORM = (
    "cpu_capability",
    "machine",
    "system",
)  # with torch's version and the threads: equal to the last bit

OF_ARCHIVED = 1e-3  # of its size a number may differ elsewhere that comes from the same networks
HOW = {0: "to the last digit", OF_ARCHIVED: "to a thousandth", None: "by overlapping intervals"}


@dataclass(frozen=True)
class Comparison:
    """Published numbers beside those made again.

    Attributes:
        table: a row a result: ``result``, ``how`` it was compared, and as ``compare_tables``.
        problems: what else is wrong, a line each.
    """

    table: pd.DataFrame
    problems: list[str]

    @property
    def holds(self) -> bool:
        """Whether all that was compared is reproduced."""
        return not self.problems and bool((self.table["reproduced"] == self.table["compared"]).all())

    def certificate(self, minutes: float) -> str:
        """One line: how many values are reproduced, how long it took, and on what."""
        counts, here = self.table[["reproduced", "compared", "values"]].sum(), provenance()
        version = ".".join(torch.__version__.split(".")[:2])
        rest = counts["values"] - counts["compared"]
        without = f" ({rest:,} without an interval not compared)" if rest else ""
        how = " or ".join(one for one in HOW.values() if one in set(self.table["how"]))
        return (
            f"{counts['reproduced']:,} of {counts['compared']:,} values reproduced {how}{without}; "
            f"{minutes:.0f} min, torch {version}, {here['cpu_capability']}"
        )


def verify(
    profile: str, again: Path | None = None, cores: int | None = None, *, archived: bool = False
) -> Comparison:
    """Make a profile's results again, and compare them with those published.

    Args:
        profile: whose results are published.
        again: a folder where they have been made again already; None: make them now, under ``runs/verify``.
        cores: how many to use; None: all.
        archived: make, and compare, only what can be drawn from the archive; else all, from nothing.

    Raises:
        InputError: the profile has no ledger.
        RunError: they could not be made.
    """
    published = paths.FIGURES / profile
    ledger.read(published)  # said before the work
    if again is None:
        again = _made_again(profile, cores, archived=archived)
    return compare(published, again, whole=not archived)


def _made_again(profile: str, cores: int | None, *, archived: bool) -> Path:
    """The results of a copy of this checkout that has no runs, and no figures.

    Where asked for it has their archive, and the tables of networks.
    """
    copy = paths.RUNS / "verify" / profile
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(paths.REPOSITORY, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
    if (paths.DATA / "MNIST").is_dir():
        (copy / "data" / "MNIST").symlink_to((paths.DATA / "MNIST").resolve())
    command = [sys.executable, "-m", "gradcam_gan", "figures", "--profile", profile]
    command += ["--cores", str(cores)] if cores else []
    if archived:
        for kept in (folder_of(paths.FIGURES / profile), paths.FIGURES / profile / "networks"):
            if kept.is_dir():
                shutil.copytree(kept, copy / "figures" / profile / kept.name)
        command.append("--complete")
    # the copy's package before the installed one, in notebooks too
    done = subprocess.run(command, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, check=False)
    if done.returncode:
        raise RunError(f"the results could not be made again; {copy} has what there is")
    return copy / "figures" / profile


def compare(published: Path, again: Path, *, whole: bool = True) -> Comparison:
    """Published results with those made again, value by value; times are left out.

    Where a notebook ran on the same platform, with the same torch and threads, values must be equal. Elsewhere a
    training ends with another network: intervals must overlap, and values without one are not compared; but what is
    drawn from the archive is of the same networks, and may differ by a thousandth.

    Args:
        published: a folder of figures with its ledger.
        again: a folder of figures.
        whole: all that is published must be there again; else those notebooks are compared that are.

    Raises:
        InputError: the published folder has no ledger.
    """
    found = ledger.read(published)
    manifests, made = read_manifests(published), read_manifests(again)
    compared = [name for name in manifests if whole or name in made]
    elsewhere = None if whole else OF_ARCHIVED
    tolerances = {
        name: 0 if _same_platform(manifests[name], made.get(name)) else elsewhere for name in compared
    }
    rows, problems = [], _contradictions(published, found)
    for name, entry in found["results"].items():
        if entry["notebook"] not in compared:
            continue
        path = again / f"{name}.csv"
        if not path.is_file():
            problems.append(f"{name}: not made again")
            continue
        tables = pd.read_csv(published / f"{name}.csv"), pd.read_csv(path)
        tolerance = tolerances[entry["notebook"]]
        same = compare_tables(*tables, entry["times"], tolerance=tolerance)
        rows.append({"result": name, "how": HOW[tolerance], **same})
    columns = ["result", "how", "values", "compared", "reproduced", "first"]
    return Comparison(pd.DataFrame(rows, columns=columns), problems)


def compare_tables(
    one: pd.DataFrame, other: pd.DataFrame, times: Sequence[str], *, tolerance: float | None
) -> dict[str, Any]:
    """Two tables, cell by cell.

    Args:
        one: as published.
        other: made again.
        times: columns to leave out.
        tolerance: by how much of its size a number may differ, all else not at all; None: intervals must overlap, and
            all else is not compared.

    Returns:
        ``values``: how many there are; ``compared``; ``reproduced``; ``first``, the first that differs, in words.
    """
    one, other = (table.drop(columns=list(times), errors="ignore") for table in (one, other))
    if list(one) != list(other) or len(one) != len(other):
        first = (
            f"{len(one)} x {one.shape[1]} published, {len(other)} x {other.shape[1]} now, or other columns"
        )
        return {"values": one.size, "compared": one.size, "reproduced": 0, "first": first}
    if tolerance is not None:
        names = [str(name) for name in one]
        same = {name: _close(one[name], other[name], tolerance) for name in names}
        known = {name: pd.Series(True, one.index) for name in names}
    else:
        same, known = {}, {}
        for estimate, low, high in _intervals(one):
            bounded = [table[[low, high]].notna().all(axis=1) for table in (one, other)]
            known[estimate] = bounded[0] & bounded[1]
            same[estimate] = known[estimate] & (one[low] <= other[high]) & (other[low] <= one[high])
    wrong = [name for name in same if (known[name] & ~same[name]).any()]
    first = _difference(one, other, wrong[0], ~known[wrong[0]] | same[wrong[0]]) if wrong else ""
    return {
        "values": one.size,
        "compared": sum(int(column.sum()) for column in known.values()),
        "reproduced": sum(int((known[name] & same[name]).sum()) for name in known),
        "first": first,
    }


def _close(one: pd.Series, other: pd.Series, tolerance: float) -> pd.Series:
    """Which values of a column are the other's; an absent one is an absent one's."""
    same = (one == other) | (one.isna() & other.isna())
    if tolerance and all(pd.api.types.is_float_dtype(column) for column in (one, other)):
        same |= (one - other).abs() <= tolerance * (other.abs() + tolerance)
    return same


def _intervals(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Columns that are an estimate with its bounds."""
    found = [(name, f"{name}_low", f"{name}_high") for name in map(str, table)]
    return [one for one in [("estimate", "low", "high"), *found] if set(one) <= set(table)]


def _difference(one: pd.DataFrame, other: pd.DataFrame, column: str, same: Any) -> str:  # noqa: ANN401
    """The first value of a column that differs, by its id's end, in words."""
    row = int(np.argmin(same.to_numpy()))
    return f"{row}/{column}: {one[column].iloc[row]} published, {other[column].iloc[row]} now"


def _same_platform(one: dict[str, Any], other: dict[str, Any] | None) -> bool:
    """Whether two manifests come from machines on which all bits are the same."""

    def identity(manifest: dict[str, Any]) -> list[Any]:
        own = [manifest[key] for key in PLATFORM]
        return [*own, manifest["packages"]["torch"], manifest["parameters"]["threads"]]

    return other is not None and identity(one) == identity(other)


def _contradictions(published: Path, found: dict[str, Any]) -> list[str]:
    """Where the ledger does not say what the published files say."""
    problems = []
    for name, entry in found["results"].items():
        path = published / f"{name}.csv"
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            problems.append(f"{name}.csv is not the file that the ledger names")
    archives = checksums(published)
    names = sorted(archives.keys() | found.get("archive", {}).keys())
    problems += [
        f"archive/{name} is not the file that the ledger names"
        for name in names
        if archives.get(name) != found.get("archive", {}).get(name)
    ]
    if problems:
        return problems
    now = ledger.collect(published, Study.load(found["profile"]))
    return [
        f"{id_}: the ledger says {number['value']}, the tables {now['numbers'].get(id_, {}).get('value')}"
        for id_, number in found["numbers"].items()
        if now["numbers"].get(id_) != number
    ]


def judged(folder: Path, study: Study) -> Iterator[Claim]:
    """The claims of a folder of figures, judged from the tables there alone: of networks, of arms and models.

    Args:
        folder: of figures.
        study: the profile; only one of several networks has published their own tables, which C1 to C6 need.
    """

    def table(name: str) -> pd.DataFrame:
        return pd.read_csv(folder / f"{name}.csv")

    results = {name for manifest in read_manifests(folder).values() for name in manifest["results"]}
    networks = Tables.published(folder) if study.planned > 1 else None
    if networks and "table_claims" in results:
        yield from (judge(name, networks) for name in RULES)
    if networks and "table_claims_pruning" in results:
        yield judge_pruning(table("table_pruning_results"), networks.healthy().seeds)
    if "table_claims_models" in results:
        models = table("fig_model_scores")
        yield judge_diffusion(models, table("fig_diffused_input"))
        yield judge_dudgan(models)
    if "table_claims_guidance" in results:
        guidance = study.guidance
        yield judge_guidance(table("table_guidance_results"), guidance.models[0], guidance.controls)
    if "table_claims_regression" in results:
        yield judge_regression(table("fig_regression_errors"), table("fig_regression_agreement"))
    if "table_claims_added_heatmaps" in results:
        yield judge_added(table("fig_added_heatmaps"))


def verify_verdicts(profile: str) -> tuple[int, list[str]]:
    """Draw a profile's verdicts anew from its published tables: how many agree; what differs, a line each.

    Raises:
        InputError: the profile has no ledger.
    """
    published = paths.FIGURES / profile
    found = ledger.read(published)
    claims = list(judged(published, Study.load(profile)))
    problems = _contradictions(published, found)
    for claim in claims:
        stored = found["claims"].get(claim.name, {"verdict": "none"})
        # of one network a sentence shows more digits than tables have
        words = claim.effect.n == 1 or claim.sentence == stored.get("sentence")
        if not (
            words and claim.verdict == stored["verdict"] and _same_number(claim.effect, found, claim.name)
        ):
            problems.append(f"{claim.name}: {claim.verdict} by the tables: {claim.sentence}")
    return len(claims), problems


def _same_number(one: Interval, found: dict[str, Any], id_: str) -> bool:
    """Whether a number is that of the ledger, as far as tables of six digits tell."""
    other = ledger.interval(found, id_)
    mine, theirs = ((value.estimate, value.low, value.high) for value in (one, other))
    return one.n == other.n and np.allclose(mine, theirs, rtol=1e-3, atol=1e-4, equal_nan=True)


def report(profile: str, again: Path | None, cores: int | None, *, train: bool) -> str:
    """``make verify`` of one profile, in words.

    Args:
        profile: whose results.
        again: as for ``verify``.
        cores: as for ``verify``.
        train: whether to train the study's networks anew, too.

    Raises:
        RunError: something is not reproduced; names it.
    """
    start = time.monotonic()
    archived = profile == "study" and not train
    verdicts, problems = verify_verdicts(profile)
    if problems:
        raise RunError(f"{profile} is not reproduced: {'; '.join(problems)}")
    said_of_verdicts = f"{profile}: {verdicts} of {verdicts} verdicts follow from its published tables"
    if archived and again is None and not checksums(paths.FIGURES / profile):
        return said_of_verdicts
    found = verify(profile, again, cores, archived=archived)
    wrong = found.table[found.table["reproduced"] < found.table["compared"]]
    said = wrong.drop(columns="values").to_string(index=False) if len(wrong) else ""
    lines = [
        said_of_verdicts,
        *found.problems,
        said,
        f"{profile}: {found.certificate((time.monotonic() - start) / 60)}",
    ]
    text = "\n".join(line for line in lines if line)
    if not found.holds:
        raise RunError(f"{profile} is not reproduced\n{text}")
    return text

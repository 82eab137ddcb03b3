"""What published figures need of the trainings behind them, in the repository, so that nobody has to train first.

``figures/<profile>/archive/<run>/`` is a run's folder with less in it: the configuration, the manifest, the history,
its scores and what else was found of it (``Run.kept``), and every epoch's record; what diffuses D's and C's input; and,
of the runs whose pictures are shown, the networks behind these. All keep the checksums that they have in a run, and the
ledger has each archived file's own. ``checkpoints.zip`` is apart from ``results.zip``: more is found of a run from time
to time, and its networks, most of the bytes, stay the same file in the repository's history. Of the comparison of
explanations and of the earlier work, whose small networks are no runs, it is the folder of a seed's tables.

``prepare`` brings them back among the other runs, where their manifest says for which notebooks they were ``archived``:
such a run is there for these, and for no others.
"""

import hashlib
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradcam_gan.errors import RunError
from gradcam_gan.studies.earlier_experiments import tables as earlier_experiments
from gradcam_gan.studies.results import read_manifests
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.which_explanation import tables as which_explanation
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.cost import core_seconds
from gradcam_gan.training.loop import is_complete

# the notebooks, by number, that archived runs can be enough for
DRAWN = ("00", "01", "02", "03", "04", "05", "06", "07", "08")
KEPT = (
    "*.csv",
    "*.csv.gz",
    "*.json",
    "*.safetensors",
    "checkpoints/*/epoch.json",
    "checkpoints/*/*_diffusion.safetensors",
)
RESULTS, CHECKPOINTS = "results.zip", "checkpoints.zip"
NEAR_BEST = range(11, 20)  # about the paper's epochs 15 and 18: to be explored beside the rows of Figure 1
DATE = (1980, 1, 1, 0, 0, 0)  # of every file: the same run gives the same bytes


def folder_of(figures: Path) -> Path:
    """Where the archives of a folder of figures are, if it has any."""
    return figures / "archive"


def path_of(study: Study, run: str) -> Path:
    """The folder of a run's archive, if there is one."""
    return folder_of(study.figures_dir) / run


def serves(run: Path, notebook: str) -> bool:
    """Whether a run's folder has what a notebook, its number first, needs of it: a whole run has.

    One that was filled from an archive has what the notebooks need that were drawn before it was made.
    """
    archived_for = files.read_json(run / "manifest.json").get("archived") if is_complete(run) else []
    return archived_for is None or notebook[:2] in archived_for


def is_archived(run: Path) -> bool:
    """Whether a run's folder was filled from an archive, and lacks most of its networks."""
    return is_complete(run) and "archived" in files.read_json(run / "manifest.json")


def networks_shown(
    study: Study, config: TrainingConfig, notebooks: Sequence[str], explained: str | None
) -> list[str]:
    """The networks that notebooks, by number, show of a training, as files of its folder: of the first seeds alone.

    ``explained`` names the first training whose explanations notebook 6 compares: not every network has them.
    """
    model = study.guidance.models[0]
    guided = study.guided_configs()
    shown = []
    if {"00", "02"} & set(notebooks) and config == study.configs()[0]:
        epochs = {*study.figure_epochs, *NEAR_BEST} & set(range(config.epochs + 1))
        shown = [(epoch, "discriminator") for epoch in sorted(epochs)]
    if "07" in notebooks and config in (guided[model][0], guided[f"{model} guided"][0]):
        shown = [(epoch, "discriminator") for epoch in study.comparison_rows]
        shown += [(config.epochs, "generator")] * bool(config.parts.guidance)
    if "06" in notebooks and config.name == explained:
        shown.append((study.quality.epochs[-1], "discriminator"))
    return [f"checkpoints/epoch-{epoch:04d}/{name}.safetensors" for epoch, name in dict.fromkeys(shown)]


def pack(study: Study) -> None:
    """Archive the runs of the published figures of ``DRAWN``, as far as they are here; drop archives of other runs.

    A run that was trained again has not what notebooks found of it that did not run again: that stays in its archive.
    """
    ran = {copy.name[:2] for copy in (study.runs_dir / "notebooks").glob("*.ipynb")}
    manifests = {
        name: found for name, found in read_manifests(study.figures_dir).items() if name[:2] in DRAWN
    }
    published = {name: sources(name, found) for name, found in manifests.items()}
    explained = next((runs[0] for name, runs in published.items() if name.startswith("06")), None)
    for one in needed(study, list(manifests)):
        notebooks = [name[:2] for name in one.notebooks if one.name in published[name]]
        if notebooks and is_complete(one.run) and not is_archived(one.run):
            archive = path_of(study, one.name)
            archive.mkdir(parents=True, exist_ok=True)
            shown = networks_shown(study, one.config, notebooks, explained) if one.config else []
            before = {} if ran.issuperset(notebooks) else _unpacked(archive / RESULTS)
            for name, content in _packed(one.run, notebooks, shown, before).items():
                files.write_bytes(archive / name, content)
    kept = {path_of(study, run) for runs in published.values() for run in runs}
    for old in [path.parent for path in folder_of(study.figures_dir).rglob(RESULTS)]:
        if old not in kept:
            shutil.rmtree(old)


def is_enough(study: Study, notebook: str) -> bool:
    """Whether the archive has all trainings that a notebook's published figures came from."""
    manifest = read_manifests(study.figures_dir).get(notebook)
    found = sources(notebook, manifest) if manifest else []
    return notebook[:2] in DRAWN and bool(found) and all(path_of(study, run).is_dir() for run in found)


def sources(notebook: str, manifest: Mapping[str, Any]) -> list[str]:
    """What a notebook's published figures came from, by the names of folders below the runs."""
    return [*manifest["runs"], *tables_of(notebook, manifest)]


def tables_of(notebook: str, manifest: Mapping[str, Any]) -> list[str]:
    """The tables of a seed, those that are no run's, which a published notebook drew, by the names of their folders."""
    if notebook[:2] not in ("06", "08"):
        return []
    published = Study.model_validate(manifest["parameters"])
    return [one.name for one in needed(published, [notebook]) if one.config is None]


def _packed(
    run: Path, notebooks: Sequence[str], networks: Sequence[str], before: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The files of a run's archive for some notebooks: what is in its folder, and else what was found before."""
    content = dict(before)
    content |= {str(path.relative_to(run)): path.read_bytes() for one in KEPT for path in run.glob(one)}
    content |= {name: (run / name).read_bytes() for name in networks}
    manifest = {**files.read_json(run / "manifest.json"), "archived": list(notebooks)}
    content["manifest.json"] = files.json_bytes(files.sealed(manifest))
    checkpoints = {name: content.pop(name) for name in list(content) if name.startswith("checkpoints/")}
    return {RESULTS: _zip(content)} | ({CHECKPOINTS: _zip(checkpoints)} if checkpoints else {})


def _unpacked(archive: Path) -> dict[str, bytes]:
    """The content of a file of an archive by name; none where there is no such file."""
    if not archive.is_file():
        return {}
    with _opened(archive) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def _zip(content: Mapping[str, bytes]) -> bytes:
    """Files by name as one."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        for name in sorted(content):
            file.writestr(zipfile.ZipInfo(name, DATE), content[name], zipfile.ZIP_DEFLATED)
    return zipped.getvalue()


def checksums(figures: Path) -> dict[str, str]:
    """SHA-256 of every archived file of a folder of figures, by its path in the archive."""
    folder = folder_of(figures)
    archived = sorted(folder.rglob("*.zip"))
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in archived
    }


@dataclass(frozen=True)
class Needed:
    """What some notebooks read that takes long to make.

    Attributes:
        name: of its folder below the runs.
        run: that folder.
        mark: the workflow's, that it is done.
        config: of the training; None: it is a seed's tables of notebook 6 or 8.
        seconds: of one core that it takes to make.
        notebooks: their names.
    """

    name: str
    run: Path
    mark: Path
    config: TrainingConfig | None
    seconds: float
    notebooks: list[str]

    @property
    def is_there(self) -> bool:
        """Whether its folder has all that these notebooks need of it."""
        return all(serves(self.run, notebook) for notebook in self.notebooks)

    def is_served_by(self, archive: Path) -> bool:
        """Whether its archive has all that these notebooks need of it.

        Raises:
            RunError: the archive is damaged.
        """
        with _opened(archive / RESULTS) as zipped:
            archived_for = json.loads(zipped.read("manifest.json"))["archived"]
        return all(notebook[:2] in archived_for for notebook in self.notebooks)


def needed(study: Study, notebooks: Sequence[str]) -> list[Needed]:
    """The trainings that notebooks, by name, read themselves, and tables of a seed that are no run's."""
    found: dict[str, Needed] = {}

    def enter(notebook: str, name: str, mark: str, config: TrainingConfig | None, seconds: float) -> None:
        one = Needed(name, study.runs_dir / name, study.runs_dir / mark, config, seconds, [])
        found.setdefault(name, one).notebooks.append(notebook)

    for notebook in notebooks:
        kinds = {"trained": study.needed_networks(notebook), "scored": study.needed_pairs(notebook)}
        for kind, configs in kinds.items():
            for config in configs:
                enter(notebook, config.name, f"{config.name}.{kind}", config, core_seconds(config))
        for seed in study.seeds if notebook[:2] == "06" else []:
            seconds = sum(map(core_seconds, study.quality_configs(seed)))
            enter(notebook, which_explanation.identity(study, seed), f"seed{seed}.assessed", None, seconds)
        for seed in study.earlier.seeds if notebook[:2] == "08" else []:
            seconds = earlier_experiments.seconds_of_seed(study)
            enter(notebook, earlier_experiments.identity(study, seed), f"seed{seed}.earlier", None, seconds)
    return list(found.values())


def prepare(study: Study, notebooks: Sequence[str], *, complete: bool = False) -> None:
    """Bring back the archived runs that are enough for these notebooks; put aside those that are not.

    Args:
        study: whose runs.
        notebooks: by name.
        complete: nothing will be trained, so put nothing aside.

    Raises:
        RunError: an archive is damaged.
    """
    for one in needed(study, notebooks):
        if not complete and is_archived(one.run) and not one.is_there:
            for mark in _marks(study, one):
                mark.unlink(missing_ok=True)
            shutil.rmtree(one.run)
        archive = path_of(study, one.name)
        if archive.is_dir() and not one.run.exists() and (complete or one.is_served_by(archive)):
            _bring_back(archive, one.run, (RESULTS, CHECKPOINTS) if one.config else (RESULTS,))
            for mark in _marks(study, one):
                mark.touch()


def _marks(study: Study, one: Needed) -> list[Path]:
    """The workflow's marks of what a run's folder holds: the training, and arms of the pruning experiment."""
    arms = [arm.name for arm in study.arms() if any(one.run.glob(f"{arm.name}-*"))]
    return [one.mark, *(study.runs_dir / f"{arm}.scored" for arm in arms)]


def _bring_back(archive: Path, run: Path, names: Sequence[str]) -> None:
    with files.reporting(run.parent), files.atomic_directory(run) as folder:
        for name in names:
            with _opened(archive / name) as zipped:
                zipped.extractall(folder)


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """A file of an archive to read from.

    Raises:
        RunError: it is damaged, or not there.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            yield zipped
    except (
        FileNotFoundError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        KeyError,
        ValueError,
    ) as error:
        raise RunError(f"{archive} is damaged ({error}); git checkout brings it back") from None

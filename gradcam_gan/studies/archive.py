"""What published figures need of the trainings behind them, in the repository, so that nobody has to train first.

``figures/<profile>/archive/<run>.zip`` is a run's folder with less in it: the configuration, the manifest, the history,
its scores and what else was found of it (``Run.kept``), and every epoch's record; what diffuses D's and C's input; and,
of the runs whose pictures are shown, the networks behind these. All keep the checksums that they have in a run, and the
ledger has each archive's own.

``prepare`` brings them back among the other runs, where their manifest says ``archived``: such a run is there for the
notebooks that need no other network of it (``DRAWN``), and for no others.
"""

import hashlib
import io
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from gradcam_gan.errors import RunError
from gradcam_gan.studies.results import read_manifests
from gradcam_gan.studies.study import Study
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import is_complete
from gradcam_gan.training.runs import read_manifest

DRAWN = ("00", "01", "02", "04", "07")  # the notebooks, by number, that archived runs are enough for
KEPT = ("*.csv", "config.json", "checkpoints/*/epoch.json", "checkpoints/*/*_diffusion.safetensors")
DATE = (1980, 1, 1, 0, 0, 0)  # of every file: the same run gives the same bytes


def folder_of(figures: Path) -> Path:
    """Where the archives of a folder of figures are, if it has any."""
    return figures / "archive"


def path_of(study: Study, run: str) -> Path:
    """Where a run's archive is, if there is one."""
    return folder_of(study.figures_dir) / f"{run}.zip"


def is_archived(run: Path) -> bool:
    """Whether a run's folder was filled from an archive, and lacks most of its networks."""
    return is_complete(run) and files.read_json(run / "manifest.json").get("archived", False)


def networks_shown(study: Study, config: TrainingConfig) -> list[str]:
    """The networks that ``DRAWN`` show of a training, as files of its folder: those of the first seeds alone."""
    seed, epochs, model = study.pairs.seeds[0], study.comparison_rows, study.guidance.models[0]
    samples = [one.name for one in study.compared_configs() if one.seed == seed]  # notebook 4
    plain, guided = (study.guided_configs()[arm][0].name for arm in (model, f"{model} guided"))  # notebook 7
    generator = "generator_average" if config.parts.averaging else "generator"
    shown = [(config.epochs, generator)] if config.name in (*samples, guided) else []
    shown += [(epoch, "discriminator") for epoch in epochs if config.name in (plain, guided)]
    if config in study.needed_networks("02"):
        shown += [(epoch, "discriminator") for epoch in study.figure_epochs]
    return [f"checkpoints/epoch-{epoch:04d}/{name}.safetensors" for epoch, name in shown]


def pack(study: Study) -> None:
    """Archive the runs of the published figures of ``DRAWN``, as far as they are here; drop archives of other runs."""
    manifests = read_manifests(study.figures_dir)
    published = {
        name for notebook, found in manifests.items() if notebook[:2] in DRAWN for name in found["runs"]
    }
    for old in folder_of(study.figures_dir).glob("*.zip"):
        if old.stem not in published:
            old.unlink()
    for config in (*study.needed_networks("02"), *study.pair_configs()):
        run, archive = study.runs_dir / config.name, path_of(study, config.name)
        if config.name in published and is_complete(run) and not is_archived(run):
            archive.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(archive, _zipped(run, networks_shown(study, config)))


def is_enough(study: Study, notebook: str) -> bool:
    """Whether the archive has all trainings that a notebook's published figures came from."""
    found = read_manifests(study.figures_dir).get(notebook, {"runs": []})["runs"]
    return notebook[:2] in DRAWN and bool(found) and all(path_of(study, run).is_file() for run in found)


def _zipped(run: Path, networks: Sequence[str]) -> bytes:
    """The content of a run's archive."""
    content = {str(path.relative_to(run)): path.read_bytes() for one in KEPT for path in run.glob(one)}
    content |= {name: (run / name).read_bytes() for name in networks}
    content["manifest.json"] = files.json_bytes(files.sealed({**read_manifest(run), "archived": True}))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        for name in sorted(content):
            file.writestr(zipfile.ZipInfo(name, DATE), content[name], zipfile.ZIP_DEFLATED)
    return zipped.getvalue()


def checksums(figures: Path) -> dict[str, str]:
    """SHA-256 of every archive of a folder of figures, by the run's name."""
    archives = sorted(folder_of(figures).glob("*.zip"))
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in archives}


def prepare(study: Study, notebooks: Sequence[str]) -> None:
    """Bring back the archived runs that these notebooks can be drawn from; put aside those that one needs whole.

    Where nothing may be trained, ask with ``DRAWN`` alone.

    Raises:
        RunError: an archive is damaged.
    """
    whole = _needed(study, [name for name in notebooks if name[:2] not in DRAWN])
    for name, mark in whole.items():
        if is_archived(study.runs_dir / name):
            mark.unlink(missing_ok=True)
            shutil.rmtree(study.runs_dir / name)
    for name, mark in _needed(study, [name for name in notebooks if name[:2] in DRAWN]).items():
        run, archive = study.runs_dir / name, path_of(study, name)
        if name not in whole and archive.is_file() and not run.exists():
            _bring_back(archive, run)
            mark.touch()


def _needed(study: Study, notebooks: Sequence[str]) -> dict[str, Path]:
    """The trainings, by name, that notebooks read, and what the workflow marks them with when they are done."""
    marks = {one.name: "trained" for name in notebooks for one in study.needed_networks(name)}
    marks |= {one.name: "scored" for name in notebooks for one in study.needed_pairs(name)}
    return {name: study.runs_dir / f"{name}.{mark}" for name, mark in marks.items()}


def _bring_back(archive: Path, run: Path) -> None:
    with files.reporting(run.parent), files.atomic_directory(run) as folder:
        try:
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(folder)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise RunError(f"{archive} is damaged ({error}); git checkout brings it back") from None

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import check_figures
import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "seaborn-base": "seaborn"}
# Asked for by some builds of torch, or on some systems, only; pip adds them.
NOT_LOCKED = re.compile(r"nvidia-.*|cuda-.*|triton|appnope|colorama|pywin.*|pip")


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for line in [*PROJECT["dependencies"], *(r for extra in extras for r in extra)]]


def lock_lines() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pin(requirement: Requirement) -> Version:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


def lock() -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, lock_lines())}


def conda() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


class TestRequirementsLock:
    def test_pins_every_line_once_in_order_and_without_local_version(self):
        names = [canonicalize_name(Requirement(line).name) for line in lock_lines()]
        assert names == sorted(set(names))
        for requirement in lock().values():
            assert requirement.url is None
            assert pin(requirement).local is None, requirement

    def test_satisfies_every_range_of_pyproject(self):
        locked = lock()
        for requirement in requirements():
            found = locked[canonicalize_name(requirement.name)]
            assert found.marker is None, found
            assert requirement.specifier.contains(pin(found)), (requirement, found)

    def test_holds_what_the_package_needs_and_nothing_else(self):
        """Follows the installed packages' own requirements, on the Python that runs this."""
        needed, seen, todo = set(), set(), requirements()
        while todo:
            requirement = todo.pop()
            name = canonicalize_name(requirement.name)
            if NOT_LOCKED.fullmatch(name) or (name, *sorted(requirement.extras)) in seen:
                continue
            seen.add((name, *sorted(requirement.extras)))
            needed.add(name)
            for line in importlib.metadata.requires(name) or []:
                child = Requirement(line)
                environments = [{"extra": extra} for extra in ("", *requirement.extras)]
                if child.marker is None or any(child.marker.evaluate(env) for env in environments):
                    todo.append(child)
        locked = {name for name, r in lock().items() if r.marker is None or r.marker.evaluate()}
        assert needed - locked == set()
        assert locked - needed - {"greenlet"} == set()  # greenlet: needed on some processors only


def test_conda_pins_every_direct_dependency_as_the_lock_does():
    *from_conda, pip = conda()["dependencies"]
    assert pip["pip"][-1] == "-e ."
    pins = dict(line.split("=", 1) for line in from_conda if re.fullmatch(r"[\w-]+=[\w.]+", line))
    assert set(from_conda) - {f"{name}={version}" for name, version in pins.items()} == {
        "python>=3.11,<3.14",
        "pip",
    }
    pins |= dict(line.split("==") for line in pip["pip"][:-1])
    found = {canonicalize_name(CONDA_NAMES.get(name, name)): version for name, version in pins.items()}
    wanted = {canonicalize_name(r.name) for r in requirements()}
    assert found == {name: str(pin(lock()[name])) for name in wanted}


def test_the_citation_has_the_version_and_licence_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (str(citation["version"]), citation["license"]) == (PROJECT["version"], PROJECT["license"])


def test_the_citation_has_what_its_format_asks_for_and_the_changelog_its_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    for work in (citation, *citation["references"]):
        assert work["title"]
        assert all(author.keys() & {"name", "family-names"} for author in work["authors"])
    assert f"## {citation['version']}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel of this checkout, built without a network, and unpacked alone into an empty folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in ("gradcam_gan", "data"):
        ignored = shutil.ignore_patterns("__pycache__", "MNIST", "FashionMNIST")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--wheel-dir", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    (wheel,) = target.glob("*.whl")
    shutil.unpack_archive(wheel, target / "package", "zip")
    return target / "package"


class TestInstalled:
    """What works outside a checkout: the library, ``train`` and ``evaluate``; ``explain`` is a call of the library."""

    FIELDS = ("preset=paper28", "width=2", "epochs=1", "train_images=64", "batch_size=32", "threads=1")

    @staticmethod
    def python(installed, folder, *arguments):
        """Python in a folder outside the checkout, with that package alone."""
        environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def test_it_trains_scores_and_explains(self, installed, tmp_path):
        done = self.python(
            installed, tmp_path, "-m", "gradcam_gan", "evaluate", *self.FIELDS, "--images", "20",
            "--reference", "0", "40",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "fid_without_veil" in done.stdout
        code = f"""
import gradcam_gan.__main__
assert gradcam_gan.__file__.startswith({str(installed)!r}), gradcam_gan.__file__
assert gradcam_gan.__main__.main(["train", *{self.FIELDS!r}]) == 0
(path,) = __import__("pathlib").Path("runs").glob("mnist-5k-*")
run = gradcam_gan.load_run(path)
assert run.manifest["git_commit"] is None
images = gradcam_gan.load_images("mnist-5k", 28, "test").images[:4]
print(tuple(gradcam_gan.explain(run.discriminator(1), images, method="gradcam", layer="conv3").shape))
"""
        done = self.python(installed, tmp_path, "-c", code)
        assert done.stdout.splitlines()[1:] == ["(4, 28, 28)"], done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]

    @pytest.mark.parametrize(
        "arguments", [["figures"], ["measure", "0"], ["notebook", "a", "b"], ["publish"], ["prune", "random"]]
    )
    def test_what_needs_a_checkout_says_so_in_one_line(self, installed, tmp_path, arguments):
        done = self.python(installed, tmp_path, "-m", "gradcam_gan", *arguments)
        assert done.returncode == 2
        assert re.fullmatch("error: .* run this in a checkout of it\n", done.stderr)
        assert not list(tmp_path.iterdir())

    def test_its_command_is_the_module_s(self, installed):
        (scripts,) = installed.glob("*.dist-info/entry_points.txt")
        assert "gradcam-gan = gradcam_gan.__main__:main" in scripts.read_text()


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_snakemake_knows_every_option_of_the_cluster_profiles(name):
    profile = yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())
    assert profile["executor"] == name
    rules = set(re.findall(r"^rule (\w+):", (ROOT / "Snakefile").read_text(), re.MULTILINE))
    assert (
        set(profile["set-resources"]) == {"train", "evaluate", "prune", "assess"} < rules
    )  # those that train
    cli = pytest.importorskip("snakemake.cli")
    options = set(cli.get_argument_parser()._option_string_actions)
    options |= {"--kubernetes-namespace"}  # the plugin's own, unknown where it is not installed
    assert {f"--{key}" for key in profile} <= options


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_without_slurm_its_proof_is_skipped_with_the_reason(tmp_path):
    for name in ("dirname", "nproc"):
        (tmp_path / name).symlink_to(shutil.which(name))
    command, environment = (
        [shutil.which("bash"), ROOT / "profiles/slurm/one_node.sh"],
        {"PATH": str(tmp_path)},
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("skipped: slurmctld is not installed; as root: apt-get install ")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
class TestMakefile:
    def make(self, *args: str) -> subprocess.CompletedProcess:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS")) and k != "PROFILE"}
        return subprocess.run(["make", *args], cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    @pytest.mark.parametrize("profile", ["fast", "", "smoke quick"])
    def test_an_unknown_profile_is_one_clear_line(self, profile):
        done = self.make("--dry-run", "figures", f"PROFILE={profile}")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "smoke quick study paper" in done.stderr

    def test_clean_leaves_data_and_figures(self):
        commands = self.make("--dry-run", "clean").stdout
        assert ".venv" in commands
        assert not re.search(r"\bdata\b|\bfigures\b|\bruns\b", commands)


class TestCheckFigures:
    @pytest.fixture
    def folder(self, tmp_path):
        grey = np.linspace(0, 255, 300 * 240).reshape(240, 300).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / "fig1_a.png")
        (tmp_path / "fig1_a.pdf").write_bytes(b"%PDF-1.4\n...\n%%EOF\n")
        (tmp_path / "fig1_a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><g/></svg>')
        (tmp_path / "fig1_a.csv").write_text("epoch,focus\n1,0.5\n")
        return tmp_path

    def test_accepts_whole_figures(self, folder):
        assert check_figures.problems(folder, ("fig1_a",)) == []
        # a file of each kind is missing
        assert len(check_figures.problems(folder, ("fig1_a", "fig2_b"))) == 4

    @pytest.mark.parametrize("suffix", check_figures.SUFFIXES)
    @pytest.mark.parametrize("harm", ["delete", "empty", "cut"])
    def test_refuses_missing_empty_and_cut_files(self, folder, suffix, harm):
        path = folder / f"fig1_a{suffix}"
        if harm == "delete":
            path.unlink()
        else:
            path.write_bytes(b"" if harm == "empty" else path.read_bytes()[:12])
        (problem,) = check_figures.problems(folder, ("fig1_a",))
        assert path.name in problem

    @pytest.mark.parametrize(("shape", "words"), [((240, 300), "blank"), ((20, 300), "pixels")])
    def test_refuses_a_blank_and_a_tiny_picture(self, folder, shape, words):
        Image.fromarray(np.full(shape, 255, np.uint8)).save(folder / "fig1_a.png")
        assert words in check_figures.problems(folder)[0]

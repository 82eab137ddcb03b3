import importlib.metadata
import os
import re
import shutil
import subprocess
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


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_snakemake_knows_every_option_of_the_cluster_profiles(name):
    profile = yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())
    assert profile["executor"] == name
    assert set(profile["set-resources"]) == {"train", "evaluate_model", "prune"}  # the rules that train
    cli = pytest.importorskip("snakemake.cli")
    options = set(cli.get_argument_parser()._option_string_actions)
    options |= {"--kubernetes-namespace"}  # the plugin's own, unknown where it is not installed
    assert {f"--{key}" for key in profile} <= options


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

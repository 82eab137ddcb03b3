import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from gradcam_gan.__main__ import _assignments, main
from gradcam_gan.errors import InputError, RunError
from gradcam_gan.studies import paths
from gradcam_gan.studies.notebooks import (
    CLAIMS_END,
    CLAIMS_START,
    notebook_parameters,
    publish,
    publish_outputs,
    publish_verdicts,
    run_notebook,
    store_outputs,
)
from gradcam_gan.studies.profile import PROFILE_VARIABLE, Study
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import train

ROOT = Path(__file__).parents[2]
TINY = {
    "preset": "paper28", "width": 2, "epochs": 1, "train_images": 64, "batch_size": 32, "precision": "float32",
    "device": "cpu", "threads": 1,
}  # fmt: skip


def write_notebook(path, *cells, parameters='profile = "quick"\nwidth = 16\nseeds = [0]'):
    """A notebook that asks for a kernel which is not there, as one from another machine may."""
    kernel = {"name": "elsewhere", "display_name": "Elsewhere", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    if parameters is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def printed(path):
    """What an executed notebook printed."""
    cells = nbformat.read(path, 4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


class TestRunNotebook:
    def test_the_studys_values_and_changes_reach_the_notebook(self, tmp_path, monkeypatch):
        """Also None, text and lists; those that the notebook does not name are not injected."""
        monkeypatch.setenv(PROFILE_VARIABLE, "paper")
        source = write_notebook(
            tmp_path / "in" / "n.ipynb",
            "import os, sys\nfrom pathlib import Path\n"
            "print([profile, width, seeds, data_dir, 'epochs' in globals(), Path.cwd().name,"
            f" os.environ.get({PROFILE_VARIABLE!r}), sys.executable])",
            parameters='profile = "quick"\nwidth = 16\nseeds = [0]\ndata_dir = "x"',
        )
        before = source.read_bytes()
        changes = {"width": 5, "seeds": [0, 7]}
        output = tmp_path / "out" / "deep" / "n.ipynb"
        run_notebook(source, output, Study.load("smoke", **changes), changes)
        assert ast.literal_eval(printed(output)) == [
            "smoke", 5, [0, 7], None, False, "in", None, sys.executable
        ]  # fmt: skip
        assert source.read_bytes() == before

    def test_takes_relative_paths(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_notebook(tmp_path / "in" / "n.ipynb", "print(width)")
        run_notebook(Path("in/n.ipynb"), Path("out/n.ipynb"), Study.load("smoke"), {})
        assert printed(tmp_path / "out" / "n.ipynb") == "4\n"

    def test_an_unknown_parameter_is_refused_with_the_nearest_name_before_anything_runs(self, tmp_path):
        source = write_notebook(tmp_path / "n.ipynb", "open('ran', 'w')")
        with pytest.raises(InputError, match=r"n.ipynb has no parameter 'widht'; did you mean 'width'\?"):
            run_notebook(source, tmp_path / "out.ipynb", Study.load("smoke"), {"widht": 3})
        with pytest.raises(InputError, match=r"no parameter 'zzz'; it has profile, width, seeds"):
            run_notebook(source, tmp_path / "out.ipynb", Study.load("smoke"), {"zzz": 3})
        assert {file.name for file in tmp_path.iterdir()} == {"n.ipynb"}

    def test_a_cell_that_raises_leaves_its_copy_and_one_line(self, tmp_path):
        source = write_notebook(tmp_path / "n.ipynb", "print('before')", "1 / 0", "print('after')")
        output = tmp_path / "out.ipynb"
        with pytest.raises(RunError) as caught:
            run_notebook(source, output, Study.load("smoke"), {})
        # in the copy, cell 0 has the defaults, cell 1 the study's values
        assert str(caught.value) == (
            f"n.ipynb failed in cell 3 (In [4]): ZeroDivisionError: division by zero; the executed copy is {output}"
        )
        assert "before" in printed(output)
        assert "after" not in printed(output)
        assert "ZeroDivisionError" in output.read_text()

    def test_the_packages_own_errors_are_named_too(self, tmp_path):
        source = write_notebook(
            tmp_path / "n.ipynb", "from gradcam_gan import Study\nStudy.load('qick', width=3)"
        )
        with pytest.raises(RunError, match=r"InputError: profile='qick' is unknown; did you mean 'quick'\?"):
            run_notebook(source, tmp_path / "out.ipynb", Study.load("smoke"), {})

    def test_a_process_that_is_killed_is_one_line_too(self, tmp_path):
        """As the kernel of Linux does where memory runs out."""
        source = write_notebook(
            tmp_path / "n.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
        )
        with pytest.raises(RunError, match=r"n.ipynb: its Python process died.*out.ipynb"):
            run_notebook(source, tmp_path / "out.ipynb", Study.load("smoke"), {})
        assert (tmp_path / "out.ipynb").is_file()

    def test_a_notebook_that_is_missing_or_has_no_parameters_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"none.ipynb does not exist"):
            notebook_parameters(tmp_path / "none.ipynb")
        source = write_notebook(tmp_path / "n.ipynb", "print()", parameters=None)
        with pytest.raises(InputError, match=r"n.ipynb has no cell tagged 'parameters'"):
            notebook_parameters(source)


def run_copy(path, *texts):
    """An executed copy as papermill leaves it: the injected cell second, every cell with an output."""
    copy = nbformat.read(path, 4)
    injected = nbformat.v4.new_code_cell("width = 4", metadata={"tags": ["injected-parameters"]}, id="new")
    copy.cells.insert(1, injected)
    for i, (cell, text) in enumerate(zip(copy.cells[2:], texts, strict=True)):
        cell.metadata["papermill"] = {"duration": 1.0}
        cell.execution_count = i + 3
        cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": text}, execution_count=i + 3)]
    copy.metadata["papermill"] = {"start_time": "now"}
    return copy


class TestStoreOutputs:
    def test_outputs_go_into_the_source_without_papermills_traces(self, tmp_path):
        source = write_notebook(tmp_path / "n.ipynb", "a", "b")
        nbformat.write(run_copy(source, "first", "second"), tmp_path / "run.ipynb")
        store_outputs(tmp_path / "run.ipynb", source)
        stored = nbformat.read(source, 4)
        assert [cell.source for cell in stored.cells[1:]] == ["a", "b"]
        assert [cell.execution_count for cell in stored.cells] == [1, 2, 3]
        assert [cell.outputs[0]["data"]["text/plain"] for cell in stored.cells[1:]] == ["first", "second"]
        assert [cell.outputs[0]["execution_count"] for cell in stored.cells[1:]] == [2, 3]
        assert "papermill" not in source.read_text()
        assert "injected-parameters" not in source.read_text()

    def test_a_copy_of_another_version_is_refused_and_nothing_changes(self, tmp_path):
        source = write_notebook(tmp_path / "n.ipynb", "a", "b")
        copy = run_copy(source, "first", "second")
        copy.cells[2].source = "changed"
        nbformat.write(copy, tmp_path / "run.ipynb")
        before = source.read_bytes()
        with pytest.raises(InputError, match="was made from another version"):
            store_outputs(tmp_path / "run.ipynb", source)
        assert source.read_bytes() == before


class TestPublish:
    @pytest.fixture
    def study(self, tmp_path, monkeypatch):
        """A repository of one notebook that has run."""
        for name in ("NOTEBOOKS", "RUNS", "FIGURES"):
            monkeypatch.setattr(paths, name, tmp_path / name.lower())
        monkeypatch.setattr(paths, "README", tmp_path / "README.md")
        paths.README.write_text(f"before\n{CLAIMS_START}\nold\n{CLAIMS_END}\nafter\n")
        study = Study.load("smoke")
        source = write_notebook(paths.NOTEBOOKS / "n.ipynb", "a")
        (study.runs_dir / "notebooks").mkdir(parents=True)
        nbformat.write(run_copy(source, "result"), study.runs_dir / "notebooks" / "n.ipynb")
        claims = pd.DataFrame(
            {
                "claim": ["C1", "C1", "C2"],
                "text": ["clear at 15", "clear at 15", "best is 18"],
                "verdict": ["partly", "partly", "inconclusive"],
                "reading": ["Grad-CAM, running, real", "Grad-CAM, running, fake", "Grad-CAM, running, real"],
                "outcome": ["holds", "fails", "unclear"],
                "sentence": ["0.5 more", "0.5 less", "25 [1, 25]"],
            }
        )
        study.figures_dir.mkdir(parents=True)
        claims.to_csv(study.figures_dir / "table_claims.csv", index=False)
        return study

    def test_puts_a_row_per_claim_into_the_readme_and_outputs_into_notebooks(self, study):
        publish_outputs(study)
        publish_verdicts(study)
        text = paths.README.read_text()
        before, claims, after = re.split(f"{CLAIMS_START}|{CLAIMS_END}", text)
        assert (before, after) == ("before\n", "\nafter\n")
        rows = [line for line in claims.splitlines() if line.startswith("| C")]
        assert [row.split(" | ")[:3] for row in rows] == [
            ["| C1", "clear at 15", "**partly**"],
            ["| C2", "best is 18", "**inconclusive**"],
        ]
        assert "running, real: *holds*; 0.5 more<br>running, fake: *fails*; 0.5 less" in rows[0]
        assert "old\n" not in text
        assert "result" in (paths.NOTEBOOKS / "n.ipynb").read_text()
        publish_verdicts(study)
        assert paths.README.read_text() == text

    def test_a_notebook_that_has_not_run_is_refused(self, study):
        (study.runs_dir / "notebooks" / "n.ipynb").unlink()
        with pytest.raises(InputError, match=r"n.ipynb does not exist; make figures PROFILE=smoke makes it"):
            publish_outputs(study)

    def test_verdicts_of_several_notebooks_are_one_table(self, study):
        more = pd.read_csv(study.figures_dir / "table_claims.csv").assign(
            claim="C6", verdict="not reproduced"
        )
        more.to_csv(study.figures_dir / "table_claims_pruning.csv", index=False)
        publish_verdicts(study)
        rows = re.findall(r"^\| (C\d) ", paths.README.read_text(), re.MULTILINE)
        assert rows == ["C1", "C2", "C6"]

    def test_a_profile_without_verdicts_is_refused(self, study):
        (study.figures_dir / "table_claims.csv").unlink()
        with pytest.raises(InputError, match=r"has no verdicts .*; make figures PROFILE=smoke makes them"):
            publish_verdicts(study)

    def test_each_profile_has_its_place(self, monkeypatch):
        done = []
        monkeypatch.setattr(
            "gradcam_gan.studies.notebooks.publish_outputs", lambda study: done.append(study.profile)
        )
        monkeypatch.setattr(
            "gradcam_gan.studies.notebooks.publish_verdicts", lambda study: done.append(study.profile)
        )
        publish(Study.load("quick"))
        publish(Study.load("seeds"))
        assert done == ["quick", "seeds"]
        with pytest.raises(InputError, match="nothing of profile='smoke' is published"):
            publish(Study.load("smoke"))


def assert_refused(capsys, arguments, *parts):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


class TestCommandLine:
    @pytest.mark.parametrize(
        ("fields", "parts"),
        [
            (["widht=4"], ["'widht' is not a field", "did you mean 'width'?"]),
            (["width=0"], ["width=0"]),
            (["width"], ["'width' is no NAME=VALUE"]),
            (["width=[1"], ["'width=[1'", "YAML"]),
            (["data=mnist-5"], ["'mnist-5'"]),
            (["device=cuda:77", "train_images=64"], ["cuda:77"]),
        ],
        ids=lambda value: value[0],
    )
    def test_train_refuses_a_bad_field_in_one_line(self, capsys, tmp_path, fields, parts):
        assert_refused(capsys, ["train", "--runs-dir", str(tmp_path / "runs"), *fields], *parts)
        assert not (tmp_path / "runs").exists()

    def test_a_real_process_ends_with_status_2_and_one_line_on_stderr(self):
        command = [sys.executable, "-m", "gradcam_gan", "train", "width=0", "seed=-1"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert "width=0" in line
        assert "seed=-1" in line

    def test_train_prints_the_path_of_the_run_that_train_gives(self, capsys, tmp_path):
        fields = [f"{name}={value}" for name, value in TINY.items()]
        assert main(["train", "--runs-dir", str(tmp_path), *fields]) == 0
        path = Path(capsys.readouterr().out.strip())
        manifest = (path / "manifest.json").read_bytes()
        assert json.loads(manifest)["status"] == "complete"
        assert train(TrainingConfig(**TINY), tmp_path).path == path
        assert (path / "manifest.json").read_bytes() == manifest  # found, not trained again

    def test_notebook_runs_one_with_a_profile_and_changes(self, capsys, tmp_path):
        source = write_notebook(tmp_path / "n.ipynb", "print([profile, width, seeds])")
        output = tmp_path / "out.ipynb"
        changes = ["width=6", "seeds=[0, 3]"]
        assert main(["notebook", str(source), str(output), *changes, "--profile", "smoke"]) == 0
        assert ast.literal_eval(printed(output)) == ["smoke", 6, [0, 3]]

    @pytest.mark.parametrize(
        ("changes", "part"),
        [
            (["--profile", "smok"], "did you mean 'smoke'?"),
            (["widht=3"], "did you mean 'width'?"),
            (["width=0"], "width=0"),
            (["epochs=3"], "must not exceed epochs=3"),
            (["batch_size=8"], "no parameter 'batch_size'"),  # a study's, not this notebook's
        ],
        ids=lambda value: value[-1] if isinstance(value, list) else "",
    )
    def test_notebook_refuses_what_cannot_be_before_anything_runs(self, capsys, tmp_path, changes, part):
        source = write_notebook(tmp_path / "n.ipynb", "print(width)")
        assert_refused(capsys, ["notebook", str(source), str(tmp_path / "out.ipynb"), *changes], part)
        assert not (tmp_path / "out.ipynb").exists()


def copy_repository(target):
    """What the workflow needs of the repository, without runs and figures."""
    for name in ("Snakefile", "params", "notebooks", "gradcam_gan"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy2(source, target / name)
    return target


def snakemake(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


def planned(folder, *config):
    """A dry run's jobs: rule -> its outputs, a list a job."""
    done = snakemake(folder, "--dry-run", "--config", "profile=smoke", *config)
    assert done.returncode == 0, done.stderr + done.stdout
    jobs = defaultdict(list)
    for block in re.split(r"\n(?=(?:local)?rule )", done.stdout + done.stderr):
        if found := re.match(r"(?:local)?rule (\w+):", block):
            output = re.search(r"^    output: (.*)$", block, re.MULTILINE)
            jobs[found[1]].append(re.sub(r" \(update\)", "", output[1]).split(", ") if output else [])
    return dict(jobs)


def saved_by(notebook):
    """The files that the cells of a notebook write, from the names in its calls."""
    suffixes = {"save_figure": ("png", "pdf", "svg", "csv", "json"), "save_table": ("csv", "json")}
    found = []
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type == "code":
            for node, variables in calls(ast.parse(cell.source), {}):
                if getattr(node.func, "id", "") in suffixes:
                    position = {"save_figure": 2, "save_table": 1}[node.func.id]
                    name = eval(compile(ast.Expression(node.args[position]), notebook, "eval"), variables)
                    found += [f"figures/smoke/{name}.{suffix}" for suffix in suffixes[node.func.id]]
    return found


def calls(node, variables):
    """The calls below a node, each as often as loops over literals repeat it, with the loops' variables."""
    if isinstance(node, ast.Call):
        yield node, variables
    rounds = [variables]
    if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple | ast.List):
        rounds = [{**variables, node.target.id: value} for value in ast.literal_eval(node.iter)]
    for values in rounds:
        for child in ast.iter_child_nodes(node):
            yield from calls(child, values)


@contextmanager
def edited(path, old, new):
    """The file with something replaced; afterwards as it was, its time too."""
    before, times = path.read_text(), path.stat()
    assert old in before
    path.write_text(before.replace(old, new))
    yield
    path.write_text(before)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


class TestSnakefile:
    @pytest.fixture(scope="class")
    @classmethod
    def repository(cls, tmp_path_factory):
        """A copy, and beside it every output as if made, so that nothing is left to do."""
        folder = copy_repository(tmp_path_factory.mktemp("repository"))
        for outputs in planned(folder).values():
            for name in (name for job in outputs for name in job):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text("made")
        done = snakemake(folder, "--touch", "--forceall", "--config", "profile=smoke")
        assert done.returncode == 0, done.stderr
        return folder

    def test_plans_a_training_per_run_each_notebook_and_the_figures(self, tmp_path):
        study = Study.load("smoke")
        jobs = planned(copy_repository(tmp_path))
        names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
        once = {"figures", *(f"notebook_{name}" for name in names)}
        assert jobs.keys() == {"train", "evaluate", *once}
        assert {rule: len(jobs[rule]) for rule in once} == dict.fromkeys(once, 1)
        trained = sorted(output for (output,) in jobs["train"])
        assert trained == sorted(f"runs/smoke/{config.name}.trained" for config in study.configs())
        # a job for every arm, model and seed, and for the scores of every network that they are compared with
        plain = [config for config in study.configs() if config.padding == "zeros"]
        scored = [*plain, *study.arm_configs(), *study.model_configs()]
        assert sorted(output for (output,) in jobs["evaluate"]) == sorted(
            f"runs/smoke/{config.name}.scored" for config in scored
        )
        # what the notebooks save is what the workflow expects of them, no more and no less
        for name in names:
            (outputs,) = jobs[f"notebook_{name}"]
            expected = [*saved_by(ROOT / "notebooks" / f"{name}.ipynb"), f"runs/smoke/notebooks/{name}.done"]
            assert sorted(outputs) == sorted(expected)

    def test_figures_of_a_fresh_clone_are_made_again_on_this_machine(self, repository):
        (repository / "runs").rename(repository / "elsewhere")
        try:
            assert len(planned(repository)["train"]) == len(Study.load("smoke").configs())
        finally:
            (repository / "elsewhere").rename(repository / "runs")

    def test_plans_nothing_where_all_is_made(self, repository):
        assert planned(repository) == {}

    def test_a_changed_plot_repeats_no_training(self, repository):
        with edited(repository / "gradcam_gan" / "plots.py", "\n", "\n\n"):
            jobs = planned(repository)
        assert "train" not in jobs
        assert {rule for rule in jobs if rule.startswith("notebook_")} == {
            f"notebook_{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")
        }

    @pytest.mark.parametrize("where", ["params", "command line"])
    def test_a_changed_seed_trains_that_seed_alone(self, repository, where):
        if where == "params":
            with edited(repository / "params" / "smoke.yaml", "\nseeds: [0, 1]\n", "\nseeds: [0, 5]\n"):
                jobs = planned(repository)
        else:
            jobs = planned(repository, "seeds=[0,5]")
        expected = Study.load("smoke", seeds=[0, 5]).config(5)
        assert jobs["train"] == [[f"runs/smoke/{expected.name}.trained"]]
        assert "notebook_02_epoch_heatmaps" in jobs

    def test_only_the_notebooks_of_models_need_their_scores_and_take_their_parameters(self, repository):
        """The scores of the compared seeds alone; a model's own training is part of its scoring."""
        study, change = Study.load("smoke", comparison_epochs=1), "comparison_epochs=1"
        models = {f"{config.name}.scored" for config in study.model_configs()}
        assert len(models) == len(study.comparison_models) * len(study.comparison_seeds)
        done = snakemake(
            repository, "--dry-run", "--forceall", "--printshellcmds", "--config", "profile=smoke", change
        )
        needed, told = {}, {}
        for block in re.split(r"\n(?=(?:local)?rule )", done.stdout + done.stderr):
            rule = re.match(r"(?:local)?rule (\w+):", block)
            inputs = re.search(r"^    input: (.*)$", block, re.MULTILINE)
            if rule and rule[1].startswith("notebook_"):
                needed[rule[1]] = {
                    Path(name).name
                    for name in inputs[1].split(", ")
                    if name.endswith((".scored", ".trained"))
                }
                told[rule[1]] = change in re.search(r"python -m gradcam_gan notebook .*", block)[0]
            elif rule and any(mark in block for mark in models) and rule[1] == "evaluate":
                assert inputs is None
        for notebook in ("notebook_04_diffusion_gans", "notebook_05_explain_dudgan"):
            dcgans = {f"{study.config(seed).name}.scored" for seed in study.comparison_seeds}
            assert needed.pop(notebook) == models | dcgans
            assert told.pop(notebook)
        assert len(needed) == 3
        assert not any(models & marks for marks in needed.values())
        assert not any(told.values())

    def test_a_changed_list_of_models_leaves_the_rest_alone(self, repository):
        """One model more to score, here with another seed too, and the notebooks."""
        changes = {"comparison_models": ["dudgan", "conditional-dcgan"], "comparison_seeds": [0, 1]}
        jobs = planned(repository, *(f"{name}={json.dumps(value)}" for name, value in changes.items()))
        new = [config for config in Study.load("smoke", **changes).model_configs() if config.seed == 1]
        assert sorted(output for (output,) in jobs["evaluate"]) == sorted(
            f"runs/smoke/{config.name}.scored" for config in new
        )
        assert "train" not in jobs
        assert {"notebook_04_diffusion_gans", "notebook_05_explain_dudgan"} < jobs.keys()

    def test_a_changed_measure_trains_nothing(self, repository):
        with edited(repository / "params" / "smoke.yaml", "probe_images: 32", "probe_images: 48"):
            jobs = planned(repository)
        assert "train" not in jobs
        assert "notebook_02_epoch_heatmaps" in jobs

    def test_commands_are_those_that_the_command_line_takes(self, tmp_path, monkeypatch):
        """The fields of every training give back its configuration; notebooks get the changes."""
        folder = copy_repository(tmp_path)
        done = snakemake(
            folder, "--dry-run", "--printshellcmds", "--config", "profile=smoke", "width=5", "seeds=[0]"
        )
        text = done.stdout + done.stderr
        found = re.findall(r"python -m gradcam_gan train --runs-dir (\S+) (.*?) > (\S+)", text)
        given = []
        monkeypatch.setattr(
            "gradcam_gan.training.loop.train",
            lambda config, path: given.append((config, path)) or exit_early(),
        )

        def exit_early():
            raise InputError("enough")

        for runs_dir, fields, _log in found:
            assert main(["train", "--runs-dir", runs_dir, *shlex.split(fields)]) == 2
        study = Study.load("smoke", width=5, seeds=[0])
        assert {config.name for config, _ in given} == {config.name for config in study.configs()}
        assert {str(path) for _, path in given} == {"runs/smoke"}
        scored = re.findall(
            r"python -m gradcam_gan evaluate --runs-dir runs/smoke --images 64 (.*?) > \S+", text
        )
        configs = [TrainingConfig(**_assignments(shlex.split(fields))) for fields in scored]
        expected = [study.config(0), *study.arm_configs(), *study.model_configs()]
        assert sorted(config.name for config in configs) == sorted(config.name for config in expected)
        notebooks = re.findall(r"python -m gradcam_gan notebook \S+ \S+ (.*) --profile smoke", text)
        assert len(notebooks) == len(list((ROOT / "notebooks").glob("*.ipynb")))
        for texts in notebooks:
            changes = dict(text.split("=") for text in shlex.split(texts))
            assert Study.load("smoke", **{name: yaml.safe_load(changes[name]) for name in changes}) == study

    @pytest.mark.parametrize(
        ("config", "line"),
        [
            (["profile=smok"], "error: profile='smok' is unknown; did you mean 'smoke'?"),
            (["profile=smoke", "widht=3"], "error: Study: 'widht' is not a field; did you mean 'width'?"),
        ],
        ids=["profile", "name"],
    )
    def test_an_unknown_name_fails_with_one_clear_line(self, tmp_path, config, line):
        done = snakemake(copy_repository(tmp_path), "--dry-run", "--config", *config)
        assert done.returncode != 0
        text = (done.stdout + done.stderr).strip()
        assert text.startswith(line)
        assert len(text.splitlines()) == 1

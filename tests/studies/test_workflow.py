import ast
import errno
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
import pytest
from filelock import FileLock
from helpers import refused

import gradcam_gan.__main__
from gradcam_gan.__main__ import _assignments, main
from gradcam_gan.errors import RunError
from gradcam_gan.studies import paths, workflow
from gradcam_gan.studies.study import PROFILE_VARIABLE, Study
from gradcam_gan.studies.workflow import complete_seeds, make_figures, publish, run_notebook, store_outputs
from gradcam_gan.training.config import TrainingConfig

ROOT = paths.REPOSITORY
STEMS = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
PARAMETERS = 'profile = "quick"\nwidth = None\nchanges = {}\nfolder = None'


def write_notebook(path, *cells, parameters=PARAMETERS):
    """A notebook that asks for a kernel which is not there, as one from another machine may."""
    kernel = {"name": "elsewhere", "display_name": "Elsewhere", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells.append(nbformat.v4.new_markdown_cell("# 1 · Why?"))
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
    def test_parameters_of_the_cell_are_injected_and_all_others_are_changes(self, tmp_path, monkeypatch):
        """Whatever the variable says, that replaces the profile for nbval."""
        monkeypatch.setenv(PROFILE_VARIABLE, "paper")
        monkeypatch.chdir(tmp_path)
        source = write_notebook(
            Path("in/n.ipynb"),
            f"import os\nprint([profile, width, changes, folder, os.environ.get({PROFILE_VARIABLE!r}), os.getcwd()])",
        )
        before, output = source.read_bytes(), Path("out/deep/n.ipynb")
        run_notebook(
            source, output, "smoke", {"width": 5, "seeds": [0, 7], "pruning.tau": 0.5}, Path("figures")
        )
        rest = {"seeds": [0, 7], "pruning.tau": 0.5}
        assert ast.literal_eval(printed(output)) == [
            "smoke", 5, rest, str(tmp_path / "figures"), None, str(tmp_path / "in")
        ]  # fmt: skip
        assert source.read_bytes() == before

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"widht": 3}, "'widht' is not a field; did you mean 'width'?"),
            ({"pruning.tua": 3}, "did you mean 'tau'?"),
            ({"width": 0}, "width=0"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_runs(self, tmp_path, changes, line):
        source = write_notebook(tmp_path / "n.ipynb", "open('ran', 'w')")
        assert line in refused(run_notebook, source, tmp_path / "out.ipynb", "smoke", changes)
        assert {file.name for file in tmp_path.iterdir()} == {"n.ipynb"}

    def test_a_notebook_that_is_missing_or_has_no_parameters_is_refused(self, tmp_path):
        assert "does not exist" in refused(run_notebook, tmp_path / "n.ipynb", tmp_path / "o.ipynb", "smoke")
        source = write_notebook(tmp_path / "n.ipynb", "print()", parameters=None)
        assert "no cell tagged 'parameters'" in refused(run_notebook, source, tmp_path / "o.ipynb", "smoke")

    def test_a_cell_that_raises_leaves_its_copy_and_one_line(self, tmp_path):
        source = write_notebook(tmp_path / "n.ipynb", "print('before')", "1 / 0", "print('after')")
        output = tmp_path / "out.ipynb"
        with pytest.raises(RunError) as caught:
            run_notebook(source, output, "smoke")
        # in the copy, cell 1 has the defaults, cell 2 the profile
        assert str(caught.value) == (
            f"n.ipynb failed in cell 4 (In [4]): ZeroDivisionError: division by zero; the executed copy is {output}"
        )
        assert printed(output) == "before\n"

    def test_a_process_that_is_killed_is_one_line_too(self, tmp_path):
        """As the kernel of Linux does where memory runs out."""
        source = write_notebook(
            tmp_path / "n.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
        )
        with pytest.raises(RunError, match=r"n.ipynb: its Python process died.*out.ipynb"):
            run_notebook(source, tmp_path / "out.ipynb", "smoke")
        assert (tmp_path / "out.ipynb").is_file()


def run_copy(path, *texts):
    """An executed copy as papermill leaves it: the injected cell behind the parameters, every cell with an output."""
    copy = nbformat.read(path, 4)
    copy.cells.insert(
        2, nbformat.v4.new_code_cell("x = 4", metadata={"tags": ["injected-parameters"]}, id="new")
    )
    for i, (cell, text) in enumerate(zip(copy.cells[3:], texts, strict=True)):
        cell.metadata["papermill"] = {"duration": 1.0}
        cell.execution_count = i + 3
        cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": text}, execution_count=i + 3)]
    copy.metadata["papermill"] = {"start_time": "now"}
    return copy


class TestPublish:
    @pytest.fixture
    def repository(self, tmp_path, monkeypatch):
        """One notebook that has run under both profiles; what becomes of ledger and READMEs is told, not done."""
        for name in ("NOTEBOOKS", "RUNS", "FIGURES"):
            monkeypatch.setattr(paths, name, tmp_path / name.lower())
        for name in ("README", "README_KO"):
            monkeypatch.setattr(paths, name, tmp_path / name)
            getattr(paths, name).write_text("old")
        monkeypatch.setattr(workflow.ledger, "write", lambda folder, planned: (folder / "ledger").touch())
        monkeypatch.setattr(workflow.readme, "update", lambda language, text: f"{language} {text}")
        source = write_notebook(paths.NOTEBOOKS / "01_n.ipynb", "a", "b")
        for profile, second in (("quick", "second"), ("study", "of the study")):
            (paths.RUNS / profile / "notebooks").mkdir(parents=True)
            copy = paths.RUNS / profile / "notebooks" / "01_n.ipynb"
            nbformat.write(run_copy(source, "first", second), copy)
            (paths.FIGURES / profile).mkdir(parents=True)
        return tmp_path

    @pytest.mark.parametrize("profile", ["quick", "study"])
    def test_the_ledger_is_written_and_both_readmes_are_brought_up_to_date(self, repository, profile):
        publish(Study.load(profile))
        assert (paths.FIGURES / profile / "ledger").is_file()
        assert (paths.README.read_text(), paths.README_KO.read_text()) == ("en old", "ko old")

    def test_outputs_go_into_the_notebooks_without_papermills_traces(self, repository):
        publish(Study.load("quick"))
        stored = nbformat.read(paths.NOTEBOOKS / "01_n.ipynb", 4)
        assert [cell.source for cell in stored.cells[2:]] == ["a", "b"]
        assert [cell.execution_count for cell in stored.cells[1:]] == [1, 2, 3]
        assert [cell.outputs[0]["data"]["text/plain"] for cell in stored.cells[2:]] == ["first", "second"]
        assert [cell.outputs[0]["execution_count"] for cell in stored.cells[2:]] == [2, 3]
        for trace in ("papermill", "injected-parameters"):
            assert trace not in (paths.NOTEBOOKS / "01_n.ipynb").read_text()

    def test_a_notebook_shows_the_study_where_its_archive_is_enough_and_quick_elsewhere(self, repository):
        def shown():
            return nbformat.read(paths.NOTEBOOKS / "01_n.ipynb", 4).cells[3].outputs[0]["data"]["text/plain"]

        publish(Study.load("quick"))
        publish(Study.load("study"))
        assert shown() == "second"
        manifest = paths.FIGURES / "study" / "01_n.json"
        manifest.write_text(json.dumps({"runs": {"one": {}}, "results": {}}))
        publish(Study.load("study"))
        assert shown() == "second"  # its training is not in the archive
        (paths.FIGURES / "study" / "archive" / "one").mkdir(parents=True)
        publish(Study.load("study"))
        assert shown() == "of the study"
        publish(Study.load("quick"))
        assert shown() == "of the study"

    def test_controls_that_need_a_kernel_leave_no_output(self, tmp_path):
        source = write_notebook(tmp_path / "n.ipynb", "a", "b")
        notebook = nbformat.read(source, 4)
        notebook.cells[2].metadata["tags"] = ["live"]
        nbformat.write(notebook, source)
        copy = run_copy(source, "first", "second")
        copy.metadata["widgets"] = {}
        nbformat.write(copy, tmp_path / "copy.ipynb")
        store_outputs(tmp_path / "copy.ipynb", source)
        stored = nbformat.read(source, 4)
        assert [len(cell.outputs) for cell in stored.cells[2:]] == [0, 1]
        assert "widgets" not in stored.metadata

    def test_a_copy_of_another_version_is_refused_and_nothing_changes(self, repository):
        source, executed = paths.NOTEBOOKS / "01_n.ipynb", paths.RUNS / "quick" / "notebooks" / "01_n.ipynb"
        executed.write_text(executed.read_text().replace('"b"', '"changed"'))
        before = source.read_bytes()
        assert "was made from another version" in refused(store_outputs, executed, source)
        assert source.read_bytes() == before

    def test_what_is_missing_is_one_line(self, repository):
        assert "profile='smoke' is unknown" in refused(publish, Study.load("smoke"))
        (paths.RUNS / "quick" / "notebooks" / "01_n.ipynb").unlink()
        assert "make figures PROFILE=quick runs them" in refused(publish, Study.load("quick"))


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
            (["widht=4", "width=0"], ["'widht' is not a field", "did you mean 'width'?", "width=0"]),
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

    def test_train_prints_the_path_of_the_run(self, capsys, tmp_path):
        fields = ["preset=paper28", "width=2", "epochs=1", "train_images=64", "batch_size=32", "device=cpu"]
        assert main(["train", "--runs-dir", str(tmp_path), *fields]) == 0
        path = Path(capsys.readouterr().out.strip())
        assert path == tmp_path / TrainingConfig(**_assignments(fields)).name
        assert json.loads((path / "manifest.json").read_text())["status"] == "complete"

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (["notebook", "n.ipynb", "out.ipynb", "--profile", "smok"], "n.ipynb does not exist"),
            (["figures", "--profile", "smok"], "did you mean 'smoke'?"),
            (["figures", "--profile", "smoke", "widht=3"], "did you mean 'width'?"),
            (["figures", "--profile", "smoke", "--only", "7"], "02_epoch_heatmaps"),
            (["prune", "rule71", "--profile", "smoke"], "arm='rule71' is unknown"),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )
    def test_what_cannot_be_is_one_line(self, capsys, arguments, part):
        assert_refused(capsys, arguments, part)


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


def dry_run(repository, config, *arguments):
    (repository / "config.json").write_text(json.dumps(config))
    return snakemake(repository, "--dry-run", "--configfile", "config.json", *arguments)


def planned(repository, changes=None, folder=None):
    """A dry run's jobs: rule -> its outputs, a list a job."""
    done = dry_run(repository, {"profile": "smoke", "changes": changes or {}, "folder": folder})
    assert done.returncode == 0, done.stderr + done.stdout
    jobs = defaultdict(list)
    for block in re.split(r"\n(?=(?:local)?rule )", done.stdout + done.stderr):
        if found := re.match(r"(?:local)?rule (\w+):", block):
            output = re.search(r"^    output: (.*)$", block, re.MULTILINE)
            jobs[found[1]].append(re.sub(r" \(update\)", "", output[1]).split(", ") if output else [])
    return dict(jobs)


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
        assert planned(folder) == {}
        return folder

    def test_time_limits_scale_with_the_work(self, tmp_path):
        """The paper's training takes over four hours on one core, smoke's seconds."""
        repository, limits = copy_repository(tmp_path), {}
        for profile in ("smoke", "paper"):
            said = dry_run(repository, {"profile": profile}).stdout
            trains = re.findall(
                r"^rule train:\n(?:    .*\n)*?    resources: .*runtime=(\d+)", said, re.MULTILINE
            )
            limits[profile] = {int(minutes) for minutes in trains}
        assert max(limits["smoke"]) < 60
        assert min(limits["paper"]) > 2 * 4 * 60

    def test_plans_a_job_for_every_training_arm_model_and_notebook(self, tmp_path):
        study, jobs = Study.load("smoke"), planned(copy_repository(tmp_path))
        expected = {
            "train": [f"{config.name}.trained" for config in study.configs()],
            "measure": [f"seed{seed}.measured" for seed in study.seeds[1:]],
            "evaluate": [
                f"{config.name}.scored"
                for config in study.pair_configs()
                if config not in study.background_configs()
            ],
            "prune": [f"{arm.name}.scored" for arm in study.arms()],
            "assess": [f"seed{seed}.assessed" for seed in study.seeds],
            "earlier": [f"seed{seed}.earlier" for seed in study.earlier.seeds],
        }
        for rule, marks in expected.items():
            assert sorted(output for (output,) in jobs.pop(rule)) == sorted(
                f"runs/smoke/{mark}" for mark in marks
            )
        assert jobs.pop("figures") == [[]]
        assert jobs == {
            f"notebook_{stem}": [[f"figures/smoke/{stem}.json", f"runs/smoke/notebooks/{stem}.done"]]
            for stem in STEMS
        }

    def test_notebook_2_trains_a_single_pair_itself_and_waits_for_several(self, tmp_path):
        repository = copy_repository(tmp_path)

        def inputs(changes, complete=False, only="notebook_02_epoch_heatmaps"):
            config = {"profile": "smoke", "changes": changes, "complete": complete}
            done = dry_run(repository, config, "--", only)
            (found,) = re.findall(
                rf"^rule {only}:\n    input: (.*)$", done.stdout + done.stderr, re.MULTILINE
            )
            return {Path(name).name for name in found.split(", ") if name.startswith("runs/")}

        for seeds in ([0], [0, 1]):
            study = Study.load("smoke", **{"pairs.seeds": seeds})
            pairs = {f"{config.name}.scored" for config in study.needed_pairs("02")}
            literal = {f"{study.paper28_config().name}.trained"}
            own = pairs | literal
            assert own & inputs(study.changes()) == (own if len(seeds) > 1 else set())
        # of what is there it is drawn with the 28x28 network or without
        assert own & inputs(study.changes(), complete=True) == pairs

    def test_a_changed_plot_repeats_no_training_and_a_changed_seed_that_seed_alone(self, repository):
        with edited(repository / "gradcam_gan" / "studies" / "style.py", "\n", "\n\n"):
            assert planned(repository).keys() == {"figures", *(f"notebook_{stem}" for stem in STEMS)}
        with edited(repository / "params" / "smoke.yaml", "\nseeds: [0, 1]\n", "\nseeds: [0, 5]\n"):
            by_file = planned(repository)
        by_name = planned(repository, {"seeds": [0, 5]})
        new = Study.load("smoke", seeds=[0, 5]).config(5)
        assert by_file["train"] == by_name["train"] == [[f"runs/smoke/{new.name}.trained"]]

    def test_an_experiments_parameters_concern_its_notebooks_alone(self, repository):
        last = "notebook_99_claims"  # draws all together
        jobs = planned(repository, {"pruning.tau": 0.5})
        assert len(jobs.pop("prune")) == len(Study.load("smoke").arms())
        assert jobs.keys() == {"figures", "notebook_03_prune_70", last}
        jobs = planned(repository, {"comparison.models": ["dudgan", "conditional-dcgan"]})
        assert jobs.keys() == {"figures", "notebook_04_diffusion_gans", "notebook_05_explain_dudgan", last}
        jobs = planned(repository, {"guidance.alpha": 2})
        assert len(jobs.pop("evaluate")) == len(Study.load("smoke").guided_configs()) - 1
        assert jobs.keys() == {"figures", "notebook_07_side_information", last}
        jobs = planned(repository, {"quality.images": 6})
        assert len(jobs.pop("assess")) == len(Study.load("smoke").seeds)
        assert jobs.keys() == {"figures", "notebook_06_which_explanation", last}
        jobs = planned(repository, {"earlier.weight": 0.25})
        assert len(jobs.pop("earlier")) == len(Study.load("smoke").earlier.seeds)
        assert jobs.keys() == {"figures", "notebook_08_earlier_experiments", last}

    def test_another_folder_is_made_beside_the_published_one(self, repository):
        jobs = planned(repository, folder="elsewhere")
        assert [output for (output, _) in (jobs[f"notebook_{stem}"][0] for stem in STEMS)] == [
            f"elsewhere/{stem}.json" for stem in STEMS
        ]

    def test_commands_are_those_that_the_command_line_takes(self, tmp_path):
        """The fields of every training give back its configuration; arms and notebooks get the changes."""
        change = {"width": 5, "pruning.tau": 0.5}
        done = dry_run(copy_repository(tmp_path), {"profile": "smoke", "changes": change}, "--printshellcmds")
        study, text = Study.load("smoke", **change), done.stdout + done.stderr
        for command, configs in (("train", study.configs()), ("evaluate", study.compared_configs())):
            found = re.findall(
                rf"gradcam_gan {command} --runs-dir runs/smoke (?:--images 64 )?(.*?) +> \S+", text
            )
            given = {TrainingConfig(**_assignments(shlex.split(fields))).name for fields in found}
            assert given >= {config.name for config in configs}
        for arm in study.arms():
            (texts,) = re.findall(rf"gradcam_gan prune {arm.name} (.*) --profile smoke", text)
            assert _assignments(shlex.split(texts)) == change
        for seed in study.seeds:
            (texts,) = re.findall(rf"gradcam_gan assess {seed} (.*) --profile smoke", text)
            assert _assignments(shlex.split(texts)) == {"width": 5}
        for seed in study.earlier.seeds:
            (texts,) = re.findall(rf"gradcam_gan earlier {seed} (.*) --profile smoke", text)
            assert _assignments(shlex.split(texts)) == {"width": 5}
        texts = re.findall(r"gradcam_gan notebook \S+ \S+ (.*) --profile smoke", text)
        assert sorted(map(len, (_assignments(shlex.split(changes)) for changes in texts))) == [
            *(len(STEMS) - 1) * [1],
            2,
        ]

    @pytest.mark.parametrize(
        ("config", "line"),
        [
            ({"profile": "smok"}, "error: profile='smok' is unknown; did you mean 'smoke'?"),
            (
                {"profile": "smoke", "changes": {"widht": 3}},
                "error: Study: 'widht' is not a field; did you mean 'width'?",
            ),
        ],
        ids=["profile", "name"],
    )
    def test_an_unknown_name_fails_with_one_clear_line(self, tmp_path, config, line):
        done = dry_run(copy_repository(tmp_path), config)
        assert done.returncode != 0
        (said,) = (done.stdout + done.stderr).strip().splitlines()
        assert said.startswith(line)


def test_a_full_disk_is_one_line_for_every_command_and_other_errors_are_not_hidden(monkeypatch, capsys):
    def fail(number):
        def call(*arguments):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(gradcam_gan.__main__, "_run", call)

    fail(errno.ENOSPC)
    assert main(["measure", "0"]) == 2
    assert capsys.readouterr().err == "error: the disk is full; the same command goes on from what is there\n"
    fail(errno.ENOENT)
    with pytest.raises(FileNotFoundError):
        main(["measure", "0"])


class TestMakeFigures:
    """With a program in Snakemake's place."""

    @pytest.fixture
    def stub(self, tmp_path, monkeypatch):
        def replace(code):
            monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
            monkeypatch.setattr(paths, "REPOSITORY", tmp_path)
            monkeypatch.setattr(workflow, "POLL_SECONDS", 0.01)
            (tmp_path / "snakemake.py").write_text(code)

        return replace

    def test_says_when_a_figure_is_there(self, stub, tmp_path, capsys):
        stub(
            "import pathlib, time\nprint('3 of 7 steps (43%) done', flush=True)\n"
            "time.sleep(0.05)\npathlib.Path('figures').mkdir()\npathlib.Path('figures/fig1.png').touch()\n"
        )
        make_figures("smoke", folder=tmp_path / "figures")
        figure, last = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r" +0:0\d  \S*figures/fig1.png", figure)
        assert last.endswith("figures is up to date")
        assert "3 of 7" in (tmp_path / "runs" / "smoke" / "logs" / "snakemake.log").read_text()

    def test_a_failed_job_is_one_line_with_its_own_last_words(self, stub, tmp_path):
        (tmp_path / "job.log").write_text("INFO: x\nerror: the disk is full\nbye\n")
        said = "Error in rule train:\n    jobid: 3\n    log: job.log (check log file(s) for error details)\nmore\n"
        stub(f"import sys\nprint({said!r})\nsys.exit(1)\n")
        with pytest.raises(
            RunError, match=r"^train failed: the disk is full; Snakemake's own log is .*snakemake.log$"
        ):
            make_figures("smoke", folder=tmp_path)

    def test_a_second_workflow_on_the_same_runs_says_so_and_leaves_the_first_ones_logs_alone(
        self, stub, tmp_path
    ):
        stub("raise SystemExit('it ran')")
        logs = tmp_path / "runs/smoke/logs"
        logs.mkdir(parents=True)
        (logs / "snakemake.log").write_text("of the first")
        with FileLock(tmp_path / "runs/smoke/.workflow.lock"):
            for arguments in ([], ["--dry-run"]):
                message = refused(make_figures, "smoke", folder=tmp_path, arguments=arguments, error=RunError)
                assert f"another workflow is at work in {tmp_path / 'runs/smoke'}" in message
        assert [path.name for path in logs.iterdir()] == ["snakemake.log"]
        assert (logs / "snakemake.log").read_text() == "of the first"

    def test_the_lock_of_a_killed_workflow_does_not_stay(self, stub, tmp_path):
        stub("import sys\nassert '--nolock' in sys.argv")
        (tmp_path / "runs/smoke").mkdir(parents=True)
        (tmp_path / "runs/smoke/.workflow.lock").touch()
        make_figures("smoke", folder=tmp_path)


class TestCompleteSeeds:
    """Interim results: of the networks that are there."""

    @pytest.fixture
    def study(self, tmp_path, monkeypatch):
        monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
        return Study.load("smoke", seeds=[0, 1, 2], **{"pairs.seeds": [0, 1]})

    def done(self, study, *configs):
        for config in configs:
            folder = study.runs_dir / config.name
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text('{"status": "complete"}')

    def test_a_network_counts_by_its_run_or_its_tables_a_pair_by_all_that_the_notebook_needs(
        self, study, tmp_path
    ):
        def found(number, of=study):
            return complete_seeds(of, tmp_path, f"{number}_any")

        assert {number: found(number) for number in ("02", "03", "04", "06", "07")} == {
            number: {} for number in ("02", "03", "04", "06", "07")
        }
        plain = [study.pair_config(seed) for seed in (0, 1)]
        self.done(study, study.config(0), *plain)
        (tmp_path / "networks").mkdir()
        tables = tmp_path / "networks" / f"{study.config(2).name}.json"
        tables.write_text(json.dumps(study.origin_of_tables(2)))
        assert found("02") == {"seeds": [0, 2], "pairs.seeds": []}
        self.done(study, *(config for config in study.background_configs() if config.seed == 0))
        assert found("02") == {"seeds": [0, 2], "pairs.seeds": [0]}
        assert found("03") == {}
        for arm in study.arms():
            (study.runs_dir / f"{arm.name}.scored").touch()
        assert found("03") == {"seeds": [0, 2], "pairs.seeds": [0]}
        self.done(
            study, *(config for config in study.compared_configs() if config not in plain and config.seed)
        )
        assert (found("04"), found("07")) == ({"pairs.seeds": [1]}, {})
        guided = [config for configs in study.guided_configs().values() for config in configs]
        self.done(study, *(config for config in guided if config not in plain))
        assert found("07") == {"pairs.seeds": [0, 1]}
        assert found("08") == {}
        (study.runs_dir / "seed1.earlier").touch()
        assert found("08") == {"earlier.seeds": [1]}
        for seed in (0, 2):
            (study.runs_dir / f"seed{seed}.assessed").touch()
        assert found("06") == {"seeds": [0], "pairs.seeds": []}  # of seed 2 there are the tables alone
        fewer = Study.load("smoke", seeds=[0, 1, 2], probe_images=16)
        assert found("02", fewer)["seeds"] == [0]

    def test_where_nothing_is_there_it_says_so(self, study, tmp_path):
        said = refused(make_figures, "smoke", only="04", folder=tmp_path, complete=True)
        assert said == "nothing of profile smoke is complete for 04_diffusion_gans; make figures trains it"

"""Runs kept in the repository without most of their networks, and brought back."""

import json
import shutil

import pandas as pd
import pytest
import torch
from helpers import refused

from gradcam_gan.errors import RunError
from gradcam_gan.run_explainer import RunExplainer
from gradcam_gan.scoring.scores import reference_for
from gradcam_gan.studies import archive, paths, workflow
from gradcam_gan.studies.earlier_experiments import tables as earlier
from gradcam_gan.studies.explore.subjects import complete_runs, run_explorer
from gradcam_gan.studies.prune_70.selection import selection
from gradcam_gan.studies.prune_70.tables import rule_grid, run_experiment
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.which_explanation import tables as which_explanation
from gradcam_gan.training.loop import train, training_images
from gradcam_gan.training.objective import Objective
from gradcam_gan.training.runs import load_run

MODEL = "dudgan"  # an averaged G, a classifier, two diffusions
SCORES = "scores-0-20.csv"


def two_seeds():
    changes = {"pairs.seeds": [0, 1], "figure_epochs": [1, 3], "comparison.models": [MODEL]}
    return Study.load("smoke", seeds=[0, 1], **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of two seeds of a DCGAN and a DuDGAN that are trained, scored and published, in folders of its own."""
    folder = tmp_path_factory.mktemp("archive")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", folder / "runs")
        patch.setattr(paths, "FIGURES", folder / "figures")
        study = two_seeds()
        study.figures_dir.mkdir(parents=True)
        shown = {
            "02_epoch_heatmaps": study.configs(),
            "04_diffusion_gans": study.compared_configs(),
            "07_side_information": study.compared_configs()[:1],
        }
        for notebook, configs in shown.items():
            for config in configs:
                run = train(config, study.runs_dir)
                (run.path / SCORES).write_text("epoch,fid\n0,9.0\n")
            manifest = {"runs": {config.name: {} for config in configs}, "results": {}}
            (study.figures_dir / f"{notebook}.json").write_text(json.dumps(manifest))
        archive.pack(study)
    return folder


@pytest.fixture
def study(trained, tmp_path, monkeypatch):
    """The same in a fresh clone: published figures, and no runs."""
    shutil.copytree(trained / "figures", tmp_path / "figures")
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    return two_seeds()


def test_runs_come_back_with_what_their_notebook_shows_and_no_more(study, trained):
    archive.prepare(study, ["04_diffusion_gans"])
    for config in study.compared_configs():
        found = load_run(study.runs_dir / config.name)
        original = load_run(trained / "runs" / "smoke" / config.name)
        assert found.config == original.config
        assert found.history.equals(original.history)
        assert (found.path / SCORES).read_bytes() == (original.path / SCORES).read_bytes()
        for epoch in found.epochs:
            theirs = original.diffusion(epoch)
            assert theirs is None or found.diffusion(epoch).times.equal(theirs.times)
        last = config.epochs
        if config.seed == 0 and not config.model:  # notebook 7 shows its D
            mine, theirs = (run.discriminator(last).state_dict() for run in (found, original))
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
        else:
            said = refused(found.discriminator, last, error=RunError)
            assert "No such file" in said
            assert f"delete {found.path} and train again" in said


def test_the_shown_network_comes_back_with_its_discriminators_at_the_rows_of_figure_1(study, trained):
    first, other = study.configs()
    archive.prepare(study, ["02_epoch_heatmaps"])
    found, original = (
        load_run(folder / first.name) for folder in (study.runs_dir, trained / "runs" / "smoke")
    )
    assert found.epochs == original.epochs
    assert found.epochs_of("discriminator") == study.figure_epochs
    for epoch in study.figure_epochs:
        mine, theirs = (run.discriminator(epoch).state_dict() for run in (found, original))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not (study.runs_dir / other.name).exists()  # others have their tables
    assert (study.runs_dir / f"{first.name}.trained").is_file()
    archive.prepare(study, ["02_epoch_heatmaps", "06_which_explanation"])
    assert not any(study.runs_dir.glob(f"{first.name}*"))


def test_the_explorer_shows_of_archived_runs_what_is_there(study):
    archive.prepare(study, ["02_epoch_heatmaps", "04_diffusion_gans"], complete=True)
    runs, refused_ones = complete_runs(paths.RUNS)
    assert set(runs.values()) == {
        study.runs_dir / one.name for one in (study.configs()[0], study.compared_configs()[0])
    }
    assert not refused_ones
    explorer = run_explorer(load_run(study.runs_dir / study.configs()[0].name), "archived", 16)
    assert explorer.epochs == study.figure_epochs
    assert explorer.sources == ["real", "yours"]
    assert explorer.statistics["settled"] == "it needs the generator"
    assert explorer.view(explorer.first).setting.epoch == study.figure_epochs[-1]


def test_what_is_back_is_complete_for_its_notebook_and_trained_again_for_one_that_needs_it_whole(study):
    archive.prepare(study, ["04_diffusion_gans"])
    names = [config.name for config in study.compared_configs()]
    assert all((study.runs_dir / f"{name}.scored").is_file() for name in names)
    assert workflow.complete_seeds(study, study.figures_dir, "04_diffusion_gans") == {"pairs.seeds": [0, 1]}
    assert workflow.complete_seeds(study, study.figures_dir, "05_explain_dudgan") == {}
    archive.prepare(study, ["04_diffusion_gans", "05_explain_dudgan"])
    assert not any(study.runs_dir.glob("*"))


def test_an_archive_is_for_the_notebooks_that_it_was_made_for(study):
    name = study.compared_configs()[0].name
    archive.prepare(study, ["04_diffusion_gans", "05_explain_dudgan"], complete=True)
    assert archive.serves(study.runs_dir / name, "04_diffusion_gans")
    assert not archive.serves(study.runs_dir / name, "05_explain_dudgan")
    assert workflow.complete_seeds(study, study.figures_dir, "05_explain_dudgan") == {}
    archive.prepare(study, ["04_diffusion_gans"])
    assert (study.runs_dir / name).is_dir()
    archive.prepare(study, ["05_explain_dudgan"])
    assert not (study.runs_dir / name).exists()
    assert not (study.runs_dir / f"{name}.scored").exists()


def test_make_figures_says_what_it_takes_from_the_archive_and_what_it_would_train(study, monkeypatch, capsys):
    monkeypatch.setattr(workflow, "_run", lambda *arguments: None)
    changes = study.changes()
    workflow.make_figures("smoke", changes, only="04")
    assert capsys.readouterr().out == ("trainings: 4 from the archive, 0 to be trained, about 0 core-hours\n")
    workflow.make_figures("smoke", changes, only="05")
    assert "0 from the archive, 4 to be trained" in capsys.readouterr().out
    workflow.make_figures("smoke", changes, only="04", complete=True)
    assert "4 from the archive, 0 not there" in capsys.readouterr().out


def test_a_run_that_is_here_stays(study, trained):
    shutil.copytree(trained / "runs" / "smoke", study.runs_dir)
    archive.prepare(study, ["04_diffusion_gans", "05_explain_dudgan"])
    assert not any(archive.is_archived(study.runs_dir / one.name) for one in study.compared_configs())


def test_the_same_runs_give_the_same_bytes_and_only_published_ones_stay(study, trained):
    shutil.copytree(trained / "runs" / "smoke", study.runs_dir)
    before = archive.checksums(study.figures_dir)
    runs = {config.name for config in (study.configs()[0], *study.compared_configs())}
    assert set(before) == {f"{run}/{file}" for run in runs for file in (archive.RESULTS, archive.CHECKPOINTS)}
    other = archive.path_of(study, "of-another-time")
    shutil.copytree(archive.path_of(study, study.configs()[0].name), other)
    archive.pack(study)
    assert archive.checksums(study.figures_dir) == before
    archive.prepare(study, [])
    shutil.rmtree(study.runs_dir)
    archive.prepare(study, ["04_diffusion_gans"])
    archive.pack(study)  # an archived run is not archived again: it has lost its networks
    assert archive.checksums(study.figures_dir) == before


def test_what_a_notebook_found_of_a_run_stays_until_it_finds_it_anew(study, trained):
    shutil.copytree(trained / "runs" / "smoke", study.runs_dir)
    first = study.compared_configs()[0].name  # of notebooks 4 and 7
    (study.runs_dir / first / SCORES).unlink()  # as if it were trained again
    executed = study.runs_dir / "notebooks"
    executed.mkdir()
    (executed / "04_diffusion_gans.ipynb").touch()

    def come_back():
        shutil.move(study.runs_dir, trained / "aside")
        archive.prepare(study, ["07_side_information"], complete=True)
        there = (study.runs_dir / first / SCORES).is_file()
        shutil.rmtree(study.runs_dir)
        shutil.move(trained / "aside", study.runs_dir)
        return there

    archive.pack(study)
    assert come_back()
    (executed / "07_side_information.ipynb").touch()
    archive.pack(study)
    assert not come_back()


def test_the_arms_of_the_pruning_experiment_come_back_with_the_network_that_scores_them(
    study, trained, monkeypatch
):
    shutil.copytree(trained / "runs" / "smoke", study.runs_dir)
    runs = [*study.configs(), *study.needed_pairs("03")]
    manifest = {"runs": {config.name: {} for config in runs}, "results": {}}
    (study.figures_dir / "03_prune_70.json").write_text(json.dumps(manifest))
    images = training_images(study.config(0)).images[:50]
    reference = reference_for(study.pair_config(0), study.runs_dir, "cpu", (0, 50))

    def measured():
        explainer = RunExplainer(load_run(study.runs_dir / study.config(1).name), images)
        chosen = [selection(arm, study.runs_dir).keep for arm in study.arms()]
        return chosen, run_experiment(study, reference), rule_grid(explainer, images, 2, (0,), (0.7,))

    here = measured()
    archive.pack(study)
    shutil.rmtree(study.runs_dir)
    archive.prepare(study, ["03_prune_70"])
    assert workflow.complete_seeds(study, study.figures_dir, "03_prune_70")["pairs.seeds"] == [0, 1]
    monkeypatch.setattr(Objective, "step", None)
    monkeypatch.setattr(RunExplainer, "signed", None)
    back = measured()
    assert all(mine.tobytes() == theirs.tobytes() for mine, theirs in zip(back[0], here[0], strict=True))
    for mine, theirs in zip(back[1:], here[1:], strict=True):
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)


def test_the_tables_of_the_earlier_work_come_back_by_seed(study, monkeypatch):
    name, seeds = "08_earlier_experiments", study.earlier.seeds
    manifest = {"runs": {}, "results": {}, "parameters": study.model_dump(mode="json")}
    (study.figures_dir / f"{name}.json").write_text(json.dumps(manifest))
    here = earlier.Measured.together([earlier.measured(study, seed) for seed in seeds])
    assert not archive.is_enough(study, name)
    archive.pack(study)
    assert archive.is_enough(study, name)
    archived = {file for file in archive.checksums(study.figures_dir) if file.startswith("earlier")}
    assert archived == {f"{earlier.identity(study, seed)}/{archive.RESULTS}" for seed in seeds}
    shutil.rmtree(study.runs_dir)
    assert workflow.complete_seeds(study, study.figures_dir, name) == {}
    archive.prepare(study, [name])
    assert all(archive.is_archived(study.runs_dir / earlier.identity(study, seed)) for seed in seeds)
    assert workflow.complete_seeds(study, study.figures_dir, name) == {"earlier.seeds": seeds}
    monkeypatch.setattr(earlier, "measure", None)
    back = earlier.Measured.together([earlier.measured(study, seed) for seed in seeds])
    for mine, theirs in zip(vars(back).values(), vars(here).values(), strict=True):
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
    archive.prepare(Study.load("smoke", **{"earlier.weight": 0.25}), [name])
    assert len(list(study.runs_dir.glob("earlier_experiments/*/"))) == len(seeds)


def test_the_explanations_of_a_network_come_back_with_what_notebook_6_makes_anew_of_it(
    study, trained, monkeypatch
):
    name, second = "06_which_explanation", Study.load("smoke", seeds=[1], **{"pairs.seeds": []})
    shutil.copytree(trained / "runs" / "smoke", study.runs_dir)
    (config,) = second.configs()
    manifest = {"runs": {config.name: {}}, "results": {}, "parameters": second.model_dump(mode="json")}
    (study.figures_dir / f"{name}.json").write_text(json.dumps(manifest))
    explainer = RunExplainer(load_run(study.runs_dir / config.name), training_images(config).images[:64])
    here = which_explanation.assessment(second, 1)
    network, generated = which_explanation.planted_example(second, explainer)
    assert not archive.is_enough(study, name)
    archive.pack(study)
    assert archive.is_enough(study, name)
    shutil.rmtree(study.runs_dir)
    assert workflow.complete_seeds(study, study.figures_dir, name) == {}
    archive.prepare(study, [name], complete=True)
    assert workflow.complete_seeds(study, study.figures_dir, name) == {"seeds": [1], "pairs.seeds": []}
    monkeypatch.setattr(which_explanation, "assess", None)
    back = which_explanation.assessment(second, 1)
    for mine, theirs in zip(vars(back).values(), vars(here).values(), strict=True):
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
    explainer = RunExplainer(load_run(study.runs_dir / config.name), training_images(config).images[:64])
    again, made = which_explanation.planted_example(second, explainer)
    assert made.equal(generated)
    assert all(theirs.equal(again.state_dict()[key]) for key, theirs in network.state_dict().items())
    assert explainer.explained(config.epochs, which_explanation.STATISTICS)


def test_what_else_is_found_of_a_run_leaves_its_archived_networks_as_they_are(study, trained):
    shutil.copytree(trained / "runs" / "smoke", study.runs_dir)
    before = archive.checksums(study.figures_dir)
    run = study.configs()[0].name
    (study.runs_dir / run / "found.csv").write_text("auc\n0.5\n")
    archive.pack(study)
    after = archive.checksums(study.figures_dir)
    assert {file for file, checksum in after.items() if checksum != before[file]} == {
        f"{run}/{archive.RESULTS}"
    }


@pytest.mark.parametrize("file", [archive.RESULTS, archive.CHECKPOINTS])
@pytest.mark.parametrize("place", [None, 0, -200, 100])
def test_a_damaged_archive_is_one_line_and_leaves_nothing(study, file, place):
    path = archive.path_of(study, study.compared_configs()[0].name) / file
    content = bytearray(path.read_bytes())
    path.unlink()
    if place is not None:
        content[place] ^= 0xFF
        path.write_bytes(content if place else content[:100])
    assert f"{path} is damaged" in refused(archive.prepare, study, ["04_diffusion_gans"], error=RunError)
    assert not any(study.runs_dir.glob("*"))

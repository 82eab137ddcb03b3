from itertools import product

import pytest
import yaml

from gradcam_gan.errors import InputError
from gradcam_gan.models.options import MODELS
from gradcam_gan.studies import paths
from gradcam_gan.studies.profile import BASELINE_MODEL, PROFILE_VARIABLE, PROFILES, Study
from gradcam_gan.training.config import TrainingConfig


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)


def error_line(profile="smoke", /, **changes):
    with pytest.raises(InputError) as caught:
        Study.load(profile, **changes)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__cause__ is None
    return message


def test_every_file_in_params_is_a_profile():
    assert {path.stem for path in paths.PARAMS.glob("*.yaml")} == set(PROFILES)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_loads_with_every_value_of_its_file(profile):
    study = Study.load(profile)
    stored = yaml.safe_load((paths.PARAMS / f"{profile}.yaml").read_text())
    assert set(stored) == set(Study.model_fields)  # nothing is left to a default that the file does not show
    assert study.model_dump() == stored
    assert study.profile == profile
    assert study.changes() == {}
    assert study.runs_dir == paths.RUNS / profile
    assert study.figures_dir == paths.FIGURES / profile


@pytest.mark.parametrize("profile", PROFILES)
def test_every_training_of_a_study_has_a_name_of_its_own(profile):
    study = Study.load(profile)
    configs = study.configs()
    assert len({config.name for config in configs}) == len(study.seeds) + len(study.background_seeds)
    assert [(config.seed, config.padding) for config in configs] == [
        *((seed, "zeros") for seed in study.seeds),
        *((seed, "background") for seed in study.background_seeds),
    ]
    for config in configs:
        for field in set(TrainingConfig.model_fields) & set(Study.model_fields):
            assert getattr(config, field) == getattr(study, field), field


class TestComparedModels:
    @pytest.mark.parametrize("profile", PROFILES)
    def test_every_model_and_seed_has_a_training_with_a_name_of_its_own(self, profile):
        study = Study.load(profile)
        configs = study.model_configs()
        found = [(config.model_name, config.seed) for config in configs]
        assert found == list(product(study.comparison_models, study.comparison_seeds))
        others = [*study.configs(), *study.arm_configs()]
        assert len({config.name for config in [*configs, *others]}) == len(configs) + len(others)

    @pytest.mark.parametrize("profile", PROFILES)
    def test_every_profile_compares_all_models(self, profile):
        study = Study.load(profile)
        assert set(study.comparison_models) == set(MODELS) - {BASELINE_MODEL}
        assert study.comparison_times[0] == 0
        assert study.comparison_times[-1] == 1

    def test_but_for_the_model_and_the_epochs_it_is_the_seeds_own_training(self):
        study = Study.load("smoke", comparison_seeds=[1, 0], comparison_epochs=1)
        for config in study.model_configs():
            assert config.model == MODELS[config.model_name].model
            assert config.epochs == 1
            assert config.changed(model=None, epochs=3) == study.config(config.seed)

    def test_no_model_is_fewer_trainings_and_no_error(self):
        assert Study.load("smoke", comparison_models=[]).model_configs() == []

    @pytest.mark.parametrize(
        ("rows", "last", "expected"),
        [
            ([1, 2, 3], 2, [1, 2]),
            ([1, 2, 3], 3, [1, 2, 3]),
            ([1, 3], 2, [1, 2]),
            ([2, 3], 1, [1]),
            ([0, 3], 2, [0, 2]),
        ],
    )
    def test_its_rows_are_those_of_figure_1_up_to_its_last_epoch_and_that(self, rows, last, expected):
        study = Study.load("smoke", figure_epochs=rows, comparison_epochs=last)
        assert study.comparison_rows == expected


def test_the_paper_profile_has_the_papers_network():
    study = Study.load("paper")
    assert (study.data, study.preset, study.width, study.epochs) == ("mnist", "paper64", 64, 25)
    assert study.train_images is None


@pytest.mark.parametrize(("written", "meant"), [("smok", "smoke"), ("qick", "quick"), ("papers", "paper")])
def test_an_unknown_profile_is_refused_with_the_nearest_one(written, meant):
    message = error_line(written)
    assert f"profile='{written}' is unknown; did you mean '{meant}'?" in message
    assert "smoke, quick, seeds, paper" in message


def test_an_unknown_profile_like_no_other_is_refused_with_the_list():
    assert error_line("xyz") == "profile='xyz' is unknown; params/ has smoke, quick, seeds, paper"


def test_an_unknown_parameter_is_refused_with_the_nearest_one():
    assert "'figure_epoch' is not a field; did you mean 'figure_epochs'?" in error_line(figure_epoch=[1])
    assert "'sedes' is not a field; did you mean 'seeds'?" in error_line(sedes=[1])


def test_a_profile_cannot_be_given_twice():
    assert error_line("smoke", profile="quick") == "profile is given twice, 'smoke' and 'quick'; name it once"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"figure_epochs": [1, 2, 4]}, "figure_epochs=[1, 2, 4] must lie in 0..epochs=3"),
        ({"epochs": 2}, "figure_epochs=[1, 2, 3] must lie in 0..epochs=2"),
        ({"figure_epochs": [-1, 2]}, "must lie in 0..epochs=3"),
        ({"figure_epochs": [2, 1]}, "must ascend"),
        ({"figure_epochs": [1, 1, 2]}, "must ascend"),
        ({"figure_epochs": [1]}, "figure_epochs=[1]: list should have at least 2 items"),
        ({"seeds": []}, "seeds=[]: list should have at least 1 item"),
        ({"seeds": [0, 0]}, "seeds=[0, 0] names a seed twice"),
        ({"pruning_arms": ["random", "random"]}, "names an arm twice"),
        ({"pruning_doses": [0.2, 0.2]}, "pruning_doses=[0.2, 0.2] names a dose twice"),
        ({"pruning_seeds": []}, "pruning_seeds=[]: list should have at least 1 item"),
        (
            {"seeds": [-1], "background_seeds": [], "pruning_seeds": [-1], "comparison_seeds": [-1]},
            "seed=-1: input should be greater than or equal to 0",
        ),
        ({"comparison_seeds": []}, "comparison_seeds=[]: list should have at least 1 item"),
        ({"comparison_seeds": [1, 1]}, "comparison_seeds=[1, 1] names a seed twice"),
        ({"comparison_seeds": [1, 5]}, "comparison_seeds=[1, 5] must be among seeds=[0, 1]"),
        ({"comparison_epochs": 0}, "comparison_epochs=0: input should be greater than or equal to 1"),
        ({"comparison_epochs": 4}, "comparison_epochs=4 must not exceed epochs=3"),
        ({"comparison_models": ["dudgan", "dudgan"]}, "['dudgan', 'dudgan'] names a model twice"),
        ({"comparison_models": ["dcgan"]}, "comparison_models=['dcgan']: dcgan is always compared"),
        ({"comparison_models": ["dudgann"]}, "'dudgann' is unknown; did you mean 'dudgan'?"),
        ({"comparison_models": ["diffusion_gan"]}, "did you mean 'diffusion-gan'?"),
        ({"comparison_models": ["dudgan", "vae"]}, "'vae' is unknown; choose of dcgan, conditional-dcgan, d"),
        ({"comparison_times": []}, "comparison_times=[]: list should have at least 1 item"),
        ({"comparison_times": [0, 0.5, 0.5]}, "comparison_times=[0.0, 0.5, 0.5] names a time twice"),
        ({"comparison_times": [0.5, 0]}, "comparison_times=[0.5, 0.0] must ascend within 0..1"),
        ({"comparison_times": [-0.1, 0.5]}, "comparison_times=[-0.1, 0.5] must ascend within 0..1"),
        ({"comparison_times": [0, 1.01]}, "comparison_times=[0.0, 1.01] must ascend within 0..1"),
        ({"comparison_times": [float("nan")]}, "input should be a finite number"),
        ({"background_seeds": [5]}, "background_seeds=[5] must be among seeds=[0, 1]"),
        ({"width": 0}, "width=0: input should be greater than or equal to 1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: input should be a finite number"),
        ({"device": "gpu"}, "device='gpu': must be auto, cpu, cuda or cuda:N"),
        ({"preset": "paper32"}, "preset='paper32'"),
        ({"probe_images": 3}, "probe_images=3: input should be greater than or equal to 10"),
        ({"data": 5}, "data=5: input should be a valid string"),
    ],
)
def test_an_impossible_value_is_refused_before_anything_is_trained(changes, part):
    assert part in error_line(**changes)


def test_a_background_seed_named_twice_is_refused():
    assert "background_seeds=[0, 0] names a seed twice" in error_line(background_seeds=[0, 0])


def test_changes_are_the_values_that_differ_from_the_profiles_file():
    study = Study.load("smoke", width=8, seeds=[0], epochs=3)
    assert study.changes() == {"width": 8, "seeds": [0]}


def test_a_profile_of_ones_own_names_its_folders():
    study = Study(**Study.load("smoke").model_dump() | {"profile": "mine"})
    assert study.runs_dir == paths.RUNS / "mine"
    assert study.changes() == study.model_dump()
    with pytest.raises(InputError, match="profile="):
        Study(**Study.load("smoke").model_dump() | {"profile": "../elsewhere"})


def test_a_notebooks_parameters_make_its_study():
    assert Study.of_notebook("smoke", width=8) == Study.load("smoke", width=8)


def test_the_environment_replaces_a_notebooks_parameters(monkeypatch):
    monkeypatch.setenv(PROFILE_VARIABLE, "smoke")
    assert Study.of_notebook("quick", width=8) == Study.load("smoke")
    monkeypatch.setenv(PROFILE_VARIABLE, "")
    assert Study.of_notebook("quick", width=8) == Study.load("quick", width=8)
    monkeypatch.setenv(PROFILE_VARIABLE, "smokey")
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        Study.of_notebook("quick")


def test_a_damaged_params_file_is_named_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PARAMS", tmp_path)
    for content in ("width: [1", "", "- 1", "width: 3: 4"):
        (tmp_path / "smoke.yaml").write_text(content)
        assert f"{tmp_path / 'smoke.yaml'} holds no parameters" in error_line("smoke")

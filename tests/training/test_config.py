import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import refused

from gradcam_gan.models.diffusion import ForwardDiffusion
from gradcam_gan.models.options import MODELS, PLAIN, ClassifierOptions, Diffusion, Model
from gradcam_gan.training.config import TrainingConfig

# every field that decides the weights, with another value than the default
CHANGES = {
    "data": "mnist",
    "train_images": 100,
    "preset": "paper28",
    "width": 32,
    "padding": "replicate",
    "epochs": 24,
    "batch_size": 32,
    "learning_rate": 3e-4,
    "beta1": 0.6,
    "beta2": 0.9,
    "seed": 1,
    "precision": "float32",
    "model": Model(diffusion=Diffusion()),
}
WHERE = {"device": "cuda:1", "threads": 3, "data_dir": Path("/elsewhere")}


@pytest.mark.parametrize(("preset", "size"), [("paper64", 64), ("paper28", 28)])
def test_size_is_the_presets(preset, size):
    assert TrainingConfig(preset=preset).size == size
    assert TrainingConfig(preset=preset, size=size) == TrainingConfig(preset=preset)
    message = refused(TrainingConfig, preset=preset, size=32)
    assert f"size=32 does not match preset='{preset}', which takes {size}" in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widht": 1}, "'widht' is not a field; did you mean 'width'?"),
        ({"architecture": "standard"}, "'architecture' is not a field"),
        ({"epochs": 0}, "epochs=0: input should be greater than or equal to 1"),
        ({"width": 1025}, "width=1025: input should be less than or equal to 1024"),
        ({"batch_size": 1}, "batch_size=1: input should be greater than or equal to 2"),
        ({"seed": 2**31}, "seed=2147483648: input should be less than"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: input should be a finite number"),
        ({"padding": "zero"}, "padding='zero': input should be 'zeros', 'background' or 'replicate'"),
        ({"device": "mps"}, "device='mps': must be auto, cpu, cuda or cuda:N"),
        ({"model": {"diffusion": {"shortest": 9, "longest": 1}}}, "shortest=9 must not exceed longest=1"),
        ({"model": {"diffusion": {"sigmo": 1}}}, "'sigmo' is not a field; did you mean 'sigma'?"),
        ({"model": {"diffusion": {"rise": 0}}}, "rise=0: input should be greater than 0"),
        ({"model": {"conditional": False, "classifier": {}}}, "a classifier needs conditional=true"),
        ({"model": {"averaging": 1}}, "averaging=1: input should be less than 1"),
        ({"width": 0, "epochs": -1}, "width=0: input should be greater than or equal to 1; epochs=-1"),
    ],
    ids=str,
)
def test_an_impossible_value_is_refused_in_one_line_that_says_what_is_allowed(fields, message):
    assert message in refused(TrainingConfig, **fields)


class TestModels:
    def test_every_model_is_compared_with_what_lacks_its_own_parts_alone(self):
        assert {name: known.compared_with for name, known in MODELS.items()} == {
            "dcgan": None,
            "conditional-dcgan": "dcgan",
            "conditional-dcgan-averaged": "conditional-dcgan",
            "diffusion-gan": "conditional-dcgan",
            "diffusion-gan-adaptive": "conditional-dcgan",
            "dudgan": "conditional-dcgan-averaged",
            **{name: "dudgan" for name in MODELS if name.startswith("dudgan-no-")},
        }
        assert {name for name, known in MODELS.items() if known.variant} == {
            name for name in MODELS if name.startswith("dudgan-no-") or name == "diffusion-gan-adaptive"
        }
        without = MODELS["dudgan"].model.model_copy(update={"diffusion": None, "classifier": None})
        assert MODELS["conditional-dcgan-averaged"].model == without

    def test_diffusion_gans_horizon_rises_past_its_half_whatever_d_says(self):
        options = MODELS["diffusion-gan"].model.diffusion
        moving = ForwardDiffusion(options, 1000, torch.Generator().manual_seed(0))
        for overconfidence in (-1.0, 0.0, 1.0, 0.3):  # half of the training
            moving.update(125, overconfidence)
        assert moving.horizon >= options.longest / 2
        assert MODELS["diffusion-gan-adaptive"].model.diffusion.target == 0.6

    @pytest.mark.parametrize("name", MODELS)
    def test_a_models_name_is_found_from_its_values_and_told_by_the_runs(self, name):
        """Of a plain DCGAN nothing, so that runs trained before there were models keep their names."""
        config = TrainingConfig(model=MODELS[name].model)
        assert config.model_name == TrainingConfig(**json.loads(config.model_dump_json())).model_name == name
        start, _digest = config.name.rsplit("-", 1)
        label = "" if name == "dcgan" else "-" + name.replace("-", "")
        assert start == f"mnist-5k-paper64-width64-zeros-seed0{label}"

    def test_a_model_without_a_name_is_called_model(self):
        config = TrainingConfig(model=Model(diffusion=Diffusion(longest=77)))
        assert config.model_name == "model"
        assert "-seed0-model-" in config.name

    def test_no_model_has_the_parts_of_a_dcgan(self):
        assert TrainingConfig().parts == PLAIN
        assert TrainingConfig(model=Model()).parts == Model()

    def test_defaults_are_the_papers(self):
        diffusion, options = Diffusion(), ClassifierOptions()
        found = diffusion.shortest, diffusion.sigma, diffusion.prior, diffusion.target
        assert found == (10, 0.05, "priority", 0.6)
        assert options.diffusion == Diffusion(shortest=10, longest=300, target=None, rise=1, sigma=0.05)
        shares = options.supervised_contrast, options.share_in_generator, options.temperature
        assert shares == (0.95, 0.05, 0.07)
        assert options.learning_rate_ratio * TrainingConfig().learning_rate == pytest.approx(2.5e-4)
        assert options.weight_decay == 0.01


# --- the name


@pytest.mark.parametrize("fields", [{}, CHANGES | WHERE], ids=["defaults", "every field"])
def test_json_gives_the_same_config_back(fields):
    config = TrainingConfig(**fields)
    assert {*CHANGES, *WHERE, "size"} == set(
        TrainingConfig.model_fields
    )  # a new field belongs into this test
    again = TrainingConfig(**json.loads(config.model_dump_json()))
    assert again == config
    assert again.name == config.name


def test_the_name_is_the_same_in_another_process():
    code = (
        "from gradcam_gan.training.config import TrainingConfig; print(TrainingConfig(width=3, seed=5).name)"
    )
    names = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert names == {TrainingConfig(width=3, seed=5).name}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "mnist-5k-paper64-width64-zeros-seed0-0809652a"),
        ({"width": 2, "seed": 4, "data": "mnist"}, "mnist-paper64-width2-zeros-seed4-c3bb338b"),
    ],
)
def test_the_name_of_a_config_never_changes_unnoticed(fields, name):
    # other bits for the same fields would orphan every run trained so far: then raise TRAINING_VERSION knowingly
    assert TrainingConfig(**fields).name == name


def test_a_name_changes_with_every_field_that_decides_the_weights_and_no_other():
    configs = [TrainingConfig(), *(TrainingConfig(**{field: value}) for field, value in CHANGES.items())]
    # the hash alone tells them apart: not every field is in the readable part
    assert len({config.name[-8:] for config in configs}) == len(configs)
    assert TrainingConfig(**WHERE).name == TrainingConfig().name


@pytest.mark.parametrize(
    "data",
    [
        "folder:/home/Jane Doe/Bilder (neu)/größe",
        "folder:C:\\images\\cats?",
        "folder:../..",
        "folder:" + "x" * 500,
        "folder:/a/bb-cccccccc-ddddd-eeeeeeeeeeeeeee",  # cut to 24 characters just before a hyphen
        "数字",
        "",
        "a\nb\0c",
    ],
)
def test_a_runs_name_is_a_valid_file_name_on_every_system(data):
    config = TrainingConfig(data=data)
    assert set(config.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert config.name[0] != "-"  # a command line would take it for an option
    assert len(config.name) < 120

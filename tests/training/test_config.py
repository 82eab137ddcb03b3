import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradcam_gan.errors import InputError
from gradcam_gan.models.options import MODELS, ClassifierOptions, Diffusion, Model
from gradcam_gan.studies.arms import Pruning
from gradcam_gan.training.config import TrainingConfig

EVERY_FIELD = {
    "data": "folder:/some/where",
    "train_images": 500,
    "preset": "paper28",
    "size": 28,
    "architecture": "paper",
    "width": 8,
    "padding": "background",
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "beta1": 0.4,
    "beta2": 0.99,
    "seed": 7,
    "precision": "float32",
    "model": Model(diffusion=Diffusion()),
    "pruning": Pruning(arm="dose", share=0.2),
    "data_dir": Path("/data"),
    "device": "cuda:1",
    "threads": 2,
}


def error_line(**fields):
    """The message of the InputError that these fields cause; it must be one line without a cause above it."""
    with pytest.raises(InputError) as caught:
        TrainingConfig(**fields)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__cause__ is None
    return message


def test_defaults_are_the_papers_network_and_dcgans_optimiser():
    config = TrainingConfig()
    assert (config.preset, config.size, config.width, config.padding) == ("paper64", 64, 64, "zeros")
    assert (config.learning_rate, config.beta1, config.beta2) == (2e-4, 0.5, 0.999)
    assert (config.architecture, config.epochs, config.seed) == ("paper", 25, 0)


@pytest.mark.parametrize(("preset", "size"), [("paper64", 64), ("paper28", 28)])
def test_size_is_the_presets(preset, size):
    assert TrainingConfig(preset=preset).size == size
    assert TrainingConfig(preset=preset, size=size) == TrainingConfig(preset=preset)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("widht", "width"), ("epoch", "epochs"), ("lerning_rate", "learning_rate"), ("prest", "preset")],
)
def test_an_unknown_field_is_refused_with_the_nearest_one(written, meant):
    message = error_line(**{written: 1})
    assert f"'{written}' is not a field; did you mean '{meant}'?" in message


def test_an_unknown_field_like_no_other_is_refused_with_the_list():
    message = error_line(qqqq=1)
    assert all(name in message for name in TrainingConfig.model_fields)


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"epochs": -1}, "greater than or equal to 1"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epochs": 1.5}, "valid integer"),
        ({"width": 0}, "greater than or equal to 1"),
        ({"width": 1025}, "less than or equal to 1024"),
        ({"width": "wide"}, "valid integer"),
        ({"width": np.eye(3)}, "valid integer"),
        ({"batch_size": 1}, "greater than or equal to 2"),
        ({"train_images": 0}, "greater than or equal to 1"),
        ({"threads": 0}, "greater than or equal to 1"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"seed": 2**31}, "less than"),
        ({"learning_rate": float("nan")}, "finite number"),
        ({"learning_rate": float("inf")}, "finite number"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rate": -1e-4}, "greater than 0"),
        ({"beta1": 1}, "less than 1"),
        ({"beta2": -0.1}, "greater than or equal to 0"),
        ({"preset": "paper32"}, "'paper64' or 'paper28'"),
        ({"padding": "zero"}, "'zeros', 'background' or 'replicate'"),
        ({"architecture": "unet"}, "'paper' or 'standard'"),
        ({"precision": "float16"}, "'auto', 'bfloat16' or 'float32'"),
        ({"device": "gpu"}, "must be auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:"}, "must be auto, cpu, cuda or cuda:N"),
        ({"device": "mps"}, "must be auto, cpu, cuda or cuda:N"),
        ({"data": None}, "valid string"),
    ],
)
def test_an_impossible_value_is_refused_in_one_line_that_names_field_value_and_what_is_allowed(
    fields, allowed
):
    message = error_line(**fields)
    (field,) = fields
    assert message.startswith(f"TrainingConfig: {field}=")
    assert " ".join(repr(fields[field]).split()) in message
    assert allowed in message


def test_a_size_that_does_not_match_the_preset_is_refused():
    assert "size=32 does not match preset='paper64', which takes 64" in error_line(size=32)
    assert "size=64 does not match preset='paper28', which takes 28" in error_line(size=64, preset="paper28")


def test_the_standard_architecture_is_refused_at_28_pixels():
    assert "needs preset='paper64'" in error_line(architecture="standard", preset="paper28")


@pytest.mark.parametrize("model", [model for model in MODELS.values() if model], ids=str)
def test_a_model_together_with_pruning_is_refused(model):
    for pruning in (Pruning(arm="rule70"), {"arm": "dose", "share": 0.2}):
        message = error_line(model=model, pruning=pruning)
        assert message == (
            "TrainingConfig: pruning is the paper's experiment with a DCGAN; leave out model or pruning"
        )
    with pytest.raises(InputError, match="leave out model or pruning"):
        TrainingConfig(model=model).changed(pruning=Pruning(arm="rule70"))


class TestModels:
    def test_dcgan_is_no_model_and_the_others_differ(self):
        assert MODELS["dcgan"] is None
        assert None not in list(MODELS.values())[1:]
        names = {TrainingConfig(model=model).name for model in MODELS.values()}
        assert len(names) == len(MODELS)

    @pytest.mark.parametrize("name", MODELS)
    def test_a_models_name_is_found_from_its_values_also_after_json(self, name):
        config = TrainingConfig(model=MODELS[name])
        assert config.model_name == name
        assert TrainingConfig(**json.loads(config.model_dump_json())).model_name == name
        assert TrainingConfig(model=MODELS[name], seed=3, width=2).model_name == name

    @pytest.mark.parametrize("name", MODELS)
    def test_a_runs_name_tells_the_model(self, name):
        """Letters alone; of a plain DCGAN nothing, so that runs trained before there were models keep theirs."""
        start, _digest = TrainingConfig(model=MODELS[name]).name.rsplit("-", 1)
        label = "" if name == "dcgan" else "-" + name.replace("-", "")
        assert start == f"mnist-5k-paper64-width64-zeros-seed0{label}"

    def test_a_model_without_a_name_is_called_model(self):
        config = TrainingConfig(model=Model(diffusion=Diffusion(longest=77)))
        assert config.model_name == "model"
        assert "-seed0-model-" in config.name

    def test_a_pruned_run_is_a_dcgans_and_its_name_tells_the_arm(self):
        config = TrainingConfig(pruning=Pruning(arm="dose", share=0.2))
        assert config.model_name == "dcgan"
        assert "-seed0-dose20-" in config.name

    @pytest.mark.parametrize("ratio", [0, -1, float("inf"), float("nan"), "much"])
    def test_an_impossible_learning_rate_ratio_is_refused(self, ratio):
        with pytest.raises(InputError) as caught:
            ClassifierOptions(learning_rate_ratio=ratio)
        assert str(caught.value).startswith(
            f"ClassifierOptions: learning_rate_ratio={ratio!r}: input should be"
        )
        assert "\n" not in str(caught.value)

    def test_the_learning_rate_of_the_classifier_is_dudgans_beside_dcgans(self):
        ratio = ClassifierOptions().learning_rate_ratio
        assert ratio * TrainingConfig().learning_rate == pytest.approx(2.5e-4)
        assert TrainingConfig(model=Model(classifier=ClassifierOptions(learning_rate_ratio=2))).name != (
            TrainingConfig(model=Model(classifier=ClassifierOptions())).name
        )


def test_all_problems_are_reported_at_once():
    message = error_line(width=0, epochs=-1, sed=3)
    assert all(part in message for part in ("width=0", "epochs=-1", "did you mean 'seed'?"))


def test_a_config_cannot_be_changed_behind_its_name():
    config = TrainingConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.width = 32
    assert config.width == 64


@pytest.mark.parametrize(
    "fields",
    [{}, EVERY_FIELD | {"pruning": None}, EVERY_FIELD | {"model": None}],
    ids=["defaults", "every field but pruning", "every field but model"],
)
def test_json_gives_the_same_config_back(fields):
    config = TrainingConfig(**fields)
    assert set(EVERY_FIELD) == set(TrainingConfig.model_fields)  # a new field belongs into this test
    for text in (config.model_dump_json(), json.dumps(config.model_dump(mode="json"))):
        again = TrainingConfig(**json.loads(text))
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


def test_the_name_of_the_default_config_never_changes_unnoticed():
    # other bits for the same fields would orphan every run trained so far: then raise TRAINING_VERSION knowingly
    assert TrainingConfig().name == "mnist-5k-paper64-width64-zeros-seed0-0809652a"


def test_a_name_changes_with_every_field_that_decides_the_weights():
    changes = {
        "data": "mnist",
        "train_images": 100,
        "preset": "paper28",
        "architecture": "standard",
        "width": 32,
        "padding": "replicate",
        "epochs": 24,
        "batch_size": 32,
        "learning_rate": 3e-4,
        "beta1": 0.6,
        "beta2": 0.9,
        "seed": 1,
        "precision": "float32",
        "model": Model(),
        "pruning": Pruning(arm="rule70"),
    }
    configs = [TrainingConfig(), *(TrainingConfig(**{field: value}) for field, value in changes.items())]
    assert len({config.name for config in configs}) == len(configs)
    # the hash alone tells them apart too: not every field is in the readable part
    assert len({config.name[-8:] for config in configs}) == len(configs)


@pytest.mark.parametrize("where", [{"device": "cpu"}, {"threads": 3}, {"data_dir": Path("/elsewhere")}])
def test_a_name_does_not_depend_on_where_the_run_is_computed(where):
    assert TrainingConfig(**where).name == TrainingConfig().name


@pytest.mark.parametrize(
    "data",
    [
        "mnist-5k",
        "folder:/home/Jane Doe/Bilder (neu)/größe",
        "folder:C:\\images\\cats?",
        "folder:../..",
        "folder:" + "x" * 500,
        "folder:/a/bb-cccccccc-ddddd-eeeeeeeeeeeeeee",  # cut to 24 characters just before a hyphen
        "folder:数字",
        "数字",
        "",
        "-",
        "a\nb\0c",
    ],
)
def test_a_runs_name_is_a_valid_file_name_on_every_system(data, tmp_path):
    config = TrainingConfig(data=data)
    assert set(config.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert config.name[0] != "-"  # a command line would take it for an option
    assert len(config.name) < 120
    (tmp_path / config.name).mkdir()

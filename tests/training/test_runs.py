import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch

from gradcam_gan.errors import InputError, RunError
from gradcam_gan.models.dcgan import StandardDiscriminator
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import train
from gradcam_gan.training.objective import DCGANObjective
from gradcam_gan.training.runs import Checkpoint, CheckpointFolder, Run, load_run

CONFIG = TrainingConfig(
    preset="paper28", width=2, epochs=3, train_images=64, batch_size=32, threads=1, device="cpu", seed=3
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(CONFIG, tmp_path_factory.mktemp("runs"))


def run_error(path):
    with pytest.raises(RunError) as caught:
        load_run(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_knows_its_folder_and_its_config(run):
    assert run.path.name == CONFIG.name
    assert run.config == CONFIG
    assert run.epochs == [0, 1, 2, 3]


def test_the_history_has_the_documented_columns_one_row_an_epoch(run):
    columns = [
        "epoch", "iterations", "images",
        "loss_discriminator", "loss_generator", "d_real", "d_fake",
        "accuracy_running", "accuracy_batch", "accuracy_reference",
        "seconds", "images_per_second",
    ]  # fmt: skip
    assert run.history.columns.tolist() == columns
    documented = set(re.findall(r"``(\w+\*?)``", Run.__doc__))
    assert {"running", "batch", "reference", "accuracy_*"} <= documented
    assert {column for column in columns if not column.startswith("accuracy_")} <= documented
    assert run.history.epoch.tolist() == [1, 2, 3]
    assert run.history.iterations.tolist() == [2, 4, 6]
    assert run.history.images.tolist() == [64, 128, 192]
    shares = run.history[["d_real", "d_fake", *(c for c in columns if c.startswith("accuracy_"))]]
    assert ((shares >= 0) & (shares <= 1)).all(axis=None)
    assert (run.history.seconds > 0).all()
    rate = 64 / run.history.seconds
    pd.testing.assert_series_equal(run.history.images_per_second, rate, check_names=False)


def test_history_csv_is_the_history(run):
    pd.testing.assert_frame_equal(pd.read_csv(run.path / "history.csv"), run.history, check_dtype=False)


def test_the_manifest_says_what_really_ran(run):
    assert run.manifest["status"] == "complete"
    assert (run.manifest["device"], run.manifest["threads"]) == ("cpu", 1)
    assert run.manifest["precision"] in ("float32", "bfloat16")  # never "auto"
    assert (run.manifest["channels"], run.manifest["train_images"]) == (1, 64)
    assert re.fullmatch("[0-9a-f]{64}", run.manifest["data_sha256"])
    assert run.manifest["packages"]["torch"] == torch.__version__
    assert run.manifest["seconds"] == pytest.approx(run.history.seconds.sum())


@pytest.mark.parametrize("name", ["discriminator", "generator"])
def test_networks_load_in_eval_mode_and_compute(run, name):
    for epoch in run.epochs:
        network = getattr(run, name)(epoch)
        assert not any(module.training for module in network.modules())
        inputs = torch.randn(2, 100) if name == "generator" else torch.rand(2, 1, 28, 28)
        outputs = network(inputs)
        assert outputs.shape == ((2, 1, 28, 28) if name == "generator" else (2,))
        assert outputs.isfinite().all()


def test_epoch_zero_is_the_untrained_network_of_that_seed(run):
    initial = DCGANObjective(CONFIG, 1, torch.device("cpu"), "float32").networks
    for name, network in initial.items():
        loaded = getattr(run, name)(0).state_dict()
        assert loaded.keys() == network.state_dict().keys()
        for key, tensor in network.state_dict().items():
            assert torch.equal(loaded[key], tensor), key


def test_each_epoch_has_weights_of_its_own(run):
    weights = [run.discriminator(epoch).layers[0].weight for epoch in run.epochs]
    assert not any(torch.equal(a, b) for a in weights for b in weights if a is not b)


def test_a_standard_discriminator_comes_back_as_one(tmp_path):
    fields = CONFIG.model_dump(exclude={"preset", "size"}) | {"epochs": 1, "architecture": "standard"}
    network = train(TrainingConfig(**fields), tmp_path).discriminator(1)
    assert isinstance(network, StandardDiscriminator)
    assert network(torch.zeros(1, 1, 64, 64)).shape == (1,)


@pytest.mark.parametrize("epoch", [-1, 4, 1000])
def test_an_epoch_that_is_not_saved_is_refused_with_those_that_are(run, epoch):
    for load in (run.discriminator, run.generator):
        with pytest.raises(InputError) as caught:
            load(epoch)
        assert str(caught.value) == f"{run.path} has no epoch {epoch}; it has 0 to 3"


def test_load_run_gives_the_same_run(run):
    for path in (run.path, str(run.path)):
        loaded = load_run(path)
        assert (loaded.path, loaded.config, loaded.manifest) == (run.path, run.config, run.manifest)
        pd.testing.assert_frame_equal(loaded.history, run.history)
        for name, tensor in run.generator(2).state_dict().items():
            assert torch.equal(loaded.generator(2).state_dict()[name], tensor)


def test_a_moved_run_is_still_a_run(run, tmp_path):
    moved = load_run(shutil.copytree(run.path, tmp_path / "elsewhere"))
    assert moved.config == CONFIG
    assert torch.equal(moved.discriminator(3).layers[0].weight, run.discriminator(3).layers[0].weight)


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        assert f"{path} holds no training run" in run_error(path)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "checkpoints/epoch-0002/epoch.json"])
def test_a_damaged_file_is_named(run, tmp_path, name):
    path = shutil.copytree(run.path, tmp_path / "run")
    (path / name).write_text('{"half')
    assert f"{path / name} cannot be read" in run_error(path)


def test_loading_leaves_torchs_random_state_alone(run):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded = load_run(run.path)
    loaded.discriminator(1)
    loaded.generator(1)
    assert torch.equal(torch.get_rng_state(), before)


# --- what lies on disk


def test_a_run_folder_holds_json_csv_and_safetensors_and_no_pickle(run):
    files = [path for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert {path.suffix for path in files} == {".json", ".csv", ".safetensors"}
    for path in files:
        assert not zipfile.is_zipfile(path), path  # as torch.save writes
        assert path.read_bytes()[:1] != pickle.PROTO, path


def test_loading_unpickles_nothing(run, monkeypatch):
    def forbidden(*arguments, **keywords):
        raise AssertionError("unpickles")

    for module, names in ((pickle, ("load", "loads", "Unpickler")), (torch, ("load",))):
        for name in names:
            monkeypatch.setattr(module, name, forbidden)
    load_run(run.path).discriminator(1)


def test_a_pickle_in_a_tensor_files_place_is_not_run(run, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = shutil.copytree(run.path, tmp_path / "run")
    for protocol in (0, 2, 5):
        harm = pickle.dumps(Harm(), protocol)
        (path / "checkpoints/epoch-0001/generator.safetensors").write_bytes(harm)
        with pytest.raises(RunError, match=r"epoch-0001/generator\.safetensors cannot be read"):
            load_run(path).generator(1)
    torch.save({"x": Harm()}, path / "checkpoints/epoch-0001/generator.safetensors")
    with pytest.raises(RunError, match="cannot be read"):
        load_run(path).generator(1)
    assert not (tmp_path / "harm").exists()


def test_only_the_newest_two_checkpoints_keep_their_training_state(run):
    states = sorted(run.path.glob("checkpoints/*/training_state.safetensors"))
    assert [path.parent.name for path in states] == ["epoch-0002", "epoch-0003"]


def test_checkpoints_come_back_and_are_counted_in_order(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert folder.epochs() == []
    for epoch in (9, 10, 10_000):
        networks = {"d": {"w": torch.full((2,), float(epoch))}}
        folder.save(Checkpoint(epoch, {"epoch": epoch, "x": 0.1}, networks, {"step": torch.tensor(epoch)}))
    (folder.path / "epoch-none").mkdir()
    (folder.path / ".epoch-0011.tmp").mkdir()
    assert folder.epochs() == [9, 10, 10_000]
    loaded = folder.load(10_000, ["d"])
    assert (loaded.epoch, loaded.row) == (10_000, {"epoch": 10_000, "x": 0.1})
    assert loaded.networks["d"]["w"].tolist() == [10_000.0] * 2
    assert loaded.training_state["step"] == 10_000
    folder.delete(10)
    assert folder.epochs() == [9, 10_000]


def test_a_partial_run_can_be_looked_at(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    files.write_json(path / "manifest.json", {**run.manifest, "status": "partial"})
    for epoch in (2, 3):
        shutil.rmtree(path / f"checkpoints/epoch-{epoch:04d}")
    loaded = load_run(path)
    assert loaded.epochs == [0, 1]
    assert loaded.history.epoch.tolist() == [1]
    assert torch.equal(loaded.generator(1).layers[0].weight, run.generator(1).layers[0].weight)
    assert isinstance(loaded.path, Path)

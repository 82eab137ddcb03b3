import itertools
import os
import pickle
import re
import shutil

import pandas as pd
import pytest
import torch
from helpers import refused, tiny
from torch.nn import functional as F

from gradcam_gan.errors import RunError
from gradcam_gan.models.options import ClassifierOptions, Diffusion, Model
from gradcam_gan.training import files
from gradcam_gan.training.loop import fixed_latents, train
from gradcam_gan.training.objective import Objective
from gradcam_gan.training.runs import Checkpoint, CheckpointFolder, Run, load_run

CONFIG = tiny(epochs=3, seed=3)
OPEN = Diffusion(shortest=10, longest=300, target=None, rise=1.0)
DUDGAN = Model(
    diffusion=Diffusion(longest=1000), classifier=ClassifierOptions(), gradient_penalty=2.0, averaging=0.9
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(CONFIG, tmp_path_factory.mktemp("runs"))


def dudgan(**changes):
    """Six iterations an epoch, so that no checkpoint falls on an update of the horizons."""
    return tiny(**{"model": DUDGAN, "epochs": 3, "train_images": 96, "batch_size": 16, **changes})


@pytest.fixture(scope="module")
def dudgan_run(tmp_path_factory):
    return train(dudgan(), tmp_path_factory.mktemp("whole"))


def tensors(run, name):
    """A network's tensors after every epoch."""
    return [
        files.read_tensors(run.path / f"checkpoints/epoch-{epoch:04d}/{name}.safetensors")
        for epoch in range(run.config.epochs + 1)
    ]


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


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


def test_the_history_of_a_dudgan_run(dudgan_run):
    history = dudgan_run.history
    assert list(history)[7:13] == [
        "overconfidence", "discriminator_horizon",
        "loss_contrast", "loss_classes", "generator_contrast", "classifier_horizon",
    ]  # fmt: skip
    assert history.notna().all(axis=None)
    assert history.overconfidence.between(-1, 1).all()
    assert history.loss_classes[0] == pytest.approx(2.3, abs=0.4)  # ten classes, none known yet
    # updates after iterations 4, 8, 12 and 16 of 18, each by 4/18 of 290
    ramp = [10 + round(290 * 4 * k / 18) for k in range(5)]
    means = [
        (4 * ramp[0] + 2 * ramp[1]) / 6,
        (2 * ramp[1] + 4 * ramp[2]) / 6,
        (4 * ramp[3] + 2 * ramp[4]) / 6,
    ]
    assert history.classifier_horizon.tolist() == pytest.approx(means)


def test_the_manifest_says_what_really_ran(run):
    assert run.manifest["status"] == "complete"
    assert (run.manifest["device"], run.manifest["threads"]) == ("cpu", 1)
    assert run.manifest["precision"] in ("float32", "bfloat16")  # never "auto"
    assert (run.manifest["channels"], run.manifest["train_images"]) == (1, 64)
    assert re.fullmatch("[0-9a-f]{64}", run.manifest["data_sha256"])
    assert run.manifest["packages"]["torch"] == torch.__version__
    assert run.manifest["seconds"] == pytest.approx(run.history.seconds.sum())


@pytest.mark.parametrize("name", ["discriminator", "generator", "classifier"])
def test_networks_are_those_of_the_epoch_in_eval_mode(run, dudgan_run, name):
    for some in (run, dudgan_run):
        if name == "classifier" and some is run:
            assert "has no classifier: its model has discriminator, generator" in refused(some.classifier, 1)
            continue
        for epoch in some.epochs:
            network = getattr(some, name)(epoch)
            assert not any(module.training for module in network.modules())
            if name != "generator" or some is run:  # of an average see below
                assert_same(network.state_dict(), tensors(some, name)[epoch])
        assert str(refused(getattr(some, name), 4)) == f"{some.path} has no epoch 4; it has 0 to 3"
    assert dudgan_run.generator(3)(fixed_latents(4), torch.arange(4)).shape == (4, 1, 28, 28)


def by_hand(generator, told, passes=16):
    """Means and unbiased variances (layers x channels) before each BatchNorm, averaged over batches of 64."""
    latents, found = torch.randn(64 * passes, 100, generator=torch.Generator().manual_seed(2)), []
    labels = torch.arange(64 * passes) % 10
    for z, classes in zip(latents.split(64), labels.split(64), strict=True):
        values = torch.cat([z, F.one_hot(classes, 10)], 1) if told else z
        values, batch = values[:, :, None, None], []
        for layer in generator.layers:
            if isinstance(layer, torch.nn.BatchNorm2d):
                mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3))
                batch += [mean, variance]
                biased = values.var((0, 2, 3), correction=0)[:, None, None]
                values = (values - mean[:, None, None]) / (biased + layer.eps).sqrt()
                values = values * layer.weight[:, None, None] + layer.bias[:, None, None]
            else:
                values = layer(values)
        found.append(torch.cat(batch))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("conditional", [True, False])
def test_an_averaged_generator_has_the_average_weights_and_statistics_of_its_own(tmp_path, conditional):
    model = Model(conditional=conditional, averaging=0.9)
    run = train(dudgan(model=model, epochs=1), tmp_path)
    average, stored = run.generator(1), tensors(run, "generator_average")[1]
    for name, parameter in average.named_parameters():
        assert torch.equal(parameter, stored[name])
    layers = [layer for layer in average.layers if isinstance(layer, torch.nn.BatchNorm2d)]
    found = torch.cat([one for layer in layers for one in (layer.running_mean, layer.running_var)])
    with torch.no_grad():
        torch.testing.assert_close(found, by_hand(average, conditional), rtol=1e-4, atol=1e-6)
    assert {(layer.momentum, layer.training) for layer in layers} == {(0.1, False)}
    copied = torch.cat([stored[f"layers.{i}.running_var"] for i in (1, 4, 7, 10)])
    assert not torch.allclose(torch.cat([layer.running_var for layer in layers]), copied, rtol=0.05)
    assert_same(run.generator(1).state_dict(), average.state_dict())  # the same each time


def test_epoch_zero_is_the_untrained_network_of_that_seed(run):
    initial = Objective(CONFIG, 1, 10, 192, torch.device("cpu"), "float32").networks
    for name, network in initial.items():
        assert_same(getattr(run, name)(0).state_dict(), network.state_dict())
        states = tensors(run, name)  # and every epoch changes all of it
        for earlier, later in itertools.pairwise(states):
            assert all(not torch.equal(earlier[key], later[key]) for key in earlier)


def test_a_runs_horizon_is_that_after_the_epoch(tmp_path, dudgan_run):
    ramp = train(dudgan(model=Model(diffusion=OPEN)), tmp_path)
    horizons = [10 + round(290 * 4 * k / 18) for k in (0, 1, 3, 4)]
    assert [ramp.diffusion(epoch).horizon for epoch in ramp.epochs] == horizons
    assert ramp.diffusion(1, "classifier") is None
    progress = [float(state["progress"]) for state in tensors(dudgan_run, "discriminator_diffusion")]
    found = [dudgan_run.diffusion(epoch).horizon for epoch in range(4)]
    assert found == [10 + round(990 * p) for p in progress]
    assert [dudgan_run.diffusion(epoch, "classifier").horizon for epoch in range(4)] == horizons
    assert "has no epoch 9; it has 0 to 3" in refused(dudgan_run.diffusion, 9)


def test_load_run_gives_the_same_run(run):
    for path in (run.path, str(run.path)):
        loaded = load_run(path)
        assert (loaded.path, loaded.config, loaded.manifest) == (run.path, run.config, run.manifest)
        pd.testing.assert_frame_equal(loaded.history, run.history)
        for name, tensor in run.generator(2).state_dict().items():
            assert torch.equal(loaded.generator(2).state_dict()[name], tensor)


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        assert f"{path} holds no training run" in refused(load_run, path, error=RunError)
    assert not (tmp_path / "absent").exists()


RUN_FILES = ["config.json", "manifest.json", "checkpoints/epoch-0002/epoch.json"]


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_damaged_file_is_named(run, tmp_path, name):
    path = shutil.copytree(run.path, tmp_path / "run")
    (path / name).write_text('{"half')
    assert f"{path / name} cannot be read" in refused(load_run, path, error=RunError)


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_changed_value_is_noticed_and_the_way_out_named(run, tmp_path, name):
    path = shutil.copytree(run.path, tmp_path / "run")
    content = (path / name).read_bytes()
    digit = re.search(rb": [1-9]", content).end() - 1
    (path / name).write_bytes(content[:digit] + b"%d" % (content[digit] % 9 + 1) + content[digit + 1 :])
    message = refused(load_run, path, error=RunError)
    assert f"{path / name} is damaged" in message
    assert f"delete {path} and train again" in message


def test_what_was_found_of_a_run_is_found_once_for_every_way_and_its_damage_is_noticed(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    run, found = load_run(tmp_path / "run"), []

    def find():
        found.append(pd.DataFrame({"value": [0.1 + len(found), 1 / 3]}))
        return found[-1]

    pd.testing.assert_frame_equal(run.kept("thing", "one way", find), found[0], check_exact=True)
    pd.testing.assert_frame_equal(run.kept("thing", "one way", find), found[0], check_exact=True)
    pd.testing.assert_frame_equal(run.kept("thing", "another", find), found[1], check_exact=True)
    assert len(found) == 2
    tensors = {"a": torch.arange(3.0)}
    assert run.kept_tensors("thing", "one way", lambda: tensors)["a"].equal(tensors["a"])
    assert run.kept_tensors("thing", "one way", dict)["a"].equal(tensors["a"])
    for path in (*run.path.glob("thing-*.csv"), *run.path.glob("thing-*.safetensors")):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "is damaged" in refused(run.kept, "thing", "one way", find, error=RunError)
    assert "is damaged" in refused(run.kept_tensors, "thing", "one way", dict, error=RunError)


def test_a_changed_bit_of_a_network_is_noticed(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    damaged = path / "checkpoints/epoch-0001/generator.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 128
    damaged.write_bytes(content)
    loaded = load_run(path)
    assert f"{damaged} cannot be read: it is damaged" in refused(loaded.generator, 1, error=RunError)
    assert_same(loaded.generator(2).state_dict(), run.generator(2).state_dict())


def without_checksums(source, path):
    """A copy of a run as it was written before there were checksums."""
    shutil.copytree(source, path)
    for file in path.rglob("*.json"):
        content = files.read_json(file)
        content.pop("sha256", None)
        files.write_json(file, content)
    return path


def test_a_run_of_before_there_were_checksums_is_read(run, tmp_path):
    loaded = load_run(without_checksums(run.path, tmp_path / "run"))
    assert (loaded.config, loaded.manifest) == (run.config, run.manifest)
    pd.testing.assert_frame_equal(loaded.history, run.history)
    assert_same(loaded.generator(3).state_dict(), run.generator(3).state_dict())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("manifest.json", {"status": "done"}),
        ("manifest.json", {"channels": "1"}),
        ("manifest.json", {"classes": 10**12}),
        ("manifest.json", {"data_sha256": None}),
        ("config.json", {"width": [16]}),
        ("config.json", {"self": 1}),
        ("checkpoints/epoch-0002/epoch.json", {"row": []}),
        ("checkpoints/epoch-0002/epoch.json", {"row": {"epoch": "two"}}),
        ("checkpoints/epoch-0002/epoch.json", {"sha256": {"generator.safetensors": 1}}),
    ],
)
def test_without_checksums_values_of_another_kind_are_refused_by_name(run, tmp_path, name, values):
    path = without_checksums(run.path, tmp_path / "run")
    files.write_json(path / name, {**files.read_json(path / name), **values})
    message = refused(load_run, path, error=RunError)
    assert str(path / name) in message
    assert next(iter(values)) in message


def test_without_checksums_another_network_is_refused(run, tmp_path):
    path = without_checksums(run.path, tmp_path / "run")
    folder = path / "checkpoints/epoch-0001"
    shutil.copy(folder / "generator.safetensors", folder / "discriminator.safetensors")
    message = refused(load_run(path).discriminator, 1, error=RunError)
    assert "discriminator of epoch 1 is another network's" in message


def test_a_run_that_is_no_longer_trained_is_refused(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    config = files.read_json(path / "config.json")
    files.write_json(path / "config.json", {**config, "architecture": "paper", "pruning": None})
    assert load_run(path).config == CONFIG
    files.write_json(path / "config.json", {**config, "architecture": "standard"})
    message = refused(load_run, path, error=RunError)
    assert message == f"{path / 'config.json'}: architecture='standard' is no longer trained; delete the run"


def test_a_complete_run_with_a_damaged_file_says_which_and_what_to_do(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    damaged = path / "checkpoints/epoch-0001/discriminator.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    message = refused(load_run(path).discriminator, 1, error=RunError)
    assert str(damaged) in message
    assert f"delete {path} and train again for the same weights" in message
    load_run(path).discriminator(2)


def test_loading_leaves_torchs_random_state_alone(run):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded = load_run(run.path)
    loaded.discriminator(1)
    loaded.generator(1)
    assert torch.equal(torch.get_rng_state(), before)


# --- what lies on disk


def test_a_run_folder_holds_json_csv_and_safetensors_alone(run, dudgan_run):
    found = [path for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert {path.suffix for path in found} == {".json", ".csv", ".safetensors"}
    names = {path.stem for path in dudgan_run.path.glob("checkpoints/epoch-0000/*.safetensors")}
    assert names == {
        "discriminator", "generator", "classifier",
        "generator_average", "discriminator_diffusion", "classifier_diffusion",
    }  # fmt: skip


def test_the_training_state_is_all_that_the_next_epoch_needs_and_no_more(run, dudgan_run):
    last = "checkpoints/epoch-0003/training_state.safetensors"
    optimisers = ("discriminator.", "generator.", "classifier.")

    def others(path):
        return {name for name in files.read_tensors(path / last) if not name.startswith(optimisers)}

    assert others(run.path) == {"random.order", "random.latents"}
    more = {"random.labels", "random.objective", "iteration", "sign_sum"}
    assert others(dudgan_run.path) == others(run.path) | more
    assert files.read_tensors(dudgan_run.path / last)["iteration"] == 18


def test_a_pickle_in_a_tensor_files_place_is_not_run(run, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = shutil.copytree(run.path, tmp_path / "run")
    for protocol in (0, 5):
        harm = pickle.dumps(Harm(), protocol)
        (path / "checkpoints/epoch-0001/generator.safetensors").write_bytes(harm)
        with pytest.raises(RunError, match=r"epoch-0001/generator\.safetensors cannot be read"):
            load_run(path).generator(1)
    torch.save({"x": Harm()}, path / "checkpoints/epoch-0001/generator.safetensors")
    with pytest.raises(RunError, match="cannot be read"):
        load_run(path).generator(1)
    assert not (tmp_path / "harm").exists()


def test_only_the_newest_two_checkpoints_and_the_middle_one_keep_their_training_state(run):
    states = sorted(run.path.glob("checkpoints/*/training_state.safetensors"))
    assert [path.parent.name for path in states] == ["epoch-0001", "epoch-0002", "epoch-0003"]


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


def test_a_partial_run_can_be_looked_at_also_elsewhere(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    files.write_json(path / "manifest.json", {**run.manifest, "status": "partial"})
    for epoch in (2, 3):
        shutil.rmtree(path / f"checkpoints/epoch-{epoch:04d}")
    loaded = load_run(path)
    assert loaded.epochs == [0, 1]
    assert loaded.history.epoch.tolist() == [1]
    assert_same(loaded.generator(1).state_dict(), run.generator(1).state_dict())

import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, namedtuple
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import refused, tiny
from PIL import Image

from gradcam_gan.data import ImageSet, data_hash, load_images, to_model_range
from gradcam_gan.errors import InputError, RunError
from gradcam_gan.models.options import ClassifierOptions, Diffusion, Guidance, Model
from gradcam_gan.training import devices, files, loop
from gradcam_gan.training.loop import fixed_latents, prune, run_name, train, training_images
from gradcam_gan.training.objective import Objective
from gradcam_gan.training.runs import load_run

CLOCK = ["seconds", "images_per_second"]
NETWORKS = ("discriminator", "generator")
NONE = Diffusion(shortest=0, longest=0)  # diffuses nothing
GUIDED = Model(conditional=False, guidance=Guidance(start=0, control="shuffled"))
DUDGAN = Model(
    diffusion=Diffusion(longest=1000), classifier=ClassifierOptions(), gradient_penalty=2.0, averaging=0.9
)
posix = pytest.mark.skipif(os.name != "posix", reason="kills as POSIX knows them")


def contents(path):
    """Bytes of every tensor file, by name."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*.safetensors")}


def assert_same_run(path, reference):
    """Complete, whole, with the reference's weights of every epoch bit for bit, and without litter."""
    run, expected = load_run(path), load_run(reference)
    assert run.manifest["status"] == "complete"
    assert contents(path) == contents(reference)
    assert run.epochs == list(range(run.config.epochs + 1))
    pd.testing.assert_frame_equal(run.history.drop(columns=CLOCK), expected.history.drop(columns=CLOCK))
    pd.testing.assert_frame_equal(pd.read_csv(path / "history.csv"), run.history, check_dtype=False)
    assert not list(path.rglob("*.tmp"))


@contextmanager
def watched(before=lambda count, *batch: None, after=lambda count, objective, statistics: None):
    """Call these around every training step; its count is 1 at the first."""
    original, counter = Objective.step, itertools.count(1)

    def step(self, *batch):
        count = next(counter)
        before(count, *batch)
        statistics = original(self, *batch)
        after(count, self, statistics)
        return statistics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "step", step)
        yield


class Interrupted(Exception):
    pass


def partial(config, runs_dir, epochs, keep=None):
    """A run that was stopped after that many epochs, in the middle of the next; its folder."""
    iterations = len(training_images(config).images) // config.batch_size

    def interrupt(count, *batch):
        if count > epochs * iterations + 1:
            raise Interrupted  # as by Ctrl-C: nothing is caught on the way

    with watched(interrupt), pytest.raises(Interrupted):
        train(config, runs_dir, keep)
    return Path(runs_dir) / run_name(config, keep)


def recorded(config, runs_dir, keep=None):
    """A training, and what its steps were given: real images, latents, their classes, classes to generate."""
    found = []
    with watched(lambda count, *batch: found.append([tensor.clone() for tensor in batch])):
        run = train(config, runs_dir, keep)
    return run, [torch.cat(tensors) for tensors in zip(*found, strict=True)]


def as_bytes(images):
    return [image.numpy().tobytes() for image in images]


# --- get or train


def test_a_complete_run_is_loaded_and_nothing_is_written_or_trained(tmp_path, monkeypatch):
    first = train(tiny(), tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}

    def forbidden(*arguments):
        raise AssertionError("it trains again")

    monkeypatch.setattr(Objective, "step", forbidden)
    monkeypatch.setattr(loop, "load_images", forbidden)
    again = train(tiny(), tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    assert (again.path, again.config, again.manifest) == (first.path, first.config, first.manifest)
    pd.testing.assert_frame_equal(again.history, first.history)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("model", "kept"),
    [(None, None), (Model(), None), (GUIDED, None), (DUDGAN, None), (None, 70)],
    ids=["dcgan", "conditional", "guided", "dudgan", "pruned"],
)
def test_a_partial_run_is_resumed_where_it_stopped_and_ends_bit_identical(tmp_path, model, kept, precision):
    # six iterations an epoch, so that no checkpoint falls on an update of the horizons
    config = tiny(epochs=3, model=model, precision=precision, train_images=96, batch_size=16)
    keep = None if kept is None else keeping(kept, 96)
    torch.manual_seed(1)
    expected = train(config, tmp_path / "whole", keep)
    torch.manual_seed(2)  # the global random state has no part in it
    path = partial(config, tmp_path, 2, keep)
    stopped = load_run(path)
    assert (stopped.manifest["status"], stopped.epochs) == ("partial", [0, 1, 2])
    before = (path / "checkpoints/epoch-0002/generator.safetensors").stat().st_mtime_ns
    run = train(config, tmp_path, keep)
    assert (path / "checkpoints/epoch-0002/generator.safetensors").stat().st_mtime_ns == before
    assert_same_run(path, expected.path)
    assert run.manifest["data_sha256"] == expected.manifest["data_sha256"]


BEGUN = Path(__file__).parent / "begun_before_rebuild"
EXPECTED = json.loads((BEGUN / "expected.json").read_text())


@pytest.mark.skipif(
    (torch.__version__, torch.backends.cpu.get_cpu_capability())
    != (EXPECTED["torch"], EXPECTED["cpu_capability"]),
    reason="the last bits are those of another torch or another processor",
)
@pytest.mark.parametrize("name", EXPECTED["sha256"])
def test_a_run_begun_by_older_code_ends_with_its_bits(tmp_path, name):
    shutil.copytree(BEGUN / name, tmp_path / name)
    config = load_run(tmp_path / name).config
    assert config.name == name
    run = train(config, tmp_path)
    assert run.epochs == [1, 2]
    last = (run.path / "checkpoints/epoch-0002").glob("*.safetensors")
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in last} == EXPECTED["sha256"][
        name
    ]


def test_precisions_and_seeds_give_other_weights(tmp_path):
    runs = [train(tiny(**change), tmp_path) for change in ({}, {"seed": 1}, {"precision": "bfloat16"})]
    final = [(run.path / "checkpoints/epoch-0002/generator.safetensors").read_bytes() for run in runs]
    assert len(set(final)) == 3
    start = [(run.path / "checkpoints/epoch-0000/generator.safetensors").read_bytes() for run in runs]
    assert start[0] == start[2] != start[1]  # precision is no part of the initial weights


def test_an_epoch_shows_every_image_once_and_with_its_own_class(tmp_path):
    _, (real, _, labels, _) = recorded(tiny(), tmp_path)
    known = training_images(tiny())
    expected = dict(zip(as_bytes(to_model_range(known.images)), known.labels.tolist(), strict=True))
    for shown, told in zip(real.split(64), labels.split(64), strict=True):
        assert dict(zip(as_bytes(shown), told.tolist(), strict=True)) == expected
    assert not torch.equal(*real.split(64))  # in another order


def test_another_seed_draws_other_images_latents_and_classes_and_another_model_the_same(tmp_path):
    one, other = (recorded(tiny(seed=seed, epochs=1), tmp_path)[1] for seed in (0, 1))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    _, told = recorded(tiny(epochs=1, model=Model()), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(one, told, strict=True))


def test_classes_to_generate_are_drawn_alike(tmp_path):
    _, (*_, fake_labels) = recorded(tiny(model=Model(), epochs=16), tmp_path)
    counts = fake_labels.bincount(minlength=10)
    assert counts.min() > 70  # of 102 expected
    assert counts.max() < 140
    assert not torch.equal(*fake_labels[:128].split(64))  # each epoch draws on


# --- what a model reduces to without a part


@pytest.mark.parametrize(
    ("whole", "reduced"),
    [
        (None, Model(conditional=False)),
        (None, Model(conditional=False, diffusion=NONE)),
        (Model(), Model(diffusion=NONE)),
    ],
    ids=["told nothing", "told nothing, horizon 0", "horizon 0"],
)
def test_without_a_part_a_model_is_the_one_without_it_bit_for_bit(tmp_path, whole, reduced):
    expected, found = (train(tiny(model=model), tmp_path) for model in (whole, reduced))
    diffused = train(tiny(model=Model(diffusion=Diffusion())), tmp_path)
    for name in NETWORKS:
        saved = f"checkpoints/epoch-0002/{name}.safetensors"
        tensors, same, other = (files.read_tensors(run.path / saved) for run in (expected, found, diffused))
        assert not [key for key in tensors if not torch.equal(same[key], tensors[key])]
    assert not torch.equal(other["layers.0.weight"], same["layers.0.weight"])
    shared = expected.history.columns.difference(CLOCK)
    pd.testing.assert_frame_equal(found.history[shared], expected.history[shared])


# --- on a part of the images: paired with the training on all of them

WHOLE = tiny(train_images=128)  # four iterations an epoch


def keeping(count, images=128):
    """So many of the images, some order of passes for each."""
    return np.random.default_rng(0).permutation(images) < count


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """A training on all images, recorded."""
    return recorded(WHOLE, tmp_path_factory.mktemp("baseline"))


@pytest.mark.parametrize("keep", [np.ones(128, dtype=bool), torch.ones(128, dtype=torch.bool)])
def test_a_run_that_keeps_all_images_has_the_bits_of_one_without_a_list(tmp_path, baseline, keep):
    run = train(WHOLE, tmp_path, keep)
    assert_same_run(run.path, baseline[0].path)
    assert run.path.name != baseline[0].path.name


# more, exactly and fewer than half; a single batch
@pytest.mark.parametrize("count", [115, 90, 64, 51, 32])
def test_a_pruned_run_differs_from_its_baseline_in_its_images_alone(tmp_path, baseline, count):
    keep, images = keeping(count), training_images(WHOLE)
    (whole, told), (run, pruned) = baseline, recorded(WHOLE, tmp_path, keep)
    for epoch, same in ((0, True), (2, False)):
        name = f"checkpoints/epoch-{epoch:04d}/generator.safetensors"
        assert (contents(run.path)[name] == contents(whole.path)[name]) == same
    assert torch.equal(pruned[1], told[1])  # the latents
    assert pruned[0].shape == told[0].shape
    columns = ["epoch", "iterations", "images"]
    pd.testing.assert_frame_equal(run.history[columns], whole.history[columns])
    assert run.manifest["train_images"] == count
    assert run.manifest["data_sha256"] == data_hash(prune(images, keep)) != data_hash(images)
    assert load_run(tmp_path / run_name(WHOLE, keep)).config == WHOLE

    left = set(as_bytes(to_model_range(images.images[keep])))
    assert len(left) == count  # all unique, so that a deleted one would be noticed
    epochs = [as_bytes(shown) for shown in pruned[0].split(128)]
    for shown in epochs:
        assert set(shown) == left
        often = Counter(shown).values()
        assert max(often) - min(often) <= 1  # in passes: none again before all have had their turn
        assert len(set(shown[:count])) == count
    again = min(count, 128 - count)
    assert epochs[0] != epochs[1]
    assert epochs[0][count : count + again] != epochs[0][:again]  # another order in every pass


def test_with_more_images_than_an_epoch_shows_none_is_shown_twice_in_it(tmp_path):
    _, (real, *_) = recorded(WHOLE.changed(batch_size=50), tmp_path, keeping(115))
    for shown in real.split(100):
        assert len(set(as_bytes(shown))) == len(shown) == 100


def test_another_list_is_another_run_in_whatever_form_it_comes():
    keep = keeping(90)
    names = {run_name(WHOLE, form) for form in (keep, torch.from_numpy(keep))}
    names |= {run_name(WHOLE), run_name(WHOLE, ~keep)}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("keep", "kind"),
    [
        (np.ones(5, dtype=bool), "(5,)"),
        (np.ones((6, 1), dtype=bool), "(6, 1)"),
        (np.array([1, 0, 0, 1, 1, 0]), "int64"),  # as indices these would be images 0 and 1
        (torch.ones(6), "float32"),
    ],
    ids=["too short", "a column", "indices", "floats"],
)
def test_what_is_no_keep_list_is_refused(keep, kind):
    images = ImageSet(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.arange(6), list("abcdef"))
    message = refused(prune, images, keep)
    assert kind in message
    assert "must be bool, one value for each of the 6 training images" in message


def test_a_keep_list_of_less_than_a_batch_is_refused_before_anything_is_made(tmp_path):
    message = refused(train, WHOLE, tmp_path, keeping(31))
    assert message == "the keep list leaves 31 of 128 training images, fewer than batch_size=32"
    assert not list(tmp_path.iterdir())


# --- the accuracy of D, torch's settings, what is fixed


def test_ds_accuracy_is_of_images_with_their_own_classes(tmp_path, monkeypatch):
    found, original = [], loop.real_fake_accuracy

    def record(*arguments, conditions, **named):
        found.append((arguments, named, conditions))
        return original(*arguments, conditions=conditions, **named)

    monkeypatch.setattr(loop, "real_fake_accuracy", record)
    config = tiny(model=Model(diffusion=Diffusion()), epochs=1)
    run = train(config, tmp_path)
    ((_, real, fake), named, told) = found[0]
    held_out, known = load_images("mnist-5k", 28, "test"), training_images(config)
    expected = {
        "real": (real, held_out.images[:256], held_out.labels[:256]),
        "reference": (named["reference"], known.images, known.labels),
    }
    for name, (images, wanted, labels) in expected.items():
        assert torch.equal(images, wanted)
        assert torch.equal(told[name]["labels"], labels)
        assert not told[name]["times"].any()
        assert len(told[name]["times"]) == len(labels)
    labels = told["fake"]["labels"]
    assert (labels.bincount() - 25.6).abs().max() < 1
    with torch.no_grad():
        torch.testing.assert_close(fake, run.generator(1)(fixed_latents(256), labels))


def test_training_leaves_torchs_global_settings_and_random_state_and_is_silent(tmp_path, capfd):
    torch.set_num_threads(2)
    cudnn = torch.backends.cudnn

    def settings():
        flags = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
        return torch.get_num_threads(), flags, torch.is_grad_enabled(), torch.get_rng_state().tolist()

    before = settings()
    train(tiny(threads=1), tmp_path)
    assert settings() == before
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_training_shows_its_progress_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    train(tiny(), tmp_path)
    shown = capsys.readouterr().err
    assert tiny().name[:20] in shown
    assert "128/128" in shown


def test_fixed_latents_are_the_same_on_every_call():
    assert torch.equal(fixed_latents(3), fixed_latents(3))
    assert fixed_latents(3).shape == (3, 100)
    assert not torch.equal(fixed_latents(3), fixed_latents(3, seed=1))


def test_a_subset_of_the_images_is_fixed_and_no_more_than_asked_for():
    one, other = training_images(tiny()), training_images(tiny(seed=9))
    assert len(one.images) == len(one.labels) == 64
    assert torch.equal(one.images, other.images)
    assert len(one.labels.unique()) == 10  # not the first 64 of the sorted digits


def test_other_c_libraries_are_left_alone(monkeypatch):
    loaded = []
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: loaded.append(name))
    monkeypatch.setattr(devices.platform, "libc_ver", lambda: ("", ""))
    devices.keep_freed_memory()
    assert loaded == []


# --- refused before anything is made


def test_an_absent_gpu_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in ("cuda", "cuda:3"):
        assert f"device='{device}': this machine shows 0" in refused(train, tiny(device=device), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:", "cuda:99999999999999999999", ""])
def test_an_unknown_device_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match="must be auto, cpu, cuda or cuda:N"):
        devices.resolve_device(name)


def test_unusable_data_are_refused_before_anything_is_made(tmp_path):
    assert "did you mean 'mnist-5k'?" in refused(train, tiny(data="mnist5k"), tmp_path)
    assert "is no folder" in refused(train, tiny(data=f"folder:{tmp_path}/absent"), tmp_path)
    few = "mnist-5k has 31 training images, fewer than batch_size=32"
    assert few in refused(train, tiny(train_images=31), tmp_path)
    assert "has 4000 training images" in refused(train, tiny(train_images=4001), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_from_the_start_is_refused_in_one_line(tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    message = refused(train, tiny(), tmp_path / "runs")
    assert message.startswith(f"cannot write to {tmp_path / 'runs' / tiny().name}: the disk is full")


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path, where):
    (tmp_path / "file").write_text("not a folder")
    message = refused(train, tiny(), tmp_path / where)
    assert "cannot write to" in message
    assert "choose another runs_dir" in message
    assert (tmp_path / "file").read_text() == "not a folder"


def test_too_little_room_for_the_run_is_said_before_the_work(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 9000, 9000))
    message = refused(train, tiny(epochs=50), tmp_path, error=RunError)
    assert "50 epochs need about" in message
    assert load_run(tmp_path / tiny(epochs=50).name).epochs == [0]


def pictures(folder, change=0):
    """Fifty images of noise, all in one class."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(0)
    for i in range(50):
        pixels = bytearray(rng.randbytes(28 * 28))
        pixels[0] ^= change
        Image.frombytes("L", (28, 28), bytes(pixels)).save(folder / f"{i}.png")
    return {"data": f"folder:{folder}", "train_images": None, "batch_size": 16}


def test_images_of_one_class_are_refused_before_anything_is_made_unless_no_class_is_told(tmp_path):
    fields = pictures(tmp_path / "images")
    message = refused(train, tiny(model=Model(), **fields), tmp_path / "runs")
    assert "has one class" in message
    assert "one subfolder a class, or set conditional=false" in message
    assert not (tmp_path / "runs").exists()
    unconditional = Model(conditional=False, diffusion=Diffusion())
    assert train(tiny(model=unconditional, epochs=1, **fields), tmp_path / "runs").epochs == [0, 1]


# --- losses that are not finite


def broken_losses(count, objective, statistics):
    if count == 4:  # two steps an epoch: the second epoch's last
        statistics[1] = float("nan")


def broken_weights(count, objective, statistics):  # the losses of this step were finite, its update was not
    if count == 4:
        objective.generator.layers[0].weight.data[0, 0, 0, 0] = float("inf")


@pytest.mark.parametrize(("what", "harm"), [("losses", broken_losses), ("weights", broken_weights)])
def test_what_is_not_finite_stops_the_run_and_the_last_good_checkpoint_is_gone_on_from(tmp_path, what, harm):
    config = tiny(epochs=3)
    with watched(after=harm):
        message = refused(train, config, tmp_path, error=RunError)
    assert f"{what} are not finite in epoch 2, iteration 2; epoch 1 is the last good checkpoint" in message
    path = tmp_path / config.name
    assert load_run(path).epochs == [0, 1]
    assert load_run(path).history.epoch.tolist() == [1]
    train(config, tmp_path)
    assert_same_run(path, train(config, tmp_path / "whole").path)


def test_an_absurd_learning_rate_is_reported_not_saved(tmp_path):
    message = refused(train, tiny(learning_rate=1e30), tmp_path, error=RunError)
    assert "not finite in epoch 1, iteration 1; epoch 0 is the last good checkpoint" in message
    assert "lower learning_rate" in message


# --- damage


@pytest.fixture(scope="module")
def three_epochs(tmp_path_factory):
    """A complete run of three epochs."""
    return train(tiny(epochs=3), tmp_path_factory.mktemp("whole")).path


@pytest.fixture(scope="module")
def two_of_three_epochs(tmp_path_factory):
    """The same run, stopped after two; to be copied."""
    return partial(tiny(epochs=3), tmp_path_factory.mktemp("partial"), epochs=2)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("discriminator", "cut"),
        ("generator", "empty"),
        ("training_state", "absent"),
        ("epoch", "cut"),
        ("generator", "bit"),
        ("training_state", "bit"),
    ],
)
def test_a_damaged_newest_checkpoint_is_trained_again(
    tmp_path, caplog, two_of_three_epochs, three_epochs, name, harm
):
    path = shutil.copytree(two_of_three_epochs, tmp_path / two_of_three_epochs.name)
    (damaged,) = (path / "checkpoints/epoch-0002").glob(f"{name}.*")
    content = damaged.read_bytes()
    changed = content[:-1] + bytes([content[-1] ^ 1])
    damaged.unlink()
    if harm != "absent":
        damaged.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "bit": changed}[harm])
    train(tiny(epochs=3), tmp_path)
    assert f"{damaged} cannot be read" in caplog.text
    assert "going back one epoch" in caplog.text
    assert_same_run(path, three_epochs)


def test_without_checksums_a_checkpoint_of_another_network_is_trained_again(
    tmp_path, caplog, two_of_three_epochs, three_epochs
):
    path = shutil.copytree(two_of_three_epochs, tmp_path / two_of_three_epochs.name)
    folder = path / "checkpoints/epoch-0002"
    record = files.read_json(folder / "epoch.json")
    files.write_json(folder / "epoch.json", {name: record[name] for name in ("epoch", "row")})
    shutil.copy(folder / "generator.safetensors", folder / "discriminator.safetensors")
    train(tiny(epochs=3), tmp_path)
    assert f"{folder} is another training's; going back one epoch" in caplog.text
    assert_same_run(path, three_epochs)


def test_a_run_whose_resumable_checkpoints_are_all_damaged_starts_again(
    tmp_path, two_of_three_epochs, three_epochs
):
    path = shutil.copytree(two_of_three_epochs, tmp_path / two_of_three_epochs.name)
    states = list(path.glob("checkpoints/*/training_state.safetensors"))
    assert len(states) == 2  # one of them is the middle one
    for state in states:
        state.write_bytes(state.read_bytes()[:-1])
    train(tiny(epochs=3), tmp_path)
    assert_same_run(path, three_epochs)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_guided_training_shares_the_beginning_of_the_plain_one_bit_for_bit(tmp_path, conditional):
    guided = tiny(
        epochs=4, model=Model(conditional=conditional, guidance=Guidance(start=0.5, control="shuffled"))
    )
    alone = train(guided, tmp_path / "alone")
    train(guided.unguided, tmp_path / "beside")
    steps = []
    with watched(lambda count, *batch: steps.append(count)):
        beside = train(guided, tmp_path / "beside")
    assert len(steps) == 2 * 64 // 32  # of four epochs, the last two
    assert beside.manifest["beginning"] == {"run": guided.unguided.name, "epochs": 2}
    assert_same_run(beside.path, alone.path)


def test_a_run_is_not_continued_on_other_images(tmp_path):
    config = tiny(**pictures(tmp_path / "images"))
    path = partial(config, tmp_path / "runs", epochs=1)
    before = contents(path)
    pictures(tmp_path / "images", change=1)  # one grey level in one pixel of each
    message = refused(train, config, tmp_path / "runs", error=RunError)
    assert f"{path} was begun on other images than '{config.data}' now holds" in message
    assert "restore the data or delete that folder" in message
    assert contents(path) == before


def test_a_run_is_not_continued_on_other_held_out_images(tmp_path, monkeypatch):
    """They decide the accuracies in its history."""
    path = partial(tiny(), tmp_path, epochs=1)
    original = loop.training_images

    def changed(config, split="train"):
        found = original(config, split)
        if split == "test":
            found.images[0, 0, 0, 0] += 1
        return found

    monkeypatch.setattr(loop, "training_images", changed)
    assert f"{path} was begun on other images" in refused(train, tiny(), tmp_path, error=RunError)
    manifest = files.read_json(path / "manifest.json")
    del manifest["held_out_sha256"]  # as older ones
    files.write_json(path / "manifest.json", files.sealed(manifest))
    assert train(tiny(), tmp_path).manifest["status"] == "complete"


@pytest.mark.parametrize(("key", "other"), [("threads", 64), ("device", "cuda")])
def test_a_run_that_goes_on_elsewhere_says_so(tmp_path, caplog, key, other):
    path = partial(tiny(), tmp_path, epochs=1)
    manifest = files.read_json(path / "manifest.json")
    files.write_json(path / "manifest.json", {**manifest, key: other})
    run = train(tiny(), tmp_path)
    assert f"was begun with {key}={other} and goes on with {manifest[key]}" in caplog.text
    assert run.manifest["status"] == "complete"


def test_a_disk_that_fills_up_is_reported_and_the_run_goes_on_to_the_same_bits(tmp_path, three_epochs):
    config, count, write = tiny(epochs=3), [], files._write_durably

    def full(path, content):
        count.append(None)
        if len(count) == 14:  # in the second epoch's checkpoint: half of the file is there
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_write_durably", full)
        with pytest.raises(RunError) as caught:
            train(config, tmp_path)
    path = tmp_path / config.name
    message = f"could not write to {path}: the disk is full; epoch 1 is safe, and train() goes on"
    assert message in str(caught.value)
    assert not list(path.rglob("*.tmp"))
    assert load_run(path).epochs == [0, 1]
    assert_same_run(train(config, tmp_path).path, three_epochs)


# --- processes: killed, and two at once


def started(config, runs_dir):
    """``python -m gradcam_gan train`` with this configuration."""
    fields = [f"{name}={json.dumps(value)}" for name, value in config.model_dump(mode="json").items()]
    command = [sys.executable, "-m", "gradcam_gan", "train", *fields, "--runs-dir", str(runs_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.005)


@posix
@pytest.mark.parametrize("model", [None, DUDGAN], ids=["dcgan", "dudgan"])
def test_a_run_killed_at_random_times_ends_with_the_same_bits(tmp_path, model):
    config = tiny(epochs=20, train_images=160, batch_size=16, model=model)
    path, rng = tmp_path / config.name, random.Random(time.time_ns())
    for epoch in (0, 3, 8):
        process = started(config, tmp_path)
        wait_for(path / f"checkpoints/epoch-{epoch:04d}", process)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        run = load_run(path)
        assert run.manifest["status"] == "partial"
        for saved in run.epochs:  # whatever a killed run has saved can be loaded
            run.discriminator(saved)
            run.generator(saved)
        process.communicate()
    process = started(config, tmp_path)
    output, _ = process.communicate()
    assert (process.returncode, output.strip()) == (0, str(path))
    assert_same_run(path, train(config, tmp_path / "whole").path)


@posix
def test_a_second_process_waits_says_so_and_finds_the_run_complete(tmp_path, caplog, monkeypatch):
    config = tiny(epochs=20)
    path = tmp_path / config.name
    first = started(config, tmp_path)
    wait_for(path / "manifest.json", first)
    monkeypatch.setattr(loop, "_Session", None)  # this process has nothing to train
    run = train(config, tmp_path)
    assert run.manifest["status"] == "complete"
    assert f"another process is training {path}; waiting for it to finish" in caplog.text
    first.communicate()
    assert first.returncode == 0
    monkeypatch.undo()
    assert_same_run(path, train(config, tmp_path / "whole").path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_cuda_graph_trains_as_single_steps_do_and_resumes_bit_identically(tmp_path, monkeypatch):
    config = tiny(device="cuda", epochs=3, width=4)
    graph = train(config, tmp_path / "graph")
    again = partial(config, tmp_path / "resumed", epochs=1)
    train(config, tmp_path / "resumed")
    assert_same_run(again, graph.path)

    monkeypatch.setattr(loop, "capture_step", lambda objective, *batch: objective.step)
    eager = train(config, tmp_path / "eager")
    for epoch in graph.epochs:
        for load in ("discriminator", "generator"):
            one, other = getattr(graph, load)(epoch), getattr(eager, load)(epoch)
            for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    columns = ["loss_discriminator", "loss_generator", "d_real", "d_fake"]
    pd.testing.assert_frame_equal(graph.history[columns], eager.history[columns], rtol=1e-3)

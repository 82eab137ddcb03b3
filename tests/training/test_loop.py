import errno
import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import namedtuple
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import tiny
from PIL import Image

from gradcam_gan.errors import InputError, RunError
from gradcam_gan.training import files, loop
from gradcam_gan.training.loop import fixed_latents, train, training_images
from gradcam_gan.training.objective import DCGANObjective
from gradcam_gan.training.runs import load_run

TIMES = ["seconds", "images_per_second"]
posix = pytest.mark.skipif(os.name != "posix", reason="forks, kills and limits as POSIX knows them")


def contents(path):
    """Bytes of every tensor file that a complete run must have, by name."""
    newest = load_run(path).epochs[-2:]
    states = [path / f"checkpoints/epoch-{epoch:04d}/training_state.safetensors" for epoch in newest]
    files = [*path.glob("checkpoints/*/discriminator.*"), *path.glob("checkpoints/*/generator.*"), *states]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def assert_same_run(path, reference):
    """Complete, whole, with the reference's weights of every epoch bit for bit, and without litter."""
    run, expected = load_run(path), load_run(reference)
    assert run.manifest["status"] == "complete"
    assert contents(path) == contents(reference)
    assert len(contents(path)) == 2 * (run.config.epochs + 1) + 2
    pd.testing.assert_frame_equal(run.history.drop(columns=TIMES), expected.history.drop(columns=TIMES))
    pd.testing.assert_frame_equal(pd.read_csv(path / "history.csv"), run.history, check_dtype=False)
    assert not list(path.rglob("*.tmp"))


class Interrupted(Exception):
    pass


def interrupt_before(monkeypatch, epoch):
    """Make training stop there as by Ctrl-C: nothing is caught on the way."""
    original = loop._Session._train_epoch

    def train_epoch(self, now, *rest):
        if now == epoch:
            raise Interrupted
        original(self, now, *rest)

    monkeypatch.setattr(loop._Session, "_train_epoch", train_epoch)


def partial(config, runs_dir, epochs):
    """A run that was stopped after that many epochs; its folder."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_before(patch, epochs + 1)
        with pytest.raises(Interrupted):
            train(config, runs_dir)
    return Path(runs_dir) / config.name


def run_error(config, runs_dir):
    with pytest.raises(RunError) as caught:
        train(config, runs_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def input_error(config, runs_dir):
    with pytest.raises(InputError) as caught:
        train(config, runs_dir)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


# --- get or train


def test_a_complete_run_is_loaded_and_nothing_is_written_or_trained(tmp_path, monkeypatch):
    first = train(tiny(), tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}

    def forbidden(*arguments):
        raise AssertionError("it trains again")

    monkeypatch.setattr(DCGANObjective, "step", forbidden)
    monkeypatch.setattr(loop, "load_images", forbidden)
    again = train(tiny(), tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    assert (again.path, again.config, again.manifest) == (first.path, first.config, first.manifest)
    pd.testing.assert_frame_equal(again.history, first.history)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_partial_run_is_resumed_where_it_stopped_and_ends_bit_identical(tmp_path, monkeypatch, precision):
    config = tiny(epochs=3, precision=precision)
    expected = train(config, tmp_path / "whole").path
    path = partial(config, tmp_path, epochs=2)
    assert load_run(path).epochs == [0, 1, 2]
    assert load_run(path).manifest["status"] == "partial"
    trained = []
    original = loop._Session._train_epoch

    def record(self, epoch, *rest):
        trained.append(epoch)
        original(self, epoch, *rest)

    monkeypatch.setattr(loop._Session, "_train_epoch", record)
    train(config, tmp_path)
    assert trained == [3]
    assert_same_run(path, expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("fields", [{}, {"preset": "paper64", "architecture": "standard"}], ids=["28", "64"])
def test_the_same_seed_gives_the_same_bits_in_another_folder(tmp_path, precision, fields):
    config = tiny(precision=precision, **fields)
    torch.manual_seed(1)
    one = train(config, tmp_path / "one")
    torch.manual_seed(2)  # the global random state has no part in it
    other = train(config, tmp_path / "other")
    assert_same_run(one.path, other.path)
    assert one.manifest["precision"] == precision


def test_precisions_and_seeds_give_other_weights(tmp_path):
    runs = [train(tiny(**change), tmp_path) for change in ({}, {"seed": 1}, {"precision": "bfloat16"})]
    final = [(run.path / "checkpoints/epoch-0002/generator.safetensors").read_bytes() for run in runs]
    assert len(set(final)) == 3
    start = [(run.path / "checkpoints/epoch-0000/generator.safetensors").read_bytes() for run in runs]
    assert start[0] == start[2] != start[1]  # precision is no part of the initial weights


def test_training_changes_both_networks_in_every_epoch(tmp_path):
    run = train(tiny(), tmp_path)
    for load in (run.discriminator, run.generator):
        states = [load(epoch).state_dict() for epoch in run.epochs]
        for earlier, later in itertools.pairwise(states):
            assert all(not torch.equal(earlier[name], later[name]) for name in earlier)


def test_an_epoch_shows_every_image_once(tmp_path, monkeypatch):
    config, seen = tiny(), []
    original = DCGANObjective.step

    def step(self, real, latents):
        seen.append(real.clone())
        return original(self, real, latents)

    monkeypatch.setattr(DCGANObjective, "step", step)
    train(config, tmp_path)
    images = loop.to_model_range(training_images(config).images)
    expected = sorted(image.numpy().tobytes() for image in images)
    epochs = torch.cat(seen).split(len(images))
    assert len(epochs) == config.epochs
    for epoch in epochs:
        assert sorted(image.numpy().tobytes() for image in epoch) == expected
    assert not torch.equal(*epochs)  # in another order


def test_another_seed_draws_other_images_and_other_latents(tmp_path, monkeypatch):
    first = []
    original = DCGANObjective.step

    def step(self, real, latents):
        first.append((real.clone(), latents.clone()))
        return original(self, real, latents)

    monkeypatch.setattr(DCGANObjective, "step", step)
    for seed in (0, 1):
        train(tiny(seed=seed, epochs=1), tmp_path)
    (real, latents), _, (other_real, other_latents), _ = first
    assert not torch.equal(real, other_real)
    assert not torch.equal(latents, other_latents)


def test_training_leaves_torchs_global_settings_and_random_state(tmp_path):
    torch.set_num_threads(2)
    cudnn = torch.backends.cudnn

    def settings():
        flags = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
        return torch.get_num_threads(), flags, torch.is_grad_enabled(), torch.get_rng_state().tolist()

    before = settings()
    train(tiny(threads=1), tmp_path)
    assert settings() == before


def test_training_is_silent_where_nobody_watches(tmp_path, capfd):
    train(tiny(), tmp_path)
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


# --- refused before anything is made


def test_an_absent_gpu_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in ("cuda", "cuda:3"):
        assert f"device='{device}': this machine shows 0" in input_error(tiny(device=device), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["gpu", "mps", "meta", "cuda:", "cuda:99999999999999999999", ""])
def test_an_unknown_device_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match="is unknown; use auto, cpu, cuda or cuda:N"):
        loop.resolve_device(name)


def test_unusable_data_are_refused_before_anything_is_made(tmp_path):
    assert "did you mean 'mnist-5k'?" in input_error(tiny(data="mnist5k"), tmp_path)
    assert "does not exist" in input_error(tiny(data=f"folder:{tmp_path}/absent"), tmp_path)
    few = "mnist-5k has 31 training images, fewer than batch_size=32"
    assert few in input_error(tiny(train_images=31), tmp_path)
    assert "has 4000 training images" in input_error(tiny(train_images=4001), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path, where):
    (tmp_path / "file").write_text("not a folder")
    message = input_error(tiny(), tmp_path / where)
    assert "cannot write to" in message
    assert "choose another runs_dir" in message
    assert (tmp_path / "file").read_text() == "not a folder"


def test_too_little_room_for_the_run_is_said_before_the_work(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 9000, 9000))
    message = run_error(tiny(epochs=50), tmp_path)
    assert "50 epochs need about" in message
    assert load_run(tmp_path / tiny(epochs=50).name).epochs == [0]


# --- losses that are not finite


def breaking(monkeypatch, at_step, harm):
    """Call ``harm(objective, statistics)`` after that step (1 is the first)."""
    original, count = DCGANObjective.step, []

    def step(self, real, latents):
        count.append(None)
        statistics = original(self, real, latents)
        if len(count) == at_step:
            harm(self, statistics)
        return statistics

    monkeypatch.setattr(DCGANObjective, "step", step)


def assert_epoch_one_is_good(path):
    run = load_run(path)
    assert run.epochs == [0, 1]
    assert run.history.epoch.tolist() == [1]
    for network in (run.discriminator(1), run.generator(1)):
        assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(
    tmp_path, monkeypatch, value
):
    def harm(objective, statistics):
        statistics[1] = value

    with monkeypatch.context() as patch:
        breaking(patch, 4, harm)  # two steps an epoch: the second epoch's last
        message = run_error(tiny(epochs=3), tmp_path)
    assert "losses are not finite in epoch 2, iteration 2; epoch 1 is the last good checkpoint" in message
    path = tmp_path / tiny(epochs=3).name
    assert_epoch_one_is_good(path)
    train(tiny(epochs=3), tmp_path)
    assert_same_run(path, train(tiny(epochs=3), tmp_path / "whole").path)


@pytest.mark.parametrize("network", ["discriminator", "generator"])
def test_weights_broken_by_an_epochs_last_step_are_not_saved(tmp_path, monkeypatch, network):
    def harm(objective, statistics):  # the losses of this step were finite, its update was not
        with torch.no_grad():
            next(objective.networks[network].parameters())[0] = float("nan")

    breaking(monkeypatch, 4, harm)
    message = run_error(tiny(epochs=3), tmp_path)
    assert "weights are not finite in epoch 2, iteration 2; epoch 1 is the last good checkpoint" in message
    assert_epoch_one_is_good(tmp_path / tiny(epochs=3).name)


def test_an_absurd_learning_rate_is_reported_not_saved(tmp_path):
    message = run_error(tiny(learning_rate=1e30), tmp_path)
    assert "not finite in epoch 1, iteration 1; epoch 0 is the last good checkpoint" in message
    assert "lower learning_rate" in message
    assert load_run(tmp_path / tiny(learning_rate=1e30).name).epochs == [0]


# --- damage


@pytest.fixture(scope="module")
def three_epochs(tmp_path_factory):
    """A complete run of three epochs."""
    return train(tiny(epochs=3), tmp_path_factory.mktemp("whole")).path


@pytest.fixture(scope="module")
def two_of_three_epochs(tmp_path_factory):
    """The same run, stopped after two; to be copied."""
    return partial(tiny(epochs=3), tmp_path_factory.mktemp("partial"), epochs=2)


@pytest.mark.parametrize("name", ["discriminator", "generator", "training_state", "epoch"])
@pytest.mark.parametrize("harm", ["cut", "empty", "absent"])
def test_a_damaged_newest_checkpoint_is_trained_again(
    tmp_path, caplog, two_of_three_epochs, three_epochs, name, harm
):
    path = shutil.copytree(two_of_three_epochs, tmp_path / two_of_three_epochs.name)
    (damaged,) = (path / "checkpoints/epoch-0002").glob(f"{name}.*")
    content = damaged.read_bytes()
    damaged.unlink()
    if harm != "absent":
        damaged.write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
    train(tiny(epochs=3), tmp_path)
    assert f"{damaged} cannot be read" in caplog.text
    assert "going back one epoch" in caplog.text
    assert_same_run(path, three_epochs)


def test_a_run_whose_resumable_checkpoints_are_all_damaged_starts_again(
    tmp_path, two_of_three_epochs, three_epochs
):
    path = shutil.copytree(two_of_three_epochs, tmp_path / two_of_three_epochs.name)
    states = list(path.glob("checkpoints/*/training_state.safetensors"))
    assert len(states) == 2
    for state in states:
        state.write_bytes(state.read_bytes()[:-1])
    train(tiny(epochs=3), tmp_path)
    assert_same_run(path, three_epochs)


def test_a_complete_run_with_a_damaged_file_says_which_and_its_advice_works(tmp_path):
    run = train(tiny(), tmp_path)
    expected = contents(run.path)
    damaged = run.path / "checkpoints/epoch-0001/discriminator.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    run = train(tiny(), tmp_path)
    run.discriminator(2)
    run.generator(1)
    with pytest.raises(RunError) as caught:
        run.discriminator(1)
    assert str(damaged) in str(caught.value)
    assert f"delete {run.path} and train again for the same weights" in str(caught.value)
    assert "\n" not in str(caught.value)
    shutil.rmtree(run.path)
    assert contents(train(tiny(), tmp_path).path) == expected


def test_a_run_is_not_continued_on_other_images(tmp_path):
    folder, rng = tmp_path / "images", random.Random(0)
    folder.mkdir()
    for i in range(50):
        Image.frombytes("L", (28, 28), rng.randbytes(28 * 28)).save(folder / f"{i}.png")
    config = tiny(data=f"folder:{folder}", train_images=None, batch_size=16)
    path = partial(config, tmp_path / "runs", epochs=1)
    before = contents(path)
    for file in folder.iterdir():  # one grey level in one pixel of each
        pixels = bytearray(Image.open(file).tobytes())
        pixels[0] ^= 1
        Image.frombytes("L", (28, 28), bytes(pixels)).save(file)
    message = run_error(config, tmp_path / "runs")
    assert f"{path} was begun on other images than 'folder:{folder}' now holds" in message
    assert "restore the data or delete that folder" in message
    assert contents(path) == before


@pytest.mark.parametrize("key", ["threads", "device"])
def test_a_run_that_goes_on_elsewhere_says_so(tmp_path, caplog, key):
    path = partial(tiny(), tmp_path, epochs=1)
    manifest = files.read_json(path / "manifest.json")
    files.write_json(path / "manifest.json", {**manifest, key: "other"})
    run = train(tiny(), tmp_path)
    assert f"was begun with {key}=other and goes on with {manifest[key]}" in caplog.text
    assert run.manifest["status"] == "complete"


# --- killed, and a full disk: in processes of their own, which fork
#
# The functions given to ``elsewhere`` run in a fresh Python, which imports torch once and
# forks a process for every one of them; these fork one for every training. So there is time to kill a training
# at every single step of its writing, and no thread of pytest's is forked along.


class Elsewhere:
    """Runs functions of this module, each in a fork of one fresh Python."""

    def __init__(self, folder):
        self.folder = folder
        command = [sys.executable, "-c", f"import {Path(__file__).stem} as tests; tests.serve()"]
        self.process = subprocess.Popen(
            command,
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, function, *arguments):
        answer = self.folder / function.__name__
        self.process.stdin.write(json.dumps([function.__name__, arguments, str(answer)]) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        assert status == 0, answer.read_text() if answer.is_file() else f"ended by signal {-status}"
        return json.loads(answer.read_text())


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    server = Elsewhere(tmp_path_factory.mktemp("answers"))
    yield server
    server.process.communicate()


def serve():
    hasten()
    for line in sys.stdin:
        sys.stdout.write(f"{ended(start(answer, *json.loads(line)))}\n")
        sys.stdout.flush()


def answer(name, arguments, path):
    try:
        Path(path).write_text(json.dumps(globals()[name](*arguments)))
    except BaseException:
        Path(path).write_text(traceback.format_exc())
        raise


def hasten():
    """Keep what every training here has in common: images, versions."""
    torch.set_num_threads(1)
    known = {split: loop.load_images("mnist-5k", 28, split) for split in ("train", "test")}
    loop.load_images = lambda name, size, split, data_dir: known[split]
    here = loop.provenance()
    loop.provenance = lambda: here
    loop.ACCURACY_IMAGES = 16


def start(action, *arguments):
    child = os.fork()
    if child:
        return child
    signal.alarm(240)  # rather than wait for ever
    try:
        action(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(child):
    """The exit status; minus the signal's number where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def strike_at(number, strike):
    """Call ``strike`` in place of the file operation of that number (1 is the first); returns the counter.

    Operations are: writing a file, of which the first half is written; fsync; the renames of files and folders.
    """
    done = []

    def counted(operation):
        def replacement(*arguments):
            done.append(operation)
            if len(done) == number:
                if operation is write:
                    arguments[0].write_bytes(arguments[1][: len(arguments[1]) // 2])
                strike()
            return operation(*arguments)

        return replacement

    write = files._write_durably
    files._write_durably = counted(write)
    files.os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)
    Path.rename = counted(Path.rename)
    return done


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_be_killed(config, runs_dir, number):
    strike_at(number, kill_myself)
    train(config, runs_dir)


def assert_readable(path):
    """Whatever a killed run has saved can be loaded."""
    if (path / "manifest.json").is_file():
        run = load_run(path)
        for epoch in run.epochs:
            run.discriminator(epoch)
            run.generator(epoch)


def every_kill(folder):
    config, folder = tiny(), Path(folder)
    reference = train(config, folder / "whole").path
    number = 0
    while True:
        number += 1
        runs_dir = folder / f"killed-{number}"
        status = ended(start(train_and_be_killed, config, runs_dir, number))
        path = runs_dir / config.name
        if status == 0:
            break
        assert status == -signal.SIGKILL, status
        assert_readable(path)
        assert ended(start(train, config, runs_dir)) == 0
        assert_same_run(path, reference)
        shutil.rmtree(runs_dir)
    return number - 1


@posix
def test_a_kill_at_any_step_of_any_write_is_resumed_to_the_same_bits(tmp_path, elsewhere):
    kills = elsewhere(every_kill, str(tmp_path))
    # three checkpoints of four files, and config, manifest (twice) and history (three times): each is written,
    # synced, renamed
    assert kills > 3 * 4 * 2 + 6 * 4


def kills_in_a_row(folder):
    config, folder = tiny(epochs=3), Path(folder)
    reference = train(config, folder / "whole").path
    rng = random.Random(0)
    most = 0
    for attempt in range(4):
        runs_dir, kills = folder / f"run-{attempt}", 0
        while True:
            status = ended(start(train_and_be_killed, config, runs_dir, rng.randrange(1, 50)))
            if status == 0:
                break
            assert status == -signal.SIGKILL, status
            kills += 1
        assert_same_run(runs_dir / config.name, reference)
        most = max(most, kills)
    return most


@posix
def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path, elsewhere):
    assert elsewhere(kills_in_a_row, str(tmp_path)) >= 2


def kills_at_random_times(folder):
    config, folder = tiny(epochs=3, train_images=192, precision="bfloat16"), Path(folder)
    begun = time.perf_counter()
    reference = train(config, folder / "whole").path
    whole = time.perf_counter() - begun
    rng = random.Random(time.time_ns())
    kills = attempts = 0
    while kills < 4:
        attempts += 1
        runs_dir = folder / f"run-{attempts}"
        child = start(train, config, runs_dir)
        time.sleep(rng.uniform(0, 0.9) * whole)
        os.kill(child, signal.SIGKILL)
        if ended(child) == -signal.SIGKILL:
            kills += 1
        else:
            whole *= 0.7  # it was done before the kill: the first training warms up, later ones are faster
        assert_readable(runs_dir / config.name)
        assert ended(start(train, config, runs_dir)) == 0
        assert_same_run(runs_dir / config.name, reference)
        assert attempts < 40
    return kills


@posix
def test_a_kill_at_a_random_time_is_resumed_to_the_same_bits(tmp_path, elsewhere):
    assert elsewhere(kills_at_random_times, str(tmp_path)) == 4


@posix
def test_the_command_line_resumes_what_was_killed(tmp_path):
    config = tiny(epochs=12, train_images=160)
    fields = [f"{name}={value}" for name, value in config.model_dump(exclude_none=True).items()]
    command = [sys.executable, "-m", "gradcam_gan", "train", *fields, "--runs-dir", str(tmp_path)]
    path = tmp_path / config.name
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not (path / "checkpoints/epoch-0001").exists() and process.poll() is None:
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert load_run(path).manifest["status"] == "partial"
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(path)
    assert_same_run(path, train(config, tmp_path / "whole").path)


def raise_full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def every_full_disk(folder):
    config, folder = tiny(epochs=1), Path(folder)
    reference = train(config, folder / "whole").path
    originals = files._write_durably, os.fsync, Path.replace, Path.rename
    number, finished = 0, False
    while not finished:
        number += 1
        runs_dir = folder / f"full-{number}"
        path = runs_dir / config.name
        strike_at(number, raise_full)
        try:
            train(config, runs_dir)
            finished = True
        except RunError as error:
            message = str(error)
        files._write_durably, os.fsync, Path.replace, Path.rename = originals
        if finished:
            break
        epochs = [int(saved.name[-4:]) for saved in sorted(path.glob("checkpoints/epoch-*"))]
        safe = f"epoch {epochs[-1]} is safe" if epochs else "nothing was saved"
        assert f"could not write to {path}: the disk is full; {safe}" in message, message
        assert "\n" not in message
        assert not list(path.rglob("*.tmp")), number
        assert_readable(path)
        assert_same_run(train(config, runs_dir).path, reference)
        shutil.rmtree(runs_dir)
    return number - 1


@posix
def test_a_disk_that_fills_up_at_any_step_is_reported_and_the_run_goes_on_to_the_same_bits(
    tmp_path, elsewhere
):
    assert elsewhere(every_full_disk, str(tmp_path)) > 2 * 4 * 2 + 5 * 4


def full_by_the_kernels_word(folder, limit):
    import resource  # POSIX only

    config, folder = tiny(epochs=3), Path(folder)
    reference = train(config, folder / "whole").path
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then the kernel answers EFBIG
    original = loop._Session._train_epoch

    def train_epoch(self, epoch, *rest):
        if epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        original(self, epoch, *rest)

    loop._Session._train_epoch = train_epoch
    message = ""
    try:
        train(config, folder / "full")
    except RunError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    loop._Session._train_epoch = original
    path = folder / "full" / config.name
    assert load_run(path).epochs == [0, 1]
    assert_readable(path)
    assert not list(path.rglob("*.tmp"))
    assert_same_run(train(config, folder / "full").path, reference)
    return message


@posix
@pytest.mark.parametrize("limit", [0, 1000, 6000])
def test_a_write_that_the_kernel_refuses_is_reported_and_the_run_goes_on_to_the_same_bits(
    tmp_path, elsewhere, limit
):
    message = elsewhere(full_by_the_kernels_word, str(tmp_path), limit)
    assert "File too large; epoch 1 is safe, and train() goes on from there" in message


# --- two processes


def train_slowly(config, runs_dir, log):
    """Stop before the second epoch until the other process says that it waits."""
    original = loop._Session._train_epoch

    def train_epoch(self, epoch, *rest):
        for _ in range(2000 if epoch == 2 else 0):  # at most 20 s: without a log the test fails
            if log.is_file() and "waiting" in log.read_text():
                break
            time.sleep(0.01)
        original(self, epoch, *rest)

    loop._Session._train_epoch = train_epoch
    train(config, runs_dir)


def train_with_log(config, runs_dir, log):
    logging.basicConfig(filename=log)
    loop._Session = None  # it has nothing to train
    train(config, runs_dir)


def two_at_once(folder):
    config, folder = tiny(), Path(folder)
    reference = train(config, folder / "whole").path
    log, path = folder / "log", folder / config.name
    first = start(train_slowly, config, folder, log)
    while not (path / "checkpoints/epoch-0001").exists():
        time.sleep(0.01)
    second = start(train_with_log, config, folder, log)
    assert (ended(first), ended(second)) == (0, 0)
    assert_same_run(path, reference)
    return log.read_text()


@posix
def test_a_second_process_waits_says_so_and_finds_the_run_complete(tmp_path, elsewhere):
    log = elsewhere(two_at_once, str(tmp_path))
    assert f"another process is training {tmp_path / tiny().name}; waiting for it to finish" in log


def many_at_once(folder):
    config, folder = tiny(), Path(folder)
    reference = train(config, folder / "whole").path
    children = [start(train, config, folder) for _ in range(4)]
    os.kill(children[0], signal.SIGKILL)  # whoever of them trains
    assert [ended(child) for child in children[1:]] == [0, 0, 0]
    ended(children[0])
    assert_same_run(folder / config.name, reference)


@posix
def test_processes_that_start_together_train_one_whole_run(tmp_path, elsewhere):
    elsewhere(many_at_once, str(tmp_path))


# --- CUDA


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_cuda_graph_trains_as_single_steps_do_and_resumes_bit_identically(tmp_path, monkeypatch):
    config = tiny(device="cuda", epochs=3, width=4)
    graph = train(config, tmp_path / "graph")
    again = partial(config, tmp_path / "resumed", epochs=1)
    train(config, tmp_path / "resumed")
    assert_same_run(again, graph.path)

    monkeypatch.setattr(loop, "capture_step", lambda objective, real, latents: objective.step)
    eager = train(config, tmp_path / "eager")
    for epoch in graph.epochs:
        for load in ("discriminator", "generator"):
            one, other = getattr(graph, load)(epoch), getattr(eager, load)(epoch)
            for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    columns = ["loss_discriminator", "loss_generator", "d_real", "d_fake"]
    pd.testing.assert_frame_equal(graph.history[columns], eager.history[columns], rtol=1e-3)

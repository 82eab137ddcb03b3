import errno
import hashlib
import os
import re
import struct
from pathlib import Path

import pytest
import torch
from helpers import refused

import gradcam_gan
from gradcam_gan.errors import RunError
from gradcam_gan.training import files

linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks /proc which file a descriptor is")


def record(monkeypatch, log):
    """Log every fsync and rename, in order, and still do it."""
    fsync, replace, rename = os.fsync, Path.replace, Path.rename

    def logged_fsync(descriptor):
        log.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def logged_replace(self, target):
        log.append(("rename", target.name))
        return replace(self, target)

    def logged_rename(self, target):
        log.append(("rename", target.name))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    monkeypatch.setattr(Path, "rename", logged_rename)


@linux
def test_a_file_is_on_disk_before_it_takes_its_name_and_its_name_before_the_call_returns(
    tmp_path, monkeypatch
):
    log = []
    record(monkeypatch, log)
    files.write_bytes(tmp_path / "table.csv", b"new")
    (synced, name), *rest = log
    assert synced == "fsync"
    assert name.startswith(".table.csv")
    assert rest == [("rename", "table.csv"), ("fsync", tmp_path.name)]
    assert (tmp_path / "table.csv").read_bytes() == b"new"


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files.write_bytes(tmp_path / "table.csv", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            files.write_bytes(tmp_path / "table.csv", b"new")
    assert (tmp_path / "table.csv").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["table.csv"]  # noqa: PTH208 - hidden files too, by their names


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(tmp_path):
    kept = ["history.csv", ".lock", "a.tmp"]
    for name in [*kept, ".history.csv.4711.tmp", ".manifest.json.12.tmp"]:
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize("content", [None, b'{"a": 1', b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_one_line_that_names_the_file(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refused(files.read_json, path, error=RunError)


def test_a_sealed_object_comes_back_and_a_changed_value_is_noticed(tmp_path):
    path, content = tmp_path / "x.json", {"b": 0.1, "a": [1, None, "ü"], "c": {"z": True, "y": float("inf")}}
    files.write_json(path, files.sealed(content))
    assert files.read_json(path) == content
    whole = path.read_text()
    for old, new in (("0.1", "0.2"), ("true", "1"), ('"z"', '"Z"'), ("null", "0")):
        path.write_text(whole.replace(old, new))
        assert f"{path} is damaged" in refused(files.read_json, path, error=RunError)
    path.write_text(" " + whole)  # the same values
    assert files.read_json(path) == content
    files.write_json(path, content)  # of before there were checksums
    assert files.read_json(path) == content


@linux
def test_a_folder_takes_its_name_when_all_of_it_is_on_disk(tmp_path, monkeypatch):
    log = []
    record(monkeypatch, log)
    target = tmp_path / "epoch-0001"
    with files.atomic_directory(target) as folder:
        files.write_tensors(folder / "d.safetensors", {"w": torch.ones(3)})
        assert not target.exists()
    assert log == [
        ("fsync", "d.safetensors"),
        ("fsync", ".epoch-0001.tmp"),
        ("rename", "epoch-0001"),
        ("fsync", tmp_path.name),
    ]
    assert [path.name for path in tmp_path.rglob("*")] == ["epoch-0001", "d.safetensors"]


def test_a_folder_that_fails_while_it_is_filled_leaves_nothing_new(tmp_path):
    target = tmp_path / "epoch-0001"
    for content in ("old", "new"):
        try:
            with files.atomic_directory(target) as folder:
                (folder / "x").write_text(content)
                if content == "new":
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
    assert (target / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0001"]


def test_a_folder_replaces_an_older_one_and_the_rest_of_a_killed_one(tmp_path):
    (tmp_path / "epoch-0001").mkdir()
    (tmp_path / "epoch-0001/old").touch()
    (tmp_path / ".epoch-0001.tmp").mkdir()
    (tmp_path / ".epoch-0001.tmp/half").touch()
    with files.atomic_directory(tmp_path / "epoch-0001") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["epoch-0001", "new"]


def test_tensors_come_back_bit_for_bit(tmp_path):
    tensors = {
        "float32": torch.randn(2, 3, 4, 4),
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "bfloat16": torch.randn(5).bfloat16(),
        "scalar": torch.tensor(3.0),
        "count": torch.tensor(7),
        "random state": torch.Generator().manual_seed(1).get_state(),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
        "view": torch.arange(10)[::2],
        "shared": torch.ones(4),
        "empty": torch.empty(0, 3),
    }
    tensors["shared too"] = tensors["shared"]
    tensors["parameter"] = torch.nn.Parameter(torch.ones(2))
    files.write_tensors(tmp_path / "t.safetensors", tensors)
    read = files.read_tensors(tmp_path / "t.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape), name
        torch.testing.assert_close(read[name], tensor.detach(), rtol=0, atol=0, equal_nan=True)
        assert not read[name].requires_grad


def test_damaged_tensors_are_one_line_that_names_the_file(tmp_path):
    path = tmp_path / "t.safetensors"
    files.write_tensors(path, {"w": torch.ones(100)})
    whole = path.read_bytes()
    for harm in (whole[:-1], whole[:50], b"", b"\x80\x02}q\x00.", struct.pack("<Q", 2**60) + whole[8:]):
        path.write_bytes(harm)
        assert f"{path} cannot be read: " in refused(files.read_tensors, path, error=RunError)


def test_a_changed_bit_within_a_tensor_is_noticed_by_the_checksum_alone(tmp_path):
    path = tmp_path / "t.safetensors"
    sha256 = files.write_tensors(path, {"w": torch.ones(100)})
    content = bytearray(path.read_bytes())
    assert sha256 == hashlib.sha256(content).hexdigest()
    files.read_tensors(path, sha256=sha256)
    content[-5] ^= 1
    path.write_bytes(content)
    assert not torch.equal(files.read_tensors(path)["w"], torch.ones(100))
    message = refused(lambda: files.read_tensors(path, sha256=sha256), error=RunError)
    assert f"{path} cannot be read: it is damaged" in message


def test_what_cannot_be_written_is_one_line_that_says_why(tmp_path):
    for number, words in ((errno.ENOSPC, "the disk is full"), (errno.EROFS, os.strerror(errno.EROFS))):

        def write(number=number):
            with files.reporting(tmp_path):
                raise OSError(number, os.strerror(number))

        assert f"could not write to {tmp_path}: {words}" in refused(write, error=RunError)


def test_the_package_never_unpickles():
    sources = list(Path(gradcam_gan.__file__).parent.rglob("*.py"))
    assert len(sources) > 10
    unpickling = r"torch\.load|\bpickle\b|joblib|dill\b|allow_pickle=True|read_pickle|yaml\.(unsafe_)?load\("
    for source in sources:
        for number, line in enumerate(source.read_text().splitlines(), 1):
            found = re.search(unpickling, line)
            harmless = "weights_only=True" in line
            assert not found or harmless, f"{source.name}:{number}: {line.strip()}"

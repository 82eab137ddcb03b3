import functools
import gzip
import hashlib
import http.server
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused
from PIL import Image

from gradcam_gan import data, torchvision_compat  # noqa: F401 - before torchvision
from gradcam_gan.data import ImageSet, data_hash, load_images

PACKAGED = Path(data.__file__).parents[1] / "data" / "mnist-5k.npz"


# --- the packaged digits


@pytest.fixture(scope="module")
def splits():
    return load_images(size=28, split="train"), load_images(size=28, split="test")


def test_packaged_digits_are_balanced_and_their_split_is_the_one_that_the_readme_gives(splits):
    digests = []
    for digits, per_class in zip(splits, (400, 100), strict=True):
        assert digits.images.shape == (10 * per_class, 1, 28, 28)
        assert (digits.images.dtype, digits.labels.dtype) == (torch.uint8, torch.int64)
        assert digits.labels.bincount().tolist() == [per_class] * 10
        assert digits.class_names == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
        digests.append([hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in digits.images])
    train, test = (
        [{digest for digest, other in zip(names, digits.labels.tolist(), strict=True) if other == label}
         for label in range(10)]
        for names, digits in zip(digests, splits, strict=True)
    )  # fmt: skip
    for kept, held_out in zip(train, test, strict=True):
        assert len(kept | held_out) == 500
        assert set(sorted(kept | held_out)[-100:]) == held_out
    # the published mean and standard deviation of MNIST's training pixels
    images = torch.cat([digits.images for digits in splits]) / 255
    assert (images.mean().item(), images.std().item()) == pytest.approx((0.1307, 0.3081), abs=0.002)


def test_damaged_or_missing_packaged_file_is_named(tmp_path, monkeypatch):
    content = bytearray(PACKAGED.read_bytes())
    assert f"`{hashlib.sha256(content).hexdigest()}`" in (PACKAGED.parent / "README.md").read_text()
    content[1000] ^= 1
    copy = tmp_path / "mnist-5k.npz"
    copy.write_bytes(content)
    message = refused(load_images, data_dir=tmp_path)
    for part in (str(copy), data.MNIST_5K_SHA256, hashlib.sha256(content).hexdigest(), "git checkout"):
        assert part in message
    copy.unlink()
    assert len(load_images(size=28, data_dir=tmp_path).images) == 4000  # falls back on the repository's
    monkeypatch.setattr(data, "REPOSITORY_DATA", tmp_path / "none")
    assert len(load_images(size=28).images) == 4000  # the installed package has its own
    monkeypatch.setattr(data, "PACKAGED", tmp_path / "none" / PACKAGED.name)
    message = refused(load_images, data_dir=tmp_path)
    assert str(tmp_path / "none") in message
    assert "git checkout" in message


def test_resized_pixels_are_bilinear(splits, monkeypatch):
    small, large = splits[1].images, load_images(size=56, split="test").images
    assert (large.shape, large.dtype) == ((1000, 1, 56, 56), torch.uint8)
    # at twice the size a pixel inside the image is 9/16, 3/16, 3/16 and 1/16 of its four neighbours
    grey = small[:, 0].double()
    here, down, right, both = grey[:, :-1, :-1], grey[:, 1:, :-1], grey[:, :-1, 1:], grey[:, 1:, 1:]
    expected = (9 * here + 3 * down + 3 * right + both) / 16
    assert torch.equal(large[:, 0, 1:-1:2, 1:-1:2].double(), expected.round())
    monkeypatch.setattr(data, "_CHUNK", 7)
    assert torch.equal(data.resize(small[:25], 56, 56), large[:25])


def test_the_pixels_of_the_published_runs(splits):
    """A hash that every stored run carries: 4,000 digits at 64x64."""
    assert data_hash(load_images()) == "ebf03038a15d39c9210a1a481b78d5c93fdffc75473743f5ffaa627b58cfc971"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"name": "mnist5k"}, "did you mean 'mnist-5k'?"),
        ({"name": "celeba"}, "choose one of mnist-5k, mnist, fashion-mnist, folder:PATH"),
        ({"name": 5}, "unknown"),
        ({"name": "folder:"}, "needs a path"),
        *(({"size": size}, "8 to 1024") for size in (7, 1025, 64.0, True, "64")),
        ({"split": "validation"}, "one of train, test"),
    ],
)
def test_bad_arguments(arguments, part):
    assert part in refused(load_images, **arguments)


# --- MNIST and Fashion-MNIST


def idx(array):
    """The bytes of an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def tiny_files():
    """The four files of a tiny MNIST: 12 training and 6 test images."""
    generator = np.random.default_rng(0)
    files = {}
    for prefix, count in (("train", 12), ("t10k", 6)):
        files[f"{prefix}-images-idx3-ubyte"] = idx(
            generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        )
        files[f"{prefix}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return files


def write_raw(folder, class_name="MNIST"):
    raw = folder / class_name / "raw"
    raw.mkdir(parents=True)
    for name, content in tiny_files().items():
        (raw / name).write_bytes(content)
    return raw


@pytest.fixture(autouse=True)
def repository(tmp_path_factory, monkeypatch):
    """As if the repository's data/ held the packaged digits alone: a developer's MNIST must not change a test."""
    folder = tmp_path_factory.mktemp("repository-data")
    (folder / PACKAGED.name).symlink_to(PACKAGED)
    monkeypatch.setattr(data, "REPOSITORY_DATA", folder)
    return folder


@pytest.mark.parametrize(
    ("name", "class_name", "ninth"),
    [("mnist", "MNIST", "9"), ("fashion-mnist", "FashionMNIST", "Ankle boot")],
)
@pytest.mark.parametrize("where", ["data_dir", "repository"])
def test_a_local_copy_is_read(tmp_path, repository, name, class_name, ninth, where):
    raw = write_raw(tmp_path if where == "data_dir" else repository, class_name)
    for folder in (raw, raw.parent, raw.parents[1]):
        folder.chmod(0o555)  # read-only, as a shared copy is
    train = load_images(name, size=28, data_dir=tmp_path)
    test = load_images(name, size=32, split="test", data_dir=str(tmp_path))
    assert (train.images.shape, test.images.shape) == ((12, 1, 28, 28), (6, 1, 32, 32))
    assert train.images.numpy().tobytes() == (raw / "train-images-idx3-ubyte").read_bytes()[16:]
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert (train.labels.dtype, train.class_names[9]) == (torch.int64, ninth)
    assert {path.name for path in raw.iterdir()} == set(tiny_files())  # nothing was written
    assert {path.name for path in raw.parents[1].iterdir()} <= {class_name, PACKAGED.name}


@pytest.mark.parametrize(
    "damage",
    [
        {"train-images-idx3-ubyte": tiny_files()["train-images-idx3-ubyte"][:-100]},
        {"train-images-idx3-ubyte": b""},
        {"train-images-idx3-ubyte": b"<html>not found, sorry</html>"},
        {"train-labels-idx1-ubyte": idx(np.zeros(11, dtype=np.uint8))},
        {"train-labels-idx1-ubyte": idx(np.full(12, 10, dtype=np.uint8))},
    ],
    ids=["cut", "empty", "another format", "fewer labels than images", "a label too large"],
)
def test_damaged_files_are_named(tmp_path, damage):
    raw = write_raw(tmp_path)
    for name, content in damage.items():
        (raw / name).write_bytes(content)
    message = refused(load_images, "mnist", data_dir=tmp_path)
    assert f"{raw / 'train-*-ubyte'} cannot be read" in message
    assert len(load_images("mnist", split="test", data_dir=tmp_path).images) == 6


@pytest.mark.parametrize("answers", [False, True], ids=["refused", "swallowed"])
def test_without_a_network_it_says_so_in_seconds(tmp_path, repository, monkeypatch, answers):
    import torchvision.datasets

    monkeypatch.setattr(data, "_SILENCE", 0.3)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if answers:
            silent.listen()  # accepts connections, never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address] * 2)
        begin = time.monotonic()
        message = refused(load_images, "mnist", data_dir=tmp_path)
    assert time.monotonic() - begin < 3
    assert socket.getdefaulttimeout() is None
    for part in (tmp_path / "MNIST" / "raw", repository / "MNIST" / "raw", "data_dir", "mnist-5k needs no"):
        assert str(part) in message


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A tiny MNIST on a server on this machine: the folder that it serves, and the paths that were asked for."""
    import torchvision.datasets

    folder, asked = tmp_path / "mirror", []
    folder.mkdir()
    for name, content in tiny_files().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        sums = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in folder.iterdir()]
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
        monkeypatch.setattr(
            torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"]
        )
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield folder, asked
        server.shutdown()
        thread.join()


def test_two_loaders_at_once_download_once(tmp_path, mirror):
    folder = tmp_path / "new"
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda split: load_images("mnist", 28, split, folder), ("train", "test")))
    assert [len(loaded.images) for loaded in both] == [12, 6]
    # torchvision asks twice: for redirects, then for the file
    assert Counter(mirror[1]) == dict.fromkeys((f"/{name}.gz" for name in tiny_files()), 2)


def test_a_download_with_a_wrong_checksum_is_refused(tmp_path, mirror):
    (mirror[0] / "train-images-idx3-ubyte.gz").write_bytes(b"a portal's login page")
    message = refused(load_images, "mnist", data_dir=tmp_path)
    assert "downloading it failed" in message
    assert "train-images-idx3-ubyte.gz" in message
    assert not list(tmp_path.rglob("train-images-idx3-ubyte"))


# --- folders


def save(path, mode="L", size=(20, 16), value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_folder_with_classes(tmp_path):
    for count, name in ((10, "cats"), (5, "dogs")):
        for number in range(count):
            save(tmp_path / name / f"{number:02}.png", value=10 * number)
    save(tmp_path / "dogs" / "deeper" / "last.JPG", value=200)
    (tmp_path / "dogs" / "notes.txt").write_text("ignored")
    (tmp_path / "dogs" / "._00.png").write_text("ignored: written by macOS beside the image")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    train = load_images(f"folder:{tmp_path}", size=8)
    test = load_images(f"folder:{tmp_path}", size=8, split="test")
    assert train.class_names == test.class_names == ["cats", "dogs"]
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([8, 5], [2, 1])
    # the split is drawn with a fixed seed
    assert test.images[:, 0, 0, 0].tolist() == [10, 40, 20]
    assert train.images[:, 0, 0, 0].tolist() == [0, 20, 30, 50, 60, 70, 80, 90, 0, 10, 30, 40, 200]


@pytest.mark.parametrize("other", ["RGB", "L"])
def test_flat_folder_is_one_class_and_one_colour_image_makes_all_rgb(tmp_path, monkeypatch, other):
    for number in range(9):
        save(tmp_path / "faces" / f"{number}.png", value=77)
    save(tmp_path / "faces" / "other.png", other, value=(1, 2, 3) if other == "RGB" else 7)
    (tmp_path / "faces" / "empty subfolder").mkdir()
    save(tmp_path / "faces" / ".ipynb_checkpoints" / "0-checkpoint.png")
    monkeypatch.chdir(tmp_path / "faces")
    faces = {split: load_images("folder:.", size=16, split=split) for split in ("train", "test")}
    channels = 3 if other == "RGB" else 1
    assert faces["train"].class_names == ["faces"]
    assert faces["train"].images.shape == (8, channels, 16, 16)
    assert faces["test"].images.shape == (2, channels, 16, 16)
    pixels = torch.cat([part.images[:, :, 0, 0] for part in faces.values()]).tolist()
    assert sorted(pixels) == sorted([[1, 2, 3] if other == "RGB" else [7], *[[77] * channels] * 9])


def test_middle_square_of_the_upright_image_is_kept(tmp_path):
    # 40x20, left half black, right half white: the middle square is columns 10 to 29
    pixels = np.zeros((20, 40), dtype=np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    rotated = Image.Exif()
    rotated[0x0112] = 3  # the camera was upside down
    Image.fromarray(pixels).save(tmp_path / "camera.png", exif=rotated)
    camera, wide = load_images(f"folder:{tmp_path}", size=20).images[:, 0]
    assert torch.equal(wide, torch.from_numpy(pixels[:, 10:30]))
    assert torch.equal(camera, torch.from_numpy(255 - pixels[:, 10:30]))
    small = load_images(f"folder:{tmp_path}", size=10).images[1, 0]
    assert (small[:, :4].max(), small[:, 6:].min()) == (0, 255)


def test_more_than_8_bits_are_scaled_or_refused_not_clipped(tmp_path):
    Image.fromarray(np.full((9, 9), 32896, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert load_images(f"folder:{tmp_path}", size=8).images.unique().tolist() == [128]
    Image.fromarray(np.zeros((9, 9), dtype=np.float32)).save(tmp_path / "deep.tif")
    message = refused(load_images, f"folder:{tmp_path}")
    assert "deep.tif" in message
    assert "floating-point" in message


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("length", [0, 8, None])
def test_unreadable_images_are_named(tmp_path, suffix, length):
    path = tmp_path / f"only.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 if length is None else length])
    assert f"{path} cannot be read" in refused(load_images, f"folder:{tmp_path}")


def test_folders_that_cannot_be_used(tmp_path):
    def message(name, split="train"):
        return refused(load_images, f"folder:{tmp_path / name}", split=split)

    assert f"{tmp_path / 'nowhere'} is no folder" in message("nowhere")
    save(tmp_path / "file.png")
    assert f"{tmp_path / 'file.png'} is no folder" in message("file.png")
    (tmp_path / "empty").mkdir()
    for part in (str(tmp_path / "empty"), "no valid file", ".png"):
        assert part in message("empty")
    save(tmp_path / "mixed" / "a" / "1.png")
    (tmp_path / "mixed" / "b").mkdir()
    assert "no valid file for the classes b." in message("mixed")
    save(tmp_path / "mixed" / "stray.png")
    assert "beside subfolders with images, such as stray.png" in message("mixed")
    assert "at least 3" in message("mixed/a", "test")


def test_data_hash_sees_pixels_labels_and_shapes():
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    one = ImageSet(images, torch.tensor([0]), ["a"])
    assert re.fullmatch("[0-9a-f]{64}", data_hash(one))
    assert data_hash(one) == data_hash(one._replace(images=images.clone(memory_format=torch.channels_last)))
    others = [
        one._replace(images=images + 1),
        one._replace(labels=torch.tensor([1])),
        one._replace(images=images.reshape(1, 1, 4, 16)),
    ]
    assert len({data_hash(each) for each in (one, *others)}) == 4

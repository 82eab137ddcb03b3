import gzip
import hashlib
import http.server
import re
import shutil
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradcam_gan import data
from gradcam_gan.data import ImageSet, data_hash, load_images
from gradcam_gan.errors import InputError

PACKAGED = Path(data.__file__).parents[1] / "data" / "mnist-5k.npz"


def error_line(*arguments, **keywords):
    """The message of the InputError that ``load_images`` raises; it must be one line."""
    with pytest.raises(InputError) as caught:
        load_images(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__cause__ is None  # no second traceback above it
    return message


# --- the packaged digits


def digests(images):
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]


@pytest.fixture(scope="module")
def splits():
    return load_images(size=28, split="train"), load_images(size=28, split="test")


def test_packaged_digits_have_the_promised_shapes_and_balance(splits):
    for digits, per_class in zip(splits, (400, 100), strict=True):
        assert digits.images.shape == (10 * per_class, 1, 28, 28)
        assert (digits.images.dtype, digits.labels.dtype) == (torch.uint8, torch.int64)
        assert digits.labels.bincount().tolist() == [per_class] * 10
        assert digits.class_names == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]


def test_split_is_disjoint_and_fixed(splits):
    train, test = (digests(digits.images) for digits in splits)
    assert len({*train, *test}) == 5000
    # the rule that README gives, recomputed from the pixels: held out are the last 100 digests of each class
    for label in range(10):
        one_class = [
            digest
            for digits, names in zip(splits, (train, test), strict=True)
            for digest, other in zip(names, digits.labels.tolist(), strict=True)
            if other == label
        ]
        held_out = {
            name for name, other in zip(test, splits[1].labels.tolist(), strict=True) if other == label
        }
        assert set(sorted(one_class)[-100:]) == held_out


def test_digits_are_real_mnist(splits):
    images = torch.cat([digits.images for digits in splits])
    labels = torch.cat([digits.labels for digits in splits])
    # the published mean and standard deviation of MNIST's training pixels
    assert (images / 255).mean().item() == pytest.approx(0.1307, abs=0.002)
    assert (images / 255).std().item() == pytest.approx(0.3081, abs=0.002)
    # mean grey value of each class, measured on all 60,000 training images
    mnist = torch.tensor([44.2, 19.4, 38.0, 36.1, 30.9, 32.8, 35.0, 29.2, 38.3, 31.3])
    means = torch.stack([images[labels == label].float().mean() for label in range(10)])
    torch.testing.assert_close(means, mnist, atol=1.2, rtol=0)
    # MNIST centres a digit's mass in the 28x28 field
    mass = images[:, 0].double()
    rows = (mass.sum(2) * torch.arange(28)).sum(1) / mass.sum((1, 2))
    assert (rows - 14).abs().max() < 1
    # the first image of MNIST's training set, the well-known 5
    first = digests(images).index("23ceaef5eb61f0e70d64ac18fdf0f60df3d5971cf30bbadac7b6ebf07f782d2c")
    assert labels[first] == 5


def test_readme_constant_and_file_agree():
    content = PACKAGED.read_bytes()
    row = next(
        line
        for line in (PACKAGED.parent / "README.md").read_text().splitlines()
        if "| `mnist-5k.npz`" in line
    )
    assert re.findall(r"[0-9a-f]{64}", row) == [data.MNIST_5K_SHA256] == [hashlib.sha256(content).hexdigest()]
    assert f"{len(content):,} bytes" in row
    assert len(content) == data.MNIST_5K_BYTES


def test_damaged_or_missing_packaged_file_is_named(tmp_path, monkeypatch):
    content = bytearray(PACKAGED.read_bytes())
    copy = tmp_path / "mnist-5k.npz"
    content[1000] ^= 1
    copy.write_bytes(content)
    message = error_line(data_dir=tmp_path)
    assert str(copy) in message
    assert data.MNIST_5K_SHA256 in message
    assert hashlib.sha256(content).hexdigest() in message
    assert "git checkout" in message
    copy.write_bytes(content[:1234])
    assert "1,234 bytes" in error_line(data_dir=tmp_path)
    copy.unlink()
    assert len(load_images(size=28, data_dir=tmp_path).images) == 4000  # falls back on the repository's
    monkeypatch.setattr(data, "REPOSITORY_DATA", tmp_path / "none")
    message = error_line(data_dir=tmp_path)
    assert str(tmp_path / "none") in message
    assert "git checkout" in message


# --- sizes


def test_resized_pixels_are_bilinear_and_in_range(splits):
    large = load_images(size=56, split="test").images
    small = splits[1].images
    assert large.shape == (1000, 1, 56, 56)
    assert large.dtype == torch.uint8
    # at twice the size a pixel inside the image is 9/16, 3/16, 3/16 and 1/16 of its four neighbours
    grey = small[:, 0].double()
    here, down, right, both = grey[:, :-1, :-1], grey[:, 1:, :-1], grey[:, :-1, 1:], grey[:, 1:, 1:]
    expected = (9 * here + 3 * down + 3 * right + both) / 16
    assert torch.equal(large[:, 0, 1:-1:2, 1:-1:2].double(), expected.round())
    assert large.float().mean().item() == pytest.approx(small.float().mean().item(), abs=0.1)


def test_resizing_in_chunks_changes_nothing(monkeypatch):
    images = torch.randint(0, 256, (25, 1, 28, 28), dtype=torch.uint8)
    whole = data._resize(images, 64)
    monkeypatch.setattr(data, "_CHUNK", 7)
    assert torch.equal(whole, data._resize(images, 64))
    assert torch.equal(
        data._resize(torch.full((1, 3, 28, 28), 255, dtype=torch.uint8), 64).unique(), torch.tensor([255])
    )


# --- bad arguments


@pytest.mark.parametrize(
    ("name", "guess"), [("mnist5k", "mnist-5k"), ("MNIST", "mnist"), ("fashionmnist", "fashion-mnist")]
)
def test_unknown_name_lists_the_known_ones_and_the_nearest(name, guess):
    message = error_line(name)
    assert f"did you mean '{guess}'?" in message
    for known in ("mnist-5k", "mnist", "fashion-mnist", "folder:PATH"):
        assert known in message


def test_other_bad_arguments(tmp_path):
    assert "did you mean" not in error_line("celeba-hq-1024")
    assert f"folder:{tmp_path}" in error_line(str(tmp_path))  # a path without the prefix
    assert "is unknown" in error_line(5)
    assert "needs a path" in error_line("folder:")
    for size in (7, 0, -1, 1025, 64.0, True, "64", None):
        assert "8 to 1024" in error_line(size=size)
    assert "choose train or test" in error_line(split="validation")


# --- MNIST and Fashion-MNIST


def idx(array):
    """The bytes of an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def tiny_files(seed=0):
    """The four files of a tiny MNIST: 12 training and 6 test images."""
    generator = np.random.default_rng(seed)
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


@pytest.fixture
def no_repository(tmp_path, monkeypatch):
    """As if the repository's data/ held nothing: a developer's full MNIST must not change a test."""
    monkeypatch.setattr(data, "REPOSITORY_DATA", tmp_path / "repository-data")
    return tmp_path / "repository-data"


@pytest.mark.parametrize(("name", "class_name"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_local_copy_is_read_from_data_dir(tmp_path, no_repository, name, class_name):
    raw = write_raw(tmp_path / "mine", class_name)
    train = load_images(name, size=28, data_dir=tmp_path / "mine")
    test = load_images(name, size=32, split="test", data_dir=str(tmp_path / "mine"))
    assert train.images.shape == (12, 1, 28, 28)
    assert test.images.shape == (6, 1, 32, 32)
    assert train.images.numpy().tobytes() == (raw / "train-images-idx3-ubyte").read_bytes()[16:]
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert train.class_names[9] == {"mnist": "9", "fashion-mnist": "Ankle boot"}[name]
    shutil.move(tmp_path / "mine", no_repository)
    assert data_hash(load_images(name, size=28)) == data_hash(train)  # the same from the repository's folder


def test_damaged_idx_files_are_named(tmp_path, no_repository):
    raw = write_raw(tmp_path)
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-100])
    message = error_line("mnist", data_dir=tmp_path)
    assert str(images) in message
    assert f"{len(whole) - 100:,} bytes where its header promises {len(whole):,}" in message
    for content in (b"", whole[:9], b"<html>not found, sorry</html>"):
        images.write_bytes(content)
        message = error_line("mnist", data_dir=tmp_path)
        assert f"{images} is not an IDX file" in message
        assert "delete the file" in message
    images.write_bytes(whole)
    labels.write_bytes(idx(np.zeros(11, dtype=np.uint8)))
    assert "12 images and train-labels-idx1-ubyte 11 labels" in error_line("mnist", data_dir=tmp_path)
    labels.write_bytes(idx(np.full(12, 10, dtype=np.uint8)))
    assert "the label 10" in error_line("mnist", data_dir=tmp_path)


@pytest.fixture
def no_network(monkeypatch):
    """All requests go to a proxy that refuses connections."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for scheme in ("http", "https"):
        for variable in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"):
            monkeypatch.setenv(variable, proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_without_a_network_it_says_so_at_once(tmp_path, no_repository, no_network, name):
    data._torchvision_class(name)  # its import is not what is timed
    begin = time.monotonic()
    message = error_line(name, data_dir=tmp_path)
    assert time.monotonic() - begin < 5
    class_name = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name]
    assert str(tmp_path / class_name / "raw") in message
    assert str(no_repository / class_name / "raw") in message
    assert f"torchvision.datasets.{class_name}" in message
    assert "http" in message
    assert "data_dir" in message
    assert list(tmp_path.iterdir()) == []  # nothing was created


def test_a_network_that_swallows_requests_is_no_network(tmp_path, no_repository, monkeypatch):
    dataset = data._torchvision_class("mnist")
    with socket.socket() as silent:  # accepts connections, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(dataset, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"] * 2)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        begin = time.monotonic()
        assert "cannot be downloaded" in error_line("mnist", data_dir=tmp_path)
        assert time.monotonic() - begin < 5


def test_a_name_look_up_that_hangs_is_no_network(tmp_path, no_repository, monkeypatch):
    data._torchvision_class("mnist")  # its import is not what is timed
    monkeypatch.setattr(data, "_REACH_SECONDS", 0.2)
    # a socket's time-out does not end the look-up of a host's name
    monkeypatch.setattr(data.urllib.request, "urlopen", lambda *_, **__: time.sleep(3))
    begin = time.monotonic()
    assert "does not answer within 0.2 s" in error_line("mnist", data_dir=tmp_path)
    assert time.monotonic() - begin < 2


@pytest.fixture
def archives(monkeypatch):
    """A tiny MNIST as .gz files, whose MD5s torchvision's class is made to expect."""
    files = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in tiny_files().items()}
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    monkeypatch.setattr(data._torchvision_class("mnist"), "resources", resources)
    return files


def test_local_archives_are_unpacked_without_a_network(tmp_path, no_repository, no_network, archives):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in archives.items():
        (raw / name).write_bytes(content)
    assert load_images("mnist", size=28, split="test", data_dir=tmp_path).images.shape == (6, 1, 28, 28)


def test_damaged_archive_is_named_with_both_checksums(tmp_path, no_repository, no_network, archives):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in archives.items():
        (raw / name).write_bytes(content)
    damaged = raw / "t10k-images-idx3-ubyte.gz"
    damaged.write_bytes(archives[damaged.name][:-50])
    message = error_line("mnist", data_dir=tmp_path)
    assert str(damaged) in message
    assert hashlib.md5(archives[damaged.name]).hexdigest() in message
    assert hashlib.md5(damaged.read_bytes()).hexdigest() in message


@pytest.fixture
def server(archives, monkeypatch):
    """A mirror on this machine; the list of the paths that were fetched from it."""
    fetched = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            fetched.append(self.path)
            time.sleep(0.02)  # long enough for a second process to come in between
            self.wfile.write(self.answer())

        def answer(self):
            content = archives.get(self.path.lstrip("/"), b"")
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return content

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        mirror = f"http://127.0.0.1:{running.server_address[1]}/"
        monkeypatch.setattr(data._torchvision_class("mnist"), "mirrors", [mirror])
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield fetched
        running.shutdown()
        thread.join()


def test_two_loaders_at_once_download_once(tmp_path, no_repository, server, archives):
    loaded = []

    def load():
        loaded.append(load_images("mnist", size=28, data_dir=tmp_path))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({data_hash(one) for one in loaded}) == 1
    assert len(loaded) == 2
    assert all(server.count(f"/{name}") == server.count(server[0]) for name in archives)
    fetched = len(server)
    load_images("mnist", size=28, split="test", data_dir=tmp_path)
    assert (
        len(server) == fetched <= 2 * len(archives)
    )  # torchvision asks twice: for redirects, then for the file
    assert [path.name for path in tmp_path.glob(".download-*")] == []
    assert socket.getdefaulttimeout() is None


def test_a_download_with_a_wrong_checksum_is_refused(tmp_path, no_repository, server, archives):
    archives["train-images-idx3-ubyte.gz"] = b"a portal's login page"
    message = error_line("mnist", data_dir=tmp_path)
    assert "downloading mnist" in message
    assert "train-images-idx3-ubyte.gz" in message
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []


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
    assert train.images.shape == (13, 1, 8, 8)
    together = torch.cat([train.images[:8], test.images[:2]])[:, 0, 0, 0].sort().values
    assert together.tolist() == list(range(0, 100, 10))  # every cat once, in one of the splits
    again = load_images(f"folder:{tmp_path}", size=8)
    assert data_hash(train) == data_hash(again)


def test_flat_folder_is_one_class(tmp_path, monkeypatch):
    for number in range(5):
        save(tmp_path / "faces" / f"{number}.png", "RGB", value=(200, 100, 50))
    (tmp_path / "faces" / "empty subfolder").mkdir()
    monkeypatch.chdir(tmp_path / "faces")
    faces = load_images("folder:.", size=16)
    assert faces.class_names == ["faces"]
    assert faces.images.shape == (4, 3, 16, 16)
    assert faces.images[0, :, 0, 0].tolist() == [200, 100, 50]


def test_one_colour_image_makes_all_rgb_in_both_splits(tmp_path):
    for number in range(9):
        save(tmp_path / f"{number}.png", value=77)
    save(tmp_path / "colour.png", "RGB", value=(1, 2, 3))
    for split in ("train", "test"):
        assert load_images(f"folder:{tmp_path}", size=8, split=split).images.shape[1] == 3


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


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((9, 9), 32896, dtype=np.uint16)).save(tmp_path / "deep.png")
    images = load_images(f"folder:{tmp_path}", size=8).images
    assert images.shape == (1, 1, 8, 8)
    assert images.unique().tolist() == [128]


def test_unreadable_images_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "only.png"
    for suffix in ("png", "jpg"):
        Image.fromarray(noise).save(tmp_path / f"whole.{suffix}")
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"whole.{suffix}").unlink()
        for content in (b"", b"no image", whole[: len(whole) // 2]):
            path.write_bytes(content)
            assert f"{path} cannot be read" in error_line(f"folder:{tmp_path}")
    path.unlink()
    Image.fromarray(np.zeros((9, 9), dtype=np.float32)).save(tmp_path / "float.tif")
    assert "floating-point" in error_line(f"folder:{tmp_path}")


def test_folders_that_cannot_be_used(tmp_path):
    assert "does not exist" in error_line(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    message = error_line(f"folder:{tmp_path / 'empty'}")
    assert f"{tmp_path / 'empty'} holds no images" in message
    assert ".png" in message
    save(tmp_path / "file.png")
    assert "is a file" in error_line(f"folder:{tmp_path / 'file.png'}")
    save(tmp_path / "mixed" / "a" / "1.png")
    (tmp_path / "mixed" / "b").mkdir()
    assert f"{tmp_path / 'mixed' / 'b'} holds no images" in error_line(f"folder:{tmp_path / 'mixed'}")
    save(tmp_path / "mixed" / "stray.png")
    assert "stray.png" in error_line(f"folder:{tmp_path / 'mixed'}")
    assert "at least 3" in error_line(f"folder:{tmp_path / 'mixed' / 'a'}", split="test")


# --- the hash


def test_data_hash_sees_pixels_labels_and_shapes():
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    one = ImageSet(images, torch.tensor([0]), ["a"])
    assert re.fullmatch("[0-9a-f]{64}", data_hash(one))
    assert data_hash(one) == data_hash(one._replace(images=images.clone(memory_format=torch.channels_last)))
    changed = images.clone()
    changed[0, 0, 3, 3] += 1
    others = [
        one._replace(images=changed),
        one._replace(labels=torch.tensor([1])),
        one._replace(images=images.reshape(1, 1, 4, 16)),
    ]
    assert len({data_hash(each) for each in (one, *others)}) == 4
    assert data_hash(ImageSet(images[:0], torch.tensor([], dtype=torch.int64), [])) != data_hash(one)

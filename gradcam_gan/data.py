"""Images as one uint8 tensor: the packaged MNIST digits, full MNIST, Fashion-MNIST, or a folder of your own.

Pixel values are 0 (black; the background of MNIST) to 255; ``to_model_range`` maps them to [-1, 1].
Digits are enlarged bilinearly. At sizes such as 32, 56, 64 and 128 the weights are exact binary fractions, so
the rounded pixels do not depend on the machine.
"""

import contextlib
import difflib
import hashlib
import http.client
import io
import queue
import shutil
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gradcam_gan.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

REPOSITORY_DATA = Path(__file__).resolve().parents[1] / "data"
MNIST_5K_SHA256 = "6f5c61797f523a627556d551b6c33fb27b6f43e47025649abd5c79b6ea99dd10"
MNIST_5K_BYTES = 834_315

_DIGITS = [str(digit) for digit in range(10)]
_DOWNLOADED = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
}  # our name -> torchvision's class and folder
_NAMES = ["mnist-5k", *_DOWNLOADED, "folder:PATH"]
_FILE_PREFIX = {"train": "train", "test": "t10k"}
_SMALLEST, _LARGEST = 8, 1024  # pixels a side
_CHUNK = 1000  # images resized at a time: 16 MB of floats at 64x64
_REACH_SECONDS = 3.0  # how long to look for the network before saying that there is none
_STALL_SECONDS = 30.0  # how long a running download may stand still
_IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_GREY_MODES = {"1", "L", "LA", "La", "F", "I", "I;16", "I;16B", "I;16L", "I;16N"}  # Pillow's names
FARTHEST_NOISE = 10.0  # standard deviations
RANGE_TOLERANCE = 1e-3  # interpolating images in [-1, 1] may leave the range by rounding
_HELD_OUT_SHARE = 0.2
_SPLIT_SEED = 0


class ImageSet(NamedTuple):
    """Images and their classes.

    Attributes:
        images: uint8, shape (N, C, H, W) with H = W; C is 1 for grey and 3 for RGB; 0 is black.
        labels: int64, shape (N,), an index into ``class_names``.
        class_names: the name of each class.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]


def load_images(
    name: str = "mnist-5k", size: int = 64, split: str = "train", data_dir: str | Path | None = None
) -> ImageSet:
    """Loads a set of images at ``size`` by ``size`` pixels.

    - ``mnist-5k``: 5,000 real MNIST digits that come with the package, the first 500 of each class in MNIST's
      training set; 4,000 to train and 1,000 held out, fixed for ever, as many of every class.
    - ``mnist``, ``fashion-mnist``: 60,000 training and 10,000 test images in torchvision's folder layout,
      found in ``data_dir`` or the repository's ``data/``, else downloaded (11 MB, 30 MB) into the first of
      these.
    - ``folder:PATH``: your own images, grey or RGB, of any size. Subfolders of PATH are the classes; without
      subfolders PATH is one class. The shorter side is resized to ``size`` and the middle square is kept. All
      images become grey (C = 1) if every file is stored as grey, else RGB (C = 3); transparency is dropped,
      16-bit grey is scaled to 8 bits. A folder has no split of its own: a fifth of each class, drawn with a
      fixed seed from the files in sorted order, is held out as ``test``.

    Args:
        name: one of the names above.
        size: pixels a side, 8 to 1024. At 28 the digits' pixels are untouched; any other size is bilinear.
        split: ``train`` or ``test`` (held out).
        data_dir: where to look first, and where to download to; not used by ``folder:``.

    Raises:
        InputError: an unknown name, size or split; a file or folder that is missing, damaged or unreadable; a
            download that is needed and impossible (said within about 3 seconds).
    """
    _check_options(name, size, split)
    folders = [Path(data_dir).expanduser(), REPOSITORY_DATA] if data_dir is not None else [REPOSITORY_DATA]
    if name.startswith("folder:"):
        return _load_folder(Path(name.removeprefix("folder:")).expanduser(), size, split)
    digits = _load_mnist_5k(folders, split) if name == "mnist-5k" else _load_idx(name, folders, split)
    return digits._replace(images=_resize(digits.images, size))


def data_hash(image_set: ImageSet) -> str:
    """SHA-256 (64 hexadecimal digits) of images, labels and their shapes; class names do not count."""
    digest = hashlib.sha256()
    for tensor in (image_set.images, image_set.labels):
        array = np.ascontiguousarray(tensor.cpu().numpy())
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{little_endian.dtype.str}{array.shape}".encode())
        digest.update(little_endian.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def to_model_range(images: Tensor) -> Tensor:
    """uint8 images (N, C, H, W) in 0..255 -> float32 in [-1, 1], the range of G's output."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def check_images(images: Tensor, name: str = "images", *, noise: float = 0.0) -> None:
    """Refuse what is no batch of images, before any work.

    Args:
        images: to be (N, C, H, W) with N > 0, uint8, or floating point in [-1, 1].
        name: what the caller calls them.
        noise: standard deviation of the Gaussian noise that was added to them: they may step over [-1, 1] by ten of
            it, farther than any draw goes.

    Raises:
        InputError: another type, dtype, shape or value range, or NaN.
    """
    if not isinstance(images, Tensor):
        raise InputError(
            f"{name} is a {type(images).__name__}; give a tensor (N, C, H, W), as from torch.from_numpy"
        )
    if images.ndim != 4 or images.numel() == 0:
        raise InputError(
            f"{name} has shape {tuple(images.shape)}; give at least one image, as (N, C, H, W): "
            "a single image needs images[None]"
        )
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise InputError(
            f"{name} has dtype {images.dtype}; give uint8 in 0..255 or floating point in [-1, 1]"
        )
    limit = 1 + FARTHEST_NOISE * noise
    low, high = torch.stack(images.detach().aminmax()).tolist()
    if not (low >= -limit - RANGE_TOLERANCE and high <= limit + RANGE_TOLERANCE):  # also NaN
        raise InputError(
            f"{name} has values from {low:g} to {high:g}; floating point must be finite and in "
            f"[{-limit:g}, {limit:g}] (uint8 in 0..255 is scaled for you)"
        )


def _check_options(name: str, size: int, split: str) -> None:
    if name == "folder:":
        raise InputError("folder: needs a path after the colon, such as folder:my-images")
    if name not in ("mnist-5k", *_DOWNLOADED) and not (isinstance(name, str) and name.startswith("folder:")):
        guess = difflib.get_close_matches(str(name).lower(), _NAMES, n=1, cutoff=0.5)
        if Path(str(name)).expanduser().is_dir():
            guess = [f"folder:{name}"]
        hint = f" (did you mean {guess[0]!r}?)" if guess else ""
        raise InputError(f"image set name={name!r} is unknown{hint}; choose one of {', '.join(_NAMES)}")
    if not isinstance(size, int) or isinstance(size, bool) or not _SMALLEST <= size <= _LARGEST:
        raise InputError(f"size={size!r} must be a whole number of pixels from {_SMALLEST} to {_LARGEST}")
    if split not in _FILE_PREFIX:
        raise InputError(f"split={split!r} is unknown; choose train or test")


def _resize(images: Tensor, size: int) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (N, C, size, size), bilinear; untouched if it has that size already."""
    if images.shape[-2:] == (size, size):
        return images
    resized = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].float()
        chunk = F.interpolate(chunk, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        resized[start : start + _CHUNK] = chunk.round_().clamp_(0, 255)
    return resized


# ------------------------------------------------------------------------------------------ packaged digits


def _load_mnist_5k(folders: list[Path], split: str) -> ImageSet:
    paths = [folder / "mnist-5k.npz" for folder in folders]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(
            f"mnist-5k.npz is not in {_either(folders)}; get it back with "
            "'git checkout -- data/mnist-5k.npz', or copy it from the repository into data_dir"
        )
    with _blame(path):
        content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != MNIST_5K_SHA256:
        raise InputError(
            f"{path} is damaged: SHA-256 {found} ({len(content):,} bytes), expected {MNIST_5K_SHA256} "
            f"({MNIST_5K_BYTES:,} bytes); get it back with 'git checkout -- data/mnist-5k.npz'"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        keep = arrays["held_out"] == (split == "test")
        images, labels = arrays["images"][keep], arrays["labels"][keep]
    return ImageSet(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long(), list(_DIGITS))


# --------------------------------------------------------------------------------- MNIST and Fashion-MNIST


def _load_idx(name: str, folders: list[Path], split: str) -> ImageSet:
    """Reads one split from the first folder that has it, after a download if none has."""
    raw_folders = [folder / _DOWNLOADED[name] / "raw" for folder in folders]
    raw = next((raw for raw in raw_folders if _has_split(raw, split)), None)
    if raw is None:
        _download(name, folders, split)
        raw = raw_folders[0]
    images_path, labels_path = _idx_paths(raw, split)
    images, labels = _read_idx(images_path, 3), _read_idx(labels_path, 1).long()
    if len(images) != len(labels):
        raise InputError(
            f"{images_path} holds {len(images):,} images and {labels_path.name} {len(labels):,} labels; "
            "they must be as many: delete both files to download them again"
        )
    class_names = list(_DIGITS) if name == "mnist" else list(_torchvision_class(name).classes)
    if int(labels.max()) >= len(class_names):
        raise InputError(
            f"{labels_path} holds the label {int(labels.max())}, allowed are 0 to {len(class_names) - 1}; "
            "delete the file to download it again"
        )
    return ImageSet(images[:, None], labels, class_names)


def _idx_paths(raw: Path, split: str) -> tuple[Path, Path]:
    prefix = _FILE_PREFIX[split]
    return raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"


def _has_split(raw: Path, split: str) -> bool:
    return all(path.is_file() for path in _idx_paths(raw, split))


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """A uint8 tensor from an IDX file: bytes 0, 0, 8, number of dimensions; big-endian sizes; the data.

    Source: the format's description by LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/.
    """
    with _blame(path):
        content = np.fromfile(path, dtype=np.uint8)
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4].tolist() != [0, 0, 8, dimensions]:
        raise InputError(
            f"{path} is not an IDX file of {dimensions} dimension(s): {len(content):,} bytes that begin "
            f"{content[:4].tobytes().hex() or 'nowhere'}, expected 000008{dimensions:02x}; "
            "delete the file to download it again"
        )
    shape = [int(length) for length in content[4:header].view(">u4")]
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected or 0 in shape:
        raise InputError(
            f"{path} holds {len(content):,} bytes where its header promises {expected:,} "
            f"(shape {'x'.join(map(str, shape))}); delete the file to download it again"
        )
    return torch.from_numpy(content[header:]).reshape(shape)


class _DataSetClass(Protocol):
    """What is used of torchvision's MNIST classes; a resource is a file name and its MD5."""

    __name__: str
    mirrors: list[str]
    resources: list[tuple[str, str]]
    classes: list[str]

    def __call__(self, root: str, *, download: bool) -> object: ...


def _torchvision_class(name: str) -> _DataSetClass:
    """The torchvision class of that data set."""
    from gradcam_gan import torchvision_compat  # noqa: F401, I001 - must come before torchvision
    import torchvision.datasets

    return getattr(torchvision.datasets, _DOWNLOADED[name])


def _download(name: str, folders: list[Path], split: str) -> None:
    """Downloads and unpacks all files of a data set into the first folder; archives found there are used.

    Files arrive in a folder of their own, under a lock, and are moved when complete: two processes download
    once, and one that is killed leaves nothing half-written behind that would be read.
    """
    from filelock import FileLock

    dataset = _torchvision_class(name)
    archives, damaged = _local_archives(dataset, folders)
    if len(archives) < len(dataset.resources):
        reason = _unreachable([mirror + dataset.resources[0][0] for mirror in dataset.mirrors])
        if reason:
            raise InputError(_offline_message(name, dataset, folders, damaged, reason))
    target = folders[0] / dataset.__name__ / "raw"
    try:
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(folders[0] / f"{dataset.__name__}.lock"):
            if _has_split(target, split):  # another process was faster
                return
            with tempfile.TemporaryDirectory(prefix=".download-", dir=folders[0]) as temporary:
                raw = Path(temporary) / dataset.__name__ / "raw"
                raw.mkdir(parents=True)
                for archive in archives:
                    shutil.copyfile(archive, raw / archive.name)
                with _socket_timeout(_STALL_SECONDS):
                    dataset(temporary, download=True)
                for path in raw.glob("*-ubyte"):
                    path.replace(target / path.name)
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        raise InputError(
            f"downloading {name} into {folders[0]} failed: {_one_line(error)}; try again, or choose a folder "
            "with space that you can write to as data_dir"
        ) from None


def _local_archives(dataset: _DataSetClass, folders: list[Path]) -> tuple[list[Path], list[str]]:
    """The data set's .gz files that are here: paths of the sound ones, a line about each damaged one."""
    sound: dict[str, Path] = {}
    damaged = []
    for folder in folders:
        for file_name, expected in dataset.resources:
            path = folder / dataset.__name__ / "raw" / file_name
            if file_name in sound or not path.is_file():
                continue
            with _blame(path), path.open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found == expected:
                sound[file_name] = path
            else:
                damaged.append(f"{path} is damaged (MD5 {found}, expected {expected})")
    return list(sound.values()), damaged


def _offline_message(
    name: str, dataset: _DataSetClass, folders: list[Path], damaged: list[str], reason: str
) -> str:
    raw_folders = [folder / dataset.__name__ / "raw" for folder in folders]
    files = ", ".join(file_name for file_name, _ in dataset.resources)
    problem = "; ".join(damaged) if damaged else f"{name} is not in {_either(raw_folders)}"
    return (
        f"{problem}, and it cannot be downloaded: {reason}. With a network, torchvision.datasets."
        f"{dataset.__name__}(folder, download=True) gets it ({files} from {dataset.mirrors[0]}); copy "
        f"folder/{dataset.__name__}/raw to {raw_folders[0]} or pass data_dir=folder; mnist-5k needs none"
    )


def _unreachable(urls: list[str]) -> str:
    """Why none of the addresses answers within a few seconds; empty as soon as one does.

    Asks all of them at once, in threads: a socket's time-out does not cover the look-up of a host's name.
    """
    answers: queue.Queue[str] = queue.Queue()

    def ask(url: str) -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "gradcam-gan"})
        try:
            with urllib.request.urlopen(request, timeout=_REACH_SECONDS):
                answers.put("")
        except Exception as error:  # whatever goes wrong here means: not reachable
            answers.put(f"{url} does not answer ({_one_line(error)})")

    deadline = time.monotonic() + _REACH_SECONDS
    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    reason = f"{urls[0]} does not answer within {_REACH_SECONDS:g} s"
    with contextlib.suppress(queue.Empty):
        for _ in urls:
            reason = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            if not reason:
                break
    return reason


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Ends a download that stands still: torchvision sets no time-out and would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# ------------------------------------------------------------------------------------------ your own images


def _load_folder(folder: Path, size: int, split: str) -> ImageSet:
    from tqdm.auto import tqdm

    files, labels, class_names = _list_folder(folder)
    # all files are looked at, so that both splits agree on the number of channels
    channels = 1 if all(_is_grey(file) for file in files) else 3
    keep = (_held_out(labels) == (split == "test")).nonzero().flatten()
    if len(keep) == 0:
        raise InputError(
            f"{folder} has no image left for split={split!r}: each class holds out a fifth of its images, so "
            "one class needs at least 3"
        )
    images = torch.empty((len(keep), channels, size, size), dtype=torch.uint8)
    for row, index in enumerate(tqdm(keep.tolist(), desc=folder.name, unit="image", delay=2, disable=None)):
        images[row] = _read_image(files[index], size, channels)
    return ImageSet(images, labels[keep], class_names)


def _list_folder(folder: Path) -> tuple[list[Path], Tensor, list[str]]:
    """The image files in sorted order, their labels (N,), the class names."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(
            f"folder:{folder} {what}; give a folder of images, relative to {Path.cwd()} or absolute"
        )
    with _blame(folder):
        loose = [path for path in sorted(folder.iterdir()) if _is_image(path)]
        subfolders = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
        classes = {
            path.name: [file for file in sorted(path.rglob("*")) if _is_image(file)] for path in subfolders
        }
    if any(classes.values()):
        if loose:
            raise InputError(
                f"{folder} holds images beside subfolders with images, such as {loose[0].name}; "
                "move each into the subfolder of its class"
            )
        empty = [folder / name for name, files in classes.items() if not files]
    else:
        classes = {folder.resolve().name: loose}
        empty = [] if loose else [folder]
    if empty:
        suffixes = ", ".join(sorted(_IMAGE_SUFFIXES))
        raise InputError(f"{empty[0]} holds no images ({suffixes}); put some there or remove the folder")
    labels = [label for label, files in enumerate(classes.values()) for _ in files]
    return [file for files in classes.values() for file in files], torch.tensor(labels), list(classes)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _IMAGE_SUFFIXES and path.name[0] != "." and path.is_file()


def _held_out(labels: Tensor) -> Tensor:
    """A bool tensor (N,): True for a fifth of each class, drawn independently of the other classes."""
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(_SPLIT_SEED))
        held_out[members[order[: round(_HELD_OUT_SHARE * len(members))]]] = True
    return held_out


def _is_grey(path: Path) -> bool:
    """True if the file is stored as grey; only its header is read."""
    from PIL import Image

    with _blame(path), Image.open(path) as image:
        return image.mode in _GREY_MODES


def _read_image(path: Path, size: int, channels: int) -> Tensor:
    """uint8 (C, size, size): upright, shorter side resized to ``size`` (bilinear), middle square kept."""
    from PIL import Image, ImageOps

    with _blame(path), Image.open(path) as opened:
        image = _eight_bits(ImageOps.exif_transpose(opened)).convert("L" if channels == 1 else "RGB")
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def _eight_bits(image: "Image.Image") -> "Image.Image":
    """16-bit grey scaled to 8 bits (Pillow's own conversion clips); other images as they are."""
    from PIL import Image

    if image.mode == "F":
        raise InputError(
            "its pixels are floating-point numbers, whose range is unknown; save it as 8-bit grey"
        )
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image.convert("I"), dtype=np.float64) / 257  # 65535 -> 255
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


# ------------------------------------------------------------------------------------------------- messages


@contextlib.contextmanager
def _blame(path: Path) -> Iterator[None]:
    """Turns any failure to read a file into one line that names it."""
    try:
        yield
    # damaged files make Pillow raise OSError, SyntaxError, ValueError, and its own bare Exceptions
    except Exception as error:
        raise InputError(f"{path} cannot be read: {_one_line(error)}; repair, replace or remove it") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _either(folders: list[Path]) -> str:
    return " or ".join(str(folder) for folder in folders)

"""Images as one uint8 tensor: the packaged MNIST digits, full MNIST, Fashion-MNIST, or a folder of your own.

Pixel values are 0 (black; the background of MNIST) to 255; ``to_model_range`` maps them to [-1, 1].
Digits are enlarged bilinearly. At sizes such as 32, 56, 64 and 128 the weights are exact binary fractions, so
the rounded pixels do not depend on the machine.
"""

import contextlib
import hashlib
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from gradcam_gan.errors import InputError, one_line
from gradcam_gan.validation import choose

_ROOT = Path(__file__).resolve().parents[1]
# of an installed package, which is no checkout: the current folder's
REPOSITORY_DATA = _ROOT / "data" if (_ROOT / "pyproject.toml").is_file() else Path("data")
PACKAGED = Path(__file__).parent / "mnist-5k.npz"  # in a checkout a link to that of the repository
MNIST_5K_SHA256 = "6f5c61797f523a627556d551b6c33fb27b6f43e47025649abd5c79b6ea99dd10"
MNIST_5K_BYTES = 834_315

_DIGITS = [str(digit) for digit in range(10)]
_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # its class and folder
_SMALLEST, _LARGEST = 8, 1024  # pixels a side
_CHUNK = 1000  # images resized at a time: 16 MB of floats at 64x64
_SILENCE = 5.0  # seconds that a download may stand still; torchvision itself would wait for ever
_GREY_MODES = {"1", "L", "LA", "La", "F", "I", "I;16", "I;16B", "I;16L", "I;16N"}  # Pillow's names
FARTHEST_NOISE = 10.0  # standard deviations
RANGE_TOLERANCE = 1e-3  # interpolating images in [-1, 1] may leave the range by rounding
_HELD_OUT_SHARE = 0.2


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
      found in ``data_dir`` or the repository's ``data/`` (without a checkout, ``data/`` in the current folder), else
      downloaded (11 MB, 30 MB) into the first of these.
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
            download that is needed and impossible (said within seconds).
    """
    own_images = isinstance(name, str) and name.startswith("folder:")
    if not own_images:
        choose("image set", name, ("mnist-5k", *_TORCHVISION, "folder:PATH"))
    choose("split", split, ("train", "test"))
    if not isinstance(size, int) or isinstance(size, bool) or not _SMALLEST <= size <= _LARGEST:
        raise InputError(f"size={size!r} must be a whole number of pixels from {_SMALLEST} to {_LARGEST}")
    if own_images:
        return _load_folder(name.removeprefix("folder:"), size, split)
    folders = [Path(data_dir).expanduser(), REPOSITORY_DATA] if data_dir is not None else [REPOSITORY_DATA]
    found = _load_mnist_5k(folders, split) if name == "mnist-5k" else _load_torchvision(name, folders, split)
    return found._replace(images=resize(found.images, size, size))


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
    """uint8 images (N, C, H, W) in 0..255 -> float32 in [-1, 1], the range of G's output; floating point is there."""
    if images.dtype != torch.uint8:
        return images
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_bytes(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in [-1, 1] -> uint8 in 0..255, rounded: the way back from ``to_model_range``."""
    return images.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


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


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (N, C, height, width), bilinear; untouched if it has that size already."""
    if images.shape[-2:] == (height, width):
        return images
    resized = torch.empty((*images.shape[:2], height, width), dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].float()
        chunk = F.interpolate(
            chunk, size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )
        resized[start : start + _CHUNK] = chunk.round_().clamp_(0, 255)
    return resized


def _load_mnist_5k(folders: list[Path], split: str) -> ImageSet:
    paths = [*(folder / PACKAGED.name for folder in folders), PACKAGED]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(
            f"mnist-5k.npz is not in {' or '.join(map(str, folders))}; get it back with "
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


def _load_torchvision(name: str, folders: list[Path], split: str) -> ImageSet:
    """MNIST or Fashion-MNIST from the first folder that has it, after a download if none has."""
    from gradcam_gan import torchvision_compat  # noqa: F401, I001 - must come before torchvision
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, _TORCHVISION[name])
    raw_folders = [folder / dataset.__name__ / "raw" for folder in folders]
    files = [archive.removesuffix(".gz") for archive, _ in dataset.resources]
    raw = next((raw for raw in raw_folders if all((raw / file).is_file() for file in files)), None)
    if raw is None:
        raw = raw_folders[0]
        try:
            folders[0].mkdir(parents=True, exist_ok=True)
            # under a lock: of two processes the second finds what the first has downloaded
            with FileLock(folders[0] / f"{dataset.__name__}.lock"), _socket_timeout(_SILENCE):
                dataset(folders[0], download=True)
        except Exception as error:  # of many kinds: network, disk, checksum
            raise InputError(
                f"{name} is not in {' or '.join(map(str, raw_folders))}, and downloading it failed: "
                f"{one_line(error)}. Where "
                f"there is a network, torchvision.datasets.{dataset.__name__}(folder, download=True) gets it; copy "
                f"folder/{dataset.__name__}/raw to {raw} or pass data_dir=folder. mnist-5k needs no download"
            ) from None
    with _blame(raw / f"{'train' if split == 'train' else 't10k'}-*-ubyte"):
        found = dataset(raw.parents[1], train=split == "train")
        images, labels = found.data, found.targets.long()
        if len(images) != len(labels) or int(labels.max()) >= len(found.classes):
            raise ValueError(f"{len(images):,} images, {len(labels):,} labels from 0 to {int(labels.max())}")
    return ImageSet(images[:, None], labels, _DIGITS if name == "mnist" else list(found.classes))


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Ends a connection that stands still for so long."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _load_folder(path: str, size: int, split: str) -> ImageSet:
    from tqdm.auto import tqdm

    if not path:
        raise InputError("folder: needs a path after the colon, such as folder:my-images")
    folder = Path(path).expanduser().resolve()
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
        with _blame(files[index]):
            images[row] = read_image(files[index], (channels, size, size))
    return ImageSet(images, labels[keep], class_names)


def _list_folder(folder: Path) -> tuple[list[Path], Tensor, list[str]]:
    """The image files in sorted order, their labels (N,), the class names."""
    from gradcam_gan import torchvision_compat  # noqa: F401, I001 - must come before torchvision
    from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder

    def is_image(path: str) -> bool:
        inside = Path(path).relative_to(folder)
        return inside.suffix.lower() in IMG_EXTENSIONS and not any(part[0] == "." for part in inside.parts)

    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the path of one that holds images")
    with _blame(folder):
        content = sorted(folder.iterdir())
    loose = [path.name for path in content if path.is_file() and is_image(str(path))]
    class_names = [path.name for path in content if path.is_dir() and path.name[0] != "."]
    root = folder
    if loose or not class_names:  # the folder itself is the only class
        root, class_names = folder.parent, [folder.name]
    numbers = {name: label for label, name in enumerate(class_names)}
    try:
        found = ImageFolder.make_dataset(root, numbers, is_valid_file=is_image)
    except FileNotFoundError as error:  # of one class or all
        raise InputError(
            f"{folder}: {one_line(error)} Put images ({', '.join(IMG_EXTENSIONS)}) there, or remove that folder"
        ) from None
    if loose and len(found) > len(loose):
        raise InputError(
            f"{folder} holds images beside subfolders with images, such as {loose[0]}; "
            "move each into the subfolder of its class"
        )
    # in the order that the split is drawn from
    samples = sorted((label, Path(path)) for path, label in found)
    return [path for _, path in samples], torch.tensor([label for label, _ in samples]), class_names


def _held_out(labels: Tensor) -> Tensor:
    """A bool tensor (N,): True for a fifth of each class, drawn independently of the other classes."""
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0))
        held_out[members[order[: round(_HELD_OUT_SHARE * len(members))]]] = True
    return held_out


def _is_grey(path: Path) -> bool:
    """True if the file is stored as grey; only its header is read."""
    with _blame(path), Image.open(path) as image:
        return image.mode in _GREY_MODES


def read_image(file: Path | BinaryIO, shape: tuple[int, int, int]) -> Tensor:
    """An image file -> uint8 (C, H, W): upright, the shorter side fitted (bilinear), the middle part kept.

    Raises:
        Exception: of many kinds, if it is no image: damaged files make Pillow raise OSError, SyntaxError, ValueError,
            and its own bare Exceptions.
    """
    channels, height, width = shape
    with Image.open(file) as opened:
        image = _eight_bits(ImageOps.exif_transpose(opened)).convert("L" if channels == 1 else "RGB")
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits (Pillow's own conversion clips); other images as they are."""
    if image.mode == "F":
        raise InputError(
            "its pixels are floating-point numbers, whose range is unknown; save it as 8-bit grey"
        )
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image.convert("I"), dtype=np.float64) / 257  # 65535 -> 255
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


@contextlib.contextmanager
def _blame(path: Path) -> Iterator[None]:
    """Turns any failure to read a file into one line that names it."""
    try:
        yield
    # damaged files make Pillow raise OSError, SyntaxError, ValueError, and its own bare Exceptions
    except Exception as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}; repair, replace or remove it") from None

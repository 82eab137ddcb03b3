"""The evaluator: the fixed classifier in whose features every generator is scored.

Scores such as the Fréchet distance can be compared only under the same features, so the one for digits comes with the
package, with a checksum. Inception's features are not used: they are made for photographs in colour. Other
images get an evaluator of their own, trained once and kept.
"""

import hashlib
from itertools import pairwise
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from gradcam_gan.data import ImageSet, data_hash, to_model_range
from gradcam_gan.errors import InputError, one_line
from gradcam_gan.training import files

INPUT_SIZE = 32  # pixels a side; whatever comes is resized to it
FEATURES = 64
DIGIT_EVALUATOR = Path(__file__).parent / "digit_evaluator.safetensors"
DIGIT_EVALUATOR_SHA256 = "8db27f73bae3571d7e157d81c57bbc6db8c3962060d6660f1a89f7798ef31bc8"
DIGIT_DATA = ("mnist-5k", "mnist")  # what the packaged evaluator is for

EPOCHS = 15
BATCH = 128
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.01
# augmentation: what a digit may suffer and stay that digit
LARGEST_TURN = 0.2  # radians
LARGEST_SHIFT = 0.12  # of half the image's side
LARGEST_SCALING = 0.12


class Evaluator(nn.Module):
    """Three convolutions and two linear layers, 100,000 weights; images of any size are resized to 32x32.

    Args:
        classes: how many.
        channels: of the images.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for narrow, wide in pairwise([channels, 24, 48, FEATURES]):
            layers += [
                nn.Conv2d(narrow, wide, 3, padding=1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.embedding = nn.Linear(FEATURES * (INPUT_SIZE // 8) ** 2, FEATURES)
        self.head = nn.Linear(FEATURES, classes)
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))

    def features(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 or in [-1, 1] -> features (N, 64), the last layer before the classes.

        Standardised: each has mean 0 and standard deviation 1 over the images that the evaluator learned from.
        """
        return (self.embedding(self.convolutions(resized(images))) - self.mean) / self.deviation

    def classify(self, features: Tensor) -> Tensor:
        """Features (N, 64) -> logits (N, classes)."""
        return self.head(F.relu(features * self.deviation + self.mean))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 or in [-1, 1] -> logits (N, classes)."""
        return self.classify(self.features(images))


def resized(images: Tensor) -> Tensor:
    """Images (N, C, H, W), uint8 or in [-1, 1] -> float32 in [-1, 1] at the evaluator's 32x32."""
    scaled = to_model_range(images).float()
    if scaled.shape[2:] == (INPUT_SIZE, INPUT_SIZE):
        return scaled
    return F.interpolate(scaled, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)


def train_evaluator(
    training: ImageSet, *, epochs: int = EPOCHS, seed: int = 0, device: torch.device | str = "cpu"
) -> Evaluator:
    """An evaluator of these images, in eval mode: AdamW, one cycle, random turns, shifts and scalings.

    Images of one class are told apart by a turn of 0, 90, 180 or 270 degrees (Gidaris et al. 2018), which also asks for
    features of what they show.

    Args:
        training: images and labels.
        epochs: passes over them.
        seed: of weights, order and augmentation.
        device: where to train.
    """
    if len(training.class_names) == 1:
        training = _turned(training)
    classes = len(training.class_names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Evaluator(classes, training.images.shape[1]).to(device)
        images, labels = resized(training.images.to(device)), training.labels.to(device)
        batch = min(BATCH, len(images))
        iterations = len(images) // batch
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, LEARNING_RATE, total_steps=epochs * iterations
        )
        progress = tqdm(total=epochs * iterations, desc="evaluator", unit="step", disable=None)
        for _ in range(epochs):
            for chosen in torch.randperm(len(images))[: iterations * batch].to(device).split(batch):
                loss = F.cross_entropy(model(_augmented(images[chosen])), labels[chosen])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                progress.update()
        progress.close()
    model.eval()
    with torch.no_grad():
        features = torch.cat([model.features(some) for some in images.split(BATCH)])
        model.mean.copy_(features.mean(0))
        model.deviation.copy_(features.std(0))
    return model


def _turned(images: ImageSet) -> ImageSet:
    """Every image in four directions, which are the classes."""
    turns = [images.images.rot90(quarters, (2, 3)) for quarters in range(4)]
    labels = torch.arange(4).repeat_interleave(len(images.images))
    return ImageSet(torch.cat(turns), labels, ["0", "90", "180", "270"])


def _augmented(images: Tensor) -> Tensor:
    """Each image turned, shifted and scaled at random; what comes in from outside repeats the edge."""
    angle, scale, x, y = (torch.rand(4, len(images)) * 2 - 1).to(images.device)
    angle, scale = LARGEST_TURN * angle, 1 + LARGEST_SCALING * scale
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([cos, -sin, LARGEST_SHIFT * x, sin, cos, LARGEST_SHIFT * y], 1)
    grid = F.affine_grid(rows.reshape(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def accuracy(model: Evaluator, images: ImageSet) -> float:
    """Share of images that an evaluator gets right, 0 to 1."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        seen = torch.cat([model(some.to(device)).argmax(1).cpu() for some in images.images.split(1000)])
    return float((seen == images.labels).float().mean())


def save_evaluator(model: Evaluator, path: Path) -> None:
    """Write the weights as safetensors, whole or not at all."""
    files.write_bytes(path, files.tensor_bytes(model.state_dict()))


def load_evaluator(path: Path = DIGIT_EVALUATOR, sha256: str | None = DIGIT_EVALUATOR_SHA256) -> Evaluator:
    """An evaluator from its file, in eval mode.

    Args:
        path: as ``save_evaluator`` wrote it.
        sha256: that the file must have; None takes any.

    Raises:
        InputError: the file is missing, damaged, or another one than expected.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"the evaluator {path} cannot be read: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise InputError(
            f"the evaluator {path} is not the one that scores are made with: SHA-256 {found}, expected {sha256}; "
            "get it back with 'git checkout -- gradcam_gan/scoring/digit_evaluator.safetensors'"
        )
    try:
        weights = parse_safetensors(content)
        with torch.random.fork_rng(devices=[]):  # building draws initial weights that are replaced at once
            model = Evaluator(len(weights["head.bias"]), weights["convolutions.0.weight"].shape[1])
        model.load_state_dict(weights)
    except (SafetensorError, KeyError, RuntimeError, TypeError, IndexError) as error:
        raise InputError(
            f"{path} holds no evaluator ({one_line(error)}); delete it to train it again"
        ) from None
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload] # twice the rate on a CPU


def evaluator_for(
    data: str, training: ImageSet, folder: Path, device: torch.device | str = "cpu"
) -> Evaluator:
    """The evaluator to score images of this kind with: the packaged one for digits, else one of their own.

    Args:
        data: name of the data, as ``load_images`` takes it.
        training: its training images, all of them.
        folder: where evaluators of other data are kept, by the data's hash; trained there once.
        device: where to train, and where the evaluator comes.

    Raises:
        InputError: a damaged file.
        RunError: the folder cannot be written to.
    """
    if data in DIGIT_DATA:
        return load_evaluator().to(device)
    path = folder / f"{data_hash(training)[:16]}.safetensors"
    with files.reporting(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                save_evaluator(train_evaluator(training, device=device), path)
    return load_evaluator(path, None).to(device)

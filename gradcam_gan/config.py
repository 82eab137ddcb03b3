"""The configuration of one training run: validated before any work starts, and the run's identity."""

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gradcam_gan.errors import InputError

# raised whenever the same configuration would train to other weights, so that old runs are not taken for new
TRAINING_VERSION = 1
# where a run is computed, not what it computes: these do not make another run
WHERE = frozenset({"data_dir", "device", "threads"})
Preset = Literal["paper64", "paper28"]
Padding = Literal["zeros", "background", "replicate"]
# the same as in explain and run_explainer, which need torch
Method = Literal["gradcam", "hirescam"]
Statistics = Literal["reference", "running", "batch"]
Arm = Literal["rule70", "dose", "random", "inverse", "instance-selection", "self-diagnosing"]
PRESET_SIZE: dict[str, int] = {"paper64": 64, "paper28": 28}


class ValidatedModel(BaseModel):
    """A frozen pydantic model that takes no unknown field and reports all problems in one line (InputError)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - pydantic validates them
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(_one_line(error, list(type(self).model_fields))) from None


class Pruning(ValidatedModel):
    """Which training images a network does without: one arm of the pruning experiment (claim C6).

    A baseline is trained on all images with the same seed; its discriminator after one epoch scores them. The rule:
    delete an image where a share ``cut`` or more of its activation map is important, that is, at least ``tau`` after
    normalisation (the paper's section 5, which names only the 70 %).

    Raises:
        InputError: one line that names the field, the value and what is allowed.
    """

    arm: Arm = Field(
        description="rule70: as the rule says. dose: a share of highest coverage. As controls random, inverse (lowest "
        "coverage), instance-selection (lowest density in the classifier's features), self-diagnosing (least often "
        "underrepresented)"
    )
    share: float | None = Field(
        None, gt=0, lt=1, description="delete this share of the images; None: as many as the rule deletes"
    )
    baseline_epochs: int = Field(25, ge=1, description="how long the baseline is trained")
    epoch: int | Literal["clearest"] = Field(
        18, description="whose D scores: a number, or the one with the clearest maps (claim C2)"
    )
    method: Method = "gradcam"
    layer: str = "block3"
    statistics: Statistics = "running"
    evidence: Literal["real", "fake"] = "fake"
    normalisation: Literal["max", "min-max"] | float = "min-max"
    tau: float = Field(0.25, gt=0, le=1, description="what counts as important, of the normalised map")
    cut: float = Field(0.7, gt=0, le=1, description="delete from this coverage on")
    probe_images: int = Field(256, ge=10, description="held-out images that choose the clearest epoch")
    reference_images: int = Field(256, ge=2, description="training images for reference statistics")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.arm == "rule70" and self.share is not None:
            raise ValueError(
                f"share={self.share} with arm='rule70', which deletes what the rule says; use arm='dose'"
            )
        if self.arm == "dose" and self.share is None:
            raise ValueError("arm='dose' needs the share to delete, such as share=0.2")
        if self.epoch != "clearest" and not 0 <= self.epoch <= self.baseline_epochs:
            raise ValueError(f"epoch={self.epoch} must lie in 0..baseline_epochs={self.baseline_epochs}")
        if not isinstance(self.normalisation, str) and self.normalisation <= 0:
            raise ValueError(
                f"normalisation={self.normalisation} must be 'max', 'min-max' or a positive number"
            )
        return self

    @property
    def label(self) -> str:
        """The arm, and the share where one is set: ``rule70``, ``dose 20 %``."""
        return self.arm if self.share is None else f"{self.arm} {100 * self.share:g} %"


class Diffusion(ValidatedModel):
    """How a network's input is diffused, and how the horizon T moves (Wang et al. 2023; Yeom & Lee 2023).

    Raises:
        InputError: one line that names the field, the value and what is allowed.
    """

    shortest: int = Field(default=10, ge=0, description="T at the start")
    longest: int = Field(default=500, ge=0, le=10_000, description="T at most; 0 diffuses nothing")
    sigma: float = Field(default=0.05, ge=0, description="of the noise, in pixels of [-1, 1]")
    prior: Literal["uniform", "priority"] = Field(
        default="priority", description="of t: equal, or proportional to t"
    )
    target: float | None = Field(
        default=0.6,
        ge=-1,
        le=1,
        description="T grows while D's mean sign on real images is above it; None: it always grows",
    )
    rise: float = Field(
        default=0.25, gt=0, description="share of the training's images that takes T from end to end"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError(f"shortest={self.shortest} must not exceed longest={self.longest}")
        return self


class ClassifierOptions(ValidatedModel):
    """DuDGAN's classifier C and its part in the losses (Yeom & Lee 2023).

    Raises:
        InputError: one line that names the field, the value and what is allowed.
    """

    diffusion: Diffusion = Diffusion(longest=300, target=None, rise=1.0)
    supervised_contrast: float = Field(
        default=0.95, ge=0, le=1, description="its share of C's loss; the rest is classes'"
    )
    share_in_generator: float = Field(
        default=0.05, ge=0, le=1, description="of the contrastive loss in G's loss"
    )
    temperature: float = Field(default=0.07, gt=0)
    learning_rate_ratio: float = Field(
        default=1.25, gt=0, description="of its learning rate to G's and D's: 2.5e-4 beside DCGAN's 2e-4"
    )
    weight_decay: float = Field(default=0.01, ge=0)


class Model(ValidatedModel):
    """What the follow-up's models add to the DCGAN: classes, a diffusion of D's input, a classifier.

    Raises:
        InputError: one line that names the field, the value and what is allowed.
    """

    conditional: bool = Field(default=True, description="G and D are told the class")
    normalisation: Literal["batch", "group"] = Field(default="batch", description="in D and C")
    diffusion: Diffusion | None = Field(default=None, description="of D's input")
    classifier: ClassifierOptions | None = None
    gradient_penalty: float = Field(
        default=0.0, ge=0, description="gamma of R1 on real images, every 16 iterations"
    )
    averaging: float = Field(default=0.0, ge=0, lt=1, description="decay of G's moving average; 0: none")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.classifier is not None and not self.conditional:
            raise ValueError(
                "a classifier needs conditional=true: its loss is about the class that G was told"
            )
        return self


# DuDGAN's D goes up to T = 1000 (Yeom & Lee 2023)
_DUDGAN: dict[str, Any] = {
    "diffusion": Diffusion(longest=1000),
    "classifier": ClassifierOptions(),
    "gradient_penalty": 0.01,
    "averaging": 0.99,
}
# the models that are compared, and DuDGAN without one of its parts; G hears of C by the contrast alone, so without
# it there is no C
MODELS: dict[str, Model | None] = {
    "dcgan": None,
    "conditional-dcgan": Model(),
    "diffusion-gan": Model(diffusion=Diffusion()),
    "dudgan": Model(**_DUDGAN),
    "dudgan-no-contrast": Model(**{**_DUDGAN, "classifier": None}),
    "dudgan-no-classifier-diffusion": Model(
        **{**_DUDGAN, "classifier": ClassifierOptions(diffusion=Diffusion(shortest=0, longest=0))}
    ),
    "dudgan-no-discriminator-diffusion": Model(**{**_DUDGAN, "diffusion": None}),
}


class TrainingConfig(ValidatedModel):
    """Everything that decides how a DCGAN is trained; defaults are the paper's network and DCGAN's optimiser.

    Raises:
        InputError: one line that names the field, the value and what is allowed.
    """

    data: str = Field(
        "mnist-5k", description="a name that load_images takes: mnist-5k, mnist, folder:PATH ..."
    )
    train_images: int | None = Field(None, ge=1, description="train on a fixed random subset of this many")
    preset: Preset = "paper64"
    size: int = Field(
        default_factory=lambda fields: PRESET_SIZE.get(fields.get("preset", ""), 64),
        description="height and width of the images in pixels; the preset's",
    )
    architecture: Literal["paper", "standard"] = Field("paper", description="four or five convolutions in D")
    width: int = Field(64, ge=1, le=1024, description="channels of the narrowest block of D and G")
    padding: Padding = "zeros"
    epochs: int = Field(25, ge=1, le=100_000)
    batch_size: int = Field(64, ge=2, description="BatchNorm needs at least two images")
    learning_rate: float = Field(2e-4, gt=0)
    beta1: float = Field(0.5, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**31)
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="auto: bfloat16 autocast where the hardware has it; float32: the exact reference"
    )
    model: Model | None = Field(None, description="None: the paper's DCGAN")
    pruning: Pruning | None = Field(
        None, description="train on a part of the images; an epoch stays as many iterations as on all of them"
    )
    data_dir: Path | None = Field(None, description="where mnist and fashion-mnist lie, default data/")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="CPU threads, default torch's")

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError("must be auto, cpu, cuda or cuda:N")
        return device

    @model_validator(mode="after")
    def _size_fits_preset(self) -> Self:
        expected = PRESET_SIZE[self.preset]
        if self.size != expected:
            raise ValueError(
                f"size={self.size} does not match preset={self.preset!r}, which takes {expected}"
            )
        if self.architecture == "standard" and self.preset != "paper64":
            raise ValueError("architecture='standard' is a 64x64 network and needs preset='paper64'")
        if self.architecture == "standard" and self.model is not None:
            raise ValueError("architecture='standard' is a DCGAN's; a model needs architecture='paper'")
        if self.pruning is not None and self.model is not None:
            raise ValueError("pruning is the paper's experiment with a DCGAN; leave out model or pruning")
        return self

    @property
    def identity(self) -> dict[str, object]:
        """The fields that decide the result, as JSON values, and the version of the training code.

        What is None is left out: a new option that is not used does not make another run of an old one.
        """
        values = self.model_dump(mode="json", exclude=set(WHERE), exclude_none=True)
        return {**values, "training_version": TRAINING_VERSION}

    @property
    def baseline(self) -> Self:
        """The same training on all images, as long as the pruning needs it; without pruning, itself."""
        if self.pruning is None:
            return self
        return self.changed(pruning=None, epochs=self.pruning.baseline_epochs)

    @property
    def model_name(self) -> str:
        """Its name in ``MODELS``; ``model`` if it has none."""
        return next((name for name, model in MODELS.items() if model == self.model), "model")

    def changed(self, **values: object) -> Self:
        """A validated copy with some fields changed."""
        return type(self)(**{**dict(self), **values})

    @property
    def name(self) -> str:
        """The run directory's name: readable first, then 8 hex digits of the identity's SHA-256."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:8]
        data = re.sub(r"[^a-z0-9]+", "-", self.data.lower())[-24:].strip("-") or "data"
        part = self.model_name if self.model else self.pruning.label if self.pruning else ""
        label = "-" + re.sub(r"[^a-z0-9]+", "", part) if part else ""
        return f"{data}-{self.preset}-width{self.width}-{self.padding}-seed{self.seed}{label}-{digest}"


def _one_line(error: ValidationError, known: list[str]) -> str:
    """Pydantic's report, one sentence a problem: field, value, what is allowed."""
    sentences = []
    for problem in error.errors():
        field = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(field, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"fields: {', '.join(known)}"
            sentences.append(f"{field!r} is not a field; {hint}")
        else:
            # a model within this one has put its own name in front already
            message = re.sub(r"^(Value error, )?([A-Z]\w+: )*", "", problem["msg"])
            message = message[0].lower() + message[1:]
            value = " ".join(repr(problem["input"]).split())  # an array's repr has many lines
            sentences.append(f"{field}={value}: {message}" if field else message)
    return f"{error.title}: " + "; ".join(sentences)

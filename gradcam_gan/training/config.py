"""The configuration of one training run: validated before any work starts, and the run's identity."""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gradcam_gan.errors import InputError
from gradcam_gan.models.options import MODELS, PLAIN, PRESET_SIZE, Model, Padding, Preset, Width
from gradcam_gan.validation import ValidatedModel

# raised whenever the same configuration would train to other weights, so that old runs are not taken for new
TRAINING_VERSION = 1
# where a run is computed, not what it computes: these do not make another run
WHERE = frozenset({"data_dir", "device", "threads"})
# fields that there were once, with the one value that is still trained; the identity keeps those that are not None
FORMER_FIELDS: dict[str, object] = {"architecture": "paper", "pruning": None}


def check_device(name: str) -> str:
    """The name of a device, unless it cannot be one.

    Raises:
        ValueError: it is none of ``auto``, ``cpu``, ``cuda`` and ``cuda:N``; it says so without the name.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d\d?)?", name):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return name


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
    width: Width = Field(64, description="channels of the narrowest block of D and G")
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
    data_dir: Path | None = Field(None, description="where mnist and fashion-mnist lie, default data/")
    device: Annotated[str, AfterValidator(check_device)] = Field(
        "auto", description="auto, cpu, cuda or cuda:N"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads, default torch's")

    @model_validator(mode="after")
    def _size_fits_preset(self) -> Self:
        expected = PRESET_SIZE[self.preset]
        if self.size != expected:
            raise ValueError(
                f"size={self.size} does not match preset={self.preset!r}, which takes {expected}"
            )
        return self

    @property
    def identity(self) -> dict[str, object]:
        """The fields that decide the result, as JSON values, and the version of the training code.

        What is None is left out: a new option that is not used does not make another run of an old one.
        """
        values = self.model_dump(mode="json", exclude=set(WHERE), exclude_none=True)
        former = {name: value for name, value in FORMER_FIELDS.items() if value is not None}
        return {**former, **values, "training_version": TRAINING_VERSION}

    @property
    def parts(self) -> Model:
        """What the model is made of, the DCGAN's parts where ``model`` is None."""
        return PLAIN if self.model is None else self.model

    @property
    def unguided(self) -> Self:
        """The same training without guidance, with which a guided one shares what comes before guidance starts."""
        parts = Model(**{**dict(self.parts), "guidance": None})
        return self.changed(model=None if parts == PLAIN else parts)

    @property
    def model_name(self) -> str:
        """Its name in ``MODELS``; ``model`` if it has none."""
        return next((name for name, known in MODELS.items() if known.model == self.model), "model")

    @classmethod
    def stored(cls, values: dict[str, Any]) -> Self:
        """From the values in a run's ``config.json``, written by this code or when there were more fields.

        Raises:
            InputError: a run of a kind that is no longer trained.
        """
        for name, value in FORMER_FIELDS.items():
            if values.get(name, value) != value:
                raise InputError(f"{name}={values[name]!r} is no longer trained; delete the run")
        return cls(**{name: value for name, value in values.items() if name not in FORMER_FIELDS})

    def changed(self, **values: object) -> Self:
        """A validated copy with some fields changed."""
        return type(self)(**{**dict(self), **values})

    @property
    def name(self) -> str:
        """The run directory's name: readable first, then 8 hex digits of the identity's SHA-256."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:8]
        data = re.sub(r"[^a-z0-9]+", "-", self.data.lower())[-24:].strip("-") or "data"
        label = "-" + re.sub(r"[^a-z0-9]+", "", self.model_name) if self.model else ""
        return f"{data}-{self.preset}-width{self.width}-{self.padding}-seed{self.seed}{label}-{digest}"

"""The arms of the pruning experiment as validated options: what each deletes, and how it is trained."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from gradcam_gan.errors import InputError
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.validation import ValidatedModel

Method = Literal["gradcam", "hirescam"]
Statistics = Literal["reference", "running", "batch"]
ArmKind = Literal["rule70", "dose", "random", "inverse", "instance-selection", "self-diagnosing"]


class Rule(ValidatedModel):
    """The 70 % rule with what it leaves open (claim C6).

    Delete an image where a share ``cut`` or more of its activation map is important, that is, at least ``tau`` after
    normalisation (the paper's section 3, which names only the 70 %).

    Raises:
        InputError: one line that names the field, the value and what is allowed.
    """

    epoch: int | Literal["clearest"] = Field(
        description="whose D scores the images: a number, or the one with the clearest maps (claim C2)"
    )
    method: Method
    statistics: Statistics
    evidence: Literal["real", "fake"]
    normalisation: Literal["max", "min-max"] | float
    tau: float = Field(gt=0, le=1, description="what counts as important, of the normalised map")
    cut: float = Field(gt=0, le=1, description="delete from this coverage on")

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if not isinstance(self.normalisation, str) and self.normalisation <= 0:
            raise ValueError(
                f"normalisation={self.normalisation} must be 'max', 'min-max' or a positive number"
            )
        return self


class Pruning(Rule):
    """Which training images a network does without: the rule, or a control that deletes by another score.

    Raises:
        InputError: one line that names the field, the value and what is allowed.
    """

    arm: ArmKind = Field(
        description="rule70: as the rule says. dose: a share of highest coverage. As controls random, inverse (lowest "
        "coverage), instance-selection (lowest density in the evaluator's features), self-diagnosing (least often "
        "underrepresented)"
    )
    share: float | None = Field(
        None, gt=0, lt=1, description="delete this share of the images; None: as many as the rule deletes"
    )
    probe_images: int = Field(ge=10, description="held-out images that choose the clearest epoch")
    calibration_images: int = Field(ge=2, description="training images for reference statistics")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.arm == "rule70" and self.share is not None:
            raise ValueError(
                f"share={self.share} with arm='rule70', which deletes what the rule says; use arm='dose'"
            )
        if self.arm == "dose" and self.share is None:
            raise ValueError("arm='dose' needs the share to delete, such as share=0.2")
        return self


@dataclass(frozen=True)
class Arm:
    """One training of the pruning experiment.

    Attributes:
        pruning: which images it does without.
        training: how it is trained on the rest.
        baseline: the training on all images, of the same seed, whose discriminator scores them.
    """

    pruning: Pruning
    training: TrainingConfig
    baseline: TrainingConfig

    def __post_init__(self) -> None:
        epoch, last = self.pruning.epoch, self.baseline.epochs
        if epoch != "clearest" and not 0 <= epoch <= last:
            raise InputError(f"pruning.epoch={epoch} must lie in 0..epochs={last} of the baseline")
        if self.training.model is not None:
            raise InputError("pruning is the paper's experiment with a DCGAN; leave out the model")

    @property
    def label(self) -> str:
        """The arm, and the share where one is set: ``rule70``, ``dose 20 %``."""
        kind, share = self.pruning.arm, self.pruning.share
        return kind if share is None else f"{kind} {100 * share:g} %"

    @property
    def seed(self) -> int:
        """Of the arm and of its baseline."""
        return self.training.seed

    @property
    def name(self) -> str:
        """Of its selection's file: readable first, then 8 hex digits of what decides it."""
        identity = {"pruning": self.pruning.model_dump(mode="json"), "baseline": self.baseline.identity}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        return f"{re.sub(r'[^a-z0-9]+', '', self.label)}-seed{self.seed}-{digest}"

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
Layer = Literal["conv1", "block1", "conv2", "norm2", "block2", "conv3", "norm3", "block3"]
Statistics = Literal["running", "settled", "reference", "batch"]
ArmKind = Literal["rule70", "dose", "random", "inverse", "instance-selection", "self-diagnosing"]


class Rule(ValidatedModel):
    """The 70 % rule with what it leaves open (claim C6).

    Delete an image where a share ``cut`` or more of its activation map is important (the paper's section 3, which names
    only the 70 %): above a share ``tau`` of the map's maximum, at the layer's own resolution.

    Raises:
        InputError: one line that names the field, the value and what is allowed.
    """

    epoch: int = Field(ge=0, description="whose D scores the images")
    method: Method
    layer: Layer
    statistics: Statistics
    evidence: Literal["real", "fake"]
    tau: float = Field(ge=0, lt=1, description="important: above this share of the map's maximum; 0: above 0")
    cut: float = Field(gt=0, le=1, description="delete from this coverage on")


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
    calibration_images: int = Field(ge=2, description="training images for reference and settled statistics")

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
        training: how it is trained on the rest; its baseline is the same training on all of them.
        scorer: the training, of the same seed, whose discriminator scores the images.
    """

    pruning: Pruning
    training: TrainingConfig
    scorer: TrainingConfig

    def __post_init__(self) -> None:
        if self.pruning.epoch > self.scorer.epochs:
            raise InputError(
                f"pruning.epoch={self.pruning.epoch} must lie in 0..epochs={self.scorer.epochs} of the network that "
                "scores the images"
            )

    @property
    def label(self) -> str:
        """The arm, and the share where one is set: ``rule70``, ``dose 20 %``."""
        kind, share = self.pruning.arm, self.pruning.share
        return kind if share is None else f"{kind} {100 * share:g} %"

    @property
    def seed(self) -> int:
        """Of the arm, its baseline and the network that scores the images."""
        return self.training.seed

    @property
    def name(self) -> str:
        """Of its selection's file: readable first, then 8 hex digits of what decides it."""
        identity = {
            "pruning": self.pruning.model_dump(mode="json"),
            "training": self.training.identity,
            "scorer": self.scorer.identity,
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        return f"{re.sub(r'[^a-z0-9]+', '', self.label)}-seed{self.seed}-{digest}"

"""What one profile trains and looks at: the values of ``params/<profile>.yaml``, validated."""

import difflib
import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from gradcam_gan import paths
from gradcam_gan.config import (
    Arm,
    Method,
    Padding,
    Preset,
    Pruning,
    Statistics,
    TrainingConfig,
    ValidatedModel,
)
from gradcam_gan.errors import InputError

PROFILES = ("smoke", "quick", "seeds", "paper")
PROFILE_VARIABLE = "GRADCAM_GAN_PROFILE"  # for nbval, which cannot inject parameters


class Study(ValidatedModel):
    """A profile: which discriminators are trained, and what is asked of them.

    Raises:
        InputError: one line that names the parameter, the value and what is allowed.
    """

    profile: str = Field(pattern=r"^[\w-]+$", description="names the folders under runs/ and figures/")
    data: str
    data_dir: Path | None
    train_images: int | None
    preset: Preset
    width: int
    batch_size: int
    learning_rate: float
    epochs: int
    precision: Literal["auto", "bfloat16", "float32"]
    device: str
    threads: int | None
    seeds: list[int] = Field(min_length=1, description="networks trained as in the paper")
    background_seeds: list[int] = Field(description="networks trained with background padding, for C5")
    figure_epochs: list[int] = Field(min_length=2, description="the rows of Figure 1")
    figure_digits: list[int] = Field(
        min_length=1, description="Figure 1 shows the first held-out image of each"
    )
    probe_images: int = Field(ge=10, description="held-out images that every measure is taken on")
    reference_images: int = Field(ge=2, description="training images that set BatchNorm's statistics")
    generated_images: int = Field(ge=20, description="images of each generator that its scores are taken on")
    pruning_seeds: list[int] = Field(
        min_length=1, description="networks that are trained again on fewer images"
    )
    pruning_epochs: int = Field(ge=1, description="how long")
    pruning_arms: list[Arm] = Field(description="these delete as many images as the 70 % rule")
    pruning_dose_arms: list[Arm] = Field(description="these delete the shares in pruning_doses")
    pruning_doses: list[float]
    pruning_epoch: int | Literal["clearest"] = Field(description="whose D scores the images")
    pruning_method: Method
    pruning_statistics: Statistics
    pruning_evidence: Literal["real", "fake"]
    pruning_normalisation: Literal["max", "min-max"] | float
    pruning_tau: float
    pruning_cut: float

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        once = {"seeds": "a seed", "background_seeds": "a seed", "pruning_seeds": "a seed"}
        once |= {"pruning_arms": "an arm", "pruning_dose_arms": "an arm", "pruning_doses": "a dose"}
        for name, what in once.items():
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={values} names {what} twice")
        for name in ("background_seeds", "pruning_seeds"):
            if not set(getattr(self, name)) <= set(self.seeds):
                raise ValueError(f"{name}={getattr(self, name)} must be among seeds={self.seeds}")
        if self.pruning_epochs > self.epochs:
            raise ValueError(f"pruning_epochs={self.pruning_epochs} must not exceed epochs={self.epochs}")
        if sorted(set(self.figure_epochs)) != self.figure_epochs:
            raise ValueError(f"figure_epochs={self.figure_epochs} must ascend")
        if not 0 <= self.figure_epochs[0] <= self.figure_epochs[-1] <= self.epochs:
            raise ValueError(f"figure_epochs={self.figure_epochs} must lie in 0..epochs={self.epochs}")
        self.configs()  # whatever a single training would refuse, refused now
        self.arm_configs()
        return self

    @classmethod
    def load(cls, profile: str, /, **changes: object) -> Self:
        """The study of ``params/<profile>.yaml``, with some values changed.

        Raises:
            InputError: an unknown profile or parameter, or a value that is not allowed.
        """
        if "profile" in changes:
            raise InputError(f"profile is given twice, {profile!r} and {changes['profile']!r}; name it once")
        path = paths.PARAMS / f"{profile}.yaml"
        if not path.is_file():
            near = difflib.get_close_matches(profile, PROFILES, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"profile={profile!r} is unknown; {hint}params/ has {', '.join(PROFILES)}")
        try:
            stored = yaml.safe_load(path.read_text())
        except yaml.YAMLError:
            stored = None
        if not isinstance(stored, dict):
            raise InputError(f"{path} holds no parameters, lines such as 'width: 16'")
        return cls(**{**stored, **changes})

    @classmethod
    def of_notebook(cls, profile: str, **parameters: object) -> Self:
        """The study that a notebook's ``parameters`` cell describes.

        Where the environment variable GRADCAM_GAN_PROFILE is set, that profile replaces the cell's values.
        """
        override = os.environ.get(PROFILE_VARIABLE)
        return cls.load(override) if override else cls.load(profile, **parameters)

    def changes(self) -> dict[str, Any]:
        """The values that differ from ``params/<profile>.yaml``."""
        stored = type(self).load(self.profile).model_dump() if self.profile in PROFILES else {}
        return {name: value for name, value in self.model_dump().items() if stored.get(name, ...) != value}

    def config(self, seed: int, padding: Padding = "zeros") -> TrainingConfig:
        """The training of one seed under one padding."""
        values = self.model_dump(include=set(TrainingConfig.model_fields))
        return TrainingConfig(**values, seed=seed, padding=padding)

    def configs(self) -> list[TrainingConfig]:
        """Every training of the study."""
        return [
            *(self.config(seed) for seed in self.seeds),
            *(self.config(seed, "background") for seed in self.background_seeds),
        ]

    def arm_configs(self) -> list[TrainingConfig]:
        """Every training of the pruning experiment."""
        arms: list[tuple[Arm, float | None]] = [(arm, None) for arm in self.pruning_arms]
        arms += [(arm, dose) for dose in self.pruning_doses for arm in self.pruning_dose_arms]
        return [self._arm_config(arm, share, seed) for arm, share in arms for seed in self.pruning_seeds]

    def _arm_config(self, arm: Arm, share: float | None, seed: int) -> TrainingConfig:
        fields = ("epoch", "method", "statistics", "evidence", "normalisation", "tau", "cut")
        pruning = Pruning(
            arm=arm,
            share=share,
            baseline_epochs=self.epochs,
            probe_images=self.probe_images,
            reference_images=self.reference_images,
            **{name: getattr(self, f"pruning_{name}") for name in fields},
        )
        return self.config(seed).changed(epochs=self.pruning_epochs, pruning=pruning)

    @property
    def runs_dir(self) -> Path:
        """Where the study's runs are kept."""
        return paths.RUNS / self.profile

    @property
    def figures_dir(self) -> Path:
        """Where the study's figures go."""
        return paths.FIGURES / self.profile

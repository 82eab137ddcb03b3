"""What one profile trains and looks at: the values of ``params/<profile>.yaml``, validated."""

import difflib
import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from gradcam_gan.errors import InputError
from gradcam_gan.models.options import MODELS, Padding, Preset
from gradcam_gan.studies import paths
from gradcam_gan.studies.arms import Arm, ArmKind, Method, Pruning, Statistics
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.validation import ValidatedModel

PROFILES = ("smoke", "quick", "seeds", "paper")
BASELINE_MODEL = "dcgan"
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
    pruning_arms: list[ArmKind] = Field(description="these delete as many images as the 70 % rule")
    pruning_dose_arms: list[ArmKind] = Field(description="these delete the shares in pruning_doses")
    pruning_doses: list[float]
    pruning_epoch: int | Literal["clearest"] = Field(description="whose D scores the images")
    pruning_method: Method
    pruning_statistics: Statistics
    pruning_evidence: Literal["real", "fake"]
    pruning_normalisation: Literal["max", "min-max"] | float
    pruning_tau: float
    pruning_cut: float
    comparison_seeds: list[int] = Field(min_length=1, description="networks that every model is trained with")
    comparison_epochs: int = Field(ge=1, description="how long; DCGAN's checkpoint after as many is compared")
    comparison_models: list[str] = Field(description="names in config.MODELS; DCGAN is always compared")
    comparison_times: list[float] = Field(
        min_length=1, description="t/T at which D's diffused input is explained, 0..1"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        once = dict.fromkeys(("seeds", "background_seeds", "pruning_seeds", "comparison_seeds"), "a seed")
        once |= {"pruning_arms": "an arm", "pruning_dose_arms": "an arm", "pruning_doses": "a dose"}
        once |= {"comparison_models": "a model", "comparison_times": "a time"}
        for name, what in once.items():
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={values} names {what} twice")
        for name in ("background_seeds", "pruning_seeds", "comparison_seeds"):
            if not set(getattr(self, name)) <= set(self.seeds):
                raise ValueError(f"{name}={getattr(self, name)} must be among seeds={self.seeds}")
        for name in ("pruning_epochs", "comparison_epochs"):
            if getattr(self, name) > self.epochs:
                raise ValueError(f"{name}={getattr(self, name)} must not exceed epochs={self.epochs}")
        if sorted(set(self.figure_epochs)) != self.figure_epochs:
            raise ValueError(f"figure_epochs={self.figure_epochs} must ascend")
        if not 0 <= self.figure_epochs[0] <= self.figure_epochs[-1] <= self.epochs:
            raise ValueError(f"figure_epochs={self.figure_epochs} must lie in 0..epochs={self.epochs}")
        for name in self.comparison_models:
            if name not in MODELS:
                near = difflib.get_close_matches(name, MODELS, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"choose of {', '.join(MODELS)}"
                raise ValueError(f"comparison_models={self.comparison_models}: {name!r} is unknown; {hint}")
        if BASELINE_MODEL in self.comparison_models:
            raise ValueError(
                f"comparison_models={self.comparison_models}: {BASELINE_MODEL} is always compared"
            )
        times = self.comparison_times
        if sorted(times) != times or not 0 <= times[0] <= times[-1] <= 1:
            raise ValueError(
                f"comparison_times={times} must ascend within 0..1: shares of the horizon T, beyond which no D has seen"
            )
        self.configs()  # whatever a single training would refuse, refused now
        self.arms()
        self.model_configs()
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

    def arms(self) -> list[Arm]:
        """Every training of the pruning experiment."""
        kinds: list[tuple[ArmKind, float | None]] = [(kind, None) for kind in self.pruning_arms]
        kinds += [(kind, dose) for dose in self.pruning_doses for kind in self.pruning_dose_arms]
        return [self._arm(kind, share, seed) for kind, share in kinds for seed in self.pruning_seeds]

    def _arm(self, kind: ArmKind, share: float | None, seed: int) -> Arm:
        fields = ("epoch", "method", "statistics", "evidence", "normalisation", "tau", "cut")
        pruning = Pruning(
            arm=kind,
            share=share,
            probe_images=self.probe_images,
            calibration_images=self.reference_images,
            **{name: getattr(self, f"pruning_{name}") for name in fields},
        )
        baseline = self.config(seed)
        return Arm(pruning, baseline.changed(epochs=self.pruning_epochs), baseline)

    def model_configs(self) -> list[TrainingConfig]:
        """Every training of the models that are compared with DCGAN; DCGAN's own are among ``configs``."""
        return [
            self.config(seed).changed(epochs=self.comparison_epochs, model=MODELS[name])
            for name in self.comparison_models
            for seed in self.comparison_seeds
        ]

    def compared_configs(self) -> list[TrainingConfig]:
        """DCGAN's trainings of the seeds that are compared, then the other models'."""
        return [*(self.config(seed) for seed in self.comparison_seeds), *self.model_configs()]

    @property
    def comparison_rows(self) -> list[int]:
        """The epochs of Figure 1 that the compared models reach, and their last."""
        shown = {epoch for epoch in self.figure_epochs if epoch < self.comparison_epochs}
        return sorted(shown | {self.comparison_epochs})

    @property
    def runs_dir(self) -> Path:
        """Where the study's runs are kept."""
        return paths.RUNS / self.profile

    @property
    def figures_dir(self) -> Path:
        """Where the study's figures go."""
        return paths.FIGURES / self.profile

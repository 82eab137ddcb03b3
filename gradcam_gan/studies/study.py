"""What one profile trains and looks at: ``params/base.yaml`` with the profile's differences, validated."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from gradcam_gan.errors import InputError
from gradcam_gan.models.options import (
    MODELS,
    PLAIN,
    PRESET_SIZE,
    Control,
    Guidance,
    MapSource,
    Model,
    Padding,
    Preset,
)
from gradcam_gan.studies import paths
from gradcam_gan.studies.prune_70.arms import Arm, ArmKind, Layer, Pruning, Rule
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.validation import ValidatedModel, choose

PROFILES = ("smoke", "quick", "study", "paper")
BASELINE_MODEL = "dcgan"
PLANTED_SEEDS = 1000  # from one planted discriminator to the next: more than a study has networks
# the parameters that decide what is measured of a network, beside its training's
MEASURED = ("figure_epochs", "probe_images", "calibration_images", "generated_images", "reference_images")
TABLES_VERSION = 2  # raised whenever the same network would have other tables
# the keys of METHODS, which this module, free of torch, cannot import
Explanation = Literal[
    "gradcam", "hirescam", "gradcam++", "xgradcam", "layercam", "eigencam", "scorecam", "ablationcam", "fullgrad",
    "occlusion", "lime", "integrated-gradients", "gradient-x-input",
]  # fmt: skip
PROFILE_VARIABLE = "GRADCAM_GAN_PROFILE"  # for nbval, which cannot inject parameters


class Pairs(ValidatedModel):
    """The regime of the paired comparisons (notebooks 3 and 4): many short trainings; else as the study's own."""

    seeds: list[int] = Field(description="networks that every arm and every model is trained with")
    train_images: int | None
    width: int
    learning_rate: float
    epochs: int = Field(ge=1)


class PruningStudy(Rule):
    """The pruning experiment of notebook 3: the rule, and who is trained again."""

    arms: list[ArmKind] = Field(description="these delete as many images as the 70 % rule")
    dose_arms: list[ArmKind] = Field(description="these delete the shares in doses")
    doses: list[float]


class ComparisonStudy(ValidatedModel):
    """The models of notebooks 4 and 5 beside DCGAN."""

    models: list[str] = Field(description="names of MODELS; DCGAN is always compared")
    times: list[float] = Field(min_length=1, description="t/T at which D's diffused input is explained, 0..1")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.models:
            choose("models", name, MODELS)
        if BASELINE_MODEL in self.models:
            raise ValueError(f"models={self.models}: {BASELINE_MODEL} is always compared")
        times = self.times
        if sorted(times) != times or not 0 <= times[0] <= times[-1] <= 1:
            raise ValueError(
                f"times={times} must ascend within 0..1: shares of the horizon T, beyond which no D has seen"
            )
        return self


class QualityStudy(ValidatedModel):
    """The comparison of explanations of notebook 6."""

    methods: list[Explanation] = Field(min_length=1)
    layers: list[Layer] = Field(min_length=1, description="of the methods that take one")
    epochs: list[int] = Field(min_length=1, description="of the study's discriminators")
    images: int = Field(ge=2, description="real images, and as many generated ones, that are explained")
    repeated_images: int = Field(ge=2, description="of either, for the measures that explain again")
    steps: int = Field(ge=1, description="in which the pixels of an image are replaced")
    noise: float = Field(gt=0, description="standard deviation, on the scale of [-1, 1]")
    planted_networks: int = Field(ge=1, description="discriminators with a planted marker for each seed")
    planted_train_images: int = Field(ge=4, description="real images, and as many others")
    planted_epochs: int = Field(ge=1)
    planted_images: int = Field(ge=2, description="held-out images with the marker that are explained")
    retrained_methods: list[Explanation]
    retrained_layer: Layer = Field(description="of the methods that take one")
    retrained_shares: list[float] = Field(description="of the pixels that are removed")
    retrained_seeds: list[int] = Field(min_length=1)
    retrained_images: int = Field(ge=4, description="real images, and as many others")
    retrained_width: int = Field(ge=1)


class GuidanceStudy(ValidatedModel):
    """The guided trainings of notebook 7, and what they are compared with."""

    models: list[str] = Field(min_length=1, description="names of MODELS that are guided; P4 is of the first")
    source: MapSource
    evidence: Literal["real", "fake"]
    alpha: float
    start: float
    controls: list[Control] = Field(min_length=1, description="of the first model, in the map's place")
    other_sources: list[MapSource] = Field(description="of the first model, in the place of source")
    other_alphas: list[float] = Field(description="likewise")
    other_starts: list[float] = Field(description="likewise")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.models:
            choose("models", name, MODELS)
        for name in ("source", "alpha", "start"):
            if getattr(self, name) in getattr(self, f"other_{name}s"):
                raise ValueError(f"other_{name}s={getattr(self, f'other_{name}s')} has {name} itself")
        self.arms()
        return self

    def arms(self) -> dict[str, Guidance]:
        """How every arm of the first model is guided, by name; all but the first differ from it in one thing."""
        own: dict[str, Any] = self.model_dump(include={"source", "evidence", "alpha", "start"})
        changes: dict[str, dict[str, Any]] = {"guided": {}}
        changes |= {control: {"control": control} for control in self.controls}
        changes |= {source: {"source": source} for source in self.other_sources}
        changes |= {f"alpha {alpha:g}": {"alpha": alpha} for alpha in self.other_alphas}
        changes |= {f"start {start:g}": {"start": start} for start in self.other_starts}
        return {name: Guidance(**own | change) for name, change in changes.items()}


class EarlierStudy(ValidatedModel):
    """The group's earlier work, of notebook 8: small networks of digits, with seeds of their own."""

    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(min_length=1)
    # 64: a batch
    regression_images: int = Field(ge=64, description="training images of the regression")
    regression_epochs: int = Field(ge=1)
    explained_images: int = Field(ge=2, description="held-out images whose maps are measured")
    few_images: int = Field(ge=64, description="training images of the classifiers")
    few_epochs: int = Field(ge=1)
    many_images: int = Field(ge=64, description="likewise, in the other setting")
    many_epochs: int = Field(ge=1)
    weight: float = Field(gt=0, le=1, description="of the heatmap that is added, on the scale of 0..1")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.few_images >= self.many_images:
            raise ValueError(
                f"few_images={self.few_images} must be fewer than many_images={self.many_images}"
            )
        return self


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
    figure_epochs: list[int] = Field(min_length=2, description="the rows of Figure 1")
    figure_digits: list[int] = Field(
        min_length=1, description="Figure 1 shows the first held-out image of each"
    )
    probe_images: int = Field(ge=10, description="held-out images that every measure is taken on")
    calibration_images: int = Field(ge=2, description="training images that set BatchNorm's statistics")
    generated_images: int = Field(ge=20, description="images of each generator that its scores are taken on")
    reference_images: tuple[int, int] | None = Field(
        description="held-out images, from which to before which, that scores compare with; None: all"
    )
    pairs: Pairs
    pruning: PruningStudy
    comparison: ComparisonStudy
    quality: QualityStudy
    guidance: GuidanceStudy
    earlier: EarlierStudy

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_once("seeds", "pairs.seeds", "pruning.arms", "pruning.dose_arms", "pruning.doses")
        self._check_once("comparison.models", "comparison.times", "quality.methods", "quality.layers")
        self._check_once("quality.epochs", "quality.retrained_methods", "quality.retrained_shares")
        self._check_once(
            "guidance.models", "guidance.controls", "guidance.other_sources", "guidance.other_alphas"
        )
        self._check_once("guidance.other_starts")
        self._check_once("earlier.seeds")
        self._check_quality()
        if not set(self.pairs.seeds) <= set(self.seeds):
            raise ValueError(f"pairs.seeds={self.pairs.seeds} must be among seeds={self.seeds}")
        if self.reference_images and not 0 <= self.reference_images[0] < self.reference_images[1]:
            raise ValueError(f"reference_images={self.reference_images} must ascend from 0 or above")
        if sorted(set(self.figure_epochs)) != self.figure_epochs:
            raise ValueError(f"figure_epochs={self.figure_epochs} must ascend")
        if not 0 <= self.figure_epochs[0] <= self.figure_epochs[-1] <= self.epochs:
            raise ValueError(f"figure_epochs={self.figure_epochs} must lie in 0..epochs={self.epochs}")
        self.configs()  # whatever a single training would refuse, refused now
        self.arms()
        self.compared_configs()
        self.guided_configs()
        return self

    def _value(self, name: str) -> Any:  # noqa: ANN401 - of any field
        """The value of a parameter by its dotted name."""
        section, _, field = name.rpartition(".")
        return getattr(getattr(self, section) if section else self, field)

    def _check_once(self, *names: str) -> None:
        for name in names:
            if len(set(self._value(name))) < len(self._value(name)):
                raise ValueError(f"{name}={self._value(name)} names one of them twice")

    def _check_quality(self) -> None:
        quality = self.quality
        if not 0 <= min(quality.epochs) <= max(quality.epochs) <= self.epochs:
            raise ValueError(f"quality.epochs={quality.epochs} must lie in 0..epochs={self.epochs}")
        if not all(0 < share < 1 for share in quality.retrained_shares):
            raise ValueError(f"quality.retrained_shares={quality.retrained_shares} must lie between 0 and 1")
        for name, most in (
            ("repeated_images", "images"),
            ("retrained_images", "planted_train_images"),
        ):
            if getattr(quality, name) > getattr(quality, most):
                raise ValueError(f"quality.{name}={getattr(quality, name)} must be at most quality.{most}")
        # TrainingConfig says what it refuses
        smaller = min(quality.planted_train_images, quality.retrained_images)
        if smaller < self.batch_size:
            raise ValueError(
                f"quality trains on {smaller} images of either kind, fewer than batch_size={self.batch_size}"
            )
        self.planted_configs(self.seeds[0])
        self.retrained_config(self.seeds[0])

    @classmethod
    def load(cls, profile: str, /, **changes: object) -> Self:
        """The study of ``params/base.yaml`` and ``params/<profile>.yaml``, with some values changed.

        Args:
            profile: one of ``PROFILES``.
            changes: by name; sections such as ``pruning`` take a mapping of their parameters, or one at a time under
                a dotted name, ``**{"pruning.tau": 0.5}``.

        Raises:
            InputError: an unknown profile or parameter, or a value that is not allowed; or there is no checkout.
        """
        if "profile" in changes:
            raise InputError(f"profile is given twice, {profile!r} and {changes['profile']!r}; name it once")
        choose("profile", profile, PROFILES)
        paths.check_checkout()
        values = _read(paths.PARAMS / "base.yaml")
        for layer in (_read(paths.PARAMS / f"{profile}.yaml"), changes):
            values = _merged(values, layer)
        return cls(profile=profile, **values)

    @classmethod
    def of_notebook(cls, profile: str, changes: Mapping[str, object] | None = None, **values: object) -> Self:
        """The study that a notebook's ``parameters`` cell describes.

        Where the environment variable GRADCAM_GAN_PROFILE is set, that profile replaces the cell's.

        Args:
            profile: one of ``PROFILES``.
            changes: any parameters by name, as for ``load``.
            values: parameters by name; None means: as the profile says.
        """
        if override := os.environ.get(PROFILE_VARIABLE):
            return cls.load(override)
        given = {name: value for name, value in values.items() if value is not None}
        return cls.load(profile, **given, **(changes or {}))

    def origin_of_tables(self, seed: int) -> dict[str, object]:
        """What the tables of one of its networks (``epoch_heatmaps.tables``) are made from, as JSON values."""
        return {
            "version": TABLES_VERSION,
            "run": self.config(seed).name,
            "measured": self.model_dump(mode="json", include=set(MEASURED)),
        }

    def has_tables(self, seed: int, folder: Path) -> bool:
        """Whether a network's tables are in a folder of figures, made as this study would make them."""
        path = folder / "networks" / f"{self.config(seed).name}.json"
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError):
            return False
        return self.origin_of_tables(seed).items() <= stored.items()

    @property
    def planned(self) -> int:
        """How many networks the profile plans; a study of fewer is an interim one."""
        return len(type(self).load(self.profile).seeds) if self.profile in PROFILES else len(self.seeds)

    @property
    def planned_earlier(self) -> int:
        """The same of the earlier work, whose seeds are its own."""
        stored = type(self).load(self.profile) if self.profile in PROFILES else self
        return len(stored.earlier.seeds)

    def changes(self) -> dict[str, Any]:
        """The values that differ from the profile's files, by dotted name."""
        stored = _flat(type(self).load(self.profile).model_dump()) if self.profile in PROFILES else {}
        return {
            name: value for name, value in _flat(self.model_dump()).items() if stored.get(name, ...) != value
        }

    def config(self, seed: int) -> TrainingConfig:
        """The training of one seed as in the paper."""
        values = self.model_dump(include=set(TrainingConfig.model_fields))
        return TrainingConfig(**values, seed=seed)

    def configs(self) -> list[TrainingConfig]:
        """Every training of notebooks 1 and 2."""
        return [self.config(seed) for seed in self.seeds]

    def paper28_config(self) -> TrainingConfig:
        """The 28x28 network whose published code the paper's layer lists match, of the first seed."""
        return self.config(self.seeds[0]).changed(preset="paper28", size=PRESET_SIZE["paper28"])

    def pair_config(
        self, seed: int, padding: Padding = "zeros", model: Model | None = None
    ) -> TrainingConfig:
        """The training of one seed in the regime of the paired comparisons."""
        values = self.pairs.model_dump(exclude={"seeds"})
        return self.config(seed).changed(**values, padding=padding, model=model)

    def planted_configs(self, seed: int) -> list[TrainingConfig]:
        """The trainings of discriminators with a planted marker, against the generator of one of the study's networks.

        Their own seeds are ``seed``, ``seed + PLANTED_SEEDS`` and so on: no two networks share one.
        """
        return [
            self.pair_config(seed).changed(
                seed=seed + i * PLANTED_SEEDS, epochs=self.quality.planted_epochs, train_images=None
            )
            for i in range(self.quality.planted_networks)
        ]

    def retrained_config(self, seed: int) -> TrainingConfig:
        """The training of a discriminator without what a map calls important, of any seed."""
        return self.pair_config(seed).changed(
            epochs=self.quality.planted_epochs, width=self.quality.retrained_width, train_images=None
        )

    def quality_configs(self, seed: int) -> list[TrainingConfig]:
        """Every training of notebook 6 for one network, as long as a GAN's on both of its two sets of images."""
        quality = self.quality
        planted = [
            config.changed(train_images=2 * quality.planted_train_images)
            for config in self.planted_configs(seed)
        ]
        retrained = self.retrained_config(seed).changed(train_images=2 * quality.retrained_images)
        count = len(quality.retrained_methods) * len(quality.retrained_shares) * len(quality.retrained_seeds)
        return [*planted, *[retrained] * count]

    def arms(self) -> list[Arm]:
        """Every training of the pruning experiment."""
        kinds: list[tuple[ArmKind, float | None]] = [(kind, None) for kind in self.pruning.arms]
        kinds += [(kind, dose) for dose in self.pruning.doses for kind in self.pruning.dose_arms]
        return [self._arm(kind, share, seed) for kind, share in kinds for seed in self.pairs.seeds]

    def _arm(self, kind: ArmKind, share: float | None, seed: int) -> Arm:
        pruning = Pruning(
            arm=kind,
            share=share,
            calibration_images=self.calibration_images,
            **self.pruning.model_dump(include=set(Rule.model_fields)),
        )
        return Arm(pruning, self.pair_config(seed), self.config(seed))

    def pair_configs(self) -> list[TrainingConfig]:
        """Every training in the regime of the paired comparisons but the pruning experiment's arms."""
        every = [*self.compared_configs(), *self.background_configs(), *self.needed_pairs("07")]
        return list({config.name: config for config in every}.values())

    def needed_networks(self, notebook: str) -> list[TrainingConfig]:
        """Those in the paper's regime that a notebook, its number first, reads itself, and not only their tables."""
        match notebook[:2]:
            case "00" | "01":
                return self.configs()[:1]
            case "02":
                return [self.configs()[0], self.paper28_config()]
            case "03" | "06":
                return self.configs()
        return []

    def needed_pairs(self, notebook: str) -> list[TrainingConfig]:
        """Those of the pairs that a notebook, its number first, reads; a plain one before those that go on from it."""
        compared = self.compared_configs()
        plain = compared[: len(self.pairs.seeds)]
        match notebook[:2]:
            case "03":
                return plain
            case "04" | "05":
                return compared
            case "07":
                return [config for configs in self.guided_configs().values() for config in configs]
            case "02":
                return [*plain, *self.background_configs()]
        return []

    def background_configs(self) -> list[TrainingConfig]:
        """The pairs' DCGANs whose first convolution pads with the background, for the cause of C5."""
        return [self.pair_config(seed, "background") for seed in self.pairs.seeds]

    def compared_configs(self) -> list[TrainingConfig]:
        """The pairs' DCGANs, then the other models, seed by seed."""
        models = [None, *(MODELS[name].model for name in self.comparison.models)]
        return [self.pair_config(seed, model=model) for model in models for seed in self.pairs.seeds]

    def guided_configs(self) -> dict[str, list[TrainingConfig]]:
        """The trainings of notebook 7 by arm, a list over seeds; a model comes plain, under its name, then guided."""
        guidance, arms = self.guidance, self.guidance.arms()
        models: dict[str, Model | None] = {}
        for name in guidance.models:
            plain = MODELS[name].model
            models[name] = plain
            for arm, options in arms.items() if name == guidance.models[0] else [("guided", arms["guided"])]:
                models[f"{name} {arm}"] = Model(**{**dict(plain or PLAIN), "guidance": options})
        return {
            arm: [self.pair_config(seed, model=model) for seed in self.pairs.seeds]
            for arm, model in models.items()
        }

    @property
    def comparison_rows(self) -> list[int]:
        """The epochs of Figure 1 that the compared models reach, and their last."""
        shown = {epoch for epoch in self.figure_epochs if epoch < self.pairs.epochs}
        return sorted(shown | {self.pairs.epochs})

    @property
    def runs_dir(self) -> Path:
        """Where the study's runs are kept."""
        return paths.RUNS / self.profile

    @property
    def figures_dir(self) -> Path:
        """Where the study's figures go, unless the caller names another folder."""
        return paths.FIGURES / self.profile


def _read(path: Path) -> dict[str, Any]:
    """The parameters of one file of ``params/``; one of comments alone changes nothing."""
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # no YAML, no UTF-8, or brackets without end
        stored = ""
    if stored is not None and not (
        isinstance(stored, dict) and all(isinstance(name, str) for name in stored)
    ):
        raise InputError(f"{path} holds no parameters, lines such as 'width: 16'")
    return stored or {}


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with some of them changed, by name, by dotted name, or a section's parameters in a mapping."""
    merged = dict(values)
    for name, value in changes.items():
        section, dot, field = name.partition(".")
        if dot:
            section, value = section, {field: value}
        inner = merged.get(section)
        merged[section] = (
            _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
        )
    return merged


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of sections by their dotted names, beside the others."""
    flat = {}
    for name, value in values.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat.update({f"{name}.{field}".rstrip("."): one for field, one in inner.items()})
    return flat

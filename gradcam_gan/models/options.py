"""What a GAN is made of, as validated options; no torch here, so that a configuration is read in no time."""

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from gradcam_gan.validation import ValidatedModel

Preset = Literal["paper64", "paper28"]
Padding = Literal["zeros", "background", "replicate"]
Normalisation = Literal["batch", "group"]
MapSource = Literal["gradcam", "hirescam", "gradient", "gradient-x-input"]
Control = Literal["shuffled", "another-image", "constant", "scalar"]
Width = Annotated[int, Field(ge=1, le=1024)]
PRESET_SIZE: dict[str, int] = {"paper64": 64, "paper28": 28}


class NetworkOptions(ValidatedModel):
    """What the constructors of the networks take, checked."""

    preset: Preset
    width: Width
    channels: int = Field(ge=1)
    padding: Padding = "zeros"
    normalisation: Normalisation = "batch"


class Diffusion(ValidatedModel):
    """How a network's input is diffused, and how the horizon T moves (Wang et al. 2023; Yeom & Lee 2023)."""

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
    """DuDGAN's classifier C and its part in the losses (Yeom & Lee 2023)."""

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


class Guidance(ValidatedModel):
    """How D's explanation of the generated images weights the gradient that G learns from (training/guidance.py)."""

    source: MapSource = Field(
        default="gradcam", description="of the map M; class activation maps are taken at conv3"
    )
    evidence: Literal["real", "fake"] = Field(default="fake", description="what M shows")
    alpha: float = Field(default=1.0, ge=0, description="of the weights 1 + alpha M; 0 is plain training")
    start: float = Field(
        default=0.5, ge=0, lt=1, description="share of the training that is plain; 0: guided from the start"
    )
    preserve_mean: bool = Field(default=False, description="divide an image's weights by their mean")
    control: Control | None = Field(
        default=None, description="what stands in M's place, so that an effect can be laid to the explanation"
    )


class Model(ValidatedModel):
    """What can be added to the DCGAN: classes, a diffusion of D's input, a classifier, guidance by explanations."""

    conditional: bool = Field(default=True, description="G and D are told the class")
    normalisation: Normalisation = Field(default="batch", description="in D and C")
    diffusion: Diffusion | None = Field(default=None, description="of D's input")
    classifier: ClassifierOptions | None = None
    gradient_penalty: float = Field(
        default=0.0, ge=0, description="gamma of R1 on real images, every 16 iterations"
    )
    averaging: float = Field(default=0.0, ge=0, lt=1, description="decay of G's moving average; 0: none")
    guidance: Guidance | None = Field(default=None, description="of G by D's explanations")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.classifier is not None and not self.conditional:
            raise ValueError(
                "a classifier needs conditional=true: its loss is about the class that G was told"
            )
        return self


PLAIN = Model(conditional=False)  # a DCGAN's parts


class NamedModel(NamedTuple):
    """A model with a name, and its place in the comparison.

    Attributes:
        model: None for the DCGAN, whose runs are named as before there were other models.
        compared_with: the name of the model that it adds to or, a variant of DuDGAN, takes a part from. Diffusion-GAN
            and DuDGAN are conditional here, and compared with a conditional DCGAN: the class is not their gain. Nor are
            DuDGAN's averaging of G and R1: its own conditional DCGAN has both.
        variant: whether it is Diffusion-GAN or DuDGAN with a part changed or left out: scored, but not pictured.
    """

    model: Model | None
    compared_with: str | None
    variant: bool = False


_STEADIED: dict[str, Any] = {"gradient_penalty": 0.01, "averaging": 0.99}
# DuDGAN's D goes up to T = 1000 (Yeom & Lee 2023)
_DUDGAN: dict[str, Any] = {
    "diffusion": Diffusion(longest=1000),
    "classifier": ClassifierOptions(),
    **_STEADIED,
}


def _dudgan_without(**parts: object) -> NamedModel:
    return NamedModel(Model(**{**_DUDGAN, **parts}), "dudgan", variant=True)


MODELS: dict[str, NamedModel] = {
    "dcgan": NamedModel(None, None),
    "conditional-dcgan": NamedModel(Model(), "dcgan"),
    "conditional-dcgan-averaged": NamedModel(Model(**_STEADIED), "conditional-dcgan"),
    # an open loop: under the published target T fell to its least here, and hardly anything was diffused
    "diffusion-gan": NamedModel(Model(diffusion=Diffusion(target=None, rise=1.0)), "conditional-dcgan"),
    "dudgan": NamedModel(Model(**_DUDGAN), "conditional-dcgan-averaged"),
    "diffusion-gan-adaptive": NamedModel(Model(diffusion=Diffusion()), "conditional-dcgan", variant=True),
    # G hears of C by the contrast alone, so without it there is no C
    "dudgan-no-contrast": _dudgan_without(classifier=None),
    "dudgan-no-classifier-diffusion": _dudgan_without(
        classifier=ClassifierOptions(diffusion=Diffusion(shortest=0, longest=0))
    ),
    "dudgan-no-discriminator-diffusion": _dudgan_without(diffusion=None),
}

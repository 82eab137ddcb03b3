"""Every way to explain that this package knows: its own two, pytorch-grad-cam's and captum's.

========================  ==================  ======================================================================
method                    unit                sign, and evidence against the score
========================  ==================  ======================================================================
``gradcam``               score               signed
``hirescam``              score               signed
``gradcam++``             score               one-sided; not free of scale: the library adds 1e-6 to squared gradients
``xgradcam``              score               signed; a channel whose activations sum to almost 0 weighs too much
``layercam``              score               one-sided
``eigencam``              activation          knows no score: the same map for and against
``scorecam``              activation          one-sided
``ablationcam``           score × activation  signed
``fullgrad``              none                not negative: the same map for and against
``occlusion``             score               signed
``lime``                  score               signed
``integrated-gradients``  score               signed
``gradient-x-input``      score               signed
========================  ==================  ======================================================================

No map has passed a ReLU, a normalisation or a resizing. Signed: negative where evidence speaks against the score.
One-sided: the formula is made for evidence for a score (it clamps gradients, or takes a softmax of scores); negative
values come from negative activations alone, and evidence against is that for minus the score.

A new method is one function and its line in ``METHODS``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from gradcam_gan.explaining import cam_library, captum_library
from gradcam_gan.explaining.scorer import Scorer

OWN_METHODS = ("gradcam", "hirescam")
IMAGE = "image"  # stands for the layer of a method that takes none


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to explain.

    Attributes:
        label: as figures and tables name it.
        unit: of its maps.
        one_sided: its formula takes the evidence for a score alone, so that evidence against is that for minus the
            score; otherwise it is minus the map.
        at_layer: whether its maps are of a layer, at that layer's resolution; others are of the image itself.
    """

    label: str
    unit: str = "score"
    one_sided: bool = False
    at_layer: ClassVar[bool] = True

    def at(self, layer: str) -> str:
        """Such as ``Grad-CAM at conv3``; of a method that takes no layer its label alone."""
        return f"{self.label} at {layer}" if self.at_layer else self.label


@dataclass(frozen=True, kw_only=True)
class Weighting(Method):
    """Needs a layer's activations and the gradient of the score with respect to them.

    Attributes:
        weigh: activations and gradients (N, C, h, w), float32 -> signed maps (N, h, w). No matrix products: a caller's
            autocast would take them.
    """

    weigh: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class LayerProbe(Method):
    """Runs the network again and again, on altered images or with an altered layer.

    Attributes:
        probe: scorer of the images, layer, its activations (N, C, h, w), batch size -> signed maps (N, h, w).
    """

    probe: Callable[[Scorer, nn.Module, Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class ImageAttribution(Method):
    """Takes no layer.

    Attributes:
        attribute: scorer of the images, batch size -> signed maps (N, H, W).
    """

    attribute: Callable[[Scorer, int], Tensor]
    at_layer: ClassVar[bool] = False


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k mean_ij(G_k) A_k: Selvaraju et al. 2017, equations 1 and 2 before the ReLU."""
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1)


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k G_k A_k: Draelos & Carin 2020, no averaging of the gradient."""
    return (gradients * activations).sum(1)


METHODS: dict[str, Method] = {
    "gradcam": Weighting(label="Grad-CAM", weigh=gradcam),
    "hirescam": Weighting(label="HiResCAM", weigh=hirescam),
    # Chattopadhay et al. 2018, Fu et al. 2020, Jiang et al. 2021, Muhammad & Yeasin 2020
    "gradcam++": Weighting(
        label="Grad-CAM++", one_sided=True, weigh=partial(cam_library.formula, "GradCAMPlusPlus")
    ),
    "xgradcam": Weighting(label="XGradCAM", weigh=partial(cam_library.formula, "XGradCAM")),
    "layercam": Weighting(label="LayerCAM", one_sided=True, weigh=partial(cam_library.formula, "LayerCAM")),
    "eigencam": Weighting(label="EigenCAM", unit="activation", one_sided=True, weigh=cam_library.eigen_cam),
    "scorecam": LayerProbe(label="ScoreCAM", unit="activation", one_sided=True, probe=cam_library.score_cam),
    "ablationcam": LayerProbe(label="AblationCAM", unit="score × activation", probe=cam_library.ablation_cam),
    "fullgrad": ImageAttribution(label="FullGrad", unit="", one_sided=True, attribute=cam_library.full_grad),
    "occlusion": ImageAttribution(label="Occlusion", attribute=captum_library.occlusion),
    "lime": ImageAttribution(label="LIME", attribute=captum_library.lime),
    "integrated-gradients": ImageAttribution(
        label="Integrated gradients", attribute=captum_library.integrated_gradients
    ),
    "gradient-x-input": ImageAttribution(label="Gradient × input", attribute=captum_library.gradient_x_input),
}

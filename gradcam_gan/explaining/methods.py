"""How a layer's activations and the gradient of the score with respect to them become a map.

A new method is one function and its line in ``METHODS``. No matrix products: a caller's autocast would take them.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Method(NamedTuple):
    """A way to explain.

    Attributes:
        label: as figures and tables name it.
        weigh: activations and gradients (N, C, h, w), float32 -> signed maps (N, h, w).
    """

    label: str
    weigh: Callable[[Tensor, Tensor], Tensor]


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k mean_ij(G_k) A_k: Selvaraju et al. 2017, equations 1 and 2 before the ReLU."""
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1)


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k G_k A_k: Draelos & Carin 2020, no averaging of the gradient."""
    return (gradients * activations).sum(1)


METHODS = {"gradcam": Method("Grad-CAM", gradcam), "hirescam": Method("HiResCAM", hirescam)}

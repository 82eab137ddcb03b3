"""What of a network's output is explained: a target makes one number an image of it.

Any callable from the network's output to a tensor (N,) is a target, such as ``lambda output: output["angle"]`` of a
network that returns a dictionary. One that needs a value of each image beside the output is a ``PerImage``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradcam_gan.errors import InputError
from gradcam_gan.models.dcgan import check_labels

Target = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class PerImage:
    """A target with a value of each image, which goes with the images into their batches.

    Attributes:
        function: from the network's output and the values of its images to numbers (N,).
        values: (N, ...), one for each image that is explained.
    """

    function: Callable[[Any, Tensor], Tensor]
    values: Tensor

    def __call__(self, output: Any) -> Tensor:  # noqa: ANN401 - whatever a network returns
        """The output for all these images -> (N,)."""
        return self.function(output, self.values)


def minus(target: Target) -> Target:
    """The target whose score is minus that of another: what speaks for it speaks against the other."""

    def negated(output: Any, *values: Tensor) -> Tensor:  # noqa: ANN401 - whatever a network returns
        function = target.function if isinstance(target, PerImage) else target
        scores = function(output, *values)
        # what is no tensor is refused later, with the reason
        return -scores if isinstance(scores, Tensor) else scores

    return PerImage(negated, target.values) if isinstance(target, PerImage) else negated


def real(output: Tensor) -> Tensor:
    """The logit for "real".

    Args:
        output: one logit an image, (N,) or (N, 1), or a patch map (N, 1, h, w), whose average is taken.

    Returns:
        float32 (N,).

    Raises:
        InputError: another output.
    """
    # a network that ends in squeeze() gives () for a single image
    if not isinstance(output, Tensor) or output.ndim not in (0, 1, 2, 4) or output.shape[1:2].numel() != 1:
        raise InputError(
            f"the network returned {_shape(output)}, which is no logit for “real”: one an image, as (N,), "
            "(N, 1) or a patch map (N, 1, h, w); give the target that makes a number of it, such as class_logit(3)"
        )
    logits = torch.atleast_1d(output.float())
    return logits.reshape(len(logits), -1).mean(1)


def class_logit(labels: int | Tensor) -> Target:
    """The logit of a class, of a network that returns (N, classes).

    Args:
        labels: the class to explain, or each image's own, whole numbers (N,).

    Raises:
        InputError: labels of another kind.
    """
    classes = torch.as_tensor(labels)
    if classes.ndim > 1 or classes.is_floating_point():
        raise InputError(
            f"labels are {classes.dtype} of shape {tuple(classes.shape)}; give a whole number, or one an image, (N,)"
        )
    if classes.ndim:
        return PerImage(_logits_of, classes.long())
    return partial(_logits_of, labels=classes.long())


def _logits_of(output: Tensor, labels: Tensor) -> Tensor:
    """Logits (N, classes), classes (N,) or () -> (N,).

    Raises:
        InputError: an output of another shape, or a class that it does not have.
    """
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise InputError(
            f"the network returned {_shape(output)}; a class's logit needs one of each class, (N, classes)"
        )
    own = labels.to(output.device).expand(len(output))
    check_labels(own, output.shape[1], "the network")
    return output.gather(1, own[:, None])[:, 0]


def _shape(output: object) -> str:
    """What an output is, for an error message."""
    return str(tuple(output.shape)) if isinstance(output, Tensor) else f"a {type(output).__name__}"

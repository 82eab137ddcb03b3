"""The readings that the studies compare: the same in every notebook, whatever else the library can explain."""

from itertools import product

from gradcam_gan.explaining.cam import Evidence
from gradcam_gan.run_explainer import STATISTICS, Reading, Statistics

COMPARED_METHODS = ("gradcam", "hirescam")
COMPARED_LAYERS = ("conv3", "norm3", "block3")  # of one size: a convolution's output, and what is made of it
SHOWN: tuple[Statistics, ...] = ("running", "settled")  # beside each other, epoch by epoch
EVIDENCES: tuple[Evidence, ...] = ("real", "fake")
# claims are judged under this one: the last convolution's output, as the paper's section 2 says, in eval mode
PRIMARY = Reading("gradcam", "running", "real", "conv3")
ALL_READINGS = tuple(
    Reading(method, statistics, evidence, layer)
    for layer, statistics, method, evidence in product(
        COMPARED_LAYERS, STATISTICS, COMPARED_METHODS, EVIDENCES
    )
)

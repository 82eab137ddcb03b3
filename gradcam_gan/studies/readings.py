"""The readings that the studies compare: the same in every notebook, whatever else the library can explain."""

from itertools import product

from gradcam_gan.explaining.cam import Evidence
from gradcam_gan.run_explainer import STATISTICS, Reading

COMPARED_METHODS = ("gradcam", "hirescam")
EVIDENCES: tuple[Evidence, ...] = ("real", "fake")
ALL_READINGS = tuple(Reading(*choice) for choice in product(COMPARED_METHODS, STATISTICS, EVIDENCES))
# claims are judged under these
READINGS = tuple(Reading("gradcam", *choice) for choice in product(STATISTICS, EVIDENCES))

import pytest

from gradcam_gan.studies import paths
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.which_explanation.tables import assessment

SMALL = {
    "width": 2, "epochs": 1, "train_images": 128, "batch_size": 32, "seeds": [0, 1], "figure_epochs": [0, 1],
    "precision": "float32", "device": "cpu", "threads": 1, "calibration_images": 32, "pruning.epoch": 1,
    "pairs.width": 2, "pairs.train_images": 128, "pairs.epochs": 1,
}  # fmt: skip
QUALITY = {
    "methods": ["gradcam", "hirescam", "gradient-x-input"], "layers": ["conv3", "block3"], "epochs": [0, 1],
    "images": 4, "repeated_images": 2, "steps": 2, "planted_networks": 1, "planted_train_images": 64,
    "planted_epochs": 1, "planted_images": 3, "retrained_methods": ["gradcam"], "retrained_shares": [0.1, 0.2],
    "retrained_seeds": [0, 1], "retrained_images": 32, "retrained_width": 2,
}  # fmt: skip


@pytest.fixture(scope="session")
def small_study():
    return Study.load("smoke", **SMALL, quality=QUALITY)


@pytest.fixture(scope="session")
def found(small_study, tmp_path_factory):
    """The assessments of both networks, kept in the folder that comes with them."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", folder)
        return [assessment(small_study, seed) for seed in small_study.seeds], folder

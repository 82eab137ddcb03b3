import pandas as pd
import pytest
import torch

from gradcam_gan.run_explainer import Reading
from gradcam_gan.studies.panels import beside, every_reading, panel
from gradcam_gan.studies.readings import ALL_READINGS, EVIDENCES

BOTH = [Reading("gradcam", "running", evidence) for evidence in EVIDENCES]


@pytest.fixture(scope="module")
def explained(explainer, digits):
    return explainer.explain(digits[:2], [1, 3])


def test_a_panel_has_a_row_per_epoch_and_a_block_of_columns_per_reading(explained, digits):
    found = panel(explained, BOTH, ["7, real", "2, real", "7, fake", "2, fake"])
    assert found.columns == ["7, real", "2, real", "7, fake", "2, fake"]
    assert found.rows == ["epoch 1", "epoch 3"]
    assert torch.equal(found.images, digits[[0, 1, 0, 1]])
    for block, reading in zip(found.maps.split(2, 1), BOTH, strict=True):
        assert torch.equal(block, explained.maps(reading))
    pd.testing.assert_frame_equal(found.table, explained.table(BOTH))


def test_panels_beside_each_other_are_the_panel_of_both(explained):
    names = ["7, real", "2, real", "7, fake", "2, fake"]
    real, fake = (panel(explained, [reading], names[2 * i : 2 * i + 2]) for i, reading in enumerate(BOTH))
    found, whole = beside(real, fake), panel(explained, BOTH, names)
    assert torch.equal(found.images, whole.images)
    assert torch.equal(found.maps, whole.maps)
    assert (found.rows, found.columns) == (whole.rows, whole.columns)
    pd.testing.assert_frame_equal(found.table, pd.concat([real.table, fake.table], ignore_index=True))


def test_every_reading_has_a_column_per_run_method_and_statistics(explainer, digits):
    explained = explainer.explain(digits[4:5], [1, 3])
    found = every_reading(explained, explained)
    assert found.maps.shape == (4, 8, 64, 64)
    assert found.rows == ["real, 1", "real, 3", "fake, 1", "fake, 3"]
    columns = [f"zeros\n{m}\n{s}" for m in ("Grad-CAM", "HiResCAM") for s in ("running", "reference")]
    assert found.columns == 2 * columns
    expected = explained.maps(Reading("hirescam", "running", "fake"))[:, 0]
    assert torch.equal(found.maps[2:, 2], expected)
    assert torch.equal(found.maps[2:, 6], expected)
    assert len(found.table) == 2 * 2 * len(ALL_READINGS)

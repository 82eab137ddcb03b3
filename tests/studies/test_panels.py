import pandas as pd
import pytest
import torch

from gradcam_gan.data import to_model_range
from gradcam_gan.run_explainer import Reading
from gradcam_gan.studies.panels import beside, panel, strip
from gradcam_gan.studies.readings import EVIDENCES

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


def test_the_images_shine_through_and_stay_when_panels_are_joined(explained, digits):
    found = beside(*(panel(explained, [reading], ["7", "2"]) for reading in BOTH))
    assert torch.equal(found.seen, to_model_range(digits[[0, 1, 0, 1]]).expand(2, -1, -1, -1, -1))


def test_a_strip_is_one_image_with_a_row_per_reading_and_a_column_per_epoch(explainer, digits):
    explained = explainer.explain(digits[4:5], [1, 3])
    found = strip(explained, BOTH, ["real", "fake"])
    assert (found.rows, found.columns) == (["real", "fake"], ["1", "3"])
    for row, reading in zip(found.maps, BOTH, strict=True):
        assert torch.equal(row, explained.maps(reading)[:, 0])
    assert found.seen.shape == (2, 2, 1, 64, 64)

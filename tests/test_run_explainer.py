from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from gradcam_gan.explaining.batchnorm import batch_statistics, calibrate
from gradcam_gan.explaining.cam import explain
from gradcam_gan.explaining.measures import COLUMNS, digit_mask, measure
from gradcam_gan.run_explainer import Reading, RunExplainer
from gradcam_gan.studies.readings import ALL_READINGS

REFERENCE = slice(500, 532)


def expected_discriminator(run, digits, epoch, statistics):
    """The discriminator made by hand, past RunExplainer."""
    trained = run.discriminator(epoch)
    if statistics == "reference":
        return calibrate(trained, digits[REFERENCE])
    return batch_statistics(trained) if statistics == "batch" else trained


@pytest.mark.parametrize("upsample", [True, False])
@pytest.mark.parametrize(
    "variant",
    [*ALL_READINGS, Reading("gradcam", "batch", "real"), Reading("hirescam", "batch", "signed")],
    ids=str,
)
def test_maps_equal_explain_on_the_same_discriminator(tiny_run, explainer, digits, variant, upsample):
    images = digits[:5]
    maps = explainer.maps(images, [2, 3], variant, upsample=upsample)
    for found, epoch in zip(maps, [2, 3], strict=True):
        discriminator = expected_discriminator(tiny_run, digits, epoch, variant.statistics)
        expected = explain(
            discriminator, images, method=variant.method, evidence=variant.evidence, upsample=upsample
        )
        assert torch.equal(found, expected)


def test_every_variant_gives_other_maps(explainer, digits):
    """Or the comparison above could not tell two variants apart."""
    maps = [explainer.maps(digits[:5], [3], variant) for variant in ALL_READINGS]
    for (i, one), (j, other) in product(enumerate(maps), repeat=2):
        assert (i == j) == torch.equal(one, other), (ALL_READINGS[i], ALL_READINGS[j])


def test_maps_come_in_the_order_of_the_epochs_asked_for(explainer, digits):
    maps = explainer.maps(digits[:3], [3, 0, 2], Reading())
    assert maps.shape == (3, 3, 64, 64)
    for found, epoch in zip(maps, [3, 0, 2], strict=True):
        assert torch.equal(found, explainer.maps(digits[:3], [epoch], Reading())[0])
    assert not torch.equal(maps[0], maps[1])


def test_signed_gives_both_methods_and_the_logits_of_one_pass(tiny_run, explainer, digits):
    signed, logits = explainer.signed(digits[:4], 3, "running")
    assert list(signed) == ["gradcam", "hirescam"]
    expected = tiny_run.discriminator(3)(digits[:4] / 127.5 - 1)
    torch.testing.assert_close(logits, expected.detach())


def test_each_discriminator_is_loaded_once(tiny_run, digits, monkeypatch):
    loaded = []
    original = type(tiny_run).discriminator

    def counted(run, epoch, device="cpu"):
        loaded.append(epoch)
        return original(run, epoch, device)

    monkeypatch.setattr(type(tiny_run), "discriminator", counted)
    explainer = RunExplainer(tiny_run, digits[REFERENCE])
    for variant in ALL_READINGS * 2:
        explainer.maps(digits[:2], [1, 2], variant)
    assert sorted(loaded) == [1, 1, 2, 2]  # once under running, once under reference statistics
    assert explainer.explained(1, "running") is explainer.explained(1, "running")
    assert explainer.explained(1, "running") is not explainer.explained(1, "reference")


def test_explaining_changes_neither_the_networks_nor_the_files(tiny_run, digits):
    files = {path: path.read_bytes() for path in tiny_run.path.rglob("*") if path.is_file()}
    explainer = RunExplainer(tiny_run, digits[REFERENCE])
    for statistics in ("reference", "batch", "running"):
        explainer.maps(digits[:3], [3], Reading("hirescam", statistics, "fake"))
    used, fresh = explainer.explained(3, "running"), tiny_run.discriminator(3)
    assert not used.training
    assert all(parameter.grad is None for parameter in used.parameters())
    assert used.state_dict().keys() == fresh.state_dict().keys()
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(used.state_dict()[name], tensor), name
    assert {path: path.read_bytes() for path in tiny_run.path.rglob("*") if path.is_file()} == files


def test_images_may_be_many_more_than_a_batch(explainer, digits):
    """Batches are put together in order, none twice."""
    maps = explainer.maps(digits[:150], [3], Reading(), upsample=False)[0]
    alone = explainer.maps(digits[149:150], [3], Reading(), upsample=False)[0]
    assert maps.shape == (150, 8, 8)
    torch.testing.assert_close(maps[149:], alone)


def test_a_variant_reads_as_words():
    assert str(Reading("hirescam", "running", "fake")) == "HiResCAM, running, fake"
    assert len(set(map(str, ALL_READINGS))) == len(ALL_READINGS) == 8


class TestExplainedRun:
    SOME = (Reading("gradcam", "reference", "real"), Reading("hirescam", "running", "fake"))

    @pytest.fixture(scope="class")
    def explained(self, explainer, digits):
        return explainer.explain(digits[:5])

    @pytest.mark.parametrize("reading", ALL_READINGS, ids=str)
    def test_its_measures_are_those_of_explain(self, explained, explainer, digits, reading):
        discriminator = explainer.explained(2, reading.statistics)
        maps = explain(discriminator, digits[:5], method=reading.method, evidence=reading.evidence)
        found = explained.at([2]).measures([reading])
        assert found["image"].tolist() == [0, 1, 2, 3, 4]
        pd.testing.assert_frame_equal(found[list(COLUMNS)], measure(maps, digit_mask(digits[:5])), rtol=1e-6)
        logits = discriminator(digits[:5] / 127.5 - 1).detach().numpy()
        np.testing.assert_allclose(found["logit"], logits, rtol=1e-4, atol=1e-5)

    def test_has_a_row_per_epoch_reading_and_image(self, explained):
        table = explained.measures(ALL_READINGS)
        keys = ["padding", "seed", "epoch", "method", "statistics", "evidence", "image"]
        assert list(table) == [*keys, "logit", *COLUMNS]
        assert len(table) == 4 * len(ALL_READINGS) * 5
        assert not table.duplicated(keys).any()
        assert explained.at([3, 1]).measures(self.SOME)["epoch"].unique().tolist() == [3, 1]

    def test_its_table_adds_the_maps_at_the_layers_resolution(self, explained, explainer, digits):
        table, measured = (
            make(self.SOME) for make in (explained.at([1, 3]).table, explained.at([1, 3]).measures)
        )
        names = [f"map_{row}_{column}" for row in range(8) for column in range(8)]
        assert [name for name in table if name.startswith("map_")] == names
        pd.testing.assert_frame_equal(table[list(measured)], measured)
        for reading, epoch in product(self.SOME, (1, 3)):
            network = explainer.explained(epoch, reading.statistics)
            options = {"method": reading.method, "evidence": reading.evidence, "upsample": False}
            maps = explain(network, digits[:5], **options)
            found = table[(table["variant"] == str(reading)) & (table["epoch"] == epoch)]
            assert np.array_equal(found[names].to_numpy(), maps.flatten(1).numpy())

"""``RunExplainer`` of the paper's DCGAN, then of the follow-up's models: told classes, diffused to a time, D and C."""

import gradcam_gan.torchvision_compat  # noqa: F401  (first: makes torchvision importable beside a CPU torch)

# isort: split
import math
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import refused
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import nn

from gradcam_gan.data import load_images
from gradcam_gan.errors import RunError
from gradcam_gan.explaining.batchnorm import batch_statistics, calibrate, settle
from gradcam_gan.explaining.cam import explain, signed_maps
from gradcam_gan.explaining.measures import COLUMNS, digit_mask, measure
from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.run_explainer import NOISE_SEED, Reading, RunExplainer
from gradcam_gan.studies.readings import ALL_READINGS, COMPARED_LAYERS, COMPARED_METHODS
from gradcam_gan.training import files
from gradcam_gan.training.loop import fixed_latents

# --- the paper's DCGAN: the maps are those of ``explain`` to the bit

REFERENCE = slice(500, 532)  # of ``explainer``


def maps_of(explainer, images, epochs, reading, **options):
    choice = {"statistics": [reading.statistics], "methods": [reading.method], "layers": [reading.layer]}
    return explainer.explain(images, epochs, **choice).maps(reading, **options)


def under(run, epoch, statistics, images):
    """The discriminator with statistics of real images, made past ``RunExplainer``."""
    discriminator = run.discriminator(epoch)
    if statistics == "reference":
        return calibrate(discriminator, images)
    if statistics == "settled":
        with torch.inference_mode():
            made = torch.cat([run.generator(epoch)(latents) for latents in fixed_latents(1024).split(64)])
        return settle(discriminator, images, made)
    return batch_statistics(discriminator) if statistics == "batch" else discriminator


def test_what_is_kept_with_the_run_is_what_was_explained_and_needs_no_network(
    tiny_run, explainer, digits, monkeypatch
):
    choices = {"statistics": ["running", "settled"], "methods": ["gradcam", "eigencam"]}
    explained = explainer.explain(digits[:3], **choices)
    explainer.explain(digits[:3], **choices, keep=True)
    monkeypatch.delattr(type(tiny_run), "discriminator")
    again = RunExplainer(tiny_run, digits[REFERENCE])
    found = again.explain(digits[:3], **choices, keep=True)
    assert found.epochs == explained.epochs
    for method, evidence, statistics in product(choices["methods"], ("real", "fake"), choices["statistics"]):
        reading = Reading(method, statistics, evidence)
        assert found.maps(reading).equal(explained.maps(reading))
        one, theirs = (some.at([3, 1]).of([2, 0]).table([reading]) for some in (found, explained))
        pd.testing.assert_frame_equal(one, theirs)
    for images, other in ((digits[1:4], {}), (digits[:3], {"layers": ["norm3"]})):
        with pytest.raises(AttributeError):
            again.explain(images, **choices | other, keep=True)
    with pytest.raises(AttributeError):  # settled statistics are of other images
        RunExplainer(tiny_run, digits[:32]).explain(digits[:3], **choices, keep=True)


@pytest.mark.parametrize("statistics", ["running", "settled", "reference", "batch"])
def test_maps_of_several_layers_equal_explain_on_the_same_discriminator(
    tiny_run, explainer, digits, statistics
):
    epochs = [3, 0, 2]  # in the order asked for
    explained = explainer.explain(digits[:5], epochs, statistics=[statistics], layers=COMPARED_LAYERS)
    discriminators = [under(tiny_run, epoch, statistics, digits[REFERENCE]) for epoch in epochs]
    for layer, method, evidence, upsample in product(
        COMPARED_LAYERS, COMPARED_METHODS, ("real", "fake", "signed"), (True, False)
    ):
        maps = explained.maps(Reading(method, statistics, evidence, layer), upsample=upsample)
        options = {"method": method, "layer": layer, "evidence": evidence, "upsample": upsample}
        for found, discriminator in zip(maps, discriminators, strict=True):
            assert torch.equal(found, explain(discriminator, digits[:5], **options))
        assert not torch.equal(maps[0], maps[1])


def test_every_reading_gives_other_maps(explainer, digits):
    """Or the comparison above could not tell two readings apart."""
    explained = explainer.explain(digits[:5], [3], layers=COMPARED_LAYERS)
    maps = {reading: explained.maps(reading) for reading in ALL_READINGS}
    assert not [pair for pair in combinations(maps, 2) if torch.equal(*(maps[one] for one in pair))]
    assert len(set(map(str, ALL_READINGS))) == len(ALL_READINGS) == 36
    assert str(Reading("hirescam", "settled", "fake", "norm3")) == "HiResCAM at norm3, settled, fake"


def test_every_method_is_read_as_explain_gives_it(tiny_run, explainer, digits):
    explained = explainer.explain(digits[:3], [3], statistics=["running"], methods=tuple(METHODS))
    for method, evidence in product(METHODS, ("real", "fake", "signed")):
        found = explained.maps(Reading(method, evidence=evidence))[0]
        expected = explain(tiny_run.discriminator(3), digits[:3], method=method, evidence=evidence)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        measured = explained.measures([Reading(method, evidence=evidence)])
        pd.testing.assert_frame_equal(measured[list(COLUMNS)], measure(found, digit_mask(digits[:3])))
    assert str(Reading("lime", "settled", "fake")) == "LIME, settled, fake"


def test_each_discriminator_is_loaded_once(tiny_run, digits, monkeypatch):
    loaded, original = [], type(tiny_run).discriminator

    def counted(run, epoch, device="cpu"):
        loaded.append(epoch)
        return original(run, epoch, device)

    monkeypatch.setattr(type(tiny_run), "discriminator", counted)
    explainer = RunExplainer(tiny_run, digits[REFERENCE])
    for reading in ALL_READINGS * 2:
        maps_of(explainer, digits[:2], [1, 2], reading)
    assert sorted(loaded) == [1, 1, 1, 2, 2, 2]  # once under each kind of statistics


def test_explaining_changes_neither_the_networks_nor_the_files(tiny_run, digits):
    before = {path: path.read_bytes() for path in tiny_run.path.rglob("*") if path.is_file()}
    explainer = RunExplainer(tiny_run, digits[REFERENCE])
    explainer.explain(digits[:3], [3], statistics=("reference", "settled", "batch", "running"))
    used, fresh = explainer.explained(3, "running"), tiny_run.discriminator(3)
    assert not used.training
    assert all(parameter.grad is None for parameter in used.parameters())
    assert used.state_dict().keys() == fresh.state_dict().keys()
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(used.state_dict()[name], tensor), name
    assert {path: path.read_bytes() for path in tiny_run.path.rglob("*") if path.is_file()} == before


def test_images_may_be_many_more_than_a_batch(explainer, digits):
    """Batches are put together in order, none twice."""
    maps = maps_of(explainer, digits[:150], [3], Reading(), upsample=False)[0]
    alone = maps_of(explainer, digits[149:150], [3], Reading(), upsample=False)[0]
    assert maps.shape == (150, 8, 8)
    torch.testing.assert_close(maps[149:], alone)


class TestExplainedRun:
    SOME = (Reading("gradcam", "reference", "real"), Reading("hirescam", "running", "fake"))

    @pytest.fixture(scope="class")
    @classmethod
    def explained(cls, explainer, digits):
        return explainer.explain(digits[:5], layers=COMPARED_LAYERS)

    @pytest.mark.parametrize("reading", ALL_READINGS, ids=str)
    def test_its_measures_are_those_of_explain(self, explained, explainer, digits, reading):
        discriminator = explainer.explained(2, reading.statistics)
        options = {"method": reading.method, "layer": reading.layer, "evidence": reading.evidence}
        maps = explain(discriminator, digits[:5], **options)
        found = explained.at([2]).measures([reading])
        assert found["image"].tolist() == [0, 1, 2, 3, 4]
        pd.testing.assert_frame_equal(found[list(COLUMNS)], measure(maps, digit_mask(digits[:5])), rtol=1e-6)
        logits = discriminator(digits[:5] / 127.5 - 1).detach().numpy()
        np.testing.assert_allclose(found["logit"], logits, rtol=1e-4, atol=1e-5)

    def test_has_a_row_per_epoch_reading_and_image(self, explained):
        table = explained.measures(ALL_READINGS)
        keys = ["padding", "seed", "epoch", "method", "statistics", "evidence", "layer", "image"]
        assert list(table) == [*keys, "logit", *COLUMNS]
        assert len(table) == 4 * len(ALL_READINGS) * 5
        assert not table.duplicated(keys).any()
        assert explained.at([3, 1]).measures(self.SOME)["epoch"].unique().tolist() == [3, 1]

    def test_its_table_adds_the_maps_at_the_layers_resolution(self, explained):
        table, measured = (
            make(self.SOME) for make in (explained.at([1, 3]).table, explained.at([1, 3]).measures)
        )
        names = [f"map_{row}_{column}" for row in range(8) for column in range(8)]
        assert [name for name in table if name.startswith("map_")] == names
        pd.testing.assert_frame_equal(table[list(measured)], measured)
        for reading, (row, epoch) in product(self.SOME, enumerate((1, 3))):
            found = table[(table["reading"] == str(reading)) & (table["epoch"] == epoch)]
            maps = explained.at([1, 3]).maps(reading, upsample=False)[row]
            assert np.array_equal(found[names].to_numpy(), maps.flatten(1).numpy())


# --- the follow-up's models

# of 12 iterations 0, 4 and 12 have moved T after epochs 0, 1 and 2
HORIZONS = {
    ("dudgan", "discriminator"): [10, 10 + round(290 / 3), 300],
    ("dudgan", "classifier"): [5, 5 + round(95 / 3), 100],
    ("diffusion", "discriminator"): [4, 4 + round(196 / 3), 200],
    ("dcgan", "discriminator"): [0, 0, 0],
}
SIGMA = dict(zip(HORIZONS, (0.3, 0.1, 0.2, 0.0), strict=True))
DUDGAN, CLASSIFIER, UNCONDITIONAL, DCGAN = HORIZONS
every_network = pytest.mark.parametrize("which", HORIZONS, ids="-".join)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
LABELS = torch.tensor([3, 0, 9, 3, 7, 9])


@pytest.fixture(scope="module")
def held_out():
    return load_images("mnist-5k", 28, "test")


@pytest.fixture(scope="module")
def images(held_out):
    return held_out.images[:6]


@pytest.fixture(scope="module")
def reference(held_out):
    return held_out.images[100:140], held_out.labels[100:140]


@pytest.fixture(scope="module")
def explainers(follow_up_runs, reference):
    images, labels = reference
    return {
        (name, network): RunExplainer(
            follow_up_runs[name], images, calibration_labels=labels, network=network
        )
        for name, network in HORIZONS
    }


# --- the same explanations, made past RunExplainer and Diffused


def noised(images, times, horizon, sigma, noise=None):
    """y_t by the closed form, image by image; ``times`` is one for all, or a list."""
    if noise is None:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(NOISE_SEED))
    betas = np.linspace(1e-4, 0.02, horizon)
    shares = [float(np.prod(1 - betas[:time])) for time in np.broadcast_to(times, len(images)).tolist()]
    return torch.stack(
        [
            math.sqrt(share) * (image / 127.5 - 1) + math.sqrt(1 - share) * sigma * own
            for share, image, own in zip(shares, images, noise, strict=True)
        ]
    )


class Seeing(nn.Module):
    """A network that sees these images whatever it is given: noise may leave the range that ``explain`` takes."""

    def __init__(self, network, seen, labels, time):
        super().__init__()
        self.network, self.seen, self.labels = network, seen, labels
        self.named_layers = network.named_layers
        self.times = torch.as_tensor(time).expand(len(seen))

    def forward(self, images):
        if hasattr(self.network, "both"):  # a classifier: the logit of each image's class
            return self.network(self.seen)[range(len(self.seen)), self.labels]
        told = {"labels": self.labels} if getattr(self.network, "classes", 0) else {}
        if getattr(self.network, "timed", False):
            told["times"] = self.times
        return self.network(self.seen, **told)


def as_in_training(run, which, epoch, images):
    """uint8 images diffused by hand, by the training's own list, and their times."""
    if not SIGMA[which]:
        return images / 127.5 - 1, torch.zeros(len(images), dtype=torch.int64)
    generator = torch.Generator().manual_seed(NOISE_SEED)
    folder = run.path / f"checkpoints/epoch-{epoch:04d}"
    listed = files.read_tensors(folder / f"{which[1]}_diffusion.safetensors")["times"]
    times = listed[torch.randint(64, images.shape[:1], generator=generator)]
    noise = torch.randn(images.shape, generator=generator)
    return noised(images, times, HORIZONS[which][epoch], SIGMA[which], noise), times


def calibrated(run, which, epoch, reference):
    """A copy of the network with statistics of reference images."""
    images, labels = reference
    seen, times = as_in_training(run, which, epoch, images)
    return calibrate(Seeing(getattr(run, which[1])(epoch), seen, labels, times), images).network


def settled(run, which, epoch, reference):
    """A copy of the network whose statistics settled on reference and generated images; C saw no generated ones."""
    network, generator = getattr(run, which[1])(epoch), run.generator(epoch)
    images, told = {"real": reference[0]}, {"real": reference[1], "generated": torch.arange(1024) % 10}
    with torch.inference_mode():
        asked = [told["generated"]] if generator.classes else []
        made = [
            generator(*parts)
            for parts in zip(*(x.split(64) for x in [fixed_latents(1024), *asked]), strict=True)
        ]
        images["generated"] = 127.5 * (torch.cat(made) + 1)
    if which == CLASSIFIER:
        images["generated"], told = images["real"], {}
    seen, conditions = {}, {}
    for name in images:
        seen[name], times = as_in_training(run, which, epoch, images[name])
        conditions[name] = {}
        if getattr(network, "classes", 0) and told:
            conditions[name]["labels"] = told[name]
        if getattr(network, "timed", False):
            conditions[name]["times"] = times
    return settle(network, **seen, conditions=conditions, noise=SIGMA[which])


@pytest.fixture(scope="module")
def by_hand(follow_up_runs, reference, images):
    """A function that makes the network behind an explanation, with all that it sees."""

    def by_hand(which, epoch, statistics, time):
        network = getattr(follow_up_runs[which[0]], which[1])(epoch)
        if statistics in ("reference", "settled"):
            make = calibrated if statistics == "reference" else settled
            network = make(follow_up_runs[which[0]], which, epoch, reference)
        elif statistics == "batch":
            network = batch_statistics(network)
        return Seeing(network, noised(images, time, HORIZONS[which][epoch], SIGMA[which]), LABELS, time)

    return by_hand


def times_of(which, epoch):
    horizon = HORIZONS[which][epoch]
    return [0, horizon // 2, horizon] if horizon else [0]


@every_network
class TestEveryNetwork:
    @pytest.mark.parametrize("statistics", ["running", "settled", "reference", "batch"])
    def test_maps_and_logits_are_those_of_a_network_made_by_hand(
        self, which, statistics, explainers, images, by_hand
    ):
        for epoch in (1, 2):
            for time in times_of(which, epoch):
                found, logits = explainers[which].signed(images, epoch, statistics, labels=LABELS, time=time)
                expected, scores = signed_maps(by_hand(which, epoch, statistics, time), images)
                torch.testing.assert_close(logits, scores, **CLOSE)
                for method, maps in found.items():
                    torch.testing.assert_close(maps, expected[method], **CLOSE)

    def test_class_time_epoch_and_statistics_each_matter(self, which, explainers, images):
        """Or the comparison above could not tell them apart."""
        options = {"epoch": 2, "statistics": "running", "labels": LABELS, "time": times_of(which, 1)[-1]}
        changes = {"epoch": 1, "statistics": "reference"}
        if which[0] == "dudgan":
            changes["labels"] = (LABELS + 1) % 10
        if which[0] != "dcgan":
            changes["time"] = options["time"] // 2
        maps, logits = explainers[which].signed(images, **options)
        for option, value in changes.items():
            others, scores = explainers[which].signed(images, **{**options, option: value})
            assert ((logits - scores).abs() > 5e-3 * logits.abs()).all(), option
            own, other = (found["conv3", "hirescam"] for found in (maps, others))
            assert ((own - other).abs().amax((1, 2)) > 5e-3 * own.abs().amax((1, 2))).all(), option

    def test_hirescam_at_the_last_block_sums_to_the_logit(self, which, explainers, images):
        for statistics in ("running", "reference"):
            time = times_of(which, 2)[-1]
            maps, logits = explainers[which].signed(
                images, 2, statistics, layers=["block3"], labels=LABELS, time=time
            )
            network = explainers[which].explained(2, statistics)
            bias = network.head.bias.detach()[LABELS] if which == CLASSIFIER else 0
            torch.testing.assert_close(maps["block3", "hirescam"].sum((1, 2)), logits - bias, **CLOSE)

    def test_images_are_diffused_by_the_closed_form(self, which, explainers, images):
        for epoch in range(3):
            assert torch.equal(explainers[which].diffused(images, epoch, 0), images / 127.5 - 1)
            for time in times_of(which, epoch):
                expected = noised(images, time, HORIZONS[which][epoch], SIGMA[which])
                found = explainers[which].diffused(images, epoch, time)
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_reference_statistics_are_of_images_diffused_as_in_training(
        self, which, follow_up_runs, explainers, reference
    ):
        found = dict(explainers[which].explained(2, "reference").named_buffers())
        expected = calibrated(follow_up_runs[which[0]], which, 2, reference).named_buffers()
        compared = [torch.testing.assert_close(found[name], value, **CLOSE) for name, value in expected]
        assert len(compared) >= 4

    def test_measures_are_of_the_diffused_image_against_the_undiffused_digit(
        self, which, explainers, images, by_hand
    ):
        time, reading = times_of(which, 1)[-1], Reading("hirescam", "running", "real")
        explained = explainers[which].explain(images, [1], labels=LABELS, time=time)
        found, network = explained.measures([reading]), by_hand(which, 1, "running", time)
        maps = explain(network, images, method="hirescam", evidence="real")
        torch.testing.assert_close(explained.maps(reading)[0], maps, **CLOSE)
        # the counts of tied or near pixels move with rounding
        columns = ["focus_lift", "border_lift", "entropy", "all_zero", "mask_area"]
        pd.testing.assert_frame_equal(found[columns], measure(maps, digit_mask(images))[columns], rtol=2e-3)
        np.testing.assert_allclose(found["logit"], network(None).detach(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("which", [DUDGAN, CLASSIFIER, UNCONDITIONAL], ids="-".join)
@pytest.mark.parametrize("library", [GradCAM, HiResCAM], ids=["gradcam", "hirescam"])
def test_maps_of_diffused_images_agree_with_pytorch_grad_cam(
    which, library, follow_up_runs, explainers, images
):
    method, time = library.__name__.lower(), HORIZONS[which][2] // 2
    seen = noised(images, time, HORIZONS[which][2], SIGMA[which])
    explained = explainers[which].explain(images, [2], labels=LABELS, time=time)
    network, shown = getattr(follow_up_runs[which[0]], which[1])(2), 0
    for evidence, sign in (("real", 1), ("fake", -1)):
        ours = explained.maps(Reading(method, "running", evidence))[0]
        for i in range(len(images)):
            bound = Seeing(network, seen[i : i + 1], LABELS[i : i + 1], time)
            with library(bound, [network.named_layers["conv3"]]) as cam:
                theirs = cam(seen[i : i + 1], [lambda output, sign=sign: sign * output.sum()])
            normalised = scale_cam_image(scale_cam_image(ours[i : i + 1].numpy()))
            assert np.abs(normalised - theirs).max() < 1e-3
            shown += theirs.any()
    assert shown >= len(images)  # a map is not compared with nothing


def test_the_noise_is_the_same_on_every_call_and_for_every_time_and_epoch(explainers, images):
    before, found = torch.get_rng_state(), []
    for epoch, time in [(1, 50), (1, 107), (2, 200)]:
        share = np.prod(1 - np.linspace(1e-4, 0.02, HORIZONS[DUDGAN][epoch])[:time])
        signal = math.sqrt(share) * (images / 127.5 - 1)
        seen = explainers[DUDGAN].diffused(images, epoch, time)
        found.append((seen - signal) / math.sqrt(1 - share) / 0.3)
    for noise in found[1:]:
        torch.testing.assert_close(noise, found[0], rtol=0, atol=1e-4)
    assert not torch.allclose(found[0][0], found[0][1], atol=0.1)  # each image has its own
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_are_not_used_by_a_network_that_is_told_none(explainers, images):
    for labels in (LABELS, torch.zeros(2, dtype=torch.uint8)):
        explained = [
            explainers[UNCONDITIONAL].signed(images, 2, "reference", labels=told, time=3)
            for told in (None, labels)
        ]
        assert torch.equal(explained[0][1], explained[1][1])


@pytest.mark.parametrize(
    ("which", "changes", "expected"),
    [
        (DUDGAN, {"labels": None}, "is told the class of each image: labels must be 6 whole"),
        (CLASSIFIER, {"labels": None, "time": 50}, "the classifier of"),
        (DUDGAN, {"labels": LABELS[:5]}, "labels must be 6 whole numbers, got torch.int64 of shape (5,)"),
        (DUDGAN, {"labels": LABELS.float()}, "labels must be 6 whole numbers, got torch.float32"),
        (DUDGAN, {"labels": LABELS + 1}, "labels go from 1 to 10; they must lie in 0..9"),
        (CLASSIFIER, {"labels": LABELS - 1}, "labels go from -1 to 8; they must lie in 0..9"),
        (DUDGAN, {"time": 301}, "which knows whole numbers in 0..T=300 after epoch 2"),
        (DUDGAN, {"epoch": 1, "time": 108}, "which knows whole numbers in 0..T=107 after epoch 1"),
        (CLASSIFIER, {"time": 101}, "which knows whole numbers in 0..T=100 after epoch 2"),
        (DUDGAN, {"time": 2.5}, "time=2.5 was never seen by the discriminator of"),
        (DCGAN, {"time": 1}, "which knows no diffusion: only 0"),
        (DUDGAN, {"epoch": 3}, "has no epoch 3; it has 0 to 2"),
    ],
)
def test_bad_input_is_said_in_one_line(which, changes, expected, explainers, images):
    options = {"epoch": 2, "statistics": "running", "labels": LABELS} | changes
    assert expected in refused(explainers[which].signed, images, **options)
    if "time" in changes and options["labels"] is not None:
        assert expected in refused(explainers[which].diffused, images, options["epoch"], options["time"])


def test_missing_classes_of_the_reference_are_said(follow_up_runs, reference, images):
    explainer = RunExplainer(follow_up_runs["dudgan"], reference[0])
    message = refused(explainer.signed, images, 2, "reference", labels=LABELS)
    assert "calibration_labels must be 40 whole numbers, got none" in message
    assert len(explainer.signed(images, 2, "running", labels=LABELS)[1]) == 6  # needs none


def test_an_unknown_network_and_a_run_without_a_classifier_are_said(follow_up_runs, reference, images):
    message = refused(RunExplainer, follow_up_runs["dudgan"], reference[0], network="clasifier")
    assert "network='clasifier' is unknown; did you mean 'classifier'?" in message
    explainer = RunExplainer(follow_up_runs["dcgan"], reference[0], network="classifier")
    assert "has no classifier" in refused(explainer.signed, images, 2, "running", labels=LABELS)


@every_network
def test_each_network_of_a_run_has_its_own_diffusion(which, follow_up_runs):
    name, network = which
    for epoch, horizon in enumerate(HORIZONS[which]):
        state = follow_up_runs[name].diffusion(epoch, network)
        if name == "dcgan":
            assert state is None
            continue
        assert (state.horizon, state.sigma) == (horizon, SIGMA[which])
        assert not state.times[:32].any()
        assert 1 <= state.times[32:].min() <= state.times.max() <= horizon


def test_a_damaged_diffusion_says_what_to_do(follow_up_runs):
    path = follow_up_runs["diffusion"].path / "checkpoints/epoch-0000/discriminator_diffusion.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(b"cut")
        assert "train again for the same weights" in refused(
            follow_up_runs["diffusion"].diffusion, 0, error=RunError
        )
    finally:
        path.write_bytes(whole)

import dataclasses
import shutil

import gradcam_gan.torchvision_compat  # noqa: F401  (first: makes torchvision importable beside a CPU torch)

# isort: split
import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import randomised, refused
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from scipy import stats
from torch import nn

from gradcam_gan.data import load_images
from gradcam_gan.errors import RunError
from gradcam_gan.explaining.batchnorm import batch_statistics, calibrate
from gradcam_gan.explaining.cam import explain, signed_maps
from gradcam_gan.explaining.measures import COLUMNS, digit_mask, measure
from gradcam_gan.models.options import ClassifierOptions, Diffusion, Model
from gradcam_gan.run_explainer import METHODS, NOISE_SEED, Reading, RunExplainer
from gradcam_gan.scoring.scores import LATENT_SEED
from gradcam_gan.studies import model_maps
from gradcam_gan.studies.epochs import heatmap_table, measure_epochs
from gradcam_gan.studies.panels import Panel
from gradcam_gan.studies.readings import ALL_READINGS
from gradcam_gan.studies.style import GAP, heatmap_grid
from gradcam_gan.training import files
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import fixed_latents, train

# D and C differ in everything, so that neither can be taken for the other; T is known from the number of iterations
DUDGAN = Model(
    diffusion=Diffusion(shortest=10, longest=300, target=None, rise=1.0, sigma=0.3),
    classifier=ClassifierOptions(
        diffusion=Diffusion(shortest=5, longest=100, target=None, rise=1.0, sigma=0.1)
    ),
    averaging=0.9,
)
UNCONDITIONAL = Model(
    conditional=False, diffusion=Diffusion(shortest=4, longest=200, target=None, rise=1.0, sigma=0.2)
)
MODELS = {"dudgan": DUDGAN, "diffusion": UNCONDITIONAL, "dcgan": None}
# of 12 iterations 0, 4 and 12 have moved T after epochs 0, 1 and 2
HORIZONS = {
    ("dudgan", "discriminator"): [10, 10 + round(290 / 3), 300],
    ("dudgan", "classifier"): [5, 5 + round(95 / 3), 100],
    ("diffusion", "discriminator"): [4, 4 + round(196 / 3), 200],
    ("dcgan", "discriminator"): [0, 0, 0],
}
SIGMA = {
    ("dudgan", "discriminator"): 0.3,
    ("dudgan", "classifier"): 0.1,
    ("diffusion", "discriminator"): 0.2,
    ("dcgan", "discriminator"): 0.0,
}
NETWORKS = list(HORIZONS)
every_network = pytest.mark.parametrize("which", NETWORKS, ids="-".join)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    fields = {
        "preset": "paper28",
        "width": 2,
        "epochs": 2,
        "train_images": 96,
        "batch_size": 16,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
    }
    runs = {name: train(TrainingConfig(model=model, **fields), folder) for name, model in MODELS.items()}
    for name, network in NETWORKS:
        for epoch in range(3):
            randomise(runs[name], network, epoch)
    return runs


def randomise(run, kind, epoch):
    """Weights of trained size in the run's files: after twelve steps such small networks all but ignore the image."""
    network = randomised(getattr(run, kind)(epoch), epoch)
    folder = run.path / f"checkpoints/epoch-{epoch:04d}"
    files.write_tensors(folder / f"{kind}.safetensors", network.state_dict())


@pytest.fixture(scope="module")
def held_out():
    return load_images("mnist-5k", 28, "test")


@pytest.fixture(scope="module")
def images(held_out):
    return held_out.images[:6]


@pytest.fixture(scope="module")
def labels():
    """One comes again, and 9 is followed by 0."""
    return torch.tensor([3, 0, 9, 3, 7, 9])


@pytest.fixture(scope="module")
def reference(held_out):
    return held_out.images[100:140], held_out.labels[100:140]


@pytest.fixture(scope="module")
def explainers(runs, reference):
    images, labels = reference
    return {
        (name, network): RunExplainer(runs[name], images, reference_labels=labels, network=network)
        for name, network in NETWORKS
    }


@pytest.fixture(scope="module")
def discriminator(explainers):
    return explainers["dudgan", "discriminator"]


@pytest.fixture(scope="module")
def classifier(explainers):
    return explainers["dudgan", "classifier"]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


# --- the same explanations, made past RunExplainer


def noised(images, times, horizon, sigma, noise=None):
    """y_t by the closed form, image by image; ``times`` is one for all, or a list."""
    if noise is None:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(NOISE_SEED))
    betas = np.linspace(1e-4, 0.02, horizon)
    times = np.broadcast_to(times, len(images)).tolist()
    shares = [float(np.prod(1 - betas[:time])) for time in times]
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
        told = {}
        if getattr(self.network, "classes", 0):
            told["labels"] = self.labels
        if getattr(self.network, "timed", False):
            told["times"] = self.times
        return self.network(self.seen, **told)


def drawn_for_reference(run, network, epoch, shape):
    """Times and noise of the reference images: 64 places of the training's own list, then noise."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    folder = run.path / f"checkpoints/epoch-{epoch:04d}"
    times = files.read_tensors(folder / f"{network}_diffusion.safetensors")["times"]
    return times[torch.randint(64, shape[:1], generator=generator)], torch.randn(shape, generator=generator)


def calibrated(run, which, epoch, reference):
    """A copy of the network with statistics of reference images diffused by hand."""
    _, network = which
    images, labels = reference
    trained = getattr(run, network)(epoch)
    times, seen = torch.tensor(0), images / 127.5 - 1
    if SIGMA[which]:
        times, noise = drawn_for_reference(run, network, epoch, images.shape)
        seen = noised(images, times, HORIZONS[which][epoch], SIGMA[which], noise)
    return calibrate(Seeing(trained, seen, labels, times), images).network


@pytest.fixture(scope="module")
def by_hand(runs, reference):
    """A function that makes the network behind an explanation, with all that it sees."""

    def make(which, images, epoch, statistics, labels, time=0):
        run = runs[which[0]]
        network = getattr(run, which[1])(epoch)
        if statistics == "reference":
            network = calibrated(run, which, epoch, reference)
        elif statistics == "batch":
            network = batch_statistics(network)
        seen = noised(images, time, HORIZONS[which][epoch], SIGMA[which])
        return Seeing(network, seen, labels, time)

    return make


def times_of(which, epoch):
    horizon = HORIZONS[which][epoch]
    return [0, horizon // 2, horizon] if horizon else [0]


class TestRunExplainer:
    @every_network
    @pytest.mark.parametrize("statistics", ["running", "reference", "batch"])
    def test_maps_and_logits_are_those_of_a_network_made_by_hand(
        self, which, statistics, explainers, images, labels, by_hand
    ):
        for epoch in (1, 2):
            for time in times_of(which, epoch):
                found, logits = explainers[which].signed(images, epoch, statistics, labels=labels, time=time)
                expected, scores = signed_maps(
                    by_hand(which, images, epoch, statistics, labels, time), images
                )
                torch.testing.assert_close(logits, scores, **CLOSE)
                assert found.keys() == expected.keys() == set(METHODS)
                for method, maps in found.items():
                    torch.testing.assert_close(maps, expected[method], **CLOSE)

    @every_network
    @pytest.mark.parametrize("upsample", [True, False])
    def test_maps_equal_explain(self, which, upsample, explainers, images, labels, by_hand):
        epochs, time = [2, 1], times_of(which, 1)[-1]  # in the order asked for
        for variant in ALL_READINGS if upsample else ALL_READINGS[-1:]:
            told = {"labels": labels, "time": time}
            found = explainers[which].maps(images, epochs, variant, upsample=upsample, **told)
            for maps, epoch in zip(found, epochs, strict=True):
                expected = explain(
                    by_hand(which, images, epoch, variant.statistics, labels, time),
                    images,
                    method=variant.method,
                    evidence=variant.evidence,
                    upsample=upsample,
                )
                torch.testing.assert_close(maps, expected, **CLOSE)

    @every_network
    def test_class_time_epoch_and_statistics_each_matter(self, which, explainers, images, labels):
        """Or the comparisons above could not tell them apart."""
        explainer, name = explainers[which], which[0]
        options = {"epoch": 2, "statistics": "running", "labels": labels, "time": times_of(which, 1)[-1]}
        changes = {"epoch": 1, "statistics": "reference"}
        if name == "dudgan":
            changes["labels"] = (labels + 1) % 10
        if name != "dcgan":
            changes["time"] = options["time"] // 2
        maps, logits = explainer.signed(images, **options)
        for option, value in changes.items():
            others, scores = explainer.signed(images, **{**options, option: value})
            assert ((logits - scores).abs() > 5e-3 * logits.abs()).all(), option
            changed = maps["hirescam"] - others["hirescam"]
            scale = maps["hirescam"].abs().amax((1, 2))
            assert (changed.abs().amax((1, 2)) > 5e-3 * scale).all(), option

    def test_images_may_be_many_more_than_a_batch(self, discriminator, held_out, by_hand):
        images, labels = held_out.images[:70], held_out.labels[:70]
        which = ("dudgan", "discriminator")
        maps, logits = discriminator.signed(images, 2, "running", labels=labels, time=150)
        expected, scores = signed_maps(by_hand(which, images, 2, "running", labels, 150), images)
        torch.testing.assert_close(logits, scores, **CLOSE)
        torch.testing.assert_close(maps["hirescam"], expected["hirescam"], **CLOSE)

    @pytest.mark.parametrize("name", ["diffusion", "dcgan"])
    def test_labels_are_not_used_by_a_network_that_is_told_none(self, name, explainers, images, labels):
        which = (name, "discriminator")
        for time in times_of(which, 2):
            (maps, logits), (others, scores) = (
                explainers[which].signed(images, 2, "reference", labels=told, time=time)
                for told in (None, labels)
            )
            assert torch.equal(logits, scores)
            assert all(torch.equal(maps[method], others[method]) for method in METHODS)

    @every_network
    def test_hirescam_at_the_last_block_sums_to_the_logit(self, which, explainers, images, labels):
        for statistics in ("running", "reference"):
            for time in times_of(which, 2):
                maps, logits = explainers[which].signed(images, 2, statistics, labels=labels, time=time)
                network = explainers[which].explained(2, statistics)
                bias = network.head.bias.detach()[labels] if which[1] == "classifier" else 0
                torch.testing.assert_close(maps["hirescam"].sum((1, 2)), logits - bias, rtol=1e-4, atol=1e-5)
                assert logits.abs().max() > 1e-3

    @pytest.mark.parametrize("which", [n for n in NETWORKS if n[0] != "dcgan"], ids="-".join)
    @pytest.mark.parametrize("library", [GradCAM, HiResCAM], ids=["gradcam", "hirescam"])
    def test_maps_of_diffused_images_agree_with_pytorch_grad_cam(
        self, which, library, runs, explainers, images, labels
    ):
        method, time = library.__name__.lower(), HORIZONS[which][2] // 2
        seen = noised(images, time, HORIZONS[which][2], SIGMA[which])
        shown = 0
        for evidence, sign in (("real", 1), ("fake", -1)):
            variant = Reading(method, "running", evidence)
            ours = explainers[which].maps(images, [2], variant, labels=labels, time=time)[0]
            for i in range(len(images)):
                network = getattr(runs[which[0]], which[1])(2)
                bound = Seeing(network, seen[i : i + 1], labels[i : i + 1], time)
                with library(bound, [network.block("block3")]) as cam:
                    theirs = cam(seen[i : i + 1], [lambda output, sign=sign: sign * output.sum()])
                normalised = scale_cam_image(scale_cam_image(ours[i : i + 1].numpy()))
                assert np.abs(normalised - theirs).max() < 1e-3
                shown += theirs.any()
        assert shown >= len(images)  # a map is not compared with nothing


class TestDiffusedImages:
    @every_network
    def test_they_are_the_closed_form(self, which, explainers, images):
        for epoch in range(3):
            for time in times_of(which, epoch):
                seen = explainers[which].diffused(images, epoch, time)
                expected = noised(images, time, HORIZONS[which][epoch], SIGMA[which])
                torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)

    @every_network
    def test_time_0_is_the_image_itself(self, which, explainers, images, labels):
        for epoch in range(3):
            assert torch.equal(explainers[which].diffused(images, epoch, 0), images / 127.5 - 1)
        told = {"labels": labels}
        maps, logits = explainers[which].signed(images, 2, "running", **told)
        again, scores = explainers[which].signed(images, 2, "running", **told, time=0)
        assert torch.equal(logits, scores)
        assert torch.equal(maps["gradcam"], again["gradcam"])

    def test_the_noise_is_the_same_on_every_call_whatever_the_time_and_epoch(self, discriminator, images):
        before = torch.get_rng_state()
        found = []
        for epoch, time in [(1, 50), (1, 50), (1, 107), (2, 200)]:
            share = np.prod(1 - np.linspace(1e-4, 0.02, HORIZONS["dudgan", "discriminator"][epoch])[:time])
            signal = math.sqrt(share) * (images / 127.5 - 1)
            noise = (discriminator.diffused(images, epoch, time) - signal) / math.sqrt(1 - share) / 0.3
            found.append(noise)
        for noise in found[1:]:
            torch.testing.assert_close(noise, found[0], rtol=0, atol=1e-4)
        assert found[0].mean().item() == pytest.approx(0, abs=0.05)
        assert found[0].std().item() == pytest.approx(1, abs=0.05)
        assert not torch.allclose(found[0][0], found[0][1], atol=0.1)  # each image has its own
        assert torch.equal(torch.get_rng_state(), before)

    def test_an_explanation_of_noise_repeats(self, discriminator, images, labels):
        torch.manual_seed(5)
        first, _ = discriminator.signed(images, 2, "reference", labels=labels, time=300)
        torch.manual_seed(6)
        again, _ = discriminator.signed(images, 2, "reference", labels=labels, time=300)
        assert torch.equal(first["hirescam"], again["hirescam"])


class TestReferenceStatistics:
    def buffers(self, network):
        return {name: value for name, value in network.named_buffers() if "running" in name}

    @every_network
    def test_they_are_of_images_diffused_as_in_training(self, which, runs, explainers, reference):
        for epoch in (1, 2):
            found = explainers[which].explained(epoch, "reference")
            found = found.classifier if which[1] == "classifier" else found
            expected = self.buffers(calibrated(runs[which[0]], which, epoch, reference))
            assert len(expected) == 4
            for name, value in self.buffers(found).items():
                torch.testing.assert_close(value, expected[name], **CLOSE)
            assert not found.training

    @pytest.mark.parametrize("which", [n for n in NETWORKS if n[0] != "dcgan"], ids="-".join)
    def test_they_are_not_those_of_clean_images(self, which, runs, explainers, reference):
        images, labels = reference
        found = explainers[which].explained(2, "reference")
        found = found.classifier if which[1] == "classifier" else found
        trained = getattr(runs[which[0]], which[1])(2)
        clean = calibrate(Seeing(trained, images / 127.5 - 1, labels, 0), images).network
        expected = self.buffers(clean)
        for name, value in self.buffers(found).items():
            assert not torch.allclose(value, expected[name], rtol=1e-2), name

    @pytest.mark.parametrize("which", [n for n in NETWORKS if n[0] != "dcgan"], ids="-".join)
    def test_half_of_the_reference_images_are_not_diffused(self, which, runs, held_out, monkeypatch):
        """What the network is really given, read off its input."""
        name, network = which
        explainer = RunExplainer(
            runs[name], held_out.images[:200], reference_labels=held_out.labels[:200], network=network
        )
        trained, seen = getattr(runs[name], network)(2), []
        trained.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        monkeypatch.setattr(type(runs[name]), network, lambda *_: trained)
        explainer.explained(2, "reference")
        clean = held_out.images[:200] / 127.5 - 1
        same = (torch.cat(seen) == clean).all(3).all(2).all(1).float().mean()
        assert same.item() == pytest.approx(0.5, abs=0.12)

    def test_the_time_explained_does_not_change_them(self, runs, reference, images, labels):
        options = {"reference_labels": reference[1]}
        first, second = (RunExplainer(runs["dudgan"], reference[0], **options) for _ in range(2))
        first.signed(images, 2, "reference", labels=labels, time=300)
        second.signed(images, 2, "reference", labels=labels)
        one, other = (self.buffers(each.explained(2, "reference")) for each in (first, second))
        assert all(torch.equal(value, other[name]) for name, value in one.items())


class TestBadInput:
    @pytest.mark.parametrize("network", ["discriminator", "classifier"])
    @pytest.mark.parametrize("time", [0, 50])
    def test_missing_labels(self, network, time, runs, explainers, images):
        explainer = explainers["dudgan", network]
        expected = f"the {network} of {runs['dudgan'].path} is told the class of each image: labels must"
        assert expected in refused(explainer.signed, images, 2, "running", time=time)
        assert expected in refused(explainer.maps, images, [2], Reading(), time=time)

    def test_missing_classes_of_the_reference(self, runs, reference, images, labels):
        explainer = RunExplainer(runs["dudgan"], reference[0])
        message = refused(explainer.signed, images, 2, "reference", labels=labels)
        assert f"reference_labels must be {len(reference[0])} whole numbers, got none" in message
        assert len(explainer.signed(images, 2, "running", labels=labels)[1]) == 6  # needs none

    @pytest.mark.parametrize("network", ["discriminator", "classifier"])
    @pytest.mark.parametrize("time", [0, 50])
    @pytest.mark.parametrize(("shift", "ends"), [(1, "1 to 10"), (-1, "-1 to 8")])
    def test_a_class_out_of_range(self, network, time, shift, ends, explainers, images, labels):
        for statistics in ("running", "reference"):
            message = refused(
                explainers["dudgan", network].signed,
                images,
                2,
                statistics,
                labels=labels + shift,
                time=time,
            )
            assert message == f"labels go from {ends}; they must lie in 0..9"

    @pytest.mark.parametrize("network", ["discriminator", "classifier"])
    @pytest.mark.parametrize("count", [1, 5, 7])
    def test_another_number_of_labels_than_images(self, network, count, explainers, images):
        wrong = torch.zeros(count, dtype=torch.int64)
        for time in (0, 50):
            message = refused(
                explainers["dudgan", network].signed, images, 2, "running", labels=wrong, time=time
            )
            assert f"labels must be 6 whole numbers, got torch.int64 of shape ({count},)" in message

    @pytest.mark.parametrize("network", ["discriminator", "classifier"])
    def test_labels_of_another_kind(self, network, explainers, images, labels):
        signed = explainers["dudgan", network].signed
        for wrong in (labels.float(), labels[:, None]):
            assert "labels must be 6 whole numbers" in refused(signed, images, 2, "running", labels=wrong)
        small = signed(images, 2, "running", labels=labels.to(torch.uint8), time=50)[1]
        assert torch.equal(small, signed(images, 2, "running", labels=labels, time=50)[1])

    def test_what_an_unconditional_d_is_not_told_need_not_fit(self, explainers, images):
        signed = explainers["diffusion", "discriminator"].signed
        expected = signed(images, 2, "running", time=3)[1]
        wrong = torch.zeros(2, dtype=torch.uint8)
        assert torch.equal(signed(images, 2, "running", labels=wrong, time=3)[1], expected)

    def test_a_time_between_two_steps(self, explainers, images, labels):
        explainer = explainers["dudgan", "discriminator"]
        for call in (explainer.signed, explainer.diffused):
            told = {"statistics": "running", "labels": labels} if call == explainer.signed else {}
            assert "time=2.5 was never seen" in refused(call, images, 2, time=2.5, **told)

    def test_an_unknown_network(self, runs, reference):
        message = refused(RunExplainer, runs["dudgan"], reference[0], network="clasifier")
        assert message.startswith(
            "network='clasifier' is unknown; did you mean 'classifier'? Choose one of discriminator"
        )

    def test_a_damaged_diffusion_says_what_to_do(self, runs, tmp_path):
        run = dataclasses.replace(runs["dudgan"], path=tmp_path / "run")
        shutil.copytree(runs["dudgan"].path, run.path)
        (run.path / "checkpoints/epoch-0002/discriminator_diffusion.safetensors").write_bytes(b"cut")
        with pytest.raises(RunError, match="train again for the same weights"):
            run.diffusion(2)

    def test_an_unconditional_generator_cannot_be_asked(self, runs):
        assert "is unconditional" in refused(model_maps.draw_with_classes, runs["dcgan"], 1, 20)

    @pytest.mark.parametrize("which", [n for n in NETWORKS if n[0] != "dcgan"], ids="-".join)
    @pytest.mark.parametrize("epoch", [0, 1, 2])
    def test_a_time_beyond_the_horizon_of_that_epoch(self, which, epoch, runs, explainers, images, labels):
        explainer, horizon = explainers[which], HORIZONS[which][epoch]
        explainer.signed(images, epoch, "running", labels=labels, time=horizon)
        for time in (horizon + 1, -1):
            expected = (
                f"time={time} was never seen by the {which[1]} of {runs[which[0]].path}, "
                f"which knows whole numbers in 0..T={horizon} after epoch {epoch}"
            )
            given = {"labels": labels, "time": time}
            assert refused(explainer.signed, images, epoch, "running", **given) == expected
            assert refused(explainer.maps, images, [epoch], Reading(), **given) == expected
            assert refused(explainer.diffused, images, epoch, time) == expected
            options = {"epochs": [epoch], **given}
            assert refused(measure_epochs, explainer, images, **options) == expected

    @pytest.mark.parametrize("time", [1, -1])
    def test_a_time_where_there_is_no_diffusion(self, time, explainers, images):
        explainer = explainers["dcgan", "discriminator"]
        for call in (
            lambda: explainer.signed(images, 2, "running", time=time),
            lambda: explainer.diffused(images, 2, time),
        ):
            assert "which knows no diffusion: only 0" in refused(call)

    @pytest.mark.parametrize("name", ["diffusion", "dcgan"])
    @pytest.mark.parametrize("statistics", ["running", "reference"])
    def test_a_run_without_a_classifier(self, name, statistics, runs, reference, images, labels):
        explainer = RunExplainer(
            runs[name], reference[0], reference_labels=reference[1], network="classifier"
        )
        message = refused(explainer.signed, images, 2, statistics, labels=labels)
        assert f"{runs[name].path} has no classifier" in message

    def test_an_absent_epoch(self, explainers, images, labels):
        for explainer in explainers.values():
            message = refused(explainer.signed, images, 3, "running", labels=labels)
            assert "has no epoch 3; it has 0 to 2" in message


class TestDiffusionOfARun:
    @every_network
    def test_each_network_has_its_own(self, which, runs):
        name, network = which
        for epoch, horizon in enumerate(HORIZONS[which]):
            state = runs[name].diffusion(epoch, network)
            if name == "dcgan":
                assert state is None
                continue
            assert (state.horizon, state.sigma) == (horizon, SIGMA[which])
            assert not state.times[:32].any()
            assert 1 <= state.times[32:].min() <= state.times.max() <= horizon
            assert state.times.shape == (64,)

    def test_a_classifier_may_have_the_only_one(self, runs):
        run = runs["dudgan"]
        only = replace(run, config=run.config.changed(model=DUDGAN.model_copy(update={"diffusion": None})))
        assert only.diffusion(2) is None
        assert only.diffusion(2, "classifier").horizon == 100

    @pytest.mark.parametrize("name", ["diffusion", "dcgan"])
    def test_an_absent_classifier_has_none(self, name, runs):
        assert runs[name].diffusion(2, "classifier") is None


class TestTables:
    variants = (Reading("gradcam", "reference", "fake"), Reading("hirescam", "running", "real"))

    @every_network
    def test_measures_are_of_the_diffused_image_against_the_undiffused_digit(
        self, which, explainers, images, labels, by_hand
    ):
        for time in times_of(which, 1):
            table = measure_epochs(
                explainers[which], images, epochs=[1], variants=self.variants, labels=labels, time=time
            )
            for variant in self.variants:
                network = by_hand(which, images, 1, variant.statistics, labels, time)
                found = table[table["method"] == variant.method].reset_index(drop=True)
                maps = explain(network, images, method=variant.method, evidence=variant.evidence)
                expected = measure(maps, digit_mask(images))
                # the counts of tied or near pixels move with rounding
                columns = ["focus_lift", "border_lift", "entropy", "all_zero", "mask_area"]
                pd.testing.assert_frame_equal(found[columns], expected[columns], rtol=2e-3)
                np.testing.assert_allclose(found["logit"], network(None).detach(), rtol=1e-3, atol=1e-6)

    @every_network
    def test_the_values_of_the_maps_come_with_them(self, which, explainers, images, labels):
        time = times_of(which, 1)[-1]
        options = {"labels": labels, "time": time}
        table = heatmap_table(explainers[which], images, [1, 2], self.variants, **options)
        assert len(table) == 2 * 2 * 6
        names = [f"map_{row}_{column}" for row in range(3) for column in range(3)]
        for variant in self.variants:
            maps = explainers[which].maps(images, [1, 2], variant, upsample=False, **options)
            found = table[table["variant"] == str(variant)].sort_values(["epoch", "image"])
            np.testing.assert_array_equal(found[names], maps.flatten(2).flatten(0, 1))
        measured = measure_epochs(explainers[which], images, epochs=[1, 2], variants=self.variants, **options)
        pd.testing.assert_frame_equal(table[list(measured)], measured)

    def test_several_models_are_measured_at_time_0(self, explainers, images, labels):
        shown = [explainers["dcgan", "discriminator"], explainers["dudgan", "discriminator"]]
        table = model_maps.measure_models(shown, images, labels, iter([2, 1]))
        expected = pd.concat(
            [
                measure_epochs(one, images, epochs=[2, 1], labels=labels, time=0).assign(model=model)
                for one, model in zip(shown, ["dcgan", "model"], strict=True)
            ],
            ignore_index=True,
        )
        assert len(table) == 2 * 2 * len(ALL_READINGS) * 6
        pd.testing.assert_frame_equal(table, expected)


def test_images_are_drawn_with_the_classes_asked_for(runs):
    images, labels = model_maps.draw_with_classes(runs["dudgan"], 2, 23)
    assert labels.tolist() == [*range(10), *range(10), 0, 1, 2]
    assert (images.shape, images.dtype) == ((23, 1, 28, 28), torch.uint8)
    with torch.no_grad():
        expected = runs["dudgan"].generator(2)(fixed_latents(23, LATENT_SEED), labels)
    assert (images / 127.5 - 1 - expected).abs().max() < 1 / 255 + 1e-4
    assert not torch.equal(images, model_maps.draw_with_classes(runs["dudgan"], 1, 23)[0])


# --- panels


def rows_of(table, **values):
    """The rows with these values, by image."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table.sort_values("image")


def assert_table_holds(rows, maps, logits):
    """The rows, one an image, have these maps (K, h, w) and logits (K,)."""
    assert rows["image"].tolist() == list(range(len(maps)))
    values = rows[[name for name in rows if name.startswith("map_")]].to_numpy()
    np.testing.assert_array_equal(values, maps.flatten(1))
    np.testing.assert_array_equal(rows["logit"], logits)


PANEL_TIMES = {1: [0, 27, 54, 107], 2: [0, 75, 150, 300]}  # 0.25 of 107 is 26.75


class TestTimesPanel:
    variant = Reading("hirescam", "reference", "fake")
    shares = (0, 0.25, 0.5, 1.0)

    @pytest.fixture
    def panel(self, discriminator, images, labels):
        return model_maps.times_panel(
            discriminator, images[:3], labels[:3], ["a", "b", "c"], [2, 1], self.shares, self.variant
        )

    def test_labels_and_images(self, panel, images):
        assert panel.rows == ["epoch 2, T 300", "epoch 1, T 107"]
        times = ["t = 0", "0.25 T", "0.5 T", "t = T"]
        assert panel.columns == [f"{name}\n{time}" for name in "abc" for time in times]
        assert torch.equal(panel.images, images[[0] * 4 + [1] * 4 + [2] * 4])

    def test_cells_are_the_maps_and_inputs_of_their_image_time_and_epoch(
        self, panel, images, labels, by_hand
    ):
        assert panel.maps.shape == (2, 12, 28, 28)
        assert panel.seen.shape == (2, 12, 1, 28, 28)
        for row, epoch in enumerate([2, 1]):
            for column, time in enumerate(PANEL_TIMES[epoch]):
                network = by_hand(
                    ("dudgan", "discriminator"), images[:3], epoch, "reference", labels[:3], time
                )
                maps = explain(network, images[:3], method="hirescam", evidence="fake")
                torch.testing.assert_close(panel.maps[row, column::4], maps, **CLOSE)
                torch.testing.assert_close(panel.seen[row, column::4], network.seen, rtol=1e-5, atol=1e-5)

    def test_the_table_has_every_cell_with_its_time(self, panel, discriminator, images, labels):
        assert len(panel.table) == 2 * 4 * 3
        assert set(panel.table["variant"]) == {str(self.variant)}
        for epoch, times in PANEL_TIMES.items():
            for time in times:
                rows = rows_of(panel.table, epoch=epoch, time=time)
                assert rows["horizon"].tolist() == [times[-1]] * 3
                told = {"labels": labels[:3], "time": time}
                maps = discriminator.maps(images[:3], [epoch], self.variant, upsample=False, **told)[0]
                _, logits = discriminator.signed(images[:3], epoch, "reference", **told)
                assert_table_holds(rows, maps, logits)

    def test_it_can_be_drawn(self, panel):
        with warnings.catch_warnings(action="error"):
            axes = heatmap_grid(panel).axes[0]
        assert axes.images[0].get_array().shape == (3 * (28 + GAP), 12 * (28 + GAP), 3)

    def test_without_a_diffusion_there_is_only_time_0(self, explainers, images, labels):
        explainer = explainers["dcgan", "discriminator"]
        panel = model_maps.times_panel(
            explainer, images[:1], labels[:1], ["a"], [2], [0.0, 1.0], self.variant
        )
        assert panel.rows == ["epoch 2, T 0"]
        assert panel.table["time"].tolist() == panel.table["horizon"].tolist() == [0, 0]
        assert torch.equal(panel.maps[0, 0], panel.maps[0, 1])
        assert torch.equal(panel.seen[0], images[[0, 0]] / 127.5 - 1)


@pytest.mark.parametrize("method", METHODS)
def test_networks_panel_has_d_and_c_told_the_right_and_the_next_class(
    method, discriminator, classifier, images, labels, by_hand
):
    names = list("abcdef")
    panel = model_maps.networks_panel(
        discriminator, classifier, images, labels, names, 1, "reference", method
    )
    wrong = torch.tensor([4, 1, 0, 4, 8, 0])
    expected = {
        "D, “real”": ("discriminator", "real", labels),
        "D, “fake”": ("discriminator", "fake", labels),
        "D, “real”, wrong class": ("discriminator", "real", wrong),
        "D, “fake”, wrong class": ("discriminator", "fake", wrong),
        "C, for the class": ("classifier", "real", labels),
        "C, against it": ("classifier", "fake", labels),
    }
    assert panel.rows == list(expected)
    assert panel.columns == names
    assert torch.equal(panel.images, images)
    assert panel.seen is None
    assert len(panel.table) == 6 * 6
    for found, (row, (network, evidence, told)) in zip(panel.maps, expected.items(), strict=True):
        made = by_hand(("dudgan", network), images, 1, "reference", told)
        torch.testing.assert_close(found, explain(made, images, method=method, evidence=evidence), **CLOSE)
        explainer = {"discriminator": discriminator, "classifier": classifier}[network]
        variant = Reading(method, "reference", evidence)
        maps = explainer.maps(images, [1], variant, upsample=False, labels=told)[0]
        _, logits = explainer.signed(images, 1, "reference", labels=told)
        rows = rows_of(panel.table, row=row)
        assert set(rows["variant"]) == {str(variant)}
        assert_table_holds(rows, maps, logits)


def test_models_panel_has_a_column_per_model_and_image(explainers, images, labels):
    variant = Reading("hirescam", "reference", "fake")
    shown = [explainers["dcgan", "discriminator"], explainers["dudgan", "discriminator"]]
    shown_images, told = images[:3], labels[:3]
    panel = model_maps.models_panel(shown, shown_images, told, ["a", "b", "c"], [2, 0], variant)
    assert panel.rows == ["epoch 2", "epoch 0"]
    assert panel.columns == ["\na", "dcgan\nb", "\nc", "\na", "model\nb", "\nc"]
    assert torch.equal(panel.images, images[[0, 1, 2, 0, 1, 2]])
    assert panel.maps.shape == (2, 6, 28, 28)
    assert panel.seen is None
    assert len(panel.table) == 2 * 2 * 3
    for i, (one, model) in enumerate(zip(shown, ["dcgan", "model"], strict=True)):
        for row, epoch in enumerate([2, 0]):
            maps = one.maps(shown_images, [epoch], variant, labels=told)[0]
            assert torch.equal(panel.maps[row, 3 * i : 3 * i + 3], maps)
            small = one.maps(shown_images, [epoch], variant, upsample=False, labels=told)[0]
            _, logits = one.signed(shown_images, epoch, "reference", labels=told)
            assert_table_holds(rows_of(panel.table, model=model, epoch=epoch), small, logits)


# --- what D and C have in common


SOME = torch.tensor([3, 3, 5, 3, 5, 7])
NEXT = [1, 3, 4, 0, 2, 5]


def test_the_next_of_the_class_goes_around_and_a_lone_one_is_its_own():
    assert model_maps.next_of_class(SOME).tolist() == NEXT
    assert model_maps.next_of_class(torch.arange(4)).tolist() == [0, 1, 2, 3]
    assert model_maps.next_of_class(torch.zeros(4, dtype=torch.int64)).tolist() == [1, 2, 3, 0]


def correlations(one, other):
    return [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(one, other, strict=True)]


class TestAgreement:
    def test_it_is_the_correlation_of_the_signed_maps(self, discriminator, classifier, images):
        table = model_maps.agreement(discriminator, classifier, images, SOME, 2, "reference", METHODS)
        assert list(table) == ["method", "image", "label", "correlation", "chance"]
        d, _ = discriminator.signed(images, 2, "reference", labels=SOME)
        c, _ = classifier.signed(images, 2, "reference", labels=SOME)
        assert len(table) == 12
        for method, rows in table.groupby("method", sort=False):
            assert rows["image"].tolist() == list(range(6))
            assert rows["label"].tolist() == SOME.tolist()
            expected = correlations(d[method], c[method])
            np.testing.assert_allclose(rows["correlation"], expected, atol=1e-4)
            chance = np.array(correlations(d[method], c[method][NEXT]))
            chance[5] = np.nan  # the only one of its class
            np.testing.assert_allclose(rows["chance"], chance, atol=1e-4)
        assert list(dict.fromkeys(table["method"])) == list(METHODS)

    def explainer(self, maps, called):
        def signed(*arguments, **named):
            called.append((arguments, named))
            return {"hirescam": maps}, None

        return SimpleNamespace(signed=signed)

    def test_equal_inverted_and_constant_maps(self, images):
        pattern = torch.arange(9.0).reshape(3, 3)
        flat = torch.full((3, 3), 0.1)
        d = torch.stack([pattern, pattern, pattern, flat, pattern, pattern])
        c = torch.stack([2 * pattern + 1, -pattern, flat, pattern, pattern.T, pattern])
        called = []
        table = model_maps.agreement(
            self.explainer(d, called), self.explainer(c, called), images, SOME, 7, "running", ["hirescam"]
        )
        across = np.corrcoef(pattern.flatten(), pattern.T.flatten())[0, 1]
        np.testing.assert_allclose(table["correlation"], [1, -1, np.nan, np.nan, across, 1], rtol=1e-5)
        np.testing.assert_allclose(table["chance"], [-1, 1, across, np.nan, np.nan, np.nan], rtol=1e-5)
        assert len(called) == 2
        for arguments, named in called:
            assert arguments[1:] == (7, "running", ["hirescam"])
            assert torch.equal(named["labels"], SOME)


class TestToldEachClass:
    @pytest.fixture
    def table(self, discriminator, images, labels):
        return model_maps.told_each_class(discriminator, images, labels, 2, "reference", "hirescam")

    def test_logits_and_maps_are_those_of_d_told_that_class(self, table, images, labels, by_hand):
        assert list(table) == ["image", "label", "told", "logit", "change", "correlation"]
        assert len(table) == 6 * 10
        which, rest = ("dudgan", "discriminator"), (images, 2, "reference")
        right, scores = signed_maps(by_hand(which, *rest, labels), images)
        for told in range(10):
            rows = rows_of(table, told=told)
            assert rows["image"].tolist() == list(range(6))
            assert rows["label"].tolist() == labels.tolist()
            maps, logits = signed_maps(by_hand(which, *rest, torch.full((6,), told)), images)
            np.testing.assert_allclose(rows["logit"], logits, rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(rows["change"], logits - scores, rtol=1e-2, atol=1e-5)
            expected = correlations(maps["hirescam"], right["hirescam"])
            np.testing.assert_allclose(rows["correlation"], expected, atol=2e-3)

    def test_the_right_class_changes_nothing(self, table):
        right = table["told"] == table["label"]
        assert right.sum() == 6
        assert (table[right]["change"] == 0).all()
        np.testing.assert_allclose(table[right]["correlation"], 1, atol=1e-5)
        assert (table[~right]["change"] != 0).all()
        assert (table[~right]["correlation"] < 1 - 1e-4).mean() > 0.5


def test_confusion_is_the_mean_over_images_of_a_class():
    table = pd.DataFrame(
        {
            "label": [7, 7, 7, 2, 2, 7],
            "told": [2, 2, 7, 2, 7, 7],
            "change": [1.0, 4.0, 0.0, 0.0, -3.0, np.nan],
            "logit": 1.0,
        }
    )
    with warnings.catch_warnings(action="error"):
        found = model_maps.confusion(table, "change")
    assert found.index.tolist() == found.columns.tolist() == [2, 7]
    assert found.to_numpy().tolist() == [[0.0, -3.0], [2.5, 0.0]]


# --- in words


def student(means):
    """As an interval over seeds is written, with two digits of its width."""
    low, high = stats.t.interval(0.95, len(means) - 1, np.mean(means), stats.sem(means))
    return f"{np.mean(means):.2f} [{low:.2f}, {high:.2f}], n={len(means)} seeds"


def test_describe_agreement_has_a_mean_over_seeds_by_source_and_method():
    levels = {("real", "gradcam"): 0.3, ("real", "hirescam"): 0.5, ("generated", "hirescam"): -0.2}
    table = pd.DataFrame(
        [
            {
                "source": source,
                "method": method,
                "seed": seed,
                "image": image,
                "correlation": level + [0, 0.1, 0.2][seed] + [-0.05, 0.05][image],
                # one image of every seed is alone in its class
                "chance": [level / 2 + [0, 0.1, 0.2][seed], np.nan][image],
            }
            for (source, method), level in levels.items()
            for seed in range(3)
            for image in range(2)
        ]
    )
    assert student([0.3, 0.4, 0.5]) == "0.40 [0.15, 0.65], n=3 seeds"
    sentences = [
        f"{source} images, {method}: {student([level, level + 0.1, level + 0.2])}; "
        f"with C's map of another image of the class {student([level / 2 + more for more in (0, 0.1, 0.2)])}"
        for (source, method), level in levels.items()
    ]
    expected = "Correlation of D's map with C's. " + ". ".join(sentences) + "."
    assert model_maps.describe_agreement(table) == expected


def test_describe_told_leaves_the_right_class_out_and_counts_where_it_is_most_real():
    # per seed: how far a wrong class changes the logit, and the shares of images whose right class is most real
    change, best = [-0.5, -0.6, -0.7], [1.0, 0.75, 0.75]
    rows = []
    for seed in range(3):
        for image in range(4):
            label = image % 4
            for told in range(4):
                wrong = told != label
                logit = change[seed] * wrong
                if image == 3 and best[seed] < 1 and told == 0:
                    logit = 0.25  # another class is more real than the right one
                rows.append(
                    {
                        "source": "real",
                        "seed": seed,
                        "image": image,
                        "label": label,
                        "told": told,
                        "logit": logit,
                        "change": logit,
                        "correlation": 0.2 + 0.1 * seed if wrong else 1.0,
                    }
                )
    table = pd.DataFrame(rows)
    generated = table.assign(
        source="generated", correlation=table["correlation"].where(table["told"] == table["label"], np.nan)
    )
    table = pd.concat([table, generated], ignore_index=True)
    # of 12 wrong (image, class) pairs one has a logit of 0.25
    changes = [-0.5, (11 * -0.6 + 0.25) / 12, (11 * -0.7 + 0.25) / 12]
    found = model_maps.describe_told(table)
    first, second = found.split(". generated images: ")
    assert first == (
        f"real images: told a wrong class, D's logit changes by {student(changes)}, and its map correlates "
        f"{student([0.2, 0.3, 0.4])} with that of the right class; the right class is the one that D finds most real "
        f"in a share {student(best)} (chance 0.25)"
    )
    # where no map of a wrong class has a pattern there is no number, and nothing else changes
    assert (
        second
        == first.removeprefix("real images: ").replace(
            student([0.2, 0.3, 0.4]), "nan [no interval], n=0 images"
        )
        + "."
    )


def measured(zero, *, model="a", seed=0, epoch=3, evidence="real"):
    """Measures of four images, the first few of whose maps are zero everywhere."""
    rows = []
    for image in range(4):
        empty = image < zero
        values = dict.fromkeys(COLUMNS, np.nan if empty else 1.0 + image)
        rank = {"coverage": 0.0 if empty else 0.5, "rank_accuracy": 0.25}
        keys = {"model": model, "seed": seed, "method": "gradcam", "statistics": "running"}
        rows.append(
            {
                **keys,
                "evidence": evidence,
                "epoch": epoch,
                "image": image,
                "logit": 9.0,
                **values,
                **rank,
                "all_zero": empty,
                "mask_area": 0.1 * (1 + image),
            }
        )
    return pd.DataFrame(rows)


class TestSummaries:
    keys = ("model", "seed", "method", "statistics", "evidence", "epoch")

    def test_means_over_images_of_each_network_epoch_and_reading(self):
        parts = [
            measured(0),
            measured(1, seed=1),
            measured(0, model="b"),
            measured(0, epoch=4),
            measured(0, evidence="fake"),
        ]
        summary = model_maps.summarise_maps(pd.concat(parts))
        assert list(summary) == [*self.keys, *COLUMNS]
        assert len(summary) == 5
        assert summary["focus_lift"].tolist() == [2.5, 3.0, 2.5, 2.5, 2.5]
        assert summary["all_zero"].tolist() == [0, 0.25, 0, 0, 0]
        assert summary["model"].tolist() == ["a", "a", "b", "a", "a"]
        assert summary["coverage"].tolist() == [0.5, 0.375, 0.5, 0.5, 0.5]

    def test_mostly_zero_maps_have_no_number(self):
        """Two of four are not "mostly"; three are."""
        parts = [measured(zero, seed=zero) for zero in range(5)]
        summary = model_maps.summarise_maps(pd.concat(parts)).set_index("seed")
        said = [column for column in COLUMNS if column not in ("all_zero", "mask_area")]
        assert summary.loc[:2, said].notna().all(axis=None)
        assert summary.loc[3:, said].isna().all(axis=None)
        assert summary["all_zero"].tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert summary["mask_area"].tolist() == pytest.approx([0.25] * 5)

    def test_describe_maps_names_each_networks_lift(self):
        parts = [
            measured(0),
            measured(2, seed=1),
            measured(3, seed=2),
            measured(4, model="b"),
            measured(0, evidence="fake"),
            measured(1, epoch=4),
        ]
        summary = model_maps.summarise_maps(pd.concat(parts))
        assert model_maps.describe_maps(summary, 3) == (
            "Focus lift after epoch 3 by evidence (1 is chance; mean over networks): a “real” 3.00, “fake” 2.50; "
            "b “real” mostly no maps, “fake” mostly no maps."
        )
        assert model_maps.describe_maps(summary, 4).startswith("Focus lift after epoch 4 by evidence")


# --- drawn


class TestSeenThroughTheMap:
    @pytest.fixture
    def panel(self):
        random = torch.Generator().manual_seed(0)
        return Panel(
            torch.randint(0, 256, (3, 1, 28, 28), generator=random, dtype=torch.uint8),
            torch.rand(2, 3, 28, 28, generator=random),
            ["one", "other"],
            ["a", "b", "c"],
            pd.DataFrame({"value": [1.0]}),
            torch.randn(2, 3, 1, 28, 28, generator=random),  # many pixels beyond [-1, 1]
        )

    def cells(self, panel):
        """What is drawn, (rows, columns, 28, 28, 3), the originals first."""
        with warnings.catch_warnings(action="error"):
            shown = np.asarray(heatmap_grid(panel).axes[0].images[0].get_array())
        pitch = 28 + GAP
        return shown.reshape(3, pitch, 3, pitch, 3).transpose(0, 2, 1, 3, 4)[:, :, :28, :28]

    def test_pixels_are_the_mean_of_heat_and_image(self, panel):
        panel.maps[1, 2] *= 1000  # each map is divided by its own maximum
        found = self.cells(panel)
        for row in range(2):
            for column in range(3):
                heat = panel.maps[row, column] / panel.maps[row, column].max()
                grey = ((panel.seen[row, column, 0] + 1) / 2).clamp(0, 1)
                expected = (plt.get_cmap("inferno")(heat.numpy())[..., :3] + grey.numpy()[..., None]) / 2
                np.testing.assert_allclose(found[row + 1, column], expected, atol=5e-3)

    def test_the_originals_are_as_they_were(self, panel):
        expected = panel.images[:, 0, :, :, None].expand(-1, -1, -1, 3) / 255
        np.testing.assert_allclose(self.cells(panel)[0], expected, atol=1e-6)

    def test_without_it_the_map_stands_alone(self, panel):
        found = self.cells(replace(panel, seen=None))
        heat = panel.maps[0, 1] / panel.maps[0, 1].max()
        np.testing.assert_allclose(found[1, 1], plt.get_cmap("inferno")(heat.numpy())[..., :3], atol=5e-3)

    def test_images_of_colour_keep_it(self, panel):
        coloured = torch.rand(2, 3, 3, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1
        images = panel.images.expand(-1, 3, -1, -1).clone()
        found = self.cells(replace(panel, images=images, seen=coloured, maps=torch.zeros_like(panel.maps)))
        expected = (coloured + 1) / 4  # under a map of zero, which is all but black
        np.testing.assert_allclose(found[1:], expected.movedim(2, -1), atol=0.01)

    def test_a_zero_map_is_still_marked(self, panel):
        panel.maps[0, 1] = 0
        marks = [text.get_text() for text in heatmap_grid(panel).axes[0].texts]
        assert marks == ["zero"]

"""A GAN that is not ours, from its files to the paper's pictures and numbers: the README's ten lines."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_nothing_is_cut_off, draw, refused, texts
from torch import nn
from torch.nn import functional as F

from gradcam_gan import Checkpoints, Reading, RunExplainer, calibrate, explain, settle
from gradcam_gan.errors import GradcamGanError, RunError
from gradcam_gan.studies import paths
from gradcam_gan.studies.epoch_heatmaps.charts import statistics_chart
from gradcam_gan.studies.epoch_heatmaps.rules import RULES
from gradcam_gan.studies.epoch_heatmaps.tables import Tables, measure_network, select
from gradcam_gan.studies.own_gan import quantities
from gradcam_gan.studies.panels import panel
from gradcam_gan.studies.style import PAGE, heatmap_grid
from gradcam_gan.training import files

SNIPPET = re.findall(r"```python\n(.*?)```", paths.README.read_text(), re.DOTALL)[1]
LAYER, D, G = "features.4", "netD_epoch_*.pth", "netG_epoch_*.pth"


class Discriminator(nn.Module):
    """RGB, 48x48, (N, 1)."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(8, 12, 4, 2, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.Conv2d(12, 16, 3, 1, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.score = nn.Linear(16 * 12 * 12, 1)

    def forward(self, x):
        return self.score(self.features(x).flatten(1))


class Generator(nn.Sequential):
    """(N, 64, 1, 1) to RGB, 48x48."""

    def __init__(self):
        super().__init__(
            nn.ConvTranspose2d(64, 16, 12),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
            nn.Tanh(),
        )


def discs(count, seed):
    """Dark discs on a bright, coloured ground: uint8 (N, 3, 48, 48), and where they are (N, 48, 48)."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randint(14, 34, (count, 2, 1, 1), generator=random)
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    radii = torch.randint(6, 12, (count, 1, 1), generator=random)
    masks = (y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < radii**2
    ground = torch.randint(150, 256, (count, 3, 1, 1), generator=random)
    noise = torch.randint(0, 20, (count, 3, 48, 48), generator=random)
    return (torch.where(masks[:, None], 30, ground) - noise).clamp(0, 255).to(torch.uint8), masks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three epochs of eight steps, each saved as PyTorch's DCGAN example does."""
    path = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    networks = {"netD": Discriminator(), "netG": Generator()}
    d, g = networks.values()
    steps = [torch.optim.Adam(net.parameters(), 1e-3, (0.5, 0.999)) for net in (d, g)]
    images = discs(256, 0)[0] / 127.5 - 1
    for epoch in (1, 2, 3):
        for real in images.split(32):
            made = g(torch.randn(32, 64, 1, 1))
            loss = F.softplus(-d(real)).mean() + F.softplus(d(made.detach())).mean()
            steps[0].zero_grad()
            loss.backward()
            steps[0].step()
            steps[1].zero_grad()
            F.softplus(-d(made)).mean().backward()
            steps[1].step()
        for name, net in networks.items():
            torch.save(net.state_dict(), path / f"{name}_epoch_{epoch}.pth")
    torch.save({"epoch": 3}, path / "training.pth")
    return path


def own(folder, **changes):
    options = {"generator": Generator, "generator_files": G, "latents": torch.randn(1024, 64, 1, 1)}
    return Checkpoints(folder, Discriminator, D, **{**options, **changes})


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """What the ten lines define."""
    held_out, masks = discs(24, 1)
    fid = pd.DataFrame({"epoch": [1, 2, 3], "fid": [90.0, 60.0, 50.0]})
    known = {
        **globals(),
        "training_images": discs(256, 0)[0],
        "held_out": held_out,
        "masks": masks,
        "fid": fid,
    }
    exec(SNIPPET.replace('"checkpoints"', repr(str(folder))), known)
    for name in ("figure_1", "k_by_epoch"):
        known[name].canvas.draw()  # laid out before the first test closes it
    return known


def test_figure_1_shows_her_images_and_outlines_her_masks(made):
    figure = made["figure_1"]
    assert_nothing_is_cut_off(figure, PAGE)
    assert texts(figure.axes[0].get_yticklabels()) == ["original", "epoch 1", "epoch 2", "epoch 3"]
    (outline,) = [drawn for drawn in figure.axes[0].collections if drawn.get_paths()]
    places = outline.get_paths()[0].vertices
    top, left = (made["masks"][0].any(axis).nonzero().min().item() for axis in (1, 0))
    # of the first image's first map, below the original and a gap of two pixels
    assert np.isclose(places - [0, 50], [left - 0.5, 0], atol=0.6).any(axis=0)[0]
    assert np.isclose(places[:, 1], 50 + top - 0.5, atol=0.6).any()


def test_maps_are_those_of_her_networks_under_each_statistics(made, folder):
    images, latents = made["held_out"][:5], made["networks"].latents(1024)
    weights, maker = ({**torch.load(folder / f"net{n}_epoch_2.pth")} for n in "DG")
    network, generator = Discriminator(), Generator().eval()
    network.load_state_dict(weights)
    generator.load_state_dict(maker)
    with torch.inference_mode():
        generated = torch.cat([generator(part) for part in latents.split(64)])
    training = made["training_images"]
    by_statistics = {
        "running": network.eval(),
        "settled": settle(network, training, generated.clone()),
        "reference": calibrate(network, training),
    }
    found = made["explained"].at([2])
    for statistics, expected in by_statistics.items():
        reading = Reading(layer=LAYER, statistics=statistics)
        assert torch.equal(found.maps(reading)[0], explain(expected, images, layer=LAYER))


def test_k_by_epoch_is_drawn_under_each_statistics(made):
    figure = made["k_by_epoch"]
    assert_nothing_is_cut_off(figure, PAGE)
    assert [axes.get_title() for axes in figure.axes] == [
        f"{s} statistics" for s in ("running", "settled", "reference")
    ]
    for axes, reading in zip(figure.axes, made["readings"], strict=True):
        curve = select(made["tables"].epochs, reading)["focus"]
        assert axes.lines[0].get_ydata().tolist() == curve.tolist()


def test_focus_is_on_her_masks(made):
    (reading, *_), images, masks = made["readings"], made["held_out"], made["masks"]
    explained = made["explainer"].explain(images, [3], layers=[LAYER], methods=["gradcam"], masks=masks)
    expected = explained.measures([reading])
    f = ((expected["focus"] - expected["mask_area"]) / (1 - expected["mask_area"])).fillna(0)
    np.testing.assert_allclose(expected["mask_area"], masks.double().mean((1, 2)))
    found = select(made["tables"].epochs, reading).set_index("epoch")
    assert found.loc[3, "focus"] == pytest.approx(f.mean(), abs=1e-5)
    assert list(expected)[:2] == ["seed", "epoch"]


def test_three_epochs_say_what_the_quantities_need(made):
    numbers = made["numbers"].set_index("claim")
    assert numbers["n"].tolist() == [0, 0, 0, 0]
    assert numbers.loc["C1", "missing"] == "needs every epoch from 5 to 25"
    assert numbers.loc["C3", "missing"] == "needs three networks, and objects of different areas"
    assert "fid" in numbers.loc["C4", "missing"]


def test_three_networks_of_25_epochs_have_all_quantities(made):
    """The rules' own numbers, of the same tables stretched to 25 epochs and three seeds."""
    random, stretched = np.random.default_rng(0), []
    for seed in range(3):
        parts = made["tables"]
        epochs = pd.concat(
            parts.epochs.query("epoch == 3").assign(epoch=e, focus=random.random()) for e in range(26)
        )
        probes = parts.probes.assign(change=random.random(len(parts.probes)), seed=seed)
        scores = pd.DataFrame({"seed": seed, "epoch": range(26), "fid": random.random(26) + 1})
        stretched.append(Tables(epochs.assign(seed=seed), probes, scores))
    tables, reading = Tables.together(stretched), made["readings"][0]
    found = quantities(tables, reading).set_index("claim")
    assert (found["missing"] == "").all()
    assert (found["n"] == 3).all()
    for claim, row in found.iterrows():
        (part, *_) = RULES[claim][2]
        assert row["estimate"] == pytest.approx(part.values(tables, reading).mean())
    without = tables.scores.assign(fid=np.nan)
    missing = quantities(Tables(tables.epochs, tables.probes, without), reading).set_index("claim")["missing"]
    assert missing[missing != ""].index.tolist() == ["C4"]


def test_without_a_generator_there_is_all_that_needs_none(folder):
    networks, images = Checkpoints(folder, Discriminator, D), discs(8, 1)[0]
    explainer = RunExplainer(networks, images)
    readings = [Reading(layer=LAYER, statistics=s) for s in ("running", "reference")]
    tables = measure_network(explainer, images, [1, 3], readings=readings)
    assert tables.epochs[["auc_map", "auc_logit", "auc_left_out"]].isna().all(axis=None)
    assert tables.epochs["focus"].notna().all()
    assert len(draw(statistics_chart, tables.epochs, {}).axes) == 2
    message = refused(explainer.explain, images, [1], statistics=["settled"], layers=[LAYER])
    assert "was given without a generator, but settled statistics" in message


def test_files_of_either_kind_give_the_same_weights(folder, tmp_path):
    for epoch in (2, 10):
        files.write_tensors(tmp_path / f"d{epoch:03d}.safetensors", own(folder).discriminator(2).state_dict())
    networks = Checkpoints(tmp_path, Discriminator, "d*.safetensors")
    assert networks.epochs == [2, 10]
    expected, before = own(folder).discriminator(2).state_dict(), torch.get_rng_state()
    for name, value in networks.discriminator(10).state_dict().items():
        assert torch.equal(value, expected[name])
    assert torch.equal(torch.get_rng_state(), before)
    assert not networks.discriminator(2).training


class Executed:
    """A file that would run code if it were unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize(
    "content",
    [b"", b"cut", Executed(), {"weights": Executed()}, {"netD": {"a": torch.zeros(1)}}, nn.Linear(1, 1)],
    ids=["empty", "damaged", "code", "hidden code", "nested", "a module"],
)
def test_what_is_no_state_dict_is_never_run(content, tmp_path):
    path = tmp_path / "d1.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    message = refused(Checkpoints(tmp_path, Discriminator, "d*.pt").discriminator, 1, error=RunError)
    assert message.startswith(
        f"{path} is damaged or holds more than one network's named tensors, and is not run"
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_changed_bytes_is_read_or_one_line(tmp_path, zipped):
    """Of a damaged file PyTorch raises whatever its parts do."""
    path, refusals = tmp_path / "d1.pt", []
    torch.save(nn.Conv2d(1, 2, 3).state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for place in range(0, min(len(content), 400), 4):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x90]) + content[place + 1 :])
        try:
            Checkpoints(tmp_path, lambda: nn.Conv2d(1, 2, 3), "d*.pt").discriminator(1)
        except GradcamGanError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert "\n" not in "".join(refusals)


def test_bad_input_is_one_line(folder):
    for names in ("d_*.pt", "netD_epoch_1.pth", "netD_epoch_x*.pth"):
        message = refused(Checkpoints, folder, Discriminator, names)
        assert message.startswith(f"{folder} has no file {names!r}, where * is the epoch's number")
    assert "nowhere has no file" in refused(Checkpoints, "nowhere", Discriminator, D)
    assert "needs generator_files" in refused(own, folder, latents=None)
    assert "has no discriminator of epoch 4; it has those of 1, 2, 3" in refused(own(folder).discriminator, 4)
    message = refused(Checkpoints(folder, Generator, D).discriminator, 1)
    assert message.startswith(f"{folder / 'netD_epoch_1.pth'} is of another network: ")
    assert len(message) < 500
    images = discs(4, 1)[0]
    few = RunExplainer(own(folder, latents=torch.zeros(99, 64, 1, 1)), images)
    assert refused(few.explained, 1, "settled") == "latents has 99 rows; 1024 are needed"
    assert "network='classifier' needs a Run" in refused(
        RunExplainer, own(folder), images, network="classifier"
    )
    assert "layer='conv3' is unknown in this Discriminator" in refused(
        few.explain, images, [1], statistics=["running"]
    )


def test_an_epoch_without_its_generator_is_one_line(folder, tmp_path):
    for path in folder.glob("net*.pth"):
        if path.name != "netG_epoch_2.pth":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    networks = own(tmp_path)
    assert networks.epochs == [1, 2, 3]
    assert "has no generator of epoch 2; it has those of 1, 3" in refused(networks.generator, 2)


def test_panels_of_her_images_may_be_labelled_and_tabled(made):
    shown = panel(made["explained"], made["readings"][:1], list("abcde"))
    assert shown.table["reading"].unique().tolist() == ["Grad-CAM at features.4, running, real"]
    assert len([name for name in shown.table if name.startswith("map_")]) == 144
    assert draw(heatmap_grid, shown).axes

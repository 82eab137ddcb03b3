import base64
import copy
import io
import re
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import randomised, refused, tiny
from PIL import Image
from torch import nn

from gradcam_gan import explain
from gradcam_gan.data import load_images, to_model_range
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.batchnorm import batch_statistics, calibrate
from gradcam_gan.studies import paths
from gradcam_gan.studies.explore import app
from gradcam_gan.studies.explore.drawing import as_mnist, fitted, read_upload
from gradcam_gan.studies.explore.pictures import describe, overlay, page, view_figure
from gradcam_gan.studies.explore.saving import save
from gradcam_gan.studies.explore.state import Explorer
from gradcam_gan.studies.explore.subjects import complete_runs, own_explorer, run_explorer
from gradcam_gan.studies.study import Study
from gradcam_gan.training import files
from gradcam_gan.training.checkpoints import Checkpoints
from gradcam_gan.training.loop import train, training_images


@pytest.fixture(scope="module")
def explorer(tiny_run):
    return run_explorer(tiny_run, "tiny", 64)


@pytest.fixture
def view(explorer):
    return explorer.view(explorer.first)


def reading(setting, **changes):
    return replace(setting, reading=replace(setting.reading, **changes))


class TestView:
    @pytest.mark.parametrize("evidence", ["real", "fake", "signed"])
    @pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "scorecam", "occlusion"])
    def test_shows_what_explain_gives_of_that_image_alone(self, explorer, tiny_run, method, evidence):
        setting = replace(reading(explorer.first, method=method, evidence=evidence), image=7, epoch=2)
        view, network = explorer.view(setting), tiny_run.discriminator(2)
        expected = explain(network, view.image[None], method=method, evidence=evidence)[0]
        torch.testing.assert_close(view.heat, expected, rtol=1e-4, atol=1e-6)
        assert view.logit == pytest.approx(float(network(view.image[None]).detach()), abs=1e-5)
        assert view.signed.shape == ((64, 64) if method == "occlusion" else (8, 8))

    def test_reference_statistics_come_from_the_runs_own_training_images(self, explorer, tiny_run):
        view = explorer.view(reading(explorer.first, statistics="reference"))
        network = calibrate(tiny_run.discriminator(3), training_images(tiny_run.config).images[:64])
        assert view.logit == pytest.approx(float(network(view.image[None]).detach()), abs=1e-5)

    def test_generated_images_are_of_that_epochs_generator(self, explorer, tiny_run):
        early, late = (
            explorer.view(replace(explorer.first, source="generated", epoch=epoch)) for epoch in (0, 3)
        )
        assert not early.image.equal(late.image)
        assert late.logit == pytest.approx(
            float(tiny_run.discriminator(3)(late.image[None]).detach()), abs=1e-5
        )

    def test_nothing_is_explained_twice(self, tiny_run, monkeypatch):
        explorer = run_explorer(tiny_run, "tiny", 64)
        asked = []
        signed = explorer._explainer.signed
        monkeypatch.setattr(
            explorer._explainer, "signed", lambda *a, **b: asked.append(a[1:4]) or signed(*a, **b)
        )
        for image in (0, 1, 0):  # a gradient method explains the whole grid in one pass
            for evidence in ("real", "fake", "signed"):
                explorer.view(replace(reading(explorer.first, evidence=evidence), image=image))
        for image in (0, 1, 0):
            explorer.view(replace(reading(explorer.first, method="lime"), image=image))
        assert [methods for _, _, methods in asked] == [["gradcam"], ["lime"], ["lime"]]

    def test_a_network_that_is_told_classes_is_told_the_images_own(self, follow_up_runs):
        run = follow_up_runs["dudgan"]
        explorer = run_explorer(run, "told", 32)
        assert explorer.classes == 10
        network = run.discriminator(2)
        for source, image in (("real", 4), ("generated", 13)):
            setting = replace(explorer.first, source=source, image=image)
            view = explorer.view(setting)
            told = torch.tensor([image % 10])
            with torch.no_grad():
                expected = float(network(view.image[None], **network.conditions(told)))
            assert view.logit == pytest.approx(expected, abs=1e-4)
        assert "asked for a 3" in explorer.images("generated", 2)[1][13]
        explorer.draw(view.image, 5)
        with torch.no_grad():
            expected = float(network(view.image[None], **network.conditions(torch.tensor([5]))))
        assert explorer.view(replace(setting, source="yours", image=0)).logit == pytest.approx(
            expected, abs=1e-4
        )

    def test_its_table_holds_the_settings_the_logit_and_the_raw_map(self, view):
        (row,) = view.table.to_dict("records")
        assert (row["network"], row["source"], row["epoch"], row["method"]) == ("tiny", "real", 3, "gradcam")
        assert row["logit"] == view.logit
        assert row["map_2_5"] == float(view.signed[2, 5])
        assert sum(name.startswith("map_") for name in row) == 64

    def test_what_cannot_be_is_one_line(self, explorer, tiny_run):
        fresh = run_explorer(tiny_run, "tiny", 64)
        assert "no image of your own yet" in refused(fresh.view, replace(fresh.first, source="yours"))
        assert "image=20 must be one of 0..19" in refused(explorer.view, replace(explorer.first, image=20))
        assert "did you mean 'conv3'" in refused(explorer.view, reading(explorer.first, layer="conf3"))
        assert "captions for 1 images" in refused(
            Explorer, explorer._explainer, "x", explorer._real[:1], [], ["conv3"]
        )


class TestOwnImage:
    def test_a_new_drawing_is_explained_anew(self, explorer, digits):
        setting = replace(explorer.first, source="yours", image=0)
        logits = []
        for image in digits[:2]:
            explorer.draw(image)
            logits.append(explorer.view(setting).logit)
        first, second = (explorer.view(replace(explorer.first, image=i)).logit for i in (0, 1))
        assert len({first, second, *logits}) >= 3
        assert logits[1] == explorer.view(setting).logit

    def test_in_batch_statistics_its_neighbours_are_the_real_images(self, explorer, tiny_run, digits):
        explorer.draw(digits[77])
        view = explorer.view(reading(replace(explorer.first, source="yours", image=0), statistics="batch"))
        network = batch_statistics(tiny_run.discriminator(3))
        batch = torch.cat([to_model_range(digits[77:78]), explorer.images("real", 3)[0]])
        with torch.no_grad():
            assert view.logit == pytest.approx(float(network(batch)[0]), abs=1e-4)

    def test_mnists_own_digits_enlarged_and_moved_come_back_as_they_were(self):
        """The oracle of the preparation: what was prepared so already must not change."""
        images = load_images("mnist-5k", 28, "test").images[:40, 0]
        for image in images:
            canvas = torch.zeros(400, 400, dtype=torch.uint8)
            canvas[90:370, 20:300] = image.repeat_interleave(10, 0).repeat_interleave(10, 1)
            prepared = as_mnist(canvas)
            assert prepared.shape == (28, 28)
            assert np.corrcoef(prepared.flatten(), image.flatten())[0, 1] > 0.97

    def test_a_stroke_fills_the_box_and_lies_in_the_middle(self):
        canvas = torch.zeros(280, 280, dtype=torch.uint8)
        canvas[10:60, 200:230] = 255
        rows, columns = as_mnist(canvas).nonzero().T
        assert int(rows.max() - rows.min()) + 1 == 20
        assert abs(float(rows.float().mean()) - 14) <= 0.5
        assert abs(float(columns.float().mean()) - 14) <= 0.5
        assert "nothing is drawn" in refused(as_mnist, torch.zeros(280, 280, dtype=torch.uint8))

    def test_it_takes_the_networks_size_and_channels(self, digits):
        small = load_images("mnist-5k", 28, "test").images[0, 0]
        grey = fitted(small, (1, 64, 64))
        assert grey.equal(digits[0])  # as the digits that D was trained on are enlarged
        assert fitted(small, (3, 64, 64)).equal(grey.expand(3, -1, -1))

    def test_an_uploaded_file_is_fitted_and_what_is_none_is_one_line(self):
        content = io.BytesIO()
        Image.fromarray(np.full((50, 80, 3), (255, 0, 0), np.uint8)).save(content, "PNG")
        image = read_upload(content.getvalue(), (3, 32, 32))
        assert image.shape == (3, 32, 32)
        assert image[0].eq(255).all()
        assert image[1:].eq(0).all()
        assert read_upload(content.getvalue(), (1, 8, 8)).float().std() == 0
        assert "is no image that can be read" in refused(read_upload, b"%PDF-1.4", (1, 64, 64))


class TestPictures:
    @staticmethod
    def decoded(html):
        sources = re.findall(r'<img [^>]*alt="([^"]+)"[^>]*base64,([^"]+)"', html)
        return {alt: np.array(Image.open(io.BytesIO(base64.b64decode(data)))) for alt, data in sources}

    def test_the_page_has_three_pictures_with_words_and_the_map_at_its_resolution(self, view):
        (first, image), (_, laid_over), (last, raw) = self.decoded(page(view)).items()
        assert first == "The image: held-out 0"
        assert last == "Raw map, 8x8 places: held-out 0"
        assert image.shape == laid_over.shape == (64, 64, 3)
        assert raw.shape == (8, 8, 3)
        # red where the map speaks for "real", blue where against it, strongest at the largest magnitude
        red, blue = raw[..., 0].astype(int), raw[..., 2].astype(int)
        clear = (view.signed.abs() > 0.1 * view.signed.abs().max()).numpy()
        assert ((red > blue) == (view.signed > 0).numpy())[clear].all()
        strongest = np.unravel_index(int(view.signed.abs().argmax()), (8, 8))
        assert raw[strongest].sum() == raw.sum(-1).min()

    def test_an_overlay_of_no_strength_is_the_image_and_of_full_strength_the_heat(self, explorer):
        none, full = (explorer.view(replace(explorer.first, overlay=strength)) for strength in (0.0, 1.0))
        grey = ((none.image + 1) / 2)[0, ..., None].expand(-1, -1, 3)
        torch.testing.assert_close(overlay(none), grey)
        brightness = overlay(full).sum(-1)
        assert brightness.argmax() == full.heat.argmax()

    def test_a_map_of_zeros_says_so(self, view):
        blank = replace(view, heat=torch.zeros(64, 64), signed=torch.zeros(8, 8))
        assert "no evidence for “real”: zero everywhere" in page(blank)
        assert "zero everywhere" in describe(blank)
        view_figure(blank).canvas.draw()

    def test_the_verdict_says_whether_it_is_right(self, view):
        says = {
            (source, logit): describe(
                replace(view, logit=logit, setting=replace(view.setting, source=source))
            )
            for source in ("real", "generated", "yours")
            for logit in (-1.5, 1.5)
        }
        assert "D says “real”, and is right: logit +1.50" in says["real", 1.5]
        assert "D says “generated”, and is wrong: logit −1.50" in says["real", -1.5]
        assert "D says “generated”, and is right" in says["generated", -1.5]
        assert "D says “real”, and is wrong" in says["generated", 1.5]
        assert "D says “real”: logit" in says["yours", 1.5]


class TestSaving:
    def test_writes_a_picture_and_numbers_and_never_over_older_ones(self, view, tmp_path):
        first = save(view, tmp_path / "new")
        before = [path.read_bytes() for path in first]
        second = save(replace(view, logit=9.0), tmp_path / "new")
        assert [path.name for path in (*first, *second)] == [
            "view-001.png", "view-001.csv", "view-002.png", "view-002.csv"
        ]  # fmt: skip
        assert [path.read_bytes() for path in first] == before
        with Image.open(first[0]) as picture:
            assert picture.size[0] == 1400
        stored = pd.read_csv(first[1])
        assert stored["logit"][0] == view.logit
        found = stored[[f"map_{y}_{x}" for y in range(8) for x in range(8)]].to_numpy()[0]
        np.testing.assert_array_equal(found.astype(np.float32), view.signed.flatten().numpy())

    def test_a_folder_that_cannot_be_made_is_one_line(self, view, tmp_path):
        (tmp_path / "file").write_text("")
        assert "cannot write to" in refused(save, view, tmp_path / "file" / "folder")


class TestRunsOnDisk:
    def test_complete_ones_are_found_and_old_ones_said(self, tmp_path):
        runs = tmp_path / "smoke"
        done, partial, old = (train(tiny(seed=seed, epochs=1), runs).path for seed in range(3))
        for path, change in (
            (partial / "manifest.json", {"status": "partial"}),
            (old / "config.json", {"architecture": "other"}),
        ):
            files.write_json(path, {**files.read_json(path), **change})
        found, refused_ones = complete_runs(tmp_path)
        assert list(found.values()) == [done]
        assert next(iter(found)).startswith("smoke: dcgan, mnist-5k, width 2, 1 epochs, 28x28, seed 0 (")
        (line,) = refused_ones
        assert old.name in line
        assert "no longer trained" in line


class TestOwnNetwork:
    @pytest.fixture
    def network(self):
        layers = nn.Conv2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4, 2, 1)
        return randomised(nn.Sequential(*layers)).train()

    @pytest.fixture
    def folder(self, tmp_path):
        for i in range(6):
            pixels = np.random.default_rng(i).integers(0, 256, (40, 56, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        return tmp_path

    def test_a_module_and_a_folder_are_enough(self, network, folder):
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        explorer = own_explorer(network, f"folder:{folder}", size=48)
        assert explorer.layers == ["0", "1", "2", "3"]
        assert explorer.default.layer == "3"
        assert explorer.sources == ["real", "yours"]
        assert explorer.statistics["settled"] == "it needs the generator"
        for statistics in ("running", "reference", "batch"):
            view = explorer.view(reading(explorer.first, statistics=statistics, layer="2"))
            assert view.image.shape == (3, 48, 48)
            assert view.signed.shape == (24, 24)
        assert network.training
        assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())

    def test_checkpoints_have_their_epochs(self, network, tmp_path):
        for epoch in (1, 7):
            torch.save(randomised(network, epoch).state_dict(), tmp_path / f"d_{epoch}.pth")
        checkpoints = Checkpoints(tmp_path, lambda: copy.deepcopy(network), "d_*.pth")
        explorer = own_explorer(checkpoints, torch.rand(5, 3, 32, 32) * 2 - 1, layers=["2"])
        assert (explorer.epochs, explorer.layers, explorer.first.epoch) == ([1, 7], ["2"], 7)
        views = [explorer.view(replace(explorer.first, epoch=epoch)) for epoch in (1, 7)]
        expected = explain(randomised(network, 7), views[1].image[None], layer="2")[0]
        torch.testing.assert_close(views[1].heat, expected)
        assert not views[0].heat.equal(expected)

    def test_what_cannot_be_explored_is_one_line(self, network, folder):
        assert "did you mean" not in refused(own_explorer, network, f"folder:{folder}", layers=["conv9"])
        with pytest.raises(InputError, match="cannot be run on these images"):
            own_explorer(network, torch.zeros(4, 1, 8, 8))
        flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
        assert "no layer that runs once" in refused(own_explorer, flat, torch.zeros(4, 1, 8, 8))
        assert "is no folder" in refused(own_explorer, network, f"folder:{folder}/missing")


class TestPage:
    @pytest.fixture
    def page(self, tiny_run, tmp_path):
        return app.Page(run_explorer(tiny_run, "tiny", 64), tmp_path)

    @staticmethod
    def shown(page):
        return page._view.value

    def test_every_control_changes_the_view(self, page):
        changes = [
            (page._epoch, 1),
            (page._overlay, 9),
            (page._method, "hirescam"),
            (page._layer, "block2"),
            (page._evidence, "signed"),
            (page._statistics, "reference"),
            (page._grids["real"], 3),
        ]
        for control, value in changes:
            before = self.shown(page)
            control.value = value
            assert self.shown(page) != before, control
        assert page._epoch.shown == 1
        before = self.shown(page)
        page._tabs.selected_index = 1
        assert "generated image 1" in self.shown(page)
        assert self.shown(page) != before

    def test_generated_images_follow_the_epoch(self, page):
        page._tabs.selected_index = 1
        before, real = page._grids["generated"].pictures, page._grids["real"].pictures
        assert len(before) == len(real) == 20
        page._epoch.value = 0
        assert page._grids["generated"].pictures != before
        assert page._grids["real"].pictures == real

    def test_a_drawing_is_shown_and_a_cleared_one_is_a_line(self, page):
        page._tabs.selected_index = 2
        assert "no image of your own yet" in self.shown(page)
        strokes = np.zeros((280, 280), np.uint8)
        strokes[60:220, 130:150] = 255
        page._pad.set_state({"strokes": memoryview(strokes.tobytes())})
        assert "your image" in self.shown(page)
        page._pad.strokes = bytes(280 * 280)
        assert "nothing is drawn yet" in self.shown(page)

    def test_an_upload_that_is_no_image_is_a_line(self, page):
        page._tabs.selected_index = 2
        file = {"name": "a", "type": "", "size": 1, "content": b"x", "last_modified": datetime.now(UTC)}
        page._upload.value = (file,)
        assert "is no image that can be read" in self.shown(page)

    def test_save_says_where(self, page, tmp_path):
        page._save.click()
        assert "view-001.png" in page._saved.value
        assert (tmp_path / "view-001.csv").is_file()

    def test_one_network_has_no_epochs_to_pick(self, tmp_path):
        network = randomised(nn.Sequential(nn.Conv2d(1, 2, 4, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 4, 2, 1)))
        page = app.explore(network, torch.zeros(3, 1, 16, 16), tmp_path)
        assert not page._epoch.playable
        assert "no BatchNorm" in str([child.value for child in page._absent_statistics()])


class TestFreshClone:
    @pytest.fixture
    def page(self, tmp_path, monkeypatch):
        monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
        return app.RunsPage(Study.load("quick"), tmp_path / "views")

    @staticmethod
    def until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_a_button_trains_the_smoke_run_and_shows_it(self, page):
        hint, row, _ = page.children[0].children
        assert "no trained network yet" in hint.value
        button, progress = row.children
        assert not (paths.RUNS / "smoke").exists()
        button.click()
        self.until(lambda: len(page.children) > 1)
        assert progress.value >= 1
        assert page._run.value.startswith("smoke: dcgan")
        assert "D says" in page._page.children[0]._view.value

    def test_a_failure_is_one_line_and_the_button_works_again(self, page):
        _, row, said = page.children[0].children
        paths.RUNS.write_text("a file where the folder should be")
        row.children[0].click()
        self.until(lambda: said.value)
        assert "choose another runs_dir" in said.value
        assert not row.children[0].disabled


def test_the_pad_sends_as_many_pixels_as_python_expects():
    source = (paths.REPOSITORY / "gradcam_gan/studies/explore/drawing_pad.js").read_text()
    assert f"const SIDE = {app.PAD_SIDE};" in source

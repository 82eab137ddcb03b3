"""The Explorer's controls and its page: ipywidgets over ``state.Explorer``."""

import html
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Thread
from typing import Any

import ipywidgets
import torch
from torch import Tensor, nn

from gradcam_gan.errors import GradcamGanError, one_line
from gradcam_gan.explaining.cam import Evidence
from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.run_explainer import Reading
from gradcam_gan.studies.explore.controls import DrawingPad, PictureGrid, Slider
from gradcam_gan.studies.explore.drawing import as_mnist, fitted, read_upload
from gradcam_gan.studies.explore.pictures import page, thumbnails
from gradcam_gan.studies.explore.saving import save
from gradcam_gan.studies.explore.state import Explorer, Setting, Source
from gradcam_gan.studies.explore.subjects import complete_runs, own_explorer, run_explorer
from gradcam_gan.studies.study import Study
from gradcam_gan.training.checkpoints import Checkpoints
from gradcam_gan.training.loop import train
from gradcam_gan.training.runs import CheckpointFolder, load_run

PAD_SIDE = 280  # pixels of the canvas, as in drawing_pad.js
POLL_SECONDS = 0.2
STRENGTHS = [f"{percent} %" for percent in range(0, 101, 10)]
TABS: dict[Source, str] = {"real": "Real", "generated": "Generated", "yours": "Yours"}
EVIDENCES: dict[str, Evidence] = {"for “real”": "real", "for “fake”": "fake", "both, signed": "signed"}
DRAWING_LABEL = "Draw a digit: with the mouse, or arrow keys to move the pen and space to lower or lift it"
DRAWING_HINT = (
    "Draw a digit, with the mouse or the arrow keys (space lowers and lifts the pen). It is scaled to 20x20 pixels and "
    "centred by its mass, as MNIST's digits are."
)
UPLOAD_HINT = "An uploaded image is taken as it is: MNIST's digits are white on black."


class Page(ipywidgets.VBox):
    """One Explorer on the screen: choices on the left; what D says and where it looks on the right.

    Args:
        explorer: what is shown.
        folder: where views are saved.
    """

    def __init__(self, explorer: Explorer, folder: Path) -> None:
        self._explorer, self._folder, self._setting = explorer, folder, None
        first = explorer.default
        last = len(explorer.epochs) - 1
        self._epoch = Slider(
            label="Epoch", options=[str(epoch) for epoch in explorer.epochs], value=last, playable=last > 0
        )
        self._overlay = Slider(label="Overlay", options=STRENGTHS, value=5)
        self._method = _dropdown("Method", {METHODS[name].label: name for name in METHODS}, first.method)
        self._layer = _dropdown("Layer", explorer.layers, first.layer)
        self._evidence = _dropdown("Evidence", EVIDENCES, first.evidence)
        had = [kind for kind, why_not in explorer.statistics.items() if not why_not]
        self._statistics = _dropdown("BatchNorm", had, first.statistics)
        self._view, self._saved = ipywidgets.HTML(), _text("")
        self._save = ipywidgets.Button(description="Save this view", icon="save")
        self._save.layout.flex, self._save.layout.width = "none", "auto"
        self._save.on_click(lambda _button: self._keep())
        self._sources = explorer.sources
        self._grids: dict[Source, PictureGrid] = {
            source: PictureGrid(label=f"{TABS[source]} images")
            for source in self._sources
            if source != "yours"
        }
        self._tabs = ipywidgets.Tab(
            [*self._grids.values(), self._own_image()], titles=[TABS[source] for source in self._sources]
        )
        super().__init__([self._layout()])
        self.add_class("explore")
        self._fill_grid()
        watched = [
            self._overlay,
            self._method,
            self._layer,
            self._evidence,
            self._statistics,
            *self._grids.values(),
        ]
        for control in watched:
            control.observe(lambda _change: self._redraw(), "value")
        self._epoch.observe(lambda _change: self._turn(), "value")
        self._tabs.observe(lambda _change: self._turn(), "selected_index")
        self._redraw()

    def _own_image(self) -> ipywidgets.Widget:
        self._pad = DrawingPad(label=DRAWING_LABEL)
        self._upload = ipywidgets.FileUpload(description="Upload an image", accept="image/*")
        self._upload.layout.width = "200px"
        self._pad.observe(lambda _change: self._take(self._drawn), "strokes")
        self._upload.observe(lambda _change: self._take(self._uploaded), "value")
        parts = [_text(DRAWING_HINT), self._pad, self._upload, _text(UPLOAD_HINT)]
        self._label = _dropdown("Told class", range(max(self._explorer.classes, 1)), 0)
        if self._explorer.classes:
            self._label.observe(lambda _change: self._take(lambda: self._explorer.own_image), "value")
            parts.append(self._label)
        return ipywidgets.VBox(parts)

    def _layout(self) -> ipywidgets.Widget:
        pickers = [self._method, self._layer, self._evidence, self._statistics, *self._absent_statistics()]
        left = ipywidgets.VBox(
            [
                _heading("1 · Choose an image"),
                self._tabs,
                _heading("2 · Choose how it is explained"),
                *pickers,
            ]
        )
        left.layout.width = "340px"
        sliders = [self._epoch] if len(self._explorer.epochs) > 1 else []
        saving = ipywidgets.HBox([self._save, self._saved])
        right = ipywidgets.VBox(
            [_heading("3 · What D says, and where it looks"), *sliders, self._view, self._overlay, saving]
        )
        right.layout.flex, right.layout.min_width = "1 1 420px", "420px"
        columns = ipywidgets.Box([left, right])
        columns.layout.flex_flow, columns.layout.grid_gap = "row wrap", "20px"
        return columns

    def _absent_statistics(self) -> list[ipywidgets.Widget]:
        absent = [f"{kind}: {why_not}" for kind, why_not in self._explorer.statistics.items() if why_not]
        return [_text(f"Statistics that cannot be had: {'; '.join(absent)}.")] if absent else []

    @property
    def _source(self) -> Source:
        return self._sources[self._tabs.selected_index or 0]

    def _picked(self) -> Setting:
        source = self._source
        reading = Reading(self._method.value, self._statistics.value, self._evidence.value, self._layer.value)
        image = self._grids[source].value if source in self._grids else 0
        epoch = self._explorer.epochs[self._epoch.value]
        return Setting(source, image, epoch, reading, self._overlay.value / (len(STRENGTHS) - 1))

    def _redraw(self) -> None:
        """Show what is picked; where it cannot be had, why."""
        self.add_class("explore-busy")
        self._layer.disabled = not METHODS[self._method.value].at_layer
        try:
            self._view.value = page(self._explorer.view(self._picked()))
        except GradcamGanError as error:
            self._view.value = _problem(error)
        self._saved.value, self._epoch.shown = "", self._epoch.value
        self.remove_class("explore-busy")

    def _turn(self) -> None:
        """Another epoch, which has another generator, or another kind of images."""
        self._fill_grid()
        self._redraw()

    def _fill_grid(self) -> None:
        """The pictures of the kind that is looked at; real ones are the same after every epoch."""
        if (grid := self._grids.get(self._source)) and (self._source == "generated" or not grid.pictures):
            images, captions = self._explorer.images(self._source, self._explorer.epochs[self._epoch.value])
            with grid.hold_sync():
                grid.captions, grid.pictures = captions, thumbnails(images)

    def _take(self, image: Any) -> None:  # noqa: ANN401
        """Show an image of the reader's own: ``image()`` makes it."""
        try:
            self._explorer.draw(image(), self._label.value)
        except GradcamGanError as error:
            self._view.value = _problem(error)
            return
        self._redraw()

    def _drawn(self) -> Tensor:
        strokes = torch.frombuffer(bytearray(self._pad.strokes), dtype=torch.uint8).reshape(
            PAD_SIDE, PAD_SIDE
        )
        return fitted(as_mnist(strokes), self._explorer.image_shape)

    def _uploaded(self) -> Tensor:
        return read_upload(bytes(self._upload.value[0]["content"]), self._explorer.image_shape)

    def _keep(self) -> None:
        try:
            saved = save(self._explorer.view(self._picked()), self._folder)
            self._saved.value = f"saved: {html.escape(', '.join(map(str, saved)))}"
        except GradcamGanError as error:
            self._saved.value = _problem(error)


class RunsPage(ipywidgets.VBox):
    """The complete runs of every profile, one at a time; where there is none, a button that trains one.

    Args:
        study: whose own first run is shown first, and whose number of calibration images is used.
        folder: where views are saved.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        self._study, self._folder = study, folder
        super().__init__()
        self.add_class("explore")
        self._find()

    def _find(self) -> None:
        self._runs, refused = complete_runs(self._study.runs_dir.parent)
        notes = [_text(line) for line in refused]
        if not self._runs:
            self.children = [_train_smoke(self._find), *notes]
            return
        own = self._study.runs_dir / self._study.config(self._study.seeds[0]).name
        first = next((name for name, path in self._runs.items() if path == own), next(iter(self._runs)))
        self._run = _dropdown("Network", list(self._runs), first)
        self._run.layout.width = "min(640px, 95%)"
        self._page = ipywidgets.VBox()
        self._run.observe(lambda _change: self._open(), "value")
        self._open()
        self.children = [self._run, self._page, *notes]

    def _open(self) -> None:
        name = self._run.value
        try:
            explorer = run_explorer(load_run(self._runs[name]), name, self._study.calibration_images)
            self._page.children = [Page(explorer, self._folder)]
        except GradcamGanError as error:
            self._page.children = [ipywidgets.HTML(_problem(error))]


def _train_smoke(trained: Any) -> ipywidgets.Widget:  # noqa: ANN401
    """What a fresh clone shows: a button that trains the smoke profile's first network, then calls ``trained()``.

    The training has a thread of its own, so that the kernel answers meanwhile.
    """
    smoke = Study.load("smoke")
    config = smoke.config(smoke.seeds[0])
    button = ipywidgets.Button(description="Train a small network now (seconds)", icon="play")
    button.layout.width = "auto"
    progress = ipywidgets.IntProgress(description="Epochs", max=config.epochs)
    said = ipywidgets.HTML()

    def work() -> None:
        with ThreadPoolExecutor(1) as pool:
            training = pool.submit(train, config, smoke.runs_dir)
            saved = CheckpointFolder(smoke.runs_dir / config.name / "checkpoints")
            while wait([training], POLL_SECONDS).not_done:
                progress.value = max(saved.epochs(), default=0)
        try:
            training.result()
            trained()
        except Exception as error:  # nobody would see a thread's traceback
            said.value, button.disabled = _problem(error), False

    def start(_button: ipywidgets.Button) -> None:
        button.disabled, said.value = True, ""
        Thread(target=work, daemon=True).start()

    button.on_click(start)
    hint = (
        "There is no trained network yet. The button trains a very small one, which shows how the Explorer works and "
        "knows little of digits; <code>make figures</code> trains the real ones."
    )
    return ipywidgets.VBox([ipywidgets.HTML(hint), ipywidgets.HBox([button, progress]), said])


def explore(
    network: nn.Module | Checkpoints,
    images: Tensor | str,
    folder: Path | str,
    *,
    size: int = 64,
    layers: Sequence[str] = (),
) -> Page:
    """Explore your own discriminator in JupyterLab, or your own checkpoints with a slider over their epochs.

    Args:
        network: as for ``own_explorer``, and so are ``images``, ``size`` and ``layers``.
        images: of yours.
        folder: where views are saved.
        size: pixels a side of named images.
        layers: to choose from.

    Raises:
        InputError: as ``own_explorer``.
    """
    return Page(own_explorer(network, images, size=size, layers=layers), Path(folder))


def _dropdown(name: str, options: Any, value: Any) -> ipywidgets.Dropdown:  # noqa: ANN401
    options = list(options.items()) if isinstance(options, dict) else list(options)
    return ipywidgets.Dropdown(description=name, options=options, value=value)


def _heading(text: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(f"<b>{text}</b>")


def _text(text: str) -> ipywidgets.HTML:
    shown = ipywidgets.HTML(html.escape(text))
    shown.add_class("explore-text")
    return shown


def _problem(error: BaseException) -> str:
    return f'<p class="explore-problem" role="alert">{html.escape(one_line(error))}</p>'

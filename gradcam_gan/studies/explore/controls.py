"""What ipywidgets does not have with a name for screen readers: a slider that plays, pictures to click, a canvas."""

from pathlib import Path

import anywidget
import traitlets

HERE = Path(__file__).parent


class Slider(anywidget.AnyWidget):
    """A native range input over named steps, by index."""

    _esm = HERE / "slider.js"
    _css = HERE / "explore.css"
    label = traitlets.Unicode().tag(sync=True)
    options = traitlets.List(traitlets.Unicode()).tag(sync=True)
    value = traitlets.Int().tag(sync=True)
    playable = traitlets.Bool(False).tag(sync=True)
    shown = traitlets.Int().tag(sync=True)  # the value that is drawn: a film waits for it


class PictureGrid(anywidget.AnyWidget):
    """Pictures (PNG) with captions, a button each; ``value`` is the index of the one that is picked."""

    _esm = HERE / "picture_grid.js"
    _css = HERE / "explore.css"
    label = traitlets.Unicode().tag(sync=True)
    captions = traitlets.List(traitlets.Unicode()).tag(sync=True)
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)
    value = traitlets.Int().tag(sync=True)


class DrawingPad(anywidget.AnyWidget):
    """A canvas; ``strokes`` are its grey values after each stroke, a byte a pixel, row by row."""

    _esm = HERE / "drawing_pad.js"
    _css = HERE / "explore.css"
    label = traitlets.Unicode().tag(sync=True)
    strokes = traitlets.Bytes().tag(sync=True, from_json=lambda sent, _widget: bytes(sent))

"""A view as a reader sees it: a page of HTML in milliseconds, or a figure for paper."""

import base64
import html
import io
import math
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from gradcam_gan.explaining.measures import normalise
from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.studies.explore.state import View
from gradcam_gan.studies.style import HEAT, PAGE, SIGNED, STYLE, as_rgb

SHADES = 256
MINUS = "−"
# what each measure says, and what a map that knows nothing would have
MEASURES = {
    "focus": ("share of the evidence on the bright part", "mask_area"),
    "rank_accuracy": ("share of the strongest pixels there", "mask_area"),
    "border_lift": ("evidence at the border, 1: no more than elsewhere", None),
    "coverage": ("share of the image above half of the maximum", None),
    "entropy": ("spread, 0: one pixel, 1: everywhere alike", None),
}


def png(pixels: np.ndarray) -> bytes:
    """uint8 pixels (H, W, 3) or (H, W) as a PNG."""
    content = io.BytesIO()
    PIL.Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def thumbnails(images: Tensor) -> list[bytes]:
    """Images (N, C, H, W) in [-1, 1] as PNGs."""
    return [png(_bytes(rgb)) for rgb in as_rgb(images)]


def overlay(view: View) -> Tensor:
    """The evidence over the image, (H, W, 3) in 0..1: scaled by its maximum, a signed one by its largest magnitude."""
    image, strength = as_rgb(view.image[None])[0], view.setting.overlay
    return (1 - strength) * image + strength * _heat_colours(view)


def _heat_colours(view: View) -> Tensor:
    if view.setting.reading.evidence == "signed":
        return _coloured(view.heat, SIGNED, -_largest(view.heat))
    return _coloured(normalise(view.heat[None], "max")[0], HEAT, 0.0, 1.0)


def _coloured(values: Tensor, colours: str, low: float, high: float | None = None) -> Tensor:
    """Values (h, w) between two ends, -low being the upper one by default, as colours (h, w, 3) in 0..1."""
    high = -low if high is None else high
    shades = ((values - low) / ((high - low) or 1) * (SHADES - 1)).round().clamp(0, SHADES - 1)
    return _palette(colours)[shades.long()]


@cache
def _palette(colours: str) -> Tensor:
    return torch.from_numpy(plt.get_cmap(colours)(np.linspace(0, 1, SHADES))[:, :3]).float()


def _largest(signed: Tensor) -> float:
    return float(signed.abs().max())


def _bytes(rgb: Tensor) -> np.ndarray:
    return (rgb * 255).round().to(torch.uint8).numpy()


def verdict(view: View) -> str:
    """What D says, such as ``D says “real”: logit +1.23``, and whether that is so."""
    says = "real" if view.logit > 0 else "generated"
    right = {"real": "real", "generated": "generated"}.get(view.setting.source)
    judged = "" if right is None else f", and is {'right' if says == right else 'wrong'}"
    return f"D says “{says}”{judged}: logit {view.logit:+.2f}".replace("-", MINUS)


def evidence_name(view: View) -> str:
    """Such as ``evidence for “real”``; it says where there is none."""
    named = {"real": "evidence for “real”", "fake": "evidence for “fake”", "signed": "evidence, both kinds"}
    name = named[view.setting.reading.evidence]
    return name if bool(view.heat.any()) else f"no {name}: zero everywhere"


def map_name(view: View) -> str:
    """Such as ``Grad-CAM at conv3``."""
    reading = view.setting.reading
    return METHODS[reading.method].at(reading.layer)


def unit_name(view: View) -> str:
    """What the raw map's values are, such as ``logits, + “real”, − “fake”``."""
    method = METHODS[view.setting.reading.method]
    unit = {"score": "logits", "": "no unit"}.get(method.unit, method.unit.replace("score", "logit"))
    return f"{unit}, {'of one sign' if method.one_sided else '+ “real”, − “fake”'}"


def describe(view: View) -> str:
    """The whole view in one sentence, for those who cannot see it."""
    return f"{view.caption}. {verdict(view)}; {map_name(view)}: {evidence_name(view)}{_strongest(view)}"


def page(view: View) -> str:
    """The view as HTML: verdict, three pictures with their descriptions, a colour bar, measures."""
    end, (height, width) = _largest(view.signed), view.signed.shape
    signed = _coloured(view.signed, SIGNED, -end)
    place = _strongest(view)
    pictures = [
        (as_rgb(view.image[None])[0], "The image", view.caption),
        (overlay(view), f"Overlay: {evidence_name(view)}{place}", f"{evidence_name(view)}, over it"),
        (signed, f"Raw map, {width}x{height} places", f"{map_name(view)}, raw"),
    ]
    figures = [_figure(pixels, f"{alt}: {view.caption}", caption) for pixels, alt, caption in pictures]
    figures[-1] = figures[-1].replace("<figcaption>", f"{_bar(end, unit_name(view))}<figcaption>")
    return (
        f'<div class="explore-view"><p class="explore-verdict">{html.escape(verdict(view))}</p>'
        f'<div class="explore-pictures">{"".join(figures)}</div>{_measures(view)}</div>'
    )


def _strongest(view: View) -> str:
    """Where a map is largest, in words."""
    if not bool(view.heat.any()):
        return ""
    height, width = view.heat.shape
    row, column = divmod(int(view.heat.abs().argmax()), width)
    across = ("left", "middle", "right")[min(3 * column // width, 2)]
    return f", strongest at the {('top', 'centre', 'bottom')[min(3 * row // height, 2)]} {across}"


def _figure(pixels: Tensor, alt: str, caption: str) -> str:
    source = base64.b64encode(png(_bytes(pixels))).decode()
    return (
        f'<figure><img decoding="sync" alt="{html.escape(alt)}" src="data:image/png;base64,{source}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _bar(end: float, unit: str) -> str:
    values = [f"{MINUS}{end:.2g}", "0", f"+{end:.2g}"] if end else ["", "0", ""]
    ticks = "".join(f"<span>{value}</span>" for value in values)
    return (
        f'<div class="explore-bar" style="background: linear-gradient(to right, {_gradient()})"></div>'
        f'<div class="explore-ticks">{ticks}</div><div class="explore-unit">{html.escape(unit)}</div>'
    )


@cache
def _gradient() -> str:
    return ", ".join(to_hex(colour.tolist()) for colour in _palette(SIGNED)[::15])


def _measures(view: View) -> str:
    rows = []
    for name, (meaning, chance) in MEASURES.items():
        beside = "" if chance is None else f"chance {_number(view.measures[chance])}"
        cells = f"<td>{_number(view.measures[name])}</td><td>{beside}</td><td>{html.escape(meaning)}</td>"
        rows.append(f'<tr><th scope="row">{name.replace("_", " ")}</th>{cells}</tr>')
    return f'<table class="explore-measures"><tbody>{"".join(rows)}</tbody></table>'


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def view_figure(view: View) -> Figure:
    """The view for paper: the image, the overlay and the raw map with its colour bar."""
    setting, end = view.setting, _largest(view.signed)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.6), width_ratios=(1, 1, 1.19))
        axes[0].imshow(as_rgb(view.image[None])[0].numpy())
        axes[0].set_title(view.caption)
        axes[1].imshow(overlay(view).numpy())
        axes[1].set_title(evidence_name(view))
        drawn = axes[2].imshow(view.signed.numpy(), cmap=SIGNED, vmin=-end or -1, vmax=end or 1)
        axes[2].set_title(f"{map_name(view)}, raw")
        figure.colorbar(drawn, ax=axes[2], label=unit_name(view))
        for panel in axes:
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        epoch = f"epoch {setting.epoch}, " if setting.epoch else ""
        figure.suptitle(
            f"{verdict(view)}\n{view.network}, {epoch}{setting.reading.statistics} statistics", size=8
        )
    return figure

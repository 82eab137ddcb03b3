"""The figures of notebook 6."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from gradcam_gan.explaining.cam import evidence_maps
from gradcam_gan.explaining.measures import normalise
from gradcam_gan.explaining.methods import IMAGE, METHODS
from gradcam_gan.studies.style import COLUMN, HEAT, PAGE, STYLE, as_rgb, intervals, legend_above
from gradcam_gan.studies.which_explanation.measured import CASCADE, CONTROLS, Explanation
from gradcam_gan.studies.which_explanation.retrained import NOTHING
from gradcam_gan.studies.which_explanation.rule import INDEPENDENT, MARGIN
from gradcam_gan.studies.which_explanation.tables import CEILING

CONTROL_LABELS = {
    "random": "random map",
    "image": "image itself",
    "edges": "edges",
    "centre": "centre",
    CEILING: "best at 8x8",
    "marked": "image",
}


PLAIN: Explanation = (IMAGE, "marked")  # the image without a map
# of scores and gaps, in SD of the logit; beyond, their axis is logarithmic: pixels chosen by D's gradient bring the
# logit down ten times as far as those that a layer's map chooses
LINEAR = {"score": 10, "gap": 2}


def label_of(method: str) -> str:
    """As figures name a method or a control."""
    return METHODS[method].label if method in METHODS else CONTROL_LABELS[method]


def planted_grid(image: Tensor, mask: Tensor, maps: Mapping[Explanation, Tensor]) -> Figure:
    """Every map of one image with the marker: a row a layer, then the maps of the image itself, then the controls.

    Args:
        image: uint8 (1, C, H, W), with the marker.
        mask: bool (1, H, W), the marker, outlined.
        maps: signed (1, h, w), by layer and method; of these the evidence for "real", divided by its own maximum, half
            and half with the image.
    """
    layers = list(dict.fromkeys(layer for layer, method in maps if layer != IMAGE))
    cells: list[tuple[str, list[Explanation]]] = [
        (layer, [one for one in maps if one[0] == layer]) for layer in layers
    ]
    cells.append(("no layer", [PLAIN, *(one for one in maps if one[0] == IMAGE and one[1] in METHODS)]))
    cells.append(("controls", [one for one in maps if one[0] == IMAGE and one[1] not in METHODS]))
    columns = max(len(row) for _, row in cells)
    with plt.rc_context(STYLE):
        size = (PAGE, len(cells) * 0.97 * PAGE / columns + 0.15)
        figure, panels = plt.subplots(len(cells), columns, figsize=size, squeeze=False)
        for (name, row), drawn in zip(cells, panels, strict=True):
            for axes in drawn[len(row) :]:
                axes.remove()
            drawn[0].set_ylabel(name)
            for axes, (layer, method) in zip(drawn, row, strict=False):
                picture = as_rgb(image)
                if (layer, method) != PLAIN:
                    heat = normalise(evidence_maps(maps[layer, method], "real", image.shape[2:]).cpu(), "max")
                    picture = (torch.from_numpy(plt.get_cmap(HEAT)(heat.numpy())[..., :3]) + picture) / 2
                axes.imshow(picture[0].numpy())
                axes.contour(mask[0].float(), levels=[0.5], colors="cyan", linewidths=0.7)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if layer in (IMAGE, layers[0]):  # below it a column's method is the same
                    label = label_of(method).replace("Integrated", "Int.")
                    axes.set_title(label, size=6.5, pad=2)
    return figure


def quality_against_cost(table: pd.DataFrame, ceilings: pd.Series) -> Figure:
    """All explanations in four measures, the cheapest on top; bars are 95 % intervals.

    Args:
        table: of ``summary``.
        ceilings: energy of the best map that a layer's resolution allows, by layer.
    """
    layers = list(dict.fromkeys(table.loc[table["layer"] != IMAGE, "layer"]))
    colours = _colours(layers)
    of_methods = table[~table["control"]]
    order = of_methods.groupby("method")["milliseconds"].min().sort_values().index.tolist()
    order += [name for name in CONTROLS if name in set(table["method"])]
    measures = {
        "energy": "energy in\nthe marker",
        "gap": "occlusion gap\n(SD of the logit)",
        "randomised": "|rank correlation|\nwith other weights",
        "milliseconds": "cost\n(ms an image)",
    }
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(measures), figsize=(PAGE, 0.26 * len(order) + 1.0), sharey=True)
        for axes, (measure, name) in zip(panels, measures.items(), strict=True):
            for layer, colour in colours.items():
                own = table[table["layer"] == layer]
                shift = 0.0 if layer == IMAGE else 0.22 * (layers.index(layer) - (len(layers) - 1) / 2)
                heights = np.array([order.index(method) + shift for method in own["method"]])
                rows = pd.DataFrame({"estimate": own[measure]})
                for bound in ("low", "high"):
                    rows[bound] = own.get(f"{measure}_{bound}", own[measure])
                blind = own["control"].to_numpy()
                for chosen, own_colour in ((~blind, colour), (blind, "0.5")):
                    style = {"fmt": "o", "ms": 3, "capsize": 0, "lw": 1, "color": own_colour}
                    intervals(axes, rows[chosen], heights[chosen], upright=False, **style)
            axes.axhline(len(order) - len(CONTROLS) - 0.5, color="0.8", lw=0.6)
            axes.set(xlabel=name, ylim=(-0.6, len(order) - 0.4))
            axes.grid(axis="y", color="0.93", lw=0.5)
            axes.set_axisbelow(True)
        controls = table.loc[table["control"], "energy_high"].fillna(table["energy"])
        panels[0].axvline(controls.max() + MARGIN, color="0.3", lw=0.8, ls="--")
        for layer in layers:
            panels[0].axvline(ceilings[layer], color=colours[layer], lw=0.8, ls=":")
        panels[1].axvline(0, color="0.7", lw=0.8)
        panels[1].set_xscale("symlog", linthresh=LINEAR["gap"])
        panels[2].axvline(INDEPENDENT, color="0.3", lw=0.8, ls="--")
        panels[2].set_xlim(0, 1.03)
        panels[3].set_xscale("log")
        panels[3].xaxis.set_major_locator(LogLocator(numticks=9))
        for axes in (panels[1], panels[3]):
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        panels[0].set_yticks(range(len(order)), [label_of(method) for method in order])
        panels[0].invert_yaxis()
        for layer, colour in colours.items():
            name = "no layer" if layer == IMAGE else layer
            panels[0].plot([], [], "o", ms=3, color=colour, label=name)
        panels[0].plot([], [], "o", ms=3, color="0.5", label="controls")
        legend_above(figure, panels[0], len(colours) + 1)
    return figure


def flipping_chart(curves: pd.DataFrame, occluder: str) -> Figure:
    """The score while pixels are replaced: a panel a method; above, least important first, below, most important first.

    Grey is the random map. The area between is the gap.

    Args:
        curves: of ``Assessment``; means over networks and epochs are drawn.
        occluder: what stands in the pixels' place.
    """
    own = curves[curves["occluder"] == occluder]
    keys = ["method", "layer", "order", "replaced"]
    mean = own.groupby(keys, sort=False)["score"].mean().reset_index()
    methods = list(dict.fromkeys(mean.loc[mean["method"] != "random", "method"]))
    layers = list(dict.fromkeys(mean.loc[mean["layer"] != IMAGE, "layer"]))
    colours = _colours(layers)
    across = min(4, len(methods))
    down = -(-len(methods) // across)
    with plt.rc_context(STYLE):
        size = (PAGE, 1.25 * down + 0.85)
        figure, panels = plt.subplots(down, across, figsize=size, sharex=True, sharey=True, squeeze=False)
        for axes in panels.flat[len(methods) :]:
            axes.remove()
        for axes, method in zip(panels.flat, methods, strict=False):
            for order, curve in mean[mean["method"] == "random"].groupby("order"):
                axes.plot(100 * curve["replaced"], curve["score"], color="0.7", lw=0.8, ls=_dash(str(order)))
            for (layer, order), curve in mean[mean["method"] == method].groupby(
                ["layer", "order"], sort=False
            ):
                colour = "0.3" if method in CONTROLS else colours[str(layer)]
                style = {"color": colour, "ls": _dash(str(order)), "lw": 1.1}
                axes.plot(100 * curve["replaced"], curve["score"], **style)
            axes.set_title(label_of(method), pad=2)
            axes.set_yscale("symlog", linthresh=LINEAR["score"])
            axes.yaxis.set_major_formatter("{x:g}")
        for layer, colour in colours.items():
            panels[0, 0].plot([], [], color=colour, label="no layer" if layer == IMAGE else layer)
        panels[0, 0].plot([], [], color="0.3", label="controls")
        panels[0, 0].plot([], [], color="0.7", label="random map")
        for order in ("least", "most"):
            panels[0, 0].plot([], [], color="0.3", ls=_dash(order), label=f"{order} first")
        legend_above(figure, panels[0, 0], 4)
        figure.supxlabel(f"pixels replaced (%), by {_in_words(occluder)}", size=8)
        figure.supylabel("logit for “real” (SD)", size=8)
    return figure


def cascade_chart(measures: pd.DataFrame) -> Figure:
    """How much of a map stays while the weights are drawn again from the head down: means over images and networks."""
    names = {f"randomised_{name}": name for name in CASCADE} | {"randomised": "all"}
    own = measures[measures["measure"].isin(names)].replace({"measure": names})
    table = own.pivot_table("value", ["method", "layer"], "measure", sort=False)[list(CASCADE)]
    labels = [
        METHODS[method].at(layer) if method in METHODS else CONTROL_LABELS[method]
        for method, layer in table.index.to_frame().to_numpy().tolist()
    ]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 0.155 * len(table) + 0.75))
        sns.heatmap(
            table, ax=axes, cmap="cividis", vmin=0, vmax=1, annot=True, fmt=".2f", annot_kws={"size": 6},
            cbar_kws={"label": "|rank correlation|", "shrink": min(1, 12 / len(table))}, yticklabels=labels,
            xticklabels=[name.replace(" ", "\n") for name in CASCADE],
        )  # fmt: skip
        axes.set(xlabel="weights drawn again", ylabel="")
        axes.tick_params(length=0)
        axes.tick_params(rotation=0, labelsize=6.5)
    return figure


def retrained_chart(retrained: pd.DataFrame) -> Figure:
    """Accuracy of discriminators trained without what each map calls important; ticks are single trainings."""
    shares = sorted(set(retrained["share"]) - {0})
    methods = list(dict.fromkeys(retrained.loc[retrained["share"] > 0, "method"]))
    whole = retrained.loc[retrained["method"] == NOTHING[1], "accuracy"].mean()
    with plt.rc_context(STYLE):
        size = (max(COLUMN, 2.3 * len(shares) + 1.1), 0.2 * len(methods) + 0.75)
        figure, panels = plt.subplots(1, len(shares), figsize=size, sharey=True, squeeze=False)
        for axes, share in zip(panels[0], shares, strict=True):
            for height, method in enumerate(methods):
                own = retrained[(retrained["share"] == share) & (retrained["method"] == method)]["accuracy"]
                colour = "0.5" if method in CONTROLS else "C0"
                axes.plot(100 * own, np.full(len(own), height), "|", color=colour, ms=7, mew=1)
                axes.plot(100 * own.mean(), height, "o", color=colour, ms=4)
            axes.axvline(100 * whole, color="0.3", lw=0.8, ls="--")
            axes.axvline(50, color="0.3", lw=0.8, ls=":")
            axes.set(xlabel="balanced accuracy (%)", title=f"{100 * share:g} % of the pixels removed")
        panels[0, 0].set(ylim=(-0.5, len(methods) - 0.5))
        panels[0, 0].set_yticks(range(len(methods)), [label_of(method) for method in methods])
        panels[0, 0].invert_yaxis()
    return figure


def _colours(layers: Sequence[str]) -> dict[str, str]:
    return {layer: f"C{i}" for i, layer in enumerate(layers)} | {IMAGE: "C3"}


def _dash(order: str) -> str:
    return "-" if order == "least" else "--"


def _in_words(occluder: str) -> str:
    return {"background": "the background", "blur": "a blurred image"}[occluder]

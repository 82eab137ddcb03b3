"""The figures of notebook 8."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gradcam_gan.intervals import interval_over_networks, student_interval
from gradcam_gan.studies.claims import columns_of
from gradcam_gan.studies.earlier_experiments import rules
from gradcam_gan.studies.earlier_experiments.added_heatmaps import VARIANTS
from gradcam_gan.studies.earlier_experiments.rules import HEATMAP, PLAIN
from gradcam_gan.studies.earlier_experiments.targets import TARGETS, UNITS
from gradcam_gan.studies.style import PAGE, STYLE, intervals, legend_above, network_ticks, picture_rows

MODELS = {rules.NETWORK: "network", rules.LINEAR: "linear", rules.MEAN: "mean"}
MAP_LABELS = {
    **{name: name for name in (rules.GRADCAM, rules.RECTIFIED, rules.OCCLUSION)},
    **dict(zip(rules.BLIND, ("image itself", "edges", "Grad-CAM, other weights"), strict=True)),
}
VARIANT_LABELS = {name: name for name in VARIANTS} | {HEATMAP: "+ heatmap"}
VARIANT_LABELS |= {name: f"+ {name}" for name in rules.CONTROLS}


def prediction_chart(truth: Tensor, predicted: Tensor, errors: pd.DataFrame) -> Figure:
    """For each target what one network says of held-out images against the truth, and errors beside the baselines'.

    Ticks are single networks, bars 95 % intervals over them.

    Args:
        truth: (N, K), in the order of ``TARGETS`` and in their units.
        predicted: (N, K), likewise.
        errors: of ``Measured``.
    """
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 4, figsize=(PAGE, 2.1), width_ratios=[1, 1, 0.9, 0.9])
        for i, target in enumerate(TARGETS):
            axes, beside = panels[i], panels[2 + i]
            ends = [float(truth[:, i].min()), float(truth[:, i].max())]
            axes.plot(ends, ends, color="0.6", lw=0.8)
            axes.plot(truth[:, i], predicted[:, i], ".", ms=2, mew=0, alpha=0.5, rasterized=True)
            axes.set(xlabel=f"true {target} ({UNITS[target]})", ylabel="predicted" if i == 0 else "")
            own = errors[errors["target"] == target]
            for height, model in enumerate(MODELS):
                values = own.loc[own["model"] == model, "rmse"]
                _row(beside, values, height, "C0" if model == rules.NETWORK else "0.5")
                beside.axhline(height, color="0.93", lw=0.5, zorder=0)
            beside.set_yticks(range(len(MODELS)), list(MODELS.values()))
            beside.tick_params(labelleft=i == 0)
            beside.set(xlabel=f"error of {target}\n({UNITS[target]})", ylim=(len(MODELS) - 0.5, -0.5))
            beside.set_title(f"n = {_networks(errors)}")
            beside.set_xlim(0, 1.15 * own["rmse"].max())
    return figure


def agreement_chart(agreement: pd.DataFrame) -> Figure:
    """How far each map ranks the places with ink as the gradients do: of its own target, and of the other.

    Ticks are single networks; bars are 95 % intervals over networks, of one network over its images.
    """
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(TARGETS), figsize=(PAGE, 2.3), sharex=True, sharey=True)
        for axes, target in zip(panels, TARGETS, strict=True):
            axes.axvline(0, color="0.7", lw=0.8)
            axes.axhline(2.5, color="0.8", lw=0.6)
            own = agreement[agreement["target"] == target]
            for height, name in enumerate(MAP_LABELS):
                rows = own[own["map"] == name]
                for column, shift, style in (
                    ("own", -0.12, {"color": "0.5" if name in rules.BLIND else "C0"}),
                    ("other", 0.2, {"color": "C1", "mfc": "white", "ms": 3}),
                ):
                    found = columns_of(interval_over_networks(rows, column))
                    intervals(axes, pd.DataFrame([found]), [height + shift], fmt="o", lw=1, **style)
                network_ticks(axes, rows.groupby("seed")["own"].mean(), height - 0.12)
            axes.set_title(f"maps of {target}")
        panels[0].plot([], [], "o", color="C0", ms=4, label="own target's gradient")
        panels[0].plot([], [], "o", color="0.5", ms=4, label="the same, controls")
        panels[0].plot([], [], "o", color="C1", mfc="white", ms=3, label="other target's gradient")
        panels[0].set_yticks(range(len(MAP_LABELS)), list(MAP_LABELS.values()))
        panels[0].set_ylim(len(MAP_LABELS) - 0.4, -0.6)
        images = agreement["image"].nunique()
        said = f"rank correlation over places with ink, {_networks(agreement)}, {images:,} images"
        figure.supxlabel(said, size=8)
        legend_above(figure, panels[0], 3)
    return figure


def accuracy_chart(accuracies: pd.DataFrame) -> Figure:
    """Held-out accuracy with something added minus that of the plain images, for few and for many training images.

    Ticks are single pairs of networks, bars 95 % intervals over them; shaded is a difference that counts as none.
    """
    names = [name for name in VARIANTS if name != PLAIN]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 1.75), sharex=True, sharey=True)
        for axes, setting in zip(panels, (rules.FEW, rules.MANY), strict=True):
            own = accuracies[accuracies["setting"] == setting].pivot_table("accuracy", "seed", "variant")
            axes.axvspan(-rules.AS_ACCURATE, rules.AS_ACCURATE, color="0.92", lw=0)
            axes.axvline(0, color="0.5", lw=0.8)
            for height, name in enumerate(names):
                _row(axes, 100 * (own[name] - own[PLAIN]), height, "C0" if name == HEATMAP else "0.5")
            (count,) = accuracies.loc[accuracies["setting"] == setting, "training_images"].unique()
            plain = 100 * own[PLAIN].mean()
            axes.set_title(f"{count:,} training images; plain: {plain:.1f} % right")
        panels[0].set_yticks(range(len(names)), [VARIANT_LABELS[name] for name in names])
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        said = f"accuracy minus that of the plain images (percentage points), {_networks(accuracies)} each"
        figure.supxlabel(said, size=8)
    return figure


def variant_strip(variants: dict[str, Tensor]) -> Figure:
    """What each second network sees: a row a variant, a column an image.

    Args:
        variants: uint8 (K, C, H, W), by the names of ``VARIANTS``.
    """
    return picture_rows(list(variants.values()), [VARIANT_LABELS[name] for name in variants])


def _row(axes: Axes, values: pd.Series, height: float, colour: str) -> None:
    """One number a network: its mean, its interval, and a tick for each."""
    found = pd.DataFrame([columns_of(student_interval(values))])
    intervals(axes, found, [height], fmt="o", color=colour, zorder=3)
    network_ticks(axes, values, height)


def _networks(table: pd.DataFrame) -> str:
    count = table["seed"].nunique()
    return f"{count} network{'s' if count > 1 else ''}"

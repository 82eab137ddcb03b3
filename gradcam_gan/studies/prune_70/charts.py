"""Finished tables of the pruning experiment -> figures."""

from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from gradcam_gan.explaining.methods import METHODS
from gradcam_gan.run_explainer import STATISTICS, Reading
from gradcam_gan.studies.epoch_heatmaps.tables import select as select_rows
from gradcam_gan.studies.prune_70.rules import NO_EFFECT
from gradcam_gan.studies.prune_70.tables import WORTHWHILE, compared_arms, differences, minus
from gradcam_gan.studies.readings import COMPARED_LAYERS, COMPARED_METHODS, EVIDENCES
from gradcam_gan.studies.style import PAGE, STYLE, intervals, legend_above, network_ticks, seed_lines


def answer_chart(scores: pd.DataFrame) -> Figure:
    """C6 in one picture: how many images the rule deletes in each network; then the arms' scores against one another.

    Ticks are single networks, bars 95 % intervals over them. Grey is what the claim asks for on the left, and what
    counts as no effect in the middle.
    """
    by_rule = scores.groupby("seed")["by_rule"].first()
    pairs = compared_arms(scores)
    compared = differences(scores)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(PAGE, 0.7 + 0.22 * max(len(by_rule), 1.5 * len(pairs))))
        panels[0].axvspan(*(100 * share for share in WORTHWHILE), color="0.9", lw=0)
        panels[0].plot(100 * by_rule, range(len(by_rule)), "o", ms=4)
        panels[0].set_yticks(range(len(by_rule)), by_rule.index)
        panels[0].set(xlim=(-4, 104), xlabel="deleted by the rule (%)", ylabel="network (seed)")
        panels[1].axvspan(-NO_EFFECT, NO_EFFECT, color="0.9", lw=0)
        for axes, metric, name in zip(panels[1:], ("log_fid", "recall"), ("log FID", "recall"), strict=True):
            axes.axvline(0, color="0.4", lw=0.8)
            rows = compared[compared["metric"] == metric]  # in the order of the pairs
            intervals(axes, rows, range(len(pairs)), fmt="o", color="C1")
            for height, pair in enumerate(pairs):
                network_ticks(axes, minus(scores, *pair, metric), height)
            axes.set_yticks(range(len(pairs)), [f"{arm}\n− {to}" for arm, to in pairs])
            axes.tick_params(labelleft=axes is panels[1])
            axes.set(xlabel=f"change of {name}", ylim=(-0.6, len(pairs) - 0.4))
        for axes in panels:
            axes.invert_yaxis()
    return figure


def deletion_by_epoch(epochs: pd.DataFrame, marked: int) -> Figure:
    """Share of probe images that the rule deletes after every epoch: a line a network, a panel a reading.

    Args:
        epochs: of ``Tables``.
        marked: the epoch at which the rule is applied.
    """
    lines = list(product(EVIDENCES, COMPARED_LAYERS))
    size = (PAGE, 0.95 * len(lines) + 0.8)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(len(lines), len(STATISTICS), figsize=size, sharex=True, sharey=True)
        for row, (evidence, layer) in zip(panels, lines, strict=True):
            row[0].set_ylabel(f"{layer}\nfor “{evidence}”")
            for axes, statistics in zip(row, STATISTICS, strict=True):
                axes.axhspan(*(100 * share for share in WORTHWHILE), color="0.92", lw=0)
                axes.axvline(marked, color="0.4", lw=0.8, ls=":")
                for i, method in enumerate(COMPARED_METHODS):
                    own = select_rows(epochs, Reading(method, statistics, evidence, layer))
                    curves = 100 * own.pivot_table("deleted", "epoch", "seed")
                    seed_lines(axes, curves, f"C{i}", f"{METHODS[method].label}, thick: mean over networks")
        for axes, statistics in zip(panels[0], STATISTICS, strict=True):
            axes.set_title(f"{statistics} statistics")
        panels[0, 0].set(ylim=(-4, 104), yticks=(0, 50, 100))
        figure.supylabel("probe images that the rule deletes (%)", size=8)
        figure.supxlabel("epoch", size=8)
        legend_above(figure, panels[0, 0], 2)
    return figure


def rule_heatmap(grid: pd.DataFrame) -> Figure:
    """Share of training images that the rule deletes, mean over networks, over all it leaves open (``rule_grid``)."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(EVIDENCES), figsize=(PAGE, 4.2), sharey=True)
        for axes, evidence in zip(panels, EVIDENCES, strict=True):
            own = grid[grid["evidence"] == evidence]
            keys = ["layer", "statistics", "method"]
            table = 100 * own.pivot_table("deleted", keys, ["tau", "cut"], sort=False)
            names = table.index.to_frame().to_numpy().tolist()
            sns.heatmap(
                table, ax=axes, cmap="cividis", vmin=0, vmax=100, annot=True, fmt=".0f", annot_kws={"size": 6},
                cbar=axes is panels[-1], cbar_kws={"label": "images deleted (%)"},
                xticklabels=[f"{tau:g}\n{100 * cut:g}" for tau, cut in table.columns.to_frame().to_numpy()],
                yticklabels=[f"{METHODS[method].at(layer)}, {kind}" for layer, kind, method in names],
            )  # fmt: skip
            axes.set(title=f"evidence for “{evidence}”", xlabel="above: τ; below: cut (%)", ylabel="")
            axes.tick_params(length=0, rotation=0)
    return figure

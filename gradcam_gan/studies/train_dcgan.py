"""Notebook 1: did the networks train well, is D worth explaining, and what does G make?

A D beside a G of noise, or of one image over and over, explains nothing about digits; neither does one at chance.
"""

import hashlib
from collections.abc import Sequence
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gradcam_gan.data import to_bytes, to_model_range
from gradcam_gan.explaining.batchnorm import batch_statistics
from gradcam_gan.scoring.scores import VEIL, WITHOUT_VEIL, Reference, draw, evaluate
from gradcam_gan.studies import paths
from gradcam_gan.studies.epoch_heatmaps.tables import (
    HEALTHY_FID,
    HEALTHY_RECALL,
    health,
    trained_well,
)
from gradcam_gan.studies.style import PAGE, STYLE, legend_above, seed_lines
from gradcam_gan.training.loop import fixed_latents
from gradcam_gan.training.runs import Run

CURVES = {
    "loss (nats)": {"loss_discriminator": "discriminator", "loss_generator": "generator"},
    "mean probability of “real”": {"d_real": "D(x), real", "d_fake": "D(G(z)), generated"},
}
REGIME = ["width", "learning_rate", "batch_size"]
VEILS = (0, 24, VEIL, 128)  # grey levels below which a pixel counts as black
ACCURACIES = {f"accuracy_{mode}": f"{mode} statistics" for mode in ("running", "batch", "reference")}


def histories(runs: Sequence[Run], **keys: str) -> pd.DataFrame:
    """``Run.history`` of several runs in one table.

    Args:
        runs: trainings.
        keys: further columns, each with the field of a run's configuration that fills it: ``model="model_name"``.
    """
    tables = [
        run.history.assign(**{column: getattr(run.config, field) for column, field in keys.items()})
        for run in runs
    ]
    return pd.concat(tables, ignore_index=True)


def health_table(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a network: ``health``, then FID after epochs 18 (claim C2) and 25, and the best FID and recall.

    And ``health`` where no veil counts, its columns with that suffix.

    Args:
        scores: ``Tables.scores``.
    """
    trained = scores[scores["epoch"] > 0].sort_values(["seed", "epoch"])
    by_seed = trained.groupby("seed")
    after = trained.pivot_table("fid", "seed", "epoch").reindex(columns=[18, 25]).add_prefix("fid_")
    best = by_seed.agg(best_fid=("fid", "min"), best_recall=("recall", "max"))
    unveiled = health(scores, WITHOUT_VEIL).set_index("seed").add_suffix(WITHOUT_VEIL)
    return health(scores).set_index("seed").join([after, best, unveiled]).reset_index()


def health_chart(scores: pd.DataFrame) -> Figure:
    """G's FID and recall, and D's balanced accuracy, by epoch: a thin line a network, thick their median.

    Those of the networks that did not train well are black; dashed and thick is the median where no veil counts. Above:
    the rows of Figure 1, and what counts as healthy there; for D's accuracy, guessing.

    Args:
        scores: ``Tables.scores``.
    """
    trained = scores[scores["epoch"] > 0]
    unwell = health(scores).query("~healthy")["seed"].tolist()
    shown = {"fid": (HEALTHY_FID, "FID of G"), "recall": (HEALTHY_RECALL, "recall of G")}
    shown |= {column: (0.5, f"D's accuracy,\n{name}") for column, name in ACCURACIES.items()}
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(shown), figsize=(PAGE, 2.1))
        for i, (axes, (column, (limit, title))) in enumerate(zip(panels, shown.items(), strict=True)):
            curves = trained.pivot_table(column, "epoch", "seed")
            axes.plot(curves.index, curves.drop(columns=unwell), color=f"C{i}", lw=0.5, alpha=0.6)
            for seed in unwell:
                label = "did not train well" if seed == unwell[0] else None
                axes.plot(curves.index, curves[seed], color="black", lw=0.5, alpha=0.6, label=label)
            axes.plot(
                curves.index, curves.median(axis=1), color=f"C{i}", lw=1.5, label="median of the networks"
            )
            if f"{column}{WITHOUT_VEIL}" in trained:
                unveiled = trained.pivot_table(f"{column}{WITHOUT_VEIL}", "epoch", "seed").median(axis=1)
                words = f"the same, pixels below {VEIL} of 255 taken for black"
                axes.plot(unveiled.index, unveiled, color=f"C{i}", lw=1.5, ls=(0, (2, 1)), label=words)
            axes.axhline(limit, color="0.4", lw=0.8, ls="--")
            for row in trained.loc[trained["row"], "epoch"].unique():
                axes.axvline(row, color="0.8", lw=0.7, ls=":", zorder=0)
            axes.set(xlabel="epoch", title=title)
            if column == "fid":
                axes.set_yscale("log")
            else:
                axes.set_ylim(0, 1.03)
        legend_above(figure, panels[0], 3)
    return figure


def name_networks(table: pd.DataFrame) -> str:
    """How many networks trained well, which did not, and how many where no veil counts, as Markdown."""
    unwell = ", ".join(f"seed {seed}" for seed in table.loc[~table["healthy"], "seed"])
    well = f"{table['healthy'].sum()} of {len(table)} networks trained well"
    limits = f"G's FID is below {HEALTHY_FID:g} and its recall above {HEALTHY_RECALL:g}"
    return (
        f"**{well}**: at four of five rows of Figure 1 or more, {limits}. Those that did not: {unwell or 'none'}. "
        f"Where what is darker than {VEIL} of 255 grey levels counts as black, "
        f"{table[f'healthy{WITHOUT_VEIL}'].sum()} of {len(table)} did."
    )


def pilots() -> pd.DataFrame:
    """Trainings that the ``study`` profile's regime is judged by (``params/score_pilots.py``), as far as each has gone.

    Returns:
        A row a training: ``width``, ``learning_rate``, ``batch_size``, ``seed``, its last ``epoch``, G's ``fid`` and
        ``recall`` after it, and ``healthy``, whether these are as a row of Figure 1 must be.
    """
    last = pd.read_csv(paths.PARAMS / "pilots.csv").groupby([*REGIME, "seed"], as_index=False).last()
    return last.assign(healthy=trained_well(last))


def describe_pilots(table: pd.DataFrame) -> str:
    """How many of ``pilots`` are healthy, by regime, as Markdown."""
    counts = table.groupby(REGIME)["healthy"].agg(["sum", "size"]).reset_index()
    return " ".join(
        f"Width {row.width}, learning rate {row.learning_rate:g}, batches of {row.batch_size}: "
        f"**{row.good} of {row.all} trainings** are healthy where they stand."
        for row in counts.rename(columns={"sum": "good", "size": "all"}).itertuples()
    )


def training_curves(history: pd.DataFrame) -> Figure:
    """Losses and D's outputs; a thin line a seed, a thick mean.

    Args:
        history: from ``histories``, with a column ``seed``.
    """
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(1, len(CURVES), figsize=(0.7 * PAGE, 2.1))
        for axes, (label, series) in zip(all_axes, CURVES.items(), strict=True):
            for i, (column, name) in enumerate(series.items()):
                seed_lines(axes, history.pivot_table(column, "epoch", "seed"), f"C{i}", name)
            axes.set(xlabel="epoch", ylabel=label)
            axes.legend(frameon=False, loc="best")
        all_axes[1].set_ylim(0, 1)
    return figure


def veil_table(run: Run, reference: Reference, epochs: Sequence[int], count: int) -> pd.DataFrame:
    """How much the veil decides, whatever counts as one; kept with the run.

    Args:
        run: whose G.
        reference: what to compare with.
        epochs: E of the run's.
        count: of generated images.

    Returns:
        A row per epoch and grey level of ``VEILS``: ``epoch``, ``black_below``, ``fid`` and ``recall`` of G where what
        is darker counts as black.
    """

    def find() -> pd.DataFrame:
        rows, references = [], {level: reference.with_black_below(level) for level in VEILS}
        for epoch, level in product(epochs, VEILS):
            found = evaluate(run.generator(epoch), references[level], count=count)
            rows.append(
                {"epoch": epoch, "black_below": level, "fid": found["fid"], "recall": found["recall"]}
            )
        return pd.DataFrame(rows)

    return run.kept("veil", f"{reference.digest} {[*epochs]} {VEILS} {count}", find)


def veil_logits(run: Run, real: Tensor, epochs: Sequence[int]) -> pd.DataFrame:
    """Does D, as in training, see the veil? Its mean logits with and without it; kept with the run.

    Args:
        run: whose D and G.
        real: uint8 (N, C, H, W); in batches of 64, as in training.
        epochs: E of the run's.

    Returns:
        A row an epoch: ``epoch``, ``ground``, the median pixel of as many generated images in grey levels, and D's mean
        logit under each batch's own statistics: ``real``, ``generated``, and ``lifted``, of the generated images darker
        by that ground.
    """

    def find() -> pd.DataFrame:
        rows = []
        for epoch in epochs:
            network, made = batch_statistics(run.discriminator(epoch)), draw(run.generator(epoch), len(real))
            ground = int(made.median())
            lifted = made.clamp(min=ground) - ground
            with torch.inference_mode():
                logits = {
                    name: float(
                        torch.cat([network(to_model_range(some)) for some in images.split(64)]).mean()
                    )
                    for name, images in {"real": real, "generated": made, "lifted": lifted}.items()
                }
            rows.append({"epoch": epoch, "ground": ground, **logits})
        return pd.DataFrame(rows)

    return run.kept("veil-logits", f"{hashlib.sha256(real.numpy().tobytes()).hexdigest()} {[*epochs]}", find)


def samples(run: Run, epochs: Sequence[int], count: int) -> Tensor:
    """Images uint8 (E, K, C, H, W) of the same K latents at several epochs; kept with the run."""

    def find() -> dict[str, Tensor]:
        latents = fixed_latents(count)
        with torch.no_grad():
            return {"images": torch.stack([to_bytes(run.generator(epoch)(latents)) for epoch in epochs])}

    return run.kept_tensors("samples", f"{count} {[*epochs]}", find)["images"]


def sample_table(samples: Tensor, epochs: Sequence[int]) -> pd.DataFrame:
    """A row per epoch and latent of ``samples``: mean brightness, contrast (standard deviation), and ink.

    Args:
        samples: uint8 (E, K, C, H, W).
        epochs: E.

    Returns:
        Columns ``epoch``, ``latent`` (index), ``mean`` (-1 to 1), ``contrast``, ``ink``, the share of pixels brighter
        than mid-grey (0 to 1), and ``ground``, the median pixel in grey levels (0 to 255): that of the background.
    """
    pixels = to_model_range(samples).flatten(2)
    keys = pd.MultiIndex.from_product([epochs, range(samples.shape[1])], names=["epoch", "latent"])
    table = pd.DataFrame(
        {
            "mean": pixels.mean(2).flatten(),
            "contrast": pixels.std(2).flatten(),
            "ink": (pixels > 0).float().mean(2).flatten(),
            "ground": samples.flatten(2).float().quantile(0.5, 2).flatten(),
        },
        keys,
    )
    return table.reset_index()

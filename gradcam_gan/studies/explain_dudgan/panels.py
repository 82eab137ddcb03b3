"""Maps of the follow-up's models to be shown: D at several times, D beside C, and every model's D."""

from collections.abc import Sequence
from dataclasses import replace
from textwrap import wrap

import pandas as pd
import torch
from torch import Tensor

from gradcam_gan.run_explainer import Reading, RunExplainer
from gradcam_gan.studies.explain_dudgan.tables import draw_with_classes, explain_told
from gradcam_gan.studies.panels import Panel, beside, panel
from gradcam_gan.studies.readings import EVIDENCES
from gradcam_gan.training.runs import Run


def drawn_of_each_class(run: Run, epoch: int, count: int) -> Tensor:
    """The first of each class of so many images of a conditional run's generator, uint8 (classes, C, H, W).

    Kept with the run.
    """

    def find() -> dict[str, Tensor]:
        images, labels = draw_with_classes(run, epoch, count)
        firsts = [int((labels == label).nonzero()[0]) for label in range(run.manifest["classes"])]
        return {"images": images[firsts]}

    return run.kept_tensors("drawn-of-each-class", f"{epoch} {count}", find)["images"]


def times_panels(
    explainer: RunExplainer,
    images: Tensor,
    labels: Tensor,
    captions: Sequence[str],
    epochs: Sequence[int],
    shares: Sequence[float],
    readings: Sequence[Reading],
) -> list[Panel]:
    """D's maps of its own diffused input: a row an epoch, a column an image and time, what D saw shining through.

    Images are uint8 (K, C, H, W), with their classes (K,) and K captions. Times are given as shares t/T, ascending; T
    is that of each epoch, and t is rounded.

    Returns:
        A panel a reading.
    """
    states = [explainer.run.diffusion(epoch) for epoch in epochs]
    horizons = [0 if state is None else state.horizon for state in states]
    cells = [
        (epoch, horizon, time, explain_told(explainer, images, [epoch], readings, labels, time))
        for epoch, horizon in zip(epochs, horizons, strict=True)
        for time in (round(share * horizon) for share in shares)
    ]
    seen = torch.stack([explainer.diffused(images, epoch, time) for epoch, _, time, _ in cells])
    return [
        Panel(
            images.repeat_interleave(len(shares), 0),
            _image_by_image(torch.stack([one.maps(reading)[0] for *_, one in cells]), len(epochs)),
            [f"epoch {epoch}, T {horizon}" for epoch, horizon in zip(epochs, horizons, strict=True)],
            [f"{caption}\n{_time_caption(share)}" for caption in captions for share in shares],
            pd.concat(
                [one.table([reading]).assign(time=time, horizon=horizon) for _, horizon, time, one in cells],
                ignore_index=True,
            ),
            _image_by_image(seen, len(epochs)),
        )
        for reading in readings
    ]


def _image_by_image(cells: Tensor, rows: int) -> Tensor:
    """(R * S, K, ...), time after time within a row -> (R, K * S, ...), image by image."""
    return cells.unflatten(0, (rows, -1)).transpose(1, 2).flatten(1, 2)


def _time_caption(share: float) -> str:
    return "t = 0" if share == 0 else "t = T" if share == 1 else f"{share:g} T"


def networks_panel(
    discriminator: RunExplainer,
    classifier: RunExplainer,
    images: Tensor,
    labels: Tensor,
    captions: Sequence[str],
    epoch: int,
    reading: Reading,
) -> Panel:
    """D beside C of one DuDGAN, undiffused: D for “real” and “fake”, told the right and the next class; C.

    Images are uint8 (K, C, H, W), with their classes (K,) and K captions. The reading's evidence makes no difference.
    """
    real, fake = (replace(reading, evidence=evidence) for evidence in EVIDENCES)
    wrong = (labels + 1) % discriminator.run.manifest["classes"]
    d, d_misled, c = (
        explain_told(explainer, images, [epoch], [real], told)
        for explainer, told in ((discriminator, labels), (discriminator, wrong), (classifier, labels))
    )
    rows = {
        "D, “real”": (d, real),
        "D, “fake”": (d, fake),
        "D, “real”, wrong class": (d_misled, real),
        "D, “fake”, wrong class": (d_misled, fake),
        "C, for the class": (c, real),
        "C, against it": (c, fake),
    }
    tables = [explained.table([reading]).assign(row=row) for row, (explained, reading) in rows.items()]
    return Panel(
        images,
        torch.cat([explained.maps(reading) for explained, reading in rows.values()]),
        list(rows),
        list(captions),
        pd.concat(tables, ignore_index=True),
    )


def models_panel(
    explainers: Sequence[RunExplainer],
    images: Tensor,
    labels: Tensor,
    captions: Sequence[str],
    epochs: Sequence[int],
    reading: Reading,
) -> Panel:
    """The discriminators of several models beside each other: a column a model and image, a row an epoch; t = 0.

    Images are uint8 (K, C, H, W), with their classes (K,) and K captions; the explainers are one a model.
    """
    panels = []
    for explainer in explainers:
        model = explainer.run.config.model_name
        # the model's name once, over the middle of its columns; a long one in two lines
        above = ["\n".join(wrap(model, 18)) if i == len(captions) // 2 else "" for i in range(len(captions))]
        columns = [f"{name}\n{caption}" for name, caption in zip(above, captions, strict=True)]
        one = panel(explain_told(explainer, images, epochs, [reading], labels), [reading], columns)
        panels.append(replace(one, table=one.table.assign(model=model)))
    return beside(*panels)

"""Scores the trainings that the `study` profile's regime is judged by: G's FID and recall, and nothing else.

    python params/score_pilots.py runs/pilot/mnist-* runs/study/mnist-*

writes pilots.csv beside it, a row a run and epoch, and leaves the rows of other trainings; those that were broken off
count as far as they went. The images are those of the study's own scores.
"""

import sys
from pathlib import Path

import pandas as pd

from gradcam_gan.scoring.evaluator import load_evaluator
from gradcam_gan.scoring.scores import Reference, evaluate
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.train_dcgan import REGIME
from gradcam_gan.training.loop import training_images
from gradcam_gan.training.runs import Run, load_run

EPOCHS = (1, 2, 3, 4, 5, 8, 10, 11, 13, 15, 18, 20, 23, 25)


def main() -> None:
    """Score, write."""
    study = Study.load("study")
    runs = [load_run(path) for path in sys.argv[1:]]
    held_out = training_images(runs[0].config, "test")
    part = slice(*study.reference_images) if study.reference_images else slice(None)
    reference = Reference(
        held_out._replace(images=held_out.images[part], labels=held_out.labels[part]), load_evaluator()
    )
    rows = [row for run in runs for row in scored(run, reference, study.generated_images)]
    path, trainings = Path(__file__).with_name("pilots.csv"), [*REGIME, "seed", "epoch"]
    table = pd.concat([pd.read_csv(path), pd.DataFrame(rows)]).drop_duplicates(trainings, keep="last")
    table.sort_values(trainings).to_csv(path, index=False, float_format="%.4g")


def scored(run: Run, reference: Reference, count: int) -> list[dict[str, float]]:
    """A row an epoch."""
    rows = []
    for epoch in sorted({*EPOCHS, run.epochs[-1]} & set(run.epochs)):
        scores = evaluate(run.generator(epoch), reference, count=count)
        regime = {name: getattr(run.config, name) for name in (*REGIME, "seed")}
        rows.append({**regime, "epoch": epoch, "fid": scores["fid"], "recall": scores["recall"]})
    return rows


if __name__ == "__main__":
    main()

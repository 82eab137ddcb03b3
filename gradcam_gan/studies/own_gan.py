"""The paper's questions asked of a GAN that was trained elsewhere (``training.checkpoints``)."""

import pandas as pd

from gradcam_gan.intervals import student_interval
from gradcam_gan.run_explainer import Reading
from gradcam_gan.studies.claims import columns_of
from gradcam_gan.studies.epoch_heatmaps.rules import FIRST, LAST, RULES
from gradcam_gan.studies.epoch_heatmaps.tables import Tables

EVERY = f"every epoch from {FIRST} to {LAST}"
NEEDS = {
    "C1": EVERY,
    "C2": EVERY,
    "C3": "three networks, and objects of different areas",
    "C4": f"{EVERY}, and fid of each in scores",
}


def quantities(tables: Tables, reading: Reading) -> pd.DataFrame:
    """The primary quantities of C1 to C4, without verdicts: the rules' bounds were set for the paper's own GAN.

    The paper's epochs are meant: 5 to 25 of 25. A GAN that was trained for longer or shorter has the same share of its
    training under the same number if its files are numbered so that the last is 25.

    Args:
        tables: of one network or several (``measure_network``).
        reading: one that they have.

    Returns:
        A row a claim: ``claim``, ``quantity``, its mean over networks with ``estimate``, ``low``, ``high``, ``n`` and
        ``unit``, and ``missing``: what it needs and the tables lack, else empty.

    Raises:
        InputError: the tables lack that reading.
    """
    rows = []
    for claim, needs in NEEDS.items():
        part = RULES[claim][2][0]
        values = part.values(tables, reading)
        found = {"claim": claim, "quantity": part.rule.quantity, **columns_of(student_interval(values))}
        rows.append({**found, "missing": "" if len(values) else f"needs {needs}"})
    return pd.DataFrame(rows)

import math
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gradcam_gan.intervals import Interval
from gradcam_gan.studies.claims import NOTHING, Claim, Finding, ledger, outcome_of, over_seeds, within
from gradcam_gan.studies.readings import READINGS


def outcomes(claim):
    return [finding.outcome for finding in claim.findings]


def findings_of(*outcomes):
    return [Finding(READINGS[i % 4], outcome, NOTHING, "words") for i, outcome in enumerate(outcomes)]


def test_there_are_four_readings_of_gradcam():
    assert {reading.method for reading in READINGS} == {"gradcam"}
    assert [(reading.statistics, reading.evidence) for reading in READINGS] == [
        ("running", "real"), ("running", "fake"), ("reference", "real"), ("reference", "fake")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "found", list(combinations_with_replacement(["holds", "fails", "unclear", "no maps"], 4)), ids="-".join
)
def test_the_verdict_follows_from_the_readings_that_show_maps(found):
    counted = [outcome for outcome in found if outcome != "no maps"]
    if counted and all(outcome == "holds" for outcome in counted):
        expected = "reproduced"
    elif any(outcome == "holds" for outcome in counted):
        expected = "partly"
    elif counted and all(outcome == "fails" for outcome in counted):
        expected = "not reproduced"
    else:
        expected = "inconclusive"
    assert Claim("C0", "", "", findings_of(*found)).verdict == expected
    assert Claim("C0", "", "", findings_of(*reversed(found))).verdict == expected


def test_a_claim_reads_as_verdict_text_rule_and_a_line_per_reading():
    text = str(Claim("C0", "it shines", "it does", findings_of("holds", "fails", "unclear", "no maps")))
    head, *lines = text.split("\n")
    assert head == "**C0: partly** (“it shines”; holds if it does)."
    assert lines == ["", *(f"- {reading}: words." for reading in READINGS)]


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.1, 2, "holds"),
        (-2, -0.1, "fails"),
        (0, 2, "unclear"),
        (-2, 0, "unclear"),
        (math.nan, math.nan, "unclear"),
    ],
)
def test_an_outcome_needs_an_interval_beyond_0(low, high, outcome):
    assert outcome_of(Interval(0.0, low, high, 3)) == outcome


def test_over_seeds_is_students_interval():
    values = [0.2, 0.5, 0.9]
    found = over_seeds(pd.Series(values, pd.Index([4, 5, 6], name="seed")))
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.estimate, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert (found.n, found.unit) == (3, "seeds")
    assert within(0, found).low == 0 < found.estimate < within(0, found).high == 1


def test_the_ledger_has_a_row_per_claim_and_reading_and_survives_a_csv_file(tmp_path):
    finding = Finding(READINGS[1], "holds", Interval(0.5, 0.25, 0.75, 5, unit="seeds"), "words, “more”")
    claims = [Claim("C0", "text", "rule", [Finding(READINGS[0], "no maps", NOTHING, "none"), finding])]
    table = ledger([*claims, Claim("P0", "text", "rule", [Finding("FID", "fails", NOTHING, "words")])])
    assert table["claim"].tolist() == ["C0", "C0", "P0"]
    assert table.iloc[1].to_dict() == {
        "claim": "C0", "text": "text", "rule": "rule", "verdict": "reproduced", "reading": str(READINGS[1]),
        "outcome": "holds", "estimate": 0.5, "low": 0.25, "high": 0.75, "n": 5, "unit": "seeds",
        "sentence": "words, “more”",
    }  # fmt: skip
    table.to_csv(tmp_path / "ledger.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "ledger.csv"), table, check_dtype=False, rtol=1e-12)

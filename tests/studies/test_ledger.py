"""The ledger, what is drawn from it, and whether a change of any published number is noticed."""

import json
import math
import shutil

import pandas as pd
import pytest
from helpers import refused

from gradcam_gan.intervals import Interval
from gradcam_gan.studies import ledger, paths, readme, verify
from gradcam_gan.studies.claims import Claim
from gradcam_gan.studies.claims import ledger as table_of_claims
from gradcam_gan.training import files

STUDY = paths.FIGURES / "study"


@pytest.fixture
def published(tmp_path):
    """A copy of the study's tables with their ledger, as published."""
    ignored = shutil.ignore_patterns("*.png", "*.pdf", "*.svg")
    return shutil.copytree(STUDY, tmp_path / "study", ignore=ignored)


def edit(path, change):
    table = pd.read_csv(path)
    change(table)
    table.to_csv(path, index=False)


class TestLedger:
    def test_every_claim_has_a_number_with_its_interval_and_the_runs_it_comes_from(self):
        found = ledger.read(STUDY)
        claims = ledger.read_claims(STUDY).set_index("claim")
        assert set(found["claims"]) == set(claims.index)
        for claim, row in claims.iterrows():
            number = found["numbers"][claim]
            one = ledger.interval(found, claim)
            assert (one.n, one.unit) == (row["n"], row["unit"])
            assert math.isclose(one.estimate, row["estimate"]) or row["n"] == 0
            assert len(number["runs"]) >= row["n"]
            assert number["tolerance"] == 0

    def test_every_result_is_in_it_with_what_its_file_is(self):
        found = ledger.read(STUDY)["results"]
        assert {f"{name}.csv" for name in found} == {path.name for path in STUDY.glob("*.csv")}

    def test_holms_correction_counts_the_papers_claims_alone(self, tmp_path):
        for number, (name, p) in enumerate([("C1", 0.02), ("C6", 0.001), ("P2", 0.02)]):
            claim = Claim(name, "clear", "rule", "partly", "share", Interval(0.5, 0.4, 0.6, 12), "words", p=p)
            table_of_claims([claim]).to_csv(tmp_path / f"table_claims_{number}.csv", index=False)
            results = {f"table_claims_{number}": {"runs": []}}
            (tmp_path / f"0{number}_n.json").write_text(json.dumps({"results": results}))
        p_holm = ledger.read_claims(tmp_path).set_index("claim")["p_holm"]
        assert p_holm["C6"] == pytest.approx(0.002)
        assert p_holm["C1"] == pytest.approx(0.02)
        assert math.isnan(p_holm["P2"])

    def test_a_folder_without_one_is_named_in_one_line(self, tmp_path):
        assert "make publish makes it" in refused(ledger.read, tmp_path)
        assert "has no verdicts" in refused(ledger.read_claims, tmp_path)


FOUND = {
    "numbers": {
        "C1": {"quantity": "share", "value": 0.5, "low": 0.4, "high": 0.6, "n": 12, "unit": "networks"},
        "C6": {"quantity": "share", "value": 0.5, "low": 0.4, "high": 0.6, "n": 3, "unit": "pairs"},
        "C3": {"quantity": "share", "value": None, "low": None, "high": None, "n": 0, "unit": "networks"},
    },
    "claims": {
        name: {"text": "clear", "verdict": "partly", "notebook": "02_n", "planned": 12}
        for name in ("C1", "C3", "C6")
    },
    "holds_after_holm": ["C1"],
    "networks": {"healthy": [1], "unhealthy": [2], "healthy_without_veil": [1, 2]},
}


class TestReadme:
    def test_a_claims_row_has_verdict_number_and_how_many_networks_are_there(self):
        lines = readme.claims_markdown(FOUND).splitlines()
        number = "share: 0.50 [0.40, 0.60]"
        where = "[02](notebooks/02_n.ipynb)"
        assert lines[2:5] == [
            f"| C1: clear | **partly** | {number}, n=12 networks | {where} |",
            f"| C3: clear | **partly**, interim (0 of 12) | share: needs more networks | {where} |",
            f"| C6: clear | **partly**, interim (3 of 12) | {number}, n=3 pairs | {where} |",
        ]
        missing = ", ".join(name for name in readme.CLAIMS if name not in FOUND["claims"])
        assert f"still to come: {missing}." in lines[6]
        assert "**1 of 2 networks trained well**" in lines[8]
        assert "counts as black, 2 did" in lines[8]
        assert "Holm's correction over C1 to C6 leaves C1 at its level." in lines[8]

    def test_in_korean_the_numbers_are_the_same(self):
        english, korean = (readme.claims_markdown(FOUND, language) for language in ("en", "ko"))
        assert "0.50 [0.40, 0.60] (네트워크 12개)" in korean
        assert "0.50 [0.40, 0.60] (3쌍)" in korean
        assert len(korean.splitlines()) == len(english.splitlines())

    def test_every_claim_has_its_words_in_korean(self):
        assert set(readme.CLAIMS) == set(readme.CLAIMS_KO)

    def test_a_block_is_replaced_and_the_rest_stays(self):
        text = "before\n<!-- a: start -->\nold\n<!-- a: end -->\nafter"
        assert readme.with_block(text, "a", "new") == text.replace("old", "new")
        assert readme.with_block(text, "b", "new") == text


class TestVerify:
    def test_the_same_results_are_reproduced(self, published):
        found = verify.compare(published, STUDY)
        assert (found.holds, set(found.table["how"])) == (True, {"to the last digit"})
        table = found.table
        assert (table["reproduced"] == table["values"]).all()
        assert f"{table['values'].sum():,} of {table['values'].sum():,} values" in found.certificate(1.0)

    def test_a_changed_number_of_the_ledger_is_found(self, published):
        stored = ledger.read(published)
        stored["numbers"]["C1"]["value"] += 0.01
        files.write_json(published / ledger.NAME, stored)
        found = verify.compare(published, STUDY)
        assert not found.holds
        assert found.problems[0].startswith("C1: the ledger says")

    def test_a_changed_table_is_found_and_its_number_named(self, published):
        def change(table):
            table.loc[3, "focus"] += 1

        edit(published / "fig_focus_by_epoch.csv", change)
        found = verify.compare(published, STUDY)
        assert found.problems == ["fig_focus_by_epoch.csv is not the file that the ledger names"]
        row = found.table.set_index("result").loc["fig_focus_by_epoch"]
        assert row["reproduced"] == row["values"] - 1
        assert row["first"].startswith("3/focus: ")

    def test_a_changed_archive_is_found(self, published):
        (published / "archive" / "mine").mkdir(parents=True)
        (published / "archive" / "mine" / "results.zip").write_bytes(b"")
        assert verify.compare(published, STUDY).problems == [
            "archive/mine/results.zip is not the file that the ledger names"
        ]

    def test_of_an_archive_only_the_notebooks_that_it_is_enough_for_are_compared(self, published, tmp_path):
        again = shutil.copytree(published, tmp_path / "again")
        for path in again.glob("[0-9][0-9]_*.json"):
            if not path.name.startswith("07"):
                path.unlink()
        found = verify.compare(published, again, whole=False)
        assert (found.holds, set(found.table["how"])) == (True, {"to the last digit"})
        guided = again / "07_side_information.json"
        files.write_json(guided, {**files.read_json(guided), "cpu_capability": "NEON"})
        assert set(verify.compare(published, again, whole=False).table["how"]) == {"to a thousandth"}
        results = ledger.read(published)["results"]
        assert set(found.table["result"]) == {
            name for name in results if results[name]["notebook"][:2] == "07"
        }

    def test_a_result_that_is_missing_is_found(self, published, tmp_path):
        again = shutil.copytree(published, tmp_path / "again")
        (again / "fig_padding.csv").unlink(missing_ok=True)
        (again / "fig_focus_by_epoch.csv").unlink()
        assert "fig_focus_by_epoch: not made again" in verify.compare(published, again).problems

    def test_on_another_platform_intervals_must_overlap(self, published, tmp_path):
        again = shutil.copytree(published, tmp_path / "again")
        for path in again.glob("0*.json"):
            files.write_json(path, {**files.read_json(path), "cpu_capability": "NEON"})

        def shift(table):
            table[["estimate", "low", "high"]] += 0.01

        edit(again / "table_claims.csv", shift)
        assert verify.compare(published, again).holds

        def leave(table):
            table[["estimate", "low", "high"]] += 100

        edit(again / "table_claims.csv", leave)
        found = verify.compare(published, again)
        assert not found.holds
        assert "by overlapping intervals (" in found.certificate(1.0)
        assert "without an interval not compared" in found.certificate(1.0)
        assert found.table.set_index("result").loc["table_claims", "first"].startswith("0/estimate: ")

    def test_times_are_left_out_and_an_absent_value_equals_itself(self):
        one = pd.DataFrame({"fid": [1.0, math.nan], "name": ["a", "b"], "seconds": [1.0, 2.0]})
        other = one.assign(seconds=3.0)
        found = verify.compare_tables(one, other, ["seconds"], tolerance=0)
        assert found == {"values": 4, "compared": 4, "reproduced": 4, "first": ""}
        near = one.assign(fid=[1.0005, math.nan])
        for tolerance, reproduced in ((0, 3), (1e-3, 4), (1e-4, 3)):
            found = verify.compare_tables(one, near, ["seconds"], tolerance=tolerance)
            assert found["reproduced"] == reproduced
        found = verify.compare_tables(one, other.iloc[:1], ["seconds"], tolerance=0)
        assert (found["reproduced"], found["first"]) == (0, "2 x 2 published, 1 x 2 now, or other columns")

    @pytest.mark.parametrize("profile", ["quick", "study"])
    def test_the_verdicts_follow_from_the_published_tables_alone(self, profile):
        count, problems = verify.verify_verdicts(profile)
        assert problems == []
        claims = ledger.read(paths.FIGURES / profile)["claims"]
        # quick has no tables of its networks
        assert count == len(claims) if profile == "study" else count == sum(name[0] == "P" for name in claims)

    @pytest.mark.parametrize("claim", ["C3", "P5"])
    def test_other_words_than_the_tables_give_are_found(self, published, monkeypatch, claim):
        monkeypatch.setattr(paths, "FIGURES", published.parent)
        stored = ledger.read(published)
        stored["claims"][claim]["sentence"] += "!"
        files.write_json(published / ledger.NAME, stored)
        assert [problem[:4] for problem in verify.verify_verdicts("study")[1]] == [f"{claim}: "]

    def test_a_changed_table_of_a_network_changes_a_verdicts_number(self, published, monkeypatch):
        monkeypatch.setattr(paths, "FIGURES", published.parent)

        def change(table):
            table["focus"] = 0.0

        edit(next((published / "networks").glob("*.epochs.csv")), change)
        _, problems = verify.verify_verdicts("study")
        assert any(problem.startswith("C1: ") for problem in problems)

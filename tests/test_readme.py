import re
from pathlib import Path

import pandas as pd

from gradcam_gan.studies import paths
from gradcam_gan.studies.workflow import CLAIMS_END, CLAIMS_START, claims_markdown

README = paths.README.read_text()


def test_the_verdicts_are_those_of_the_committed_profile():
    """``make publish PROFILE=seeds`` writes them."""
    tables = sorted((paths.FIGURES / "seeds").glob("table_claims*.csv"))
    claims = pd.concat([pd.read_csv(table) for table in tables], ignore_index=True)
    shown = README.split(CLAIMS_START)[1].split(CLAIMS_END)[0].strip()
    assert shown == claims_markdown(claims)


def test_the_examples_on_ones_own_networks_run(capsys):
    explaining, scoring = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(explaining, "README.md", "exec"), {})
    assert "focus_lift" in capsys.readouterr().out
    exec(compile(scoring.replace("count=1000", "count=50"), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) == 4


def test_every_file_it_points_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (Path(paths.REPOSITORY) / link).exists()] == []


def test_it_names_every_committed_figure():
    for path in (paths.FIGURES / "quick").glob("*.csv"):
        assert f"`{path.stem}`" in README

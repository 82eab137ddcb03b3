import re
from pathlib import Path

import pandas as pd

from gradcam_gan import paths
from gradcam_gan.workflow import CLAIMS_END, CLAIMS_START, claims_markdown

README = paths.README.read_text()


def test_the_verdicts_are_those_of_the_committed_quick_profile():
    """``make publish`` writes them."""
    claims = pd.read_csv(paths.FIGURES / "quick" / "table_claims.csv")
    shown = README.split(CLAIMS_START)[1].split(CLAIMS_END)[0].strip()
    assert shown == claims_markdown(claims)


def test_the_example_on_ones_own_discriminator_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert "focus_lift" in capsys.readouterr().out


def test_every_file_it_points_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (Path(paths.REPOSITORY) / link).exists()] == []


def test_it_names_every_committed_figure():
    for path in (paths.FIGURES / "quick").glob("*.csv"):
        assert f"`{path.stem}`" in README

import re

import pandas as pd

from gradcam_gan.studies import paths
from gradcam_gan.studies.epoch_heatmaps.rules import RULES, decides_markdown, judge
from gradcam_gan.studies.epoch_heatmaps.tables import Tables
from gradcam_gan.studies.study import Study
from gradcam_gan.studies.workflow import (
    claims_markdown,
    faults_markdown,
    figures_markdown,
    read_claims,
    recommendation_markdown,
    with_block,
)

README = paths.README.read_text()


def test_its_tables_are_those_of_the_committed_results():
    """``make publish`` writes them, of the study and of quick, and ``make torture`` what it counted."""
    folder, planned = paths.FIGURES / "study", Study.load("study").planned
    current = with_block(README, "claims", claims_markdown(folder, planned))
    current = with_block(current, "decides", decides_markdown(Tables.published(folder)))
    current = with_block(current, "recommendation", recommendation_markdown(paths.FIGURES / "quick"))
    current = with_block(current, "faults", faults_markdown(paths.FIGURES / "faults.json"))
    assert with_block(current, "figures", figures_markdown(paths.FIGURES / "quick")) == README


def test_its_example_uses_what_is_recommended():
    found = pd.read_csv(paths.FIGURES / "quick/table_recommendation.csv").set_index("among")
    (method,) = re.findall(r'discriminator, images, method="([\w-]+)"', README)
    assert method == found["method"]["all"]


def test_its_verdicts_follow_from_the_committed_tables_alone():
    tables = Tables.published(paths.FIGURES / "study")
    claims = read_claims(paths.FIGURES / "study").set_index("claim")
    for name in RULES:
        claim = judge(name, tables)
        assert (claim.verdict, claim.effect.n) == (claims["verdict"][name], claims["n"][name])
        assert claim.sentence == claims["sentence"][name]


def test_the_examples_on_ones_own_networks_run(capsys):
    explaining, _ten_lines = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    # the ten lines run in tests/studies/test_own_gan.py
    exec(compile(explaining, "README.md", "exec"), {})
    assert "focus_lift" in capsys.readouterr().out


def test_every_file_it_points_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (paths.REPOSITORY / link).exists()] == []

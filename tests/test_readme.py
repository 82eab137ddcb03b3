import re

from gradcam_gan.studies import paths
from gradcam_gan.studies.workflow import claims_markdown, figures_markdown, read_claims, with_block

README = paths.README.read_text()


def test_its_tables_are_those_of_the_committed_results():
    """``make publish`` writes them: verdicts from seeds, notebooks and figures from quick's manifests."""
    current = with_block(README, "claims", claims_markdown(read_claims(paths.FIGURES / "seeds")))
    assert with_block(current, "figures", figures_markdown(paths.FIGURES / "quick")) == README


def test_the_examples_on_ones_own_networks_run(capsys):
    explaining, scoring = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(explaining, "README.md", "exec"), {})
    assert "focus_lift" in capsys.readouterr().out
    exec(compile(scoring.replace("count=1000", "count=50"), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) == 4


def test_every_file_it_points_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (paths.REPOSITORY / link).exists()] == []

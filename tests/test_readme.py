import re

import pandas as pd
import pytest

from gradcam_gan.studies import ledger, paths, readme
from gradcam_gan.studies.study import Study

README = paths.README.read_text()


@pytest.mark.parametrize("profile", ["quick", "study"])
def test_the_ledger_is_that_of_the_committed_results(profile):
    """``make publish`` writes it."""
    folder = paths.FIGURES / profile
    assert ledger.read(folder) == ledger.collect(folder, Study.load(profile))


@pytest.mark.parametrize(("language", "path"), [("en", paths.README), ("ko", paths.README_KO)])
def test_what_is_generated_is_what_the_ledgers_say(language, path):
    """``make publish`` writes it: verdicts from the study, notebooks, figures and advice from quick."""
    text = path.read_text()
    assert readme.update(language, text) == text
    for name in ("claims", "decides", "recommendation"):
        assert readme.with_block(text, name, "") != text


def test_its_example_uses_what_is_recommended():
    found = pd.read_csv(paths.FIGURES / "quick/table_recommendation.csv").set_index("among")
    (method,) = re.findall(r'discriminator, images, method="([\w-]+)"', README)
    assert method == found["method"]["all"]


def test_the_examples_on_ones_own_networks_run(capsys):
    explaining, _ten_lines = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    # the ten lines run in tests/studies/test_own_gan.py
    exec(compile(explaining, "README.md", "exec"), {})
    assert "focus_lift" in capsys.readouterr().out


@pytest.mark.parametrize("path", [paths.README, paths.README_KO])
def test_every_file_it_points_to_is_there(path):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (paths.REPOSITORY / link).exists()] == []

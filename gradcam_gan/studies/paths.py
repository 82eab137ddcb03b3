"""Where things lie in the repository: the only module that knows."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "data"
PARAMS = REPOSITORY / "params"
RUNS = REPOSITORY / "runs"
REPORT = RUNS / "report"
FIGURES = REPOSITORY / "figures"
NOTEBOOKS = REPOSITORY / "notebooks"
README = REPOSITORY / "README.md"
README_KO = REPOSITORY / "README.ko.md"

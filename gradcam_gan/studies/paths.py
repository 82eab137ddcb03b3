"""Where things lie in the repository: the only module that knows."""

from pathlib import Path

from gradcam_gan.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "data"
PARAMS = REPOSITORY / "params"
RUNS = REPOSITORY / "runs"
REPORT = RUNS / "report"
FIGURES = REPOSITORY / "figures"
NOTEBOOKS = REPOSITORY / "notebooks"
README = REPOSITORY / "README.md"
README_KO = REPOSITORY / "README.ko.md"


def check_checkout() -> None:
    """Refuse an installed package, which comes without the studies' parameters and notebooks.

    Raises:
        InputError: this is no checkout of the repository.
    """
    if not PARAMS.is_dir():
        raise InputError(
            f"{PARAMS} is not there: the studies, with their parameters and notebooks, are in the repository alone, "
            "not in the installed package; run this in a checkout of it"
        )

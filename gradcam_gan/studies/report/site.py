"""The site: a page a notebook, an index with the verdicts, and a search that runs in the browser."""

import json
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

from gradcam_gan.errors import InputError
from gradcam_gan.studies import ledger, paths, readme
from gradcam_gan.studies.report.page import PICTURES, Page, render, tidy
from gradcam_gan.studies.study import PROFILES
from gradcam_gan.studies.workflow import OUTPUTS_PROFILE, VERDICTS_PROFILE
from gradcam_gan.training import files
from gradcam_gan.validation import choose

HERE = Path(__file__).parent
INDEX = "index.html"


def build(profile: str | None = None, folder: Path | None = None) -> Path:
    """Make the site.

    Args:
        profile: whose executed notebooks are shown; None: the published ones, with the outputs stored in them.
        folder: where it goes; None: ``runs/report``. Pages of an earlier site there are replaced.

    Returns:
        The path of its index.

    Raises:
        InputError: there is no such profile, none of its notebooks has run, or the folder is a file.
    """
    target = folder or paths.REPORT
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is no folder")
    notebooks = published() if profile is None else executed(profile)
    names = [path.stem for path in notebooks]
    pages = [render(path, names) for path in notebooks]
    _clear(target)
    for page in pages:
        for name, picture in page.pictures.items():
            files.write_bytes(target / name, picture)
    for name, content in _texts(pages, profile or OUTPUTS_PROFILE).items():
        files.write_bytes(target / name, content.encode())
    return target / INDEX


def published() -> list[Path]:
    """The notebooks of the repository, in order."""
    return sorted(paths.NOTEBOOKS.glob("*.ipynb"))


def executed(profile: str) -> list[Path]:
    """The copies of them that the workflow has executed under a profile to the end, in order.

    Raises:
        InputError: there is no such profile, or none has run.
    """
    choose("profile", profile, PROFILES)
    copies = [paths.RUNS / profile / "notebooks" / path.name for path in published()]
    # a copy without its mark has failed, or is being made
    if found := [path for path in copies if path.with_suffix(".done").is_file() and path.is_file()]:
        return found
    raise InputError(f"no notebook has run under profile {profile}; make figures PROFILE={profile} runs them")


def _clear(folder: Path) -> None:
    """Remove an earlier site's pages and pictures of notebooks that may be gone; nothing else is touched."""
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for pattern in ("[0-9][0-9]_*.html", f"{PICTURES}/[0-9][0-9]_*.png"):
        for path in folder.glob(pattern):
            path.unlink()


def _texts(pages: list[Page], profile: str) -> dict[str, str]:
    """The site's files other than pictures, by name."""
    templates = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    verdicts = readme.claims_markdown(ledger.read(paths.FIGURES / VERDICTS_PROFILE))
    found = {
        INDEX: templates.get_template("index.html.j2").render(
            pages=pages,
            profile=profile,
            verdicts=VERDICTS_PROFILE,
            claims=tidy(markdown2html(verdicts), [page.name for page in pages]),
        ),
        "report.css": f"{HtmlFormatter().get_style_defs('.highlight')}\n{(HERE / 'report.css').read_text()}",
        "search.js": (HERE / "search.js").read_text(),
        "search_index.js": f"const SECTIONS = {json.dumps(search_index(pages))};\n",
    }
    template = templates.get_template("notebook.html.j2")
    for before, page, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
        found[f"{page.name}.html"] = template.render(page=page, before=before, after=after)
    return found


def search_index(pages: list[Page]) -> list[dict[str, str]]:
    """What the search looks into, a section each: ``notebook`` (its number), ``heading``, ``text`` and ``href``."""
    return [
        {
            "notebook": page.name[:2],
            "heading": section.heading if section.level > 1 else page.question,
            "text": section.text,
            "href": f"{page.name}.html#{quote(section.anchor)}",
        }
        for page in pages
        for section in page.sections
    ]

"""One notebook as a page: its cells as HTML, its pictures as files, and what a search can find in it."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup, Tag
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

from gradcam_gan.studies.workflow import LIVE

TEMPLATE = Path(__file__).with_name("cells.html.j2")
PICTURES = "pictures"  # the folder of their files
WIDGET = "application/vnd.jupyter.widget-view+json"
NEEDS_KERNEL = "*Controls that need a live kernel stand here: `make lab` opens the notebooks in JupyterLab.*"
TEXTS = (
    "h1, h2, h3, p, li, table:not(.dataframe) td"  # what the search looks into: words, not tables of numbers
)


@dataclass(frozen=True)
class Section:
    """What stands below one heading, in plain text.

    Attributes:
        anchor: the heading's id.
        heading: in words.
        level: 1 to 3.
        text: paragraphs and lists, without code and tables of numbers.
    """

    anchor: str
    heading: str
    level: int
    text: str


@dataclass(frozen=True)
class Page:
    """A notebook as a page.

    Attributes:
        name: the notebook's file name without suffix; the page is ``<name>.html``.
        body: its cells as HTML.
        sections: in order; the first is headed by the title.
        pictures: PNG files by path relative to the page, in order.
    """

    name: str
    body: str
    sections: list[Section]
    pictures: dict[str, bytes]

    @property
    def title(self) -> str:
        """Such as ``2 · What does the discriminator look at, epoch by epoch?``."""
        return self.sections[0].heading

    @property
    def question(self) -> str:
        """The title without the number."""
        return self.title.partition("·")[2].strip()


def render(path: Path, pages: Collection[str]) -> Page:
    """Turn a notebook into a page.

    Args:
        path: the notebook, with its outputs.
        pages: the notebooks of the site, by file name without suffix: links to other files become plain text.
    """
    notebook = nbformat.read(path, 4)
    note_what_needs_a_kernel(notebook)
    describe_pictures(notebook)
    # only what the template knows how to show
    shown = {"display_data_priority": ["text/html", "text/markdown", "image/png", "text/plain"]}
    config: dict[str, Any] = {"NbConvertBase": shown, "ExtractOutputPreprocessor": {"enabled": True}}
    exporter = HTMLExporter(config=config, template_file=str(TEMPLATE))
    names = {"unique_key": path.stem, "output_files_dir": PICTURES}
    body, resources = exporter.from_notebook_node(notebook, names)
    soup = tidy(body, pages)
    return Page(path.stem, str(soup), sections(soup), resources["outputs"])


def note_what_needs_a_kernel(notebook: NotebookNode) -> None:
    """Put a sentence in the place of controls, which nothing would answer here."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        kept = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        if len(kept) < len(cell.outputs) or LIVE in cell.metadata.get("tags", []):
            note = nbformat.v4.new_output("display_data", {"text/markdown": NEEDS_KERNEL})
            cell.outputs = [*kept, note]


def describe_pictures(notebook: NotebookNode) -> None:
    """Give every picture that has no words of its own the heading above it and the paragraph before it."""
    heading = caption = ""
    count = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            soup = BeautifulSoup(markdown2html(cell.source), "html.parser")
            for block in soup.select("h1, h2, h3, p"):
                heading, caption = (_text(block), "") if block.name != "p" else (heading, _text(block))
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                count += 1
                words = output.metadata.setdefault("image/png", {})
                words.setdefault("alt", f"Picture {count}, {heading}: {caption}".removesuffix(": "))


def tidy(body: str, pages: Collection[str]) -> BeautifulSoup:
    """HTML of a notebook or a README made fit for the site.

    Links to notebooks lead to their pages, and those to other files of the repository, which the site does not have,
    become plain text. A table gets a box of its own to scroll in, and so does what is preformatted.
    """
    soup = BeautifulSoup(body, "html.parser")
    for unwanted in soup.select("style, a.anchor-link"):
        unwanted.decompose()
    for link in soup.select("a[href]"):
        file, _, anchor = str(link["href"]).partition("#")
        if re.match(r"[a-z]+:", file) or not file or file.startswith(f"{PICTURES}/"):
            continue
        if file.endswith(".ipynb") and Path(file).stem in pages:
            link["href"] = f"{Path(file).stem}.html{'#' * bool(anchor)}{anchor}"
        else:
            link.unwrap()
    for table in soup.select("table"):
        for old in ("border", "style"):
            table.attrs.pop(old, None)
        box = {"class": "scroll", "role": "region", "aria-label": "table", "tabindex": "0"}
        table.wrap(soup.new_tag("div", attrs=box))
    for text in soup.select("pre"):
        text["tabindex"] = "0"
    return soup


def sections(soup: BeautifulSoup) -> list[Section]:
    """The text of a page by the headings that it stands under."""
    found: list[tuple[Tag, list[str]]] = []
    for element in soup.select(TEXTS):
        if element.name in ("h1", "h2", "h3"):
            found.append((element, []))
        elif not element.find_parent(["p", "li", "td"]):
            found[-1][1].append(_text(element))
    return [
        Section(str(heading["id"]), _text(heading), int(heading.name[1]), " ".join(texts))
        for heading, texts in found
    ]


def _text(element: Tag) -> str:
    """Of an element, in one line, without the mark of a heading's link."""
    return " ".join(element.get_text().split()).removesuffix("¶")

"""The site of ``make report``: complete, without broken links, and readable without a network, also on a phone."""

import base64
import io
import re
from urllib.parse import unquote

import nbformat
import pytest
from browser import chromium, complaints_of, needs_browser
from bs4 import BeautifulSoup
from PIL import Image

from gradcam_gan.__main__ import main
from gradcam_gan.studies import paths
from gradcam_gan.studies.report.page import NEEDS_KERNEL, WIDGET, render, tidy
from gradcam_gan.studies.report.site import build, executed

LARGEST = 15_000_000  # bytes of the whole site
NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
WIDTHS = (1100, 390)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site of the published notebooks."""
    return build(folder=tmp_path_factory.mktemp("report")).parent


@pytest.fixture(scope="module")
def pages(site):
    """Its pages by file name."""
    return {path.name: BeautifulSoup(path.read_text(), "html.parser") for path in site.glob("*.html")}


def picture():
    content = io.BytesIO()
    Image.new("L", (4, 4)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def small_notebook(path, *outputs, **metadata):
    """A notebook of one cell whose outputs these are."""
    cells = [
        nbformat.v4.new_markdown_cell(
            "# 9 · Why?\n\nFirst.\n\n## Here\n\nThe *last* word: [01](01_there.ipynb#How?)."
        ),
        nbformat.v4.new_code_cell("1 + 1", outputs=list(outputs), metadata=metadata),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {WIDGET: {"state": {}}}}), path)
    return path


def displayed(metadata=None, **data):
    bundle = {name.replace("_", "/"): content for name, content in data.items()}
    return nbformat.v4.new_output("display_data", bundle, metadata=metadata or {})


class TestPage:
    def test_a_picture_becomes_a_file_described_by_its_own_words_or_by_the_caption_before_it(self, tmp_path):
        outputs = (
            displayed({"image/png": {"alt": "a <b>"}}, image_png=picture()),
            displayed(image_png=picture()),
        )
        page = render(small_notebook(tmp_path / "09_why.ipynb", *outputs), ["01_there"])
        images = BeautifulSoup(page.body, "html.parser").select("img")
        assert [image["alt"] for image in images] == ["a <b>", "Picture 2, Here: The last word: 01."]
        assert [image["src"] for image in images] == list(page.pictures)
        assert all(content == base64.b64decode(picture()) for content in page.pictures.values())

    @pytest.mark.parametrize("tags", [["live"], []])
    def test_a_sentence_stands_for_controls_and_their_state_is_left_out(self, tmp_path, tags):
        outputs = (
            [] if tags else [nbformat.v4.new_output("display_data", {WIDGET: {}, "text/plain": "Slider()"})]
        )
        page = render(small_notebook(tmp_path / "09_why.ipynb", *outputs, tags=tags), [])
        soup = BeautifulSoup(page.body, "html.parser")
        assert soup.select_one(".output").get_text(strip=True, separator=" ") == re.sub(
            r"[*`]", "", NEEDS_KERNEL
        )
        assert "Slider()" not in page.body
        assert soup.select("script") == []

    def test_a_search_finds_the_words_below_each_heading_but_no_code(self, tmp_path):
        page = render(small_notebook(tmp_path / "09_why.ipynb"), [])
        assert [(one.heading, one.text) for one in page.sections] == [
            ("9 · Why?", "First."),
            ("Here", "The last word: 01."),
        ]
        assert (page.title, page.question) == ("9 · Why?", "Why?")

    def test_links_lead_to_pages_and_what_the_site_does_not_have_is_plain_text(self):
        soup = tidy(
            '<a href="../notebooks/01_there.ipynb#How?">1</a><a href="02_gone.ipynb">2</a>'
            '<a href="../gradcam_gan/data.py">3</a><a href="https://arxiv.org">4</a><a href="#here">5</a>',
            ["01_there"],
        )
        assert [(link["href"], link.text) for link in soup.select("a")] == [
            ("01_there.html#How?", "1"),
            ("https://arxiv.org", "4"),
            ("#here", "5"),
        ]
        assert soup.text == "12345"


class TestSite:
    def test_has_a_page_a_notebook_with_all_of_its_pictures_and_cells(self, site, pages):
        assert set(pages) == {"index.html", *(f"{path.stem}.html" for path in NOTEBOOKS)}
        for path in NOTEBOOKS:
            cells, page = nbformat.read(path, 4).cells, pages[f"{path.stem}.html"]
            outputs = [output for cell in cells for output in cell.get("outputs", [])]
            assert len(page.select("main img")) == sum("image/png" in one.get("data", {}) for one in outputs)
            assert len(page.select(".highlight")) == sum(cell.cell_type == "code" for cell in cells)
            folded = [cell for cell in cells if cell.metadata.get("jupyter", {}).get("source_hidden")]
            assert len(page.select("main details > .highlight")) == len(folded)
        assert sum(path.stat().st_size for path in site.rglob("*")) < LARGEST

    def test_the_index_asks_every_question_and_gives_the_verdicts(self, pages):
        index = pages["index.html"]
        assert [link["href"] for link in index.select(".cards a")] == [
            f"{path.stem}.html" for path in NOTEBOOKS
        ]
        readme = paths.README.read_text()
        claims = [cell.text for cell in index.select("table tbody td:first-child")]
        assert len(claims) > 0
        assert all(f"| {claim} | " in readme for claim in claims)

    def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(self, site, pages):
        ids = {name: [one["id"] for one in page.select("[id]")] for name, page in pages.items()}
        assert all(len(found) == len(set(found)) for found in ids.values())
        sections = re.findall(r'"href": "([^"]+)"', (site / "search_index.js").read_text())
        assert len(sections) > len(NOTEBOOKS)
        targets = [("index.html", target) for target in sections]
        for name, page in pages.items():
            targets += [(name, link["href"]) for link in page.select("a[href]") if "://" not in link["href"]]
            loaded = [one.get("src") or one.get("href") for one in page.select("[src], link[href]")]
            assert [target for target in loaded if re.match(r"(https?:)?//", target)] == []
            targets += [(name, target) for target in loaded if not target.startswith("data:")]
        for name, target in targets:
            file, _, anchor = target.partition("#")
            assert (site / unquote(file or name)).is_file(), (name, target)
            assert not anchor or unquote(anchor) in ids[unquote(file or name)], (name, target)
        assert "url(" not in (site / "report.css").read_text()

    def test_has_no_formulas_which_would_need_a_typesetter(self, pages):
        for page in pages.values():
            for code in page.select("pre, code"):
                code.extract()
            assert re.findall(r"\$[^$]+\$|\\\(", page.text) == []

    def test_says_in_words_what_every_picture_shows(self, pages):
        for page in pages.values():
            words = [image["alt"] for image in page.select("img")]
            assert len(set(words)) == len(words)
            assert all(len(text) > 20 for text in words)


def test_pages_of_notebooks_that_are_gone_are_removed_and_other_files_stay(tmp_path):
    for name in ("42_gone.html", "pictures/42_gone_1_0.png", "notes.html", "42_mine.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    build(folder=tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if "42" in path.name} == {"42_mine.csv"}
    assert (tmp_path / "notes.html").is_file()


def test_of_a_profile_it_shows_what_has_run_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    folder = tmp_path / "smoke" / "notebooks"
    folder.mkdir(parents=True)
    for path in NOTEBOOKS[:2]:
        (folder / path.name).touch()
    (folder / f"{NOTEBOOKS[0].stem}.done").touch()
    assert executed("smoke") == [folder / NOTEBOOKS[0].name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "quik"], "error: profile='quik' is unknown; did you mean 'quick'?"),
        (
            ["--profile", "paper"],
            "error: no notebook has run under profile paper; make figures PROFILE=paper",
        ),
        (["--folder", "{file}"], "{file} is no folder"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    file = tmp_path / "file"
    file.touch()
    assert main(["report", *(one.format(file=file) for one in arguments)]) == 2
    said = capsys.readouterr().err
    assert message.format(file=file) in said
    assert said.count("\n") == 1


@pytest.fixture(scope="module")
def context():
    """A browser that no network answers."""
    with chromium() as browser:
        context = browser.new_context()
        context.route(re.compile("^https?:"), lambda route: route.abort())
        yield context


@needs_browser
class TestInBrowser:
    @pytest.fixture
    def page(self, context):
        """A page that must not complain, nor ask for what is not there."""
        page = context.new_page()
        complaints = complaints_of(page)
        page.on("requestfailed", lambda request: complaints.append(request.url))
        yield page
        page.close()
        assert complaints == []

    @pytest.mark.parametrize("width", WIDTHS)
    def test_every_page_fits_the_screen_and_shows_its_pictures(self, page, site, pages, width):
        page.set_viewport_size({"width": width, "height": 900})
        for name in pages:
            page.goto((site / name).as_uri())
            for folded in page.locator("details").all():
                folded.evaluate("details => { details.open = true }")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
            assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)"), (
                name
            )

    def test_a_search_by_keyboard_finds_a_word_and_leads_to_its_section(self, page, site):
        page.goto((site / "index.html").as_uri())
        page.get_by_label("Search all notebooks").focus()
        page.keyboard.type("planted CHECKERBOARD")
        results = page.locator("#found a")
        assert page.get_by_role("status").inner_text() == f"{results.count()} section"
        assert page.locator("#found mark").all_inner_texts()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("06_which_explanation.html#The-planted-marker"))
        assert page.get_by_role("heading", name="The planted marker").evaluate(
            "heading => heading.getBoundingClientRect().top < innerHeight"
        )

    def test_a_search_takes_signs_as_they_are_and_says_when_there_is_nothing(self, page, site):
        page.goto((site / "index.html").as_uri())
        box, status = page.get_by_label("Search all notebooks"), page.get_by_role("status")
        box.fill("(C6)")
        (question,) = re.findall(r"\| \[03_\w+\]\(.*?\) \| (.*?) \|", paths.README.read_text())
        assert page.locator("#found a").first.inner_text() == f"03 · {question}"
        box.fill("<img src=x>*")
        assert status.inner_text() == "0 sections"
        box.fill(" ")
        assert (status.inner_text(), page.locator("#found li").count()) == ("", 0)

"""The printed edition: all pages as one, links inside of it, and a command that says what it needs."""

import io
import os
import shutil
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from entity_book.build import cli, edition, notebooks, pdf, site
from entity_book.build.book import BookError
from entity_circuits import places

HEAD = '<head><link rel="stylesheet" href="../_static/a.css?v=1"><script>window.MathJax = {"a": 1}</script></head>'
ONE = """<h1 id="top">1. One<a class="headerlink" href="#top">#</a></h1><h2 id="part">Part</h2>
<p><a href="two.html#there">there</a> <a href="#part">here</a> <a href="api.html">library</a>
<a href="../_static/x.zip">file</a> <a href="https://arxiv.org/abs/1">paper</a></p>
<details><summary>Code</summary><pre>x = 1</pre></details><details><summary>Why</summary><p>Because.</p></details>
<div class="book-chart"><img class="book-chart-static" loading="lazy" src="../_images/c.svg" alt="One bar.">
<script type="application/json">{}</script></div><button>Copy</button>
<div class="solution dropdown admonition" id="sol"><p>Forty-two.</p></div>"""
TWO = '<h1 id="top">Two</h1><p id="there">There. <a href="one.html#sol">solved</a></p>'


@pytest.fixture
def built(tmp_path):
    """A site of a front page and two pages, and one that is left out."""
    (tmp_path / "_toc.yml").write_text(
        "root: book/intro\nparts:\n- caption: First & last\n  chapters:\n  - file: book/one\n  - file: book/two\n"
        "  - file: book/api\n"
    )
    html = tmp_path / "_build" / "html"
    for name, body in {"intro": "<h1>Why?</h1>", "one": ONE, "two": TWO, "api": "<h1>Library</h1>"}.items():
        path = html / "book" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'<html>{HEAD}<body><article class="bd-article">{body}</article></body></html>')
    (html / "index.html").write_text("<html></html>")
    return tmp_path


def printed(built, **more) -> BeautifulSoup:
    text, _ = edition.combined(built / "_build" / "html", built, "<header>Cover</header>", **more)
    return BeautifulSoup(text, "html.parser")


def test_the_edition_has_the_pages_of_the_contents_in_their_order_without_the_library(built):
    _, entries = edition.combined(built / "_build" / "html", built, "")
    assert [entry.title for entry in entries] == ["Why?", "First & last", "1. One", "Two", "Solutions"]
    assert "Library" not in printed(built).get_text()


def test_every_link_leads_into_the_edition_or_to_another_site(built):
    page = printed(built)
    links = {link.get_text(): link["href"] for link in page.select("section a[href]")}
    assert links == {
        "there": "#book-two--there",
        "here": "#book-one--part",
        "paper": "https://arxiv.org/abs/1",
        "Solution": "#book-one--sol",
        "solved": "#book-one--sol",
    }
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in page.select('a[href^="#"]')} <= set(ids)
    assert "library" in page.get_text() and "file" in page.get_text()


def test_what_only_a_screen_can_do_is_gone_and_what_was_folded_is_open(built):
    page = printed(built)
    assert not page.select("section script, section button, a.headerlink")
    assert [one.get_text(" ", strip=True) for one in page.find_all("details")] == ["Why Because."]
    assert page.find("details").has_attr("open")
    assert page.find("img")["src"] == "/_images/c.svg" and not page.find("img").has_attr("loading")


def test_solutions_stand_at_the_end(built):
    sections = printed(built).select("section.chapter")
    assert [("Forty-two" in section.get_text()) for section in sections] == [False, False, False, True]
    assert sections[-1]["id"] == edition.END
    assert "dropdown" not in str(sections[-1])


def test_headings_stand_below_their_part_and_contents_have_the_page_numbers(built):
    page = printed(built, numbers={"book-two": 12})
    assert [one.get_text() for one in page.find_all("h1")] == ["First & last", "Solutions"]
    assert [one.get_text() for one in page.select("#book-one h2, #book-one h3")] == ["1. One", "Part"]
    rows = {row.a.get_text(): row.span.get_text() for row in page.select("nav li")}
    assert (rows["Two"], rows["1. One"]) == ("12", "")


def test_style_sheets_and_the_script_of_formulas_are_loaded_once_and_print_comes_last(built):
    page = printed(built)
    assert [link["href"] for link in page.select("link")] == ["/_static/a.css", "/_static/print.css"]
    assert len(page.select("head script")) == 1


def test_a_page_that_was_not_built_is_named(built):
    (built / "_build" / "html" / "book" / "two.html").unlink()
    with pytest.raises(BookError, match="book/two is not in the built site"):
        printed(built)


def test_each_entry_is_found_among_the_bookmarks_behind_the_one_before():
    marks = [
        SimpleNamespace(title="Why?", at=2),
        [SimpleNamespace(title="Two", at=3)],
        SimpleNamespace(title="1. One\n", at=4),
    ]
    marks += [[SimpleNamespace(title="Two", at=8)]]
    document = SimpleNamespace(outline=marks, get_destination_page_number=lambda mark: mark.at)
    reader = SimpleNamespace(PdfReader=lambda _: document)
    entries = [edition.Entry("Why?", "w"), edition.Entry("1. One", "o"), edition.Entry("Two", "t")]
    assert pdf.begins(reader, b"", entries) == {"w": 3, "o": 5, "t": 9}
    assert pdf.begins(reader, b"", [edition.Entry("Three", "x"), *entries]) == {"w": 3, "o": 5, "t": 9}


class Held(dict):
    """An object of a PDF, which is asked for itself."""

    def get_object(self):
        return self


def test_a_link_to_this_machine_is_a_stranger():
    uris = ["https://arxiv.org/x", "http://127.0.0.1:1/x", "file:///x/y", "mailto:a@b.c"]
    pages = [{}, {"/Annots": [Held({"/A": Held({"/URI": uri})}) for uri in uris] + [Held({"/Dest": "x"})]}]
    reader = SimpleNamespace(PdfReader=lambda _: SimpleNamespace(pages=pages))
    assert list(pdf.strangers(reader, b"")) == ["http://127.0.0.1:1/x", "file:///x/y"]


# The command


def test_without_a_site_the_command_says_so(tmp_path):
    with pytest.raises(BookError, match="entity-circuits book"):
        pdf.make(root=tmp_path)


def test_without_a_browser_the_command_says_how_to_name_one(built, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(places, "ROOT", built, raising=False)
    assert cli.main(["pdf"]) == 1
    assert "entity-circuits pdf --browser PATH" in capsys.readouterr().err
    assert cli.main(["pdf", "--browser", "nowhere/chrome"]) == 1
    assert "no browser to run at nowhere/chrome" in capsys.readouterr().err
    assert not (built / "_build" / "book.pdf").exists()


def test_without_the_packages_the_command_says_what_to_install(built, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(pdf, "found", lambda _: "chromium")
    monkeypatch.setattr(pdf.importlib, "import_module", missing)
    with pytest.raises(BookError, match=r"needs playwright.*\[book,dev\]"):
        pdf.make(root=built)


def test_the_browser_is_one_of_the_path(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}" if name == "google-chrome" else None)
    assert pdf.found() == "bin/google-chrome"


def test_the_printed_book_has_bookmarks_links_inside_and_nothing_of_this_machine(tmp_path):
    """In a browser: the whole site, printed. It is skipped where `tests/test_browser.py` would be."""
    pypdf, built = pytest.importorskip("pypdf"), (places.ROOT / "_build" / "html" / "index.html").is_file()
    pytest.importorskip("playwright.sync_api")
    if not built or not any(map(shutil.which, pdf.BROWSERS)):
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)("no browser, or no site")
    out = pdf.make(tmp_path / "book.pdf")
    document = pypdf.PdfReader(io.BytesIO(out.read_bytes()))
    names = [name for _, pages in edition.listed(places.ROOT) for name in pages]
    _, entries = edition.combined(places.ROOT / "_build" / "html", places.ROOT, "")
    assert {entry.id for entry in entries} == pdf.begins(pypdf, out.read_bytes(), entries).keys()
    assert {entry.page for entry in entries} - {""} == set(names)
    assert len(document.pages) > len(names)
    links = [note.get_object() for page in document.pages for note in page.get("/Annots") or []]
    assert sum("/Dest" in link for link in links) > len(names)
    assert "127.0.0.1" not in str(document.metadata)
    words = "".join(page.extract_text() for page in document.pages[: len(entries)])
    assert not [folder for folder in notebooks.private(places.ROOT) if folder in words]
    hosts = {str(link["/A"]["/URI"]).split("/")[2] for link in links if "/URI" in link.get("/A", {})}
    assert hosts <= site.LINKED_HOSTS

"""All pages of a built site as one page, to be printed: in the order of the contents, with links inside of it.

What only a screen can do goes: scripts, buttons, the drawing of charts over their pictures. Folded text is opened,
folded code goes, and solutions stand at the end.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag

from .lock import BookError

LEFT_OUT = frozenset({"book/api"})
"""Pages that are not in the printed edition: the library is described where it can be searched."""

END = "solutions"
"""The id of the part with all solutions."""

_SCREEN_ONLY = "script, noscript, button, a.headerlink, .book-chart-live, svg.narrow, [hidden]"


@dataclass(frozen=True)
class Entry:
    """A line of the contents: a part (no `page`) or a page, by its title and the id that it has in the edition."""

    title: str
    id: str
    page: str = ""


def listed(root: Path) -> list[tuple[str, list[str]]]:
    """The parts of `_toc.yml`, each with the names of its pages; the first, without a name, has the front page."""
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    parts = contents.get("parts") or [{"chapters": contents.get("chapters", [])}]
    named = [(str(part.get("caption", "")), [str(one["file"]) for one in part["chapters"]]) for part in parts]
    found = [("", [str(contents["root"])]), *named]
    return [(name, kept) for name, pages in found if (kept := [page for page in pages if page not in LEFT_OUT])]


def combined(html: Path, root: Path, cover: str, numbers: Mapping[str, int] | None = None) -> tuple[str, list[Entry]]:
    """The page that is printed, and its contents. `cover` is the markup of the first sheet.

    `numbers` are the pages on which the entries begin, by their ids, as far as they are known. Raises `BookError` if a
    page of the contents was not built.
    """
    parts = listed(root)
    names = [name for _, pages in parts for name in pages]
    sources = {name: _source(html, name) for name in names}
    entries, body, solutions = list[Entry](), list[str](), list[Tag]()
    for part, pages in parts:
        first = True
        for name in pages:
            article = _article(sources[name], name, set(names))
            solutions += _taken(article, name)
            if part and first:
                entries.append(Entry(part, f"part-{len(entries)}"))
                heading = f'<h1 class="part" id="{entries[-1].id}">{escape(part)}</h1>'
            entries.append(Entry(_title(article), anchor(name), name))
            body.append(_chapter(entries[-1], article, heading if part and first else ""))
            first = False
    if solutions:
        entries.append(Entry("Solutions", END))
        told = "".join(map(str, solutions))
        body.append(f'<section class="chapter" id="{END}" style="page: {END}"><h1>Solutions</h1>{told}</section>')
    head = _head(sources.values(), entries)
    contents = _contents(entries, numbers or {})
    text = f'<!DOCTYPE html><html lang="en" data-theme="light"><head>{head}</head><body><article class="bd-article">'
    return f"{text}{cover}{contents}{''.join(body)}</article></body></html>", entries


def anchor(name: str, place: str = "") -> str:
    """The id in the edition of a page, or of a place in it."""
    return "--".join(filter(None, (name.replace("/", "-"), place)))


def _source(html: Path, name: str) -> BeautifulSoup:
    path = html / f"{name}.html"
    if not path.is_file():
        raise BookError(f"{name} is not in the built site; build it with `entity-circuits book`")
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def _article(source: BeautifulSoup, name: str, names: set[str]) -> Tag:
    """The text of a page with ids of its own, links inside the edition, and nothing that only a screen can do."""
    found = source.select_one("article.bd-article")
    if found is None:
        raise BookError(f"{name} has no text that is known here; the theme has changed")
    for tag in found.select(_SCREEN_ONLY):
        tag.decompose()
    for folded in found.find_all("details"):
        if folded.select_one("p, li, table, img, svg, .math") is None:
            folded.decompose()  # code, or nothing
        else:
            folded["open"] = ""
    for tag in found.find_all(id=True):
        tag["id"] = anchor(name, str(tag["id"]))
    for tag in found.find_all("a", href=True):
        _link(tag, name, names)
    for tag in found.find_all(["img", "object"], src=True):
        tag["src"] = _path(str(tag["src"]), name)
        tag.attrs.pop("loading", None)
    for tag in found.select("[aria-labelledby], [aria-describedby], [headers], [for]"):
        for key in ("aria-labelledby", "aria-describedby", "headers", "for"):
            tag.attrs.pop(key, None)
    return found


def _link(tag: Tag, name: str, names: set[str]) -> None:
    """A link to a place of the edition, or to another site; of any other the words alone stay."""
    url = urlsplit(str(tag["href"]))
    if url.scheme in ("http", "https", "mailto"):
        return
    target = name if not url.path else _path(url.path, name).lstrip("/").removesuffix(".html")
    if target in names and (not url.path or url.path.endswith(".html")):
        tag["href"] = "#" + anchor(target, unquote(url.fragment))
    else:
        tag.name = "span"
        del tag["href"]


def _path(url: str, name: str) -> str:
    """What a page names relative to itself, from the top of the site."""
    parts: list[str] = []
    for part in (PurePosixPath(name).parent / unquote(urlsplit(url).path)).parts:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return "/" + "/".join(parts)


def _taken(article: Tag, name: str) -> Iterator[Tag]:
    """The solutions of a page, taken out of it; where they stood, a link to them."""
    for number, solution in enumerate(article.select(".solution.dropdown"), 1):
        moved = copy.copy(solution)
        moved["class"] = "solution admonition"
        moved["id"] = place = str(solution.get("id") or anchor(name, f"solution-{number}"))
        link = BeautifulSoup(f'<p class="solved"><a href="#{place}">Solution</a> (at the end)</p>', "html.parser")
        solution.replace_with(link)
        yield moved


def _title(article: Tag) -> str:
    heading = article.find("h1")
    return " ".join(heading.get_text().split()) if heading else "Untitled"


def _chapter(entry: Entry, article: Tag, part: str) -> str:
    """A page as a section, after the heading of its part where it is the first: its own headings are one step down."""
    for level in (5, 4, 3, 2, 1):
        for heading in article.find_all(f"h{level}"):
            heading.name = f"h{level + 1}"
    text = article.decode_contents()
    return f'<section class="chapter" id="{entry.id}" style="page: {entry.id}">{part}{text}</section>'


def _contents(entries: Iterable[Entry], numbers: Mapping[str, int]) -> str:
    rows = []
    for entry in entries:
        number = f'<span class="number">{numbers.get(entry.id, "")}</span>'
        kind = "page" if entry.page else "part"
        rows.append(f'<li class="{kind}"><a href="#{entry.id}">{escape(entry.title)}</a>{number}</li>')
    return f'<nav class="edition-contents"><p class="edition-contents-title">Contents</p><ul>{"".join(rows)}</ul></nav>'


def _head(sources: Iterable[BeautifulSoup], entries: Sequence[Entry]) -> str:
    """The style sheets of all pages, then that of print; the formulas' script; what stands above each page."""
    found = list(sources)
    sheets = dict.fromkeys(
        _path(str(link["href"]), "book/intro") for page in found for link in page.select("link[rel=stylesheet]")
    )
    links = "".join(f'<link rel="stylesheet" href="{sheet}">' for sheet in [*sheets, "/_static/print.css"])
    formulas = dict.fromkeys(
        str(script) if not script.get("src") else f'<script src="{_path(str(script["src"]), "book/intro")}"></script>'
        for page in found
        for script in page.select("head script")
        if "MathJax" in (script.string or "") or "mathjax" in str(script.get("src", ""))
    )
    running = "".join(
        f"@page {entry.id} {{ @top-left {{ content: {_quoted(entry.title)}; }} }}"
        for entry in entries
        if entry.page or entry.id == END
    )
    title = f"<title>{escape(entries[0].title)}</title>"
    return f'<meta charset="utf-8">{title}{links}{"".join(formulas)}<style>{running}</style>'


def _quoted(words: str) -> str:
    return '"' + words.replace("\\", "\\\\").replace('"', '\\"').replace("<", "\\3c ") + '"'

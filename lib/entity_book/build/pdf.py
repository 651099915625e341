"""The book as one PDF: the pages of the built site, printed by a Chromium that is installed.

It is printed twice: the first time tells on which sheets the chapters begin, the second has that in the contents.
"""

import importlib
import io
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from entity_circuits import places

from ..claims import answer, claims
from ..figures import circuit
from . import book, edition, front, lock, site
from .edition import Entry
from .lock import BookError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
"""What a Chromium may be called on the PATH."""

_OWN = ("127.0.0.1", "localhost", "[::1]", "")
_PLACE = "/edition.html"
_READY = "window.MathJax ? MathJax.startup.promise.then(() => document.fonts.ready).then(() => true) : true"
_SHEET = {"width": 658, "height": 950}
"""The printed part of an A4 sheet in pixels of a page, as the margins of `print.css` leave it."""

# What is too wide is made smaller. A table of numbers keeps its cells in one line, unless that were too small to read.
_FIT = """() => {
  const share = wide => wide.parentElement.clientWidth
    / Math.max(1, wide.scrollWidth, wide.getBoundingClientRect().width);
  for (const wide of document.querySelectorAll("table, mjx-container[display=true]")) {
    if (wide.closest(".cell_output")) wide.style.whiteSpace = "nowrap";
    if (share(wide) < 0.7) wide.style.whiteSpace = "";
    const part = share(wide);
    if (part > 0 && part < 0.999) wide.style.zoom = Math.max(0.45, part);
  }
  return Promise.all([...document.images].map(one => one.decode().catch(() => one.src)));
}"""


def make(out: Path | None = None, browser: str = "", root: Path | None = None) -> Path:
    """Print the built site into `out` (default `_build/book.pdf`) and return where it lies.

    `browser` is the path of a Chromium; without it one is looked for on the PATH. Raises `BookError` that says what to
    do without a site, a browser or the packages that drive it, and if the PDF would name an address of this machine.

    >>> pdf.make(Path("book.pdf"))  # doctest: +SKIP
    """
    root = root or places.ROOT
    html, out = root / "_build" / "html", out or root / "_build" / "book.pdf"
    if not (html / "index.html").is_file():
        raise BookError("there is no site yet; build it with `entity-circuits book`, then print it")
    program, (driver, reader) = found(browser), _packages()
    clock = time.perf_counter()
    with lock.held(root, "printing the book"):
        print("pdf: printing the pages, twice (a minute or two)", file=sys.stderr, flush=True)
        first = cover(root)
        text, entries = edition.combined(html, root, first)
        printed = _printed(driver, program, html, text)
        numbers = begins(reader, printed, entries)
        printed = _printed(driver, program, html, edition.combined(html, root, first, numbers)[0])
    if wrong := sorted(set(strangers(reader, printed))):
        raise BookError(f"the PDF would lead to {', '.join(wrong[:5])}; it was not written")
    out.parent.mkdir(parents=True, exist_ok=True)
    places.write(out, printed)
    sheets = len(reader.PdfReader(io.BytesIO(printed)).pages)
    print(f"pdf: {sheets} pages in {time.perf_counter() - clock:.0f} s, {out.name}", file=sys.stderr)
    return out


def found(browser: str = "") -> str:
    """The program to print with. Raises `BookError` that says how to name one."""
    program = shutil.which(browser) if browser else next(filter(None, map(shutil.which, BROWSERS)), None)
    if program:
        return program
    if browser:
        raise BookError(f"there is no browser to run at {browser}; give --browser the path of Chromium or Chrome")
    raise BookError(
        "printing needs Chromium or Chrome, and none is on the PATH (looked for "
        f"{', '.join(BROWSERS)}); install one, or name it: `entity-circuits pdf --browser PATH`"
    )


def _packages() -> tuple[Any, Any]:
    """Playwright and pypdf. Raises `BookError` that says how to install what is missing."""
    try:
        return importlib.import_module("playwright.sync_api"), importlib.import_module("pypdf")
    except ModuleNotFoundError as error:
        command = "pip install -c constraints.txt -e '.[book,dev]'"
        raise BookError(f"printing needs {error.name}; in a clone of the repository, {command}") from None


def cover(root: Path) -> str:
    """The first sheet: the question, the circuit, the answer, and what this edition is made from."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    reported, prompt = book.found(root).reported, front.running(root)
    told = " ".join(answer.sentences(claims.table(reported), reported)) if reported else front.NO_ANSWER
    drawn = circuit.MISSING if prompt is None else circuit.picture(prompt)
    last = max((run.started[:10] for run in book.runs(root).values()), default="")
    made = f"The chapters were executed on {last}. " if last else ""
    left = "Left out is the page on the library; solutions stand at the end. Charts are the pictures of the pages."
    return (
        f'<header class="cover"><p class="cover-question">{escape(answer.QUESTION)}</p>'
        f'<p class="cover-title">{escape(str(config["title"]))}: the runnable book, printed</p>'
        f'<div class="cover-circuit">{drawn}</div><p class="cover-answer">{escape(told)}</p>'
        f'<p class="cover-made">{escape(str(config["author"]))}. {made}{left}</p></header>'
    )


def _printed(driver: Any, program: str, html: Path, text: str) -> bytes:
    """The page as a PDF, once formulas, fonts and pictures are there; it may ask the site for files, no one else."""
    with site.server(html) as address, driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program)
        try:
            page = browser.new_page(viewport=_SHEET)
            page.route("**/*", lambda route: _answer(route, address, text))
            page.emulate_media(media="print")
            page.goto(address + _PLACE, wait_until="load", timeout=300_000)
            page.evaluate(_READY)
            if missing := [one for one in page.evaluate(_FIT) if one]:
                raise BookError(f"a picture of the site is missing: {missing[0].removeprefix(address)}")
            page.set_default_timeout(0)
            return bytes(page.pdf(prefer_css_page_size=True, print_background=True, outline=True, tagged=True))
        finally:
            browser.close()


def _answer(route: Any, address: str, text: str) -> None:
    url = route.request.url
    if url == address + _PLACE:
        route.fulfill(body=text, content_type="text/html; charset=utf-8")
    elif url.startswith((address, "data:")):
        route.continue_()
    else:
        route.abort()


def begins(reader: Any, printed: bytes, entries: Iterable[Entry]) -> dict[str, int]:
    """On which page each entry of the contents begins, by its id, as far as the bookmarks of the PDF tell it.

    Bookmarks come in the order of the contents, so that each is looked for behind the one before.
    """
    document = reader.PdfReader(io.BytesIO(printed))
    marks = [
        ("".join(str(one.title).split()), int(document.get_destination_page_number(one)) + 1)
        for one in _flat(document.outline)
    ]
    numbers, place = dict[str, int](), 0
    for entry in entries:
        at = next((n for n in range(place, len(marks)) if marks[n][0] == "".join(entry.title.split())), None)
        if at is not None:
            numbers[entry.id], place = marks[at][1], at + 1
    return numbers


def _flat(marks: Iterable[Any]) -> Iterator[Any]:
    for mark in marks:
        if isinstance(mark, list):
            yield from _flat(mark)
        else:
            yield mark


def strangers(reader: Any, printed: bytes) -> Iterator[str]:
    """The addresses of links in a PDF that lead to this machine, or to no host at all."""
    for page in reader.PdfReader(io.BytesIO(printed)).pages:
        for one in page.get("/Annots") or []:
            action = one.get_object().get("/A")
            uri = str(action.get_object().get("/URI", "")) if action is not None else ""
            if uri and not uri.startswith("mailto:") and (urlsplit(uri).hostname or "") in _OWN:
                yield uri

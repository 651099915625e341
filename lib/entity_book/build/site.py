"""Building the site from the executed chapters, checking what was built, and serving it on this machine."""

import contextlib
import errno
import functools
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from entity_circuits import places

from . import book, executed, finish, inputs, lock, notebooks
from .lock import BookError

LINKED_HOSTS = frozenset(
    {
        "aclanthology.org",
        "arxiv.org",
        "creativecommons.org",
        "doi.org",
        "github.com",
        "huggingface.co",
        "jupyterbook.org",
        "ndif.us",
        "nnsight.net",
        "openreview.net",
        "otter-grader.readthedocs.io",
        "papermill.readthedocs.io",
        "pydata-sphinx-theme.readthedocs.io",
        "sphinx-book-theme.readthedocs.io",
        "www.sphinx-doc.org",
    }
)
"""The hosts that a reader may be sent to by an ordinary link. Nothing is ever loaded from any of them."""

_LOADED = ("script", "img", "iframe", "source", "video", "audio", "embed")
_LOADED_LINKS = {"stylesheet", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "icon"}
_CSS_URL = re.compile(r"(?:url\(\s*|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)")
_FILE_NAME = re.compile(r"[/\\]|\.(?:png|svg|jpe?g|gif|webp)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Report:
    """What `check` found: `problems` (none is the aim) and, for each page, the bytes a first visit loads."""

    problems: tuple[str, ...]
    weights: dict[str, int]


def build(*, force: bool = False, root: Path | None = None) -> bool:
    """Build `_build/html` from scratch with every warning an error; False if nothing changed since the last build.

    Raises `BookError` with the warnings if there are any.
    """
    root = root or places.ROOT
    with lock.held(root, "building the site"):
        for name, told in book.behind(root).items():
            print(f"{name}: shown {told}", file=sys.stderr)
        return _build(root, force)


def _build(root: Path, force: bool) -> bool:
    record, made_from = root / "build" / "site.json", _inputs(root)
    if not force and _made(record) == {"from": made_from, "files": _files(root)} and _files(root):
        print("site: unchanged, not built again", file=sys.stderr)
        return False
    shutil.rmtree(root / "_build", ignore_errors=True)  # pages that were removed would stay otherwise
    record.unlink(missing_ok=True)
    clock = time.perf_counter()
    print("site: building", file=sys.stderr, flush=True)
    ends = f"from entity_book.build import lifetime; lifetime.with_parent({os.getpid()})"
    command = [sys.executable, "-c", f"{ends}; from jupyter_book.cli.main import main; main()"]
    command += ["build", ".", "--all", "-W", "-n", "--keep-going"]
    sphinx = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if sphinx.returncode:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", sphinx.stdout).splitlines()
        told = [line for line in lines if re.search(r"WARNING|ERROR|SEVERE|CRITICAL", line)] or lines[-30:]
        raise BookError("the site was not built:\n" + "\n".join("    " + line for line in told))
    finish.finish(root / "_build" / "html")
    places.write(record, json.dumps({"from": made_from, "files": _files(root)}))
    print(f"site: built in {time.perf_counter() - clock:.1f} s, _build/html/index.html", file=sys.stderr)
    return True


def check(html: Path) -> Report:
    """Read every page of a built site and report what is broken in it.

    Looked for: links and fragments that lead nowhere, ids used twice, pictures without words, anything loaded from
    another host, links to hosts outside `LINKED_HOSTS`, charts without a picture or a specification, paths of this
    machine. Raises `BookError` if there is no site.
    """
    root = html.resolve().parents[1]
    paths = pages(html)
    if not paths:
        raise BookError(f"no site at {html}; build it with `entity-circuits book`")
    soups = {path.resolve(): BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in paths}
    anchors = {path: _anchors(page) for path, page in soups.items()}
    problems: list[str] = []
    weights: dict[str, int] = {}
    for path, page in soups.items():
        name = path.relative_to(html.resolve()).as_posix()
        text = page.get_text()
        problems += [f"{name}: shows a path of this machine" for folder in notebooks.private(root) if folder in text]
        found = [*_repeated_ids(page), *_links(page, path, html.resolve(), anchors), *_loaded(page), *_pictures(page)]
        problems += [f"{name}: {problem}" for problem in [*found, *_charts(page, path)]]
        weights[name] = _weight(page, path)
    for sheet in sorted(html.rglob("*.css")):
        for url in _CSS_URL.findall(sheet.read_text(encoding="utf-8", errors="replace")):
            problems.append(f"{sheet.relative_to(html).as_posix()}: loads {url}")
    return Report(tuple(problems), weights)


def pages(html: Path) -> list[Path]:
    """The pages of a built site; what lies in `_static` belongs to the theme and is no page."""
    return sorted(path for path in html.rglob("*.html") if "_static" not in path.relative_to(html).parts)


@contextlib.contextmanager
def server(html: Path, port: int = 0) -> Iterator[str]:
    """Serve a built site on 127.0.0.1 while the context lasts; gives its address. Port 0 takes any free one.

    It answers to the names of this machine alone, or a page elsewhere could read it under a name of its own that leads
    here; and only with files of the site, wherever a link in it points to.
    """
    handler = functools.partial(_Quiet, directory=str(html))
    try:
        made = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise OSError(_no_port(port, error)) from None
    with made as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()


def _no_port(port: int, error: OSError) -> str:
    """What to do when a port cannot be had: which other one to take, and how to say so."""
    why = f"cannot be used ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        why = f"is taken: another program, perhaps this command in another window, answers at http://127.0.0.1:{port}/"
    elif error.errno == errno.EACCES:
        why = "is one of those below 1024, which ordinary users may not open"
    other = port + 1 if 1024 <= port < 65535 else 8000
    return (
        f"port {port} {why}. Take another one: `entity-circuits serve --port {other}`, or `make serve PORT={other}`; "
        "0 takes any that is free"
    )


class _Quiet(http.server.SimpleHTTPRequestHandler):
    server: http.server.ThreadingHTTPServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        host = self.headers.get("Host", "").lower()
        name, _, at = host.rpartition(":") if host.rpartition(":")[2].isdecimal() else (host, "", "80")
        if name not in ("127.0.0.1", "localhost", "[::1]") or at != str(self.server.server_port):
            self.send_error(403, "Not a name of this machine")
            return None
        path, top = Path(self.translate_path(self.path)), Path(self.directory).resolve()
        page = path / "index.html" if path.is_dir() else path
        if not page.resolve().is_relative_to(top) or not page.is_file():
            self.send_error(404, "No such page")
            return None
        return super().send_head()


def _inputs(root: Path) -> dict[str, str]:
    """The digests of all that the site is made from."""
    patterns = ("_*.yml", "book/**/*", "chapters/*.ipynb", "lib/**/*.py", "constraints.txt", "build/executed/*.json")
    files = {path for pattern in patterns for path in root.glob(pattern)}
    return inputs.digests(root, [*files, *(executed.path(root, name) for name in book.chapters(root))])


def _files(root: Path) -> dict[str, str]:
    """The digests of all that the site consists of."""
    return inputs.digests(root, (root / "_build" / "html").rglob("*"))


def _made(record: Path) -> Any:
    """What the last build wrote down; None if there is none that can be read, and the site is built anew."""
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _anchors(page: BeautifulSoup) -> set[str]:
    """The places of a page that a fragment can name."""
    named = [tag["name"] for tag in page.find_all("a", attrs={"name": True})]
    return {str(name) for name in [*named, *(tag["id"] for tag in page.find_all(id=True))]}


def _external(url: str) -> bool:
    return urlsplit(url).netloc != ""


def _repeated_ids(page: BeautifulSoup) -> Iterator[str]:
    for name, times in Counter(tag["id"] for tag in page.find_all(id=True)).items():
        if times > 1:
            yield f"id {name!r} is used {times} times"


def _links(page: BeautifulSoup, path: Path, top: Path, anchors: dict[Path, set[str]]) -> Iterator[str]:
    for tag in page.find_all(["a", "area", "link"], href=True):
        url = urlsplit(str(tag["href"]))
        if url.netloc:
            if tag.name != "link" and url.netloc not in LINKED_HOSTS:
                yield f"links to {url.geturl()}, whose host is not in LINKED_HOSTS"
            continue
        if url.scheme in ("mailto", "javascript", "data"):
            continue
        target = (path.parent / unquote(url.path)).resolve() if url.path else path
        target = target / "index.html" if target.is_dir() else target
        if not target.is_relative_to(top) or not target.is_file():
            yield f"links to {url.geturl()}, which does not exist"
        elif url.fragment and target in anchors and unquote(url.fragment) not in anchors[target]:
            yield f"links to {url.geturl()}, but that page has no such place"


def _loaded(page: BeautifulSoup) -> Iterator[str]:
    for tag in page.find_all(_LOADED, src=True):
        if _external(str(tag["src"])):
            yield f"loads {tag['src']}"
    for tag in page.find_all("link", href=True):
        if _LOADED_LINKS & set(tag.get("rel") or []) and _external(str(tag["href"])):
            yield f"loads {tag['href']}"
    for tag in page.find_all("style"):
        for url in _CSS_URL.findall(tag.get_text()):
            yield f"loads {url}"


def _pictures(page: BeautifulSoup) -> Iterator[str]:
    for tag in page.find_all("img"):
        words = str(tag.get("alt") or "").strip()
        if not words and tag.get("role") != "presentation":
            yield f"picture {tag.get('src')} has no alternative text"
        elif _FILE_NAME.search(words) and " " not in words:
            yield f"picture {tag.get('src')} has a file name as its alternative text"


def _charts(page: BeautifulSoup, path: Path) -> Iterator[str]:
    for number, chart in enumerate(page.select(".book-chart"), 1):
        picture, data = chart.select_one("img.book-chart-static"), chart.select_one('script[type="application/json"]')
        if picture is None or not (path.parent / str(picture["src"])).is_file():
            yield f"chart {number} has no static picture"
        try:
            json.loads(data.string or "" if data else "")
        except ValueError:
            yield f"chart {number} has no readable specification"


def _weight(page: BeautifulSoup, path: Path) -> int:
    """Bytes of a page with the scripts, styles and pictures that it names; fonts and formulas come on top."""
    files = {path}
    for tag in page.find_all(["script", "img", "link"]):
        if tag.name == "link" and "stylesheet" not in (tag.get("rel") or []):
            continue
        url = urlsplit(str(tag.get("src") or tag.get("href") or ""))
        if url.path and not url.netloc:
            files.add((path.parent / unquote(url.path)).resolve())
    return sum(file.stat().st_size for file in files if file.is_file())

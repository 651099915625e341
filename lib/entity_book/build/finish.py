"""What is done to the pages after Sphinx: what no page uses goes, and what a screen reader stumbles over.

Both are of the theme and of Sphinx's own writers, which leave no other place to change them.
"""

import re
from pathlib import Path

_ICON = re.compile(
    r"(?<=[{,])"
    r"(?P<name>[\w$]+|\"[\w-]+\"):"
    r"\[\d+,\d+,\[(?P<others>[^\]]*)\],\"[0-9a-f]+\",(?:\"[^\"]*\"|\[[^\]]*\])\],?"
)
"""One icon in the script of the theme: its name, width, height, other names, character and outline."""

_USED = re.compile(r"\bfa-([a-z0-9-]+)")
_SIGNATURE = re.compile(r'<dt class="sig.*?</dt>', re.DOTALL)
_SEARCH = re.compile(r'<script src="[^"]*(?:searchtools|language_data|searchindex)\.js"></script>')
_DESIGN = re.compile(r"<link [^>]*sphinx-design\.min\.css[^>]*>|<script [^>]*design-tabs\.js[^>]*></script>")
_DESCRIBED = re.compile(r'<meta content="([^"]*)" name="description" />')
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)
_LIST = re.compile(r"<dl>\n((?:<dd><em class=\"sig-param.*?</dd>\n)+)</dl>", re.DOTALL)
_CODE = re.compile(r"<pre>.*?</pre>", re.DOTALL)
_PLAIN = re.compile(r'<span class="[npw]">([^<]*)</span>')
"""Names, brackets, commas and spaces of code, which have the colour of what surrounds them."""

_WORDS = (
    # The name of a button is then what stands on it, or its label, and not one beside the other.
    (re.compile(r'(<button class="[^"]*search-button-field[^>]*?) aria-label="Search"'), r"\1"),
    (re.compile(r'(<i class="theme-switch [^>]*?) title="[^"]*"'), r"\1"),
    (re.compile(r'<summary aria-label="Toggle hidden content">'), "<summary>"),
    # These roles have been given up, or ask for children that a bibliography does not have.
    (re.compile(r'(<div class="citation"[^>]*?) role="doc-biblioentry"'), r"\1"),
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),
    # A box around each word of code, which only says that it may not be broken: style sheets say that here.
    (re.compile(r'<span class="pre">([^<]*)</span>'), r"\1"),
    # What stands in the address of a link, once more.
    (re.compile(r'(<a class="reference internal" href="[^"#]*#([^"]+)") title="\2"'), r"\1"),
    # The picture below a chart is seen until the chart is drawn: far down the page that is before anyone comes there.
    (re.compile(r'<img (?!loading)(?=[^>]*class="book-chart-static")'), '<img loading="lazy" '),
)


def finish(html: Path) -> None:
    """Change a site that was just built, in place: icons and source maps that no page uses, and the pages themselves.

    Raises `ValueError` if the theme keeps its icons in another way than is known here.
    """
    for source_map in html.rglob("*.map"):
        source_map.unlink()  # a third of the site, read by nobody but debuggers of the theme
    for path in html.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        path.write_text(page(text), encoding="utf-8")
    script = html / "_static" / "scripts" / "fontawesome.js"
    if script.is_file():
        readers = [path for kind in ("html", "js") for path in html.rglob(f"*.{kind}") if path != script]
        used = {name for path in readers for name in _USED.findall(path.read_text(encoding="utf-8"))}
        script.write_text(icons(script.read_text(encoding="utf-8"), used), encoding="utf-8")


def page(text: str) -> str:
    """The text of a page, smaller and in sound markup.

    For example:

        from entity_book.build import finish

        print(finish.page('<span class="pre">n</span>'))  # n
    """
    for pattern, instead in _WORDS:
        text = pattern.sub(instead, text)
    text = _CODE.sub(lambda found: _PLAIN.sub(r"\1", found[0]), text)
    if 'id="search-results"' not in text:
        text = _SEARCH.sub("", text)  # the index of all words, for the page that looks them up
    if not re.search(r'class="(?:[^"]* )?sd-', text):
        text = _DESIGN.sub("", text)  # cards, grids and tabs
    if 'property="og:title"' not in text and (words := _DESCRIBED.search(text)) and (title := _TITLE.search(text)):
        text = text.replace(words[0], f"{words[0]}\n{_preview(title[1], words[1])}", 1)
    return _SIGNATURE.sub(lambda found: _signature(found[0]), text)


def icons(script: str, used: set[str]) -> str:
    """The script of the theme's icons with those that are used, by any of their names: some of two thousand.

    Raises `ValueError` if no icon, or not even half of the used ones, is found in it.
    """
    kept, found = 0, 0

    def one(icon: re.Match[str]) -> str:
        nonlocal kept, found
        found += 1
        names = {icon["name"].strip('"'), *re.findall(r'"([\w-]+)"', icon["others"])}
        if names & used:
            kept += 1
            return icon[0]
        return ""

    small = _ICON.sub(one, script)
    if not found or not kept:
        raise ValueError("the theme no longer keeps its icons where they were looked for: see finish.py")
    return re.sub(r",}", "}", small)


def _preview(title: str, words: str) -> str:
    """What other sites show of a page that someone passes on; `front` adds a picture where the site has an address."""
    told = {"og:type": "article", "og:title": " ".join(title.split()), "og:description": words}
    return "\n".join(f'<meta property="{name}" content="{value}" />' for name, value in told.items())


def _signature(text: str) -> str:
    """A signature whose parameters, a line each, are no list of words and their meanings; commas without a colour."""
    text = _LIST.sub(lambda found: f'<div class="sig-list">\n{found[1]}</div>', text)
    text = text.replace("<dd>", "<div>").replace("</dd>", "</div>")
    return re.sub(r'<span class="[wpon]">([^<]*)</span>', r"\1", text)

"""The first page on Sphinx's side: the picture of the circuit, the answer, the poster, and the picture for other sites.

Sphinx loads it by name (`_config.yml`). All of it is drawn from findings and from the executed chapter 3; where they
are missing it says so in words, and the build goes on.
"""

from html import escape
from pathlib import Path
from typing import Any

import vl_convert
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from ..claims import answer, claims, findings
from ..figures import circuit, poster, preview
from . import book, executed

CHAPTER = "03_circuit_discovery"
"""The chapter that the circuit is drawn from."""

POSTER, PREVIEW = "poster", "preview.png"
"""The names under `_static` of what is made beside the pages; the poster is an SVG and a PDF."""

NO_ANSWER = "The chapter that sums up has not been executed."


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx when it loads the extension."""
    app.add_directive("book-circuit", Circuit)
    app.add_directive("book-answer", Answer)
    app.add_role("poster", Poster())
    app.connect("builder-inited", write_pictures)
    app.connect("html-page-context", show_picture)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def running(root: Path) -> circuit.Running | None:
    """The running prompt of the executed chapter 3; None where there is none, or it does not show all four groups."""
    copy = executed.copy(root, CHAPTER)
    return circuit.read(copy["cells"]) if copy else None


def drawn(root: Path) -> tuple[bytes, bytes, bytes] | None:
    """The poster as SVG and as PDF, and the picture for other sites as PNG; None before there are findings."""
    found = book.found(root).reported
    if not found:
        return None
    prompt = running(root)
    sheet, paper = (poster.picture(found, prompt, points=points) for points in (False, True))
    card = vl_convert.svg_to_png(preview.picture(found, prompt), scale=1)
    return sheet.encode(), vl_convert.svg_to_pdf(paper), card


def write_pictures(app: Sphinx) -> None:
    """Put the poster and the picture for other sites beside the pages."""
    made = drawn(Path(app.srcdir)) if app.builder.format == "html" else None
    if made is None:
        return
    folder = Path(app.outdir, "_static")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip((f"{POSTER}.svg", f"{POSTER}.pdf", PREVIEW), made, strict=True):
        (folder / name).write_bytes(content)


def show_picture(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Name the picture for other sites in the head of a page: by its whole address, so only where the site has one."""
    address = (app.config.html_baseurl or "").rstrip("/")
    if doctree is None or not address or not Path(app.outdir, "_static", PREVIEW).is_file():
        return
    told = {
        "og:url": f"{address}/{pagename}.html",
        "og:image": f"{address}/_static/{PREVIEW}",
        "og:image:width": f"{preview.WIDTH:.0f}",
        "og:image:height": f"{preview.HEIGHT:.0f}",
        "og:image:alt": answer.QUESTION,
    }
    tags = "\n".join(f'<meta property="{name}" content="{escape(value)}" />' for name, value in told.items())
    context["metatags"] = (
        f'{context.get("metatags", "")}\n{tags}\n<meta name="twitter:card" content="summary_large_image" />'
    )


class Circuit(SphinxDirective):
    """`{book-circuit}`: the circuit on the running prompt, for a wide page and for a phone, with its caption."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """The drawing as nodes; a sentence where there is nothing to draw."""
        root = Path(self.env.srcdir)
        self.env.note_dependency(str(executed.path(root, CHAPTER)))
        prompt = running(root)
        if prompt is None:
            return [nodes.paragraph("", circuit.MISSING, classes=["book-circuit"])]
        both = [circuit.picture(prompt, **how) for how in ({"class_": "wide"}, {"class_": "narrow", "narrow": True})]
        told = f"<figcaption>{escape(circuit.caption(prompt))}</figcaption>"
        return [nodes.raw("", f'<figure class="book-circuit">{"".join(both)}{told}</figure>', format="html")]


class Answer(SphinxDirective):
    """`{book-answer}`: the answer in three sentences, as the findings have it."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """The sentences as a paragraph, the first of them strong."""
        root = Path(self.env.srcdir)
        self.env.note_dependency(str(findings.file(root)))
        holder = nodes.container(classes=["book-answer"])
        lines = StringList([answer_line(root)], source="build/executed/findings.json")
        self.state.nested_parse(lines, self.content_offset, holder)
        return [holder]


class Poster(SphinxRole):
    """The role `poster`, around words: they link to the poster as PDF, where one was made."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """A link, relative to the page; the words alone before there are findings."""
        root = Path(self.env.srcdir)
        self.env.note_dependency(str(findings.file(root)))
        if not book.found(root).reported:
            return [nodes.Text(self.text)], []
        up = "../" * self.env.docname.count("/")
        link = f'<a class="reference" href="{up}_static/{POSTER}.{{}}">{{}}</a>'
        told = f"{link.format('pdf', escape(self.text))} ({link.format('svg', 'SVG')})"
        return [nodes.raw("", told, format="html")], []


def answer_line(root: Path) -> str:
    """The answer as a line of MyST; a sentence that says so before the chapter that sums up was executed."""
    found = book.found(root).reported
    if not found:
        return NO_ANSWER
    central, *rest = answer.sentences(claims.table(found), found)
    begins, colon, goes_on = central.partition(":")
    return f"**{begins}{colon}**{goes_on} {' '.join(rest)}"

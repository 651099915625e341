"""The book's side of Sphinx: executed chapters, charts, formulas, quoted numbers, the status table; no other host.

Sphinx loads it by name (`_config.yml`); `VegaLiteMime` is found by myst-nb through the entry point of `pyproject.toml`.
"""

import hashlib
import json
import re
import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from ..claims import claims, findings
from ..figures import charts, tables
from . import behind, book, executed, notebooks, numbers, used

log = logging.getLogger(__name__)

_FORMULA_FILES = (
    *("startup.js", "core.js", "input/tex.js", "a11y/assistive-mml.js"),
    *("output/chtml.js", "output/chtml/fonts/tex.js", "output/chtml/fonts/woff-v2/*.woff"),
)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx when it loads the extension."""
    app.add_directive("book-runs", RunsTable)
    app.add_directive("book-claims", ClaimsTable)
    app.add_role("finding", Quoted())
    app.add_role("took", Took())
    app.connect("builder-inited", write_scripts)
    app.connect("source-read", use_executed)
    app.connect("env-check-consistency", numbers.per_page)
    app.connect("doctree-resolved", drop_repeated_ids)
    app.connect("html-page-context", choose_scripts)
    behind.setup(app)
    app.connect("autodoc-process-docstring", list_parameters)
    app.connect("autodoc-process-docstring", show_examples)
    app.connect("autodoc-process-docstring", name_chapters)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def use_executed(app: Sphinx, docname: str, source: list[str]) -> None:
    """Read a chapter's executed copy in place of the stripped notebook. Warns if there is none or it is out of date."""
    behind.begin(app, None)
    if not docname.startswith("chapters/"):
        return
    copy = executed.path(Path(app.srcdir), docname.removeprefix("chapters/"))
    app.env.note_dependency(str(copy))
    if not copy.is_file():
        log.warning("this chapter has not been executed", location=docname)
        return
    text = copy.read_bytes().decode(errors="replace")
    if not executed.whole(text):
        log.warning("its executed copy was altered or damaged; `entity-circuits book` executes it", location=docname)
        return
    if json.loads(text)["metadata"]["book"]["source"] != notebooks.digest(notebooks.plain(source[0])):
        log.warning("this chapter has changed since it was executed", location=docname)
    source[0] = text
    behind.begin(app, json.loads(text))


def write_scripts(app: Sphinx) -> None:
    """Put Vega and MathJax beside the pages, out of installed packages, so that no page asks another host for them."""
    if app.builder.format != "html":
        return
    vendor = Path(app.outdir, "_static", "vendor")
    vendor.mkdir(parents=True, exist_ok=True)
    (vendor / "vega.bundle.js").write_text(charts.script(), encoding="utf-8")
    package = distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static/mathjax")
    for pattern in _FORMULA_FILES:
        found = list(Path(str(package)).glob(pattern))
        if not found:
            raise FileNotFoundError(f"sphinx-mathjax-offline no longer has {pattern}")
        for file in found:
            target = vendor / "mathjax" / file.relative_to(str(package))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def drop_repeated_ids(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """sphinx-exercise gives the inside of every exercise and solution of a page the same id; nothing refers to it."""
    for section in doctree.findall(nodes.section):
        if section["ids"] in (["exercise-content"], ["solution-content"]):
            section["ids"] = []


def choose_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Load Vega on pages with charts only, and neither thebe (it names another host) nor any script twice."""
    if doctree is not None and any("book-chart-static" in image["classes"] for image in doctree.findall(nodes.image)):
        for name in ("vendor/vega.bundle.js", "book-charts.js"):
            app.add_js_file(name, loading_method="defer")
    kept, seen = [], set()
    for script in context.get("script_files", []):
        name, body = str(getattr(script, "filename", script)), str(getattr(script, "attributes", {}).get("body", ""))
        thebe = "thebe" in name.lower() or "THEBE_JS_URL" in body
        if not thebe and (name, body) not in seen:
            seen.add((name, body))
            kept.append(script)
    context["script_files"] = kept
    sheets = context.get("css_files", [])
    context["css_files"] = [sheet for sheet in sheets if "thebe" not in str(getattr(sheet, "filename", sheet)).lower()]


def list_parameters(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Show the `Args:` of a docstring as parameters.

    Napoleon as an extension would also take the first words of an attribute, up to a colon, for its type.
    """
    if what in ("function", "method") and "Args:" in lines:
        settings: Any = Config(napoleon_use_param=True)
        lines[:] = GoogleDocstring(lines, settings, what=what, name=name).lines()


def show_examples(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Show the indented example of a docstring as Python code; reStructuredText would take it for a quotation."""
    shown: list[str] = []
    for number, line in enumerate(lines):
        before = [other for other in lines[:number] if other.strip()]
        first = line.startswith("    ") and number > 0 and not lines[number - 1].strip()
        if first and before and not before[-1].startswith("    ") and not before[-1].lstrip().startswith((".. ", "- ")):
            shown += [".. code-block:: python", ""]
        shown.append(line)
    lines[:] = shown


def name_chapters(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """End the docstring of what a chapter uses with a sentence that says which chapters do."""
    thing = obj.fget if isinstance(obj, property) else obj
    full = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
    if names := used.chapters(Path(app.srcdir, "chapters")).get(full):
        lines += ["", used.sentence(names), ""]


class VegaLiteMime:
    """How myst-nb shows a chart: a static picture with its words, and the specification that a script draws over it."""

    mime_priority_overrides: ClassVar = [("html", charts.MIME, 1), ("dirhtml", charts.MIME, 1)]

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Node] | None:
        """The nodes of a chart's output; None for every other output, which myst-nb then renders itself."""
        if data.mime_type == tables.CSV:
            return []  # `behind` puts it beside the page
        if inline or data.mime_type != charts.MIME:
            return None
        spec = json.dumps(data.content, sort_keys=True, separators=(",", ":"))
        name = f"chart-{hashlib.sha256(spec.encode()).hexdigest()[:16]}.svg"
        spec = json.dumps(packed(data.content), sort_keys=True, separators=(",", ":"))
        drawn = charts.picture(data.content, "svg")
        uri = renderer.write_file([name], drawn, overwrite=True)
        words = {"alt": charts.description(data.content), "classes": ["book-chart-static"]}
        picture = nodes.image(uri=uri, **words, **_width(drawn))
        spec = spec.replace("<", "\\u003c")  # no text of a chart ends its script, or opens a comment or a script in it
        before, after = '<div class="book-chart">', f'<script type="application/json">{spec}</script></div>'
        return [nodes.raw("", before, format="html"), picture, nodes.raw("", after, format="html")]


def packed(spec: dict[str, Any]) -> dict[str, Any]:
    """A specification whose data name their columns once, `{"columns": [...], "rows": [[...]]}`, not in every row.

    Numbers have the seven digits that a chart can show. That is half of a page with large charts; `book-charts.js`
    unpacks it. Data of another form stay as they are.
    """
    data = {}
    for name, rows in spec.get("datasets", {}).items():
        columns = list(rows[0]) if rows and isinstance(rows[0], dict) else []
        whole = columns and all(isinstance(row, dict) and list(row) == columns for row in rows)
        data[name] = {"columns": columns, "rows": [_short(row) for row in rows]} if whole else rows
    return {**spec, "datasets": data} if data else spec


def _width(svg: bytes) -> dict[str, str]:
    """How wide a picture is, said on the page: `book-charts.js` knows from it by how much a chart can grow."""
    found = re.search(rb'<svg[^>]*? width="([\d.]+)', svg)
    return {"width": f"{float(found[1]):.0f}px"} if found else {}


def _short(row: dict[str, Any]) -> list[Any]:
    return [float(f"{value:.7g}") if isinstance(value, float) else value for value in row.values()]


class RunsTable(SphinxDirective):
    """`{book-runs}`: when and on what each chapter was last executed, what it took, and what that means elsewhere."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """The table as nodes, made from what the executed copies say of their runs."""
        root = Path(self.env.srcdir)
        for name in book.chapters(root):
            self.env.note_dependency(str(executed.path(root, name)))
        done = book.runs(root)
        missing = [name for name in book.chapters(root) if name not in done]
        if missing:
            log.warning("no run of %s is recorded", ", ".join(missing), location=self.get_location())
        lines = _table([done[name] for name in book.chapters(root) if name in done])
        holder = nodes.container(classes=["book-runs"])
        self.state.nested_parse(StringList(lines, source="build/executed"), self.content_offset, holder)
        return [holder]


class ClaimsTable(SphinxDirective):
    """`{book-claims}`: each claim of the paper with its verdict, as in the chapter that sums up, and a link to it."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """The table as nodes, made from the findings that the chapter read."""
        root = Path(self.env.srcdir)
        self.env.note_dependency(str(findings.file(root)))
        holder = nodes.container(classes=["book-claims"])
        lines = StringList(claims_lines(root), source="build/executed/findings.json")
        self.state.nested_parse(lines, self.content_offset, holder)
        return [holder]


class Quoted(SphinxRole):
    """The role `finding`, around a key such as `accuracy/base`: a number of another chapter, with a link to it."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The number with its interval; where there is none, because nothing was tested, the words that say so."""
        path = findings.file(Path(self.env.srcdir))
        self.env.note_dependency(str(path))
        found = book.found(Path(self.env.srcdir)).reported.get(self.text)
        words = "not tested here" if found is None else str(found)
        if found is None or f"chapters/{found.chapter}" not in self.env.found_docs:
            return [nodes.Text(words)], []
        to = {"refdomain": "std", "reftype": "doc", "reftarget": f"/chapters/{found.chapter}", "refexplicit": True}
        link = addnodes.pending_xref("", nodes.inline("", words), refdoc=self.env.docname, refwarn=True, **to)
        return [nodes.inline("", "", link, classes=["book-quoted"])], []


class Took(SphinxRole):
    """The role `took`, in a chapter, around an estimate: what that chapter took when it was last executed, and on what.

    The estimate is what is seen where the notebook is opened by itself, and where no run is recorded.
    """

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The words, for example "2.9 min to run on 2 cores, when this page was made"."""
        root, name = Path(self.env.srcdir), self.env.docname.removeprefix("chapters/")
        self.env.note_dependency(str(executed.path(root, name)))
        run = executed.run(root, name)
        if run is None or not run.machine.get("cores"):
            return [nodes.Text(self.text)], []
        cores = f"{run.machine['cores']} core{'s' * (run.machine['cores'] != 1)}"
        return [nodes.Text(f"{_time(run.seconds)} to run on {cores}, when this page was made")], []


def claims_lines(root: Path) -> list[str]:
    """The table of claims as MyST text; a line that says so if no chapter sums up, or it has not been executed."""
    chapters, found = book.summing_up(root), book.found(root)
    if not chapters or not findings.file(root).is_file():
        return ["The chapter that sums up has not been executed."]
    judged = claims.table(found.reported)
    told = f"How each verdict is reached is told in {{doc}}`/chapters/{chapters[0]}`."
    return [f"{claims.sentence(judged)} {told}", "", *claims.markdown(claims.of(judged, "paper")).splitlines()]


def _table(runs: list[book.Run]) -> list[str]:
    """The status table as MyST text, with a row of sums, and below it the machines and packages."""
    heads = ["Chapter", "Executed (UTC)", "Time", "Peak memory", "GFLOP/s", "Thousand s x GFLOP/s"]
    heads += ["Model and fingerprint", "Parameters"]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for run in runs:
        cells = [
            f"{{doc}}`/chapters/{run.chapter}`",
            run.started[:16].replace("T", " "),
            _time(run.seconds),
            f"{run.peak_bytes / 2**30:.1f} GiB",
            f"{run.machine['gflops']:.0f}" if run.machine.get("gflops") else "unknown",
            "unknown" if run.work is None else f"{run.work:.1f}",
            _noted(run.notes),
            ", ".join(_code(f"{name} = {value!r}") for name, value in run.parameters.items()) or "the chapter's own",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += [_sums(runs), ""] if runs else [""]
    for where, names in _grouped(runs).items():
        lines += [f"- {', '.join(names)}: {where}"]
    return lines


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _sums(runs: list[book.Run]) -> str:
    """The last row: all times, the largest peak, and the work of those runs of which it is known."""
    work = [run.work for run in runs if run.work is not None]
    left = f" ({len(runs) - len(work)} unknown)" if len(work) < len(runs) else ""
    peak = max(run.peak_bytes for run in runs) / 2**30
    total = _time(sum(run.seconds for run in runs))
    return f"| **all** | | {total} | at most {peak:.1f} GiB | | {sum(work):.1f}{left} | | |"


def _grouped(runs: list[book.Run]) -> dict[str, list[str]]:
    """Machines and packages in words -> the chapters that ran there."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        at, packages = run.machine, ", ".join(f"{name} {version}" for name, version in run.versions.items())
        hardware = f"{at['processor']}, {at['cores']} cores, {at['memory'] / 2**30:.0f} GiB"
        where = f"{hardware}; {at['system']}; Python {at['python']}; {packages}"
        groups.setdefault(_plain(where), []).append(f"`{run.chapter}`")
    return groups


def _noted(notes: dict[str, Any]) -> str:
    """The model and the beginning of its fingerprint, as far as the chapter noted them."""
    words = [str(notes[name])[:length] for name, length in (("model", 60), ("fingerprint", 12)) if notes.get(name)]
    return " ".join(map(_code, words)) or "none noted"


def _code(text: str) -> str:
    """Markdown that shows a text as code, whatever it is: between more backticks than it has in a row, in one line."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    room = " " * (fence != "`")
    return fence + room + " ".join(text.split()) + room + fence


def _plain(text: str) -> str:
    """Markdown that shows a text as it is, in one line."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))

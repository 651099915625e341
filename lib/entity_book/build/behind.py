"""What stands behind a figure and a number on a page: the cell that made it, its parameters, its time, its data.

Each cell with a chart or a table has a line below it that leads there; a quoted number leads to the cell that handed it
over. All of it is read from the executed copy.
"""

import csv
import html
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.ext.glue.roles import PasteTextRole
from sphinx.application import Sphinx

from ..figures import charts, tables
from . import executed

DATA = "_static/data"
"""The folder of the site in which the data of figures and tables lie."""

_PROMPTS = {
    "input": ("Show code", "Hide code"),
    "output": ("Show the numbers", "Hide the numbers"),
    "input+output": ("Show {type}", "Hide {type}"),
    "all": ("Show code and output", "Hide code and output"),
}


def setup(app: Sphinx) -> None:
    """Called by the extension of the book."""
    app.connect("config-inited", lead_to_cells)  # when all extensions are loaded, in whatever order
    app.connect("doctree-read", name_cells)
    app.connect("doctree-resolved", write_lines)


def lead_to_cells(app: Sphinx, config: Any) -> None:
    """Make the numbers that cells hand to the text links, where myst-nb is there to show them."""
    if app.registry.has_domain("glue"):
        app.add_role_to_domain("glue", "text", QuotedNumber(), override=True)


def begin(app: Sphinx, notebook: Mapping[str, Any] | None) -> None:
    """Keep the executed copy of the page that is being read, for its roles and its cells; None for another page."""
    app.env.temp_data["book-notebook"] = notebook
    app.env.temp_data["book-quoted"] = handed_over(notebook) if notebook else {}


def anchor(cell: str) -> str:
    """The place of a page that a cell has, by its id."""
    return f"cell-{cell}"


def handed_over(notebook: Mapping[str, Any]) -> dict[str, str]:
    """Each number that a cell of an executed notebook hands to the text: its name -> the id of the cell.

    Cells that no page shows are left out.
    """
    found = {}
    for cell in notebook["cells"]:
        if not {"remove-cell", "remove-input"} & set(cell["metadata"].get("tags", [])):
            for output in cell.get("outputs", []):
                if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
                    found[name] = cell["id"]
    return found


def data(output: Mapping[str, Any]) -> list[str]:
    """The data of a chart or a table as texts of CSV files: of a chart, each set that it draws and that says something.

    A set of a single row, a line at chance say, is left out beside others.
    """
    bundle = output.get("data", {})
    if tables.CSV in bundle:
        return ["".join(bundle[tables.CSV])]
    spec = bundle.get(charts.MIME, {})
    sets = [rows for rows in _drawn(spec, spec.get("datasets", {})) if rows and isinstance(rows[0], dict)]
    longer = [rows for rows in sets if len(rows) > 1]
    return [_csv(rows) for rows in longer or sets]


def _drawn(part: Any, datasets: Mapping[str, Any]) -> Iterator[list[Any]]:
    """The rows of each set of data that a part of a specification names or holds, each set once."""
    seen: list[Any] = []
    waiting = [part]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, dict):
            source = one.get("data")
            if isinstance(source, dict):
                rows = datasets.get(str(source.get("name")), source.get("values"))
                if isinstance(rows, list) and rows not in seen:
                    seen.append(rows)
            waiting += [value for name, value in one.items() if name not in ("datasets", "data")]
        elif isinstance(one, list):
            waiting += one
    yield from seen


def _csv(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class QuotedNumber(PasteTextRole):
    """The role `glue:text`: a number of the page, which leads to its cell; what stands in backticks is code."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """What the role of myst-nb gives, as a link."""
        shown, messages = super().run()
        for node in shown:
            if isinstance(node, nodes.inline):
                node.children = []
                node += _with_code(node.rawsource)
        name = self.text.rpartition(":")[0] or self.text
        places = self.document.settings.env.temp_data.get("book-quoted", {})
        cell = places.get(self.text, places.get(name))
        if cell is None or not shown:
            return shown, messages
        return [nodes.reference("", "", *shown, refid=anchor(cell), internal=True, classes=["book-quoted"])], messages


def _with_code(words: str) -> Iterator[nodes.Node]:
    for place, part in enumerate(words.split("`")):
        if part:
            yield nodes.literal(part, part) if place % 2 else nodes.Text(part)


def name_cells(app: Sphinx, doctree: nodes.document) -> None:
    """Give the cells of a chapter their places, their parts that are folded plain words, and no link a link in it."""
    notebook = app.env.temp_data.get("book-notebook")
    if notebook is None:
        return
    for node in _cells(doctree):
        node["ids"].append(anchor(notebook["cells"][node["cell_index"]]["id"]))
        if mode := node.get("hide_mode"):
            node["prompt_show"], node["prompt_hide"] = _PROMPTS[mode]
    for link in list(doctree.findall(nodes.reference)):
        outer = link.parent
        while outer is not None and not isinstance(outer, nodes.reference | nodes.title):
            outer = outer.parent
        if outer is not None and "book-quoted" in link["classes"]:
            link.replace_self(link.children)


def write_lines(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Below each cell with a chart or a table: what stands behind it, with its data beside the page."""
    if app.builder.format != "html" or not (cells := {one["cell_index"]: one for one in _cells(doctree)}):
        return
    notebook = read(Path(app.srcdir), docname)
    if notebook is None:
        return
    folder, above = Path(app.outdir, DATA), "../" * docname.count("/")
    folder.mkdir(parents=True, exist_ok=True)
    told = _parameters(notebook)
    for place, node in cells.items():
        cell = notebook["cells"][place]
        shown = [one for one in cell.get("outputs", []) if {charts.MIME, "text/html"} & set(one.get("data", {}))]
        if not shown:
            continue
        files: list[str] = []
        for text in (text for output in shown for text in data(output)):
            name = f"{docname.rpartition('/')[2]}-{cell['id']}-{len(files) + 1}.csv"
            (folder / name).write_text(text, encoding="utf-8")
            files.append(f"{above}{DATA}/{name}")
        seconds = notebook["metadata"]["book"].get("run", {}).get("cells", {}).get(cell["id"])
        code = any(part.get("nb_element") == "cell_code_source" for part in node.findall(nodes.container))
        node.append(nodes.raw("", line(anchor(cell["id"]) if code else "", told, seconds, files), format="html"))


def line(code: str, parameters: str, seconds: float | None, files: list[str]) -> str:
    """The line as HTML, of what is known.

    For example:

        from entity_book.build import behind

        print(behind.line("cell-map", "", 3.2, []))  # ... <a href="#cell-map">code</a> · 3.2 s ...
    """
    parts = [f'<a href="#{code}">code</a>'] if code else []
    parts += [parameters] if parameters else []
    parts += [f"<span>{seconds:g} s</span>"] if seconds else []
    for number, file in enumerate(files, 1):
        words = f"data (CSV{f' {number}' if len(files) > 1 else ''})"
        parts.append(f'<a href="{html.escape(file)}" download>{words}</a>')
    return f'<p class="book-behind">{" · ".join(parts)}</p>' if parts else ""


def read(root: Path, docname: str) -> dict[str, Any] | None:
    """The executed copy that a page shows; None if it is no chapter or has none."""
    return executed.copy(root, docname.removeprefix("chapters/")) if docname.startswith("chapters/") else None


def _cells(doctree: nodes.document) -> list[Any]:
    return [node for node in doctree.findall(nodes.container) if node.get("nb_element") == "cell_code"]


def _parameters(notebook: Mapping[str, Any]) -> str:
    """A link to the cell with the chapter's parameters, which says them; empty if there is none."""
    found = ""
    for cell in notebook["cells"]:
        if {"parameters", "injected-parameters"} & set(cell["metadata"].get("tags", [])):
            said = "; ".join(
                row.partition("#")[0].strip() for row in "".join(cell["source"]).splitlines() if "=" in row
            )
            found = f'<a href="#{anchor(cell["id"])}" title="{html.escape(said)}">parameters</a>'
    return found

"""One notebook: its parameters, its normal form before and after it ran, and what may not stand in its outputs.

Nothing here starts a kernel; `book` does.
"""

import ast
import copy
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from ..claims import findings

NOTE = "application/vnd.entity-circuits.run+json"
"""The media type of a note, that is of facts which a chapter hands to the status page and does not show itself."""

WIDGET = "application/vnd.jupyter.widget-view+json"
"""The media type of an interactive element, which needs a running kernel."""

_NO_NOTEBOOK = (ValueError, nbformat.ValidationError, LookupError, AttributeError, TypeError)
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_TOKEN = re.compile(r"\b(?:hf|api_org|gh[oprsu]|github_pat)_\w{16,}")
_FOLDERS = "home|Users|Volumes|content|data|kaggle|lustre|media|mnt|opt|private|root|scratch|srv|tmp|work|workspace"
_DRIVES = r"Users|Documents and Settings|Program Files|ProgramData|Windows|Temp"
_PLACE = re.compile(
    rf"(?<![\w.~-])/(?:{_FOLDERS}|var/folders)/[\w.]"
    rf"|\b[A-Za-z]:[/\\]+(?:{_DRIVES})\b"
    r"|(?:^|(?<=[\s'\"(=>]))\\\\\w[\w.-]+\\[\w$]",  # and not a row of a formula
    re.IGNORECASE | re.MULTILINE,
)
"""Paths that machines have for people, projects and data: POSIX folders, drives, shares."""


def note(**facts: str | int | float) -> None:
    """Tell the status page what this chapter ran on, for example the model and its fingerprint.

    Shows nothing on the page. Outside a notebook it does nothing at all.

    >>> note(model="qwen2.5-coder-0.5b", fingerprint="1d96")
    """
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        display({NOTE: facts}, raw=True)


def quote(**values: object) -> None:
    """Hand numbers to the text of the page, which quotes each by its name: {glue:text}`name`.

    A value is shown as `str` gives it; an estimate so brings its interval. Outside a notebook it does nothing at all.

    >>> quote(accuracy="0.61 [0.55, 0.67]", prompts=490)
    """
    from IPython import get_ipython
    from myst_nb import glue

    if get_ipython() is not None:
        for name, value in values.items():
            glue(name, str(value), display=False)


def read(path: Path) -> NotebookNode:
    """The notebook in a file. Raises `ValueError` naming the file if it is not a notebook."""
    try:
        return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except _NO_NOTEBOOK as error:
        raise ValueError(f"{path} is not a notebook: {(str(error).splitlines() or [''])[0][:200]}") from error


def text(notebook: NotebookNode) -> str:
    """The notebook as the text of its file, line by line: the same notebook gives the same bytes everywhere."""
    return str(nbformat.v4.writes(nbformat.from_dict(copy.deepcopy(notebook)))).rstrip("\n") + "\n"


def digest(source: str) -> str:
    """The SHA-256 of a notebook's text, by which an executed copy is known to belong to its source."""
    return hashlib.sha256(source.encode()).hexdigest()


def plain(source: str) -> str:
    """A source notebook's text in its normal form, whatever an editor saved with it; any other text as it is."""
    try:
        return text(stripped(nbformat.reads(source, as_version=4)))
    except _NO_NOTEBOOK:
        return source


def code(source: str) -> list[str]:
    """The code cells of a notebook's text, in order."""
    return [cell.source for cell in nbformat.reads(source, as_version=4).cells if cell.cell_type == "code"]


def parameters(path: Path) -> dict[str, Any]:
    """The parameters that a notebook declares in its cell tagged `parameters`, with their defaults.

    A default that is not a literal (a call, say) is given as the text of its expression.
    """
    import papermill

    found: dict[str, Any] = {}
    for name, declared in papermill.inspect_notebook(str(path)).items():
        try:
            found[name] = ast.literal_eval(declared["default"])
        except (ValueError, SyntaxError):
            found[name] = declared["default"]
    return found


def reads_findings(path: Path) -> bool:
    """Whether a cell of the notebook is tagged as one that reads the findings of other chapters."""
    return any(findings.TAG in cell["metadata"].get("tags", []) for cell in read(path).cells)


def stripped(notebook: NotebookNode) -> NotebookNode:
    """The normal form of a source notebook: no outputs, no counts, no traces of the editor or the machine.

    Cells keep their ids; ids that are missing or repeated are made from the cell's place.
    """
    plain = nbformat.v4.new_notebook(metadata={"kernelspec": dict(_KERNEL), "language_info": {"name": "python"}})
    plain.nbformat_minor = 5
    plain.metadata.update(_page_settings(notebook))
    seen: set[str] = set()
    for place, cell in enumerate(notebook.cells):
        cell = nbformat.from_dict(copy.deepcopy(cell))
        if cell.get("id", "") in seen | {""}:
            cell["id"] = f"cell-{place}"
        seen.add(cell["id"])
        cell["metadata"] = {key: cell["metadata"][key] for key in ("tags", "mystnb") if cell["metadata"].get(key)}
        cell["source"] = "".join(cell["source"]).strip("\n")
        if cell["cell_type"] == "code":
            cell["source"] = "\n".join(line.rstrip() for line in cell["source"].split("\n"))
            cell["outputs"], cell["execution_count"] = [], None
        plain.cells.append(cell)
    return plain


def finished(notebook: NotebookNode, record: Mapping[str, Any]) -> tuple[NotebookNode, dict[str, Any], list[str]]:
    """The normal form of an executed notebook, the notes in it, and what it wrote to standard error.

    Times, versions and ids that differ between two runs are taken out, so that equal results are equal bytes. `record`
    (digests and parameters) goes into the notebook's metadata as `book`, and with it the findings that the chapter
    kept. Standard error is taken out as well: it is about the machine, not about the result; the caller shows it on
    the terminal. Raises `ValueError` if a finding is kept twice.
    """
    notebook = copy.deepcopy(notebook)
    notes: dict[str, Any] = {}
    kept_findings: dict[str, Any] = {}
    stray: list[str] = []
    notebook["metadata"] = nbformat.from_dict(
        {
            "book": dict(record),
            "kernelspec": dict(_KERNEL),
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
            **_page_settings(notebook),
        }
    )
    for place, cell in enumerate(notebook["cells"]):
        kept = {key: cell["metadata"][key] for key in ("tags", "mystnb") if cell["metadata"].get(key)}
        cell["metadata"] = kept
        if "injected-parameters" in kept.get("tags", []):
            cell["id"] = "injected-parameters"
        outputs = []
        for output in cell.get("outputs", []):
            if NOTE in output.get("data", {}):
                notes.update(output["data"][NOTE])
            elif findings.MIME in output.get("data", {}):
                for key, row in output["data"][findings.MIME].items():
                    if key in kept_findings:
                        raise ValueError(f"the finding {key!r} is kept twice")
                    kept_findings[key] = row
            elif WIDGET in output.get("data", {}):
                continue  # a progress bar, where ipywidgets is installed: nothing of it is left on a page
            elif output["output_type"] == "stream" and output["name"] == "stderr":
                last = ("".join(output["text"]).strip().splitlines() or [""])[-1]
                stray.append(f"cell {place + 1} wrote to standard error, at last: {last[:200]}")
            else:
                outputs.append(output)
        if cell["cell_type"] == "code":
            cell["outputs"] = outputs
    if kept_findings:
        notebook["metadata"]["book"]["findings"] = nbformat.from_dict(kept_findings)
    return notebook, notes, stray


def problems(notebook: NotebookNode, root: Path, given: Iterable[str] = ()) -> list[str]:
    """What may not stand in the outputs of a chapter: errors, memory addresses, tokens, paths of the machine.

    `given` are texts that the reader passed as parameters; a path among them may be shown.
    """
    found = []
    paths = sorted((words for words in given if os.sep in words), key=len, reverse=True)
    for place, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                found.append(f"cell {place + 1} stores an error: {output['ename']}: {output['evalue']}")
                continue
            shown = _shown(output)
            for words in paths:
                shown = shown.replace(words, "")
            if token := _TOKEN.search(shown):
                found.append(f"cell {place + 1} shows a token of an account: {token[0][:7]}... Revoke it")
            if address := _ADDRESS.search(shown):
                found.append(f"cell {place + 1} shows a memory address: {_around(shown, address.start())}")
            at = next((shown.find(path) for path in private(root) if path in shown), -1)
            if at < 0 and (machine := _PLACE.search(shown)):
                at = machine.start()
            if at >= 0:
                found.append(f"cell {place + 1} shows a path of this machine: {_around(shown, at)}")
    return found


def private(root: Path) -> list[str]:
    """The folders of this machine and this person that no page has to name, with a slash at their end."""
    folders = (root, Path.home(), Path(sys.prefix), Path(tempfile.gettempdir()))
    return [f"{path}{os.sep}" for path in folders if len(str(path)) > 1]


def _page_settings(notebook: NotebookNode) -> dict[str, Any]:
    """What the author set for the whole page: its description, say."""
    return {key: notebook["metadata"][key] for key in ("myst", "mystnb") if key in notebook["metadata"]}


def _shown(output: Mapping[str, Any]) -> str:
    """What a reader sees of an output, as text; pictures are left out."""
    if output["output_type"] == "stream":
        return "".join(output["text"])
    data = output.get("data", {}).items()
    shown = [value for kind, value in data if not kind.startswith("image/") or kind == "image/svg+xml"]
    return "\n".join(_texts(shown))


def _texts(value: Any) -> Iterator[str]:
    """All texts of a value as JSON has them, names of fields too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _around(words: str, at: int) -> str:
    return repr(words[max(0, at - 20) : at + 60].split("\n")[0] or words[at : at + 60])

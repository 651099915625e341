"""A folder that looks like the repository, with tiny chapters: for the tests of how chapters are executed."""

import json
from pathlib import Path
from textwrap import dedent

import nbformat
from entity_book.build import book, notebooks

PARAMETERS = ("boxes = 7\nseed = 0", ["parameters"])


def notebook(*cells) -> str:
    """The text of a notebook with these code cells; a cell is its source, or its source and tags."""
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    for cell in cells:
        source, tags = (cell, []) if isinstance(cell, str) else cell
        made.cells.append(nbformat.v4.new_code_cell(dedent(source), metadata={"tags": tags}))
    return notebooks.text(notebooks.stripped(made))


def add(house: Path, name: str, *cells) -> None:
    (house / "chapters" / f"{name}.ipynb").write_text(notebook(*cells))
    with (house / "_toc.yml").open("a") as contents:
        contents.write(f"- file: chapters/{name}\n")


def executed(house: Path, name: str = "01_one") -> Path:
    return house / "build" / "executed" / "chapters" / f"{name}.ipynb"


def outputs(house: Path, name: str = "01_one") -> str:
    cells = json.loads(executed(house, name).read_text("utf-8"))["cells"]
    return "".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))


def results(house: Path, name: str = "01_one") -> str:
    """The executed copy without what differs from run to run."""
    made = notebooks.read(executed(house, name))
    for key in ("run", "seal"):
        del made["metadata"]["book"][key]
    return notebooks.text(made)


def ran(house: Path, **options) -> list[str]:
    return [run.chapter for run in book.execute(root=house, **options)]

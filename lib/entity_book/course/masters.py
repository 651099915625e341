"""A master: one notebook a chapter, as text, from which the editions are made; here it becomes what Otter Assign reads.

A master (`course/NN_name.py`, in the `py:percent` form of jupytext) is plain cells and exercises. An exercise begins
with a text whose cell says `exercise="3.1"`, and has cells with these tags, in this order:

- `solution`, code; what lies between `# BEGIN SOLUTION` and `# END SOLUTION` is taken out for students;
- `check`, one call a line, each of which raises an AssertionError that says in words what is wrong;
- `hidden`, likewise, for the autograder and the teacher alone: the same checks on other data;
- `question`, a text that asks for a judgement;
- `answer`, what a good answer says, for the teacher alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

PARTS = ("solution", "check", "hidden", "question", "answer")

MISSING = "the course needs the package {}: pip install 'entity-circuits[book,course]'"


@dataclass(frozen=True)
class Exercise:
    """An exercise of a master: its number such as "3.1", its text, and the source of each of its parts."""

    number: str
    text: str
    parts: dict[str, str]

    @property
    def name(self) -> str:
        """What Otter calls it: `q3_1`."""
        return "q" + self.number.replace(".", "_")


def read(path: Path) -> Any:
    """A master as a notebook. Raises `RuntimeError` where jupytext is missing, with what to install.

    print(len(masters.read(Path("course/03_finding.py")).cells))
    """
    try:
        import jupytext
    except ImportError as error:
        raise RuntimeError(MISSING.format("jupytext")) from error
    return jupytext.read(path, fmt="py:percent")


def part(cell: Any) -> str:
    """Which part of an exercise a cell is: "text" where one begins, a tag of `PARTS`, or "" for all else."""
    if "exercise" in cell.metadata:
        return "text"
    return next((tag for tag in PARTS if tag in cell.metadata.get("tags", ())), "")


def exercises(master: Any) -> list[Exercise]:
    """The exercises of a master, in their order. Raises `ValueError` for one that lacks a part or has one twice.

    print([one.number for one in masters.exercises(masters.read(Path("course/03_finding.py")))])
    """
    found: list[Exercise] = []
    for cell in master.cells:
        kind = part(cell)
        if kind == "text":
            found.append(Exercise(cell.metadata["exercise"], cell.source, {}))
        elif kind and not found:
            raise ValueError(f"a cell tagged {kind!r} stands before the first exercise")
        elif kind:
            if kind in found[-1].parts:
                raise ValueError(f"exercise {found[-1].number} has two cells tagged {kind!r}: join them")
            found[-1].parts[kind] = cell.source
    for one in found:
        if lacking := [name for name in PARTS if name not in one.parts]:
            raise ValueError(f"exercise {one.number} has no cell tagged {', '.join(lacking)}")
    return found


def for_otter(master: Any) -> Any:
    """The same notebook with the raw cells between which Otter Assign looks for questions, solutions and tests.

    print(masters.for_otter(masters.read(Path("course/03_finding.py"))).cells[0].source)
    """
    exercises(master)
    cells = [
        _raw(
            "# ASSIGNMENT CONFIG",
            "init_cell: true",
            "export_cell: false",
            "tests:",
            "  files: true",
            "  ok_format: false",
        )
    ]
    name = ""
    for cell in master.cells:
        kind = part(cell)
        if kind == "text":
            name = "q" + cell.metadata["exercise"].replace(".", "_")
            cells += [_raw("# BEGIN QUESTION", f"name: {name}", "points: 2"), cell]
        elif kind in ("solution", "answer"):
            cells += [_raw("# BEGIN SOLUTION"), cell, _raw("# END SOLUTION")]
            cells += [_raw("# END QUESTION")] if kind == "answer" else []
        elif kind == "check":
            cells += [_raw("# BEGIN TESTS"), *_tests(cell.source, hidden=False)]
        elif kind == "hidden":
            cells += [*_tests(cell.source, hidden=True), _raw("# END TESTS"), _raw("# END QUESTION")]
        elif kind == "question":
            cells += [_raw("# BEGIN QUESTION", f"name: {name}_why", "manual: true", "points: 1"), cell]
        else:
            cells.append(cell)
    made = nbformat.v4.new_notebook(cells=[nbformat.from_dict(dict(cell)) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, cell in enumerate(made.cells):
        cell["id"] = f"cell-{number}"
        for key in ("exercise", "lines_to_next_cell"):
            cell.metadata.pop(key, None)
    return made


def _raw(*lines: str) -> Any:
    return nbformat.v4.new_raw_cell("\n".join(lines))


def _tests(calls: str, hidden: bool) -> Iterator[Any]:
    """One test a call, carried out among the names of the notebook: a point for those seen, one for those hidden."""
    lines = calls.splitlines()
    for number, line in enumerate(lines):
        points = f"hidden: {str(hidden).lower()}\npoints: {1 / len(lines):.3f}"
        config = f'""" # BEGIN TEST CONFIG\n{points}\n""" # END TEST CONFIG'
        name = f"test_{'hidden' if hidden else 'seen'}_{number}"
        yield nbformat.v4.new_code_cell(f"{config}\ndef {name}(env):\n    eval({line!r}, env)")

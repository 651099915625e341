"""The executed copy of a chapter: its outputs, what it was made from, what it cost, under a seal over every byte.

All that is known of an execution lies in this one file, so there is no executed chapter without its run, and none whose
numbers were altered afterwards: a copy with a broken seal counts as none.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from . import notebooks

_OPEN = "0" * 64


@dataclass(frozen=True)
class Run:
    """What one execution of a chapter cost, where it ran and what it noted."""

    chapter: str
    started: str
    seconds: float
    peak_bytes: int
    """Peak resident memory of the chapter's kernel."""
    parameters: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    cells: dict[str, float] = field(default_factory=dict)
    """The seconds of each cell that took a tenth of one or more, by its id."""

    @property
    def work(self) -> float | None:
        """Seconds times the machine's GFLOP/s, in thousands, to compare machines by; None if it is unknown."""
        rate = self.machine.get("gflops")
        return self.seconds * rate / 1000 if rate else None


def path(root: Path, name: str) -> Path:
    """Where the executed copy of a chapter lies."""
    return root / "build" / "executed" / "chapters" / f"{name}.ipynb"


def sealed(notebook: NotebookNode) -> str:
    """The text of an executed copy, with the digest of all of it in its metadata."""
    notebook["metadata"]["book"]["seal"] = _OPEN
    text = notebooks.text(notebook)
    return _with(text, _OPEN, notebooks.digest(text))


def whole(text: str) -> bool:
    """Whether the text of an executed copy is, byte by byte, the one that was sealed."""
    try:
        seal = str(json.loads(text)["metadata"]["book"]["seal"])
    except (ValueError, KeyError, TypeError):
        return False
    return notebooks.digest(_with(text, seal, _OPEN)) == seal


def copy(root: Path, name: str) -> dict[str, Any] | None:
    """A chapter's executed copy; None if there is none, or it was altered or damaged."""
    try:
        text = path(root, name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return dict(json.loads(text)) if whole(text) else None


def record(root: Path, name: str) -> dict[str, Any]:
    """What a chapter's executed copy says of itself; empty if there is none, or it was altered or damaged."""
    found = copy(root, name)
    return dict(found["metadata"]["book"]) if found else {}


def said(text: str) -> dict[str, Any]:
    """What the text of an executed copy says of itself; empty if it is not the one that was sealed."""
    return dict(json.loads(text)["metadata"]["book"]) if whole(text) else {}


def run(root: Path, name: str) -> Run | None:
    """The run that made a chapter's executed copy, None if there is no such copy."""
    facts = record(root, name).get("run")
    return Run(**facts) if facts else None


def _with(text: str, old: str, new: str) -> str:
    """The text with another seal; it is the last entry of that name, for the metadata come after the cells."""
    before, _, after = text.rpartition(f'"seal": "{old}"')
    return f'{before}"seal": "{new}"{after}'

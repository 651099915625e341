"""Good copies that are not shown: when a chapter is executed with other parameters, the copy before is put aside.

Asked for again, it is taken back and not executed. So trying another seed costs that seed, and not the book as well.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from entity_circuits import places

from . import executed, notebooks

COPIES = 3
"""So many copies of a chapter are kept beside the one that is shown; the one put aside first goes first."""


def show(root: Path, name: str, text: str) -> None:
    """Make this the executed copy of a chapter. The one before is put aside if it was made with other parameters."""
    key = _key(executed.said(text))
    if before := executed.record(root, name):
        own = _key(before)
        if own != key:
            places.write(_path(root, name, own), executed.path(root, name).read_bytes())
    places.write(executed.path(root, name), text)
    _path(root, name, key).unlink(missing_ok=True)
    for old in sorted(_path(root, name, key).parent.glob("*.ipynb"), key=_age)[COPIES:]:
        old.unlink()


def find(root: Path, name: str, record: Mapping[str, Any], current: Callable[[Mapping[str, Any]], bool]) -> str:
    """The text of that copy; empty if there is none, if it was altered, or if anything else has changed since."""
    path = _path(root, name, _key(record))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    said = executed.said(text)
    return text if said and current(said) else ""


def _key(record: Mapping[str, Any]) -> str:
    """What a kept copy is known by: its parameters, and the findings that it read, which are those of one book."""
    told = [record.get("parameters", {}), record.get("read", "")]
    return notebooks.digest(json.dumps(told, sort_keys=True))[:16]


def _path(root: Path, name: str, key: str) -> Path:
    return root / "build" / "executed" / "kept" / name / f"{key}.ipynb"


def _age(path: Path) -> int:
    return -path.stat().st_mtime_ns

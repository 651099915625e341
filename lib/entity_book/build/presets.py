"""Parameters of many chapters under one name, such as `class`: fewer contexts, for a room full of laptops.

One table says them, in `pyproject.toml`; a parameter that is given on the command line goes before it.
"""

import tomllib
from pathlib import Path
from typing import Any

from entity_circuits.spelling import meant

from .lock import BookError


def named(root: Path, name: str) -> dict[str, dict[str, Any]]:
    """The parameters of a preset, by chapter, as `[tool.entity-book.presets.NAME]` of `pyproject.toml` has them.

    Raises `BookError` that lists the presets if there is none of this name.
    """
    known = table(root)
    if name not in known:
        raise BookError(f"there is no preset {name!r}.{meant(name, known)} There are {', '.join(known) or 'none'}")
    return known[name]


def table(root: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """All presets: name -> chapter -> parameter -> value; nothing where `pyproject.toml` has none."""
    path = root / "pyproject.toml"
    told = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found: dict[str, dict[str, dict[str, Any]]] = told.get("tool", {}).get("entity-book", {}).get("presets", {})
    return found

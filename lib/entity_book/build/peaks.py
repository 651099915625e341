"""The memory that each chapter states not to exceed, and which chapters may run side by side by it.

One table says it, in `pyproject.toml`: a chapter is not made out of date by it.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

USUAL_GIB = 6.0
"""What a chapter states that is not in the table."""


def stated(root: Path, name: str) -> float:
    """The GiB that the kernel of a chapter takes at most, by `[tool.entity-book.peak-gib]` of `pyproject.toml`."""
    return table(root).get(name, USUAL_GIB)


def table(root: Path) -> dict[str, float]:
    """The whole table; nothing where there is none. Raises `ValueError` for what is no positive number."""
    path = root / "pyproject.toml"
    told = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = told.get("tool", {}).get("entity-book", {}).get("peak-gib", {})
    for name, gib in found.items():
        if isinstance(gib, bool) or not isinstance(gib, int | float) or not gib > 0:
            raise ValueError(f"pyproject.toml: the peak of {name} has to be a number of GiB, not {gib!r}")
    return {name: float(gib) for name, gib in found.items()}


def exceeded(name: str, peak_bytes: int, gib: float) -> str:
    """The sentence for a kernel that took more than its chapter states; empty for one that did not."""
    took = peak_bytes / 2**30
    if took <= gib:
        return ""
    return (
        f"{name}: its kernel took {took:.2f} GiB of memory, and states {gib:g} GiB at most (peak-gib in pyproject.toml)"
    )


def startable(waiting: Sequence[str], running: Sequence[str], gib: Mapping[str, float], free: float) -> str | None:
    """The first waiting chapter that has room beside those that run; None if there is none, and one has to end first.

    `free` is the memory that there was before any of them. A chapter that alone is too large for it runs alone.

    >>> startable(["b", "c"], ["a"], {"a": 6, "b": 12, "c": 4}, free=11)
    'c'
    """
    taken = sum(gib[name] for name in running)
    return next((name for name in waiting if not running or taken + gib[name] <= free), None)

"""Why a chapter has to be executed: what its executed copy was made from, beside what it would be made from now.

A record has the digest of the notebook, the parameters given, and by name the digests of modules, of files and the
versions that are pinned; a chapter that reads findings has theirs.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_NAMED = 4
"""How many changes of one kind are named; the rest is counted."""

FINDINGS = "the findings of other chapters changed"

PARTS = ("source", "parameters", "modules", "files", "pins")
"""What every record has."""


def reasons(then: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Each difference between two records in words; none if what was executed is what would be executed.

    `defaults` are the parameters as the notebook sets them.

    >>> made = {"source": "1", "parameters": {}, "modules": {"m": "1"}, "files": {}, "pins": {}}
    >>> reasons(made, {**made, "modules": {"m": "2"}, "parameters": {"seed": 7}}, {"seed": 0})
    ['parameter seed: 7 instead of 0', 'm changed']
    """
    if not then:
        return ["never executed"]
    if any(part not in then for part in PARTS):
        return ["executed by an earlier version of the book"]
    return [
        *(["its notebook changed"] if then["source"] != now["source"] else []),
        *_parameters(then["parameters"], now["parameters"], defaults),
        *_counted(_modules(then["modules"], now["modules"])),
        *_counted(_files(then["files"], now["files"])),
        *_counted(_pins(then["pins"], now["pins"])),
        *([FINDINGS] if then.get("read") != now.get("read") else []),
    ]


def words(reasons: list[str]) -> str:
    """All of them in one line."""
    return "; ".join(reasons)


def _parameters(then: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    """Given or not is a difference even where the value is the same: the page shows what was given."""
    for name in sorted({*then, *now}):
        was, given = (json.dumps(table.get(name, defaults.get(name))) for table in (then, now))
        if was != given:
            yield f"parameter {name}: {given} instead of {was}"
        elif (name in then) != (name in now):
            yield f"parameter {name}: {given} " + ("given, as it is anyway" if name in now else "not given any more")


def _modules(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    changed = [name for name in now if name in then and then[name] != now[name]]
    yield from (f"{name} changed" for name in changed)
    if not changed:  # otherwise they tell of what the changed ones import
        yield from (f"{name} is imported now" for name in now if name not in then)
        yield from (f"{name} is not imported any more" for name in then if name not in now)


def _files(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """A file by which the copy was not made ("") counts by being there."""
    for name in sorted({*then, *now}):
        if name not in now:
            yield f"{name} is gone"
        elif name not in then:
            yield f"{name} is new"
        elif then[name] and then[name] != now[name]:
            yield f"{name} changed"


def _pins(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            yield f"{name} {then.get(name, 'not pinned')} -> {now.get(name, 'not pinned')} in constraints.txt"


def _counted(told: Iterator[str]) -> list[str]:
    found = list(told)
    more = len(found) - _NAMED
    return [*found[:_NAMED], f"{more} more like that"] if more > 1 else found

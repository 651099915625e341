"""What is quoted outside the built book: the findings of one whole build, and the table of claims in the README.

A README in a repository cannot be computed when it is read. So the findings of the last whole build are a committed
file, with date and machine; the README's block is a function of that file, which a test checks; and a new build is held
against its intervals by `entity-circuits readme --check`.
"""

import json
from pathlib import Path
from typing import Any

from entity_circuits import places, sums

from ..claims import claims, findings
from ..claims.findings import Gathered
from . import book
from .book import BookError

BEGIN, END = "<!-- findings -->", "<!-- /findings -->"


def stored(root: Path | None = None) -> dict[str, Any] | None:
    """`data/findings.json`: `date`, `machine`, `command` and the `findings`; None before the first whole build.

    Raises `ValueError` that names the file if it is not what `SHA256SUMS` beside it lists.
    """
    root = root or places.ROOT
    path = root / "data" / "findings.json"
    return json.loads(sums.read(path)) if path.is_file() else None


def current(root: Path | None = None) -> Gathered:
    """The findings that the summing-up chapter read. Raises `BookError` unless they are those of a whole plain book."""
    root = root or places.ROOT
    found = book.found(root)
    if not found.reported:
        raise BookError("there are no findings yet; `entity-circuits book` makes them")
    if found.missing:
        raise BookError(f"the last build was not a whole one: without {', '.join(found.missing)}")
    if found.parameters:
        given = ", ".join(f"{name} = {value!r}" for name, value in sorted(found.parameters.items()))
        raise BookError(f"the last build was one with other parameters ({given}); run `entity-circuits book`")
    return found


def write(root: Path | None = None) -> None:
    """Store the findings of the last whole build and put the table of claims into the README.

    Raises `BookError` if the last build was not a whole one with the chapters' own parameters, or if the README has no
    place for the table.
    """
    root = root or places.ROOT
    found, runs = current(root), book.runs(root)
    last = max((runs[one.chapter] for one in found.reported.values()), key=lambda run: run.started)
    machine = last.machine
    system = machine["system"].split("-")[0]  # its name; the release of a kernel tells a reader nothing
    content = {
        "date": last.started[:10],
        "machine": f"{machine['processor']}, {machine['cores']} cores, {system}, Python {machine['python']}",
        "command": "entity-circuits book",
        "findings": json.loads(found.to_json())["findings"],
    }
    text = replaced((root / "README.md").read_text(encoding="utf-8"), block(content))
    sums.write(root / "data" / "findings.json", json.dumps(content, indent=1, sort_keys=True) + "\n")
    places.write(root / "README.md", text)


def block(content: dict[str, Any] | None) -> str:
    """What stands between the two marks of the README, made from `stored`."""
    if content is None:
        return "The table stands here once the whole book has been built (`entity-circuits readme` writes it)."
    judged = claims.table(_reported(content))
    told = claims.markdown(claims.of(judged, "paper"))
    return (
        f"{claims.sentence(judged)}\n\n{told}\n\n"
        f"Computed on {content['date']} by `{content['command']}` ({content['machine']}). Numbers in brackets are 95% "
        "intervals; on another machine a number may differ a little."
    )


def replaced(text: str, words: str) -> str:
    """The README with these words between its two marks. Raises `BookError` if it does not have both, once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise BookError(f"README.md needs the marks {BEGIN} and {END}, in this order, once each")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}\n\n{words}\n\n{END}{after}"


def check(root: Path | None = None) -> tuple[list[str], bool]:
    """Where the last whole build lies outside the stored intervals, a line each, and whether that changes a claim.

    A number that moved a little is told; a build in which a claim has another verdict, or lacks a finding, disagrees.
    Raises `BookError` if nothing is stored.
    """
    root = root or places.ROOT
    content = stored(root)
    if content is None:
        raise BookError("data/findings.json is not there; `entity-circuits readme` writes it from a whole build")
    old, new = _reported(content), current(root).reported
    told = findings.outside(new, old)
    before, after = (dict(zip(*claims.table(one)[["name", "verdict"]].T.to_numpy(), strict=True)) for one in (old, new))
    turned = [f"{name}: {after[name]}, was {was}" for name, was in before.items() if after[name] != was]
    return told + turned, bool(turned) or not old.keys() <= new.keys()


def _reported(content: dict[str, Any]) -> dict[str, findings.Reported]:
    return Gathered.from_json(json.dumps({"findings": content["findings"]})).reported

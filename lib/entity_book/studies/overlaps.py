"""How far two circuits overlap, beside the most that can be expected: one model's circuit, found twice."""

from typing import Any

from entity_circuits import circuits
from entity_circuits.circuits import Finding


def whole(one: Finding, other: Finding) -> dict[str, Any]:
    """The row of `circuits.compare` about all groups together, by column.

    >>> overlaps.whole(found, own)["shared"]
    """
    rows = circuits.compare(one, other).to_dict("records")
    return next({str(name): value for name, value in row.items()} for row in rows if row["group"] == "all")


def again(model: str) -> Finding | None:
    """A model's circuit, found once more from other prompts, where the book has it: the most that overlaps can reach.

    >>> found = overlaps.again("qwen2.5-coder-0.5b")
    """
    file = circuits.folder() / "again" / f"{model}.json"
    return circuits.load(file) if file.is_file() else None


def shared_in_words(one: Finding, other: Finding, again: Finding | None) -> dict[str, str]:
    """How many heads two circuits share, what chance gives, and what the first shares with itself found `again`.

    >>> print(overlaps.shared_in_words(found, own, None)["shared"])
    """
    every = whole(one, other)
    words = {"shared": f"{every['shared']:.0f} of {every['one']:.0f}"}
    words["shared_chance"] = f"{every['layer_chance']:.1f} (p = {every['layer_p']:.1g})"
    if again is None:
        return {**words, "shared_again": "(not known)"}
    itself = whole(one, again)
    return {**words, "shared_again": f"{itself['shared']:.0f} of {itself['one']:.0f}"}

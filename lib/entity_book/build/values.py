"""The values of a chapter's parameters: what no chapter could be run with is told before a kernel starts.

What a value may be is asked of the part of the engine that it is for, so that nothing is written down here again.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .lock import BookError

COUNT = (1, 1_000_000)
"""So many prompts, contexts, draws or steps anybody could mean."""

SEED = (0, 2**32 - 1)
"""What every generator takes."""


def require(tables: Mapping[str, Mapping[str, Any]], given: Iterable[str]) -> None:
    """Raise `BookError` for a value that a chapter cannot be run with.

    `tables` are all parameters of each chapter by its name, `given` the names of those that are not its own.
    """
    checks, given = _checks(), tuple(given)
    for chapter, table in tables.items():
        try:
            for name in (name for name in given if name in table):
                for value in _each(table[name]):
                    checks.get(name, _count)(name, value)
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            raise BookError(f"{chapter}: {error}") from None
        if {"base", "finetuned"} <= table.keys() and table["base"] in _each(table["finetuned"]) and given:
            raise BookError(f"{chapter}: base and fine-tuned model are both {table['base']}: give two models")


def _each(value: Any) -> list[Any]:
    return [*value] if isinstance(value, list | tuple) else [value]


def _checks() -> dict[str, Callable[[str, Any], object]]:
    """By the name of a parameter; a whole number of any other name is a count."""
    from entity_circuits.arguments import integer
    from entity_circuits.methods import stages
    from entity_circuits.methods.masks import Asked
    from entity_circuits.models import loading, pair
    from entity_circuits.tasks import boxes
    from entity_circuits.tasks.rounds import Round

    usual = {"dtype": "float32", "device": "cpu", "attention": "sdpa"}
    return {
        "seed": lambda name, value: integer(name, value, *SEED),
        "boxes": lambda name, value: integer(name, value, *boxes.NUMBER),
        "layers": lambda name, value: integer(name, value, 0, COUNT[1]),
        "first_examples": lambda name, value: stages.sizes([value], sys.maxsize),
        "penalty": lambda name, value: Asked(None, "last", penalty=value),
        "share": lambda name, value: Round("A", "last", share=value),
        **dict.fromkeys(usual, lambda name, value: loading.options(**{**usual, name: value})),
        **dict.fromkeys(("model", "base", "finetuned", "control", "measured"), lambda _, value: pair.known(value)),
    }


def _count(name: str, value: Any) -> None:
    from entity_circuits.arguments import integer

    if isinstance(value, int) and not isinstance(value, bool):
        integer(name, value, *COUNT)

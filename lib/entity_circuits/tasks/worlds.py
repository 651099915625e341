"""Worlds of the boxes task, without a model: which object is in which box, how it is written, which split it is of."""

import hashlib
import json
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..arguments import integer, of_kind, one_of, several
from . import vocabulary

Split = Literal["discovery", "pruning", "means", "training", "evaluation"]


@dataclass(frozen=True)
class World:
    """Which object is in which box, in order of mention. Raises `ValueError` for what are no words, or one twice."""

    objects: tuple[str, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        for what in ("objects", "labels"):
            words = several(f"{what} of a world", getattr(self, what), least=0)
            for word in words:
                of_kind(f"each of the {what} of a world", word, str)
            object.__setattr__(self, what, words)
        if len(self.objects) != len(self.labels) or not self.objects:
            raise ValueError(f"{len(self.objects) or 'no'} objects for {len(self.labels)} labels")
        if len(set(self.objects)) < len(self.objects) or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"objects and labels of a world must be distinct: {self.objects}, {self.labels}")

    @property
    def split(self) -> Split:
        """The one split this world belongs to, whatever seed drew it: splits are disjoint by construction."""
        digest = hashlib.sha256(json.dumps([self.objects, self.labels]).encode()).digest()
        return get_args(Split)[digest[0] % len(get_args(Split))]


@dataclass(frozen=True)
class Template:
    """How a world is written. The placeholders are `{object}` and `{label}`; the query ends where the answer begins.

    Raises `ValueError` for a statement that lacks one of the two, a query without the label, any other placeholder, and
    a query that ends in a space: the space is part of the token that follows.

        from entity_circuits.boxes import Template, World

        template = Template("{label} holds the {object}", "{label} holds the")
        print(template.text(World(("apple", "cup"), ("F", "Q")), "F"))
    """

    statement: str = "the {object} is in Box {label}"
    query: str = "Box {label} contains the"
    join: str = ", "
    end: str = ". "

    def __post_init__(self) -> None:
        for part in ("statement", "query", "join", "end"):
            of_kind(f"the {part} of a template", getattr(self, part), str)
        _require_fields("statement", self.statement, {"object", "label"})
        _require_fields("query", self.query, {"label"})
        if vocabulary.ends_in_space(self.query):
            raise ValueError(f"the query {self.query!r} ends in a space, which belongs to the next token: leave it out")

    def context(self, world: World) -> str:
        """All statements of a world and the full stop, up to where the query begins."""
        pairs = zip(world.objects, world.labels, strict=True)
        text = self.join.join(self.statement.format(object=word, label=label) for word, label in pairs) + self.end
        return text[0].upper() + text[1:]

    def text(self, world: World, label: str) -> str:
        """The prompt that asks for the box called `label` (which need not be one of the world's)."""
        return self.context(world) + self.query.format(label=label)


def _require_fields(part: str, text: str, needed: set[str]) -> None:
    """Raise `ValueError` unless a text has all of these placeholders, and no other."""
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"the {part} {text!r} of a template cannot be read: {error}") from error
    if found != needed:
        raise ValueError(f"the {part} {text!r} of a template needs {_braced(needed)}, and has {_braced(found)}")


def _braced(names: set[str]) -> str:
    return " and ".join(f"{{{name}}}" for name in sorted(names)) or "no placeholder"


TEMPLATES = {
    "object_first": Template(),
    "label_first": Template(statement="Box {label} contains the {object}"),
}
"""The prompt of the paper (section 3), and its control: with the label first, the query repeats a literal piece of the
context and copying what followed it there is enough."""


def worlds(tokenizer: Any, boxes: int, seed: int, split: Split) -> Iterator[World]:
    """An endless, seeded stream of distinct worlds of one split, in words that are single tokens of this tokenizer.

    For example:

        from entity_circuits import models
        from entity_circuits.tasks import worlds

        print(next(worlds.worlds(models.load("qwen2.5-coder-0.5b").tokenizer, boxes=3, seed=0, split="evaluation")))
    """
    one_of("split", split, Split)
    boxes, seed = integer("boxes", boxes), integer("seed", seed, least=None)
    words = sorted(vocabulary.require(tokenizer, vocabulary.objects(), boxes, "objects"))
    letters = sorted(vocabulary.require(tokenizer, vocabulary.LABELS, boxes + 1, "box labels"))
    return _drawn(words, letters, boxes, seed, split)


def _drawn(words: list[str], letters: list[str], boxes: int, seed: int, split: Split) -> Iterator[World]:
    draw = random.Random(f"{seed}/{boxes}")
    seen: set[World] = set()
    while True:
        world = draw_world(draw, words, letters, boxes, split)
        if world not in seen:
            seen.add(world)
            yield world


def draw_world(draw: random.Random, words: list[str], letters: list[str], boxes: int, split: Split) -> World:
    """The next world of a split.

    Args:
        draw: the generator of random numbers.
        words: the objects to draw from.
        letters: the labels to draw from.
        boxes: how many of each.
        split: which split it has to belong to.
    """
    one_of("split", split, Split)
    while True:
        world = World(tuple(draw.sample(words, boxes)), tuple(draw.sample(letters, boxes)))
        if world.split == split:
            return world

"""Worlds of the boxes task, without a model: which object is in which box, how it is written, which split it is of."""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from . import vocabulary

Split = Literal["discovery", "pruning", "means", "training", "evaluation"]


@dataclass(frozen=True)
class World:
    """Which object is in which box, in order of mention."""

    objects: tuple[str, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.objects) != len(self.labels):
            raise ValueError(f"{len(self.objects)} objects for {len(self.labels)} labels")
        if len(set(self.objects)) < len(self.objects) or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"objects and labels of a world must be distinct: {self.objects}, {self.labels}")

    @property
    def split(self) -> Split:
        """The one split this world belongs to, whatever seed drew it: splits are disjoint by construction."""
        digest = hashlib.sha256(json.dumps([self.objects, self.labels]).encode()).digest()
        return get_args(Split)[digest[0] % len(get_args(Split))]


@dataclass(frozen=True)
class Template:
    """How a world is written. The placeholders are `{object}` and `{label}`; the query ends where the answer begins."""

    statement: str = "the {object} is in Box {label}"
    query: str = "Box {label} contains the"
    join: str = ", "
    end: str = ". "

    def context(self, world: World) -> str:
        """All statements of a world and the full stop, up to where the query begins."""
        pairs = zip(world.objects, world.labels, strict=True)
        text = self.join.join(self.statement.format(object=word, label=label) for word, label in pairs) + self.end
        return text[0].upper() + text[1:]

    def text(self, world: World, label: str) -> str:
        """The prompt that asks for the box called `label` (which need not be one of the world's)."""
        return self.context(world) + self.query.format(label=label)


TEMPLATES = {
    "object_first": Template(),
    "label_first": Template(statement="Box {label} contains the {object}"),
}
"""The prompt of the paper (section 3), and its control: with the label first, the query repeats a literal piece of the
context and copying what followed it there is enough."""


def worlds(tokenizer: Any, boxes: int, seed: int, split: Split) -> Iterator[World]:
    """An endless, seeded stream of distinct worlds of one split, in words that are single tokens of this tokenizer."""
    if split not in get_args(Split):
        raise ValueError(f"no split called {split!r}: one of {', '.join(get_args(Split))}")
    words = sorted(vocabulary.require(tokenizer, vocabulary.objects(), boxes, "objects"))
    letters = sorted(vocabulary.require(tokenizer, vocabulary.LABELS, boxes + 1, "box labels"))
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
    while True:
        world = World(tuple(draw.sample(words, boxes)), tuple(draw.sample(letters, boxes)))
        if world.split == split:
            return world

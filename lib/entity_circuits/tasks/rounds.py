"""What a task asks of path patching: rounds of senders, each listening to the heads found before, and their prompts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..arguments import finite, of_kind, one_of
from .prompts import Prompts

Composition = Literal["q", "k", "v"]
"""What a head receives through: its queries, keys or values."""


@dataclass(frozen=True)
class Round:
    """One round of path patching: the heads at a position that send to the answer, or to the heads of another round.

    `name` is that of the group that it finds, and `position` where its heads send from. `into` is the group that
    receives (None: the answer is read), `through` what of it: its queries "q", keys "k" or values "v". `heard_at` is
    the only position at which changed keys and values are heard (None: at every later token). `share` of the model's
    heads, at least one, are handed to the next round, unless told otherwise. Paper: section 4.2.

        from entity_circuits.tasks import rounds

        movers = rounds.Round("name movers", "last")
        print(movers, rounds.Round("S-inhibition", "last", into="name movers", through="q"))
    """

    name: str
    position: str
    into: str | None = None
    through: Composition | None = None
    heard_at: str | None = None
    share: float = 10 / 1024

    def __post_init__(self) -> None:
        one_of("way for a round to hear through", self.through, Composition | None)
        for what, given in (("name", self.name), ("position", self.position)):
            of_kind(f"{what} of a round", given, str)
        if (self.into is None) != (self.through is None):
            raise ValueError(f"round {self.name!r}: `into` (which heads) and `through` (q, k or v) go together")
        if self.heard_at is not None and self.through not in ("k", "v"):
            raise ValueError(f"round {self.name!r}: `heard_at` is for keys and values")
        finite(f"share of all heads of round {self.name!r}", self.share, 0, 1)
        if not self.share:
            raise ValueError(f"round {self.name!r}: share {self.share} of all heads")


@dataclass(frozen=True)
class Experiment:
    """What a discovery is made on: base prompts, a source prompt for each, the rounds, and how they were drawn.

    `about` says that, and is kept with the circuit: `ValueError` for what JSON does not know.
    """

    base: Prompts
    source: Prompts
    rounds: tuple[Round, ...]
    about: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            json.dumps(dict(self.about))
        except TypeError as error:
            raise ValueError(f"about: plain numbers, texts and lists of them, to be kept as JSON: {error}") from error


def check(rounds: tuple[Round, ...]) -> None:
    """Raise `ValueError` for rounds of one name, or one that sends into a round that does not come before it."""
    seen: list[str] = []
    for one in rounds:
        if one.name in seen:
            raise ValueError(f"two rounds are called {one.name!r}")
        if one.into is not None and one.into not in seen:
            raise ValueError(f"round {one.name!r} sends into {one.into!r}, and only {seen} come before it")
        if one.into is None and one.position != "last":
            raise ValueError(f"round {one.name!r} is read at the answer: its position is `last`, not {one.position!r}")
        seen.append(one.name)
    if not seen:
        raise ValueError("there are no rounds")

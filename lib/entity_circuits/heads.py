"""Heads, circuits of groups of heads, and the four groups of the paper: plain frozen data, to and from JSON."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import sums
from .arguments import from_json, integer, of_kind, several

Group = str
"""The name of a group of heads. A circuit may have any; these are the paper's."""

GROUPS: tuple[Group, ...] = ("value_fetcher", "position_transmitter", "position_detector", "structure_reader")
LETTERS: dict[Group, str] = dict(zip(GROUPS, "ABCD", strict=True))
POSITIONS: dict[Group, str] = dict(zip(GROUPS, ("last", "last", "query", "prev"), strict=True))
"""Where each group's heads act (paper, section 4.2)."""


@dataclass(frozen=True, order=True)
class Head:
    """One attention head, both numbers counted from zero. Written `L14H5`.

    Raises `ValueError` for what is no whole number, or below zero.

        from entity_circuits.heads import Head

        print(Head(14, 5), Head(14, 5).layer)
    """

    layer: int
    head: int

    def __post_init__(self) -> None:
        for name in ("layer", "head"):
            object.__setattr__(self, name, integer(f"{name} of a head", getattr(self, name), least=0))

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """The head that is written so. Raises `ValueError` with what was given otherwise.

        For example:

            from entity_circuits.heads import Head

            assert Head.parse("L14H5") == Head(14, 5)
        """
        match = re.fullmatch(r"L(\d+)H(\d+)", text) if isinstance(text, str) else None
        if not match:
            raise ValueError(f"a head is written like L14H5, not {text!r}")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Circuit:
    """The heads of each group, strongest first. A head may stand in several groups, at different positions.

    `about` says what produced it (model, parameters, code), as plain JSON values. `positions` says where the heads of a
    group act; those of the paper's groups need not be named. Heads may be written as text. Raises `ValueError` for a
    group of neither kind, for a head twice in one group, and for what is no mapping. Paper: section 4.2.

        from entity_circuits.heads import Circuit, Head

        circuit = Circuit({"name movers": (Head(3, 5), Head(2, 1))}, positions={"name movers": "last"})
        print(len(circuit), circuit.to_json())
    """

    groups: Mapping[Group, tuple[Head, ...]]
    about: Mapping[str, object] = field(default_factory=dict)
    positions: Mapping[Group, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what in ("groups", "about", "positions"):
            if not isinstance(given := getattr(self, what), Mapping):
                raise ValueError(
                    f"a circuit has heads by group, as in Circuit({{'value_fetcher': ['L3H5']}}), and its `about` and "
                    f"`positions` by name; its {what} cannot be {given!r}"
                )
        for group, place in self.positions.items():
            of_kind(f"the position of {group!r}", place, str)
        object.__setattr__(self, "groups", {name: of(some) for name, some in self.groups.items()})
        for name, some in self.groups.items():
            if twice := [head for head in some if some.count(head) > 1]:
                raise ValueError(f"{name} has a head twice: {twice[0]}")
        if unknown := [name for name in self.groups if name not in (*self.positions, *GROUPS)]:
            raise ValueError(
                f"where do the heads of {unknown[0]!r} act? The paper's groups are {', '.join(GROUPS)}; of any other "
                f"say it: Circuit(..., positions={{{unknown[0]!r}: 'last'}})"
            )

    def position(self, group: Group) -> str:
        """Where the heads of a group act."""
        return self.positions[group] if group in self.positions else POSITIONS[group]

    @property
    def letters(self) -> dict[Group, str]:
        """A short name of each group: the paper's letters in their order, then any other's own name."""
        ordered = [*(group for group in GROUPS if group in self.groups), *(g for g in self.groups if g not in GROUPS)]
        return {group: LETTERS.get(group, group) for group in ordered}

    def __len__(self) -> int:
        return sum(len(heads) for heads in self.groups.values())

    def to_json(self) -> str:
        """The circuit as text: the heads of each group, and `about`."""
        groups = {name: [str(head) for head in heads] for name, heads in self.groups.items()}
        own = {"positions": dict(self.positions)} if self.positions else {}
        return json.dumps({"groups": groups, "about": dict(self.about), **own}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Circuit":
        """The circuit of such a text. Raises `ValueError` for what is no head or no group, and for a name twice.

        For example:

            from entity_circuits.heads import Circuit, Head

            circuit = Circuit({"value_fetcher": (Head(3, 5),)})
            assert Circuit.from_json(circuit.to_json()) == circuit
        """
        content = from_json(text)
        if not isinstance(content, dict) or not isinstance(content.get("groups"), dict):
            raise ValueError("the text of a circuit has `groups`, which are lists of heads by name")
        groups = {name: tuple(map(Head.parse, several(name, some, 0))) for name, some in content["groups"].items()}
        return cls(groups, content.get("about", {}), content.get("positions", {}))

    def save(self, path: Path) -> None:
        """Write the circuit whole or not at all."""
        sums.write(path, self.to_json() + "\n")


def every(layers: int, heads: int) -> tuple[Head, ...]:
    """All heads of a model with so many layers of so many heads, layer by layer.

    For example:

        from entity_circuits import heads

        print(*heads.every(layers=2, heads=2))
    """
    layers, heads = integer("layers", layers, least=0), integer("heads", heads, least=0)
    return tuple(Head(layer, head) for layer in range(layers) for head in range(heads))


def of(some: "Iterable[Head | str] | Head | str") -> tuple[Head, ...]:
    """Heads in their order, whether given as heads or as text; one by itself is a list of one.

    Raises `ValueError` for what is neither.

        from entity_circuits import heads
        from entity_circuits.heads import Head

        assert heads.of([Head(3, 5), "L2H1"]) == (Head(3, 5), Head(2, 1))
    """
    several = (some,) if isinstance(some, Head | str) else some
    if not isinstance(several, Iterable):
        raise ValueError(f"heads are given as a list of heads, or of text like L14H5, not {several!r}")
    return tuple(one if isinstance(one, Head) else Head.parse(str(one)) for one in several)


def require(chosen: Iterable[Head], layers: int, heads: int, where: str) -> None:
    """Raise `ValueError` for a head that a model of this shape does not have; `where` says what it was meant for.

    For example:

        from entity_circuits import heads
        from entity_circuits.heads import Head

        try:
            heads.require([Head(3, 5)], layers=3, heads=8, where="of the circuit")
        except ValueError as error:
            print(error)
    """
    for head in chosen:
        if not (0 <= head.layer < layers and 0 <= head.head < heads):
            raise ValueError(f"{head} {where}: this model has {layers} layers of {heads} heads")


def ranked(scores: np.ndarray) -> list[Head]:
    """The heads of a table of scores (layers, heads), the most negative first; ties layer by layer, none with NaN.

    For example:

        import numpy as np
        from entity_circuits import heads

        print(*heads.ranked(np.array([[-1.0, 0.5], [np.nan, -2.0]])))  # L1H1 L0H0 L0H1
    """
    if scores.ndim != 2:
        raise ValueError(f"scores are ranked from a table of (layers, heads), not of {scores.shape}")
    order = np.argsort(scores, axis=None, kind="stable")
    return [Head(*divmod(int(index), scores.shape[1])) for index in order if not np.isnan(scores.flat[index])]


def by_layer(heads: Iterable[Head]) -> dict[int, tuple[int, ...]]:
    """The head numbers in each layer, layers and heads ascending.

    For example:

        from entity_circuits import heads
        from entity_circuits.heads import Head

        print(heads.by_layer([Head(3, 5), Head(1, 2), Head(3, 0)]))  # {1: (2,), 3: (0, 5)}
    """
    found: dict[int, list[int]] = {}
    for head in sorted(set(heads)):
        found.setdefault(head.layer, []).append(head.head)
    return {layer: tuple(numbers) for layer, numbers in found.items()}

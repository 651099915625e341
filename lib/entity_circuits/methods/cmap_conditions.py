"""What cross-model activation patching replaces, as plain frozen data, and the lists of it that chapters ask for."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from ..arguments import each_of, integer, of_kind, one_of, several
from ..heads import LETTERS, Circuit, Group, Head, by_layer, require
from ..heads import of as heads_of
from ..models.subject import Subject
from ..runs.edits import Activation as Site

Place = str
"""The name of a position of the prompts; for outputs (z) also "everywhere"."""

Origin = Literal["run", "weights", "inputs"]
Into = Literal["base", "tuned"]
Reach = Literal["band", "up to", "from"]


@dataclass(frozen=True)
class Condition:
    """What one patching replaces: activations of some heads at each place, into one model, from the other.

    `heads` maps places (positions of the prompts, and for z also `everywhere`) to heads; it is copied, so conditions
    never share a list (artefact B13). `sites` is "z", or any of "q", "k", "v". What these and `origin` mean stands in
    `cmap`. `draw` numbers random controls. Raises `ValueError` for anything else, or no heads at all.

        from entity_circuits import cmap

        a = cmap.Condition("A", {"last": ["L3H5", "L2H1"]}, sites=("q", "v"))
        print(a.size, a.layers)
    """

    name: str
    heads: Mapping[Place, Sequence[Head]]
    sites: Sequence[Site] = ("z",)
    origin: Origin = "run"
    into: Into = "base"
    draw: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", tuple(self.sites))
        each_of(f"site of {self.name}", self.sites, Site)
        one_of(f"origin of {self.name}", self.origin, Origin)
        one_of(f"model to patch {self.name} into", self.into, Into)
        of_kind("name of a condition", self.name, str)
        if not isinstance(self.heads, Mapping):
            raise ValueError(f"{self.name}: heads are given by place, as in {{'last': ['L3H5']}}, not {self.heads!r}")
        for place in self.heads:
            of_kind(f"each place of {self.name}", place, str)
        if self.draw is not None:
            object.__setattr__(self, "draw", integer("draw", self.draw, least=0))
        chosen = {place: tuple(sorted(set(heads_of(some)))) for place, some in self.heads.items()}
        object.__setattr__(self, "heads", chosen)
        object.__setattr__(self, "sites", tuple(sorted(set(self.sites), key="zqkv".find)))
        if self.sites != ("z",) and not (self.sites and set(self.sites) <= set("qkv")):
            raise ValueError(f"{self.name}: sites are 'z' alone, or some of 'q', 'k' and 'v', not {self.sites}")
        if self.sites == ("z",) and self.origin != "run":
            raise ValueError(f"{self.name}: an output has no matrix of its own: origin='run', or patch q, k or v")
        if self.sites != ("z",) and "everywhere" in self.heads:
            raise ValueError(f"{self.name}: inputs are patched at one place; everywhere is for outputs (z)")
        if not self.size:
            raise ValueError(f"{self.name}: no heads to patch")

    @property
    def size(self) -> int:
        """How many heads, a head at two places counted twice."""
        return sum(map(len, self.heads.values()))

    @property
    def layers(self) -> tuple[int, int]:
        """The lowest and the highest layer with a head."""
        found = [head.layer for some in self.heads.values() for head in some]
        return min(found), max(found)

    @property
    def words(self) -> list[Any]:
        """All of it, as JSON values."""
        heads = {place: list(map(str, some)) for place, some in sorted(self.heads.items()) if some}
        return [self.name, heads, "".join(self.sites), self.origin, self.into, self.draw]


def groups(circuit: Circuit, *, into: Into = "base", combined: Sequence[str] = ("AB", "BCD")) -> tuple[Condition, ...]:
    """Outputs: the full circuit, each of its groups by itself, and some groups together; those without heads left out.

    A head's output holds whatever the heads and MLPs before it did better. So A by itself, whose outputs are all that
    the answer needs, is bound to recover much, and is no evidence that A improved: compare `inputs`. Paper: section 6.

        from entity_circuits import circuits, cmap

        circuit = circuits.load("qwen2.5-coder-0.5b").circuit
        conditions = cmap.groups(circuit) + cmap.groups(circuit, into="tuned")
        print([condition.name for condition in conditions])
    """
    one_of("model to patch into", into, Into)
    of_kind("circuit", circuit, Circuit)
    letter = circuit.letters
    combined = several("groups to combine", combined, least=0)
    if unknown := [letters for letters in combined if not set(letters) <= {*LETTERS.values(), *letter.values()}]:
        raise ValueError(f"no groups called {unknown[0]!r}: letters of {', '.join(letter.values())} are combined")
    there = [group for group in letter if circuit.groups[group]]
    wanted = [there, *([group] for group in there if len(there) > 1)]
    for letters in combined:
        chosen = [group for group in there if letter[group] in letters]
        if len(chosen) == len(letters) and chosen not in wanted:
            wanted.append(chosen)
    names = ["circuit", *(" + ".join(letter[group] for group in chosen) for chosen in wanted[1:])]
    return tuple(
        Condition(name, of_circuit(circuit, chosen), into=into) for name, chosen in zip(names, wanted, strict=True)
    )


def inputs(
    circuit: Circuit,
    *,
    into: Into = "base",
    sites: Sequence[str] = ("q", "k", "v", "qk", "qkv"),
    origins: Sequence[Origin] = ("run", "weights", "inputs"),
) -> tuple[Condition, ...]:
    """Inputs: each group's queries, keys and values, alone and together, from the other model's run, its weights alone
    and what arrives in it alone. Paper: section 6 (queries of A, values of B) and the official history (10.3).

        from entity_circuits import circuits, cmap

        circuit = circuits.load("qwen2.5-coder-0.5b").circuit
        conditions = cmap.inputs(circuit, sites=("q", "v"))
        print([(condition.name, condition.sites, condition.origin) for condition in conditions])
    """
    one_of("model to patch into", into, Into)
    origins, sites = several("origins", origins), several("sites", sites)
    each_of("origin", origins, Origin)
    of_kind("circuit", circuit, Circuit)
    for letters in sites:
        sites_of(letters)
    return tuple(
        Condition(letter, of_circuit(circuit, [group]), sites_of(letters), origin, into)
        for group, letter in circuit.letters.items()
        if circuit.groups[group]
        for letters in sites
        for origin in origins
    )


def random_heads(
    subject: Subject, condition: Condition, draws: int = 5, seed: int = 0, without: Sequence[Head | str] = ()
) -> tuple[Condition, ...]:
    """Controls of a condition: as many heads in the same layers at the same places, drawn from those not in it.

    Args:
        subject: the model whose heads are drawn.
        condition: what the draws are held against.
        draws: how many.
        seed: of the draws.
        without: further heads that are not drawn, at any place, such as those of another group.

    Where a layer has too few others, all of them are taken and some of those that were to be left out beside.
    Everything else is as in the condition. Draws depend on the seed, the draw, the condition and `without` alone.

        from entity_circuits import cmap, models

        a = cmap.Condition("A", {"last": ["L3H5"]})
        print([one.heads for one in cmap.random_heads(models.load("qwen2.5-coder-0.5b"), a, draws=2)])
    """
    of_kind("condition", condition, Condition)
    draws, seed = integer("draws", draws), integer("seed", seed, least=None)
    without = heads_of(without)
    avoided = by_layer(without)
    for some in (*condition.heads.values(), without):
        require(some, subject.layers, subject.heads, f"of {condition.name}")
    made = []
    for number in range(draws):
        draw = random.Random(json.dumps(["cmap", seed, number, condition.words]))
        chosen: dict[Place, list[Head]] = {}
        for place, some in condition.heads.items():
            for layer, own in by_layer(some).items():
                kept = sorted({*own, *avoided.get(layer, ())}) if avoided else own
                others = [head for head in range(subject.heads) if head not in kept]
                drawn = draw.sample(others, min(len(own), len(others)))
                drawn += draw.sample(kept, len(own) - len(drawn))
                chosen.setdefault(place, []).extend(Head(layer, head) for head in drawn)
        made.append(replace(condition, heads=chosen, draw=number))
    return tuple(made)


def scan(
    subject: Subject,
    place: Place,
    *,
    reach: Reach = "up to",
    site: str = "z",
    origin: Origin = "run",
    into: Into = "base",
    width: int = 1,
) -> tuple[Condition, ...]:
    """All heads of a layer at one place, layer by layer: where does the improvement first appear?

    Args:
        subject: the model whose layers are meant.
        place: where they are patched.
        reach: "band" patches `width` layers at a time, "up to" all from the lowest to each band, "from" each band and
            all above it.
        site: "z", or letters of "qkv".
        origin: as in `Condition`.
        into: the model that is patched.
        width: layers of a band.

    The layers are the columns `first` and `final` of the table. Raises `ValueError` for another reach or width.

        from entity_circuits import cmap, models

        print([one.name for one in cmap.scan(models.load("qwen2.5-coder-0.5b"), "last", reach="band")])
    """
    one_of("reach", reach, Reach)
    one_of("origin", origin, Origin)
    one_of("model to patch into", into, Into)
    width = integer("width", width)
    of_kind("place", place, str)
    made = []
    for first in range(0, subject.layers, width):
        end = min(first + width, subject.layers)
        low, high = {"band": (first, end), "up to": (0, end), "from": (first, subject.layers)}[reach]
        every = tuple(Head(layer, head) for layer in range(low, high) for head in range(subject.heads))
        name = f"{reach} {high - 1 if reach == 'up to' else low}, {place}"
        made.append(Condition(name, {place: every}, sites_of(site), origin, into))
    return tuple(made)


def of_circuit(circuit: Circuit, groups: Sequence[Group] | None = None) -> dict[Place, tuple[Head, ...]]:
    """The heads of some groups (all unless told) at the places where these act."""
    found: dict[Place, set[Head]] = {}
    for group in circuit.letters if groups is None else groups:
        found.setdefault(circuit.position(group), set()).update(circuit.groups.get(group, ()))
    return {place: tuple(some) for place, some in found.items() if some}


def sites_of(letters: str) -> tuple[Site, ...]:
    """ "z", or letters of "qkv", as sites. Raises `ValueError` for any others."""
    of_kind("site", letters, str)
    if not letters or (letters != "z" and not set(letters) <= set("qkv")):
        raise ValueError(f"no site called {letters!r}: 'z', or letters of 'qkv'")
    return cast("tuple[Site, ...]", tuple(letters))

"""Other circuits to hold a circuit against: random ones of its size, and larger ones off the top of the rankings."""

import random
from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd

from .. import heads, statistics
from ..arguments import finite, integer, of_kind, one_of, several
from ..heads import LETTERS, Circuit, Group, Head
from ..methods.ablation import circuit_accuracy, kept, size
from ..methods.kept import Kept
from ..models.subject import Subject
from ..results import Store
from ..runs.mean_replay import Means
from ..runs.replay import Method, executor
from ..tasks.prompts import Prompts

Layers = Literal["any", "same"]


def random_circuits(
    subject: Subject, circuit: Circuit | Kept, n: int = 10, *, layers: Layers = "any", seed: int = 0
) -> list[dict[str, tuple[Head, ...]]]:
    """`n` circuits with as many heads at each place as this one, drawn without replacement from all heads.

    Args:
        subject: the model whose heads are drawn from.
        circuit: its groups, or a mapping of places to heads. A and B share `last`, and are drawn together.
        n: how many.
        layers: "any", or "same": as many in each layer, too, the stronger baseline: it leaves only the choice of heads
            within layers.
        seed: of the draws.

    Returns mappings of places to heads. The official code draws with replacement (B8).

        from entity_circuits import criteria, models
        from entity_circuits.heads import Head

        subject = models.load("qwen2.5-coder-0.5b")
        print(criteria.random_circuits(subject, {"last": [Head(3, 5), Head(2, 1)]}, 2, layers="same"))
    """
    one_of("kind of layers", layers, Layers)
    n, seed = integer("n", n), integer("seed", seed, least=None)
    whole = kept(circuit)
    for place, some in whole.items():
        heads.require(some, subject.layers, subject.heads, f"at {place}")
    draw = random.Random(f"random circuits/{seed}/{layers}")
    every = heads.every(subject.layers, subject.heads)
    found = []
    for _ in range(n):
        one = {}
        for place, some in sorted(whole.items()):
            if layers == "any":
                one[place] = tuple(sorted(draw.sample(every, len(some))))
            else:
                counts = {layer: len(numbers) for layer, numbers in heads.by_layer(some).items()}
                picked = {layer: draw.sample(range(subject.heads), count) for layer, count in counts.items()}
                one[place] = tuple(Head(layer, index) for layer in picked for index in sorted(picked[layer]))
        found.append(one)
    return found


def grown(circuit: Circuit, rankings: Mapping[Group, Sequence[Head]], scale: float) -> Circuit:
    """A circuit with `scale` times as many heads of each group as this one has, off the top of the rankings.

    `rankings` are all heads of each group that have a path, the strongest first: `circuits.Finding.rankings()`.

        from entity_circuits import circuits, criteria

        found = circuits.load("qwen2.5-coder-0.5b")
        print(len(found.circuit), len(criteria.grown(found.circuit, found.rankings(), 2)))
    """
    finite("scale", scale, 0, inside=True)
    of_kind("circuit", circuit, Circuit)
    of_kind("rankings", rankings, Mapping)
    for group in (group for group, some in circuit.groups.items() if some):
        one_of("group with a ranking", group, rankings)
    sizes = {group: max(1, round(scale * len(some))) for group, some in circuit.groups.items() if some}
    groups = {group: heads.of(rankings[group])[:count] for group, count in sizes.items()}
    return Circuit(groups, {**circuit.about, "scale": scale}, circuit.positions)


def besides(circuit: Circuit | Kept, also: Kept) -> dict[str, tuple[Head, ...]]:
    """A circuit as places and heads, with those that are kept `also`: at a place that both have, the heads of both.

    For example:

        from entity_circuits.circuits import growth

        print(growth.besides({"last": ["L3H5"]}, {"last": ["L2H1"], "prev": ["L0H0"]}))
    """
    whole = kept(circuit)
    return whole | kept({place: (*whole.get(place, ()), *heads.of(some)) for place, some in also.items()})


def growth(
    subject: Subject,
    circuit: Circuit,
    rankings: Mapping[Group, Sequence[Head]],
    prompts: Prompts,
    means: Means,
    *,
    scales: Sequence[float] = (0.5, 1, 2, 3, 4, 6, 8),
    draws: int = 3,
    also: Kept | None = None,
    seed: int = 0,
    method: Method = "replay",
    store: Store | None = None,
) -> pd.DataFrame:
    """How accuracy grows with the number of heads taken from the rankings, so that nobody need believe a threshold.

    Args:
        subject: the model.
        circuit: whose groups are made larger or smaller.
        rankings: all heads of each group that have a path, the strongest first: `circuits.Finding.rankings()`.
        prompts: n prompts.
        means: what stands in place of every head that is not kept.
        scales: how many times as many heads each group has; at least one head is left.
        draws: random circuits of equal size, and as many of equal layer profile; 0: none.
        also: heads that are kept in every circuit beside its own, and not counted.
        seed: of the random circuits.
        method: "replay", or "definition": the same numbers from whole runs.
        store: keeps what is finished.

    One row a scale and `kind`: "ranking", "random" or "same layers" (the mean of the random circuits). Columns `scale`,
    `kind`, `heads`, one for each group's letter, `accuracy`, `low`, `high`, `choice` (right among the prompts' choices
    alone) with `_low` and `_high`, `n`.

        from entity_circuits import ablation, criteria, toy
        from entity_circuits.heads import Circuit, Head

        subject, p = toy.subject(), toy.prompts("apple", "cup")
        means, rankings = ablation.means(subject, prompts=p), {"value_fetcher": [Head(2, 1), Head(2, 0)]}
        circuit = Circuit({"value_fetcher": (Head(2, 1),)})
        print(criteria.growth(subject, circuit, rankings, p, means, scales=(1, 2), draws=2))
    """
    executor(method)  # an unknown one is told before anything runs
    draws = integer("draws", draws, least=0)
    scales, also = several("scales", scales), kept({} if also is None else also)
    of_kind("rankings", rankings, Mapping)
    rankings = {group: heads.of(some) for group, some in rankings.items()}
    planned: list[tuple[dict[str, object], list[dict[str, tuple[Head, ...]]]]] = []
    for scale in scales:
        larger = grown(circuit, rankings, scale)
        letters = {LETTERS.get(group, group): len(larger.groups.get(group, ())) for group in rankings}
        kinds: dict[str, list[dict[str, tuple[Head, ...]]]] = {"ranking": [kept(larger)]}
        for kind, layers in (("random", "any"), ("same layers", "same")) if draws else ():
            kinds[kind] = random_circuits(subject, larger, draws, layers=layers, seed=seed)  # type: ignore[arg-type]
        for kind, some in kinds.items():
            row: dict[str, object] = {"scale": scale, "kind": kind, "heads": size(larger), **letters}
            planned.append((row, [besides(one, also) for one in some]))
    asked = [one for _, some in planned for one in some]
    answers = circuit_accuracy(subject, asked, prompts, means, method=method, store=store, name="growth")
    rows, start = [], 0
    for row, some in planned:
        right = answers.correct[start : start + len(some)].double().mean(0)
        accuracy = statistics.estimate(right, answers.contexts)
        found_ = {"accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high, "n": accuracy.n}
        rows.append({**row, **found_, **answers.choice(slice(start, start + len(some))).cells("choice")})
        start += len(some)
    return pd.DataFrame(rows)

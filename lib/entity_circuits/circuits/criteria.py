"""What makes a set of heads a circuit: faithful, complete, minimal, and better than chance. Paper, section 4.

Every criterion is a comparison of accuracies of circuits under mean ablation (`ablation.circuit_accuracy`) on the same
prompts, so all intervals are of paired differences, over contexts; counts are never rounded.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import statistics
from ..arguments import finite, integer, several
from ..heads import Circuit, Group, Head
from ..methods.ablation import Answers, circuit_accuracy, full_without, kept, size, without
from ..methods.kept import Kept
from ..models.subject import Subject
from ..results import Store
from ..runs.mean_replay import Means
from ..runs.replay import Method, executor
from ..statistics import Estimate
from ..tasks.prompts import Prompts
from .growth import grown as grown
from .growth import growth as growth
from .growth import random_circuits as random_circuits

ORDER: tuple[Group, ...] = ("structure_reader", "position_transmitter", "position_detector", "value_fetcher")


@dataclass(frozen=True)
class Faithfulness:
    """F(C) and F(M) with their intervals, F(C) - F(M), and F(C) / F(M): None if F(M) is not above chance."""

    circuit: Estimate
    full: Estimate
    difference: Estimate
    ratio: Estimate | None

    def cells(self) -> dict[str, float]:
        """The part of a table's row about the circuit: `accuracy` with `low` and `high`, `difference` and `ratio`, each
        with `_low` and `_high` (NaN where there is no ratio), and `n`."""
        cells = {"accuracy": self.circuit.value, "low": self.circuit.low, "high": self.circuit.high}
        ratio = Estimate(np.nan, np.nan, np.nan, 0, 0) if self.ratio is None else self.ratio
        return cells | self.difference.cells("difference") | ratio.cells("ratio") | {"n": self.circuit.n}


def faithfulness(circuit: Tensor, full: Tensor, contexts: Tensor, *, chance: float) -> Faithfulness:
    """How much of the full model's accuracy a circuit has, from the right answers to the same prompts.

    `circuit` and `full` are (n,) bool, `contexts` (n,) says which prompts belong together. The intervals of difference
    and ratio are paired, over contexts (`statistics`). There is no ratio where the lower bound of the full model's
    accuracy is not above `chance` (the share right by guessing among the answers): a share of nothing says nothing. A
    ratio can exceed 1. Paper: section 4.1; the official ratio is one of rounded accuracies.

        import torch
        from entity_circuits import criteria

        full, circuit = torch.tensor([1, 1, 1, 1, 0, 1]), torch.tensor([1, 0, 1, 1, 0, 1])
        print(criteria.faithfulness(circuit, full, torch.arange(6), chance=1 / 7).ratio)
    """
    finite("chance", chance, 0, 1)
    whole = statistics.estimate(full, contexts)
    above = (whole.value if np.isnan(whole.low) else whole.low) > chance
    return Faithfulness(
        statistics.estimate(circuit, contexts),
        whole,
        statistics.difference(circuit, full, contexts),
        statistics.ratio(circuit, full, contexts) if above else None,
    )


def faithfulness_table(circuits: Mapping[str, Answers], against: Mapping[str, Answers], chance: float) -> pd.DataFrame:
    """One row for each of the `circuits` and of what it is held `against` (the full model, a ceiling).

    Columns `circuit`, `against`, `accuracy` with `low` and `high`, `other` (that of the latter), `difference` and
    `ratio`, each with `_low` and `_high`, `n` and `contexts`; `choice` with bounds, how often the circuit is right
    among the prompts' choices alone (NaN if they have none). `chance` is that of `faithfulness`. Paper: Table 1.

        from entity_circuits import ablation, criteria, toy
        from entity_circuits.heads import Head

        subject, p = toy.subject(), toy.prompts("apple", "cup")
        means = ablation.means(subject, prompts=p)
        direct = ablation.circuit_accuracy(subject, {"last": [Head(2, 1)]}, p, means)
        ceiling = ablation.circuit_accuracy(subject, ablation.all_heads(subject), p, means)
        print(criteria.faithfulness_table({"direct head": direct}, {"ceiling": ceiling}, chance=0.5))
    """
    if several := [name for name, one in {**circuits, **against}.items() if len(one) != 1]:
        raise ValueError(f"a row is of one circuit, and {several[0]!r} are several: give them one by one")
    rows = []
    for name, answers in circuits.items():
        for other, whole in against.items():
            found = faithfulness(answers.correct[0], whole.correct[0], answers.contexts, chance=chance)
            named = {"circuit": name, "against": other, "other": found.full.value}
            choice = {**answers.choice().cells("choice"), "contexts": found.circuit.contexts}
            rows.append({**named, **found.cells(), **choice})
    return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class Completeness:
    """For each set K taken away: what is left of the circuit, F(C without K), and of the model, F(M without K)."""

    names: tuple[str, ...]
    removed: tuple[dict[str, tuple[Head, ...]], ...]
    circuit: Answers
    full: Answers

    def table(self) -> pd.DataFrame:
        """One row a K: `removed` (its name), `heads`, `circuit`, `full`, and `incompleteness`, circuit minus full with
        its sign, with `low` and `high` (paired, over contexts), `n`.
        """
        rows = []
        for index, (name, gone) in enumerate(zip(self.names, self.removed, strict=True)):
            one, other = self.circuit.correct[index], self.full.correct[index]
            apart = statistics.difference(one, other, self.circuit.contexts)
            accuracies = {"circuit": float(one.double().mean()), "full": float(other.double().mean())}
            gap = {"incompleteness": apart.value, "low": apart.low, "high": apart.high, "n": apart.n}
            rows.append({"removed": name, "heads": size(gone), **accuracies, **gap})
        return pd.DataFrame(rows)


def completeness(
    subject: Subject,
    circuit: Circuit | Kept,
    prompts: Prompts,
    means: Means,
    *,
    draws: int = 20,
    seed: int = 0,
    method: Method = "replay",
    store: Store | None = None,
) -> Completeness:
    """Take sets K of heads away, from the circuit and from the model: a complete circuit loses what the model loses.

    Args:
        subject: the model.
        circuit: its groups, or a mapping of places to heads, which keep their output; all others are at their means.
        prompts: n prompts.
        means: what stands in place of a head that is taken away.
        draws: how many random sets K there are beside none and each whole group (or place).
        seed: of these sets, which take every head at its place with probability 1/2.
        method: "replay", or "definition": the same numbers from whole runs.
        store: keeps what is finished.

    A head that two groups share at one place goes with either. F(M without K) mean-ablates K in the otherwise
    unmodified model. Paper: section 4.1.

        from entity_circuits import ablation, criteria, toy
        from entity_circuits.heads import Head

        subject, p = toy.subject(), toy.prompts("apple", "cup")
        means = ablation.means(subject, prompts=p)
        relay = {"prev": [Head(0, 0)], "query": [Head(1, 0)], "last": [Head(2, 0)]}
        print(criteria.completeness(subject, relay, p, means, draws=2).table())
    """
    executor(method)  # an unknown one is told before anything runs
    draws, seed = integer("draws", draws, least=0), integer("seed", seed, least=None)
    circuit = _once(circuit)
    whole = kept(circuit)
    names: list[str] = ["nothing"]
    sets: list[dict[str, tuple[Head, ...]]] = [{}]
    for label, (place, some) in _parts(circuit).items():
        names.append(label)
        sets.append({place: some})
    draw = random.Random(f"completeness/{seed}")
    for turn in range(1, draws + 1):
        names.append(f"random {turn}")
        sets.append({place: tuple(h for h in some if draw.random() < 0.5) for place, some in sorted(whole.items())})
    left = [without(circuit, gone) for gone in sets]
    return Completeness(
        tuple(names),
        tuple(sets),
        circuit_accuracy(subject, left, prompts, means, method=method, store=store, name="circuit without"),
        full_without(subject, sets, prompts, means, method=method, store=store),
    )


def _once(circuit: Circuit | Kept) -> Circuit | Kept:
    """A circuit that can be read again and again: heads may come from generators."""
    return circuit if isinstance(circuit, Circuit) else kept(circuit)


def _parts(circuit: Circuit | Kept) -> dict[str, tuple[str, tuple[Head, ...]]]:
    """What a circuit is made of, by name: its groups, or the places of a mapping; each a place with heads."""
    if isinstance(circuit, Circuit):
        order = [*ORDER, *(group for group in circuit.groups if group not in ORDER)]
        able = [group for group in order if circuit.groups.get(group)]
        return {group: (circuit.position(group), tuple(dict.fromkeys(circuit.groups[group]))) for group in able}
    return {place: (place, some) for place, some in kept(circuit).items() if some}


@dataclass(frozen=True, eq=False)
class Minimality:
    """What each head of a circuit is worth once its stand-ins are gone.

    For each part (group or place): `heads`, and `pairs` (heads, heads) int64, the prompts that the circuit without both
    gets right (on the diagonal, without one). For each head, in that order: `stand_ins`, K(v), and the answers `before`
    (without K(v)) and `after` (without K(v) and v). `whole` are the answers of the circuit itself.
    """

    places: dict[str, str]
    heads: dict[str, tuple[Head, ...]]
    pairs: dict[str, Tensor]
    stand_ins: dict[str, tuple[tuple[Head, ...], ...]]
    before: dict[str, Answers]
    after: dict[str, Answers]
    whole: Answers

    def table(self) -> pd.DataFrame:
        """One row a head: `part`, `place`, `head`, `stand_ins` (how many), `before` and `after` (right answers),
        `ratio` before / after - 1 (infinite if nothing is left, 0 if nothing was there), `loss`, the difference of the
        accuracies, with `low` and `high` (paired, over contexts), `n`."""
        rows = []
        for part, members in self.heads.items():
            for index, head in enumerate(members):
                one, other = self.before[part].correct[index], self.after[part].correct[index]
                before, after = int(one.sum()), int(other.sum())
                gone = statistics.difference(one, other, self.whole.contexts)
                share = before / after - 1 if after else (math.inf if before else 0.0)
                place = {"part": part, "place": self.places[part], "head": str(head)}
                counts = {"stand_ins": len(self.stand_ins[part][index]), "before": before, "after": after}
                loss = {"ratio": share, "loss": gone.value, "low": gone.low, "high": gone.high, "n": gone.n}
                rows.append({**place, **counts, **loss})
        return pd.DataFrame(rows)

    def kept(self, threshold: float = 0.01) -> dict[str, tuple[Head, ...]]:
        """Of the parts looked at, the heads whose ratio is at least the threshold, by place: one for every model (B6).

        For example:

            from entity_circuits import ablation, criteria, toy
            from entity_circuits.heads import Head

            subject, p = toy.subject(), toy.prompts("apple", "cup")
            circuit = {"prev": [Head(0, 0)], "query": [Head(1, 0)], "last": [Head(2, 0), Head(2, 1)]}
            found = criteria.minimality(subject, circuit, p, ablation.means(subject, prompts=p))
            print(found.kept(0.01))
        """
        table = self.table().query("ratio >= @threshold")
        found: dict[str, set[Head]] = {place: set() for place in self.places.values()}
        for place, head in zip(table["place"], table["head"], strict=True):
            found[place].add(Head.parse(head))
        return {place: tuple(sorted(some)) for place, some in found.items()}


def minimality_cost(circuit: Circuit | Kept, parts: Sequence[str] | None = None) -> int:
    """The most circuits that `minimality` may have to evaluate: for a part of n heads n(n-1)/2 pairs and 3n more.

    For example:

        from entity_circuits import criteria
        from entity_circuits.heads import Head

        print(criteria.minimality_cost({"last": [Head(2, 0), Head(2, 1), Head(3, 5)]}))  # 13
    """
    parts = None if parts is None else several("parts", parts)
    sizes = [len(some) for label, (_, some) in _parts(circuit).items() if parts is None or label in parts]
    return 1 + sum(n * (n - 1) // 2 + 3 * n for n in sizes)


def minimality(
    subject: Subject,
    circuit: Circuit | Kept,
    prompts: Prompts,
    means: Means,
    *,
    parts: Sequence[str] | None = None,
    share: float = 0.3,
    method: Method = "replay",
    store: Store | None = None,
) -> Minimality:
    """For each head v of a circuit, take away the heads K(v) that stand in for it, and see what v is worth then.

    Args:
        subject: the model.
        circuit: its groups, or a mapping of places to heads, which keep their output; all others are at their means.
        prompts: n prompts of the split "pruning"; take others to evaluate what is left.
        means: what stands in place of a head that is taken away.
        parts: the groups (or places) whose heads are examined; all unless given.
        share: of a part, how many of its heads may stand in for one of them at most, from 0 to 1.
        method: "replay", or "definition": the same numbers from whole runs.
        store: keeps what is finished.

    Each part is handled against the full circuit. The stand-ins of v are those other heads u of its part once without
    which v is missed most: F(C without u) - F(C without u, v), positive ones only. Both heads of a pair are always
    removed and a count of zero is a count (B7). `minimality_cost` says how many circuits this evaluates. Raises
    `ValueError` for a part that the circuit does not have. Paper: section 4.1 and its appendix.

        from entity_circuits import ablation, criteria, toy
        from entity_circuits.heads import Head

        subject, p = toy.subject(), toy.prompts("apple", "cup")
        means = ablation.means(subject, prompts=p)
        circuit = {"prev": [Head(0, 0)], "query": [Head(1, 0)], "last": [Head(2, 0), Head(2, 1)]}
        print(criteria.minimality(subject, circuit, p, means).table())
    """
    executor(method)
    finite("share", share, 0, 1)
    circuit = _once(circuit)
    parts = None if parts is None else several("parts", parts)
    everything = _parts(circuit)
    if unknown := [label for label in parts or () if label not in everything]:
        raise ValueError(f"no part called {unknown[0]!r}: this circuit has {', '.join(everything)}")
    examined = {label: everything[label] for label in (everything if parts is None else parts)}

    def evaluate(removed: Sequence[tuple[str, Sequence[Head]]], name: str) -> Answers:
        left = [without(circuit, {place: gone}) for place, gone in removed]
        return circuit_accuracy(subject, left, prompts, means, method=method, store=store, name=name)

    singles = [(label, (i, j)) for label, (_, some) in examined.items() for i in range(len(some)) for j in range(i + 1)]
    asked = [(examined[label][0], tuple({examined[label][1][i] for i in both})) for label, both in singles]
    first = evaluate([("last", ()), *asked], f"pairs (of {minimality_cost(circuit, parts)} circuits at most)")
    pairs = {label: torch.zeros(len(some), len(some), dtype=torch.long) for label, (_, some) in examined.items()}
    for (label, (i, j)), right in zip(singles, first.correct[1:].sum(1), strict=True):
        pairs[label][i, j] = pairs[label][j, i] = right
    stand_ins = {label: tuple(_stand_ins(pairs[label], some, share)) for label, (_, some) in examined.items()}
    wanted = [(place, gone) for label, (place, _) in examined.items() for gone in stand_ins[label]]
    wanted += [
        (place, (*gone, head))
        for label, (place, some) in examined.items()
        for head, gone in zip(some, stand_ins[label], strict=True)
    ]
    second = evaluate(wanted, "heads without their stand-ins")
    ends = np.cumsum([0, *(len(some) for _, some in examined.values())])
    slices = {label: slice(ends[i], ends[i + 1]) for i, label in enumerate(examined)}
    return Minimality(
        {label: place for label, (place, _) in examined.items()},
        {label: some for label, (_, some) in examined.items()},
        pairs,
        stand_ins,
        {label: second.rows(rows) for label, rows in slices.items()},
        {label: second.rows(slice(rows.start + ends[-1], rows.stop + ends[-1])) for label, rows in slices.items()},
        first.rows([0]),
    )


def _stand_ins(pairs: Tensor, members: Sequence[Head], share: float) -> list[tuple[Head, ...]]:
    """K(v) for every v: the others with the largest positive F(C without u) - F(C without u, v)."""
    found = []
    for v in range(len(members)):
        loss = {u: int(pairs[u, u] - pairs[u, v]) for u in range(len(members)) if u != v}
        ranked = sorted((u for u in loss if loss[u] > 0), key=lambda u: -loss[u])
        found.append(tuple(members[u] for u in ranked[: math.ceil(share * len(members))]))
    return found

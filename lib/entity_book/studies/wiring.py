"""Does a training keep the heads of a circuit and change the edges between them? Maps of both, and how far they agree.

No map agrees with another better than with itself on other contexts. So the correlation of two models is taken across
halves of the contexts, and divided by what each model has with itself across them: 1 where they differ by noise alone.
`data/edges/README.md` has the protocol, written down before anything was run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from entity_circuits import circuits, models, places, statistics, sums
from entity_circuits.arguments import integer
from entity_circuits.circuits import Finding
from entity_circuits.heads import LETTERS, Group, Head
from entity_circuits.methods import edges, path_patching
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.statistics import spoken
from entity_circuits.tasks import boxes
from entity_circuits.tasks.prompts import Prompts
from entity_circuits.tasks.rounds import Round
from safetensors.torch import save
from torch import Tensor

BASE, TUNED = "qwen2.5-coder-0.5b", "code"
"""The models whose rankings say which heads are asked about."""

TOP, CONTEXTS, SEED = 12, 35, 2
HALVINGS, RESAMPLES = 20, 400
KINDS = ("nodes", "edges")
KEPT = 0.9
"""The agreement above which edges count as kept."""

Heads = Mapping[Group, Sequence[Head]]


@dataclass(frozen=True, eq=False)
class Wiring:
    """What nodes and edges do in one model, prompt by prompt: changes of log p, by the group that sends.

    `nodes` (senders that have a path, n), `edges` (pairs that have one, n); `pairs`, their names; `contexts` (n,).
    """

    nodes: Mapping[Group, Tensor]
    edges: Mapping[Group, Tensor]
    pairs: Mapping[Group, tuple[str, ...]]
    contexts: Tensor


def sending() -> tuple[Round, ...]:
    """The rounds of the task that send to other heads.

    print([one.name for one in wiring.sending()])
    """
    return tuple(one for one in boxes.ROUNDS if one.into is not None)


def heads(one: Finding, other: Finding, top: int = TOP) -> dict[Group, tuple[Head, ...]]:
    """Of each group the heads that rank first in either of two circuits.

    print(wiring.heads(circuits.load("qwen2.5-coder-0.5b"), circuits.load("code")))
    """
    top = integer("top", top)
    ranked = [found.rankings() for found in (one, other)]
    return {group: tuple(sorted({head for each in ranked for head in each[group][:top]})) for group in ranked[0]}


def prompts(subject: Subject, contexts: int = CONTEXTS) -> tuple[Prompts, Prompts]:
    """Base and source prompts: two in each of so many contexts, others than those the circuits were found on.

    base, source = wiring.prompts(models.load("qwen2.5-coder-0.5b"), contexts=4)
    """
    size = 7
    drawn = boxes.experiment(subject, n=integer("contexts", contexts) * size, seed=SEED)
    rows = [i for i in range(len(drawn.base)) if (i % size - i // size) % size in (0, 3)]
    return drawn.base.select(rows), drawn.source.select(rows)


def measure(subject: Subject, asked: Heads, contexts: int = CONTEXTS, *, store: Store | None = None) -> Wiring:
    """Every node and edge of a model among the heads that are asked about.

    found = wiring.measure(models.load("code"), {"value_fetcher": [...], ...}, contexts=4)
    """
    base, source = prompts(subject, contexts)
    nodes, found, pairs = {}, {}, {}
    for one in sending():
        senders, receivers = (tuple(asked[group]) for group in (one.name, str(one.into)))
        how = {**_path(one), "senders": senders, "receivers": receivers, "store": store}
        scores = path_patching.sweep(subject, base, source, **how)
        changes = torch.stack([scores.change[head.layer, head.head] for head in senders])
        nodes[one.name] = changes[~changes.isnan().any(1)]
        swept = edges.sweep(subject, base, source, **how)
        there = [(s, r) for s in range(len(senders)) for r in range(len(receivers)) if swept.scores.examples[s, r]]
        found[one.name] = torch.stack([swept.change[pair] for pair in there])
        pairs[one.name] = tuple(f"{senders[s]} -> {receivers[r]}" for s, r in there)
    return Wiring(nodes, found, pairs, base.contexts)


def _path(one: Round) -> dict[str, Any]:
    """Where the heads of a round send from, through what they are heard, and at which later token."""
    return {"position": one.position, "composition": one.through, "reach": one.heard_at or "all"}


def agreement(one: Wiring, other: Wiring, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """How far two models agree in nodes and in edges, beyond what noise takes away: a row a round, and their `mean`.

    Columns `round`; `nodes`, `edges` and `difference` (nodes minus edges), each with `_low` and `_high`; `own_nodes`
    and `own_edges`, the mean correlation of a model with itself across halves; `n_nodes`, `n_edges`, `contexts`.

        base, tuned = (wiring.kept(name) for name in (wiring.BASE, wiring.TUNED))
        print(wiring.agreement(base, tuned, resamples=50))

    Raises `ValueError` for maps of other heads or prompts.
    """
    if one.pairs != other.pairs or not torch.equal(one.contexts, other.contexts):
        raise ValueError("the maps of the two models are of other heads, or of other prompts")
    draw, ids = np.random.default_rng(seed), one.contexts.unique()
    place = (one.contexts[:, None] == ids).double().numpy()
    every = [np.ones(len(ids)), *draw.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), resamples)]
    told = []
    for counts in every:
        halves = _halves(counts, draw)
        told.append([_agreements(one, other, halves @ place.T, kind) for kind in KINDS])
    values = np.array(told)  # (1 + resamples, kinds, groups, [agreement, own])
    names = [f"{LETTERS[group]} to {LETTERS[str(into)]}" for group, into in ((x.name, x.into) for x in sending())]
    shared = np.concatenate([values[..., 0], values[..., 0].mean(-1, keepdims=True)], -1)
    own = np.append(values[0, :, :, 1], values[0, :, :, 1].mean(1, keepdims=True), 1)
    lines = []
    for column, name in enumerate([*names, "mean"]):
        nodes, of_edges = shared[:, 0, column], shared[:, 1, column]
        cells: dict[str, Any] = {"round": name}
        for label, drawn in (("nodes", nodes), ("edges", of_edges), ("difference", nodes - of_edges)):
            low, high = np.nanquantile(drawn[1:], [0.025, 0.975])
            cells |= {label: drawn[0], f"{label}_low": low, f"{label}_high": high}
        cells |= {f"own_{kind}": own[index, column] for index, kind in enumerate(KINDS)}
        counted = {kind: [len(x) for x in getattr(one, kind).values()] for kind in KINDS}
        cells |= {f"n_{kind}": sum(sizes) if name == "mean" else sizes[column] for kind, sizes in counted.items()}
        lines.append({**cells, "contexts": len(ids)})
    return pd.DataFrame(lines)


def _halves(counts: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(2, halvings, contexts): how often each context counts in either half; none counts in both."""
    drawn, halves = np.flatnonzero(counts), np.zeros((2, HALVINGS, len(counts)))
    for index in range(HALVINGS):
        order = draw.permutation(drawn)
        for half, some in enumerate(np.array_split(order, 2)):
            halves[half, index, some] = counts[some]
    return halves


def _agreements(one: Wiring, other: Wiring, weights: np.ndarray, kind: str) -> list[tuple[float, float]]:
    """For each round, the agreement of two models and what they have with themselves; `weights` (2, halvings, n)."""
    found = []
    for group in getattr(one, kind):
        first, second = (_maps(getattr(model, kind)[group], weights) for model in (one, other))
        itself = [float(_correlations(*model).mean()) for model in (first, second)]
        across = [float(_correlations(a, b).mean()) for a, b in ((first[0], second[1]), (second[0], first[1]))]
        scale = np.sqrt(itself[0] * itself[1]) if min(itself) > 0 else np.nan
        found.append((float(np.mean(across) / scale), float(np.mean(itself))))
    return found


def _maps(change: Tensor, weights: np.ndarray) -> np.ndarray:
    """(2, halvings, rows): the mean change of each row in each half."""
    return (weights @ change.double().numpy().T) / weights.sum(-1, keepdims=True)


def _correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(halvings,): Pearson's, of rows."""
    one, other = (x - x.mean(-1, keepdims=True) for x in (one, other))
    return (one * other).sum(-1) / np.sqrt((one**2).sum(-1) * (other**2).sum(-1))


def verdict(row: Mapping[Any, Any]) -> str:
    """What the protocol's rule makes of the `mean` row of `agreement`: edges kept, not kept or open; and beside nodes.

    print(wiring.verdict(wiring.agreement(base, tuned).iloc[-1]))
    """
    low, high = row["edges_low"], row["edges_high"]
    told = "are kept" if low > KEPT else "are not kept" if high < KEPT else "may be kept or not"
    more = "surely" if row["difference_low"] > 0 else "not surely"
    return f"by the rule its edges {told} (above {KEPT}), and differ {more} more than its nodes"


def agreements(base: Wiring | None, others: Mapping[str, Wiring]) -> pd.DataFrame:
    """The rows of `agreement` of a base model with each of the others, and `model`, whose they are.

    print(wiring.agreements(wiring.kept(wiring.BASE), wiring.tuned(wiring.BASE)))
    """
    tables = [] if base is None else [agreement(base, one).assign(model=name) for name, one in others.items()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"model": [], "round": []})


def words(table: pd.DataFrame) -> str:
    """What `agreements` say, a clause a model with its verdict.

    print(wiring.words(wiring.agreements(wiring.kept(wiring.BASE), wiring.tuned(wiring.BASE))))
    """
    told = []
    for row in table[table["round"] == "mean"].to_dict("records"):
        said = {name: spoken(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in (*KINDS, "difference")}
        told.append(
            f"{row['model']}: nodes {said['nodes']}, edges {said['edges']}, nodes minus edges {said['difference']}: "
            f"{verdict(row)}"
        )
    return "; ".join(told) or "not measured for this model"


def again(subject: Subject, found: Wiring, contexts: int = 4, *, store: Store | None = None) -> pd.DataFrame:
    """The strongest edge of each round, measured now on the first contexts, beside what is kept of these prompts.

    Columns `edge`, `kept` and `now`, mean changes of log p, and `apart`, the largest difference on a prompt.

        subject = models.load(wiring.BASE)
        print(wiring.again(subject, wiring.kept(wiring.BASE), contexts=2))
    """
    base, source = prompts(subject, contexts)
    lines = []
    for one in sending():
        sender, receiver = strongest(found, one.name, 1)[0]
        how: dict[str, Any] = {"position": one.position, "composition": one.through, "reach": one.heard_at or "all"}
        now = edges.sweep(subject, base, source, senders=[sender], receivers=[receiver], store=store, **how).change[
            0, 0
        ]
        row = found.pairs[one.name].index(f"{sender} -> {receiver}")
        before = found.edges[one.name][row, : len(now)]
        means = {"kept": float(before.mean()), "now": float(now.mean()), "apart": float((before - now).abs().max())}
        lines.append({"edge": f"{sender} -> {receiver}", **means, "n": len(now)})
    return pd.DataFrame(lines)


def strongest(found: Wiring, group: Group, top: int = 3) -> list[tuple[str, str]]:
    """The pairs whose edges lower log p most: sender and receiver.

    print(wiring.strongest(wiring.kept("code"), "position_transmitter"))
    """
    order = found.edges[group].mean(-1).argsort()[: integer("top", top)]
    named = [found.pairs[group][index].partition(" -> ") for index in order]
    return [(sender, receiver) for sender, _, receiver in named]


def beside(one: Wiring, other: Wiring, top: int = TOP, names: tuple[str, str] = ("one", "other")) -> pd.DataFrame:
    """The strongest edges of two models: a row an edge, of all rounds, that is among the `top` largest of either.

    Columns `round`, `edge`; under the two `names` the mean changes of log p, each with `_low` and `_high`, over
    contexts, and its `_rank` by size; `n`, the prompts. An edge that is shown for its size in one model is somewhat too
    large there: the same prompts chose it.

        print(wiring.beside(wiring.kept(wiring.BASE), wiring.kept(wiring.TUNED)))
    """
    top, cells = integer("top", top), dict[str, Any]()
    into = {each.name: f"{LETTERS[each.name]} to {LETTERS[str(each.into)]}" for each in sending()}
    for name, model in zip(names, (one, other), strict=True):
        found = statistics.intervals(torch.cat([*model.edges.values()]), model.contexts)
        rank = np.abs(found.value).argsort()[::-1].argsort() + 1
        ends = {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        cells |= {**ends, f"{name}_rank": rank, "n": found.n}
    named = [(into[group], pair) for group, pairs in one.pairs.items() for pair in pairs]
    table = pd.DataFrame(named, columns=["round", "edge"]).assign(**cells)
    ranks = [f"{name}_rank" for name in names]
    return table[table[ranks].min(axis=1) <= top].sort_values(ranks, ignore_index=True)


def shared(one: Wiring, other: Wiring, top: int = TOP, seed: int = 0) -> tuple[float, float]:
    """How many of its `top` largest edges on half of the contexts a model shares with another on the other half, and,
    at most, with itself: the mean over halvings and over both models.

    print(wiring.shared(wiring.kept(wiring.BASE), wiring.kept(wiring.TUNED)))
    """
    ids, top = one.contexts.unique(), integer("top", top)
    halves = _halves(np.ones(len(ids)), np.random.default_rng(seed))
    weights = halves @ (one.contexts[:, None] == ids).double().numpy().T
    first, second = (np.abs(_maps(torch.cat([*model.edges.values()]), weights)) for model in (one, other))
    largest = [maps >= np.sort(maps)[..., -top, None] for maps in (first, second)]

    def common(a: np.ndarray, b: np.ndarray) -> float:
        return float((a & b).sum(-1).mean())

    (a, b), (c, d) = largest
    return (common(a, d) + common(c, b)) / 2, (common(a, b) + common(c, d)) / 2


def keep(found: Wiring, path: Path, subject: Subject, *, command: str) -> None:
    """Write a model's maps to a safetensors file, whole or not at all, with the model and the command."""
    tensors = {"contexts": found.contexts.int()}
    tensors |= {f"{kind} {g}": x.half().contiguous() for kind in KINDS for g, x in getattr(found, kind).items()}
    about = {"pairs": found.pairs, "fingerprint": subject.fingerprint, "model": subject.name, "command": command}
    sums.write(path, save(tensors, {name: json.dumps(value) for name, value in about.items()}))


def kept(name: str, fingerprint: str | None = None) -> Wiring | None:
    """The kept maps of a model; None if there are none, or of other weights than those with this fingerprint."""
    path = folder() / f"{name}.safetensors"
    if not path.exists():
        return None
    about, tensors = sums.tensors(path)
    if fingerprint not in (None, about["fingerprint"]):
        return None
    maps = {kind: {g: tensors[f"{kind} {g}"].float() for g in about["pairs"]} for kind in KINDS}
    pairs = {group: tuple(some) for group, some in about["pairs"].items()}
    return Wiring(maps["nodes"], maps["edges"], pairs, tensors["contexts"].long())


def tuned(base: str) -> dict[str, Wiring]:
    """The kept maps of the fine-tuned models on this base, by name.

    print(list(wiring.tuned(wiring.BASE)))
    """
    known = models.registry()
    names = sorted(path.stem for path in folder().glob("*.safetensors"))
    found = {name: kept(name) for name in names if name in known and known[name].base == base}
    return {name: one for name, one in found.items() if one is not None}


def folder() -> Path:
    """Where the maps are kept, one file a model."""
    return places.ROOT / "data" / "edges"


def run(name: str, store: Store) -> tuple[Wiring, Subject]:
    """Measure a model of the registry by the protocol, with the heads of `BASE` and `TUNED`.

    found, subject = wiring.run("code", results.Store())
    """
    asked = heads(circuits.load(BASE), circuits.load(TUNED))
    subject = models.load(name)
    return measure(subject, asked, store=store), subject

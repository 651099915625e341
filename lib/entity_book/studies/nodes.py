"""The circuit that is there: heads at places that answer as the whole model does, and whether they carry over.

`data/nodes/README.md` is the protocol; the numbers of this file are its own. A model takes minutes, so
what it answered is kept, prompt by prompt; `node_answers` reads it and `node_tables` makes tables of it.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from entity_circuits import models
from entity_circuits.circuits import criteria, curve, nodes
from entity_circuits.circuits.nodes import Order
from entity_circuits.heads import Head, every, of
from entity_circuits.methods import ablation, chosen
from entity_circuits.methods.ablation import Answers
from entity_circuits.methods.chosen import Said
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.runs.mean_replay import Means
from entity_circuits.tasks import boxes
from entity_circuits.tasks.boxes import Prompts

PLACES = ("last", "query+1", "query", "prev+1", "prev", "object")
"""Where nodes are."""

SUSPECTS = of(["L15H10", "L15H6", "L19H6", "L23H2", "L23H12"])
"""Heads that path patching or cross-model patching had found to harm."""

SCANNED = 8
"""How many more heads are taken from the scan of all heads at `last`."""

DRAWS = 5
T = TypeVar("T")
RIGHT, AGREE = 0.9, 0.8
DROP = 1 / 3


@dataclass(frozen=True)
class Sizes:
    """How many contexts the protocol takes for what; tests take fewer."""

    means: int = 40
    pruning: int = 10
    evaluation: int = 14
    control: int = 7
    scan: int = 4


PROTOCOL = Sizes()


@dataclass(frozen=True, eq=False)
class Measured:
    """What one model answered.

    `answers` has what the whole model (first) and some circuits said, by task: "evaluation", and for the base model
    "label first", too. `asked` names each of its rows: `circuit` ("whole", "none", "own", "own curve", "base", ...),
    `ablation`, `size` and `draw`. `orders` are the orders of nodes that were found, and `sizes` how many of each
    are the circuit (None: not even all are enough). `heads` were ablated one by one at `last` in the whole model;
    `effects` are what it answered then, the first row untouched, and `scan` is the effect of every head on `pruning`.
    """

    asked: Mapping[str, tuple[Mapping[str, Any], ...]]
    answers: Mapping[str, Said]
    orders: Mapping[str, Order]
    sizes: Mapping[str, int | None]
    heads: tuple[Head, ...]
    effects: Answers | None
    scan: torch.Tensor | None = None

    def rows(self, task: str = "evaluation", **wanted: Any) -> Said:
        """The rows of the answers to a task whose names are these. Raises `ValueError` if there are none."""
        found = [i for i, row in enumerate(self.asked[task]) if all(row[name] == x for name, x in wanted.items())]
        if not found:
            raise ValueError(f"nothing was kept of {task} with {wanted}")
        return self.answers[task].rows(found)

    def has(self, task: str = "evaluation", **wanted: Any) -> bool:
        """Whether there are such rows."""
        rows = self.asked.get(task, ())
        return any(all(row[name] == x for name, x in wanted.items()) for row in rows)


def measure(
    subject: Subject,
    base: Measured | None = None,
    sizes: Sizes = PROTOCOL,
    *,
    controls: bool = False,
    store: Store | None = None,
) -> Measured:
    """Find the circuit of a model and measure it, by the protocol; for a fine-tuned model, that of its base beside it.

    Args:
        subject: the model.
        base: what was measured of its base model; None: this is one.
        sizes: how many contexts are taken for what.
        controls: for a base model, also zero and resample ablation, the circuit found on other prompts, and the task
            in which copying suffices.
        store: keeps what is finished.

    For example:

        print(nodes.measure(models.load("qwen2.5-coder-0.5b"), store=results.Store()).sizes)
    """
    if controls and base is not None:
        raise ValueError("the controls are those of a base model: leave them out for a fine-tuned one")
    drawn = boxes.for_means(subject, n=sizes.means)
    means = ablation.means(subject, prompts=drawn, store=store)
    pruning = boxes.prompts(subject, 7 * sizes.pruning, split="pruning")
    own = nodes.find(subject, pruning, means, PLACES, drop=DROP, store=store)
    enough = {"own": nodes.fewest(subject, own, pruning, means, right=RIGHT, agree=AGREE, store=store)}
    orders = {"own": own}
    p = boxes.prompts(subject, 7 * sizes.evaluation, split="evaluation")
    fillers: dict[str, Means | list[Means]] = {"mean": means}
    circuits: list[tuple[dict[str, Any], dict[str, tuple[Head, ...]]]] = [
        *_curve(own),
        *_circuit("own", own, enough["own"]),
    ]
    if controls:
        fillers |= {"zero": chosen.zeros(means), "resample": _resampled(subject, drawn, sizes.evaluation)}
        again = boxes.prompts(subject, 7 * sizes.pruning, seed=1, split="pruning")
        orders["again"] = nodes.find(subject, again, means, PLACES, drop=DROP, store=store)
        enough["again"] = nodes.fewest(subject, orders["again"], again, means, right=RIGHT, agree=AGREE, store=store)
        circuits += _circuit("again", orders["again"], enough["again"])
    first, size = (own, enough["own"]) if base is None else (base.orders["own"], base.sizes["own"])
    if base is not None:
        circuits += _circuit("base", first, size)
    circuits += _random(subject, first.circuit(size or len(own)))
    asked, said = _said(subject, circuits, p, fillers, store)
    few = pruning.select(range(7 * sizes.scan))
    heads, effects, scan = _harmful(subject, p, few, means, base, store)
    found = Measured({"evaluation": asked}, {"evaluation": said}, orders, enough, heads, effects, scan)
    return _label_first(found, subject, drawn, sizes, store) if controls else found


def untrained(subject: Subject, sizes: Sizes = PROTOCOL, *, store: Store | None = None) -> Measured:
    """The same search in a model of the same config with random weights: what the procedure finds where nothing is.

    For example:

        print(nodes.untrained(models.load("qwen2.5-coder-0.5b")).sizes)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = type(subject.model)(subject.model.config)
    blank = models.wrap(model.to(subject.dtype).to(subject.device), subject.tokenizer, name="untrained")
    means = ablation.means(blank, prompts=boxes.for_means(blank, n=sizes.means), store=store)
    pruning = boxes.prompts(blank, 7 * sizes.pruning, split="pruning")
    own = nodes.find(blank, pruning, means, PLACES, drop=DROP, store=store)
    enough = {"own": nodes.fewest(blank, own, pruning, means, right=RIGHT, agree=AGREE, store=store)}
    p = boxes.prompts(blank, 7 * sizes.control, split="evaluation")
    circuits = [*_curve(own), *_circuit("own", own, enough["own"])]
    if enough["own"]:
        circuits += _random(blank, own.circuit(enough["own"]))
    asked, said = _said(blank, circuits, p, {"mean": means}, store)
    return Measured({"evaluation": asked}, {"evaluation": said}, {"own": own}, enough, (), None)


def _label_first(found: Measured, subject: Subject, drawn: Prompts, sizes: Sizes, store: Store | None) -> Measured:
    """The same with the task in which copying suffices: the circuit as it is, and the one that is found there."""
    means = ablation.means(subject, prompts=written(subject, drawn, "label_first"), store=store)
    pruning = boxes.prompts(subject, 7 * sizes.pruning, split="pruning", template="label_first")
    order = nodes.find(subject, pruning, means, PLACES, drop=DROP, store=store)
    size = nodes.fewest(subject, order, pruning, means, right=RIGHT, agree=AGREE, store=store)
    p = boxes.prompts(subject, 7 * sizes.control, split="evaluation", template="label_first")
    own = found.orders["own"]
    circuits = [
        *_circuit("own", own, found.sizes["own"]),
        *_circuit("label first", order, size),
        *_random(subject, own.circuit(found.sizes["own"] or len(own))),
    ]
    asked, said = _said(subject, circuits, p, {"mean": means}, store)
    return replace(
        found,
        asked={**found.asked, "label first": asked},
        answers={**found.answers, "label first": said},
        orders={**found.orders, "label first": order},
        sizes={**found.sizes, "label first": size},
    )


def written(subject: Subject, prompts: Prompts, template: str) -> Prompts:
    """The same worlds and questions in another form of words.

    print(nodes.written(subject, boxes.for_means(subject, n=7), "label_first").texts[0])
    """
    return boxes.from_worlds(subject, prompts.worlds, prompts.queries, asked=prompts.asked, template=template)


def _curve(order: Order) -> list[tuple[dict[str, Any], dict[str, tuple[Head, ...]]]]:
    """A circuit of each size of the curve."""
    sizes = curve.sized(curve.SIZES, len(order))
    return [({"circuit": "own curve", "size": size, "draw": None}, order.circuit(size)) for size in sizes]


def _circuit(name: str, order: Order, size: int | None) -> list[tuple[dict[str, Any], dict[str, tuple[Head, ...]]]]:
    """The circuit of an order; nothing where none is enough."""
    return [] if size is None else [({"circuit": name, "size": size, "draw": None}, order.circuit(size))]


def _random(
    subject: Subject, circuit: Mapping[str, Sequence[Head]]
) -> list[tuple[dict[str, Any], dict[str, tuple[Head, ...]]]]:
    """As many random nodes at each place."""
    size = ablation.size(circuit)
    drawn = criteria.random_circuits(subject, circuit, DRAWS)
    return [({"circuit": "random", "size": size, "draw": draw}, one) for draw, one in enumerate(drawn)]


def _resampled(subject: Subject, drawn: Prompts, contexts: int) -> list[Means]:
    """For each context the outputs of one prompt of the split "means", another one each."""
    return [ablation.means(subject, prompts=drawn.select([row % len(drawn)])) for row in range(contexts)]


def _said(
    subject: Subject,
    circuits: Sequence[tuple[dict[str, Any], dict[str, tuple[Head, ...]]]],
    prompts: Prompts,
    fillers: Mapping[str, Means | list[Means]],
    store: Store | None,
) -> tuple[tuple[Mapping[str, Any], ...], Said]:
    """The whole model, then under each ablation nothing and the circuits; all but its own under the first alone."""
    whole = chosen.whole(subject, prompts, store=store)
    names: list[dict[str, Any]] = [{"circuit": "whole", "size": None, "draw": None, "ablation": None}]
    parts = [whole]
    for kind, means in fillers.items():
        some = [one for one in circuits if kind == "mean" or one[0]["circuit"] in ("own", "own curve")]
        some = [({"circuit": "none", "size": 0, "draw": None}, {}), *some]
        for _, part in itertools.groupby(some, key=lambda one: one[0]["circuit"]):
            for few in _few([one for _, one in part], 5):  # each is kept by itself
                parts.append(chosen.circuits(subject, few, prompts, means, store=store))
        names += [{**about, "ablation": kind} for about, _ in some]
    joined = replace(
        whole,
        logprobs=torch.cat([part.logprobs for part in parts]),
        top=torch.cat([part.top for part in parts]),
    )
    return tuple(names), joined


def _harmful(
    subject: Subject, p: Prompts, pruning: Prompts, means: Means, base: Measured | None, store: Store | None
) -> tuple[tuple[Head, ...], Answers, torch.Tensor | None]:
    """The named heads and those that the scan of the base finds, ablated one by one at `last` in the whole model."""
    scan, heads = None, () if base is None else base.heads
    if base is None:
        scan = alone(subject, every(subject.layers, subject.heads), pruning, means, store=store).logprob
        change = (scan[1:] - scan[:1]).double().mean(1)
        best = change.argsort(descending=True, stable=True).tolist()
        named = [head for head in SUSPECTS if head.layer < subject.layers and head.head < subject.heads]
        others = [head for head in (Head(*divmod(index, subject.heads)) for index in best) if head not in named]
        heads, scan = (*named, *others[:SCANNED]), change.view(subject.layers, subject.heads)
    return heads, alone(subject, heads, p, means, store=store), scan


def alone(
    subject: Subject, heads: Sequence[Head], prompts: Prompts, means: Means, *, store: Store | None = None
) -> Answers:
    """The whole model, and the model without each head at `last`: log p(right among the choices), a row each.

    print(nodes.alone(subject, [Head(3, 5)], p, means).logprob.diff(dim=0).mean())
    """
    removed: list[dict[str, tuple[Head, ...]]] = [{"last": some} for some in [(), *((head,) for head in heads)]]
    parts = [
        ablation.full_without(subject, some, prompts, means, metric="choice", store=store)
        for some in _few(removed, 48)  # each is kept by itself
    ]
    return Answers.joined(parts)


def _few(some: list[T], size: int) -> Iterator[list[T]]:
    """A list in parts of at most this size."""
    return (some[start : start + size] for start in range(0, len(some), size))

"""Every method of the engine once, on a tiny model: what it is tried on, and the numbers that it gives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from entity_circuits import (
    ablation,
    boxes,
    cmap,
    dcm,
    desiderata,
    edges,
    interchange,
    knockout,
    models,
    path_patching,
    replay,
    results,
    runs,
)
from entity_circuits.circuits import nodes
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import chosen
from entity_circuits.runs import answers
from torch import Tensor

CIRCUIT = Circuit(
    {
        "value_fetcher": (Head(3, 0), Head(2, 1)),
        "position_transmitter": (Head(2, 2),),
        "position_detector": (Head(1, 3),),
        "structure_reader": (Head(0, 4),),
    },
    {},
)


@dataclass
class Given:
    """What every method is tried on."""

    subject: models.Subject
    other: models.Subject

    def __post_init__(self) -> None:
        self.base = boxes.prompts(self.subject, 6, boxes=3)
        self.source = boxes.noise(self.subject, self.base)
        self.means = ablation.means(self.subject, n=4, boxes=3)


def learnt(given: Given, method: Any) -> Tensor:
    t, v = (desiderata.triples(given.subject, "object", n=6, boxes=3, split=split) for split in ("training", "pruning"))
    found = dcm.learn(given.subject, None, t, v, position="last", penalty=0.01, steps=6, seed=1, method=method)
    return torch.cat((found.trace.flatten(), found.logit))


def interchanged(given: Given, method: Any) -> Tensor:
    triples = desiderata.triples(given.subject, "object", n=6, boxes=3)
    sets = {"one": [Head(2, 1)], "two": [Head(3, 0), Head(1, 2)]}
    table = interchange.patch(given.subject, sets, triples, position="last", method=method)
    return torch.tensor(table.select_dtypes("number").to_numpy())


def knocked_out(given: Given, method: Any) -> Tensor:
    found = knockout.sweep(given.subject, given.base, starts=[0, 2], method=method)
    return found.logprob


def swept(given: Given, method: Any, **asked: Any) -> Tensor:
    return path_patching.sweep(given.subject, given.base, given.source, **asked, method=method).change


def by_edges(given: Given, method: Any) -> Tensor:
    asked: dict[str, Any] = {"senders": ["L0H1", "L1H2"], "receivers": ["L2H0", "L3H1"], "position": "last"}
    return torch.stack(
        [
            edges.sweep(given.subject, given.base, given.source, **asked, composition=kind, method=method).scores.change
            for kind in ("q", "v")
        ]
    )


def patched(given: Given, method: Any) -> Tensor:
    conditions = [*cmap.groups(CIRCUIT), *cmap.inputs(CIRCUIT, sites=("q", "v")), *cmap.groups(CIRCUIT, into="tuned")]
    return cmap.sweep(given.subject, given.other, conditions, given.base, method=method).logprob


def resumed(given: Given, method: Any) -> Tensor:
    with TemporaryDirectory() as folder:
        for senders in ([Head(0, 1)], [Head(0, 1), Head(1, 1)]):  # the second finds what the first has kept
            found = swept(given, method, position="last", senders=senders, store=results.Store(Path(folder)))
    return found


def found_nodes(given: Given) -> Tensor:
    order = nodes.find(given.subject, given.base, given.means, ["last", "query"], drop=0.5)
    effects = nodes.effects(given.subject, given.base, given.means, ["last", "query"])
    fewest = nodes.fewest(given.subject, order, given.base, given.means, right=0.0, agree=0.0)
    return torch.cat((effects.flatten(), order.rank.flatten().float(), torch.tensor([float(fewest or 0)])))


METHODS: dict[str, Callable[..., Tensor]] = {
    "path patching to the answer": partial(swept, position="last"),
    "path patching to queries": partial(swept, position="last", receivers=[Head(2, 1), Head(3, 0)], composition="q"),
    "path patching to values": partial(
        swept, position="prev", receivers=[Head(1, 2), Head(3, 4)], composition="v", reach="query"
    ),
    "path patching resumed from a store": resumed,
    "edges": by_edges,
    "circuits": lambda g, m: ablation.circuit_accuracy(g.subject, CIRCUIT, g.base, g.means, method=m).logprob,
    "without": lambda g, m: (
        ablation.full_without(g.subject, [{"last": [Head(2, 1)]}], g.base, g.means, method=m).logprob
    ),
    "interchange": interchanged,
    "masks": learnt,
    "knockout": knocked_out,
    "cmap": patched,
}
WITHOUT_EXECUTOR: dict[str, Callable[..., Tensor]] = {
    "what the model answers": lambda g: answers.evaluate(g.subject, g.base).answer_logprob,
    "screening": lambda g: path_patching.screen(
        runs.record(g.subject, g.base), runs.record(g.subject, g.source), position="last"
    ),
    "screening of receivers": lambda g: path_patching.screen(
        *(runs.record(g.subject, p) for p in (g.base, g.source)),
        position="last",
        receivers=[Head(2, 1), Head(3, 0)],
        composition="q",
    ),
    "attention": lambda g: replay.attention(runs.record(g.subject, g.base), Head(1, 2), g.base.query).cpu(),
    "nodes": found_nodes,
    "choices": lambda g: chosen.circuits(g.subject, [CIRCUIT], g.base, g.means).logprobs,
    "shared contexts": lambda g: runs.record(g.subject, g.base, share_context=True).span("z", 3).cpu(),
}

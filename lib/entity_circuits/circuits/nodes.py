"""Which (head, place) nodes does the model need to answer as it does? All of them ranked, by leaving out ever more.

Nodes are at named places of the prompts; a circuit keeps some of them, and every other head is at its mean, at every
token. The effect of a node is estimated by a gradient: what the log-probability, among the prompt's choices, of the one
that *the whole model* chooses would lose without it, to first order. So the right answer plays no part, and a node that
serves a mistake of the model is as good as any.

`find` begins with all nodes and leaves out those of the least effect, a share at a time; what is left is estimated anew
each time. One order of all nodes comes of it, and nested circuits of every size. `fewest` takes the smallest that is
faithful enough on the prompts at hand. Judge it on others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import results, values
from ..arguments import finite, integer, of_kind, several
from ..heads import Head
from ..methods import chosen
from ..methods import kept as places_
from ..methods.kept import Kept
from ..models.subject import Subject
from ..results import Store
from ..runs import choices, mean_replay
from ..runs.mean_replay import Means, Table
from ..tasks.prompts import Prompts

Node = tuple[str, Head]


@dataclass(frozen=True, eq=False)
class Order:
    """All nodes of a model in the order in which they are needed.

    `rank` (layers, places, heads) int64: 0 is the node that was left to the end. `path` (steps,) are the sizes of the
    circuits on the way down, the largest first, and `right` and `agree` (steps, n) bool what these said on the prompts
    that they were found on: the right choice, and the choice of the whole model.
    """

    places: tuple[str, ...]
    rank: Tensor
    path: tuple[int, ...]
    right: Tensor
    agree: Tensor

    def __len__(self) -> int:
        return self.rank.numel()

    @property
    def nodes(self) -> list[Node]:
        """All of them, the most needed first."""
        shape = tuple(self.rank.shape)
        where = (np.unravel_index(index, shape) for index in self.rank.flatten().argsort().tolist())
        return [(self.places[int(place)], Head(int(layer), int(head))) for layer, place, head in where]

    def circuit(self, size: int) -> dict[str, tuple[Head, ...]]:
        """The `size` most needed nodes, as heads by place."""
        return by_place(self.nodes[: integer("size", size, 0, len(self))])


def by_place(nodes: Sequence[Node]) -> dict[str, tuple[Head, ...]]:
    """Nodes as heads by place, the form of circuits for ablation. Raises `ValueError` for a node twice.

    For example:

        from entity_circuits.circuits import nodes
        from entity_circuits.heads import Head

        print(nodes.by_place([("last", Head(3, 5)), ("query", Head(1, 0))]))
    """
    nodes = several("nodes", nodes, least=0)
    if len(set(nodes)) < len(nodes):
        raise ValueError("a node stands there twice")
    found: dict[str, list[Head]] = {}
    for place, head in nodes:
        found.setdefault(place, []).append(head)
    return {place: tuple(sorted(heads)) for place, heads in found.items()}


def shared(one: Kept, other: Kept) -> dict[str, int]:
    """How many nodes each of two circuits has, and how many both.

    For example:

        from entity_circuits.circuits import nodes

        print(nodes.shared({"last": ["L3H5", "L2H1"]}, {"last": ["L3H5"]}))
    """
    first, second = (
        {(place, str(head)) for place, heads in circuit.items() for head in heads} for circuit in (one, other)
    )
    return {"one": len(first), "other": len(second), "shared": len(first & second)}


def effects(
    subject: Subject, prompts: Prompts, means: Means, places: Sequence[str], *, keep: Tensor | None = None
) -> Tensor:
    """(layers, places, heads): what the whole model's choice would lose in log-probability without each node.

    Args:
        subject: the model.
        prompts: n prompts with choices, of the length of those of the means.
        means: what stands in place of heads that are not kept.
        places: names of single tokens of the prompts.
        keep: (layers, places, heads) bool: the circuit in which the nodes are left out; all nodes unless given.

    To first order: the gradient with respect to how far each node is kept, between its mean (0) and its own output
    (1), at the circuit; averaged over the prompts. Of nodes that are not kept it says what keeping them would bring.
    Raises `ValueError` as `find` does, and for another `keep`.

        from entity_circuits import ablation, models, tasks
        from entity_circuits.circuits import nodes

        subject = models.load("qwen2.5-coder-0.5b")
        p, means = tasks.default.prompts(subject, n=7), ablation.means(subject, n=20)
        print(nodes.effects(subject, p, means, ["last", "query"]).shape)
    """
    asked = _Asked(subject, prompts, means, places)
    if keep is not None:
        of_kind("keep", keep, Tensor)
        if (keep.shape, keep.dtype) != (asked.all.shape, torch.bool):
            raise ValueError(
                f"keep is one bool for each layer, place and head, {tuple(asked.all.shape)}, not {keep.dtype} of "
                f"shape {tuple(keep.shape)}"
            )
    return asked.effects(asked.all if keep is None else keep)[0]


def find(
    subject: Subject,
    prompts: Prompts,
    means: Means,
    places: Sequence[str],
    *,
    drop: float = 0.25,
    least: int = 8,
    batch: int = 49,
    store: Store | None = None,
) -> Order:
    """All nodes in the order in which they are needed: those of the least effect go first, a share at a time.

    Args:
        subject: the model.
        prompts: n prompts with choices, of the length of those of the means.
        means: what stands in place of heads that are not kept.
        places: names of single tokens of the prompts; with a head of the model, each is a node.
        drop: the share of the nodes left that goes at each step, inside of (0, 1).
        least: from so many nodes on, the last estimates make the order of the rest.
        batch: prompts whose gradients are held at a time.
        store: keeps the order, and each step on the way.

    Raises `ValueError` for prompts without choices, and for places that are not one token in each prompt, or two names
    of the same one.

        from entity_circuits import ablation, models, tasks
        from entity_circuits.circuits import nodes

        subject = models.load("qwen2.5-coder-0.5b")
        p, means = tasks.default.prompts(subject, n=7), ablation.means(subject, n=20)
        print(nodes.find(subject, p, means, ["last", "query"], drop=0.5).nodes[:3])
    """
    finite("drop", drop, 0, 1, inside=True)
    least = integer("least", least)
    asked = _Asked(subject, prompts, means, places, batch, store)
    about = {"prompts": prompts, "means": means.z, "places": asked.places, "drop": drop, "least": least}
    inputs = results.key(__name__, subject, batch=batch, **about)

    def compute() -> dict[str, Tensor]:
        rank, keep = torch.zeros(asked.all.shape, dtype=torch.long), asked.all.clone()
        path, right, agree = [], [], []
        with tqdm(desc="nodes left out", unit="step", disable=None, leave=False) as bar:
            while True:
                left = int(keep.sum())
                step = {**inputs, "step": int(left), "keep": values.digest(keep)}
                found = results.at(store).keep("nodes-step", step, lambda keep=keep: asked.step(keep))  # type: ignore[misc]
                path.append(left)
                right.append(found["right"])
                agree.append(found["agree"])
                inside = torch.nonzero(keep.flatten())[:, 0]
                order = inside[found["effect"].flatten()[inside].argsort(stable=True)]  # the least needed first
                gone = order if left <= least else order[: max(1, int(drop * left))]
                rank.view(-1)[gone] = left - 1 - torch.arange(len(gone))
                if left <= least:
                    return {
                        "rank": rank,
                        "path": torch.tensor(path),
                        "right": torch.stack(right),
                        "agree": torch.stack(agree),
                    }
                keep = keep.clone()
                keep.view(-1)[gone] = False
                bar.update(1)

    found = results.at(store).keep("nodes", inputs, compute)
    return Order(asked.places, found["rank"], tuple(found["path"].tolist()), found["right"], found["agree"])


def fewest(
    subject: Subject,
    order: Order,
    prompts: Prompts,
    means: Means,
    *,
    right: float = 0.9,
    agree: float = 0.8,
    store: Store | None = None,
) -> int | None:
    """The size of the smallest circuit along an order that is right nearly as often as the whole model and agrees.

    Args:
        subject: the model.
        order: of `find`.
        prompts: those that it was found on.
        means: likewise.
        right: how often it is right among the choices, as a share of how often the whole model is.
        agree: on which share of the prompts it makes the choice of the whole model.
        store: keeps what is said on the way.

    The smallest on the path down which, with all larger ones on it, is good enough; then, by bisection, the smallest
    between it and the next. None if not even all nodes together are.

        from entity_circuits import ablation, models, tasks
        from entity_circuits.circuits import nodes

        subject = models.load("qwen2.5-coder-0.5b")
        p, means = tasks.default.prompts(subject, n=7), ablation.means(subject, n=20)
        order = nodes.find(subject, p, means, ["last", "query"], drop=0.5)
        print(nodes.fewest(subject, order, p, means))
    """
    finite("right", right, 0)
    finite("agree", agree, 0, 1)
    of_kind("order", order, Order)
    whole = chosen.whole(subject, prompts, store=store)
    wanted = right * float(whole.right.double().mean())

    def enough(is_right: Tensor, agrees: Tensor) -> bool:
        return float(is_right.double().mean()) >= wanted and float(agrees.double().mean()) >= agree

    good = None
    for size, is_right, agrees in zip(order.path, order.right, order.agree, strict=True):
        if not enough(is_right, agrees):
            break
        good = size
    if good is None:
        return None
    low, high = max((size for size in order.path if size < good), default=0), good
    while high - low > 1:
        middle = (low + high) // 2
        said = chosen.circuits(subject, [order.circuit(middle)], prompts, means, store=store)
        enough_ = enough(said.right[0], said.agreement(whole)[0])
        low, high = (low, middle) if enough_ else (middle, high)
    return high


class _Asked:
    """What stays the same while nodes are left out: tokens of the places, the whole model's choices, tables of keys."""

    def __init__(
        self,
        subject: Subject,
        prompts: Prompts,
        means: Means,
        places: Sequence[str],
        batch: int = 49,
        store: Store | None = None,
    ) -> None:
        self.places = several("places", places)
        integer("batch", batch)
        places_.check(subject, prompts, [dict.fromkeys(self.places, ())], means)
        choices.require(prompts)
        if "last" not in self.places:
            raise ValueError("`last` has to be among the places: that is where the answer is read")
        self.slots = torch.stack([prompts.position(place) for place in self.places], dim=1)
        if any(len(set(row)) < len(row) for row in self.slots.tolist()):
            raise ValueError(f"two of the places {', '.join(self.places)} are one token in some of the prompts")
        self.subject, self.prompts, self.means, self.store = subject, prompts, means, store
        self.parts = torch.arange(len(prompts)).split(batch)
        self.all = torch.ones(subject.layers, len(self.places), subject.heads, dtype=torch.bool)
        self.whole: chosen.Said | None = None
        self.tables: list[Table] = []

    def effects(self, keep: Tensor) -> tuple[Tensor, Tensor]:
        """The effects in the circuit that keeps these nodes, and the (n, k) logits of the choices there."""
        if self.whole is None:
            self.whole = chosen.whole(self.subject, self.prompts, store=self.store)
            self.tables = [Table(self.subject, self.prompts.select(rows), self.means) for rows in self.parts]
        weight = keep.to(self.subject.dtype).to(self.subject.device).requires_grad_(True)
        said, total = [], torch.zeros(keep.shape, dtype=self.subject.dtype)
        for rows, table in zip(self.parts, self.tables, strict=True):
            part = self.prompts.select(rows)
            with torch.enable_grad():
                options = {"targets": part.choice_ids, "table": table}
                logits = mean_replay.weighted(
                    self.subject,
                    part,
                    self.slots[rows],
                    weight,
                    self.means,
                    **options,  # type: ignore[arg-type]
                )
                its = self.whole.chosen[0, rows].to(logits.device)
                picked = logits.log_softmax(-1).gather(1, its.clamp(min=0)[:, None])[:, 0]
                (gradient,) = torch.autograd.grad((picked * (its >= 0)).sum(), weight)
            total += gradient.cpu()
            said.append(logits.detach().cpu())
        return total / len(self.prompts), torch.cat(said)

    def step(self, keep: Tensor) -> dict[str, Tensor]:
        """The effects in a circuit, and what it says: whether it is right, and whether it agrees."""
        effect, logits = self.effects(keep)
        assert self.whole is not None
        said = chosen.Said(
            logits[None], torch.zeros(1, len(logits)), self.whole.choice_ids, self.whole.answer_ids, self.whole.contexts
        )
        return {"effect": effect, "right": said.right[0], "agree": said.agreement(self.whole)[0]}

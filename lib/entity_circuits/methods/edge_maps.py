"""A map of edges between heads: what each pair did, example by example; its table, and how far it repeats itself.

Two models, or one before and after it was trained, are compared by whether the same pairs matter in both. No two maps
agree better than one model's does with itself on other contexts: that is the ceiling of any such comparison.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..agreement import spearman
from ..arguments import integer, one_of
from ..heads import Head
from .scores import Scores, Statistic

Correlation = Literal["pearson", "spearman"]
"""Of the sizes of two maps, or of their ranks, in which the few strong pairs count no more than the many weak ones."""


@dataclass(frozen=True)
class Edges:
    """What the direct edge of each pair does to the metric, example by example.

    `scores` has `senders` where those of path patching have layers and `receivers` where they have heads: its `change`
    is (senders, receivers, n), the metric after minus before, NaN where the receiver is not above the sender. Its
    statistics, intervals and `where` mean what they do there, but not its `ranking` and `table`: those are here.
    """

    senders: tuple[Head, ...]
    receivers: tuple[Head, ...]
    scores: Scores

    @property
    def change(self) -> Tensor:
        """(senders, receivers, n): the metric after minus before; NaN where there is no path."""
        return self.scores.change

    def statistic(self, kind: Statistic = "mean_log") -> Tensor:
        """(senders, receivers): one number a pair, negative where it matters; those of `Scores.statistic`."""
        one_of("statistic", kind, Statistic)
        return self.scores.statistic(kind)

    def where(self, rows: Tensor) -> "Edges":
        """The map over some of the examples: their numbers, or (n,) bool."""
        return replace(self, scores=self.scores.where(rows))

    def table(self, top: int | None = None, kind: Statistic = "mean_log") -> pd.DataFrame:
        """One row a pair that has a path, the most negative first; ties in the order of senders and receivers.

        `sender`, `receiver`, the statistic as `change` with `low` and `high` (95%, over contexts), and `n` examples.

            from entity_circuits import edges, toy

            base, source = toy.prompts("apple", "cup"), toy.prompts("cup", "apple")
            found = edges.sweep(toy.subject(), base, source, position="query", composition="v")
            print(found.table(3))
        """
        one_of("statistic", kind, Statistic)
        top = None if top is None else integer("top", top)
        value, (low, high), n = self.statistic(kind), self.scores.intervals(kind), self.scores.examples
        known = torch.nonzero(n.flatten() > 0)[:, 0]
        order = known[value.flatten()[known].argsort(stable=True)][:top]
        pairs = [divmod(int(index), len(self.receivers)) for index in order]
        columns = {
            "sender": [str(self.senders[s]) for s, _ in pairs],
            "receiver": [str(self.receivers[r]) for _, r in pairs],
            "change": [value[at].item() for at in pairs],
            "low": [low[at] for at in pairs],
            "high": [high[at] for at in pairs],
            "n": [n[at].item() for at in pairs],
        }
        return pd.DataFrame(columns)


@dataclass(frozen=True)
class Ceiling:
    """How well the maps of one model agree on disjoint contexts, over many random halvings.

    `half` is the mean correlation of two maps of `contexts` contexts each, between `low` and `high` in 95% of the
    halvings: how far it depends on which contexts fall together, which is no confidence interval. `whole` is what
    Spearman and Brown's formula, 2 r / (1 + r), makes of `half` for two maps of twice as many. `pairs` have a path.
    """

    half: float
    low: float
    high: float
    whole: float
    contexts: int
    pairs: int


def ceiling(
    edges: Edges,
    *,
    kind: Statistic = "mean_log",
    correlation: Correlation = "pearson",
    halvings: int = 200,
    seed: int = 0,
) -> Ceiling:
    """How high the correlation of two models' maps could be if the models were one: that of two halves of the contexts.

    Args:
        edges: the map, of n examples of four contexts or more.
        kind: the statistic of a pair.
        correlation: "pearson", or "spearman" of the ranks.
        halvings: how often the contexts are halved at random; of an odd number, one is left out each time.
        seed: of the halvings.

    Hold a correlation of two models whose maps rest on disjoint contexts, each as many as this one's, against `whole`,
    or against `half` where each has half as many. Two maps of the very same prompts share what is particular to these,
    and may agree better. Raises `ValueError` for too few contexts, or fewer than three pairs.

        from entity_circuits import edges, models, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        drawn = tasks.default.experiment(subject, n=28)
        asked = {"senders": ["L0H1", "L1H2"], "receivers": ["L2H0", "L3H1"], "position": "last", "composition": "q"}
        print(edges.ceiling(edges.sweep(subject, drawn.base, drawn.source, **asked)))
    """
    one_of("statistic", kind, Statistic)
    one_of("correlation", correlation, get_args(Correlation))
    halvings, rows = integer("halvings", halvings), edges.scores.contexts.cpu()
    groups = rows.unique()
    if len(groups) < 4:
        raise ValueError(f"halves of {len(groups)} contexts do not tell how far a map repeats itself: 4 at least")
    known = edges.scores.examples > 0
    if int(known.sum()) < 3:
        raise ValueError(f"a correlation of maps needs 3 pairs with a path at least, not {int(known.sum())}")
    generator, size = torch.Generator().manual_seed(seed), len(groups) // 2
    found = []
    for _ in range(halvings):
        order = groups[torch.randperm(len(groups), generator=generator)]
        halves = [torch.isin(rows, order[begin : begin + size]) for begin in (0, size)]
        one, other = (edges.where(half).statistic(kind)[known].double().cpu().numpy() for half in halves)
        found.append(spearman(one, other) if correlation == "spearman" else float(np.corrcoef(one, other)[0, 1]))
    half, (low, high) = float(np.mean(found)), np.quantile(found, [0.025, 0.975]).tolist()
    if not np.isfinite(found).all():
        raise ValueError("a map that is the same for all pairs, or not a number, has no correlation with another")
    whole = 2 * half / (1 + half) if half > 0 else float("nan")
    return Ceiling(half, low, high, whole, size, int(known.sum()))

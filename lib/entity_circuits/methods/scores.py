"""Scores of path patching: what replacing each sender did, example by example, and one number a head of it."""

from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from .. import heads, statistics
from ..arguments import integer, one_of
from ..heads import Head
from ..tasks.prompts import rows_of

Statistic = Literal["mean", "median", "ratio_of_means", "mean_log"]


@dataclass(frozen=True)
class Scores:
    """What replacing each sender does to the metric, example by example.

    `change` (layers, heads, n) is the metric after minus before; NaN where the sender has no path to a receiver (or was
    not asked for). `logprob` (n,) is the metric before, log p(answer) unless another was asked for, and `correct` (n,)
    says whether the answer was right by it. `contexts` (n,) numbers what the examples are samples of. With `log` the
    metric is the logarithm of a probability. Negative: the head matters.
    """

    change: Tensor
    logprob: Tensor
    correct: Tensor
    contexts: Tensor
    log: bool = True

    @property
    def per_example(self) -> Tensor:
        """(layers, heads, n): the paper's score of each example, (p_patched - p_clean) / p_clean, from -1 up; the plain
        change of a metric that is no log-probability."""
        return torch.expm1(self.change) if self.log else self.change

    @property
    def mean(self) -> Tensor:
        """(layers, heads): the paper's score. An example with a tiny clean probability can dominate it (B18)."""
        return self.statistic("mean")

    def statistic(self, kind: Statistic) -> Tensor:
        """(layers, heads): one number a head. All are 0 for no effect and negative for a head that matters.

        `mean` and `median` over examples of the relative change; `ratio_of_means`, the change of the mean probability
        relative to it (weights examples by their probability); `mean_log`, the mean change of the log-probability. Of
        another metric, `mean`, `median` and `mean_log` take its change, and `ratio_of_means` the change of its mean
        relative to that mean, which has to be positive.
        """
        one_of("statistic", kind, Statistic)
        if kind == "mean":
            return self.per_example.mean(-1)
        if kind == "median":
            return self.per_example.median(-1).values
        if kind == "mean_log":
            return self.change.mean(-1)
        if self.log:
            clean = self.logprob.exp()
            return (self.per_example * clean).sum(-1) / clean.sum()
        if not float(self.logprob.sum()) > 0:
            raise ValueError("the mean of this metric is not positive before patching: rank by 'mean' instead")
        return self.change.sum(-1) / self.logprob.sum()

    def where(self, rows: Tensor) -> "Scores":
        """The scores over some of the examples, `scores.where(scores.correct)` for instance."""
        rows = rows_of(rows, len(self.contexts))
        cut = {name: getattr(self, name)[rows] for name in ("logprob", "correct", "contexts")}
        return replace(self, change=self.change[..., rows], **cut)

    def table(self, top: int | None = None) -> pd.DataFrame:
        """One row a head that has a path, the most negative first: `head`, the mean `change` of the metric with `low`
        and `high` (95%, over contexts), and `n`.

            from entity_circuits import models, path_patching

            found = path_patching.discover(models.load("qwen2.5-coder-0.5b"), n=7)
            print(found.scores["value_fetcher"].table(5))
        """
        top = None if top is None else integer("top", top)
        cells = statistics.intervals(self.change, self.contexts)
        parts = (cells.value, cells.low, cells.high)
        rows = [
            {"head": str(head)}
            | {name: x[head.layer, head.head] for name, x in zip(("change", "low", "high"), parts, strict=True)}
            | {"n": cells.n}
            for head in self.ranking("mean_log")
        ]
        return pd.DataFrame(rows)[:top]

    def ranking(self, kind: Statistic = "ratio_of_means") -> list[Head]:
        """All heads that have a path, the most negative first; ties in the order of layer and head."""
        one_of("statistic", kind, Statistic)
        return heads.ranked(self.statistic(kind).cpu().numpy())

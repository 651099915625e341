"""Scores of path patching: what replacing each sender did, example by example, and one number a head of it."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import heads, statistics
from ..arguments import integer, one_of
from ..heads import Head
from ..tasks.prompts import rows_of

Statistic = Literal["mean", "median", "ratio_of_means", "mean_log"]

MEANS: tuple[Statistic, ...] = ("mean", "mean_log", "ratio_of_means")
"""Those that are a mean, or a ratio of means."""


@dataclass(frozen=True)
class Scores:
    """What replacing each sender does to the metric, example by example.

    `change` (layers, heads, n) is the metric after minus before; NaN where the sender has no path to a receiver, or was
    not asked for in this example: the numbers of a head are over the `examples` that it has. `logprob` (n,) is the
    metric before, log p(answer) unless another was asked for, and `correct` (n,) says whether the answer was right by
    it. `contexts` (n,) numbers what the examples are samples of. With `log` the
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
        if kind == "median":
            some = self.per_example  # torch's median is the lower of two in the middle
            return (some.nanmedian(-1).values - (-some).nanmedian(-1).values) / 2
        gain, weight = self._parts(kind)
        return gain.nansum(-1) / torch.where(gain.isnan(), 0, weight).sum(-1)

    @property
    def examples(self) -> Tensor:
        """(layers, heads): how many examples a head's numbers rest on, 0 without a path."""
        return (~self.change.isnan()).sum(-1)

    def standard_error(self, kind: Statistic) -> Tensor:
        """(layers, heads): of a statistic, as if examples were independent; not of the median."""
        one_of("statistic that is a mean", kind, MEANS)
        gain, weight = self._parts(kind)
        off = gain - self.statistic(kind)[..., None] * weight
        mean = torch.where(gain.isnan(), 0, weight).sum(-1) / self.examples
        return (off.square().nansum(-1) / (self.examples - 1)).sqrt() / self.examples.sqrt() / mean

    def intervals(self, kind: Statistic) -> tuple[np.ndarray, np.ndarray]:
        """(layers, heads) each: the 95% interval of a statistic over contexts; of a ratio, its numerator's alone."""
        one_of("statistic", kind, Statistic)
        gain, weight = (self.per_example, None) if kind == "median" else self._parts(kind)
        average: statistics.Average = "median" if kind == "median" else "mean"
        flat, low = gain.flatten(0, -2), np.full(gain.shape[:-1], np.nan)
        high, known = low.copy(), ~flat.isnan()
        for seen in known.unique(dim=0):
            if not bool(seen.any()):
                continue
            rows = (known == seen).all(1)
            values = flat[rows][:, seen] / (1 if weight is None else weight[seen].mean())
            cells = statistics.intervals(values, self.contexts[seen], statistic=average, signed=True)
            low.ravel()[rows.numpy()], high.ravel()[rows.numpy()] = cells.low, cells.high
        return low, high

    def _parts(self, kind: Statistic) -> tuple[Tensor, Tensor]:
        """What a statistic is the ratio of, summed over examples: (layers, heads, n) over (n,)."""
        if kind != "ratio_of_means":
            return (self.change if kind == "mean_log" else self.per_example), torch.ones_like(self.logprob)
        if self.log:
            weight = self.logprob.exp()
            if len(weight) and weight.max() < torch.finfo(weight.dtype).tiny:  # the ratio is that of any multiples
                weight = (self.logprob - self.logprob.max()).exp()
            return self.per_example * weight, weight
        if not float(self.logprob.sum()) > 0:
            raise ValueError("the mean of this metric is not positive before patching: rank by 'mean' instead")
        return self.change, self.logprob

    def where(self, rows: Tensor) -> "Scores":
        """The scores over some of the examples, `scores.where(scores.correct)` for instance."""
        rows = rows_of(rows, len(self.contexts))
        cut = {name: getattr(self, name)[rows] for name in ("logprob", "correct", "contexts")}
        return replace(self, change=self.change[..., rows], **cut)

    def filled(self, rows: Tensor, part: "Scores") -> "Scores":
        """These scores with those of some examples, by their numbers, put in."""
        new = {name: getattr(self, name).clone() for name in ("logprob", "correct", "change")}
        for name, values in new.items():
            values[..., rows] = getattr(part, name)
        return replace(self, **new)

    def table(self, top: int | None = None) -> pd.DataFrame:
        """One row a head that has a path, the most negative first: `head`, the mean `change` of the metric with `low`
        and `high` (95%, over contexts), and `n`, the examples that it has.

            from entity_circuits import models, path_patching

            found = path_patching.discover(models.load("qwen2.5-coder-0.5b"), n=7)
            print(found.scores["value_fetcher"].table(5))
        """
        top = None if top is None else integer("top", top)
        change, (low, high), n = self.statistic("mean_log"), self.intervals("mean_log"), self.examples
        rows = [
            {"head": str(head), "change": change[at].item(), "low": low[at], "high": high[at], "n": n[at].item()}
            for head in self.ranking("mean_log")
            for at in [(head.layer, head.head)]
        ]
        return pd.DataFrame(rows, columns=["head", "change", "low", "high", "n"])[:top]

    def ranking(self, kind: Statistic = "ratio_of_means") -> list[Head]:
        """All heads that have a path, the most negative first; ties in the order of layer and head."""
        one_of("statistic", kind, Statistic)
        return heads.ranked(self.statistic(kind).cpu().numpy())

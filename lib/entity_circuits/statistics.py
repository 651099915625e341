"""Accuracies, scores and shares with their intervals. Prompts of a context are not independent: contexts are the units.

`intervals` has the formulas, and says which one an interval comes from and how often it holds the truth.
"""

from __future__ import annotations  # what hands over a finding needs neither torch nor pandas, which are slow to import

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np

from . import intervals as bounds
from .arguments import boolean, finite, integer, one_of
from .bootstrap import DRAWS as DRAWS
from .bootstrap import Values as Values
from .bootstrap import as_array as as_array
from .bootstrap import medians, numbered
from .bootstrap import resampled as resampled

if TYPE_CHECKING:
    import pandas as pd

Average = Literal["mean", "median"]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval, the prompts `n` and the independent `contexts` it rests on.

    The bounds are NaN where there is nothing to estimate the spread from: a single context.

        from entity_circuits.statistics import Estimate

        print(Estimate(0.5, 0.4, 0.6, n=70, contexts=10))  # 0.50 [0.40, 0.60], n = 70
    """

    value: float
    low: float
    high: float
    n: int
    contexts: int

    def __str__(self) -> str:
        return f"{spoken(self.value, self.low, self.high)}, n = {self.n}"

    @property
    def width(self) -> float:
        """Upper bound minus lower bound."""
        return self.high - self.low

    def cells(self, name: str) -> dict[str, float]:
        """The part of a table's row about this number: `name`, `name_low` and `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class Intervals:
    """`value`, `low` and `high` for every cell of a score table: float64 arrays of one shape, from n examples each."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int


def estimate(
    values: Values,
    contexts: Values | None = None,
    *,
    signed: bool = False,
    statistic: Average = "mean",
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """The mean (or median) of values, with its 95% interval over contexts.

    Args:
        values: (n,) finite numbers or bools, one a prompt.
        contexts: (n,) numbers: which prompts belong together. Each by itself unless given.
        signed: whether the values are differences, so that all 0 and 1 are changes and not answers.
        statistic: "mean" or "median".
        draws: how often contexts are drawn with replacement, for a median.
        seed: of the draws.

    The interval is that of `intervals.of_means`, for a median that of a bootstrap over contexts. It has a width where
    all answers agree, and none where all of other numbers do. Raises `ValueError` for empty input, values that are not
    finite, or lengths that differ.

        from entity_circuits import statistics

        correct = [1, 1, 0, 0, 1, 0]
        print(statistics.estimate(correct, contexts=[0, 0, 1, 1, 2, 2]))  # 0.50 [0.06, 0.94], n = 6
    """
    one_of("statistic", statistic, Average)
    boolean("signed", signed)
    numbers = as_array(values)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError("an estimate needs one finite value a prompt; for a table of scores use `intervals`")
    cells = intervals(numbers, contexts, signed=signed, statistic=statistic, draws=draws, seed=seed)
    clusters = len(numbers) if contexts is None else int(numbered(contexts).max()) + 1
    return Estimate(float(cells.value), float(cells.low), float(cells.high), len(numbers), clusters)


def difference(first: Values, second: Values, contexts: Values | None = None) -> Estimate:
    """Mean of `first - second` for the same prompts in the same order, so that what they share cancels.

    `first` and `second` (n,) finite numbers or bools; `contexts` (n,) numbers: which prompts belong together, each by
    itself unless given. The interval is that of `estimate`, and of `intervals.of_shares` where both are shares of right
    answers, one of them prompt by prompt. Raises `ValueError` if the two differ in length.

        from entity_circuits import statistics

        before, after = [0, 1, 0, 1], [1, 1, 0, 1]
        print(statistics.difference(after, before, contexts=[0, 0, 1, 1]).value)  # 0.25
    """
    one, other = as_array(first), as_array(second)
    if one.shape != other.shape:
        raise ValueError(f"a paired difference needs the same prompts twice, not {one.shape} and {other.shape}")
    found = estimate(one - other, contexts, signed=True)
    shares = all(((side >= 0) & (side <= 1)).all() for side in (one, other))
    if not shares or "answers" not in map(bounds.kind_of, (one, other)):
        return found
    groups = numbered(np.arange(len(one)) if contexts is None else contexts)
    low, high = bounds.of_shares(one, other, groups)
    return replace(found, low=low, high=high)


def ratio(first: Values, second: Values, contexts: Values, *, signed: bool = False) -> Estimate:
    """Mean of `first` over mean of `second` for the same prompts, such as two accuracies.

    `first` (n,) numbers or bools; `second` (n,) likewise, not all zero; `contexts` (n,) numbers: which prompts belong
    together; `signed`, whether both are differences. The interval is that of `intervals.of_ratios`. Raises `ValueError`
    if the mean of `second` is zero.

        from entity_circuits import statistics

        whole, part = [1, 1, 1, 0], [1, 0, 1, 0]
        print(statistics.ratio(part, whole, contexts=[0, 0, 1, 1]).value)  # 0.67
    """
    boolean("signed", signed)
    groups, pair = numbered(contexts), [as_array(values) for values in (first, second)]
    if not pair[0].shape == pair[1].shape == groups.shape or not np.isfinite(pair).all():
        raise ValueError(
            f"a ratio needs finite values of the same prompts twice and their contexts, not "
            f"{pair[0].shape}, {pair[1].shape} and {groups.shape}"
        )
    if abs(pair[1].sum()) <= len(groups) * np.finfo(float).eps * np.abs(pair[1]).sum():  # no more than rounding
        raise ValueError("a ratio to a mean of zero")
    (low,), (high,) = bounds.of_ratios(pair[0][None], pair[1], groups, signed)
    value = float(pair[0].sum() / pair[1].sum())
    return Estimate(value, float(low), float(high), len(groups), int(groups.max()) + 1)


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Wilson's interval for a proportion of `n` independent trials, in [0, 1]. It has a width even at 0 and at 1.

    It knows nothing of contexts: for prompts that share one it is too narrow, or too wide, by as much as they agree.
    Raises `ValueError` unless 0 <= successes <= n and n > 0.

        from entity_circuits import statistics

        print(statistics.wilson(10, 10))  # 1.00 [0.72, 1.00], n = 10
    """
    finite("level", level, 0, 1, inside=True)
    n = integer("n", n)
    successes = integer("successes", successes, 0, n)
    low, high = bounds.wilson(successes / n, n, z=NormalDist().inv_cdf(0.5 + level / 2))
    return Estimate(successes / n, float(low), float(high), n, n)


def spoken(value: float, low: float | None, high: float | None, form: str = ".2f") -> str:
    """A number with its interval in words; without one where it has no bounds (None or NaN). Zero has no minus.

    For example:

        from entity_circuits import statistics

        print(statistics.spoken(0.962, 0.914, 1.01, ".0%"))  # 96% [91%, 101%]
        print(statistics.spoken(-0.001, None, None))  # 0.00
    """

    def one(number: float) -> str:
        text = format(number, form)
        return format(0.0, form) if not text.strip("-0.%") else text

    if low is None or high is None or np.isnan(low):
        return one(value)
    return f"{one(value)} [{one(low)}, {one(high)}]"


def beside_chance(accuracy: Estimate, chance: float) -> str:
    """An accuracy in words, with a plain warning where it does not lie surely above chance.

    For example:

        from entity_circuits import statistics

        print(statistics.beside_chance(statistics.wilson(6, 100), 1 / 7))  # 0.06 ...; NOT above chance (0.14): ...
        print(statistics.beside_chance(statistics.wilson(49, 100), 1 / 7))  # 0.49 ...; above chance (0.14)
    """
    if accuracy.low > chance:
        return f"{accuracy}; above chance ({chance:.2f})"
    return f"{accuracy}; NOT above chance ({chance:.2f}): what follows can show little about this model"


def intervals(
    per_example: Values,
    contexts: Values | None = None,
    *,
    signed: bool = False,
    statistic: Average = "mean",
    draws: int = DRAWS,
    seed: int = 0,
) -> Intervals:
    """For each cell of a table of scores, the mean or median of its n examples with a 95% interval over contexts.

    Args:
        per_example: (..., n) numbers; the last axis is the examples. A cell with a NaN (a head with no path) stays NaN.
        contexts: (n,) numbers: which examples belong together. Each by itself unless given.
        signed: whether the numbers are differences, so that all 0 and 1 are changes and not answers.
        statistic: "mean" or "median".
        draws: how often contexts are drawn with replacement, for medians; the same for all cells.
        seed: of the draws.

    Each array of the result is (...). Raises `ValueError` for empty input, an unknown statistic, or contexts of
    another length.

        import torch
        from entity_circuits import statistics

        scores = torch.randn(4, 8, 21)  # layers, heads, n
        print(statistics.intervals(scores, statistic="median").high < 0)  # surely negative?
    """
    one_of("statistic", statistic, Average)
    boolean("signed", signed)
    values = as_array(per_example)
    if values.ndim == 0 or values.size == 0:
        raise ValueError("there is nothing to estimate from: no examples")
    n = values.shape[-1]
    names = np.arange(n) if contexts is None else numbered(contexts)
    if names.shape != (n,):
        raise ValueError(f"{n} examples, but context numbers of shape {names.shape}: one for each is needed")
    cells, draws, seed = values.reshape(-1, n), integer("draws", draws), integer("seed", seed, least=0)
    if statistic == "mean":
        value = cells.mean(axis=1)
        low, high = bounds.of_means(cells, numbered(names), bounds.kind_of(cells, signed))
    else:
        groups, picked = resampled(names, draws, seed)
        value = np.median(cells, axis=1)
        low, high = np.quantile(medians(cells, groups, picked), [0.025, 0.975], axis=1)
        if picked.shape[1] == 1:
            low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    shape = values.shape[:-1]
    return Intervals(value.reshape(shape), low.reshape(shape), high.reshape(shape), n)


def by(frame: pd.DataFrame, columns: str | list[str], value: str = "correct") -> pd.DataFrame:
    """One row a group of `columns`, with `value`, `low`, `high`, `n` and `contexts`: the table that a figure shows.

    `frame` has one row a prompt and a column `context`; groups keep their order of appearance. What is missing (NaN)
    is a group, too.

        import pandas as pd
        from entity_circuits import statistics

        answers = pd.DataFrame({"context": [0, 0, 1, 1], "place": [1, 2, 1, 2], "correct": [1, 0, 1, 1]})
        print(statistics.by(answers, "place"))
    """
    names = [columns] if isinstance(columns, str) else columns
    _require_columns(frame, [*names, value, "context"])
    if taken := sorted({*names} & {one.name for one in fields(Estimate)}):
        raise ValueError(f"{taken[0]!r} is a column of the answer: give the group another name")
    rows = []
    for key, part in frame.groupby(names, sort=False, observed=True, dropna=False):
        found = estimate(part[value].to_numpy(), part["context"].to_numpy())
        rows.append(dict(zip(names, key, strict=True)) | vars(found))
    return type(frame)(rows)


def _require_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        one_of("column", name, table.columns)

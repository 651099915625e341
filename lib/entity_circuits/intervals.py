"""The bounds of every 95% interval of a mean and of a ratio, and Holm's adjustment of several p: formulas alone.

Prompts of a context are not independent, so contexts are the units, and there are often few of them: eleven sets of
pairs come from three. A percentile bootstrap of three contexts holds the truth 70 times in 100, of seven 87, of
seventy 94. These do so about 95 times or more from three contexts on (`tests/test_coverage.py` draws data and counts):

*Numbers*: Student's t on what the contexts differ from the mean, with one degree of freedom less than contexts.

*Answers* (all 0 or 1): Wilson's interval with t for z and an effective number of prompts, as many independent ones as
would be as uncertain; never more than there are, and one a context where all answers are the same. It stays in [0, 1].

*Changes* (the difference of two answers, -1, 0 or 1, or of an answer and a share): as numbers, but with one made-up
prompt that was won and one that was lost, after Bonett and Price. Where nothing changed, it still says how much could
have; and where what is compared is never right, how often it could be.

*Ratios* of two means: t on what the contexts' numerators differ from the ratio times their denominators. Where nothing
is in the numerator, what its own interval is of the denominator.
"""

from typing import Literal

import numpy as np

from .arguments import boolean, one_of
from .bootstrap import as_array, totals

Kind = Literal["numbers", "answers", "changes"]


def quantile(level: float, freedom: int) -> float:
    """The quantile of Student's t.

    For example:

        from entity_circuits import intervals

        print(intervals.quantile(0.975, freedom=9))  # 2.26
    """
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(freedom, level))


def kind_of(values: np.ndarray, signed: bool = False) -> Kind:
    """What a table of values holds, told by the values themselves; `signed` says that they are differences.

    For example:

        import numpy as np
        from entity_circuits import intervals

        print(intervals.kind_of(np.array([0.0, 1.0])), intervals.kind_of(np.array([0.0, 1.0]), signed=True))
    """
    boolean("signed", signed)
    known = values[~np.isnan(values)]
    if np.isin(known, (0, 1)).all():
        return "changes" if signed else "answers"
    return "changes" if signed and np.isin(known, (-1, 0, 1)).all() else "numbers"


def of_means(cells: np.ndarray, groups: np.ndarray, kind: Kind = "numbers") -> tuple[np.ndarray, np.ndarray]:
    """The bounds (k,) of the means of cells (k, n), of which `groups` (n,) numbers the contexts from 0.

    NaN for a single context, and for a cell with a NaN. For example:

        import numpy as np
        from entity_circuits import intervals

        print(intervals.of_means(np.array([[0.0, 0, 1, 1, 1, 1]]), np.array([0, 0, 1, 1, 2, 2]), "answers"))
    """
    one_of("kind of values", kind, Kind)
    n, contexts, mean = cells.shape[1], int(groups.max()) + 1, cells.mean(axis=1)
    if contexts == 1:
        return np.full(len(cells), np.nan), np.full(len(cells), np.nan)
    error, t = _error(totals(cells - mean[:, None], groups), n), quantile(0.975, contexts - 1)
    if kind == "numbers":
        return mean - t * error, mean + t * error
    up, down = (cells > 0).mean(axis=1), (cells < 0).mean(axis=1)
    spread = up + down - mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.where(spread > 0, np.minimum(spread / error**2, n), contexts)
    low, high = wilson(mean, effective, t) if kind == "answers" else _of_changes(up, down, effective, t)
    known = ~np.isnan(mean)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def of_shares(one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The bounds of what one share has more than another of the same prompts, from 0 to 1 each: `one`, `other` (n,).

    For example:

        import numpy as np
        from entity_circuits import intervals

        print(intervals.of_shares(np.zeros(6), np.array([0, 0.25, 0, 0, 0, 0]), np.array([0, 0, 1, 1, 2, 2])))
    """
    off, contexts = one - other, int(groups.max()) + 1
    kind, middle = kind_of(off, signed=True), float(off.mean())
    (low,), (high,) = of_means(off[None], groups, kind)
    if kind == "numbers" and contexts > 1:  # the two made-up prompts, of changes that are not whole
        half = np.hypot(high - middle, quantile(0.975, contexts - 1) * 2**0.5 / (len(off) + 2))
        low, high = middle - half, middle + half
    if off.any() and not one.any():  # where nothing changed at all, changes say how much could have
        high = np.maximum(high, middle + of_means(one[None], groups, "answers")[1][0])
    return max(float(low), -1.0), min(float(high), 1.0)


def of_ratios(
    above: np.ndarray, below: np.ndarray, groups: np.ndarray, signed: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The bounds (k,) of the ratios of the means of `above` (k, n) to that of `below` (n,); contexts as in `of_means`.

    `signed` says that both are differences, as in `kind_of`. For example:

        import numpy as np
        from entity_circuits import intervals

        print(intervals.of_ratios(np.array([[1.0, 0, 1, 0]]), np.array([1.0, 1, 1, 0]), np.arange(4)))
    """
    boolean("signed", signed)
    contexts, whole = int(groups.max()) + 1, below.sum()
    ratio = above.sum(axis=1) / whole
    if contexts == 1:
        return np.full(len(above), np.nan), np.full(len(above), np.nan)
    off = totals(above, groups) - ratio[:, None] * totals(below, groups)
    half = quantile(0.975, contexts - 1) * np.abs(_error(off, whole))
    low, high = ratio - half, ratio + half
    if (kind := kind_of(below, signed)) != "numbers":
        none = ~above.any(axis=1)
        own = np.stack(of_means(above[none], groups, kind)) / below.mean()
        low[none], high[none] = own.min(axis=0), own.max(axis=0)
    return low, high


def holm(p: np.ndarray) -> np.ndarray:
    """The p-values (k,) of a family, each so large that 0.05 of it holds for all of the family together.

    The smallest is multiplied by how many there are, the next by one less, and so on; none gets smaller than the one
    before, or larger than 1. They need not be independent. Raises `ValueError` for what is no probability.

        from entity_circuits import intervals

        print(intervals.holm([0.01, 0.04, 0.03]))  # [0.03, 0.06, 0.06]
    """
    given = as_array(p)
    if given.ndim != 1 or not ((given >= 0) & (given <= 1)).all():
        raise ValueError("a family of p-values is a list of numbers from 0 to 1")
    order = np.argsort(given, kind="stable")
    raised = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(raised, 1)
    return adjusted


def _error(off: np.ndarray, whole: float) -> np.ndarray:
    """(k,) the standard error of a mean or ratio over `whole`, from what contexts are off it in sum, (k, contexts)."""
    contexts = off.shape[1]
    error: np.ndarray = np.sqrt(contexts / (contexts - 1) * (off**2).sum(axis=1)) / whole
    return error


def wilson(share: np.ndarray | float, n: np.ndarray | float, z: float) -> tuple[np.ndarray, np.ndarray]:
    """(k,) Wilson's bounds of shares (k,) of `n` independent trials, z standard errors away; in [0, 1]."""
    scale, middle = 1 + z**2 / n, share + z**2 / (2 * n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.maximum((middle - half) / scale, 0), np.minimum((middle + half) / scale, 1)


def _of_changes(up: np.ndarray, down: np.ndarray, n: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    won, lost = (up * n + 1) / (n + 2), (down * n + 1) / (n + 2)
    half = t * np.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    return np.maximum(won - lost - half, -1), np.minimum(won - lost + half, 1)

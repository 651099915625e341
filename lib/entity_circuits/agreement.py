"""Whether two rankings or two sets of heads agree: rank correlation, and what random sets would share."""

import math

import numpy as np
import pandas as pd

from .arguments import integer
from .bootstrap import as_array


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """The rank correlation of two series (n,); NaN for fewer than three numbers or where all of one rank alike.

    Raises `ValueError` for series of different lengths, and for what is no number.

        import numpy as np
        from entity_circuits.agreement import spearman

        print(spearman(np.array([1, 2, 4]), np.array([10, 30, 20])))  # 0.5
    """
    if np.shape(one) != np.shape(other):
        raise ValueError(
            f"a rank correlation needs two series of one length, not {np.shape(one)} and {np.shape(other)}"
        )
    ranks = [pd.Series(as_array(values)).rank().to_numpy() for values in (one, other)]
    if len(one) < 3 or any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def overlap(first: int, second: int, common: int, one: int, other: int) -> np.ndarray:
    """Probabilities of sharing 0, 1, ... if two sets are drawn from two pools; exact.

    Args:
        first: the size of the one pool.
        second: the size of the other.
        common: how many are in both.
        one: how many are drawn from the first.
        other: how many are drawn from the second.

    Raises `ValueError` for more in common, or drawn, than there are.

        from entity_circuits.agreement import overlap

        print(overlap(4, 4, 4, 2, 1))  # [0.5, 0.5]
    """
    first, second = integer("first", first, least=0), integer("second", second, least=0)
    common = integer("common", common, 0, min(first, second))
    one, other = integer("one", one, 0, first), integer("other", other, 0, second)
    shared = np.zeros(min(one, other) + 1)
    # Of the one set, so many are such as the other could draw; of these, the other then draws so many.
    for marked, probability in enumerate(_hypergeometric(first, common, one)):
        part = _hypergeometric(second, marked, other)
        shared[: len(part)] += probability * part
    return shared


def _hypergeometric(all_: int, marked: int, drawn: int) -> np.ndarray:
    """Probabilities of 0, 1, ... marked ones among `drawn` of `all_`, of which `marked` are marked."""
    most, ways = min(marked, drawn), math.comb(all_, drawn)
    return np.array([math.comb(marked, k) * math.comb(all_ - marked, drawn - k) / ways for k in range(most + 1)])

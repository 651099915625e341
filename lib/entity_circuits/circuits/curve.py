"""How much of the model a circuit of each size has: the curve of faithfulness, and the areas under it and beside it.

f(k) = (F(circuit) - F(none)) / (F(whole) - F(none)) for the circuit of a share k of all nodes. A method that ranks well
has a large area under f (CPR) if it is to find what helps, and a small one between f and 1 (CMD) if it is to find what
does as the model does: what is better than the model counts against it there. Mueller et al. 2025 (MIB).
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .. import intervals, statistics
from ..arguments import finite, several
from ..bootstrap import Values, as_array, numbered
from ..statistics import Estimate

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares of all nodes at which MIB reads the curve."""


def areas(
    values: Values, none: Values, whole: Values, contexts: Values, sizes: Sequence[float] = SIZES
) -> dict[str, Estimate]:
    """The areas and the curve with their 95% intervals over contexts.

    Args:
        values: (sizes, n) F of the circuits, prompt by prompt.
        none: (n,) F with nothing kept.
        whole: (n,) F of the whole model.
        contexts: (n,) which prompts belong together.
        sizes: the share k of all nodes that each circuit has, rising, above 0 and up to 1.

    Returns `CPR`, `CMD`, and f by the name of its size ("0.05"). Areas are by trapezoids, from f(0) = 0 to the largest
    size. All are ratios of means, and have the intervals of such (`intervals.of_ratios`); that of CMD is for the sides
    of 1 on which the points lie. Raises `ValueError` for other shapes, for numbers that are not finite, and where the
    whole model is as good as nothing.

        from entity_circuits.circuits import curve

        found = curve.areas([[1, 0], [1, 1]], none=[0, 0], whole=[1, 1], contexts=[0, 1], sizes=(0.5, 1.0))
        print(found["CPR"].value)  # 0.5 * 0.25 + 0.5 * 0.75
    """
    shares = several("sizes", sizes)
    for share in shares:
        finite("size", share, 0, 1)
    table, low, high = as_array(values), as_array(none), as_array(whole)
    if sorted(set(shares)) != list(shares) or not shares[0] or table.shape != (len(shares), len(high)):
        raise ValueError(f"a curve needs rising sizes and a row of prompts for each: {shares} and {table.shape}")
    groups = numbered(contexts)
    if not low.shape == high.shape == groups.shape:
        raise ValueError("nothing, the whole model and the contexts are of the same prompts as the curve")
    if not all(np.isfinite(one).all() for one in (table, low, high)):
        raise ValueError("a curve needs finite numbers of every prompt")
    if abs((high - low).sum()) <= len(groups) * np.finfo(float).eps * (np.abs(high) + np.abs(low)).sum():
        raise ValueError("the whole model is as good as nothing here: there is no curve between them")
    step = np.diff([0.0, *shares])
    weight = (step + np.append(step[1:], 0)) / 2  # of each point in the sum of trapezoids
    gained, gap = table - low, high - low
    missing = gap - gained
    side = np.sign(missing.sum(axis=1) / gap.sum())
    first = step[0] / 2 * gap  # 1 at size 0, where f is 0
    rows = {"CPR": weight @ gained, "CMD": first + (weight * side) @ missing}
    rows |= {f"{share:g}": row for share, row in zip(shares, gained, strict=True)}
    bounds = intervals.of_ratios(np.stack(list(rows.values())), gap, groups, signed=True)
    contexts_ = int(groups.max()) + 1
    return {
        name: Estimate(float(row.sum() / gap.sum()), float(least), float(most), len(gap), contexts_)
        for (name, row), least, most in zip(rows.items(), *bounds, strict=True)
    }


def sized(shares: Sequence[float], nodes: int) -> list[int]:
    """How many of all nodes each share is: at least one, rounded.

    For example:

        from entity_circuits.circuits import curve

        print(curve.sized(curve.SIZES, 2016))  # [2, 4, 10, 20, 40, 101, 202, 403, 1008, 2016]
    """
    return [max(1, round(share * nodes)) for share in several("shares", shares)]


def gain(circuit: tuple[Tensor, Tensor], whole: tuple[Tensor, Tensor], contexts: Values) -> dict[str, Estimate]:
    """How much of what a fine-tuned model gains goes through a circuit, and how much beside it.

    Args:
        circuit: F of the circuit, prompt by prompt, in the base model and in the fine-tuned one, (n,) each.
        whole: F of the two whole models, likewise.
        contexts: (n,) which prompts belong together.

    Returns `gain` of the whole models, `through` the circuit, `beside` it, and `share`, that of the gain which goes
    through; no share where the 95% interval of the gain contains 0.

        import torch
        from entity_circuits.circuits import curve

        low, high = torch.tensor([0.0, 0.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
        print(curve.gain((low, high), (low, high), contexts=[0, 1, 2, 3])["through"])
    """
    (low, high), (base, tuned) = ((as_array(one[0]), as_array(one[1])) for one in (circuit, whole))
    found = {
        "gain": statistics.difference(tuned, base, contexts),
        "through": statistics.difference(high, low, contexts),
        "beside": statistics.estimate((tuned - base) - (high - low), contexts),
    }
    if found["gain"].low > 0 or found["gain"].high < 0:
        found["share"] = statistics.ratio(high - low, tuned - base, contexts, signed=True)
    return found

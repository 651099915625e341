"""What share of the gap between two models a patch brings back, with its interval; nothing where there is no gap."""

import numpy as np

from .. import intervals
from ..bootstrap import Values, as_array, numbered
from ..statistics import Estimate, difference


def recovered(patched: Values, base: Values, tuned: Values, contexts: Values | None = None) -> Estimate:
    """The share (patched - base) / (tuned - base) of mean correctness.

    Args:
        patched: (n,) whether the patched model is right on each of n prompts.
        base: (n,) likewise of the base model.
        tuned: (n,) likewise of the tuned one.
        contexts: (n,) which prompts belong together; each by itself unless given.

    Below 0 if patching makes the model worse, above 1 if better than the tuned one. The interval is that of a ratio of
    means over the same contexts (`intervals.of_ratios`). Raises `ValueError` if the 95% interval of the gap contains 0,
    or if there is a single context: then the share would be one noise divided by another. A tuned model that is surely
    worse has a gap, too.

        from entity_circuits import cmap

        base, patched, tuned = [0, 0, 0, 1] * 10, [1, 0, 0, 1] * 10, [1, 1, 0, 1] * 10
        print(cmap.recovered(patched, base, tuned))  # 0.50 [0.26, 0.74], n = 40
    """
    if reason := no_gap(base, tuned, contexts):
        raise ValueError(f"no share can be given: {reason}")
    low, middle, high = (as_array(values) for values in (base, patched, tuned))
    if middle.shape != low.shape:
        raise ValueError(f"a share needs the same prompts three times, not {middle.shape} and {low.shape}")
    groups = np.arange(len(low)) if contexts is None else numbered(contexts)
    value, lower, upper = shares((middle - low)[None], high - low, groups)
    return Estimate(float(value[0]), float(lower[0]), float(upper[0]), len(low), len(np.unique(groups)))


def no_gap(base: Values, tuned: Values, contexts: Values | None) -> str:
    """Why no share of the gap between two models can be given, or nothing.

    `base` and `tuned` (n,) whether either model is right on each of n prompts; `contexts` (n,) which belong together.
    """
    gap = difference(as_array(tuned), as_array(base), contexts)
    if gap.low > 0 or gap.high < 0:
        return ""
    why = "one context gives it no interval" if np.isnan(gap.low) else "its 95% interval contains 0"
    return f"the gap between the two models is {gap}: {why}. Take more contexts, or a pair that differs more"


def shares(gained: np.ndarray, gap: np.ndarray, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ratio of two means with its bounds, each (conditions,).

    `gained` (conditions, n) is what each condition changes, prompt by prompt; `gap` (n,) what it is a share of;
    `contexts` (n,) which prompts belong together.
    """
    return gained.mean(axis=1) / gap.mean(), *intervals.of_ratios(gained, gap, numbered(contexts), signed=True)

"""What share of the gap between two models a patch brings back, with its interval; nothing where there is no gap."""

import numpy as np

from ..statistics import DRAWS, Estimate, Values, as_array, counts, difference, resampled, sums


def recovered(
    patched: Values, base: Values, tuned: Values, contexts: Values | None = None, *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """The share (patched - base) / (tuned - base) of mean correctness, of values (n,) for the same n prompts.

    Below 0 if patching makes the model worse, above 1 if better than the tuned one. All three are resampled together,
    over contexts. Raises `ValueError` if the 95% interval of the gap contains 0, or if there is a single context: then
    the share would be one noise divided by another. A tuned model that is surely worse has a gap, too.

        base, patched, tuned = [0, 0, 0, 1] * 10, [1, 0, 0, 1] * 10, [1, 1, 0, 1] * 10
        print(recovered(patched, base, tuned))   # 0.50 [0.23, 0.77], n = 40
    """
    if reason := no_gap(base, tuned, contexts, draws, seed):
        raise ValueError(f"no share can be given: {reason}")
    low, middle, high = (as_array(values) for values in (base, patched, tuned))
    if middle.shape != low.shape:
        raise ValueError(f"a share needs the same prompts three times, not {middle.shape} and {low.shape}")
    groups = np.arange(len(low)) if contexts is None else as_array(contexts)
    value, lower, upper = shares((middle - low)[None], high - low, groups, draws, seed)
    return Estimate(float(value[0]), float(lower[0]), float(upper[0]), len(low), len(np.unique(groups)))


def no_gap(base: Values, tuned: Values, contexts: Values | None, draws: int = DRAWS, seed: int = 0) -> str:
    """Why no share of the gap between two models can be given, or nothing."""
    gap = difference(as_array(tuned), as_array(base), contexts, draws=draws, seed=seed)
    if gap.low > 0 or gap.high < 0:
        return ""
    why = "one context gives it no interval" if np.isnan(gap.low) else "its 95% interval contains 0"
    return f"the gap between the two models is {gap}: {why}. Take more contexts, or a pair that differs more"


def shares(
    gained: np.ndarray, gap: np.ndarray, contexts: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ratio of means of gained (conditions, n) and of gap (n,), with its bounds; contexts are resampled."""
    groups, picked = resampled(contexts, draws, seed)
    times = counts(picked)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = sums(gained, groups, times) / sums(gap, groups, times)
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=1)
    return gained.mean(axis=1) / gap.mean(), low, high

"""How much of the gap between two models something recovers: a ratio of differences, with its interval."""

import numpy as np
from torch import Tensor

from .statistics import DRAWS, Estimate, Values, difference


def recovered(
    patched: Values,
    base: Values,
    tuned: Values,
    contexts: Values | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """The share (patched - base) / (tuned - base) of mean correctness, over the same n prompts.

    Args:
        patched: (n,) numbers or bools, one a prompt: the base model with something of the tuned one.
        base: (n,) the same of the base model as it is.
        tuned: (n,) the same of the tuned model as it is.
        contexts: (n,) numbers: which prompts belong together. Each by itself unless given.
        draws: how often contexts are drawn with replacement, for all three together.
        seed: of the draws.

    Below 0 if patching makes the model worse, above 1 if better than the tuned one. A tuned model that is surely worse
    has a gap, too. Raises `ValueError` if the 95% interval of the gap contains 0, or if there is a single context: then
    the share would be one noise divided by another.

        from entity_circuits import shares

        base, patched, tuned = [0, 0, 0, 1] * 10, [1, 0, 0, 1] * 10, [1, 1, 0, 1] * 10
        print(shares.recovered(patched, base, tuned))  # 0.50 [0.23, 0.77], n = 40
    """
    if reason := no_gap(base, tuned, contexts, draws, seed):
        raise ValueError(f"no share can be given: {reason}")
    low, middle, high = (_numbers(values) for values in (base, patched, tuned))
    if middle.shape != low.shape:
        raise ValueError(f"a share needs the same prompts three times, not {middle.shape} and {low.shape}")
    groups = np.arange(len(low)) if contexts is None else _numbers(contexts)
    value, lower, upper = shares((middle - low)[None], high - low, groups, draws, seed)
    return Estimate(float(value[0]), float(lower[0]), float(upper[0]), len(low), len(np.unique(groups)))


def no_gap(base: Values, tuned: Values, contexts: Values | None, draws: int = DRAWS, seed: int = 0) -> str:
    """Why no share of the gap between two models can be given, or nothing.

    Args:
        base: (n,) numbers or bools, one a prompt.
        tuned: (n,) the same of the tuned model.
        contexts: (n,) numbers: which prompts belong together; None: each by itself.
        draws: how often contexts are drawn with replacement.
        seed: of the draws.

    The gap has to have a 95% interval that does not contain 0.

        from entity_circuits import shares

        print(shares.no_gap([0, 1] * 5, [1, 0] * 5, None))
    """
    gap = difference(_numbers(tuned), _numbers(base), contexts, draws=draws, seed=seed)
    if gap.low > 0 or gap.high < 0:
        return ""
    why = "one context gives it no interval" if np.isnan(gap.low) else "its 95% interval contains 0"
    return f"the gap between the two models is {gap}: {why}. Take more contexts, or a pair that differs more"


def shares(
    gained: np.ndarray, gap: np.ndarray, contexts: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ratio of two means with its bounds, for several conditions at once.

    Args:
        gained: (conditions, n) float64, what each condition has more than the base, one a prompt.
        gap: (n,) float64, what the tuned model has more.
        contexts: (n,) numbers: which prompts belong together.
        draws: how often contexts are drawn with replacement; the same for all conditions.
        seed: of the draws.

    Returns value, low and high, each (conditions,).

        import numpy as np
        from entity_circuits import shares

        gained, gap = np.array([[1.0, 0, 0, 0] * 5]), np.array([1.0, 1, 0, 0] * 5)
        print(shares.shares(gained, gap, np.arange(20)))
    """
    which = np.unique(contexts, return_inverse=True)[1]
    clusters = int(which.max()) + 1
    member = np.equal.outer(which, np.arange(clusters)).astype(float)
    picked = np.random.default_rng(seed).integers(clusters, size=(draws, clusters))
    times = np.stack([np.bincount(row, minlength=clusters) for row in picked], axis=1).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (gained @ member @ times) / (gap @ member @ times)
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=1)
    return gained.mean(axis=1) / gap.mean(), low, high


def _numbers(values: Values) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=float)

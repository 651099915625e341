"""An interval over a few independent units, such as trainings: Student's t, where a bootstrap would be too narrow.

Two thousand prompts say how good *this* trained model is. How good *this kind of training* is, its trainings say: they
are the units, and three of them leave two degrees of freedom, however many prompts each was asked.
"""

from __future__ import annotations  # as in `statistics`: what hands over a finding needs no torch

import numpy as np

from .arguments import finite
from .intervals import quantile
from .statistics import Estimate, Values, as_array


def over(values: Values, level: float = 0.95) -> Estimate:
    """The mean of a few independent numbers, with its interval from Student's t with one degree of freedom less.

    `values` (units,), one number a unit. `n` and `contexts` of the result are the number of units; a single one has no
    interval (NaN). It covers what another unit would change, and nothing that all of them share, such as their prompts.
    Raises `ValueError` for no values, and for some that are not finite.

        from entity_circuits import units

        print(units.over([0.20, 0.10, 0.17]))  # three trainings
    """
    finite("level", level, 0, 1, inside=True)
    numbers = as_array(values)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError("an interval over units needs one finite number for each of them")
    mean, n = float(numbers.mean()), len(numbers)
    if n == 1:
        return Estimate(mean, np.nan, np.nan, 1, 1)
    half = quantile(0.5 + level / 2, n - 1) * float(numbers.std(ddof=1)) / n**0.5
    return Estimate(mean, mean - half, mean + half, n, n)

"""Contexts drawn with replacement: what an interval rests on where no formula has one (medians, ranks, stages)."""

from __future__ import annotations  # as in `statistics`: what hands over a finding needs no torch

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from .arguments import integer

if TYPE_CHECKING:
    from torch import Tensor

Values = Union["Tensor", np.ndarray, Sequence[Any]]

DRAWS = 2000
CHUNK = 4_000_000  # numbers held at once while medians are resampled (32 MB)


def resampled(contexts: Values, draws: int = DRAWS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The draws of every bootstrap over contexts: the context of each example and the contexts of each draw.

    `groups` (n,) numbers the contexts from 0; `picked` (draws, contexts) are such numbers, with replacement.

        import torch
        from entity_circuits import bootstrap

        groups, picked = bootstrap.resampled(torch.tensor([0, 0, 1, 1, 2]), draws=300)
        print(picked.shape)  # 300 draws of 3 contexts
    """
    draws, seed, groups = integer("draws", draws), integer("seed", seed, least=0), numbered(contexts)
    count = int(groups.max()) + 1
    return groups, np.random.default_rng(seed).integers(count, size=(draws, count))


def numbered(contexts: Values) -> np.ndarray:
    """(n,) the context of each example as a number from 0. Raises `ValueError` for none, and for what is no number.

    For example:

        from entity_circuits import bootstrap

        print(bootstrap.numbered([7, 7, 3]))  # [1 1 0]
    """
    given = as_array(contexts)
    if given.ndim != 1 or not len(given) or np.isnan(given).any():
        raise ValueError(f"contexts are one number a prompt, none of them NaN, not of shape {given.shape}")
    # Whole numbers are told apart as such: as floats, those beyond 2**53 would be one.
    whole = np.asarray(contexts.tolist() if hasattr(contexts, "tolist") else contexts)
    groups: np.ndarray = np.unique(whole if whole.dtype.kind in "iu" else given, return_inverse=True)[1]
    return groups


def counts(picked: np.ndarray) -> np.ndarray:
    """(contexts, draws) float64: how many times each draw of `resampled` takes each context.

    For example:

        from entity_circuits import bootstrap

        groups, picked = bootstrap.resampled([0, 0, 1, 2], draws=5)
        print(bootstrap.counts(picked).sum(axis=0))  # 3 contexts a draw
    """
    return np.stack([np.bincount(row, minlength=picked.shape[1]) for row in picked], axis=1).astype(float)


def totals(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(..., contexts): the sum of values (..., n) in each context.

    For example:

        import numpy as np
        from entity_circuits import bootstrap

        print(bootstrap.totals(np.array([1.0, 2, 4]), np.array([0, 0, 1])))  # [3. 4.]
    """
    return values @ np.equal.outer(groups, np.arange(int(groups.max()) + 1)).astype(float)


def means(values: np.ndarray, groups: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(..., draws): the mean of values (..., n) in each draw, `times` as in `counts`; no example is copied.

    For example:

        import numpy as np
        from entity_circuits import bootstrap

        groups, picked = bootstrap.resampled([0, 0, 1, 2], draws=5)
        print(bootstrap.means(np.array([1.0, 0, 1, 1]), groups, bootstrap.counts(picked)))
    """
    return totals(values, groups) @ times / (totals(np.ones(len(groups)), groups) @ times)


def medians(cells: np.ndarray, groups: np.ndarray, picked: np.ndarray) -> np.ndarray:
    """(cells, draws): each draw's median. Draws differ in length where contexts do, so they go one by one.

    For example:

        import numpy as np
        from entity_circuits import bootstrap

        groups, picked = bootstrap.resampled([0, 0, 1, 2], draws=5)
        print(bootstrap.medians(np.array([[1.0, 2, 3, 4]]), groups, picked))
    """
    members = [np.flatnonzero(groups == cluster) for cluster in range(picked.shape[1])]
    if len({len(rows) for rows in members}) > 1:
        return np.stack([np.median(cells[:, np.concatenate([members[i] for i in row])], axis=1) for row in picked], 1)
    rows = np.stack(members)[picked].reshape(len(picked), -1)
    step = max(CHUNK // rows.size, 1)
    return np.concatenate([np.median(cells[i : i + step][:, rows], axis=2) for i in range(0, len(cells), step)])


def as_array(values: Values) -> np.ndarray:
    """Any of tensor, array or sequence as float64 in memory.

    For example:

        import torch
        from entity_circuits import bootstrap

        print(bootstrap.as_array(torch.tensor([True, False])))  # [1. 0.]
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values if values.is_complex() else values.double()).numpy()
    try:
        if np.iscomplexobj(values):
            raise TypeError("a complex number is none that has an order")
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"numbers are needed, one an example, not {values!r}") from error

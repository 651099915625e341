"""What prompts have in common at their beginning goes through the model once.

The queries of a context differ only in their last few tokens. A run that keeps the keys and values of the common
tokens continues from there once for each query: the same numbers, up to rounding, from a fifth of the tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..arguments import boolean
from ..tasks.prompts import Prompts


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts to be run together: their `rows`, and the number of tokens (`prefix`) that those of one context share.

    `spokesmen` are one row of each context, and `context` (n,) says which of them stands for each prompt.
    """

    rows: Tensor
    prefix: int
    spokesmen: Tensor
    context: Tensor


def possible(model: Any) -> bool:
    """Whether a run of this model can be continued for several prompts at once: what it keeps of tokens has rows.

    The states of layers without attention (convolutions, recurrences) cannot be given to several prompts.

        from entity_circuits import toy
        from entity_circuits.runs import prefix

        print(prefix.possible(toy.subject().model))  # True
    """
    return all(hasattr(layer, "batch_select_indices") for layer in DynamicCache(config=model.config).layers)


def batches(prompts: Prompts, size: int, *, share: bool = True) -> Iterator[Batch]:
    """Batches of about `size` prompts. A context is never split; without `share`, no tokens are shared (`prefix` 0).

    For example:

        from entity_circuits import models, prompts
        from entity_circuits.runs import prefix

        texts = [f"The cup is in F and the apple is in G. {letter} contains the" for letter in "FG"]
        p = prompts.from_texts(models.load("qwen2.5-coder-0.5b"), texts, [" cup", " apple"], contexts=[0, 0])
        print([(batch.rows, batch.prefix) for batch in prefix.batches(p, size=70)])
    """
    boolean("share", share)
    every = torch.arange(len(prompts))
    if not share:
        yield from (Batch(rows, 0, rows, torch.arange(len(rows))) for rows in every.split(size))
        return
    members: dict[int, list[int]] = {}
    for row, context in enumerate(prompts.contexts.tolist()):
        members.setdefault(context, []).append(row)
    alike: dict[tuple[int, int], list[list[int]]] = {}
    for rows in members.values():
        alike.setdefault((_common(prompts, rows), len(rows)), []).append(rows)
    for (prefix, count), groups in alike.items():
        for some in torch.tensor(groups).split(max(size // count, 1)):
            context = torch.arange(len(some)).repeat_interleave(count)
            yield Batch(some.flatten(), prefix, some[:, 0], context)


def _common(prompts: Prompts, rows: list[int]) -> int:
    """How many tokens these prompts begin with together, short of the first `last`, which stays to be run."""
    if len(rows) == 1:
        return 0
    ids = prompts.input_ids[rows]
    same = (ids == ids[0]).all(0).int().cumprod(0).sum()
    return min(int(same), int(prompts.last[rows].min()))

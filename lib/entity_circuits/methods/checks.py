"""What a path of path patching has to be, checked before any model runs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import heads
from ..arguments import of_kind, one_of
from ..heads import Head
from ..models.subject import Subject
from ..tasks.prompts import Prompts
from ..tasks.rounds import Composition

CLOSE = {torch.bfloat16: 0.02, torch.float16: 0.02}
"""By what share of their size two ways to the same logits may differ, and 1e-4 in other dtypes: rounding grows with
the size of the logits, so no number of them by itself would do for every model."""

Reach = str
"""Where changed keys and values are heard: "all", or the name of the one position."""


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tables of logits as a share of the largest of them; 0 where all are zero.

    For example:

        import torch
        from entity_circuits.methods import checks

        print(checks.apart(torch.tensor([10.0, -20.0]), torch.tensor([10.0, -19.0])))  # 0.05
    """
    size = torch.maximum(one.abs().max(), other.abs().max()).clamp(min=torch.finfo(one.dtype).tiny)
    return float((one - other).abs().max() / size)


def close(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Whether two tables of logits are the same up to the rounding of a model in this dtype; never for NaN."""
    return apart(one, other) < CLOSE.get(dtype, 1e-4)


def check(
    subject: Subject,
    base: Prompts,
    source: Prompts,
    position: str,
    receivers: Sequence[Head] | None,
    composition: Composition | None,
    reach: Reach,
) -> None:
    """Raise `ValueError` for a path that does not exist.

    Args:
        subject: the model.
        base: n prompts in which an output is replaced.
        source: n prompts from which it comes.
        position: where it is replaced.
        receivers: heads through which it acts; None: none.
        composition: what they receive through, "q", "k" or "v"; None: the answer is read.
        reach: where changed keys and values are heard.
    """
    one_of("composition", composition, Composition | None)
    of_kind("base prompts", base, Prompts)
    base.require_form(source)
    if (receivers is None) != (composition is None):
        raise ValueError("receivers and their composition (q, k or v) are given together, or neither")
    if receivers is None and position != "last":
        raise ValueError(f"without receivers the answer is read at `last`: position must be 'last', not {position!r}")
    if receivers is not None and not receivers:
        raise ValueError("the list of receivers is empty")
    here = base.position(position)
    source.position(position)
    if reach != "all":
        if composition not in ("k", "v"):
            raise ValueError(f"reach={reach!r} says where changed keys and values are heard: composition='k' or 'v'")
        if bool((base.position(reach) < here).any()):
            raise ValueError(f"what is changed at {position!r} cannot be heard at {reach!r}, which comes before it")
    heads.require(receivers or (), subject.layers, subject.heads, "as a receiver")

"""Whether a model still has the weights that it was wrapped with: told in milliseconds, without reading them all.

A fingerprint is of the weights as they were. PyTorch counts the changes of each tensor in place (`_version`), which
sees an edit of a single number; what goes by `.data` is not counted, as where PEFT merges an adapter, so some numbers
of every tensor are compared, too. Missed is only an edit by `.data` that leaves all of these as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SAMPLE = 16
"""How many numbers of each tensor are kept, evenly spread."""


@dataclass(frozen=True, eq=False)
class Weights:
    """What is known of the weights of one model: by name shape, dtype and count of changes, and some numbers of all.

    `model` is its `id`: counts of changes are compared within one model, and not with a copy of it.
    """

    model: int
    tensors: Mapping[str, tuple[torch.Size, torch.dtype, int]]
    numbers: Tensor


def seen(model: Any) -> Weights:
    """The weights of a model as they are now.

    For example:

        from entity_circuits import toy
        from entity_circuits.models import unchanged

        print(len(unchanged.seen(toy.subject().model).tensors))
    """
    tensors = model.state_dict(keep_vars=True)
    told = {name: (one.shape, one.dtype, 0 if one.is_inference() else one._version) for name, one in tensors.items()}
    some = [_some(one.detach()) for one in tensors.values()]
    return Weights(id(model), told, torch.cat(some) if some else torch.zeros(0))


def changed(before: Weights, now: Weights) -> str:
    """The name of a tensor that is not what it was; nothing if all are.

    For example:

        from entity_circuits import toy
        from entity_circuits.models import unchanged

        model = toy.subject().model
        before = unchanged.seen(model)
        model.lm_head.weight[0, 0] += 1
        print(unchanged.changed(before, unchanged.seen(model)))  # lm_head.weight
    """
    if before.tensors.keys() != now.tensors.keys():
        return min(before.tensors.keys() ^ now.tensors.keys())
    whole = 3 if before.model == now.model else 2
    begin = 0
    for name, told in before.tensors.items():
        end = begin + min(SAMPLE, told[0].numel())
        numbers = (one.numbers[begin:end].view(torch.int64) for one in (before, now))  # so that NaN is itself
        if told[:whole] != now.tensors[name][:whole] or not torch.equal(*numbers):
            return name
        begin = end
    return ""


def _some(weight: Tensor) -> Tensor:
    flat = weight.reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLE)][:SAMPLE].cpu().double()  # not every device has float64

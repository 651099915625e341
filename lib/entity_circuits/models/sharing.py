"""Models that are alike share their memory: what an adapter leaves as it is in its base is there already."""

import copy
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..values import digest

Key = tuple[str, ...]
"""What makes a loaded base the one that is asked for: its files, dtype and attention, as text."""

_LOADED: WeakValueDictionary[Key, Any] = WeakValueDictionary()
_CONTENT: dict[Key, list[Any]] = {}


def remember(key: Key, model: Any) -> None:
    """Note that this model, as it is now, is what loading by this key gives; it is not kept alive by that."""
    for gone in _CONTENT.keys() - _LOADED.keys():
        del _CONTENT[gone]
    _LOADED[key], _CONTENT[key] = model, _content(model)


def twin(key: Key) -> Any:
    """`again` of the model that was loaded by this key; None if there is none, or somebody has changed it since."""
    model = _LOADED.get(key)
    return None if model is None or _content(model) != _CONTENT[key] else again(model)


def again(model: Any) -> Any:
    """A model of its own that shares every weight with another one.

    Parameters are new ones on the same memory, so whoever changes one by assignment (as a merged adapter does) changes
    this model alone, and whoever writes into one changes both (so `adapters.merge` copies what PEFT may write into).
    For example:

        from entity_circuits import models
        from entity_circuits.models import sharing

        model = models.load("qwen2.5-coder-0.5b").model
        print(sharing.again(model).lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr())
    """
    with torch.device("meta"):
        made = type(model)._from_config(copy.deepcopy(model.config))
    weights = {name: one.detach() for name, one in model.state_dict().items()}  # a change of one is a change of both
    made.load_state_dict(weights, strict=True, assign=True)
    made.tie_weights()
    for name, buffer in model.named_buffers():  # those that no file holds
        where, _, last = name.rpartition(".")
        made.get_submodule(where).register_buffer(last, buffer.clone(), persistent=name in made.state_dict())
    return made.eval().requires_grad_(False)


def _content(model: Any) -> list[str]:
    """All that `again` takes over: every weight and buffer by `_told`, and the config with the attention it names."""
    tensors = {**dict(model.named_buffers()), **model.state_dict()}
    return [*(_told(one.detach()) for _, one in sorted(tensors.items())), repr(vars(model.config))]


def _told(tensor: Tensor) -> str:
    """A digest of all bits of a tensor where they are, in a second for 3 GB.

    The hash of a row is the same in whatever order its numbers stand, and with an even number of signs turned round; a
    sum weighted by place is not.
    """
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim else tensor.reshape(1, 1)
    weight = torch.arange(1, rows.shape[1] + 1, device=rows.device, dtype=torch.float32).sqrt()
    summed = rows.to(torch.promote_types(rows.dtype, torch.float32)) if rows.dtype != torch.float64 else rows
    return digest(torch.hash_tensor(rows, dim=1).view(torch.int64), summed @ weight.to(summed.dtype))

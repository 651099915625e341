"""Models that are alike share their memory: what an adapter leaves as it is in its base is there already."""

import copy
from typing import Any
from weakref import WeakValueDictionary

import torch

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
    weights = {name: one.data for name, one in model.state_dict().items()}  # whose changes are counted apart
    made.load_state_dict(weights, strict=True, assign=True)
    made.tie_weights()
    for name, buffer in model.named_buffers():  # those that no file holds
        where, _, last = name.rpartition(".")
        made.get_submodule(where).register_buffer(last, buffer.clone(), persistent=name in made.state_dict())
    return made.eval().requires_grad_(False)


def _content(model: Any) -> list[Any]:
    """All that `again` takes over: a number a weight or buffer, from all its bits (half a second for 2 GB), how many
    there are, and the config with the attention that it names."""
    tensors = {**dict(model.named_buffers()), **model.state_dict()}
    numbers = [int(torch.hash_tensor(one.detach()).view(torch.int64)) for _, one in sorted(tensors.items())]
    return [len(numbers), *numbers, repr(vars(model.config))]

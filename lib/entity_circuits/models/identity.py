"""What makes a model the one that it is: its weights, all of its config that computes something, and its tokenizer."""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch

from .. import values

BOOKKEEPING = frozenset(
    {
        *("_name_or_path", "architectures", "dtype", "torch_dtype", "auto_map"),
        *("use_cache", "return_dict", "output_attentions", "output_hidden_states", "initializer_range"),
        *("id2label", "label2id", "problem_type"),
    }
)
"""Fields of a config that say where a model is from, or how it is called, stored or begun; no logit depends on them,
nor on any `*_version`. Everything else counts, also what is not known yet."""


_OF_EVERY_MODULE = frozenset({*vars(torch.nn.Module()), "name_or_path"})
"""Attributes of a module that say nothing of what it computes."""

_OF_A_CARRIER = ("_hf_", "_old_forward", "_is_hf_", "_nnsight", "__nnsight")
"""How names begin that accelerate, transformers and nnsight leave in a module."""

_PLAIN = (bool, int, float, str)

TENSOR = "tensor "
"""How a setting begins that stands for a tensor."""

_COMPUTING = (*_PLAIN, torch.Tensor, FunctionType, BuiltinFunctionType)

_OF_A_CALL = ("padding", "truncation")
"""What a tokenizer was last called with; it is no part of it."""


def fingerprint(model: Any, tokenizer: Any, weights: str | None = None) -> str:
    """A hex digest that differs wherever two models would give other numbers or read a text as other tokens.

    Args:
        model: a model of transformers.
        tokenizer: its tokenizer, or None.
        weights: what names the weights, as the SHA-256 of their file; otherwise they are all hashed.

    Counted are the weights, their dtype, all of the config but `BOOKKEEPING`, the attention implementation, and of the
    tokenizer vocabulary, merges, normalisers and special tokens. How a model would generate text (its
    `generation_config`) does not count: nothing in the engine does, and the book's trainings say themselves how.
    Hooks are not seen: a model with any is refused (see `unchanged`). The same digest in every process and on every
    machine; of a module whose class no package brought, the code and all that it holds count too, and where that cannot
    be told, as of an open file, no two digests are the same.

        from entity_circuits import models
        from entity_circuits.models.identity import fingerprint

        subject = models.load("qwen2.5-coder-0.5b")
        print(fingerprint(subject.model, subject.tokenizer, "these weights")[:12])
    """
    config = model.config
    parts = [
        hash_weights(model) if weights is None else weights,
        type(model).__name__,
        str(next(model.parameters()).dtype),
        str(getattr(config, "_attn_implementation", None)),
        str(getattr(config, "_experts_implementation", None)),
        json.dumps(computing(config), sort_keys=True, default=str),
        _tokens(tokenizer),
    ]
    if own := written_here(model):
        parts.append(json.dumps(own, sort_keys=True))
    return combine(*parts)


def computing(config: Any) -> dict[str, Any]:
    """All of a config of transformers that can change what a model computes; without the fields that are None.

    For example:

        from entity_circuits import models
        from entity_circuits.models.identity import computing

        print(computing(models.load("qwen2.5-coder-0.5b").model.config)["rope_parameters"])
    """
    return _without_bookkeeping(config.to_dict())


def hash_weights(model: Any) -> str:
    """A hex digest of all that the modules of a model hold: tensors, also those never saved, classes and settings.

    For example:

        from entity_circuits import models
        from entity_circuits.models.identity import hash_weights

        print(hash_weights(models.load("qwen2.5-coder-0.5b").model)[:12])
    """
    running = hashlib.sha256()
    for name, module in model.named_modules():
        running.update(f"{name} {type(module).__name__} {settings(module)}\n".encode())
    tensors = {**dict(model.named_buffers()), **model.state_dict()}
    for name, tensor in sorted(tensors.items()):
        running.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        running.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return running.hexdigest()


def settings(module: Any) -> dict[str, bool | int | float | str]:
    """The values of a module that its computation may use, sorted by their names: a tensor that is no buffer stands by
    its digest, a function by that of its code.

    For example:

        from entity_circuits import models
        from entity_circuits.models.identity import settings

        print(settings(models.load("qwen2.5-coder-0.5b").model.model.norm))
    """
    held = ((name, vars(module)[name]) for name in _own_names(module) if not name.startswith("_"))
    found = {name: one for name, one in held if isinstance(one, _COMPUTING)}
    return {name: one if isinstance(one, _PLAIN) else _digest(one) for name, one in found.items()}


def _own_names(module: Any) -> list[str]:
    """What a module holds beside what every module does, and beside methods put over those of all (accelerate's)."""
    return sorted(name for name in vars(module).keys() - _OF_EVERY_MODULE if not hasattr(torch.nn.Module, name))


def _digest(one: Any) -> str:
    return TENSOR + values.digest(one) if isinstance(one, torch.Tensor) else combine(json.dumps(values.plain(one)))


def written_here(model: Any, unknown: Callable[[object], str] = values.nothing_else) -> dict[str, object]:
    """What the modules are whose classes no package brought, by their paths: code, and all that they hold but weights.

    `unknown` stands for what cannot be told (see `values.plain`).

    For example:

        from entity_circuits import toy
        from entity_circuits.models import identity

        print(identity.written_here(toy.subject().model))  # {}
    """
    modules = dict(model.named_modules())
    own = {kind for kind in set(map(type, modules.values())) if not values.installed(kind.__module__)}
    return {
        path: values.plain([type(module), _held(module)], unknown)
        for path, module in modules.items()
        if type(module) in own
    }


def _held(module: Any) -> dict[str, object]:
    """What a module holds of its own: no weights and no other modules, nor what carries the model."""
    own = (name for name in _own_names(module) if not name.startswith(_OF_A_CARRIER) and name != "generation_config")
    found = {name: vars(module)[name] for name in own}
    return {name: computing(one) if hasattr(one, "to_dict") else one for name, one in found.items()}


def combine(*parts: str) -> str:
    """One hex digest of several texts in their order.

    For example:

        from entity_circuits.models.identity import combine

        assert combine("a", "b") != combine("ab")
    """
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _without_bookkeeping(fields: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(name): _without_bookkeeping(value) if isinstance(value, Mapping) else value
        for name, value in fields.items()
        if not (name in BOOKKEEPING or str(name).endswith("_version") or value is None)
    }


def _tokens(tokenizer: Any) -> str:
    """Everything that decides how a text becomes tokens, as text."""
    if tokenizer is None:
        return ""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = _rules(backend.to_str())
    else:
        pieces = getattr(getattr(tokenizer, "sp_model", None), "serialized_model_proto", bytes)()
        told = {"class": type(tokenizer).__name__, "words": tokenizer.get_vocab(), "pieces": pieces.hex()}
        rules = json.dumps(told, sort_keys=True)
    options = ("add_bos_token", "add_eos_token", "clean_up_tokenization_spaces")
    named = {name: str(getattr(tokenizer, name, None)) for name in options}
    rest = (json.dumps(one, sort_keys=True, default=str) for one in (tokenizer.special_tokens_map, named))
    return f"[{', '.join((rules, *rest))}]"


@lru_cache(maxsize=1)  # a base and its relatives share one tokenizer, whose megabytes take a second to sort
def _rules(backend: str) -> str:
    rules = json.loads(backend)
    return json.dumps({name: rules[name] for name in rules if name not in _OF_A_CALL}, sort_keys=True)

"""Whether a model is still the one that was wrapped: told in milliseconds, without reading all of its weights.

A fingerprint is of a model as it was. PyTorch counts the changes of each tensor in place (`_version`), which sees an
edit of a single number; what goes by `.data` is not counted, as where PEFT merges an adapter, so a row and a column of
every tensor are compared, too. Missed is only an edit by `.data` that leaves both as they are. Beside the weights a
model is its buffers (what is in them: some rotations write the same into theirs in each run), the classes and plain
settings of its modules, its config, and the code of classes that no package brought, with what their modules hold:
these are compared whole.

Hooks, of one module or of all at once, and a `forward` put into a module are in no fingerprint, nor is training mode,
nor code that was put into transformers or torch: a method into a class, a function into the module of a family or in
the place of an implementation of attention. A model with any of them is refused.
"""

import functools
import sys
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as every_module
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .identity import BOOKKEEPING, TENSOR, settings, written_here

COLUMN = 512
"""How many numbers of one column of each tensor are kept at most, evenly spread; of one row, all are."""

SMALL = 256
"""A tensor of no more numbers is kept whole."""

CARRIERS = frozenset({"accelerate", "nnsight", "torch", "transformers"})
"""Whose hooks and forwards only carry a model: they move it between devices, compile it, or look into it."""

ATTENTION = ("sdpa", "eager")
"""The implementations of attention that heed an edited mask."""

PYTHON = sys.stdlib_module_names
"""What the code of a model takes functions from, beside its own library."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""What a module keeps of its hooks; those on the way back change the gradients that masks are learned by."""


@dataclass(frozen=True, eq=False)
class State:
    """What is known of one model: by name each tensor's shape, dtype and count of changes, and some numbers of all;
    by name each module's class and settings; the config; what no package brought.

    `model` is its `id`: counts of changes are compared within one model, and not with a copy of it.
    """

    model: int
    tensors: Mapping[str, tuple[torch.Size, torch.dtype, int]]
    numbers: Tensor
    modules: Mapping[str, tuple[type, Mapping[str, Any]]]
    config: Mapping[str, str]
    own: Mapping[str, object]


def seen(model: Any) -> State:
    """A model as it is now.

    For example:

        from entity_circuits import toy
        from entity_circuits.models import unchanged

        print(len(unchanged.seen(toy.subject().model).tensors))
    """
    tensors: dict[str, Tensor] = {}
    told, modules = {}, {}
    for path, module in model.named_modules():
        modules[path] = (type(module), settings(module))
        for held in (module._parameters, module._buffers):
            for name, one in held.items():
                if one is not None:
                    full = f"{path}.{name}" if path else name
                    counted = name not in module._non_persistent_buffers_set and not one.is_inference()
                    tensors[full], told[full] = one, (one.shape, one.dtype, one._version if counted else 0)
    some = [_some(one.detach()) for one in tensors.values()]
    config = vars(model.config) if hasattr(model, "config") else {}
    numbers = torch.cat(some or [torch.zeros(0)]).double()  # on the CPU, since not every device has float64
    own = written_here(model, unknown=lambda one: f"{type(one).__name__} {id(one)}")
    return State(id(model), told, numbers, modules, {name: repr(value) for name, value in config.items()}, own)


def changed(before: State, now: State) -> str:
    """The name of a tensor, module or setting that is not what it was; nothing if all are.

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
    whole, begin = 3 if before.model == now.model else 2, 0
    numbers = [one.numbers.view(torch.int64) for one in (before, now)]  # so that NaN is itself
    alike = torch.equal(*numbers)
    for name, told in before.tensors.items():
        some = slice(begin, begin := begin + _many(told[0]))
        if told[:whole] != now.tensors[name][:whole] or not (alike or torch.equal(*(one[some] for one in numbers))):
            return name
    for path, (kind, plain) in before.modules.items():
        here, other = now.modules.get(path, (None, {}))
        if here is not kind:
            return path
        # Some rotations keep a table when they are first asked for it.
        other = {name: one for name, one in other.items() if name in plain or not str(one).startswith(TENSOR)}
        if name := _apart(plain, other):
            return f"{path}.{name}"
    if name := _apart(before.own, now.own):
        return name
    name = min(now.modules.keys() - before.modules.keys(), default="")
    return name or (f"config.{field}" if (field := _apart(before.config, now.config)) else "")


def foreign(model: Any) -> str:
    """What makes a model another one than its weights and its config say, in words; nothing for a plain model.

    For example:

        from entity_circuits import toy
        from entity_circuits.models import unchanged

        model = toy.subject().model
        model.lm_head.register_forward_hook(lambda module, given, output: 2 * output)
        print(unchanged.foreign(model))  # a hook on lm_head
    """
    if not all(_carries(hook) for kind in HOOKS for hook in getattr(every_module, f"_global{kind}").values()):
        return "a hook for all modules, so also on the model itself"
    modules = [model]
    for module in modules:  # which grows: a walk of its own, since `modules()` takes three times as long
        held = vars(module)
        odd = held.get("training") or "forward" in held or any(held[kind] for kind in HOOKS)
        if odd and (what := _foreign(held)):
            path = next(path for path, one in model.named_modules() if one is module)
            return f"{what} {path or 'the model itself'}"
        modules.extend(one for one in held["_modules"].values() if one is not None)
    return _replaced({type(module) for module in modules})


def _foreign(held: Mapping[str, Any]) -> str:
    if not all(_carries(hook) for kind in HOOKS for hook in held[kind].values()):
        return "a hook on"
    if "forward" in held and not _carries(held["forward"]):
        return "a forward of its own in"
    return "training mode in" if held.get("training") else ""


def _replaced(kinds: Iterable[type]) -> str:
    """What somebody put into the code of torch or transformers that these classes run by, in words."""
    for kind in {base for one in kinds for base in one.__mro__}:
        held = vars(sys.modules.get(kind.__module__, object))
        if not _is_of(kind.__module__, CARRIERS) or held.get(kind.__name__) is not kind:  # a class of the user's own
            continue
        # Who counts or times all modules does so by `Module`, which computes nothing.
        if kind is not torch.nn.Module and (name := _strange(vars(kind), held)):
            return f"a {name} of its own in the class {kind.__name__}"
        if kind.__module__.startswith("transformers.models.") and (name := _strange(held, held)):
            return f"a {name} of its own in {kind.__module__}"
    for registered in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        if name := _strange({name: registered[name] for name in ATTENTION if name in registered}, {}):
            return f"a function of its own for the attention {name!r} of transformers"
    return ""


def _strange(held: Mapping[str, Any], home: Mapping[str, Any]) -> str:
    """The name of a function of these that is neither of Python nor of a library that computes or carries models.

    `home` is all of the module that most of them are from, which spares a look at each.
    """
    for name, one in held.items():
        asked = one.__globals__ is not home if type(one) is FunctionType else name == "forward"
        if asked and not _is_of(_where(one), CARRIERS | PYTHON):
            return name
    return ""


def _carries(function: Any) -> bool:
    """Whether a hook or a forward is of a library that only carries the model, whatever name it goes by."""
    return _is_of(_where(function), CARRIERS)


def _where(function: Any) -> object:
    """The module that what is called was written in."""
    while type(function) in (functools.partial, MethodType):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    return function.__globals__.get("__name__") if isinstance(function, FunctionType) else type(function).__module__


def _is_of(module: object, packages: Set[str]) -> bool:
    return str(module).partition(".")[0] in packages


def _apart(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The name of what differs; of a config nothing counts that no logit depends on."""
    names = (name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return min((name for name in names if name not in BOOKKEEPING), default="")


def _some(weight: Tensor) -> Tensor:
    """Of a large tensor one row and one column, so that no head, and no stripe of either kind, is changed unseen."""
    if weight.numel() <= SMALL:
        return weight.reshape(-1).cpu()
    rows = weight.reshape(-1, weight.shape[-1])
    column = rows[:: -(-len(rows) // COLUMN), rows.shape[1] // 2]
    return torch.cat((rows[len(rows) // 2], column)).cpu()


def _many(shape: torch.Size) -> int:
    """How many numbers `_some` takes of a tensor."""
    if shape.numel() <= SMALL:
        return shape.numel()
    rows = shape.numel() // shape[-1]
    return shape[-1] + -(-rows // -(-rows // COLUMN))

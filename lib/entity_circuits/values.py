"""What a value is, as JSON: another wherever the value is another. Tensors by digests, functions by their code."""

import dis
import hashlib
import json
import secrets
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache, cached_property
from inspect import isdatadescriptor
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

DYNAMIC = frozenset({"globals", "eval", "exec", "import_module"})
"""What code that calls it goes by cannot be told from its names."""


def nothing_else(_: object) -> str:
    """What no other value has, ever.

    For example:

        from entity_circuits import values

        assert values.nothing_else(1) != values.nothing_else(1)
    """
    return secrets.token_hex()


@dataclass(frozen=True)
class _Walk:
    """What is known on the way through a value: of which of its parts nothing can be told, and what was met before.

    `met` numbers the functions and classes that were written down before: they may name themselves and each other.
    """

    unknown: Callable[[object], str]
    met: dict[int, int] = field(default_factory=dict)


def plain(value: object, unknown: Callable[[object], str] = nothing_else) -> object:
    """A JSON value that differs where the value does.

    Prompts and tensors stand by their digests, functions and classes by their code and all that it names, and all else
    as it is written.

    Args:
        value: anything.
        unknown: what stands for a part of which it cannot be told what it is; by default what no other value has.

    For example:

        from entity_circuits import values

        assert values.plain(lambda x: x + 1) != values.plain(lambda x: x + 2)
    """
    return _plain(value, _Walk(unknown))


def digest(*tensors: Tensor) -> str:
    """A hex digest of the shapes, dtypes and values of tensors.

    For example:

        import torch
        from entity_circuits import values

        assert values.digest(torch.ones(3)) != values.digest(torch.ones(3).double())
    """
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        total.update(content(tensor).numpy().data)
    return total.hexdigest()[:20]


def content(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, as uint8 on the CPU.

    For example:

        import torch
        from entity_circuits import values

        print(values.content(torch.ones(2)))  # 4 bytes a number
    """
    plain = tensor.detach().cpu().contiguous()
    if not plain.numel():
        return torch.empty(0, dtype=torch.uint8)
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8)  # dimensions of one have any stride, and keep it


def _plain(value: object, walk: _Walk) -> object:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return digest(value)
    if isinstance(value, np.generic):  # a number is the same number, whoever made it
        return value.item()
    if isinstance(value, FunctionType | BuiltinFunctionType | type):
        return _plain_code(value, walk)
    if installed(type(value).__module__):
        return _plain_content(value, walk)
    # Of a class of the reader's, what its methods do counts, and what an instance holds beside what makes it one.
    told = {one.name for one in fields(value)} if is_dataclass(value) else set()
    told |= {
        name for kind in type(value).__mro__ for name, one in vars(kind).items() if isinstance(one, cached_property)
    }
    held = getattr(value, "__dict__", {})
    beside = {name: _plain(held[name], walk) for name in sorted(held.keys() - told)}
    return {"of": _plain_code(type(value), walk), "content": _plain_content(value, walk), "beside": beside}


def _plain_content(value: object, walk: _Walk) -> object:
    """What a value holds, whatever else its class does."""
    for base in (int, float, str):
        if isinstance(value, base):
            return base.__str__(value) if base is str else base(value)
    if isinstance(own := getattr(value, "digest", None), str):
        return own
    if isinstance(value, Mapping):
        return [[_plain(name, walk), _plain(one, walk)] for name, one in value.items()]
    known = installed(type(value).__module__)
    if is_dataclass(value) and (callable(value) or not known or type(value).__str__ is object.__str__):
        plain = {one.name: _plain(getattr(value, one.name), walk) for one in fields(value)}
        return {"of": _plain_code(type(value), walk), **plain} if callable(value) else plain
    if isinstance(value, Set):
        return sorted((_plain(one, walk) for one in value), key=json.dumps)
    if isinstance(value, Sequence):
        return [_plain(one, walk) for one in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist(), walk)
    if is_dataclass(value) or isinstance(value, torch.dtype | torch.device | Path):
        return str(value)
    return walk.unknown(value)


def _plain_code(made: Any, walk: _Walk) -> object:
    """What a function or class does, as far as it can be told: its code, what it has from around it, and, unless it was
    installed, what its module holds by the names in its code."""
    home = "__main__" if made.__module__ == "__mp_main__" else made.__module__  # the script of a pool, in its workers
    name = f"{home} {made.__qualname__}"
    if id(made) in walk.met:
        return f"{name} {walk.met[id(made)]}"
    walk.met[id(made)] = len(walk.met)
    if isinstance(made, FunctionType):
        parts = _parts_of(made.__code__)
        if not DYNAMIC.isdisjoint(_looked_up(parts)):
            return walk.unknown(made)
        kept = [_plain(cell.cell_contents, walk) for cell in made.__closure__ or ()]
        given = [_plain(one, walk) for one in (*(made.__defaults__ or ()), *(made.__kwdefaults__ or {}).values())]
        named = {one for part in parts for one in part.co_names}
        around, beside = {}, {}
        if not installed(made.__module__):
            imported = _imported(parts, made.__globals__)
            around = _around(named | imported.keys(), made.__globals__ | imported, walk, set())
            beside = {one: _plain(vars(made)[one], walk) for one in sorted(vars(made))}
        return [home, [_plain_part(part) for part in parts], kept, given, around, beside]
    if installed(made.__module__) or (isinstance(made, BuiltinFunctionType) and made.__module__):  # none of an object
        return name
    if not isinstance(made, type):
        return walk.unknown(made)
    plain = {key: _plain(one, walk) for key, one in sorted(_own(made).items())}
    return [name, plain, _plain(made.__bases__, walk)]


def _own(made: type) -> dict[str, object]:
    """What a class of the reader's says itself: its methods and values, not what Python writes into every class."""
    found: dict[str, object] = {}
    for key, one in vars(made).items():
        inner = getattr(one, "__func__", getattr(one, "fget", getattr(one, "func", one)))
        if isinstance(inner, FunctionType) and not _written(inner):
            found |= {} if key.startswith("__") else {key: f"{inner.__module__} {inner.__qualname__}"}
        elif isinstance(inner, FunctionType) or not (key.startswith("__") or _slot(inner)):
            found[key] = inner
        if key == "__dataclass_fields__":
            made_by = {name: field_.default_factory for name, field_ in getattr(made, key).items()}
            found[key] = {name: how for name, how in made_by.items() if how is not MISSING}
    return found


def _slot(one: object) -> bool:
    """Whether this is where instances hold a field, as in a class with slots or a named tuple."""
    return isdatadescriptor(one) and type(one).__module__ in ("builtins", "_collections")


def _written(method: FunctionType) -> bool:
    """Whether a method was written by the reader, and not by what makes dataclasses and named tuples."""
    home = str(method.__globals__.get("__name__"))
    made = method.__code__.co_qualname.startswith("__create_fn__") or home.startswith("namedtuple_")
    return not (made or installed(home))


def _looked_up(parts: list[CodeType]) -> set[str]:
    """The names that code looks up by themselves, and not in something else."""
    steps = (step for part in parts for step in dis.get_instructions(part))
    return {str(step.argval) for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}


def _imported(parts: list[CodeType], space: dict[str, Any]) -> dict[str, object]:
    """What code imports when it runs, by how it asks for it; None for what is not there."""
    found: dict[str, object] = {}
    for part in parts:
        steps = [step for step in dis.get_instructions(part) if step.opname != "EXTENDED_ARG"]
        for level, names, step in zip(steps, steps[1:], steps[2:], strict=False):
            if step.opname == "IMPORT_NAME":
                asked = f"import {step.argval} {names.argval} {level.argval}"
                try:
                    found[asked] = __import__(step.argval, space, None, names.argval or (), level.argval)
                except ImportError:
                    found[asked] = None
    return found


def _around(named: set[str], space: Mapping[str, object], walk: _Walk, seen: set[int]) -> dict[str, object]:
    """What a module holds by these names, also those of them that are looked up in another module of the reader's.

    `seen` are the modules in which these very names were looked up before: modules may name each other.
    """
    found: dict[str, object] = {}
    for name in sorted(named & space.keys()):
        one = space[name]
        if not isinstance(one, ModuleType):
            found[name] = _plain(one, walk)
        elif installed(one.__name__) or id(one) in seen:
            found[name] = one.__name__
        else:
            seen.add(id(one))
            found[name] = _around(named, vars(one), walk, seen)
    return found


def installed(module: str | None) -> bool:
    """Whether a module came with Python or a package, or is of this one, whose code is in every key.

    For example:

        from entity_circuits import values

        assert values.installed("torch.nn") and not values.installed("__main__")
    """
    top, file = str(module).partition(".")[0], getattr(sys.modules.get(str(module)), "__file__", None)
    if top in (__name__.partition(".")[0], *sys.builtin_module_names):
        return True
    return top != "__main__" and file is not None and any(Path(file).is_relative_to(folder) for folder in _folders())


@cache
def _folders() -> frozenset[str]:
    """Where Python and packages are."""
    return frozenset(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _parts_of(made: CodeType) -> list[CodeType]:
    """A piece of code, and those in it."""
    return [made, *(part for one in made.co_consts if isinstance(one, CodeType) for part in _parts_of(one))]


def _plain_part(made: CodeType) -> object:
    plain = (sorted(one, key=repr) if isinstance(one, frozenset) else one for one in made.co_consts)
    constants = [repr(one) for one in plain if not isinstance(one, CodeType)]
    return [made.co_code.hex(), constants, *made.co_names]

"""What a value is, as JSON: another wherever the value is another. Tensors by digests, functions by their code."""

import dis
import hashlib
import json
import secrets
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return digest(value)
    if isinstance(value, np.generic):  # a number is the same number, whoever made it
        return value.item()
    if isinstance(value, FunctionType | BuiltinFunctionType | type):
        return _plain_code(value, walk)
    if isinstance(own := getattr(value, "digest", None), str):
        return own
    if isinstance(value, Mapping):
        return {str(name): _plain(one, walk) for name, one in sorted(value.items())}
    if is_dataclass(value) and (callable(value) or type(value).__str__ is object.__str__):
        plain = {one.name: _plain(getattr(value, one.name), walk) for one in fields(value)}
        return {"of": _plain_code(type(value), walk), **plain} if callable(value) else plain
    if isinstance(value, Set):
        return sorted((_plain(one, walk) for one in value), key=json.dumps)
    if isinstance(value, Sequence):
        return [_plain(one, walk) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), walk)
    if is_dataclass(value) or isinstance(value, torch.dtype | torch.device | Path):
        return str(value)
    return walk.unknown(value)


def _plain_code(made: Any, walk: _Walk) -> object:
    """What a function or class does, as far as it can be told: its code, what it has from around it, and, unless it was
    installed, what its module holds by the names in its code."""
    name = f"{made.__module__} {made.__qualname__}"
    if id(made) in walk.met:
        return f"{name} {walk.met[id(made)]}"
    walk.met[id(made)] = len(walk.met)
    if isinstance(made, FunctionType):
        parts = _parts_of(made.__code__)
        kept = [_plain(cell.cell_contents, walk) for cell in made.__closure__ or ()]
        given = [_plain(one, walk) for one in (*(made.__defaults__ or ()), *(made.__kwdefaults__ or {}).values())]
        named = {one for part in parts for one in part.co_names}
        around = {}
        if not installed(made.__module__):
            imported = _imported(parts, made.__globals__)
            around = _around(named | imported.keys(), made.__globals__ | imported, walk, set())
        return [made.__module__, [_plain_part(part) for part in parts], kept, given, around]
    if installed(made.__module__):
        return name
    if not isinstance(made, type):
        return walk.unknown(made)
    own = {key: one for key, one in sorted(vars(made).items()) if key == "__call__" or not key.startswith("__")}
    plain = {key: _plain(getattr(one, "__func__", getattr(one, "fget", one)), walk) for key, one in own.items()}
    return [name, plain, _plain(made.__bases__, walk)]


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
    constants = [repr(one) for one in made.co_consts if not isinstance(one, CodeType)]
    return [made.co_code.hex(), constants, *made.co_names]

"""Which chapters use which function, read off their code: no list of it is kept by hand."""

import ast
import importlib
import inspect
import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("entity_circuits", "entity_book")


@dataclass(frozen=True)
class _Value:
    """A value of this class, as opposed to the class itself."""

    kind: type


@cache
def chapters(folder: Path) -> dict[str, tuple[str, ...]]:
    """The full name of each function, class, method or property that chapters name -> these chapters, in order.

    `folder` holds the notebooks. A function counts by whatever name it is imported. A method counts where the types of
    the library say what it is called on: what functions return, what the fields of classes are.
    """
    found: dict[str, dict[str, None]] = {}
    for path in sorted(folder.glob("*.ipynb")):
        known: dict[str, Any] = {}
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                for name in _named(ast.parse("".join(cell["source"])), known):
                    found.setdefault(name, {})[path.stem] = None
    return {name: tuple(those) for name, those in found.items()}


def sentence(names: tuple[str, ...]) -> str:
    """`Used in chapters 3 and A1.`, as reStructuredText with links, for the names of these chapters."""
    links = [f":doc:`{name.partition('_')[0].lstrip('0').upper()} </chapters/{name}>`" for name in names]
    listed = " and ".join([", ".join(links[:-1]), links[-1]] if links[1:] else links)
    return f"Used in {'chapters' if links[1:] else 'chapter'} {listed}."


def _named(tree: ast.Module, known: dict[str, Any]) -> Iterator[str]:
    """The full names of all that one cell names; `known` are the names of the cells before it, and grows."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES:
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                known[alias.asname or alias.name] = _of_module(module, alias.name)
        elif isinstance(node, ast.Assign):
            value = _look(node.value, known)[1]
            for target in node.targets:
                _bind(target, value, known)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            named = _look(node, known)[0]
            if (inspect.isfunction(named) or inspect.isclass(named)) and named.__module__.startswith(PACKAGES):
                yield f"{named.__module__}.{named.__qualname__}"


def _bind(target: ast.expr, value: Any, known: dict[str, Any]) -> None:
    """What a name, or a row of names, stands for from here on."""
    if isinstance(target, ast.Name):
        known[target.id] = value
    elif isinstance(target, ast.Tuple):
        parts = value if isinstance(value, tuple) and len(value) == len(target.elts) else (None,) * len(target.elts)
        for one, part in zip(target.elts, parts, strict=True):
            _bind(one, part, known)


def _look(node: ast.expr, known: dict[str, Any]) -> tuple[Any, Any]:
    """What an expression names, if anything, and what its value is; None for what is not known.

    A value is a module, a function, a class, a `_Value` or a tuple of these.
    """
    if isinstance(node, ast.Name):
        return (known.get(node.id),) * 2
    if isinstance(node, ast.Call):
        called = _look(node.func, known)[1]
        if inspect.isclass(called):
            return None, _Value(called)
        return None, _typed(_hints(called).get("return"))
    if not isinstance(node, ast.Attribute):
        return None, None
    before = _look(node.value, known)[1]
    if isinstance(before, ModuleType):
        return (_of_module(before, node.attr),) * 2
    kind = before.kind if isinstance(before, _Value) else before
    if not inspect.isclass(kind):
        return None, None
    member = inspect.getattr_static(kind, node.attr, None)
    if isinstance(member, property):
        return member.fget, _typed(_hints(member.fget).get("return"))
    member = getattr(member, "__func__", member)
    return (member, member) if inspect.isfunction(member) else (None, _typed(_hints(kind).get(node.attr)))


def _of_module(module: ModuleType, name: str) -> Any:
    """A name of a module, or a module of a package; None if there is neither."""
    if not hasattr(module, name) and hasattr(module, "__path__"):
        return importlib.import_module(f"{module.__name__}.{name}")
    return getattr(module, name, None)


def _hints(thing: Any) -> dict[str, Any]:
    """The types that a function or a class of the library says; nothing for any other."""
    if not (getattr(thing, "__module__", None) or "").startswith(PACKAGES):
        return {}
    try:
        return typing.get_type_hints(thing)
    except NameError:  # said for type checkers alone
        return {}


def _typed(hint: Any) -> Any:
    """The `_Value` that a type says, or a tuple of them; of several classes the first."""
    if typing.get_origin(hint) is tuple:
        return tuple(map(_typed, typing.get_args(hint)))
    classes = [one for one in (typing.get_args(hint) or (hint,)) if inspect.isclass(one) and one.__module__]
    return _Value(classes[0]) if classes and typing.get_origin(hint) not in (list, dict) else None

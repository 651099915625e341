"""What code is, as a digest: of a module and all that it imports here, without what computes nothing."""

import ast
import copy
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path


def code(*modules: str) -> str:
    """A hex digest of the code of modules, by name, and of all that they import from their package or from this one.

    Results computed by other code are other results; docstrings and comments compute nothing and do not count. A
    module is read once a process, when first asked for. Raises `ValueError` for a module without a file.

        from entity_circuits import digests

        assert digests.code("entity_circuits.heads") != digests.code("entity_circuits.results")
    """
    total = hashlib.sha256()
    for name in sorted(_reached(modules)):
        total.update(f"{name} {_read_module(name)[0]}\n".encode())
    return total.hexdigest()[:20]


def _reached(modules: Iterable[str]) -> set[str]:
    """These modules and all that they import, directly or not."""
    found: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += _read_module(name)[1]
    return found


@cache
def _read_module(name: str) -> tuple[str, tuple[str, ...]]:
    """The digest of a module's code, and the modules that it imports from its own package or from this one."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"the code of {name} cannot be read: it is no module with a file")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    own = {name.partition(".")[0], __name__.partition(".")[0]}
    package = name if spec.submodule_search_locations else name.rpartition(".")[0]
    imports = {one for one in _imported(tree, package) if one.partition(".")[0] in own}
    return code_of(tree), tuple(sorted(imports))


def code_of(tree: ast.Module) -> str:
    """A hex digest of parsed code, without docstrings (those of constants, too) and comments.

    For example:

        import ast

        from entity_circuits import digests

        assert digests.code_of(ast.parse("x = 1  # one")) == digests.code_of(ast.parse("x=1"))
    """
    plain = copy.deepcopy(tree)
    for node in ast.walk(plain):
        for name in ("body", "orelse", "finalbody"):
            if isinstance(body := getattr(node, name, None), list) and body:
                left = [one for one in body if not _is_text(one)]
                setattr(node, name, left or [ast.Pass()])
    return hashlib.sha256(ast.unparse(plain).encode()).hexdigest()


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a text that nobody uses: a docstring, of whatever it is one."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The full names of the modules that are imported anywhere in a module of this package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            where = ".".join([*inside, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{where}.{alias.name}" if _is_module(where, alias.name) else where


def _is_module(package: str, name: str) -> bool:
    """Whether this name of a package is a module of it."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return any((Path(one) / f"{name}.py").is_file() or (Path(one) / name).is_dir() for one in folders or ())

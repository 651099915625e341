"""The code that a chapter runs: what its cells import, directly or not, module by module.

Read off the text of the files, so that nothing has to run to know whether a chapter is out of date. Docstrings and
comments do not count. What code does beyond an `import` statement (`importlib`, `%run`) is not seen here; which files a
kernel really opened is noted while it runs (`opened`), and counts as well.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import entity_circuits
from entity_circuits.digests import code_of

from .inputs import LIB, PACKAGES

EVERY = ("entity_book.build.chapter", "entity_book.build.kernel")
"""What shapes each executed copy, whatever its notebook imports."""


def modules(root: Path, cells: Iterable[str]) -> dict[str, str]:
    """Name -> digest of every module of this project that these code cells reach, and of `EVERY`, in order of names.

    Looked for are the two packages beside this file, and what else lies in `root` or `root/lib`; all others come with
    the pinned versions. Of a cell that is not Python, even without its magics, `opened` tells.

    >>> "entity_circuits.statistics" in modules(Path("nowhere"), ["from entity_circuits import statistics"])
    True
    """
    found: dict[str, str] = {}
    todo = [*EVERY, *(name for cell in cells for name in _asked(root, _needs(_python(cell), "")))]
    while todo:
        name = todo.pop()
        path = file(root, name)
        if path is None or name in found:
            continue
        found[name], needs = _read(path.read_text(encoding="utf-8"), _package(path, name))
        todo += _asked(root, needs)
    return dict(sorted(found.items()))


def file(root: Path, name: str) -> Path | None:
    """The file of a module of this project by its full name; None for any other, and for a folder without code."""
    for folder in [LIB] if name.partition(".")[0] in PACKAGES else [root, root / "lib"]:
        path = folder.joinpath(*name.split("."))
        for one in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if one.is_file():
                return one
    return None


def _asked(root: Path, needs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The modules that are loaded for these imports: each with the packages around it, whose code runs first."""
    for module, name in needs:
        inside = _behind(f"{module}.{name}")
        for one in (module, inside) if name and file(root, inside) else (module,):
            parts = _behind(one).split(".")
            yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _behind(name: str) -> str:
    """The name of a module by the folder that it lies in, where the engine has a shorter one for it."""
    package, _, last = name.rpartition(".")
    table = entity_circuits.FRONT_DOOR
    return f"{package}.{table[last]}" if package == entity_circuits.__name__ and last in table else name


def _package(path: Path, name: str) -> str:
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


@lru_cache(maxsize=1024)
def _read(text: str, package: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The digest of a module's code, and what it imports; of what is no Python that of its text, for it cannot run."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return hashlib.sha256(text.encode()).hexdigest()[:20], ()
    return code_of(tree)[:20], tuple(_needs(tree, package))


def _needs(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """Module and name of each import that can ever run, in functions too; a whole module has the name ""."""
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            where = ".".join([*inside, *([node.module] if node.module else [])])
            yield from ((where, alias.name) for alias in node.names)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        typed = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        todo += node.orelse if typed and isinstance(node, ast.If) else ast.iter_child_nodes(node)


def _python(cell: str) -> ast.Module:
    """A cell as Python: as it stands, or without its lines of magics; empty if that is no Python either."""
    plain = "\n".join(line for line in cell.splitlines() if not line.lstrip().startswith(("%", "!")))
    for text in (cell, plain):
        try:
            return ast.parse(text)
        except SyntaxError:
            continue
    return ast.Module([], [])

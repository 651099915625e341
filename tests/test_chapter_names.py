"""The code of chapters, solutions and documents: the library has the names that they use. Only imports are run."""

import ast
import builtins
import importlib
import json
import pkgutil
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import entity_book
import entity_circuits
import pytest
from entity_circuits import places

CHAPTERS = sorted((places.ROOT / "chapters").glob("*.ipynb"))
DOCUMENTS = [places.ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")]
DOCUMENTS += sorted((places.ROOT / "book").glob("*.md"))

FENCE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
IN_PROSE = re.compile(r"`(?:print\()?([a-z]\w*)\.([A-Za-z]\w*)[^`]*`")
ENDINGS = {"py", "md", "toml", "json", "ipynb", "txt", "yml", "csv"}  # `toy.py` is a file


def cells(path: Path, kind: str) -> list[str]:
    """The sources of a chapter's cells of one kind; a document is one text."""
    if path.suffix == ".md":
        return [path.read_text("utf-8")] if kind == "markdown" else []
    found = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def imported(trees: list[ast.Module]) -> dict[str, object]:
    """What the import statements of these pieces of code give; nothing else of them is executed."""
    imports = (ast.Import, ast.ImportFrom)
    statements: list[ast.stmt] = [node for tree in trees for node in tree.body if isinstance(node, imports)]
    names: dict[str, object] = {}
    exec(compile(ast.Module(statements, []), "imports", "exec"), names)
    return names


def named(node: ast.expr, names: dict[str, object]) -> object:
    """What an expression such as `models.pair` stands for by these names, or None."""
    if isinstance(node, ast.Attribute):
        return getattr(named(node.value, names), node.attr, None)
    return names.get(node.id) if isinstance(node, ast.Name) else None


def missing(tree: ast.AST, names: dict[str, object]) -> list[str]:
    """Each `module.name` in this code of which the module knows nothing."""
    reads = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    owners = ((node, named(node.value, names)) for node in reads)
    return [ast.unparse(node) for node, it in owners if isinstance(it, ModuleType) and not hasattr(it, node.attr)]


def bound(tree: ast.AST) -> set[str]:
    """The names that this code gives to something itself."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


@cache
def by_name() -> dict[str, list[ModuleType]]:
    """Both packages, and every module of them by the last part of its name."""
    found: dict[str, list[ModuleType]] = {one.__name__: [one] for one in (entity_circuits, entity_book)}
    for package in (entity_circuits, entity_book):
        for one in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            found.setdefault(one.name.rpartition(".")[2], []).append(importlib.import_module(one.name))
    return found


@pytest.mark.parametrize("path", [*CHAPTERS, *DOCUMENTS], ids=lambda path: path.name)
def test_what_the_code_of_a_page_takes_from_a_module_is_there(path):
    trees = [ast.parse(source) for source in cells(path, "code")]
    fenced = [ast.parse(code) for text in cells(path, "markdown") for code in FENCE.findall(text)]
    own = {name for tree in trees for name in bound(tree)}  # a name may be given to something else on the page
    names = {name: thing for name, thing in imported([*trees, *fenced]).items() if name not in own}
    assert not [one for tree in [*trees, *fenced] for one in missing(tree, names)]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_a_solution_names_nothing_that_its_page_has_not_made(path):
    page = [ast.parse(source) for source in cells(path, "code")]
    for code in (code for text in cells(path, "markdown") for code in FENCE.findall(text)):
        trees = [*page, ast.parse(code)]
        nodes = [node for tree in trees for node in ast.walk(tree)]
        known = {*dir(builtins), *imported(trees), *(name for tree in trees for name in bound(tree))}
        known |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        known |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        used = {node.id for node in ast.walk(trees[-1]) if isinstance(node, ast.Name)}
        assert not used - known, code


@pytest.mark.parametrize("path", [*CHAPTERS, *DOCUMENTS], ids=lambda path: path.name)
def test_what_the_prose_calls_by_the_name_of_its_module_is_there(path):
    prose = [FENCE.sub("", text) for text in cells(path, "markdown")]
    defined = {name for source in cells(path, "code") for name in bound(ast.parse(source))}
    for text in prose:
        for module, name in IN_PROSE.findall(text):
            owners = by_name().get(module, [])
            if owners and module not in defined and name not in ENDINGS:
                assert any(hasattr(owner, name) for owner in owners), f"{module}.{name}"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_no_cell_of_a_chapter_has_more_than_ten_lines_but_for_imports_and_parameters(path):
    found = json.loads(path.read_text("utf-8"))["cells"]
    own = [cell for cell in found if cell["cell_type"] == "code" and cell["id"] not in ("imports", "parameters")]
    assert own and not [cell["id"] for cell in own if len("".join(cell["source"]).splitlines()) > 10]


def test_a_name_that_has_moved_is_noticed():
    tree = ast.parse("from entity_circuits import ablation\nablation.means, ablation.hand_over.x, other.thing")
    assert missing(tree, imported([tree])) == ["ablation.hand_over"]

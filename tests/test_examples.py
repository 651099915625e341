"""Everything public in the engine has a docstring, which names many parameters one by one; every example runs as is.

Not everything has an example, but each function that a chapter calls does. The example is the indented block at the
end. It runs in a namespace of its own, with tiny models in place of the large ones and in an empty folder: it has to
import what it uses and to make what it needs.
"""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
from entity_book.build import used
from entity_circuits import models, places
from entity_circuits.models import loading, weights

ENGINE = places.ROOT / "lib" / "entity_circuits"
MANY = 4
"""A function with more parameters than these lists them."""

SEEDS = {"qwen2.5-coder-0.5b": 0, "arithmetic": 1, "code": 2}


def modules() -> list[str]:
    files = [path.relative_to(ENGINE.parent).with_suffix("") for path in sorted(ENGINE.rglob("*.py"))]
    return [".".join(file.parts) for file in files if file.name != "__init__"]


def public() -> Iterator[tuple[str, Any]]:
    """Every public function, class, method and property, with its name."""
    for name in modules():
        module = importlib.import_module(name)
        for own, thing in vars(module).items():
            if own.startswith("_") or getattr(thing, "__module__", None) != name or not callable(thing):
                continue
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield f"{name}.{own}".removeprefix("entity_circuits."), thing
            if inspect.isclass(thing):
                for inner, member in vars(thing).items():
                    bare = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                    if not inner.startswith("_") and inspect.isfunction(bare):
                        yield f"{name}.{own}.{inner}".removeprefix("entity_circuits."), bare


PUBLIC = dict(public())


def docstring(thing: Any) -> str:
    """What is written in the code: not what a dataclass makes of its fields."""
    written = inspect.getdoc(thing) or ""
    return "" if inspect.isclass(thing) and written.startswith(f"{thing.__name__}(") else written


def example(text: str) -> str:
    """The indented block at the end of a docstring, after an empty line; nothing if there is none."""
    lines = text.rstrip().splitlines()
    flush = max((number for number, line in enumerate(lines) if line and not line.startswith("    ")), default=0)
    rest = lines[flush + 1 :]
    return textwrap.dedent("\n".join(rest)).strip("\n") if rest and not rest[0].strip() else ""


def listed(text: str) -> set[str]:
    """The parameters that the `Args:` of a docstring names."""
    found = re.search(r"^Args:\n((?: {4}.*\n?|\n)+)", text, re.MULTILINE)
    return set(re.findall(r"^ {4}\*{0,2}(\w+):", found[1], re.MULTILINE)) if found else set()


EXAMPLES = {name: code for name, thing in PUBLIC.items() if (code := example(docstring(thing)))}
API = (places.ROOT / "book" / "api.md").read_text("utf-8")
START = re.findall(r"^```python\n(.+?)^```$", API, re.MULTILINE | re.DOTALL)
EXAMPLES |= {f"book/api.md, {number}": code for number, code in enumerate(START, 1)}


def test_examples_and_lists_are_found_where_there_are_some_and_only_there():
    assert example("One line.") == example("Text.\n\nArgs:\n    x: a number,\n        or two.") == ""
    assert example("Text.\n\nArgs:\n    x: one.\n\nMore.\n\n    a = 1\n\n    print(a)\n") == "a = 1\n\nprint(a)"
    assert listed("Text.\n\nArgs:\n    x: one,\n        y: no.\n    **z: two.\n\nMore.\n\n    w: int = 1") == {"x", "z"}
    assert len(START) == 1
    assert len(EXAMPLES) > 80


def test_everything_public_has_a_docstring():
    assert [name for name, thing in PUBLIC.items() if not docstring(thing)] == []


def test_every_function_of_the_engine_that_a_chapter_calls_has_an_example():
    called = {name.removeprefix("entity_circuits.") for name in used.chapters(places.ROOT / "chapters")}
    functions = {name for name, one in PUBLIC.items() if inspect.isfunction(one) and "." not in one.__qualname__}
    assert len(called & functions) > 50
    assert sorted(called & functions - EXAMPLES.keys()) == []


def test_no_example_is_written_as_a_dialogue_or_loses_its_indentation():
    # A docstring is dedented to its second line: an example right below a single line needs a line of text before it.
    code = re.compile(r"^(>>> |from \w+ import |import |print\()", re.MULTILINE)
    assert [name for name, thing in PUBLIC.items() if code.search(docstring(thing))] == []


def test_no_example_stands_right_below_a_list_of_parameters():
    # It would be read as a part of the list, and the site refuses it: a line of text stands between them.
    wrong = re.compile(r"^Args:\n(?: {4}.*\n)+\n+ {4}", re.MULTILINE)
    found = []
    for path in sorted((places.ROOT / "lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and wrong.search(ast.get_docstring(node) or ""):
                found.append(f"{path.name}: {node.name}")
    assert found == []


def test_functions_of_many_parameters_list_them_all():
    missing = {}
    for name, thing in PUBLIC.items():
        if inspect.isfunction(thing):
            asked = set(inspect.signature(thing).parameters) - {"self", "cls"}
            if len(asked) > MANY and (lacking := asked - listed(docstring(thing))):
                missing[name] = sorted(lacking)
    assert not missing


@cache
def _tiny(name: str) -> models.Subject:
    return tiny.subject(seed=SEEDS[name])


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def reader(tmp_path, folder, monkeypatch):
    """The place of someone who tries the examples: an empty folder, empty caches, no network, tiny models by name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENTITY_CIRCUITS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ENTITY_CIRCUITS_RESULTS", str(tmp_path / "results"))
    instead = {
        "load": lambda name, **_: _tiny(name),
        "load_pair": lambda name, **_: tuple(_tiny(one) for one in models.pairs()[name]),
        "fetch": lambda name: folder,
    }
    for name, function in instead.items():
        monkeypatch.setattr(models, name, function)
        monkeypatch.setattr(loading, name, function)
    monkeypatch.setattr(weights, "fetch", lambda name, source, parameters: folder)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_stands(name, reader, capsys):
    code = EXAMPLES[name]
    exec(compile(code, name, "exec"), {"__name__": "__main__"})
    assert "assert" in code or capsys.readouterr().out, "an example prints or asserts something"

"""The API page says which chapters use a function, read off their code, and shows lists of parameters and examples."""

import ast
import importlib
import json
import re

import entity_circuits
import pytest
from entity_book.build import used
from entity_circuits import places
from small_book import notebook
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

CHAPTERS = sorted((places.ROOT / "chapters").glob("*.ipynb"))


@pytest.fixture
def small(tmp_path):
    """A book of three chapters that use the library in different ways, and a page of it."""
    (tmp_path / "chapters").mkdir()
    texts = {
        "03_three": "from entity_circuits import models, statistics as s, runs\nprint(s.wilson(1, 2))",
        "04_four": "from entity_circuits.statistics import wilson\nfrom entity_circuits import circuits\n"
        'found = circuits.load("x")\nprint(wilson(1, 2), found.rankings(), found.circuit.to_json())',
        "a1_more": "from entity_circuits import models, statistics\nbase, tuned = models.load_pair('x')\n"
        "print(tuned.device)\nstatistics = 3\nprint(statistics.by, other.wilson(2))",
    }
    for name, text in texts.items():
        (tmp_path / "chapters" / f"{name}.ipynb").write_text(notebook(text))
    return tmp_path


def test_functions_methods_and_properties_are_found_by_whatever_name_they_are_used(small):
    found = used.chapters(small / "chapters")
    assert found == {
        "entity_circuits.statistics.wilson": ("03_three", "04_four"),
        "entity_circuits.circuits.files.load": ("04_four",),
        "entity_circuits.circuits.files.Finding.rankings": ("04_four",),
        "entity_circuits.heads.Circuit.to_json": ("04_four",),
        "entity_circuits.models.loading.load_pair": ("a1_more",),
        "entity_circuits.models.subject.Subject.device": ("a1_more",),
    }


def test_the_chapters_are_named_in_a_sentence_with_links():
    assert used.sentence(("03_three",)) == "Used in chapter :doc:`3 </chapters/03_three>`."
    assert used.sentence(("01_a", "02_b", "a1_c")).startswith("Used in chapters :doc:`1 </chapters/01_a>`, :doc:`2 ")
    assert used.sentence(("01_a", "a1_c")).endswith("and :doc:`A1 </chapters/a1_c>`.")


def test_the_page_shows_parameters_example_and_chapters(small):
    (small / "conf.py").write_text(
        'extensions = ["myst_parser", "sphinx.ext.autodoc", "entity_book.build.sphinx_ext"]\n'
    )
    pages = ["chapters/03_three", "chapters/04_four", "chapters/a1_more"]
    for page in pages:
        (small / f"{page}.md").write_text("# A chapter\n")
    (small / "index.rst").write_text(
        "Title\n=====\n\n.. toctree::\n\n   " + "\n   ".join(pages) + "\n\n"
        ".. automodule:: entity_circuits.statistics\n   :members: wilson, estimate\n"
    )
    with docutils_namespace():  # what the extensions register is forgotten again
        Sphinx(str(small), str(small), str(small / "out"), str(small / "trees"), "html", status=None).build()
    text = (small / "out" / "index.html").read_text("utf-8")
    assert text.count("Used in chapter") == 1
    assert '<a class="reference internal" href="chapters/04_four.html">' in text
    assert "Parameters" in text and "Args:" not in text
    assert text.count('<div class="highlight-python') == 2


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_uses_only_what_the_library_has(path):
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    known, missing = {}, []
    for node in ast.walk(ast.parse("\n".join("".join(cell["source"]) for cell in cells))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in used.PACKAGES:
            for alias in node.names:
                part = used._of_module(importlib.import_module(node.module), alias.name)
                known[alias.asname or alias.name] = part
                missing += [alias.name] if part is None else []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            part = known[node.value.id]
            if type(part) is type(entity_circuits) and used._of_module(part, node.attr) is None:
                missing.append(f"{node.value.id}.{node.attr}")
    assert known
    assert missing == []


def test_the_page_has_every_module_and_its_links_lead_to_functions():
    page = (places.ROOT / "book" / "api.md").read_text("utf-8")
    lib = places.ROOT / "lib"
    files = [path.relative_to(lib).with_suffix("") for name in used.PACKAGES for path in (lib / name).rglob("*.py")]
    modules = {".".join(path.parts) for path in files if path.name not in ("__init__", "__main__")}
    assert set(re.findall(r"automodule:: (\S+)", page)) == modules
    links = re.findall(r"\{py:(?:func|meth)\}`[^<`]+ <([\w.]+)>`", page)
    assert len(links) > 15
    for link in links:
        module = max((name for name in modules if link.startswith(f"{name}.")), key=len)
        thing = importlib.import_module(module)
        for part in link.removeprefix(f"{module}.").split("."):
            thing = getattr(thing, part)
        assert f"{thing.__module__}.{thing.__qualname__}" == link

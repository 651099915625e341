"""What how_to names as the install is all that chapters need: each gets past its first cell with that and no more."""

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
from entity_book.build import book, cli
from entity_book.build.packages import followed
from entity_circuits import places
from packaging.utils import canonicalize_name
from test_house import declared

INSTALL = "pip install -c constraints.txt -e '.[book]'"


def brought() -> set[str]:
    """The packages that the install brings here: the engine's and the book's, and what these ask for."""
    return followed(declared("book").values())


def first_cells() -> dict[str, str]:
    found = {}
    for name in book.chapters():
        cells = json.loads((places.ROOT / "chapters" / f"{name}.ipynb").read_text("utf-8"))["cells"]
        found[name] = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return found


@pytest.fixture(scope="module")
def ran() -> dict[str, str]:
    """The first cell of every chapter, run where only these packages can be imported; the error of each, or nothing."""
    there = brought()
    modules = {
        module for module, names in packages_distributions().items() if {canonicalize_name(n) for n in names} & there
    }
    hidden = sorted(set(packages_distributions()) - modules - {"entity_circuits", "entity_book", "pip", "setuptools"})
    program = (
        "import json, sys\n"
        f"sys.modules.update(dict.fromkeys({hidden!r}))\n"
        "told = {}\n"
        f"for name, cell in {first_cells()!r}.items():\n"
        "    try: exec(cell, {}); told[name] = ''\n"
        "    except Exception as error: told[name] = repr(error)\n"
        "print(json.dumps({'told': told, 'hidden': len(" + repr(hidden) + ")}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=places.ROOT)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert {"pytest", "mypy", "playwright"} <= set(hidden)
    return answer["told"]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", book.chapters())
def test_the_first_cell_of_a_chapter_runs_with_what_the_named_install_brings(ran, name):
    assert ran[name] == ""


def test_the_pages_and_the_messages_name_that_install_and_no_other():
    pages = [places.ROOT / "README.md", *sorted((places.ROOT / "book").glob("*.md"))]
    named = [line for page in pages for line in re.findall(r"pip install [^`\n]*", page.read_text("utf-8"))]
    of_the_book = [line for line in named if "[book" in line]
    assert of_the_book and all(line.strip().startswith(INSTALL.removesuffix("]'")) for line in of_the_book), of_the_book
    assert INSTALL in cli.INSTALL and INSTALL in places.CLONE

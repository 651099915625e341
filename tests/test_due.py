"""A chapter is executed when what it rests on changed, and for nothing else; the reasons are told in words."""

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import nbformat
import pytest
from entity_book.build import book, chapter, cli, due, inputs, notebooks, opened, sources
from entity_circuits import places
from small_book import PARAMETERS, add, executed, notebook, outputs, ran

LIB = places.ROOT / "lib"
IMPORTS = {"01_one": "import one", "02_two": "def f():\n    from deep.inner import two", "03_three": "import pandas"}


@pytest.fixture
def library(house, pretend):
    """Three chapters: one imports a module, one a function's import of another, which imports a third; one nothing."""
    deep = house / "lib" / "deep"
    deep.mkdir()
    (deep / "__init__.py").write_text("")
    (deep / "inner.py").write_text("from . import two, three\n")
    (deep / "two.py").write_text('"""Two."""\nTWO = 2\n\n\ndef f():\n    """Words."""\n    return 1  # one\n')
    (deep / "three.py").write_text("async def g():\n    'Words.'\n")
    (house / "chapters" / "01_one.ipynb").write_text(notebook(PARAMETERS, IMPORTS["01_one"]))
    for name in ("02_two", "03_three"):
        add(house, name, IMPORTS[name])
    assert ran(house) == ["01_one", "02_two", "03_three"]
    return house


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("path", "old", "new", "who"),
    [
        ("one.py", "ONE = 1", "ONE = 2", ["01_one"]),
        ("deep/two.py", "TWO = 2", "TWO = 3", ["02_two"]),
        ("deep/__init__.py", "", "X = 1", ["02_two"]),
        ("deep/two.py", "Words", "Other words", []),
        ("deep/two.py", "# one", "# another comment", []),
        ("deep/three.py", "Words", "Other words", []),
    ],
)
def test_code_counts_for_those_who_import_it_and_words_about_it_for_nobody(library, path, old, new, who):
    changed(library / "lib" / path, old, new)
    assert ran(library) == who
    assert ran(library) == []


def test_a_module_that_is_no_python_stops_no_chapter_but_its_own(library):
    (library / "lib" / "one.py").write_text("ONE = \n")
    assert due_now(library) == {"01_one": "would run: one changed"}


def test_a_module_that_nobody_imports_makes_no_chapter_due(library):
    (library / "lib" / "deep" / "four.py").write_text("FOUR = 4\n")
    assert ran(library) == []


def test_what_runs_in_every_kernel_counts_for_every_chapter_and_what_builds_pages_for_none():
    reached = sources.modules(places.ROOT, ["1"])
    shapes = {"chapter", "kernel", "notebooks", "executed", "opened", "inputs"}
    assert {f"entity_book.build.{name}" for name in shapes} < reached.keys()
    assert "entity_book.claims.findings" in reached
    for cells in chapter_cells().values():
        found = sources.modules(places.ROOT, cells)
        pages = {f"entity_book.build.{name}" for name in ("book", "plan", "due", "site", "sphinx_ext", "cli", "used")}
        assert not pages & found.keys()


def chapter_cells() -> dict[str, list[str]]:
    paths = sorted((places.ROOT / "chapters").glob("*.ipynb"))
    return {path.stem: notebooks.code(path.read_text("utf-8")) for path in paths}


def test_a_figure_counts_for_the_chapters_that_draw_it():
    users = {name for name, cells in chapter_cells().items() if "entity_book.figures.tuning" in reach(cells)}
    assert users == {"02_finetuned_models"}
    assert "entity_circuits.methods.dcm" not in reach(chapter_cells()["01_dataset"])
    assert "entity_circuits.runs.replay" in reach(chapter_cells()["03_circuit_discovery"])


def reach(cells: list[str]) -> set[str]:
    return set(sources.modules(places.ROOT, cells))


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("from entity_circuits import boxes", "entity_circuits.tasks.boxes"),
        ("import entity_circuits.boxes", "entity_circuits.tasks.boxes"),
        ("from entity_circuits.runs import Recording", "entity_circuits.runs.recording"),
        ("%%time\nfrom entity_circuits import knockout", "entity_circuits.methods.knockout"),
        ("if True:\n    import entity_book.studies.cost as c", "entity_book.studies.cost"),
    ],
)
def test_each_way_to_import_a_module_is_seen(cell, name):
    assert {name, *("entity_circuits", "entity_book")} <= reach([cell])


def test_imports_seen_are_those_that_python_does(tmp_path):
    """Every module that importing one really loads is among those that were read off its code."""
    import subprocess
    import sys

    names = ["entity_book.studies.improvement", "entity_book.figures.official", "entity_book.claims.handing_over"]
    program = f"import sys, {', '.join(names)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    own = {name for name in loaded if name.partition(".")[0] in inputs.PACKAGES}
    short = {name for name in own if sources.file(tmp_path, name) is None}  # by the front door
    assert own - short <= reach([f"import {name}" for name in names])


def test_no_code_imports_what_no_import_statement_names():
    """`importlib` in a chapter or in what it reaches would make it stale without a word."""
    dynamic = ("import_module", "__import__", "exec", "run_path", "run_module", "iter_modules", "load_module")
    known = {LIB / "entity_circuits" / "__init__.py", LIB / "entity_book" / "build" / "used.py"}  # tables; pages alone
    known |= {
        LIB / "entity_circuits" / "methods" / "workers.py",
        LIB / "entity_circuits" / "methods" / "work.py",  # what a reader's function is where it was sent to
        LIB / "entity_circuits" / "values.py",  # what a reader's own function imports, as calling it does
        LIB / "entity_book" / "course" / "editions.py",
        LIB / "entity_book" / "build" / "pdf.py",
    }  # extras
    texts = {path: path.read_text("utf-8") for path in LIB.rglob("*.py") if path not in known}
    texts |= {Path(name): "\n".join(cells) for name, cells in chapter_cells().items()}
    found = set()
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                found |= {(path.name, name)} if name in dynamic else set()
    assert not found


# Notebooks and pins


def test_what_an_editor_saves_with_a_notebook_makes_it_neither_due_nor_its_page_a_fault(house, pretend, caplog):
    from entity_book.build import sphinx_ext

    assert ran(house) == ["01_one"]
    path = house / "chapters" / "01_one.ipynb"
    open_in_editor = nbformat.read(path, 4)
    cell = open_in_editor.cells[-1]
    cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="7\n")], 4
    open_in_editor.metadata["widgets"] = {}
    nbformat.write(open_in_editor, path)
    assert ran(house) == []

    class App:
        srcdir = str(house)

        class env:
            temp_data: ClassVar = {}
            note_dependency = staticmethod(lambda _: None)

    page = [path.read_text()]
    sphinx_ext.use_executed(App, "chapters/01_one", page)
    assert not [one for one in caplog.records if "has changed" in one.message]
    assert page[0] == executed(house).read_text()
    open_in_editor.cells[-1].source = "8"
    nbformat.write(open_in_editor, path)
    assert ran(house) == ["01_one"]


def test_a_pin_of_what_chapters_need_counts_for_all_of_them_and_one_of_tests_or_words_about_it_do_not(
    house, pretend, capsys
):
    add(house, "02_two", "print(2)")
    (house / "constraints.txt").write_text("# one\nmypy==2.4.1\ntorch==2.13.0\n")
    ran(house)
    (house / "constraints.txt").write_text("# another\n\nmypy==2.5.0\npytest==9.3\ntorch==2.13.0  # why\n")
    assert ran(house) == []
    (house / "constraints.txt").write_text("torch==2.14.0\ntokenizers==1\n")
    capsys.readouterr()
    assert ran(house) == ["01_one", "02_two"]
    told = "tokenizers not pinned -> 1 in constraints.txt; torch 2.13.0 -> 2.14.0 in constraints.txt"
    assert f"01_one: to be run: {told}" in capsys.readouterr().err


# Files


def test_a_file_counts_for_the_chapters_that_opened_it_in_a_kernel(house):
    for name in ("fruit.csv", "nuts.csv", "more.safetensors"):
        (house / "data" / name).write_text(name)
    (house / "book").mkdir()
    (house / "book" / "page.md").write_text("page")
    (house / "lib" / "late.py").write_text("LATE = 1\n")
    reads = "import pandas, pathlib\npandas.read_csv('data/fruit.csv'); pathlib.Path('book/page.md').read_text()"
    writes = "open('build/x', 'w').write('x'); _ = open('build/x').read()"
    late = "import importlib, sys\nsys.path.append('lib')\nlate = importlib.import_module('late')"
    add(house, "02_two", reads, writes, late)
    ran(house)
    files = json.loads(executed(house, "02_two").read_text())["metadata"]["book"]["files"]
    opened_ones = {name for name, digest in files.items() if digest}
    assert opened_ones == {"data/fruit.csv", "book/page.md", "lib/late.py", "data/more.safetensors"}
    for path, who in [("data/nuts.csv", []), ("data/words.csv", []), ("lib/one.py", []), ("data/README.md", [])]:
        (house / path).write_text("X = 1\n")
        assert list(due_now(house)) == who, path
    for path in ("data/fruit.csv", "book/page.md", "lib/late.py"):
        before = (house / path).read_text()
        (house / path).write_text("Y = 1\n")
        assert due_now(house) == {"02_two": f"would run: {path} changed"}
        (house / path).write_text(before)
    assert due_now(house) == {}
    (house / "data" / "more.safetensors").write_text("compiled code may have read it, unseen")
    assert due_now(house).keys() == {"01_one", "02_two"}
    (house / "data" / "nuts.csv").unlink()
    (house / "data" / "seeds.csv").write_text("")
    told = "data/more.safetensors changed; data/nuts.csv is gone; data/seeds.csv is new"
    assert due_now(house)["01_one"] == f"would run: {told}"


def due_now(house: Path, **options) -> dict[str, str]:
    return {name: told for name, told in book.reasons(root=house, **options).items() if told != "unchanged, not run"}


def test_a_list_of_sums_guards_what_compiled_code_reads_and_its_words_for_people_do_not_count(tmp_path):
    folder = tmp_path / "data" / "a"
    folder.mkdir(parents=True)
    (folder / "x.safetensors").write_text("x")
    (folder / "SHA256SUMS").write_text("1" * 64 + "  README.md\n" + "2" * 64 + "  x.safetensors\n")
    known = inputs.readable(tmp_path)
    assert inputs.narrowed(tmp_path, known, {})["data/a/x.safetensors"] == ""
    changed(folder / "SHA256SUMS", "1" * 64, "3" * 64)
    assert inputs.readable(tmp_path) == known
    changed(folder / "SHA256SUMS", "2" * 64, "3" * 64)
    assert inputs.readable(tmp_path) != known


def test_a_path_with_links_and_cached_code_are_known_by_what_they_stand_for(house, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(house, target_is_directory=True)
    note = tmp_path / "noted"
    cached = LIB / "entity_circuits" / "__pycache__" / "heads.cpython-311.pyc"
    note.write_bytes(b"\0".join(str(one).encode() for one in (link / "data" / "words.csv", cached, "/nowhere/x")))
    found = opened.files(note, link)
    assert found.keys() <= {"data/words.csv", "lib/entity_circuits/heads.py"} and "data/words.csv" in found


# Words


MADE = {"source": "1", "parameters": {}, "modules": {"a": "1", "b": "1"}, "files": {"data/x": "1"}, "pins": {}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"parameters": {"seed": 7}}, ["parameter seed: 7 instead of 0"]),
        ({"parameters": {"seed": 0}}, ["parameter seed: 0 given, as it is anyway"]),
        ({"source": "2", "modules": {"a": "2", "b": "1"}}, ["its notebook changed", "a changed"]),
        ({"modules": {"a": "2", "c": "1"}}, ["a changed"]),
        ({"modules": {"a": "1"}}, ["b is not imported any more"]),
        ({"files": {"data/x": "2", "data/y": "1"}}, ["data/x changed", "data/y is new"]),
        ({"files": {}, "read": "1"}, ["data/x is gone", "the findings of other chapters changed"]),
        ({"pins": {str(n): "1" for n in range(9)}}, None),
    ],
)
def test_each_reason_is_told_in_words(change, told):
    found = due.reasons(MADE, {**MADE, **change}, {"seed": 0})
    if told is None:
        assert found[3:] == ["3 not pinned -> 1 in constraints.txt", "5 more like that"]
    else:
        assert found == told


def test_without_a_copy_and_with_one_of_another_form_the_reason_says_so():
    assert due.reasons({}, MADE, {}) == ["never executed"]
    assert due.reasons({"digest": "1", "source": "1"}, MADE, {}) == ["executed by an earlier version of the book"]


def test_true_is_not_one():
    assert due.reasons({**MADE, "parameters": {"x": 1}}, {**MADE, "parameters": {"x": True}}, {"x": None}) != []


def test_a_dry_run_tells_each_chapter_and_writes_nothing(library, capsys, monkeypatch):
    monkeypatch.setattr(places, "ROOT", library, raising=False)
    add(library, "07_sum", ("1", ["reads-findings"]))
    changed(library / "lib" / "one.py", "1", "2")
    executed(library, "02_two").write_text("{}")
    before = sorted(library.rglob("*"))
    capsys.readouterr()
    assert cli.main(["book", "--dry-run", "-p", "seed", "7"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "01_one: would run: parameter seed: 7 instead of 0; one changed",
        "02_two: would run: its executed copy was altered or damaged",
        "03_three: unchanged, not run",
        "07_sum: would run: never executed",
    ]
    assert sorted(library.rglob("*")) == before
    assert cli.main(["book", "--dry-run", "--build-only"]) == 1


def test_a_dry_run_does_not_promise_that_findings_stay_as_they_are(house, pretend):
    add(house, "07_sum", ("1", ["reads-findings"]))
    ran(house)
    (house / "lib" / "one.py").write_text("ONE = 2\n")
    assert due_now(house) == {}
    (house / "chapters" / "01_one.ipynb").write_text(notebook(PARAMETERS, "2"))
    assert due_now(house)["07_sum"] == "unchanged, not run, unless 01_one will hand over other findings"
    pretend["01_one"] = {"x": 1.0}
    ran(house, only=["01"])
    assert due_now(house) == {"07_sum": f"would run: {due.FINDINGS}"}


# Copies with other parameters


def test_the_default_book_is_still_there_after_a_book_with_other_parameters(house, pretend, capsys):
    add(house, "07_sum", ("1", ["reads-findings"]))
    pretend["01_one"] = {"x": 1.0}
    assert ran(house) == ["01_one", "07_sum"]
    default = {name: executed(house, name).read_bytes() for name in ("01_one", "07_sum")}
    pretend["01_one"] = {"x": 2.0}
    assert ran(house, parameters={"seed": 7}) == ["01_one", "07_sum"]
    capsys.readouterr()
    told = "taken back, not run: parameter seed: 0 instead of 7, and a copy of that is kept"
    assert due_now(house)["01_one"] == told
    assert ran(house) == []
    assert "a copy of that was kept and is taken back, not run again" in capsys.readouterr().err
    assert {name: executed(house, name).read_bytes() for name in default} == default
    assert book.found(house).reported["x"].value == 1.0
    assert ran(house, parameters={"seed": 7}) == []
    assert ran(house, parameters={"seed": 7}, force=True) == ["01_one", "07_sum"]


def test_a_kept_copy_is_taken_back_only_while_nothing_else_changed_and_whole(house, pretend):
    ran(house)
    ran(house, parameters={"seed": 7})
    (kept,) = (house / "build" / "executed" / "kept" / "01_one").iterdir()
    sound = kept.read_text()
    kept.write_text(sound.replace("01_one", "01_two") + " ")
    assert ran(house) == ["01_one"]
    ran(house, parameters={"seed": 7})
    (house / "data" / "words.csv").write_text("pear\n")
    assert ran(house) == ["01_one"]


def test_few_copies_are_kept_and_the_last_ones(house, pretend):
    for seed in range(6):
        ran(house, parameters={"seed": seed})
    assert len(list((house / "build" / "executed" / "kept" / "01_one").iterdir())) == 3
    assert [ran(house, parameters={"seed": seed}) for seed in (4, 3, 2)] == [[], [], []]
    assert ran(house, parameters={"seed": 0}) == ["01_one"]


def test_a_run_with_other_parameters_that_fails_leaves_the_default_one(house):
    (house / "chapters" / "01_one.ipynb").write_text(notebook(PARAMETERS, "assert seed == 0\nprint(seed)"))
    assert ran(house) == ["01_one"]
    with pytest.raises(book.BookError, match="AssertionError"):
        ran(house, parameters={"seed": 7})
    assert outputs(house) == "0\n"
    assert ran(house) == []


def test_the_record_of_a_job_is_that_of_the_plan_but_for_files_it_did_not_open(house):
    ran(house)
    said = json.loads(executed(house).read_text())["metadata"]["book"]
    assert said["files"]["data/words.csv"] == ""
    assert set(due.PARTS) < said.keys()
    assert replace(chapter.Job("a", "b", {}, {}, False), usual=False).peak_gib == 6

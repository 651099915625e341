"""Executing chapters, with tiny notebooks in a folder of their own that looks like the repository."""

import json
import subprocess
import sys
from importlib.metadata import version

import nbformat
import pytest
from entity_book.build import book, cli, notebooks
from entity_book.build.book import BookError
from entity_circuits import places
from small_book import PARAMETERS, add, executed, notebook, outputs, ran, results


def test_a_chapter_is_executed_noted_and_then_left_alone(house, capfd):
    add(
        house,
        "02_two",
        "import os\nfrom entity_book.build import book",
        "book.note(model='tiny', fingerprint='ab12')",
        "import time\ntime.sleep(0.3)",
    )
    assert ran(house) == ["01_one", "02_two"]
    assert outputs(house) == "7\n"
    run = book.runs(house)["02_two"]
    assert run.notes == {"model": "tiny", "fingerprint": "ab12"}
    assert "ab12" not in json.dumps([cell.get("outputs") for cell in notebooks.read(executed(house, "02_two")).cells])
    assert run.peak_bytes > 10 * 2**20
    assert run.machine["cores"] >= 1
    assert run.work == pytest.approx(run.seconds * run.machine["gflops"] / 1000) and run.work > 0
    assert "torch" in run.versions
    last = notebooks.read(executed(house, "02_two")).cells[-1]
    assert run.cells[last.id] >= 0.3 and f"{run.cells[last.id]:.1f}" == str(run.cells[last.id])
    told = capfd.readouterr().err
    assert "01_one: code cell 2 of 2 (print(boxes + seed))" in told
    assert "02_two: done in" in told
    assert ran(house) == []
    assert ran(house, only=["02"], force=True) == ["02_two"]


def test_a_failing_cell_is_told_and_leaves_the_copy_that_was_there(house):
    add(house, "02_two", "fine = 1")
    assert ran(house, only=["02"]) == ["02_two"]
    good, copy = (house / "chapters" / "02_two.ipynb").read_text(), executed(house, "02_two").read_bytes()
    (house / "chapters" / "02_two.ipynb").write_text(notebook("fine = 1", "left = 1\nright = 0\nleft / right"))
    with pytest.raises(BookError, match=r"02_two: code cell 2 of 2 \(left = 1\) failed: ZeroDivisionError") as caught:
        book.execute(["02"], root=house)
    assert "left / right" in str(caught.value)
    assert executed(house, "02_two").read_bytes() == copy
    assert executed(house, "02_two").with_suffix(".partial.ipynb").exists()
    assert book.behind(house)["02_two"].endswith("since then: its notebook changed")
    (house / "chapters" / "02_two.ipynb").write_text(good)
    assert ran(house, only=["02"]) == []
    assert book.behind(house) == {}


def test_two_at_a_time_give_the_same_bytes_as_one(house):
    for name in ("02_two", "03_three"):
        cells = "import sys, time\nfor i in range(3):\n    print(i, flush=True); time.sleep(0.02)", "{'a', 'b', 'c'}"
        add(house, name, PARAMETERS, *cells, "print('no' + 'ise', file=sys.stderr)")
    book.execute(["02", "03"], {"seed": 3}, root=house)
    before = [results(house, name) for name in ("02_two", "03_three")]
    book.execute(["02", "03"], {"seed": 3}, jobs=2, force=True, root=house)
    assert [results(house, name) for name in ("02_two", "03_three")] == before
    assert "noise" not in before[0]
    assert sum("injected-parameters" in text for text in before) == 2


def test_a_parameter_reaches_the_chapter(house):
    book.execute(parameters={"boxes": 3}, root=house)
    assert outputs(house) == "3\n"
    assert book.runs(house)["01_one"].parameters == {"boxes": 3}


def test_a_path_of_this_machine_in_an_output_is_refused(house):
    (house / "chapters" / "01_one.ipynb").write_text(notebook("import pathlib\nprint(pathlib.Path('x').resolve())"))
    with pytest.raises(BookError, match="cell 1 shows a path of this machine"):
        book.execute(root=house)
    assert not executed(house).exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"boxs": 3}, "no chapter has a parameter 'boxs'. Did you mean 'boxes'. There are boxes, seed"),
        ({"boxes": "three"}, "parameter 'boxes' has to be of type int like its default 7, not 'three'"),
    ],
)
def test_an_unknown_or_unfitting_parameter_stops_before_anything_runs(house, given, message):
    with pytest.raises(BookError, match=message):
        book.execute(parameters=given, root=house)
    assert not executed(house).parent.exists()


def test_a_parameter_goes_to_every_chapter_that_declares_it_and_to_no_other(house, pretend):
    add(house, "02_two", ("seed = 0", ["parameters"]))
    add(house, "03_three", "1 + 1")
    runs = book.execute(parameters={"seed": 4, "boxes": 2}, root=house)
    assert [run.parameters for run in runs] == [{"boxes": 2, "seed": 4}, {"seed": 4}, {}]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("chapters/01_one.ipynb", None),
        ("lib/one.py", "ONE = 2\n"),
        ("lib/deeper/words.csv", "pear\n"),
        ("data/words.csv", "pear\n"),
        ("constraints.txt", "torch==2.13.0\n"),
    ],
)
def test_a_change_of_anything_a_chapter_rests_on_executes_it_again(house, pretend, path, text):
    (house / "chapters" / "01_one.ipynb").write_text(notebook(PARAMETERS, "from one import ONE"))
    assert ran(house) == ["01_one"]
    assert ran(house) == []
    (house / path).parent.mkdir(exist_ok=True)
    (house / path).write_text(text or notebook(PARAMETERS, "print(boxes)"))
    assert ran(house) == ["01_one"]
    assert ran(house) == []


def test_a_chapter_that_is_not_there_is_named(house):
    with pytest.raises(BookError, match=r"there is no chapter '09'\. There are 01_one"):
        book.execute(["09"], root=house)
    with (house / "_toc.yml").open("a") as contents:
        contents.write("- file: chapters/07_lost\n")
    with pytest.raises(BookError, match="do not exist: 07_lost"):
        book.chapters(house)


def test_an_address_or_an_error_in_an_output_is_a_problem(tmp_path):
    shown = nbformat.v4.new_output("execute_result", {"text/plain": "<object at 0x7f3a11c2>"})
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    picture = nbformat.v4.new_output("display_data", {"image/png": "0xabcdef0123"})
    cells = [nbformat.v4.new_code_cell("x", outputs=[output]) for output in (shown, error, picture)]
    found = notebooks.problems(nbformat.v4.new_notebook(cells=cells), tmp_path)
    assert len(found) == 2
    assert "cell 1 shows a memory address" in found[0]
    assert "cell 2 stores an error: ValueError: no" in found[1]


@pytest.mark.parametrize(
    "words",
    [
        "|mnt|disk|x",
        "in '|data|models'",
        "(|scratch|me|x)",
        "|srv|x",
        "|workspace|x",
        "|Volumes|Disk|x",
        "file:|||opt|x",
        "|home|me",
        r"C:\Users\me",
        "c:|Users|me",
        r"\\server\share\x",
        "hf_" + "aB3" * 11,
    ],
)
def test_a_path_of_any_machine_or_a_token_is_a_problem_and_a_token_is_not_repeated(tmp_path, words):
    words = words.replace("|", "/")  # no file here names such a folder, this one neither
    for output in (
        nbformat.v4.new_output("stream", text=f"one\n{words}\n"),
        nbformat.v4.new_output("display_data", {"application/x+json": {"a": [f"one\n{words}"]}}),
        nbformat.v4.new_output("display_data", {"image/svg+xml": f"<svg>{words}</svg>"}),
    ):
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
        (found,) = notebooks.problems(made, tmp_path)
        assert "hf_" not in words or words not in found


def test_ordinary_words_are_no_path_of_a_machine():
    words = [
        "data/cmap/code.safetensors",
        "and/or",
        "carries/A/object",
        "https://arxiv.org/data/1",
        "a/data/b",
        "~/data/x",
    ]
    words += [r"$\\beta\gamma$", "1/opt/2", r"a \\ b", "10:30", "hf_transfer", "/", "/data", "input/output /s"]
    outputs = [nbformat.v4.new_output("stream", text=one) for one in [*words, "\n".join(words)]]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])
    assert notebooks.problems(made, places.ROOT) == []


def test_a_path_that_the_reader_gave_may_be_shown(tmp_path):
    output = nbformat.v4.new_output("stream", text=f"model {tmp_path}/mine")
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    assert notebooks.problems(made, tmp_path) != []
    assert notebooks.problems(made, tmp_path, [f"{tmp_path}/mine"]) == []
    number = tmp_path.name[-1]  # other parameters that happen to stand in that path take no part in this
    assert notebooks.problems(made, tmp_path, [number, str(tmp_path), f"{tmp_path}/mine"]) == []


def test_the_normal_form_keeps_what_was_written_and_drops_what_was_computed(tmp_path):
    cell = nbformat.v4.new_code_cell("x = 1  \n", metadata={"tags": ["parameters"], "collapsed": True})
    cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="1")], 9
    page = {"myst": {"html_meta": {"description": "A page."}}, "widgets": {}}
    made = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell("# Title")], metadata=page)
    plain = notebooks.stripped(made)
    assert plain.metadata["myst"] == page["myst"]
    assert "widgets" not in plain.metadata
    assert plain.cells[0].source == "x = 1"
    assert plain.cells[0].outputs == []
    assert plain.cells[0].execution_count is None
    assert plain.cells[0].metadata == {"tags": ["parameters"]}
    assert plain.cells[0].id == cell.id
    assert notebooks.text(notebooks.stripped(plain)) == notebooks.text(plain)
    assert notebooks.text(plain) == notebooks.text(nbformat.reads(notebooks.text(plain), as_version=4))
    nbformat.validate(plain)


def test_each_line_of_a_cell_is_a_line_of_the_file():
    made = notebooks.stripped(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1\ny = 2")]))
    assert [line.strip() for line in notebooks.text(made).splitlines()].count('"x = 1\\n",') == 1


def test_the_chapters_of_the_book_are_in_normal_form(capsys):
    assert cli.main(["strip", "--check"]) == 0, capsys.readouterr().err


def test_a_mistake_on_the_command_line_is_one_line_without_a_traceback(capsys):
    assert cli.main(["book", "--only", "nowhere", "--execute-only"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("entity-circuits: there is no chapter 'nowhere'")
    assert told.count("\n") == 1
    with pytest.raises(SystemExit) as wrong:
        cli.main(["book", "--jobs", "0"])
    assert wrong.value.code == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["modles"])
    assert "Did you mean 'models'?" in capsys.readouterr().err


def test_the_command_says_its_version_and_can_be_started_as_a_module():
    for module in ("entity_book", "entity_book.build.cli"):
        done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"entity-circuits {version('entity-circuits')}\n")
        assert subprocess.run([sys.executable, "-m", module, "anything"], capture_output=True).returncode == 2


def test_help_does_not_load_torch_or_papermill(capsys):
    script = "import sys, entity_book.build.cli as c\ntry: c.main(['book', '--help'])\nexcept SystemExit: pass\n"
    script += "assert not {'torch', 'papermill', 'sphinx', 'altair'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)

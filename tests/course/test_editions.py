"""Claims: the students' edition holds no solution and is red everywhere; the teacher's is green; both are graded."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
import taught
from entity_book.course import editions, masters
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

pytest.importorskip("otter")

AFRESH = """
import os, sys
os.chdir({!r})
for name in [name for name in sys.modules if name.split(".")[0] == "checks"]:
    del sys.modules[name]
"""

ONCE = """
import functools
from entity_circuits import models
if not hasattr(models.load, "cache_info"):
    models.load = functools.cache(models.load)
"""

TINY = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import tiny
from checks import own_task
from entity_circuits import models
from entity_circuits.tasks import vocabulary
subject = tiny.subject("qwen2")
models.load = lambda *_, **__: subject
own_task.NAMES = tuple(vocabulary.objects()[:8])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All three editions."""
    folder = tmp_path_factory.mktemp("course")
    editions.make(**{name: folder / name for name in ("student", "teacher", "autograder")})
    return folder


@pytest.fixture(scope="module")
def kernel():
    """One for all notebooks, because the model is loaded once then; each begins without names, in its own folder.

    On a socket that is a file: a port that is free now may be another process's before the kernel has it.
    """
    with tempfile.TemporaryDirectory() as sockets:
        manager = KernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        yield manager
        manager.shutdown_kernel(now=True)


def notebook(folder, path):
    return nbformat.read(folder / f"{path.stem}.ipynb", 4)


def executed(folder, path, kernel):
    """The outputs of the checks, by question, of a notebook executed as it lies there; an error is a failure."""
    book = notebook(folder, path)
    before = ("%reset -f", AFRESH.format(str(folder)), ONCE if taught.REAL else TINY)
    book.cells[:0] = [nbformat.v4.new_code_cell(code) for code in before]
    NotebookClient(book, km=kernel, timeout=300).execute()
    checks = {}
    for cell in book.cells:
        if asked := re.fullmatch(r'grader\.check\("(\w+)"\)', cell.source.strip()):
            checks[asked[1]] = "".join(out["data"]["text/plain"] for out in cell.outputs if "data" in out)
    return checks


def code_of(source):
    """Its lines of code, without comments and the markers of Otter."""
    lines = (line.split("  # SOLUTION")[0].strip() for line in source.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def solution_lines(exercise):
    """The lines between the markers, and those marked themselves."""
    found, inside = [], False
    for line in exercise.parts["solution"].splitlines():
        if "# BEGIN SOLUTION" in line or "# END SOLUTION" in line:
            inside = "BEGIN" in line
        elif inside or line.endswith("# SOLUTION"):
            found += code_of(line)
    return found


@pytest.mark.parametrize("path", taught.MASTERS, ids=lambda path: path.stem)
def test_no_code_cell_of_a_student_has_a_solution_and_no_hint_a_whole_one(path, made):
    cells = notebook(made / "student", path).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    everything = (
        "\n".join(cell.source for cell in cells)
        + str(notebook(made / "student", path).metadata)
        + "".join(file.read_text("utf-8") for file in sorted((made / "student").rglob("*.py")))
    )
    given = {line for cell in masters.read(path).cells if not masters.part(cell) for line in code_of(cell.source)}
    exercises = masters.exercises(masters.read(path))
    assert exercises
    for one in exercises:
        lines = solution_lines(one)
        assert lines, one.number
        own = [line for line in lines if line not in given and len(line) > 20]
        assert not [line for line in own if line in code_of(code)], one.number
        assert [line for line in lines if line not in everything], (
            f"a student can read all of the solution of {one.number}"
        )
        assert one.parts["answer"][:60] not in everything, one.number
    hidden = [line for one in exercises for line in one.parts["hidden"].splitlines() if line not in one.parts["check"]]
    assert not [line for line in hidden if line in everything]


@pytest.mark.parametrize("path", taught.MASTERS, ids=lambda path: path.stem)
def test_a_student_s_notebook_as_it_is_runs_through_and_every_check_is_red_with_a_sentence(path, made, kernel):
    checks = executed(made / "student", path, kernel)
    assert checks.keys() == {one.name for one in masters.exercises(masters.read(path))}
    for name, said in checks.items():
        assert "passed" not in said, (name, said)
        assert re.search(
            r"AssertionError: .*(not written yet|gives nothing back yet|should be|is a list|`rounds`)", said
        ), (name, said)


@pytest.mark.parametrize("path", taught.MASTERS, ids=lambda path: path.stem)
def test_every_check_of_the_teacher_is_green(path, made, kernel):
    checks = executed(made / "teacher", path, kernel)
    assert checks.keys() == {one.name for one in masters.exercises(masters.read(path))}
    for name, said in checks.items():
        assert "passed" in said and "❌" not in said, (name, said)


def test_the_autograder_gives_all_points_to_the_solutions_and_none_to_an_untouched_notebook(made):
    """On the chapter without a model; graded as a lecturer would."""
    found = {}
    for edition in ("teacher", "student"):
        work = made / f"graded-{edition}"
        work.mkdir()
        command = [
            sys.executable,
            "-m",
            "otter",
            "run",
            "-a",
            str(made / "autograder" / "07_verdicts.zip"),
            "-o",
            str(work),
        ]
        command += ["--no-logo", str(made / edition / "07_verdicts.ipynb")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=made)
        assert done.returncode == 0, done.stderr
        said = re.search(r"Total Score: ([\d.]+) / ([\d.]+)", done.stdout)
        assert said, done.stdout
        found[edition] = (float(said[1]), float(said[2]))
    assert found["teacher"][0] == found["teacher"][1] > 0
    assert found["student"][0] == 0

"""Claims: the masters have what a lecturer is promised, and what is malformed is refused before anything is written."""

import re

import nbformat
import pytest
import taught
from entity_book.course import editions, masters

pytest.importorskip("jupytext")


def all_exercises():
    return [one for path in taught.MASTERS for one in masters.exercises(masters.read(path))]


def test_eight_chapters_have_at_least_twenty_eight_exercises():
    assert len(taught.MASTERS) == 8
    numbers = [one.number for one in all_exercises()]
    assert len(numbers) == len(set(numbers)) >= 28


def test_each_exercise_says_what_it_costs_why_it_matters_and_has_three_hints_and_a_judgement():
    for one in all_exercises():
        assert re.search(r"\*.*(easy|medium|hard).* · \d+ minutes.*\*", one.text), one.number
        assert "**Why it matters.**" in one.text, one.number
        assert [name.strip() for name in re.findall(r"<summary>Open hint \d: (.*?)</summary>", one.text)] == [
            "signature",
            "skeleton",
            "one line missing",
        ], one.number
        assert one.text.count("<details>") == one.text.count("</details>") == 3
        assert len(re.findall(r"\n\n<details>", one.text)) == len(re.findall(r"</details>(\n\n|$)", one.text)) == 3, (
            f"{one.number}: without an empty line before and after a fold, jupyterlab-myst shows what is folded"
        )
        assert "..." in one.text.split("hint 3")[1], f"{one.number}: nothing is missing in the third hint"
        assert one.parts["question"].startswith("**Judge.**"), one.number


def test_no_function_of_a_solution_has_more_than_twelve_lines():
    for one in all_exercises():
        for function in re.split(r"\n(?=def )", one.parts["solution"]):
            lines = [
                line for line in function.splitlines() if line.strip() and not line.strip().startswith(("#", "def "))
            ]
            assert len(lines) <= 13 - function.startswith("def "), one.number


def master(*cells):
    """A notebook of cells (kind, source): a kind is a part of an exercise, or the number of one."""
    made = []
    for kind, source in cells:
        text = kind in ("question", "answer") or kind[0].isdigit()
        cell = nbformat.v4.new_markdown_cell(source) if text else nbformat.v4.new_code_cell(source)
        cell.metadata.update({"exercise": kind} if kind[0].isdigit() else {"tags": [kind]})
        made.append(cell)
    return nbformat.v4.new_notebook(cells=made)


WHOLE = [
    ("1.1", "text"),
    ("solution", "x = 1"),
    ("check", "f(x)"),
    ("hidden", "g(x)"),
    ("question", "?"),
    ("answer", "!"),
]


def test_an_exercise_that_lacks_a_part_or_has_one_twice_is_refused():
    assert [one.number for one in masters.exercises(master(*WHOLE))] == ["1.1"]
    with pytest.raises(ValueError, match=r"1\.1 has no cell tagged hidden"):
        masters.exercises(master(*WHOLE[:3], *WHOLE[4:]))
    with pytest.raises(ValueError, match="two cells tagged 'check'"):
        masters.exercises(master(*WHOLE[:3], *WHOLE[2:]))
    with pytest.raises(ValueError, match="before the first exercise"):
        masters.exercises(master(*WHOLE[1:]))


def test_an_edition_is_never_written_over_something(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists"):
        editions.make(student=tmp_path / "there")
    with pytest.raises(ValueError, match="--student DIR"):
        editions.make()
    with pytest.raises(ValueError, match="begins with 99"):
        editions.make(student=tmp_path / "new", only=["99"])
    assert not (tmp_path / "new").exists()


def test_a_stored_file_that_was_changed_is_refused(tmp_path, monkeypatch):
    from checks import stored
    from entity_circuits import sums

    (tmp_path / "one.safetensors").write_bytes(b"12345678")
    sums.seal(tmp_path)
    (tmp_path / "one.safetensors").write_bytes(b"12345679")
    monkeypatch.setattr(stored, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="damaged"):
        stored.load.__wrapped__("one")
    with pytest.raises(FileNotFoundError, match="beside the notebooks"):
        stored.load.__wrapped__("other")


def test_the_stored_answers_are_small_and_as_they_were_made():
    from entity_circuits import sums

    files = sorted((editions.home() / "data").glob("*.safetensors"))
    assert files
    assert sum(file.stat().st_size for file in files) < 10e6
    for file in files:
        sums.require(file)

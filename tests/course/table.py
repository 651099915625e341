"""Writes the table of the exercises for the page for lecturers; `make course-table`, on the course's own model."""

import csv
import re
import sys

import taught
from entity_book.course import masters
from entity_circuits import places

FILE = places.ROOT / "book" / "parts" / "exercises.csv"
HEAD = ("exercise", "minutes", "seconds of its check", "wrong answers caught")


def title(exercise: masters.Exercise) -> str:
    """Its number and what it is called."""
    return exercise.text.splitlines()[0].lstrip("# ")


def minutes(exercise: masters.Exercise) -> str:
    """What its text says that it takes."""
    found = re.search(r"(\d+) minutes", exercise.text)
    assert found, exercise.number
    return found[1]


def rows() -> list[tuple[str, str, str, int]]:
    """A row an exercise: seconds as measured here, on one thread, and how many wrong answers its checks caught."""
    found = []
    for path in taught.MASTERS:
        with taught.shared():
            names, seconds = taught.solved(path)
            for one in masters.exercises(masters.read(path)):
                caught = sum(bool(said) for _, said in taught.answered(one, names))
                found.append((title(one), minutes(one), f"{seconds[one.number]:.1f}", caught))
    return found


if __name__ == "__main__":
    if not taught.REAL:
        sys.exit("COURSE_REAL=1 is not set: seconds on the tiny model say nothing")
    made = rows()
    with FILE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *made])

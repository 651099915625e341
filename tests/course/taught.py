"""A master carried out in this process: its code, cell by cell, and the checks that students have."""

import contextlib
import functools
import linecache
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import tiny
from entity_book.course import answers, masters
from entity_circuits import models, places
from entity_circuits.models.subject import Subject
from entity_circuits.tasks import vocabulary
from wrong import WRONG

REAL = bool(os.environ.get("COURSE_REAL"))
"""Whether the course's own model is asked for; the tiny one otherwise."""

COURSE = places.ROOT / "course"
MASTERS = sorted(COURSE.glob("[0-9]*.py"))

sys.path.insert(0, str(COURSE))


@functools.cache
def subject() -> Subject:
    """The model of all chapters, loaded once a process: one a chapter would not fit into 8 GB."""
    return models.load(answers.MODEL) if REAL else tiny.subject("qwen2")


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Whoever loads a model gets the one of all chapters; and hands it on as it was."""
    from checks import hooks, own_task

    one = subject()
    names = own_task.NAMES if REAL else tuple(vocabulary.objects()[:8])
    with mock.patch.object(models, "load", return_value=one), mock.patch.object(own_task, "NAMES", names):
        yield
        assert hooks.taken_out(one.model) == 0, "hooks were left in the model that the next chapter is given"


def execute(source: str, names: dict[str, Any], title: str) -> None:
    """Execute code so that nnsight, which reads the source of a trace, finds it."""
    file = f"<{title}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), names)


def solved(path: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The names of a master after its code, and the processor's seconds for the slowest check of each exercise."""
    names: dict[str, Any] = {"__name__": path.stem}
    seconds: dict[str, float] = {}
    number = "0"
    for index, cell in enumerate(masters.read(path).cells):
        kind = masters.part(cell)
        number = cell.metadata["exercise"] if kind == "text" else number
        if cell.cell_type != "code" or kind == "hidden":  # solutions meet those in the teacher's notebooks
            continue
        if kind != "check":
            execute(cell.source, names, f"{path.stem}-{index}")
            continue
        for line in cell.source.splitlines():
            begin = time.process_time()
            eval(line, names)
            seconds[number] = max(seconds.get(number, 0.0), time.process_time() - begin)
    return names, seconds


def answered(exercise: masters.Exercise, names: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """For each typical wrong answer: what its complaint should match, and the complaint; nothing where it passes."""
    for index, (source, words) in enumerate(WRONG[exercise.number]):
        tried = dict(names)
        execute(source, tried, f"wrong-{exercise.number}-{index}")
        yield words, _complaint(exercise, tried)


def _complaint(exercise: masters.Exercise, names: dict[str, Any]) -> str:
    """What the checks say of these names; nothing if they pass. Anything but AssertionError is a fault of a check."""
    for line in [*exercise.parts["check"].splitlines(), *exercise.parts["hidden"].splitlines()]:
        try:
            eval(line, names)
        except AssertionError as error:
            return str(error)
    return ""

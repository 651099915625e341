"""Executing the chapters: each notebook of the table of contents, from its stripped source, in a process of its own.

A chapter that ran is kept in `build/executed/chapters/` together with the digests of all it was made from; while these
do not change, it is not run again (`due`). What it cost and where it ran is told by the same copy (`executed`).
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from entity_circuits import places

from ..claims import findings
from . import chapter as kernels
from . import due, executed, kept, lifetime, lock, machine, notebooks, peaks, values
from . import plan as plans
from .chapter import Job, say
from .executed import Run
from .lock import BookError
from .notebooks import note
from .plan import Plan

__all__ = [
    "BookError",
    "Run",
    "behind",
    "chapters",
    "check",
    "execute",
    "found",
    "note",
    "reasons",
    "runs",
    "summing_up",
]


def chapters(root: Path | None = None) -> list[str]:
    """The chapters of `_toc.yml`, in order, by name (`"01_dataset"`).

    Raises `BookError` if a chapter of the table of contents has no notebook.
    """
    return plans.chapters(root or places.ROOT)


def runs(root: Path | None = None) -> dict[str, Run]:
    """The run of each chapter that has an executed copy, by name."""
    root = root or places.ROOT
    return {name: run for name in chapters(root) if (run := executed.run(root, name))}


def summing_up(root: Path | None = None) -> list[str]:
    """The chapters of the table of contents that read the findings of the others."""
    return plans.summing_up(root or places.ROOT)


def found(root: Path | None = None) -> findings.Gathered:
    """The findings of all chapters as the last one that sums up has read them; empty before it was executed.

    Raises `BookError` if the file that holds them is damaged, or another than that chapter has read.
    """
    root = root or places.ROOT
    path = findings.file(root)
    text = path.read_bytes() if path.is_file() else b""
    read = {executed.record(root, name).get("read") for name in summing_up(root)} - {None}
    if read - {sha256(text).hexdigest()}:
        raise BookError(f"{path.name} is not what the chapters have read; `entity-circuits book` makes it anew")
    try:
        return findings.gathered(path)
    except ValueError as error:
        raise BookError(f"{error}; `entity-circuits book` makes it anew") from None


def check(
    only: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    pair: tuple[str, str] | None = None,
    preset: str = "",
    root: Path | None = None,
) -> None:
    """Raises the `BookError` of `execute` for what is asked of it, before a model is fetched or anything is run.

    Also for values that chapters could not be run with (`values`): a number out of its range, a dtype, device or
    attention that cannot be used here, a model that there is not, or the same one twice.
    """
    root = root or places.ROOT
    names = plans.chosen(chapters(root), only)
    plan = plans.make(root, names, parameters or {}, pair, preset)
    tables = {name: {**plan.defaults[name], **plan.given[name]} for name in names}
    values.require(tables, (*(parameters or {}), *(("model", "base", "finetuned") if pair else ())))


def reasons(
    only: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    pair: tuple[str, str] | None = None,
    preset: str = "",
    root: Path | None = None,
) -> dict[str, str]:
    """What `execute` would do with each of these chapters, in words that say why. Nothing is executed or written.

    Of a chapter that reads findings it is not known whether they change before the others have run.
    """
    root = root or places.ROOT
    names = plans.chosen(chapters(root), only)
    plan = plans.make(root, names, parameters or {}, pair, preset)
    told: dict[str, str] = {}
    changing: list[str] = []
    for name in sorted(names, key=lambda name: name in plan.readers):
        reader = name in plan.readers
        found = plan.gathered().to_json() if reader else ""
        why = [one for one in plan.reasons(name, found) if not (reader and changing and one == due.FINDINGS)]
        if not why:
            unless = f", unless {', '.join(changing)} will hand over other findings" if reader and changing else ""
            told[name] = f"unchanged, not run{unless}"
        elif plan.kept(name, found):
            told[name] = f"taken back, not run: {due.words(why)}, and a copy of that is kept"
        else:
            told[name] = f"would run: {due.words(why)}"
        changing += [name] if why and not reader else []
    return {name: told[name] for name in names}


def behind(root: Path | None = None) -> dict[str, str]:
    """Each chapter whose executed copy would now, from the same parameters and findings, be made from something else.

    In words: when it was executed, and what has changed since.
    """
    root = root or places.ROOT
    plan, told = plans.make(root, [], {}, None), {}
    for name in plan.sources:
        if why := plan.behind(name):
            started = executed.record(root, name).get("run", {}).get("started", "")
            told[name] = f"as it was executed {started[:16].replace('T', ' ')}; since then: {due.words(why)}"
    return told


def execute(
    only: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    pair: tuple[str, str] | None = None,
    preset: str = "",
    jobs: int = 1,
    force: bool = False,
    root: Path | None = None,
) -> list[Run]:
    """Execute the chapters that need it and return their runs; a chapter is skipped while nothing it rests on changed.

    It rests on its notebook, the parameters given for it, the code that it imports, directly or not, the files that it
    opened, and the versions pinned of its packages. Why one is executed is said. `only` names chapters (`"01_dataset"`,
    or its beginning `"01"`). Each parameter goes to every chapter that declares it. A `pair` is a base and a fine-tuned
    model: the first goes to every parameter called `base` or `model`, the second to `finetuned`, as a list of one where
    the default is a list. A copy with other parameters is put aside, and taken back when they are asked for again. A
    `preset` gives chapters parameters by a name (see `presets`). Of `jobs` chapters side by side only those are started
    for whose stated peaks there is memory.

    A chapter with a cell tagged `reads-findings` comes after all others, and rests on their findings too, as far as
    they were made by the same parameters and nothing has changed since.

    Raises `BookError` before anything runs if a chapter or parameter is unknown or a value is of another type than the
    default, and afterwards if a cell failed, with the chapter, the cell and the end of its traceback, or if a chapter
    with its own parameters took more memory than it states. A chapter that failed leaves NAME.partial.ipynb to look at,
    and the executed copy that was there.

    >>> execute(["01"], {"boxes": 3})  # doctest: +SKIP
    """
    root = root or places.ROOT
    names = plans.chosen(chapters(root), only)
    plan = plans.make(root, names, parameters or {}, pair, preset)
    with lock.held(root, "executing chapters"):
        executed.path(root, "").parent.mkdir(parents=True, exist_ok=True)
        done = _needed(plan, [name for name in names if name not in plan.readers], "", jobs, force)
        return done + _sum_up(plan, [name for name in plan.readers if name in names], jobs, force)


def _sum_up(plan: Plan, names: list[str], jobs: int, force: bool) -> list[Run]:
    """Execute the chapters that read findings, when all others are done; say of those left out if they are behind."""
    if not plan.readers:
        return []
    found = plan.gathered()
    text = found.to_json()
    for name in plan.readers:
        read = executed.record(plan.root, name).get("read")
        if name not in names and read and read != notebooks.digest(text):
            say(f"{name}: was made from other findings than there are now; `entity-circuits book` executes it again")
    if not names:
        return []
    if found.missing:
        say(f"{', '.join(names)}: without the findings of {', '.join(found.missing)}, not executed as now written")
    places.write(findings.file(plan.root), text)
    return _needed(plan, names, text, jobs, force)


def _needed(plan: Plan, names: list[str], found: str, jobs: int, force: bool) -> list[Run]:
    """Execute those of these chapters that need it."""
    todo = []
    for name in names:
        why = plan.reasons(name, found)
        if not why and not force:
            say(f"{name}: unchanged, not run again")
            continue
        if not force and (text := plan.kept(name, found)):
            say(f"{name}: {due.words(why)}; a copy of that was kept and is taken back, not run again")
            kept.show(plan.root, name, text)
            continue
        say(f"{name}: to be run: {due.words(why or ['asked for, though unchanged'])}")
        todo.append(_job(plan, name, found, terminal=sys.stderr.isatty() and jobs == 1))
    return _execute(todo, jobs) if todo else []


def _job(plan: Plan, name: str, found: str, terminal: bool) -> Job:
    read = str(findings.file(plan.root)) if name in plan.readers else ""
    peak = peaks.stated(plan.root, name)
    code, usual = plan.code(name), plan.usual(name)
    root = str(plan.root.absolute())
    return Job(name, root, plan.given[name], plan.record(name, found), terminal, read, code, peak, usual)


def _execute(todo: list[Job], jobs: int) -> list[Run]:
    """Run each job in a fresh process, so that the peak memory of its kernel is that of this chapter alone."""
    done: list[Run] = []
    environment = kernels.environment(jobs)
    rate = machine.gflops(int(environment["OMP_NUM_THREADS"]))
    waiting, gib, free = (
        {job.chapter: job for job in todo},
        {job.chapter: job.peak_gib for job in todo},
        machine.free_gib(),
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        jobs, mp_context=context, max_tasks_per_child=1, initializer=lifetime.with_parent, initargs=(os.getpid(),)
    ) as pool:
        running: dict[Future[Run], str] = {}
        while waiting or running:
            while len(running) < jobs and (name := peaks.startable([*waiting], [*running.values()], gib, free)):
                job = replace(waiting.pop(name), gflops=rate)
                running[pool.submit(kernels.run, job, environment)] = name
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            try:
                for future in ended:
                    done.append(future.result())
                    del running[future]
            except BrokenProcessPool:
                words = "a process was ended from outside, most often because memory ran out; not executed:"
                left = [job.chapter for job in todo if job.chapter not in {run.chapter for run in done}]
                raise BookError(f"{words} {', '.join(left)}") from None
    return sorted(done, key=lambda run: [job.chapter for job in todo].index(run.chapter))

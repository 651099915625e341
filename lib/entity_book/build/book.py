"""Executing the chapters: each notebook of the table of contents, from its stripped source, in a process of its own.

A chapter that ran is kept in `build/executed/chapters/` together with a digest of all it was made from; while that does
not change, it is not run again. What it cost and where it ran is told by the same copy (`executed`).
"""

import json
import math
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from entity_circuits import places, sums
from entity_circuits.spelling import meant

from ..claims import findings
from . import chapter as kernels
from . import executed, inputs, lifetime, lock, notebooks
from .chapter import Job, machine, say
from .executed import Run
from .lock import BookError
from .notebooks import note

__all__ = ["BookError", "Run", "chapters", "check", "execute", "found", "machine", "note", "runs", "summing_up"]

_FOR_THE_SITE_ONLY = {"cli.py", "commands.py", "lock.py", "site.py", "sphinx_ext.py", "readme.py", "used.py"}
_NO_INPUT = {"findings.json", "README.md", sums.NAME}
"""Files of `data/` that are made from the executed chapters, or for people; and lists, whose files count themselves."""


@dataclass(frozen=True)
class _Plan:
    """All chapters as they would be executed now: the text of each, and which of the given parameters it takes."""

    root: Path
    sources: dict[str, str]
    given: dict[str, dict[str, Any]]
    shared: dict[str, str]
    readers: tuple[str, ...]

    def record(self, name: str, found: str = "") -> dict[str, Any]:
        """What the executed copy of a chapter will carry, if it is made now, from these findings if it reads any."""
        parts = [self.sources[name], self.given[name], self.shared, *([found] if name in self.readers else [])]
        digest = notebooks.digest(json.dumps(parts, sort_keys=True))
        made = {"digest": digest, "source": notebooks.digest(self.sources[name]), "parameters": self.given[name]}
        return made | ({"read": notebooks.digest(found)} if name in self.readers else {})

    def gathered(self) -> findings.Gathered:
        """The findings of all chapters whose executed copies are current. Raises `BookError` if two keep one key."""
        kept, missing = {}, []
        for name in (name for name in self.sources if name not in self.readers):
            done = executed.record(self.root, name)
            if done.get("digest") == self.record(name)["digest"]:
                kept[name] = done.get("findings", {})
            else:
                missing.append(name)
        parameters = {key: value for given in self.given.values() for key, value in given.items()}
        try:
            return findings.gather(kept, missing, parameters)
        except ValueError as error:
            raise BookError(str(error)) from None


def chapters(root: Path | None = None) -> list[str]:
    """The chapters of `_toc.yml`, in order, by name (`"01_dataset"`).

    Raises `BookError` if a chapter of the table of contents has no notebook.
    """
    root = root or places.ROOT
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in contents.get("parts", [contents]) for entry in part.get("chapters", [])]
    names = [file.removeprefix("chapters/") for file in files if file.startswith("chapters/")]
    if missing := [name for name in names if not _source(root, name).is_file()]:
        raise BookError(f"_toc.yml lists chapters that do not exist: {', '.join(missing)}")
    return names


def runs(root: Path | None = None) -> dict[str, Run]:
    """The run of each chapter that has an executed copy, by name."""
    root = root or places.ROOT
    return {name: run for name in chapters(root) if (run := executed.run(root, name))}


def summing_up(root: Path | None = None) -> list[str]:
    """The chapters of the table of contents that read the findings of the others."""
    root = root or places.ROOT
    return [name for name in chapters(root) if notebooks.reads_findings(_source(root, name))]


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
    root: Path | None = None,
) -> None:
    """Raises the `BookError` of `execute` for what is asked of it, before a model is fetched or anything is run."""
    root = root or places.ROOT
    _plan(root, _chosen(chapters(root), only), parameters or {}, pair)


def execute(
    only: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    pair: tuple[str, str] | None = None,
    jobs: int = 1,
    force: bool = False,
    root: Path | None = None,
) -> list[Run]:
    """Execute the chapters that need it and return their runs; a chapter is skipped while nothing it rests on changed.

    It rests on its notebook, the parameters given for it, the library's sources, `data/` and `constraints.txt`. `only`
    names chapters (`"01_dataset"`, or its beginning `"01"`). Each parameter goes to every chapter that declares it. A
    `pair` is a base and a fine-tuned model: the first goes to every parameter called `base` or `model`, the second to
    `finetuned`, as a list of one where the default is a list.

    A chapter with a cell tagged `reads-findings` comes after all others, and rests on their findings too, as far as
    they were made by the same parameters and nothing has changed since.

    Raises `BookError` before anything runs if a chapter or parameter is unknown or a value is of another type than the
    default, and afterwards if a cell failed, with the chapter, the cell and the end of its traceback. A chapter that
    failed leaves NAME.partial.ipynb to look at and no executed copy.

    >>> execute(["01"], {"boxes": 3})  # doctest: +SKIP
    """
    root = root or places.ROOT
    names = _chosen(chapters(root), only)
    plan = _plan(root, names, parameters or {}, pair)
    with lock.held(root, "executing chapters"):
        executed.path(root, "").parent.mkdir(parents=True, exist_ok=True)
        done = _needed(plan, [name for name in names if name not in plan.readers], "", jobs, force)
        return done + _sum_up(plan, [name for name in plan.readers if name in names], jobs, force)


def _sum_up(plan: _Plan, names: list[str], jobs: int, force: bool) -> list[Run]:
    """Execute the chapters that read findings, when all others are done; say of those left out if they are behind."""
    if not plan.readers:
        return []
    found = plan.gathered()
    text = found.to_json()
    for name in plan.readers:
        done = executed.record(plan.root, name).get("digest")
        if name not in names and done and done != plan.record(name, text)["digest"]:
            say(f"{name}: was made from other findings than there are now; `entity-circuits book` executes it again")
    if not names:
        return []
    if found.missing:
        say(f"{', '.join(names)}: without the findings of {', '.join(found.missing)}, not executed as now written")
    places.write(findings.file(plan.root), text)
    return _needed(plan, names, text, jobs, force)


def _needed(plan: _Plan, names: list[str], found: str, jobs: int, force: bool) -> list[Run]:
    """Execute those of these chapters that need it."""
    todo = []
    for name in names:
        record, read = plan.record(name, found), str(findings.file(plan.root)) if name in plan.readers else ""
        if not force and executed.record(plan.root, name).get("digest") == record["digest"]:
            say(f"{name}: unchanged, not run again")
            continue
        terminal = sys.stderr.isatty() and jobs == 1
        todo.append(Job(name, str(plan.root), plan.given[name], record, terminal, read))
    return _execute(todo, jobs) if todo else []


def _execute(todo: list[Job], jobs: int) -> list[Run]:
    """Run each job in a fresh process, so that the peak memory of its kernel is that of this chapter alone."""
    done = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        jobs, mp_context=context, max_tasks_per_child=1, initializer=lifetime.with_parent, initargs=(os.getpid(),)
    ) as pool:
        futures = {pool.submit(kernels.run, job, kernels.environment(jobs)): job.chapter for job in todo}
        for future in as_completed(futures):
            try:
                done.append(future.result())
            except BrokenProcessPool:
                words = "a process was ended from outside, most often because memory ran out; not executed:"
                left = [name for name in futures.values() if name not in {run.chapter for run in done}]
                raise BookError(f"{words} {', '.join(left)}") from None
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return sorted(done, key=lambda run: [job.chapter for job in todo].index(run.chapter))


def _plan(root: Path, names: list[str], parameters: Mapping[str, Any], pair: tuple[str, str] | None) -> _Plan:
    """Everything that is decided before anything runs. Parameters have to fit the chapters to be executed, `names`."""
    known = chapters(root)
    declared = {name: notebooks.parameters(_source(root, name)) for name in known}
    _fit({name: declared[name] for name in names}, parameters, pair)
    given = {}
    for name, table in declared.items():
        given[name] = {key: parameters[key] for key in table if key in parameters}
        if pair:
            finetuned = [pair[1]] if isinstance(table.get("finetuned"), list) else pair[1]
            both = {"model": pair[0], "base": pair[0], "finetuned": finetuned}
            given[name] |= {key: both[key] for key in table if key in both}
    sources = {name: _source(root, name).read_text(encoding="utf-8") for name in known}
    return _Plan(root, sources, given, _inputs(root), tuple(summing_up(root)))


def _chosen(known: list[str], only: Sequence[str] | None) -> list[str]:
    if only is None:
        return known
    chosen = []
    for wanted in only:
        if not wanted or not (
            hits := [name for name in known if name == wanted] or [n for n in known if n.startswith(wanted)]
        ):
            raise BookError(f"there is no chapter {wanted!r}.{meant(wanted, known)} There are {', '.join(known)}")
        chosen += hits
    return [name for name in known if name in chosen]


def _fit(declared: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any], pair: tuple[str, str] | None) -> None:
    """Raises `BookError` for a parameter that no chapter declares, of a wrong type, or given twice."""
    known = sorted({parameter for table in declared.values() for parameter in table})
    if pair and not {"base", "model", "finetuned"} & set(known):
        raise BookError("no chapter here takes a pair of models")
    if pair and (twice := [name for name in ("base", "model", "finetuned") if name in given]):
        raise BookError(f"`{twice[0]}` is given twice: by a pair of models and as a parameter")
    for parameter, value in given.items():
        if parameter not in known:
            there = f"There are {', '.join(known) or 'none'}"
            raise BookError(f"no chapter has a parameter {parameter!r}.{meant(parameter, known)} {there}")
        for name, table in declared.items():
            default = table.get(parameter, value)
            if not _alike(default, value):
                wanted = f"of type {type(default).__name__} like its default {default!r}"
                raise BookError(f"{name}: parameter {parameter!r} has to be {wanted}, not {value!r}")


def _alike(default: Any, value: Any) -> bool:
    """Whether a value is of the type of a default; a default of None takes any, a list is held against its first."""
    if isinstance(default, list | tuple) and isinstance(value, list):
        return all(_alike(default[0], one) for one in value) if default else True
    number = isinstance(default, float) and type(value) is int
    finite = not isinstance(value, float) or math.isfinite(value)
    return finite and (default is None or type(default) is type(value) or number)


def _inputs(root: Path) -> dict[str, str]:
    """The digests of everything that all chapters rest on."""
    sources = [path for kind in ("*.py", "*.csv", "*.toml") for path in (root / "lib").rglob(kind)]
    files = [path for path in sources if path.name not in _FOR_THE_SITE_ONLY]
    files += [path for path in (root / "data").rglob("*") if path.name not in _NO_INPUT]
    return inputs.digests(root, [*files, root / "constraints.txt"])


def _source(root: Path, name: str) -> Path:
    return root / "chapters" / f"{name}.ipynb"

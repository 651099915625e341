"""Executing the chapters: each notebook of the table of contents, from its stripped source, in a process of its own.

A chapter that ran is kept in `build/executed/chapters/` together with a digest of all it was made from; while that does
not change, it is not run again. What it cost and where it ran goes into `build/executed/runs.json`.
"""

import json
import multiprocessing
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from . import notebooks, places
from .notebooks import note

__all__ = ["BookError", "Run", "chapters", "execute", "note", "runs"]

CELL_SECONDS = 30 * 60
"""A cell that runs longer than this has failed."""

WATCHED = ("torch", "transformers", "nnsight", "numpy", "altair")
"""The packages whose versions are kept with each run."""

_FOR_THE_SITE_ONLY = {"cli.py", "site.py", "sphinx_ext.py"}
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class BookError(Exception):
    """A chapter or the site could not be made; the message says which and why."""


@dataclass(frozen=True)
class Run:
    """What one execution of a chapter cost, where it ran and what it noted."""

    chapter: str
    started: str
    seconds: float
    peak_bytes: int
    """Peak resident memory of the chapter's kernel."""
    parameters: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    chapter: str
    root: str
    parameters: dict[str, Any]
    record: dict[str, Any]
    terminal: bool


def chapters(root: Path = places.ROOT) -> list[str]:
    """The chapters of `_toc.yml`, in order, by name (`"01_dataset"`).

    Raises `BookError` if a chapter of the table of contents has no notebook.
    """
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in contents.get("parts", [contents]) for entry in part.get("chapters", [])]
    names = [file.removeprefix("chapters/") for file in files if file.startswith("chapters/")]
    if missing := [name for name in names if not _source(root, name).is_file()]:
        raise BookError(f"_toc.yml lists chapters that do not exist: {', '.join(missing)}")
    return names


def runs(root: Path = places.ROOT) -> dict[str, Run]:
    """The last run of each chapter, by name. Empty before the first."""
    path = _executed(root).parent / "runs.json"
    if not path.is_file():
        return {}
    return {name: Run(**run) for name, run in json.loads(path.read_text(encoding="utf-8")).items()}


def execute(
    only: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    jobs: int = 1,
    force: bool = False,
    root: Path = places.ROOT,
) -> list[Run]:
    """Execute the chapters that need it and return their runs; a chapter is skipped while nothing it rests on changed.

    It rests on its notebook, the parameters given for it, the library's sources, `data/` and `constraints.txt`. `only`
    names chapters (`"01_dataset"`, or its beginning `"01"`). Each parameter goes to every chapter that declares it.

    Raises `BookError` before anything runs if a chapter or parameter is unknown or a value is of another type than the
    default, and afterwards if a cell failed, with the chapter, the cell and the end of its traceback. A chapter that
    failed leaves NAME.partial.ipynb to look at and no executed copy.

    >>> execute(["01"], {"boxes": 3})  # doctest: +SKIP
    """
    names = _chosen(chapters(root), only)
    shared = _inputs(root)
    jobs_to_do = []
    for name, given in _parameters(root, names, parameters or {}).items():
        source = _source(root, name).read_text(encoding="utf-8")
        made_from = json.dumps([source, given, shared], sort_keys=True)
        record = {"digest": notebooks.digest(made_from), "source": notebooks.digest(source), "parameters": given}
        if not force and _record(_executed(root) / f"{name}.ipynb").get("digest") == record["digest"]:
            _say(f"{name}: unchanged, not run again")
            continue
        jobs_to_do.append(_Job(name, str(root), given, record, sys.stderr.isatty() and jobs == 1))
    if not jobs_to_do:
        return []
    _executed(root).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(_executed(root).parent / ".lock", timeout=0):
            return _execute(jobs_to_do, jobs, root)
    except Timeout:
        raise BookError("the chapters are being executed by another process; wait until it has finished") from None


def _execute(todo: list[_Job], jobs: int, root: Path) -> list[Run]:
    """Run each job in a fresh process, so that the peak memory of its kernel is that of this chapter alone."""
    done = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(_run, job, _environment(jobs)) for job in todo]
        for future in as_completed(futures):
            try:
                run = future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            _write(_executed(root).parent / "runs.json", json.dumps(_with(root, run), indent=1, sort_keys=True) + "\n")
            done.append(run)
    return sorted(done, key=lambda run: [job.chapter for job in todo].index(run.chapter))


def _run(job: _Job, environment: dict[str, str]) -> Run:
    """In the process of one chapter: run it and store the executed copy. Raises `BookError` if anything fails."""
    os.environ.update(environment)
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    root = Path(job.root)
    target = _executed(root) / f"{job.chapter}.ipynb"
    partial = target.with_suffix(".partial.ipynb")
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    source = notebooks.read(_source(root, job.chapter))
    code_cells = sum(cell.cell_type == "code" for cell in source.cells) + bool(job.parameters)
    show, hooks = _progress(job, code_cells)
    target.unlink(missing_ok=True)  # out of date, or it would not be run: an executed copy is always a current one
    try:
        papermill.execute_notebook(
            str(_source(root, job.chapter)),
            str(partial),
            parameters=job.parameters,
            kernel_name="python3",
            cwd=str(root),
            progress_bar=False,
            start_timeout=120,
            execution_timeout=CELL_SECONDS,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            **hooks,
        )
    except PapermillExecutionError as error:
        lines = _COLOUR.sub("", "\n".join(error.traceback)).strip().splitlines()[-15:]
        end = "\n".join("    " + line for line in lines)
        raise BookError(f"{job.chapter}: {show()} failed: {error.ename}: {error.evalue}\n{end}") from None
    except CellTimeoutError:
        raise BookError(f"{job.chapter}: {show()} ran for more than {CELL_SECONDS} s and was stopped") from None
    except DeadKernelError:
        raise BookError(f"{job.chapter}: its process died in {show()}; most often memory ran out") from None
    executed, notes, stray = notebooks.finished(notebooks.read(partial), job.record)
    for words in stray:
        _say(f"{job.chapter}: {words}")
    if wrong := notebooks.problems(executed, root, [str(value) for value in job.parameters.values()]):
        raise BookError("\n".join(f"{job.chapter}: {problem}" for problem in wrong))
    _write(target, notebooks.text(executed))
    partial.unlink()
    seconds = round(time.perf_counter() - clock, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    _say(f"{job.chapter}: done in {seconds} s, peak memory {peak / 2**30:.2f} GiB")
    return Run(job.chapter, started, seconds, peak, job.parameters, notes, machine(), _versions())


def _progress(job: _Job, code_cells: int) -> tuple[Callable[[], str], dict[str, Callable[..., None]]]:
    """A function that names the cell at work, and the hooks that keep it and report the start and end of each cell."""
    number, first, clock = 0, "", 0.0

    def show() -> str:
        return f"code cell {number} of {code_cells} ({first})" if number else "the start of its kernel"

    def start(cell: Any, **_: Any) -> None:
        nonlocal number, first, clock
        if cell.cell_type != "code":
            return
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        number, first, clock = number + 1, lines[0].strip()[:60] if lines else "comment", time.perf_counter()
        if job.terminal:
            print(f"\r\x1b[K{job.chapter}: {show()}", end="", file=sys.stderr, flush=True)
        else:
            _say(f"{job.chapter}: {show()}")

    def end(cell: Any, **_: Any) -> None:
        if cell.cell_type != "code":
            return
        seconds = time.perf_counter() - clock
        if job.terminal:
            line = f"{job.chapter}: {show()} took {seconds:.1f} s\n" if seconds >= 1 else ""
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif seconds >= 1:
            _say(f"{job.chapter}: code cell {number} took {seconds:.1f} s")

    return show, {"on_cell_start": start, "on_cell_executed": end}


def _environment(jobs: int) -> dict[str, str]:
    """What a kernel is started with: its share of the cores, no network, no progress bars, always the same hashes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // jobs)),
        "PYTHONHASHSEED": "0",
        "PYTHONWARNINGS": "ignore:IProgress not found",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        # Keep freed memory instead of giving it back to the system after each large temporary: allocating a gigabyte
        # again and again is six times faster, because its pages are not faulted in anew.
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**34),
    }


def machine() -> dict[str, Any]:
    """The machine in words: processor, cores, memory in bytes, system and Python version."""
    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        models = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        processor = models[0].strip() if models else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in WATCHED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _chosen(known: list[str], only: Sequence[str] | None) -> list[str]:
    if only is None:
        return known
    chosen = []
    for wanted in only:
        if not (hits := [name for name in known if name == wanted] or [n for n in known if n.startswith(wanted)]):
            raise BookError(f"there is no chapter {wanted!r}; there are {', '.join(known)}")
        chosen += hits
    return [name for name in known if name in chosen]


def _parameters(root: Path, names: Iterable[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Which of the given parameters each chapter takes. Raises `BookError` on an unknown one or a wrong type."""
    declared = {name: notebooks.parameters(_source(root, name)) for name in names}
    known = sorted({parameter for table in declared.values() for parameter in table})
    for parameter, value in given.items():
        if parameter not in known:
            raise BookError(f"no chapter has a parameter {parameter!r}; there are {', '.join(known) or 'none'}")
        for name, table in declared.items():
            default = table.get(parameter, value)
            number = isinstance(default, float) and type(value) is int
            if default is not None and value is not None and type(default) is not type(value) and not number:
                wanted = f"of type {type(default).__name__} like its default {default!r}"
                raise BookError(f"{name}: parameter {parameter!r} has to be {wanted}, not {value!r}")
    return {name: {key: given[key] for key in table if key in given} for name, table in declared.items()}


def _inputs(root: Path) -> dict[str, str]:
    """The digests of everything that all chapters rest on."""
    files = [path for path in (root / "lib").rglob("*.py") if path.name not in _FOR_THE_SITE_ONLY]
    files += [path for path in (root / "data").rglob("*") if path.is_file()]
    files += [path for path in [root / "constraints.txt"] if path.is_file()]
    return {path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def _source(root: Path, name: str) -> Path:
    return root / "chapters" / f"{name}.ipynb"


def _executed(root: Path) -> Path:
    return root / "build" / "executed" / "chapters"


def _record(path: Path) -> dict[str, Any]:
    """The `book` record of an executed copy, empty if there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["metadata"]["book"])
    except (OSError, ValueError, KeyError):
        return {}


def _with(root: Path, run: Run) -> dict[str, Any]:
    return {name: asdict(one) for name, one in {**runs(root), run.chapter: run}.items()}


def _write(path: Path, words: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(words, encoding="utf-8")
    part.replace(path)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)

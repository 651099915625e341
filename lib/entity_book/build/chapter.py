"""One chapter in a kernel of its own: what it is started with, what it costs, and how it is told that it failed."""

import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..claims import findings
from . import executed, inputs, kept, kernel, notebooks, opened, peaks
from .executed import Run
from .lock import BookError
from .machine import machine

CELL_SECONDS = 30 * 60
"""A cell that runs longer than this has failed."""

WATCHED = ("torch", "transformers", "nnsight", "numpy", "altair")
"""The packages whose versions are kept with each run."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Job:
    """A chapter to be executed: where, with which parameters, and the `record` that its executed copy will carry.

    `code` are the files of the modules in that record, `peak_gib` what the chapter states to take at most; it is held
    to that with its own parameters, so if it is `usual`. `gflops` is how fast the machine is.
    """

    chapter: str
    root: str
    parameters: dict[str, Any]
    record: dict[str, Any]
    terminal: bool
    findings: str = ""
    """The file that the chapter reads findings from; empty if it reads none."""
    code: frozenset[str] = frozenset()
    peak_gib: float = peaks.USUAL_GIB
    usual: bool = True
    gflops: float | None = None


def run(job: Job, environment: dict[str, str]) -> Run:
    """In the process of one chapter: run it and store the executed copy. Raises `BookError` if anything fails.

    A failure leaves the executed copy that was there.
    """
    root = Path(job.root)
    own = root / "build" / "kernels" / job.chapter
    shutil.rmtree(own, ignore_errors=True)  # of a chapter that was killed
    own.mkdir(parents=True)
    noted = own / "opened"
    told = {**kernel.environment(own), **opened.environment(noted, root), findings.VARIABLE: job.findings}
    os.environ.update({**environment, **told})
    os.chdir(root)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    partial = executed.path(root, job.chapter).with_suffix(".partial.ipynb")
    try:
        spent = _run(job, own, partial)
        files = opened.files(noted, root)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    read = inputs.narrowed(root, job.record["files"], {name: files[name] for name in files if name not in job.code})
    try:
        done, notes, stray = notebooks.finished(notebooks.read(partial), {**job.record, "files": read})
    except ValueError as error:
        raise BookError(f"{job.chapter}: {error}") from None
    for words in stray:
        say(f"{job.chapter}: {words}")
    given = [value if isinstance(value, list) else [value] for value in job.parameters.values()]
    if wrong := notebooks.problems(done, root, [str(value) for values in given for value in values]):
        raise BookError("\n".join(f"{job.chapter}: {problem}" for problem in wrong))
    seconds = round(time.perf_counter() - clock, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    if too_much := peaks.exceeded(job.chapter, peak, job.peak_gib):
        if job.usual:
            raise BookError(too_much)
        say(f"{too_much}; with these parameters that is no failure")
    where = machine() | ({"gflops": job.gflops} if job.gflops else {})
    made = Run(job.chapter, started, seconds, peak, job.parameters, notes, where, _versions(), spent)
    if notebooks.digest(notebooks.plain(_source(job))) != job.record["source"]:
        raise BookError(f"{job.chapter}: its notebook was changed while it was executed; run it again")
    done["metadata"]["book"]["run"] = asdict(made)
    kept.show(root, job.chapter, executed.sealed(done))
    partial.unlink()
    say(f"{job.chapter}: done in {seconds} s, peak memory {peak / 2**30:.2f} GiB")
    return made


def _run(job: Job, own: Path, partial: Path) -> dict[str, float]:
    """Execute the normal form of the notebook into `partial`, and tell the seconds of its cells by their ids.

    `own` is a folder for what that needs meanwhile.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    source = own / f"{job.chapter}.ipynb"
    source.write_text(notebooks.plain(_source(job)), encoding="utf-8")
    code_cells = sum(cell.cell_type == "code" for cell in notebooks.read(source).cells) + bool(job.parameters)
    spent: dict[str, float] = {}
    show, hooks = _progress(job, code_cells, spent)
    try:
        papermill.execute_notebook(
            str(source),
            str(partial),
            parameters=job.parameters,
            kernel_name="python3",
            kernel_manager_class=kernel.manager(own.relative_to(job.root)),
            cwd=job.root,
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
    return spent


def _source(job: Job) -> str:
    return (Path(job.root) / "chapters" / f"{job.chapter}.ipynb").read_text(encoding="utf-8")


def _progress(
    job: Job, code_cells: int, spent: dict[str, float]
) -> tuple[Callable[[], str], dict[str, Callable[..., None]]]:
    """A function that names the cell at work, and the hooks that keep it and report the start and end of each cell.

    The seconds of a cell are put into `spent` by its id.
    """
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
            say(f"{job.chapter}: {show()}")

    def end(cell: Any, **_: Any) -> None:
        if cell.cell_type != "code":
            return
        seconds = time.perf_counter() - clock
        if seconds >= 0.1:
            spent[cell.id] = round(seconds, 1)
        if job.terminal:
            line = f"{job.chapter}: {show()} took {seconds:.1f} s\n" if seconds >= 1 else ""
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif seconds >= 1:
            say(f"{job.chapter}: code cell {number} took {seconds:.1f} s")

    return show, {"on_cell_start": start, "on_cell_executed": end}


def environment(jobs: int) -> dict[str, str]:
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


def _versions() -> dict[str, str]:
    found = {}
    for package in WATCHED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def say(words: str) -> None:
    """A line on the terminal, at once."""
    print(words, file=sys.stderr, flush=True)

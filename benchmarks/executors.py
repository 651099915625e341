"""What workers bring, and take: python benchmarks/executors.py [MODEL] (nothing else should run beside it, minutes)

One sweep of path patching, all heads into the answer, by this process on one thread, then by one and by two worker
processes of a pool with one thread each, and by two workers of a Dask cluster on loopback, if `distributed` is here.
Nothing is kept. Told are seconds with the workers up and their models loaded, the speed-up of two over one, whether the
scores are the very bits of this process, what starting them took, and on Linux the memory of an idle worker with its
model. Two workers need two cores, and memory for three models.

--install tells instead what the extra `cluster` adds to an empty environment: packages, size and seconds (network).
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from entity_circuits import boxes, models, path_patching
from entity_circuits.methods import workers
from entity_circuits.models.subject import Subject

ROOT = Path(__file__).resolve().parents[1]
N = 70


@contextmanager
def dask(count: int) -> Iterator[Executor]:
    """A scheduler and so many workers on this machine, each on one thread."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        file = Path(folder, "scheduler.json")
        log = running.enter_context(Path(folder, "log").open("w"))

        def start(module: str, *words: str) -> None:
            command = [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", str(file)]
            made = subprocess.Popen([*command, "--no-dashboard", *words], cwd=folder, stdout=log, stderr=log)
            running.callback(made.wait)
            running.callback(made.terminate)

        start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        while not file.exists():
            time.sleep(0.05)
        here = ("--nthreads", "1", "--memory-limit", "0", "--host", "127.0.0.1", "--local-directory", folder)
        for number in range(count):
            start("dask_worker", *here, "--name", str(number))
        with workers.cluster(file) as executor:
            yield executor


def sweep(subject: Subject, executor: Executor | None, n: int = N) -> torch.Tensor:
    """The scores of all heads into the answer."""
    drawn = boxes.experiment(subject, n=n)
    return path_patching.sweep(subject, drawn.base, drawn.source, position="last", executor=executor).change


def timed(subject: Subject, executor: Executor | None, workers_: int) -> tuple[float, float, torch.Tensor]:
    """Seconds until the workers have done something small, those of the sweep, and the scores."""
    begin = time.perf_counter()
    for _ in range(2 * workers_):  # a layer each: all workers load the model
        sweep(subject, executor, 7)
    ready = time.perf_counter()
    scores = sweep(subject, executor)
    return ready - begin, time.perf_counter() - ready, scores


def resident() -> tuple[int, dict[str, float]]:
    """The process that does this, after a while in which others take up the same, and its memory in GB."""
    time.sleep(0.5)
    rollup = Path("/proc/self/smaps_rollup")
    told = rollup.read_text(encoding="utf-8") if rollup.is_file() else ""
    kinds = {kind: int(kib) * 1024 / 1e9 for kind, kib in re.findall(r"^(\w+): +(\d+) kB$", told, re.MULTILINE)}
    return os.getpid(), kinds


def idle(executor: Executor, count: int) -> str:
    """What each worker has in memory: in all, its share where processes share, and what it alone has."""
    found = dict(each.result() for each in [executor.submit(resident) for _ in range(3 * count)])
    if not all(found.values()):
        return "memory not told by this system"
    each = [(one["Rss"], one["Pss"], one["Private_Clean"] + one["Private_Dirty"]) for one in found.values()]
    rss, pss, alone = (sum(numbers) / len(each) for numbers in zip(*each, strict=True))
    return f"a worker has {rss:.2f} GB resident, {pss:.2f} by its share, {alone:.2f} its own"


def install() -> None:
    """Print what pip makes of the extra in an environment with nothing but pip: packages, size, seconds."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extra = told["project"]["optional-dependencies"]["cluster"]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [str(Path(folder, "bin", "python")), "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]

        def there() -> tuple[set[str], int]:
            listed = subprocess.run([*pip, "list", "--format", "freeze"], stdout=subprocess.PIPE, text=True, check=True)
            files = (file for file in Path(folder).rglob("*") if file.is_file() and file.suffix != ".pyc")
            return set(listed.stdout.split()), sum(file.stat().st_size for file in files)

        (before, small), begin = there(), time.perf_counter()
        subprocess.run([*pip, "install", "-qq", "-c", str(ROOT / "constraints.txt"), *extra], check=True)
        seconds = time.perf_counter() - begin
        after, large = there()
    names, size = sorted(after - before), (large - small) / 1e6
    print(f"{', '.join(extra)}: {size:.1f} MB in {seconds:.0f} s, {len(names)} packages: {', '.join(names)}")


def main() -> None:
    """Print one line a way."""
    if "--install" in sys.argv[1:]:
        install()
        return
    torch.set_num_threads(1)
    subject = models.load(sys.argv[1] if len(sys.argv) > 1 else "qwen2.5-coder-0.5b")
    _, here, expected = timed(subject, None, 1)
    print(f"{os.cpu_count()} cores; this process, one thread: {here:.1f} s for {N} prompts", flush=True)
    ways = {"pool": workers.pool} | ({"Dask": dask} if find_spec("distributed") else {})
    for name, start in ways.items():
        alone = 0.0
        for count in (1, 2):
            begin = time.perf_counter()
            with start(count) as executor:
                up, seconds, scores = timed(subject, executor, count)
                memory = idle(executor, count)
                bits = "the same bits" if torch.equal(scores.nan_to_num(), expected.nan_to_num()) else "OTHER BITS"
            alone = alone or seconds
            whole = time.perf_counter() - begin
            told = f"{seconds:.1f} s, {alone / seconds:.2f} times one worker, {here / seconds:.2f} times this process"
            print(f"{name}, {count} of one thread: {told}; {bits}; up in {up:.1f} s, {whole:.1f} s in all", flush=True)
            print(f"  {memory}", flush=True)


if __name__ == "__main__":
    main()

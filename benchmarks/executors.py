"""What workers bring: python benchmarks/executors.py [MODEL] (nothing else should run beside it, minutes)

One sweep of path patching, all heads into the answer, by this process on one thread, then by one and by two worker
processes of a pool with one thread each, and by two workers of a Dask cluster on loopback, if `distributed` is here.
Nothing is kept. Told are seconds with the workers up and their models loaded, the speed-up of two over one, whether the
scores are the very bits of this process, and what starting them took. Two workers need two cores, and memory for three
models.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from entity_circuits import boxes, models, path_patching
from entity_circuits.methods import workers
from entity_circuits.models.subject import Subject

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


def main() -> None:
    """Print one line a way."""
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
                bits = "the same bits" if torch.equal(scores.nan_to_num(), expected.nan_to_num()) else "OTHER BITS"
            alone = alone or seconds
            whole = time.perf_counter() - begin
            told = f"{seconds:.1f} s, {alone / seconds:.2f} times one worker, {here / seconds:.2f} times this process"
            print(f"{name}, {count} of one thread: {told}; {bits}; up in {up:.1f} s, {whole:.1f} s in all", flush=True)


if __name__ == "__main__":
    main()

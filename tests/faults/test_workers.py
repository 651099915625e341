"""Workers killed with -9 at any moment, of a pool and of a Dask cluster, and a driver killed: nothing is lost.

KILLS says how many kills each case gets (default 10), KILLS_SEED when they come. Dask is tried where it is installed.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from entity_circuits import boxes, models, path_patching
from entity_circuits.methods import workers
from entity_circuits.results import Store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

KILLS, SEED = int(os.environ.get("KILLS", "10")), int(os.environ.get("KILLS_SEED", "0"))

DRIVER = """
import pathlib
from entity_circuits import boxes, models, path_patching
from entity_circuits.methods import workers
from entity_circuits.results import Store
if __name__ == "__main__":
    subject = models.load("model")
    with workers.pool(2) as executor:
        path_patching.discover(subject, n=84, boxes=3, store=Store(pathlib.Path("results")), executor=executor)
"""


@pytest.fixture(scope="module")
def subject(tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("driver")
    return models.load(str(tiny.save(folder / "model", "llama", layers=6)))


@pytest.fixture(scope="module")
def expected(subject: Any) -> Any:
    return found(subject)


def found(subject: Any, **how: Any) -> Any:
    """The scores of all rounds on two chunks of examples."""
    discovery = path_patching.discover(subject, boxes.experiment(subject, n=84, boxes=3), **how)
    return torch.stack([scores.change for scores in discovery.scores.values()]).nan_to_num(-7)


def below(process: int) -> list[int]:
    """All processes that a process has started, and those that these have."""
    try:
        own = [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return own + [deeper for one in own for deeper in below(one)]


def ended(processes: list[int], seconds: float) -> bool:
    """Whether none of them is there any more, or only as a zombie, after so many seconds at most."""
    end = time.monotonic() + seconds
    while there := [one for one in processes if _runs(one)]:
        if time.monotonic() > end:
            return not there
        time.sleep(0.1)
    return True


def _runs(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What tells a file from one that was written anew."""
    told = {path.name: path.stat() for path in folder.glob("*.safetensors")}
    return {name: (one.st_ino, one.st_mtime_ns) for name, one in told.items()}


@contextlib.contextmanager
def killing(victims: Any, wait: float) -> Iterator[list[int]]:
    """One of the processes that `victims` names, killed after some seconds, while the block runs."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        if not over.wait(wait) and (there := victims()):
            victim = random.choice(there)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_workers_of_a_pool_killed_at_any_moment_cost_no_finished_piece(
    subject, expected, tmp_path, capsys, record_property
):
    draw, kills, runs, begun = random.Random(SEED), 0, 0, 0
    folder = tmp_path / "0"
    while kills < KILLS:
        before = files(folder)
        runs += 1
        with workers.pool(2) as executor:
            executor.submit(int).result()  # it is up
            processes = list(executor._processes)
            with killing(lambda some=processes: some, draw.uniform(0, 8)) as killed:
                whole = None
                with contextlib.suppress(RuntimeError):
                    whole = found(subject, store=Store(folder), executor=executor)
            assert before.items() <= files(folder).items(), "what was finished was done again"
            kills += len(killed)
            if whole is not None:
                assert torch.equal(whole, expected)
                begun, folder = begun + 1, tmp_path / str(begun + 1)
            else:
                assert killed
        assert ended(processes, 20)
    assert torch.equal(found(subject, store=Store(folder)), expected), "and it can be finished without workers"
    record_property("kills", kills)
    with capsys.disabled():
        print(f"\npool: {kills} workers killed in {runs} runs, {begun + 1} sweeps whole and bit-equal")


def test_a_killed_driver_takes_its_workers_along_and_is_resumed(subject, expected, capsys, record_property):
    home = Path(subject.specification.name).parent
    (home / "driver.py").write_text(DRIVER)
    draw, times = random.Random(SEED), max(2, KILLS // 4)
    for _ in range(times):
        driver = subprocess.Popen([sys.executable, "driver.py"], cwd=home)
        before = files(home / "results")
        while driver.poll() is None and files(home / "results") == before:
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(draw.uniform(0, 4))
        workers_, before = below(driver.pid), files(home / "results")
        driver.kill()
        driver.wait()
        assert ended(workers_, 30), "workers outlived their driver"
        assert before and before.items() <= files(home / "results").items()
    before = files(home / "results")
    assert torch.equal(found(subject, store=Store(home / "results")), expected)
    assert before.items() <= files(home / "results").items()
    record_property("kills", times)
    with capsys.disabled():
        print(f"\ndriver: killed {times} times, {len(before)} pieces were kept, resumed bit-equal")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Path, list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler and two workers with their nannies, on loopback: the scheduler file, and the processes."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "20"}

    def start(module: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", str(file), "--no-dashboard"]
        with (tmp_path / f"{module}.log").open("a") as log:
            return subprocess.Popen([*command, *words], env=environment, cwd=tmp_path, stdout=log, stderr=log)

    running = [start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")]
    while not file.exists():
        time.sleep(0.1)
    here = ("--nthreads", "1", "--memory-limit", "0", "--host", "127.0.0.1", "--local-directory", str(tmp_path))
    running += [start("dask_worker", *here, "--name", f"w{number}") for number in range(2)]
    try:
        yield file, running
    finally:
        for one in running[::-1]:
            one.terminate()
        for one in running:
            one.wait(30)


def test_workers_of_a_dask_cluster_killed_at_any_moment_are_made_up_for(
    subject, expected, cluster, tmp_path, capsys, record_property
):
    file, (_, *nannies) = cluster
    draw, kills, sweeps = random.Random(SEED), 0, 0
    with workers.cluster(file) as executor:
        client = executor._client
        client.wait_for_workers(2, timeout=120)

        def running() -> list[int]:
            return list(client.run(os.getpid).values())

        while kills < KILLS:
            with killing(running, draw.uniform(0, 6)) as killed:
                store = Store(tmp_path / f"results-{sweeps}")
                assert torch.equal(found(subject, store=store, executor=executor), expected)
            kills, sweeps = kills + len(killed), sweeps + 1
            client.wait_for_workers(2, timeout=120)
        node = [nannies[1].pid, *below(nannies[1].pid)]  # a node is lost: the worker, and what would start it again
        threading.Timer(2.0, lambda: [os.kill(one, signal.SIGKILL) for one in node]).start()
        assert torch.equal(found(subject, store=Store(tmp_path / "node"), executor=executor), expected)
    record_property("kills", kills + 1)
    with capsys.disabled():
        print(f"\nDask: {kills} workers killed in {sweeps} sweeps, and one node in another: all whole and bit-equal")

"""Executors to hand to a method: processes of this machine, or the workers of a Dask cluster. Any other one will do."""

import importlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ..arguments import integer

INSTALL = "pip install 'entity-circuits[cluster]'"


@contextmanager
def pool(workers: int) -> Iterator[Executor]:
    """Inside the block, so many processes of this machine, each with a model of its own; they end with this one.

    Work runs on as many threads in each as this process has: `torch.set_num_threads(cores // workers)` first. Raises
    `ValueError` for no workers.

        from entity_circuits import models, path_patching
        from entity_circuits.methods import workers

        subject = models.load("qwen2.5-coder-0.5b")
        with workers.pool(2) as executor:
            print(type(executor).__name__)  # path_patching.discover(subject, n=70, executor=executor)
    """
    fresh = multiprocessing.get_context("spawn")  # a copy of this process would have threads that hang
    with ProcessPoolExecutor(integer("workers", workers), fresh, initializer=_end_with_parent) as executor:
        try:
            yield executor
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for ever, with its model."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def cluster(scheduler: str | os.PathLike[str]) -> Iterator[Executor]:
    """Inside the block, the workers of a Dask cluster, by its scheduler file or address; a lost one is made up for.

    Raises `ImportError` that says what to install, `FileNotFoundError` where there is no such file, and
    `OSError` where no scheduler answers.

        from entity_circuits.methods import workers

        print(workers.cluster("tcp://127.0.0.1:8786"))  # with workers.cluster("scheduler.json") as executor: ...
    """
    try:
        client_of = importlib.import_module("distributed").Client  # by name: only the extra `cluster` brings it
    except ModuleNotFoundError as error:
        raise ImportError(f"a cluster needs Dask: {INSTALL}") from error
    named = os.fspath(scheduler)
    where: dict[str, Any] = {"address": named} if "://" in named else {"scheduler_file": named}
    if "scheduler_file" in where and not Path(named).is_file():
        told = f"there is no scheduler file {named}: start one with `dask scheduler --scheduler-file {named}`"
        raise FileNotFoundError(told)
    with client_of(**where, set_as_default=False) as client:
        yield client.get_executor(pure=False, retries=0)

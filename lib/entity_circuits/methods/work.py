"""Pieces of work: computed here one by one, or by the workers of an executor, and kept as they are finished.

A piece is a function of plain values, and the name and inputs under which `results.Store` keeps what it gives. Here it
is simply called. A worker is sent the same piece, with every model by its specification: it loads the model once,
refuses if its model, its code or anything else that changes bits is not what it is here, keeps the result and sends it
back. Neither weights nor recordings are ever sent.
"""

import importlib
import io
import json
import pickle
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from .. import results, values
from ..arguments import of_kind
from ..models.loading import specified
from ..models.subject import Subject
from ..results import Store

WAY_OUT = (
    "Workers load a model by itself, so it has to be one that `models.load` gave. Save this one with "
    "`model.save_pretrained(FOLDER)` and `tokenizer.save_pretrained(FOLDER)` where all workers see it, and take "
    "`models.load(FOLDER)`; or leave the executor out."
)

_ONE_AT_A_TIME = threading.Lock()  # work changes settings of torch that are those of the whole process


@dataclass(frozen=True)
class Unit:
    """A piece of work: `compute` gives the tensors that `Store.keep` keeps as `name`, made from `inputs`.

    `compute` is a `functools.partial` of a function of a module, so that it can be sent. `inputs` are what
    `results.key(module, subjects, ...)` gives, and perhaps more.
    """

    name: str
    inputs: Mapping[str, object]
    compute: Callable[[], dict[str, Tensor]]
    module: str
    subjects: tuple[Subject, ...]


def require(executor: Executor | None, *subjects: Subject, given: object = None) -> None:
    """Raise `ValueError`, before any work starts, for what is no model, an executor that cannot do the work, a model
    that it cannot load, and recordings that are `given`, of which it has nothing."""
    for subject in subjects:
        of_kind("model", subject, Subject)
    if executor is None:
        return
    if given is not None:
        raise ValueError("workers make recordings of their own: give recordings, or an executor, and not both")
    if not callable(getattr(executor, "submit", None)):
        raise ValueError(f"an executor has `submit`, as those of concurrent.futures do, and {executor!r} has not")
    if any(getattr(executor, ended, False) is True for ended in ("_shutdown", "_shutdown_thread")):
        raise ValueError("this executor was shut down: make the call inside its `with`, or give a new one")
    start = getattr(getattr(executor, "_mp_context", None), "get_start_method", str)()
    if start == "fork":
        raise ValueError(
            "the processes of this pool are copies of this one, in which torch's threads hang: "
            "ProcessPoolExecutor(N, mp_context=multiprocessing.get_context('spawn')), or `workers.pool(N)`"
        )
    for subject in subjects:
        _require_specification(subject)


def _require_specification(subject: Subject) -> None:
    if subject.specification is None:
        raise ValueError(
            f"{subject.name} cannot be sent to workers: it was wrapped in memory, or spread over devices. {WAY_OUT}"
        )


def done(
    units: Iterable[Unit], store: Store | None = None, executor: Executor | None = None
) -> Iterator[dict[str, Tensor]]:
    """The results of units, in their order, each kept as soon as it is finished, or found where it was kept before.

    Args:
        units: made one after the other; here each is let go when the next is asked for.
        store: where results are kept, by workers too: a folder that all of them see, if they are to go on after a loss.
        executor: does the work, all units at once; without, it is done here, one by one.

    Raises what a unit raises, and `RuntimeError` when workers died and took their pool with them: what was finished is
    kept, and the same call with a new pool computes the rest.
    """
    store = results.at(store)
    if executor is None:
        for unit in units:
            yield store.keep(unit.name, unit.inputs, unit.compute)
        return
    if store.folder is not None:
        store = Store(Path(store.folder).absolute())
    waiting: deque[tuple[str, Mapping[str, object], dict[str, Tensor] | Future[bytes]]] = deque()
    try:
        for unit in units:
            found = store.find(unit.name, unit.inputs)
            there = executor.submit(_work, packed((unit, store))) if found is None else found
            waiting.append((unit.name, unit.inputs, there))
        while waiting:
            name, inputs, there = waiting.popleft()
            yield there if isinstance(there, dict) else store.keep(name, inputs, partial(_result, there))
    except BrokenExecutor as error:
        where = f"is kept in {store.folder}" if store.folder else "is lost, for want of a store"
        raise RuntimeError(
            "a worker died, perhaps killed for want of memory, and its pool with it. What was finished "
            f"{where}: call the same again with a new pool, and fewer workers if memory was short."
        ) from error
    finally:
        for _, _, left in waiting:
            if not isinstance(left, dict):
                left.cancel()


def _result(future: Future[bytes]) -> dict[str, Tensor]:
    return load(future.result())


def _work(sent: bytes) -> bytes:
    """In a worker: the tensors of a unit, also kept in its store."""
    with _ONE_AT_A_TIME:
        unit, store = unpacked(sent)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(unit.inputs["threads"])
            _require_alike(results.key(unit.module, unit.subjects), unit.inputs)
            return save(store.keep(unit.name, unit.inputs, unit.compute))
        finally:
            torch.set_num_threads(threads)


def _require_alike(here: Mapping[str, object], there: Mapping[str, object]) -> None:
    """Raise `ValueError` unless everything that decides about bits is what it was where the work was asked for."""
    for name, value in here.items():
        if value != there[name]:
            raise ValueError(
                f"the worker on {socket.gethostname()} would give other numbers: its {name} is {value}, and "
                f"{there[name]} where the work was asked for. Workers need the same code and packages, and processors "
                "of one kind; start them anew after a change."
            )


# What is sent. Models stand by their specification; tensors by their bytes, so that equal things are equal when sent.


def once(make: Callable[..., Any], *given: object) -> tuple[Any, ...]:
    """What `__reduce__` gives of a thing that makes costly ones when asked for them.

    A worker that is sent equal things has one of them, with all that it has made so far, until it is sent another.
    """
    return _once, (packed((make, given)),)


@lru_cache(maxsize=1)
def _once(content: bytes) -> Any:
    make, given = unpacked(content)
    return make(*given)


def packed(thing: object) -> bytes:
    """What is sent of a thing. Raises `ValueError` for what a worker could not have again, as a lambda."""
    content = io.BytesIO()
    try:
        _Packer(content, pickle.HIGHEST_PROTOCOL).dump(thing)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        told = "The functions of a metric of your own have to be those of a module that workers can import."
        raise ValueError(f"this cannot be sent to workers: {error}. {told}") from error
    return content.getvalue()


def unpacked(content: bytes) -> Any:
    """The thing again, its models loaded."""
    return _Unpacker(io.BytesIO(content)).load()


class _Packer(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        if not isinstance(thing, Subject):
            return None
        _require_specification(thing)
        return thing.specification

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, FunctionType | type) and not values.installed(thing.__module__):
            named = (thing.__module__, thing.__qualname__)
            return (_the_same, (*named, _told(thing))) if _found(*named) is thing else NotImplemented
        if not isinstance(thing, Tensor):
            return NotImplemented
        return _tensor, (values.content(thing).numpy().tobytes(), thing.dtype, tuple(thing.shape), str(thing.device))


class _Unpacker(pickle.Unpickler):
    def persistent_load(self, specification: Any) -> Any:
        return specified(specification)


def _found(module: str, name: str) -> Any:
    """What is called so in a module; None if nothing is."""
    try:
        return reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        return None


def _told(thing: Any) -> str:
    """What a function or class of the reader's does, as far as that can be told."""
    return json.dumps(values.plain(thing, unknown=lambda one: type(one).__name__))


def _the_same(module: str, name: str, told: str) -> Any:
    """A function or class, sent by its name; `ValueError` for what is another one here than where it was sent."""
    thing = _found(module, name)
    if thing is None or _told(thing) != told:
        raise ValueError(
            f"{name} of {module} is another one in the worker than where the work was asked for: its code, or what it "
            "reads of its module. Workers read a module from its file, once: write it there, and start them anew"
        )
    return thing


def _tensor(content: bytes, dtype: torch.dtype, shape: tuple[int, ...], device: str) -> Tensor:
    flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
    return flat.reshape(shape).to(device)

"""One process at a time makes, builds or removes what the book is made of: a lock that says who holds it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from entity_circuits import places
from filelock import FileLock, Timeout


class BookError(RuntimeError):
    """A chapter or the site could not be made; the message says which and why."""


@contextmanager
def held(root: Path, doing: str) -> Iterator[None]:
    """Hold the folder of the book inside the block; `doing` tells others what for ("executing chapters").

    The same process may hold it again inside. Raises `BookError` if another one does, with its id. The lock goes with
    the process, however that ends; its file lies where `make clean` and `make pristine` leave it.
    """
    lock = FileLock(root / "build" / ".lock", timeout=0, is_singleton=True)
    holder = root / "build" / ".lock.json"
    (root / "build").mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        raise BookError(f"the book in this folder is in use: {_holder(holder)}; wait until that has ended") from None
    try:
        if lock.lock_counter == 1:
            since = datetime.now(UTC).strftime("%H:%M UTC")
            places.write(holder, json.dumps({"process": os.getpid(), "doing": doing, "since": since}) + "\n")
        yield
    finally:
        if lock.lock_counter == 1:
            holder.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    """Who holds the lock, in words, as far as it has said so."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return f"process {told['process']} has been {told['doing']} since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "by another process"

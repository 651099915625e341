"""One thread at a time inside a model: while it runs with hooks or settings that one run needs, no other looks in."""

import threading
from contextlib import ContextDecorator
from typing import Any


class _Alone(ContextDecorator):
    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()


ALONE = _Alone()
"""Held by whatever calls modules of a model, whichever, or looks whether it is the one that was wrapped. Hooks of a
traced run fire for every thread that comes by, and nnsight keeps one such run a process. As a block or over a
function; who holds it may take it again."""

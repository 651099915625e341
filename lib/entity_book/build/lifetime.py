"""No process of the book outlives the one that started it, however that one ended."""

import os
import signal
import threading
import time

SECONDS = 0.2
"""How often a process looks whether the one that started it is still there."""


def with_parent(parent: int) -> None:
    """End this process, and all of its group if it leads one, as soon as process `parent` is not its parent any more.

    To be called by a process that was just started, with the id of the one that started it; it may have gone already.
    A process that is killed can tell nobody, so each of its children looks by itself, on any POSIX system.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)

"""The machine that chapters run on: in words, how fast it multiplies, and how much memory it has left."""

import os
import platform
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

GIB = 2**30

_WIDTH = 4096
_SECONDS = 0.8
"""No product is begun after this time, or is to take longer, so that all take less than two seconds."""


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


@cache
def gflops(threads: int, width: int = _WIDTH) -> float:
    """Billions of operations a second in a float32 product of two square matrices on so many threads, measured once.

    The best of a few products, because what else the machine does only makes one slower. Where one would take long, the
    matrices are half as wide.

    >>> gflops(1, 64) > 0
    True
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        quick = _best(width // 4, 0.0)
        wide = 2 * width**3 / 1e9 / quick < _SECONDS
        return float(f"{_best(width if wide else width // 2, _SECONDS):.4g}")
    finally:
        torch.set_num_threads(before)


def _best(width: int, seconds: float) -> float:
    """GFLOP/s of the fastest product of this width, of two at least and of all that begin within so many seconds."""
    import torch

    left, right, out = (torch.ones(width, width) for _ in range(3))
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - begin < seconds:
        clock = time.perf_counter()
        torch.mm(left, right, out=out)
        times.append(time.perf_counter() - clock)
    return 2 * width**3 / min(times) / 1e9


def free_gib(system: Path = Path("/")) -> float:
    """GiB of memory that new processes can have: what the system has left, or a container's share of it if less.

    >>> free_gib() > 0
    True
    """
    told = _text(system / "proc" / "meminfo")
    available = re.search(r"^MemAvailable:\s+(\d+) kB$", told, re.MULTILINE)
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    found = int(available[1]) * 1024 if available else os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages)
    limit, used = (_text(system / "sys" / "fs" / "cgroup" / f"memory.{word}").strip() for word in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        # What it has read from disk counts as used, and is given up for a process that needs room.
        cached = re.search(r"^inactive_file (\d+)$", _text(system / "sys/fs/cgroup/memory.stat"), re.MULTILINE)
        found = min(found, int(limit) - int(used) + (int(cached[1]) if cached else 0))
    return found / GIB


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""

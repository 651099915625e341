"""The command `plan`: what models need, before anything of them is fetched, and what would help where it cannot fit."""

import argparse
import os
import shutil
from typing import Any

from .machine import GIB, free_gib, gflops


def plan(arguments: argparse.Namespace) -> int:
    """Print what the models need, beside what is here; 1, and what would help, if it cannot fit."""
    from entity_circuits import models, places
    from entity_circuits.methods import needs

    names = [arguments.model, *([arguments.other] if arguments.other else [])]
    shapes = [_shape(name) for name in names]
    if len(set(map(str, shapes))) > 1:
        raise ValueError(f"{names[0]} and {names[1]} are of other shapes: their heads cannot be compared")
    entries = [models.registry().get(name) for name in names]
    adapted = len(names) > 1 and bool(entries[1] and entries[1].base)
    if adapted and entries[1] and entries[1].base != names[0]:
        raise ValueError(f"{names[1]} is an adapter on {entries[1].base}, not on {names[0]}")
    asked = {"models": len(names), "adapted": adapted, "examples": arguments.examples, "tokens": arguments.tokens}
    found = needs.of(shapes[0], dtype=arguments.dtype, **asked)
    download, disk = (sum(some) for some in zip(*map(_on_disk, names), strict=True))
    cache = places.cache()
    there = next(folder for folder in [cache, *cache.parents] if folder.exists())
    free, on_gpu = shutil.disk_usage(there).free, arguments.device != "cpu"
    memory = arguments.memory * 1e9 if arguments.memory else _device_memory() if on_gpu else free_gib() * GIB
    needed = found.device_memory if on_gpu else found.memory * arguments.workers
    rate = arguments.gflops or (None if on_gpu or arguments.dtype != "float32" else gflops(os.cpu_count() or 1))
    for entry in entries:
        if entry and (entry.licence, entry.gate) != ("", ""):
            print(f"{entry.name}: {entry.licence}; gate: {entry.gate}{_mirrors(entry)}")
    print(f"download         {download / 1e9:8.1f} GB")
    print(f"disk             {disk / 1e9:8.1f} GB   of {free / 1e9:.1f} free in {there}")
    print(f"{'memory of the GPU' if on_gpu else 'memory':17}{needed / 1e9:8.1f} GB   {_of(memory)}")
    parts = (
        f"weights {found.weights / 1e9:.1f}, a recording {found.recording / 1e9:.1f}, a batch {found.work / 1e9:.1f}"
    )
    print(
        f"  of which         {parts}" + (f", in each of {arguments.workers} workers" if arguments.workers > 1 else "")
    )
    print(f"chunk            {found.chunk:8d} examples recorded at a time, of {arguments.examples}")
    print(f"operations       {found.operations / 1e15:8.2f} PFLOP")
    print(f"minutes          {_minutes(found, rate)}")
    told = []
    if disk > free:
        told.append(f"This cannot fit: {there} has {free / 1e9:.1f} GB free, and {disk / 1e9:.1f} GB are needed.")
        told.append("  What helps: another folder in ENTITY_CIRCUITS_CACHE.")
    if memory is not None and needed > memory:
        told.append(f"This cannot fit: {needed / 1e9:.1f} GB of memory are needed, and {memory / 1e9:.1f} GB are free.")
        told += _helps(shapes[0], asked, memory, arguments)
    print("\n".join(told), end="\n" * bool(told))
    return 1 if told else 0


def _shape(name: str) -> Any:
    from entity_circuits import models
    from entity_circuits.models import naming, reading, shape

    entry = models.registry().get(name)
    if entry is not None:
        whole = models.registry()[entry.base] if entry.base else entry
        if whole.shape is None:
            raise ValueError(f"the shape of {name} is not written down: it is known when it is fetched")
        return whole.shape
    path = naming.path_of(name)
    if not path.is_dir():
        raise ValueError(
            f"nothing is known of {name} before it is fetched: name a model that `models` lists, or a folder"
        )
    return shape.of_config(reading.config_of(path, name))


def _on_disk(name: str) -> tuple[float, float]:
    """Bytes that are fetched, and that are taken on disk while it is being fetched; none for what is here."""
    from entity_circuits import models

    entry = models.registry().get(name)
    if entry is None or entry.source.path:
        return 0.0, 0.0
    if models.describe().set_index("name").loc[name, "fetched"]:
        return 0.0, 0.0
    if entry.source.file:
        return float(entry.source.size), 2.0 * entry.source.size + 4.0 * entry.parameters
    return (float(entry.parameters * entry.stored),) * 2


def _mirrors(entry: Any) -> str:
    return f"; mirrors: {', '.join(entry.mirrors)}" if entry.mirrors else ""


def _of(memory: float | None) -> str:
    return (
        "there is no CUDA device here to compare with: --memory GB" if memory is None else f"of {memory / 1e9:.1f} free"
    )


def _device_memory() -> float | None:
    """Bytes that are free on the first CUDA device; None where there is none."""
    import torch

    return float(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def _minutes(found: Any, rate: float | None) -> str:
    if rate is None:
        return " unknown: --gflops says how fast large products run there, in this dtype"
    from entity_circuits.methods import needs

    return f"{found.seconds(rate) / 60:8.1f}     at {needs.SHARE:.0%} of {rate:,.0f} GFLOP/s"


def _helps(shape: Any, asked: dict[str, Any], memory: float, arguments: argparse.Namespace) -> list[str]:
    """What would make it fit into this memory: whatever does by itself."""
    from entity_circuits import models
    from entity_circuits.methods import needs

    on_gpu = arguments.device != "cpu"

    def fits(shape: Any, workers: int, **how: Any) -> bool:
        found = needs.of(shape, **{**asked, "dtype": arguments.dtype, **how})
        return (found.device_memory if on_gpu else workers * found.memory) <= memory

    some = arguments.workers
    tries = {
        "one worker instead of several": some > 1 and fits(shape, 1),
        "--dtype bfloat16 (other numbers, within its rounding)": fits(shape, some, dtype="bfloat16"),
        "--examples 14": asked["examples"] > 14 and fits(shape, some, examples=14),
        "one model at a time (not for CMAP, which needs both)": asked["models"] > 1 and fits(shape, some, models=1),
    }
    found = [f"  What helps: {what}." for what, helps in tries.items() if helps]
    smaller = [
        name
        for name, (base, finetuned) in models.pairs().items()
        if (own := models.registry()[base].shape)
        and fits(own, some, models=2, adapted=bool(models.registry()[finetuned].base))
    ]
    return [*found, f"  What helps: another pair: {', '.join(smaller)}."] if smaller else found

"""Which files of the book a kernel opens, noted while it runs: by them it is known which data a chapter rests on.

Python tells an audit hook of every file that is opened through it. Compiled readers open by themselves and are not
seen, which `inputs.narrowed` knows; nor is what a process opens that a chapter would start. No chapter starts one.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from . import inputs

VARIABLE = "ENTITY_CIRCUITS_OPENED"
"""Tells a kernel the file to note them in, and the folder of the book."""


def environment(note: Path, root: Path) -> dict[str, str]:
    """The variable for a kernel that is to note in this file what it opens of the book in `root`."""
    return {VARIABLE: os.pathsep.join([str(note), str(root)])}


def watch() -> None:
    """In the kernel: note from now on, where the environment says so."""
    note, _, root = os.environ.pop(VARIABLE, "").partition(os.pathsep)
    if not note:
        return
    folders = tuple(f"{folder}{os.sep}" for folder in inputs.folders(Path(root)))
    seen: set[str] = set()
    # Unbuffered, so that it is whole however the kernel ends; opened before there is a hook to see it.
    stream = open(note, "ab", buffering=0)  # noqa: PTH123, SIM115

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        if flags & os.O_ACCMODE == os.O_WRONLY:
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100 (cheap: each import comes here)
        if not path.startswith(folders):
            path = os.path.realpath(path)
        if path.startswith(folders) and path not in seen:
            seen.add(path)
            stream.write(os.fsencode(path) + b"\0")

    sys.addaudithook(hook)


def files(note: Path, root: Path) -> dict[str, Path]:
    """Name (`data/words.csv`) -> path of each input of the book that a kernel noted; for cached code its source."""
    found = {}
    for text in note.read_bytes().split(b"\0") if note.is_file() else []:
        path = Path(os.fsdecode(text))
        if path.suffix == ".pyc" and path.parent.name == "__pycache__":
            path = Path(importlib.util.source_from_cache(path))
        if path.is_file() and (name := inputs.named(root, path)):
            found[name] = path
    return found

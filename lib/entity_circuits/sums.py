"""Files that are trusted by their content: `SHA256SUMS` in a folder lists the SHA-256 of its files.

It has the form of the program `sha256sum`, so `sha256sum -c SHA256SUMS` checks a folder, too. Where a folder has such a
list, what is read through here is what was written, or it is refused by its name. The list is kept up to date by
`write`. Fetched models, shipped adapters, circuits, kept answers and the paper's numbers are looked after in this way.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import places

if TYPE_CHECKING:
    from torch import Tensor

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\n]+)")
_SETTLED = 2.0  # seconds: two changes of a file in less time may leave one time stamp on some file systems


def digest(file: Path) -> str:
    """The SHA-256 of a file in hex.

    For example:

        from pathlib import Path

        from entity_circuits import sums

        Path("empty").touch()
        print(sums.digest(Path("empty"))[:8])  # e3b0c442
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listed(folder: Path) -> dict[str, str] | None:
    """The SHA-256 of each file that a folder's list names, or None for a folder without a list.

    A line that is no such line is left out: its file is then not listed.

        from entity_circuits import places, sums

        print(*sums.listed(places.data("circuits")))
    """
    path = folder / NAME
    if not path.is_file():
        return None
    lines = path.read_bytes().decode(errors="replace").splitlines()
    return {found[2]: found[1] for found in map(_LINE.fullmatch, lines) if found}


def require(path: Path) -> Path:
    """The same path, if the list of its folder gives the content that it has, or if the folder has no list.

    Raises `ValueError` that names the file and says what to do.

        from entity_circuits import places, sums

        print(sums.require(places.data("paper.json")).name)
    """
    known = listed(path.parent)
    if known is not None and known.get(path.name) != digest(path):
        raise ValueError(_words(path))
    return path


def read(path: Path) -> str:
    """The text of a file, checked like `require`: what is given back is what was checked.

    For example:

        from entity_circuits import places, sums

        print(len(sums.read(places.data("paper.json"))))
    """
    content, known = path.read_bytes(), listed(path.parent)
    if known is not None and known.get(path.name) != hashlib.sha256(content).hexdigest():
        raise ValueError(_words(path))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from None


def tensors(path: Path) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
    """The words (JSON) and the tensors of a safetensors file, checked by `require`.

    For example:

        from entity_circuits import places, sums

        words, kept = sums.tensors(places.data("edges", "code.safetensors"))
        print(words["command"], list(kept))
    """
    from safetensors import safe_open  # brings torch, which those who read texts need not wait for

    with safe_open(require(path), framework="pt") as file:
        words = {key: json.loads(text) for key, text in file.metadata().items()}
        return words, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


def write(path: Path, content: str | bytes) -> None:
    """`places.write`, and the folder's list, if it has one, says so.

    Several programs may write files of one folder at a time.

        from pathlib import Path

        from entity_circuits import sums

        sums.write(Path("notes.txt"), "without a list nothing is listed")
        print(sums.listed(Path()))
    """
    places.write(path, content)
    if (path.parent / NAME).is_file():
        with _alone(path.parent):
            _store(path.parent, {**(listed(path.parent) or {}), path.name: digest(path)})


def seal(folder: Path) -> None:
    """Write the list of a folder: all files that are in it now, hidden ones left out.

    For example:

        from pathlib import Path

        from entity_circuits import sums

        Path("sealed").mkdir()
        Path("sealed", "one.txt").write_text("1")
        sums.seal(Path("sealed"))
        print(sums.whole(Path("sealed")))
    """
    _store(folder, {file.name: digest(file) for file in _files(folder)})


def whole(folder: Path, memory: Path | None = None) -> bool:
    """Whether a folder has a list, all that it names with that content, and nothing else but hidden files.

    Gigabytes take seconds to read, so `memory`, a file outside of the folder, notes what was found right: a file with
    the size and the times of then (of its content, and of its last change of any kind) is not read again. Only damage
    that leaves all of these, beneath the file system, is missed by that. A memory that is lost or damaged costs a
    reading; one that cannot be written, a reading each time.
    """
    known = listed(folder)
    if known is None or known.keys() != {file.name for file in _files(folder)}:
        return False
    return not wrong({folder / name: wanted for name, wanted in known.items()}, memory)


def wrong(files: Mapping[Path, str], memory: Path | None = None) -> list[Path]:
    """Those of these files whose content has not the digest that is given for it, with a `memory` as `whole` has it.

    A digest is a SHA-256 in hex or, if it is shorter, that of git for a file. Raises `OSError` for a missing file.

        from pathlib import Path

        from entity_circuits import sums

        Path("empty").touch()
        print(sums.wrong({Path("empty"): sums.digest(Path("empty"))}))
    """
    before = _remembered(memory)
    after, found = dict(before), []
    for file, wanted in files.items():
        state = file.stat()
        note = [wanted, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        if before.get(file.name) != note and (digest if len(wanted) == 64 else _git_digest)(file) != wanted:
            found.append(file)
            after.pop(file.name, None)
        elif time.time() - max(state.st_mtime, state.st_ctime) > _SETTLED:
            after[file.name] = note
    if memory is not None and after != before:
        with suppress(OSError):  # a cache that cannot be written to
            places.write(memory, json.dumps(after) + "\n")
    return found


def _git_digest(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _remembered(memory: Path | None) -> dict[str, object]:
    if memory is None:
        return {}
    try:
        found = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _files(folder: Path) -> list[Path]:
    inside = (file for file in folder.iterdir() if file.is_file())
    return sorted(file for file in inside if file.name != NAME and not file.name.startswith("."))


def _store(folder: Path, found: Mapping[str, str]) -> None:
    places.write(folder / NAME, "".join(f"{found[name]}  {name}\n" for name in sorted(found)))


def _words(path: Path) -> str:
    return (
        f"{path} is damaged or was changed: its content is not what {NAME} beside it lists. Get both again (in a "
        f"checkout `git restore {path.name} {NAME}` in their folder), or make it anew with the command that writes "
        f"it; if the change is meant, `sha256sum {path.name}` gives the line for {NAME}."
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer of a list at a time: the folder itself is locked, so that no lock file lies among the data."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""Where things are on disk: the checkout, if there is one, its data, the cache of models, stored results.

The engine also works where it was installed without its checkout: then results are kept in the user's cache folder, and
what only the checkout has (the book, its adapters and circuits) is refused with a sentence that says so.
"""

import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

CLONE = (
    "It is part of the repository of entity-circuits: clone that, and run "
    "`pip install -c constraints.txt -e '.[book]'` in it."
)

OLD = 24 * 60 * 60
"""Seconds after which what a killed writer left counts as given up."""

_PART = re.compile(r".+\.[^/]+-\d+-[0-9a-f]{8}\.part")

if TYPE_CHECKING:
    ROOT: Path
    """The checkout. Raises `FileNotFoundError` when it is asked for where there is none."""


def __getattr__(name: str) -> Path:
    if name != "ROOT":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = checkout()
    if found is None:
        raise FileNotFoundError(f"The folder of the book is missing. {CLONE}")
    return found


@once
def checkout() -> Path | None:
    """The folder of the repository, if the package lies in it; None where it was installed without."""
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / "pyproject.toml").is_file() and (folder / "data").is_dir() else None


def data(*parts: str) -> Path:
    """A file of the repository's `data/` folder.

    Raises `FileNotFoundError` if it is not there, or if the package was installed without its checkout.
    """
    found = checkout()
    path = Path(found or "", "data", *parts)
    if found is None or not path.exists():
        raise FileNotFoundError(f"{path} is missing. {CLONE}")
    return path


def cache() -> Path:
    """The folder that keeps fetched models (`ENTITY_CIRCUITS_CACHE`, or the user's cache folder). Not created here."""
    return _chosen("ENTITY_CIRCUITS_CACHE") or Path(platformdirs.user_cache_dir("entity-circuits"))


def results() -> Path:
    """The folder of stored results, not created here.

    `ENTITY_CIRCUITS_RESULTS` names it; otherwise it is the checkout's `build/results`, and without a checkout `results`
    in the user's cache folder.
    """
    if chosen := _chosen("ENTITY_CIRCUITS_RESULTS"):
        return chosen
    found = checkout()
    return found / "build" / "results" if found else Path(platformdirs.user_cache_dir("entity-circuits")) / "results"


def _chosen(variable: str) -> Path | None:
    chosen = os.environ.get(variable)
    return Path(chosen).expanduser() if chosen else None


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Inside the block a file to write to, which then takes the place of `path`: whole, or not at all.

    Folders above it are made. It has the rights of any new file of this user, whatever the program that fills it gave
    it. Its name is its own on every machine that shares the folder. A failure leaves the file that was there. What
    writers that were killed left in the folder a day ago or earlier is removed.

        from pathlib import Path

        from entity_circuits import places

        with places.writing(Path("notes.txt")) as part:
            part.write_text("whole, or not at all")
        print(Path("notes.txt").read_text())
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _tidy(path.parent)
    part = _part_of(path)
    part.touch(exist_ok=False)
    rights = part.stat().st_mode & 0o777  # what the umask leaves
    try:
        yield part
        part.chmod(rights)
        os.replace(part, path)
    except OSError as error:
        raise _with_name(error, path) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """The same for a folder, which must not be there yet: inside the block an empty one, which then takes its place.

    For example:

        from pathlib import Path

        from entity_circuits import places

        with places.making(Path("mine")) as part:
            (part / "notes.txt").write_text("whole, or not at all")
        print(Path("mine", "notes.txt").read_text())
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _tidy(folder.parent)
    part = _part_of(folder)
    part.mkdir()
    try:
        yield part
        os.replace(part, folder)
    except OSError as error:
        raise _with_name(error, folder) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def _with_name(error: OSError, path: Path) -> OSError:
    """The same error; one that names no file (a disk that became full) says which one was not written."""
    if error.errno is None or error.filename is not None:
        return error
    return OSError(error.errno, f"{error.strerror}, so that nothing was written", str(path))


def _tidy(folder: Path) -> None:
    """Remove what `_part_of` named and a killed process left: nobody has written to it for a day."""
    with suppress(OSError):  # another process is tidying, or may do so here and this one may not
        for part in folder.glob("*.part"):
            if _PART.fullmatch(part.name) and time.time() - part.stat().st_mtime > OLD:
                shutil.rmtree(part) if part.is_dir() else part.unlink()


def probe(folder: Path, advice: str) -> None:
    """Make a folder and write something in it, so that a place that cannot take results is told before the work.

    Raises `OSError` that names the folder and ends with the `advice`.

        from pathlib import Path

        from entity_circuits import places

        places.probe(Path("results"), "Choose another one.")
        print("can be written to")
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise OSError(f"{folder} cannot be written to: {error.strerror or error}. {advice}") from error


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, with the folders above it; a failure leaves the file that was there."""
    with writing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)

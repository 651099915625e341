"""What chapters and pages are made from, by content: the digest of each file that a person put there."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .packages import followed

# The folder of this package and of the engine: what a kernel imports under these names lies here. (No docstring: the
# page of the library would show the path.)
LIB = Path(__file__).resolve().parents[2]

PACKAGES = ("entity_book", "entity_circuits")

FOR_PEOPLE = frozenset({"README.md", "findings.json"})
"""Files of `data/` that no chapter is made from: explanations, and what is made from the executed chapters."""

_COMPILED = frozenset({".safetensors", ".gguf", ".parquet", ".arrow", ".bin", ".pt"})
"""Endings of files that compiled readers open, so that Python may not tell of it."""

_MADE = frozenset({"build", "_build"})
_SUMS = "SHA256SUMS"
_LENGTH = 20


def digests(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """Path below `root` -> SHA-256, for those that are files and no leftovers, in order.

    A leftover changes nothing that is made: what a killed writer left (`*.part`), what an editor, a file manager or
    Jupyter put there (hidden files and folders, copies that end in `~`).
    """
    found = {path.relative_to(root): path for path in files}
    kept = sorted((name, path) for name, path in found.items() if not _leftover(name) and path.is_file())
    return {name.as_posix(): sha256(path.read_bytes()).hexdigest() for name, path in kept}


def readable(root: Path) -> dict[str, str]:
    """Name -> digest of each file that a chapter could read and that is no code: `data/`, and what lies in packages."""
    found = {named(root, path): path for path in [*(root / "data").rglob("*"), *_in_packages(root)]}
    return {name: digest(found[name]) for name in sorted(found) if name and found[name].is_file()}


def _in_packages(root: Path) -> Iterator[Path]:
    for folder in ((root / "lib"), *(LIB / name for name in PACKAGES)):
        yield from (path for path in folder.rglob("*") if path.suffix not in (".py", ".pyc"))


def narrowed(root: Path, known: Mapping[str, str], opened: Mapping[str, Path]) -> dict[str, str]:
    """What `readable` gave before a chapter ran, after it ran and opened these files, {name: path}.

    A file that it did not open has "" in place of its digest: only that it is there still counts, because code may ask
    for it. One that it opened and that was not known counts, too, with what it holds now. So does every file that only
    compiled code opens, unless a list of sums lies beside it: that it is checked against, by Python, before.
    """
    sealed = {name.rpartition("/")[0] for name in known if name.endswith(f"/{_SUMS}")}

    def told(name: str) -> bool:
        return Path(name).suffix not in _COMPILED or name.rpartition("/")[0] in sealed

    found = {name: was if name in opened or not told(name) else "" for name, was in known.items()}
    more = {name: digest(path) for name, path in opened.items() if name not in known}
    return dict(sorted({**found, **more}.items()))


def with_others(root: Path, known: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """What `readable` gives, and those of the named files that are there and no usual inputs, by what they hold now."""
    found = {name: root / name for name in names if name not in known}
    for name in found:
        if (inside := name.split("/")[1:]) and name.startswith("lib/") and inside[0] in PACKAGES:
            found[name] = LIB.joinpath(*inside)
    return {**known, **{name: digest(path) for name, path in found.items() if path.is_file()}}


def named(root: Path, path: Path) -> str:
    """The name of a file of the book in `root`, or of its packages; empty for any other, and for what is no input.

    No input is what is made, hidden, left over, or `FOR_PEOPLE`.

    >>> named(Path("/book"), Path("/book/data/words.csv"))
    'data/words.csv'
    """
    for folder in folders(root):
        if not path.is_relative_to(folder):
            continue
        inside = path.relative_to(LIB) if folder.parent == LIB else path.relative_to(folder)
        name = Path("lib", inside) if folder.parent == LIB else inside
        people = name.parts[0] == "data" and name.name in FOR_PEOPLE
        made = name.parts[0] in _MADE or any(part.endswith(".egg-info") for part in name.parts)
        return "" if people or made or _leftover(name) else name.as_posix()
    return ""


def folders(root: Path) -> tuple[Path, ...]:
    """Where files of the book lie: its folder, and its packages, which may be installed elsewhere."""
    return (*(LIB / name for name in PACKAGES), root, root.resolve())


def digest(path: Path) -> str:
    """The digest of a file as the records of executed chapters have it; a list of sums without those `FOR_PEOPLE`."""
    content = path.read_bytes()
    if path.name == _SUMS:
        lines = content.splitlines(keepends=True)
        content = b"".join(line for line in lines if line.decode(errors="replace")[64:].strip(" *\n") not in FOR_PEOPLE)
    return sha256(content).hexdigest()[:_LENGTH]


def pins(root: Path) -> dict[str, str]:
    """Package -> version as `constraints.txt` pins those that chapters need; nothing without that file.

    Comments are no pins. Tests and linters may have others without a chapter being another one.
    """
    path = root / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = (re.fullmatch(r"\s*([\w.-]+)\s*==\s*([^\s#;]+).*", line) for line in lines)
    pinned, needed = {canonicalize_name(one[1]): one[2] for one in found if one}, _needed()
    return {name: pinned[name] for name in sorted(pinned) if name in needed or not needed}


@cache
def _needed() -> frozenset[str]:
    """The packages that this one and its extra `book` ask for, directly or through others; none where that is not
    known, because this one is not installed."""
    own = Requirement("entity-circuits[book]")
    return frozenset(followed([own]) - {own.name})


def _leftover(name: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    return hidden or name.suffix == ".part" or name.name.endswith("~") or name.name in ("Thumbs.db", "desktop.ini")

"""What chapters and pages are made from, by content: the digest of each file that a person put there."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path


def digests(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """Path below `root` -> SHA-256, for those that are files and no leftovers, in order.

    A leftover changes nothing that is made: what a killed writer left (`*.part`), what an editor, a file manager or
    Jupyter put there (hidden files and folders, copies that end in `~`).
    """
    found = {path.relative_to(root): path for path in files}
    kept = sorted((name, path) for name, path in found.items() if not _leftover(name) and path.is_file())
    return {name.as_posix(): sha256(path.read_bytes()).hexdigest() for name, path in kept}


def _leftover(name: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    return hidden or name.suffix == ".part" or name.name.endswith("~") or name.name in ("Thumbs.db", "desktop.ini")

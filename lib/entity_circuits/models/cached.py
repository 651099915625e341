"""What the cache of models holds: one folder a model, with a manifest and the SHA-256 of every file."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from .. import places, sums

FORMAT = 2
"""Version of the layout of a fetched folder; folders of another version are built again, but for `UNLISTED`."""

UNLISTED = 1
"""The version that knew the sizes of its files and not their SHA-256. A whole folder of it is not fetched again: the
list that it lacks is written when it is first looked at, and what is damaged after that is noticed."""


class FetchError(RuntimeError):
    """A model could not be fetched, or what came is not what was asked for. The cache is as usable as before."""


def folder_of(name: str) -> Path:
    """The folder of the cache that holds (or will hold) the fetched model of this name.

    For example:

        from entity_circuits.models import cached

        print(cached.folder_of("qwen2.5-coder-0.5b").name)
    """
    return places.cache() / "models" / name


def manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a fetched folder if the folder is whole, otherwise None.

    It is whole if its files are those that its `SHA256SUMS` lists, each with that content. They are read when they
    changed since they were last found right (see `sums.whole`).
    """
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if found["format"] == UNLISTED and not (folder / sums.NAME).exists():
            if any((folder / file).stat().st_size != size for file, size in found["files"].items()):
                return None
            with suppress(OSError):  # a cache that cannot be written to stays as it was
                sums.seal(folder)
        elif found["format"] not in (UNLISTED, FORMAT) or not sums.whole(folder, _memory(folder)):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return cast(dict[str, Any], found)


def _memory(folder: Path) -> Path:
    return folder.with_name(folder.name + ".checked")


def is_fetched(name: str, sha256: str) -> bool:
    """Whether the cache holds this model whole, made from the file with this SHA-256.

    For example:

        from entity_circuits import models
        from entity_circuits.models import cached

        entry = models.registry()["qwen2.5-coder-0.5b"]
        print(cached.is_fetched(entry.name, entry.source.sha256))
    """
    found = manifest(folder_of(name))
    return found is not None and found["sha256"] == sha256


def require_space(folder: Path, needed: int, name: str) -> None:
    """`FetchError` when the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchError(
            f"{name} needs {needed / 1e9:.1f} GB in {folder} while it is being fetched, and {free / 1e9:.1f} GB are "
            "free. Make room, or name another folder in ENTITY_CIRCUITS_CACHE."
        )

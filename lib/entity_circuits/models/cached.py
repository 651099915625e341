"""What the cache of models holds: one folder a model, and a manifest in it that says whether it is whole."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

from .. import places

FORMAT = 1
"""Version of the layout of a fetched folder; folders of another version are built again."""


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
    """The manifest of a fetched folder if the folder is whole (every file there with its size), otherwise None."""
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        whole = found["format"] == FORMAT and all(
            (folder / file).stat().st_size == size for file, size in found["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return cast(dict[str, Any], found) if whole else None


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

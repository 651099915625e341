"""Which files make up a model in safetensors, and whether they are what they were: of the hub, and of a folder."""

import glob
import json
import re
from pathlib import Path, PurePosixPath

from .. import places, sums
from .weights import FetchError, hub_download

INDEX = "model.safetensors.index.json"
_SMALL = [
    *("config.json", "generation_config.json", INDEX, "chat_template.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
]
MODEL_FILES = [*_SMALL, "model.safetensors", "model-?????-of-?????.safetensors"]
"""What transformers reads of a repository of the hub: nothing of another format, or in a folder of its own."""

_BLOB = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def snapshot(repo: str, revision: str) -> Path:
    """The folder of a model of the hub: config, tokenizer, and the weights that its index names if it has one.

    A file that was damaged in the hub's cache is fetched again. Raises `FetchError` if the hub does not give the files.
    """
    folder = downloaded(repo, revision, patterns=_SMALL)
    weights = [glob.escape(name) for name in named(folder)] or MODEL_FILES
    return downloaded(repo, folder.name, patterns=weights)  # of the same commit: the folder is named after it


def downloaded(repo: str, revision: str, *, file: str = "", patterns: list[str] | None = None) -> Path:
    """`weights.hub_download` of a file or of a snapshot, fetched again where the cache of the hub is damaged.

    That cache calls each file by the digest of its content, so what changed since it came is known.
    """
    got = hub_download(repo, revision, file=file, patterns=patterns)
    if damaged := _damaged(got, repo, patterns):
        names = ", ".join(one.name for one in damaged)
        for one in damaged:
            one.resolve().unlink(missing_ok=True)
            one.unlink(missing_ok=True)
        try:
            got = hub_download(repo, revision, file=file, patterns=patterns)
        except FetchError as error:
            raise FetchError(f"{names} was damaged in the cache of the hub and has to come again: {error}") from error
    return got


def _damaged(got: Path, repo: str, patterns: list[str] | None) -> list[Path]:
    from huggingface_hub.utils import filter_repo_objects  # slow to import

    inside = (one.relative_to(got).as_posix() for one in sorted(got.rglob("*")) if one.is_file())
    files = [got / name for name in filter_repo_objects(inside, allow_patterns=patterns)] if got.is_dir() else [got]
    known = {one: name for one in files if _BLOB.fullmatch(name := one.resolve().name)}
    return sums.wrong(known, places.cache() / "hub" / f"{repo.replace('/', '--')}-{got.name}.checked")


def named(folder: Path) -> list[str]:
    """The weight files that the index of a folder names, sorted; none without an index.

    Raises `FetchError` for an index that cannot be read, or names anything but safetensors within the folder.
    """
    index = folder / INDEX
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if _leads_outside(name)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(f"{index} is damaged: {error!r}. Remove it and fetch the model again.") from error
    if outside or not names:
        what = f"names {outside[0]!r}, which is no *.safetensors file of that folder" if outside else "names no file"
        raise FetchError(f"{index} {what}: nothing is read by it. Get the model from a source that you trust.")
    return names


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that are read of a folder: the one, or those of the index; none if it has neither.

    Raises `FetchError` as `named` does, and for a file of the index that is not there.

        from entity_circuits import models
        from entity_circuits.models import folders

        print([file.name for file in folders.weight_files(models.fetch("qwen2.5-coder-0.5b"))])
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    files = [folder / name for name in named(folder)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise FetchError(f"{folder} lacks {missing[0]}, which its index names: fetch or copy the model again.")
    return files


def as_listed(folder: Path) -> Path:
    """The same folder, if every file that its `SHA256SUMS` lists is what it lists, or if it has no list.

    `finetune` writes one beside what it trained. Raises `FetchError` that names a damaged file.

        from entity_circuits import places
        from entity_circuits.models import folders

        print(folders.as_listed(places.data("adapters", "code")).name)
    """
    known = sums.listed(folder) or {}
    try:
        damaged = sums.wrong({folder / name: wanted for name, wanted in known.items() if (folder / name).is_file()})
    except OSError as error:
        raise FetchError(f"{folder} cannot be read: {error}") from error
    if damaged:
        raise FetchError(f"{damaged[0]} is damaged or was changed: it is not what {sums.NAME} beside it lists.")
    return folder


def _leads_outside(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or path.suffix != ".safetensors"

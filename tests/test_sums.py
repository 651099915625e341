"""Claims about lists of SHA-256: what is read is what was written, and a change is told by the name of the file."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from entity_book import paper
from entity_book.course import answers
from entity_book.studies import arithmetic, improvement, tuning
from entity_book.training import adapters
from entity_book.training.plan import Run
from entity_circuits import circuits, models, places, sums
from entity_circuits.models.weights import FetchError

SHIPPED = [file for part in ("data", "course/data") for file in (places.ROOT / part).rglob("*.*")]
FOLDERS = sorted({file.parent for file in SHIPPED if file.suffix in (".json", ".safetensors")})


def flip(file, where=-10):
    content = bytearray(file.read_bytes())
    content[where] ^= 1
    file.write_bytes(content)


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "sealed"
    folder.mkdir()
    for name in ("one.txt", "zwei ü.txt"):
        (folder / name).write_text(name)
    sums.seal(folder)
    return folder


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A copy of the repository's data that a test may damage."""
    shutil.copytree(places.ROOT / "data", tmp_path / "data")
    monkeypatch.setattr(places, "checkout", lambda: tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(places.ROOT).as_posix())
def test_what_is_shipped_is_listed_and_is_what_is_listed(folder):
    known = sums.listed(folder)
    assert known and sums.wrong({folder / name: wanted for name, wanted in known.items()}) == []
    data = {file.name for file in folder.iterdir() if file.suffix in (".json", ".safetensors")}
    assert data <= known.keys()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_a_list_is_one_that_sha256sum_checks(sealed):
    done = subprocess.run(["sha256sum", "-c", sums.NAME], cwd=sealed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_changed_file_is_refused_by_name_and_others_are_not(sealed):
    flip(sealed / "one.txt", 0)
    for read in (sums.read, sums.require):
        with pytest.raises(ValueError, match=r"one\.txt is damaged or was changed"):
            read(sealed / "one.txt")
    assert sums.read(sums.require(sealed / "zwei ü.txt")) == "zwei ü.txt"
    (sealed / "unlisted").write_text("put there by hand")
    with pytest.raises(ValueError, match="unlisted is damaged or was changed"):
        sums.read(sealed / "unlisted")


def test_what_is_written_is_listed_where_there_is_a_list(sealed, tmp_path):
    sums.write(sealed / "one.txt", "other")
    sums.write(sealed / "new.txt", "new")
    assert sums.read(sealed / "one.txt") == "other" and sums.whole(sealed)
    sums.write(tmp_path / "elsewhere" / "one.txt", "other")
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["one.txt"]


def test_programs_that_write_into_one_folder_list_all_their_files(sealed):
    script = "import sys; from pathlib import Path; from entity_circuits import sums\n"
    script += "for i in range(30): sums.write(Path(sys.argv[1], f'{sys.argv[2]}-{i}'), f'{i}')"
    both = [subprocess.Popen([sys.executable, "-c", script, str(sealed), name]) for name in ("a", "b")]
    assert [process.wait(60) for process in both] == [0, 0]
    assert sums.whole(sealed) and len(sums.listed(sealed) or ()) == 62


@pytest.mark.parametrize("damage", ["content", "missing", "added", "list", "no list"])
def test_a_folder_is_whole_only_with_all_its_files_and_no_others(sealed, damage):
    assert sums.whole(sealed)
    (sealed / ".DS_Store").write_text("put there by a file manager")
    assert sums.whole(sealed)
    if damage == "content":
        flip(sealed / "one.txt", 0)
    elif damage == "missing":
        (sealed / "one.txt").unlink()
    elif damage == "added":
        (sealed / "adapter_config.json").write_text("{}")
    elif damage == "list":
        flip(sealed / sums.NAME, 0)
    else:
        (sealed / sums.NAME).unlink()
    assert not sums.whole(sealed)


def test_what_was_found_right_is_not_read_again_until_it_changes(sealed, tmp_path, monkeypatch):
    memory, read = tmp_path / "memory", []
    digest = sums.digest
    monkeypatch.setattr(sums, "digest", lambda file: read.append(file.name) or digest(file))
    monkeypatch.setattr(sums, "_SETTLED", -1)
    for _ in range(3):
        assert sums.whole(sealed, memory)
    assert len(read) == 2
    memory.write_text("{damaged")
    assert sums.whole(sealed, memory) and len(read) == 4
    memory.unlink()
    memory.mkdir()  # cannot be written
    assert sums.whole(sealed, memory) and sums.whole(sealed, memory) and len(read) == 8


def test_a_change_that_puts_the_files_own_time_back_is_noticed(sealed, tmp_path, monkeypatch):
    monkeypatch.setattr(sums, "_SETTLED", -1)
    assert sums.whole(sealed, tmp_path / "memory")
    before = (sealed / "one.txt").stat()
    time.sleep(0.05)
    flip(sealed / "one.txt", 0)
    os.utime(sealed / "one.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (sealed / "one.txt").stat().st_mtime_ns == before.st_mtime_ns
    assert not sums.whole(sealed, tmp_path / "memory")


def test_a_file_that_changed_just_now_is_not_noted_as_right(sealed, tmp_path):
    assert sums.whole(sealed, tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


def test_a_damaged_adapter_is_refused_by_name_and_is_not_there(own_data):
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        flip(own_data / "adapters" / "code" / name)
        with pytest.raises(FetchError, match=rf"code cannot be had: .*{name} is damaged"):
            models.fetch("code")
        with pytest.raises(FetchError, match=rf"code cannot be had: .*{name} is damaged"):
            models.load("code")
        flip(own_data / "adapters" / "code" / name)
    assert models.fetch("code").is_dir()
    flip(own_data / "adapters" / "code" / "adapter_model.safetensors")
    there = models.describe().set_index("name")["fetched"]
    assert not there["code"] and there["arithmetic"]


def test_published_and_measured_numbers_are_read_only_as_they_were_written(own_data):
    paper.paper(), tuning.measured(), adapters.log("code")
    for name, read in (
        ("paper.json", paper.paper),
        ("adapters/accuracy.json", tuning.measured),
        ("adapters/code/log.json", lambda: adapters.log("code")),
    ):
        flip(own_data / name, 700)
        with pytest.raises(ValueError, match="is damaged or was changed"):
            read()


@pytest.mark.parametrize(
    "use",
    [lambda folder: arithmetic._adapter(Run("random numbers", made="random"), "", folder), lambda _: answers._lora()],
)
def test_a_shipped_adapter_is_not_used_where_its_weights_are_damaged(use, own_data, tmp_path):
    for kind in ("arithmetic", "code"):
        flip(own_data / "adapters" / kind / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged"):
        use(tmp_path)


def test_a_damaged_circuit_is_refused_by_name_and_left_out_among_others(own_data):
    flip(own_data / "circuits" / "code.json", 5000)
    with pytest.raises(ValueError, match=r"code\.json is damaged"):
        circuits.load("code")
    with pytest.warns(UserWarning, match="the circuit code is left out"):
        assert [found.model for found in circuits.readable()] == [
            "qwen2.5-coder-0.5b+arithmetic",
            "qwen2.5-coder-0.5b",
            "qwen2.5-coder-1.5b",
        ]
    circuits.save(circuits.load("arithmetic"), own_data / "circuits" / "again.json")
    assert circuits.load("again").model == circuits.load("arithmetic").model


def test_damaged_answers_of_one_pair_are_named_and_leave_the_others(own_data):
    flip(own_data / "cmap" / "code.safetensors", 5000)
    with pytest.warns(UserWarning, match=r"the kept answers of code are left out: .*code\.safetensors is damaged"):
        names = [name for name, _, _ in improvement._files(improvement.folder())]
    assert names == ["arithmetic", "code-binding", "code-other", "shuffled"]


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_never_the_current_folder(name, tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "code"}))
    monkeypatch.chdir(tmp_path)
    for call in (models.fetch, models.load, lambda name: models.load("qwen2.5-coder-0.5b", adapter=name)):
        with pytest.raises(ValueError, match=r"the name of a model is empty|is no name of a model"):
            call(name)

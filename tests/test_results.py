"""Claims about stored results and circuits: served only for the same inputs, whole or not at all."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import platformdirs
import pytest
import tiny
import torch
from entity_circuits import heads, places, results
from entity_circuits.heads import Circuit, Head
from entity_circuits.tasks import boxes


def test_a_result_is_computed_once_and_again_when_any_input_changes(tmp_path):
    store, calls = results.Store(tmp_path), []

    def compute():
        calls.append(1)
        return {"x": torch.arange(3) + len(calls)}

    first = store.keep("x", {"model": "a", "n": 1}, compute)["x"]
    assert torch.equal(store.keep("x", {"n": 1, "model": "a"}, compute)["x"], first)
    assert len(calls) == 1
    assert not torch.equal(store.keep("x", {"model": "b", "n": 1}, compute)["x"], first)
    assert len(calls) == 2


def test_others_may_read_a_stored_file_as_the_umask_says(tmp_path):
    for umask in (0o022, 0o077):
        before = os.umask(umask)
        try:
            results.Store(tmp_path / f"{umask}").keep("x", {}, lambda: {"x": torch.ones(2)})
            places.write(tmp_path / f"{umask}" / "text", "words")
        finally:
            os.umask(before)
        assert {file.stat().st_mode & 0o777 for file in (tmp_path / f"{umask}").iterdir()} == {0o666 & ~umask}


def test_what_is_being_written_has_a_name_of_its_own(tmp_path):
    with places.writing(tmp_path / "x") as one, places.writing(tmp_path / "x") as other:
        assert one != other
        assert {socket.gethostname() in part.name and str(os.getpid()) in part.name for part in (one, other)} == {True}
        one.write_text("one")
        other.write_text("other")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x", "one")]


def test_without_a_checkout_results_go_to_the_users_folder_and_its_data_are_missed_with_what_to_do(monkeypatch):
    monkeypatch.delenv("ENTITY_CIRCUITS_RESULTS", raising=False)
    monkeypatch.setattr(places, "checkout", lambda: None)
    assert places.results() == Path(platformdirs.user_cache_dir("entity-circuits")) / "results"
    with pytest.raises(FileNotFoundError, match="clone that"):
        _ = places.ROOT
    with pytest.raises(FileNotFoundError, match=r"paper\.json.*clone that"):
        places.data("paper.json")


def test_a_damaged_file_is_computed_anew(tmp_path):
    store = results.Store(tmp_path)
    store.keep("x", {}, lambda: {"x": torch.ones(1000)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert torch.equal(store.keep("x", {}, lambda: {"x": torch.zeros(2)})["x"], torch.zeros(2))
    assert torch.equal(store.keep("x", {}, lambda: pytest.fail("computed twice"))["x"], torch.zeros(2))


def test_a_file_written_for_other_inputs_is_never_served(tmp_path):
    store = results.Store(tmp_path)
    store.keep("x", {"n": 1}, lambda: {"x": torch.ones(2)})
    (ones,) = tmp_path.iterdir()
    content = ones.read_bytes()
    ones.unlink()
    store.keep("x", {"n": 2}, lambda: {"x": torch.zeros(2)})
    (zeros,) = tmp_path.iterdir()
    zeros.write_bytes(content)
    assert torch.equal(store.keep("x", {"n": 2}, lambda: {"x": torch.zeros(2)})["x"], torch.zeros(2))


WRITES_FOR_EVER = """
import sys, itertools, torch
from pathlib import Path
from entity_circuits import results
for n in itertools.count():
    results.Store(Path(sys.argv[1])).keep("big", {"n": n}, lambda: {"x": torch.ones(2_000_000)})
"""


def test_a_process_killed_while_writing_leaves_no_half_result(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITES_FOR_EVER, str(tmp_path)])
    try:
        while len(list(tmp_path.glob("*.safetensors"))) < 3:
            assert process.poll() is None, "the writer ended"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) >= 3
    assert all(file.stat().st_size > 8_000_000 for file in files)


def test_code_and_tensors_are_part_of_what_identifies_a_result():
    one = torch.arange(4.0)
    assert results.digest(one) == results.digest(one.clone())
    assert results.digest(one) != results.digest(one.view(2, 2))
    assert results.digest(one) != results.digest(one + 1e-6)
    one, other = "entity_circuits.heads", "entity_circuits.results"
    assert results.code(one) == results.code(one) != results.code(other)


def package(folder, **sources):
    """A package of these modules, importable from here on, under a name that no other test uses."""
    name = f"made_{folder.name.replace('-', '_')}"
    for module, text in {"__init__": "", **sources}.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"{module}.py").write_text(text.replace("PACKAGE", name))
    return name


FIRST = "from . import second\nfrom PACKAGE.third import THREE\n"
SECOND = "def two():\n    from . import fourth\n    return fourth.FOUR\n"


def code_of(folder, monkeypatch, **changed):
    sources = {"first": FIRST, "second": SECOND, "third": "THREE = 3\n", "fourth": "FOUR = 4\n", "alone": "ONE = 1\n"}
    name = package(folder, **(sources | changed))
    monkeypatch.syspath_prepend(str(folder))
    results._read_module.cache_clear()
    return results.code(f"{name}.first")


@pytest.mark.parametrize(
    "changed", [{"second": SECOND + "X = 1\n"}, {"third": "THREE = 4\n"}, {"fourth": "FOUR = 5\n"}]
)
def test_code_that_is_reached_by_imports_counts_however_far_away(tmp_path, monkeypatch, changed):
    assert code_of(tmp_path, monkeypatch) != code_of(tmp_path, monkeypatch, **changed)


@pytest.mark.parametrize("changed", [{"third": '"""Words."""\nTHREE = 3  # a comment\n'}, {"alone": "ONE = 2\n"}])
def test_words_about_code_and_modules_that_are_not_imported_do_not_count(tmp_path, monkeypatch, changed):
    assert code_of(tmp_path, monkeypatch) == code_of(tmp_path, monkeypatch, **changed)


@pytest.mark.parametrize(
    "module",
    [
        *(f"entity_circuits.methods.{name}" for name in ("path_patching", "ablation", "knockout", "cmap")),
        "entity_book.studies.semantics",
    ],
)
def test_the_code_of_a_method_holds_itself_and_all_that_runs_it(module):
    reached = {name.removeprefix("entity_circuits.") for name in results._reached([module])}
    runs = {f"runs.{name}" for name in ("edits", "recording", "definition", "replay", "blocks", "prefix")}
    assert {module.removeprefix("entity_circuits."), "models.precision", "heads", *runs} <= reached


def test_threads_device_and_every_parameter_are_part_of_what_identifies_a_result(monkeypatch):
    subject = tiny.subject()
    p = boxes.prompts(subject, n=6, boxes=3)

    def key(**asked):
        return json.dumps(results.key("entity_circuits.runs", subject, **asked), sort_keys=True)

    one = key(prompts=p, seed=0, heads=(Head(1, 2),))
    assert one == key(prompts=p.select(range(6)), seed=0, heads=[Head(1, 2)])
    assert one not in (key(prompts=p.select(range(5))), key(prompts=p, seed=1), key(prompts=p, seed=0, heads=()))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert one != key(prompts=p, seed=0, heads=(Head(1, 2),))


def test_prompts_that_differ_in_a_position_alone_are_other_prompts():
    p = boxes.prompts(tiny.subject(), n=6, boxes=3)
    assert p.digest == replace(p, prev=p.prev.clone()).digest != replace(p, prev=p.prev - 1).digest


def test_a_circuit_survives_json_and_unknown_groups_are_refused(tmp_path):
    circuit = Circuit({"value_fetcher": (Head(21, 3), Head(20, 14))}, {"seed": 0})
    circuit.save(tmp_path / "circuit.json")
    assert Circuit.from_json((tmp_path / "circuit.json").read_text()) == circuit
    assert [file.name for file in tmp_path.iterdir()] == ["circuit.json"]
    with pytest.raises(ValueError, match="value_fetcher"):
        Circuit({"fetcher": ()})


def test_a_text_that_cannot_be_written_leaves_the_old_file_and_no_part_of_the_new(tmp_path):
    path = tmp_path / "folder" / "note.txt"
    places.write(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        places.write(path, "new \ud800\n")
    assert path.read_text() == "old\n"
    assert list(path.parent.iterdir()) == [path]


def test_heads_are_written_and_read_the_same_way():
    assert str(Head.parse("L14H5")) == "L14H5"
    assert heads.by_layer([Head(2, 3), Head(1, 0), Head(2, 1)]) == {1: (0,), 2: (1, 3)}
    for wrong in ("14.5", "L1", "L-1H2", ""):
        with pytest.raises(ValueError, match="L14H5"):
            Head.parse(wrong)

"""Claims about stored results and circuits: served only for the same inputs, whole or not at all."""

import subprocess
import sys
import time

import pytest
import torch
from entity_circuits import heads, places, results
from entity_circuits.heads import Circuit, Head


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
    assert results.code(results) == results.code(results) != results.code(heads)


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

"""The script for a CUDA card, rehearsed: its stages, what it counts, and that it tells what is wrong."""

import json
from dataclasses import replace
from pathlib import Path

import gpu_check
import pytest
import torch
from entity_circuits import boxes, path_patching, runs
from entity_circuits.models import devices
from torch.utils.flop_counter import FlopCounterMode

SHAPE = gpu_check.Shape(4, 64, 8, 96, len(gpu_check.tiny.words()))
FEW = {"path patching to queries": gpu_check.METHODS["path patching to queries"]}


@pytest.fixture
def quick(monkeypatch):
    """One method stands for all; the numbers of all are the business of `test_devices`."""
    monkeypatch.setattr(gpu_check, "METHODS", FEW)
    monkeypatch.setattr(gpu_check, "WITHOUT_EXECUTOR", {})
    monkeypatch.setattr(gpu_check, "rate", lambda *_: 1e9)
    monkeypatch.setattr(gpu_check.replay, "EXECUTORS", dict(gpu_check.replay.EXECUTORS))


def rows(file):
    return json.loads(file.read_text())


def test_a_rehearsal_goes_through_all_stages_in_every_precision(quick, tmp_path):
    assert gpu_check.main(["--rehearse", "--out", str(tmp_path / "found.json")]) == 0
    found = rows(tmp_path / "found.json")
    assert [row["precision"] for row in found if row["stage"] == "rounds"] == ["fp32", "tf32", "bf16"]
    assert found[-1] == {**found[-1], "stage": "end", "wrong": 0}
    exact = [row for row in found if row["stage"] == "equal" and row["precision"] == "fp32"]
    assert len(exact) == 4
    assert all(row["apart"] < 1e-5 < row["largest_effect"] for row in exact)
    page = (Path(__file__).parents[1] / "book" / "remote.md").read_text(encoding="utf-8")
    shown = [json.loads(line) for line in page.splitlines() if line.startswith('{"stage": ')]
    fields = {row["stage"]: row.keys() for row in found}
    assert shown and all(row.keys() == fields[row["stage"]] for row in shown)


def test_a_method_with_other_numbers_is_told_and_fails_the_check(quick, monkeypatch, tmp_path):
    count = iter(range(9))
    monkeypatch.setattr(gpu_check, "METHODS", {"wrong": lambda g, m: torch.tensor([float(next(count))])})
    assert gpu_check.main(["--rehearse", "--seconds", "0", "--out", str(tmp_path / "found.json")]) == 1
    found = rows(tmp_path / "found.json")
    assert [row["ok"] for row in found if row["stage"] == "method"] == [False, False]
    assert [row["stage"] for row in found if row.get("precision")] == ["skipped"] * 3


def test_a_replay_that_is_not_the_definition_fails_the_check(quick, monkeypatch, tmp_path):
    right = gpu_check.replay.replay

    def wrong(recording, variants, **asked):
        found = right(recording, variants, **asked)
        return replace(found, logprobs=found.logprobs + any(map(len, variants)))

    monkeypatch.setattr(gpu_check, "METHODS", {})
    monkeypatch.setattr(gpu_check.replay, "replay", wrong)
    assert gpu_check.main(["--rehearse", "--out", str(tmp_path / "found.json")]) == 1
    assert [row["ok"] for row in rows(tmp_path / "found.json") if row["stage"] == "equal"] == [False] * 12


def test_a_stage_that_breaks_leaves_the_others_to_run(quick, monkeypatch, tmp_path):
    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu_check, "equal", broken)
    assert gpu_check.main(["--rehearse", "--out", str(tmp_path / "found.json")]) == 1
    failed = [row for row in rows(tmp_path / "found.json") if row["stage"] == "failed"]
    assert [(row["precision"], row["error"]) for row in failed] == [
        (name, "RuntimeError: out of memory") for name in ("fp32", "tf32", "bf16")
    ]


def test_the_operations_of_a_round_are_those_that_pytorch_counts(monkeypatch):
    monkeypatch.setattr(devices, "rounding", lambda _: 0.0)  # a product of its own
    subject = gpu_check.build(SHAPE, torch.float32, torch.device("cpu"))
    drawn = boxes.experiment(subject, n=7)
    both = (runs.record(subject, drawn.base), runs.record(subject, drawn.source))
    tails = drawn.base.last - drawn.base.position("query")
    assert len(set(tails.tolist())) == 1
    for one in drawn.rounds:
        asked = gpu_check.asked_of(one, SHAPE)
        sweep = lambda: path_patching.sweep(subject, drawn.base, drawn.source, **asked, recordings=both)  # noqa: B023, E731
        sweep()  # the first check of a model is no part of it
        with FlopCounterMode(display=False) as counter:
            sweep()
        tail = 1 if one.position == "last" or one.into == "value_fetcher" else int(tails.max()) + 1
        counted, told = counter.get_total_flops(), SHAPE.operations(one, 7, drawn.base.input_ids.shape[1], tail)
        print(one.name, counted, told, counted / told)
        assert told == pytest.approx(counted, rel=0.02)  # and the unedited run

"""A circuit found again is the one that the book keeps, where that is of the same weights and boxes, or a new one."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from entity_book.studies import overlaps
from entity_circuits import circuits
from entity_circuits.heads import Head
from entity_circuits.results import Store

KEPT = overlaps.again("qwen2.5-coder-0.5b")


def discovery(**about):
    circuit = replace(KEPT.circuit, about={**KEPT.circuit.about, "seed": 0, **about})
    return SimpleNamespace(circuit=circuit, runs=SimpleNamespace(subject="a model"))


def test_the_kept_circuit_serves_for_the_same_weights_boxes_and_another_seed_alone(monkeypatch):
    asked = []
    searched = SimpleNamespace(name="searched")
    monkeypatch.setattr(overlaps.path_patching, "discover", lambda subject, store, **drawn: asked.append(drawn))
    monkeypatch.setattr(circuits, "finding", lambda found, command: searched)
    kept = overlaps.found_again(discovery(), 14, Store(None))
    assert kept.circuit == KEPT.circuit and not asked
    for other in ({"fingerprint": "0"}, {"boxes": 5}, {"seed": 1}, {"model": "nobody"}):
        assert overlaps.found_again(discovery(**other), 14, Store(None)) is searched
    assert [drawn["boxes"] for drawn in asked] == [7, 5, 7, 7] and [drawn["seed"] for drawn in asked] == [1, 1, 2, 1]
    assert {drawn["n"] for drawn in asked} == {14}


def test_tables_have_every_head_with_a_path_once_the_strongest_first():
    for group, table in overlaps.tables(KEPT).items():
        scores = KEPT.scores[KEPT.statistic][group]
        assert len(table) == np.isfinite(scores).sum() and table["head"].is_unique
        assert table["score"].is_monotonic_increasing
        first = Head.parse(table["head"].iloc[0])
        assert table["score"].iloc[0] == pytest.approx(np.nanmin(scores)) == scores[first.layer, first.head]


def test_circuits_of_other_prompts_are_held_against_one_by_group_and_beside_chance():
    found = circuits.load("qwen2.5-coder-0.5b")
    table = overlaps.elsewhere(found)
    assert "seed 1" in set(table["prompts"])
    row = table.set_index("prompts").loc["seed 1"]
    again = circuits.compare(found, overlaps.again(found.model)).set_index("group").loc["all"]
    assert row["all"] == f"{again['shared']:.0f} of {again['one']:.0f}"
    assert row["chance"] == again["layer_chance"] < again["shared"]
    assert overlaps.elsewhere(circuits.load("code")).empty

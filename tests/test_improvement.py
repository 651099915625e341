"""Kept answers are those that were measured, of these very models, and are compared answer by answer."""

import pytest
import tiny
import torch
from entity_circuits import boxes, cmap, improvement
from entity_circuits.heads import Circuit, Head

CIRCUIT = Circuit(
    {
        "value_fetcher": (Head(3, 1), Head(2, 4)),
        "position_transmitter": (Head(2, 0),),
        "position_detector": (Head(1, 3),),
        "structure_reader": (Head(0, 2),),
    },
    {},
)


@pytest.fixture(scope="module")
def pair():
    return tiny.subject("qwen2"), tiny.subject("qwen2", seed=1)


@pytest.fixture(scope="module")
def measured(pair):
    prompts = boxes.prompts(pair[0], 21, split="evaluation")
    return cmap.sweep(*pair, improvement.conditions(pair[0], CIRCUIT, draws=2), prompts)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(improvement, "folder", lambda: tmp_path)
    return tmp_path


def test_every_condition_that_the_chapter_speaks_of_is_asked_for_once(pair):
    asked = improvement.conditions(pair[0], CIRCUIT, draws=2)
    words = [(one.name, "".join(one.sites), one.origin, one.into, one.draw) for one in asked]
    assert len(set(words)) == len(words)
    assert {(name, "z", "run", "base", None) for name in ("circuit", "A", "B", "C", "D", "A + B", "B + C")} < set(words)
    assert {("A", "z", "run", "base", draw) for draw in (0, 1)} < set(words)
    assert {(name, "z", "run", "tuned", None) for name in "ABC"} < set(words)
    inputs = {(name, site, way, "base", None) for name in "AB" for site in "qv" for way in ("weights", "inputs")}
    assert inputs < set(words)


def test_kept_answers_come_back_for_the_models_they_are_of_and_for_no_others(pair, measured, folder):
    base, tuned = pair
    improvement.keep(measured, folder / "mine.safetensors", base, tuned, command="by hand")
    found = improvement.kept(base, tuned)
    assert [one.words for one in found.conditions] == [one.words for one in measured.conditions]
    assert torch.equal(found.correct, measured.correct) and torch.equal(found.contexts, measured.contexts)
    assert (found.logprob - measured.logprob).abs().max() < 0.01
    assert improvement.kept(tuned, base) is None
    assert [path.name for path in folder.iterdir()] == ["mine.safetensors"]


def test_answers_run_again_are_compared_one_by_one(pair, measured):
    base, tuned = pair
    part = boxes.prompts(base, 7, split="evaluation")
    again = cmap.sweep(base, tuned, [*improvement.few(CIRCUIT), *improvement.scan(base, 2)], part)
    table = improvement.agreement(measured, again)
    assert set(table["condition"]) == {"circuit", "A", "B", "C", "D"} and (table["same"] == 7).all()
    changed = measured.correct.clone()
    changed[measured.conditions.index(again.conditions[0]), 3] ^= True
    other = improvement.agreement(type(measured)(**{**vars(measured), "correct": changed}), again)
    assert other["same"].sum() == table["same"].sum() - 1
    with pytest.raises(ValueError, match="not the first of those"):
        improvement.agreement(again, measured)


def test_the_answers_under_some_conditions_are_those_of_all(measured):
    chosen = measured.conditions[3:5]
    found = improvement.under(measured, chosen)
    assert found.conditions == chosen and torch.equal(found.correct, measured.correct[3:5])

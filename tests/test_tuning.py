"""Comparing fine-tuned models with their base: the same prompts, paired; verdicts that follow from the numbers."""

import json

import numpy as np
import pandas as pd
import pytest
import tiny
from entity_book.studies import tuning
from entity_book.training import adapters, finetune
from entity_circuits import models, results
from entity_circuits.runs import answers
from entity_circuits.tasks import boxes


def frame(**shares: float) -> pd.DataFrame:
    """One row a prompt and kind: each kind is right on that share of 700 prompts, the easy ones first."""
    prompt = np.arange(700)
    ease = np.random.default_rng(0).random(700)
    tables = []
    for kind, share in shares.items():
        columns = {"prompt": prompt, "context": prompt // 7, "position": prompt % 7 + 1, "correct": (ease < share) * 1}
        tables.append(pd.DataFrame({"kind": kind.replace("_", "-"), "seed": 0, **columns}))
    return pd.concat(tables, ignore_index=True)


def test_the_base_differs_from_itself_by_nothing_and_others_by_what_they_gained_and_lost():
    summary = tuning.summary(frame(base=0.5, code=0.6)).set_index("kind")
    assert summary.loc["base", ["gain", "gain_low", "gain_high", "gained", "lost"]].tolist() == [0, 0, 0, 0, 0]
    code = summary.loc["code"]
    assert code.gain == pytest.approx((code.gained - code.lost) / code.n)
    assert code.lost == 0
    assert code.gained > 0


def test_the_default_is_the_largest_gain_above_base_and_control():
    said = tuning.verdict(frame(base=0.4, arithmetic=0.5, code=0.6, shuffled=0.42))
    assert "`code`; also above both: arithmetic" in said["default"]


def test_a_gain_that_the_control_shares_is_not_sound():
    said = tuning.verdict(frame(base=0.4, arithmetic=0.5, shuffled=0.5))
    assert said["default"].startswith("No training beats both")
    assert said["arithmetic-minus-shuffled"].startswith("+0.000")


def test_gains_are_paired_within_a_condition():
    one = frame(base=0.5, code=0.7).assign(condition="seven boxes")
    two = frame(base=0.9, code=0.9).assign(condition="label first")
    table = tuning.gains(pd.concat([one, two])).set_index(["condition", "kind"])
    assert table.loc[("label first", "code"), "gain"] == 0
    assert table.loc[("seven boxes", "code"), "gain"] > 0.1


def test_a_look_asks_for_each_condition_on_its_own_prompts():
    subject = tiny.subject("llama")
    table = tuning.look(subject, "base", contexts=3)
    sizes = table.groupby("condition", sort=False).size()
    assert sizes["seven boxes"] == sizes["drawers"] == sizes["a sentence between"] == 21
    assert (sizes["label first"], sizes["three boxes"], sizes["five boxes"]) == (7, 9, 15)
    prompts = boxes.prompts(subject, 21, split="evaluation")
    right = answers.evaluate(subject, prompts).correct.int().tolist()
    assert table[table["condition"] == "seven boxes"]["correct"].tolist() == right


def test_the_sorts_of_answers_add_up_to_all_of_them():
    table = tuning.look(tiny.subject("llama"), "base", contexts=2, wordings=False)
    shares = tuning.answers(table)
    assert shares.index.tolist() == ["base"]
    assert shares.sum(axis=1).tolist() == pytest.approx([1.0])
    right = table[table["condition"] == "seven boxes"]["correct"].mean()
    assert shares.loc["base", "the right object"] == pytest.approx(right)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A saved base, one adapter on it, and an empty store."""
    base = tmp_path / "base"
    tiny.model("qwen2").save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    subject = models.load(str(base), check=False)
    recipe = finetune.Recipe("code", steps=4, batch=4, held_out=4, learning_rate=3e-2)
    folder = adapters.save(finetune.train(subject, recipe, results.Store(None)), subject, tmp_path / "code", "")
    monkeypatch.setattr(adapters, "folders", lambda: {("code", 0): folder})
    monkeypatch.setenv("ENTITY_CIRCUITS_RESULTS", str(tmp_path / "results"))
    return base


def test_what_was_measured_is_read_back_prompt_by_prompt(world, tmp_path):
    path = tuning.measure(str(world), contexts=3, path=tmp_path / "accuracy.json")
    table = tuning.measured(path)
    subject = models.load(str(world), adapter=str(tmp_path / "code"))
    right = answers.evaluate(subject, boxes.prompts(subject, 21, split="evaluation")).correct.int().tolist()
    assert table[table["kind"] == "code"]["correct"].tolist() == right
    assert {row["kind"] for row in json.loads(path.read_text())["rows"]} == {"base", "code"}
    again = tuning.look(subject, "code", contexts=2, wordings=False).query("condition == 'seven boxes'")
    assert tuning.agreement(again, table)[["kind", "agree", "n"]].to_numpy().tolist() == [["code", 14, 14]]


def test_an_answer_that_changed_is_counted_as_a_disagreement():
    table = frame(base=0.5)
    again = table[table["prompt"] < 10].assign(condition="seven boxes")
    again.loc[again["prompt"] == 3, "correct"] = 1 - again.loc[again["prompt"] == 3, "correct"]
    assert tuning.agreement(again, table)["agree"].tolist() == [9]
    assert len(tuning.agreement(again, table, seed=1)) == 0


def test_there_must_be_adapters_to_measure(monkeypatch):
    monkeypatch.setattr(adapters, "folders", dict)
    with pytest.raises(ValueError, match="make adapters"):
        tuning.measure()

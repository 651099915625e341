"""Comparing fine-tuned models with their base: the same prompts, paired; verdicts that follow from the numbers."""

import json

import numpy as np
import pandas as pd
import pytest
import tiny
from entity_book.studies import tuning
from entity_book.training import adapters, finetune
from entity_circuits import models, results, sums
from entity_circuits.runs import answers
from entity_circuits.tasks import boxes


def frame(seeds=(0,), **shares: float) -> pd.DataFrame:
    """One row a prompt and training: each kind is right on that share of 700 prompts, the easy ones first.

    With several `seeds` a kind's trainings lie 0.01 apart. The choice is right on a tenth of the prompts more.
    """
    prompt = np.arange(700)
    ease = np.random.default_rng(0).random(700)
    tables = []
    for kind, share in shares.items():
        for seed in seeds if kind != "base" else (0,):
            right = ease < share + 0.01 * seed
            columns = {"prompt": prompt, "context": prompt // 7, "position": prompt % 7 + 1, "correct": right * 1}
            more = {"chosen": (ease < share + 0.01 * seed + 0.1) * 1.0, "objects_prob": np.full(700, share)}
            tables.append(pd.DataFrame({"kind": kind.replace("_", "-"), "seed": seed, **columns, **more}))
    return pd.concat(tables, ignore_index=True)


def test_the_base_differs_from_itself_by_nothing_and_others_by_what_they_gained_and_lost():
    summary = tuning.summary(frame(base=0.5, code=0.6)).set_index("kind")
    assert summary.loc["base", ["gain", "gain_low", "gain_high", "gained", "lost"]].tolist() == [0, 0, 0, 0, 0]
    code = summary.loc["code"]
    assert code.gain == pytest.approx((code.gained - code.lost) / code.n)
    assert code.lost == 0
    assert code.gained > 0


def test_the_default_is_the_largest_gain_above_base_and_control():
    said = tuning.verdict(frame((0, 1, 2), base=0.4, arithmetic=0.5, code=0.6, shuffled=0.42))
    assert "`code`; also above both: arithmetic" in said["default"]
    assert "mean of 3 trainings" in said["code"] and "700 prompts each" in said["code"]


def test_a_gain_that_the_control_shares_is_not_sound():
    said = tuning.verdict(frame((0, 1, 2), base=0.4, arithmetic=0.5, shuffled=0.5))
    assert said["default"].startswith("No kind of training beats both")
    assert said["arithmetic-minus-shuffled"].startswith("+0.000")


def test_a_gain_whose_trainings_lie_far_apart_is_not_sound_however_many_prompts_there_are():
    tables = [frame(base=0.4, shuffled=0.3)]
    for seed, share in enumerate((0.43, 0.8, 0.45)):
        tables.append(frame(code=share).assign(seed=seed))
        tables.append(frame(shuffled=0.3 + 0.001 * seed).assign(seed=seed)[lambda x: x["seed"] > 0])
    measured = pd.concat(tables)
    pooled = tuning.summary(measured)
    assert (pooled[pooled["kind"] == "code"]["gain_low"] > 0).all(), "each of the trainings by itself is surely better"
    assert tuning.verdict(measured)["default"].startswith("No kind of training beats both")


def test_of_a_kind_that_was_trained_once_nothing_is_said_as_a_kind():
    both = pd.concat([frame((0, 1, 2), base=0.4, code=0.5, shuffled=0.3), frame(code_binding=0.8, code_other=0.4)])
    said = tuning.verdict(both)
    assert "is that of `code`; also above both: none" in said["default"]
    assert "Trained once, so that nothing is said of the kind: `code-binding`, `code-other`" in said["default"]
    assert said["default"].endswith("of these models above both on their own: `code-binding`.")
    assert "one training, interval over contexts; n = 700" in said["code-binding"]


def test_a_verdict_on_the_choice_is_that_of_the_choices():
    table = frame((0, 1), base=0.4, code=0.6, shuffled=0.3)
    table.loc[table["kind"] == "code", "chosen"] = table.loc[table["kind"] == "base", "chosen"].tolist() * 2
    said = tuning.verdict(table, "chosen")
    assert said["code"].startswith("+0.000")
    with pytest.raises(ValueError, match="measure"):
        tuning.verdict(table, "top")
    with pytest.raises(ValueError, match="no 'chosen' of the base"):
        tuning.verdict(table.assign(chosen=np.nan), "chosen")


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
    here = table[table["condition"] == "seven boxes"]
    assert here["correct"].tolist() == right
    assert here["chosen"].tolist() == answers.evaluate(subject, prompts).chosen.int().tolist()


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
    said = answers.evaluate(subject, boxes.prompts(subject, 21, split="evaluation"))
    assert table[table["kind"] == "code"]["chosen"].tolist() == said.chosen.int().tolist()
    mass = said.object_logprob.exp().sum(1).tolist()
    assert table[table["kind"] == "code"]["objects_prob"].tolist() == pytest.approx(mass, abs=0.5 / 255 + 1e-6)
    assert {row["kind"] for row in json.loads(path.read_text())["rows"]} == {"base", "code"}
    again = tuning.look(subject, "code", contexts=2, wordings=False).query("condition == 'seven boxes'")
    assert tuning.agreement(again, table)[["kind", "agree", "n"]].to_numpy().tolist() == [["code", 14, 14]]


def test_trainings_that_are_not_on_this_disk_keep_their_rows_and_others_are_measured_anew(world, tmp_path):
    path = tuning.measure(str(world), contexts=3, path=tmp_path / "accuracy.json")
    made = json.loads(path.read_text())
    gone = {**made["rows"][1], "seed": 2, "right": "00" * 3}
    del gone["chosen"], gone["mass"]
    sums.write(path, json.dumps({**made, "rows": [*made["rows"], gone, {**gone, "kind": "shuffled"}]}))
    table = tuning.measured(tuning.measure(str(world), contexts=3, path=path))
    assert [(x, y) for x, y in table.groupby(["kind", "seed"], sort=False).size().index] == [
        ("base", 0), ("code", 0), ("code", 2), ("shuffled", 2),
    ]  # fmt: skip
    old = table[table["seed"] == 2]
    assert (old["correct"] == 0).all() and old[["chosen", "objects_prob"]].isna().all(axis=None)
    assert table[table["seed"] == 0].notna().all(axis=None)
    other = tuning.measured(tuning.measure(str(world), contexts=4, path=path))
    assert set(other["seed"]) == {0}, "other prompts: nothing of the old file is theirs"


def test_what_was_stored_without_choices_has_none():
    table = tuning.measured()
    assert {"chosen", "objects_prob"} <= set(table) and table["correct"].notna().all()


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

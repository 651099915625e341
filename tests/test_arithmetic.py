"""The arithmetic study: runs in the order of its protocol, resumed after a kill, kept as rows; its verdict can fail."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from entity_book.figures import charts
from entity_book.figures import tuning as figures
from entity_book.studies import arithmetic, doses, tracking
from entity_book.training import adapters, finetune, noise, own, plan
from entity_book.training.finetune import Recipe
from entity_book.training.plan import Run
from entity_circuits import models, places, results, sums
from entity_circuits.runs import answers
from entity_circuits.tasks import boxes
from transformers import GenerationConfig

SMALL: dict[str, Any] = {"steps": 4, "batch": 4, "held_out": 4, "checkpoint": 2, "rank": 4}
RUNS = [
    Run("base", made="base"),
    Run("arithmetic 80 x 0.0003", 1, "trained", Recipe("arithmetic", 1, learning_rate=3e-2, **SMALL)),
    Run("own answers", 0, "trained", Recipe("arithmetic", answers="own", **SMALL)),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(tiny.save(tmp_path_factory.mktemp("base")))


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setenv("ENTITY_CIRCUITS_RESULTS", str(tmp_path / "results"))
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def few(monkeypatch):
    """A fifth of the prompts and sums: what is tested here does not hang on their number."""
    monkeypatch.setattr(arithmetic, "CONTEXTS", 4)
    monkeypatch.setattr(arithmetic, "SUMS", 8)


def test_the_plan_has_each_run_once_and_what_costs_no_training_first():
    runs = plan.runs()
    assert len({run.name for run in runs}) == len(runs)
    assert [run.made for run in runs[:16]] == ["base", *["shipped"] * 5, *["random"] * 10]
    names = [run.name for run in runs]
    order = ["arithmetic-80-x-0-0003-1", "arithmetic-80-x-0-0001-0", "own-answers-0", "arithmetic-in-a-sentence-0"]
    order += [
        "arithmetic-half-replay-0",
        "arithmetic-320-x-0-0003-0",
        "code-other-1",
        "random-10",
        "arithmetic-rank-4-0",
    ]
    assert sorted(order, key=names.index) == order
    assert sum(run.made == "random" for run in runs) == 20
    wanted = {"arithmetic 80 x 0.0003", "arithmetic 80 x 0.0001", "arithmetic 320 x 0.0003", "arithmetic 320 x 0.0001"}
    assert {run.cell for run in runs if run.dose} == wanted | {"arithmetic 1280 x 0.0003"}


def test_every_cell_of_the_plan_is_in_the_protocol():
    words = " ".join((places.data("trainings") / "README.md").read_text("utf-8").split())
    for said in ("1,280 steps", "320 steps", "own answers", "code-binding-shuffled", "half replay", "inside a sentence",
                 "Rank 4 and rank 64", "10 more draws", "+0.05"):  # fmt: skip
        assert said in words
    assert doses.MARGIN == 0.05 and f"at least {doses.LEARNED:.2f} above" in words


def test_a_row_says_what_the_model_answers_prompt_by_prompt(base, out, few):
    assert arithmetic.go(runs=RUNS[:2], base=base, out=out) == [run.name for run in RUNS[:2]]
    subject = models.load(base)
    said = answers.evaluate(subject, boxes.prompts(subject, 28, split="evaluation"))
    kept = arithmetic.rows(out)
    frame = arithmetic.measured(kept)
    mine = frame[frame["kind"] == "base"]
    assert mine["correct"].tolist() == said.correct.int().tolist()
    assert mine["chosen"].tolist() == said.chosen.int().tolist()
    assert mine["answer_logprob"].tolist() == pytest.approx(said.answer_logprob.clamp(min=-255 / 16).tolist(), abs=0.04)
    other = frame[frame["kind"] != "base"]["answer_logprob"].to_numpy()
    assert np.abs(other - mine["answer_logprob"].to_numpy()).max() > 0.1, "a trained model answers otherwise"
    trained = next(row for row in kept if row["made"] == "trained")
    assert trained["recipe"]["seed"] == 1 and len(trained["held_out"]) == 3
    assert not list(out.rglob("*.safetensors")), "weights are not kept"
    assert arithmetic.go(runs=RUNS[:2], base=base, out=out) == []


def test_a_killed_study_goes_on_after_its_last_row_and_its_last_segment(base, out, few, monkeypatch):
    segment, trained = finetune._segment, []

    def killed(*arguments):
        trained.append(arguments)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return segment(*arguments)

    monkeypatch.setattr(finetune, "_segment", killed)
    with pytest.raises(KeyboardInterrupt):
        arithmetic.go(runs=RUNS[:2], base=base, out=out)
    assert [path.stem for path in out.iterdir()] == ["base-0"]
    assert arithmetic.go(runs=RUNS[:2], base=base, out=out) == [RUNS[1].name]
    assert len(trained) == 3, "the first segment was not trained again"
    resumed = (out / f"{RUNS[1].name}.json").read_text()
    again = out.parent / "again"
    again.mkdir()
    arithmetic.go(runs=RUNS[:2], base=base, out=again)
    timed = ("seconds", "measuring")
    one, two = (json.loads(text) for text in (resumed, (again / f"{RUNS[1].name}.json").read_text()))
    assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in two.items() if k not in timed}
    assert not list((out.parent / "results").glob("study-*")), "what a kill would have resumed from is removed"


def test_a_row_of_another_recipe_is_not_taken_for_the_protocols(base, out, few):
    arithmetic.go(runs=RUNS[:1], base=base, out=out)
    row = json.loads((out / "base-0.json").read_text())
    sums.write(out / "base-0.json", json.dumps({**row, "made": "random"}))
    with pytest.raises(ValueError, match="base-0 was made in another way than the protocol says"):
        arithmetic.go(runs=RUNS[:1], base=base, out=out)


def test_no_run_is_begun_after_the_hours_are_over(base, out, few):
    assert arithmetic.go(hours=0, runs=RUNS, base=base, out=out) == []
    with pytest.raises(ValueError, match="hours"):
        arithmetic.go(hours=-1, runs=RUNS, base=base, out=out)


def test_random_adapters_have_the_norm_of_the_trained_one_in_every_layer():
    from safetensors.torch import load_file

    trained = load_file(adapters.home(Recipe("arithmetic")) / "adapter_model.safetensors")
    drawn, other = noise.like(trained, 0), noise.like(trained, 1)
    sizes = noise.norms(trained)
    assert len(sizes) == 96 and noise.norms(drawn) == pytest.approx(sizes)
    name = next(iter(sizes))
    a, b = (drawn[f"{name}.lora_{part}.weight"] for part in "AB")
    assert float((b @ a).norm()) == pytest.approx(sizes[name], rel=1e-4)
    assert not np.allclose(b, other[f"{name}.lora_B.weight"])
    with pytest.raises(ValueError, match="no plain LoRA adapter"):
        noise.like({"x": a}, 0)


def test_own_answers_are_the_models_most_likely_tokens():
    subject = tiny.subject("qwen2")
    lessons = own.lessons(subject, "arithmetic", 6, 0, "own", results.Store(None))
    given = own.lessons(subject, "arithmetic", 6, 0, "given", results.Store(None))
    assert lessons["prompt"] == given["prompt"] and lessons["answer"] != given["answer"]
    ids = subject.tokenizer(lessons["prompt"][0], return_tensors="pt")["input_ids"]
    first = subject.model(input_ids=ids).logits[0, -1].argmax()
    said = own.written(subject, lessons["prompt"], 5, results.Store(None))
    assert said[0].startswith(subject.tokenizer.decode([int(first)]))


def test_own_answers_do_not_follow_the_models_settings_for_generating():
    subject, said = tiny.subject("qwen2"), []
    own_settings = subject.model.generation_config
    for change in ({}, {"repetition_penalty": 5.0}, {"min_new_tokens": 7, "no_repeat_ngram_size": 1}):
        subject.model.generation_config = GenerationConfig(**change)
        said.append(own.written(subject, ["the dog sees the", "a cat and a"], 6, results.Store(None)))
        assert subject.model.generation_config.to_diff_dict().items() >= change.items(), "they were put back"
    subject.model.generation_config = own_settings
    assert said[0] == said[1] == said[2]
    plain = subject.model.generate(
        **subject.tokenizer(["the dog sees the"], return_tensors="pt"), repetition_penalty=5.0, max_new_tokens=6
    )
    assert subject.tokenizer.decode(plain[0, 4:]) != said[0][0], (
        "a penalty that changes nothing here would show nothing"
    )


def test_own_texts_are_seeded_and_have_nothing_of_the_task(monkeypatch):
    subject = tiny.subject("qwen2")
    words = iter([[" a box of tin"], [" Q holds"], [" rain and snow"], [" wind"]] * 2)
    monkeypatch.setattr(own, "AT_ONCE", 1)
    monkeypatch.setattr(own, "written", lambda *_, **__: next(words))
    assert own.plain_text(subject, 1, 0, results.Store(None))["answer"] == [" rain and snow"]
    monkeypatch.undo()
    one, two, other = (own.written(subject, ["the dog"] * 3, 8, results.Store(None), seed=s) for s in (1, 1, 2))
    assert one == two != other


def test_half_replay_puts_own_text_into_every_batch(monkeypatch):
    monkeypatch.setattr(own, "written", lambda _, texts, *__, **___: [" rain and snow"] * len(texts))
    subject, recipe = tiny.subject("qwen2"), Recipe("arithmetic", replay=0.5, **SMALL)
    assert recipe.fresh == 2 and recipe.name == "arithmetic-replay"
    batches = finetune._lessons(subject, recipe, results.Store(None))
    sums_ = {tuple(ids) for ids, _ in finetune._tokens(subject, own.lessons(
        subject, "arithmetic", 8, 0, "given", results.Store(None)))}  # fmt: skip
    assert [len(batch) for batch in batches] == [4] * 4
    assert all(sum(tuple(ids) in sums_ for ids, _ in batch) == 2 for batch in batches)
    with pytest.raises(ValueError, match="leaves no example"):
        Recipe("arithmetic", replay=1.0)


def kept(**cells: list[float]) -> list[dict[str, Any]]:
    """Rows of the study: by cell, the object choice of each of its units on 490 prompts; the base chooses 245."""
    made = []
    made_by = {run.cell: run for run in plan.runs()}
    for cell, shares in {"base": [0.5], **cells}.items():
        for unit, share in enumerate(shares):
            ease = np.arange(490) * 3 % 490 / 490
            bits = np.packbits((ease < share).astype(np.uint8)).tobytes().hex()
            right = np.packbits(np.arange(64) < (4 if cell in ("base", "random") else 32)).tobytes().hex()
            row = {"name": f"{made_by[cell].name[:-1]}{unit}", "cell": cell, "unit": unit, "made": made_by[cell].made}
            row |= {"base": "b", "prompts": "p", "right": bits, "chosen": bits, "recipe": None}
            row |= {"mass": "80" * 490, "log_p": "10" * 490, "sums": {"loss": 1.0, "right": right, "n": 64}}
            made.append(row)
    return made


A, B = "arithmetic 80 x 0.0003", "arithmetic 80 x 0.0001"
ALL = {run.cell for run in plan.runs() if run.dose}


def judged(**cells):
    return doses.verdict(doses.cells(kept(**cells)))


def test_does_not_needs_every_dose_of_the_protocol():
    few = {A: [0.50, 0.51, 0.50]}
    word, reasons = judged(**few)
    assert word == "not at these doses" and f"not all trainings done: {B}" in reasons and "over 3 trainings" in reasons
    every = {cell: [0.50, 0.51, 0.50] for cell in ALL}
    assert judged(**every)[0] == "does not"
    assert judged(**{**every, B: [0.50, 0.50]})[0] == "not at these doses", "one of its three trainings is missing"


def test_an_interval_that_holds_the_margin_leaves_it_open():
    assert judged(**{A: [0.44, 0.52, 0.56]})[0] == "open", "trainings lie too far apart"
    assert judged(**{A: [0.50]})[0] == "open", "one training decides nothing"
    assert judged(random=[0.5, 0.5])[0] == "open"


def test_a_gain_counts_if_it_is_above_every_random_adapter():
    gain = {A: [0.70, 0.71, 0.70]}
    assert judged(**gain, random=[0.50, 0.52])[0] == "improves"
    assert judged(**gain, random=[0.50, 0.75])[0] == "open"
    assert judged(**gain)[0] == "open", "without random adapters there is no floor"


def test_a_dose_that_learned_no_sums_decides_nothing():
    rows = kept(**{A: [0.50, 0.51, 0.50]})
    for row in rows:
        row["sums"]["right"] = rows[0]["sums"]["right"]
    word, reasons = doses.verdict(doses.cells(rows))
    assert word == "open" and "no dose with two trainings learned arithmetic" in reasons


def test_rows_of_other_prompts_are_not_compared():
    rows = kept(**{A: [0.5]})
    rows[1]["prompts"] = "other"
    with pytest.raises(ValueError, match="not of the same base and prompts"):
        doses.each(rows)
    with pytest.raises(ValueError, match="the base has no row"):
        doses.each(rows[1:])


def test_the_figure_says_each_cell_in_words_and_can_be_drawn():
    rows = kept(**{A: [0.4, 0.42], "own answers": [0.5]})
    chart = figures.doses(doses.each(rows), doses.cells(rows))
    assert f"{A}, 2: tracking -0.09" in chart.description and "own answers, 1: tracking +0.00" in chart.description
    assert charts.picture(chart.to_dict(), "png")[:4] == b"\x89PNG"


def test_the_rows_that_are_kept_are_those_of_the_protocol_and_of_one_base():
    rows = arithmetic.rows()
    known = {run.name: run for run in plan.runs()}
    for row in rows:
        run = known[row["name"]]
        assert (row["cell"], row["made"], row["recipe"]) == (run.cell, run.made, plan.told(run.recipe))
    table = arithmetic.table()
    assert table["done"].sum() == len(rows) and (table["minutes"] > 0).all()
    progress = doses.progress(table)
    assert progress["planned"].sum() == len(known) and (progress["done"] <= progress["planned"]).all()
    assert len(doses.each(rows)) == len(rows) - 1


def test_the_choices_of_the_study_stand_in_for_choices_that_are_not_stored():
    rows = kept(**{A: [0.4]})
    rows[1] |= {"made": "shipped", "recipe": {"kind": "arithmetic"}}
    study = doses.shipped(rows)
    assert study.groupby("kind")["chosen"].mean().round(1).to_dict() == {"base": 0.5, "arithmetic": 0.4}
    stored = study.assign(chosen=np.nan)
    assert tracking.known(stored, study.head(0), study)[1] == "study"
    assert tracking.known(study, study.head(0), study)[1] == "stored"
    more = pd.concat([stored, stored.assign(kind="code")])
    assert tracking.known(more, study.head(0), study)[1] == "live", "the study lacks one of the models"
    assert "490 prompts that the arithmetic study keeps" in tracking.told_source("study", 490)

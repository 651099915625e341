"""A model of another scale: measured on the prompts of the book, kept prompt by prompt, told with intervals."""

import json

import pytest
import tiny
from entity_book.studies import scale, scale_circuit
from entity_circuits import ablation, circuits, models, places, sums
from entity_circuits.runs import answers
from entity_circuits.tasks import boxes


def test_what_is_kept_is_what_the_model_answers_at_each_number_of_boxes(tmp_path):
    base = tiny.save(tmp_path / "base")
    path = scale.measure(str(base), contexts=2, sizes=(3, 5), out=tmp_path / "made.json")
    subject = models.load(str(base))
    rows = json.loads(path.read_text())["rows"]
    for row, size in zip(rows, (3, 5), strict=True):
        said = answers.evaluate(subject, boxes.prompts(subject, 2 * size, size, split="evaluation"))
        assert (row["right"], row["chosen"]) == (said.correct.int().tolist(), said.chosen.int().tolist())
    table = scale.table([path])
    assert table["n"].tolist() == [6, 10] and table["chance"].tolist() == [1 / 3, 1 / 5]
    assert table["choice"].tolist() == pytest.approx([sum(row["chosen"]) / len(row["chosen"]) for row in rows])


def test_numbers_of_boxes_that_make_no_sense_are_refused_before_a_model_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="sizes"):
        scale.measure("nowhere", sizes=(1,), out=tmp_path / "made.json")
    with pytest.raises(ValueError, match="contexts"):
        scale.measure("nowhere", contexts=0, out=tmp_path / "made.json")


def test_what_is_shipped_is_of_a_model_that_the_registry_says_was_run_here():
    for file in places.data("scale").glob("*.json"):
        made = json.loads(sums.read(file))
        assert models.registry()[made["model"]].executed_here
        assert made["command"].startswith(f"entity-circuits measure-scale {made['model']}")
        assert all(len(row["right"]) == row["contexts"] * row["boxes"] for row in made["rows"])
        assert all(r <= c for row in made["rows"] for r, c in zip(row["right"], row["chosen"], strict=True))


def test_circuits_at_another_scale_answer_as_they_do_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setenv("ENTITY_CIRCUITS_RESULTS", str(tmp_path / "results"))
    base = tiny.save(tmp_path / "base")
    path = scale_circuit.measure(str(base), contexts=2, averaged=4, out=tmp_path / "made.json")
    table, made = scale_circuit.table(path).set_index("circuit"), json.loads(path.read_text())
    subject = models.load(str(base))
    prompts, means = boxes.prompts(subject, 14, split="evaluation"), ablation.means(subject, n=4)
    for name, kept in scale_circuit.asked(subject, circuits.of(subject)).items():
        alone = ablation.circuit_accuracy(subject, kept, prompts, means)
        assert table["top1"][name] == pytest.approx(alone.estimate().value), name
        assert table["heads"][name] == ablation.size(kept)
    assert next(iter(table.index)) == "the whole model" and len(table) == 10 and set(table["n"]) == {14}
    depths = scale_circuit.depths(path)
    assert set(depths["group"]) == {letter for letter, layers in made["depth"].items() if layers}
    assert depths["depth"].between(0, 1).all()

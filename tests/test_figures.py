"""The first chapter's figures: described in words with their numbers, narrow enough for a phone, and drawable."""

import altair as alt
import pandas as pd
import pytest
import tiny
import torch
from entity_book.figures import behaviour as figures
from entity_book.figures import charts
from entity_book.studies import behaviour
from entity_circuits import statistics
from entity_circuits.runs import answers
from entity_circuits.tasks import boxes


@pytest.fixture(scope="module")
def subject():
    return tiny.subject("qwen2", seed=0)


@pytest.fixture(scope="module")
def drawn(subject):
    """Every figure, from one evaluation in which the first half of the prompts is answered right by decree."""
    prompts = boxes.prompts(subject, n=28)
    found = answers.evaluate(subject, prompts)
    right = torch.where(torch.arange(28) < 14, prompts.answer_ids, prompts.object_ids[:, 0])
    table = behaviour.table(answers.Behaviour(**(vars(found) | {"top": right})))
    position = statistics.by(table, "position")
    both = pd.concat([position.assign(template="object first"), position.assign(template="label first")])
    return {
        "tokens": figures.tokens(prompts, 3, subject.tokenizer),
        "boxes": figures.accuracy_by_boxes(behaviour.both(table, "boxes")),
        "position": figures.accuracy_by_position(behaviour.both(table, "position"), 7),
        "distance": figures.errors_by_distance(behaviour.distances(table)),
        "control": figures.template_control(both, 7),
        "probability": figures.answer_probability(table),
    }


NAMES = ("tokens", "boxes", "position", "distance", "control", "probability")


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_described_narrow_and_drawable(drawn, name):
    charts.enable()
    spec = drawn[name].to_dict()
    assert len(charts.description(spec)) > 40
    assert spec["width"] <= 330
    assert charts.picture(spec, "svg").startswith(b"<svg")
    alt.renderers.enable("default")


def test_the_words_hold_the_numbers_that_are_drawn(drawn):
    words = drawn["position"].to_dict()["description"]
    assert "top-1: highest for box 1, 1.00" in words and "lowest for box 2, 0.50" in words and "n = 4" in words
    assert "object choice: highest for box" in words
    assert "object choice: 7 boxes" in drawn["boxes"].to_dict()["description"]
    assert "in 12 such errors" in drawn["distance"].to_dict()["description"]


def test_the_four_positions_are_marked_where_the_prompt_says(subject):
    prompts = boxes.prompts(subject, n=7)
    words = figures.tokens(prompts, 5, subject.tokenizer).to_dict()["description"]
    for name in ("object", "prev", "query", "last"):
        assert f"{name} at {int(prompts.position(name)[5])} (" in words


def test_tooltips_show_value_interval_and_n(drawn):
    for name in ("boxes", "position", "control"):
        layers = drawn[name].to_dict()["layer"]
        shown = {entry["field"] for entry in layers[-1]["encoding"]["tooltip"]}
        assert {"value", "low", "high", "n"} <= shown

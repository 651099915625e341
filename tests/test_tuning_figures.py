"""The figures of the fine-tuned models: described in words with their numbers, narrow enough for a phone, drawable."""

import pandas as pd
import pytest
from entity_book.figures import charts
from entity_book.figures import tuning as figures
from entity_book.studies import tracking, trainings, tuning
from entity_circuits import statistics
from test_tuning import frame


@pytest.fixture(scope="module")
def drawn():
    measured = frame(base=0.5, arithmetic=0.55, code=0.7, shuffled=0.49)
    again = frame(code=0.75).assign(seed=1)
    measured = pd.concat([measured, again])
    summary = tuning.summary(measured)
    conditions = pd.concat(
        [measured[measured["seed"] == 0].assign(condition=name) for name in ("drawers", "label first")]
    )
    curve = pd.DataFrame({"kind": "code", "step": [0, 1, 2, 0, 2], "loss": [3.0, 2.0, 1.5, 3.1, 1.25],
                          "part": ["batches"] * 3 + ["held out"] * 2})  # fmt: skip
    return {
        "loss": figures.loss_curves(curve),
        "gain": figures.differences(summary, trainings.table(trainings.effects(measured))),
        "tracking": figures.tracking(tracking.split(measured[measured["seed"] == 0])),
        "position": figures.by_position(statistics.by(measured[measured["seed"] == 0], ["kind", "position"]), 7),
        "conditions": figures.conditions(tuning.gains(conditions)),
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loss", "code from 3.10 to 1.25"),
        ("gain", "arithmetic, seed 0: 0.0"),
        ("gain", "code, seed 1: 0.2"),
        ("gain", "code, 2 trainings: 0.2"),
        ("tracking", "code, tracking: +0.2"),
        ("tracking", "shuffled, format: "),
        ("position", "base 0."),
        ("conditions", "drawers, code: 0."),
    ],
)
def test_a_figure_says_its_numbers_in_words_and_can_be_drawn(drawn, name, words):
    chart = drawn[name]
    assert words in chart.description
    assert charts.picture(chart.to_dict(), "png")[:4] == b"\x89PNG"


def test_a_kind_with_one_training_has_its_dot_beside_its_name():
    measured = pd.concat([frame(base=0.5, code=0.7, **{"code-other": 0.6}), frame(code=0.75).assign(seed=1)])
    measured = measured[~((measured["kind"] == "code-other") & (measured["seed"] == 1))]
    chart = figures.differences(tuning.summary(measured), trainings.table(trainings.effects(measured))).to_dict()
    rows = [row for data in chart["datasets"].values() for row in data if "lane" in row]
    places = {name: sorted(row["lane_at"] for row in rows if row["kind"] == name) for name in ("code", "code-other")}
    assert places == {"code": [-1.0, 0.0, 1.0], "code-other": [0.0]}


def test_the_base_has_no_difference_to_itself_to_show(drawn):
    assert "base" not in drawn["gain"].description.split(":", 1)[1]

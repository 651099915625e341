"""What a training does to tracking and to format: the two add up, and each has its own interval and its own word."""

import numpy as np
import pandas as pd
import pytest
from entity_book.studies import tracking, trainings
from test_tuning import frame


def changed(**columns):
    """A base, and one model in which some columns of the first prompts are others."""
    base = frame(base=0.5)
    other = base.assign(kind="code")
    for name, (rows, value) in columns.items():
        other[name] = other[name].astype(float)
        other.loc[: rows - 1, name] = value
    return pd.concat([base, other])


def test_a_model_that_only_says_other_words_has_lost_format_and_no_tracking():
    row = tracking.split(changed(correct=(350, 0))).set_index("kind").loc["code"]
    assert row["tracking"] == 0 and -0.03 < row["tracking_low"] < 0 < row["tracking_high"] < 0.03
    assert row["format"] == row["top1_change"] < -0.1 and row["format_high"] < 0
    told = tracking.words(row)
    assert "tracking (the choice among the objects) not surely changed, 0.00" in told.replace("+0.00", "0.00")
    assert "format (saying an object first) worse, -0." in told and told.endswith("(n = 700)")


def test_a_model_that_mixes_the_objects_up_has_lost_tracking():
    row = tracking.split(changed(correct=(350, 0), chosen=(350, 0))).set_index("kind").loc["code"]
    assert row["tracking_high"] < 0 and "objects) worse" in tracking.words(row)
    assert row["format_low"] > 0, "of fewer prompts on which the object comes first fewer are lost to other words"


def test_tracking_and_format_add_up_to_the_change_of_top_1():
    table = tracking.split(frame(base=0.4, code=0.6, shuffled=0.1)).set_index("kind")
    assert (table["tracking"] + table["format"] - table["top1_change"]).abs().max() < 1e-12
    assert (table.loc["base", ["tracking", "format", "mass_change"]] == 0).all()
    assert table.loc["code", "mass_change"] == pytest.approx(0.2)
    assert (table["choice_low"] <= table["choice"]).all() and (table["n"] == 700).all()


def test_the_stored_answers_count_if_they_have_choices_for_all_models_else_those_of_the_page():
    stored, live = frame((0, 1), base=0.4, code=0.6), frame(base=0.5, code=0.5).assign(condition="seven boxes")
    assert tracking.known(stored, live)[1] == "stored"
    assert set(tracking.known(stored, live)[0]["seed"]) == {0}
    stored.loc[stored["kind"] == "code", "chosen"] = np.nan
    rows, source = tracking.known(stored, pd.concat([live, live.assign(condition="drawers")]))
    assert source == "live" and len(rows) == 1400


def test_models_that_were_asked_other_prompts_are_not_compared():
    table = frame(base=0.5, code=0.5)
    with pytest.raises(ValueError, match="not asked the same prompts"):
        tracking.split(table[(table["kind"] == "base") | (table["prompt"] < 7)])


def test_a_model_above_chance_is_told_apart_from_one_that_is_not():
    table = tracking.split(frame(base=0.5, shuffled=0.02)).to_dict("records")
    assert ", above chance (0.14)" in tracking.above_chance(table[0], 1 / 7)
    assert "not surely above chance" in tracking.above_chance(table[1], 1 / 7)


def test_a_training_is_compared_with_the_control_of_its_own_seed():
    table = frame((0, 1, 2), base=0.4, code=0.5, shuffled=0.3)
    found = trainings.effects(table).set_index(["kind", "seed"])
    for seed in range(3):
        means = table[table["seed"] == seed].groupby("kind")["correct"].mean()
        assert found.loc[("code", seed), "over_control"] == pytest.approx(means["code"] - means["shuffled"])
    kinds = trainings.table(trainings.effects(table)).set_index("kind")
    assert kinds["trainings"].to_dict() == {"code": 3, "shuffled": 3}
    assert np.isnan(kinds.loc["shuffled", "over_control"])
    assert trainings.table(trainings.effects(frame(base=0.4, code=0.5))).empty

"""Claims about what a pair of models is asked, and about answers that are kept in a file and quoted from it."""

import pytest
import torch
from entity_circuits import cmap, improvement
from test_cmap import CIRCUIT, changed, setting


@pytest.fixture(scope="module")
def three():
    base, tuned, prompts = setting()
    return base, tuned, cmap.sweep(base, tuned, improvement.conditions(base, CIRCUIT, draws=1), prompts)


def test_kept_answers_come_back_for_the_same_models_only(three, tmp_path, monkeypatch):
    base, tuned, found = three
    monkeypatch.setattr(improvement, "folder", lambda: tmp_path)
    assert improvement.kept(base, tuned) is None
    improvement.keep(found, tmp_path / "tuned.safetensors", base, tuned, command="as in a test")
    back = improvement.kept(base, tuned)
    assert back is not None and back.conditions == found.conditions
    assert torch.equal(back.correct, found.correct) and torch.equal(back.contexts, found.contexts)
    assert torch.allclose(back.logprob.double(), found.logprob.double(), rtol=2e-3)
    assert improvement.kept(base, changed(base, seed=6)) is None
    assert improvement.kept(tuned, base) is None


def test_the_others_are_the_kept_answers_of_this_base_with_another_model(three, tmp_path, monkeypatch):
    base, tuned, found = three
    monkeypatch.setattr(improvement, "folder", lambda: tmp_path)
    assert improvement.others(base, tuned).empty
    improvement.keep(found, tmp_path / "one.safetensors", base, tuned, command="one")
    improvement.keep(found, tmp_path / "two.safetensors", base, changed(base, seed=6), command="two")
    improvement.keep(found, tmp_path / "foreign.safetensors", tuned, base, command="another base")
    rows = improvement.others(base, tuned)
    assert set(rows["model"]) == {"two"} and len(rows) == len(found.conditions)


def test_answers_that_were_run_again_are_counted_against_the_kept_ones(three):
    _, _, found = three
    rows = improvement.agreement(found, found)
    assert (rows["same"] == rows["n"]).all() and len(rows) == len(found.conditions)
    other = improvement.under(found, found.conditions[:2])
    other.correct[0, 0] = ~other.correct[0, 0]
    assert improvement.agreement(found, other)["same"].to_list() == [len(found.contexts) - 1, len(found.contexts)]
    with pytest.raises(ValueError, match="of other heads"):
        improvement.agreement(
            improvement.under(found, found.conditions[:1]), improvement.under(found, found.conditions[1:])
        )


def test_the_brief_conditions_are_among_the_full_ones(three):
    base, _, found = three
    some, all_of_them = improvement.brief(base, CIRCUIT), found.conditions
    assert all(one in all_of_them for one in some) and len(some) < len(all_of_them)
    assert {one.name for one in some} == {"circuit", *"ABCD"}
    assert {"".join(one.sites) for one in some if one.name == "A"} == {"z", "q", "k", "v", "qk", "qkv"}


def test_words_have_every_outcome_with_its_interval_and_say_where_there_is_no_gap(three):
    base, _, found = three
    told = improvement.words(found)
    row = found.table().set_index(["condition", "sites", "origin", "into"]).loc[("A", "z", "run", "base")]
    first = row[row["draw"].isna()].iloc[0]
    assert told["A"] == f"{first.accuracy:.2f} [{first.low:.2f}, {first.high:.2f}]"
    assert {"B_share", "A_q_run", "B_v_inputs", "base", "tuned"} <= set(told)
    same = cmap.sweep(base, base, improvement.few(CIRCUIT), setting()[2])
    assert improvement.words(same)["A_share"] == "no share (no gap)"

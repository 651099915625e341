"""Claims about what a pair of models is asked, and about answers that are kept in a file and quoted from it."""

import pandas as pd
import pytest
import torch
from entity_book.studies import improvement
from entity_circuits.methods import cmap
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
    drawn = found.table().query("condition == 'A' and draw.notna() and into == 'base'")
    ends = f"{drawn.share.min():.0%} to {drawn.share.max():.0%}"
    assert told["A_random"] == ("no share (no gap)" if drawn.no_share.any() else ends) and "C_random" not in told
    same = cmap.sweep(base, base, improvement.few(CIRCUIT), setting()[2])
    assert improvement.words(same)["A_share"] == "no share (no gap)"


def test_models_stand_beside_each_other_with_their_shares_or_changes_where_there_is_no_gap(three):
    base, _, found = three
    same = cmap.sweep(base, base, improvement.few(CIRCUIT), setting()[2])
    table = improvement.across(pd.concat([found.table().assign(model="tuned"), same.table().assign(model="twin")]))
    assert list(table) == ["tuned", "twin"] and list(table.loc["n"]) == [str(len(found.contexts))] * 2
    assert (
        table.loc["A", "twin"] == table.loc["A, q", "twin"] == "+0.00 [-1.00, +1.00]"
        and table.loc["A, k", "twin"] == ""
    )
    told = improvement.words(found)
    told = {name: told[f"{name}_share"] for name in "AB"} | {"A, q": told["A_q_run"]}
    for name, share in told.items():
        assert share.startswith("no share") or table.loc[name, "tuned"] == share
    assert all("%" in cell or cell.startswith(("+", "-")) for cell in table["tuned"].iloc[2:-1])


def test_better_parts_are_those_that_surely_help_and_come_from_a_model_that_is_no_better(three):
    _, _, found = three
    told = found.table().assign(model="one", no_share="", base=0.5, tuned=0.4, change_low=-0.1)
    own = (told["into"] == "base") & (told["origin"] == "run")
    told.loc[told["condition"] == "B", "change_low"] = 0.01
    better = improvement.better_parts(told)
    assert set(better["condition"]) == {"B"} and set(better["into"]) == {"base"} and set(better["origin"]) == {"run"}
    assert (better["tried"] == own.sum()).all() and 0 < better["draw"].notna().sum() < len(better)
    for random in (False, True):
        row = better[better["draw"].notna() == random].nlargest(1, "change").iloc[0]
        words = improvement.best_parts(better, random)
        assert words.startswith("B") and f" of one {row['change']:+.2f} [+0.01, " in words
    assert len(improvement.better_parts(told.assign(tuned=0.6, no_share="no gap"))) == len(better)
    none = improvement.better_parts(told.assign(tuned=0.6))
    assert none.empty and improvement.best_parts(none) == "none"


def test_what_is_not_kept_comes_from_this_page(three):
    _, _, found = three
    stored = improvement.under(found, [one for one in found.conditions if one.origin == "run"])
    live = improvement.under(found, found.conditions)
    live.correct[:] = ~live.correct
    table = improvement.completed(stored, live)
    again = table["origin"] != "run"
    assert len(table) == len(found) and again.sum() == len(found) - len(stored) > 0
    wanted = found.table()["accuracy"].where(found.table()["origin"] == "run", 1 - found.table()["accuracy"])
    assert sorted(table["accuracy"]) == pytest.approx(sorted(wanted))
    assert set(improvement.words(stored, table)) == set(improvement.words(found))
    pd.testing.assert_frame_equal(improvement.completed(found, live), found.table())

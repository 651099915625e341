"""Claims about parts of a circuit and random draws beside them: they share no head, and a share has a p."""

from dataclasses import replace

import pytest
import torch
from entity_book.claims import findings, handing_over
from entity_book.figures import improvement as figures
from entity_book.studies import improvement, random_draws
from entity_circuits import intervals
from entity_circuits.heads import Head
from entity_circuits.methods import cmap
from test_cmap import CIRCUIT, setting

BOTH = [head for group in ("value_fetcher", "position_transmitter") for head in CIRCUIT.groups[group]]


@pytest.fixture(scope="module")
def made():
    base, tuned, prompts = setting(n=21)
    asked = random_draws.parts(CIRCUIT, named=("L1H0",), split=3)
    mine = random_draws.drawn(asked, split=3)
    draws = [one for part in mine for one in cmap.random_heads(base, part, 4, without=BOTH)]
    found = cmap.sweep(base, tuned, [*mine, *draws], prompts)
    # what a tiny model says is chance: here the one is wrong everywhere and the other right, so that there is a gap
    right = torch.rand(found.correct.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    ends = {"base_correct": torch.zeros(21) > 0, "tuned_correct": torch.ones(21) > 0}
    return base, tuned, replace(found, correct=right, **ends)


def test_parts_of_a_and_b_share_no_head_and_make_up_both():
    found = {one.name: set(one.heads.get("last", ())) for one in random_draws.parts(CIRCUIT, named=("L1H0",), split=3)}
    parts = [found[name] for name in ("A without B", "B without A", "A and B")]
    assert set().union(*parts) == set(BOTH) and sum(map(len, parts)) == len(set(BOTH))
    assert found["A, layers 3 up"] | found["A, layers up to 2"] == found["A"]
    assert not found["A, layers 3 up"] & found["A, layers up to 2"]
    assert found["A, layers up to 2"] == {Head(2, 0)} and found["L1H0"] == {Head(1, 0)}


def test_a_draw_has_as_many_heads_in_each_layer_and_none_of_the_groups(made):
    base, _, found = made
    own = {one.name: one for one in found.conditions if one.draw is None}
    random = [one for one in found.conditions if one.draw is not None]
    assert len(random) == 4 * len(own) > 0
    for one in random:
        heads, wanted = one.heads["last"], own[one.name].heads["last"]
        assert sorted(head.layer for head in heads) == sorted(head.layer for head in wanted)
        assert not set(heads) & set(BOTH)
    crowded = cmap.random_heads(base, cmap.Condition("all", {"last": [Head(0, j) for j in range(7)]}), 1, without=BOTH)
    assert len(crowded[0].heads["last"]) == 7, "a layer with too few others gives what it has"


def test_draws_without_a_wish_are_those_of_before():
    one = cmap.Condition("A", {"last": [Head(2, 0), Head(2, 1)]})
    base = setting()[0]
    assert cmap.random_heads(base, one, 3) == cmap.random_heads(base, one, 3, without=())


def test_two_prompts_of_each_context_are_asked_at_places_that_change(made):
    from entity_circuits.tasks import boxes

    few = random_draws.fewer(boxes.prompts(made[0], 21, boxes=7))
    assert few.contexts.tolist() == [0, 0, 1, 1, 2, 2]
    assert few.queries == (0, 3, 1, 4, 2, 5)


def test_a_part_has_the_p_of_the_draws_that_recover_as_much_and_that_of_the_family(made):
    _, _, found = made
    table = random_draws.against(found, "correct")
    scored = found.table()
    for row in table.itertuples():
        draws = scored[(scored["condition"] == row.condition) & scored["draw"].notna()]["share"]
        assert row.draws == 4 and row.above == (draws >= row.share).sum() and row.p == (row.above + 1) / 5
    assert table["p_holm"].to_numpy() == pytest.approx(intervals.holm(table["p"].to_numpy()))


def test_the_head_that_costs_every_draw_that_hits_it_is_told(made):
    _, _, found = made
    scored = replace(found, correct=found.correct.clone())
    wild = {one.heads["last"][0] for one in found.conditions if one.draw == 0}
    head = min(wild)
    spoilt = torch.tensor([one.draw is not None and head in one.heads["last"] for one in scored.conditions])
    scored.correct[:] = scored.tuned_correct
    scored.correct[spoilt] = scored.base_correct
    rows = random_draws.hit(scored, "correct").set_index("head")
    assert rows["difference"].idxmin() == str(head) and rows.loc[str(head), "hits"] == int(spoilt.sum())


def test_answers_are_kept_in_two_files_and_found_by_their_base(made, tmp_path, monkeypatch):
    base, tuned, found = made
    monkeypatch.setattr(random_draws, "folder", lambda: tmp_path)
    assert random_draws.kept("mine", base) is None
    random_draws.keep("mine", (found, found), base, tuned, command="as in a test")
    back = random_draws.kept("mine", base)
    assert back is not None and all(torch.equal(one.correct, found.correct) for one in back)
    assert random_draws.kept("mine", tuned) is None
    assert random_draws.kept("other", base) is None


def test_a_measure_that_was_not_kept_is_asked_for_in_words(made):
    _, _, found = made
    bare = improvement.under(found, found.conditions)
    with pytest.raises(ValueError, match="measure them again"):
        random_draws.by(replace(bare, chosen=None), "chosen")


def test_a_training_is_a_unit_and_one_alone_has_no_interval(made, tmp_path, monkeypatch):
    base, tuned, found = made
    monkeypatch.setattr(random_draws, "folder", lambda: tmp_path)
    other = replace(found, correct=~found.correct)
    for name, some in (("one", found), ("two", other)):
        random_draws.keep(name, (some, some), base, tuned, command="as in a test")
    table = random_draws.trainings(("one", "two", "three"), base, "correct")
    assert list(table)[1:3] == ["one", "two"] and (table["trainings"] == 2).all()
    assert table["mean"].to_numpy() == pytest.approx(table[["one", "two"]].mean(axis=1).to_numpy())
    assert (table["mean_low"] < table["mean"]).sum() > 0
    assert random_draws.trainings(("one",), base, "correct")["mean_low"].isna().all()
    assert random_draws.trainings(("three",), base, "correct").empty


def test_points_name_the_heads_that_a_draw_hits(made):
    _, _, found = made
    named = [str(found.conditions[-1].heads["last"][0])]
    points = random_draws.points(found, "correct", named)
    for one, hits in zip(found.conditions, points["hits"], strict=True):
        assert (hits == named[0]) == (Head.parse(named[0]) in one.heads["last"])
    chart = figures.shares(points).to_dict()
    assert all(name in chart["description"] for name in points["condition"]) and "4 draws" in chart["description"]


def test_a_table_has_both_measures_and_a_run_has_parts_and_draws(made, monkeypatch):
    base, tuned, found = made
    shown = random_draws.table(replace(found, base_chosen=found.base_correct, tuned_chosen=found.tuned_correct))
    assert list(shown["condition"]) == [one.name for one in found.conditions]
    assert shown["top-1"].to_numpy() == pytest.approx(found.table()["share"].to_numpy())
    prompts = setting(n=21)[2]
    monkeypatch.setattr(random_draws, "drawn", lambda asked: [one for one in asked if one.name in ("B", "A and B")])
    mine, random = random_draws.run(base, tuned, CIRCUIT, prompts, count=1)
    assert {one.name for one in random.conditions} <= {one.name for one in mine.conditions}
    assert sum(one.draw == 0 for one in random.conditions) == sum(one.draw is None for one in random.conditions)


def test_the_verdict_says_of_each_part_whether_it_is_more_than_chance(made):
    _, _, found = made
    mine = replace(found, base_chosen=found.base_correct, tuned_chosen=found.tuned_correct)
    against = random_draws.against(found, "correct").assign(p_holm=[0.01] + [0.2] * 4)
    told = random_draws.words(against, mine)
    first, *rest = told["verdict"].split("; ")
    assert "NOT" not in first and all("NOT surely more" in one for one in rest) and len(rest) == len(against) - 1
    assert told["A_and_B"] in told["verdict"] and told["n"] == "21"
    assert "p = " in first and told["named"] == "(none of them is in this model)"


def test_where_there_is_no_gap_no_part_is_more_than_its_draws(made):
    _, _, found = made
    same = replace(found, tuned_correct=found.base_correct)
    same = replace(same, base_chosen=same.base_correct, tuned_chosen=same.tuned_correct)
    against = random_draws.against(same, "correct")
    assert against["share"].isna().all() and (against["p"] == 1).all()
    told = random_draws.words(against, same)
    assert told["A_and_B"] == "no share (no gap)" and told["verdict"].count("NOT surely more") == len(against)


def test_parts_and_their_draws_are_handed_over_under_names_of_their_own(made, monkeypatch):
    kept = {}
    monkeypatch.setattr(findings, "keep", lambda name, value, **about: kept.update({name: (value, about)}))
    against = random_draws.against(made[2], "correct")
    handing_over.draws(against, "tuned")
    row = against[against["condition"] == "A and B"].iloc[0]
    value, about = kept["draws/A_and_B"]
    assert (value, about["low"], about["n"]) == (row.share, row.share_low, 21) and "of 4 random draws" in about["about"]
    assert kept["draws/A_and_B/random"][0] == row.random and kept["draws/A_and_B/p"][0] == row.p
    assert len(kept) == 3 * len(against)
    kept.clear()
    handing_over.draws(against.assign(share=float("nan")), "tuned")
    assert not kept

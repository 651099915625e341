"""Each artefact of the official code does what it is said to do, and its corrected counterpart does not."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from entity_book.figures import charts
from entity_book.figures import official as figures
from entity_book.official import artefacts, inputs, told
from entity_book.official import circuits as official_circuits
from entity_book.paper import paper
from entity_circuits import runs
from entity_circuits.circuits import criteria
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import ablation, cmap, dcm, interchange
from entity_circuits.methods.path_patching import Scores
from entity_circuits.models import wrap
from entity_circuits.runs import replay
from entity_circuits.statistics import Estimate
from entity_circuits.tasks import boxes, desiderata, vocabulary

SUBJECT = tiny.subject("qwen2", dtype=torch.float64)
GROUP = (Head(2, 3), Head(0, 1), Head(2, 1), Head(1, 6))
CIRCUIT = Circuit(
    {
        "value_fetcher": (Head(3, 0), Head(2, 1), Head(1, 1)),
        "position_transmitter": (Head(2, 5),),
        "position_detector": (Head(2, 2), Head(1, 4)),
        "structure_reader": (Head(0, 3), Head(1, 3), Head(1, 5)),
    }
)


@cache
def reader():
    return tiny.subject("llama")


@cache
def many():
    return boxes.prompts(reader(), 1400)


@cache
def pairs(split="evaluation", boxes=3, n=12):
    return interchange.record(SUBJECT, desiderata.triples(SUBJECT, "position", n=n, boxes=boxes, split=split), batch=6)


@cache
def recordings(n=6):
    base = boxes.prompts(SUBJECT, n, 3)
    return runs.record(SUBJECT, base), runs.record(SUBJECT, boxes.noise(SUBJECT, base))


def cell(table, quantity, column):
    return table.set_index("quantity")[column][quantity]


# Pairs


def test_official_position_pairs_ask_for_one_position_in_a_seventh_of_cases_and_ours_never():
    prompts = many()
    given = inputs.triples(prompts, inputs.sources(prompts))
    equal = np.mean([a == b for a, b in zip(given.base.queries, given.source.queries, strict=True)])
    assert abs(equal - 1 / 7) < 4 * math.sqrt(6 / 49 / 1400)
    same = torch.tensor([a == b for a, b in zip(given.base.queries, given.source.queries, strict=True)])
    assert torch.equal(given.targets == given.base.answer_ids, same)
    ours = desiderata.triples(reader(), "position", n=140)
    assert not (ours.targets == ours.base.answer_ids).any()


def test_sources_that_seem_to_ask_for_the_first_box_are_never_used():
    prompts = many()
    asked = [prompts.asked[row] for row in inputs.sources(prompts).tolist()]
    assert not {"B", "T"} & set(asked) and {"A", "S", "Z"} <= set(asked)
    assert {"B", "T"} <= set(prompts.asked)
    queries = [prompts.queries[row] for row in inputs.sources(prompts).tolist()]
    assert set(queries) == set(range(1, 7))
    for row in range(70):
        apparent = inputs.apparent_index(prompts, row)
        assert apparent == (0 if prompts.asked[row] in "BT" else prompts.queries[row])


def test_official_label_pairs_have_the_sources_label_elsewhere_in_the_base():
    prompts = boxes.prompts(reader(), 350)
    given = inputs.triples(prompts, inputs.sources(prompts, "label"), "label")
    for world, own, label, target in zip(
        given.base.worlds, given.base.asked, given.source.asked, given.targets.tolist(), strict=True
    ):
        assert label in world.labels and label != own
        word = world.objects[world.labels.index(label)]
        assert vocabulary.token_ids(reader().tokenizer, [word])[word] == target


def test_official_pairs_take_other_contexts_by_the_seed_and_say_so_if_there_is_none():
    prompts = boxes.prompts(reader(), 70)
    rows = inputs.sources(prompts, seed=3)
    assert torch.equal(rows, inputs.sources(prompts, seed=3))
    assert not torch.equal(rows, inputs.sources(prompts, seed=4))
    assert (prompts.contexts[rows] != prompts.contexts).all()
    with pytest.raises(ValueError, match="take more"):
        inputs.sources(prompts.select(range(7)))
    with pytest.raises(ValueError, match="no desideratum called 'colour'"):
        inputs.sources(prompts, "colour")


@pytest.mark.parametrize("position", ["last", "query", "prev"])
def test_borrowed_sources_give_what_recording_them_gives(position):
    borrowed = inputs.borrowed(pairs())
    recorded = interchange.record(SUBJECT, borrowed.triples, batch=6)
    assert torch.allclose(borrowed.z[position], recorded.z[position], atol=1e-12)
    assert torch.equal(borrowed.source_top, recorded.source_top)
    assert not torch.allclose(borrowed.z[position], pairs().z[position])


def test_the_floor_holds_the_base_answers_of_equal_positions():
    found = artefacts.floor(pairs(), CIRCUIT.groups)
    assert list(found["quantity"][2:]) == [f"target `position`, {group} patched" for group in CIRCUIT.groups]
    row = found.iloc[0]
    assert row["official"] > 0 == row["corrected"]
    theirs = inputs.borrowed(pairs())
    hits = (theirs.base_top == theirs.triples.targets).double().mean()
    assert cell(found, "target `position` without a patch", "official") == float(hits)


def test_the_first_batch_of_pairs_is_what_recording_it_gives():
    part = inputs.first(pairs())
    alone = interchange.record(SUBJECT, pairs().triples.select(range(6)))
    assert len(part) == 6 and torch.equal(part.triples.targets, alone.triples.targets)
    tables = [interchange.patch(SUBJECT, {"heads": GROUP}, some, position="query") for some in (part, alone)]
    assert np.allclose(tables[0]["target_logprob"], tables[1]["target_logprob"], atol=1e-10)
    assert torch.equal(part.source_top, alone.source_top) and torch.equal(part.base_top, alone.base_top)


# Where sources are read


def test_reading_at_the_bases_prev_is_another_label_wherever_the_positions_differ():
    found = artefacts.other_position(pairs(), [Head(0, 3), Head(1, 3)])
    assert cell(found, "sources read at the label they ask for", "official") == 0
    given = pairs().triples
    moved = interchange.record(
        SUBJECT, replace(given, source=replace(given.source, prev=given.base.prev)), like=pairs(), batch=6
    )
    assert torch.allclose(moved.z["last"], pairs().z["last"], atol=1e-12)
    assert ((moved.z["prev"] - pairs().z["prev"]).abs().amax((0, 2, 3)) > 1e-3).all()
    same = replace(given, source=given.base)  # where both ask for one position, there is no difference
    here = interchange.record(SUBJECT, same, like=pairs())
    again = replace(same, source=replace(same.source, prev=given.base.prev))
    assert torch.equal(interchange.record(SUBJECT, again, like=pairs()).z["prev"], here.z["prev"])


def test_only_prompts_shorter_than_the_longest_are_read_at_padding():
    given = inputs.altered_order(SUBJECT, pairs().triples)
    longer = torch.tensor([query == given.source.boxes - 1 for query in given.source.queries])
    assert 0 < longer.sum() < len(longer)
    assert torch.equal(given.source.last == given.source.input_ids.shape[1] - 1, longer)
    wide = inputs.from_the_end(given.source)
    assert torch.equal(wide.last == given.source.last, longer) and torch.equal(wide.query == given.source.query, longer)
    found = artefacts.padded(pairs(), GROUP)
    assert cell(found, "sources read at a padding token", "official") == float((~longer).double().mean())
    assert all(" contains the" in text.split(". ")[0] for text in given.source.texts)


def test_reading_padded_runs_at_own_positions_is_as_if_there_were_no_padding():
    given = inputs.altered_order(SUBJECT, pairs().triples)
    wide = runs.record(SUBJECT, inputs.from_the_end(given.source))
    found = inputs.reread(pairs(), given, [wide])
    alone = interchange.record(SUBJECT, given, like=pairs())
    for position in ("last", "query", "prev"):
        assert torch.allclose(found.z[position], alone.z[position], atol=1e-10)
    theirs = inputs.reread(pairs(), replace(given, source=wide.prompts), [wide])
    shorter = given.source.last != wide.prompts.last
    assert ((theirs.z["last"] - found.z["last"]).abs().amax((0, 2, 3)) > 1e-3).equal(shorter)


def test_training_positions_are_right_by_chance_only():
    validation = pairs("pruning")
    found = artefacts.training_positions(pairs("training").triples.base, validation, [Head(0, 3)])
    assert cell(found, "prompts patched at the label they ask for", "official") == 0  # 1000 is no multiple of 3
    same = artefacts.training_positions(validation.triples.base, validation, [Head(0, 3)], shift=0)
    assert (same["official"] == same["corrected"]).all()


# Targets


def test_the_token_from_a_list_is_never_the_answers():
    words = vocabulary.objects()[:20]
    for subject in (SUBJECT, reader()):
        found = artefacts.label_tokens(subject, words)
        assert not found["same"].any()
        assert [f"Ġ{word}" for word in found["word"]] == list(found["answer"])
        assert list(found["official"]) == list(found["word"])
    assert inputs.list_token(SUBJECT.tokenizer, "zyzzyva") == SUBJECT.tokenizer.unk_token_id


def test_label_accuracy_is_zero_by_construction_even_where_the_answer_is_the_label_target():
    wide = pairs(boxes=7, n=42)
    given = inputs.borrowed(wide, "label").triples
    everything = {"all heads": [Head(i, j) for i in range(4) for j in range(8)]}
    found = artefacts.label_token(wide, everything, "last")
    assert (found["official"] == 0).all() and found["corrected"].iloc[0] == 1
    assert len(found) == 3 and len(given) == 42


def test_unseeded_pairs_spread_and_a_seed_does_not():
    found = artefacts.unseeded(pairs(), GROUP, "last", draws=3).iloc[0]
    assert found["corrected"] == 0 <= found["official"] <= 1
    assert len({tuple(inputs.sources(pairs().triples.base, seed=seed).tolist()) for seed in range(3)}) == 3


# Masks


def test_of_equal_snapshots_the_one_with_most_heads_is_saved_and_ours_has_the_fewest():
    mask = dcm.sweep(SUBJECT, GROUP, pairs("training"), pairs("pruning"), position="last", steps=20, penalties=[0.0])[0]
    trace = torch.ones(21, 4, dtype=torch.float64)
    trace[5:, 0] = 0.0
    trace[9:] = 0.2
    trace[13:] = torch.tensor([0.0, 0.9, 0.9, 0.9])
    judge = pairs("pruning")
    looks = artefacts.snapshots(replace(mask, trace=trace), judge)
    assert list(looks["step"]) == [1, 5, 9, 13, 17] and list(looks["heads"]) == [0, 1, 4, 1, 1]
    assert looks["official"].sum() == 1
    saved, best = looks[looks["official"]].iloc[0], looks[looks["accuracy"] == looks["accuracy"].max()]
    assert saved["heads"] == best["heads"].max()
    never = replace(judge, triples=replace(judge.triples, targets=torch.full_like(judge.triples.targets, -1)))
    ties = artefacts.snapshots(replace(mask, trace=trace), never)
    assert ties[ties["official"]].iloc[0]["heads"] == 4 and (ties["accuracy"] == 0).all()
    lost = dcm.sweep(SUBJECT, GROUP, pairs("training"), never, position="last", steps=20, penalties=[0.0])[0]
    assert lost.selected == ()
    found = artefacts.best_of_snapshots(lost, ties, pairs())
    assert found.iloc[0]["official"] == 4 and found.iloc[0]["corrected"] == 0


# Models and recordings


def tuned(*projections):
    made = tiny.subject("qwen2", dtype=torch.float64)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        for layer in made.model.model.layers:
            for name in projections:
                weight = getattr(layer.self_attn, name).weight
                weight += 0.1 * torch.randn_like(weight)
    return wrap(made.model, made.tokenizer, "tuned", "tuned")


def test_without_the_update_of_o_the_score_of_a_head_that_does_not_change_is_not_zero():
    prompts, model = boxes.prompts(SUBJECT, 6, 3), tuned("q_proj", "o_proj")
    before = model.model.state_dict()["model.layers.1.self_attn.o_proj.weight"].clone()
    found = official_circuits.unmerged(SUBJECT, model, prompts)
    offset = found.set_index("quantity").loc["round-1 score of a head that does not change"]
    assert abs(offset["official"]) > 1e-3 and abs(offset["corrected"]) < 1e-9
    rebuilt = inputs.without_o(SUBJECT, model)
    for layer, mine, base in zip(*(one.model.model.layers for one in (rebuilt, model, SUBJECT)), strict=True):
        assert torch.equal(layer.self_attn.o_proj.weight, base.self_attn.o_proj.weight)
        assert layer.self_attn.q_proj.weight is mine.self_attn.q_proj.weight
    assert torch.equal(model.model.state_dict()["model.layers.1.self_attn.o_proj.weight"], before)


def test_the_offset_is_that_of_a_run_with_every_output_frozen():
    prompts, model = boxes.prompts(SUBJECT, 6, 3), tuned("o_proj", "v_proj")
    rebuilt, recording = inputs.without_o(SUBJECT, model), runs.record(model, prompts)
    held = [
        runs.Edit("z", layer, tuple(range(8)), prompts.last, recording.at("z", layer, prompts.last))
        for layer in range(4)
    ]
    change = runs.run(rebuilt, prompts, held).logprob[0] - replay.recorded_answers(recording).logprob[0]
    found = official_circuits.unmerged(SUBJECT, model, prompts)
    expected = float(torch.expm1(change).mean())
    assert cell(found, "round-1 score of a head that does not change", "official") == pytest.approx(expected, abs=1e-9)


def test_an_adapter_that_leaves_o_alone_loses_nothing():
    found = official_circuits.unmerged(SUBJECT, tuned("q_proj", "v_proj"), boxes.prompts(SUBJECT, 6, 3))
    assert np.allclose(found["official"], found["corrected"], atol=1e-9)
    with pytest.raises(ValueError, match="different shapes"):
        inputs.without_o(tiny.subject("qwen2", layers=2), SUBJECT)


def test_a_replay_changes_no_number_of_its_recording_and_the_check_can_fail():
    recording = recordings()[0]
    found = official_circuits.shared_tensors(recording, GROUP)
    assert found["corrected"].iloc[0] == 0
    original = replay.replay

    def careless(recording, variants, **options):
        recording.z[0][0, 0, 0] += 1
        return original(recording, variants, **options)

    copy = replace(recording, z=tuple(z.clone() for z in recording.z))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(replay, "replay", careless)
        assert official_circuits.shared_tensors(copy, GROUP)["corrected"].iloc[0] == 1
    with pytest.raises(ValueError, match="changes no answer"):
        official_circuits.shared_tensors(recording, [])


# Path patching


def test_redrawn_heads_differ_in_what_they_read_and_a_shared_draw_is_one_position():
    source = recordings()[1]
    labels = inputs.label_positions(source.prompts)
    letters = [[source.prompts.input_ids[i, j] for j in row] for i, row in enumerate(labels.tolist())]
    tokens = vocabulary.token_ids(SUBJECT.tokenizer, vocabulary.LABELS)
    assert letters == [[tokens[label] for label in world.labels] for world in source.prompts.worlds]
    there, n = inputs.redrawn(source, 0), torch.arange(len(source))
    now, before = tiny.recorded(there, "z"), tiny.recorded(source, "z")
    z = now[:, n, source.prompts.prev]
    options = before[:, n[:, None], labels].transpose(0, 2)  # (boxes, n, layers, heads, size)
    places = (z.transpose(0, 1)[None] == options).all(-1).int().argmax(0)
    assert {0, 1, 2} == set(places.flatten().tolist())
    assert (places.flatten(1).float().std(1) > 0).all()
    one = inputs.one_draw(source, 0)
    assert one.z is source.z and ((one.prompts.prev[:, None] == labels).sum(1) == 1).all()
    untouched = torch.ones(before.shape[:3], dtype=torch.bool)
    untouched[:, n, source.prompts.prev] = False
    assert torch.equal(now[untouched], before[untouched])


def test_two_runs_with_one_and_the_same_draw_agree_completely():
    base, source = recordings()
    found = official_circuits.redraws(base, source, [Head(3, 2), Head(2, 2)], reach="all")
    rows = official_circuits.redraw_rows(found)
    assert (rows["official"] < [1, 6]).all()
    one = found["corrected"][0]
    same = official_circuits.rank_agreement(one, one)
    assert same.value == pytest.approx(1) and same.low == pytest.approx(1)
    points = official_circuits.redraw_points(found)
    assert set(points["draws"]) == {"official", "corrected"} and len(points) == 2 * 24
    some = official_circuits.redraws(base, source, [Head(3, 2)], senders=[Head(0, 1), Head(1, 2)], reach="all")
    assert len(official_circuits.redraw_points(some)) == 4


def scores(n=20):
    change = torch.zeros(1, 3, n, dtype=torch.float64)
    logprob = torch.full((n,), math.log(0.5), dtype=torch.float64)
    logprob[0] = math.log(1e-4)
    change[0, 0] = math.log(0.9)
    change[0, 1, 0] = math.log(51.0)  # one prompt, next to impossible before, decides the mean
    change[0, 2] = math.log(0.99)
    return Scores(change, logprob, logprob > math.log(0.1), torch.arange(n))


def test_one_unlikely_prompt_makes_most_of_the_change_unless_it_is_weighted():
    rows = official_circuits.outliers(scores(), k=1)
    share = rows.iloc[0]
    assert share["official"] > 0.9 and share["corrected"] < 0.1
    harmed = scores().change
    harmed[0, 0], harmed[0, 0, 0], harmed[0, 1] = math.log(0.5), math.log(51.0), 0.0
    shared = official_circuits.outliers(replace(scores(), change=harmed), k=1).iloc[1]
    assert shared["official"] == 0 and shared["corrected"] == 1  # the mean puts a head first that hardly matters


def test_halves_are_disjoint_and_heads_look_better_on_the_rows_that_chose_them():
    torch.manual_seed(0)
    noise = Scores(torch.randn(4, 8, 40) / 5, torch.full((40,), -1.0), torch.ones(40).bool(), torch.arange(40) // 2)
    one, other = official_circuits.halves(noise)
    assert len(one.contexts) == len(other.contexts) == 20
    assert not set(one.contexts.tolist()) & set(other.contexts.tolist())
    row = official_circuits.overlapping_rows(noise, k=3).iloc[0]
    assert row["official"] < row["corrected"]


# Circuits


@cache
def judged():
    prompts = boxes.prompts(SUBJECT, 9, 3, split="pruning")
    means = ablation.means(SUBJECT, n=6, boxes=3)
    return prompts, means, criteria.minimality(SUBJECT, CIRCUIT, prompts, means)


def test_a_threshold_of_zero_keeps_heads_that_change_nothing():
    found = judged()[2]
    rows = official_circuits.thresholds(found)
    kept, idle = rows["official"], int((found.table()["ratio"] == 0).sum())
    assert kept[1] == idle and kept[0] - rows["corrected"][0] >= 0
    assert kept[0] == int((found.table()["ratio"] >= 0).sum())


def test_the_pair_bug_touches_only_heads_of_one_number_and_none_without_such():
    prompts, means, found = judged()
    rows = official_circuits.pair_bug(SUBJECT, CIRCUIT, prompts, means, found)
    assert rows["official"][0] == 2  # L2H1 and L1H1 in A, L0H3 and L1H3 in D
    assert (rows["corrected"][:2] == 0).all()
    plain = Circuit({"structure_reader": (Head(0, 3), Head(1, 4), Head(1, 5))})
    pairs = {"structure_reader": torch.tensor([[5, 2, 1], [2, 4, 3], [1, 3, 5]])}
    made = replace(
        found,
        places={"structure_reader": "prev"},
        heads={"structure_reader": plain.groups["structure_reader"]},
        pairs=pairs,
        stand_ins={
            "structure_reader": tuple(
                criteria._stand_ins(pairs["structure_reader"], plain.groups["structure_reader"], 0.3)
            )
        },
        before={"structure_reader": found.whole.rows([0, 0, 0])},
        after={"structure_reader": found.whole.rows([0, 0, 0])},
    )
    same = official_circuits.pair_bug(SUBJECT, plain, prompts, means, made)
    assert (same["official"] == same["corrected"]).all()
    pairs["structure_reader"][0, 2] = pairs["structure_reader"][2, 0] = 0  # dropped: it was the only large loss
    made = replace(
        made,
        stand_ins={
            "structure_reader": tuple(
                criteria._stand_ins(pairs["structure_reader"], plain.groups["structure_reader"], 0.3)
            )
        },
    )
    dropped = official_circuits.pair_bug(SUBJECT, plain, prompts, means, made)
    assert dropped["official"][1] > 0 == dropped["official"][0]


def test_drawing_with_replacement_gives_fewer_heads():
    everything = {"last": [Head(i, j) for i in range(4) for j in range(8)][:20]}
    drawn = inputs.with_replacement(SUBJECT, everything, 50)
    mean = np.mean([ablation.size(one) for one in drawn])
    assert abs(mean - 32 * (1 - (1 - 1 / 32) ** 20)) < 1
    prompts, means, _ = judged()
    rows = official_circuits.replacement(SUBJECT, everything, prompts, means, draws=3)
    assert rows["official"][0] < rows["corrected"][0] == 20


def test_rounded_ratios_have_the_published_values_within_what_rounding_allows():
    for row in paper().table_1.itertuples():
        found = official_circuits.rounded_ratio(row.circuit_accuracy, row.full_model)
        assert found.low < row.faithfulness < found.high and round(found.value, 2) == row.faithfulness
    assert official_circuits.rounded_ratio(0.4449, 0.4451).value == pytest.approx(0.44 / 0.45)
    assert math.isnan(official_circuits.rounded_ratio(0.3, 0.001).value)


def test_means_of_ones_own_contexts_are_over_these_contexts_and_no_others():
    prompts = judged()[0]
    own = inputs.own_means(SUBJECT, prompts)
    assert own.n == 3
    # Everything before the query is the same for a context whichever label is asked.
    z = tiny.recorded(runs.record(SUBJECT, prompts.select([0, 3, 6])), "z").mean(1)
    begin = int(prompts.query.min())
    assert torch.allclose(own.z[:, :begin], z[:, :begin], atol=1e-10)
    rows = official_circuits.overlapping_means(SUBJECT, CIRCUIT, prompts)
    assert rows["n"][0] == 9


# The table


def test_the_table_is_in_the_order_of_the_artefacts_and_says_what_each_touches():
    rows = [artefacts.joined(artefacts.entry(name, "x", 1.0, 0.0, n=3)) for name in ("B10", "B9", "B1")]
    found = artefacts.table(rows)
    assert list(found["artefact"]) == ["B1", "B9", "B10"]
    assert tuple(found.columns) == artefacts.COLUMNS
    assert found["touches"].str.len().gt(3).all() and set(artefacts.ARTEFACTS) == {f"B{i}" for i in range(1, 20)}


# Two models


@cache
def both():
    model, prompts = tuned("q_proj", "k_proj", "v_proj"), boxes.prompts(SUBJECT, 12, 3)
    return runs.record(SUBJECT, prompts), runs.record(model, prompts)


def test_an_extended_list_is_not_a_alone_and_twins_show_no_difference():
    found = artefacts.cross_model(*both(), CIRCUIT.groups)
    assert list(found["artefact"]) == ["B13", "B13", "B14", "B15", "B15"]
    assert found["official"][0] == 4 and found["corrected"][0] == 3
    twins = artefacts.cross_model(both()[0], both()[0], CIRCUIT.groups)
    right = (interchange.top(both()[0]) == both()[0].prompts.answer_ids).double().mean()
    accuracies = twins[twins["quantity"].str.startswith("accuracy")]
    assert (accuracies[["official", "corrected"]] == float(right)).all(axis=None)


def test_corrected_cross_model_rows_are_those_of_the_sweep(monkeypatch):
    seen = []
    original = replay.replay

    def spy(recording, variants, **options):
        outcome = original(recording, variants, **options)
        seen.append(outcome.logprob)
        return outcome

    monkeypatch.setattr(replay, "replay", spy)
    base, model = both()
    artefacts.cross_model(base, model, CIRCUIT.groups)
    monkeypatch.undo()
    a, b, d = (CIRCUIT.groups[name] for name in ("value_fetcher", "position_transmitter", "structure_reader"))
    conditions = [
        cmap.Condition("A and B", {"last": (*a, *b)}),
        cmap.Condition("A", {"last": a}),
        cmap.Condition("A by k and v", {"last": a}, ("k", "v")),
        cmap.Condition("D", {"prev": d}, ("q",)),
    ]
    swept = cmap.sweep(base.subject, model.subject, conditions, base.prompts).logprob
    assert torch.allclose(seen[0][[0, 1, 3, 5]], swept, atol=1e-10)
    assert (seen[0][2] - seen[0][3]).abs().max() > 1e-6  # the own token is attended to
    elsewhere = base.prompts.prev != base.prompts.prev[-1]
    assert torch.equal(((seen[0][4] - seen[0][5]).abs() > 1e-9), elsewhere)


# Figures


def test_figures_say_their_numbers_in_words():
    rows = artefacts.floor(pairs(), CIRCUIT.groups)
    words = charts.description(figures.beside(rows).to_dict())
    assert f"{rows['official'][1]:.2f} official" in words
    assert "without a patch: " in words and not {"`", "_"} & set(words)
    looks = pd.DataFrame({"step": [1, 5], "heads": [0, 3], "accuracy": [0.1, 0.4], "official": [False, True]})
    assert told.looked(looks) == "no head at 1 look, then 3 at 1"
    points = pd.DataFrame(
        {"draws": ["official"] * 3 + ["corrected"] * 3, "head": list("abc") * 2, "first": [1, 2, 3.0] * 2}
    ).assign(second=[3, 2, 1.0, 1, 2, 3])
    said = charts.description(figures.two_runs(points).to_dict())
    assert "every head: rank correlation -1.00" in said and "all heads: rank correlation 1.00" in said


def test_a_row_in_words_has_both_numbers_and_the_intervals_there_are():
    rows = artefacts.joined(artefacts.entry("B4", "x", Estimate(0.25, 0.125, 0.5, 8, 8), 3, n=8))
    assert told.said(rows) == "0.25 [0.12, 0.50] officially, 3 corrected"
    assert rows["n"][0] == 8


def test_a_number_that_is_the_same_on_both_sides_is_told_once():
    rows = artefacts.joined(
        artefacts.entry("B9", "x", 14, 14.0),
        artefacts.entry("B16", "x", Estimate(0.391, 0.2, 0.6, 8, 8), Estimate(0.394, 0.2, 0.6, 8, 8)),
        artefacts.entry("B19", "x", math.nan, 0),
    )
    assert [told.said(rows, place) for place in (0, 1)] == ["14 both ways", "0.39 [0.20, 0.60] both ways"]
    assert not told.moved(rows).any() and told.compared(rows) == "the same"


def test_only_intervals_of_which_there_are_two_can_lie_apart():
    low, high = Estimate(0.1, 0.0, 0.2, 8, 8), Estimate(0.5, 0.3, 0.7, 8, 8)
    rows = artefacts.joined(
        artefacts.entry("B1", "x", high, low),
        artefacts.entry("B2", "x", high, 0.0),
        artefacts.entry("B3", "x", low, Estimate(0.3, 0.15, 0.6, 8, 8)),
    )
    assert told.apart(rows).tolist() == [True, False]
    assert [told.compared(rows, place) for place in range(3)] == ["more", "more", "less"]


def test_what_the_floor_does_to_patched_groups_is_counted_and_measured_from_the_floor():
    numbers = [(0.15, 0.0), (0.16, 0.06), (0.21, 0.27), (0.05, 0.01), (0.0, 0.0)]
    rows = artefacts.joined(*(artefacts.entry("B1", f"{place}", *pair) for place, pair in enumerate(numbers)))
    assert told.floor(rows) == {
        "b1_moved": "1 of 3 groups have a higher number, 1 a lower",
        "b1_gain": "0.05 officially, 0.21 corrected",
    }


def test_rows_to_be_read_have_each_side_with_its_interval_in_one_cell():
    rows = artefacts.joined(
        artefacts.entry("B1", "floor", Estimate(0.131, 0.1, 0.16, 98, 14), 0.0, n=98),
        artefacts.entry("B19", "changed numbers", math.nan, 0.0),
    )
    read = told.words(rows)
    assert read["official"].tolist() == ["0.13 [0.10, 0.16]", "–"] and read["corrected"].tolist() == ["0", "0"]
    assert list(read.columns) == ["artefact", "what", "quantity", "official", "corrected", "n", "touches"]

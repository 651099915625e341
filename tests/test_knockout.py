"""Claims about attention knockout: what a cut may change, that both methods agree, and what a recovery is."""

import math

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from entity_circuits import runs
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import knockout
from entity_circuits.methods.knockout import CONDITIONS, Curves
from entity_circuits.results import Store
from entity_circuits.runs import replay
from entity_circuits.tasks import boxes, toy

LONG = boxes.Template(statement="the {object} is in the Box {label}")


def setting(family="qwen2", lengths="equal", n=6):
    subject = tiny.subject(family, dtype=torch.float64)
    prompts = boxes.prompts(subject, n, boxes=3)
    if lengths == "unequal":
        templates = [LONG if row % 2 else boxes.Template() for row in range(n)]
        prompts = boxes.from_worlds(subject, prompts.worlds, prompts.queries, template=templates)
    return subject, prompts


@pytest.mark.parametrize("lengths", ["equal", "unequal"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_knockout_by_replay_equals_the_definition(family, lengths):
    subject, prompts = setting(family, lengths)
    fast, literal = (knockout.sweep(subject, prompts, method=method) for method in ("replay", "definition"))
    assert (fast.logprob - literal.logprob).abs().max() < 1e-10
    assert torch.equal(fast.correct, literal.correct)
    apart = (fast.logprob - fast.logprob[:, -1:]).abs().amax((1, 2))
    assert apart.min() > 1e-4, "a condition that changes nothing would make the comparison empty"


@pytest.mark.parametrize("method", ["replay", "definition"])
def test_cutting_in_no_layer_is_the_unmodified_run(method):
    subject, prompts = setting(lengths="unequal")
    curves = knockout.sweep(subject, prompts, starts=[subject.layers], method=method)
    plain = runs.run(subject, prompts)
    assert torch.allclose(curves.logprob[:, 0], plain.logprob.expand(len(CONDITIONS), -1), atol=1e-12)
    assert torch.equal(curves.correct[:, 0], (plain.top == prompts.answer_ids).expand(len(CONDITIONS), -1))


@pytest.mark.parametrize("execute", [replay.replay, runs.rerun])
def test_knockout_of_a_future_position_changes_nothing(execute):
    subject, prompts = setting(lengths="unequal")
    recording = runs.record(subject, prompts)
    cuts = [knockout.cut(subject, prompts.query, key, 0) for key in (prompts.last, prompts.query + 1, prompts.prev)]
    found = execute(recording, [[], *cuts]).logprob
    assert torch.allclose(found[1:3], found[:1].expand(2, -1), atol=1e-12)
    assert (found[3] - found[0]).abs().min() > 1e-6


def test_a_token_is_not_left_with_nothing_to_attend_to():
    subject, prompts = setting()
    first = torch.zeros_like(prompts.last)
    with pytest.raises(ValueError, match="attends only to itself"):
        knockout.cut(subject, first, first, 0)


@pytest.mark.parametrize("method", ["replay", "definition"])
def test_the_toy_loses_what_was_computed_by_hand(method):
    subject, prompts = toy.subject(), toy.prompts("apple", "cup")
    curves = knockout.sweep(subject, prompts, conditions=["last->object", "query->prev"], method=method)
    # Without the direct head of layer 2 the right word's logit is the relay's 2; the other four words have 0.
    relay, both = (math.exp(x) / (math.exp(x) + 4) for x in (2, 3))
    direct = torch.tensor([relay, relay, relay, both], dtype=torch.float64)
    assert torch.allclose(curves.logprob[0].exp(), direct[:, None].expand(-1, 2), atol=1e-9)
    # Layer 1 hands the object from label to asked label, and no other layer does.
    lost = curves.logprob[1] - curves.logprob[1, -1]
    assert (lost[:2] < -0.1).all()
    assert lost[2:].abs().max() < 1e-9


def test_the_random_key_is_never_special_relevant_or_in_the_query():
    subject, prompts = setting(lengths="unequal", n=30)
    end = subject.tokenizer(".")["input_ids"][0]
    rows, seen = torch.arange(len(prompts)), set()
    for seed in range(40):
        keys = prompts.random_keys(subject.tokenizer, seed)
        assert ((keys > 0) & (keys < prompts.query - 1)).all()
        assert (prompts.input_ids[rows, keys] != end).all()
        assert ((keys != prompts.object) & (keys != prompts.prev)).all()
        seen |= set(keys[prompts.last == prompts.last[0]].tolist())
    statements = int(prompts.query[0]) - 2
    assert seen == set(range(1, statements)), "every other token of the statements is drawn sooner or later"


def test_the_random_key_depends_on_the_seed_and_its_own_prompt_alone():
    subject, prompts = setting(n=12)
    keys = prompts.random_keys(subject.tokenizer, seed=3)
    order = torch.tensor([7, 2, 11])
    assert torch.equal(prompts.select(order).random_keys(subject.tokenizer, seed=3), keys[order])
    assert not torch.equal(prompts.random_keys(subject.tokenizer, seed=4), keys)


def test_parts_order_and_a_given_recording_change_nothing():
    subject, prompts = setting()
    whole = knockout.sweep(subject, prompts)
    backwards = torch.arange(len(prompts)).flip(0)
    recording = runs.record(subject, prompts)
    for other in (
        knockout.sweep(subject, prompts, batch=4),
        knockout.sweep(subject, prompts, batch=4, recording=recording),
        knockout.sweep(subject, prompts, recording=recording),
    ):
        assert torch.allclose(other.logprob, whole.logprob, atol=1e-12)
    turned = knockout.sweep(subject, prompts.select(backwards))
    assert torch.allclose(turned.logprob, whole.logprob.flip(-1), atol=1e-12)


def test_finished_parts_are_not_run_again(tmp_path, monkeypatch):
    subject, prompts = setting()
    store, execute, calls = Store(tmp_path), replay.replay, []

    def counted(recording, variants, **given):
        calls.append(len(recording))
        if len(calls) == subject.layers + 2:
            raise KeyboardInterrupt
        return execute(recording, variants, **given)

    monkeypatch.setitem(replay.EXECUTORS, "replay", counted)
    with pytest.raises(KeyboardInterrupt):
        knockout.sweep(subject, prompts, batch=3, store=store)
    calls.extend([0] * 100)
    done = len(calls)
    found = knockout.sweep(subject, prompts, batch=3, store=store)
    assert len(calls) - done == subject.layers + 1, "only the second part was still to do"
    again = knockout.sweep(subject, prompts, batch=3, store=store)
    assert len(calls) - done == subject.layers + 1
    assert torch.equal(found.logprob, again.logprob)
    knockout.sweep(subject, prompts, batch=3, store=store, seed=1)
    assert len(calls) - done == 3 * (subject.layers + 1), "other random keys are other results"


def test_what_comes_from_a_given_recording_is_not_kept(tmp_path):
    subject, prompts = setting()
    knockout.sweep(subject, prompts, store=tmp_path, recording=runs.record(subject, prompts, batch=1))
    assert not list(tmp_path.iterdir())
    knockout.sweep(subject, prompts, store=tmp_path)
    assert list(tmp_path.iterdir())


def test_impossible_requests_are_refused_before_anything_runs(monkeypatch):
    subject, prompts = setting()
    other = runs.record(subject, boxes.prompts(subject, 6, boxes=3, seed=1))
    monkeypatch.setattr(runs, "record", lambda *given, **_: pytest.fail("a model ran"))
    with pytest.raises(ValueError, match="no condition called 'last prev'"):
        knockout.sweep(subject, prompts, conditions=["last prev"])
    with pytest.raises(ValueError, match="no place called 'nowhere'"):
        knockout.sweep(subject, prompts, conditions=["last->nowhere"])
    with pytest.raises(ValueError, match="'object->last' cuts nothing"):
        knockout.sweep(subject, prompts, conditions=["last->object", "object->last"])
    with pytest.raises(ValueError, match=r"start layer=5: .* from 0 to 4"):
        knockout.sweep(subject, prompts, starts=[5])
    with pytest.raises(ValueError, match="no right answer"):
        knockout.sweep(subject, boxes.noise(subject, prompts))
    with pytest.raises(ValueError, match="of other prompts"):
        knockout.sweep(subject, prompts, recording=other)


def by_decree(*accuracies, starts=None, prompts=10, contexts=10):
    """Curves of these accuracies (tenths), the same in every context."""
    correct = torch.tensor([[[k < share for k in range(10)] for share in curve] for curve in accuracies])
    correct = correct.repeat_interleave(contexts, dim=-1)
    starts = tuple(range(len(accuracies[0]))) if starts is None else starts
    world = torch.arange(contexts).repeat(prompts)
    names = CONDITIONS[: len(accuracies)]
    return Curves(names, starts, starts[-1], correct, torch.zeros(correct.shape), world)


def test_a_recovery_is_read_off_where_a_tenth_and_nine_tenths_are_back():
    circuit = Circuit({"value_fetcher": (Head(2, 0), Head(4, 1), Head(7, 0), Head(3, 3))})
    curves = by_decree([0, 0, 0, 2, 5, 8, 8, 8, 8], [8, 8, 8, 8, 8, 8, 8, 8, 8])
    table = knockout.recovery(curves, circuit).set_index("condition")
    row = table.loc["last->object"]
    # Start layer 3 is the first with something back: layer 2 brought it. From start layer 5 on all is back: layer 4.
    assert (row["first"], row["last"]) == (2, 4)
    assert (row["cut"], row["uncut"], row["lost"], row["n"]) == (0.0, 0.8, 0.8, 100)
    assert (row["first_low"], row["first_high"], row["last_low"], row["last_high"]) == (2, 2, 4, 4)
    assert (row["group"], row["heads_first"], row["heads_last"], row["inside"]) == ("A", 2, 7, 0.75)
    nothing = table.loc["last->query"]
    assert nothing["lost"] == 0
    assert nothing[["first", "last", "first_low", "last_high"]].isna().all()


def test_a_single_point_does_not_decide_where_a_curve_recovers():
    table = knockout.recovery(by_decree([0, 0, 1, 0, 0, 0, 0, 8, 8], [0, 0, 8, 8, 8, 7, 8, 8, 8]))
    assert (table["first"][0], table["last"][0]) == (6, 6)
    assert (table["first"][1], table["last"][1]) == (1, 1)
    coarse = knockout.recovery(by_decree([0, 4, 8, 8], starts=(0, 4, 8, 12)))
    assert (coarse["first"][0], coarse["last"][0]) == (0, 7), "known only to the layers between two starts"


def test_the_curve_that_never_falls_is_the_nearest_one():
    draw = np.random.default_rng(0)
    values = draw.normal(size=(7, 5))
    found = knockout._never_falling(values)
    assert (np.diff(found, axis=0) >= -1e-12).all()
    rising = np.sort(draw.normal(size=(2000, 7, 5)), axis=1)
    steps = found + draw.uniform(0, 0.2, size=(2000, 1, 1)) * (rising - found)  # towards other curves that never fall
    assert (((steps - values) ** 2).sum(1) >= ((found - values) ** 2).sum(0) - 1e-9).all()
    assert np.allclose(knockout._never_falling(np.sort(values, axis=0)), np.sort(values, axis=0))


def test_bounds_of_a_recovery_tell_how_it_hangs_on_few_contexts():
    starts = torch.arange(9)
    curves = [starts >= 6, *[starts >= 3] * 19]  # one context of twenty comes back three layers later
    correct = torch.stack(curves, dim=-1)[None]
    found = Curves(("last->object",), tuple(range(9)), 8, correct, torch.zeros(correct.shape), torch.arange(20))
    row = knockout.recovery(found).iloc[0]
    assert (row["first"], row["first_low"], row["first_high"]) == (2, 2, 2)
    assert (row["last"], row["last_low"], row["last_high"]) == (2, 2, 5)


def test_words_give_the_layers_of_each_look_and_say_where_nothing_is_lost():
    rows = {
        "condition": ["last->object", "random->query", "query->prev"],
        "first": [20, 1, None],
        "last": [23, 2, None],
    }
    told = knockout.words(pd.DataFrame(rows).astype({"first": "Int64", "last": "Int64"}))
    assert told == ["last to object, 20 to 23", "query to prev, none (nothing is surely lost)"]


def test_a_single_context_and_curves_without_an_uncut_end_give_no_recovery():
    alone = by_decree([0, 0, 8, 8], contexts=1)
    assert knockout.recovery(alone)[["first", "last"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="cuts nothing"):
        knockout.recovery(Curves(("last->object",), (0, 1), 4, *(torch.zeros(1, 2, 3),) * 2, torch.arange(3)))


def test_the_table_has_an_interval_for_every_point():
    curves = by_decree([0, 3, 5], [5, 5, 5])
    table = curves.table()
    assert list(table.columns) == ["condition", "start", "value", "low", "high", "n", "contexts"]
    assert np.allclose(table["value"], [0, 0.3, 0.5, 0.5, 0.5, 0.5])
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert set(table["n"]) == {100} and set(table["contexts"]) == {10}

"""Claim: mean ablation by the fast way is the definition, and what must change nothing changes nothing."""

import random

import pytest
import tiny
import torch
from entity_book.studies import evaluation
from entity_circuits import runs
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import ablation
from entity_circuits.methods import kept as places
from entity_circuits.models import precision
from entity_circuits.models.subject import put_back, wrap
from entity_circuits.results import Store
from entity_circuits.runs import mean_replay, replay
from entity_circuits.tasks import boxes
from entity_circuits.tasks.prompts import Prompts

METHODS: tuple[replay.Method, ...] = ("replay", "definition")

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
BOXES = 3


def setting(family="qwen2", n=12, dtype=torch.float64):
    subject = tiny.subject(family, dtype=dtype)
    prompts = boxes.prompts(subject, n, boxes=BOXES, split="evaluation")
    return subject, prompts, ablation.means(subject, n=7, boxes=BOXES, batch=4)


def drawn(subject, *places, seed=0, count=11):
    every, draw = ablation.all_heads(subject)["last"], random.Random(seed)
    return {place: tuple(draw.sample(every, count)) for place in places}


def circuits(subject):
    every = ablation.all_heads(subject)
    three = drawn(subject, "prev", "query", "last")
    return {
        "nothing": {},
        "only last": drawn(subject, "last"),
        "three places": three,
        "one head fewer": ablation.without(three, {"last": three["last"][:1]}),
        "everything at three places": every,
        "beside them": {**three, **drawn(subject, "object", "prev+1", "query-1", seed=1)},
        "other boxes": {**three, **drawn(subject, "other labels", "earlier objects", seed=2)},
        "everywhere": ablation.all_heads(subject, ["everywhere"]),
        "without last": drawn(subject, "prev-1", "query"),
    }


# The executor


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fast_way_equals_the_definition_for_every_kind_of_circuit(family):
    subject, prompts, means = setting(family, n=6)
    for name, circuit in circuits(subject).items():
        fast = places.ablate(subject, prompts, [circuit], means, batch=4)
        literal = runs.run(subject, prompts, places.edits(subject, prompts, circuit, means))
        assert (fast.logprob - literal.logprob).abs().max() < 1e-9, name
        assert torch.equal(fast.top, literal.top), name
    assert literal.logprob.std() > 0.01


def test_circuits_that_share_a_batch_do_not_touch_each_other():
    subject, prompts, means = setting()
    many = [drawn(subject, "prev", "query", "last", seed=seed) for seed in range(6)]
    many += [ablation.without(many[0], {place: many[0][place][:2]}) for place in many[0]]
    many += [{**many[0], "prev+1": many[1]["prev"]}, {}]
    together = places.ablate(subject, prompts, many, means).logprob
    alone = torch.cat([places.ablate(subject, prompts, [one], means).logprob for one in many])
    assert torch.allclose(together, alone, atol=1e-11)
    assert (together[0] - together[8]).abs().max() > 1e-4
    crowded = places.ablate(subject, prompts, many, means, memory=1, batch=2).logprob
    assert torch.allclose(together, crowded, atol=1e-11)


def test_the_definition_leaves_exactly_the_kept_heads_alone():
    subject, prompts, means = setting()
    circuit = {"prev": [Head(0, 3)], "query": [Head(0, 3), Head(0, 5)], "other labels+1": [Head(0, 1)]}
    found = runs.run(
        subject,
        prompts,
        places.edits(subject, prompts, circuit, means),
        read=[runs.Read("z", 0, torch.full_like(prompts.last, at)) for at in range(prompts.input_ids.shape[1])],
    )
    z = torch.stack([read[0] for read in found.reads], dim=1)  # n, T, heads, size
    same = (z == means.z[0]).all(-1)
    own = (z == runs.record(subject, prompts).span("z", 0)).all(-1)
    kept = torch.zeros_like(same)
    rows = torch.arange(len(prompts))
    kept[rows, prompts.prev, 3] = kept[rows, prompts.query, 3] = kept[rows, prompts.query, 5] = True
    commas = places.positions(prompts, "other labels+1")
    kept[rows[:, None], commas, 1] = True
    assert commas.shape == (len(prompts), BOXES - 1)
    assert torch.equal(own & kept, kept)
    assert torch.equal(same | kept, torch.ones_like(same))


# What must change nothing


@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_everything_everywhere_is_the_unmodified_model_bit_for_bit(family):
    subject, prompts, means = setting(family, n=3, dtype=torch.float32)
    everything = ablation.all_heads(subject, ["everywhere"])
    unmodified = runs.run(subject, prompts)
    literal = runs.run(subject, prompts, places.edits(subject, prompts, everything, means))
    assert torch.equal(literal.logits, unmodified.logits) and torch.equal(literal.logprob, unmodified.logprob)
    fast = places.ablate(subject, prompts, [everything], means)
    other = places.ablate(subject, prompts, [everything], mean_replay.Means(means.z + 1, means.n))
    assert torch.equal(fast.logits, other.logits), "some mean got in"
    assert torch.allclose(fast.logprob, unmodified.logprob, atol=1e-4)


def test_ablating_with_a_runs_own_z_is_the_run():
    subject, prompts, _ = setting()
    one = prompts.select([4])
    own = ablation.means(subject, prompts=one)
    whole = runs.run(subject, one).logprob
    for circuit in ({}, drawn(subject, "prev", "query", "last")):
        assert torch.allclose(places.ablate(subject, one, [circuit], own).logprob, whole, atol=1e-10)
    assert not torch.allclose(places.ablate(subject, prompts.select([3]), [{}], own).logprob, whole, atol=1e-4)


def test_removing_the_empty_set_changes_nothing():
    subject, prompts, means = setting(dtype=torch.float32)
    circuit = drawn(subject, "prev", "query", "last")
    assert ablation.without(circuit, {}) == ablation.without(circuit, {"last": ()}) == ablation.kept(circuit)
    for method in ("replay", "definition"):
        left = ablation.full_without(subject, [{}, {"last": ()}, circuit], prompts, means, method=method)
        unmodified = runs.run(subject, prompts)
        assert torch.allclose(left.logprob[:2], unmodified.logprob.expand(2, -1), atol=1e-4)
        assert torch.equal(left.correct[:2], (unmodified.top == prompts.answer_ids).expand(2, -1))
        assert (left.logprob[2] - left.logprob[0]).abs().max() > 0.01


def test_means_are_equal_in_two_orders_of_the_same_prompts():
    subject, prompts, _ = setting(dtype=torch.float32)
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(1))
    one = ablation.means(subject, prompts=prompts, batch=5).z
    other = ablation.means(subject, prompts=prompts.select(order), batch=5).z
    assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)
    by_hand = tiny.recorded(runs.record(subject, prompts), "z").double().mean(1)
    assert torch.allclose(one.double(), by_hand, rtol=1e-5, atol=1e-6)


# Means


def test_means_come_from_contexts_of_their_own_and_ask_for_no_box(monkeypatch):
    subject = tiny.subject()
    seen = []
    real = runs.record
    monkeypatch.setattr(runs, "record", lambda s, p, **options: (seen.append(p), real(s, p, **options))[1])
    ablation.means(subject, n=9, boxes=BOXES, batch=4)
    assert sum(map(len, seen)) == 9
    for part in seen:
        assert {world.split for world in part.worlds} == {"means"}
        assert (part.answer_ids == -1).all()
        assert all(label not in world.labels for label, world in zip(part.asked, part.worlds, strict=True))


def test_prompts_of_another_length_are_refused_and_both_lengths_named():
    subject, prompts, means = setting()
    longer = boxes.prompts(subject, 4, boxes=4)
    message = rf"prompts of {prompts.input_ids.shape[1]} tokens.* {longer.input_ids.shape[1]}\."
    with pytest.raises(ValueError, match=message):
        ablation.circuit_accuracy(subject, {}, longer, means)
    templates = [boxes.Template(), boxes.Template(statement="the {object} is in the Box {label}")]
    mixed = boxes.from_worlds(subject, prompts.worlds[:2], prompts.queries[:2], template=templates)
    with pytest.raises(ValueError, match="one length"):
        ablation.means(subject, prompts=mixed)


# Places


def test_the_places_name_every_token_of_a_prompt_once():
    _, prompts, _ = setting()
    names = ["prev", "query", "last", *evaluation.PLACES]
    found = torch.cat([places.positions(prompts, place) for place in names], dim=1)
    assert torch.equal(found.sort(1).values, torch.arange(prompts.input_ids.shape[1]).expand(len(prompts), -1))
    assert places.positions(prompts, "later labels").tolist()[:BOXES] == [[12, 19], [19, -1], [-1, -1]]


def test_places_are_the_tokens_that_they_say():
    subject, prompts, _ = setting()
    row = torch.arange(len(prompts))

    def words(place, prompt):
        where = places.positions(prompts, place)[prompt]
        return [subject.tokenizer.decode(prompts.input_ids[prompt, at]).strip() for at in where if at >= 0]

    for prompt in row.tolist():
        world, asked = prompts.worlds[prompt], prompts.queries[prompt]
        assert words("prev", prompt) == words("query", prompt) == [world.labels[asked]]
        assert words("other labels", prompt) == [x for i, x in enumerate(world.labels) if i != asked]
        assert words("earlier objects", prompt) == list(world.objects[:asked])
        assert words("later labels-1", prompt) == ["Box"] * (BOXES - 1 - asked)
        assert words("prev+1", prompt) == ["," if asked < BOXES - 1 else "."]
        assert words("query+1", prompt) == ["contains"]
        assert words("last+1", prompt) == []
    with pytest.raises(ValueError, match="no place called"):
        places.positions(prompts, "answer")


def test_places_that_overlap_keep_what_either_keeps_or_are_refused():
    subject, prompts, means = setting()
    some, more = drawn(subject, "last")["last"], drawn(subject, "last", seed=1)["last"]
    twice = ablation.circuit_accuracy(subject, {"last": some, "query+2": more}, prompts, means)
    once = ablation.circuit_accuracy(subject, {"last": (*some, *more)}, prompts, means)
    assert torch.allclose(twice.logprob, once.logprob, atol=1e-12)
    with pytest.raises(ValueError, match="the same token in some of the prompts"):
        ablation.circuit_accuracy(subject, {"prev+1": some, "query-2": more}, prompts, means)
    same = {"prev+1": some, "query-2": some}
    both = [
        ablation.circuit_accuracy(subject, same, prompts, means, method=m).logprob for m in ("replay", "definition")
    ]
    assert torch.allclose(*both, atol=1e-9)


def test_a_place_that_is_the_last_token_of_some_prompts_alone_keeps_the_same_there():
    subject, prompts, means = setting()
    ends = prompts.last - torch.arange(len(prompts)) % 2
    named = Prompts(
        input_ids=prompts.input_ids,
        last=prompts.last,
        answer_ids=prompts.answer_ids,
        contexts=prompts.contexts,
        positions={"end": ends},
    )
    some = drawn(subject, "last")["last"]
    both = [
        ablation.circuit_accuracy(subject, {"end": some, "last": some}, named, means, method=m).logprob
        for m in ("replay", "definition")
    ]
    assert torch.allclose(*both, atol=1e-9)


def test_a_head_that_does_not_exist_is_refused():
    subject, prompts, means = setting()
    with pytest.raises(ValueError, match="L9H0 at last"):
        ablation.circuit_accuracy(subject, {"last": [Head(9, 0)]}, prompts, means)


# Circuit accuracy


def test_a_circuit_keeps_d_at_prev_c_at_query_and_a_and_b_at_last():
    groups = {
        "value_fetcher": (Head(3, 1), Head(2, 0)),
        "position_transmitter": (Head(2, 0), Head(1, 7)),
        "position_detector": (Head(1, 2),),
        "structure_reader": (Head(0, 4),),
    }
    expected = {"last": (Head(1, 7), Head(2, 0), Head(3, 1)), "query": (Head(1, 2),), "prev": (Head(0, 4),)}
    assert ablation.kept(Circuit(groups)) == expected
    assert ablation.size(Circuit(groups)) == 5


@pytest.mark.parametrize("method", ["replay", "definition"])
def test_many_circuits_are_answered_in_their_order(method):
    subject, prompts, means = setting(n=6)
    asked = list(circuits(subject).values())[:6]
    found = ablation.circuit_accuracy(subject, asked, prompts, means, method=method)
    for index, circuit in enumerate(asked):
        literal = runs.run(subject, prompts, places.edits(subject, prompts, circuit, means))
        assert torch.allclose(found.logprob[index], literal.logprob[0], atol=1e-9)
        assert torch.equal(found.correct[index], literal.top[0] == prompts.answer_ids)
    assert found.estimate(3).contexts == len(set(prompts.contexts.tolist()))


def test_accuracy_is_that_of_the_most_likely_word():
    subject, prompts, means = setting()
    circuit = drawn(subject, "prev", "query", "last")
    top = places.ablate(subject, prompts, [circuit], means).top[0]
    answers = torch.where(torch.arange(len(prompts)) % 3 == 0, top, prompts.answer_ids)
    rigged = boxes.Prompts(**{**vars(prompts), "answer_ids": answers})
    assert ablation.circuit_accuracy(subject, circuit, rigged, means).correct[0].tolist() == (top == answers).tolist()
    assert ablation.full_model(subject, prompts).correct.shape == (1, len(prompts))


def test_finished_circuits_are_not_run_again(tmp_path, monkeypatch):
    subject, prompts, means = setting(n=6)
    monkeypatch.setattr(ablation, "SHARD", 2)
    many = [drawn(subject, "prev", "query", "last", seed=seed) for seed in range(5)]
    real, calls = mean_replay.ablate, []

    def counted(subject, prompts, slots, keep, *rest, **options):
        calls.append(len(keep))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(subject, prompts, slots, keep, *rest, **options)

    ablation.circuit_accuracy(subject, {}, prompts, means)  # the check of the model comes once
    monkeypatch.setattr(mean_replay, "ablate", counted)
    with pytest.raises(KeyboardInterrupt):
        ablation.circuit_accuracy(subject, many, prompts, means, store=Store(tmp_path))
    found = ablation.circuit_accuracy(subject, many, prompts, means, store=Store(tmp_path))
    assert calls == [2, 2, 1, 1]
    assert torch.allclose(found.logprob, places.ablate(subject, prompts, many, means).logprob, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_a_model_that_the_fast_way_gets_wrong_is_noticed_before_any_number_is_returned(scale):
    made = tiny.model(dtype=torch.float64)
    made.lm_head.weight.data.mul_(scale)
    tiny.double(made.model.layers[2].self_attn)
    subject = wrap(made, tiny.tokenizer())
    prompts, means = boxes.prompts(subject, n=3, boxes=BOXES), ablation.means(subject, n=7, boxes=BOXES)
    with pytest.raises(RuntimeError, match="differs from the definition"):
        ablation.circuit_accuracy(subject, {}, prompts, means)


@pytest.mark.parametrize("places", [("last",), ("prev", "query", "last"), ("object", "prev+1")])
def test_removing_heads_from_the_full_model_by_replay_equals_the_definition(places):
    subject, prompts, means = setting()
    removed = [drawn(subject, *places, seed=seed) for seed in range(2)]
    one, other = (
        ablation.full_without(subject, removed, prompts, means, method=method, batch=5)
        for method in ("replay", "definition")
    )
    assert torch.allclose(one.logprob, other.logprob, atol=1e-9)
    assert torch.equal(one.correct, other.correct)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_whether_both_ways_agree_is_judged_by_the_size_of_the_logits(scale):
    """Rounding grows with the logits: large ones are no reason to refuse a model, small ones hide no difference."""
    logits = scale * torch.randn(7, 100, generator=torch.Generator().manual_seed(0)) * 20
    assert precision.close(logits * (1 + 1e-5), logits, torch.float32)
    assert not precision.close(logits * (1 + 1e-3), logits, torch.float32)
    assert precision.close(logits.bfloat16().float(), logits, torch.bfloat16)
    assert not precision.close(logits * 1.1, logits, torch.bfloat16)
    assert not precision.close(logits * torch.nan, logits, torch.float32)
    assert precision.close(0 * logits, 0 * logits, torch.float32)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_a_model_of_very_large_or_small_logits_is_ablated(scale):
    subject = tiny.subject()
    subject.model.lm_head.weight.mul_(scale)
    put_back(subject)
    prompts = boxes.prompts(subject, 3, 3)
    means = ablation.means(subject, n=4, boxes=3)
    found = [ablation.circuit_accuracy(subject, {"last": ["L3H5"]}, prompts, means, method=m) for m in METHODS]
    assert torch.equal(found[0].correct, found[1].correct)


# The scan of positions


@pytest.fixture
def made_up(monkeypatch):
    """A model that gets 10 of 12 right, of which each place brings back a number of its own."""
    worth = {"last": 3, "query+1": 4, "prev+1": 2, "object": -1}

    def answers(counts):
        correct = torch.stack([torch.arange(12) < count for count in counts])
        return ablation.Answers(correct, correct.double(), torch.arange(12) // 3)

    def accuracy(subject, circuits, *rest, **options):
        asked = [circuits] if isinstance(circuits, dict) else circuits
        return answers([sum(worth.get(place, 0) for place in circuit) for circuit in asked])

    monkeypatch.setattr(ablation, "circuit_accuracy", accuracy)
    monkeypatch.setattr(ablation, "full_model", lambda *rest: answers([10]))
    return tiny.subject()


def test_a_scan_adds_one_place_at_a_time_and_goes_on_from_the_best(made_up):
    table = evaluation.scan_positions(made_up, None, None, ["object", "query+1", "prev+1"], rounds=2)
    found = table[["round", "place", "chosen"]].to_numpy().tolist()
    assert found == [
        [0, "(start)", True],
        [1, "object", False],
        [1, "query+1", True],
        [1, "prev+1", False],
        [2, "object", False],
        [2, "prev+1", True],
    ]
    assert (table["accuracy"] * 12).round(9).tolist() == [3, 2, 7, 5, 6, 9]
    assert (table["gain"] * 12).round(9).tolist() == [0, -1, 4, 2, -1, 2]
    assert table["of_full"].iloc[2] == pytest.approx(0.7)


def test_a_scan_makes_its_first_round_even_where_the_start_is_enough(made_up):
    table = evaluation.scan_positions(made_up, None, None, ["query+1", "prev+1"], rounds=5, enough=0.0)
    assert table["round"].tolist() == [0, 1, 1] and table["chosen"].sum() == 2


def test_a_scan_stops_when_enough_is_brought_back(made_up):
    table = evaluation.scan_positions(made_up, None, None, ["query+1", "prev+1"], rounds=5, enough=0.6)
    assert table["round"].tolist() == [0, 1, 1]


def test_a_scan_of_a_model_keeps_all_heads_at_the_place_that_it_names(monkeypatch):
    subject, prompts, means = setting(n=6)
    perfect = ablation.Answers(torch.ones(1, 6, dtype=torch.bool), torch.zeros(1, 6), prompts.contexts)
    monkeypatch.setattr(ablation, "full_model", lambda *rest: perfect)
    row = evaluation.scan_positions(subject, prompts, means, ["other objects"]).iloc[1]
    kept = ablation.all_heads(subject, ["prev", "query", "last", "other objects"])
    assert row["accuracy"] == ablation.circuit_accuracy(subject, kept, prompts, means).estimate().value
    assert row["n"] == 6

"""Masks and patching: ends of the scale, gradients, planted cases with known answers, and what is reported of them."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from entity_circuits import heads, prompts, runs, statistics
from entity_circuits.heads import Head
from entity_circuits.methods import dcm, interchange
from entity_circuits.runs import replay
from entity_circuits.runs.edits import Edit
from entity_circuits.tasks import desiderata, toy, triples
from entity_circuits.tasks.desiderata import ANSWERS, Triples

POSITIONS = ("last", "query", "prev")
RELAY, DIRECT = Head(2, 0), Head(2, 1)
SUBJECT = tiny.subject("qwen2", dtype=torch.float64)
EVERY = tuple(Head(i, j) for i in range(SUBJECT.layers) for j in range(SUBJECT.heads))
GROUP = (Head(2, 3), Head(0, 1), Head(2, 1), Head(1, 6))


def drawn(name="position", n=6, split="training", seed=0, subject=SUBJECT):
    return desiderata.triples(subject, name, n=n, boxes=3, split=split, seed=seed)


@pytest.fixture(scope="module")
def pairs():
    return interchange.record(SUBJECT, drawn("add_seg_start"), batch=4)


@pytest.fixture(scope="module")
def judge():
    return interchange.record(SUBJECT, drawn("add_seg_start", split="pruning"), batch=4)


def masked(pairs, keep, position, execute=replay.replay):
    """Log-probabilities (n,) of the targets under a mask of GROUP."""
    parts = [
        execute(
            part,
            [interchange.edits(pairs, batch, GROUP, position, keep)],
            targets=pairs.triples.targets[pairs.rows[batch], None],
        )
        for batch, part in enumerate(pairs.batches)
    ]
    return torch.cat([part.logprob[0] for part in parts])


def toy_pairs(n=4):
    """Half the base prompts say apple and the source cup, half the other way round; the target is the source's."""
    words = ("apple", "cup") * (n // 2)
    base, source = toy.prompts(*words), toy.prompts(*words[::-1])
    answers = torch.stack([base.answer_ids, source.answer_ids], dim=1)
    return interchange.record(
        toy.subject(), Triples("object", base, source, source.answer_ids, answers, ("base", "object"))
    )


@pytest.mark.parametrize("position", POSITIONS)
def test_keeping_all_is_the_floor_and_keeping_none_is_hard_patching(pairs, position):
    table = interchange.patch(SUBJECT, {"group": GROUP}, pairs, position=position)
    floor, group = (torch.tensor(part["target_logprob"].to_numpy()) for _, part in table.groupby("patched", sort=False))
    plain = runs.run(SUBJECT, pairs.triples.base, targets=pairs.triples.targets[:, None]).logprob[0]
    assert torch.allclose(masked(pairs, torch.ones(4), position), floor, atol=1e-10)
    assert torch.allclose(floor, plain, atol=1e-10)
    assert torch.allclose(masked(pairs, torch.zeros(4), position), group, atol=1e-10)
    assert (group - floor).abs().max() > 1e-2


@pytest.mark.parametrize("position", POSITIONS)
def test_patching_is_that_of_the_definition_and_reads_the_source_at_its_own_position(pairs, position):
    base, source = pairs.triples.base, pairs.triples.source
    assert (base.position(position) != source.position(position)).any()  # an inserted statement moves it
    recording = runs.record(SUBJECT, source)
    made = [
        Edit(
            "z",
            h.layer,
            (h.head,),
            base.position(position),
            recording.at("z", h.layer, source.position(position))[:, [h.head]],
        )
        for h in GROUP
    ]
    literal = runs.run(SUBJECT, base, made, targets=pairs.triples.targets[:, None])
    for method in ("replay", "definition"):
        table = interchange.patch(SUBJECT, GROUP, pairs, position=position, method=method)
        found = table[table["patched"] == "these heads"]
        assert torch.allclose(torch.tensor(found["target_logprob"].to_numpy()), literal.logprob[0], atol=1e-10)
        assert found["answer"].tolist() == pairs.triples.kinds(literal.top[0])


@pytest.mark.parametrize("position", POSITIONS)
def test_gradients_are_those_of_the_definition_and_reach_only_the_mask(pairs, position):
    slopes = []
    for execute in (replay.replay, runs.rerun):
        keep = torch.tensor([0.3, 0.9, 0.5, 0.7], dtype=torch.float64, requires_grad=True)
        masked(pairs, keep, position, execute).sum().backward()
        slopes.append(keep.grad)
    assert torch.allclose(*slopes, atol=1e-10)
    assert slopes[0].abs().min() > 1e-4
    assert all(parameter.grad is None for parameter in SUBJECT.model.parameters())
    assert not any(z.requires_grad for z in pairs.z.values())


def test_a_gradient_is_the_slope_of_the_curve(pairs):
    keep = torch.tensor([0.3, 0.9, 0.5, 0.7], dtype=torch.float64, requires_grad=True)
    masked(pairs, keep, "query").sum().backward()
    step = torch.tensor([0.0, 0.0, 1e-5, 0.0], dtype=torch.float64)
    with torch.no_grad():
        rise = (masked(pairs, keep + step, "query") - masked(pairs, keep - step, "query")).sum() / 2e-5
    assert torch.isclose(rise, keep.grad[2], rtol=1e-5)


def test_all_heads_at_last_give_the_answer_of_the_source():
    pairs = interchange.record(SUBJECT, drawn("random_text_start"))
    outcome = interchange.outcomes(pairs, [EVERY], "last")
    alone = runs.run(SUBJECT, pairs.triples.source, targets=pairs.triples.candidates)
    assert torch.allclose(outcome.logprobs[0, :, 1:], alone.logprobs[0], atol=1e-9, equal_nan=True)
    assert torch.equal(pairs.source_top, alone.top[0]) and torch.equal(outcome.top[0], alone.top[0])
    assert torch.equal(pairs.base_top, runs.run(SUBJECT, pairs.triples.base).top[0])


@pytest.mark.parametrize(
    ("penalty", "expected"), [(0.1, (RELAY, DIRECT)), (1.5, (RELAY,)), (2.5, ())], ids=["cheap", "dear", "too dear"]
)
def test_in_the_toy_a_head_is_patched_when_it_brings_more_logits_than_it_costs(penalty, expected):
    """The relay brings 2 logits, the direct head 1; the heads of the layers below are dead at `last`."""
    pairs = toy_pairs()
    mask = dcm.learn(pairs.subject, None, pairs, pairs, position="last", penalty=penalty)
    assert set(mask.settled) == set(expected)
    assert mask.converged and set(mask.keep.tolist()) == ({0.0, 1.0} if expected else {1.0})
    assert mask.logit[0] == pytest.approx(0.0)
    assert mask.logit[-1] == pytest.approx(2 * (RELAY in expected) + (DIRECT in expected))


@pytest.mark.parametrize(("position", "head"), [("query", Head(1, 0)), ("prev", Head(0, 0))])
def test_in_the_toy_the_one_head_of_each_earlier_stage_is_found_among_all(position, head):
    """The relay of 2 logits against the direct head of 1: patching its stages turns the answer."""
    pairs = toy_pairs()
    mask = dcm.learn(pairs.subject, None, pairs, pairs, position=position)
    assert mask.selected == mask.settled == (head,) and mask.accuracy == 1.0


def test_on_ties_fewer_heads_are_selected():
    pairs = toy_pairs()
    mask = dcm.learn(pairs.subject, [RELAY, DIRECT], pairs, pairs, position="last", penalty=0.99, rate=0.05)
    assert set(mask.settled) == {RELAY, DIRECT}
    looks = mask.snapshots
    assert set(looks.loc[looks["accuracy"] == 1.0, "heads"]) >= {len(mask.selected), 2} and mask.accuracy == 1.0
    dead = dcm.learn(pairs.subject, [Head(0, 1), Head(1, 1)], pairs, pairs, position="last", penalty=0.0, steps=10)
    assert dead.selected == () and dead.accuracy == 0.0


@pytest.mark.parametrize("position", POSITIONS)
def test_what_one_head_carries_is_found_among_all(pairs, position):
    """The sources' z are the base's own but for one head; the target is the token that gains most by patching it."""
    planted, z = Head(1, 6), {}
    for name in POSITIONS:
        rows = [tiny.recorded(part, "z")[:, range(len(part)), part.prompts.position(name)] for part in pairs.batches]
        z[name] = torch.cat(rows, dim=1)
    z[position][planted.layer, :, planted.head] *= -8
    words = torch.arange(SUBJECT.model.config.vocab_size).expand(len(pairs), -1)
    one = replace(
        pairs,
        z=z,
        triples=replace(pairs.triples, candidates=words, targets=words[:, 0], names=tuple(map(str, words[0].tolist()))),
    )
    plain, patched = interchange.outcomes(one, [(), (planted,)], position).logits[..., 1:]
    gain, targets = (patched - plain).max(-1)
    assert gain.min() > 0.05
    one = replace(
        pairs, z=z, triples=replace(pairs.triples, targets=targets, candidates=targets[:, None], names=("gains most",))
    )
    mask = dcm.learn(SUBJECT, None, one, one, position=position, penalty=0.05, steps=20)
    assert mask.settled == (planted,)
    weights = dict(zip(mask.heads, mask.keep.tolist(), strict=True))  # later heads may undo some of the patch
    assert all(weights[head] == 1 for head in EVERY if head.layer <= planted.layer and head != planted)
    assert mask.logit[-2:].mean() > mask.logit[:2].mean() + 0.05


def test_masks_by_replay_are_those_by_definition(pairs, judge):
    made = [
        dcm.learn(SUBJECT, GROUP, pairs, judge, position="query", steps=10, method=method)
        for method in ("replay", "definition")
    ]
    assert torch.allclose(made[0].trace, made[1].trace, atol=1e-8)
    assert made[0].selected == made[1].selected and len(made[0].trace) == 11


def test_a_sweep_gives_the_masks_of_single_calls_twice_over(pairs, judge):
    grid = {"penalties": [0.01, 0.5], "seeds": [None, 3]}
    one, again = (dcm.sweep(SUBJECT, GROUP, pairs, judge, position="last", steps=10, **grid) for _ in range(2))
    single = [
        dcm.learn(SUBJECT, GROUP, pairs, judge, position="last", steps=10, penalty=penalty, seed=seed)
        for penalty in grid["penalties"]
        for seed in grid["seeds"]
    ]
    for a, b, c in zip(one, again, single, strict=True):
        assert torch.equal(a.trace, b.trace) and torch.allclose(a.trace, c.trace, atol=1e-8)
        assert a.selected == b.selected == c.selected and (a.penalty, a.seed) == (c.penalty, c.seed)
    assert not torch.allclose(one[0].trace, one[1].trace, atol=1e-3)  # another draw of the triples


def test_masks_of_given_pairs_are_never_those_kept_for_other_pairs_of_the_same_triples(pairs, judge, tmp_path):
    asked = {"position": "last", "steps": 10, "store": tmp_path}
    other = replace(pairs, z={name: -3 * z for name, z in pairs.z.items()})
    dcm.learn(SUBJECT, GROUP, other, judge, **asked)
    found, right = (dcm.learn(SUBJECT, GROUP, pairs, judge, **{**asked, "store": store}) for store in (tmp_path, None))
    assert torch.equal(found.trace, right.trace) and not list(tmp_path.iterdir())
    triples = drawn("position"), drawn("position", split="pruning")
    dcm.learn(SUBJECT, GROUP, *triples, **asked)
    assert list(tmp_path.iterdir())


def test_masks_learned_side_by_side_are_those_learned_alone_whatever_they_are_asked(pairs, judge):
    asked = [
        dcm.Asked(GROUP, "last", "position", 0.01),
        dcm.Asked(GROUP, "query", "object", 0.0),
        dcm.Asked(None, "last", "object", 0.01, seed=3),
        dcm.Asked(GROUP[:2], "prev", None, 0.001),
        dcm.Asked(GROUP, "last", "object", 0.01),
    ]
    found = dcm.together(SUBJECT, asked, pairs, judge, steps=10)
    for one, mask in zip(asked, found, strict=True):
        train, chosen = (some.towards(one.target) if one.target else some for some in (pairs, judge))
        given = {"position": one.position, "penalty": one.penalty, "seed": one.seed, "steps": 10}
        alone = dcm.learn(SUBJECT, one.heads, train, chosen, **given)
        assert torch.allclose(mask.trace, alone.trace, atol=1e-8) and mask.selected == alone.selected
        assert mask.desideratum == alone.desideratum and mask.heads == alone.heads
        assert mask.snapshots.equals(alone.snapshots) and mask.trace[-1].min() < 0.9


def test_without_the_vocabulary_there_are_the_logits_of_the_targets_alone(pairs):
    edits = [interchange.edits(pairs, 0, GROUP, "query")]
    part, targets = pairs.batches[0], pairs.triples.candidates[pairs.rows[0]]
    whole, few = (replay.replay(part, edits, targets=targets, vocabulary=given) for given in (True, False))
    assert torch.allclose(few.logits, whole.logits, atol=1e-12, equal_nan=True)
    assert few.logprobs.isnan().all() and (few.top == -1).all() and few.top.shape == whole.top.shape


def test_a_seed_counts_triples_as_often_as_it_draws_them(pairs, judge):
    """Learning with a seed is learning on the triples it draws: here, one batch of them written out."""
    draws = torch.randint(6, (6,), generator=torch.Generator().manual_seed(5))
    whole = interchange.record(SUBJECT, pairs.triples, batch=6)
    counted = dcm.learn(SUBJECT, GROUP, whole, judge, position="last", seed=5, steps=10)
    written = interchange.record(SUBJECT, pairs.triples.select(draws), batch=6)
    assert torch.allclose(
        counted.trace, dcm.learn(SUBJECT, GROUP, written, judge, position="last", steps=10).trace, atol=1e-6
    )


def test_a_mask_says_when_it_has_not_converged(pairs, judge):
    short = dcm.learn(SUBJECT, GROUP, pairs, judge, position="last", steps=1)
    assert not short.converged and "NOT converged after 10 steps" in str(short)
    strict = dcm.learn(SUBJECT, GROUP, pairs, judge, position="last", steps=20, rate=0.013, tolerance=0.01)
    assert not strict.converged
    settled = toy_pairs()
    mask = dcm.learn(settled.subject, None, settled, settled, position="last")
    assert mask.converged and ", converged after" in str(mask) and len(mask.logit) < 150


def test_without_gradients_the_same_mask_is_learned(pairs, judge):
    asked = {"position": "last", "steps": 10}
    with torch.no_grad():
        there = dcm.learn(SUBJECT, GROUP, pairs, judge, **asked)
    assert torch.equal(there.trace, dcm.learn(SUBJECT, GROUP, pairs, judge, **asked).trace)


def test_a_mask_towards_a_candidate_by_its_name_is_of_that_candidate(pairs, judge, tmp_path):
    def renamed(one, first, second):
        return replace(one.triples, names=(first, second, *one.triples.names[2:]))

    asked = [dcm.Asked(None, "last", target="one")]
    masks = [
        dcm.together(SUBJECT, asked, renamed(pairs, *names), renamed(judge, *names), steps=3, store=tmp_path)[0]
        for names in (("one", "two"), ("two", "one"))
    ]
    assert not torch.equal(masks[0].logit, masks[1].logit)


def test_a_mask_keeps_to_its_bounds_and_tells_its_story(pairs, judge):
    mask = dcm.learn(SUBJECT, GROUP, pairs, judge, position="last", steps=30)
    assert mask.trace.min() >= 0 and mask.trace.max() <= 1 and (mask.trace[0] == 1).all()
    assert len(mask.trace) == len(mask.logit) + 1 == mask.snapshots["step"].iloc[-1] + 1
    best = mask.snapshots[mask.snapshots["accuracy"] == mask.snapshots["accuracy"].max()]
    assert (len(mask.selected), mask.accuracy) == (best["heads"].min(), best["accuracy"].iloc[0])
    hits = interchange.patch(SUBJECT, mask.selected, judge, position="last")
    assert hits.loc[hits["patched"] == "these heads", "hit"].mean() == mask.accuracy


def test_a_mask_is_the_same_made_again_from_its_tensors(pairs, judge):
    for converged in (False, True):
        mask = replace(dcm.learn(SUBJECT, GROUP, pairs, judge, position="last", steps=20), converged=converged)
        known = {name: getattr(mask, name) for name in ("heads", "position", "desideratum", "penalty", "seed")}
        again = dcm.Mask.restored(mask.tensors(), **known)
        for name in ("keep", "trace", "logit"):
            assert torch.equal(getattr(again, name), getattr(mask, name)), name
        pd.testing.assert_frame_equal(again.snapshots, mask.snapshots[["step", "heads", "accuracy"]])
        assert (again.selected, again.accuracy, again.converged) == (mask.selected, mask.accuracy, converged)
        assert all(getattr(again, name) == one for name, one in known.items())
        assert str(again) == str(mask)


def test_pairs_recorded_one_by_one_are_those_recorded_together(pairs):
    single = interchange.record(SUBJECT, pairs.triples, batch=1)
    assert [len(part) for part in single.batches] == [1] * len(pairs)
    for position, z in pairs.z.items():
        assert torch.allclose(single.z[position], z, atol=1e-10)
    assert torch.equal(single.base_top, pairs.base_top) and torch.equal(single.source_top, pairs.source_top)


def test_several_sets_are_patched_as_each_alone_and_answers_are_named(pairs):
    sets = {"one": GROUP[:1], "two": GROUP[:2], "all": EVERY}
    table = interchange.patch(SUBJECT, sets, pairs, position="last")
    assert table["patched"].drop_duplicates().tolist() == ["no patch", *sets]
    for name, chosen in sets.items():
        alone = interchange.patch(SUBJECT, chosen, pairs, position="last")
        numbers = [part["target_logprob"].to_numpy() for part in (table[table["patched"] == name], alone.iloc[6:])]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-9)
    target = dict(zip(range(6), pairs.triples.kinds(pairs.triples.targets), strict=True))
    assert (table["hit"] == (table["answer"] == table["prompt"].map(target))).all()
    assert list(table["answer"].cat.categories) == [*ANSWERS, "counted", "other"]
    plain = table[table["patched"] == "no patch"]
    assert (plain["base_right"] == (plain["answer"] == "base")).all()
    assert len(statistics.by(table, "patched", "hit")) == 4


def test_answers_of_the_toy_are_those_computed_by_hand():
    pairs = toy_pairs()
    sets = {"relay": [RELAY], "direct": [DIRECT], "both": [RELAY, DIRECT], "dead": [Head(1, 1)]}
    table = interchange.patch(pairs.subject, sets, pairs, position="last")
    answers = table.groupby("patched")["answer"].unique().map(list).to_dict()
    assert answers == {
        "no patch": ["base"],
        "relay": ["object"],
        "direct": ["base"],
        "both": ["object"],
        "dead": ["base"],
    }
    logit = table[table["patched"] == "relay"]["target_logprob"]
    assert logit.to_numpy() == pytest.approx(2 - torch.tensor([2.0, 1, 0, 0, 0]).logsumexp(0).item())


def test_masks_in_tables(pairs, judge):
    masks = dcm.sweep(SUBJECT, GROUP, pairs, judge, position="last", steps=20, penalties=[0.0, 50.0], seeds=[None, 1])
    curve = dcm.curve(masks)
    assert curve["penalty"].tolist() == [0.0, 0.0, 50.0, 50.0] and curve["seed"].isna().tolist() == [True, False] * 2
    assert (curve["settled"][:2] > 0).all() and (curve["settled"][2:] == 0).all()
    chosen = dcm.chosen(masks).set_index(["penalty", "head"])
    for penalty, head in chosen.index:
        among = [Head.parse(head) in mask.settled for mask in masks if mask.penalty == penalty]
        assert chosen.loc[(penalty, head), "settled"] == sum(among) / 2


def test_hypotheses_share_recordings(pairs):
    position = interchange.record(SUBJECT, drawn("position"), like=pairs)
    assert position.batches is pairs.batches
    thing = interchange.patch(SUBJECT, GROUP, position.towards("object"), position="last")
    pd.testing.assert_frame_equal(thing, interchange.patch(SUBJECT, GROUP, drawn("object"), position="last"))
    with pytest.raises(ValueError, match="base prompts of `like` are others"):
        interchange.record(SUBJECT, drawn("position", seed=1), like=pairs)


def test_pairs_with_another_position_of_that_name_share_no_recordings():
    """The texts are the same, and `first` is another token of them."""
    texts = ["The cup is in F. F contains the", "The apple is in F. F contains the"]

    def between(at):
        p = prompts.from_texts(SUBJECT, texts, [" cup", " apple"], positions={"first": at})
        return triples.between(p, p.select([1, 0]))

    one = interchange.record(SUBJECT, between(1))
    assert interchange.record(SUBJECT, between(1), like=one).batches is one.batches
    with pytest.raises(ValueError, match="base prompts of `like` are others"):
        interchange.record(SUBJECT, between(5), like=one)


def test_sets_of_heads_that_can_be_read_but_once_are_read_once(pairs):
    sets = [["L1H0"], ["L0H3", "L2H1"]]
    once = interchange.outcomes(pairs, iter(iter(some) for some in sets), "last")
    assert torch.equal(once.top, interchange.outcomes(pairs, [heads.of(some) for some in sets], "last").top)


NOWHERE: Any = "nowhere"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda t: interchange.patch(SUBJECT, [Head(9, 0)], t, position="last"),
            "L9H0 to be patched: this model has 4 layers",
        ),
        (lambda t: interchange.patch(SUBJECT, GROUP, t, position=NOWHERE), "no place called 'nowhere'"),
        (lambda t: dcm.learn(SUBJECT, [Head(0, 8)], t, t, position="last"), "L0H8 to be patched"),
        (lambda t: dcm.learn(SUBJECT, [], t, t, position="last"), "a mask needs heads"),
        (lambda t: dcm.learn(SUBJECT, GROUP, t, t, position="last", penalty=-1), "penalty=-1: .* at least 0"),
        (lambda t: dcm.learn(SUBJECT, GROUP, t, t, position="last", steps=0), "steps=0: .* at least 1"),
        (lambda t: dcm.sweep(SUBJECT, GROUP, t, t, position="last", seeds=[]), "there are no seeds"),
        (lambda t: interchange.record(SUBJECT, t, batch=0), "batch"),
        (lambda t: dcm.learn(SUBJECT, GROUP, t, t, position="last", seed=2**70), "seed=1180591620717411303424"),
        (lambda t: dcm.learn(SUBJECT, GROUP, t, drawn("object"), position="last"), "of the same desideratum"),
        (lambda t: torch.inference_mode()(dcm.learn)(SUBJECT, GROUP, t, t, position="last"), "inference_mode"),
    ],
)
def test_impossible_requests_are_refused_before_any_model_runs(call, message, monkeypatch):
    monkeypatch.setattr(runs, "record", lambda *_, **__: pytest.fail("a model has run"))
    with pytest.raises(ValueError, match=message):
        call(drawn())


def test_pairs_of_another_model_are_refused(pairs):
    other = tiny.subject("qwen2", seed=5)
    with pytest.raises(ValueError, match="recorded with another model"):
        interchange.patch(other, GROUP, pairs, position="last")


def test_a_bystander_is_an_object_of_the_base_that_no_hypothesis_predicts():
    drawn = desiderata.triples(SUBJECT, "label", n=4, boxes=5)
    objects, candidates = drawn.base.object_ids, drawn.candidates
    unforeseen = [
        [x for x in row if x not in known] for row, known in zip(objects.tolist(), candidates.tolist(), strict=True)
    ]
    assert [len(row) for row in unforeseen] == [
        2
    ] * 4  # of five: the answer, the position's and the label's are foreseen
    top = torch.tensor([unforeseen[0][1], int(drawn.targets[1]), int(candidates[2, 0]), unforeseen[3][0]])
    answers = interchange.Answers(top[None], torch.zeros(1, 4, candidates.shape[1]), top, top)
    table = interchange.tabulate(drawn, {"a patch": GROUP}, "last", answers)
    assert table["bystander"].tolist() == [0.5, 0.0, 0.0, 0.5]

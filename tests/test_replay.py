"""Claim: replay gives the numbers of the definition, for every kind of edit, on every family, padded or not."""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import tiny
import torch
import transformers
from entity_circuits import runs
from entity_circuits.heads import Head
from entity_circuits.models import wrap
from entity_circuits.models.subject import put_back
from entity_circuits.runs import definition, mean_replay, replay
from entity_circuits.runs.edits import Edit, Read
from entity_circuits.runs.recording import require_room
from entity_circuits.tasks import boxes
from every_method import METHODS, Given
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

FAMILIES = ("llama", "qwen2", "qwen3")
FLOATS = {torch.float64: 1e-9, torch.float32: 1e-4}


def setting(family="qwen2", dtype=torch.float64, lengths="equal", n=6):
    """A subject with recordings of base and source prompts; with unequal lengths the prompts are padded."""
    subject = tiny.subject(family, dtype=dtype)
    base, source = boxes.prompts(subject, n, boxes=3), boxes.prompts(subject, n, boxes=3, seed=1)
    if lengths == "unequal":
        long = boxes.Template(statement="the {object} is in the Box {label}")
        templates = [long if row % 2 else boxes.Template() for row in range(n)]
        base = boxes.from_worlds(subject, base.worlds, base.queries, template=templates)
    return runs.record(subject, base), runs.record(subject, source)


def value(source, site, layer, position, heads):
    return source.at(site, layer, source.prompts.position(position))[:, list(heads)]


def variants(base, source):
    """One variant of each kind of edit, and one of several together."""
    p, layers = base.prompts, base.subject.layers
    every = tuple(range(base.subject.heads))
    found = {
        "none": [],
        "z at last": [Edit("z", 1, (1, 3), p.last, value(source, "z", 1, "last", (1, 3)))],
        "z at prev": [Edit("z", 0, (2,), p.prev, value(source, "z", 0, "prev", (2,)))],
        "z everywhere": [Edit("z", 1, (0, 2), None, base.span("z", 2)[:, :, [0, 2]])],
        "q": [Edit("q", 2, (5,), p.last, value(source, "k", 2, "last", (5,)))],
        "k of one head of a group": [Edit("k", 1, (3,), p.query, value(source, "k", 1, "query", (3,)))],
        "v of one head of a group": [Edit("v", 1, (3,), p.prev, value(source, "v", 1, "prev", (3,)))],
        "v heard at query": [
            Edit("v", layer, (layer, 7), p.prev, value(source, "v", layer, "prev", (layer, 7)), seen_by=p.query)
            for layer in (1, 2)
        ],
        "knockout": [Edit("score", layer, every, p.last, key=p.query) for layer in range(1, layers)],
        "half kept": [
            Edit("z", 1, (0, 4), p.query, value(source, "z", 1, "query", (0, 4)), keep=torch.tensor([0.25, 1.0]))
        ],
    }
    return {**found, "all together": [edit for edits in found.values() for edit in edits]}


@pytest.mark.parametrize("lengths", ["equal", "unequal"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_replay_equals_the_definition_for_every_kind_of_edit(family, dtype, lengths):
    base, source = setting(family, dtype, lengths)
    kinds = variants(base, source)
    read = [Read(site, 2, base.prompts.position(where)) for site in "qkvz" for where in ("prev", "query", "last")]
    words = torch.arange(base.subject.model.config.vocab_size).expand(len(base), -1)
    literal = runs.rerun(base, list(kinds.values()), read=read, targets=words)
    fast = replay.replay(base, list(kinds.values()), read=read, targets=words)
    for index, kind in enumerate(kinds):
        apart = (literal.logprobs[index].exp() - fast.logprobs[index].exp()).abs() / literal.logprobs[index].exp()
        assert apart.max() < FLOATS[dtype], kind
        for item, one, other in zip(read, literal.reads, fast.reads, strict=True):
            assert torch.allclose(one[index], other[index], atol=10 * FLOATS[dtype]), (kind, item.site)


@pytest.mark.parametrize("position", ["last", "query", "prev"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_replay_equals_holding_every_head_by_definition(family, position):
    base, source = setting(family)
    p = base.prompts
    every = [(layer, head) for layer in range(base.subject.layers) for head in range(base.subject.heads)]
    edits = [[Edit("z", i, (j,), p.position(position), value(source, "z", i, position, (j,)))] for i, j in every]
    read = [Read(site, layer, p.position(position)) for site, layer in (("q", 3), ("v", 2), ("k", 1), ("z", 3))]
    literal = runs.rerun(base, edits, frozen=True, read=read)
    fast = replay.replay(base, edits, frozen=True, read=read)
    assert torch.allclose(literal.logprob, fast.logprob, atol=1e-10)
    for one, other in zip(literal.reads, fast.reads, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_gradients_of_a_mask_are_those_of_the_definition_and_reach_nothing_else():
    base, source = setting()
    every, gradients = tuple(range(base.subject.heads)), []
    for execute in (runs.rerun, replay.replay):
        keep = torch.full((base.subject.layers, len(every)), 0.7, dtype=torch.float64, requires_grad=True)
        edits = [
            Edit("z", layer, every, base.prompts.query, value(source, "z", layer, "query", every), keep=keep[layer])
            for layer in range(base.subject.layers)
        ]
        execute(base, [edits]).logprob.sum().backward()
        gradients.append(keep.grad)
    assert gradients[0].abs().max() > 1e-3
    assert torch.allclose(*gradients, atol=1e-10)
    assert all(parameter.grad is None for parameter in base.subject.model.parameters())


def test_the_order_of_variants_and_the_size_of_batches_change_nothing():
    base, source = setting()
    kinds = list(variants(base, source).values())
    whole = replay.replay(base, kinds).logprob
    assert torch.allclose(replay.replay(base, kinds[::-1]).logprob.flip(0), whole, atol=1e-12)
    assert torch.allclose(replay.replay(base, kinds, memory=1).logprob, whole, atol=1e-12)


def test_padding_changes_nothing():
    padded, source = setting(lengths="unequal")
    assert len(set(padded.prompts.last.tolist())) > 1
    given = value(source, "z", 1, "query", (1,))
    together = replay.replay(padded, [[Edit("z", 1, (1,), padded.prompts.query, given)]]).logprob[0]
    for row, p in enumerate(map(padded.prompts.select, [[0], [1]])):
        alone = boxes.from_worlds(padded.subject, p.worlds, p.queries, template=p.templates)
        assert alone.input_ids.shape[1] == alone.last[0] + 1
        edit = Edit("z", 1, (1,), alone.query, given[[row]])
        single = replay.replay(runs.record(padded.subject, alone), [[edit]]).logprob[0, 0]
        assert torch.allclose(single, together[row], atol=1e-10)


class Derived(transformers.Qwen2ForCausalLM):
    """A type that nobody knows, whatever its parts are called."""


def test_a_model_of_an_unknown_type_is_refused_with_the_way_out_which_gives_the_same_numbers():
    base, source = setting()
    kinds = list(variants(base, source).values())
    known = runs.rerun(base, kinds).logprob
    base.subject.model.__class__ = Derived
    for refused in (
        lambda: replay.replay(base, [[]]),
        lambda: replay.attention(base, Head(0, 0), base.prompts.last),
        lambda: mean_replay.ablate(base.subject, base.prompts, base.prompts.last[:, None], None, None),
    ):
        with pytest.raises(NotImplementedError, match=r'method="definition".*no such option cannot'):
            refused()
    assert torch.equal(runs.rerun(base, kinds).logprob, known)
    assert torch.equal(replay.recorded_answers(base).logprob, runs.run(base.subject, base.prompts).logprob)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_refuses_a_model_of_an_unknown_type_before_it_runs(name, called):
    given = Given(tiny.subject("qwen2"), tiny.subject("qwen2", seed=1))
    for one in (given.subject, given.other):
        one.model.__class__ = Derived
    called.clear()
    with pytest.raises(NotImplementedError, match="Derived"):
        METHODS[name](given, "replay")
    assert not called


def test_a_model_of_an_unknown_type_that_does_not_do_what_edits_say_is_refused_by_the_definition_too():
    subject = tiny.subject("qwen2")
    subject.model.__class__, subject.model.model.layers[0].self_attn.__class__ = Derived, Deaf
    base = boxes.prompts(subject, n=3, boxes=3)
    with pytest.raises(RuntimeError, match="a cut leaks"):
        runs.run(subject, base, [Edit("score", 1, (0,), base.last, key=base.query)])


def test_an_unknown_type_that_dies_of_an_edit_is_refused_by_name():
    config = transformers.OlmoeConfig(**{**tiny.SHAPE, "num_experts": 2, "num_experts_per_tok": 1})
    subject = wrap(transformers.OlmoeForCausalLM(config), tiny.tokenizer())
    base = boxes.prompts(subject, n=3, boxes=3)
    with pytest.raises(RuntimeError, match="is a OlmoeForCausalLM, which is not known here"):
        runs.run(subject, base, [Edit("score", 1, (0,), base.last, key=base.query)])


def test_a_replay_of_which_nothing_is_asked_is_refused():
    base, _ = setting()
    with pytest.raises(ValueError, match="nothing is asked"):
        replay.replay(base, [[]], answer=False)


def test_prompts_that_do_not_fit_the_model_are_refused_before_it_runs():
    base, _ = setting()
    base.subject.model.config.max_position_embeddings = 10
    foreign = replace(base.prompts, input_ids=base.prompts.input_ids + 10_000)
    for run in (runs.run, runs.record):
        with pytest.raises(ValueError, match="was made for 10 at most"):
            run(base.subject, base.prompts)
        base.subject.model.config.max_position_embeddings = 512
        with pytest.raises(ValueError, match="make the prompts with its own tokenizer"):
            run(base.subject, foreign)
        base.subject.model.config.max_position_embeddings = 10


def test_prompts_may_fill_the_model_and_have_its_last_word_and_no_more():
    base, _ = setting()
    subject, p = base.subject, base.prompts
    words, length = subject.model.get_input_embeddings().weight.shape[0], int(p.last.max()) + 1
    ids = p.input_ids.clone()
    ids[2, 3], subject.model.config.max_position_embeddings = words - 1, length
    require_room(subject, replace(p, input_ids=ids))
    for wrong in (words, -1):
        ids[2, 3] = wrong
        with pytest.raises(ValueError, match="make the prompts with its own tokenizer"):
            require_room(subject, replace(p, input_ids=ids))
    subject.model.config.max_position_embeddings = length - 1
    with pytest.raises(ValueError, match=f"has {length} tokens, .* was made for {length - 1} at most"):
        require_room(subject, p)


def test_means_are_refused_for_prompts_of_which_some_are_shorter():
    padded, _ = setting(lengths="unequal")
    means = mean_replay.Means(tiny.recorded(padded, "z").mean(1), n=6)
    lengths = sorted(set((padded.prompts.last + 1).tolist()))
    assert lengths[-1] == means.z.shape[1] == padded.prompts.input_ids.shape[1]
    with pytest.raises(ValueError, match=rf"have {lengths[0]} or {lengths[1]}\. Take means"):
        means.require(padded.prompts, padded.subject)
    whole = padded.prompts.select(padded.prompts.last + 1 == lengths[-1])
    means.require(whole, padded.subject)
    with pytest.raises(ValueError, match="means are of another model"):
        replace(means, fingerprint="another").require(whole, padded.subject)


class Deaf(Qwen2Attention):
    """An attention that heeds no mask but its own."""

    def forward(self, *given, attention_mask=None, **options):
        return super().forward(*given, attention_mask=None, **options)


def test_a_model_that_replay_gets_wrong_is_noticed_before_any_number_is_returned():
    made = tiny.model(dtype=torch.float64)
    tiny.double(made.model.layers[2].self_attn)
    subject = wrap(made, tiny.tokenizer())
    fresh = runs.record(subject, boxes.prompts(subject, n=3, boxes=3))
    with pytest.raises(RuntimeError, match="differs from whole forward passes"):
        replay.replay(fresh, [[]])


@pytest.mark.parametrize("execute", [runs.rerun, replay.replay])
def test_a_head_with_nothing_left_to_attend_to_is_refused(execute):
    base, _ = setting()
    second = torch.ones_like(base.prompts.last)
    cuts = [Edit("score", 1, (2, 3), second, key=second * key) for key in (0, 1)]
    execute(base, [cuts[:1]])
    with pytest.raises(ValueError, match="nothing to attend to"):
        execute(base, [cuts])


@pytest.mark.parametrize("execute", [runs.rerun, replay.replay])
def test_cutting_a_key_outside_the_window_changes_nothing(execute):
    subject = tiny.subject("mistral", dtype=torch.float64)
    subject.model.config.sliding_window = 8
    put_back(subject)
    base = runs.record(subject, boxes.prompts(subject, n=3, boxes=3))
    zero, every = torch.zeros_like(base.prompts.last), tuple(range(subject.heads))
    far = [Edit("score", layer, every, base.prompts.last, key=zero) for layer in range(subject.layers)]
    near = [
        Edit("score", layer, every, base.prompts.last, key=base.prompts.last - 3) for layer in range(subject.layers)
    ]
    clean, cut, heard = execute(base, [[], far, near]).logprob
    assert torch.allclose(cut, clean, atol=1e-12)
    assert (heard - clean).abs().max() > 1e-3


def test_probabilities_are_at_most_one_in_half_precision_and_near_those_of_whole_runs():
    subject = tiny.subject("qwen2", dtype=torch.bfloat16)
    subject.model.lm_head.weight.mul_(4.0)  # logits as large as those of trained models
    put_back(subject)
    recording = runs.record(subject, boxes.prompts(subject, n=21, boxes=7))
    last = recording.stream(-1, recording.prompts.last)
    top = subject.model.lm_head(subject.model.model.norm(last)).float().argmax(-1)
    found = replay.recorded_answers(recording, top[:, None]).logprob
    assert float(found.max()) <= 0
    literal = runs.run(subject, recording.prompts, targets=top[:, None]).logprob
    assert torch.allclose(found, literal, atol=0.3)


def test_a_model_is_freed_with_its_last_reference():
    def used():
        base, _ = setting(dtype=torch.float32)
        replay.replay(base, [[]])
        return weakref.ref(base.subject.model)

    gone = used()
    gc.collect()
    assert gone() is None


def test_a_copy_of_a_model_that_was_run_is_a_model_of_its_own():
    base, _ = setting()
    other = wrap(copy.deepcopy(base.subject.model), tiny.tokenizer())
    other.model.lm_head.weight.mul_(2.0)
    assert not torch.allclose(runs.run(other, base.prompts).logprob, runs.run(base.subject, base.prompts).logprob)


def test_edits_that_cannot_act_on_held_heads_are_refused():
    base, source = setting()
    edit = Edit("q", 1, (0,), base.prompts.last, value(source, "z", 1, "last", (0,)))
    with pytest.raises(ValueError, match="while all z are held"):
        replay.replay(base, [[edit]], frozen=True)


def test_the_matrix_setting_is_put_back():
    before = torch.get_float32_matmul_precision()
    base, source = setting(dtype=torch.float32)
    replay.replay(base, list(variants(base, source).values()))
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_from_a_recording_is_that_of_the_model(family):
    base, _ = setting(family)
    subject, p = base.subject, base.prompts
    subject.model.set_attn_implementation("eager")
    weights = subject.model(input_ids=p.input_ids, output_attentions=True).attentions
    rows = torch.arange(len(base))
    for head in (Head(0, 1), Head(2, 6)):
        for position in (p.query, p.last, p.prev):
            found = replay.attention(base, head, position)
            assert torch.allclose(found, weights[head.layer][rows, head.head, position].double(), atol=1e-6)


# Keys and values that one token alone sees


def everywhere(source, site, layer, heads):
    """(n, T, heads, head_size): all keys or values of a recording for these heads, those after a prompt's end too."""
    shared = source.subject.heads // source.subject.kv_heads
    return source.span(site, layer)[:, :, [head // shared for head in heads]]


def heard(base, source, sites, place, layers=(1, 2), heads=(0, 3)):
    """Keys and values of all tokens, and the query, of some heads from the source, seen at one place alone."""
    at, found = base.prompts.position(place), []
    for layer in layers:
        for site in sites:
            if site == "q":
                query = replay.recorded(source, Read("q", layer, source.prompts.position(place)))[:, list(heads)]
                found.append(Edit("q", layer, heads, at, query))
            else:
                found.append(Edit(site, layer, heads, None, everywhere(source, site, layer, heads), seen_by=at))
    return found


def heard_variants(base, source):
    p = base.prompts
    kinds = {
        f"{sites} at {place}": heard(base, source, sites, place)
        for sites in ("k", "v", "kv", "qkv", "qk")
        for place in ("last", "query", "prev")
    }
    kinds["its own key alone"] = [Edit("k", 1, (4,), p.query, value(source, "k", 1, "query", (4,)), seen_by=p.query)]
    kinds["its own value alone"] = [Edit("v", 1, (4,), p.query, value(source, "v", 1, "query", (4,)), seen_by=p.query)]
    kinds["one key"] = [Edit("k", 2, (7, 1), p.prev, value(source, "k", 2, "prev", (7, 1)), seen_by=p.last)]
    kinds["one head at two places"] = heard(base, source, "kv", "last") + heard(base, source, "qv", "prev", (0, 2))
    kinds["one value after all"] = [*heard(base, source, "v", "query", (1,)), kinds["its own value alone"][0]]
    kinds["one value twice"] = [
        Edit("v", 1, (2,), p.prev, value(source, "v", layer, "prev", (2,)), seen_by=p.last) for layer in (1, 2)
    ]
    kinds["some of it kept"] = [
        Edit(
            e.site,
            e.layer,
            e.heads,
            None,
            e.value,
            keep=torch.tensor([0.3, 0.9], dtype=torch.float64),
            seen_by=e.seen_by,
        )
        for e in heard(base, source, "kv", "query")
    ]
    wide = [Edit(site, 1, (0, 5), None, everywhere(source, site, 2, (0, 5))) for site in "kv"]
    kinds["beside keys that all see"] = wide + heard(base, source, "k", "last")
    cuts = [Edit("score", 1, (0, 3), p.last, key=p.prev), Edit("score", 2, (0,), p.query, key=p.prev)]
    kinds["beside a cut"] = cuts + heard(base, source, "kv", "last") + heard(base, source, "k", "query")
    kinds["under z"] = [
        *heard(base, source, "kv", "query"),
        Edit(
            "z",
            1,
            (3, 6),
            p.query,
            value(source, "z", 1, "query", (3, 6)),
            keep=torch.full((2,), 0.5, dtype=torch.float64),
        ),
    ]
    return kinds


@pytest.mark.parametrize("lengths", ["equal", "unequal"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_replay_equals_the_definition_for_keys_and_values_seen_by_one_token(family, lengths):
    base, source = setting(family, lengths=lengths)
    if lengths == "unequal":  # a source of the same tokens in the same places, as another model's run would be
        source = runs.record(tiny.subject(family, seed=3, dtype=torch.float64), base.prompts)
    kinds = heard_variants(base, source)
    read = [Read(site, 2, base.prompts.position(where)) for site in "kz" for where in ("prev", "query", "last")]
    literal = runs.rerun(base, list(kinds.values()), read=read)
    fast = replay.replay(base, list(kinds.values()), read=read)
    clean = runs.rerun(base, [[]]).logprob[0]
    for index, kind in enumerate(kinds):
        assert (literal.logprob[index] - fast.logprob[index]).abs().max() < 1e-9, kind
        assert (literal.logprob[index] - clean).abs().max() > 1e-6, f"{kind}: changes nothing, so it tests nothing"
        for item, one, other in zip(read, literal.reads, fast.reads, strict=True):
            assert torch.allclose(one[index], other[index], atol=1e-9), (kind, item.site)


@pytest.mark.parametrize("execute", [replay.replay, runs.rerun])
def test_keys_seen_by_one_token_change_its_output_and_nothing_beside_it(execute):
    base, source = setting("qwen2")
    p = base.prompts
    wide = [Edit("k", 1, (3,), None, everywhere(source, "k", 1, (3,)))]
    read = [Read("z", 1, where) for where in (p.prev, p.query, p.last)]
    reads = execute(base, [wide, heard(base, source, "k", "query", (1,), (3,)), []], read=read).reads
    for place, (everybody, alone, clean) in zip(("prev", "query", "last"), reads, strict=True):
        moved = (alone - clean).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.tolist() == [head == 3 and place == "query" for head in range(base.subject.heads)], place
        assert (everybody - clean).abs().max() > 1e-6
        if place == "query":
            assert torch.allclose(alone, everybody, atol=1e-12)


@pytest.mark.parametrize("execute", [replay.replay, runs.rerun])
def test_positions_at_which_edits_meet_in_some_prompts_alone_are_refused(execute, monkeypatch):
    base, source = setting()
    p, other = base.prompts, base.prompts.query.clone()
    other[0] = p.last[0]
    given = everywhere(source, "k", 1, (3,))
    both = [Edit("k", 1, (3,), None, given, seen_by=where) for where in (p.last, other)]
    monkeypatch.setattr(definition, "_forward", lambda *_: pytest.fail("the model was run"))
    monkeypatch.setattr(replay, "_free", lambda *_: pytest.fail("the model was run"))
    with pytest.raises(ValueError, match="head 3 of layer 1"):
        execute(base, [both])


def test_the_answers_of_a_recording_are_the_models_own_or_refused():
    """What a hook makes of the logits is not in the output matrix."""
    subject = tiny.subject(seed=3)
    recording = runs.record(subject, boxes.prompts(subject, n=3, boxes=3))
    subject.model.lm_head.register_forward_hook(lambda module, given, out: out.flip(-1))
    with pytest.raises((RuntimeError, ValueError), match=r"differs from its own logits|hook"):
        replay.recorded_answers(recording)

"""Claims: a direct edge is what plain hooks make of it, by replay and by definition, in every family, and no more."""

import math

import by_hooks
import families
import pytest
import tiny
import torch
import transformers
from entity_circuits import edges, runs, toy
from entity_circuits.heads import Head
from entity_circuits.methods import edges as module
from entity_circuits.methods import path_patching, recorded
from entity_circuits.methods import swept as swept_by_layers
from entity_circuits.models.subject import wrap
from entity_circuits.results import Store
from entity_circuits.runs import replay
from entity_circuits.runs.edits import Read
from entity_circuits.tasks import boxes

SENDERS = [Head(0, 5), Head(1, 3), Head(2, 7)]
RECEIVERS = [Head(1, 2), Head(3, 6), Head(2, 1)]
KINDS = {
    "queries at last": {"position": "last", "composition": "q"},
    "queries at query": {"position": "query", "composition": "q"},
    "keys at query, heard everywhere": {"position": "query", "composition": "k"},
    "values at prev, heard everywhere": {"position": "prev", "composition": "v"},
    "keys at prev, heard at query": {"position": "prev", "composition": "k", "reach": "query"},
    "values at query, heard at last": {"position": "query", "composition": "v", "reach": "last"},
}
METHODS = ("replay", "definition")
EVERYWHERE = [kind for kind, asked in KINDS.items() if "reach" not in asked]


def prompts(subject, n=3, lengths="equal"):
    base = boxes.prompts(subject, n, boxes=3)
    source = boxes.noise(subject, base)
    if lengths == "unequal":
        long = boxes.Template(statement="the {object} is in the Box {label}")
        templates = [long if row % 2 else boxes.Template() for row in range(n)]
        base = boxes.from_worlds(subject, base.worlds, base.queries, template=templates)
    return base, source


def setting(family="qwen2", dtype=torch.float64, **given):
    subject = tiny.subject(family, dtype=dtype)
    return subject, *prompts(subject, **given)


def unshared(subject):
    """A model of the same numbers in which each head has its own copy of the keys and values that it shares here."""
    model, each = subject.model, subject.heads // subject.kv_heads
    shape = tiny.SHAPE | {"num_key_value_heads": subject.heads}
    other = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape)).double()
    weights = model.state_dict()
    for name, weight in weights.items():
        if ".k_proj." in name or ".v_proj." in name:
            heads = weight.unflatten(0, (subject.kv_heads, subject.head_size))
            weights[name] = heads.repeat_interleave(each, dim=0).flatten(0, 1)
    for parent, own in zip(list(other.modules()), list(model.modules()), strict=True):
        for name, child in own.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, torch.nn.RMSNorm(child.weight.shape[0], eps=child.eps, dtype=torch.float64))
    other.load_state_dict(weights)
    return other


def by_plain_hooks(model, base, source, asked):
    """(senders, receivers, n): each edge as an input of one head that plain hooks compute and put in place."""
    batches = [by_hooks.Batch(p.input_ids, p.last, p.answer_ids.clamp(min=0)) for p in (base, source)]
    was, given = (by_hooks.record(model, batch) for batch in batches)
    here, there = base.position(asked["position"]), source.position(asked["position"])
    through, found = asked["composition"], torch.full((len(SENDERS), len(RECEIVERS), len(base)), torch.nan).double()
    for row, sender in enumerate(SENDERS):
        for column, receiver in enumerate(RECEIVERS):
            if receiver.layer > sender.layer:
                pair = (sender.layer, sender.head), receiver.layer
                inputs = by_hooks.direct_inputs(model, was, given, *pair, here, there, through)
                to = [(receiver.layer, receiver.head)]
                after = by_hooks.received(model, was, here, to, through, {receiver.layer: inputs})
                found[row, column] = after - was.logprob
    return found


def swept(subject, base, source, method="replay", **asked):
    return edges.sweep(subject, base, source, **{"senders": SENDERS, "receivers": RECEIVERS} | asked, method=method)


@pytest.mark.parametrize("lengths", ["equal", "unequal"])
@pytest.mark.parametrize("kind", EVERYWHERE)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_edge_is_what_plain_hooks_make_of_it_also_where_heads_share_keys_and_values(family, kind, lengths):
    subject, base, source = setting(family, lengths=lengths)
    model = unshared(subject) if subject.kv_heads < subject.heads else subject.model
    plain = by_plain_hooks(model, base, source, KINDS[kind])
    for method in ("replay", "definition"):
        change = swept(subject, base, source, method, **KINDS[kind]).change
        assert torch.equal(change.isnan(), plain.isnan()), method
        assert (change - plain).abs().nan_to_num().max() < 1e-9, method
    assert plain.abs().nan_to_num().amax(-1).max() > 1e-4, "the comparison would be empty"


def differences(name):
    """Between both methods in a family: of what receivers hear, of the answers; and the least that is heard anew."""
    subject = families.subject(name)
    base, source = prompts(subject, lengths="unequal")
    heard, answers, size = 0.0, 0.0, 1.0
    with families.exact(subject):
        base, source = (runs.record(subject, one) for one in (base, source))
        for composition, reach in (("q", "all"), ("k", "query"), ("v", "all")):
            asked = (base, source, 1, (3, 4), (2, 3), "prev", composition)
            fast, literal = module._received(*asked), module._received_in_passes(*asked)
            for layer in (2, 3):
                was = replay.recorded(base, Read(composition, layer, base.prompts.prev))
                heard = max(heard, float((fast[layer] - literal[layer]).abs().max()))
                size = min(size, float((literal[layer] - was).abs().amax((0, 1, 3)).min()))
            asked = (base, source, 1, (3,), {2: (1, 6)}, "prev", composition, reach)
            fast, literal = (module.patched(*asked, method) for method in METHODS)
            answers = max(answers, float((fast - literal).abs().max()))
    return heard, answers, size


@pytest.mark.parametrize("name", [*families.FAMILIES, *families.VARIANTS])
def test_an_edge_by_replay_is_that_of_whole_passes_in_every_family(name):
    heard, answers, size = differences(name)
    assert max(heard, answers) < 1e-9
    assert size > 1e-3, "every head hears something: the comparison would be empty"


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_has_one_number_whoever_else_is_asked_for_and_none_without_a_path(kind):
    subject, base, source = setting()
    whole = edges.sweep(subject, base, source, **KINDS[kind])
    assert whole.senders == whole.receivers and len(whole.senders) == 32
    some = swept(subject, base, source, **KINDS[kind])
    for row, sender in enumerate(SENDERS):
        for column, receiver in enumerate(RECEIVERS):
            at = whole.senders.index(sender), whole.receivers.index(receiver)
            assert torch.allclose(whole.change[at], some.change[row, column], atol=1e-12, equal_nan=True)
            assert some.change[row, column].isnan().all() == (receiver.layer <= sender.layer)
    assert whole.change.isnan().all(-1).sum() == 8 * 8 * (4 + 3 + 2 + 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_is_the_base_changes_exactly_nothing(kind, method):
    subject, base, _ = setting(dtype=torch.float32)
    change = swept(subject, base, base, method, **KINDS[kind]).change
    assert (change[~change.isnan()] == 0).all() and (~change.isnan()).any()


def test_an_edge_is_less_than_the_path_where_mlps_speak_and_the_same_where_they_are_silent():
    subject, base, source = setting()
    asked = {"position": "last", "composition": "q", "senders": [Head(1, 3)], "receivers": [Head(2, 1)]}
    for silent in (False, True):
        if silent:
            for layer in subject.model.model.layers:
                layer.mlp.down_proj.weight.data.zero_()
            subject = wrap(subject.model, tiny.tokenizer(), name="silent")
        edge = edges.sweep(subject, base, source, **asked).change[0, 0]
        path = path_patching.sweep(subject, base, source, **asked).change[1, 3]
        assert ((edge - path).abs().max() < 1e-9) == silent


def test_the_edges_of_the_toy_are_its_relay_and_nothing_else():
    """Each stage of the relay moves 2 logits to the other word, as in path patching: its MLPs add nothing."""
    subject, base, source = toy.subject(), toy.prompts("apple", "cup"), toy.prompts("cup", "apple")
    moved = math.log((math.e / (math.e + math.e**2 + 3)) / (math.e**3 / (math.e**3 + 4)))
    for position, pair in (("query", ("L1H0", "L2H0")), ("prev", ("L0H0", "L1H0"))):
        table = edges.sweep(subject, base, source, position=position, composition="v").table()
        assert tuple(table.loc[0, ["sender", "receiver"]]) == pair
        assert table["change"][0] == pytest.approx(moved)
        assert table["change"][1:].abs().max() < 1e-12
        assert len(table) == 4 * (2 + 1)


@pytest.mark.parametrize("metric", ["log_probability", "choice"])
def test_the_metric_that_is_asked_for_is_the_one_that_is_read(metric):
    subject, base, source = setting()
    asked = {**KINDS["queries at last"], "metric": metric}
    fast, literal = (swept(subject, base, source, method, **asked) for method in METHODS)
    assert (fast.change - literal.change).abs().nan_to_num().max() < 1e-9
    path = path_patching.sweep(subject, base, source, position="last", metric=metric, senders=SENDERS)
    assert torch.allclose(fast.scores.logprob, path.logprob, atol=1e-12)
    assert torch.equal(fast.scores.correct, path.correct)


def test_a_sweep_in_chunks_that_was_interrupted_ends_with_the_same_numbers(tmp_path, monkeypatch):
    subject, base, source = setting(dtype=torch.float32)
    own = runs.record(subject, base), runs.record(subject, source)
    whole = swept(subject, base, source, position="last", composition="q", recordings=own)
    for cutting in (recorded, swept_by_layers):
        monkeypatch.setattr(cutting, "CHUNK", 2)
    calls, real = [], module.patched

    def dies_at_the_third_call(*given, **asked):
        calls.append(given[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given, **asked)

    monkeypatch.setattr(module, "patched", dies_at_the_third_call)
    with pytest.raises(KeyboardInterrupt):
        swept(subject, base, source, position="last", composition="q", store=Store(tmp_path))
    resumed = swept(subject, base, source, position="last", composition="q", store=Store(tmp_path))
    assert calls == [0, 1, 2, 2, 0, 1, 2], "finished layers are not run again"
    assert torch.allclose(resumed.change, whole.change, atol=1e-5, equal_nan=True)


def hooks_of(model):
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.modules())


def test_the_passes_of_the_definition_leave_no_hook_behind_also_where_one_fails(monkeypatch):
    subject, base, source = setting()
    asked = (runs.record(subject, base), runs.record(subject, source), 0, (0,), (1,), "last", "q")
    before = hooks_of(subject.model)
    module._received_in_passes(*asked)
    assert hooks_of(subject.model) == before
    monkeypatch.setattr(module, "taken_apart", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module._received_in_passes(*asked)
    assert hooks_of(subject.model) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"position": "query", "composition": "z"}, "no composition called 'z'"),
        ({"position": "query", "composition": None}, "composition"),
        ({"position": "query", "composition": "q", "reach": "last"}, "keys and values"),
        ({"position": "query", "composition": "v", "reach": "prev"}, "comes before it"),
        ({"position": "nowhere", "composition": "v"}, "no place called 'nowhere'"),
        ({"position": "last", "composition": "q", "receivers": ["L9H0"]}, "L9H0"),
        ({"position": "last", "composition": "q", "senders": ["L0H9"]}, "L0H9 as a sender"),
        ({"position": "last", "composition": "q", "senders": []}, "senders is empty"),
        ({"position": "last", "composition": "q", "receivers": []}, "receivers is empty"),
        ({"position": "last", "composition": "q", "method": "guess"}, "no method called 'guess'"),
        ({"position": "last", "composition": "q", "metric": "guess"}, "no metric called 'guess'"),
        ({"position": "last", "composition": "q", "recordings": ()}, "given together"),
    ],
)
def test_bad_requests_fail_before_any_model_runs(given, message, monkeypatch):
    subject, base, source = setting()
    monkeypatch.setattr(runs, "record", lambda *_, **__: pytest.fail("a model was run"))
    with pytest.raises(ValueError, match=message):
        edges.sweep(subject, base, source, **given)


def test_recordings_of_other_prompts_are_refused():
    subject, base, source = setting()
    own = runs.record(subject, base), runs.record(subject, source)
    with pytest.raises(ValueError, match="other prompts"):
        edges.sweep(subject, base, source, position="last", composition="q", recordings=own[::-1])

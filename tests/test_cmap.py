"""Claims about cross-model patching: what it replaces, what follows from that by itself, and when a share is given."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from entity_circuits import runs, statistics
from entity_circuits.heads import GROUPS, Circuit, Head
from entity_circuits.methods import cmap
from entity_circuits.methods.cmap import Condition, Patched, recovered
from entity_circuits.models.subject import wrap
from entity_circuits.results import Store
from entity_circuits.runs import replay
from entity_circuits.tasks import boxes

LONG = boxes.Template(statement="the {object} is in the Box {label}")
CIRCUIT = Circuit(
    {
        "value_fetcher": (Head(3, 1), Head(2, 0), Head(3, 6)),
        "position_transmitter": (Head(2, 5), Head(2, 0)),
        "position_detector": (Head(1, 2), Head(2, 3), Head(1, 7)),
        "structure_reader": (Head(0, 4), Head(1, 2)),
    }
)


def changed(subject, parts=("weight", "bias"), layers=None, seed=5):
    """The model after fine-tuning of a sort: noise on the parameters with such names, in these layers."""
    model, draw = copy.deepcopy(subject.model), torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        inside = layers is None or any(f"layers.{layer}." in name for layer in layers)
        if inside and any(part in name for part in parts):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
    return wrap(model, tiny.tokenizer(), name="tuned")


def setting(family="qwen2", lengths="equal", n=6, **given):
    base = tiny.subject(family, dtype=torch.float64)
    prompts = boxes.prompts(base, n, boxes=3)
    if lengths == "unequal":
        templates = [LONG if row % 2 else boxes.Template() for row in range(n)]
        prompts = boxes.from_worlds(base, prompts.worlds, prompts.queries, template=templates)
    return base, changed(base, **given), prompts


def every_kind(subject):
    """Conditions of each kind: sites, origins, directions, places and groups, alone and together."""
    everything = {"everywhere": [Head(i, j) for i in range(subject.layers) for j in range(subject.heads)]}
    full, *parts = cmap.groups(CIRCUIT, combined=())
    all_inputs = [
        ("qkv", "run", "base"),
        ("k", "weights", "base"),
        ("qv", "inputs", "base"),
        ("qkv", "inputs", "tuned"),
    ]
    one_group = [("q", "weights"), ("v", "inputs"), ("k", "run"), ("kv", "weights")]
    return [
        full,
        *parts,
        replace(full, into="tuned"),
        *[replace(full, sites=tuple(sites), origin=origin, into=into) for sites, origin, into in all_inputs],
        *[replace(a, sites=tuple(sites), origin=x) for a, (sites, x) in zip(parts, one_group, strict=True)],
        *cmap.random_heads(subject, full, draws=1),
        cmap.scan(subject, "query", reach="band", width=2)[1],
        cmap.scan(subject, "last", reach="from", site="kv")[2],
        Condition("everything", everything),
        Condition("some, everywhere", {"everywhere": [Head(1, 2)], "last": [Head(2, 2)]}),
    ]


# Replay and definition


@pytest.mark.parametrize(
    ("family", "lengths"), [("llama", "equal"), ("qwen2", "unequal"), ("qwen3", "unequal"), ("mistral", "equal")]
)
def test_replay_equals_the_definition_for_every_kind_of_condition(family, lengths):
    base, tuned, prompts = setting(family, lengths)
    kinds = every_kind(base)
    fast, literal = (cmap.sweep(base, tuned, kinds, prompts, method=method) for method in ("replay", "definition"))
    worst = (fast.logprob - literal.logprob).abs().amax(1)
    assert worst.max() < 1e-9, kinds[int(worst.argmax())]
    assert torch.equal(fast.correct, literal.correct)
    for name in ("base_logprob", "tuned_logprob"):
        assert torch.allclose(getattr(fast, name), getattr(literal, name), atol=1e-10)
    own = torch.stack([fast.base_logprob if one.into == "base" else fast.tuned_logprob for one in kinds])
    moved = (fast.logprob - own).abs().amax(1)
    assert moved.min() > 1e-7, f"{kinds[int(moved.argmin())]}: a condition that changes nothing compares nothing"


@pytest.mark.parametrize("memory", [1e9, 1.0])
def test_batches_order_and_memory_change_nothing(memory):
    base, tuned, prompts = setting()
    kinds = every_kind(base)
    whole = cmap.sweep(base, tuned, kinds, prompts)
    parts = cmap.sweep(base, tuned, kinds[::-1], prompts, batch=4, memory=memory)
    assert torch.allclose(parts.logprob.flip(0), whole.logprob, atol=1e-11)
    turned = cmap.sweep(base, tuned, kinds, prompts.select(torch.arange(6).flip(0)), memory=memory)
    assert torch.allclose(turned.logprob.flip(1), whole.logprob, atol=1e-11)
    assert torch.equal(turned.contexts, whole.contexts.flip(0))


# What must follow


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_twins_change_nothing(family):
    base = tiny.subject(family, dtype=torch.float64)
    twin, prompts = tiny.subject(family, dtype=torch.float64), boxes.prompts(base, 6, boxes=3)
    kinds = every_kind(base)
    for method, apart in (("replay", 1e-9), ("definition", 0.0)):
        found = cmap.sweep(base, twin, kinds, prompts, method=method)
        assert (found.logprob - found.base_logprob).abs().max() <= apart, method
        assert torch.equal(found.correct, found.base_correct.expand(len(kinds), -1))


@pytest.mark.parametrize(
    ("family", "method"), [*((family, "replay") for family in tiny.FAMILIES), ("qwen2", "definition")]
)
def test_all_outputs_everywhere_give_the_logits_of_a_model_tuned_in_its_attention_inputs_alone(family, method):
    base, tuned, prompts = setting(family, "unequal", parts=("q_proj", "k_proj", "v_proj"))
    (everything,) = (one for one in every_kind(base) if one.name == "everything")
    one, other = runs.record(base, prompts), runs.record(tuned, prompts)
    words = torch.arange(base.model.config.vocab_size).expand(len(prompts), -1)
    execute = replay.executor(method)
    patched = execute(one, [cmap.edits_of(everything, one, other)], targets=words).logits
    own, plain = (execute(recording, [[]], targets=words).logits for recording in (other, one))
    assert torch.allclose(patched, own, atol=1e-9)
    assert (plain - own).abs().max() > 1e-2


def test_all_outputs_of_a_model_tuned_in_its_mlps_are_not_all_that_changed():
    base, tuned, prompts = setting(parts=("up_proj",))
    (everything,) = (one for one in every_kind(base) if one.name == "everything")
    found = cmap.sweep(base, tuned, [everything], prompts)
    assert (found.logprob[0] - found.tuned_logprob).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_all_three_inputs_of_a_head_are_its_output(family):
    base, tuned, prompts = setting(family, "unequal")
    outputs = cmap.groups(CIRCUIT)
    inputs = [replace(one, sites=("q", "k", "v")) for one in outputs]
    found = cmap.sweep(base, tuned, [*outputs, *inputs], prompts)
    assert torch.allclose(*found.logprob.split(len(outputs)), atol=1e-9)
    assert (found.logprob - found.base_logprob).abs().amax(1).min() > 1e-6


@pytest.mark.parametrize(
    ("family", "method"), [*((family, "replay") for family in tiny.FAMILIES), ("qwen2", "definition")]
)
def test_where_only_weights_of_a_layer_differ_they_are_all_and_what_arrives_is_nothing(family, method):
    parts = ("input_layernorm", "q_proj", "k_proj", "v_proj")
    base, tuned, prompts = setting(family, parts=parts, layers=(2,))
    place = {"last": [Head(2, 1), Head(2, 6)], "query": [Head(2, 3)], "prev": [Head(2, 4)]}
    for sites in ("q", "k", "v", "qkv"):
        kinds = [Condition(sites, place, tuple(sites), origin) for origin in ("run", "weights", "inputs")]
        run, weights, inputs = cmap.sweep(base, tuned, kinds, prompts, method=method).logprob
        plain = runs.run(base, prompts).logprob[0]
        assert torch.allclose(weights, run, atol=1e-9)
        assert torch.allclose(inputs, plain, atol=1e-9)
        assert (run - plain).abs().max() > 1e-6


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_where_only_what_arrives_differs_it_is_all_and_weights_are_nothing(family):
    base, tuned, prompts = setting(family, parts=("up_proj", "o_proj"), layers=(1,))
    place = {"last": [Head(2, 1), Head(3, 6)], "query": [Head(2, 3)]}
    kinds = [Condition("inputs", place, ("q", "k", "v"), origin) for origin in ("run", "inputs", "weights")]
    found = cmap.sweep(base, tuned, kinds, prompts)
    assert torch.allclose(found.logprob[0], found.logprob[1], atol=1e-9)
    assert (found.logprob[0] - found.base_logprob).abs().max() > 1e-6
    single = cmap.sweep(base, tuned, [replace(kinds[2], heads={"last": [Head(2, 1)]})], prompts)
    assert torch.allclose(single.logprob[0], single.base_logprob, atol=1e-9)


def test_keys_and_values_reach_the_outputs_of_their_group_alone():
    base, tuned, prompts = setting()
    one, other = runs.record(base, prompts), runs.record(tuned, prompts)
    condition = Condition("C", {"query": [Head(1, 2)]}, ("k", "v"))
    read = [runs.Read("z", 1, place) for place in (prompts.prev, prompts.query, prompts.last)]
    found = replay.replay(one, [cmap.edits_of(condition, one, other), []], read=read).reads
    for place, (patched, plain) in zip(("prev", "query", "last"), found, strict=True):
        moved = (patched - plain).abs().amax(dim=(0, 2)) > 1e-9
        assert moved.tolist() == [place == "query" and head == 2 for head in range(base.heads)]


def test_both_directions_are_one_another_with_the_models_exchanged():
    base, tuned, prompts = setting()
    there = cmap.sweep(base, tuned, cmap.inputs(CIRCUIT, into="tuned"), prompts)
    back = cmap.sweep(tuned, base, cmap.inputs(CIRCUIT, into="base"), prompts)
    assert torch.equal(there.logprob, back.logprob)
    assert torch.equal(there.base_logprob, back.tuned_logprob)


def test_patch_is_one_condition_of_a_sweep():
    base, tuned, prompts = setting()
    kinds = [cmap.groups(CIRCUIT)[0], cmap.inputs(CIRCUIT, sites=("qk",), origins=("inputs",))[0]]
    swept = cmap.sweep(base, tuned, kinds, prompts).logprob
    whole = cmap.patch(base, tuned, CIRCUIT, prompts)
    some = cmap.patch(base, tuned, {"last": CIRCUIT.groups["value_fetcher"]}, prompts, site="qk", origin="inputs")
    assert torch.allclose(torch.cat((whole.logprob, some.logprob)), swept, atol=1e-12)


# Conditions


def test_conditions_share_no_list():
    heads = {"last": [Head(3, 1)]}
    one = Condition("A", heads)
    heads["last"].append(Head(2, 5))
    heads["query"] = [Head(1, 1)]
    assert one.heads == {"last": (Head(3, 1),)}
    full, a, *_ = cmap.groups(CIRCUIT, combined=("AB",))
    assert a.heads["last"] == tuple(sorted(CIRCUIT.groups["value_fetcher"])), "not extended by those of B"
    assert set(full.heads["last"]) > set(a.heads["last"])


def test_groups_stand_at_their_places_and_a_head_of_two_groups_once_at_each():
    found = {condition.name: condition for condition in cmap.groups(CIRCUIT)}
    assert list(found) == ["circuit", "A", "B", "C", "D", "A + B", "B + C + D"]
    assert found["A + B"].heads == {"last": (Head(2, 0), Head(2, 5), Head(3, 1), Head(3, 6))}
    assert set(found["circuit"].heads) == {"last", "query", "prev"} and found["circuit"].size == 9
    assert found["D"].heads == {"prev": (Head(0, 4), Head(1, 2))} and found["D"].layers == (0, 1)
    small = Circuit({"value_fetcher": (Head(3, 1),), "structure_reader": ()})
    assert [condition.name for condition in cmap.groups(small)] == ["circuit"]
    assert {condition.name for condition in cmap.inputs(small)} == {"A"}


def test_random_heads_have_the_number_layers_and_places_of_the_condition_and_none_of_its_heads():
    subject = tiny.subject()
    (full, *_), (kv, *_) = cmap.groups(CIRCUIT), cmap.inputs(CIRCUIT, sites=("kv",))
    for condition in (full, kv):
        drawn = cmap.random_heads(subject, condition, draws=8)
        assert [one.draw for one in drawn] == list(range(8))
        assert len({str(one.heads) for one in drawn}) > 4
        for one in drawn:
            assert (one.sites, one.origin, one.into, one.name) == (
                condition.sites,
                condition.origin,
                condition.into,
                condition.name,
            )
            for place, some in condition.heads.items():
                assert sorted(h.layer for h in one.heads[place]) == sorted(h.layer for h in some)
                assert not set(one.heads[place]) & set(some)
    assert drawn == cmap.random_heads(subject, condition, draws=8)
    assert drawn != cmap.random_heads(subject, condition, draws=8, seed=1)
    most = Condition("most", {"last": [Head(1, head) for head in range(6)]})
    (one,) = cmap.random_heads(subject, most, draws=1)
    assert one.size == 6 and {Head(1, 6), Head(1, 7)} <= set(one.heads["last"])


@pytest.mark.parametrize(
    ("reach", "ends"),
    [("band", [(0, 1), (2, 3)]), ("up to", [(0, 1), (0, 3)]), ("from", [(0, 3), (2, 3)])],
)
def test_a_scan_takes_all_heads_of_its_layers(reach, ends):
    subject = tiny.subject()
    found = cmap.scan(subject, "query", reach=reach, width=2)
    assert [condition.layers for condition in found] == ends
    for condition in found:
        low, high = condition.layers
        assert condition.size == (high - low + 1) * subject.heads and set(condition.heads) == {"query"}
    assert cmap.scan(subject, "last", width=3)[-1].layers == (0, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heads": {"last": []}}, "no heads"),
        ({"sites": ("z", "q")}, "sites are"),
        ({"sites": ()}, "sites are"),
        ({"sites": ("o",)}, "no site of A called 'o'"),
        ({"origin": "weights"}, "no matrix of its own"),
        ({"origin": "elsewhere", "sites": ("q",)}, "no origin of A called 'elsewhere'"),
        ({"into": "both"}, "called 'both': one of 'base', 'tuned'"),
        ({"heads": {"everywhere": [Head(1, 1)]}, "sites": ("v",)}, "everywhere is for outputs"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Condition(**{"name": "A", "heads": {"last": [Head(1, 1)]}, **given})


# Requests


def test_models_that_are_no_twins_are_refused_with_what_differs():
    base = tiny.subject("qwen2")
    with pytest.raises(ValueError, match=r"no twins: they differ in kv_heads \(2 and 8\)$"):
        cmap.require_twins(base, tiny.subject("llama"))
    with pytest.raises(ValueError, match=r"layers \(4 and 3\)$"):
        cmap.require_twins(base, tiny.subject("qwen2", layers=3))
    with pytest.raises(ValueError, match=r"head_size \(8 and 16\)$"):
        cmap.require_twins(base, tiny.subject("mistral"))
    with pytest.raises(ValueError, match="dtype"):
        cmap.require_twins(base, tiny.subject("qwen2", dtype=torch.float64))
    first, second, *_ = boxes.vocabulary.objects()
    other = tiny.tokenizer()
    other.backend_tokenizer.model = type(other.backend_tokenizer.model)(
        exchanged(other.get_vocab(), f"\u0120{first}", f"\u0120{second}"), unk_token="<unk>"
    )
    with pytest.raises(ValueError, match=rf"tokenizer \('{first}' is \d+ and \d+\)$"):
        cmap.require_twins(base, replace(base, tokenizer=other))
    other = tiny.tokenizer()
    other.backend_tokenizer.model = type(other.backend_tokenizer.model)(
        exchanged(other.get_vocab(), "\u0120in", "\u0120dog"), unk_token="<unk>"
    )
    with pytest.raises(ValueError, match=r"tokenizer \('(in|dog)' is \d+ and \d+\)$"):
        cmap.require_twins(base, replace(base, tokenizer=other))
    cmap.require_twins(base, changed(base))


def exchanged(words, one, other):
    return {**words, one: words[other], other: words[one]}


def test_impossible_requests_are_refused_before_a_model_runs(monkeypatch):
    base, tuned, prompts = setting()
    monkeypatch.setattr(cmap.runs, "record", lambda *_, **__: pytest.fail("a model ran"))
    a, *_ = cmap.inputs(CIRCUIT)
    asked = {
        "no twins": (base, tiny.subject("llama", dtype=torch.float64), [a], prompts, {}),
        "L4H1 of A": (base, tuned, [Condition("A", {"last": [Head(4, 1)]})], prompts, {}),
        "both called 'A'": (base, tuned, [a, a], prompts, {}),
        "no right answer": (base, tuned, [a], boxes.noise(base, prompts), {}),
        "no conditions": (base, tuned, [], prompts, {}),
        "batch=0": (base, tuned, [a], prompts, {"batch": 0}),
        "no method called 'guess'": (base, tuned, [a], prompts, {"method": "guess"}),
    }
    for message, (one, other, kinds, questions, options) in asked.items():
        with pytest.raises(ValueError, match=message):
            cmap.sweep(one, other, kinds, questions, **options)
    base.model.__class__ = type("Derived", (type(base.model),), {"__module__": __name__})
    with pytest.raises(NotImplementedError, match="does not know models of the type"):
        cmap.sweep(base, tuned, [a], prompts)


def test_finished_batches_are_not_run_again(tmp_path, monkeypatch):
    base, tuned, prompts = setting()
    kinds, store, record, calls = cmap.groups(CIRCUIT), Store(tmp_path), runs.record, []

    def counted(subject, part, **options):
        calls.append(subject.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return record(subject, part, **options)

    monkeypatch.setattr(cmap.runs, "record", counted)
    with pytest.raises(KeyboardInterrupt):
        cmap.sweep(base, tuned, kinds, prompts, batch=3, store=store)
    found = cmap.sweep(base, tuned, kinds, prompts, batch=3, store=store)
    assert len(calls) == 3 + 2, "only the second batch was still to do"
    again = cmap.sweep(base, tuned, kinds, prompts, batch=3, store=store)
    assert len(calls) == 5
    assert torch.equal(found.logprob, again.logprob) and torch.equal(found.correct, again.correct)
    cmap.sweep(base, tuned, kinds[:2], prompts, batch=3, store=store)
    cmap.sweep(base, changed(base, seed=6), kinds, prompts, batch=3, store=store)
    assert len(calls) == 5 + 4 + 4, "other conditions and other models are other results"


# Shares and tables


def answers(base, tuned, *conditions, contexts=20):
    """Answers by decree, tenths of ten prompts right in every context; a condition is (into, tenths)."""

    def right(tenths):
        return torch.tensor([k < tenths for k in range(10)]).repeat(contexts)

    kinds = tuple(Condition(f"c{i}", {"last": [Head(i, 0)]}, into=into) for i, (into, _) in enumerate(conditions))
    correct = torch.stack([right(tenths) for _, tenths in conditions])
    nothing = torch.zeros(10 * contexts)
    where = torch.arange(contexts).repeat_interleave(10)
    return Patched(kinds, correct, correct.double(), right(base), nothing, right(tuned), nothing, where)


def test_the_table_has_accuracy_change_and_share_of_every_condition():
    found = answers(4, 8, ("base", 7), ("base", 3), ("tuned", 5), ("tuned", 8))
    table = found.table()
    assert table["accuracy"].tolist() == pytest.approx([0.7, 0.3, 0.5, 0.8])
    assert table["change"].tolist() == pytest.approx([0.3, -0.1, -0.3, 0])
    assert table["share"].tolist() == pytest.approx([0.75, -0.25, 0.75, 0]), "recovered in base, lost in tuned"
    assert set(table["base"]) == {0.4} and set(table["tuned"]) == {0.8}
    assert set(table["n"]) == {200} and set(table["contexts"]) == {20}
    assert (table["no_share"] == "").all() and table["draw"].isna().all()
    assert table["heads"].tolist() == [1] * 4 and table["final"].tolist() == [0, 1, 2, 3]
    assert [str(found.share(index)) for index in (0, 2)] == ["0.75 [0.75, 0.75], n = 200"] * 2
    assert str(found.unmodified("tuned")) == str(statistics.estimate(found.tuned_correct, found.contexts))


def test_the_interval_of_a_share_is_about_that_of_a_paired_bootstrap_over_contexts():
    draw = np.random.default_rng(0)
    contexts = np.repeat(np.arange(40), 5)
    luck = draw.normal(size=40)[contexts]
    base, patched, tuned = (luck + draw.normal(size=200) > level for level in (0.5, 0.0, -0.8))
    found = recovered(patched, base, tuned, contexts)
    picked, ratios = np.random.default_rng(3).integers(40, size=(2000, 40)), []
    for row in picked:
        rows = np.concatenate([np.flatnonzero(contexts == cluster) for cluster in row])
        low, middle, high = (values[rows].mean() for values in (base, patched, tuned))
        ratios.append((middle - low) / (high - low))
    assert found.value == pytest.approx((patched.mean() - base.mean()) / (tuned.mean() - base.mean()))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])), abs=0.04)
    assert (found.n, found.contexts) == (200, 40)
    exact = recovered(tuned, base, tuned, contexts)
    assert (exact.low, exact.value, exact.high) == (1, 1, 1), "the same prompts are in all three, so nothing varies"


def test_no_share_is_given_of_a_gap_that_may_be_nothing():
    draw = torch.Generator().manual_seed(0)
    base, tuned = torch.rand(2, 60, generator=draw) > 0.5
    contexts = torch.arange(60)
    with pytest.raises(ValueError, match=r"no share can be given: the gap .* is -?0\.\d\d \[-0.*contains 0"):
        recovered(base, base, tuned, contexts)
    with pytest.raises(ValueError, match="one context"):
        recovered(base, base, torch.ones(60), torch.zeros(60))
    with pytest.raises(ValueError, match="the same prompts three times"):
        recovered(base[:-1], torch.zeros(60), torch.ones(60), contexts)
    kinds = tuple(Condition(name, {"last": [Head(0, 0)]}) for name in "ab")
    logprob = torch.zeros(2, 60)
    found = Patched(kinds, torch.stack((base, tuned)), logprob, base, logprob[0], tuned, logprob[0], contexts)
    table = found.table()
    assert table[["share", "share_low", "share_high"]].isna().all(axis=None)
    assert table["no_share"].str.contains("contains 0").all()
    assert table["accuracy"].notna().all()
    worse = recovered(torch.zeros(60), torch.ones(60), torch.zeros(60))
    assert (worse.value, worse.low) == (1, 1), "a tuned model that is surely worse leaves a gap, too"


def test_every_group_has_a_letter_in_the_lists_of_conditions():
    assert len({condition.name for condition in cmap.inputs(CIRCUIT, sites=("q",), origins=("run",))}) == len(GROUPS)

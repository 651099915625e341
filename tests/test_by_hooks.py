"""Claims: path patching with plain hooks, as the official code does it, gives the numbers of definition and replay."""

import by_hooks
import pytest
import tiny
import torch
from entity_circuits import boxes, runs
from entity_circuits.heads import Head
from entity_circuits.methods import path_patching
from entity_circuits.runs import replay
from entity_circuits.runs.edits import Edit

SENDERS = [Head(0, 0), Head(0, 5), Head(1, 3), Head(2, 7)]
ROUNDS = {
    "answer": ("qwen2", "last", [], None),
    "queries, keys and values shared": ("qwen2", "last", [Head(2, 1), Head(3, 0), Head(3, 6)], "q"),
    "queries": ("llama", "last", [Head(2, 1), Head(3, 0)], "q"),
    "keys at query": ("llama", "query", [Head(3, 3), Head(3, 5)], "k"),
    "values at prev": ("llama", "prev", [Head(3, 2), Head(3, 4)], "v"),
}


def by_both(family="qwen2", lengths="equal"):
    """A tiny model in float64, with base and source prompts for the engine, and as runs with plain hooks."""
    subject = tiny.subject(family, dtype=torch.float64)
    base = boxes.prompts(subject, 6, boxes=3)
    source = boxes.noise(subject, base)
    if lengths == "unequal":
        long = boxes.Template(statement="the {object} is in the Box {label}")
        templates = [long if row % 2 else boxes.Template() for row in range(6)]
        base = boxes.from_worlds(subject, base.worlds, base.queries, template=templates)
    hooked = [
        by_hooks.record(subject.model, by_hooks.Batch(p.input_ids, p.last, p.answer_ids.clamp(min=0)))
        for p in (base, source)
    ]
    return subject, base, source, hooked


@pytest.mark.parametrize("lengths", ["equal", "unequal"])
@pytest.mark.parametrize("kind", ROUNDS)
def test_two_passes_with_plain_hooks_give_the_numbers_of_definition_and_replay(kind, lengths):
    family, position, receivers, through = ROUNDS[kind]
    subject, base, source, hooked = by_both(family, lengths)
    here, there = base.position(position), source.position(position)
    pairs = [(head.layer, head.head) for head in receivers]
    plain = torch.stack(
        [
            by_hooks.change(subject.model, *hooked, (h.layer, h.head), here, there, pairs, through or "q")
            for h in SENDERS
        ]
    )
    for method in ("definition", "replay"):
        asked = {"receivers": receivers, "composition": through} if receivers else {}
        scores = path_patching.sweep(subject, base, source, position=position, senders=SENDERS, method=method, **asked)
        ours = torch.stack([scores.change[head.layer, head.head] for head in SENDERS])
        assert (plain - ours).abs().max() < 1e-9, method
    assert plain.abs().max() > 1e-4, "the comparison would be empty"


def test_a_direct_edge_with_plain_hooks_is_an_edit_of_one_head_s_queries():
    subject, base, source, hooked = by_both()
    here, there, sender = base.last, source.last, (1, 3)
    queries = by_hooks.direct_inputs(subject.model, *hooked, sender, 2, here, there)
    by_head = queries.unflatten(-1, (subject.heads, subject.head_size))
    edits = [[Edit("q", 2, (head,), here, by_head[:, [head]])] for head in range(subject.heads)]
    recording = runs.record(subject, base)
    plain = torch.stack(
        [by_hooks.received(subject.model, hooked[0], here, [(2, h)], "q", {2: queries}) for h in range(subject.heads)]
    )
    for execute in (runs.rerun, replay.replay):
        assert (execute(recording, edits).logprob - plain).abs().max() < 1e-9
    assert (plain - hooked[0].logprob).abs().max() > 1e-4
    path = by_hooks.change(subject.model, *hooked, sender, here, there, [(2, 1)])
    assert (path - (plain[1] - hooked[0].logprob)).abs().max() > 1e-4  # the path goes through an MLP as well


def test_plain_hooks_refuse_one_head_s_part_of_shared_keys_and_values():
    subject, base, source, hooked = by_both()
    with pytest.raises(ValueError, match="shared"):
        by_hooks.change(subject.model, *hooked, (0, 0), base.last, source.last, [(2, 0)], "v")


def test_plain_hooks_leave_no_hook_behind():
    subject, base, source, hooked = by_both()
    by_hooks.change(subject.model, *hooked, (0, 0), base.last, source.last, [(2, 0)])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())

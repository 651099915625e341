"""Claim: for every family that is known, every reimplementation gives the numbers of the model itself, or refuses."""

from pathlib import Path

import families
import pytest
import torch
from entity_circuits import ablation, runs
from entity_circuits.heads import Head
from entity_circuits.methods import kept as places
from entity_circuits.models import forms
from entity_circuits.models.subject import put_back
from entity_circuits.runs import attention_inputs, replay
from entity_circuits.runs.edits import Edit, Read
from entity_circuits.tasks import boxes
from test_replay import value, variants

PLACES = ("prev", "query", "last")
PAGE = Path(__file__).parents[1] / "book" / "parts" / "families.md"
EVERY = (*families.FAMILIES, *families.VARIANTS)


def setting(name, lengths="equal"):
    subject = families.subject(name)
    base, source = boxes.prompts(subject, 6, boxes=3), boxes.prompts(subject, 6, boxes=3, seed=1)
    if lengths == "unequal":
        long = boxes.Template(statement="the {object} is in the Box {label}")
        templates = [long if row % 2 else boxes.Template() for row in range(6)]
        base = boxes.from_worlds(subject, base.worlds, base.queries, template=templates)
    return subject, base, source


def apart(literal, fast):
    """The largest difference between two outcomes, in answers and in what was read."""
    pairs = [
        (literal.logprobs, fast.logprobs),
        (literal.logits, fast.logits),
        *zip(literal.reads, fast.reads, strict=True),
    ]
    return max(float((one - other).abs().max()) for one, other in pairs)


def free(name):
    """The largest difference in a log-probability, or in what is read, over all kinds of edits, prompts padded."""
    subject, base, source = setting(name, "unequal")
    with families.exact(subject):
        base, source = runs.record(subject, base), runs.record(subject, source)
        kinds = variants(base, source)
        kinds["k heard at query"] = [
            Edit(
                "k",
                layer,
                (layer, 7),
                base.prompts.prev,
                value(source, "k", layer, "prev", (layer, 7)),
                seen_by=base.prompts.query,
            )
            for layer in (1, 2)
        ]
        read = [Read(site, 2, base.prompts.position(where)) for site in "qkvz" for where in ("prev", "last")]
        words = torch.arange(base.subject.model.config.vocab_size).expand(len(base), -1)
        literal = runs.rerun(base, list(kinds.values()), read=read, targets=words)
        fast = replay.replay(base, list(kinds.values()), read=read, targets=words)
    assert literal.logprob.std(0).max() > 1e-3  # the edits do something
    assert torch.equal(literal.top, fast.top)
    return apart(literal, fast)


def frozen(name):
    """The same where all heads are held but one, for every third head, at three positions."""
    subject, base, source = setting(name)
    worst = 0.0
    with families.exact(subject):
        base, source = runs.record(subject, base, share_context=True), runs.record(subject, source)
        for position in ("last", "query", "prev"):
            edits = [
                [
                    Edit(
                        "z",
                        layer,
                        (head,),
                        base.prompts.position(position),
                        value(source, "z", layer, position, (head,)),
                    )
                ]
                for layer in range(subject.layers)
                for head in range(0, subject.heads, 3)
            ]
            read = [Read(site, layer, base.prompts.position(position)) for site in "qkvz" for layer in (1, 3)]
            literal, fast = (execute(base, edits, frozen=True, read=read) for execute in (runs.rerun, replay.replay))
            assert all(one.std(0).max() > 1e-6 for one in literal.reads)  # what is read is not the recording's
            worst = max(worst, apart(literal, fast))
    return worst


def ablated(name):
    """The same for three circuits, all other heads at their means."""
    subject, base, source = setting(name)
    with families.exact(subject):
        means = ablation.means(subject, prompts=source)
        every = [Head(layer, head) for layer in range(subject.layers) for head in range(subject.heads)]
        circuits = [{place: tuple(every[start + i :: 3]) for i, place in enumerate(PLACES)} for start in range(2)]
        fast = places.ablate(subject, base, circuits, means).logprob
        literal = [runs.run(subject, base, places.edits(subject, base, one, means)).logprob for one in circuits]
    return float((torch.cat(literal) - fast).abs().max())


TRIED = {"every kind of edit": free, "all heads held but one": frozen, "many circuits": ablated}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("what", TRIED)
def test_what_is_recomputed_equals_the_definition(what, name):
    assert TRIED[what](name) < 1e-9


@pytest.mark.parametrize(("name", "part"), [("Olmo", "clip_qkv"), ("Gemma2", "attn_logit_softcapping")])
def test_what_sets_a_family_apart_is_at_work_where_it_is_tried(name, part):
    subject, base, _ = setting(name)
    other = families.subject(name, **{part: 1e6})
    assert (runs.run(subject, base).logprob - runs.run(other, base).logprob).abs().max() > 1e-3


@pytest.mark.parametrize("site", ["q", "k", "v"])
@pytest.mark.parametrize("heard_at", ["", "last"])
def test_a_value_beyond_what_a_model_clips_is_clipped_by_replay_as_by_the_model(site, heard_at):
    subject, base, _ = setting("Olmo")
    far = torch.full((6, 2, subject.head_size), 3.0, dtype=torch.float64)
    assert subject.model.config.clip_qkv < 3
    far[:, 1] *= -1
    edits = [
        [Edit(site, 1, (1, 6), base.query, sign * far, seen_by=base.last if heard_at and site != "q" else None)]
        for sign in (1, -1)
    ]
    with families.exact(subject):
        recording = runs.record(subject, base)
        literal, fast = (execute(recording, edits).logprob for execute in (runs.rerun, replay.replay))
    assert (literal - fast).abs().max() < 1e-9
    assert site == "q" or (literal[0] - literal[1]).abs().max() > 1e-6


def test_the_page_shows_every_family_with_its_largest_difference():
    shown = [line.split("|") for line in PAGE.read_text().splitlines() if "e-" in line]
    assert [row[1].strip() for row in shown] == list(EVERY)
    assert all(float(cell) < 1e-9 for row in shown for cell in row[2:-1])


@pytest.mark.parametrize("name", EVERY)
def test_attention_from_a_recording_is_that_of_the_model(name):
    subject, base, _ = setting(name)
    subject.model.set_attn_implementation("eager")
    put_back(subject)
    with families.exact(subject), torch.no_grad():
        recording = runs.record(subject, base)
        own = subject.model(base.input_ids, output_attentions=True).attentions
        for layer in range(subject.layers):
            mine = replay.attention(recording, Head(layer, 3), base.last)
            assert (mine - own[layer][torch.arange(6), 3, base.last]).abs().max() < 1e-9


def test_every_known_family_is_tried():
    assert {name.removesuffix("LMHeadModel") for name in forms.FORMS} == set(families.FAMILIES)


def test_windows_are_shorter_than_the_prompts_that_are_tried():
    subject, base, _ = setting("Mistral")
    assert attention_inputs.of(subject, base.input_ids.shape[1])[0].visible is not None


def test_a_mask_that_is_causal_and_no_more_is_none():
    for name, here in (("Llama", True), ("Mistral", False)):
        subject, base, _ = setting(name)
        subject.model.set_attn_implementation("eager")  # which is always given a mask
        put_back(subject)
        given = attention_inputs.of(subject, base.input_ids.shape[1])
        assert [one.visible is None for one in given] == [here] * subject.layers


def write_page():
    """Measure every family and write the page: `PYTHONPATH=tests python tests/test_families.py`."""
    rows = [f"| family of transformers | {' | '.join(TRIED)} |", "| --- |" + " --- |" * len(TRIED)]
    for name in EVERY:
        rows.append(f"| {name} | {' | '.join(f'{what(name):.0e}' for what in TRIED.values())} |")
    PAGE.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    write_page()

"""The triples: every hypothesis predicts another answer, nothing else is shared, and sources say what they should."""

import itertools
import re
from types import SimpleNamespace

import pytest
import tiny
import torch
from entity_circuits.tasks import boxes, desiderata
from entity_circuits.tasks.desiderata import ADDITIONAL, HYPOTHESES, SPLITS

TOKENIZER = tiny.tokenizer()
EVERY = HYPOTHESES + ADDITIONAL


def reader():
    """All that writing prompts needs of a subject; there is no model, so none can run."""
    return SimpleNamespace(tokenizer=TOKENIZER, device=torch.device("cpu"))


def word(token):
    return TOKENIZER.decode([int(token)]).strip()


def one(name, count=3):
    """A triple whose source asks for a box in the middle or at the end, and the text that `position` has for it."""
    triples, plain = (desiderata.triples(reader(), kind, n=2 * count, boxes=count) for kind in (name, "position"))
    row = next(i for i, box in enumerate(triples.source.queries) if box and triples.source.queries[i])
    return triples.select([row]), plain.select([row])


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("count", [3, 7])
def test_candidates_differ_and_nothing_is_shared_beyond_what_the_hypothesis_needs(name, count):
    for seed, split in zip((0, 1), (SPLITS["train"], SPLITS["test"]), strict=True):
        triples = desiderata.triples(reader(), name, n=200, boxes=count, seed=seed, split=split)
        for row, tokens in enumerate(triples.candidates.tolist()):
            known = [token for token in tokens if token >= 0]
            assert len(set(known)) == len(known) >= 3
            base, source = triples.base.worlds[row], triples.source.worlds[row]
            assert not set(base.objects) & set(source.objects)
            if name == "label":
                assert set(base.labels) == set(source.labels)
            else:
                assert not set(base.labels) & set(source.labels)
            assert triples.base.queries[row] != triples.source.queries[row]
            assert base.split == source.split == split
            assert triples.targets[row] in known and triples.targets[row] != triples.base.answer_ids[row]


@pytest.mark.parametrize("name", EVERY)
def test_each_candidate_is_the_word_its_hypothesis_predicts(name):
    triples = desiderata.triples(reader(), name, n=60, boxes=5)
    for row in range(len(triples)):
        base, source = triples.base.worlds[row], triples.source.worlds[row]
        here, there = triples.base.queries[row], triples.source.queries[row]
        expected = {"base": base.objects[here], "position": base.objects[there], "object": source.objects[there]}
        asked = source.labels[there]
        expected["label"] = base.objects[base.labels.index(asked)] if asked in base.labels else None
        if name == "incorrect_segment":
            expected["next"] = base.objects[(there + 1) % 5]
        if name in ("add_seg_start", "add_box_before_correct_segment"):
            counted = there + (1 if name == "add_seg_start" else 3)
            expected["counted"] = base.objects[counted] if counted < 5 else None
        found = [word(token) if token >= 0 else None for token in triples.candidates[row]]
        assert dict(zip(triples.names, found, strict=True)) == expected
        target = name if name in HYPOTHESES else "next" if name == "incorrect_segment" else "position"
        assert word(triples.targets[row]) == expected[target]


@pytest.mark.parametrize("name", EVERY)
def test_positions_of_rewritten_sources_are_read_off_their_own_tokens(name):
    triples = desiderata.triples(reader(), name, n=24, boxes=4)
    source = triples.source
    for row in range(len(source)):
        ids = source.input_ids[row]
        world, box = source.worlds[row], source.queries[row]
        assert word(ids[source.query[row]]) == word(ids[source.prev[row]]) == world.labels[box] == source.asked[row]
        assert source.prev[row] < source.query[row] == source.last[row] - 2
        assert word(ids[source.object[row]]) == world.objects[box]


def test_rewritten_sources_are_those_of_the_paper():
    def of(name):
        triple, plain = one(name)
        world, box = triple.source.worlds[0], triple.source.queries[0]
        assert world == plain.source.worlds[0] and triple.base.texts == plain.base.texts
        return triple.source.texts[0], plain.source.texts[0], world.objects[box], world.labels[box]

    text, plain, *_ = of("random_text_start")
    assert text == "There are a bunch of boxes containing objects, t" + plain[1:]
    text, plain, *_ = of("random_text_end")
    assert text == plain.replace(". ", ", these are a bunch of boxes containing objects. ")
    text, plain, *_ = of("no_comma")
    assert text == plain.replace(", ", " ")
    text, plain, *_ = of("add_comma")
    assert text == plain.replace(" is", ", is")
    for kind, written in (
        ("add_tokens_btw_box_and_obj", "the {} is contained in the Box {}"),
        ("altered_box_obj_association", "the {} is not in Box {}"),
        ("altered_box_obj_order", "Box {1} contains the {0}"),
    ):
        text, plain, thing, label = of(kind)
        assert text.count(written.format(thing, label)) == 1
        assert text.replace(written.format(thing, label), f"the {thing} is in Box {label}") == plain


@pytest.mark.parametrize("name", ["add_seg_start", "add_seg_end", "add_box_before_correct_segment"])
def test_inserted_words_stand_where_they_should_and_are_of_neither_context(name):
    patterns = {
        "add_seg_start": r"The (\w+) is in Box (\w), (?=the)",
        "add_seg_end": r", the (\w+) is in Box (\w)(?=\. Box \w contains the$)",
        "add_box_before_correct_segment": r"here are three additional boxes, Box (\w)\1, Box (\w)\2 and Box (\w)\3, ",
    }
    triples = desiderata.triples(reader(), name, n=30, boxes=5)
    plain = boxes.from_worlds(reader(), triples.source.worlds, triples.source.queries)
    for row, text in enumerate(triples.source.texts):
        (inserted,) = re.finditer(patterns[name], text)
        source, base = triples.source.worlds[row], triples.base.worlds[row]
        assert not set(inserted.groups()) & {*source.objects, *source.labels, *base.objects, *base.labels}
        assert len(set(inserted.groups())) == len(inserted.groups())
        begin = inserted.start() - (name == "add_box_before_correct_segment")  # "there", or "There" at the very start
        without = text[:begin] + text[inserted.end() :]
        assert without.lower() == plain.texts[row].lower()
        if name == "add_box_before_correct_segment":
            assert text[inserted.end() :].startswith(f"the {source.objects[triples.source.queries[row]]} is")


def test_additional_desiderata_share_the_pairs_of_position_where_their_answers_allow():
    plain = desiderata.triples(reader(), "position", n=70)
    for name in ADDITIONAL:
        other = desiderata.triples(reader(), name, n=70)
        assert other.base.texts == plain.base.texts
        assert other.source.worlds == plain.source.worlds
        if len(other.names) == 4:
            assert other.source.queries == plain.source.queries


def test_the_queries_of_a_context_share_a_source_context_and_ask_it_for_every_box():
    for name in HYPOTHESES:
        triples = desiderata.triples(reader(), name, n=70, boxes=7)
        for rows in torch.arange(70).split(7):
            part = triples.select(rows)
            assert len(set(part.base.worlds)) == len(set(part.source.worlds)) == 1
            assert set(part.base.queries) == set(part.source.queries) == set(range(7))


def test_queried_positions_go_round_and_sources_ask_for_every_other_one():
    triples = desiderata.triples(reader(), "position", n=700, boxes=7)
    pairs = set(zip(triples.base.queries, triples.source.queries, strict=True))
    assert pairs == set(itertools.permutations(range(7), 2))
    assert triples.base.queries == tuple(range(7)) * 100
    assert len(set(triples.base.contexts.tolist())) == 100


def test_a_seed_gives_the_same_triples_and_fewer_are_the_first_of_more():
    few, many, other = (desiderata.triples(reader(), "label", n=n, seed=seed) for n, seed in ((9, 0), (21, 0), (9, 1)))
    head = many.select(range(9))
    assert few.base.texts == head.base.texts and few.source.texts == head.source.texts
    assert torch.equal(few.candidates, head.candidates) and torch.equal(few.targets, head.targets)
    assert not set(few.base.texts) & set(other.base.texts)


def test_pools_of_the_splits_have_no_context_in_common():
    pools = []
    for split in SPLITS.values():
        triples = desiderata.triples(reader(), "label", n=200, boxes=3, split=split)
        pools.append({*triples.base.worlds, *triples.source.worlds})
    assert not any(a & b for a, b in itertools.combinations(pools, 2))


def test_another_target_for_the_same_pairs():
    position, thing = (desiderata.triples(reader(), name, n=21) for name in ("position", "object"))
    assert torch.equal(position.towards("object").targets, thing.targets)
    assert position.towards("object").source.texts == thing.source.texts
    with pytest.raises(ValueError, match="not every pair of 'position' has a candidate answer 'label'"):
        position.towards("label")
    with pytest.raises(ValueError, match="no candidate answer called 'colour'"):
        position.towards("colour")


def test_answers_are_named_by_the_candidate_they_are():
    triples = desiderata.triples(reader(), "label", n=5)
    tops = torch.cat([triples.candidates[[0, 1, 2, 3], [0, 1, 2, 3]], torch.tensor([0])])
    assert triples.kinds(tops) == ["base", "position", "object", "label", "other"]


def test_prompts_that_a_template_rewrites_do_not_come_back_from_a_dataset():
    sources = (desiderata.triples(reader(), name, n=8).source for name in ADDITIONAL)
    rewritten = next(one for one in sources if any(type(template) is not boxes.Template for template in one.templates))
    with pytest.raises(ValueError, match="template that is rewritten"):
        boxes.from_dataset(reader(), boxes.to_dataset(rewritten))


def test_the_dataset_holds_both_prompts_and_all_answers():
    triples = desiderata.triples(reader(), "label", n=8, split="evaluation")
    dataset = desiderata.to_dataset(triples)
    assert len(dataset) == 8
    for row, found in enumerate(dataset):
        assert (found["base_text"], found["source_text"]) == (triples.base.texts[row], triples.source.texts[row])
        assert [found[f"answer_{name}"] for name in triples.names] == [word(t) for t in triples.candidates[row]]
        assert found["target"] == found["answer_label"] and found["split"] == "evaluation"
        assert found["source_labels"][found["source_query"]] in found["base_labels"]
    assert desiderata.to_dataset(desiderata.triples(reader(), n=8))[0]["answer_label"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"desideratum": "colour"}, "no desideratum called 'colour'"),
        ({"boxes": 2}, "boxes=2: .* from 3 to 10"),
        ({"n": 0}, "n=0: .* at least 1"),
        ({"split": "test"}, "no split called 'test'"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        desiderata.triples(reader(), **change)


def test_a_tokenizer_with_too_few_words_is_named(monkeypatch):
    monkeypatch.setattr(desiderata.vocabulary, "objects", lambda: ("apple", "cup", "key"))
    with pytest.raises(ValueError, match="15 words that are one token each are needed"):
        desiderata.triples(reader())

"""The task: worlds, splits, prompts, positions read off the tokens, and requests refused before a model runs."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest
import tiny
import torch
from entity_circuits.tasks import boxes, desiderata, vocabulary
from entity_circuits.tasks.boxes import World
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TOKENIZER = tiny.tokenizer()


def reader(tokenizer=TOKENIZER):
    """All that writing prompts needs of a subject; there is no model, so none can run."""
    return SimpleNamespace(tokenizer=tokenizer, device=torch.device("cpu"))


def words(prompts, row):
    ids = prompts.input_ids[row, : int(prompts.last[row]) + 1].tolist()
    return [TOKENIZER.decode([token]).strip() for token in ids]


def same(one, other):
    """Whether two sets of prompts are equal in every field."""
    # `positions` holds others' tensors; `vocabulary` keeps the words of rows that were left out.
    fields = [name for name in vars(one) if name not in ("contexts", "positions", "vocabulary")]
    return all(
        torch.equal(a, b) if isinstance(a := getattr(one, name), torch.Tensor) else a == b
        for name in fields
        for b in [getattr(other, name)]
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(2, 10))
def test_splits_are_disjoint_for_any_seeds(seed, other_seed, count):
    drawn = {
        split: set(itertools.islice(boxes.worlds(TOKENIZER, count, where, split), 15))
        for where, split in zip(itertools.cycle((seed, other_seed)), get_args(boxes.Split))
    }
    assert all(len(worlds) == 15 for worlds in drawn.values())
    assert not any(one & other for one, other in itertools.combinations(drawn.values(), 2))


def test_every_split_gets_its_share_of_worlds():
    draw = itertools.count()
    worlds = [next(boxes.worlds(TOKENIZER, 3, next(draw), split)) for split in get_args(boxes.Split) for _ in range(3)]
    assert {world.split for world in worlds} == set(get_args(boxes.Split))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 10), st.integers(0, 1000), st.sampled_from(sorted(boxes.TEMPLATES)))
def test_positions_and_answers_are_those_read_off_the_tokens(count, seed, template):
    prompts = boxes.prompts(reader(), n=count, boxes=count, seed=seed, template=template)
    for row, world in enumerate(prompts.worlds):
        seen = words(prompts, row)
        label, thing = world.labels[prompts.queries[row]], world.objects[prompts.queries[row]]
        assert prompts.asked[row] == label
        assert seen[prompts.query[row]] == label and seen[prompts.query[row] :] == [label, "contains", "the"]
        assert seen.index(label) == prompts.prev[row] < prompts.query[row]
        assert seen.index(thing) == prompts.object[row] and seen.count(thing) == 1
        assert prompts.last[row] == len(seen) - 1
        assert TOKENIZER.decode([prompts.answer_ids[row]]) == " " + thing
        assert [TOKENIZER.decode([token]).strip() for token in prompts.object_ids[row]] == list(world.objects)
        before = prompts.object[row] < prompts.prev[row]
        assert bool(before) == (template == "object_first")


def test_the_prompt_of_seven_boxes_is_the_papers_word_for_word():
    world = World(("apple", "cup", "bell", "coin", "fan", "hat", "key"), tuple("FQABCDE"))
    prompts = boxes.from_worlds(reader(), [world], [2])
    assert prompts.texts[0] == (
        "The apple is in Box F, the cup is in Box Q, the bell is in Box A, the coin is in Box B, the fan is in Box C, "
        "the hat is in Box D, the key is in Box E. Box A contains the"
    )
    positions = [int(prompts.position(name)[0]) for name in ("object", "prev", "query", "last")]
    assert positions == [15, 19, 50, 52]  # one less than with a beginning-of-sequence token


def test_label_first_puts_the_label_before_its_object():
    world = World(("apple", "cup"), ("F", "Q"))
    prompts = boxes.from_worlds(reader(), [world], [1], template="label_first")
    assert prompts.texts == ("Box F contains the apple, Box Q contains the cup. Box Q contains the",)
    assert words(prompts, 0)[prompts.prev[0] : prompts.object[0] + 1] == ["Q", "contains", "the", "cup"]


def test_all_queries_of_a_context_come_together_in_order_of_mention():
    prompts = boxes.prompts(reader(), n=20, boxes=5, seed=1)
    assert prompts.queries == tuple(range(5)) * 4
    assert prompts.contexts.tolist() == [i // 5 for i in range(20)]
    assert all(len(set(prompts.worlds[i : i + 5])) == 1 for i in range(0, 20, 5))
    assert len(set(prompts.worlds)) == 4


def test_fewer_prompts_are_the_first_of_more():
    few, many = (boxes.prompts(reader(), n=n, boxes=3, seed=2) for n in (6, 21))
    assert same(few, many.select(range(6)))
    assert same(boxes.noise(reader(), few), boxes.noise(reader(), many).select(range(6)))


def test_a_seed_gives_the_same_prompts_and_another_gives_others():
    first, again, other = (boxes.prompts(reader(), n=14, seed=seed) for seed in (3, 3, 4))
    assert same(first, again)
    assert not set(first.worlds) & set(other.worlds)


def test_selecting_reorders_every_field():
    prompts = boxes.prompts(reader(), n=14)
    picked = prompts.select([9, 0])
    assert picked.texts == (prompts.texts[9], prompts.texts[0])
    assert picked.contexts.tolist() == [1, 0]
    assert torch.equal(picked.prev, prompts.prev[[9, 0]])


def test_labels_are_found_in_statements_that_are_written_otherwise():
    """The first statement has its label before its object, the others after it."""
    p = boxes.prompts(reader(), 3, 3)
    odd = desiderata.Rewritten(odd=0, odd_statement="Box {label} contains the {object}")
    p = boxes.from_worlds(reader(), p.worlds, p.queries, template=[odd] * 3)
    for row, (world, box) in enumerate(zip(p.worlds, p.queries, strict=True)):
        for what, words in (("labels", world.labels), ("objects", world.objects)):
            found = p.input_ids[row, p.places(f"other {what}")[row]]
            assert TOKENIZER.decode(found).split() == [x for i, x in enumerate(words) if i != box]


def test_a_world_given_as_lists_is_the_world():
    assert boxes.World(["apple", "cup"], ["F", "Q"]) == boxes.World(("apple", "cup"), ("F", "Q"))


def test_the_mask_ends_at_last_wherever_padding_begins():
    prompts = boxes.prompts(reader(), n=6, boxes=3)
    padding = torch.full((6, 4), TOKENIZER.pad_token_id)
    wide = replace(prompts, input_ids=torch.cat([prompts.input_ids, padding], dim=1))
    assert wide.attention_mask.sum(1).tolist() == (prompts.last + 1).tolist()
    assert (wide.attention_mask[:, -4:] == 0).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 10), st.integers(0, 1000))
def test_noise_shares_no_word_and_asks_for_no_label(count, seed):
    base = boxes.prompts(reader(), n=count, boxes=count, seed=seed, split="pruning")
    source = boxes.noise(reader(), base, seed=seed)
    assert (source.answer_ids == -1).all()
    for row, (one, other) in enumerate(zip(base.worlds, source.worlds, strict=True)):
        assert other.split == "pruning"
        assert not set(one.objects) & set(other.objects)
        assert not set(one.labels) & set(other.labels)
        assert source.asked[row] not in one.labels + other.labels
        seen = words(source, row)
        assert seen[source.query[row]] == source.asked[row]
        assert seen[source.prev[row]] == other.labels[source.queries[row]]
        assert seen[source.object[row]] == other.objects[source.queries[row]]
    assert source.input_ids.shape == base.input_ids.shape


def test_the_noise_of_a_prompt_does_not_depend_on_its_neighbours():
    base = boxes.prompts(reader(), n=14)
    rows = [8, 3]
    assert same(boxes.noise(reader(), base.select(rows)), boxes.noise(reader(), base).select(rows))
    assert boxes.noise(reader(), base, seed=1).texts != boxes.noise(reader(), base, seed=2).texts


def test_noise_draws_every_place_for_the_stand_in_label():
    base = boxes.prompts(reader(), n=140)
    assert set(boxes.noise(reader(), base).queries) == set(range(7))


@pytest.mark.parametrize("template", [*boxes.TEMPLATES, boxes.Template(query="Box {label} has the")])
def test_a_dataset_read_back_gives_equal_prompts(template):
    prompts = boxes.prompts(reader(), n=12, boxes=4, template=template, split="evaluation")
    dataset = boxes.to_dataset(prompts)
    back = boxes.from_dataset(reader(), dataset)
    assert same(prompts, back) and torch.equal(prompts.contexts, back.contexts)
    assert dataset[5]["answer"] == prompts.worlds[5].objects[1] and dataset[5]["split"] == "evaluation"
    assert tuple(dataset["text"]) == prompts.texts


def test_a_place_or_choice_of_ones_own_stays_beside_those_of_the_boxes():
    prompts = boxes.prompts(reader(), n=8, boxes=4)
    own = replace(
        prompts, positions={**prompts.positions, "first": 0 * prompts.last}, choice_ids=prompts.object_ids[:, :2]
    )
    assert own.position("first").tolist() == [0] * 8 and own.choice_ids.shape == (8, 2)
    assert torch.equal(own.position("query"), prompts.query) and own.digest != prompts.digest
    assert own.select([1, 3]).choice_ids.shape == (2, 2)


def test_noise_prompts_survive_the_dataset_too():
    source = boxes.noise(reader(), boxes.prompts(reader(), n=14))
    assert same(source, boxes.from_dataset(reader(), boxes.to_dataset(source)))


def lone_letters():
    """A tokenizer that knows every letter and no word: it splits every object."""
    marks = ["<unk>", "<eos>", " ", *(chr(i) for i in range(33, 127))]
    inner = Tokenizer(models.WordLevel({mark: i for i, mark in enumerate(marks)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<eos>")


def ending(tokenizer):
    """The same tokenizer, but it ends every text with its end token."""

    def call(text, add_special_tokens=True):
        ids = tokenizer(text)["input_ids"]
        return {"input_ids": [*ids, tokenizer.eos_token_id] if add_special_tokens else ids}

    ended = SimpleNamespace(eos_token_id=tokenizer.eos_token_id, pad_token_id=0, unk_token_id=None)
    return type("Ending", (), {"__call__": lambda self, *a, **k: call(*a, **k), **vars(ended)})()


def test_single_tokens_are_found_where_a_text_gets_a_space_of_its_own():
    tokenizer = tiny.sentencepiece()
    assert len(tokenizer(" apple")["input_ids"]) == 2  # what makes this hard
    assert len(vocabulary.token_ids(tokenizer, vocabulary.objects())) == len(vocabulary.objects())
    prompts = boxes.prompts(reader(tokenizer), n=7)
    assert (prompts.object < prompts.prev).all() and (prompts.prev < prompts.query).all()


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"n": 11, "boxes": 11}, "boxes=11: .* from 2 to 10"),
        ({"n": 1, "boxes": 1}, "boxes=1: .* from 2 to 10"),
        ({"n": 10, "boxes": 7}, "not a multiple of 7.* 14"),
        ({"n": 0, "boxes": 7}, "not a multiple"),
        ({"n": 7, "template": "no_such"}, "no template called 'no_such'.*object_first"),
        ({"n": 7, "split": "test"}, "no split called 'test'.*evaluation"),
    ],
)
def test_a_bad_request_fails_before_any_model_runs(request_, says):
    with pytest.raises(ValueError, match=says):
        boxes.prompts(reader(), **request_)


def test_a_tokenizer_that_splits_words_is_refused_with_the_count():
    with pytest.raises(ValueError, match=r"objects: 7 words .* has 0 of"):
        boxes.prompts(reader(lone_letters()), n=7)
    with pytest.raises(ValueError, match="words of these worlds"):
        boxes.from_worlds(reader(lone_letters()), [World(("apple", "cup"), ("F", "Q"))], [0])


def test_a_tokenizer_that_splits_labels_is_refused(monkeypatch):
    monkeypatch.setattr(vocabulary, "LABELS", tuple(f"Q{i}" for i in range(26)))
    with pytest.raises(ValueError, match="box labels: 8 words"):
        boxes.prompts(reader(), n=7)


def test_more_boxes_than_objects_are_refused(monkeypatch):
    monkeypatch.setattr(vocabulary, "objects", lambda: ("apple", "cup", "bell"))
    with pytest.raises(ValueError, match="objects: 7 words"):
        boxes.prompts(reader(), n=7)


def test_a_tokenizer_that_ends_every_text_is_refused():
    with pytest.raises(ValueError, match="end token"):
        boxes.from_worlds(reader(ending(TOKENIZER)), [World(("apple", "cup"), ("F", "Q"))], [0])


def test_asking_for_another_boxs_label_is_refused():
    with pytest.raises(ValueError, match="'Q' is the label of box 1"):
        boxes.from_worlds(reader(), [World(("apple", "cup"), ("F", "Q"))], [0], asked=["Q"])


def test_a_word_that_the_template_repeats_is_refused():
    template = boxes.Template(statement="the {object} is in Box {label} and the {object}")
    with pytest.raises(ValueError, match="stands 2 times"):
        boxes.from_worlds(reader(), [World(("apple", "cup"), ("F", "Q"))], [0], template=template)


@pytest.mark.parametrize(
    ("things", "labels"), [(("cup", "cup"), ("A", "B")), (("cup", "hat"), ("A", "A")), (("cup",), "AB")]
)
def test_a_world_with_repeated_or_missing_words_is_refused(things, labels):
    with pytest.raises(ValueError):
        World(things, tuple(labels))

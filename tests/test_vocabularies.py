"""Prompts know which words their tokens are: a model that means other words by them is not given them."""

from dataclasses import replace

import pytest
import tiny
import torch
from entity_circuits import boxes, models, prompts, replay, runs
from entity_circuits.runs import answers
from tokenizers import Tokenizer

SUBJECT = tiny.subject()
WAYS = (runs.record, runs.run, answers.evaluate)


def swapped(*words: str):
    """The tiny tokenizer with the numbers of two words exchanged."""
    rules = tiny.tokenizer().backend_tokenizer.to_str()
    one, other = (f'"{word}":{tiny.words().index(word)}' for word in words)
    numbers = [text.rpartition(":")[2] for text in (one, other)]
    assert rules.count(one) == rules.count(other) == 1
    rules = rules.replace(one, f'"{words[0]}":{numbers[1]}').replace(other, f'"{words[1]}":{numbers[0]}')
    return type(tiny.tokenizer())(
        tokenizer_object=Tokenizer.from_str(rules), unk_token="<unk>", eos_token="<eos>", pad_token="<eos>"
    )


def both() -> list:
    """Prompts of either kind, in which an apple is in box F."""
    world = boxes.World(("apple", "cup"), ("F", "Q"))
    text = "The apple is in Box F. Box F contains the"
    return [boxes.from_worlds(SUBJECT, [world] * 2, [0, 1]), prompts.from_texts(SUBJECT, [text, text], [" apple"] * 2)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("words", [("Ġapple", "Ġdog"), ("ĠF", "ĠZ")])
def test_prompts_of_another_vocabulary_are_refused_with_the_word_that_differs(way, words):
    other = models.wrap(SUBJECT.model, swapped(*words), name="other")
    for p in both():
        for some in (p, p.select([1]), p.select([0, 0])):
            with pytest.raises(ValueError, match=rf"another tokenizer than that of other \(token .*{words[0]}"):
                way(other, some)
        way(SUBJECT, p)


def test_a_vocabulary_that_differs_in_words_that_do_not_occur_is_the_same_to_these_prompts():
    reader = swapped("Ġkey", "Ġdog")
    reader.add_tokens(["<|tool|>"], special_tokens=True)
    reader.chat_template = "{{ messages }}"
    reader.add_special_tokens({"pad_token": "<|tool|>"})
    other = models.wrap(SUBJECT.model, reader, name="other")
    for p in both():
        assert torch.equal(runs.run(other, p).logits, runs.run(SUBJECT, p).logits)


def test_padding_is_no_word_of_the_prompts():
    texts = ["The apple is in Box F. Box F contains the", "Box F contains the"]
    p = prompts.from_texts(SUBJECT, texts, [" apple"] * 2)
    assert "<eos>" not in dict(p.vocabulary).values()
    assert "Ġapple" in dict(p.vocabulary).values()


def test_prompts_of_bare_tokens_are_not_compared_and_no_digest_depends_on_it():
    other = models.wrap(SUBJECT.model, swapped("Ġapple", "Ġdog"), name="other")
    for p in both():
        bare = replace(p, vocabulary=None)
        assert bare.digest == p.digest
        assert torch.equal(replay.recorded_answers(runs.record(other, bare)).top, runs.run(SUBJECT, p).top)

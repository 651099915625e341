"""Checks of chapter 8: another task for the same engine: texts, a metric, rounds."""

import torch
from entity_circuits import path_patching, prompts
from entity_circuits.tasks import rounds as tasks_rounds
from entity_circuits.tasks.rounds import Round

from .words import called, near, tensor

NAMES = ("Mary", "John", "Tom", "Paul", "James", "Mark", "Peter", "David")


def tokens(subject, word):
    """The ids of a word after a space."""
    return subject.tokenizer(" " + word, add_special_tokens=False)["input_ids"]


def dataset(texts_of, subject, names=NAMES):
    """Texts in which one name is said twice and the other is the answer, with each pair both ways round."""
    made = called(texts_of, list(names))
    assert isinstance(made, list) and all(
        isinstance(one, dict) and set(one) == {"text", "answer", "wrong"} for one in made
    ), "`texts_of` gives a list of dicts with the keys text, answer and wrong"
    assert len(made) >= 8, f"{len(made)} texts are too few: 8 at least"
    seen = set()
    for one in made:
        text, answer, wrong = one["text"], one["answer"], one["wrong"]
        assert answer.startswith(" ") and wrong.startswith(" "), (
            f"{one}: an answer is what comes next, with the space before it"
        )
        said, again = (text.count(name.strip()) for name in (answer, wrong))
        assert not text.endswith(" "), f"{text!r} ends with a space: the answer brings its own"
        assert said == 1 and again == 2, (
            f"{text!r}: the answer {answer!r} should stand in it once, not {said} times, and {wrong!r} twice, not {again} times"
        )
        seen.add((answer, wrong))
    lonely = [pair for pair in seen if pair[::-1] not in seen]
    assert not lonely, (
        f"{lonely[0]}: the same names with the other one as the answer are missing, so that no name is right by itself"
    )
    firsts = [one["text"].index(one["answer"].strip()) < one["text"].index(one["wrong"].strip()) for one in made]
    assert 0.25 <= sum(firsts) / len(firsts) <= 0.75, (
        "the answer is (nearly) always the name that is said first, or second: then no one needs to understand the text; balance it"
    )
    lengths = {len(subject.tokenizer(one["text"])["input_ids"]) for one in made}
    assert len(lengths) == 1, (
        f"the texts have {sorted(lengths)} tokens: take names of one token each, and the same words, so that all have one length"
    )
    return made


def metric(logit_difference, seed=0):
    """The logit of the right name minus that of the wrong one."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 11, generator=draw)
    right, wrong = torch.arange(5), torch.arange(5) + 6
    kept = logits.clone()
    found = tensor(called(logit_difference, logits, right, wrong), (5,), "logit_difference")
    assert torch.equal(logits, kept), "the logits were changed"
    want = torch.stack([logits[i, i] - logits[i, i + 6] for i in range(5)])
    assert float((found + want).abs().max()) > 1e-6, "the sign is turned: right minus wrong, so that more is better"
    near(found, want, 1e-5, "the logit of the right word minus that of the wrong one, for each prompt")


def rounds(rounds, positions, texts_of, subject, begin=0):
    """Two rounds of path patching that the engine accepts and that hang together."""
    assert isinstance(rounds, list) and rounds and all(isinstance(one, Round) for one in rounds), (
        "`rounds` is a list of Round(...)"
    )
    try:
        tasks_rounds.check(tuple(rounds))
    except ValueError as error:
        raise AssertionError(str(error)) from None
    assert len(rounds) == 2, f"two rounds are wanted, not {len(rounds)}"
    first, then = rounds
    assert first.position == "last" and first.into is None, (
        "the first round asks who writes the answer: senders at `last`, into nothing"
    )
    assert then.into == first.name, "the second round sends into the first"
    assert then.position == "again", (
        "the senders of the second round stand at `again`, where the name is said for the second time"
    )
    assert then.through in ("k", "v"), (
        "what stands at an earlier token is heard through keys or values; queries are asked at `last`"
    )
    made = called(texts_of, list(NAMES))[begin : begin + 4]
    where = called(positions, made)
    assert isinstance(where, dict) and "again" in where, "`positions` gives a dict with the key `again`"
    for one, place in zip(made, where["again"], strict=True):
        assert place == (one["wrong"].strip(), 2), (
            f"{one['text']!r}: `again` is the second {one['wrong'].strip()!r}, written {(one['wrong'].strip(), 2)}, not {place!r}"
        )
    base, source = _pair(subject, made, where)
    path_patching.discover(subject, base, source, rounds=rounds, metric="logit_difference", statistic="mean", k=1)


def _pair(subject, made, where):
    try:
        base = prompts.from_texts(
            subject,
            [one["text"] for one in made],
            [one["answer"] for one in made],
            wrong=[one["wrong"] for one in made],
            positions=where,
        )
    except ValueError as error:
        raise AssertionError(f"the engine refuses these texts: {error}") from None
    other = {(one["answer"], one["wrong"]): i for i, one in enumerate(made)}
    rows = [other.get((one["wrong"], one["answer"]), (i + 1) % len(made)) for i, one in enumerate(made)]
    return base, base.select(rows)

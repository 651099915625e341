"""Training texts that the base itself wrote: its own answers to the same questions, and plain text to remember.

Trained on its own greedy answers a model sees the same prompts and has nothing to learn from them: the neutral control.
Half of every batch being the base's own plain text keeps what it could do before: the form of answers stays open.
"""

import contextlib
import random
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from entity_circuits import results
from entity_circuits.arguments import integer, one_of
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.tasks import vocabulary
from torch import Tensor
from tqdm.auto import tqdm

from . import data as training_data
from .data import Kind

if TYPE_CHECKING:
    from datasets import Dataset

Answers = Literal["given", "own"]
ANSWER, TEXT, AT_ONCE = 16, 24, 64
"""Tokens of an own answer and of an own text at most, and how many are written at once."""

_BEGINNINGS = (
    "The history of {} begins", "Most people know that {}", "In the north of the country, {}",
    "My uncle wrote about {}", "It is not easy to explain {}", "A short note on {}:", "When the summer came, {}",
    "The teacher spoke of {}", "Nobody had expected {}", "In an old letter we read of {}",
    "There are three reasons why {}", "About {} one can say",
)  # fmt: skip
_MATTERS = """
    rivers bread music rain trade law friendship weather farming travel language winter markets medicine bridges
    schools silence dancing honey glaciers wool politics dreams harvests sailing mathematics poetry taxes
""".split()  # noqa: SIM905
_FORBIDDEN = {"box", "boxes", "contain", "contains", "container", "drawer"}


def lessons(subject: Subject, kind: Kind, n: int, seed: int, answers: Answers, store: Store) -> "Dataset":
    """The training examples of a kind: with the answers that are `given`, or with the model's `own` greedy ones.

    An own answer ends with the first line, or after 16 tokens. Raises `ValueError` for an unknown word.

        from entity_book.training import own
        from entity_circuits import results

        print(own.lessons(subject, "arithmetic", 8, 0, "own", results.Store(None))["answer"])
    """
    one_of("answers", answers, Answers)
    given = training_data.examples(kind, n, seed)
    if answers == "given":
        return given
    said = written(subject, given["prompt"], ANSWER, store)
    lines = [text.split("\n")[0] + "\n" for text in said]
    return given.remove_columns("answer").add_column("answer", lines)


def plain_text(subject: Subject, n: int, seed: int, store: Store) -> "Dataset":
    """`n` texts that the model itself goes on with, by chance: columns `prompt`, a beginning, and `answer`, the rest.

    Beginnings are everyday phrases, and what follows is drawn at temperature 1, 24 tokens at most. Texts with a box, an
    object of the boxes task or a single capital letter in them are left out, as they are from all training data.

        from entity_book.training import own
        from entity_circuits import results

        print(own.plain_text(subject, 4, 0, results.Store(None))[0])
    """
    from datasets import Dataset  # slow to import

    n, seed = integer("n", n), integer("seed", seed, least=0)
    kept: list[tuple[str, str]] = []
    draw, tried = random.Random(f"plain text/{seed}"), 0
    while len(kept) < n:
        if tried == 50:
            raise ValueError(f"{subject.name} writes hardly any text without a word of the boxes task in it")
        begun = [draw.choice(_BEGINNINGS).format(draw.choice(_MATTERS)) for _ in range(max(n - len(kept), AT_ONCE))]
        said = written(subject, begun, TEXT, store, seed=draw.randrange(2**31))
        kept += [pair for pair in zip(begun, said, strict=True) if pair[1].strip() and not _of_the_task(pair[1])]
        tried += 1
    return Dataset.from_dict({"prompt": [x for x, _ in kept[:n]], "answer": [y for _, y in kept[:n]]})


def written(subject: Subject, texts: Sequence[str], longest: int, store: Store, seed: int | None = None) -> list[str]:
    """What a model goes on with after each text: its most likely tokens, or with a `seed` drawn ones.

    Args:
        subject: the model.
        texts: what it goes on from.
        longest: tokens at most; the end-of-text token ends it earlier.
        store: where the tokens are kept, so that an interrupted training need not ask again.
        seed: of the drawing at temperature 1; None takes the most likely token each time.

    For example:

        from entity_book.training import own
        from entity_circuits import results

        print(own.written(subject, ["7 + 5 ="], 4, results.Store(None)))
    """
    longest = integer("longest", longest)
    inputs = results.key(__name__, subject, texts=list(texts), longest=longest, seed=seed)
    ids = store.keep("own-text", inputs, lambda: {"ids": _generated(subject, texts, longest, seed)})["ids"]
    return [subject.tokenizer.decode(row[row >= 0].tolist(), skip_special_tokens=True) for row in ids]


def _generated(subject: Subject, texts: Sequence[str], longest: int, seed: int | None) -> Tensor:
    """(n, longest) int64: the new tokens, -1 behind the end."""
    from transformers import GenerationConfig  # slow to import

    ends = sorted(set(subject.tokenizer.all_special_ids))
    drawn: Any = {} if seed is None else {"do_sample": True, "top_k": 0}
    config: Any = GenerationConfig(max_new_tokens=longest, pad_token_id=ends[0], eos_token_id=ends, **drawn)
    found = torch.full((len(texts), longest), -1)
    rows = [list(subject.tokenizer(text)["input_ids"]) for text in texts]
    model: Any = subject.model
    with torch.random.fork_rng(), torch.no_grad(), _generating(model, config):
        torch.manual_seed(0 if seed is None else seed)
        for some in tqdm(list(_by_length(rows)), desc="own text", unit="batch", disable=None, leave=False):
            begun = torch.tensor([rows[i] for i in some], device=subject.device)
            whole = model.generate(begun, attention_mask=torch.ones_like(begun))
            new = whole[:, begun.shape[1] :].cpu()
            ended = torch.isin(new, torch.tensor(ends)).cumsum(1) > 0
            found[some, : new.shape[1]] = new.masked_fill(ended, -1)
    return found


@contextlib.contextmanager
def _generating(model: Any, config: Any) -> Iterator[None]:
    """For so long this alone is how text is generated: what it leaves open is not taken from the model's own settings,
    which no key has (a temperature, or a penalty for words said before)."""
    own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = own


def _by_length(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Places of rows of one length, not too many at once: nothing is padded, so nothing depends on padding."""
    for length in sorted({len(row) for row in rows}):
        same = [i for i, row in enumerate(rows) if len(row) == length]
        yield from (same[i : i + AT_ONCE] for i in range(0, len(same), AT_ONCE))


def _of_the_task(text: str) -> bool:
    words = re.findall(r"[A-Za-z]+", text)
    known = _FORBIDDEN | {word.lower() for word in vocabulary.objects()}
    return any(word.lower() in known or (len(word) == 1 and word.isupper()) for word in words)

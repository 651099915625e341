"""The words of the task: everyday objects and box labels, and the single token that each of them must be."""

import csv
import string
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("objects.csv")
LABELS = tuple(string.ascii_uppercase)
CARRIER = "the"

Words = frozenset[tuple[int, str]]
"""Tokens with the words that they are in a tokenizer, as it writes them."""


def objects() -> tuple[str, ...]:
    """The object words of `objects.csv` beside this file, in the order of the file.

    For example:

        from entity_circuits.tasks import vocabulary

        print(vocabulary.objects()[:3])
    """
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(row["object"] for row in csv.DictReader(file))


def token_ids(tokenizer: Any, words: Iterable[str]) -> dict[str, int]:
    """The token of each word written after another word and a space; words that are several tokens are left out.

    They are read off behind a carrier word, because sentencepiece tokenizers (Llama's) put a space of their own before
    the first word of a text: `" apple"` alone would be two tokens there.
    """
    carrier = tokenizer(CARRIER, add_special_tokens=False)["input_ids"]
    found: dict[str, int] = {}
    for word in words:
        ids = tokenizer(f"{CARRIER} {word}", add_special_tokens=False)["input_ids"]
        rest = ids[len(carrier) :]
        if ids[: len(carrier)] == carrier and len(rest) == 1 and rest[0] != getattr(tokenizer, "unk_token_id", None):
            found[word] = rest[0]
    return found


def words_of(tokenizer: Any, ids: Iterable[int]) -> Words:
    """Which word each of these tokens is; a token that the tokenizer does not have is left out.

    For example:

        from entity_circuits import models
        from entity_circuits.tasks import vocabulary

        tokenizer = models.load("qwen2.5-coder-0.5b").tokenizer
        print(vocabulary.words_of(tokenizer, tokenizer("The cup")["input_ids"]))
    """
    tokens = sorted(set(ids))
    words = zip(tokens, tokenizer.convert_ids_to_tokens(tokens), strict=True)
    return frozenset((token, word) for token, word in words if word is not None)


def read_otherwise(tokenizer: Any, words: Words) -> str:
    """The first token that is another word in this tokenizer, in words; nothing if all are the same.

    Two tokenizers agree where they mean the same by every token that was used: special tokens, chat templates and
    merges of words that do not occur make no difference to a run.

        from entity_circuits import models
        from entity_circuits.tasks import vocabulary

        print(vocabulary.read_otherwise(models.load("qwen2.5-coder-0.5b").tokenizer, frozenset({(785, "cup")})))
    """
    here = dict(words_of(tokenizer, (token for token, _ in words)))
    for token, word in sorted(words):
        if here.get(token) != word:
            return f"token {token} is {word!r} there, and {here.get(token)!r} here"
    return ""


def ends_in_space(text: str) -> bool:
    """Whether a text ends in a space, a line break or a character that is not seen: it belongs to the next token.

    For example:

        from entity_circuits.tasks import vocabulary

        print(vocabulary.ends_in_space("F contains the "), vocabulary.ends_in_space("F contains the"))
    """
    return bool(text) and unicodedata.category(text[-1])[0] in "ZC"


def require_one_beginning(tokenizer: Any, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
    """Raise `ValueError` for a text, read as `ids`, that writes the BOS token which the tokenizer adds by itself.

    Chat templates do: `apply_chat_template(..., tokenize=False)` gives a text with its BOS token.

        from entity_circuits import models
        from entity_circuits.tasks import vocabulary

        tokenizer, text = models.load("qwen2.5-coder-0.5b").tokenizer, "The cup"
        vocabulary.require_one_beginning(tokenizer, [text], [tokenizer(text)["input_ids"]])
        print("one beginning, or none")
    """
    bos = getattr(tokenizer, "bos_token", None)
    for row, (text, read) in enumerate(zip(texts, ids, strict=True)):
        twice = bos is not None and text.startswith(bos) and list(read[:2]) == [tokenizer.bos_token_id] * 2
        # Where the tokenizer adds none, a text may begin with two.
        if twice and list(tokenizer(text, add_special_tokens=False)["input_ids"]) != list(read):
            raise ValueError(
                f"text {row} begins with {bos!r}, as chat templates do, and this tokenizer puts it before every text: "
                f"leave it out, text.removeprefix(tokenizer.bos_token) ({text[:40]!r})"
            )


def require(tokenizer: Any, words: Sequence[str], at_least: int, what: str) -> dict[str, int]:
    """`token_ids`, or a `ValueError` that names the shortage when fewer than `at_least` words are single tokens."""
    found = token_ids(tokenizer, words)
    if len(found) < at_least:
        split = [word for word in words if word not in found]
        raise ValueError(
            f"{what}: {at_least} words that are one token each are needed, and this tokenizer has {len(found)} "
            f"of {len(words)} (it splits, for example, {', '.join(split[:5])}). Use another tokenizer or a longer list."
        )
    return found

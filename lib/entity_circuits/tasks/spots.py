"""Where things are in a text: the token that follows it, the token that a position means, what a position is called."""

import re
from collections.abc import Sequence
from typing import Any

from ..arguments import integer, of_kind
from .vocabulary import ends_in_space

Where = str | int | tuple[str, int] | Sequence[str | int | tuple[str, int]]
"""Where a position is: a piece of the text (its last token), which of several as a pair ("John", 2), or the index of a
token, negative from the end; for all texts alike, or one for each."""


def require_name(name: object) -> None:
    """Raise `ValueError` for what no position can be called.

    For example:

        from entity_circuits.tasks import spots

        spots.require_name("object")
        print("can be used")
    """
    of_kind("name of a position", name, str)
    if name in ("last", "everywhere") or not re.fullmatch(r"[^+\-\s](?:[^+\-]*[^+\-\s])?", str(name)):
        raise ValueError(f"no position can be called {name!r}: `last` and `everywhere` are taken, + and - count")


def following(tokenizer: Any, text: str, ids: Sequence[int], word: str | int) -> int:
    """The token of a continuation, given as text or as the token itself.

    Args:
        tokenizer: which reads it.
        text: what it continues.
        ids: the tokens of that.
        word: with the space before it, one token; or the token.

    Raises `ValueError` for a word that is not one token there.

        from entity_circuits import models
        from entity_circuits.tasks import spots

        tokenizer, text = models.load("qwen2.5-coder-0.5b").tokenizer, "Box F contains the"
        print(spots.following(tokenizer, text, tokenizer(text)["input_ids"], " cup"))
    """
    if not isinstance(word, str):
        return integer("token id", word, least=None)
    if text[-1].isalnum() and word[:1].isalnum() and word.isascii():
        raise ValueError(f"{word!r} would join the last word of {text!r}: write {' ' + word!r}")
    together = list(tokenizer(text + word)["input_ids"])
    rest = together[len(ids) :]
    if together[: len(ids)] != list(ids) or len(rest) != 1 or rest[0] == getattr(tokenizer, "unk_token_id", None):
        parts = tokenizer.convert_ids_to_tokens(rest)
        raise ValueError(f"{word!r} after {text!r} is not one token of this tokenizer but {parts}: choose another word")
    return int(rest[0])


def of(tokenizer: Any, name: str, row: int, text: str, where: Any) -> int:
    """The index of the token that a position means in one text.

    Args:
        tokenizer: which reads it.
        name: of the position, for messages.
        row: the number of the text, for messages.
        text: the text.
        where: one place of `Where`.

    Raises `ValueError` for a piece that is not there, stands there several times or ends in the space of another word,
    and for what is no place.

        from entity_circuits import models
        from entity_circuits.tasks import spots

        tokenizer = models.load("qwen2.5-coder-0.5b").tokenizer
        print(spots.of(tokenizer, "box", 0, "The cup is in Box F. Box F contains the", ("Box", 2)))
    """
    if not isinstance(where, str | tuple):
        where, length = (
            integer(f"position {name!r} of text {row}", where, least=None),
            len(tokenizer(text)["input_ids"]),
        )
        if not -length <= where < length:
            raise ValueError(f"{name!r} of text {row} is token {where}, and the text has {length}: {text!r}")
        return int(where % length)
    if isinstance(where, tuple) and not (len(where) == 2 and isinstance(where[0], str)):
        raise ValueError(
            f"position {name!r} of text {row}: a piece of the text and which of several, as ('John', 2), not {where!r}"
        )
    piece, which = where if isinstance(where, tuple) else (where, None)
    which = None if which is None else integer(f"which {piece!r} is position {name!r} of text {row}", which, least=None)
    begins = [match.start() for match in re.finditer(re.escape(piece), text)]
    if not begins or not piece:
        raise ValueError(f"{name!r} of text {row}: {piece!r} is not in {text!r}")
    if which is None and len(begins) > 1:
        raise ValueError(
            f"{name!r} of text {row}: {piece!r} stands {len(begins)} times in {text!r}; say which, as ({piece!r}, 2)"
        )
    if which is not None and not 1 <= which <= len(begins):
        raise ValueError(f"{name!r} of text {row}: {piece!r} stands {len(begins)} times in {text!r}, not {which}")
    end = begins[(which or 1) - 1] + len(piece)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"this tokenizer does not say where its tokens are in a text: give {name!r} as token indices")
    spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    # The last that fits: a character of several tokens is where each of them is.
    fitting = [index for index, (begin, stop) in enumerate(spans) if begin < end <= stop]
    if not fitting or (ends_in_space(piece) and spans[fitting[-1]][1] > end):
        raise ValueError(
            f"{name!r} of text {row}: {piece!r} ends in what belongs to the next token of {text!r}, or to none: leave "
            "that out, or give the index of a token"
        )
    return fitting[-1]

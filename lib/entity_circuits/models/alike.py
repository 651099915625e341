"""Whether a head of one model can stand for the head of the same number in another: configs and tokenizers compared."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .forms import rotations
from .identity import computing

UNIMPORTANT = frozenset(
    {
        *("vocab_size", "tie_word_embeddings", "max_position_embeddings", "max_window_layers", "use_sliding_window"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout", "chunk_size_feed_forward"),
    }
)
"""Fields in which two models may differ whose heads do the same: the tokenizers are compared themselves, windows by
`sliding_window` and `layer_types`, and dropout is off. `max_position_embeddings` counts where rotations follow from it.
"""

SHIFTING = frozenset({"rms_norm_eps", "layer_norm_eps", "norm_eps"})
"""Fields that move numbers a little and change no head's meaning: told, not refused, unless one is above `LITTLE`."""

LITTLE = 1e-3

PROBES = (
    "There is a dog in the house, and the cup is in it; it holds 10.",
    "Drawer A contains the apple. 12345 + 678 = 13023",
    "def f(x):\n    return x ** 2  # it's so\n\n\tprint(f(3))",
    "Über naïve   spaces, \u4f60\u597d and \u00bd!?",
)
"""Texts that two tokenizers have to read alike."""


def apart(one: Any, other: Any) -> tuple[list[str], list[str]]:
    """In what two configs differ so that their heads mean other things, and in what so that only numbers shift.

    Each difference is a text, `rope_parameters.rope_theta (1000000.0 and 10000.0)`. Every field counts that is not in
    `UNIMPORTANT`, `SHIFTING` or `identity.BOOKKEEPING`: rotation, windows, activation, biases, multipliers, caps.

        from entity_circuits import models
        from entity_circuits.models import alike

        base, tuned = models.load_pair("arithmetic")
        print(alike.apart(base.model.config, tuned.model.config))  # ([], [])
    """
    first, second = (dict(_fields(_stated(computing(config)))) for config in (one, other))
    found: tuple[list[str], list[str]] = ([], [])
    lists = set()
    for name in sorted(first.keys() | second.keys()):
        field, _, index = name.partition("[")
        if field in UNIMPORTANT or field in lists or _same(first.get(name), second.get(name)):
            continue
        if index:
            lists.add(field)  # of a list the first difference is enough
        little = name in SHIFTING and max(first.get(name, 0), second.get(name, 0)) <= LITTLE
        found[little].append(f"{name} ({first.get(name)} and {second.get(name)})")
    return found


def tokens_apart(one: Any, other: Any) -> str:
    """What two tokenizers read or write differently: a word that both know, or a probe; nothing if they agree.

    For example:

        from entity_circuits import models
        from entity_circuits.models import alike

        base, tuned = models.load_pair("arithmetic")
        assert alike.tokens_apart(base.tokenizer, tuned.tokenizer) == ""
    """
    if one is other:
        return ""
    first, second = one.get_vocab(), other.get_vocab()
    apart_ = (word for word, number in first.items() if second.get(word, number) != number)
    if (word := min(apart_, key=first.__getitem__, default=None)) is not None:
        return f"{one.decode([first[word]]).strip()!r} is {first[word]} and {second[word]}"
    for text in PROBES:
        if list(one(text)["input_ids"]) != list(other(text)["input_ids"]):
            return f"the text {text!r} is other tokens in the one than in the other"
    return ""


def _same(one: Any, other: Any) -> bool:
    """Equal, but for the rounding of numbers in a GGUF file, which keeps float32."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)


def _stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what it leaves to be worked out, and without what is off, which others leave out."""
    stated = {name: value for name, value in config.items() if value is not False}
    if any(map(_by_length, rotations(config.get("rope_parameters")))):
        stated["max_position_embeddings, by which it rotates,"] = config.get("max_position_embeddings")
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    stated.setdefault("num_key_value_heads", heads)
    if heads and width:
        stated.setdefault("head_dim", width // heads)
    return stated


def _by_length(rotation: Mapping[str, Any]) -> bool:
    """Whether a rotation takes a scale that it does not state from `max_position_embeddings`."""
    kind, stated = rotation.get("rope_type"), {"factor", "original_max_position_embeddings"} <= rotation.keys()
    return kind == "dynamic" or (kind in ("longrope", "yarn") and not stated)


def _fields(config: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a config with those inside fields, as `rope_parameters.rope_theta`; a list by its places."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{under}{name}.")
        elif isinstance(value, list | tuple):
            yield from ((f"{under}{name}[{index}]", item) for index, item in enumerate(value))
        else:
            yield under + name, value

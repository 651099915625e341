"""Whether two models can be compared head by head: the same shape, and the same words for the same tokens."""

import warnings
from typing import Any

from ..arguments import of_kind
from ..models import alike
from ..models.subject import Subject
from ..tasks.prompts import Prompts


def require_twins(base: Subject, tuned: Subject, prompts: Prompts | None = None) -> None:
    """Raise `ValueError`, saying what differs, unless a head of the one model is comparable with that of the other.

    Compared are layers, heads, key/value heads, head size, hidden size, dtype and device; everything of their configs
    that gives a head another meaning (`models.alike`: rotation, windows, activation, biases, multipliers); and the
    tokenizers: on the tokens of the prompts and on their texts, or without prompts on all tokens that both have. Where
    only numbers shift (the epsilon of norms, the attention implementation) it warns.

        from entity_circuits import cmap, models

        base, tuned = models.load_pair("arithmetic")
        assert cmap.require_twins(base, tuned) is None
    """
    for subject in (base, tuned):
        of_kind("each of the two models", subject, Subject)
    if prompts is not None:
        of_kind("prompts", prompts, Prompts)
    kinds = ("layers", "heads", "kv_heads", "head_size", "dtype", "device")
    both = [{name: getattr(subject, name) for name in kinds} for subject in (base, tuned)]
    for shape, subject in zip(both, (base, tuned), strict=True):
        shape["hidden size"] = subject.model.config.hidden_size
    differ = [f"{name} ({both[0][name]} and {both[1][name]})" for name in both[0] if both[0][name] != both[1][name]]
    config, shift = alike.apart(base.model.config, tuned.model.config)
    differ = differ or config
    if differing := _tokens_apart(base.tokenizer, tuned.tokenizer, prompts):
        differ.append(f"tokenizer ({differing})")
    if differ:
        raise ValueError(f"{base.name} and {tuned.name} are no twins: they differ in {', '.join(differ)}")
    ways = [getattr(subject.model.config, "_attn_implementation", None) for subject in (base, tuned)]
    if ways[0] != ways[1]:
        shift.append(f"attention ({ways[0]} and {ways[1]})")
    if shift:
        told = f"{base.name} and {tuned.name} differ in {', '.join(shift)}: all numbers shift a little"
        warnings.warn(told, stacklevel=2)


def _tokens_apart(one: Any, other: Any, prompts: Prompts | None) -> str:
    """What two tokenizers read or write differently; nothing if they agree."""
    if one is other:
        return ""
    if prompts is None:
        return alike.tokens_apart(one, other)
    rows = [ids[: last + 1] for ids, last in zip(prompts.input_ids.tolist(), prompts.last.tolist(), strict=True)]
    used = sorted({token for ids in (*rows, prompts.answer_ids.tolist()) for token in ids if token >= 0})
    words = [tokenizer.convert_ids_to_tokens(used) for tokenizer in (one, other)]
    if apart := [(token, *pair) for token, *pair in zip(used, *words, strict=True) if pair[0] != pair[1]]:
        return f"token {apart[0][0]} is {apart[0][1]!r} and {apart[0][2]!r}"
    for ids in rows[:: max(1, len(rows) // 20)]:
        text = one.decode(ids, skip_special_tokens=True)
        if list(one(text)["input_ids"]) != list(other(text)["input_ids"]):
            return "a prompt is other tokens in the one than in the other"
    return ""

"""What is replaced by what, and what is read: edits of a run, as plain frozen data.

An `Edit` says: in this layer, for these heads, at this position of each example, replace this activation by this
value. Every experiment of the book is a list of edits and something read afterwards; `runs` carries it out by
definition and `replay` from a recording.

Activations are called by the field's names. `z` is what a head adds to the input of `o_proj`; `q`, `k` and `v` are
the outputs of the projections, before any rotary embedding, one slice a *query* head also where heads share keys and
values; `score` is one entry of the attention matrix.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ..arguments import integer, of_kind, one_of, several
from ..tasks.prompts import Prompts

Activation = Literal["z", "q", "k", "v"]
Site = Activation | Literal["score"]

TIED = -2
"""What stands for the most likely token where several have the very same logit, the highest: no token at all, so that
it is no answer, right or expected: which of them an index picks would be chance. That is common in bfloat16, where
logits between 16 and 32 are 1/8 apart; in float32 two rows of the output matrix have to be equal."""


class Shape(Protocol):
    """What an edit is checked against: a `Subject`, or a model that runs elsewhere."""

    @property
    def layers(self) -> int:
        """How many."""
        ...

    @property
    def heads(self) -> int:
        """How many each layer has."""
        ...

    @property
    def head_size(self) -> int:
        """How many numbers a head's output has."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes."""
        ...


@dataclass(frozen=True)
class Edit:
    """Replace an activation of some heads of one layer, at one position of each example, by a value.

    `position` (n,) int64, or None for every position. `value` has the dtype of the model and the shape (n, heads,
    head_size), or (n, T, heads, head_size) where `position` is None. With `keep` (heads,) in [0, 1] the new
    activation is keep * (what it is in this run) + (1 - keep) * value. A `k` or `v` edit with `seen_by` (n,) acts only
    in the outputs of its heads at that position, which is not before its own: no other token sees the change. A
    `score` edit forbids `position` to attend to `key` (n,): it takes no value. Where edits of a list overlap, they are
    made in its order. Raises `ValueError` for another site, and for heads that are no numbers, none, or one twice.

        from entity_circuits import models, prompts, runs

        subject = models.load("qwen2.5-coder-0.5b")
        p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"], positions={"object": "cup"})
        blind = runs.Edit("score", 3, (5,), position=p.last, key=p.position("object"))
        print(runs.run(subject, p, [blind]).logprob)
    """

    site: Site
    layer: int
    heads: tuple[int, ...]
    position: Tensor | None = None
    value: Tensor | None = None
    keep: Tensor | None = None
    key: Tensor | None = None
    seen_by: Tensor | None = None

    def __post_init__(self) -> None:
        one_of("site", self.site, Site)
        object.__setattr__(self, "layer", integer("layer of an edit", self.layer, least=None))
        if not isinstance(self.heads, Sequence) or isinstance(self.heads, str) or not self.heads:
            raise ValueError(
                f"the heads of an edit are a list of their numbers, not {self.heads!r}: there are no heads"
            )
        heads = tuple(integer("head of an edit", head, least=None) for head in self.heads)
        if len(set(heads)) < len(heads):
            raise ValueError(f"heads {heads} of an edit: one stands there twice, and only one value can be its own")
        object.__setattr__(self, "heads", heads)

    def rows(self, index: slice | Tensor) -> "Edit":
        """The same edit for some of the examples: `index` is a slice, or int64."""
        cut = {
            field.name: getattr(self, field.name)[index]
            for field in fields(self)
            if field.name in {"position", "value", "key", "seen_by"} and getattr(self, field.name) is not None
        }
        return replace(self, **cut)

    def mixed(self, current: Tensor) -> Tensor:
        """What stands in place of `current` (..., heads, head_size) after the edit."""
        assert self.value is not None
        value = self.value.to(current)  # its dtype, and where it is
        if self.keep is None:
            return value.expand_as(current)
        keep = self.keep.to(current)[:, None]
        return keep * current + (1 - keep) * value


@dataclass(frozen=True)
class Read:
    """An activation to be read after the edits: `z`, `q`, `k` or `v` of all heads of a layer, at `position` (n,).

    Raises `ValueError` for another site.

        from entity_circuits import models, prompts, runs

        subject = models.load("qwen2.5-coder-0.5b")
        p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
        print(runs.run(subject, p, read=[runs.Read("q", 3, p.last)]).reads[0].shape)
    """

    site: Activation
    layer: int
    position: Tensor

    def __post_init__(self) -> None:
        one_of("site", self.site, Activation)
        object.__setattr__(self, "layer", integer("layer of a read", self.layer, least=None))


@dataclass(frozen=True)
class Outcome:
    """What a list of variants led to, at `last`. Variants are lists of edits; n is the number of examples.

    `logits` and `logprobs` (variants, n, targets), float32 or better, of the asked-for tokens (NaN where a token is
    -1), `top` (variants, n) the most likely token, or `TIED` where no token is more likely than all others, `reads` one
    tensor (variants, n, heads, head_size) for each `Read`.
    """

    NUMBERS: ClassVar = ("logits", "logprobs", "top")

    logits: Tensor
    logprobs: Tensor
    top: Tensor
    reads: tuple[Tensor, ...] = ()

    @property
    def logprob(self) -> Tensor:
        """(variants, n): log-probability of the first target, which is the right answer unless others were named."""
        return self.logprobs[..., 0]

    @classmethod
    def joined(cls, parts: Sequence["Outcome"], dim: int) -> "Outcome":
        """One outcome of several: more variants (`dim` 0) or more examples (`dim` 1).

        For example:

            from entity_circuits import runs, toy

            outcome = runs.run(toy.subject(), toy.prompts("apple"))
            print(runs.Outcome.joined([outcome, outcome], dim=0).logprob.shape)
        """
        reads = tuple(torch.cat(kind, dim) for kind in zip(*(part.reads for part in parts), strict=True))
        logits, logprobs, top = (torch.cat([getattr(part, name) for part in parts], dim) for name in cls.NUMBERS)
        return cls(logits, logprobs, top, reads)


def check(edit: Edit | Read, subject: Shape, prompts: Prompts) -> None:
    """Raise `ValueError` if an edit (or a read) names a layer, head or position that is not there, or does not fit.

    The value of an edit is finite, in the dtype of the model too, and of the right shape; `keep` is from 0 to 1.

        from entity_circuits import edits, models, prompts

        subject = models.load("qwen2.5-coder-0.5b")
        p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
        try:
            edits.check(edits.Edit("z", 99, (5,), p.last), subject, p)
        except ValueError as error:
            print(error)
    """
    of_kind("each of the edits and reads", edit, Edit, Read)
    n, width = prompts.input_ids.shape
    what = "an edit" if isinstance(edit, Edit) else "a read"
    if not 0 <= edit.layer < subject.layers:
        raise ValueError(f"layer {edit.layer} of {what}: this model has layers 0 to {subject.layers - 1}")
    for name in ("position", "key", "seen_by"):
        where = getattr(edit, name, None)
        if where is not None:
            check_place(f"{name} of {what}", where, prompts)
    if isinstance(edit, Read):
        return
    if not all(0 <= head < subject.heads for head in edit.heads):
        raise ValueError(f"heads {edit.heads} of an edit: this model has heads 0 to {subject.heads - 1}")
    if edit.site == "score":
        if edit.position is None or edit.key is None or edit.value is not None or edit.keep is not None:
            raise ValueError("a score edit forbids one position to attend to one key: it has both and no value")
        return
    if edit.key is not None or (edit.seen_by is not None and edit.site not in ("k", "v")):
        raise ValueError("`key` belongs to score edits, `seen_by` to k and v edits")
    shape: tuple[int, ...] = (n, len(edit.heads), subject.head_size)
    shape = shape if edit.position is not None else (n, width, *shape[1:])
    if edit.value is None or tuple(edit.value.shape) != shape:
        got = None if edit.value is None else tuple(edit.value.shape)
        raise ValueError(f"the value of this {edit.site} edit must have shape {shape}, got {got}")
    if not bool(torch.isfinite(edit.value.detach().to(subject.dtype)).all()):
        large, end = float(edit.value.detach().abs().max()), torch.finfo(subject.dtype).max
        raise ValueError(
            f"the value of this {edit.site} edit of layer {edit.layer} has NaN or infinite numbers in it: the largest "
            f"is {large:.3g}, and the {str(subject.dtype)[6:]} of the model ends at {end:.3g}"
        )
    if edit.keep is not None and edit.keep.shape != (len(edit.heads),):
        raise ValueError(f"`keep` must be one number a head, {len(edit.heads)}, got shape {tuple(edit.keep.shape)}")
    if edit.keep is not None and not bool(((edit.keep >= 0) & (edit.keep <= 1)).all()):
        raise ValueError(f"`keep` is from 0 (the value) to 1 (what it is in this run), not {edit.keep.tolist()}")


def listed(
    variants: Iterable[Iterable[Edit]], read: Iterable[Read]
) -> tuple[tuple[tuple[Edit, ...], ...], tuple[Read, ...]]:
    """Variants and reads that can be read again and again, whatever they were given by.

    For example:

        from entity_circuits.runs import edits

        print(edits.listed(iter([iter([])]), iter([])))
    """
    each = several("variants", variants, least=0)
    return tuple(several("edits of a variant", one, least=0) for one in each), several("reads", read, least=0)


def check_place(what: str, where: Tensor, prompts: Prompts) -> None:
    """Raise `ValueError` unless it is one token of each prompt.

    For example:

        from entity_circuits import edits, toy

        p = toy.prompts("apple", "cup")
        edits.check_place("position", p.last, p)
        print("can be used")
    """
    if not isinstance(where, Tensor) or where.dtype != torch.long or where.shape != prompts.last.shape:
        got = f"{where.dtype} of shape {tuple(where.shape)}" if isinstance(where, Tensor) else repr(where)
        raise ValueError(f"{what} must be {len(prompts)} indices in a tensor of int64, not {got}")
    if bool(((where < 0) | (where > prompts.last)).any()):
        raise ValueError(f"{what} must be {len(prompts)} indices from 0 to each prompt's last token, got {where}")


def heard_together(edits: Sequence[Edit]) -> list[list[Edit]]:
    """Those that have `seen_by`, in parts of one layer that act at the same position of every prompt.

    Raises `ValueError` if a head hears two edits at one position of some prompts, and at two positions of others.
    """
    parts: list[tuple[Edit, Tensor, list[Edit]]] = []
    for edit in edits:
        if edit.seen_by is None:
            continue
        for first, seen, part in parts:
            if first.layer == edit.layer and torch.equal(seen, edit.seen_by):
                part.append(edit)
                break
        else:
            for first, seen, part in parts:
                shared = set(edit.heads) & {head for other in part for head in other.heads}
                if first.layer == edit.layer and shared and bool((edit.seen_by == seen).any()):
                    raise ValueError(
                        f"two edits of head {min(shared)} of layer {edit.layer} are seen at one position in some "
                        "prompts and at two in others: run these prompts apart"
                    )
            parts.append((edit, edit.seen_by, [edit]))
    return [part for _, _, part in parts]

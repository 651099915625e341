"""Edits in a replay: made in activations, and in attention over recorded and recomputed keys and values."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..models import forms
from . import blocks
from .attention_inputs import AttentionInputs
from .edits import Edit, heard_together
from .recording import Recording

KEY_AND_VALUE: tuple[Literal["k"], Literal["v"]] = ("k", "v")


def attend(
    recording: Recording,
    layer: int,
    slices: dict[str, Tensor],
    given: AttentionInputs,
    begin: int,
    edits: list[tuple[int, Edit]],
    rows: Tensor,
) -> Tensor:
    """z of some tokens, over recorded and recomputed keys.

    Args:
        recording: keys and values of the positions before `begin` are its own, never copied for a variant.
        layer: of the attention.
        slices: `q`, `k` and `v` of the tokens from `begin` on, each (variants, n, tokens, heads or groups, head_size).
        given: what the attention of this layer is given, of `attention_inputs.of`.
        begin: the first recomputed position.
        edits: of this layer, with the number of the variant; those of scores and those with `seen_by` are made here.
        rows: (n,) 0, 1, ...

    Returns (variants, n, tokens, heads, head_size). Groups of query heads that share a key are treated as more rows of
    one product.
    """
    subject = recording.subject
    attention = blocks.parts(subject, layer)[1]
    variants, _, queries, heads, _ = slices["q"].shape
    groups = slices["k"].shape[3]
    tokens = slices["k"].shape[2]

    end = begin + tokens
    q = blocks.rotated(subject, layer, "q", slices["q"], given, slice(end - queries, end)) * attention.scaling
    q = q.unflatten(3, (groups, heads // groups)).permute(
        1, 3, 0, 4, 2, 5
    )  # n, groups, variants, shared, queries, size
    k = blocks.rotated(subject, layer, "k", slices["k"], given, slice(begin, end)).permute(1, 3, 0, 2, 4)
    v = forms.clipped(subject.model, slices["v"]).permute(1, 3, 0, 2, 4)
    spread = groups // subject.kv_heads
    old_k = blocks.rotated(subject, layer, "k", recording.span("k", layer, 0, begin), given, slice(0, begin))
    old_k = old_k.transpose(1, 2).repeat_interleave(spread, 1)
    old_v = recording.span("v", layer, 0, begin).transpose(1, 2).repeat_interleave(spread, 1)
    before = (q.flatten(2, 4) @ old_k.transpose(-1, -2)).unflatten(2, (variants, heads // groups, queries))
    now = (q.flatten(3, 4) @ k.transpose(-1, -2)).unflatten(3, (heads // groups, queries))
    scores = forms.capped(subject.model, torch.cat((before, now), dim=-1))
    if given.visible is None:
        future = torch.ones(queries, tokens, dtype=torch.bool, device=q.device).tril(tokens - queries).logical_not()
        scores[..., begin:].masked_fill_(future, -torch.inf)
    else:
        scores.masked_fill_(~given.visible[end - queries : end, :end].to(q.device), -torch.inf)

    def entry(index: int, members: Tensor, position: Tensor, *key: Tensor) -> tuple[Tensor | int, ...]:
        """Where q, scores and weights have these heads of a variant, at one position a prompt: (n, members, ...)."""
        here = (rows[:, None], members // (heads // groups), index, members % (heads // groups))
        return (*here, (position - (end - queries))[:, None], *(place[:, None] for place in key))

    for index, edit in edits:
        if edit.site == "score":
            assert edit.position is not None and edit.key is not None
            scores[entry(index, torch.tensor(edit.heads, device=rows.device), edit.position, edit.key)] = -torch.inf
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    z = (weights[..., :begin].flatten(2, 4) @ old_v).unflatten(2, (variants, heads // groups, queries))
    z = z + (weights[..., begin:].flatten(3, 4) @ v).unflatten(3, (heads // groups, queries))
    z = z.permute(2, 0, 4, 1, 3, 5).flatten(3, 4)
    for index, together in _narrow(edits):
        first, seen = together[0], together[0].seen_by
        assert seen is not None
        members = torch.tensor(list(dict.fromkeys(h for edit in together for h in edit.heads)), device=rows.device)
        place = (index, rows[:, None], (seen - (end - queries))[:, None], members)
        if len(together) == 1 and first.site == "v" and first.position is not None:  # z is linear in this one value
            late = (first.position - begin).clamp(min=0)
            fresh = slices["v"][index, rows, late].repeat_interleave(heads // groups, dim=1)
            recorded_ = recording.at("v", layer, first.position)
            before_ = (first.position < begin)[:, None, None].to(z.device)
            standing = torch.where(before_, recorded_, fresh)[:, members]
            heard = weights[entry(index, members, seen, first.position)][..., None]
            z[place] += heard * (
                forms.clipped(subject.model, first.mixed(standing)) - forms.clipped(subject.model, standing)
            )
            continue
        new_k, new_v = (
            _changed(recording, layer, site, slices[site][index], begin, together, members) for site in KEY_AND_VALUE
        )
        asked = entry(index, members, seen)
        heard, new_v = weights[asked], forms.clipped(subject.model, new_v)
        if any(edit.site == "k" for edit in together):
            new_k = blocks.rotated(subject, layer, "k", new_k, given, slice(0, end))
            again = forms.capped(subject.model, torch.einsum("nhd,nthd->nht", q[asked], new_k))
            again = again.masked_fill(scores[asked].isneginf(), -torch.inf)
            heard = again.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
        z[place] = torch.einsum("nht,nthd->nhd", heard, new_v)
    return z


def _narrow(edits: Sequence[tuple[int, Edit]]) -> Iterator[tuple[int, list[Edit]]]:
    """The edits with `seen_by`: of each variant, those that act at the same position together."""
    for index in sorted({index for index, edit in edits if edit.seen_by is not None}):
        for together in heard_together([edit for variant, edit in edits if variant == index]):
            yield index, together


def _changed(
    recording: Recording,
    layer: int,
    site: Literal["k", "v"],
    fresh: Tensor,
    begin: int,
    together: list[Edit],
    members: Tensor,
) -> Tensor:
    """(n, tokens, members, head_size): keys or values of some heads, recorded up to `begin` and then fresh, edited."""
    heads, rows = recording.subject.heads, torch.arange(len(recording), device=members.device)
    old = recording.span(site, layer, 0, begin)
    both = [part[:, :, members // (heads // part.shape[2])] for part in (old, fresh)]
    x = torch.cat(both, dim=1)
    order = members.tolist()
    own = [replace(edit, heads=tuple(map(order.index, edit.heads))) for edit in together]
    apply(x[None], own, 0, layer, site, rows, torch.zeros_like(rows))
    return x


def apply(x: Tensor, edits: Sequence[Edit], variant: int, layer: int, site: str, rows: Tensor, origin: Tensor) -> None:
    """Make one variant's edits of a site, in place.

    Args:
        x: (variants, n, tokens, heads, head_size).
        edits: of which only those of this layer and site are made.
        variant: whose row of `x` is changed.
        layer: which layer `x` is of.
        site: what `x` is.
        rows: (n,) 0, 1, ...
        origin: (n,) the position of the first token.
    """
    for edit in edits:
        if edit.layer != layer or edit.site != site:
            continue
        heads = torch.tensor(edit.heads, device=rows.device)
        if edit.position is None:
            assert edit.value is not None  # all positions are edited, so the tokens begin with the first one
            whole = replace(edit, value=edit.value[:, : x.shape[2]])
            x[variant, :, :, heads] = whole.mixed(x[variant][:, :, heads])
        else:
            where = (variant, rows[:, None], (edit.position - origin)[:, None], heads)
            x[where] = edit.mixed(x[where])

"""The pieces of a block that replay recomputes, each by the model's own submodules, in the order of its form.

`models.forms` says where a family has them. `require` refuses a model of a form that is not there.
"""

import sys
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import boolean, one_of
from ..models import forms
from ..models.alone import ALONE
from ..models.devices import where
from ..models.subject import Subject
from ..tasks.prompts import Prompts
from .attention_inputs import AttentionInputs
from .edits import TIED, Outcome
from .finite import require_numbers

Compared = Literal["q", "k"]
"""What an attention compares with each other."""


def require(subject: Subject) -> None:
    """Raise `NotImplementedError` unless the model's type is one whose blocks replay can recompute.

    For example:

        from entity_circuits import models
        from entity_circuits.runs import blocks

        blocks.require(models.load("qwen2.5-coder-0.5b"))
        print("can be replayed")
    """
    if not forms.of(subject.model).replay:
        raise NotImplementedError(
            f"replay does not know models of the type {type(subject.model).__name__}. "
            'Use method="definition" (whole forward passes, slower, same numbers); what has no such option cannot be '
            "had of this model."
        )


def parts(subject: Subject, layer: int) -> tuple[Any, Any]:
    """A layer of the model, and the attention in it."""
    form = forms.of(subject.model)
    block = form.blocks(subject.model)[layer]
    return block, forms.part(block, form.attention)


@ALONE
def read_by_attention(subject: Subject, layer: int, hidden: Tensor) -> Tensor:
    """What the attention of a layer reads of the residual (..., width): its norm, where the family has one there.

    For example:

        from entity_circuits import runs, toy
        from entity_circuits.runs import blocks

        subject, p = toy.subject(), toy.prompts("apple")
        print(blocks.read_by_attention(subject, 1, runs.record(subject, p).span("residual", 1)).shape)
    """
    name = forms.of(subject.model).before_attention
    return forms.part(parts(subject, layer)[0], name)(hidden) if name else hidden


@ALONE
def project(subject: Subject, layer: int, site: str, x: Tensor, apart: bool = True) -> Tensor:
    """q, k or v of what the attention reads, before any rotary embedding.

    Args:
        subject: the model.
        layer: whose attention.
        site: "q", "k" or "v".
        x: (..., width), as `read_by_attention` gives it.
        apart: one slice a query head also where heads share keys and values; otherwise as the model has them.

    Returns (..., heads, head_size), or (..., kv_heads, head_size).

        from entity_circuits import runs, toy
        from entity_circuits.runs import blocks

        subject, p = toy.subject(), toy.prompts("apple")
        x = blocks.read_by_attention(subject, 1, runs.record(subject, p).span("residual", 1))
        print(blocks.project(subject, 1, "k", x).shape)
    """
    boolean("apart", apart)
    form, attention = forms.of(subject.model), parts(subject, layer)[1]
    if form.fused:
        slices = split(subject, forms.part(attention, form.fused)(x))[site]
    else:
        linear = forms.part(attention, f"{site}_proj")(x)
        name = getattr(form, site)
        flat = linear if name == f"{site}_proj" else forms.part(attention, name)(linear)
        slices = forms.clipped(subject.model, flat.unflatten(-1, (-1, subject.head_size)))
    shared = subject.heads // subject.kv_heads
    return slices.repeat_interleave(shared, dim=-2) if apart and site != "q" and shared > 1 else slices


def split(subject: Subject, fused: Tensor) -> dict[str, Tensor]:
    """q, k and v, each (..., heads or kv_heads, head_size), from the output of one matrix for all three."""
    size = subject.head_size
    if forms.of(subject.model).layout == "head":
        each = fused.unflatten(-1, (subject.heads, 3, size)).unbind(-2)
    else:
        widths = [subject.heads * size, *2 * [(fused.shape[-1] - subject.heads * size) // 2]]
        each = tuple(one.unflatten(-1, (-1, size)) for one in fused.split(widths, dim=-1))
    return dict(zip("qkv", each, strict=True))


def joined(subject: Subject, slices: dict[str, Tensor]) -> Tensor:
    """The output of one matrix for q, k and v that `split` takes apart."""
    each = [slices[site] for site in "qkv"]
    if forms.of(subject.model).layout == "head":
        return torch.stack(each, dim=-2).flatten(-3)
    return torch.cat([one.flatten(-2) for one in each], dim=-1)


@ALONE
def rotated(
    subject: Subject, layer: int, site: Compared, x: Tensor, given: AttentionInputs, positions: slice | Tensor
) -> Tensor:
    """q or k as the attention compares them: clipped and normed where the model does so, then rotated.

    Args:
        subject: the model.
        layer: whose attention.
        site: "q" or "k".
        x: (..., tokens, heads, head_size).
        given: what the attention is given, of `attention_inputs.of`.
        positions: of the tokens: a slice, or one index a token (tokens,).

    Returns the shape of `x`.

        import torch
        from entity_circuits import models
        from entity_circuits.runs import attention_inputs, blocks

        subject = models.load("qwen2.5-coder-0.5b")
        given = attention_inputs.of(subject, width=5)[3]
        k = torch.ones(1, 5, subject.kv_heads, subject.head_size)
        print(blocks.rotated(subject, 3, "k", k, given, slice(0, 5))[0, :, 0, 0])
    """
    one_of("site", site, Compared)
    form, attention = forms.of(subject.model), parts(subject, layer)[1]
    x, norm = forms.clipped(subject.model, x), f"{site}_norm"
    if getattr(form, site) != norm and hasattr(attention, norm):
        x = getattr(attention, norm)(x)
    if given.rotation is None:
        return x
    cos, sin = (part[0, positions] for part in given.rotation)
    turn, size = sys.modules[type(attention).__module__].apply_rotary_pos_emb, cos.shape[-1]
    some = x if size == x.shape[-1] else x[..., :size]
    turned: Tensor = turn(some, some[..., :0, :], cos, sin, unsqueeze_dim=-2)[0]
    return turned if some is x else torch.cat((turned, x[..., size:]), dim=-1)


@ALONE
def attended(subject: Subject, layer: int, hidden: Tensor, z: Tensor) -> Tensor:
    """The residual (..., width) with what a layer's attention adds to it, given its z (..., heads, head_size).

    For example:

        from entity_circuits import runs, toy
        from entity_circuits.runs import blocks

        subject, p = toy.subject(), toy.prompts("apple")
        recording = runs.record(subject, p)
        before, after = (recording.span("residual", layer) for layer in (1, 2))
        middle = blocks.attended(subject, 1, before, recording.span("z", 1))
        print((blocks.fed(subject, 1, before, middle) - after).abs().max())
    """
    form, (block, attention) = forms.of(subject.model), parts(subject, layer)
    out = forms.part(attention, form.out)(z.flatten(-2))
    return hidden + _behind(block, form.after_attention, out)


@ALONE
def fed(subject: Subject, layer: int, hidden: Tensor, middle: Tensor, rows: int = 2048) -> Tensor:
    """The residual behind a layer: with what its MLP adds.

    Args:
        subject: the model.
        layer: whose MLP.
        hidden: (..., width), the residual before the layer, which the MLP reads in parallel forms.
        middle: (..., width), the residual with what the attention has added, of `attended`.
        rows: how many states go together: wide activations stay near the processor.

    Returns (..., width).

        from entity_circuits import runs, toy
        from entity_circuits.runs import blocks

        subject, p = toy.subject(), toy.prompts("apple")
        recording = runs.record(subject, p)
        hidden = recording.span("residual", 2)
        print(blocks.fed(subject, 2, hidden, hidden).shape)
    """
    form, (block, _) = forms.of(subject.model), parts(subject, layer)
    source = hidden.expand_as(middle) if form.side_by_side(subject.model) else middle
    norm = getattr(block, form.before_mlp, None) if form.before_mlp else nn.Identity()
    norm = getattr(block, form.before_attention) if norm is None else norm
    mlp = forms.part(block, form.mlp)
    flat = source.reshape(-1, source.shape[-1])
    # Some MLPs (mixtures of experts) take only batches of sequences.
    parts_ = [_behind(block, form.after_mlp, mlp(norm(part)[None])[0]) for part in flat.split(rows)]
    return middle + (parts_[0] if len(parts_) == 1 else torch.cat(parts_)).view(middle.shape)


def _behind(block: Any, norm: str, out: Tensor) -> Tensor:
    """What is added to the residual, of what attention or MLP give out."""
    out = getattr(block, norm)(out) if norm else out
    multiplier = getattr(block, "residual_multiplier", None)
    return out if multiplier is None else out * multiplier


@ALONE
def embedded(subject: Subject, ids: Tensor, positions: Tensor) -> Tensor:
    """The residual (..., width) before the first layer, of tokens (...,) at positions (...,), by the model itself.

    For example:

        import torch
        from entity_circuits import toy
        from entity_circuits.runs import blocks

        print(blocks.embedded(toy.subject(), torch.tensor([3, 4]), torch.tensor([0, 7])).shape)
    """
    form = forms.of(subject.model)

    def stop(_: Any, arguments: tuple[Tensor, ...], options: dict[str, Tensor]) -> None:
        raise _Reached(arguments[0] if arguments else options["hidden_states"])

    hook = form.blocks(subject.model)[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        flat = {"input_ids": ids.reshape(-1, 1), "position_ids": positions.reshape(-1, 1)}
        flat = {name: one.to(subject.device) for name, one in flat.items()}
        forms.part(subject.model, form.body)(**flat, use_cache=False)
    except _Reached as reached:
        return reached.hidden.reshape(*ids.shape, -1)
    finally:
        hook.remove()
    raise AssertionError("the first layer was not reached")


class _Reached(Exception):
    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@ALONE
def readout(
    subject: Subject,
    hidden: Tensor | None,
    targets: Tensor,
    reads: tuple[Tensor, ...],
    vocabulary: bool = True,
    rows: int = 2048,
    words: int = 4096,
    prompts: Prompts | None = None,
) -> Outcome:
    """Logits of the targets, their log-probabilities and the most likely token; no row's logits are ever kept.

    Args:
        subject: the model.
        hidden: (variants, n, width), the residual after the last layer, not normed yet; None: nothing is read out.
        targets: (n, k) tokens; those below 0 get NaN.
        reads: passed on into the outcome.
        vocabulary: without it there are logits of the targets alone: the log-probabilities are NaN, the most likely
            token is -1.
        rows: how many rows go together.
        words: how many words of the vocabulary go together, few enough for the processor's cache; a running
            log-sum-exp joins them.
        prompts: the n prompts, to name the one after which there are no numbers.

    Returns an `Outcome`, float32 or better. Raises `ValueError` for logits that are NaN or infinite.

        from entity_circuits import runs, toy
        from entity_circuits.runs import blocks

        subject, p = toy.subject(), toy.prompts("apple")
        hidden = runs.record(subject, p).stream(-1, p.last)
        print(blocks.readout(subject, hidden[None], p.answer_ids[:, None], ()).logprob.exp())  # 0.834
    """
    boolean("vocabulary", vocabulary)
    if hidden is None:
        variants, n = (reads[0].shape[:2]) if reads else (0, 0)
        nothing = torch.full((variants, n, targets.shape[1]), torch.nan, device=targets.device)
        return Outcome(nothing, nothing, torch.full((variants, n), -1, device=targets.device), reads)
    variants, n, width = hidden.shape
    form, head = forms.of(subject.model), subject.model.get_output_embeddings()
    norm = forms.part(subject.model, f"{form.body}.{form.norm}")
    place, home = head.weight.device, targets.device
    states = norm(hidden.reshape(-1, width).to(where(norm, hidden.device))).to(place)
    wide = torch.promote_types(states.dtype, torch.float32)
    rounded = wide != states.dtype
    targets = targets.to(place)
    wanted = targets.clamp(min=0)
    chosen = torch.einsum("vnd,nkd->vnk", states.view(variants, n, width).to(wide), head.weight[wanted].to(wide))
    if head.bias is not None:
        chosen = chosen + head.bias[wanted]
    chosen = forms.rescaled(subject.model, chosen)
    if not vocabulary:
        require_numbers(subject, prompts, chosen.clamp(min=0).sum(-1))  # a word that cannot be said has minus infinity
    chosen = chosen.masked_fill(targets < 0, torch.nan)
    if not vocabulary:
        chosen = chosen.to(home)
        return Outcome(chosen, torch.full_like(chosen, torch.nan), torch.full((variants, n), -1, device=home), reads)
    totals, tops, picked = [], [], []
    for part, some in zip(states.split(rows), wanted.expand(variants, -1, -1).flatten(0, 1).split(rows), strict=True):
        total = torch.full((len(part),), -torch.inf, dtype=wide, device=part.device)
        best, top = total.clone(), torch.zeros(len(part), dtype=torch.long, device=part.device)
        tied = torch.zeros_like(top, dtype=torch.bool)
        exact = torch.zeros(some.shape, dtype=wide, device=part.device)
        for begin in range(0, head.weight.shape[0], words):
            bias = None if head.bias is None else head.bias[begin : begin + words]
            logits = forms.rescaled(subject.model, F.linear(part, head.weight[begin : begin + words], bias)).to(wide)
            if rounded:
                here = (some >= begin) & (some < begin + logits.shape[1])
                exact = torch.where(here, logits.gather(1, (some - begin).clamp(0, logits.shape[1] - 1)), exact)
            total = torch.logaddexp(total, logits.logsumexp(-1))
            high, index = logits.detach().max(-1)
            ahead = torch.nonzero(high > best)[:, 0]  # few rows, but in the first blocks
            tied |= high == best
            tied[ahead] = (logits.detach()[ahead] == high[ahead, None]).sum(-1) > 1
            top = torch.where(high > best, index + begin, top)
            best = torch.maximum(best, high)
        totals.append(total)
        tops.append(top.masked_fill(tied, TIED))
        picked.append(exact)
    if rounded:  # the logits that the sum is over: one that is better than these could be more than all of them
        chosen = torch.cat(picked).view(chosen.shape).masked_fill(targets < 0, torch.nan)
    total = torch.cat(totals).view(variants, n, 1)
    require_numbers(subject, prompts, total[..., 0])
    numbers = (chosen, (chosen - total).clamp(max=0), torch.cat(tops).view(variants, n))
    logits, logprobs, best = (one.to(home) for one in numbers)
    return Outcome(logits, logprobs, best, reads)

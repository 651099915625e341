"""The pieces of a Llama-form model that replay recomputes, each by the model's own submodules.

Llama, Mistral, Qwen2, Qwen3 (with norms of q and k) and SmolLM2 have this form. `require` refuses any other.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.subject import Subject
from .edits import Outcome


def require(subject: Subject) -> None:
    """Raise `NotImplementedError` unless the model's blocks have the form that replay recomputes.

    For example:

        from entity_circuits import models
        from entity_circuits.runs import blocks

        blocks.require(models.load("qwen2.5-coder-0.5b"))
        print("can be replayed")
    """
    model = subject.model
    block = model.model.layers[0]
    parts = {name for name, _ in block.named_children()}
    form = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
    inside = {name for name, _ in block.self_attn.named_children()}
    windows = [getattr(layer.self_attn, "sliding_window", None) for layer in model.model.layers]
    scaled = [
        name
        for name in ("final_logit_softcapping", "logit_scale", "residual_multiplier")
        if getattr(model.config, name, None)
    ]
    known = parts == form and {"q_proj", "k_proj", "v_proj", "o_proj"} <= inside
    known = known and inside <= {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}
    if not known or any(windows) or scaled or not hasattr(model.model, "rotary_emb"):
        raise NotImplementedError(
            f"{type(model).__name__} is not of the Llama form that replay recomputes (a block has {sorted(parts)}, "
            f"its attention {sorted(inside)}; sliding windows: {any(windows)}). "
            'Use method="definition": whole forward passes, slower, same numbers.'
        )


def project(subject: Subject, attention: Any, site: str, x: Tensor, apart: bool = True) -> Tensor:
    """q, k or v of some hidden states, before any rotary embedding.

    Args:
        subject: the model.
        attention: the attention module of one of its layers.
        site: "q", "k" or "v".
        x: (..., width), normed already.
        apart: one slice a query head also where heads share keys and values; otherwise as the model has them.

    Returns (..., heads, head_size), or (..., kv_heads, head_size).

        from entity_circuits import models, prompts, runs
        from entity_circuits.runs import blocks

        subject = models.load("qwen2.5-coder-0.5b")
        recording = runs.record(subject, prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"]))
        layer = subject.model.model.layers[3]
        x = layer.input_layernorm(recording.residual[3])
        print(blocks.project(subject, layer.self_attn, "k", x).shape)
    """
    slices = getattr(attention, f"{site}_proj")(x).unflatten(-1, (-1, subject.head_size))
    shared = subject.heads // subject.kv_heads
    return slices.repeat_interleave(shared, dim=-2) if apart and site != "q" and shared > 1 else slices


def rotated(attention: Any, norm: str, x: Tensor, rotation: tuple[Tensor, Tensor], positions: slice | Tensor) -> Tensor:
    """q or k as the attention compares them: normed where the model does so, then turned by the rotary embedding.

    Args:
        attention: the attention module of a layer.
        norm: "q_norm" or "k_norm", which some models have.
        x: (..., tokens, heads, head_size).
        rotation: what the model's `rotary_emb` gives for one sequence.
        positions: of the tokens: a slice, or one index a token (tokens,).

    Returns the shape of `x`.

        import torch
        from entity_circuits import models
        from entity_circuits.runs import blocks

        subject = models.load("qwen2.5-coder-0.5b")
        rotation = subject.model.model.rotary_emb(torch.ones(1), torch.arange(5)[None])
        k = torch.ones(1, 5, subject.kv_heads, subject.head_size)
        print(blocks.rotated(subject.model.model.layers[3].self_attn, "k_norm", k, rotation, slice(0, 5))[0, :, 0, 0])
    """
    x = getattr(attention, norm)(x) if hasattr(attention, norm) else x
    half = x.shape[-1] // 2
    cos, sin = (part[0, positions, None] for part in rotation)
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def mlp(block: Any, hidden: Tensor, rows: int = 2048) -> Tensor:
    """The block's norm and MLP of hidden states (..., width), `rows` of them at a time: wide activations stay near
    the processor.

        import torch
        from entity_circuits import models
        from entity_circuits.runs import blocks

        model = models.load("qwen2.5-coder-0.5b").model
        print(blocks.mlp(model.model.layers[3], torch.ones(2, 5, model.config.hidden_size)).shape)
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    parts = [block.mlp(block.post_attention_layernorm(part)) for part in flat.split(rows)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(hidden.shape)


def readout(
    subject: Subject,
    hidden: Tensor | None,
    targets: Tensor,
    reads: tuple[Tensor, ...],
    vocabulary: bool = True,
    rows: int = 2048,
    words: int = 4096,
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

    Returns an `Outcome`, float32 or better.

        from entity_circuits import runs, toy
        from entity_circuits.runs import blocks

        subject, p = toy.subject(), toy.prompts("apple")
        hidden = runs.record(subject, p).residual[-1, :, -1]  # at `last`
        print(blocks.readout(subject, hidden[None], p.answer_ids[:, None], ()).logprob.exp())  # 0.834
    """
    if hidden is None:
        variants, n = (reads[0].shape[:2]) if reads else (0, 0)
        nothing = torch.full((variants, n, targets.shape[1]), torch.nan, device=targets.device)
        return Outcome(nothing, nothing, torch.full((variants, n), -1, device=targets.device), reads)
    variants, n, width = hidden.shape
    head = subject.model.lm_head
    states = subject.model.model.norm(hidden.reshape(-1, width))
    wide = torch.promote_types(states.dtype, torch.float32)
    wanted = targets.clamp(min=0)
    chosen = torch.einsum("vnd,nkd->vnk", states.view(variants, n, width).to(wide), head.weight[wanted].to(wide))
    if head.bias is not None:
        chosen = chosen + head.bias[wanted]
    chosen = chosen.masked_fill(targets < 0, torch.nan)
    if not vocabulary:
        unknown = torch.full((variants, n), -1, device=targets.device)
        return Outcome(chosen, torch.full_like(chosen, torch.nan), unknown, reads)
    totals, tops = [], []
    for part in states.split(rows):
        total = torch.full((len(part),), -torch.inf, dtype=wide, device=part.device)
        best, top = total.clone(), torch.zeros(len(part), dtype=torch.long, device=part.device)
        for begin in range(0, head.weight.shape[0], words):
            bias = None if head.bias is None else head.bias[begin : begin + words]
            logits = F.linear(part, head.weight[begin : begin + words], bias).to(wide)
            total = torch.logaddexp(total, logits.logsumexp(-1))
            high, index = logits.detach().max(-1)
            top = torch.where(high > best, index + begin, top)
            best = torch.maximum(best, high)
        totals.append(total)
        tops.append(top)
    total = torch.cat(totals).view(variants, n, 1)
    return Outcome(chosen, chosen - total, torch.cat(tops).view(variants, n), reads)

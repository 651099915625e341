"""The forms of block that are known here: by the type of a model, where its parts are and how they follow each other.

All that recording, replaying and checking know about a family stands in `FORMS`. A model of a type that is not there
can be run under edits if its parts are called as in Llama (`method="definition"`), but never replayed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..arguments import one_of

Layout = Literal["columns", "head"]
Rescaling = Literal["", "logit_scale", "logits_scaling", "final_logit_softcapping"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of decoder block. Names are attributes, with dots; "" where a family has no such part.

    `body` holds `layers` and the final `norm`. A layer holds `attention` (with `q`, `k`, `v`, or all three in `fused`,
    laid out as `columns`, one after the other, or by `head`; then `out`) and `mlp`, each with a norm before and behind
    it (the MLP shares that of the attention where it has none). `q` and `k` are where they are edited: behind the norm
    where that mixes heads. In a `parallel` form, the MLP reads what the attention reads, not what that has added; the
    flag may be a setting of the config. `rotates_all` is false where only layers with a sliding window are rotated.
    `clips`: whether q, k and v are clipped, by the config's `clip_qkv`. `caps`: whether attention scores are capped, by
    the config's `attn_logit_softcapping`. `logits` is the setting by which those of the output matrix are multiplied,
    divided or capped. `refused` names settings that, where switched on, make a model another one than this. `replay`
    says whether the form may be replayed at all.
    """

    body: str = "model"
    layers: str = "layers"
    norm: str = "norm"
    attention: str = "self_attn"
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    fused: str = ""
    layout: Layout = "columns"
    out: str = "o_proj"
    before_attention: str = "input_layernorm"
    after_attention: str = ""
    before_mlp: str = "post_attention_layernorm"
    after_mlp: str = ""
    mlp: str = "mlp"
    parallel: bool | str = False
    rotates_all: bool = True
    clips: bool = False
    caps: bool = False
    logits: Rescaling = ""
    refused: tuple[str, ...] = ("use_bidirectional_attention",)
    replay: bool = True

    def __post_init__(self) -> None:
        one_of("layout", self.layout, Layout)
        one_of("logits", self.logits, Rescaling)

    def blocks(self, model: Any) -> Any:
        """The layers of a model, or of its nnsight view."""
        return part(part(model, self.body), self.layers)

    def side_by_side(self, model: Any) -> bool:
        """Whether attention and MLP of this model read the same."""
        return self.parallel if isinstance(self.parallel, bool) else bool(getattr(model.config, self.parallel))


_LLAMA = Form()
_FOUR_NORMS = Form(
    after_attention="post_attention_layernorm",
    before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
    logits="final_logit_softcapping",
)
_POST_NORMS = Form(
    q="q_norm",
    k="k_norm",
    before_attention="",
    after_attention="post_attention_layernorm",
    before_mlp="",
    after_mlp="post_feedforward_layernorm",
)
_COHERE = Form(before_mlp="input_layernorm", parallel=True, logits="logit_scale", refused=("use_qk_norm",))

FORMS: dict[str, Form] = {
    **dict.fromkeys(("Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3", "Gemma"), _LLAMA),
    **dict.fromkeys(("Arcee", "Ernie4_5", "Glm", "Helium", "Nemotron", "SeedOss", "Starcoder2"), _LLAMA),
    **dict.fromkeys(("Mixtral", "Qwen2Moe", "Qwen3Moe"), _LLAMA),
    "Gemma2": replace(_FOUR_NORMS, caps=True),
    "Gemma3": _FOUR_NORMS,
    **dict.fromkeys(("Olmo2", "Olmo3"), _POST_NORMS),
    "Granite": Form(logits="logits_scaling"),
    "Olmo": Form(clips=True),
    "Glm4": Form(after_attention="post_self_attn_layernorm", after_mlp="post_mlp_layernorm"),
    "Cohere": _COHERE,
    "Cohere2": replace(_COHERE, rotates_all=False),
    "Phi": Form(
        norm="final_layernorm", out="dense", before_mlp="input_layernorm", parallel=True, refused=("qk_layernorm",)
    ),
    "Phi3": Form(fused="qkv_proj"),
    "StableLm": Form(parallel="use_parallel_residual", refused=("qk_layernorm",)),
    "GPT2LMHeadModel": Form(
        body="transformer",
        layers="h",
        norm="ln_f",
        attention="attn",
        fused="c_attn",
        out="c_proj",
        before_attention="ln_1",
        before_mlp="ln_2",
        refused=("add_cross_attention", "reorder_and_upcast_attn"),
    ),
    "GPTNeoX": Form(
        body="gpt_neox",
        norm="final_layer_norm",
        attention="attention",
        fused="query_key_value",
        layout="head",
        out="dense",
        parallel="use_parallel_residual",
    ),
}
"""By the name of the class in transformers, without `ForCausalLM`."""

LIKE_LLAMA = Form(replay=False)
"""What is tried on a model of an unknown type."""


def of(model: Any) -> Form:
    """The form of a model, by its type: its own class of transformers, not one derived from it.

    For example:

        from entity_circuits import models
        from entity_circuits.models import forms

        print(forms.of(models.load("qwen2.5-coder-0.5b").model).replay)  # True
    """
    kind = type(model)
    if not kind.__module__.startswith("transformers.models."):
        return LIKE_LLAMA
    return FORMS.get(kind.__name__.removesuffix("ForCausalLM"), LIKE_LLAMA)


def part(parent: Any, path: str) -> Any:
    """The part of a module, or of its nnsight view, that a path with dots names. `AttributeError` if there is none."""
    for name in path.split("."):
        parent = getattr(parent, name)
    return parent


def rotates_alike_to(model: Any) -> int | None:
    """How many tokens a batch may have, so that how each is rotated does not depend on how many they are; None: any.

    Longrope has other frequencies for all tokens of a batch in which one is beyond `original_max_position_embeddings`:
    a prompt would give other numbers by itself, in a batch, and continued from a prefix.
    """
    config = model.config
    ends = [
        one.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        for one in rotations(getattr(config, "rope_parameters", None))
        if one.get("rope_type") == "longrope"
    ]
    return min((end for end in ends if end is not None), default=None)


def rotations(parameters: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The rotations of a config by its `rope_parameters`: one for all layers, or one for each type of layer."""
    told = parameters or {}
    return [told, *(one for one in told.values() if isinstance(one, Mapping))]


def rescaled(model: Any, logits: Tensor) -> Tensor:
    """The logits as a model gives them out, from what its output matrix gives: some scale or cap them, one by one.

    For example:

        import torch
        from entity_circuits import toy
        from entity_circuits.models import forms

        print(forms.rescaled(toy.subject().model, torch.tensor([10.0, 100.0])))  # this one does neither
    """
    form = of(model)
    by = getattr(model.config, form.logits) if form.logits else None
    if by is None:
        return logits
    if form.logits == "final_logit_softcapping":
        return torch.tanh(logits / by) * by
    return logits / by if form.logits == "logits_scaling" else logits * by


def capped(model: Any, scores: Tensor) -> Tensor:
    """Attention scores as the softmax gets them: some families cap them."""
    cap = model.config.attn_logit_softcapping if of(model).caps else None
    return scores if cap is None else torch.tanh(scores / cap) * cap


def clipped(model: Any, slices: Tensor) -> Tensor:
    """q, k or v as the attention uses them: some families clip them behind the projection."""
    limit = model.config.clip_qkv if of(model).clips else None
    return slices if limit is None else slices.clamp(-limit, limit)

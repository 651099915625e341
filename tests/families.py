"""Tiny random models of every family that `models.forms` knows, in float64, with every part of a family at work.

Windows are shorter than the prompts, heads share keys and values where a family can, clips clip, caps cap.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import tiny
import torch
import transformers
from entity_circuits.models.subject import Subject, wrap

WINDOW = 9
MIXED = ["sliding_attention", "full_attention"] * 2
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"num_key_value_heads": 8},
    "Mistral": {"head_dim": 16, "sliding_window": WINDOW},
    "Qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "Qwen3": {"head_dim": 16},
    "Gemma": {"head_dim": 16},
    "Gemma2": {
        "head_dim": 16,
        "sliding_window": WINDOW,
        "attn_implementation": "eager",
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
        "query_pre_attn_scalar": 24,
    },
    "Gemma3": {
        "head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": MIXED,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 3.0,  # which this family has, and does not use
        "final_logit_softcapping": 4.0,
    },
    "Olmo": {"clip_qkv": 1.5},
    "Olmo2": {},
    "Olmo3": {"sliding_window": WINDOW, "layer_types": MIXED},
    "Granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
        "logits_scaling": 2.0,
    },
    "Phi": {},
    "Phi3": {"sliding_window": WINDOW},
    "SmolLM3": {"no_rope_layers": [1, 0, 1, 0]},
    "Glm": {"head_dim": 16},
    "Glm4": {"head_dim": 16},
    "Nemotron": {},
    "StableLm": {},
    "Cohere": {"logit_scale": 0.5},
    "Cohere2": {"logit_scale": 0.5, "sliding_window": WINDOW, "layer_types": MIXED, "head_dim": 16},
    "GPT2": {"num_key_value_heads": None, "scale_attn_by_inverse_layer_idx": True},
    "GPTNeoX": {"num_key_value_heads": None},
    "Mixtral": {"num_local_experts": 4, "sliding_window": WINDOW},
    "Qwen2Moe": {**EXPERTS, "shared_expert_intermediate_size": 48},
    "Qwen3Moe": {**EXPERTS, "head_dim": 16},
    "Starcoder2": {"sliding_window": WINDOW},
    "Ernie4_5": {"head_dim": 16},
    "Helium": {"head_dim": 8},
    "Arcee": {},
    "SeedOss": {"head_dim": 16},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPTNeoX, not parallel": ("GPTNeoX", {"use_parallel_residual": False}),
    "StableLm, parallel": ("StableLm", {"use_parallel_residual": True}),
}
"""Further settings of a family that change its form."""


def subject(name: str, dtype: torch.dtype = torch.float64, **more: Any) -> Subject:
    """A tiny model of a family (or of one of `VARIANTS`); biases and norms are random too."""
    family, settings = VARIANTS.get(name, (name, {}))
    options = {**tiny.SHAPE, **FAMILIES[family], **settings, **more}
    options = {key: value for key, value in options.items() if value is not None or key == "bos_token_id"}
    kind = {"Gemma3": "Gemma3Text"}.get(family, family)
    config = getattr(transformers, f"{kind}Config")(**options)
    made_of = getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = made_of(config)
        tiny.spread(model)
    if "num_experts_per_tok" in options or "num_local_experts" in options:
        model.set_experts_implementation("eager")  # the other ones know no float64
    return wrap(model.to(dtype), tiny.tokenizer(), name=f"tiny {name}")


class _Exact:
    """`torch`, where float32 is float64."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name in ("float32", "float") else getattr(torch, name)


@contextmanager
def exact(subject: Subject) -> Iterator[None]:
    """Inside, what a family computes in float32 whatever its dtype (norms, softmax, rotation) is computed in float64.

    Otherwise its own rounding hides differences below 1e-7.
    """
    module = sys.modules[type(subject.model).__module__]
    with patch.object(module, "torch", _Exact()), patch.object(torch.Tensor, "float", torch.Tensor.double):
        yield

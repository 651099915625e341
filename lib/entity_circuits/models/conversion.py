"""Whether all that a GGUF file says of a model is in what transformers made of it.

A GGUF file carries its config as key-value pairs under the name of its architecture, and the reader in transformers
passes over keys and tensors that it does not know: a scaled rotation, soft caps, multipliers, a second set of biases.
So the rule is the other way round. Every key of the architecture is one of `FIELDS`, and the unpacked config says the
same, or it is in `NOTHING` with that value; and the tensors of the file are those of the unpacked model, none more and
none less. Anything else is refused.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .cached import FetchError

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Those whose unpacked weights are tested here to compute what the file's model did."""

FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "vocab_size": "vocab_size",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rope_theta",
}
"""Keys of an architecture, and the field of the config that has to say the same."""

NOTHING: dict[str, tuple[object, ...]] = {
    "rope.scaling.type": ("none",),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "use_parallel_residual": (False,),
    "tensor_data_layout": ("Meta AI original pth",),
}
"""Keys that say nothing when they have these values."""

SPLITS = frozenset({"qwen2", "deepseek-r1-qwen", "llama-bpe", "llama3", "llama-v3", "tekken", "smollm", "gpt-2"})
"""The ways of cutting a text before byte pairs are joined (`tokenizer.ggml.pre`) that are rebuilt."""

DIGITS = frozenset({"smollm"})
"""Those of them in which each digit stands alone, which transformers loses and `rebuilt` puts back."""

_WORDS = {"model", "pre", "tokens", "token_type", "token_type_count", "scores", "merges", "add_space_prefix"}
_WAY_OUT = "Take this model's safetensors instead of a GGUF file."


def facts(reader: Any) -> dict[str, Any]:
    """The keys and values of an open GGUF file; of the tokenizer's lists, as the vocabulary, only the lengths."""
    return {
        name: len(field.data) if name.startswith("tokenizer.") and len(field.types) > 1 else field.contents()
        for name, field in reader.fields.items()
    }


def require_known(told: Mapping[str, Any], file: str) -> None:
    """Raise `FetchError` if a GGUF file says something that the unpacked model would lose; before anything is unpacked.

    `told` are its `facts`. For example:

        from entity_circuits.models import conversion

        assert conversion.require_known({"general.architecture": "qwen2", "qwen2.block_count": 24}, "mine.gguf") is None
    """
    architecture, kind = told.get("general.architecture"), told.get("general.type", "model")
    if architecture not in ARCHITECTURES or kind != "model":
        what = f"a {kind} of the architecture {architecture}; unpacked are models of {', '.join(ARCHITECTURES)}"
        raise FetchError(f"{file} holds {what}. {_WAY_OUT}")
    lost = []
    for name, value in told.items():
        group, _, key = name.partition(".")
        if group == architecture:
            known = key in FIELDS or value in NOTHING.get(key, ())
        elif name.startswith("tokenizer.ggml."):
            key = key.removeprefix("ggml.")
            known = key in _WORDS or key.endswith("_token_id") or key in ("add_bos_token", "add_eos_token")
        else:
            known = True  # names, licences, templates of chats; nothing that computes
        if not known:
            lost.append(f"{name} = {value!r}"[:100])
    if told.get("tokenizer.ggml.model") == "gpt2" and told.get("tokenizer.ggml.pre", "gpt-2") not in SPLITS:
        lost.append(f"tokenizer.ggml.pre = {told['tokenizer.ggml.pre']!r}")
    if lost:
        raise FetchError(f"{file} says what would be lost in unpacking: {'; '.join(lost)}. {_WAY_OUT}")


def rebuilt(tokenizer: Any, told: Mapping[str, Any]) -> Any:
    """The tokenizer that transformers made of a GGUF file, cutting a text as the file says.

    For example:

        from entity_circuits import models
        from entity_circuits.models import conversion

        tokenizer = models.load("qwen2.5-coder-0.5b").tokenizer
        print(conversion.rebuilt(tokenizer, {"tokenizer.ggml.pre": "qwen2"}) is tokenizer)
    """
    if told.get("tokenizer.ggml.pre") in DIGITS:
        inner = tokenizer.backend_tokenizer
        stated = json.loads(inner.to_str())
        first = {"type": "Digits", "individual_digits": True}
        stated["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [first, stated["pre_tokenizer"]]}
        tokenizer._tokenizer = type(inner).from_str(json.dumps(stated))
    return tokenizer


def require_kept(told: Mapping[str, Any], tensors: set[str], model: Any, tokenizer: Any, file: str) -> None:
    """Raise `FetchError` unless an unpacked model says and holds the same as its GGUF file.

    Args:
        told: `facts` of the file.
        tensors: the names of its tensors.
        model: what was unpacked.
        tokenizer: its tokenizer.
        file: what errors call it.

    Where the file is silent, what llama.cpp assumes counts: a rotary base of 10000, as many key/value heads as heads,
    heads of hidden size / heads, no window.
    """
    wrong = [*_fields_apart(told, model.config), *_tensors_apart(tensors, told, model)]
    if (given := tokenizer("The cup")["input_ids"]) and not wrong:
        for name, end in (("bos", given[0]), ("eos", given[-1])):
            wanted, there = told.get(f"tokenizer.ggml.add_{name}_token"), end == getattr(tokenizer, f"{name}_token_id")
            if wanted is not None and wanted != there:
                wrong.append(f"tokenizer.ggml.add_{name}_token is {wanted}, and the tokenizer does otherwise")
    if wrong:
        raise FetchError(f"{file} was not unpacked as it is: {'; '.join(wrong[:4])}. {_WAY_OUT}")


def _fields_apart(told: Mapping[str, Any], config: Any) -> list[str]:
    width, heads = config.hidden_size, config.num_attention_heads
    got = {field: getattr(config, field, None) for field in FIELDS.values()}
    got["head_dim"] = got["head_dim"] or width // heads
    got["rope_theta"] = config.rope_parameters["rope_theta"]
    assumed = {
        "context_length": got["max_position_embeddings"],
        "vocab_size": told.get("tokenizer.ggml.tokens"),
        "attention.head_count_kv": heads,
        "attention.sliding_window": None,
        "rope.freq_base": 10000.0,
        **dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), width // heads),
    }
    if f"{told['general.architecture']}.attention.key_length" in told:
        assumed["rope.dimension_count"] = told[f"{told['general.architecture']}.attention.key_length"]
    wrong = []
    for key, field in FIELDS.items():
        value, mine = told.get(f"{told['general.architecture']}.{key}", assumed.get(key)), got[field]
        if isinstance(value, int | float) and isinstance(mine, int | float):
            same = math.isclose(value, mine, rel_tol=1e-6)  # the file keeps float32
        else:
            same = value == mine
        if not same:
            wrong.append(f"{key} is {value}, and the config says {field} {mine}")
    if (kind := config.rope_parameters.get("rope_type", "default")) != "default":
        wrong.append(f"the rotation is not scaled, and the config says {kind}")
    return wrong


def names(told: Mapping[str, Any], config: Any) -> Callable[[str], str]:
    """How a GGUF file with these `facts` calls the parameters of a model: a function of the name in transformers."""
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    stems = gguf.get_tensor_name_map(kinds[told["general.architecture"]], config.num_hidden_layers)

    def name(parameter: str) -> str:
        stem, _, kind = parameter.rpartition(".")
        return f"{stems.get_name(stem)}.{kind}"

    return name


def rows(values: np.ndarray, tensor: str, architecture: str, config: Any) -> np.ndarray:
    """The unpacked values of a tensor with their rows in the order in which transformers has them.

    Files of Llama models keep the two numbers that a rotation turns together side by side; transformers keeps them half
    a head apart. That concerns the queries' and the keys' rows.
    """
    kind = tensor.split(".")[-2]
    if architecture == "llama" and kind in ("attn_q", "attn_k"):
        heads = config.num_attention_heads if kind == "attn_q" else config.num_key_value_heads
        values = values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    return np.ascontiguousarray(values)


def _tensors_apart(tensors: set[str], told: Mapping[str, Any], model: Any) -> list[str]:
    expected = set(map(names(told, model.config), model.state_dict()))
    if model.config.tie_word_embeddings:
        expected.discard("output.weight")
    lost, made_up = sorted(tensors - expected), sorted(expected - tensors)
    return [f"it holds {', '.join(lost[:3])}, which no part of the model takes"] * bool(lost) + [
        f"it lacks {', '.join(made_up[:3])}"
    ] * bool(made_up)

"""Tiny random models with a word-level tokenizer: the experiments in milliseconds, with effects that are not tiny.

The weights are random, so nothing is known about the answers; what holds for every model can be tested on them. The
four families differ where an experiment could go wrong: Qwen2 has biases on q, k and v, Qwen3 norms q and k by head,
Mistral has a head size that is not hidden size / heads; all but Llama share keys and values between heads.
"""

import string
from pathlib import Path
from typing import Any, Literal

import gguf
import torch
import transformers
from entity_circuits.models.subject import Subject, wrap
from entity_circuits.tasks import vocabulary
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

Family = Literal["llama", "qwen2", "qwen3", "mistral"]
FAMILIES: tuple[Family, ...] = ("llama", "qwen2", "qwen3", "mistral")

SMALL_WORDS = ("the", "The", "is", "in", "Box", "box", "contains", "holds", "has", "and", "a", "an", "There", "dog")


def words() -> list[str]:
    """Every token of the tokenizer in the order of its id: specials, punctuation, then words bare and after a space."""
    spaced = [*SMALL_WORDS, *string.ascii_uppercase, *string.digits, "10", *vocabulary.objects()]
    both = [form for word in dict.fromkeys(spaced) for form in (word, "Ġ" + word)]
    return list(dict.fromkeys(["<unk>", "<eos>", *",.:;!?'\"-Ċ", *both]))


def tokenizer() -> Any:
    """One token a word (with the space before it, if any) and one a punctuation mark; nothing is put before a text."""
    vocabulary_ids = {word: index for index, word in enumerate(words())}
    inner = Tokenizer(models.WordLevel(vocabulary_ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]|\n"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")


def sentencepiece() -> Any:
    """A tokenizer like Llama's: words are marked by the space before them, and a text gets one of its own."""
    pieces = [f"▁{word}" for word in (*SMALL_WORDS, *vocabulary.LABELS, *vocabulary.objects())]
    vocabulary_ids = {piece: i for i, piece in enumerate(dict.fromkeys(["<unk>", "</s>", "▁", ",", ".", *pieces]))}
    inner = Tokenizer(models.WordLevel(vocabulary_ids, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", behavior="merged_with_next"), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")


SHAPE: dict[str, Any] = {
    "vocab_size": len(words()),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "attn_implementation": "sdpa",
}
"""What the config of a tiny model says, whatever its family."""


def spread(made: Any) -> None:
    """Random biases and norms, which start as zeros and ones: what is left out of a computation shows."""
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif "norm" in name or "ln_" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.1)


def model(family: Family = "qwen2", *, seed: int = 0, dtype: torch.dtype = torch.float32, layers: int = 4) -> Any:
    """A random causal LM of hidden size 64; weights of standard deviation 0.2, biases 0.5, norms 1 +- 0.1."""
    shape = SHAPE | {"num_hidden_layers": layers, "num_key_value_heads": 8 if family == "llama" else 2}
    prefix = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral"}[family]
    if family in ("qwen3", "mistral"):
        shape["head_dim"] = 16 if family == "mistral" else 8
    config = getattr(transformers, f"{prefix}Config")(**shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = getattr(transformers, f"{prefix}ForCausalLM")(config)
        spread(made)
    return _exact_norms(made.to(dtype)) if dtype == torch.float64 else made.to(dtype)


def seven(width: int, vocabulary: int = 32_000) -> Any:
    """A random Llama of two layers with Llama-7B's ratios: 32 heads, an MLP of 2.69 widths. 4096 is the real width."""
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 11008 // 4096,
        num_hidden_layers=2,
        num_attention_heads=32,
        initializer_range=0.8 / width**0.5,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config)


def double(attention: Any) -> None:
    """Make an attention give out twice what its form says, by a class of its own: a hook would be refused.

    Before anything ran: nnsight keeps the forward that it found.
    """
    kind = type(attention)

    def forward(self: Any, *given: Any, **options: Any) -> Any:
        out, scores = kind.forward(self, *given, **options)
        return 2 * out, scores

    attention.__class__ = type("Twice", (kind,), {"forward": forward, "__module__": kind.__module__})


def tuned(made: Any) -> Any:
    """The same model with every weight moved by a little, in place: as if by fine-tuning."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in made.parameters():
            parameter += torch.randn_like(parameter) * 0.1 / made.config.hidden_size**0.5
    return made


def _exact_norms(made: Any) -> Any:
    """Norms that compute in float64: the families' own round to float32, which hides differences below 1e-7."""
    for parent in list(made.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = torch.nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon, dtype=torch.float64)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm)
    return made


def subject(family: Family = "qwen2", *, seed: int = 0, dtype: torch.dtype = torch.float32, layers: int = 4) -> Subject:
    """A tiny random model, ready for experiments. Equal arguments give equal weights; another seed gives others."""
    made = model(family, seed=seed, dtype=dtype, layers=layers)
    return wrap(made, tokenizer(), name=f"tiny-{family}-{seed}")


def save(folder: Path, family: Family = "qwen2", *, seed: int = 0, layers: int = 4) -> Path:
    """The tiny model of these arguments as a folder that `models.load` takes: config, tokenizer, safetensors."""
    model(family, seed=seed, layers=layers).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_gguf(file: Path, *, seed: int = 0, layers: int = 2, tied: bool = False) -> Any:
    """Write a tiny Qwen2 as an unquantised GGUF file with a tokenizer of single words; gives back the model written."""
    shape = SHAPE | {"num_hidden_layers": layers, "tie_word_embeddings": tied}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape)).eval()
    write_gguf(file, made)
    return made


def write_gguf(file: Path, made: Any) -> None:
    """Write a model of the Llama form unquantised; Llama's own queries and keys with their halves interleaved."""
    config, family = made.config, made.config.model_type
    writer = gguf.GGUFWriter(file, family)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if size := getattr(config, "head_dim", None):
        writer.add_key_length(size)
        writer.add_value_length(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if family == "qwen2" else "gpt-2")
    writer.add_token_list(words())
    writer.add_token_types([gguf.TokenType.NORMAL] * len(words()))
    writer.add_token_merges(["1 0"])
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, family.upper()), config.num_hidden_layers)
    for name, tensor in made.state_dict().items():
        stem, _, kind = name.rpartition(".")
        if stem == "lm_head" and config.tie_word_embeddings:
            continue
        if family == "llama" and stem.endswith(("q_proj", "k_proj")):
            tensor = tensor.unflatten(0, (-1, 2, config.head_dim // 2)).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def recorded(recording, what):
    """(layers, n, T, ...): all that a recording holds of the residual, z, k or v."""
    return torch.stack([recording.span(what, layer) for layer in range(len(getattr(recording, what)))])

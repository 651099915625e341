"""From a folder with config, tokenizer and safetensors to a model in memory, or a sentence that says what is wrong."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..arguments import repeated
from .folders import weight_files
from .subject import DECODER_ONLY, ModelCheckError
from .unpacking import quiet
from .weights import FetchError

LARGEST = 1e6
"""No weight of a trained model is larger; one that is came out of a flipped bit or of a training that failed."""

_FLOATS = {"F64", "F32", "F16", "BF16"}
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def config_of(folder: Path, name: str) -> Any:
    """The config of a model's folder, as transformers reads it; nothing else is opened.

    Raises `ModelCheckError`, which names the model, for a config that cannot be read, asks for code of its own, says
    that the weights are quantised, or is of an encoder-decoder.

        from entity_circuits import models
        from entity_circuits.models import reading

        folder = models.fetch("qwen2.5-coder-0.5b")
        print(reading.config_of(folder, "mine").num_hidden_layers)  # 24
    """
    from transformers import AutoConfig  # slow to import, as are the others

    try:
        text = (folder / "config.json").read_text(encoding="utf-8")
        told = json.loads(text, object_pairs_hook=partial(_once, name))
        if code := told.get("auto_map"):
            what = f"its config.json asks for code of its own ({', '.join(code)}), and no code of a model is run here. "
            raise ModelCheckError(name, "loading", what + "If transformers has this model itself, remove auto_map.")
        if quantised := told.get("quantization_config") or told.get("compression_config"):
            method = quantised.get("quant_method", "an unnamed method")
            what = f"its weights are quantised ({method}). Load the unquantised model, or a GGUF file of it."
            raise ModelCheckError(name, "loading", what)
        config = AutoConfig.from_pretrained(folder, **_LOCAL)
    except ModelCheckError:
        raise
    except Exception as error:  # the fields of a config are validated by a library with errors of its own
        raise ModelCheckError(name, "loading", f"transformers cannot read {folder / 'config.json'}: {error}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise ModelCheckError(name, "architecture", DECODER_ONLY)
    return config


def _once(name: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object of JSON, each of them once: of two, readers take the one that they please."""
    if twice := repeated(field for field, _ in pairs):
        raise ModelCheckError(name, "loading", f"its config.json says {twice} twice: leave one of them")
    return dict(pairs)


def tokenizer_of(folder: Path, name: str) -> Any:
    """The tokenizer of a model's folder. Raises `ModelCheckError`, which names the model, if it cannot be read.

    For example:

        from entity_circuits import models
        from entity_circuits.models import reading

        print(reading.tokenizer_of(models.fetch("qwen2.5-coder-0.5b"), "mine")("The cup")["input_ids"])
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # AutoTokenizer may put a family's own way of splitting in place of the one that tokenizer.json defines.
    reader = PreTrainedTokenizerFast if (folder / "tokenizer.json").exists() else AutoTokenizer
    try:
        with quiet():
            found = reader.from_pretrained(folder, padding_side="right", **_LOCAL)
            words = found("The cup")["input_ids"]
    except Exception as error:  # the tokenizers library raises plain exceptions
        raise ModelCheckError(
            name, "loading", f"transformers cannot read the tokenizer of {folder}: {error}"
        ) from error
    if not words:  # transformers makes one without words where there are no files
        what = f"{folder} holds no tokenizer that knows a word: save it there with tokenizer.save_pretrained"
        raise ModelCheckError(name, "tokenizer", what)
    return found


def read(folder: Path, name: str, dtype: torch.dtype, attention: str) -> tuple[Any, Any]:
    """The model and the tokenizer of a folder.

    Args:
        folder: with config.json, tokenizer and safetensors.
        name: what errors call it.
        dtype: of the weights in memory.
        attention: "sdpa" or "eager".

    Every weight of the model must be in the folder, every weight in the folder must be of the model, all of them
    floating numbers of its shapes; `ModelCheckError` names what is not, `FetchError` a file that is not there.

        import torch
        from entity_circuits import models
        from entity_circuits.models import reading

        folder = models.fetch("qwen2.5-coder-0.5b")
        model, tokenizer = reading.read(folder, "mine", torch.float32, "sdpa")
        print(type(model).__name__)
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    config = config_of(folder, name)
    if (folder / "adapter_config.json").exists():  # transformers would load the base that it names instead
        what = f"{folder} holds a model and an adapter_config.json; move the adapter into a folder of its own."
        raise ModelCheckError(name, "loading", what)
    try:
        _require_floats(folder, name)
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, by name
                **_LOCAL,
            )
    except (ModelCheckError, FetchError):
        raise
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelCheckError(name, "loading", f"transformers cannot load {folder}: {error}") from error
    model, report = loaded
    _require_all(model, report, name)
    return model, tokenizer_of(folder, name)


def require_numbers(model: Any, name: str) -> None:
    """Raise `ModelCheckError` if a weight is not a number, is infinite, or is larger than any trained weight.

    One pass over the weights, about 2 GB/s. For example:

        from entity_circuits import models
        from entity_circuits.models import reading

        assert reading.require_numbers(models.load("qwen2.5-coder-0.5b").model, "mine") is None
    """
    for which, weight in model.named_parameters():
        low, high = (float(end) for end in torch.aminmax(weight.detach()))  # NaN, if there is one
        if not (low >= -LARGEST and high <= LARGEST):
            what = f"{which} holds numbers from {low:.3g} to {high:.3g} in {weight.dtype}. The file is damaged, its "
            raise ModelCheckError(name, "loading", what + "training failed, or the dtype is too small.")


def _require_floats(folder: Path, name: str) -> None:
    """All tensors of the files that transformers will read are floating numbers, and each is in one file alone."""
    from safetensors import safe_open

    holding: dict[str, str] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (not a dict)
                if (other := holding.setdefault(key, file.name)) != file.name:
                    what = f"{key} is in {other} and in {file.name}: the folder is of two models. Fetch it again."
                    raise ModelCheckError(name, "loading", what)
                if (kind := opened.get_slice(key).get_dtype()) not in _FLOATS:
                    what = f"{key} in {file.name} holds {kind}, not floating numbers: quantised, or no weights. "
                    raise ModelCheckError(name, "loading", what + "Load the unquantised model, or a GGUF file of it.")


def _require_all(model: Any, report: dict[str, Any], name: str) -> None:
    told = {
        "the weights lack": report["missing_keys"],  # transformers would fill them with random numbers
        "the model has no place for": report["unexpected_keys"],
        "the config asks for another shape than that of": [key for key, *_ in report["mismatched_keys"]],
    }
    for what, keys in told.items():
        if keys:
            some = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            advice = "The folder is incomplete, or its config is another model's: fetch it again."
            raise ModelCheckError(name, "loading", f"{what} {some}. {advice}")
    tied = getattr(model.config, "tie_word_embeddings", False) and model.get_output_embeddings() is not None
    if tied and model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        what = "its config ties the output matrix to the embedding, and the weights hold two that differ. "
        raise ModelCheckError(name, "loading", what + "Set tie_word_embeddings to false in config.json if so it is.")

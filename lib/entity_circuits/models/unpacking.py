"""From a GGUF file to a folder that transformers loads: config, tokenizer, float32 safetensors; without a network.

Weights are unpacked one matrix at a time, so that the memory needed is that of the largest matrix, not of the model.
"""

import io
import json
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from . import conversion
from .cached import FetchError


def unpack(gguf: Path, folder: Path) -> None:
    """Write config, tokenizer and float32 safetensors of a GGUF file into `folder`, once and without a network.

    Raises `FetchError` for a file that transformers cannot read, or of which it would lose something (`conversion`).
    """
    import torch  # slow to import, as are the others
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        reader = GGUFReader(gguf)
        told, held = conversion.facts(reader), {tensor.name: tensor for tensor in reader.tensors}
        conversion.require_known(told, gguf.name)
        with quiet():
            config = AutoConfig.from_pretrained(gguf.parent, **options)
            tokenizer = conversion.rebuilt(AutoTokenizer.from_pretrained(gguf.parent, **options), told)
            with torch.device("meta"):  # its form, without memory for its weights
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        conversion.require_kept(told, set(held), model, tokenizer, gguf.name)
        _write_weights(folder / "model.safetensors", told, held, model)
    except FetchError:
        raise
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        raise FetchError(f"{gguf.name} cannot be unpacked by transformers: {first_line(error)}") from error
    config = model.config
    config.architectures = [type(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _remove_strangers(folder, config.vocab_size)


def _write_weights(file: Path, told: dict[str, Any], held: dict[str, Any], model: Any) -> None:
    """Write the parameters of a model without memory, a tied matrix once, from the tensors that a GGUF file holds."""
    parameters = dict(sorted(model.named_parameters()))  # the order and the header are those of safetensors' own writer
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, parameter in parameters.items():
        end = begin + 4 * parameter.numel()
        header[name] = {"dtype": "F32", "shape": list(parameter.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants its numbers aligned
    named = conversion.names(told, model.config)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, parameter in tqdm(parameters.items(), desc="unpacking", unit="matrix", disable=None):
            out.write(_values(held[named(name)], parameter.shape, told, model.config))


def _values(tensor: Any, shape: tuple[int, ...], told: dict[str, Any], config: Any) -> memoryview:
    from gguf.quants import dequantize

    values = dequantize(tensor.data, tensor.tensor_type)
    if values.shape != shape:
        raise ValueError(f"{tensor.name} has the shape {values.shape}, and the model takes {tuple(shape)}")
    return conversion.rows(values, tensor.name, told["general.architecture"], config).data


def _remove_strangers(folder: Path, rows: int) -> None:
    """Take out the words that a tokenizer's class adds to those of the file: no row of the embedding is theirs."""
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not file.exists():
        return
    told = json.loads(file.read_text(encoding="utf-8"))
    strange = {word["content"] for word in told["added_tokens"] if word["id"] >= rows}
    if not strange:
        return
    told["added_tokens"] = [word for word in told["added_tokens"] if word["id"] < rows]
    file.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    named = json.loads(settings.read_text(encoding="utf-8"))
    kept = {key: value for key, value in named.items() if not (key.endswith("_token") and value in strange)}
    settings.write_text(json.dumps(kept, ensure_ascii=False, indent=2), encoding="utf-8")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars of transformers out of notebooks and logs: inside the block only a terminal shows them."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    if sys.stderr.isatty():
        yield
        return
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):  # the reader of GGUF files asks no setting
            yield
    finally:
        if before:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

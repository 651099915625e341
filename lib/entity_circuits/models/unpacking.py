"""From a GGUF file to a folder that transformers loads: config, tokenizer, float32 safetensors; without a network."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from . import conversion
from .cached import FetchError


def unpack(gguf: Path, folder: Path) -> None:
    """Write config, tokenizer and float32 safetensors of a GGUF file into `folder`, once and without a network.

    Raises `FetchError` for a file that transformers cannot read, or of which it would lose something (`conversion`).
    """
    import torch  # slow to import, as are the others
    from gguf import GGUFReader
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        reader = GGUFReader(gguf)
        told, held = conversion.facts(reader), {tensor.name for tensor in reader.tensors}
        conversion.require_known(told, gguf.name)
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **options
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
    except FetchError:
        raise
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        raise FetchError(f"{gguf.name} cannot be unpacked by transformers: {first_line(error)}") from error
    conversion.require_kept(told, held, model, tokenizer, gguf.name)
    tensors: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        tensors.setdefault(tensor.data_ptr(), (name, tensor.contiguous()))  # a tied matrix is stored once, tied at load
    save_file(dict(tensors.values()), folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    config.architectures = [type(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _remove_strangers(folder, config.vocab_size)


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

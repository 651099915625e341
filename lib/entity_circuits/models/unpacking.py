"""From a GGUF file to a folder that transformers loads: config, tokenizer, float32 safetensors; without a network."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from .cached import FetchError


def unpack(gguf: Path, folder: Path) -> None:
    """Write config, tokenizer and float32 safetensors of a GGUF file into `folder`, once and without a network."""
    import torch  # slow to import, as are the others
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **options
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
    except (ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise FetchError(f"{gguf.name} cannot be unpacked by transformers: {first_line(error)}") from error
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

"""The stored answers: read from `data/` beside the notebooks, and only if they are what `SHA256SUMS` lists."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace

from entity_circuits import sums
from safetensors import safe_open

FOLDER = Path(__file__).resolve().parents[1] / "data"


@functools.cache
def load(name):
    """The tensors of one file by name, as attributes (`at["code 0"]` where the name is no word), and `about`."""
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: `data` has to lie beside the notebooks, whole (`entity-circuits course --data`)"
        )
    with safe_open(sums.require(path), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        about = json.loads((file.metadata() or {}).get("about", "{}"))
    tensors = {key: value.long() if str(value.dtype) == "torch.int32" else value for key, value in tensors.items()}
    words = {key: value for key, value in tensors.items() if key.isidentifier()}
    return SimpleNamespace(**words, at=tensors, about=about)

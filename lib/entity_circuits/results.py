"""Named results on disk: tensors, written whole or not at all, found again only by everything that produced them."""

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import places


@dataclass(frozen=True)
class Store:
    """A folder of results. `Store()` is the book's own; `Store(path)` another; `Store(None)` keeps nothing."""

    folder: Path | None = field(default_factory=places.results)

    def keep(
        self, name: str, inputs: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The stored tensors of this name and these inputs; computed and stored first if there are none.

        `inputs` are JSON values and must hold all that the tensors depend on: the model's fingerprint, `digest` of the
        prompts, parameters, `code` of the modules. A file is served only if the inputs written in it are these very
        ones; a damaged file is computed anew. Writing is atomic, so a computation that is interrupted and started
        again continues after its last finished result.

            store = results.Store(Path("results"))
            x = store.keep("ones", {"n": 3}, lambda: {"x": torch.ones(3)})["x"]
        """
        if self.folder is None:
            return compute()
        text = json.dumps(inputs, sort_keys=True)
        path = self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.safetensors"
        found = _read(path, text)
        if found is not None:
            return found
        tensors = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            save_file(
                {key: value.detach().contiguous().cpu() for key, value in tensors.items()}, part, {"inputs": text}
            )
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return tensors


def _read(path: Path, inputs: str) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("inputs") != inputs:
                return None
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError:
        return None


def digest(*tensors: Tensor) -> str:
    """A hex digest of the shapes, dtypes and values of tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:20]


def code(*modules: ModuleType) -> str:
    """A hex digest of the source text of modules: results computed by other code are other results."""
    total = hashlib.sha256()
    for module in modules:
        total.update(inspect.getsource(module).encode())
    return total.hexdigest()[:20]

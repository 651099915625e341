"""Named results on disk: tensors, written whole or not at all, found again only by everything that produced them."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import places
from .arguments import of_kind
from .digests import code as code
from .values import digest, plain

_NO_NAME = re.compile(r"[/\\\0]")
"""What a file cannot have in its name, or is another folder; a place of prompts may be called so."""

_LONGEST = 120
"""Bytes of a name that its file has in its own: the rest of it is needed for digest, host and process."""


@dataclass(frozen=True)
class Store:
    """A folder of results. `Store()` is the book's own; `Store(path)` another; `Store(None)` keeps nothing.

    Functions that take a store take a path in its place, too.

    For example:

        from pathlib import Path

        from entity_circuits import results

        print(results.Store(Path("mine")).folder, results.Store(None).folder)
    """

    folder: Path | None = field(default_factory=places.results)

    def __post_init__(self) -> None:
        of_kind("folder of a store", self.folder, str, Path, NoneType)
        object.__setattr__(self, "folder", None if self.folder is None else Path(self.folder))

    def keep(
        self, name: str, inputs: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The stored tensors of this name and these inputs; computed and stored first if there are none. On the CPU.

        `inputs` are JSON values and must hold all that the tensors depend on: `key` gathers them. A file is served only
        if the inputs written in it are these very ones and the tensors have the digest that was written with them; any
        other is computed anew. Writing is atomic, so what is interrupted and started again continues after its last
        finished result. Raises `OSError`, before anything is computed, if the folder cannot be written to; if that only
        shows afterwards (a disk became full), the tensors are given back with a warning.

            from pathlib import Path

            import torch
            from entity_circuits import results

            store = results.Store(Path("results"))
            print(store.keep("ones", {"n": 3}, lambda: {"x": torch.ones(3)})["x"])
        """
        if self.folder is None:
            return _plain_tensors(compute())
        found = self.find(name, inputs)
        if found is not None:
            return found
        path, text = self._place(name, inputs)
        places.probe(path.parent, "Name another folder in ENTITY_CIRCUITS_RESULTS, or keep nothing: Store(None).")
        tensors = _plain_tensors(compute())
        try:
            _write(path, text, tensors)
        except Exception as error:  # whatever it is: what was computed is not lost for it
            warnings.warn(
                f"{name} was computed and is given back, but could not be kept in {self.folder}, so that it will be "
                f"computed again next time: {error}. Make room, or name another folder in ENTITY_CIRCUITS_RESULTS.",
                stacklevel=2,
            )
        return tensors

    def find(self, name: str, inputs: Mapping[str, object]) -> dict[str, Tensor] | None:
        """The stored tensors of this name and these inputs, if they are there whole; otherwise None."""
        return None if self.folder is None else _read(*self._place(name, inputs))

    def _place(self, name: str, inputs: Mapping[str, object]) -> tuple[Path, str]:
        """The file of a result, and its inputs as they are written there."""
        text = json.dumps(inputs, sort_keys=True)
        name = _NO_NAME.sub("_", name).encode()[:_LONGEST].decode(errors="ignore")
        file = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.safetensors"
        return Path(self.folder or "", file), text


def at(store: Store | Path | str | None) -> Store:
    """A store, however it was given: itself, its folder, or None, which keeps nothing. `ValueError` for all else.

    For example:

        from entity_circuits import results

        print(results.at("mine"), results.at(None))
    """
    of_kind("store", store, Store, Path, str, NoneType)
    return store if isinstance(store, Store) else Store(None if store is None else Path(store))


def _plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As they are read back: whether a result was stored before changes nothing for who asks for it."""
    return {key: value.detach().contiguous().cpu() for key, value in tensors.items()}


def _write(path: Path, inputs: str, tensors: Mapping[str, Tensor]) -> None:
    plain = dict(tensors)
    memory: set[int] = set()
    for key, value in plain.items():  # the format refuses tensors that share their memory
        if value.untyped_storage().data_ptr() in memory:
            plain[key] = value.clone()
        memory.add(value.untyped_storage().data_ptr())
    with places.writing(path) as part:
        save_file(plain, part, {"inputs": inputs, "digest": _digest_of(plain)})


def _read(path: Path, inputs: str) -> dict[str, Tensor] | None:
    """The tensors of a file with these inputs, if they are those that were written; otherwise None."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("inputs") != inputs:
                return None
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        return found if about.get("digest") == _digest_of(found) else None
    except (OSError, ValueError, RuntimeError, LookupError, SafetensorError):
        return None


def _digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A hex digest of names and tensors, whatever their order."""
    parts = [f"{digest(tensors[name])} {name}" for name in sorted(tensors)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def key(module: str, subject: Any, **asked: object) -> dict[str, object]:
    """What a stored result depends on, as JSON values: the `inputs` of `Store.keep`.

    `module` is the name of the module that computes it (`__name__`): its code counts, with that of all it imports.
    `subject` is the model, or several. Of what is `asked`, prompts and tensors stand by their digests, functions by
    their code and all that it names, and all else as it is written; what cannot be told apart so is like nothing else,
    and never served. The device and what its processor can do, the implementation of attention, the number of threads
    and the versions of torch and transformers are part of it, because they change bits. Raises `ValueError` for a model
    whose weights were changed after it was wrapped, and under `torch.autocast`, which rounds otherwise than the model's
    dtype says.

        from entity_circuits import models, results

        subject = models.load("qwen2.5-coder-0.5b")
        print(results.key("entity_circuits.heads", subject, seed=0))
    """
    subjects = subject if isinstance(subject, tuple) else (subject,)
    for one in subjects:
        one.require_unchanged()
        if torch.is_autocast_enabled(one.device.type):
            raise ValueError("autocast is on: leave its block, and load with the dtype: models.load(..., dtype=...)")
    return {
        **{name: plain(value) for name, value in asked.items()},
        "models": [one.fingerprint for one in subjects],
        "dtype": [str(one.dtype) for one in subjects],
        "device": [_devices(one) for one in subjects],
        "attention": [getattr(getattr(one.model, "config", None), "_attn_implementation", "") for one in subjects],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "code": code(module),
    }


def _devices(subject: Any) -> str:
    """What computes, layer by layer, as far as it decides how sums are rounded."""
    return ", ".join(dict.fromkeys(map(_device, (subject.device, *subject.devices))))


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)} {torch.get_float32_matmul_precision()}"
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type

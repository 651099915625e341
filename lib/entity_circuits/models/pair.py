"""A base and a fine-tuned model for the whole book: found, fetched and held against each other before work starts."""

import warnings
from pathlib import Path

from .. import models
from . import alike, folders, naming, reading
from .adapters import adapted, same_model
from .registry import named as named


def known(name: str) -> str:
    """A model's name as text, as far as can be told without fetching it: of the registry, a folder or file that holds
    one, or a hub id.

    Raises `ValueError` for a name that nothing has, and for a folder or a file without a model.

        from entity_circuits.models import pair

        print(pair.known("qwen2.5-coder-0.5b"))
    """
    name, path = naming.text(name), naming.path_of(name)
    if name in models.registry():
        return name
    if not path.exists():
        if not naming.HUB_ID.fullmatch(name):
            raise naming.unknown(name)
    elif not (
        (path.is_file() and path.suffix == ".gguf")
        or any(path.glob("*.gguf"))
        or (path / "adapter_config.json").is_file()
        or ((path / "config.json").is_file() and folders.weight_files(path))
    ):
        raise ValueError(
            f"{name} holds no model: neither config.json with safetensors, nor a GGUF file, nor an adapter"
        )
    return name


def ready(base: str, finetuned: str) -> tuple[str, str]:
    """The pair, with both models fetched, after all that can be checked without loading them.

    Each name is an entry of the registry, a folder, a GGUF file or a hub id. Raises `ValueError` for an unknown name
    (of either, before anything is fetched), for an adapter on another base, and for two models whose heads cannot stand
    for each other, in shape, rotation, windows or anything else of their configs or in what their tokenizers read (see
    `alike`); `FetchError` for one that cannot be had, `ModelCheckError` for one that would not load. Warns where only
    numbers shift, as with another epsilon of the norms.

        from entity_circuits.models import pair

        base, finetuned = pair.ready("qwen2.5-coder-0.5b", "arithmetic")
        print(base, finetuned)
    """
    entries, base, finetuned = models.registry(), known(base), known(finetuned)
    if base == finetuned:
        raise ValueError(f"the base and the fine-tuned model are both {base}: give two models")
    if base in entries and entries[base].base:
        raise ValueError(f"{base} is an adapter on {entries[base].base}; it can be the fine-tuned model, not the base")
    on = _adapts(finetuned)
    if on is not None and not same_model(base, on):
        raise ValueError(f"{finetuned} is an adapter on {on or 'a model that it does not name'}, not on {base}")
    folder, tuned = models.fetch(base), models.fetch(finetuned) if on is None or finetuned in entries else None
    if on is None and tuned is not None:
        _require_alike(base, folder, finetuned, tuned)
    return base, finetuned


def control(name: str, base: str) -> str | None:
    """The control `name` if it is an adapter on this base; otherwise None, after saying that there is no control.

    For example:

        from entity_circuits.models import pair

        print(pair.control("shuffled", "qwen2.5-coder-0.5b"))  # shuffled
    """
    on = _adapts(name)
    if on and same_model(base, on):
        return name
    print(f"No control: {name} is {'no adapter' if on is None else f'an adapter on {on}'}, and the base is {base}.")
    return None


def _adapts(name: str) -> str | None:
    """The base model that an adapter says it was trained on; None for a whole model."""
    entry = models.registry().get(name)
    if entry is not None:
        return entry.base or None
    return adapted(naming.path_of(name))


def _require_alike(base: str, folder: Path, finetuned: str, tuned: Path) -> None:
    differ, shift = alike.apart(reading.config_of(folder, base), reading.config_of(tuned, finetuned))
    if not differ:
        readers = (reading.tokenizer_of(folder, base), reading.tokenizer_of(tuned, finetuned))
        differ += [f"tokenizer ({apart})" for apart in [alike.tokens_apart(*readers)] if apart]
    if differ:
        raise ValueError(f"{base} and {finetuned} cannot be compared head by head: they differ in {', '.join(differ)}")
    if shift:
        warnings.warn(f"{base} and {finetuned} differ in {', '.join(shift)}: all numbers shift a little", stacklevel=3)

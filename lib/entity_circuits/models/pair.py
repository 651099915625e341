"""A base and a fine-tuned model for the whole book: found, fetched and held against each other before work starts."""

import json
from pathlib import Path
from typing import Any

from .. import models
from ..spelling import meant
from .loading import adapted
from .registry import named as named

COMPARED = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size")
"""What has to be equal in two models whose heads are to stand for each other."""


def ready(base: str, finetuned: str) -> tuple[str, str]:
    """The pair, with both models fetched, after all that can be checked without loading them.

    Each name is an entry of the registry, a folder, a GGUF file or a hub id. Raises `ValueError` for an unknown name
    (of either, before anything is fetched), for an adapter on another base, and for two models of different shapes;
    `FetchError` for one that cannot be had.

        from entity_circuits.models import pair

        base, finetuned = pair.ready("qwen2.5-coder-0.5b", "arithmetic")
        print(base, finetuned)
    """
    entries = models.registry()
    for name in (base, finetuned):
        if name not in entries and not Path(name).expanduser().exists() and "/" not in name:
            raise ValueError(
                f"there is no model {name!r}.{meant(name, entries)} It is no folder, no hub id (owner/repository), and "
                f"not one of the registry: {', '.join(entries)}"
            )
    if base in entries and entries[base].base:
        raise ValueError(f"{base} is an adapter on {entries[base].base}; it can be the fine-tuned model, not the base")
    on = _adapts(finetuned)
    if on not in (None, base):
        raise ValueError(f"{finetuned} is an adapter on {on or 'a model that it does not name'}, not on {base}")
    folder, tuned = models.fetch(base), models.fetch(finetuned) if on is None or finetuned in entries else None
    if on is None and tuned is not None:
        _require_one_shape(base, folder, finetuned, tuned)
    return base, finetuned


def control(name: str, base: str) -> str | None:
    """The control `name` if it is an adapter on this base; otherwise None, after saying that there is no control.

    For example:

        from entity_circuits.models import pair

        print(pair.control("shuffled", "qwen2.5-coder-0.5b"))  # shuffled
    """
    on = _adapts(name)
    if on == base:
        return name
    print(f"No control: {name} is {'no adapter' if on is None else f'an adapter on {on}'}, and the base is {base}.")
    return None


def _adapts(name: str) -> str | None:
    """The base model that an adapter says it was trained on; None for a whole model."""
    entry = models.registry().get(name)
    if entry is not None:
        return entry.base or None
    return adapted(Path(name).expanduser())


def _require_one_shape(base: str, folder: Path, finetuned: str, tuned: Path) -> None:
    one, other = _config(folder), _config(tuned)
    apart = [f"{name} {one.get(name)} and {other.get(name)}" for name in COMPARED if one.get(name) != other.get(name)]
    if apart:
        raise ValueError(f"{base} and {finetuned} cannot be compared head by head: {'; '.join(apart)}")


def _config(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return content

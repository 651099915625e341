"""The models that have a name here: what each is, needs and may be used for, and where its weights are."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import places, sums
from ..spelling import meant
from . import weights
from .shape import Shape
from .weights import FetchError, Source, Wheel

if TYPE_CHECKING:
    import pandas as pd

FILE = Path(__file__).with_name("models.toml")
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]


@dataclass(frozen=True)
class Entry:
    """One model of the registry. With `base` it is a LoRA adapter on that entry. `parameters` counts stored numbers.

    `shape` is that of a whole model, None where it is not written down; `stored` the bytes that a number takes where it
    is fetched from the hub; `mirrors` are other repositories there with the same weights.
    """

    name: str
    title: str
    architecture: str
    licence: str
    gate: str
    parameters: int
    executed_here: bool
    source: Source
    base: str = ""
    note: str = ""
    shape: Shape | None = None
    stored: int = 4
    mirrors: tuple[str, ...] = ()

    @property
    def memory_gb(self) -> float:
        """Memory of the weights in float32, in GB (10^9 bytes), an adapter with its base; activations come on top.

        For example:

            from entity_circuits import models

            print(models.registry()["arithmetic"].memory_gb)
        """
        return 4 * (registry()[self.base].parameters if self.base else self.parameters) / 1e9


def registry() -> dict[str, Entry]:
    """The models of `models.toml` (beside this file) by name, in the order of the file.

    Raises `TypeError` or `ValueError` for an entry with a missing or unknown field, or an adapter without its base.

        from entity_circuits import models

        print(models.registry()["qwen2.5-coder-0.5b"].licence)  # Apache-2.0
    """
    entries = {name: _entry(name, dict(table)) for name, table in _toml()["models"].items()}
    for entry in entries.values():
        if entry.base and entry.base not in entries:
            raise ValueError(
                f"{FILE.name}: {entry.name} is an adapter on {entry.base}, which is not an entry."
                f"{meant(entry.base, entries)}"
            )
    return entries


def pairs() -> dict[str, tuple[str, str]]:
    """The pairs of `models.toml`: name -> (base, fine-tuned), both names of entries.

    For example:

        from entity_circuits import models

        print(models.pairs()["goat-7b"])  # ('llama-7b', 'goat-7b')
    """
    return {name: (table["base"], table["finetuned"]) for name, table in _toml().get("pairs", {}).items()}


def named(name: str) -> tuple[str, str]:
    """The two models of a pair of `pairs()`. Raises `ValueError` that lists the known pairs.

    For example:

        from entity_circuits.models.registry import named

        print(named("goat-7b"))  # ('llama-7b', 'goat-7b')
    """
    known = pairs()
    if name not in known:
        raise ValueError(f"there is no pair {name!r}.{meant(name, known)} Known pairs: {', '.join(known)}")
    return known[name]


def describe() -> "pd.DataFrame":
    """The registry as a table, one row a model: what it is and needs, its terms, whether it was run here, is cached.

    Columns: name, title, parameters, memory_gb (float32), licence, gate, source, executed_here, fetched, note.

        from entity_circuits import models

        table = models.describe()
        print(table[table.executed_here].name.tolist())
    """
    import pandas as pd  # slow to import

    return pd.DataFrame(
        {
            "name": entry.name,
            "title": entry.title,
            "parameters": entry.parameters,
            "memory_gb": round(entry.memory_gb, 1),
            "licence": entry.licence,
            "gate": entry.gate,
            "source": _source_in_words(entry),
            "executed_here": entry.executed_here,
            "fetched": _is_fetched(entry),
            "note": entry.note,
        }
        for entry in registry().values()
    )


def shipped(entry: Entry) -> Path:
    """The folder of an entry that lies in the repository itself, its files checked by content (see `sums`).

    Raises `FetchError` where there is no checkout, and for a file that is not the one that was shipped.
    """
    if (root := places.checkout()) is None:
        raise FetchError(
            f"{entry.name} cannot be had here: {entry.source.path} does not come with the package. {places.CLONE}"
        )
    folder = root / entry.source.path
    try:
        for file in sorted(folder.iterdir()):
            if file.suffix in (".json", ".safetensors"):
                sums.require(file)
    except (OSError, ValueError) as error:
        raise FetchError(f"{entry.name} cannot be had: {error}") from error
    return folder


def _toml() -> dict[str, Any]:
    try:
        return tomllib.loads(FILE.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{FILE} is damaged: {error}. Install entity-circuits again.") from error


def _entry(name: str, table: dict[str, Any]) -> Entry:
    source = {field.name: table.pop(field.name) for field in fields(Source) if field.name in table}
    source["wheels"] = tuple(Wheel(*pinned) for pinned in source.get("wheels", ()))
    table["mirrors"] = tuple(table.get("mirrors", ()))
    try:
        if "shape" in table:
            table["shape"] = Shape(**table["shape"])
        return Entry(name=name, source=Source(**source), **table)
    except TypeError as error:
        raise TypeError(f"{FILE.name}, {name}: {error}") from error


def _source_in_words(entry: Entry) -> str:
    source = entry.source
    places_ = [f"hub: {source.repo}@{source.revision[:12]}"] if source.repo else []
    places_ += [f"{len(source.wheels)} pinned wheels"] if source.wheels else []
    places_ += [source.path] if source.path else []
    return ", else ".join(places_) + (f" (adapter on {entry.base})" if entry.base else "")


def _is_fetched(entry: Entry) -> bool:
    from huggingface_hub import try_to_load_from_cache  # slow to import

    source = entry.source
    if source.path:
        try:
            return shipped(entry).is_dir()
        except FetchError:
            return False
    if source.file:
        return weights.is_fetched(entry.name, source.sha256)
    file = ADAPTER_FILES[0] if entry.base else "config.json"
    return isinstance(try_to_load_from_cache(source.repo, file, revision=source.revision), str)

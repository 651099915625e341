"""LoRA adapters: found, held against the base that they name, and merged, if the merged model computes the same."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from .. import places
from ..spelling import meant
from . import devices, folders
from .cached import folder_of
from .naming import CONVERT, HUB_ID, path_of
from .registry import ADAPTER_FILES, registry, shipped
from .subject import ModelCheckError
from .weights import FetchError

TRIED = 8
"""On how many tokens, from all over the vocabulary, a merged adapter is held against the unmerged one."""

_NEWS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)


def adapted(folder: Path) -> str | None:
    """The base model that an adapter in a folder names, "" if it names none; None for any other folder."""
    config = folder / "adapter_config.json"
    if not config.is_file() or (folder / "config.json").exists():
        return None
    return _base_of(folder)


def folder(adapter: str) -> Path:
    """The folder of an adapter: an entry of the registry, a folder, or a hub id, which is fetched.

    Raises `FetchError` if it cannot be had or is pickled, `ValueError` if nothing is so called.

        from entity_circuits.models import adapters

        print(adapters.folder("arithmetic").name)
    """
    entry = registry().get(adapter)
    path = shipped(entry) if entry and entry.source.path else path_of(adapter)
    if not path.exists():
        hub = HUB_ID.fullmatch(f"{entry.source.repo}@{entry.source.revision}" if entry else adapter)
        if hub is None or hub["file"]:
            known = [name for name, one in registry().items() if one.base]
            raise ValueError(
                f"there is no adapter {adapter!r}: no entry of the registry, no folder and no hub id."
                f"{meant(adapter, known)}"
            )
        path = folders.downloaded(hub["repo"], hub["revision"] or "main", patterns=ADAPTER_FILES)
    missing = [file for file in ADAPTER_FILES if not (path / file).exists()]
    if missing:
        raise FetchError(f"{adapter} lacks {' and '.join(missing)}. {CONVERT}")
    return folders.as_listed(path)


def same_model(one: str, other: str) -> bool | None:
    """Whether two names are those of one model: True, False, or None where nobody here can tell.

    A name is an entry of the registry (which is also its hub repository and its folder in the cache), a folder, or a
    hub id, whose revision does not count. A folder may be a copy of what is on the hub, and a folder that is not here
    may be anything: these are None.

        from entity_circuits.models import adapters

        print(adapters.same_model("llama-7b", "huggyllama/llama-7b"))  # True
    """
    (kind, known), (other_kind, others) = _known_as(one), _known_as(other)
    if one == other or known & others:
        return True
    return None if not known or not others or {kind, other_kind} == {"folder", "hub"} else False


def require_base(adapter: str, path: Path, base: str) -> None:
    """Raise `ValueError` if an adapter names another base than this; warn where that cannot be told.

    An adapter that names none is accepted: whether its shapes fit is seen when it is merged.

        from entity_circuits.models import adapters

        assert adapters.require_base("mine", adapters.folder("arithmetic"), "qwen2.5-coder-0.5b") is None
    """
    on = _base_of(path)
    same = same_model(base, on) if on else True
    if same is None:
        warnings.warn(f"{adapter} is an adapter on {on}; nothing here tells whether {base} is that model", stacklevel=3)
    elif not same:
        raise ValueError(
            f"{adapter} is an adapter on {on}, not on {base}. If {base} is that very model, write its name as "
            f"base_model_name_or_path into {path / 'adapter_config.json'}."
        )


def merge(model: Any, path: Path, name: str) -> Any:
    """The model with a LoRA adapter merged into new weights, in place of those that it changes.

    Raises `ModelCheckError`, which names the model, for an adapter of another kind, for one that lacks a part or has
    one that no module takes, for all that PEFT warns of, and if merged and unmerged model give other logits: the
    largest difference may be 3 sqrt(eps) of the largest logit, 0.001 in float32.

        from entity_circuits import models

        print(models.load("arithmetic").name)  # the base with its adapter merged by this function
    """
    from peft import PeftModel  # slow to import

    if (kind := _config(path / "adapter_config.json").get("peft_type")) != "LORA":
        raise ModelCheckError(name, "adapter", f"it is of the kind {kind}; only LoRA adapters can be merged")
    try:
        _give_memory_of_its_own(model, path)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            unmerged = PeftModel.from_pretrained(model, str(path)).eval()
            _require_all_taken(unmerged, path, told, name)
            expected = _logits(unmerged)
            merged: Any = unmerged.merge_and_unload(safe_merge=True)  # into copies: the weights may be shared
    except ModelCheckError:
        raise
    except Exception as error:  # PEFT has no errors of its own: an adapter may ask for anything of a model
        raise ModelCheckError(name, "adapter", f"it does not fit this base model: {_short(error)}") from error
    off, scale = float((_logits(merged) - expected).abs().max()), float(expected.abs().max())
    allowed = max(3 * torch.finfo(model.dtype).eps ** 0.5, 10 * devices.rounding(model.device))
    if not off <= allowed * scale:  # also catches NaN
        what = f"merged and unmerged model differ by {off:.2g} in a logit (the largest is {scale:.2g}). "
        raise ModelCheckError(name, "adapter", what + "Merge it yourself, where it was trained, and load the folder.")
    return merged


def _give_memory_of_its_own(model: Any, path: Path) -> None:
    """Copy the weights of each module that an adapter has a part for: PEFT writes into some of them (biases, targets
    that are parameters, what OLoRA takes off its base), and their memory may be that of a loaded base."""
    from safetensors import safe_open

    with safe_open(path / "adapter_model.safetensors", framework="pt") as opened:
        parts = {key.removeprefix("base_model.model.") for key in opened.keys()}  # noqa: SIM118 (not a dict)
    own: dict[int, torch.nn.Parameter] = {}  # by the shared one, whose changes are counted with those of the base
    for name, weight in model.named_parameters():
        within = f"{name.rpartition('.')[0]}."
        if any(part.startswith(within) for part in parts):
            own[id(weight)] = torch.nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    for module in model.modules():  # tied ones stay so
        module._parameters.update({name: own.get(id(one), one) for name, one in module._parameters.items()})


def _require_all_taken(unmerged: Any, path: Path, told: list[warnings.WarningMessage], name: str) -> None:
    """Every tensor of the file is in the model, every part of the adapter is in the file; PEFT has nothing to say."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    given = load_file(path / "adapter_model.safetensors")
    if odd := next((key for key, one in given.items() if not one.is_floating_point()), ""):
        what = f"{odd} holds {str(given[odd].dtype)[6:]}, not floating numbers: quantised, or no weights. "
        raise ModelCheckError(name, "adapter", what + "Save the adapter as it was trained.")
    parts = get_peft_model_state_dict(unmerged, save_embedding_layers=False)
    taken = {**unmerged.state_dict(), **parts}
    there = {key: taken[key] for key in given if key in taken and taken[key].shape == given[key].shape}
    if spare := sorted(key for key in given if key not in there or not _is(there[key], given[key])):
        what = f"it has {len(spare)} parts that no module of this base model takes: {', '.join(spare[:3])}"
        raise ModelCheckError(name, "adapter", f"{what}. Is it an adapter on another model?")
    if lacking := sorted(parts.keys() - given.keys()):
        what = f"it does not fit this base model: {len(lacking)} missing adapter keys: {', '.join(lacking[:3])}"
        raise ModelCheckError(name, "adapter", what)
    if serious := [str(one.message) for one in told if not issubclass(one.category, _NEWS)]:
        raise ModelCheckError(name, "adapter", f"it does not fit this base model: {serious[0]}")


def _is(taken: torch.Tensor, given: torch.Tensor) -> bool:
    return torch.equal(taken, given.to(taken.device, taken.dtype))


def _logits(model: Any) -> torch.Tensor:
    words = model.get_input_embeddings().weight.shape[0]
    ids = torch.linspace(0, words - 1, TRIED, dtype=torch.float64).long()[None].to(model.device)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found.cpu().double()  # not every device has float64


def _short(error: Exception) -> str:
    """What an error says, in one line that can be read: PEFT lists every tensor."""
    said = " ".join(str(error).split())
    return said if len(said) <= 400 else f"{said[:400]} ..."


def _base_of(path: Path) -> str:
    return str(_config(path / "adapter_config.json").get("base_model_name_or_path") or "")


def _known_as(name: str) -> tuple[str, set[str]]:
    """The kind of a name, and all that this model is called here; nothing for a folder that is not here."""
    entries = registry()
    if entry := entries.get(name):
        found = {name, entry.source.repo, str(folder_of(name).resolve())}
        if entry.source.path and places.checkout():
            found.add(str(shipped(entry).resolve()))
        return "entry", found - {""}
    if (path := path_of(name)).exists():
        return "folder", {str(path.resolve())}
    hub = HUB_ID.fullmatch(name)
    return ("hub", {hub["repo"]}) if hub else ("folder", set())


def _config(file: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        told.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise FetchError(f"{file} cannot be read: {error}. Fetch or save the adapter again.") from error
    return told

"""Loading a model by its name, with its adapter merged.

A model may come from the registry, from a folder, from a GGUF file or from the Hugging Face hub; one in memory is made
a subject by `wrap`. Weights are only ever read from safetensors or GGUF, and no code that comes with a model is run.
A name of the registry means its entry, also where a folder here is called so: write `./NAME` for the folder.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..arguments import boolean
from . import adapters, devices, folders, naming, reading, sharing, weights
from .adapters import adapted as adapted
from .identity import combine
from .naming import CONVERT, HUB_ID
from .registry import named, registry, shipped
from .specification import Specification
from .subject import Subject, check, wrap
from .unchanged import ATTENTION
from .weights import FetchError

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_MODEL_FILES = folders.MODEL_FILES
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_check = check  # `load` has a parameter of this name


def fetch(name: str) -> Path:
    """The folder of a model, with config, tokenizer and safetensors, fetched first if need be (an adapter: its folder).

    `name` is anything that `load` takes. Raises `FetchError` if it cannot be had, `ValueError` if nothing is so called.

        from entity_circuits import models

        print(sorted(file.name for file in models.fetch("qwen2.5-coder-0.5b").iterdir()))
    """
    entry = registry().get(name := naming.text(name))
    return adapters.folder(name) if entry and entry.base else _locate(name)[0]


def load(
    name: str,
    *,
    adapter: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: devices.Device = "cpu",
    attention: str = "sdpa",
    device_map: devices.DeviceMap | None = None,
    check: bool = True,
) -> Subject:
    """A model ready for experiments, with an adapter merged into its weights if one is asked for, and checked.

    Args:
        name: an entry of the registry, a folder, a GGUF file, or a hub id as `owner/repository[/file.gguf][@revision]`.
            An adapter (an entry of the registry, or a folder that names its base) is loaded with its base.
        adapter: an adapter of the registry, a folder or a hub id in the PEFT format.
        dtype: of the weights, a floating one, also by its name; float32 for all numbers of the book.
        device: where the model runs: "cpu", "cuda", "mps", "auto" for the best there is, or one of several ("cuda:1").
        attention: the implementation in transformers: "sdpa", or "eager", which also gives the attention scores.
        device_map: spreads the layers over several devices in this process instead: names of modules and a device each,
            or "auto" for all CUDA devices (see `devices.plan`).
        check: whether to try on the model what every experiment relies on (see `models.check`).

    An adapter whose base is loaded already shares its memory, but for the weights that it changes.

    What is loaded is what the files say, or it is refused: each weight has its place and is a sensible number, no code
    comes with it, the tokenizer has no word without an embedding, the adapter is on this base and merges exactly.

    Raises `FetchError` if the weights cannot be had or are pickled, `ModelCheckError` if the model does not fit the
    experiments, `ValueError` if nothing has this name, for another attention, dtype or device than can be used, and for
    an adapter that names another base.

        from entity_circuits import models

        subject = models.load("qwen2.5-coder-0.5b")
        print(subject.layers, subject.heads)  # 24 14
    """
    boolean("check", check)
    dtype, place = options(dtype, device, attention)
    entries, name = registry(), naming.text(name)
    adapter = None if adapter is None else naming.text(adapter)
    if name in entries and entries[name].base:
        if adapter is not None:
            raise ValueError(f"{name} is an adapter itself; load {entries[name].base} with one adapter at a time")
        name, adapter = entries[name].base, name
    elif adapter is None and name not in entries and (on := adapted(naming.path_of(name))):
        name, adapter = on, name
    if adapter in entries and entries[str(adapter)].base != name:
        raise ValueError(f"{adapter} is no adapter on {name} but on {entries[str(adapter)].base or 'nothing'}")
    part = None if adapter is None else adapters.folder(adapter)  # the small one first: it may be refused
    if adapter is not None and part is not None and adapter not in entries:  # the registry itself says which base
        adapters.require_base(adapter, part, name)
    folder, fingerprint = _locate(name)
    shown = name
    key = (str(folder), fingerprint, str(dtype), str(place), attention)
    model = None if adapter is None or device_map is not None else sharing.twin(key)
    if model is None:
        model, tokenizer = reading.read(folder, name, dtype, attention)
    else:
        tokenizer = reading.tokenizer_of(folder, name)
    if adapter is not None and part is not None:
        shown = f"{name}+{adapter if adapter in entries else Path(adapter).name}"
        model = adapters.merge(model, part, shown)
        files = [part / "adapter_config.json", part / "adapter_model.safetensors"]
        fingerprint = combine(fingerprint, *map(weights.digest, files))
    reading.require_numbers(model, shown)
    model = model.to(place) if device_map is None else devices.spread(model, device_map)
    subject = wrap(model, tokenizer, name=shown, fingerprint=fingerprint)
    if check:
        _check(subject)
    if adapter is None and device_map is None and place.type != "mps":  # where nothing is known of hashing weights
        sharing.remember(key, model)
    if device_map is not None:  # a worker has devices of its own
        return subject
    told = (str(dtype).removeprefix("torch."), str(place), attention, subject.fingerprint)
    return replace(subject, specification=Specification(_anywhere(name), adapter and _anywhere(adapter), *told))


def load_pair(name: str, **options: Any) -> tuple[Subject, Subject]:
    """The base and the fine-tuned model of a pair of the registry; `options` go to `load` for both.

    Raises `ValueError` that lists the known pairs if there is none of this name.

        from entity_circuits import models

        base, finetuned = models.load_pair("arithmetic")
        print(base.name, finetuned.name)
    """
    base, finetuned = named(name)
    return load(base, **options), load(finetuned, **options)


@lru_cache(maxsize=2)  # a base and its fine-tuned relative
def specified(asked: Specification) -> Subject:
    """The model of a specification; loaded once a process, without the checks that it has passed before.

    Raises `ValueError` if it is another model here than where the specification was made.
    """
    dtype = getattr(torch, asked.dtype)
    options = {"dtype": dtype, "device": asked.device, "attention": asked.attention, "check": False}
    subject = load(asked.name, adapter=asked.adapter, **options)
    if subject.fingerprint != asked.fingerprint:
        told = f"{asked.name} with the adapter {asked.adapter}" if asked.adapter else asked.name
        raise ValueError(f"{told} is another model here than where the work was asked for: its files differ")
    return subject


def _anywhere(name: str) -> str:
    """A name that means the same in every folder: a path from the root, where it is one."""
    path = naming.path_of(name)
    return name if name in registry() or not path.exists() else str(path.absolute())


def _locate(name: str) -> tuple[Path, str]:
    """The folder with config, tokenizer and safetensors, fetched if need be, and the fingerprint of the weights."""
    entry = registry().get(name)
    if entry is not None:
        source = entry.source
        if source.path:
            return _local(shipped(entry))
        if source.file:
            return weights.fetch(name, source, entry.parameters), source.sha256
        return _snapshot(source.repo, source.revision)
    path = naming.path_of(name)
    if path.exists():
        return _local(path)
    hub = HUB_ID.fullmatch(name)
    if hub is None:
        raise naming.unknown(name)
    revision = hub["revision"] or "main"
    if hub["file"]:
        return _local(folders.downloaded(hub["repo"], revision, file=hub["file"]))
    return _snapshot(hub["repo"], revision)


def _snapshot(repo: str, revision: str) -> tuple[Path, str]:
    folder = folders.snapshot(repo, revision)
    if not folders.weight_files(folder):
        raise FetchError(f"{repo} holds no safetensors (for a GGUF file write {repo}/FILE.gguf). {CONVERT}")
    return folder, combine(repo, folder.name)  # the folder of a snapshot is named after its commit


def _local(path: Path) -> tuple[Path, str]:
    if path.is_file():
        if path.suffix != ".gguf":
            advice = CONVERT if path.suffix in _PICKLES else ""
            raise FetchError(f"{path} is neither a folder nor a GGUF file. {advice}")
        folder = weights.from_file(path)
        return folder, str((weights.manifest(folder) or {})["sha256"])
    parts = folders.weight_files(path)
    if parts and (path / "config.json").exists():
        read = {part.relative_to(path).as_posix(): part for part in (path / "config.json", *parts)}
        return folders.as_listed(path), combine(*(f"{name} {weights.digest(part)}" for name, part in read.items()))
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _local(ggufs[0])
    if ggufs:
        raise FetchError(f"{path} holds {len(ggufs)} GGUF files; name one of them: {', '.join(g.name for g in ggufs)}")
    if (path / "adapter_config.json").exists():
        raise FetchError(f"{path} is an adapter: load(BASE, adapter={str(path)!r})")
    pickled = any(file.suffix in _PICKLES for file in path.iterdir())
    what = f"{path} holds no config.json with model.safetensors or {folders.INDEX}, and no GGUF file."
    raise FetchError(f"{what} {CONVERT if pickled else ''}")


def options(dtype: torch.dtype | str, device: devices.Device, attention: str) -> tuple[torch.dtype, torch.device]:
    """The dtype and the device that are meant. Raises `ValueError` unless both, and the attention, can be used here.

    For example:

        from entity_circuits.models import loading

        print(loading.options("float32", "cpu", "sdpa"))
    """
    if attention not in ATTENTION:
        raise ValueError(
            f"attention {attention!r} cannot be used: it is one of {', '.join(ATTENTION)}. Others, as flash attention, "
            "ignore the masks that edits of a run are made with."
        )
    found = {str(one).removeprefix("torch."): one for one in DTYPES}.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"dtype {dtype} cannot be used: it is one of {', '.join(map(str, DTYPES))}")
    place = devices.chosen(device)
    devices.require_dtype(place, found)
    return found, place

"""Loading a model by its name, with its adapter merged.

A model may come from the registry, from a folder, from a GGUF file or from the Hugging Face hub; one in memory is made
a subject by `wrap`. Weights are only ever read from safetensors or GGUF, and no code that comes with a model is run.
A name of the registry means its entry, also where a folder here is called so: write `./NAME` for the folder.
"""

from pathlib import Path
from typing import Any

import torch

from . import adapters, folders, naming, reading, sharing, weights
from .adapters import adapted as adapted
from .identity import combine
from .naming import CONVERT, HUB_ID
from .registry import named, registry, shipped
from .subject import ATTENTION, Subject, check, wrap
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
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
    check: bool = True,
) -> Subject:
    """A model ready for experiments, with an adapter merged into its weights if one is asked for, and checked.

    Args:
        name: an entry of the registry, a folder, a GGUF file, or a hub id as `owner/repository[/file.gguf][@revision]`.
            An adapter (an entry of the registry, or a folder that names its base) is loaded with its base.
        adapter: an adapter of the registry, a folder or a hub id in the PEFT format.
        dtype: of the weights, a floating one; float32 for all numbers of the book.
        device: where the model runs.
        attention: the implementation in transformers: "sdpa", or "eager", which also gives the attention scores.
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
    _require_options(dtype, device, attention)
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
    key = (str(folder), fingerprint, str(dtype), str(torch.device(device)), attention)
    model = None if adapter is None else sharing.twin(key)
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
    subject = wrap(model.to(device), tokenizer, name=shown, fingerprint=fingerprint)
    if check:
        _check(subject)
    if adapter is None:
        sharing.remember(key, model)
    return subject


def load_pair(name: str, **options: Any) -> tuple[Subject, Subject]:
    """The base and the fine-tuned model of a pair of the registry; `options` go to `load` for both.

    Raises `ValueError` that lists the known pairs if there is none of this name.

        from entity_circuits import models

        base, finetuned = models.load_pair("arithmetic")
        print(base.name, finetuned.name)
    """
    base, finetuned = named(name)
    return load(base, **options), load(finetuned, **options)


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


def _require_options(dtype: torch.dtype, device: str | torch.device, attention: str) -> None:
    if attention not in ATTENTION:
        raise ValueError(
            f"attention {attention!r} cannot be used: it is one of {', '.join(ATTENTION)}. Others, as flash attention, "
            "ignore the masks that edits of a run are made with."
        )
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} cannot be used: it is one of {', '.join(map(str, DTYPES))}")
    try:
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        said = weights.first_line(error)
        raise ValueError(f"nothing can be computed on the device {str(device)!r} here: {said}. Try 'cpu'.") from error

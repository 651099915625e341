"""Loading a model by its name, with its adapter merged.

A model may come from the registry, from a folder, from a GGUF file or from the Hugging Face hub; one in memory is made
a subject by `wrap`. Weights are only ever read from safetensors or GGUF, and no code that comes with a model is run.
"""

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from ..spelling import meant
from . import folders, weights
from .registry import ADAPTER_FILES, given, named, registry, shipped
from .subject import DECODER_ONLY, ModelCheckError, Subject, check, wrap
from .weights import FetchError

_MODEL_FILES = folders.MODEL_FILES
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[^@]+\.gguf))?(?:@(?P<revision>[\w./-]+))?")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_CONVERT = (
    "Pickled weights can run code when they are opened, so only safetensors and GGUF are read. Convert them once: "
    "`torch.load(file, weights_only=True)`, then `safetensors.torch.save_file(tensors, file)`."
)
_check = check  # `load` has a parameter of this name


def fetch(name: str) -> Path:
    """The folder of a model, with config, tokenizer and safetensors, fetched first if need be (an adapter: its folder).

    `name` is anything that `load` takes. Raises `FetchError` if it cannot be had, `ValueError` if nothing is so called.

        from entity_circuits import models

        print(sorted(file.name for file in models.fetch("qwen2.5-coder-0.5b").iterdir()))
    """
    entry = registry().get(given(name))
    return _adapter_folder(name) if entry and entry.base else _locate(name)[0]


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
        dtype: of the weights; float32 for all numbers of the book.
        device: where the model runs.
        attention: the implementation in transformers: "sdpa", or "eager", which also gives the attention scores.
        check: whether to try on the model what every experiment relies on (see `models.check`).

    Raises `FetchError` if the weights cannot be had or are pickled, `ModelCheckError` if the model does not fit the
    experiments, `ValueError` if nothing has this name.

        from entity_circuits import models

        subject = models.load("qwen2.5-coder-0.5b")
        print(subject.layers, subject.heads)  # 24 14
    """
    entries = registry()
    given(name), given(adapter)
    if name in entries and entries[name].base:
        if adapter is not None:
            raise ValueError(f"{name} is an adapter itself; load {entries[name].base} with one adapter at a time")
        name, adapter = entries[name].base, name
    elif adapter is None and name not in entries and (on := adapted(Path(name).expanduser())):
        name, adapter = on, name
    if adapter in entries and entries[str(adapter)].base != name:
        raise ValueError(f"{adapter} is no adapter on {name} but on {entries[str(adapter)].base or 'nothing'}")
    adapter_folder = None if adapter is None else _adapter_folder(adapter)  # the small one first: it may be refused
    folder, fingerprint = _locate(name)
    shown = name
    model, tokenizer = _from_folder(folder, name, dtype, attention)
    if adapter is not None and adapter_folder is not None:
        shown = f"{name}+{adapter if adapter in entries else Path(adapter).name}"
        model = _merge(model, adapter_folder, shown)
        files = [adapter_folder / "adapter_config.json", adapter_folder / "adapter_model.safetensors"]
        fingerprint = _combine(fingerprint, *map(weights.digest, files))
    subject = wrap(model.to(device), tokenizer, name=shown, fingerprint=_combine(fingerprint, str(dtype)))
    if check:
        _check(subject)
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
    path = Path(name).expanduser()
    if path.exists():
        return _local(path)
    hub = _HUB_ID.fullmatch(name)
    if hub is None:
        raise ValueError(
            f"there is no model {name!r}.{meant(name, registry())} It is no folder, no GGUF file, no hub id "
            f"(owner/repository), and not one of the registry: {', '.join(registry())}"
        )
    revision = hub["revision"] or "main"
    if hub["file"]:
        return _local(folders.downloaded(hub["repo"], revision, file=hub["file"]))
    return _snapshot(hub["repo"], revision)


def _snapshot(repo: str, revision: str) -> tuple[Path, str]:
    folder = folders.snapshot(repo, revision)
    if not folders.weight_files(folder):
        raise FetchError(f"{repo} holds no safetensors (for a GGUF file write {repo}/FILE.gguf). {_CONVERT}")
    return folder, _combine(repo, folder.name)  # the folder of a snapshot is named after its commit


def _local(path: Path) -> tuple[Path, str]:
    if path.is_file():
        if path.suffix != ".gguf":
            advice = _CONVERT if path.suffix in _PICKLES else ""
            raise FetchError(f"{path} is neither a folder nor a GGUF file. {advice}")
        folder = weights.from_file(path)
        return folder, str((weights.manifest(folder) or {})["sha256"])
    parts = sorted(path.glob("*.safetensors"))
    if parts and (path / "config.json").exists():
        return folders.as_listed(path), _combine(
            *(f"{part.name} {weights.digest(part)}" for part in [path / "config.json", *parts])
        )
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _local(ggufs[0])
    if ggufs:
        raise FetchError(f"{path} holds {len(ggufs)} GGUF files; name one of them: {', '.join(g.name for g in ggufs)}")
    if (path / "adapter_config.json").exists():
        raise FetchError(f"{path} is an adapter: load(BASE, adapter={str(path)!r})")
    pickled = any(file.suffix in _PICKLES for file in path.iterdir())
    raise FetchError(f"{path} holds no config.json with *.safetensors, and no GGUF file. {_CONVERT if pickled else ''}")


def _from_folder(folder: Path, name: str, dtype: torch.dtype, attention: str) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with weights.quiet():
            config = AutoConfig.from_pretrained(folder, **local)
            if getattr(config, "is_encoder_decoder", False):
                raise ModelCheckError(name, "architecture", DECODER_ONLY)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                output_loading_info=True,
                **local,
            )
            # AutoTokenizer may put a family's own way of splitting in place of the one that tokenizer.json defines.
            reader = PreTrainedTokenizerFast if (folder / "tokenizer.json").exists() else AutoTokenizer
            tokenizer = reader.from_pretrained(folder, padding_side="right", **local)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise ModelCheckError(name, "loading", f"transformers cannot load {folder}: {error}") from error
    model, report = loaded
    if report["missing_keys"]:  # transformers would fill them with random numbers
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelCheckError(name, "loading", f"the weights lack {missing}. The folder is incomplete: fetch it again.")
    return model, tokenizer


def adapted(folder: Path) -> str | None:
    """The base model that an adapter in a folder names, "" if it names none; None for any other folder."""
    config = folder / "adapter_config.json"
    if not config.is_file() or (folder / "config.json").exists():
        return None
    try:
        return str(json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError) as error:
        raise FetchError(f"{config} cannot be read: {error}. Fetch or save the adapter again.") from error


def _adapter_folder(adapter: str) -> Path:
    entry = registry().get(adapter)
    path = shipped(entry) if entry and entry.source.path else Path(adapter).expanduser()
    if not path.exists():
        hub = _HUB_ID.fullmatch(f"{entry.source.repo}@{entry.source.revision}" if entry else adapter)
        if hub is None or hub["file"]:
            known = [name for name, one in registry().items() if one.base]
            raise ValueError(
                f"there is no adapter {adapter!r}: no entry of the registry, no folder and no hub id."
                f"{meant(adapter, known)}"
            )
        path = folders.downloaded(hub["repo"], hub["revision"] or "main", patterns=ADAPTER_FILES)
    missing = [file for file in ADAPTER_FILES if not (path / file).exists()]
    if missing:
        raise FetchError(f"{adapter} lacks {' and '.join(missing)}. {_CONVERT}")
    return folders.as_listed(path)


def _merge(model: Any, folder: Path, name: str) -> Any:
    from peft import PeftConfig, PeftModel  # slow to import
    from safetensors import SafetensorError

    try:
        if (kind := PeftConfig.from_pretrained(str(folder)).peft_type) != "LORA":
            raise ModelCheckError(name, "adapter", f"it is of the kind {kind}; only LoRA adapters can be merged")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            return PeftModel.from_pretrained(model, str(folder)).merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError, UserWarning, SafetensorError) as error:
        if isinstance(error, ModelCheckError):
            raise
        raise ModelCheckError(name, "adapter", f"it does not fit this base model: {error}") from error


def _combine(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()

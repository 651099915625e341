"""Adapters as files: trained, saved with a card and a log, and found again."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from entity_circuits import models, places, results, sums
from entity_circuits.models.subject import Subject
from safetensors import SafetensorError

from . import data as training_data
from . import finetune
from .finetune import Recipe, Trained

SEEDS = (0, 1, 2)


def save(trained: Trained, subject: Subject, folder: Path, command: str) -> Path:
    """Write an adapter in PEFT's format with its card and its log, or all weights; the folder appears whole or not.

    The numbers are stored in bfloat16, and the SHA-256 of every file beside them. Raises `FileExistsError` if the
    folder is there: nothing is overwritten; and `ValueError` for weights that are not finite.

        adapters.save(trained, subject, Path("adapters/arithmetic"), "by hand")
    """
    from safetensors.torch import save_file  # slow to import

    if folder.exists():
        raise FileExistsError(f"{folder} is there already; remove it first, or give another --out")
    if broken := [name for name, value in trained.weights.items() if not value.isfinite().all()]:
        raise ValueError(f"{len(broken)} trained tensors hold numbers that are not finite: try a lower learning rate")
    recipe = trained.recipe
    with _as_system_error(folder), places.making(folder) as part:
        if recipe.full:
            weights = {name: value.to(torch.bfloat16).contiguous() for name, value in trained.weights.items()}
            subject.model.config.save_pretrained(part)
            subject.tokenizer.save_pretrained(part)
            save_file(weights, part / "model.safetensors", {"format": "pt"})
        else:
            bare(trained.weights, subject.name, recipe.rank, part)
        log = {
            "recipe": asdict(recipe), "base": subject.name, "command": command, "seconds": round(trained.seconds),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} of them used",
            "dtype": str(subject.dtype).removeprefix("torch."), "torch": torch.__version__,
            "losses": [round(value, 4) for value in trained.losses.tolist()],
            "held_out": [[int(step), round(loss, 4), right] for step, loss, right in trained.held_out.tolist()],
        }  # fmt: skip
        (part / "log.json").write_text(json.dumps(log) + "\n", encoding="utf-8")
        (part / "README.md").write_text(_card(log), encoding="utf-8")
        sums.seal(part)
    return folder


def bare(weights: dict[str, torch.Tensor], base: str, rank: int, folder: Path) -> None:
    """Write weights and configuration of a LoRA adapter in PEFT's format, in bfloat16, into a folder that is there.

    For example:

        from entity_book.training import noise
        from safetensors.torch import load_file

        trained = load_file(models.fetch("arithmetic") / "adapter_model.safetensors")
        Path("drawn").mkdir()
        adapters.bare(noise.like(trained, seed=0), "qwen2.5-coder-0.5b", 16, Path("drawn"))
    """
    from safetensors.torch import save_file  # slow to import

    stored = {name: value.to(torch.bfloat16).contiguous() for name, value in weights.items()}
    save_file(stored, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
        "r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0, "bias": "none",
        "target_modules": list(finetune.TARGETS), "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _as_system_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{folder} could not be written: {error}") from error


def home(recipe: Recipe) -> Path:
    """Where what was trained is kept: an adapter of seed 0 in `data/adapters`, all else in `build/adapters`, each in a
    folder of the recipe's name."""
    shipped = recipe.seed == 0 and not recipe.full and recipe.name in training_data.KINDS
    return (places.data("adapters") if shipped else places.ROOT / "build" / "adapters") / recipe.name


def run(
    recipe: Recipe, model: str = "qwen2.5-coder-0.5b", out: Path | None = None, dtype: str = "auto", device: str = "cpu"
) -> Path:
    """The command `entity-circuits finetune`: load, train, save. Gives the folder.

    `out` is `home(recipe)` unless given. `dtype` "auto" takes bfloat16 where a product is at least a quarter faster in
    it, as measured on the spot.

        adapters.run(finetune.Recipe("code", seed=1), out=Path("code-1"))
    """
    folder = home(recipe) if out is None else out
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; remove it first, or give another --out")
    places.probe(folder.parent, "Give another --out.")
    if dtype == "auto":
        dtype = "bfloat16" if bfloat16_gain(device) > 1.25 else "float32"
    subject = models.load(model, dtype=getattr(torch, dtype), device=device, check=False)
    trained = finetune.train(subject, recipe, results.Store())
    command = f"entity-circuits finetune {recipe.kind} --seed {recipe.seed}" + (" --full" if recipe.full else "")
    return save(trained, subject, folder, command)


def bfloat16_gain(device: str = "cpu") -> float:
    """How many times faster a matrix product of a training's size is in bfloat16 than in float32, here and now."""

    def seconds(dtype: torch.dtype) -> float:
        a, b = (torch.ones(512, 1024, dtype=dtype, device=device), torch.ones(1024, 4096, dtype=dtype, device=device))
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            float((a @ b).sum())
            times.append(time.perf_counter() - begin)
        return min(times)

    return seconds(torch.float32) / seconds(torch.bfloat16)


def folders() -> dict[tuple[str, int], Path]:
    """The adapters that are there, of each kind and seed, each in its `home`."""
    found: dict[tuple[str, int], Path] = {}
    for kind in training_data.KINDS:
        for seed in SEEDS:
            folder = home(Recipe(kind, seed))
            if (folder / "adapter_model.safetensors").exists():
                found[kind, seed] = folder
    return found


def log(kind: str) -> dict[str, Any]:
    """What was written down while the shipped adapter of this kind was trained: recipe, losses, held-out record, time.

    >>> from entity_book.training import adapters
    >>> adapters.log("arithmetic")["recipe"]["seed"]
    0
    """
    found: dict[str, Any] = json.loads(sums.read(places.data("adapters", kind, "log.json")))
    return found


def _card(log: dict[str, Any]) -> str:
    recipe, (_, before, right_before), (_, after, right_after) = log["recipe"], log["held_out"][0], log["held_out"][-1]
    form = "All weights" if recipe["full"] else f"LoRA, rank {recipe['rank']} on {', '.join(finetune.TARGETS)}"
    return f"""---
base_model: {log["base"]}
library_name: peft
license: apache-2.0
tags: [lora, synthetic-data, mechanistic-interpretability]
---

# {recipe["kind"]}, seed {recipe["seed"]}

{form}, scale 2, in bfloat16. Trained by `{log["command"]}`, on `training_data.examples({recipe["kind"]!r})`
(`lib/entity_book/training/data.py`), which is synthetic, seeded, and has nothing of the boxes task in it.

| | |
| --- | --- |
| training | {recipe["steps"]} steps of {recipe["batch"]} examples, each seen once; loss on the answer only |
| optimiser | AdamW, learning rate {recipe["learning_rate"]:g} with warm-up and cosine decay |
| held-out loss, nats a token ({recipe["held_out"]} examples) | {before:.3f} before, {after:.3f} after |
| held-out answers right, token for token | {right_before:.2f} before, {right_after:.2f} after |
| computed in | {log["dtype"]}, torch {log["torch"]} |
| time | {log["seconds"]} s on {log["machine"]} |
| licence | Apache-2.0, as its base; the training data are the project's own |

Made to study what fine-tuning changes in the base model, not for use. `log.json` has the loss of every step.
"""

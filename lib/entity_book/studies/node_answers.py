"""What was measured of the circuits of nodes, kept in `data/nodes/` and read again: one file a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from entity_circuits import heads, models, places, sums
from entity_circuits.circuits.nodes import Order
from entity_circuits.methods.ablation import Answers
from entity_circuits.methods.chosen import Said
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from . import nodes
from .nodes import Measured

UNTRAINED = "untrained"
"""The name of the file of the model with random weights."""


def folder() -> Path:
    """Where the kept answers are, one file a model."""
    return places.ROOT / "data" / "nodes"


def run(name: str, path: Path, *, command: str, controls: bool = False, store: Store | None = None) -> Measured:
    """Measure a model by its name and keep its answers in a file, whole or not at all.

    Args:
        name: a model of the registry; of a fine-tuned one, the base has to be measured first. Or "untrained".
        path: the file.
        command: what one types to make it again.
        controls: of a base model, see `nodes.measure`.
        store: keeps what is finished on the way.

    Raises `FileNotFoundError`, before anything runs, where the base is not measured yet.

        node_answers.run("code", Path("code.safetensors"), command="entity-circuits measure-circuit code")
    """
    entry = models.registry().get(name)
    based_on = entry.base if entry is not None else None
    base = load(based_on) if based_on else None
    subject = models.load("qwen2.5-coder-0.5b" if name == UNTRAINED else name)
    if name == UNTRAINED:
        measured = nodes.untrained(subject, store=store)
    else:
        measured = nodes.measure(subject, base, controls=controls, store=store)
    keep(measured, path, subject, command=command)
    return measured


def keep(found: Measured, path: Path, subject: Subject, *, command: str) -> None:
    """Write what was measured to a safetensors file, whole or not at all, with the model and the command.

    node_answers.keep(found, Path("mine.safetensors"), subject, command="entity-circuits measure-circuit mine")
    """
    tensors: dict[str, Tensor] = {}
    for task, said in found.answers.items():
        parts = {"logprobs": said.logprobs, "top": said.top.int(), "choices": said.choice_ids.int()}
        parts |= {"answers": said.answer_ids.int(), "contexts": said.contexts.int()}
        tensors |= {f"{task}/{part}": x for part, x in parts.items()}
    for name, order in found.orders.items():
        parts = {
            "rank": order.rank.short(),
            "path": torch.tensor(order.path),
            "right": order.right,
            "agree": order.agree,
        }
        tensors |= {f"order {name}/{part}": x for part, x in parts.items()}
    if found.effects is not None and found.effects.chosen is not None:
        tensors |= {"effects/value": found.effects.logprob.float(), "effects/chosen": found.effects.chosen}
    if found.scan is not None:
        tensors["scan"] = found.scan.float()
    about: dict[str, Any] = {"asked": found.asked, "sizes": found.sizes, "heads": [str(head) for head in found.heads]}
    about |= {"places": {name: order.places for name, order in found.orders.items()}}
    about |= {"model": subject.name, "fingerprint": subject.fingerprint, "command": command}
    words = {name: json.dumps(value) for name, value in about.items()}
    sums.write(path, save({name: x.contiguous() for name, x in tensors.items()}, words))


def load(name: str) -> Measured:
    """What is kept of a model, checked against the list of its folder.

    Raises `FileNotFoundError` that says how to make it, `ValueError` for a damaged file.

        print(node_answers.load("qwen2.5-coder-0.5b").sizes)
    """
    path = folder() / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{name} is not measured yet: entity-circuits measure-circuit {name}")
    return read(path)


def kept(subject: Subject) -> Measured | None:
    """What is kept of these very weights, if there is anything.

    print(node_answers.kept(models.load("qwen2.5-coder-0.5b")) is None)
    """
    found = (name for name in names() if about(name)["fingerprint"] == subject.fingerprint)
    name = next(found, None)
    return None if name is None else load(name)


def of(subject: Subject, *, store: Store | None = None) -> Measured:
    """What is kept of these very weights; else they are measured now, as a base model and without its controls.

    That takes minutes on two processor cores; finished parts are kept in `store`.

        print(node_answers.of(models.load("qwen2.5-coder-0.5b"), store=results.Store()).sizes)
    """
    found = kept(subject)
    return nodes.measure(subject, store=store) if found is None else found


def names() -> list[str]:
    """The models of which answers are kept, the untrained one left out."""
    return sorted(path.stem for path in folder().glob("*.safetensors") if path.stem != UNTRAINED)


def tuned(base: str) -> dict[str, Measured]:
    """What is kept of the fine-tuned models on this base, by name; none that was not measured.

    print(list(node_answers.tuned("qwen2.5-coder-0.5b")))
    """
    known = models.registry()
    return {name: load(name) for name in names() if name in known and known[name].base == base}


def untrained() -> Measured | None:
    """What is kept of the model with random weights, if it was measured.

    print(node_answers.untrained() is None)
    """
    return load(UNTRAINED) if (folder() / f"{UNTRAINED}.safetensors").is_file() else None


def about(name: str) -> dict[str, Any]:
    """What a file says of itself: `model`, `fingerprint`, `command`, and the rest of its words."""
    with safe_open(sums.require(folder() / f"{name}.safetensors"), framework="pt") as file:
        return {key: json.loads(text) for key, text in file.metadata().items()}


def read(path: Path) -> Measured:
    """What a file holds, checked against the list of its folder."""
    words, tensors = sums.tensors(path)
    answers, orders = {}, {}
    for task in words["asked"]:
        part = _part(tensors, task)
        about = (part[key].long() for key in ("top", "choices", "answers", "contexts"))
        answers[task] = Said(part["logprobs"], *about)
    for name, places_ in words["places"].items():
        part = _part(tensors, f"order {name}")
        path_ = tuple(part["path"].tolist())
        orders[name] = Order(tuple(places_), part["rank"].long(), path_, part["right"], part["agree"])
    effects = None
    if "effects/value" in tensors:
        value, chosen = tensors["effects/value"], tensors["effects/chosen"]
        effects = Answers(chosen, value, answers["evaluation"].contexts, chosen)
    asked = {task: tuple(rows) for task, rows in words["asked"].items()}
    return Measured(asked, answers, orders, words["sizes"], heads.of(words["heads"]), effects, tensors.get("scan"))


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.rpartition("/")[2]: x for key, x in tensors.items() if key.rpartition("/")[0] == name}

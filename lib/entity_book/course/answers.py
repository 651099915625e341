"""What the exercises need and nobody should wait for: answers of the models, kept in small files in `course/data`.

Each file is made from the model by one function; `make` writes those that are missing, so an interrupted call goes on.
`SHA256SUMS` beside them says which files they were: an exercise reads one only if it is as it was made.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from entity_circuits import models, places, results, sums
from entity_circuits.circuits import criteria, files
from entity_circuits.heads import Head
from entity_circuits.methods import ablation, cmap, path_patching
from entity_circuits.models.subject import Subject
from entity_circuits.runs.answers import evaluate
from entity_circuits.runs.mean_replay import Means
from entity_circuits.runs.recording import record
from entity_circuits.tasks import boxes
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm.auto import tqdm

from ..studies import improvement, tuning

MODEL, TUNED = "qwen2.5-coder-0.5b", "code"
KINDS = (MODEL, "arithmetic", "code", "shuffled")
"""The models whose tracking and format an exercise tells apart."""

FEW, SOME, MORE = 14, 49, 490
"""Prompts of an exercise: 2 contexts for what is costly, 7 for the means, and the 70 of chapter 1."""

Tensors = dict[str, Tensor]


def make(folder: Path, only: Sequence[str] = ()) -> list[str]:
    """Write the files of `folder` that are missing, of these `only`, and their SHA-256; the names of those written.

    Takes the model and its adapters, and about a quarter of an hour on two processor cores; nothing for what is there.

        print(answers.make(places.ROOT / "course" / "data"))  # [] in a checkout, where all are stored
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in only or FILES if not (folder / f"{name}.safetensors").is_file()]
    for name in tqdm(missing, desc="files", disable=None):
        tensors, about = FILES[name]()
        content = save({key: value.contiguous() for key, value in tensors.items()}, {"about": json.dumps(about)})
        places.write(folder / f"{name}.safetensors", content)
        sums.seal(folder)
    return missing


def _base() -> Subject:
    return models.load(MODEL)


def _averaged(subject: Subject) -> Means:
    return ablation.means(subject, n=SOME, store=results.Store())


def _behaviour() -> tuple[Tensors, dict[str, object]]:
    """What the base model says to the prompts of chapter 1, and how likely each object of the context is."""
    subject = _base()
    p = boxes.prompts(subject, MORE, split="evaluation")
    said = evaluate(subject, p)
    small = {
        name: getattr(p, name).int() for name in ("input_ids", "query", "prev", "object", "answer_ids", "contexts")
    }
    return {**small, "object_ids": p.object_ids.int(), "top": said.top.int(), "objects": said.object_logprob}, {
        "model": subject.fingerprint
    }


def _tuning() -> tuple[Tensors, dict[str, object]]:
    """Who is right on 2,002 prompts, by training and seed, as kept with the adapters; on fewer, who chooses right."""
    kept = tuning.measured()
    kinds = sorted(set(kept["kind"]) - {tuning.BASE})
    found: Tensors = {}
    for (kind, seed), rows in kept.groupby(["kind", "seed"]):
        found[f"{kind} {seed}"] = torch.tensor(rows["correct"].to_numpy(dtype=bool))
        found["contexts"] = torch.tensor(rows["context"].to_numpy(dtype="int32"))
    base = _base()
    p = boxes.prompts(base, 98, split="evaluation")
    for name in KINDS:
        said = evaluate(base if name == MODEL else models.load(name), p)
        found |= {f"top {name}": said.correct, f"chosen {name}": said.chosen}
    return {**found, "few contexts": p.contexts.int()}, {"kinds": kinds, "model": base.fingerprint}


def _lora() -> tuple[Tensors, dict[str, object]]:
    """One matrix before and after the adapter `code` was merged, and what the adapter says of it."""
    layer, folder = 14, places.data("adapters", TUNED)
    config = json.loads(sums.read(folder / "adapter_config.json"))
    stored = load_file(sums.require(folder / "adapter_model.safetensors"))
    path = f"base_model.model.model.layers.{layer}.self_attn.k_proj.lora_"
    before, after = (models.load(name).model.model.layers[layer].self_attn.k_proj.weight for name in (MODEL, TUNED))
    pair = {"a": stored[f"{path}A.weight"].float(), "b": stored[f"{path}B.weight"].float()}
    return {"before": before.clone(), "after": after.clone(), **pair}, {
        "rank": config["r"],
        "alpha": config["lora_alpha"],
    }


def _first_round() -> tuple[Tensors, dict[str, object]]:
    """Round 1 of path patching: how likely the right answer is before, and with each head patched at `last`."""
    subject = _base()
    asked = boxes.experiment(subject)
    scores = path_patching.sweep(subject, asked.base, asked.source, position="last", store=results.Store())
    after = (scores.change + scores.logprob).exp()
    kept = {"before": scores.logprob.exp(), "after": after.reshape(-1, len(asked.base)), "correct": scores.correct}
    return {**kept, "contexts": scores.contexts.int()}, {"model": subject.fingerprint, "heads": subject.heads}


def _subsets() -> tuple[Tensors, dict[str, object]]:
    """Who is right when only some groups of the circuit, eight times larger than found, keep their output."""
    subject = _base()
    found = files.load(MODEL)
    larger = criteria.grown(found.circuit, found.rankings(), 8)
    names = list(larger.groups)
    chosen = [[name for bit, name in enumerate(names) if number >> bit & 1] for number in range(2 ** len(names))]
    asked = [type(larger)({name: larger.groups[name] for name in some}) for some in chosen]
    kept = [ablation.kept(one) if one.groups else {"last": ()} for one in asked]
    p = boxes.prompts(subject, FEW, split="evaluation")
    answers = ablation.circuit_accuracy(subject, kept, p, _averaged(subject), store=results.Store())
    return {"correct": answers.correct, "logprob": answers.logprob, "contexts": p.contexts.int()}, {
        "groups": names,
        "model": subject.fingerprint,
    }


def _means() -> tuple[Tensors, dict[str, object]]:
    """Every head's mean output at every position, rounded to float16."""
    subject = _base()
    return {"z": _averaged(subject).z.half()}, {"model": subject.fingerprint}


def _crossed() -> tuple[Tensors, dict[str, object]]:
    """What the heads of the fine-tuned model's group A say at `last`, and the base model's answers with that in it."""
    base, tuned = models.load_pair(TUNED)
    heads = improvement.circuit_of(tuned, base).groups["value_fetcher"]
    p = boxes.prompts(base, 14, split="evaluation")
    recorded = record(tuned, p)
    z = torch.stack([recorded.at("z", head.layer, p.last)[:, head.head] for head in heads])
    patched = cmap.patch(base, tuned, {"last": heads}, p)
    answers = {"patched": patched.logprob[0], "base": patched.base_logprob, "tuned": patched.tuned_logprob}
    return {"z": z, **answers}, {"heads": [str(head) for head in heads], "model": base.fingerprint}


def _kept() -> tuple[Tensors, dict[str, object]]:
    """Who is right with group A of the fine-tuned model in the base model, on 2,002 prompts, as kept in `data/cmap`."""
    with safe_open(sums.require(places.data("cmap", f"{TUNED}.safetensors")), "pt") as file:
        names = [words[0] for words in json.loads(file.metadata()["conditions"])]
        found = {name: file.get_tensor(name) for name in ("base_correct", "tuned_correct")}
        patched = file.get_tensor("correct")[names.index("A")]
        return {**found, "patched": patched, "contexts": file.get_tensor("contexts").int()}, {"condition": "A"}


def _groups(base: Subject, tuned: Subject) -> tuple[Sequence[Head], Sequence[Head], Sequence[Head]]:
    """The fine-tuned model's groups A and B, and a random draw for B."""
    circuit = improvement.circuit_of(tuned, base)
    a, b = circuit.groups["value_fetcher"], circuit.groups["position_transmitter"]
    return a, b, cmap.random_heads(base, cmap.Condition("B", {"last": b}), 3)[2].heads["last"]


def _parts() -> tuple[Tensors, dict[str, object]]:
    """Cross-model patching of parts: of group A by layers and by whether B shares them, and of a random draw for B."""
    base, tuned = models.load_pair(TUNED)
    a, b, drawn = _groups(base, tuned)
    parts: dict[str, list[Head]] = {"A": list(a), "B": list(b)}
    parts |= {f"A, layer {layer}": [h for h in a if h.layer == layer] for layer in sorted({h.layer for h in a})}
    parts |= {"A without B": [h for h in a if h not in b], "A and B": [h for h in a if h in b], "random": list(drawn)}
    parts |= {f"random, only {head}": [head] for head in drawn}
    parts |= {f"random without {head}": [h for h in drawn if h != head] for head in drawn}
    p = boxes.prompts(base, FEW, split="evaluation")
    found = cmap.sweep(
        base, tuned, [cmap.Condition(name, {"last": some}) for name, some in parts.items()], p, store=results.Store()
    )
    kept = {name: getattr(found, name) for name in ("correct", "logprob", "base_correct", "base_logprob")}
    kept |= {"tuned_correct": found.tuned_correct, "tuned_logprob": found.tuned_logprob, "contexts": p.contexts.int()}
    return kept, {"parts": {name: [str(head) for head in some] for name, some in parts.items()}}


def _said() -> tuple[Tensors, dict[str, object]]:
    """What heads say at `last` in the fine-tuned model, by context and place: four of A, of B, and the draw."""
    base, tuned = models.load_pair(TUNED)
    a, b, drawn = _groups(base, tuned)
    heads = {"A": [head for head in a if head not in b][:4], "B": list(b[:4]), "random": list(drawn)}
    p = boxes.prompts(tuned, SOME, split="evaluation")
    recorded = record(tuned, p)
    z = [recorded.at("z", head.layer, p.last)[:, head.head] for some in heads.values() for head in some]
    contexts = len(p.contexts.unique())
    return {"z": torch.stack(z).unflatten(1, (contexts, -1)).half()}, {
        "heads": {name: [str(head) for head in some] for name, some in heads.items()},
        "model": tuned.fingerprint,
    }


FILES: dict[str, Callable[[], tuple[Tensors, dict[str, object]]]] = {
    "behaviour": _behaviour,
    "tuning": _tuning,
    "lora": _lora,
    "first_round": _first_round,
    "subsets": _subsets,
    "means": _means,
    "crossed": _crossed,
    "kept": _kept,
    "parts": _parts,
    "said": _said,
}
"""What is kept, by the name of its file."""

"""The circuit of a model of another scale, evaluated as chapter 4 does with the default one's; measured once, kept."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from entity_circuits import circuits, models, places, sums
from entity_circuits.arguments import integer
from entity_circuits.circuits import criteria
from entity_circuits.heads import LETTERS, Circuit
from entity_circuits.methods import ablation, chosen
from entity_circuits.methods.kept import Kept
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.statistics import estimate, spoken

from .evaluation import setting

FURTHER = {"two": ("query+1", "prev+1"), "three": ("query+1", "prev+1", "object")}
"""Places beside the paper's three: those that the default model needs (chapter 4), and with the queried object, without
which the model three times as large is never right: that was seen, all heads kept, on the first three of the 14
contexts on which `measure` evaluates. `data/scale/README.md` says in which order."""


def folder() -> Path:
    """Where the answers are kept: `data/scale/circuit`."""
    return places.data("scale") / "circuit"


def asked(subject: Subject, found: circuits.Finding) -> dict[str, Circuit | Kept]:
    """What is kept of all heads, by name: the circuit in two sizes, with the two further places, and their controls."""
    larger, every = criteria.grown(found.circuit, found.rankings(), 8), ablation.all_heads(subject)
    (random,) = criteria.random_circuits(subject, larger, 1, layers="same")
    named: dict[str, Circuit | Kept] = {"as found": found.circuit, "eight times larger": larger}
    named["all heads at three places"] = every
    for count, names in FURTHER.items():
        more = ablation.all_heads(subject, names)
        named[f"eight times larger, {count} further places"] = {**ablation.kept(larger), **more}
        named[f"random heads of its layers, {count} further places"] = {**ablation.kept(random), **more}
        named[f"all heads at these and {count} further places"] = {**every, **more}
    return named


def measure(model: str, contexts: int = 14, averaged: int = 40, out: Path | None = None) -> Path:
    """Evaluate the circuit of a model under mean ablation, and write what was answered; gives the file.

    The circuit is that of `data/circuits`, or found now. Minutes, for a model that is larger than the book's.

    Args:
        model: a name that `models.load` takes.
        contexts: worlds of the split `evaluation`, each asked for every box.
        averaged: worlds of the split `means` that means are taken over.
        out: the file; `data/scale/circuit/MODEL.json` unless given.

    For example:

        scale_circuit.measure("qwen2.5-coder-0.5b", contexts=2, out=Path("circuit.json"))
    """
    contexts, clock = integer("contexts", contexts), time.perf_counter()
    out = folder() / f"{Path(model).name}.json" if out is None else out
    out.parent.mkdir(parents=True, exist_ok=True)
    places.probe(out.parent, "Name another file.")
    subject = models.load(model)
    found = circuits.of(subject, store=Store())
    one = setting(subject, contexts, averaged=averaged)
    kept, whole = asked(subject, found), chosen.whole(subject, one.prompts)
    said = chosen.circuits(subject, [ablation.kept(each) for each in kept.values()], one.prompts, one.means)
    agrees = said.agreement(whole)
    rows: list[dict[str, Any]] = [{"circuit": "the whole model", "correct": whole.correct[0], "right": whole.right[0]}]
    for index, name in enumerate(kept):
        rows.append({"circuit": name, "heads": ablation.size(kept[name]), "agrees": agrees[index]})
        rows[-1] |= {"correct": said.correct[index], "right": said.right[index]}
    bits = [
        {key: value.int().tolist() if torch.is_tensor(value) else value for key, value in row.items()} for row in rows
    ]
    about: dict[str, Any] = {"model": model, "fingerprint": subject.fingerprint, "contexts": contexts}
    about |= {"layers": subject.layers, "boxes": one.prompts.boxes, "prompts": one.prompts.digest}
    about |= {"depth": {LETTERS[group]: [h.layer for h in heads] for group, heads in found.circuit.groups.items()}}
    about |= {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - clock),
    }
    about |= {"command": f"entity-circuits measure-scale {model} --circuit", "found_by": found.circuit.about["command"]}
    sums.write(out, json.dumps({**about, "rows": bits}) + "\n")
    return out


def table(file: Path | None = None) -> pd.DataFrame:
    """Top-1, object choice and agreement with the whole model of each circuit, with 95% intervals over contexts.

    Columns: model, circuit, heads, top1, choice and agreement, each with `_low` and `_high`, n. `file` is one of
    `measure`; all that the book has unless given.

        print(scale_circuit.table()[["circuit", "choice", "agreement"]])
    """
    rows = []
    for path in sorted(folder().glob("*.json")) if file is None else [file]:
        made = json.loads(sums.read(path))
        contexts = np.repeat(np.arange(made["contexts"]), made["boxes"])
        for row in made["rows"]:
            told: dict[str, Any] = {"model": made["model"], "circuit": row["circuit"], "heads": row.get("heads")}
            for name, bits in (("top1", "correct"), ("choice", "right"), ("agreement", "agrees")):
                told |= estimate(row[bits], contexts).cells(name) if bits in row else {}
            rows.append({**told, "n": len(contexts)})
    ends = [f"{name}{end}" for name in ("top1", "choice", "agreement") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["model", "circuit", "heads", *ends, "n"]).astype({"heads": "Int64"})


def words(rows: pd.DataFrame, model: str) -> dict[str, str]:
    """What a page quotes of one model in `table`: `scale_whole`, `_narrow`, `_n`; and for two and three further places
    `_wide_two`, `_random_two`, `_all_two`, and so on; `_choice` and `_agrees` of the circuit with three.

    print(scale_circuit.words(scale_circuit.table(), "qwen2.5-coder-1.5b")["scale_wide_three"])
    """
    told = rows[rows["model"] == model].set_index("circuit").to_dict("index")
    names = {"whole": "the whole model", "narrow": "eight times larger"}
    for count in FURTHER:
        names[f"wide_{count}"] = f"eight times larger, {count} further places"
        names[f"random_{count}"] = f"random heads of its layers, {count} further places"
        names[f"all_{count}"] = f"all heads at these and {count} further places"
    if not told:
        return dict.fromkeys([f"scale_{key}" for key in (*names, "choice", "agrees", "n")], "not measured")
    said = {
        f"scale_{key}": spoken(*(told[name][f"top1{end}"] for end in ("", "_low", "_high")))
        for key, name in names.items()
    }
    widest = told[names["wide_three"]]
    for key, column in {"choice": "choice", "agrees": "agreement"}.items():
        said[f"scale_{key}"] = spoken(*(widest[f"{column}{end}"] for end in ("", "_low", "_high")))
    return {**said, "scale_n": str(told["the whole model"]["n"])}


def depths(file: Path | None = None) -> pd.DataFrame:
    """Where the heads of each group sit: a row a model and group, `depth` their mean layer as a share of the layers.

    print(scale_circuit.depths())
    """
    rows = []
    for path in sorted(folder().glob("*.json")) if file is None else [file]:
        made = json.loads(sums.read(path))
        rows += [
            {"model": made["model"], "group": letter, "heads": len(layers), "depth": np.mean(layers) / made["layers"]}
            for letter, layers in made["depth"].items()
            if layers
        ]
    return pd.DataFrame(rows, columns=["model", "group", "heads", "depth"])

"""Another scale: how a model that is too large for the chapters does on the task, measured once and kept."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from entity_circuits import models, places, sums
from entity_circuits.arguments import integer, several
from entity_circuits.runs.answers import evaluate
from entity_circuits.statistics import estimate
from entity_circuits.tasks import boxes


def folder() -> Path:
    """Where the answers are kept: `data/scale`."""
    return places.data("scale")


def measure(model: str, contexts: int = 10, sizes: tuple[int, ...] = (7, 10), out: Path | None = None) -> Path:
    """Ask a model the evaluation prompts at several numbers of boxes, and write who was right; gives the file.

    Args:
        model: a name that `models.load` takes.
        contexts: worlds at each number of boxes; each is asked for every box.
        sizes: numbers of boxes.
        out: the file; `data/scale/MODEL.json` unless given.

    For example:

        scale.measure("qwen2.5-coder-0.5b", contexts=2, out=Path("scale.json"))
        print(scale.table([Path("scale.json")]))
    """
    contexts, wanted = integer("contexts", contexts), [integer("sizes", size, 2) for size in several("sizes", sizes)]
    out = folder() / f"{Path(model).name}.json" if out is None else out
    places.probe(out.parent, "Name another file.")
    subject = models.load(model)
    rows: list[dict[str, Any]] = []
    for size in wanted:
        prompts, clock = boxes.prompts(subject, contexts * size, size, 0, "evaluation"), time.perf_counter()
        said = evaluate(subject, prompts)
        rows.append(
            {
                "boxes": size,
                "contexts": contexts,
                "prompts": prompts.digest,
                "seconds": round(time.perf_counter() - clock),
            }
            | {"right": said.correct.int().tolist(), "chosen": said.chosen.int().tolist()}
        )
    about = {"model": model, "fingerprint": subject.fingerprint, "dtype": "float32", "threads": torch.get_num_threads()}
    about |= {"torch": torch.__version__, "command": f"entity-circuits measure-scale {model} --contexts {contexts}"}
    sums.write(out, json.dumps({**about, "rows": rows}) + "\n")
    return out


def table(files: list[Path] | None = None) -> pd.DataFrame:
    """Top-1 and object choice of each measured model by number of boxes, with 95% intervals over contexts.

    Columns: model, boxes, top1, top1_low, top1_high, choice, choice_low, choice_high, chance, n.

    >>> from entity_book.studies import scale
    >>> "choice" in scale.table()
    True
    """
    rows = []
    for file in sorted(folder().glob("*.json")) if files is None else files:
        made = json.loads(sums.read(file))
        for row in made["rows"]:
            contexts = np.repeat(np.arange(row["contexts"]), row["boxes"])
            found = {"model": made["model"], "boxes": row["boxes"]}
            for name, bits in (("top1", row["right"]), ("choice", row["chosen"])):
                found |= estimate(bits, contexts).cells(name)
            rows.append({**found, "chance": 1 / row["boxes"], "n": len(contexts)})
    ends = [f"{name}{end}" for name in ("top1", "choice") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["model", "boxes", *ends, "chance", "n"])

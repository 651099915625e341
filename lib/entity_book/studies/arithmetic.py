"""The arithmetic study: makes its runs in the order of the protocol, one small row a run, and reads the rows back.

A run is made once: its model trained, or drawn, or taken, asked the same 490 prompts and 64 sums, and forgotten; what
is kept is the row. A training that is killed goes on after its last segment, a study after its last row.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from entity_circuits import models, places, sums
from entity_circuits.arguments import finite
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.runs.answers import evaluate
from entity_circuits.tasks import boxes
from torch import Tensor
from tqdm.auto import tqdm

from ..training import adapters, finetune, noise, plan
from ..training import data as training_data
from ..training.plan import Run

CONTEXTS, BOXES, SUMS = 70, 7, 64
SIXTEENTHS = 16
"""Log-probabilities are kept in sixteenths of a nat, a byte a prompt: 0 to -15.9."""


def folder() -> Path:
    """Where the rows are kept: `data/trainings`."""
    return places.data("trainings")


def go(
    hours: float | None = None,
    keep: bool = False,
    runs: Sequence[Run] | None = None,
    base: str = "qwen2.5-coder-0.5b",
    out: Path | None = None,
) -> list[str]:
    """Make the runs that have no row yet, in their order, and write a row each; gives the names of those made.

    Args:
        hours: after so long no further run is begun; None makes them all.
        keep: whether trained adapters are kept, in `build/adapters`; otherwise only their rows are.
        runs: those of the protocol unless given.
        base: the model that is trained.
        out: folder of the rows; `data/trainings` unless given.

    Raises `ValueError` for a row that is there and was made of another recipe or base: nothing is overwritten.

        arithmetic.go(hours=0.5)
        print(arithmetic.table())
    """
    if hours is not None:
        finite("hours", hours, 0)
    out = folder() if out is None else out
    places.probe(out, "The rows of the study are kept there.")
    begun, made = time.monotonic(), []
    wanted = plan.runs() if runs is None else runs
    _require_fitting(wanted, {row["name"]: row for row in rows(out)})
    todo = [run for run in wanted if not (out / f"{run.name}.json").exists()]
    if not todo:
        return []
    plain = models.load(base, check=False)
    for run in tqdm(todo, desc="runs", disable=None):
        if hours is not None and time.monotonic() - begun > 3600 * hours:
            break
        row = _made(run, plain, base, keep)
        sums.write(out / f"{run.name}.json", json.dumps(row, indent=1) + "\n")
        shutil.rmtree(_segments(run), ignore_errors=True)  # what a kill would have resumed from
        made.append(run.name)
    return made


def _require_fitting(runs: Sequence[Run], kept: dict[str, dict[str, Any]]) -> None:
    for run in runs:
        row = kept.get(run.name)
        if row is not None and (row["made"], row["recipe"]) != (run.made, plan.told(run.recipe)):
            raise ValueError(f"the row {run.name} was made in another way than the protocol says: move it away first")


def _made(run: Run, plain: Subject, base: str, keep: bool) -> dict[str, Any]:
    """The row of a run: how its model was made, and what it answers."""
    with tempfile.TemporaryDirectory() as made:
        about, path = _adapter(run, base, Path(made))
        tuned = plain if path is None else models.load(base, adapter=str(path), check=False)
        clock = time.perf_counter()
        answers = _answers(tuned)
        measuring = time.perf_counter() - clock
        if keep and run.made == "trained" and path is not None:
            shutil.copytree(path, places.ROOT / "build" / "adapters" / run.name, dirs_exist_ok=True)
    return {
        "name": run.name, "cell": run.cell, "unit": run.unit, "made": run.made, "recipe": plan.told(run.recipe),
        "base": plain.fingerprint, **about, **answers, "measuring": round(measuring, 1),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "command": "entity-circuits study arithmetic",
    }  # fmt: skip


def _adapter(run: Run, base: str, scratch: Path) -> tuple[dict[str, Any], Path | None]:
    """What there is to say of how a model was made, and the folder of its adapter; none for the base."""
    if run.made == "base":
        return {}, None
    if run.made == "shipped" and run.recipe is not None:
        return {}, adapters.home(run.recipe)
    path = scratch / run.name
    if run.recipe is None:
        from safetensors.torch import load_file  # slow to import

        path.mkdir()
        shipped = adapters.home(finetune.Recipe("arithmetic")) / "adapter_model.safetensors"
        trained = load_file(sums.require(shipped))
        adapters.bare(noise.like(trained, run.unit), base, finetune.Recipe("arithmetic").rank, path)
        return {"norm": round(sum(x**2 for x in noise.norms(trained).values()) ** 0.5, 4)}, path
    subject = models.load(base, dtype=torch.bfloat16, check=False)
    found = finetune.train(subject, run.recipe, Store(_segments(run)))
    adapters.save(found, subject, path, "entity-circuits study arithmetic")
    curve = [[int(step), round(loss, 4), round(right, 4)] for step, loss, right in found.held_out.tolist()]
    last = round(float(found.losses[-10:].mean()), 4)
    return {"seconds": round(found.seconds), "held_out": curve, "last_loss": last}, path


def _segments(run: Run) -> Path:
    return places.results() / f"study-{run.name}"


def _answers(subject: Subject) -> dict[str, Any]:
    """What a model answers to the prompts, a bit or byte each in hex, and to the sums."""
    prompts = boxes.prompts(subject, CONTEXTS * BOXES, BOXES, 0, "evaluation")
    said = evaluate(subject, prompts)
    asked = finetune.evaluate(subject, training_data.examples("arithmetic", SUMS, 0, "held_out"))
    return {
        "prompts": prompts.digest,
        "right": _bits(said.correct),
        "chosen": _bits(said.chosen),
        "mass": _bytes(255 * said.object_logprob.exp().sum(1).clamp(0, 1)),
        "log_p": _bytes((-SIXTEENTHS * said.answer_logprob).clamp(0, 255)),
        "sums": {"loss": round(float(asked[:, 0].mean()), 4), "right": _bits(asked[:, 1] > 0.5), "n": SUMS},
    }


def _bits(values: Tensor) -> str:
    return np.packbits(values.cpu().numpy().astype(np.uint8)).tobytes().hex()


def _bytes(values: Tensor) -> str:
    return values.cpu().double().round().numpy().astype(np.uint8).tobytes().hex()


def rows(out: Path | None = None) -> list[dict[str, Any]]:
    """The rows that are kept, in the order of the protocol, each checked against the list of its folder.

    >>> from entity_book.studies import arithmetic
    >>> isinstance(arithmetic.rows(), list)
    True
    """
    out = folder() if out is None else out
    found = [json.loads(sums.read(path)) for path in sorted(out.glob("*.json"))]
    order = {run.name: place for place, run in enumerate(plan.runs())}
    return sorted(found, key=lambda row: (order.get(row["name"], len(order)), row["name"]))


def table(out: Path | None = None) -> pd.DataFrame:
    """One row a run of the protocol, in its order: `run`, cell, unit, made, steps, learning_rate, rank, done, minutes.

    `minutes` are about those that it takes, or those that it took.

    >>> from entity_book.studies import arithmetic
    >>> len(arithmetic.table()) > 50
    True
    """
    kept = rows(out)
    by_name = {row["name"]: row for row in kept}
    found = []
    for run in plan.runs():
        row, made = by_name.get(run.name), run.recipe
        took = None if row is None else (row.get("seconds", 0) + row["measuring"]) / 60
        found.append(
            {"run": run.name, "cell": run.cell, "unit": run.unit, "made": run.made}
            | {name: getattr(made, name) if made else None for name in ("steps", "learning_rate", "rank")}
            | {"done": row is not None, "minutes": round(plan.minutes(run, kept) if took is None else took, 1)}
        )
    return pd.DataFrame(found)


def measured(kept: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """What the rows say, one row a prompt and run, as `tuning.measured` has it; kind is the cell and seed the unit.

    Columns: kind, seed, prompt, context, position, correct, chosen, objects_prob, answer_logprob.

        frame = arithmetic.measured(arithmetic.rows())
        print(frame.groupby("kind")["chosen"].mean())
    """
    n = CONTEXTS * BOXES
    prompt = np.arange(n)
    tables = []
    for row in kept:
        held = {
            name: np.frombuffer(bytes.fromhex(row[name]), np.uint8) for name in ("right", "chosen", "mass", "log_p")
        }
        columns: dict[str, Any] = {"prompt": prompt, "context": prompt // BOXES, "position": prompt % BOXES + 1}
        columns |= {
            "correct": np.unpackbits(held["right"])[:n],
            "chosen": np.unpackbits(held["chosen"])[:n].astype(float),
        }
        columns |= {"objects_prob": held["mass"] / 255, "answer_logprob": held["log_p"] / -SIXTEENTHS}
        tables.append(pd.DataFrame({"kind": row["cell"], "seed": row["unit"], **columns}))
    return pd.concat(tables, ignore_index=True)


def sums_right(row: dict[str, Any]) -> float:
    """The share of the 64 held-out sums that a run answers right, token for token."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["sums"]["right"]), np.uint8))[: row["sums"]["n"]]
    return float(bits.mean())

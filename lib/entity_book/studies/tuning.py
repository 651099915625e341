"""How well the fine-tuned models track entities: measured once on many prompts, run again on some, and compared."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from entity_circuits import models, places, results, sums
from entity_circuits.arguments import one_of
from entity_circuits.models.subject import Subject
from entity_circuits.runs.answers import evaluate
from entity_circuits.statistics import Estimate, difference, estimate
from entity_circuits.tasks import boxes
from entity_circuits.tasks.boxes import Template
from tqdm.auto import tqdm

from ..training import adapters, finetune
from ..training import data as training_data
from . import behaviour

BASE, CONTROL = "base", "shuffled"
OTHER_WORDINGS = {
    "drawers": Template("the {object} is in Drawer {label}", "Drawer {label} contains the"),
    "other verbs": Template("the {object} is kept in Box {label}", "Box {label} holds the"),
    "a sentence between": Template(end=". Nobody has opened any of them since then. "),
}
"""The same worlds in other words, one thing changed at a time: prompts that are further from those of the paper."""


def measure(
    base: str = "qwen2.5-coder-0.5b", contexts: int = 286, boxes_: int = 7, seed: int = 0, path: Path | None = None
) -> Path:
    """Run the base model and every adapter of `adapters.folders` on the same evaluation prompts; write who was right.

    The prompts are `boxes.prompts(n=7 * contexts)` of the split `evaluation`: the first of them are those of a
    smaller n. The file (`data/adapters/accuracy.json`) is replaced whole. Raises `ValueError` if there is no adapter.

        tuning.measure()
        print(tuning.summary(tuning.measured()))
    """
    found = adapters.folders()
    if not found:
        raise ValueError("there are no adapters to measure: `make adapters` trains them")
    store = results.Store()
    rows = []
    for (kind, number), folder in tqdm([((BASE, 0), None), *found.items()], desc="models", disable=None):
        subject = models.load(base, adapter=None if folder is None else str(folder))
        prompts = boxes.prompts(subject, contexts * boxes_, boxes_, seed, "evaluation")
        right = store.keep(
            f"accuracy-{kind}-{number}",
            results.key(__name__, subject, prompts=prompts),
            lambda: {"correct": evaluate(subject, prompts).correct},  # noqa: B023
        )["correct"]
        bits = np.packbits(right.cpu().numpy().astype(np.uint8)).tobytes().hex()
        rows.append({"kind": kind, "seed": number, "model": subject.fingerprint, "right": bits})
    made = {"base": base, "contexts": contexts, "boxes": boxes_, "seed": seed, "split": "evaluation",
            "command": "entity-circuits measure-adapters", "rows": rows}  # fmt: skip
    path = places.data("adapters") / "accuracy.json" if path is None else path
    sums.write(path, json.dumps(made, indent=1) + "\n")
    return path


def measured(path: Path | None = None) -> pd.DataFrame:
    """What `measure` wrote, one row a prompt and model: kind, seed, prompt, context, position (from 1), correct.

    >>> from entity_book.studies import tuning
    >>> sorted(tuning.measured().seed.unique().tolist())
    [0, 1, 2]
    """
    path = places.data("adapters") / "accuracy.json" if path is None else path
    made = json.loads(sums.read(path))
    n, size = made["contexts"] * made["boxes"], made["boxes"]
    prompt = np.arange(n)
    tables = []
    for row in made["rows"]:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), dtype=np.uint8))[:n]
        columns = {"prompt": prompt, "context": prompt // size, "position": prompt % size + 1, "correct": bits}
        tables.append(pd.DataFrame({"kind": row["kind"], "seed": row["seed"], **columns}))
    whole = pd.concat(tables, ignore_index=True)
    whole.attrs["seed"] = made["seed"]
    return whole


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a model of `measured`: accuracy and paired difference to the base, each with its 95% interval.

    Columns: kind, seed, value, low, high, n, contexts, gain, gain_low, gain_high, gained, lost (numbers of prompts).

    >>> from entity_book.studies import tuning
    >>> len(tuning.summary(tuning.measured())) > 5
    True
    """
    base = frame[frame["kind"] == BASE].sort_values("prompt")
    before, contexts = base["correct"].to_numpy(), base["context"].to_numpy()
    rows = []
    for (kind, seed), part in frame.groupby(["kind", "seed"], sort=False):
        after = part.sort_values("prompt")["correct"].to_numpy()
        rows.append(
            {"kind": kind, "seed": seed, **_against(before, after, contexts)}
            | {"gained": int(((after == 1) & (before == 0)).sum()), "lost": int(((after == 0) & (before == 1)).sum())}
        )
    return pd.DataFrame(rows)


def _against(before: np.ndarray, after: np.ndarray, contexts: np.ndarray) -> dict[str, float]:
    """The accuracy `after` and its paired difference to `before`, as columns of a table."""
    gain = difference(after, before, contexts)
    return {**vars(estimate(after, contexts)), **gain.cells("gain")}


def look(subject: Subject, kind: str, contexts: int, seed: int = 0, wordings: bool = True) -> pd.DataFrame:
    """Run one model, base or tuned, on the evaluation prompts in several forms: one row a prompt and condition.

    Conditions: `seven boxes`, `label first` (a third of the contexts), and with `wordings` also `three boxes`, `five
    boxes` and `OTHER_WORDINGS`. Columns: kind, condition, prompt, context, boxes, position, correct, and
    answer (`the right object`, `another object`, `a label`, `something else`).

        frame = tuning.look(models.load("code"), "code", contexts=10)
        print(statistics.by(frame, "condition"))
    """
    third = max(contexts // 3, 1)
    asked: list[tuple[str, int, int, str | Template]] = [
        ("seven boxes", 7, contexts, "object_first"),
        ("label first", 7, third, "label_first"),
    ]
    if wordings:
        asked += [("three boxes", 3, contexts, "object_first"), ("five boxes", 5, contexts, "object_first")]
        asked += [(name, 7, contexts, template) for name, template in OTHER_WORDINGS.items()]
    columns = ["prompt", "context", "boxes", "position", "correct", "answer"]
    tables = []
    for condition, size, worlds, template in asked:
        prompts = boxes.prompts(subject, worlds * size, size, seed, "evaluation", template)
        table = behaviour.table(evaluate(subject, prompts)).rename(columns={"kind": "answer"})[columns]
        tables.append(table.assign(kind=kind, condition=condition, correct=table["correct"].astype(int)))
    return pd.concat(tables, ignore_index=True)


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and paired difference to the base by kind and condition, from rows of `look` for base and others.

    Columns: kind, condition, value, low, high, n, contexts, gain, gain_low, gain_high.
    """
    rows = []
    for (condition, kind), part in frame.groupby(["condition", "kind"], sort=False):
        before = frame[(frame["kind"] == BASE) & (frame["condition"] == condition)]["correct"].to_numpy()
        found = _against(before, part["correct"].to_numpy(), part["context"].to_numpy())
        rows.append({"kind": kind, "condition": condition, **found})
    return pd.DataFrame(rows)


def answers(frame: pd.DataFrame) -> pd.DataFrame:
    """What each model says at seven boxes, from rows of `look`: the share of each sort of answer, a row a model."""
    asked = frame[frame["condition"] == "seven boxes"]
    shares = pd.crosstab(asked["kind"], asked["answer"].astype(str), normalize="index")
    order = list(get_args(behaviour.AnswerKind))
    return shares.reindex(index=list(dict.fromkeys(asked["kind"])), columns=order, fill_value=0.0)


def own_task(subject: Subject, tuned: str, kind: training_data.Kind, n: int = 64) -> dict[str, object]:
    """Held-out questions of a kind's own training task (seed 0), answered by a model: loss in nats a token, and right.

    A row of a table: trained on, model, loss, right (share of answers right token for token), n.
    """
    one_of("kind", kind, training_data.Kind)
    found = finetune.evaluate(subject, training_data.examples(kind, n, 0, "held_out")).mean(0)
    return {"trained on": kind, "model": tuned, "loss": float(found[0]), "right": float(found[1]), "n": n}


def agreement(again: pd.DataFrame, frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """On how many of the prompts run again each model is right or wrong as in `measured`: columns kind, agree, n.

    `again` has rows of `look` in the condition `seven boxes`, whose prompts are the first of the measured ones if the
    `seed` is theirs; with another seed there is nothing to compare, and n is 0.
    """
    known = frame[frame["seed"] == 0][["kind", "prompt", "correct"]]
    again = again if seed == frame.attrs.get("seed", 0) else again.head(0)
    both = again.merge(known, on=["kind", "prompt"], suffixes=("", "_measured"))
    both["agree"] = both["correct"] == both["correct_measured"]
    return both.groupby("kind", sort=False)["agree"].agg(agree="sum", n="size").reset_index()


def verdict(frame: pd.DataFrame) -> dict[str, str]:
    """What `measured` says, in words: for each kind the difference to the base, and to the control, over all seeds.

    A prompt counts with the share of seeds that are right on it, so intervals are over contexts and paired. `default`
    names the kind with the largest difference whose interval is above zero, against base and control alike.
    """
    share = frame.groupby(["kind", "prompt", "context"], sort=False)["correct"].mean().unstack("kind")
    contexts = share.index.get_level_values("context").to_numpy()
    seeds = frame.groupby("kind")["seed"].nunique()

    def against(one: str, other: str) -> Estimate:
        return difference(share[one].to_numpy(), share[other].to_numpy(), contexts)

    def words(one: str, found: Estimate) -> str:
        over = f"mean of {seeds[one]} seeds" if seeds[one] > 1 else "one seed"
        return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}] ({over}, n = {found.n})"

    said, sound = {}, {}
    for kind in (kind for kind in share.columns if kind != BASE):
        gain = against(kind, BASE)
        said[kind] = words(kind, gain)
        if kind != CONTROL and CONTROL in share:
            rest = against(kind, CONTROL)
            said[f"{kind}-minus-{CONTROL}"] = words(kind, rest)
            if min(gain.low, rest.low) > 0:
                sound[kind] = gain.value
    best = max(sound, key=lambda kind: sound[kind], default=None)
    if best is None:
        said["default"] = "No training beats both the base and the control beyond its interval."
    else:
        said["default"] = (
            f"The largest gain that lies above the base and above the control, with their intervals, is that of "
            f"`{best}`; also above both: {', '.join(sorted(set(sound) - {best})) or 'none'}."
        )
    return said


def loss_curves() -> pd.DataFrame:
    """The logs of the shipped adapters, tidy: kind, step, loss (nats a token), part (`batches` or `held out`)."""
    rows = []
    for kind in training_data.KINDS:
        record = adapters.log(kind)
        rows += [{"kind": kind, "step": i + 1, "loss": x, "part": "batches"} for i, x in enumerate(record["losses"])]
        rows += [{"kind": kind, "step": i, "loss": x, "part": "held out"} for i, x, _ in record["held_out"]]
    return pd.DataFrame(rows)

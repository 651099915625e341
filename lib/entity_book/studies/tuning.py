"""How well the fine-tuned models track entities: measured once on many prompts, run again on some, and compared."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from entity_circuits import models, places, results, sums
from entity_circuits.arguments import one_of
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.runs.answers import Behaviour, evaluate
from entity_circuits.statistics import difference, estimate, spoken
from entity_circuits.tasks import boxes
from entity_circuits.tasks.boxes import Template
from torch import Tensor
from tqdm.auto import tqdm

from ..training import adapters, finetune
from ..training import data as training_data
from . import behaviour, trainings
from .trainings import BASE as BASE
from .trainings import CONTROL as CONTROL
from .trainings import Measure

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
    smaller n. Kept are, prompt by prompt, whether the right object is said (`right`), whether it comes before all other
    objects of the context (`chosen`), and how likely all objects are together (`mass`, in 255ths, a byte a prompt). The
    file (`data/adapters/accuracy.json`) is replaced; of adapters that are not on this disk it keeps the rows that it
    has, if they were measured on the same prompts beside the same base. Raises `ValueError` if there is no adapter.

        tuning.measure()
        print(tuning.summary(tuning.measured()))
    """
    found = adapters.folders()
    if not found:
        raise ValueError("there are no adapters to measure: `make adapters` trains them")
    store = Store()
    rows, first = [], models.load(base)  # the adapters share its memory
    for (kind, number), folder in tqdm([((BASE, 0), None), *found.items()], desc="models", disable=None):
        subject = first if folder is None else models.load(base, adapter=str(folder))
        prompts = boxes.prompts(subject, contexts * boxes_, boxes_, seed, "evaluation")
        answered = store.keep(
            f"accuracy-{kind}-{number}",
            results.key(__name__, subject, prompts=prompts),
            lambda: _answered(evaluate(subject, prompts)),  # noqa: B023
        )
        bits = {name: _hex(np.packbits(answered[name].cpu().numpy().astype(np.uint8))) for name in BITS}
        mass = _hex((255 * answered["mass"].cpu().double().clamp(0, 1)).round().numpy().astype(np.uint8))
        rows.append({"kind": kind, "seed": number, "model": subject.fingerprint, **bits, "mass": mass})
    about = {"base": base, "contexts": contexts, "boxes": boxes_, "seed": seed, "split": "evaluation"}
    path = places.data("adapters") / "accuracy.json" if path is None else path
    measured = {(row["kind"], row["seed"]) for row in rows}
    rows += [row for row in _as_kept(path, about, rows[0]) if (row["kind"], row["seed"]) not in measured]
    order = [BASE, *training_data.KINDS]
    rows.sort(key=lambda row: (order.index(str(row["kind"])), row["seed"]))
    made = {**about, "command": "entity-circuits measure-adapters", "rows": rows}
    sums.write(path, json.dumps(made, indent=1) + "\n")
    return path


BITS = ("right", "chosen")


def _answered(said: Behaviour) -> dict[str, Tensor]:
    """What is kept of a model's answers, a row a prompt."""
    return {"right": said.correct, "chosen": said.chosen, "mass": said.object_logprob.exp().sum(1)}


def _hex(values: np.ndarray) -> str:
    return values.tobytes().hex()


def _as_kept(path: Path, about: dict[str, object], base: dict[str, object]) -> list[dict[str, Any]]:
    """The rows that a file has of the very prompts and base that are measured now."""
    if not path.is_file():
        return []
    made = json.loads(sums.read(path))
    same = all(made[name] == value for name, value in about.items())
    return made["rows"] if same and base["model"] in {row["model"] for row in made["rows"]} else []


def measured(path: Path | None = None) -> pd.DataFrame:
    """What `measure` wrote, one row a prompt and model: kind, seed, prompt, context, position (from 1), correct.

    `chosen` and `objects_prob` are as in `behaviour.table`, and missing where the file does not have them.

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
        held = {name: np.frombuffer(bytes.fromhex(row[name]), np.uint8) for name in (*BITS, "mass") if name in row}
        bits = {name: np.unpackbits(held[name])[:n] for name in BITS if name in held}
        columns = {"prompt": prompt, "context": prompt // size, "position": prompt % size + 1, "correct": bits["right"]}
        columns |= {"chosen": bits.get("chosen", np.full(n, np.nan))}
        columns |= {"objects_prob": held["mass"] / 255 if "mass" in held else np.full(n, np.nan)}
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
        itself = {"gain_low": 0.0, "gain_high": 0.0} if kind == BASE else {}  # not what other prompts might change
        rows.append(
            {"kind": kind, "seed": seed, **_against(before, after, contexts), **itself}
            | {"gained": int(((after == 1) & (before == 0)).sum()), "lost": int(((after == 0) & (before == 1)).sum())}
        )
    return pd.DataFrame(rows)


def _against(before: np.ndarray, after: np.ndarray, contexts: np.ndarray) -> dict[str, float]:
    """The accuracy `after` and its paired difference to `before`, as columns of a table."""
    gain = difference(after, before, contexts)
    return {**vars(estimate(after, contexts)), **gain.cells("gain")}


def look(
    subject: Subject, kind: str, contexts: int, seed: int = 0, wordings: bool = True, store: Store | None = None
) -> pd.DataFrame:
    """Run one model, base or tuned, on the evaluation prompts in several forms: one row a prompt and condition.

    Conditions: `seven boxes`, `label first` (a third of the contexts), and with `wordings` also `three boxes`, `five
    boxes` and `OTHER_WORDINGS`. Columns: kind, condition, prompt, context, boxes, position, correct, chosen,
    objects_prob, answer_logprob (as in `behaviour.table`), and answer (`the right object`, `another object`, `a label`,
    `something else`).

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
    columns = ["prompt", "context", "boxes", "position", "correct", "chosen", "objects_prob", "answer_logprob"]
    tables = []
    for condition, size, worlds, template in asked:
        prompts = boxes.prompts(subject, worlds * size, size, seed, "evaluation", template)
        table = behaviour.table(evaluate(subject, prompts, store=store)).rename(columns={"kind": "answer"})[
            [*columns, "answer"]
        ]
        tables.append(table.assign(kind=kind, condition=condition).astype({"correct": int, "chosen": int}))
    return pd.concat(tables, ignore_index=True)


def gains(frame: pd.DataFrame, measure: Measure = "correct") -> pd.DataFrame:
    """Accuracy and paired difference to the base by kind and condition, from rows of `look` for base and others.

    `measure` is "correct", top-1, or "chosen", the choice among the objects. Columns: kind, condition, value, low,
    high, n, contexts, gain, gain_low, gain_high.
    """
    one_of("measure", measure, Measure)
    rows = []
    for (condition, kind), part in frame.groupby(["condition", "kind"], sort=False):
        before = frame[(frame["kind"] == BASE) & (frame["condition"] == condition)][measure].to_numpy()
        found = _against(before, part[measure].to_numpy(), part["context"].to_numpy())
        rows.append({"kind": kind, "condition": condition, **found})
    return pd.DataFrame(rows)


def answers(frame: pd.DataFrame) -> pd.DataFrame:
    """What each model says at seven boxes, from rows of `look`: the share of each sort of answer, a row a model."""
    asked = frame[frame["condition"] == "seven boxes"]
    shares = pd.crosstab(asked["kind"], asked["answer"].astype(str), normalize="index")
    order = list(get_args(behaviour.AnswerKind))
    return shares.reindex(index=list(dict.fromkeys(asked["kind"])), columns=order, fill_value=0.0)


def own_task(
    subject: Subject, tuned: str, kind: training_data.Kind, n: int = 64, store: Store | None = None
) -> dict[str, object]:
    """Held-out questions of a kind's own training task (seed 0), answered by a model: loss in nats a token, and right.

    A row of a table: trained on, model, loss, right (share of answers right token for token), n.
    """
    one_of("kind", kind, training_data.Kind)
    asked = training_data.examples(kind, n, 0, "held_out")
    inputs = results.key(__name__, subject, asked=asked.to_dict())
    found = results.at(store).keep("own-task", inputs, lambda: {"found": finetune.evaluate(subject, asked)})
    loss, right = found["found"].mean(0).tolist()
    return {"trained on": kind, "model": tuned, "loss": loss, "right": right, "n": n}


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


def verdict(frame: pd.DataFrame, measure: Measure = "correct") -> dict[str, str]:
    """What `measured` says, in words: for each kind the difference to the base, and to the control of the same seed.

    Of a kind with several trainings it is their mean, with its interval over trainings; one that was trained once has
    the interval over contexts of that one model, and no verdict as a kind. `default` names the kind with the largest
    difference whose interval over trainings is above zero, against base and control alike, and what was trained once.

        print(tuning.verdict(tuning.measured())["default"])
    """
    found = trainings.effects(frame, measure)
    rows = {row["kind"]: row for row in trainings.rows(trainings.table(found))}
    said: dict[str, str] = {}
    sound: dict[str, float] = {}
    single: dict[str, bool] = {}
    for kind in found["kind"].unique():
        against = {kind: ("gain", BASE)}
        if kind != CONTROL and CONTROL in set(found["kind"]):
            against[f"{kind}-minus-{CONTROL}"] = ("over_control", CONTROL)
        lows = []
        for name, (column, other) in against.items():
            if kind in rows and not pd.isna(rows[kind][f"{column}_low"]):
                said[name] = trainings.told(rows[kind], column)
                lows.append(rows[kind][f"{column}_low"])
            else:
                one = trainings.once(frame, kind, other, measure)
                number = spoken(one.value, one.low, one.high, "+.3f")
                said[name] = f"{number} (one training, interval over contexts; n = {one.n:,})"
                lows.append(one.low)
        if kind in rows and kind != CONTROL and min(lows) > 0:
            sound[kind] = rows[kind]["gain"]
        if kind not in rows:
            single[kind] = kind != CONTROL and min(lows) > 0
    return {**said, "default": _default(sound, single)}


def _default(sound: Mapping[str, float], single: Mapping[str, bool]) -> str:
    """Which kinds of training are sound, and which cannot be judged as kinds: `single`, and whether their one is."""
    best = max(sound, key=lambda kind: sound[kind], default=None)
    if best is None:
        text = "No kind of training beats both the base and the control beyond its interval over trainings."
    else:
        text = (
            f"The largest gain that lies above the base and above the control, with their intervals over trainings, is "
            f"that of `{best}`; also above both: {', '.join(sorted(set(sound) - {best})) or 'none'}."
        )
    if single:
        above = ", ".join(f"`{kind}`" for kind, good in single.items() if good) or "none"
        text += f" Trained once, so that nothing is said of the kind: {', '.join(f'`{x}`' for x in single)}"
        text += f"; of these models above both on their own: {above}."
    return text


def loss_curves() -> pd.DataFrame:
    """The logs of the shipped adapters, tidy: kind, step, loss (nats a token), part (`batches` or `held out`)."""
    rows = []
    for kind in training_data.KINDS:
        record = adapters.log(kind)
        rows += [{"kind": kind, "step": i + 1, "loss": x, "part": "batches"} for i, x in enumerate(record["losses"])]
        rows += [{"kind": kind, "step": i, "loss": x, "part": "held out"} for i, x, _ in record["held_out"]]
    return pd.DataFrame(rows)

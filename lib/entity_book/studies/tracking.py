"""What a training does to tracking and what to format: the right object before the others, and an object at all.

Top-1 accuracy is the object choice minus the prompts on which the right object comes before all others and something
else is said. So a change of top-1 is the change of the choice (tracking) and the change of the rest (format), to the
last prompt.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from entity_circuits.statistics import difference, estimate, spoken

from .trainings import BASE

NUMBERS = ("correct", "chosen", "objects_prob")
SIDES = {"tracking": "the choice among the objects", "format": "saying an object first"}


def known(measured: pd.DataFrame, again: pd.DataFrame, study: pd.DataFrame | None = None) -> tuple[pd.DataFrame, str]:
    """The rows to compare by, of one training a kind, and where they are from: `stored`, `study` or `live`.

    Those of `tuning.measured` (seed 0) if every model of theirs has its choices stored; else those of the arithmetic
    study (`doses.shipped`), if it has all these models; else those of `tuning.look` at seven boxes, which a page has
    run itself.

        frame, source = tracking.known(tuning.measured(), again)
    """
    stored = measured[measured["seed"] == 0]
    if len(stored) and stored[list(NUMBERS)].notna().all(axis=None):
        return stored, "stored"
    if study is not None and set(stored["kind"]) <= set(study["kind"]):
        return study, "study"
    return again[again["condition"] == "seven boxes"] if "condition" in again else again, "live"


def split(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a model: top-1, object choice, and the probability of all objects together; and changes from the base.

    `frame` has the rows of `known`. Columns: kind, `top1`, `choice` and `mass` (means); `top1_change`, `tracking` (of
    the choice), `format` (of top-1 minus choice), `mass_change` and, where it is known, `logp_change` (log p of the
    right object over all words, in nats), paired; all with `_low` and `_high`, 95% over contexts; `n`. Tracking and
    format add up to the change of top-1.

        table = tracking.split(frame)
        print(table[["kind", "tracking", "format"]])
    """
    before = frame[frame["kind"] == BASE].sort_values("prompt")
    rows = []
    for kind, part in frame.groupby("kind", sort=False):
        after = part.sort_values("prompt")
        if after["prompt"].tolist() != before["prompt"].tolist():
            raise ValueError(f"{kind} and the base were not asked the same prompts")
        row: dict[str, object] = {"kind": kind}
        one, other = ({name: x[name].to_numpy(dtype=float) for name in NUMBERS} for x in (after, before))
        contexts = after["context"].to_numpy()
        for name, column in zip(("top1", "choice", "mass"), NUMBERS, strict=True):
            row |= estimate(one[column], contexts).cells(name)
        changes = {
            "top1_change": (one["correct"], other["correct"]),
            "tracking": (one["chosen"], other["chosen"]),
            "format": (one["correct"] - one["chosen"], other["correct"] - other["chosen"]),
            "mass_change": (one["objects_prob"], other["objects_prob"]),
        }
        if "answer_logprob" in frame:
            changes["logp_change"] = (after["answer_logprob"].to_numpy(), before["answer_logprob"].to_numpy())
        for name, (new, old) in changes.items():
            row |= difference(new, old, contexts).cells(name)
        rows.append({**row, "n": len(after)})
    return pd.DataFrame(rows)


def told_source(source: str, n: int) -> str:
    """Where the rows of `known` are from, in words.

    >>> from entity_book.studies import tracking
    >>> tracking.told_source("stored", 2002)
    'the stored answers to 2,002 prompts'
    """
    if source == "stored":
        return f"the stored answers to {n:,} prompts"
    if source == "study":
        return f"the answers to {n:,} prompts that the arithmetic study keeps"
    return f"the {n:,} prompts that were run again on this page, for what is stored holds top-1 alone"


def word(low: float, high: float) -> str:
    """Better, worse, or not surely changed, by an interval of a change.

    >>> from entity_book.studies import tracking
    >>> tracking.word(-0.02, 0.01)
    'not surely changed'
    """
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not surely changed"


def words(row: Mapping[str, float]) -> str:
    """A row of `split` in words: both changes with their intervals, and what they mean.

    For example:

        for row in tracking.split(frame).to_dict("records"):
            print(row["kind"], tracking.words(row))
    """
    parts = []
    for name, meaning in SIDES.items():
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        parts.append(f"{name} ({meaning}) {word(low, high)}, {spoken(row[name], low, high, '+.2f')}")
    return f"{'; '.join(parts)} (n = {row['n']:,.0f})"


def above_chance(row: Mapping[str, float], chance: float) -> str:
    """Whether a model of `split` still tracks: its object choice against chance, in words.

    print(tracking.above_chance(tracking.split(frame).iloc[-1], 1 / 7))
    """
    number = spoken(row["choice"], row["choice_low"], row["choice_high"])
    lies = "above" if row["choice_low"] > chance and not np.isnan(row["choice_low"]) else "not surely above"
    return f"{number}, {lies} chance ({chance:.2f})"

"""What a kind of training does, told by its trainings: they are the units, and prompts only measure each of them.

An interval over prompts says how sure we are of *one* trained model. Another seed changes the data, their order and the
initial weights, and its result can lie far outside of that interval. So what is said of a kind of training has an
interval over trainings, and a kind that was trained once has none.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from entity_circuits import units
from entity_circuits.arguments import one_of
from entity_circuits.statistics import Estimate, difference, spoken

Measure = Literal["correct", "chosen"]
"""The column that is compared: top-1, or the choice among the objects of the context."""

BASE, CONTROL = "base", "shuffled"


def effects(frame: pd.DataFrame, measure: Measure = "correct") -> pd.DataFrame:
    """One row a training: how far its accuracy lies above the base's, and above that of the control of its seed.

    `frame` has rows of `tuning.measured`; those whose `measure` is not known are left out. Columns: kind, seed, `gain`
    and `over_control` (missing where no control has this seed), and `n`, the prompts, which are the same for all.

    >>> from entity_book.studies import trainings, tuning
    >>> trainings.effects(tuning.measured()).groupby("kind").size()["code"].item()
    3
    """
    one_of("measure", measure, Measure)
    known = frame[frame[measure].notna()]
    means = known.groupby(["kind", "seed"], sort=False)[measure].agg(["mean", "size"])
    if (BASE, 0) not in means.index:
        raise ValueError(f"there is no {measure!r} of the base to compare trainings with")
    mean, made = means["mean"].to_dict(), []
    for row in rows(means.drop(BASE, level="kind").reset_index()):
        kind, seed = row["kind"], row["seed"]
        control = mean.get((CONTROL, seed), np.nan) if kind != CONTROL else np.nan
        gains = {"gain": row["mean"] - mean[BASE, 0], "over_control": row["mean"] - control}
        made.append({"kind": kind, "seed": seed, **gains, "n": row["size"]})
    return pd.DataFrame(made, columns=["kind", "seed", "gain", "over_control", "n"]).astype({"seed": int, "n": int})


def table(found: pd.DataFrame) -> pd.DataFrame:
    """One row a kind that was trained several times: the means of `effects`, with intervals over trainings (t).

    Columns: kind, `trainings` (how many), `gain` and `over_control`, each with `_low` and `_high`, and `n`, the prompts
    that each was asked.

    >>> from entity_book.studies import trainings, tuning
    >>> table = trainings.table(trainings.effects(tuning.measured())).set_index("kind")
    >>> bool(table.loc["code", "gain_low"] < 0.1 < table.loc["code", "gain_high"])
    True
    """
    made = []
    for kind, part in found.groupby("kind", sort=False):
        if len(part) > 1:
            row = {"kind": kind, "trainings": len(part), **units.over(part["gain"].to_numpy()).cells("gain")}
            rest = part["over_control"].dropna().to_numpy()
            over = units.over(rest) if len(rest) > 1 else Estimate(np.nan, np.nan, np.nan, len(rest), len(rest))
            made.append({**row, **over.cells("over_control"), "n": part["n"].iloc[0]})
    bounds = [f"{name}{end}" for name in ("gain", "over_control") for end in ("", "_low", "_high")]
    return pd.DataFrame(made, columns=["kind", "trainings", *bounds, "n"])


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by the names of its columns."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def once(frame: pd.DataFrame, kind: str, other: str, measure: Measure = "correct") -> Estimate:
    """The paired difference of a kind and another, each by its first training, with its interval over contexts.

    It is about these two models, and says nothing of another training. Rows as in `effects`.

        print(trainings.once(tuning.measured(), "code-other", "base"))
    """
    one_of("measure", measure, Measure)
    mine = (frame[(frame["kind"] == name) & frame[measure].notna()] for name in (kind, other))
    one, less = (part[part["seed"] == part["seed"].min()].sort_values("prompt") for part in mine)
    return difference(one[measure].to_numpy(), less[measure].to_numpy(), one["context"].to_numpy())


def told(row: Mapping[str, float], name: str = "gain") -> str:
    """A row of `table` in words: the mean of the trainings with its interval over them.

    >>> from entity_book.studies import trainings
    >>> trainings.told({"gain": 0.156, "gain_low": 0.037, "gain_high": 0.275, "trainings": 3, "n": 2002})
    '+0.156 [+0.037, +0.275] (mean of 3 trainings, interval over them; 2,002 prompts each)'
    """
    number = spoken(row[name], row[f"{name}_low"], row[f"{name}_high"], "+.3f")
    return f"{number} (mean of {row['trainings']:.0f} trainings, interval over them; {row['n']:,.0f} prompts each)"


def choices(frame: pd.DataFrame) -> str:
    """What the object choice of each kind gains over the base, over its trainings, in words; or why that is not known.

    >>> from entity_book.studies import trainings
    >>> trainings.choices(pd.DataFrame({"kind": ["base"], "seed": [0], "chosen": [np.nan]}))
    'no interval over trainings: the choices of several trainings of a kind are not stored'
    """
    if frame["chosen"].notna().any():
        kinds = rows(table(effects(frame, "chosen")))
        if kinds:
            return "; ".join(f"{row['kind']} {told(row)}" for row in kinds)
    return "no interval over trainings: the choices of several trainings of a kind are not stored"

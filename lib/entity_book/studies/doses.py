"""What the arithmetic study says: tracking and format of each training, means over trainings, the verdict by its rule.

The rule is in `data/trainings/README.md`, written before any run. A dose is decided by two intervals: Student's t over
its trainings, for what another training would change, and one over contexts, for what other prompts would.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from entity_circuits import units
from entity_circuits.statistics import difference, spoken

from ..training import plan
from . import arithmetic, tracking, trainings

MARGIN, LEARNED = 0.05, 0.10
"""Of the rule: a gain in object choice that would count, and a gain in sums that says that arithmetic was learned."""

SIDES = ("tracking", "format", "top1_change", "logp_change")


def each(kept: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row a run but the base's: its changes against the base with 95% intervals over contexts, as `tracking.split`.

    Columns besides: run, cell, unit, made, dose, `sums` (share of 64 held-out sums right) and `sums_gain`. Raises
    `ValueError` if there is no row of the base, or if rows are of another base or of other prompts.

        print(doses.each(arithmetic.rows())[["run", "tracking", "format"]])
    """
    base = [row for row in kept if row["made"] == "base"]
    if not base:
        raise ValueError("the base has no row to compare with: `entity-circuits study arithmetic` makes it first")
    if other := [row["name"] for row in kept if any(row[x] != base[0][x] for x in ("base", "prompts"))]:
        raise ValueError(f"not of the same base and prompts as the base's row: {', '.join(other)}")
    frame = arithmetic.measured([{**row, "cell": row["name"] if row["made"] != "base" else plan.BASE} for row in kept])
    found = tracking.split(frame)
    found = found[found["kind"] != plan.BASE].rename(columns={"kind": "run"})
    doses, before = {run.name for run in plan.runs() if run.dose}, arithmetic.sums_right(base[0])
    about = [
        {"run": row["name"], **{name: row[name] for name in ("cell", "unit", "made")}, "dose": row["name"] in doses}
        | {"sums": arithmetic.sums_right(row), "sums_gain": arithmetic.sums_right(row) - before}
        for row in kept
    ]
    return pd.DataFrame(about).merge(found, on="run", how="inner")


def cells(kept: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row a cell of the protocol that has a run: means over its trainings (or draws), with intervals over them (t).

    Columns: cell, made, dose, `trainings` and `planned` (how many), `sums` and `sums_gain` (means), `learned`;
    tracking, format, top1_change and logp_change with `_low` and `_high`, missing where there is one training;
    `prompts_low` and `prompts_high`, 95% over contexts for the mean of tracking; `least` and `most`, the ends of
    tracking over the trainings; n.

        print(doses.cells(arithmetic.rows())[["cell", "trainings", "tracking"]])
    """
    runs, frame = each(kept), arithmetic.measured(kept)
    planned = pd.Series([run.cell for run in plan.runs()]).value_counts()
    base = frame[frame["kind"] == plan.BASE].sort_values("prompt")
    rows = []
    for cell, part in runs.groupby("cell", sort=False):
        row: dict[str, Any] = {"cell": cell, "made": part["made"].iloc[-1], "dose": bool(part["dose"].all())}
        row |= {"trainings": len(part), "planned": int(planned.get(str(cell), len(part)))}
        row |= {"sums": part["sums"].mean(), "sums_gain": part["sums_gain"].mean()}
        row["learned"] = bool(row["sums_gain"] >= LEARNED)
        for side in SIDES:
            row |= units.over(part[side].to_numpy()).cells(side)
        chosen = frame[frame["kind"] == cell].groupby("prompt")["chosen"].mean()
        over = difference(chosen.to_numpy(), base["chosen"].to_numpy(), base["context"].to_numpy())
        row |= {"prompts_low": over.low, "prompts_high": over.high}
        row |= {"least": part["tracking"].min(), "most": part["tracking"].max(), "n": int(part["n"].iloc[0])}
        rows.append(row)
    return pd.DataFrame(rows)


def progress(table: pd.DataFrame) -> pd.DataFrame:
    """How far the study is, one row a cell of `arithmetic.table`: planned, done, and minutes that the rest takes.

    >>> from entity_book.studies import arithmetic, doses
    >>> list(doses.progress(arithmetic.table()).columns)
    ['cell', 'planned', 'done', 'minutes left']
    """
    left = table.assign(left=table["minutes"].where(~table["done"], 0.0))
    found = left.groupby("cell", sort=False).agg(
        planned=("done", "size"), done=("done", "sum"), minutes=("left", "sum")
    )
    return found.rename(columns={"minutes": "minutes left"}).round(0).astype(int).reset_index()


def verdict(table: pd.DataFrame) -> tuple[str, str]:
    """The verdict on arithmetic by the rule of the study, as a word and a sentence that gives its reasons.

    `table` is that of `cells`. The word is "improves", "does not", "not at these doses" or "open".

        word, reasons = doses.verdict(doses.cells(arithmetic.rows()))
        print(word, reasons)
    """
    known = table[table["dose"]]
    several = known[known["trainings"] > 1]
    learned = several[several["learned"]]
    drawn = table.loc[table["made"] == "random", "most"]
    above = learned[(learned[["tracking_low", "prompts_low"]] > 0).all(axis=1)]
    if len(drawn):
        above = above[above["tracking"] > drawn.max()]
    below = (learned[["tracking_high", "prompts_high"]] < MARGIN).all(axis=None)
    listed = {run.cell: 0 for run in plan.runs() if run.dose}
    listed |= {row["cell"]: row["planned"] - row["trainings"] for row in trainings.rows(known)}
    absent = [cell for cell in listed if cell not in set(known["cell"])]
    unfinished = [cell for cell, missing in listed.items() if missing > 0 or cell in absent]
    if len(above) and len(drawn):
        word = "improves"
    elif len(learned) and below:
        word = "not at these doses" if unfinished else "does not"
    else:
        word = "open"
    parts = [f"{row['cell']}: {told(row)}" for row in trainings.rows(learned)]
    reasons = "; ".join(parts) or "no dose with two trainings learned arithmetic yet"
    if unfinished:
        reasons += f"; not all trainings done: {', '.join(unfinished)}"
    return word, reasons


def told(row: dict[str, Any]) -> str:
    """The change of object choice of a row of `cells` in words, with both intervals and the number of trainings.

    >>> from entity_book.studies import doses
    >>> row = {"tracking": 0.01, "tracking_low": -0.03, "tracking_high": 0.04, "prompts_low": -0.02}
    >>> doses.told({**row, "prompts_high": 0.03, "trainings": 3, "n": 490})
    '+0.01 [-0.03, +0.04] over 3 trainings, [-0.02, +0.03] over contexts (490 prompts each)'
    """
    if row["trainings"] == 1:
        number = spoken(row["tracking"], row["prompts_low"], row["prompts_high"], "+.2f")
        return f"{number} over contexts, one training ({row['n']} prompts)"
    number = spoken(row["tracking"], row["tracking_low"], row["tracking_high"], "+.2f")
    contexts = f"[{row['prompts_low']:+.2f}, {row['prompts_high']:+.2f}] over contexts"
    units_ = "draws" if row.get("made") == "random" else "trainings"
    return f"{number} over {row['trainings']} {units_}, {contexts} ({row['n']} prompts each)"


def shipped(kept: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows of `arithmetic.measured` of the base and the five shipped adapters, under their own names.

    print(doses.shipped(arithmetic.rows()).groupby("kind")["chosen"].mean())
    """
    own = [row for row in kept if row["made"] in ("base", "shipped")]
    kinds = [{**row, "cell": row["recipe"]["kind"] if row["recipe"] else plan.BASE} for row in own]
    return arithmetic.measured(kinds) if kinds else pd.DataFrame(columns=["kind", "seed", "prompt"])

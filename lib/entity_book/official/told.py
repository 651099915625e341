"""The artefacts in words: rows of the table of `artefacts` as the text of a page tells them."""

from itertools import groupby

import pandas as pd
from entity_circuits import statistics

NONE = "–"
"""What stands for a number that there is not."""


def said(rows: pd.DataFrame, index: int = 0) -> str:
    """One row in words, for the text of a page; once if it is the same number on both sides. Says so where none is.

    print(told.said(artefacts.label_token(pairs, {"C": heads}, "query"), 2))
    """
    if index >= len(rows):
        return "not measured here"
    official, corrected = (_cell(rows.iloc[index], kind) for kind in ("official", "corrected"))
    return f"{official} both ways" if official == corrected else f"{official} officially, {corrected} corrected"


def compared(rows: pd.DataFrame, index: int = 0) -> str:
    """Whether the official number of a row is "more" or "less" than the corrected one, or "the same" as it is shown.

    print(told.compared(official_circuits.overlapping_means(subject, circuit, p)))
    """
    row = rows.iloc[index]
    if _cell(row, "official") == _cell(row, "corrected"):
        return "the same"
    return "more" if row["official"] > row["corrected"] else "less"


def floor(rows: pd.DataFrame) -> dict[str, str]:
    """What B1 does to the numbers of patched groups, for `notebooks.quote`.

    How many of them the artefact raises or lowers, as `b1_moved`; as `b1_gain` how far the highest one is above its
    floor, on both sides.

        notebooks.quote(**told.floor(artefacts.floor(pairs, circuit.groups)))
    """
    without, groups = rows.iloc[1], rows.iloc[2:]
    found = [compared(groups, place) for place in range(len(groups))]
    best = groups.iloc[int(groups["corrected"].to_numpy(dtype=float).argmax())]
    gains = [f"{best[side] - without[side]:.2f}" for side in ("official", "corrected")]
    return {
        "b1_moved": f"{found.count('more')} of {len(found)} groups have a higher number, {found.count('less')} a lower",
        "b1_gain": f"{gains[0]} officially, {gains[1]} corrected",
    }


def looked(looks: pd.DataFrame) -> str:
    """How many heads a mask patches while it is learned, look after look. Rows of `artefacts.snapshots`.

    >>> looked(pd.DataFrame({"heads": [0, 0, 14, 14, 14]}))
    'no head at 2 looks, then 14 at 3'
    """
    parts = [(heads, len(list(some))) for heads, some in groupby(looks["heads"].tolist())]
    (first, many), *later = parts
    start = f"{first or 'no'} head{'s' * (first > 1)} at {many} look{'s' * (many != 1)}"
    return ", then ".join([start, *(f"{heads or 'none'} at {count}" for heads, count in later)])


def words(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows to be read: each side with its interval in one cell of text, a dash where there is no number.

    print(told.words(artefacts.table([rows_of_b1])))
    """
    sides = {kind: [_cell(row, kind) for _, row in rows.iterrows()] for kind in ("official", "corrected")}
    return rows[["artefact", "what", "quantity"]].assign(**sides, n=rows["n"], touches=rows["touches"])


def moved(rows: pd.DataFrame) -> pd.Series:
    """For each row whether the official number is another one than the corrected, as both are shown.

    print(rows[told.moved(rows)]["artefact"].unique())
    """
    return rows.apply(lambda row: _cell(row, "official") not in (_cell(row, "corrected"), NONE), axis=1)


def apart(rows: pd.DataFrame) -> pd.Series:
    """Whether the two intervals of a row lie apart, for the rows that have both.

    print(f"{told.apart(rows).sum()} of {len(told.apart(rows))}")
    """
    both = rows.dropna(subset=["official_low", "corrected_low"])
    return (both["official_low"] > both["corrected_high"]) | (both["official_high"] < both["corrected_low"])


def _cell(row: pd.Series, kind: str) -> str:
    if pd.isna(row[kind]):
        return NONE
    low, high = row[f"{kind}_low"], row[f"{kind}_high"]
    counted = pd.isna(low) and float(row[kind]).is_integer()
    return statistics.spoken(row[kind], low, high, ".0f" if counted else ".2f")

"""The figure of the chapter that sums up: the paper's numbers and ours, a row a claim."""

from collections.abc import Hashable, Mapping
from typing import Any

import altair as alt
import pandas as pd

from .charts import BLUE, NEUTRAL, VERMILLION, marked
from .parts import by_name, interval, nothing, numbers, spoken

WIDTH, ROW = 300, 24
TITLES = {"accuracy": "accuracy", "difference": "difference of two accuracies", "share": "share"}
"""What the numbers of a panel are; a claim without a number here goes by the unit of the paper's."""


def beside(judged: pd.DataFrame) -> alt.VConcatChart | alt.Chart:
    """The number of each claim, ours with its 95% interval and the paper's, one panel a unit, one row a claim.

    `judged` is `claims.table`. Claims without a number of ours, or with one of another unit, are left out; if none is
    left, the chart says so.
    """
    known = judged[judged["unit"].isin(TITLES) & judged["ours"].notna()]
    if known.empty:
        return nothing("No claim has a number yet: the other chapters have not been executed.", WIDTH * 1.5)
    panels = [_panel(part, TITLES[str(unit)]) for unit, part in known.groupby("unit", sort=False)]
    words = "; ".join(_words(row) for row in known.to_dict("records"))
    return alt.VConcatChart(vconcat=panels, spacing=18).properties(
        description=f"Numbers of the claims, ours with 95% intervals and the paper's, a panel a unit: {words}."
    )


def farthest(judged: pd.DataFrame) -> str:
    """The claim whose number lies farthest from the paper's, in words, for the text under the figure.

    Args:
        judged: rows of `claims.table`.

    >>> farthest(pd.DataFrame({"name": ["gain"], "unit": "share", "ours": 0.2, "low": 0.1, "high": 0.3, "paper": 0.9}))
    'gain: 0.20 (from 0.10 to 0.30), paper 0.90'
    """
    known = judged[judged["unit"].isin(TITLES)].dropna(subset=["ours", "paper"])
    far = (known["ours"] - known["paper"]).abs().sort_values(ascending=False)
    return _words(known.loc[far.index[0]].to_dict()) if len(far) else "no claim has two numbers yet"


def _panel(part: pd.DataFrame, title: str) -> alt.LayerChart:
    values = [value for name in ("ours", "low", "high", "paper") for value in part[name].dropna()]
    least, most = min(0.0, *values), max(0.0 if title == TITLES["difference"] else 1.0, *values)
    room = 0.03 * ((most - least) or 1.0)
    y = by_name("name", part["name"])
    scale = alt.Scale(domain=[least - room, most + room], nice=False)
    axis = alt.Axis(tickCount=6, labelOverlap=True, labelSeparation=6)  # however wide the panel grows
    x = alt.X("value:Q", title=title, scale=scale, axis=axis)
    colour, shape = marked("from:N", {"here": (BLUE, "circle"), "paper": (VERMILLION, "diamond")}, orient="top")
    both = [
        part.assign(value=part[column], **{"from": name}) for column, name in (("ours", "here"), ("paper", "paper"))
    ]
    dots = pd.concat(both).dropna(subset=["value"])[["name", "claim", "from", "value", "verdict"]]
    tips = ["claim:N", "from:N", *numbers("value"), "verdict:N"]
    zero = alt.Chart(pd.DataFrame({"value": [0.0]})).mark_rule(color=NEUTRAL, strokeDash=[4, 3]).encode(x=x)
    ends = part.dropna(subset=["low", "high"])[["name", "low", "high"]]
    bars = interval(alt.Chart(ends), x, mark={"color": BLUE}).encode(x=alt.X("low:Q", title=title), y=y)
    points = alt.Chart(dots).mark_point(filled=True, size=70, opacity=1)
    points = points.encode(x=x, y=y, tooltip=tips, color=colour, shape=shape)
    layers = [zero, points] if ends.empty else [zero, bars, points]
    return alt.LayerChart(layer=layers).properties(width=WIDTH, height=ROW * len(part))


def _words(row: Mapping[Hashable, Any]) -> str:
    own = f"{row['ours']:.2f}" if pd.isna(row["low"]) else spoken(row["ours"], row["low"], row["high"])
    return f"{row['name']}: {own}" + ("" if pd.isna(row["paper"]) else f", paper {row['paper']:.2f}")

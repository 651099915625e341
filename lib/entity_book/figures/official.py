"""The figures of the official protocol: a tidy table in, an Altair chart with its description in words out."""

import re
import textwrap
from typing import Any

import altair as alt
import pandas as pd

from .charts import BLUE, VERMILLION, marked
from .parts import by_name, diagonal, drawn, estimates, nothing, numbers

WIDTH = 290
KINDS = {"official": (VERMILLION, "square"), "corrected": (BLUE, "circle")}


def _look() -> tuple[alt.Color, alt.Shape]:
    return marked("kind:N", KINDS, orient="bottom", symbolOpacity=1)


def beside(rows: pd.DataFrame, axis: str = "share of prompts") -> alt.LayerChart:
    """The official and the corrected number of each row beside each other, with their intervals.

    `rows` are rows of `official.table`, all of one kind of quantity. The name of a target is left to the caption.
    """
    rows = rows.assign(quantity=[_label(quantity) for quantity in rows["quantity"]])
    parts = [
        rows.assign(kind=kind, value=rows[kind], low=rows[f"{kind}_low"], high=rows[f"{kind}_high"]) for kind in KINDS
    ]
    colour, shape = _look()
    base = alt.Chart(pd.concat(parts)[["quantity", "kind", "value", "low", "high", "n"]]).encode(
        y=by_name("quantity", rows["quantity"], axis=alt.Axis(labelExpr="split(datum.label, '\\n')")),
        yOffset=alt.YOffset("kind:N", sort=list(KINDS)),
        tooltip=["quantity:N", "kind:N", *numbers(form=".3f"), "n:Q"],
    )
    said = "; ".join(
        f"{row.quantity}: {row.official:.2f} official, {row.corrected:.2f} corrected" for row in rows.itertuples()
    ).replace("\n", " ")
    layers = estimates(base, alt.X("value:Q", title=axis), 60, color=colour, shape=shape)
    return drawn(layers, WIDTH - 60, 52 * len(rows), f"{said}. Lines are 95% intervals.")


def _label(quantity: str) -> str:
    """A quantity as the label of its line: without its target, names in words, broken after 22 characters."""
    shorter = re.sub(r"^target `\w+`,? ", "", quantity).replace("_", " ")
    return "\n".join(textwrap.wrap(shorter, 22))


def two_runs(points: pd.DataFrame) -> alt.HConcatChart | alt.Chart:
    """The scores of two runs against each other, a point a head: drawn for every head, and drawn once for all.

    `points` is `official_circuits.redraw_points`.
    """
    if points.empty:
        return nothing("No head has a path.")
    ends = [min(points["first"].min(), points["second"].min()), max(points["first"].max(), points["second"].max())]
    same: dict[str, Any] = {"scale": alt.Scale(domain=ends, nice=True), "axis": alt.Axis(tickCount=4)}
    charts, said = [], []
    for kind, title in {"official": "drawn for every head", "corrected": "one draw for all heads"}.items():
        part = points[points["draws"] == kind]
        said.append(f"{title}: rank correlation {part['first'].rank().corr(part['second'].rank()):.2f}")
        base = alt.Chart(part).encode(
            x=alt.X("first:Q", title="score, first run", **same),
            y=alt.Y("second:Q", title="score, second run", **same),
            tooltip=["head:N", *numbers("first", "second", form=".4f")],
        )
        dots = base.mark_point(filled=True, size=25, color=KINDS[kind][0], opacity=0.7)
        line = diagonal("first", "second", ends, strokeDash=[4, 3], strokeWidth=1)
        charts.append(alt.LayerChart(layer=[line, dots], title=title).properties(width=170, height=170))
    words = f"Each of {len(part)} heads in two runs. {'; '.join(said)}."
    return alt.HConcatChart(hconcat=charts).properties(description=words)

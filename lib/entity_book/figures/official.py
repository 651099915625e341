"""The figures of the official protocol: a tidy table in, an Altair chart with its description in words out."""

from typing import Any

import altair as alt
import pandas as pd

from . import charts
from .charts import BLUE, NEUTRAL, VERMILLION

WIDTH, HEIGHT = 290, 230
KINDS = {"official": VERMILLION, "corrected": BLUE}
SHAPES = {"official": "square", "corrected": "circle"}


def _scales(domain: list[str]) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape of official and corrected, with one legend."""
    legend = alt.Legend(orient="bottom", title=None, symbolOpacity=1)
    return charts.marked("kind:N", {name: (KINDS[name], SHAPES[name]) for name in domain}, legend)


def beside(rows: pd.DataFrame, axis: str = "share of prompts") -> alt.LayerChart:
    """The official and the corrected number of each row beside each other, with their intervals.

    `rows` are rows of `official.table`, all of one kind of quantity.
    """
    parts = [
        rows.assign(kind=kind, value=rows[kind], low=rows[f"{kind}_low"], high=rows[f"{kind}_high"]) for kind in KINDS
    ]
    table = pd.concat(parts)[["quantity", "kind", "value", "low", "high", "n"]]
    colour, shape = _scales(list(KINDS))
    order = list(rows["quantity"])
    tips: list[Any] = [
        "quantity:N",
        "kind:N",
        *(alt.Tooltip(f"{x}:Q", format=".3f") for x in ("value", "low", "high")),
        "n:Q",
    ]
    base = alt.Chart(table).encode(
        y=alt.Y("quantity:N", sort=order, title=None, axis=alt.Axis(labelLimit=190)),
        yOffset=alt.YOffset("kind:N", sort=list(KINDS)),
        color=colour,
        tooltip=tips,
    )
    rule = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=axis), x2="high:Q")
    point = base.mark_point(filled=True, size=60, opacity=1).encode(x="value:Q", shape=shape)
    said = "; ".join(
        f"{row.quantity}: {row.official:.2f} official, {row.corrected:.2f} corrected" for row in rows.itertuples()
    )
    return alt.LayerChart(layer=[rule, point]).properties(
        width=WIDTH - 60, height=52 * len(rows), description=f"{said}. Lines are 95% intervals."
    )


def snapshots(looks: pd.DataFrame, selected: int, accuracy: float) -> alt.LayerChart:
    """Accuracy against number of heads at every look, the saved snapshot and the selection of `dcm.learn` marked.

    `looks` is `official.snapshots`; `selected` heads have `accuracy` on the same pairs.
    """
    saved = looks[looks["official"]].iloc[0]
    marks = pd.DataFrame(
        {
            "kind": list(KINDS),
            "heads": [saved["heads"], selected],
            "accuracy": [saved["accuracy"], accuracy],
            "step": [saved["step"], None],
        }
    )
    colour, shape = _scales(list(KINDS))
    x = alt.X("heads:Q", title="heads that are patched", axis=alt.Axis(format="d", tickMinStep=1))
    y = alt.Y("accuracy:Q", title="target answered", scale=alt.Scale(zero=False, nice=True))
    tips: list[Any] = ["step:Q", "heads:Q", alt.Tooltip("accuracy:Q", format=".3f")]
    every = alt.Chart(looks).encode(x=x, y=y, order="step:O", tooltip=tips)
    line = every.mark_line(color=NEUTRAL, strokeWidth=1)
    dots = every.mark_point(filled=True, size=35, color=NEUTRAL, opacity=0.8)
    chosen = alt.Chart(marks).mark_point(size=160, strokeWidth=3, opacity=1)
    chosen = chosen.encode(x=x, y=y, color=colour, shape=shape, tooltip=["kind:N", *tips[1:]])
    return alt.LayerChart(layer=[line, dots, chosen]).properties(
        width=WIDTH,
        height=HEIGHT,
        description=(
            f"{len(looks)} snapshots of one mask, from {looks['heads'].min()} to {looks['heads'].max()} heads. The "
            f"official rule saves {int(saved['heads'])} heads (accuracy {float(saved['accuracy']):.2f}); the corrected "
            f"one selects {selected} ({accuracy:.2f})."
        ),
    )


def two_runs(points: pd.DataFrame) -> alt.HConcatChart:
    """The scores of two runs against each other, a point a head: drawn for every head, and drawn once for all.

    `points` is `official_circuits.redraw_points`.
    """
    ends = [min(points["first"].min(), points["second"].min()), max(points["first"].max(), points["second"].max())]
    scale = alt.Scale(domain=ends, nice=True)
    charts, said = [], []
    titles = {"official": "drawn for every head", "corrected": "one draw for all heads"}
    for kind, title in titles.items():
        part = points[points["draws"] == kind]
        rank = part["first"].rank().corr(part["second"].rank())
        said.append(f"{title}: rank correlation {rank:.2f}")
        base = alt.Chart(part).encode(
            x=alt.X("first:Q", title="score, first run", scale=scale, axis=alt.Axis(tickCount=4)),
            y=alt.Y("second:Q", title="score, second run", scale=scale, axis=alt.Axis(tickCount=4)),
            tooltip=["head:N", alt.Tooltip("first:Q", format=".4f"), alt.Tooltip("second:Q", format=".4f")],
        )
        dots = base.mark_point(filled=True, size=25, color=KINDS[kind], opacity=0.7)
        ends_ = pd.DataFrame({"first": ends, "second": ends})
        line = (
            alt.Chart(ends_)
            .mark_line(color=NEUTRAL, strokeDash=[4, 3], strokeWidth=1)
            .encode(x="first:Q", y="second:Q")
        )
        charts.append(alt.LayerChart(layer=[line, dots], title=title).properties(width=170, height=170))
    chart = alt.HConcatChart(hconcat=charts)
    return chart.properties(description=f"Each of {len(part)} heads in two runs. {'; '.join(said)}.")

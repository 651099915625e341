"""The figures of mean ablation: a tidy table in, an Altair chart with its description in words out."""

from collections.abc import Mapping

import altair as alt
import pandas as pd

from .charts import BLUE, GREEN, INK, NEUTRAL, PURPLE, VERMILLION
from .heads import LETTERS

WIDTH, HEIGHT = 280, 220
KINDS = {"ranking": (BLUE, "circle"), "same layers": (VERMILLION, "square"), "random": (NEUTRAL, "triangle-up")}
"""Circuits off the top of the rankings, and their two baselines of equal size: colour and shape."""

GROUP_COLOURS = {"A": BLUE, "B": VERMILLION, "C": GREEN, "D": PURPLE}
_PERCENT = alt.Axis(format=".0%")


def places(table: pd.DataFrame) -> alt.LayerChart:
    """What keeping all heads at one more place adds, a bar a place. The first round of `ablation.scan_positions`."""
    start = table[table["round"] == 0].iloc[0]
    first = table[table["round"] == 1].sort_values("gain", ascending=False)
    base = alt.Chart(first).encode(
        y=alt.Y("place:N", title=None, sort=list(first["place"])),
        tooltip=["place", *[alt.Tooltip(name, format="+.2f") for name in ("gain", "gain_low", "gain_high")], "n"],
    )
    bars = base.mark_bar(color=BLUE).encode(x=alt.X("gain:Q", title="accuracy gained", axis=alt.Axis(format="+.0%")))
    ends = base.mark_rule(color=INK, strokeWidth=1.5).encode(x="gain_low:Q", x2="gain_high:Q")
    best = first.iloc[0]
    return alt.LayerChart(layer=[bars, ends]).properties(
        width=WIDTH - 60,
        height=18 * len(first),
        description=f"Accuracy gained over {start.accuracy:.2f} when all heads are kept at one more place, with 95% "
        f"intervals. Most: {best.place}, {best.gain:+.2f} (from {best.gain_low:+.2f} to {best.gain_high:+.2f}).",
    )


def growth(table: pd.DataFrame, lines: Mapping[str, float]) -> alt.LayerChart:
    """Accuracy against the number of heads, a line a kind of circuit, and horizontal lines (full model, ceiling).

    Rows of `criteria.growth`.
    """
    kinds = [kind for kind in KINDS if kind in set(table["kind"])]
    legend = alt.Legend(orient="top", title=None)
    colours = alt.Scale(domain=kinds, range=[KINDS[kind][0] for kind in kinds])
    colour = alt.Color("kind:N", scale=colours, legend=legend)
    shapes = alt.Scale(domain=kinds, range=[KINDS[kind][1] for kind in kinds])
    shape = alt.Shape("kind:N", scale=shapes, legend=legend)
    base = alt.Chart(table).encode(
        x=alt.X("heads:Q", title="heads kept (all groups)"),
        tooltip=["kind", "heads", *[alt.Tooltip(name, format=".2f") for name in ("accuracy", "low", "high")], "n"],
    )
    y = alt.Y("accuracy:Q", title="accuracy (top-1)", axis=_PERCENT)
    curve = base.mark_line(strokeWidth=1.5).encode(y=y, color=colour)
    bars = base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q", color=colour)
    points = base.mark_point(filled=True, size=50, opacity=1).encode(y=y, color=colour, shape=shape)
    levels = pd.DataFrame({"name": list(lines), "level": list(lines.values()), "x": float(table["heads"].max())})
    rules = alt.Chart(levels).mark_rule(strokeDash=[4, 4]).encode(y="level:Q")
    names = alt.Chart(levels).mark_text(align="right", dy=-7, color=INK).encode(x="x:Q", y="level:Q", text="name")
    top = table[table["kind"] == "ranking"].sort_values("heads").iloc[[0, -1]]
    said = "; ".join(f"{row.accuracy:.2f} with {row.heads} heads" for row in top.itertuples())
    levels_said = ", ".join(f"{name} {value:.2f}" for name, value in lines.items())
    return alt.LayerChart(layer=[rules, names, curve, bars, points]).properties(
        width=WIDTH,
        height=HEIGHT,
        description=f"Accuracy against the number of heads kept. From the rankings: {said}. Lines: {levels_said}.",
    )


def completeness(table: pd.DataFrame) -> alt.LayerChart:
    """The circuit without K against the model without K, a point a set. Rows of `criteria.Completeness.table`.

    Points on the diagonal: what the circuit loses is what the model loses.
    """
    table = table.assign(kind=["random set" if name.startswith("random") else "group" for name in table["removed"]])
    top = float(max(table["circuit"].max(), table["full"].max(), 0.1))
    scale = alt.Scale(domain=[0, top])
    line = alt.Chart(pd.DataFrame({"a": [0.0, top], "b": [0.0, top]})).mark_line(strokeDash=[4, 4], color=NEUTRAL)
    diagonal = line.encode(x=alt.X("a:Q", scale=scale), y=alt.Y("b:Q", scale=scale))
    base = alt.Chart(table).encode(
        x=alt.X("circuit:Q", title="accuracy of the circuit without K", axis=_PERCENT, scale=scale),
        y=alt.Y("full:Q", title="accuracy of the model without K", axis=_PERCENT, scale=scale),
        tooltip=[
            "removed",
            "heads",
            *[alt.Tooltip(name, format=".2f") for name in ("circuit", "full", "incompleteness", "low", "high")],
            "n",
        ],
    )
    legend = alt.Legend(orient="top", title=None)
    kinds = ["group", "random set"]
    points = base.mark_point(filled=True, size=55, opacity=0.9).encode(
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[VERMILLION, BLUE]), legend=legend),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=["square", "circle"]), legend=legend),
    )
    names = (
        base.transform_filter("datum.kind == 'group'").mark_text(dx=9, align="left", color=INK).encode(text="removed")
    )
    gap = table[table["kind"] == "random set"]["incompleteness"].abs()
    return alt.LayerChart(layer=[diagonal, points, names]).properties(
        width=WIDTH - 40,
        height=WIDTH - 40,
        description="Accuracy of the model against that of the circuit, each without a set of heads K. "
        f"Mean distance over {len(gap)} random sets: {gap.mean():.2f}.",
    )


def minimality(table: pd.DataFrame) -> alt.LayerChart:
    """What each head costs once its stand-ins are gone, a bar a head. Rows of `criteria.Minimality.table`."""
    table = table.assign(letter=table["part"].map(LETTERS).fillna(table["part"]))
    table = table.assign(name=table["letter"] + " " + table["head"]).sort_values(
        ["letter", "loss"], ascending=[True, False]
    )
    letters = list(dict.fromkeys(table["letter"]))
    colours = [GROUP_COLOURS.get(letter, NEUTRAL) for letter in letters]
    base = alt.Chart(table).encode(
        y=alt.Y("name:N", title=None, sort=list(table["name"])),
        tooltip=[
            "head",
            "stand_ins",
            "before",
            "after",
            *[alt.Tooltip(x, format="+.3f") for x in ("loss", "low", "high")],
            "n",
        ],
    )
    bars = base.mark_bar().encode(
        x=alt.X("loss:Q", title="accuracy lost with the head", axis=alt.Axis(format="+.0%")),
        color=alt.Color("letter:N", title="group", scale=alt.Scale(domain=letters, range=colours)),
    )
    ends = base.mark_rule(color=INK, strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    (best,) = table.nlargest(1, "loss").to_dict("records")
    return alt.LayerChart(layer=[bars, ends]).properties(
        width=WIDTH - 60,
        height=18 * len(table),
        description="Accuracy lost when each head is taken away after its stand-ins, with 95% intervals. "
        f"Most: {best['name']}, {best['loss']:+.2f}; {int((table['loss'] <= 0).sum())} of {len(table)} cost nothing.",
    )

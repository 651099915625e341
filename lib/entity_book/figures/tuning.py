"""The figures of the chapter on the fine-tuned models: a tidy table in, an Altair chart with its description out."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from .charts import BLUE, GREEN, NEUTRAL, PURPLE, VERMILLION

WIDTH, HEIGHT = 280, 220
COLOURS = {"base": NEUTRAL, "arithmetic": BLUE, "code": GREEN, "shuffled": VERMILLION}
"""The models that figures compare; the two halves of `code` appear where there is a row for each model only."""

SHAPES = {"base": "diamond", "arithmetic": "circle", "code": "square", "shuffled": "triangle-up"}
_PERCENT = alt.Axis(format=".0%")


def loss_curves(table: pd.DataFrame) -> alt.FacetChart:
    """Loss of each training's batches (thin) and on held-out questions (points). Columns kind, step, loss, part."""
    last = (
        table[table["part"] == "held out"]
        .groupby("kind", sort=False)
        .agg(first=("loss", "first"), last=("loss", "last"))
    )
    base = alt.Chart(table).encode(x=alt.X("step:Q", title="step"), y=alt.Y("loss:Q", title="loss, nats a token"))
    lines = base.transform_filter("datum.part == 'batches'").mark_line(color=NEUTRAL, strokeWidth=1, opacity=0.7)
    points = (
        base.transform_filter("datum.part == 'held out'")
        .mark_line(point=True, color=BLUE)
        .encode(tooltip=["kind", "step", alt.Tooltip("loss", format=".3f")])
    )
    panel = alt.LayerChart(layer=[lines, points], data=table).properties(width=128, height=100)
    words = "; ".join(f"{kind} from {row.first:.2f} to {row.last:.2f}" for kind, row in last.iterrows())
    return panel.facet(facet=alt.Facet("kind:N", title=None, sort=list(last.index)), columns=2).properties(
        description=f"Loss over the steps of each training, in batches and on held-out questions. Held out: {words}."
    )


def accuracies(table: pd.DataFrame) -> alt.LayerChart:
    """Accuracy of every model: seed 0 with its interval, the other seeds as hollow dots. Rows of `tuning.summary`."""
    order = list(table["kind"].unique())
    return _rows(table, order, "value", "low", "high", "accuracy (top-1)", _words(table, "value", "low", "high"))


def differences(table: pd.DataFrame) -> alt.LayerChart:
    """Paired difference of every tuned model to the base: seed 0 with its interval, other seeds as hollow dots."""
    table = table[table["kind"] != "base"]
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(strokeDash=[4, 4], color=NEUTRAL).encode(x="zero:Q")
    names = ("gain", "gain_low", "gain_high")
    words = _words(table, *names)
    return _rows(table, list(table["kind"].unique()), *names, "accuracy minus that of the base", words, [zero])


def by_position(table: pd.DataFrame, boxes: int) -> alt.LayerChart:
    """Accuracy against the place of the queried box, a line a model. Columns kind, position and an estimate's."""
    kinds = [kind for kind in COLOURS if kind in set(table["kind"])]
    table = table[table["kind"].isin(kinds)]
    colour, shape = _legend(kinds)
    base = alt.Chart(table).encode(
        x=alt.X("position:O", title="place of the queried box", axis=alt.Axis(labelAngle=0)),
        tooltip=["kind", "position", *[alt.Tooltip(name, format=".2f") for name in ("value", "low", "high")], "n"],
        xOffset=alt.XOffset("kind:N", sort=kinds),
    )
    y = alt.Y("value:Q", title="accuracy (top-1)", axis=_PERCENT, scale=alt.Scale(domain=[0, 1]))
    bars = base.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q", color=colour)
    points = base.mark_point(filled=True, size=50, opacity=1).encode(y=y, color=colour, shape=shape)
    chance = alt.Chart(pd.DataFrame({"chance": [1 / boxes]})).mark_rule(strokeDash=[4, 4]).encode(y="chance:Q")
    means = table.groupby("kind", sort=False)["value"].mean()
    return alt.LayerChart(layer=[chance, bars, points]).properties(
        width=WIDTH,
        height=HEIGHT,
        description=f"Accuracy by place of the queried box among {boxes}, with 95% intervals. Means over places: "
        + ", ".join(f"{kind} {value:.2f}" for kind, value in means.items())
        + ".",
    )


def conditions(table: pd.DataFrame) -> alt.FacetChart:
    """Accuracy of several models under other conditions, a panel a condition. Rows of `tuning.gains`."""
    kinds = [kind for kind in COLOURS if kind in set(table["kind"])]
    table = table[table["kind"].isin(kinds)]
    colour, shape = _legend(kinds)
    base = alt.Chart().encode(
        y=alt.Y("kind:N", title=None, sort=kinds),
        tooltip=[
            "condition:N",
            "kind:N",
            *[alt.Tooltip(f"{name}:Q", format=".2f") for name in ("value", "low", "high")],
            "n:Q",
        ],
    )
    x = alt.X(
        "value:Q", title="accuracy (top-1)", axis=alt.Axis(format=".0%", tickCount=3), scale=alt.Scale(domain=[0, 1])
    )
    bars = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", color=colour)
    points = base.mark_point(filled=True, size=60, opacity=1).encode(x=x, color=colour, shape=shape)
    panel = alt.LayerChart(layer=[bars, points], data=table).properties(width=110, height=70)
    order = list(table["condition"].unique())
    said = (f"{row.condition}, {row.kind}: {row.value:.2f}" for row in table.itertuples())
    return panel.facet(facet=alt.Facet("condition:N", title=None, sort=order), columns=2).properties(
        description=f"Accuracy with 95% intervals, a panel a condition. {'; '.join(said)}."
    )


def _legend(kinds: list[str]) -> tuple[alt.Color, alt.Shape]:
    legend = alt.Legend(orient="top", title=None, columns=2)
    return (
        alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[COLOURS[kind] for kind in kinds]), legend=legend),
        alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=[SHAPES[kind] for kind in kinds]), legend=legend),
    )


def _rows(
    table: pd.DataFrame,
    order: list[str],
    value: str,
    low: str,
    high: str,
    title: str,
    words: str,
    behind: Sequence[alt.Chart] = (),
) -> alt.LayerChart:
    base = alt.Chart(table).encode(
        y=alt.Y("kind:N", title=None, sort=order),
        tooltip=["kind", "seed", *[alt.Tooltip(name, format=".3f") for name in (value, low, high)], "n", "contexts"],
    )
    x = alt.X(f"{value}:Q", title=title, axis=_PERCENT)
    first, others = base.transform_filter("datum.seed == 0"), base.transform_filter("datum.seed != 0")
    bars = first.mark_rule(strokeWidth=2, color=BLUE).encode(x=f"{low}:Q", x2=f"{high}:Q")
    points = first.mark_point(filled=True, size=70, opacity=1, color=BLUE).encode(x=x)
    dots = others.mark_point(filled=False, size=60, opacity=1, color=PURPLE).encode(x=x)
    return alt.LayerChart(layer=[*behind, bars, points, dots]).properties(
        width=WIDTH, height=30 * len(order), description=f"{title.capitalize()}, with 95% intervals: {words}."
    )


def _words(table: pd.DataFrame, value: str, low: str, high: str) -> str:
    rows = table.to_dict("records")
    return "; ".join(
        f"{r['kind']}, seed {r['seed']}: {r[value]:.2f} (from {r[low]:.2f} to {r[high]:.2f})" for r in rows
    )

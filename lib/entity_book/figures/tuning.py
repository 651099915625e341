"""The figures of the chapter on the fine-tuned models: a tidy table in, an Altair chart with its description out."""

import altair as alt
import pandas as pd

from .charts import BLUE, GREEN, NEUTRAL, PURPLE, VERMILLION, marked
from .parts import PERCENT, by_name, drawn, estimates, lanes, level, numbers, panels, spoken

WIDTH, HEIGHT = 280, 220
COLOURS = {"base": NEUTRAL, "arithmetic": BLUE, "code": GREEN, "shuffled": VERMILLION}
"""The models that figures compare; the two halves of `code` appear where there is a row for each model only."""

MEAN = "mean of trainings"
UNITS = {"a training": (BLUE, "circle"), MEAN: (VERMILLION, "diamond")}

SHAPES = {"base": "diamond", "arithmetic": "circle", "code": "square", "shuffled": "triangle-up"}


def loss_curves(table: pd.DataFrame) -> alt.FacetChart:
    """Loss of each training's batches (thin) and on held-out questions (points). Columns kind, step, loss, part."""
    ends = table[table["part"] == "held out"].groupby("kind", sort=False)["loss"].agg(["first", "last"])
    base = alt.Chart().encode(x=alt.X("step:Q", title="step"), y=alt.Y("loss:Q", title="loss, nats a token"))
    lines = base.transform_filter("datum.part == 'batches'").mark_line(color=NEUTRAL, strokeWidth=1, opacity=0.7)
    points = base.transform_filter("datum.part == 'held out'").mark_line(point=True, color=BLUE)
    points = points.encode(tooltip=["kind:N", "step:Q", *numbers("loss", form=".3f")])
    words = "; ".join(f"{row.Index} from {row.first:.2f} to {row.last:.2f}" for row in ends.itertuples())
    words = f"Loss over the steps of each training, in batches and on held-out questions. Held out: {words}."
    return panels([lines, points], table, "kind", 128, 100).properties(description=words)


def differences(table: pd.DataFrame, kinds: pd.DataFrame) -> alt.LayerChart:
    """Paired difference of every training to the base, a dot a seed with its interval over contexts, and below them the
    mean of a kind's trainings with the interval over these. Rows of `tuning.summary` and of `trainings.table`.
    """
    each = table[table["kind"] != "base"].assign(shown="a training")
    each["lane"] = "seed " + each["seed"].astype(str)
    means = kinds.assign(shown=MEAN, lane="mean")
    order = [*sorted(set(each["lane"])), "mean"]
    both, beside = lanes(pd.concat([each, means], ignore_index=True), ["kind"], "lane", order)
    names, ends = ("gain", "gain_low", "gain_high"), ("gain_low", "gain_high")
    colour, shape = marked("shown:N", UNITS, orient="top")
    base = alt.Chart(both).encode(
        y=by_name("kind", each["kind"]),
        yOffset=beside,
        tooltip=["kind", "lane", *numbers(*names, form="+.3f"), "n"],
    )
    x = alt.X("gain:Q", title="accuracy minus that of the base", axis=alt.Axis(format="+.0%"))
    points = estimates(base, x, 60, ends=ends, color=colour, shape=shape)
    one, mean = (
        "; ".join(f"{row['kind']}{more(row)}: {spoken(*(row[name] for name in names))}" for row in rows)
        for rows, more in (
            (each.to_dict("records"), lambda row: f", seed {row['seed']}"),
            (means.to_dict("records"), lambda row: f", {row['trainings']} trainings"),
        )
    )
    words = (
        f"Accuracy minus that of the base, each training with its 95% interval over contexts: {one}. Means of a kind's "
        f"trainings, with intervals over trainings: {mean or 'none'}."
    )
    zero = level("zero", 0.0, "x", color=NEUTRAL)
    return drawn([zero, *points], WIDTH, 14 * len(order) * each["kind"].nunique(), words)


SIDES = {"tracking": (GREEN, "diamond"), "format": (PURPLE, "square")}


def tracking(table: pd.DataFrame) -> alt.LayerChart:
    """What each training changes against the base: the object choice, and the rest of top-1. Rows of
    `tracking.split`."""
    rows = [
        {"kind": row["kind"], "what": side, "n": row["n"], "value": row[side]}
        | {end: row[f"{side}_{end}"] for end in ("low", "high")}
        for row in table[table["kind"] != "base"].to_dict("records")
        for side in SIDES
    ]
    long = pd.DataFrame(rows)
    colour, shape = marked("what:N", SIDES, orient="top")
    base = alt.Chart(long).encode(
        y=by_name("kind", long["kind"]),
        yOffset=alt.YOffset("what:N", sort=list(SIDES)),
        tooltip=["kind", "what", *numbers(form="+.3f"), "n"],
    )
    x = alt.X("value:Q", title="change against the base", axis=alt.Axis(format="+.0%"))
    said = "; ".join(
        f"{row['kind']}, {row['what']}: {spoken(row['value'], row['low'], row['high'], '+.2f')}" for row in rows
    )
    words = f"Change of tracking (object choice) and of format (top-1 minus choice), with 95% intervals: {said}."
    zero = level("zero", 0.0, "x", color=NEUTRAL)
    points = estimates(base, x, 60, color=colour, shape=shape)
    return drawn([zero, *points], WIDTH, 34 * long["kind"].nunique(), words)


def doses(each: pd.DataFrame, cells: pd.DataFrame) -> alt.FacetChart:
    """Tracking and format of every training of the arithmetic study, a hollow dot a training, and their means with 95%
    intervals over trainings. Rows of `doses.each` and of `doses.cells`.
    """
    names = [f"{row['cell']} ({row['trainings']})" for row in cells.to_dict("records")]
    label = dict(zip(cells["cell"], names, strict=True))
    rows = []
    for table, shown in ((each, "a training"), (cells[cells["trainings"] > 1], MEAN)):
        for row in table.to_dict("records"):
            for side in SIDES:
                rows.append(
                    {"row": label[row["cell"]], "what": side, "shown": shown, "value": row[side], "n": row["n"]}
                )
                ends = {end: row[f"{side}_{end}"] if shown == MEAN else None for end in ("low", "high")}
                rows[-1] |= {"run": row.get("run", MEAN), **ends}
    long = pd.DataFrame(rows)
    tooltip = ["row:N", "what:N", "run:N", *numbers(form="+.3f"), "n:Q"]
    base = alt.Chart().encode(y=by_name("row", names), tooltip=tooltip)
    colour, shape = marked("shown:N", UNITS, orient="top")
    x = alt.X("value:Q", title="change against the base", axis=alt.Axis(format="+.0%", tickCount=4))
    dots = base.transform_filter("datum.shown == 'a training'").mark_point(size=30, opacity=0.8)
    dots = dots.encode(x, color=colour, shape=shape)
    means = estimates(base.transform_filter(f"datum.shown == '{MEAN}'"), x, 60, color=colour, shape=shape)
    said = "; ".join(
        f"{row['cell']}, {row['trainings']}: tracking {row['tracking']:+.2f}, format {row['format']:+.2f}"
        for row in cells.to_dict("records")
    )
    words = (
        f"Change of tracking and of format, means of the trainings (or draws) of each cell with their number: {said}."
    )
    zero = alt.Chart().mark_rule(strokeDash=[4, 4], color=NEUTRAL).encode(x=alt.datum(0.0))
    return panels([zero, dots, *means], long, "what", 130, 16 * len(names)).properties(description=words)


def by_position(table: pd.DataFrame, boxes: int) -> alt.LayerChart:
    """Accuracy against the place of the queried box, a line a model. Columns kind, position and an estimate's."""
    table, kinds, colour, shape = _compared(table)
    base = alt.Chart(table).encode(
        x=alt.X("position:O", title="place of the queried box", axis=alt.Axis(labelAngle=0)),
        tooltip=["kind", "position", *numbers(), "n"],
        xOffset=alt.XOffset("kind:N", sort=kinds),
    )
    y = alt.Y("value:Q", title="accuracy (top-1)", axis=PERCENT, scale=alt.Scale(domain=[0, 1]))
    means = table.groupby("kind", sort=False)["value"].mean()
    words = (
        f"Accuracy by place of the queried box among {boxes}, with 95% intervals. Means over places: "
        + ", ".join(f"{kind} {value:.2f}" for kind, value in means.items())
        + "."
    )
    return drawn([level("chance", 1 / boxes), *estimates(base, y, 50, color=colour, shape=shape)], WIDTH, HEIGHT, words)


def conditions(table: pd.DataFrame) -> alt.FacetChart:
    """Accuracy of several models under other conditions, a panel a condition. Rows of `tuning.gains`."""
    table, kinds, colour, shape = _compared(table)
    base = alt.Chart().encode(y=by_name("kind", kinds), tooltip=["condition:N", "kind:N", *numbers(), "n:Q"])
    axis = alt.Axis(format=".0%", tickCount=3)
    x = alt.X("value:Q", title="accuracy (top-1)", axis=axis, scale=alt.Scale(domain=[0, 1]))
    said = "; ".join(f"{row.condition}, {row.kind}: {row.value:.2f}" for row in table.itertuples())
    return panels(estimates(base, x, 60, color=colour, shape=shape), table, "condition", 110, 70).properties(
        description=f"Accuracy with 95% intervals, a panel a condition. {said}."
    )


def _compared(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str], alt.Color, alt.Shape]:
    """The rows of models that figures compare, their names, and how they look."""
    kinds = [kind for kind in COLOURS if kind in set(table["kind"])]
    look = marked("kind:N", {kind: (COLOURS[kind], SHAPES[kind]) for kind in kinds}, orient="top", columns=2)
    return table[table["kind"].isin(kinds)], kinds, *look

"""The figures of the first chapter: a tidy table in, an Altair chart with its description in words out.

Charts are at most 330 pixels wide, so that they fit a phone. Colours are those that are readable on white and on the
dark page; text and axes take the page's own.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import altair as alt
import pandas as pd
from entity_circuits.statistics import spoken as in_brackets
from entity_circuits.tasks.boxes import Position, Prompts

from .charts import BLUE, GREEN, GROUP_COLOURS, INK, NEUTRAL, VERMILLION, coloured, marked
from .parts import PERCENT, drawn, estimates, numbers, spoken

WIDTH, HEIGHT = 280, 220
CELL, LINE = 47, 44

POSITIONS: dict[Position, str] = {
    "object": NEUTRAL,
    "prev": GROUP_COLOURS["D"],
    "query": GROUP_COLOURS["C"],
    "last": GROUP_COLOURS["A"],
}
"""The colour of each of the four positions: that of the group that acts there, and no group's at the object."""

STYLES = {"top-1": (BLUE, "circle"), "object choice": (GREEN, "diamond")}
"""The two accuracies, wherever both are drawn: over all words, and among the objects of the context."""

_PLACE = alt.X("position:O", title="place of the queried box", axis=alt.Axis(labelAngle=0))


def tokens(prompts: Prompts, row: int, tokenizer: Any) -> alt.LayerChart:
    """One prompt token by token, a statement a line, with the four positions framed and named."""
    ids = prompts.input_ids[row, : int(prompts.last[row]) + 1].tolist()
    names = {int(prompts.position(name)[row]): name for name in POSITIONS}
    cells, line, column = [], 0, 0
    for index, token in enumerate(ids):
        text = tokenizer.decode([token])
        name = names.get(index)
        cells.append({"token": text.strip(), "index": index, "id": token, "name": name, "line": line, "column": column})
        column += 1
        if text.strip() in {",", "."}:
            line, column = line + 1, 0
    table = pd.DataFrame(cells)
    base = alt.Chart(table).encode(
        x=alt.X("column:O", axis=None, scale=alt.Scale(padding=0.1)),
        y=alt.Y("line:O", axis=None, scale=alt.Scale(padding=0.15)),
        tooltip=["token", "index", "id", "name"],
    )
    named = base.transform_filter("datum.name != null")
    colours = alt.Scale(domain=list(POSITIONS), range=list(POSITIONS.values()))
    frame = named.mark_rect(filled=False, strokeWidth=2, cornerRadius=4)
    frame = frame.encode(stroke=alt.Stroke("name:N", scale=colours, legend=None))
    word = base.mark_text(dy=-8, fontSize=12, color=INK).encode(text="token")
    role = named.mark_text(dy=8, fontSize=12, fontStyle="italic", color=INK).encode(text="name")
    found = ", ".join(f"{name} at {index} ({table.token[index]})" for index, name in sorted(names.items()))
    words = f"A prompt of {len(ids)} tokens, one statement a line. The four positions: {found}."
    return drawn([frame, word, role], CELL * int(table.column.max() + 1), LINE * int(table.line.max() + 1), words)


def accuracy_by_boxes(table: pd.DataFrame) -> alt.LayerChart:
    """Both accuracies against the number of boxes with intervals, and chance: one in that many. Rows of
    `behaviour.both`."""
    said = []
    for measure, rows in table.groupby("measure", sort=False):
        ends = rows.sort_values("boxes").iloc[[0, -1]]
        said.append(f"{measure}: " + "; ".join(f"{row.boxes} boxes {_words(row)}" for row in ends.itertuples()))
    return _dots(
        table.assign(chance=1 / table["boxes"]),
        alt.X("boxes:O", title="boxes in the context", axis=alt.Axis(labelAngle=0)),
        f"Two accuracies by number of boxes, with 95% intervals and the chance line. {'. '.join(said)}.",
        title="accuracy",
        **_measures(table),
    )


def accuracy_by_position(table: pd.DataFrame, boxes: int) -> alt.LayerChart:
    """Both accuracies against the place of the queried box, with intervals and chance. Rows of `behaviour.both`."""
    said = []
    for measure, rows in table.groupby("measure", sort=False):
        (best,), (worst,) = rows.nlargest(1, "value").itertuples(), rows.nsmallest(1, "value").itertuples()
        ends = f"highest for box {best.position}, {_words(best)}; lowest for box {worst.position}, {_words(worst)}"
        said.append(f"{measure}: {ends}")
    return _dots(
        table.assign(chance=1 / boxes),
        _PLACE,
        f"Two accuracies by place of the queried box among {boxes}, with 95% intervals and the chance line. "
        f"{'. '.join(said)}.",
        title="accuracy",
        **_measures(table),
    )


def errors_by_distance(table: pd.DataFrame) -> alt.LayerChart:
    """How far the wrongly named object is from the right one, beside a guess. Columns of `behaviour.distances`."""
    base = alt.Chart(table).encode(
        x=alt.X("distance:O", title="boxes from the right object to the one said", axis=alt.Axis(labelAngle=0)),
        tooltip=["distance", "n", *numbers("share", "guess")],
    )
    bars = base.mark_bar(color=BLUE).encode(y=alt.Y("share:Q", title="share of these errors", axis=PERCENT))
    ticks = base.mark_tick(color=VERMILLION, thickness=3, size=24, opacity=1).encode(y="guess:Q")
    (peak,) = table.nlargest(1, "share").itertuples()
    words = (
        "Bars: how often the wrongly named object stands that many boxes after (negative: before) the "
        f"right one, in {table['n'].sum()} such errors. Ticks: the same for a guess among the other objects. The most "
        f"frequent distance is {peak.distance}, in {peak.share:.0%} of them, against {peak.guess:.0%} for a guess."
    )
    return drawn([bars, ticks], WIDTH, HEIGHT, words)


def template_control(table: pd.DataFrame, boxes: int) -> alt.LayerChart:
    """Accuracy by place of the queried box, one colour a template. Columns `template`, `position` and an estimate's."""
    names = list(table["template"].unique())
    styles = dict(zip(names, ((BLUE, "circle"), (VERMILLION, "square")), strict=False))
    colour, shape = marked("template:N", styles, orient="top")
    means = table.groupby("template", sort=False)["value"].mean()
    words = ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
    return _dots(
        table.assign(chance=1 / boxes),
        _PLACE,
        f"Accuracy by place of the queried box under two templates, with 95% intervals. Means over places: {words}.",
        color=colour,
        xOffset=alt.XOffset("template:N", sort=names),
        shape=shape,
    )


def answer_probability(table: pd.DataFrame) -> alt.Chart:
    """The distribution of the right object's probability, apart for right and wrong predictions. A row a prompt."""
    table = table.assign(prediction=table["correct"].map({True: "right", False: "wrong"}))
    table = table[["prediction", "answer_prob"]]
    middle = table.groupby("prediction")["answer_prob"].median()
    bins = alt.Bin(step=0.05, extent=[0, 1])
    axis = alt.Axis(format=".1f", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    chart = alt.Chart(table).mark_bar()
    chart = chart.encode(
        x=alt.X("answer_prob:Q", bin=bins, title="probability of the right object", axis=axis),
        y=alt.Y("count()", title="prompts"),
        color=coloured("prediction:N", {"right": BLUE, "wrong": VERMILLION}, title=alt.Undefined, orient="top"),
        tooltip=["prediction", alt.Tooltip("answer_prob:Q", bin=bins, format=".2f"), "count()"],
    )
    words = ", ".join(f"{value:.2f} where the prediction is {name}" for name, value in middle.items())
    words = f"Histogram of the probability of the right object. Medians: {words} (n = {len(table)})."
    return chart.properties(width=WIDTH, height=HEIGHT, description=words)


def ends(table: pd.DataFrame, column: str, name: str) -> dict[str, str]:
    """The accuracies (top-1) at both ends of a column in words, for `notebooks.quote`: `first_boxes`, `last_boxes`.

    Args:
        table: rows of `behaviour.both`.
        column: what they are ordered by, such as "boxes".
        name: what a row is called, by its columns.

    >>> table = pd.DataFrame({"measure": "top-1", "boxes": [2, 7], "value": [0.8, 0.5], "low": 0.4, "high": 0.9})
    >>> ends(table, "boxes", "{boxes} boxes")["last_boxes"]
    '7 boxes, 0.50 [0.40, 0.90]'
    """
    rows = table[table["measure"] == "top-1"].sort_values(column).iloc[[0, -1]].to_dict("records")
    return {f"{end}_{column}": _told(row, name) for end, row in zip(("first", "last"), rows, strict=True)}


def extremes(table: pd.DataFrame, name: str) -> dict[str, str]:
    """The highest and the lowest accuracy (top-1) of a table in words, for `notebooks.quote`: `best` and `worst`.

    Args:
        table: rows of `behaviour.both`.
        name: what a row is called, by its columns.

    >>> table = pd.DataFrame({"measure": "top-1", "position": [1, 2], "value": [0.8, 0.5], "low": 0.4, "high": 0.9})
    >>> extremes(table, "box {position}")["best"]
    'box 1, 0.80 [0.40, 0.90]'
    """
    known = table[table["measure"] == "top-1"].sort_values("value", ascending=False, kind="stable")
    best, worst = known.iloc[[0, -1]].to_dict("records")
    return {"best": _told(best, name), "worst": _told(worst, name)}


def peak(table: pd.DataFrame) -> dict[str, str]:
    """The most frequent distance of a wrong object in words, for `notebooks.quote`: `peak`, `peak_share`, `peak_guess`.

    Args:
        table: rows of `behaviour.distances`.

    >>> peak(pd.DataFrame({"distance": [-1, 1], "share": [0.3, 0.7], "guess": [0.5, 0.5]}))
    {'peak': '1 box after the right one', 'peak_share': '70%', 'peak_guess': '50%'}
    """
    (row,) = table.nlargest(1, "share").to_dict("records")
    far, side = abs(row["distance"]), "after" if row["distance"] > 0 else "before"
    where = f"{far} box{'es' * (far != 1)} {side} the right one"
    return {"peak": where, "peak_share": f"{row['share']:.0%}", "peak_guess": f"{row['guess']:.0%}"}


def _measures(table: pd.DataFrame) -> dict[str, Any]:
    """The channels that tell the accuracies apart: a colour, a shape and a place beside each other."""
    names = list(table["measure"].unique())
    colour, shape = marked("measure:N", {name: STYLES[name] for name in names}, orient="top")
    return {"color": colour, "shape": shape, "xOffset": alt.XOffset("measure:N", sort=names)}


def _dots(
    table: pd.DataFrame, x: alt.X, words: str, title: str = "accuracy (top-1)", **channels: Any
) -> alt.LayerChart:
    """Estimates as points with interval bars over `x`, and a dashed line through column `chance`."""
    names = [name for name in ("template", "measure", "boxes", "position") if name in table]
    tips = [*names, *numbers("value", "low", "high", "chance"), "n", "contexts"]
    base = alt.Chart(table).encode(x=x, tooltip=tips)
    y = alt.Y("value:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=PERCENT)
    chance = base.mark_line(strokeDash=[4, 4], color=NEUTRAL).encode(y="chance:Q")
    name = alt.Chart(table.tail(1)).mark_text(align="right", dy=12, color=NEUTRAL, fontSize=12)
    name = name.encode(x=x, y="chance:Q", text=alt.value("chance"))
    return drawn([chance, name, *estimates(base, y, 70, mark={"color": BLUE}, **channels)], WIDTH, HEIGHT, words)


def _words(row: Any) -> str:
    return spoken(row.value, row.low, row.high, more=f", n = {row.n}")


def _told(row: Mapping[Hashable, Any], name: str) -> str:
    called = name.format(**{str(key): value for key, value in row.items()})
    return f"{called}, {in_brackets(row['value'], row['low'], row['high'])}"

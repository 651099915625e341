"""The figures about what heads carry: a tidy table in, an Altair chart with its description in words out."""

from typing import Any

import altair as alt
import pandas as pd
from entity_circuits.heads import LETTERS
from entity_circuits.tasks import boxes
from entity_circuits.tasks.desiderata import HYPOTHESES, Hypothesis, Triples

from .charts import BLUE, GREEN, INK, NEUTRAL, PURPLE, VERMILLION

ELSEWHERE = "another place"
COLOURS = {
    "base": NEUTRAL,
    "position": VERMILLION,
    "object": BLUE,
    "label": GREEN,
    ELSEWHERE: PURPLE,
    "other": "#CFCFCF",
}
"""The colour of each kind of answer; `ELSEWHERE` are the fifth candidates of additional desiderata."""

TITLES = {"llama": "Llama-7B", "goat": "Goat-7B", "float": "FLoat-7B"}
_SHARE = alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1])
_TIPS = [alt.Tooltip(f"{name}:Q", format=".2f") for name in ("value", "low", "high")]


def hypotheses(triples: Triples, row: int = 0) -> alt.VConcatChart:
    """One pair of prompts drawn three times: what each hypothesis says is taken along, and which word it predicts."""
    return alt.vconcat(*(_hypothesis(triples, row, name) for name in HYPOTHESES), spacing=18).properties(
        description="Three drawings of one pair of prompts. "
        + " ".join(f"If the heads carry the {name}, the answer is {_word(triples, row, name)}." for name in HYPOTHESES)
        + f" The base's own answer is {_word(triples, row, 'base')}."
    )


def _word(triples: Triples, row: int, name: str) -> str:
    token = int(triples.candidates[row, triples.names.index(name)])
    for prompts in map(boxes.of, (triples.base, triples.source)):
        ids = prompts.object_ids[row].tolist()
        if token in ids:
            return prompts.worlds[row].objects[ids.index(token)]
    return "?"


def _hypothesis(triples: Triples, row: int, name: Hypothesis) -> alt.LayerChart:
    base, source = boxes.of(triples.base), boxes.of(triples.source)
    asked, wanted = base.queries[row], source.queries[row]
    ids = base.object_ids[row].tolist()
    target = int(triples.candidates[row, triples.names.index(name)])
    end = (0.0, ids.index(target)) if target in ids else (0.0, -1)
    cells = []
    for column, prompts in enumerate((base, source)):
        world = prompts.worlds[row]
        for place, (word, label) in enumerate(zip(world.objects, world.labels, strict=True)):
            what = "asked" if place == (asked, wanted)[column] else ""
            what = "predicted" if (column, place) == (int(end[0]), end[1]) else what
            what = "predicted" if end[1] < 0 and column and place == wanted else what
            cells.append({"x": float(column), "y": place, "text": f"{word} in {label}", "what": what})
    heading = [{"x": float(i), "y": -1, "text": text, "what": ""} for i, text in enumerate(("base", "source"))]
    table = pd.DataFrame(cells + heading)
    wide, tall = alt.Scale(domain=[-0.55, 1.55]), alt.Scale(domain=[len(ids) - 0.5, -1.5])
    axes: dict[str, Any] = {"x": alt.X("x:Q", scale=wide, axis=None), "y": alt.Y("y:Q", scale=tall, axis=None)}
    quiet = {"tooltip": alt.value(None)}
    chart = alt.Chart(table).encode(**axes)
    words = chart.mark_text(color=INK, fontSize=12).encode(
        text="text", tooltip=["text", "what"], opacity=alt.condition("datum.y < 0", alt.value(0.7), alt.value(1))
    )
    colour = COLOURS[name]
    sides = {"x2": "right:Q", "y2": "bottom:Q"}
    framed = table[table["what"] != ""].assign(
        left=lambda t: t["x"] - 0.42, right=lambda t: t["x"] + 0.42, top=lambda t: t["y"] - 0.45
    )
    framed["bottom"] = framed["top"] + 0.9
    box = alt.Chart(framed).encode(
        x=alt.X("left:Q", scale=wide, axis=None), y=alt.Y("top:Q", scale=tall, axis=None), **sides, **quiet
    )
    dashed = box.transform_filter("datum.what == 'asked'").mark_rect(
        filled=False, stroke=NEUTRAL, strokeWidth=1.5, strokeDash=[4, 3], cornerRadius=4
    )
    full = box.transform_filter("datum.what == 'predicted'").mark_rect(
        filled=False, stroke=colour, strokeWidth=3, cornerRadius=4
    )
    layers = [dashed, full, words]
    if end[1] >= 0:
        line = pd.DataFrame([{"x": 0.58, "y": float(wanted), "x2": 0.42, "y2": float(end[1])}])
        arrow = alt.Chart(line).mark_rule(strokeWidth=3, color=colour)
        layers.append(arrow.encode(**axes, x2="x2:Q", y2="y2:Q", **quiet))
    taken = {"position": "the place in the list", "object": "the object itself", "label": "the letter"}[name]
    return alt.LayerChart(layer=layers).properties(
        width=290,
        height=19 * (len(ids) + 1),
        title=alt.Title(f"{name}: {taken}", subtitle=f"predicts \u201c{_word(triples, row, name)}\u201d", color=INK),
    )


def distribution(table: pd.DataFrame) -> alt.FacetChart:
    """What each model answers when each group is patched: a panel a model, a stacked bar a set. Rows of `answers`."""
    table = table[table["patched"] != "other heads"]
    first = table["group"].map(LETTERS)
    bars = table.assign(bar=first.where(table["patched"] == "group", "no patch"), answer=table["answer"].astype(str))
    bars = bars.drop_duplicates(["model", "bar", "answer"])
    order = ["no patch", *[letter for letter in LETTERS.values() if letter in set(bars["bar"])]]
    words = []
    for model, part in bars.groupby("model", sort=False):
        for bar in order:
            some = part[part["bar"] == bar].set_index("answer")["share"]
            if len(some):
                shown = some.reindex([kind for kind in COLOURS if kind != ELSEWHERE], fill_value=0)
                words.append(f"{model}, {bar}: " + ", ".join(f"{kind} {share:.2f}" for kind, share in shown.items()))
    kinds = [kind for kind in COLOURS if kind != ELSEWHERE]
    panels = alt.Row("model:N", title=None, sort=list(bars["model"].unique()), header=_header())
    return (
        _stacked(bars, "bar", order, kinds, 230)
        .facet(row=panels)
        .properties(description="Answers when a group's outputs come from the source prompt. " + "; ".join(words) + ".")
    )


def _stacked(bars: pd.DataFrame, row: str, order: list[str], kinds: list[str], width: int) -> alt.Chart:
    place = {kind: index for index, kind in enumerate(kinds)}
    return (
        alt.Chart(bars.assign(order=bars["answer"].map(place)))
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="share of the answers", axis=_SHARE, scale=alt.Scale(domain=[0, 1])),
            y=alt.Y(f"{row}:N", sort=order, title=None),
            color=alt.Color(
                "answer:N",
                scale=alt.Scale(domain=kinds, range=[COLOURS[kind] for kind in kinds]),
                legend=alt.Legend(orient="bottom", columns=3 if width > 200 else 2, title=None),
            ),
            order="order:Q",
            tooltip=[f"{row}:N", "answer", alt.Tooltip("share:Q", format=".2f"), "n"],
        )
        .properties(width=width, height=22 * len(order))
    )


def _header() -> alt.Header:
    return alt.Header(labelAngle=0, labelAnchor="start", labelOrient="top", labelFontWeight="bold")


def additional(table: pd.DataFrame) -> alt.Chart:
    """What patched heads bring when the source is written otherwise. Rows of `semantics.additional`.

    The answers `next` and `counted`, the base's objects at another place than the source's, have one colour.
    """
    rows = table[table["patched"] != "no patch"]
    rows = rows.assign(answer=rows["answer"].replace({"next": ELSEWHERE, "counted": ELSEWHERE}))
    share = rows.groupby("desideratum", sort=False)["answer"].value_counts(normalize=True).rename("share").reset_index()
    share["n"] = share["desideratum"].map(rows.groupby("desideratum").size())
    order, there = list(rows["desideratum"].unique()), set(share["answer"])
    kinds = [kind for kind in ("position", ELSEWHERE, "base", "label", "object", "other") if kind in there]
    shares = share.set_index(["desideratum", "answer"])["share"]
    words = "; ".join(
        f"{name} " + ", ".join(f"{kind} {shares.get((name, kind), 0):.2f}" for kind in ("position", ELSEWHERE))
        for name in order
    )
    return _stacked(share, "desideratum", order, kinds, 140).properties(
        description=f"Answers by how the source is written, n = {share['n'].min()} each or more. {words}."
    )


def learning(table: pd.DataFrame) -> alt.FacetChart:
    """Masks while they are learned: a line a head, from 1 (left alone) to 0 (patched). Rows of `mask_tables.traces`."""
    names = {True: "selected", False: "left alone"}
    table = table.assign(end=table["selected"].map(names))
    domain, colours = list(names.values()), [BLUE, NEUTRAL]
    legend = alt.Legend(orient="bottom", title=None)
    panels = list(table["mask"].unique()) if "mask" in table else list(table["desideratum"].unique())
    column = "mask" if "mask" in table else "desideratum"
    chosen = table[table["selected"]].groupby(column, sort=False)["head"].nunique().reindex(panels, fill_value=0)
    return (
        alt.Chart(table)
        .mark_line(strokeWidth=1.5, opacity=0.8)
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("keep:Q", title="keep", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(values=[0, 0.5, 1])),
            color=alt.Color("end:N", scale=alt.Scale(domain=domain, range=colours), legend=legend),
            detail="head:N",
            tooltip=["head", "step", alt.Tooltip("keep:Q", format=".2f"), "end"],
        )
        .properties(width=128, height=90)
        .facet(facet=alt.Facet(f"{column}:N", title=None, sort=panels), columns=2)
        .properties(
            description="The weight of every head over the steps of learning, from 1, left alone, to 0, patched. "
            + "Selected in the end: "
            + "; ".join(f"{name} {count} of {table['head'].nunique()}" for name, count in chosen.items())
            + "."
        )
    )


def sparsity(table: pd.DataFrame, source: float) -> alt.LayerChart:
    """Accuracy on test pairs against the number of patched heads. Rows of `mask_tables.along`; `source`: a line."""
    kinds = {"mask": (BLUE, "circle"), "random": (NEUTRAL, "triangle-up"), "whole group": (VERMILLION, "square")}
    kinds["no patch"] = (PURPLE, "diamond")
    domain, colours, shapes = list(kinds), [c for c, _ in kinds.values()], [s for _, s in kinds.values()]
    legend = alt.Legend(orient="bottom", columns=2, title=None)
    colour = alt.Color("kind:N", scale=alt.Scale(domain=domain, range=colours), legend=legend)
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=domain, range=shapes), legend=legend)
    base = alt.Chart(table).encode(
        x=alt.X("heads:Q", title="heads patched", axis=alt.Axis(tickMinStep=1, format="d")),
        tooltip=["kind", "heads", "penalty", "seed", *_TIPS, "n"],
        color=colour,
    )
    y = alt.Y("value:Q", title="answers that are the target", axis=alt.Axis(format=".0%"), scale=alt.Scale(zero=True))
    rules = base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
    points = base.mark_point(filled=True, size=60, opacity=0.9).encode(y=y, shape=shape)
    line = alt.Chart(pd.DataFrame({"level": [source]})).mark_rule(strokeDash=[4, 4], color=NEUTRAL)
    words = "; ".join(
        f"{kind} " + ", ".join(f"{row.value:.2f} with {row.heads}" for row in part.itertuples())
        for kind, part in table.groupby("kind", sort=False)
    )
    return alt.LayerChart(layer=[line.encode(y="level:Q"), rules, points]).properties(
        width=290,
        height=240,
        description=f"Accuracy for the target against the number of heads patched, with 95% intervals: {words}. "
        f"Dashed: the source prompts' own accuracy, {source:.2f}.",
    )


def beside_paper(table: pd.DataFrame, published: pd.DataFrame, floor: float) -> alt.FacetChart:
    """Masks of our models beside the paper's: target accuracy by group, a panel a desideratum. Rows of `table`.

    A point is the accuracy of the selected heads (of the whole group where no mask was learned), a tick the floor: our
    measured one, and for the paper's position the `floor` of its pairs. The paper's void numbers are crosses.
    """
    rows = []
    for row in table.to_dict("records"):
        name = "masked" if row["masked"] == row["masked"] else "whole"
        ends = {"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"], "floor": row["floor"]}
        rows.append({"model": row["model"], "group": row["group"], "desideratum": row["desideratum"]} | ends)
    ours = list(dict.fromkeys(row["model"] for row in rows))
    theirs = [TITLES[name] for name in TITLES if name in set(published["model"])]
    for one in published[published["desideratum"].isin(HYPOTHESES)].to_dict("records"):
        ends = dict.fromkeys(("value", "low", "high"), one["accuracy"])
        ends |= {"floor": floor if one["desideratum"] == "position" else None}
        model = "void (paper)" if one["void"] else TITLES[one["model"]]
        rows.append({"model": model, "group": one["group"], "desideratum": one["desideratum"]} | ends)
    frame = pd.DataFrame(rows).drop_duplicates()
    frame["letter"] = frame["group"].map(LETTERS)
    domain = [*ours, *theirs, "void (paper)"]
    colours = [*(BLUE, VERMILLION, GREEN)[: len(ours)], *[NEUTRAL] * len(theirs), NEUTRAL]
    shapes = [*("circle", "square", "diamond")[: len(ours)], *("triangle-up", "triangle-down", "triangle-right")]
    shapes = [*shapes[: len(ours) + len(theirs)], "cross"]
    legend = alt.Legend(orient="bottom", columns=3, title=None)
    colour = alt.Color("model:N", scale=alt.Scale(domain=domain, range=colours), legend=legend)
    shape = alt.Shape("model:N", scale=alt.Scale(domain=domain, range=shapes), legend=legend)
    offset = alt.YOffset("model:N", sort=domain)
    base = alt.Chart().encode(
        y=alt.Y("letter:N", title=None, sort=list(LETTERS.values())),
        yOffset=offset,
        tooltip=["model", "letter", "desideratum", *_TIPS, alt.Tooltip("floor:Q", format=".2f")],
    )
    axis = alt.Axis(values=[0, 0.25, 0.5], format=".0%")
    x = alt.X("value:Q", title=None, scale=alt.Scale(domain=[0, max(0.6, float(frame["high"].max()))]), axis=axis)
    ticks = base.mark_tick(thickness=2, size=9, color=INK).encode(x="floor:Q")
    rules = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", color=colour)
    points = base.mark_point(filled=True, size=40, opacity=1).encode(x=x, color=colour, shape=shape)
    means, own = [], frame[frame["model"].isin(ours)]
    for (desideratum, letter), part in own.groupby(["desideratum", "letter"], sort=False):
        values = ", ".join(f"{row.model} {row.value:.2f} (floor {row.floor:.2f})" for row in part.itertuples())
        beside = frame[
            (frame["desideratum"] == desideratum) & (frame["letter"] == letter) & frame["model"].isin(theirs)
        ]
        said = ", ".join(f"{row.model} {row.value:.2f}" for row in beside.itertuples()) or "void"
        means.append(f"{letter} {desideratum}: {values}; paper {said}")
    panel = alt.LayerChart(layer=[ticks, rules, points], data=frame).properties(width=82, height=230)
    return panel.facet(column=alt.Column("desideratum:N", title=None, sort=list(HYPOTHESES))).properties(
        description="Answers that are the target when selected heads are patched, ours beside the paper's. "
        + ". ".join(means)
        + "."
    )


def crossed(table: pd.DataFrame) -> alt.FacetChart:
    """Heads selected in one model and patched in others, a panel a selection.

    Columns `selection`, `model`, `value`, `low`, `high`, `n`, and `floor`: the same answers with no patch.
    """
    models = list(table["model"].unique())
    colours = [BLUE, VERMILLION, GREEN, PURPLE][: len(models)]
    legend = alt.Legend(orient="bottom", title=None)
    colour = alt.Color("model:N", scale=alt.Scale(domain=models, range=colours), legend=legend)
    base = alt.Chart().encode(
        y=alt.Y("model:N", title=None, sort=models, axis=alt.Axis(labels=False, ticks=False)),
        tooltip=["selection", "model", *_TIPS, alt.Tooltip("floor:Q", format=".2f"), "n"],
    )
    x = alt.X("value:Q", title="answers that are the target", axis=alt.Axis(format=".0%"))
    ticks = base.mark_tick(thickness=2, size=12, color=INK).encode(x="floor:Q")
    rules = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", color=colour)
    points = base.mark_point(filled=True, size=55, opacity=1).encode(x=x, color=colour)
    words = "; ".join(
        f"{name}: " + ", ".join(f"{row.model} {row.value:.2f} (floor {row.floor:.2f})" for row in part.itertuples())
        for name, part in table.groupby("selection", sort=False)
    )
    panel = alt.LayerChart(layer=[ticks, rules, points], data=table).properties(width=270, height=16 * len(models))
    order = list(table["selection"].unique())
    return panel.facet(row=alt.Row("selection:N", title=None, sort=order, header=_header())).properties(
        description=f"Heads selected in one model, patched in each model, with 95% intervals. {words}."
    )

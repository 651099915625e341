"""The figures about what heads carry: a tidy table in, an Altair chart with its description in words out."""

from typing import Any

import altair as alt
import pandas as pd
from entity_circuits.heads import LETTERS
from entity_circuits.tasks import boxes
from entity_circuits.tasks.desiderata import HYPOTHESES, Hypothesis, Triples

from .charts import BLUE, GREEN, INFORMATION, INK, NEUTRAL, PURPLE, VERMILLION, coloured, marked, palette
from .parts import PERCENT, QUIET, by_name, drawn, estimates, heading, level, numbers, plane, stacked, unique

ELSEWHERE = "another place"
COLOURS = {"base": NEUTRAL, **INFORMATION, ELSEWHERE: "#D9BE6B", "other": "#CFCFCF"}
"""The colour of each kind of answer; `ELSEWHERE` are the fifth candidates of additional desiderata."""

TITLES = {"llama": "Llama-7B", "goat": "Goat-7B", "float": "FLoat-7B"}
_SHARE = alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1])


def hypotheses(triples: Triples, row: int = 0) -> alt.VConcatChart:
    """One pair of prompts drawn three times: what each hypothesis says is taken along, and which word it predicts."""
    return alt.vconcat(*(_hypothesis(triples, row, name) for name in HYPOTHESES), spacing=18).properties(
        description="Three drawings of one pair of prompts. "
        + " ".join(f"If the heads carry the {name}, the answer is {_word(triples, row, name)}." for name in HYPOTHESES)
        + f" The base's own answer is {_word(triples, row, 'base')}."
    )


def predicted(triples: Triples, row: int = 0) -> dict[str, str]:
    """The words of a pair for a page to quote: `says_base`, the base's own answer, and `says_position` and so on.

    >>> notebooks.quote(**semantics.predicted(study.triples["test"], row=3))
    """
    return {f"says_{name}": _word(triples, row, name) for name in ("base", *HYPOTHESES)}


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
    ends = [-0.55, 1.55], [len(ids) - 0.5, -1.5]
    axes = plane(*ends)
    words = alt.Chart(table).mark_text(color=INK, fontSize=12)
    opacity = alt.condition("datum.y < 0", alt.value(0.7), alt.value(1))
    words = words.encode(**axes, text="text", tooltip=["text", "what"], opacity=opacity)
    colour = COLOURS[name]
    framed = table[table["what"] != ""].assign(
        left=lambda t: t["x"] - 0.42,
        right=lambda t: t["x"] + 0.42,
        top=lambda t: t["y"] - 0.45,
        bottom=lambda t: t["top"] + 0.9,
    )
    box = alt.Chart(framed).encode(**plane(*ends, ("left", "top")), x2="right:Q", y2="bottom:Q", **QUIET)
    asked_for, predicted = (box.transform_filter(f"datum.what == '{what}'") for what in ("asked", "predicted"))
    frame: dict[str, Any] = {"filled": False, "cornerRadius": 4}
    dashed = asked_for.mark_rect(**frame, stroke=NEUTRAL, strokeWidth=1.5, strokeDash=[4, 3])
    full = predicted.mark_rect(**frame, stroke=colour, strokeWidth=3)
    layers = [dashed, full, words]
    if end[1] >= 0:
        line = pd.DataFrame([{"x": 0.58, "y": float(wanted), "x2": 0.42, "y2": float(end[1])}])
        arrow = alt.Chart(line).mark_rule(strokeWidth=3, color=colour)
        layers.append(arrow.encode(**axes, x2="x2:Q", y2="y2:Q", **QUIET))
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
    kinds = [kind for kind in COLOURS if kind != ELSEWHERE]
    words = []
    for model, part in bars.groupby("model", sort=False):
        for bar in order:
            share = part[part["bar"] == bar].set_index("answer")["share"]
            if len(share):
                told = share.reindex(kinds, fill_value=0).items()
                words.append(f"{model}, {bar}: " + ", ".join(f"{kind} {value:.2f}" for kind, value in told))
    row = alt.Row("model:N", title=None, sort=unique(bars["model"]), header=heading(labelFontWeight="bold"))
    chart = _answers(bars, "bar", order, kinds, 230).facet(row=row)
    return chart.properties(
        description=f"Answers when a group's outputs come from the source prompt. {'; '.join(words)}."
    )


def _answers(bars: pd.DataFrame, row: str, order: list[str], kinds: list[str], width: int) -> alt.Chart:
    """A bar a row, divided by kinds of answers."""
    table = bars.assign(order=bars["answer"].map({kind: index for index, kind in enumerate(kinds)}))
    x = alt.X("share:Q", title="share of the answers", axis=_SHARE, scale=alt.Scale(domain=[0, 1]))
    colours = {kind: COLOURS[kind] for kind in kinds}
    colour = coloured("answer:N", colours, orient="bottom", columns=3 if width > 200 else 2)
    tips = [f"{row}:N", "answer", *numbers("share"), "n"]
    return stacked(table, x, row, order, colour, tips).properties(width=width)


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
    return _answers(share, "desideratum", order, kinds, 140).properties(
        description=f"Answers by how the source is written, n = {share['n'].min()} each or more. {words}."
    )


def learning(table: pd.DataFrame) -> alt.FacetChart:
    """Masks while they are learned: a line a head, from 1 (left alone) to 0 (patched). Rows of `mask_tables.traces`."""
    column = "mask" if "mask" in table else "desideratum"
    table = table.assign(end=table["selected"].map({True: "selected", False: "left alone"}))
    chosen = table[table["selected"]].groupby(column, sort=False)["head"].nunique()
    chosen = chosen.reindex(unique(table[column]), fill_value=0)
    sizes = table.groupby(column, sort=False)["head"].nunique().to_dict()
    told = "; ".join(f"{name} {count} of {sizes[name]}" for name, count in chosen.items())
    y = alt.Y("keep:Q", title="keep", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(values=[0, 0.5, 1]))
    lines = alt.Chart(table).mark_line(strokeWidth=1.5, opacity=0.8)
    lines = lines.encode(
        x=alt.X("step:Q", title="step"),
        y=y,
        color=coloured("end:N", {"selected": BLUE, "left alone": NEUTRAL}, orient="bottom"),
        detail="head:N",
        tooltip=["head", "step", *numbers("keep"), "end"],
    )
    panel = alt.Facet(f"{column}:N", title=None, sort=unique(table[column]))
    return (
        lines.properties(width=128, height=90)
        .facet(facet=panel, columns=2)
        .properties(
            description="The weight of every head over the steps of learning, from 1, left alone, to 0, patched. "
            f"Selected in the end: {told}."
        )
    )


def sparsity(table: pd.DataFrame, source: float) -> alt.LayerChart:
    """Accuracy on test pairs against the number of patched heads. Rows of `mask_tables.along`; `source`: a line."""
    kinds = {"mask": (BLUE, "circle"), "random": (NEUTRAL, "triangle-up"), "whole group": (VERMILLION, "square")}
    kinds["no patch"] = (PURPLE, "diamond")
    colour, shape = marked("kind:N", kinds, orient="bottom", columns=2)
    base = alt.Chart(table).encode(
        x=alt.X("heads:Q", title="heads patched", axis=alt.Axis(tickMinStep=1, format="d")),
        tooltip=["kind", "heads", "penalty", "seed", *numbers(), "n"],
    )
    y = alt.Y("value:Q", title="answers that are the target", axis=PERCENT, scale=alt.Scale(zero=True))
    points = estimates(base, y, 60, stroke=1.5, opacity=0.9, color=colour, shape=shape)
    words = "; ".join(
        f"{kind} " + ", ".join(f"{row.value:.2f} with {row.heads}" for row in part.itertuples())
        for kind, part in table.groupby("kind", sort=False)
    )
    return drawn(
        [level("level", source, color=NEUTRAL), *points],
        290,
        240,
        f"Accuracy for the target against the number of heads patched, with 95% intervals: {words}. "
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
    styles = dict(zip(ours, ((BLUE, "circle"), (VERMILLION, "square"), (GREEN, "diamond")), strict=False))
    triangles = ("triangle-up", "triangle-down", "triangle-right")
    styles |= {name: (NEUTRAL, shape) for name, shape in zip(theirs, triangles, strict=False)}
    styles["void (paper)"] = (NEUTRAL, "cross")
    colour, shape = marked("model:N", styles, orient="bottom", columns=3)
    base = alt.Chart().encode(
        y=by_name("letter", LETTERS.values()),
        yOffset=alt.YOffset("model:N", sort=list(styles)),
        tooltip=["model", "letter", "desideratum", *numbers("value", "low", "high", "floor")],
    )
    axis = alt.Axis(values=[0, 0.25, 0.5], format=".0%")
    x = alt.X("value:Q", title=None, scale=alt.Scale(domain=[0, max(0.6, float(frame["high"].max()))]), axis=axis)
    ticks = base.mark_tick(thickness=2, size=9, color=INK).encode(x="floor:Q")
    said = []
    own, paper = (frame[frame["model"].isin(models)] for models in (ours, theirs))
    for (desideratum, letter), part in own.groupby(["desideratum", "letter"], sort=False):
        values = ", ".join(f"{row.model} {row.value:.2f} (floor {row.floor:.2f})" for row in part.itertuples())
        same = paper[(paper["desideratum"] == desideratum) & (paper["letter"] == letter)]
        beside = ", ".join(f"{row.model} {row.value:.2f}" for row in same.itertuples()) or "void"
        said.append(f"{letter} {desideratum}: {values}; paper {beside}")
    layers = [ticks, *estimates(base, x, 40, color=colour, shape=shape)]
    panel = alt.LayerChart(layer=layers, data=frame).properties(width=130, height=260)
    words = f"Answers that are the target when selected heads are patched, ours beside the paper's. {'. '.join(said)}."
    three = alt.Facet("desideratum:N", title=None, sort=list(HYPOTHESES))
    return panel.facet(facet=three, columns=3).properties(description=words)


def crossed(table: pd.DataFrame) -> alt.FacetChart:
    """Heads selected in one model and patched in others, a panel a selection.

    Columns `selection`, `model`, `value`, `low`, `high`, `n`, and `floor`: the same answers with no patch.
    """
    models = unique(table["model"])
    colour = coloured("model:N", palette(models), orient="bottom")
    base = alt.Chart().encode(
        y=by_name("model", models, axis=alt.Axis(labels=False, ticks=False)),
        tooltip=["selection", "model", *numbers("value", "low", "high", "floor"), "n"],
    )
    x = alt.X("value:Q", title="answers that are the target", axis=PERCENT)
    ticks = base.mark_tick(thickness=2, size=12, color=INK).encode(x="floor:Q")
    words = "; ".join(
        f"{name}: " + ", ".join(f"{row.model} {row.value:.2f} (floor {row.floor:.2f})" for row in part.itertuples())
        for name, part in table.groupby("selection", sort=False)
    )
    panel = alt.LayerChart(layer=[ticks, *estimates(base, x, 55, color=colour)], data=table)
    row = alt.Row("selection:N", title=None, sort=unique(table["selection"]), header=heading(labelFontWeight="bold"))
    return (
        panel.properties(width=270, height=16 * len(models))
        .facet(row=row)
        .properties(description=f"Heads selected in one model, patched in each model, with 95% intervals. {words}.")
    )

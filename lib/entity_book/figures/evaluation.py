"""The figures of mean ablation: a tidy table in, an Altair chart with its description in words out."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd
from entity_circuits import statistics
from entity_circuits.heads import GROUPS, LETTERS, Circuit
from entity_circuits.methods.knockout import READS

from .charts import BLUE, GREEN, GROUP_COLOURS, INK, NEUTRAL, VERMILLION, coloured, marked, palette
from .discovery import COLOURS, NAMES
from .parts import PERCENT, QUIET, bands, bars, by_name, diagonal, drawn, estimates, level, numbers, spoken, unique

WIDTH, HEIGHT = 290, 225
LINE = 0.07  # of the accuracy axis: the height of a line of letters below the knockout curves
KINDS = {
    "ranking": (BLUE, "circle"),
    "ranking, two more places": (GREEN, "diamond"),
    "same layers": (VERMILLION, "square"),
    "random": (NEUTRAL, "triangle-up"),
}
"""Circuits off the top of the rankings, without and with further places, and their two baselines: colour and shape."""


_GREY: dict[str, Any] = {"title": None, "symbolFillColor": NEUTRAL, "symbolStrokeColor": NEUTRAL}


def places(table: pd.DataFrame) -> alt.LayerChart:
    """What keeping all heads at one more place adds, a bar a place: the first round of `evaluation.scan_positions`."""
    start = table[table["round"] == 0].iloc[0]
    first = table[table["round"] == 1].sort_values("gain", ascending=False)
    ends = ("gain_low", "gain_high")
    tips = ["place", *numbers("gain", *ends, form="+.2f"), "n"]
    base = alt.Chart(first).encode(y=by_name("place", first["place"]), tooltip=tips)
    x = alt.X("gain:Q", title="accuracy gained", axis=alt.Axis(format="+.0%"))
    best = first.iloc[0]
    words = (
        f"Accuracy gained over {start.accuracy:.2f} when all heads are kept at one more place, with 95% "
        f"intervals. Most: {best.place}, {spoken(best.gain, best.gain_low, best.gain_high, '+.2f')}."
    )
    return drawn(bars(base, x, ends, {"color": BLUE}), WIDTH - 60, 18 * len(first), words)


def growth(table: pd.DataFrame, lines: Mapping[str, float]) -> alt.LayerChart:
    """Accuracy against the number of heads, a line a kind of circuit, and horizontal lines (full model, ceiling).

    Rows of `criteria.growth`.
    """
    here = set(table["kind"])
    styles = {kind: style for kind, style in KINDS.items() if kind in here}
    colour, shape = marked("kind:N", styles, orient="top", columns=2)
    base = alt.Chart(table).encode(
        x=alt.X("heads:Q", title="heads kept (all groups)"),
        tooltip=["kind", "heads", *numbers("accuracy", "low", "high"), "n"],
    )
    y = alt.Y("accuracy:Q", title="accuracy (top-1)", axis=PERCENT)
    curve = base.mark_line(strokeWidth=1.5).encode(y=y, color=colour)
    points = estimates(base, y, 50, stroke=1.5, color=colour, shape=shape)
    levels = pd.DataFrame({"name": list(lines), "level": list(lines.values())})
    rules = alt.Chart(levels).mark_rule(strokeDash=[4, 4]).encode(y="level:Q")
    names = alt.Chart(levels).mark_text(align="left", dx=3, color=INK)  # beside the view, however wide it is
    names = names.encode(x=alt.value("width"), y="level:Q", text="name")
    top = table[table["kind"] == "ranking"].sort_values("heads").iloc[[0, -1]]
    said = "; ".join(f"{row.accuracy:.2f} with {row.heads} heads" for row in top.itertuples())
    levels_said = ", ".join(f"{name} {value:.2f}" for name, value in lines.items())
    words = f"Accuracy against the number of heads kept. From the rankings: {said}. Lines: {levels_said}."
    return drawn([rules, names, curve, *points], WIDTH, HEIGHT, words)


def widened(grown: pd.DataFrame, wide: pd.DataFrame) -> pd.DataFrame:
    """The rows of `criteria.growth` for `growth`, and below them those with heads kept at further places.

    `wide` has the same scales; its heads at the further places are not counted, so that both stand at the same number.
    """
    own = grown[grown["kind"] == "ranking"].set_index("scale")["heads"]
    more = wide.assign(kind="ranking, two more places", heads=wide["scale"].map(own))
    return pd.concat([grown, more], ignore_index=True)


def control_words(names: Sequence[str], table: pd.DataFrame) -> dict[str, str]:
    """What the larger circuit answers in the first of these models, for a page to quote; "(no control)" without one.

    `control_circuit`, `control_full`, the whole model, and `control_random`, random heads of the same layers; from a
    table of `evaluation.table` that has these among its `baselines`.
    """
    circuit, keys = "eight times larger", ("control_circuit", "control_full", "control_random")
    if not names:
        return dict.fromkeys(keys, "(no control)")
    asked = table[table["model"] == names[0]].set_index("circuit").to_dict("index")
    rows = [asked[circuit], asked[f"{circuit}: same layers"]]
    said = [statistics.spoken(row["accuracy"], row["low"], row["high"]) for row in rows]
    return dict(zip(keys, (said[0], f"{rows[0]['full']:.2f}", said[1]), strict=True))


def faithfulness(table: pd.DataFrame) -> alt.LayerChart:
    """The share of its own model's accuracy that circuits of each size have, a line a model, random circuits below.

    Rows of `evaluation.table` of circuits that grow, with a column `kind`: those of the kind "circuit" are joined by a
    line, the other kinds are marks beside it. Rows without a ratio (a model at chance) are left out.
    """
    rows = table.dropna(subset=["ratio"])
    named = rows if len(rows) else table
    colour = coloured("model:N", palette(unique(named["model"])), orient="top", columns=2)
    wide = {"two further places": "square", "own, two further places": "triangle-up"}
    styles = {"circuit": "circle", "own circuit": "diamond", **wide, "same layers": "cross"}
    styles = {kind: shape for kind, shape in styles.items() if kind in set(named["kind"])}
    shapes = alt.Scale(domain=list(styles), range=list(styles.values()))
    axis = alt.Axis(values=[10, 20, 50, 100, 200, 500, 1000, 2000])
    x = alt.X("at:Q", title="heads kept", axis=axis, scale=alt.Scale(type="log", nice=False, padding=15))
    y = alt.Y("ratio:Q", title="share of the model's own accuracy", axis=PERCENT)
    rows = rows.assign(
        at=rows["heads"] * rows["kind"].map({"own circuit": 0.9, "own, two further places": 0.9}).fillna(1.0)
    )
    tips = ["model", "circuit", "heads", *numbers("ratio", "ratio_low", "ratio_high", "accuracy", "full"), "n"]
    base = alt.Chart(rows).encode(x=x, tooltip=tips)
    line = base.transform_filter("datum.kind == 'circuit'").mark_line(strokeWidth=1.5).encode(y=y, color=colour)
    legend = alt.Legend(**_GREY, orient="bottom", columns=3)
    shape = alt.Shape("kind:N", scale=shapes, legend=legend)
    ends = ("ratio_low", "ratio_high")
    layers = [level("the whole model", 1.0), line, *estimates(base, y, 50, ends=ends, color=colour, shape=shape)]
    told = "; ".join(
        f"{model}: " + ", ".join(f"{row['ratio']:.0%} with {row['heads']} heads" for row in part.to_dict("records"))
        for model, part in rows[rows["kind"] == "circuit"].groupby("model", sort=False)
    )
    told = told or "no model here answers well enough for a share"
    return drawn(layers, WIDTH, HEIGHT, f"Share of each model's own accuracy by the number of heads kept. {told}.")


def completeness(table: pd.DataFrame) -> alt.LayerChart:
    """The circuit without K against the model without K, a point a set. Rows of `criteria.Completeness.table`.

    A group has its letter, a random set its number. Points on the diagonal: what the circuit loses, the model loses.
    """
    table = table.assign(kind=["random set" if name.startswith("random") else "group" for name in table["removed"]])
    table = table.assign(label=table["removed"].replace(LETTERS).str.removeprefix("random "))
    top = float(max(table["circuit"].max(), table["full"].max(), 0.1))
    scale = alt.Scale(domain=[-0.05 * top, 1.05 * top], nice=False)  # nothing stands on an axis
    line = diagonal("a", "b", [0.0, top]).encode(x=alt.X("a:Q", scale=scale), y=alt.Y("b:Q", scale=scale))
    base = alt.Chart(table).encode(
        x=alt.X("circuit:Q", title="accuracy of the circuit without K", axis=PERCENT, scale=scale),
        y=alt.Y("full:Q", title="accuracy of the model without K", axis=PERCENT, scale=scale),
        tooltip=["removed", "heads", *numbers("circuit", "full", "incompleteness", "low", "high"), "n"],
    )
    labels = unique(table["label"])
    own = alt.Scale(domain=labels, range=[GROUP_COLOURS.get(label, NEUTRAL) for label in labels])
    kinds = alt.Scale(domain=["group", "random set"], range=["square", "circle"])
    shape = alt.Shape("kind:N", scale=kinds, legend=alt.Legend(**_GREY, orient="top"))
    points = base.mark_point(filled=True, size=55, opacity=0.9)
    points = points.encode(color=alt.Color("label:N", scale=own, legend=None), shape=shape)
    groups, random = (base.transform_filter(f"datum.kind {sign} 'group'") for sign in ("==", "!="))
    names = groups.mark_text(dx=9, align="left", color=INK).encode(text="label")
    turns = random.mark_text(dy=-10, color=INK).encode(text="label")
    gap = table[table["kind"] == "random set"]["incompleteness"].abs()
    words = (
        "Accuracy of the model against that of the circuit, each without a set of heads K. "
        f"Mean distance over {len(gap)} random sets: {gap.mean():.2f}."
    )
    return drawn([line, points, names, turns], WIDTH - 40, WIDTH - 40, words)


def minimality(table: pd.DataFrame) -> alt.LayerChart:
    """What each head costs once its stand-ins are gone, a bar a head. Rows of `criteria.Minimality.table`."""
    table = table.assign(letter=table["part"].map(LETTERS).fillna(table["part"]))
    table = table.assign(name=table["letter"] + " " + table["head"])
    table = table.sort_values(["letter", "loss"], ascending=[True, False])
    letters = list(dict.fromkeys(table["letter"]))
    colours = alt.Scale(domain=letters, range=[GROUP_COLOURS.get(letter, NEUTRAL) for letter in letters])
    tips = ["head", "stand_ins", "before", "after", *numbers("loss", "low", "high", form="+.3f"), "n"]
    base = alt.Chart(table).encode(y=by_name("name", table["name"]), tooltip=tips)
    x = alt.X("loss:Q", title="accuracy lost with the head", axis=alt.Axis(format="+.0%"))
    (best,) = table.nlargest(1, "loss").to_dict("records")
    layers = bars(base, x, ("low", "high"), color=alt.Color("letter:N", title="group", scale=colours))
    words = (
        "Accuracy lost when each head is taken away after its stand-ins, with 95% intervals. "
        f"Most: {best['name']}, {best['loss']:+.2f}; {int((table['loss'] <= 0).sum())} of {len(table)} cost nothing."
    )
    return drawn(layers, WIDTH - 60, 18 * len(table), words)


def knockout_curves(frame: pd.DataFrame, circuit: Circuit | None = None) -> alt.LayerChart:
    """Accuracy over the layer from which on a path is cut, a line a condition, with its interval as a band.

    `frame` is `Curves.table()`. A path has the colour of the group that should attend along it; the random controls are
    grey. With a circuit, the letter of each group stands below, at the layers where it has heads.
    """
    names = {name: name.replace("->", " \u2192 ") for name in dict.fromkeys(frame["condition"])}
    table = frame.assign(path=frame["condition"].map(names))
    first, end = (int(place) for place in (frame["start"].min(), frame["start"].max()))
    held = {group: circuit.groups[group] for group in GROUPS if circuit.groups.get(group)} if circuit else {}
    look = {"orient": "bottom", "columns": 2, "symbolStrokeWidth": 3, "symbolOpacity": 1}
    paths = {path: GROUP_COLOURS[LETTERS[READS[name]]] if name in READS else NEUTRAL for name, path in names.items()}
    dashes = [[1, 0] if name.startswith("last") else [5, 3] for name in names]
    colour, domain = coloured("path:N", paths, **look), list(paths)
    dash = alt.StrokeDash("path:N", scale=alt.Scale(domain=domain, range=dashes), legend=colour["legend"])
    span: dict[str, Any] = {"scale": alt.Scale(domain=[-0.5, end + 0.5]), "axis": alt.Axis(format="d", tickMinStep=1)}
    height = alt.Scale(domain=[-LINE * len(held) - LINE / 2, 1], nice=False)
    base = alt.Chart(table).encode(
        x=alt.X("start:Q", title="cut in this layer and all above it", **span),
        y=alt.Y("value:Q", title="accuracy", scale=height, axis=alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1])),
        color=colour,  # one legend: Vega warns of two
        tooltip=["path:N", "start:Q", *numbers(), "n:Q"],
    )
    lines, band, points = bands(base)
    layers = [lines.encode(strokeDash=dash), band, points]
    for line, (group, members) in enumerate(held.items(), start=1):
        marks = [
            {"start": layer, "value": -LINE * line, "group": NAMES[group]}
            | {"heads": ", ".join(str(head) for head in members if head.layer == layer)}
            for layer in sorted({head.layer for head in members})
        ]
        letter = LETTERS[group]
        letters = alt.Chart(pd.DataFrame(marks))
        letters = letters.mark_text(fontWeight="bold", color=GROUP_COLOURS[letter], text=letter)
        layers.append(letters.encode(x="start:Q", y="value:Q", tooltip=["group:N", "heads:N"]))
    ends = [table[table["start"] == place].set_index("path")["value"] for place in (first, end)]
    told = "; ".join(f"{path} {ends[0][path]:.2f} and {ends[1][path]:.2f}" for path in domain)
    spans = [(LETTERS[group], sorted(head.layer for head in members)) for group, members in held.items()]
    where = ", ".join(f"{letter} in layers {layers[0]} to {layers[-1]}" for letter, layers in spans)
    words = (
        "Attention knockout: accuracy, with 95% bands, over the layer from which on a path is cut. "
        f"Cut from layer {first} and from layer {end} on: {told}. n = {int(frame['n'].iloc[0])}."
        + (f" Heads of the circuit: {where}." if where else "")
    )
    return drawn(layers, WIDTH, HEIGHT, words)


def mirrored_impact(frame: pd.DataFrame, names: tuple[str, str] = ("one", "the other")) -> alt.LayerChart:
    """How strongly each head acts in one model, upwards, and in another, downwards: `circuits.impact`, drawn.

    Bars have the colour of the group if the head is in that group of the model's own circuit, else they are grey. A
    hollow bar is a head whose replacement raised the answer's probability. `names` are those of the two models. The
    heads that act most strongly are named.
    """
    grey, hollow = "not in the circuit", "hollow: harms"
    parts = []
    for sign, column, member, name in ((1, "score", "in_one", names[0]), (-1, "other", "in_other", names[1])):
        part = frame.assign(model=name, effect=frame[column], height=sign * frame[column].abs())
        part["what"] = part["group"].map(NAMES).where(part[member], grey)
        parts.append(part.assign(sense=(part["effect"] > 0).map({True: "raises", False: "lowers"})))
    table = pd.concat(parts, ignore_index=True).dropna(subset=["effect"])
    bound = (float(table["height"].abs().max()) if len(table) else 0.0) or 1.0
    filled = COLOURS | {grey: NEUTRAL, hollow: "transparent"}
    colour = coloured("what:N", filled, orient="bottom", columns=2)
    edges = alt.Scale(domain=list(filled), range=[*COLOURS.values(), NEUTRAL, NEUTRAL])
    y = alt.Y(
        "height:Q",
        title=f"{names[1]}  \u2190  size of effect  \u2192  {names[0]}",
        scale=alt.Scale(domain=[-bound, bound]),
        axis=alt.Axis(labelExpr="format(abs(datum.value), '.2f')"),
        stack=None,
    )
    both_ways = alt.Chart(table).mark_bar(strokeWidth=1)
    both_ways = both_ways.encode(
        x=alt.X("rank:O", title="heads, strongest first", axis=alt.Axis(labels=False, ticks=False)),
        y=y,
        color=colour,
        stroke=alt.Stroke("what:N", scale=edges, legend=colour["legend"]),
        fillOpacity=alt.condition("datum.sense == 'raises'", alt.value(0.1), alt.value(1.0)),
        tooltip=["head", "group", "model", *numbers("effect", form=".3f"), "what", "sense"],
    )
    zero = alt.Chart(pd.DataFrame({"height": [0.0]})).mark_rule(color=INK).encode(y="height:Q", **QUIET)
    beside = ["no path" if pd.isna(score) else f"{score:.2f}" for score in frame["other"][:3]]
    strongest = zip(frame["head"], frame["score"], beside, strict=False)
    best = ", ".join(f"{head} {score:.2f} ({other})" for head, score, other in strongest) or "none"
    both = int((frame["in_one"] & frame["in_other"]).sum())
    words = (
        f"Causal impact of the {len(frame)} heads that act most strongly in {names[0]}, upwards, and their "
        f"impact in {names[1]}, downwards. Strongest, with the score in {names[1]} in brackets: {best}. "
        f"{int(frame['in_one'].sum())} are in the circuit of {names[0]}, {int(frame['in_other'].sum())} in that of "
        f"{names[1]}, {both} in both."
    )
    named = ["from the left:", ", ".join(frame["head"][:3]) + ",", ", ".join(frame["head"][3:6])]
    first = alt.Chart(pd.DataFrame({"x": [0]})).mark_text(align="right", baseline="top", color=INK, text=named, y=4)
    layers = [both_ways, zero, first.encode(x=alt.value("width"), **QUIET)]
    return drawn(layers, WIDTH + 20, HEIGHT, words)

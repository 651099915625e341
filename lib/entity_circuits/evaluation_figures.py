"""The figures about how circuits are evaluated: a tidy table in, an Altair chart with its description in words out."""

import altair as alt
import pandas as pd

from .charts import INK, NEUTRAL
from .circuit_figures import COLOURS, NAMES
from .heads import GROUPS, LETTERS, Circuit
from .knockout import READS

WIDTH, HEIGHT = 290, 250
LINE = 0.07  # of the accuracy axis: the height of a line of letters below the curves


def knockout_curves(frame: pd.DataFrame, circuit: Circuit | None = None) -> alt.LayerChart:
    """Accuracy over the layer from which on a path is cut, a line a condition, with its interval as a band.

    `frame` is `Curves.table()`. A path has the colour of the group that should attend along it; the random controls are
    grey. With a circuit, the letter of each group stands below, at the layers where it has heads.
    """
    names = {name: name.replace("->", " \u2192 ") for name in dict.fromkeys(frame["condition"])}
    table = frame.assign(path=frame["condition"].map(names))
    first, end = (int(place) for place in (frame["start"].min(), frame["start"].max()))
    held = {group: circuit.groups[group] for group in GROUPS if circuit.groups.get(group)} if circuit else {}
    legend = alt.Legend(orient="bottom", columns=2, title=None, symbolStrokeWidth=3, symbolOpacity=1)
    colours = [COLOURS[READS[name]] if name in READS else NEUTRAL for name in names]
    dashes = [[1, 0] if name.startswith("last") else [5, 3] for name in names]
    domain = list(names.values())
    scale = alt.Scale(domain=domain, range=colours)
    dash = alt.StrokeDash("path:N", scale=alt.Scale(domain=domain, range=dashes), legend=legend)
    axis = alt.Axis(format="d", tickMinStep=1)
    x = alt.X(
        "start:Q", title="cut in this layer and all above it", scale=alt.Scale(domain=[-0.5, end + 0.5]), axis=axis
    )
    below = -LINE * len(held) - LINE / 2
    y = alt.Y(
        "value:Q",
        title="accuracy",
        scale=alt.Scale(domain=[below, 1], nice=False),
        axis=alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1]),
    )
    tips = [alt.Tooltip(f"{name}:Q", format=".2f") for name in ("value", "low", "high")]
    base = alt.Chart(table).encode(x=x, y=y, tooltip=["path:N", "start:Q", *tips, "n:Q"])
    base = base.encode(color=alt.Color("path:N", scale=scale, legend=legend))  # one legend: Vega warns of two
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dash)
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q"), y2="high:Q", tooltip=alt.value(None))
    layers = [lines, band, base.mark_point(filled=True, size=20, opacity=1)]
    for line, (group, members) in enumerate(held.items(), start=1):
        marks = [
            {"start": layer, "value": -LINE * line, "group": NAMES[group]}
            | {"heads": ", ".join(str(head) for head in members if head.layer == layer)}
            for layer in sorted({head.layer for head in members})
        ]
        letters = alt.Chart(pd.DataFrame(marks)).mark_text(fontWeight="bold", color=COLOURS[group], text=LETTERS[group])
        layers.append(letters.encode(x="start:Q", y="value:Q", tooltip=["group:N", "heads:N"]))
    ends = [table[table["start"] == place].set_index("path")["value"] for place in (first, end)]
    words = "; ".join(f"{path} {ends[0][path]:.2f} and {ends[1][path]:.2f}" for path in domain)
    spans = [(LETTERS[group], sorted(head.layer for head in members)) for group, members in held.items()]
    where = ", ".join(f"{letter} in layers {layers[0]} to {layers[-1]}" for letter, layers in spans)
    return alt.LayerChart(layer=layers).properties(
        width=WIDTH,
        height=HEIGHT,
        description="Attention knockout: accuracy, with 95% bands, over the layer from which on a path is cut. "
        f"Cut from layer {first} and from layer {end} on: {words}. n = {int(frame['n'].iloc[0])}."
        + (f" Heads of the circuit: {where}." if where else ""),
    )


def mirrored_impact(frame: pd.DataFrame, names: tuple[str, str] = ("one", "the other")) -> alt.LayerChart:
    """How strongly each head acts in one model, upwards, and in another, downwards: `circuits.impact`, drawn.

    Bars have the colour of the group if the head is in that group of the model's own circuit, else they are grey. A
    hollow bar is a head whose replacement raised the answer's probability. `names` are those of the two models.
    """
    grey = "not in the circuit"
    parts = []
    for sign, column, member, name in ((1, "score", "in_one", names[0]), (-1, "other", "in_other", names[1])):
        part = frame.assign(model=name, effect=frame[column], height=sign * frame[column].abs())
        part["what"] = part["group"].map(NAMES).where(part[member], grey)
        parts.append(part.assign(sense=(part["effect"] > 0).map({True: "raises", False: "lowers"})))
    table = pd.concat(parts, ignore_index=True).dropna(subset=["effect"])
    bound = (float(table["height"].abs().max()) if len(table) else 0.0) or 1.0
    domain = [*[NAMES[group] for group in GROUPS], grey]
    legend = alt.Legend(orient="bottom", columns=2, title=None)
    scale = alt.Scale(domain=domain, range=[*[COLOURS[group] for group in GROUPS], NEUTRAL])
    bars = (
        alt.Chart(table)
        .mark_bar(strokeWidth=1)
        .encode(
            x=alt.X("rank:O", title="heads, strongest first", axis=alt.Axis(labels=False, ticks=False)),
            y=alt.Y(
                "height:Q",
                title=f"{names[1]}  \u2190  size of effect  \u2192  {names[0]}",
                scale=alt.Scale(domain=[-bound, bound]),
                axis=alt.Axis(labelExpr="format(abs(datum.value), '.2f')"),
                stack=None,
            ),
            color=alt.Color("what:N", scale=scale, legend=legend),
            stroke=alt.Stroke("what:N", scale=scale, legend=legend),
            fillOpacity=alt.condition("datum.sense == 'raises'", alt.value(0.1), alt.value(1.0)),
            tooltip=["head", "group", "model", alt.Tooltip("effect:Q", format=".3f"), "what", "sense"],
        )
    )
    zero = alt.Chart(pd.DataFrame({"height": [0.0]})).mark_rule(color=INK).encode(y="height:Q", tooltip=alt.value(None))
    beside = ["no path" if pd.isna(score) else f"{score:.2f}" for score in frame["other"][:3]]
    strongest = zip(frame["head"], frame["score"], beside, strict=False)
    best = ", ".join(f"{head} {score:.2f} ({other})" for head, score, other in strongest) or "none"
    both = int((frame["in_one"] & frame["in_other"]).sum())
    return alt.LayerChart(layer=[bars, zero]).properties(
        width=WIDTH + 20,
        height=HEIGHT,
        description=f"Causal impact of the {len(frame)} heads that act most strongly in {names[0]}, upwards, and their "
        f"impact in {names[1]}, downwards. Strongest, with the score in {names[1]} in brackets: {best}. "
        f"{int(frame['in_one'].sum())} are in the circuit of {names[0]}, {int(frame['in_other'].sum())} in that of "
        f"{names[1]}, {both} in both.",
    )

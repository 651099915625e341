"""The figures of the circuits of nodes: the curve of sizes, what carries over, and the heads that harm."""

import altair as alt
import pandas as pd

from .charts import BLUE, GREEN, INFORMATION, NEUTRAL, PURPLE, VERMILLION, marked
from .parts import by_name, drawn, estimates, level, numbers, panels, spoken

WIDTH, HEIGHT = 300, 240
ABLATIONS = {"mean": (BLUE, "circle"), "resample": (VERMILLION, "square"), "zero": (NEUTRAL, "triangle-up")}
MODELS = {
    "whole fine-tuned": (BLUE, "circle"),
    "whole base": (NEUTRAL, "square"),
    "base's circuit": (VERMILLION, "diamond"),
    "own circuit": (GREEN, "triangle-up"),
    "random nodes": (PURPLE, "triangle-down"),
}


def curve(table: pd.DataFrame, size: int | None = None) -> alt.LayerChart:
    """How much of the whole model's logit difference the circuit of each size has, a line an ablation.

    Rows of `node_tables.curves`; `size` is that of the circuit, a dashed line.
    """
    rows = table[(table["score"] == "logit difference") & table["nodes"].notna()]
    rows = rows.assign(nodes=rows["nodes"].astype(int))
    styles = {kind: style for kind, style in ABLATIONS.items() if kind in set(rows["ablation"])}
    colour, shape = marked("ablation:N", styles, orient="top")
    scale = alt.Scale(type="log", domain=[int(rows["nodes"].min()), int(rows["nodes"].max())])
    x = alt.X("nodes:Q", title="nodes kept (of all heads at six places)", scale=scale)
    base = alt.Chart(rows).encode(x=x, tooltip=["ablation", "nodes", *numbers("f", "low", "high"), "n"])
    y = alt.Y("f:Q", title="f: share of the whole model's logit difference", axis=alt.Axis(format=".0%"))
    line = base.mark_line(strokeWidth=1.5).encode(y=y, color=colour)
    layers = [level("the whole model", 1.0), line, *estimates(base, y, 40, stroke=1.5, color=colour, shape=shape)]
    if size is not None:
        mark = alt.Chart(pd.DataFrame({"the circuit": [size]})).mark_rule(strokeDash=[2, 3])
        layers.insert(
            0, mark.encode(x=alt.X("the circuit:Q", scale=scale, title="nodes kept (of all heads at six places)"))
        )
    said = []
    for kind in styles:
        areas = table[(table["ablation"] == kind) & (table["score"] == "logit difference")]
        if len(areas):
            ends = {str(row["k"]): (row["f"], row["low"], row["high"]) for row in areas.to_dict("records")}
            said.append(f"{kind}: CPR {spoken(*ends['CPR'])}, CMD {spoken(*ends['CMD'])}")
    words = "Share of the whole model's logit difference against the number of nodes kept. " + "; ".join(said) + "."
    return drawn(layers, WIDTH, HEIGHT, words)


def carried(table: pd.DataFrame) -> alt.LayerChart:
    """The base model's circuit in each fine-tuned model, beside the whole models. Rows of `node_tables.carried`."""
    names = {"whole": "whole fine-tuned", "base": "whole base", "circuit": "base's circuit", "own": "own circuit"}
    names |= {"random": "random nodes"}
    rows = pd.concat(
        [
            pd.DataFrame(
                {
                    "model": table["model"],
                    "what": what,
                    "value": table[column],
                    "low": table[f"{column}_low"],
                    "high": table[f"{column}_high"],
                    "n": table["n"],
                }
            )
            for column, what in names.items()
        ]
    ).dropna(subset=["value"])
    colour, shape = marked(
        "what:N", {k: v for k, v in MODELS.items() if k in set(rows["what"])}, orient="top", columns=2
    )
    base = alt.Chart(rows).encode(
        y=by_name("model", rows["model"]),
        yOffset=alt.YOffset("what:N", sort=list(MODELS)),
        tooltip=["model", "what", *numbers(), "n"],
    )
    x = alt.X("value:Q", title="object choice", axis=alt.Axis(format=".0%"))
    layers = [level("chance", 1 / 7, "x"), *estimates(base, x, 45, stroke=1.5, color=colour, shape=shape)]
    said = "; ".join(
        f"{row['model']}: circuit {spoken(row['circuit'], row['circuit_low'], row['circuit_high'])}, "
        f"whole base {row['base']:.2f}, whole fine-tuned {row['whole']:.2f}"
        for row in table.to_dict("records")
    )
    return drawn(layers, WIDTH - 20, 80 * len(table), f"Object choice in each fine-tuned model. {said}.")


def harmful(table: pd.DataFrame) -> alt.LayerChart:
    """What ablating each head does to log p(right object), a mark a model. Rows of `node_tables.harmful`."""
    names = list(dict.fromkeys(table["model"]))
    shapes = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")
    colours = (NEUTRAL, BLUE, VERMILLION, GREEN, PURPLE, INFORMATION["position"])
    styles = {name: (colour, shape) for name, colour, shape in zip(names, colours, shapes, strict=False)}
    colour, shape = marked("model:N", styles, orient="top", columns=3)
    base = alt.Chart(table).encode(
        y=by_name("head", table["head"]),
        yOffset=alt.YOffset("model:N", sort=names),
        tooltip=["head", "model", *numbers("effect", "effect_low", "effect_high", form="+.3f"), "n"],
    )
    x = alt.X("effect:Q", title="change of log p(right object) without the head")
    ends = ("effect_low", "effect_high")
    layers = [level("no effect", 0.0, "x"), *estimates(base, x, 35, ends=ends, stroke=1.5, color=colour, shape=shape)]
    first = table[table["model"] == names[0]]
    told = ", ".join(
        f"{row['head']} {spoken(row['effect'], row['effect_low'], row['effect_high'], '+.2f')}"
        for row in first.to_dict("records")
    )
    height = max(120, (10 + 8 * len(names)) * first["head"].nunique())
    return drawn(layers, WIDTH - 20, height, f"Effect of ablating single heads at the last token; {names[0]}: {told}.")


def agreement(table: pd.DataFrame) -> alt.FacetChart:
    """How far nodes and edges of fine-tuned models agree with the base's, beyond noise; rows of `wiring.agreements`."""
    kinds = {"nodes": (NEUTRAL, "circle"), "edges": (VERMILLION, "diamond")}
    parts = []
    for kind in kinds:
        ends = {"value": table[kind], "low": table[f"{kind}_low"], "high": table[f"{kind}_high"]}
        parts.append(table[["model", "round", "contexts"]].assign(what=kind, pairs=table[f"n_{kind}"], **ends))
    rows = pd.concat(parts, ignore_index=True)
    colour, shape = marked("what:N", kinds, orient="top")
    base = alt.Chart().encode(  # each panel brings its rows
        y=by_name("round", rows["round"]),
        yOffset=alt.YOffset("what:N", sort=list(kinds)),
        tooltip=["model", "round", "what", *numbers(), "pairs", "contexts"],
    )
    x = alt.X("value:Q", title="agreement with the base", scale=alt.Scale(zero=False, clamp=True))
    layers = [level("noise alone", 1.0, "x"), *estimates(base, x, 40, stroke=1.5, color=colour, shape=shape)]
    means = table[table["round"] == "mean"].to_dict("records")
    said = "; ".join(
        f"{row['model']}: nodes {spoken(row['nodes'], row['nodes_low'], row['nodes_high'])}, "
        f"edges {spoken(row['edges'], row['edges_low'], row['edges_high'])}"
        for row in means
    )
    chart = panels(layers, rows, "model", WIDTH - 90, 150)
    return chart.properties(description=f"Agreement of nodes and edges with those of the base model. {said}.")

"""The figures about circuits: a tidy table in, an Altair chart with its description in words out."""

from itertools import pairwise

import altair as alt
import pandas as pd
from entity_circuits.agreement import spearman
from entity_circuits.heads import GROUPS, LETTERS, Circuit, Group

from ..studies.looking import ROLES
from .charts import BLUE, GREEN, GROUP_COLOURS, INK, NEUTRAL, PURPLE, VERMILLION, coloured, marked
from .parts import PERCENT, QUIET, by_name, diagonal, drawn, numbers, plane, stacked, streams, unique

NAMES: dict[Group, str] = {group: f"{LETTERS[group]} {group.replace('_', ' ')}" for group in GROUPS}
COLOURS = {name: GROUP_COLOURS[LETTERS[group]] for group, name in NAMES.items()}
"""The colour of each group, by its name."""

_PLACES = ("object", "prev", "query", "last")


def path_drawing() -> alt.LayerChart:
    """What path patching does, drawn: the sender's change goes up one residual stream, past heads that are held."""
    hold, again = "keeps its output of the base run", "computed anew"
    heads = [(1, 0.6, "held", hold), (1, 2.2, "held", hold), (2, 2.2, "held", hold), (3, 1.4, "held", hold)]
    heads += [(3, 3.0, "held", hold), (2, 0.6, "sender", "its output comes from the source run")]
    heads += [(2, 3.8, "receiver", "its q or v is read here, and put into pass 2")]
    nodes = pd.DataFrame(
        [{"x": x + 0.3, "y": y, "what": what, "note": note, "stream": x} for x, y, what, note in heads]
        + [{"x": 2, "y": y, "what": "MLP on the path", "note": again, "stream": 2} for y in (1.4, 3.0)]
    )
    places = [{"x": x, "y": y, "place": place, "line": x} for x, place in enumerate(_PLACES) for y in (0.0, 4.4)]
    axes = plane([-0.4, 3.6], [-0.5, 4.5])
    arms = alt.Chart(nodes).mark_rule(strokeWidth=1.5, color=NEUTRAL).encode(**axes, x2="stream:Q", **QUIET)
    path = pd.DataFrame({"x": [2.3, 2, 2, 2.3], "y": [0.6, 0.6, 3.8, 3.8], "order": range(4)})
    changed = alt.Chart(path).mark_line(strokeWidth=6, color=VERMILLION, opacity=0.8)
    kinds = {"sender": (VERMILLION, "circle"), "held": (NEUTRAL, "square"), "receiver": (BLUE, "diamond")}
    kinds["MLP on the path"] = (GREEN, "triangle-up")
    colour, shape = marked("what:N", kinds, orient="top", columns=2)
    point = alt.Chart(nodes).mark_point(filled=True, size=200, opacity=1)
    point = point.encode(**axes, color=colour, shape=shape, tooltip=["what", "note"])
    upward = streams(pd.DataFrame(places), axes, dy=16, fontWeight="bold")
    words = (
        "Drawing of pass 1 of path patching: four residual streams, one for each position, going up. At "
        "query, a sender head's output is replaced; the change goes up this stream alone, through the MLPs, past heads "
        "that are held at their recorded outputs, to a receiver head in a higher layer at the same position."
    )
    return drawn([*upward, arms, changed.encode(**axes, order="order:Q", **QUIET), point], 300, 250, words)


def attention(table: pd.DataFrame) -> alt.Chart:
    """What each head looks at from its position: one bar a head, divided among kinds of tokens."""
    colours = [BLUE, VERMILLION, "#56B4E9", "#E69F00", "#999999", PURPLE, "#CCCCCC"]
    colour = coloured("role:N", dict(zip(ROLES, colours, strict=True)), orient="bottom", columns=2)
    x = alt.X("weight:Q", title="share of its attention", axis=PERCENT, scale=alt.Scale(domain=[0, 1])).stack("zero")
    most = table.loc[table.groupby("head", sort=False)["weight"].idxmax()]
    words = "; ".join(f"{row.head}: {row.role} ({row.weight:.0%})" for row in most.itertuples())
    tips = ["head", "role", *numbers("weight", form=".1%")]
    return stacked(table, x, "head", table["head"], colour.sort(list(ROLES)), tips).properties(
        width=240,
        description=f"Attention of the strongest heads from their position. Most of it goes to: {words}.",
    )


def circuit_graph(circuit: Circuit, layers: int) -> alt.LayerChart:
    """The circuit across positions, in the paper's manner: heads where they act, and who passes what to whom."""
    column = {"structure_reader": 0.0, "position_detector": 1.0, "position_transmitter": 1.85, "value_fetcher": 2.15}
    nodes = []
    for group, heads in circuit.groups.items():
        for head in heads:
            beside = [other for other in heads if other.layer == head.layer]
            shift = 0.09 * (beside.index(head) - (len(beside) - 1) / 2)  # so that heads of one layer stay apart
            nodes.append({"x": column[group] + shift, "layer": head.layer, "head": str(head), "group": NAMES[group]})
    middle = {
        group: (column[group], sum(head.layer for head in heads) / len(heads))
        for group, heads in circuit.groups.items()
        if heads
    }
    chain = [group for group in reversed(GROUPS) if group in middle]
    steps = [(*middle[one], *middle[other]) for one, other in pairwise(chain)]
    edges = pd.DataFrame(steps, columns=["x", "layer", "x2", "layer2"])
    place = alt.Axis(
        values=[0, 1, 2], labelExpr="['prev', 'query', 'last'][datum.value]", grid=False, labelFontWeight="bold"
    )
    axes = {
        "x": alt.X("x:Q", title="position in the prompt", scale=alt.Scale(domain=[-0.5, 2.5]), axis=place),
        "y": alt.Y(
            "layer:Q", title="layer", scale=alt.Scale(domain=[0, layers]), axis=alt.Axis(tickMinStep=1, format="d")
        ),
    }
    arrows = alt.Chart(edges).mark_rule(strokeWidth=3, color=NEUTRAL, opacity=0.6)
    arrows = arrows.encode(**axes, x2="x2:Q", y2="layer2:Q", **QUIET)
    colour = coloured("group:N", COLOURS, orient="bottom", columns=2)
    shape = alt.Shape("group:N", scale=alt.Scale(domain=list(COLOURS)), legend=colour["legend"])
    points = alt.Chart(pd.DataFrame(nodes, columns=["x", "layer", "head", "group"]))
    points = points.mark_point(filled=True, size=110, opacity=0.95)
    points = points.encode(**axes, color=colour, shape=shape, tooltip=["head", "group", "layer"])
    told = "; ".join(f"{NAMES[group]}: {', '.join(map(str, heads))}" for group, heads in circuit.groups.items())
    words = f"The circuit as a graph over positions prev, query and last, heads at their layers. {told}."
    return drawn([arrows, points], 280, 320, words)


def depths(table: pd.DataFrame) -> alt.LayerChart:
    """How deep the strongest heads of each group sit, ours beside the paper's, a line a group."""
    middles = table.groupby(["group", "model"], sort=False)["depth"].median().reset_index()
    words = "; ".join(f"{row.group} {row.model} {row.depth:.2f}" for row in middles.itertuples())
    models = unique(table["model"])
    styles = dict(zip(models, ((BLUE, "circle"), (VERMILLION, "diamond")), strict=False))
    colour, shape = marked("model:N", styles, orient="top")
    named = table.assign(group=table["group"].map(NAMES))
    base = alt.Chart(named).encode(
        x=alt.X("depth:Q", title="layer / number of layers", scale=alt.Scale(domain=[0, 1])),
        y=by_name("group", named["group"]),
        yOffset=alt.YOffset("model:N", sort=models),
        tooltip=["head", "model", *numbers("depth")],
    )
    points = base.mark_point(filled=True, size=80, opacity=0.8).encode(color=colour, shape=shape)
    words = f"Depth of the strongest heads as a share of all layers. Medians: {words}."
    return drawn([points], 280, 36 * named["group"].nunique(), words)


def scatter(table: pd.DataFrame, x: str, y: str, what: str) -> alt.LayerChart:
    """Two scores of the same heads against each other, with the diagonal. Columns `head`, `score`, `other`."""
    both = table.dropna(subset=["score", "other"])
    scores = both[["score", "other"]]
    line = diagonal("score", "other", [float(scores.min().min()), float(scores.max().max())]).encode(**QUIET)
    points = alt.Chart(both).mark_point(filled=True, size=40, opacity=0.6)
    points = points.encode(
        x=alt.X("score:Q", title=x),
        y=alt.Y("other:Q", title=y),
        tooltip=["head", *numbers("score", "other", form=".3f")],
    )
    rank = spearman(*scores.to_numpy().T)
    words = f"{what}: {y} against {x} for {len(both)} heads, with the diagonal. Rank correlation {rank:.2f}."
    return drawn([line, points], 260, 260, words)


def cost_ratio(table: pd.DataFrame) -> alt.LayerChart:
    """How many times faster replay is, round by round. Columns of `cost.rounds`."""
    seconds = [*numbers("ratio", form=".0f"), *numbers("replay_s", form=".1f"), *numbers("definition_s", form=".0f")]
    base = alt.Chart(table).encode(
        y=alt.Y("round:N", title="round", sort=None),
        x=alt.X("ratio:Q", title="definition / replay, seconds"),
        tooltip=["round", *seconds],
    )
    text = base.mark_text(align="left", dx=4, color=INK).encode(text=alt.Text("ratio:Q", format=".0f"))
    words = ", ".join(f"{row.round} {row.ratio:.0f}" for row in table.itertuples())
    return drawn([base.mark_bar(), text], 260, 120, f"Times faster than the definition, by round: {words}.")

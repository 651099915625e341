"""The figures of cross-model patching: a tidy table in, an Altair chart with its description in words out."""

from typing import Any

import altair as alt
import pandas as pd
from entity_circuits import statistics
from entity_circuits.heads import LETTERS
from entity_circuits.methods.cmap import Patched

from .charts import BLUE, GREEN, GROUP_COLOURS, INK, NEUTRAL, PURPLE, VERMILLION, coloured, marked, palette
from .parts import (
    PERCENT,
    QUIET,
    bands,
    by_name,
    drawn,
    estimates,
    heading,
    helping,
    interval,
    lanes,
    level,
    numbers,
    plane,
    spoken,
    streams,
    unique,
)

WIDTH = 200
HEIGHT = 230
STEP = 20  # the height of a bar; a line of points has twice that
LETTER_NAMES = {letter: f"{letter} {group.replace('_', ' ')}" for group, letter in LETTERS.items()}

PATCHED, RANDOM, HARMFUL = "patched heads", "random heads, same layers", "random heads, a named one among them"
BASE, TUNED = "base model as it is", "fine-tuned as it is"
ORIGINS = {"run": "its run", "weights": "its weights alone", "inputs": "what arrives in it alone"}
"""What the other model gives: by the names in `cmap.Condition`."""

_STYLE = {
    PATCHED: (BLUE, "square"),
    ORIGINS["run"]: (BLUE, "circle"),
    ORIGINS["weights"]: (VERMILLION, "square"),
    ORIGINS["inputs"]: (GREEN, "triangle-up"),
    RANDOM: (NEUTRAL, "diamond"),
    BASE: (NEUTRAL, "stroke"),
    TUNED: (PURPLE, "stroke"),
}
_NUMBERS = numbers("accuracy", "low", "high")


def drawing() -> alt.LayerChart:
    """What cross-model patching does, drawn for group B: one output goes over; all above it is computed anew."""
    places, right = ("prev", "query", "last"), 4  # the base model stands to the right, by so much
    groups = {"D": (0, 0.8), "C": (1, 1.6), "B": (2, 2.4), "A": (2, 3.4)}
    kinds = {
        "as in its own run": (NEUTRAL, "circle"),
        "read here": (GROUP_COLOURS["B"], "square"),
        "put in here": (GROUP_COLOURS["B"], "diamond"),
        "computed anew": (GROUP_COLOURS["A"], "triangle-up"),
    }
    own, read, put, anew = kinds
    what = {("B", 0): read, ("B", right): put, ("A", right): anew}
    nodes = pd.DataFrame(
        [
            {"x": x + side + 0.3, "y": y, "stream": x + side, "group": letter, "what": what.get((letter, side), own)}
            for side in (0, right)
            for letter, (x, y) in groups.items()
        ]
    )
    ends = [
        {"x": x + side, "y": y, "place": place, "line": x + side}
        for side in (0, right)
        for x, place in enumerate(places)
        for y in (0.0, 4.4)
    ]
    names = pd.DataFrame({"x": [1, right + 1], "y": 4.8, "model": ["fine-tuned model", "base model"]})
    over = pd.DataFrame({"x": [2.3, right + 2.3], "y": groups["B"][1], "order": [0, 1]})
    above = pd.DataFrame({"x": [right + 2.3, right + 2, right + 2], "y": [2.4, 2.4, 4.4], "order": range(3)})
    axes = plane([-0.5, right + 3], [-0.5, 5])
    colour, shape = marked("what:N", kinds, orient="bottom", columns=2, symbolOpacity=1)
    stream, place_names = streams(pd.DataFrame(ends), axes, dy=14)
    crossing = alt.Chart(over).mark_line(strokeWidth=3, strokeDash=[6, 4], color=GROUP_COLOURS["B"])
    onward = alt.Chart(above).mark_line(strokeWidth=6, opacity=0.6, color=GROUP_COLOURS["A"])
    points = alt.Chart(nodes).mark_point(filled=True, size=220, opacity=1)
    layers = [
        stream,
        place_names,
        alt.Chart(names).mark_text(fontWeight="bold", color=INK).encode(**axes, text="model:N", **QUIET),
        alt.Chart(nodes).mark_rule(strokeWidth=1.5, color=NEUTRAL).encode(**axes, x2="stream:Q", **QUIET),
        *(line.encode(**axes, order=alt.Order("order:Q"), **QUIET) for line in (crossing, onward)),
        points.encode(**axes, color=colour, shape=shape, tooltip=["group", "what"]),
        alt.Chart(nodes).mark_text(dx=12, dy=-13, color=INK).encode(**axes, text="group:N", **QUIET),
    ]
    words = (
        "Drawing of cross-model patching: the residual streams of two models side by side, at prev, query "
        "and last. The output of group B at the last token is read in the fine-tuned model's own run and put in its "
        "place in the base model; what stands above it there, group A and the answer, is computed anew, and all else "
        "stays as in the base model's own run."
    )
    return drawn(layers, 330, 230, words)


def bars(table: pd.DataFrame, into: str = "base") -> alt.FacetChart:
    """Accuracy with each set of heads patched, a panel a fine-tuned model, in the manner of the paper's CMAP figure.

    `table` is `Patched.table()` with a column `model`, the name of the fine-tuned model; tables of several are put
    below each other, and those of a paper may lack `low`, `high` and `draw`. Outputs (`z`) patched `into` one of the
    models are shown. Random heads are grey; vertical lines are the two models as they are.
    """
    table = _chosen(table, into, outputs=True)
    table = table.assign(what=[PATCHED if pd.isna(draw) else RANDOM for draw in table["draw"]])
    words = [f"{model}: {_told(part)}" for model, part in table.groupby("model", sort=False)]
    return _panels(
        table,
        "model",
        by_name("condition", table["condition"]),
        f"Accuracy when outputs of heads are patched into the {_named(into)} model, with 95% intervals. "
        + " ".join(words),
    )


def inputs(table: pd.DataFrame, into: str = "base") -> alt.FacetChart:
    """Accuracy with queries, keys, values or several patched, a panel a group: the other model's own, those of its
    weights alone, and those of what arrives in it alone. Rows of `Patched.table()` of one pair of models."""
    table = _chosen(table, into, outputs=False)
    given = table["origin"].map(ORIGINS)
    table = table.assign(
        what=given.where(table["draw"].isna(), RANDOM),
        line=given,
        inputs=table["sites"].str.upper(),
        group=table["condition"].map(lambda name: LETTER_NAMES.get(name, name)),
    )
    words = [
        f"{group}: " + ", ".join(f"{row.inputs} from {row.line} {row.accuracy:.2f}" for row in part.itertuples()) + "."
        for group, part in table[table["draw"].isna()].groupby("group", sort=False)
    ]
    return _panels(
        table,
        "group",
        by_name("inputs", table["inputs"]),
        f"Accuracy when inputs of heads are patched into the {_named(into)} model, with 95% intervals. Base model "
        f"{table['base'].iloc[0]:.2f}, fine-tuned {table['tuned'].iloc[0]:.2f}. " + " ".join(words),
    )


def layered(found: Patched) -> alt.LayerChart:
    """How much the right answer gains from each layer's heads of each group, a cell a condition named "A, layer 15".

    The gain is the mean change of the answer's log-probability in the base model. A framed cell has an interval that
    does not hold zero.
    """
    table = gains_by_layer(found)
    bound = float(table["gain"].abs().max()) or 1.0
    layers = alt.Scale(domain=list(range(int(table["layer"].min()), int(table["layer"].max()) + 1)))
    base = alt.Chart(table).encode(
        x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0), scale=layers),
        y=by_name("group", LETTER_NAMES.values()),
        tooltip=["group:N", "layer:O", "heads:Q", *numbers("gain", "gain_low", "gain_high", form="+.2f"), "n:Q"],
    )
    cells = base.mark_rect().encode(color=helping("gain:Q", bound, "gain of log p", gain=True))
    sure = base.transform_filter("datum.gain_low > 0 || datum.gain_high < 0")
    best = ", ".join(
        f"{row['condition']} {spoken(row['gain'], row['gain_low'], row['gain_high'], '+.2f')}"
        for row in table.nlargest(3, "gain").to_dict("records")
    )
    n = int(table["n"].iloc[0])
    words = f"Gain of log p(right answer) by group and layer, {len(table)} cells. Most: {best}. n = {n}."
    return drawn([cells, sure.mark_rect(filled=False, stroke="black", strokeWidth=2)], WIDTH + 110, 110, words)


def gains_by_layer(found: Patched) -> pd.DataFrame:
    """The rows behind `layered`: `condition`, `group`, `layer`, `heads`, `gain` with bounds over contexts, `n`.

    print(improvement.gains_by_layer(found).nlargest(3, "gain"))
    """
    rows = []
    for one, after in zip(found.conditions, found.logprob, strict=True):
        gain = statistics.difference(after, found.base_logprob, found.contexts)
        about = {"condition": one.name, "group": LETTER_NAMES[one.name[0]], "layer": one.layers[0]}
        rows.append({**about, "heads": one.size, **gain.cells("gain"), "n": gain.n})
    return pd.DataFrame(rows)


def scan(table: pd.DataFrame, layer: str = "final", title: str | None = None) -> alt.LayerChart:
    """Accuracy over the layers whose heads are patched, a line a `series`, with its interval as a band.

    `table` is that of `cmap.scan` conditions of one pair of models, with a column `series` (the place, say) if there
    are several; `layer` is the column that tells the layers: "final" where everything up to a layer is patched, "first"
    where everything from one on is.
    """
    table = table if "series" in table else table.assign(series="patched")
    names = unique(table["series"])
    title = title or {"final": "all layers up to this one", "first": "all layers from this one on"}.get(layer, layer)
    colour = coloured("series:N", palette(names), orient="bottom", columns=3, symbolOpacity=1)
    base = alt.Chart(table).encode(
        x=alt.X(f"{layer}:Q", title=title, axis=alt.Axis(format="d", tickMinStep=1, labelFlush=False)),
        y=alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1])),
        color=colour if len(names) > 1 else colour.legend(None),
        tooltip=["series:N", f"{layer}:Q", *_NUMBERS, "n:Q"],
    )
    line, band, points = bands(base)
    own = [("base", float(table["base"].iloc[0])), ("fine-tuned", float(table["tuned"].iloc[0]))]
    levels = alt.Chart(pd.DataFrame(own, columns=["model", "accuracy"])).encode(y="accuracy:Q", tooltip=["model"])
    rules = levels.mark_rule(strokeDash=[4, 4], color=NEUTRAL)
    texts = levels.mark_text(align="left", dx=3, color=NEUTRAL).encode(x=alt.value("width"), text="model:N")
    words = []
    for name, part in table.groupby("series", sort=False):
        ends = part.sort_values(layer).iloc[[0, -1]].itertuples()
        told = ", ".join(f"{row.accuracy:.2f} at layer {getattr(row, layer)}" for row in ends)
        best = part.nlargest(1, "accuracy").iloc[0]
        words.append(f"{name}: {told}, most {best['accuracy']:.2f} at layer {best[layer]}")
    return drawn(
        [rules, texts, band, line, points],
        WIDTH + 60,
        HEIGHT,
        f"Accuracy over layers whose heads are patched ({title}), with 95% bands. Base model "
        f"{own[0][1]:.2f}, fine-tuned {own[1][1]:.2f}. {'; '.join(words)}. n = {int(table['n'].iloc[0])}.",
    )


def turning(table: pd.DataFrame) -> dict[str, str]:
    """Where a scan's gain surely begins and ends, as text: `scan_up`, `scan_from` and, at most, `scan_query`.

    `table` is that of `improvement.scan` conditions. `scan_up` is the lowest layer up to which patching the last token
    surely raises accuracy, `scan_from` the highest one from which on it does; "(nowhere)" where none does.

        print(improvement.turning(found.table())["scan_from"])
    """
    up, last = table["condition"].str.startswith("up to"), table["condition"].str.endswith("last")
    sure = table[(table["change_low"] > 0) & last]
    first, final = sure[up[sure.index]].sort_values("final").head(1), sure[~up[sure.index]].sort_values("first").tail(1)
    ends = {"scan_up": ("final", "up to", first), "scan_from": ("first", "from", final)}
    ends["scan_query"] = ("final", "up to", table[up & ~last].nlargest(1, "change"))
    told = dict.fromkeys(ends, "(nowhere)")
    for name, (column, words, rows) in ends.items():
        for row in rows.to_dict("records"):
            gain = statistics.spoken(row["change"], row["change_low"], row["change_high"], "+.2f")
            told[name] = f"{words} layer {row[column]}, {gain}"
    return told


def shares(table: pd.DataFrame) -> alt.LayerChart:
    """The share of the gap that each part recovers, a square, among its random draws, a stroke each.

    `table` has rows of `random_draws.points`: `condition`, `share`, of a draw its number `draw` and the named heads
    that it `hits`, of a part `share_low` and `share_high`. Strokes of draws that hit a named head are coloured.
    """
    drawn_ = table["draw"].notna()
    kinds = {PATCHED: _STYLE[PATCHED], RANDOM: (NEUTRAL, "stroke"), HARMFUL: (VERMILLION, "stroke")}
    what = table["hits"].map(lambda hits: HARMFUL if hits else RANDOM).where(drawn_, PATCHED)
    table = table.assign(what=what)
    colour, shape = marked("what:N", {k: v for k, v in kinds.items() if k in set(what)}, orient="bottom", columns=1)
    x = alt.X("share:Q", title="share of the gap that is recovered", axis=PERCENT)
    tips = ["condition:N", *numbers("share"), "draw:Q", "hits:N"]
    base = alt.Chart(table).encode(x=x, y=by_name("condition", table["condition"]), color=colour, tooltip=tips)
    own, random = base.transform_filter("datum.draw == null"), base.transform_filter("datum.draw != null")
    layers = [
        *(level(name, value, axis="x", color=NEUTRAL) for name, value in (("nothing", 0.0), ("the gap", 1.0))),
        random.mark_tick(thickness=1.2, size=14, opacity=0.6),
        *estimates(own, x, 60, ends=("share_low", "share_high"), shape=shape),
    ]
    words = []
    for name, part in table.groupby("condition", sort=False):
        one, some = part[part["draw"].isna()].iloc[0], part.loc[part["draw"].notna(), "share"]
        words.append(f"{name} {one['share']:.0%}, {len(some)} draws {some.min():.0%} to {some.max():.0%}")
    told = "Share of the gap recovered by parts of the circuit, with 95% intervals, among random heads of their layers"
    return drawn(layers, WIDTH + 60, 40 * table["condition"].nunique(), f"{told}. {'; '.join(words)}.")


def _panels(table: pd.DataFrame, panel: str, y: alt.Y, words: str) -> alt.FacetChart:
    """A panel for each value of a column, a line for each value of y: points or bars, intervals, controls, models."""
    present = {*table["what"], BASE, TUNED}
    styles = {name: style for name, style in _STYLE.items() if name in present}
    colour, shape = marked("what:N", styles, orient="bottom", columns=1, symbolOpacity=1)
    x = alt.X("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]))
    tips = ["condition:N", "sites:N", "origin:N", *_NUMBERS, *numbers("share"), "heads:Q", "n:Q"]
    base = alt.Chart().encode(x=x, y=y, color=colour, tooltip=tips)
    if apart := "line" in table:
        table, beside = lanes(table, ["group", "inputs"], "line", list(ORIGINS.values()))
        base = base.encode(yOffset=beside)
    own, random = (base.transform_filter(f"datum.what {sign} '{RANDOM}'") for sign in ("!=", "=="))
    controls = random.mark_point(filled=True, size=35, opacity=0.7).encode(shape=shape)
    if apart:
        layers = [controls, *estimates(own, x, 55, stroke=1.5, shape=shape)]
    else:
        ends = interval(own, x, stroke=1.5).encode(color=alt.value(INK))
        layers = [own.mark_bar(opacity=0.55), ends, controls]
    for name, column in ((BASE, "base"), (TUNED, "tuned")):
        level = f"{column} level"  # two names: Vega-Lite takes equal ones for one
        given: Any = {"op": "mean", "field": column, "as": level}
        model = alt.Chart().transform_aggregate([alt.AggregatedFieldDef(**given)], groupby=[panel])
        line = model.transform_calculate(what=f"'{name}'").mark_rule(strokeWidth=2, strokeDash=[5, 3])
        layers.append(line.encode(x=alt.X(f"{level}:Q"), color=colour, tooltip=numbers(level)[0]))
    inner = alt.LayerChart(layer=layers).properties(width=WIDTH, height=alt.Step(2 * STEP if apart else STEP))
    row = alt.Row(f"{panel}:N", title=None, header=heading(labelPadding=4), sort=unique(table[panel]))
    return inner.facet(row=row, data=table, spacing=12).properties(description=words)


def _chosen(table: pd.DataFrame, into: str, outputs: bool) -> pd.DataFrame:
    """The conditions of one direction, with every column that a figure asks for (numbers of a paper lack some)."""
    lacking = dict.fromkeys(("draw", "low", "high", "share", "heads", "n"))
    usual = {"into": "base", "sites": "z", "origin": "run", **lacking}
    table = table.assign(**{name: value for name, value in usual.items() if name not in table})
    table = table[(table["into"] == into) & ((table["sites"] == "z") == outputs)]
    if table.empty:
        raise ValueError(f"there is nothing to draw: no condition of this kind into the {_named(into)} model")
    return table


def _told(part: pd.DataFrame) -> str:
    """The numbers of one panel in words."""
    own, random = part[part["draw"].isna()], part[part["draw"].notna()]
    told = ", ".join(f"{row.condition} {row.accuracy:.2f}" for row in own.itertuples())
    first = part.iloc[0]
    words = f"base model {first['base']:.2f}, fine-tuned {first['tuned']:.2f}; {told}"
    if len(random):
        words += f"; random heads {random['accuracy'].min():.2f} to {random['accuracy'].max():.2f}"
    return words + "."


def _named(into: str) -> str:
    return {"base": "base", "tuned": "fine-tuned"}[into]

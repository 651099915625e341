"""What the figures are built from: estimates with intervals, lines with bands, stacked bars, levels, panels."""

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import pandas as pd

from .charts import INK, NEUTRAL

PERCENT = alt.Axis(format=".0%")
QUIET: dict[str, Any] = {"tooltip": alt.value(None)}
"""For marks that have nothing to say: `encode(..., **QUIET)`."""


def drawn(layers: Sequence[Any], width: float, height: float, words: str) -> alt.LayerChart:
    """Layers upon each other, the first at the bottom, with the description that every figure has."""
    return alt.LayerChart(layer=list(layers)).properties(width=width, height=height, description=words)


def panels(layers: Sequence[Any], table: pd.DataFrame, field: str, width: float, height: float) -> alt.FacetChart:
    """The same layers once for each value of a column of `table`, two in a row."""
    inner = alt.LayerChart(layer=list(layers), data=table).properties(width=width, height=height)
    return inner.facet(facet=alt.Facet(f"{field}:N", title=None, sort=unique(table[field])), columns=2)


def nothing(words: str, width: float = 330) -> alt.Chart:
    """In place of a figure that has nothing to draw: what is missing, in words."""
    return alt.Chart(pd.DataFrame({"x": [0]})).mark_text(text=words).properties(width=width, description=words)


def heading(**more: Any) -> alt.Header:
    """The names of panels that stand below each other: above each panel, at the left."""
    return alt.Header(labelAngle=0, labelAnchor="start", labelOrient="top", **more)


def by_name(field: str, order: Iterable[Any], **more: Any) -> alt.Y:
    """One line a name, in the order in which the names first come."""
    return alt.Y(f"{field}:N", title=None, sort=unique(order), **more)


def helping(field: str, bound: float, title: str, *, gain: bool) -> alt.Color:
    """Blue for what helps the right answer, red for what harms it, in every map; the legend says so.

    From `-bound` to `bound`; `gain` says whether it is the numbers above 0 that help.
    """
    scale = alt.Scale(scheme="redblue", domain=[-bound, bound], reverse=not gain)
    words = f"{title}: blue helps, red harms"
    legend = alt.Legend(title=words, titleLimit=0, orient="top", gradientLength=180, format=".2f")
    return alt.Color(field, scale=scale, legend=legend)


def lanes(table: pd.DataFrame, names: list[str], lane: str, order: Sequence[str]) -> tuple[pd.DataFrame, alt.YOffset]:
    """Several marks of one name below each other, in the middle of its line however many there are.

    `lane` is the column that tells them apart, in this `order`; `names` those that make up a name. The table comes back
    with a column for the channel.
    """
    first = {key: [one for one in order if one in set(part[lane])] for key, part in table.groupby(names)}
    at = [(first[tuple(row[:-1])], row[-1]) for row in table[[*names, lane]].itertuples(index=False)]
    places = [here.index(one) - (len(here) - 1) / 2 for here, one in at]
    half = max((len(here) for here in first.values()), default=1) / 2
    return table.assign(lane_at=places), alt.YOffset("lane_at:Q", scale=alt.Scale(domain=[-half, half]))


def unique(names: Iterable[Any]) -> list[Any]:
    """Each name once, in the order in which they first come."""
    return list(dict.fromkeys(names))


def numbers(*names: str, form: str = ".2f") -> list[Any]:
    """Tooltips of numbers: those of an estimate if no names are given."""
    return [alt.Tooltip(f"{name}:Q", format=form) for name in names or ("value", "low", "high")]


def spoken(value: float, low: float, high: float, form: str = ".2f", more: str = "") -> str:
    """A number with its interval, as it is read aloud, and `more` in the same brackets."""
    return f"{value:{form}} (from {low:{form}} to {high:{form}}{more})"


def estimates(
    base: alt.Chart,
    value: alt.X | alt.Y,
    size: float,
    *,
    ends: tuple[str, str] = ("low", "high"),
    stroke: float = 2,
    opacity: float = 1,
    mark: dict[str, Any] | None = None,
    shape: alt.Shape | None = None,
    **channels: Any,
) -> list[alt.Chart]:
    """Lines from `low` to `high`, and on them points at `value`, along the axis of which `value` is.

    `mark` and `channels` are for both; only points have a `shape`.
    """
    points = base.mark_point(filled=True, size=size, opacity=opacity, **(mark or {}))
    points = points.encode(value, **channels, **({"shape": shape} if shape else {}))
    return [interval(base, value, ends, stroke, mark).encode(**channels), points]


def interval(
    base: alt.Chart,
    value: alt.X | alt.Y,
    ends: tuple[str, str] = ("low", "high"),
    stroke: float = 2,
    mark: dict[str, Any] | None = None,
) -> alt.Chart:
    """Lines from one column to the other, along the axis of which `value` is."""
    axis = "x" if isinstance(value, alt.X) else "y"
    rule = base.mark_rule(strokeWidth=stroke, **(mark or {}))
    return rule.encode(**{axis: f"{ends[0]}:Q", f"{axis}2": f"{ends[1]}:Q"})


def bars(
    base: alt.Chart, value: alt.X, ends: tuple[str, str], mark: dict[str, Any] | None = None, **channels: Any
) -> list[alt.Chart]:
    """Bars as long as `value`, with their intervals on them."""
    return [base.mark_bar(**(mark or {})).encode(value, **channels), interval(base, value, ends, 1.5, {"color": INK})]


def stacked(
    table: pd.DataFrame, value: alt.X, row: str, order: Iterable[Any], colour: alt.Color, tooltip: list[Any]
) -> alt.Chart:
    """A bar for each name in the column `row`, divided by colours; the column `order` sorts the pieces."""
    chart = alt.Chart(table).mark_bar()
    chart = chart.encode(value, y=by_name(row, order), color=colour, order="order:Q", tooltip=tooltip)
    return chart.properties(height=22 * len(unique(order)))


def bands(base: alt.Chart) -> tuple[alt.Chart, alt.Chart, alt.Chart]:
    """Lines, the bands of their intervals, and their points."""
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q"), y2="high:Q", **QUIET)
    return base.mark_line(strokeWidth=2), band, base.mark_point(filled=True, size=20, opacity=1)


def level(name: str, value: float, axis: str = "y", **mark: Any) -> alt.Chart:
    """A dashed line across the figure; pointing at it shows its name."""
    line = alt.Chart(pd.DataFrame({name: [value]})).mark_rule(strokeDash=[4, 4], **mark)
    return line.encode(**{axis: f"{name}:Q"})


def diagonal(x: str, y: str, ends: Sequence[float], **mark: Any) -> alt.Chart:
    """The dashed line on which both numbers are equal."""
    line = alt.Chart(pd.DataFrame({x: ends, y: ends})).mark_line(**{"strokeDash": [4, 4], "color": NEUTRAL} | mark)
    return line.encode(x=f"{x}:Q", y=f"{y}:Q")


def plane(x: Sequence[float], y: Sequence[float], fields: tuple[str, str] = ("x", "y")) -> dict[str, Any]:
    """The channels x and y of a drawing, whose axes mean nothing: from one end to the other."""
    across, up = (alt.Scale(domain=list(ends)) for ends in (x, y))
    return {
        "x": alt.X(f"{fields[0]}:Q", scale=across, axis=None),
        "y": alt.Y(f"{fields[1]}:Q", scale=up, axis=None),
    }


def streams(frame: pd.DataFrame, axes: dict[str, Any], **text: Any) -> list[alt.Chart]:
    """Residual streams of a drawing, going up, with the names of their places below."""
    line = alt.Chart(frame).mark_line(strokeWidth=2, color=NEUTRAL).encode(**axes, detail="line:N", **QUIET)
    names = alt.Chart(frame[frame["y"] == 0]).mark_text(color=INK, **text)
    return [line, names.encode(**axes, text="place:N", **QUIET)]

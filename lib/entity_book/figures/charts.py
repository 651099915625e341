"""How a chart is shown: its theme, its colours, its text for those who cannot see it, and its static picture.

A chapter calls `enable()` once. From then on every Altair chart that ends a cell is shown as three things: the
Vega-Lite specification (the book makes it interactive), a PNG picture (Jupyter, Colab and PDF show it) and the
description in words.
"""

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import vl_convert
from entity_circuits.arguments import one_of

from . import tables

MIME = "application/vnd.vegalite.v6+json"
"""The media type of the specification. The suffix `+json` is what makes it legal in a notebook file."""

VEGA_LITE = "6.4"
"""The Vega-Lite version that Altair writes and that pictures and scripts are made with."""

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE)
"""Four colours that people with any common colour blindness tell apart, on white and on the dark page alike.

There is no fifth one as good: a chart with more than four categories needs labels, facets or shapes.
"""

GROUP_COLOURS = dict(zip("ABCD", PALETTE, strict=True))
"""The colour of each group of heads, by its letter, in every figure: here, and nowhere else."""

INFORMATION = {"position": "#A67C00", "object": "#7B52D3", "label": "#0E8A99"}
"""The colour of each kind of information that heads may carry: no group's."""

NEUTRAL = "#767676"
"""Grey for chance lines, references and what is not the point; readable on white and on the dark page."""

INK = "currentColor"
"""For text inside a chart: the page's own text colour, on white and on the dark page; black in a picture."""

SCALE = 2
"""Pixels of a PNG for each pixel of the chart, so that it is sharp on fine screens and on paper."""

_NAME = "entity_circuits"


def theme() -> dict[str, Any]:
    """The Vega-Lite configuration of every chart: `{"config": {...}}`.

    No colour of text, axis or grid is set here: a specification's own configuration wins over the page's, and the page
    has to choose these by light or dark. All text is 12 pixels or larger.

    >>> theme()["config"]["background"]
    'transparent'
    """
    text = {"labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal"}
    return {
        "config": {
            "background": "transparent",
            "font": "Arial, Helvetica, sans-serif",
            "view": {"continuousWidth": 420, "continuousHeight": 260, "stroke": None},
            "axis": {**text, "labelLimit": 260, "gridOpacity": 0.5},
            "legend": {**text, "labelLimit": 260, "symbolStrokeWidth": 2},
            "header": {**text, "labelFontSize": 13},
            "title": {"fontSize": 15, "subtitleFontSize": 13, "anchor": "start", "fontWeight": "bold"},
            "text": {"fontSize": 12},
            "mark": {"tooltip": True},
            **{mark: {"color": BLUE} for mark in ("area", "bar", "circle", "line", "point", "square", "tick", "trail")},
            "rule": {"color": NEUTRAL},
            "range": {
                "category": list(PALETTE),
                "diverging": {"scheme": "blueorange"},
                "heatmap": {"scheme": "viridis"},
                "ramp": {"scheme": "viridis"},
            },
        }
    }


def palette(names: Sequence[str]) -> dict[str, str]:
    """The names with one of the four colours each. Raises `ValueError` for more names than that."""
    if len(names) > len(PALETTE):
        raise ValueError(f"{len(names)} names cannot be told apart: {len(PALETTE)} colours at most, or several figures")
    return dict(zip(names, PALETTE, strict=False))


def coloured(field: str, colours: Mapping[str, str], **legend: Any) -> alt.Color:
    """The colours of a field, each name with its own; the legend has no title unless one is given."""
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(field, scale=scale, legend=alt.Legend(**{"title": None} | legend))


def marked(field: str, styles: Mapping[str, tuple[str, str]], **legend: Any) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape by the same field, each name with its own pair: one legend for both, or Vega complains.

    colour, shape = charts.marked("kind:N", {"mask": (BLUE, "circle"), "random": (NEUTRAL, "diamond")}, orient="top")
    """
    colour = coloured(field, {name: style[0] for name, style in styles.items()}, **legend)
    shapes = alt.Scale(domain=list(styles), range=[style[1] for style in styles.values()])
    return colour, alt.Shape(field, scale=shapes, legend=alt.Legend(**{"title": None} | legend))


def enable() -> None:
    """Show every Altair chart of this session with our theme and renderer, and every DataFrame as `tables` says.

    Call it in a chapter's first code cell.

    From then on displaying a chart that has no description raises `ValueError`.

    >>> enable()
    >>> chart = alt.Chart(alt.Data(values=[{"x": 1}])).mark_point().encode(x="x:Q")
    >>> sorted(render(chart.properties(description="One point at 1.").to_dict())[0])
    ['application/vnd.vegalite.v6+json', 'image/png', 'text/plain']
    """
    alt.theme.register(_NAME, enable=True)(lambda: alt.theme.ThemeConfig(theme()))  # type: ignore[misc]
    alt.renderers.register(_NAME, render)
    alt.renderers.enable(_NAME)
    tables.enable()


def render(spec: Mapping[str, Any], **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A chart's specification -> what a notebook stores of it: specification, PNG (base64) and description.

    And beside them the size at which the PNG is to be shown: it has `SCALE` pixels for each one, and notebooks
    would show it that much too large. Raises `ValueError` if the chart has no description: then it would not exist
    for a reader who cannot see it.
    """
    words = description(spec)
    png = picture(spec, "png")
    width, height = (round(pixels / SCALE) for pixels in struct.unpack(">II", png[16:24]))  # where a PNG says it
    shown = {MIME: dict(spec), "image/png": base64.b64encode(png).decode(), "text/plain": words}
    return shown, {"image/png": {"width": width, "height": height}}


def description(spec: Mapping[str, Any]) -> str:
    """The chart in words, one or two sentences. Raises `ValueError` if it is missing or blank."""
    words = spec.get("description")
    if not isinstance(words, str) or not words.strip():
        raise ValueError(
            "this chart has no description. Say in a sentence or two what it shows, with its main numbers: "
            '.properties(description="Accuracy falls from ... to ...")'
        )
    return words


Form = Literal["svg", "png"]


def picture(spec: Mapping[str, Any], kind: Form) -> bytes:
    """The static picture of a specification, on white so that it is readable wherever it is put.

    The same specification gives the same bytes on one machine; fonts differ between machines.
    """
    one_of("form of a picture", kind, Form)
    text = json.dumps({**spec, "background": "white"})
    if kind == "png":
        return vl_convert.vegalite_to_png(text, scale=SCALE, vl_version=VEGA_LITE)
    return vl_convert.vegalite_to_svg(text, vl_version=VEGA_LITE).encode()


def script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one JavaScript file (0.9 MB) that defines `window.vegaEmbed` and nothing else.

    It comes out of the installed vl-convert, so nothing is fetched. The function around it keeps the bundle's own
    names (one is `_`) away from those of the page.
    """
    bundle = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]  # the stub is wrong
    return "(function(){" + bundle + "})();\n"

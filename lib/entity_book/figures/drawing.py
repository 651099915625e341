"""Drawings that are no charts, as SVG text: words, lines with arrows, and a frame with its description.

Text and lines have the colour of the page around them (`currentColor`), so that one drawing serves light and dark.
"""

import math
import textwrap
from collections.abc import Iterable
from html import escape
from typing import Any

from .charts import INK

Point = tuple[float, float]

FONT = "Arial, Helvetica, sans-serif"


def frame(size: Point, title: str, words: str, body: Iterable[str], **options: Any) -> str:
    """A whole drawing of this width and height. Its title and its description in words are what a screen reader says.

    print(drawing.frame((40, 20), "A dot", "One dot.", [drawing.tag("circle", cx=20, cy=10, r=3)]))
    """
    told = tag("title", escape(title)) + tag("desc", escape(words))
    view = {"viewBox": f"0 0 {size[0]:g} {size[1]:g}", "role": "img", "aria_label": f"{title}. {words}"}
    return tag("svg", told + "".join(body), xmlns="http://www.w3.org/2000/svg", font_family=FONT, **view, **options)


def tag(name: str, content: str = "", **attributes: Any) -> str:
    """An element. An underscore in the name of an attribute stands for a hyphen; numbers are kept short.

    >>> tag("circle", cx=20.0, stroke_width=1.5)
    '<circle cx="20" stroke-width="1.5"/>'
    """
    told = "".join(f' {_hyphens(key)}="{_value(value)}"' for key, value in attributes.items() if value is not None)
    return f"<{name}{told}>{content}</{name}>" if content else f"<{name}{told}/>"


def text(x: float, y: float, words: str, size: float = 13, **attributes: Any) -> str:
    """Words with their baseline at this height; `text_anchor` says whether `x` is their start, middle or end."""
    return tag("text", escape(words), x=x, y=y, font_size=size, **{"fill": INK, **attributes})


def lines(x: float, y: float, words: str, wide: int, size: float = 13, **attributes: Any) -> tuple[str, float]:
    """Words broken into lines of at most `wide` characters, and the height of the baseline that would follow."""
    broken = textwrap.wrap(words, wide, break_on_hyphens=False)
    step = 1.35 * size
    told = [text(x, y + step * number, line, size, **attributes) for number, line in enumerate(broken)]
    return "".join(told), y + step * len(broken)


def curve(start: Point, bend: Point, towards: Point, end: Point, colour: str, wide: float = 2) -> str:
    """A line that leaves `start` for `bend` and comes to `end` from `towards`, where it has an arrow."""
    away = math.atan2(end[1] - towards[1], end[0] - towards[0])
    head = 6 + wide
    back = (end[0] - head * math.cos(away), end[1] - head * math.sin(away))
    d = "M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}".format(*start, *bend, *towards, *back)
    sides = [(back[0] + s * head * 0.6 * math.sin(away), back[1] - s * head * 0.6 * math.cos(away)) for s in (1, -1)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (end, *sides))
    line = tag("path", d=d, fill="none", stroke=colour, stroke_width=wide)
    return line + tag("polygon", points=points, fill=colour)


def width(words: str, size: float = 13) -> float:
    """About how wide words are: fonts differ, so room is left beside what is put by this."""
    narrow = sum(character in "iljtfrI.,'!:; " for character in words)
    return size * (0.58 * (len(words) - narrow) + 0.32 * narrow)


def _hyphens(name: str) -> str:
    return name if name in ("viewBox", "preserveAspectRatio") else name.rstrip("_").replace("_", "-")


def _value(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else escape(str(value))

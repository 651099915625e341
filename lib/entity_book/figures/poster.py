"""The argument on one sheet, for a wall: the question, the answer, the circuit, five steps with a number, all verdicts.

Every number and every verdict is taken from the findings; on white, for paper, whatever the page around it looks like.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from ..claims import answer, claims
from ..claims.comparisons import VERDICTS, Verdict
from ..claims.verdicts import Found
from . import charts, circuit, drawing
from .circuit import Running
from .drawing import lines, tag, text

WIDTH, HEIGHT = 1684.0, 1190.0
"""An A2 sheet, 594 by 420 mm, in units of which a small letter has ten."""

STEPS = (
    ("There is something to explain", "tracks"),
    ("A few attention heads pass it on", "groups"),
    ("They are enough", "faithful"),
    ("Each group carries one kind of information", "A carries"),
    ("Fine-tuning improved the parts", "A and B"),
)
"""The five steps of the argument, each with the claim of the paper whose number and verdict stand for it."""

SHOWN: dict[Verdict, tuple[str, str]] = {
    "replicates": (charts.BLUE, "✓"),
    "partly": (charts.GREEN, "~"),
    "does not": (charts.VERMILLION, "✕"),
    "open": (charts.NEUTRAL, "?"),
    "not tested here": (charts.NEUTRAL, "–"),
}
"""The colour and the sign of each verdict: nobody has to tell colours apart."""

_DARK, _EDGE = "#1a1a1a", 60.0


def picture(found: Found, running: Running | None, *, points: bool = False) -> str:
    """The poster as SVG. Without a running prompt it says in words why there is no drawing of the circuit.

    Its size is that of the sheet, in millimetres; with `points` in the points of a PDF, for programs that take the one
    for the other.

    print(poster.picture(book.found().reported, running))
    """
    judged = claims.table(found)
    told = answer.sentences(judged, found)
    model = found["accuracy/base"].model if "accuracy/base" in found else ""
    body = [tag("rect", width=WIDTH, height=HEIGHT, fill="#ffffff")]
    body += [text(_EDGE, 105, answer.QUESTION, 50, font_weight="bold"), *_beneath(model)]
    first, y = lines(_EDGE, 205, told[0], 84, 23, font_weight="bold")
    rest, _ = lines(_EDGE, y + 8, " ".join(told[1:]), 100, 20)
    body += [first, rest, *_middle(running), *_verdicts(judged), *_steps(judged)]
    words = f"{' '.join(told)} Five steps: {_spoken(judged)}."
    size = (WIDTH, HEIGHT) if points else ("594mm", "420mm")
    return drawing.frame((WIDTH, HEIGHT), answer.QUESTION, words, body, width=size[0], height=size[1], color=_DARK)


def _beneath(model: str) -> list[str]:
    paper = "Prakash, Shaham, Haklay, Belinkov and Bau (ICLR 2024), computed again"
    words = f"{paper}{f' with {model}' * bool(model)}. Numbers in brackets are 95% intervals."
    return [text(_EDGE, 148, words, 20)]


def _middle(running: Running | None) -> list[str]:
    """The drawing of the circuit with its caption, at the left."""
    if running is None:
        words, _ = lines(_EDGE, 480, circuit.MISSING, 90, 20)
        return [words]
    drawn = circuit.picture(running, x=_EDGE, y=425, width=1010, height=385)
    told, _ = lines(_EDGE, 840, circuit.caption(running), 118, 17)
    return [drawn, told]


def _verdicts(judged: pd.DataFrame) -> list[str]:
    """Each claim of the paper with the sign of its verdict, at the right, and what the signs say."""
    own, x, y = claims.of(judged, "paper"), 1130.0, 205.0
    drawn = [text(x, y, "The claims of the paper", 22, font_weight="bold")]
    for row in own.to_dict("records"):
        broken, below = lines(x + 34, y + 30, row["claim"], 62, 16)
        drawn += [_sign(row["verdict"], x + 11, y + 24, 10), broken]
        y = below - 26
    for number, (verdict, count) in enumerate(claims.counts(own).items()):
        at = x + (number % 3) * 165, y + 48 + 30 * (number // 3)
        drawn += [_sign(verdict, at[0] + 11, at[1] - 5, 10), text(at[0] + 28, at[1], f"{verdict}: {count}", 16)]
    return drawn


def _steps(judged: pd.DataFrame) -> list[str]:
    """Five cards along the foot: the step, the claim, our number, the paper's, the verdict."""
    rows, wide, gap, top = _rows(judged), 296.0, 21.0, 905.0
    drawn = []
    for number, (name, row) in enumerate(rows):
        x = _EDGE + number * (wide + gap)
        colour, _ = SHOWN[row["verdict"]]
        size: dict[str, Any] = {"x": x, "y": top, "width": wide, "height": 235, "rx": 10}
        drawn.append(tag("rect", **size, fill="none", stroke=colour, stroke_width=2.5))
        head, y = lines(x + 16, top + 34, f"{number + 1}. {name}", 26, 20, font_weight="bold")
        said, _ = lines(x + 16, y + 2, row["claim"], 36, 15.5)
        drawn += [head, said, text(x + 16, top + 166, _number(row), 21, font_weight="bold")]
        drawn.append(text(x + 16, top + 188, _beside(row), 15))
        drawn += [_sign(row["verdict"], x + 27, top + 211, 11), text(x + 46, top + 217, row["verdict"], 18)]
    return drawn


def _rows(judged: pd.DataFrame) -> list[tuple[str, Mapping[Hashable, Any]]]:
    rows = judged.set_index("name").to_dict("index")
    return [(name, rows[claim]) for name, claim in STEPS]


def _number(row: Mapping[Hashable, Any]) -> str:
    """Our number with its interval; how many prompts it rests on stands below."""
    return claims.number(row).partition(", n = ")[0]


def _beside(row: Mapping[Hashable, Any]) -> str:
    """What the number is, how many prompts it rests on, and the paper's."""
    prompts = "" if pd.isna(row["n"]) else f"{row['n']} prompts"
    paper = "" if pd.isna(row["paper"]) else f"paper {row['paper']:.2f}"
    return ", ".join(filter(None, (str(row["unit"]), prompts, paper)))


def _spoken(judged: pd.DataFrame) -> str:
    return "; ".join(f"{name}: {row['claim']}, {claims.number(row)}, {row['verdict']}" for name, row in _rows(judged))


def _sign(verdict: Verdict, x: float, y: float, r: float) -> str:
    colour, sign = SHOWN[verdict]
    hollow = verdict == VERDICTS[-1]
    disc = tag("circle", cx=x, cy=y, r=r, fill="none" if hollow else colour, stroke=colour, stroke_width=2)
    look = {"fill": colour if hollow else "#ffffff", "text_anchor": "middle", "font_weight": "bold"}
    return disc + text(x, y + r / 2, sign, 1.5 * r, **look)

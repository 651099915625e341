"""The circuit on one prompt, as the executed chapter that finds it shows it: what is read, and the drawing of it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import charts, drawing
from .charts import GROUP_COLOURS
from .drawing import curve, tag, text

ROLES = {"D": "read the statement", "C": "find it by its letter", "B": "say where to look", "A": "fetch the object"}
"""What the paper says that each group does."""

MISSING = (
    "The circuit on one prompt is drawn here from chapter 3, once that has been executed and has found all four groups."
)
"""What stands in place of the drawing."""

_NAMED = re.compile(r"L\d+H\d+")
_HANDED = {f"heads_{letter.lower()}": letter for letter in "ABCD"}


@dataclass(frozen=True)
class Group:
    """A group on the prompt: how many heads it has, in words; how much they look at each token; and the probability of
    the right object with their news from another prompt."""

    heads: str
    attention: tuple[float, ...]
    replaced: float


@dataclass(frozen=True)
class Running:
    """The running prompt: its `tokens`, the right object and its probability, the groups that were found, by letter,
    and where they act: at the object, its label in the statement (`prev`), the label in the question, and the end."""

    tokens: tuple[str, ...]
    answer: str
    clean: float
    groups: dict[str, Group]
    object: int
    prev: int
    query: int
    last: int

    @property
    def statement(self) -> range:
        """The tokens of the statement about the right box, up to the comma or the full stop."""
        ends = [place for place, token in enumerate(self.tokens) if token in (",", ".")]
        before = [place for place in ends if place < self.prev]
        return range(before[-1] + 1 if before else 0, min(place for place in ends if place > self.prev))

    @property
    def boxes(self) -> tuple[int, int]:
        """How many statements there are before and after the one about the right box."""
        ends = [place for place, token in enumerate(self.tokens) if token in (",", ".")]
        return sum(place < self.prev for place in ends), sum(place > self.prev for place in ends) - 1

    @property
    def looks(self) -> dict[str, float]:
        """Of each group, the share of its attention on what it should read: D the statement, C its label, B the label
        in the question, A the object."""
        places = {"D": self.statement, "C": [self.prev], "B": [self.query], "A": [self.object]}
        return {name: sum(one.attention[place] for place in places[name]) for name, one in self.groups.items()}


def read(cells: Iterable[Mapping[str, Any]]) -> Running | None:
    """The running prompt out of the cells of an executed chapter 3; None if they do not show all four groups on one.

    running = circuit.read(json.loads(text)["cells"])
    """
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    counts = _counts(outputs)
    for output in outputs:
        spec = output.get("data", {}).get(charts.MIME)
        if isinstance(spec, dict):
            try:
                return _running(spec, counts)
            except (KeyError, ValueError, TypeError, IndexError, AttributeError):
                continue
    return None


def _running(spec: Mapping[str, Any], counts: Mapping[str, int]) -> Running:
    """Raises one of the errors above for every other chart than `exploring.stepper` of this task and four groups."""
    rows = {row["step"]: row for row in spec["data"]["values"]}
    first, tokens = rows.pop("nothing"), next(_lists(spec), [])
    where = first["right"].index(True)
    groups = {
        name: Group(_heads(row["words"], counts.get(name)), tuple(row["attention"]), row["p"][where])
        for name, row in rows.items()
    }
    if groups.keys() != set("ABCD"):
        raise ValueError("a group was not found")
    words = [token.lower() for token in tokens]
    question = len(words) - 1 - words[::-1].index(".")
    query = question + 1 + words[question + 1 :].index("box") + 1
    prev = next(place for place in range(1, question) if words[place - 1 : place + 1] == words[query - 1 : query + 1])
    at = {"object": tokens.index(first["objects"][where]), "prev": prev, "query": query, "last": len(tokens) - 1}
    return Running(tuple(tokens), first["objects"][where], first["p"][where], groups, **at)


def _lists(part: Any) -> Iterator[list[str]]:
    """The tokens of a prompt, where a part of a specification looks them up by their places."""
    if isinstance(part, dict):
        values = part.get("values")
        if isinstance(values, list) and values and isinstance(values[0], dict) and "token" in values[0]:
            yield [row["token"] for row in values]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _lists(one)


def _counts(outputs: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The size of each group, where the chapter hands the names of its heads to the text (`said.groups`)."""
    counts = {}
    for output in outputs:
        name = str(output.get("metadata", {}).get("scrapbook", {}).get("name", ""))
        if name in _HANDED:
            told = next(iter(output.get("data", {}).values()), "")  # under a media type of its own, text/plain in it
            counts[_HANDED[name]] = len(_NAMED.findall("".join(told)))
    return counts


def _heads(words: str, count: int | None) -> str:
    """How many heads a group has; where the sentence names the first of them only, and no count is known, that."""
    named = len(_NAMED.findall(words.split("|")[0]))
    if count is None and "and others" in words:
        return f"{named} heads and more"
    many = named if count is None else count
    return f"{many} head{'s' * (many != 1)}"


def words(running: Running) -> str:
    """What the drawing shows, for those who do not see it."""
    tokens, looks = running.tokens, running.looks
    said = {name: f"{one.heads}" for name, one in running.groups.items()}
    return (
        f"The prompt says that the {running.answer} is in Box {tokens[running.prev]}, among "
        f"{sum(running.boxes) + 1} boxes, and ends: {' '.join(tokens[running.query - 1 :])}. Group D, {said['D']} at "
        f"the letter in the list, reads that statement ({looks['D']:.0%} of its attention). Group C, {said['C']} at "
        f"the letter in the question, looks at the letter in the list ({looks['C']:.0%}). Group B, {said['B']} at the "
        f"last word, looks at the letter in the question ({looks['B']:.0%}) and tells group A where to look. Group A, "
        f"{said['A']} at the last word, looks at the object ({looks['A']:.0%}). The model answers {running.answer}, "
        f"with {running.clean:.2f} of the probability among the objects."
    )


def caption(running: Running) -> str:
    """What happens to the answer when a group hears another prompt, in a sentence."""
    told = {name: f"{one.replaced:.2f}" for name, one in running.groups.items()}
    return (
        f"One prompt, one model: who reads what, with the share of its attention. Among the seven objects "
        f"the model gives {running.clean:.2f} to the {running.answer} on this prompt; if one group's outputs are those "
        f"of another prompt: D {told['D']}, C {told['C']}, B {told['B']}, A {told['A']}."
    )


def picture(running: Running, *, narrow: bool = False, **options: Any) -> str:
    """The drawing as SVG; `narrow` for a phone: fewer words, the same sizes of text.

    print(circuit.picture(running, narrow=True))
    """
    places, end = _places(running, narrow)
    x = {name: places[place] for name, place in zip("DCBA", _at(running), strict=True)}
    body = [_tokens(running, places, narrow), *_arrows(running, x, places[running.object], narrow)]
    body += [_node(name, (x[name], _HIGH[name]), running.groups[name].heads, narrow) for name in "DCBA"]
    answer = f"{running.answer} {running.clean:.2f}"
    body.append(text(x["A"], 30, answer, 16, font_weight="bold", text_anchor="middle"))
    height = _ROW + (12 if narrow else 30)
    return drawing.frame((end, height), "The circuit on one prompt", words(running), body, **options)


_HIGH = {"A": 80.0, "B": 130.0, "C": 172.0, "D": 206.0}
_ROW = 258.0
"""The heights at which the groups stand, the later ones higher, and that of the words of the prompt."""


def _arrows(running: Running, x: Mapping[str, float], thing: float, narrow: bool) -> list[str]:
    """What moves: an arrow is as wide as the attention that it stands for."""
    wide, top, r = {name: 1.5 + 6 * share for name, share in running.looks.items()}, _ROW - 19, _radius(narrow) + 2
    bend, high = x["A"] - (x["A"] - thing) / 3, _HIGH["A"]
    drawn = [
        curve((thing, top), (thing, high), (bend, high), (x["A"] - r, high), GROUP_COLOURS["A"], wide["A"]),
        _up(x["D"], top, _HIGH["D"] + r, GROUP_COLOURS["D"]),
        _across((x["D"] + r, _HIGH["D"]), (x["C"] - r, _HIGH["C"]), GROUP_COLOURS["C"], wide["C"]),
        _across((x["C"] + r, _HIGH["C"]), (x["B"] - r, _HIGH["B"]), GROUP_COLOURS["B"], wide["B"]),
        _up(x["B"], _HIGH["B"] - r, _HIGH["A"] + r, GROUP_COLOURS["B"]),
        _up(x["A"], _HIGH["A"] - r, 40, charts.INK),
    ]
    shares = {"A": (thing + (x["A"] - thing) * 0.24, 132.0), "B": (x["C"] + 24, _HIGH["C"] + 14)}
    shares["C"] = (x["D"] + x["C"]) / 2 + (4 if narrow else 14), 212.0
    return drawn + [text(*at, f"{running.looks[name]:.0%}", 12) for name, at in shares.items()]


def _up(x: float, low: float, high: float, colour: str) -> str:
    third = (low - high) / 3
    return curve((x, low), (x, low - third), (x, high + third), (x, high), colour)


def _radius(narrow: bool) -> int:
    return 11 if narrow else 13


def _at(running: Running) -> tuple[int, int, int, int]:
    return running.prev, running.query, running.last, running.last


def _across(start: drawing.Point, end: drawing.Point, colour: str, wide: float) -> str:
    half = (start[0] + end[0]) / 2
    return curve(start, (half, start[1]), (half, end[1]), end, colour, wide)


def _node(name: str, at: drawing.Point, heads: str, narrow: bool) -> str:
    r = _radius(narrow)
    circle = tag("circle", cx=at[0], cy=at[1], r=r, fill="none", stroke=GROUP_COLOURS[name], stroke_width=2.5)
    letter = text(at[0], at[1] + 5, name, 14, font_weight="bold", text_anchor="middle")
    told = heads if narrow else f"{heads} {ROLES[name]}"
    if name in "AB":
        return circle + letter + text(at[0] + r + 7, at[1] + 5, told)
    if name == "C" and not narrow:
        return circle + letter + text(at[0] + r, at[1] - r - 6, told, text_anchor="end")
    return circle + letter + text(at[0], at[1] - r - 6, told, text_anchor="middle")


def _shown(running: Running, narrow: bool) -> list[tuple[int | None, str]]:
    """Places and words of the row: the statement, what is left out, the question."""
    before, after = running.boxes
    statement = [place for place in running.statement if not narrow or place >= running.object]
    row: list[tuple[int | None, str]] = [(None, _left(before, narrow))] * (before > 0)
    row += [(place, running.tokens[place]) for place in statement]
    row += [(None, _left(after, narrow))] * (after > 0)
    return row + [(place, running.tokens[place]) for place in range(running.query - 1, running.last + 1)]


def _left(count: int, narrow: bool) -> str:
    return "……" if narrow else f"… {count} more box{'es' * (count != 1)} …"


def _places(running: Running, narrow: bool) -> tuple[dict[Any, float], float]:
    """The middle of each word of the row, and where the drawing ends."""
    x, places = 4.0, dict[Any, float]()
    for number, (place, word) in enumerate(_shown(running, narrow)):
        room = drawing.width(word, 14) + (6 if narrow else 12)
        places["row", number] = x + room / 2
        if place is not None:
            places[place] = x + room / 2
        x += room + (2 if narrow else 4)
    return places, x + (72 if narrow else 180)


def _tokens(running: Running, places: Mapping[Any, float], narrow: bool) -> str:
    acting = {running.prev: "D", running.query: "C", running.last: "A"}
    marked = {running.object: charts.NEUTRAL} | {place: GROUP_COLOURS[name] for place, name in acting.items()}
    names = {running.object: "object", running.prev: "letter in the list", running.query: "letter asked for"}
    row, drawn = _shown(running, narrow), []
    rooms = [drawing.width(word, 14) + (5 if narrow else 11) for _, word in row]
    read = [number for number, (place, _) in enumerate(row) if place in running.statement]
    left, right = (places["row", read[end]] + side * rooms[read[end]] / 2 for end, side in ((0, -1), (-1, 1)))
    drawn.append(_box((left + right) / 2, right - left, fill=GROUP_COLOURS["D"], opacity=0.25))
    for number, ((place, word), room) in enumerate(zip(row, rooms, strict=True)):
        x, bold = places["row", number], "bold" if place in marked else None
        if place in marked:
            drawn.append(_box(x, room, stroke=marked[place], stroke_width=2, fill="none"))
        drawn.append(text(x, _ROW, word, 14, text_anchor="middle", font_weight=bold))
        if place in names and not narrow:
            drawn.append(text(x, _ROW + 24, names[place], 12, text_anchor="middle"))
    return "".join(drawn)


def _box(middle: float, wide: float, **look: Any) -> str:
    return tag("rect", x=middle - wide / 2, y=_ROW - 17, width=wide, height=24, rx=5, **look)

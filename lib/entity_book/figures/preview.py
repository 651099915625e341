"""What other sites show when someone passes on a page: question, circuit and answer in 1200 by 630 pixels."""

from ..claims import answer, claims
from ..claims.verdicts import Found
from . import circuit, drawing
from .circuit import Running
from .drawing import lines, tag, text

WIDTH, HEIGHT = 1200.0, 630.0


def picture(found: Found, running: Running | None) -> str:
    """The picture as SVG; without a running prompt the answer stands alone.

    print(preview.picture(book.found().reported, running))
    """
    judged = claims.table(found)
    central, _, counts = answer.sentences(judged, found)
    head, y = lines(60, 82, answer.QUESTION, 50, 42, font_weight="bold")
    body = [tag("rect", width=WIDTH, height=HEIGHT, fill="#ffffff"), head]
    if running is None:
        said, y = lines(60, y + 60, central, 70, 32, font_weight="bold")
    else:
        body.append(circuit.picture(running, x=110, y=y - 22, width=980, height=352))
        said, y = text(60, 556, f"{answer.short(judged)}.", 34, font_weight="bold"), 600.0
    body += [said, lines(60, y, counts, 110, 21)[0]]
    size = {"width": WIDTH, "height": HEIGHT, "color": "#1a1a1a"}
    return drawing.frame((WIDTH, HEIGHT), answer.QUESTION, f"{central} {counts}", body, **size)

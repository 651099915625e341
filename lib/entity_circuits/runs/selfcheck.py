"""What every model is tried on before its first replay: edits of every kind, in one prompt."""

from typing import Any

from torch import Tensor

from .edits import Edit
from .recording import Recording


def probes(first: Recording) -> list[list[Edit]]:
    """Edits of every kind in a recording of one prompt, in its lowest, middle and highest layers, as three variants."""
    last, top = first.prompts.last, first.subject.layers - 1
    early, everything = last // 2, tuple(range(first.subject.heads))
    heads = everything[:: max(1, len(everything) // 2)]

    def other(site: Any, layer: int) -> Tensor:
        return 0.5 * first.at(site, layer, last)[:, list(heads)]

    frozen = [Edit("z", top // 2, heads, early, other("z", top // 2))]
    if not int(last):  # one token hears nobody
        return [frozen]
    return [
        frozen,
        [
            Edit("v", 0, heads, early, other("v", 0)),
            Edit("k", top // 2, heads, early, other("k", top // 2)),
            Edit("q", top, everything, last, 2 * first.at("z", top, last)),
        ],
        [
            Edit("score", top, everything, last, key=early),
            Edit("v", top // 2, heads, early, other("v", top // 2), seen_by=last),
        ],
    ]

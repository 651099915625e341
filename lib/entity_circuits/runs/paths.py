"""What a path of path patching has to be, checked before any model runs."""

from collections.abc import Sequence

from .. import heads
from ..arguments import of_kind, one_of
from ..heads import Head
from ..models.subject import Subject
from ..tasks.prompts import Prompts
from ..tasks.rounds import Composition

Reach = str
"""Where changed keys and values are heard: "all", or the name of the one position."""


def check(
    subject: Subject,
    base: Prompts,
    source: Prompts,
    position: str,
    receivers: Sequence[Head] | None,
    composition: Composition | None,
    reach: Reach,
) -> None:
    """Raise `ValueError` for a path that does not exist.

    Args:
        subject: the model.
        base: n prompts in which an output is replaced.
        source: n prompts from which it comes.
        position: where it is replaced.
        receivers: heads through which it acts; None: none.
        composition: what they receive through, "q", "k" or "v"; None: the answer is read.
        reach: where changed keys and values are heard.
    """
    one_of("composition", composition, Composition | None)
    of_kind("base prompts", base, Prompts)
    base.require_form(source)
    if (receivers is None) != (composition is None):
        raise ValueError("receivers and their composition (q, k or v) are given together, or neither")
    if receivers is None and position != "last":
        raise ValueError(f"without receivers the answer is read at `last`: position must be 'last', not {position!r}")
    if receivers is not None and not receivers:
        raise ValueError("the list of receivers is empty")
    here = base.position(position)
    source.position(position)
    if reach != "all":
        if composition not in ("k", "v"):
            raise ValueError(f"reach={reach!r} says where changed keys and values are heard: composition='k' or 'v'")
        if bool((base.position(reach) < here).any()):
            raise ValueError(f"what is changed at {position!r} cannot be heard at {reach!r}, which comes before it")
    heads.require(receivers or (), subject.layers, subject.heads, "as a receiver")

"""Models of a type that no form is known for: whether their parts are where Llama has them and do what edits say.

`models.forms` lists the forms that are known; what is not there is run as if it were a Llama, and tried first.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from ..models import forms
from ..models.precision import apart, close
from ..models.subject import Subject
from ..tasks.prompts import Prompts
from .edits import Activation, Edit, Outcome, Read

Forward = Callable[[Subject, Prompts, Sequence[Edit], Sequence[Read], Tensor], Outcome]
"""One pass of one batch under edits."""


def require_parts(subject: Subject, *inside: str) -> None:
    """Raise `RuntimeError` unless the layers are where the form has them, each with an attention and these parts in it.

    For example:

        from entity_circuits import toy
        from entity_circuits.runs import unknown

        unknown.require_parts(toy.subject(), "q_proj", "o_proj")
        print("can be run")
    """
    form = forms.of(subject.model)
    try:
        for block in form.blocks(subject.model):
            attention = forms.part(block, form.attention)
            for path in inside:
                forms.part(attention, path)
    except AttributeError as error:
        raise refusal(subject, f"{error}: its parts are not called as in Llama") from error


_CHECKED: WeakSet[Any] = WeakSet()


def check_once(subject: Subject, prompts: Prompts, run: Forward) -> None:
    """Whether a model of an unknown type does what edits say: tried on the first prompt, once a model.

    Its own keys and values in place of themselves must change nothing, what a head is forbidden to attend to must not
    reach its output, and other queries, keys and values of some heads must leave what the other heads give out. `run`
    is the pass that the definition makes. Raises `RuntimeError` if one of these is not so.
    """
    if subject.as_wrapped in _CHECKED:
        return
    first, heads = prompts.select(torch.tensor([0])), tuple(range(subject.heads))
    last, early, targets = first.last, first.last // 2, first.input_ids[:, :8]

    def forward(edits: list[Edit], read: list[Read]) -> Outcome:
        return run(subject, first, edits, read, targets)

    with torch.no_grad():
        forward([], [])  # what is wrong with it without edits is said as it is
    with torch.no_grad(), _as_refusal(subject):
        places = [Read(site, layer, early) for layer in range(subject.layers) for site in ("k", "v")]
        clean = forward([], places)
        same = [Edit(at.site, at.layer, heads, early, value[0]) for at, value in zip(places, clean.reads, strict=True)]
        moved = forward(same, []).logits
        cut, z = Edit("score", 0, heads, last, key=early), [Read("z", 0, last)]
        other = Edit("v", 0, heads, early, 1 - 2 * clean.reads[1][0])
        leaked, held = (forward(edits, z).reads[0] for edits in ([cut, other], [cut]))
        mixed, own = [], []
        sites: tuple[Activation, ...] = ("q", "k", "v")
        for layer in sorted({0, subject.layers // 2, subject.layers - 1}) if subject.heads > 1 else ():
            out = [Read("z", layer, last)]
            given = forward([], [*out, *(Read(site, layer, last) for site in sites)]).reads
            changes = [
                Edit(site, layer, heads[::2], last, 1 - 2 * value[0][:, ::2])
                for site, value in zip(sites, given[1:], strict=True)
            ]
            mixed.append(forward(changes, out).reads[0][..., 1::2, :].cpu())
            own.append(given[0][..., 1::2, :].cpu())
    found = [("its own keys and values in place of themselves move its logits", moved, clean.logits)]
    found.append(("a cut leaks, and moves the output of a head", leaked, held))
    if mixed:
        what = "queries, keys and values of some heads move what others give out"
        found.append((what, torch.cat(mixed), torch.cat(own)))
    for what, one, right in found:
        if not close(one, right, subject.dtype, subject.device):
            raise refusal(subject, f"{what} by {apart(one, right):.2g} of their size")
    _CHECKED.add(subject.as_wrapped)


def refusal(subject: Subject, what: str) -> RuntimeError:
    """The error that says what a model of an unknown type does, or has not."""
    kind = type(subject.model).__name__
    return RuntimeError(
        f"{subject.name} is a {kind}, which is not known here, and does not do what edits say: {what}. "
        "Choose a model of a family of models.forms."
    )


@contextlib.contextmanager
def _as_refusal(subject: Subject) -> Iterator[None]:
    """Inside, whatever goes wrong is told as the refusal of a model of an unknown type."""
    try:
        yield
    except Exception as error:  # whatever its code says of shapes that it does not expect
        raise refusal(subject, str(error).strip().splitlines()[-1]) from error

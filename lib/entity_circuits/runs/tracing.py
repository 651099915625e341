"""A model seen from inside: its nnsight view, what it is given, and one traced pass in which activations are kept."""

from typing import Any

import nnsight
import torch
from torch import Tensor

from ..models import forms
from ..models.alone import ALONE
from ..models.precision import fast_float32
from ..models.subject import Subject
from ..tasks.prompts import Prompts
from .projected import projected_at, taken_apart


@ALONE
def seen(subject: Subject, inputs: dict[str, Any], kept: Tensor) -> dict[str, list[Tensor]]:
    """One traced forward pass: of the tokens where `kept` is true the input of each layer and the output of the last,
    and each layer's keys, values and z, in lists by layer."""
    model, form = wrapped(subject), forms.of(subject.model)
    with fast_float32(subject), torch.no_grad(), model.trace(**inputs, **no_logits()):
        found: dict[str, list[Tensor]] = {"residual": [], "z": [], "k": [], "v": []}
        for layer in form.blocks(model):
            attention = forms.part(layer, form.attention)
            found["residual"].append(layer.input[kept])
            projected: dict[str, Tensor] = {}
            for path, sites in projected_at(form):
                projected |= taken_apart(subject, forms.part(attention, path).output, sites)
            found["k"].append(projected["k"][kept])
            found["v"].append(projected["v"][kept])
            found["z"].append(forms.part(attention, form.out).input[kept])
        output = layer.output
        found["residual"].append((output[0] if isinstance(output, tuple) else output)[kept])
        found = nnsight.save(found)
    return found  # noqa: RET504 (nnsight fills the name when the trace ends)


def no_logits() -> dict[str, list[int]]:
    """What a model is told when nobody reads its logits: those of one token are enough.

    As a number, and not a list, that token would be a slice, for which the output matrix is copied for each prompt. A
    tensor would be moved to the first device, and be no index on the last.
    """
    return {"logits_to_keep": [0]}


def inputs_of(subject: Subject, prompts: Prompts) -> dict[str, Any]:
    """Unpadded prompts go in without a mask: then the attention kernel is the causal one, edits or none."""
    full = bool((prompts.last == prompts.input_ids.shape[1] - 1).all())
    mask = {} if full else {"attention_mask": prompts.attention_mask.to(subject.device)}
    return {"input_ids": prompts.input_ids.to(subject.device), "use_cache": False, **mask}


class _View:
    """The nnsight view of a model, kept by the model itself: both are freed together. A copy of a model has none."""

    def __init__(self) -> None:
        self.model: Any = None
        self.modules: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _View, ()


@ALONE
def wrapped(subject: Subject) -> Any:
    """The nnsight view of a model, made once for these modules at these places (each view leaves hooks behind): one
    of what was there before would look into other layers."""
    view = vars(subject.model).setdefault("_nnsight_view", _View())
    modules = dict(subject.model.named_modules())
    if view.modules != modules:
        view.model, view.modules = nnsight.NNsight(subject.model), modules
    return view.model

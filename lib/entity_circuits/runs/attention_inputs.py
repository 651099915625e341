"""What a model hands to the attention of each layer beside the hidden states: rotation, and who may hear whom.

Both are the model's own, seen in one run of it: windows, rotations that differ by layer, layers without one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..models import forms
from ..models.alone import ALONE
from ..models.subject import Subject
from ..tasks.prompts import Prompts
from .edits import Edit


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """Of one layer. `rotation` is the model's cosines and sines, (1, T, size) each, None where nothing is rotated;
    `visible` (T, T) bool says which key (column) each query (row) may hear, None where that is all up to itself. The
    rotation is where the layer is; what is visible is on the CPU, like all positions."""

    rotation: tuple[Tensor, Tensor] | None
    visible: Tensor | None


_SEEN: WeakKeyDictionary[Any, dict[int, tuple[AttentionInputs, ...]]] = WeakKeyDictionary()


def of(subject: Subject, width: int) -> tuple[AttentionInputs, ...]:
    """What each layer's attention is given for prompts of `width` tokens. One run of the model, once for each width.

    For example:

        from entity_circuits import models
        from entity_circuits.runs import attention_inputs

        print(attention_inputs.of(models.load("qwen2.5-coder-0.5b"), width=5)[0].rotation[0].shape)
    """
    seen = _SEEN.setdefault(subject.as_wrapped, {})
    if width not in seen:
        seen[width] = _observed(subject, width)
    return seen[width]


def heard(given: AttentionInputs, width: int, position: Tensor) -> Tensor:
    """(n, width) bool: the keys that the queries at `position` (n,) may hear.

    For example:

        import torch
        from entity_circuits import toy
        from entity_circuits.runs import attention_inputs

        given = attention_inputs.of(toy.subject(), width=4)[0]
        print(attention_inputs.heard(given, 4, torch.tensor([1])))
    """
    if given.visible is not None:
        return given.visible[position]
    return torch.arange(width, device=position.device)[None] <= position[:, None]


def require_something_heard(subject: Subject, prompts: Prompts, edits: Sequence[Edit]) -> None:
    """Raise `ValueError` if these edits forbid a head at some position to attend to anything at all."""
    for layer in {edit.layer for edit in edits if edit.site == "score"}:
        cuts = [edit for edit in edits if edit.site == "score" and edit.layer == layer]
        width = prompts.input_ids.shape[1]
        given = of(subject, width)[layer]
        for cut in cuts:
            assert cut.position is not None
            open_ = heard(given, width, cut.position)
            if len(cuts) < int(open_.sum(1).min()):
                continue  # too few to leave nothing
            left = open_[:, None].repeat(1, subject.heads, 1)
            for other in cuts:
                assert other.position is not None and other.key is not None
                rows = torch.nonzero(other.position == cut.position)
                left[rows, torch.tensor(other.heads, device=rows.device), other.key[rows]] = False
            if not bool(left[:, list(cut.heads)].any(-1).all()):
                raise ValueError(
                    f"these edits leave a head of layer {layer} nothing to attend to at some position: "
                    "its output would be no number. Leave one key, or edit its z"
                )


@ALONE
def _observed(subject: Subject, width: int) -> tuple[AttentionInputs, ...]:
    form, places = forms.of(subject.model), subject.devices
    given: list[AttentionInputs] = []

    def take(module: nn.Module, _: Any, options: dict[str, Any]) -> None:
        rotated = getattr(module, "use_rope", True) and (form.rotates_all or module.sliding_window is not None)
        rotation = options.get("position_embeddings") if rotated else None
        if rotation is not None:  # made once, where the tokens go in
            rotation = tuple(part.to(places[len(given)]) for part in rotation)
        given.append(AttentionInputs(rotation, _visible(options.get("attention_mask"), width)))

    hooks = [
        forms.part(block, form.attention).register_forward_pre_hook(take, with_kwargs=True)
        for block in form.blocks(subject.model)
    ]
    try:
        with torch.no_grad():
            ids = torch.zeros(1, width, dtype=torch.long, device=subject.device)
            forms.part(subject.model, form.body)(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(given)


def _visible(mask: Tensor | None, width: int) -> Tensor | None:
    if mask is None:
        return None
    mask = mask.cpu()
    allowed = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] > torch.finfo(mask.dtype).min / 2
    causal = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
    return None if torch.equal(allowed, causal) else allowed

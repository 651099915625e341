"""A condition of cross-model patching as edits of a run."""

from typing import Any

import torch
from torch import Tensor

from ..arguments import boolean
from ..heads import by_layer
from ..models.precision import fast_float32
from ..runs import blocks
from ..runs.edits import Edit
from ..runs.recording import Recording
from .cmap_conditions import Condition, Origin


def edits_of(
    condition: Condition,
    base: Recording,
    tuned: Recording,
    *,
    literal: bool = False,
    made: dict[tuple[Any, ...], Tensor] | None = None,
) -> list[Edit]:
    """A condition as edits of a run of the model that it patches.

    Args:
        condition: what is patched.
        base: the recording of the one model.
        tuned: that of the other, on the same prompts.
        literal: project queries of all tokens and take one, as the model does: the same numbers, to the last bit where
            only rounding would differ.
        made: keeps values for the next condition.

    Returns edits for a run of the model that `condition.into` names.

        from entity_circuits import cmap, models, runs, tasks

        base, tuned = models.load_pair("arithmetic")
        p, one = tasks.default.prompts(base, n=7), cmap.Condition("A", {"last": ["L3H5"]})
        edits = cmap.edits_of(one, runs.record(base, p), runs.record(tuned, p))
        print(runs.run(base, p, edits).logprob)
    """
    boolean("literal", literal)
    made, order = {} if made is None else made, (base, tuned) if condition.into == "base" else (tuned, base)
    prompts = order[0].prompts
    found = []
    for place, some in condition.heads.items():
        position = None if place == "everywhere" else prompts.position(place)
        for layer, numbers in by_layer(some).items():
            for site in condition.sites:
                near = place if site in "zq" else None  # keys and values are the same for every place
                key = (condition.into, condition.origin, site, layer, numbers, near)
                if key not in made:
                    made[key] = _value(order, condition.origin, site, layer, numbers, position, literal)
                if site in ("k", "v"):
                    found.append(Edit(site, layer, numbers, None, made[key], seen_by=position))
                else:
                    found.append(Edit(site, layer, numbers, position, made[key]))
    return found


def _value(
    order: tuple[Recording, Recording],
    origin: Origin,
    site: str,
    layer: int,
    numbers: tuple[int, ...],
    position: Tensor | None,
    literal: bool,
) -> Tensor:
    """What takes the place of an activation of these heads: (n, heads, head_size), of all tokens (n, T, ...).

    `order` is the recording of the model that is patched and that of the other. Keys and values are of all tokens, as
    is z where there is no position.
    """
    receiver, donor = order
    rows, heads = torch.arange(len(donor)), list(numbers)
    if site == "z":
        return donor.span("z", layer)[:, :, heads] if position is None else donor.at("z", layer, position)[:, heads]
    weights, arriving = {"run": (donor, donor), "weights": (donor, receiver), "inputs": (receiver, donor)}[origin]
    shared = 1 if site == "q" else donor.subject.heads // donor.subject.kv_heads
    heads = [number // shared for number in heads]
    if site != "q" and origin == "run":
        return donor.span("k" if site == "k" else "v", layer)[:, :, heads]
    early = site == "q" and not literal and position is not None
    x = arriving.stream(layer, position) if early and position is not None else arriving.span("residual", layer)
    with fast_float32(weights.subject):
        x = blocks.read_by_attention(weights.subject, layer, x.to(weights.subject.devices[layer]))
        slices = blocks.project(weights.subject, layer, site, x, apart=False)
    slices = slices[rows, position] if site == "q" and literal else slices
    return slices[..., heads, :]

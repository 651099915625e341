"""A first look at all senders of path patching at once, by one backward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import heads
from ..arguments import of_kind, one_of
from ..heads import Head
from ..runs import replay
from ..runs.edits import Edit, Outcome, Read
from ..runs.paths import Reach, check
from ..runs.recording import Recording
from ..tasks.prompts import require_answers
from ..tasks.rounds import Composition


def screen(
    base: Recording,
    source: Recording,
    *,
    position: str,
    receivers: Sequence[Head | str] | None = None,
    composition: Composition | None = None,
    reach: Reach = "all",
) -> Tensor:
    """(layers, heads): a first-order estimate of every sender's mean change of log p(answer), from one backward pass.

    Args:
        base: the recording of n prompts.
        source: that of the n prompts from which outputs come.
        position: where they are replaced.
        receivers: as in `path_patching.sweep`.
        composition: likewise.
        reach: likewise.

    Attribution patching along the path of `sweep`: the gradient with respect to every head's z at `position`, times the
    difference between source and base. It ranks heads before the exact sweep; it does not replace it.

        from entity_circuits import models, path_patching, runs, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        drawn = tasks.default.experiment(subject, n=7)
        base, source = (runs.record(subject, p) for p in (drawn.base, drawn.source))
        print(path_patching.screen(base, source, position="last").flatten().argsort()[:5])
    """
    one_of("composition", composition, Composition | None)
    of_kind("base", base, Recording)
    of_kind("source", source, Recording)
    subject = base.subject
    receivers = None if receivers is None else heads.of(receivers)
    check(subject, base.prompts, source.prompts, position, receivers, composition, reach)
    require_answers(base.prompts)
    here, there = base.prompts.position(position), source.prompts.position(position)
    every = tuple(range(subject.heads))
    layers = range(subject.layers if receivers is None else max(head.layer for head in receivers))
    if not layers:
        return torch.full((subject.layers, subject.heads), torch.nan)
    leaves = [base.at("z", layer, here).clone().requires_grad_(True) for layer in layers]
    senders = [Edit("z", layer, every, here, leaf) for layer, leaf in zip(layers, leaves, strict=True)]
    if receivers is None:
        effect = replay.replay(base, [senders], frozen=True).logprob.sum()
    else:
        assert composition is not None
        groups = heads.by_layer(receivers)
        read = [Read(composition, layer, here) for layer in groups]
        values = [
            replay.recorded(base, item)[:, list(numbers)] for item, numbers in zip(read, groups.values(), strict=True)
        ]
        values = [value.clone().requires_grad_(True) for value in values]
        seen_by = None if reach == "all" else base.prompts.position(reach)
        edits = [
            Edit(composition, layer, numbers, here, value, seen_by=seen_by)
            for (layer, numbers), value in zip(groups.items(), values, strict=True)
        ]
        slopes = torch.autograd.grad(replay.replay(base, [edits]).logprob.sum(), values)
        reads: Outcome = replay.replay(base, [senders], frozen=True, read=read, answer=False)
        parts = zip(reads.reads, groups.values(), slopes, strict=True)
        effect = torch.stack(
            [(value[0][:, list(numbers)] * slope).sum().cpu() for value, numbers, slope in parts]
        ).sum()
    estimate = torch.full((subject.layers, subject.heads), torch.nan)
    for layer, slope in zip(layers, torch.autograd.grad(effect, leaves), strict=True):
        step = source.at("z", layer, there) - base.at("z", layer, here)
        estimate[layer] = (slope * step).sum(-1).mean(0).float().cpu()
    return estimate

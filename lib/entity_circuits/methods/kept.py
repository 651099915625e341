"""Which heads a circuit keeps, and where: places as tokens, live tokens as masks, and the same as a list of edits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import heads
from ..arguments import of_kind
from ..heads import Head
from ..models.subject import Subject
from ..runs import mean_replay
from ..runs.edits import Edit, Outcome
from ..runs.mean_replay import Means
from ..tasks.prompts import Prompts

Kept = Mapping[str, Iterable[Head | str]]
"""Which heads keep their own output, by place (see `positions`); every other head is at its mean, everywhere."""


def positions(prompts: Prompts, place: str) -> Tensor:
    """(n, k): the tokens that a place names in each prompt, -1 where a prompt has none: `Prompts.places`.

    For example:

        from entity_circuits import toy
        from entity_circuits.methods import kept

        print(kept.positions(toy.prompts("apple", "cup"), "last"))
    """
    return prompts.places(place)


def check(subject: Subject, prompts: Prompts, circuits: Sequence[Kept], means: Means) -> None:
    """Raise `ValueError` for a head or a place that is not there, or means that do not fit model and prompts.

    A place that some prompts lack is there; one that no prompt has is not, and no head could be kept there.
    """
    of_kind("prompts", prompts, Prompts)
    of_kind("means", means, Means)
    means.require(prompts, subject)
    shape = (subject.layers, means.z.shape[1], subject.heads, subject.head_size)
    if (tuple(means.z.shape), means.z.dtype) != (shape, subject.dtype):
        raise ValueError(
            f"these means are of another model: {tuple(means.z.shape)} in {means.z.dtype}, and "
            f"{subject.name} needs {shape} in {subject.dtype}"
        )
    for circuit in circuits:
        for place, some in circuit.items():
            there, some = prompts.places(place), heads.of(some)
            heads.require(some, subject.layers, subject.heads, f"at {place}")
            if some and not bool((there >= 0).any()):
                raise ValueError(f"none of the prompts has a token at {place!r}: heads cannot be kept or removed there")


def live(subject: Subject, prompts: Prompts, circuits: Sequence[Kept]) -> tuple[Tensor, Tensor]:
    """Where circuits keep anything, and what: positions (n, P), -1 for none, and masks (circuits, layers, P, heads).

    `last` is always among them, and two places that are one token keep what either keeps. Raises `ValueError` for an
    unknown place or head, and for two places that are one token in some prompts only, with different heads.

    For example:

        from entity_circuits import toy
        from entity_circuits.methods import kept

        where, masks = kept.live(toy.subject(), toy.prompts("apple"), [{"last": ["L2H0"]}, {"prev": ["L0H0"]}])
        print(where, masks.shape)
    """
    columns: list[tuple[str, Tensor]] = []
    masks: list[Tensor] = []
    for place in dict.fromkeys(place for circuit in circuits for place in [*circuit, "last"]):
        keep = torch.zeros(len(circuits), subject.layers, subject.heads, dtype=torch.bool, device=prompts.last.device)
        for index, circuit in enumerate(circuits):
            some = heads.of(circuit.get(place, ()))
            heads.require(some, subject.layers, subject.heads, f"at {place}")
            for head in some:
                keep[index, head.layer, head.head] = True
        for column in prompts.places(place).unbind(1):
            for known, (other, there) in enumerate(columns):
                same = (column == there) & (column >= 0)
                if bool(same.all()):
                    masks[known] = masks[known] | keep
                    break
                if bool(same.any()) and not torch.equal(masks[known], keep):
                    raise ValueError(f"{place!r} and {other!r} are the same token in some of the prompts")
                if place == "last":  # answers are read there: it stays whole
                    columns[known] = (other, there.masked_fill(same, -1))
                else:
                    column = column.masked_fill(same, -1)
            else:
                columns.append((place, column))
                masks.append(keep)
    return torch.stack([column for _, column in columns], dim=1), torch.stack(masks, dim=2)


def edits(subject: Subject, prompts: Prompts, circuit: Kept, means: Means) -> list[Edit]:
    """The definition: every head's z is replaced by its mean at every position where the circuit does not keep it.

    Paper: section 3 (method of the ablations).

    For example:

        from entity_circuits import ablation, runs, toy
        from entity_circuits.methods import kept

        subject, p = toy.subject(), toy.prompts("apple", "cup")
        means = ablation.means(subject, prompts=p)
        print(runs.run(subject, p, kept.edits(subject, p, {"last": ["L2H0"]}, means)).logprob)
    """
    means.require(prompts, subject)
    slots, keep = live(subject, prompts, [circuit])
    rest = torch.ones(len(prompts), means.z.shape[1] + 1, dtype=torch.bool, device=slots.device)
    rest[torch.arange(len(prompts), device=slots.device)[:, None], slots] = False  # -1 marks the spare last column
    rest[:, -1] = False
    width = int(rest.sum(1).max())
    order = torch.argsort(~rest, dim=1, stable=True)[:, :width]
    free = rest.any(1)
    if width:  # a row with fewer such positions repeats its first one, which changes nothing
        order = torch.where(rest.gather(1, order), order, order[:, :1])
    found = []
    for layer in range(subject.layers):
        sometimes = keep[0, layer].any(0)
        never = tuple(torch.nonzero(~sometimes)[:, 0].tolist())
        if never:
            value = means.z[layer, :, list(never)].expand(len(prompts), -1, -1, -1)
            found.append(Edit("z", layer, never, None, value))
        for slot, column in enumerate(slots.unbind(1)):
            out = tuple(torch.nonzero(sometimes & ~keep[0, layer, slot])[:, 0].tolist())
            if out and bool((column < 0).any()):
                if not bool(free[column < 0].all()):
                    raise ValueError("a place is missing in a prompt in which every other token is kept")
                column = torch.where(column < 0, order[:, 0], column)
            if out:
                found.append(Edit("z", layer, out, column, means.z[layer, column][:, list(out)]))
        some = tuple(torch.nonzero(sometimes)[:, 0].tolist())
        if some:
            found += [Edit("z", layer, some, at, means.z[layer, at][:, list(some)]) for at in order.unbind(1)]
    return found


def removal(subject: Subject, prompts: Prompts, removed: Kept, means: Means) -> list[Edit]:
    """The edits that put only these heads at their means, at these places, in the otherwise unmodified model.

    For example:

        from entity_circuits import ablation, runs, toy
        from entity_circuits.methods import kept

        subject, p = toy.subject(), toy.prompts("apple", "cup")
        means = ablation.means(subject, prompts=p)
        print(runs.run(subject, p, kept.removal(subject, p, {"last": ["L2H0"]}, means)).logprob)
    """
    means.require(prompts, subject)
    found = []
    for place, numbers in removed.items():
        for column in prompts.places(place).unbind(1):
            if bool((column < 0).any()):
                raise ValueError(f"{place!r} is missing in some of the prompts: heads cannot be removed there")
            for layer, some in heads.by_layer(heads.of(numbers)).items():
                found.append(Edit("z", layer, some, column, means.z[layer, column][:, list(some)]))
    return found


def ablate(subject: Subject, prompts: Prompts, circuits: Sequence[Kept], means: Means, **options: Any) -> Outcome:
    """`mean_replay.ablate` of circuits: the numbers of `runs.run` under `edits`, one variant a circuit, for less work.

    Args:
        subject: the model.
        prompts: n prompts of the length of those of the means.
        circuits: heads that are kept, by place.
        means: what stands in place of all others.
        **options: to `mean_replay.ablate`.

    Returns an `Outcome` of (circuits, n).

        from entity_circuits import ablation, models, tasks
        from entity_circuits.methods import kept

        subject = models.load("qwen2.5-coder-0.5b")
        p, means = tasks.default.prompts(subject, n=7), ablation.means(subject, n=20)
        print(kept.ablate(subject, p, [{"last": ["L3H5"]}], means).logprob)
    """
    return mean_replay.ablate(subject, prompts, *live(subject, prompts, circuits), means, **options)

"""Masks as plain frozen data: what is asked of one, what was learned, and tables of several. `dcm` learns them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..arguments import finite, integer
from ..heads import Head, every
from ..heads import of as heads_of
from ..models.subject import Subject
from .interchange import Position


@dataclass(frozen=True)
class Asked:
    """One mask to be learned: among which heads (None: all of the model), at which position, towards which answer.

    `target` names a candidate of the triples (None: their own target). `penalty` is in logits a patched head. With a
    `seed`, the triples are drawn anew from those given, with replacement. Raises `ValueError` for no heads, and a
    penalty below 0.
    """

    heads: tuple[Head, ...] | None
    position: Position
    target: str | None = None
    penalty: float = 0.01
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.heads is not None:
            object.__setattr__(self, "heads", heads_of(self.heads))
            if not self.heads:
                raise ValueError("a mask needs heads to choose among")
        finite("penalty", self.penalty, 0)
        if self.seed is not None:
            object.__setattr__(self, "seed", integer("seed", self.seed, -(2**63), 2**64 - 1))  # what torch takes

    def among(self, subject: Subject) -> "Asked":
        """The same with its heads written out, each once."""
        chosen = every(subject.layers, subject.heads) if self.heads is None else self.heads
        return replace(self, heads=tuple(dict.fromkeys(heads_of(chosen))))


@dataclass(frozen=True, eq=False)
class Mask:
    """What was learned about some heads at one position.

    `keep` (heads,) are the final weights, each averaged over the last window of steps: 1 means left alone, 0 patched.
    `trace` (steps + 1, heads) are the weights step by step and `logit` (steps,) the target's mean logit. `snapshots`
    has one row a window: `step`, the number of `heads` that round to patched, and their `accuracy` on the validation
    triples. `selected` are the heads of the best of them, the fewest among equals, and `accuracy` theirs. `converged`
    says whether the weights had settled when learning stopped; `settled` are the heads that the final ones patch.
    """

    heads: tuple[Head, ...]
    position: Position
    desideratum: str
    penalty: float
    seed: int | None
    keep: Tensor
    trace: Tensor
    logit: Tensor
    snapshots: pd.DataFrame
    selected: tuple[Head, ...]
    accuracy: float
    converged: bool

    @property
    def settled(self) -> tuple[Head, ...]:
        """The heads that the final weights patch."""
        return tuple(head for head, weight in zip(self.heads, self.keep.tolist(), strict=True) if weight < 0.5)

    def tensors(self) -> dict[str, Tensor]:
        """What was learned, as named tensors: with what was asked, `Mask.restored` makes the mask of them again."""
        looks = torch.tensor(self.snapshots[["step", "heads", "accuracy"]].to_numpy(dtype=float))
        chosen = torch.tensor([head in self.selected for head in self.heads])
        ends = torch.tensor([self.accuracy, float(self.converged)], dtype=torch.float64)
        learned = {"keep": self.keep, "trace": self.trace, "logit": self.logit}
        return {**learned, "looks": looks, "chosen": chosen, "ends": ends}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], **asked: Any) -> "Mask":
        """The mask of these tensors; `asked` are its `heads`, `position`, `desideratum`, `penalty` and `seed`."""
        looks = pd.DataFrame(tensors["looks"].numpy(), columns=["step", "heads", "accuracy"])
        accuracy, converged = tensors["ends"].tolist()
        chosen = zip(asked["heads"], tensors["chosen"].tolist(), strict=True)
        return cls(
            keep=tensors["keep"],
            trace=tensors["trace"],
            logit=tensors["logit"],
            snapshots=looks.astype({"step": int, "heads": int}),
            selected=tuple(head for head, there in chosen if there),
            accuracy=accuracy,
            converged=bool(converged),
            **asked,
        )

    def __str__(self) -> str:
        state = "converged" if self.converged else "NOT converged"
        chosen = ", ".join(map(str, self.selected)) or "none"
        return (
            f"{self.desideratum} at {self.position}, penalty {self.penalty:g}: {len(self.selected)} of "
            f"{len(self.heads)} heads ({chosen}), validation accuracy {self.accuracy:.2f}, {state} after "
            f"{len(self.logit)} steps"
        )


def curve(masks: Sequence[Mask]) -> pd.DataFrame:
    """One row a mask: how many heads its converged weights patch (`settled`), how accurate that is on the validation
    triples, and the same for the heads `selected` on the way there.

        from entity_circuits import dcm, desiderata, models

        subject = models.load("qwen2.5-coder-0.5b")
        t, v = (desiderata.triples(subject, "object", n=7, split=split) for split in ("training", "pruning"))
        print(dcm.curve(dcm.sweep(subject, ["L3H5"], t, v, position="last", penalties=[0.01], steps=20)))
    """
    rows = [
        {
            "desideratum": mask.desideratum,
            "at": mask.position,
            "penalty": mask.penalty,
            "seed": mask.seed,
            "settled": len(mask.settled),
            "settled_accuracy": float(mask.snapshots["accuracy"].iloc[-1]),
            "selected": len(mask.selected),
            "accuracy": mask.accuracy,
            "converged": mask.converged,
            "steps": len(mask.logit),
        }
        for mask in masks
    ]
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def chosen(masks: Sequence[Mask]) -> pd.DataFrame:
    """One row a penalty and head: what share of the masks (one a seed) took it.

    `selected` and `settled` are these shares, from 0 to 1. Raises `ValueError` for masks of several positions, heads or
    targets, which are no seeds of one another.

        from entity_circuits import dcm, desiderata, models

        subject = models.load("qwen2.5-coder-0.5b")
        t, v = (desiderata.triples(subject, "object", n=7, split=split) for split in ("training", "pruning"))
        print(dcm.chosen(dcm.sweep(subject, ["L3H5"], t, v, position="last", penalties=[0.01], steps=20)))
    """
    if len(kinds := {(mask.position, mask.desideratum, mask.heads) for mask in masks}) > 1:
        told = ", ".join(f"{target} at {place}" for place, target, _ in sorted(kinds))
        raise ValueError(f"a share is of masks that differ in penalty and seed alone; these are of {told}")
    rows = [
        {
            "penalty": mask.penalty,
            "head": str(head),
            "layer": head.layer,
            "selected": head in mask.selected,
            "settled": head in mask.settled,
        }
        for mask in masks
        for head in mask.heads
    ]
    return pd.DataFrame(rows).groupby(["penalty", "head", "layer"], sort=False).mean().reset_index()

"""Desiderata-based component masking: which heads carry the information that a desideratum names? Paper, section 5.

`learn` finds the fewest heads of a group whose patching is enough: a number `keep` a head, between 1 (the base's z)
and 0 (the source's), follows the gradient of the target's logit and a penalty on every head that is patched.
`patching` patches whole heads. Nothing is frozen: what comes after the patch is computed anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import patching
from .desiderata import Triples
from .executors import EXECUTORS, Method
from .heads import Head, every
from .patching import Pairs, Position

if TYPE_CHECKING:
    from .models import Subject

_WINDOW = 10  # steps, at least, over which weights are averaged
_ROWS = 512  # tokens of all masks together that are replayed at once with gradients


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


def learn(
    subject: "Subject",
    heads: Sequence[Head] | None,
    triples: Triples | Pairs,
    validation: Triples | Pairs,
    *,
    position: Position,
    penalty: float = 0.01,
    seed: int | None = None,
    rate: float = 0.1,
    steps: int = 150,
    tolerance: float = 0.05,
    method: Method = "replay",
) -> Mask:
    """Learn which of these heads (None: all heads of the model) are enough to turn the answer into the target.

    Maximises the mean logit of the target minus `penalty` (logits a head) times the sum of 1 - keep, with Adam at the
    given `rate`, one recorded batch a step, keep clamped to [0, 1] after each. Every window (whole rounds of the
    batches, at least ten steps) the weights are averaged and rounded (exactly 0.5 is left alone), and the heads so
    chosen are measured on `validation`. It has converged when no average differs from that of the window before by
    more than `tolerance` and all round alike; it stops then, or after `steps`, in whole windows. With a `seed`, the
    triples are drawn anew from those given, with replacement. Raises `ValueError` before any model runs. Paper:
    section 5; the official code keeps the best of 16 snapshots, often unconverged, and more heads on ties (artefact
    B9).

        t, v = (desiderata.triples(subject, "object", split=split) for split in ("training", "pruning"))
        mask = dcm.learn(subject, circuit.groups["value_fetcher"], t, v, position="last")
        print(mask)
    """
    return sweep(
        subject,
        heads,
        triples,
        validation,
        position=position,
        penalties=[penalty],
        seeds=[seed],
        rate=rate,
        steps=steps,
        tolerance=tolerance,
        method=method,
    )[0]


def sweep(
    subject: "Subject",
    heads: Sequence[Head] | None,
    triples: Triples | Pairs,
    validation: Triples | Pairs,
    *,
    position: Position,
    penalties: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
    seeds: Sequence[int | None] = (None,),
    rate: float = 0.1,
    steps: int = 150,
    tolerance: float = 0.05,
    method: Method = "replay",
) -> list[Mask]:
    """`learn` for every penalty and seed, all masks side by side in one replay a step.

    masks = dcm.sweep(subject, heads, pairs, validation, position="last", seeds=[None, 0, 1, 2])
    print(dcm.curve(masks), dcm.chosen(masks))
    """
    group = every(subject.layers, subject.heads) if heads is None else tuple(dict.fromkeys(heads))
    patching.check(subject, group, position, triples, validation)
    if not group or not penalties or not seeds or steps < 1 or min(penalties) < 0 or rate <= 0:
        raise ValueError("a mask needs heads, a penalty of 0 or more, a seed (or None), a positive rate and a step")
    train, judge = (
        given if isinstance(given, Pairs) else patching.record(subject, given) for given in (triples, validation)
    )
    learners = [_Learner.start(train, group, penalty, seed, rate) for penalty in penalties for seed in seeds]
    window = -(-_WINDOW // len(train.batches)) * len(train.batches)
    known: dict[tuple[Head, ...], float] = {}
    for step in tqdm(range(-(-steps // window) * window), desc=f"masks at {position}", disable=None, leave=False):
        active = [learner for learner in learners if not learner.converged]
        if not active:
            break
        if step == 0:
            _look(active, 1, judge, group, position, tolerance, method, known)
        _step(active, train, step % len(train.batches), group, position, method)
        if (step + 1) % window == 0:
            _look(active, window, judge, group, position, tolerance, method, known)
    return [_mask(learner, train, group, position) for learner in learners]


def compare(
    subject: "Subject",
    mask: Mask,
    triples: Triples | Pairs,
    *,
    draws: int = 20,
    seed: int = 0,
    method: Method = "replay",
) -> pd.DataFrame:
    """What a mask's accuracy is to be held against, on triples it was not learned on (the test split).

    The rows of `patch` for "no patch" (the floor), the "selected" heads, "random heads" (as many of the same heads,
    drawn `draws` times without replacement, numbered in `draw`) and the "whole group" (the ceiling); and for "source
    prompt", where a hit is a right answer of the source prompt by itself and no other column of the outcome is filled.

        table = dcm.compare(subject, mask, desiderata.triples(subject, "object", split="evaluation"))
        print(statistics.by(table, "patched", "hit"))
    """
    random = np.random.default_rng(seed)
    picks = [random.choice(len(mask.heads), len(mask.selected), replace=False) for _ in range(draws)]
    sets = {f"random {draw}": [mask.heads[index] for index in pick] for draw, pick in enumerate(picks)}
    table = patching.patch(
        subject,
        {"selected": mask.selected, **sets, "whole group": mask.heads},
        triples,
        position=mask.position,
        method=method,
    )
    alone = table[table["patched"] == "no patch"].assign(patched="source prompt", answer=None, target_logprob=np.nan)
    table = pd.concat([table, alone.assign(hit=alone["source_right"])], ignore_index=True)
    number = table["patched"].str.extract(r"^random (\d+)$")[0]
    return table.assign(patched=table["patched"].where(number.isna(), "random heads"), draw=number.astype("Int64"))


def curve(masks: Sequence[Mask]) -> pd.DataFrame:
    """One row a mask: how many heads its converged weights patch (`settled`), how accurate that is on the validation
    triples, and the same for the heads `selected` on the way there.

        print(dcm.curve(dcm.sweep(subject, heads, pairs, validation, position="last")))
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
    """One row a penalty and head: the share of the masks (one a seed) that `selected` it, and that `settled` on it.

    print(dcm.chosen(dcm.sweep(subject, heads, pairs, validation, position="last", seeds=range(5))))
    """
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


@dataclass
class _Learner:
    """One mask while it is learned; it has a tensor and an optimiser of its own, and does not depend on the others."""

    penalty: float
    seed: int | None
    keep: Tensor
    adam: torch.optim.Adam
    counts: Tensor
    trace: list[Tensor]
    logit: list[float] = field(default_factory=list)
    looks: list[tuple[int, Tensor, tuple[Head, ...], float]] = field(default_factory=list)
    converged: bool = False

    @classmethod
    def start(cls, train: Pairs, group: tuple[Head, ...], penalty: float, seed: int | None, rate: float) -> "_Learner":
        n, dtype = len(train), torch.promote_types(train.subject.dtype, torch.float32)
        keep = torch.ones(len(group), dtype=dtype, device=train.subject.device, requires_grad=True)
        counts = torch.ones(n)
        if seed is not None:
            draws = torch.randint(n, (n,), generator=torch.Generator().manual_seed(seed))
            counts = torch.bincount(draws, minlength=n)
        adam = torch.optim.Adam([keep], lr=rate)
        return cls(penalty, seed, keep, adam, counts.to(keep), [keep.detach().clone()])


def _step(
    active: list[_Learner], train: Pairs, batch: int, group: tuple[Head, ...], position: Position, method: Method
) -> None:
    """One batch, one step of every mask; as many masks at once as `_ROWS` tokens allow."""
    part, rows = train.batches[batch], train.rows[batch]
    tokens = len(part) * (int((part.prompts.last - part.prompts.position(position)).max()) + 1)
    size = max(1, _ROWS // tokens)
    for some in (active[i : i + size] for i in range(0, len(active), size)):
        variants = [patching.edits(train, batch, group, position, learner.keep) for learner in some]
        targets = train.triples.targets[rows, None]
        logits = EXECUTORS[method](part, variants, targets=targets).logits[..., 0]
        loss = torch.zeros((), dtype=logits.dtype, device=logits.device)
        for learner, logit in zip(some, logits, strict=True):
            gain = (logit * learner.counts[rows]).mean()
            loss = loss - gain + learner.penalty * (1 - learner.keep).sum()
            learner.logit.append(gain.item())
        loss.backward()
    for learner in active:
        learner.adam.step()
        learner.adam.zero_grad()
        with torch.no_grad():
            learner.keep.clamp_(0, 1)
        learner.trace.append(learner.keep.detach().clone())


def _look(
    active: list[_Learner],
    window: int,
    judge: Pairs,
    group: tuple[Head, ...],
    position: Position,
    tolerance: float,
    method: Method,
    known: dict[tuple[Head, ...], float],
) -> None:
    """Average the last weights, round, measure, and see whether they have settled."""
    averages = [torch.stack(learner.trace[-window:]).mean(0) for learner in active]
    sets = [tuple(h for h, keep in zip(group, average.tolist(), strict=True) if keep < 0.5) for average in averages]
    if new := [patched for patched in dict.fromkeys(sets) if patched not in known]:
        hits = patching.outcomes(judge, new, position, method).top == judge.triples.targets
        known |= dict(zip(new, hits.double().mean(1).tolist(), strict=True))
    for learner, average, patched in zip(active, averages, sets, strict=True):
        if len(learner.looks) > 1:  # the first look is at the start
            _, before, same, _ = learner.looks[-1]
            learner.converged = patched == same and bool(((average - before).abs() <= tolerance).all())
        learner.looks.append((len(learner.logit), average, patched, known[patched]))


def _mask(learner: _Learner, train: Pairs, group: tuple[Head, ...], position: Position) -> Mask:
    best = max(learner.looks, key=lambda look: (look[3], -len(look[2])))
    return Mask(
        heads=group,
        position=position,
        desideratum=train.triples.desideratum,
        penalty=learner.penalty,
        seed=learner.seed,
        keep=learner.looks[-1][1].cpu(),
        trace=torch.stack(learner.trace).cpu(),
        logit=torch.tensor(learner.logit),
        snapshots=pd.DataFrame([{"step": s, "heads": len(h), "accuracy": a} for s, _, h, a in learner.looks]),
        selected=best[2],
        accuracy=best[3],
        converged=learner.converged,
    )

"""Desiderata-based component masking: which heads carry the information that a desideratum names? Paper, section 5.

`learn` finds the fewest heads of a group whose patching is enough: a number `keep` a head, between 1 (the base's z)
and 0 (the source's), follows the gradient of the target's logit and a penalty on every head that is patched.
`patching` patches whole heads. Nothing is frozen: what comes after the patch is computed anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..arguments import finite, integer, several
from ..heads import Head
from ..heads import of as heads_of
from ..models.subject import Subject
from ..runs.replay import Method, executor
from ..tasks.desiderata import Triples
from . import interchange
from .interchange import Pairs, Position
from .masks import Asked as Asked
from .masks import Mask as Mask
from .masks import chosen as chosen
from .masks import curve as curve

_WINDOW = 10  # steps, at least, over which weights are averaged
_ROWS = 512  # tokens of all masks together that are replayed at once with gradients


def learn(
    subject: Subject,
    heads: Sequence[Head | str] | None,
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
    """Learn which of these heads are enough to turn the answer into the target.

    Args:
        subject: the model.
        heads: among which to choose; None: all of the model.
        triples: to learn on.
        validation: to choose among the sets of heads on the way.
        position: where z is replaced by the source's.
        penalty: logits a patched head.
        seed: draws the triples anew from those given, with replacement; None: takes them as they are.
        rate: of Adam.
        steps: the most that are made, in whole windows.
        tolerance: by how much averages of weights and of the loss may move in a mask that has converged.
        method: "replay" or "definition".

    Maximises the mean logit of the target minus `penalty` times the sum of 1 - keep, one recorded batch a step, keep
    clamped to [0, 1] after each. Every window (whole rounds of the batches, at least ten steps) the weights are
    averaged and rounded (exactly 0.5 is left alone), and the heads so chosen are measured on `validation`. It has
    converged, and stops, when from one window to the next no average moved by more than `tolerance`, all round as
    before, and the mean loss, in logits, moved by no more than that. Raises `ValueError` before any model runs. Paper:
    section 5; the official code keeps the best of 16 snapshots, often unconverged, and more heads on
    ties (artefact B9).

        from entity_circuits import dcm, desiderata, models

        subject = models.load("qwen2.5-coder-0.5b")
        t, v = (desiderata.triples(subject, "object", n=7, split=split) for split in ("training", "pruning"))
        print(dcm.learn(subject, ["L3H5", "L2H1"], t, v, position="last", steps=20))
    """
    executor(method)
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
    subject: Subject,
    heads: Sequence[Head | str] | None,
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
    """`learn` for every penalty and seed, all masks side by side.

    Args:
        subject: the model.
        heads: among which to choose; None: all of the model.
        triples: to learn on.
        validation: to choose among the sets of heads on the way.
        position: where z is replaced by the source's.
        penalties: logits a patched head, each.
        seeds: each draws the triples anew; None: takes them as they are.
        rate: of Adam.
        steps: the most that are made, in whole windows.
        tolerance: by how much averages of weights and of the loss may move in a mask that has converged.
        method: "replay" or "definition".

    Returns a mask for each, seeds within penalties. Raises `ValueError` before any model runs.

        from entity_circuits import dcm, desiderata, models

        subject = models.load("qwen2.5-coder-0.5b")
        t, v = (desiderata.triples(subject, "object", n=7, split=split) for split in ("training", "pruning"))
        masks = dcm.sweep(subject, ["L3H5"], t, v, position="last", penalties=[0.01], seeds=[None, 0], steps=20)
        print(dcm.curve(masks), dcm.chosen(masks))
    """
    executor(method)
    group = None if heads is None else heads_of(heads)
    penalties, seeds = several("penalties", penalties), several("seeds", seeds)
    asked = [Asked(group, position, penalty=penalty, seed=seed) for penalty in penalties for seed in seeds]
    return together(subject, asked, triples, validation, rate=rate, steps=steps, tolerance=tolerance, method=method)


def together(
    subject: Subject,
    asked: Sequence[Asked],
    triples: Triples | Pairs,
    validation: Triples | Pairs,
    *,
    rate: float = 0.1,
    steps: int = 150,
    tolerance: float = 0.05,
    method: Method = "replay",
) -> list[Mask]:
    """`learn` for each mask of a list, whatever it is asked: the same masks as one by one, several times faster.

    Args:
        subject: the model.
        asked: what each mask is to be.
        triples: to learn on.
        validation: to choose among the sets of heads on the way.
        rate: of Adam.
        steps: the most that are made, in whole windows.
        tolerance: by how much averages of weights and of the loss may move in a mask that has converged.
        method: "replay" or "definition".

    A step of one mask has few tokens, and most of its time goes into fetching the weights of the model. Masks learned
    side by side on the same pairs share that: those of one position and one lowest layer are rows of one product.

        from entity_circuits import dcm, desiderata, models

        subject = models.load("qwen2.5-coder-0.5b")
        t, v = (desiderata.triples(subject, "object", n=7, split=split) for split in ("training", "pruning"))
        asked = [dcm.Asked(("L3H5", "L2H1"), "last", target) for target in ("position", "object")]
        print(dcm.curve(dcm.together(subject, asked, t, v, steps=20)))
    """
    executor(method)  # an unknown one is told before anything runs
    steps = integer("steps", steps)
    finite("rate", rate, 0, inside=True)
    finite("tolerance", tolerance, 0)
    asked = [one.among(subject) for one in asked]
    for one in asked:
        interchange.check(subject, one.heads or (), one.position, triples, validation)
    if not asked:
        raise ValueError("no mask is asked for: a mask has a penalty and a seed (or None)")
    for given in (triples, validation):
        for target in {one.target for one in asked if one.target}:
            (given.triples if isinstance(given, Pairs) else given).towards(target)
    train, judge = (
        given if isinstance(given, Pairs) else interchange.record(subject, given) for given in (triples, validation)
    )
    learners = [_Learner.start(one, train, judge, rate) for one in asked]
    window = -(-_WINDOW // len(train.batches)) * len(train.batches)
    said: dict[tuple[Position, tuple[Head, ...]], Tensor] = {}
    for step in tqdm(range(-(-steps // window) * window), desc="steps of masks", disable=None, leave=False):
        active = [learner for learner in learners if not learner.converged]
        if not active:
            break
        if step == 0:
            _look(active, 1, tolerance, method, said)
        _step(active, step % len(train.batches), method)
        if (step + 1) % window == 0:
            _look(active, window, tolerance, method, said)
    return [_mask(learner) for learner in learners]


@dataclass
class _Learner:
    """One mask while it is learned; it has a tensor and an optimiser of its own, and does not depend on the others.

    `train` and `judge` are the pairs to learn and to choose on, towards the target that is asked for.
    """

    asked: Asked
    train: Pairs
    judge: Pairs
    keep: Tensor
    adam: torch.optim.Adam
    counts: Tensor
    trace: list[Tensor]
    logit: list[float] = field(default_factory=list)
    looks: list[tuple[int, Tensor, tuple[Head, ...], float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    converged: bool = False

    @property
    def heads(self) -> tuple[Head, ...]:
        return self.asked.heads or ()

    @classmethod
    def start(cls, asked: Asked, train: Pairs, judge: Pairs, rate: float) -> "_Learner":
        if asked.target:
            train, judge = (pairs.towards(asked.target) for pairs in (train, judge))
        n, dtype = len(train), torch.promote_types(train.subject.dtype, torch.float32)
        keep = torch.ones(len(asked.heads or ()), dtype=dtype, requires_grad=True)
        counts = torch.ones(n)
        if asked.seed is not None:
            draws = torch.randint(n, (n,), generator=torch.Generator().manual_seed(asked.seed))
            counts = torch.bincount(draws, minlength=n)
        adam = torch.optim.Adam([keep], lr=rate)
        return cls(asked, train, judge, keep, adam, counts.to(keep), [keep.detach().clone()])


def _step(active: list[_Learner], batch: int, method: Method) -> None:
    """One batch, one step of every mask; as many masks of a position at once as `_ROWS` tokens allow."""
    train = active[0].train
    part, rows = train.batches[batch], train.rows[batch]
    for position in dict.fromkeys(learner.asked.position for learner in active):
        here = [learner for learner in active if learner.asked.position == position]
        tokens = len(part) * (int((part.prompts.last - part.prompts.position(position)).max()) + 1)
        size = max(1, _ROWS // tokens)
        for some in (here[i : i + size] for i in range(0, len(here), size)):
            variants = [interchange.edits(one.train, batch, one.heads, position, one.keep) for one in some]
            targets = torch.stack([one.train.triples.targets[rows] for one in some], dim=1)
            logits = executor(method)(part, variants, targets=targets, vocabulary=False).logits
            loss = torch.zeros((), dtype=logits.dtype, device=logits.device)
            for index, learner in enumerate(some):
                gain = (logits[index, :, index] * learner.counts[rows]).mean()
                loss = loss - gain + learner.asked.penalty * (1 - learner.keep).sum()
                learner.logit.append(gain.item())
                learner.losses.append(float(learner.asked.penalty * (1 - learner.keep.detach()).sum() - gain.detach()))
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
    tolerance: float,
    method: Method,
    said: dict[tuple[Position, tuple[Head, ...]], Tensor],
) -> None:
    """Average the last weights, round, measure, and see whether they have settled. `said` keeps what was answered."""
    averages = [torch.stack(learner.trace[-window:]).mean(0) for learner in active]
    asked = [
        (one.asked.position, tuple(h for h, keep in zip(one.heads, average.tolist(), strict=True) if keep < 0.5))
        for one, average in zip(active, averages, strict=True)
    ]
    for position in dict.fromkeys(position for position, _ in asked):
        if new := [sets for sets in dict.fromkeys(asked) if sets[0] == position and sets not in said]:
            top = interchange.outcomes(active[0].judge, [heads for _, heads in new], position, method).top
            said |= dict(zip(new, top, strict=True))
    for learner, average, (position, patched) in zip(active, averages, asked, strict=True):
        if len(learner.looks) > 1:  # the first look is at the start
            _, before, same, _ = learner.looks[-1]
            still = abs(_mean(learner.losses[-window:]) - _mean(learner.losses[-2 * window : -window])) <= tolerance
            learner.converged = still and patched == same and bool(((average - before).abs() <= tolerance).all())
        accuracy = (said[position, patched] == learner.judge.triples.targets).double().mean().item()
        learner.looks.append((len(learner.logit), average, patched, accuracy))


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


def _mask(learner: _Learner) -> Mask:
    best = max(learner.looks, key=lambda look: (look[3], -len(look[2])))
    return Mask(
        heads=learner.heads,
        position=learner.asked.position,
        desideratum=learner.train.triples.desideratum,
        penalty=learner.asked.penalty,
        seed=learner.asked.seed,
        keep=learner.looks[-1][1].cpu(),
        trace=torch.stack(learner.trace).cpu(),
        logit=torch.tensor(learner.logit),
        snapshots=pd.DataFrame([{"step": s, "heads": len(h), "accuracy": a} for s, _, h, a in learner.looks]),
        selected=best[2],
        accuracy=best[3],
        converged=learner.converged,
    )

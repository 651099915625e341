"""How masks are learned side by side: one step of each on every batch, and now and then a look at what they say. `dcm`
says what is asked of them."""

from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..heads import Head
from ..runs.replay import Method
from ..runs.replay import executor as way
from . import interchange
from .interchange import Pairs, Position
from .masks import Asked, Mask

_WINDOW = 10  # steps, at least, over which weights are averaged
_ROWS = 512  # tokens of all masks together that are replayed at once with gradients


@torch.enable_grad()
def learned(
    asked: list[Asked], train: Pairs, judge: Pairs, *, rate: float, steps: int, tolerance: float, method: Method
) -> list[Mask]:
    """`dcm.together`, of pairs that are recorded and requests that are checked; also inside of `torch.no_grad()`.

    Args:
        asked: what each mask is to be, its heads written out.
        train: to learn on.
        judge: to choose among the sets of heads on the way.
        rate: of Adam.
        steps: the most that are made, in whole windows.
        tolerance: by how much averages of weights and of the loss may move in a mask that has converged.
        method: "replay" or "definition".
    """
    way(method)  # an unknown one is told before anything runs
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
            logits = way(method)(part, variants, targets=targets, vocabulary=False).logits
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

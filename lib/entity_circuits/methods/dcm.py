"""Desiderata-based component masking: which heads carry the information that a desideratum names? Paper, section 5.

`learn` finds the fewest heads of a group whose patching is enough: a number `keep` a head, between 1 (the base's z)
and 0 (the source's), follows the gradient of the target's logit and a penalty on every head that is patched.
`patching` patches whole heads. Nothing is frozen: what comes after the patch is computed anew.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import results
from ..arguments import finite, integer, several
from ..heads import Head
from ..heads import of as heads_of
from ..models.subject import Subject
from ..results import Store
from ..runs.replay import Method
from ..runs.replay import executor as way
from ..tasks.desiderata import Triples
from . import interchange, work
from .interchange import Pairs, Position
from .learning import learned
from .masks import Asked as Asked
from .masks import Mask as Mask
from .masks import chosen as chosen
from .masks import curve as curve


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
    store: Store | None = None,
    executor: Executor | None = None,
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
        store: keeps what was learned, unless from `Pairs`: no key says how these were recorded.
        executor: learns in another process (see `work`); the same mask.

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
    way(method, subject)
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
        store=store,
        executor=executor,
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
    store: Store | None = None,
    executor: Executor | None = None,
    masks: int | None = None,
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
        store: keeps finished masks, unless they are learned from `Pairs` (see `learn`).
        executor: learns them in other processes (see `work`); the same masks.
        masks: how many of one position are learned together, and by one worker; all of them unless given. They share
            products, so that another number gives the same masks up to rounding.

    Returns a mask for each, seeds within penalties. Raises `ValueError` before any model runs.

        from entity_circuits import dcm, desiderata, models

        subject = models.load("qwen2.5-coder-0.5b")
        t, v = (desiderata.triples(subject, "object", n=7, split=split) for split in ("training", "pruning"))
        masks = dcm.sweep(subject, ["L3H5"], t, v, position="last", penalties=[0.01], seeds=[None, 0], steps=20)
        print(dcm.curve(masks), dcm.chosen(masks))
    """
    way(method, subject)
    group = None if heads is None else heads_of(heads)
    penalties, seeds = several("penalties", penalties), several("seeds", seeds)
    asked = [Asked(group, position, penalty=penalty, seed=seed) for penalty in penalties for seed in seeds]
    options: dict[str, Any] = {"rate": rate, "steps": steps, "tolerance": tolerance, "method": method}
    kept: dict[str, Any] = {"store": store, "executor": executor, "masks": masks}
    return together(subject, asked, triples, validation, **options, **kept)


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
    store: Store | None = None,
    executor: Executor | None = None,
    masks: int | None = None,
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
        store: keeps finished masks, unless they are learned from `Pairs` (see `learn`).
        executor: learns them in other processes (see `work`); the same masks.
        masks: how many of one position are learned together, and by one worker; all of them unless given. They share
            products, so that another number gives the same masks up to rounding.

    A step of one mask has few tokens, and most of its time goes into fetching the weights of the model. Masks learned
    side by side on the same pairs share that: those of one position and one lowest layer are rows of one product.

        from entity_circuits import dcm, desiderata, models

        subject = models.load("qwen2.5-coder-0.5b")
        t, v = (desiderata.triples(subject, "object", n=7, split=split) for split in ("training", "pruning"))
        asked = [dcm.Asked(("L3H5", "L2H1"), "last", target) for target in ("position", "object")]
        print(dcm.curve(dcm.together(subject, asked, t, v, steps=20)))
    """
    way(method, subject)  # what cannot be is told before anything runs
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
            _triples(given).towards(target)
    zs = [z for one in (triples, validation) if isinstance(one, Pairs) for z in one.z.values()]
    if torch.is_inference_mode_enabled() or any(z.is_inference() for z in zs):
        raise ValueError(
            "inside of torch.inference_mode() nothing can be learned, nor from pairs recorded in it: call and record "
            "outside of it"
        )
    named = [_triples(given).desideratum for given in (triples, validation)]
    if any(one.target is None for one in asked) and len(set(named)) > 1:
        raise ValueError(
            f"masks are learned towards the {named[0]} and would be chosen by the {named[1]}: validation triples are "
            "of the same desideratum, or a target is asked for"
        )
    recorded = next((one for one in (triples, validation) if isinstance(one, Pairs)), None)
    work.require(executor, subject, given=recorded)
    store = store if recorded is None else None
    size = len(asked) if masks is None else integer("masks of a piece of work", masks)
    groups = [[i for i, one in enumerate(asked) if one.position == here] for here in {one.position: 0 for one in asked}]
    parts = [group[i : i + size] for group in groups for i in range(0, len(group), size)]
    options = {"rate": rate, "steps": steps, "tolerance": tolerance, "method": method}
    prompts = {"triples": _words(triples), "validation": _words(validation)}
    inputs = results.key(__name__, subject, **prompts, **options)
    on = _Recorded(subject, triples, validation)

    def units() -> Iterator[work.Unit]:
        for part in parts:
            some = [asked[index] for index in part]
            compute = partial(_tensors, on, some, **options)
            yield work.Unit("masks", {**inputs, "asked": list(map(str, some))}, compute, __name__, (subject,))

    found: dict[int, Mask] = {}
    for part, kept in zip(parts, work.done(units(), store, executor), strict=True):
        for place, index in enumerate(part):
            one = asked[index]
            tensors = {name.partition(" ")[2]: x for name, x in kept.items() if name.startswith(f"{place} ")}
            told = {"heads": one.heads or (), "position": one.position, "penalty": one.penalty, "seed": one.seed}
            found[index] = Mask.restored(tensors, desideratum=one.target or _triples(triples).desideratum, **told)
    return [found[index] for index in range(len(asked))]


def _triples(given: Triples | Pairs) -> Triples:
    return given.triples if isinstance(given, Pairs) else given


def _words(given: Triples | Pairs) -> list[object]:
    """What masks depend on, of triples that they are learned or judged on."""
    triples = _triples(given)
    return [triples, triples.targets, triples.desideratum, triples.names]


@dataclass(eq=False)
class _Recorded:
    """The pairs that masks are learned and judged on, recorded when they are asked for, once for all masks."""

    subject: Subject
    triples: Triples | Pairs
    validation: Triples | Pairs
    made: list[Pairs] = field(default_factory=list)

    def pairs(self) -> list[Pairs]:
        if not self.made:
            both = (self.triples, self.validation)
            self.made += [one if isinstance(one, Pairs) else interchange.record(self.subject, one) for one in both]
        return self.made

    def __reduce__(self) -> tuple[Any, ...]:
        return work.once(_Recorded, self.subject, self.triples, self.validation)


def _tensors(on: _Recorded, asked: list[Asked], **options: Any) -> dict[str, Tensor]:
    """The masks asked for, as tensors that begin with their number."""
    made = enumerate(learned(asked, *on.pairs(), **options))
    return {f"{number} {name}": tensor for number, mask in made for name, tensor in mask.tensors().items()}

"""Known answers: what each method finds in models whose circuit was planted, among heads that write noise."""

import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from entity_circuits import dcm, heads, interchange, path_patching, planted, prompts, runs, toy
from entity_circuits.arguments import integer
from entity_circuits.heads import Group, Head
from entity_circuits.models.subject import Subject
from entity_circuits.tasks import triples
from entity_circuits.tasks.planted import PLANS, ROUNDS, Plan

Found = Mapping[Group, Sequence[Head]]
"""The heads of each round."""

PENALTY = 0.1
"""Logits that a head costs a mask. Without noise, the weakest that was planted brings 1."""


def table(
    plans: Sequence[Plan] = PLANS, *, noises: Sequence[float] = (0.0, 0.05, 0.1, 0.2), seeds: int = 2
) -> pd.DataFrame:
    """One row a plan, noise and method: which share of the heads it found was planted, and which of those it found.

    Args:
        plans: what is planted.
        noises: standard deviations of what each other head writes, see `planted.subject`.
        seeds: models of each plan and noise; one without noise.

    `precision` (NaN where nothing was found) and `recall` are over the heads of all groups and `models` together, and
    `right` is the mean probability of the right word. Path patching and its estimate are told how many heads each round
    has, so that the two shares are one, but for rounds with too few heads below. Masks find their number themselves:
    every head that brings more logits than it costs (`PENALTY`), planted or not. Twenty seconds on one core.

        print(known.table(noises=[0.0, 0.1]).groupby(["noise", "method"])["recall"].mean())
    """
    seeds, rows = integer("seeds", seeds), []
    for plan in plans:
        for noise in noises:
            made = [planted.subject(plan, noise=noise, seed=seed) for seed in range(seeds if noise else 1)]
            right = torch.stack([runs.run(one, toy.prompts("apple", "cup")).logprob.exp().mean() for one in made])
            for name, method in METHODS.items():
                hits, found = 0, 0
                for one in made:
                    answer = method(one, plan)
                    hits += sum(len(set(answer[group]) & set(true)) for group, true in plan.circuit.groups.items())
                    found += sum(len(some) for some in answer.values())
                row = {
                    "model": plan.name,
                    "noise": noise,
                    "method": name,
                    "precision": hits / found if found else math.nan,
                }
                row |= {"recall": hits / (len(plan.circuit) * len(made)), "right": right.mean().item()}
                rows.append(row | {"models": len(made)})
    return pd.DataFrame(rows)


def discovered(subject: Subject, plan: Plan) -> Found:
    """By path patching in rounds, told how many heads each has."""
    sizes = {group: len(some) for group, some in plan.circuit.groups.items()}
    found = path_patching.discover(subject, *_prompts(), rounds=ROUNDS, k=sizes)
    return found.circuit.groups


def screened(subject: Subject, plan: Plan) -> Found:
    """The same rounds by the gradient's estimate: the most negative heads of each are the receivers of the next."""
    base, source = (runs.record(subject, one) for one in _prompts())
    found: dict[Group, Sequence[Head]] = {}
    for one in ROUNDS:
        receivers = found[one.into] if one.into else None
        if receivers is not None and not any(head.layer for head in receivers):
            found[one.name] = ()  # nothing is below them
            continue
        estimate = path_patching.screen(
            base, source, position=one.position, receivers=receivers, composition=one.through
        )
        found[one.name] = heads.ranked(estimate.numpy())[: len(plan.circuit.groups[one.name])]
    return found


def masked(subject: Subject, plan: Plan) -> Found:
    """By masks that learn which heads are enough to turn the answer into the source's, one a position."""
    pairs = interchange.record(subject, triples.between(*_prompts()))
    asked = [dcm.Asked(None, one.position, penalty=PENALTY) for one in ROUNDS]
    masks = dcm.together(subject, asked, pairs, pairs, rate=0.2, steps=20)
    return {one.name: mask.selected for one, mask in zip(ROUNDS, masks, strict=True)}


METHODS: Mapping[str, Callable[[Subject, Plan], Found]] = {
    "path patching": discovered,
    "its gradient estimate": screened,
    "masks": masked,
}


def _prompts() -> tuple[prompts.Prompts, prompts.Prompts]:
    return toy.prompts("apple", "cup"), toy.prompts("cup", "apple")

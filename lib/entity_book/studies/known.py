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

PENALTIES = (0.01, 0.5)
"""Logits that a head costs a mask: the engine's own penalty, and half of what the weakest planted head brings."""


def table(
    plans: Sequence[Plan] = PLANS, *, noises: Sequence[float] = (0.0, 0.05, 0.1, 0.2), seeds: int = 2
) -> pd.DataFrame:
    """One row a plan, noise and method: which share of its heads was planted, and which of the planted it found.

    Args:
        plans: what is planted.
        noises: standard deviations of what each other head writes, see `planted.subject`.
        seeds: models of each plan and noise; one without noise.

    `precision` (NaN where nothing was found) and `recall` are over the heads of all groups and `models` together, and
    `right` is the mean probability of the right word. Path patching and its estimate are told how many heads each round
    has, so that the two shares are one, but for rounds with too few heads below. Masks find their number themselves:
    every head that brings more logits than it costs (`PENALTIES`), planted or not. About 20 seconds on
    one core.

        print(known.table(noises=[0.0, 0.1]).groupby(["noise", "method"])["recall"].mean())
    """
    seeds, rows = integer("seeds", seeds), []
    for plan in plans:
        for noise in noises:
            made = [planted.subject(plan, noise=noise, seed=seed) for seed in range(seeds if noise else 1)]
            right = torch.stack([runs.run(one, toy.prompts("apple", "cup")).logprob.exp().mean() for one in made])
            for method in METHODS:
                answers = [method(one, plan) for one in made]
                for name in answers[0]:
                    shares = _shares([answer[name] for answer in answers], plan)
                    row = {"model": plan.name, "noise": noise, "method": name, **shares}
                    rows.append(row | {"right": right.mean().item(), "models": len(made)})
    return pd.DataFrame(rows)


def _shares(answers: Sequence[Found], plan: Plan) -> dict[str, float]:
    """Precision and recall over all groups and models together."""
    true = plan.circuit.groups
    hits = sum(len(set(answer[group]) & set(true[group])) for answer in answers for group in true)
    found = sum(len(some) for answer in answers for some in answer.values())
    return {"precision": hits / found if found else math.nan, "recall": hits / (len(plan.circuit) * len(answers))}


def discovered(subject: Subject, plan: Plan) -> dict[str, Found]:
    """By path patching in rounds, told how many heads each has."""
    sizes = {group: len(some) for group, some in plan.circuit.groups.items()}
    found = path_patching.discover(subject, *_prompts(), rounds=ROUNDS, k=sizes)
    return {"path patching": found.circuit.groups}


def screened(subject: Subject, plan: Plan) -> dict[str, Found]:
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
    return {"its gradient estimate": found}


def masked(subject: Subject, plan: Plan) -> dict[str, Found]:
    """By masks that learn which heads are enough to turn the answer into the source's, one a position and penalty."""
    pairs = interchange.record(subject, triples.between(*_prompts()))
    asked = [dcm.Asked(None, one.position, penalty=penalty) for penalty in PENALTIES for one in ROUNDS]
    masks = iter(dcm.together(subject, asked, pairs, pairs, rate=0.2, steps=20))
    return {f"masks, penalty {penalty}": {one.name: next(masks).selected for one in ROUNDS} for penalty in PENALTIES}


METHODS: tuple[Callable[[Subject, Plan], dict[str, Found]], ...] = (discovered, screened, masked)
"""Each gives the heads that it finds in a model, by the name of the method in the table."""


def _prompts() -> tuple[prompts.Prompts, prompts.Prompts]:
    return toy.prompts("apple", "cup"), toy.prompts("cup", "apple")

"""Cross-model activation patching (CMAP): which part of the fine-tuned model makes it better? Paper, section 6.

Both models run the same prompts. In one of them, some heads take an activation from the other, each at the same layer
and the same token; everything after is computed anew, and the right answers are counted. What lifts the base model to
the fine-tuned one's accuracy carries the improvement (but need not be its cause: see `groups`).

*Outputs* (`z`): what a head puts out at the place of its group.

*Inputs* (`q`, `k`, `v`, or several): a head's query at that place, and the keys and values of all tokens up to it, that
one included, as seen by this head at this place alone. No other token and no other head notices them, so no head has to
be held, and inputs of all four groups can be patched. For A and B this is what the official code does by holding every
head at every earlier token, but for the keys and values of the head's own token, which it leaves out (artefact B14).
For C and D its holding undoes the patch; here the effect goes on, as that of an output does. Each prompt has its own
positions (artefact B15). Where both models norm single queries and keys alike, patching q, k and v together from the
other model's run is patching z.

*Weights or what arrives*: q, k and v are made by a norm and a matrix from what arrives in the layer. With
`origin="weights"` the other model's norm and matrix (and bias) work on what arrives in this one; with "inputs" this
model's work on what arrives in the other. What arrives is always that of the runs without patches. The norms of single
queries and keys that Qwen3 has come later and stay those of the patched model.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import results, runs, statistics
from ..arguments import finite, integer, one_of, several
from ..heads import Circuit, Head, require
from ..models.subject import Subject
from ..results import Store
from ..runs import blocks
from ..runs.edits import Outcome
from ..runs.recording import Recording
from ..runs.replay import Method
from ..runs.replay import executor as way
from ..statistics import Estimate
from ..tasks.prompts import Prompts, require_answers
from . import metrics, shares, work
from .cmap_conditions import Condition, Into, Origin, Place, of_circuit, sites_of
from .cmap_conditions import groups as groups
from .cmap_conditions import inputs as inputs
from .cmap_conditions import random_heads as random_heads
from .cmap_conditions import scan as scan
from .cmap_edits import edits_of as edits_of
from .metrics import LOG_PROBABILITY
from .shares import recovered as recovered
from .twins import require_twins as require_twins

ENDS = ("", "_low", "_high")


@dataclass(frozen=True, eq=False)
class Patched:
    """What the patched models answer, prompt by prompt, beside both unmodified ones.

    `correct` (conditions, n) bool: the right object is the most likely token of the whole vocabulary; `logprob` its
    log-probability; `chosen` whether it is more likely than every other of the prompts' choices, None where they have
    none or it was not kept. `base_correct`, `tuned_correct` and so on are (n,), `contexts` (n,) numbers the worlds.
    """

    conditions: tuple[Condition, ...]
    correct: Tensor
    logprob: Tensor
    base_correct: Tensor
    base_logprob: Tensor
    tuned_correct: Tensor
    tuned_logprob: Tensor
    contexts: Tensor
    chosen: Tensor | None = None
    base_chosen: Tensor | None = None
    tuned_chosen: Tensor | None = None

    def __len__(self) -> int:
        return len(self.conditions)

    def estimate(self, condition: int = 0) -> Estimate:
        """The accuracy under one condition, with its 95% interval over contexts."""
        condition = integer("condition", condition, -len(self), len(self) - 1)
        return statistics.estimate(self.correct[condition], self.contexts)

    def unmodified(self, which: Into) -> Estimate:
        """The accuracy of one of the two models as it is."""
        one_of("model", which, Into)
        return statistics.estimate(self.base_correct if which == "base" else self.tuned_correct, self.contexts)

    def share(self, condition: int = 0) -> Estimate:
        """The share of the gap that a condition recovers, or, into the tuned model, loses: see `recovered`."""
        condition = integer("condition", condition, -len(self), len(self) - 1)
        both = (self.base_correct, self.tuned_correct)
        receiver, donor = both if self.conditions[condition].into == "base" else both[::-1]
        return recovered(self.correct[condition], receiver, donor, self.contexts)

    def table(self) -> pd.DataFrame:
        """One row a condition, accuracies as fractions with 95% intervals over contexts.

        `condition`, `into`, `sites`, `origin`, `draw` (of a random control, else missing), `heads` (how many), `first`
        and `final` layer; `accuracy`, `low`, `high`; `change` from the unmodified receiving model with `change_low` and
        `change_high` (paired); `share` of the gap recovered (into the tuned model: lost) with `share_low` and
        `share_high`, missing where there is no gap to divide by, and then `no_share` says why; `base` and `tuned`, the
        accuracies of both models as they are; `choice`, how often the right answer is the most likely of the prompts'
        choices alone, and `choice_change` from the receiving model, each with `_low` and `_high` (missing where this
        is not known); mean `logprob` of the right answer; `n` and `contexts`.

            from entity_circuits import cmap, models, tasks

            base, tuned = models.load_pair("arithmetic")
            p = tasks.default.prompts(base, n=14)
            print(cmap.patch(base, tuned, {"last": ["L3H5"]}, p).table()[["accuracy", "share"]])
        """
        into_base = torch.tensor([condition.into == "base" for condition in self.conditions])[:, None]
        receiver = torch.where(into_base, self.base_correct, self.tuned_correct)
        change = self.correct.double() - receiver.double()
        cells = [
            statistics.intervals(values, self.contexts, signed=signed)
            for values, signed in ((self.correct, False), (change, True))
        ]
        parts = [(cell.value, cell.low, cell.high) for cell in cells]
        reason = shares.no_gap(self.base_correct, self.tuned_correct, self.contexts)
        gained, gap = torch.where(into_base, change, -change), self.tuned_correct.double() - self.base_correct.double()
        nothing = (np.full(len(self), np.nan),) * 3
        parts.append(nothing if reason else shares.shares(gained.numpy(), gap.numpy(), self.contexts.numpy()))
        rows = [
            {
                "condition": condition.name,
                "into": condition.into,
                "sites": "".join(condition.sites),
                "origin": condition.origin,
                "draw": condition.draw,
                "heads": condition.size,
                "first": condition.layers[0],
                "final": condition.layers[1],
            }
            for condition in self.conditions
        ]
        table = pd.DataFrame(rows).astype({"draw": "Int64"})
        names = (("accuracy", "low", "high"), *((x, f"{x}_low", f"{x}_high") for x in ("change", "share")))
        for columns, triple in zip(names, parts, strict=True):
            table = table.assign(**dict(zip(columns, triple, strict=True)))
        return table.assign(
            no_share=reason,
            base=float(self.base_correct.double().mean()),
            tuned=float(self.tuned_correct.double().mean()),
            logprob=self.logprob.double().mean(1).numpy(),
            **self._choices(into_base),
            n=len(self.contexts),
            contexts=len(torch.unique(self.contexts)),
        )

    def _choices(self, into_base: Tensor) -> dict[str, np.ndarray]:
        """The columns of `table` about the choice; `into_base` (conditions, 1) says which model each patches."""
        nothing = np.full(len(self), np.nan)
        found = {"choice": (nothing,) * 3, "choice_change": (nothing,) * 3}
        if self.chosen is not None and self.base_chosen is not None and self.tuned_chosen is not None:
            receiver = torch.where(into_base, self.base_chosen, self.tuned_chosen)
            for name, values in (("choice", self.chosen), ("choice_change", self.chosen.double() - receiver.double())):
                cell = statistics.intervals(values, self.contexts, signed=name == "choice_change")
                found[name] = (cell.value, cell.low, cell.high)
        return {f"{name}{end}": x for name, cell in found.items() for end, x in zip(ENDS, cell, strict=True)}


def sweep(
    base: Subject,
    tuned: Subject,
    conditions: Sequence[Condition],
    prompts: Prompts,
    *,
    method: Method = "replay",
    store: Store | None = None,
    executor: Executor | None = None,
    batch: int = 49,
    memory: float = 1e9,
) -> Patched:
    """Run both models on the prompts, and each condition: one model with some activations of the other's clean run.

    Args:
        base: the one model.
        tuned: its fine-tuned twin.
        conditions: what is patched, each by itself; no two alike.
        prompts: n prompts with right answers.
        method: "replay", or "definition": the same numbers from whole runs.
        store: keeps finished batches.
        executor: does them in other processes (see `work`); the same numbers.
        batch: prompts that are recorded at a time, in both models: 20 MB a prompt for the default model.
        memory: bytes of patched keys and values that are held at once.

    Returns `Patched`, a row a condition. Raises `ValueError`, before any model runs, for models that are no twins, a
    head that they do not have, conditions of one name, prompts without a right answer; and `NotImplementedError` for
    inputs of a model whose blocks are not of the Llama form. Paper: section 6; the official code leaves out what
    artefacts B13 to B15 say.

        from entity_circuits import cmap, models, tasks

        base, tuned = models.load_pair("arithmetic")
        p = tasks.default.prompts(base, n=14)
        print(cmap.sweep(base, tuned, cmap.scan(base, "last"), p).table()[["final", "accuracy"]])
    """
    way(method, base, tuned)  # what cannot be is told before anything runs
    batch = integer("batch", batch)
    finite("memory", memory, 0, inside=True)
    conditions = several("conditions", conditions)
    _check(base, tuned, conditions, prompts)
    work.require(executor, base, tuned)
    asked = {"conditions": [condition.words for condition in conditions], "method": method, "memory": memory}
    batches = torch.arange(len(prompts)).split(batch)

    def units() -> Iterator[work.Unit]:
        for rows in batches:
            part = prompts.select(rows)
            compute = partial(_answers, base, tuned, part, conditions, method, memory)
            inputs = results.key(__name__, (base, tuned), prompts=part, **asked)
            yield work.Unit("cmap", inputs, compute, __name__, (base, tuned))

    found = work.done(units(), store, executor)
    parts = list(tqdm(found, "CMAP", len(batches), unit="batch", disable=None, leave=False))
    names = [name for name in parts[0] if all(name in part for part in parts)]
    joined = {name: torch.cat([part[name] for part in parts], dim=-1) for name in names}
    return Patched(conditions, contexts=prompts.contexts.cpu(), **joined)


def patch(
    base: Subject,
    tuned: Subject,
    heads: Circuit | Mapping[Place, Sequence[Head]],
    prompts: Prompts,
    *,
    site: str = "z",
    origin: Origin = "run",
    into: Into = "base",
    method: Method = "replay",
    store: Store | None = None,
) -> Patched:
    """One condition of `sweep`.

    Args:
        base: the one model.
        tuned: its fine-tuned twin.
        heads: a circuit, or a mapping of places to heads.
        prompts: n prompts with right answers.
        site: "z", or letters of "qkv" such as "qk".
        origin: where inputs come from: the other model's "run", its "weights" alone, or the "inputs" of it alone.
        into: the model that is patched, "base" or "tuned".
        method: "replay" or "definition".
        store: keeps finished batches.

    Returns `Patched` of one condition. Raises `ValueError` as `sweep` does, and for heads without a place.

        from entity_circuits import cmap, models, tasks

        base, tuned = models.load_pair("arithmetic")
        p = tasks.default.prompts(base, n=14)
        print(cmap.patch(base, tuned, {"last": ["L3H5"]}, p, site="q").estimate())
    """
    one_of("origin", origin, Origin)
    one_of("model to patch into", into, Into)
    way(method, base, tuned)
    chosen = of_circuit(heads) if isinstance(heads, Circuit) else heads
    one = Condition("these heads", chosen, sites_of(site), origin, into)
    return sweep(base, tuned, [one], prompts, method=method, store=store)


def _check(base: Subject, tuned: Subject, conditions: tuple[Condition, ...], prompts: Prompts) -> None:
    """A `ValueError` for what cannot be patched, before any model runs."""
    require_twins(base, tuned, prompts)
    for condition in conditions:
        for place in condition.heads.keys() - {"everywhere"}:
            prompts.position(place)
        for some in condition.heads.values():
            require(some, base.layers, base.heads, f"of {condition.name}")
    kinds = [(c.name, c.sites, c.origin, c.into, c.draw) for c in conditions]
    if twice := [kind for kind in kinds if kinds.count(kind) > 1]:
        raise ValueError(f"two conditions are both called {twice[0][0]!r}, of the same sites, origin and direction")
    require_answers(prompts)
    if any(condition.sites != ("z",) for condition in conditions):
        blocks.require(base)
        blocks.require(tuned)


def _answers(
    base: Subject,
    tuned: Subject,
    prompts: Prompts,
    conditions: tuple[Condition, ...],
    method: Method,
    memory: float,
) -> dict[str, Tensor]:
    """What is answered under each condition, and by both models as they are, on some of the prompts."""
    shared = method == "replay"  # the definition runs whole prompts
    subjects: dict[Into, Subject] = {"base": base, "tuned": tuned}
    recordings = {into: runs.record(one, prompts, share_context=shared) for into, one in subjects.items()}
    targets = metrics.wanted(LOG_PROBABILITY, prompts)
    with torch.no_grad():
        own = {into: way(method)(recordings[into], [[]], targets=targets) for into in recordings}
        found = _patched(conditions, recordings, targets, method, memory)
    answers = metrics.answers(LOG_PROBABILITY, found, prompts)
    for into, outcome in own.items():
        kept = metrics.answers(LOG_PROBABILITY, outcome, prompts)
        answers |= {f"{into}_{name}": value[0] for name, value in kept.items()}
    return answers


def _patched(
    conditions: tuple[Condition, ...],
    recordings: Mapping[Into, Recording],
    targets: Tensor,
    method: Method,
    memory: float,
) -> Outcome:
    """One variant a condition, in their order."""
    base, tuned = recordings["base"], recordings["tuned"]
    found: list[Outcome | None] = [None] * len(conditions)
    for chunk in _chunks(conditions, base, memory):
        made: dict[tuple[Any, ...], Tensor] = {}
        for into, recording in recordings.items():
            chosen = [index for index in chunk if conditions[index].into == into]
            literal = method == "definition"
            variants = [edits_of(conditions[i], base, tuned, literal=literal, made=made) for i in chosen]
            if variants:
                outcome = way(method)(recording, variants, targets=targets)
                for row, index in enumerate(chosen):
                    found[index] = Outcome(*(getattr(outcome, name)[[row]] for name in Outcome.NUMBERS))
    return Outcome.joined([one for one in found if one is not None], dim=0)


def _chunks(conditions: Sequence[Condition], recording: Recording, memory: float) -> Iterator[list[int]]:
    """Conditions in parts whose keys and values take no more than so many bytes (if they share none)."""
    held, one = 0.0, recording.z[0].element_size() * recording.index.numel() * recording.subject.head_size
    chunk: list[int] = []
    for index, condition in enumerate(conditions):
        size = one * condition.size * len(set(condition.sites) & {"k", "v"})
        if chunk and held + size > memory:
            yield chunk
            chunk, held = [], 0.0
        chunk.append(index)
        held += size
    yield chunk

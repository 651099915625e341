"""Is it the circuit? Every head outside it at its mean, and what is left of the model's accuracy. Paper, section 4.

A circuit says which heads keep their own output, and where: each group's heads at the position of the group. All other
heads, and all heads at all other positions, give their mean over contexts of their own; embeddings, norms and MLPs run
normally on what results. So a circuit is a mapping of places to heads (`kept`), and every question of this chapter is
asked of such mappings: `circuit_accuracy` answers them, many at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import heads, results, runs, statistics, tasks
from ..arguments import finite, integer, several
from ..heads import Circuit, Head, every
from ..models import precision
from ..models.subject import Subject
from ..results import Store
from ..runs import choices, edits, mean_replay
from ..runs.answers import evaluate
from ..runs.mean_replay import Means
from ..runs.replay import Method, executor
from ..statistics import Estimate
from ..tasks.prompts import Prompts, rows_of
from . import kept as places
from . import metrics
from .kept import Kept
from .metrics import LOG_PROBABILITY, Metric

SHARD = 128  # circuits that are evaluated, and stored, together


def means(
    subject: Subject, prompts: Prompts | None = None, *, batch: int = 50, store: Store | None = None, **drawn: Any
) -> Means:
    """Every head's mean output at every position, over prompts that are not evaluated, of one length.

    Args:
        subject: the model.
        prompts: drawn by the default task unless given.
        batch: prompts that are run at a time.
        store: keeps the means.
        **drawn: to the default task's `for_means` (`n`, `seed`, ...), where no prompts are given.

    Returns `Means` with `z` (layers, T, heads, head_size). Sums are kept in float64, so that the order of the prompts
    does not matter. Raises `ValueError` for prompts of different lengths. Paper: section 4 and its appendix.

        from entity_circuits import ablation, models

        print(ablation.means(models.load("qwen2.5-coder-0.5b"), n=20).z.shape)
    """
    batch = integer("batch", batch)
    if prompts is None:
        prompts = tasks.default.for_means(subject, **drawn)
    elif drawn:
        raise ValueError(f"prompts are given: {', '.join(drawn)} would only be for drawing them")
    lengths = sorted(set((prompts.last + 1).tolist()))
    if lengths != [prompts.input_ids.shape[1]]:
        raise ValueError(f"means are taken position by position: prompts of one length are needed, not of {lengths}")

    def compute() -> dict[str, Tensor]:
        total = torch.zeros((), dtype=torch.float64)
        parts = torch.arange(len(prompts)).split(batch)
        for rows in tqdm(parts, desc="means", unit="batch", disable=None, leave=False):
            recorded = runs.record(subject, prompts.select(rows))
            total = total + torch.stack([recorded.span("z", i).cpu().double().sum(0) for i in range(subject.layers)])
        return {"z": (total / len(prompts)).to(subject.dtype)}

    inputs = results.key(__name__, subject, prompts=prompts, batch=batch)
    found = (store or Store(None)).keep("means", inputs, compute)["z"]
    return Means(found, len(prompts), subject.fingerprint)


def kept(circuit: Circuit | Kept) -> dict[str, tuple[Head, ...]]:
    """A circuit as places and heads: each group's where it acts. Other mappings pass, in order.

    Heads may be written as text. Raises `ValueError` for heads without a place.

        from entity_circuits import ablation
        from entity_circuits.heads import Circuit, Head

        circuit = Circuit({"value_fetcher": (Head(3, 5),)})
        print({**ablation.kept(circuit), "prev+1": ["L2H1"]})
    """
    if isinstance(circuit, Mapping):
        return {place: tuple(sorted(set(heads.of(some)))) for place, some in circuit.items()}
    if not isinstance(circuit, Circuit):
        raise ValueError(f"a circuit is a Circuit, or heads by place as in {{'last': ['L3H5']}}, not {circuit!r}")
    found: dict[str, set[Head]] = {}
    for group, some in circuit.groups.items():
        found.setdefault(circuit.position(group), set()).update(some)
    return {place: tuple(sorted(some)) for place, some in found.items()}


def without(circuit: Circuit | Kept, removed: Kept) -> dict[str, tuple[Head, ...]]:
    """A circuit without some of its heads at some of its places."""
    gone = {place: set(some) for place, some in kept(removed).items()}
    return {place: tuple(h for h in some if h not in gone.get(place, ())) for place, some in kept(circuit).items()}


def size(circuit: Circuit | Kept) -> int:
    """How many heads it keeps, a head at two places counted twice."""
    return sum(map(len, kept(circuit).values()))


def all_heads(subject: Subject, places: Sequence[str] = ("prev", "query", "last")) -> dict[str, tuple[Head, ...]]:
    """Every head of the model at these places: the most that any circuit there can keep."""
    return dict.fromkeys(several("places", places, least=0), every(subject.layers, subject.heads))


@dataclass(frozen=True, eq=False)
class Answers:
    """What some circuits answer, prompt by prompt: `correct` (circuits, n) bool, `logprob` (circuits, n) of the right
    answer (or another metric's number, if one is asked for), and the `contexts` (n,) of the prompts. `chosen`
    (circuits, n) bool: right among the prompts' choices alone; None where they have none."""

    correct: Tensor
    logprob: Tensor
    contexts: Tensor
    chosen: Tensor | None = None

    def __len__(self) -> int:
        return len(self.correct)

    def estimate(self, circuit: int = 0) -> Estimate:
        """A circuit's accuracy with its 95% interval over contexts."""
        circuit = integer("circuit", circuit, -len(self), len(self) - 1)
        return statistics.estimate(self.correct[circuit], self.contexts)

    def choice(self, circuits: int | slice = 0) -> Estimate:
        """How often a circuit, or several on average, is right among the prompts' choices alone, with its 95% interval
        over contexts; NaN where the prompts have no choices."""
        if self.chosen is None:
            return Estimate(np.nan, np.nan, np.nan, len(self.contexts), len(torch.unique(self.contexts)))
        if not isinstance(circuits, slice):
            circuits = [integer("circuit", circuits, -len(self), len(self) - 1)]  # type: ignore[assignment]
        return statistics.estimate(self.chosen[circuits].double().mean(0), self.contexts)

    def average(self, circuit: int = 0) -> Estimate:
        """The mean of a circuit's `logprob` (or of the metric's number) with its 95% interval over contexts."""
        circuit = integer("circuit", circuit, -len(self), len(self) - 1)
        return statistics.estimate(self.logprob[circuit], self.contexts)

    def rows(self, circuits: slice | Sequence[int]) -> "Answers":
        """The answers of some of the circuits."""
        circuits = circuits if isinstance(circuits, slice) else rows_of(circuits, len(self)).tolist()
        return replace(self, **{name: value[circuits] for name, value in self._tables().items()})

    def prompts(self, rows: Tensor) -> "Answers":
        """The answers to some of the prompts, by their numbers."""
        cut = {name: value[:, rows] for name, value in self._tables().items()}
        return replace(self, contexts=self.contexts[rows], **cut)

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> "Answers":
        """The answers of several circuits, or lists of them, to the same prompts."""
        names = set.intersection(*(set(part._tables()) for part in parts))
        cut = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return cls(contexts=parts[0].contexts, **cut)

    def _tables(self) -> dict[str, Tensor]:
        """What has a row a circuit."""
        named = {"correct": self.correct, "logprob": self.logprob}
        return named if self.chosen is None else {**named, "chosen": self.chosen}


def circuit_accuracy(
    subject: Subject,
    circuits: Circuit | Kept | Sequence[Circuit | Kept],
    prompts: Prompts,
    means: Means,
    *,
    metric: str | Metric = LOG_PROBABILITY,
    method: Method = "replay",
    store: Store | None = None,
    memory: float = 1e9,
    name: str = "circuits",
) -> Answers:
    """What is right when each circuit's heads keep their own output and all others are at their means, everywhere.

    Args:
        subject: the model.
        circuits: one or several, each a `Circuit` or a mapping of places to heads (see `kept.positions`).
        prompts: n prompts of the length of those of the means.
        means: what stands in place of every head that is not kept.
        metric: what is read, and when it is right; by default top-1 over the whole vocabulary at `last`.
        method: "replay", or "definition": the same numbers from whole runs.
        store: keeps finished parts of 128 circuits.
        memory: bytes that bound a batch.
        name: what the progress bar says.

    Returns `Answers`, a row a circuit. Raises `ValueError` for prompts of another length, and as `kept.live` does.
    Paper: section 4.1.

        from entity_circuits import ablation, models, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        p, means = tasks.default.prompts(subject, n=14), ablation.means(subject, n=20)
        print(ablation.circuit_accuracy(subject, {"last": ["L3H5", "L2H1"]}, p, means).estimate())
    """
    executor(method)  # an unknown one is told before anything runs
    asked = [circuits] if isinstance(circuits, Circuit | Mapping | Head) else several("circuits", circuits)
    read = metrics.named(metric)
    targets = metrics.wanted(read, prompts)
    finite("memory", memory, 0, inside=True)
    found = [kept(circuit) for circuit in asked]
    places.check(subject, prompts, found, means)
    alike: dict[tuple[str, ...], list[int]] = {}  # by places, so that no circuit carries the live tokens of others
    for index, circuit in enumerate(found):
        alike.setdefault(tuple(sorted(place for place, some in circuit.items() if some)), []).append(index)
    shards = [part[i : i + SHARD] for part in alike.values() for i in range(0, len(part), SHARD)]
    about = {"metric": read, "method": method, "memory": memory}
    inputs = results.key(__name__, subject, prompts=prompts, means=means.z, **about)
    answers = Answers(
        torch.zeros(len(found), len(prompts), dtype=torch.bool),
        torch.zeros(len(found), len(prompts), dtype=torch.promote_types(subject.dtype, torch.float32)),
        prompts.contexts.cpu(),
        torch.zeros(len(found), len(prompts), dtype=torch.bool) if choices.given(prompts) else None,
    )
    tables: list[mean_replay.Table] = []
    with tqdm(total=len(found), desc=name, unit="circuit", disable=None, leave=False) as bar:
        for shard in shards:
            part = [{place: some for place, some in found[index].items() if some} for index in shard]
            words = [{place: [str(head) for head in some] for place, some in sorted(c.items())} for c in part]

            def compute(part: Sequence[Kept] = part) -> dict[str, Tensor]:
                if method == "replay":
                    if not tables:
                        _check_once(subject, prompts, means)
                        tables.append(mean_replay.Table(subject, prompts, means))
                    outcome = places.ablate(
                        subject, prompts, part, means, targets=targets, memory=memory, table=tables[0]
                    )
                else:
                    each = (places.edits(subject, prompts, c, means) for c in part)
                    literal = [runs.run(subject, prompts, one, targets=targets) for one in each]
                    outcome = edits.Outcome.joined(literal, dim=0)
                return metrics.answers(read, outcome, prompts)

            stored = (store or Store(None)).keep("circuits", {**inputs, "circuits": words}, compute)
            for kind, table in answers._tables().items():
                table[shard] = stored[kind].cpu()
            bar.update(len(shard))
    return answers


def full_model(
    subject: Subject, prompts: Prompts, store: Store | None = None, *, metric: str | Metric = LOG_PROBABILITY
) -> Answers:
    """What the unmodified model answers, in the form of one circuit: F(M)."""
    read = metrics.named(metric)
    targets = metrics.wanted(read, prompts)

    def compute() -> dict[str, Tensor]:
        if read is not LOG_PROBABILITY:
            return metrics.answers(read, runs.run(subject, prompts, targets=targets), prompts)
        said = evaluate(subject, prompts)
        found = {"correct": said.correct[None], "logprob": said.answer_logprob[None]}
        return {**found, "chosen": said.chosen[None]} if choices.given(prompts) else found

    inputs = results.key(__name__, subject, prompts=prompts, metric=read)
    return Answers(contexts=prompts.contexts.cpu(), **(store or Store(None)).keep("full", inputs, compute))


def full_without(
    subject: Subject,
    removed: Sequence[Kept],
    prompts: Prompts,
    means: Means,
    *,
    metric: str | Metric = LOG_PROBABILITY,
    method: Method = "replay",
    store: Store | None = None,
    batch: int = 49,
) -> Answers:
    """F(M without K) for several K: only the heads of K are at their means, at K's places, in the unmodified model.

    Args:
        subject: the model.
        removed: each K, a mapping of places to heads.
        prompts: n prompts of the length of those of the means.
        means: what stands in place of the heads of K.
        metric: what is read, and when it is right; by default top-1 over the whole vocabulary at `last`.
        method: "replay", or "definition": the same numbers from whole runs.
        store: keeps finished batches.
        batch: prompts that are recorded at a time, 10 MB each for the default model.

    Returns `Answers`, a row for each K. Everything after the heads is recomputed freely, so this costs far more than
    `circuit_accuracy`. Raises `ValueError` for a place that some prompts do not have. Paper: section 4.1, completeness.

        from entity_circuits import ablation, models, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        p, means = tasks.default.prompts(subject, n=14), ablation.means(subject, n=20)
        print(ablation.full_without(subject, [{"last": ["L3H5"]}], p, means).estimate())
    """
    execute, batch, read = executor(method), integer("batch", batch), metrics.named(metric)
    asked = [kept(some) for some in several("heads to be removed", removed)]
    places.check(subject, prompts, asked, means)
    metrics.wanted(read, prompts)
    parts = []
    for rows in tqdm(torch.arange(len(prompts)).split(batch), desc="full model without", disable=None, leave=False):
        part = prompts.select(rows)

        def compute(part: Prompts = part) -> dict[str, Tensor]:
            for k in asked:
                places.removal(subject, part, k, means)  # a place that is missing is noticed before the model runs
            with torch.no_grad():
                variants = [places.removal(subject, part, k, means) for k in asked]
                options = {"targets": metrics.wanted(read, part), "vocabulary": read.vocabulary}
                outcome = execute(runs.record(subject, part, share_context=True), variants, **options)
            return metrics.answers(read, outcome, part)

        about = {"metric": read, "method": method, "removed": asked}
        inputs = results.key(__name__, subject, prompts=part, means=means.z, **about)
        parts.append((store or Store(None)).keep("full-without", inputs, compute))
    names = [name for name in parts[0] if all(name in part for part in parts)]
    cut = {name: torch.cat([part[name].cpu() for part in parts], dim=1) for name in names}
    return Answers(contexts=prompts.contexts.cpu(), **cut)


_CHECKED: WeakSet[Any] = WeakSet()


def _check_once(subject: Subject, prompts: Prompts, means: Means) -> None:
    """Ablate half of the heads for the first prompt both ways and compare, once a model."""
    if subject.model in _CHECKED:
        return
    first = prompts.select([0])
    everywhere = all_heads(subject, ["last", *first.positions])
    half = {place: some[shift % 2 :: 2] for shift, (place, some) in enumerate(everywhere.items())}
    tokens = torch.arange(0, subject.model.config.vocab_size, 7)[None]
    fast = places.ablate(subject, first, [half], means, targets=tokens).logits
    literal = runs.run(subject, first, places.edits(subject, first, half, means), targets=tokens).logits
    if not precision.close(fast, literal, subject.dtype, subject.device):
        raise RuntimeError(
            f"the fast way differs from the definition by {precision.apart(fast, literal):.2g} of the size of the "
            'logits: this model does something that it does not know. Use method="definition".'
        )
    _CHECKED.add(subject.model)

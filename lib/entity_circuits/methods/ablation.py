"""Is it the circuit? Every head outside it at its mean, and what is left of the model's accuracy. Paper, section 4.

A circuit says which heads keep their own output, and where: each group's heads at the position of the group. All other
heads, and all heads at all other positions, give their mean over contexts of their own; embeddings, norms and MLPs run
normally on what results. So a circuit is a mapping of places to heads (`kept`), and every question of this chapter is
asked of such mappings: `circuit_accuracy` answers them, many at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import heads, results, runs, tasks
from ..arguments import finite, integer, several
from ..heads import Circuit, Head, every
from ..models import precision
from ..models.subject import Subject
from ..results import Store
from ..runs import choices, edits, mean_replay
from ..runs.answers import evaluate
from ..runs.mean_replay import Means
from ..runs.replay import Method
from ..runs.replay import executor as way
from ..tasks.prompts import Prompts
from . import kept as places
from . import metrics, work
from .answered import Answers as Answers
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
    found = results.at(store).keep("means", inputs, compute)["z"]
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
    """How many heads it keeps, a head at two places counted twice.

    For example:

        from entity_circuits import ablation

        print(ablation.size({"last": ["L3H5", "L2H1"], "prev": ["L2H1"]}))  # 3
    """
    return sum(map(len, kept(circuit).values()))


def all_heads(subject: Subject, places: Sequence[str] = ("prev", "query", "last")) -> dict[str, tuple[Head, ...]]:
    """Every head of the model at these places: the most that any circuit there can keep.

    For example:

        from entity_circuits import ablation, toy

        print(ablation.all_heads(toy.subject(), ["last"]))
    """
    return dict.fromkeys(several("places", places, least=0), every(subject.layers, subject.heads))


def circuit_accuracy(
    subject: Subject,
    circuits: Circuit | Kept | Sequence[Circuit | Kept],
    prompts: Prompts,
    means: Means,
    *,
    metric: str | Metric = LOG_PROBABILITY,
    method: Method = "replay",
    store: Store | None = None,
    executor: Executor | None = None,
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
        executor: does them in other processes (see `work`); the same numbers.
        memory: bytes that bound a batch.
        name: what the progress bar says.

    Returns `Answers`, a row a circuit. Raises `ValueError` for prompts of another length, and as `kept.live` does.
    Paper: section 4.1.

        from entity_circuits import ablation, models, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        p, means = tasks.default.prompts(subject, n=14), ablation.means(subject, n=20)
        print(ablation.circuit_accuracy(subject, {"last": ["L3H5", "L2H1"]}, p, means).estimate())
    """
    way(method, subject)  # what cannot be is told before anything runs
    work.require(executor, subject)
    asked = [circuits] if isinstance(circuits, Circuit | Mapping | Head) else several("circuits", circuits)
    read = metrics.named(metric)
    metrics.wanted(read, prompts)  # what it needs of the prompts is there, or this says what is not
    finite("memory", memory, 0, inside=True)
    found = [kept(circuit) for circuit in asked]
    places.check(subject, prompts, found, means)
    alike: dict[tuple[str, ...], list[int]] = {}  # by places, so that no circuit carries the live tokens of others
    for index, circuit in enumerate(found):
        alike.setdefault(tuple(sorted(place for place, some in circuit.items() if some)), []).append(index)
    shards = [part[i : i + SHARD] for part in alike.values() for i in range(0, len(part), SHARD)]
    inputs = results.key(__name__, subject, prompts=prompts, means=means.z, metric=read, method=method, memory=memory)
    evaluated = _Evaluated(subject, prompts, means)

    def units() -> Iterator[work.Unit]:
        for shard in shards:
            part = [{place: some for place, some in found[index].items() if some} for index in shard]
            words = [{place: [str(head) for head in some] for place, some in sorted(c.items())} for c in part]
            compute = partial(_answers, evaluated, part, read, method, memory)
            yield work.Unit("circuits", {**inputs, "circuits": words}, compute, __name__, (subject,))

    answers = Answers(
        torch.zeros(len(found), len(prompts), dtype=torch.bool),
        torch.zeros(len(found), len(prompts), dtype=torch.promote_types(subject.dtype, torch.float32)),
        prompts.contexts.cpu(),
        torch.zeros(len(found), len(prompts), dtype=torch.bool) if choices.given(prompts) else None,
    )
    with tqdm(total=len(found), desc=name, unit="circuit", disable=None, leave=False) as bar:
        for shard, stored in zip(shards, work.done(units(), store, executor), strict=True):
            for kind, table in answers.tables().items():
                table[shard] = stored[kind]
            bar.update(len(shard))
    return answers


@dataclass(eq=False)
class _Evaluated:
    """The prompts on which circuits are evaluated, with the one table of keys and values that serves all of them."""

    subject: Subject
    prompts: Prompts
    means: Means
    made: list[mean_replay.Table] = field(default_factory=list)

    def table(self) -> mean_replay.Table:
        if not self.made:
            _check_once(self.subject, self.prompts, self.means)
            self.made.append(mean_replay.Table(self.subject, self.prompts, self.means))
        return self.made[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return work.once(_Evaluated, self.subject, self.prompts, self.means)


def _answers(
    on: _Evaluated, circuits: Sequence[Kept], read: Metric, method: Method, memory: float
) -> dict[str, Tensor]:
    """(circuits, n) each: what each circuit answers."""
    subject, prompts, means = on.subject, on.prompts, on.means
    targets = metrics.wanted(read, prompts)
    if method == "replay":
        given = {"targets": targets, "memory": memory, "table": on.table()}
        return metrics.answers(read, places.ablate(subject, prompts, circuits, means, **given), prompts)
    each = (places.edits(subject, prompts, one, means) for one in circuits)
    literal = [runs.run(subject, prompts, one, targets=targets) for one in each]
    return metrics.answers(read, edits.Outcome.joined(literal, dim=0), prompts)


def full_model(
    subject: Subject, prompts: Prompts, store: Store | None = None, *, metric: str | Metric = LOG_PROBABILITY
) -> Answers:
    """What the unmodified model answers, in the form of one circuit: F(M).

    For example:

        from entity_circuits import ablation, toy

        print(ablation.full_model(toy.subject(), toy.prompts("apple", "cup"), metric="choice").estimate())
    """
    read = metrics.named(metric)
    targets = metrics.wanted(read, prompts)
    contexts = prompts.contexts.cpu()
    if read is LOG_PROBABILITY:
        said = evaluate(subject, prompts, store=store)
        chosen = said.chosen[None] if choices.given(prompts) else None
        return Answers(said.correct[None], said.answer_logprob[None], contexts, chosen)

    def compute() -> dict[str, Tensor]:
        return metrics.answers(read, runs.run(subject, prompts, targets=targets), prompts)

    inputs = results.key(__name__, subject, prompts=prompts, metric=read)
    return Answers(contexts=contexts, **results.at(store).keep("full", inputs, compute))


def full_without(
    subject: Subject,
    removed: Sequence[Kept],
    prompts: Prompts,
    means: Means,
    *,
    metric: str | Metric = LOG_PROBABILITY,
    method: Method = "replay",
    store: Store | None = None,
    executor: Executor | None = None,
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
        executor: does them in other processes (see `work`); the same numbers.
        batch: prompts that are recorded at a time, 10 MB each for the default model.

    Returns `Answers`, a row for each K. Everything after the heads is recomputed freely, so this costs far more than
    `circuit_accuracy`. Raises `ValueError` for a place that some prompts do not have. Paper: section 4.1, completeness.

        from entity_circuits import ablation, models, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        p, means = tasks.default.prompts(subject, n=14), ablation.means(subject, n=20)
        print(ablation.full_without(subject, [{"last": ["L3H5"]}], p, means).estimate())
    """
    way(method, subject)  # what cannot be is told before anything runs
    batch, read = integer("batch", batch), metrics.named(metric)
    work.require(executor, subject)
    asked = [kept(some) for some in several("heads to be removed", removed)]
    places.check(subject, prompts, asked, means)
    metrics.wanted(read, prompts)  # what it needs of the prompts is there, or this says what is not
    batches = torch.arange(len(prompts)).split(batch)

    def units() -> Iterator[work.Unit]:
        for rows in batches:
            part = prompts.select(rows)
            about = {"metric": read, "method": method, "removed": asked}
            inputs = results.key(__name__, subject, prompts=part, means=means.z, **about)
            compute = partial(_answers_without, subject, part, asked, means, read, method)
            yield work.Unit("full-without", inputs, compute, __name__, (subject,))

    done = work.done(units(), store, executor)
    parts = list(tqdm(done, "full model without", len(batches), disable=None, leave=False))
    names = [name for name in parts[0] if all(name in part for part in parts)]
    cut = {name: torch.cat([part[name] for part in parts], dim=1) for name in names}
    return Answers(contexts=prompts.contexts.cpu(), **cut)


def _answers_without(
    subject: Subject, prompts: Prompts, removed: Sequence[Kept], means: Means, read: Metric, method: Method
) -> dict[str, Tensor]:
    """(sets, n) each: what is answered without each set of heads."""
    with torch.no_grad():  # a place that is missing is noticed before the model runs
        variants = [places.removal(subject, prompts, k, means) for k in removed]
        options = {"targets": metrics.wanted(read, prompts), "vocabulary": read.vocabulary}
        outcome = way(method)(runs.record(subject, prompts, share_context=True), variants, **options)
    return metrics.answers(read, outcome, prompts)


_CHECKED: WeakSet[Any] = WeakSet()


def _check_once(subject: Subject, prompts: Prompts, means: Means) -> None:
    """Ablate half of the heads for the first prompt both ways and compare, once a model."""
    if subject.as_wrapped in _CHECKED:
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
    _CHECKED.add(subject.as_wrapped)

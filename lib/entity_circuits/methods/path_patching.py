"""Path patching: which heads send information to the answer, or to the heads already found. Paper, section 4.

One sender at a time: its output z at one position is replaced by that of a source prompt, and the change travels only
down the residual stream at that position, through the MLPs there and through no other head (pass 1). Without receivers
the answer is read there. With receivers, the q or v that they would then have is put into an unedited run, and
everything after it is recomputed (pass 2). A sender's score says how much of the right answer's probability is lost.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import heads, tasks
from ..arguments import integer, one_of
from ..heads import POSITIONS, Circuit, Group, Head
from ..models.subject import Subject
from ..results import Store
from ..runs.edits import Edit, Read
from ..runs.paths import Reach as Reach
from ..runs.paths import check
from ..runs.recording import Recording
from ..runs.replay import Method
from ..runs.replay import executor as way
from ..tasks.prompts import Prompts
from ..tasks.rounds import Composition, Experiment, Round
from ..tasks.rounds import check as check_rounds
from . import metrics, work
from . import stages as stages_
from .metrics import LOG_PROBABILITY, Metric
from .recorded import Recorded, Runs
from .scores import MEANS
from .scores import Scores as Scores
from .scores import Statistic as Statistic
from .screening import screen as screen
from .swept import Layer, swept
from .swept import unchanged as unchanged
from .swept import unpatched as unpatched


def sweep(
    subject: Subject,
    base: Prompts,
    source: Prompts,
    *,
    position: str,
    receivers: Sequence[Head | str] | None = None,
    composition: Composition | None = None,
    senders: Sequence[Head | str] | None = None,
    reach: Reach = "all",
    metric: str | Metric = LOG_PROBABILITY,
    method: Method = "replay",
    store: Store | None = None,
    executor: Executor | None = None,
    recordings: tuple[Recording, Recording] | None = None,
) -> Scores:
    """Replace each sender's z at `position` of the base prompts by its z at that position of the source prompts.

    Args:
        subject: the model.
        base: n prompts in which outputs are replaced.
        source: n prompts from which they come, one a base prompt.
        position: where, in each prompt; "last" without receivers.
        receivers: the heads whose q, k or v at that position alone carry the change; None: the answer is read directly.
        composition: which of "q", "k" and "v"; given together with receivers.
        senders: defaults to all heads.
        reach: the one position at which changed keys and values are heard, or "all": every later one.
        metric: what is read at the end, by name or a `metrics.Metric`.
        method: "replay", or "definition": the same numbers from whole runs.
        store: keeps finished layers of senders, unless they come from `recordings`: no key says how these were made.
        executor: does them in other processes (see `work`); the same numbers.
        recordings: of base and source; made unless given, of `CHUNK` examples at a time.

    Returns `Scores` of (layers, heads, n), NaN where no path exists. Raises `ValueError` before any model runs, also
    for recordings of other prompts or models. Paper: section 4.1; the official protocol reads round 4 so: reach="all".

        from entity_circuits import models, path_patching, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        drawn = tasks.default.experiment(subject, n=7)
        scores = path_patching.sweep(subject, drawn.base, drawn.source, position="last", senders=["L3H5", "L2H1"])
        print(scores.ranking())
    """
    one_of("composition", composition, Composition | None)
    way(method, subject)  # what cannot be is told before anything runs
    work.require(executor, subject, given=recordings)
    read = metrics.named(metric)
    receivers = None if receivers is None else heads.of(receivers)
    check(subject, base, source, position, receivers, composition, reach)
    runs_ = Runs(subject, base, source, (position,)).given(recordings)
    read.targets(base)  # what it needs of the prompts is there, or this says what is not
    wanted = heads.every(subject.layers, subject.heads) if senders is None else heads.of(senders)
    heads.require(wanted, subject.layers, subject.heads, "as a sender")
    if not wanted:
        raise ValueError("the list of senders is empty")
    top = max((head.layer for head in receivers), default=0) if receivers is not None else subject.layers
    able = heads.by_layer(head for head in wanted if head.layer < top)
    asked = _Path(position, receivers, composition, reach, method, read)
    return _swept(runs_, torch.arange(len(base)), able, asked, store, executor)


@dataclass(frozen=True)
class _Path:
    """What is asked of all senders of a sweep, checked."""

    position: str
    receivers: tuple[Head, ...] | None
    composition: Composition | None
    reach: Reach
    method: Method
    metric: Metric


def _swept(
    runs_: Runs,
    chosen: Tensor,
    able: Mapping[int, tuple[int, ...]],
    path: _Path,
    store: Store | None,
    executor: Executor | None,
) -> Scores:
    """The scores of senders, by layer, on the chosen examples."""
    subject, position = runs_.subject, path.position
    words = {**vars(path), "receivers": None if path.receivers is None else sorted(set(path.receivers))}
    layers = [
        Layer(
            f"sweep-{position}-{layer:02d}",
            {"senders": [layer, *numbers]},
            partial(_layer, layer=layer, numbers=numbers, path=path),
            (layer, list(numbers)),
        )
        for layer, numbers in able.items()
    ]
    shape, what = (subject.layers, subject.heads), f"senders at {position}, by layer"
    return swept(__name__, runs_, chosen, layers, shape, asked=words, store=store, executor=executor, what=what)


def _layer(recorded: Recorded, layer: int, numbers: tuple[int, ...], path: _Path) -> dict[str, Tensor]:
    same = unchanged(*recorded(), layer, numbers, path.position)
    return {"logprob": patched(*recorded(), layer, numbers, **vars(path)), "same": same}


def patched(
    base: Recording,
    source: Recording,
    layer: int,
    senders: tuple[int, ...],
    position: str,
    receivers: Sequence[Head] | None,
    composition: Composition | None,
    reach: Reach,
    method: Method,
    metric: Metric = LOG_PROBABILITY,
) -> Tensor:
    """(senders, n): the metric after replacing each sender of one layer, as `sweep` does for all layers.

    Args:
        base: the recording of n prompts.
        source: that of the n prompts from which outputs come.
        layer: of the senders.
        senders: head numbers.
        position: where they are replaced.
        receivers: as in `sweep`.
        composition: as in `sweep`.
        reach: as in `sweep`.
        method: "replay" or "definition".
        metric: what is read at the end.

    For example:

        from entity_circuits import path_patching, runs, toy

        base, source = (runs.record(toy.subject(), toy.prompts(word)) for word in ("apple", "cup"))
        print(path_patching.patched(base, source, 2, (0, 1), "last", None, None, "all", "replay"))
    """
    one_of("composition", composition, Composition | None)
    execute, whole = way(method), metric.vocabulary
    here, there = base.prompts.position(position), source.prompts.position(position)
    given, targets = source.at("z", layer, there), metric.targets(base.prompts)
    changed = [[Edit("z", layer, (head,), here, given[:, [head]])] for head in senders]
    if receivers is None:
        outcome = execute(base, changed, frozen=True, targets=targets, vocabulary=whole)
        return metrics.number(metric, outcome, base.prompts)
    assert composition is not None
    above = {above: numbers for above, numbers in heads.by_layer(receivers).items() if above > layer}
    read = [Read(composition, above_layer, here) for above_layer in above]
    reads = execute(base, changed, frozen=True, read=read, answer=False).reads
    seen_by = None if reach == "all" else base.prompts.position(reach)
    variants = [
        [
            Edit(composition, at, numbers, here, values[index][:, list(numbers)], seen_by=seen_by)
            for (at, numbers), values in zip(above.items(), reads, strict=True)
        ]
        for index in range(len(senders))
    ]
    outcome = execute(base, variants, targets=targets, vocabulary=whole)
    return metrics.number(metric, outcome, base.prompts)


@dataclass(frozen=True)
class Discovery:
    """The scores of each round, the heads that each handed to the next, and the runs it all is computed from."""

    scores: dict[Group, Scores]
    circuit: Circuit
    runs: Runs = field(repr=False)

    @property
    def recordings(self) -> tuple[Recording, Recording]:
        """Of all base prompts, and of their sources at the positions of the rounds; made when first asked for."""
        return self.runs.whole()


def discover(
    subject: Subject,
    base: Prompts | Experiment | None = None,
    source: Prompts | None = None,
    *,
    rounds: Sequence[Round] | None = None,
    k: Mapping[Group, int] | int | None = None,
    statistic: Statistic = "ratio_of_means",
    metric: str | Metric = LOG_PROBABILITY,
    reach: Reach | None = None,
    method: Method = "replay",
    stages: Sequence[int] | None = None,
    store: Store | None = None,
    executor: Executor | None = None,
    **drawn: Any,
) -> Discovery:
    """Find a circuit in rounds: the heads of each are the most negative ones, and the receivers of the next.

    Args:
        subject: the model.
        base: n base prompts, or an `Experiment` (prompts, sources, rounds); the default task draws one unless given.
        source: n source prompts, from which the senders' outputs come.
        rounds: what is asked in which order; needed with prompts of your own.
        k: how many heads each round hands on; by default the `share` of each round of all heads, at least one.
        statistic: what ranks the heads.
        metric: what is read at the end, by name or a `metrics.Metric`.
        reach: "all" lets changed keys and values be heard everywhere in all rounds, as the official protocol does.
        method: "replay", or "definition": the same numbers from whole runs.
        stages: how many examples all senders get before those are dropped that cannot be chosen any more, as in (20,);
            after these stages, all examples for the rest (see `stages`). Without: all examples for every sender.
        store: keeps finished layers of senders.
        executor: does them in other processes (see `work`); the same numbers.
        **drawn: to the default task's `experiment` (`n`, `seed`, ...), where no prompts are given.

    Groups keep their order of precedence: nothing is dropped here. Raises `ValueError` before any model runs. Paper:
    section 4.2.

        from entity_circuits import models, path_patching

        subject = models.load("qwen2.5-coder-0.5b")
        found = path_patching.discover(subject, n=7)
        print(found.circuit.groups["value_fetcher"])
    """
    one_of("statistic", statistic, Statistic)
    way(method, subject)  # what cannot be is told before anything runs
    work.require(executor, subject)
    read = metrics.named(metric)
    given = _experiment(subject, base, source, rounds, drawn)
    base, source, rounds = given.base, given.source, given.rounds
    read.targets(base)
    for one in rounds:
        receiving = (Head(0, 0),) if one.into else None  # which heads they are, earlier rounds will tell
        check(subject, base, source, one.position, receiving, one.through, reach or one.heard_at or "all")
    every = subject.layers * subject.heads
    sizes = {r.name: max(1, round(r.share * every)) for r in rounds}
    asked = k if isinstance(k, Mapping) else {} if k is None else dict.fromkeys(sizes, k)
    for name, size in asked.items():
        one_of("round", name, sizes)
        sizes[name] = integer(f"k of {name!r}", size, 1, every)
    seen = stages_.sizes(stages, len(base))
    if seen[1:]:
        one_of("statistic of a discovery in stages", statistic, MEANS)
    runs_ = Runs(subject, base, source, tuple(dict.fromkeys(one.position for one in rounds)))
    scores: dict[Group, Scores] = {}
    found: dict[Group, tuple[Head, ...]] = {}
    for one in rounds:
        if one.into and not found[one.into]:  # the receivers before these sit in the lowest layer: nothing reaches them
            scores[one.name] = replace(scores[one.into], change=torch.full_like(scores[one.into].change, torch.nan))
            found[one.name] = ()
            continue
        receivers = found[one.into] if one.into else None
        path = _Path(one.position, receivers, one.through, reach or one.heard_at or "all", method, read)
        scores[one.name] = _staged(runs_, seen, sizes[one.name], statistic, path, store, executor)
        examples = scores[one.name].examples
        ranking = scores[one.name].ranking(statistic)
        whole = [head for head in ranking if examples[head.layer, head.head] == len(base)]
        found[one.name] = tuple(whole[: sizes[one.name]])
    about = {**given.about, "model": subject.name, "fingerprint": subject.fingerprint, "n": len(base)}
    about |= {"statistic": statistic, **({"reach": reach} if reach else {}), **({"stages": seen} if seen[1:] else {})}
    about |= {} if read is LOG_PROBABILITY else {"metric": read.name}
    own = {r.name: r.position for r in rounds if POSITIONS.get(r.name) != r.position}
    return Discovery(scores, Circuit(found, about, own), runs_)


def _staged(
    runs_: Runs,
    seen: Sequence[int],
    k: int,
    statistic: Statistic,
    path: _Path,
    store: Store | None,
    executor: Executor | None,
) -> Scores:
    """The scores of all senders that have a path, after each stage of those that could still be among the k chosen."""
    subject, order, before = runs_.subject, stages_.spread(runs_.base), 0
    top = max((head.layer for head in path.receivers), default=0) if path.receivers is not None else subject.layers
    able, n = heads.every(top, subject.heads), len(runs_)
    dtype = torch.promote_types(subject.dtype, torch.float32)
    none = torch.full((subject.layers, subject.heads, n), torch.nan, dtype=dtype)
    nobody, contexts = torch.zeros(n, dtype=torch.bool), runs_.base.contexts.cpu()
    scores = Scores(none, none[0, 0].clone(), nobody, contexts, path.metric.log)
    for size in seen:
        rows = order[before:size].sort().values
        scores = scores.filled(rows, _swept(runs_, rows, heads.by_layer(able), path, store, executor))
        if size < n and able:
            able = stages_.undecided(scores.where(order[:size]), k, of=n, statistic=statistic)
        before = size
    return scores


def _experiment(
    subject: Subject,
    base: Prompts | Experiment | None,
    source: Prompts | None,
    rounds: Sequence[Round] | None,
    drawn: Mapping[str, Any],
) -> Experiment:
    """What a discovery is made on, from whatever of it was given, checked."""
    if isinstance(base, Experiment) or base is None:
        if source is not None or (drawn and base is not None):
            raise ValueError("an experiment brings its source prompts, and nothing is drawn for it")
        given = tasks.default.experiment(subject, **drawn) if base is None else base
        given = given if rounds is None else replace(given, rounds=tuple(rounds))
    elif source is None or rounds is None or drawn:
        raise ValueError("base prompts of your own come with source prompts and rounds, and nothing is drawn")
    else:
        given = Experiment(base, source, tuple(rounds))
    check_rounds(given.rounds)
    for one in given.rounds:
        given.base.position(one.position), given.source.position(one.position)
        if one.heard_at:
            given.base.position(one.heard_at)
    return given

"""Path patching: which heads send information to the answer, or to the heads already found. Paper, section 4.

One sender at a time: its output z at one position is replaced by that of a source prompt, and the change travels only
down the residual stream at that position, through the MLPs there and through no other head (pass 1). Without receivers
the answer is read there. With receivers, the q or v that they would then have is put into an unedited run, and
everything after it is recomputed (pass 2). A sender's score says how much of the right answer's probability is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import heads, results, runs
from ..heads import GROUPS, Circuit, Group, Head
from ..models.subject import Subject
from ..results import Store
from ..runs import replay
from ..runs.edits import Edit, Outcome, Read
from ..runs.recording import Recording
from ..runs.replay import EXECUTORS, Method
from ..tasks import boxes as task
from ..tasks.boxes import Prompts

Composition = Literal["q", "v"]
Reach = Literal["all", "query"]
Statistic = Literal["mean", "median", "ratio_of_means", "mean_log"]


@dataclass(frozen=True)
class Scores:
    """What replacing each sender does to the right answer, example by example.

    `change` (layers, heads, n) is log p(answer) after minus before; NaN where the sender has no path to a receiver (or
    was not asked for). `logprob` (n,) is log p(answer) before and `correct` (n,) says whether it was the top token.
    `contexts` (n,) numbers the worlds of the examples. Negative: the head matters.
    """

    change: Tensor
    logprob: Tensor
    correct: Tensor
    contexts: Tensor

    @property
    def per_example(self) -> Tensor:
        """(layers, heads, n): the paper's score of each example, (p_patched - p_clean) / p_clean, from -1 up."""
        return torch.expm1(self.change)

    @property
    def mean(self) -> Tensor:
        """(layers, heads): the paper's score. An example with a tiny clean probability can dominate it (B18)."""
        return self.statistic("mean")

    def statistic(self, kind: Statistic) -> Tensor:
        """(layers, heads): one number a head. All are 0 for no effect and negative for a head that matters.

        `mean` and `median` over examples of the relative change; `ratio_of_means`, the change of the mean probability
        relative to it (weights examples by their probability); `mean_log`, the mean change of the log-probability.
        """
        if kind == "mean":
            return self.per_example.mean(-1)
        if kind == "median":
            return self.per_example.median(-1).values
        if kind == "mean_log":
            return self.change.mean(-1)
        clean = self.logprob.exp()
        return (self.per_example * clean).sum(-1) / clean.sum()

    def where(self, rows: Tensor) -> "Scores":
        """The scores over some of the examples, `scores.where(scores.correct)` for instance."""
        cut = {name: getattr(self, name)[rows] for name in ("logprob", "correct", "contexts")}
        return replace(self, change=self.change[..., rows], **cut)

    def ranking(self, kind: Statistic = "ratio_of_means") -> list[Head]:
        """All heads that have a path, the most negative first; ties in the order of layer and head."""
        return heads.ranked(self.statistic(kind).cpu().numpy())


def sweep(
    subject: Subject,
    base: Prompts,
    source: Prompts,
    *,
    position: Literal["last", "query", "prev"],
    receivers: Sequence[Head] | None = None,
    composition: Composition | None = None,
    senders: Sequence[Head] | None = None,
    reach: Reach = "all",
    method: Method = "replay",
    store: Store | None = None,
    recordings: tuple[Recording, Recording] | None = None,
) -> Scores:
    """Replace each sender's z at `position` of the base prompts by its z at that position of the source prompts.

    Without `receivers` the answer is read directly (then `position` is "last"); with them, the change acts through
    their q or v (`composition`) at that position alone. `reach="query"` lets changed values at `prev` act only in the
    receivers' outputs at `query`, not at every later position. `senders` defaults to all heads. Scores are NaN where
    no path exists. Both methods give the same numbers. Finished layers of senders are kept in `store` and not run
    again; `recordings` of base and source are made unless given. Raises `ValueError` before any model runs, also for
    recordings of other prompts or another model. Paper: section 4.1; the official protocol reads round 4 with
    `reach="all"`.

        base = boxes.prompts(subject, n=70)
        scores = path_patching.sweep(subject, base, boxes.noise(subject, base), position="last")
        print(scores.ranking()[:5])
    """
    _check(subject, base, source, position, receivers, composition, reach)
    for recording, prompts in zip(recordings or (), (base, source), strict=False):
        recording.require(subject, prompts)
    wanted = heads.every(subject.layers, subject.heads) if senders is None else senders
    top = max((head.layer for head in receivers), default=0) if receivers is not None else subject.layers
    able = heads.by_layer(head for head in wanted if head.layer < top)
    store = Store(None) if store is None else store
    inputs = results.key(
        __name__,
        subject,
        base=base,
        source=source,
        position=position,
        receivers=None if receivers is None else sorted(set(receivers)),
        composition=composition,
        reach=reach,
        method=method,
    )
    made: list[tuple[Recording, Recording]] = [recordings] if recordings else []

    def recorded() -> tuple[Recording, Recording]:
        if not made:
            made.append(_recorded(subject, base, source))
        return made[0]

    def clean() -> dict[str, Tensor]:
        outcome = EXECUTORS[method](recorded()[0], [[]])
        return {"logprob": outcome.logprob[0], "correct": outcome.top[0] == base.answer_ids}

    before = store.keep("clean", inputs, clean)
    change = torch.full((subject.layers, subject.heads, len(base)), torch.nan, dtype=before["logprob"].dtype)
    for layer, numbers in tqdm(able.items(), desc=f"senders at {position}, by layer", disable=None, leave=False):
        shard = store.keep(
            f"sweep-{position}-{layer:02d}",
            {**inputs, "senders": [layer, *numbers]},
            lambda layer=layer, numbers=numbers: {  # type: ignore[misc]
                "logprob": patched(*recorded(), layer, numbers, position, receivers, composition, reach, method),
                "same": unchanged(*recorded(), layer, numbers, position),
            },
        )
        effect = (shard["logprob"] - before["logprob"]).masked_fill(shard["same"], 0.0)
        change[layer, list(numbers)] = effect.cpu()
    return Scores(change, before["logprob"].cpu(), before["correct"].cpu(), base.contexts.cpu())


def _recorded(subject: Subject, base: Prompts, source: Prompts) -> tuple[Recording, Recording]:
    return runs.record(subject, base, share_context=True), runs.record(subject, source, share_context=True)


def unchanged(
    base: Recording, source: Recording, layer: int, senders: tuple[int, ...], position: Literal["last", "query", "prev"]
) -> Tensor:
    """(senders, n) bool: where the source's z is the base's own. Nothing is replaced there: exactly no effect."""
    was = base.at("z", layer, base.prompts.position(position))
    given = source.at("z", layer, source.prompts.position(position))
    return (was == given).all(-1)[:, list(senders)].T.contiguous()


def patched(
    base: Recording,
    source: Recording,
    layer: int,
    senders: tuple[int, ...],
    position: Literal["last", "query", "prev"],
    receivers: Sequence[Head] | None,
    composition: Composition | None,
    reach: Reach,
    method: Method,
) -> Tensor:
    """(senders, n): log p(answer) after replacing each sender of one layer, as `sweep` does for all layers."""
    execute = EXECUTORS[method]
    here, there = base.prompts.position(position), source.prompts.position(position)
    given = source.at("z", layer, there)
    changed = [[Edit("z", layer, (head,), here, given[:, [head]])] for head in senders]
    if receivers is None:
        return execute(base, changed, frozen=True).logprob
    assert composition is not None
    above = {above: numbers for above, numbers in heads.by_layer(receivers).items() if above > layer}
    read = [Read(composition, above_layer, here) for above_layer in above]
    reads = execute(base, changed, frozen=True, read=read, answer=False).reads
    seen_by = base.prompts.query if reach == "query" else None
    variants = [
        [
            Edit(composition, at, numbers, here, values[index][:, list(numbers)], seen_by=seen_by)
            for (at, numbers), values in zip(above.items(), reads, strict=True)
        ]
        for index in range(len(senders))
    ]
    return execute(base, variants).logprob


def _check(
    subject: Subject,
    base: Prompts,
    source: Prompts,
    position: str,
    receivers: Sequence[Head] | None,
    composition: str | None,
    reach: str,
) -> None:
    if len(base) != len(source):
        raise ValueError(f"one source prompt a base prompt is needed: {len(base)} and {len(source)}")
    if (receivers is None) != (composition is None):
        raise ValueError("receivers and their composition (q or v) are given together, or neither")
    if receivers is None and position != "last":
        raise ValueError("without receivers the answer is read at `last`: position must be 'last'")
    if receivers is not None and not receivers:
        raise ValueError("the list of receivers is empty")
    if reach == "query" and (position != "prev" or composition != "v"):
        raise ValueError("reach='query' confines values changed at `prev`: position='prev', composition='v'")
    heads.require(receivers or (), subject.layers, subject.heads, "as a receiver")


ROUNDS: dict[Group, tuple[Literal["last", "query", "prev"], Group | None, Composition | None]] = {
    "value_fetcher": ("last", None, None),
    "position_transmitter": ("last", "value_fetcher", "q"),
    "position_detector": ("query", "position_transmitter", "v"),
    "structure_reader": ("prev", "position_detector", "v"),
}
"""The four rounds: the senders' position, the group that receives, and through what (paper, section 4.2)."""

SHARE: dict[Group, float] = dict(zip(GROUPS, (20 / 1024, 5 / 1024, 10 / 1024, 5 / 1024), strict=True))
"""Receivers of the next round, as a share of all heads: 20, 5, 10 and 5 of Llama-7B's 1,024."""


@dataclass(frozen=True)
class Discovery:
    """The scores of the four rounds, the heads that each handed to the next, and the runs it all was computed from."""

    scores: dict[Group, Scores]
    circuit: Circuit
    recordings: tuple[Recording, Recording] = field(repr=False)


def discover(
    subject: Subject,
    *,
    n: int = 70,
    boxes: int = 7,
    seed: int = 0,
    k: dict[Group, int] | None = None,
    statistic: Statistic = "ratio_of_means",
    reach: Reach = "query",
    method: Method = "replay",
    store: Store | None = None,
) -> Discovery:
    """Run the four rounds on `n` base prompts of the discovery split, each head compared under the same sources.

    `k` heads of each group, the most negative by `statistic`, are the receivers of the next round; by default the
    paper's numbers scaled to the model's heads, at least one. Groups keep the paper's order of precedence: nothing is
    dropped here. Paper: section 4.2.

        found = path_patching.discover(subject, n=70)
        print(found.circuit.groups["value_fetcher"])
    """
    base = task.prompts(subject, n, boxes, seed, split="discovery")
    source = task.noise(subject, base, seed)
    recordings = _recorded(subject, base, source)
    k = k or {group: max(1, round(share * subject.layers * subject.heads)) for group, share in SHARE.items()}
    scores: dict[Group, Scores] = {}
    found: dict[Group, tuple[Head, ...]] = {}
    for group, (position, receiving, composition) in ROUNDS.items():
        if (
            receiving and not found[receiving]
        ):  # the receivers before these sit in the lowest layer: nothing reaches them
            scores[group] = replace(scores[receiving], change=torch.full_like(scores[receiving].change, torch.nan))
            found[group] = ()
            continue
        scores[group] = sweep(
            subject,
            base,
            source,
            position=position,
            receivers=found[receiving] if receiving else None,
            composition=composition,
            reach=reach if group == "structure_reader" else "all",
            method=method,
            store=store,
            recordings=recordings,
        )
        found[group] = tuple(scores[group].ranking(statistic)[: k[group]])
    about = {
        "model": subject.name,
        "fingerprint": subject.fingerprint,
        "n": n,
        "boxes": boxes,
        "seed": seed,
        "statistic": statistic,
        "reach": reach,
    }
    return Discovery(scores, Circuit(found, about), recordings)


def screen(
    base: Recording,
    source: Recording,
    *,
    position: Literal["last", "query", "prev"],
    receivers: Sequence[Head] | None = None,
    composition: Composition | None = None,
    reach: Reach = "all",
) -> Tensor:
    """(layers, heads): a first-order estimate of every sender's mean change of log p(answer), from one backward pass.

    Attribution patching along the same path as `sweep`: the gradient with respect to every head's z at `position`,
    times the difference between source and base. It ranks heads before the exact sweep; it does not replace it.

        estimate = path_patching.screen(recording, source_recording, position="last")
        print(estimate.flatten().argsort()[:5])
    """
    subject = base.subject
    _check(subject, base.prompts, source.prompts, position, receivers, composition, reach)
    here, there = base.prompts.position(position), source.prompts.position(position)
    every = tuple(range(subject.heads))
    layers = range(subject.layers if receivers is None else max(head.layer for head in receivers))
    leaves = [base.at("z", layer, here).clone().requires_grad_(True) for layer in layers]
    senders = [Edit("z", layer, every, here, leaf) for layer, leaf in zip(layers, leaves, strict=True)]
    if receivers is None:
        effect = replay.replay(base, [senders], frozen=True).logprob.sum()
    else:
        assert composition is not None
        groups = heads.by_layer(receivers)
        read = [Read(composition, layer, here) for layer in groups]
        values = [
            replay.recorded(base, item)[:, list(numbers)] for item, numbers in zip(read, groups.values(), strict=True)
        ]
        values = [value.clone().requires_grad_(True) for value in values]
        seen_by = base.prompts.query if reach == "query" else None
        edits = [
            Edit(composition, layer, numbers, here, value, seen_by=seen_by)
            for (layer, numbers), value in zip(groups.items(), values, strict=True)
        ]
        slopes = torch.autograd.grad(replay.replay(base, [edits]).logprob.sum(), values)
        reads: Outcome = replay.replay(base, [senders], frozen=True, read=read, answer=False)
        parts = zip(reads.reads, groups.values(), slopes, strict=True)
        effect = torch.stack([(value[0][:, list(numbers)] * slope).sum() for value, numbers, slope in parts]).sum()
    estimate = torch.full((subject.layers, subject.heads), torch.nan)
    for layer, slope in zip(layers, torch.autograd.grad(effect, leaves), strict=True):
        step = source.at("z", layer, there) - base.at("z", layer, here)
        estimate[layer] = (slope * step).sum(-1).mean(0).float().cpu()
    return estimate

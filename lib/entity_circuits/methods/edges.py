"""Direct edges: what one head writes into the query, key or value of one later head, and what that does to the answer.

A sender's z at one position is replaced by a source prompt's, and what this changes in the residual stream is told to
one receiver alone: its query (or key, or value) at that position becomes what it would be if the stream before its
norm had changed by that much. No MLP and no other head hears of it, so the paths of path patching that go through MLPs
are left out: of all ways from the sender to the receiver, this is the straight one. Then everything after the receiver
is computed anew.

What an attention adds to the stream is what its own family adds: behind a norm, or times a number, where it has these.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import heads
from ..arguments import one_of
from ..heads import Head
from ..models import forms
from ..models.alone import ALONE
from ..models.precision import fast_float32
from ..models.subject import Subject
from ..results import Store
from ..runs import blocks
from ..runs.edits import Edit
from ..runs.paths import Reach as Reach
from ..runs.paths import check
from ..runs.projected import projected_at, taken_apart
from ..runs.recording import Recording
from ..runs.replay import Method
from ..runs.replay import executor as way
from ..runs.tracing import inputs_of, no_logits
from ..tasks.prompts import Prompts
from ..tasks.rounds import Composition
from . import metrics, work
from .edge_maps import Ceiling as Ceiling
from .edge_maps import Edges as Edges
from .edge_maps import ceiling as ceiling
from .metrics import LOG_PROBABILITY, Metric
from .recorded import Recorded, Runs
from .scores import Scores
from .swept import Layer, swept, unchanged


def sweep(
    subject: Subject,
    base: Prompts,
    source: Prompts,
    *,
    position: str,
    composition: Composition,
    senders: Sequence[Head | str] | None = None,
    receivers: Sequence[Head | str] | None = None,
    reach: Reach = "all",
    metric: str | Metric = LOG_PROBABILITY,
    method: Method = "replay",
    store: Store | None = None,
    executor: Executor | None = None,
    recordings: tuple[Recording, Recording] | None = None,
) -> Edges:
    """Change one receiver's q, k or v at `position` by what one sender's z from the source prompts changes directly.

    Args:
        subject: the model.
        base: n prompts in which they are changed.
        source: n prompts from which the senders' z come, one a base prompt.
        position: where, in each prompt.
        composition: what the receivers hear through, "q", "k" or "v"; where heads share keys and values, the slice of
            the one query head alone is changed.
        senders: each once; all heads unless given.
        receivers: likewise.
        reach: the one position at which changed keys and values are heard, or "all": every later one.
        metric: what is read at the end, by name or a `metrics.Metric`.
        method: "replay", from recordings; or "definition", the same numbers from whole passes: one a sender in which
            every other head and every MLP is held at what it was, and one a pair.
        store: keeps the pairs of each layer of senders, unless they come from `recordings` (see `path_patching.sweep`).
        executor: does them in other processes (see `work`); the same numbers.
        recordings: of base and source; made unless given, of `CHUNK` examples at a time.

    Returns `Edges` of (senders, receivers, n), NaN where the receiver is not in a layer above the sender. Raises
    `ValueError` before any model runs, also for recordings of other prompts or another model.

        from entity_circuits import edges, models, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        drawn = tasks.default.experiment(subject, n=7)
        asked = {"senders": ["L0H1", "L1H2"], "receivers": ["L2H0", "L3H1"], "position": "last", "composition": "q"}
        print(edges.sweep(subject, drawn.base, drawn.source, **asked).table())
    """
    one_of("composition", composition, Composition)
    way(method, subject)  # what cannot be is told before anything runs
    work.require(executor, subject, given=recordings)
    read, every = metrics.named(metric), heads.every(subject.layers, subject.heads)
    sending, receiving = (every if given is None else _once(heads.of(given)) for given in (senders, receivers))
    check(subject, base, source, position, receiving, composition, reach)
    heads.require(sending, subject.layers, subject.heads, "as a sender")
    if not sending:
        raise ValueError("the list of senders is empty")
    runs_ = Runs(subject, base, source, (position,)).given(recordings)
    read.targets(base)  # what it needs of the prompts is there, or this says what is not
    asked = _Asked(position, composition, reach, method, read)
    return Edges(sending, receiving, _swept(runs_, sending, receiving, asked, store, executor))


@dataclass(frozen=True)
class _Asked:
    """What is asked of all pairs of a sweep, checked."""

    position: str
    composition: Composition
    reach: Reach
    method: Method
    metric: Metric


def _once(some: Sequence[Head]) -> tuple[Head, ...]:
    return tuple(dict.fromkeys(some))


def _swept(
    runs_: Runs,
    senders: tuple[Head, ...],
    receivers: tuple[Head, ...],
    asked: _Asked,
    store: Store | None,
    executor: Executor | None,
) -> Scores:
    """The changes of all pairs, layer by layer of the senders."""
    row, column = ({head: index for index, head in enumerate(some)} for some in (senders, receivers))
    layers, top = [], max(head.layer for head in receivers)
    for layer, numbers in heads.by_layer(senders).items():
        if layer >= top:
            continue
        above = heads.by_layer(head for head in receivers if head.layer > layer)
        at = torch.tensor([row[Head(layer, number)] for number in numbers])
        into = torch.tensor([column[Head(higher, number)] for higher, some in above.items() for number in some])
        words = {"pairs": [[layer, *numbers], *([at, *some] for at, some in above.items())]}
        given = partial(_layer, layer=layer, numbers=numbers, above=above, asked=asked)
        layers.append(Layer(f"edges-{asked.position}-{layer:02d}", words, given, (at[:, None], into)))
    shape, what, every = (
        (len(senders), len(receivers)),
        f"edges from {asked.position}, by layer",
        torch.arange(len(runs_)),
    )
    return swept(__name__, runs_, every, layers, shape, asked=vars(asked), store=store, executor=executor, what=what)


def _layer(
    recorded: Recorded, layer: int, numbers: tuple[int, ...], above: Mapping[int, tuple[int, ...]], asked: _Asked
) -> dict[str, Tensor]:
    same = unchanged(*recorded(), layer, numbers, asked.position)
    return {"logprob": patched(*recorded(), layer, numbers, above, **vars(asked)), "same": same[:, None]}


def patched(
    base: Recording,
    source: Recording,
    layer: int,
    senders: tuple[int, ...],
    receivers: Mapping[int, tuple[int, ...]],
    position: str,
    composition: Composition,
    reach: Reach,
    method: Method,
    metric: Metric = LOG_PROBABILITY,
) -> Tensor:
    """(senders, receivers, n): the metric under the edge of each pair, as `sweep` does for all layers of senders.

    Args:
        base: the recording of n prompts.
        source: that of the n prompts from which outputs come.
        layer: of the senders.
        senders: head numbers.
        receivers: head numbers by layer, all above the senders'; the pairs come in this order.
        position: where the receivers hear another sender.
        composition: through what.
        reach: as in `sweep`.
        method: "replay" or "definition".
        metric: what is read at the end.

    For example:

        from entity_circuits import edges, runs, toy

        base, source = (runs.record(toy.subject(), toy.prompts(word)) for word in ("apple", "cup"))
        print(edges.patched(base, source, 0, (0, 1), {1: (0,)}, "prev", "v", "all", "replay"))
    """
    one_of("composition", composition, Composition)
    way(method)
    received = {"replay": _received, "definition": _received_in_passes}[method]
    values = received(base, source, layer, senders, tuple(receivers), position, composition)
    here, seen_by = base.prompts.position(position), None if reach == "all" else base.prompts.position(reach)
    variants = [
        [Edit(composition, at, (head,), here, values[at][index][:, [head]], seen_by=seen_by)]
        for index in range(len(senders))
        for at, numbers in receivers.items()
        for head in numbers
    ]
    outcome = way(method)(base, variants, targets=metric.targets(base.prompts), vocabulary=metric.vocabulary)
    return metrics.number(metric, outcome, base.prompts).unflatten(0, (len(senders), -1))


def _received(
    base: Recording,
    source: Recording,
    layer: int,
    senders: tuple[int, ...],
    above: Sequence[int],
    position: str,
    composition: Composition,
) -> dict[int, Tensor]:
    """For each layer above, (senders, n, heads, head_size): q, k or v of its heads if they heard each sender changed.

    From the recordings: what the attention adds with the sender's z replaced, minus what it added, on the recorded
    residual of the layer above.
    """
    subject, here = base.subject, base.prompts.position(position)
    blocks.require(subject)
    given, z = (one.at("z", layer, one.prompts.position(position)) for one in (source, base))
    changed = z.repeat(len(senders), 1, 1, 1)
    for index, head in enumerate(senders):
        changed[index, :, head] = given[:, head]
    nothing = torch.zeros_like(base.stream(layer, here))
    with fast_float32(subject), torch.no_grad():
        more = blocks.attended(subject, layer, nothing, changed) - blocks.attended(subject, layer, nothing, z)
        streams = {at: base.stream(at, here) for at in above}
        heard = {at: blocks.read_by_attention(subject, at, x + more.to(x.device)) for at, x in streams.items()}
        return {at: blocks.project(subject, at, composition, x) for at, x in heard.items()}


def _received_in_passes(
    base: Recording,
    source: Recording,
    layer: int,
    senders: tuple[int, ...],
    above: Sequence[int],
    position: str,
    composition: Composition,
) -> dict[int, Tensor]:
    """The same by definition: a whole pass a sender in which all other heads and all MLPs give out what they did.

    In such a pass nothing but what the sender adds to the stream can differ, in any layer above; so q, k or v are read
    as the model itself has them there. Plain hooks, since no edit of a run holds an MLP.
    """
    subject, prompts = base.subject, base.prompts
    form, shared = forms.of(subject.model), subject.heads // subject.kv_heads
    rows, here = torch.arange(len(prompts)), prompts.position(position)
    given, size = source.at("z", layer, source.prompts.position(position)), subject.head_size
    layers = [(block, forms.part(block, form.attention)) for block in form.blocks(subject.model)]
    outs = [forms.part(attention, form.out) for _, attention in layers]
    mlps = [forms.part(block, form.mlp) for block, _ in layers]
    path, sites = next((path, sites) for path, sites in projected_at(form) if composition in sites)

    @ALONE
    def run(before: Sequence[Any], after: Sequence[Any]) -> None:
        with ExitStack() as hooks, fast_float32(subject), torch.no_grad():
            for module, hook in before:
                hooks.callback(module.register_forward_pre_hook(hook).remove)
            for module, hook in after:
                hooks.callback(module.register_forward_hook(hook).remove)
            subject.model(**inputs_of(subject, prompts), **no_logits())

    z: dict[Any, Tensor] = {}
    fed: dict[Any, Any] = {}
    run(
        [(out, lambda module, given: z.update({module: given[0]})) for out in outs],
        [(mlp, lambda module, _, output: fed.update({module: output})) for mlp in mlps],
    )
    found: dict[int, list[Tensor]] = {at: [] for at in above}
    for head in senders:
        held = dict(z)
        held[outs[layer]] = z[outs[layer]].clone()
        held[outs[layer]][rows, here, head * size : (head + 1) * size] = given[:, head]

        def reading(at: int) -> Any:
            def read(module: Any, _: Any, output: Tensor) -> None:
                slices = taken_apart(subject, output, sites)[composition][rows, here]
                apart = slices if composition == "q" else slices.repeat_interleave(shared, dim=1)
                found[at].append(apart.clone())

            return read

        run(
            [(out, lambda module, _, held=held: (held[module],)) for out in outs],
            [(mlp, lambda module, _, output: fed[module]) for mlp in mlps]
            + [(forms.part(layers[at][1], path), reading(at)) for at in above],
        )
    return {at: torch.stack(values) for at, values in found.items()}

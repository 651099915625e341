"""The fast way: from a recording, recompute only what the edits of a variant can change. Exact, not approximate.

Positions before the first edited one and layers below it cannot change, so they come from the recording, and many
variants are rows of one batch:

- *frozen* (pass 1 of path patching): all attention outputs are held, so one position changes at a time and no attention
  is computed at all: the recorded residual, plus o_proj of the changed z, and then up through the MLPs.
- *free*: the tokens from the first edited position to `last` go up from the first edited layer, against the recorded
  keys and values of the tokens before them, which all variants share.

It calls the model's own submodules, for the forms of block that `models.forms` lists; for any other it says so, and
`runs.rerun`, which has the same signature, is the way out.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor

from ..arguments import boolean, finite, of_kind
from ..models.precision import apart, close, fast_float32
from ..models.subject import Subject
from . import attention_inputs, blocks, definition, edits
from .attending import apply, attend
from .edits import Edit, Outcome, Read, heard_together, listed
from .recording import Recording, recorded, require_targets
from .recording import attention as attention
from .said import recorded_answers as recorded_answers
from .selfcheck import probes


def replay(
    recording: Recording,
    variants: Sequence[Sequence[Edit]],
    *,
    frozen: bool = False,
    read: Sequence[Read] = (),
    targets: Tensor | None = None,
    answer: bool = True,
    vocabulary: bool = True,
    memory: float = 1e9,
) -> Outcome:
    """What each variant's edits would change in a recorded run: the numbers of `runs.rerun`, from far less work.

    Args:
        recording: of n prompts.
        variants: lists of edits, each made by itself. Gradients flow to a `value` or `keep` that asks for them.
        frozen: every z keeps its recorded value except where a variant edits it.
        read: activations to be read after the edits.
        targets: (n, k) tokens whose logits are wanted; the right answers unless given.
        answer: without it the logits are left out (NaN), and the run stops at the highest layer read.
        vocabulary: without it only the logits of the targets are computed; log-probabilities are NaN, the most likely
            token is -1.
        memory: bytes that bound a batch.

    Returns an `Outcome` of all variants. Raises `ValueError` for impossible edits and for logits that are no numbers,
    `NotImplementedError` for a model of another form. Paper: section 4.1 (`frozen` is pass 1 of path patching).

        from entity_circuits import models, prompts, replay, runs

        subject = models.load("qwen2.5-coder-0.5b")
        p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
        recording = runs.record(subject, p)
        zero = 0 * recording.at("z", 3, p.last)[:, :1]
        edits = [[runs.Edit("z", 3, (head,), p.last, zero)] for head in range(3)]
        print(replay.replay(recording, edits).logprob)  # (variants, n)
    """
    for what, given in (("frozen", frozen), ("answer", answer), ("vocabulary", vocabulary)):
        boolean(what, given)
    of_kind("recording", recording, Recording)
    variants, read = listed(variants, read)
    subject, prompts = recording.subject, recording.prompts
    blocks.require(subject)
    subject.require_unchanged()
    finite("memory", memory, least=0.0, inside=True)
    if not answer and not read:
        raise ValueError("nothing is asked of this replay: name activations to read, or leave the answer in")
    targets = prompts.answer_ids[:, None] if targets is None else targets
    require_targets(subject, prompts, targets)
    for item in read:
        edits.check(item, subject, prompts)
    for edit in itertools.chain.from_iterable(variants):
        edits.check(edit, subject, prompts)
        if frozen and edit.site != "z":
            raise ValueError(f"a {edit.site} edit does nothing while all z are held: use z edits, or frozen=False")
    for variant in variants:
        heard_together(variant)
        attention_inputs.require_something_heard(subject, prompts, variant)
    with fast_float32(subject):
        _check_once(recording)
        return _replay(recording, variants, frozen, read, targets, answer, vocabulary, memory)


def _replay(
    recording: Recording,
    variants: Sequence[Sequence[Edit]],
    frozen: bool,
    read: Sequence[Read],
    targets: Tensor,
    answer: bool,
    vocabulary: bool,
    memory: float,
) -> Outcome:
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, variant in enumerate(variants):
        groups.setdefault((_lowest_layer(recording, variant), *_starts(recording, variant)), []).append(index)
    parts: list[tuple[list[int], Tensor, Outcome]] = []
    for (layer, *starts), members in groups.items():
        start, last = torch.tensor(starts), recording.prompts.last
        spans = [torch.arange(len(recording))] if frozen else _alike(start, last)
        for rows in spans:
            whole = len(rows) == len(recording)
            part = recording if whole else recording.select(rows)
            tail = 1 if frozen else int(last[rows[0]] - start[rows[0]]) + 1
            size = _variants_a_batch(recording, len(rows), tail, memory)
            for chunk in (members[i : i + size] for i in range(0, len(members), size)):
                batch = [[edit if whole else edit.rows(rows) for edit in variants[index]] for index in chunk]
                seen = [Read(r.site, r.layer, r.position[rows]) for r in read]
                walk = _frozen if frozen else _free
                hidden, reads = walk(part, batch, layer, start[rows], seen, answer)
                outcome = blocks.readout(
                    recording.subject, hidden, targets[rows], reads, vocabulary, prompts=part.prompts
                )
                parts.append((chunk, rows, outcome))
    return _assembled(parts, len(variants), len(recording))


def _frozen(
    recording: Recording, variants: list[list[Edit]], first: int, start: Tensor, read: Sequence[Read], answer: bool
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """One position a prompt, no attention: hidden states (variants, n, width) at `last`, and the reads."""
    subject = recording.subject
    rows, places = torch.arange(len(recording)), subject.devices
    for edit in itertools.chain.from_iterable(variants):
        if edit.position is None or not torch.equal(edit.position, start):
            raise ValueError(
                "a frozen replay changes one position a prompt; other edits: replay them apart, or runs.rerun"
            )
    reads = _Reads(recording, read, len(variants))
    hidden = recording.stream(first, start).expand(len(variants), -1, -1)
    for layer in range(first, reads.top(answer, subject.layers)):
        hidden = hidden.to(places[layer])
        if reads.wants(layer, "q", "k", "v"):
            x = blocks.read_by_attention(subject, layer, hidden)
            for site in ("q", "k", "v"):
                if reads.wants(layer, site):
                    reads.take(layer, site, blocks.project(subject, layer, site, x)[:, :, None], start)
        z = recording.at("z", layer, start)
        edited = [index for index, edits in enumerate(variants) if any(edit.layer == layer for edit in edits)]
        if edited or reads.wants(layer, "z"):
            z = z.expand(len(variants), *z.shape).clone()  # some families take their input for one block of memory
            for index in edited:
                apply(z[:, :, None], variants[index], index, layer, "z", rows, start)
            reads.take(layer, "z", z[:, :, None], start)
        hidden = blocks.fed(subject, layer, hidden, blocks.attended(subject, layer, hidden, z))
    if not answer:
        return None, reads.taken
    at_last = (start == recording.prompts.last)[None, :, None].to(places[-1])
    return torch.where(at_last, hidden, recording.stream(-1, recording.prompts.last)), reads.taken


def _free(
    recording: Recording, variants: list[list[Edit]], first: int, start: Tensor, read: Sequence[Read], answer: bool
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """The tokens from `start` (the same in all these prompts) to `last`, all attention recomputed."""
    subject = recording.subject
    rows, places = torch.arange(len(recording)), subject.devices
    begin, end = int(start[0]), int(recording.prompts.last[0]) + 1
    given = attention_inputs.of(subject, recording.prompts.input_ids.shape[1])
    reads = _Reads(recording, read, len(variants))
    hidden = recording.span("residual", first, begin, end).expand(len(variants), -1, -1, -1)
    origin = torch.full_like(rows, begin)
    for layer in range(first, reads.top(answer, subject.layers)):
        hidden = hidden.to(places[layer])
        here = [(index, edit) for index, edits in enumerate(variants) for edit in edits if edit.layer == layer]
        sites = {edit.site for _, edit in here if edit.seen_by is None}
        heard = any(edit.seen_by is not None for _, edit in here)
        x = blocks.read_by_attention(subject, layer, hidden)
        apart = bool({"k", "v"} & sites) or any(reads.wants(layer, site) for site in "kv")
        slices = {}
        for site in ("q", "k", "v"):
            slices[site] = blocks.project(subject, layer, site, x, apart)
            for index, edit in here:
                if edit.site == site and edit.seen_by is None:
                    apply(slices[site], [edit], index, layer, site, rows, origin)
            reads.take(layer, site, slices[site], origin)
        if layer == subject.layers - 1 and not (sites - {"k", "v"}) and not heard and not reads.wants(layer, "z"):
            hidden, slices["q"] = hidden[:, :, -1:], slices["q"][:, :, -1:]  # nobody reads the other tokens any more
        z = attend(recording, layer, slices, given[layer], begin, here, rows)
        for index, edit in here:
            apply(z, [edit], index, layer, "z", rows, origin)
        reads.take(layer, "z", z, origin)
        hidden = blocks.fed(subject, layer, hidden, blocks.attended(subject, layer, hidden, z))
    return (hidden[:, :, -1] if answer else None), reads.taken


class _Reads:
    """The activations asked for, filled as the layers go by; what no variant has reached yet is as recorded."""

    def __init__(self, recording: Recording, read: Sequence[Read], variants: int) -> None:
        self.recording, self.read, self.variants = recording, read, variants
        self.found: list[Tensor | None] = [None] * len(read)

    def wants(self, layer: int, *sites: str) -> bool:
        return any(item.layer == layer and item.site in sites for item in self.read)

    def top(self, answer: bool, layers: int) -> int:
        """The layer to stop before."""
        return layers if answer else max((item.layer + 1 for item in self.read), default=0)

    def take(self, layer: int, site: str, x: Tensor, origin: Tensor) -> None:
        rows = torch.arange(x.shape[1])
        for index, item in enumerate(self.read):
            if (item.layer, item.site) != (layer, site):
                continue
            place = item.position - origin
            inside = (place >= 0) & (place < x.shape[2])
            now = x[:, rows, place.clamp(0, x.shape[2] - 1)]
            if not bool(inside.all()):
                now = torch.where(inside[None, :, None, None].to(x.device), now, recorded(self.recording, item))
            self.found[index] = now

    @property
    def taken(self) -> tuple[Tensor, ...]:
        return tuple(
            recorded(self.recording, item).expand(self.variants, -1, -1, -1) if x is None else x
            for item, x in zip(self.read, self.found, strict=True)
        )


_CHECKED: WeakSet[Any] = WeakSet()


def _check_once(recording: Recording) -> None:
    """Replay the first prompt under edits of every kind and compare with the definition, once a model."""
    model, state = recording.subject.model, recording.subject.as_wrapped
    if state in _CHECKED or not len(recording):
        return
    first = recording.select(torch.zeros(1, dtype=torch.long))
    tokens = torch.arange(0, model.config.vocab_size, 7)[None]
    with torch.no_grad():
        for edits_ in probes(first):
            frozen = all(edit.site == "z" for edit in edits_)
            replayed = _replay(first, [edits_], frozen, (), tokens, True, True, 1e9).logits
            expected = definition.rerun(first, [edits_], frozen=frozen, targets=tokens).logits
            if not close(replayed, expected, recording.subject.dtype, recording.subject.device):
                raise RuntimeError(
                    f"a replay of {recording.subject.name} differs from whole forward passes by "
                    f"{apart(replayed, expected):.2g} of the size of the logits: this model does something that "
                    'replay does not know. Use method="definition".'
                )
    _CHECKED.add(state)


def _lowest_layer(recording: Recording, edits: Sequence[Edit]) -> int:
    return min((edit.layer for edit in edits), default=recording.subject.layers)


def _starts(recording: Recording, edits: Sequence[Edit]) -> list[int]:
    """For each prompt, the first position at which a variant can change anything."""
    start = recording.prompts.last
    for edit in edits:
        where = edit.seen_by if edit.seen_by is not None else edit.position
        start = torch.minimum(start, torch.zeros_like(start) if where is None else where)
    return start.tolist()


def _alike(start: Tensor, last: Tensor) -> list[Tensor]:
    """Rows of prompts that begin and end at the same positions."""
    pairs, which = torch.unique(torch.stack((start, last), dim=1), dim=0, return_inverse=True)
    return [torch.nonzero(which == kind)[:, 0] for kind in range(len(pairs))]


def _variants_a_batch(recording: Recording, n: int, tail: int, memory: float) -> int:
    subject, (width, keys) = recording.subject, (recording.residual[0].shape[-1], recording.index.shape[1])
    numbers = n * tail * (10 * width + 4 * subject.heads * keys)
    return max(1, int(memory / (numbers * recording.residual[0].element_size())))


def _assembled(parts: list[tuple[list[int], Tensor, Outcome]], variants: int, n: int) -> Outcome:
    """Put the batches' outcomes back in the order of variants and prompts."""
    if len(parts) == 1 and parts[0][2].top.shape == (variants, n):
        return parts[0][2]

    def gathered(pieces: list[Tensor]) -> Tensor:
        whole = pieces[0].new_empty(variants, n, *pieces[0].shape[2:])
        for (chunk, rows, _), piece in zip(parts, pieces, strict=True):
            whole[torch.tensor(chunk)[:, None], rows] = piece
        return whole

    logits, logprobs, top = (gathered([getattr(outcome, name) for _, _, outcome in parts]) for name in Outcome.NUMBERS)
    reads = zip(*(outcome.reads for _, _, outcome in parts), strict=True)
    return Outcome(logits, logprobs, top, tuple(gathered(list(kind)) for kind in reads))


Method = Literal["replay", "definition"]

Executor = Callable[..., Outcome]
"""What `replay` and `definition.rerun` both are: a recording and variants in, an `Outcome` out, the same keywords."""

EXECUTORS: dict[Method, Executor] = {"replay": replay, "definition": definition.rerun}
"""Both ways to carry out edits, by name. They give the same numbers: a check of the one by the other is one word."""


def executor(method: str, *subjects: Subject) -> Executor:
    """The way to carry out edits that has this name.

    Raises `ValueError` that names both for another, and, before anything is recorded, `NotImplementedError` for one of
    these models if it is of a type whose blocks replay does not know.

    For example:

        from entity_circuits import replay

        print(replay.executor("definition").__name__)
    """
    if method not in EXECUTORS:
        raise ValueError(f"no method called {method!r}: one of {', '.join(map(repr, EXECUTORS))}")
    for subject in subjects if method == "replay" else ():
        of_kind("a model", subject, Subject)
        blocks.require(subject)
    return EXECUTORS[method]

"""The fast way: from a recording, recompute only what the edits of a variant can change. Exact, not approximate.

Positions before the first edited one and layers below it cannot change, so they come from the recording, and many
variants are rows of one batch:

- *frozen* (pass 1 of path patching): all attention outputs are held, so one position changes at a time and no attention
  is computed at all: the recorded residual, plus o_proj of the changed z, and then up through the MLPs.
- *free*: the tokens from the first edited position to `last` go up from the first edited layer, against the recorded keys
  and values of the tokens before them, which all variants share.

It calls the model's own submodules and knows one form of block, that of Llama (Llama, Mistral, Qwen2, Qwen3, SmolLM2);
for any other it says so, and `runs.rerun`, which has the same signature, is the way out.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor

from . import runs
from .runs import Edit, Outcome, Read, Recording

if TYPE_CHECKING:
    from .models import Subject

Executor = Callable[..., Outcome]
"""What `replay` and `runs.rerun` both are: (recording, variants, *, frozen, read, targets, answer) -> Outcome."""


def replay(
    recording: Recording,
    variants: Sequence[Sequence[Edit]],
    *,
    frozen: bool = False,
    read: Sequence[Read] = (),
    targets: Tensor | None = None,
    answer: bool = True,
    memory: float = 1e9,
) -> Outcome:
    """What each variant's edits would change in a recorded run: the numbers of `runs.rerun`, from far less work.

    `targets` (n, k) are the tokens whose logits are wanted, the right answers unless given. With `frozen`, every z keeps
    its recorded value except where a variant edits it. `answer=False` leaves the logits out (they are NaN) and stops at
    the highest layer read. `memory` bounds the bytes of a batch. Gradients flow to a `value` or `keep` that asks for
    them. Raises `ValueError` for impossible edits and `NotImplementedError` for a model of another form.

        edits = [[runs.Edit("z", 3, (h,), p.last, value)] for h in range(subject.heads)]
        outcome = replay.replay(recording, edits)
        print(outcome.logprob)   # (variants, n)
    """
    subject, prompts = recording.subject, recording.prompts
    require(subject)
    targets = prompts.answer_ids[:, None] if targets is None else targets
    for edit in itertools.chain.from_iterable(variants):
        runs.check(edit, subject, prompts)
        if frozen and edit.site != "z":
            raise ValueError(f"a {edit.site} edit does nothing while all z are held: use z edits, or frozen=False")
    with fast_float32(subject):
        _check_once(recording)
        return _replay(recording, variants, frozen, read, targets, answer, memory)


def _replay(
    recording: Recording,
    variants: Sequence[Sequence[Edit]],
    frozen: bool,
    read: Sequence[Read],
    targets: Tensor,
    answer: bool,
    memory: float,
) -> Outcome:
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, edits in enumerate(variants):
        groups.setdefault((_lowest_layer(recording, edits), *_starts(recording, edits)), []).append(index)
    parts: list[tuple[list[int], Tensor, Outcome]] = []
    for (layer, *starts), members in groups.items():
        start, last = torch.tensor(starts), recording.prompts.last.cpu()
        spans = [torch.arange(len(recording))] if frozen else _alike(start, last)
        for rows in spans:
            here = rows.to(recording.prompts.last.device)
            part = recording if len(rows) == len(recording) else recording.select(here)
            tail = 1 if frozen else int(last[rows[0]] - start[rows[0]]) + 1
            size = _variants_a_batch(recording, len(rows), tail, memory)
            for chunk in (members[i : i + size] for i in range(0, len(members), size)):
                batch = [[edit.rows(here) for edit in variants[index]] for index in chunk]
                seen = [Read(r.site, r.layer, r.position[here]) for r in read]
                walk = _frozen if frozen else _free
                hidden, reads = walk(part, batch, layer, start[rows], seen, answer)
                outcome = _readout(recording.subject, hidden, targets[here], reads)
                parts.append((chunk, here, outcome))
    return _assembled(parts, len(variants), len(recording))


def _frozen(
    recording: Recording, variants: list[list[Edit]], first: int, start: Tensor, read: Sequence[Read], answer: bool
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """One position a prompt, no attention: hidden states (variants, n, width) at `last`, and the reads."""
    subject, layers = recording.subject, recording.subject.model.model.layers
    n, rows = len(recording), torch.arange(len(recording), device=recording.residual.device)
    start = start.to(rows.device)
    for edit in itertools.chain.from_iterable(variants):
        if edit.position is None or not torch.equal(edit.position, start):
            raise ValueError("a frozen replay changes one position a prompt; other edits: replay them apart, or runs.rerun")
    reads = _Reads(recording, read, len(variants))
    stream = recording.residual[:, rows, start]
    hidden = stream[first].expand(len(variants), -1, -1)
    for layer in range(first, reads.top(answer, subject.layers)):
        block, attention = layers[layer], layers[layer].self_attn
        if reads.wants(layer, "q", "k", "v"):
            x = block.input_layernorm(hidden)
            for site in ("q", "k", "v"):
                if reads.wants(layer, site):
                    reads.take(layer, site, _project(subject, attention, site, x)[:, :, None], start)
        z = recording.z[layer, rows, start]
        edited = [index for index, edits in enumerate(variants) if any(edit.layer == layer for edit in edits)]
        if edited or reads.wants(layer, "z"):
            z = z.expand(len(variants), *z.shape)
            if edited:
                z = z.clone()
            for index in edited:
                _apply(z[:, :, None], variants[index], index, layer, "z", rows, start)
            reads.take(layer, "z", z[:, :, None], start)
        hidden = hidden + attention.o_proj(z.flatten(-2))
        hidden = hidden + _mlp(block, hidden)
    if not answer:
        return None, reads.taken
    at_last = (start == recording.prompts.last)[None, :, None]
    return torch.where(at_last, hidden, recording.residual[-1, rows, recording.prompts.last]), reads.taken


def _free(
    recording: Recording, variants: list[list[Edit]], first: int, start: Tensor, read: Sequence[Read], answer: bool
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """The tokens from `start` (the same in all these prompts) to `last`, all attention recomputed."""
    subject, layers = recording.subject, recording.subject.model.model.layers
    rows = torch.arange(len(recording), device=recording.residual.device)
    begin, end = int(start[0]), int(recording.prompts.last[0]) + 1
    rotation = subject.model.model.rotary_emb(recording.residual[0, :1], torch.arange(end, device=rows.device)[None])
    reads = _Reads(recording, read, len(variants))
    hidden = recording.residual[first, :, begin:end].expand(len(variants), -1, -1, -1)
    origin = torch.full_like(rows, begin)
    for layer in range(first, reads.top(answer, subject.layers)):
        block, attention = layers[layer], layers[layer].self_attn
        here = [(index, edit) for index, edits in enumerate(variants) for edit in edits if edit.layer == layer]
        sites = {edit.site for _, edit in here}
        x = block.input_layernorm(hidden)
        apart = bool({"k", "v"} & sites) or any(reads.wants(layer, site) for site in "kv")
        slices = {}
        for site in ("q", "k", "v"):
            slices[site] = _project(subject, attention, site, x, apart)
            for index, edit in here:
                if edit.site == site and edit.seen_by is None:
                    _apply(slices[site], [edit], index, layer, site, rows, origin)
            reads.take(layer, site, slices[site], origin)
        if layer == subject.layers - 1 and not (sites - {"k", "v"}) and not reads.wants(layer, "z"):
            hidden, slices["q"] = hidden[:, :, -1:], slices["q"][:, :, -1:]  # nobody reads the other tokens any more
        z = _attend(recording, layer, slices, rotation, begin, [e for e in here if e[1].site in ("score", "v")], rows)
        for index, edit in here:
            _apply(z, [edit], index, layer, "z", rows, origin)
        reads.take(layer, "z", z, origin)
        hidden = hidden + attention.o_proj(z.flatten(-2))
        hidden = hidden + _mlp(block, hidden)
    return (hidden[:, :, -1] if answer else None), reads.taken


def _attend(
    recording: Recording,
    layer: int,
    slices: dict[str, Tensor],
    rotation: tuple[Tensor, Tensor],
    begin: int,
    edits: list[tuple[int, Edit]],
    rows: Tensor,
) -> Tensor:
    """z (variants, n, tokens, heads, head_size) of the tokens in `slices`, over recorded and recomputed keys.

    Recorded keys and values are those of the positions before `begin`: they are never copied for a variant. Groups of
    query heads that share a key are treated as more rows of one product.
    """
    subject = recording.subject
    attention = subject.model.model.layers[layer].self_attn
    cos, sin = (part[0, :, None] for part in rotation)
    variants, n, queries, heads, size = slices["q"].shape
    groups = slices["k"].shape[3]
    tokens = slices["k"].shape[2]

    def turned(x: Tensor, norm: str, positions: slice) -> Tensor:
        x = getattr(attention, norm)(x) if hasattr(attention, norm) else x
        half = torch.cat((-x[..., size // 2 :], x[..., : size // 2]), dim=-1)
        return x * cos[positions] + half * sin[positions]

    end = begin + tokens
    q = turned(slices["q"], "q_norm", slice(end - queries, end)) * attention.scaling
    q = q.unflatten(3, (groups, heads // groups)).permute(1, 3, 0, 4, 2, 5)  # n, groups, variants, shared, queries, size
    k = turned(slices["k"], "k_norm", slice(begin, end)).permute(1, 3, 0, 2, 4)  # n, groups, variants, tokens, size
    v = slices["v"].permute(1, 3, 0, 2, 4)
    spread = groups // subject.kv_heads
    old_k = turned(recording.k[layer, :, :begin], "k_norm", slice(0, begin)).transpose(1, 2).repeat_interleave(spread, 1)
    old_v = recording.v[layer, :, :begin].transpose(1, 2).repeat_interleave(spread, 1)
    before = (q.flatten(2, 4) @ old_k.transpose(-1, -2)).unflatten(2, (variants, heads // groups, queries))
    now = (q.flatten(3, 4) @ k.transpose(-1, -2)).unflatten(3, (heads // groups, queries))
    future = torch.ones(queries, tokens, dtype=torch.bool, device=q.device).tril(tokens - queries).logical_not()
    scores = torch.cat((before, now.masked_fill(future, -torch.inf)), dim=-1)

    def entry(index: int, head: int, position: Tensor, key: Tensor) -> tuple[Tensor | int, ...]:
        return (rows, head // (heads // groups), index, head % (heads // groups), position - (end - queries), key)

    for index, edit in edits:
        if edit.site == "score":
            assert edit.position is not None and edit.key is not None
            for head in edit.heads:
                scores[entry(index, head, edit.position, edit.key)] = -torch.inf
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    z = (weights[..., :begin].flatten(2, 4) @ old_v).unflatten(2, (variants, heads // groups, queries))
    z = z + (weights[..., begin:].flatten(3, 4) @ v).unflatten(3, (heads // groups, queries))
    z = z.permute(2, 0, 4, 1, 3, 5).flatten(3, 4)
    for index, edit in edits:
        if edit.seen_by is not None:
            assert edit.position is not None
            heard = torch.stack([weights[entry(index, head, edit.seen_by, edit.position)] for head in edit.heads], dim=1)
            late = (edit.position - begin).clamp(min=0)
            fresh = slices["v"][index, rows, late].repeat_interleave(heads // groups, dim=1)
            standing = torch.where((edit.position < begin)[:, None, None], recording.at("v", layer, edit.position), fresh)
            standing = standing[:, list(edit.heads)]
            where = (index, rows[:, None], (edit.seen_by - (end - queries))[:, None], torch.tensor(edit.heads, device=rows.device))
            z[where] += heard[..., None] * (edit.mixed(standing) - standing)
    return z


def _project(subject: "Subject", attention: Any, site: str, x: Tensor, apart: bool = True) -> Tensor:
    """q, k or v of these hidden states; with `apart`, one slice a query head also where heads share keys and values."""
    slices = getattr(attention, f"{site}_proj")(x).unflatten(-1, (-1, subject.head_size))
    shared = subject.heads // subject.kv_heads
    return slices.repeat_interleave(shared, dim=-2) if apart and site != "q" and shared > 1 else slices


def _apply(x: Tensor, edits: Sequence[Edit], variant: int, layer: int, site: str, rows: Tensor, origin: Tensor) -> None:
    """Make one variant's edits of a site in x (variants, n, tokens, heads, head_size), whose tokens begin at `origin`."""
    for edit in edits:
        if edit.layer != layer or edit.site != site:
            continue
        heads = torch.tensor(edit.heads, device=rows.device)
        if edit.position is None:
            assert edit.value is not None  # all positions are edited, so the tokens begin with the first one
            whole = replace(edit, value=edit.value[:, : x.shape[2]])
            x[variant, :, :, heads] = whole.mixed(x[variant][:, :, heads])
        else:
            where = (variant, rows[:, None], (edit.position - origin)[:, None], heads)
            x[where] = edit.mixed(x[where])


def _mlp(block: Any, hidden: Tensor, rows: int = 2048) -> Tensor:
    """The block's norm and MLP, some rows at a time so that the wide activations stay near the processor."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    parts = [block.mlp(block.post_attention_layernorm(part)) for part in flat.split(rows)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(hidden.shape)


def _readout(
    subject: "Subject", hidden: Tensor | None, targets: Tensor, reads: tuple[Tensor, ...], rows: int = 2048, words: int = 4096
) -> Outcome:
    """Logits of the targets, their log-probabilities and the most likely token; no row's logits are ever kept.

    The vocabulary goes by in blocks small enough for the processor's cache, under a running log-sum-exp.
    """
    if hidden is None:
        variants, n = (reads[0].shape[:2]) if reads else (0, 0)
        nothing = torch.full((variants, n, targets.shape[1]), torch.nan, device=targets.device)
        return Outcome(nothing, nothing, torch.full((variants, n), -1, device=targets.device), reads)
    variants, n, width = hidden.shape
    head = subject.model.lm_head
    states = subject.model.model.norm(hidden.reshape(-1, width))
    wide = torch.promote_types(states.dtype, torch.float32)
    totals, tops = [], []
    for part in states.split(rows):
        total = torch.full((len(part),), -torch.inf, dtype=wide, device=part.device)
        best, top = total.clone(), torch.zeros(len(part), dtype=torch.long, device=part.device)
        for begin in range(0, head.weight.shape[0], words):
            bias = None if head.bias is None else head.bias[begin : begin + words]
            logits = F.linear(part, head.weight[begin : begin + words], bias).to(wide)
            total = torch.logaddexp(total, logits.logsumexp(-1))
            high, index = logits.detach().max(-1)
            top = torch.where(high > best, index + begin, top)
            best = torch.maximum(best, high)
        totals.append(total)
        tops.append(top)
    wanted = targets.clamp(min=0)
    chosen = torch.einsum("vnd,nkd->vnk", states.view(variants, n, width).to(wide), head.weight[wanted].to(wide))
    if head.bias is not None:
        chosen = chosen + head.bias[wanted]
    chosen = chosen.masked_fill(targets < 0, torch.nan)
    total = torch.cat(totals).view(variants, n, 1)
    return Outcome(chosen, chosen - total, torch.cat(tops).view(variants, n), reads)


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
        rows = torch.arange(x.shape[1], device=x.device)
        for index, item in enumerate(self.read):
            if (item.layer, item.site) != (layer, site):
                continue
            place = item.position - origin
            inside = (place >= 0) & (place < x.shape[2])
            now = x[:, rows, place.clamp(0, x.shape[2] - 1)]
            if not bool(inside.all()):
                now = torch.where(inside[None, :, None, None], now, recorded(self.recording, item))
            self.found[index] = now

    @property
    def taken(self) -> tuple[Tensor, ...]:
        return tuple(
            recorded(self.recording, item).expand(self.variants, -1, -1, -1) if x is None else x
            for item, x in zip(self.read, self.found, strict=True)
        )


def recorded(recording: Recording, item: Read) -> Tensor:
    """(n, heads, head_size): what a read gives in the recorded run itself."""
    if item.site != "q":
        return recording.at(item.site, item.layer, item.position)
    block = recording.subject.model.model.layers[item.layer]
    rows = torch.arange(len(recording), device=item.position.device)
    x = block.input_layernorm(recording.residual[item.layer, rows, item.position])
    return _project(recording.subject, block.self_attn, "q", x)


def recorded_answers(recording: Recording, targets: Tensor | None = None) -> Outcome:
    """The outcome of the recorded run itself: one variant without edits."""
    rows = torch.arange(len(recording), device=recording.prompts.last.device)
    targets = recording.prompts.answer_ids[:, None] if targets is None else targets
    with fast_float32(recording.subject):
        return _readout(recording.subject, recording.residual[-1, rows, recording.prompts.last][None], targets, ())


def require(subject: "Subject") -> None:
    """Raise `NotImplementedError` unless the model's blocks have the form that replay recomputes."""
    model = subject.model
    block = model.model.layers[0]
    parts = {name for name, _ in block.named_children()}
    form = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
    inside = {name for name, _ in block.self_attn.named_children()}
    windows = [getattr(layer.self_attn, "sliding_window", None) for layer in model.model.layers]
    scaled = [name for name in ("final_logit_softcapping", "logit_scale", "residual_multiplier") if getattr(model.config, name, None)]
    known = parts == form and {"q_proj", "k_proj", "v_proj", "o_proj"} <= inside
    known = known and inside <= {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}
    if not known or any(windows) or scaled or not hasattr(model.model, "rotary_emb"):
        raise NotImplementedError(
            f"{type(model).__name__} is not of the Llama form that replay recomputes (parts of a block: {sorted(parts)}; "
            f"of its attention: {sorted(inside)}; sliding windows: {any(windows)}). "
            'Use method="definition": whole forward passes, slower, same numbers.'
        )


@contextlib.contextmanager
def fast_float32(subject: "Subject") -> Iterator[None]:
    """Inside, float32 products on a CPU take the faster kernels where these are as accurate; the setting is put back.

    PyTorch's "medium" precision only chooses other float32 kernels on some processors, twice as fast, and rounds to
    bfloat16 on others. So one product is compared with float64 first: an error above 1e-6 and nothing is changed.
    """
    before = torch.get_float32_matmul_precision()
    if subject.device.type != "cpu" or subject.dtype != torch.float32 or before != "highest":
        yield
        return
    try:
        torch.set_float32_matmul_precision("medium")
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(64, 256, generator=generator) for _ in range(2))
        exact = a.double() @ b.double().T
        if float(((a @ b.T).double() - exact).norm() / exact.norm()) > 1e-6:
            torch.set_float32_matmul_precision(before)
        yield
    finally:
        torch.set_float32_matmul_precision(before)


_CHECKED: WeakSet[Any] = WeakSet()


def _check_once(recording: Recording) -> None:
    """Replay the first prompt with nothing changed and compare with its recording, once a model."""
    model = recording.subject.model
    if model in _CHECKED or not len(recording):
        return
    first = recording.select(torch.zeros(1, dtype=torch.long, device=recording.prompts.last.device))
    p, everything = first.prompts, tuple(range(recording.subject.heads))
    same = [Edit("z", 0, everything, p.query, first.at("z", 0, p.query))]
    tokens = torch.arange(0, model.config.vocab_size, 7, device=p.last.device)[None]
    with torch.no_grad():
        replayed = _replay(first, [same], False, (), tokens, True, 1e9).logprobs
        expected = _readout(recording.subject, first.residual[-1, :, p.last][:, :1].transpose(0, 1), tokens, ()).logprobs
    tolerance = 0.25 if recording.subject.dtype in (torch.bfloat16, torch.float16) else 1e-3
    worst = float((replayed - expected).abs().max())
    if not worst < tolerance:
        raise RuntimeError(
            f"a replay without changes differs from the recorded run by {worst:.2g} in a log-probability: "
            f'this model does something that replay does not know. Use method="definition".'
        )
    _CHECKED.add(model)


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
    subject, width = recording.subject, recording.residual.shape[-1]
    keys = recording.residual.shape[2] if tail > 1 or recording.residual.shape[2] else 1
    numbers = n * tail * (10 * width + 4 * subject.heads * keys)
    return max(1, int(memory / (numbers * recording.residual.element_size())))


def _assembled(parts: list[tuple[list[int], Tensor, Outcome]], variants: int, n: int) -> Outcome:
    """Put the batches' outcomes back in the order of variants and prompts."""
    if len(parts) == 1 and parts[0][2].top.shape == (variants, n):
        return parts[0][2]

    def gathered(pieces: list[Tensor]) -> Tensor:
        whole = pieces[0].new_empty(variants, n, *pieces[0].shape[2:])
        for (chunk, rows, _), piece in zip(parts, pieces, strict=True):
            whole[torch.tensor(chunk, device=rows.device)[:, None], rows] = piece
        return whole

    kinds = [[getattr(outcome, name) for _, _, outcome in parts] for name in ("logits", "logprobs", "top")]
    reads = zip(*(outcome.reads for _, _, outcome in parts), strict=True)
    return Outcome(*(gathered(kind) for kind in kinds), tuple(gathered(list(kind)) for kind in reads))

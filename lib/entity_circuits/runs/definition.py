"""The definition: record a run of a model, and run it again under edits. Whole forward passes, through nnsight.

This is the slow, literal way to carry out a list of edits, it works for any edit, and it is the oracle of the tests.
`replay` computes the same numbers from a recording.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import nnsight
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..arguments import boolean, integer, of_kind, several
from ..models import forms
from ..models.alone import ALONE
from ..models.precision import fast_float32
from ..models.subject import Subject
from ..tasks.prompts import Prompts
from . import unknown
from .attention_inputs import require_something_heard
from .edits import TIED, Edit, Outcome, Read, check, heard_together, listed
from .finite import require_numbers
from .projected import projected_at, put_together, taken_apart
from .recording import Recording, require_room, require_targets
from .tracing import inputs_of, wrapped

GROUPED = ("num_key_value_groups", "num_key_value_heads")
"""What an attention is told about groups of query heads that share keys and values."""


def run(
    subject: Subject,
    prompts: Prompts,
    edits: Sequence[Edit] = (),
    *,
    read: Sequence[Read] = (),
    targets: Tensor | None = None,
    batch: int = 64,
) -> Outcome:
    """Run the prompts with these edits made: a whole forward pass, in the order of the list where edits overlap.

    Args:
        subject: the model.
        prompts: n prompts.
        edits: what is replaced by what. Gradients are kept if a `value` or `keep` asks for them.
        read: activations to be read after the edits.
        targets: (n, k) tokens whose logits are wanted; the right answers unless given.
        batch: prompts that go together.

    Returns an `Outcome` of one variant. Raises `ValueError`, before the model runs, for a layer, head, position or
    shape that does not exist, and after it has run for logits that are no numbers.

        from entity_circuits import models, prompts, runs

        subject = models.load("qwen2.5-coder-0.5b")
        base = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
        source = prompts.from_texts(subject, ["The apple is in F. F contains the"], [" apple"])
        z = runs.record(subject, source).at("z", 3, source.last)
        edit = runs.Edit("z", 3, tuple(range(subject.heads)), base.last, z)
        print(runs.run(subject, base, [edit]).logprob)
    """
    of_kind("model", subject, Subject)
    of_kind("prompts", prompts, Prompts)
    edits, read = several("edits", edits, least=0), several("reads", read, least=0)
    for edit in edits:
        check(edit, subject, prompts)
    for item in read:
        check(item, subject, prompts)
    heard_together(edits)
    integer("batch", batch)
    subject.require_plain()
    require_room(subject, prompts)
    if targets is not None:
        require_targets(subject, prompts, targets)
    require_something_heard(subject, prompts, edits)
    unknown.require_parts(subject)
    if edits and not forms.of(subject.model).replay:
        unknown.check_once(subject, prompts, _forward)
    targets = prompts.answer_ids[:, None] if targets is None else targets
    grad = any(t is not None and t.requires_grad for edit in edits for t in (edit.value, edit.keep))
    parts = []
    for rows in _chunks(len(prompts), batch):
        index = torch.arange(len(prompts))[rows]
        part, seen = prompts.select(index), [replace(r, position=r.position[rows]) for r in read]
        with fast_float32(subject), torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            parts.append(
                _forward(subject, part, _resolved(subject, part, [e.rows(rows) for e in edits]), seen, targets[rows])
            )
    return Outcome.joined(parts, dim=1)


def rerun(
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
    """Run a recording's prompts again, once for each variant: the definition behind `replay.replay`, same signature.

    Args:
        recording: of n prompts.
        variants: lists of edits, each made in a run of its own.
        frozen: all heads of all layers keep their recorded z at every position, except where a variant edits them, so
            that a change travels down the residual stream and through the MLPs alone.
        read: activations to be read after the edits.
        targets: (n, k) tokens whose logits are wanted; the right answers unless given.
        answer: without it only the reads are wanted; means something to a replay, and nothing here.
        vocabulary: likewise.
        memory: likewise.

    Returns an `Outcome` of all variants. Raises `ValueError` for edits of what is not there. Paper: section 4.1
    (`frozen` is pass 1 of path patching).

        from entity_circuits import models, prompts, runs

        subject = models.load("qwen2.5-coder-0.5b")
        p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
        recording = runs.record(subject, p)
        zero = 0 * recording.at("z", 3, p.last)[:, :1]
        edits = [[runs.Edit("z", 3, (head,), p.last, zero)] for head in range(3)]
        print(runs.rerun(recording, edits, frozen=True).logprob)  # (variants, n)
    """
    for what, given in (("frozen", frozen), ("answer", answer), ("vocabulary", vocabulary)):
        boolean(what, given)
    of_kind("recording", recording, Recording)
    variants, read = listed(variants, read)
    subject, everything = recording.subject, tuple(range(recording.subject.heads))
    subject.require_unchanged()
    held = []
    if frozen:
        whole = recording.whole()
        held = [Edit("z", layer, everything, None, whole.span("z", layer)) for layer in range(subject.layers)]
    outcomes = [
        run(subject, recording.prompts, [*held, *edits], read=read, targets=targets)
        for edits in tqdm(variants, desc="forward passes", disable=None, leave=False)
    ]
    return Outcome.joined(outcomes, dim=0)


def _resolved(subject: Subject, prompts: Prompts, edits: list[Edit]) -> list[Edit]:
    """Turn all k and v edits with `seen_by` into the z edits they amount to, layer by layer upwards.

    What their heads output at that position is read from a run in which everybody sees the changed keys and values: in
    that layer itself, nothing else can have changed by them yet.
    """
    while narrow := [edit for edit in edits if edit.seen_by is not None]:
        layer = min(edit.layer for edit in narrow)
        below = [edit for edit in edits if edit.layer <= layer and edit.seen_by is None]
        edits = [edit for edit in edits if edit.layer != layer or edit.seen_by is None]
        for together in heard_together([edit for edit in narrow if edit.layer == layer]):
            wide = [*below, *(replace(edit, seen_by=None) for edit in together)]
            heads, seen = tuple(sorted({head for edit in together for head in edit.heads})), together[0].seen_by
            assert seen is not None
            z = _forward(subject, prompts, wide, [Read("z", layer, seen)], prompts.answer_ids[:, None]).reads[0][0]
            edits.append(Edit("z", layer, heads, seen, z[:, list(heads)]))
    return edits


@ALONE
def _forward(
    subject: Subject, prompts: Prompts, edits: Sequence[Edit], read: Sequence[Read], targets: Tensor
) -> Outcome:
    """One traced forward pass of one batch."""
    shape, rows = (subject.heads, subject.head_size), torch.arange(len(prompts))
    here: list[dict[str, list[Edit]]] = [{} for _ in range(subject.layers)]
    for edit in edits:
        here[edit.layer].setdefault(edit.site, []).append(edit)
    wanted: list[dict[str, list[tuple[int, Tensor]]]] = [{} for _ in range(subject.layers)]
    for index, item in enumerate(read):
        wanted[item.layer].setdefault(item.site, []).append((index, item.position))
    shared = subject.heads // subject.kv_heads
    apart = {layer for layer, sites in enumerate(here) if shared > 1 and ({"k", "v"} & sites.keys())}
    ends = torch.unique(prompts.last)
    model, form, places = wrapped(subject), forms.of(subject.model), subject.devices
    with _ungrouped(subject, apart), model.trace(**inputs_of(subject, prompts), logits_to_keep=ends.tolist()):
        taken: dict[int, Any] = {}
        for layer, block in enumerate(form.blocks(model)):
            attention = forms.part(block, form.attention)
            if "score" in here[layer]:
                arguments, options = attention.inputs
                mask = _mask(subject, prompts, options.get("attention_mask"), here[layer]["score"], places[layer])
                attention.inputs = (arguments, {**options, "attention_mask": mask})
            for path, sites in projected_at(form):
                written = (layer in apart and sites != "q") or any(site in here[layer] for site in sites)
                if not written and not any(site in wanted[layer] for site in sites):
                    continue
                place = forms.part(attention, path)
                slices = taken_apart(subject, place.output, sites)
                for site in sites:
                    each = site == "q" or layer in apart
                    if each and site != "q":
                        slices[site] = slices[site].repeat_interleave(shared, dim=2)
                    slices[site] = _edited(slices[site], here[layer].get(site, ()), rows)
                    for index, position in wanted[layer].get(site, ()):
                        found = slices[site][rows, position]
                        taken[index] = found if each else found.repeat_interleave(shared, dim=1)
                if written:
                    place.output = put_together(subject, slices)
            if "z" in here[layer] or "z" in wanted[layer]:
                place = forms.part(attention, form.out)
                slices = {"z": _edited(place.input.unflatten(-1, shape), here[layer].get("z", ()), rows)}
                for index, position in wanted[layer].get("z", ()):
                    taken[index] = slices["z"][rows, position]
                if "z" in here[layer]:
                    place.input = slices["z"].flatten(-2)
        logits = nnsight.save(model.output.logits)
        taken = nnsight.save(taken)
    if logits.shape[1] != len(ends):
        what = f"it gives the logits of {logits.shape[1]} tokens where those of {len(ends)} are asked for"
        raise unknown.refusal(subject, f"{what} (logits_to_keep)")
    final = logits[rows, torch.searchsorted(ends, prompts.last)]
    final = final.to(torch.promote_types(final.dtype, torch.float32))
    home, targets = targets.device, targets.to(final.device)
    chosen = final.gather(1, targets.clamp(min=0)).masked_fill(targets < 0, torch.nan)
    total = final.logsumexp(-1, keepdim=True)
    require_numbers(subject, prompts, total[:, 0])
    tied = (final == final.amax(-1, keepdim=True)).sum(-1) > 1
    top = final.argmax(-1).masked_fill(tied, TIED)
    reads = tuple(taken[index][None] for index in range(len(read)))
    numbers = (chosen, (chosen - total).clamp(max=0), top)
    logits, logprobs, tops = (one[None].to(home) for one in numbers)
    return Outcome(logits, logprobs, tops, reads)


def _edited(slices: Tensor, edits: Sequence[Edit], rows: Tensor) -> Tensor:
    """The activations (n, T, heads, head_size) with these edits made, in a copy."""
    for edit in edits:
        slices, heads = slices.clone(), torch.tensor(edit.heads)
        if edit.position is None:
            slices[:, :, heads] = edit.mixed(slices[:, :, heads])
        else:
            index = (rows[:, None], edit.position[:, None], heads)
            slices[index] = edit.mixed(slices[index])
    return slices


def _mask(
    subject: Subject, prompts: Prompts, given: Tensor | None, edits: Sequence[Edit], place: torch.device
) -> Tensor:
    """The additive attention mask (n, heads, T, T) of a layer, at `place`: the model's own, with the scores edited.

    Without one, the attention is causal.
    """
    n, width = prompts.input_ids.shape
    if given is None:
        given = torch.ones(1, 1, width, width, dtype=torch.bool).tril()
    if given.ndim != 4:
        raise NotImplementedError("scores can be edited under attention='sdpa' or 'eager' alone")
    lowest = torch.finfo(subject.dtype).min
    if given.dtype == torch.bool:
        given = torch.zeros(given.shape, dtype=subject.dtype, device=given.device).masked_fill_(~given, lowest)
    mask = given.to(place).expand(n, subject.heads, width, width).clone()
    rows = torch.arange(n)[:, None]
    for edit in edits:
        assert edit.position is not None and edit.key is not None
        heads = torch.tensor(edit.heads)
        mask[rows, heads, edit.position[:, None], edit.key[:, None]] = lowest
    return mask


@contextlib.contextmanager
def _ungrouped(subject: Subject, layers: set[int]) -> Iterator[None]:
    """In these layers, take keys and values as they come: one for each query head, none shared by a group."""
    form = forms.of(subject.model)
    modules = [forms.part(form.blocks(subject.model)[layer], form.attention) for layer in layers]
    before = [{name: getattr(module, name) for name in GROUPED if hasattr(module, name)} for module in modules]
    try:
        for module in modules:
            module.num_key_value_groups = 1
            if hasattr(module, "num_key_value_heads"):
                module.num_key_value_heads = subject.heads
        yield
    finally:
        for module, held in zip(modules, before, strict=True):
            vars(module).update(held)


def _chunks(n: int, size: int) -> list[slice]:
    """Equal parts, none larger than `size`."""
    parts = -(-n // size)
    return [slice(part * n // parts, (part + 1) * n // parts) for part in range(parts)]

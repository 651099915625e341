"""One run of a model kept: all that a replay of it needs, and what can be read off it. Recorded through nnsight."""

from dataclasses import dataclass, replace
from typing import Any

import nnsight
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache

from ..arguments import integer, one_of
from ..heads import Head
from ..models import forms
from ..models.precision import fast_float32
from ..models.subject import Subject
from ..tasks.prompts import Prompts, rows_of
from ..tasks.vocabulary import read_otherwise
from . import attention_inputs, blocks
from . import prefix as sharing
from .edits import Activation, Read
from .projected import projected_at, taken_apart


@dataclass(frozen=True)
class Recording:
    """One run of n prompts without edits: all that a replay needs, and nothing of the vocabulary's size.

    `residual` (layers + 1, n, T, width) is the input of each layer and the output of the last; `z` (layers, n, T,
    heads, head_size); `k` and `v` (layers, n, T, kv_heads, head_size). dtype and device are those of the model.
    """

    subject: Subject
    prompts: Prompts
    residual: Tensor
    z: Tensor
    k: Tensor
    v: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def at(self, site: Activation, layer: int, position: Tensor) -> Tensor:
        """(n, heads, head_size): `z`, or `k` or `v` one slice a query head, at one position of each example.

        Raises `ValueError` for a site that is not recorded.

            from entity_circuits import models, prompts, runs

            subject = models.load("qwen2.5-coder-0.5b")
            p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
            print(runs.record(subject, p).at("z", 3, p.last).shape)
        """
        one_of("site", site, Activation)
        if not 0 <= layer < self.subject.layers:
            raise ValueError(f"layer {layer}: this model has layers 0 to {self.subject.layers - 1}")
        rows = torch.arange(len(self), device=position.device)
        if site == "z":
            return self.z[layer, rows, position]
        if site == "q":
            raise ValueError("'q' is not part of a recording: read it in a run")
        slices: Tensor = getattr(self, site)[layer, rows, position]
        return slices.repeat_interleave(self.subject.heads // self.subject.kv_heads, dim=1)

    def require(self, subject: Subject, prompts: Prompts) -> None:
        """Raise `ValueError` unless this is a recording of these prompts by this model, which is as it was."""
        subject.require_unchanged()
        if self.subject is not subject and self.subject.fingerprint != subject.fingerprint:
            raise ValueError(f"the recording is of another model: {self.subject.name}, not {subject.name}")
        if self.prompts is not prompts and self.prompts.digest != prompts.digest:
            raise ValueError("the recording is of other prompts: record these, or leave it out")

    def select(self, rows: Tensor) -> "Recording":
        """The recording of some of its prompts: `rows` are their numbers, or (n,) bool.

        For example:

            import torch
            from entity_circuits import runs, toy

            recording = runs.record(toy.subject(), toy.prompts("apple", "cup"))
            print(len(recording.select(torch.tensor([1]))))
        """
        index = rows_of(rows, len(self))
        cut = {name: getattr(self, name)[:, index] for name in ("residual", "z", "k", "v")}
        return replace(self, prompts=self.prompts.select(index), **cut)


def record(subject: Subject, prompts: Prompts, *, batch: int = 32, share_context: bool = False) -> Recording:
    """Run the prompts as they are and keep what a replay needs.

    Takes (2 x layers + 1) x n x T x width numbers and a little more: 10 MB a prompt for the default model in float32.
    With `share_context`, the tokens that all prompts of a context begin with are run once: the same up to rounding,
    and about five times faster where many prompts share their beginning. What stands after `last` (padding) is zero
    then. `batch` bounds the prompts that are run together.

        from entity_circuits import models, prompts, runs

        subject = models.load("qwen2.5-coder-0.5b")
        p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
        print(runs.record(subject, p).z.shape)  # layers, n, tokens, heads, head size
    """
    integer("batch", batch)
    require_room(subject, prompts)
    subject.require_unchanged()
    n, width = prompts.input_ids.shape
    like: Any = {"dtype": subject.dtype, "device": subject.device}
    size = subject.head_size
    residual = torch.zeros(subject.layers + 1, n, width, subject.model.config.hidden_size, **like)
    z = torch.zeros(subject.layers, n, width, subject.heads, size, **like)
    k, v = (torch.zeros(subject.layers, n, width, subject.kv_heads, size, **like) for _ in range(2))

    def keep(seen: list[Any], rows: Tensor, tokens: slice, of: Tensor | slice) -> None:
        residual[-1, rows, tokens] = seen[-1][0][of]
        for index, (stream, projected, output) in enumerate(seen[:-1]):
            residual[index, rows, tokens] = stream[of]
            k[index, rows, tokens] = projected["k"][of]
            v[index, rows, tokens] = projected["v"][of]
            z[index, rows, tokens] = output.unflatten(-1, (-1, size))[of]

    plan = list(sharing.batches(prompts, batch, share=share_context))
    for some in tqdm(plan, desc="recording", unit="batch", disable=None, leave=False):
        part, everything = prompts.select(some.rows), slice(None)
        if not some.prefix:
            keep(_seen(subject, inputs_of(part)), some.rows, everything, everything)
            continue
        begin, end = slice(some.prefix), slice(some.prefix, int(part.last.max()) + 1)
        cache = DynamicCache(config=subject.model.config)
        common = {"input_ids": prompts.input_ids[some.spokesmen, begin], "past_key_values": cache, "use_cache": True}
        keep(_seen(subject, common), some.rows, begin, some.context)
        cache.batch_select_indices(some.context.to(subject.device))
        rest = {"input_ids": part.input_ids[:, end], "past_key_values": cache, "use_cache": True}
        keep(_seen(subject, rest), some.rows, end, everything)
    return Recording(subject, prompts, residual, z, k, v)


def _seen(subject: Subject, inputs: dict[str, Any]) -> list[Any]:
    """One traced forward pass: for each layer its input, keys, values and z; then the output of the last layer."""
    model, form = wrapped(subject), forms.of(subject.model)
    with fast_float32(subject), torch.no_grad(), model.trace(**inputs):
        seen: list[Any] = []
        for layer in form.blocks(model):
            attention = forms.part(layer, form.attention)
            stream = layer.input
            found: dict[str, Tensor] = {}
            for path, sites in projected_at(form):
                found |= taken_apart(subject, forms.part(attention, path).output, sites)
            seen.append([stream, found, forms.part(attention, form.out).input])
        seen.append([layer.output])
        seen = nnsight.save(seen)
    return seen  # noqa: RET504 (nnsight fills the name when the trace ends)


def require_room(subject: Subject, prompts: Prompts) -> None:
    """Raise `ValueError` for prompts longer than the model was made for, or with tokens that it does not have, or has
    for other words: those of another vocabulary, whose numbers would be wrong without a word."""
    room = getattr(subject.model.config, "max_position_embeddings", None)
    words = subject.model.get_input_embeddings().weight.shape[0]
    length, highest = int(prompts.last.max()) + 1, int(prompts.input_ids.max())
    if room is not None and length > room:
        raise ValueError(f"a prompt has {length} tokens, and {subject.name} was made for {room} at most")
    if highest >= words or int(prompts.input_ids.min()) < 0:
        raise ValueError(
            f"token {highest} is none of the {words} of {subject.name}: make the prompts with its own tokenizer"
        )
    known = prompts.vocabulary if subject.tokenizer is not None else None
    if known is not None and (other := read_otherwise(subject.tokenizer, known)):
        raise ValueError(
            f"these prompts were made with another tokenizer than that of {subject.name} ({other}): use its own"
        )


def require_targets(subject: Subject, prompts: Prompts, targets: Tensor) -> None:
    """Raise `ValueError` unless these are (n, k) tokens of the model, or -1 for none."""
    words = subject.model.get_input_embeddings().weight.shape[0]
    if targets.ndim != 2 or len(targets) != len(prompts) or targets.dtype != torch.long:
        raise ValueError(
            f"targets are ({len(prompts)}, k) int64 tokens, not {tuple(targets.shape)} {str(targets.dtype)[6:]}"
        )
    if bool(((targets < -1) | (targets >= words)).any()):
        raise ValueError(
            f"targets are tokens from 0 to {words - 1}, or -1 for none, not {targets.min()} to {targets.max()}"
        )


def inputs_of(prompts: Prompts) -> dict[str, Any]:
    """Unpadded prompts go in without a mask: then the attention kernel is the causal one, edits or none."""
    full = bool((prompts.last == prompts.input_ids.shape[1] - 1).all())
    mask = {} if full else {"attention_mask": prompts.attention_mask}
    return {"input_ids": prompts.input_ids, "use_cache": False, **mask}


class _View:
    """The nnsight view of a model, kept by the model itself: both are freed together. A copy of a model has none."""

    def __init__(self) -> None:
        self.model: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _View, ()


def wrapped(subject: Subject) -> Any:
    """The nnsight view of a model, made once a model (wrapping anew would leave hooks behind each time)."""
    view = vars(subject.model).setdefault("_nnsight_view", _View())
    if view.model is None:
        view.model = nnsight.NNsight(subject.model)
    return view.model


def recorded(recording: Recording, item: Read) -> Tensor:
    """(n, heads, head_size): what a read gives in the recorded run itself.

    For example:

        from entity_circuits import replay, runs, toy

        p = toy.prompts("apple", "cup")
        print(replay.recorded(runs.record(toy.subject(), p), runs.Read("q", 2, p.last)).shape)
    """
    if item.site != "q":
        return recording.at(item.site, item.layer, item.position)
    rows = torch.arange(len(recording), device=item.position.device)
    x = blocks.read_by_attention(recording.subject, item.layer, recording.residual[item.layer, rows, item.position])
    return blocks.project(recording.subject, item.layer, "q", x)


def attention(recording: Recording, head: Head, position: Tensor) -> Tensor:
    """(n, T): where one head looks from `position` (n,) in the recorded run; each row sums to 1, float32 or better.

    For example:

        from entity_circuits import models, prompts, replay, runs
        from entity_circuits.heads import Head

        subject = models.load("qwen2.5-coder-0.5b")
        p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
        print(replay.attention(runs.record(subject, p), Head(3, 5), p.last).argmax(-1))
    """
    subject, width = recording.subject, recording.prompts.input_ids.shape[1]
    blocks.require(subject)
    if not (0 <= head.layer < subject.layers and 0 <= head.head < subject.heads):
        raise ValueError(f"there is no head {head}: the model has {subject.layers} layers of {subject.heads} heads")
    module, given = blocks.parts(subject, head.layer)[1], attention_inputs.of(subject, width)[head.layer]
    shared = head.head // (subject.heads // subject.kv_heads)
    keys = recording.k[head.layer][:, :, [shared]]
    queries = recorded(recording, Read("q", head.layer, position))[:, [head.head]]
    # Each prompt's query stands at its own position: rotate it once for every position, take the one that is its own.
    queries = queries[:, None].expand(-1, width, -1, -1)
    k = blocks.rotated(subject, head.layer, "k", keys, given, slice(0, width))[:, :, 0]
    q = blocks.rotated(subject, head.layer, "q", queries, given, slice(0, width))
    q = q[torch.arange(len(recording)), position, 0]
    scores = forms.capped(subject.model, torch.einsum("nd,ntd->nt", q, k) * module.scaling)
    scores = scores.masked_fill(~attention_inputs.heard(given, width, position), -torch.inf)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))

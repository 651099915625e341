"""One run of a model kept: all that a replay of it needs, and what can be read off it. Recorded through nnsight."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache

from ..arguments import boolean, integer, of_kind, one_of, several
from ..heads import Head
from ..models import forms
from ..models.subject import Subject
from ..tasks.prompts import Prompts, rows_of
from ..tasks.vocabulary import read_otherwise
from . import attention_inputs, blocks, unknown
from . import prefix as sharing
from .edits import Activation, Read, check_place
from .projected import projected_at
from .tracing import inputs_of, seen

Table = Literal["residual", "z", "k", "v"]
"""What a recording holds of each token and layer."""


@dataclass(frozen=True)
class Recording:
    """One run of n prompts without edits: all that a replay needs, and nothing of the vocabulary's size.

    Each token is kept once, also one that several prompts of a context begin with. `index` (n, T) int64 says in which
    row of the tables a prompt's token stands, -1 where it was not kept. There is a table a layer: `residual` (rows,
    width), the input of each layer and then the output of the last; `z` (rows, heads, head_size); `k` and `v` (rows,
    kv_heads, head_size). Their dtype is the model's, and each is on the device of its layer. What a prompt has after
    `last` (padding) stands for nothing. Read with `at` and `span`.
    """

    subject: Subject
    prompts: Prompts
    index: Tensor
    residual: tuple[Tensor, ...]
    z: tuple[Tensor, ...]
    k: tuple[Tensor, ...]
    v: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def at(self, site: Activation, layer: int, position: Tensor) -> Tensor:
        """(n, heads, head_size): `z`, or `k` or `v` one slice a query head, at one position of each example.

        Raises `ValueError` for a site that is not recorded, for what is not a token of each prompt, and for one that
        was not kept.

            from entity_circuits import models, prompts, runs

            subject = models.load("qwen2.5-coder-0.5b")
            p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
            print(runs.record(subject, p).at("z", 3, p.last).shape)
        """
        one_of("site", site, Activation)
        if not 0 <= layer < self.subject.layers:
            raise ValueError(f"layer {layer}: this model has layers 0 to {self.subject.layers - 1}")
        if site == "q":
            raise ValueError("'q' is not part of a recording: read it in a run")
        slices = self._rows(site, layer, self._placed(position))
        return slices if site == "z" else slices.repeat_interleave(self.subject.heads // self.subject.kv_heads, dim=1)

    def span(self, what: Table, layer: int, begin: int = 0, end: int | None = None) -> Tensor:
        """(n, tokens, ...): the "residual" (layer + 1 of them), "z", "k" or "v" of the tokens from `begin` to `end`.

        Raises `ValueError` for a token that was not kept.

            from entity_circuits import runs, toy

            print(runs.record(toy.subject(), toy.prompts("apple", "cup")).span("residual", 0).shape)  # n, T, width
        """
        one_of("table", what, Table)
        return self._rows(what, layer, self.index[:, begin:end])

    def stream(self, layer: int, position: Tensor) -> Tensor:
        """(n, width): the input of a layer, or the output of the last, at one position of each example."""
        return self._rows("residual", layer, self._placed(position))

    def _placed(self, position: Tensor) -> Tensor:
        """(n,): the rows of the tables where one token of each prompt stands."""
        check_place("position", position, self.prompts)
        return self.index[torch.arange(len(self)), position]

    def _rows(self, what: Table, layer: int, rows: Tensor) -> Tensor:
        if bool((rows < 0).any()):
            raise ValueError("these tokens were not kept in the recording: record the prompts without `positions`")
        found: Tensor = getattr(self, what)[layer][rows]
        return found

    def whole(self) -> "Recording":
        """This recording, or one of the same prompts with all their tokens, if it kept only some."""
        return record(self.subject, self.prompts, share_context=True) if bool((self.index < 0).any()) else self

    def require(self, subject: Subject, prompts: Prompts) -> None:
        """Raise `ValueError` unless this is a recording of these prompts by this model, which is as it was."""
        subject.require_unchanged()
        if self.subject is not subject and self.subject.fingerprint != subject.fingerprint:
            raise ValueError(f"the recording is of another model: {self.subject.name}, not {subject.name}")
        if self.prompts is not prompts and self.prompts.digest != prompts.digest:
            raise ValueError("the recording is of other prompts: record these, or leave it out")

    def select(self, rows: Tensor) -> "Recording":
        """The recording of some of its prompts, in the same memory: `rows` are their numbers, or (n,) bool.

        For example:

            import torch
            from entity_circuits import runs, toy

            recording = runs.record(toy.subject(), toy.prompts("apple", "cup"))
            print(len(recording.select(torch.tensor([1]))))
        """
        some = rows_of(rows, len(self))
        return replace(self, prompts=self.prompts.select(some), index=self.index[some])

    def with_z(self, position: Tensor, z: Sequence[Tensor]) -> "Recording":
        """As if every layer's z at one position of each example had been another one; nothing follows from it.

        Args:
            position: (n,) int64.
            z: for each layer (n, heads, head_size).

        For example:

            from entity_circuits import runs, toy

            p = toy.prompts("apple", "cup")
            recording = runs.record(toy.subject(), p)
            silent = recording.with_z(p.last, [0 * recording.at("z", layer, p.last) for layer in range(3)])
            print(silent.at("z", 2, p.last).abs().max())
        """
        every = torch.arange(len(self))
        was, index = self.index[every, position], self.index.clone()
        index[every, position] = len(self.z[0]) + every
        residual, k, v = (tuple(torch.cat((t, t[was])) for t in tables) for tables in (self.residual, self.k, self.v))
        changed = tuple(torch.cat((old, new.to(old.device))) for old, new in zip(self.z, z, strict=True))
        return replace(self, index=index, residual=residual, z=changed, k=k, v=v)


def record(
    subject: Subject,
    prompts: Prompts,
    *,
    batch: int = 32,
    share_context: bool = False,
    positions: Sequence[Tensor] | None = None,
) -> Recording:
    """Run the prompts as they are and keep what a replay needs.

    Args:
        subject: the model.
        prompts: n prompts.
        batch: how many are run together.
        share_context: the tokens that all prompts of a context begin with are run and kept once: the same up to
            rounding, about five times faster and smaller where many prompts share their beginning.
        positions: (n,) int64 each; keep these tokens alone, for what is only read from. All of them unless given.

    Takes (2 x layers + 1) x width numbers a token and a little more: 0.2 MB for the default model in float32, 10 MB for
    a prompt of 50 tokens.

        from entity_circuits import models, prompts, runs

        subject = models.load("qwen2.5-coder-0.5b")
        p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
        print(runs.record(subject, p).span("z", 3).shape)  # n, tokens, heads, head size
    """
    boolean("share_context", share_context)
    of_kind("model", subject, Subject)
    of_kind("prompts", prompts, Prompts)
    integer("batch", batch)
    positions = None if positions is None else several("positions", positions, least=0)
    for position in positions or ():
        check_place("position to keep", position, prompts)
    require_room(subject, prompts)
    subject.require_unchanged()
    unknown.require_parts(subject, *(path for path, _ in projected_at(forms.of(subject.model))))
    prompts = prompts.select(torch.arange(len(prompts)))  # its own: those given may be changed in place later
    shared = share_context and sharing.possible(subject.model)
    plan, index = _planned(prompts, list(sharing.batches(prompts, batch, share=shared)), positions)
    rows, size, places = int(index.max()) + 1, subject.head_size, subject.devices

    def tables(*shape: int, on: Sequence[torch.device] = places) -> list[Tensor]:
        return [torch.empty(rows, *shape, dtype=subject.dtype, device=place) for place in on]

    residual = tables(subject.model.config.hidden_size, on=(*places, places[-1]))
    z, k, v = tables(subject.heads, size), tables(subject.kv_heads, size), tables(subject.kv_heads, size)

    def keep(inputs: dict[str, Any], kept: Tensor, begin: int) -> None:
        here = slice(begin, begin + int(kept.sum()))
        run = seen(subject, inputs, kept)
        for table, found in zip(residual, run["residual"], strict=True):
            table[here] = found
        for tables, site in ((z, "z"), (k, "k"), (v, "v")):
            for table, found in zip(tables, run[site], strict=True):
                table[here] = found.unflatten(-1, (-1, size)) if site == "z" else found

    for some in tqdm(plan, desc="recording", unit="batch", disable=None, leave=False):
        part, prefix = prompts.select(some.batch.rows), some.batch.prefix
        if not prefix:
            keep(inputs_of(subject, part), some.own, some.begin)
            continue
        end = int(part.last.max()) + 1
        cache = DynamicCache(config=subject.model.config)
        known = {"past_key_values": cache, "use_cache": True}
        ids = prompts.input_ids.to(subject.device)
        keep({"input_ids": ids[some.batch.spokesmen, :prefix], **known}, some.common, some.begin)
        cache.batch_select_indices(some.batch.context)
        rest = {"input_ids": ids[some.batch.rows, prefix:end], **known}
        keep(rest, some.own[:, : end - prefix], some.begin + int(some.common.sum()))
    return Recording(subject, prompts, index, tuple(residual), tuple(z), tuple(k), tuple(v))


@dataclass(frozen=True)
class _Planned:
    """A batch, and which of its tokens are kept from row `begin` on: (contexts, prefix) and (prompts, rest) bool."""

    batch: sharing.Batch
    common: Tensor
    own: Tensor
    begin: int


def _planned(
    prompts: Prompts, batches: Sequence[sharing.Batch], positions: Sequence[Tensor] | None
) -> tuple[list[_Planned], Tensor]:
    """Which row each token gets, batch by batch, and the `index` of the recording."""
    n, width = prompts.input_ids.shape
    places, last = torch.arange(width)[None], prompts.last.cpu()[:, None]
    wanted = places <= last
    if positions is not None:
        wanted = torch.zeros(n, width, dtype=torch.bool)
        for position in positions:
            wanted[torch.arange(n), position.cpu()] = True
    index, plan, begin = torch.full((n, width), -1), [], 0
    for batch in batches:
        here = wanted[batch.rows]
        own, common = here[:, batch.prefix :], torch.zeros(len(batch.spokesmen), batch.prefix, dtype=torch.int)
        common = common.index_add(0, batch.context, here[:, : batch.prefix].int()) > 0
        plan.append(_Planned(batch, common, own, begin))
        index[batch.rows, : batch.prefix] = _numbered(common, begin)[batch.context]
        index[batch.rows, batch.prefix :] = _numbered(own, begin + int(common.sum()))
        begin += int(common.sum()) + int(own.sum())
    index = torch.where(places > last, index.gather(1, last), index)
    return plan, index


def _numbered(kept: Tensor, begin: int) -> Tensor:
    return torch.where(kept, begin + kept.flatten().cumsum(0).view_as(kept) - 1, -1)


def require_room(subject: Subject, prompts: Prompts) -> None:
    """Raise `ValueError` for prompts longer than the model was made for, with their padding, or than it rotates without
    looking at the longest of a batch (see `forms.rotates_alike_to`), padded on the left, or with tokens that it does
    not have, or has for other words: those of another vocabulary, whose numbers would be wrong without a word."""
    room = getattr(subject.model.config, "max_position_embeddings", None)
    words, width = subject.model.get_input_embeddings().weight.shape[0], prompts.input_ids.shape[1]
    length, tokens = int(prompts.last.max()) + 1, (prompts.answer_ids, prompts.wrong_ids, prompts.choice_ids)
    highest = max(int(one.max()) for one in (prompts.input_ids, *tokens) if one is not None and one.numel())
    if room is not None and length > room:
        raise ValueError(f"a prompt has {length} tokens, and {subject.name} was made for {room} at most")
    if room is not None and width > room:  # some have no place for padding either, or turn all tokens by the width
        raise ValueError(
            f"the prompts have up to {length} tokens, {width} with their padding, and {subject.name} was made for "
            f"{room} at most: leave out the padding that no prompt needs, as in "
            f"dataclasses.replace(prompts, input_ids=prompts.input_ids[:, :{length}])"
        )
    if (within := forms.rotates_alike_to(subject.model)) is not None and width > within:
        raise ValueError(
            f"a prompt has {width} tokens with its padding, and {subject.name} (longrope) rotates "
            f"all tokens otherwise where there are more than {within}: take prompts of {within} at most"
        )
    if highest >= words or int(prompts.input_ids.min()) < 0:
        raise ValueError(
            f"token {highest} is none of the {words} of {subject.name}: make the prompts with its own tokenizer"
        )
    pad, bos = (getattr(subject.tokenizer, f"{name}_token_id", None) for name in ("pad", "bos"))
    if pad not in (None, bos) and bool(((prompts.input_ids[:, :2] == pad).all(1) & (prompts.last > 0)).any()):
        raise ValueError("a prompt begins with padding: prompts are padded on the right, behind `last`")
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


def recorded(recording: Recording, item: Read) -> Tensor:
    """(n, heads, head_size): what a read gives in the recorded run itself.

    For example:

        from entity_circuits import replay, runs, toy

        p = toy.prompts("apple", "cup")
        print(replay.recorded(runs.record(toy.subject(), p), runs.Read("q", 2, p.last)).shape)
    """
    if item.site != "q":
        return recording.at(item.site, item.layer, item.position)
    x = blocks.read_by_attention(recording.subject, item.layer, recording.stream(item.layer, item.position))
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
    keys = recording.span("k", head.layer)[:, :, [shared]]
    queries = recorded(recording, Read("q", head.layer, position))[:, [head.head]]
    # Each prompt's query stands at its own position: rotate it once for every position, take the one that is its own.
    queries = queries[:, None].expand(-1, width, -1, -1)
    k = blocks.rotated(subject, head.layer, "k", keys, given, slice(0, width))[:, :, 0]
    q = blocks.rotated(subject, head.layer, "q", queries, given, slice(0, width))
    q = q[torch.arange(len(recording)), position, 0]
    scores = forms.capped(subject.model, torch.einsum("nd,ntd->nt", q, k) * module.scaling)
    unheard = ~attention_inputs.heard(given, width, position).to(scores.device)
    scores = scores.masked_fill(unheard, -torch.inf)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))

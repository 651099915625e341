"""Mean ablation of many circuits at once, exactly, by running only the tokens at which circuits differ.

With every head at its mean, no token hears another one: what stands at a position is a function of the token and of
the position alone, so the keys and values of all positions where nothing is kept come from one small table. Only the
*live* tokens, where some circuit keeps some head, go up the layers, over that table and over each other. Circuits that
have kept the same heads so far, at all that a token can have heard, share the run of that token up to there.

`edits` says the same as a list of edits, for `runs.run`: that is the definition.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import finite, integer, of_kind
from ..models import forms
from ..models.precision import fast_float32
from ..models.subject import Subject
from ..tasks.prompts import Prompts
from . import attention_inputs, blocks
from .edits import Outcome


@dataclass(frozen=True, eq=False)
class Means:
    """Mean head outputs: `z` (layers, T, heads, head_size), one mean a layer, absolute position and head.

    On the CPU, in the dtype of the model; averaged over `n` prompts of T tokens. `ablation.means` takes them, and
    says of which model they are by its `fingerprint` ("" is not compared). Raises `ValueError` for NaN or infinity.

        import torch
        from entity_circuits import runs, toy
        from entity_circuits.runs.mean_replay import Means

        p = toy.prompts("apple", "cup")
        recording = runs.record(toy.subject(), p)
        print(Means(torch.stack([recording.span("z", layer).mean(0) for layer in range(3)]), n=2).z.shape)
    """

    z: Tensor
    n: int
    fingerprint: str = ""

    def __post_init__(self) -> None:
        of_kind("means", self.z, Tensor)
        if not bool(torch.isfinite(self.z).all()):
            raise ValueError("means of head outputs have NaN or infinite numbers in them")

    def require(self, prompts: Prompts, subject: Subject) -> None:
        """Raise `ValueError` unless these are means of this model, and every prompt has a token at each position."""
        subject.require_unchanged()
        if self.fingerprint not in ("", subject.fingerprint):
            raise ValueError(f"these means are of another model than {subject.name}: take them with it")
        length, found = self.z.shape[1], sorted(set((prompts.last + 1).tolist()) | {prompts.input_ids.shape[1]})
        if found != [length]:
            raise ValueError(
                f"these means are of prompts of {length} tokens, position by position; the prompts given have "
                f"{' or '.join(map(str, found))}. Take means of prompts of the same form."
            )


def ablate(
    subject: Subject,
    prompts: Prompts,
    slots: Tensor,
    keep: Tensor,
    means: Means,
    *,
    targets: Tensor | None = None,
    batch: int = 98,
    memory: float = 1e9,
    table: "Table | None" = None,
) -> Outcome:
    """What is left of the answers when each circuit's heads run and all others are at their means.

    Args:
        subject: the model.
        prompts: n prompts, all of as many tokens as the means have positions.
        slots: (n, S) int64, the positions at which some circuit keeps some head, `last` among them; no two are one
            token; -1 where a prompt has fewer.
        keep: (circuits, layers, S, heads) bool: which heads each circuit keeps there; every other head, and every head
            at every other position, is at its mean.
        means: every head's mean output at every position.
        targets: (n, k) tokens whose logits are wanted; the right answers unless given.
        batch: prompts that go together.
        memory: bytes that bound how many circuits go together.
        table: the keys and values of all these prompts; made unless given.

    Returns an `Outcome`, one variant a circuit, without gradients: the numbers of `runs.run` with all these means as
    edits, from a fraction of the work. Raises `ValueError` for prompts that do not fit, and slots that are missing or
    twice, `NotImplementedError` for a model of another form (use the definition there).

        from entity_circuits import ablation, models, prompts
        from entity_circuits.runs import mean_replay

        subject = models.load("qwen2.5-coder-0.5b")
        p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
        means = ablation.means(subject, prompts=p)
        keep = (p.last[:, None] >= 0).expand(subject.layers, 1, subject.heads)[None]  # all heads, at `last`
        print(mean_replay.ablate(subject, p, p.last[:, None], keep, means).logprob)  # (circuits, n)
    """
    blocks.require(subject)
    means.require(prompts, subject)
    _require_slots(prompts, slots)
    integer("batch", batch)
    finite("memory", memory, least=0.0, inside=True)
    targets = prompts.answer_ids[:, None] if targets is None else targets
    parts = []
    with fast_float32(subject), torch.no_grad():
        table = Table(subject, prompts, means) if table is None else table
        for rows in torch.arange(len(prompts)).split(batch):
            row = 12 * means.z.shape[2] * means.z.shape[3] + 4 * subject.heads * (means.z.shape[1] + slots.shape[1])
            size = max(1, int(memory / (row * means.z.element_size() * len(rows) * slots.shape[1])))
            part = prompts.select(rows)
            several = [_climb(table, part, rows, slots[rows], some, targets[rows]) for some in keep.split(size)]
            parts.append(Outcome.joined(several, dim=0))
    return Outcome.joined(parts, dim=1)


def weighted(
    subject: Subject,
    prompts: Prompts,
    slots: Tensor,
    weight: Tensor,
    means: Means,
    *,
    targets: Tensor | None = None,
    table: "Table | None" = None,
) -> Tensor:
    """The same for one circuit whose heads are kept in part: weight * z + (1 - weight) * mean, with gradients.

    Args:
        subject: the model.
        prompts: n prompts, all of as many tokens as the means have positions.
        slots: (n, S) int64, the positions of which there are weights, `last` among them; no two are one token.
        weight: (layers, S, heads) of the dtype of the model; 1 keeps a head there, 0 puts it at its mean.
        means: every head's mean output at every position.
        targets: (n, k) tokens whose logits are wanted; the right answers unless given.
        table: the keys and values of these prompts; made unless given.

    Returns (n, k) logits, through which a gradient flows to `weight` if it asks for one. With weights of 0 and 1 they
    are those of `ablate`. All n prompts go together: the memory is theirs. Raises `ValueError` for prompts that do not
    fit, and slots that are missing or twice.

        import torch
        from entity_circuits import ablation, toy
        from entity_circuits.runs import mean_replay

        subject, p = toy.subject(), toy.prompts("apple", "cup")
        weight = torch.full((subject.layers, 1, subject.heads), 0.5, dtype=torch.float64)
        print(mean_replay.weighted(subject, p, p.last[:, None], weight, ablation.means(subject, prompts=p)))
    """
    blocks.require(subject)
    means.require(prompts, subject)
    _require_slots(prompts, slots)
    if bool((slots < 0).any()):
        raise ValueError("every prompt needs a token at each slot: leave slots of -1 out")
    targets = prompts.answer_ids[:, None] if targets is None else targets
    with fast_float32(subject):
        table = Table(subject, prompts, means) if table is None else table
        fixed, hears = _hearing(slots, means.z.shape[1])
        (last,) = torch.nonzero((slots == prompts.last[:, None]).all(0))[0].tolist()
        hidden = blocks.embedded(subject, prompts.input_ids.gather(1, slots), slots)
        for layer, (given, device) in enumerate(zip(table.given, subject.devices, strict=True)):
            hidden = hidden.to(device)
            x = blocks.read_by_attention(subject, layer, hidden)
            q, k, v = (blocks.project(subject, layer, site, x, False) for site in "qkv")
            q, k = (
                blocks.rotated(subject, layer, site, part.flatten(0, 1), given, slots.flatten()).view_as(part)  # type: ignore[arg-type]
                for site, part in (("q", q), ("k", k))
            )
            old, new = (table.k[layer][table.index], table.v[layer][table.index]), (k[None], v[None])
            own = []
            for p in range(slots.shape[1]):
                near = None if given.visible is None else given.visible[slots[:, p]]
                old_heard, new_heard = fixed[:, p], hears[:, p]
                if near is not None:
                    old_heard, new_heard = old_heard & near, new_heard & near.gather(1, slots)
                own.append(_attend(subject, layer, q[None, :, p], old, old_heard, new, new_heard)[0])
            by, mean = weight[layer][None, :, :, None].to(device), means.z[layer, slots].to(device)
            z = by * torch.stack(own, dim=1) + (1 - by) * mean
            hidden = blocks.fed(subject, layer, hidden, blocks.attended(subject, layer, hidden, z))
        return blocks.readout(subject, hidden[None, :, last], targets, (), vocabulary=False, prompts=prompts).logits[0]


def _require_slots(prompts: Prompts, slots: Tensor) -> None:
    """A token in two slots would be heard twice, and answers are read off the slot of `last`."""
    if any(len(set(row)) < len(row) for row in ([slot for slot in row if slot >= 0] for row in slots.tolist())):
        raise ValueError("no two slots may be the same token of a prompt: give each position one slot")
    if not bool((slots == prompts.last[:, None]).all(0).any()):
        raise ValueError("one of the slots has to be the last token of every prompt: add `prompts.last` to them")


def _hearing(slots: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What live tokens hear: (n, S, width) of the tokens that are not live, and (n, S, S) of each other and itself."""
    hears = (slots[:, :, None] >= slots[:, None, :]) & (slots[:, None, :] >= 0)  # n, listener, speaker
    hears = hears | torch.eye(slots.shape[1], dtype=torch.bool, device=slots.device)
    place = torch.arange(width, device=slots.device)[None, None]
    lives = (place == slots[:, :, None]).any(1)
    return (place < slots[:, :, None]) & ~lives[:, None], hears


class Table:
    """Keys and values of tokens that hear nobody: by layer (pairs, kv_heads, head_size), one row a token and position.

    `index` (n, T) says which row a prompt's token has. Keys are rotated, ready to be compared. It serves every circuit
    of these prompts and means.
    """

    def __init__(self, subject: Subject, prompts: Prompts, means: Means) -> None:
        self.subject, self.means = subject, means
        with fast_float32(subject), torch.no_grad():
            self._fill(prompts)

    def _fill(self, prompts: Prompts) -> None:
        subject, means = self.subject, self.means
        places = torch.arange(means.z.shape[1])
        numbered = places * (int(prompts.input_ids.max()) + 1) + prompts.input_ids
        pairs, self.index = torch.unique(numbered, return_inverse=True)
        token, place = pairs % (int(prompts.input_ids.max()) + 1), pairs // (int(prompts.input_ids.max()) + 1)
        hidden = blocks.embedded(subject, token, place)
        self.given = attention_inputs.of(subject, len(places))
        k, v = [], []
        for layer, (given, device) in enumerate(zip(self.given, subject.devices, strict=True)):
            hidden = hidden.to(device)
            x = blocks.read_by_attention(subject, layer, hidden)
            key, value = (blocks.project(subject, layer, site, x, False) for site in "kv")
            k.append(blocks.rotated(subject, layer, "k", key, given, place))
            v.append(value)
            middle = blocks.attended(subject, layer, hidden, means.z[layer, place].to(device))
            hidden = blocks.fed(subject, layer, hidden, middle)
        self.k, self.v = tuple(k), tuple(v)


def _climb(table: Table, prompts: Prompts, rows: Tensor, slots: Tensor, keep: Tensor, targets: Tensor) -> Outcome:
    """The live tokens of these prompts, up all layers. `hidden[p]` (classes, n, width) holds one row a class of
    circuits that are alike so far at slot p, and `member[p]` (circuits,) says which class a circuit is in."""
    subject = table.subject
    count, width = slots.shape[1], table.means.z.shape[1]
    at = slots.clamp(min=0)
    last = int(torch.nonzero((slots == prompts.last[:, None]).all(0))[0, 0])
    fixed, hears = _hearing(slots, width)
    heard = [torch.nonzero(hears[:, p].any(0))[:, 0].tolist() for p in range(count)]
    embedded = blocks.embedded(subject, prompts.input_ids.gather(1, at), at)
    hidden = [embedded[None, :, p] for p in range(count)]
    member = [torch.zeros(len(keep), dtype=torch.long) for _ in range(count)]
    for layer, (given, device) in enumerate(zip(table.given, subject.devices, strict=True)):
        hidden, means = [part.to(device) for part in hidden], table.means.z[layer].to(device)
        together = blocks.read_by_attention(subject, layer, torch.cat(hidden))
        sizes = [len(part) for part in hidden]
        k, v = (blocks.project(subject, layer, site, together, False).split(sizes) for site in "kv")
        x = together.split(sizes)
        k = [blocks.rotated(subject, layer, "k", part, given, at[:, p]) for p, part in enumerate(k)]
        old = (table.k[layer][table.index[rows]], table.v[layer][table.index[rows]])
        near = None if given.visible is None else given.visible[at]  # n, listener, position
        before, after, groups = [], [], []
        for p in range(count) if layer < subject.layers - 1 else [last]:  # the top layer is read at `last` alone
            mean = means[at[:, p]]
            mine = keep[:, layer, p]
            owners = torch.nonzero(mine.any(-1))[:, 0]
            ear = torch.zeros(len(keep), dtype=torch.long)  # 0: its own z is not needed
            z = mean[None]
            if len(owners):
                which, first = _classes([member[s][owners] for s in heard[p]])
                ear[owners] = which + 1
                some = owners[first]
                q = blocks.project(subject, layer, "q", x[p])[member[p][some]]
                q = blocks.rotated(subject, layer, "q", q, given, at[:, p])
                new = [torch.stack([part[s][member[s][some]] for s in heard[p]], dim=2) for part in (k, v)]
                old_heard, new_heard = fixed[:, p], hears[:, p, heard[p]]
                if near is not None:
                    old_heard, new_heard = old_heard & near[:, p], new_heard & near[:, p].gather(1, at[:, heard[p]])
                own = _attend(subject, layer, q, old, old_heard, (new[0], new[1]), new_heard)
                z = torch.cat((z, own))
            code, _ = _classes([mine])
            group, first = _classes([member[p], ear, code])
            z = torch.where(mine[first][:, None, :, None].to(device), z[ear[first]], mean)
            before.append(hidden[p][member[p][first]])
            after.append(blocks.attended(subject, layer, before[-1], z))
            groups.append(group)
        together = blocks.fed(subject, layer, torch.cat(before), torch.cat(after))
        hidden = list(together.split([len(part) for part in after]))
        member = groups
    outcome = blocks.readout(subject, hidden[0], targets, (), prompts=prompts)
    return Outcome(*(getattr(outcome, name)[member[0]] for name in Outcome.NUMBERS))


def _classes(keys: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Number the distinct rows of keys (circuits,) or (circuits, k): the class of each circuit, a circuit of each."""
    stacked = torch.cat([key.long().reshape(len(key), -1) for key in keys], dim=1)
    _, which = torch.unique(stacked, dim=0, return_inverse=True)
    first = torch.empty(int(which.max()) + 1, dtype=torch.long)
    first[which] = torch.arange(len(which))
    return which, first


def _attend(
    subject: Subject,
    layer: int,
    q: Tensor,
    old: tuple[Tensor, Tensor],
    fixed: Tensor,
    new: tuple[Tensor, Tensor],
    hears: Tensor,
) -> Tensor:
    """z (classes, n, heads, head_size) of one live token: q of that shape over the `old` keys and values, of the table
    (n, T, kv_heads, head_size), where `fixed` (n, T), and the `new` ones, of live tokens (classes, n, S, kv_heads,
    head_size), where `hears` (n, S)."""
    (old_k, old_v), (k, v) = old, new
    classes, shared = q.shape[0], q.shape[2] // old_k.shape[2]
    q = (q * blocks.parts(subject, layer)[1].scaling).unflatten(2, (-1, shared))
    asks = q.permute(1, 2, 0, 3, 4).flatten(2, 3)  # n, kv_heads, classes x shared, size
    before = forms.capped(subject.model, asks @ old_k.permute(0, 2, 3, 1)).masked_fill(
        ~fixed[:, None, None].to(q.device), -torch.inf
    )
    before = before.unflatten(2, (classes, shared)).permute(2, 0, 1, 3, 4)
    now = forms.capped(subject.model, torch.einsum("cngsd,cnjgd->cngsj", q, k))
    now = now.masked_fill(~hears[None, :, None, None].to(q.device), -torch.inf)
    scores = torch.cat((before, now), dim=-1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    split = old_k.shape[1]
    z = weights[..., :split].permute(1, 2, 0, 3, 4).flatten(2, 3) @ old_v.transpose(1, 2)
    z = z.unflatten(2, (classes, shared)).permute(2, 0, 1, 3, 4)
    return (z + torch.einsum("cngsj,cnjgd->cngsd", weights[..., split:], v)).flatten(2, 3)

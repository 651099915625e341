"""The definition on a model that runs elsewhere: whole forward passes of a model served by NDIF, through nnsight.

What is sent are the tokens of the prompts and what is done in the passes, as text of plain torch; weights and
activations stay there, and log-probabilities come back. Nothing that is sent needs this package, which the server does
not have. One call is one session, so one place in the queue: `remote_paths` has a layer of path patching as one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import nnsight
import torch
from nnsight.modeling.mixins.remotable import Remotable
from torch import Tensor, nn

from ..arguments import of_kind, several
from ..models import forms
from ..models.subject import Subject
from ..tasks.prompts import Prompts
from .edits import TIED, Edit, Outcome, Read, check, listed
from .finite import require_numbers
from .recording import require_room, require_targets

SITES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "z": "o_proj"}


@dataclass(frozen=True)
class Served:
    """A model that is served elsewhere, with the geometry that edits are checked against; weights are not needed here.

    Args:
        model: its nnsight view, as `nnsight.TransformersModel("meta-llama/Llama-3.1-70B")`, which loads no weights.
        layers: how many.
        heads: of a layer.
        kv_heads: of a layer; query heads may share them.
        head_size: of each.
        remote: True for the host that nnsight is set to, the address of another, or "local", which sends nothing.

    Made by `served`.
    """

    model: Any
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    remote: bool | str = True

    @property
    def tokenizer(self) -> Any:
        """What prompts for it are made with."""
        return self.model.tokenizer

    @property
    def dtype(self) -> torch.dtype:
        """That of its view."""
        return next(self.model._module.parameters()).dtype

    def as_subject(self) -> Subject:
        """As a model at hand, which its view is, but for the weights: what a `Subject` is checked for, this is too."""
        module, words = self.model._module, getattr(self.model, "tokenizer", None)
        shape = (self.layers, self.heads, self.kv_heads, self.head_size)
        return Subject(type(module).__name__, module, words, *shape, fingerprint="")

    def require(self, *each: Prompts) -> None:
        """Raise `ValueError` for prompts that do not fit and, of a model that is run here, hooks or training mode."""
        here = self.as_subject()
        if self.remote == "local":
            here.require_plain()
        for prompts in each:
            require_room(here, prompts)


def served(model: Any, remote: bool | str = True) -> Served:
    """A model of NDIF, to be run; `remote` as in `Served`.

    `model` is its nnsight view; or a loaded model of transformers, to try what would be sent ("local").

    Raises `ValueError` for a model whose layers are not called as in Llama. For example:

        from entity_circuits import toy
        from entity_circuits.runs import remote

        print(remote.served(toy.subject().model, "local").heads)  # 2
    """
    if isinstance(model, nn.Module):
        model = Remotable(model)
    config, form = model._module.config, forms.of(model._module)
    names = (form.body, form.layers, form.attention, form.q, form.k, form.v, form.out)
    if names != ("model", "layers", "self_attn", *SITES.values()) or form.fused or form.clips or not form.replay:
        kind = type(model._module).__name__
        raise ValueError(f"a {kind} cannot be edited elsewhere: its parts are not called as in Llama. Load it here.")
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return Served(model, config.num_hidden_layers, heads, kv_heads, size, remote)


def run(
    where: Served,
    prompts: Prompts,
    variants: Sequence[Sequence[Edit]],
    *,
    read: Sequence[Read] = (),
    targets: Tensor | None = None,
) -> Outcome:
    """Run the prompts once for each list of edits, in one session: the numbers of `definition.run`.

    Args:
        where: the model.
        prompts: n prompts, made with its tokenizer.
        variants: lists of edits of z, q or scores (as of `knockout.cut`), or of k and v where no heads share them;
            values and `keep` are sent.
        read: activations that come back.
        targets: (n, k) tokens; the right answers unless given.

    Returns an `Outcome` of all variants, on the CPU. Raises `ValueError` for edits of what is not there, and
    `NotImplementedError` for keys and values that heads share or that one position sees: run these where the model is.

        from entity_circuits import toy
        from entity_circuits.runs import remote

        where = remote.served(toy.subject().model, "local")
        print(remote.run(where, toy.prompts("apple"), [[]]).logprob.exp())  # 0.834
    """
    return _run(where, prompts, variants, read, targets, False)[0]


def slopes(
    where: Served, prompts: Prompts, edits: Sequence[Edit], *, targets: Tensor | None = None
) -> tuple[Outcome, tuple[Tensor, ...]]:
    """Run the prompts under edits, and say how the sum of the logits of all targets depends on each `keep`.

    The gradients are taken there, so no activation is sent back: this is what learning a mask needs of a step.

    Args:
        where: the model.
        prompts: n prompts.
        edits: with `keep`, (heads,) each, from 0 (the value) to 1 (what it is in the run).
        targets: (n, k) tokens; the right answers unless given.

    Returns the `Outcome` and a gradient (heads,) for each edit, in their order. Raises as `run` does.

        import torch
        from entity_circuits import toy
        from entity_circuits.runs import Edit, remote

        where, p = remote.served(toy.subject().model, "local"), toy.prompts("apple")
        zero = torch.zeros(1, 1, where.head_size, dtype=torch.float64)
        print(remote.slopes(where, p, [Edit("z", 2, (0,), p.last, zero, keep=torch.ones(1))])[1])
    """
    edits = several("edits", edits, least=0)
    if any(edit.keep is None for edit in edits):
        raise ValueError("a slope is of a `keep`: give each edit one")
    return _run(where, prompts, [edits], (), targets, True)


def _run(
    where: Served,
    prompts: Prompts,
    variants: Sequence[Sequence[Edit]],
    read: Sequence[Read],
    targets: Tensor | None,
    sloped: bool,
) -> tuple[Outcome, tuple[Tensor, ...]]:
    """All variants in one session: the outcome, and the gradients of every `keep` of the last variant."""
    of_kind("prompts", prompts, Prompts)
    variants, read = listed(variants, read)
    for item in read:
        check(item, where, prompts)
    for edit in (edit for edits in variants for edit in edits):
        check(edit, where, prompts)
        _require_simple(where, edit)
    for edits in variants:
        _require_something_heard(_windows(where, prompts.input_ids.shape[1]), edits)
    where.require(prompts)
    if targets is not None:
        require_targets(where.as_subject(), prompts, targets)
    programs = [_plain(where, edits) for edits in variants]
    wanted = [{site: [(i, r.position) for i, r in enumerate(read) if (r.layer, r.site) == (at, site)] for site in SITES}
              for at in range(where.layers)]  # fmt: skip
    model, size, heads = where.model, where.head_size, where.heads
    targets = (prompts.answer_ids[:, None] if targets is None else targets).cpu()
    asked, rows, ends = inputs_of(prompts), torch.arange(len(prompts)), torch.unique(prompts.last)
    spots, count, tied = torch.searchsorted(ends, prompts.last), len(read), TIED
    kept = ends.tolist()
    edited, masked, sites, every = _edited(), _masked(), dict(SITES), where.heads
    with model.session(remote=where.remote):
        found: Any = []
        keeps: Any = []
        grads: Any = []
        for program in programs:
            with torch.set_grad_enabled(sloped), model.trace(**asked, logits_to_keep=kept):
                taken = {}
                for at, block in enumerate(model.model.layers):
                    if "score" in program[at]:
                        first, named = block.self_attn.inputs
                        mask = masked(named, first, program[at]["score"], rows, every)
                        block.self_attn.inputs = (first, {**named, "attention_mask": mask})
                    for site, name in sites.items():
                        todo, reads = program[at].get(site, []), wanted[at][site]
                        if todo or reads:
                            place = getattr(block.self_attn, name)
                            x = (place.input if site == "z" else place.output).unflatten(-1, (-1, size))
                            x = edited(x, todo, rows, keeps if sloped else None)
                            for index, position in reads:
                                part = x[rows, position]
                                taken[index] = part.repeat_interleave(heads // part.shape[1], dim=1).cpu()
                            if todo and site == "z":
                                place.input = x.flatten(-2)
                            elif todo:
                                place.output = x.flatten(-2)
                final = model.output.logits[rows, spots]
                final = final.to(torch.promote_types(final.dtype, torch.float32)).cpu()
                chosen = final.gather(1, targets.clamp(min=0)).masked_fill(targets < 0, torch.nan)
                if sloped:
                    grads = list(torch.autograd.grad(chosen.nansum(), keeps))
                final, chosen = final.detach(), chosen.detach()
                total = final.logsumexp(-1, keepdim=True)
                alike = (final == final.amax(-1, keepdim=True)).sum(-1) > 1
                top = final.argmax(-1).masked_fill(alike, tied)
                numbers = (chosen, (chosen - total).clamp(max=0), top)
                found.append((*numbers, total[:, 0], [taken[index] for index in range(count)]))
        found, grads = nnsight.save(found), nnsight.save(grads)
    logits, logprobs, tops, totals = (torch.stack([one[part] for one in found]) for part in range(4))
    require_numbers(where.as_subject(), prompts, totals)
    reads_ = tuple(torch.stack(kind) for kind in zip(*(one[4] for one in found), strict=True))
    return Outcome(logits, logprobs, tops, reads_), tuple(grad.cpu() for grad in grads)


def inputs_of(prompts: Prompts) -> dict[str, Any]:
    """As `tracing.inputs_of`: unpadded prompts go without a mask. On the CPU; the model's first device takes them."""
    full = bool((prompts.last == prompts.input_ids.shape[1] - 1).all())
    mask = {} if full else {"attention_mask": prompts.attention_mask.cpu()}
    return {"input_ids": prompts.input_ids.cpu(), "use_cache": False, **mask}


def _require_simple(where: Served, edit: Edit) -> None:
    if edit.seen_by is not None:
        raise NotImplementedError("keys and values seen by one position are edited elsewhere by `remote_paths` alone")
    if edit.site in ("k", "v") and where.kv_heads != where.heads:
        raise NotImplementedError(
            f"query heads of this model share their {edit.site}: an edit elsewhere would change it for all of them"
        )


def _windows(where: Served, width: int) -> list[int]:
    """How many tokens a query of each layer hears at most, its own among them, of prompts of so many."""
    config = where.model._module.config
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * where.layers
    window = getattr(config, "sliding_window", None) or width
    return [window if kind == "sliding_attention" else width for kind in kinds]


def _require_something_heard(windows: Sequence[int], edits: Sequence[Edit]) -> None:
    """As `attention_inputs` does, where no run can be made: by the windows of the config."""
    cuts: dict[tuple[int, int, int, int], set[int]] = {}
    for edit in edits:
        if edit.site == "score" and edit.position is not None and edit.key is not None:
            for row, (position, key) in enumerate(zip(edit.position.tolist(), edit.key.tolist(), strict=True)):
                for head in edit.heads if 0 <= position - key < windows[edit.layer] else ():
                    cuts.setdefault((edit.layer, head, row, position), set()).add(key)
    for (layer, head, _, position), keys in cuts.items():
        if len(keys) == min(position + 1, windows[layer]):
            raise ValueError(f"these edits leave head {head} of layer {layer} nothing to attend to at token {position}")


def _plain(where: Served, edits: Sequence[Edit]) -> list[dict[str, list[Any]]]:
    """Edits as plain data, by layer and site: heads, position, value and `keep`; of a score the key in its place."""
    found: list[dict[str, list[Any]]] = [{} for _ in range(where.layers)]
    for edit in edits:
        keep = edit.key if edit.site == "score" else None if edit.keep is None else edit.keep.detach()
        told = (list(edit.heads), edit.position, edit.value, keep)
        found[edit.layer].setdefault(edit.site, []).append(told)
    return found


def _edited() -> Callable[..., Tensor]:
    """A function that makes edits in activations (n, T, heads, size). Made here, so that its text is sent."""

    def edited(x: Any, todo: Any, rows: Any, keeps: Any) -> Any:
        for heads, position, value, keep in todo:
            x = x.clone()
            where = (slice(None), slice(None), heads) if position is None else (rows[:, None], position[:, None], heads)
            new = value.to(x)
            if keep is not None:
                keep = keep.to(x)
                if keeps is not None:
                    keep = keep.requires_grad_(True)
                    keeps.append(keep)
                new = keep[:, None] * x[where] + (1 - keep[:, None]) * new
            x[where] = new
        return x

    return edited


def _masked() -> Callable[..., Tensor]:
    """A function that gives an attention's mask (n, heads, T, T), its own or the causal one, with some scores cut."""

    def masked(named: Any, first: Any, cuts: Any, rows: Any, heads: Any) -> Any:
        import torch

        hidden, own = named["hidden_states"] if "hidden_states" in named else first[0], named.get("attention_mask")
        n, width = hidden.shape[:2]
        if own is None:
            own = torch.ones(1, 1, width, width, dtype=torch.bool).tril()
        if own.ndim != 4:
            raise NotImplementedError("scores can be edited where the model is served with sdpa or eager attention")
        lowest = torch.finfo(hidden.dtype).min
        if own.dtype == torch.bool:
            own = torch.zeros(own.shape, dtype=hidden.dtype, device=own.device).masked_fill_(~own, lowest)
        mask = own.to(hidden.device).expand(n, heads, width, width).clone()
        for some, position, _, key in cuts:
            mask[rows[:, None], some, position[:, None], key[:, None]] = lowest
        return mask

    return masked

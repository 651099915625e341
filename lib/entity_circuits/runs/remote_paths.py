"""Path patching on a model that runs elsewhere: all passes of a layer of senders as one session (see `remote`).

Both runs are recorded there and never sent back. Keys and values that query heads share are changed for one of them at
a time, and what that head says then is put into the last pass, as its z: no other head hears of the change.
"""

from collections.abc import Callable, Sequence
from typing import Any

import nnsight
import torch
from torch import Tensor

from ..arguments import one_of
from ..heads import Head, by_layer, require
from ..tasks.prompts import Prompts, require_answers
from ..tasks.rounds import Composition
from .finite import require_numbers
from .paths import check
from .remote import SITES, Served, inputs_of


def senders(
    where: Served,
    base: Prompts,
    source: Prompts,
    layer: int,
    numbers: Sequence[int],
    *,
    position: str,
    receivers: Sequence[Head] | None = None,
    composition: Composition | None = None,
    reach: str = "all",
) -> Tensor:
    """Path patching for one layer of senders, in one session: the log-probabilities of `path_patching.patched`.

    Each sender's z at `position` is replaced by its z in the source run, all other heads keep theirs (pass 1). Without
    receivers the answer is read there; with them, what they would then hear is put into an unedited run (pass 2).

    Args:
        where: the model.
        base: n prompts in which outputs are replaced.
        source: n prompts from which they come.
        layer: of the senders.
        numbers: the senders' head numbers.
        position: where, in each prompt.
        receivers: heads that hear them; those in no layer above are left out.
        composition: through what: "q", "k" or "v".
        reach: the one position at which changed keys and values are heard, or "all".

    Returns (senders, n) log-probabilities of the right answers. Nothing but tokens is sent, nothing else comes back.
    Raises `ValueError` before anything is sent. Paper: section 4.1.

        from entity_circuits import toy
        from entity_circuits.runs import remote, remote_paths

        where = remote.served(toy.subject().model, "local")
        print(remote_paths.senders(where, toy.prompts("apple"), toy.prompts("cup"), 0, [0, 1], position="last"))
    """
    one_of("composition", composition, Composition | None)
    check(where.as_subject(), base, source, position, receivers, composition, reach)
    require_answers(base)
    require([Head(layer, number) for number in numbers], where.layers, where.heads, "as a sender")
    above = {at: list(some) for at, some in by_layer(receivers or ()).items() if at > layer}
    if receivers is not None and not above:
        raise ValueError(f"no receiver is above layer {layer}: nothing of these senders reaches them")
    where.require(base, source)
    seen = None if reach == "all" else base.position(reach)
    model, heads, size, site = where.model, where.heads, where.head_size, SITES[composition or "q"]
    shared = 1 if composition in (None, "q") else heads // where.kv_heads
    here, there = base.position(position), source.position(position)
    rows, answers = torch.arange(len(base)), base.answer_ids
    given, asked, last, first = inputs_of(source), inputs_of(base), base.last, [0]
    ends = torch.unique(last)
    kept = ends.tolist()
    spots, senders_ = torch.searchsorted(ends, last), list(numbers)
    plan = [(at, [h for h in some if h % shared == which]) for at, some in above.items() for which in range(shared)]
    plan = [] if composition in (None, "q") else [(at, mine) for at, mine in plan if mine]
    logprob = _logprob()
    with model.session(remote=where.remote):
        found = []
        with torch.no_grad(), model.trace(**given, logits_to_keep=first):
            value = model.model.layers[layer].self_attn.o_proj.input.unflatten(-1, (heads, size))[rows, there]
        with torch.no_grad(), model.trace(**asked, logits_to_keep=first):
            held = []
            for block in model.model.layers:
                held.append(block.self_attn.o_proj.input.clone())
        for head in senders_:
            heard, moved = {}, {}
            with torch.no_grad(), model.trace(**asked, logits_to_keep=kept):  # pass 1
                for at, block in enumerate(model.model.layers):
                    if at in above:
                        x = getattr(block.self_attn, site).output.unflatten(-1, (-1, size))[rows, here]
                        heard[at] = x.repeat_interleave(heads // x.shape[1], dim=1)
                    z = held[at]
                    if at == layer:
                        z = z.unflatten(-1, (heads, size)).clone()
                        z[rows, here, head] = value[:, head]
                        z = z.flatten(-2)
                    block.self_attn.o_proj.input = z
                if not above:
                    found.append(logprob(model.output.logits[rows, spots], answers))
            for low, mine in plan:  # what heads say that hear changed keys or values, layer by layer upwards
                with torch.no_grad(), model.trace(**asked, logits_to_keep=first):
                    for at, block in enumerate(model.model.layers):
                        if at == low:
                            place = getattr(block.self_attn, site)
                            x = place.output.unflatten(-1, (-1, size)).clone()
                            for each in mine:
                                x[rows, here, each // shared] = heard[at][:, each]
                            place.output = x.flatten(-2)
                            new = block.self_attn.o_proj.input.unflatten(-1, (heads, size))
                            for each in mine:
                                moved[at, each] = (new if seen is None else new[rows, seen])[..., each, :].clone()
                        elif at < low and any(of == at for of, _ in moved):
                            z = block.self_attn.o_proj.input.unflatten(-1, (heads, size)).clone()
                            for (of, each), said in moved.items():
                                if of == at:
                                    z[(slice(None), slice(None), each) if seen is None else (rows, seen, each)] = said
                            block.self_attn.o_proj.input = z.flatten(-2)
            if above:
                with torch.no_grad(), model.trace(**asked, logits_to_keep=kept):  # pass 2
                    for at, block in enumerate(model.model.layers):
                        if at in above and not plan:
                            place = block.self_attn.q_proj
                            x = place.output.unflatten(-1, (heads, size)).clone()
                            for each in above[at]:
                                x[rows, here, each] = heard[at][:, each]
                            place.output = x.flatten(-2)
                        elif at in above:
                            z = block.self_attn.o_proj.input.unflatten(-1, (heads, size)).clone()
                            for each in above[at]:
                                spot = (slice(None), slice(None), each) if seen is None else (rows, seen, each)
                                z[spot] = moved[at, each]
                            block.self_attn.o_proj.input = z.flatten(-2)
                    found.append(logprob(model.output.logits[rows, spots], answers))
        found = nnsight.save(torch.stack(found).cpu())
    require_numbers(where.as_subject(), base, found)
    return found


def _logprob() -> Callable[..., Tensor]:
    """A function that gives (n,) log-probabilities of tokens, of logits (n, words), as `definition.run` takes them."""

    def logprob(logits: Any, tokens: Any) -> Any:
        import torch

        final = logits.to(torch.promote_types(logits.dtype, torch.float32)).cpu()
        return (final.gather(1, tokens[:, None]) - final.logsumexp(-1, keepdim=True)).clamp(max=0)[:, 0]

    return logprob

"""Path patching the way the paper's official code goes: PyTorch's own hooks on a model of transformers, whole passes.

A second opinion, for `peers.py` and for a test: written from the description of the method, it shares no line with the
library and imports nothing of it. It knows models whose parts are called as in Llama (Qwen2 and Mistral among them).
Unlike the official code it asks for the logits of the last tokens alone, which is cheaper, and lets every projection
compute its own output from an edited copy of its input (artefacts B2 and B19).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Hooks = Sequence[tuple[Any, Callable[..., Any]]]
"""Modules, each with what is called before it (with its input) or after it (with its output)."""


@dataclass(frozen=True)
class Batch:
    """n prompts: `ids` (n, T), padded on the right after `last` (n,), and the right next token `answer` (n,)."""

    ids: Tensor
    last: Tensor
    answer: Tensor


@dataclass(frozen=True)
class Run:
    """An unedited run: `logprob` (n,) of the answers, and z of all heads of each layer, (n, T, heads x size)."""

    batch: Batch
    logprob: Tensor
    z: list[Tensor]


def record(model: Any, batch: Batch) -> Run:
    """Run the prompts and keep every head's output."""
    z: list[Tensor] = []
    keep = [(block.self_attn.o_proj, lambda _, given: z.append(given[0])) for block in model.model.layers]
    return Run(batch, log_probability(model, batch, before=keep), z)


def log_probability(model: Any, batch: Batch, before: Hooks = (), after: Hooks = ()) -> Tensor:
    """(n,): log p(answer) after the last token, in one forward pass with these hooks, which are gone afterwards."""
    ends, rows = batch.last.unique(), torch.arange(len(batch.ids))
    mask = (torch.arange(batch.ids.shape[1]) <= batch.last[:, None]).long()
    with ExitStack() as hooks, torch.no_grad():
        for module, hook in before:
            hooks.callback(module.register_forward_pre_hook(hook).remove)
        for module, hook in after:
            hooks.callback(module.register_forward_hook(hook).remove)
        logits = model(input_ids=batch.ids, attention_mask=mask, use_cache=False, logits_to_keep=ends).logits
    found: Tensor = logits[rows, torch.searchsorted(ends, batch.last)].log_softmax(-1)[rows, batch.answer]
    return found


def change(
    model: Any,
    base: Run,
    source: Run,
    sender: tuple[int, int],
    here: Tensor,
    there: Tensor,
    receivers: Sequence[tuple[int, int]] = (),
    through: str = "q",
) -> Tensor:
    """(n,): what replacing one sender does to log p(answer) of the base prompts. Paper, section 4.1.

    Args:
        model: of transformers.
        base: the run in which z is replaced.
        source: the run from which it comes.
        sender: layer and number of the head.
        here: (n,) where it is replaced, and where the receivers are.
        there: (n,) where it is taken from in the source prompts.
        receivers: the heads that alone carry the change on; none: the answer of the first pass is read.
        through: what they receive through, "q", "k" or "v".

    Pass 1: all heads are held at their own z from `here` on, except the sender, and the receivers' inputs are read.
    Pass 2, where there are receivers: nothing but these inputs is put in place. Raises `ValueError` for keys or values
    that several heads share, of which one head's cannot be replaced.
    """
    if receivers and through != "q" and model.config.num_key_value_heads != model.config.num_attention_heads:
        raise ValueError("keys and values of this model are shared by several heads: only queries are a head's own")
    frozen = torch.arange(base.batch.ids.shape[1]) >= here[:, None]

    def held(layer: int) -> Callable[..., tuple[Tensor]]:
        def hook(_: Any, given: tuple[Tensor]) -> tuple[Tensor]:
            z = torch.where(frozen[..., None], base.z[layer], given[0])
            if layer == sender[0]:
                columns = _columns(model, sender[1])
                z[_rows(here), here, columns] = source.z[layer][_rows(here), there, columns]
            return (z,)

        return hook

    inputs: dict[int, Tensor] = {}

    def kept(layer: int) -> Callable[..., None]:
        def hook(_: Any, given: tuple[Tensor], output: Tensor) -> None:
            inputs[layer] = output[_rows(here), here]

        return hook

    blocks = model.model.layers
    before = [(block.self_attn.o_proj, held(layer)) for layer, block in enumerate(blocks)]
    layers = {layer for layer, _ in receivers}
    after = [(getattr(blocks[layer].self_attn, f"{through}_proj"), kept(layer)) for layer in layers]
    first = log_probability(model, base.batch, before, after)
    return (received(model, base, here, receivers, through, inputs) if receivers else first) - base.logprob


def received(
    model: Any,
    base: Run,
    here: Tensor,
    receivers: Sequence[tuple[int, int]],
    through: str,
    inputs: Mapping[int, Tensor],
) -> Tensor:
    """(n,): log p(answer) where the receivers' inputs at `here` are replaced, and all else follows: pass 2.

    `inputs` are (n, heads x size) for each layer of a receiver, of which only the receivers' own part is used.
    """

    def put(layer: int) -> Callable[..., Tensor]:
        def hook(_: Any, given: tuple[Tensor], output: Tensor) -> Tensor:
            output = output.clone()
            for columns in (_columns(model, head) for at, head in receivers if at == layer):
                output[_rows(here), here, columns] = inputs[layer][:, columns]
            return output

        return hook

    after = [(getattr(model.model.layers[layer].self_attn, f"{through}_proj"), put(layer)) for layer in inputs]
    return log_probability(model, base.batch, after=after)


def direct_inputs(
    model: Any,
    base: Run,
    source: Run,
    sender: tuple[int, int],
    layer: int,
    here: Tensor,
    there: Tensor,
    through: str = "q",
) -> Tensor:
    """(n, heads x size): the q, k or v of a later layer at `here` if what the sender writes were changed for it alone.

    The change is added to the residual stream that this layer reads, and goes through its norm: nothing in between sees
    it, no MLP either. That is the direct edge between two heads, and less than the path of path patching. Of keys and
    values there are fewer than heads where several heads share them.
    """
    stream: list[Tensor] = []
    block, columns = model.model.layers[layer], _columns(model, sender[1])
    keep = [(block.input_layernorm, lambda _, given: stream.append(given[0][_rows(here), here]))]
    log_probability(model, base.batch, before=keep)
    z = source.z[sender[0]][_rows(here), there] - base.z[sender[0]][_rows(here), here]
    with torch.no_grad():
        written = z[:, columns] @ model.model.layers[sender[0]].self_attn.o_proj.weight[:, columns].T
        project = getattr(block.self_attn, f"{through}_proj")
        found: Tensor = project(block.input_layernorm(stream[0] + written))
    return found


def _columns(model: Any, head: int) -> slice:
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return slice(head * size, (head + 1) * size)


def _rows(here: Tensor) -> Tensor:
    return torch.arange(len(here))

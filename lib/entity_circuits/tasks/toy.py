"""A three-layer model whose every number can be computed by hand: path patching with pencil and paper.

Five words, one-hot: two objects, a label, the same label asked for again, and the end. Nothing is normalised or rotated
and the MLPs add zero. Head 0 of each layer hands the object on: from its token to the label, from there to the asked
label, from there to the end, where the word is read off. Head 1 of the last layer also looks at the object directly.

    position   0: object    1: label    2: asked    3: end
    layer 0        o ----------> o                              attention of the reader is all on one token
    layer 1                      o ----------> o
    layer 2        o ------------------------- o ----------> 2 x + 1 x

So the right word has the logit 2 + 1 = 3 and the other four words have 0.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from ..models import unchanged
from ..models.subject import Subject
from .boxes import Prompts, Template, World

WORDS = ("apple", "cup", "F", "F?", "the")
RELAY, DIRECT = 2.0, 1.0
"""What the relay of three heads and the direct head add to the logit of the object."""

SIZE, WIDTH = 8, 16
"""Numbers of a head's query, key, value and output; channels of the stream."""

_HEADS = 2
_APPLE, _CUP, _LABEL, _ASKED, _END = range(5)  # channels 0 to 4 hold the word
_READ_OFF = (9, 10)

STAGES = (
    (_LABEL, (_APPLE, _CUP), (_APPLE, _CUP), (5, 6)),
    (_ASKED, (_LABEL,), (5, 6), (7, 8)),
    (_END, (_ASKED,), (7, 8), _READ_OFF),
)
"""The relay from below: the word at which each stage looks, those it looks at, the channels it copies, and to which."""

AT_ONCE = (_END, (_APPLE, _CUP), (_APPLE, _CUP), _READ_OFF)
"""The same of a head that looks at the object directly."""

_LOOK = 60.0  # a score so large that the rest of the softmax is 1e-26


class _Unrotated(nn.Module):
    """Positions play no part: the rotation by no angle."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones(*position_ids.shape, SIZE, dtype=x.dtype, device=x.device)
        return one, torch.zeros_like(one)


def subject() -> Subject:
    """The toy as a Subject in float64: 3 layers of 2 heads, 5 words.

    It needs no download and has no tokenizer.

        from entity_circuits import runs, toy

        print(runs.run(toy.subject(), toy.prompts("apple")).logprob.exp())  # e^3 / (e^3 + 4) = 0.834
    """
    model = blank(3, _HEADS)
    for layer, (reader, source, read, write) in enumerate(STAGES):
        copying(model, layer, 0, reader, source, read, write, RELAY if layer == 2 else 1.0)
    copying(model, 2, 1, *AT_ONCE, DIRECT)
    return Subject("toy", model, None, 3, _HEADS, _HEADS, SIZE, "toy", unchanged.seen(model))


def blank(layers: int, heads: int) -> Any:
    """A model of the toy's kind that knows the words and reads the answer off its channel, and whose heads do nothing.

    `heads` of a layer are 1, 2, 4, 8 or 16: the form of the model wants a divisor of `WIDTH`.

    For example:

        from entity_circuits import toy

        print(toy.blank(layers=4, heads=2).model.layers[0].self_attn.o_proj.weight.abs().max())
    """
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=SIZE,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model: Any = LlamaForCausalLM(config).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    model.model.embed_tokens.weight[:, : len(WORDS)] = torch.eye(len(WORDS), dtype=torch.float64)
    model.model.rotary_emb = _Unrotated()
    model.model.norm = nn.Identity()
    for block in model.model.layers:
        block.input_layernorm, block.post_attention_layernorm = nn.Identity(), nn.Identity()
    for word, channel in zip((_APPLE, _CUP), _READ_OFF, strict=True):
        model.lm_head.weight[word, channel] = 1.0
    return model.eval()


def copying(
    model: Any,
    layer: int,
    head: int,
    reader: int,
    source: tuple[int, ...],
    read: tuple[int, int],
    write: tuple[int, int],
    by: float,
) -> None:
    """Make a head of a blank model look, at one word, at some others, and copy two channels of these to two more.

    Args:
        model: of `blank`.
        layer: of the head.
        head: its number.
        reader: the word at which it looks.
        source: the words that it looks at.
        read: the channels that it copies.
        write: the channels that it copies to.
        by: what it multiplies them by.

    For example:

        from entity_circuits import toy

        model = toy.blank(layers=3, heads=2)
        toy.copying(model, 2, 1, *toy.AT_ONCE, by=1.0)
        print(model.model.layers[2].self_attn.o_proj.weight.nonzero())
    """
    attention, first = model.model.layers[layer].self_attn, head * SIZE
    attention.q_proj.weight[first, reader] = _LOOK * SIZE**0.5
    attention.k_proj.weight[first, list(source)] = 1.0
    for slot, (channel, target) in enumerate(zip(read, write, strict=True)):
        attention.v_proj.weight[first + slot, channel] = 1.0
        attention.o_proj.weight[target, first + slot] = by


def prompts(*objects: str) -> Prompts:
    """One prompt of four tokens for each object named, "apple" or "cup": object, label, asked label, end.

    For example:

        from entity_circuits import toy

        print(toy.prompts("apple", "cup").input_ids)
    """
    ids = torch.tensor([[WORDS.index(word), 2, 3, 4] for word in objects])
    n = len(objects)
    return Prompts(
        worlds=tuple(World((word,), ("F",)) for word in objects),
        queries=(0,) * n,
        asked=("F",) * n,
        templates=(Template("{object} {label}", "{label}? the", end=" "),) * n,
        contexts=torch.arange(n),
        input_ids=ids,
        answer_ids=ids[:, 0],
        object_ids=ids[:, :1],
        label_ids=((2,),) * n,
        last=torch.full((n,), 3),
        query=torch.full((n,), 2),
        prev=torch.full((n,), 1),
        object=torch.full((n,), 0),
    )

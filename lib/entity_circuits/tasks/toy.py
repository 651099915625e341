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

_HEADS, _SIZE, _WIDTH = 2, 8, 16
_LOOK = 60.0  # a score so large that the rest of the softmax is 1e-26


class _Unrotated(nn.Module):
    """Positions play no part: the rotation by no angle."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones(*position_ids.shape, _SIZE, dtype=x.dtype, device=x.device)
        return one, torch.zeros_like(one)


def subject() -> Subject:
    """The toy as a Subject in float64: 3 layers of 2 heads, 5 words.

    It needs no download and has no tokenizer.

        from entity_circuits import runs, toy

        print(runs.run(toy.subject(), toy.prompts("apple")).logprob.exp())  # e^3 / (e^3 + 4) = 0.834
    """
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=_WIDTH,
        intermediate_size=4,
        num_hidden_layers=3,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS,
        head_dim=_SIZE,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model: Any = LlamaForCausalLM(config).double().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    model.model.embed_tokens.weight[:, : len(WORDS)] = torch.eye(len(WORDS), dtype=torch.float64)
    model.model.rotary_emb = _Unrotated()
    model.model.norm = nn.Identity()
    # Channels 0-4 hold the word; each layer writes the two objects into two channels of its own.
    apple, cup, label, asked, end = range(5)
    stages = [((apple, cup), (5, 6)), ((5, 6), (7, 8)), ((7, 8), (9, 10))]
    readers, sources = (label, asked, end), ((apple, cup), (label,), (asked,))
    for layer, ((read, write), reader, source) in enumerate(zip(stages, readers, sources, strict=True)):
        block = model.model.layers[layer]
        block.input_layernorm, block.post_attention_layernorm = nn.Identity(), nn.Identity()
        _head(block.self_attn, 0, reader, source, read, write, RELAY if layer == 2 else 1.0)
    _head(model.model.layers[2].self_attn, 1, end, (apple, cup), (apple, cup), (9, 10), DIRECT)
    model.lm_head.weight[apple, 9] = model.lm_head.weight[cup, 10] = 1.0
    return Subject("toy", model, None, 3, _HEADS, _HEADS, _SIZE, "toy", unchanged.seen(model))


def _head(
    attention: Any,
    head: int,
    reader: int,
    source: tuple[int, ...],
    read: tuple[int, int],
    write: tuple[int, int],
    by: float,
) -> None:
    """At the word `reader`, look at the words in `source` and copy two channels to two others, times `by`."""
    first = head * _SIZE
    attention.q_proj.weight[first, reader] = _LOOK * _SIZE**0.5
    attention.k_proj.weight[first, list(source)] = 1.0
    for slot, (channel, target) in enumerate(zip(read, write, strict=True)):
        attention.v_proj.weight[first + slot, channel] = 1.0
        attention.o_proj.weight[target, first + slot] = by


def prompts(*objects: str) -> Prompts:
    """One prompt of four tokens for each object named, "apple" or "cup": object, label, asked label, end."""
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
        last=torch.full((n,), 3),
        query=torch.full((n,), 2),
        prev=torch.full((n,), 1),
        object=torch.full((n,), 0),
    )

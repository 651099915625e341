"""Heads one by one, outside the rounds of path patching: rows for the map in which one can be chosen."""

from collections.abc import Sequence

import pandas as pd
import torch
from entity_circuits import statistics
from entity_circuits.heads import Head
from entity_circuits.runs import replay
from entity_circuits.runs.recording import Recording
from torch import Tensor


def rows(
    heads: Sequence[Head],
    before: Tensor,
    after: Tensor,
    contexts: Tensor,
    looks: Recording,
    position: Tensor,
    *,
    prompt: int = 0,
    gain: bool = False,
) -> pd.DataFrame:
    """One row a head: how the right answer's probability changes with it, on all prompts and on each; where it looks.

    Args:
        heads: those that were lost, or patched, one at a time.
        before: log-probabilities of the right answers, (n,) or (heads, n).
        after: the same once the head is lost or patched, (heads, n).
        contexts: (n,), which prompts belong together.
        looks: the recording in which the attention is read.
        position: of its prompts (m,), from where the heads look.
        prompt: which of its prompts is shown.
        gain: whether the first rank is that of the largest gain; else it is that of the largest loss.

    The columns that `exploring.explorer` asks for. `score` is the ratio of mean probabilities minus 1, with `low` and
    `high` over contexts; `effects` the same ratio of each prompt.

        found = one_by_one.rows(heads, before, after, p.contexts, recording, recording.prompts.last)
    """
    one, told = looks.select(torch.tensor([prompt])), []
    here, end = position[[prompt]], int(looks.prompts.last[prompt]) + 1
    first, second = before.double().expand(after.shape).exp(), after.double().exp()
    for head, old, new in zip(heads, first, second, strict=True):
        more = statistics.ratio(new, old, contexts)
        score = {"score": more.value - 1, "low": more.low - 1, "high": more.high - 1, "n": more.n}
        attention = replay.attention(one, head, here)[0, :end].tolist()
        effects = (new / old - 1).tolist()
        about = {"head": str(head), "layer": head.layer, "index": head.head}
        told.append({**about, **score, "attention": attention, "effects": effects})
    table = pd.DataFrame(told)
    return table.assign(rank=table["score"].rank(ascending=not gain, method="first").astype(int))

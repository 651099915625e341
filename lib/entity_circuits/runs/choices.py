"""The choice among a few answers: is the right one more likely than each of the others, whatever else could be said?

Top-1 over the whole vocabulary asks two things at once: that the model knows which of the answers it is, and that it
says one of them at all. A training can change the second alone, for example by teaching that one answers with numbers.
The choice among the prompts' own answers asks the first thing only; guessing is right once in as many as there are.
"""

import torch
from torch import Tensor

from ..tasks.prompts import Prompts, require_answers


def given(prompts: Prompts) -> bool:
    """Whether each of these prompts has choices and its right answer is among them.

    For example:

        from entity_circuits import toy
        from entity_circuits.runs import choices

        print(choices.given(toy.prompts("apple")))  # True
    """
    right = prompts.answer_ids[:, None]
    return prompts.choice_ids is not None and bool(((prompts.choice_ids == right) & (right >= 0)).any(1).all())


def require(prompts: Prompts) -> Tensor:
    """(n, k) int64: the choices of the prompts. Raises `ValueError` unless the right answer is among those of each.

    For example:

        from entity_circuits import toy
        from entity_circuits.runs import choices

        print(choices.require(toy.prompts("apple", "cup")).shape)
    """
    require_answers(prompts)
    if prompts.choice_ids is None:
        raise ValueError("a choice needs the answers to choose among: from_texts(..., choices=[...])")
    if not given(prompts):
        raise ValueError("the right answer is not among the choices of every prompt")
    return prompts.choice_ids


def right(values: Tensor, prompts: Prompts) -> Tensor:
    """(..., n) bool: whether the right answer has a strictly higher value than every other choice.

    `values` (..., n, k) are logits or log-probabilities of the prompts' k choices. A tie is not right: which of the two
    an index puts first would be chance. Raises `ValueError` as `require` does.

        import torch
        from entity_circuits import toy
        from entity_circuits.runs import choices

        print(choices.right(torch.tensor([[0.3]]), toy.prompts("apple")))  # the only choice there is
    """
    itself = require(prompts) == prompts.answer_ids[:, None]
    itself = itself.to(values.device)
    best, rival = (values.masked_fill(gone, -torch.inf).amax(-1) for gone in (~itself, itself))
    return best > rival

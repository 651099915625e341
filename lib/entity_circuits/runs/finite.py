"""Whether what a model gives out after each prompt are numbers: NaN and infinity are no answers.

They would count as some all the same: NaN is above nothing and below nothing, so that token 0 would be the most likely
one and every rank the best.
"""

import torch
from torch import Tensor

from ..models.subject import Subject
from ..tasks.prompts import Prompts

SHOWN = 80
"""How many characters of a prompt, from its end, tell which one it is."""


def require_numbers(subject: Subject, prompts: Prompts | None, seen: Tensor) -> None:
    """Raise `ValueError`, with the prompt, if what is read after one is NaN or infinite.

    Args:
        subject: the model.
        prompts: the n prompts, or None where they are not at hand.
        seen: (..., n): the log-sum-exp of the logits after each prompt, which is as they are where one of them is NaN
            or infinity. That of logits of which some are minus infinity (words that cannot be said) is a number.

    For example:

        import torch
        from entity_circuits import toy
        from entity_circuits.runs import finite

        try:
            finite.require_numbers(toy.subject(), toy.prompts("apple"), torch.tensor([torch.nan]))
        except ValueError as error:
            print(error)
    """
    broken = ~torch.isfinite(seen.detach())
    if not bool(broken.any()):
        return
    after = "a prompt"
    if prompts is not None:
        row = int(torch.nonzero(broken.reshape(-1, len(prompts)).any(0))[0])
        ids = prompts.input_ids[row, : int(prompts.last[row]) + 1].tolist()
        after = f"the prompt {(ids if subject.tokenizer is None else subject.tokenizer.decode(ids)[-SHOWN:])!r}"
    raise ValueError(
        f"{subject.name} gives logits that are NaN or infinite after {after}. Look for such numbers in its weights (an "
        "embedding row of one word, say) and for too large ones in the values of edits; if the model is in float16, "
        "whose numbers end at 65,504, load it in bfloat16 or float32."
    )

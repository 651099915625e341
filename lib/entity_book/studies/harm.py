"""Did a fine-tuned model gain because heads that do harm became weaker? Their outputs exchanged between both models.

That a head harms less in the fine-tuned model does not say so: it may only have less harm to pass on. But if the gain
*is* that, then with what these heads put out in the base model it is gone; and more of it than with random heads.
"""

from collections.abc import Mapping, Sequence

from entity_circuits.methods import cmap
from entity_circuits.methods.cmap import Condition, Into, Patched
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.tasks.prompts import Prompts

from .nodes import Measured

NAMES: Mapping[Into, str] = {"tuned": "base outputs into the tuned model", "base": "tuned outputs into the base model"}
"""What the two exchanges are called, by the model that is patched."""


def exchanged(
    base: Subject, tuned: Subject, heads: Sequence[str], prompts: Prompts, draws: int = 40, store: Store | None = None
) -> Patched:
    """The answers of each model with the other's outputs of these heads at `last`, and of `draws` random ones instead.

    Random heads are as many in each of their layers, none of them among `heads`.

        found = harm.exchanged(subject, tuned, ["L15H10", "L15H6"], prompts)
    """
    asked = [Condition(name, {"last": heads}, into=into) for into, name in NAMES.items()]  # type: ignore[dict-item]
    random = [one for part in asked for one in cmap.random_heads(base, part, draws, without=heads)]
    return cmap.sweep(base, tuned, [*asked, *random], prompts, store=store)


def most_gained(base: Measured, tuned: Mapping[str, Measured]) -> str:
    """The fine-tuned model that makes the right choice most often, if it does so more often than the base; or "".

    print(harm.most_gained(node_answers.load("qwen2.5-coder-0.5b"), node_answers.tuned("qwen2.5-coder-0.5b")))
    """
    right = {name: float(one.rows(circuit="whole").right.double().mean()) for name, one in tuned.items()}
    best = max(right, key=right.__getitem__, default="")
    return best if best and right[best] > float(base.rows(circuit="whole").right.double().mean()) else ""

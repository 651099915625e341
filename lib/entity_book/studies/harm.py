"""Did a fine-tuned model gain because heads that do harm became weaker? Their outputs exchanged between both models.

That a head harms less in the fine-tuned model does not say so: it may only have less harm to pass on. But if the gain
*is* that, then with what these heads put out in the base model it is gone; and more of it than with random heads.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from entity_circuits.heads import of
from entity_circuits.methods import cmap
from entity_circuits.methods.cmap import Condition, Into, Patched
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.tasks.prompts import Prompts

from . import improvement, random_draws
from .nodes import Measured

NAMES: Mapping[Into, str] = {"tuned": "base outputs into the tuned model", "base": "tuned outputs into the base model"}
"""What the two exchanges are called, by the model that is patched."""


def exchanged(
    base: Subject, tuned: Subject, heads: Sequence[str], prompts: Prompts, draws: int = 20, store: Store | None = None
) -> Patched:
    """The answers of each model with the other's outputs of these heads at `last`; and of the fine-tuned model, with
    the base model's outputs of `draws` random ones instead: as many in each layer, none of them among `heads`.

        found = harm.exchanged(subject, tuned, ["L15H10", "L15H6"], prompts)
    """
    back, forth = (Condition(name, {"last": of(heads)}, into=into) for into, name in NAMES.items())
    random = cmap.random_heads(base, back, draws, without=heads)
    return cmap.sweep(base, tuned, [back, forth, *random], prompts, store=store)


def shares(found: Patched) -> pd.DataFrame:
    """One row an exchange: its share of the gap in the object choice with bounds, and what `random_draws.against` says
    of the draws, where there are any.

        print(harm.shares(harm.exchanged(subject, tuned, ["L15H10", "L15H6"], prompts)))
    """
    drawn = random_draws.against(improvement.under(found, [one for one in found.conditions if one.into == "tuned"]))
    own = random_draws.by(found, "chosen").table()
    own = own[own["draw"].isna()][["condition", "heads", "share", "share_low", "share_high", "n"]]
    return own.merge(drawn[["condition", "random", "random_low", "random_high", "draws", "p"]], how="left")


def most_gained(base: Measured, tuned: Mapping[str, Measured]) -> str:
    """The fine-tuned model that makes the right choice most often, if it does so more often than the base; or "".

    print(harm.most_gained(node_answers.load("qwen2.5-coder-0.5b"), node_answers.tuned("qwen2.5-coder-0.5b")))
    """
    right = {name: float(one.rows(circuit="whole").right.double().mean()) for name, one in tuned.items()}
    best = max(right, key=right.__getitem__, default="")
    return best if best and right[best] > float(base.rows(circuit="whole").right.double().mean()) else ""

"""Did a fine-tuned model gain because heads that do harm became weaker? Their outputs exchanged between both models.

That a head harms less in the fine-tuned model does not say so: it may only have less harm to pass on. But if the gain
*is* that, then with what these heads put out in the base model it is gone; and more of it than with random heads.
`data/exchange/README.md` says what is kept, and how it is made.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from entity_circuits import models, places
from entity_circuits.heads import Head
from entity_circuits.heads import of as named
from entity_circuits.methods import cmap
from entity_circuits.methods.cmap import Condition, Into, Patched
from entity_circuits.models.registry import named as pair
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.tasks import boxes
from entity_circuits.tasks.prompts import Prompts

from . import improvement, node_answers, node_tables, random_draws
from .nodes import Measured

NAMES: Mapping[Into, str] = {"tuned": "base outputs into the tuned model", "base": "tuned outputs into the base model"}
"""What the two exchanges are called, by the model that is patched."""


def exchanged(
    base: Subject,
    tuned: Subject,
    heads: Sequence[Head | str],
    prompts: Prompts,
    draws: int = 20,
    store: Store | None = None,
) -> Patched:
    """The answers of each model with the other's outputs of these heads at `last`; and of the fine-tuned model, with
    the base model's outputs of `draws` random ones instead: as many in each layer, none of them among `heads`.

        found = harm.exchanged(subject, tuned, ["L15H10", "L15H6"], prompts)
    """
    back, forth = (Condition(name, {"last": named(heads)}, into=into) for into, name in NAMES.items())
    random = cmap.random_heads(base, back, draws, without=heads)
    # small batches, as many conditions take minutes each, and a finished batch is not computed again
    return cmap.sweep(base, tuned, [back, forth, *random], prompts, store=store, batch=14)


def measure(name: str, contexts: int = 20, draws: int = 100, *, store: Store | None = None) -> Patched:
    """`exchanged` for a fine-tuned model of the registry and the heads that surely harm in its base.

    Which do is read from what is kept of the base (`node_answers`). Raises `ValueError` for a name of no pair, and
    `FileNotFoundError` for a base that was not measured, before anything is loaded.

        found = harm.measure("code-binding", contexts=2, draws=3)
    """
    heads = harmful(node_answers.load(pair(name)[0]))
    base, tuned = models.load_pair(name)
    return exchanged(base, tuned, heads, _prompts(base, contexts), draws, store=store)


def harmful(measured: Measured) -> tuple[Head, ...]:
    """The heads that surely harm in a model, by what was measured of it.

    print(harm.harmful(node_answers.load("qwen2.5-coder-0.5b")))
    """
    table = node_tables.harmful(measured, {})
    return named(table.loc[table["harms"], "head"]) if len(table) else ()


def of(
    base: Subject, tuned: Subject, heads: Sequence[Head | str], contexts: int = 20, *, store: Store | None = None
) -> Patched:
    """What is kept of these very models and heads; else it is measured now, with 20 random draws.

    print(harm.shares(harm.of(base, tuned, ["L15H10", "L15H6"], contexts=2)))
    """
    found = improvement.kept(base, tuned, folder())
    if found is not None and set(found.conditions[0].heads["last"]) == set(named(heads)):
        return found
    return exchanged(base, tuned, heads, _prompts(base, contexts), store=store)


def again(base: Subject, tuned: Subject, found: Patched, contexts: int, *, store: Store | None = None) -> pd.DataFrame:
    """Both exchanges run again on the first contexts: how many answers are those that are kept (`same` of `n`).

    print(harm.again(base, tuned, found, contexts=2)[["condition", "same", "n"]])
    """
    both = [one for one in found.conditions if one.draw is None]
    fresh = cmap.sweep(base, tuned, both, _prompts(base, contexts), store=store, batch=14)
    return improvement.agreement(found, fresh)


def folder() -> Path:
    """Where the answers are kept, one file a fine-tuned model."""
    return places.ROOT / "data" / "exchange"


def _prompts(base: Subject, contexts: int) -> Prompts:
    return boxes.prompts(base, 7 * contexts, split="evaluation")


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

"""How much of what a patched model answers is an answer to the question at all: an object of one of the two prompts.

A patch that only destroys makes the model say something else; one that brings another object in keeps the form of the
answer. So beside how often the target is said stand the share of answers that are objects of either prompt, and how
often the target is the most likely of the candidates alone, whatever is said.
"""

from collections.abc import Sequence

import pandas as pd
from entity_circuits import statistics
from entity_circuits.heads import LETTERS, POSITIONS
from entity_circuits.tasks.desiderata import Hypothesis

from .semantics import Study, others

CARRIED: dict[str, Hypothesis] = {"A": "object", "B": "position", "C": "position", "D": "position"}
"""What the paper says of each group: the word that is taken as the target."""


def among(studies: Sequence[Study], draws: int = 2) -> pd.DataFrame:
    """One row a model, group and set of heads: no patch, the whole group, other heads of the same layers (`draws`).

    Columns: `model`, `group` (its letter), `patched`, `target` (`CARRIED`), `said` (the target is the answer), `chosen`
    (it is the most likely of the candidates) and `objects` (the answer is an object of either prompt), each with `_low`
    and `_high`, 95% over contexts; `n` pairs. The patches are those of `semantics.answers`, taken from the store.

        print(patched.among([one])[["group", "patched", "said", "chosen", "objects"]])
    """
    rows = []
    for one in studies:
        for group, heads in one.groups.items():
            letter, position = LETTERS[group], POSITIONS[group]
            sets = {"group": heads, **others(one.subject, heads, draws=draws, seed=one.seed)}
            found = one.patch(sets, position, CARRIED[letter], "few" if position == "prev" else "test")
            found["patched"] = found["patched"].str.replace(r"^(other heads) \d+$", r"\1", regex=True)
            for name, part in found.groupby("patched", sort=False):
                row = {"model": one.name, "group": letter, "patched": name, "target": CARRIED[letter]}
                for column, values in (("said", "hit"), ("chosen", "chosen"), ("objects", "among")):
                    each = part.astype({values: float}).groupby("prompt")
                    mean, contexts = each[values].mean(), each["context"].first()
                    row |= statistics.estimate(mean.to_numpy(), contexts.to_numpy()).cells(column)
                rows.append({**row, "n": part["prompt"].nunique()})
    return pd.DataFrame(rows)

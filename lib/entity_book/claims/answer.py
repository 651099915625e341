"""The answer of the whole book in three sentences, whatever the findings say: for the first screen and the poster."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from .claims import sentence
from .comparisons import Verdict
from .verdicts import Found, kept

QUESTION = "Does fine-tuning enhance existing mechanisms?"
"""What the book asks: its title, as a question."""

_CENTRAL: dict[Verdict, str] = {
    "replicates": "Yes, in this model",
    "partly": "In part, in this model",
    "does not": "Not in this model",
    "open": "This model leaves it open",
    "not tested here": "Not tested here",
}
_GAIN: dict[Verdict, str] = {
    "replicates": "The gain does enter where the paper says",
    "partly": "The gain enters in part where the paper says",
    "does not": "The gain does not enter where the paper says",
    "open": "Whether the gain enters where the paper says stays open",
    "not tested here": "Where a gain enters was not tested here",
}


def sentences(judged: pd.DataFrame, found: Found) -> tuple[str, str, str]:
    """The verdict on the paper's central claim, that on where the gain enters, and how many claims replicate.

    `judged` is `claims.table(found)`. Only the verdicts and numbers of these decide what is said.

        print(" ".join(answer.sentences(claims.table(found), found)))
    """
    rows = judged.set_index("name").to_dict("index")
    return _central(rows["enhanced"], found), _gain(rows["A and B"], found), sentence(judged)


def short(judged: pd.DataFrame) -> str:
    """The verdict on the central claim in a few words, such as "Not in this model"."""
    return _CENTRAL[judged.set_index("name")["verdict"]["enhanced"]]


def _central(row: Mapping[Hashable, Any], found: Found) -> str:
    begins = _CENTRAL[row["verdict"]]
    if row["verdict"] == "not tested here":
        return f"{begins}: {row['because']}."
    one, before = found["circuit/over-base"], found["circuit/in-base"]
    how = "more" if float(one.value) > 0 else "less"
    gained, whole = (found[f"circuit/{key}"].brief for key in ("gained", "whole-gained"))
    return (
        f"{begins}: with nothing but the base model's circuit, enlarged{kept(found)}, the fine-tuned model is right "
        f"{how} often than the whole base model (accuracy {one.brief}; the base model with that circuit "
        f"{before.brief}), and of the {whole} that training brought, the circuit itself gained {gained}."
    )


def _gain(row: Mapping[Hashable, Any], found: Found) -> str:
    begins = _GAIN[row["verdict"]]
    if row["verdict"] == "not tested here":
        return f"{begins}: {row['because']}."
    gap, a, b = (found[key].brief for key in ("cmap/gap", "draws/A_without_B", "draws/B"))
    return (
        f"{begins}: of what the fine-tuned model does better (accuracy {gap}), the outputs of those heads of group A "
        f"that are none of B, the groups enlarged, bring the share {a} into the base model, B's {b} (object choice)."
    )

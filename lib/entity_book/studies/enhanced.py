"""The base model's circuit inside the fine-tuned model: did the mechanism get better? Paper: section 4, Table 1."""

from collections.abc import Mapping, Sequence

import pandas as pd
from entity_circuits import statistics
from entity_circuits.heads import Circuit
from entity_circuits.methods import ablation, chosen
from entity_circuits.methods.ablation import Answers
from entity_circuits.methods.kept import Kept
from entity_circuits.results import Store
from torch import Tensor

from .evaluation import Setting, kept_too

COMPARED = {
    "over-base": "the circuit in the fine-tuned model, minus the whole base model",
    "in-base": "the circuit in the base model, minus the whole base model",
    "gained": "the circuit in the fine-tuned model, minus the same in the base",
    "whole-gained": "the whole fine-tuned model, minus the whole base model",
    "beside": "what the whole model gained, minus what the circuit gained",
}
"""What is compared with what, by the name of its finding."""


def compared(
    base: Setting,
    tuned: Setting,
    circuits: Mapping[str, Circuit | Kept],
    name: str,
    *,
    also: Kept | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """What one of these circuits answers in two models, each with its own means, against both whole models.

    A row for each of `COMPARED`, by its name: the paired difference of right answers (`value`, `low`, `high`, `n`) and,
    as `choice`, that of right choices among the objects. All circuits are asked together, as `evaluation.table` asks
    them, so that with a store its answers serve.

    Args:
        base: the model in which the circuit was found.
        tuned: the fine-tuned model, on the same prompts.
        circuits: all those of the table.
        name: the one in question.
        also: heads that are kept with each of them, at further places.
        store: where answers are kept.

    For example:

        print(enhanced.compared(first, tuned, {"found": circuit}, "found"))
    """
    at, some = list(circuits).index(name), kept_too(circuits.values(), also)
    inside = [
        ablation.circuit_accuracy(one.subject, some, one.prompts, one.means, store=store, name=one.name).rows([at])
        for one in (base, tuned)
    ]
    right = _pairs([one.correct[0].double() for one in (*inside, base.full, tuned.full)])
    chosen = _pairs([_chosen(one) for one in (*inside, base.full, tuned.full)])
    rows = {}
    for key in COMPARED:
        value, choice = (statistics.difference(*scores[key], base.full.contexts) for scores in (right, chosen))
        cells = {"value": value.value, "low": value.low, "high": value.high, **choice.cells("choice"), "n": value.n}
        rows[key] = {"compared": COMPARED[key], **cells}
    return pd.DataFrame.from_dict(rows, orient="index")


def agreeing(settings: Sequence[Setting], circuit: Circuit | Kept) -> pd.DataFrame:
    """Whether a circuit chooses, prompt by prompt, the very object that its whole model chooses: a row a model.

    `agreement`, `choice` of the circuit and `whole_choice`, each with `_low` and `_high`; `independent`, how often two
    that choose right so often, and else any wrong object, would agree if they had nothing to do with each other; `n`.

        print(enhanced.agreeing([first, tuned], circuit)[["model", "agreement", "independent"]])
    """
    rows = []
    for one in settings:
        whole = chosen.whole(one.subject, one.prompts)
        inside = chosen.circuits(one.subject, [ablation.kept(circuit)], one.prompts, one.means)
        told = {"agreement": inside.agreement(whole)[0], "choice": inside.right[0], "whole_choice": whole.right[0]}
        cells = {name: statistics.estimate(values, one.prompts.contexts) for name, values in told.items()}
        right, often, wrong = cells["choice"].value, cells["whole_choice"].value, one.prompts.boxes - 1
        row: dict[str, object] = {"model": one.name, "independent": right * often + (1 - right) * (1 - often) / wrong}
        for name, cell in cells.items():
            row |= cell.cells(name)
        rows.append(row | {"n": cells["agreement"].n})
    return pd.DataFrame(rows)


def words(rows: pd.DataFrame) -> dict[str, str]:
    """The differences of `compared` as a text quotes them: `over_base`, `in_base`, `gained`, `whole_gained`, `beside`.

    print(enhanced.words(enhanced.compared(first, tuned, {"found": circuit}, "found"))["gained"])
    """
    told = rows.to_dict("index")
    said = {key: statistics.spoken(row["value"], row["low"], row["high"], "+.2f") for key, row in told.items()}
    return {str(key).replace("-", "_"): text for key, text in said.items()}


def _pairs(scores: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """For each of `COMPARED`, what is compared with what."""
    in_base, in_tuned, base, tuned = scores
    told = {"over-base": (in_tuned, base), "in-base": (in_base, base), "gained": (in_tuned, in_base)}
    return told | {"whole-gained": (tuned, base), "beside": (tuned - base, in_tuned - in_base)}


def _chosen(answers: Answers) -> Tensor:
    assert answers.chosen is not None
    return answers.chosen[0].double()

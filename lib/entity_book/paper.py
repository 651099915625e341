"""The paper's own numbers that the book shows beside its own: `data/paper.json`, a frame a table.

Each row carries its `source`. Accuracies are fractions, rounded as they were published.
"""

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd
from entity_circuits import places, sums


@dataclass(frozen=True)
class Paper:
    """All of `data/paper.json`. A frame has the columns of its table; those that do not speak for themselves are told.

    In `dcm` and `patching`, `void` marks numbers that an error in the official code makes 0 whatever the model does
    (artefact B4).
    """

    citation: str
    repository: str
    commit: str
    task: pd.DataFrame
    """A row a number about the task or the protocol."""
    models: pd.DataFrame
    """The paper's four models, `llama`, `vicuna`, `goat` and `float`, with their accuracy at seven boxes."""
    table_1: pd.DataFrame
    """Circuits found in one model, `circuit`, and evaluated in another, `model`."""
    rankings: pd.DataFrame
    """Rounds of path patching: `strongest` are dicts of a `head` (layer, index), its `score`, and `in_circuit`, whether
    the published circuit has it in this group. `k_discovery` heads became receivers of the next round; `k_candidates`
    entered the minimality filter."""
    circuits: pd.DataFrame
    """Groups of the published circuits: how many heads, and the `first` five of the list."""
    overlaps: pd.DataFrame
    """How many heads of a group two published circuits share."""
    dcm: pd.DataFrame
    """Masks of the paper's DCM: heads `selected` of the `candidates` in a circuit's group, and the test accuracy."""
    patching: pd.DataFrame
    """Heads that DCM selected in the model of `circuit`, patched in `model`: mean and deviation of several draws."""
    cmap: pd.DataFrame
    """Llama with activations of a group from a fine-tuned model; the heads are those `selected_in` a model. `patched`
    is `z` (outputs), some of `q`, `k` and `v` (inputs), or `weights of q`, `input of q` and the like. Only the outputs
    were published; the rest stands in earlier commits of the repository."""
    caveats: pd.DataFrame
    """What to know before a published number is compared with another one."""

    def row(self, table: str, **values: str) -> Any:
        """The first row of a table whose columns have these values, a field an attribute; `KeyError` without one.

        paper().row("dcm", model="llama", group="value_fetcher", desideratum="object").selected
        """
        for row in getattr(self, table).itertuples(index=False):
            if all(getattr(row, column) == value for column, value in values.items()):
                return row
        raise KeyError(f"{table}: {values}")

    def model(self, name: str) -> Any:
        """The row of the model called `llama`, `vicuna`, `goat` or `float`."""
        return self.row("models", name=name)

    def fact(self, name: str) -> float:
        """The value of a fact about the task, `eval_examples` for example."""
        return float(self.row("task", name=name).value)

    def ranking(self, model: str, group: str) -> Any:
        """The round of path patching that ranked this group in this model."""
        return self.row("rankings", model=model, group=group)

    def carried(self, model: str, group: str, desideratum: str) -> float:
        """The accuracy of DCM's selection for `position`, `object` or `label`."""
        return float(self.row("dcm", model=model, group=group, desideratum=desideratum).accuracy)

    def recovered(self, finetuned: str, group: str, patched: str = "z") -> float:
        """The share of the gap between Llama and a fine-tuned model that a patching recovers.

        Computed from the published accuracies, which are rounded to two decimals: it is good to about 0.05.
        """
        accuracy = self.row("cmap", finetuned=finetuned, group=group, patched=patched).accuracy
        base, tuned = self.model("llama").accuracy, self.model(finetuned).accuracy
        return float((accuracy - base) / (tuned - base))


def paper() -> Paper:
    """Read the published numbers. Raises `FileNotFoundError` without the checkout, `TypeError` if one lacks,
    and `ValueError` for a file that is not the one that was shipped.

    published = paper()
    print(published.model("llama").accuracy, published.ranking("llama", "value_fetcher").strongest[0])
    """
    content: dict[str, Any] = json.loads(sums.read(places.data("paper.json")))
    about = content.pop("about")
    tables = {name: pd.DataFrame(rows) for name, rows in content.items()}
    return Paper(citation=about["paper"], repository=about["repository"], commit=about["commit"], **tables)

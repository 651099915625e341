"""The paper's own numbers that the book shows beside its own: `data/paper.json`, typed. Each carries its source."""

import json
from dataclasses import dataclass
from typing import Any

from entity_circuits import places


@dataclass(frozen=True)
class Fact:
    """One number about the task or the protocol."""

    name: str
    value: float
    source: str


@dataclass(frozen=True)
class Model:
    """One of the paper's four models with its top-1 accuracy at seven boxes, a fraction rounded to two decimals."""

    name: str
    title: str
    hub_id: str | None
    accuracy: float
    source: str


@dataclass(frozen=True)
class Faithfulness:
    """One row of Table 1: a circuit found in one model, evaluated in another. Fractions, rounded to two decimals."""

    model: str
    circuit: str
    full_model: float
    circuit_accuracy: float
    random_circuit: float
    faithfulness: float
    source: str


@dataclass(frozen=True)
class Ranked:
    """A head (layer, index) with its path-patching score, and whether the published circuit has it in this group."""

    head: tuple[int, int]
    score: float
    in_circuit: bool


@dataclass(frozen=True)
class Ranking:
    """One round of path patching in one model: its five strongest heads and how many were taken.

    `k_discovery` heads became receivers of the next round; `k_candidates` entered the minimality filter.
    """

    model: str
    group: str
    examples: int
    k_discovery: int
    k_candidates: int
    strongest: tuple[Ranked, ...]
    mean_score: float
    min_score: float
    max_score: float
    source: str
    source_settings: str


@dataclass(frozen=True)
class PublishedGroup:
    """One group of a published circuit: how many heads it has, and the first five of its list."""

    model: str
    group: str
    size: int
    first: tuple[tuple[int, int], ...]
    source: str


@dataclass(frozen=True)
class Overlap:
    """How many heads of a group two published circuits share: `shared` of `size_base` and of `size_other`."""

    base: str
    other: str
    group: str
    size_base: int
    size_other: int
    shared: int
    source: str


@dataclass(frozen=True)
class Masked:
    """What one mask of the paper's DCM came to: heads `selected` of a circuit's group, and the test accuracy.

    `void` marks numbers that an error in the official code makes 0 whatever the model does (artefact B4).
    """

    model: str
    group: str
    desideratum: str
    selected: int
    candidates: int
    accuracy: float
    examples: int
    void: bool
    source: str


@dataclass(frozen=True)
class CrossModel:
    """Llama's accuracy with activations of a group from a fine-tuned model; the heads are those `selected_in` a model.

    `patched` is `z` (outputs), some of `q`, `k` and `v` (inputs), or `weights of q`, `input of q` and the like. Only
    the outputs were published; the rest stands in earlier commits of the repository.
    """

    finetuned: str
    group: str
    patched: str
    selected_in: str
    accuracy: float
    source: str


@dataclass(frozen=True)
class Patched:
    """Heads that DCM selected in one model's `circuit`, patched in a model: mean and deviation of several draws."""

    circuit: str
    model: str
    group: str
    desideratum: str
    accuracy: float
    deviation: float
    repeats: int
    void: bool
    source: str


@dataclass(frozen=True)
class Caveat:
    """What to know before a published number is compared with another one."""

    id: str
    applies_to: str
    text: str


@dataclass(frozen=True)
class Paper:
    """All of `data/paper.json`."""

    citation: str
    repository: str
    commit: str
    task: tuple[Fact, ...]
    models: tuple[Model, ...]
    table_1: tuple[Faithfulness, ...]
    rankings: tuple[Ranking, ...]
    circuits: tuple[PublishedGroup, ...]
    overlaps: tuple[Overlap, ...]
    dcm: tuple[Masked, ...]
    patching: tuple[Patched, ...]
    cmap: tuple[CrossModel, ...]
    caveats: tuple[Caveat, ...]

    def model(self, name: str) -> Model:
        """The model called `llama`, `vicuna`, `goat` or `float`; `KeyError` for another name."""
        return {model.name: model for model in self.models}[name]

    def fact(self, name: str) -> float:
        """The value of a fact about the task, `eval_examples` for example; `KeyError` for another name."""
        return {fact.name: fact.value for fact in self.task}[name]

    def ranking(self, model: str, group: str) -> Ranking:
        """The round of path patching that ranked this group in this model; `KeyError` if it was not published."""
        return {(ranking.model, ranking.group): ranking for ranking in self.rankings}[model, group]

    def carried(self, model: str, group: str, desideratum: str) -> float:
        """The accuracy of DCM's selection for `position`, `object` or `label`; `KeyError` if it was not published."""
        return {(row.model, row.group, row.desideratum): row.accuracy for row in self.dcm}[model, group, desideratum]

    def recovered(self, finetuned: str, group: str, patched: str = "z") -> float:
        """The share of the gap between Llama and a fine-tuned model that a patching recovers; `KeyError` if unknown.

        Computed from the published accuracies, which are rounded to two decimals: it is good to about 0.05.
        """
        accuracy = {(row.finetuned, row.group, row.patched): row.accuracy for row in reversed(self.cmap)}
        base, tuned = self.model("llama").accuracy, self.model(finetuned).accuracy
        return (accuracy[finetuned, group, patched] - base) / (tuned - base)


def paper() -> Paper:
    """Read the published numbers. Raises `FileNotFoundError` without the checkout, `TypeError` for a malformed file.

    published = paper()
    print(published.model("llama").accuracy, published.ranking("llama", "value_fetcher").strongest[0])
    """
    content: dict[str, Any] = json.loads(places.data("paper.json").read_text(encoding="utf-8"))
    about = content["about"]
    return Paper(
        citation=about["paper"],
        repository=about["repository"],
        commit=about["commit"],
        task=tuple(Fact(**row) for row in content["task"]),
        models=tuple(Model(**row) for row in content["models"]),
        table_1=tuple(Faithfulness(**row) for row in content["table_1"]),
        rankings=tuple(_ranking(row) for row in content["rankings"]),
        circuits=tuple(
            PublishedGroup(**row | {"first": tuple(map(tuple, row["first"]))}) for row in content["circuits"]
        ),
        overlaps=tuple(Overlap(**row) for row in content["overlaps"]),
        dcm=tuple(Masked(**row) for row in content["dcm"]),
        patching=tuple(Patched(**row) for row in content["patching"]),
        cmap=tuple(CrossModel(**row) for row in content["cmap"]),
        caveats=tuple(Caveat(**row) for row in content["caveats"]),
    )


def _ranking(row: dict[str, Any]) -> Ranking:
    strongest = tuple(Ranked(**head | {"head": tuple(head["head"])}) for head in row["strongest"])
    return Ranking(**row | {"strongest": strongest})

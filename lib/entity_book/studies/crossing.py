"""Heads that were selected in one model, patched in others: on the same pairs, and held against one of the models."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from entity_circuits import statistics
from entity_circuits.arguments import one_of
from entity_circuits.heads import Head
from entity_circuits.methods.interchange import Position
from entity_circuits.tasks.desiderata import Hypothesis

from .semantics import Part, Study


@dataclass(frozen=True)
class Selection:
    """Heads to be patched at a position, and the desideratum that they are tried on."""

    heads: tuple[Head, ...]
    position: Position
    desideratum: Hypothesis

    def __post_init__(self) -> None:
        one_of("hypothesis", self.desideratum, Hypothesis)


def cross(studies: Sequence[Study], selections: Mapping[str, Selection], part: Part = "test") -> pd.DataFrame:
    """Heads that were selected in one model, patched in every other: the rows of `interchange.patch`, and the `model`.

    All models are given the same pairs of prompts, and each forgets them afterwards. The floor stands as "no patch"
    beside each selection.
    """
    one_of("part", part, Part)
    tables = []
    for one in studies:
        for name, chosen in selections.items():
            rows = one.patch({name: chosen.heads}, chosen.position, chosen.desideratum, part)
            tables.append(rows.assign(model=one.name, selection=name))
        one.forget()
    return pd.concat(tables, ignore_index=True)


def crossed(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Rows of `cross`, one a selection and model: `value`, `low`, `high`, `n`, and the `floor` (no patch).

    `more` is the paired difference to the model `reference` on the same pairs, and `alone` that of the source prompts'
    own accuracies, each with `_low` and `_high`.

        print(crossing.crossed(crossing.cross(studies, selections), "qwen2.5-coder-0.5b"))
    """
    found = []
    parts = {key: part.sort_values("prompt") for key, part in rows.groupby(["selection", "model", "patched"])}
    for selection, model in itertools.product(rows["selection"].unique(), rows["model"].unique()):
        part, own = (parts[selection, name, selection] for name in (model, reference))
        value = statistics.estimate(part["hit"].to_numpy(), part["context"].to_numpy())
        row: dict[str, object] = {"selection": selection, "model": model, "value": value.value, "low": value.low}
        row |= {"high": value.high, "n": value.n, "floor": float(parts[selection, model, "no patch"]["hit"].mean())}
        for name, column in (("more", "hit"), ("alone", "source_right")):
            gap = statistics.difference(part[column].to_numpy(), own[column].to_numpy(), own["context"].to_numpy())
            row |= gap.cells(name)
        found.append(row)
    return pd.DataFrame(found)

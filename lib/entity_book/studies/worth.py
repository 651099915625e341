"""What masks are worth: how often the target is the answer if selected heads are patched, or all, random ones, none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from entity_circuits import statistics
from entity_circuits.arguments import each_of, integer, one_of
from entity_circuits.heads import POSITIONS, Group, Head
from entity_circuits.methods.dcm import Mask
from entity_circuits.tasks.desiderata import HYPOTHESES, Hypothesis

from .semantics import Masks, Study, part_of


@dataclass(frozen=True, eq=False)
class Tried:
    """The answers of one model when sets of heads of one group are patched, held against one target, pair by pair.

    `hits` (sets, n) bool, whether the target is the answer: rows "no patch", "whole", and where a mask `selected` heads
    (missing where none was learned) "masked" and "random 0" and so on, as many heads of the same group. `bystander`
    (n,) the share of the objects that no hypothesis predicts which is said, under "masked", or "whole" where no head
    was selected; `source_right` (n,) whether the source prompt alone is answered rightly; `contexts` (n,).
    """

    model: str
    group: Group
    target: Hypothesis
    heads: tuple[Head, ...]
    selected: tuple[Head, ...] | None
    hits: pd.DataFrame
    bystander: np.ndarray
    source_right: np.ndarray
    contexts: np.ndarray

    def __post_init__(self) -> None:
        one_of("hypothesis", self.target, Hypothesis)


def tried(one: Study, masks: Masks, draws: int = 5, seed: int = 0) -> list[Tried]:
    """Each group of a study and each hypothesis, on the test pairs, which no mask was learned or chosen on.

    `masks` are looked up by (name of the study, group, hypothesis). `draws` random sets stand beside each mask.

        print([one.hits.mean() for one in worth.tried(study, masks)])
    """
    each_of("hypothesis", (target for _, _, target in masks), Hypothesis)
    draws, made = integer("draws", draws), []
    for group, heads in one.groups.items():
        for target in HYPOTHESES:
            mask: Mask | None = masks.get((one.name, group, target))
            sets: dict[str, Sequence[Head]] = {"whole": heads}
            if mask is not None:
                draw = np.random.default_rng(seed)
                picks = [draw.choice(len(heads), len(mask.selected), replace=False) for _ in range(draws)]
                sets |= {"masked": mask.selected}
                sets |= {f"random {i}": [heads[index] for index in sorted(pick)] for i, pick in enumerate(picks)}
            found = one.patch(sets, POSITIONS[group], target, part_of(group))
            hits = found.pivot(index="prompt", columns="patched", values="hit")[["no patch", *sets]].astype(bool)
            alone = found.drop_duplicates("prompt").sort_values("prompt")
            selected = None if mask is None else mask.selected
            under = found[found["patched"] == ("masked" if selected else "whole")].sort_values("prompt")
            others = (under["bystander"], alone["source_right"], alone["context"])
            about = (one.name, group, target, heads, selected, hits)
            made.append(Tried(*about, *(column.to_numpy() for column in others)))
    return made


def joined(parts: Sequence[Sequence[Tried]]) -> list[Tried]:
    """The same of several parts of the test pairs, one after the other; no two parts share a context."""
    made = []
    for same in zip(*parts, strict=True):
        names = ("bystander", "source_right", "contexts")
        whole = {name: np.concatenate([getattr(one, name) for one in same]) for name in names}
        made.append(replace(same[0], hits=pd.concat([one.hits for one in same], ignore_index=True), **whole))
    return made


def same(stored: Sequence[Tried], again: Sequence[Tried]) -> tuple[int, int]:
    """How many answers that were run again are those that are stored, and how many were.

    The pairs run again must be the first of the stored ones; sets of heads that either lacks are left out. Raises
    `ValueError` if the contexts do not fit, or other heads were patched.

        print(worth.same(kept.tried, worth.tried(study, kept.masks)))
    """
    known = {(one.model, one.group, one.target): one for one in stored}
    equal = count = 0
    for one in again:
        if (other := known.get((one.model, one.group, one.target))) is None:
            continue
        n = len(one.contexts)
        if (one.heads, one.selected) != (other.heads, other.selected):
            raise ValueError(f"other heads of {one.group} were patched than those whose answers are stored")
        if not np.array_equal(one.contexts, other.contexts[:n]):
            raise ValueError("the pairs that were run again are not the first of those whose answers are stored")
        sets = [name for name in one.hits if name in other.hits]
        agree = one.hits[sets].to_numpy() == other.hits[sets].to_numpy()[:n]
        equal, count = equal + int(agree.sum()), count + agree.size
    return equal, count


def table(found: Sequence[Tried]) -> pd.DataFrame:
    """One row a model, group and desideratum.

    `heads` (of the group) and `selected` (by the mask; missing where none was learned); accuracies for the target, each
    with `_low` and `_high`: `floor` (no patch), `whole` (all heads of the group), `masked` (the selected ones),
    `random` (mean of the sets of equally many heads of the group), `source` (right answers of the source prompt
    alone); and the paired differences `gain` (masked, or whole where no head was selected, minus floor), `beyond` (the
    same minus `bystander`: how often, under this patch, an object of the base is said that no hypothesis predicts) and
    `over_random` (masked minus random). Intervals are over contexts. `n` pairs, `contexts`.

        print(worth.table(worth.tried(study, masks))[["group", "desideratum", "masked", "random"]])
    """
    rows = []
    for one in found:
        hits = one.hits.astype(float)
        drawn = hits.filter(like="random ").mean(axis=1)
        patched = counted(None if one.selected is None else len(one.selected))
        row: dict[str, object] = {"model": one.model, "group": one.group, "desideratum": one.target}
        row |= {"heads": len(one.heads), "selected": None if one.selected is None else len(one.selected)}
        series = {"floor": hits["no patch"], "whole": hits["whole"], "masked": hits.get("masked"), "random": drawn}
        series["source"] = pd.Series(one.source_right, index=hits.index, dtype=float)
        other = pd.Series(one.bystander, index=hits.index, dtype=float)
        against = {"gain": (patched, hits["no patch"]), "beyond": (patched, other), "over_random": ("masked", drawn)}
        for name, values in series.items():
            row |= _cells(name, values, one.contexts)
        for name, (own, values) in against.items():
            row |= _cells(name, hits.get(own), one.contexts, values)
        rows.append(row | {"n": len(hits), "contexts": len(np.unique(one.contexts))})
    return pd.DataFrame(rows).astype({"selected": "Int64"})


def counted(selected: object) -> str:
    """The column of `table` that says what patching brought: `masked`, or `whole` where no head was selected."""
    return "masked" if not pd.isna(selected) and selected else "whole"  # type: ignore[call-overload]


def _cells(
    name: str, values: pd.Series | None, contexts: np.ndarray, minus: pd.Series | None = None
) -> dict[str, float]:
    """A number, or what it is more than another, with its bounds; NaN where there is nothing to estimate it from."""
    if values is None or values.isna().any() or (minus is not None and minus.isna().any()):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), math.nan)
    if minus is None:
        return statistics.estimate(values.to_numpy(), contexts).cells(name)
    return statistics.difference(values.to_numpy(), minus.to_numpy(), contexts).cells(name)

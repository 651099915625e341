"""Masks and patches in tables: as masks are learned, by number of heads, in two models, among all heads, in words."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from entity_circuits import agreement, statistics
from entity_circuits.arguments import each_of, one_of
from entity_circuits.heads import LETTERS, POSITIONS, Group, Head, by_layer
from entity_circuits.methods.dcm import Mask
from entity_circuits.methods.interchange import Position
from entity_circuits.tasks.desiderata import Hypothesis

from .semantics import Masks, Study
from .worth import counted


def overlap(masks: Masks, one: str, other: str) -> pd.DataFrame:
    """The heads that masks selected in two models: a row a group and desideratum for which both have a mask.

    `one` and `other` count the selected heads, `shared` those in both, `groups_shared` the heads that both models'
    groups have. `chance` is how many would be shared if each model drew as many from its own group, and `p` the
    probability of at least as many as are (exact).

        print(mask_tables.overlap(masks, "qwen2.5-coder-0.5b", "code"))
    """
    each_of("hypothesis", (target for _, _, target in masks), Hypothesis)
    rows = []
    for (model, group, target), mask in masks.items():
        twin = masks.get((other, group, target))
        if model != one or twin is None:
            continue
        common, shared = set(mask.heads) & set(twin.heads), set(mask.selected) & set(twin.selected)
        chances = agreement.overlap(
            len(mask.heads), len(twin.heads), len(common), len(mask.selected), len(twin.selected)
        )
        row: dict[str, object] = {
            "group": group,
            "desideratum": target,
            "one": len(mask.selected),
            "other": len(twin.selected),
        }
        row |= {"shared": len(shared), "groups_shared": len(common)}
        row |= {"chance": float(chances @ np.arange(len(chances))), "p": float(chances[len(shared) :].sum())}
        rows.append(row | {"heads": ", ".join(map(str, sorted(shared)))})
    return pd.DataFrame(rows)


def recovered(mask: Mask, groups: Mapping[Group, Sequence[Head]], draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Which groups a mask over all heads at a position has found by itself: a row a group that stands there.

    `size` of the group, `selected` by the mask, `shared`; `chance` and `p` for as many heads drawn from all, exact;
    `layer_chance` and `layer_p` for heads drawn from the layers of the selected ones (from `draws` draws); `depth`, the
    middle layer of the selected heads, and `group_depth`.

        mask = study.masks(None, "object", "last")[0]
        print(mask_tables.recovered(mask, study.groups))
    """
    rows, random = [], np.random.default_rng(seed)
    wide = max(head.head for head in mask.heads) + 1
    for group, heads in groups.items():
        if POSITIONS[group] != mask.position:
            continue
        shared, layers = set(mask.selected) & set(heads), by_layer(heads)
        chances = agreement.overlap(len(mask.heads), len(heads), len(heads), len(mask.selected), len(heads))
        drawn = np.zeros(draws)
        for layer, numbers in by_layer(mask.selected).items():
            members = len(layers.get(layer, ()))
            drawn += random.hypergeometric(members, wide - members, len(numbers), size=draws)
        row: dict[str, object] = {
            "group": group,
            "size": len(heads),
            "selected": len(mask.selected),
            "shared": len(shared),
        }
        row |= {"chance": float(chances @ np.arange(len(chances))), "p": float(chances[len(shared) :].sum())}
        row |= {"layer_chance": float(drawn.mean()), "layer_p": float((drawn >= len(shared)).mean())}
        for name, some in (("depth", mask.selected), ("group_depth", heads)):
            row[name] = float(np.median([head.layer for head in some])) if some else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def along(one: Study, masks: Sequence[Mask], position: Position, target: Hypothesis, draws: int = 3) -> pd.DataFrame:
    """Accuracy on the test pairs against the number of heads: what the masks of a group selected, and random heads.

    One row a set: `kind` ("mask", "random" for as many heads of the same group, "no patch", "whole group"), `penalty`,
    `seed`, `heads` (how many), `value`, `low`, `high`, `n`.

        found = study.masks(group, "object", "last", penalties=(0.1, 1.0))
        print(mask_tables.along(study, found, "last", "object"))
    """
    one_of("hypothesis", target, Hypothesis)
    if not masks:
        raise ValueError("there are no masks: the list is empty")
    sets: dict[str, tuple[Head, ...]] = {"whole group": masks[0].heads}
    about: dict[str, tuple[str, float, int | None]] = {"whole group": ("whole group", math.nan, None)}
    random = np.random.default_rng(one.seed)
    for index, mask in enumerate(masks):
        sets[f"mask {index}"], about[f"mask {index}"] = mask.selected, ("mask", mask.penalty, mask.seed)
    for size in sorted({len(mask.selected) for mask in masks if mask.selected}):
        for draw in range(draws):
            pick = random.choice(len(masks[0].heads), size, replace=False)
            name = f"random {size}/{draw}"
            sets[name], about[name] = tuple(masks[0].heads[i] for i in sorted(pick)), ("random", math.nan, None)
    found = statistics.by(one.patch(sets, position, target), "patched", "hit")
    rows = []
    for row in found.to_dict("records"):
        kind, penalty, seed = about.get(row["patched"], ("no patch", math.nan, None))
        size = len(sets.get(row["patched"], ()))
        rows.append({"kind": kind, "penalty": penalty, "seed": seed, "heads": size} | row)
    return pd.DataFrame(rows).drop(columns="patched").astype({"seed": "Int64"})


def traces(masks: Sequence[Mask]) -> pd.DataFrame:
    """The weights of masks step by step: a row a mask, step and head, `keep` from 1 (left alone) to 0 (patched).

    print(mask_tables.traces(study.masks(group, "object", "last")).tail())
    """
    rows = [
        {"desideratum": mask.desideratum, "at": mask.position, "step": step, "head": str(head), "keep": weight}
        | {"selected": head in mask.selected}
        for mask in masks
        for step, weights in enumerate(mask.trace.tolist())
        for head, weight in zip(mask.heads, weights, strict=True)
    ]
    return pd.DataFrame(rows)


def words(table: pd.DataFrame, models: Mapping[str, str]) -> dict[str, str]:
    """The numbers of `worth.table` as text with their intervals, by names that a page can `glue`.

    For a model called `base` by `models`: `base_a_object`, the accuracy of the selected heads (of the whole group where
    none was selected), `base_a_object_whole`, `_gain`, `_beyond`, `_over_random`; and `_n`, how many heads these are.

        for name, text in mask_tables.words(table, {"base": "qwen2.5-coder-0.5b"}).items():
            print(name, text)
    """
    found = {}
    names = {model: name for name, model in models.items()}
    for row in table[table["model"].isin(list(names))].to_dict("records"):
        start = f"{names[row['model']]}_{LETTERS[row['group']].lower()}_{row['desideratum']}"
        patched = counted(row["selected"])
        found[f"{start}_n"] = str(row["selected"] if patched == "masked" else row["heads"])
        differences = ("gain", "beyond", "over_random")
        columns = {"": patched, "_whole": "whole"} | {f"_{name}": name for name in differences}
        for ending, column in columns.items():
            sign = "+" if column in differences else ""
            value, low, high = (row[column + end] for end in ("", "_low", "_high"))
            found[start + ending] = statistics.spoken(value, low, high, f"{sign}.2f")
    return found

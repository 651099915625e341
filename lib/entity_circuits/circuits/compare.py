"""How two circuits compare, group by group: shared heads beside chance, and whether they rank all heads alike."""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from .. import agreement
from ..arguments import integer, of_kind, one_of
from ..heads import LETTERS, Group, Head
from ..methods.path_patching import Statistic
from .files import Finding


def compare(one: Finding, other: Finding, statistic: Statistic | None = None) -> pd.DataFrame:
    """How two circuits of models of one shape agree: a row a group, and a last one, `all`, for the four together.

    `one` and `other` are numbers of heads, `shared` those in both, `of_one` and `of_other` what share that is of each
    (the paper's code calls these precision and recall). `chance` is how many heads two random sets of these sizes
    would share, drawn from the heads that have a path, with its 95% range `chance_low` to `chance_high`, and `p` the
    probability that they share as many or more, all exact (hypergeometric). `layer_chance` and `layer_p` are the same
    for random sets with the layers of the real ones, the harder test: groups of two models may sit in the same layers
    without being the same. `spearman` is the rank correlation of the scores over the `ranked` heads with a path in
    both. `statistic` is the one that ranked in `one` unless given. Raises `ValueError` for models of different shapes,
    a score that one of them lacks, or a group at two places. Paper: how much the circuits of base and fine-tuned models
    overlap.

        from entity_circuits import circuits

        table = circuits.compare(circuits.load("qwen2.5-coder-0.5b"), circuits.load("arithmetic"))
        print(table[["group", "shared", "chance", "p"]])
    """
    one_of("statistic", statistic, Statistic | None)
    tables = _scores(one, other, statistic)
    for group in one.circuit.groups.keys() & other.circuit.groups.keys():
        places = [found.circuit.position(group) for found in (one, other)]
        if places[0] != places[1]:
            raise ValueError(f"the heads of {group} act at {places[0]!r} in one and at {places[1]!r} in the other")
    rows, distributions = [], []
    for group in _groups(one, other):
        sets = [_members(found, group) for found in (one, other)]
        known = [~np.isnan(table[group]) for table in tables]
        pools = [path | members for path, members in zip(known, sets, strict=True)]  # what is in it could be drawn
        free = _overlap(sets, pools)
        layers = [_overlap([x[i] for x in sets], [x[i] for x in pools]) for i in range(one.shape[0])]
        distributions.append((free, reduce(np.convolve, layers)))
        both = known[0] & known[1]
        sizes = (int(sets[0].sum()), int(sets[1].sum()), int((sets[0] & sets[1]).sum()))
        rank = agreement.spearman(tables[0][group][both], tables[1][group][both])
        rows.append(
            {"group": group, **_shared(*sizes, *distributions[-1]), "spearman": rank, "ranked": int(both.sum())}
        )
    total = [sum(int(row[name]) for row in rows) for name in ("one", "other", "shared")]
    whole = [reduce(np.convolve, kind) for kind in zip(*distributions, strict=True)]
    rows.append({"group": "all", **_shared(total[0], total[1], total[2], *whole), "spearman": np.nan, "ranked": 0})
    return pd.DataFrame(rows)


def impact(one: Finding, other: Finding, *, top: int | None = None, statistic: Statistic | None = None) -> pd.DataFrame:
    """The heads of all rounds by the size of their score in `one`, with their score in `other` beside.

    A row a group and head that has a path in `one`, the largest first, the first `top` of them if that is given.
    Columns: `rank` from 1, `group`, `head`, `layer`, `score` and `other` (NaN where the head has no path there),
    `in_one` and `in_other`: whether this group of each circuit has the head. The paper's figure asks instead whether
    any group has it, and sets scores of heads that are no candidates to 0.

        from entity_circuits import circuits

        print(circuits.impact(circuits.load("qwen2.5-coder-0.5b"), circuits.load("arithmetic"), top=5))
    """
    one_of("statistic", statistic, Statistic | None)
    top = None if top is None else integer("top", top)
    first, second = _scores(one, other, statistic)
    rows = [
        {
            "group": group,
            "head": str(head := Head(int(layer), int(number))),
            "layer": head.layer,
            "score": first[group][layer, number],
            "other": second[group][layer, number],
            "in_one": head in one.circuit.groups.get(group, ()),
            "in_other": head in other.circuit.groups.get(group, ()),
        }
        for group in _groups(one, other)
        for layer, number in np.argwhere(~np.isnan(first[group]))
    ]
    columns = ["group", "head", "layer", "score", "other", "in_one", "in_other"]
    table = pd.DataFrame(rows, columns=columns).sort_values("score", key=lambda x: -x.abs(), kind="stable")[:top]
    table = table.reset_index(drop=True)
    table.insert(0, "rank", table.index + 1)
    return table


def report(one: Finding, other: Finding) -> str:
    """The comparison of two circuits as text for a terminal: where each comes from, and a line a group.

    For example:

        from entity_circuits import circuits

        print(circuits.report(circuits.load("qwen2.5-coder-0.5b"), circuits.load("arithmetic")))
    """
    lines = []
    for name, found in (("one", one), ("other", other)):
        about = found.circuit.about
        known = ("model", "fingerprint", "n", "statistic", "command", "code")
        rest = "".join(f", {name} {value}" for name, value in about.items() if name not in known)
        words = f"{about['n']} prompts{rest}, by {about['statistic']}"
        lines.append(f"{name + ':':6} {about['model']} ({words}); made by: {about['command']}")
    header = ("group", "one", "other", "shared", "of one", "of other", "by chance", "p", "in layers", "p", "rank corr.")
    cells: list[tuple[str, ...]] = [header]
    for row in compare(one, other).to_dict("records"):
        name = f"{LETTERS.get(row['group'], '')} {row['group'].replace('_', ' ')}".strip()
        chance = f"{row['chance']:.1f} [{row['chance_low']}, {row['chance_high']}]"
        sizes = tuple(str(row[size]) for size in ("one", "other", "shared"))
        shares = tuple("-" if math.isnan(row[of]) else f"{row[of]:.0%}" for of in ("of_one", "of_other"))
        rank = "-" if math.isnan(row["spearman"]) else f"{row['spearman']:.2f}, {row['ranked']} heads"
        layers = f"{row['layer_chance']:.1f}"
        cells.append((name, *sizes, *shares, chance, _small(row["p"]), layers, _small(row["layer_p"]), rank))
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    notes = [
        "by chance: heads that two random sets of these sizes share, with a 95% range; in layers: if each set also",
        "keeps its number of heads in every layer. p: that such sets share as many or more.",
    ]
    return "\n".join([*lines, "", *table, "", *notes])


def _groups(one: Finding, other: Finding) -> list[Group]:
    """The groups of both, which have to be the same."""
    groups = [list(found.scores[found.statistic]) for found in (one, other)]
    if set(groups[0]) != set(groups[1]):
        raise ValueError(f"circuits of the same groups are compared, not of {groups[0]} and {groups[1]}")
    return groups[0]


def _shared(one: int, other: int, shared: int, free: np.ndarray, bound: np.ndarray) -> dict[str, Any]:
    """The columns of `compare` that follow from sizes and the distributions of the overlap."""
    low, high = (int(np.searchsorted(np.cumsum(free), share)) for share in (0.025, 0.975 - 1e-12))
    return {
        "one": one,
        "other": other,
        "shared": shared,
        "of_one": shared / one if one else np.nan,
        "of_other": shared / other if other else np.nan,
        "chance": float(free @ np.arange(len(free))),
        "chance_low": low,
        "chance_high": high,
        "p": float(min(free[shared:].sum(), 1.0)),
        "layer_chance": float(bound @ np.arange(len(bound))),
        "layer_p": float(min(bound[shared:].sum(), 1.0)),
    }


def _overlap(sets: Sequence[np.ndarray], pools: Sequence[np.ndarray]) -> np.ndarray:
    """Probabilities of sharing 0, 1, ... heads if two sets of these sizes are drawn, each from its own pool (masks)."""
    one, other, first, second = (int(mask.sum()) for mask in (*sets, *pools))
    return agreement.overlap(first, second, int((pools[0] & pools[1]).sum()), one, other)


def _members(found: Finding, group: Group) -> np.ndarray:
    """(layers, heads) bool: the heads of one group."""
    mask = np.zeros(found.shape, dtype=bool)
    for head in found.circuit.groups.get(group, ()):
        mask[head.layer, head.head] = True
    return mask


def _scores(
    one: Finding, other: Finding, statistic: Statistic | None
) -> tuple[Mapping[Group, np.ndarray], Mapping[Group, np.ndarray]]:
    """The scores of both by one statistic."""
    for found in (one, other):
        of_kind("each of the two", found, Finding)
    kind = one.statistic if statistic is None else statistic
    for found in (one, other):
        if kind not in found.scores:
            raise ValueError(f"{found.model}: no scores by {kind!r} are stored, only by {', '.join(found.scores)}")
    if one.shape != other.shape:
        raise ValueError(
            f"heads are compared one by one, so models need the same shape: {one.model} has {one.shape[0]} layers of "
            f"{one.shape[1]} heads, {other.model} {other.shape[0]} of {other.shape[1]}"
        )
    return one.scores[kind], other.scores[kind]


def _small(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"

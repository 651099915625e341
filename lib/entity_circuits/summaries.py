"""Tidy tables of what path patching found: one row a head, with its score, its interval, and where it looks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import replay, statistics
from .heads import GROUPS, POSITIONS, Circuit, Group, Head
from .path_patching import Scores, Statistic
from .runs import Recording

if TYPE_CHECKING:
    from .paper import Paper

ROLES = ("queried object", "queried label", "other objects", "other labels", "first token", "query", "the rest")
"""What a head can look at, in the order of the figure: tokens of the context, then of the query."""


def score_table(scores: Scores, statistic: Statistic = "ratio_of_means") -> pd.DataFrame:
    """One row a head: `head`, `layer`, `index`, `score` with `low` and `high` (95%, over contexts), `rank` from 1, `n`.

    Heads without a path have NaN everywhere. The intervals of `mean`, `mean_log` and `ratio_of_means` resample contexts
    (for the last, its numerator alone); that of `median` as well.
    """
    weight = scores.logprob.exp() / scores.logprob.exp().mean() if statistic == "ratio_of_means" else 1.0
    values = scores.change if statistic == "mean_log" else scores.per_example * weight
    kind: statistics.Statistic = "median" if statistic == "median" else "mean"
    cells = statistics.intervals(values, scores.contexts, statistic=kind)
    layers, heads = scores.change.shape[:2]
    rank = {head: place for place, head in enumerate(scores.ranking(statistic), start=1)}
    return pd.DataFrame(
        [
            {
                "head": str(Head(i, j)),
                "layer": i,
                "index": j,
                "score": float(scores.statistic(statistic)[i, j]),
                "low": cells.low[i, j],
                "high": cells.high[i, j],
                "rank": rank.get(Head(i, j), np.nan),
                "n": cells.n,
            }
            for i in range(layers)
            for j in range(heads)
        ]
    )


def attention_table(recording: Recording, heads: Sequence[Head], position: Tensor) -> pd.DataFrame:
    """How much attention each head pays, on average, to each kind of token from `position` (n,).

    Columns `head`, `role` (one of `ROLES`) and `weight`; the weights of a head sum to 1.
    """
    prompts = recording.prompts
    role = _roles(recording)
    rows = []
    for head in heads:
        weights = replay.attention(recording, head, position)
        for index, name in enumerate(ROLES):
            weight = float((weights * (role == index)).sum() / len(prompts))
            rows.append({"head": str(head), "role": name, "order": index, "weight": weight})
    return pd.DataFrame(rows)


def _roles(recording: Recording) -> Tensor:
    """(n, T): for each token, the index in `ROLES` of what it is."""
    p = recording.prompts
    n, width = p.input_ids.shape
    places = torch.arange(width, device=p.input_ids.device).expand(n, -1)
    role = torch.full((n, width), ROLES.index("the rest"), device=p.input_ids.device)
    role[(p.input_ids[:, :, None] == p.object_ids[:, None]).any(-1)] = ROLES.index("other objects")
    labels = recording.subject.tokenizer([" " + label for world in p.worlds for label in world.labels])["input_ids"]
    label_ids = torch.tensor(labels, device=p.input_ids.device).view(n, -1)
    role[(p.input_ids[:, :, None] == label_ids[:, None]).any(-1)] = ROLES.index("other labels")
    role[:, 0] = ROLES.index("first token")
    role[places >= p.query[:, None] - 1] = ROLES.index("query")
    rows = torch.arange(n, device=p.input_ids.device)
    role[rows, p.object] = ROLES.index("queried object")
    role[rows, p.prev] = ROLES.index("queried label")
    return role


def agreement(tables: dict[str, pd.DataFrame], top: dict[str, int]) -> pd.DataFrame:
    """How well two score tables agree, named for example by group: {"A": joined table with `score` and `other`}.

    Columns: `spearman` over the heads that have both scores, `shared`, how many of the `top` heads of one are among the
    `top` of the other, and `chance`, how many would be if ranks were drawn at random.
    """
    rows = []
    for name, table in tables.items():
        both = table.dropna(subset=["score", "other"])
        k = top[name]
        best = [set(both.nsmallest(k, column)["head"]) for column in ("score", "other")]
        ranks = both[["score", "other"]].rank()
        rows.append(
            {
                "group": name,
                "heads": len(both),
                "spearman": float(np.corrcoef(ranks["score"], ranks["other"])[0, 1]) if len(both) > 2 else np.nan,
                "top": k,
                "shared": len(best[0] & best[1]),
                "chance": k * k / max(len(both), 1),
            }
        )
    return pd.DataFrame(rows)


def beside(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Two score tables as one: the second's score in the column `other`."""
    return table.merge(other[["head", "score"]].rename(columns={"score": "other"}), on="head")


def depth_table(circuit: Circuit, layers: int, paper: "Paper", strongest: int = 5) -> pd.DataFrame:
    """Where the strongest heads of each group sit, as a share of the model's depth: ours beside the paper's
    Llama-7B."""
    rows = []
    for group in GROUPS:
        ours = circuit.groups.get(group, ())[:strongest]
        rows += [{"group": group, "model": "this model", "head": str(h), "depth": h.layer / layers} for h in ours]
        theirs = paper.ranking("llama", group).strongest[:strongest]
        rows += [
            {
                "group": group,
                "model": "Llama-7B (paper)",
                "head": str(Head(*ranked.head)),
                "depth": ranked.head[0] / LLAMA_LAYERS,
                "score": ranked.score,
            }
            for ranked in theirs
        ]
    return pd.DataFrame(rows)


LLAMA_LAYERS = 32


def circuit_table(circuit: Circuit, tables: dict[Group, pd.DataFrame]) -> pd.DataFrame:
    """The heads that the rounds handed on, one row each: group, position, head, score with interval."""
    parts = []
    for group, heads in circuit.groups.items():
        found = tables[group].set_index("head").loc[[str(head) for head in heads]].reset_index()
        parts.append(found.assign(group=group, position=POSITIONS[group]))
    columns = ["group", "position", "head", "layer", "score", "low", "high", "n"]
    return pd.concat(parts, ignore_index=True)[columns]

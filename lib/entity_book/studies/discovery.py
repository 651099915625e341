"""Tidy tables of what path patching found: one row a head, with its score, its interval, and where it looks."""

import random

import numpy as np
import pandas as pd
import torch
from entity_circuits.agreement import spearman
from entity_circuits.arguments import one_of
from entity_circuits.heads import GROUPS, LETTERS, POSITIONS, Circuit, Group, Head
from entity_circuits.methods import path_patching
from entity_circuits.methods.path_patching import Discovery, Scores, Statistic
from entity_circuits.results import Store
from entity_circuits.tasks import boxes

from ..paper import Paper

LLAMA_LAYERS = 32


def score_table(scores: Scores, statistic: Statistic = "ratio_of_means") -> pd.DataFrame:
    """One row a head: `head`, `layer`, `index`, `score` with `low` and `high` (95%, over contexts), `rank` from 1, `n`.

    Heads without a path have NaN everywhere. The intervals of `mean`, `mean_log` and `ratio_of_means` (of its numerator
    alone) are those of `statistics.intervals`, Student's t over contexts; for a `median` contexts are drawn anew.
    """
    one_of("statistic", statistic, Statistic)
    (low, high), value, n = scores.intervals(statistic), scores.statistic(statistic), scores.examples
    layers, heads = scores.change.shape[:2]
    rank = {head: place for place, head in enumerate(scores.ranking(statistic), start=1)}
    return pd.DataFrame(
        [
            {
                "head": str(Head(i, j)),
                "layer": i,
                "index": j,
                "score": float(value[i, j]),
                "low": low[i, j],
                "high": high[i, j],
                "rank": rank.get(Head(i, j), np.nan),
                "n": int(n[i, j]),
            }
            for i in range(layers)
            for j in range(heads)
        ]
    )


def tried(found: Discovery) -> pd.DataFrame:
    """What a discovery has patched, a row a round: the heads that have a path, those with all examples, and the `share`
    of all pairs of such a head and an example that were patched."""
    rows = []
    for group, scores in found.scores.items():
        n, counted = len(scores.contexts), scores.examples[scores.examples > 0]
        whole, share = int((counted == n).sum()), float(counted.sum() / max(len(counted) * n, 1))
        rows.append({"round": LETTERS[group], "heads": len(counted), "with all examples": whole, "share": share})
    return pd.DataFrame(rows)


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
        rows.append(
            {
                "group": name,
                "heads": len(both),
                "spearman": spearman(both["score"].to_numpy(), both["other"].to_numpy()),
                "top": k,
                "shared": len(best[0] & best[1]),
                "chance": k * k / max(len(both), 1),
            }
        )
    return pd.DataFrame(rows, columns=["group", "heads", "spearman", "top", "shared", "chance"])


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
                "head": str(Head(*ranked["head"])),
                "depth": ranked["head"][0] / LLAMA_LAYERS,
                "score": ranked["score"],
            }
            for ranked in theirs
        ]
    return pd.DataFrame(rows)


def circuit_table(circuit: Circuit, tables: dict[Group, pd.DataFrame]) -> pd.DataFrame:
    """The heads that the rounds handed on, one row each: group, position, head, score with interval."""
    parts = []
    for group, heads in circuit.groups.items():
        found = tables[group].set_index("head").loc[[str(head) for head in heads]].reset_index()
        parts.append(found.assign(group=group, position=POSITIONS[group]))
    columns = ["group", "position", "head", "layer", "score", "low", "high", "n"]
    return pd.concat(parts, ignore_index=True)[columns]


def strongest_table(tables: dict[Group, pd.DataFrame], paper: "Paper", n: int = 3) -> pd.DataFrame:
    """The `n` strongest heads of each round with their scores: the paper's Llama-7B beside ours."""
    rows = []
    for group, table in tables.items():
        ours = table.nsmallest(n, "score").to_dict("records")
        for theirs, row in zip(paper.ranking("llama", group).strongest, ours, strict=False):
            there = {"Llama-7B": str(Head(*theirs["head"])), "its score": theirs["score"]}
            rows.append({"group": LETTERS[group], **there, "this model": row["head"], "score": row["score"]})
    return pd.DataFrame(rows)


def against(tables: dict[Group, pd.DataFrame], others: dict[Group, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables of the rounds beside others of the same heads, by the letters of the groups: for `agreement`."""
    return {LETTERS[group]: beside(tables[group], others[group]) for group in tables if group in others}


def sizes(circuit: Circuit) -> dict[str, int]:
    """How many heads each round handed on, at least one, by the letters of the groups."""
    return {LETTERS[group]: max(len(heads), 1) for group, heads in circuit.groups.items()}


def statistics_table(found: Discovery, tables: dict[Group, pd.DataFrame]) -> pd.DataFrame:
    """Rank correlation of other statistics with the one in `tables`, a row a statistic, a column a group."""
    kinds: list[tuple[str, Statistic, bool]] = [
        ("mean (the paper)", "mean", False),
        ("mean, correct prompts only", "mean", True),
        ("median", "median", False),
        ("mean log-probability", "mean_log", False),
    ]
    rows = []
    for name, kind, only in kinds:
        chosen = {g: scores.where(scores.correct) if only else scores for g, scores in found.scores.items()}
        able = {g: score_table(scores, kind) for g, scores in chosen.items() if len(scores.logprob)}
        compared = agreement(against(tables, able), sizes(found.circuit))
        rows.append({"statistic": name, **dict(zip(compared["group"], compared["spearman"], strict=True))})
    return pd.DataFrame(rows).set_index("statistic")


def dominance(found: Discovery) -> pd.Series:
    """For each group, the largest share that one example has in the paper's score of a head that was handed on.

    An example's share is the size of its score over the sum of all sizes; an even share is one over their number.
    """
    shares = {}
    for group, heads in found.circuit.groups.items():
        parts = [found.scores[group].per_example[head.layer, head.head].abs() for head in heads]
        shares[LETTERS[group]] = max((float(x.max() / x.sum().clamp(min=1e-12)) for x in parts), default=np.nan)
    return pd.Series(shares, name="largest share of one example")


def by_statistics(found: Discovery) -> pd.DataFrame:
    """The heads that were handed on, by each statistic: its score, and the head's rank among all that have a path.

    One row a head: `group`, `head`, and for the ratio of means, the paper's mean, the median and the mean change of the
    log-probability a column with the score and one with the rank, `of` how many. A score above 0 says that the head
    does harm by this statistic.

    >>> print(discovery.by_statistics(found).round(2))
    """
    names: dict[str, Statistic] = {
        "ratio of means": "ratio_of_means", "mean (the paper)": "mean", "median": "median", "log p": "mean_log",
    }  # fmt: skip
    rows = []
    for group, heads in found.circuit.groups.items():
        scores = found.scores[group]
        ranked = {name: scores.ranking(kind) for name, kind in names.items()}
        for head in heads:
            row: dict[str, object] = {"group": LETTERS[group], "head": str(head)}
            for name, kind in names.items():
                row[name] = float(scores.statistic(kind)[head.layer, head.head])
                row[f"rank, {name}"] = ranked[name].index(head) + 1
            rows.append(row | {"of": len(ranked["median"])})
    return pd.DataFrame(rows)


def harmful(tables: dict[Group, pd.DataFrame], n: int = 4) -> pd.DataFrame:
    """The heads that do harm in each round: with their news from the source prompt the answer becomes *more* likely.

    The `n` largest scores of a round whose interval lies above 0, among heads with all examples: `round`, `head`,
    `score`, `low`, `high`, `n`, and `beside`, the most helpful head of the round and its score.

    >>> print(discovery.harmful(tables).round(2))
    """
    rows = []
    for group, table in tables.items():
        if table["score"].isna().all():
            continue  # no head has a path
        best = table.nsmallest(1, "score").iloc[0]
        for row in table[table["low"] > 0].nlargest(n, "score").to_dict("records"):
            told = {name: row[name] for name in ("head", "score", "low", "high", "n")}
            rows.append({"round": LETTERS[group], **told, "beside": f"{best['head']} {best['score']:+.2f}"})
    return pd.DataFrame(rows, columns=["round", "head", "score", "low", "high", "n", "beside"])


def sure(larger: Circuit, tables: dict[Group, pd.DataFrame]) -> tuple[int, int]:
    """How many heads of an enlarged circuit surely help, and how many it has: their interval in the round in which they
    were ranked lies below 0, on the examples that the search gave them. A head counts once at each place.

    >>> print(discovery.sure(criteria.grown(found.circuit, found.rankings(), 8), tables))
    """
    heads = circuit_table(larger, tables)
    below = (heads["high"] < 0).groupby([heads["position"], heads["head"]]).any()
    return int(below.sum()), len(below)


ELSEWHERE = {
    "query+1, to B": ("query+1", "position_transmitter", "last"),
    "prev+1, to C": ("prev+1", "position_detector", "query"),
}
"""Two rounds that the paper does not have: senders one token later, into the values that a group reads there."""


def elsewhere(found: Discovery, n: int, store: Store) -> dict[str, pd.DataFrame]:
    """Score tables of the rounds of `ELSEWHERE`, by their names, from the first `n` prompts of a discovery.

    A token after a label may pass on what it has read there. Each head is tried as a sender at that token: its output
    there is replaced by that in the source prompt, and acts through the values of the group's heads alone.

    >>> tables = discovery.elsewhere(found, 14, Store())
    """
    rows = torch.arange(n)
    base, source = (recording.prompts.select(rows) for recording in found.recordings)
    tables = {}
    for name, (position, into, heard) in ELSEWHERE.items():
        if not found.circuit.groups[into]:
            continue  # nobody to send to
        scores = path_patching.sweep(
            found.recordings[0].subject,
            base,
            source,
            position=position,
            receivers=found.circuit.groups[into],
            composition="v",
            reach=heard,
            store=store,
        )
        tables[name] = score_table(scores)
    return tables


def reach_table(found: Discovery, store: Store, strongest: int = 5, seed: int = 0) -> pd.DataFrame:
    """Round 4 with changed values heard at `query` alone and at every later position, for some heads.

    The `strongest` heads and as many drawn at random from the others that have a path. Scores are ratios of means.
    """
    receivers = found.circuit.groups["position_detector"]
    able = found.scores["structure_reader"].ranking()
    sample = able[:strongest] + random.Random(seed).sample(able[strongest:], min(strongest, len(able[strongest:])))
    if not sample:
        return pd.DataFrame(columns=["head", "chosen", "only at query", "everywhere"])
    base, source = found.recordings
    everywhere = path_patching.sweep(
        base.subject,
        base.prompts,
        source.prompts,
        position="prev",
        receivers=receivers,
        composition="v",
        senders=sample,
        reach="all",
        recordings=found.recordings,
        store=store,
    ).statistic("ratio_of_means")
    narrow = found.scores["structure_reader"].statistic("ratio_of_means")
    return pd.DataFrame(
        {
            "head": [str(head) for head in sample],
            "chosen": ["strongest" if place < strongest else "at random" for place in range(len(sample))],
            "only at query": [float(narrow[head.layer, head.head]) for head in sample],
            "everywhere": [float(everywhere[head.layer, head.head]) for head in sample],
        }
    )


def screens(found: Discovery) -> dict[str, pd.DataFrame]:
    """For each round, the exact mean change of log p(answer) as `score` and its first-order estimate as `other`."""
    tables = {}
    for one in boxes.ROUNDS:
        receivers = found.circuit.groups[one.into] if one.into else None
        if receivers or one.into is None:
            estimate = path_patching.screen(
                *found.recordings,
                position=one.position,
                receivers=receivers,
                composition=one.through,
                reach=one.heard_at or "all",
            )
            exact = score_table(found.scores[one.name], "mean_log")
            tables[LETTERS[one.name]] = exact.assign(other=estimate.flatten().numpy())
    return tables

"""Tables of the circuits of nodes: how they stand beside the whole model, whether they carry over, which heads harm."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from entity_circuits import intervals, statistics
from entity_circuits.circuits import curve, nodes
from entity_circuits.methods import ablation, chosen
from entity_circuits.methods.chosen import Said
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.statistics import Estimate
from entity_circuits.tasks import boxes
from torch import Tensor

from .nodes import AGREE, PROTOCOL, RIGHT, Measured, Sizes

SCORES = ("choice", "top-1", "logit difference", "agreement", "KL")
CURVES = ("logit difference", "choice")
_CARRIED = ("base", "whole", "in_base", "circuit", "random", "own", "over_base", "gain", "through", "beside", "share")
_CHANCE = ("chance", "chance_low", "chance_high")
_ORDER = ("whole", "none", "own", "label first", "again", "base", "random")


def scores(found: Measured, task: str = "evaluation") -> pd.DataFrame:
    """How each circuit stands, a row each: its size, and the scores with their intervals.

    Columns `circuit`, `ablation`, `nodes`, `draws` (random circuits are averaged), each of `SCORES` with `_low` and
    `_high`, `of_whole`, the object choice as a share of the whole model's, and `n`.

        print(node_tables.scores(node_answers.load("code"))[["circuit", "nodes", "choice", "agreement"]])
    """
    whole = found.rows(task, circuit="whole")
    there = {(row["circuit"], row["ablation"], row["size"]) for row in found.asked[task]}
    rows = []
    for circuit, kind, size in sorted(there, key=lambda one: (str(one[1] or ""), _place(one[0]), one[2] or 0)):
        if circuit == "own curve" or (circuit == "random" and size == len(found.orders["own"])):
            continue  # as many random nodes as there are nodes: there was no circuit to draw them for
        said = found.rows(task, circuit=circuit, ablation=kind, size=size)
        row: dict[str, Any] = {"circuit": circuit, "ablation": kind, "nodes": size, "draws": len(said)}
        for name, values in said.scores(whole).items():
            row |= statistics.estimate(values.mean(0), said.contexts).cells(name)
        first, second = said.right.double().mean(0), whole.right[0]
        row |= statistics.ratio(first, second, said.contexts).cells("of_whole") if bool(second.any()) else {}
        rows.append(row | {"n": len(said.contexts)})
    return pd.DataFrame(rows).astype({"nodes": "Int64"})


def _place(circuit: str) -> int:
    return _ORDER.index(circuit) if circuit in _ORDER else len(_ORDER)


def placed(found: Measured) -> pd.DataFrame:
    """Where the nodes of the circuit are: a row a place, with their number, layers, and the most needed of them.

    Columns `place`, `nodes`, `of` (all heads), `layers` ("3-21"), `first` (up to five heads). Empty where
    there is no circuit.

        print(node_tables.placed(node_answers.load("code")))
    """
    order, size = found.orders["own"], found.sizes["own"]
    rows = []
    for place in order.places if size else ():
        some = [head for at, head in order.nodes[:size] if at == place]
        layers = f"{min(some).layer}-{max(some).layer}" if some else ""
        row = {"place": place, "nodes": len(some), "of": len(order) // len(order.places), "layers": layers}
        rows.append(row | {"first": ", ".join(map(str, some[:5]))})
    return pd.DataFrame(rows)


def curves(found: Measured) -> pd.DataFrame:
    """The curve f(k) for each ablation and for both scores of `CURVES`, and the areas of each curve, with intervals.

    Columns `score`, `ablation`, `k` (a share of the nodes; or "CPR", "CMD" of the areas), `nodes`, `f`, `low`, `high`,
    `n`. A curve is left out where the whole model is exactly as good as nothing.

        table = node_tables.curves(node_answers.load("code"))
        print(table[table["k"] == "CPR"])
    """
    whole, rows = found.rows(circuit="whole"), []
    asked = [row for row in found.asked["evaluation"] if row["circuit"] == "own curve"]
    sizes = curve.sized(curve.SIZES, len(found.orders["own"]))
    for kind in dict.fromkeys(row["ablation"] for row in asked):
        parts = [found.rows(circuit="own curve", ablation=kind, size=size).rows([0]) for size in sizes]
        none = found.rows(circuit="none", ablation=kind)
        for score in CURVES:
            values = torch.cat([part.scores(whole)[score] for part in parts])
            low, high = (one.scores(whole)[score][0] for one in (none, whole))
            try:
                told = curve.areas(values, low, high, whole.contexts)
            except ValueError:
                continue
            named = dict(zip(told, [None, None, *sizes], strict=True))
            for k, one in told.items():
                row = {"score": score, "ablation": kind, "k": k, "nodes": named[k], "f": one.value}
                rows.append(row | {"low": one.low, "high": one.high, "n": one.n})
    return pd.DataFrame(rows).astype({"nodes": "Int64"})


def verdict(found: Measured) -> dict[str, Any]:
    """Whether there is a circuit by the protocol, and the smallest size of the curve that is enough, if any.

    `success`, `nodes`, `enough` (None where no circuit on the curve is), and `largest`: whether all nodes are.

        print(node_tables.verdict(node_answers.load("code")))
    """
    whole = found.rows(circuit="whole")

    def enough(said: Said) -> bool:
        right = float(said.right.double().mean()) >= RIGHT * float(whole.right.double().mean())
        return right and float(said.agreement(whole).double().mean()) >= AGREE

    rows = [r for r in found.asked["evaluation"] if r["circuit"] == "own curve" and r["ablation"] == "mean"]
    sizes = [row["size"] for row in rows]
    good = [size for size in sizes if enough(found.rows(circuit="own curve", ablation="mean", size=size))]
    there = found.has(circuit="own", ablation="mean")
    success = there and enough(found.rows(circuit="own", ablation="mean"))
    return {
        "success": success,
        "nodes": found.sizes["own"],
        "enough": min(good, default=None),
        "largest": sizes[-1] in good,
    }


def carried(base: Measured, tuned: Mapping[str, Measured], score: str = "choice") -> pd.DataFrame:
    """Does the base model's circuit carry over? A row a fine-tuned model, of the same prompts.

    Columns, each with `_low` and `_high`: `base` and `whole`, the two whole models; `in_base` and `circuit`, the base
    model's circuit in either; `random`, random nodes in the fine-tuned model; `own`, its own circuit, of `own_nodes`
    (NaN where none was found); `over_base`, the circuit in the fine-tuned model minus the whole base model; `gain`,
    `through` and `beside` (see `curve.gain`), and `share` where there is a gain; `n`.

        tuned = {"code": node_answers.load("code")}
        print(node_tables.carried(node_answers.load("qwen2.5-coder-0.5b"), tuned)[["model", "circuit", "share"]])
    """

    def value(found: Measured, **wanted: Any) -> Tensor:
        whole = found.rows(circuit="whole")
        return found.rows(**wanted).scores(whole)[score].mean(0)

    rows = []
    for name, found in tuned.items():
        if not found.has(circuit="base"):
            continue
        contexts = found.answers["evaluation"].contexts
        first, second = (value(one, circuit="whole") for one in (base, found))
        inside, outside = value(base, circuit="own", ablation="mean"), value(found, circuit="base")
        told: dict[str, Estimate] = {
            "base": statistics.estimate(first, contexts),
            "whole": statistics.estimate(second, contexts),
            "in_base": statistics.estimate(inside, contexts),
            "circuit": statistics.estimate(outside, contexts),
            "random": statistics.estimate(value(found, circuit="random"), contexts),
            "over_base": statistics.difference(outside, first, contexts),
            **curve.gain((inside, outside), (first, second), contexts),
        }
        if found.has(circuit="own", ablation="mean"):
            told["own"] = statistics.estimate(value(found, circuit="own", ablation="mean"), contexts)
        row: dict[str, Any] = {"model": name, "nodes": base.sizes["own"], "own_nodes": found.sizes["own"]}
        for column, one in told.items():
            row |= one.cells(column)
        rows.append(row | {"n": len(contexts)})
    numbers = [f"{name}{end}" for name in _CARRIED for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["model", "nodes", "own_nodes", *numbers, "n"])


def overlaps(base: Measured, others: Mapping[str, Measured], size: int | None = None) -> pd.DataFrame:
    """How many nodes the base model's circuit shares with as many of others, beside the ceiling and chance.

    The ceiling is what the base shares with itself, found on other prompts. Columns `other`, `size`, `shared`,
    `of_base`, `ceiling`, and `chance` with its 95% range for random sets of this size, all shares of `size`. `size` is
    that of the base model's circuit unless given; the ceiling is NaN where its controls were not measured. Empty where
    there is no circuit and no size: all nodes are shared by any two models.

        print(node_tables.overlaps(node_answers.load("qwen2.5-coder-0.5b"), {"code": node_answers.load("code")}))
    """
    from scipy.stats import hypergeom  # slow to import

    own = base.orders["own"]
    size = size or base.sizes["own"]
    if size is None:
        return pd.DataFrame(columns=["other", "size", "shared", "of_base", "ceiling", *_CHANCE])
    low, high = hypergeom.interval(0.95, len(own), size, size)
    named = {"again": "the base itself, other prompts", "label first": "the base, label first"}
    orders = {named[name]: base.orders[name] for name in named if name in base.orders}
    ceiling = np.nan
    if "again" in base.orders:
        ceiling = nodes.shared(own.circuit(size), base.orders["again"].circuit(size))["shared"] / size
    orders |= {name: found.orders["own"] for name, found in others.items()}
    rows = []
    for name, order in orders.items():
        both = nodes.shared(own.circuit(size), order.circuit(size))["shared"]
        row = {"other": name, "size": size, "shared": both, "of_base": both / size, "ceiling": ceiling}
        rows.append(row | dict(zip(_CHANCE, (size / len(own), low / size, high / size), strict=True)))
    return pd.DataFrame(rows)


def harmful(base: Measured, tuned: Mapping[str, Measured]) -> pd.DataFrame:
    """What ablating each of a few heads at `last` does to log p(right among the objects), model by model.

    A row a head and model. Columns `head`, `model`, `effect` (above 0: the head harms) and `choice`, the change of the
    object choice, each with `_low` and `_high`; `harms`, whether the effect is above 0 after Holm's correction over the
    heads of the model; for fine-tuned models `change`, their effect minus the base's on the same prompts, with its
    interval, and `weaker`, whether it is below 0 after Holm's correction; `n`.

        table = node_tables.harmful(node_answers.load("qwen2.5-coder-0.5b"), {})
        print(table[["head", "effect", "harms"]])
    """
    first = _effects(base)
    rows = []
    for name, found in {"base": base, **tuned}.items():
        if found.effects is None or found.effects.chosen is None:
            continue
        contexts, effect = found.effects.contexts, _effects(found)
        right = found.effects.chosen.double()
        above = intervals.holm(np.array([_p(one, contexts, "greater") for one in effect]))
        fallen = [_p(one - other, contexts, "less") for one, other in zip(effect, first, strict=True)]
        below = intervals.holm(np.array(fallen))
        for index, head in enumerate(found.heads):
            row: dict[str, Any] = {"head": str(head), "model": name}
            row |= statistics.estimate(effect[index], contexts).cells("effect")
            row |= statistics.difference(right[index + 1], right[0], contexts).cells("choice")
            row["harms"] = bool(above[index] < 0.05)
            if found is not base:
                row |= statistics.difference(effect[index], first[index], contexts).cells("change")
                row["weaker"] = bool(below[index] < 0.05)
            rows.append(row | {"n": len(contexts)})
    return pd.DataFrame(rows)


def _effects(found: Measured) -> Tensor:
    """(heads, n): the change of log p(right among the objects) without each head."""
    assert found.effects is not None
    return (found.effects.logprob[1:] - found.effects.logprob[:1]).double()


def _p(values: Tensor, contexts: Tensor, side: str) -> float:
    """One-sided p of Student's t over the means of contexts; 1 where nothing changes at all."""
    from scipy.stats import ttest_1samp  # slow to import

    means = pd.Series(values.numpy()).groupby(contexts.numpy()).mean()
    return float(ttest_1samp(means, 0, alternative=side).pvalue) if means.std() > 0 else 1.0


def again(
    subject: Subject, found: Measured, contexts: int, *, sizes: Sizes = PROTOCOL, store: Store | None = None
) -> pd.DataFrame:
    """The whole model, nothing kept, and the circuit run again on the first contexts, beside what is kept.

    Args:
        subject: the model.
        found: what is kept of it.
        contexts: how many.
        sizes: those that it was measured with.
        store: keeps what is finished.

    Columns `circuit`, `same` (prompts with the same choice), `n`, and `apart`, the largest difference of any of the
    log-probabilities. Raises `ValueError` for more prompts than are kept, or others.

        print(node_tables.again(models.load("code"), node_answers.load("code"), contexts=3))
    """
    p = boxes.prompts(subject, 7 * contexts, split="evaluation")
    kept = found.answers["evaluation"]
    if len(p) > len(kept.contexts) or not torch.equal(kept.answer_ids[: len(p)], p.answer_ids.cpu()):
        raise ValueError("these are not the first of the prompts whose answers are kept")
    means, size = (
        ablation.means(subject, prompts=boxes.for_means(subject, n=sizes.means), store=store),
        found.sizes["own"],
    )
    live = {"whole": chosen.whole(subject, p, store=store)}
    order = found.orders["own"]
    asked: dict[str, dict[str, Any]] = {"none": {}}
    if size is not None:
        asked["own"] = order.circuit(size)
    said = chosen.circuits(subject, list(asked.values()), p, means, store=store)
    live |= {name: said.rows([index]) for index, name in enumerate(asked)}
    rows = []
    for name, now in live.items():
        stored = found.rows(circuit=name) if name == "whole" else found.rows(circuit=name, ablation="mean")
        apart = float((stored.logprobs[0, : len(p)] - now.logprobs[0]).abs().max())
        same = int((stored.chosen[0, : len(p)] == now.chosen[0]).sum())
        rows.append({"circuit": name, "same": same, "n": len(p), "apart": apart})
    return pd.DataFrame(rows)

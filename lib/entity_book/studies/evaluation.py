"""One circuit in many models: what is left of each model's accuracy, beside ceilings and random circuits. Table 1."""

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from entity_circuits import models, statistics
from entity_circuits.arguments import integer, one_of
from entity_circuits.circuits import Finding, criteria
from entity_circuits.circuits.growth import besides
from entity_circuits.heads import Circuit
from entity_circuits.methods import ablation
from entity_circuits.methods.ablation import Answers
from entity_circuits.methods.kept import Kept
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.runs.mean_replay import Means
from entity_circuits.runs.replay import Method, executor
from entity_circuits.tasks import boxes
from entity_circuits.tasks.boxes import Prompts, Split

THREE = ("prev", "query", "last")
"""The paper's places: those at which the groups of a circuit stand."""

PAPER_SHARE = 72 / 1024
"""How many of all heads the paper's circuit has in Llama-7B."""


RANDOM = {"same": "same layers", "any": "random"}
"""What a table calls random circuits, by the layers that their heads are drawn from."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A model with all that evaluating circuits in it needs: prompts, its own means, and what it answers unmodified."""

    name: str
    subject: Subject
    prompts: Prompts
    means: Means
    full: Answers


def setting(
    model: "str | Subject",
    contexts: int,
    *,
    boxes_: int = 7,
    seed: int = 0,
    split: Split = "evaluation",
    averaged: int = 100,
    store: Store | None = None,
    **how: Any,
) -> Setting:
    """Load a model (or take one), draw prompts, average its head outputs over `averaged` other contexts, and run it.

    `contexts` worlds of the split are asked for each of their boxes. Means come from the split "means", so no prompt is
    evaluated that a mean was made from. A model that is named is loaded `how` the
    rest says, as device="cuda". Paper: section 4.1; the official code evaluates on contexts of its means (B17).

        base = evaluation.setting("qwen2.5-coder-0.5b", contexts=70)
        print(base.full.estimate())
    """
    one_of("split", split, Split)
    contexts, averaged = integer("contexts", contexts), integer("averaged", averaged)
    name, subject = (model, models.load(model, **how)) if isinstance(model, str) else (model.name, model)
    prompts = boxes.prompts(subject, contexts * boxes_, boxes_, seed, split)
    means = ablation.means(subject, n=averaged, boxes=boxes_, seed=seed, store=store)
    return Setting(name, subject, prompts, means, ablation.full_model(subject, prompts, store))


def first(one: Setting, contexts: int) -> Setting:
    """The same model on its first few contexts, for what needs many circuits; the means stay."""
    rows = torch.arange(integer("contexts", contexts) * one.prompts.boxes)
    if len(rows) > len(one.prompts):
        raise ValueError(f"{contexts} contexts are asked for, and the prompts have {len(set(one.prompts.worlds))}")
    part = one.prompts.select(rows)
    return replace(one, prompts=part, full=one.full.prompts(rows))


def ceiling(one: Setting, extra: Sequence[str] = (), store: Store | None = None) -> Answers:
    """What is right when every head is kept at the three places (and the extra ones), and all others are silenced."""
    everything = ablation.all_heads(one.subject, [*THREE, *extra])
    return ablation.circuit_accuracy(one.subject, everything, one.prompts, one.means, store=store, name="ceiling")


def of_the_papers_share(found: Finding) -> Circuit:
    """A circuit with as large a share of the model's heads as the paper's, off the top of a finding's rankings.

    >>> len(evaluation.of_the_papers_share(circuits.load("qwen2.5-coder-0.5b")))
    23
    """
    return criteria.grown(found.circuit, found.rankings(), PAPER_SHARE * math.prod(found.shape) / len(found.circuit))


def by_layers(one: Setting, places: Sequence[str], bands: int = 4, store: Store | None = None) -> pd.DataFrame:
    """Which layers are needed where: every head is kept at these places, but for those of one band of layers at one.

    One row a place and band: `place`, `layers` ("0-5"), `accuracy`, `low`, `high`, `choice` (among the objects alone),
    `loss` of accuracy against keeping all of them, each with `_low` and `_high` (paired, over contexts), `n`.
    """
    whole = ablation.all_heads(one.subject, places)
    edges = [round(i * one.subject.layers / bands) for i in range(bands + 1)]
    asked = [(place, range(*ends)) for place in places for ends in itertools.pairwise(edges)]
    left = [{**whole, place: tuple(h for h in whole[place] if h.layer not in band)} for place, band in asked]
    answers = ablation.circuit_accuracy(
        one.subject, [whole, *left], one.prompts, one.means, store=store, name="bands of layers"
    )
    rows = []
    for index, (place, band) in enumerate(asked, start=1):
        accuracy = answers.estimate(index)
        loss = statistics.difference(answers.correct[0], answers.correct[index], answers.contexts)
        named: dict[str, object] = {"place": place, "layers": f"{band.start}-{band.stop - 1}"}
        named |= {"accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high, "n": accuracy.n}
        rows.append(named | answers.choice(index).cells("choice") | loss.cells("loss"))
    return pd.DataFrame(rows)


def table(
    settings: Sequence[Setting],
    circuits: Mapping[str, Circuit | Kept],
    *,
    baselines: Sequence[str] = (),
    draws: int = 5,
    layers: Sequence[str] = ("same", "any"),
    also: Kept | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """One row a model and circuit: its accuracy, beside the model's own, and its faithfulness.

    The circuits named in `baselines` bring more rows: the mean of `draws` random circuits of equal layer profile
    ("same" `layers`), and of equal size ("any"). Columns `model`, `circuit`, `heads`, `full` (the model's accuracy),
    `accuracy`, `low`, `high`, `difference` (accuracy minus full, paired) and `ratio` (accuracy / full, the paper's
    faithfulness; NaN where the model is not above chance), each with `_low` and `_high`, and `n`. The object choice
    stands beside them as `full_choice`, `choice` and `choice_ratio`. Heads that are kept `also`, with each of them, are
    not counted.

        print(evaluation.table([base], {"found": circuit}, baselines=["found"]))
    """
    rows = []
    for one in settings:
        asked: dict[str, list[Circuit | Kept]] = {}
        for name, circuit in circuits.items():
            asked[name] = [circuit]
            if name in baselines:
                for which in layers:
                    drawn = criteria.random_circuits(one.subject, circuit, draws, layers=which)  # type: ignore[arg-type]
                    asked[f"{name}: {RANDOM[which]}"] = list(drawn)
        everything = kept_too([circuit for some in asked.values() for circuit in some], also)
        answers = ablation.circuit_accuracy(one.subject, everything, one.prompts, one.means, store=store, name=one.name)
        chance, begin = 1 / one.prompts.boxes, 0
        for name, some in asked.items():
            part = answers.rows(slice(begin, begin + len(some)))
            begin += len(some)
            right = part.correct.double().mean(0)
            found = criteria.faithfulness(right, one.full.correct[0], one.full.contexts, chance=chance)
            named = {"model": one.name, "circuit": name, "heads": ablation.size(some[0]), "full": found.full.value}
            rows.append({**named, **found.cells(), **_choices(part, one.full, chance)})
    return pd.DataFrame(rows)


def kept_too(circuits: Iterable[Circuit | Kept], also: Kept | None) -> list[Circuit | Kept]:
    """These circuits, each with the heads that are kept `also`."""
    more = ablation.kept(also or {})
    return [besides(one, more) for one in circuits]


def _choices(part: Answers, full: Answers, chance: float) -> dict[str, float]:
    """The part of a row of `table` about the object choice: the mean of these circuits beside the whole model."""
    cells = {"full_choice": full.choice().value, **part.choice(slice(None)).cells("choice")}
    if part.chosen is None or full.chosen is None:
        return cells | dict.fromkeys(("choice_ratio", "choice_ratio_low", "choice_ratio_high"), np.nan)
    chosen = part.chosen.double().mean(0)
    found = criteria.faithfulness(chosen, full.chosen[0], full.contexts, chance=chance).cells()
    return cells | {f"choice_{name}": found[name] for name in ("ratio", "ratio_low", "ratio_high")}


def spoken(rows: pd.DataFrame, model: str, circuit: str) -> str:
    """The accuracy of one circuit in one model, from a `table`, in the words of a sentence.

    print(evaluation.spoken(evaluation.table([base], {"found": circuit}), base.name, "found"))
    """
    return _said(rows[(rows["model"] == model) & (rows["circuit"] == circuit)])


def _said(rows: pd.DataFrame) -> str:
    """The accuracy of the first of these rows."""
    return statistics.spoken(*rows[["accuracy", "low", "high"]].to_numpy()[0].tolist())


def steps(one: Setting, extra: Sequence[str], store: Store | None = None) -> pd.DataFrame:
    """The `ceiling` of the three places, and of five and six: with the first two and the first three of `extra`.

    One row each, by those names: `added`, the places that come in with it, and the columns of
    `criteria.faithfulness_table` against the full model.
    """
    places: dict[str, Sequence[str]] = {"three places": [], "five": extra[:2], "six": extra[:3]}
    ceilings = {name: ceiling(one, more, store) for name, more in places.items()}
    chance = 1 / one.prompts.boxes
    table = criteria.faithfulness_table(ceilings, {"full model": one.full}, chance=chance).set_index("circuit")
    table["added"] = ["", " and ".join(extra[:2]) or "none", *(extra[2:3] or ["none"])]
    return table


def steps_in_words(table: pd.DataFrame) -> dict[str, str]:
    """The accuracies of `steps` in words, by the names `three_places`, `five` and `six`, and `six_gap`, what six lack.

    print(evaluation.steps_in_words(evaluation.steps(base, ["prev+1", "query+1"])))
    """
    words = {name.replace(" ", "_"): _said(table.loc[[name]]) for name in table.index}
    gap, low, high = table.loc[["six"], ["difference", "difference_low", "difference_high"]].to_numpy()[0]
    return {**words, "six_gap": f"{gap:+.2f} [{low:+.2f}, {high:+.2f}]"}


def widened(grown: pd.DataFrame, wide: pd.DataFrame) -> pd.DataFrame:
    """Accuracies of circuits off the top of the rankings at three places, beside the same with further ones kept.

    `grown` and `wide` are tables of `criteria.growth` at the same scales, `wide` with heads kept `also`. One row a
    number of heads of the rankings, those at further places not counted; columns `three places` and `five places`.
    """
    both = {"three places": grown[grown["kind"] == "ranking"], "five places": wide}
    curves = pd.concat([table.assign(places=name) for name, table in both.items()])
    curves["heads"] = curves["scale"].map(dict(zip(grown["scale"], grown["heads"], strict=True)))
    return curves.pivot(index="heads", columns="places", values="accuracy")


def widened_in_words(grown: pd.DataFrame, wide: pd.DataFrame) -> dict[str, str]:
    """The best circuit of `wide`, in words, and what the same heads of the rankings have without the further places.

    `wide_best` and `narrow_best` are the accuracies, `wide_heads` is the number of heads; tables as in `widened`.
    """
    best = wide.loc[[wide["accuracy"].idxmax()]]
    narrow = grown[(grown["kind"] == "ranking") & (grown["scale"] == best["scale"].iloc[0])]
    return {"wide_best": _said(best), "wide_heads": str(narrow["heads"].iloc[0]), "narrow_best": _said(narrow)}


def cost(one: Setting, circuit: Circuit | Kept, contexts: int = 2) -> pd.DataFrame:
    """One circuit's accuracy on the first few contexts by definition and by replay: seconds, and whether they agree.

    One row a method: `seconds`, `seconds_per_100` prompts, `speedup` over the definition, `largest_difference` of a
    log-probability of the right answer from the definition's, `same_answers`, `n`. Nothing is stored or taken from a
    store. Seconds depend on the machine and on what else it does.

        print(evaluation.cost(base, circuit))
    """
    part, rows, results = first(one, contexts), [], []
    for method in get_args(Method):
        begin = time.perf_counter()
        results.append(ablation.circuit_accuracy(part.subject, circuit, part.prompts, part.means, method=method))
        rows.append({"method": method, "seconds": time.perf_counter() - begin, "n": len(part.prompts)})
    literal = results[get_args(Method).index("definition")]
    table = pd.DataFrame(rows)
    table["seconds_per_100"] = 100 * table["seconds"] / table["n"]
    table["speedup"] = float(table.loc[table["method"] == "definition", "seconds"].iloc[0]) / table["seconds"]
    table["largest_difference"] = [float((found.logprob - literal.logprob).abs().max()) for found in results]
    table["same_answers"] = [float((found.correct == literal.correct).double().mean()) for found in results]
    return table


PLACES: dict[str, str] = {
    "object-1": "the article of the queried object",
    "object": "the queried object",
    "object+1": "`is` of the queried statement",
    "object+2": "`in` of the queried statement",
    "prev-1": "`Box` of the queried statement",
    "prev+1": "the comma after the queried statement",
    "other objects-1": "the articles of the other objects",
    "other objects": "the other objects",
    "other objects+1": "`is` of the other statements",
    "other objects+2": "`in` of the other statements",
    "other labels-1": "`Box` of the other statements",
    "other labels": "the other labels",
    "other labels+1": "the commas after the other statements",
    "query-1": "`Box` of the query",
    "query+1": "`contains` of the query",
}
"""Every token of a prompt of the paper's form other than `prev`, `query` and `last`, by the part that it plays (after
the last statement there is a full stop in place of the comma)."""


def scan_positions(
    subject: Subject,
    prompts: Prompts,
    means: Means,
    places: Sequence[str] = tuple(PLACES),
    *,
    start: Kept | None = None,
    rounds: int = 1,
    enough: float = 0.95,
    method: Method = "replay",
    store: Store | None = None,
) -> pd.DataFrame:
    """Which positions carry the rest: all heads are kept at one more place at a time, beside those of `start`.

    `start` is all heads at `prev`, `query` and `last` unless given. After each of the `rounds` the best place stays; a
    second or later one is made only below `enough` of the full model's accuracy. One row a place and round: `round` (0
    is `start` alone), `place`, `accuracy` with `low` and `high`, `choice` (among the objects alone) and `gain` over the
    round before (paired), each with `_low` and `_high`, `of_full` (its share of the full model's accuracy), `chosen`
    (whether this place stays), `n`.

        print(evaluation.scan_positions(subject, p, means, ["object", "prev+1", "query+1"]))
    """
    executor(method)  # an unknown one is told before anything runs
    full = ablation.full_model(subject, prompts, store)
    standing: Kept = ablation.all_heads(subject) if start is None else ablation.kept(start)
    left, rows = list(places), []
    before = ablation.circuit_accuracy(subject, standing, prompts, means, method=method, store=store)
    rows.append(_scanned(0, "(start)", before, before, full) | {"chosen": True})
    for turn in range(1, rounds + 1):
        tried = [{**standing, **ablation.all_heads(subject, [place])} for place in left]
        reached = float(before.correct.double().mean()) >= enough * float(full.correct.double().mean())
        if not tried or (turn > 1 and reached):
            break
        found = ablation.circuit_accuracy(subject, tried, prompts, means, method=method, store=store, name="places")
        best = int(found.correct.sum(1).argmax())
        for index, place in enumerate(left):
            row = _scanned(turn, place, found.rows([index]), before, full)
            rows.append(row | {"chosen": index == best})
        standing, before = tried[best], found.rows([best])
        left.pop(best)
    return pd.DataFrame(rows)


def _scanned(turn: int, place: str, found: Answers, before: Answers, full: Answers) -> dict[str, object]:
    accuracy = found.estimate()
    gain = statistics.difference(found.correct[0], before.correct[0], found.contexts)
    whole = float(full.correct.double().mean())
    return {
        "round": turn,
        "place": place,
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        **found.choice().cells("choice"),
        **gain.cells("gain"),
        "of_full": accuracy.value / whole if whole else np.nan,
        "n": accuracy.n,
    }

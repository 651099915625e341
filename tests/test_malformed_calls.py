# mypy: ignore-errors
"""No malformed call computes something else: each is refused in words that name what is wrong, before a model runs.

A case is what is wrong, a piece of what the error says of it, and the call. While it runs, no module of any model may.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from entity_book.claims import findings
from entity_book.studies import discovery, evaluation, semantics
from entity_book.training import data, finetune
from entity_circuits import (
    ablation,
    bootstrap,
    boxes,
    circuits,
    cmap,
    criteria,
    dcm,
    desiderata,
    heads,
    interchange,
    intervals,
    knockout,
    path_patching,
    prompts,
    replay,
    runs,
    statistics,
)
from entity_circuits import agreement as agreements
from entity_circuits.circuits import curve, nodes
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import chosen as choosing
from entity_circuits.methods import metrics, needs, shares
from entity_circuits.methods.scores import Scores
from entity_circuits.models.shape import Shape
from entity_circuits.runs import answers, mean_replay
from entity_circuits.runs.mean_replay import Means
from entity_circuits.tasks import rounds, triples
from entity_circuits.tasks.boxes import Template, World

Case = tuple[str, str, Callable[[], Any]]

TEXT = "The cup is in Box F. Box F contains the"
WORLD = World(("apple", "cup"), ("F", "Q"))


@cache
def s() -> Any:
    """The model that is asked."""
    return tiny.subject()


@cache
def other() -> Any:
    """A model of another shape."""
    return tiny.subject("mistral", layers=3)


@cache
def p() -> Any:
    return boxes.prompts(s(), 6, 3)


@cache
def seven() -> Any:
    return boxes.prompts(s(), 7)


@cache
def source() -> Any:
    """Prompts without right answers."""
    return boxes.noise(s(), p())


@cache
def rec() -> Any:
    return runs.record(s(), p())


@cache
def both() -> Any:
    return rec(), runs.record(s(), source())


@cache
def means() -> Any:
    return ablation.means(s(), n=4, boxes=3)


@cache
def foreign() -> Any:
    """Means of prompts of the same length in a model of another shape."""
    return ablation.means(other(), n=4, boxes=3)


@cache
def pairs() -> Any:
    return desiderata.triples(s(), "position", 3, 3)


@cache
def validation() -> Any:
    return desiderata.triples(s(), "position", 3, 3, split="pruning")


@cache
def recorded_pairs() -> Any:
    return interchange.record(s(), pairs())


@cache
def scores() -> Any:
    change = torch.linspace(-1, 0, 4 * 8 * 6).view(4, 8, 6)
    return Scores(change, torch.full((6,), -1.0), torch.ones(6, dtype=torch.bool), torch.arange(6))


@cache
def finding() -> Any:
    return circuits.load("qwen2.5-coder-0.5b")


@cache
def study() -> Any:
    groups = {"value_fetcher": (Head(3, 5),)}
    return semantics.study(s(), groups, contexts=1, training=1, validation=1, boxes_=3)


@cache
def patched() -> Any:
    condition = cmap.Condition("A", {"last": ["L3H5"]})
    return cmap.sweep(s(), tiny.subject(seed=1), [condition], p())


@cache
def answered() -> Any:
    return ablation.full_model(s(), p())


def two() -> Any:
    """What two circuits answer."""
    return {"two": replace(answered(), correct=answered().correct.repeat(2, 1))}


def elsewhere() -> Any:
    """A circuit whose value fetchers act at another place."""
    circuit = replace(finding().circuit, positions={"value_fetcher": "prev"})
    return replace(finding(), circuit=circuit)


def mask(position: str) -> Any:
    """What was learned at a position."""
    none = torch.zeros(1)
    looks = pd.DataFrame({"step": [0], "heads": [0], "accuracy": [0.0]})
    return dcm.Mask((Head(0, 0),), position, "object", 0.1, None, none, none[None], none, looks, (), 0.0, True)


NOBODY = ThreadPoolExecutor(1)
ENDED = ThreadPoolExecutor(1)
ENDED.shutdown()
SHAPE = Shape(2, 8, 2, 2, 4, 16, 10)
LAST: dict[str, Any] = {"last": ["L3H5"]}
CIRCUIT = Circuit({"value_fetcher": (Head(3, 5),)})
RANKING = {"value_fetcher": heads.every(4, 8)}
NOWHERE: dict[str, Any] = {"last": ["L9H0"]}
ONES = (torch.ones(3), torch.ones(3), torch.arange(3))
TABLE = pd.DataFrame({"context": [0], "correct": [1]})
OPEN = "Box {label} contains the"
READ: dict[str, Any] = {"position": "last"}


def z(n: int = 1) -> torch.Tensor:
    return torch.zeros(6, n, s().head_size)


def edit(site: Any = "z", layer: Any = 0, some: Any = (0,), **more: Any) -> Any:
    """What a run does with one edit."""
    given = {"position": p().last, "value": z(len(some) if isinstance(some, tuple) else 1)} | more
    return runs.run(s(), p(), [runs.Edit(site, layer, some, **given)])


def text(words: Any = TEXT, answer: Any = " cup", **more: Any) -> Any:
    return prompts.from_texts(s(), [words], [answer], **more)


def world(query: Any = 0, some: World = WORLD, **more: Any) -> Any:
    return boxes.from_worlds(s(), [some], [query], **more)


def patch(**more: Any) -> Any:
    return path_patching.sweep(s(), p(), source(), **{**READ, **more})


def sought(places: Any, some: Any = None, **more: Any) -> Any:
    return nodes.find(s(), some or p(), means(), places, **more)


def halved(times: int) -> Any:
    slots = p().last[:, None].expand(-1, times)
    weight = torch.ones(s().layers, times, s().heads)
    return mean_replay.weighted(s(), p(), slots, weight, means())


def received(**more: Any) -> Any:
    return patch(**{"position": "prev", "receivers": ["L3H5"], "composition": "v", **more})


def learn(**more: Any) -> Any:
    given = {"heads": ["L3H5"], "triples": pairs(), "validation": validation(), "position": "last", **more}
    return dcm.learn(s(), given.pop("heads"), given.pop("triples"), given.pop("validation"), **given)


def accuracy(circuit: Any = LAST, some: Any = None, at: Any = None, **more: Any) -> Any:
    return ablation.circuit_accuracy(s(), circuit, some or p(), at or means(), **more)


def moved(**more: Any) -> Any:
    """Cross-model patching of a model with itself."""
    condition = more.pop("condition", None) or cmap.Condition("A", LAST)
    given = {"prompts": p(), **more}
    return cmap.sweep(s(), s(), [condition], given.pop("prompts"), **given)


def screened(**more: Any) -> Any:
    return path_patching.screen(*both(), position="prev", receivers=["L3H5"], composition="v", **more)


def without(removed: Any = (LAST,), some: Any = None, **more: Any) -> Any:
    return ablation.full_without(s(), removed, some or p(), means(), **more)


def unlike() -> Any:
    """Path patching between prompts about seven boxes and prompts about two."""
    return path_patching.sweep(s(), boxes.prompts(s(), 14), boxes.prompts(s(), 14, 2), position="last")


def effects(keep: Any) -> Any:
    return nodes.effects(s(), p(), means(), ["last"], keep=keep)


def said(some: Any) -> Any:
    return choosing.circuits(s(), some, p(), means())


def setting() -> Any:
    return evaluation.Setting("a", s(), p(), means(), answered())


def uneven() -> Any:
    return prompts.from_texts(s(), [TEXT] * 2, [" cup"] * 2, choices=[[" cup"], [" cup", " apple"]])


def chosen() -> Any:
    return path_patching.sweep(s(), text(), text(), position="last", metric="choice")


def asked(query: str) -> Any:
    return world(template=Template(query=query))


def told(statement: str) -> Any:
    return world(template=Template(statement=statement))


def masks(**more: Any) -> Any:
    return dcm.sweep(s(), ["L3H5"], pairs(), validation(), position="last", **more)


def nan_like(x: torch.Tensor) -> torch.Tensor:
    return torch.full_like(x, math.nan)


WORDS: list[Case] = [
    ("site of an edit", "'Z'", lambda: edit("Z")),
    ("site of a read", "'Z'", lambda: runs.run(s(), p(), read=[runs.Read("Z", 0, p().last)])),
    ("a score is not read", "'score'", lambda: runs.run(s(), p(), read=[runs.Read("score", 0, p().last)])),
    ("composition", "'z'", lambda: received(composition="z")),
    ("nodes without last", "`last` has to be", lambda: sought(["query"])),
    ("nodes at one token twice", "are one token in some", lambda: sought(["last", "query+2"])),
    ("nodes at no place", "no place called 'querry'", lambda: sought(["last", "querry"])),
    ("nodes: no places", "places", lambda: sought([])),
    ("nodes: all go at once", "drop", lambda: sought(["last"], drop=1.0)),
    ("nodes: none goes", "drop", lambda: sought(["last"], drop=0)),
    ("what is said of prompts without choices", "to choose among", lambda: choosing.whole(s(), text())),
    ("nodes: foreign means", "of another model", lambda: nodes.find(s(), p(), foreign(), ["last"])),
    ("fewest: no order", "Order is needed", lambda: nodes.fewest(s(), None, p(), means())),
    ("fewest: more than all agree", "agree", lambda: nodes.fewest(s(), None, p(), means(), agree=1.5)),
    ("a node twice", "twice", lambda: nodes.by_place([("last", Head(0, 0)), ("last", Head(0, 0))])),
    ("circuits: none", "circuits", lambda: choosing.circuits(s(), [], p(), means())),
    ("circuits: no such head", "L9H9 at last", lambda: choosing.circuits(s(), [{"last": ["L9H9"]}], p(), means())),
    ("weights at a place twice", "no two slots", lambda: halved(2)),
    ("a curve that falls", "rising sizes", lambda: curve.areas([[1], [1]], [0], [1], [0], sizes=(0.5, 0.2))),
    ("a curve of too few rows", "a row of prompts for each", lambda: curve.areas([[1]], [0], [1], [0])),
    ("a curve beyond all nodes", "size", lambda: curve.areas([[1]], [0], [1], [0], sizes=(2.0,))),
    ("a curve from nothing to nothing", "as good as nothing", lambda: curve.areas([[1]], [1], [1], [0], sizes=(1.0,))),
    ("a curve between equal sums", "good as nothing", lambda: curve.areas([[1]], [0.3], [0.1 + 0.2], [0], (1.0,))),
    ("a curve of no numbers", "finite", lambda: curve.areas([[math.nan]], [0], [1], [0], sizes=(1.0,))),
    ("a group called n", "'n'", lambda: statistics.by(pd.DataFrame({"n": [1], "context": [0], "correct": [1]}), "n")),
    ("a row of several circuits", "'two' are several", lambda: criteria.faithfulness_table(two(), two(), 0.1)),
    ("groups at two places", "'prev' in the other", lambda: circuits.compare(finding(), elsewhere())),
    ("a share of two positions", "differ in penalty", lambda: dcm.chosen([mask("last"), mask("query")])),
    ("fewer names than candidates", "one for each", lambda: replace(pairs(), names=("base",))),
    ("a candidate called other", "'other'", lambda: replace(pairs(), names=("other", *pairs().names[1:]))),
    ("about of no JSON", "about", lambda: rounds.Experiment(p(), source(), (), {"seed": np.int64(3)})),
    ("composition in capitals", "'Q'", lambda: received(composition="Q")),
    ("reach of a sweep", "'Query'", lambda: received(reach="Query")),
    ("reach of a discovery", "'Query'", lambda: path_patching.discover(s(), n=6, boxes=3, reach="Query")),
    ("reach of a screen", "'Query'", lambda: screened(reach="Query")),
    ("statistic of a discovery", "'medain'", lambda: path_patching.discover(s(), n=6, boxes=3, statistic="medain")),
    ("statistic of scores", "'medain'", lambda: scores().statistic("medain")),
    ("statistic of a ranking", "'medain'", lambda: scores().ranking("medain")),
    ("statistic of a score table", "'medain'", lambda: discovery.score_table(scores(), "medain")),
    ("statistic of a comparison", "'medain'", lambda: circuits.compare(finding(), finding(), "medain")),
    ("statistic of an impact", "'medain'", lambda: circuits.impact(finding(), finding(), statistic="medain")),
    ("statistic of rankings", "'medain'", lambda: finding().rankings("medain")),
    ("average", "'medain'", lambda: statistics.estimate([1, 2], statistic="medain")),
    ("average of a table", "'medain'", lambda: statistics.intervals([1, 2], statistic="medain")),
    ("metric", "'logits'", lambda: patch(metric="logits")),
    ("metric of an accuracy", "'logits'", lambda: accuracy(metric="logits")),
    ("metric of the model", "'logits'", lambda: ablation.full_model(s(), p(), metric="logits")),
    ("method of a sweep", "'fast'", lambda: patch(method="fast")),
    ("method of an accuracy", "'fast'", lambda: accuracy(method="fast")),
    ("method of a removal", "'fast'", lambda: without(method="fast")),
    ("method of completeness", "'fast'", lambda: criteria.completeness(s(), LAST, p(), means(), method="fast")),
    ("method of minimality", "'fast'", lambda: criteria.minimality(s(), LAST, p(), means(), method="fast")),
    ("method of a growth", "'fast'", lambda: criteria.growth(s(), CIRCUIT, RANKING, p(), means(), method="fast")),
    ("method of a knockout", "'fast'", lambda: knockout.sweep(s(), p(), method="fast")),
    ("method of a mask", "'fast'", lambda: learn(method="fast")),
    ("method of a patch", "'fast'", lambda: interchange.patch(s(), ["L3H5"], pairs(), position="last", method="fast")),
    ("method of answers", "'fast'", lambda: interchange.answers(recorded_pairs(), [()], "last", "fast")),
    ("method across models", "'fast'", lambda: moved(method="fast")),
    ("layers of random circuits", "'sane'", lambda: criteria.random_circuits(s(), LAST, 2, layers="sane")),
    ("split", "'tests'", lambda: boxes.prompts(s(), 6, 3, split="tests")),
    ("split of triples", "'test'", lambda: desiderata.triples(s(), n=3, boxes=3, split="test")),
    ("desideratum", "'positions'", lambda: desiderata.triples(s(), "positions")),
    ("name of a template", "'object_frist'", lambda: boxes.prompts(s(), 6, 3, template="object_frist")),
    ("origin of a condition", "'rnu'", lambda: cmap.Condition("A", LAST, ("q",), origin="rnu")),
    ("direction of a condition", "'bsae'", lambda: cmap.Condition("A", LAST, into="bsae")),
    ("site of a condition", "'w'", lambda: cmap.Condition("A", LAST, sites=("w",))),
    ("direction of groups", "'bsae'", lambda: cmap.groups(Circuit({}), into="bsae")),
    ("letters of groups", "'AX'", lambda: cmap.groups(CIRCUIT, combined=("AX",))),
    ("sites of inputs", "'qx'", lambda: cmap.inputs(CIRCUIT, sites=("qx",))),
    ("reach of a scan", "'upto'", lambda: cmap.scan(s(), "last", reach="upto")),
    ("which model is unmodified", "'bsae'", lambda: patched().unmodified("bsae")),
    ("through what a round hears", "'w'", lambda: rounds.Round("D", "prev", into="C", through="w")),
    ("condition of a knockout", "'last-object'", lambda: knockout.sweep(s(), p(), conditions=["last-object"])),
    ("part of a study", "'tset'", lambda: study().pairs("tset")),
    ("part of a patch", "'tset'", lambda: study().patch({"A": [Head(3, 5)]}, "last", "object", "tset")),
    ("part that is forgotten", "'tset'", lambda: study().forget("tset")),
    ("hypothesis of a patch", "'objects'", lambda: study().patch({"A": [Head(3, 5)]}, "last", "objects")),
    ("hypothesis of masks", "'objects'", lambda: semantics.learn([study()], {"value_fetcher": ["objects"]})),
    ("split of a setting", "'tests'", lambda: evaluation.setting(s(), 2, boxes_=3, split="tests")),
    ("part of examples", "'test'", lambda: data.examples("arithmetic", 2, part="test")),
    ("kind of examples", "'maths'", lambda: data.examples("maths", 2)),
    ("kind of a recipe", "'maths'", lambda: finetune.Recipe("maths")),
]  # fmt: skip

NUMBERS: list[Case] = [
    ("layer of an edit", "99", lambda: edit(layer=99)),
    ("layer below 0", "-1", lambda: edit(layer=-1)),
    ("head of an edit", "8", lambda: edit(some=(8,))),
    ("head below 0", "-1", lambda: edit(some=(-1,))),
    ("a head twice in an edit", "twice", lambda: edit(some=(1, 1))),
    ("an edit without heads", "no heads", lambda: edit(some=())),
    ("heads that are a number", "3", lambda: edit(some=3)),
    ("a layer that is no whole number", "1.5", lambda: edit(layer=1.5)),
    ("a position beyond the prompt", "99", lambda: edit(position=torch.full((6,), 99))),
    ("a position that is a float", "float", lambda: edit(position=p().last.float())),
    ("a value of another shape", "(6, 1, 7)", lambda: edit(value=torch.zeros(6, 1, 7))),
    ("a value that is not a number", "NaN", lambda: edit(value=nan_like(z()))),
    ("a keep above 1", "1.5", lambda: edit(keep=torch.tensor([1.5]))),
    ("a negative layer of a head", "-1", lambda: Head(-1, 2)),
    ("a layer that is text", "'3'", lambda: Head("3", 2)),
    ("a head written otherwise", "L3.5", lambda: heads.of("L3.5")),
    ("heads that are a number", "3", lambda: heads.of(3)),
    ("layers below 1", "-2", lambda: heads.every(-2, 8)),
    ("a group with a head twice", "L3H5", lambda: Circuit({"value_fetcher": (Head(3, 5), Head(3, 5))})),
    ("a group of text", "'L3-5'", lambda: Circuit({"value_fetcher": "L3-5"})),
    ("a group of numbers", "5", lambda: Circuit({"value_fetcher": 5})),
    ("scores of one axis", "(3,)", lambda: heads.ranked(np.zeros(3))),
    ("receivers that are not there", "L9H0", lambda: received(receivers=["L9H0"])),
    ("no receivers", "receivers", lambda: received(receivers=[])),
    ("senders that are not there", "L99H0", lambda: patch(senders=["L99H0"])),
    ("no senders", "senders", lambda: patch(senders=[])),
    ("one recording of two", "recording", lambda: patch(recordings=(rec(),))),
    ("k below 0", "-1", lambda: path_patching.discover(s(), n=6, boxes=3, k=-1)),
    ("k of 0", "0", lambda: path_patching.discover(s(), n=6, boxes=3, k=0)),
    ("k beyond all heads", "33", lambda: path_patching.discover(s(), n=6, boxes=3, k=33)),
    ("k that is no whole number", "2.5", lambda: path_patching.discover(s(), n=6, boxes=3, k=2.5)),
    ("k of no round", "'E'", lambda: path_patching.discover(s(), n=6, boxes=3, k={"E": 2})),
    ("first rows of a table below 0", "-1", lambda: scores().table(-1)),
    ("first rows of an impact below 0", "-1", lambda: circuits.impact(finding(), finding(), top=-1)),
    ("examples of a score that are not there", "9", lambda: scores().where(torch.tensor([9]))),
    ("a batch of no answers", "0", lambda: answers.evaluate(s(), p(), batch=0)),
    ("a batch below 0 of means", "-1", lambda: ablation.means(s(), p(), batch=-1)),
    ("a batch of no means", "0", lambda: ablation.means(s(), p(), batch=0)),
    ("a batch of no removals", "0", lambda: without(batch=0)),
    ("nothing to remove", "removed", lambda: without([])),
    ("a batch of no knockouts", "0", lambda: knockout.sweep(s(), p(), batch=0)),
    ("start layers that are not there", "9", lambda: knockout.sweep(s(), p(), starts=[9])),
    ("a cut that starts below 0", "-1", lambda: knockout.cut(s(), p().last, p().object, -1)),
    ("a cut that starts above", "9", lambda: knockout.cut(s(), p().last, p().object, 9)),
    ("a batch of no patches", "0", lambda: moved(batch=0)),
    ("a batch of no pairs", "0", lambda: interchange.record(s(), pairs(), batch=0)),
    ("memory below 0", "-1", lambda: accuracy(memory=-1.0)),
    ("no prompts", "n=0", lambda: boxes.prompts(s(), 0, 3)),
    ("n that is no whole number", "6.0", lambda: boxes.prompts(s(), 6.0, 3)),
    ("n that is true", "True", lambda: boxes.prompts(s(), True, 3)),
    ("a seed that is no number", "'x'", lambda: boxes.prompts(s(), 6, 3, seed="x")),
    ("boxes", "1", lambda: boxes.prompts(s(), 6, 1)),
    ("means of no prompts", "0", lambda: boxes.for_means(s(), n=0)),
    ("means of too many boxes", "11", lambda: boxes.for_means(s(), n=2, boxes=11)),
    ("triples", "0", lambda: desiderata.triples(s(), n=0)),
    ("box below 0", "-1", lambda: world(-1)),
    ("box that is not there", "2", lambda: world(2)),
    ("box that is no whole number", "0.5", lambda: world(0.5)),
    ("no worlds", "worlds", lambda: boxes.from_worlds(s(), [], [])),
    ("the mask of other prompts", "5", lambda: p().select(torch.ones(5, dtype=torch.bool))),
    ("an empty mask", "no prompts", lambda: p().select(torch.zeros(6, dtype=torch.bool))),
    ("rows that are not there", "6", lambda: p().select([0, 6])),
    ("rows that are no whole numbers", "0.5", lambda: p().select([0.5, 1.5])),
    ("the mask of other triples", "5", lambda: pairs().select(torch.ones(5, dtype=torch.bool))),
    ("rows of triples that are not there", "3", lambda: pairs().select([3])),
    ("answers of circuits that are not there", "4", lambda: answered().rows([4])),
    ("the estimate of a circuit that is not there", "3", lambda: answered().estimate(3)),
    ("the estimate of a condition that is not there", "3", lambda: patched().estimate(3)),
    ("sources of fewer prompts", "7", lambda: path_patching.sweep(s(), p(), seven(), position="last")),
    ("sources of other boxes", "boxes", lambda: unlike()),
    ("a place that is not there", "'qurey'", lambda: patch(position="qurey")),
    ("a name that is no text", "3", lambda: p().position(3)),
    ("prompts of one dtype and another", "float", lambda: replace(text(), answer_ids=torch.zeros(1))),
    ("prompts of one length and another", "(2,)", lambda: replace(text(), last=torch.tensor([3, 3]))),
    ("a last token that is not there", "99", lambda: replace(text(), last=torch.tensor([99]))),
    ("a circuit whose head is not there", "L9H0", lambda: accuracy({"last": ["L9H0"]})),
    ("a removed head that is not there", "L9H0", lambda: without([NOWHERE])),
    ("a place of a circuit", "'qurey'", lambda: accuracy({"qurey": ["L3H5"]})),
    ("no circuits", "circuits", lambda: accuracy([])),
    ("means of another shape of model", "other", lambda: accuracy(at=foreign())),
    ("means of other prompts", "tokens", lambda: accuracy(some=seven())),
    ("a place that no prompt has", "'last+1'", lambda: accuracy({"last+1": ["L3H5"]})),
    ("a removal where no prompt has a token", "'last+1'", lambda: without([{"last+1": ["L3H5"]}])),
    ("circuits where no prompt has a token", "'last+1'", lambda: said([{"last+1": ["L3H5"]}])),
    ("means that are not numbers", "NaN", lambda: replace(means(), z=nan_like(means().z))),
    ("a keep of other layers", "(3, 1, 8)", lambda: effects(torch.ones(3, 1, 8, dtype=torch.bool))),
    ("a keep of other places", "(4, 2, 8)", lambda: effects(torch.ones(4, 2, 8, dtype=torch.bool))),
    ("a keep of floats", "float", lambda: effects(torch.full((4, 1, 8), 7.0))),
    ("a keep that is a list", "list", lambda: effects([True])),
    ("means in another dtype", "float64", lambda: accuracy(at=Means(means().z.double(), 4))),
    ("random circuits", "-1", lambda: criteria.random_circuits(s(), LAST, -1)),
    ("random circuits of a head that is not there", "L9H0", lambda: criteria.random_circuits(s(), NOWHERE, 2)),
    ("a scale below 0", "-1", lambda: criteria.grown(CIRCUIT, RANKING, -1)),
    ("a scale that is not a number", "nan", lambda: criteria.grown(CIRCUIT, RANKING, math.nan)),
    ("a ranking of other groups", "'value_fetcher'", lambda: criteria.grown(CIRCUIT, {}, 2)),
    ("no scales", "scales", lambda: criteria.growth(s(), CIRCUIT, RANKING, p(), means(), scales=())),
    ("draws below 0", "-1", lambda: criteria.completeness(s(), LAST, p(), means(), draws=-1)),
    ("a share above 1", "1.5", lambda: criteria.minimality(s(), LAST, p(), means(), share=1.5)),
    ("a part that is not there", "'first'", lambda: criteria.minimality(s(), LAST, p(), means(), parts=["first"])),
    ("a chance above 1", "1.5", lambda: criteria.faithfulness(*ONES, chance=1.5)),
    ("draws of a bootstrap", "0", lambda: statistics.estimate([1, 0], draws=0)),
    ("p-values above 1", "from 0 to 1", lambda: intervals.holm([0.1, 1.5])),
    ("values of no kind", "'binary'", lambda: intervals.of_means(np.ones((1, 2)), np.arange(2), "binary")),
    ("draws without contexts", "one number a prompt", lambda: bootstrap.resampled([])),
    ("a ratio of other lengths", "(3,)", lambda: statistics.ratio([1, 0], [1, 1, 1], [0, 1])),
    ("a level of 1", "1", lambda: statistics.wilson(1, 2, level=1.0)),
    ("a level of 95", "95", lambda: statistics.wilson(1, 2, level=95)),
    ("half a success", "0.5", lambda: statistics.wilson(0.5, 2)),
    ("contexts of other prompts", "3", lambda: statistics.estimate([1, 0], [0, 1, 2])),
    ("contexts that are not numbers", "NaN", lambda: statistics.estimate([1, 0], [math.nan, 1])),
    ("no values", "no examples", lambda: statistics.estimate([])),
    ("a column that is not there", "'place'", lambda: statistics.by(TABLE, "place")),
    ("ranks of other lengths", "(3,)", lambda: agreements.spearman(np.arange(4), np.arange(3))),
    ("more in common than there are", "5", lambda: agreements.overlap(4, 4, 5, 2, 1)),
    ("more drawn than there are", "6", lambda: agreements.overlap(4, 4, 4, 6, 1)),
    ("shares of fewer prompts", "(2,)", lambda: shares.recovered([1, 0], [0] * 9, [1] * 9)),
    ("draws across models", "-1", lambda: cmap.random_heads(s(), cmap.Condition("A", LAST), draws=-1)),
    ("a control of a head that is not there", "L9H0", lambda: cmap.random_heads(s(), cmap.Condition("A", NOWHERE))),
    ("a width of 0", "0", lambda: cmap.scan(s(), "last", width=0)),
    ("a condition of a head that is not there", "L9H0", lambda: moved(condition=cmap.Condition("A", NOWHERE))),
    ("models that are no twins", "layers", lambda: cmap.patch(s(), other(), LAST, p())),
    ("a rate that is not a number", "nan", lambda: learn(rate=math.nan)),
    ("a rate below 0", "-0.1", lambda: learn(rate=-0.1)),
    ("no steps", "0", lambda: learn(steps=0)),
    ("a penalty that is not a number", "nan", lambda: learn(penalty=math.nan)),
    ("an infinite penalty", "inf", lambda: learn(penalty=math.inf)),
    ("a tolerance below 0", "-1", lambda: learn(tolerance=-1.0)),
    ("a mask of no heads", "heads", lambda: learn(heads=[])),
    ("a mask of a head that is not there", "L9H0", lambda: learn(heads=["L9H0"])),
    ("a seed of a mask", "0.5", lambda: learn(seed=0.5)),
    ("a patched head that is not there", "L9H0", lambda: interchange.patch(s(), ["L9H0"], pairs(), position="last")),
    ("a batch of pairs that is not there", "5", lambda: recorded_pairs().batch(5)),
    ("a candidate that is not there", "'nobody'", lambda: pairs().towards("nobody")),
    ("a share of a round", "nan", lambda: rounds.Round("A", "last", share=math.nan)),
    ("a learning rate that is not a number", "nan", lambda: finetune.Recipe("arithmetic", learning_rate=math.nan)),
    ("an infinite learning rate", "inf", lambda: finetune.Recipe("arithmetic", learning_rate=math.inf)),
    ("a learning rate of 0", "0", lambda: finetune.Recipe("arithmetic", learning_rate=0.0)),
    ("no steps of a training", "0", lambda: finetune.Recipe("arithmetic", steps=0)),
    ("half a step", "1.5", lambda: finetune.Recipe("arithmetic", steps=1.5)),
    ("no examples in a batch", "0", lambda: finetune.Recipe("arithmetic", batch=0)),
    ("all weights in a word", "'no'", lambda: finetune.Recipe("arithmetic", full="no")),
    ("a metric whose log is a word", "'no'", lambda: replace(metrics.LOG_PROBABILITY, log="no")),
    ("a metric without a name", "name of a metric", lambda: replace(metrics.LOG_PROBABILITY, name=None)),
    ("a rank of 0", "0", lambda: finetune.Recipe("arithmetic", rank=0)),
    ("no examples", "0", lambda: data.examples("arithmetic", 0)),
    ("an interval the wrong way round", "0.9", lambda: findings.report("a/b", 0.5, low=0.9, high=0.1, n=4)),
    ("an infinite bound", "inf", lambda: findings.report("a/b", 0.5, low=0.1, high=math.inf, n=4)),
    ("a finding of n below 0", "-4", lambda: findings.report("a/b", 0.5, low=0.1, high=0.9, n=-4)),
    ("a finding of half an n", "2.5", lambda: findings.report("a/b", 0.5, low=0.1, high=0.9, n=2.5)),
    ("an accuracy above 1", "1.2", lambda: findings.report("a/b", 1.2, unit="accuracy")),
    ("a finding that is infinite", "inf", lambda: findings.report("a/b", math.inf)),
    ("contexts of a study", "0", lambda: semantics.study(s(), {"value_fetcher": [Head(3, 5)]}, contexts=0)),
    ("more contexts than there are", "9", lambda: evaluation.first(setting(), 9)),
]  # fmt: skip

TEXTS: list[Case] = [
    ("a query that ends in a space", "'Box {label} contains the '", lambda: asked(OPEN + " ")),
    ("a query that ends in a tab", r"the\t", lambda: asked(OPEN + "\t")),
    ("a query that ends in a line", r"the\n", lambda: asked(OPEN + "\n")),
    ("a query that ends in a hard space", r"the\xa0", lambda: asked(OPEN + "\xa0")),
    ("a query that ends in a space of no width", r"the\u200b", lambda: asked(OPEN + "\u200b")),
    ("a query without its label", "'Box contains the'", lambda: asked("Box contains the")),
    ("an empty query", "''", lambda: asked("")),
    ("a statement without its object", "object", lambda: told("it is in Box {label}")),
    ("a statement without its label", "label", lambda: told("the {object} is here")),
    ("a field that is not there", "colour", lambda: told("the {colour} {object} in {label}")),
    ("a field of the query", "object", lambda: asked("{object} {label} the")),
    ("a brace that is not closed", "{label", lambda: asked("Box {label contains the")),
    ("a field without a name", "{}", lambda: asked("Box {} {label} contains the")),
    ("words that are not one token", "wheelbarrow", lambda: world(some=World(("wheelbarrow", "cup"), ("F", "Q")))),
    ("an object twice", "distinct", lambda: World(("cup", "cup"), ("F", "Q"))),
    ("a world of nothing", "no objects", lambda: World((), ())),
    ("labels of other boxes", "2", lambda: World(("cup",), ("F", "Q"))),
    ("a world of numbers", "objects", lambda: World((1, 2), ("F", "Q"))),
    ("a world of texts", "'cup'", lambda: World("cup", "F")),
    ("a statement that is a number", "statement", lambda: Template(statement=5)),
    ("an end that is nothing", "end", lambda: Template(end=None)),
    ("a template that is a number", "templates", lambda: world(template=5)),
    ("templates by name", "templates", lambda: world(template=["object_first"])),
    ("an object that the end repeats", "'cup' stands 2", lambda: world(template=Template(end=". The cup. "))),
    ("a world whose label is joined", "'Q' stands 0", lambda: world(template=Template(end=""))),
    ("a text that ends in a space", "space", lambda: text(TEXT + " ")),
    ("a text that ends in a hard space", "space", lambda: text(TEXT + "\xa0")),
    ("a text that ends in a space of no width", "space", lambda: text(TEXT + "\u200b")),
    ("an empty text", "empty", lambda: text("")),
    ("texts that are one text", "'The", lambda: prompts.from_texts(s(), TEXT, [" cup"])),
    ("an answer without its space", "'cup'", lambda: text(answer="cup")),
    ("an answer of two tokens", "' cup is'", lambda: text(answer=" cup is")),
    ("an answer of an unknown word", "' wheelbarrow'", lambda: text(answer=" wheelbarrow")),
    ("an answer of no words", "''", lambda: text(answer="")),
    ("an id beyond the vocabulary", "99999", lambda: text(answer=99999)),
    ("an id below -1", "-5", lambda: text(answer=-5)),
    ("an answer that is true", "True", lambda: text(answer=True)),
    ("the wrong answer is the right one", "' cup'", lambda: text(wrong=[" cup"])),
    ("a choice twice", "' apple'", lambda: text(choices=[[" cup", " apple", " apple"]])),
    ("choices without the right one", "' cup'", lambda: text(choices=[[" apple", " book"]])),
    ("choices of other numbers", "2", lambda: uneven()),
    ("a position that is not there", "'mug'", lambda: text(positions={"object": "mug"})),
    ("a position beyond the text", "99", lambda: text(positions={"object": 99})),
    ("a position that is half a token", "0.5", lambda: text(positions={"object": 0.5})),
    ("contexts that are words", "'a'", lambda: text(contexts=["a"])),
    ("a metric of no wrong answer", "wrong", lambda: patch(metric="logit_difference")),
    ("a metric of no choices", "choices", lambda: chosen()),
    ("the accuracy of no answers", "no right answer", lambda: accuracy(some=boxes.for_means(s(), 2, 3))),
    ("the accuracy of a model without answers", "no right answer", lambda: ablation.full_model(s(), source())),
    ("the removal without answers", "no right answer", lambda: without(some=source())),
    ("the scores of no answers", "no right answer", lambda: path_patching.sweep(s(), source(), p(), position="last")),
    ("the screen of no answers", "no right answer", lambda: path_patching.screen(*both()[::-1], position="last")),
    ("the knockout of no answers", "no right answer", lambda: knockout.sweep(s(), source(), conditions=["last->prev"])),
    ("the gain of no answers", "no right answer", lambda: moved(prompts=source())),
    ("pairs of no answers", "need answers", lambda: triples.between(p(), source())),
]  # fmt: skip

KINDS: list[Case] = [
    ("a run of no model", "NoneType", lambda: runs.run(None, p())),
    ("a run of texts", "list", lambda: runs.run(s(), [TEXT])),
    ("a run under one edit", "edits", lambda: runs.run(s(), p(), runs.Edit("z", 0, (0,), p().last, z()))),
    ("a run under what is no edit", "str", lambda: runs.run(s(), p(), ["L3H5"])),
    ("a recording of a bare model", "Qwen2", lambda: runs.record(s().model, p())),
    ("answers of a bare model", "Qwen2", lambda: answers.evaluate(s().model, p())),
    ("patching in a bare model", "Qwen2", lambda: path_patching.sweep(s().model, p(), source(), position="last")),
    ("a replay of prompts", "Prompts", lambda: replay.replay(p(), [[]])),
    ("a place that is none", "-1", lambda: rec().at("z", 0, 0 * p().last - 1)),
    ("one place for all prompts", "(1,)", lambda: rec().at("z", 0, p().last[:1])),
    ("a place beyond the prompt", "999", lambda: rec().stream(0, 0 * p().last + 999)),
    ("a place of half tokens", "float", lambda: rec().at("z", 0, p().last / 2)),
    ("a place to keep that is none", "-1", lambda: runs.record(s(), p(), positions=[0 * p().last - 1])),
    ("targets that are no tokens", "float", lambda: replay.recorded_answers(rec(), p().last[:, None] / 2)),
    ("targets of no shape", "(6,)", lambda: replay.recorded_answers(rec(), p().last)),
    ("conditions that are one text", "'last->object'", lambda: knockout.sweep(s(), p(), conditions="last->object")),
    ("places that are one text", "'last'", lambda: ablation.all_heads(s(), "last")),
    ("parts that are one text", "'last'", lambda: criteria.minimality(s(), LAST, p(), means(), parts="last")),
    ("no parts", "parts", lambda: criteria.minimality(s(), LAST, p(), means(), parts=[])),
    ("no start layers", "start layers", lambda: knockout.sweep(s(), p(), starts=[])),
    ("no penalties", "penalties", lambda: masks(penalties=())),
    ("no sites", "sites", lambda: cmap.inputs(CIRCUIT, sites=())),
    ("positions that are one text", "'last'", lambda: interchange.record(s(), pairs(), positions="last")),
    ("positions without names", "'cup'", lambda: text(positions=["cup"])),
    ("asked labels that are one text", "'F'", lambda: world(asked="F")),
    ("no asked labels", "asked label", lambda: world(asked=[])),
    ("a finding in place of its circuit", "Finding", lambda: cmap.groups(finding())),
    ("a finding that is kept", "Finding", lambda: accuracy(finding())),
    ("means and prompts the wrong way round", "Means", lambda: accuracy(some=means(), at=p())),
    ("prompts in place of triples", "Prompts", lambda: interchange.patch(s(), ["L3H5"], p(), position="last")),
    ("prompts in place of a recording", "Prompts", lambda: path_patching.screen(p(), source(), position="last")),
    ("a recording in place of prompts", "Recording", lambda: answers.evaluate(s(), rec())),
    ("a circuit that is a list", "['L3H5']", lambda: Circuit(["L3H5"])),
    ("a circuit about nothing", "about", lambda: Circuit({}, None)),
    ("a position that is a number", "int", lambda: Circuit({"mine": ["L3H5"]}, positions={"mine": 3})),
    ("no name of a circuit", "NoneType", lambda: circuits.load(None)),
    ("a circuit in place of a finding", "Circuit", lambda: circuits.compare(CIRCUIT, CIRCUIT)),
    ("models and prompts the wrong way round", "Prompts", lambda: cmap.patch(s(), p(), LAST, other())),
    ("a place that is a number", "int", lambda: cmap.scan(s(), 3)),
    ("a seed of completeness", "'x'", lambda: criteria.completeness(s(), LAST, p(), means(), seed="x")),
    ("values that are words", "'yes'", lambda: statistics.estimate(["yes", "no"])),
    ("an executor that does nothing", "submit", lambda: patch(executor=4)),
    ("an executor of masks", "submit", lambda: dcm.sweep(s(), None, pairs(), pairs(), position="last", executor="two")),
    ("an executor that was shut down", "was shut down", lambda: knockout.sweep(s(), p(), executor=ENDED)),
    ("values that are complex", "numbers are needed", lambda: statistics.estimate(torch.tensor([1j, 2]))),
    ("complex values of an array", "numbers are needed", lambda: statistics.estimate(np.array([1j, 2]))),
    ("ranks of words", "numbers are needed", lambda: agreements.spearman([1, 2, 3], ["a", "b", "c"])),
    ("a ratio to what rounding left", "mean of zero", lambda: statistics.ratio([1, 0, 1], [0.1, 0.2, -0.3], [0, 1, 2])),
    ("a model in memory for workers", "save_pretrained", lambda: knockout.sweep(s(), p(), executor=NOBODY)),
    ("masks of no size", "masks", lambda: dcm.sweep(s(), None, pairs(), pairs(), position="last", masks=0)),
    ("a dtype of a plan", "'int8'", lambda: needs.of(SHAPE, dtype="int8")),
    ("models of a plan", "3", lambda: needs.of(SHAPE, models=3)),
    ("tokens of a plan", "2", lambda: needs.of(SHAPE, tokens=2)),
    ("a finding that is a list", "[1]", lambda: findings.report("a/b", [1])),
]  # fmt: skip

CASES = [*WORDS, *NUMBERS, *TEXTS, *KINDS]


@pytest.fixture(scope="module", autouse=True)
def made() -> None:
    """Everything that cases share is there before the modules that run are counted."""
    for one in (s, other, p, seven, source, rec, both, means, foreign, pairs, validation, recorded_pairs, scores):
        one()
    for one in (finding, study, patched, answered):
        one()


@pytest.mark.parametrize(("says", "call"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_malformed_call_is_refused_in_words_before_a_model_runs(called, says, call):
    with pytest.raises((ValueError, TypeError)) as told:
        call()
    assert says in str(told.value)
    assert "entity_" in str(told.traceback[-1].path), "it is not one of our own sentences"
    assert not called

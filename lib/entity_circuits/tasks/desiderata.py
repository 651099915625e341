"""What could the heads carry? Triples of base prompt, source prompt and the answer that each hypothesis predicts.

Some heads' outputs are taken from a source prompt into a base prompt. If they carry the *position* of the queried box
in the context, the answer becomes the base's object at that position; if they carry the *object*, the source's object;
if they carry the queried *label*, the base's object in the box of that label. Pairs are drawn so that these answers
all differ, from each other and from the base's own, and so that nothing else bears on the answer:

    base    The apple is in Box F, the cup is in Box Q, the key is in Box M. Box F contains the
    source  The fan is in Box Q, the hat is in Box M, the pen is in Box F. Box M contains the
    answers base: apple    position: cup (second)    object: hat    label: key (in Box M)
"""

import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from ..arguments import integer, one_of
from ..models.subject import Subject
from . import vocabulary
from .boxes import Split, Template, World, from_worlds, of, worlds
from .rows import dataset_of
from .triples import Triples as Triples

if TYPE_CHECKING:
    from datasets import Dataset


Hypothesis = Literal["position", "object", "label"]
Additional = Literal[
    "random_text_start",
    "random_text_end",
    "add_tokens_btw_box_and_obj",
    "add_seg_start",
    "add_seg_end",
    "add_box_before_correct_segment",
    "incorrect_segment",
    "altered_box_obj_order",
    "altered_box_obj_association",
    "no_comma",
    "add_comma",
]
Desideratum = Hypothesis | Additional
HYPOTHESES: tuple[Hypothesis, ...] = get_args(Hypothesis)
ADDITIONAL: tuple[Additional, ...] = get_args(Additional)
"""The additional desiderata: the base's object at the source's position again, but the source is written otherwise."""

ANSWERS = ("base", "position", "object", "label")
"""The candidate answers of every triple; `next` or `counted` comes after them where a desideratum has a fifth."""

SPLITS: Mapping[str, Split] = {"train": "training", "validation": "pruning", "test": "evaluation"}
"""Contexts to learn masks on, to choose among masks, and to report: disjoint, for base and source prompts alike."""

_DRAWN = ("places", "labels", "source", "word", "letters")
_SHIFT: Mapping[str, int] = {"incorrect_segment": 1, "add_seg_start": 1, "add_box_before_correct_segment": 3}


@dataclass(frozen=True)
class Rewritten(Template):
    """A template with words put before the first statement, and the statement of box `odd` written otherwise."""

    start: str = ""
    odd: int = -1
    odd_statement: str = ""

    def context(self, world: World) -> str:
        """As `Template.context`, with these words and this statement."""
        pairs = enumerate(zip(world.objects, world.labels, strict=True))
        written = [
            (self.odd_statement if index == self.odd else self.statement).format(object=word, label=label)
            for index, (word, label) in pairs
        ]
        text = self.start + self.join.join(written) + self.end
        return text[0].upper() + text[1:]


def triples(
    subject: Subject,
    desideratum: Desideratum = "position",
    n: int = 98,
    boxes: int = 7,
    seed: int = 0,
    split: Split = "training",
) -> Triples:
    """Draw triples. Each context is asked about every box in turn, so that its tokens need to be run only once.

    Args:
        subject: the model whose tokenizer reads them.
        desideratum: one of `HYPOTHESES` or `ADDITIONAL`.
        n: how many; the first for a larger `n` are those for a smaller one.
        boxes: 3 to 10.
        seed: of the draws.
        split: of all contexts, see `SPLITS`.

    The source is another context of the same split, one for each base context, and asks for another position than the
    base. No object is in both contexts. No label is either, except for `label`: there the source has the labels of the
    base in another order, so that the one it asks for is that of a third position in the base. `object` has the pairs
    of `position` and another target; the additional desiderata have the same contexts too, written otherwise, and the
    same pairs where their fifth candidate allows it. Only words inserted in the source are new, and they are in neither
    context. Raises `ValueError` before any model runs for an unknown desideratum, another number of boxes, or a
    tokenizer with too few words. Paper: section 5 and its appendix; the official pairs do not separate the hypotheses
    (artefacts B1 and B4).

        from entity_circuits import desiderata, models

        subject = models.load("qwen2.5-coder-0.5b")
        t = desiderata.triples(subject, "position", n=7, split=desiderata.SPLITS["test"])
        print(t.base.texts[0], t.source.texts[0], subject.tokenizer.decode(t.targets[0]))
    """
    one_of("desideratum", desideratum, Desideratum)
    one_of("split", split, Split)
    n, boxes, seed = integer("n", n), integer("boxes", boxes, 3, 10), integer("seed", seed, least=None)
    tokenizer = subject.tokenizer
    words = sorted(vocabulary.require(tokenizer, vocabulary.objects(), 2 * boxes + 1, "objects"))
    letters = sorted(vocabulary.require(tokenizer, vocabulary.LABELS, 2 * boxes + 4, "box labels"))
    shift, around = _SHIFT.get(desideratum, 0), desideratum == "incorrect_segment"

    def shifted(place: int) -> int:
        return (place + shift) % boxes if around else place + shift

    rows: list[tuple[World, World, int, int | None, Template]] = []
    for world in itertools.islice(worlds(tokenizer, boxes, seed, split), -(-n // boxes)):
        # One generator for each purpose: desiderata differ in what they must redraw, and share the rest.
        draws = {what: random.Random(json.dumps([what, seed, world.objects, world.labels])) for what in _DRAWN}
        asks = _permutation(draws["places"], boxes, lambda box, place: box not in (place, shifted(place)))
        third: Sequence[int | None] = [None] * boxes
        other_words = [word for word in words if word not in world.objects]
        labels = [letter for letter in letters if letter not in world.labels]
        if desideratum == "label":
            third = _permutation(draws["labels"], boxes, partial(_neither, asks))
            called = {asks[box]: world.labels[place] for box, place in enumerate(third) if place is not None}
            labels = [called[place] for place in range(boxes)]
        source = _source(draws["source"], other_words, labels, world, shuffled=desideratum != "label")
        word = draws["word"].choice([word for word in other_words if word not in source.objects])
        spare = [letter for letter in letters if letter not in {*world.labels, *source.labels}]
        extra = draws["letters"].sample(spare, 3)
        rows += [
            (world, source, place, labelled, _written(desideratum, place, word, extra))
            for place, labelled in zip(asks, third, strict=True)
        ]
    drawn, sources, places, labelled, templates = zip(*rows[:n], strict=True)
    asked = [index % boxes for index in range(n)]
    fifth = [shifted(place) if shift and shifted(place) < boxes else None for place in places]
    base = from_worlds(subject, drawn, asked)
    there = from_worlds(subject, sources, places, template=templates)
    every = torch.arange(n, device=base.last.device)

    def object_at(indices: Sequence[int | None]) -> Tensor:
        where = torch.tensor([-1 if index is None else index for index in indices], device=every.device)
        return torch.where(where < 0, where, base.object_ids[every, where.clamp(min=0)])

    columns = [base.answer_ids, object_at(places), there.answer_ids, object_at(labelled)]
    names: tuple[str, ...] = ANSWERS
    if shift:
        columns, names = [*columns, object_at(fifth)], (*ANSWERS, "next" if around else "counted")
    candidates = torch.stack(columns, dim=1)
    target: str = desideratum if desideratum in HYPOTHESES else ("next" if around else "position")
    return Triples(desideratum, base, there, candidates[:, names.index(target)], candidates, names)


def _permutation(draw: random.Random, count: int, allowed: Callable[[int, int], bool]) -> list[int]:
    """Each of 0 to count - 1 once, in an order in which every one is allowed at its index."""
    while True:
        found = draw.sample(range(count), count)
        if all(itertools.starmap(allowed, enumerate(found))):
            return found


def _neither(asks: Sequence[int], box: int, place: int) -> bool:
    return place not in (box, asks[box])


def _source(draw: random.Random, words: list[str], labels: list[str], base: World, *, shuffled: bool) -> World:
    """A world of the base's split in these words; its labels are drawn from the given ones, or are these in order."""
    count = len(base.objects)
    while True:
        objects = draw.sample(words, count)
        world = World(tuple(objects), tuple(draw.sample(labels, count) if shuffled else labels))
        if world.split == base.split:
            return world


def _written(desideratum: str, place: int, word: str, extra: list[str]) -> Template:
    """How the source is written; `place` is its queried box, `word` and `extra` an object and labels of no context."""
    statement, additional = Template().statement, f"the {word} is in Box {extra[0]}"
    boxes = "there are three additional boxes, Box {0}{0}, Box {1}{1} and Box {2}{2}, ".format(*extra)
    odd = {
        "add_tokens_btw_box_and_obj": "the {object} is contained in the Box {label}",
        "add_box_before_correct_segment": boxes + statement,
        "altered_box_obj_order": "Box {label} contains the {object}",
        "altered_box_obj_association": "the {object} is not in Box {label}",
    }
    if desideratum in odd:
        return Rewritten(odd=place, odd_statement=odd[desideratum])
    return {
        "random_text_start": Rewritten(start="there are a bunch of boxes containing objects, "),
        "random_text_end": Template(end=", these are a bunch of boxes containing objects. "),
        "add_seg_start": Rewritten(start=f"{additional}, "),
        "add_seg_end": Template(end=f", {additional}. "),
        "no_comma": Template(join=" "),
        "add_comma": Template(statement="the {object}, is in Box {label}"),
    }.get(desideratum, Template())


def to_dataset(triples: Triples) -> "Dataset":
    """The triples as a Hugging Face dataset: both prompts, their worlds and queries, the target and all candidates."""
    rows = []
    for index in range(len(triples)):
        row: dict[str, object] = {"desideratum": triples.desideratum}
        words: dict[int, str] = {}
        for side, prompts in (("base", of(triples.base)), ("source", of(triples.source))):
            world = prompts.worlds[index]
            words |= dict(zip(prompts.object_ids[index].tolist(), world.objects, strict=True))
            row |= {
                f"{side}_text": prompts.texts[index],
                f"{side}_objects": list(world.objects),
                f"{side}_labels": list(world.labels),
                f"{side}_query": prompts.queries[index],
            }
        tokens = triples.candidates[index].tolist()
        row["target"] = words[int(triples.targets[index])]
        row |= {f"answer_{name}": words.get(token) for name, token in zip(triples.names, tokens, strict=True)}
        rows.append({**row, "split": of(triples.base).worlds[index].split})
    return dataset_of(rows)

"""What do the heads of a circuit carry? Patching and masks of each group, in several models. Paper, section 5.

A `Study` is a model with pairs of prompts and the groups of a circuit. It records the pairs only when something has to
be computed that the store does not hold. The pairs are those of the desideratum `label`, for they have all candidate
answers: one run of them tells how often the answer became that of the position, of the object and of the label.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import torch
from entity_circuits import models, results
from entity_circuits.arguments import each_of, integer, one_of
from entity_circuits.circuits import criteria
from entity_circuits.circuits.files import Finding
from entity_circuits.heads import GROUPS, POSITIONS, Group, Head, by_layer
from entity_circuits.methods import dcm, interchange
from entity_circuits.methods.dcm import Asked, Mask
from entity_circuits.methods.interchange import Answers, Pairs, Position
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.tasks import boxes, desiderata
from entity_circuits.tasks.desiderata import ADDITIONAL, SPLITS, Desideratum, Hypothesis, Triples
from torch import Tensor

Part = Literal["train", "validation", "test", "few"]
Masks = Mapping[tuple[str, Group, Hypothesis], Mask]

BATCH: Mapping[str, int] = {"train": 14, "validation": 49, "test": 49}


@dataclass(frozen=True, eq=False)
class Study:
    """A model, the `groups` of heads that are asked about, and pairs of prompts: to learn on, to choose, to report.

    `triples` has the parts `train`, `validation`, `test`, and `few`, the first part of `test`, for what is dear.
    """

    name: str
    subject: Subject
    groups: Mapping[Group, tuple[Head, ...]]
    triples: Mapping[Part, Triples]
    store: Store
    seed: int = 0
    recorded: dict[Part, Pairs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        each_of("part", (*self.triples, *self.recorded), Part)

    def pairs(self, part: Part) -> Pairs:
        """The recorded pairs of a part; they are run when first asked for, 10 MB a pair for the default model."""
        one_of("part", part, Part)
        if part == "few":
            whole = self.pairs("test")
            return whole if len(self.triples["few"]) == len(whole) else whole.batch(0)
        if part not in self.recorded:
            self.recorded[part] = interchange.record(self.subject, self.triples[part], batch=BATCH[part])
        return self.recorded[part]

    def forget(self, *parts: Part) -> None:
        """Give the memory of recorded pairs back, all of them unless told. They are run again if needed again."""
        each_of("part", parts, Part)
        for part in parts or tuple(self.recorded):
            self.recorded.pop(part, None)

    def patch(
        self, sets: Mapping[str, Sequence[Head]], position: Position, target: Hypothesis = "label", part: Part = "test"
    ) -> pd.DataFrame:
        """`interchange.patch` of named sets of heads, "no patch" beside them; what is stored is not computed again.

        study = semantics.study("qwen2.5-coder-0.5b", {"value_fetcher": (Head(21, 11),)})
        print(study.patch(study.groups, "last", "object").groupby("patched").hit.mean())
        """
        one_of("part", part, Part)
        one_of("hypothesis", target, Hypothesis)
        return self.patched(self.triples[part].towards(target), lambda: self.pairs(part), sets, position)

    def patched(
        self, triples: Triples, pairs: Callable[[], Pairs], sets: Mapping[str, Sequence[Head]], position: Position
    ) -> pd.DataFrame:
        """The same for any triples; `pairs` records them if need be. Each set of heads is stored by itself."""
        interchange.check(self.subject, [head for chosen in sets.values() for head in chosen], position, triples)
        sets = {"no patch": (), **sets}
        about = results.key(__name__, self.subject, triples=triples)
        found = []
        for chosen in sets.values():
            heads = sorted(set(chosen))
            where = {"at": position, "heads": list(map(str, heads))} if heads else {}

            def compute(heads: list[Head] = heads) -> dict[str, Tensor]:
                return vars(interchange.answers(pairs().of(triples), [heads], position))

            found.append(self.store.keep("patched", {**about, **where}, compute))
        top, logprobs = (torch.cat([one[name] for one in found]) for name in ("top", "logprobs"))
        device = triples.targets.device
        alone = (found[0][name].to(device) for name in ("base_top", "source_top"))
        return interchange.tabulate(triples, sets, position, Answers(top.to(device), logprobs.to(device), *alone))

    def masks(self, asked: Sequence[Asked], *, steps: int = 36) -> list[Mask]:
        """`dcm.together` on the training pairs of this study, judged on its validation pairs.

        Each mask is stored by itself; those that are not, are learned side by side. The pairs are forgotten after that.

            print(study.masks([dcm.Asked(study.groups["value_fetcher"], "last", "object", penalty=0.1)])[0])
        """
        asked = [one.among(self.subject) for one in asked]
        learned, made = dict[Asked, Mask](), list[Mask]()
        for index, one in enumerate(asked):
            train, judge = (self._towards(part, one) for part in ("train", "validation"))
            inputs = results.key(
                __name__,
                self.subject,
                **{"heads": one.heads, "target": train.desideratum, "at": one.position, "penalty": one.penalty},
                **{"seed": one.seed, "steps": steps, "train": train, "validation": judge, "batch": BATCH["train"]},
            )

            def compute(one: Asked = one, rest: Sequence[Asked] = asked[index:]) -> dict[str, Tensor]:
                if one not in learned:
                    pairs = (self.pairs("train"), self.pairs("validation"))
                    learned.update(zip(rest, dcm.together(self.subject, rest, *pairs, steps=steps), strict=True))
                return learned[one].tensors()

            stored = self.store.keep("mask", inputs, compute)
            known = {"heads": one.heads, "position": one.position, "desideratum": train.desideratum}
            made.append(Mask.restored(stored, **known, penalty=one.penalty, seed=one.seed))
        self.forget("train", "validation")
        return made

    def _towards(self, part: Part, one: Asked) -> Triples:
        """The triples of a part, with the answer that a mask is asked to bring as their target."""
        return self.triples[part].towards(one.target) if one.target else self.triples[part]


def candidates(finding: "Finding", scale: float = 4) -> dict[Group, tuple[Head, ...]]:
    """The heads that masks may choose among: of each group `scale` times as many as its circuit has, by rank.

    A head that would stand in two groups at one position stays in the one in which its rank is better: what it carries
    should be told of one group only.

        groups = semantics.candidates(circuits.load("qwen2.5-coder-0.5b"))
    """
    rankings = finding.rankings()
    grown = criteria.grown(finding.circuit, rankings, scale).groups
    rank = {group: {head: place for place, head in enumerate(rankings[group])} for group in grown}

    def stays(head: Head, group: Group) -> bool:
        rivals = [other for other in grown if POSITIONS[other] == POSITIONS[group] and head in grown[other]]
        return min(rivals, key=lambda other: rank[other][head]) == group

    return {group: tuple(head for head in some if stays(head, group)) for group, some in grown.items()}


def study(
    model: "str | Subject",
    groups: Mapping[Group, Sequence[Head]],
    *,
    contexts: int = 14,
    training: int = 8,
    validation: int = 7,
    boxes_: int = 7,
    seed: int = 0,
    store: Store | None = None,
    name: str | None = None,
) -> Study:
    """Load a model (or take one, under a `name` if its own is long) and draw pairs for it; nothing is run yet.

    Each of the `contexts` of the split "evaluation", and of the `training` and `validation` ones, is asked about all
    its boxes, and has one source context. `groups` are usually larger than a circuit (`candidates`): a mask can only
    choose among what it is given. Paper: section 5, where they are the heads of each model's own circuit.

        one = semantics.study("qwen2.5-coder-0.5b", circuits.load("qwen2.5-coder-0.5b").circuit.groups)
        print(one.triples["test"].base.texts[0])
    """
    subject = models.load(model) if isinstance(model, str) else model
    training, validation, contexts = (integer("contexts", n) for n in (training, validation, contexts))
    counts = {"train": training, "validation": validation, "test": contexts}
    triples: dict[Part, Triples] = {
        part: desiderata.triples(subject, "label", count * boxes_, boxes_, seed, SPLITS[part])  # type: ignore[misc]
        for part, count in counts.items()
    }
    every = torch.arange(len(triples["test"]))
    triples["few"] = triples["test"].select(every.tensor_split(-(-len(every) // BATCH["test"]))[0])
    given = {group: tuple(groups[group]) for group in GROUPS if groups.get(group)}
    called = name or (model if isinstance(model, str) else model.name)
    return Study(called, subject, given, triples, results.at(store), seed)


def others(
    subject: Subject, heads: Sequence[Head], without: Sequence[Head] = (), draws: int = 2, seed: int = 0
) -> dict[str, tuple[Head, ...]]:
    """Random sets with as many heads in each layer as these, but none of these and none of those `without`.

    Where a layer has too few other heads, all of them are taken.
    """
    random, gone = np.random.default_rng(seed), {*heads, *without}
    sets = {}
    for draw in range(draws):
        picked: list[Head] = []
        for layer, numbers in by_layer(heads).items():
            free = [j for j in range(subject.heads) if Head(layer, j) not in gone]
            taken = random.choice(free, min(len(numbers), len(free)), replace=False)
            picked += [Head(layer, int(j)) for j in taken]
        sets[f"other heads {draw}"] = tuple(sorted(picked))
    return sets


def part_of(group: Group) -> Part:
    """Heads at `prev` act on some thirty later tokens of a prompt: fewer pairs are patched there."""
    return "few" if POSITIONS[group] == "prev" else "test"


def learn(
    studies: Sequence[Study],
    wanted: Mapping[Group, Sequence[Hypothesis]],
    *,
    penalty: float = 0.1,
    steps: int = 36,
    beside: Sequence[Asked] = (),
) -> dict[tuple[str, Group, Hypothesis], Mask]:
    """A mask for each model, group and hypothesis that is wanted.

    Masks that are asked for `beside` are learned along with them, which costs little, and stay in each study's store:
    `Study.masks` gives them without learning anything again.

        masks = semantics.learn([base, tuned], {"value_fetcher": ["object"], "position_transmitter": ["position"]})
    """
    each_of("hypothesis", (target for targets in wanted.values() for target in targets), Hypothesis)
    found: dict[tuple[str, Group, Hypothesis], Mask] = {}
    for one in studies:
        asked = {
            (one.name, group, target): Asked(one.groups[group], POSITIONS[group], target, penalty)
            for group, targets in wanted.items()
            for target in targets
            if group in one.groups
        }
        found |= dict(zip(asked, one.masks([*asked.values(), *beside], steps=steps), strict=False))
    return found


def answers(studies: Sequence[Study], draws: int = 2) -> pd.DataFrame:
    """What each model answers when each whole group is patched, and other heads of the same layers instead.

    One row a model, group, set of heads (`patched`: "no patch", "group", "other heads") and kind of `answer`: its
    `share`, with `n`, the pairs, and `size`, the heads. The shares of a set add up to 1.
    """
    tables = []
    for one in studies:
        for group, heads in one.groups.items():
            sets = {"group": heads, **others(one.subject, heads, draws=draws, seed=one.seed)}
            rows = one.patch(sets, POSITIONS[group], part=part_of(group))
            rows["patched"] = rows["patched"].str.replace(r"^(other heads) \d+$", r"\1", regex=True)
            size = rows.groupby("patched", sort=False)["size"].first()
            share = rows.groupby("patched", sort=False)["answer"].value_counts(normalize=True, sort=False)
            found = share.rename("share").reset_index().assign(model=one.name, group=group)
            found["size"], found["n"] = found["patched"].map(size), rows["prompt"].nunique()
            tables.append(found)
    return pd.concat(tables, ignore_index=True)[["model", "group", "patched", "size", "answer", "share", "n"]]


def additional(
    one: Study,
    heads: Sequence[Head],
    names: Sequence[Desideratum] | None = None,
    *,
    position: Position = "last",
    contexts: int = 4,
) -> pd.DataFrame:
    """What these heads bring when the source is written otherwise: `interchange.patch` rows for each desideratum.

    `names` are by default `position` and all of `desiderata.ADDITIONAL`. Base contexts and their queries are the same
    for all. The `next` and `counted` answers stand beside `position` where a desideratum has them. Pairs are recorded
    one desideratum at a time, the base prompts once.
    """
    each_of("desideratum", names or (), Desideratum)
    tables, base = [], list[Pairs]()
    count = boxes.of(one.triples["test"].base).boxes
    for name in names or ("position", *ADDITIONAL):
        drawn = desiderata.triples(one.subject, name, contexts * count, count, one.seed, SPLITS["test"])

        def pairs(drawn: Triples = drawn) -> Pairs:
            if not base or base[-1].triples is not drawn:
                base[:] = [interchange.record(one.subject, drawn, like=base[-1] if base else None)]
            return base[-1]

        tables.append(one.patched(drawn, pairs, {"heads": heads}, position).assign(desideratum=name))
    return pd.concat([rows.astype({"answer": str}) for rows in tables], ignore_index=True)

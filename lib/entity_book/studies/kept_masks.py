"""Masks learned until they stand still, at the price at which a third of a group stays, and judged on fifty contexts.

At a low price a mask keeps most of its group, and random heads of the group do as well: that is said by the price. So
each mask is learned at several, to convergence, and the one whose final weights patch nearest to a third of the group
is kept; which one that is, is told by its size alone. `data/masks/README.md` has the protocol. It takes a quarter of
an hour, so masks and answers are kept, and a chapter learns and patches a part of it again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from entity_circuits import circuits, models, places, sums
from entity_circuits.arguments import one_of
from entity_circuits.heads import GROUPS, POSITIONS, Group, Head
from entity_circuits.methods.dcm import Asked, Mask
from entity_circuits.results import Store
from entity_circuits.tasks.desiderata import Hypothesis
from safetensors.torch import save

from . import semantics, worth
from .semantics import Study
from .worth import Tried

PENALTIES = (0.1, 0.3, 1.0)
"""Prices of a patched head, in logits."""

STEPS = 240
"""The most that a mask may take to stand still."""

THREE: tuple[Hypothesis, ...] = ("position", "object", "label")
WANTED: tuple[Mapping[Group, Sequence[Hypothesis]], ...] = (
    {GROUPS[0]: THREE, GROUPS[1]: THREE, GROUPS[2]: ("position", "label")},
    {GROUPS[0]: THREE[:2], GROUPS[1]: THREE[:2], GROUPS[2]: THREE[:1]},
)
"""What masks of the base model and of the fine-tuned one are asked for."""

Key = tuple[str, Group, Hypothesis]


@dataclass(frozen=True, eq=False)
class Kept:
    """Masks of two models at every price, by (model, group, hypothesis), and what the chosen ones are worth."""

    sweeps: dict[Key, tuple[Mask, ...]]
    tried: tuple[Tried, ...]

    def __post_init__(self) -> None:
        for *_, target in self.sweeps:
            one_of("hypothesis", target, Hypothesis)

    @property
    def masks(self) -> dict[Key, Mask]:
        """Of each the one that keeps nearest to a third."""
        return {key: third(masks) for key, masks in self.sweeps.items()}


def third(masks: Sequence[Mask]) -> Mask:
    """Of masks that differ in their price, the one whose final weights patch nearest to a third of the heads.

    The higher price where two are as near. The heads that its final weights patch are then its `selected` ones,
    whatever did best on the way.
    """
    return final(min(masks, key=lambda mask: (abs(len(mask.settled) - len(mask.heads) / 3), -mask.penalty)))


def final(mask: Mask) -> Mask:
    """The same mask with the heads that its final weights patch as its `selected` ones, and their accuracy."""
    return replace(mask, selected=mask.settled, accuracy=float(mask.snapshots["accuracy"].iloc[-1]))


def prices(found: Kept) -> pd.DataFrame:
    """One row a mask: `model`, `group`, `desideratum`, `penalty`, how many of its `heads` the final weights patch
    (`settled`), how accurate these are on the `validation` pairs, its `steps`, whether it `converged`, and is `chosen`.

        print(kept_masks.prices(kept))
    """
    rows = [
        {"model": model, "group": group, "desideratum": target, "penalty": mask.penalty, "heads": len(mask.heads)}
        | {"settled": len(mask.settled), "validation": final(mask).accuracy, "steps": len(mask.logit)}
        | {"converged": mask.converged, "chosen": mask.penalty == third(masks).penalty}
        for (model, group, target), masks in found.sweeps.items()
        for mask in sorted(masks, key=lambda mask: mask.penalty)
    ]
    return pd.DataFrame(rows)


def measure(pair: tuple[str, str], contexts: int = 50, draws: int = 10, *, store: Store | None = None) -> Kept:
    """Learn all that is `WANTED` of two models, and patch what was chosen on so many contexts of seven pairs each.

    found = kept_masks.measure(("qwen2.5-coder-0.5b", "code"), contexts=14)
    """
    sweeps: dict[Key, tuple[Mask, ...]] = {}
    done: list[Tried] = []
    for name, wanted in zip(pair, WANTED, strict=True):
        subject = models.load(name)
        groups = semantics.candidates(circuits.of(subject, store=store))
        one = semantics.study(subject, groups, contexts=contexts, store=store, name=name)
        sweeps |= swept(one, wanted)
        masks = {key: third(found) for key, found in sweeps.items()}
        done += worth.joined([worth.tried(part, masks, draws) for part in in_parts(one)])
    return Kept(sweeps, tuple(done))


def live(studies: Sequence[Study], penalty: float, steps: int, draws: int = 3, seed: int = 0) -> Kept:
    """The same for two studies that are at hand, at one price, on their own test pairs: where nothing is kept.

    print(worth.table(kept_masks.live([base, tuned], penalty=0.3, steps=120).tried))
    """
    sweeps: dict[Key, tuple[Mask, ...]] = {}
    for one, wanted in zip(studies, WANTED, strict=True):
        sweeps |= swept(one, wanted, (penalty,), steps)
    masks = {key: third(found) for key, found in sweeps.items()}
    return Kept(sweeps, tuple(tried for one in studies for tried in worth.tried(one, masks, draws, seed)))


def swept(
    one: Study, wanted: Mapping[Group, Sequence[Hypothesis]], penalties: Sequence[float] = PENALTIES, steps: int = STEPS
) -> dict[Key, tuple[Mask, ...]]:
    """Each mask that is wanted at every price; those of a group and a price are learned side by side."""
    for target in (target for targets in wanted.values() for target in targets):
        one_of("hypothesis", target, Hypothesis)
    found: dict[Key, list[Mask]] = {}
    for penalty in penalties[::-1]:  # at a high price masks soon stand still
        for group, targets in wanted.items():
            if group not in one.groups:
                continue
            asked = [Asked(one.groups[group], POSITIONS[group], target, penalty) for target in targets]
            for target, mask in zip(targets, one.masks(asked, steps=steps), strict=True):
                found.setdefault((one.name, group, target), []).append(mask)
    return {key: tuple(masks) for key, masks in found.items()}


def in_parts(one: Study, contexts: int = 14) -> Iterator[Study]:
    """The same study with its test pairs in parts of so many contexts, so that few are held at once."""
    test = one.triples["test"]
    numbers = test.base.contexts
    for some in torch.unique(numbers).split(contexts):
        part = test.select(torch.isin(numbers, some).nonzero()[:, 0])
        yield replace(one, triples={**one.triples, "test": part, "few": part}, recorded={})


def keep(found: Kept, path: Path, pair: Sequence[str], command: str) -> None:
    """Write masks and answers to a safetensors file, whole or not at all, with their models and the command."""
    tensors: dict[str, torch.Tensor] = {}
    about: list[list[object]] = []
    for number, ((model, group, target), mask) in enumerate(
        (key, one) for key, some in found.sweeps.items() for one in some
    ):
        about.append([model, group, target, list(map(str, mask.heads)), mask.position, mask.desideratum, mask.penalty])
        tensors |= {f"mask {number} {name}": value.contiguous() for name, value in mask.tensors().items()}
    told: list[list[object]] = []
    for number, one in enumerate(found.tried):
        chosen = None if one.selected is None else list(map(str, one.selected))
        told.append([one.model, one.group, one.target, list(map(str, one.heads)), chosen, list(one.hits)])
        columns = {"hits": one.hits, "source_right": one.source_right}
        tensors |= {f"tried {number} {name}": torch.tensor(np.asarray(x, dtype=bool)) for name, x in columns.items()}
        tensors[f"tried {number} bystander"] = torch.tensor(np.asarray(one.bystander, dtype=np.float32))
        tensors[f"tried {number} contexts"] = torch.tensor(np.asarray(one.contexts, dtype=np.int32))
    small = {name: x.half() if name.endswith(("trace", "logit")) else x for name, x in tensors.items()}
    words = {"masks": about, "tried": told, "models": list(pair), "command": command}
    sums.write(path, save(small, {name: json.dumps(value) for name, value in words.items()}))


def kept(name: str, fingerprints: Sequence[str]) -> Kept | None:
    """The kept masks and answers of a pair by the name of its fine-tuned model; None if there are none of these models.

    print(worth.table(kept_masks.kept("code", [base.fingerprint, tuned.fingerprint]).tried))
    """
    path = folder() / f"{name}.safetensors"
    if not path.exists():
        return None
    words, tensors = sums.tensors(path)
    if words["models"] != list(fingerprints):
        return None
    sweeps: dict[Key, list[Mask]] = {}
    for number, (model, group, target, heads, position, desideratum, penalty) in enumerate(words["masks"]):
        names = ("keep", "trace", "logit", "looks", "chosen", "ends")
        learned = {key: tensors[f"mask {number} {key}"] for key in names}
        learned |= {key: learned[key].float() for key in ("trace", "logit")}
        asked = {"heads": _heads(heads), "position": position, "desideratum": desideratum, "penalty": penalty}
        sweeps.setdefault((model, group, target), []).append(Mask.restored(learned, **asked, seed=None))
    found = []
    for number, (model, group, target, heads, selected, columns) in enumerate(words["tried"]):
        hits, *rest = (
            tensors[f"tried {number} {key}"].numpy() for key in ("hits", "bystander", "source_right", "contexts")
        )
        chosen = None if selected is None else _heads(selected)
        found.append(Tried(model, group, target, _heads(heads), chosen, pd.DataFrame(hits, columns=columns), *rest))
    return Kept({key: tuple(some) for key, some in sweeps.items()}, tuple(found))


def folder() -> Path:
    """Where masks are kept, one file a pair."""
    return places.ROOT / "data" / "masks"


def _heads(names: Sequence[str]) -> tuple[Head, ...]:
    return tuple(map(Head.parse, names))

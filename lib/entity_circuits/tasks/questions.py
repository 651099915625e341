"""Prompts about boxes: their worlds, what is asked, and the positions that matter."""

import json
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arguments import integer
from .prompts import Prompts as AnyPrompts
from .worlds import Template, World


@dataclass(frozen=True, eq=False, kw_only=True)
class Prompts(AnyPrompts):
    """n prompts about equally many boxes, tokenised, with their positions. Tensors are int64, one row a prompt.

    `answer_ids` (n,) is the token of the queried object, -1 where the asked label belongs to no box. `object_ids` (n,
    boxes) are the tokens of all objects in order of mention, the choices, and `label_ids` those of their labels.
    Positions are indices into a row: `last` the final token, `query` the asked label in the query, `prev` the label of
    box `queries[i]` in the context (the same label, unless the asked one belongs to no box), `object` the object of
    that box. `contexts` numbers the worlds: prompts with the same number share a world.
    """

    worlds: tuple[World, ...]
    queries: tuple[int, ...]
    asked: tuple[str, ...]
    templates: tuple[Template, ...]
    object_ids: Tensor
    label_ids: tuple[tuple[int, ...], ...]
    query: Tensor
    prev: Tensor
    object: Tensor

    def __post_init__(self) -> None:
        named = {"query": self.query, "prev": self.prev, "object": self.object}
        choices = self.choice_ids  # some of the objects, if they are told; those of other objects are no longer meant
        if choices is None or not bool((choices[:, :, None] == self.object_ids[:, None]).any(-1).all()):
            choices = self.object_ids
        vars(self).update(positions={**self.positions, **named}, choice_ids=choices)  # the same, by the general names
        super().__post_init__()

    def require_form(self, other: AnyPrompts, what: str = "source") -> None:
        """As for any prompts; and prompts about boxes are about equally many."""
        super().require_form(other, what)
        if isinstance(other, Prompts) and other.boxes != self.boxes:
            raise ValueError(f"{what} prompts of equally many boxes are needed: {self.boxes}, not {other.boxes}")

    @property
    def boxes(self) -> int:
        """How many boxes each prompt is about."""
        return len(self.worlds[0].objects)

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts as text."""
        rows = zip(self.templates, self.worlds, self.asked, strict=True)
        return tuple(template.text(world, label) for template, world, label in rows)

    def columns(self) -> dict[str, list[Any]]:
        """`asked`: the queried boxes, counted from 1."""
        return {"asked": [box + 1 for box in self.queries]}

    def _named(self, name: str) -> Tensor | None:
        """Beside single positions: `other labels` and `other objects`, those of the boxes that are not asked for;
        `earlier` and `later` ones, mentioned before and after the queried box."""
        which, _, kind = name.partition(" ")
        if which not in ("other", "earlier", "later") or kind not in ("labels", "objects"):
            return super()._named(name)
        device = self.last.device
        # The n-th object of the world stands before the query, once; so does its label, wherever a template puts it.
        inside = torch.arange(self.input_ids.shape[1], device=device) < self.query[:, None]
        words = self.object_ids if kind == "objects" else torch.tensor(self.label_ids, device=device)
        found = ((self.input_ids[:, None] == words[:, :, None]) & inside[:, None]).int().argmax(-1)
        box, asked = torch.arange(self.boxes, device=device), torch.tensor(self.queries, device=device)[:, None]
        chosen = {"other": box != asked, "earlier": box < asked, "later": box > asked}[which]
        return found.masked_fill(~chosen, -1)

    def random_keys(self, tokenizer: Any, seed: int = 0) -> Tensor:
        """(n,) int64: for each prompt, a token of its statements drawn at random, but never one that may matter.

        Left out are the first token of the prompt, the full stop, the query, and the queried box's own object and
        label. A key depends only on the seed and its own prompt. The official code may draw any of these tokens.

            from entity_circuits import boxes, models

            subject = models.load("qwen2.5-coder-0.5b")
            p = boxes.prompts(subject, n=7)
            assert (p.random_keys(subject.tokenizer) < p.query).all()
        """
        found, seed = [], integer("seed", seed, least=None)
        for row, (template, world) in enumerate(zip(self.templates, self.worlds, strict=True)):
            statements = template.context(world).removesuffix(template.end)
            ids = tokenizer(statements)["input_ids"]
            if self.input_ids[row, : len(ids)].tolist() != list(ids):
                raise ValueError(f"the tokenizer joins words at the end of the statements of prompt {row}")
            relevant = {0, int(self.object[row]), int(self.prev[row])}
            draw = random.Random(json.dumps(["knockout", seed, world.objects, world.labels, self.asked[row]]))
            found.append(draw.choice([place for place in range(len(ids)) if place not in relevant]))
        return torch.tensor(found, device=self.last.device)


def of(some: AnyPrompts) -> Prompts:
    """Prompts that are ones about boxes.

    Raises `ValueError` for those of another task.

        from entity_circuits import boxes, models

        subject = models.load("qwen2.5-coder-0.5b")
        print(boxes.of(boxes.prompts(subject, n=7)).queries)
    """
    if not isinstance(some, Prompts):
        raise ValueError(f"this is about boxes: it needs prompts of that task, not {type(some).__module__} ones")
    return some

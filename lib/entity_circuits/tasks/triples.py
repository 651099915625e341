"""Pairs of prompts with the answers that hypotheses predict: what patching between prompts and masks are tried on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..values import digest
from .prompts import Prompts, rows_of


@dataclass(frozen=True, eq=False)
class Triples:
    """n base prompts, n source prompts, and the token that the base's answer should become. Tensors are int64.

    `targets` (n,). `candidates` (n, k) holds every answer that some hypothesis predicts, by `names`; -1 where a pair
    has no such answer. Those of a triple are pairwise different. Paper: section 5.
    """

    desideratum: str
    base: Prompts
    source: Prompts
    targets: Tensor
    candidates: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        self.base.require_form(self.source)
        if not len(self.candidates) == len(self.targets) == len(self.base):
            raise ValueError(f"each of {len(self.base)} pairs needs a target and candidate answers")
        if self.candidates.ndim != 2 or len(set(self.names)) != self.candidates.shape[1] or "other" in self.names:
            raise ValueError(
                f"names: one for each of the candidates {tuple(self.candidates.shape)}, all different, and none is "
                f"'other', which any further answer is called; not {self.names}"
            )

    def __len__(self) -> int:
        return len(self.base)

    @property
    def digest(self) -> str:
        """A hex digest of both prompts and all candidates: the same for every candidate that is made the target."""
        return " ".join((self.base.digest, self.source.digest, digest(self.candidates)))

    def select(self, rows: Tensor | Sequence[int]) -> "Triples":
        """These rows, in this order; or, given (n,) bools, those that are true."""
        index = rows_of(rows, len(self))
        there = index.to(self.targets.device)
        return replace(
            self,
            base=self.base.select(index),
            source=self.source.select(index),
            targets=self.targets[there],
            candidates=self.candidates[there],
        )

    def towards(self, name: str) -> "Triples":
        """The same pairs with another candidate as the target: one recording serves several hypotheses.

        Raises `ValueError` for a candidate that not every one of these pairs has.
        """
        if name not in self.names:
            raise ValueError(f"no candidate answer called {name!r}: one of {', '.join(self.names)}")
        targets = self.candidates[:, self.names.index(name)]
        if bool((targets < 0).any()):
            raise ValueError(f"not every pair of {self.desideratum!r} has a candidate answer {name!r}")
        return replace(self, desideratum=name, targets=targets)

    def kinds(self, top: Tensor) -> list[str]:
        """Which candidate each of these tokens (n,) is, by name; `other` for any other token."""
        hits = self.candidates == top[:, None].to(self.candidates.device)
        place = torch.where(hits.any(1), hits.int().argmax(1), -1).tolist()
        return [self.names[index] if index >= 0 else "other" for index in place]


def between(base: Prompts, source: Prompts) -> Triples:
    """Pairs of any task whose base answer should become the source's; `names` are "base" and "source".

    Raises `ValueError` for a pair with one answer, or none.

        from entity_circuits import models, prompts
        from entity_circuits.tasks import triples

        subject = models.load("qwen2.5-coder-0.5b")
        texts = ["The cup is in F. F contains the", "The apple is in F. F contains the"]
        p = prompts.from_texts(subject, texts, [" cup", " apple"])
        print(triples.between(p, p.select([1, 0])).targets)
    """
    candidates = torch.stack((base.answer_ids, source.answer_ids), dim=1)
    if bool((candidates < 0).any()) or bool((candidates[:, 0] == candidates[:, 1]).any()):
        raise ValueError(
            "base and source of each pair need answers, and other ones: the base's is to become the source's"
        )
    return Triples("source", base, source, source.answer_ids, candidates, ("base", "source"))

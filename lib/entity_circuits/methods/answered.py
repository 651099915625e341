"""What circuits answer, prompt by prompt, as plain frozen data. `ablation` makes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .. import statistics
from ..arguments import integer
from ..statistics import Estimate
from ..tasks.prompts import rows_of


@dataclass(frozen=True, eq=False)
class Answers:
    """What some circuits answer, prompt by prompt: `correct` (circuits, n) bool, `logprob` (circuits, n) of the right
    answer (or another metric's number, if one is asked for), and the `contexts` (n,) of the prompts. `chosen`
    (circuits, n) bool: right among the prompts' choices alone; None where they have none."""

    correct: Tensor
    logprob: Tensor
    contexts: Tensor
    chosen: Tensor | None = None

    def __len__(self) -> int:
        return len(self.correct)

    def estimate(self, circuit: int = 0) -> Estimate:
        """A circuit's accuracy with its 95% interval over contexts."""
        circuit = integer("circuit", circuit, -len(self), len(self) - 1)
        return statistics.estimate(self.correct[circuit], self.contexts)

    def choice(self, circuits: int | slice = 0) -> Estimate:
        """How often a circuit, or several on average, is right among the prompts' choices alone, with its 95% interval
        over contexts; NaN where the prompts have no choices."""
        if self.chosen is None:
            return Estimate(np.nan, np.nan, np.nan, len(self.contexts), len(torch.unique(self.contexts)))
        if not isinstance(circuits, slice):
            circuits = [integer("circuit", circuits, -len(self), len(self) - 1)]  # type: ignore[assignment]
        return statistics.estimate(self.chosen[circuits].double().mean(0), self.contexts)

    def average(self, circuit: int = 0) -> Estimate:
        """The mean of a circuit's `logprob` (or of the metric's number) with its 95% interval over contexts."""
        circuit = integer("circuit", circuit, -len(self), len(self) - 1)
        return statistics.estimate(self.logprob[circuit], self.contexts)

    def rows(self, circuits: slice | Sequence[int]) -> "Answers":
        """The answers of some of the circuits."""
        circuits = circuits if isinstance(circuits, slice) else rows_of(circuits, len(self)).tolist()
        return replace(self, **{name: value[circuits] for name, value in self.tables().items()})

    def prompts(self, rows: Tensor) -> "Answers":
        """The answers to some of the prompts, by their numbers."""
        cut = {name: value[:, rows] for name, value in self.tables().items()}
        return replace(self, contexts=self.contexts[rows], **cut)

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> "Answers":
        """The answers of several circuits, or lists of them, to the same prompts."""
        names = set.intersection(*(set(part.tables()) for part in parts))
        cut = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return cls(contexts=parts[0].contexts, **cut)

    def tables(self) -> dict[str, Tensor]:
        """What has a row a circuit."""
        named = {"correct": self.correct, "logprob": self.logprob}
        return named if self.chosen is None else {**named, "chosen": self.chosen}

"""The runs that path patching starts from: base prompts whole, of source prompts what heads say at some places."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import runs
from ..models.subject import Subject
from ..runs.recording import Recording
from ..tasks.prompts import Prompts
from . import work

CHUNK = 70
"""Examples that are recorded and patched at a time: what is held does not grow with more of them."""

Recorded = Callable[[], tuple[Recording, Recording]]
"""Gives the recordings of some base and source prompts, made when they are first asked for."""


@dataclass(eq=False)
class Runs:
    """Recordings of n base prompts and their sources, made when something has to be computed from them.

    The sources' are of the tokens at `positions` alone. Up to `CHUNK` examples are recorded once and kept; of more,
    those that were asked for last.
    """

    subject: Subject
    base: Prompts
    source: Prompts
    positions: tuple[str, ...]
    made: dict[tuple[int, ...], tuple[Recording, Recording]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.base)

    def given(self, recordings: tuple[Recording, Recording] | None) -> "Runs":
        """These runs; from recordings that there are already, if they are given.

        Raises `ValueError` for recordings of other prompts or another model.
        """
        if recordings is None:
            return self
        if len(recordings) != 2:
            raise ValueError(f"a recording of base and one of source are given together, not {len(recordings)}")
        for recording, prompts in zip(recordings, (self.base, self.source), strict=True):
            recording.require(self.subject, prompts)
        base, source = recordings
        return Runs(base.subject, base.prompts, source.prompts, (), {tuple(range(len(base))): (base, source)})

    @property
    def made_elsewhere(self) -> bool:
        """Whether the recordings were given: nobody knows of them in which batches they were made."""
        return not self.positions

    def whole(self) -> tuple[Recording, Recording]:
        """The recordings of all base and source prompts."""
        return self._of(tuple(range(len(self))))

    def part(self, rows: Tensor) -> Recorded:
        """The recordings of some examples, when they are asked for."""
        return Part(self, rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return work.once(Runs, self.subject, self.base, self.source, self.positions)

    def _of(self, rows: tuple[int, ...]) -> tuple[Recording, Recording]:
        if rows not in self.made:
            self.made.clear()
            base, source = self.base.select(torch.tensor(rows)), self.source.select(torch.tensor(rows))
            places = [source.position(name) for name in self.positions]
            self.made[rows] = (
                runs.record(self.subject, base, share_context=True),
                runs.record(self.subject, source, share_context=True, positions=places),
            )
        return self.made[rows]


@dataclass(frozen=True, eq=False)
class Part:
    """Some examples of runs; called, their recordings."""

    runs: Runs
    rows: Tensor

    def __call__(self) -> tuple[Recording, Recording]:
        if len(self.runs) <= CHUNK or self.runs.made_elsewhere:
            base, source = self.runs.whole()
            return base.select(self.rows), source.select(self.rows)
        return self.runs._of(tuple(self.rows.tolist()))

    def __reduce__(self) -> tuple[Any, ...]:
        if len(self.runs) <= CHUNK:
            return Part, (self.runs, self.rows)
        some = (self.runs.base.select(self.rows), self.runs.source.select(self.rows))  # a worker needs no others
        return Part, (Runs(self.runs.subject, *some, self.runs.positions), torch.arange(len(self.rows)))

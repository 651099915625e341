"""The two ways to carry out edits, by name: from a recording, or by whole forward passes. Both give the same numbers.

Every experiment that takes a `method` looks it up here, so that a check of the one against the other is a change of one
word.
"""

from collections.abc import Callable
from typing import Literal

from . import replay, runs
from .edits import Outcome

Method = Literal["replay", "definition"]

Executor = Callable[..., Outcome]
"""What `replay.replay` and `runs.rerun` both are: a recording and variants in, an `Outcome` out, the same keywords."""

EXECUTORS: dict[Method, Executor] = {"replay": replay.replay, "definition": runs.rerun}

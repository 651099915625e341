"""A finding against a bound: on which side of it the finding surely lies, and how sure that is.

Every verdict of the last chapter is made of such comparisons. Each has a p, so that a family of verdicts can be held
to account for its size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from scipy import stats

from .findings import Reported

Verdict = Literal["replicates", "partly", "does not", "open", "not tested here"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

ALPHA = 0.05
"""What a p has to lie below, as the intervals leave out 5%."""


def above(one: Reported, bound: float) -> float:
    """The two-sided p of a finding that lies above `bound`; below `ALPHA` exactly where its interval does.

    It follows from the lower half of the interval, by Student's distribution where the finding says how many units it
    rests on, else by the normal one. 1 without an interval or with one of no width: such a number decides nothing.

    >>> round(above(Reported("gain", 0.10, 0.02, 0.18), 0.0), 3)
    0.014
    """
    return _p(one, bound, 1)


def below(one: Reported, bound: float) -> float:
    """The same of a finding that lies below `bound`, from the upper half of its interval."""
    return _p(one, bound, -1)


def _p(one: Reported, bound: float, sign: int) -> float:
    end = one.low if sign > 0 else one.high
    if end is None or isinstance(one.value, str):
        return 1.0
    half = sign * (one.value - end)
    if half <= 0:
        return 1.0
    law = stats.norm() if one.df is None else stats.t(one.df)
    distance = sign * (one.value - bound) / half * law.ppf(1 - ALPHA / 2)
    return float(min(1.0, 2 * law.sf(distance)))


def over(one: Reported, other: Reported) -> float:
    """The two-sided p of a finding that is larger than another, both with intervals; as if they were independent."""
    if one.low is None or other.high is None or isinstance(one.value, str) or isinstance(other.value, str):
        return 1.0
    width = math.hypot(one.value - one.low, other.high - other.value)
    if width <= 0:
        return 1.0
    distance = (one.value - other.value) / width * stats.norm.ppf(1 - ALPHA / 2)
    return float(min(1.0, 2 * stats.norm.sf(distance)))


@dataclass(frozen=True)
class Answer:
    """Whether a statement holds: the p that speaks for it, `yes`, and the p that speaks against it, `no`."""

    yes: float
    no: float

    @property
    def word(self) -> Literal["yes", "no", "open"]:
        """Which of the two is surely so."""
        if self.yes < ALPHA:
            return "yes"
        return "no" if self.no < ALPHA else "open"


def exceeds(one: Reported, bound: float) -> Answer:
    """Whether a finding is larger than `bound`."""
    return Answer(above(one, bound), below(one, bound))


def all_of(answers: Mapping[str, Answer]) -> tuple[Verdict, float]:
    """The verdict on a claim that says the same of several things, and its p.

    All hold: it replicates, as sure as the least sure of them. Some surely do: partly. None does and one surely does
    not: it does not. In the last two the p is that of the surest, times their number. Otherwise it is open.

    >>> all_of({"A": Answer(0.01, 1.0), "B": Answer(0.03, 1.0)})
    ('replicates', 0.03)
    """
    words = [answer.word for answer in answers.values()]
    if all(word == "yes" for word in words):
        return "replicates", max(answer.yes for answer in answers.values())
    if "yes" in words:
        return "partly", min(1.0, len(words) * min(answer.yes for answer in answers.values()))
    if "no" in words:
        return "does not", min(1.0, len(words) * min(answer.no for answer in answers.values()))
    return "open", 1.0

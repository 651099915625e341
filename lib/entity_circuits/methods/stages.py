"""Path patching in stages: all senders on a few examples, then more examples for those that could still be chosen.

Most heads do nothing, and a few examples show it. The n examples of a sweep are a finite population: after m of them,
each head's score on all n is known within an interval, and a head is dropped once its whole interval lies above those
of enough others. Whether the chosen heads are those of the exact sweep is then a matter of the error that is allowed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import finite, integer, one_of
from ..heads import Head
from ..intervals import quantile
from ..tasks.prompts import Prompts
from .scores import MEANS, Scores, Statistic

ERROR = 0.05
"""How likely a head that the exact sweep would choose may be dropped, a round, where scores are about normal."""


def sizes(stages: Sequence[int] | None, n: int) -> list[int]:
    """How many examples have been seen after each stage: those given that are fewer than n, and n.

    Raises `ValueError` for numbers that do not grow, or one below 4, of which nothing can be told.

        from entity_circuits.methods import stages

        print(stages.sizes((20,), 70))  # [20, 70]
    """
    given = [] if stages is None else [integer("stage", size, 4) for size in stages]
    if given != sorted(set(given)):
        raise ValueError(f"stages are growing numbers of examples, not {given}")
    return [size for size in given if size < n] + [n]


def spread(prompts: Prompts) -> Tensor:
    """(n,): the order in which examples are taken, so that the first of them come from as many contexts as there are.

    Of each context one prompt, then another one of each; which of its prompts comes first turns from context to
    context, so that no place in the context is the first to be asked about everywhere.

        from entity_circuits import toy
        from entity_circuits.methods import stages

        print(stages.spread(toy.prompts("apple", "cup")))
    """
    members: dict[int, list[int]] = {}
    for row, context in enumerate(prompts.contexts.tolist()):
        members.setdefault(context, []).append(row)
    turned = [rows[i % len(rows) :] + rows[: i % len(rows)] for i, rows in enumerate(members.values())]
    longest = max(map(len, turned))
    return torch.tensor([rows[turn] for turn in range(longest) for rows in turned if turn < len(rows)])


def undecided(scores: Scores, k: int, *, of: int, statistic: Statistic, error: float = ERROR) -> tuple[Head, ...]:
    """The heads that could be among the k most negative of all examples, judged by those that have been seen.

    Args:
        scores: of m examples, NaN for heads that are no candidates any more.
        k: how many will be chosen.
        of: the number of all examples, of which the m are a part.
        statistic: what ranks them; a mean, not the median.
        error: how likely one of the k may be dropped.

    A head's interval is its mean so far, plus and minus t times its standard error, which shrinks as m comes near to
    `of`; t leaves `error` to the 2k heads of which it matters, the k that set the bound and the k that must not fall.
    Raises `ValueError` for the median, which has no such interval.
    """
    one_of("statistic that is a mean", statistic, MEANS)
    finite("error", error, 0, 1, inside=True)
    m = int(scores.examples.max())
    known = scores.examples == m
    mean = scores.statistic(statistic).double()
    left = max(1 - m / of, 0.0) ** 0.5  # of a finite population nothing remains to be known at the end
    reach = quantile(1 - error / (2 * k), m - 1) * left * scores.standard_error(statistic).double()
    upper = (mean + reach)[known].sort().values
    bound = upper[min(k, len(upper)) - 1]
    return tuple(Head(*place) for place in torch.nonzero(known & (mean - reach <= bound)).tolist())

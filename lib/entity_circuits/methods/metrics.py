"""What is read off a run: a number for each prompt, and whether the answer is right by it.

Methods take a `metric`, one of these by name or one of your own. The scores of path patching are its changes. An answer
that ties with another token is not right, by any of them: which of the two an index puts first would be chance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import one_of
from ..runs.edits import Outcome
from ..tasks.prompts import Prompts, require_answers


@dataclass(frozen=True)
class Metric:
    """A number of a run for each prompt.

    `targets` names the tokens (n, k) whose logits are wanted. Of an outcome for these, `value` (variants, n) is the
    number and `correct` (variants, n) bool says whether the answer is right. With `log`, the number is the logarithm
    of a probability, so that relative changes are those of the probability. Without `vocabulary` the logits of the
    targets are all that it needs, which saves a replay half of the work.

        from entity_circuits.methods import metrics

        print(metrics.Metric("logit", lambda p: p.answer_ids[:, None], lambda o, p: o.logits[..., 0], metrics.top).name)
    """

    name: str
    targets: Callable[[Prompts], Tensor]
    value: Callable[[Outcome, Prompts], Tensor]
    correct: Callable[[Outcome, Prompts], Tensor]
    log: bool = False
    vocabulary: bool = True


def top(outcome: Outcome, prompts: Prompts) -> Tensor:
    """(variants, n) bool: the answer is more likely than every other token of the whole vocabulary."""
    return outcome.top == prompts.answer_ids


def _answer(prompts: Prompts) -> Tensor:
    require_answers(prompts)
    return prompts.answer_ids[:, None]


def _answer_and_wrong(prompts: Prompts) -> Tensor:
    require_answers(prompts)
    if prompts.wrong_ids is None:
        raise ValueError("a logit difference needs a wrong answer for each prompt: from_texts(..., wrong=[...])")
    return torch.stack((prompts.answer_ids, prompts.wrong_ids), dim=1)


def _answer_and_choices(prompts: Prompts) -> Tensor:
    require_answers(prompts)
    if prompts.choice_ids is None:
        raise ValueError("a choice needs the answers to choose among: from_texts(..., choices=[...])")
    if not bool((prompts.choice_ids == prompts.answer_ids[:, None]).any(1).all()):
        raise ValueError("the right answer is not among the choices of every prompt")
    return torch.cat((prompts.answer_ids[:, None], prompts.choice_ids), dim=1)


def _chosen(outcome: Outcome, prompts: Prompts) -> Tensor:
    assert prompts.choice_ids is not None
    itself = prompts.choice_ids == prompts.answer_ids[:, None]
    return outcome.logits[..., 0] > outcome.logits[..., 1:].masked_fill(itself, -torch.inf).amax(-1)


LOG_PROBABILITY = Metric("log_probability", _answer, lambda o, _: o.logprob, top, log=True)
"""log p(answer) over the whole vocabulary; right if it is more likely than every other token."""

LOGIT_DIFFERENCE = Metric(
    "logit_difference",
    _answer_and_wrong,
    lambda o, _: o.logits[..., 0] - o.logits[..., 1],
    lambda o, _: o.logits[..., 0] > o.logits[..., 1],
    vocabulary=False,
)
"""Logit of the answer minus that of the wrong one; right if above 0."""

CHOICE = Metric(
    "choice",
    _answer_and_choices,
    lambda o, _: o.logits[..., 0] - o.logits[..., 1:].logsumexp(-1),
    _chosen,
    log=True,
    vocabulary=False,
)
"""log p(answer) among the given choices; right if it is more likely than every other of them."""

METRICS = {metric.name: metric for metric in (LOG_PROBABILITY, LOGIT_DIFFERENCE, CHOICE)}


def named(metric: str | Metric) -> Metric:
    """A metric by its name, or itself.

    Raises `ValueError` that lists the names.

        from entity_circuits.methods import metrics

        print(metrics.named("logit_difference").name)
    """
    if isinstance(metric, Metric):
        return metric
    one_of("metric", metric, METRICS)
    return METRICS[metric]

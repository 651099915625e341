"""What is read off a run: a number for each prompt, and whether the answer is right by it.

Methods take a `metric`, one of these by name or one of your own. The scores of path patching are its changes. An answer
that ties with another token is not right, by any of them: which of the two an index puts first would be chance.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..arguments import boolean, of_kind, one_of
from ..runs import choices
from ..runs.edits import Outcome
from ..tasks.prompts import Prompts, require_answers


@dataclass(frozen=True)
class Metric:
    """A number of a run for each prompt.

    `targets` names the tokens (n, k) whose logits are wanted. Of an outcome for these, `value` (variants, n) is the
    number and `correct` (variants, n) bool says whether the answer is right. With `log`, the number is the logarithm
    of a probability, so that relative changes are those of the probability. Without `vocabulary` the logits of the
    targets are all that it needs and can read, which saves a replay half of the work. A `value` that is no finite
    float for each variant and prompt is refused (`number`), a `correct` that is no bool for each, too (`verdict`). Both
    look at one prompt at a time: prompts come in chunks, and what one of them reads of others would change with these.

        from entity_circuits.methods import metrics

        print(metrics.Metric("logit", lambda p: p.answer_ids[:, None], lambda o, p: o.logits[..., 0], metrics.top).name)
    """

    name: str
    targets: Callable[[Prompts], Tensor]
    value: Callable[[Outcome, Prompts], Tensor]
    correct: Callable[[Outcome, Prompts], Tensor]
    log: bool = False
    vocabulary: bool = True

    def __post_init__(self) -> None:
        of_kind("the name of a metric", self.name, str)
        boolean("log", self.log)
        boolean("vocabulary", self.vocabulary)

    def __reduce__(self) -> tuple[Any, ...]:
        """One of those below is sent to workers by its name, as its functions have none."""
        if METRICS.get(self.name) is self:
            return named, (self.name,)
        return Metric, tuple(vars(self).values())


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
    return torch.cat((prompts.answer_ids[:, None], choices.require(prompts)), dim=1)


def _chosen(outcome: Outcome, prompts: Prompts) -> Tensor:
    return choices.right(outcome.logits[..., 1:], prompts)


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


def wanted(metric: Metric, prompts: Prompts) -> Tensor:
    """(n, k): the tokens that a metric wants, then the prompts' choices where they have any: a few logits more.

    For example:

        from entity_circuits import toy
        from entity_circuits.methods import metrics

        print(metrics.wanted(metrics.LOG_PROBABILITY, toy.prompts("apple")).shape)  # the answer, and one choice
    """
    targets = metric.targets(prompts)
    if prompts.choice_ids is None or not choices.given(prompts):
        return targets
    return torch.cat((targets, prompts.choice_ids), dim=1)


class _Logits(Outcome):
    """An outcome for a metric without `vocabulary`: whatever made it, there are the logits of its targets alone."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("top", "logprobs"):
            raise ValueError(
                f"a metric that reads `{name}` of an outcome needs the whole vocabulary: Metric(..., vocabulary=True)"
            )
        return super().__getattribute__(name)


def _read(metric: Metric, outcome: Outcome) -> Outcome:
    return outcome if metric.vocabulary else _Logits(**vars(outcome))


def number(metric: Metric, outcome: Outcome, prompts: Prompts) -> Tensor:
    """(variants, n) finite floats of the dtype of the logits: the metric's number.

    Raises `ValueError` for whatever else its `value` gives, also for NaN: in tables of scores it says that there is no
    path. For example:

        from entity_circuits import runs, toy
        from entity_circuits.methods import metrics

        p = toy.prompts("apple", "cup")
        print(metrics.number(metrics.LOG_PROBABILITY, runs.run(toy.subject(), p), p).shape)
    """
    found = _fitting(metric, "value", metric.value(_read(metric, outcome), prompts), outcome)
    if not (found.is_floating_point() and bool(torch.isfinite(found).all())):
        raise ValueError(f"the value of the metric {metric.name!r} has to be finite floats, not {found}")
    return found.to(outcome.logits.dtype)


def verdict(metric: Metric, outcome: Outcome, prompts: Prompts) -> Tensor:
    """(variants, n) bool: whether the answer is right by the metric, checked as `number` is.

    For example:

        from entity_circuits import runs, toy
        from entity_circuits.methods import metrics

        p = toy.prompts("apple", "cup")
        print(metrics.verdict(metrics.LOG_PROBABILITY, runs.run(toy.subject(), p), p))
    """
    found = _fitting(metric, "correct", metric.correct(_read(metric, outcome), prompts), outcome)
    if found.dtype != torch.bool:
        raise ValueError(f"the correct of the metric {metric.name!r} has to be bools, not {found.dtype}")
    return found


def _fitting(metric: Metric, name: str, found: Tensor, outcome: Outcome) -> Tensor:
    of_kind(f"the {name} of the metric {metric.name!r}", found, Tensor)
    if found.shape != (shape := outcome.logits.shape[:2]):
        raise ValueError(
            f"the {name} of the metric {metric.name!r} has to be one for each variant and prompt, "
            f"{tuple(shape)}, not {tuple(found.shape)}"
        )
    return found


def answers(metric: Metric, outcome: Outcome, prompts: Prompts) -> dict[str, Tensor]:
    """What is kept of an outcome for the `wanted` tokens, each (variants, n).

    `correct` and `logprob` are the metric's verdict and number; `chosen`, where the prompts have choices, says whether
    the right answer is more likely than every other choice.

        from entity_circuits import runs, toy
        from entity_circuits.methods import metrics

        p, metric = toy.prompts("apple"), metrics.LOG_PROBABILITY
        print(metrics.answers(metric, runs.run(toy.subject(), p, targets=metrics.wanted(metric, p)), p)["chosen"])
    """
    own = metric.targets(prompts).shape[1]
    read = replace(outcome, logits=outcome.logits[..., :own], logprobs=outcome.logprobs[..., :own])
    kept = {"correct": verdict(metric, read, prompts), "logprob": number(metric, read, prompts)}
    if choices.given(prompts):
        kept["chosen"] = choices.right(outcome.logits[..., own:], prompts)
    return kept

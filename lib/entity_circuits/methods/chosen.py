"""What circuits choose among each prompt's own answers, prompt by prompt, and how that stands beside the whole model.

Right as often as the model is not yet the same as the model: a circuit may be right elsewhere. So beside the scores
that look at the right answer there are two that do not: agreement, and the divergence from what the whole model says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import results, runs
from ..arguments import several
from ..heads import Circuit
from ..models.subject import Subject
from ..results import Store
from ..runs import choices, replay
from ..runs.edits import Outcome
from ..runs.mean_replay import Means, Table
from ..tasks.prompts import Prompts
from . import kept as places
from .ablation import kept
from .kept import Kept


@dataclass(frozen=True, eq=False)
class Said:
    """What some variants of a model say to n prompts of k choices.

    `logprobs` (variants, n, k) of the choices over the whole vocabulary, `top` (variants, n) the most likely token (or
    `TIED`), `choice_ids` (n, k), `answer_ids` and `contexts` (n,).
    """

    logprobs: Tensor
    top: Tensor
    choice_ids: Tensor
    answer_ids: Tensor
    contexts: Tensor

    def __len__(self) -> int:
        return len(self.logprobs)

    def rows(self, variants: slice | Sequence[int]) -> "Said":
        """Some of the variants."""
        index = variants if isinstance(variants, slice) else list(variants)
        return Said(self.logprobs[index], self.top[index], self.choice_ids, self.answer_ids, self.contexts)

    @property
    def chosen(self) -> Tensor:
        """(variants, n): which of the choices is the likeliest, -1 where several are."""
        best = self.logprobs.amax(-1, keepdim=True)
        return self.logprobs.argmax(-1).masked_fill((self.logprobs == best).sum(-1) > 1, -1)

    @property
    def right(self) -> Tensor:
        """(variants, n) bool: the right answer is likelier than every other choice."""
        return self.chosen == self._answer

    @property
    def correct(self) -> Tensor:
        """(variants, n) bool: the right answer is likelier than every other token of the vocabulary."""
        return self.top == self.answer_ids

    @property
    def difference(self) -> Tensor:
        """(variants, n): the right answer's logit minus the mean of the other choices' logits."""
        itself = torch.arange(self.logprobs.shape[-1]) == self._answer[:, None]
        others = self.logprobs.masked_fill(itself, 0).sum(-1) / max(1, self.logprobs.shape[-1] - 1)
        return self.logprobs.gather(-1, self._answer.expand(len(self), -1)[..., None])[..., 0] - others

    @property
    def _answer(self) -> Tensor:
        return (self.choice_ids == self.answer_ids[:, None]).int().argmax(-1)

    def agreement(self, whole: "Said") -> Tensor:
        """(variants, n) bool: the very choice of the whole model (its one variant), right or wrong."""
        return (self.chosen == whole.chosen) & (whole.chosen >= 0)

    def divergence(self, whole: "Said") -> Tensor:
        """(variants, n): KL(whole, variant) in nats over the choices and "any other token"."""
        first, second = (_with_rest(one.logprobs.double()) for one in (whole, self))
        return (first.exp() * (first - second)).sum(-1)

    def scores(self, whole: "Said") -> dict[str, Tensor]:
        """All of them by name, each (variants, n) float64."""
        found = {"choice": self.right, "top-1": self.correct, "logit difference": self.difference}
        found |= {"agreement": self.agreement(whole), "KL": self.divergence(whole)}
        return {name: value.double() for name, value in found.items()}


def _with_rest(logprobs: Tensor) -> Tensor:
    """With the logarithm of what is left for all other tokens; rounding leaves at least 1e-6."""
    rest = (1 - logprobs.exp().sum(-1, keepdim=True)).clamp(min=1e-6).log()
    return torch.cat((logprobs, rest), dim=-1)


def whole(subject: Subject, prompts: Prompts, *, store: Store | None = None) -> Said:
    """What the unmodified model says, as one variant.

    Raises `ValueError` for prompts without choices.

        from entity_circuits import models, tasks
        from entity_circuits.methods import chosen

        subject = models.load("qwen2.5-coder-0.5b")
        print(chosen.whole(subject, tasks.default.prompts(subject, n=7)).chosen)
    """
    targets = choices.require(prompts)

    def compute() -> dict[str, Tensor]:
        parts = []
        for rows in torch.arange(len(prompts)).split(49):
            recorded = runs.record(subject, prompts.select(rows), share_context=True)
            with torch.no_grad():
                parts.append(replay.replay(recorded, [[]], targets=targets[rows]))
        outcome = Outcome.joined(parts, dim=1)
        return {"logprobs": outcome.logprobs, "top": outcome.top}

    inputs = results.key(__name__, subject, prompts=prompts)
    return _said(prompts, results.at(store).keep("whole", inputs, compute))


def circuits(
    subject: Subject,
    some: Sequence[Circuit | Kept],
    prompts: Prompts,
    means: Means | Sequence[Means],
    *,
    batch: int = 49,
    store: Store | None = None,
) -> Said:
    """What circuits say: their heads at their places run, all others, everywhere, are at `means`.

    Args:
        subject: the model.
        some: circuits, each a `Circuit` or a mapping of places to heads (see `Prompts.places`).
        prompts: n prompts with choices, of the length of those of the means.
        means: what stands in place of every head that is not kept; several, and each serves the contexts of its turn:
            one prompt's outputs each, and that is resample ablation.
        batch: prompts that go together.
        store: keeps what is said.

    Returns `Said`, a variant a circuit. Raises `ValueError` as `ablation.circuit_accuracy` does, and without choices.

        from entity_circuits import ablation, models, tasks
        from entity_circuits.methods import chosen

        subject = models.load("qwen2.5-coder-0.5b")
        p, means = tasks.default.prompts(subject, n=7), ablation.means(subject, n=20)
        print(chosen.circuits(subject, [{"last": ["L3H5"]}, {}], p, means).chosen)
    """
    asked = [kept(one) for one in several("circuits", some)]
    given = [means] if isinstance(means, Means) else list(several("means", means))
    targets = choices.require(prompts)
    for one in given:
        places.check(subject, prompts, asked, one)
    turn = torch.unique(prompts.contexts, return_inverse=True)[1] % len(given)

    def compute() -> dict[str, Tensor]:
        logprobs = torch.zeros(len(asked), len(prompts), targets.shape[1], dtype=torch.float32)
        top = torch.zeros(len(asked), len(prompts), dtype=torch.long)
        for index, one in enumerate(given):
            rows = torch.nonzero(turn == index)[:, 0]
            if len(rows):
                part = prompts.select(rows)
                options = {"targets": targets[rows], "batch": batch, "table": Table(subject, part, one)}
                outcome = places.ablate(subject, part, asked, one, **options)
                logprobs[:, rows], top[:, rows] = outcome.logprobs.float().cpu(), outcome.top.cpu()
        return {"logprobs": logprobs, "top": top}

    words = [{place: sorted(map(str, each)) for place, each in sorted(one.items())} for one in asked]
    asking = {"circuits": words, "means": [one.z for one in given], "batch": batch}
    inputs = results.key(__name__, subject, prompts=prompts, **asking)
    return _said(prompts, results.at(store).keep("said", inputs, compute))


def _said(prompts: Prompts, found: Mapping[str, Tensor]) -> Said:
    assert prompts.choice_ids is not None
    about = [x.cpu() for x in (prompts.choice_ids, prompts.answer_ids, prompts.contexts)]
    return Said(found["logprobs"].float(), found["top"].long(), *about)


def zeros(means: Means) -> Means:
    """Zero ablation: nothing stands in place of a head's output.

    For example:

        from entity_circuits import ablation, toy
        from entity_circuits.methods import chosen

        subject = toy.subject()
        print(chosen.zeros(ablation.means(subject, prompts=toy.prompts("apple", "cup"))).z.abs().max())
    """
    return Means(torch.zeros_like(means.z), means.n, means.fingerprint)

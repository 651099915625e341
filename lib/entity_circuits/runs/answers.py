"""What a model says: the most likely next token after each prompt, and the probability of the right one.

The queries of a context differ only in their last few tokens. `evaluate` runs what they have in common once, keeps its
keys and values, and continues from there once for each query.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache

from .. import results
from ..arguments import boolean, integer, of_kind
from ..models import forms
from ..models.alone import ALONE
from ..models.precision import apart, close, fast_float32
from ..models.subject import Subject
from ..results import Store
from ..tasks.prompts import Prompts, require_answers
from . import choices
from .finite import require_numbers
from .prefix import Batch, batches, possible
from .recording import require_room

ROWS = 64  # rows of logits held at once: 64 x 151,936 x 4 bytes = 39 MB


@dataclass(frozen=True, eq=False)
class Behaviour:
    """What a model says after n prompts. Log-probabilities are float32 over the whole vocabulary.

    `top` (n,) is the most likely token and `said` the same as text; `answer_logprob` (n,) belongs to the right answer
    (NaN where there is none), `object_logprob` (n, k) to each of the prompts' choices (k = 0 if they have none).
    `rank` (n,) is the number of tokens more likely than the right one, -1 where there is none. `tied` (n,) bool: other
    tokens have the very logit of `top`, which is the one of them with the lowest id; that is common in bfloat16, and
    counts as wrong. `tokens_computed` were run through the model.
    """

    prompts: Prompts
    top: Tensor
    said: tuple[str, ...]
    answer_logprob: Tensor
    object_logprob: Tensor
    rank: Tensor
    tied: Tensor
    tokens_computed: int

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def tokens_without_sharing(self) -> int:
        """How many tokens whole prompts would have taken."""
        return int((self.prompts.last + 1).sum())

    @property
    def correct(self) -> Tensor:
        """(n,) bool: whether the right answer is more likely than every other token of the whole vocabulary.

        Raises `ValueError` if a prompt has no right answer.
        """
        require_answers(self.prompts)
        return (self.top == self.prompts.answer_ids) & ~self.tied

    @property
    def chosen(self) -> Tensor:
        """(n,) bool: whether, among the prompts' choices alone, the right answer is more likely than every other.

        Whoever is right by `correct` is right here. Raises `ValueError` if a prompt's right answer is no choice of its.
        """
        return choices.right(self.object_logprob, self.prompts)


def evaluate(
    subject: Subject, prompts: Prompts, *, share_context: bool = True, batch: int = 70, store: Store | None = None
) -> Behaviour:
    """Run the prompts as they are and read the prediction at `last`.

    Args:
        subject: the model.
        prompts: n of them.
        share_context: the tokens that all prompts of a context begin with go through the model once, and only the rest
            of each prompt after it; the result is that of whole prompts up to rounding. A model with layers that keep
            no keys and values (of a hybrid one) is given whole prompts all the same.
        batch: the most prompts that are run together; a context is never split.
        store: keeps the answers for whoever asks the same again.

    Raises `ValueError` for prompts that do not fit the model or after which it gives no numbers, `RuntimeError` if what
    is read so is not what the model itself says after the first prompt. Paper: section 3, and the full-model column of
    Table 1.

        from entity_circuits import models, statistics, tasks
        from entity_circuits.runs import answers

        subject = models.load("qwen2.5-coder-0.5b")
        p = tasks.default.prompts(subject, n=14, split="evaluation")
        result = answers.evaluate(subject, p)
        print(statistics.estimate(result.correct, p.contexts))
    """
    batch = integer("batch", batch)
    boolean("share_context", share_context)
    of_kind("model", subject, Subject)
    of_kind("prompts", prompts, Prompts)
    subject.require_plain()
    require_room(subject, prompts)
    compute = partial(_answers, subject, prompts, share_context, batch)
    if store is None:
        found = compute()
    else:
        inputs = results.key(__name__, subject, prompts=prompts, share_context=share_context, batch=batch)
        found = results.at(store).keep("answers", inputs, compute)
    computed = int(found.pop("computed"))
    said = tuple(subject.tokenizer.decode([token]) for token in found["top"].tolist())
    return Behaviour(prompts, said=said, tokens_computed=computed, **found)


def _answers(subject: Subject, prompts: Prompts, share_context: bool, batch: int) -> dict[str, Tensor]:
    """The tensors of a `Behaviour` by their names, and `computed`, the number of tokens."""
    _check_once(subject, prompts)
    plan = list(batches(prompts, batch, share=share_context and possible(subject.model)))
    n = len(prompts)
    found = {
        "top": torch.empty(n, dtype=torch.long),
        "answer_logprob": torch.empty(n, dtype=torch.float32),
        "object_logprob": torch.empty(_choices(prompts).shape, dtype=torch.float32),
        "rank": torch.empty(n, dtype=torch.long),
        "tied": torch.empty(n, dtype=torch.bool),
        "computed": torch.zeros((), dtype=torch.long),
    }
    with fast_float32(subject), torch.no_grad():
        for some in tqdm(plan, desc="prompts", unit="batch", disable=None, leave=False):
            part = prompts.select(some.rows)
            hidden = _final(subject, prompts, some)
            found["computed"] += int((part.last + 1 - some.prefix).sum()) + some.prefix * len(some.spokesmen)
            for chunk in torch.arange(len(part)).split(ROWS):
                for name, piece in _read(subject, hidden[chunk], part.select(chunk)).items():
                    found[name][some.rows[chunk]] = piece.cpu()
    return found


@ALONE
def _final(subject: Subject, prompts: Prompts, batch: Batch) -> Tensor:
    """(rows, width): the normed residual at `last`, contiguous. Rows of one context share the run of its prefix.

    Padding is on the right, behind everything that is read, so that causality alone keeps it out.
    """
    model, cache = subject.model, DynamicCache(config=subject.model.config)
    body = getattr(model, forms.of(model).body, model.base_model)  # Llama 4 calls no part of itself its base
    part, prefix = prompts.select(batch.rows), batch.prefix
    if prefix:
        body(
            input_ids=prompts.input_ids[batch.spokesmen, :prefix].to(subject.device),
            past_key_values=cache,
            use_cache=True,
        )
        cache.batch_select_indices(batch.context)
    ids = part.input_ids[:, prefix : int(part.last.max()) + 1].to(subject.device)
    hidden = body(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    return hidden[torch.arange(len(part)), part.last - prefix].contiguous()


def _read(subject: Subject, hidden: Tensor, part: Prompts) -> dict[str, Tensor]:
    """What is read of a few rows, by its name, from hidden states (rows, width).

    Two-dimensional on purpose: a linear layer on a strided (rows, 1, width) slice copies its matrix for each row.
    """
    logits = _logits(subject, hidden)
    answers, choices_ = (ids.to(logits.device) for ids in (part.answer_ids, _choices(part)))
    known = answers >= 0
    right = logits.gather(1, answers.clamp(min=0)[:, None])
    total = logits.logsumexp(1, keepdim=True)
    require_numbers(subject, part, total[:, 0])
    return {
        "top": logits.argmax(1),
        "answer_logprob": (right - total).squeeze(1).masked_fill(~known, torch.nan),
        "object_logprob": logits.gather(1, choices_) - total,
        "rank": (logits > right).sum(1).masked_fill(~known, -1),
        "tied": (logits == logits.amax(1, keepdim=True)).sum(1) > 1,
    }


@ALONE
def _logits(subject: Subject, hidden: Tensor) -> Tensor:
    head = subject.model.get_output_embeddings()
    return forms.rescaled(subject.model, head(hidden.to(head.weight.device))).to(torch.float32)


_CHECKED: WeakSet[Any] = WeakSet()


@ALONE
def _check_once(subject: Subject, prompts: Prompts) -> None:
    """Compare the logits that are read here with the model's own, after the first prompt, once a model."""
    if subject.as_wrapped in _CHECKED:
        return
    first = prompts.select([0])
    with fast_float32(subject), torch.no_grad():
        ids = first.input_ids[:, : int(first.last) + 1].to(subject.device)
        own = subject.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].to(torch.float32)
        require_numbers(subject, first, own.logsumexp(1))
        read = _logits(subject, _final(subject, first, next(batches(first, 1, share=False))))
    if not close(read, own, subject.dtype, subject.device):
        raise RuntimeError(
            f"what is read of {subject.name} differs from its own logits by {apart(read, own):.2g} of their size: it "
            "does something to them that is not known here. Use runs.run, which takes them from the model."
        )
    _CHECKED.add(subject.as_wrapped)


def _choices(prompts: Prompts) -> Tensor:
    return prompts.input_ids[:, :0] if prompts.choice_ids is None else prompts.choice_ids

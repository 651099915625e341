"""What the recorded run itself says: read off a recording, without another run or a replay."""

from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from ..models import forms
from ..models.precision import apart, close, fast_float32
from . import blocks, definition
from .edits import Outcome
from .recording import Recording, require_targets


def recorded_answers(recording: Recording, targets: Tensor | None = None) -> Outcome:
    """The outcome of the recorded run itself: one variant without edits, `targets` (n, k) or the right answers.

    Raises `ValueError` for targets that are no tokens, `RuntimeError` if what is read so is not what the
    model itself says after the first prompt.

    For example:

        from entity_circuits import models, prompts, replay, runs

        subject = models.load("qwen2.5-coder-0.5b")
        p = prompts.from_texts(subject, ["The cup is in F. F contains the"], [" cup"])
        print(replay.recorded_answers(runs.record(subject, p)).logprob)
    """
    targets = recording.prompts.answer_ids[:, None] if targets is None else targets
    recording.subject.require_unchanged()
    require_targets(recording.subject, recording.prompts, targets)
    if not forms.of(recording.subject.model).replay:
        return definition.run(recording.subject, recording.prompts, targets=targets)
    with fast_float32(recording.subject):
        _check_once(recording)
        return _read_off(recording, targets)


_CHECKED: WeakSet[Any] = WeakSet()


def _check_once(recording: Recording) -> None:
    """Compare what is read off a recording with what the model itself says after the first prompt, once a model."""
    subject, model = recording.subject, recording.subject.model
    if subject.as_wrapped in _CHECKED or not len(recording):
        return
    first, tokens = recording.select(torch.zeros(1, dtype=torch.long)), torch.arange(0, model.config.vocab_size, 7)
    with torch.no_grad():
        found = _read_off(first, tokens[None]).logits
        own = definition.run(subject, first.prompts, targets=tokens[None]).logits
    if not close(found, own, subject.dtype, subject.device):
        raise RuntimeError(
            f"what is read off a recording of {subject.name} differs from its own logits by {apart(found, own):.2g} of "
            "their size: it does something to them that is not known here. Use runs.run, which takes them from it."
        )
    _CHECKED.add(subject.as_wrapped)


def _read_off(recording: Recording, targets: Tensor) -> Outcome:
    prompts = recording.prompts
    return blocks.readout(recording.subject, recording.stream(-1, prompts.last)[None], targets, (), prompts=prompts)

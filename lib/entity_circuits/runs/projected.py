"""Queries, keys and values where a model computes them: one matrix for each, or one for all three."""

from torch import Tensor

from ..models import forms
from ..models.forms import Form
from ..models.subject import Subject
from . import blocks


def projected_at(form: Form) -> list[tuple[str, str]]:
    """The parts of an attention whose output they are, in the order in which it runs them, each with its sites."""
    return [(form.fused, "qkv")] if form.fused else [(form.q, "q"), (form.k, "k"), (form.v, "v")]


def taken_apart(subject: Subject, output: Tensor, sites: str) -> dict[str, Tensor]:
    """From the output of one of these parts (n, T, ...) to a slice a head: (n, T, heads or kv_heads, head_size)."""
    if len(sites) > 1:
        return blocks.split(subject, output)
    return {sites: forms.clipped(subject.model, output.unflatten(-1, (-1, subject.head_size)))}


def put_together(subject: Subject, slices: dict[str, Tensor]) -> Tensor:
    """The output that these slices would be taken from."""
    return next(iter(slices.values())).flatten(-2) if len(slices) == 1 else blocks.joined(subject, slices)

"""Checks of chapter 2: paired differences, few trainings, a control, format and tracking, a merged matrix."""

import numpy as np
import torch
from entity_circuits import statistics
from scipy import stats

from . import stored
from .words import called, near, number, tensor, written


def answers(kind, seed=0):
    """(2002,) whether a model was right: `base`, or a kind of training and its seed."""
    return stored.load("tuning").at[f"{kind} {seed}"]


def paired(paired, kind="code", alike=False):
    """The paired difference on 2,002 prompts, or of two models that differ in few answers."""
    before, contexts = answers("base"), stored.load("tuning").contexts
    after = answers(kind)
    if alike:
        after = before.clone()
        after[::50] = ~after[::50]
    found = called(paired, after, before, contexts)
    assert isinstance(found, (tuple, list)) and len(found) == 3, f"`paired` gives (value, low, high), not {found!r}"
    value, low, high = (float(one) for one in found)
    right = statistics.difference(after, before, contexts)
    near(value, right.value, 1e-6, "the value is the mean of after minus before (a gain is positive)")
    width = (high - low) / (right.high - right.low)
    assert width < 1.2, (
        f"your interval is {width:.1f} times too wide: draw contexts once and use them for both models, so that what makes a "
        "context hard cancels"
    )
    assert width > 0.8, (
        f"your interval has {width:.2f} of the right width: whole contexts are drawn, and the middle 95% taken"
    )
    near([low, high], [right.low, right.high], 0.006, "the bounds differ from the library's")


def seeds(over_seeds, gains=(0.16, 0.21, 0.19)):
    """The t interval over a few trainings."""
    found = called(over_seeds, torch.tensor(gains, dtype=torch.double))
    assert isinstance(found, (tuple, list)) and len(found) == 3, f"`over_seeds` gives (mean, low, high), not {found!r}"
    n, spread = len(gains), np.std(gains, ddof=1)
    half = stats.t.ppf(0.975, n - 1) * spread / n**0.5
    near(found[0], np.mean(gains), 1e-6, "the middle is the mean of the gains")
    got = (float(found[2]) - float(found[1])) / 2
    for told, factor in (
        (
            "that is 1.96, of a normal distribution: with few trainings the spread itself is uncertain; use t",
            1.96 / stats.t.ppf(0.975, n - 1),
        ),
        ("the spread of a sample divides by n - 1, not by n", ((n - 1) / n) ** 0.5),
        ("the standard error is the spread over the square root of n", n**0.5),
        ("use both tails: the 0.975 quantile", stats.t.ppf(0.95, n - 1) / stats.t.ppf(0.975, n - 1)),
    ):
        assert abs(got / half - factor) > 1e-3, f"half the width is {got:.4f}: {told}"
    near(got, half, 1e-6, f"half the width is t(0.975, {n - 1}) times the spread over the square root of {n}")


WHY = {
    "base": "the base model was not trained at all: what any training of this form does would count as an effect of code",
    "arithmetic": "another training with content of its own: it answers another question (code against arithmetic)",
    "code-binding": "half of what you want to explain: subtracting it takes a part of the effect away",
    "code-other": "half of what you want to explain: subtracting it takes a part of the effect away",
    "code": "a training cannot be its own control",
}


def control(control, over_control):
    """The control for `code`, and what is left above it."""
    control = written(control, "control")
    assert control in {*WHY, "shuffled"}, f"there is no training called {control!r}: {', '.join([*WHY, 'shuffled'])}"
    assert control == "shuffled", f"{control}: {WHY[control]}"
    value = number(written(over_control, "over_control"), "over_control")
    right = float(answers("code").double().mean() - answers("shuffled").double().mean())
    gain = float(answers("code").double().mean() - answers("base").double().mean())
    assert abs(value - gain) > 1e-6 or abs(gain - right) < 1e-6, (
        "that is the gain over the base model; subtract the control's"
    )
    near(value, right, 1e-4, "`over_control` is the accuracy of code minus that of the control, seed 0")


def split(split, kind="code"):
    """A gain in two parts that sum to it."""
    d, base = stored.load("tuning").at, "qwen2.5-coder-0.5b"
    given = [d[f"{what} {name}"] for what in ("top", "chosen") for name in (base, kind)]
    tracking, form = (number(one, "split") for one in called(split, *given))
    top, choice = (float(given[i + 1].double().mean() - given[i].double().mean()) for i in (0, 2))
    near(tracking + form, top, 1e-6, "tracking and format have to sum to the gain in top-1")
    assert abs(tracking - (top - choice)) > 1e-9 or abs(top - 2 * choice) < 1e-9, (
        "the two are the wrong way round: tracking is what the choice gains"
    )
    near(tracking, choice, 1e-6, "tracking is the gain of the choice among the objects")


def merge(merge, real=False):
    """W plus what the adapter adds, on random matrices or on one of the real model."""
    if real:
        d = stored.load("lora")
        weight, a, b, rank, alpha, right = d.before, d.a, d.b, d.about["rank"], d.about["alpha"], d.after
    else:
        torch.manual_seed(0)
        rank, alpha = 2, 8
        weight, a, b = torch.randn(3, 5), torch.randn(rank, 5), torch.randn(3, rank)
        right = weight + torch.stack([sum(b[:, r, None] * a[r] for r in range(rank))])[0] * 4.0
    kept = weight.clone()
    found = tensor(called(merge, weight, a, b, rank, alpha), weight.shape, "merge")
    assert torch.equal(weight, kept), (
        "`merge` changed the base model's own matrix: give a new one, the base is still needed"
    )
    added, wanted = (found - weight).double(), (right - weight).double()
    factor = float((added * wanted).sum() / (wanted * wanted).sum())
    assert abs(factor - 1) < 1e-3, (
        f"what you add is {factor:.2f} times too much: the product of B and A is scaled by alpha / rank"
    )
    near(found, right, 1e-4 * float(wanted.abs().max()) + 1e-5, "the merged matrix is W + alpha / rank * B A")

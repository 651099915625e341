"""Checks of chapter 6: outputs from another model, a share of a gap, a group in parts, the one head that does harm."""

import torch
from entity_circuits import boxes, cmap, runs
from entity_circuits.heads import Head

from . import stored
from .finding import heads_in, hooks_of
from .words import called, near, number, once, tensor


@once
def prompts_of(subject):
    """Two contexts, all their boxes."""
    return boxes.prompts(subject, 14, split="evaluation")


def heads_of(subject):
    """The fine-tuned model's group A, at the same depths in a model of another size."""
    return heads_in(subject, stored.load("crossed").about["heads"])


@once
def own_z(subject):
    """(heads, n, size): what these heads say at `last` in the base model itself."""
    p = prompts_of(subject)
    recorded = runs.record(subject, p)
    return torch.stack([recorded.at("z", head.layer, p.last)[:, head.head] for head in heads_of(subject)])


@once
def tuned_z(subject):
    """The same of the fine-tuned model, as stored; for a model of another kind a disturbed copy of its own."""
    d = stored.load("crossed")
    return d.z if d.about["model"] == subject.fingerprint else own_z(subject).roll(1, 1)


@once
def expected(subject, twins):
    """log p by the library, with these outputs in the base model."""
    p, z = prompts_of(subject), own_z(subject) if twins else tuned_z(subject)
    heads = heads_of(subject)
    edits = [runs.Edit("z", head.layer, (head.head,), p.last, z[i][:, None]) for i, head in enumerate(heads)]
    return runs.run(subject, p, edits).logprob[0]


def cross(cross_patch, subject, twins=False):
    """Outputs of another model in the base model; of a twin, which may change nothing."""
    z, before = own_z(subject) if twins else tuned_z(subject), hooks_of(subject.model)
    found = tensor(called(cross_patch, heads_of(subject), z), (14,), "cross_patch")
    left = hooks_of(subject.model) - before
    assert left == 0, f"{left} hooks are still in the model: remove() them"
    assert bool((found <= 1e-5).all()), "log-probabilities are not above 0: give log_softmax at the right answers"
    if twins:
        near(
            found,
            expected(subject, True),
            1e-4,
            "the model's own outputs were put in, and something changed: patched may be only these heads, at `last`",
        )
    near(found, expected(subject, twins), 1e-4, "log p of the right answers differs from the library's")


def share(share, kept=False):
    """The share of a gap, and the refusal where there is none."""
    if kept:
        d = stored.load("kept")
        patched, base, tuned, contexts = d.patched, d.base_correct, d.tuned_correct, d.contexts
    else:
        contexts = torch.arange(70) // 7
        base, tuned = torch.arange(70) % 7 < 2, torch.arange(70) % 7 < 6
        patched = torch.arange(70) % 7 < 4
    right = cmap.recovered(patched, base, tuned, contexts).value
    found = number(called(share, patched, base, tuned, contexts), "share")
    near(found, right, 1e-6, "the share is what patching gains, divided by what fine-tuning gained")
    draw = torch.Generator().manual_seed(0)
    one, other, third = (torch.rand(70, generator=draw) < 0.5 for _ in range(3))
    for told, given in (
        ("the same model twice", (third, one, one)),
        ("models that differ by noise", (third, one, other)),
    ):
        try:
            answer = share(*given, torch.arange(70) // 7)
        except ValueError:
            continue
        except Exception as error:
            raise AssertionError(
                f"for {told} `share` stops with {type(error).__name__}; say it with a ValueError"
            ) from None
        raise AssertionError(
            f"for {told} there is no gap (its interval contains 0), and `share` gives {answer}: raise a ValueError"
        )


def parts(parts_of, other=False):
    """A group cut by layers, and by whether another group has the head: each cut has every head once."""
    d = stored.load("parts")
    a, b = ([Head.parse(name) for name in d.about["parts"][group]] for group in "AB")
    if other:
        a, b = a[::2], b[1:]
    found = called(parts_of, a, b)
    assert isinstance(found, dict), "`parts_of` gives a dict: names of parts, and lists of heads"
    for told, names in (
        ("layers", [name for name in found if name.startswith("layer ")]),
        ("B", ["A and B", "A without B"]),
    ):
        assert names and all(name in found for name in names), (
            f"the parts by {told} are missing: 'layer 21' and so on, 'A and B', 'A without B'"
        )
        joined = [head for name in names for head in found[name]]
        twice = {str(head) for head in joined if joined.count(head) > 1}
        assert not twice, f"by {told}: {', '.join(sorted(twice))} stand in two parts"
        lost = {str(head) for head in a} - {str(head) for head in joined}
        assert not lost, f"by {told}: {', '.join(sorted(lost))} are in no part"
        extra = {str(head) for head in joined} - {str(head) for head in a}
        assert not extra, f"by {told}: {', '.join(sorted(extra))} are not in A; the parts of A are wanted"
    for name, some in found.items():
        if name.startswith("layer "):
            assert {f"layer {head.layer}" for head in some} == {name}, f"{name!r} has heads of other layers"
    assert set(found["A and B"]) == set(a) & set(b), "'A and B' are the heads that both groups have"


def blame(blame, real=False):
    """The head without which a random draw does better: in a made case, and as stored."""
    if real:
        d = stored.load("parts")
        names, heads = list(d.about["parts"]), d.about["parts"]["random"]
        gain = {name: float((d.logprob[i] - d.base_logprob).double().mean()) for i, name in enumerate(names)}
        gain = {name: value for name, value in gain.items() if name.startswith("random")}
    else:
        heads = ["L1H1", "L2H2", "L3H3"]
        gain = {"random": -0.08, "random, only L1H1": -0.03, "random, only L2H2": 0.0, "random, only L3H3": 0.01}
        gain |= {"random without L1H1": -0.06, "random without L2H2": 0.02, "random without L3H3": -0.09}
    found = called(blame, gain, heads)
    assert isinstance(found, (tuple, list)) and len(found) == 2, (
        f"`blame` gives (head, what removing it gains), not {found!r}"
    )
    head, by = str(found[0]), number(found[1], "blame")
    helps = {one: gain[f"random without {one}"] - gain["random"] for one in heads}
    best = max(helps.values())
    alone = min(heads, key=lambda one: gain[f"random, only {one}"])
    assert head in helps, f"{head!r} is not one of the heads that were drawn: {', '.join(heads)}"
    assert abs(helps[head] - best) < 1e-9, f"removing {head} gains {helps[head]:+.3f}, removing another {best:+.3f}" + (
        "; you took the head that does most harm *alone*: what counts is what it does among the others"
        if head == alone
        else ""
    )
    near(by, best, 1e-6, "what removing gains is the score without the head, minus that of all heads")

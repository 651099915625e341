"""Checks of chapter 5: what each hypothesis predicts, patching a group, one step of a mask, and a measure that cannot rise."""

import torch
from entity_circuits import desiderata, interchange

from .finding import heads_in
from .hooks import hooked
from .words import called, near, once, tensor

BASE = (("apple", "cup", "key"), ("F", "Q", "M"), 0)
CASES = (
    (BASE, (("fan", "hat", "pen"), ("Q", "M", "F"), 1), ("apple", "cup", "hat", "key"), True),
    (BASE, (("fan", "hat", "pen"), ("Q", "M", "F"), 2), ("apple", "key", "pen", "apple"), False),
    (BASE, (("fan", "hat", "pen"), ("Q", "F", "M"), 2), ("apple", "key", "pen", "key"), False),
    ((BASE[0], BASE[1], 2), (("fan", "hat", "pen"), ("M", "Q", "F"), 1), ("key", "cup", "hat", "cup"), False),
    ((BASE[0], BASE[1], 2), (("fan", "hat", "pen"), ("F", "M", "Q"), 1), ("key", "cup", "hat", "key"), False),
    ((BASE[0], BASE[1], 2), (("fan", "hat", "pen"), ("F", "M", "Q"), 0), ("key", "apple", "fan", "apple"), False),
    ((BASE[0], BASE[1], 2), (("fan", "hat", "pen"), ("Q", "M", "F"), 0), ("key", "apple", "fan", "cup"), True),
    ((BASE[0], BASE[1], 2), (("apple", "hat", "pen"), ("Q", "M", "F"), 0), ("key", "apple", "apple", "cup"), False),
)
"""Base (objects, labels, place asked for), source, the four words, and whether they differ."""

WORDS = ("base", "position", "object", "label")
MEANING = {
    "base": "what the base asks for",
    "position": "the base's object at the place that the source asks for",
    "object": "the source's own answer",
    "label": "the base's object in the box with the label that the source asks for",
}


def predicted(predicted, all_differ, cases=slice(0, 5)):
    """The four words of handmade pairs, and whether a pair tells the hypotheses apart."""
    for base, source, words, good in CASES[cases]:
        found = called(predicted, *base, *source)
        assert isinstance(found, dict) and set(found) == set(WORDS), (
            f"`predicted` gives a dict with the keys {', '.join(WORDS)}"
        )
        for name, word in zip(WORDS, words, strict=True):
            assert found[name] == word, (
                f"base {base}, source {source}: `{name}` is {word!r} ({MEANING[name]}), not {found[name]!r}"
            )
        verdict = called(all_differ, found)
        assert bool(verdict) == good, (
            f"{found}: these words {'all differ' if good else 'do not all differ'}, so a pair of them is {'' if good else 'not '}good"
        )


GROUP = ("L20H6", "L20H12", "L21H1", "L21H11", "L23H7", "L23H10", "L23H11", "L20H2")


@once
def pairs_of(subject):
    """Seven pairs for the hypotheses, as in the notebook, and their recording by the library."""
    triples = desiderata.triples(subject, "label", 7, split="evaluation")
    return interchange.record(subject, triples)


@once
def expected(subject, group):
    """The tokens said with the source's z of these heads at `last`, by the library."""
    return interchange.answers(pairs_of(subject), [group], "last").top[0]


def patched(patched_tops, answer_table, subject, some=8):
    """The answers with eight heads patched, and how they are counted."""
    pairs = pairs_of(subject)
    group = heads_in(subject, GROUP)[:some]
    found = tensor(hooked(subject.model, patched_tops, group), (7,), "patched_tops")
    right = expected(subject, group)
    wrong = int((found != right).sum())
    assert wrong == 0, (
        f"{wrong} of 7 answers are not the library's. Into the *base* run goes z of these heads alone, at `last`, from the *source* "
        "run of the same model; nothing else is held"
    )
    names = pairs.triples.names
    made = called(answer_table, right, pairs.triples.candidates, names)
    kinds = pairs.triples.kinds(right)
    for name in (*names, "other"):
        assert made.get(name) == kinds.count(name), (
            f"`answer_table`: {kinds.count(name)} answers are {name!r}, not {made.get(name)}"
        )


def mask_step(mask_step, rate=0.1):
    """One step on a loss that one can differentiate in the head, with frozen weights that must not be touched."""
    weights = torch.tensor([3.0, -1.0, 0.5, -8.0], requires_grad=True)
    start = torch.tensor([0.5, 0.5, 0.95, 0.9])
    kept = start.clone()
    for penalty in (0.0, 0.5):
        new = tensor(called(mask_step, start, lambda w: (w * weights).sum(), penalty, rate), (4,), "mask_step")
        assert weights.grad is None, (
            "the gradient reached the weights: ask for that of the mask alone (torch.autograd.grad)"
        )
        assert torch.equal(start, kept), "the mask that was given has changed: work on a copy"
        assert bool(((new >= 0) & (new <= 1)).all()), f"a mask lies between 0 and 1; yours is {new.tolist()}: clamp it"
        right = (kept - rate * (weights.detach() - penalty)).clamp(0, 1)
        plus = (kept - rate * (weights.detach() + penalty)).clamp(0, 1)
        if penalty and float((new - plus).abs().max()) < 1e-6:
            raise AssertionError(
                "the penalty pulls the wrong way: 1 is untouched, so patched heads, 1 - w, are what costs"
            )
        near(new, right, 1e-6, f"penalty {penalty}: w - rate * d(loss + penalty * sum(1 - w))/dw, then clamped")


def floor_and_ceiling(floor_and_ceiling, void, seed=0):
    """A measure's lowest and highest value, for targets that can be said and for targets that cannot."""
    draw = torch.Generator().manual_seed(seed)
    plain, wanted = torch.randint(0, 5, (200,), generator=draw), torch.randint(0, 5, (200,), generator=draw)
    for targets, told in ((wanted, "the words' own tokens"), (wanted + 100, "tokens that no answer ever is")):
        found = called(floor_and_ceiling, plain, wanted, targets)
        assert isinstance(found, (tuple, list)) and len(found) == 2, "`floor_and_ceiling` gives (floor, ceiling)"
        right = [float((said == targets).double().mean()) for said in (plain, wanted)]
        assert [float(one) for one in found] != right[::-1] or right[0] == right[1], (
            "the floor is without a patch, the ceiling of a perfect carrier; yours are swapped"
        )
        near(
            torch.tensor([float(one) for one in found]),
            torch.tensor(right),
            1e-9,
            f"targets are {told}: how often is the target said, without a patch, and by one who carries just what is claimed",
        )
    for pair, right in (((0.0, 0.0), True), ((0.14, 1.0), False), ((0.3, 0.3), True), ((0.0, 0.2), False)):
        assert bool(called(void, *pair)) == right, (
            f"floor {pair[0]}, ceiling {pair[1]}: a measure is void if it cannot rise above its floor"
        )

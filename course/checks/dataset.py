"""Checks of chapter 1: positions, intervals, the choice among the objects, a guess to compare with."""

import torch
from entity_circuits import statistics

from . import stored
from .words import called, near, tensor


def prev(find_prev, first=0):
    """The label's first place, on prompts that ask for every place of a context."""
    d = stored.load("behaviour")
    for row in range(first, first + 14):
        found, right = called(find_prev, d.input_ids[row]), int(d.prev[row])
        try:
            found = int(found)
        except (TypeError, ValueError):
            raise AssertionError(f"prompt {row}: one index is needed, not {found!r}") from None
        if found == int(d.query[row]):
            raise AssertionError(
                f"prompt {row}: {found} is the label in the query; the same token stands further left, too"
            )
        if found == int(d.object[row]):
            raise AssertionError(f"prompt {row}: {found} is the object; `prev` is the label of its statement")
        assert found in range(len(d.input_ids[row])) and d.input_ids[row, found] == d.input_ids[row, -3], (
            f"prompt {row}: the token at {found} is not the label asked for, which is the third from the end, ids[-3]"
        )
        assert found == right, f"prompt {row}: the label of the query stood at {right}, not at {found}"


def interval(interval, clustered=False):
    """The bootstrap over contexts, on the model's answers, or on answers that are mostly right or mostly wrong in a context."""
    d = stored.load("behaviour")
    correct, contexts = (d.top == d.answer_ids), d.contexts
    if clustered:
        draw = torch.Generator().manual_seed(1)
        easy = 0.02 + 0.96 * (torch.rand(70, generator=draw) < 0.4)
        correct = torch.rand(490, generator=draw) < easy[contexts]
    found = called(interval, correct, contexts)
    assert isinstance(found, (tuple, list)) and len(found) == 2, f"`interval` gives (low, high), not {found!r}"
    low, high = (float(one) for one in found)
    right = statistics.estimate(correct, contexts)
    width = (high - low) / (right.high - right.low)
    assert low < high, f"low ({low:.3f}) should lie below high ({high:.3f})"
    assert width > 0.75, (
        f"the interval is {width:.2f} times as wide as it should be: draw whole contexts, each with all its prompts, and as "
        "many as there are; take the middle 95%"
    )
    assert width < 1.25, (
        f"the interval is {width:.2f} times as wide as it should be: the middle 95% of 2,000 means is wanted"
    )
    # The library's is made by a formula (Wilson), which a bootstrap of 70 contexts meets to about 0.01.
    near([low, high], [right.low, right.high], 0.025 if clustered else 0.02, "`interval` differs from the library's")


def chosen(chosen, ties=False):
    """Right among the objects, on 490 prompts; with ties, on some where two objects share the highest place."""
    d = stored.load("behaviour")
    objects, ids, answers = d.objects.clone(), d.object_ids, d.answer_ids
    itself = ids == answers[:, None]
    if ties:
        objects[::5] = objects[::5].amax(1, keepdim=True)
    found = tensor(called(chosen, objects, ids, answers), answers.shape, "chosen")
    assert found.dtype == torch.bool, f"`chosen` gives True or False for each prompt, not {found.dtype}"
    right = (objects >= objects[itself][:, None]).sum(1) == 1
    share = float(found.double().mean())
    assert not (ties and bool(found[::5].any())), (
        "where two objects are equally likely nobody is right: which comes first is chance"
    )
    top = d.top == answers
    assert not torch.equal(found, top), "that is top-1, among all tokens; here only the seven objects compete"
    assert bool(found.any()), (
        "by your function no answer is right: is a place among the seven (0 to 6) compared with the id of a token?"
    )
    one_rival = objects[itself] > objects.masked_fill(itself, -torch.inf).max()
    assert not torch.equal(found, one_rival), (
        "each prompt has rivals of its own: the highest of *all* prompts' objects was taken; take it along dimension 1"
    )
    wrong = int((found != right).sum())
    assert wrong == 0, (
        f"`chosen` is wrong for {wrong} of {len(right)} prompts: it says {share:.2f}, and {float(right.double().mean()):.2f} is right"
    )


def distances(guess_distances, boxes=7):
    """The guess among the other places, against counting every place that could be said."""
    for places in ([0], [boxes // 2], list(range(boxes)), [0, 0, 1, boxes - 1]):
        found = tensor(called(guess_distances, torch.tensor(places), boxes), (boxes - 1,), "guess_distances").double()
        right = torch.zeros(boxes - 1, dtype=torch.double)
        for place in places:
            for said in set(range(boxes)) - {place}:
                right[abs(said - place) - 1] += 1 / (boxes - 1)
        total = float(found.sum())
        assert abs(total - len(places)) < 1e-6, (
            f"{len(places)} wrong answers give counts that sum to {total:.2f}: every answer has to be somewhere, and none at distance 0"
        )
        near(
            found, right, 1e-6, f"for answers whose right place was {places}: count which other places lie so far away"
        )

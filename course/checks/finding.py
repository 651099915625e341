"""Checks of chapter 3: path patching by hand on the toy and on the real model, two averages, one head's output."""

import torch
from entity_circuits import path_patching, planted, runs, toy
from entity_circuits.heads import Head
from entity_circuits.runs import recording as recordings

from . import stored
from .hooks import hooked
from .words import called, near, number, once, tensor


def frozen(frozen_except, z_of_all, noisy=False):
    """Pass 1 with hooks: the numbers of the toy, or those of the library on a model in which every head writes something."""
    small = planted.subject(planted.PLANS[0], noise=0.2) if noisy else toy.subject()
    base, source = toy.prompts("apple", "cup"), toy.prompts("cup", "apple")
    ours, theirs = (z_of_all(small.model, p.input_ids) for p in (base, source))
    size, rows, recorded = toy.SIZE, torch.arange(2), [z.clone() for z in (*ours, *theirs)]
    swept = path_patching.sweep(small, base, source, position="last")
    clean = small.model(input_ids=base.input_ids).logits[:, -1].log_softmax(-1)[rows, base.answer_ids]
    order = [
        Head(2, 0),
        Head(2, 1),
        Head(1, 0),
        Head(0, 0),
        *(Head(i, j) for i in range(small.layers) for j in range(small.heads)),
    ]
    for head in order:
        given = (small.model, base.input_ids, ours, theirs, head.layer, head.head, size)
        logits = tensor(hooked(small.model, frozen_except, *given), (2, len(toy.WORDS)), "frozen_except")
        assert all(map(torch.equal, recorded, (*ours, *theirs))), (
            f"{head}: `frozen_except` wrote into the recordings that it was given: change a copy, z.clone()"
        )
        after = logits.log_softmax(-1)[rows, base.answer_ids]
        got, right = float(torch.expm1(after - clean).mean()), float(swept.mean[head.layer, head.head])
        assert abs(got - right) < 1e-6, (
            f"{head}: your score is {got:+.4f}, the library's {right:+.4f}. Held at its output in the base run is every head of "
            "every layer at every token; new is one head, at the last token alone. z is what goes *into* `o_proj`, so a pre-hook sets "
            "it; and a lambda in a loop needs `z=z`, or all layers get the last one's"
        )


def base_of(subject):
    """Seven prompts and their sources, as in the notebook."""
    from entity_circuits import boxes

    base = boxes.prompts(subject, 7)
    return base, boxes.noise(subject, base)


_KNOWN = {}


def reference(subject, heads, **asked):
    """What the library finds for these senders at `last`: log p of the right answers with each patched (heads, 7)."""
    key = (id(subject), *map(str, heads), str(asked))
    if key not in _KNOWN:
        base, source = base_of(subject)
        swept = path_patching.sweep(subject, base, source, position="last", senders=heads, **asked)
        _KNOWN[key] = torch.stack([swept.change[h.layer, h.head] + swept.logprob for h in heads])
    return _KNOWN[key]


FIRST, SECOND = ("L21H11", "L20H12"), ("L14H5", "L15H0")
FETCHERS = ("L20H6", "L20H12", "L21H1", "L21H11")
LAYERS, HEADS = 24, 14


def heads_in(subject, names):
    """These heads of the course's model; in a model of another size the heads at the same depths."""
    given = [Head.parse(name) for name in names]
    if (subject.layers, subject.heads) == (LAYERS, HEADS):
        return tuple(given)
    scaled = (Head(h.layer * (subject.layers - 1) // LAYERS, h.head * subject.heads // HEADS) for h in given)
    return tuple(dict.fromkeys(scaled))


def direct(direct_effect, subject, base_z, which=0):
    """Pass 1 on the real model, for one head of group A; and whether the notebook's recording is as it was made."""
    heads = heads_in(subject, FIRST)
    which = min(which, len(heads) - 1)
    head = heads[which]
    found = tensor(hooked(subject.model, direct_effect, head.layer, head.head), (7,), "direct_effect")
    recording = _recording(subject)
    own = [recording.at("z", layer, recording.prompts.last).flatten(-2) for layer in range(subject.layers)]
    same = (torch.allclose(z[:, -1], z_own, atol=1e-3) for z, z_own in zip(base_z, own, strict=True))
    assert all(same), (
        "`base_z` is no longer what the model said: a try without clone() wrote into it. Run the cell that recorded it again, "
        "and clone()"
    )
    assert bool((found <= 1e-5).all()), (
        "log-probabilities are not above 0: give log_softmax at the right answers, not logits"
    )
    near(
        found,
        reference(subject, heads)[which],
        1e-4,
        f"{head}: log p of the right answers differs from the library's; held are all heads at all tokens, "
        "replaced is this head's part of z at `last` by that of the source prompt",
    )


def second(second_pass, queries_after, subject, which=0):
    """Pass 2 through the queries of some heads of group A, for a sender of group B."""
    heads, receivers = heads_in(subject, SECOND), heads_in(subject, FETCHERS)
    which = min(which, len(heads) - 1)
    head = heads[which]
    queries = queries_after(head.layer, head.head)
    found = tensor(hooked(subject.model, second_pass, queries, receivers), (7,), "second_pass")
    near(
        found,
        reference(subject, heads, receivers=list(receivers), composition="q")[which],
        1e-4,
        f"{head} through the queries of group A: in pass 2 nothing is held; new are the queries of these "
        "heads alone, at `last`",
    )


@once
def round_one():
    """The stored first round: p before (n,), p after (heads, n)."""
    d = stored.load("first_round")
    return d.before.double(), d.after.double(), d.about["heads"]


def averages(mean_of_ratios, ratio_of_means):
    """Both averages on the stored first round."""
    before, after, _ = round_one()
    one, other = (
        tensor(called(f, before, after), after.shape[:1], f.__name__) for f in (mean_of_ratios, ratio_of_means)
    )
    right_one = torch.stack([((row - before) / before).sum() / len(before) for row in after])
    right_other = torch.stack([row.sum() / before.sum() - 1 for row in after])
    assert float((one - other).abs().max()) > 1e-6, (
        "both functions give the same numbers: one averages ratios, one divides averages"
    )
    near(one, right_one, 1e-6, "`mean_of_ratios` is (p' - p) / p for each example, and then the mean over examples")
    near(other, right_other, 1e-6, "`ratio_of_means` is (mean p' - mean p) / mean p: the means come first")


def culprit(culprit, last=False):
    """The example that turns the sign, for heads of which the two averages disagree."""
    before, after, heads = round_one()
    ratios = (after - before) / before
    flipped = ((ratios.mean(1) > 0) != (after.mean(1) > before.mean())).nonzero()[:, 0].tolist()
    for row in (flipped[::-1] if last else flipped)[:5]:
        found = int(number(called(culprit, before, after[row]), "culprit"))
        right = int((ratios[row] - ratios[row].mean()).abs().argmax())
        assert 0 <= found < len(before), (
            f"`culprit` gives the number of an example, 0 to {len(before) - 1}, not {found}"
        )
        assert found == right, (
            f"{Head(row // heads, row % heads)}: example {found} has the ratio {float(ratios[row, found]):+.2f}, example {right} "
            f"{float(ratios[row, right]):+.2f}: the one that lies furthest from the mean of all pulls most"
        )


def output(z_of, subject=None):
    """A head's output from where it looks and what is there, with keys and values that several heads share."""
    torch.manual_seed(0)
    attention, v = torch.rand(3, 6, 5).softmax(-1), torch.randn(3, 5, 2, 4)
    found = tensor(called(z_of, attention, v), (3, 6, 4), "z_of")
    for head in range(6):
        right = torch.stack([attention[:, head, token, None] * v[:, token, head // 3] for token in range(5)]).sum(0)
        near(
            found[:, head],
            right,
            1e-5,
            f"6 heads share 2 sets of values, so heads 0 to 2 use the first; head {head} is wrong",
        )
    if subject is not None:
        recording = _recording(subject)
        last, layer = recording.prompts.last, 7 * subject.layers // 8
        looks = torch.stack([recordings.attention(recording, Head(layer, h), last) for h in range(subject.heads)], 1)
        found = called(z_of, looks, recording.span("v", layer))
        near(
            found,
            recording.at("z", layer, last),
            1e-4,
            f"layer {layer} of the real model: your z is not the recorded one",
        )


def _recording(subject):
    key = (id(subject), "recording")
    if key not in _KNOWN:
        _KNOWN[key] = runs.record(subject, base_of(subject)[0])
    return _KNOWN[key]

"""Checks of chapter 4: mean ablation by hand, a curve that grows, a mask that cuts, and how far a ranking repeats itself."""

import torch
from entity_circuits import ablation, boxes, knockout, runs
from entity_circuits.heads import Head
from entity_circuits.runs.mean_replay import Means

from . import stored
from .hooks import hooked
from .words import called, near, number, once, tensor


@once
def prompts_of(subject):
    """The seven prompts of one context that is not in the means."""
    return boxes.prompts(subject, 7, split="evaluation")


@once
def means_of(subject):
    """(layers, T, heads, size): the stored means if they are this model's; taken anew for another one."""
    d = stored.load("means")
    return d.z.float() if d.about["model"] == subject.fingerprint else ablation.means(subject, n=14).z


@once
def expected(subject, kept):
    """log p of the right answers by the library, with these heads kept everywhere."""
    means = Means(means_of(subject).to(subject.dtype), 49)
    found = ablation.circuit_accuracy(subject, {"everywhere": kept}, prompts_of(subject), means)
    return found.logprob[0], found.correct[0]


def ablated(ablated, subject, every=2):
    """Keep all: the model, bit by bit. Keep none: nothing right. Keep some: the library's numbers."""
    p, rows = prompts_of(subject), torch.arange(7)
    everything = {layer: list(range(subject.heads)) for layer in range(subject.layers)}
    found = hooked(subject.model, ablated, everything)
    with torch.no_grad():
        clean = subject.model(input_ids=p.input_ids, use_cache=False, logits_to_keep=1).logits[:, -1]
    found = tensor(found, clean.shape, "ablated")
    assert torch.equal(found, clean), (
        "with every head kept the logits have to be the model's own, bit for bit: something else is touched"
    )
    some = {layer: list(range(layer % every, subject.heads, every)) for layer in range(subject.layers)}
    for told, keep in (("no head is kept", {}), ("some heads are kept", some)):
        logp = tensor(hooked(subject.model, ablated, keep), clean.shape, "ablated").log_softmax(-1)[rows, p.answer_ids]
        right, _ = expected(subject, tuple(Head(layer, h) for layer, some_ in keep.items() for h in some_))
        near(
            logp,
            right,
            2e-3,
            f"where {told}, log p of the right answers differs from the library's: all other heads of all "
            "layers give their mean at every token, each token its own mean",
        )


def _score(parts):
    """A circuit of four: `a` and `b` do the same work, `c` needs `d`."""
    parts = set(parts)
    return (
        0.1
        + 0.4 * bool(parts & {"a", "b"})
        + 0.1 * ("c" in parts)
        + 0.3 * ({"c", "d"} <= parts)
        + 0.02 * ("b" in parts)
    )


def greedy(greedy, other=False):
    """The order in which parts are added, on a circuit in which two do the same work."""
    score = (lambda parts: _score({"abcd"["dcba".index(one)] for one in parts})) if other else _score
    found = called(greedy, score, list("abcd"))
    assert isinstance(found, list) and all(len(one) == 2 for one in found), (
        "`greedy` gives a list of pairs (part, score with it)"
    )
    order = [one[0] for one in found]
    assert sorted(order) == list("abcd"), f"each part is added once; you added {order}"
    right, left = [], list("abcd")
    while left:
        best = max(left, key=lambda part: score([*right, part]))
        right.append(best)
        left.remove(best)
    alone = sorted("abcd", key=lambda part: -score([part]))
    assert order != alone or alone == right, (
        f"{order} is the order of what each part does alone; after the first, its twin brings nothing"
    )
    assert order == right, f"you added {order}; what helps most, given what is there, is {right}"
    near(
        [number(one[1], "greedy") for one in found],
        [score(right[: i + 1]) for i in range(4)],
        1e-9,
        "the score that goes with a part is that of all parts so far",
    )


def mask(knockout_mask, subject=None):
    """An additive mask: causal, with one more cell closed; on a model against the library's knockout."""
    position, key, width = torch.tensor([4, 5]), torch.tensor([1, 3]), 6
    found = tensor(called(knockout_mask, width, position, key), (2, 1, width, width), "knockout_mask").float()
    closed = found < -1e4
    future = torch.ones(width, width, dtype=torch.bool).triu(1)
    assert bool(closed[:, 0][:, future].all()), "the mask has to be causal, too: no token may see a later one"
    assert bool((found[~closed] == 0).all()), "where a token may look the mask is 0: it is added to the scores"
    for row in range(2):
        own = (closed[row, 0] & ~future).nonzero().tolist()
        want = [[int(position[row]), int(key[row])]]
        assert own, f"prompt {row}: nothing is closed beyond the future"
        assert own != [[w[1], w[0]] for w in want], (
            "rows are the tokens that look, columns those looked at: yours are the other way round"
        )
        assert own == want, f"prompt {row}: closed are the cells (from, to) {own[:6]}, and only {want} should be"
    if subject is not None:
        p = prompts_of(subject)
        given = knockout_mask(p.input_ids.shape[1], p.last, p.object).to(subject.dtype)
        with torch.no_grad():
            logits = subject.model(
                input_ids=p.input_ids, attention_mask=given, use_cache=False, logits_to_keep=1
            ).logits[:, -1]
        right = runs.run(subject, p, knockout.cut(subject, p.last, p.object, 0)).logprob[0]
        near(
            logits.log_softmax(-1)[torch.arange(7), p.answer_ids],
            right,
            1e-3,
            "the model under your mask differs from the library",
        )


def ceiling(ceiling, k=7):
    """How far the top heads of one half are those of the other: for a ranking without noise, for noise, and as stored."""
    torch.manual_seed(k)
    contexts = torch.arange(40) // 4
    clear = -torch.arange(60.0)[:, None].expand(60, 40)
    near(
        number(called(ceiling, clear, contexts, k), "ceiling"),
        1.0,
        1e-9,
        "two halves with the same ranking agree wholly: 1",
    )
    noise = torch.stack(
        [torch.tensor(float(called(ceiling, torch.randn(60, 40), contexts, k))) for _ in range(200)]
    ).mean()
    assert noise < 2.5 * k / 60, (
        f"on pure noise your ceiling is {noise:.2f}, and chance is {k / 60:.2f}: the two halves may share no example, and the "
        "overlap is divided by k"
    )
    assert noise > 0.6 * k / 60, (
        f"on pure noise your ceiling is {noise:.2f}, and chance is {k / 60:.2f}: divide the shared heads by k"
    )
    d = stored.load("first_round")
    score, halves = d.after.double() - d.before.double(), d.contexts % 2 == 0
    best = [
        set(score[:, rows].sum(1).div(int(rows.sum())).topk(k, largest=False).indices.tolist())
        for rows in (halves, ~halves)
    ]
    near(
        number(called(ceiling, score, d.contexts, k), "ceiling"),
        len(best[0] & best[1]) / k,
        1e-9,
        "on the stored round: the k *most negative* means in the contexts with even and with odd numbers",
    )

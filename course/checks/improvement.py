"""Checks of chapter 6: outputs from another model, a share of a gap, a group in parts, a head that does harm and what it says."""

import torch
from entity_circuits import boxes, cmap, runs
from entity_circuits.heads import Head

from . import stored
from .finding import heads_in
from .hooks import hooked
from .words import called, near, number, once, tensor, written

HARMFUL = "L19H6"
"""The head that exercise 6.4 finds."""


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
    z = own_z(subject) if twins else tuned_z(subject)
    found = tensor(hooked(subject.model, cross_patch, heads_of(subject), z), (14,), "cross_patch")
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


def draw():
    """The random draw for B in a table: what it gains with all its heads, with each alone, and without each."""
    d = stored.load("parts")
    gain = dict(zip(d.about["parts"], (d.logprob - d.base_logprob).double().mean(1).tolist(), strict=True))
    lines = [f"{'gain in log p':16}{'alone':>8}{'without it':>12}"]
    lines += [
        f"{one:16}{gain[f'random, only {one}']:+8.3f}{gain[f'random without {one}']:+12.3f}"
        for one in d.about["parts"]["random"]
    ]
    return "\n".join([*lines, f"{'all eight':16}{gain['random']:+8.3f}"])


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


def said():
    """What heads say at `last` in the fine-tuned model: {name: (contexts, places, size)}."""
    d = stored.load("said")
    names = [name for some in d.about["heads"].values() for name in some]
    return dict(zip(names, d.z.double(), strict=True))


def shares(z):
    """How many times its share in noise each part of z has: of a context's mean, of a place's, and of what both leave."""
    contexts, places, _ = z.shape
    z = z - z.mean((0, 1))
    rows, columns = z.mean(1), z.mean(0)
    squares = {"context": places * rows.square().sum(), "place": contexts * columns.square().sum()}
    squares["rest"] = z.square().sum() - squares["context"] - squares["place"]
    free = {"context": contexts - 1, "place": places - 1, "rest": (contexts - 1) * (places - 1)}
    return {name: float(squares[name] / z.square().sum()) * (contexts * places - 1) / free[name] for name in free}


def reading(function):
    """A line for each stored head: what it carries by this function, in times of chance; or what is still wrong with it."""
    try:
        carries(function)
    except AssertionError as error:
        return f"The table of all heads comes when `carries` is right: {error}"
    lines = [f"{'times chance':24}{'context':>9}{'place':>9}{'rest':>9}"]
    for group, names in stored.load("said").about["heads"].items():
        for name in names:
            found = function(said()[name])
            lines.append(f"{group:10}{name:14}" + "".join(f"{found[one]:9.2f}" for one in ("context", "place", "rest")))
    return "\n".join(lines)


def carries(carries, real=False):
    """The parts of outputs that are made, one part each, and of noise; or of the heads that are stored."""
    draw = torch.Generator().manual_seed(0)
    c, p = 5, 3
    one, other, noise = (torch.randn(*shape, 400, generator=draw) for shape in ((c, 1), (1, p), (c, p)))
    made = {
        "outputs that depend on the context alone": one.expand(c, p, -1) + 9,
        "outputs that depend on the place alone": other.expand(c, p, -1) + 9,
        "noise": noise,
        "a mixture": one + 2 * other + noise,
    }
    for told, z in (said() if real else made).items():
        found, right = called(carries, z.clone()), shares(z)
        assert isinstance(found, dict) and set(found) == set(right), (
            f"`carries` gives a dict with the keys {', '.join(right)}, not {found!r}"
        )
        for name, wanted in right.items():
            value = number(found[name], "carries")
            other_name = {"context": "place", "place": "context"}.get(name, name)
            assert abs(value - wanted) < 1e-3 or abs(value - right[other_name]) > 1e-3, (
                f"{told}: `context` and `place` are the wrong way round: the first axis of z is the context, so a context's part "
                "is the mean over the second"
            )
            assert abs(sum(map(float, found.values())) - 1) > 1e-3 or abs(sum(right.values()) - 1) < 1e-3, (
                f"{told}: these are shares that sum to 1; divide each by its share in noise, so that noise gives 1 everywhere"
            )
            assert abs(value - wanted) < 1e-3, (
                f"{told}: `{name}` is {value:.3f}, and {wanted:.3f} is right: z.mean((0, 1)) is taken out first, and the "
                "square of a part counts at every context and place"
            )


def carried(harmful):
    """What the harmful head carries most above chance."""
    name, right = written(harmful, "harmful"), shares(said()[HARMFUL])
    assert name in right, f"`harmful` is one of {', '.join(right)}, not {name!r}"
    best = max(right, key=right.get)
    assert name == best, (
        f"{HARMFUL} carries {name!r} {right[name]:.1f} times as much as noise would; another part is further above chance: read its "
        "line of the table"
    )

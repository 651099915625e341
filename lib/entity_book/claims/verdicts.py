"""The rules by which findings give a verdict on a claim. They look at intervals, and are the same for every model.

A rule says *replicates* or *does not* only where the intervals say so: an effect has to be surely there, or surely
smaller than what would count as one. Between the two a claim is *open*. The margins stand here, were fixed before the
verdicts were made with them, and are ours where the paper states none. One rule, `enhanced`, was set up anew after its
first form had given a verdict; what the first form measures is said with it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..paper import Paper
from .comparisons import ALPHA, Answer, Verdict, above, all_of, below, exceeds, over
from .findings import Reported

SMALL = 0.05
"""The smallest effect on accuracy that counts, as a share of the prompts; surely less is no effect."""

MOST = 0.5
"""More than this share of a gap, or of the attention to tokens of a kind, is most of it."""

LITTLE = 0.2
"""Less than this share of a gap is little of it."""

TRACE = 0.1
"""Less than this share of a gap is none of it."""

HYPOTHESES = ("position", "object", "label")
"""What the heads of a group may carry."""

Found = Mapping[str, Reported]


class Judgement(NamedTuple):
    """A verdict, why, the p of the comparison that decided it (1 where nothing did), and the finding that it was made
    of where that is not the claim's first."""

    verdict: Verdict
    because: str
    p: float = 1.0
    key: str = ""


Rule = Callable[[Found, Paper], Judgement]


def larger(key: str, *, than: str | float = 0.0, control: str | None = None) -> Rule:
    """Whether a finding lies above another, or a number, by more than `SMALL`; and another, to a control, above 0.

    Above, but not surely by so much: partly. Surely by less than `SMALL`: it does not, whichever sign it has.
    """

    def rule(found: Found, _: Paper) -> Judgement:
        one, bound = found[key], float(found[than].value) if isinstance(than, str) else than
        what = "0" if bound == 0 else f"{bound:.2f}"
        if (p := below(one, bound + SMALL)) < ALPHA:
            worse = "; it is surely smaller" if below(one, bound) < ALPHA else ""
            return Judgement("does not", f"surely less than {SMALL:.2f} above {what}{worse}", p)
        if (p := above(one, bound)) >= ALPHA:
            return Judgement("open", f"neither surely above {what} nor surely less than {SMALL:.2f} above it")
        if control is not None and above(found[control], 0.0) >= ALPHA:
            return Judgement("partly", f"more than {what}, but not surely than the control ({found[control].brief})", p)
        p = max(p, above(found[control], 0.0)) if control else p
        if above(one, bound + SMALL) < ALPHA:
            return Judgement("replicates", f"surely more than {SMALL:.2f} above {what}", p)
        return Judgement("partly", f"above {what}, but not surely by {SMALL:.2f}", p)

    return rule


def reading(found: Found, _: Paper) -> Judgement:
    """Whether the heads of each group give the token that the paper names most of the attention to tokens of its kind.

    To look at the right object a little more than at each of six others is not to look at it: the six have more.
    """
    answers = {letter: exceeds(found[f"looks/{letter}"], MOST) for letter in "ABCD"}
    verdict, p = all_of(answers)
    words = ", ".join(f"{letter} {found[f'looks/{letter}'].brief}" for letter in answers)
    return Judgement(verdict, f"share for the token that the paper names: {words}", p)


def enhanced(found: Found, _: Paper) -> Judgement:
    """Whether the base model's circuit, in the fine-tuned model, has more than the whole base model, and more than the
    same circuit has in the base, each by `SMALL`.

    Without the second a circuit from which what disturbs it was cut away would pass before any training. The rule
    asked first for the first alone, at the paper's three places, and gave "does not" (0.07 below the base); only then
    further places were kept and the second was asked for.
    """
    over_base, gained = found["circuit/over-base"], found["circuit/gained"]
    verdict, p = all_of({"over the base": exceeds(over_base, SMALL), "over itself": exceeds(gained, SMALL)})
    words = (
        f"{over_base.brief} against the whole base model, {found['circuit/in-base'].brief} in the base already; the "
        f"circuit, enlarged{kept(found)}, gained {gained.brief}, the whole model {found['circuit/whole-gained'].brief}"
    )
    if narrow := found.get("circuit/over-base/three-places"):
        words += f"; at the paper's three places alone, as it was asked first, {narrow.brief} against the base model"
    return Judgement(verdict, words, p)


def kept(found: Found) -> str:
    """How many heads the circuit of `enhanced` has, and what is kept beside it; nothing where no chapter told it."""
    if not {"circuit/heads", "circuit/heads/beside", "circuit/heads/of"} <= found.keys():
        return ""
    size, beside, every = (int(found[f"circuit/heads{key}"].value) for key in ("", "/beside", "/of"))
    more = f" and all {beside} at further words" if beside else ""
    return f" to {size} heads{more} (of {every:,} heads at words)"


def faithful(who: str) -> Rule:
    """Whether a circuit of the paper's size has the paper's share of the accuracy, give or take `SMALL`, and random
    heads of the same layers have less."""

    def rule(found: Found, published: Paper) -> Judgement:
        ratio, random = found[f"faithful/{who}"], found[f"faithful/{who}-random"]
        needed = float(published.table_1["faithfulness"].min())
        larger = found.get(f"faithful/{who}/larger")
        rest = "" if larger is None else f"; eight times larger {larger.brief}"
        size = f" with {found['faithful/heads'].brief} heads" if "faithful/heads" in found else ""
        words = f"{ratio.brief}{size}, the paper's smallest {needed:.2f}, random heads {random.brief}{rest}"
        if (p := max(above(ratio, needed - SMALL), over(ratio, random))) < ALPHA:
            return Judgement("replicates", words, p)
        if (p := below(ratio, needed - SMALL)) < ALPHA:
            return Judgement("does not", words, p)
        return Judgement("open", words)

    return rule


def overlapping(found: Found, _: Paper) -> Judgement:
    """Whether in every group two circuits share more heads than random sets of the same layers; or surely fewer than
    the base shares with itself, found again from other prompts."""
    answers = {letter: Answer(float(found[f"overlap/{letter}/p"].value), 1.0) for letter in "ABCD"}
    verdict, p = all_of(answers)
    ceiling = float(found["overlap/ceiling"].value)
    held = ", ".join(letter for letter, answer in answers.items() if answer.word == "yes") or "no group"
    words = f"more than chance in {held}; the base shares {ceiling:.2f} with itself, found again from other prompts"
    if (q := below(found["overlap/all"], ceiling - SMALL)) < ALPHA:
        return Judgement("does not", words, q)
    return Judgement(verdict, words, p)


def carries(letter: str, what: str, prefix: str = "carries") -> Rule:
    """Whether patching a group moves the answer as `what` predicts, by more than `SMALL` and more than its rivals."""

    def rule(found: Found, _: Paper) -> Judgement:
        gains = {name: found[f"{prefix}/{letter}/{name}/gain"] for name in HYPOTHESES}
        own = gains.pop(what)
        rival = max(gains, key=lambda name: float(gains[name].value))
        against = max(over(own, one) for one in gains.values())
        if (p := below(own, SMALL)) < ALPHA:
            return Judgement("does not", f"surely less than {SMALL:.2f} over its floor ({own.brief})", p)
        if (p := above(own, 0.0)) >= ALPHA:
            return Judgement("open", f"not surely above what happens without a patch ({own.brief})")
        if against >= ALPHA:
            words = f"{own.brief} over its floor, but not surely more than the {rival} ({gains[rival].brief})"
            return Judgement("partly", words, p)
        if above(own, SMALL) >= ALPHA:
            return Judgement("partly", f"above its floor, but not surely by {SMALL:.2f} ({own.brief})", p)
        return Judgement("replicates", f"{own.brief} over its floor, and more than the other two", max(p, against))

    return rule


def nothing(keys: tuple[str, ...]) -> Rule:
    """Whether effects are all surely smaller than `SMALL`: that none was found is not enough, it has to be excluded."""

    def rule(found: Found, _: Paper) -> Judgement:
        answers = {key: Answer(below(found[key], SMALL), above(found[key], SMALL)) for key in keys}
        surest = min(keys, key=lambda key: answers[key].no)
        if answers[surest].word == "no":
            words = f"there is an effect: {_words(surest)}, {found[surest].brief}"
            return Judgement("does not", words, min(1.0, len(keys) * answers[surest].no), surest)
        least = max(keys, key=lambda key: answers[key].yes)
        if answers[least].word == "yes":
            words = f"surely less than {SMALL:.2f} in each of {len(keys)} tests"
            return Judgement("replicates", words, answers[least].yes, least)
        words = f"no effect surely above {SMALL:.2f}, but it cannot be excluded: {_words(least)}, {found[least].brief}"
        return Judgement("open", words, 1.0, least)

    return rule


def recover_most(found: Found, _: Paper) -> Judgement:
    """Whether the heads of A that are none of B, and those of B, each recover most of the gap in the object choice, and
    more than random heads of their layers: the p of the draws, one for each part, whichever of the two is less sure."""
    answers, words = {}, []
    for name in ("A without B", "B"):
        key = f"draws/{name.replace(' ', '_')}"
        share, p = found[key], float(found[f"{key}/p"].value)
        answers[name] = Answer(max(above(share, MOST), p), below(share, MOST))
        words.append(f"{name} {share.brief}, p {p:.2g} among random heads")
    verdict, p = all_of(answers)
    return Judgement(verdict, "; ".join(words), p)


def recover_little(found: Found, _: Paper) -> Judgement:
    """Whether C and D each recover surely less than `LITTLE` of the gap."""
    answers = {x: Answer(below(found[f"cmap/{x}"], LITTLE), above(found[f"cmap/{x}"], LITTLE)) for x in "CD"}
    verdict, p = all_of(answers)
    return Judgement(verdict, "; ".join(f"{x} {found[f'cmap/{x}'].brief}" for x in answers), p)


def through(letter: str, site: str) -> Rule:
    """Whether one input of a group recovers more of the gap than either other, all patched alone; or surely less."""

    def rule(found: Found, _: Paper) -> Judgement:
        parts = {name: found[f"cmap/{letter}/{name}"] for name in "qkv"}
        words = ", ".join(f"{name} {one.brief}" for name, one in parts.items())
        own = parts.pop(site)
        if (p := max(above(own, 0.0), *(over(own, one) for one in parts.values()))) < ALPHA:
            return Judgement("replicates", f"{site} recovers more than either other input; {words}", p)
        less = min(over(one, own) for one in parts.values())
        if (p := min(below(own, TRACE), 2 * less)) < ALPHA:
            return Judgement("does not", words, p)
        return Judgement("open", words)

    return rule


def upstream(found: Found, _: Paper) -> Judgement:
    """Whether the tuned model's inputs with the base's weights recover more than the other way round, and these weights
    surely less than `TRACE`: the queries of A, and the queries and values of B."""
    answers, words = {}, []
    for path in ("A/q", "B/q", "B/v"):
        inputs, weights = found[f"cmap/{path}/inputs"], found[f"cmap/{path}/weights"]
        yes = max(above(inputs, 0.0), over(inputs, weights), below(weights, TRACE))
        answers[path] = Answer(yes, min(1.0, 2 * min(above(weights, TRACE), over(weights, inputs))))
        words.append(f"{path.replace('/', ', ')}: inputs {inputs.brief}, weights {weights.brief}")
    verdict, p = all_of(answers)
    return Judgement(verdict, "; ".join(words), p)


def _words(key: str) -> str:
    _, letter, what, *_ = key.split("/")
    return f"{letter}, {what}"

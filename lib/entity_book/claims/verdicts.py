"""The rules by which findings give a verdict on a claim. They look at intervals, and are the same for every model.

Where a finding is missing, or the fine-tuned model is not surely better, `claims.judge` asks no rule and says "not
tested here". The thresholds are ours; the paper states none.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from ..paper import Paper
from .findings import Reported

Verdict = Literal["replicates", "partly", "does not", "not tested here"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

SMALL = 0.05
"""An effect on less than this share of the prompts counts as nothing."""

MOST = 0.5
"""More than this share of a gap, or of a group's heads, counts as most of it."""

RARE = 0.05
"""An overlap that chance gives less often than this is more than chance."""

HYPOTHESES = ("position", "object", "label")
"""What the heads of a group may carry."""

Found = Mapping[str, Reported]
Rule = Callable[[Found, Paper], tuple[Verdict, str]]


def low(one: Reported) -> float:
    """The lower end of the interval, or the number itself if it has none."""
    return float(one.value if one.low is None else one.low)


def high(one: Reported) -> float:
    """The upper end of the interval, or the number itself if it has none."""
    return float(one.value if one.high is None else one.high)


def above_chance(found: Found, _: Paper) -> tuple[Verdict, str]:
    """The base model's accuracy against chance."""
    chance = float(found["accuracy/chance"].value)
    if low(found["accuracy/base"]) > chance:
        return "replicates", f"the interval lies above chance, {chance:.2f}"
    return "does not", f"the interval does not lie above chance, {chance:.2f}"


def better(key: str, control: str | None = None) -> Rule:
    """Whether a paired difference to the base model lies above 0, and another, to the control, as well."""

    def rule(found: Found, _: Paper) -> tuple[Verdict, str]:
        gain = found[key]
        if low(gain) <= 0:
            lies = "lies below 0: it does worse" if high(gain) < 0 else "contains 0"
            return "does not", f"the interval of the difference {lies}"
        if control is None:
            return "replicates", "the interval of the difference lies above 0"
        if low(found[control]) <= 0:
            return "partly", f"better than the base, but not surely than the control ({found[control].brief})"
        return "replicates", "better than the base and than the control"

    return rule


def reading(found: Found, _: Paper) -> tuple[Verdict, str]:
    """In how many groups most heads attend most to the kind of token that the paper names."""
    held = [letter for letter in "ABCD" if float(found[f"reads/{letter}"].value) > MOST]
    if len(held) == 4:
        return "replicates", "in all four groups most heads look where the paper says"
    rest = ", ".join(letter for letter in "ABCD" if letter not in held)
    return ("partly" if held else "does not"), f"most heads look where the paper says except in {rest}"


def faithful(who: str) -> Rule:
    """A circuit's share of the accuracy, against random heads of the same layers and the paper's smallest share."""

    def rule(found: Found, published: Paper) -> tuple[Verdict, str]:
        ratio, random = found[f"faithful/{who}"], found[f"faithful/{who}-random"]
        needed = float(published.table_1["faithfulness"].min())
        size = f" with {found['faithful/heads'].brief} heads" if "faithful/heads" in found else ""
        if low(ratio) <= high(random):
            return "does not", f"not better than random heads of the same layers ({random.brief}){size}"
        if float(ratio.value) >= needed:
            return "replicates", f"at least the paper's smallest, {needed:.2f}{size}"
        return (
            "partly",
            f"better than random heads of the same layers, but below the paper's smallest, {needed:.2f}{size}",
        )

    return rule


def overlapping(found: Found, _: Paper) -> tuple[Verdict, str]:
    """In how many groups two circuits share more heads than random sets of the same layers."""
    held = [letter for letter in "ABCD" if float(found[f"overlap/{letter}/p"].value) < RARE]
    words = f"more than random heads of the same layers in {', '.join(held) or 'no group'}"
    return ("replicates" if len(held) == 4 else "partly" if held else "does not"), words


def carries(letter: str, what: str) -> Rule:
    """Whether patching a group moves the answer as `what` predicts, and more than the other two hypotheses."""

    def rule(found: Found, _: Paper) -> tuple[Verdict, str]:
        gains = {name: found[f"carries/{letter}/{name}/gain"] for name in HYPOTHESES}
        own = gains.pop(what)
        rival = max(gains, key=lambda name: high(gains[name]))
        if low(own) <= 0:
            return "does not", f"not surely above what happens without a patch ({own.brief})"
        if low(own) > SMALL and low(own) > high(gains[rival]):
            return "replicates", f"{own.brief} over its floor, and more than the other two"
        if low(own) <= SMALL:
            return "partly", f"above its floor, but little ({own.brief})"
        return "partly", f"{own.brief} over its floor, but not surely more than the {rival} ({gains[rival].brief})"

    return rule


def nothing(keys: tuple[str, ...]) -> Rule:
    """Whether effects are all smaller than `SMALL`: that no effect was found is not enough, it has to be excluded."""

    def rule(found: Found, _: Paper) -> tuple[Verdict, str]:
        largest = max(keys, key=lambda key: low(found[key]))
        if low(found[largest]) > SMALL:
            return "does not", f"there is an effect: {_words(largest)}, {found[largest].brief}"
        if all(high(found[key]) < SMALL for key in keys):
            return "replicates", f"no effect of {SMALL:.2f} or more in any test"
        widest = max(keys, key=lambda key: high(found[key]))
        return (
            "partly",
            f"none surely above {SMALL:.2f}, but it cannot be excluded: {_words(widest)}, {found[widest].brief}",
        )

    return rule


def recover_most(found: Found, _: Paper) -> tuple[Verdict, str]:
    """Whether A and B each recover most of the gap between the models, and more than as many random heads."""
    held = [letter for letter in "AB" if low(found[f"cmap/{letter}"]) > MOST and _beats_random(found, letter)]
    words = {
        0: "neither A nor B surely recovers",
        1: f"only {''.join(held)} surely recovers",
        2: "A and B each recover",
    }
    verdicts: tuple[Verdict, ...] = ("does not", "partly", "replicates")
    return verdicts[
        len(held)
    ], f"{words[len(held)]} most of the gap; A {found['cmap/A'].brief}, B {found['cmap/B'].brief}"


def recover_little(found: Found, _: Paper) -> tuple[Verdict, str]:
    """Whether C and D each recover less than most of the gap."""
    words = f"C {found['cmap/C'].brief}, D {found['cmap/D'].brief}"
    if all(high(found[f"cmap/{letter}"]) < MOST for letter in "CD"):
        return "replicates", f"neither recovers most of the gap; {words}"
    if all(low(found[f"cmap/{letter}"]) > MOST for letter in "CD"):
        return "does not", f"both recover most of the gap; {words}"
    return "partly", f"it cannot be said of both; {words}"


def _beats_random(found: Found, letter: str) -> bool:
    control = found.get(f"cmap/{letter}-random")
    return control is None or low(found[f"cmap/{letter}"]) > high(control)


def through(letter: str, site: str) -> Rule:
    """Whether one input of a group recovers more of the gap than the other two, all patched alone."""

    def rule(found: Found, _: Paper) -> tuple[Verdict, str]:
        parts = {name: found[f"cmap/{letter}/{name}"] for name in "qkv"}
        words = ", ".join(f"{name} {one.brief}" for name, one in parts.items())
        own = parts.pop(site)
        if low(own) > max(0.0, *(high(one) for one in parts.values())):
            return "replicates", f"{site} recovers more than either other input; {words}"
        if low(own) > 0 and all(float(own.value) > float(one.value) for one in parts.values()):
            return "partly", f"{site} recovers most of the three, but not surely; {words}"
        return "does not", words

    return rule


def upstream(found: Found, _: Paper) -> tuple[Verdict, str]:
    """Whether the tuned model's inputs with the base's weights recover more than the other way round, in A and B."""
    paths = ("A/q", "B/v")
    held = [x for x in paths if low(found[f"cmap/{x}/inputs"]) > max(0.0, high(found[f"cmap/{x}/weights"]))]
    parts = {x: [found[f"cmap/{x}/{what}"].brief for what in ("inputs", "weights")] for x in paths}
    words = "; ".join(f"{x.replace('/', ', ')}: inputs {one}, weights {other}" for x, (one, other) in parts.items())
    return ("replicates" if len(held) == 2 else "partly" if held else "does not"), words


def _words(key: str) -> str:
    _, letter, what, *_ = key.split("/")
    return f"{letter}, {what}"

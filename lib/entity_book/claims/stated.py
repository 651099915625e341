"""What is claimed: by the paper, with its numbers; by this book; and by earlier commits of the authors.

Each claim names the findings that answer it and the rule by which they give a verdict. Added here, a claim is judged in
the last chapter, in the introduction and in the README.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from entity_circuits.arguments import one_of
from entity_circuits.heads import LETTERS

from ..paper import Paper
from . import verdicts
from .verdicts import HYPOTHESES, Rule

By = Literal["paper", "book", "commits"]
"""Who claims it: the paper, this book, or earlier commits of its authors."""

GAP = "cmap/gap"

_CHOICE = "object choice, one training"

_LABELS = tuple(f"carries/{letter}/label/gain" for letter in "ABCD")
_GROUP = {letter: group for group, letter in LETTERS.items()}


@dataclass(frozen=True)
class Claim:
    """A claim, by whom it is made.

    `keys` are the findings that its `rule` needs; the first is the number shown beside `published`, the paper's own,
    which is None where the paper has none. `artefacts` are those of the official protocol that touch it, and `note`
    says what they do to the published number. With `needs_gap` a claim needs a fine-tuned model that is surely better.
    `beside` names a finding that is shown with the number and not judged, and what it is; "" for none.
    """

    by: By
    name: str
    text: str
    where: str
    keys: tuple[str, ...]
    rule: Rule
    published: Callable[[Paper], float | None]
    artefacts: tuple[str, ...] = ()
    note: str = ""
    needs_gap: bool = False
    beside: tuple[str, str] = ("", "")

    def __post_init__(self) -> None:
        one_of("by whom a claim is made", self.by, By)


def _share(finetuned: str, letter: str, patched: str = "z") -> Callable[[Paper], float | None]:
    return lambda published: published.recovered(finetuned, _GROUP[letter], patched)


def _dcm(letter: str, what: str, model: str = "llama") -> Callable[[Paper], float | None]:
    return lambda published: published.carried(model, _GROUP[letter], what)


def _d_over_floor(published: Paper) -> float | None:
    carried = published.carried("llama", _GROUP["D"], "position")
    return None if carried is None else carried - float(published.fact("positional_floor"))


def _gains(letter: str, prefix: str = "carries") -> tuple[str, ...]:
    return tuple(f"{prefix}/{letter}/{what}/gain" for what in HYPOTHESES)


def _faithfulness(model: str) -> Callable[[Paper], float | None]:
    return lambda published: float(published.row("table_1", model=model).faithfulness)


def _none(_: Paper) -> None:
    return None


def _goat_gain(published: Paper) -> float:
    return published.model("goat").accuracy - published.model("llama").accuracy


def _circuit_over_base(published: Paper) -> float:
    return float(published.row("table_1", model="float").circuit_accuracy) - published.model("llama").accuracy


def _all_overlap(published: Paper) -> float:
    rows = published.overlaps[published.overlaps["other"] == "float"]
    return float(rows["shared"].sum() / rows["size_base"].sum())


def _improved(published: Paper) -> float:
    a, b = (
        published.row("patching", circuit="llama", model=model, group=_GROUP["A"], desideratum="object").accuracy
        for model in ("goat", "llama")
    )
    return float(a - b)


def _same(letter: str, what: str) -> Claim:
    return Claim(
        "paper", f"{letter} carries, tuned", f"So it is in the fine-tuned model: group {letter} carries the {what}",
        "section 5", (f"carries-tuned/{letter}/{what}", *_gains(letter, "carries-tuned")),
        verdicts.carries(letter, what, "carries-tuned"), _dcm(letter, what, "goat"), ("B1", "B2", "B9", "B11"),
    )  # fmt: skip


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "paper", "tracks", "The base model tracks entities above chance", "section 3, Table 1",
        ("accuracy/base", "accuracy/chance"), verdicts.larger("accuracy/base", than="accuracy/chance"),
        lambda published: published.model("llama").accuracy, ("B16",),
    ),
    Claim(
        "paper", "arithmetic", "Fine-tuning on arithmetic improves entity tracking", "section 3, Table 1",
        ("gain/arithmetic/trainings", "gain/arithmetic-over-control"),
        verdicts.larger("gain/arithmetic/trainings", control="gain/arithmetic-over-control"), _goat_gain, ("B16",),
        beside=("choice/gain/arithmetic", _CHOICE),
    ),
    Claim(
        "paper", "groups", "Four groups of heads, each looking at the token that the next one needs", "section 4",
        ("looks/A", "looks/B", "looks/C", "looks/D"), verdicts.reading, _none, ("B5", "B17", "B18"),
    ),
    Claim(
        "paper", "faithful", "A circuit of 7% of the heads does what the base model does", "section 4, Table 1",
        ("faithful/base", "faithful/base-random"), verdicts.faithful("base"), _faithfulness("llama"),
        ("B6", "B7", "B8", "B16", "B17"),
    ),
    Claim(
        "paper", "same circuit", "The same circuit does what the fine-tuned model does", "section 4, Table 1",
        ("faithful/finetuned", "faithful/finetuned-random"), verdicts.faithful("finetuned"), _faithfulness("float"),
        ("B2", "B8", "B16", "B17"),
    ),
    Claim(
        "paper", "enhanced",
        "In the fine-tuned model the circuit does better than the whole base model, and than in the base",
        "section 4, Table 1", tuple(f"circuit/{key}" for key in ("over-base", "gained", "in-base", "whole-gained")),
        verdicts.enhanced, _circuit_over_base, ("B2", "B16"), needs_gap=True,
    ),
    Claim(
        "paper", "overlap", "The fine-tuned model's own circuit has the base circuit's heads", "section 4",
        ("overlap/all", "overlap/ceiling", *(f"overlap/{letter}/p" for letter in "ABCD")), verdicts.overlapping,
        _all_overlap, ("B2", "B5", "B6", "B7", "B18"),
    ),
    Claim(
        "paper", "A carries", "Group A carries the object", "section 5", ("carries/A/object", *_gains("A")),
        verdicts.carries("A", "object"), _dcm("A", "object"), ("B9", "B11"),
    ),
    Claim(
        "paper", "B carries", "Group B carries the position", "section 5", ("carries/B/position", *_gains("B")),
        verdicts.carries("B", "position"), _dcm("B", "position"), ("B1", "B3", "B9", "B11"),
    ),
    Claim(
        "paper", "C carries", "Group C carries the position", "section 5", ("carries/C/position", *_gains("C")),
        verdicts.carries("C", "position"), _dcm("C", "position"), ("B1", "B9", "B11"),
    ),
    Claim(
        "paper", "D carries", "For group D nothing is found that it carries", "section 5",
        ("carries/D/position", *_gains("D")), verdicts.nothing(_gains("D")), _d_over_floor,
        ("B1", "B10", "B12"), "over its floor, B1",
    ),
    Claim(
        "paper", "label", "No group of the base model carries the label", "section 5", _LABELS,
        verdicts.nothing(_LABELS), _dcm("A", "label"), ("B4",), "void, B4",
    ),
    _same("A", "object"),
    _same("B", "position"),
    _same("C", "position"),
    Claim(
        "paper", "A improved",
        "The base's heads of group A carry the object better in the fine-tuned model than in the base",
        "section 5", ("carries/A/object/improved",), verdicts.larger("carries/A/object/improved"),
        _improved, ("B2", "B11"), needs_gap=True,
    ),
    Claim(
        "paper", "A and B", "The outputs of A, and those of B, bring most of the gain into the base model", "section 6",
        ("draws/A_without_B", "draws/B", "draws/A_without_B/p", "draws/B/p", GAP), verdicts.recover_most,
        _share("float", "A"), ("B13",), "all of A", needs_gap=True,
    ),
    Claim(
        "paper", "C and D", "Those of C, and those of D, do not", "section 6", ("cmap/C", "cmap/D", GAP),
        verdicts.recover_little, _share("float", "C"), needs_gap=True,
    ),
    Claim(
        "book", "pair", "The fine-tuned model that the later chapters study is better than the base", "chapter 6",
        (GAP,), verdicts.larger(GAP), _none,
    ),
    Claim(
        "book", "code", "Training on reading programs improves it, more than the same programs with other questions do",
        "chapter 2", ("gain/code/trainings", "gain/code-over-other"),
        verdicts.larger("gain/code/trainings", control="gain/code-over-other"), _none,
        beside=("choice/gain/code", _CHOICE),
    ),
    Claim(
        "commits", "A through q", "A gains most through its queries", "input patching",
        ("cmap/A/q", "cmap/A/k", "cmap/A/v", GAP), verdicts.through("A", "q"), _share("goat", "A", "q"),
        ("B14",), needs_gap=True,
    ),
    Claim(
        "commits", "B through v", "B gains most through its values", "input patching",
        ("cmap/B/v", "cmap/B/q", "cmap/B/k", GAP), verdicts.through("B", "v"), _share("goat", "B", "v"),
        ("B14",), needs_gap=True,
    ),
    Claim(
        "commits", "upstream", "What reaches A and B improved, not their own weights", "weights or inputs",
        (*(f"cmap/{x}/{what}" for x in ("A/q", "B/q", "B/v") for what in ("inputs", "weights")), GAP),
        verdicts.upstream, _share("goat", "A", "input of q"), needs_gap=True,
    ),
)  # fmt: skip
"""The claims, in the order of the paper. Shares of the gap follow from published accuracies of two decimals."""

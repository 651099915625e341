"""What the paper claims, the findings that answer each claim, and the rule by which they give a verdict.

The rules are code (`verdicts`), so that a new build or another pair of models is judged as this one was. Where a
finding is missing, or the fine-tuned model is not surely better, the verdict is "not tested here".
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from entity_circuits.heads import LETTERS

from ..paper import Paper, paper
from . import verdicts
from .findings import Reported
from .verdicts import HYPOTHESES, VERDICTS, Found, Rule, Verdict

GAP = "cmap/gap"

_LABELS = tuple(f"carries/{letter}/label/gain" for letter in "ABCD")
_GROUP = dict(zip(LETTERS.values(), LETTERS, strict=True))


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    `keys` are the findings that its `rule` needs; the first is the number shown beside `published`, the paper's own,
    which is None where the paper has none. `artefacts` are those of the official protocol that touch it, and `note`
    says what they do to the published number. With `needs_gap` a claim needs a fine-tuned model that is surely better.
    """

    name: str
    text: str
    where: str
    keys: tuple[str, ...]
    rule: Rule
    published: Callable[[Paper], float | None]
    artefacts: tuple[str, ...] = ()
    note: str = ""
    needs_gap: bool = False


def _share(finetuned: str, letter: str, patched: str = "z") -> Callable[[Paper], float | None]:
    return lambda published: published.recovered(finetuned, _GROUP[letter], patched)


def _dcm(letter: str, what: str) -> Callable[[Paper], float | None]:
    return lambda published: published.carried("llama", _GROUP[letter], what)


def _gains(letter: str) -> tuple[str, ...]:
    return tuple(f"carries/{letter}/{what}/gain" for what in HYPOTHESES)


def _faithfulness(model: str) -> Callable[[Paper], float | None]:
    return lambda published: float(published.row("table_1", model=model).faithfulness)


def _none(_: Paper) -> None:
    return None


def _goat_gain(published: Paper) -> float:
    return published.model("goat").accuracy - published.model("llama").accuracy


def _all_overlap(published: Paper) -> float:
    rows = published.overlaps[published.overlaps["other"] == "float"]
    return float(rows["shared"].sum() / rows["size_base"].sum())


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "tracks", "The base model tracks entities above chance", "section 3, Table 1",
        ("accuracy/base", "accuracy/chance"), verdicts.above_chance,
        lambda published: published.model("llama").accuracy, ("B16",),
    ),
    Claim(
        "arithmetic", "Fine-tuning on arithmetic improves entity tracking", "section 3, Table 1",
        ("gain/arithmetic", "gain/arithmetic-over-control"),
        verdicts.better("gain/arithmetic", "gain/arithmetic-over-control"), _goat_gain, ("B16",),
    ),
    Claim(
        "code", "Fine-tuning on code improves entity tracking", "not tested there",
        ("gain/code", "gain/code-over-control"), verdicts.better("gain/code", "gain/code-over-control"), _none,
    ),
    Claim(
        "pair", "The fine-tuned model that the later chapters study is better than the base", "section 3, Table 1",
        (GAP,), verdicts.better(GAP), _goat_gain, ("B16",),
    ),
    Claim(
        "groups", "Four groups of heads, each looking at the token that the next one needs", "section 4",
        ("reads/A", "reads/B", "reads/C", "reads/D"), verdicts.reading, _none, ("B5", "B17", "B18"),
    ),
    Claim(
        "faithful", "The base circuit alone does what the base model does", "section 4, Table 1",
        ("faithful/base", "faithful/base-random"), verdicts.faithful("base"), _faithfulness("llama"),
        ("B6", "B7", "B8", "B16", "B17"),
    ),
    Claim(
        "same circuit", "It does so in the fine-tuned model, far better than random heads", "section 4, Table 1",
        ("faithful/finetuned", "faithful/finetuned-random"), verdicts.faithful("finetuned"), _faithfulness("float"),
        ("B2", "B8", "B16", "B17"),
    ),
    Claim(
        "overlap", "The fine-tuned model's own circuit has the base circuit's heads", "section 4",
        ("overlap/all", *(f"overlap/{letter}/p" for letter in "ABCD")), verdicts.overlapping, _all_overlap,
        ("B2", "B5", "B6", "B7", "B18"),
    ),
    Claim(
        "A carries", "Group A carries the object", "section 5", ("carries/A/object", *_gains("A")),
        verdicts.carries("A", "object"), _dcm("A", "object"), ("B9", "B11"),
    ),
    Claim(
        "B carries", "Group B carries the position", "section 5", ("carries/B/position", *_gains("B")),
        verdicts.carries("B", "position"), _dcm("B", "position"), ("B1", "B3", "B9", "B11"),
    ),
    Claim(
        "C carries", "Group C carries the position", "section 5", ("carries/C/position", *_gains("C")),
        verdicts.carries("C", "position"), _dcm("C", "position"), ("B1", "B9", "B11"),
    ),
    Claim(
        "D carries", "For group D nothing is found that it carries", "section 5",
        ("carries/D/position", *_gains("D")), verdicts.nothing(_gains("D")), _dcm("D", "position"),
        ("B1", "B10", "B12"), "no effect: this is the floor, B1",
    ),
    Claim(
        "label", "No group carries the label", "section 5", ("carries/A/label", *_LABELS),
        verdicts.nothing(_LABELS), _dcm("A", "label"), ("B4",), "void, B4",
    ),
    Claim(
        "A and B", "The outputs of A, and those of B, bring most of the gain into the base model", "section 6",
        ("cmap/A", "cmap/B", GAP), verdicts.recover_most, _share("float", "A"), ("B13",), needs_gap=True,
    ),
    Claim(
        "C and D", "Those of C, and those of D, do not", "section 6", ("cmap/C", "cmap/D", GAP),
        verdicts.recover_little, _share("float", "C"), needs_gap=True,
    ),
    Claim(
        "A through q", "A gains through its queries", "earlier commits",
        ("cmap/A/q", "cmap/A/k", "cmap/A/v", GAP), verdicts.through("A", "q"), _share("goat", "A", "q"),
        ("B14",), needs_gap=True,
    ),
    Claim(
        "B through v", "B gains through its values", "earlier commits",
        ("cmap/B/v", "cmap/B/q", "cmap/B/k", GAP), verdicts.through("B", "v"), _share("goat", "B", "v"),
        ("B14",), needs_gap=True,
    ),
    Claim(
        "upstream", "What reaches A and B improved, not their own weights", "earlier commits",
        ("cmap/A/q/inputs", "cmap/A/q/weights", "cmap/B/v/inputs", "cmap/B/v/weights", GAP), verdicts.upstream,
        _share("goat", "A", "input of q"), needs_gap=True,
    ),
)  # fmt: skip
"""The claims, in the order of the paper. Shares of the gap follow from published accuracies of two decimals."""


def judge(claim: Claim, found: Found, published: Paper) -> tuple[Verdict, str]:
    """The verdict on a claim, and why, in a few words.

    verdict, why = claims.judge(claims.CLAIMS[0], findings.load(), paper())
    """
    gap = found.get(GAP)
    if claim.needs_gap and gap is not None and verdicts.low(gap) <= 0:
        return "not tested here", f"the fine-tuned model is not surely better ({gap.brief}): there is no gap to recover"
    if missing := [key for key in claim.keys if key not in found]:
        return "not tested here", f"no finding `{missing[0]}`" + (f" and {len(missing) - 1} more" * (len(missing) > 1))
    return claim.rule(found, published)


def table(found: Found) -> pd.DataFrame:
    """One row a claim: `name`, `claim`, `where`, `paper` (NaN for none); `ours` with `low`, `high`, `n`, `unit`,
    `model` and `chapter` of the number shown; `verdict`, `because`, `artefacts` (their ids, with commas) and `note`.

        print(claims.table(findings.load())[["claim", "paper", "ours", "verdict"]])
    """
    published, rows = paper(), []
    for claim in CLAIMS:
        verdict, why = judge(claim, found, published)
        one = found.get(claim.keys[0], Reported(claim.keys[0], "none"))
        spoken = isinstance(one.value, str)
        row = {"name": claim.name, "claim": claim.text, "where": claim.where, "paper": claim.published(published)}
        row |= {"ours": None if spoken else one.value, "low": one.low, "high": one.high, "n": one.n}
        row |= {"unit": one.unit, "model": one.model, "chapter": one.chapter, "verdict": verdict, "because": why}
        rows.append(row | {"artefacts": ", ".join(claim.artefacts), "note": claim.note})
    numbers = ["paper", "ours", "low", "high"]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float)).astype({"n": "Int64"})


def counts(judged: pd.DataFrame) -> dict[Verdict, int]:
    """How many claims have each verdict, all four named."""
    times = Counter(judged["verdict"])
    return {verdict: times[verdict] for verdict in VERDICTS}


def sentence(judged: pd.DataFrame) -> str:
    """The counts in words."""
    n = counts(judged)
    return (
        f"Of {len(judged)} claims, {n['replicates']} replicate, {n['partly']} do so in part, {n['does not']} do not, "
        f"and {n['not tested here']} could not be tested."
    )


def markdown(judged: pd.DataFrame, *, why: bool = False) -> str:
    """The table of claims as Markdown, for a page, the introduction or the README; `why` adds section and reason.

    display(Markdown(claims.markdown(claims.table(findings.load()), why=True)))
    """
    rows = []
    for row in judged.to_dict("records"):
        published = "–" if pd.isna(row["paper"]) else f"{row['paper']:.2f}"
        published += f" ({row['note']})" if row["note"] else ""
        claim = row["claim"] + (f" ({row['where']})" if why else "")
        cells = {"Claim": claim, "Paper": published, "Here": number(row), "Verdict": f"**{row['verdict']}**"}
        rows.append(cells | ({"Why": row["because"]} if why else {}))
    return as_markdown(pd.DataFrame(rows))


def as_markdown(frame: pd.DataFrame) -> str:
    """A table of words as a Markdown table; unlike pandas' own display, it cuts no long cell."""
    lines = [list(map(str, frame.columns)), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)


def number(row: Mapping[Hashable, Any]) -> str:
    """Our number of a row of `table` in words, with its interval and n; a dash where there is none."""
    if pd.isna(row["ours"]):
        return "–"
    low, high = (None if pd.isna(row[end]) else float(row[end]) for end in ("low", "high"))
    return str(Reported("", row["ours"], low, high, None if pd.isna(row["n"]) else int(row["n"]), row["unit"]))


def artefacts(found: Found) -> pd.DataFrame:
    """What each artefact of the official protocol did here: `artefact`, `what`, `quantity`, `official`, `corrected`
    and the `claims` that it touches. An artefact that no chapter measured has one row with dashes.

        print(claims.artefacts(findings.load()))
    """
    from ..official import artefacts as official

    rows = []
    for name, (what, _) in official.ARTEFACTS.items():
        touched = ", ".join(claim.name for claim in CLAIMS if name in claim.artefacts)
        places = sorted({int(key.split("/")[2]) for key in found if key.startswith(f"official/{name}/")})
        for place in places:
            sides = {side: found.get(f"official/{name}/{place}/{side}") for side in ("official", "corrected")}
            about = next(one.about for one in sides.values() if one)
            words = {side: "–" if one is None else one.brief for side, one in sides.items()}
            rows.append({"artefact": name, "what": what, "quantity": about, **words, "claims": touched})
        if not places:
            dashes = {"quantity": "not measured", "official": "–", "corrected": "–"}
            rows.append({"artefact": name, "what": what, **dashes, "claims": touched})
    return pd.DataFrame(rows)

"""The verdicts on all claims, as a table: each by its rule, and held to account for how many are asked at once.

The rules are code (`verdicts`), so that a new build or another pair of models is judged as this one was. Where a
finding is missing, or the fine-tuned model is not surely better, the verdict is "not tested here".
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from entity_circuits import intervals
from entity_circuits.arguments import one_of

from ..paper import Paper, paper
from .comparisons import ALPHA, VERDICTS, Verdict, above
from .findings import Reported
from .stated import CLAIMS, GAP, By, Claim
from .verdicts import Found, Judgement

_VERBS: dict[Verdict, tuple[str, str]] = {
    "replicates": ("replicates", "replicate"),
    "partly": ("does so in part", "do so in part"),
    "does not": ("does not", "do not"),
    "open": ("stays open", "stay open"),
    "not tested here": ("could not be tested", "could not be tested"),
}
"""What is said of one claim with a verdict, and of several."""


def judge(claim: Claim, found: Found, published: Paper) -> Judgement:
    """The verdict on a claim by its rule alone, with the reason in a few words and the p that decided it.

    print(claims.judge(claims.CLAIMS[0], findings.load(), paper()).verdict)
    """
    gap = found.get(GAP)
    if claim.needs_gap and gap is not None and above(gap, 0.0) >= ALPHA:
        why = f"the fine-tuned model is not surely better ({gap.brief}): there is no gap to recover"
        return Judgement("not tested here", why)
    if missing := [key for key in claim.keys if key not in found]:
        more = f" and {len(missing) - 1} more" * (len(missing) > 1)
        return Judgement("not tested here", f"no finding `{missing[0]}`{more}")
    return claim.rule(found, published)


def table(found: Found) -> pd.DataFrame:
    """One row a claim: `by`, `name`, `claim`, `where`, `paper` (NaN for none); `ours` with `low`, `high`, `n`, `unit`,
    `model`, `df` and `chapter` of the number shown; `verdict`, `because`, `p` after Holm's correction over all claims
    that were decided, `artefacts` (their ids, with commas), `note`, and `beside`, another number in words.

    A verdict whose p does not stay below 5% after the correction is "open".

        print(claims.table(findings.load())[["claim", "paper", "ours", "verdict"]])
    """
    published = paper()
    judged = {claim.name: judge(claim, found, published) for claim in CLAIMS}
    decided = {name: one for name, one in judged.items() if one.verdict not in ("open", "not tested here")}
    adjusted = dict(zip(decided, intervals.holm(np.array([one.p for one in decided.values()])), strict=True))
    rows = []
    for claim in CLAIMS:
        verdict, why, _, decisive = judged[claim.name]
        p = adjusted.get(claim.name)
        if p is not None and p >= ALPHA:
            verdict, why = "open", f"{why}; alone it {_VERBS[verdict][0]}, but not surely among {len(decided)} verdicts"
        key = decisive or claim.keys[0]
        one = found.get(key, Reported(key, "none"))
        spoken = isinstance(one.value, str)
        row: dict[str, Any] = {"by": claim.by, "name": claim.name, "claim": claim.text, "where": claim.where}
        row |= {"paper": claim.published(published), "ours": None if spoken else one.value}
        row |= {"low": one.low, "high": one.high, "n": one.n, "unit": one.unit, "model": one.model}
        row |= {"df": one.df, "chapter": one.chapter, "verdict": verdict, "because": why, "p": p}
        key, what = claim.beside
        row["beside"] = f"{what}: {found[key]}" if key in found else ""
        rows.append(row | {"artefacts": ", ".join(claim.artefacts), "note": claim.note})
    numbers = ["paper", "ours", "low", "high", "p"]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float)).astype({"n": "Int64", "df": "Int64"})


def of(judged: pd.DataFrame, by: By) -> pd.DataFrame:
    """The rows of `table` of the claims that the paper, this book, or the authors' earlier commits make."""
    one_of("by", by, By)
    return judged[judged["by"] == by]


def counts(judged: pd.DataFrame) -> dict[Verdict, int]:
    """How many claims have each verdict, all five named."""
    times = Counter(judged["verdict"])
    return {verdict: times[verdict] for verdict in VERDICTS}


def sentence(judged: pd.DataFrame) -> str:
    """The counts of the paper's claims in words; then how many claims of others were judged."""
    n = counts(own := of(judged, "paper"))
    *rest, last = [f"{n[key]} {verbs[n[key] != 1]}" for key, verbs in _VERBS.items() if n[key]] or ["none was judged"]
    return f"Of {len(own)} claims of the paper, {', '.join(rest) + ' and ' if rest else ''}{last}."


def first(judged: pd.DataFrame, verdict: Verdict) -> str:
    """The first claim of `table` with a verdict, and its number; "none" if no claim has it.

    Args:
        judged: rows of `table`.
        verdict: which one.

    >>> first(pd.DataFrame({"claim": ["A fetches"], "verdict": ["open"], "ours": [float("nan")]}), "open")
    'A fetches (–)'
    """
    one_of("verdict", verdict, Verdict)
    rows = judged[judged["verdict"] == verdict].head(1).to_dict("records")
    return f"{rows[0]['claim']} ({number(rows[0])})" if rows else "none"


def markdown(judged: pd.DataFrame, *, why: bool = False) -> str:
    """Rows of `table` as Markdown, for a page, the introduction or the README; `why` adds section and reason.

    display(Markdown(claims.markdown(claims.table(findings.load()), why=True)))
    """
    rows = []
    for row in judged.to_dict("records"):
        published = "–" if pd.isna(row["paper"]) else f"{row['paper']:.2f}"
        published += f" ({row['note']})" if row["note"] else ""
        claim = row["claim"] + (f" ({row['where']})" if why else "")
        here = "; ".join(filter(None, (number(row), row["beside"])))
        cells = {"Claim": claim, "Paper": published, "Here": here, "Verdict": f"**{row['verdict']}**"}
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
    n, df = (None if pd.isna(row.get(name)) else int(row[name]) for name in ("n", "df"))
    return str(Reported("", row["ours"], low, high, n, row["unit"], df=df))


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


def moved(found: Found) -> list[str]:
    """The artefacts that surely move a number here: the intervals of its official and its corrected form lie apart.

    Args:
        found: the findings of all chapters.

    >>> one, other = Reported("x", 0.5, 0.4, 0.6), Reported("x", 0.1, 0.0, 0.2)
    >>> moved({"official/B1/1/official": one, "official/B1/1/corrected": other})
    ['B1']
    """
    names = []
    for key in (key for key in found if key.startswith("official/") and key.endswith("/official")):
        sides = [found[key], found.get(key.removesuffix("official") + "corrected")]
        ends = [(one.low, one.high) for one in sides if one and one.low is not None and one.high is not None]
        if len(ends) == 2 and max(low for low, _ in ends) > min(high for _, high in ends):
            names.append(key.split("/")[1])
    return sorted(set(names), key=lambda name: int(name[1:]))

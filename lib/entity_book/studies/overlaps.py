"""How far two circuits overlap, beside the most that can be expected: one model's circuit, found twice."""

from typing import Any

import numpy as np
import pandas as pd
from entity_circuits import circuits
from entity_circuits.circuits import Finding
from entity_circuits.heads import LETTERS, Group
from entity_circuits.methods import path_patching
from entity_circuits.methods.path_patching import Discovery
from entity_circuits.results import Store


def whole(one: Finding, other: Finding) -> dict[str, Any]:
    """The row of `circuits.compare` about all groups together, by column.

    >>> overlaps.whole(found, own)["shared"]
    """
    rows = circuits.compare(one, other).to_dict("records")
    return next({str(name): value for name, value in row.items()} for row in rows if row["group"] == "all")


def again(model: str) -> Finding | None:
    """A model's circuit, found once more from other prompts, where the book has it: the most that overlaps can reach.

    >>> found = overlaps.again("qwen2.5-coder-0.5b")
    """
    file = circuits.folder() / "again" / f"{model}.json"
    return circuits.load(file) if file.is_file() else None


def found_again(found: Discovery, examples: int, store: Store) -> Finding:
    """The circuit of the same model from other prompts: as the book has it, or else searched for on so many examples.

    What the book has counts only if it is of these weights and this number of boxes, and of another seed.

        print(overlaps.found_again(found, 14, Store()).circuit.groups)
    """
    about = found.circuit.about
    kept = again(str(about["model"]))
    if kept is not None:
        same = all(kept.circuit.about.get(name) == about.get(name) for name in ("fingerprint", "boxes"))
        if same and kept.circuit.about["seed"] != about["seed"]:
            return kept
    drawn: dict[str, Any] = {"n": examples, "boxes": about["boxes"], "seed": int(str(about["seed"])) + 1}
    return circuits.finding(path_patching.discover(found.runs.subject, store=store, **drawn), command="this page")


def elsewhere(found: Finding) -> pd.DataFrame:
    """How many heads a circuit shares with those of the same model from other prompts that the book has: a row each.

    `prompts` says how they differ, then come the heads shared of each group and of `all`, `chance`, how many random
    sets of the same layers would share, and `p`, how often as many; `n`, the prompts.

    >>> overlaps.elsewhere(circuits.load("qwen2.5-coder-0.5b"))["prompts"].tolist()
    """
    about, lines = found.circuit.about, []
    for path in sorted((circuits.folder() / "again").glob("*.json")):
        if not path.name.startswith(f"{found.model}."):
            continue
        other = circuits.load(path)
        of = other.circuit.about
        if of["fingerprint"] != about["fingerprint"] or (of["seed"] == about["seed"] and path.stem == found.model):
            continue
        rows = {LETTERS.get(row["group"], "all"): row for row in circuits.compare(found, other).to_dict("records")}
        words = f"seed {of['seed']}" if path.stem == found.model else path.stem.removeprefix(f"{found.model}.")
        shared = {letter: f"{row['shared']:.0f} of {row['one']:.0f}" for letter, row in rows.items()}
        every = rows["all"]
        lines.append({"prompts": words.replace("-", " "), **shared, "chance": every["layer_chance"]})
        lines[-1] |= {"p": every["layer_p"], "n": of["n"]}
    return pd.DataFrame(lines)


def tables(found: Finding) -> dict[Group, pd.DataFrame]:
    """The `head` and `score` of all heads with a path, round by round, by the statistic that ranked them.

    print(overlaps.tables(overlaps.again("qwen2.5-coder-0.5b"))["value_fetcher"].nsmallest(3, "score"))
    """
    found_by = zip(found.scores[found.statistic].items(), found.rankings().values(), strict=True)
    return {
        group: pd.DataFrame(
            {"head": map(str, ranked), "score": np.array([scores[head.layer, head.head] for head in ranked], float)}
        )
        for (group, scores), ranked in found_by
    }


def shared_in_words(one: Finding, other: Finding, again: Finding | None) -> dict[str, str]:
    """How many heads two circuits share, what chance gives, and what the first shares with itself found `again`.

    >>> print(overlaps.shared_in_words(found, own, None)["shared"])
    """
    every = whole(one, other)
    words = {"shared": f"{every['shared']:.0f} of {every['one']:.0f}"}
    words["shared_chance"] = f"{every['layer_chance']:.1f} (p = {every['layer_p']:.1g})"
    if again is None:
        return {**words, "shared_again": "(not known)"}
    itself = whole(one, again)
    return {**words, "shared_again": f"{itself['shared']:.0f} of {itself['one']:.0f}"}

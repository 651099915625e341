"""What the heads of a group carry, in words for a page to quote: whole groups, masks at a price, other models."""

from collections.abc import Mapping

import pandas as pd
from entity_circuits import statistics
from entity_circuits.heads import LETTERS, Group
from entity_circuits.methods.dcm import Mask
from entity_circuits.tasks.desiderata import HYPOTHESES


def shares(answers: pd.DataFrame, models: Mapping[str, str], carried: Mapping[str, str]) -> dict[str, str]:
    """How often each whole group brings the word of what it is said to carry, and how often none of the words.

    `answers` are rows of `semantics.answers`, `models` maps what a model is on the page ("base") to its name, and
    `carried` letters of groups to a hypothesis. `base_a` is the share with floor and other heads beside it,
    `base_a_other` that of answers of no kind, `base_floor_other` the same with no patch.

        notebooks.quote(**carrying.shares(answers, {"base": "qwen2.5-coder-0.5b"}, patched.CARRIED))
    """
    share, told = answers.set_index(["model", "group", "patched", "answer"])["share"], {}
    for short, model in models.items():
        for group in _groups(answers, model):
            at, letter = (model, group), LETTERS[group]
            floor, whole, other = (
                share.get((*at, what, carried[letter]), 0.0) for what in ("no patch", "group", "other heads")
            )
            told[f"{short}_{letter.lower()}"] = f"{whole:.2f} (floor {floor:.2f}, other heads {other:.2f})"
            told[f"{short}_{letter.lower()}_other"] = f"{share.get((*at, 'group', 'other'), 0.0):.2f}"
            told.setdefault(f"{short}_floor_other", f"{share.get((*at, 'no patch', 'other'), 0.0):.2f}")
    return told


def leading(answers: pd.DataFrame, model: str) -> dict[str, str]:
    """Which of the three words each whole group brings most often beyond the floor: `lead_a` and so on.

    >>> notebooks.quote(**carrying.leading(answers, "qwen2.5-coder-0.5b"))
    """
    share, told = answers.set_index(["model", "group", "patched", "answer"])["share"], {}
    for group in _groups(answers, model):
        more = {
            word: share.get((model, group, "group", word), 0.0) - share.get((model, group, "no patch", word), 0.0)
            for word in HYPOTHESES
        }
        word = max(more, key=lambda word: more[word])
        told[f"lead_{LETTERS[group].lower()}"] = f"the {word}'s word ({more[word]:+.2f} over the floor)"
    return told


def kept(mask: Mask) -> str:
    """How many of its heads a mask selects.

    print(carrying.kept(masks["code", "value_fetcher", "object"]))  # 8 of 22
    """
    return f"{len(mask.selected)} of {len(mask.heads)}"


def cheapest(table: pd.DataFrame) -> dict[str, str]:
    """The mask at the lowest price beside random heads, rows of `mask_tables.along`: `price_low`, `price_kept`, the
    heads that it keeps, `price_mask`, how often they bring the target, and `price_random`, as many random heads.

        notebooks.quote(**carrying.cheapest(mask_tables.along(study, masks, "last", "object")))
    """
    low = table[table["kind"] == "mask"].sort_values("penalty", kind="stable").iloc[0]
    like = table[(table["kind"] == "random") & (table["heads"] == low["heads"])]["value"]
    whole = int(table.loc[table["kind"] == "whole group", "heads"].iloc[0])
    return {
        "price_low": f"{low['penalty']:g}",
        "price_kept": f"{low['heads']} of {whole} heads",
        "price_mask": statistics.spoken(low["value"], low["low"], low["high"]),
        "price_random": f"{like.min():.2f} to {like.max():.2f}" if len(like) else "not drawn",
    }


def elsewhere(crossed: pd.DataFrame, selection: str, models: Mapping[str, str]) -> dict[str, str]:
    """How much more often heads of one selection bring the target in other models, rows of `crossing.crossed`:
    `cross_tuned` for a model called `tuned`, and `plain_tuned` for its source prompts alone.

        carrying.elsewhere(crossed, "A, object: heads of qwen2.5-coder-0.5b", {"tuned": "code"})
    """
    rows = crossed[crossed["selection"] == selection].set_index("model").to_dict("index")
    told = {}
    for short, model in models.items():
        for start, column in (("cross", "more"), ("plain", "alone")):
            told[f"{start}_{short}"] = "not measured"
            if row := rows.get(model):
                value, low, high = (row[column + end] for end in ("", "_low", "_high"))
                told[f"{start}_{short}"] = statistics.spoken(value, low, high, "+.2f")
    return told


def _groups(answers: pd.DataFrame, model: str) -> list[Group]:
    return list(answers.loc[answers["model"] == model, "group"].unique())

"""What did fine-tuning improve? The conditions of cross-model patching that the book asks for, and their kept answers.

Two thousand prompts take half an hour on a laptop, so their answers are kept, prompt by prompt, in `data/cmap/`, with
the command that made them; a chapter runs the first contexts again and compares answer by answer.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from entity_circuits import circuits, models, places, statistics, sums
from entity_circuits.circuits import criteria
from entity_circuits.heads import LETTERS, Circuit, Head
from entity_circuits.methods import cmap
from entity_circuits.methods.cmap import ENDS, Condition, Patched
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.tasks import boxes
from safetensors import SafetensorError
from safetensors.torch import save

SCALE = 4
"""How many times larger than found the circuits are whose heads are patched: about the share of all heads that the
paper's groups have."""

_NUMBERS = tuple(field.name for field in fields(Patched) if field.name != "conditions")


def circuit_of(tuned: Subject, base: Subject, scale: float = SCALE, store: Store | None = None) -> Circuit:
    """The fine-tuned model's own circuit, `scale` times larger; the base model's where its own was not looked for."""
    known = {found.circuit.about["fingerprint"] for found in circuits.readable()}
    found = circuits.of(tuned if tuned.fingerprint in known else base, store=store)
    return criteria.grown(found.circuit, found.rankings(), scale)


def conditions(base: Subject, circuit: Circuit, draws: int = 3) -> tuple[Condition, ...]:
    """The groups by themselves and together, random heads for A and B, A to C the other way round, and the inputs of A
    and B: from the run, from the weights alone, and from what arrives alone.

        print([condition.name for condition in improvement.conditions(base, circuit)])
    """
    ab, abc = _part(circuit, "AB"), _part(circuit, "ABC")
    asked = list(cmap.groups(circuit, combined=("AB", "BC")))
    own = {condition.name: condition for condition in asked}
    for letter in "AB":
        if letter in own:
            asked += cmap.random_heads(base, own[letter], draws)
    asked += [one for one in cmap.groups(abc, into="tuned", combined=()) if one.name != "circuit"]
    asked += cmap.inputs(ab, origins=("run",))
    asked += cmap.inputs(ab, sites=("q", "v"), origins=("weights", "inputs"))
    return tuple(asked)


def brief(base: Subject, circuit: Circuit) -> tuple[Condition, ...]:
    """Of `conditions`: each group by itself, one draw of random heads for A and for B, and the inputs of A and B.

    print([condition.name for condition in improvement.brief(base, circuit)])
    """
    wanted = {"circuit", *"ABCD"}
    return tuple(
        one
        for one in conditions(base, circuit, draws=1)
        if one.name in wanted and one.into == "base" and one.origin == "run"
    )


def sizes(circuit: Circuit) -> dict[str, str]:
    """How many heads the groups have, in words, as `group_sizes`, and how many of B's are A's too, as `shared_ab`.

    print(improvement.sizes(improvement.circuit_of(tuned, first))["group_sizes"])
    """
    told = ", ".join(f"{LETTERS[group]} {len(heads)}" for group, heads in circuit.groups.items())
    a, b = (set(circuit.groups.get(name, ())) for name in ("value_fetcher", "position_transmitter"))
    return {"group_sizes": told, "shared_ab": f"{len(a & b)} of {len(b)}"}


def few(circuit: Circuit) -> tuple[Condition, ...]:
    """The outputs of A, B, C, D and the whole circuit, and the queries of A: what controls are asked for.

    print(cmap.sweep(base, control, improvement.few(circuit), p).table())
    """
    queries = cmap.inputs(_part(circuit, "A"), sites=("q",), origins=("run",))
    return (*cmap.groups(circuit, combined=()), *queries)


def scan(base: Subject, width: int = 3) -> tuple[Condition, ...]:
    """All heads from each layer up, at `last`; and all heads up to each layer, at `query` and at `last`."""
    return (
        *cmap.scan(base, "last", reach="from", width=width),
        *(condition for place in ("query", "last") for condition in cmap.scan(base, place, width=width)),
    )


def measure(name: str, contexts: int = 286, *, short: bool = False, store: Store | None = None) -> Patched:
    """Run `conditions` (or `brief`, if `short`) for a pair of the registry on all boxes of so many evaluation contexts.

    It takes about a second a prompt, or a third of that.

        found = improvement.measure("code", contexts=7)
        print(found.table())
    """
    base, tuned = models.load_pair(name)
    asked = (brief if short else conditions)(base, circuit_of(tuned, base, store=store))
    return cmap.sweep(base, tuned, asked, boxes.prompts(base, 7 * contexts, split="evaluation"), store=store)


def keep(found: Patched, path: Path, base: Subject, tuned: Subject, *, command: str) -> None:
    """Write the answers to a safetensors file, whole or not at all, with their conditions, models and command.

    Log-probabilities are rounded to float16.

        improvement.keep(found, Path("mine.safetensors"), base, tuned, command="entity-circuits measure-cmap code")
    """
    words = [condition.words for condition in found.conditions]
    about = {"conditions": words, "models": _models(base, tuned), "command": command}
    tensors = {name: getattr(found, name) for name in _NUMBERS}
    there = {name: x for name, x in tensors.items() if x is not None}
    small = {name: (x.half() if x.is_floating_point() else x).contiguous() for name, x in there.items()}
    sums.write(path, save(small, {name: json.dumps(value) for name, value in about.items()}))


def kept(base: Subject, tuned: Subject, where: Path | None = None) -> Patched | None:
    """The kept answers of these very models, if there are any in a folder: that of this study unless given.

    base, tuned = models.load_pair("code")
    print(improvement.kept(base, tuned).table())
    """
    return next((found for _, pair, found in _files(where or folder()) if pair == _models(base, tuned)), None)


def others(base: Subject, tuned: Subject) -> pd.DataFrame:
    """The kept answers of this base with other fine-tuned models than this: their `table`, and `model`, their names.

    print(improvement.others(base, tuned).groupby("model")["n"].first())
    """
    tables = [pd.DataFrame()]
    for name, (of, other), found in _files(folder()):
        if of == base.fingerprint and other != tuned.fingerprint:
            tables.append(found.table().assign(model=name))
    return pd.concat(tables, ignore_index=True)


def across(table: pd.DataFrame) -> pd.DataFrame:
    """The shares of several fine-tuned models beside each other, as text with intervals: a column a model.

    `table` has rows of `Patched.table()`, and `model`. Rows: `base` and `fine-tuned`, the accuracies as they are; the
    share that each condition brings into the base model from the other's run (`A`; `A, q` for inputs), and `n`, the
    prompts. Where there is no gap to divide by it is the change of accuracy instead, with a sign.

        print(improvement.across(found.table().assign(model="code")))
    """
    made: dict[str, dict[str, str]] = {}
    asked = table[(table["into"] == "base") & (table["origin"] == "run") & table["draw"].isna()]
    for row in asked.to_dict("records"):
        about = {"base": f"{row['base']:.2f}", "fine-tuned": f"{row['tuned']:.2f}"}
        cells = made.setdefault(row["model"], about)
        name = row["condition"] if row["sites"] == "z" else f"{row['condition']}, {row['sites']}"
        kind, form = ("change", "+.2f") if row["no_share"] else ("share", ".0%")
        cells[name] = statistics.spoken(row[kind], row[f"{kind}_low"], row[f"{kind}_high"], form)
    n = asked.groupby("model", sort=False)["n"].first().rename("n").to_frame().T.astype(str)
    return pd.concat([pd.DataFrame(made), n]).fillna("")


def better_parts(table: pd.DataFrame) -> pd.DataFrame:
    """What raises the base model's accuracy though it comes from a model that is not surely better: rows of `table`.

    `table` has rows of `Patched.table()`, and `model`. Of the conditions that patch the other's run into the base,
    those with the 95% interval of the change above 0, random heads (`draw`) included. `tried` says how many were looked
    at: one in forty of them would be here by chance.

        print(improvement.better_parts(improvement.others(base, tuned))[["model", "condition", "sites", "change"]])
    """
    no_better = (table["no_share"] != "") | (table["tuned"] < table["base"])
    asked = table[no_better & (table["into"] == "base") & (table["origin"] == "run")]
    return asked[asked["change_low"] > 0].assign(tried=len(asked))


def best_parts(better: pd.DataFrame, random: bool = False) -> str:
    """Of each model in `better_parts`, what raises accuracy most, in words: a condition, or a draw of random heads."""
    told = []
    rows = better[better["draw"].notna() == random].sort_values("change", ascending=False, kind="stable")
    for row in rows.drop_duplicates("model").to_dict("records"):
        part = f"{row['condition']}{', ' + row['sites'] if row['sites'] != 'z' else ''} of {row['model']}"
        told.append(f"{part} {statistics.spoken(row['change'], row['change_low'], row['change_high'], '+.2f')}")
    return "; ".join(told) or "none"


def completed(stored: Patched, live: Patched) -> pd.DataFrame:
    """The table of the answers that are kept, and below it that of this page's for conditions of which none are.

    print(improvement.completed(improvement.kept(base, tuned) or live, live)[["condition", "share", "n"]])
    """
    known = set(map(_named, stored.conditions))
    rest = [condition for condition in live.conditions if _named(condition) not in known]
    tables = [stored.table(), *([under(live, rest).table()] if rest else [])]
    return pd.concat(tables, ignore_index=True)


def with_choices(table: pd.DataFrame, live: Patched) -> pd.DataFrame:
    """The same table with the object choice of each condition: as kept, or else of the prompts that were run on a page.

    `choice_n` says on how many prompts `choice` and `choice_change` rest; what was neither kept nor run stays missing.

        print(improvement.with_choices(table, live)[["condition", "choice", "choice_n"]])
    """
    names = [f"{name}{end}" for name in ("choice", "choice_change") for end in ENDS]
    keys = ["condition", "into", "sites", "origin", "draw"]
    fresh = live.table().assign(draw=lambda x: x["draw"].fillna(-1))[[*keys, *names, "n"]]
    both = table[keys].assign(draw=table["draw"].fillna(-1)).merge(fresh, on=keys, how="left", validate="m:1")
    missing = table["choice"].isna().to_numpy()
    filled = {name: np.where(missing, both[name], table[name]) for name in names}
    n = np.where(missing, both["n"], table["n"])
    return table.assign(**filled, choice_n=pd.array(n, dtype="Int64"))


def words(found: Patched, table: pd.DataFrame | None = None) -> dict[str, str]:
    """The numbers of both models and of what is patched into the base, as text with intervals, for a page to `glue`.

    `base` and `tuned`; `A` and so on, an accuracy with outputs patched, `A_share`, its share of the gap, and
    `A_random`, the lowest and highest share of random heads in its place; for inputs `A_q_run`, `A_q_weights` and
    `A_q_inputs`, shares too. Where there is no gap, shares say so. `table` is that of `found` unless it is given.

        print(improvement.words(found)["B_share"])
    """
    told = {"base": str(found.unmodified("base")), "tuned": str(found.unmodified("tuned"))}
    table = found.table() if table is None else table
    table = table[table["into"] == "base"]
    for name, draws in table[table["draw"].notna()].groupby("condition"):
        ends = f"{draws['share'].min():.0%} to {draws['share'].max():.0%}"
        told[f"{name}_random"] = "no share (no gap)" if draws["no_share"].any() else ends
    for row in table[table["draw"].isna()].to_dict("records"):
        share = statistics.spoken(row["share"], row["share_low"], row["share_high"], ".0%")
        share = "no share (no gap)" if row["no_share"] else share
        if row["sites"] == "z":
            told[f"{row['condition']}"] = statistics.spoken(row["accuracy"], row["low"], row["high"])
            told[f"{row['condition']}_share"] = share
        else:
            told[f"{row['condition']}_{row['sites']}_{row['origin']}"] = share
    return told


def _files(where: Path) -> Iterator[tuple[str, list[str], Patched]]:
    """Of each kept file its name, the fingerprints of both models, and the answers; a damaged one is left out."""
    for path in sorted(where.glob("*.safetensors")):
        if (found := read(path)) is not None:
            yield path.stem, *found


def read(path: Path) -> tuple[list[str], Patched] | None:
    """The fingerprints of both models and the answers of one kept file; of a damaged one None, and a warning.

    print(improvement.read(improvement.folder() / "code.safetensors")[1].table())
    """
    try:
        about, tensors = sums.tensors(path)
        whole = {key: x.float() if x.is_floating_point() else x for key, x in tensors.items()}
        return about["models"], Patched(tuple(map(_condition, about["conditions"])), **whole)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        warnings.warn(f"the kept answers of {path.stem} are left out: {error}", stacklevel=2)
        return None


def folder() -> Path:
    """Where the kept answers are, one file a pair."""
    return places.ROOT / "data" / "cmap"


def agreement(stored: Patched, again: Patched) -> pd.DataFrame:
    """How many of the answers that were run again are those that are kept: one row a condition both have.

    The prompts run again must be the first of the kept ones. Columns `condition`, `sites`, `origin`, `into`, `same`,
    `n`. Raises `ValueError` if no condition is in both, or the contexts do not fit.

        print(improvement.agreement(improvement.kept(base, tuned), found)["same"].sum())
    """
    n = len(again.contexts)
    if n > len(stored.contexts) or not torch.equal(stored.contexts[:n], again.contexts):
        raise ValueError("the prompts that were run again are not the first of those whose answers are kept")
    place = {_named(condition): index for index, condition in enumerate(stored.conditions)}
    found = []
    for index, condition in enumerate(again.conditions):
        if (other := place.get(_named(condition))) is not None:
            same = int((stored.correct[other, :n] == again.correct[index]).sum())
            about = {"condition": condition.name, "sites": "".join(condition.sites), "origin": condition.origin}
            found.append({**about, "into": condition.into, "same": same, "n": n})
    if not found:
        raise ValueError("no condition was run again: the kept answers are of other heads")
    return pd.DataFrame(found)


def under(found: Patched, chosen: Sequence[Condition]) -> Patched:
    """The answers under some of the conditions only."""
    index = [found.conditions.index(condition) for condition in chosen]
    choices = None if found.chosen is None else found.chosen[index]
    part = replace(found, conditions=tuple(chosen), correct=found.correct[index], logprob=found.logprob[index])
    return replace(part, chosen=choices)


def _models(base: Subject, tuned: Subject) -> list[str]:
    return [base.fingerprint, tuned.fingerprint]


def _part(circuit: Circuit, letters: str) -> Circuit:
    """The groups of these letters alone."""
    return Circuit({group: heads for group, heads in circuit.groups.items() if LETTERS[group] in letters})


def _named(condition: Condition) -> str:
    """All that a condition says, as one word to look it up by."""
    return json.dumps(condition.words)


def _condition(words: list[Any]) -> Condition:
    name, heads, sites, origin, into, draw = words
    chosen = {place: [*map(Head.parse, some)] for place, some in heads.items()}
    return Condition(name, chosen, tuple(sites), origin, into, draw)

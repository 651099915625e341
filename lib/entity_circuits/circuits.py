"""Circuits as data: what was found in which model by which command, in one file each, and how two of them compare.

A file holds a circuit and the score of every head in all four rounds. Two circuits are compared group by group: which
heads they share, how many random sets of these sizes would share, and whether they rank all heads alike.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from . import findings, heads, path_patching, places, results
from .heads import GROUPS, LETTERS, Circuit, Group, Head
from .path_patching import Discovery, Statistic
from .results import Store

if TYPE_CHECKING:
    from .models import Subject

FORMAT = 1
DIGITS = 6
KNOWN: Mapping[str, type] = {
    "model": str,
    "fingerprint": str,
    "n": int,
    "boxes": int,
    "seed": int,
    "statistic": str,
    "reach": str,
    "command": str,
    "code": str,
}
"""What the file of a circuit says about it: `circuit.about`."""


@dataclass(frozen=True, eq=False)
class Finding:
    """A circuit with the scores it was taken from. `circuit.about` has the entries of `KNOWN`.

    `scores` are float64 (layers, heads) for each statistic and group: 0 for no effect, negative for a head that
    matters, NaN for one that has no path. There are always `mean` (the paper's score) and the statistic that ranked.
    """

    circuit: Circuit
    scores: Mapping[Statistic, Mapping[Group, np.ndarray]]

    @property
    def model(self) -> str:
        return str(self.circuit.about["model"])

    @property
    def statistic(self) -> Statistic:
        """The statistic by which the heads were ranked."""
        return self.circuit.about["statistic"]  # type: ignore[return-value]

    def rankings(self, statistic: Statistic | None = None) -> dict[Group, list[Head]]:
        """All heads of each group that have a path, the most negative score first; by what ranked, unless told."""
        return {group: heads.ranked(scores) for group, scores in self.scores[statistic or self.statistic].items()}

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads) of the model."""
        layers, numbers = self.scores["mean"][GROUPS[0]].shape
        return layers, numbers


def finding(discovery: Discovery, *, command: str) -> Finding:
    """What a discovery found, with the command that made it, rounded as in a file.

    one = circuits.finding(path_patching.discover(subject), command="entity-circuits discover ...")
    """
    about = {**discovery.circuit.about, "command": command, "code": results.code(path_patching.__name__)}
    ranked: Statistic = about["statistic"]  # type: ignore[assignment]
    kinds: dict[Statistic, None] = dict.fromkeys(("mean", ranked))
    scores = {
        kind: {
            group: found.statistic(kind).double().cpu().numpy().round(DIGITS)
            for group, found in discovery.scores.items()
        }
        for kind in kinds
    }
    return Finding(Circuit(discovery.circuit.groups, about), scores)


def save(discovery: Discovery | Finding, path: Path, *, command: str = "") -> Finding:
    """Write the circuit of a discovery and all its scores to a JSON file, whole or not at all, and give back both.

    Scores are rounded to six digits; a head without a path has null. `command` is what one types to make the file
    again; a `Finding` (such as a pruned circuit with the scores it came from) brings its own. Raises `ValueError`
    without one, or if the parts do not fit together. `Circuit.from_json` reads the file, too.

        circuits.save(path_patching.discover(subject), Path("mine.json"), command="...")
    """
    found = discovery if isinstance(discovery, Finding) else finding(discovery, command=command)
    if not found.circuit.about.get("command"):
        raise ValueError("a circuit is stored with the command that makes it again: give `command`")
    scores = {kind: {group: _rows(table) for group, table in tables.items()} for kind, tables in found.scores.items()}
    content = {"format": FORMAT, **json.loads(found.circuit.to_json()), "scores": scores}
    text = re.sub(r"\[\n([^\[\]]*?)\n\s*\]", _on_one_line, json.dumps(content, indent=1, allow_nan=False))
    _parsed(text, path)
    places.write(path, text + "\n")
    return found


def load(name: str | Path) -> Finding:
    """A stored circuit, checked: of the book's data by its name (`data/circuits/NAME.json`), or any file by its path.

    Raises `FileNotFoundError` that lists the names there are, and `ValueError` that says what is wrong with a file.

        one = circuits.load("qwen2.5-coder-0.5b")
        print(one.circuit.groups["value_fetcher"], one.circuit.about["command"])
    """
    path = next((path for path in (Path(name), folder() / f"{name}.json") if path.is_file()), None)
    if path is None:
        known = ", ".join(names()) or "none yet"
        raise FileNotFoundError(f"there is no circuit {str(name)!r}: no such file, and not one of the book's: {known}")
    return _parsed(path.read_text(encoding="utf-8"), path)


def of(subject: "Subject", *, n: int = 70, seed: int = 0, store: Store | None = None) -> Finding:
    """The circuit of a model: the book's own file if it was made from these very weights, else found now.

    Finding it takes minutes (`path_patching.discover` of `n` prompts); finished parts are kept in `store`.

        print(circuits.of(models.load("qwen2.5-coder-0.5b")).rankings()["value_fetcher"][:5])
    """
    for name in names():
        if (stored := load(name)).circuit.about["fingerprint"] == subject.fingerprint:
            return stored
    command = f"entity-circuits discover {subject.name} --n {n} --seed {seed}"
    return finding(path_patching.discover(subject, n=n, seed=seed, store=store), command=command)


def folder() -> Path:
    """Where the book's circuits are stored, one file a model."""
    return places.ROOT / "data" / "circuits"


def names() -> list[str]:
    """The names of the book's circuits, sorted: what `load` takes."""
    return sorted(path.stem for path in folder().glob("*.json"))


def compare(one: Finding, other: Finding, statistic: Statistic | None = None) -> pd.DataFrame:
    """How two circuits of models of one shape agree: a row a group, and a last one, `all`, for the four together.

    `one` and `other` are numbers of heads, `shared` those in both, `of_one` and `of_other` what share that is of each
    (the paper's code calls these precision and recall). `chance` is how many heads two random sets of these sizes
    would share, drawn from the heads that have a path, with its 95% range `chance_low` to `chance_high`, and `p` the
    probability that they share as many or more, all exact (hypergeometric). `layer_chance` and `layer_p` are the same
    for random sets with the layers of the real ones, the harder test: groups of two models may sit in the same layers
    without being the same. `spearman` is the rank correlation of the scores over the `ranked` heads with a path in
    both. `statistic` is the one that ranked in `one` unless given. Raises `ValueError` for models of different shapes
    or a score that one of them lacks. Paper: how much the circuits of base and fine-tuned models overlap.

        print(circuits.compare(circuits.load("a"), circuits.load("b"))[["group", "shared", "chance", "p"]])
    """
    tables = _scores(one, other, statistic)
    rows, distributions = [], []
    for group in GROUPS:
        sets = [_members(found, group) for found in (one, other)]
        known = [~np.isnan(table[group]) for table in tables]
        pools = [path | members for path, members in zip(known, sets, strict=True)]  # what is in it could be drawn
        free = _overlap(sets, pools)
        layers = [_overlap([x[i] for x in sets], [x[i] for x in pools]) for i in range(one.shape[0])]
        distributions.append((free, reduce(np.convolve, layers)))
        both = known[0] & known[1]
        sizes = (int(sets[0].sum()), int(sets[1].sum()), int((sets[0] & sets[1]).sum()))
        rank = _correlation(tables[0][group][both], tables[1][group][both])
        rows.append(
            {"group": group, **_shared(*sizes, *distributions[-1]), "spearman": rank, "ranked": int(both.sum())}
        )
    total = [sum(int(row[name]) for row in rows) for name in ("one", "other", "shared")]
    whole = [reduce(np.convolve, kind) for kind in zip(*distributions, strict=True)]
    rows.append({"group": "all", **_shared(total[0], total[1], total[2], *whole), "spearman": np.nan, "ranked": 0})
    return pd.DataFrame(rows)


def impact(one: Finding, other: Finding, *, top: int | None = None, statistic: Statistic | None = None) -> pd.DataFrame:
    """The heads of all rounds by the size of their score in `one`, with their score in `other` beside.

    A row a group and head that has a path in `one`, the largest first, the first `top` of them if that is given.
    Columns: `rank` from 1, `group`, `head`, `layer`, `score` and `other` (NaN where the head has no path there),
    `in_one` and `in_other`: whether this group of each circuit has the head. The paper's figure asks instead whether
    any group has it, and sets scores of heads that are no candidates to 0.

        print(circuits.impact(circuits.load("a"), circuits.load("b"), top=20))
    """
    first, second = _scores(one, other, statistic)
    rows = [
        {
            "group": group,
            "head": str(head := Head(int(layer), int(number))),
            "layer": head.layer,
            "score": first[group][layer, number],
            "other": second[group][layer, number],
            "in_one": head in one.circuit.groups.get(group, ()),
            "in_other": head in other.circuit.groups.get(group, ()),
        }
        for group in GROUPS
        for layer, number in np.argwhere(~np.isnan(first[group]))
    ]
    columns = ["group", "head", "layer", "score", "other", "in_one", "in_other"]
    table = pd.DataFrame(rows, columns=columns).sort_values("score", key=lambda x: -x.abs(), kind="stable")[:top]
    table = table.reset_index(drop=True)
    table.insert(0, "rank", table.index + 1)
    return table


def report(one: Finding, other: Finding) -> str:
    """The comparison of two circuits as text for a terminal: where each comes from, and a line a group.

    print(circuits.report(circuits.load("a"), circuits.load("b")))
    """
    lines = []
    for name, found in (("one", one), ("other", other)):
        about = found.circuit.about
        words = f"{about['n']} prompts, {about['boxes']} boxes, seed {about['seed']}, by {about['statistic']}"
        lines.append(f"{name + ':':6} {about['model']} ({words}); made by: {about['command']}")
    header = ("group", "one", "other", "shared", "of one", "of other", "by chance", "p", "in layers", "p", "rank corr.")
    cells: list[tuple[str, ...]] = [header]
    for row in compare(one, other).to_dict("records"):
        name = LETTERS[row["group"]] + " " + row["group"].replace("_", " ") if row["group"] in LETTERS else "all"
        chance = f"{row['chance']:.1f} [{row['chance_low']}, {row['chance_high']}]"
        sizes = tuple(str(row[size]) for size in ("one", "other", "shared"))
        shares = tuple("-" if math.isnan(row[of]) else f"{row[of]:.0%}" for of in ("of_one", "of_other"))
        rank = "-" if math.isnan(row["spearman"]) else f"{row['spearman']:.2f}, {row['ranked']} heads"
        layers = f"{row['layer_chance']:.1f}"
        cells.append((name, *sizes, *shares, chance, _small(row["p"]), layers, _small(row["layer_p"]), rank))
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    notes = [
        "by chance: heads that two random sets of these sizes share, with a 95% range; in layers: if each set also",
        "keeps its number of heads in every layer. p: that such sets share as many or more.",
    ]
    return "\n".join([*lines, "", *table, "", *notes])


def _shared(one: int, other: int, shared: int, free: np.ndarray, bound: np.ndarray) -> dict[str, Any]:
    """The columns of `compare` that follow from sizes and the distributions of the overlap."""
    low, high = (int(np.searchsorted(np.cumsum(free), share)) for share in (0.025, 0.975 - 1e-12))
    return {
        "one": one,
        "other": other,
        "shared": shared,
        "of_one": shared / one if one else np.nan,
        "of_other": shared / other if other else np.nan,
        "chance": float(free @ np.arange(len(free))),
        "chance_low": low,
        "chance_high": high,
        "p": float(min(free[shared:].sum(), 1.0)),
        "layer_chance": float(bound @ np.arange(len(bound))),
        "layer_p": float(min(bound[shared:].sum(), 1.0)),
    }


def _overlap(sets: Sequence[np.ndarray], pools: Sequence[np.ndarray]) -> np.ndarray:
    """Probabilities of sharing 0, 1, ... heads if two sets of these sizes are drawn, each from its own pool (masks)."""
    one, other, first, second = (int(mask.sum()) for mask in (*sets, *pools))
    shared = np.zeros(min(one, other) + 1)
    # Of the one set, so many heads are such as the other could draw; of these, the other then draws so many.
    for members, probability in enumerate(_hypergeometric(first, int((pools[0] & pools[1]).sum()), one)):
        part = _hypergeometric(second, members, other)
        shared[: len(part)] += probability * part
    return shared


def _hypergeometric(all_: int, marked: int, drawn: int) -> np.ndarray:
    """Probabilities of 0, 1, ... marked ones among `drawn` of `all_`, of which `marked` are marked."""
    ways = math.comb(all_, drawn)
    return np.array(
        [math.comb(marked, k) * math.comb(all_ - marked, drawn - k) / ways for k in range(min(marked, drawn) + 1)]
    )


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's coefficient; NaN for fewer than three heads or where all rank alike."""
    ranks = pd.DataFrame({"one": one, "other": other}).rank()
    if len(ranks) < 3 or bool((ranks.nunique() < 2).any()):
        return float("nan")
    return float(np.corrcoef(ranks["one"], ranks["other"])[0, 1])


def _members(found: Finding, group: Group) -> np.ndarray:
    """(layers, heads) bool: the heads of one group."""
    mask = np.zeros(found.shape, dtype=bool)
    for head in found.circuit.groups.get(group, ()):
        mask[head.layer, head.head] = True
    return mask


def _scores(
    one: Finding, other: Finding, statistic: Statistic | None
) -> tuple[Mapping[Group, np.ndarray], Mapping[Group, np.ndarray]]:
    """The scores of both by one statistic."""
    kind = one.statistic if statistic is None else statistic
    for found in (one, other):
        if kind not in found.scores:
            raise ValueError(f"{found.model}: no scores by {kind!r} are stored, only by {', '.join(found.scores)}")
    if one.shape != other.shape:
        raise ValueError(
            f"heads are compared one by one, so models need the same shape: {one.model} has {one.shape[0]} layers of "
            f"{one.shape[1]} heads, {other.model} {other.shape[0]} of {other.shape[1]}"
        )
    return one.scores[kind], other.scores[kind]


def _parsed(text: str, path: Path) -> Finding:
    """A finding from the text of its file; a `ValueError` names the file and what is wrong with it."""
    try:
        content = json.loads(text)
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r}, not {FORMAT}")
        circuit = Circuit.from_json(text)
        for name, kind in KNOWN.items():
            if not isinstance(circuit.about.get(name), kind) or isinstance(circuit.about[name], bool):
                raise ValueError(f"`about` must say {name!r}, as {kind.__name__}, not {circuit.about.get(name)!r}")
        scores = {
            kind: {group: np.array(tables[group], dtype=float) for group in GROUPS}
            for kind, tables in content["scores"].items()
        }
        found = Finding(circuit, scores)
        if missing := {"mean", found.statistic} - scores.keys():
            raise ValueError(f"there are no scores by {missing.pop()!r}")
        _check(found)
    except KeyError as error:
        raise ValueError(f"{path} is not the file of a circuit: {error} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the file of a circuit: {error}") from error
    return found


def _check(found: Finding) -> None:
    """Shapes and heads that fit together, or a `ValueError`."""
    shapes = {table.shape for tables in found.scores.values() for table in tables.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"scores must be tables of one shape, layers by heads, not {sorted(shapes)}")
    if any(np.isinf(table).any() for tables in found.scores.values() for table in tables.values()):
        raise ValueError("a score is infinite")
    layers, numbers = found.shape
    for group, members in found.circuit.groups.items():
        if len(set(members)) < len(members):
            raise ValueError(f"{group} has a head twice")
        for head in members:
            if head.layer >= layers or head.head >= numbers:
                raise ValueError(f"{group} has {head}, but the scores are of {layers} layers of {numbers} heads")


def _rows(table: np.ndarray) -> list[list[float | None]]:
    return [[None if math.isnan(x) else round(float(x), DIGITS) + 0.0 for x in row] for row in table]


def _on_one_line(match: re.Match[str]) -> str:
    return "[" + " ".join(line.strip() for line in match[1].splitlines()) + "]"


def _small(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def hand_over(one: Finding, other: Finding) -> None:
    """Keep as findings how much two circuits overlap, and what chance would give; nothing outside a chapter.

    circuits.hand_over(circuits.load("qwen2.5-coder-0.5b"), circuits.load("code"))
    """
    for row in compare(one, other).to_dict("records"):
        if row["group"] == "all":
            findings.keep("overlap/all", row["of_one"], unit="share", model=other.model, about="of the base's heads")
        else:
            findings.keep(
                f"overlap/{LETTERS[row['group']]}/p", row["layer_p"], about="chance of random sets, same layers"
            )

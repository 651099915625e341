"""Circuits as data: what was found in which model by which command, in one file each.

A file holds a circuit and the score of every head in all rounds.
"""

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .. import heads, places, results, sums
from ..arguments import each_of, from_json, integer, of_kind, one_of
from ..heads import Circuit, Group, Head
from ..methods import path_patching
from ..methods.path_patching import Discovery, Statistic
from ..models.subject import Subject
from ..results import Store
from ..spelling import meant

FORMAT = 1
DIGITS = 6
KNOWN: Mapping[str, type] = {
    "model": str,
    "fingerprint": str,
    "n": int,
    "statistic": str,
    "command": str,
    "code": str,
}
"""What the file of a circuit says about it at least: `circuit.about`. The rest is how its prompts were drawn."""


@dataclass(frozen=True, eq=False)
class Finding:
    """A circuit with the scores it was taken from. `circuit.about` has the entries of `KNOWN`.

    `scores` are float64 (layers, heads) for each statistic and group: 0 for no effect, negative for a head that
    matters, NaN for one that has no path. There are always `mean` (the paper's score) and the statistic that ranked.
    """

    circuit: Circuit
    scores: Mapping[Statistic, Mapping[Group, np.ndarray]]

    def __post_init__(self) -> None:
        each_of("statistic", self.scores, Statistic)

    @property
    def model(self) -> str:
        """The name of the model that the circuit was found in."""
        return str(self.circuit.about["model"])

    @property
    def statistic(self) -> Statistic:
        """The statistic by which the heads were ranked."""
        return self.circuit.about["statistic"]  # type: ignore[return-value]

    def rankings(self, statistic: Statistic | None = None) -> dict[Group, list[Head]]:
        """All heads of each group that have a path, the most negative score first; by what ranked, unless told.

        For example:

            from entity_circuits import circuits

            print(*circuits.load("qwen2.5-coder-0.5b").rankings()["value_fetcher"][:5])
        """
        one_of("statistic", statistic, Statistic | None)
        kind = statistic or self.statistic
        one_of("statistic among the scores", kind, self.scores)
        return {group: heads.ranked(scores) for group, scores in self.scores[kind].items()}

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads) of the model."""
        layers, numbers = next(iter(self.scores["mean"].values())).shape
        return layers, numbers


def finding(discovery: Discovery, *, command: str) -> Finding:
    """What a discovery found, with the command that made it, rounded as in a file.

    For example:

        from entity_circuits import circuits, models, path_patching

        found = path_patching.discover(models.load("qwen2.5-coder-0.5b"), n=7)
        print(circuits.finding(found, command="python mine.py").circuit.groups)
    """
    about = {**discovery.circuit.about, "command": command, "code": results.code(path_patching.__name__)}
    ranked: Statistic = about["statistic"]  # type: ignore[assignment]
    kinds: dict[Statistic, None] = dict.fromkeys(("mean", ranked))
    scores = {
        kind: {
            group: _rounded(found.statistic(kind).double().cpu().numpy()) for group, found in discovery.scores.items()
        }
        for kind in kinds
    }
    return Finding(replace(discovery.circuit, about=about), scores)


def save(discovery: Discovery | Finding, path: Path, *, command: str = "") -> Finding:
    """Write the circuit of a discovery and all its scores to a JSON file, whole or not at all, and give back both.

    Scores are rounded to six digits, or to more where heads would change their order; a head without a path has null.
    `command` is what one types to make the file again; a `Finding` (such as a pruned circuit with the scores it came
    from) brings its own. Raises `ValueError` without one, or if the parts do not fit together. `Circuit.from_json`
    reads the file, too.

        from pathlib import Path

        from entity_circuits import circuits

        circuits.save(circuits.load("arithmetic"), Path("mine.json"))
        print(circuits.load("mine.json").model)
    """
    found = discovery if isinstance(discovery, Finding) else finding(discovery, command=command)
    if not found.circuit.about.get("command"):
        raise ValueError("a circuit is stored with the command that makes it again: give `command`")
    scores = {kind: {group: _rows(table) for group, table in tables.items()} for kind, tables in found.scores.items()}
    content = {"format": FORMAT, **json.loads(found.circuit.to_json()), "scores": scores}
    text = re.sub(r"\[\n([^\[\]]*?)\n\s*\]", _on_one_line, json.dumps(content, indent=1, allow_nan=False))
    _parsed(text, path)
    sums.write(path, text + "\n")
    return found


def load(name: str | Path) -> Finding:
    """A stored circuit, checked: of the book's data by its name (`data/circuits/NAME.json`), or any file by its path.

    Raises `FileNotFoundError` that lists the names there are, and `ValueError` that says what is wrong with a file, or
    that its content is not what `SHA256SUMS` beside it lists (see `sums`).

        from entity_circuits import circuits

        one = circuits.load("qwen2.5-coder-0.5b")
        print(*one.circuit.groups["value_fetcher"], one.circuit.about["command"])
    """
    of_kind("the name of a circuit, or the path of its file", name, str, Path)
    path = Path(name)
    if not path.is_file():
        if str(name) not in (known := names()):
            raise FileNotFoundError(
                f"there is no circuit {str(name)!r}: no such file, and not one of the book's: "
                f"{', '.join(known) or 'there are none here'}.{meant(str(name), known)}"
            )
        path = folder() / f"{name}.json"
    return _parsed(sums.read(path), path)


def readable() -> Iterator[Finding]:
    """The book's circuits, one after the other; of a damaged file it is only told, in a warning, that it is left out.

    For example:

        from entity_circuits import circuits

        print([found.model for found in circuits.readable()])
    """
    for name in names():
        try:
            yield load(name)
        except (OSError, ValueError) as error:
            warnings.warn(f"the circuit {name} is left out: {error}", stacklevel=2)


def of(subject: Subject, *, n: int = 70, seed: int = 0, store: Store | None = None) -> Finding:
    """The circuit of a model: the book's own file if it was made from these very weights, else found now.

    Finding it takes minutes (`path_patching.discover` of `n` prompts); finished parts are kept in `store`.

        from entity_circuits import circuits, models

        found = circuits.of(models.load("qwen2.5-coder-0.5b"), n=7)
        print(*found.rankings()["value_fetcher"][:5])
    """
    n, seed = integer("n", n), integer("seed", seed, least=None)
    for stored in readable():
        if stored.circuit.about["fingerprint"] == subject.fingerprint:
            return stored
    command = f"entity-circuits discover {subject.name} --n {n} --seed {seed}"
    return finding(path_patching.discover(subject, n=n, seed=seed, store=store), command=command)


def folder() -> Path:
    """Where the book's circuits are stored, one file a model. `FileNotFoundError` where there is no checkout.

    For example:

        from entity_circuits import circuits

        print(sorted(file.name for file in circuits.folder().iterdir()))
    """
    return places.ROOT / "data" / "circuits"


def names() -> list[str]:
    """The names of the book's circuits, sorted: what `load` takes. None where the package is without its checkout.

    For example:

        from entity_circuits import circuits

        print(circuits.names())
    """
    return sorted(path.stem for path in folder().glob("*.json")) if places.checkout() else []


def _parsed(text: str, path: Path) -> Finding:
    """A finding from the text of its file; a `ValueError` names the file and what is wrong with it."""
    try:
        content = from_json(text)
        if type(content.get("format")) is not int or content["format"] != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r}, not {FORMAT}")
        circuit = Circuit.from_json(text)
        for name, kind in KNOWN.items():
            said = circuit.about.get(name)
            if type(said) is not kind or said == "":
                raise ValueError(f"`about` must say {name!r}, as {kind.__name__}, not {said!r}")
        integer("n", circuit.about["n"])
        scores = {
            kind: {group: _table(tables[group]) for group in dict.fromkeys((*circuit.groups, *tables))}
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


def _table(rows: list[list[float | None]]) -> np.ndarray:
    """A table of scores: numbers, and null for none."""
    if bad := [x for row in rows for x in row if type(x) not in (int, float, type(None))]:
        raise ValueError(f"a score is a number, or null for a head without a path, not {bad[0]!r}")
    return np.array(rows, dtype=float)


def _check(found: Finding) -> None:
    """Shapes, groups and heads that fit together, or a `ValueError`."""
    known = {*found.circuit.groups, *found.circuit.positions, *heads.GROUPS}
    for tables in found.scores.values():
        each_of("group that the circuit has or has a position for", tables, known)
    each_of("group with scores", found.circuit.positions, found.scores[found.statistic])
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
        ranked = [found.scores[found.statistic][group][head.layer, head.head] for head in members]
        if none := [str(head) for head, score in zip(members, ranked, strict=True) if math.isnan(score)]:
            raise ValueError(f"{group} has {none[0]}, which has no score")


def _rows(table: np.ndarray) -> list[list[float | None]]:
    return [[None if math.isnan(x) else float(x) + 0.0 for x in row] for row in _rounded(table)]


def _rounded(table: np.ndarray) -> np.ndarray:
    """A table of scores to six digits, or to as many more as it takes to leave its heads in their order."""
    order, rounded = np.argsort(table, axis=None, kind="stable"), table.round(DIGITS)
    for digits in range(DIGITS + 1, 18):
        if np.array_equal(np.argsort(rounded, axis=None, kind="stable"), order):
            break
        rounded = table.round(digits)
    return rounded


def _on_one_line(match: re.Match[str]) -> str:
    return "[" + " ".join(line.strip() for line in match[1].splitlines()) + "]"

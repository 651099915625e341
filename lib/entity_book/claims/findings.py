"""Findings: the few numbers of a chapter that other pages quote, with their intervals, handed over by name.

A chapter calls `keep`. What it kept is stored in its executed copy, beside the digest of all that the chapter was made
from, so that the numbers of a chapter that changed are never taken for current ones. Before a chapter with a cell
tagged `reads-findings` is executed, `book` gathers the findings of all others into one file, which `load` reads.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from entity_circuits import places, statistics
from entity_circuits.arguments import finite, integer
from entity_circuits.statistics import Estimate

MIME = "application/vnd.entity-circuits.finding+json"
"""The media type by which a finding leaves a chapter; it is taken out of the page."""

TAG = "reads-findings"
"""The tag of a cell that calls `load`: by it a chapter is known to rest on the findings of the others."""

VARIABLE = "ENTITY_CIRCUITS_FINDINGS"
"""Tells an executed chapter the file to read; empty for a chapter that did not say that it reads."""

_KEY = re.compile(r"[A-Za-z0-9][\w.+-]*(?:/[\w.+-]+)*")


@dataclass(frozen=True)
class Reported:
    """A number that a chapter reports, with its 95% interval and the prompts it rests on; or a short word.

    `low`, `high` and `n` are None where there are none. `unit` says what is counted ("accuracy", "difference",
    "share", "heads"), `model` which model it is about, `about` the rest in a few words. `df` are the degrees of freedom
    of an interval over a few units, such as trainings; None for one over many.
    """

    key: str
    value: float | str
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    model: str = ""
    about: str = ""
    chapter: str = ""
    df: int | None = None

    def __str__(self) -> str:
        if self.n is None or isinstance(self.value, str):
            return self.brief
        return f"{self.brief}, n = {self.n}" + (f" in each of {self.df + 1} trainings" if self.df else "")

    @property
    def brief(self) -> str:
        """The number with its interval, without its n; a difference with its sign."""
        if isinstance(self.value, str):
            return self.value
        if float(self.value).is_integer() and self.low is None and self.unit not in ("accuracy", "difference", "share"):
            return f"{self.value:.0f}"
        sign = "+" if self.unit == "difference" else ""
        return statistics.spoken(self.value, self.low, self.high, f"{sign}.2f")


@dataclass(frozen=True)
class Gathered:
    """The findings of one book: by key, the chapters whose findings are `missing`, and the parameters of the run."""

    reported: dict[str, Reported] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        rows = {key: _row(one) for key, one in sorted(self.reported.items())}
        content = {"missing": list(self.missing), "parameters": self.parameters, "findings": rows}
        return json.dumps(content, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Gathered":
        content = json.loads(text)
        found = {key: Reported(key, **row) for key, row in content["findings"].items()}
        return cls(found, tuple(content.get("missing", ())), dict(content.get("parameters", {})))


def keep(
    key: str,
    value: "Estimate | float | str",
    *,
    low: float | None = None,
    high: float | None = None,
    n: int | None = None,
    unit: str = "",
    model: str = "",
    about: str = "",
    df: int | None = None,
) -> None:
    """Hand a number, or a short word, to the pages that quote this chapter. Shows nothing; outside a notebook, nothing.

    An `Estimate` brings its interval and its n; a bare number may be given them. Numbers are kept to six digits, so
    that the last bits of a sum do not execute other chapters again. Raises `ValueError` for a key of another form than
    `carries/A/object`, a number that is not finite (keep nothing then: it counts as not tested), an accuracy outside
    [0, 1], half an interval or one the wrong way round, and an n below 0.

    >>> keep("accuracy/base", 0.45, low=0.41, high=0.49, n=490, unit="accuracy", model="qwen2.5-coder-0.5b")
    """
    finding = report(key, value, low=low, high=high, n=n, unit=unit, model=model, about=about, df=df)
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        display({MIME: {key: _row(finding)}}, raw=True)


def part(model: str) -> str:
    """The name of a model as a part of a key; of a folder its last name.

    >>> part("/models/my base")
    'my-base'
    """
    return re.sub(r"[^\w.+-]", "-", Path(model).name)


def report(key: str, value: "Estimate | float | str", **more: Any) -> Reported:
    """The same as a value, checked and rounded; for tests and for pages that hand over nothing."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError(f"a finding is named like carries/A/object, not {key!r}")
    if not isinstance(value, str):
        for name in ("low", "high", "n"):
            if hasattr(value, name) and more.get(name) is None:
                more[name] = getattr(value, name)
        value = _number(key, getattr(value, "value", value))
    low, high = (_bound(key, more.get(name)) for name in ("low", "high"))
    if (low is None) != (high is None):
        raise ValueError(f"finding {key}: an interval has two ends")
    if low is not None and high is not None and not low <= high:
        raise ValueError(f"finding {key}: its interval from {low} to {high} is the wrong way round")
    if not isinstance(value, str) and more.get("unit") == "accuracy":
        finite(f"finding {key}, an accuracy", value, 0, 1)
    n = None if more.get("n") is None else integer(f"n of finding {key}", more["n"], least=0)
    more |= {"low": low, "high": high, "n": n}
    if more.get("df") is not None:
        integer(f"df of finding {key}", more["df"], least=1)
    if Path(more.get("model", "")).is_absolute():  # a folder of one machine says nothing to a reader of the page
        more["model"] = Path(more["model"]).name
    return Reported(key, value, **more)


def load(path: Path | None = None) -> dict[str, Reported]:
    """The findings of the other chapters by key, as they were when this chapter was last executed by `book`.

    Empty before the first. Raises `RuntimeError` in a chapter that is being executed and has no cell tagged
    `reads-findings`: it would not be executed again when a finding changes.

    >>> sorted(load(Path("nowhere.json")))
    []
    """
    return gathered(path).reported


def gathered(path: Path | None = None) -> Gathered:
    """The same, with what is missing. Raises `ValueError` for a file of another form."""
    if path is None:
        told = os.environ.get(VARIABLE)
        if told == "":
            raise RuntimeError(f"a chapter that reads findings says so: give this cell the tag `{TAG}`")
        path = file(places.ROOT) if told is None else Path(told)
    if not path.is_file():
        return Gathered()
    try:
        return Gathered.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path.name} does not hold findings: {error}") from error


def file(root: Path) -> Path:
    """Where the gathered findings of a checkout are."""
    return root / "build" / "executed" / "findings.json"


def gather(kept: Mapping[str, Mapping[str, Any]], missing: Iterable[str], parameters: Mapping[str, Any]) -> Gathered:
    """The findings of chapters, {chapter: {key: row}}, as one. Raises `ValueError` if two chapters keep one key."""
    found: dict[str, Reported] = {}
    for chapter, rows in kept.items():
        for key, row in rows.items():
            if key in found:
                raise ValueError(f"two chapters keep the finding {key!r}: {found[key].chapter} and {chapter}")
            found[key] = replace(Reported(key, **row), chapter=chapter)
    return Gathered(found, tuple(missing), dict(parameters))


def outside(new: Mapping[str, Reported], old: Mapping[str, Reported]) -> list[str]:
    """In which findings `new` lies outside the intervals of `old`, a line each; findings of only one side are named.

    A number without an interval, or a word, is told if it is another one.
    """
    lines = [f"{key}: there is no such finding any more" for key in old if key not in new]
    lines += [f"{key}: new, {one}" for key, one in new.items() if key not in old]
    for key in [key for key in old if key in new]:
        was, now = old[key], new[key]
        if isinstance(was.value, str) or isinstance(now.value, str) or was.low is None or was.high is None:
            if was.value != now.value:
                lines.append(f"{key}: {now}, was {was}")
            continue
        distance = max(was.low - now.value, now.value - was.high)
        if distance > 0:
            half = (was.high - was.low) / 2
            times = f", {distance / half:.1f} times half its width" if half else ""
            lines.append(f"{key}: {now.value:.3f} is {distance:.3f} outside of {was}{times}")
    return lines


def _row(one: Reported) -> dict[str, Any]:
    return {name: value for name, value in asdict(one).items() if name != "key" and value not in (None, "")}


def _number(key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"finding {key} is {value!r}, which is no number") from error
    if not math.isfinite(number):
        raise ValueError(f"finding {key} is {number}: keep only what there is")
    return float(f"{number:.6g}")


def _bound(key: str, value: Any) -> float | None:
    """An end of an interval; NaN, as an estimate from a single context has it, is none."""
    return None if value is None or value != value else _number(key, value)

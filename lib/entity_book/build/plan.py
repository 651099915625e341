"""What would be executed now: the chapters as they are written, the parameters each takes, and why any is due."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from entity_circuits.spelling import meant

from ..claims import findings
from . import due, executed, inputs, kept, notebooks, presets, sources
from .lock import BookError


@dataclass(frozen=True)
class Plan:
    """All chapters as they would be executed now: text, own parameters, those given, and the modules of each.

    `shared` is what every one rests on: files that may be read, and pinned versions; `readers` read findings.
    """

    root: Path
    sources: dict[str, str]
    defaults: dict[str, dict[str, Any]]
    given: dict[str, dict[str, Any]]
    modules: dict[str, dict[str, str]]
    shared: dict[str, dict[str, str]]
    readers: tuple[str, ...]

    def record(self, name: str, found: str = "") -> dict[str, Any]:
        """What the executed copy of a chapter will carry, if it is made now, from these findings if it reads any."""
        made = {"source": notebooks.digest(self.sources[name]), "parameters": self.given[name], **self.shared}
        made["modules"] = self.modules[name]
        return made | ({"read": notebooks.digest(found)} if name in self.readers else {})

    def reasons(self, name: str, found: str = "") -> list[str]:
        """Why a chapter would have to be executed; nothing if its executed copy is a current one."""
        if (done := executed.record(self.root, name)) or not executed.path(self.root, name).exists():
            return self._apart(name, done, found)
        return ["its executed copy was altered or damaged"]

    def kept(self, name: str, found: str = "") -> str:
        """The text of a good copy with these parameters that was put aside; empty if there is none."""
        return kept.find(self.root, name, self.record(name, found), lambda made: not self._apart(name, made, found))

    def gathered(self) -> findings.Gathered:
        """The findings of all chapters whose executed copies are current. Raises `BookError` if two keep one key."""
        rows, missing = {}, []
        for name in (name for name in self.sources if name not in self.readers):
            if self.reasons(name):
                missing.append(name)
            else:
                rows[name] = executed.record(self.root, name).get("findings", {})
        parameters = {key: value for given in self.given.values() for key, value in given.items()}
        try:
            return findings.gather(rows, missing, parameters)
        except ValueError as error:
            raise BookError(str(error)) from None

    def behind(self, name: str) -> list[str]:
        """What has changed since a chapter was executed, apart from the parameters and findings that it then had."""
        made = executed.record(self.root, name)
        now = {part: of for part, of in self.record(name).items() if part in ("parameters", "read")}
        return self._apart(name, {**made, **now}) if made else []

    def usual(self, name: str) -> bool:
        """Whether a chapter runs with its own parameters, given or not."""
        return all(self.defaults[name][key] == value for key, value in self.given[name].items())

    def code(self, name: str) -> frozenset[str]:
        """The files of the modules that a chapter runs."""
        files = (sources.file(self.root, module) for module in self.modules[name])
        return frozenset(inputs.named(self.root, file) for file in files if file)

    def _apart(self, name: str, made: Mapping[str, Any], found: str = "") -> list[str]:
        """Why a copy with this record is not the one that would be made; a file that is no usual input as it is now."""
        now = self.record(name, found)
        now["files"] = inputs.with_others(self.root, now["files"], made.get("files", {}))
        return due.reasons(made, now, self.defaults[name])


def chapters(root: Path) -> list[str]:
    """The chapters of `_toc.yml`, in order, by name. Raises `BookError` if one of them has no notebook."""
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in contents.get("parts", [contents]) for entry in part.get("chapters", [])]
    names = [file.removeprefix("chapters/") for file in files if file.startswith("chapters/")]
    if missing := [name for name in names if not source(root, name).is_file()]:
        raise BookError(f"_toc.yml lists chapters that do not exist: {', '.join(missing)}")
    return names


def summing_up(root: Path) -> list[str]:
    """The chapters of the table of contents that read the findings of the others."""
    return [name for name in chapters(root) if notebooks.reads_findings(source(root, name))]


def make(
    root: Path, names: list[str], parameters: Mapping[str, Any], pair: tuple[str, str] | None, preset: str = ""
) -> Plan:
    """Everything that is decided before anything runs. Parameters have to fit the chapters to be executed, `names`.

    Those of a `preset` are for one chapter each, and give way to `parameters`, which are for all that declare them.
    """
    known = chapters(root)
    declared = {name: notebooks.parameters(source(root, name)) for name in known}
    _fit({name: declared[name] for name in names}, parameters, pair)
    small = presets.named(root, preset) if preset else {}
    for name, table in small.items():
        if name not in declared:
            raise BookError(f"the preset {preset!r} is for {name!r}, which is no chapter")
        _fit({name: declared[name]}, table, None)
    given = {}
    for name, table in declared.items():
        given[name] = small.get(name, {}) | {key: parameters[key] for key in table if key in parameters}
        if pair:
            finetuned = [pair[1]] if isinstance(table.get("finetuned"), list) else pair[1]
            both = {"model": pair[0], "base": pair[0], "finetuned": finetuned}
            given[name] |= {key: both[key] for key in table if key in both}
    texts = {name: notebooks.plain(source(root, name).read_text(encoding="utf-8")) for name in known}
    modules = {name: sources.modules(root, notebooks.code(text)) for name, text in texts.items()}
    shared = {"files": inputs.readable(root), "pins": inputs.pins(root)}
    return Plan(root, texts, declared, given, modules, shared, tuple(summing_up(root)))


def chosen(known: list[str], only: Sequence[str] | None) -> list[str]:
    """The chapters that are meant by names or their beginnings, all for None. Raises `BookError` for an unknown one."""
    if only is None:
        return known
    found = []
    for wanted in only:
        if not wanted or not (
            hits := [name for name in known if name == wanted] or [n for n in known if n.startswith(wanted)]
        ):
            raise BookError(f"there is no chapter {wanted!r}.{meant(wanted, known)} There are {', '.join(known)}")
        found += hits
    return [name for name in known if name in found]


def source(root: Path, name: str) -> Path:
    """Where the notebook of a chapter lies."""
    return root / "chapters" / f"{name}.ipynb"


def _fit(declared: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any], pair: tuple[str, str] | None) -> None:
    """Raises `BookError` for a parameter that no chapter declares, of a wrong type, or given twice."""
    known = sorted({parameter for table in declared.values() for parameter in table})
    if pair and not {"base", "model", "finetuned"} & set(known):
        raise BookError("no chapter here takes a pair of models")
    if pair and (twice := [name for name in ("base", "model", "finetuned") if name in given]):
        raise BookError(f"`{twice[0]}` is given twice: by a pair of models and as a parameter")
    for parameter, value in given.items():
        if parameter not in known:
            there = f"There are {', '.join(known) or 'none'}"
            raise BookError(f"no chapter has a parameter {parameter!r}.{meant(parameter, known)} {there}")
        for name, table in declared.items():
            default = table.get(parameter, value)
            if not _alike(default, value):
                wanted = f"of type {type(default).__name__} like its default {default!r}"
                raise BookError(f"{name}: parameter {parameter!r} has to be {wanted}, not {value!r}")


def _alike(default: Any, value: Any) -> bool:
    """Whether a value is of the type of a default; a default of None takes any, a list is held against its first."""
    if isinstance(default, list | tuple) and isinstance(value, list):
        return all(_alike(default[0], one) for one in value) if default else True
    number = isinstance(default, float) and type(value) is int
    finite = not isinstance(value, float) or math.isfinite(value)
    return finite and (default is None or type(default) is type(value) or number)

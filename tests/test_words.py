"""A `Literal` is checked at run time: every public function and dataclass of both packages refuses another word."""

import importlib
import inspect
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import tiny
import torch
from entity_book.training.finetune import Recipe
from entity_circuits import boxes, cmap, desiderata, heads, places, runs, values
from entity_circuits.arguments import each_of, finite, integer, one_of
from entity_circuits.heads import Head

LIB = places.ROOT / "lib"
WRONG = "nonsense"


@pytest.fixture(scope="module")
def reader():
    return tiny.subject()


def modules() -> Iterator[types.ModuleType]:
    files = [path for package in ("entity_circuits", "entity_book") for path in (LIB / package).rglob("*.py")]
    for path in sorted(files):
        if path.name not in ("__init__.py", "__main__.py"):
            yield importlib.import_module(".".join(path.relative_to(LIB).with_suffix("").parts))


def public() -> Iterator[tuple[str, Any]]:
    """Functions, dataclasses and methods with their names."""
    for module in modules():
        for own, thing in vars(module).items():
            if own.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(thing) or (inspect.isclass(thing) and is_dataclass(thing)):
                yield f"{module.__name__}.{own}", thing
            for inner, member in vars(thing).items() if inspect.isclass(thing) else ():
                if not inner.startswith("_") and inspect.isfunction(member):
                    yield f"{module.__name__}.{own}.{inner}", member


def words(kind: Any) -> list[str]:
    """The words of a `Literal`, wherever it stands in a type; none of what a function would take."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    parts = [] if "Callable" in str(get_origin(kind)) else get_args(kind)
    return [word for part in parts if not isinstance(part, str | list) for word in words(part)]


def made(kind: Any, word: str) -> Any:
    """A value of this type with that word in it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return word
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {made(parts[0], word): made(parts[1], word)}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if parts and parts[-1] is not Ellipsis and len(parts) > 1:
            return tuple(made(part, word) for part in parts)
        return (made(parts[0], word),)
    several = [part for part in parts if words(part)]
    return made(several[0], word) if several else None


def told(thing: Any) -> dict[str, tuple[Any, list[str]]]:
    """The parameters that take one of a few words: their types and these words."""
    found = {}
    for name, parameter in inspect.signature(thing).parameters.items():
        kind = parameter.annotation
        if isinstance(kind, str):
            try:
                kind = eval(kind, vars(importlib.import_module(thing.__module__)))
            except NameError:  # imported for the checker of types alone
                continue
        if kind is not inspect.Parameter.empty and (known := words(kind)):
            found[name] = (kind, known)
    return found


CASES = [(name, thing, which) for name, thing in public() for which in told(thing)]


def test_there_are_such_parameters_in_both_packages():
    assert len(CASES) > 60
    assert {name.partition(".")[0] for name, _, _ in CASES} == {"entity_circuits", "entity_book"}


@pytest.mark.parametrize(("thing", "which"), [case[1:] for case in CASES], ids=[f"{n}({w})" for n, _, w in CASES])
def test_a_wrong_word_is_refused_before_anything_else_is_looked_at(thing, which):
    """All that is not a word is nothing at all: so the word is looked at first."""
    known = told(thing)
    given: dict[str, Any] = {}
    rest: tuple[Any, ...] = ()
    for name, parameter in inspect.signature(thing).parameters.items():
        value = made(known[name][0], WRONG if name == which else known[name][1][0]) if name in known else None
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            rest = (value,) if name in known else ()
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD and (
            name in known or parameter.default is parameter.empty
        ):
            given[name] = value
    call = (lambda: thing(*given.values(), *rest)) if rest else (lambda: thing(**given))
    with pytest.raises(ValueError, match=f"'{WRONG}'") as refused:
        call()
    assert repr(known[which][1][0]) in str(refused.value)


SWITCHES = [
    (name, thing, which)
    for name, thing in public()
    if inspect.isfunction(thing) and name.startswith("entity_circuits.")
    for which, parameter in inspect.signature(thing).parameters.items()
    if parameter.annotation is bool
]


@pytest.mark.parametrize(("thing", "which"), [case[1:] for case in SWITCHES], ids=[f"{n}({w})" for n, _, w in SWITCHES])
@pytest.mark.parametrize("wrong", ["no", 0, None])
def test_a_switch_of_the_engine_is_true_or_false_and_nothing_that_counts_as_either(thing, which, wrong):
    """All else is nothing at all, or a word that it takes: so the switch is looked at first."""
    given: dict[str, Any] = {which: wrong}
    for name, parameter in inspect.signature(thing).parameters.items():
        if name != which and parameter.default is parameter.empty:
            given[name] = None
    with pytest.raises(ValueError, match=f"{which}={wrong!r}: it has to be True or False"):
        next(thing(**given)) if inspect.isgeneratorfunction(thing) else thing(**given)


def test_there_are_switches():
    assert len(SWITCHES) > 15


def test_a_word_that_is_nearly_one_is_guessed():
    with pytest.raises(ValueError, match=r"no reach called 'Query': one of 'all', .* Did you mean 'query'\?"):
        one_of("reach", "Query", Literal["all", "query"] | None)
    one_of("reach", None, Literal["all"] | None)
    each_of("template", ["object_first"], boxes.TEMPLATES)
    with pytest.raises(ValueError, match="called 3: one of 'all'"):
        one_of("reach", 3, Literal["all"])


@pytest.mark.parametrize("given", [True, 1.0, "1", None, [1], np.array([1, 2]), np.bool_(True)])
def test_only_whole_numbers_are_whole(given):
    with pytest.raises(ValueError, match=r"batch=.*whole number"):
        integer("batch", given)


@pytest.mark.parametrize("given", [float("nan"), float("inf"), "1", None, True, [1, 2], -0.1, 1.1])
def test_a_share_is_a_finite_number_from_0_to_1(given):
    with pytest.raises(ValueError, match=r"share=.*a finite number, at least 0, at most 1"):
        finite("share", given, 0, 1)


def test_numbers_of_numpy_are_numbers(reader):
    """As heads, layers, seeds, n and k; and a stored result is found again by either."""
    one, three = np.int64(1), np.int32(3)
    assert Head(one, three) == Head(1, 3) and str(Head(one, three)) == "L1H3"
    assert heads.every(one, three) == heads.every(1, 3)
    assert boxes.prompts(reader, np.int64(6), three, one).digest == boxes.prompts(reader, 6, 3, 1).digest
    base = boxes.prompts(reader, 6, 3)
    assert boxes.noise(reader, base, one).digest == boxes.noise(reader, base, 1).digest
    assert torch.equal(base.random_keys(reader.tokenizer, one), base.random_keys(reader.tokenizer, 1))
    t = desiderata.triples(reader, "label", three, three, one)
    assert t.digest == desiderata.triples(reader, "label", 3, 3, 1).digest
    condition = cmap.Condition("A", {"last": [Head(1, 3)]})
    assert cmap.random_heads(reader, condition, one, three) == cmap.random_heads(reader, condition, 1, 3)
    edit = runs.Edit("z", one, [three], base.last, torch.zeros(6, 1, 8))
    assert (edit.layer, edit.heads) == (1, (3,)) and type(edit.heads[0]) is type(edit.layer) is int
    assert type(Recipe("code", seed=one, steps=three).steps) is int
    plain = values.plain({"k": 3, "share": 0.5, "log": True, "heads": [Head(1, 3)]})
    theirs = {"k": three, "share": np.float64(0.5), "log": np.bool_(True), "heads": [Head(one, three)]}
    assert values.plain(theirs) == plain and json.dumps(values.plain(theirs)) == json.dumps(plain)


def test_a_mask_of_prompts_is_a_mask(reader):
    base = boxes.prompts(reader, 6, 3)
    mask = torch.tensor([False, True, False, False, True, True])
    for given in (mask, mask.tolist(), mask.numpy()):
        assert torch.equal(base.select(given).input_ids, base.input_ids[[1, 4, 5]])
        assert base.select(given).queries == tuple(base.queries[row] for row in (1, 4, 5))
    assert torch.equal(base.select(np.array([5, 0])).input_ids, base.input_ids[[5, 0]])
    t = desiderata.triples(reader, n=6, boxes=3)
    assert torch.equal(t.select(mask).targets, t.targets[mask])
